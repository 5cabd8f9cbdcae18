//! Deadlines that tasks wait for.

use core::task::Waker;

use godwit_netstack::Instant;
use godwit_netstack::map::Map;

/// Names a pending deadline.
pub(crate) type TimerKey = (Instant, u64);

/// Pending deadlines, soonest first: one for each task that waits for one, however many connections there are.
#[derive(Default)]
pub(crate) struct Timers {
    pending: Map<TimerKey, Waker>,
    next: u64,
}

impl Timers {
    pub(crate) fn insert(&mut self, at: Instant, waker: Waker) -> TimerKey {
        let key = (at, self.next);
        self.next += 1;
        self.pending.insert(key, waker);
        key
    }

    /// Have this waker woken at a pending deadline instead of the one that was given before: a task that is
    /// polled anew while it waits may have got another one.
    pub(crate) fn replace(&mut self, key: TimerKey, waker: &Waker) {
        if let Some(old) = self.pending.get_mut(&key)
            && !old.will_wake(waker)
        {
            *old = waker.clone();
        }
    }

    pub(crate) fn remove(&mut self, key: TimerKey) {
        self.pending.remove(&key);
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.pending.first_key_value().map(|(key, _)| key.0)
    }

    /// The waker of a deadline that is due.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Waker> {
        let due = self.next().is_some_and(|at| at <= now);
        let (_, waker) = due.then(|| self.pending.pop_first())??;
        Some(waker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_come_due_in_order_and_none_early() {
        let mut timers = Timers::default();
        let at = Instant::from_millis;
        timers.insert(at(20), Waker::noop().clone());
        let dropped = timers.insert(at(5), Waker::noop().clone());
        timers.insert(at(10), Waker::noop().clone());
        timers.insert(at(10), Waker::noop().clone());
        timers.remove(dropped);
        assert_eq!(timers.next(), Some(at(10)));
        assert!(timers.pop_due(at(9)).is_none());
        assert!(timers.pop_due(at(10)).is_some());
        assert!(timers.pop_due(at(10)).is_some(), "two may be due at once");
        assert!(timers.pop_due(at(10)).is_none());
        assert_eq!(timers.next(), Some(at(20)));
    }
}
