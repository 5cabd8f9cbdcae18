//! From nothing to an answer: QEMU's start to the first HTTP response, and the guest's own part of it.

use std::time::Instant;

use anyhow::Result;

use super::peer::Config;
use super::yard::{Board, PATIENCE, Side, Yard};
use crate::Effort;
use crate::row::{Better, Row, Samples};

/// Frames that wait for a guest to come up: so few that it need not answer the SYNs of seconds.
const QUEUE: usize = 8;
/// What is demanded of the first response.
const BOARDS: [(Board, f64); 3] = [
    (Board::Microvm, 25.0),
    (Board::Qboot, 25.0),
    (Board::Q35, 15.0),
];
/// From guest entry to readiness, in milliseconds at most.
const GUEST: [(Board, f64); 2] = [(Board::Microvm, 5.0), (Board::Q35, 15.0)];

/// Milliseconds from QEMU's start to the first response.
pub fn http(effort: &Effort) -> Result<Vec<Row>> {
    let yard = Yard::new(Config::of(effort))?;
    yard.queue(QUEUE)?;
    let mut rows = Vec::new();
    for (board, floor) in BOARDS {
        let run = |side| {
            let time = first_response(&yard, side, board)?;
            eprintln!("  {} {side:?}: {time:.0} ms", board.name());
            Ok(time)
        };
        let name = format!("vm/boot/http/{}", board.name());
        rows.push(yard.row(&name, "ms", Better::Lower, floor, effort, run)?);
    }
    Ok(rows)
}

fn first_response(yard: &Yard, side: Side, board: Board) -> Result<f64> {
    let spec = yard.spec(side, board, false)?;
    let start = Instant::now();
    let mut vm = yard.start(&spec)?;
    let answered = yard.wait(&mut vm, side)?;
    Ok((answered - start).as_secs_f64() * 1e3)
}

/// Milliseconds of the guest's clock from its first instruction to the readiness line.
pub fn guest(effort: &Effort) -> Result<Vec<Row>> {
    let yard = Yard::new(None)?;
    let mut rows = Vec::new();
    for (board, limit) in GUEST {
        let mut samples = Samples::default();
        for _ in 0..effort.runs {
            let mut vm = yard.start(&yard.spec(Side::Ours, board, false)?)?;
            let (ready, _) = vm.wait_ready(PATIENCE)?;
            samples.push(ready.ready_us as f64 / 1e3);
        }
        let name = format!("vm/boot/guest/{}", board.name());
        let least = samples.least();
        rows.push(Row {
            limit: Some(limit),
            note: format!("quickest {least:.2}"),
            ..Row::alone(&name, "ms", Better::Lower, &samples)
        });
    }
    Ok(rows)
}
