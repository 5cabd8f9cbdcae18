//! Scenario: somebody presses an instance's power button in the middle of a download.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::client::{Download, Received};
use super::lab::Lab;
use super::live::{Live, Meter};
use super::mover::{Moved, Mover, other};
use super::report::{Evidence, ScenarioReport, too_short};
use crate::admin::Move;
use crate::vm::Outcome;
use crate::wire::silence::MoveWindow;

/// An instance with one session has given it away long before.
const DRAIN: Duration = Duration::from_secs(30);

pub(super) fn run(mut lab: Lab, size: u64, expected: &Receiver<String>) -> Result<ScenarioReport> {
    let server = SocketAddr::new(lab.virtual_ip, 80);
    let expected = expected
        .recv()
        .context("the expected digest was not computed")?;
    let meter = Arc::new(Meter::default());
    let mover = Mover::new(&lab, server, &meter);
    let live = Live::start("drain", size, 1, Arc::clone(&meter));
    let begun = Instant::now();
    let curl = Download::start(&lab.network, server, &format!("/gen/{size}"), &meter)?;
    let drained = drain(&mut lab, &mover, &meter, &curl, size);
    let received: Result<Received> = curl.wait();
    let seconds = begun.elapsed().as_secs_f64();
    live.finish();
    let (drained, received) = match (drained, received) {
        (Ok(drained), Ok(received)) => (drained, received),
        (Err(error), Ok(_)) | (_, Err(error)) => return Err(lab.explain(&error)),
    };
    println!(
        "           instance {} powered off {:.0} ms after the button: {}",
        drained.instance,
        drained.took.as_secs_f64() * 1e3,
        drained.outcome
    );
    let mut problems = Vec::new();
    if !matches!(&drained.outcome, Outcome::Verdict(verdict) if verdict.code == 0) {
        problems.push(format!(
            "the drained instance ended with: {}",
            drained.outcome
        ));
    }
    let mut evidence = Evidence {
        server,
        bytes: received.bytes,
        digest_ok: received.digest == expected && received.bytes == size,
        planned: drained.planned,
        moved: drained.moved,
        seconds,
        trace: lab.trace.clone(),
        problems,
    };
    evidence.problems.extend(lab.stop());
    Ok(ScenarioReport::judge(evidence))
}

struct Drained {
    instance: u32,
    /// Moves that had to happen.
    planned: u32,
    took: Duration,
    outcome: Outcome,
    moved: Vec<Moved>,
}

fn drain(
    lab: &mut Lab,
    mover: &Mover,
    meter: &Meter,
    curl: &Download,
    size: u64,
) -> Result<Drained> {
    let is_over = || curl.is_over();
    let over = |before| anyhow!(too_short(&format!("the download was over before {before}")));
    let found = mover.find(&is_over)?;
    let (mut owner, mut session) =
        found.ok_or_else(|| over("its connection was found at an instance"))?;
    // The ingress stays: handing on that role is another story than giving away a session.
    let mut moved = Vec::new();
    let mut planned = 1;
    if mover.ingress()? == owner {
        planned += 1;
        meter.plan(planned);
        meter.note("away from the ingress first");
        let target = other(owner);
        let first = mover.move_once(owner, target, &session, &is_over)?;
        let first = first.ok_or_else(|| over("the connection could move"))?;
        session.epoch = first.report.epoch;
        owner = target;
        meter.moved(owner);
        moved.push(first);
    }
    while meter.bytes() < size / 4 {
        if is_over() {
            return Err(over("the button was pressed"));
        }
        thread::sleep(Duration::from_millis(2));
    }
    let heir = other(owner);
    let pressed = Instant::now();
    let begin = lab.trace.clock(pressed);
    lab.vm(owner)?.press_power_button()?;
    meter.note("power button!");
    while !mover.owns(heir, &session.id)? {
        if pressed.elapsed() > DRAIN {
            bail!("{DRAIN:?} after the power button instance {owner} still has the connection");
        }
        if is_over() {
            return Err(over("the connection moved"));
        }
        thread::sleep(Duration::from_millis(5));
    }
    let end = lab.trace.clock(Instant::now());
    meter.moved(heir);
    let outcome = lab.vm(owner)?.wait_exit(DRAIN);
    let took = pressed.elapsed();
    meter.note(&format!("instance {owner} is off"));
    let report = Move {
        session: session.id,
        to: heir,
        ..Move::default()
    };
    moved.push(Moved {
        window: MoveWindow { begin, end },
        report,
    });
    Ok(Drained {
        instance: owner,
        planned,
        took,
        outcome,
        moved,
    })
}
