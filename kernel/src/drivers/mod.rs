//! Drivers. Each binds to what it recognises, at run time.

pub mod net;
pub mod rng;
pub mod virtio;
