//! Integer time. The stack never reads a clock: every `handle_*` and `poll_*` is told the time.

use core::ops::{Add, AddAssign, Sub};

pub use core::time::Duration;

/// A point on the instance's monotonic clock, in nanoseconds since an arbitrary origin.
///
/// Points before the origin exist: a connection that arrives from another machine remembers things
/// older than the clock of the one it arrives at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Instant(i64);

impl Instant {
    /// The clock's origin.
    pub const ZERO: Instant = Instant(0);

    /// A point `nanos` nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Instant {
        Instant(signed(nanos))
    }

    /// A point `millis` milliseconds after the origin.
    pub const fn from_millis(millis: u64) -> Instant {
        Instant(signed(millis.saturating_mul(1_000_000)))
    }

    /// Nanoseconds since the origin; zero for a point before it.
    pub const fn as_nanos(self) -> u64 {
        if self.0 < 0 { 0 } else { self.0 as u64 }
    }

    /// Microseconds since the origin, rounded down.
    pub const fn as_micros(self) -> u64 {
        self.as_nanos() / 1_000
    }

    /// Milliseconds since the origin, rounded down.
    pub const fn as_millis(self) -> u64 {
        self.as_nanos() / 1_000_000
    }

    /// Milliseconds since the origin modulo 2^32: a timestamp clock (RFC 7323 section 5.4) that
    /// runs through the origin without a step.
    pub const fn wrapping_millis(self) -> u32 {
        self.0.div_euclid(1_000_000) as u32
    }

    /// Time from `earlier` to `self`; zero if `earlier` is later.
    pub const fn since(self, earlier: Instant) -> Duration {
        let nanos = self.0.saturating_sub(earlier.0);
        Duration::from_nanos(if nanos < 0 { 0 } else { nanos as u64 })
    }
}

/// `nanos`, saturating at 292 years.
const fn signed(nanos: u64) -> i64 {
    if nanos > i64::MAX as u64 {
        i64::MAX
    } else {
        nanos as i64
    }
}

/// `duration` in whole nanoseconds, saturating at 292 years.
const fn nanos(duration: Duration) -> i64 {
    let nanos = duration.as_nanos();
    if nanos > i64::MAX as u128 {
        i64::MAX
    } else {
        nanos as i64
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_add(nanos(duration)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub<Duration> for Instant {
    type Output = Instant;
    fn sub(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_sub(nanos(duration)))
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, Instant};

    #[test]
    fn ages_beyond_the_origin_are_kept() {
        let now = Instant::from_millis(5);
        let old = now - Duration::from_secs(3600);
        assert_eq!(now.since(old), Duration::from_secs(3600));
        assert_eq!(old.since(now), Duration::ZERO);
        assert_eq!(old.as_nanos(), 0);
    }
}
