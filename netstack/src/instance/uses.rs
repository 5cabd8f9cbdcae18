//! [`Uses`]: what each connection of the stack is used for.

use alloc::vec::Vec;

use super::Use;
use crate::stack::ConnId;

/// Uses by the connection's slot in the stack's table: every event asks for one.
#[derive(Debug, Default)]
pub(super) struct Uses {
    slots: Vec<Option<(ConnId, Use)>>,
}

impl Uses {
    /// What a connection is used for.
    pub(super) fn get(&self, conn: &ConnId) -> Option<&Use> {
        match self.slots.get(conn.index as usize)? {
            Some((id, used)) if id == conn => Some(used),
            _ => None,
        }
    }

    /// A connection is used from now on.
    pub(super) fn insert(&mut self, conn: ConnId, used: Use) {
        let index = conn.index as usize;
        if self.slots.len() <= index {
            self.slots.resize(index + 1, None);
        }
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = Some((conn, used));
        }
    }

    /// A connection is not used any more; what for it was.
    pub(super) fn remove(&mut self, conn: &ConnId) -> Option<Use> {
        self.get(conn)?;
        let slot = self.slots.get_mut(conn.index as usize)?;
        slot.take().map(|(_, used)| used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_connection_has_no_part_in_what_its_slot_is_used_for_next() {
        let conn = |generation| ConnId {
            index: 3,
            generation,
        };
        let mut uses = Uses::default();
        uses.insert(conn(0), Use::Channel);
        assert!(uses.get(&conn(0)).is_some());
        assert!(uses.get(&conn(1)).is_none());
        uses.insert(conn(1), Use::Channel);
        assert!(uses.remove(&conn(0)).is_none());
        assert!(uses.remove(&conn(1)).is_some());
        assert!(uses.get(&conn(1)).is_none());
    }
}
