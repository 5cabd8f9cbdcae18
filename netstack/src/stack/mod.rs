//! The facade of the network stack: frames in, frames out, connections in between.
//!
//! TCP takes the fast path (ours, [`crate::tcp`]); ARP, NDP, ICMP, UDP and DHCP take the slow
//! path, on smoltcp. The stack knows flows and where each of them is to go ([`Route`]); it does
//! not know why: sessions, transfers and the cluster are [`crate::instance`]'s concern.

pub mod frame;

use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use crate::tcp::{Connection, TcpConfig};
use crate::time::Instant;
pub use frame::{DeviceCapabilities, RxFrame, TxFrame};

/// An Ethernet address.
pub type MacAddr = [u8; 6];

/// An address of this instance with the length of its on-link prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cidr {
    /// The address.
    pub address: IpAddr,
    /// Length of the on-link prefix in bits (0 to 32 or 128).
    pub prefix: u8,
}

/// What a stack is built from.
#[derive(Clone, Debug)]
pub struct StackConfig {
    /// The NIC's address.
    pub mac: MacAddr,
    /// Largest IP packet the link carries, in octets (68 to 65535; IPv6 needs 1280).
    pub mtu: u16,
    /// What the NIC does for us.
    pub capabilities: DeviceCapabilities,
    /// The instance's own addresses.
    pub addresses: Vec<Cidr>,
    /// Default gateways, at most one per family.
    pub gateways: Vec<IpAddr>,
    /// Ask DHCP for an IPv4 address.
    pub dhcp: bool,
    /// Virtual addresses the service is reached by.
    pub vips: Vec<IpAddr>,
    /// Secret from which initial sequence numbers and timestamp offsets derive (RFC 6528); the
    /// same on all instances of a cluster.
    pub secret: [u8; 32],
    /// Limits and defaults of the TCP engine.
    pub tcp: TcpConfig,
}

/// A connection in a [`Stack`]; never reused for another connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ConnId {
    /// Slot in the table.
    pub index: u32,
    /// How often the slot has been used before.
    pub generation: u32,
}

/// The two ends of a TCP flow, seen from the server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FlowKey {
    /// Our end (usually the virtual IP and the service's port).
    pub local: SocketAddr,
    /// The client's end.
    pub remote: SocketAddr,
}

/// Where frames of a flow go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// To a connection here.
    Local(ConnId),
    /// Out as [`StackEvent::Captured`], in order: the session is frozen and its frames follow the capsule.
    Capture,
    /// Into the hold queue until the route changes: the capsule, or an answer, is on its way.
    Hold,
    /// To another instance on the link, as a router would pass them on (own source MAC, TTL
    /// decremented): a tombstone, or the ingress steering.
    Forward(IpAddr),
}

/// Which addresses a listener is reached by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// The virtual addresses; where there are none, the own addresses.
    Service,
    /// The instance's own addresses only, never a virtual one.
    Own,
}

/// A listening port of a [`Stack`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ListenerId(pub u32);

/// What a stack reports.
#[derive(Debug)]
#[non_exhaustive]
pub enum StackEvent {
    /// A handshake completed.
    Accepted {
        /// The listener it arrived at.
        listener: ListenerId,
        /// The new connection.
        conn: ConnId,
    },
    /// Something about the connection changed that an application may wait for (data, room,
    /// established, end of input, reset). Coalesced.
    Updated(ConnId),
    /// The connection is gone: closed on both sides, timed out or reset. Its id is dead.
    Gone {
        /// The dead connection.
        conn: ConnId,
        /// Its flow.
        flow: FlowKey,
    },
    /// A frame of a flow whose route is [`Route::Capture`].
    Captured {
        /// The flow.
        flow: FlowKey,
        /// The frame as received.
        frame: RxFrame,
    },
    /// A segment to a service port of a virtual address belongs to no known flow and the stack is
    /// told to ask ([`Stack::set_ask_unknown`]). The frame is held ([`Route::Hold`]) until the
    /// route is set or cleared.
    UnknownFlow {
        /// The flow.
        flow: FlowKey,
        /// Whether it is a SYN, so a new connection to be placed.
        syn: bool,
    },
    /// The set of own addresses changed: a DHCP lease came, changed or ran out.
    AddressesChanged,
}

/// Why [`Stack::connect`] failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// No own address of the remote's family, or the local address given is none of ours.
    NoAddress,
    /// No on-link prefix and no gateway leads there.
    NoRoute,
    /// Every local port towards that remote end is in use.
    NoPort,
    /// The limit of connections is reached.
    TooMany,
}

/// Why [`Stack::attach`] failed. The connection is given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AttachError {
    /// A connection with these ends is already here.
    Occupied,
    /// The limit of connections is reached.
    TooMany,
}

/// The network stack of one instance. After every `handle_*` or command drain
/// [`Stack::poll_event`] and then [`Stack::poll_transmit`], and sleep until
/// [`Stack::poll_timeout`] or the next frame.
#[derive(Debug)]
pub struct Stack {}

#[expect(unused_variables, clippy::unimplemented, reason = "being filled in")]
impl Stack {
    /// A stack with the addresses of `config`; `seed` feeds everything random in it.
    pub fn new(config: StackConfig, seed: [u8; 32], now: Instant) -> Stack {
        unimplemented!()
    }

    /// Take in a frame from the NIC.
    pub fn handle_frame(&mut self, now: Instant, frame: RxFrame) {
        unimplemented!()
    }

    /// Take in a frame that another instance captured and sent through the channel: handled as
    /// one from the NIC, but its checksums were verified where it was captured.
    pub fn inject(&mut self, now: Instant, frame: RxFrame) {
        unimplemented!()
    }

    /// Fire timers that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        unimplemented!()
    }

    /// The next frame to send.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<TxFrame> {
        unimplemented!()
    }

    /// When [`Stack::handle_timeout`] is next due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        unimplemented!()
    }

    /// The next thing to report.
    pub fn poll_event(&mut self) -> Option<StackEvent> {
        unimplemented!()
    }

    /// Accept connections at `port`. A second listener on the same port and addresses is found
    /// after the first.
    pub fn listen(&mut self, port: u16, scope: Scope) -> ListenerId {
        unimplemented!()
    }

    /// Whether the listener takes new connections; while it does not, SYNs are dropped in
    /// silence, so that the client tries again and finds another instance.
    pub fn set_accepting(&mut self, listener: ListenerId, accepting: bool) {
        unimplemented!()
    }

    /// Open a connection, from `local` (an own or virtual address) or the own address that fits.
    pub fn connect(
        &mut self,
        now: Instant,
        local: Option<IpAddr>,
        remote: SocketAddr,
    ) -> Result<ConnId, ConnectError> {
        unimplemented!()
    }

    /// The connection, unless its id is dead.
    pub fn connection(&self, conn: ConnId) -> Option<&Connection> {
        unimplemented!()
    }

    /// Run `command` on the connection, then see to its timers, events and output.
    pub fn update<R>(
        &mut self,
        now: Instant,
        conn: ConnId,
        command: impl FnOnce(&mut Connection) -> R,
    ) -> Option<R> {
        unimplemented!()
    }

    /// The ends of a connection.
    pub fn flow(&self, conn: ConnId) -> Option<FlowKey> {
        unimplemented!()
    }

    /// Take the connection out, with the MAC address its frames went to. From now on nothing is
    /// sent for it, its id is dead (no [`StackEvent::Gone`]) and frames of its flow go along
    /// `route` ([`Route::Local`] makes no sense here and removes the flow).
    pub fn detach(
        &mut self,
        now: Instant,
        conn: ConnId,
        route: Route,
    ) -> Option<(Connection, Option<MacAddr>)> {
        unimplemented!()
    }

    /// Put a connection in; its flow is local from now on. `next_hop` is the MAC address to use
    /// until the neighbour answers for itself. Frames held for the flow are processed, in order,
    /// before this returns.
    pub fn attach(
        &mut self,
        now: Instant,
        connection: Connection,
        next_hop: Option<MacAddr>,
    ) -> Result<ConnId, (Connection, AttachError)> {
        unimplemented!()
    }

    /// Where frames of the flow go; `None` for a flow nobody told us of.
    pub fn route(&self, flow: &FlowKey) -> Option<Route> {
        unimplemented!()
    }

    /// Send frames of the flow along `route` from now on; held frames first, in order. Ignored
    /// for a flow with a connection here ([`Stack::detach`] it), and for [`Route::Local`].
    pub fn set_route(&mut self, now: Instant, flow: FlowKey, route: Route) {
        unimplemented!()
    }

    /// Forget the flow's route. Held frames are then what frames of an unknown flow are without
    /// anyone to ask: answered with RST (RFC 9293 section 3.10.7.1).
    pub fn clear_route(&mut self, now: Instant, flow: &FlowKey) {
        unimplemented!()
    }

    /// Forget the flow's route and give held frames to our own listener.
    pub fn accept_here(&mut self, now: Instant, flow: &FlowKey) {
        unimplemented!()
    }

    /// Forget the flow's route and drop held frames in silence (nobody could say whose it is).
    pub fn drop_held(&mut self, now: Instant, flow: &FlowKey) {
        unimplemented!()
    }

    /// When a frame of the flow last passed along its [`Route::Forward`] (or the route was set).
    pub fn route_last_used(&self, flow: &FlowKey) -> Option<Instant> {
        unimplemented!()
    }

    /// Whether segments of unknown flows to a service port of a virtual address are held and
    /// reported ([`StackEvent::UnknownFlow`]) rather than accepted or reset here.
    pub fn set_ask_unknown(&mut self, ask: bool) {
        unimplemented!()
    }

    /// Whether to answer ARP and NDP for the virtual addresses. On becoming true they are
    /// announced three times.
    pub fn set_ingress(&mut self, now: Instant, ingress: bool) {
        unimplemented!()
    }

    /// Own addresses: configured and leased, no virtual and no link-local ones.
    pub fn addresses(&self) -> Vec<IpAddr> {
        unimplemented!()
    }

    /// Whether `address` is one of the virtual addresses.
    pub fn is_vip(&self, address: IpAddr) -> bool {
        unimplemented!()
    }

    /// Connections here at the moment.
    pub fn connection_count(&self) -> usize {
        unimplemented!()
    }

    /// Half-open connections at the moment.
    pub fn half_open_count(&self) -> usize {
        unimplemented!()
    }

    /// Every counter by name: what was dropped and why, and what was done.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        unimplemented!()
    }
}
