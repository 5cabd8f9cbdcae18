//! What the peer does: its segments as written and as implied, and the well-behaved receiver of
//! `drain`.

use std::time::Duration;

use crate::flow::{self, Flow};
use crate::run::Run;
use crate::script::{Drain, OptionSpec, SegmentSpec, Value};
use crate::wire::{ACK, FIN, RST, SYN, Segment, TcpOption};

/// How long the peer of `drain` waits for a second segment.
const DELAYED_ACK: Duration = Duration::from_millis(40);

impl Run {
    /// A segment or a train of them from the peer.
    pub(crate) fn arrive(&mut self, number: u16, spec: &SegmentSpec) {
        let flow = self.world.flow(number);
        if spec.new {
            flow.peer.isn = flow.theirs_raw(spec.seq);
            // Unless it answers a SYN of ours.
            if spec.flags & ACK == 0 {
                flow.isn = None;
                flow.reported = false;
            }
            flow.peer.acked = 0;
            flow.peer.next = 0;
            flow.peer.beyond.clear();
            flow.peer.timestamps = false;
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

    pub(crate) fn arrive_one(&mut self, number: u16, spec: &SegmentSpec) {
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
            may_fragment: false,
            options,
            payload: flow::octets(stream, spec.seq + syn - 1, len),
        };
        self.world.arrive(number, &segment, spec.flaw);
    }

    /// Be a peer that gets everything and acknowledges it.
    pub(crate) fn drain(&mut self, number: u16, drain: &Drain) {
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
        may_fragment: false,
        options: None,
        by: None,
        new: false,
        flaw: None,
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
