//! The receive side: octets in order, octets out of order, and the window we offer (RFC 9293
//! section 3.3.1, variables RCV.*).

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::num::NonZeroU32;

use bytes::Bytes;

use super::options::{MAX_SACK, SackRange, SackRanges};
use super::queue::ByteQueue;
use crate::seq::SeqNumber;
/// Separate out-of-order stretches kept at most: what a peer can make us remember is bounded by
/// the window *and* by this.
pub(crate) const MAX_BLOCKS: usize = 256;
/// What is new of an out-of-order payload is copied up to this size, so that a few octets do not
/// keep a whole frame alive.
const COPY_BELOW: usize = 256;
/// Octets of small pieces that are kept together.
const JOINED: usize = 1024;
/// What a piece costs beside its octets and its place: the allocator's part of it.
const ALLOCATION: usize = 32;
/// Segments at the start that are acknowledged at once, so that the peer's slow start gets going.
const QUICK_ACKS: u8 = 16;

/// A contiguous out-of-order stretch.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub start: SeqNumber,
    pub end: SeqNumber,
    /// When it last grew, on [`Rcv::block_clock`]: SACK reports the latest first.
    pub stamp: u32,
    /// Of the first stretch: TS.Recent when nothing was missing last. What is missing since is not older.
    pub floor: u32,
    pub data: VecDeque<Bytes>,
}

/// How far the peer's end of the stream is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RcvFin {
    /// No FIN seen.
    Open,
    /// A FIN with this sequence number was seen, octets before it are missing.
    Ahead(SeqNumber),
    /// Everything up to and with the FIN has arrived.
    Received,
}

/// What became of a segment's payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Accepted {
    /// In order: RCV.NXT advanced; `filled` when it joined stretches that waited.
    InOrder {
        /// Whether a hole was closed, at least in part.
        filled: bool,
    },
    /// Kept, octets before it are missing.
    OutOfOrder,
    /// Nothing new.
    Duplicate,
}

/// The receive side.
#[derive(Clone, Debug)]
pub(crate) struct Rcv {
    /// IRS.
    pub irs: SeqNumber,
    /// RCV.NXT.
    pub nxt: SeqNumber,
    /// The right edge of the window as advertised: it never moves back.
    pub edge: SeqNumber,
    /// Rcv.Wind.Shift.
    pub scale: u8,
    /// Octets the window is made from.
    pub buffer: u32,
    /// What the buffer begins with, and what it may grow to.
    pub least: u32,
    pub most: u32,
    /// When the measuring of a round trip of reading began (milliseconds, one bit lost), and the stream
    /// offset read up to then (its low bits).
    pub tuned_at: Option<NonZeroU32>,
    pub tuned_from: u32,
    /// Octets in order and not yet consumed.
    pub queue: ByteQueue,
    /// Stretches out of order, ascending, apart from each other.
    pub blocks: Vec<Block>,
    /// Counts growth of blocks.
    pub block_clock: u32,
    /// The peer's end of the stream.
    pub fin: RcvFin,
    /// Last.ACK.sent (RFC 7323 section 4.3).
    pub last_ack: SeqNumber,
    /// A duplicate to report with the next ACK (RFC 2883).
    pub duplicate: Option<SackRange>,
    /// Octets received since the last ACK went out.
    pub unacked: u32,
    /// Largest payload of a segment so far: what counts as full-sized (RFC 9293 section 3.8.6.3).
    pub full_size: u16,
    /// Segments still acknowledged at once.
    pub quick: u8,
    /// Nobody will read: what arrives is acknowledged and dropped.
    pub discard: bool,
    /// Octets were dropped for that: the peer is to be told (RFC 9293 section 3.6.1).
    pub lost: bool,
    /// The right edge stays where it is for the time being.
    pub held: bool,
}

impl Rcv {
    pub fn new(irs: SeqNumber, buffer: u32) -> Rcv {
        let nxt = irs.add(1);
        Rcv {
            irs,
            nxt,
            edge: nxt,
            scale: 0,
            buffer,
            least: buffer,
            most: buffer,
            tuned_at: None,
            tuned_from: 0,
            queue: ByteQueue::new(0),
            blocks: Vec::new(),
            block_clock: 0,
            fin: RcvFin::Open,
            last_ack: nxt,
            duplicate: None,
            unacked: 0,
            full_size: 536,
            quick: QUICK_ACKS,
            discard: false,
            lost: false,
            held: false,
        }
    }

    /// RCV.WND: what is left of the window advertised.
    pub fn window(&self) -> u32 {
        match self.edge.after(self.nxt) {
            true => self.edge.distance_from(self.nxt),
            false => 0,
        }
    }

    /// Where the right edge could be.
    fn target(&self) -> SeqNumber {
        if self.held {
            return self.edge;
        }
        let free = (self.buffer as usize).saturating_sub(self.queue.len());
        self.nxt.add(free as u32)
    }

    /// Octets the right edge could move on.
    fn gain(&self) -> u32 {
        let target = self.target();
        match target.after(self.edge) {
            true => target.distance_from(self.edge),
            false => 0,
        }
    }

    /// Whether the peer should hear of room that was made: it has less than half a window left
    /// and would gain something worth a segment.
    pub fn owes_update(&self) -> bool {
        let gain = self.gain();
        let worth = (self.buffer / 2).min((2 * u32::from(self.full_size)).max(self.buffer / 8));
        self.fin == RcvFin::Open && gain > 0 && gain >= worth && self.window() < self.buffer / 2
    }

    /// The window field for a segment that leaves now, moving the right edge on where that is
    /// worth it (RFC 9293 section 3.8.6.2.2).
    ///
    /// The edge is kept against the loss of low bits to scaling: the field is rounded up where
    /// rounding down would take back what was promised, within an eighth of the buffer.
    pub fn advertise(&mut self) -> u16 {
        let full_size = u32::from(self.full_size);
        let gain = self.gain();
        if gain >= full_size && self.buffer >= 8 * full_size {
            // Whole segments: what is left over would tempt the peer to send a small one.
            self.edge = self.edge.add(gain / full_size * full_size);
        } else if gain >= full_size.min(self.buffer / 2) {
            self.edge = self.edge.add(gain);
        }
        let window = self.window();
        let unit = 1u32 << self.scale;
        let limit = self
            .nxt
            .sub(self.queue.len() as u32)
            .add(self.buffer + self.buffer / 8);
        let up = window.div_ceil(unit);
        let scaled = match self.nxt.add(up << self.scale).at_or_before(limit) {
            true => up,
            false => window >> self.scale,
        };
        let field = scaled.min(0xffff) as u16;
        self.edge = self
            .edge
            .later(self.nxt.add(u32::from(field) << self.scale));
        field
    }

    /// TS.Recent when nothing was missing last; it is `recent` if nothing is.
    pub fn floor(&self, recent: u32) -> u32 {
        self.blocks.first().map_or(recent, |first| first.floor)
    }

    /// Remember it as long as something is missing.
    pub fn set_floor(&mut self, floor: u32) {
        if let Some(first) = self.blocks.first_mut() {
            first.floor = floor;
        }
    }

    /// Whether some of `len` octets from `seq` on were received before.
    pub fn has_some_of(&self, seq: SeqNumber, len: u32) -> bool {
        if len == 0 {
            return false;
        }
        if seq.before(self.nxt) {
            return u64::from(self.nxt.distance_from(seq)) <= self.queue.end();
        }
        let end = seq.add(len);
        let above = self
            .blocks
            .partition_point(|block| block.end.at_or_before(seq));
        let block = self.blocks.get(above);
        block.is_some_and(|block| block.start.before(end))
    }

    /// Take in a payload that starts at `seq`. What lies outside the window is cut off.
    pub fn accept(&mut self, mut seq: SeqNumber, mut data: Bytes) -> Accepted {
        let end = seq.add(data.len() as u32);
        if seq.before(self.nxt) {
            let old = self.nxt.distance_from(seq);
            self.duplicate = Some(SackRange {
                start: seq,
                end: self.nxt.earlier(end),
            });
            if end.at_or_before(self.nxt) {
                return Accepted::Duplicate;
            }
            data = data.slice(old as usize..);
            seq = self.nxt;
        }
        if end.after(self.edge) {
            let room = match self.edge.after(seq) {
                true => self.edge.distance_from(seq),
                false => 0,
            };
            data.truncate(room as usize);
        }
        if data.is_empty() {
            return Accepted::Duplicate;
        }
        if seq == self.nxt && self.blocks.is_empty() {
            self.push(data);
            return Accepted::InOrder { filled: false };
        }
        if seq != self.nxt {
            return self.keep(seq, data);
        }
        self.fill(data)
    }

    /// Octets in order.
    fn push(&mut self, data: Bytes) {
        self.nxt = self.nxt.add(data.len() as u32);
        self.queue.push(data);
        if self.discard {
            self.drop_unread();
        }
    }

    /// Drop what nobody will read.
    pub fn drop_unread(&mut self) {
        self.lost |= self.queue.len() > 0;
        self.queue.advance_to(self.queue.end());
    }

    /// In-order octets while stretches wait: take those that become contiguous along.
    fn fill(&mut self, mut data: Bytes) -> Accepted {
        let end = self.nxt.add(data.len() as u32);
        let mut joined = 0;
        for block in &self.blocks {
            if block.start.after(end) {
                break;
            }
            joined += 1;
        }
        let rest = self.blocks.split_off(joined);
        let waiting = core::mem::replace(&mut self.blocks, rest);
        for block in waiting {
            // Octets both brought by the segment and held already: the held ones stand.
            let until = block.start.distance_from(self.nxt) as usize;
            if block.start.after(self.nxt) {
                let tail = data.split_off(until.min(data.len()));
                self.push(core::mem::replace(&mut data, tail));
            }
            let overlap = (block.end.distance_from(self.nxt) as usize).min(data.len());
            if overlap > 0 && self.duplicate.is_none() {
                self.duplicate = Some(SackRange {
                    start: self.nxt,
                    end: self.nxt.add(overlap as u32),
                });
            }
            data = data.slice(overlap..);
            for piece in block.data {
                self.push(piece);
            }
        }
        if !data.is_empty() {
            self.push(data);
        }
        Accepted::InOrder { filled: true }
    }

    /// Keep octets that are out of order.
    fn keep(&mut self, seq: SeqNumber, data: Bytes) -> Accepted {
        let end = seq.add(data.len() as u32);
        // Blocks first..last touch or overlap the new octets. Most often those are at the end.
        let first = match self.blocks.last() {
            Some(last) if last.end.before(seq) => self.blocks.len(),
            _ => self.blocks.partition_point(|block| block.end.before(seq)),
        };
        let touching = self
            .blocks
            .iter()
            .skip(first)
            .take_while(|block| block.start.at_or_before(end))
            .count();
        if touching == 0 && self.blocks.len() >= MAX_BLOCKS {
            return Accepted::Duplicate;
        }
        self.block_clock = self.block_clock.wrapping_add(1);
        let mut merged = Block {
            start: seq,
            end: seq,
            stamp: self.block_clock,
            floor: 0,
            data: VecDeque::new(),
        };
        let mut duplicate = None;
        let mut fresh = false;
        let mut at = seq;
        let piece = |from: SeqNumber, until: SeqNumber| {
            let range = from.distance_from(seq) as usize..until.distance_from(seq) as usize;
            match range.len() <= COPY_BELOW {
                true => Bytes::copy_from_slice(&data[range]),
                false => data.slice(range),
            }
        };
        for block in self.blocks.drain(first..first + touching) {
            if block.start.at_or_before(seq) {
                merged.start = block.start;
            } else if at.before(block.start) {
                append(&mut merged.data, VecDeque::from([piece(at, block.start)]));
                fresh = true;
            }
            let (from, until) = (at.later(block.start), end.earlier(block.end));
            if from.before(until) && duplicate.is_none() {
                duplicate = Some(SackRange {
                    start: from,
                    end: until,
                });
            }
            append(&mut merged.data, block.data);
            merged.end = block.end;
            at = at.later(block.end);
        }
        if at.before(end) {
            append(&mut merged.data, VecDeque::from([piece(at, end)]));
            merged.end = end;
            fresh = true;
        }
        self.blocks.insert(first, merged);
        if duplicate.is_some() {
            self.duplicate = duplicate;
        }
        match fresh {
            true => Accepted::OutOfOrder,
            false => Accepted::Duplicate,
        }
    }

    /// The ranges for an ACK that leaves now: a duplicate first, then the stretches that grew last.
    pub fn sack_ranges(&mut self) -> SackRanges {
        let mut ranges = SackRanges::EMPTY;
        if let Some(duplicate) = self.duplicate.take() {
            ranges.push(duplicate);
        }
        if self.blocks.is_empty() {
            return ranges;
        }
        let age = |block: &Block| self.block_clock.wrapping_sub(block.stamp);
        let mut floor = None;
        for _ in 0..MAX_SACK {
            let next = self
                .blocks
                .iter()
                .filter(|block| floor.is_none_or(|floor| age(block) > floor))
                .min_by_key(|block| age(block));
            let Some(block) = next else {
                break;
            };
            floor = Some(age(block));
            ranges.push(SackRange {
                start: block.start,
                end: block.end,
            });
        }
        ranges
    }

    /// Octets out of order.
    pub fn out_of_order(&self) -> u32 {
        self.blocks
            .iter()
            .map(|block| block.end.distance_from(block.start))
            .sum()
    }

    /// What the octets out of order cost: they, their pieces' places and allocations, and the blocks.
    pub fn out_of_order_memory(&self) -> usize {
        let cost = |block: &Block| {
            block.end.distance_from(block.start) as usize
                + block.data.capacity() * size_of::<Bytes>()
                + block.data.len() * ALLOCATION
        };
        let places = self.blocks.capacity() * size_of::<Block>();
        places + self.blocks.iter().map(cost).sum::<usize>()
    }
}

/// Whether two pieces that follow each other are kept as one.
fn joins(left: &Bytes, right: &Bytes) -> bool {
    left.len().min(right.len()) <= COPY_BELOW && left.len() + right.len() <= JOINED
}

/// Put `right` behind `left`, in both of which no two pieces that follow each other are to be
/// joined ([`joins`]); then that is so of the whole, and any two hold more than twice
/// [`COPY_BELOW`] octets. The shorter one is moved, so that a peer cannot have the longer one moved
/// for every octet it sends, whatever their order.
fn append(left: &mut VecDeque<Bytes>, mut right: VecDeque<Bytes>) {
    // Joined, a piece is larger, and joins no other all the more.
    if let (Some(last), Some(next)) = (left.back_mut(), right.front())
        && joins(last, next)
    {
        let mut joined = Vec::with_capacity(last.len() + next.len());
        joined.extend_from_slice(last);
        joined.extend_from_slice(next);
        *last = Bytes::from(joined);
        right.pop_front();
    }
    if left.len() >= right.len() {
        left.append(&mut right);
        return;
    }
    while let Some(piece) = left.pop_back() {
        right.push_front(piece);
    }
    *left = right;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rcv(buffer: u32, scale: u8) -> Rcv {
        let mut rcv = Rcv::new(SeqNumber::new(u32::MAX - 5), buffer);
        rcv.scale = scale;
        rcv.advertise();
        rcv
    }

    /// Octets `from..until` of a stream whose octets count up.
    fn stream(from: u32, until: u32) -> Bytes {
        (from..until).map(|n| n as u8).collect()
    }

    fn read(rcv: &Rcv) -> Vec<u8> {
        let mut slices = crate::stack::frame::Payload::new();
        rcv.queue
            .slices(rcv.queue.start(), rcv.queue.len(), &mut slices);
        slices.concat()
    }

    #[test]
    fn overlaps_in_any_order_assemble_to_the_stream() {
        let mut seed = 1u64;
        let mut random = |below: u32| {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            ((seed >> 33) as u32) % below
        };
        for _ in 0..300 {
            let mut rcv = rcv(1000, 0);
            let base = rcv.nxt;
            for _ in 0..40 {
                let from = random(990);
                let until = from + 1 + random(60);
                rcv.accept(base.add(from), stream(from, until));
                assert_eq!(rcv.queue.len() as u32, rcv.nxt.distance_from(base));
                for pair in rcv.blocks.windows(2) {
                    assert!(pair[0].end.before(pair[1].start), "blocks touch");
                }
                for block in &rcv.blocks {
                    let len: usize = block.data.iter().map(Bytes::len).sum();
                    assert_eq!(len as u32, block.end.distance_from(block.start));
                }
            }
            rcv.accept(base, stream(0, 1000));
            assert_eq!(read(&rcv), stream(0, 1000));
            assert!(rcv.blocks.is_empty());
        }
    }

    #[test]
    fn the_latest_block_is_reported_first_and_a_duplicate_before_it() {
        let mut rcv = rcv(1000, 0);
        let base = rcv.nxt;
        for from in [100, 300, 500, 200] {
            rcv.accept(base.add(from), stream(from, from + 50));
        }
        let starts = |ranges: SackRanges| -> Vec<u32> {
            ranges
                .as_slice()
                .iter()
                .map(|range| range.start.distance_from(base))
                .collect()
        };
        assert_eq!(starts(rcv.sack_ranges()), [200, 500, 300, 100]);
        rcv.accept(base.add(310), stream(310, 320));
        assert_eq!(starts(rcv.sack_ranges()), [310, 300, 200, 500]);
        assert_eq!(
            starts(rcv.sack_ranges()),
            [300, 200, 500, 100],
            "reported once"
        );
    }

    #[test]
    fn the_right_edge_never_moves_back_and_opens_in_steps() {
        let mut rcv = rcv(64_000, 3);
        let mut edge = rcv.edge;
        let mut offset = 0;
        for n in 0..200u32 {
            let len = 1 + n % 700;
            rcv.accept(rcv.nxt, stream(offset, offset + len));
            offset += len;
            let field = rcv.advertise();
            let told = rcv.nxt.add(u32::from(field) << 3);
            assert!(told.at_or_after(edge), "edge moved back");
            edge = told;
            if n % 50 == 49 {
                rcv.queue.advance_to(rcv.queue.end());
            }
        }
        assert!(edge.distance_from(rcv.nxt) <= 72_000);
    }

    /// RFC 2883: whoever sent them again is to learn that it was needless.
    #[test]
    fn octets_that_fill_a_gap_and_were_held_in_part_are_reported() {
        let mut rcv = rcv(1000, 0);
        let base = rcv.nxt;
        for (from, until) in [(10, 20), (30, 40)] {
            rcv.accept(base.add(from), stream(from, until));
        }
        rcv.sack_ranges();
        let filled = rcv.accept(base, stream(0, 35));
        assert_eq!(filled, Accepted::InOrder { filled: true });
        // RFC 2883 section 4: one range, the first.
        let expected = SackRange {
            start: base.add(10),
            end: base.add(20),
        };
        assert_eq!(rcv.sack_ranges().as_slice(), [expected]);
        assert_eq!(read(&rcv), stream(0, 40));
        // Nothing twice, nothing to report.
        rcv.accept(base.add(50), stream(50, 60));
        rcv.sack_ranges();
        rcv.accept(base.add(40), stream(40, 50));
        assert!(rcv.sack_ranges().as_slice().is_empty());
        assert_eq!(read(&rcv), stream(0, 60));
    }

    /// A peer could else have a frame kept for every octet of its window.
    #[test]
    fn an_octet_more_out_of_order_does_not_keep_the_frame_that_brought_it() {
        let mut rcv = rcv(2000, 0);
        let at = rcv.nxt.add(100);
        let frame = stream(100, 1200);
        rcv.accept(at, frame.slice(..1099));
        rcv.accept(at, frame.clone());
        let held: Vec<_> = rcv.blocks[0].data.iter().collect();
        let shared = |piece: &&Bytes| frame.as_ptr_range().contains(&piece.as_ptr());
        assert_eq!((held[0].len(), held[1].len()), (1099, 1));
        assert!(shared(&held[0]) && !shared(&held[1]));
    }

    /// In whatever order they come: a peer could else have us keep, and move, a piece for each.
    #[test]
    fn single_octets_out_of_order_are_joined_and_counted() {
        const COUNT: u32 = 234 * 256;
        let odd_then_even = |n: u32| {
            let (group, at) = (n / 256, n % 256);
            group * 256 + at % 128 * 2 + u32::from(at < 128)
        };
        let orders: [(&str, &dyn Fn(u32) -> u32); 3] = [
            ("ascending", &|n| n),
            ("descending", &|n| COUNT - 1 - n),
            ("holes first", &odd_then_even),
        ];
        for (name, order) in orders {
            let mut rcv = rcv(64_000, 0);
            let base = rcv.nxt;
            for n in (0..COUNT).map(order).filter(|n| *n < COUNT) {
                let kept = rcv.accept(base.add(n + 1), stream(n + 1, n + 2));
                assert_eq!(kept, Accepted::OutOfOrder, "{name}: {n}");
            }
            let octets = rcv.out_of_order();
            let pieces: usize = rcv.blocks.iter().map(|block| block.data.len()).sum();
            assert!(octets >= COUNT - 256, "{name}: {octets}");
            assert!(
                pieces <= octets as usize / 256 + 2,
                "{name}: {pieces} pieces"
            );
            let memory = rcv.out_of_order_memory();
            let rest = memory - octets as usize;
            assert!((pieces * 64..60_000).contains(&rest), "{name}: {memory}");
            rcv.accept(base, stream(0, 1));
            assert!(read(&rcv) == stream(0, octets + 1), "{name}");
            assert_eq!(rcv.out_of_order_memory(), 0, "{name}");
        }
    }

    #[test]
    fn octets_that_are_here_are_told_from_those_that_are_not() {
        let mut rcv = rcv(64_000, 0);
        let base = rcv.nxt;
        rcv.accept(base, stream(0, 100));
        rcv.accept(base.add(200), stream(200, 300));
        for (from, len, known) in [
            (0, 0, false),
            (0, 1, true),
            (99, 100, true),
            (100, 100, false),
            (100, 101, true),
            (150, 200, true),
            (299, 1, true),
            (300, 100, false),
            (1 << 30, 100, false),
        ] {
            assert_eq!(rcv.has_some_of(base.add(from), len), known, "{from}");
        }
        // From before anything was: no octets of this stream.
        assert!(!rcv.has_some_of(base.sub(50), 200));
    }

    #[test]
    fn stretches_out_of_order_are_bounded_in_number_not_only_in_octets() {
        let mut rcv = rcv(64_000, 0);
        let base = rcv.nxt;
        for n in 1..=MAX_BLOCKS as u32 {
            let from = n * 10;
            let kept = rcv.accept(base.add(from), stream(from, from + 1));
            assert_eq!(kept, Accepted::OutOfOrder);
        }
        assert_eq!(
            rcv.accept(base.add(9_000), stream(9_000, 9_001)),
            Accepted::Duplicate
        );
        assert_eq!(rcv.blocks.len(), MAX_BLOCKS);
        // What joins others costs nothing, and is taken.
        assert_eq!(
            rcv.accept(base.add(11), stream(11, 20)),
            Accepted::OutOfOrder
        );
        assert_eq!(rcv.blocks.len(), MAX_BLOCKS - 1);
    }

    /// A frame is large, and a slice of it keeps all of it.
    #[test]
    fn a_few_octets_out_of_order_do_not_keep_their_frame() {
        let mut rcv = rcv(64_000, 0);
        let frame = stream(0, 2_000);
        for (from, len) in [(100, COPY_BELOW as u32), (900, COPY_BELOW as u32 + 1)] {
            let few = frame.slice(from as usize..(from + len) as usize);
            rcv.accept(rcv.nxt.add(from), few);
        }
        let held = |n: usize| rcv.blocks[n].data[0].as_ptr();
        assert_ne!(held(0), frame[100..].as_ptr(), "copied");
        assert_eq!(held(1), frame[900..].as_ptr(), "shared");
    }

    #[test]
    fn octets_beyond_the_window_are_not_kept() {
        let mut rcv = rcv(100, 0);
        let base = rcv.nxt;
        assert_eq!(
            rcv.accept(base.add(90), stream(90, 130)),
            Accepted::OutOfOrder
        );
        assert_eq!(rcv.out_of_order(), 10);
        assert_eq!(
            rcv.accept(base.add(100), stream(100, 130)),
            Accepted::Duplicate
        );
        rcv.accept(base, stream(0, 90));
        assert_eq!((rcv.queue.len(), rcv.window()), (100, 0));
        assert!(!rcv.owes_update());
        rcv.queue.advance_to(rcv.queue.start() + 60);
        assert!(rcv.owes_update());
    }
}
