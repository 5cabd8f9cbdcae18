//! Sans-IO TCP/IP, sessions, migration and clustering; knows nothing of hardware.
//!
//! Every public method is a getter, a command, a `handle_*(now, ..)` or a `poll_*(now)`. Time and
//! randomness are inputs: the same code runs in the kernel, hosted on Linux and in the simulator.
//!
//! [`Instance`] composes the rooms and is what a drive loop turns:
//! frames in ([`Instance::handle_frame`]), due timers ([`Instance::handle_timeout`]), events out
//! ([`Instance::poll_event`]), frames out ([`Instance::poll_transmit`]), next deadline
//! ([`Instance::poll_timeout`]).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod cluster;
pub mod counts;
pub mod instance;
pub mod map;
pub mod migrate;
mod order;
pub mod session;

pub use godwit_engine::{Duration, Instant, seq, stack, tcp, time};
pub use instance::Instance;
