//! Datagrams to everyone on the link that the instances share, sent to the limited broadcast address or to all
//! nodes (RFC 4291); and those to and from one port of our own.
//!
//! They bypass smoltcp, whose sockets would each have to join, and are six kilobytes of an image. What comes is
//! kept in bounds until it is asked for.

use alloc::collections::VecDeque;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;

use super::checksum::Sum;
use super::wire::{self, Ip, IpHeader, UDP};
use super::{RxFrame, Stack, TxFrame, ndp};
use crate::time::Instant;

const UDP_HEADER: usize = 8;
/// Datagrams kept at most.
const MAX_KEPT: usize = 32;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Datagrams to everyone, at one port.
#[derive(Debug, Default)]
pub(super) struct Groups {
    port: Option<u16>,
    kept: VecDeque<(IpAddr, Bytes)>,
    /// Our own port, and what came there.
    own: Option<u16>,
    received: VecDeque<(SocketAddr, Bytes)>,
}

impl Groups {
    pub(super) fn listen(&mut self, port: u16) {
        self.port = Some(port);
    }

    pub(super) fn receive(&mut self) -> Option<(IpAddr, Bytes)> {
        self.kept.pop_front()
    }
}

impl Stack {
    /// A datagram to a group that this stack is in.
    #[cold]
    #[inline(never)]
    pub(super) fn handle_group(&mut self, mut frame: RxFrame, ip: &Ip) {
        let datagram = frame.bytes.get(ip.payload.clone()).unwrap_or_default();
        let Some([_, _, p0, p1, l0, l1, _, _]) = datagram.first_chunk::<UDP_HEADER>().copied()
        else {
            self.counters.rx_malformed += 1;
            return;
        };
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        if self.groups.port != Some(u16::from_be_bytes([p0, p1]))
            || frame.interface != self.addresses.peers_interface()
            || self.groups.kept.len() >= MAX_KEPT
        {
            self.counters.udp_ignored += 1;
            return;
        }
        if !(UDP_HEADER..=datagram.len()).contains(&length) {
            self.counters.rx_malformed += 1;
            return;
        }
        if !self.verify(&mut frame, ip) {
            return;
        }
        self.counters.udp_received += 1;
        let start = ip.payload.start;
        let data = frame.bytes.slice(start + UDP_HEADER..start + length);
        self.groups.kept.push_back((ip.src, data));
    }

    /// Send a datagram from `port` of an own address to the same port of everyone on the link.
    pub fn group_send(&mut self, src: IpAddr, port: u16, data: &[u8]) {
        let dst = match src {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::BROADCAST),
            IpAddr::V6(_) => IpAddr::V6(ALL_NODES),
        };
        let Some(mac) = wire::group_mac(dst) else {
            return;
        };
        let ends = [(src, port), (dst, port)];
        let mut frame = self.datagram(ends, 1, data);
        ndp::set_destination(&mut frame, mac);
        self.push_egress(frame.interface, frame);
    }

    /// Datagrams to `port` of the own addresses are kept for [`Stack::datagram_receive`] from now on.
    pub fn datagram_listen(&mut self, port: u16) {
        self.groups.own = Some(port);
    }

    /// The next of them, and from whom.
    pub fn datagram_receive(&mut self) -> Option<(SocketAddr, Bytes)> {
        self.groups.received.pop_front()
    }

    /// Send a datagram from the port that is listened at.
    pub fn datagram_send(&mut self, now: Instant, to: SocketAddr, data: &[u8]) {
        const HOP_LIMIT: u8 = 64;
        if let Some((src, port)) = self.addresses.source_for(to.ip()).zip(self.groups.own) {
            let ends = [(src, port), (to.ip(), to.port())];
            let frame = self.datagram(ends, HOP_LIMIT, data);
            self.send_ip(now, frame.interface, to.ip(), frame);
        }
    }

    /// A datagram to an own address whose checksum is right, if it is for [`Stack::datagram_receive`].
    pub(super) fn take_datagram(&mut self, frame: &RxFrame, ip: &Ip) -> bool {
        let datagram = frame.bytes.slice(ip.payload.clone());
        let Some([s0, s1, p0, p1, l0, l1, ..]) = datagram.first_chunk::<UDP_HEADER>().copied()
        else {
            return false;
        };
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let ours = self.groups.own == Some(u16::from_be_bytes([p0, p1]));
        if ours && (UDP_HEADER..=datagram.len()).contains(&length) {
            let from = SocketAddr::new(ip.src, u16::from_be_bytes([s0, s1]));
            if self.groups.received.len() < MAX_KEPT {
                self.counters.udp_received += 1;
                let data = datagram.slice(UDP_HEADER..length);
                self.groups.received.push_back((from, data));
            } else {
                self.counters.udp_ignored += 1;
            }
        }
        ours
    }

    /// A frame from and to these addresses and ports that lacks its destination.
    fn datagram(&self, ends: [(IpAddr, u16); 2], hop_limit: u8, data: &[u8]) -> TxFrame {
        let [(src, from), (dst, to)] = ends;
        let length = UDP_HEADER + data.len();
        let ([f0, f1], [t0, t1]) = (from.to_be_bytes(), to.to_be_bytes());
        let [l0, l1] = (length.min(usize::from(u16::MAX)) as u16).to_be_bytes();
        let header = |[c0, c1]: [u8; 2]| [f0, f1, t0, t1, l0, l1, c0, c1];
        let mut sum = Sum::new();
        sum.add_pseudo_header(src, dst, UDP, length);
        sum.add(&header([0, 0]));
        sum.add(data);
        // All zeros would say that there is none (RFC 768).
        let sum = match sum.finish() {
            0 => u16::MAX,
            sum => sum,
        };
        let mut frame = TxFrame {
            interface: self.addresses.interface_of(src),
            ..TxFrame::default()
        };
        IpHeader {
            src,
            dst,
            protocol: UDP,
            hop_limit,
            ecn: 0,
            length,
            fragments: None,
        }
        .emit(self.port(frame.interface).mac, &mut frame.head);
        frame.head.extend_from_slice(&header(sum.to_be_bytes()));
        frame.payload.push(Bytes::copy_from_slice(data));
        frame
    }
}
