//! The target's side: which epochs of which sessions are decided.

use alloc::collections::VecDeque;

use crate::map::Map;
use crate::session::SessionId;

/// Sessions remembered at most.
pub const MAX_REMEMBERED: usize = 1 << 17;

/// What this instance has decided about one session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Entry {
    /// Highest epoch it owned the session under here; 0 if none.
    owned: u64,
    /// Highest epoch it denied, or owned; a capsule with this or a lower one is not imported.
    burned: u64,
    /// Place in the order of last use.
    stamp: u64,
}

/// What to do with a capsule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Undecided yet: try to import it, then tell [`Epochs::own`] or [`Epochs::deny`].
    Import,
    /// Decided: it was imported before (or a later one was). Affirm again, import nothing.
    Affirm,
    /// Decided: it was denied before. Deny again.
    Deny,
}

/// What is known about an attempt someone asks about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Memory {
    /// The session was owned here under that epoch or a higher one.
    Owned,
    /// It was not, and with this answer never will be under that epoch.
    Denied,
    /// Too long ago: some sessions have been forgotten, maybe this one.
    Forgotten,
}

/// The decisions of a target, bounded: beyond [`MAX_REMEMBERED`] sessions the one not touched for
/// the longest time is forgotten, and from then on an unknown session may be a forgotten one.
#[derive(Debug)]
pub struct Epochs {
    most: usize,
    sessions: Map<SessionId, Entry>,
    /// Sessions in the order of use, with the stamp of that use; stale pairs are skipped.
    order: VecDeque<(u64, SessionId)>,
    stamp: u64,
    forgotten: u64,
}

impl Default for Epochs {
    fn default() -> Epochs {
        Epochs {
            most: MAX_REMEMBERED,
            sessions: Map::new(),
            order: VecDeque::new(),
            stamp: 0,
            forgotten: 0,
        }
    }
}

impl Epochs {
    /// Nothing decided yet.
    pub fn new() -> Epochs {
        Epochs::default()
    }

    /// Remember at most so many sessions (1 or more), instead of [`MAX_REMEMBERED`].
    pub fn set_most(&mut self, sessions: usize) {
        self.most = sessions.max(1);
    }

    /// Decide about a capsule offered under `epoch`.
    pub fn decide(&self, session: SessionId, epoch: u64) -> Decision {
        match self.sessions.get(&session) {
            Some(entry) if entry.owned >= epoch => Decision::Affirm,
            Some(entry) if entry.burned >= epoch => Decision::Deny,
            _ => Decision::Import,
        }
    }

    /// The session was imported, or opened, here under `epoch`.
    pub fn own(&mut self, session: SessionId, epoch: u64) {
        let entry = self.touch(session);
        entry.owned = entry.owned.max(epoch);
        entry.burned = entry.burned.max(epoch);
    }

    /// The session is not taken under `epoch`, now or later.
    pub fn deny(&mut self, session: SessionId, epoch: u64) {
        let entry = self.touch(session);
        entry.burned = entry.burned.max(epoch);
    }

    /// Answer a source in doubt. Denying burns the epoch.
    pub fn ask(&mut self, session: SessionId, epoch: u64) -> Memory {
        match self.decide(session, epoch) {
            Decision::Affirm => Memory::Owned,
            Decision::Import if self.forgotten > 0 && !self.sessions.contains_key(&session) => {
                // It may have been imported; but it must not be from now on.
                self.deny(session, epoch);
                Memory::Forgotten
            }
            Decision::Import | Decision::Deny => {
                self.deny(session, epoch);
                Memory::Denied
            }
        }
    }

    /// Whether the session was owned here under `epoch` or a higher one.
    pub fn has_owned(&self, session: SessionId, epoch: u64) -> bool {
        self.decide(session, epoch) == Decision::Affirm
    }

    fn touch(&mut self, session: SessionId) -> &mut Entry {
        self.stamp += 1;
        self.order.push_back((self.stamp, session));
        while self.sessions.len() >= self.most || self.order.len() > 2 * self.most {
            let Some((stamp, oldest)) = self.order.pop_front() else {
                break;
            };
            let current = self.sessions.get(&oldest).map(|entry| entry.stamp);
            if current == Some(stamp) && oldest != session {
                self.sessions.remove(&oldest);
                self.forgotten += 1;
            }
        }
        let entry = self.sessions.entry(session).or_default();
        entry.stamp = self.stamp;
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> SessionId {
        SessionId { origin: 1, number }
    }

    #[test]
    fn a_denied_epoch_is_never_imported_and_a_higher_one_is() {
        let mut epochs = Epochs::new();
        assert_eq!(epochs.ask(id(1), 4), Memory::Denied);
        assert_eq!(epochs.decide(id(1), 4), Decision::Deny, "late capsule");
        assert_eq!(
            epochs.decide(id(1), 3),
            Decision::Deny,
            "all lower ones too"
        );
        assert_eq!(epochs.decide(id(1), 5), Decision::Import);
    }

    #[test]
    fn an_owned_epoch_is_affirmed_for_ever_and_imported_once() {
        let mut epochs = Epochs::new();
        epochs.own(id(1), 4);
        assert_eq!(epochs.decide(id(1), 4), Decision::Affirm, "replayed");
        epochs.deny(id(1), 6);
        assert_eq!(
            epochs.ask(id(1), 4),
            Memory::Owned,
            "a later denial changes nothing"
        );
        assert_eq!(epochs.decide(id(1), 6), Decision::Deny);
    }

    #[test]
    fn memory_is_bounded_and_what_was_forgotten_is_never_denied() {
        let mut epochs = Epochs::new();
        epochs.own(id(0), 1);
        for number in 1..=MAX_REMEMBERED as u64 {
            epochs.own(id(number), 1);
        }
        assert!(epochs.sessions.len() <= MAX_REMEMBERED);
        assert_eq!(epochs.ask(id(0), 1), Memory::Forgotten);
        assert_eq!(epochs.ask(id(MAX_REMEMBERED as u64), 1), Memory::Owned);
        assert_eq!(
            epochs.decide(id(0), 1),
            Decision::Deny,
            "not imported after that"
        );
    }

    #[test]
    fn touching_one_session_for_ever_does_not_grow_the_order() {
        let mut epochs = Epochs::new();
        for epoch in 0..3 * MAX_REMEMBERED as u64 {
            epochs.own(id(1), epoch);
        }
        assert!(epochs.order.len() <= 2 * MAX_REMEMBERED);
        assert!(epochs.has_owned(id(1), 5));
    }
}
