//! The slow path on smoltcp: UDP sockets and the DHCPv4 client.
//!
//! smoltcp never touches the NIC here. One interface speaks bare IP packets for UDP, and exists from
//! the first socket or datagram on; the other speaks Ethernet, because its DHCP client insists on
//! that, and exists only with DHCP. What they send goes through the stack's own neighbour table.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, SocketAddr};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium};
use smoltcp::phy::{RxToken, TxToken};
use smoltcp::socket::{dhcpv4, udp};
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, HardwareAddress, IpCidr, IpEndpoint,
};

use super::addresses::Addresses;
use super::lease::{self, LeaseOptions};
use super::wire::{self, ETHERNET, ETHERTYPE_ARP, Ethernet};
use super::{Cidr, MacAddr};
use crate::time::{Duration, Instant};

/// Stands for every neighbour in what the DHCP client sends by unicast: the stack's own table
/// knows the real one.
const ANY_NEIGHBOUR: MacAddr = [0x02, 0, 0, 0, 0, 0xfe];
/// Frames waiting for smoltcp at most.
const MAX_QUEUED: usize = 64;
/// Octets and datagrams an UDP socket buffers, each way.
const UDP_OCTETS: usize = 16 * 1024;
const UDP_DATAGRAMS: usize = 32;

/// A UDP socket of a [`super::Stack`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct UdpId(u32);

/// An address from DHCP, and the gateway that came with it.
pub(super) type Lease = (Cidr, Option<IpAddr>);

/// What the slow path wants sent.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// A whole frame to everyone.
    Group(Vec<u8>),
    /// An IP packet.
    Packet(Vec<u8>),
}

/// The two queues smoltcp takes for a NIC.
struct Queues {
    medium: Medium,
    mtu: usize,
    rx: VecDeque<Vec<u8>>,
    tx: VecDeque<Vec<u8>>,
}

impl Queues {
    fn new(medium: Medium, mtu: u16) -> Queues {
        let header = if medium == Medium::Ethernet {
            ETHERNET
        } else {
            0
        };
        Queues {
            medium,
            mtu: usize::from(mtu) + header,
            rx: VecDeque::new(),
            tx: VecDeque::new(),
        }
    }
}

struct Rx(Vec<u8>);
struct Tx<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = vec![0; length];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Queues {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Rx, Tx<'_>)> {
        let frame = self.rx.pop_front()?;
        Some((Rx(frame), Tx(&mut self.tx)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Tx<'_>> {
        (self.tx.len() < MAX_QUEUED).then_some(Tx(&mut self.tx))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        // What arrives here was checked before.
        let mut checksum = ChecksumCapabilities::default();
        checksum.ipv4 = Checksum::Tx;
        checksum.udp = Checksum::Tx;
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = self.medium;
        capabilities.max_transmission_unit = self.mtu;
        capabilities.checksum = checksum;
        capabilities
    }
}

fn smoltcp_time(now: Instant) -> smoltcp::time::Instant {
    smoltcp::time::Instant::from_micros((now.as_micros() & (u64::MAX >> 1)) as i64)
}

fn from_smoltcp_time(time: smoltcp::time::Instant) -> Instant {
    Instant::from_nanos(
        u64::try_from(time.total_micros())
            .unwrap_or(0)
            .saturating_mul(1000),
    )
}

/// One smoltcp interface with its sockets and queues.
struct Half {
    interface: Interface,
    sockets: SocketSet<'static>,
    queues: Queues,
}

impl Half {
    fn new(hardware: HardwareAddress, medium: Medium, mtu: u16, seed: u64, now: Instant) -> Half {
        let mut queues = Queues::new(medium, mtu);
        let mut config = Config::new(hardware);
        config.random_seed = seed;
        Half {
            interface: Interface::new(config, &mut queues, smoltcp_time(now)),
            sockets: SocketSet::new(Vec::new()),
            queues,
        }
    }

    #[cold]
    #[inline(never)]
    fn poll(&mut self, now: Instant) {
        let _ = self
            .interface
            .poll(smoltcp_time(now), &mut self.queues, &mut self.sockets);
    }

    fn poll_at(&mut self, now: Instant) -> Option<Instant> {
        let due = self.interface.poll_at(smoltcp_time(now), &self.sockets)?;
        Some(from_smoltcp_time(due))
    }

    #[cold]
    #[inline(never)]
    fn set_addresses<'a>(&mut self, addresses: impl Iterator<Item = &'a Cidr>) {
        self.interface.update_ip_addrs(|list| {
            list.clear();
            for cidr in addresses {
                let longest = if cidr.address.is_ipv4() { 32 } else { 128 };
                let cidr = IpCidr::new(cidr.address.into(), cidr.prefix.min(longest));
                if cidr.address().is_unicast() {
                    let _ = list.push(cidr);
                }
            }
        });
    }

    /// Speak from these addresses to everyone: where to send is decided by the stack, to smoltcp
    /// everything is one hop away.
    fn settle(&mut self, own: &[Cidr]) {
        self.set_addresses(own.iter());
        let routes = self.interface.routes_mut();
        for cidr in own {
            let _ = match cidr.address {
                IpAddr::V4(v4) => routes.add_default_ipv4_route(v4),
                IpAddr::V6(v6) => routes.add_default_ipv6_route(v6),
            };
        }
    }
}

/// The slow path.
pub(super) struct Slow {
    mtu: u16,
    seed: u64,
    begun: Instant,
    own: Vec<Cidr>,
    udp: Option<Box<Half>>,
    bound: Vec<(u16, SocketHandle)>,
    dhcp: Option<Box<(Half, SocketHandle)>>,
    out: VecDeque<Outgoing>,
    lease: Option<Option<Lease>>,
    /// As it is, to tell a new one from one that was renewed.
    held: Option<Lease>,
    options: Option<LeaseOptions>,
    due: Option<Instant>,
}

impl fmt::Debug for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slow")
            .field("due", &self.due)
            .finish_non_exhaustive()
    }
}

impl Slow {
    pub(super) fn new(mac: MacAddr, mtu: u16, seed: u64, dhcp: bool, now: Instant) -> Slow {
        let dhcp = (dhcp && wire::is_unicast(&mac)).then(|| {
            let hardware = HardwareAddress::Ethernet(EthernetAddress(mac));
            let mut half = Half::new(hardware, Medium::Ethernet, mtu, !seed, now);
            let mut socket = dhcpv4::Socket::new();
            socket.set_parameter_request_list(lease::REQUESTED);
            // There is one client for good.
            socket.set_receive_packet_buffer(vec![0; usize::from(mtu)].leak());
            let handle = half.sockets.add(socket);
            Box::new((half, handle))
        });
        Slow {
            mtu,
            seed,
            begun: now,
            own: Vec::new(),
            udp: None,
            bound: Vec::new(),
            due: dhcp.is_some().then_some(now),
            dhcp,
            out: VecDeque::new(),
            lease: None,
            held: None,
            options: None,
        }
    }

    /// Tell smoltcp the own addresses. It never sees a virtual one.
    pub(super) fn set_addresses(&mut self, addresses: &Addresses) {
        self.own = addresses.own();
        if let Some(udp) = &mut self.udp {
            udp.settle(&self.own);
        }
    }

    /// The interface for UDP.
    fn udp(&mut self) -> &mut Half {
        let (mtu, seed, begun, own) = (self.mtu, self.seed, self.begun, &self.own);
        self.udp.get_or_insert_with(|| {
            let mut half = Half::new(HardwareAddress::Ip, Medium::Ip, mtu, seed, begun);
            half.settle(own);
            Box::new(half)
        })
    }

    /// Whether the DHCP client runs.
    pub(super) fn has_dhcp(&self) -> bool {
        self.dhcp.is_some()
    }

    /// Whether a UDP socket is bound to `port`.
    pub(super) fn is_bound(&self, port: u16) -> bool {
        self.bound.iter().any(|(bound, _)| *bound == port)
    }

    /// A frame for the DHCP client.
    pub(super) fn handle_dhcp(&mut self, now: Instant, frame: &[u8]) {
        if let Some(dhcp) = &mut self.dhcp {
            dhcp.0.queues.rx.push_back(frame.to_vec());
            self.handle_timeout(now);
        }
    }

    /// An IP packet with a datagram for one of the own addresses.
    pub(super) fn handle_packet(&mut self, now: Instant, packet: &[u8]) {
        self.udp().queues.rx.push_back(packet.to_vec());
        self.handle_timeout(now);
    }

    /// Let smoltcp do what is due.
    #[cold]
    #[inline(never)]
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        let mut due = None;
        if let Some(udp) = &mut self.udp {
            udp.poll(now);
            self.out
                .extend(udp.queues.tx.drain(..).map(Outgoing::Packet));
            due = udp.poll_at(now);
        }
        if let Some(dhcp) = &mut self.dhcp {
            let (half, handle) = &mut **dhcp;
            if let Some((lease, options)) = poll_dhcp(half, *handle, now, &mut self.out)
                && self.held != lease
            {
                self.held = lease;
                self.lease = Some(lease);
                self.options = lease.is_some().then_some(options);
            }
            due = due.into_iter().chain(half.poll_at(now)).min();
        }
        // A deadline in the past would make the drive loop spin.
        self.due = due.map(|due| due.max(now + Duration::from_millis(1)));
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    pub(super) fn poll_transmit(&mut self) -> Option<Outgoing> {
        self.out.pop_front()
    }

    /// The lease, if it changed since the last call.
    pub(super) fn take_lease(&mut self) -> Option<Option<Lease>> {
        self.lease.take()
    }

    /// What else the server said with it.
    pub(super) fn take_options(&mut self) -> Option<LeaseOptions> {
        self.options.take()
    }

    /// A UDP socket at `port` of the own addresses.
    pub(super) fn bind(&mut self, port: u16) -> Option<UdpId> {
        if self.is_bound(port) {
            return None;
        }
        let buffer = || {
            let metadata = vec![udp::PacketMetadata::EMPTY; UDP_DATAGRAMS];
            udp::PacketBuffer::new(metadata, vec![0; UDP_OCTETS])
        };
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).ok()?;
        let handle = self.udp().sockets.add(socket);
        self.bound.push((port, handle));
        Some(UdpId((self.bound.len() - 1) as u32))
    }

    fn socket(&mut self, id: UdpId) -> Option<&mut udp::Socket<'static>> {
        let (_, handle) = *self.bound.get(id.0 as usize)?;
        let sockets = &mut self.udp.as_mut()?.sockets;
        Some(sockets.get_mut::<udp::Socket<'static>>(handle))
    }

    pub(super) fn send(&mut self, now: Instant, id: UdpId, to: SocketAddr, data: &[u8]) -> bool {
        let endpoint = IpEndpoint::from(to);
        let sent = self
            .socket(id)
            .is_some_and(|s| s.send_slice(data, endpoint).is_ok());
        self.handle_timeout(now);
        sent
    }

    pub(super) fn receive(&mut self, id: UdpId) -> Option<(SocketAddr, Vec<u8>)> {
        let (data, metadata) = self.socket(id)?.recv().ok()?;
        let from = SocketAddr::new(metadata.endpoint.addr.into(), metadata.endpoint.port);
        Some((from, data.to_vec()))
    }
}

/// Run the DHCP client; the lease, if it changed.
fn poll_dhcp(
    half: &mut Half,
    handle: SocketHandle,
    now: Instant,
    out: &mut VecDeque<Outgoing>,
) -> Option<(Option<Lease>, LeaseOptions)> {
    // Twice: the client's question about a neighbour is answered at once, then its packet comes.
    for _ in 0..2 {
        half.poll(now);
        while let Some(frame) = half.queues.tx.pop_front() {
            let Some(ethernet) = Ethernet::parse(&frame) else {
                continue;
            };
            if ethernet.ethertype == ETHERTYPE_ARP {
                half.queues.rx.extend(answer(&frame));
            } else if wire::is_unicast(&ethernet.dst) {
                out.push_back(Outgoing::Packet(frame.get(ETHERNET..)?.to_vec()));
            } else {
                out.push_back(Outgoing::Group(frame));
            }
        }
    }
    let mut options = LeaseOptions::default();
    let lease = match half
        .sockets
        .get_mut::<dhcpv4::Socket<'static>>(handle)
        .poll()?
    {
        dhcpv4::Event::Configured(config) => {
            let cidr = Cidr {
                address: config.address.address().into(),
                prefix: config.address.prefix_len(),
            };
            // Some servers name 0.0.0.0 where there is no router; smoltcp would ask for it.
            let router = config.router.filter(|router| {
                let nobody = router.is_unspecified() || router.is_multicast();
                !nobody && !router.is_broadcast()
            });
            if let Some(message) = config.packet {
                options = LeaseOptions::read(message.into_inner());
            }
            Some((cidr, router.map(IpAddr::from)))
        }
        dhcpv4::Event::Deconfigured => None,
    };
    half.set_addresses(lease.iter().map(|(cidr, _)| cidr));
    let routes = half.interface.routes_mut();
    match lease {
        Some((_, Some(IpAddr::V4(router)))) => {
            let _ = routes.add_default_ipv4_route(router);
        }
        _ => {
            routes.remove_default_ipv4_route();
        }
    }
    Some((lease, options))
}

/// The answer to an ARP request of the DHCP client: [`ANY_NEIGHBOUR`].
fn answer(request: &[u8]) -> Option<Vec<u8>> {
    let packet = ArpPacket::new_checked(request.get(ETHERNET..)?).ok()?;
    let ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = ArpRepr::parse(&packet).ok()?
    else {
        return None;
    };
    let repr = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(ANY_NEIGHBOUR),
        source_protocol_addr: target_protocol_addr,
        target_hardware_addr: source_hardware_addr,
        target_protocol_addr: source_protocol_addr,
    };
    let mut frame = vec![0; ETHERNET + repr.buffer_len()];
    frame
        .get_mut(..6)?
        .copy_from_slice(source_hardware_addr.as_bytes());
    frame.get_mut(6..12)?.copy_from_slice(&ANY_NEIGHBOUR);
    frame
        .get_mut(12..14)?
        .copy_from_slice(&ETHERTYPE_ARP.to_be_bytes());
    repr.emit(&mut ArpPacket::new_unchecked(frame.get_mut(ETHERNET..)?));
    Some(frame)
}
