//! A split virtqueue (virtio 1.2, section 2.7): the descriptors, and the two rings in which driver
//! and device pass chains of them to each other.
//!
//! The device can write to all of this memory, so nothing that it could have changed is believed:
//! links, chains and indices are kept apart, and what it returns is looked up there. Layout as
//! legacy devices want it (section 2.7.2), which suits the others too.

use alloc::alloc::{alloc_zeroed, dealloc};
use alloc::boxed::Box;
use alloc::vec;
use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, Ordering, fence};

use super::{DeviceFault, PAGE, QueueTransport};

/// Descriptor flags (section 2.7.5).
pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;

/// Flag of either ring, for the side that reads it: do not notify (sections 2.7.7 and 2.7.10).
const NO_NOTIFICATION: u16 = 1;
/// Fewer descriptors than this are of no use.
const LEAST: u16 = 4;
/// A device that insists on more than this asks for too much memory.
const MOST_FIXED: u32 = 4096;

/// `struct virtq_desc`: a piece of memory.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Descriptor {
    pub(super) address: u64,
    pub(super) len: u32,
    pub(super) flags: u16,
    pub(super) next: u16,
}

impl Descriptor {
    /// A piece for the device to read.
    pub(super) fn of(piece: &[u8]) -> Self {
        Self {
            address: piece.as_ptr() as u64,
            len: piece.len() as u32,
            ..Self::default()
        }
    }
}

/// The rings of one queue.
#[derive(Debug)]
pub(super) struct Ring {
    memory: NonNull<u8>,
    layout: Layout,
    index: u16,
    /// Places in either ring.
    places: u16,
    /// Descriptors that are used: fewer than places only where the device says how many there are.
    size: u16,
    used_at: usize,
    event_index: bool,
    /// Which descriptor follows, in its chain or in the list of free ones.
    links: Box<[u16]>,
    /// How many descriptors the outstanding chain has that begins here; 0 if none does.
    chains: Box<[u16]>,
    outstanding: u16,
    first_free: u16,
    free: u16,
    /// Where the next chain goes in the available ring, and where it was at the last look whether
    /// the device wants to know.
    available: u16,
    announced: u16,
    /// Where the device's next answer will be in the used ring.
    used: u16,
}

// SAFETY: the memory is this ring's alone, but for the device.
unsafe impl Send for Ring {}
// SAFETY: through a shared reference memory is only read.
unsafe impl Sync for Ring {}

impl Ring {
    /// Sets up queue `index` of the device behind `transport`, with `most` descriptors or as many
    /// as the device allows. If there have to be more, the rest is not used.
    pub(super) fn new(
        transport: &mut impl QueueTransport,
        index: u16,
        most: u16,
        event_index: bool,
    ) -> Result<Self, DeviceFault> {
        let said = transport.max_queue_size(index);
        let allowed = said.min(u32::from(most)) as u16;
        if allowed < LEAST || transport.queue_used(index) {
            return Err(DeviceFault::NoQueue);
        }
        // A power of two (section 2.7).
        let size = 1 << allowed.ilog2();
        let places = match transport.has_fixed_queues() {
            false => size,
            true if said.is_power_of_two() && said <= MOST_FIXED => said as u16,
            true => return Err(DeviceFault::NoQueue),
        };
        let entries = usize::from(places);
        let available_at = entries * size_of::<Descriptor>();
        // Flags, index, entries and the used event.
        let used_at = (available_at + 2 * (3 + entries)).next_multiple_of(PAGE);
        let total = used_at + 2 * 3 + 8 * entries;
        let layout = Layout::from_size_align(total, PAGE).map_err(|_| DeviceFault::OutOfMemory)?;
        // SAFETY: the layout is not empty.
        let memory = NonNull::new(unsafe { alloc_zeroed(layout) });
        let memory = memory.ok_or(DeviceFault::OutOfMemory)?;
        let ring = Self {
            memory,
            layout,
            index,
            places,
            size,
            used_at,
            event_index,
            links: (1..=size).collect(),
            chains: vec![0; usize::from(size)].into_boxed_slice(),
            outstanding: 0,
            first_free: 0,
            free: size,
            available: 0,
            announced: 0,
            used: 0,
        };
        ring.set(transport)?;
        Ok(ring)
    }

    /// Tells the device where the queue is.
    fn set(&self, transport: &mut impl QueueTransport) -> Result<(), DeviceFault> {
        let base = self.memory.as_ptr() as u64;
        transport.queue_set(
            self.index,
            self.places.into(),
            base,
            base + self.available_at() as u64,
            base + self.used_at as u64,
        );
        // A page number has fewer bits than an address.
        if transport.has_fixed_queues() && !transport.queue_used(self.index) {
            return Err(DeviceFault::NoQueue);
        }
        Ok(())
    }

    /// As new, after a reset of the device, which is told again where the queue is.
    pub(super) fn restart(
        &mut self,
        transport: &mut impl QueueTransport,
    ) -> Result<(), DeviceFault> {
        let allowed = transport.max_queue_size(self.index);
        let enough = match transport.has_fixed_queues() {
            false => allowed >= self.places.into(),
            true => allowed == self.places.into(),
        };
        if !enough || transport.queue_used(self.index) {
            return Err(DeviceFault::NoQueue);
        }
        // SAFETY: all of this ring's memory; a device that was reset has no business there.
        unsafe { self.memory.write_bytes(0, self.layout.size()) };
        self.links = (1..=self.size).collect();
        self.chains.fill(0);
        self.outstanding = 0;
        self.first_free = 0;
        self.free = self.size;
        self.available = 0;
        self.announced = 0;
        self.used = 0;
        self.set(transport)
    }

    /// Descriptors that are used.
    pub(super) fn size(&self) -> u16 {
        self.size
    }

    /// Whether the device has nothing.
    pub(super) fn is_idle(&self) -> bool {
        self.outstanding == 0
    }

    /// Descriptors that are free.
    pub(super) fn free(&self) -> u16 {
        self.free
    }

    /// The `T` at octet `offset`, which lies in the ring's memory at an address that suits it.
    fn at<T>(&self, offset: usize) -> NonNull<T> {
        debug_assert!(offset + size_of::<T>() <= self.layout.size());
        // SAFETY: offsets are computed from `places` as the layout was.
        unsafe { self.memory.byte_add(offset).cast() }
    }

    fn word(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: inside the memory, which lives as long as `self`; the device accesses these
        // words at any time, and so does everybody here: atomically.
        unsafe { self.at::<AtomicU16>(offset).as_ref() }
    }

    fn available_at(&self) -> usize {
        usize::from(self.places) * size_of::<Descriptor>()
    }

    fn slot(&self, index: u16) -> usize {
        usize::from(index & (self.places - 1))
    }

    fn used_event(&self) -> &AtomicU16 {
        self.word(self.available_at() + 4 + 2 * usize::from(self.places))
    }

    fn available_event(&self) -> &AtomicU16 {
        self.word(self.used_at + 4 + 8 * usize::from(self.places))
    }

    fn used_index(&self) -> u16 {
        self.word(self.used_at + 2).load(Ordering::Acquire)
    }

    /// Makes a chain of `parts` available, each with these flags (but `NEXT`, which comes of
    /// itself). Returns where it begins; `None` if there are not enough descriptors, or no parts.
    ///
    /// # Safety
    ///
    /// Until [`Ring::take`] has returned that number, or the device is reset, the parts (and what
    /// an indirect one names) must stay where they are, and nobody may write to them, nor read
    /// them if the device may write.
    pub(super) unsafe fn add(&mut self, parts: &[Descriptor], flags: u16) -> Option<u16> {
        let count = u16::try_from(parts.len()).ok()?;
        if count == 0 || count > self.free {
            return None;
        }
        let head = self.first_free;
        let mut at = head;
        for (n, part) in (1..).zip(parts) {
            let next = self.links.get(usize::from(at)).copied()?;
            let descriptor = Descriptor {
                flags: if n < count { flags | NEXT } else { flags },
                next: if n < count { next } else { 0 },
                ..*part
            };
            let place = self.at::<Descriptor>(usize::from(at) * size_of::<Descriptor>());
            // SAFETY: `at` is a free descriptor's number, so the device has no business there.
            unsafe { place.write_volatile(descriptor) };
            self.first_free = next;
            at = next;
        }
        *self.chains.get_mut(usize::from(head))? = count;
        self.free -= count;
        self.outstanding += 1;
        let entry = self.available_at() + 4 + 2 * self.slot(self.available);
        self.word(entry).store(head, Ordering::Relaxed);
        self.available = self.available.wrapping_add(1);
        // Whoever sees the index sees the chain too (section 2.7.13.3).
        let index = self.word(self.available_at() + 2);
        index.store(self.available, Ordering::Release);
        Some(head)
    }

    /// The next chain that the device is done with, and how many bytes it says it wrote.
    pub(super) fn take(&mut self) -> Result<Option<(u16, u32)>, DeviceFault> {
        let given = self.used_index().wrapping_sub(self.used);
        if given == 0 {
            return Ok(None);
        }
        if given > self.outstanding {
            return Err(DeviceFault::Index(given));
        }
        let entry = self.at::<[u32; 2]>(self.used_at + 4 + 8 * self.slot(self.used));
        // SAFETY: inside the memory; the device wrote it before the index.
        let [id, len] = unsafe { entry.read_volatile() };
        let unknown = DeviceFault::UnknownBuffer(id);
        let head = u16::try_from(id).map_err(|_| unknown)?;
        let chain = self.chains.get_mut(usize::from(head)).ok_or(unknown)?;
        let count = core::mem::take(chain);
        if count == 0 {
            return Err(unknown);
        }
        let mut last = head;
        self.erase(head);
        for _ in 1..count {
            last = self.links.get(usize::from(last)).copied().ok_or(unknown)?;
            self.erase(last);
        }
        if let Some(link) = self.links.get_mut(usize::from(last)) {
            *link = self.first_free;
        }
        self.first_free = head;
        self.free += count;
        self.outstanding -= 1;
        self.used = self.used.wrapping_add(1);
        Ok(Some((head, len)))
    }

    /// What the device gave back it no longer finds, if it looks again.
    fn erase(&self, descriptor: u16) {
        let place = self.at::<Descriptor>(usize::from(descriptor) * size_of::<Descriptor>());
        // SAFETY: the descriptor was given back, so the device has no business there.
        unsafe { place.write_volatile(Descriptor::default()) };
    }

    /// Whether the device has given something back.
    pub(super) fn pending(&self) -> bool {
        self.used_index() != self.used
    }

    /// Whether the device wants to be told what was made available since the last call.
    pub(super) fn announce(&mut self) -> bool {
        let new = self.available;
        let old = core::mem::replace(&mut self.announced, new);
        if old == new {
            return false;
        }
        // The index must be out before the device's wish is read: it may be going to sleep, and
        // looks at the index after it has said so (section 2.7.10.1).
        fence(Ordering::SeqCst);
        if self.event_index {
            passes(self.available_event().load(Ordering::Acquire), old, new)
        } else {
            self.word(self.used_at).load(Ordering::Acquire) & NO_NOTIFICATION == 0
        }
    }

    /// Asks for an interrupt at the next answer, or asks the device not to bother. After asking,
    /// look at [`Ring::pending`]: the answer may have come before.
    pub(super) fn set_interrupts(&mut self, on: bool) {
        if self.event_index {
            // An index just gone by comes round again after 65,535 answers. That one interrupt
            // too many does no harm.
            let event = self.used.wrapping_sub(u16::from(!on));
            self.used_event().store(event, Ordering::Release);
        } else {
            let flags = if on { 0 } else { NO_NOTIFICATION };
            let available = self.word(self.available_at());
            available.store(flags, Ordering::Release);
        }
        if on {
            fence(Ordering::SeqCst);
        }
    }
}

/// Whether an index that goes from `old` to `new` passes `event` (section 2.7.7.2).
fn passes(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout. The device was reset: see the queues.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_passed_once_even_where_the_index_wraps() {
        assert!(passes(0, 0, 1));
        assert!(!passes(1, 0, 1));
        assert!(passes(65_535, 65_535, 0));
        assert!(passes(65_530, 65_000, 3));
        assert!(!passes(4, 65_000, 3));
        assert!(!passes(64_999, 65_000, 3));
    }
}
