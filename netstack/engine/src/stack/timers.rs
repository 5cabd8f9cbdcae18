//! Deadlines in order. Only what is armed is in the set, so idle connections cost nothing.

use alloc::collections::BTreeSet;

use crate::time::Instant;

/// Armed deadlines of things that a table names by numbers.
///
/// Each thing remembers its own armed deadline and passes it in: there is one deadline per thing.
#[derive(Debug)]
pub(super) struct Timers {
    armed: BTreeSet<(Instant, u64)>,
}

impl Timers {
    pub(super) const fn new() -> Timers {
        Timers {
            armed: BTreeSet::new(),
        }
    }

    /// Arm for `due` at the latest. An earlier deadline stays armed: when it fires, the thing is
    /// asked again. Timers that move on with every packet thus cost nothing.
    pub(super) fn arm(&mut self, armed: &mut Option<Instant>, key: u64, due: Instant) {
        if let Some(earlier) = *armed {
            if earlier <= due {
                return;
            }
            self.armed.remove(&(earlier, key));
        }
        self.armed.insert((due, key));
        *armed = Some(due);
    }

    /// Forget the deadline.
    pub(super) fn disarm(&mut self, armed: &mut Option<Instant>, key: u64) {
        if let Some(due) = armed.take() {
            self.armed.remove(&(due, key));
        }
    }

    /// Take out one deadline that is due; its owner must note that it is no longer armed.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<u64> {
        let (due, key) = *self.armed.first()?;
        if due > now {
            return None;
        }
        self.armed.pop_first();
        Some(key)
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        self.armed.first().map(|(due, _)| *due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_only_moves_forward_when_it_fires() {
        let mut timers = Timers::new();
        let mut armed = None;
        timers.arm(&mut armed, 1, Instant::from_millis(10));
        timers.arm(&mut armed, 1, Instant::from_millis(20));
        assert_eq!(timers.next(), Some(Instant::from_millis(10)));
        timers.arm(&mut armed, 1, Instant::from_millis(5));
        assert_eq!(timers.next(), Some(Instant::from_millis(5)));
        assert_eq!(timers.pop_due(Instant::from_millis(4)), None);
        assert_eq!(timers.pop_due(Instant::from_millis(5)), Some(1));
        assert_eq!(timers.next(), None, "one thing has one deadline");
    }
}
