//! [`Sessions`]: the sessions of an instance, by name.
//!
//! A session's task names it in each of a dozen calls for one request, one after the other, so it
//! is remembered where the last one was found. Everything else goes by the order of names, which
//! makes runs of the simulator repeatable.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cell::Cell;
use core::ops::RangeBounds;

use super::{Session, SessionId};

/// Sessions, ordered by their names.
#[derive(Debug, Default)]
pub struct Sessions {
    places: BTreeMap<SessionId, u32>,
    slots: Vec<Option<Box<Session>>>,
    free: Vec<u32>,
    /// The slot that was asked for last.
    last: Cell<u32>,
}

impl Sessions {
    /// None yet.
    pub fn new() -> Sessions {
        Sessions::default()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    fn at(&self, slot: u32) -> Option<&Session> {
        self.slots.get(slot as usize)?.as_deref()
    }

    /// Where a session is.
    #[inline]
    fn find(&self, id: &SessionId) -> Option<u32> {
        let last = self.last.get();
        if self.at(last).is_some_and(|session| session.id == *id) {
            return Some(last);
        }
        self.look_up(id)
    }

    #[inline(never)]
    fn look_up(&self, id: &SessionId) -> Option<u32> {
        let slot = *self.places.get(id)?;
        self.last.set(slot);
        Some(slot)
    }

    /// Is there a session of that name?
    pub fn contains_key(&self, id: &SessionId) -> bool {
        self.find(id).is_some()
    }

    /// A session.
    pub fn get(&self, id: &SessionId) -> Option<&Session> {
        self.at(self.find(id)?)
    }

    /// A session, to be changed (but for its name).
    pub fn get_mut(&mut self, id: &SessionId) -> Option<&mut Session> {
        let slot = self.find(id)?;
        self.slots.get_mut(slot as usize)?.as_deref_mut()
    }

    /// Takes in a session, under the name it has; who had that name before.
    pub fn insert(&mut self, mut session: Session) -> Option<Session> {
        let id = session.id;
        // Its task begins anew.
        session.woken = false;
        let before = self.remove(&id);
        let slot = self.free.pop().unwrap_or(self.slots.len() as u32);
        match self.slots.get_mut(slot as usize) {
            Some(free) => *free = Some(Box::new(session)),
            None => self.slots.push(Some(Box::new(session))),
        }
        self.places.insert(id, slot);
        before
    }

    /// Takes a session out.
    pub fn remove(&mut self, id: &SessionId) -> Option<Session> {
        let slot = self.places.remove(id)?;
        let session = self.slots.get_mut(slot as usize)?.take();
        self.free.push(slot);
        session.map(|session| *session)
    }

    /// Their names, in order.
    pub fn keys(&self) -> impl Iterator<Item = &SessionId> {
        self.places.keys()
    }

    /// All of them, in the order of their names.
    pub fn values(&self) -> impl Iterator<Item = &Session> {
        self.places.values().filter_map(|slot| self.at(*slot))
    }

    /// Those whose names are in `range`, in order.
    pub fn range(&self, range: impl RangeBounds<SessionId>) -> impl Iterator<Item = &Session> {
        let places = self.places.range(range);
        places.filter_map(|(_, slot)| self.at(*slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::SessionConnection;
    use crate::stack::{ConnId, FlowKey};
    use core::ops::Bound;

    fn session(number: u64) -> Session {
        let flow = FlowKey {
            local: ([10, 0, 0, 1], 80).into(),
            remote: ([10, 0, 0, 2], 1000).into(),
        };
        let conn = ConnId {
            index: number as u32,
            generation: 0,
        };
        let connection = SessionConnection::new(flow, conn, 65_536);
        Session::open(id(number), 0, connection)
    }

    fn id(number: u64) -> SessionId {
        SessionId { origin: 1, number }
    }

    #[test]
    fn a_name_finds_its_own_session_whoever_was_asked_for_before() {
        let mut sessions = Sessions::new();
        for number in [5, 3, 9] {
            assert!(sessions.insert(session(number)).is_none());
        }
        for number in [3, 3, 9, 5, 3, 9] {
            assert_eq!(sessions.get(&id(number)).unwrap().id, id(number));
            assert!(sessions.get(&id(4)).is_none());
        }
        // The slot of one that has gone is the next one's.
        sessions.get_mut(&id(3)).unwrap().epoch = 7;
        assert_eq!(sessions.remove(&id(3)).unwrap().epoch, 7);
        assert!(!sessions.contains_key(&id(3)));
        sessions.insert(session(4));
        assert!(sessions.get(&id(3)).is_none());
        assert_eq!(sessions.get(&id(4)).unwrap().id, id(4));
        assert_eq!((sessions.len(), sessions.slots.len()), (3, 3));
    }

    #[test]
    fn the_order_is_that_of_names() {
        let mut sessions = Sessions::new();
        for number in [5, 3, 9, 1] {
            sessions.insert(session(number));
        }
        sessions.remove(&id(1));
        sessions.insert(session(7));
        let numbers: Vec<u64> = sessions.values().map(|session| session.id.number).collect();
        assert_eq!(numbers, [3, 5, 7, 9]);
        assert!(sessions.keys().map(|id| id.number).eq(numbers));
        let after = (Bound::Excluded(id(5)), Bound::Unbounded);
        let after: Vec<u64> = sessions.range(after).map(|s| s.id.number).collect();
        assert_eq!(after, [7, 9]);
    }

    #[test]
    fn a_name_is_there_once() {
        let mut sessions = Sessions::new();
        sessions.insert(session(1));
        sessions.get_mut(&id(1)).unwrap().epoch = 4;
        assert_eq!(sessions.insert(session(1)).unwrap().epoch, 4);
        assert_eq!(
            (sessions.len(), sessions.get(&id(1)).unwrap().epoch),
            (1, 1)
        );
    }
}
