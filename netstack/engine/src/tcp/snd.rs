//! The send side: the queue of octets from SND.UNA on, what of it was transmitted and when, and
//! the peer's window (RFC 9293 section 3.3.1, variables SND.*).

use alloc::boxed::Box;
use alloc::collections::VecDeque;

use super::options::SackRanges;
use super::queue::ByteQueue;
use crate::seq::SeqNumber;
use crate::stack::frame::Payload;
use crate::time::Instant;

/// What is known of a transmitted stretch of sequence space. A set of bits, so that counting them
/// in and out is one mask.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Marks(pub u8);

impl Marks {
    /// The peer holds it (SACK).
    pub const SACKED: u8 = 1;
    /// Deemed lost.
    pub const LOST: u8 = 2;
    /// A retransmission of it is in flight.
    pub const RETRANSMITTED: u8 = 4;
    /// Was retransmitted at some time: its round trip is ambiguous (Karn).
    pub const EVER_RETRANSMITTED: u8 = 8;
    /// Its last sequence number is our FIN.
    pub const FIN: u8 = 16;
    /// Was sent by an earlier owner: the time of the move is missing from its age.
    pub const MOVED: u8 = 32;

    const ALL: u8 = 63;

    pub fn has(self, bits: u8) -> bool {
        self.0 & bits != 0
    }

    pub fn set(&mut self, bits: u8) {
        self.0 |= bits;
    }

    pub fn clear(&mut self, bits: u8) {
        self.0 &= !bits;
    }

    /// Marks from outside; `None` for unknown bits and combinations that cannot be.
    pub fn from_raw(bits: u8) -> Option<Marks> {
        let marks = Marks(bits);
        let contradictory = marks.has(Marks::SACKED)
            && marks.has(Marks::LOST | Marks::RETRANSMITTED)
            || marks.has(Marks::RETRANSMITTED) && !marks.has(Marks::EVER_RETRANSMITTED);
        (bits & !Marks::ALL == 0 && !contradictory).then_some(marks)
    }
}

/// Transmitted stretches remembered apart at most, but for what retransmission splits off
/// ([`Snd::retransmit`]). A capsule takes somewhat more (`migrate`).
pub const MAX_ENTRIES: usize = 6 * 1024;
/// Stretches that SACK may make of a window: one for each of these octets, and [`FREE_ENTRIES`].
/// Segments are mostly larger, so that reports of whole segments are all taken.
const ENTRY_OCTETS: usize = 512;
const FREE_ENTRIES: usize = 64;
/// Places kept for stretches when nothing is outstanding.
const KEPT_PLACES: usize = 256;

/// One stretch of transmitted sequence space with one fate: a segment, or a burst of them that
/// left in one piece. Split when SACK tells its parts apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SentSegment {
    pub seq: SeqNumber,
    /// Sequence numbers taken, FIN counted.
    pub len: u32,
    /// When it was last transmitted.
    pub sent_at: Instant,
    /// How often it was retransmitted.
    pub retransmits: u8,
    pub marks: Marks,
}

impl SentSegment {
    pub fn end(&self) -> SeqNumber {
        self.seq.add(self.len)
    }
}

/// How far our end of the stream is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SndFin {
    /// Not closed.
    Open,
    /// Closed: FIN follows the queue.
    Queued,
    /// FIN transmitted, perhaps lost.
    Sent,
    /// FIN acknowledged.
    Acked,
}

/// The send side.
#[derive(Clone, Debug)]
pub(crate) struct Snd {
    /// ISS.
    pub iss: SeqNumber,
    /// SND.UNA.
    pub una: SeqNumber,
    /// SND.NXT: one past the highest sequence number transmitted.
    pub nxt: SeqNumber,
    /// SND.WND, scaled.
    pub window: u32,
    /// SND.WL1.
    pub wl1: SeqNumber,
    /// SND.WL2.
    pub wl2: SeqNumber,
    /// Largest window the peer ever offered (SWS avoidance, RFC 9293 section 3.8.6.2.1).
    pub max_window: u32,
    /// Snd.Wind.Shift.
    pub scale: u8,
    /// MSS option the peer sent (536 or 1220 without).
    pub peer_mss: u16,
    /// Octets from SND.UNA on; stream offset 0 is the first after SYN.
    pub queue: ByteQueue,
    /// What of it was transmitted: contiguous from SND.UNA to SND.NXT.
    pub sent: VecDeque<SentSegment>,
    /// Our end of the stream.
    pub fin: SndFin,
    /// Octets marked [`Marks::SACKED`].
    pub sacked: u32,
    /// Octets marked [`Marks::LOST`].
    pub lost: u32,
    /// Octets marked [`Marks::RETRANSMITTED`].
    pub retransmitted: u32,
    /// Without SACK: octets that duplicate ACKs say have left the network (RFC 5681 section 3.2).
    pub reno_sacked: u32,
    /// No octet before this one waits to be retransmitted.
    pub next_lost: SeqNumber,
    /// SACK ranges of the last ACK: what they cover is marked already.
    pub sack_seen: Option<Box<SackRanges>>,
    /// When octets were last transmitted (restart after idle, RFC 5681 section 4.1).
    pub last_sent: Option<Instant>,
    /// When the next new octets may leave, where they are paced.
    pub next_paced: Option<Instant>,
    /// Payload of the largest segment acknowledged so far, as far as is known.
    pub largest_acked: u16,
    /// Whether the last attempt to send stopped at the congestion window (RFC 7661 section 4).
    pub cwnd_limited: bool,
}

impl Snd {
    pub fn new(iss: SeqNumber, peer_mss: u16) -> Snd {
        Snd {
            iss,
            una: iss,
            nxt: iss,
            window: 0,
            wl1: SeqNumber::default(),
            wl2: iss,
            max_window: 0,
            scale: 0,
            peer_mss,
            queue: ByteQueue::new(0),
            sent: VecDeque::new(),
            fin: SndFin::Open,
            sacked: 0,
            lost: 0,
            retransmitted: 0,
            reno_sacked: 0,
            next_lost: iss,
            sack_seen: None,
            last_sent: None,
            next_paced: None,
            largest_acked: 0,
            cwnd_limited: false,
        }
    }

    /// Stream offset of a sequence number at or after SND.UNA.
    pub fn offset_of(&self, seq: SeqNumber) -> u64 {
        self.queue.start() + u64::from(seq.distance_from(self.una))
    }

    /// Sequence numbers transmitted and not acknowledged.
    pub fn outstanding(&self) -> u32 {
        self.nxt.distance_from(self.una)
    }

    /// Octets never transmitted.
    pub fn unsent(&self) -> u64 {
        self.queue.end().saturating_sub(self.offset_of(self.nxt))
    }

    /// Whether our FIN is next to be transmitted for the first time, once the queue is.
    pub fn fin_unsent(&self) -> bool {
        self.fin == SndFin::Queued
    }

    /// Whether anything was never transmitted.
    pub fn has_unsent(&self) -> bool {
        self.unsent() > 0 || self.fin_unsent()
    }

    /// The peer's right edge: SND.UNA + SND.WND.
    pub fn right_edge(&self) -> SeqNumber {
        self.una.add(self.window)
    }

    /// Octets in flight: transmitted, not known to have arrived or been lost (RFC 6675's pipe).
    pub fn in_flight(&self) -> u32 {
        (self.outstanding() + self.retransmitted)
            .saturating_sub(self.sacked + self.lost + self.reno_sacked)
    }

    /// Whether the peer holds at least `count` segments out of order, however small they are. A
    /// burst counts as the segments of `mss` octets it was cut into.
    pub fn is_sacked(&self, count: u32, mss: u32) -> bool {
        if self.sacked >= count * mss {
            return true;
        }
        if self.sacked == 0 {
            return false;
        }
        let sacked = self.sent.iter().filter(|s| s.marks.has(Marks::SACKED));
        sacked.map(|s| s.len.div_ceil(mss.max(1))).sum::<u32>() >= count
    }

    /// Octets of a transmitted segment, without its FIN.
    pub fn payload_of(&self, segment: &SentSegment, payload: &mut Payload) {
        let len = segment.len - u32::from(segment.marks.has(Marks::FIN));
        self.queue
            .slices(self.offset_of(segment.seq), len as usize, payload);
    }

    /// Note the first transmission of `len` sequence numbers from SND.NXT on.
    pub fn record_new(&mut self, now: Instant, len: u32, fin: bool) {
        let mut marks = Marks::default();
        if fin {
            marks.set(Marks::FIN);
            self.fin = SndFin::Sent;
        }
        // Past the bound a stretch grows: small segments by the thousand.
        let full = self.sent.len() >= MAX_ENTRIES;
        match self
            .sent
            .back_mut()
            .filter(|last| full && last.marks == Marks::default())
        {
            Some(last) => {
                last.len += len;
                last.sent_at = now;
                last.marks = marks;
            }
            None => self.sent.push_back(SentSegment {
                seq: self.nxt,
                len,
                sent_at: now,
                retransmits: 0,
                marks,
            }),
        }
        self.nxt = self.nxt.add(len);
        self.last_sent = Some(now);
    }

    /// Index of the transmitted segment that holds `seq`, or of the first after it.
    pub fn index_of(&self, seq: SeqNumber) -> usize {
        self.sent
            .partition_point(|segment| segment.end().at_or_before(seq))
    }

    /// Stretches that are remembered apart at most for what a peer says.
    fn most_entries(&self) -> usize {
        (FREE_ENTRIES + self.outstanding() as usize / ENTRY_OCTETS).min(MAX_ENTRIES)
    }

    /// Whether a peer's report may split a segment: it could else have us remember every octet apart.
    pub fn may_split(&self) -> bool {
        self.sent.len() < self.most_entries()
    }

    /// Note a retransmission of the first `len` numbers of the stretch at `index`, and return them.
    ///
    /// A peer can have a burst leave again in crumbs, by its MSS or what it claims of the path. So a piece
    /// that would be one too many goes on with the one before it, which has just left too. Where
    /// there is no such (stretches that have arrived lie between those that have not), pieces are told apart
    /// up to a quarter more; beyond that all of the stretch counts as sent again, and what did not
    /// leave is found lost as if it had.
    pub fn retransmit(&mut self, index: usize, len: u32, now: Instant) -> Option<SentSegment> {
        let most = self.most_entries();
        if self.sent.len() < most + most / 4 {
            self.split(index, len);
        }
        self.mark_retransmitted(index, now);
        let mut piece = *self.sent.get(index)?;
        if piece.len > len {
            piece.len = len;
            piece.marks.clear(Marks::FIN);
        }
        if self.sent.len() > most {
            self.join(index);
        }
        Some(piece)
    }

    /// Make the stretch at `index` a part of the one before it, if nothing but their times tells them apart.
    fn join(&mut self, index: usize) {
        let Some(later) = self.sent.get(index).copied() else {
            return;
        };
        let before = index.checked_sub(1).and_then(|at| self.sent.get_mut(at));
        if let Some(before) = before.filter(|before| before.marks == later.marks) {
            before.len += later.len;
            before.sent_at = later.sent_at;
            before.retransmits = before.retransmits.max(later.retransmits);
            self.sent.remove(index);
        }
    }

    /// What the stretches remembered cost, but for the few that every connection has.
    pub fn entries_memory(&self) -> usize {
        self.sent.len().saturating_sub(FREE_ENTRIES) * size_of::<SentSegment>()
    }

    /// Cut the segment at `index` so that its first part takes `len` numbers; FIN goes with the second.
    pub fn split(&mut self, index: usize, len: u32) {
        let Some(first) = self.sent.get_mut(index) else {
            return;
        };
        if len == 0 || len >= first.len {
            return;
        }
        let mut second = *first;
        first.len = len;
        first.marks.clear(Marks::FIN);
        second.seq = first.seq.add(len);
        second.len -= len;
        self.sent.insert(index + 1, second);
    }

    fn uncount(&mut self, marks: Marks, len: u32) {
        if marks.has(Marks::SACKED) {
            self.sacked -= len;
        }
        if marks.has(Marks::LOST) {
            self.lost -= len;
        }
        if marks.has(Marks::RETRANSMITTED) {
            self.retransmitted -= len;
        }
    }

    /// Take `ack` as SND.UNA: drop what it covers, telling `each` of every part that goes.
    /// `ack` lies in SND.UNA..=SND.NXT.
    pub fn acknowledge(&mut self, ack: SeqNumber, mut each: impl FnMut(&SentSegment)) {
        while let Some(front) = self.sent.front_mut() {
            if !front.seq.before(ack) {
                break;
            }
            let mut gone = *front;
            if front.end().after(ack) {
                gone.len = ack.distance_from(front.seq);
                gone.marks.clear(Marks::FIN);
                front.seq = ack;
                front.len -= gone.len;
            } else {
                self.sent.pop_front();
            }
            self.uncount(gone.marks, gone.len);
            if gone.marks.has(Marks::FIN) {
                self.fin = SndFin::Acked;
            }
            each(&gone);
        }
        if self.sent.is_empty() && self.sent.capacity() > KEPT_PLACES {
            self.sent = VecDeque::new();
        }
        self.queue.advance_to(self.offset_of(ack));
        self.una = ack;
        self.next_lost = self.next_lost.later(ack);
    }

    /// Mark the segment at `index` lost, and any retransmission of it. Returns whether that is news.
    pub fn mark_lost(&mut self, index: usize) -> bool {
        let Some(segment) = self.sent.get_mut(index) else {
            return false;
        };
        let was = segment.marks;
        if was.has(Marks::SACKED) || was.has(Marks::LOST) && !was.has(Marks::RETRANSMITTED) {
            return false;
        }
        segment.marks.clear(Marks::RETRANSMITTED);
        segment.marks.set(Marks::LOST);
        let (seq, len) = (segment.seq, segment.len);
        if was.has(Marks::RETRANSMITTED) {
            self.retransmitted -= len;
        }
        if !was.has(Marks::LOST) {
            self.lost += len;
        }
        if seq.before(self.next_lost) {
            self.next_lost = seq;
        }
        true
    }

    /// Note a retransmission of the segment at `index`.
    fn mark_retransmitted(&mut self, index: usize, now: Instant) {
        let Some(segment) = self.sent.get_mut(index) else {
            return;
        };
        if !segment.marks.has(Marks::RETRANSMITTED) {
            self.retransmitted += segment.len;
        }
        segment.marks.clear(Marks::MOVED);
        segment
            .marks
            .set(Marks::RETRANSMITTED | Marks::EVER_RETRANSMITTED);
        segment.sent_at = now;
        segment.retransmits = segment.retransmits.saturating_add(1);
        self.last_sent = Some(now);
    }

    /// Index of the first segment that waits to be retransmitted.
    pub fn first_lost(&mut self) -> Option<usize> {
        if self.lost == 0 {
            return None;
        }
        let from = self.index_of(self.next_lost);
        let found = self
            .sent
            .range(from..)
            .position(|segment| {
                segment.marks.has(Marks::LOST) && !segment.marks.has(Marks::RETRANSMITTED)
            })
            .map(|position| from + position);
        self.next_lost = match found.and_then(|index| self.sent.get(index)) {
            Some(segment) => segment.seq,
            None => self.nxt,
        };
        found
    }

    /// Take back every mark of loss: it was none (spurious time-out, RFC 5682, RFC 4015).
    pub fn unmark_lost(&mut self) {
        for segment in &mut self.sent {
            segment.marks.clear(Marks::LOST);
        }
        self.lost = 0;
        self.next_lost = self.nxt;
    }

    /// Forget what the peer said it holds (it may drop it: RFC 2018 section 8).
    pub fn forget_sacked(&mut self) {
        for segment in &mut self.sent {
            segment.marks.clear(Marks::SACKED);
        }
        self.sacked = 0;
        self.sack_seen = None;
    }

    /// The counters as the marks make them: what import and the tests compare with.
    pub fn recount(&self) -> (u32, u32, u32) {
        let mut counts = (0u32, 0u32, 0u32);
        for segment in &self.sent {
            if segment.marks.has(Marks::SACKED) {
                counts.0 += segment.len;
            }
            if segment.marks.has(Marks::LOST) {
                counts.1 += segment.len;
            }
            if segment.marks.has(Marks::RETRANSMITTED) {
                counts.2 += segment.len;
            }
        }
        counts
    }
}
