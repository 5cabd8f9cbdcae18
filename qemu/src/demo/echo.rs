//! Scenario: a socket of the Linux kernel's sends a long stream and gets it back at the same
//! time, while the connection moves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};

use super::client::{PATIENCE, hash};
use super::lab::Lab;
use super::live::{Live, Meter};
use super::mover::Mover;
use super::report::{Evidence, ScenarioReport};
use crate::content::{Check, fill};
use crate::net::Network;

pub(super) fn run(
    lab: Lab,
    size: u64,
    moves: u32,
    expected: &Receiver<String>,
) -> Result<ScenarioReport> {
    let server = SocketAddr::new(lab.virtual_ip, 7);
    let expected = expected
        .recv()
        .context("the expected digest was not computed")?;
    let meter = Arc::new(Meter::default());
    let mover = Mover::new(&lab, server, &meter);
    let live = Live::start("echo", size, moves, Arc::clone(&meter));
    let begun = Instant::now();
    let client = {
        let (network, meter) = (lab.network.clone(), Arc::clone(&meter));
        thread::spawn(move || exchange(&network, server, size, &meter))
    };
    let moved = mover.run(size, moves, &|| client.is_finished());
    let echoed = client
        .join()
        .map_err(|_| anyhow!("the client's thread panicked"))?;
    let seconds = begun.elapsed().as_secs_f64();
    live.finish();
    let (moved, echoed) = match (moved, echoed) {
        (Ok(moved), Ok(echoed)) => (moved, echoed),
        (Err(error), Ok(_)) | (_, Err(error)) => return Err(lab.explain(&error)),
    };
    let mut evidence = Evidence {
        server,
        bytes: echoed.bytes(),
        digest_ok: echoed.bytes() == size && echoed.finish() == expected,
        planned: moves,
        moved,
        seconds,
        trace: lab.trace.clone(),
        problems: Vec::new(),
    };
    evidence.problems = lab.stop();
    Ok(ScenarioReport::judge(evidence))
}

/// Sends `size` bytes and closes that half; returns what came back until the other half closed.
fn exchange(network: &Network, server: SocketAddr, size: u64, meter: &Meter) -> Result<Check> {
    let mut sending = network.connect(server, PATIENCE)?;
    let receiving = sending.another()?;
    let sender = thread::spawn(move || -> Result<()> {
        let mut buffer = vec![0; 64 << 10];
        let mut offset = 0;
        while offset < size {
            let len = (size - offset).min(buffer.len() as u64) as usize;
            fill(offset, &mut buffer[..len]);
            sending
                .write_all(&buffer[..len])
                .context("the echo service takes no more")?;
            offset += len as u64;
        }
        sending.close_sending()
    });
    let check = hash(receiving, Check::default(), u64::MAX, meter)?;
    sender
        .join()
        .map_err(|_| anyhow!("the sender's thread panicked"))??;
    Ok(check)
}
