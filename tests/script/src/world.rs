//! Two stacks that share a virtual address and a clock, and the link on which a script's peer sits.
//!
//! A flow is at one of the stacks; a move takes it to the other. The peer's frames go to whichever
//! has the flow, as the ingress would steer them. Questions for neighbours are answered at once and
//! are no part of a script.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use godwit_netstack::Instant;
use godwit_netstack::stack::{
    Cidr, DeviceCapabilities, RxFrame, Scope, Stack, StackConfig, StackEvent,
};
use godwit_netstack::tcp::State;

use crate::Family;
use crate::flow::{self, Flow, View};
use crate::script::{Flaw, Header, Martian};
use crate::trace::{Trace, What};
use crate::wire::{self, Mac, SYN, Segment, Sent, TCP};

/// The peer's MAC address.
const PEER: Mac = [0x02, 0, 0, 0, 0, 99];
/// The port that is listened at.
const PORT: u16 = 80;
/// The peer's port in flow 0.
const PEER_PORT: u16 = 40_000;
/// When scripts begin: the clocks are not young then.
const START: Duration = Duration::from_secs(5_000);
/// What can happen at one point of time, at most.
const MAX_STEPS: usize = 100_000;

/// A segment that the stack sent and no line has looked at.
#[derive(Clone, Debug)]
pub struct Waiting {
    pub flow: u16,
    pub at: Duration,
    pub segment: Segment,
}

/// Everything a run consists of.
pub struct World {
    now: Instant,
    pub stacks: [Stack; 2],
    ipv4: bool,
    isn: u32,
    mtu: u16,
    pub flows: BTreeMap<u16, Flow>,
    pub waiting: VecDeque<Waiting>,
    pub trace: Trace,
    /// Something no stack may do, whatever the script says.
    pub fault: Option<String>,
}

fn mac(index: usize) -> Mac {
    [0x02, 0, 0, 0, 0, 11 + index as u8]
}

fn address(ipv4: bool, n: u8) -> IpAddr {
    match ipv4 {
        true => IpAddr::from([10, 77, 0, n]),
        false => IpAddr::from([0xfd77, 0, 0, 0, 0, 0, 0, u16::from(n)]),
    }
}

fn martian(ipv4: bool, who: Martian) -> IpAddr {
    match (who, ipv4) {
        (Martian::Loopback, true) => IpAddr::from([127, 0, 0, 1]),
        (Martian::Loopback, false) => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        (Martian::Multicast, true) => IpAddr::from([239, 1, 1, 1]),
        (Martian::Multicast, false) => IpAddr::from([0xff05, 0, 0, 0, 0, 0, 1, 3]),
        (Martian::Broadcast, true) => IpAddr::from([255; 4]),
        (Martian::Broadcast, false) => IpAddr::from([0xff02, 0, 0, 0, 0, 0, 0, 1]),
        (Martian::Unspecified, true) => IpAddr::from([0; 4]),
        (Martian::Unspecified, false) => IpAddr::from([0; 16]),
        (Martian::Us, _) => address(ipv4, VIP),
        (Martian::Stranger, _) => address(ipv4, STRANGERS),
    }
}

const VIP: u8 = 10;
const PEER_HOST: u8 = 99;
const STRANGERS: u8 = 200;

fn stack(index: usize, header: &Header, now: Instant) -> Stack {
    let n = 11 + index as u8;
    let own = |ipv4, prefix| Cidr {
        address: address(ipv4, n),
        prefix,
    };
    let config = StackConfig {
        mac: mac(index),
        mtu: header.mtu,
        capabilities: DeviceCapabilities::default(),
        addresses: vec![own(true, 24), own(false, 64)],
        gateways: Vec::new(),
        dhcp: false,
        vips: vec![address(true, VIP), address(false, VIP)],
        instance: None,
        secret: [7; 32],
        tcp: header.tcp.clone(),
    };
    Stack::new(config, [n; 32], now)
}

impl World {
    pub fn new(header: &Header, family: Family) -> World {
        let now = Instant::ZERO + START;
        let mut world = World {
            now,
            stacks: [stack(0, header, now), stack(1, header, now)],
            ipv4: family == Family::V4,
            isn: header.isn,
            mtu: header.mtu,
            flows: BTreeMap::new(),
            waiting: VecDeque::new(),
            trace: Trace::default(),
            fault: None,
        };
        world.pump();
        world
    }

    pub fn instant(&self) -> Instant {
        self.now
    }

    /// Time since the start of the script.
    pub fn clock(&self) -> Duration {
        self.now.since(Instant::ZERO + START)
    }

    pub fn note(&mut self, what: What, text: String) {
        let at = self.clock();
        self.trace.push(at, what, text.clone(), text);
    }

    /// The flow with this number; made if it is new.
    pub fn flow(&mut self, number: u16) -> &mut Flow {
        let local = SocketAddr::new(address(self.ipv4, VIP), PORT);
        let remote = SocketAddr::new(address(self.ipv4, PEER_HOST), PEER_PORT + number);
        let isn = self
            .isn
            .wrapping_add(u32::from(number - 1).wrapping_mul(77_777_777));
        let link_mss = self.mtu - if self.ipv4 { 40 } else { 60 };
        self.flows
            .entry(number)
            .or_insert_with(|| Flow::new(local, remote, isn, link_mss))
    }

    pub fn listen(&mut self) {
        for stack in &mut self.stacks {
            stack.listen(PORT, Scope::Service);
        }
    }

    pub fn connect(&mut self, number: u16) -> Result<(), String> {
        let (now, local) = (self.now, address(self.ipv4, VIP));
        let flow = self.flow(number);
        let (remote, before) = (flow.remote, flow.local);
        let view = flow.view.take();
        let waits = |view: &View| view.info.state == State::TimeWait;
        let waiting = flow.conn.is_some() && view.as_ref().is_some_and(waits);
        // Once more: between the same ends, and where the connection before is, if it is anywhere.
        let again = (flow.gone || waiting) && before.port() != PORT;
        let owner = if waiting { flow.owner } else { 0 };
        flow.nxt_before = view.map(|view| view.info.snd_nxt.raw());
        let stack = &mut self.stacks[owner];
        let conn = match again {
            true => stack.connect_from(now, before, remote),
            false => stack.connect(now, Some(local), remote),
        };
        let conn = conn.map_err(|error| format!("connect failed: {error:?}"))?;
        let local = stack.flow(conn).map(|flow| flow.local);
        let flow = self.flow(number);
        flow.owner = owner;
        flow.conn = Some(conn);
        (flow.accepted, flow.gone) = (true, false);
        (flow.sent, flow.read, flow.isn) = (0, 0, None);
        if let Some(local) = local {
            flow.local = local;
        }
        self.pump();
        Ok(())
    }

    /// A segment from the peer arrives.
    pub fn arrive(&mut self, number: u16, segment: &Segment, flaw: Option<Flaw>) {
        let ipv4 = self.ipv4;
        let flow = self.flow(number);
        let (mut from, mut to, owner) = (flow.remote, flow.local, flow.owner);
        let text = flow.describe(segment, true, true);
        let timeless = flow.describe(segment, true, false);
        let mark = if number == 1 {
            String::new()
        } else {
            format!("@{number} ")
        };
        let at = self.clock();
        self.trace
            .push(at, What::In, mark.clone() + &text, mark + &timeless);
        match flaw {
            Some(Flaw::From(who)) => from.set_ip(martian(ipv4, who)),
            Some(Flaw::To(who)) => to.set_ip(martian(ipv4, who)),
            _ => {}
        }
        let mut body = segment.emit(from.ip(), to.ip());
        match flaw {
            Some(Flaw::Checksum) => body[16] ^= 0x5a,
            Some(Flaw::Offset(words)) => wire::set_offset(&mut body, from.ip(), to.ip(), words),
            _ => {}
        }
        let mut frame = wire::frame(
            (PEER, mac(owner)),
            from.ip(),
            to.ip(),
            TCP,
            segment.ecn,
            &body,
        );
        match flaw {
            Some(Flaw::Cut(octets)) => frame.truncate(frame.len().saturating_sub(octets)),
            Some(Flaw::HeaderChecksum) => wire::damage_header_checksum(&mut frame),
            Some(Flaw::Atomic) => wire::put_in_fragment(&mut frame),
            Some(Flaw::Routed(left)) => wire::put_behind_route(&mut frame, left),
            _ => {}
        }
        self.handle(owner, frame);
    }

    /// An ICMP error that quotes the octet `quote` of ours arrives.
    pub fn arrive_icmp(&mut self, number: u16, error: wire::Icmp, quote: i64) {
        let flow = self.flow(number);
        let (local, remote, owner) = (flow.local, flow.remote, flow.owner);
        let quoted = Segment {
            source: local.port(),
            destination: remote.port(),
            seq: flow.ours_raw(quote),
            flags: wire::ACK,
            ..Segment::default()
        };
        let body = quoted.emit(local.ip(), remote.ip());
        let packet = wire::packet(local.ip(), remote.ip(), TCP, 0, &body);
        // Routers on the way say it, not the peer.
        let router = address(self.ipv4, 1);
        let frame = wire::icmp((PEER, mac(owner)), router, local.ip(), error, &packet);
        self.note(What::In, format!("icmp {error:?} quote {quote}"));
        self.handle(owner, frame);
    }

    /// SYNs from `count` strangers; nobody looks at the answers.
    pub fn flood(&mut self, count: u32) {
        let (from, to) = (address(self.ipv4, STRANGERS), address(self.ipv4, VIP));
        for n in 0..count {
            let segment = Segment {
                source: 1024 + (n % 60_000) as u16,
                destination: PORT,
                seq: n.wrapping_mul(2_654_435_761),
                flags: SYN,
                window: 1024,
                ..Segment::default()
            };
            let body = segment.emit(from, to);
            let frame = wire::frame((PEER, mac(0)), from, to, TCP, 0, &body);
            self.handle(0, frame);
        }
        self.note(What::In, format!("SYNs from {count} strangers"));
    }

    fn handle(&mut self, owner: usize, frame: Vec<u8>) {
        let now = self.now;
        self.stacks[owner].handle_frame(now, RxFrame::new(frame));
        self.pump();
    }

    /// Let everything that is due now happen.
    pub fn pump(&mut self) {
        let now = self.now;
        let mut answers: VecDeque<(usize, Vec<u8>)> = VecDeque::new();
        for _ in 0..MAX_STEPS {
            if let Some((to, frame)) = answers.pop_front() {
                self.stacks[to].handle_frame(now, RxFrame::new(frame));
            }
            let mut busy = false;
            for index in 0..self.stacks.len() {
                self.look();
                while let Some(event) = self.stacks[index].poll_event() {
                    self.handle_event(index, &event);
                }
                self.look();
                while let Some(frame) = self.stacks[index].poll_transmit(now) {
                    busy = true;
                    answers.extend(
                        self.sent(index, &frame.to_vec())
                            .map(|frame| (index, frame)),
                    );
                }
            }
            if !busy && answers.is_empty() {
                return;
            }
        }
        self.fault = Some("the stack never comes to rest".into());
    }

    /// See how connections are, as they may be gone next.
    fn look(&mut self) {
        for flow in self.flows.values_mut() {
            let stack = &self.stacks[flow.owner];
            if let Some(conn) = flow.conn
                && let Some(connection) = stack.connection(conn)
            {
                flow.view = Some(View::of(connection, stack.send_room(conn)));
            }
        }
    }

    fn handle_event(&mut self, index: usize, event: &StackEvent) {
        match event {
            StackEvent::Accepted { conn, .. } => {
                let Some(key) = self.stacks[index].flow(*conn) else {
                    return;
                };
                let mut flows = self.flows.values_mut();
                if let Some(flow) = flows.find(|flow| flow.remote == key.remote) {
                    flow.owner = index;
                    flow.conn = Some(*conn);
                    (flow.reported, flow.accepted, flow.gone) = (true, false, false);
                    (flow.sent, flow.read) = (0, 0);
                }
            }
            StackEvent::Gone { conn, .. } => {
                let mut flows = self.flows.values_mut();
                let found = flows.find(|flow| flow.owner == index && flow.conn == Some(*conn));
                if let Some(flow) = found {
                    flow.conn = None;
                    flow.gone = true;
                }
            }
            _ => {}
        }
    }

    /// A stack sent a frame. Returns what the link answers at once.
    fn sent(&mut self, index: usize, frame: &[u8]) -> Option<Vec<u8>> {
        let (to, segment, length) = match wire::read(frame) {
            Err(fault) => {
                self.fault = Some(format!("a frame with {fault}"));
                return None;
            }
            Ok(Sent::WhoHas { asks, target }) => {
                let known = [PEER_HOST, STRANGERS, 1].iter();
                let known = known.flat_map(|n| [address(true, *n), address(false, *n)]);
                return known
                    .into_iter()
                    .any(|address| address == target)
                    .then(|| wire::is_at((mac(index), asks), PEER, target));
            }
            Ok(Sent::Other) => return None,
            Ok(Sent::Tcp {
                to,
                segment,
                length,
            }) => (to, segment, length),
        };
        if length > usize::from(self.mtu) {
            self.fault = Some(format!(
                "a packet of {length} octets, the link takes {}",
                self.mtu
            ));
        }
        let at = self.clock();
        let remote = SocketAddr::new(to, segment.destination);
        let first = self.flows.get(&1).and_then(|flow| flow.isn);
        let mut flows = self.flows.iter_mut();
        let (number, flow) = flows.find(|(_, flow)| flow.remote == remote)?;
        let number = *number;
        if segment.flags & SYN != 0 && flow.isn.is_none() {
            let seen = flow.view.as_ref().map(|view| view.info.snd_nxt.raw());
            let before = flow.nxt_before.take().or(seen);
            flow.isn_ahead = before.map(|nxt| segment.seq.wrapping_sub(nxt) as i32 > 0);
            let apart = |first: u32| (segment.seq.wrapping_sub(first) as i32).unsigned_abs();
            flow.isn_apart = first.map(apart);
            flow.isn = Some(segment.seq);
        }
        if segment.flags & SYN != 0 {
            flow.timestamps = segment.timestamps().is_some();
        }
        if let (None, Some((value, _))) = (flow.stamp_base, segment.timestamps()) {
            flow.stamp_base = Some(value.wrapping_sub(at.as_millis() as u32));
        }
        if index != flow.owner {
            self.fault = Some(format!(
                "flow {number} is spoken for by a stack that has it no more"
            ));
        }
        let mark = if number == 1 {
            String::new()
        } else {
            format!("@{number} ")
        };
        let text = mark.clone() + &flow.describe(&segment, false, true);
        let timeless = mark + &flow.describe(&segment, false, false);
        let offset = i64::from(segment.flags & SYN != 0);
        let first = flow.ours_relative(segment.seq) + offset - 1;
        let wrong = segment
            .payload
            .iter()
            .zip(first..)
            .position(|(got, at)| *got != flow::octet(flow::OURS, at));
        if let Some(wrong) = wrong {
            let place = first + wrong as i64;
            self.fault = Some(format!(
                "the wrong octet at place {place} of the stream sent"
            ));
        }
        self.trace.push(at, What::Out, text, timeless);
        self.waiting.push_back(Waiting {
            flow: number,
            at,
            segment,
        });
        None
    }

    /// Go on to `until`, or to the first segment that waits for a line.
    pub fn advance(&mut self, until: Duration, stop_at_segment: bool) {
        let limit = Instant::ZERO + START + until;
        for _ in 0..MAX_STEPS {
            if self.fault.is_some() || stop_at_segment && !self.waiting.is_empty() {
                return;
            }
            let due = self.stacks.iter().filter_map(Stack::poll_timeout).min();
            let Some(due) = due.filter(|due| *due <= limit) else {
                self.now = self.now.max(limit);
                return;
            };
            // A deadline that is over and is not met would stop the clock.
            self.now = self.now.max(due);
            let now = self.now;
            for stack in &mut self.stacks {
                if stack.poll_timeout().is_some_and(|due| due <= now) {
                    stack.handle_timeout(now);
                }
            }
            self.pump();
        }
        self.fault = Some("a timer that fires again and again without time passing".into());
    }
}
