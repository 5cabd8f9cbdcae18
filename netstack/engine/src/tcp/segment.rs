//! Segments: what arrives, parsed once ([`Segment`]), and what is to be sent ([`Outgoing`]).

use core::fmt;
use core::ops::{BitOr, BitOrAssign};

use bytes::Bytes;

use crate::seq::SeqNumber;
use crate::stack::frame::Payload;

pub use super::options::{Options, SackRange, SackRanges, Timestamps};

/// Octets of a TCP header without options.
pub const MIN_HEADER: usize = 20;

/// The control bits of a segment (RFC 9293 section 3.1).
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Flags(u8);

impl Flags {
    /// No bits.
    pub const NONE: Flags = Flags(0);
    /// No more data from the sender.
    pub const FIN: Flags = Flags(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Flags = Flags(0x02);
    /// Reset.
    pub const RST: Flags = Flags(0x04);
    /// Push.
    pub const PSH: Flags = Flags(0x08);
    /// The acknowledgement field is significant.
    pub const ACK: Flags = Flags(0x10);
    /// The urgent pointer is significant.
    pub const URG: Flags = Flags(0x20);
    /// ECN echo (RFC 3168).
    pub const ECE: Flags = Flags(0x40);
    /// Congestion window reduced (RFC 3168).
    pub const CWR: Flags = Flags(0x80);

    /// The bits of a header's 14th octet.
    pub const fn from_bits(bits: u8) -> Flags {
        Flags(bits)
    }

    /// The header's 14th octet.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// These bits but those of `other`.
    pub const fn without(self, other: Flags) -> Flags {
        Flags(self.0 & !other.0)
    }

    /// Whether SYN is set.
    pub const fn syn(self) -> bool {
        self.contains(Flags::SYN)
    }

    /// Whether ACK is set.
    pub const fn ack(self) -> bool {
        self.contains(Flags::ACK)
    }

    /// Whether FIN is set.
    pub const fn fin(self) -> bool {
        self.contains(Flags::FIN)
    }

    /// Whether RST is set.
    pub const fn rst(self) -> bool {
        self.contains(Flags::RST)
    }
}

impl BitOr for Flags {
    type Output = Flags;
    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

impl BitOrAssign for Flags {
    fn bitor_assign(&mut self, other: Flags) {
        self.0 |= other.0;
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, name) in ["F", "S", "R", "P", ".", "U", "E", "W"].iter().enumerate() {
            if self.0 & (1 << bit) != 0 {
                f.write_str(name)?;
            }
        }
        Ok(())
    }
}

/// The ECN codepoint of the IP header (RFC 3168 section 5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Ecn {
    /// The transport does not do ECN.
    #[default]
    NotCapable,
    /// ECN capable, codepoint 01.
    Capable1,
    /// ECN capable, codepoint 10.
    Capable0,
    /// Congestion experienced.
    Congestion,
}

impl Ecn {
    /// The codepoint in the two low bits of the traffic class.
    pub const fn from_traffic_class(class: u8) -> Ecn {
        match class & 3 {
            0 => Ecn::NotCapable,
            1 => Ecn::Capable1,
            2 => Ecn::Capable0,
            _ => Ecn::Congestion,
        }
    }
}

/// A received segment. Its checksum has been seen to already.
#[derive(Clone, Debug, Default)]
pub struct Segment {
    /// Sequence number of the first octet (of SYN, if set).
    pub seq: SeqNumber,
    /// Acknowledgement number; significant with ACK only.
    pub ack: SeqNumber,
    /// Control bits.
    pub flags: Flags,
    /// Window as on the wire, unscaled.
    pub window: u16,
    /// Urgent pointer; significant with URG only.
    pub urgent: u16,
    /// Options.
    pub options: Options,
    /// Payload, a slice of the frame.
    pub payload: Bytes,
    /// What the IP header said of congestion.
    pub ecn: Ecn,
}

/// Why bytes are no TCP segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SegmentError {
    /// Shorter than a header, or than its data offset says.
    Truncated,
    /// The data offset is smaller than a header.
    DataOffset,
}

impl fmt::Display for SegmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SegmentError::Truncated => "segment shorter than its header",
            SegmentError::DataOffset => "data offset smaller than a header",
        })
    }
}

impl core::error::Error for SegmentError {}

/// The two ports of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    /// The sender's.
    pub source: u16,
    /// The receiver's.
    pub destination: u16,
}

impl Segment {
    /// Read a segment from `bytes`: TCP header and payload, nothing behind it. The payload is
    /// sliced, not copied. The checksum is not looked at.
    pub fn parse(bytes: &Bytes) -> Result<(Ports, Segment), SegmentError> {
        let header: &[u8; MIN_HEADER] = bytes.first_chunk().ok_or(SegmentError::Truncated)?;
        let [
            s0,
            s1,
            d0,
            d1,
            q0,
            q1,
            q2,
            q3,
            a0,
            a1,
            a2,
            a3,
            offset,
            flags,
            w0,
            w1,
            _,
            _,
            u0,
            u1,
        ] = *header;
        let length = usize::from(offset >> 4) * 4;
        if length < MIN_HEADER {
            return Err(SegmentError::DataOffset);
        }
        let options = bytes
            .get(MIN_HEADER..length)
            .ok_or(SegmentError::Truncated)?;
        let segment = Segment {
            seq: SeqNumber::new(u32::from_be_bytes([q0, q1, q2, q3])),
            ack: SeqNumber::new(u32::from_be_bytes([a0, a1, a2, a3])),
            flags: Flags::from_bits(flags),
            window: u16::from_be_bytes([w0, w1]),
            urgent: u16::from_be_bytes([u0, u1]),
            options: Options::parse(options),
            payload: bytes.slice(length..),
            ecn: Ecn::default(),
        };
        let ports = Ports {
            source: u16::from_be_bytes([s0, s1]),
            destination: u16::from_be_bytes([d0, d1]),
        };
        Ok((ports, segment))
    }

    /// SEG.LEN: octets of sequence space, SYN and FIN counted.
    pub fn len(&self) -> u32 {
        // A payload comes out of one IP packet: it fits 32 bits many times over.
        self.payload.len() as u32 + u32::from(self.flags.syn()) + u32::from(self.flags.fin())
    }

    /// Whether the segment takes no sequence space.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sequence number after the segment.
    pub fn end(&self) -> SeqNumber {
        self.seq.add(self.len())
    }
}

/// A segment to send. Where `payload` is longer than `segment_size` it is to be cut into segments
/// of that size (by the NIC, or by who emits it): sequence numbers count on, PSH and FIN go with the last.
#[derive(Clone, Debug, Default)]
pub struct Outgoing {
    /// Sequence number.
    pub seq: SeqNumber,
    /// Acknowledgement number; zero without ACK.
    pub ack: SeqNumber,
    /// Control bits.
    pub flags: Flags,
    /// Window as on the wire.
    pub window: u16,
    /// Options.
    pub options: Options,
    /// Payload as slices of shared buffers.
    pub payload: Payload,
    /// Payload octets of each segment but the last.
    pub segment_size: u16,
    /// Whether the IP header says ECT(0) (RFC 3168 section 6.1.2).
    pub ecn_capable: bool,
    /// Whether routers may fragment the packet: Don't Fragment is not set (RFC 1191 section 3).
    pub may_fragment: bool,
}

impl Outgoing {
    /// Octets of payload.
    pub fn payload_len(&self) -> usize {
        self.payload.iter().map(Bytes::len).sum()
    }

    /// Octets of the TCP header with its options.
    pub fn header_len(&self) -> usize {
        MIN_HEADER + self.options.len()
    }

    /// Write the TCP header into the first [`Outgoing::header_len`] octets of `out` and return
    /// their count. The checksum field is left zero. `None` if `out` is too short.
    pub fn write_header(&self, ports: Ports, out: &mut [u8]) -> Option<usize> {
        let length = self.header_len();
        let (header, options) = out
            .get_mut(..length)?
            .split_first_chunk_mut::<MIN_HEADER>()?;
        let [s0, s1] = ports.source.to_be_bytes();
        let [d0, d1] = ports.destination.to_be_bytes();
        let [q0, q1, q2, q3] = self.seq.raw().to_be_bytes();
        let [a0, a1, a2, a3] = self.ack.raw().to_be_bytes();
        let [w0, w1] = self.window.to_be_bytes();
        let offset = ((length / 4) << 4) as u8;
        *header = [
            s0,
            s1,
            d0,
            d1,
            q0,
            q1,
            q2,
            q3,
            a0,
            a1,
            a2,
            a3,
            offset,
            self.flags.bits(),
            w0,
            w1,
            0,
            0,
            0,
            0,
        ];
        self.options.emit(options);
        Some(length)
    }

    /// The RST that answers `segment` where no connection is (RFC 9293 section 3.10.7.1); `None`
    /// for an RST.
    pub fn reset_for(segment: &Segment) -> Option<Outgoing> {
        if segment.flags.rst() {
            return None;
        }
        let (seq, ack, flags) = match segment.flags.ack() {
            true => (segment.ack, SeqNumber::default(), Flags::RST),
            false => (SeqNumber::default(), segment.end(), Flags::RST | Flags::ACK),
        };
        Some(Outgoing {
            seq,
            ack,
            flags,
            ..Outgoing::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    #[test]
    fn what_is_written_is_what_is_read() {
        let out = Outgoing {
            seq: SeqNumber::new(0xfffffff0),
            ack: SeqNumber::new(17),
            flags: Flags::ACK | Flags::PSH,
            window: 512,
            options: Options {
                timestamps: Some(Timestamps { value: 3, echo: 4 }),
                ..Options::default()
            },
            ..Outgoing::default()
        };
        let ports = Ports {
            source: 80,
            destination: 40000,
        };
        let mut bytes = vec![0; out.header_len()];
        assert_eq!(out.write_header(ports, &mut bytes), Some(32));
        bytes.extend_from_slice(b"hello");
        let (read, segment) = Segment::parse(&Bytes::from(bytes)).unwrap();
        assert_eq!(read, ports);
        assert_eq!((segment.seq, segment.ack), (out.seq, out.ack));
        assert_eq!(segment.options, out.options);
        assert_eq!(&segment.payload[..], b"hello");
        assert_eq!(segment.end(), SeqNumber::new(0xfffffff5));
    }

    #[test]
    fn short_and_lying_headers_are_refused() {
        let parse = |bytes: Vec<u8>| Segment::parse(&Bytes::from(bytes)).err();
        assert_eq!(parse(vec![0; 19]), Some(SegmentError::Truncated));
        let mut lying = vec![0; 20];
        assert_eq!(parse(lying.clone()), Some(SegmentError::DataOffset));
        lying[12] = 0xf0;
        assert_eq!(parse(lying), Some(SegmentError::Truncated));
    }

    #[test]
    fn a_reset_is_acceptable_to_who_gets_it() {
        let stray = Segment {
            seq: SeqNumber::new(100),
            flags: Flags::SYN,
            ..Segment::default()
        };
        let reset = Outgoing::reset_for(&stray).unwrap();
        assert_eq!(reset.ack, SeqNumber::new(101));
        let answer = Segment {
            flags: Flags::RST,
            ..Segment::default()
        };
        assert!(Outgoing::reset_for(&answer).is_none(), "never RST an RST");
    }
}
