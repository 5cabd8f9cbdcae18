//! Time: nanoseconds since the image's first instruction, from the time stamp counter; and the
//! date, from the real-time clock.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::arch::x86_64::cpu;

static ENTRY: AtomicU64 = AtomicU64::new(0);
static SCALE: Scale = Scale::new(1_000_000_000);
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

    #[cfg(godwit_image)]
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
}

/// Nanoseconds since the first instruction. Never goes back.
#[inline]
pub fn now_ns() -> u64 {
    SCALE.nanoseconds(ticks())
}

/// Counter ticks since the first instruction: for boot, before the scale is known.
#[inline]
pub(crate) fn ticks() -> u64 {
    cpu::tsc().saturating_sub(ENTRY.load(Ordering::Relaxed))
}

/// Nanoseconds in counter ticks.
pub(crate) fn to_ns(ticks: u64) -> u64 {
    SCALE.nanoseconds(ticks)
}

#[cfg(godwit_image)]
pub(crate) fn set_entry(tsc: u64) {
    ENTRY.store(tsc, Ordering::Relaxed);
}

#[cfg(godwit_image)]
pub(crate) fn set_frequency(hertz: u64) {
    SCALE.set(hertz);
}

/// Seconds since 1970 (UTC) at the present moment, or `None` if the machine has no clock that
/// tells.
pub fn unix_seconds() -> Option<u64> {
    match EPOCH.load(Ordering::Relaxed) {
        0 => None,
        epoch => Some(epoch + now_ns() / 1_000_000_000),
    }
}

/// Takes the date from the real-time clock.
#[cfg(godwit_image)]
pub(crate) fn set_epoch(unix_seconds_now: u64) {
    EPOCH.store(
        unix_seconds_now.saturating_sub(now_ns() / 1_000_000_000),
        Ordering::Relaxed,
    );
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
