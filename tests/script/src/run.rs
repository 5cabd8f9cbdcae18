//! One run of a script: its lines in order, against two stacks in virtual time. What the peer does
//! is in `peer`, what the application does in `app`.

use std::collections::VecDeque;
use std::time::Duration;

use crate::expect::differences;
use crate::script::{Action, Line, Moves, Script, SegmentSpec, When};
use crate::trace::Trace;
use crate::variant::{Failure, Moving, Role, Variant};
use crate::wire::FIN;
use crate::world::{Waiting, World};

/// How far from its time a segment may leave unless the line says otherwise.
const TOLERANCE: Duration = Duration::from_millis(1);

/// Run a script in one way.
pub fn run(script: &Script, variant: Variant) -> Result<Trace, Failure> {
    let lines = lines_for(script, variant.role);
    let lenient = variant.moving != Moving::Never && script.header.moves != Moves::Exact;
    let mut run = Run {
        world: World::new(&script.header, variant.family),
        at: Duration::ZERO,
        lenient,
        acks: VecDeque::new(),
    };
    for (index, line) in lines.iter().enumerate() {
        let result = run
            .line(line)
            .and_then(|()| run.moves(variant.moving, index));
        let result = result.and_then(|()| match run.world.fault.take() {
            Some(fault) => Err(fault),
            None => Ok(()),
        });
        if let Err(message) = result {
            return Err(run.failure(line, message));
        }
    }
    if let (Some(line), Err(message)) = (lines.last(), run.nothing_waits()) {
        return Err(run.failure(line, message + " (and the script is over)"));
    }
    Ok(run.world.trace)
}

/// The lines that a run in `role` consists of.
pub(crate) fn lines_for(script: &Script, role: Role) -> Vec<Line> {
    let pick = |line: &Line| {
        let mut line = line.clone();
        if let Action::InRole(passive, action) = line.action {
            if passive != (role == Role::Passive) {
                return None;
            }
            line.action = *action;
        }
        Some(line)
    };
    script.lines.iter().filter_map(pick).collect()
}

pub(crate) struct Run {
    pub world: World,
    /// When the line before happened.
    pub at: Duration,
    /// Times are not what this run is about.
    pub lenient: bool,
    /// Acknowledgements of `drain` on their way: when they arrive, of how much, the TSval echoed.
    pub acks: VecDeque<(Duration, i64, u32)>,
}

pub(crate) type Outcome = Result<(), String>;

impl Run {
    fn failure(&self, line: &Line, message: String) -> Failure {
        Failure {
            line: line.number,
            text: line.text.clone(),
            message,
            trace: self.world.trace.clone(),
        }
    }

    fn line(&mut self, line: &Line) -> Outcome {
        let (low, high) = match &line.when {
            When::Together => (self.at, self.at),
            When::At(range) => (*range.start(), *range.end()),
            When::After(range) => (self.at + *range.start(), self.at + *range.end()),
        };
        if high < self.at && !self.lenient {
            return Err(format!("{high:?} is over: it is {:?} already", self.at));
        }
        if let Action::Out(spec) = &line.action {
            return self.expect(line.flow, spec, low, high);
        }
        if low != high {
            return Err("only what is sent may have a tolerance".into());
        }
        if let Action::Ignore = line.action {
            self.ignore(high);
        } else if high > self.at {
            self.wait(high)?;
        }
        self.at = self.at.max(high);
        self.act(line.flow, &line.action)
    }

    fn moves(&mut self, moving: Moving, index: usize) -> Outcome {
        let due = match moving {
            Moving::Never => false,
            Moving::Everywhere => true,
            Moving::After(at) => at == index,
        };
        if due {
            let numbers: Vec<u16> = self.world.flows.keys().copied().collect();
            for number in numbers {
                if self.world.can_move(number) {
                    self.world.move_flow(number)?;
                }
            }
        }
        Ok(())
    }

    /// Let time pass in which nothing may be sent.
    fn wait(&mut self, until: Duration) -> Outcome {
        self.nothing_waits()?;
        self.world.advance(until, true);
        self.nothing_waits()
    }

    pub(crate) fn nothing_waits(&self) -> Outcome {
        match self.world.waiting.front() {
            None => Ok(()),
            Some(waiting) => Err(format!(
                "nothing was to be sent, but at {:.6} there was\n  {}",
                waiting.at.as_secs_f64(),
                self.describe(waiting)
            )),
        }
    }

    fn describe(&self, waiting: &Waiting) -> String {
        let text = self
            .world
            .flows
            .get(&waiting.flow)
            .map_or_else(String::new, |flow| {
                flow.describe(&waiting.segment, false, true)
            });
        match waiting.flow {
            1 => format!("out {text}"),
            flow => format!("out@{flow} {text}"),
        }
    }

    fn ignore(&mut self, until: Duration) {
        self.world.advance(until, false);
        self.take_all();
    }

    fn take_all(&mut self) {
        while let Some(waiting) = self.world.waiting.pop_front() {
            self.world.flow(waiting.flow).deliver(&waiting.segment);
        }
    }

    /// A segment, or a train of them, must be sent from `low` to `high`.
    fn expect(
        &mut self,
        number: u16,
        spec: &SegmentSpec,
        low: Duration,
        high: Duration,
    ) -> Outcome {
        let mut single = spec.clone();
        let step = i64::from(spec.by.unwrap_or(u32::MAX));
        let mut seq = spec.seq;
        loop {
            single.seq = seq;
            single.end = spec.end.min(seq + step);
            // PSH and FIN go with the last of a train.
            single.flags = match single.end < spec.end {
                true => spec.flags & !FIN & !crate::wire::PSH,
                false => spec.flags,
            };
            self.expect_one(number, &single, low, high)?;
            seq = single.end;
            if seq >= spec.end {
                return Ok(());
            }
        }
    }

    fn expect_one(
        &mut self,
        number: u16,
        spec: &SegmentSpec,
        low: Duration,
        high: Duration,
    ) -> Outcome {
        let mut latest = match low == high {
            true => high + TOLERANCE,
            false => high,
        };
        let mut earliest = low.saturating_sub(if low == high {
            TOLERANCE
        } else {
            Duration::ZERO
        });
        if self.lenient {
            latest = latest + (latest.saturating_sub(self.at)) * 3 + Duration::from_secs(1);
            earliest = Duration::ZERO;
        }
        self.world.advance(latest, true);
        let Some(waiting) = self.world.waiting.pop_front() else {
            return Err(format!(
                "nothing was sent until {:.6}",
                latest.as_secs_f64()
            ));
        };
        let flow = self.world.flow(waiting.flow);
        let mut wrong = differences(flow, spec, &waiting.segment);
        if waiting.flow != number {
            wrong = vec![format!("a segment of flow {}, not {number}", waiting.flow)];
        }
        if waiting.at < earliest || waiting.at > latest {
            wrong.push(format!(
                "sent at {:.6}, not at {:.6}..{:.6}",
                waiting.at.as_secs_f64(),
                earliest.as_secs_f64(),
                latest.as_secs_f64()
            ));
        }
        if wrong.is_empty() {
            if !spec.lost {
                flow.deliver(&waiting.segment);
            }
            self.at = self.at.max(waiting.at);
            return Ok(());
        }
        Err(format!(
            "{}\n  got       {}",
            wrong.join("; "),
            self.describe(&waiting)
        ))
    }

    fn act(&mut self, number: u16, action: &Action) -> Outcome {
        match action {
            Action::In(spec) => {
                self.nothing_waits()?;
                self.arrive(number, spec);
            }
            Action::Icmp { error, quote } => {
                self.nothing_waits()?;
                self.world.arrive_icmp(number, *error, *quote);
            }
            Action::Flood(count) => self.world.flood(*count),
            Action::Quiet => self.nothing_waits()?,
            Action::Ignore => self.take_all(),
            Action::Drain(drain) => self.drain(number, drain),
            Action::Listen => self.world.listen(),
            Action::Accept => self.accept(number)?,
            Action::AcceptNone => {
                if self.world.flow(number).reported {
                    return Err("a connection was accepted".into());
                }
            }
            Action::Connect => self.world.connect(number)?,
            Action::Move => {
                if self.world.flow(number).conn.is_some() && !self.world.can_move(number) {
                    return Err("a connection does not move before it is open".into());
                }
                self.world.move_flow(number)?;
            }
            Action::Check(checks) => self.check(number, checks)?,
            Action::Counter(name, test, wanted) => self.counter(name, *test, *wanted)?,
            Action::Receive(count) => self.receive(number, *count)?,
            Action::ReceiveEnd => {
                let end =
                    self.on_connection(number, |_, connection| connection.receive_at_end())?;
                if !end {
                    return Err("the end of the peer's stream was not reached".into());
                }
            }
            Action::Send(count) => self.send(number, *count)?,
            Action::Shutdown => self.on_connection(number, |now, c| c.close(now))?,
            Action::Close => self.on_connection(number, |now, c| c.release(now))?,
            Action::Abort => self.on_connection(number, |now, c| c.abort(now))?,
            Action::Set(setting) => self.set(number, setting)?,
            Action::Out(_) | Action::InRole(..) => {}
        }
        Ok(())
    }
}
