//! What the device is to do to a packet: context descriptors, and the headers as it wants them.

use super::registers::*;
use crate::drivers::net::card::ETHERNET;
use crate::drivers::net::offload::{Cut, IPV4_CHECKSUM};
use crate::drivers::net::{Protocol, Segmentation, TxChecksum, TxPacket};

/// Where an IPv4 header has its length; where an IPv6 header has its length.
const IPV4_LENGTH: usize = ETHERNET + 2;
const IPV6_LENGTH: usize = ETHERNET + 4;

/// The work for a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Offload {
    /// The context it needs (SDM 3.3.6).
    pub(super) context: Option<[u64; 2]>,
    /// The bits of its data descriptors that ask for it (SDM 3.3.7).
    pub(super) word: u64,
}

impl Offload {
    /// What `packet` wants done, whose headers are changed so that the device gets them right.
    /// `None` if the device cannot do it.
    pub(super) fn of(packet: &mut TxPacket) -> Option<Self> {
        match (packet.checksum, packet.segmentation) {
            (None, None) => Some(Self::default()),
            (None, Some(_)) => None,
            (Some(sum), None) => Some(Self {
                context: Some([transport(sum)?, EXTENDED]),
                word: INSERT_TRANSPORT_CHECKSUM,
            }),
            (Some(sum), Some(cut)) => segments(packet, sum, cut),
        }
    }
}

/// TUCSS and TUCSO; TUCSE 0: to the end of the packet.
fn transport(sum: TxChecksum) -> Option<u64> {
    let start = u8::try_from(sum.start).ok()?;
    let field = u8::try_from(sum.start.checked_add(sum.offset)?).ok()?;
    Some(u64::from(start) << 32 | u64::from(field) << 40)
}

/// SDM 3.5: the device wants the header's lengths empty, and the checksum of a pseudo-header
/// without length.
fn segments(packet: &mut TxPacket, sum: TxChecksum, cut: Segmentation) -> Option<Offload> {
    let Cut {
        start,
        headers,
        payload,
    } = Cut::of(packet, sum, cut)?;
    let mut kind = CONTEXT_TCP;
    let mut word = SEGMENT | INSERT_TRANSPORT_CHECKSUM;
    match cut.protocol {
        Protocol::TcpIpv4 => {
            packet.head.get_mut(IPV4_LENGTH..IPV4_LENGTH + 2)?.fill(0);
            kind |= CONTEXT_IPV4;
            word |= INSERT_IP_CHECKSUM;
        }
        Protocol::TcpIpv6 => {
            packet.head.get_mut(IPV6_LENGTH..IPV6_LENGTH + 2)?.fill(0);
        }
    }
    // IPCSS, IPCSO, IPCSE.
    let ip = ETHERNET as u64 | (IPV4_CHECKSUM as u64) << 8 | (start as u64 - 1) << 16;
    let second = payload as u64
        | kind
        | SEGMENT
        | EXTENDED
        | (headers as u64) << 40
        | u64::from(cut.size) << 48;
    Some(Offload {
        context: Some([ip | transport(sum)?, second]),
        word,
    })
}
