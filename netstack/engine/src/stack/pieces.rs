//! Frames that a device spread over several buffers: their payload goes to the connection, or on to
//! another instance, piece by piece as it lies there. What is not that simple is copied together
//! and goes the way of all frames.

use core::net::IpAddr;

use super::flows::{self, Entry, Packed};
use super::frame::{Interface, RxChecksum, RxFrame};
use super::wire::{self, ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Ip, TCP};
use super::{ConnId, FlowKey, Stack, cut};
use crate::tcp::segment::{Ecn, Segment};
use crate::time::Instant;

impl Stack {
    /// Take in a frame in several pieces; it is given back if it has to be whole.
    pub(super) fn handle_pieces(&mut self, now: Instant, frame: RxFrame) -> Option<RxFrame> {
        let Some((ip, flow)) = self.simple(&frame) else {
            return Some(frame);
        };
        let packed = Packed::new(&flow);
        match self.flows.get_at(&packed, self.hint) {
            Some(Entry::Connection(id)) => self.deliver_pieces(id, frame, &ip),
            Some(Entry::Forward { to, .. }) => {
                self.flows.touch(&packed, now);
                self.forward(now, &frame, &ip, to);
                None
            }
            _ => Some(frame),
        }
    }

    /// The IP header and the flow of a TCP segment for this stack with nothing odd about it, its
    /// headers in the first piece and its checksum seen to.
    fn simple(&self, frame: &RxFrame) -> Option<(Ip, FlowKey)> {
        let ethernet = Ethernet::parse(&frame.bytes)?;
        let version = frame.bytes.get(ETHERNET)? >> 4;
        let is_ip = matches!(
            (ethernet.ethertype, version),
            (ETHERTYPE_IPV4, 4) | (ETHERTYPE_IPV6, 6)
        );
        let for_us =
            ethernet.dst == self.port(frame.interface).mac && wire::is_unicast(&ethernet.src);
        if !is_ip || !for_us || frame.checksum != RxChecksum::Verified {
            return None;
        }
        let ip = wire::parse_ip_within(&frame.bytes, ETHERNET, true, frame.len()).ok()?;
        let transport = frame.bytes.get(ip.payload.start..)?;
        let header = cut::tcp_header(&frame.bytes, ip.payload.start)?;
        if ip.protocol != TCP
            || transport.len() < header
            || !self.may_come(frame.interface, ip.src, ip.dst)
        {
            return None;
        }
        let [r0, r1, l0, l1] = *transport.first_chunk::<4>()?;
        let local = (ip.dst, u16::from_be_bytes([l0, l1]));
        let remote = (ip.src, u16::from_be_bytes([r0, r1]));
        Some((ip, flows::flow(local, remote)))
    }

    fn may_come(&self, interface: Interface, src: IpAddr, dst: IpAddr) -> bool {
        let addresses = &self.addresses;
        addresses.is_host(src)
            && !addresses.is_own(src)
            && (addresses.is_own_on(interface, dst)
                || addresses.is_vip(dst) && !addresses.is_vip(src))
    }

    /// Begin a train with the first piece, and couple the others to it.
    fn deliver_pieces(&mut self, id: ConnId, frame: RxFrame, ip: &Ip) -> Option<RxFrame> {
        let end = ip.payload.end.min(frame.bytes.len());
        let first = frame.bytes.slice(ip.payload.start..end);
        let Ok((_, mut segment)) = Segment::parse(&first) else {
            return Some(frame);
        };
        segment.ecn = Ecn::from_traffic_class(ip.ecn);
        if self.engage(id, segment, &frame, ip).is_some() {
            return Some(frame);
        }
        self.counters.rx_tcp_segments += 1;
        self.couple_rest(&frame, ip.payload.end);
        None
    }
}
