//! What handing over a connection costs: export, capsule, seal, open, import; against the Linux
//! kernel's TCP, which describes and restores one through TCP_REPAIR.
//!
//! Both sides go from a live connection, with or without octets queued for a peer that
//! does not take them, to a live connection in the same place. Ours begins where the session is
//! frozen and ends where its next owner could speak. The kernel's needs no seal, so the rows with
//! the AEAD have our whole channel in them and the peer nothing of the kind. What is queued goes ahead of
//! the freeze there, as it does between instances, and is not counted.

pub mod crowd;
mod drain;
mod goodput;
mod herd;
mod hosted;
mod ours;
mod pair;
mod repair;

use anyhow::Result;

use crate::Effort;
use crate::row::{Better, Row, Samples, Turns};
pub use drain::drain;
pub use goodput::goodput;
pub use hosted::drain_row as drain_hosted;
use ours::{Ours, Way};
use repair::Repair;

/// Octets queued in the rows that have some.
const QUEUED: usize = 64 * 1024;
/// Promised: octets of an idle capsule on the wire.
const IDLE_OCTETS: usize = 256;

/// An idle connection, without and with the AEAD.
pub fn idle(effort: &Effort) -> Result<Vec<Row>> {
    rows("transfer/idle", 0, [10.0, 5.0], effort)
}

/// A connection with 64 KiB queued.
pub fn queued(effort: &Effort) -> Result<Vec<Row>> {
    rows("transfer/64k", QUEUED, [10.0, 1.0], effort)
}

fn rows(name: &str, queued: usize, floors: [f64; 2], effort: &Effort) -> Result<Vec<Row>> {
    let rounds = match (effort.short, queued) {
        (true, _) => 20,
        (false, 0) => 5_000,
        (false, _) => 1_000,
    };
    let mut ours = Ours::new(queued)?;
    let mut repair = Repair::new(queued)?;
    let (mut plain, mut sealed) = (Turns::default(), Turns::default());
    let mut at_once = Samples::default();
    for _ in 0..effort.runs {
        let theirs = repair.cost(rounds)?;
        plain.theirs.push(theirs);
        sealed.theirs.push(theirs);
        plain.ours.push(ours.cost(rounds, Way::Plain)?);
        sealed.ours.push(ours.cost(rounds, Way::Ahead)?);
        at_once.push(ours.cost(rounds, Way::Sealed)?);
    }
    let row = |kind: &str, turns, floor| {
        let name = format!("{name}/{kind}");
        Row::compared(&name, "Linux TCP_REPAIR", "us", Better::Lower, turns, floor)
    };
    let mut aead = row("aead", &sealed, floors[1]);
    if queued > 0 {
        aead.note += &format!("; with nothing sent ahead {:.1} us", at_once.median());
    }
    Ok(vec![row("plain", &plain, floors[0]), aead])
}

/// Octets of an idle session's capsule as the channel puts it on the wire.
pub fn capsule(_: &Effort) -> Result<Vec<Row>> {
    let mut samples = Samples::default();
    samples.push(Ours::new(0)?.wire_octets()? as f64);
    let mut row = Row::alone("transfer/capsule/bytes", "octets", Better::Lower, &samples);
    row.note = format!("promised: at most {IDLE_OCTETS}");
    Ok(vec![row])
}
