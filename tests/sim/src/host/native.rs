//! A client on our own stack: the active side of the engine, and at the same time a peer with every
//! option that today's hosts have.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use godwit_netstack::Instant;
use godwit_netstack::stack::{
    Cidr, ConnId, DeviceCapabilities, Interface, MacAddr, RxFrame, Stack, StackConfig,
};
use godwit_netstack::tcp;
use smoltcp::socket::tcp::State;

use super::stream::Stream;
use super::{Conversation, HostConfig, Outcome, Plan, client};
use crate::host::App;
use crate::node::on_the_wire;
use crate::rng::Rng;
use crate::world::Party;

/// Octets the application leaves unsent in the queue.
const SEND_BUFFER: usize = 256 * 1024;

/// A host of conversations, each on a connection of its own.
pub struct Native {
    mac: MacAddr,
    pub(super) stack: Stack,
    pub(super) address: IpAddr,
    pub(super) conversations: BTreeMap<usize, (Option<ConnId>, Conversation)>,
    /// Conversations so far.
    opened: usize,
    /// Ports of connections that are as if their machine were gone.
    pub(super) deaf: BTreeSet<u16>,
    pub(super) turns: u64,
    out: VecDeque<Bytes>,
}

impl Native {
    /// A host without connections.
    ///
    /// # Panics
    /// If it has no address.
    pub fn new(config: HostConfig, tcp: tcp::TcpConfig, now: Instant) -> Native {
        let (address, _) = config.addresses[0];
        let addresses = config.addresses.into_iter();
        let mut rng = Rng::new(config.seed);
        let stack = Stack::new(
            StackConfig {
                mac: config.mac,
                mtu: config.mtu as u16,
                capabilities: DeviceCapabilities::default(),
                addresses: addresses
                    .map(|(address, prefix)| Cidr { address, prefix })
                    .collect(),
                gateways: Vec::new(),
                dhcp: false,
                vips: Vec::new(),
                instance: None,
                secret: rng.seed(),
                tcp,
            },
            rng.seed(),
            now,
        );
        Native {
            mac: config.mac,
            stack,
            address,
            conversations: BTreeMap::new(),
            opened: 0,
            deaf: BTreeSet::new(),
            turns: 0,
            out: VecDeque::new(),
        }
    }

    /// Open a connection and follow `plan` on it. Returns its number here.
    pub fn converse(&mut self, now: Instant, remote: SocketAddr, plan: Plan) -> usize {
        let conn = self.stack.connect(now, None, remote).ok();
        self.add(conn, plan)
    }

    pub(super) fn add(&mut self, conn: Option<ConnId>, plan: Plan) -> usize {
        let index = self.opened;
        self.opened += 1;
        let conversation = Conversation::new(plan);
        self.conversations.insert(index, (conn, conversation));
        index
    }

    /// A conversation.
    ///
    /// # Panics
    /// If there is none of that number.
    pub fn conversation(&mut self, index: usize) -> &mut Conversation {
        let found = self.conversations.get_mut(&index);
        &mut found.expect("a conversation here").1
    }

    /// How a conversation fares.
    pub fn outcome(&self, index: usize) -> Outcome {
        self.conversations[&index].1.outcome()
    }

    /// The connection of a conversation, to look at.
    pub fn connection(&self, index: usize) -> Option<&tcp::Connection> {
        self.stack.connection(self.conversations[&index].0?)
    }

    /// A counter of the stack.
    pub fn counter(&self, name: &str) -> u64 {
        let counters = self.stack.counters().into_iter();
        let found = counters.filter(|(known, _)| *known == name);
        found.map(|(_, count)| count).sum()
    }

    fn turn(&mut self, now: Instant) {
        self.turns += 1;
        // Bounded, as in `Host`.
        for _ in 0..64 {
            while self.stack.poll_event().is_some() {}
            let mut active = false;
            for (conn, conversation) in self.conversations.values_mut() {
                let stack = &mut self.stack;
                let mut end = End { stack, conn, now };
                active |= conversation.follow(now, &mut end);
            }
            if !active {
                break;
            }
        }
    }
}

/// A connection of the stack as a conversation needs it.
struct End<'a> {
    stack: &'a mut Stack,
    conn: &'a Option<ConnId>,
    now: Instant,
}

impl End<'_> {
    fn connection(&self) -> Option<&tcp::Connection> {
        self.stack.connection((*self.conn)?)
    }

    fn update<R>(&mut self, act: impl FnOnce(&mut tcp::Connection, Instant) -> R) -> Option<R> {
        let now = self.now;
        self.stack.update(now, (*self.conn)?, |tcp| act(tcp, now))
    }
}

impl Stream for End<'_> {
    fn room(&self) -> usize {
        match self.connection() {
            Some(tcp) if self.may_send() => SEND_BUFFER.saturating_sub(tcp.send_queued()),
            _ => 0,
        }
    }

    fn send(&mut self, data: &[u8]) -> usize {
        let data = Bytes::copy_from_slice(data);
        let octets = data.len();
        let sent = self.update(|tcp, now| tcp.send(now, data).is_ok());
        match sent {
            Some(true) => octets,
            _ => 0,
        }
    }

    fn has_input(&self) -> bool {
        self.connection()
            .is_some_and(|tcp| tcp.receive_available() > 0)
    }

    fn receive(&mut self) -> Bytes {
        let data = self.update(|tcp, now| {
            let data = tcp.receive_peek(0).unwrap_or_default();
            tcp.receive_consume(now, data.len());
            data
        });
        data.unwrap_or_default()
    }

    fn may_send(&self) -> bool {
        matches!(self.state(), State::Established | State::CloseWait)
    }

    fn close(&mut self) {
        self.update(|tcp, now| tcp.close(now));
    }

    fn state(&self) -> State {
        let Some(tcp) = self.connection() else {
            return State::Closed;
        };
        match tcp.state() {
            tcp::State::Closed => State::Closed,
            tcp::State::SynSent => State::SynSent,
            tcp::State::SynReceived => State::SynReceived,
            tcp::State::Established => State::Established,
            tcp::State::FinWait1 => State::FinWait1,
            tcp::State::FinWait2 => State::FinWait2,
            tcp::State::CloseWait => State::CloseWait,
            tcp::State::Closing => State::Closing,
            tcp::State::LastAck => State::LastAck,
            tcp::State::TimeWait => State::TimeWait,
        }
    }
}

impl Party for Native {
    fn mac(&self) -> MacAddr {
        self.mac
    }

    fn is_server(&self) -> bool {
        false
    }

    fn handle_frame(&mut self, now: Instant, _interface: Interface, frame: &Bytes) {
        if client::is_for_one_of(frame, &self.deaf) {
            return;
        }
        self.stack.handle_frame(now, RxFrame::new(frame.clone()));
        self.turn(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.stack.handle_timeout(now);
        self.turn(now);
    }

    fn poll_transmit(&mut self, now: Instant) -> Option<(Interface, Bytes)> {
        if self.out.is_empty()
            && let Some(frame) = self.stack.poll_transmit(now)
        {
            self.out.extend(on_the_wire(&frame));
        }
        let frame = self.out.pop_front()?;
        Some((Interface::Service, frame))
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.stack.poll_timeout()
    }
}
