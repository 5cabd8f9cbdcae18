//! Write a service whose connections can move: Service, Session, the drive loop, the node agent.
//!
//! A service implements [`Service`]: it says what the state of a session is and serves one
//! session at a time through [`Session`]. An image or a process hands it to [`run`] with a
//! [`Platform`]; the simulator turns a [`Node`] step by step. [`testing::Harness`] tests a
//! service without a network. Services are `no_std`, as they run without an operating system.
//!
//! ```
//! extern crate alloc;
//! use alloc::format;
//!
//! use godwit::{Result, Service, Session};
//! use serde::{Deserialize, Serialize};
//!
//! /// Numbers the lines its client sends. The count survives every move.
//! pub struct Numbers;
//!
//! /// Lines so far.
//! #[derive(Default, Serialize, Deserialize)]
//! pub struct Count(u64);
//!
//! impl Service for Numbers {
//!     type State = Count;
//!     const NAME: &'static str = "numbers";
//!     const PORT: u16 = 1700;
//!
//!     async fn serve(&self, session: &mut Session<Count>) -> Result<()> {
//!         let mut client = session.client();
//!         loop {
//!             let input = client.peek().await?;
//!             if input.is_empty() {
//!                 return Ok(()); // the client closed: so do we
//!             }
//!             let lines = input.iter().filter(|octet| **octet == b'\n').count() as u64;
//!             client.consume_input(input.len())?;
//!             session.state_mut().0 += lines;
//!             client.write_bytes(format!("{}\n", session.state().0).into())?;
//!             session.commit().await?;
//!         }
//!     }
//! }
//!
//! let mut harness = godwit::testing::Harness::new(Numbers);
//! harness.client_sends(b"a\nb\n");
//! harness.run();
//! harness.move_session();
//! harness.client_sends(b"c\n");
//! harness.run();
//! assert_eq!(harness.received(), b"2\n3\n");
//! ```
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod agent;
mod capture;
mod connection;

mod error;
mod executor;
pub mod http;
pub mod nics;
mod node;
pub mod platform;
mod port;
mod ready;
mod rescue;
mod service;
mod session;
mod shared;
mod sntp;
pub mod testing;
mod timers;
mod verdict;

pub use bytes::Bytes;
pub use connection::{AutoCommit, Connection};
pub use error::{Error, Result};
pub use godwit_config::{self as config, Config, ConfigError};
pub use godwit_netstack::migrate::transfer::RefuseReason;
pub use godwit_netstack::session::{ContentId, SessionError, SessionId};
pub use godwit_netstack::{Duration, Instant};
pub use node::{Node, configure, run, run_configured};
pub use platform::Platform;
pub use service::Service;
pub use session::{Session, Sleep};
pub use verdict::{Code, Verdict};
