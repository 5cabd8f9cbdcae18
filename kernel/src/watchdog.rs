//! Notices that the loop which serves does not come back: a task that never yields, a driver that
//! waits for ever.
//!
//! The loop says so at each of its turns ([`turn`]); while the watch is on, a timer interrupt is
//! always pending, at most a fifth of the limit away, and five of them in a row without a turn end
//! the image with a report of where it was. Interrupts are counted and not time, so a machine that was
//! paused, or whose host has no time for it, is not taken for one that hangs: after a pause one
//! interrupt comes, and the loop has the time to the next. What spins with interrupts off is not
//! noticed; the kernel does that for a few instructions before it sleeps only.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// How many interrupts without a turn in between are too many.
const PATIENCE: u32 = 5;

static TURNS: AtomicU32 = AtomicU32::new(0);
/// Time between interrupts; 0 while the watch is off.
static PERIOD_NS: AtomicU64 = AtomicU64::new(0);
/// When the next one that counts is due.
#[cfg(godwit_image)]
static DUE_NS: AtomicU64 = AtomicU64::new(0);
static WATCH: Watch = Watch {
    seen: AtomicU32::new(0),
    missed: AtomicU32::new(0),
};

/// What the interrupts have seen so far.
#[cfg_attr(not(godwit_image), allow(dead_code))]
struct Watch {
    seen: AtomicU32,
    missed: AtomicU32,
}

#[cfg_attr(not(godwit_image), allow(dead_code))]
impl Watch {
    /// One interrupt after `turns` turns: whether it is one too many.
    fn tick(&self, turns: u32) -> bool {
        if self.seen.swap(turns, Ordering::Relaxed) != turns {
            self.missed.store(0, Ordering::Relaxed);
            return false;
        }
        self.missed.fetch_add(1, Ordering::Relaxed) + 1 >= PATIENCE
    }
}

/// The loop has come back.
#[inline]
pub fn turn() {
    // Nobody else writes: no need for an atomic addition.
    TURNS.store(
        TURNS.load(Ordering::Relaxed).wrapping_add(1),
        Ordering::Relaxed,
    );
}

/// Watches from now on, or no more: the loop must come back within `limit_ns`.
pub fn watch(limit_ns: Option<u64>) {
    let period = limit_ns.map_or(0, |limit| (limit / u64::from(PATIENCE)).max(1_000_000));
    PERIOD_NS.store(period, Ordering::Relaxed);
    WATCH.missed.store(0, Ordering::Relaxed);
    #[cfg(godwit_image)]
    {
        DUE_NS.store(crate::clock::now_ns() + period, Ordering::Relaxed);
        crate::alarm::arm(None);
    }
}

/// When the timer has to interrupt at the latest, if the loop itself asks for `deadline_ns`.
#[cfg(godwit_image)]
pub(crate) fn limit(deadline_ns: Option<u64>) -> Option<u64> {
    match PERIOD_NS.load(Ordering::Relaxed) {
        0 => deadline_ns,
        period => {
            let next = crate::clock::now_ns() + period;
            Some(deadline_ns.map_or(next, |deadline| deadline.min(next)))
        }
    }
}

/// The timer has interrupted what was at `rip`.
#[cfg(godwit_image)]
pub(crate) fn tick(rip: u64, frame: u64) {
    let period = PERIOD_NS.load(Ordering::Relaxed);
    if period == 0 {
        return;
    }
    // Those that come for somebody else, or of a timer that cannot count that far, do not count. (The timer
    // and the clock need not agree to the last bit.)
    let now = crate::clock::now_ns();
    if now + period / 8 < DUE_NS.load(Ordering::Relaxed) {
        if !crate::alarm::resume() {
            crate::alarm::arm(None);
        }
        return;
    }
    DUE_NS.store(now + period, Ordering::Relaxed);
    if WATCH.tick(TURNS.load(Ordering::Relaxed)) {
        let limit = period * u64::from(PATIENCE) / 1_000_000;
        crate::panic::report(
            crate::exit::ExitCode::Watchdog,
            format_args!(
                "watchdog: no turn of the loop for {limit} ms, at {}",
                crate::symbols::Place(rip)
            ),
            rip,
            frame,
        );
    }
    crate::alarm::arm(None);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_interrupts_in_a_row_without_a_turn_are_too_many() {
        let watch = Watch {
            seen: AtomicU32::new(0),
            missed: AtomicU32::new(0),
        };
        for turns in 1..10 {
            for _ in 0..PATIENCE {
                assert!(!watch.tick(turns));
            }
        }
        assert!(watch.tick(9));
    }
}
