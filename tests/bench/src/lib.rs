//! Figures of the TCP engine and of whole machines against their peers: `cargo godwit bench [NAME…] --json FILE`.
//!
//! Every row is a function from [`Effort`] to one or more [`row::Row`]s. Where there is a peer, both
//! sides run in turns in the same run, and the median of each counts.

pub mod bulk;
pub mod lossy;
pub mod path;
pub mod row;
pub mod scale;
pub mod tap;
pub mod transfer;
pub mod vm;

use anyhow::Result;
use row::Row;

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Effort {
    /// Runs of each side.
    pub runs: usize,
    /// Just run through.
    pub short: bool,
    /// Leave the peers out.
    pub alone: bool,
    /// Give the peer of whole machines a configuration for speed, not the distribution's.
    pub tuned: bool,
}

/// How a row is measured.
pub type Measure = fn(&Effort) -> Result<Vec<Row>>;

/// Every row there is.
pub const ROWS: &[(&str, Measure)] = &[
    ("tcp/bulk/mtu1500", bulk::mtu1500),
    ("tcp/bulk/64k", bulk::frames64k),
    ("tcp/tap/bulk", tap::bulk),
    ("tcp/tap/bulk/plain", tap::plain),
    ("tcp/tap/http", tap::http),
    ("tcp/lossy", lossy::rows),
    ("tcp/path/clean", path::full),
    ("tcp/path/loss", path::loss),
    ("tcp/path/fairness", path::fairness),
    ("tcp/path/reorder", path::reorder),
    ("tcp/idle/bytes", scale::idle_bytes),
    ("tcp/demux/1m", scale::demux),
    ("tcp/accept/rate", scale::accept_rate),
    ("transfer/idle", transfer::idle),
    ("transfer/64k", transfer::queued),
    ("transfer/capsule/bytes", transfer::capsule),
    ("transfer/drain/rate", transfer::drain),
    ("transfer/drain/hosted", transfer::drain_hosted),
    ("transfer/goodput/1000hz", transfer::goodput),
    ("vm/boot/http", vm::http),
    ("vm/boot/guest", vm::guest),
    ("vm/http/keepalive64", vm::keepalive),
    ("vm/http/latency1", vm::latency),
    ("vm/http/close16", vm::close),
    ("vm/bulk", vm::bulk),
    ("vm/image/bytes", vm::image),
    ("vm/ram/least", vm::ram),
];
