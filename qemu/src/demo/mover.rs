//! Commands the moves, evenly spread over a transfer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::lab::{Admins, INSTANCES, Lab};
use super::live::Meter;
use crate::admin::{Move, Session};
use crate::wire::SharedTrace;
use crate::wire::silence::MoveWindow;

/// How long a connection may take to show up at an instance.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a move may take, losses on the instances' own link included.
const MOVE: Duration = Duration::from_secs(20);
/// The first look at the result; later ones come at longer intervals.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LATER_LOOKS: Duration = Duration::from_millis(15);
/// How often the transfer's progress is looked at.
const TICK: Duration = Duration::from_millis(2);
/// A refused move is safe: it is commanded again this often.
const ATTEMPTS: u32 = 5;

/// A finished move.
#[derive(Clone, Debug)]
pub(super) struct Moved {
    /// When, on the trace's clock.
    pub window: MoveWindow,
    /// What the source measured.
    pub report: Move,
}

/// What moves a client's connection.
#[derive(Clone)]
pub(super) struct Mover {
    admins: Admins,
    trace: SharedTrace,
    server: SocketAddr,
    meter: Arc<Meter>,
}

impl Mover {
    /// For the connection to `server`.
    pub fn new(lab: &Lab, server: SocketAddr, meter: &Arc<Meter>) -> Self {
        Self {
            admins: lab.admins.clone(),
            trace: lab.trace.clone(),
            server,
            meter: Arc::clone(meter),
        }
    }

    /// Waits for the client's connection and finds its session; `None`: the transfer was over
    /// before.
    pub fn find(&self, is_over: &dyn Fn() -> bool) -> Result<Option<(u32, Session)>> {
        let deadline = Instant::now() + CONNECT;
        while Instant::now() < deadline {
            if is_over() {
                return Ok(None);
            }
            let client = self
                .trace
                .with(|t| t.flows_to(self.server).next().map(|f| f.client));
            if let Some(client) = client
                && let Some(found) = self.admins.find(client)?
            {
                self.meter.set_owner(found.0);
                return Ok(Some(found));
            }
            thread::sleep(TICK);
        }
        bail!("the client's connection does not show up at any instance")
    }

    /// Moves the connection `count` times while `size` bytes arrive. Fewer moves come back only
    /// if the transfer was over too early.
    pub fn run(&self, size: u64, count: u32, is_over: &dyn Fn() -> bool) -> Result<Vec<Moved>> {
        let mut moves = Vec::new();
        if count == 0 {
            return Ok(moves);
        }
        let Some((mut owner, mut session)) = self.find(is_over)? else {
            return Ok(moves);
        };
        for number in 1..=u64::from(count) {
            // The last tenth is left for those that are late on a busy host.
            let share = u128::from(number) * 9;
            let threshold = (u128::from(size) * share / (u128::from(count) * 10)) as u64;
            while self.meter.bytes() < threshold {
                if is_over() {
                    return Ok(moves);
                }
                thread::sleep(TICK);
            }
            let target = other(owner);
            let Some(moved) = self.move_once(owner, target, &session, is_over)? else {
                return Ok(moves);
            };
            session.epoch = moved.report.epoch;
            owner = target;
            moves.push(moved);
            self.meter.moved(owner);
        }
        Ok(moves)
    }

    /// Moves a session once; `None`: it ended before.
    pub fn move_once(
        &self,
        owner: u32,
        target: u32,
        session: &Session,
        is_over: &dyn Fn() -> bool,
    ) -> Result<Option<Moved>> {
        let admin = self.admins.of(owner)?;
        let mut known = session.epoch;
        for _ in 0..ATTEMPTS {
            let begin = self.trace.clock(Instant::now());
            if let Err(error) = admin.start_move(&session.id, target) {
                if is_over() {
                    return Ok(None);
                }
                return Err(error);
            }
            let Some(report) = self.wait(owner, session, known, is_over)? else {
                return Ok(None);
            };
            let end = self.trace.clock(Instant::now());
            if report.result == "accepted" {
                return Ok(Some(Moved {
                    window: MoveWindow { begin, end },
                    report,
                }));
            }
            self.meter.note(&report.result);
            known = known.max(report.epoch);
        }
        bail!(
            "instance {target} refuses session {} again and again",
            session.id
        )
    }

    /// Waits for the source's report of a move with an epoch above `known`.
    fn wait(
        &self,
        owner: u32,
        session: &Session,
        known: u64,
        is_over: &dyn Fn() -> bool,
    ) -> Result<Option<Move>> {
        let admin = self.admins.of(owner)?;
        let deadline = Instant::now() + MOVE;
        let mut pause = FIRST_LOOK;
        loop {
            thread::sleep(pause);
            pause = (pause * 2).min(LATER_LOOKS);
            let status = admin.status()?;
            let is_it = |m: &&Move| m.session == session.id && m.epoch > known;
            if let Some(report) = status.moves.iter().rev().find(is_it) {
                return Ok(Some(report.clone()));
            }
            let still_there = status.sessions.iter().any(|s| s.id == session.id);
            if !still_there && is_over() {
                return Ok(None);
            }
            if Instant::now() > deadline {
                bail!(
                    "no report of the move of session {} within {MOVE:?}",
                    session.id
                );
            }
        }
    }

    /// Which instance is the ingress.
    pub fn ingress(&self) -> Result<u32> {
        for id in INSTANCES {
            let admin = self.admins.of(id)?;
            if admin.status()?.ingress {
                return Ok(id);
            }
        }
        None.context("no instance says that it is the ingress")
    }

    /// An instance's sessions include this one.
    pub fn owns(&self, id: u32, session: &str) -> Result<bool> {
        let admin = self.admins.of(id)?;
        let status = admin.status()?;
        Ok(status.sessions.iter().any(|s| s.id == session))
    }
}

/// The other instance.
pub(super) fn other(id: u32) -> u32 {
    if id == INSTANCES[0] {
        INSTANCES[1]
    } else {
        INSTANCES[0]
    }
}
