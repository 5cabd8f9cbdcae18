//! RACK (RFC 8985 section 6): a segment is lost when one sent sufficiently later has arrived.

use super::super::snd::{Marks, SentSegment, Snd};
use crate::seq::SeqNumber;
use crate::time::{Duration, Instant};

/// Rounds without a DSACK after which the widened window shrinks again.
const PERSIST: u8 = 16;
/// Bound of the widening.
const MAX_MULTIPLIER: u8 = 20;

/// RACK's variables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rack {
    /// When the most recently sent segment that arrived was sent (RACK.xmit_ts).
    pub xmit: Option<Instant>,
    /// Its end (RACK.end_seq).
    pub end: SeqNumber,
    /// Whether that was a retransmission. Does not move.
    pub again: bool,
    /// Its round trip (RACK.rtt), in nanoseconds.
    pub rtt_nanos: u64,
    /// Highest end of anything that arrived (RACK.fack).
    pub fack: SeqNumber,
    /// Whether the path was seen to reorder.
    pub reordering_seen: bool,
    /// SND.NXT when a DSACK last widened the window: once per round.
    pub dsack_round: Option<SeqNumber>,
    /// Widening of the reordering window, in quarters of the minimum round trip.
    pub multiplier: u8,
    /// Recoveries left until the widening is dropped.
    pub persist: u8,
}

/// Whether a segment sent at `a` ending at `a_end` was sent after one sent at `b` ending at `b_end`.
fn sent_after(a: Instant, a_end: SeqNumber, b: Instant, b_end: SeqNumber) -> bool {
    a > b || a == b && a_end.after(b_end)
}

impl Rack {
    pub fn new(iss: SeqNumber) -> Rack {
        Rack {
            xmit: None,
            end: iss,
            again: false,
            rtt_nanos: 0,
            fack: iss,
            reordering_seen: false,
            dsack_round: None,
            multiplier: 1,
            persist: 0,
        }
    }

    fn rtt(&self) -> Duration {
        Duration::from_nanos(self.rtt_nanos)
    }

    /// A segment arrived (section 6.2, steps 2 and 3). `ambiguous`: the acknowledgement may be for
    /// an earlier transmission of it.
    pub fn on_delivered(
        &mut self,
        now: Instant,
        segment: &SentSegment,
        ambiguous: bool,
        min_rtt: Option<Duration>,
    ) {
        let retransmitted = segment.marks.has(Marks::EVER_RETRANSMITTED);
        if segment.end().after(self.fack) {
            self.fack = segment.end();
        } else if segment.end().before(self.fack) && !retransmitted {
            self.reordering_seen = true;
        }
        let rtt = now.since(segment.sent_at);
        if retransmitted && (ambiguous || min_rtt.is_some_and(|min| rtt < min)) {
            return;
        }
        let later = self
            .xmit
            .is_none_or(|xmit| sent_after(segment.sent_at, segment.end(), xmit, self.end));
        if later {
            self.xmit = Some(segment.sent_at);
            self.end = segment.end();
            self.again = retransmitted;
            self.rtt_nanos = rtt.as_nanos() as u64;
        }
    }

    /// A DSACK reported a needless retransmission: wait longer for reordered segments.
    pub fn on_duplicate(&mut self, snd: &Snd) {
        if self.dsack_round.is_none() {
            self.dsack_round = Some(snd.nxt);
            self.multiplier = (self.multiplier + 1).min(MAX_MULTIPLIER);
            self.persist = PERSIST;
        }
    }

    /// SND.UNA moved: a DSACK may widen the window again once its round is over.
    pub fn on_progress(&mut self, una: SeqNumber) {
        if self.dsack_round.is_some_and(|round| una.at_or_after(round)) {
            self.dsack_round = None;
        }
    }

    /// A recovery ended.
    pub fn on_recovered(&mut self) {
        self.persist = self.persist.saturating_sub(1);
        if self.persist == 0 {
            self.multiplier = 1;
        }
    }

    /// How long a segment may be late (step 4). `certain`: in recovery, or the peer holds enough
    /// later segments for the classic threshold.
    pub fn reorder_window(
        &self,
        srtt: Option<Duration>,
        min_rtt: Option<Duration>,
        certain: bool,
    ) -> Duration {
        if !self.reordering_seen && certain {
            return Duration::ZERO;
        }
        let quarter = min_rtt.unwrap_or_default() / 4;
        (quarter * u32::from(self.multiplier)).min(srtt.unwrap_or_default())
    }

    /// Mark what is lost (step 5). Returns whether anything was, and when to look again.
    pub fn detect(&self, now: Instant, snd: &mut Snd, window: Duration) -> (bool, Option<Instant>) {
        let Some(xmit) = self.xmit else {
            return (false, None);
        };
        let (mut any, mut again) = (false, None::<Instant>);
        for index in 0..snd.sent.len() {
            let Some(segment) = snd.sent.get(index) else {
                break;
            };
            let marks = segment.marks;
            if marks.has(Marks::SACKED)
                || marks.has(Marks::LOST) && !marks.has(Marks::RETRANSMITTED)
                || !sent_after(xmit, self.end, segment.sent_at, segment.end())
                // Sequence numbers tell which of two retransmissions left first in the same instant, as
                // they go out in order, but not which of an original and a retransmission.
                || xmit == segment.sent_at && marks.has(Marks::EVER_RETRANSMITTED) != self.again
            {
                continue;
            }
            let deadline = segment.sent_at + self.rtt() + window;
            if deadline <= now {
                any |= snd.mark_lost(index);
            } else {
                again = Some(again.map_or(deadline, |at| at.max(deadline)));
            }
        }
        (any, again)
    }

    /// What a retransmission time-out finds lost (section 6.3): the first segment, and those sent
    /// so long ago that they should have arrived.
    pub fn mark_on_timeout(&self, now: Instant, snd: &mut Snd, window: Duration) {
        for index in 0..snd.sent.len() {
            let Some(segment) = snd.sent.get(index) else {
                break;
            };
            if index == 0 || segment.sent_at + self.rtt() + window <= now {
                snd.mark_lost(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8985 section 6.2, step 3.
    #[test]
    fn what_arrives_after_a_later_one_shows_reordering_unless_it_was_sent_twice() {
        let iss = SeqNumber::new(0);
        let arrives = |rack: &mut Rack, place: u32, marks: u8| {
            let segment = SentSegment {
                seq: iss.add(place * 1000),
                len: 1000,
                sent_at: Instant::ZERO,
                retransmits: 0,
                marks: Marks(marks),
            };
            rack.on_delivered(Instant::from_millis(50), &segment, false, None);
        };
        let mut rack = Rack::new(iss);
        arrives(&mut rack, 0, 0);
        arrives(&mut rack, 2, 0);
        assert!(!rack.reordering_seen, "one is missing, perhaps lost");
        arrives(&mut rack, 1, Marks::EVER_RETRANSMITTED);
        assert!(!rack.reordering_seen, "it was lost");
        arrives(&mut rack, 4, 0);
        arrives(&mut rack, 3, 0);
        assert!(rack.reordering_seen);
    }

    /// RFC 8985 section 6.2, step 2: it was the original that arrived.
    #[test]
    fn a_retransmission_acknowledged_sooner_than_any_segment_before_says_nothing() {
        let iss = SeqNumber::new(0);
        let taken = |millis: u64, marks: u8| {
            let mut rack = Rack::new(iss);
            let segment = SentSegment {
                seq: iss,
                len: 1000,
                sent_at: Instant::from_millis(100),
                retransmits: 1,
                marks: Marks(marks),
            };
            let least = Some(Duration::from_millis(20));
            let now = Instant::from_millis(100 + millis);
            rack.on_delivered(now, &segment, false, least);
            rack.xmit.is_some()
        };
        assert!(!taken(19, Marks::EVER_RETRANSMITTED));
        assert!(taken(20, Marks::EVER_RETRANSMITTED));
        assert!(taken(19, 0), "a shorter path");
    }

    /// RFC 8985 section 6.2, step 4.
    #[test]
    fn duplicates_widen_the_reordering_window_once_a_round_until_recoveries_pass_without_any() {
        let iss = SeqNumber::new(0);
        let mut rack = Rack::new(iss);
        rack.reordering_seen = true;
        let mut snd = Snd::new(iss, 1000);
        let window = |rack: &Rack| {
            let (srtt, least) = (Duration::from_millis(80), Duration::from_millis(40));
            rack.reorder_window(Some(srtt), Some(least), false)
                .as_millis()
        };
        assert_eq!(window(&rack), 10, "a quarter of the least round trip");
        rack.on_duplicate(&snd);
        rack.on_duplicate(&snd);
        assert_eq!(window(&rack), 20, "once a round");
        for round in 1..30 {
            snd.nxt = iss.add(round * 1000);
            rack.on_progress(snd.nxt);
            rack.on_duplicate(&snd);
        }
        assert_eq!(window(&rack), 80, "no more than a round trip");
        for _ in 0..PERSIST {
            assert_eq!(window(&rack), 80);
            rack.on_recovered();
        }
        assert_eq!(window(&rack), 10);
    }
}
