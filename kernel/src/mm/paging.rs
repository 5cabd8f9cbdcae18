//! Page tables: four levels, identity-mapped, 2 MiB pages where the range allows.
//!
//! [`PageTable`] builds them; [`PageTable::visit`] walks them, which is how the image checks at boot
//! that no page is both writable and executable. Both work on any machine where a frame's address
//! can be dereferenced, so they are tested on the host.

use core::ops::Range;
use core::ptr::NonNull;

use bitflags::bitflags;

use super::PAGE;

const LARGE: u64 = 2 << 20;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const ENTRIES: usize = 512;
/// Half of what four levels can address; the upper, sign-extended half is not used.
const LIMIT: u64 = 1 << 47;

bitflags! {
    /// Page table entry flags (Intel SDM volume 3, section 5.5).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Flags: u64 {
        /// The page is there.
        const PRESENT = 1;
        /// Writes are allowed.
        const WRITE = 1 << 1;
        /// Ring 3 may use the page. None may.
        const USER = 1 << 2;
        /// Together with [`Flags::UNCACHED`]: device memory.
        const WRITE_THROUGH = 1 << 3;
        /// Accesses bypass the cache.
        const UNCACHED = 1 << 4;
        /// Above level 1: this entry maps a page, not a table.
        const LARGE = 1 << 7;
        /// Instruction fetches fault.
        const NO_EXECUTE = 1 << 63;
    }
}

impl Flags {
    /// Code.
    pub const TEXT: Self = Self::PRESENT;
    /// Constants.
    pub const RODATA: Self = Self::PRESENT.union(Self::NO_EXECUTE);
    /// Variables, heap, stacks.
    pub const DATA: Self = Self::RODATA.union(Self::WRITE);
    /// Device registers.
    pub const DEVICE: Self = Self::DATA.union(Self::WRITE_THROUGH).union(Self::UNCACHED);
    /// A screen, with [`crate::arch::x86_64::cpu::allow_write_combining`].
    pub const SCREEN: Self = Self::DATA.union(Self::WRITE_THROUGH);
}

/// Why a range was not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MapError {
    /// No frame was left for a table.
    OutOfFrames,
    /// The range is empty, unaligned or beyond what four levels reach.
    BadRange,
}

/// Where tables get their frames from.
///
/// # Safety
///
/// `frame` must hand out page-aligned, exclusively owned frames that stay valid for good and whose
/// address can be dereferenced.
pub unsafe trait FrameSource {
    /// One 4 KiB frame, contents arbitrary.
    fn frame(&mut self) -> Option<NonNull<u8>>;
}

/// A tree of page tables.
#[derive(Debug)]
pub struct PageTable {
    root: NonNull<[u64; ENTRIES]>,
}

// SAFETY: the tree owns its tables (they come from a `FrameSource` and are never given away).
unsafe impl Send for PageTable {}

impl PageTable {
    /// An empty tree: nothing is mapped.
    pub fn new(frames: &mut impl FrameSource) -> Result<Self, MapError> {
        Ok(Self {
            root: new_table(frames)?,
        })
    }

    /// The address of the root table, for CR3.
    pub fn root(&self) -> u64 {
        self.root.as_ptr() as u64
    }

    /// Maps `range` to itself with `flags`, replacing what was there.
    ///
    /// `true`: some of it was mapped otherwise before, so the caller must invalidate the TLB.
    pub fn map(
        &mut self,
        range: Range<u64>,
        flags: Flags,
        frames: &mut impl FrameSource,
    ) -> Result<bool, MapError> {
        if range.start >= range.end
            || range.end > LIMIT
            || !range.start.is_multiple_of(PAGE)
            || !range.end.is_multiple_of(PAGE)
        {
            return Err(MapError::BadRange);
        }
        let mut at = range.start;
        let mut replaced = false;
        while at < range.end {
            let next = (at + LARGE) & !(LARGE - 1);
            let end = next.min(range.end);
            let slot = self.level2_entry(at, frames)?;
            // SAFETY: `slot` points into a live table of this tree, which `&mut self` owns.
            let old = unsafe { *slot };
            // A large page replaces a table of small ones only if there is none: tables are never
            // freed, and guard pages made earlier must survive.
            if end - at == LARGE && (old == 0 || old & Flags::LARGE.bits() != 0) {
                let new = at | flags.bits() | Flags::LARGE.bits();
                replaced |= old != 0 && old != new;
                // SAFETY: as above.
                unsafe { *slot = new };
            } else {
                let table = small_pages(slot, frames)?;
                for page in (at..end).step_by(PAGE as usize) {
                    let entry = entry(table, page >> 12);
                    let new = page | flags.bits();
                    // SAFETY: `table` is a live table of this tree.
                    unsafe {
                        replaced |= *entry != 0 && *entry != new;
                        *entry = new;
                    }
                }
            }
            at = end;
        }
        Ok(replaced)
    }

    /// Takes one page out, so that touching it faults. The caller invalidates the TLB.
    pub fn unmap_page(&mut self, page: u64, frames: &mut impl FrameSource) -> Result<(), MapError> {
        if page >= LIMIT || !page.is_multiple_of(PAGE) {
            return Err(MapError::BadRange);
        }
        let table = small_pages(self.level2_entry(page, frames)?, frames)?;
        // SAFETY: `table` is a live table of this tree, which `&mut self` owns.
        unsafe { *entry(table, page >> 12) = 0 };
        Ok(())
    }

    /// What `address` is mapped with, or `None` if touching it faults.
    pub fn flags(&self, address: u64) -> Option<Flags> {
        let mut found = None;
        self.visit(|range, flags| {
            if range.contains(&address) {
                found = Some(flags);
            }
        });
        found
    }

    /// Calls `each` with every mapped page (4 KiB, 2 MiB or 1 GiB) and what the processor grants
    /// there: the flags of its entry, less what a table above it withholds.
    pub fn visit(&self, mut each: impl FnMut(Range<u64>, Flags)) {
        self.walk(self.root, 4, 0, Flags::WRITE | Flags::USER, &mut each);
    }

    fn walk(
        &self,
        table: NonNull<[u64; ENTRIES]>,
        level: u32,
        base: u64,
        above: Flags,
        each: &mut dyn FnMut(Range<u64>, Flags),
    ) {
        let size = PAGE << (9 * (level - 1));
        for (i, &entry) in self.table(table).iter().enumerate() {
            let mut flags = Flags::from_bits_truncate(entry);
            if !flags.contains(Flags::PRESENT) {
                continue;
            }
            flags -= (Flags::WRITE | Flags::USER) - above;
            flags |= above & Flags::NO_EXECUTE;
            let start = base + i as u64 * size;
            if level == 1 || flags.contains(Flags::LARGE) {
                each(start..start + size, flags);
            } else {
                self.walk(child(entry), level - 1, start, flags, each);
            }
        }
    }

    /// The entry for the 2 MiB around `at`.
    fn level2_entry(
        &mut self,
        at: u64,
        frames: &mut impl FrameSource,
    ) -> Result<*mut u64, MapError> {
        let l3 = descend(self.root, at >> 39, frames)?;
        Ok(entry(descend(l3, at >> 30, frames)?, at >> 21))
    }

    fn table(&self, table: NonNull<[u64; ENTRIES]>) -> &[u64; ENTRIES] {
        // SAFETY: only called with the root and with children found in live tables.
        unsafe { table.as_ref() }
    }
}

/// Flags of an entry that points to a table: rights are decided at the leaves.
const TABLE: u64 = Flags::PRESENT.union(Flags::WRITE).bits();

fn child(entry: u64) -> NonNull<[u64; ENTRIES]> {
    NonNull::new((entry & ADDRESS) as *mut _).unwrap_or(NonNull::dangling())
}

fn entry(table: NonNull<[u64; ENTRIES]>, index: u64) -> *mut u64 {
    // SAFETY: the index is masked to the 512 entries of the table.
    unsafe {
        table
            .as_ptr()
            .cast::<u64>()
            .add(index as usize & (ENTRIES - 1))
    }
}

/// The table of small pages behind a level 2 entry; made, or made out of a large page, if there is
/// none. `slot` must point into a live table.
fn small_pages(
    slot: *mut u64,
    frames: &mut impl FrameSource,
) -> Result<NonNull<[u64; ENTRIES]>, MapError> {
    // SAFETY: the caller got `slot` from `level2_entry`.
    let old = unsafe { *slot };
    if old != 0 && old & Flags::LARGE.bits() == 0 {
        return Ok(child(old));
    }
    let table = new_table(frames)?;
    if old != 0 {
        for i in 0..ENTRIES as u64 {
            // SAFETY: the table is new and ours; the large page is split into equal parts.
            unsafe { *entry(table, i) = (old & !Flags::LARGE.bits()) + i * PAGE };
        }
    }
    // SAFETY: as above.
    unsafe { *slot = table.as_ptr() as u64 | TABLE };
    Ok(table)
}

fn descend(
    table: NonNull<[u64; ENTRIES]>,
    index: u64,
    frames: &mut impl FrameSource,
) -> Result<NonNull<[u64; ENTRIES]>, MapError> {
    let slot = entry(table, index);
    // SAFETY: `table` is a live table of a tree the caller holds `&mut`.
    unsafe {
        if *slot & Flags::PRESENT.bits() == 0 {
            *slot = new_table(frames)?.as_ptr() as u64 | TABLE;
        }
        Ok(child(*slot))
    }
}

fn new_table(frames: &mut impl FrameSource) -> Result<NonNull<[u64; ENTRIES]>, MapError> {
    let frame = frames
        .frame()
        .ok_or(MapError::OutOfFrames)?
        .cast::<[u64; ENTRIES]>();
    // SAFETY: a `FrameSource` gives exclusive, dereferenceable frames of 4 KiB.
    unsafe { frame.as_ptr().write([0; ENTRIES]) };
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::alloc::{Layout, alloc};

    struct Frames(usize);

    // SAFETY: freshly allocated, leaked pages.
    unsafe impl FrameSource for Frames {
        fn frame(&mut self) -> Option<NonNull<u8>> {
            self.0 = self.0.checked_sub(1)?;
            // SAFETY: the layout is not empty.
            NonNull::new(unsafe { alloc(Layout::from_size_align(4096, 4096).unwrap()) })
        }
    }

    #[test]
    fn pages_get_the_flags_they_were_mapped_with() {
        let mut frames = Frames(64);
        let mut table = PageTable::new(&mut frames).unwrap();
        table.map(0x1000..0x3000, Flags::TEXT, &mut frames).unwrap();
        table
            .map(0x3000..0x60_0000, Flags::DATA, &mut frames)
            .unwrap();
        assert_eq!(table.flags(0), None);
        assert_eq!(table.flags(0x2fff), Some(Flags::TEXT));
        assert_eq!(table.flags(0x3000), Some(Flags::DATA));
        assert_eq!(table.flags(0x20_0000), Some(Flags::DATA | Flags::LARGE));
        assert_eq!(table.flags(0x60_0000), None);
    }

    #[test]
    fn a_guard_page_splits_a_large_page_and_survives_remapping() {
        let mut frames = Frames(64);
        let mut table = PageTable::new(&mut frames).unwrap();
        table.map(0..4 << 20, Flags::DATA, &mut frames).unwrap();
        table.unmap_page(0x20_1000, &mut frames).unwrap();
        assert_eq!(table.flags(0x20_0fff), Some(Flags::DATA));
        assert_eq!(table.flags(0x20_1800), None);
        assert_eq!(table.flags(0x20_2000), Some(Flags::DATA));
    }

    #[test]
    fn only_a_change_asks_for_the_tlb_to_be_invalidated() {
        let mut frames = Frames(64);
        let mut table = PageTable::new(&mut frames).unwrap();
        let mut map = |range, flags| table.map(range, flags, &mut frames);
        assert_eq!(map(0x1000..0x60_0000, Flags::DATA), Ok(false));
        assert_eq!(map(0x1000..0x60_0000, Flags::DATA), Ok(false));
        assert_eq!(map(0x1000..0x2000, Flags::TEXT), Ok(true));
        assert_eq!(map(0x20_1000..0x20_2000, Flags::DATA), Ok(false));
        assert_eq!(map(0x20_1000..0x20_2000, Flags::RODATA), Ok(true));
    }

    #[test]
    fn what_a_table_withholds_its_pages_do_not_have() {
        let mut frames = Frames(64);
        let mut table = PageTable::new(&mut frames).unwrap();
        table.map(0x1000..0x2000, Flags::DATA, &mut frames).unwrap();
        let l3 = descend(table.root, 0, &mut frames).unwrap();
        // SAFETY: a live table of this tree; as if a bug had written there.
        unsafe {
            *entry(l3, 0) &= !Flags::WRITE.bits();
            *entry(l3, 1) = (1 << 30) | (Flags::TEXT | Flags::WRITE | Flags::LARGE).bits();
        }
        assert_eq!(table.flags(0x1000), Some(Flags::RODATA));
        let giant = Flags::TEXT | Flags::WRITE | Flags::LARGE;
        assert_eq!(table.flags(0x7fff_ffff), Some(giant), "1 GiB");
        assert_eq!(table.flags(0x8000_0000), None);
    }

    #[test]
    fn running_out_of_frames_is_an_error() {
        let mut frames = Frames(2);
        let mut table = PageTable::new(&mut frames).unwrap();
        assert_eq!(
            table.map(0..0x1000, Flags::DATA, &mut frames),
            Err(MapError::OutOfFrames)
        );
    }

    #[test]
    fn ranges_that_make_no_sense_are_refused() {
        let mut frames = Frames(8);
        let mut table = PageTable::new(&mut frames).unwrap();
        for (start, end) in [(0, 0), (0x2000, 0x1000), (0x10, 0x1000), (0, 1 << 48)] {
            assert_eq!(
                table.map(start..end, Flags::DATA, &mut frames),
                Err(MapError::BadRange)
            );
        }
    }
}
