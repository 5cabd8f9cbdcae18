//! The engine and the Linux kernel's TCP on one [`yard::Yard`]: two network namespaces joined by the
//! impairing switch. On our side the hosted services on a TAP device, or [`client::Client`], which
//! opens connections; on the other programs that everybody has: `curl`, `wrk`, `iperf3`, `nc`, nginx.

pub mod client;
pub mod yard;
