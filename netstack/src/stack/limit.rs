//! Rate limits for answers that strangers can provoke.

use crate::time::{Duration, Instant};

/// A token bucket.
#[derive(Debug)]
pub(super) struct Limit {
    interval: Duration,
    burst: u32,
    tokens: u32,
    filled: Instant,
}

impl Limit {
    /// At most `per_second` (1 to 10^9) on average, and as many at once.
    pub(super) fn per_second(per_second: u32, now: Instant) -> Limit {
        Limit {
            interval: Duration::from_nanos(1_000_000_000 / u64::from(per_second.max(1))),
            burst: per_second,
            tokens: per_second,
            filled: now,
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
        self.tokens -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_empties_the_bucket_and_time_refills_it() {
        let mut limit = Limit::per_second(10, Instant::ZERO);
        let passed = (0..100).filter(|_| limit.allow(Instant::ZERO)).count();
        assert_eq!(passed, 10);
        assert!(!limit.allow(Instant::from_millis(99)));
        assert!(limit.allow(Instant::from_millis(100)));
        assert!(!limit.allow(Instant::from_millis(101)));
        let later = Instant::from_millis(1_000_000);
        assert_eq!((0..100).filter(|_| limit.allow(later)).count(), 10);
    }
}
