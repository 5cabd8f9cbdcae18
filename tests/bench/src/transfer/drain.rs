//! How fast an instance is drained: many idle sessions and some that are in use all the time.

use std::time;

use anyhow::{Result, bail};
use godwit_netstack::Duration;

use super::pair::{Pair, cpu_time};
use crate::Effort;
use crate::row::{Better, Row, Samples};
use crate::scale::resident;

/// Promised: sessions per second of one core.
const FLOOR: f64 = 50_000.0;
/// Time between two requests of a client that is busy.
const PACE: Duration = Duration::from_millis(20);

/// Idle sessions and busy ones.
fn sessions(effort: &Effort) -> (usize, usize) {
    match effort.short {
        true => (2_000, 50),
        false => (100_000, 1_000),
    }
}

/// What one drain cost.
struct Cost {
    sessions: f64,
    /// Seconds of CPU time spent in the source and in the target until the last session had moved.
    spent: [f64; 2],
    wall: f64,
    /// Resident memory above what it was before the drain, at most.
    grown: usize,
    seen: String,
}

/// Drain one of two instances in one process.
fn once(idle: usize, busy: usize) -> Result<Cost> {
    let mut pair = Pair::new()?;
    pair.grow(idle + busy)?;
    // Clients are spread over both: begin with all of them at one.
    pair.gather(1)?;
    let now = pair.now();
    pair.herd.keep_busy(now, busy, PACE);
    pair.run_until(Duration::from_secs(10), "all busy ones are", |pair| {
        pair.herd.answers > (idle + busy * 6) as u64
    })?;
    pair.herd.longest = Duration::ZERO;
    let count = pair.nodes[0].instance.session_count();
    if count != idle + busy {
        bail!("{count} sessions are there");
    }
    let memory = resident()?;
    let (mut grown, mut turns) = (0, 0u32);
    let before = [0, 1].map(|node| pair.nodes[node].spent);
    let (start, ordered) = (time::Instant::now(), cpu_time()?);
    let now = pair.now();
    pair.nodes[0].instance.drain(now);
    pair.nodes[0].told = true;
    pair.nodes[0].spent += cpu_time()? - ordered;
    pair.run_until(
        Duration::from_secs(120),
        "all sessions have moved",
        |pair| {
            turns += 1;
            if turns.is_multiple_of(256) {
                grown = grown.max(resident().map_or(0, |now| now.saturating_sub(memory)));
            }
            pair.nodes[1].instance.session_count() == idle + busy
        },
    )?;
    let wall = start.elapsed().as_secs_f64();
    let spent = [0, 1].map(|node| pair.nodes[node].spent - before[node]);
    pair.run_until(Duration::from_secs(30), "the drain is complete", |pair| {
        pair.nodes[0].drained
    })?;
    // Busy ones go on with the new owner, behind the new ingress.
    let answers = pair.herd.answers + 10 * busy as u64;
    pair.run_until(Duration::from_secs(10), "the busy ones go on", |pair| {
        pair.herd.answers > answers
    })?;
    let herd = &pair.herd;
    if herd.resets > 0 || herd.wrong > 0 || herd.gaps > 0 {
        bail!("a client noticed: {}", herd.summary());
    }
    Ok(Cost {
        sessions: count as f64,
        spent,
        wall,
        grown,
        seen: herd.summary(),
    })
}

/// Sessions per second of the CPU time that source and target took together.
pub fn drain(effort: &Effort) -> Result<Vec<Row>> {
    let (idle, busy) = sessions(effort);
    let runs = effort.runs.min(5);
    let mut rate = Samples::default();
    let mut sides = [Samples::default(), Samples::default()];
    let (mut wall, mut grown, mut seen) = (Samples::default(), 0, String::new());
    for _ in 0..runs {
        let cost = once(idle, busy)?;
        rate.push(cost.sessions / cost.spent.iter().sum::<f64>());
        for (side, spent) in sides.iter_mut().zip(cost.spent) {
            side.push(cost.sessions / spent);
        }
        wall.push(cost.wall);
        grown = grown.max(cost.grown);
        seen = cost.seen;
    }
    let [source, target] = sides.map(|side| side.median());
    let mut row = Row::alone("transfer/drain/rate", "sessions/s", Better::Higher, &rate);
    row.note = format!(
        "{idle} idle and {busy} busy sessions (a request every {} ms each), two instances in one \
         thread, over the CPU time of both, serving included; promised: {FLOOR} a second per core; \
         the source's core alone {source:.0}, the target's {target:.0}; {:.2} s from the command to \
         the last session; memory +{} MiB at most; {seen}",
        PACE.as_millis(),
        wall.median(),
        grown >> 20,
    );
    Ok(vec![row])
}
