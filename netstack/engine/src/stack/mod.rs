//! The facade of the network stack: frames in, frames out, connections in between.
//!
//! TCP takes the fast path (ours, [`crate::tcp`]); ARP, NDP, ICMP, UDP and DHCP take the slow
//! path, on smoltcp. The stack knows flows and where each of them is to go ([`Route`]); it does
//! not know why: sessions, transfers and the cluster are `instance`'s concern.

mod abandoned;
mod addresses;
mod ahead;
mod announce;
mod arp;
mod checksum;
mod counters;
mod cut;
mod flows;
mod forward;
pub mod frame;
mod given;
mod group;
mod half_open;
mod hash;
mod icmp;
mod input;
mod lease;
mod limit;
mod listen;
mod ndp;
mod neighbour;
mod open;
mod output;
mod pieces;
mod routes;
mod slots;
mod slow;
mod spent;
mod table;
#[cfg(test)]
mod tests;
mod timers;
mod train;
mod types;
mod wire;

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use crate::seq::SeqNumber;
use crate::tcp::{Connection, InitialNumbers, Outgoing, Pressure, Segment, TcpConfig};
use crate::time::{Duration, Instant};
use addresses::{Addresses, solicited_node};
use announce::Defence;
pub use counters::Counters;
use flows::{Entry, Flows, Packed};
pub use frame::{DeviceCapabilities, Interface, RxChecksum, RxFrame, TxFrame};
use given::Given;
use half_open::HalfOpenTable;
use hash::Keyed;
use input::Origin;
pub use lease::LeaseOptions;
use limit::Limit;
pub use listen::COOKIE_LIFE;
use listen::Listener;
use neighbour::Neighbours;
pub use open::ConnectError;
use slow::Slow;
pub use slow::UdpId;
use spent::Spent;
use table::{Block, Table};
use timers::Timers;
use train::Train;
pub use types::*;

/// Answers per second at most to what strangers can provoke.
const MAX_RST: u32 = 1_000;
const MAX_ECHO: u32 = 1_000;
const MAX_UNREACHABLE: u32 = 100;
/// How much of what there is for queues the cookies of connections that are over may take on top of it.
const SPENT_PART: usize = 16;
/// Connections looked at for octets out of order each time something happens while memory is exhausted.
const RECLAIMED: usize = 16;
/// A deadline that is over and stays over is looked at again after this long.
const TICK: Duration = Duration::from_millis(1);

/// The network stack of one instance. After every `handle_*` or command drain
/// [`Stack::poll_event`] and then [`Stack::poll_transmit`], and sleep until
/// [`Stack::poll_timeout`] or the next frame.
#[derive(Debug)]
pub struct Stack {
    mtu: u16,
    service: Port,
    /// The NIC of the instance network; the same one where there is no other.
    instance: Port,
    tcp: TcpConfig,
    numbers: InitialNumbers,
    keyed: Keyed,
    addresses: Addresses,
    ingress: bool,
    ask_unknown: bool,
    /// Whether SYNs are answered that are not remembered.
    gives_cookies: bool,
    counters: Counters,
    neighbours: Neighbours,
    flows: Flows,
    table: Table,
    timers: Timers,
    /// Connections that may have something to send, in turn.
    ready: VecDeque<ConnId>,
    listeners: Vec<Listener>,
    half_open: HalfOpenTable,
    slow: Slow,
    groups: group::Groups,
    egress: VecDeque<TxFrame>,
    /// Frames of a batch that go to their connection together.
    train: Train,
    /// Where the frame being handled will find its connection, if somebody looked.
    hint: Option<u32>,
    /// Memory for the frames of a batch.
    batch: Vec<RxFrame>,
    events: VecDeque<StackEvent>,
    captured_octets: usize,
    rst_limit: Limit,
    echo_limit: Limit,
    unreachable_limit: Limit,
    /// Octets in the queues of all connections.
    memory: usize,
    /// How short everybody's memory is.
    scarcity: Pressure,
    /// SYN cookies are taken until then.
    cookies_until: Option<Instant>,
    /// When the last one was given here.
    cookie_given: Option<Instant>,
    /// Those that may be out yet.
    given: Given,
    /// Those of connections that are over.
    spent: Spent,
    /// The flow whose TIME-WAIT just gave way to a SYN, and its SND.NXT.
    reused: Option<(Packed, SeqNumber)>,
    /// When virtual addresses are next announced, and how often before.
    announce: Option<(Instant, usize)>,
    /// Who else has said that a virtual address is his.
    vip_speaker: Option<MacAddr>,
    /// When virtual addresses were defended, each once at most.
    defences: Vec<Defence>,
    opened: u64,
}

/// A NIC.
#[derive(Clone, Copy, Debug)]
struct Port {
    mac: MacAddr,
    capabilities: DeviceCapabilities,
}

fn words(seed: &[u8; 32]) -> [u64; 4] {
    let mut out = [0; 4];
    for (word, octets) in out.iter_mut().zip(seed.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*octets);
    }
    out
}

impl Stack {
    /// A stack with the addresses of `config`; `seed` feeds everything random in it.
    #[cold]
    #[inline(never)]
    pub fn new(config: StackConfig, seed: [u8; 32], now: Instant) -> Stack {
        let [k0, k1, k2, k3] = words(&seed);
        let keyed = Keyed::new([k0, k1]);
        let held = config.tcp.memory;
        let costs = |n| Keyed::new([k1 ^ n, k2]);
        let addresses = Addresses::new(
            config.mac,
            &config.addresses,
            &config.vips,
            &config.gateways,
        )
        .with_instance(config.instance.as_ref());
        let service = Port {
            mac: config.mac,
            capabilities: config.capabilities,
        };
        // What a client sends has to fit the network on which it is passed on.
        let mtu = config
            .instance
            .as_ref()
            .map_or(config.mtu, |network| network.mtu.min(config.mtu));
        let mut slow = Slow::new(config.mac, mtu, k2, config.dhcp, now);
        slow.set_addresses(&addresses);
        let mut stack = Stack {
            mtu,
            service,
            instance: config.instance.map_or(service, |network| Port {
                mac: network.mac,
                capabilities: network.capabilities,
            }),
            tcp: config.tcp,
            numbers: InitialNumbers::new(config.secret),
            keyed: Keyed::new([k3, k0]),
            addresses,
            ingress: false,
            ask_unknown: false,
            gives_cookies: true,
            counters: Counters::default(),
            neighbours: Neighbours::new(keyed),
            flows: Flows::new(keyed, held),
            table: Table::new(),
            timers: Timers::new(),
            ready: VecDeque::new(),
            listeners: Vec::new(),
            half_open: HalfOpenTable::new(),
            slow,
            groups: group::Groups::default(),
            egress: VecDeque::new(),
            train: Train::default(),
            hint: None,
            batch: Vec::new(),
            events: VecDeque::new(),
            captured_octets: 0,
            rst_limit: Limit::per_second(MAX_RST, now, costs(0)),
            echo_limit: Limit::per_second(MAX_ECHO, now, costs(1)),
            unreachable_limit: Limit::per_second(MAX_UNREACHABLE, now, costs(2)),
            memory: 0,
            scarcity: Pressure::None,
            cookies_until: None,
            cookie_given: None,
            given: Given::new(keyed),
            spent: Spent::new(&config.secret, held / SPENT_PART),
            reused: None,
            announce: None,
            vip_speaker: None,
            defences: Vec::new(),
            opened: 0,
        };
        stack.probe_own_ipv6();
        stack
    }

    /// Take in a frame from the NIC.
    pub fn handle_frame(&mut self, now: Instant, frame: RxFrame) {
        self.counters.rx_frames += 1;
        self.handle_ethernet(now, frame, Origin::Wire);
    }

    /// Take in the frames the NIC has. Those that follow each other in one flow go to their
    /// connection together: it looks at the windows, the timers and the owed acknowledgement once.
    pub fn handle_frames(&mut self, now: Instant, frames: impl IntoIterator<Item = RxFrame>) {
        let mut frames = frames.into_iter();
        let mut batch = core::mem::take(&mut self.batch);
        loop {
            batch.extend(frames.by_ref().take(ahead::BATCH));
            if batch.is_empty() {
                break;
            }
            let hints = self.look_ahead(&batch);
            for (frame, hint) in batch.drain(..).zip(hints) {
                self.counters.rx_frames += 1;
                if let Some(frame) = self.couple(frame) {
                    self.depart(now);
                    self.hint = hint;
                    self.train.gathering = true;
                    self.handle_ethernet(now, frame, Origin::Wire);
                    self.train.gathering = false;
                    self.hint = None;
                }
            }
        }
        self.depart(now);
        self.batch = batch;
    }

    /// Take in a frame that another instance captured and sent through the channel: handled as
    /// one from the NIC, but its checksums were verified where it was captured.
    pub fn inject(&mut self, now: Instant, frame: RxFrame) {
        self.inject_as(now, frame, Origin::Channel);
    }

    /// The same with a frame that follows a session which was taken in here. If its flow is unknown by
    /// now the session has ended, and the frame needs no answer.
    pub fn inject_behind(&mut self, now: Instant, frame: RxFrame) {
        self.inject_as(now, frame, Origin::Behind);
    }

    fn inject_as(&mut self, now: Instant, mut frame: RxFrame, origin: Origin) {
        self.counters.injected += 1;
        frame.checksum = RxChecksum::Verified;
        self.handle_ethernet(now, frame, origin);
    }

    /// Fire timers that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(index) = self.timers.pop_due(now) {
            let Some(id) = self.table.at(index as u32) else {
                continue;
            };
            let Some(block) = self.table.get_mut(id) else {
                continue;
            };
            block.armed = None;
            if block
                .connection
                .poll_timeout()
                .is_some_and(|due| due <= now)
            {
                self.with_connection(now, id, |connection| connection.handle_timeout(now));
            } else {
                self.arm(now, id);
            }
        }
        self.handle_half_open_timeout(now);
        while let Some(fired) = self.neighbours.handle_timeout(now) {
            match fired {
                Ok(solicit) => self.solicit(solicit),
                Err(released) => {
                    self.counters.neighbour_failed += 1;
                    self.counters.neighbour_unresolved += released.frames.len() as u64;
                    self.unpark(released.connections);
                }
            }
        }
        while let Some(dropped) = self.flows.handle_timeout(now) {
            self.counters.hold_expired += dropped as u64;
        }
        self.announce_again(now);
        if self.slow.poll_timeout().is_some_and(|due| due <= now) {
            self.slow.handle_timeout(now);
            self.note_lease();
        }
    }

    /// When [`Stack::handle_timeout`] is next due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [
            self.timers.next(),
            self.half_open.poll_timeout(),
            self.neighbours.poll_timeout(),
            self.flows.poll_timeout(),
            self.slow.poll_timeout(),
            self.announce.map(|(due, _)| due),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The next thing to report.
    pub fn poll_event(&mut self) -> Option<StackEvent> {
        loop {
            let event = self.events.pop_front()?;
            match &event {
                StackEvent::Updated(id) => match self.table.get_mut(*id) {
                    Some(block) => block.announced = false,
                    None => continue,
                },
                StackEvent::Accepted { conn, .. } if self.table.get(*conn).is_none() => continue,
                StackEvent::Captured { frame, .. } => {
                    let octets = frame.bytes.len();
                    self.captured_octets = self.captured_octets.saturating_sub(octets);
                }
                _ => {}
            }
            return Some(event);
        }
    }

    /// Run something on a connection and see to what follows from it.
    fn with_connection<R>(
        &mut self,
        now: Instant,
        id: ConnId,
        f: impl FnOnce(&mut Connection) -> R,
    ) -> Option<R> {
        let pressure = self.pressure();
        let block = self.table.get_mut(id)?;
        block.connection.set_pressure(pressure);
        let result = f(&mut block.connection);
        self.settle(now, id);
        Some(result)
    }

    /// After a connection changed: event, turn in the ready queue, deadline.
    fn settle(&mut self, now: Instant, id: ConnId) {
        let Some(block) = self.table.get_mut(id) else {
            return;
        };
        let memory = block.connection.memory();
        self.memory = self.memory + memory - block.memory;
        block.memory = memory;
        if block.connection.take_updates() && !block.announced {
            block.announced = true;
            self.events.push_back(StackEvent::Updated(id));
        }
        if !block.ready && !block.parked {
            block.ready = true;
            self.ready.push_back(id);
        }
        self.arm(now, id);
        self.reclaim();
    }

    /// While memory is exhausted, drop what the next few connections hold out of order: a peer that
    /// has gone silent would else keep its part. Their own peers have it still (RFC 2018 section 8).
    fn reclaim(&mut self) {
        for _ in 0..RECLAIMED {
            if self.pressure() != Pressure::Exhausted {
                return;
            }
            let Some(block) = self.table.next_in_turn() else {
                continue;
            };
            let dropped = block.connection.drop_out_of_order();
            self.counters.out_of_order_reclaimed += u64::from(dropped);
            let memory = block.connection.memory();
            self.memory = self.memory + memory - block.memory;
            block.memory = memory;
        }
    }

    /// How short memory is for the queues of connections.
    pub fn pressure(&self) -> Pressure {
        Pressure::of(self.memory, self.tcp.memory).max(self.scarcity)
    }

    /// Say how short the memory is that everything else shares with the connections.
    pub fn set_scarcity(&mut self, scarcity: Pressure) {
        self.scarcity = scarcity;
    }

    /// Octets in the queues of all connections.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// Octets that the send queue of a connection takes before its application has to wait.
    pub fn send_room(&self, conn: ConnId) -> usize {
        self.table.get(conn).map_or(0, |block| {
            let connection = &block.connection;
            let capacity = match self.scarcity {
                // The connection may not have heard of it yet.
                Pressure::Exhausted => usize::from(connection.mss()),
                _ => connection.send_capacity(&self.tcp),
            };
            capacity.saturating_sub(connection.send_queued())
        })
    }

    fn arm(&mut self, now: Instant, id: ConnId) {
        if let Some(block) = self.table.get_mut(id)
            && let Some(due) = block.connection.poll_timeout()
        {
            let due = if due <= now { now + TICK } else { due };
            self.timers.arm(&mut block.armed, id.index.into(), due);
        }
    }

    /// Put a connection into the tables, to be settled then. Its flow has none yet.
    fn put_block(&mut self, connection: Connection, flow: FlowKey) -> ConnId {
        let packed = Packed::new(&flow);
        let id = self.table.insert(Block {
            connection,
            next_hop: None,
            cut: None,
            memory: 0,
            armed: None,
            ready: false,
            parked: false,
            announced: false,
            doubt: None,
        });
        self.flows.set(packed, Entry::Connection(id));
        id
    }

    /// Take a connection out of the tables.
    fn take_block(&mut self, id: ConnId) -> Option<Block> {
        let mut block = self.table.remove(id)?;
        if let Some(cut) = block.cut.take() {
            block.connection.unsend(cut.seq, cut.left as u32);
        }
        self.memory -= block.memory;
        self.timers.disarm(&mut block.armed, id.index.into());
        let packed = Packed::new(&block.flow());
        self.flows.remove(&packed);
        // Held behind a fence.
        self.counters.hold_expired += self.flows.take_held(&packed).len() as u64;
        Some(block)
    }

    /// The connection, unless its id is dead.
    pub fn connection(&self, conn: ConnId) -> Option<&Connection> {
        self.table.get(conn).map(|block| &block.connection)
    }

    /// Run `command` on the connection, then see to its timers, events and output.
    pub fn update<R>(
        &mut self,
        now: Instant,
        conn: ConnId,
        command: impl FnOnce(&mut Connection) -> R,
    ) -> Option<R> {
        self.with_connection(now, conn, command)
    }

    /// The ends of a connection.
    pub fn flow(&self, conn: ConnId) -> Option<FlowKey> {
        self.table.get(conn).map(|block| block.flow())
    }

    /// Whether segments of unknown flows to a virtual address are held and reported
    /// ([`StackEvent::UnknownFlow`]) rather than accepted or reset here. A SYN to a port without
    /// a service is refused at once all the same.
    pub fn set_ask_unknown(&mut self, ask: bool) {
        self.ask_unknown = ask;
    }

    /// Whether SYNs beyond those that are remembered are answered with a cookie, as they are to begin with. Not
    /// while it is clear that the cookie would not be taken: the client would think that it is connected.
    pub fn set_gives_cookies(&mut self, gives: bool) {
        self.gives_cookies = gives;
    }

    /// What is to be added to our clock to read the cluster's, so that all its instances answer
    /// a SYN alike.
    pub fn set_clock_offset(&mut self, offset: Duration) {
        self.numbers.set_clock_offset(offset);
    }

    /// Answer a segment that belongs to nothing here with RST, unless it is one itself or too
    /// many are answered already (RFC 9293 section 3.10.7.1).
    fn refuse(&mut self, now: Instant, flow: &FlowKey, segment: &Segment) {
        let Some(reset) = Outgoing::reset_for(segment) else {
            self.counters.rst_unknown_flow += 1;
            return;
        };
        if !self.rst_limit.allow(now) {
            self.counters.rst_suppressed += 1;
            return;
        }
        self.counters.rst_sent += 1;
        self.send_segment(now, flow, reset);
    }

    #[inline]
    fn port(&self, interface: Interface) -> &Port {
        match interface {
            Interface::Service => &self.service,
            Interface::Instance => &self.instance,
        }
    }

    /// Own addresses in the service network: configured and leased, no virtual and no link-local ones.
    #[cold]
    #[inline(never)]
    pub fn addresses(&self) -> Vec<IpAddr> {
        let own = self.addresses.own_on(Interface::Service);
        own.map(|cidr| cidr.address).collect()
    }

    /// Whether there is an instance network besides the service network.
    pub fn has_instance_network(&self) -> bool {
        self.addresses.peers_interface() == Interface::Instance
    }

    /// Own addresses by which other instances reach this one: those in the instance network, if there is one.
    #[cold]
    #[inline(never)]
    pub fn peer_addresses(&self) -> Vec<IpAddr> {
        let own = self.addresses.own_on(self.addresses.peers_interface());
        own.map(|cidr| cidr.address).collect()
    }

    /// Whether `address` is an own one, in whichever network.
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.addresses.is_own(address)
    }

    /// Whether `address` is one of the virtual addresses.
    pub fn is_vip(&self, address: IpAddr) -> bool {
        self.addresses.is_vip(address)
    }

    /// Octets of an IP packet the link carries.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Limits and defaults of connections here.
    pub fn tcp_config(&self) -> &TcpConfig {
        &self.tcp
    }

    /// Connections here at the moment.
    pub fn connection_count(&self) -> usize {
        self.table.len()
    }

    /// Every counter by name: what was dropped and why, and what was done.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        self.counters.list()
    }

    /// Frames that got lost here because their neighbour did not say where it is.
    pub fn unresolved(&self) -> u64 {
        self.counters.neighbour_unresolved
    }

    /// Datagrams to everyone on the link at this port are kept for [`Stack::group_receive`] from now on.
    pub fn group_listen(&mut self, port: u16) {
        self.groups.listen(port);
    }

    /// The next datagram to everyone, and who sent it.
    pub fn group_receive(&mut self) -> Option<(IpAddr, bytes::Bytes)> {
        self.groups.receive()
    }

    /// What the DHCP server said besides the address, if there was a new lease since the last call.
    pub fn take_lease_options(&mut self) -> Option<LeaseOptions> {
        self.slow.take_options()
    }

    /// A UDP socket at `port` of the own addresses; `None` if there is one already.
    pub fn udp_bind(&mut self, port: u16) -> Option<UdpId> {
        self.slow.bind(port)
    }

    /// Send a datagram. False if it cannot be sent now.
    pub fn udp_send(&mut self, now: Instant, socket: UdpId, to: SocketAddr, data: &[u8]) -> bool {
        self.slow.send(now, socket, to, data)
    }

    /// The next datagram received, and from whom.
    pub fn udp_receive(&mut self, socket: UdpId) -> Option<(SocketAddr, Vec<u8>)> {
        self.slow.receive(socket)
    }
}
