//! The high precision event timer (IA-PC HPET specification 1.0a, section 2.3).

use crate::mmio::Registers;

/// Ticks of the 8254, the timer before it, in a second.
pub const PIT_HERTZ: u64 = 1_193_182;

/// Ticks in `ns`, as far as they can be counted: 1 to `most`.
pub(crate) fn count(ns: u64, hertz: u64, most: u32) -> u32 {
    let count = u128::from(ns) * u128::from(hertz) / 1_000_000_000;
    (count.min(u128::from(most)) as u32).max(1)
}

/// Its main counter, and comparator 0. Both are used as 32 bits wide, which all of them can be.
#[derive(Clone, Copy, Debug)]
pub struct Hpet<R> {
    registers: R,
    hertz: u64,
}

impl<R: Registers> Hpet<R> {
    const PERIOD: usize = 0x04;
    const CONFIGURATION: usize = 0x10;
    const COUNTER: usize = 0xf0;
    const TIMER: usize = 0x100;
    const ROUTES: usize = 0x104;
    const COMPARATOR: usize = 0x108;

    const ENABLE: u32 = 1;
    const INTERRUPT: u32 = 1 << 2;
    const NARROW: u32 = 1 << 8;
    const ROUTE: u32 = 9;

    /// Starts the counter. `None`: its period makes no sense.
    pub fn start(registers: R) -> Option<Self> {
        const SLOWEST_FS: u32 = 100_000_000;
        const FASTEST_FS: u32 = 100_000;
        let period = registers.read32(Self::PERIOD);
        if !(FASTEST_FS..=SLOWEST_FS).contains(&period) {
            return None;
        }
        // On, and not in place of the 8254 and the real-time clock.
        registers.write32(Self::CONFIGURATION, Self::ENABLE);
        Some(Self {
            registers,
            hertz: 1_000_000_000_000_000 / u64::from(period),
        })
    }

    /// Ticks of the counter in a second.
    pub fn hertz(&self) -> u64 {
        self.hertz
    }

    /// The counter.
    pub fn counter(&self) -> u32 {
        self.registers.read32(Self::COUNTER)
    }

    /// The inputs of the I/O APIC that it can interrupt by, a bit each.
    pub fn gsis(&self) -> u32 {
        self.registers.read32(Self::ROUTES)
    }

    /// Has it interrupt by an input, once [`Hpet::arm`] says when.
    pub fn prepare(&self, gsi: u32) {
        let how = Self::INTERRUPT | Self::NARROW | gsi << Self::ROUTE;
        self.registers.write32(Self::TIMER, how);
    }

    /// Interrupts in `ns`, or earlier if that is too far away. `false`: that has passed already.
    pub fn arm(&self, ns: u64) -> bool {
        let ticks = count(ns, self.hertz, u32::MAX / 2);
        let at = self.counter().wrapping_add(ticks);
        self.registers.write32(Self::COMPARATOR, at);
        // It interrupts when the two are equal: a moment that has been missed comes in minutes.
        (at.wrapping_sub(self.counter()) as i32) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mmio::Mmio;

    fn hpet(period_fs: u32) -> (Mmio, Option<Hpet<Mmio>>) {
        let registers = Mmio::fake(0x200 / 8);
        registers.write32(Hpet::<Mmio>::PERIOD, period_fs);
        (registers, Hpet::start(registers))
    }

    #[test]
    fn a_period_that_makes_no_sense_is_refused() {
        assert!(hpet(0).1.is_none());
        assert!(hpet(99_999).1.is_none());
        assert!(hpet(u32::MAX).1.is_none());
        assert_eq!(hpet(10_000_000).1.unwrap().hertz(), 100_000_000);
    }

    #[test]
    fn a_comparator_beyond_the_end_of_the_counter_wraps() {
        let (registers, hpet) = hpet(10_000_000);
        registers.write32(Hpet::<Mmio>::COUNTER, u32::MAX);
        assert!(hpet.unwrap().arm(1_000));
        assert_eq!(registers.read32(Hpet::<Mmio>::COMPARATOR), 99);
    }

    #[test]
    fn a_deadline_further_than_a_timer_counts_is_cut_and_none_is_missed() {
        let (registers, hpet) = hpet(10_000_000);
        assert!(hpet.unwrap().arm(u64::MAX));
        assert_eq!(registers.read32(Hpet::<Mmio>::COMPARATOR), u32::MAX / 2);
        assert_eq!(count(u64::MAX, PIT_HERTZ, 0xffff), 0xffff);
        assert_eq!(count(1, PIT_HERTZ, 0xffff), 1);
        assert_eq!(count(1_000_000, PIT_HERTZ, 0xffff), 1193);
    }
}
