//! Write a service whose connections can move: Service, Session, the drive loop, the node agent.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod config;
pub mod platform;
mod verdict;

pub use config::{Config, ConfigError};
pub use platform::Platform;
pub use verdict::{Code, Verdict};
