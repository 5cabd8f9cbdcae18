//! The godwit command: VMs, virtual switch, demo, control, benchmarks.
fn main() {}
