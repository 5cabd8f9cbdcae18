//! Frames out: the egress queue, the connections that have something to send, next hops and
//! headers.

use alloc::boxed::Box;
use core::net::IpAddr;

use super::addresses::Hop;
use super::checksum::Sum;
use super::cut::{Cut, Headers};
use super::flows::Packed;
use super::frame::{Head, Interface, Segmentation, TxChecksum, TxFrame};
use super::neighbour::{Released, Resolution, Solicit};
use super::slow;
use super::wire::{self, ETHERNET, HOP_LIMIT, IpHeader, TCP};
use super::{ConnId, FlowKey, MacAddr, Stack, StackEvent, arp, ndp};
use crate::tcp::segment::{Flags, Outgoing, Ports};
use crate::time::Instant;

/// Frames in the egress queue at most.
const MAX_EGRESS: usize = 4096;
/// Octets of IP and TCP headers at most; what is left of an IP packet is for TSO.
const MAX_IP_TCP: usize = 40 + MAX_TCP;
/// Octets of a TCP header at most.
const MAX_TCP: usize = 60;
/// Octets of payload a connection gives in one go: what fits an IP packet that the NIC, or
/// [`Cut`], makes segments of.
const MAX_BURST: usize = u16::MAX as usize - MAX_IP_TCP;
/// Where the checksum lies in a TCP header.
const TCP_CHECKSUM: u16 = 16;
/// Segments dropped in one go when a connection's next hop is dead.
const MAX_DISCARD: usize = 64;

fn ports(flow: &FlowKey) -> Ports {
    Ports {
        source: flow.local.port(),
        destination: flow.remote.port(),
    }
}

/// Add a TCP header of zeros. (`resize` would add octet by octet.)
fn make_room(head: &mut Head, header_len: usize) {
    const ZEROS: [u8; MAX_TCP] = [0; MAX_TCP];
    head.extend_from_slice(ZEROS.get(..header_len).unwrap_or_default());
}

/// The ECN bits of the IP header.
fn ecn(outgoing: &Outgoing) -> u8 {
    match outgoing.ecn_capable {
        true => wire::ECT_0,
        false => 0,
    }
}

impl Stack {
    /// The next frame to send.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<TxFrame> {
        let mut frame = None;
        while frame.is_none() {
            if !self.egress.is_empty() {
                frame = self.egress.pop_front();
            } else if let Some(out) = self.slow.poll_transmit() {
                self.send_slow(now, out);
            } else if let Some(id) = self.ready.pop_front() {
                self.transmit_for(now, id, &mut frame);
            } else {
                return frame;
            }
        }
        self.counters.tx_frames += 1;
        frame
    }

    /// Put one frame of a connection into `out`, if it has one to send. The connection then goes
    /// to the end of the ready queue.
    fn transmit_for(&mut self, now: Instant, id: ConnId, out: &mut Option<TxFrame>) {
        let Some(block) = self.table.get_mut(id) else {
            return;
        };
        block.ready = false;
        if let Some(cut) = &mut block.cut {
            cut.put_next_frame(out);
            if out.is_some() {
                block.ready = true;
                self.ready.push_back(id);
                return;
            }
            block.cut = None;
        }
        let next_hop = block.next_hop.or_else(|| {
            let FlowKey { local, remote } = block.flow();
            self.addresses.next_hop(local.ip(), remote.ip())
        });
        block.next_hop = next_hop;
        match next_hop.map(|hop| (hop, self.resolve(now, hop))) {
            Some((hop, Resolution::Known(mac))) => {
                self.transmit_to(now, id, (hop.interface, mac), out);
            }
            Some((hop, Resolution::Pending)) => {
                if let Some(block) = self.table.get_mut(id) {
                    block.parked = true;
                    self.neighbours.wait_connection(hop, id);
                }
            }
            Some((_, Resolution::Failed)) => self.discard(now, id),
            None => {
                self.counters.tx_no_route += 1;
                self.discard(now, id);
            }
        }
    }

    /// The same, now that it is known where to.
    fn transmit_to(
        &mut self,
        now: Instant,
        id: ConnId,
        (interface, mac): (Interface, MacAddr),
        out: &mut Option<TxFrame>,
    ) {
        let Some(block) = self.table.get_mut(id) else {
            return;
        };
        let mut outgoing = Outgoing::default();
        if !block.connection.transmit(now, MAX_BURST, &mut outgoing) {
            // Being asked may have begun a wait: for the window to open, or for the pace.
            self.arm(now, id);
            self.rest(now, id);
            return;
        }
        let flow = block.flow();
        let cut = !self.cuts(interface, flow.remote.ip())
            && outgoing.segment_size != 0
            && outgoing.payload_len() > usize::from(outgoing.segment_size);
        if let Some(block) = self.table.get_mut(id)
            && (cut || !block.connection.is_quiet())
        {
            block.ready = true;
            self.ready.push_back(id);
        }
        self.arm(now, id);
        self.counters.tx_tcp_segments += 1;
        if cut {
            if let Some(mut cut) = self.cut_up(&flow, (interface, mac), outgoing)
                && let Some(block) = self.table.get_mut(id)
            {
                cut.put_next_frame(out);
                block.cut = Some(Box::new(cut));
            }
            return;
        }
        let frame = out.insert(TxFrame::default());
        self.put_tcp_frame(&flow, interface, &mut outgoing, frame);
        ndp::set_destination(frame, mac);
    }

    /// A burst to be cut into frames here.
    fn cut_up(
        &self,
        flow: &FlowKey,
        (interface, mac): (Interface, MacAddr),
        mut outgoing: Outgoing,
    ) -> Option<Cut> {
        let port = self.port(interface);
        let (src, dst) = (flow.local.ip(), flow.remote.ip());
        let size = usize::from(outgoing.segment_size);
        let left = outgoing.payload_len();
        let header_len = outgoing.header_len();
        let mut head = Head::new();
        IpHeader {
            src,
            dst,
            protocol: TCP,
            hop_limit: HOP_LIMIT,
            ecn: ecn(&outgoing),
            length: header_len + size,
            fragments: None,
        }
        .emit(port.mac, &mut head);
        let (seq, flags) = (outgoing.seq, outgoing.flags);
        outgoing.seq = Default::default();
        outgoing.flags = Flags::NONE;
        let tcp = head.len();
        make_room(&mut head, header_len);
        outgoing.write_header(ports(flow), head.get_mut(tcp..)?)?;
        head.get_mut(..6)?.copy_from_slice(&mac);
        let mut pseudo = Sum::new();
        pseudo.add_pseudo_header(src, dst, TCP, 0);
        let headers = Headers {
            head,
            tcp,
            ipv6: src.is_ipv6(),
            pseudo: pseudo.sum(),
            interface,
        };
        let offload = port.capabilities.tx_checksum;
        let payload = outgoing.payload;
        Some(Cut::new(
            headers,
            (seq, flags),
            payload,
            (left, size),
            offload,
        ))
    }

    /// The next hop is dead: what a connection sends is lost, and its timers see to the rest.
    fn discard(&mut self, now: Instant, id: ConnId) {
        for _ in 0..MAX_DISCARD {
            let Some(block) = self.table.get_mut(id) else {
                return;
            };
            if block.connection.poll_transmit(now, 0).is_none() {
                break;
            }
            self.counters.neighbour_unresolved += 1;
        }
        self.arm(now, id);
        self.rest(now, id);
    }

    /// A connection has nothing to send at present. If it is closed too, it is gone.
    fn rest(&mut self, now: Instant, id: ConnId) {
        let Some(block) = self.table.get(id) else {
            return;
        };
        if block.connection.is_closed() {
            self.bury(now, id);
        }
    }

    /// Take out a connection that has come to its end, and say so.
    pub(super) fn bury(&mut self, now: Instant, id: ConnId) {
        if let Some(block) = self.take_block(id) {
            let flow = block.flow();
            self.spend(now, &flow, block.connection.handshake());
            self.events.push_back(StackEvent::Gone { conn: id, flow });
        }
    }

    /// Whether the NIC cuts bursts into segments.
    pub(super) fn cuts(&self, interface: Interface, remote: IpAddr) -> bool {
        let capabilities = &self.port(interface).capabilities;
        let segments = match remote {
            IpAddr::V4(_) => capabilities.tso4,
            IpAddr::V6(_) => capabilities.tso6,
        };
        segments && capabilities.tx_checksum
    }

    /// The frame for a segment, but for the destination MAC.
    pub(super) fn tcp_frame(&self, flow: &FlowKey, mut outgoing: Outgoing) -> TxFrame {
        let mut frame = TxFrame::default();
        let interface = self.addresses.interface_of(flow.local.ip());
        self.put_tcp_frame(flow, interface, &mut outgoing, &mut frame);
        frame
    }

    /// Make an empty frame the one for a segment, which loses its payload to it.
    fn put_tcp_frame(
        &self,
        flow: &FlowKey,
        interface: Interface,
        outgoing: &mut Outgoing,
        frame: &mut TxFrame,
    ) {
        let port = self.port(interface);
        frame.interface = interface;
        let (src, dst) = (flow.local.ip(), flow.remote.ip());
        let payload_len = outgoing.payload_len();
        let header_len = outgoing.header_len();
        let length = header_len + payload_len;
        let fragments = outgoing
            .may_fragment
            .then(|| self.identification(flow, outgoing));
        let head = &mut frame.head;
        IpHeader {
            src,
            dst,
            protocol: TCP,
            hop_limit: HOP_LIMIT,
            ecn: ecn(outgoing),
            length,
            fragments,
        }
        .emit(port.mac, head);
        let start = head.len();
        make_room(head, header_len);
        if let Some(out) = head.get_mut(start..) {
            outgoing.write_header(ports(flow), out);
        }
        let mut sum = Sum::new();
        sum.add_pseudo_header(src, dst, TCP, length);
        let offload = port.capabilities.tx_checksum;
        let value = if offload {
            sum.sum()
        } else {
            sum.add(head.get(start..).unwrap_or_default());
            for slice in &outgoing.payload {
                sum.add(slice);
            }
            sum.finish()
        };
        let field = start + usize::from(TCP_CHECKSUM);
        if let Some(field) = head.get_mut(field..field + 2) {
            field.copy_from_slice(&value.to_be_bytes());
        }
        let segment_size = outgoing.segment_size;
        let cut = segment_size != 0 && payload_len > usize::from(segment_size);
        core::mem::swap(&mut frame.payload, &mut outgoing.payload);
        frame.checksum = offload.then_some(TxChecksum {
            start: start as u16,
            offset: TCP_CHECKSUM,
        });
        frame.segmentation = cut.then_some(Segmentation {
            ipv6: src.is_ipv6(),
            segment_size,
        });
    }

    /// What tells a packet's fragments from those of others between the same ends (RFC 6864), without a
    /// stranger learning how many there are: what a retransmission has in common with what it repeats, its
    /// timestamp has not.
    fn identification(&self, flow: &FlowKey, outgoing: &Outgoing) -> u16 {
        let [a, b, c, d, ports] = *Packed::of_frame(flow).words();
        let stamp = outgoing.options.timestamps.map_or(0, |stamp| stamp.value);
        let numbers = u64::from(outgoing.seq.raw()) << 32 | u64::from(outgoing.ack.raw());
        let words = [a ^ b, c ^ d, ports, numbers, u64::from(stamp)];
        self.keyed.hash_words(&words) as u16
    }

    /// Send a segment that belongs to no connection (yet).
    pub(super) fn send_segment(&mut self, now: Instant, flow: &FlowKey, outgoing: Outgoing) {
        let frame = self.tcp_frame(flow, outgoing);
        self.send_ip(now, frame.interface, flow.remote.ip(), frame);
    }

    /// Send an IP packet on its way to `dst`, through the interface of the address it is from.
    pub(super) fn send_ip(
        &mut self,
        now: Instant,
        interface: Interface,
        dst: IpAddr,
        frame: TxFrame,
    ) {
        match self.addresses.next_hop_on(interface, dst) {
            Some(next_hop) => self.send_to_neighbour(now, next_hop, frame),
            None => self.counters.tx_no_route += 1,
        }
    }

    /// Send a frame to a neighbour, at once or when it is known where that is.
    pub(super) fn send_to_neighbour(&mut self, now: Instant, next_hop: Hop, mut frame: TxFrame) {
        frame.interface = next_hop.interface;
        match self.resolve(now, next_hop) {
            Resolution::Known(mac) => {
                ndp::set_destination(&mut frame, mac);
                self.queue(frame);
            }
            Resolution::Pending => {
                if !self.neighbours.wait_frame(next_hop, frame) {
                    self.counters.neighbour_unresolved += 1;
                }
            }
            Resolution::Failed => self.counters.neighbour_unresolved += 1,
        }
    }

    /// The MAC address of a neighbour, where it is known.
    pub fn mac_of(&self, neighbour: IpAddr) -> Option<MacAddr> {
        self.neighbours.peek(self.addresses.neighbour(neighbour)?)
    }

    /// Put a complete frame for that interface into the egress queue.
    pub(super) fn push_egress(&mut self, interface: Interface, mut frame: TxFrame) {
        frame.interface = interface;
        self.queue(frame);
    }

    fn queue(&mut self, frame: TxFrame) {
        if self.egress.len() >= MAX_EGRESS {
            self.counters.tx_overflow += 1;
            return;
        }
        self.egress.push_back(frame);
    }

    fn resolve(&mut self, now: Instant, next_hop: Hop) -> Resolution {
        let (resolution, solicit) = self.neighbours.resolve(now, next_hop);
        if let Some(solicit) = solicit {
            self.solicit(solicit);
        }
        if resolution == Resolution::Failed && self.neighbours.is_full() {
            self.counters.neighbour_table_full += 1;
        }
        resolution
    }

    /// Ask a neighbour where it is, from an own address.
    pub(super) fn solicit(&mut self, solicit: Solicit) {
        let Hop { address, interface } = solicit.hop;
        let source = self.addresses.source_on(interface, address);
        let mac = self.port(interface).mac;
        let frame = match (address, source) {
            (IpAddr::V4(target), Some(IpAddr::V4(source))) => {
                arp::request(mac, source, target, solicit.at)
            }
            (IpAddr::V6(target), Some(IpAddr::V6(source))) => {
                ndp::solicitation(mac, source, target, solicit.at)
            }
            _ => {
                self.counters.tx_no_route += 1;
                return;
            }
        };
        self.counters.neighbour_asked += 1;
        self.push_egress(interface, frame);
    }

    /// Send what waited for a neighbour that is now known to be at `mac`.
    pub(super) fn release(&mut self, mac: MacAddr, released: Released) {
        for mut frame in released.frames {
            ndp::set_destination(&mut frame, mac);
            self.queue(frame);
        }
        self.unpark(released.connections);
    }

    /// Let connections that waited for a neighbour go on.
    pub(super) fn unpark(&mut self, connections: impl IntoIterator<Item = ConnId>) {
        for id in connections {
            if let Some(block) = self.table.get_mut(id) {
                block.parked = false;
                if !block.ready {
                    block.ready = true;
                    self.ready.push_back(id);
                }
            }
        }
    }

    fn send_slow(&mut self, now: Instant, out: slow::Outgoing) {
        self.counters.slow_sent += 1;
        let mut frame = TxFrame::default();
        match out {
            slow::Outgoing::Group(bytes) => {
                frame.head.extend_from_slice(&bytes);
                self.push_egress(Interface::Service, frame);
            }
            slow::Outgoing::Packet(packet) => {
                let ethertype = match packet.first().map(|octet| octet >> 4) {
                    Some(4) => wire::ETHERTYPE_IPV4,
                    _ => wire::ETHERTYPE_IPV6,
                };
                let ethernet = wire::Ethernet {
                    dst: [0; 6],
                    src: self.service.mac,
                    ethertype,
                };
                ethernet.emit(&mut frame.head);
                frame.head.extend_from_slice(&packet);
                let Ok(ip) = wire::parse_ip(&frame.head, ETHERNET, true) else {
                    return;
                };
                let interface = self.addresses.interface_of(ip.src);
                if let Some(place) = frame.head.get_mut(6..12) {
                    place.copy_from_slice(&self.port(interface).mac);
                }
                match wire::group_mac(ip.dst) {
                    Some(mac) => {
                        ndp::set_destination(&mut frame, mac);
                        self.push_egress(interface, frame);
                    }
                    None => self.send_ip(now, interface, ip.dst, frame),
                }
            }
        }
    }
}
