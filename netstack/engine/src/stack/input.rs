//! Frames in: checked, classified and taken to the connection, the listener or the instance that
//! they are for.

use alloc::vec::Vec;
use core::net::IpAddr;

use super::flows::{self, Entry, Held, HoldError, Packed};
use super::frame::{Interface, RxChecksum, RxFrame};
use super::wire::{self, ETHERNET, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, IPV6};
use super::wire::{ICMP, ICMPV6, Ip, IpError, TCP, UDP};
use super::{ConnId, FlowKey, Stack, StackEvent, forward, solicited_node};
use crate::tcp::segment::{Ecn, Segment};
use crate::time::Instant;

/// Octets of captured frames that wait to be polled at most.
const MAX_CAPTURED: usize = 4 << 20;
const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// How a frame came to be handled, and so what an unknown flow is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    /// From the NIC.
    Wire,
    /// Through the channel of another instance, which had captured it.
    Channel,
    /// The same, behind a capsule that was taken in: an unknown flow is one that has ended since.
    Behind,
    /// From a hold queue: it was decided that new connections are accepted here.
    Accept,
    /// From a hold queue: nobody knows the flow.
    Refuse,
}

impl Origin {
    fn is_channel(self) -> bool {
        matches!(self, Origin::Channel | Origin::Behind)
    }
}

impl Stack {
    pub(super) fn handle_ethernet(&mut self, now: Instant, frame: RxFrame, origin: Origin) {
        let frame = if frame.more.is_empty() {
            frame
        } else {
            match self.handle_pieces(now, frame) {
                Some(frame) => frame.whole(),
                None => return,
            }
        };
        let Some(ethernet) = Ethernet::parse(&frame.bytes) else {
            self.counters.rx_malformed += 1;
            return;
        };
        // Frames from the channel were addressed to the instance that captured them.
        let group = ethernet.dst[0] & 1 != 0;
        let ours = self.port(frame.interface).mac;
        if origin == Origin::Wire && !group && ethernet.dst != ours {
            self.counters.rx_other_station += 1;
            return;
        }
        if !wire::is_unicast(&ethernet.src) || (group && ethernet.src == ours) {
            self.counters.rx_bad_source += 1;
            return;
        }
        match (
            ethernet.ethertype,
            frame.bytes.get(ETHERNET).map(|octet| octet >> 4),
        ) {
            (ETHERTYPE_ARP, _) if origin == Origin::Wire => {
                self.handle_arp(now, frame.interface, &frame.bytes);
            }
            (ETHERTYPE_IPV4, Some(4)) | (ETHERTYPE_IPV6, Some(6)) => {
                self.handle_ip(now, frame, group, origin);
            }
            (ETHERTYPE_IPV4 | ETHERTYPE_IPV6, _) => self.counters.rx_malformed += 1,
            _ => self.counters.rx_unknown_ethertype += 1,
        }
    }

    fn handle_ip(&mut self, now: Instant, frame: RxFrame, group: bool, origin: Origin) {
        let ip = match wire::parse_ip(&frame.bytes, ETHERNET, true) {
            Ok(ip) => ip,
            Err(error) => {
                *match error {
                    IpError::Malformed => &mut self.counters.rx_malformed,
                    IpError::BadChecksum => &mut self.counters.rx_bad_checksum,
                    IpError::Fragment => &mut self.counters.rx_fragment,
                    IpError::UnknownProtocol => &mut self.counters.rx_unknown_protocol,
                } += 1;
                return;
            }
        };
        // A lease may come addressed to the address it is about, so before it is ours.
        if ip.protocol == UDP
            && self.slow.has_dhcp()
            && frame.interface == Interface::Service
            && is_dhcp(&frame, &ip)
        {
            self.handle_dhcp(now, &frame, &ip);
            return;
        }
        let unspecified_ok = ip.protocol == ICMPV6 && ip.src.is_unspecified();
        if !(unspecified_ok || self.addresses.is_host(ip.src))
            || self.addresses.is_own(ip.src)
            || (self.addresses.is_vip(ip.src) && self.addresses.is_vip(ip.dst))
        {
            self.counters.rx_bad_source += 1;
            return;
        }
        let own = self.addresses.is_own_on(frame.interface, ip.dst);
        // For a virtual one it may come from the ingress, and so from the other network.
        let unicast = own || self.addresses.is_vip(ip.dst);
        if !unicast && !self.listens_to_group(frame.interface, ip.dst) {
            *match self.addresses.is_own(ip.dst) {
                true => &mut self.counters.rx_other_network,
                false => &mut self.counters.rx_other_address,
            } += 1;
            return;
        }
        match ip.protocol {
            TCP if unicast && !group => self.handle_tcp(now, frame, &ip, origin),
            TCP => self.counters.rx_tcp_not_unicast += 1,
            ICMP if ip.src.is_ipv4() => self.handle_icmp(now, frame, &ip, origin),
            ICMPV6 if ip.src.is_ipv6() => self.handle_icmp(now, frame, &ip, origin),
            UDP if own && !group => self.handle_udp(now, frame, &ip),
            UDP if !unicast => self.handle_group(frame, &ip),
            UDP => self.counters.udp_ignored += 1,
            _ => self.counters.rx_unknown_protocol += 1,
        }
    }

    /// Whether `address` is a group that this stack is in, at that interface.
    fn listens_to_group(&self, interface: Interface, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(_) => self.addresses.is_broadcast(address),
            IpAddr::V6(v6) if v6.is_multicast() && self.addresses.has_ipv6(interface) => {
                let all_nodes = v6.segments() == [0xff02, 0, 0, 0, 0, 0, 0, 1];
                let asked_for = |own: IpAddr| match own {
                    IpAddr::V6(own) => solicited_node(own) == v6,
                    IpAddr::V4(_) => false,
                };
                let mut own = self.addresses.own_on(interface);
                let mut vips = self.addresses.vips().iter();
                all_nodes
                    || asked_for(self.addresses.link_local(interface).into())
                    || own.any(|cidr| asked_for(cidr.address))
                    || interface == Interface::Service && vips.any(|vip| asked_for(*vip))
            }
            IpAddr::V6(_) => false,
        }
    }

    fn handle_udp(&mut self, now: Instant, mut frame: RxFrame, ip: &Ip) {
        let datagram = frame.bytes.get(ip.payload.clone()).unwrap_or_default();
        let Some([_, _, p0, p1, _, _, _, _]) = datagram.first_chunk::<8>().copied() else {
            self.counters.rx_malformed += 1;
            return;
        };
        if !self.verify(&mut frame, ip) {
            return;
        }
        if self.take_datagram(&frame, ip) {
            return;
        }
        // What no socket takes, smoltcp answers with "port unreachable".
        let port = u16::from_be_bytes([p0, p1]);
        if !self.slow.is_bound(port) && !self.unreachable_limit.allow(now) {
            self.counters.udp_ignored += 1;
            return;
        }
        self.counters.udp_received += 1;
        if ip.atomic {
            // Fragment headers are not for smoltcp.
            self.slow
                .handle_packet(now, &without_extensions(&frame, ip));
        } else if let Some(packet) = frame.bytes.get(ETHERNET..ip.payload.end) {
            self.slow.handle_packet(now, packet);
        }
    }

    fn handle_dhcp(&mut self, now: Instant, frame: &RxFrame, ip: &Ip) {
        let mut frame = frame.clone();
        if !self.verify(&mut frame, ip) {
            return;
        }
        self.counters.udp_received += 1;
        if let Some(bytes) = frame.bytes.get(..ip.payload.end) {
            self.slow.handle_dhcp(now, bytes);
            self.note_lease();
        }
    }

    /// Whether the transport checksum is right; counted if not, noted on the frame if so.
    pub(super) fn verify(&mut self, frame: &mut RxFrame, ip: &Ip) -> bool {
        if frame.checksum == RxChecksum::Verified {
            return true;
        }
        let transport = frame.bytes.get(ip.payload.clone()).unwrap_or_default();
        // IPv4 allows datagrams without a checksum, and some DHCP servers send such.
        if ip.protocol == UDP && ip.src.is_ipv4() && transport.get(6..8) == Some(&[0, 0]) {
            return true;
        }
        if !wire::transport_checksum_ok(ip, transport) {
            self.counters.rx_bad_checksum += 1;
            return false;
        }
        frame.checksum = RxChecksum::Verified;
        true
    }

    fn handle_tcp(&mut self, now: Instant, mut frame: RxFrame, ip: &Ip, origin: Origin) {
        let transport = frame.bytes.get(ip.payload.clone()).unwrap_or_default();
        let Some([r0, r1, l0, l1]) = transport.first_chunk::<4>().copied() else {
            self.counters.rx_malformed += 1;
            return;
        };
        let local = (ip.dst, u16::from_be_bytes([l0, l1]));
        let remote = (ip.src, u16::from_be_bytes([r0, r1]));
        let flow = flows::flow(local, remote);
        let packed = Packed::of_frame(&flow);
        match self.flows.get_at(&packed, self.hint.take()) {
            Some(Entry::Connection(id)) => self.deliver(now, id, frame, ip, origin),
            Some(Entry::Fenced(id)) if origin.is_channel() => {
                self.deliver(now, id, frame, ip, origin);
            }
            Some(Entry::HalfOpen(number)) => {
                if let Some(segment) = self.parse_segment(&mut frame, ip) {
                    self.handle_half_open(now, number, &segment);
                }
            }
            Some(entry) => self.steer(now, flow, packed, entry, frame, ip, origin),
            None => self.handle_unknown(now, flow, packed, frame, ip, origin),
        }
    }

    /// Give a segment to its connection.
    fn deliver(&mut self, now: Instant, id: ConnId, mut frame: RxFrame, ip: &Ip, origin: Origin) {
        let Some(segment) = self.parse_segment(&mut frame, ip) else {
            return;
        };
        self.counters.rx_tcp_segments += 1;
        if segment.flags.syn()
            && let Some(flow) = self.reuse(now, id, &segment)
        {
            return self.handle_unknown(now, flow, Packed::new(&flow), frame, ip, origin);
        }
        if self.is_abandoned(now, id, &segment) {
            return;
        }
        if let Some(segment) = self.engage(id, segment, &frame, ip) {
            let mut overlaps = false;
            self.with_connection(now, id, |connection| {
                overlaps = connection.has_some_of(segment.seq, segment.payload.len() as u32);
                connection.handle_segment(now, &segment);
            });
            self.counters.rx_tcp_overlap += u64::from(overlaps);
        }
    }

    /// Make way for a new connection between the ends of one in TIME-WAIT, if its SYN may.
    fn reuse(&mut self, now: Instant, id: ConnId, syn: &Segment) -> Option<FlowKey> {
        let block = self.table.get(id)?;
        if !block.connection.may_be_reused_by(syn) {
            return None;
        }
        let (flow, above) = (block.flow(), block.connection.info().snd_nxt);
        self.bury(now, id);
        self.reused = Some((Packed::new(&flow), above));
        Some(flow)
    }

    fn parse_segment(&mut self, frame: &mut RxFrame, ip: &Ip) -> Option<Segment> {
        if !self.verify(frame, ip) {
            return None;
        }
        let Ok((_, mut segment)) = Segment::parse(&frame.bytes.slice(ip.payload.clone())) else {
            self.counters.rx_malformed += 1;
            return None;
        };
        segment.ecn = Ecn::from_traffic_class(ip.ecn);
        Some(segment)
    }

    /// Whether a SYN comes from the very instance it is to be passed on to.
    fn comes_round(&self, frame: &RxFrame, ip: &Ip, to: IpAddr) -> bool {
        let flags = frame.bytes.get(ip.payload.start + 13).copied();
        let opens = flags.is_some_and(|flags| flags & (SYN | ACK | RST) == SYN);
        let from = self.mac_of(to);
        ip.protocol == TCP
            && opens
            && from.is_some_and(|mac| frame.bytes.get(6..12) == Some(&mac[..]))
    }

    /// Send a frame along the route of its flow.
    #[expect(
        clippy::too_many_arguments,
        reason = "all of it was found out on the way here"
    )]
    pub(super) fn steer(
        &mut self,
        now: Instant,
        flow: FlowKey,
        packed: Packed,
        entry: Entry,
        mut frame: RxFrame,
        ip: &Ip,
        origin: Origin,
    ) {
        match entry {
            Entry::Forward { to, .. } if self.comes_round(&frame, ip, to) => {
                // Two instances say of each other that they have it: the connection before is over. Who
                // repeats his SYN finds no trace of it here.
                self.flows.remove(&packed);
                self.counters.forward_round += 1;
            }
            Entry::Forward { to, .. } => {
                // Cut again it gets new checksums, which must not make it right.
                let merged = frame.segmentation.is_some() && ip.protocol == TCP;
                if merged && !self.verify(&mut frame, ip) {
                    return;
                }
                self.flows.touch(&packed, now);
                self.forward(now, &frame, ip, to);
            }
            Entry::Capture => {
                if ip.protocol == TCP && !self.verify(&mut frame, ip) {
                    return;
                }
                self.capture(flow, frame, origin);
            }
            Entry::Hold { .. } | Entry::Fenced(_) => {
                if ip.protocol == TCP && !self.verify(&mut frame, ip) {
                    return;
                }
                let injected = origin.is_channel();
                match self.flows.hold(now, packed, Held { frame, injected }) {
                    Ok(()) => self.counters.held += 1,
                    Err(_) => self.counters.hold_overflow += 1,
                }
            }
            // These are for this stack itself.
            Entry::Connection(_) | Entry::HalfOpen(_) => {}
        }
    }

    fn capture(&mut self, flow: FlowKey, mut frame: RxFrame, origin: Origin) {
        if self.captured_octets + frame.bytes.len() > MAX_CAPTURED {
            self.counters.capture_overflow += 1;
            return;
        }
        if origin.is_channel() {
            // It may be going round between instances that move a session to and fro.
            let mut aged = frame.bytes.to_vec();
            if !forward::age(&mut aged) {
                self.counters.forward_ttl_exceeded += 1;
                return;
            }
            frame.bytes = aged.into();
        }
        self.counters.captured += 1;
        self.captured_octets += frame.bytes.len();
        self.events.push_back(StackEvent::Captured { flow, frame });
    }

    fn handle_unknown(
        &mut self,
        now: Instant,
        flow: FlowKey,
        packed: Packed,
        mut frame: RxFrame,
        ip: &Ip,
        origin: Origin,
    ) {
        let Some(segment) = self.parse_segment(&mut frame, ip) else {
            return;
        };
        if origin == Origin::Behind {
            // Asked about, it would be nobody's, and answered with an RST that nobody needs.
            self.counters.injected_late += 1;
            return;
        }
        let syn = segment.flags.syn() && !segment.flags.ack() && !segment.flags.rst();
        // What nobody knows may be over, and its client at its next connection: a SYN that was held
        // behind a straggler is still to be decided.
        let decided = match origin {
            Origin::Accept => true,
            Origin::Refuse => !syn,
            Origin::Wire | Origin::Channel | Origin::Behind => false,
        };
        if self.ask_unknown && !decided && self.may_be_elsewhere(flow.local, syn) {
            match self.flows.ask(now, packed) {
                Ok(()) => {
                    self.counters.unknown_asked += 1;
                    self.events.push_back(StackEvent::UnknownFlow { flow, syn });
                    let entry = Entry::Hold { asked: true };
                    self.steer(now, flow, packed, entry, frame, ip, origin);
                }
                Err(HoldError::TooManyAsked | HoldError::Full) => {
                    self.counters.unknown_overflow += 1;
                }
            }
        } else if syn {
            self.handle_syn(now, flow, packed, &segment);
        } else if !self.complete_from_cookie(now, flow, &segment)
            && !self.may_have_overtaken_a_cookie(now, &flow, &segment)
        {
            self.refuse(now, &flow, &segment);
        }
    }
}

/// An IPv6 packet with nothing between its header and its payload.
fn without_extensions(frame: &RxFrame, ip: &Ip) -> Vec<u8> {
    let header = frame.bytes.get(ETHERNET..ETHERNET + IPV6);
    let mut packet = header.unwrap_or_default().to_vec();
    if let Some(field) = packet.get_mut(4..7) {
        let [l0, l1] = (ip.payload.len() as u16).to_be_bytes();
        field.copy_from_slice(&[l0, l1, ip.protocol]);
    }
    packet.extend_from_slice(frame.bytes.get(ip.payload.clone()).unwrap_or_default());
    packet
}

fn is_dhcp(frame: &RxFrame, ip: &Ip) -> bool {
    let ports = [DHCP_SERVER.to_be_bytes(), DHCP_CLIENT.to_be_bytes()];
    let datagram = frame.bytes.get(ip.payload.clone()).unwrap_or_default();
    ip.src.is_ipv4() && datagram.starts_with(ports.as_flattened())
}
