//! The page tables and the heap of the running image.

use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::ops::Range;
use core::ptr::NonNull;
use core::slice;

use super::heap::{GlobalHeap, Usage};
use super::map::MemoryMap;
use super::paging::{Flags, FrameSource, MapError, PageTable};
use super::{PAGE, page_down, page_up};
use crate::arch::x86_64::{cpu, entry, tables};
use crate::symbols::{HEADER, Header};
use crate::sync::Lock;

/// A stack with a page below it that faults when touched.
#[repr(C, align(4096))]
pub(crate) struct Guarded<const SIZE: usize> {
    guard: [u8; PAGE as usize],
    stack: UnsafeCell<[u8; SIZE]>,
}

// SAFETY: the contents are only touched by the processor, through the stack pointer.
unsafe impl<const SIZE: usize> Sync for Guarded<SIZE> {}

impl<const SIZE: usize> Guarded<SIZE> {
    pub(crate) const fn new() -> Self {
        Self {
            guard: [0; PAGE as usize],
            stack: UnsafeCell::new([0; SIZE]),
        }
    }

    /// The address just above the stack.
    pub(crate) fn top(&self) -> u64 {
        self.stack.get() as u64 + SIZE as u64
    }

    /// The address of the guard page.
    pub(crate) fn guard(&self) -> u64 {
        self.guard.as_ptr() as u64
    }
}

#[global_allocator]
static HEAP: GlobalHeap = GlobalHeap::empty();

static TABLE: Lock<Option<Live>> = Lock::new(None);

struct Live {
    table: PageTable,
    frames: Frames,
}

/// Frames for page tables: from the memory map during boot, from a small reserve later.
struct Frames {
    map: MemoryMap,
    /// What the loader called usable, before anything was taken.
    ram: MemoryMap,
    reserve: heapless::Vec<u64, 16>,
}

impl Frames {
    /// A page behind the image, if there is one below 4 GiB: a host has found memory for what is near already,
    /// and may have to clear two MiB for a page that is far away.
    fn take(&mut self) -> Option<u64> {
        self.map.take(image().end, 1 << 32)
    }
}

// SAFETY: frames are taken out of a map of usable RAM and never put back; everything below 4 GiB is
// mapped by the boot tables until `install`, and by the new tables after.
unsafe impl FrameSource for Frames {
    fn frame(&mut self) -> Option<NonNull<u8>> {
        let frame = self.take().or_else(|| self.reserve.pop())?;
        NonNull::new(frame as *mut u8)
    }
}

unsafe extern "C" {
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_start: u8;
    static __rodata_end: u8;
    static __data_start: u8;
    static __data_end: u8;
    static __symbols_start: u8;
}

macro_rules! linker_range {
    ($start:ident, $end:ident) => {
        (&raw const $start as u64)..(&raw const $end as u64)
    };
}

/// The image's symbol table; empty if it has none.
pub(crate) fn symbols() -> &'static [u8] {
    let start = &raw const __symbols_start;
    // SAFETY: the linker script keeps a page for the table, so there is a header to be read; if it
    // is one, the loader put as many bytes there as it says, and they are never written.
    unsafe {
        let header = slice::from_raw_parts(start, HEADER);
        let len = Header::parse(header).and_then(|header| header.len());
        slice::from_raw_parts(start, len.unwrap_or(0))
    }
}

fn symbols_range() -> Range<u64> {
    let range = symbols().as_ptr_range();
    range.start as u64..range.end as u64
}

/// The range the image occupies, its symbol table included.
pub(crate) fn image() -> Range<u64> {
    let symbols = symbols_range();
    let data = linker_range!(__data_start, __data_end);
    let start = &raw const __text_start as u64;
    start..data.end.max(symbols.end)
}

/// Builds and loads page tables with W^X and guard pages. `map` is all usable RAM; the image is
/// taken out here, and so is what is to be kept.
pub(crate) fn install(
    mut map: MemoryMap,
    keep: impl Iterator<Item = Range<u64>>,
) -> Result<(), MapError> {
    map.remove(0..PAGE); // a null pointer must fault
    let ram = map.clone();
    map.remove(image());
    keep.for_each(|range| map.remove(range));
    let mut frames = Frames {
        map,
        ram,
        reserve: heapless::Vec::new(),
    };
    let mut table = PageTable::new(&mut frames)?;

    let pages = |range: Range<u64>| page_down(range.start)..page_up(range.end).unwrap_or(0);
    let sections = [
        (linker_range!(__text_start, __text_end), Flags::TEXT),
        (linker_range!(__rodata_start, __rodata_end), Flags::RODATA),
        (linker_range!(__data_start, __data_end), Flags::DATA),
        (symbols_range(), Flags::RODATA),
    ];
    let ram: heapless::Vec<Range<u64>, { super::map::MAX_RANGES }> = frames.ram.ranges().collect();
    for range in ram {
        table.map(range, Flags::DATA, &mut frames)?;
    }
    for (range, flags) in sections {
        if !range.is_empty() {
            table.map(pages(range), flags, &mut frames)?;
        }
    }
    for (_, guard, _) in stacks() {
        table.unmap_page(guard, &mut frames)?;
    }
    while !frames.reserve.is_full() {
        let Some(frame) = frames.take() else {
            break;
        };
        let _ = frames.reserve.push(frame);
    }
    // SAFETY: the image and all RAM, stacks included, are mapped where they were, with the rights
    // their contents need.
    unsafe { cpu::load_page_table(table.root()) };
    // SAFETY: just loaded others.
    unsafe { entry::retire_boot_tables() };
    *TABLE.lock() = Some(Live { table, frames });
    Ok(())
}

/// Every stack: purpose, guard page, top.
pub(crate) fn stacks() -> impl Iterator<Item = (&'static str, u64, u64)> {
    let main = ("main", entry::STACK.guard(), entry::STACK.top());
    core::iter::once(main).chain(tables::stacks())
}

/// The stack whose guard page an address lies in.
pub(crate) fn guarded_stack(address: u64) -> Option<&'static str> {
    stacks()
        .find_map(|(purpose, guard, _)| (guard..guard + PAGE).contains(&address).then_some(purpose))
}

/// The saved frame pointer and the return address of a stack frame on one of the stacks.
fn stack_frame(frame: u64) -> Option<(u64, u64)> {
    let inside = stacks().any(|(_, guard, top)| (guard + PAGE..top - 15).contains(&frame));
    if !inside || !frame.is_multiple_of(8) {
        return None;
    }
    // SAFETY: both words lie inside a stack, which is mapped.
    Some(unsafe {
        (
            (frame as *const u64).read_volatile(),
            (frame as *const u64).add(1).read_volatile(),
        )
    })
}

/// The return addresses up the chain of frame pointers. Every frame must lie on a stack, above the
/// one before: a damaged chain ends the walk, not who walks it.
pub(crate) fn callers(mut frame: u64) -> impl Iterator<Item = u64> {
    core::iter::from_fn(move || {
        let (next, address) = stack_frame(frame)?;
        frame = if next > frame { next } else { 0 };
        (address != 0).then_some(address)
    })
}

/// Whether an address lies on the stack that everything runs on but interrupts.
pub(crate) fn on_main_stack(address: u64) -> bool {
    let main = stacks().next();
    main.is_some_and(|(_, guard, top)| (guard + PAGE..top).contains(&address))
}

/// Whether nobody is in the middle of changing the heap or the page tables.
pub(crate) fn at_rest() -> bool {
    HEAP.at_rest() && TABLE.try_lock().is_some()
}

/// Whether an allocation has failed.
pub(crate) fn out_of_memory() -> bool {
    HEAP.failed()
}

/// Gives free small blocks back, as far as they make up pages.
pub(crate) fn reclaim() -> usize {
    HEAP.reclaim()
}

/// Memory for so many bytes that can be done without, if so much may go to it.
pub(crate) fn spare(bytes: usize) -> Option<Vec<u8>> {
    let mut spared = Vec::new();
    if !HEAP.usage().can_spare(bytes) {
        return None;
    }
    if spared.try_reserve_exact(bytes).is_err() {
        HEAP.pardon();
        return None;
    }
    Some(spared)
}

/// How full the heap is.
pub(crate) fn memory() -> Usage {
    HEAP.usage()
}

/// Gives all RAM that is left to the heap. What the boot loader left there (command line, tables)
/// is overwritten from now on.
pub(crate) fn hand_over() -> Usage {
    let mut guard = TABLE.lock();
    if let Some(live) = guard.as_mut() {
        let mut ranges: heapless::Vec<Range<u64>, { super::map::MAX_RANGES }> =
            live.frames.map.ranges().collect();
        live.frames.map = MemoryMap::default();
        let all = ranges
            .iter()
            .map(|range| range.end - range.start)
            .sum::<u64>();
        // The heap keeps a few ranges: the largest are worth most.
        let largest = |ranges: &[Range<u64>]| {
            let lengths = ranges.iter().map(|range| range.end - range.start);
            lengths.enumerate().max_by_key(|(_, length)| *length)
        };
        for i in 0.. {
            let Some((at, _)) = largest(&ranges) else {
                break;
            };
            let range = ranges.swap_remove(at);
            let range = range.start as usize..range.end as usize;
            // SAFETY: usable RAM that is mapped and that nobody has taken.
            unsafe {
                match i {
                    0 => HEAP.add_first(range, all as usize),
                    _ => HEAP.add(range),
                }
            }
        }
    }
    HEAP.usage()
}

/// Maps device registers. `None` if the range is nonsense or overlaps RAM.
pub(crate) fn map_device(base: u64, len: u64) -> Option<()> {
    map_outside_ram(base, len, Flags::DEVICE)
}

/// The same for a screen's memory, which is written only and in any order.
pub(crate) fn map_screen(base: u64, len: u64) -> Option<()> {
    cpu::allow_write_combining();
    map_outside_ram(base, len, Flags::SCREEN)
}

fn map_outside_ram(base: u64, len: u64, flags: Flags) -> Option<()> {
    let end = base.checked_add(len).filter(|&end| end > base)?;
    let range = page_down(base)..page_up(end)?;
    let mut guard = TABLE.lock();
    let live = guard.as_mut()?;
    if live.frames.ram.overlaps(range.clone()) || range.start == 0 {
        return None;
    }
    if live.table.map(range, flags, &mut live.frames).ok()? {
        // SAFETY: the same tables again, for a TLB without what was there before.
        unsafe { cpu::load_page_table(live.table.root()) };
    }
    Some(())
}

/// Physical memory that firmware filled (tables), to be read during boot only: what lies in usable
/// RAM is overwritten after [`hand_over`].
pub(crate) fn physical_bytes(base: u64, len: usize) -> Option<&'static [u8]> {
    let end = base.checked_add(len as u64)?;
    if len == 0 || base < PAGE || end > 1 << 46 {
        return None;
    }
    let in_ram = TABLE.lock().as_ref()?.frames.ram.contains(base..end);
    if !in_ram {
        map_outside_ram(base, len as u64, Flags::RODATA)?;
    }
    // SAFETY: RAM, which is mapped as a whole, or mapped just now outside of it.
    Some(unsafe { slice::from_raw_parts(base as *const u8, len) })
}

/// Zeroes what a loader left for the boot alone and [`install`] kept out of the heap: there may be keys in it.
/// What does not lie in RAM, or in the image's, stays.
pub(crate) fn wipe(kept: Range<u64>) {
    let guard = TABLE.lock();
    let Some(live) = guard.as_ref() else { return };
    let image = image();
    let apart = kept.end <= image.start || kept.start >= image.end;
    if kept.is_empty() || kept.start < PAGE || !apart || !live.frames.ram.contains(kept.clone()) {
        return;
    }
    let len = (kept.end - kept.start) as usize;
    // SAFETY: RAM, mapped writable as a whole but for the image, and neither page tables nor the heap have it.
    unsafe { core::ptr::write_bytes(kept.start as *mut u8, 0, len) };
}

/// Walks the page tables the processor uses and finds what they allow that they should not.
pub(crate) fn audit() -> Audit {
    let mut audit = Audit::default();
    let guard = TABLE.lock();
    let Some(live) = guard.as_ref() else {
        audit.object(true, "no page tables");
        return audit;
    };
    let pages = |range: Range<u64>| page_down(range.start)..page_up(range.end).unwrap_or(0);
    let text = pages(linker_range!(__text_start, __text_end));
    let read_only = [
        pages(linker_range!(__rodata_start, __rodata_end)),
        pages(symbols_range()),
    ];
    let overlap = |a: &Range<u64>, b: &Range<u64>| a.start < b.end && b.start < a.end;
    live.table.visit(|range, flags| {
        let writable = flags.contains(Flags::WRITE);
        let executable = !flags.contains(Flags::NO_EXECUTE);
        let size = range.end - range.start;
        audit.mapped += size;
        audit.large += u64::from(size > PAGE);
        audit.executable += if executable { size } else { 0 };
        audit.violations += usize::from(writable && executable);
        audit.object(flags.contains(Flags::USER), "a page is open to ring 3");
        let code = overlap(&range, &text);
        audit.object(executable && !code, "a page without code is executable");
        audit.object(code && writable, "code is writable");
        let constant = read_only.iter().any(|section| overlap(&range, section));
        audit.object(constant && writable, "constants are writable");
    });
    for (_, guard, _) in stacks() {
        audit.guards += usize::from(live.table.flags(guard).is_none());
    }
    let code = text.end - text.start;
    audit.object(audit.violations > 0, "a page is writable and executable");
    audit.object(audit.executable != code, "not all code is executable");
    audit.object(
        audit.large == 0,
        "no large page: half of this is not tested",
    );
    audit.object(audit.guards != stacks().count(), "a guard page is missing");
    audit.object(
        live.table.flags(0).is_some(),
        "a null pointer does not fault",
    );
    audit.object(
        cpu::page_table() != live.table.root(),
        "other tables in use",
    );
    audit.object(!entry::boot_tables_retired(), "the boot tables are intact");
    if let Some(missing) = cpu::unprotected() {
        audit.object(true, missing);
    }
    audit
}

/// What [`audit`] found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Audit {
    /// Bytes mapped.
    pub mapped: u64,
    /// Pages of 2 MiB or more.
    pub large: u64,
    /// Bytes that may be executed.
    pub executable: u64,
    /// Pages both writable and executable.
    pub violations: usize,
    /// Guard pages in place.
    pub guards: usize,
    /// What is wrong: the first thing found.
    pub wrong: Option<&'static str>,
}

impl Audit {
    fn object(&mut self, wrong: bool, what: &'static str) {
        if wrong {
            self.wrong.get_or_insert(what);
        }
    }
}
