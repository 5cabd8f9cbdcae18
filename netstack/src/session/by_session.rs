//! [`BySession`]: what an instance, or whoever serves its sessions, keeps for each of them.
//!
//! A session's task names it in each of a dozen calls for one request, and many sessions take turns,
//! so it is remembered where those asked for lately are. Everything else goes by the order of
//! names, which makes runs of the simulator repeatable.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::Cell;
use core::ops::RangeBounds;

use super::SessionId;
use crate::map::Map;

/// How many places are remembered. An instance numbers its sessions one by one, so this many in a
/// row do not get into each other's way.
const HINTS: usize = 256;

/// A map of sessions' names, in their order.
#[derive(Debug)]
pub struct BySession<V> {
    places: Map<SessionId, u32>,
    slots: Vec<Option<Box<(SessionId, V)>>>,
    free: Vec<u32>,
    /// The slot where a session whose number ends like this was found last.
    hints: [Cell<u32>; HINTS],
}

impl<V> Default for BySession<V> {
    fn default() -> Self {
        BySession {
            places: Map::new(),
            slots: Vec::new(),
            free: Vec::new(),
            hints: [const { Cell::new(0) }; HINTS],
        }
    }
}

impl<V> BySession<V> {
    /// One without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Has it none?
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    #[inline]
    fn at(&self, slot: u32) -> Option<&(SessionId, V)> {
        self.slots.get(slot as usize)?.as_deref()
    }

    #[inline]
    fn at_mut(&mut self, slot: u32) -> Option<&mut V> {
        let entry = self.slots.get_mut(slot as usize)?.as_deref_mut()?;
        Some(&mut entry.1)
    }

    /// Where a session's entry is.
    #[inline(always)]
    fn find(&self, id: &SessionId) -> Option<u32> {
        let slot = self.hints.get(id.number as usize % HINTS)?.get();
        match self.at(slot) {
            Some(entry) if entry.0 == *id => Some(slot),
            _ => self.look_up(id),
        }
    }

    #[inline(never)]
    fn look_up(&self, id: &SessionId) -> Option<u32> {
        let hint = self.hints.get(id.number as usize % HINTS)?;
        let slot = *self.places.get(id)?;
        hint.set(slot);
        Some(slot)
    }

    /// Is there an entry of that name?
    #[inline]
    pub fn contains_key(&self, id: &SessionId) -> bool {
        self.find(id).is_some()
    }

    /// An entry's value.
    #[inline]
    pub fn get(&self, id: &SessionId) -> Option<&V> {
        self.at(self.find(id)?).map(|entry| &entry.1)
    }

    /// The same, to be changed.
    #[inline]
    pub fn get_mut(&mut self, id: &SessionId) -> Option<&mut V> {
        self.at_mut(self.find(id)?)
    }

    /// Sets an entry; the value that it had.
    pub fn insert(&mut self, id: SessionId, value: V) -> Option<V> {
        let entry = Some(Box::new((id, value)));
        let slot = self.free.pop().unwrap_or(self.slots.len() as u32);
        match self.slots.get_mut(slot as usize) {
            Some(free) => *free = entry,
            None => self.slots.push(entry),
        }
        if let Some(hint) = self.hints.get(id.number as usize % HINTS) {
            hint.set(slot);
        }
        let before = self.places.insert(id, slot)?;
        self.free.push(before);
        let entry = self.slots.get_mut(before as usize)?.take();
        entry.map(|entry| entry.1)
    }

    /// Takes an entry out; its value.
    pub fn remove(&mut self, id: &SessionId) -> Option<V> {
        let slot = self.places.remove(id)?;
        let entry = self.slots.get_mut(slot as usize)?.take();
        self.free.push(slot);
        entry.map(|entry| entry.1)
    }

    /// The names, in order.
    pub fn keys(&self) -> impl Iterator<Item = &SessionId> {
        self.places.keys()
    }

    /// All values, in the order of the names.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        let entries = self.places.values().filter_map(|slot| self.at(*slot));
        entries.map(|entry| &entry.1)
    }

    /// The values whose names are in `range`, in order.
    pub fn range(&self, range: impl RangeBounds<SessionId>) -> impl Iterator<Item = &V> {
        let places = self.places.range(range);
        let entries = places.filter_map(|(_, slot)| self.at(*slot));
        entries.map(|entry| &entry.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ops::Bound;

    fn id(number: u64) -> SessionId {
        SessionId { origin: 1, number }
    }

    fn map(numbers: &[u64]) -> BySession<u64> {
        let mut map = BySession::new();
        for number in numbers {
            assert!(map.insert(id(*number), *number).is_none());
        }
        map
    }

    #[test]
    fn a_name_finds_its_own_entry_whoever_was_asked_for_before() {
        // Two of them end alike.
        let mut map = map(&[5, 3, 3 + 256]);
        for number in [3, 3, 259, 5, 3, 259] {
            assert_eq!(map.get(&id(number)), Some(&number));
            assert_eq!(map.get(&id(number + 512)), None);
        }
        *map.get_mut(&id(3)).unwrap() = 7;
        assert_eq!(map.remove(&id(3)), Some(7));
        // The slot of one that has gone is the next one's.
        assert!(!map.contains_key(&id(3)));
        map.insert(id(3 + 512), 0);
        assert_eq!(map.get(&id(3)), None);
        assert_eq!(map.get(&id(3 + 512)), Some(&0));
        assert_eq!((map.len(), map.slots.len()), (3, 3));
    }

    #[test]
    fn the_order_is_that_of_names() {
        let mut map = map(&[5, 3, 9, 1]);
        map.remove(&id(1));
        map.insert(id(7), 7);
        assert!(map.values().eq(&[3, 5, 7, 9]));
        assert!(map.keys().map(|id| id.number).eq([3, 5, 7, 9]));
        let after = (Bound::Excluded(id(5)), Bound::Unbounded);
        assert!(map.range(after).eq(&[7, 9]));
    }

    #[test]
    fn a_name_is_there_once() {
        let mut map = map(&[1]);
        assert_eq!(map.insert(id(1), 4), Some(1));
        assert_eq!((map.len(), map.get(&id(1))), (1, Some(&4)));
    }
}
