//! Frames as they cross the border between netstack and a NIC, with their offload metadata.

use alloc::vec::Vec;

use bytes::Bytes;
use smallvec::SmallVec;

/// The network that a frame comes from or goes to, which each has a NIC of its own where there are two.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Interface {
    /// Where the clients are; everything, if there is no other network.
    #[default]
    Service,
    /// Where the instances speak with each other.
    Instance,
}

/// Octets of headers a frame can need: Ethernet 14, IPv6 40, TCP 60, and room for alignment.
pub const MAX_HEADER: usize = 128;

/// What the NIC says about the checksums of a received frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RxChecksum {
    /// Nothing is known: verify in software.
    #[default]
    Unchecked,
    /// The device verified the transport checksum, or the frame never crossed a wire. The field
    /// itself may hold just the pseudo-header's sum.
    Verified,
}

/// A received Ethernet frame, without FCS.
#[derive(Clone, Debug)]
pub struct RxFrame {
    /// The frame from its destination MAC on, or as much of it as the device's first buffer holds.
    pub bytes: Bytes,
    /// The rest, where the device spread the frame over several buffers.
    pub more: Vec<Bytes>,
    /// Whether the transport checksum still needs checking.
    pub checksum: RxChecksum,
    /// Set when the device merged several segments of a flow into this frame: how to cut it again
    /// if it has to leave once more.
    pub segmentation: Option<Segmentation>,
    /// Where it came in.
    pub interface: Interface,
}

impl RxFrame {
    /// A frame about whose checksums nothing is known.
    pub fn new(bytes: impl Into<Bytes>) -> RxFrame {
        RxFrame {
            bytes: bytes.into(),
            more: Vec::new(),
            checksum: RxChecksum::Unchecked,
            segmentation: None,
            interface: Interface::Service,
        }
    }

    /// Length of the frame in octets.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.more.iter().map(Bytes::len).sum::<usize>()
    }

    /// Whether the frame has no octets at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The frame in one piece: copied, if it is in several.
    pub fn whole(mut self) -> RxFrame {
        if !self.more.is_empty() {
            let mut bytes = Vec::with_capacity(self.len());
            bytes.extend_from_slice(&self.bytes);
            for piece in self.more.drain(..) {
                bytes.extend_from_slice(&piece);
            }
            self.bytes = bytes.into();
        }
        self
    }

    /// The pieces behind the first, of the frame's first `end` octets.
    pub(super) fn rest(&self, end: usize) -> impl Iterator<Item = Bytes> {
        let mut left = end.saturating_sub(self.bytes.len());
        self.more.iter().filter_map(move |piece| {
            let length = piece.len().min(left);
            left -= length;
            (length > 0).then(|| piece.slice(..length))
        })
    }
}

/// The device completes the transport checksum: the one's-complement sum from `start` to the end
/// of the frame, stored `offset` octets after `start` (virtio 1.2 section 5.1.6.2). The field
/// holds the pseudo-header's sum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TxChecksum {
    /// Octet of the frame at which the sum begins.
    pub start: u16,
    /// Octets from `start` to the checksum field.
    pub offset: u16,
}

/// The device cuts the TCP payload into segments (TSO).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segmentation {
    /// IPv6 rather than IPv4.
    pub ipv6: bool,
    /// Payload octets of each segment but the last.
    pub segment_size: u16,
}

/// Header octets of a frame, kept inline.
pub type Head = SmallVec<[u8; MAX_HEADER]>;

/// Payload of a frame as slices of shared buffers, in order.
pub type Payload = SmallVec<[Bytes; 4]>;

/// An Ethernet frame to send, without FCS: `head` then `payload`.
#[derive(Clone, Debug, Default)]
pub struct TxFrame {
    /// Ethernet, IP and transport headers (or a whole small frame).
    pub head: Head,
    /// The payload, never copied on its way to the device.
    pub payload: Payload,
    /// Checksum left to the device.
    pub checksum: Option<TxChecksum>,
    /// Segmentation left to the device.
    pub segmentation: Option<Segmentation>,
    /// Where it goes out.
    pub interface: Interface,
}

impl TxFrame {
    /// Length of the frame in octets, before segmentation.
    pub fn len(&self) -> usize {
        self.head.len() + self.payload.iter().map(Bytes::len).sum::<usize>()
    }

    /// Whether the frame has no octets at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The frame in one piece, for devices that cannot gather and for tests.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len());
        out.extend_from_slice(&self.head);
        for slice in &self.payload {
            out.extend_from_slice(slice);
        }
        out
    }
}

/// What the device does for us. All false is a plain NIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DeviceCapabilities {
    /// Completes transport checksums on transmit ([`TxChecksum`]).
    pub tx_checksum: bool,
    /// Segments TCP over IPv4.
    pub tso4: bool,
    /// Segments TCP over IPv6.
    pub tso6: bool,
}
