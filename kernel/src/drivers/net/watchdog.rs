//! Notices a card that does not get its work done.

/// A card with a link that finishes nothing for so long, with something to do, is stuck.
const PATIENCE_NS: u64 = 2_000_000_000;
/// It is reset so many times without anything coming of it.
const RESETS: u32 = 5;

/// What to do with a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advice {
    /// Leave it alone.
    Fine,
    /// Reset it.
    Reset,
    /// Give it up: resets do not help.
    GiveUp,
}

/// Watches one direction of one card.
#[derive(Debug, Default)]
pub(super) struct Watchdog {
    /// What the count of finished work was when it last moved, and when that was.
    seen: u64,
    since_ns: u64,
    resets: u32,
}

impl Watchdog {
    /// `busy`: the card could get on with something it has been given. `finished` counts what it
    /// has got done since it was bound.
    pub(super) fn look(&mut self, now_ns: u64, busy: bool, finished: u64) -> Advice {
        if finished != self.seen {
            self.resets = 0;
        }
        if !busy || finished != self.seen {
            self.seen = finished;
            self.since_ns = now_ns;
            return Advice::Fine;
        }
        if now_ns.saturating_sub(self.since_ns) < PATIENCE_NS {
            return Advice::Fine;
        }
        if self.resets == RESETS {
            return Advice::GiveUp;
        }
        self.resets += 1;
        self.since_ns = now_ns;
        Advice::Reset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn two_seconds_without_progress_mean_a_reset_and_five_resets_the_end() {
        let mut watchdog = Watchdog::default();
        assert_eq!(watchdog.look(100 * SECOND, false, 0), Advice::Fine);
        let look = |watchdog: &mut Watchdog, at: u64| watchdog.look((100 + at) * SECOND, true, 0);
        for reset in 0..5 {
            assert_eq!(look(&mut watchdog, 2 * reset + 1), Advice::Fine);
            assert_eq!(look(&mut watchdog, 2 * reset + 2), Advice::Reset);
        }
        assert_eq!(look(&mut watchdog, 12), Advice::GiveUp);
    }

    #[test]
    fn a_card_that_gets_on_is_left_alone_however_long_it_is_busy() {
        let mut watchdog = Watchdog::default();
        for second in 0..100 {
            let advice = watchdog.look(second * SECOND, true, second);
            assert_eq!(advice, Advice::Fine);
        }
    }

    #[test]
    fn resets_count_anew_after_progress() {
        let mut watchdog = Watchdog::default();
        let mut now = 0;
        for finished in 0..50 {
            assert_eq!(watchdog.look(now, true, finished), Advice::Fine);
            now += 2 * SECOND;
            assert_eq!(watchdog.look(now, true, finished), Advice::Reset);
        }
    }
}
