//! The services over TAP, as Linux processes, against Linux's own TCP over a veth pair.
//!
//! The client is the same Linux kernel each time. A veth pair never copies an octet, a TAP device
//! copies each of them; that is the handicap.

mod bulk;
mod http;
pub mod load;
pub mod yard;

use anyhow::Result;

use crate::Effort;
use crate::row::Row;

/// One connection that downloads, segmentation and checksums left to the devices.
pub fn bulk(effort: &Effort) -> Result<Vec<Row>> {
    bulk::row("tcp/tap/bulk", true, 0.5, effort)
}

/// The same with devices that do nothing of the kind.
pub fn plain(effort: &Effort) -> Result<Vec<Row>> {
    bulk::row("tcp/tap/bulk/plain", false, 0.8, effort)
}

/// Requests over kept connections: the server's time for one, and how many a client gets answered.
pub fn http(effort: &Effort) -> Result<Vec<Row>> {
    http::measure(effort)
}
