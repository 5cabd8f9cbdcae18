//! Export and import of the send side.

use alloc::collections::VecDeque;

use super::super::connection::MAX_SCALE;
use super::super::queue::ByteQueue;
use super::super::snd::{Marks, SentSegment, Snd, SndFin};
use super::{
    ImportError, LONGEST_AGE, LONGEST_SPAN, Queues, SentHeader, SndEnd, SndHeader, bounded,
    bounded_option, ensure,
};
use crate::time::Instant;

/// Octets a send queue may bring along: what fits the sequence space in any case.
const MAX_QUEUE: u64 = 1 << 30;

impl Snd {
    #[inline]
    pub(super) fn export(self, now: Instant, queues: &mut Queues) -> SndHeader {
        let Snd {
            iss,              // carried
            una,              // carried
            nxt,              // carried
            window,           // carried
            wl1,              // carried
            wl2,              // carried
            max_window,       // carried
            scale,            // carried
            peer_mss,         // carried
            queue,            // carried: octets beside the header
            sent,             // carried: boundaries, ages, marks
            fin,              // carried
            sacked: _,        // rebuilt from the marks
            lost: _,          // rebuilt from the marks
            retransmitted: _, // rebuilt from the marks
            reno_sacked,      // carried
            next_lost: _,     // rebuilt: a hint
            sack_seen: _,     // dropped because it only saves work
            last_sent,        // carried as an age
            next_paced,       // carried as a remaining time
            largest_acked,    // carried
            cwnd_limited,     // carried
        } = self;
        let header = SndHeader {
            iss,
            una,
            nxt,
            window,
            wl1,
            wl2,
            max_window,
            scale,
            peer_mss,
            offset: queue.start(),
            end: match fin {
                SndFin::Open => SndEnd::Open,
                SndFin::Queued => SndEnd::Queued,
                SndFin::Sent => SndEnd::Sent,
                SndFin::Acked => SndEnd::Acknowledged,
            },
            sent: sent
                .into_iter()
                .map(|segment| {
                    let SentSegment {
                        seq: _,      // rebuilt: the segments are contiguous
                        len,         // carried
                        sent_at,     // carried as an age
                        retransmits, // carried
                        marks,       // carried
                    } = segment;
                    SentHeader {
                        len,
                        age: now.since(sent_at),
                        retransmits,
                        marks: marks.0,
                    }
                })
                .collect(),
            reno_sacked,
            last_sent_age: last_sent.map(|at| now.since(at)),
            pace: next_paced
                .map(|at| at.since(now))
                .filter(|left| !left.is_zero()),
            largest_acked,
            cwnd_limited,
        };
        queues.unacked_and_unsent = queue.into_chunks();
        header
    }
}

impl SndHeader {
    #[inline]
    pub(super) fn import(
        self,
        now: Instant,
        sack: bool,
        queues: &mut Queues,
    ) -> Result<Snd, ImportError> {
        ensure(self.scale <= MAX_SCALE, ImportError::Scale)?;
        let largest = 0xffffu32 << self.scale;
        ensure(
            self.window <= largest && self.max_window <= largest && self.peer_mss >= 48,
            ImportError::SendWindow,
        )?;
        let mut queue = ByteQueue::new(self.offset);
        ensure(self.offset <= u64::MAX / 2, ImportError::SendSequence)?;
        for piece in core::mem::take(&mut queues.unacked_and_unsent) {
            ensure(
                (queue.len() + piece.len()) as u64 <= MAX_QUEUE,
                ImportError::SendSequence,
            )?;
            queue.push(piece);
        }
        let outstanding = self.nxt.distance_from(self.una);
        let queued = queue.len() as u64;
        let fits = match self.end {
            SndEnd::Open | SndEnd::Queued => u64::from(outstanding) <= queued,
            SndEnd::Sent => u64::from(outstanding) == queued + 1,
            SndEnd::Acknowledged => outstanding == 0 && queued == 0,
        };
        ensure(
            fits && u64::from(outstanding) <= MAX_QUEUE,
            ImportError::SendSequence,
        )?;
        ensure(self.wl2.at_or_before(self.nxt), ImportError::SendSequence)?;
        ensure(
            self.reno_sacked <= outstanding && (!sack || self.reno_sacked == 0),
            ImportError::SentSegments,
        )?;
        let mut snd = Snd {
            iss: self.iss,
            una: self.una,
            nxt: self.nxt,
            window: self.window,
            wl1: self.wl1,
            wl2: self.wl2,
            max_window: self.max_window,
            scale: self.scale,
            peer_mss: self.peer_mss,
            queue,
            sent: VecDeque::with_capacity(self.sent.len()),
            fin: match self.end {
                SndEnd::Open => SndFin::Open,
                SndEnd::Queued => SndFin::Queued,
                SndEnd::Sent => SndFin::Sent,
                SndEnd::Acknowledged => SndFin::Acked,
            },
            sacked: 0,
            lost: 0,
            retransmitted: 0,
            reno_sacked: self.reno_sacked,
            next_lost: self.una,
            sack_seen: None,
            last_sent: bounded_option(self.last_sent_age, LONGEST_AGE)?.map(|age| now - age),
            next_paced: bounded_option(self.pace, LONGEST_SPAN)?.map(|left| now + left),
            largest_acked: self.largest_acked,
            cwnd_limited: self.cwnd_limited,
        };
        let mut left = outstanding;
        for segment in self.sent {
            let SentHeader {
                len,
                age,
                retransmits,
                marks,
            } = segment;
            let mut marks = Marks::from_raw(marks).ok_or(ImportError::SentSegments)?;
            ensure(len > 0 && len <= left, ImportError::SentSegments)?;
            let ends_with_fin = len == left && snd.fin == SndFin::Sent;
            ensure(
                marks.has(Marks::FIN) == ends_with_fin && (sack || !marks.has(Marks::SACKED)),
                ImportError::SentSegments,
            )?;
            marks.set(Marks::MOVED);
            snd.sent.push_back(SentSegment {
                seq: self.nxt.sub(left),
                len,
                sent_at: now - bounded(age, LONGEST_AGE)?,
                retransmits,
                marks,
            });
            left -= len;
        }
        ensure(left == 0, ImportError::SentSegments)?;
        (snd.sacked, snd.lost, snd.retransmitted) = snd.recount();
        Ok(snd)
    }
}
