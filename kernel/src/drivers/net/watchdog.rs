//! Notices a card that does not get its work done, and has it reset or given up; and links that come and go.

use super::Statistics;
use crate::dma::DeviceFault;

/// A card with a link that finishes nothing for so long, with something to do, is stuck. After each reset that
/// did not help it has so much longer: who takes a virtual card's frames may be away for a while.
const PATIENCE_NS: u64 = 2_000_000_000;
/// But not if it was looked at less often: the whole machine may have stood still.
const LOOKS: u32 = 3;
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

/// What can be done with a card that is stuck.
pub(super) trait Restart {
    /// Resets it. What it had to send is lost, as on a wire.
    fn restart(&mut self);
    /// Takes it out of service.
    fn fail(&mut self, fault: DeviceFault);
}

/// Does what is advised for a card of which this is to be said.
pub(super) fn follow(card: &mut dyn Restart, advice: Advice, what: &str) {
    match advice {
        Advice::Fine => {}
        Advice::Reset => {
            log::warn!("network card {what}: reset");
            card.restart();
        }
        Advice::GiveUp => card.fail(DeviceFault::Stalled),
    }
}

/// Watches one direction of one card, and its link.
#[derive(Debug)]
pub(super) struct Watchdog {
    link: bool,
    finished: u64,
    /// When it was first seen busy since then, and how often it has been.
    since_ns: u64,
    looks: u32,
    resets: u32,
}

impl Default for Watchdog {
    fn default() -> Self {
        Self {
            link: true,
            finished: 0,
            since_ns: 0,
            looks: 0,
            resets: 0,
        }
    }
}

impl Watchdog {
    /// Whether the card has a link at the moment; that it came or went is counted, and said.
    pub(super) fn note_link(&mut self, up: bool, statistics: &mut Statistics) {
        if up != self.link {
            self.link = up;
            statistics.link_changes += 1;
            log::warn!("network card: link {}", if up { "up" } else { "down" });
        }
    }

    /// `busy`: the card could get on with something it has been given, if it has a link. `finished` counts
    /// what it has got done since it was bound.
    pub(super) fn look(&mut self, now_ns: u64, busy: bool, finished: u64) -> Advice {
        self.note(finished);
        if !busy || !self.link {
            self.looks = 0;
            return Advice::Fine;
        }
        if self.looks == 0 {
            self.since_ns = now_ns;
        }
        self.looks += 1;
        let patience = PATIENCE_NS * u64::from(1 + self.resets);
        if self.looks < LOOKS || now_ns.saturating_sub(self.since_ns) < patience {
            return Advice::Fine;
        }
        self.reset()
    }

    /// The card says itself that it is stuck.
    pub(super) fn report(&mut self, finished: u64) -> Advice {
        self.note(finished);
        self.reset()
    }

    fn note(&mut self, finished: u64) {
        if finished != self.finished {
            self.finished = finished;
            self.looks = 0;
            self.resets = 0;
        }
    }

    fn reset(&mut self) -> Advice {
        if self.resets == RESETS {
            return Advice::GiveUp;
        }
        self.resets += 1;
        self.looks = 0;
        Advice::Reset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn seconds_without_progress_mean_a_reset_later_each_time_and_five_resets_the_end() {
        let mut watchdog = Watchdog::default();
        let mut seconds = 100..;
        let mut look = || watchdog.look(seconds.next().unwrap() * SECOND, true, 0);
        let mut wait = |expected| {
            let waited = (0..60).take_while(|_| look() != expected).count();
            assert!(waited < 60, "never: {expected:?}");
            waited
        };
        for resets in 1..=5 {
            assert_eq!(wait(Advice::Reset), 2 * resets);
        }
        assert_eq!(wait(Advice::GiveUp), 12);
    }

    #[test]
    fn a_card_that_says_that_it_is_stuck_is_reset_at_once_but_not_for_ever() {
        let mut watchdog = Watchdog::default();
        for _ in 0..5 {
            assert_eq!(watchdog.report(0), Advice::Reset);
        }
        assert_eq!(watchdog.report(0), Advice::GiveUp);
        assert_eq!(watchdog.report(1), Advice::Reset, "it got something done");
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
    fn a_pause_of_the_whole_machine_is_not_the_cards_fault() {
        let mut watchdog = Watchdog::default();
        assert_eq!(watchdog.look(SECOND, true, 0), Advice::Fine);
        assert_eq!(watchdog.look(1000 * SECOND, true, 0), Advice::Fine);
        assert_eq!(watchdog.look(1001 * SECOND, false, 0), Advice::Fine);
    }

    #[test]
    fn a_link_counts_when_it_comes_or_goes_and_without_one_no_card_is_stuck() {
        let mut watchdog = Watchdog::default();
        let mut statistics = Statistics::default();
        for (up, changes) in [(true, 0), (false, 1), (false, 1), (true, 2), (false, 3)] {
            watchdog.note_link(up, &mut statistics);
            assert_eq!(statistics.link_changes, changes);
        }
        for second in 0..10 {
            let advice = watchdog.look(second * SECOND, true, 0);
            assert_eq!(advice, Advice::Fine);
        }
    }

    #[test]
    fn resets_count_anew_after_progress() {
        let mut watchdog = Watchdog::default();
        let mut seconds = 0..;
        for finished in 0..50 {
            let mut look = || watchdog.look(seconds.next().unwrap() * SECOND, true, finished);
            assert_eq!(
                [look(), look(), look()],
                [Advice::Fine, Advice::Fine, Advice::Reset]
            );
        }
    }
}
