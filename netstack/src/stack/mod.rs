//! The facade of the network stack: frames in, frames out, connections in between.
//!
//! TCP takes the fast path (ours, [`crate::tcp`]); ARP, NDP, ICMP, UDP and DHCP take the slow
//! path, on smoltcp. The stack knows flows and where each of them is to go ([`Route`]); it does
//! not know why: sessions, transfers and the cluster are [`crate::instance`]'s concern.

pub mod frame;

use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use crate::tcp::TcpConfig;
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
}
