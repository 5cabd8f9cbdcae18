//! Frames as the peer of the stack under test builds and reads them.

use std::fmt::Write;
use std::net::IpAddr;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// The control bits, as letters from bit 0 on.
pub const FLAGS: [(u8, char); 8] = [
    (0x01, 'F'),
    (0x02, 'S'),
    (0x04, 'R'),
    (0x08, 'P'),
    (0x10, '.'),
    (0x20, 'U'),
    (0x40, 'E'),
    (0x80, 'W'),
];
pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;

pub const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const ETHERNET: usize = 14;

/// Control bits as letters, SYN first as people say it.
pub fn flags_text(flags: u8) -> String {
    let order = "SFRPUEW.";
    let text: String = order
        .chars()
        .filter(|letter| {
            FLAGS
                .iter()
                .any(|(bit, name)| name == letter && flags & bit != 0)
        })
        .collect();
    match text.is_empty() {
        true => "-".to_owned(),
        false => text,
    }
}

/// A TCP option.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TcpOption {
    Mss(u16),
    WindowScale(u8),
    SackPermitted,
    Sack(Vec<(u32, u32)>),
    Timestamps(u32, u32),
    /// Anything else: the octets as they are on the wire, kind and length included.
    Raw(Vec<u8>),
}

/// A TCP segment with what the IP header says of congestion.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    pub source: u16,
    pub destination: u16,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    pub urgent: u16,
    pub ecn: u8,
    /// IPv4 without Don't Fragment.
    pub may_fragment: bool,
    pub options: Vec<TcpOption>,
    pub payload: Vec<u8>,
}

impl Segment {
    pub fn timestamps(&self) -> Option<(u32, u32)> {
        self.options.iter().find_map(|option| match option {
            TcpOption::Timestamps(value, echo) => Some((*value, *echo)),
            _ => None,
        })
    }

    /// Octets of sequence space.
    pub fn len(&self) -> u32 {
        let control = u32::from(self.flags & SYN != 0) + u32::from(self.flags & FIN != 0);
        self.payload.len() as u32 + control
    }

    fn emit_options(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for option in &self.options {
            match option {
                TcpOption::Mss(mss) => {
                    out.extend([2, 4]);
                    out.extend(mss.to_be_bytes());
                }
                TcpOption::WindowScale(shift) => out.extend([3, 3, *shift]),
                TcpOption::SackPermitted => out.extend([4, 2]),
                TcpOption::Sack(ranges) => {
                    out.extend([5, 2 + 8 * ranges.len() as u8]);
                    for (start, end) in ranges {
                        out.extend(start.to_be_bytes());
                        out.extend(end.to_be_bytes());
                    }
                }
                TcpOption::Timestamps(value, echo) => {
                    out.extend([8, 10]);
                    out.extend(value.to_be_bytes());
                    out.extend(echo.to_be_bytes());
                }
                TcpOption::Raw(octets) => out.extend(octets),
            }
        }
        while out.len() % 4 != 0 {
            out.push(1);
        }
        out
    }

    /// The TCP header and payload, with a right checksum between `from` and `to`.
    pub fn emit(&self, from: IpAddr, to: IpAddr) -> Vec<u8> {
        let options = self.emit_options();
        let mut out = Vec::with_capacity(20 + options.len() + self.payload.len());
        out.extend(self.source.to_be_bytes());
        out.extend(self.destination.to_be_bytes());
        out.extend(self.seq.to_be_bytes());
        out.extend(self.ack.to_be_bytes());
        out.push(((20 + options.len()) as u8 / 4) << 4);
        out.push(self.flags);
        out.extend(self.window.to_be_bytes());
        out.extend([0, 0]);
        out.extend(self.urgent.to_be_bytes());
        out.extend(options);
        out.extend(&self.payload);
        let sum = transport_sum(from, to, TCP, &out);
        out[16..18].copy_from_slice(&sum.to_be_bytes());
        out
    }

    fn read(bytes: &[u8]) -> Option<Segment> {
        let header = bytes.first_chunk::<20>()?;
        let word = |at: usize| -> u32 {
            u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let half = |at: usize| -> u16 { u16::from_be_bytes([header[at], header[at + 1]]) };
        let offset = usize::from(header[12] >> 4) * 4;
        Some(Segment {
            source: half(0),
            destination: half(2),
            seq: word(4),
            ack: word(8),
            flags: header[13],
            window: half(14),
            urgent: half(18),
            ecn: 0,
            may_fragment: false,
            options: read_options(bytes.get(20..offset)?)?,
            payload: bytes.get(offset..)?.to_vec(),
        })
    }
}

fn read_options(mut bytes: &[u8]) -> Option<Vec<TcpOption>> {
    let mut options = Vec::new();
    while let Some(&kind) = bytes.first() {
        if kind == 0 {
            break;
        }
        if kind == 1 {
            bytes = &bytes[1..];
            continue;
        }
        let length = usize::from(*bytes.get(1)?);
        let whole = bytes.get(..length)?;
        let body = whole.get(2..)?;
        let word = |at: usize| -> Option<u32> {
            Some(u32::from_be_bytes(*body.get(at..)?.first_chunk()?))
        };
        options.push(match (kind, body) {
            (2, [a, b]) => TcpOption::Mss(u16::from_be_bytes([*a, *b])),
            (3, [shift]) => TcpOption::WindowScale(*shift),
            (4, []) => TcpOption::SackPermitted,
            (8, body) if body.len() == 8 => TcpOption::Timestamps(word(0)?, word(4)?),
            (5, body) if !body.is_empty() && body.len() % 8 == 0 => {
                let ranges = (0..body.len() / 8).map(|n| Some((word(8 * n)?, word(8 * n + 4)?)));
                TcpOption::Sack(ranges.collect::<Option<_>>()?)
            }
            _ => TcpOption::Raw(whole.to_vec()),
        });
        bytes = &bytes[length..];
    }
    Some(options)
}

/// Claim another length of the header in `body`, an emitted segment.
pub fn set_offset(body: &mut [u8], from: IpAddr, to: IpAddr, words: u8) {
    body[12] = words << 4;
    body[16..18].copy_from_slice(&[0, 0]);
    let sum = transport_sum(from, to, TCP, body);
    body[16..18].copy_from_slice(&sum.to_be_bytes());
}

fn sum(mut accumulated: u32, bytes: &[u8]) -> u32 {
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        accumulated += u32::from(u16::from_be_bytes([pair[0], low]));
    }
    accumulated
}

fn fold(mut accumulated: u32) -> u16 {
    while accumulated > 0xffff {
        accumulated = (accumulated & 0xffff) + (accumulated >> 16);
    }
    !(accumulated as u16)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The checksum over pseudo-header and `body`; zero if the one in `body` is right.
pub fn transport_sum(from: IpAddr, to: IpAddr, protocol: u8, body: &[u8]) -> u16 {
    let mut accumulated = sum(0, &octets(from));
    accumulated = sum(accumulated, &octets(to));
    accumulated += u32::from(protocol) + (body.len() as u32 >> 16) + (body.len() as u32 & 0xffff);
    fold(sum(accumulated, body))
}

/// An IP packet in an Ethernet frame.
pub fn frame(
    macs: (Mac, Mac),
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    ecn: u8,
    body: &[u8],
) -> Vec<u8> {
    let mut out = Vec::with_capacity(ETHERNET + 40 + body.len());
    out.extend(macs.1);
    out.extend(macs.0);
    out.extend(match from {
        IpAddr::V4(_) => [0x08, 0x00],
        IpAddr::V6(_) => [0x86, 0xdd],
    });
    out.extend(packet(from, to, protocol, ecn, body));
    out
}

/// Make a frame with an IPv6 packet one with a fragment that is all of it.
pub fn put_in_fragment(frame: &mut Vec<u8>) {
    let body = frame.split_off(ETHERNET + 40);
    let [l0, l1] = (8 + body.len() as u16).to_be_bytes();
    let next = frame[ETHERNET + 6];
    frame[ETHERNET + 4..ETHERNET + 7].copy_from_slice(&[l0, l1, 44]);
    frame.extend([next, 0, 0, 0, 1, 2, 3, 4]);
    frame.extend(body);
}

/// Make the checksum of an IPv4 header wrong.
pub fn damage_header_checksum(frame: &mut [u8]) {
    frame[ETHERNET + 10] ^= 0x5a;
}

/// Put hop-by-hop options, destination options and a routing header with `left` places left before the
/// payload of a frame with an IPv6 packet (RFC 8200 section 4).
pub fn put_behind_route(frame: &mut Vec<u8>, left: u8) {
    let body = frame.split_off(ETHERNET + 40);
    let next = frame[ETHERNET + 6];
    let mut headers = Vec::new();
    // Padding for options; the route is of a type nobody knows, which matters only while places are left.
    headers.extend([60, 0, 1, 4, 0, 0, 0, 0]);
    headers.extend([43, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    headers.extend([next, 0, 253, left, 0, 0, 0, 0]);
    let [l0, l1] = ((headers.len() + body.len()) as u16).to_be_bytes();
    frame[ETHERNET + 4..ETHERNET + 7].copy_from_slice(&[l0, l1, 0]);
    frame.extend(headers);
    frame.extend(body);
}

/// An IP packet.
pub fn packet(from: IpAddr, to: IpAddr, protocol: u8, ecn: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(40 + body.len());
    // Neighbour discovery is believed only if no router has passed it on.
    let hops = if protocol == ICMPV6 { 255 } else { 64 };
    if from.is_ipv4() {
        out.extend([0x45, ecn]);
        out.extend((20 + body.len() as u16).to_be_bytes());
        out.extend([0, 0, 0x40, 0, hops, protocol, 0, 0]);
        out.extend(octets(from));
        out.extend(octets(to));
        let header = fold(sum(0, &out));
        out[10..12].copy_from_slice(&header.to_be_bytes());
    } else {
        out.extend([0x60, ecn << 4, 0, 0]);
        out.extend((body.len() as u16).to_be_bytes());
        out.extend([protocol, hops]);
        out.extend(octets(from));
        out.extend(octets(to));
    }
    out.extend(body);
    out
}

/// What a stack sent.
#[derive(Clone, Debug)]
pub enum Sent {
    Tcp {
        to: IpAddr,
        segment: Segment,
        /// Octets of the IP packet.
        length: usize,
    },
    /// ARP or NDP asks who has `target`.
    WhoHas { asks: IpAddr, target: IpAddr },
    /// Nothing a script is about.
    Other,
}

/// Read a frame that a stack sent. `Err` says what is wrong with it.
pub fn read(frame: &[u8]) -> Result<Sent, String> {
    let ethertype = frame.get(12..14).ok_or("a frame without a header")?;
    let body = &frame[ETHERNET..];
    match ethertype {
        [0x08, 0x06] => Ok(read_arp(body)),
        [0x08, 0x00] => read_ipv4(body),
        [0x86, 0xdd] => read_ipv6(body),
        _ => Ok(Sent::Other),
    }
}

fn read_arp(body: &[u8]) -> Sent {
    let address =
        |at: usize| -> Option<IpAddr> { Some(IpAddr::from(*body.get(at..)?.first_chunk::<4>()?)) };
    match (body.get(6..8), address(14), address(24)) {
        (Some([0, 1]), Some(asks), Some(target)) if asks != target => Sent::WhoHas { asks, target },
        _ => Sent::Other,
    }
}

fn read_ipv4(body: &[u8]) -> Result<Sent, String> {
    let header = body.first_chunk::<20>().ok_or("an IPv4 header cut off")?;
    if fold(sum(0, header)) != 0 {
        return Err("wrong IPv4 header checksum".into());
    }
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if length > body.len() {
        return Err(format!(
            "IPv4 says {length} octets, the frame has {}",
            body.len()
        ));
    }
    let address =
        |at: usize| IpAddr::from([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if header[9] != TCP {
        return Ok(Sent::Other);
    }
    let may_fragment = header[6] & 0x40 == 0;
    if may_fragment && length > 576 {
        // RFC 1191 section 3: whoever discovers the path MTU must set DF.
        return Err("TCP over IPv4 without DF".into());
    }
    read_tcp(
        address(12),
        address(16),
        (header[1] & 3, may_fragment),
        length,
        &body[20..length],
    )
}

fn read_ipv6(body: &[u8]) -> Result<Sent, String> {
    let header = body.first_chunk::<40>().ok_or("an IPv6 header cut off")?;
    let length = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
    let inside = body.get(40..length).ok_or("an IPv6 packet cut off")?;
    let address = |at: usize| -> IpAddr {
        let octets: [u8; 16] = core::array::from_fn(|n| header[at + n]);
        IpAddr::from(octets)
    };
    let (from, to) = (address(8), address(24));
    match (header[6], inside.first()) {
        (TCP, _) => read_tcp(from, to, (header[1] >> 4 & 3, false), length, inside),
        (ICMPV6, Some(135)) if !from.is_unspecified() => {
            let target = inside.get(8..).and_then(|rest| rest.first_chunk::<16>());
            let target = IpAddr::from(*target.ok_or("a neighbour solicitation cut off")?);
            Ok(Sent::WhoHas { asks: from, target })
        }
        _ => Ok(Sent::Other),
    }
}

fn read_tcp(
    from: IpAddr,
    to: IpAddr,
    (ecn, may_fragment): (u8, bool),
    length: usize,
    body: &[u8],
) -> Result<Sent, String> {
    if transport_sum(from, to, TCP, body) != 0 {
        return Err("wrong TCP checksum".into());
    }
    let mut segment = Segment::read(body).ok_or("a malformed TCP header or options")?;
    (segment.ecn, segment.may_fragment) = (ecn, may_fragment);
    Ok(Sent::Tcp {
        to,
        segment,
        length,
    })
}

/// The answer to [`Sent::WhoHas`]: `target` is at `mac`.
pub fn is_at(asker: (Mac, IpAddr), mac: Mac, target: IpAddr) -> Vec<u8> {
    if target.is_ipv4() {
        let mut out = Vec::new();
        out.extend(asker.0);
        out.extend(mac);
        out.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 2]);
        out.extend(mac);
        out.extend(octets(target));
        out.extend(asker.0);
        out.extend(octets(asker.1));
        return out;
    }
    // Neighbour advertisement: solicited, override, with the target's link-layer address.
    let mut body = vec![136, 0, 0, 0, 0x60, 0, 0, 0];
    body.extend(octets(target));
    body.extend([2, 1]);
    body.extend(mac);
    let sum = transport_sum(target, asker.1, ICMPV6, &body);
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    frame((mac, asker.0), target, asker.1, ICMPV6, 0, &body)
}

/// An ICMP error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Icmp {
    /// Packet too big / fragmentation needed, with the next hop's MTU.
    TooBig(u16),
    /// Destination unreachable with its IPv4 code; the nearest ICMPv6 code over IPv6.
    Unreachable(u8),
    /// Time exceeded in transit.
    TimeExceeded,
    /// Source quench (IPv4 only; over IPv6 an unassigned error type).
    SourceQuench,
}

/// An ICMP error from `from` to `to` that quotes `quoted`, an IP packet, as far as is usual.
pub fn icmp(macs: (Mac, Mac), from: IpAddr, to: IpAddr, error: Icmp, quoted: &[u8]) -> Vec<u8> {
    let v4 = to.is_ipv4();
    let (kind, code, word) = match (error, v4) {
        (Icmp::TooBig(mtu), true) => (3, 4, u32::from(mtu)),
        (Icmp::TooBig(mtu), false) => (2, 0, u32::from(mtu)),
        (Icmp::Unreachable(code), true) => (3, code, 0),
        // RFC 7915 section 4.2: net and host unreachable, port, administratively prohibited.
        (Icmp::Unreachable(code), false) => match code {
            3 => (1, 4, 0),
            9 | 10 | 13 => (1, 1, 0),
            _ => (1, 0, 0),
        },
        (Icmp::TimeExceeded, true) => (11, 0, 0),
        (Icmp::TimeExceeded, false) => (3, 0, 0),
        (Icmp::SourceQuench, true) => (4, 0, 0),
        (Icmp::SourceQuench, false) => (99, 0, 0),
    };
    let mut body = vec![kind, code, 0, 0];
    body.extend(word.to_be_bytes());
    // RFC 792 promises the first 8 octets of the transport header and no more.
    let quote = if v4 { 28 } else { 48 };
    body.extend(&quoted[..quote.min(quoted.len())]);
    let (protocol, sum) = match v4 {
        true => (ICMP, fold(sum(0, &body))),
        false => (ICMPV6, transport_sum(from, to, ICMPV6, &body)),
    };
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    frame(macs, from, to, protocol, 0, &body)
}

/// Octets in a few digits.
pub fn hex(octets: &[u8]) -> String {
    octets.iter().fold(String::new(), |mut text, octet| {
        let _ = write!(text, "{octet:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_what_is_read_and_damage_shows() {
        for (from, to) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            let segment = Segment {
                source: 1,
                destination: 2,
                seq: 3,
                ack: 4,
                flags: ACK | PSH,
                window: 5,
                ecn: 2,
                may_fragment: false,
                options: vec![
                    TcpOption::Timestamps(6, 7),
                    TcpOption::Sack(vec![(8, 9), (10, 11)]),
                ],
                payload: b"godwit".to_vec(),
                ..Segment::default()
            };
            let mut built = frame(([1; 6], [2; 6]), from, to, TCP, 2, &segment.emit(from, to));
            let Ok(Sent::Tcp {
                segment: read_back, ..
            }) = read(&built)
            else {
                panic!("not read");
            };
            assert_eq!(read_back, segment);
            *built.last_mut().unwrap() ^= 1;
            assert!(read(&built).unwrap_err().contains("TCP checksum"));
        }
    }
}
