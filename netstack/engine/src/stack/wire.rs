//! Ethernet and IP headers: parsed once, at the border, into typed values; and built.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::ops::Range;

use super::MacAddr;
use super::checksum::Sum;
use super::frame::Head;

/// Octets of an Ethernet header.
pub(super) const ETHERNET: usize = 14;
/// Octets of an IPv4 header without options.
pub(super) const IPV4: usize = 20;
/// Octets of the fixed IPv6 header.
pub(super) const IPV6: usize = 40;
/// Hop limit and TTL of packets that start here.
pub(super) const HOP_LIMIT: u8 = 64;
/// ECN codepoint ECT(0) (RFC 3168 section 5).
pub(super) const ECT_0: u8 = 2;
/// The broadcast MAC address.
pub(super) const BROADCAST: MacAddr = [0xff; 6];

pub(super) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(super) const ETHERTYPE_ARP: u16 = 0x0806;
pub(super) const ETHERTYPE_IPV6: u16 = 0x86dd;

pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;

/// Extension headers followed before a packet counts as hostile.
const MAX_EXTENSIONS: usize = 8;

/// An Ethernet header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ethernet {
    pub(super) dst: MacAddr,
    pub(super) src: MacAddr,
    pub(super) ethertype: u16,
}

impl Ethernet {
    /// The header of a frame, if it has one.
    pub(super) fn parse(frame: &[u8]) -> Option<Ethernet> {
        let (dst, rest) = frame.split_first_chunk::<6>()?;
        let (src, rest) = rest.split_first_chunk::<6>()?;
        let (ethertype, _) = rest.split_first_chunk::<2>()?;
        Some(Ethernet {
            dst: *dst,
            src: *src,
            ethertype: u16::from_be_bytes(*ethertype),
        })
    }

    /// Append the header.
    pub(super) fn emit(&self, head: &mut Head) {
        head.extend_from_slice(&self.with::<0, ETHERNET>([]));
    }

    /// The header and what follows it: as an array, for each piece appended costs a call.
    fn with<const REST: usize, const ALL: usize>(&self, rest: [u8; REST]) -> [u8; ALL] {
        const { assert!(ALL == ETHERNET + REST) };
        let mut all = [0; ALL];
        all[..6].copy_from_slice(&self.dst);
        all[6..12].copy_from_slice(&self.src);
        all[12..ETHERNET].copy_from_slice(&self.ethertype.to_be_bytes());
        all[ETHERNET..].copy_from_slice(&rest);
        all
    }
}

/// Whether the address names one station, and not a group or nobody.
pub(super) fn is_unicast(mac: &MacAddr) -> bool {
    mac[0] & 1 == 0 && *mac != [0; 6]
}

/// What the stack needs to know of an IP header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Ip {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) hop_limit: u8,
    /// The two ECN bits (RFC 3168).
    pub(super) ecn: u8,
    /// Transport protocol, beyond extension headers.
    pub(super) protocol: u8,
    /// Where the transport header and payload lie in the frame. Ends before Ethernet padding.
    pub(super) payload: Range<usize>,
    /// An IPv6 packet with a Fragment header, though whole: an atomic fragment (RFC 6946).
    pub(super) atomic: bool,
}

/// Why a packet is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum IpError {
    Malformed,
    BadChecksum,
    Fragment,
    UnknownProtocol,
}

/// Parse the IP packet that starts at octet `start` of `frame`. With `whole` unset the packet may
/// be cut off, as quoted in ICMP errors, and checksums are not looked at.
pub(super) fn parse_ip(frame: &[u8], start: usize, whole: bool) -> Result<Ip, IpError> {
    parse_ip_within(frame, start, whole, frame.len())
}

/// Like [`parse_ip`], but `frame` is only the beginning of `length` octets.
pub(super) fn parse_ip_within(
    frame: &[u8],
    start: usize,
    whole: bool,
    length: usize,
) -> Result<Ip, IpError> {
    let packet = frame.get(start..).ok_or(IpError::Malformed)?;
    let length = length.saturating_sub(start);
    match packet.first().map(|octet| octet >> 4) {
        Some(4) => parse_ipv4(packet, start, whole, length),
        Some(6) => parse_ipv6(packet, start, whole, length),
        _ => Err(IpError::Malformed),
    }
}

fn parse_ipv4(packet: &[u8], start: usize, whole: bool, length: usize) -> Result<Ip, IpError> {
    let fixed = packet.first_chunk::<IPV4>().ok_or(IpError::Malformed)?;
    let header = usize::from(fixed[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    let end = if whole { total } else { total.min(length) };
    if header < IPV4 || header > end || end > length {
        return Err(IpError::Malformed);
    }
    if whole {
        let mut sum = Sum::new();
        sum.add(packet.get(..header).ok_or(IpError::Malformed)?);
        if sum.finish() != 0 {
            return Err(IpError::BadChecksum);
        }
    }
    // More Fragments, or an offset. A quoted first fragment still names its flow.
    let fragment = u16::from_be_bytes([fixed[6], fixed[7]]);
    if fragment & 0x1fff != 0 || (whole && fragment & 0x2000 != 0) {
        return Err(IpError::Fragment);
    }
    Ok(Ip {
        src: IpAddr::V4(Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15])),
        dst: IpAddr::V4(Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19])),
        hop_limit: fixed[8],
        ecn: fixed[1] & 3,
        protocol: fixed[9],
        payload: start + header..start + end,
        atomic: false,
    })
}

fn parse_ipv6(packet: &[u8], start: usize, whole: bool, length: usize) -> Result<Ip, IpError> {
    let fixed = packet.first_chunk::<IPV6>().ok_or(IpError::Malformed)?;
    let total = IPV6 + usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    let end = if whole { total } else { total.min(length) };
    if end > length {
        return Err(IpError::Malformed);
    }
    let body = packet.get(..end.min(packet.len())).unwrap_or_default();
    let mut protocol = fixed[6];
    let mut at = IPV6;
    let mut atomic = false;
    for _ in 0..MAX_EXTENSIONS {
        match protocol {
            // Hop-by-hop options, destination options: skipped. Routing: only if used up.
            0 | 43 | 60 => {
                let extension = body.get(at..at + 4).ok_or(IpError::Malformed)?;
                if protocol == 43 && extension.get(3) != Some(&0) {
                    return Err(IpError::UnknownProtocol);
                }
                let [next, units, ..] = *extension else {
                    return Err(IpError::Malformed);
                };
                let options = at + 2;
                at += 8 + 8 * usize::from(units);
                if at > end {
                    return Err(IpError::Malformed);
                }
                // Of a quoted packet there may be less, and it was sent by us.
                if whole && protocol != 43 {
                    look_at_options(body.get(options..at).unwrap_or_default())?;
                }
                protocol = next;
            }
            // An atomic fragment is all there is of its packet, whatever has the same identification (RFC
            // 6946 section 4). A quoted first fragment still names its flow.
            44 => {
                let extension = body.get(at..at + 8).ok_or(IpError::Malformed)?;
                let [next, _, o0, o1, ..] = *extension else {
                    return Err(IpError::Malformed);
                };
                let place = u16::from_be_bytes([o0, o1]);
                if place & 0xfff8 != 0 || (whole && place & 1 != 0) {
                    return Err(IpError::Fragment);
                }
                (protocol, atomic) = (next, true);
                at += 8;
            }
            _ => {
                return Ok(Ip {
                    src: IpAddr::V6(address_v6(fixed, 8)),
                    dst: IpAddr::V6(address_v6(fixed, 24)),
                    hop_limit: fixed[7],
                    ecn: (fixed[1] >> 4) & 3,
                    protocol,
                    payload: start + at..start + end,
                    atomic,
                });
            }
        }
    }
    Err(IpError::UnknownProtocol)
}

/// RFC 8200 section 4.2: the first two bits of an option nobody here knows say whether it may be passed over.
fn look_at_options(mut options: &[u8]) -> Result<(), IpError> {
    while let [kind, rest @ ..] = options {
        let length = match kind {
            0 => 0, // one octet of padding has no length
            _ => 1 + usize::from(*rest.first().ok_or(IpError::Malformed)?),
        };
        options = rest.get(length..).ok_or(IpError::Malformed)?;
        if kind >> 6 != 0 {
            return Err(IpError::UnknownProtocol);
        }
    }
    Ok(())
}

fn address_v6(header: &[u8; IPV6], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    for (place, octet) in octets.iter_mut().zip(header.iter().skip(at)) {
        *place = *octet;
    }
    Ipv6Addr::from(octets)
}

/// Whether the transport checksum of TCP, UDP or ICMPv6 in `transport` is right.
pub(super) fn transport_checksum_ok(ip: &Ip, transport: &[u8]) -> bool {
    let mut sum = Sum::new();
    sum.add_pseudo_header(ip.src, ip.dst, ip.protocol, transport.len());
    sum.add(transport);
    sum.finish() == 0
}

/// A packet to start an IP header for.
#[derive(Clone, Copy, Debug)]
pub(super) struct IpHeader {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) protocol: u8,
    pub(super) hop_limit: u8,
    pub(super) ecn: u8,
    /// Octets of transport header and payload.
    pub(super) length: usize,
    /// Routers may fragment the packet, which is told apart by this from others between the same ends; only
    /// IPv4 has that.
    pub(super) fragments: Option<u16>,
}

impl IpHeader {
    /// Append an Ethernet header from `mac` (the destination is filled in when the next hop is
    /// known) and the IP header. Source and destination are of one family.
    pub(super) fn emit(&self, mac: MacAddr, head: &mut Head) {
        let ethernet = |ethertype| Ethernet {
            dst: [0; 6],
            src: mac,
            ethertype,
        };
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let header = self.octets_v4(src, dst);
                let all: [u8; ETHERNET + IPV4] = ethernet(ETHERTYPE_IPV4).with(header);
                head.extend_from_slice(&all);
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let header = self.octets_v6(src, dst);
                let all: [u8; ETHERNET + IPV6] = ethernet(ETHERTYPE_IPV6).with(header);
                head.extend_from_slice(&all);
            }
            _ => debug_assert!(false, "addresses of two families"),
        }
    }

    fn octets_v4(&self, src: Ipv4Addr, dst: Ipv4Addr) -> [u8; IPV4] {
        let total = (IPV4 + self.length).min(usize::from(u16::MAX)) as u16;
        let [t0, t1] = total.to_be_bytes();
        // What is never fragmented has an identification that means nothing (RFC 6864).
        let (dont_fragment, [i0, i1]) = match self.fragments {
            Some(identification) => (0, identification.to_be_bytes()),
            None => (0x40, [0, 0]),
        };
        let mut header = [0u8; IPV4];
        header[..12].copy_from_slice(&[
            0x45,
            self.ecn,
            t0,
            t1,
            i0,
            i1,
            dont_fragment,
            0,
            self.hop_limit,
            self.protocol,
            0,
            0,
        ]);
        header[12..16].copy_from_slice(&src.octets());
        header[16..20].copy_from_slice(&dst.octets());
        let mut sum = Sum::new();
        sum.add(&header);
        header[10..12].copy_from_slice(&sum.finish().to_be_bytes());
        header
    }

    fn octets_v6(&self, src: Ipv6Addr, dst: Ipv6Addr) -> [u8; IPV6] {
        let [l0, l1] = (self.length.min(usize::from(u16::MAX)) as u16).to_be_bytes();
        let mut header = [0u8; IPV6];
        header[..8].copy_from_slice(&[
            0x60,
            self.ecn << 4,
            0,
            0,
            l0,
            l1,
            self.protocol,
            self.hop_limit,
        ]);
        header[8..24].copy_from_slice(&src.octets());
        header[24..].copy_from_slice(&dst.octets());
        header
    }
}

/// The MAC address a multicast or broadcast IP address maps to (RFC 1112, RFC 2464).
pub(super) fn group_mac(address: IpAddr) -> Option<MacAddr> {
    match address {
        IpAddr::V4(v4) if v4.is_broadcast() => Some(BROADCAST),
        IpAddr::V4(v4) if v4.is_multicast() => {
            let [_, b, c, d] = v4.octets();
            Some([0x01, 0x00, 0x5e, b & 0x7f, c, d])
        }
        IpAddr::V6(v6) if v6.is_multicast() => {
            let octets = v6.octets();
            Some([0x33, 0x33, octets[12], octets[13], octets[14], octets[15]])
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(src: IpAddr, dst: IpAddr, body: &[u8]) -> Vec<u8> {
        let mut head = Head::new();
        IpHeader {
            src,
            dst,
            protocol: TCP,
            hop_limit: 9,
            ecn: 2,
            length: body.len(),
            fragments: None,
        }
        .emit([2, 0, 0, 0, 0, 1], &mut head);
        head.extend_from_slice(body);
        head.to_vec()
    }

    #[test]
    fn headers_read_back_as_written_and_padding_is_not_payload() {
        let v4 = IpAddr::from([10, 0, 0, 1]);
        let v6 = IpAddr::V6("fd00::1".parse().unwrap());
        for address in [v4, v6] {
            let mut frame = packet(address, address, b"seven!!");
            frame.extend_from_slice(&[0xee; 19]);
            let ip = parse_ip(&frame, ETHERNET, true).unwrap();
            assert_eq!((ip.src, ip.dst), (address, address));
            assert_eq!((ip.hop_limit, ip.ecn, ip.protocol), (9, 2, TCP));
            assert_eq!(&frame[ip.payload], b"seven!!");
        }
    }

    /// A packet with a Fragment header that says this of its place.
    fn in_fragment(address: IpAddr, place: u16) -> Vec<u8> {
        let [p0, p1] = place.to_be_bytes();
        let mut body = vec![TCP, 0, p0, p1, 9, 9, 9, 9];
        body.extend_from_slice(b"seven!!");
        let mut frame = packet(address, address, &body);
        frame[ETHERNET + 6] = 44;
        frame
    }

    /// RFC 8200 section 4: what lies between the header and TCP is passed over. A routing header with
    /// segments left is for a router (RFC 5095 has those of type 0 refused altogether).
    #[test]
    fn extension_headers_are_passed_over_but_for_a_route_not_yet_travelled() {
        let v6 = IpAddr::V6("fd00::1".parse().unwrap());
        let with = |first: u8, extensions: &[u8]| {
            let mut frame = packet(v6, v6, &[extensions, b"seven!!"].concat());
            frame[ETHERNET + 6] = first;
            frame
        };
        // Hop-by-hop options, destination options of 16 octets, and a route that was travelled.
        let mut chain = vec![60, 0, 1, 4, 0, 0, 0, 0];
        chain.extend_from_slice(&[43, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        chain.extend_from_slice(&[TCP, 0, 253, 0, 0, 0, 0, 0]);
        let frame = with(0, &chain);
        let ip = parse_ip(&frame, ETHERNET, true).unwrap();
        assert_eq!((ip.protocol, ip.atomic), (TCP, false));
        assert_eq!(&frame[ip.payload], b"seven!!");
        chain[24 + 3] = 1;
        let refused = parse_ip(&with(0, &chain), ETHERNET, true);
        assert_eq!(refused, Err(IpError::UnknownProtocol));
        // One that reaches beyond the packet.
        let long = with(60, &[TCP, 9, 1, 4, 0, 0, 0, 0]);
        assert_eq!(parse_ip(&long, ETHERNET, true), Err(IpError::Malformed));
    }

    /// RFC 8200 section 4.2.
    #[test]
    fn an_option_that_must_be_known_is_refused() {
        let v6 = IpAddr::V6("fd00::1".parse().unwrap());
        let with = |options: [u8; 6]| {
            let mut frame = packet(v6, v6, &[&[TCP, 0][..], &options, b"seven!!"].concat());
            frame[ETHERNET + 6] = 60;
            parse_ip(&frame, ETHERNET, true).map(|ip| ip.protocol)
        };
        // Padding, a router alert, and an unknown one that may be passed over.
        for passed in [[0; 6], [5, 2, 0, 0, 1, 0], [0x1e, 3, 1, 2, 3, 0]] {
            assert_eq!(with(passed), Ok(TCP), "{passed:?}");
        }
        // What is to be discarded in silence, with an answer, with one unless to a group.
        for kind in [0x5e, 0x9e, 0xde] {
            assert_eq!(with([0, kind, 2, 0, 0, 0]), Err(IpError::UnknownProtocol));
        }
        // Longer than the header.
        for wrong in [[1, 5, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]] {
            assert_eq!(with(wrong), Err(IpError::Malformed), "{wrong:?}");
        }
    }

    /// RFC 6946 section 4.
    #[test]
    fn a_fragment_that_is_all_of_its_packet_is_taken() {
        let v6 = IpAddr::V6("fd00::1".parse().unwrap());
        // The reserved bits mean nothing.
        for place in [0, 6] {
            let frame = in_fragment(v6, place);
            let ip = parse_ip(&frame, ETHERNET, true).unwrap();
            assert_eq!((ip.protocol, ip.atomic), (TCP, true));
            assert_eq!(&frame[ip.payload], b"seven!!");
        }
        let mut frame = in_fragment(v6, 0);
        frame[ETHERNET + 5] = 7;
        assert_eq!(parse_ip(&frame, ETHERNET, true), Err(IpError::Malformed));
    }

    #[test]
    fn a_truncated_packet_is_malformed_unless_quoted() {
        let v6 = IpAddr::V6("fd00::1".parse().unwrap());
        for address in [IpAddr::from([10, 0, 0, 1]), v6] {
            let frame = packet(address, address, b"0123456789");
            let cut = &frame[..frame.len() - 2];
            assert_eq!(parse_ip(cut, ETHERNET, true), Err(IpError::Malformed));
            let quoted = parse_ip(cut, ETHERNET, false).unwrap();
            assert_eq!(&cut[quoted.payload], b"01234567");
        }
    }

    #[test]
    fn fragments_and_endless_extension_headers_are_refused() {
        let v4 = IpAddr::from([10, 0, 0, 1]);
        let mut frame = packet(v4, v4, b"x");
        frame[ETHERNET + 6] = 0x20;
        let sum = super::super::checksum::update(
            u16::from_be_bytes([frame[24], frame[25]]),
            0x4000,
            0x2000,
        );
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(parse_ip(&frame, ETHERNET, true), Err(IpError::Fragment));

        let v6 = IpAddr::V6("fd00::1".parse().unwrap());
        for place in [1, 8, 0xfff8] {
            let frame = in_fragment(v6, place);
            assert_eq!(parse_ip(&frame, ETHERNET, true), Err(IpError::Fragment));
        }
        let mut frame = packet(v6, v6, &[0; 200]);
        frame[ETHERNET + 6] = 60;
        for option in frame[ETHERNET + IPV6..].chunks_mut(8) {
            option[0] = 60;
        }
        assert_eq!(
            parse_ip(&frame, ETHERNET, true),
            Err(IpError::UnknownProtocol)
        );
    }
}
