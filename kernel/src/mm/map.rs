//! The memory map: which physical ranges are RAM, as the boot loader tells it.
//!
//! A loader is a stranger: ranges may overlap, wrap, be empty or come in any order. [`MemoryMap`]
//! keeps RAM as sorted, disjoint, page-aligned ranges; whatever anybody calls reserved is not RAM,
//! whatever else is said about it.

use core::ops::Range;

use super::{PAGE, page_down, page_up};

/// The most ranges a map keeps. Real maps have ten; further ones are dropped, smallest first.
pub const MAX_RANGES: usize = 64;

/// Sorted, disjoint, page-aligned ranges of usable RAM.
#[derive(Clone, Debug, Default)]
pub struct MemoryMap {
    ranges: heapless::Vec<Range<u64>, MAX_RANGES>,
}

/// What a loader says about a range of physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ordinary memory, free to use.
    Usable,
    /// Anything else: firmware, tables, holes, bad memory.
    Reserved,
}

impl MemoryMap {
    /// Builds the map from a loader's list of `(start, length, kind)` in any order.
    pub fn from_entries(entries: impl Iterator<Item = (u64, u64, Kind)> + Clone) -> Self {
        let mut map = Self::default();
        for (start, len, kind) in entries.clone() {
            if kind == Kind::Usable {
                map.insert(start..start.saturating_add(len));
            }
        }
        for (start, len, kind) in entries {
            if kind == Kind::Reserved {
                map.remove(start..start.saturating_add(len));
            }
        }
        map
    }

    /// Adds a range of RAM; only whole pages inside it count. Overlaps are merged.
    pub fn insert(&mut self, range: Range<u64>) {
        let Some(mut start) = page_up(range.start) else {
            return;
        };
        let mut end = page_down(range.end);
        if start >= end {
            return;
        }
        self.ranges.retain(|other| {
            let apart = other.end < start || end < other.start;
            if !apart {
                start = start.min(other.start);
                end = end.max(other.end);
            }
            apart
        });
        self.push(start..end);
    }

    /// Takes a range out; every page it touches is gone.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.start >= range.end {
            return;
        }
        let start = page_down(range.start);
        let end = page_up(range.end).unwrap_or(page_down(u64::MAX));
        let mut rest: heapless::Vec<Range<u64>, 2> = heapless::Vec::new();
        let mut at = 0;
        while let Some(old) = self.ranges.get(at).cloned() {
            if old.end <= start || end <= old.start {
                at += 1;
                continue;
            }
            self.ranges.remove(at);
            // A hole splits at most one range in two; all others lose an end.
            if old.start < start {
                let _ = rest.push(old.start..start);
            }
            if end < old.end {
                let _ = rest.push(end..old.end);
            }
        }
        for piece in rest {
            self.push(piece);
        }
    }

    /// The ranges, lowest first.
    pub fn ranges(&self) -> impl DoubleEndedIterator<Item = Range<u64>> + '_ {
        self.ranges.iter().cloned()
    }

    /// Bytes of RAM in the map.
    pub fn total(&self) -> u64 {
        self.ranges
            .iter()
            .map(|range| range.end - range.start)
            .sum()
    }

    /// Whether any byte of `range` is RAM of this map.
    pub fn overlaps(&self, range: Range<u64>) -> bool {
        self.ranges
            .iter()
            .any(|ram| range.start < ram.end && ram.start < range.end)
    }

    /// Whether all of `range` is RAM of this map.
    pub fn contains(&self, range: Range<u64>) -> bool {
        self.ranges
            .iter()
            .any(|ram| ram.start <= range.start && range.end <= ram.end)
    }

    /// Takes a page below `limit`: the first at or above `from`, else the first there is.
    pub fn take(&mut self, from: u64, limit: u64) -> Option<u64> {
        let first = |from: u64| {
            let mut starts = self.ranges.iter().filter_map(|range| {
                let start = range.start.max(from);
                let end = range.end.min(limit);
                (start.checked_add(PAGE)? <= end).then_some(start)
            });
            starts.next()
        };
        let page = first(page_up(from)?).or_else(|| first(0))?;
        self.remove(page..page + PAGE);
        Some(page)
    }

    fn push(&mut self, range: Range<u64>) {
        if self.ranges.is_full() {
            let size = |range: &Range<u64>| range.end - range.start;
            let smallest = (0..self.ranges.len()).min_by_key(|&i| size(&self.ranges[i]));
            match smallest {
                Some(i) if size(&self.ranges[i]) < size(&range) => {
                    self.ranges.remove(i);
                }
                _ => return,
            }
        }
        let at = self
            .ranges
            .partition_point(|other| other.start < range.start);
        let _ = self.ranges.insert(at, range);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranges(map: &MemoryMap) -> Vec<Range<u64>> {
        map.ranges().collect()
    }

    fn only(map: &MemoryMap) -> Option<Range<u64>> {
        let all = ranges(map);
        (all.len() == 1).then(|| all[0].clone())
    }

    #[test]
    fn reserved_wins_over_usable_whatever_the_order() {
        let entries = [
            (0x2000, 0x1000, Kind::Reserved),
            (0x0, 0x10000, Kind::Usable),
        ];
        let map = MemoryMap::from_entries(entries.iter().copied());
        assert_eq!(ranges(&map), [0..0x2000, 0x3000..0x10000]);
    }

    #[test]
    fn partly_usable_pages_are_not_used() {
        let mut map = MemoryMap::default();
        map.insert(0x1001..0x4fff);
        assert_eq!(only(&map), Some(0x2000..0x4000));
        map.remove(0x2fff..0x3000);
        assert_eq!(only(&map), Some(0x3000..0x4000));
    }

    #[test]
    fn neighbours_and_overlaps_merge() {
        let mut map = MemoryMap::default();
        map.insert(0x1000..0x2000);
        map.insert(0x3000..0x4000);
        map.insert(0x2000..0x3000);
        assert_eq!(only(&map), Some(0x1000..0x4000));
    }

    #[test]
    fn a_range_to_the_end_of_the_address_space_does_not_wrap() {
        let map =
            MemoryMap::from_entries([(u64::MAX - 0x1800, u64::MAX, Kind::Usable)].into_iter());
        assert!(map.ranges().all(|range| range.start < range.end));
    }

    #[test]
    fn take_prefers_what_comes_first_from_where_it_is_told() {
        let mut map = MemoryMap::default();
        map.insert(0x10_0000..0x10_2000);
        map.insert(0x20_0000..0x20_1000);
        map.insert(0x1_0000_0000..0x1_1000_0000);
        let mut take = |from| map.take(from, 1 << 32);
        assert_eq!(take(0x10_0001), Some(0x10_1000));
        assert_eq!(take(0x10_0001), Some(0x20_0000));
        assert_eq!(take(0x10_0001), Some(0x10_0000), "before it");
        assert_eq!(take(0x10_0001), None, "not beyond the limit");
        assert_eq!(take(u64::MAX), None);
    }

    proptest! {
        #[test]
        fn ranges_stay_sorted_disjoint_and_aligned(
            entries in prop::collection::vec((any::<u64>(), any::<u64>(), any::<bool>()), 0..120),
        ) {
            let map = MemoryMap::from_entries(entries.into_iter().map(|(start, len, usable)| {
                (start >> 30, len >> 40, if usable { Kind::Usable } else { Kind::Reserved })
            }));
            let ranges = ranges(&map);
            for range in &ranges {
                prop_assert!(range.start < range.end);
                prop_assert_eq!(range.start % 4096, 0);
                prop_assert_eq!(range.end % 4096, 0);
            }
            for pair in ranges.windows(2) {
                prop_assert!(pair[0].end < pair[1].start);
            }
        }
    }
}
