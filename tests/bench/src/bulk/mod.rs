//! Bulk throughput of two stacks in one process over a link in memory, on one thread.
//!
//! Both engines have the same buffers (1 MiB), the same kind of link (a queue of contiguous
//! frames in reused memory, written once by the sender or its DMA) and the same application: it
//! sends from memory it has and throws away what it gets.

pub mod link;
mod ours;
mod peer;

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::Effort;
use crate::row::{Better, Row, Turns};

/// Send and receive buffer of both engines, in octets.
const BUFFER: usize = 1 << 20;
/// What the application hands over in one go, in octets.
const PIECE: usize = 64 * 1024;
const PEER: &str = "smoltcp 0.14";

/// A link and how much of TCP's work it does.
#[derive(Clone, Copy, Debug)]
struct Wire {
    /// Octets of an IP packet.
    mtu: u16,
    /// Checksums are left to the link, on both sides.
    offload: bool,
    /// Frames on it at most. A short ring keeps what is on its way in the cache, for both.
    ring: usize,
}

/// Frames of an ordinary Ethernet, checksums in software on both sides.
pub fn mtu1500(effort: &Effort) -> Result<Vec<Row>> {
    let wire = Wire {
        mtu: 1500,
        offload: false,
        ring: 64,
    };
    row("tcp/bulk/mtu1500", wire, effort, 1.5)
}

/// Frames of 64 KiB, checksums offloaded.
pub fn frames64k(effort: &Effort) -> Result<Vec<Row>> {
    let wire = Wire {
        mtu: u16::MAX,
        offload: true,
        ring: 8,
    };
    row("tcp/bulk/64k", wire, effort, 3.0)
}

fn row(name: &str, wire: Wire, effort: &Effort, floor: f64) -> Result<Vec<Row>> {
    let (warm, measured) = match effort.short {
        true => (Duration::from_millis(10), Duration::from_millis(20)),
        false => (Duration::from_millis(100), Duration::from_millis(300)),
    };
    // Each run has new stacks and so new memory: how its pages happen to share the cache is worth
    // a quarter to either side, and would else be the same in every run.
    let turns = Turns::take(
        effort.runs,
        || {
            let mut ours = ours::Pair::new(wire);
            Ok(rate(warm, measured, || ours.turn()))
        },
        || match effort.alone {
            true => Ok(f64::NAN),
            false => {
                let mut theirs = peer::Pair::new(wire);
                Ok(rate(warm, measured, || theirs.turn()))
            }
        },
    )?;
    Ok(vec![Row::compared(
        name,
        PEER,
        "Gbit/s",
        Better::Higher,
        &turns,
        floor,
    )])
}

/// Gbit/s that `turn` moves; it returns octets.
fn rate(warm: Duration, measured: Duration, mut turn: impl FnMut() -> usize) -> f64 {
    let start = Instant::now();
    while start.elapsed() < warm {
        turn();
    }
    let start = Instant::now();
    let mut octets = 0;
    loop {
        octets += turn();
        let elapsed = start.elapsed();
        if elapsed >= measured {
            return octets as f64 * 8.0 / elapsed.as_secs_f64() / 1e9;
        }
    }
}
