//! Time: nanoseconds since the image's first instruction, from the time stamp counter; and the
//! date, from the real-time clock, the host ([`kvm`]) or a time server.
//!
//! A virtual machine may be stopped, stored and go on elsewhere. Its counter then stands still, jumps
//! ahead, runs at another pace or goes back; [`now_ns`] does not go back and does not stand still
//! ([`Steady`]). What the date has to say about it is in [`History`].

pub mod kvm;

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, compiler_fence};

use crate::arch::x86_64::cpu;

static CLOCK: Steady = Steady::new();
/// Nanoseconds since 1970 at 0 on our clock; 0: not known.
static EPOCH: AtomicU64 = AtomicU64::new(0);

/// How to turn counter ticks into nanoseconds: multiply and shift.
#[derive(Debug)]
pub struct Scale {
    multiplier: AtomicU64,
    shift: AtomicU32,
}

impl Scale {
    /// The scale of a counter of `hertz` ticks a second (at least 1000).
    pub const fn new(hertz: u64) -> Self {
        let (multiplier, shift) = Self::factors(hertz);
        Self {
            multiplier: AtomicU64::new(multiplier),
            shift: AtomicU32::new(shift),
        }
    }

    const fn factors(hertz: u64) -> (u64, u32) {
        let hertz = if hertz < 1000 { 1000 } else { hertz };
        let shift = 32;
        let multiplier = ((1_000_000_000u128 << shift) + hertz as u128 / 2) / hertz as u128;
        (multiplier as u64, shift)
    }

    fn set(&self, hertz: u64) {
        let (multiplier, shift) = Self::factors(hertz);
        self.multiplier.store(multiplier, Ordering::Relaxed);
        self.shift.store(shift, Ordering::Relaxed);
    }

    /// Nanoseconds in `ticks`.
    #[inline]
    pub fn nanoseconds(&self, ticks: u64) -> u64 {
        let multiplier = u128::from(self.multiplier.load(Ordering::Relaxed));
        ((u128::from(ticks) * multiplier) >> self.shift.load(Ordering::Relaxed)) as u64
    }

    /// Ticks in `ns`.
    #[cfg_attr(not(godwit_image), allow(dead_code))]
    fn ticks(&self, ns: u64) -> u64 {
        let shift = self.shift.load(Ordering::Relaxed);
        let multiplier = u128::from(self.multiplier.load(Ordering::Relaxed)).max(1);
        ((u128::from(ns) << shift) / multiplier) as u64
    }
}

/// A time that never goes back, from a counter that may: one that does is another machine's, or the
/// same one's after a boot, and time goes on from the last reading.
#[derive(Debug)]
pub struct Steady {
    scale: Scale,
    /// A reading of the counter, and the time it stands for.
    origin: (AtomicU64, AtomicU64),
    last: AtomicU64,
}

impl Steady {
    /// A clock that is at 0 when its counter is.
    #[allow(clippy::new_without_default, reason = "for a static")]
    pub const fn new() -> Self {
        Self {
            scale: Scale::new(1_000_000_000),
            origin: (AtomicU64::new(0), AtomicU64::new(0)),
            last: AtomicU64::new(0),
        }
    }

    /// The time, by what `read` reads now.
    #[inline]
    pub fn now(&self, read: impl FnOnce() -> u64) -> u64 {
        // Before the counter is read: if an interrupt comes between, its reading is the later one,
        // and must not make ours look like a step back.
        let last = self.last.load(Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        let counter = read();
        if counter < last {
            self.go_on(last, counter);
        }
        self.last.store(counter, Ordering::Relaxed);
        self.at(counter)
    }

    #[inline]
    fn at(&self, counter: u64) -> u64 {
        let (origin, time) = &self.origin;
        let ticks = counter.saturating_sub(origin.load(Ordering::Relaxed));
        time.load(Ordering::Relaxed) + self.scale.nanoseconds(ticks)
    }

    /// From now on `counter` stands for the time that `last` did.
    #[cold]
    fn go_on(&self, last: u64, counter: u64) {
        self.origin.1.store(self.at(last), Ordering::Relaxed);
        self.origin.0.store(counter, Ordering::Relaxed);
    }

    /// From `counter` on there are so many ticks in a second.
    #[cfg_attr(not(godwit_image), allow(dead_code))]
    fn change_pace(&self, counter: u64, hertz: u64) {
        self.go_on(counter, counter);
        self.scale.set(hertz);
    }
}

/// Nanoseconds since the first instruction. Never goes back.
#[inline]
pub fn now_ns() -> u64 {
    CLOCK.now(cpu::tsc)
}

/// Counter ticks since the first instruction: for boot, before the scale is known.
#[inline]
pub(crate) fn ticks() -> u64 {
    cpu::tsc().saturating_sub(CLOCK.origin.0.load(Ordering::Relaxed))
}

/// Nanoseconds in counter ticks.
pub(crate) fn to_ns(ticks: u64) -> u64 {
    CLOCK.scale.nanoseconds(ticks)
}

/// What the counter will read in `ns`.
#[cfg(godwit_image)]
pub(crate) fn counter_in(ns: u64) -> u64 {
    cpu::tsc().saturating_add(CLOCK.scale.ticks(ns))
}

#[cfg(godwit_image)]
pub(crate) fn set_entry(tsc: u64) {
    CLOCK.origin.0.store(tsc, Ordering::Relaxed);
}

/// At boot: the counter has always run at this pace.
#[cfg(godwit_image)]
pub(crate) fn set_frequency(hertz: u64) {
    CLOCK.scale.set(hertz);
}

/// The machine underneath is another one, with a counter that runs at this pace.
#[cfg(godwit_image)]
pub(crate) fn change_frequency(hertz: u64) {
    CLOCK.change_pace(cpu::tsc(), hertz);
}

/// Nanoseconds since 1970 (UTC) at the present moment, or `None` if nobody has told the date.
pub fn unix_ns() -> Option<u64> {
    match EPOCH.load(Ordering::Relaxed) {
        0 => None,
        epoch => Some(epoch + now_ns()),
    }
}

/// Seconds since 1970 (UTC).
pub fn unix_seconds() -> Option<u64> {
    unix_ns().map(|ns| ns / 1_000_000_000)
}

/// Sets the date: `unix_ns` nanoseconds since 1970 at the present moment.
pub fn set_date(unix_ns: u64) {
    EPOCH.store(unix_ns.saturating_sub(now_ns()), Ordering::Relaxed);
}

/// How the date and our clock went so far. The date (of a clock with a battery, or of the host) goes
/// on while the machine is stopped, ours need not.
#[derive(Clone, Copy, Debug, Default)]
pub struct History {
    /// Seconds that the date was ahead of our clock.
    ahead: Option<i64>,
}

impl History {
    /// A step of the date is one of so many seconds: both readings lack fractions.
    const STEP: u64 = 2;

    /// Takes two readings in whole seconds; by how many the date has gone further than our clock,
    /// or back, since the last readings. 0: as it should.
    pub fn step(&mut self, date: u64, ours: u64) -> i64 {
        let ahead = date.wrapping_sub(ours) as i64;
        // Each time, so that clocks that drift apart slowly do not add up to a step.
        let before = self.ahead.replace(ahead).unwrap_or(ahead);
        let step = ahead.saturating_sub(before);
        if step.unsigned_abs() < Self::STEP {
            0
        } else {
            step
        }
    }
}

/// The registers of an MC146818 real-time clock as read: second, minute, hour, day, month, year,
/// and register B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RtcReading {
    /// Second, minute, hour, day of month, month, year of century.
    pub fields: [u8; 6],
    /// Register B: bit 2 binary, bit 1 24-hour.
    pub format: u8,
}

impl RtcReading {
    /// Seconds since 1970, taking the century to be this one. `None` if the fields make no date.
    pub fn unix_seconds(&self) -> Option<u64> {
        let [second, minute, mut hour, day, month, year] = self.fields;
        let afternoon = self.format & 2 == 0 && hour & 0x80 != 0;
        hour &= 0x7f;
        let decode = |value: u8| {
            if self.format & 4 != 0 {
                Some(u64::from(value))
            } else {
                let (high, low) = (value >> 4, value & 15);
                (high < 10 && low < 10).then(|| u64::from(high * 10 + low))
            }
        };
        let mut hour = decode(hour)?;
        if self.format & 2 == 0 {
            hour = hour % 12 + if afternoon { 12 } else { 0 };
        }
        let (second, minute) = (decode(second)?, decode(minute)?);
        let (day, month, year) = (decode(day)?, decode(month)?, 2000 + decode(year)?);
        if second > 59 || minute > 59 || hour > 23 || day == 0 || day > 31 || year > 2099 {
            return None;
        }
        if !(1..=12).contains(&month) {
            return None;
        }
        // Days since 1970, with years that begin in March so that leap days come last.
        let (year, month) = if month > 2 {
            (year, month - 3)
        } else {
            (year - 1, month + 9)
        };
        let days =
            year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
        Some((days - 719_468) * 86_400 + hour * 3600 + minute * 60 + second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_is_right_to_a_part_in_a_billion_over_a_year() {
        for hertz in [1_000_000_000, 2_399_999_123, 3_579_545, 24_000_000] {
            let year = 365 * 86_400;
            let expected = year * 1_000_000_000u64;
            let got = Scale::new(hertz).nanoseconds(year * hertz);
            assert!(got.abs_diff(expected) < year * 10, "{hertz}: {got}");
        }
    }

    #[test]
    fn ticks_and_nanoseconds_are_each_others_inverse() {
        for hertz in [1_000_000_000, 2_399_999_123, 24_000_000] {
            let scale = Scale::new(hertz);
            for ns in [0, 1_000, 55_000_000, 3_600_000_000_000] {
                let error = scale.nanoseconds(scale.ticks(ns)).abs_diff(ns);
                assert!(error <= 1_000_000_000 / hertz + 1, "{hertz} {ns}: {error}");
            }
        }
    }

    #[test]
    fn a_counter_that_goes_back_takes_no_time_away_and_counts_on() {
        let clock = Steady::new();
        assert_eq!(clock.now(|| 5_000), 5_000);
        // Another machine, which was booted a moment ago.
        assert_eq!(clock.now(|| 7), 5_000);
        assert_eq!(clock.now(|| 107), 5_100);
        assert_eq!(clock.now(|| 0), 5_100);
        assert_eq!(clock.now(|| 1), 5_101);
    }

    #[test]
    fn an_interrupt_that_reads_the_clock_in_between_is_no_step_back() {
        let clock = Steady::new();
        clock.now(|| 100);
        let ours = clock.now(|| {
            assert_eq!(clock.now(|| 300), 300);
            301
        });
        assert_eq!(ours, 301);
    }

    #[test]
    fn another_pace_counts_from_when_it_began() {
        let clock = Steady::new();
        clock.now(|| 1_000);
        clock.change_pace(1_000, 2_000_000_000);
        assert_eq!(clock.now(|| 1_000), 1_000);
        assert_eq!(clock.now(|| 3_000), 2_000);
    }

    #[test]
    fn only_steps_of_the_date_count_and_neither_drift_nor_fractions() {
        let mut history = History::default();
        assert_eq!(history.step(1_700_000_000, 5), 0, "the first reading");
        assert_eq!(history.step(1_700_000_003, 7), 0, "fractions");
        for hour in 1..100 {
            // The date drifts a second an hour.
            let ours = 7 + hour * 3600;
            assert_eq!(history.step(1_700_000_003 + hour * 3601, ours), 0);
        }
        let (date, ours) = (1_700_000_003 + 99 * 3601, 7 + 99 * 3600);
        assert_eq!(history.step(date + 11, ours + 1), 10, "stopped");
        assert_eq!(history.step(date + 13, ours + 3), 0, "told once");
        assert_eq!(history.step(date - 1_000_000, ours + 4), -1_000_014);
        // Absurd, and no panic.
        history.step(i64::MAX as u64, 0);
        history.step(1 << 63, 0);
    }

    #[test]
    fn a_frequency_of_zero_is_not_divided_by() {
        assert!(Scale::new(0).nanoseconds(1) > 0);
    }

    #[test]
    fn dates_in_each_format_are_the_same_second() {
        let binary = RtcReading {
            fields: [7, 6, 17, 29, 2, 24],
            format: 0b110,
        };
        let bcd = RtcReading {
            fields: [0x07, 0x06, 0x17, 0x29, 0x02, 0x24],
            format: 0b010,
        };
        let twelve_hours = RtcReading {
            fields: [0x07, 0x06, 0x85, 0x29, 0x02, 0x24],
            format: 0,
        };
        assert_eq!(binary.unix_seconds(), Some(1_709_226_367));
        assert_eq!(bcd.unix_seconds(), binary.unix_seconds());
        assert_eq!(twelve_hours.unix_seconds(), binary.unix_seconds());
    }

    #[test]
    fn a_clock_that_answers_nothing_gives_no_date() {
        let absent = RtcReading {
            fields: [0xff; 6],
            format: 0xff,
        };
        assert_eq!(absent.unix_seconds(), None);
        let zero = RtcReading {
            fields: [0; 6],
            format: 2,
        };
        assert_eq!(zero.unix_seconds(), None);
    }
}
