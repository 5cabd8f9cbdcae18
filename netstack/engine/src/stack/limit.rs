//! Rate limits for answers that strangers can provoke.

use super::hash::Keyed;
use crate::time::{Duration, Instant};

/// A token bucket that strangers share. What one of them gets out of it would tell how much another took
/// (CVE-2016-5696), so an answer costs no, one or two tokens, as a secret key says.
#[derive(Debug)]
pub(super) struct Limit {
    interval: Duration,
    burst: u32,
    tokens: u32,
    filled: Instant,
    costs: Keyed,
    /// Answers so far.
    passed: u64,
}

impl Limit {
    /// `per_second` (1 to 10^9) on average, and about as many at once.
    pub(super) fn per_second(per_second: u32, now: Instant, costs: Keyed) -> Limit {
        Limit {
            interval: Duration::from_nanos(1_000_000_000 / u64::from(per_second.max(1))),
            burst: per_second,
            tokens: per_second,
            filled: now,
            costs,
            passed: 0,
        }
    }

    /// Whether one more may pass at `now`.
    pub(super) fn allow(&mut self, now: Instant) -> bool {
        let interval = (self.interval.as_nanos() as u64).max(1);
        let earned = (now.since(self.filled).as_nanos() as u64) / interval;
        if earned >= u64::from(self.burst) {
            self.tokens = self.burst;
            self.filled = now;
        } else {
            self.tokens = (self.tokens + earned as u32).min(self.burst);
            self.filled += Duration::from_nanos(earned * interval);
        }
        if self.tokens == 0 {
            return false;
        }
        let cost = (self.costs.hash_words(&[self.passed]) % 3) as u32;
        self.passed = self.passed.wrapping_add(1);
        self.tokens = self.tokens.saturating_sub(cost);
        true
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    /// How many of many pass at `now`.
    fn burst(limit: &mut Limit, now: Instant) -> usize {
        (0..10_000).filter(|_| limit.allow(now)).count()
    }

    #[test]
    fn a_burst_empties_the_bucket_and_time_refills_it() {
        let mut limit = Limit::per_second(1000, Instant::ZERO, Keyed::new([1, 2]));
        let passed = burst(&mut limit, Instant::ZERO);
        assert!((800..=1200).contains(&passed), "{passed}");
        assert_eq!(burst(&mut limit, Instant::from_nanos(999_999)), 0);
        assert!(limit.allow(Instant::from_millis(1)));
        let passed = burst(&mut limit, Instant::from_millis(501));
        assert!((400..=600).contains(&passed), "{passed}");
        let passed = burst(&mut limit, Instant::from_millis(1_000_000));
        assert!((800..=1200).contains(&passed), "{passed}");
    }

    #[test]
    fn how_many_pass_does_not_tell_how_many_went_before() {
        let mut limit = Limit::per_second(1000, Instant::ZERO, Keyed::new([1, 2]));
        let at = |second: u64| Instant::from_millis(1000 * second);
        let mut counts: Vec<usize> = (0..20).map(|n| burst(&mut limit, at(n))).collect();
        counts.sort_unstable();
        counts.dedup();
        assert!(counts.len() > 10, "{counts:?}");
        // Nobody else's bucket drains like this one.
        let mut other = Limit::per_second(1000, Instant::ZERO, Keyed::new([1, 3]));
        let first = burst(&mut other, Instant::ZERO);
        let mut again = Limit::per_second(1000, Instant::ZERO, Keyed::new([1, 2]));
        assert_ne!(burst(&mut again, Instant::ZERO), first);
    }
}
