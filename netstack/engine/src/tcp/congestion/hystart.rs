//! HyStart++ (RFC 9406): leave the first slow start when round trips grow, before the queue that
//! makes them grow overflows. Its limit L is [`super::Congestion`]'s to observe.

use crate::seq::SeqNumber;
use crate::time::Duration;

/// Bounds of the growth of a round's smallest sample that counts, in microseconds.
const MIN_RTT_THRESH: u32 = 4_000;
const MAX_RTT_THRESH: u32 = 16_000;
/// That growth as a share of the smallest sample of the round before.
const MIN_RTT_DIVISOR: u32 = 8;
/// Samples of a round before it is judged.
const N_RTT_SAMPLE: u8 = 8;
/// Conservative slow start grows by this share of what slow start would.
pub(crate) const CSS_GROWTH_DIVISOR: u32 = 4;
/// Rounds of conservative slow start before it ends.
const CSS_ROUNDS: u8 = 5;
/// No sample yet.
const INFINITE: u32 = u32::MAX;

/// State of the first slow start. Times are microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HyStart {
    /// SND.NXT when the round began: it ends when that is acknowledged (windowEnd).
    pub end: SeqNumber,
    /// Smallest sample of the round before (lastRoundMinRTT).
    pub last: u32,
    /// Smallest sample of this round (currentRoundMinRTT).
    pub current: u32,
    /// Smallest sample when conservative slow start began (cssBaselineMinRtt); infinite outside it.
    pub baseline: u32,
    /// Samples of this round.
    pub samples: u8,
    /// Rounds of conservative slow start.
    pub rounds: u8,
}

impl Default for HyStart {
    fn default() -> HyStart {
        HyStart {
            end: SeqNumber::default(),
            last: INFINITE,
            current: INFINITE,
            baseline: INFINITE,
            samples: 0,
            rounds: 0,
        }
    }
}

impl HyStart {
    /// Whether slow start is conservative at present.
    pub fn is_conservative(&self) -> bool {
        self.baseline != INFINITE
    }

    /// Take in an acknowledgement of everything before `una`, with `nxt` the next to be sent and
    /// perhaps a round-trip sample. True if slow start ends here (section 4.2).
    pub fn on_ack(&mut self, una: SeqNumber, nxt: SeqNumber, sample: Option<Duration>) -> bool {
        let begun = self.samples > 0 || self.current != INFINITE || self.last != INFINITE;
        if !begun {
            self.end = nxt;
        } else if una.at_or_after(self.end) {
            self.last = self.current;
            self.current = INFINITE;
            self.samples = 0;
            self.end = nxt;
            if self.is_conservative() {
                self.rounds += 1;
                if self.rounds >= CSS_ROUNDS {
                    return true;
                }
            }
        }
        let Some(sample) = sample else {
            return false;
        };
        let sample = u32::try_from(sample.as_micros()).unwrap_or(INFINITE - 1);
        self.current = self.current.min(sample);
        self.samples = self.samples.saturating_add(1);
        if self.samples < N_RTT_SAMPLE || self.last == INFINITE {
            return false;
        }
        if self.is_conservative() {
            if self.current < self.baseline {
                // The growth was a passing one.
                self.baseline = INFINITE;
                self.rounds = 0;
            }
            return false;
        }
        let grown = (self.last / MIN_RTT_DIVISOR).clamp(MIN_RTT_THRESH, MAX_RTT_THRESH);
        if self.current >= self.last.saturating_add(grown) {
            self.baseline = self.current;
            self.rounds = 0;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds of ten samples of `millis` each; how many rounds passed when slow start ended.
    fn rounds(hystart: &mut HyStart, list: &[u64]) -> Option<usize> {
        for (round, millis) in list.iter().enumerate() {
            for n in 0..10u32 {
                let una = hystart.end.add(u32::from(n == 0 && hystart.samples > 0));
                let una = match n {
                    0 => una,
                    _ => hystart.end.sub(1),
                };
                let sample = Some(Duration::from_millis(*millis));
                if hystart.on_ack(una, una.add(1000), sample) {
                    return Some(round);
                }
            }
        }
        None
    }

    #[test]
    fn growing_round_trips_end_slow_start_after_five_conservative_rounds() {
        let mut hystart = HyStart::default();
        assert_eq!(rounds(&mut hystart, &[50, 50, 51, 52]), None);
        assert!(!hystart.is_conservative());
        assert_eq!(rounds(&mut hystart, &[60]), None);
        assert!(hystart.is_conservative());
        assert_eq!(rounds(&mut hystart, &[70, 80, 90, 100, 110, 120]), Some(4));
    }

    /// RFC 9406 section 4.3: MIN_RTT_THRESH, MAX_RTT_THRESH, MIN_RTT_DIVISOR, N_RTT_SAMPLE.
    #[test]
    fn growth_counts_from_an_eighth_within_4_to_16_ms_and_from_the_eighth_sample_on() {
        // Whether a round of `samples` samples makes slow start conservative, after one of `before`.
        let conservative = |before: u64, now: u64, samples: usize| {
            let mut hystart = HyStart::default();
            let sample = |micros| Some(Duration::from_micros(micros));
            let una = SeqNumber::new(1000);
            for _ in 0..8 {
                hystart.on_ack(una, una.add(1000), sample(before));
            }
            let una = una.add(1000);
            for _ in 0..samples {
                hystart.on_ack(una, una.add(1000), sample(now));
            }
            hystart.is_conservative()
        };
        for (before, enough) in [
            (10_000, 4_000),
            (31_992, 4_000),
            (80_000, 10_000),
            (120_000, 15_000),
            (128_008, 16_000),
            (400_000, 16_000),
        ] {
            assert!(!conservative(before, before + enough - 1, 8), "{before}");
            assert!(conservative(before, before + enough, 8), "{before}");
            assert!(!conservative(before, before + enough, 7), "{before}");
        }
    }

    #[test]
    fn a_passing_growth_is_forgiven() {
        let mut hystart = HyStart::default();
        assert_eq!(rounds(&mut hystart, &[50, 50, 60]), None);
        assert!(hystart.is_conservative());
        assert_eq!(rounds(&mut hystart, &[50, 50, 50, 50, 50, 50, 50]), None);
        assert!(!hystart.is_conservative());
    }
}
