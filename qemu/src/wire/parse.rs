//! From a frame to the few fields of a TCP segment that the analysis needs.

use std::net::{IpAddr, SocketAddr};

use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket,
};

/// A TCP segment, without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it comes from.
    pub source: SocketAddr,
    /// Where it goes.
    pub destination: SocketAddr,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number, if the flag is set.
    pub ack: Option<u32>,
    /// Bytes of payload.
    pub payload: u32,
    /// Window as sent, not scaled.
    pub window: u16,
    /// SYN flag.
    pub syn: bool,
    /// FIN flag.
    pub fin: bool,
    /// RST flag.
    pub rst: bool,
    /// TSval of the timestamp option.
    pub tsval: Option<u32>,
}

/// Reads a frame; `None` when it is not an (unfragmented) TCP segment.
pub fn parse(frame: &[u8]) -> Option<Segment> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => {
            let ip = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
            if ip.next_header() != IpProtocol::Tcp || ip.more_frags() || ip.frag_offset() != 0 {
                return None;
            }
            segment(ip.src_addr().into(), ip.dst_addr().into(), ip.payload())
        }
        EthernetProtocol::Ipv6 => {
            let ip = Ipv6Packet::new_checked(ethernet.payload()).ok()?;
            if ip.next_header() != IpProtocol::Tcp {
                return None;
            }
            segment(ip.src_addr().into(), ip.dst_addr().into(), ip.payload())
        }
        _ => None,
    }
}

fn segment(source: IpAddr, destination: IpAddr, bytes: &[u8]) -> Option<Segment> {
    let tcp = TcpPacket::new_checked(bytes).ok()?;
    Some(Segment {
        source: SocketAddr::new(source, tcp.src_port()),
        destination: SocketAddr::new(destination, tcp.dst_port()),
        seq: tcp.seq_number().0 as u32,
        ack: tcp.ack().then(|| tcp.ack_number().0 as u32),
        payload: tcp.payload().len() as u32,
        window: tcp.window_len(),
        syn: tcp.syn(),
        fin: tcp.fin(),
        rst: tcp.rst(),
        tsval: timestamp(tcp.options()),
    })
}

/// TSval, option kind 8 (RFC 7323, section 3.2).
fn timestamp(mut options: &[u8]) -> Option<u32> {
    loop {
        match options {
            [0, ..] | [] => return None,
            [1, rest @ ..] => options = rest,
            [8, 10, a, b, c, d, ..] => return Some(u32::from_be_bytes([*a, *b, *c, *d])),
            [_, len, ..] => options = options.get(usize::from(*len).max(2)..)?,
            [_] => return None,
        }
    }
}
