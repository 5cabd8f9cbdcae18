//! Rings of descriptors that a device writes back in place, as network cards had them before virtio:
//! 16 bytes each, the address of a piece of memory and a control word.
//!
//! What a control word means is the driver's business. Addresses are filled in here, and what is
//! at them belongs to the ring until the device is done with it. The device can write to all of
//! this memory, and nothing in it is believed but the control word that says that it is done:
//! descriptors are looked at in the order in which they were posted.
//!
//! The device must be reset before its rings are cleared or dropped: they give the memory back.

use alloc::alloc::{alloc_zeroed, dealloc};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::queue::{Slices, tidy};
use super::{Buffer, DeviceFault, PAGE};

/// Bytes of a descriptor.
const DESCRIPTOR: usize = 16;
/// Fewer descriptors than this are of no use.
const LEAST: u16 = 8;
/// The most slices a packet is sent in. Longer packets are copied together.
const MAX_SLICES: usize = 16;

/// In which order a descriptor has its two words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The address, then the control word.
    AddressFirst,
    /// The control word, then the address.
    ControlFirst,
}

/// The descriptors. Indices count on without end here; what the device sees is folded.
#[derive(Debug)]
struct Words {
    memory: NonNull<u8>,
    layout: Layout,
    size: u16,
    format: Format,
}

// SAFETY: the memory is this ring's alone, but for the device.
unsafe impl Send for Words {}
// SAFETY: it is accessed through atomics only.
unsafe impl Sync for Words {}

impl Words {
    fn new(size: u16, format: Format) -> Result<Self, DeviceFault> {
        if size < LEAST {
            return Err(DeviceFault::NoQueue);
        }
        let layout = Layout::from_size_align(usize::from(size) * DESCRIPTOR, PAGE)
            .map_err(|_| DeviceFault::OutOfMemory)?;
        // SAFETY: the layout is not empty.
        let memory = NonNull::new(unsafe { alloc_zeroed(layout) });
        let memory = memory.ok_or(DeviceFault::OutOfMemory)?;
        Ok(Self {
            memory,
            layout,
            size,
            format,
        })
    }

    fn at(&self, index: u16, second: bool) -> &AtomicU64 {
        let offset = usize::from(index % self.size) * DESCRIPTOR + usize::from(second) * 8;
        // SAFETY: inside the memory, which lives as long as `self`; the device accesses these
        // words at any time, and so does everybody here: atomically.
        unsafe { self.memory.byte_add(offset).cast::<AtomicU64>().as_ref() }
    }

    fn control(&self, index: u16) -> u64 {
        let second = self.format == Format::AddressFirst;
        self.at(index, second).load(Ordering::Acquire)
    }

    /// The control word last: some devices begin when they see it.
    fn write(&self, index: u16, address: u64, control: u64) {
        let second = self.format == Format::AddressFirst;
        self.at(index, !second).store(address, Ordering::Relaxed);
        self.at(index, second).store(control, Ordering::Release);
    }

    fn is_last(&self, index: u16) -> bool {
        index % self.size == self.size - 1
    }

    fn step(&self, index: u16, by: u16) -> u16 {
        (index + by) % self.size
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout. The device was reset: see above.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) };
    }
}

/// A piece of memory, as a driver describes it in a control word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its length in bytes.
    pub len: usize,
    /// It is the first of a packet.
    pub first: bool,
    /// It is the last of a packet.
    pub last: bool,
    /// Its descriptor is the last of the ring: the device goes on at the first.
    pub wraps: bool,
}

/// A ring of buffers the device fills.
#[derive(Debug)]
pub struct ReceiveRing {
    words: Words,
    slots: Box<[Option<Buffer>]>,
    oldest: u16,
    posted: u16,
}

impl ReceiveRing {
    /// An empty ring of `size` descriptors, fewer than 2^15.
    pub fn new(size: u16, format: Format) -> Result<Self, DeviceFault> {
        Ok(Self {
            words: Words::new(size, format)?,
            slots: (0..size).map(|_| None).collect(),
            oldest: 0,
            posted: 0,
        })
    }

    /// Where it is in memory.
    pub fn address(&self) -> u64 {
        self.words.memory.as_ptr() as u64
    }

    /// How many buffers it holds: one fewer than it has descriptors, since to many devices a full
    /// ring looks like an empty one.
    pub fn capacity(&self) -> usize {
        usize::from(self.words.size) - 1
    }

    /// The descriptor behind the last buffer posted.
    pub fn tail(&self) -> u16 {
        self.words.step(self.oldest, self.posted)
    }

    /// Gives the device a buffer; hands it back if the ring is full.
    pub fn post(&mut self, buffer: Buffer, control: impl Fn(Part) -> u64) -> Result<(), Buffer> {
        if usize::from(self.posted) >= self.capacity() {
            return Err(buffer);
        }
        let index = self.tail();
        let Some(slot) = self.slots.get_mut(usize::from(index)) else {
            return Err(buffer);
        };
        let part = Part {
            len: buffer.size(),
            first: true,
            last: true,
            wraps: self.words.is_last(index),
        };
        let address = buffer.address() as u64;
        *slot = Some(buffer);
        self.words.write(index, address, control(part));
        self.posted += 1;
        Ok(())
    }

    /// The next buffer the device has filled, how many bytes it says it wrote, and the control
    /// word. `written` reads that number out of a control word; `None` if the device is not done.
    pub fn take(
        &mut self,
        written: impl Fn(u64) -> Option<usize>,
    ) -> Result<Option<(Buffer, usize, u64)>, DeviceFault> {
        if self.posted == 0 {
            return Ok(None);
        }
        let control = self.words.control(self.oldest);
        let Some(len) = written(control) else {
            return Ok(None);
        };
        let slot = self.slots.get_mut(usize::from(self.oldest));
        let buffer = slot.and_then(Option::take);
        let buffer = buffer.ok_or(DeviceFault::UnknownBuffer(self.oldest.into()))?;
        self.words.write(self.oldest, 0, 0);
        self.oldest = self.words.step(self.oldest, 1);
        self.posted -= 1;
        if len > buffer.size() {
            return Err(DeviceFault::Length(len as u32));
        }
        Ok(Some((buffer, len, control)))
    }

    /// Whether the device has filled the next buffer.
    pub fn pending(&self, written: impl Fn(u64) -> Option<usize>) -> bool {
        self.posted > 0 && written(self.words.control(self.oldest)).is_some()
    }

    /// Takes everything back, after a reset of the device.
    pub fn clear(&mut self) {
        for (slot, index) in self.slots.iter_mut().zip(0..) {
            self.words.write(index, 0, 0);
            *slot = None;
        }
        self.oldest = 0;
        self.posted = 0;
    }
}

#[derive(Debug)]
struct Sent<const HEAD: usize> {
    head: Box<[u8; HEAD]>,
    head_len: usize,
    slices: Slices,
    descriptors: u16,
}

impl<const HEAD: usize> Sent<HEAD> {
    fn pieces(&self, most: usize) -> impl Iterator<Item = &[u8]> {
        let head = self.head.get(..self.head_len).unwrap_or_default();
        core::iter::once(head)
            .chain(self.slices.iter().map(|slice| &slice[..]))
            .flat_map(move |slice| slice.chunks(most.max(1)))
    }
}

/// A ring of packets for the device to send: a head of at most `HEAD` bytes, which is copied, then
/// slices, which are not.
#[derive(Debug)]
pub struct TransmitRing<const HEAD: usize> {
    words: Words,
    sent: VecDeque<Sent<HEAD>>,
    heads: Vec<Box<[u8; HEAD]>>,
    oldest: u16,
    used: u16,
    /// Slices of a packet, and descriptors that it takes at most.
    most: usize,
    worst: u16,
}

impl<const HEAD: usize> TransmitRing<HEAD> {
    /// An empty ring of `size` descriptors, fewer than 2^15, for packets of at most `bytes` bytes in
    /// descriptors of `piece` bytes.
    pub fn new(size: u16, format: Format, bytes: usize, piece: usize) -> Result<Self, DeviceFault> {
        let words = Words::new(size, format)?;
        // A context, a head in two parts (what does not fit into its place), a tail apart, and one
        // cut each `piece` bytes.
        let fixed = 4 + bytes / piece.max(1);
        let room = usize::from(size) - 1;
        let most = room.saturating_sub(fixed).min(MAX_SLICES);
        if most == 0 {
            return Err(DeviceFault::NoQueue);
        }
        Ok(Self {
            words,
            sent: VecDeque::new(),
            heads: Vec::new(),
            oldest: 0,
            used: 0,
            most,
            worst: (fixed + most) as u16,
        })
    }

    /// Where it is in memory.
    pub fn address(&self) -> u64 {
        self.words.memory.as_ptr() as u64
    }

    /// The descriptor behind the last one posted.
    pub fn tail(&self) -> u16 {
        self.words.step(self.oldest, self.used)
    }

    /// Whether any packet fits now.
    pub fn has_room(&self) -> bool {
        self.used + self.worst < self.words.size
    }

    /// Whether the device has nothing to do.
    pub fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// Queues a packet in pieces of at most `piece` bytes, behind a descriptor without memory,
    /// `context`, if there is one. Hands the slices back if the ring is full. The first descriptor
    /// of the packet is written last.
    #[allow(
        clippy::result_large_err,
        reason = "the packet itself, to be tried again"
    )]
    pub fn post(
        &mut self,
        context: Option<[u64; 2]>,
        head: &[u8],
        slices: Slices,
        piece: usize,
        control: impl Fn(Part) -> u64,
    ) -> Result<(), Slices> {
        let mut slices = tidy(slices, self.most);
        let (fits, over) = head.split_at(head.len().min(HEAD));
        if !over.is_empty() {
            slices.insert(0, Bytes::copy_from_slice(over));
        }
        let mut packet = Sent {
            head: self.heads.pop().unwrap_or_else(|| Box::new([0; HEAD])),
            head_len: fits.len(),
            slices,
            descriptors: 0,
        };
        if let Some(place) = packet.head.get_mut(..fits.len()) {
            place.copy_from_slice(fits);
        }
        let count = packet.pieces(piece).count();
        let needed = count + usize::from(context.is_some());
        if count == 0 || usize::from(self.used) + needed >= usize::from(self.words.size) {
            self.heads.push(packet.head);
            return Err(packet.slices);
        }
        let mut index = self.tail();
        if let Some([first, second]) = context {
            self.words.at(index, false).store(first, Ordering::Relaxed);
            self.words.at(index, true).store(second, Ordering::Release);
            index = self.words.step(index, 1);
        }
        let begin = index;
        let mut begins = (0, 0);
        for (n, bytes) in packet.pieces(piece).enumerate() {
            let word = control(Part {
                len: bytes.len(),
                first: n == 0,
                last: n + 1 == count,
                wraps: self.words.is_last(index),
            });
            match n {
                0 => begins = (bytes.as_ptr() as u64, word),
                _ => self.words.write(index, bytes.as_ptr() as u64, word),
            }
            index = self.words.step(index, 1);
        }
        self.words.write(begin, begins.0, begins.1);
        packet.descriptors = needed as u16;
        self.used += packet.descriptors;
        self.sent.push_back(packet);
        Ok(())
    }

    /// Drops what the device has sent, as `done` reads out of the control word of a packet's last
    /// descriptor. How many packets these were.
    pub fn reclaim(&mut self, done: impl Fn(u64) -> bool) -> usize {
        let mut count = 0;
        while let Some(packet) = self.sent.front() {
            let descriptors = packet.descriptors;
            let last = self.words.step(self.oldest, descriptors - 1);
            if !done(self.words.control(last)) {
                break;
            }
            // What is done the device no longer finds, if it looks again.
            for n in 0..descriptors {
                self.words.write(self.words.step(self.oldest, n), 0, 0);
            }
            self.oldest = self.words.step(self.oldest, descriptors);
            self.used -= descriptors;
            if let Some(packet) = self.sent.pop_front() {
                self.heads.push(packet.head);
            }
            count += 1;
        }
        count
    }

    /// Drops everything, after a reset of the device. How many packets were lost.
    pub fn clear(&mut self) -> usize {
        for index in 0..self.words.size {
            self.words.write(index, 0, 0);
        }
        let lost = self.sent.len();
        self.heads
            .extend(self.sent.drain(..).map(|packet| packet.head));
        self.oldest = 0;
        self.used = 0;
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dma::Pool;

    const DONE: u64 = 1 << 63;

    fn control(part: Part) -> u64 {
        let flag = |on, bit: u32| u64::from(on) << bit;
        part.len as u64 | flag(part.first, 32) | flag(part.last, 33) | flag(part.wraps, 34)
    }

    fn written(control: u64) -> Option<usize> {
        (control & DONE != 0).then_some(control as u32 as usize)
    }

    /// What the device sees of a descriptor.
    fn seen(words: &Words, index: u16) -> (u64, u64) {
        let second = words.format == Format::AddressFirst;
        (
            words.at(index, !second).load(Ordering::SeqCst),
            words.control(index),
        )
    }

    fn finish(words: &Words, index: u16, len: u64) {
        let second = words.format == Format::AddressFirst;
        words.at(index, second).store(DONE | len, Ordering::SeqCst);
    }

    #[test]
    fn a_receive_ring_goes_round_and_keeps_one_descriptor_free() {
        for format in [Format::AddressFirst, Format::ControlFirst] {
            let pool = Pool::new(16, 64);
            let mut ring = ReceiveRing::new(8, format).unwrap();
            for round in 0..50 {
                while let Some(buffer) = pool.take() {
                    if ring.post(buffer, control).is_err() {
                        break;
                    }
                }
                assert_eq!(usize::from(ring.posted), ring.capacity());
                assert_eq!(ring.tail(), (ring.oldest + 7) % 8);
                assert!(ring.take(written).unwrap().is_none(), "round {round}");
                let (address, word) = seen(&ring.words, ring.oldest);
                assert_eq!(
                    word & (1 << 34) != 0,
                    ring.oldest == 7,
                    "the last one wraps"
                );
                finish(&ring.words, ring.oldest, 10);
                assert!(ring.pending(written));
                let (buffer, len, _) = ring.take(written).unwrap().unwrap();
                assert_eq!((buffer.address() as u64, len), (address, 10));
            }
            assert_eq!(pool.available(), 16 - 6);
            ring.clear();
            assert_eq!(pool.available(), 16);
            assert_eq!(seen(&ring.words, 3), (0, 0));
        }
    }

    #[test]
    fn a_length_beyond_the_buffer_is_a_fault() {
        let pool = Pool::new(1, 64);
        let mut ring = ReceiveRing::new(8, Format::AddressFirst).unwrap();
        ring.post(pool.take().unwrap(), control).unwrap();
        finish(&ring.words, 0, 65);
        assert_eq!(ring.take(written).err(), Some(DeviceFault::Length(65)));
        assert_eq!(pool.available(), 1, "it is out of the device's reach");
        assert!(ring.take(written).unwrap().is_none());
    }

    #[test]
    fn a_descriptor_that_was_not_posted_is_not_looked_at() {
        let mut ring = ReceiveRing::new(8, Format::AddressFirst).unwrap();
        finish(&ring.words, 0, 10);
        assert!(!ring.pending(written));
        assert!(ring.take(written).unwrap().is_none());
    }

    #[test]
    fn a_packet_is_cut_into_pieces_and_freed_when_its_last_is_done() {
        let mut ring = TransmitRing::<16>::new(16, Format::AddressFirst, 100, 40).unwrap();
        let slices: Slices = [Bytes::from(vec![7; 90]), Bytes::new()]
            .into_iter()
            .collect();
        ring.post(Some([1, 2]), &[9; 20], slices, 40, control)
            .unwrap();
        let lengths: Vec<u32> = (1..6).map(|n| seen(&ring.words, n).1 as u32).collect();
        assert_eq!(lengths, [16, 4, 40, 40, 10]);
        assert_eq!(seen(&ring.words, 0), (1, 2));
        assert_eq!(seen(&ring.words, 1).1 >> 32, 1);
        assert_eq!(seen(&ring.words, 5).1 >> 32, 2);
        assert_eq!(ring.tail(), 6);
        for n in 0..5 {
            finish(&ring.words, n, 0);
        }
        let done = |word| word & DONE != 0;
        assert_eq!(ring.reclaim(done), 0, "only the last one counts");
        finish(&ring.words, 5, 0);
        assert_eq!(ring.reclaim(done), 1);
        assert!(ring.is_empty());
        assert_eq!(seen(&ring.words, 5), (0, 0));
    }

    #[test]
    fn room_means_room_for_any_packet() {
        for size in [8, 16, 64] {
            let mut ring = TransmitRing::<16>::new(size, Format::ControlFirst, 100, 64).unwrap();
            for round in 0..100 {
                while ring.has_room() {
                    let slices = (0..30).map(|n| Bytes::from(vec![n; 2])).collect();
                    let posted = ring.post(Some([0, 0]), &[9; 40], slices, 64, control);
                    assert!(posted.is_ok(), "round {round} of {size}");
                }
                let last = ring.sent.front().unwrap().descriptors - 1;
                finish(&ring.words, ring.words.step(ring.oldest, last), 0);
                assert_eq!(ring.reclaim(|word| word & DONE != 0), 1);
            }
            ring.clear();
            assert!(ring.has_room() && ring.is_empty());
        }
    }

    #[test]
    fn a_full_ring_hands_the_slices_back() {
        let mut ring = TransmitRing::<16>::new(16, Format::AddressFirst, 100, 64).unwrap();
        let slices = || {
            let each = |n| Bytes::from(vec![n; 2]);
            (0..7).map(each).collect::<Slices>()
        };
        ring.post(None, &[1], slices(), 64, control).unwrap();
        let refused = ring.post(None, &[1], slices(), 64, control);
        assert_eq!(refused.unwrap_err().len(), 7);
        assert_eq!(ring.tail(), 8);
    }
}
