//! The clock that KVM (and Xen) keeps for a guest in a page of the guest's memory: how fast the time
//! stamp counter runs on the machine underneath, and what the time was at one of its readings.
//!
//! The host changes the page at will, and makes its version odd meanwhile. Layout: the Linux kernel's
//! documentation, `virt/kvm/x86/msr`.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// The page, as the host writes it.
#[derive(Debug, Default)]
#[repr(C, align(32))]
pub struct TimePage {
    version: AtomicU32,
    padding: AtomicU32,
    counter: AtomicU64,
    time: AtomicU64,
    multiplier: AtomicU32,
    /// Shift (signed), flags, padding.
    shift: AtomicU32,
}

/// When the host's clock of the guest was 0, as the host writes it.
#[derive(Debug, Default)]
#[repr(C, align(16))]
pub struct WallPage {
    version: AtomicU32,
    seconds: AtomicU32,
    nanoseconds: AtomicU32,
}

/// One version of a [`TimePage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    counter: u64,
    time: u64,
    multiplier: u32,
    shift: i8,
}

/// Runs `read` until the version is even and the same before and after; not for ever.
fn steady<T>(version: &AtomicU32, read: impl Fn() -> T) -> Option<T> {
    (0..100).find_map(|_| {
        let before = version.load(Ordering::Acquire);
        let value = read();
        fence(Ordering::Acquire);
        let still = before & 1 == 0 && before != 0 && version.load(Ordering::Relaxed) == before;
        still.then_some(value)
    })
}

impl TimePage {
    /// A page nobody has written to.
    pub const fn new() -> Self {
        Self {
            version: AtomicU32::new(0),
            padding: AtomicU32::new(0),
            counter: AtomicU64::new(0),
            time: AtomicU64::new(0),
            multiplier: AtomicU32::new(0),
            shift: AtomicU32::new(0),
        }
    }

    /// What the page says. `None`: nothing, or it is never at rest.
    pub fn read(&self) -> Option<Reading> {
        let reading = steady(&self.version, || Reading {
            counter: self.counter.load(Ordering::Relaxed),
            time: self.time.load(Ordering::Relaxed),
            multiplier: self.multiplier.load(Ordering::Relaxed),
            shift: self.shift.load(Ordering::Relaxed) as i8,
        });
        reading.filter(|reading| reading.multiplier != 0 && reading.shift.unsigned_abs() < 32)
    }
}

impl Reading {
    /// Ticks of the counter in a second.
    pub fn hertz(&self) -> u64 {
        let whole = (1_000_000_000u64 << 32) / u64::from(self.multiplier.max(1));
        match self.shift {
            shift @ 0.. => whole >> shift,
            shift => whole << -shift,
        }
    }

    /// Nanoseconds on the host's clock of the guest when the counter is at `counter`.
    pub fn nanoseconds(&self, counter: u64) -> u64 {
        let passed = u128::from(counter.saturating_sub(self.counter));
        let scaled = match self.shift {
            shift @ 0.. => passed << shift,
            shift => passed >> -shift,
        };
        let passed = (scaled * u128::from(self.multiplier)) >> 32;
        self.time.saturating_add(passed as u64)
    }
}

impl WallPage {
    /// A page nobody has written to.
    pub const fn new() -> Self {
        Self {
            version: AtomicU32::new(0),
            seconds: AtomicU32::new(0),
            nanoseconds: AtomicU32::new(0),
        }
    }

    /// Nanoseconds from 1970 to when the host's clock of the guest was 0.
    pub fn read(&self) -> Option<u64> {
        steady(&self.version, || {
            let seconds = u64::from(self.seconds.load(Ordering::Relaxed));
            seconds * 1_000_000_000 + u64::from(self.nanoseconds.load(Ordering::Relaxed))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a host writes for a counter of this frequency.
    fn page(multiplier: u32, shift: i8, counter: u64, time: u64) -> TimePage {
        let page = TimePage::new();
        page.version.store(2, Ordering::Relaxed);
        page.counter.store(counter, Ordering::Relaxed);
        page.time.store(time, Ordering::Relaxed);
        page.multiplier.store(multiplier, Ordering::Relaxed);
        // A flag beside the shift must not matter.
        let shift = u32::from(shift as u8) | 1 << 8;
        page.shift.store(shift, Ordering::Relaxed);
        page
    }

    #[test]
    fn on_a_fake_page_the_scale_is_that_of_the_host() {
        // 2.5 GHz: 0.4 ns a tick = 0.8 * 2^-1. 500 MHz: 2 ns = 0.5 * 2^2.
        let fast = page(3_435_973_837, -1, 1_000, 5_000).read().unwrap();
        assert_eq!(fast.hertz() / 1000, 2_500_000 - 1);
        assert_eq!(fast.nanoseconds(1_000), 5_000);
        assert_eq!(fast.nanoseconds(1_000 + 2_500_000_000), 1_000_005_000);
        let slow = page(1 << 31, 2, 0, 0).read().unwrap();
        assert_eq!(slow.hertz(), 500_000_000);
        assert_eq!(slow.nanoseconds(1 << 60), 1 << 61, "no overflow in years");
    }

    #[test]
    fn on_a_fake_page_a_counter_behind_the_page_is_not_the_far_future() {
        let reading = page(1 << 31, 1, 1_000, 5_000).read().unwrap();
        assert_eq!(reading.nanoseconds(999), 5_000);
    }

    #[test]
    fn on_a_fake_page_nothing_is_believed_that_is_being_written_or_absurd() {
        for version in [0, 3] {
            let page = page(1 << 31, 1, 0, 0);
            page.version.store(version, Ordering::Relaxed);
            assert_eq!(page.read(), None, "version {version}");
        }
        assert_eq!(page(0, 1, 0, 0).read(), None);
        assert_eq!(page(1, 32, 0, 0).read(), None);
        assert_eq!(page(1, i8::MIN, 0, 0).read(), None);
    }

    #[test]
    fn a_fake_page_that_changes_while_it_is_read_is_read_again() {
        let version = AtomicU32::new(2);
        let tries = AtomicU32::new(0);
        let value = steady(&version, || {
            let tries = tries.fetch_add(1, Ordering::Relaxed);
            version.fetch_add(if tries < 3 { 2 } else { 0 }, Ordering::Relaxed);
            tries
        });
        assert_eq!(value, Some(3), "the first that nobody wrote into");
    }

    #[test]
    fn a_fake_wall_clock_is_in_nanoseconds() {
        let page = WallPage::new();
        assert_eq!(page.read(), None);
        page.seconds.store(1_700_000_000, Ordering::Relaxed);
        page.nanoseconds.store(7, Ordering::Relaxed);
        page.version.store(2, Ordering::Relaxed);
        assert_eq!(page.read(), Some(1_700_000_000_000_000_007));
    }
}
