//! The simulated NIC of a node: does for it what its capabilities promise.

use bytes::Bytes;
use godwit_netstack::stack::frame::{Segmentation, TxChecksum, TxFrame};
use smoltcp::wire::{IpAddress, Ipv4Packet, Ipv6Packet, TcpPacket, TcpSeqNumber};

const ETHERNET_HEADER: usize = 14;
const IPV6_HEADER: usize = 40;

/// The frames that go on the wire for `frame`: cut to segments and with checksums filled in.
pub fn on_the_wire(frame: &TxFrame) -> Vec<Bytes> {
    let mut octets = frame.to_vec();
    match (frame.segmentation, frame.checksum) {
        (Some(how), _) => segmented(&octets, frame.head.len(), how),
        (None, Some(checksum)) => {
            complete(&mut octets, checksum);
            vec![octets.into()]
        }
        (None, None) => vec![octets.into()],
    }
}

/// Sum up from `start`, the field's content (the pseudo-header's sum) included.
fn complete(octets: &mut [u8], checksum: TxChecksum) {
    let start = usize::from(checksum.start);
    let field = start + usize::from(checksum.offset);
    let mut sum: u32 = 0;
    for pair in octets[start..].chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    octets[field..field + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

fn segmented(octets: &[u8], head: usize, how: Segmentation) -> Vec<Bytes> {
    let (headers, payload) = octets.split_at(head);
    let size = usize::from(how.segment_size).max(1);
    let count = payload.len().div_ceil(size).max(1);
    let segment = |index: usize| {
        let from = index * size;
        let part = &payload[from..payload.len().min(from + size)];
        let mut out = [headers, part].concat();
        fit(&mut out, how.ipv6, index as u16, from, index + 1 == count);
        Bytes::from(out)
    };
    (0..count).map(segment).collect()
}

/// Make the copied headers those of one segment `from` octets into the payload.
fn fit(out: &mut [u8], ipv6: bool, index: u16, from: usize, last: bool) {
    let ip = &mut out[ETHERNET_HEADER..];
    let length = ip.len();
    let (source, target, tcp): (IpAddress, IpAddress, &mut [u8]) = if ipv6 {
        let mut packet = Ipv6Packet::new_unchecked(&mut *ip);
        packet.set_payload_len((length - IPV6_HEADER) as u16);
        let ends = (packet.src_addr(), packet.dst_addr());
        (ends.0.into(), ends.1.into(), &mut ip[IPV6_HEADER..])
    } else {
        let mut packet = Ipv4Packet::new_unchecked(&mut *ip);
        packet.set_total_len(length as u16);
        packet.set_ident(packet.ident().wrapping_add(index));
        packet.fill_checksum();
        let ends = (packet.src_addr(), packet.dst_addr());
        let header = usize::from(packet.header_len());
        (ends.0.into(), ends.1.into(), &mut ip[header..])
    };
    let mut packet = TcpPacket::new_unchecked(tcp);
    packet.set_seq_number(TcpSeqNumber(
        packet.seq_number().0.wrapping_add(from as i32),
    ));
    if !last {
        packet.set_fin(false);
        packet.set_psh(false);
    }
    packet.fill_checksum(&source, &target);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Segment;
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// Headers of a TCP segment from nothing to nowhere, by smoltcp.
    fn headers(ipv6: bool, payload: usize) -> Vec<u8> {
        let ip_header = if ipv6 { 40 } else { 20 };
        let mut out = vec![0; ETHERNET_HEADER + ip_header + 20];
        out[12..14].copy_from_slice(if ipv6 { &[0x86, 0xdd] } else { &[8, 0] });
        let ip = &mut out[ETHERNET_HEADER..];
        if ipv6 {
            let mut packet = Ipv6Packet::new_unchecked(&mut *ip);
            packet.set_version(6);
            packet.set_payload_len((20 + payload) as u16);
            packet.set_next_header(smoltcp::wire::IpProtocol::Tcp);
            packet.set_src_addr(Ipv6Addr::LOCALHOST);
            packet.set_dst_addr(Ipv6Addr::LOCALHOST);
        } else {
            let mut packet = Ipv4Packet::new_unchecked(&mut *ip);
            packet.set_version(4);
            packet.set_header_len(20);
            packet.set_total_len((40 + payload) as u16);
            packet.set_next_header(smoltcp::wire::IpProtocol::Tcp);
            packet.set_src_addr(Ipv4Addr::LOCALHOST);
            packet.set_dst_addr(Ipv4Addr::LOCALHOST);
            packet.fill_checksum();
        }
        let mut packet = TcpPacket::new_unchecked(&mut ip[ip_header..]);
        packet.set_header_len(20);
        packet.set_seq_number(TcpSeqNumber(-3));
        packet.set_fin(true);
        packet.set_ack(true);
        out
    }

    #[test]
    fn segments_carry_the_whole_payload_under_right_headers() {
        for ipv6 in [false, true] {
            let data: Vec<u8> = (0..250).map(|n| n as u8).collect();
            let frame = TxFrame {
                head: headers(ipv6, data.len()).as_slice().into(),
                payload: [Bytes::from(data.clone())].into_iter().collect(),
                checksum: None,
                segmentation: Some(Segmentation {
                    ipv6,
                    segment_size: 100,
                }),
                ..TxFrame::default()
            };
            let segments: Vec<Segment> = on_the_wire(&frame)
                .iter()
                .map(|frame| Segment::parse(frame).expect("a TCP segment"))
                .collect();
            assert_eq!(segments.len(), 3);
            assert!(segments.iter().all(|segment| segment.checksums_right));
            let offsets: Vec<u32> = segments.iter().map(|s| s.seq.wrapping_add(3)).collect();
            assert_eq!(offsets, [0, 100, 200]);
            let fins: Vec<bool> = segments.iter().map(|s| s.fin).collect();
            assert_eq!(fins, [false, false, true]);
            let all: Vec<u8> = segments.iter().flat_map(|s| s.payload.to_vec()).collect();
            assert_eq!(all, data);
        }
    }
}
