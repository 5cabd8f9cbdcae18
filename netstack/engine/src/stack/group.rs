//! Datagrams to everyone on the link: sent to the limited broadcast address, or to all nodes (RFC 4291).
//!
//! They bypass smoltcp, whose sockets would each have to join. What comes is kept in bounds until it is
//! asked for.

use alloc::collections::VecDeque;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;

use super::checksum::Sum;
use super::wire::{self, Ip, IpHeader, UDP};
use super::{RxFrame, Stack, TxFrame, ndp};

const UDP_HEADER: usize = 8;
/// Datagrams kept at most.
const MAX_KEPT: usize = 32;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Datagrams to everyone, at one port.
#[derive(Debug, Default)]
pub(super) struct Groups {
    port: Option<u16>,
    kept: VecDeque<(IpAddr, Bytes)>,
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
    pub(super) fn handle_group(&mut self, mut frame: RxFrame, ip: &Ip) {
        let datagram = frame.bytes.get(ip.payload.clone()).unwrap_or_default();
        let Some([_, _, p0, p1, l0, l1, c0, c1]) = datagram.first_chunk::<UDP_HEADER>().copied()
        else {
            self.counters.rx_malformed += 1;
            return;
        };
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        if self.groups.port != Some(u16::from_be_bytes([p0, p1]))
            || self.groups.kept.len() >= MAX_KEPT
        {
            self.counters.udp_ignored += 1;
            return;
        }
        if !(UDP_HEADER..=datagram.len()).contains(&length) {
            self.counters.rx_malformed += 1;
            return;
        }
        // IPv4 allows datagrams without a checksum.
        let summed = ip.src.is_ipv6() || [c0, c1] != [0, 0];
        if summed && !self.verify(&mut frame, ip) {
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
        let length = UDP_HEADER + data.len();
        let [p0, p1] = port.to_be_bytes();
        let [l0, l1] = (length.min(usize::from(u16::MAX)) as u16).to_be_bytes();
        let header = |[c0, c1]: [u8; 2]| [p0, p1, p0, p1, l0, l1, c0, c1];
        let mut sum = Sum::new();
        sum.add_pseudo_header(src, dst, UDP, length);
        sum.add(&header([0, 0]));
        sum.add(data);
        // All zeros would say that there is none (RFC 768).
        let sum = match sum.finish() {
            0 => u16::MAX,
            sum => sum,
        };
        let mut frame = TxFrame::default();
        IpHeader {
            src,
            dst,
            protocol: UDP,
            hop_limit: 1,
            ecn: 0,
            length,
            fragments: None,
        }
        .emit(self.mac, &mut frame.head);
        frame.head.extend_from_slice(&header(sum.to_be_bytes()));
        frame.payload.push(Bytes::copy_from_slice(data));
        ndp::set_destination(&mut frame, mac);
        self.push_egress(frame);
    }
}
