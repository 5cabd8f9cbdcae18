//! Counts by name.

use alloc::vec::Vec;

/// How many of each, in the order of their names. There are some dozens of names, all known when the code
/// is written: a look-up is a binary search, and a new one moves those behind it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counts(Vec<(&'static str, u64)>);

impl Counts {
    /// An empty one.
    pub const fn new() -> Counts {
        Counts(Vec::new())
    }

    /// One more of these.
    pub fn add(&mut self, name: &'static str) {
        self.add_many(name, 1);
    }

    /// So many more; the count stays at the largest number there is.
    pub fn add_many(&mut self, name: &'static str, more: u64) {
        match self.0.binary_search_by_key(&name, |(name, _)| name) {
            Ok(index) => self.0[index].1 = self.0[index].1.saturating_add(more),
            Err(index) => self.0.insert(index, (name, more)),
        }
    }

    /// How many of these were counted.
    pub fn get(&self, name: &str) -> u64 {
        let found = self.0.binary_search_by_key(&name, |(name, _)| name);
        found.map_or(0, |index| self.0[index].1)
    }

    /// Every name and its count, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().copied()
    }

    /// Of all names together.
    pub fn total(&self) -> u64 {
        self.iter().map(|(_, count)| count).sum()
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_has_its_count_whatever_the_order() {
        let mut counts = Counts::new();
        assert!(counts.is_empty());
        for name in ["moved", "lost", "moved", "asked"] {
            counts.add(name);
        }
        counts.add_many("lost", u64::MAX);
        let all: Vec<_> = counts.iter().collect();
        assert_eq!(all, [("asked", 1), ("lost", u64::MAX), ("moved", 2)]);
        assert_eq!((counts.get("moved"), counts.get("found")), (2, 0));
    }
}
