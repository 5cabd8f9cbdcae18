//! Segmentation in software: where the NIC does not cut a burst into segments, this does, frame by
//! frame as they are polled. The connection makes one burst instead of many segments, and the
//! headers are made once and patched. Connections take turns frame by frame all the same.
//!
//! What a device has merged on its way in is cut again in the same way where it has to leave once
//! more and nobody else would cut it: forwarded by a NIC that cannot, or relayed in a channel.

use super::checksum::{self, Sum};
use super::frame::{Head, Interface, Payload, RxChecksum, RxFrame, TxChecksum, TxFrame};
use super::wire::{self, ETHERNET, Ip, TCP};
use crate::seq::SeqNumber;
use crate::tcp::segment::{Flags, MIN_HEADER};

/// Octet of the flags in a TCP header.
const FLAGS: usize = 13;
/// Octet of the checksum in a TCP header.
const CHECKSUM: usize = 16;
/// Segments a merged frame can have been at most: 64 KiB of the smallest there are. A device or
/// host that says more is wrong.
const MAX_SEGMENTS: usize = 2048;

/// Octets of the TCP header that begins at octet `tcp` of `frame`, options included.
pub(super) fn tcp_header(frame: &[u8], tcp: usize) -> Option<usize> {
    let words = frame.get(tcp + 12)? >> 4;
    Some(usize::from(words) * 4).filter(|octets| *octets >= MIN_HEADER)
}

/// What is left of a burst.
#[derive(Debug)]
pub(crate) struct Cut {
    /// Sequence number of the first octet not sent yet.
    pub(super) seq: SeqNumber,
    /// The headers of a full-sized segment, with zero for sequence number, flags and checksum.
    head: Head,
    /// Where the TCP header lies in them.
    tcp: usize,
    ipv6: bool,
    /// Sum of the pseudo-header, without the length of the segment.
    pseudo: u16,
    /// That and the TCP header.
    sum: u16,
    /// Flags of the segments; PSH and FIN go with the last, CWR with the first.
    flags: Flags,
    /// Payload octets of each segment but the last.
    size: usize,
    /// Octets not sent yet.
    pub(super) left: usize,
    /// Reversed, so that the first is at the end.
    payload: Payload,
    /// Leave the checksum to the device.
    offload: bool,
    interface: Interface,
}

/// Headers of a burst: all but sequence number, flags and checksum.
pub(super) struct Headers {
    pub(super) head: Head,
    pub(super) tcp: usize,
    pub(super) ipv6: bool,
    /// Sum of the pseudo-header without the length of the segment.
    pub(super) pseudo: u16,
    pub(super) interface: Interface,
}

impl Cut {
    /// A burst of `left` octets to be cut into segments of `size`.
    pub(super) fn new(
        headers: Headers,
        (seq, flags): (SeqNumber, Flags),
        mut payload: Payload,
        (left, size): (usize, usize),
        offload: bool,
    ) -> Cut {
        let Headers {
            head,
            tcp,
            ipv6,
            pseudo,
            interface,
        } = headers;
        let mut sum = Sum::new();
        sum.add_word(pseudo);
        sum.add(head.get(tcp..).unwrap_or_default());
        payload.reverse();
        Cut {
            seq,
            tcp,
            ipv6,
            pseudo,
            sum: sum.sum(),
            head,
            flags,
            size,
            left,
            payload,
            offload,
            interface,
        }
    }

    /// The segments of `size` octets that a merged frame with these headers was made of; its
    /// checksum is made anew. `None` if it cannot have been.
    pub(super) fn again(merged: TxFrame, ip: &Ip, size: u16, offload: bool) -> Option<Cut> {
        let (tcp, size) = (ip.payload.start, usize::from(size));
        let left = merged
            .payload
            .iter()
            .map(|slice| slice.len())
            .sum::<usize>();
        if size == 0 || left <= size || left.div_ceil(size) > MAX_SEGMENTS {
            return None;
        }
        let mut head = merged.head;
        let header = head.get_mut(tcp..)?.first_chunk_mut::<MIN_HEADER>()?;
        let [_, _, _, _, s0, s1, s2, s3, ..] = *header;
        let seq = SeqNumber::new(u32::from_be_bytes([s0, s1, s2, s3]));
        let flags = Flags::from_bits(header[FLAGS]);
        if flags.contains(Flags::SYN) || flags.contains(Flags::RST) || flags.contains(Flags::URG) {
            return None;
        }
        header[4..8].fill(0);
        header[FLAGS] = 0;
        header[CHECKSUM..CHECKSUM + 2].fill(0);
        let mut pseudo = Sum::new();
        pseudo.add_pseudo_header(ip.src, ip.dst, TCP, 0);
        let headers = Headers {
            head,
            tcp,
            ipv6: ip.src.is_ipv6(),
            pseudo: pseudo.sum(),
            interface: merged.interface,
        };
        let mut cut = Cut::new(headers, (seq, flags), merged.payload, (left, size), offload);
        let mut head = core::mem::take(&mut cut.head);
        cut.shorten(&mut head, left - size);
        cut.head = head;
        Some(cut)
    }

    /// The next frame; `None` when all is sent.
    pub(super) fn next_frame(&mut self) -> Option<TxFrame> {
        let mut frame = None;
        self.put_next_frame(&mut frame);
        frame
    }

    /// Put the next frame into `out`, if there is one. It is made where it is wanted: moving a
    /// frame costs as much as the rest of its headers.
    pub(super) fn put_next_frame(&mut self, out: &mut Option<TxFrame>) {
        if self.left == 0 {
            return;
        }
        let frame = out.insert(TxFrame::default());
        frame.interface = self.interface;
        let length = self.left.min(self.size);
        self.left -= length;
        let flags = match self.left {
            0 => self.flags,
            _ => self.flags.without(Flags::PSH | Flags::FIN),
        };
        frame.head.extend_from_slice(&self.head);
        if length < self.size {
            self.shorten(&mut frame.head, self.size - length);
        }
        self.take(length, &mut frame.payload);
        let segment = self.head.len() - self.tcp + length;
        let mut sum = Sum::new();
        let value = if self.offload {
            sum.add_word(self.pseudo);
            sum.add_word(segment as u16);
            sum.sum()
        } else {
            sum.add_word(self.sum);
            sum.add_word(segment as u16);
            sum.add_word((self.seq.raw() >> 16) as u16);
            sum.add_word(self.seq.raw() as u16);
            sum.add_word(u16::from(flags.bits()));
            for slice in &frame.payload {
                sum.add(slice);
            }
            sum.finish()
        };
        if let Some(header) = frame.head.get_mut(self.tcp..)
            && let Some(header) = header.first_chunk_mut::<20>()
        {
            header[4..8].copy_from_slice(&self.seq.raw().to_be_bytes());
            header[FLAGS] = flags.bits();
            header[CHECKSUM..CHECKSUM + 2].copy_from_slice(&value.to_be_bytes());
        }
        // The window was reduced once (RFC 3168 section 6.1.2).
        self.flags = self.flags.without(Flags::CWR);
        frame.checksum = self.offload.then_some(TxChecksum {
            start: self.tcp as u16,
            offset: CHECKSUM as u16,
        });
        self.seq = self.seq.add(length as u32);
    }

    /// Correct the IP header of a segment that is `by` octets shorter than the others.
    fn shorten(&self, head: &mut Head, by: usize) {
        let at = if self.ipv6 {
            ETHERNET + 4
        } else {
            ETHERNET + 2
        };
        let Some(field) = head.get_mut(at..at + 2) else {
            return;
        };
        let old = u16::from_be_bytes([field[0], field[1]]);
        let new = old.saturating_sub(by as u16);
        field.copy_from_slice(&new.to_be_bytes());
        if !self.ipv6
            && let Some(field) = head.get_mut(ETHERNET + 10..ETHERNET + 12)
        {
            let before = u16::from_be_bytes([field[0], field[1]]);
            field.copy_from_slice(&checksum::update(before, old, new).to_be_bytes());
        }
    }

    /// Move the next `length` octets of payload to `out`.
    fn take(&mut self, mut length: usize, out: &mut Payload) {
        while length > 0 {
            let Some(first) = self.payload.last_mut() else {
                return;
            };
            if first.len() > length {
                out.push(first.split_to(length));
                return;
            }
            length -= first.len();
            out.extend(self.payload.pop());
        }
    }
}

impl Iterator for Cut {
    type Item = TxFrame;

    fn next(&mut self) -> Option<TxFrame> {
        self.next_frame()
    }
}

impl RxFrame {
    /// The segments that the device merged into this frame, if it did; their checksums hold only
    /// the pseudo-header's sum, as they are for those who were told that they are right.
    pub fn apart(&self) -> Option<impl Iterator<Item = TxFrame> + use<>> {
        let merged = self.segmentation?;
        if self.checksum != RxChecksum::Verified || !self.more.is_empty() {
            return None;
        }
        let ip = wire::parse_ip(&self.bytes, ETHERNET, true).ok()?;
        if ip.protocol != TCP {
            return None;
        }
        let text = ip.payload.start + tcp_header(&self.bytes, ip.payload.start)?;
        let mut frame = TxFrame {
            head: Head::from_slice(self.bytes.get(..text)?),
            ..TxFrame::default()
        };
        let payload = self.bytes.get(text..ip.payload.end)?;
        frame.payload.push(self.bytes.slice_ref(payload));
        Cut::again(frame, &ip, merged.segment_size, true)
    }
}
