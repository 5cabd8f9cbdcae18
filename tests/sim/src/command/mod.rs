//! The commands of `godwit sim`, one in a file.

mod common;
pub mod crowd;
pub mod steps;
pub mod storms;
pub mod swarm;
pub mod transfer;
