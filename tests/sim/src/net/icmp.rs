//! ICMP errors (RFC 792, RFC 4443) about a frame: what routers say, and what anyone may forge.

use std::net::IpAddr;

use bytes::Bytes;
use godwit_netstack::stack::MacAddr;

use crate::rng::Rng;

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const TCP: u8 = 6;
/// Octets of an error's header, before what it quotes.
const HEADER: usize = 8;
/// Octets of an error at most: what every IPv4 host, or IPv6 link, takes.
const LARGEST_V4: usize = 576;
const LARGEST_V6: usize = 1280;
/// The link-layer address of all routers on the way.
const ROUTER: MacAddr = [2, 0, 0, 0, 0xff, 1];

/// What an error says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Complaint {
    /// The packet is too big for the next link, which takes so many octets.
    TooBig(u16),
    /// No route to the host.
    NoRoute,
    /// Nobody listens at the port.
    NoPort,
    /// The packet was under way for too long.
    TimeExceeded,
    /// A type and code as they are on the wire.
    Other(u8, u8),
}

impl Complaint {
    /// Type, code and the word that follows the checksum.
    fn header(self, v4: bool) -> (u8, u8, u32) {
        match (self, v4) {
            (Complaint::TooBig(mtu), true) => (3, 4, mtu.into()),
            (Complaint::TooBig(mtu), false) => (2, 0, mtu.into()),
            (Complaint::NoRoute, true) => (3, 1, 0),
            (Complaint::NoRoute, false) => (1, 0, 0),
            (Complaint::NoPort, true) => (3, 3, 0),
            (Complaint::NoPort, false) => (1, 4, 0),
            (Complaint::TimeExceeded, true) => (11, 0, 0),
            (Complaint::TimeExceeded, false) => (3, 0, 0),
            (Complaint::Other(kind, code), _) => (kind, code, 0),
        }
    }
}

/// The IP packet in a frame, if there is one: whether it is IPv4, and its octets without padding.
fn packet(frame: &[u8]) -> Option<(bool, &[u8])> {
    let ip = frame.get(ETHERNET..)?;
    let length = |at: usize| {
        Some(usize::from(u16::from_be_bytes([
            *ip.get(at)?,
            *ip.get(at + 1)?,
        ])))
    };
    match frame.get(12..14)? {
        [0x08, 0x00] => Some((true, ip.get(..length(2)?)?)),
        [0x86, 0xdd] => Some((false, ip.get(..IPV6 + length(4)?)?)),
        _ => None,
    }
}

/// Octets of the IP packet in a frame.
pub(super) fn packet_size(frame: &[u8]) -> Option<usize> {
    packet(frame).map(|(_, packet)| packet.len())
}

/// Where the TCP header starts in a frame and its flags, if the frame has a TCP segment.
fn tcp(frame: &[u8]) -> Option<(usize, u8)> {
    let (v4, packet) = packet(frame)?;
    let (protocol, header) = match v4 {
        true => (*packet.get(9)?, usize::from(packet.first()? & 15) * 4),
        false => (*packet.get(6)?, IPV6),
    };
    let at = ETHERNET + header;
    (protocol == TCP).then_some((at, *frame.get(at + 13)?))
}

/// Destination of the IP packet in a frame.
pub(super) fn destination(frame: &[u8]) -> Option<IpAddr> {
    let (v4, packet) = packet(frame)?;
    address(packet, v4, false)
}

fn address(packet: &[u8], v4: bool, source: bool) -> Option<IpAddr> {
    match (v4, source) {
        (true, true) => Some(<[u8; 4]>::try_from(packet.get(12..16)?).ok()?.into()),
        (true, false) => Some(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?.into()),
        (false, true) => Some(<[u8; 16]>::try_from(packet.get(8..24)?).ok()?.into()),
        (false, false) => Some(<[u8; 16]>::try_from(packet.get(24..40)?).ok()?.into()),
    }
}

/// Who sent the IP packet in a frame: an error about it goes there.
pub(super) fn source(frame: &[u8]) -> Option<IpAddr> {
    let (v4, packet) = packet(frame)?;
    address(packet, v4, true)
}

/// The frame of an error about `frame`, for its sender behind `to`. `None` if it has no IP packet.
pub fn error(frame: &[u8], complaint: Complaint, to: MacAddr) -> Option<Bytes> {
    let (v4, packet) = packet(frame)?;
    let (kind, code, word) = complaint.header(v4);
    let room = match v4 {
        true => LARGEST_V4 - IPV4 - HEADER,
        false => LARGEST_V6 - IPV6 - HEADER,
    };
    let mut message = vec![kind, code, 0, 0];
    message.extend(word.to_be_bytes());
    message.extend(&packet[..packet.len().min(room)]);
    let mut out = [to, ROUTER].concat();
    out.extend(&frame[12..14]);
    let length = message.len() as u16;
    if v4 {
        let mut ip = vec![0x45, 0];
        ip.extend((IPV4 as u16 + length).to_be_bytes());
        ip.extend([0, 0, 0, 0, 63, 1, 0, 0, 192, 0, 2, 1]);
        ip.extend(&packet[12..16]);
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        out.extend(ip);
    } else {
        let mut router = [0; 16];
        router[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        router[15] = 1;
        let target = &packet[8..24];
        let pseudo = [
            &router[..],
            target,
            &[0, 0],
            &length.to_be_bytes(),
            &[0, 0, 0, 58],
        ];
        let sum = checksum(&[&pseudo.concat()[..], &message].concat());
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        out.extend([0x60, 0, 0, 0]);
        out.extend(length.to_be_bytes());
        out.extend([58, 63]);
        out.extend(router);
        out.extend(target);
    }
    out.extend(message);
    Some(out.into())
}

/// An error about a segment that deserves none, as someone on or off the path may forge it. Never a
/// hard one about a SYN that is in flight: that ends the attempt (RFC 1122 section 4.2.3.9).
pub(super) fn forged(frame: &[u8], to: MacAddr, rng: &mut Rng) -> Option<Bytes> {
    let (at, flags) = tcp(frame)?;
    let syn = flags & 2 != 0;
    let mtu = rng.below(1_500) as u16;
    let complaint = match rng.below(8) {
        0 => Complaint::NoRoute,
        1 if !syn => Complaint::NoPort,
        2 | 3 => Complaint::TooBig(mtu),
        4 => Complaint::TimeExceeded,
        // Source quench, parameter problem, and what nobody knows.
        5 => Complaint::Other(4, 0),
        6 => Complaint::Other(12, 1),
        _ => Complaint::Other(rng.below(128) as u8 | 0x40, 1),
    };
    let mut quoted = frame.to_vec();
    match rng.below(4) {
        // As it is: whoever forges it sees the path.
        0 => {}
        // A guessed sequence number.
        1 => {
            let guess = rng.draw() as u32;
            quoted[at + 4..at + 8].copy_from_slice(&guess.to_be_bytes());
        }
        // A sequence number just outside.
        2 => {
            let seq = quoted.get(at + 4..at + 8)?.try_into().ok()?;
            let far = match rng.chance(500_000) {
                true => u32::from_be_bytes(seq).wrapping_sub(1 + rng.below(100_000) as u32),
                false => u32::from_be_bytes(seq).wrapping_add(8 << 20),
            };
            quoted[at + 4..at + 8].copy_from_slice(&far.to_be_bytes());
        }
        // Another connection.
        _ => quoted[at + 1] ^= 1 << rng.below(8),
    }
    let error = error(&quoted, complaint, to)?;
    if !rng.chance(100_000) {
        return Some(error);
    }
    let mut damaged = error.to_vec();
    let last = damaged.len() - 1;
    damaged[last - rng.below(16) as usize] ^= 0x10;
    Some(damaged.into())
}

/// Mark an ECN-capable packet (RFC 3168 section 5): congestion, where a router would rather not drop.
pub(super) fn marked(frame: &Bytes) -> Option<Bytes> {
    let (v4, packet) = packet(frame)?;
    let codepoint = match v4 {
        true => packet.get(1)? & 3,
        false => packet.get(1)? >> 4 & 3,
    };
    if !matches!(codepoint, 1 | 2) {
        return None;
    }
    let mut out = frame.to_vec();
    if v4 {
        let header = usize::from(packet.first()? & 15) * 4;
        out[ETHERNET + 1] |= 3;
        out[ETHERNET + 10..ETHERNET + 12].fill(0);
        let sum = checksum(out.get(ETHERNET..ETHERNET + header)?);
        out[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
    } else {
        out[ETHERNET + 1] |= 3 << 4;
    }
    Some(out.into())
}

fn checksum(octets: &[u8]) -> u16 {
    let words = octets.chunks(2);
    let sum: u32 = words
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}
