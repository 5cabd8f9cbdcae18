//! The SACK scoreboard (RFC 2018, RFC 2883): what the peer reports to hold, entered in the marks
//! of what we sent.

use super::options::{SackRange, SackRanges};
use super::snd::{Marks, SentSegment, Snd};
use crate::seq::SeqNumber;

/// The first range of `ranges` if it reports a duplicate (RFC 2883 section 4): it lies below the
/// acknowledgement, or inside the second range.
pub(crate) fn duplicate(ack: SeqNumber, ranges: &SackRanges) -> Option<SackRange> {
    let (first, second) = match ranges.as_slice() {
        [] => return None,
        [first] => (first, None),
        [first, second, ..] => (first, Some(second)),
    };
    let below = first.end.at_or_before(ack);
    let inside = second.is_some_and(|second| {
        first.start.at_or_after(second.start) && first.end.at_or_before(second.end)
    });
    (first.start.before(first.end) && (below || inside)).then_some(*first)
}

impl Snd {
    /// Enter the ranges of an ACK, telling `each` of every segment that is news. Ranges outside
    /// what is outstanding are ignored. Returns the octets that are news.
    pub fn apply_sack(&mut self, ranges: &SackRanges, mut each: impl FnMut(&SentSegment)) -> u32 {
        let before = self.sacked;
        let mut seen = SackRanges::EMPTY;
        for range in ranges.as_slice() {
            let valid = range.start.before(range.end)
                && range.start.at_or_after(self.una)
                && range.start.before(self.nxt)
                && range.end.at_or_before(self.nxt);
            if !valid {
                continue;
            }
            let entered = match self.unseen(*range) {
                Some(fresh) => self.mark_sacked(fresh, &mut each),
                None => true,
            };
            if entered {
                seen.push(*range);
            }
        }
        **self.sack_seen.get_or_insert_default() = seen;
        self.sacked - before
    }

    /// The part of `range` that the last ACK did not report: a range mostly grows at one end.
    fn unseen(&self, mut range: SackRange) -> Option<SackRange> {
        let seen = self.sack_seen.iter().flat_map(|seen| seen.as_slice());
        for seen in seen {
            if range.start.at_or_after(seen.start) && range.start.before(seen.end) {
                range.start = seen.end;
            }
            if range.end.at_or_before(seen.end) && range.end.after(seen.start) {
                range.end = seen.start;
            }
            if !range.start.before(range.end) {
                return None;
            }
        }
        Some(range)
    }

    /// Returns whether all of the range was entered: of a segment that may not be split any more no
    /// part is, which is as if the peer had not reported it.
    fn mark_sacked(&mut self, range: SackRange, each: &mut impl FnMut(&SentSegment)) -> bool {
        let mut whole = true;
        let mut index = self.index_of(range.start);
        while let Some(segment) = self.sent.get(index) {
            if !segment.seq.before(range.end) {
                break;
            }
            let sacked = segment.marks.has(Marks::SACKED);
            let begins_before = segment.seq.before(range.start);
            let ends_after = segment.end().after(range.end);
            if !sacked && (begins_before || ends_after) && !self.may_split() {
                whole = false;
                index += 1;
                continue;
            }
            if begins_before {
                if !sacked {
                    self.split(index, range.start.distance_from(segment.seq));
                }
                index += 1;
                continue;
            }
            if !sacked {
                if ends_after {
                    self.split(index, range.end.distance_from(segment.seq));
                }
                if let Some(segment) = self.sent.get_mut(index) {
                    each(segment);
                    if segment.marks.has(Marks::LOST) {
                        self.lost -= segment.len;
                    }
                    if segment.marks.has(Marks::RETRANSMITTED) {
                        self.retransmitted -= segment.len;
                    }
                    segment.marks.clear(Marks::LOST | Marks::RETRANSMITTED);
                    segment.marks.set(Marks::SACKED);
                    self.sacked += segment.len;
                }
            }
            index += 1;
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Instant;
    use alloc::vec::Vec;
    use bytes::Bytes;

    fn sent(count: u32) -> Snd {
        let mut snd = Snd::new(SeqNumber::new(u32::MAX - 1500), 1000);
        snd.queue
            .push(Bytes::from(alloc::vec![0; 1000 * count as usize]));
        for n in 0..count {
            snd.record_new(Instant::from_millis(n.into()), 1000, false);
        }
        snd
    }

    fn ranges(snd: &Snd, list: &[(u32, u32)]) -> SackRanges {
        let mut ranges = SackRanges::EMPTY;
        for (start, end) in list {
            ranges.push(SackRange {
                start: snd.iss.add(*start),
                end: snd.iss.add(*end),
            });
        }
        ranges
    }

    #[test]
    fn every_segment_is_news_once() {
        let mut snd = sent(10);
        let mut news = Vec::new();
        for list in [
            &[(2000, 3000)][..],
            &[(2000, 5000)],
            &[(6000, 8000), (2000, 5000)],
            &[(2000, 8000)],
            &[(2000, 8000)],
            &[(9000, 11000)], // beyond SND.NXT: a lie
        ] {
            let ranges = ranges(&snd, list);
            snd.apply_sack(&ranges, |segment| {
                news.push(segment.seq.distance_from(SeqNumber::new(u32::MAX - 1500)))
            });
            assert_eq!(snd.recount(), (snd.sacked, snd.lost, snd.retransmitted));
        }
        assert_eq!(news, [2000, 3000, 4000, 6000, 7000, 5000]);
        assert_eq!(snd.sacked, 6000);
    }

    #[test]
    fn a_range_inside_a_segment_splits_it() {
        let mut snd = sent(3);
        let ranges = ranges(&snd, &[(1200, 1500)]);
        assert_eq!(snd.apply_sack(&ranges, |_| {}), 300);
        let lens: Vec<u32> = snd.sent.iter().map(|segment| segment.len).collect();
        assert_eq!(lens, [1000, 200, 300, 500, 1000]);
        let una = snd.iss.add(1300);
        snd.acknowledge(una, |_| {});
        assert_eq!(snd.recount(), (200, 0, 0));
    }

    /// CVE-2019-11478: what is remembered for a window is bounded by its segments, not by its octets.
    #[test]
    fn reports_of_single_octets_do_not_split_without_bound() {
        let mut snd = sent(1000);
        for at in (1..1_000_000).step_by(2) {
            let ranges = ranges(&snd, &[(at, at + 1)]);
            snd.apply_sack(&ranges, |_| {});
        }
        let most = 1_000_000 / 512 + 66;
        assert!(snd.sent.len() <= most, "{} entries", snd.sent.len());
        assert_eq!(snd.recount(), (snd.sacked, 0, 0));
        // What is reported whole is entered all the same, and what was refused is no longer.
        let rest = ranges(&snd, &[(900_000, 950_000)]);
        assert!(snd.apply_sack(&rest, |_| {}) >= 49_000);
        let part = ranges(&snd, &[(960_001, 960_002)]);
        assert_eq!(snd.apply_sack(&part, |_| {}), 0, "too many");
        let una = snd.iss.add(955_000);
        snd.acknowledge(una, |_| {});
        assert_eq!(
            snd.apply_sack(&part, |_| {}),
            1,
            "reported again, and taken"
        );
    }

    #[test]
    fn small_segments_are_remembered_together_where_a_capsule_would_not_take_more() {
        let mut snd = Snd::new(SeqNumber::new(0), 1000);
        snd.queue.push(Bytes::from(alloc::vec![0; 20_000]));
        for n in 0..20_000 {
            snd.record_new(Instant::from_millis(n), 1, n == 19_999);
        }
        assert_eq!(snd.sent.len(), super::super::snd::MAX_ENTRIES);
        let last = snd.sent.back().copied().unwrap();
        assert_eq!((last.end(), last.marks.0), (snd.nxt, Marks::FIN));
    }

    #[test]
    fn a_range_that_is_a_lie_is_not_taken_for_seen() {
        let mut snd = sent(2);
        let lie = ranges(&snd, &[(1000, 4000)]);
        assert_eq!(snd.apply_sack(&lie, |_| {}), 0);
        for at in 2..4 {
            snd.queue.push(Bytes::from(alloc::vec![0; 1000]));
            snd.record_new(Instant::from_millis(at), 1000, false);
        }
        let truth = ranges(&snd, &[(1000, 3000)]);
        assert_eq!(snd.apply_sack(&truth, |_| {}), 2000);
    }

    #[test]
    fn duplicates_are_told_from_holes() {
        let snd = sent(5);
        let at = |n| snd.iss.add(n);
        assert!(duplicate(at(2000), &ranges(&snd, &[(1000, 2000)])).is_some());
        assert!(duplicate(at(1000), &ranges(&snd, &[(3000, 4000), (2000, 5000)])).is_some());
        assert!(duplicate(at(1000), &ranges(&snd, &[(3000, 4000), (1000, 2000)])).is_none());
    }
}
