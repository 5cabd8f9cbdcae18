//! The heap: all RAM the kernel does not use itself, behind the global allocator.
//!
//! Small blocks (up to 2 KiB) come from free lists by size class, so the common case is a pop and a
//! push; what the classes need they take, a page at a time, from `linked_list_allocator`, which also
//! serves large and page-aligned blocks. There is one linked list for each contiguous range of RAM.
//! Pages whose blocks are all free go back when memory is short ([`Heap::reclaim`]): else a crowd
//! of small blocks would leave nothing for large ones for good.
//!
//! Memory can end by going to pieces: much is free, but nothing in one place. So an eighth is a
//! reserve, a list of its own for what the others have no place for. Whether that is in use says
//! that memory is short when no count of free bytes does ([`Usage::left`]).

use core::alloc::{GlobalAlloc, Layout};
use core::ops::Range;
use core::ptr::{self, NonNull};

use linked_list_allocator::Heap as LinkedList;

use crate::sync::Lock;

/// The sizes of small blocks. All are multiples of 16, which is also their alignment.
const CLASSES: [usize; 12] = [16, 32, 48, 64, 96, 128, 192, 256, 512, 768, 1024, 2048];
/// What a class takes from the linked list at a time; aligned, so that a block's slab is known.
const SLAB: usize = 4096;
const SLAB_LAYOUT: Layout = match Layout::from_size_align(SLAB, SLAB) {
    Ok(layout) => layout,
    Err(_) => panic!("a slab has a valid layout"),
};
/// One part in so many of all memory is the reserve.
const RESERVE: usize = 8;
/// Memory is in pieces when not even the reserve has a block of one part in so many of all: a third of
/// it, as who has looked takes more than one block before somebody looks again.
const PIECE: usize = 3 * RESERVE;
/// The most ranges of RAM the heap manages.
const MAX_RANGES: usize = 8;

/// Which class serves a block of `n * 16` bytes, for n from 0 to 128.
static CLASS_OF: [u8; 129] = {
    let mut table = [0; 129];
    let mut n = 0;
    let mut class = 0;
    while n < table.len() {
        if n * 16 > CLASSES[class] {
            class += 1;
        }
        table[n] = class as u8;
        n += 1;
    }
    table
};

#[derive(Clone, Copy)]
struct FreeBlock {
    next: Option<NonNull<FreeBlock>>,
}

/// How much memory there is and how much is in use, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes the heap manages.
    pub total: usize,
    /// Bytes not available for new blocks. Free small blocks count as used here.
    pub used: usize,
    /// Bytes in free small blocks.
    pub cached: usize,
    /// Whether the reserve is in use.
    pub reserve_used: bool,
    /// Whether no large block can be had, however much is free.
    pub in_pieces: bool,
}

impl Usage {
    /// Bytes that are left for blocks of any size: a quarter at most while the reserve is in use,
    /// none while memory is in pieces.
    pub fn left(&self) -> usize {
        let free = self.total - self.used;
        match self.reserve_used {
            _ if self.in_pieces => 0,
            true => free.min(self.total / 4),
            false => free,
        }
    }

    /// Whether so many bytes may go to something that can be done without: an eighth is kept for
    /// what cannot.
    pub fn can_spare(&self, bytes: usize) -> bool {
        self.left() > self.total / 8 + bytes
    }

    /// Whether [`Heap::reclaim`] would be worth its time.
    pub fn is_worth_reclaiming(&self) -> bool {
        let worth = if self.in_pieces {
            SLAB
        } else {
            self.total / 32
        };
        self.left() <= self.total / 4 && self.cached >= worth
    }
}

/// An allocator over ranges of memory that are given to it.
pub struct Heap {
    classes: [Option<NonNull<FreeBlock>>; CLASSES.len()],
    cached: usize,
    failed: bool,
    ranges: heapless::Vec<LinkedList, MAX_RANGES>,
    /// The memory of the reserve, and its list once it is needed: to write there before would have the host
    /// find memory for it while the image boots.
    kept: Range<usize>,
    reserve: LinkedList,
}

// SAFETY: the heap owns the memory its pointers lead to.
unsafe impl Send for Heap {}

impl Heap {
    /// A heap without memory: every allocation fails.
    pub const fn empty() -> Self {
        Self {
            classes: [None; CLASSES.len()],
            cached: 0,
            failed: false,
            ranges: heapless::Vec::new(),
            kept: 0..0,
            reserve: LinkedList::empty(),
        }
    }

    /// Gives the heap a range of memory. Tiny ranges and those beyond a small maximum are ignored.
    ///
    /// # Safety
    ///
    /// The range must be mapped, writable, used by nobody else and stay so for good.
    pub unsafe fn add(&mut self, range: Range<usize>) {
        let size = range.end.saturating_sub(range.start);
        if size < SLAB || self.ranges.is_full() {
            return;
        }
        // SAFETY: passed on from the caller.
        let list = unsafe { LinkedList::new(range.start as *mut u8, size) };
        let _ = self.ranges.push(list);
    }

    /// Gives the heap its first range, of `all` bytes that it will be given: the end of it becomes
    /// the reserve.
    ///
    /// # Safety
    ///
    /// As for [`Heap::add`].
    pub unsafe fn add_first(&mut self, range: Range<usize>, all: usize) {
        let size = range.end.saturating_sub(range.start);
        let reserve = (all / RESERVE).min(size / 2) & !(SLAB - 1);
        let middle = range.end - reserve;
        let rest = if reserve >= SLAB && self.kept.is_empty() {
            self.kept = middle..range.end;
            range.start..middle
        } else {
            range
        };
        // SAFETY: passed on from the caller.
        unsafe { self.add(rest) };
    }

    fn reserve(&mut self) -> &mut LinkedList {
        if self.reserve.size() == 0 && !self.kept.is_empty() {
            // SAFETY: the heap was given this memory, and nobody has written there yet.
            unsafe {
                self.reserve
                    .init(self.kept.start as *mut u8, self.kept.len())
            };
        }
        &mut self.reserve
    }

    /// How full the heap is.
    pub fn usage(&mut self) -> Usage {
        let lists = || self.ranges.iter().chain([&self.reserve]);
        let total = self.ranges.iter().map(LinkedList::size).sum::<usize>() + self.kept.len();
        let used = lists().map(LinkedList::used).sum();
        let reserve_used = self.reserve.used() > 0;
        Usage {
            total,
            used,
            cached: self.cached,
            reserve_used,
            in_pieces: reserve_used && !self.has_piece(total / PIECE),
        }
    }

    /// Whether the reserve has so much in one piece.
    fn has_piece(&mut self, size: usize) -> bool {
        let Ok(layout) = Layout::from_size_align(size, 16) else {
            return false;
        };
        let Ok(piece) = self.reserve.allocate_first_fit(layout) else {
            return false;
        };
        // SAFETY: just allocated, and not used.
        unsafe { self.reserve.deallocate(piece, layout) };
        true
    }

    #[inline]
    fn class(layout: Layout) -> Option<usize> {
        if layout.align() > 16 {
            return None;
        }
        let class = CLASS_OF.get(layout.size().div_ceil(16))?;
        Some(usize::from(*class))
    }

    /// A block, mostly from a list that has one.
    #[inline]
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        if let Some(class) = Self::class(layout)
            && let Some(block) = self.classes[class]
        {
            // SAFETY: blocks on a free list are owned by the heap and were written by `release`.
            self.classes[class] = unsafe { block.as_ref().next };
            self.cached -= CLASSES[class];
            return Some(block.cast());
        }
        self.allocate_afresh(layout)
    }

    #[inline(never)]
    fn allocate_afresh(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        let Some(class) = Self::class(layout) else {
            return self.allocate_large(layout);
        };
        self.refill(class)?;
        self.classes[class]?;
        self.allocate(layout)
    }

    fn allocate_large(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        let block = self.allocate_fresh(layout);
        if block.is_none() && self.cached >= SLAB && self.reclaim() > 0 {
            return self.allocate_fresh(layout);
        }
        block
    }

    fn allocate_fresh(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        let mut ranges = self.ranges.iter_mut();
        let block = ranges.find_map(|list| list.allocate_first_fit(layout).ok());
        block.or_else(|| self.reserve().allocate_first_fit(layout).ok())
    }

    /// All lists, the reserve last.
    fn lists(&mut self) -> impl Iterator<Item = &mut LinkedList> {
        self.ranges.iter_mut().chain([&mut self.reserve])
    }

    /// Gives the slabs back that nobody uses a block of. Bytes gained. Takes time that grows with
    /// the number of free small blocks.
    pub fn reclaim(&mut self) -> usize {
        let before = self.cached;
        for (class, size) in CLASSES.into_iter().enumerate() {
            let blocks = SLAB / size;
            let mut rest = sort(self.classes[class].take());
            let mut kept = Tail::default();
            while let Some(first) = rest {
                let (run, count, next) = split_slab(first);
                if count == blocks {
                    self.cached -= count * size;
                    // SAFETY: the first of all blocks of a slab is where it begins, and nobody uses
                    // any of them.
                    unsafe { self.release_large(first.cast(), SLAB_LAYOUT) };
                } else {
                    kept.append(run);
                }
                rest = next;
            }
            self.classes[class] = kept.head;
        }
        before - self.cached
    }

    fn refill(&mut self, class: usize) -> Option<()> {
        let size = CLASSES[class];
        let slab = self.allocate_large(SLAB_LAYOUT)?;
        for i in (0..SLAB / size).rev() {
            // SAFETY: the slab is ours, `i * size` lies inside it, and blocks do not overlap.
            unsafe { self.release_small(slab.add(i * size), class) };
        }
        Some(())
    }

    /// # Safety
    ///
    /// `block` must be an unused block of this class, from this heap.
    #[inline]
    unsafe fn release_small(&mut self, block: NonNull<u8>, class: usize) {
        let block = block.cast::<FreeBlock>();
        // SAFETY: the block is unused, at least 16 bytes long and 16-byte aligned.
        unsafe {
            block.write(FreeBlock {
                next: self.classes[class],
            });
        }
        self.classes[class] = Some(block);
        self.cached += CLASSES[class];
    }

    /// # Safety
    ///
    /// `block` must have come from `allocate` with the same layout, and not be used any more.
    #[inline]
    unsafe fn release(&mut self, block: NonNull<u8>, layout: Layout) {
        if let Some(class) = Self::class(layout) {
            // SAFETY: the layout decides the class, so it is the one the block came from.
            return unsafe { self.release_small(block, class) };
        }
        // SAFETY: passed on from the caller.
        unsafe { self.release_large(block, layout) };
    }

    /// # Safety
    ///
    /// `block` must have come from `allocate_large` with the same layout, and not be used any more.
    #[inline(never)]
    unsafe fn release_large(&mut self, block: NonNull<u8>, layout: Layout) {
        let address = block.as_ptr() as usize;
        let owner = self
            .lists()
            .filter(|list| list.size() > 0)
            .find(|list| (list.bottom() as usize..list.top() as usize).contains(&address));
        if let Some(list) = owner {
            // SAFETY: the block came from this list, with this layout.
            unsafe { list.deallocate(block, layout) };
        }
    }
}

/// A list of free blocks and its end.
#[derive(Clone, Copy, Default)]
struct Tail {
    head: Option<NonNull<FreeBlock>>,
    last: Option<NonNull<FreeBlock>>,
}

impl Tail {
    fn append(&mut self, other: Tail) {
        match self.last {
            // SAFETY: blocks on a list of the heap's are free and were written by `release_small`.
            Some(last) => unsafe { (*last.as_ptr()).next = other.head },
            None => self.head = other.head,
        }
        self.last = other.last.or(self.last);
    }
}

/// Cuts off the blocks at the head of a sorted list that are of one slab: them, their number, and
/// what follows.
fn split_slab(first: NonNull<FreeBlock>) -> (Tail, usize, Option<NonNull<FreeBlock>>) {
    let slab = |block: NonNull<FreeBlock>| block.as_ptr() as usize & !(SLAB - 1);
    let (mut last, mut count) = (first, 1);
    loop {
        // SAFETY: as in `Tail::append`.
        let next = unsafe { last.as_ref().next };
        match next {
            Some(block) if slab(block) == slab(first) => (last, count) = (block, count + 1),
            rest => {
                // SAFETY: as above.
                unsafe { (*last.as_ptr()).next = None };
                let run = Tail {
                    head: Some(first),
                    last: Some(last),
                };
                return (run, count, rest);
            }
        }
    }
}

/// Sorts a list of free blocks by address: merges runs of 1, 2, 4 ... blocks, bottom up, as there is
/// no memory to sort with but the blocks.
fn sort(list: Option<NonNull<FreeBlock>>) -> Option<NonNull<FreeBlock>> {
    // `runs[i]` is empty or a sorted list of 2^i blocks, as the bits of a counter.
    let mut runs = [None; usize::BITS as usize];
    let mut rest = list;
    while let Some(block) = rest {
        // SAFETY: as in `Tail::append`.
        unsafe { rest = core::mem::take(&mut (*block.as_ptr()).next) };
        let mut run = Some(block);
        for place in &mut runs {
            match place.take() {
                None => {
                    *place = run;
                    break;
                }
                other => run = merge(other, run),
            }
        }
    }
    runs.into_iter().fold(None, merge)
}

fn merge(
    mut a: Option<NonNull<FreeBlock>>,
    mut b: Option<NonNull<FreeBlock>>,
) -> Option<NonNull<FreeBlock>> {
    let mut merged = Tail::default();
    while let (Some(first), Some(second)) = (a, b) {
        let (block, list) = match first < second {
            true => (first, &mut a),
            false => (second, &mut b),
        };
        // SAFETY: as in `Tail::append`.
        *list = unsafe { block.as_ref().next };
        merged.append(Tail {
            head: Some(block),
            last: Some(block),
        });
    }
    let rest = a.or(b);
    match merged.last {
        // SAFETY: as above.
        Some(last) => unsafe { (*last.as_ptr()).next = rest },
        None => merged.head = rest,
    }
    merged.head
}

/// A [`Heap`] that can be Rust's global allocator.
pub struct GlobalHeap(Lock<Heap>);

impl GlobalHeap {
    /// A heap without memory.
    pub const fn empty() -> Self {
        Self(Lock::new(Heap::empty()))
    }

    /// Gives the heap memory; see [`Heap::add`].
    ///
    /// # Safety
    ///
    /// As for [`Heap::add`].
    pub unsafe fn add(&self, range: Range<usize>) {
        // SAFETY: passed on from the caller.
        unsafe { self.0.lock().add(range) };
    }

    /// Gives the heap its first range; see [`Heap::add_first`].
    ///
    /// # Safety
    ///
    /// As for [`Heap::add`].
    pub unsafe fn add_first(&self, range: Range<usize>, all: usize) {
        // SAFETY: passed on from the caller.
        unsafe { self.0.lock().add_first(range, all) };
    }

    /// Whether nobody is in the middle of changing it.
    pub fn at_rest(&self) -> bool {
        self.0.try_lock().is_some()
    }

    /// How full the heap is.
    pub fn usage(&self) -> Usage {
        self.0.lock().usage()
    }

    /// Gives free slabs back; see [`Heap::reclaim`].
    pub fn reclaim(&self) -> usize {
        self.0.lock().reclaim()
    }

    /// Whether an allocation has failed since boot. Does not wait for the lock: for the panic path.
    pub fn failed(&self) -> bool {
        self.0.try_lock().is_some_and(|heap| heap.failed)
    }

    /// Forgets that: whoever asked could do without.
    pub fn pardon(&self) {
        self.0.lock().failed = false;
    }
}

// SAFETY: blocks are disjoint, aligned and at least as large as asked for: small ones because
// `CLASS_OF` rounds up and slabs are 16-byte aligned, large ones by `linked_list_allocator`.
// Not inlined: the callers are many, and the image holds each of them.
unsafe impl GlobalAlloc for GlobalHeap {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut heap = self.0.lock();
        match heap.allocate(layout) {
            Some(block) => block.as_ptr(),
            None => {
                heap.failed = true;
                ptr::null_mut()
            }
        }
    }

    #[inline(never)]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: `GlobalAlloc` demands what `release` does.
            unsafe { self.0.lock().release(block, layout) };
        }
    }

    #[inline(never)]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: `GlobalAlloc` demands that `new_size`, rounded up, is a valid size.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        if let (Some(old), Some(new)) = (Heap::class(layout), Heap::class(new_layout))
            && old == new
        {
            return block;
        }
        // SAFETY: the new block is distinct from the old one, and both hold the copied length.
        unsafe {
            let new_block = self.alloc(new_layout);
            if !new_block.is_null() {
                ptr::copy_nonoverlapping(block, new_block, layout.size().min(new_size));
                self.dealloc(block, layout);
            }
            new_block
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn heap(sizes: &[usize]) -> Heap {
        let mut heap = Heap::empty();
        for &size in sizes {
            let range = memory(size);
            // SAFETY: leaked, so ours for good.
            unsafe { heap.add(range) };
        }
        heap
    }

    fn heap_with_reserve(sizes: [usize; 2]) -> Heap {
        let mut heap = Heap::empty();
        let [first, second] = sizes.map(memory);
        // SAFETY: leaked, so ours for good.
        unsafe {
            heap.add_first(first, sizes.iter().sum());
            heap.add(second);
        }
        heap
    }

    fn memory(size: usize) -> Range<usize> {
        let start = vec![0u128; size / 16].leak().as_mut_ptr() as usize;
        start..start + size
    }

    #[test]
    fn every_size_is_served_by_a_class_that_holds_it() {
        for size in 0..=2048 {
            let class = Heap::class(Layout::from_size_align(size, 8).unwrap()).unwrap();
            assert!(CLASSES[class] >= size);
            assert!(class == 0 || CLASSES[class - 1] < size);
        }
        assert_eq!(Heap::class(Layout::from_size_align(2049, 8).unwrap()), None);
        assert_eq!(Heap::class(Layout::from_size_align(64, 32).unwrap()), None);
    }

    #[test]
    fn memory_of_all_ranges_is_used() {
        let mut heap = heap(&[64 << 10, 64 << 10]);
        let layout = Layout::from_size_align(48 << 10, 16).unwrap();
        let first = heap.allocate(layout).unwrap();
        let second = heap.allocate(layout).unwrap();
        assert_eq!(heap.allocate(layout), None);
        // SAFETY: just allocated with this layout.
        unsafe {
            heap.release(second, layout);
            heap.release(first, layout);
        }
        assert_eq!(heap.usage().used, 0);
    }

    #[test]
    fn a_full_heap_says_no() {
        let mut heap = heap(&[16384]);
        let layout = Layout::from_size_align(1024, 16).unwrap();
        let count = core::iter::from_fn(|| heap.allocate(layout)).count();
        assert!((8..=16).contains(&count), "{count}");
        assert_eq!(Heap::empty().allocate(layout), None);
    }

    #[test]
    fn free_small_blocks_make_room_for_large_ones_again() {
        let mut heap = heap(&[256 << 10]);
        let small = Layout::from_size_align(192, 16).unwrap();
        let large = Layout::from_size_align(128 << 10, 16).unwrap();
        let blocks: Vec<_> = core::iter::from_fn(|| heap.allocate(small)).collect();
        assert_eq!(heap.allocate(large), None);
        // All but one, in an order that has nothing to do with addresses.
        let (odd, even): (Vec<_>, Vec<_>) = blocks[1..].chunks(3).partition(|c| c.len() == 3);
        for block in odd.iter().rev().chain(&even).copied().flatten() {
            // SAFETY: just allocated with this layout.
            unsafe { heap.release(*block, small) };
        }
        assert!(heap.allocate(large).is_some());
        assert!(
            heap.usage().cached < SLAB,
            "only the slab of the one that is used"
        );
    }

    #[test]
    fn the_reserve_has_what_memory_in_pieces_has_not_and_says_so() {
        const ALL: usize = 1 << 20;
        let mut heap = heap_with_reserve([ALL, 0]);
        assert_eq!(heap.usage().left(), heap.usage().total);
        let page = Layout::from_size_align(4000, 16).unwrap();
        let blocks: Vec<_> = core::iter::from_fn(|| heap.allocate(page))
            .take(ALL / 8 * 7 / 4000)
            .collect();
        assert!(!heap.usage().reserve_used);
        for block in blocks.iter().step_by(2) {
            // SAFETY: just allocated with this layout.
            unsafe { heap.release(*block, page) };
        }
        let large = Layout::from_size_align(ALL / 32, 16).unwrap();
        let mut held = vec![heap.allocate(large).unwrap()];
        let usage = heap.usage();
        assert!(usage.total - usage.used > ALL / 3, "much is free");
        assert!(usage.reserve_used && usage.left() <= ALL / 4);
        while heap.usage().left() > 0 {
            held.push(heap.allocate(large).unwrap());
        }
        assert!(!heap.usage().can_spare(0));
        let last = heap.allocate(large);
        held.push(last.expect("the end is seen before it is there"));
        for block in held {
            // SAFETY: just allocated with this layout.
            unsafe { heap.release(block, large) };
        }
        assert!(heap.usage().left() > ALL / 3, "all is well again");
    }

    proptest! {
        #[test]
        fn blocks_never_overlap_and_contents_survive(
            steps in prop::collection::vec((1usize..6000, 0u32..13, any::<prop::sample::Index>(), any::<bool>()), 1..300),
        ) {
            let mut heap = heap_with_reserve([1 << 20, 1 << 18]);
            let mut live: Vec<(NonNull<u8>, Layout, u8)> = Vec::new();
            for (step, (size, align, pick, free)) in steps.into_iter().enumerate() {
                if step % 50 == 49 {
                    heap.reclaim();
                }
                if free && !live.is_empty() {
                    let (block, layout, mark) = live.swap_remove(pick.index(live.len()));
                    // SAFETY: the block is live and `layout` is its own.
                    unsafe {
                        let bytes = core::slice::from_raw_parts(block.as_ptr(), layout.size());
                        prop_assert!(bytes.iter().all(|&byte| byte == mark));
                        heap.release(block, layout);
                    }
                } else {
                    let layout = Layout::from_size_align(size, 1 << align).unwrap();
                    if let Some(block) = heap.allocate(layout) {
                        prop_assert_eq!(block.as_ptr() as usize % layout.align(), 0);
                        let mark = step as u8;
                        // SAFETY: the block is at least `size` bytes long and ours.
                        unsafe { block.as_ptr().write_bytes(mark, size) };
                        live.push((block, layout, mark));
                    }
                }
            }
        }
    }
}
