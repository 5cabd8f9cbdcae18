//! Noticing that the machine was stopped for a while, or that it is a copy: a snapshot that was
//! restored, perhaps more than once, perhaps beside the original.
//!
//! A copy shares every secret and every random number to come with its original. So it counts as a
//! machine that has just been booted: whoever asks [`Past::restored`] has to begin anew, and random
//! numbers are mixed with fresh ones first. What tells is the generation id, a number in memory that
//! the host changes when it restores (QEMU's `vmgenid`, and what Cloud Hypervisor and Firecracker have, found by ACPI).
//! Where there is none, a step of the date by [`GAP_S`] counts as one; a shorter one is taken for a pause, which sets
//! the date right, costs nobody a connection, and mixes the random numbers too, to be on the safe side.

use crate::clock::History;
use crate::mmio::Registers;

/// Seconds that the date steps when a machine without generation id counts as restored.
pub const GAP_S: u64 = 60;

/// The generation id as it was, and the date in step with the clock.
#[derive(Debug)]
pub struct Past<R> {
    generation: Option<(R, [u32; 4])>,
    history: History,
    copied: bool,
}

impl<R: Registers> Past<R> {
    /// The past begins now; `place` is where the generation id is.
    pub fn new(place: Option<R>) -> Self {
        Self {
            generation: place.map(|place| {
                let id = Self::id(&place);
                (place, id)
            }),
            history: History::default(),
            copied: false,
        }
    }

    fn id(place: &R) -> [u32; 4] {
        [0, 4, 8, 12].map(|at| place.read32(at))
    }

    /// Whether the host tells a copy from the original.
    pub fn has_generation(&self) -> bool {
        self.generation().is_some()
    }

    /// What the host calls this machine; it calls no copy the same.
    pub fn generation(&self) -> Option<[u32; 4]> {
        self.generation.as_ref().map(|(_, id)| *id)
    }

    /// Takes a reading of the date and one of the clock, in whole seconds. By how many the date has
    /// stepped, if it has.
    pub fn compare(&mut self, date: u64, ours: u64) -> Option<i64> {
        let step = self.history.step(date, ours);
        self.copied |= self.generation.is_none() && step.unsigned_abs() >= GAP_S;
        (step != 0).then_some(step)
    }

    /// Whether the machine has been restored since the last call.
    pub fn restored(&mut self) -> bool {
        if let Some((place, known)) = &mut self.generation {
            let id = Self::id(place);
            self.copied |= core::mem::replace(known, id) != id;
        }
        core::mem::take(&mut self.copied)
    }
}

/// Moves the date by whole seconds.
#[cfg(godwit_image)]
pub(crate) fn move_date(step: i64) {
    use crate::clock;
    if let Some(date) = clock::unix_ns() {
        clock::set_date(date.saturating_add_signed(step.saturating_mul(1_000_000_000)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mmio::Mmio;

    #[test]
    fn a_new_generation_is_a_copy_and_told_once() {
        let place = Mmio::fake(2);
        let mut past = Past::new(Some(place));
        assert!(!past.restored());
        place.write32(12, 1);
        assert!(past.restored());
        assert_eq!(past.generation(), Some([0, 0, 0, 1]));
        assert!(!past.restored());
    }

    #[test]
    fn a_pause_of_a_machine_with_a_generation_is_no_copy() {
        let mut past = Past::new(Some(Mmio::fake(2)));
        assert_eq!(past.compare(1_000, 0), None);
        assert_eq!(past.compare(1_000 + 100_000, 1), Some(99_999));
        assert!(!past.restored());
    }

    #[test]
    fn without_a_generation_a_long_gap_is_a_copy_and_a_short_one_a_pause() {
        let mut past = Past::<Mmio>::new(None);
        past.compare(1_000, 0);
        assert_eq!(past.compare(1_030, 1), Some(29));
        assert!(!past.restored());
        assert_eq!(past.compare(1_101, 2), Some(70));
        assert!(past.restored());
        assert_eq!(past.compare(900, 3), Some(-202), "an older date");
        assert!(past.restored());
    }
}
