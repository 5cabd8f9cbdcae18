//! The services over TAP, as Linux processes, against Linux's own TCP over a veth pair.
//!
//! The client is the same Linux kernel each time. A veth pair never copies an octet, a TAP device
//! copies each of them; that is the handicap.

mod bulk;
mod http;
mod load;
mod yard;

use anyhow::Result;

use crate::Effort;
use crate::row::Row;

/// One connection that downloads.
pub fn bulk(effort: &Effort) -> Result<Vec<Row>> {
    bulk::measure(effort)
}

/// Requests over kept connections: the server's time for one, and how many a client gets answered.
pub fn http(effort: &Effort) -> Result<Vec<Row>> {
    http::measure(effort)
}
