//! Instances, a client and the wire between them, in virtual time.
//!
//! [`Net`] delivers frames by destination MAC with loss, duplication and jitter from a seed, runs
//! a service on every instance, and checks on every frame what must always hold: nobody but the
//! one owner of a session speaks for it, and no RST is seen.

mod cookies;
mod discover;
mod doubts;
mod drain;
mod faults;
mod follow;
mod full;
mod keys;
mod line;
mod lull;
mod moves;
mod networks;
mod peers;
mod policy;
mod skew;
mod stale;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use alloc::rc::Rc;

use bytes::Bytes;

use self::skew::{Edition, decode, encode};
use super::*;
use crate::session::{ContentId, Input, States};
use crate::stack::{
    Cidr, DeviceCapabilities, InstanceNetwork, Interface, RxChecksum, Scope, StackConfig,
};
use crate::tcp::{Flags, Segment};

pub(super) const VIP: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 77, 0, 10));
/// A second virtual address, where a test has one.
pub(super) const OTHER_VIP: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 77, 0, 20));
pub(super) const ECHO: u16 = 7;
pub(super) const BULK: u16 = 80;
pub(super) const KEY: [u8; 32] = [9; 32];
/// Octets the bulk service sends to whoever connects.
pub(super) const BULK_OCTETS: u64 = 200_000;

fn address(id: u32) -> IpAddr {
    IpAddr::from([10, 77, 0, 10 + id as u8])
}

fn mac(id: u32) -> [u8; 6] {
    [2, 0, 0, 0, 0, id as u8]
}

pub(super) fn stack_config(id: u32, vips: Vec<IpAddr>) -> StackConfig {
    StackConfig {
        mac: mac(id),
        mtu: 1500,
        capabilities: DeviceCapabilities::default(),
        addresses: alloc::vec![Cidr {
            address: address(id),
            prefix: 24,
        }],
        gateways: Vec::new(),
        dhcp: false,
        vips,
        instance: None,
        secret: [5; 32],
        tcp: TcpConfig::default(),
    }
}

pub(super) fn config(id: u32, members: u32) -> InstanceConfig {
    let peers = (1..=members).filter(|peer| *peer != id).map(|peer| Peer {
        id: MemberId(peer),
        address: address(peer),
    });
    InstanceConfig {
        id: MemberId(id),
        stack: stack_config(id, alloc::vec![VIP]),
        peers: peers.collect(),
        ingress: MemberId(1),
        role: RoleConfig::default(),
        discover: Discover::Off,
        cluster_key: Some(KEY),
        patience: Duration::ZERO,
    }
}

fn inner_address(id: u32) -> IpAddr {
    IpAddr::from([10, 88, 0, 10 + id as u8])
}

fn inner_mac(id: u32) -> [u8; 6] {
    [2, 0, 0, 0, 1, id as u8]
}

/// The same in two networks.
pub(super) fn config_of_two(id: u32, members: u32) -> InstanceConfig {
    let mut config = config(id, members);
    for peer in &mut config.peers {
        peer.address = inner_address(peer.id.0);
    }
    config.stack.instance = Some(InstanceNetwork {
        mac: inner_mac(id),
        mtu: 1500,
        capabilities: DeviceCapabilities::default(),
        addresses: alloc::vec![Cidr {
            address: inner_address(id),
            prefix: 24,
        }],
        gateways: Vec::new(),
    });
    config
}

/// Octet `index` of the bulk stream.
pub(super) fn pattern(index: u64) -> u8 {
    (index.wrapping_mul(0x9E37_79B9) >> 13) as u8
}

pub(super) fn stream(from: u64, until: u64) -> Vec<u8> {
    (from..until).map(pattern).collect()
}

/// An instance and the tasks of its sessions.
pub(super) struct Node {
    pub instance: Instance,
    tasks: BTreeMap<SessionId, u16>,
    pub drained: bool,
    pub cancelled: bool,
    /// Tasks do nothing.
    pub paused: bool,
    services: Vec<u16>,
    edition: Edition,
    /// When the bulk service sends its next piece, if it takes its time.
    tick: Option<Instant>,
}

impl Node {
    pub fn new(config: InstanceConfig, seed: u8, now: Instant) -> Node {
        Node::of(config, seed, now, Edition::default())
    }

    /// One of another release.
    pub fn of(config: InstanceConfig, seed: u8, now: Instant, edition: Edition) -> Node {
        let mut instance = Instance::new(config, [seed; 32], now);
        for (name, port) in [("echo", ECHO), ("bulk", BULK)] {
            instance.add_service(ServiceSpec {
                name,
                port,
                scope: Scope::Service,
                state_version: *edition.reads.end(),
                oldest_state: *edition.reads.start(),
                states: Some(Rc::new(edition.clone())),
            });
        }
        Node {
            instance,
            tasks: BTreeMap::new(),
            drained: false,
            cancelled: false,
            paused: false,
            services: alloc::vec![ECHO, BULK],
            tick: edition.slow.then_some(now),
            edition,
        }
    }

    /// Run what events wake.
    fn work(&mut self, now: Instant) {
        while let Some(event) = self.instance.poll_event() {
            match event {
                Event::SessionStarted { session, service } => {
                    let port = self.services[service.0 as usize];
                    assert!(
                        self.tasks.insert(session, port).is_none(),
                        "{session} started twice"
                    );
                    self.serve(now, session);
                }
                Event::SessionWoken(session) => self.serve(now, session),
                Event::SessionStopped(session) => {
                    self.tasks.remove(&session);
                }
                Event::Drained => self.drained = true,
                Event::DrainCancelled => self.cancelled = true,
            }
        }
    }

    /// Run every task.
    pub fn resume(&mut self, now: Instant) {
        let all: Vec<SessionId> = self.tasks.keys().copied().collect();
        for session in all {
            self.serve(now, session);
        }
    }

    fn serve(&mut self, now: Instant, session: SessionId) {
        if self.paused {
            return;
        }
        match self.tasks.get(&session) {
            Some(&ECHO) => self.echo(now, session),
            Some(&BULK) if self.tick.is_none_or(|at| at <= now) => self.bulk(now, session),
            _ => {}
        }
    }

    /// The committed state: how far the session is, and in what.
    fn progress(&self, session: SessionId) -> (u64, Option<ContentId>) {
        match self.instance.committed_state(session) {
            Some((version, octets)) if self.edition.garbles => {
                decode(version, &octets[1..]).unwrap()
            }
            Some((version, octets)) => decode(version, &octets).unwrap(),
            None => (0, self.edition.id()),
        }
    }

    fn state(&self, offset: u64, id: Option<ContentId>) -> Bytes {
        let mut octets = encode(*self.edition.reads.end(), offset, id);
        if self.edition.garbles {
            octets.insert(0, 0x55);
        }
        Bytes::from(octets)
    }

    /// Return what comes, in pieces of an odd size, and commit after each; the state counts.
    fn echo(&mut self, now: Instant, session: SessionId) {
        let (mut count, _) = self.progress(session);
        while self.instance.send_ready(session) == Ok(true) {
            match self.instance.read(session, 0) {
                Ok(Input::Data(mut data)) => {
                    data.truncate(701);
                    count += data.len() as u64;
                    self.instance.consume(session, 0, data.len()).unwrap();
                    self.instance.write(session, 0, data).unwrap();
                    let state = self.state(count, None);
                    self.instance.commit(now, session, state).unwrap();
                }
                Ok(Input::End) => {
                    let state = self.state(count, None);
                    self.instance.consume_end(session, 0).unwrap();
                    self.instance.finish(now, session, state).unwrap();
                    self.tasks.remove(&session);
                    return;
                }
                _ => return,
            }
        }
    }

    /// Send the pattern; the state is the offset. Every second piece is written and not committed
    /// at once, so that moves find uncommitted output.
    fn bulk(&mut self, now: Instant, session: SessionId) {
        let (mut offset, id) = self.progress(session);
        while self.instance.send_ready(session) == Ok(true) {
            let until = (offset + 3_000).min(BULK_OCTETS);
            let data = match id {
                None => Bytes::from(stream(offset, until)),
                Some(id) => {
                    let ours = self.edition.content(&id);
                    let content = ours.or_else(|| self.instance.content(&id));
                    let content = content.expect("what a state names is there");
                    content.slice(offset as usize..until as usize)
                }
            };
            if self.instance.write(session, 0, data).is_err() {
                return;
            }
            offset = until;
            let state = self.state(offset, id);
            if offset == BULK_OCTETS {
                let _ = self.instance.finish(now, session, state);
                self.tasks.remove(&session);
                return;
            }
            if self.instance.commit(now, session, state).is_err() || self.tick.is_some() {
                return;
            }
        }
    }
}

/// One connection of the client.
pub(super) struct ClientConn {
    pub conn: ConnId,
    to_send: Vec<u8>,
    sent: usize,
    pub received: Vec<u8>,
    close_after: Option<usize>,
    pub ended: bool,
    pub failed: bool,
}

/// Faults of the wire.
#[derive(Clone, Copy, Default)]
pub(super) struct Faults {
    /// Of a thousand frames, so many are lost, duplicated, or late by up to 2 ms.
    pub loss: usize,
    pub duplicate: usize,
    pub reorder: usize,
}

pub(super) struct Net {
    pub now: Instant,
    pub nodes: Vec<Node>,
    pub client: Stack,
    pub conns: Vec<ClientConn>,
    wire: BTreeMap<(Instant, u64), (u32, RxFrame)>,
    sent: u64,
    rng: Rng,
    pub faults: Faults,
    /// Frames between the client and the virtual address seen so far.
    pub packets: u64,
    pub resets: u64,
    /// Clients do not close, though they have all there is.
    pub clients_stay: bool,
    /// Instances whose frames all get lost.
    pub cut: BTreeSet<u32>,
    /// Members whose channel frames to each other get lost.
    pub cut_channels: bool,
    /// Pairs of members whose channel frames to each other get lost.
    pub cut_pairs: BTreeSet<(u32, u32)>,
    /// Members have a network of their own; whose frames get lost in that, and in the clients'.
    pub two_networks: bool,
    pub cut_inside: BTreeSet<u32>,
    pub cut_outside: BTreeSet<u32>,
    /// What is done at a packet: the number of the packet and the session mover.
    pub allow_resets: bool,
}

pub(super) const CLIENT: u32 = 90;

impl Net {
    pub fn new(members: u32, seed: u8) -> Net {
        let now = Instant::from_millis(1_000);
        let nodes = (1..=members)
            .map(|id| Node::new(config(id, members), seed.wrapping_mul(31) ^ id as u8, now))
            .collect();
        Net::with(nodes, seed, now)
    }

    /// Members in two networks.
    pub fn of_two_networks(members: u32, seed: u8) -> Net {
        let now = Instant::from_millis(1_000);
        let node = |id| Node::new(config_of_two(id, members), seed ^ id as u8, now);
        let mut net = Net::with((1..=members).map(node).collect(), seed, now);
        net.two_networks = true;
        net
    }

    pub fn with(nodes: Vec<Node>, seed: u8, now: Instant) -> Net {
        let client = Stack::new(stack_config(CLIENT, Vec::new()), [seed ^ 0x55; 32], now);
        Net {
            now,
            nodes,
            client,
            conns: Vec::new(),
            wire: BTreeMap::new(),
            sent: 0,
            rng: Rng::new(&[seed; 32], *b"wire    "),
            faults: Faults::default(),
            packets: 0,
            resets: 0,
            clients_stay: false,
            cut: BTreeSet::new(),
            cut_channels: false,
            cut_pairs: BTreeSet::new(),
            two_networks: false,
            cut_inside: BTreeSet::new(),
            cut_outside: BTreeSet::new(),
            allow_resets: false,
        }
    }

    /// Let the channels come up.
    pub fn settle(&mut self) {
        self.run_for(Duration::from_millis(600));
        for node in &self.nodes {
            let up = node.instance.members().iter().all(|member| member.up);
            assert!(up, "channels of {:?} are up", node.instance.id());
        }
    }

    pub fn node(&mut self, id: u32) -> &mut Instance {
        &mut self.nodes[id as usize - 1].instance
    }

    pub fn connect(&mut self, port: u16, to_send: Vec<u8>, close: bool) -> usize {
        self.connect_to(VIP, port, to_send, close)
    }

    pub fn connect_to(&mut self, vip: IpAddr, port: u16, to_send: Vec<u8>, close: bool) -> usize {
        let conn = self
            .client
            .connect(self.now, None, (vip, port).into())
            .unwrap();
        self.conns.push(ClientConn {
            conn,
            close_after: close.then_some(to_send.len()),
            to_send,
            sent: 0,
            received: Vec::new(),
            ended: false,
            failed: false,
        });
        self.conns.len() - 1
    }

    /// The session of which `id` has the only live copy, if any.
    pub fn owner(&self, session: SessionId) -> Option<u32> {
        let mut owners = self.nodes.iter().filter(|node| {
            let sessions = node.instance.sessions();
            sessions.iter().any(|s| s.id == session && !s.frozen)
        });
        let owner = owners.next().map(|node| node.instance.id().0);
        assert!(owners.next().is_none(), "{session} has two owners");
        owner
    }

    /// Every session with its owner, if it has one right now.
    pub fn sessions(&self) -> Vec<(SessionId, Option<u32>)> {
        let all: BTreeSet<SessionId> = self
            .nodes
            .iter()
            .flat_map(|node| node.instance.sessions())
            .map(|status| status.id)
            .collect();
        all.into_iter().map(|id| (id, self.owner(id))).collect()
    }

    fn client_step(&mut self) {
        while self.client.poll_event().is_some() {}
        let now = self.now;
        for entry in &mut self.conns {
            let step = self.client.update(now, entry.conn, |tcp| {
                while let Some(data) = tcp.receive_peek(0).filter(|data| !data.is_empty()) {
                    tcp.receive_consume(now, data.len());
                    entry.received.extend_from_slice(&data);
                }
                while entry.sent < entry.to_send.len() && tcp.send_queued() < 20_000 {
                    let until = (entry.sent + 5_000).min(entry.to_send.len());
                    let piece = Bytes::copy_from_slice(&entry.to_send[entry.sent..until]);
                    if tcp.send(now, piece).is_err() {
                        break;
                    }
                    entry.sent = until;
                }
                if entry.close_after == Some(entry.sent) {
                    entry.close_after = None;
                    tcp.close(now);
                }
                entry.ended |= tcp.receive_finished();
                entry.failed |= tcp.error().is_some();
                if entry.ended && entry.sent == entry.to_send.len() && !self.clients_stay {
                    tcp.close(now);
                }
            });
            let _ = step;
        }
    }

    /// Put a frame on the wire, with whatever befalls it.
    fn transmit(&mut self, from: u32, sent: TxFrame) {
        // The NICs at both ends have the same offloads: what one leaves to be done need not be.
        let received = RxFrame {
            checksum: match sent.checksum {
                Some(_) => RxChecksum::Verified,
                None => RxChecksum::Unchecked,
            },
            segmentation: sent.segmentation,
            interface: sent.interface,
            ..RxFrame::new(sent.to_vec())
        };
        let frame = &received.bytes;
        self.check(from, frame);
        let inside = sent.interface == Interface::Instance;
        let mac = if inside { inner_mac } else { mac };
        if self.two_networks {
            check_network(inside, frame);
        }
        let destination: [u8; 6] = frame[..6].try_into().unwrap();
        assert_eq!(frame[6..12], mac(from), "own source MAC");
        let everyone = (1..=self.nodes.len() as u32).chain([CLIENT]);
        let channel = is_channel(frame);
        for to in everyone {
            let group = destination[0] & 1 != 0;
            if to == from || inside && to == CLIENT || !(group || destination == mac(to)) {
                continue;
            }
            let cut_here = match inside {
                true => &self.cut_inside,
                false => &self.cut_outside,
            };
            let cut = cut_here.contains(&from)
                || cut_here.contains(&to)
                || self.cut.contains(&from)
                || self.cut.contains(&to)
                || (channel && self.cut_pairs.contains(&(from.min(to), from.max(to))))
                || (self.cut_channels && channel);
            if cut || self.rng.below(1000) < self.faults.loss {
                continue;
            }
            let copies = 1 + usize::from(self.rng.below(1000) < self.faults.duplicate);
            for _ in 0..copies {
                let mut at = self.now + Duration::from_micros(50);
                if self.rng.below(1000) < self.faults.reorder {
                    at += Duration::from_micros(self.rng.below(2_000) as u64);
                }
                self.sent += 1;
                self.wire.insert((at, self.sent), (to, received.clone()));
            }
        }
    }

    /// What must hold for every frame.
    fn check(&mut self, from: u32, frame: &[u8]) {
        let Some((source, destination, segment)) = parse(frame) else {
            return;
        };
        if !is_vip(source) && !is_vip(destination) {
            return;
        }
        if from == CLIENT || is_vip(source) {
            self.packets += 1;
        }
        if segment.flags.contains(Flags::RST) && !self.is_over(source) {
            self.resets += 1;
            assert!(self.allow_resets, "RST from {from}: {segment:?}");
        }
        if !is_vip(source) || from == CLIENT || segment.flags.contains(Flags::SYN) {
            return;
        }
        // Whoever speaks has the session, and nobody else has it.
        let speaks = |node: &Node| {
            let sessions = node.instance.sessions();
            sessions.iter().any(|session| {
                !session.frozen
                    && session.connections.iter().any(|connection| {
                        connection.remote == destination.into() && connection.local == source.into()
                    })
            })
        };
        let owners: Vec<u32> = self
            .nodes
            .iter()
            .filter(|node| speaks(node))
            .map(|node| node.instance.id().0)
            .collect();
        // An RST may be the last word of a session that is gone.
        if !segment.flags.contains(Flags::RST) {
            assert_eq!(owners, [from], "speaker of {destination:?}");
        }
    }

    /// Whether the client has read its stream to the end there: late duplicates may be reset.
    fn is_over(&self, source: End) -> bool {
        let port = |conn: &ClientConn| self.client.flow(conn.conn).map(|flow| flow.local.port());
        !is_vip(source)
            && self
                .conns
                .iter()
                .all(|conn| conn.ended || port(conn).is_some_and(|port| port != source.1))
    }

    /// Drain everything everyone has to do at this time.
    fn pump(&mut self) {
        let now = self.now;
        for index in 0..self.nodes.len() {
            self.nodes[index].work(now);
            let mut out = Vec::new();
            while let Some(frame) = self.nodes[index].instance.poll_transmit(now) {
                out.push(frame);
            }
            for frame in out {
                self.transmit(index as u32 + 1, frame);
            }
        }
        self.client_step();
        let mut out = Vec::new();
        while let Some(frame) = self.client.poll_transmit(now) {
            out.push(frame);
        }
        for frame in out {
            self.transmit(CLIENT, frame);
        }
    }

    /// One step of time: the next frame or timer. `false` if nothing will ever happen again.
    pub fn step(&mut self, limit: Instant) -> bool {
        self.pump();
        let timers = self
            .nodes
            .iter()
            .flat_map(|node| [node.instance.poll_timeout(), node.tick])
            .flatten()
            .chain(self.client.poll_timeout());
        let arrival = self.wire.first_key_value().map(|((at, _), _)| *at);
        let Some(next) = timers.chain(arrival).min().filter(|next| *next <= limit) else {
            self.now = self.now.max(limit);
            return false;
        };
        self.now = self.now.max(next);
        let now = self.now;
        if arrival.is_some_and(|at| at <= now) {
            if let Some((_, (to, frame))) = self.wire.pop_first() {
                match to {
                    CLIENT => self.client.handle_frame(now, frame),
                    id => self.node(id).handle_frame(now, frame),
                }
            }
        } else {
            for node in &mut self.nodes {
                if node.instance.poll_timeout().is_some_and(|at| at <= now) {
                    node.instance.handle_timeout(now);
                }
                if node.tick.is_some_and(|at| at <= now) {
                    node.resume(now);
                    node.tick = Some(now + Duration::from_millis(1));
                }
            }
            if self.client.poll_timeout().is_some_and(|at| at <= now) {
                self.client.handle_timeout(now);
            }
        }
        self.pump();
        true
    }

    pub fn run_for(&mut self, duration: Duration) {
        let limit = self.now + duration;
        while self.step(limit) {}
    }

    /// Run until `done`, at most `limit`.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Net) -> bool) {
        let end = self.now + limit;
        while !done(self) {
            assert!(self.step(end), "not done in time");
        }
    }

    /// Run until the client's connections have received `expected` octets each.
    pub fn run_until_received(&mut self, limit: Duration, expected: usize) {
        self.run_until(limit, |net| {
            assert!(
                net.conns.iter().all(|conn| !conn.failed),
                "a connection failed"
            );
            net.conns.iter().all(|conn| conn.received.len() >= expected)
        });
    }

    pub fn counter(&self, id: u32, name: &str) -> u64 {
        let counters = self.nodes[id as usize - 1].instance.counters();
        counters
            .iter()
            .find(|(counter, _)| *counter == name)
            .map_or(0, |(_, count)| *count)
    }
}

type End = (IpAddr, u16);

fn is_vip(end: End) -> bool {
    [VIP, OTHER_VIP].contains(&end.0)
}

/// The ends and the segment in an IPv4 frame.
pub(super) fn parse(frame: &[u8]) -> Option<(End, End, Segment)> {
    if frame.get(12..14)? != [8, 0] || frame.get(23)? != &6 {
        return None;
    }
    let ip = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 4] = frame.get(at..at + 4)?.try_into().ok()?;
        Some(octets.into())
    };
    let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    let tcp = Bytes::copy_from_slice(frame.get(34..14 + total)?);
    let (ports, segment) = Segment::parse(&tcp).ok()?;
    Some((
        (ip(26)?, ports.source),
        (ip(30)?, ports.destination),
        segment,
    ))
}

/// Nothing of the instances is to be seen where the clients are, and no answer to a client where the
/// instances are.
fn check_network(inside: bool, frame: &[u8]) {
    let (source, destination) = match frame[12..14] {
        [8, 0] => (&frame[26..30], &frame[30..34]),
        _ => (&frame[28..32], &frame[38..42]),
    };
    if inside {
        assert_ne!(source, [10, 77, 0, 10], "an answer to a client");
    } else {
        for address in [source, destination] {
            assert_ne!(address[..3], [10, 88, 0], "an instance's address");
        }
    }
}

fn is_channel(frame: &[u8]) -> bool {
    parse(frame).is_some_and(|(source, destination, _)| {
        source.1 == CHANNEL_PORT || destination.1 == CHANNEL_PORT
    })
}
