//! Receive coalescing: frames of one flow that follow each other in a batch, with nothing but
//! their payload and place in the stream to tell them apart, go to the connection together. No
//! octet is copied and no segment is merged: the connection gets the first segment, and of the
//! others the payload.

use alloc::vec::Vec;

use bytes::{Buf, Bytes};

use super::checksum::Sum;
use super::frame::{RxChecksum, RxFrame};
use super::wire::{ETHERNET, IPV4, IPV6, Ip};
use super::{ConnId, Stack};
use crate::seq::SeqNumber;
use crate::tcp::segment::{Ecn, Flags, Segment};
use crate::time::Instant;

/// Octets of a TCP header without options.
const TCP_HEADER: usize = 20;

/// The frames gathered so far.
#[derive(Debug, Default)]
pub(super) struct Train {
    /// Whether the frame being handled may begin one.
    pub(super) gathering: bool,
    engine: Option<Engine>,
    /// Payloads of the frames after the first.
    rest: Vec<Bytes>,
}

/// The first frame.
#[derive(Debug)]
struct Engine {
    id: ConnId,
    segment: Segment,
    /// The frame it came in.
    frame: Bytes,
    ip: Ip,
    /// Sum of its pseudo-header, without the length.
    pseudo: u16,
    /// Octets of its TCP header.
    header: usize,
    /// The sequence number that has to come next.
    next: SeqNumber,
}

impl Engine {
    /// Where payload lies in `frame` if its headers are those of the first but for what may
    /// differ: lengths, identification, hop limit, sequence number, PSH and the checksums.
    fn matches(&self, frame: &[u8], length: usize) -> Option<core::ops::Range<usize>> {
        let tcp = self.ip.payload.start;
        let ours = self.frame.get(..tcp + self.header)?;
        let theirs = frame.get(..tcp + self.header)?;
        let same = |from: usize, until: usize| ours.get(from..until) == theirs.get(from..until);
        let word = |at: usize| {
            let octets = theirs.get(at..)?.first_chunk::<2>()?;
            Some(u16::from_be_bytes(*octets))
        };
        let end = match tcp - ETHERNET {
            // Version, header length and class; no fragment; protocol; addresses and ports.
            IPV4 => {
                let fragment = word(ETHERNET + 6)? & 0x3fff;
                let alike = same(0, ETHERNET + 2)
                    && fragment == 0
                    && same(ETHERNET + 9, ETHERNET + 10)
                    && same(ETHERNET + 12, tcp + 4);
                alike.then(|| ETHERNET + usize::from(word(ETHERNET + 2).unwrap_or(0)))?
            }
            // Version, class and flow label; next header; addresses and ports.
            IPV6 => {
                let alike = same(0, ETHERNET + 4)
                    && same(ETHERNET + 6, ETHERNET + 7)
                    && same(ETHERNET + 8, tcp + 4);
                alike.then(|| tcp + usize::from(word(ETHERNET + 4).unwrap_or(0)))?
            }
            _ => return None,
        };
        let seq = theirs.get(tcp + 4..)?.first_chunk::<4>()?;
        let flags = Flags::from_bits(*theirs.get(tcp + 13)?).without(Flags::PSH);
        let follows = SeqNumber::new(u32::from_be_bytes(*seq)) == self.next
            && flags == Flags::ACK
            // Acknowledgement number and data offset, window, options.
            && same(tcp + 8, tcp + 13)
            && same(tcp + 14, tcp + 16)
            && same(tcp + TCP_HEADER, tcp + self.header);
        (follows && end > tcp + self.header && end <= length).then_some(tcp + self.header..end)
    }

    /// Whether the checksums of a frame that matches are right.
    fn verifies(&self, frame: &RxFrame, end: usize) -> bool {
        let tcp = self.ip.payload.start;
        if tcp - ETHERNET == IPV4 {
            let mut sum = Sum::new();
            sum.add(frame.bytes.get(ETHERNET..tcp).unwrap_or_default());
            if sum.finish() != 0 {
                return false;
            }
        }
        if frame.checksum == RxChecksum::Verified {
            return true;
        }
        if !frame.more.is_empty() {
            return false;
        }
        let transport = frame.bytes.get(tcp..end).unwrap_or_default();
        let mut sum = Sum::new();
        sum.add_word(self.pseudo);
        sum.add_word(transport.len() as u16);
        sum.add(transport);
        sum.finish() == 0
    }
}

impl Stack {
    /// Put a frame onto the train, if it is its next; else it is given back.
    pub(super) fn couple(&mut self, mut frame: RxFrame) -> Option<RxFrame> {
        let Some(engine) = &mut self.train.engine else {
            return Some(frame);
        };
        let Some(payload) = engine.matches(&frame.bytes, frame.len()) else {
            return Some(frame);
        };
        // What is wrong with it is for the long way to count.
        if !engine.verifies(&frame, payload.end) {
            return Some(frame);
        }
        let first = payload.end.min(frame.bytes.len());
        engine.next = engine.next.add((first - payload.start) as u32);
        if frame.more.is_empty() {
            frame.bytes.truncate(payload.end);
            frame.bytes.advance(payload.start);
            self.train.rest.push(frame.bytes);
            return None;
        }
        let piece = frame.bytes.slice(payload.start..first);
        if !piece.is_empty() {
            self.train.rest.push(piece);
        }
        self.couple_rest(&frame, payload.end);
        None
    }

    /// Put the pieces behind the first onto the train, of the frame's first `end` octets.
    pub(super) fn couple_rest(&mut self, frame: &RxFrame, end: usize) {
        for piece in frame.rest(end) {
            if let Some(engine) = &mut self.train.engine {
                engine.next = engine.next.add(piece.len() as u32);
                self.train.rest.push(piece);
            }
        }
    }

    /// Begin a train with a segment, if others may follow it; else it is given back.
    pub(super) fn engage(
        &mut self,
        id: ConnId,
        segment: Segment,
        frame: &RxFrame,
        ip: &Ip,
    ) -> Option<Segment> {
        let plain = self.train.gathering
            && segment.flags.without(Flags::PSH) == Flags::ACK
            && segment.ecn != Ecn::Congestion
            && !segment.payload.is_empty();
        if !plain {
            return Some(segment);
        }
        let mut pseudo = Sum::new();
        pseudo.add_pseudo_header(ip.src, ip.dst, ip.protocol, 0);
        self.train.engine = Some(Engine {
            id,
            pseudo: pseudo.sum(),
            // Of a frame in several pieces the segment has only what lies in the first.
            header: ip.payload.end.min(frame.bytes.len())
                - ip.payload.start
                - segment.payload.len(),
            next: segment.end(),
            segment,
            frame: frame.bytes.clone(),
            ip: ip.clone(),
        });
        None
    }

    /// Give what was gathered to its connection.
    pub(super) fn depart(&mut self, now: Instant) {
        let Some(engine) = self.train.engine.take() else {
            return;
        };
        let mut rest = core::mem::take(&mut self.train.rest);
        self.counters.rx_tcp_segments += rest.len() as u64;
        let (begin, mut overlaps) = (engine.segment.seq, false);
        self.with_connection(now, engine.id, |connection| {
            overlaps = connection.has_some_of(begin, engine.next.distance_from(begin));
            connection.handle_train(now, &engine.segment, &mut rest);
        });
        self.counters.rx_tcp_overlap += u64::from(overlaps);
        rest.clear();
        self.train.rest = rest;
    }
}
