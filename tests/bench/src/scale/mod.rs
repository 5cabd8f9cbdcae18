//! Many connections: what an idle one costs, what the others cost a segment, how fast new ones come.

pub(crate) mod clients;

use std::time::Instant;

use anyhow::{Context, Result};

use crate::Effort;
use crate::row::{Better, Row, Samples, Turns};
use clients::Crowd;

/// Connections of the large crowd.
const MANY: usize = 1_000_000;
/// Connections that are busy.
const FEW: usize = 1_000;
/// Frames handed over in one go.
const BATCH: usize = 32;
/// Octets of each segment.
const OCTETS: usize = 64;

fn many(effort: &Effort) -> usize {
    if effort.short { 20_000 } else { MANY }
}

/// Octets of resident memory of this process.
pub(crate) fn resident() -> Result<usize> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib: usize = kib.context("no VmRSS")?.trim().parse()?;
    Ok(kib * 1024)
}

/// Resident memory that an idle established connection takes, tables included.
pub fn idle_bytes(effort: &Effort) -> Result<Vec<Row>> {
    let count = many(effort);
    let mut crowd = Crowd::new();
    let before = resident()?;
    crowd.grow(count - 1);
    // What the clients remember is not the server's.
    let clients = 16 * count;
    let octets = resident()?.saturating_sub(before + clients);
    let mut samples = Samples::default();
    samples.push(octets as f64 / count as f64);
    let mut row = Row::alone("tcp/idle/bytes", "octets", Better::Lower, &samples);
    row.note = format!(
        "{count} connections in {} MiB; promised: at most 1073 octets each",
        octets >> 20
    );
    Ok(vec![row])
}

/// Handshakes per second, from the SYN to the accepted connection.
pub fn accept_rate(effort: &Effort) -> Result<Vec<Row>> {
    let count = if effort.short { 5_000 } else { 100_000 };
    let mut samples = Samples::default();
    for _ in 0..effort.runs {
        let mut crowd = Crowd::new();
        let start = Instant::now();
        crowd.grow(count);
        samples.push(count as f64 / start.elapsed().as_secs_f64());
    }
    let row = Row::alone("tcp/accept/rate", "conn/s", Better::Higher, &samples);
    Ok(vec![row])
}

/// What a segment costs with few connections, with few busy among many, and with many busy.
pub fn demux(effort: &Effort) -> Result<Vec<Row>> {
    let count = many(effort);
    let rounds = if effort.short { 10 } else { 2_000 };
    let mut few = Crowd::new();
    few.grow(FEW);
    let mut many = Crowd::new();
    many.grow(count);
    // Every connection has carried something before, as connections do.
    for (crowd, count) in [(&mut few, FEW), (&mut many, count)] {
        let mut next = 0;
        cost(crowd, count / BATCH, || {
            next += 1;
            next - 1
        });
    }
    let mut random = 1u64;
    let mut pick = move |below: usize| {
        random = random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (random >> 33) as usize % below
    };
    // The busy ones are spread over all.
    let busy: Vec<usize> = (0..FEW).map(|n| n * (count / FEW)).collect();
    let (mut among, mut uniform) = (Turns::default(), Turns::default());
    for _ in 0..effort.runs {
        let alone = cost(&mut few, rounds, || pick(FEW));
        among.theirs.push(alone);
        uniform.theirs.push(alone);
        among.ours.push(cost(&mut many, rounds, || busy[pick(FEW)]));
        uniform.ours.push(cost(&mut many, rounds, || pick(count)));
    }
    let peer = "1,000 connections alone";
    let row = |name, turns, floor| Row::compared(name, peer, "ns", Better::Lower, turns, floor);
    Ok(vec![
        row("tcp/demux/1m", &among, 1.0 / 1.3),
        row("tcp/demux/1m/uniform", &uniform, 1.0 / 3.0),
    ])
}

/// Nanoseconds that a segment costs the server: taken in, read by the application, acknowledged.
fn cost(crowd: &mut Crowd, rounds: usize, mut client: impl FnMut() -> usize) -> f64 {
    let mut spent = 0;
    for _ in 0..rounds {
        let batch: Vec<_> = (0..BATCH).map(|_| crowd.data(client(), OCTETS)).collect();
        let start = Instant::now();
        let now = crowd.now();
        let stack = &mut crowd.stack;
        stack.handle_frames(now, batch);
        if stack.poll_timeout().is_some_and(|due| due <= now) {
            stack.handle_timeout(now);
        }
        while let Some(event) = stack.poll_event() {
            if let godwit_netstack::stack::StackEvent::Updated(conn) = event {
                stack.update(now, conn, |connection| {
                    connection.receive_consume(now, connection.receive_available());
                });
            }
        }
        while stack.poll_transmit(now).is_some() {}
        spent += start.elapsed().as_nanos();
    }
    spent as f64 / (rounds * BATCH) as f64
}
