//! One run of a script: its lines in order, against two stacks in virtual time.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::check;
use crate::expect::differences;
use crate::flow::{self, Flow};
use crate::script::{
    Action, Check, Drain, Line, Moves, OptionSpec, Script, SegmentSpec, Setting, Value, When,
};
use crate::trace::{Trace, What};
use crate::wire::{ACK, FIN, RST, SYN, Segment, TcpOption};
use crate::world::{Waiting, World};

/// How far from its time a segment may leave unless the line says otherwise.
const TOLERANCE: Duration = Duration::from_millis(1);
/// How long the peer of `drain` waits for a second segment.
const DELAYED_ACK: Duration = Duration::from_millis(40);

/// Which IP the run is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Who opens the connections that `open` opens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The peer.
    Passive,
    /// The stack under test.
    Active,
}

/// When connections move besides where the script says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moving {
    /// Never.
    Never,
    /// After every line.
    Everywhere,
    /// Once, after the line with this index.
    After(usize),
}

/// One way to run a script.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Variant {
    /// Over which IP.
    pub family: Family,
    /// In which role.
    pub role: Role,
    /// With which moves.
    pub moving: Moving,
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        };
        let role = match self.role {
            Role::Passive => "passive",
            Role::Active => "active",
        };
        write!(f, "{family}, {role} open")?;
        match self.moving {
            Moving::Never => Ok(()),
            Moving::Everywhere => f.write_str(", a move after every line"),
            Moving::After(index) => write!(f, ", a move after event {}", index + 1),
        }
    }
}

/// Why a run failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The line, from 1.
    pub line: usize,
    /// The line as written.
    pub text: String,
    /// What was wrong.
    pub message: String,
    /// What happened up to there.
    pub trace: Trace,
}

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

struct Run {
    world: World,
    /// When the line before happened.
    at: Duration,
    /// Times are not what this run is about.
    lenient: bool,
    /// Acknowledgements of `drain` on their way: when they arrive, of how much, the TSval echoed.
    acks: VecDeque<(Duration, i64, u32)>,
}

type Outcome = Result<(), String>;

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

    fn nothing_waits(&self) -> Outcome {
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

    /// A segment or a train of them from the peer.
    fn arrive(&mut self, number: u16, spec: &SegmentSpec) {
        let flow = self.world.flow(number);
        if spec.new {
            flow.peer.isn = flow.theirs_raw(spec.seq);
            flow.isn = None;
            flow.peer.acked = 0;
            flow.peer.next = 0;
            flow.peer.beyond.clear();
            flow.peer.timestamps = false;
            flow.reported = false;
        }
        let mut single = spec.clone();
        if spec.new {
            (single.seq, single.end) = (0, spec.end - spec.seq);
        }
        let last = single.end;
        let step = i64::from(spec.by.unwrap_or(u32::MAX));
        if let Some((first, last)) = spec.ack.filter(|(first, last)| first != last) {
            let mut ack = first;
            loop {
                single.ack = Some((ack, ack));
                self.arrive_one(number, &single);
                if ack >= last {
                    return;
                }
                ack = last.min(ack + step);
            }
        }
        loop {
            single.end = last.min(single.seq + step);
            single.flags = match single.end < last {
                true => spec.flags & !FIN & !crate::wire::PSH,
                false => spec.flags,
            };
            self.arrive_one(number, &single);
            single.seq = single.end;
            if single.seq >= last {
                return;
            }
        }
    }

    fn arrive_one(&mut self, number: u16, spec: &SegmentSpec) {
        let clock = self.world.clock();
        let flow = self.world.flow(number);
        if let Some(window) = &spec.window {
            flow.peer.window = (*window.start()).min(0xffff) as u16;
        }
        if spec.flags & RST == 0
            && let (true, Some((ack, _))) = (spec.flags & ACK != 0, spec.ack)
        {
            flow.peer.acked = flow.peer.acked.max(ack);
        }
        let options = peer_options(flow, spec, clock);
        if spec.flags & SYN != 0 {
            flow.peer.timestamps |= options
                .iter()
                .any(|option| matches!(option, TcpOption::Timestamps(..)));
        }
        let stream = if spec.forged {
            flow::FORGED
        } else {
            flow::THEIRS
        };
        let syn = i64::from(spec.flags & SYN != 0);
        let len = usize::try_from(spec.end - spec.seq).unwrap_or(0);
        let segment = Segment {
            source: flow.remote.port(),
            destination: flow.local.port(),
            seq: flow.theirs_raw(spec.seq),
            ack: match spec.ack {
                Some((ack, _)) => flow.ours_raw(ack),
                None => 0,
            },
            flags: spec.flags,
            window: flow.peer.window,
            urgent: spec.urgent.unwrap_or(0),
            ecn: spec.ecn.unwrap_or(0),
            options,
            payload: flow::octets(stream, spec.seq + syn - 1, len),
        };
        self.world.arrive(number, &segment, spec.bad_checksum);
    }

    fn accept(&mut self, number: u16) -> Outcome {
        let flow = self.world.flow(number);
        match (flow.reported, flow.accepted) {
            (true, false) => {
                flow.accepted = true;
                Ok(())
            }
            (true, true) => Err("this connection was accepted before".into()),
            (false, _) => Err("there is no connection to accept".into()),
        }
    }

    /// Run a command on the flow's connection.
    fn on_connection<R>(
        &mut self,
        number: u16,
        command: impl FnOnce(godwit_netstack::Instant, &mut godwit_netstack::tcp::Connection) -> R,
    ) -> Result<R, String> {
        let now = self.world.instant();
        let flow = self.world.flow(number);
        if !flow.accepted {
            return Err("no connection was accepted or opened".into());
        }
        let (owner, conn) = (flow.owner, flow.conn.ok_or("the connection is gone")?);
        let result = self.world.stacks[owner]
            .update(now, conn, |connection| command(now, connection))
            .ok_or("the connection is gone")?;
        self.world.pump();
        Ok(result)
    }

    fn send(&mut self, number: u16, count: usize) -> Outcome {
        let from = self.world.flow(number).sent;
        let octets = flow::octets(flow::OURS, from as i64, count);
        self.world.note(What::Call, format!("send {count}"));
        let sent = self.on_connection(number, |now, connection| {
            connection.send(now, Bytes::from(octets))
        })?;
        sent.map_err(|error| format!("send failed: {error}"))?;
        self.world.flow(number).sent += count as u64;
        Ok(())
    }

    fn receive(&mut self, number: u16, count: usize) -> Outcome {
        let from = self.world.flow(number).read;
        let got = self.on_connection(number, |now, connection| {
            let mut got = Vec::new();
            while got.len() < count
                && let Some(chunk) = connection.receive_peek(got.len())
            {
                got.extend_from_slice(&chunk);
            }
            got.truncate(count);
            connection.receive_consume(now, got.len());
            got
        })?;
        if got.len() < count {
            return Err(format!("only {} octets were there to receive", got.len()));
        }
        let wanted = flow::octets(flow::THEIRS, from as i64, count);
        if let Some(place) = got
            .iter()
            .zip(&wanted)
            .position(|(got, wanted)| got != wanted)
        {
            return Err(format!(
                "the octet at place {} of the stream is wrong",
                from as usize + place
            ));
        }
        self.world.flow(number).read += count as u64;
        Ok(())
    }

    fn set(&mut self, number: u16, setting: &Setting) -> Outcome {
        self.on_connection(number, |now, connection| {
            let mut options = *connection.options();
            match setting {
                Setting::Nagle(on) => options.nagle = *on,
                Setting::AckDelay(time) => options.ack_delay = *time,
                Setting::PeerAckDelay(time) => options.peer_ack_delay = *time,
                Setting::MinRto(time) => options.min_rto = *time,
                Setting::UserTimeout(time) => options.user_timeout = *time,
                Setting::Keepalive(keepalive) => {
                    options.keepalive =
                        keepalive.map(|(idle, interval, probes)| godwit_netstack::tcp::Keepalive {
                            idle,
                            interval,
                            probes,
                        });
                }
            }
            connection.set_options(now, options);
        })
    }

    fn check(&mut self, number: u16, checks: &[Check]) -> Outcome {
        self.world.pump();
        let flow = self.world.flow(number);
        for check in checks {
            if self.lenient && check::is_estimator(&check.key) {
                continue;
            }
            check::hold(flow, check)?;
        }
        Ok(())
    }

    fn counter(&self, name: &str, test: crate::script::Test, wanted: u64) -> Outcome {
        let mut found = false;
        let mut total = 0;
        for stack in &self.world.stacks {
            for (key, value) in stack.counters() {
                if key == name {
                    found = true;
                    total += value;
                }
            }
        }
        match (found, check::compare(test, &total, &wanted, &wanted)) {
            (false, _) => Err(format!("the stack has no counter `{name}`")),
            (true, true) => Ok(()),
            (true, false) => Err(format!("the stack's counter `{name}` is {total}")),
        }
    }

    /// Be a peer that gets everything and acknowledges it.
    fn drain(&mut self, number: u16, drain: &Drain) {
        let end = self.at + drain.duration;
        // What a drain before this one has left on its way still arrives.
        let mut acks = std::mem::take(&mut self.acks);
        let peer = &self.world.flow(number).peer;
        if acks.is_empty() {
            acks.push_back((self.at + drain.delay, peer.next, peer.recent));
        }
        let mut waits: Option<(u32, Duration, u32)> = None;
        loop {
            let late = waits.map_or(end, |(_, at, _)| at);
            let next = acks.front().map_or(end, |(at, ..)| *at);
            self.world.advance(next.min(late).min(end), true);
            if self.world.fault.is_some() {
                return;
            }
            while let Some(waiting) = self.world.waiting.pop_front() {
                let flow = self.world.flow(waiting.flow);
                let before = flow.peer.next;
                flow.deliver(&waiting.segment);
                if waiting.flow != number || waiting.segment.len() == 0 {
                    continue;
                }
                let stamp = waiting.segment.timestamps().map_or(0, |(value, _)| value);
                let (count, _, first) = waits.unwrap_or((0, Duration::ZERO, stamp));
                let next = flow.peer.next;
                if count + 1 >= drain.every || next == before {
                    acks.push_back((waiting.at + drain.delay, next, first));
                    waits = None;
                } else {
                    waits = Some((count + 1, waiting.at + DELAYED_ACK, first));
                }
            }
            let clock = self.world.clock();
            if let Some((_, at, stamp)) = waits
                && at <= clock
            {
                let next = self.world.flow(number).peer.next;
                acks.push_back((clock + drain.delay, next, stamp));
                waits = None;
            }
            while let Some((at, ack, stamp)) = acks.front().copied()
                && at <= clock
            {
                acks.pop_front();
                let flow = self.world.flow(number);
                if ack > flow.peer.acked {
                    flow.peer.recent = stamp;
                    self.arrive_one(number, &ack_spec(ack, drain.congestion));
                }
            }
            if clock >= end && self.world.waiting.is_empty() {
                self.at = end;
                self.acks = acks;
                return;
            }
        }
    }
}

/// A plain acknowledgement.
fn ack_spec(ack: i64, congestion: bool) -> SegmentSpec {
    SegmentSpec {
        flags: ACK | if congestion { 0x40 } else { 0 },
        seq: 1,
        end: 1,
        ack: Some((ack, ack)),
        window: None,
        urgent: None,
        ecn: None,
        options: None,
        by: None,
        new: false,
        bad_checksum: false,
        forged: false,
        lost: false,
    }
}

/// The options a segment of the peer's carries: as written, and timestamps where they are in use.
fn peer_options(flow: &Flow, spec: &SegmentSpec, clock: Duration) -> Vec<TcpOption> {
    let own = 1_000 + clock.as_millis() as u32;
    let echo = match spec.flags & ACK != 0 {
        true => flow.peer.recent,
        false => 0,
    };
    let automatic = TcpOption::Timestamps(own, echo);
    let mut options = Vec::new();
    let mut stamped = false;
    for option in spec.options.iter().flatten() {
        let number = |value: &Value, automatic: u32| match value {
            Value::Is(value) => *value,
            Value::Any => automatic,
            Value::Link => u32::from(flow.link_mss),
        };
        match option {
            OptionSpec::Mss(mss) => options.push(TcpOption::Mss(number(mss, 536) as u16)),
            OptionSpec::WindowScale(shift) => {
                options.push(TcpOption::WindowScale(number(shift, 0) as u8));
            }
            OptionSpec::SackPermitted => options.push(TcpOption::SackPermitted),
            OptionSpec::Timestamps(value, echoed) => {
                stamped = true;
                let echoed = match echoed {
                    Value::Is(0) if spec.flags & ACK == 0 => 0,
                    Value::Is(relative) => flow.stamp_raw(*relative),
                    _ => echo,
                };
                options.push(TcpOption::Timestamps(number(value, own), echoed));
            }
            OptionSpec::Sack(ranges) => {
                let raw = ranges
                    .iter()
                    .map(|(a, b)| (flow.ours_raw(*a), flow.ours_raw(*b)));
                options.push(TcpOption::Sack(raw.collect()));
            }
            OptionSpec::Raw(octets) => options.push(TcpOption::Raw(octets.clone())),
            OptionSpec::NoTimestamps => stamped = true,
            OptionSpec::SackAny | OptionSpec::Anything => {}
        }
    }
    let implied = spec.flags & (SYN | RST) == 0 || spec.flags & RST != 0 && flow.view.is_some();
    if !stamped && implied && flow.uses_timestamps() {
        options.insert(0, automatic);
    }
    options
}
