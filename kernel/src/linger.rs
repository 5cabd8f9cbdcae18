//! Looking for frames for a moment before going to sleep: [`Linger`] says for how long.
//!
//! To be woken costs an interrupt, and under a hypervisor some turns of its scheduler: tens of
//! microseconds that whoever waits for an answer waits too. To look costs the processor, which may be
//! wanted by somebody else. So it is done only while frames come soon after one another, for at most
//! [`MOST_NS`] each time, and stops as soon as that does not pay.

/// The longest time to look, and what counts as soon.
pub const MOST_NS: u64 = 200_000;
/// The shortest.
const LEAST_NS: u64 = 25_000;

/// How long it pays to look.
#[derive(Clone, Copy, Debug, Default)]
pub struct Linger {
    nanoseconds: u64,
}

impl Linger {
    /// How long to look before the next sleep, in nanoseconds; 0: not at all.
    pub fn nanoseconds(&self) -> u64 {
        self.nanoseconds
    }

    /// Nothing was found by looking; after the sleep `waited_ns` had passed since there was nothing
    /// left to do, and it ended with a frame or without.
    pub fn slept(&mut self, waited_ns: u64, frame: bool) {
        let soon = frame && waited_ns <= MOST_NS;
        self.nanoseconds = match (soon, self.nanoseconds) {
            (true, ns) => (ns * 2).clamp(LEAST_NS, MOST_NS),
            (false, ns) if ns <= LEAST_NS => 0,
            (false, ns) => ns / 2,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_looks_for_what_comes_seldom() {
        let mut linger = Linger::default();
        let mut looked = 0;
        for _ in 0..1000 {
            looked += linger.nanoseconds();
            linger.slept(1_000_000, true);
        }
        assert_eq!(looked, 0);
    }

    #[test]
    fn a_conversation_is_looked_for_as_long_as_it_may_take_and_given_up_when_it_is_over() {
        let mut linger = Linger::default();
        for _ in 0..4 {
            linger.slept(100_000, true);
        }
        assert_eq!(linger.nanoseconds(), MOST_NS);
        let mut wasted = 0;
        for _ in 0..100 {
            wasted += linger.nanoseconds();
            linger.slept(1_000_000_000, true);
        }
        assert!(wasted < 2 * MOST_NS, "{wasted} ns for nothing");
    }

    #[test]
    fn a_timer_is_no_reason_to_look() {
        let mut linger = Linger::default();
        linger.slept(1_000, false);
        assert_eq!(linger.nanoseconds(), 0);
    }
}
