//! The services as ordinary Linux processes on a TAP device.
fn main() {}
