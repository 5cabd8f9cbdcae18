//! Integer time. The stack never reads a clock: every `handle_*` and `poll_*` is told the time.

use core::fmt;
use core::num::NonZeroU64;
use core::ops::{Add, AddAssign, Sub};

pub use core::time::Duration;

/// A point on the instance's monotonic clock, in nanoseconds since an arbitrary origin.
///
/// Points before the origin exist: a connection that arrives from another machine remembers things
/// older than the clock of the one it arrives at.
///
/// Never zero inside, so that an `Option<Instant>` takes no more room: connections hold many.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(NonZeroU64);

/// The number that stands for the origin: those of earlier points are smaller.
const ORIGIN: u64 = 1 << 63;

impl Instant {
    /// The clock's origin.
    pub const ZERO: Instant = Instant::at(0);

    /// The point `nanos` after (or before) the origin; the very first one there is counts as the second.
    const fn at(nanos: i64) -> Instant {
        match NonZeroU64::new((nanos as u64) ^ ORIGIN) {
            Some(point) => Instant(point),
            None => Instant(NonZeroU64::MIN),
        }
    }

    /// Nanoseconds from the origin.
    const fn offset(self) -> i64 {
        (self.0.get() ^ ORIGIN) as i64
    }

    /// A point `nanos` nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Instant {
        Instant::at(signed(nanos))
    }

    /// A point `millis` milliseconds after the origin.
    pub const fn from_millis(millis: u64) -> Instant {
        Instant::at(signed(millis.saturating_mul(1_000_000)))
    }

    /// Nanoseconds since the origin; zero for a point before it.
    pub const fn as_nanos(self) -> u64 {
        let nanos = self.offset();
        if nanos < 0 { 0 } else { nanos as u64 }
    }

    /// A number that is larger the later the point is, before the origin too.
    pub const fn order(self) -> u64 {
        self.0.get()
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
        self.offset().div_euclid(1_000_000) as u32
    }

    /// Time from `earlier` to `self`; zero if `earlier` is later.
    pub const fn since(self, earlier: Instant) -> Duration {
        let nanos = self.offset().saturating_sub(earlier.offset());
        Duration::from_nanos(if nanos < 0 { 0 } else { nanos as u64 })
    }
}

impl Default for Instant {
    fn default() -> Instant {
        Instant::ZERO
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Instant({})", self.offset())
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
        Instant::at(self.offset().saturating_add(nanos(duration)))
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
        Instant::at(self.offset().saturating_sub(nanos(duration)))
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
        assert!(old < now && now > Instant::ZERO && Instant::ZERO > old);
    }

    #[test]
    fn the_ends_of_time_saturate() {
        let ever = Duration::from_secs(u64::MAX);
        let (first, last) = (Instant::ZERO - ever, Instant::ZERO + ever);
        assert_eq!((first - ever, last + ever), (first, last));
        assert!(first < Instant::ZERO && last > Instant::ZERO);
    }

    #[test]
    fn an_absent_instant_takes_no_more_room() {
        assert_eq!(size_of::<Option<Instant>>(), 8);
    }
}
