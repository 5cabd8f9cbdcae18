//! `struct virtio_net_hdr` (virtio 1.2, section 5.1.6), which precedes each frame in either direction.

use super::{Features, TCP_CWR, TCP_FLAGS};
use crate::drivers::net::{Protocol, RxChecksum, Segmentation, TxPacket};

/// Its length: 12 bytes. Legacy devices that do not merge buffers know only 10.
pub(super) const LEN: usize = 12;
pub(super) const SHORT: usize = 10;

/// Flags.
const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
/// Kinds of segmentation.
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
/// Beside a kind: the first segment has CWR, and the others must not.
const GSO_ECN: u8 = 0x80;

/// How long the header is, with these features.
pub(super) fn len(features: Features) -> usize {
    if features.intersects(Features::VERSION_1 | Features::MRG_RXBUF) {
        LEN
    } else {
        SHORT
    }
}

/// In how many buffers the frame lies whose first one is `buffer`, going by its header.
pub(super) fn buffers(buffer: &[u8], features: Features) -> u16 {
    match buffer.get(SHORT..LEN) {
        Some(&[b0, b1]) if features.contains(Features::MRG_RXBUF) => u16::from_le_bytes([b0, b1]),
        _ => 1,
    }
}

/// What the device says of a received frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) checksum: RxChecksum,
    /// Where the checksum starts, and where it is to be stored from there.
    pub(super) start: u16,
    pub(super) offset: u16,
    pub(super) segmentation: Option<Segmentation>,
}

impl Received {
    /// Reads the header that `buffer` begins with. `None` if it makes no sense. Of what was not
    /// negotiated the device has nothing to say.
    pub(super) fn parse(buffer: &[u8], features: Features) -> Option<Self> {
        let [flags, kind, _, _, z0, z1, s0, s1, o0, o1] = *buffer.first_chunk::<SHORT>()?;
        let mut received = Self {
            checksum: RxChecksum::Unknown,
            start: u16::from_le_bytes([s0, s1]),
            offset: u16::from_le_bytes([o0, o1]),
            segmentation: None,
        };
        if !features.contains(Features::GUEST_CSUM) {
            return Some(received);
        }
        received.checksum = if flags & NEEDS_CSUM != 0 {
            RxChecksum::Partial
        } else if flags & DATA_VALID != 0 {
            RxChecksum::Valid
        } else {
            RxChecksum::Unknown
        };
        let protocol = match kind & !GSO_ECN {
            GSO_NONE => return Some(received),
            GSO_TCPV4 if features.contains(Features::GUEST_TSO4) => Protocol::TcpIpv4,
            GSO_TCPV6 if features.contains(Features::GUEST_TSO6) => Protocol::TcpIpv6,
            _ => return None,
        };
        let size = u16::from_le_bytes([z0, z1]);
        received.segmentation = Some(Segmentation { protocol, size });
        (size != 0).then_some(received)
    }
}

/// The header of a frame to be sent.
pub(super) fn emit(packet: &TxPacket, features: Features) -> [u8; LEN] {
    let mut header = [0; LEN];
    let [flags, kind, l0, l1, z0, z1, s0, s1, o0, o1, _, _] = &mut header;
    if let Some(checksum) = packet.checksum {
        *flags = NEEDS_CSUM;
        [*s0, *s1] = checksum.start.to_le_bytes();
        [*o0, *o1] = checksum.offset.to_le_bytes();
    }
    if let Some(segmentation) = packet.segmentation {
        *kind = match segmentation.protocol {
            Protocol::TcpIpv4 => GSO_TCPV4,
            Protocol::TcpIpv6 => GSO_TCPV6,
        };
        let tcp = packet.checksum.map_or(0, |sum| usize::from(sum.start));
        let reduced = packet.head.get(tcp + TCP_FLAGS);
        if features.contains(Features::HOST_ECN) && reduced.is_some_and(|bits| bits & TCP_CWR != 0)
        {
            *kind |= GSO_ECN;
        }
        [*l0, *l1] = (packet.head.len() as u16).to_le_bytes();
        [*z0, *z1] = segmentation.size.to_le_bytes();
    }
    header
}

/// Completes a checksum (RFC 1071) over `frame` from `start` on, stored `offset` bytes from there.
/// False if it does not lie in the frame.
pub(super) fn complete(frame: &mut [u8], start: u16, offset: u16) -> bool {
    let Some(covered) = frame.get_mut(usize::from(start)..) else {
        return false;
    };
    let mut sum = 0u64;
    for pair in covered.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        let high = pair.first().copied().unwrap_or(0);
        sum += u64::from(u16::from_be_bytes([high, low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let at = usize::from(offset);
    let Some(field) = covered.get_mut(at..at + 2) else {
        return false;
    };
    // In UDP zero would say that there is none (RFC 768).
    let value = match !(sum as u16) {
        0 => 0xffff,
        value => value,
    };
    field.copy_from_slice(&value.to_be_bytes());
    true
}
