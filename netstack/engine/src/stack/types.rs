//! What a stack is built from, and the words in which it speaks of flows, routes and events.

use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use super::frame::{DeviceCapabilities, RxFrame};
use crate::tcp::TcpConfig;

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
#[derive(Clone)]
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
    /// A network of their own for what the instances have to say to each other; without one all of it goes
    /// where the clients are.
    pub instance: Option<InstanceNetwork>,
    /// Secret from which initial sequence numbers and timestamp offsets derive (RFC 6528); the
    /// same on all instances of a cluster.
    pub secret: [u8; 32],
    /// Limits and defaults of the TCP engine.
    pub tcp: TcpConfig,
}

/// The NIC of the instance network, and the addresses there.
#[derive(Clone, Debug)]
pub struct InstanceNetwork {
    /// The NIC's address; another one than that of the other NIC.
    pub mac: MacAddr,
    /// Largest IP packet the link carries, in octets.
    pub mtu: u16,
    /// What the NIC does for us.
    pub capabilities: DeviceCapabilities,
    /// The instance's own addresses there. Their prefixes have nothing in common with those of the
    /// service network.
    pub addresses: Vec<Cidr>,
    /// Gateways to what is not on the link (an operator's machine, say), at most one per family.
    pub gateways: Vec<IpAddr>,
}

impl core::fmt::Debug for StackConfig {
    // By hand: the secret is nobody's business.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("StackConfig")
            .field("mac", &self.mac)
            .field("mtu", &self.mtu)
            .field("capabilities", &self.capabilities)
            .field("addresses", &self.addresses)
            .field("gateways", &self.gateways)
            .field("dhcp", &self.dhcp)
            .field("vips", &self.vips)
            .field("instance", &self.instance)
            .field("tcp", &self.tcp)
            .finish_non_exhaustive()
    }
}

/// A connection in a [`Stack`](super::Stack); never reused for another connection.
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
    /// The virtual addresses; where there are none, the own addresses in the service network.
    Service,
    /// The instance's own addresses only, never a virtual one; those in the instance network, if there is one.
    Own,
}

/// A listening port of a [`Stack`](super::Stack).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ListenerId(pub u32);

/// What a stack reports.
#[derive(Debug)]
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
    /// A segment to a virtual address belongs to no known flow and the stack is told to ask
    /// ([`Stack::set_ask_unknown`](super::Stack::set_ask_unknown)). The frame is held ([`Route::Hold`])
    /// until the route is set or cleared.
    UnknownFlow {
        /// The flow.
        flow: FlowKey,
        /// Whether it is a SYN, so a new connection to be placed.
        syn: bool,
    },
    /// A client acknowledges the SYN-ACK of a connection that is half open here, and what it sent first is
    /// missing: so it is if that was lost, and if another instance has the connection. Or it brings back the
    /// cookie of another SYN. If no instance has that connection,
    /// [`Stack::complete_handshake`](super::Stack::complete_handshake); if one has, the route is to be set.
    DoubtfulHandshake {
        /// The flow.
        flow: FlowKey,
    },
    /// The set of own addresses changed: a DHCP lease came, changed or ran out.
    AddressesChanged,
    /// DHCP offers the service network an address of the instance network. It is not taken.
    LeaseRefused(Cidr),
    /// Somebody goes on claiming a virtual address that was defended a moment ago; said once after
    /// every defence.
    AddressContested {
        /// The address.
        address: IpAddr,
        /// Who claims it.
        mac: MacAddr,
    },
}

/// Why [`Stack::attach`](super::Stack::attach) failed. The connection is given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AttachError {
    /// A connection with these ends is already here.
    Occupied,
    /// The limit of connections is reached.
    TooMany,
}
