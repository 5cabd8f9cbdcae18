//! Announcements of neighbours, put as smoltcp understands them.
//!
//! A stock host (Linux, the BSDs, Windows) updates an entry it has when it sees a gratuitous ARP
//! (RFC 826 "merge", RFC 5227 section 3) or an unsolicited neighbour advertisement for it
//! (RFC 4861 section 7.2.5, by *target* address). smoltcp 0.14 ignores ARP that is not addressed to it
//! and files an advertisement under its source address. So both are rewritten into what they mean.

use bytes::Bytes;
use smoltcp::iface::Interface;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetFrame, EthernetProtocol, Icmpv6Packet, Icmpv6Repr,
    IpProtocol, Ipv6Packet, Ipv6Repr, NdiscRepr,
};

/// The frame as the host is to see it; `None` if its NIC would not take it.
pub(super) fn as_stock_hosts_read_it(interface: &Interface, frame: &Bytes) -> Option<Bytes> {
    let ethernet = EthernetFrame::new_checked(&frame[..]).ok()?;
    let rewritten = match ethernet.ethertype() {
        EthernetProtocol::Arp => arp_for_us(interface, &ethernet),
        EthernetProtocol::Ipv6 => advertisement_by_target(&ethernet),
        _ => None,
    };
    Some(rewritten.unwrap_or_else(|| frame.clone()))
}

/// Whether the frame asks for a neighbour's address.
pub(super) fn is_question(frame: &[u8]) -> bool {
    matches!(
        kind(frame),
        Some((EthernetProtocol::Arp, 1)) | Some((EthernetProtocol::Ipv6, 135))
    )
}

/// Whether the frame is the answer to such a question.
pub(super) fn is_answer(frame: &[u8]) -> bool {
    matches!(
        kind(frame),
        Some((EthernetProtocol::Arp, 2)) | Some((EthernetProtocol::Ipv6, 136))
    )
}

/// Operation of an ARP packet, or type of an ICMPv6 message.
fn kind(frame: &[u8]) -> Option<(EthernetProtocol, u8)> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    let octets = ethernet.payload();
    let protocol = ethernet.ethertype();
    let kind = match protocol {
        EthernetProtocol::Arp => octets.get(7)?,
        EthernetProtocol::Ipv6 if *octets.get(6)? == u8::from(IpProtocol::Icmpv6) => {
            octets.get(40)?
        }
        _ => return None,
    };
    Some((protocol, *kind))
}

fn arp_for_us(interface: &Interface, ethernet: &EthernetFrame<&[u8]>) -> Option<Bytes> {
    let packet = ArpPacket::new_checked(ethernet.payload()).ok()?;
    let ArpRepr::EthernetIpv4 {
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = ArpRepr::parse(&packet).ok()?
    else {
        return None;
    };
    let ours = interface.ipv4_addr()?;
    if source_protocol_addr != target_protocol_addr || source_protocol_addr == ours {
        return None;
    }
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr,
        source_protocol_addr,
        target_hardware_addr: ethernet.dst_addr(),
        target_protocol_addr: ours,
    };
    let mut out = ethernet.as_ref().to_vec();
    let mut frame = EthernetFrame::new_unchecked(&mut out);
    reply.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    Some(out.into())
}

fn advertisement_by_target(ethernet: &EthernetFrame<&[u8]>) -> Option<Bytes> {
    let ip = Ipv6Packet::new_checked(ethernet.payload()).ok()?;
    if ip.next_header() != IpProtocol::Icmpv6 {
        return None;
    }
    let checked = ChecksumCapabilities::default();
    let mut header = Ipv6Repr::parse(&ip).ok()?;
    let packet = Icmpv6Packet::new_checked(ip.payload()).ok()?;
    let message = Icmpv6Repr::parse(&header.src_addr, &header.dst_addr, &packet, &checked).ok()?;
    let Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { target_addr, .. }) = message else {
        return None;
    };
    if target_addr == header.src_addr {
        return None;
    }
    header.src_addr = target_addr;
    header.payload_len = message.buffer_len();
    let mut out = vec![0; 14 + 40 + header.payload_len];
    out[..14].copy_from_slice(&ethernet.as_ref()[..14]);
    let mut frame = EthernetFrame::new_unchecked(&mut out);
    let mut packet = Ipv6Packet::new_unchecked(frame.payload_mut());
    header.emit(&mut packet);
    let mut body = Icmpv6Packet::new_unchecked(packet.payload_mut());
    message.emit(&header.src_addr, &header.dst_addr, &mut body, &checked);
    Some(out.into())
}
