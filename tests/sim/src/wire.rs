//! TCP segments as the checkers see them: parsed from emitted frames, without help from the
//! stacks under test.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use godwit_netstack::stack::MacAddr;
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, IpAddress, IpProtocol, Ipv4Packet, Ipv6Packet, TcpOption,
    TcpPacket,
};

/// A TCP segment on the wire.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Sender on the link.
    pub source_mac: MacAddr,
    /// Receiver on the link.
    pub target_mac: MacAddr,
    /// Sender.
    pub source: SocketAddr,
    /// Receiver.
    pub target: SocketAddr,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// SEG.SEQ.
    pub seq: u32,
    /// SEG.ACK, if the ACK bit is set.
    pub ack: Option<u32>,
    /// SYN bit.
    pub syn: bool,
    /// FIN bit.
    pub fin: bool,
    /// RST bit.
    pub rst: bool,
    /// The window field, unscaled.
    pub window: u16,
    /// Window scale option.
    pub scale: Option<u8>,
    /// Maximum segment size option.
    pub mss: Option<u16>,
    /// TSval and TSecr.
    pub timestamps: Option<(u32, u32)>,
    /// SACK permitted option.
    pub sack_permitted: bool,
    /// Payload.
    pub payload: Bytes,
    /// Whether IP and TCP checksums are right.
    pub checksums_right: bool,
}

impl Segment {
    /// Sequence numbers the segment takes: payload, SYN and FIN.
    pub fn length(&self) -> u32 {
        self.payload.len() as u32 + u32::from(self.syn) + u32::from(self.fin)
    }

    /// The TCP segment in an Ethernet frame, if there is one.
    pub fn parse(frame: &Bytes) -> Option<Segment> {
        let ethernet = EthernetFrame::new_checked(&frame[..]).ok()?;
        let (source, target, hop_limit, ip_right, tcp) = match ethernet.ethertype() {
            EthernetProtocol::Ipv4 => {
                let ip = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
                if ip.next_header() != IpProtocol::Tcp || ip.more_frags() || ip.frag_offset() != 0 {
                    return None;
                }
                let ends = (IpAddr::V4(ip.src_addr()), IpAddr::V4(ip.dst_addr()));
                let header = usize::from(ip.header_len());
                let end = usize::from(ip.total_len());
                let tcp = ethernet.payload().get(header..end)?;
                (ends.0, ends.1, ip.hop_limit(), ip.verify_checksum(), tcp)
            }
            EthernetProtocol::Ipv6 => {
                let ip = Ipv6Packet::new_checked(ethernet.payload()).ok()?;
                if ip.next_header() != IpProtocol::Tcp {
                    return None;
                }
                let ends = (IpAddr::V6(ip.src_addr()), IpAddr::V6(ip.dst_addr()));
                let header = ip.header_len();
                let end = header + usize::from(ip.payload_len());
                let tcp = ethernet.payload().get(header..end)?;
                (ends.0, ends.1, ip.hop_limit(), true, tcp)
            }
            _ => return None,
        };
        let tcp_at = tcp.as_ptr() as usize - frame.as_ptr() as usize;
        let packet = TcpPacket::new_checked(tcp).ok()?;
        let right = packet.verify_checksum(&address(source), &address(target));
        let payload_at = tcp_at + usize::from(packet.header_len());
        let mut segment = Segment {
            source_mac: ethernet.src_addr().0,
            target_mac: ethernet.dst_addr().0,
            source: SocketAddr::new(source, packet.src_port()),
            target: SocketAddr::new(target, packet.dst_port()),
            hop_limit,
            seq: packet.seq_number().0 as u32,
            ack: packet.ack().then(|| packet.ack_number().0 as u32),
            syn: packet.syn(),
            fin: packet.fin(),
            rst: packet.rst(),
            window: packet.window_len(),
            scale: None,
            mss: None,
            timestamps: None,
            sack_permitted: false,
            payload: frame.slice(payload_at..tcp_at + tcp.len()),
            checksums_right: ip_right && right,
        };
        segment.read_options(packet.options());
        Some(segment)
    }

    fn read_options(&mut self, mut options: &[u8]) {
        while !options.is_empty() {
            let Ok((rest, option)) = TcpOption::parse(options) else {
                return;
            };
            match option {
                TcpOption::EndOfList => return,
                TcpOption::WindowScale(scale) => self.scale = Some(scale),
                TcpOption::MaxSegmentSize(mss) => self.mss = Some(mss),
                TcpOption::SackPermitted => self.sack_permitted = true,
                TcpOption::TimeStamp { tsval, tsecr } => self.timestamps = Some((tsval, tsecr)),
                _ => {}
            }
            options = rest;
        }
    }
}

fn address(ip: IpAddr) -> IpAddress {
    match ip {
        IpAddr::V4(ip) => IpAddress::Ipv4(ip),
        IpAddr::V6(ip) => IpAddress::Ipv6(ip),
    }
}

/// The port a TCP segment is for; `None` for anything else.
pub fn tcp_target(frame: &[u8]) -> Option<u16> {
    const TCP: u8 = 6;
    let port = |at: usize| {
        let octets = frame.get(at + 2..at + 4)?.try_into().ok()?;
        Some(u16::from_be_bytes(octets))
    };
    match frame.get(12..14)? {
        [0x08, 0x00] if *frame.get(23)? == TCP => port(14 + usize::from(frame[14] & 0xf) * 4),
        [0x86, 0xdd] if *frame.get(20)? == TCP => port(14 + 40),
        _ => None,
    }
}

/// Whether a card or an address is in the network of the instances, where they have one.
pub fn is_inside(mac: MacAddr, address: Option<IpAddr>) -> bool {
    let inner = |address| match address {
        IpAddr::V4(v4) => v4.octets().starts_with(&[10, 88]),
        IpAddr::V6(v6) => v6.segments()[0] == 0xfd88,
    };
    mac.starts_with(&[2, 0, 0, 0, 4]) || address.is_some_and(inner)
}

/// Source and destination of the packet in a frame.
pub fn ends(frame: &[u8]) -> Option<[IpAddr; 2]> {
    let v4 = |at: usize| {
        Some(IpAddr::from(
            <[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?,
        ))
    };
    let v6 = |at: usize| {
        Some(IpAddr::from(
            <[u8; 16]>::try_from(frame.get(at..at + 16)?).ok()?,
        ))
    };
    match frame.get(12..14)? {
        [0x08, 0x00] => Some([v4(26)?, v4(30)?]),
        [0x08, 0x06] => Some([v4(28)?, v4(38)?]),
        [0x86, 0xdd] => Some([v6(22)?, v6(38)?]),
        _ => None,
    }
}

/// The address that an ARP frame's sender, or an unsolicited or solicited neighbour advertisement,
/// says is his.
pub fn address_claimed(frame: &[u8]) -> Option<IpAddr> {
    let at = |from: usize, to: usize| frame.get(from..to);
    match at(12, 14)? {
        [0x08, 0x06] => {
            let sender: [u8; 4] = at(28, 32)?.try_into().ok()?;
            Some(sender.into())
        }
        // ICMPv6, type 136.
        [0x86, 0xdd] if frame.get(20) == Some(&58) && frame.get(54) == Some(&136) => {
            let target: [u8; 16] = at(62, 78)?.try_into().ok()?;
            Some(target.into())
        }
        _ => None,
    }
}
