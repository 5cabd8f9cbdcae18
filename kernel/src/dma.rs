//! Memory shared with devices, owned by one side at a time.
//!
//! - [`KernelHal`] lets `virtio-drivers` allocate rings
//! - [`Pool`] and [`Buffer`]: fixed-size buffers for a device to write into
//! - [`ReceiveQueue`] and [`TransmitQueue`]: virtqueues that own their buffers until the device has
//!   given them back, so that their users need no `unsafe`
//!
//! Virtual and physical addresses are equal (see [`crate::mm`]), on the host trivially so. What a
//! device writes into a ring is checked: an index that is not outstanding is a [`DeviceFault`],
//! a length is cut to the buffer.

use alloc::alloc::{alloc, alloc_zeroed, dealloc, handle_alloc_error};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::ptr::NonNull;
use core::slice;

use bytes::Bytes;
use smallvec::SmallVec;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

use crate::sync::Lock;

/// Memory for `virtio-drivers`: from the heap, at identical virtual and physical addresses.
#[derive(Debug)]
pub struct KernelHal;

fn pages_layout(pages: usize) -> Option<Layout> {
    let size = pages.checked_mul(PAGE_SIZE).filter(|&size| size > 0)?;
    Layout::from_size_align(size, PAGE_SIZE).ok()
}

// SAFETY: `dma_alloc` gives zeroed, page-aligned heap memory nobody else has; addresses are
// identical, so sharing is a matter of naming the address. MMIO goes through `crate::mmio`.
unsafe impl Hal for KernelHal {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let memory = pages_layout(pages)
            // SAFETY: `pages_layout` gives no empty layouts.
            .and_then(|layout| NonNull::new(unsafe { alloc_zeroed(layout) }));
        match memory {
            Some(memory) => (memory.as_ptr() as PhysAddr, memory),
            None => (0, NonNull::dangling()), // what `virtio-drivers` takes as failure
        }
    }

    unsafe fn dma_dealloc(_paddr: PhysAddr, vaddr: NonNull<u8>, pages: usize) -> i32 {
        let Some(layout) = pages_layout(pages) else {
            return -1;
        };
        // SAFETY: the caller gives back what `dma_alloc` gave for the same number of pages.
        unsafe { dealloc(vaddr.as_ptr(), layout) };
        0
    }

    unsafe fn mmio_phys_to_virt(paddr: PhysAddr, _size: usize) -> NonNull<u8> {
        // Only the library's own PCI transport, which is not used here, would come this way.
        panic!("MMIO at {paddr:#x} must be mapped through crate::mmio")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr() as PhysAddr
    }

    unsafe fn unshare(_paddr: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {}
}

/// Buffers of one size, in one piece of memory. Dropping a [`Buffer`] puts it back.
#[derive(Debug)]
pub struct Pool {
    memory: NonNull<u8>,
    layout: Layout,
    size: usize,
    count: u32,
    free: Lock<Free>,
}

/// Buffers that are free. Those that never were in use are not initialised: doing that to all of
/// them at boot costs a tenth of the boot.
#[derive(Debug)]
struct Free {
    used_before: Vec<u32>,
    next_fresh: u32,
}

// SAFETY: the memory is only reached through `Buffer`s, each of which exclusively owns its part.
unsafe impl Send for Pool {}
// SAFETY: as above; the free list is behind a lock.
unsafe impl Sync for Pool {}

impl Pool {
    /// A pool of `count` buffers of `size` bytes, rounded up to a multiple of 64.
    pub fn new(count: u32, size: usize) -> Arc<Self> {
        let size = size.max(1).next_multiple_of(64);
        let total = size.saturating_mul(count.max(1) as usize);
        let layout = Layout::from_size_align(total, PAGE_SIZE).unwrap_or(Layout::new::<[u8; 64]>());
        assert!(layout.size() == total, "pool size overflows");
        // SAFETY: the layout is not empty.
        let Some(memory) = NonNull::new(unsafe { alloc(layout) }) else {
            handle_alloc_error(layout)
        };
        Arc::new(Self {
            memory,
            layout,
            size,
            count,
            free: Lock::new(Free {
                used_before: Vec::with_capacity(count as usize),
                next_fresh: 0,
            }),
        })
    }

    /// A buffer, unless all are in use.
    pub fn take(self: &Arc<Self>) -> Option<Buffer> {
        let mut free = self.free.lock();
        if let Some(index) = free.used_before.pop() {
            return Some(self.buffer(index));
        }
        let index = free.next_fresh;
        if index >= self.count {
            return None;
        }
        free.next_fresh += 1;
        let buffer = self.buffer(index);
        // SAFETY: the part of this buffer, which nobody else has.
        unsafe { buffer.start().as_ptr().write_bytes(0, self.size) };
        Some(buffer)
    }

    fn buffer(self: &Arc<Self>, index: u32) -> Buffer {
        Buffer {
            pool: Arc::clone(self),
            index,
        }
    }

    /// How many buffers are free.
    pub fn available(&self) -> usize {
        let free = self.free.lock();
        free.used_before.len() + (self.count - free.next_fresh) as usize
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout; every buffer holds an `Arc` of the pool, so
        // none is left.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) };
    }
}

/// A buffer from a [`Pool`].
#[derive(Debug)]
pub struct Buffer {
    pool: Arc<Pool>,
    index: u32,
}

impl Buffer {
    fn start(&self) -> NonNull<u8> {
        // SAFETY: indices are below the pool's count, so this stays inside its memory.
        unsafe { self.pool.memory.add(self.index as usize * self.pool.size) }
    }

    /// The contents.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: this buffer is the only owner of its part, and the device is not: buffers that a
        // device writes to are inside a queue, out of reach.
        unsafe { slice::from_raw_parts(self.start().as_ptr(), self.pool.size) }
    }

    /// The contents, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`.
        unsafe { slice::from_raw_parts_mut(self.start().as_ptr(), self.pool.size) }
    }

    /// The part `offset..offset + len` (cut to the buffer) as `Bytes`; the buffer goes back to its
    /// pool when the last clone is dropped.
    pub fn into_bytes(self, offset: usize, len: usize) -> Bytes {
        struct Part {
            buffer: Buffer,
            from: usize,
            to: usize,
        }
        impl AsRef<[u8]> for Part {
            fn as_ref(&self) -> &[u8] {
                self.buffer.bytes().get(self.from..self.to).unwrap_or(&[])
            }
        }
        let from = offset.min(self.pool.size);
        let to = offset.saturating_add(len).min(self.pool.size);
        Bytes::from_owner(Part {
            buffer: self,
            from,
            to,
        })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.free.lock().used_before.push(self.index);
    }
}

/// The device broke the protocol; its queue is not used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceFault {
    /// It gave back something it was not given.
    UnknownBuffer(u16),
    /// The queue could not be set up.
    Queue(virtio_drivers::Error),
}

impl core::fmt::Display for DeviceFault {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::UnknownBuffer(index) => write!(f, "device returned buffer {index}, not given"),
            Self::Queue(error) => write!(f, "queue: {error}"),
        }
    }
}

impl core::error::Error for DeviceFault {}

/// A virtqueue of buffers the device fills.
#[derive(Debug)]
pub struct ReceiveQueue<const SIZE: usize> {
    queue: VirtQueue<KernelHal, SIZE>,
    slots: Box<[Option<Buffer>]>,
}

impl<const SIZE: usize> ReceiveQueue<SIZE> {
    /// Sets up queue `index` of the device behind `transport`, empty.
    pub fn new(transport: &mut impl Transport, index: u16) -> Result<Self, DeviceFault> {
        let queue = VirtQueue::new(transport, index, false, false).map_err(DeviceFault::Queue)?;
        Ok(Self {
            queue,
            slots: slots(SIZE),
        })
    }

    /// Gives the device a buffer; hands it back if the ring is full.
    pub fn post(&mut self, mut buffer: Buffer) -> Result<(), Buffer> {
        // SAFETY: the buffer moves into `slots` below and is not touched before `pop_used` has
        // given its token back; if adding fails the device never sees it.
        let token = unsafe { self.queue.add(&[], &mut [buffer.bytes_mut()]) };
        match token
            .ok()
            .and_then(|token| self.slots.get_mut(usize::from(token)))
        {
            Some(slot) => {
                *slot = Some(buffer);
                Ok(())
            }
            None => Err(buffer),
        }
    }

    /// The next buffer the device has filled, and how many bytes it says it wrote, at most as many
    /// as the buffer holds.
    pub fn take(&mut self) -> Result<Option<(Buffer, usize)>, DeviceFault> {
        let Some(token) = self.queue.peek_used() else {
            return Ok(None);
        };
        let slot = self.slots.get_mut(usize::from(token));
        let Some(mut buffer) = slot.and_then(Option::take) else {
            return Err(DeviceFault::UnknownBuffer(token));
        };
        // SAFETY: this is the buffer that was added under this token.
        let len = unsafe { self.queue.pop_used(token, &[], &mut [buffer.bytes_mut()]) };
        let len = len.map_err(DeviceFault::Queue)? as usize;
        let len = len.min(buffer.pool.size);
        Ok(Some((buffer, len)))
    }

    /// Whether the device has given something back.
    pub fn pending(&self) -> bool {
        self.queue.can_pop()
    }

    /// Whether the device wants to be told about new buffers.
    pub fn wants_notification(&self) -> bool {
        self.queue.should_notify()
    }

    /// Asks for interrupts, or asks the device not to bother.
    pub fn set_interrupts(&mut self, on: bool) {
        self.queue.set_dev_notify(on);
    }
}

/// As many empty slots. Not one copy for each size of a queue.
#[inline(never)]
fn slots<T>(count: usize) -> Box<[Option<T>]> {
    let mut slots = Vec::with_capacity(count);
    slots.resize_with(count, || None);
    slots.into_boxed_slice()
}

/// The most pieces a packet is sent in, header not counted. Longer packets are copied together.
pub const MAX_SLICES: usize = 16;

/// Packet parts of a transmit.
pub type Slices = SmallVec<[Bytes; 4]>;

#[derive(Debug)]
struct InFlight<const HEAD: usize> {
    head: Box<[u8; HEAD]>,
    head_len: usize,
    slices: Slices,
}

/// A virtqueue of packets for the device to send: a head of at most `HEAD` bytes, which is copied,
/// then slices, which are not.
#[derive(Debug)]
pub struct TransmitQueue<const SIZE: usize, const HEAD: usize> {
    queue: VirtQueue<KernelHal, SIZE>,
    slots: Box<[Option<InFlight<HEAD>>]>,
    heads: Vec<Box<[u8; HEAD]>>,
    in_flight: usize,
}

impl<const SIZE: usize, const HEAD: usize> TransmitQueue<SIZE, HEAD> {
    /// Sets up queue `index` of the device behind `transport`, empty.
    pub fn new(transport: &mut impl Transport, index: u16) -> Result<Self, DeviceFault> {
        let queue = VirtQueue::new(transport, index, false, false).map_err(DeviceFault::Queue)?;
        Ok(Self {
            queue,
            slots: slots(SIZE),
            heads: Vec::new(),
            in_flight: 0,
        })
    }

    /// Whether a packet of this many slices fits now.
    pub fn has_room(&self, slices: usize) -> bool {
        self.queue.available_desc() > slices
    }

    /// Queues a packet whose head is `head`, piece by piece; what does not fit into `HEAD` bytes
    /// goes as a slice of its own. Hands the slices back if the ring is full.
    #[allow(
        clippy::result_large_err,
        reason = "the packet itself, to be tried again"
    )]
    pub fn post(&mut self, head: [&[u8]; 2], slices: Slices) -> Result<(), Slices> {
        let mut slices = tidy(slices);
        if !self.has_room(slices.len() + 1) {
            return Err(slices);
        }
        let mut boxed = self.heads.pop().unwrap_or_else(|| Box::new([0; HEAD]));
        let mut head_len = 0;
        let mut rest: &[u8] = &[];
        for piece in head {
            let room = boxed.get_mut(head_len..).unwrap_or_default();
            let (fits, over) = piece.split_at(piece.len().min(room.len()));
            if let Some(room) = room.get_mut(..fits.len()) {
                room.copy_from_slice(fits);
            }
            head_len += fits.len();
            rest = over;
        }
        if !rest.is_empty() {
            slices.insert(0, Bytes::copy_from_slice(rest));
        }
        let in_flight = InFlight {
            head: boxed,
            head_len,
            slices,
        };
        let parts = parts(&in_flight);
        // SAFETY: head and slices are kept in `slots`, unchanged (`Bytes` cannot be written to),
        // until `pop_used` has given the token back.
        let token = unsafe { self.queue.add(&parts, &mut []) };
        drop(parts);
        match token
            .ok()
            .and_then(|token| self.slots.get_mut(usize::from(token)))
        {
            Some(slot) => {
                *slot = Some(in_flight);
                self.in_flight += 1;
                Ok(())
            }
            None => Err(in_flight.slices),
        }
    }

    /// Drops what the device has sent.
    pub fn reclaim(&mut self) -> Result<usize, DeviceFault> {
        let mut count = 0;
        while let Some(token) = self.queue.peek_used() {
            let slot = self.slots.get_mut(usize::from(token));
            let Some(in_flight) = slot.and_then(Option::take) else {
                return Err(DeviceFault::UnknownBuffer(token));
            };
            let parts = parts(&in_flight);
            // SAFETY: these are the parts that were added under this token.
            let done = unsafe { self.queue.pop_used(token, &parts, &mut []) };
            drop(parts);
            done.map_err(DeviceFault::Queue)?;
            self.heads.push(in_flight.head);
            self.in_flight -= 1;
            count += 1;
        }
        Ok(count)
    }

    /// Packets the device has not given back.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether the device has given something back.
    pub fn pending(&self) -> bool {
        self.queue.can_pop()
    }

    /// Whether the device wants to be told about new packets.
    pub fn wants_notification(&self) -> bool {
        self.queue.should_notify()
    }

    /// Asks for interrupts, or asks the device not to bother.
    pub fn set_interrupts(&mut self, on: bool) {
        self.queue.set_dev_notify(on);
    }
}

/// No empty slices (a descriptor must not be empty), and not too many.
fn tidy(mut slices: Slices) -> Slices {
    slices.retain(|slice| !slice.is_empty());
    if slices.len() > MAX_SLICES {
        let mut whole = Vec::with_capacity(slices.iter().map(Bytes::len).sum());
        for slice in &slices {
            whole.extend_from_slice(slice);
        }
        slices.clear();
        slices.push(Bytes::from(whole));
    }
    slices
}

fn parts<const HEAD: usize>(packet: &InFlight<HEAD>) -> SmallVec<[&[u8]; 8]> {
    let head = packet.head.get(..packet.head_len).unwrap_or_default();
    core::iter::once(head)
        .filter(|head| !head.is_empty())
        .chain(packet.slices.iter().map(|slice| &slice[..]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_returns_to_its_pool_when_its_last_bytes_go() {
        let pool = Pool::new(2, 100);
        let mut buffer = pool.take().unwrap();
        buffer.bytes_mut()[10..13].copy_from_slice(b"abc");
        let bytes = buffer.into_bytes(10, 3);
        let clone = bytes.clone();
        drop(bytes);
        assert_eq!(pool.available(), 1);
        assert_eq!(&clone[..], b"abc");
        drop(clone);
        assert_eq!(pool.available(), 2);
    }

    #[test]
    fn a_part_beyond_the_buffer_is_cut() {
        let pool = Pool::new(1, 64);
        assert_eq!(pool.take().unwrap().into_bytes(60, usize::MAX).len(), 4);
        assert_eq!(pool.take().unwrap().into_bytes(1000, 1).len(), 0);
    }

    #[test]
    fn an_empty_pool_gives_nothing() {
        let pool = Pool::new(1, 64);
        let taken = pool.take();
        assert!(pool.take().is_none());
        drop(taken);
        assert!(pool.take().is_some());
    }

    #[test]
    fn empty_slices_go_and_long_lists_become_one() {
        let empty: Slices = [Bytes::new(), Bytes::from_static(b"a")]
            .into_iter()
            .collect();
        assert_eq!(tidy(empty).len(), 1);
        let many: Slices = (0..40u8).map(|i| Bytes::from(vec![i; 3])).collect();
        let tidied = tidy(many);
        assert_eq!(tidied.len(), 1);
        assert_eq!(tidied[0].len(), 120);
        assert_eq!(tidied[0][119], 39);
    }
}
