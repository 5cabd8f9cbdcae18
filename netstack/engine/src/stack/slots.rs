//! Slots with generations: things that come and go, each under a number that never names another one.

use alloc::boxed::Box;
use alloc::vec::Vec;

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    thing: Option<Box<T>>,
}

/// Things by their numbers. There are as many slots as there were things at a time.
///
/// A number is the slot's index, and above that how often the slot was used before.
#[derive(Debug)]
pub(super) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

/// The number of what is in a slot, in that generation of it.
pub(super) fn number(index: u32, generation: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(index)
}

/// The slot and its generation in a number.
pub(super) fn parts(number: u64) -> (u32, u32) {
    (number as u32, (number >> 32) as u32)
}

impl<T> Slots<T> {
    pub(super) const fn new() -> Slots<T> {
        Slots {
            slots: Vec::new(),
            free: Vec::new(),
        }
    }

    /// How many things there are.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// How many slots there are, empty ones too.
    pub(super) fn size(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn insert(&mut self, thing: T) -> u64 {
        let thing = Some(Box::new(thing));
        if let Some(index) = self.free.pop()
            && let Some(slot) = self.slots.get_mut(index as usize)
        {
            slot.thing = thing;
            return number(index, slot.generation);
        }
        let generation = 0;
        self.slots.push(Slot { generation, thing });
        number((self.slots.len() - 1) as u32, generation)
    }

    pub(super) fn get(&self, of: u64) -> Option<&T> {
        let (index, generation) = parts(of);
        let slot = self.slots.get(index as usize)?;
        let thing = slot.thing.as_deref();
        thing.filter(|_| slot.generation == generation)
    }

    pub(super) fn get_mut(&mut self, of: u64) -> Option<&mut T> {
        let (index, generation) = parts(of);
        let slot = self.slots.get_mut(index as usize)?;
        let current = slot.generation == generation;
        slot.thing.as_deref_mut().filter(|_| current)
    }

    /// What is in a slot at present, and its number.
    pub(super) fn at(&self, index: u32) -> Option<(u64, &T)> {
        let slot = self.slots.get(index as usize)?;
        let thing = slot.thing.as_deref()?;
        Some((number(index, slot.generation), thing))
    }

    /// The same, to be changed.
    pub(super) fn at_mut(&mut self, index: usize) -> Option<&mut T> {
        self.slots.get_mut(index)?.thing.as_deref_mut()
    }

    pub(super) fn remove(&mut self, of: u64) -> Option<T> {
        let (index, generation) = parts(of);
        let slot = self.slots.get_mut(index as usize)?;
        if slot.generation != generation {
            return None;
        }
        let thing = slot.thing.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
        Some(*thing)
    }
}

#[cfg(test)]
mod tests {
    use super::Slots;

    #[test]
    fn a_number_never_names_what_came_after() {
        let mut slots = Slots::new();
        let numbers = [slots.insert('a'), slots.insert('b')];
        assert_eq!(slots.remove(numbers[0]), Some('a'));
        assert_eq!(slots.remove(numbers[0]), None);
        let later = slots.insert('c');
        assert_ne!(later, numbers[0]);
        assert_eq!(slots.get(numbers[0]), None);
        assert_eq!(slots.get_mut(numbers[0]), None);
        assert_eq!(slots.remove(numbers[0]), None);
        assert_eq!(slots.get(later), Some(&'c'));
        assert_eq!(
            (slots.len(), slots.size()),
            (2, 2),
            "the slot is used again"
        );
        assert_eq!(slots.at(0), Some((later, &'c')));
        assert_eq!(slots.at_mut(1), Some(&mut 'b'));
        assert_eq!(slots.at(2), None);
    }
}
