//! What each connection of the stack is used for.

use alloc::vec::Vec;

use crate::session::SessionId;
use crate::stack::ConnId;

/// What a connection of the stack is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    /// The numbered connection of a session.
    Session(SessionId, u16),
    /// A channel to a peer.
    Channel,
}

/// The uses by connection. Every segment that changes something is looked up here, so this is as the
/// stack's own table: a slot for each of its slots, which it fills again as they become free.
#[derive(Debug, Default)]
pub(super) struct Uses(Vec<Option<(u32, Use)>>);

impl Uses {
    pub fn insert(&mut self, conn: ConnId, used: Use) {
        let index = conn.index as usize;
        if index >= self.0.len() {
            self.0.resize(index + 1, None);
        }
        self.0[index] = Some((conn.generation, used));
    }

    #[inline]
    pub fn get(&self, conn: ConnId) -> Option<Use> {
        let (generation, used) = (*self.0.get(conn.index as usize)?)?;
        (generation == conn.generation).then_some(used)
    }

    pub fn remove(&mut self, conn: ConnId) -> Option<Use> {
        let used = self.get(conn)?;
        self.0[conn.index as usize] = None;
        Some(used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_that_is_used_again_is_not_taken_for_what_it_was() {
        let conn = |index, generation| ConnId { index, generation };
        let mut uses = Uses::default();
        uses.insert(conn(3, 0), Use::Channel);
        assert_eq!(uses.get(conn(3, 0)), Some(Use::Channel));
        for other in [conn(3, 1), conn(2, 0), conn(9, 0)] {
            assert_eq!((uses.get(other), uses.remove(other)), (None, None));
        }
        let session = Use::Session(SessionId::default(), 1);
        uses.insert(conn(3, 1), session);
        assert_eq!(uses.remove(conn(3, 0)), None);
        assert_eq!(uses.remove(conn(3, 1)), Some(session));
        assert_eq!(uses.get(conn(3, 1)), None);
    }
}
