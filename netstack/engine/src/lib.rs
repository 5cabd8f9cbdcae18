//! The part of the netstack that every frame and every segment passes through: the stack and TCP.
//!
//! A crate of its own, since it is what images build for speed; whatever else the netstack does is
//! rare and is built for size (`profile.image` in the workspace's `Cargo.toml`). Others know it as
//! modules of `godwit-netstack`.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod seq;
pub mod stack;
pub mod tcp;
pub mod time;

pub use time::{Duration, Instant};
