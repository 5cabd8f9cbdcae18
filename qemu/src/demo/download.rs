//! Scenario: curl downloads a file while its connection moves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use anyhow::{Context, Result};

use super::client::Download;
use super::lab::Lab;
use super::live::{Live, Meter};
use super::mover::Mover;
use super::report::{Evidence, ScenarioReport};

pub(super) fn run(
    lab: Lab,
    size: u64,
    moves: u32,
    expected: &Receiver<String>,
) -> Result<ScenarioReport> {
    let server = SocketAddr::new(lab.virtual_ip, 80);
    // Known before the clock starts: computing it would take the machines' time.
    let expected = expected
        .recv()
        .context("the expected digest was not computed")?;
    let meter = Arc::new(Meter::default());
    let mover = Mover::new(&lab, server, &meter);
    let live = Live::start("download", size, moves, Arc::clone(&meter));
    let begun = Instant::now();
    let curl = Download::start(&lab.network, server, &format!("/gen/{size}"), &meter)?;
    let moved = mover.run(size, moves, &|| curl.is_over());
    let received = curl.wait();
    let seconds = begun.elapsed().as_secs_f64();
    live.finish();
    let (moved, received) = match (moved, received) {
        (Ok(moved), Ok(received)) => (moved, received),
        (Err(error), Ok(_)) | (_, Err(error)) => return Err(lab.explain(&error)),
    };
    let mut evidence = Evidence {
        server,
        bytes: received.bytes,
        digest_ok: received.digest == expected && received.bytes == size,
        planned: moves,
        moved,
        seconds,
        trace: lab.trace.clone(),
        problems: Vec::new(),
    };
    evidence.problems = lab.stop();
    Ok(ScenarioReport::judge(evidence))
}
