//! Rings of descriptors that a device writes back in place, as network cards had them before virtio:
//! 16 bytes each, the address of a piece of memory and a control word.
//!
//! What a control word means is the driver's business. Addresses are filled in here, and what is
//! at them belongs to the ring until the device is done with it. The device can write to all of
//! this memory, and nothing in it is believed but the control word that says that it is done:
//! descriptors are looked at in the order in which they were posted. Where a device says that in a
//! ring of its own ([`Answers`]), what it names must be next in that order.
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

use super::answers::{Answers, Format};
use super::queue::{Slices, tidy};
use super::{Buffer, DeviceFault, PAGE};

/// Bytes of a descriptor.
const DESCRIPTOR: usize = 16;
/// Fewer descriptors than this are of no use.
const LEAST: u16 = 8;
/// The most slices a packet is sent in. Longer packets are copied together.
const MAX_SLICES: usize = 16;

/// A place in a ring, and whether the lap is an odd one: the first is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) index: u16,
    pub(super) lap: bool,
}

impl Cursor {
    /// Where everybody begins.
    pub(super) const START: Self = Self {
        index: 0,
        lap: true,
    };
}

/// The descriptors.
#[derive(Debug)]
pub(super) struct Words {
    memory: NonNull<u8>,
    layout: Layout,
    size: u16,
    control_first: bool,
    /// The bit of a control word that says in which lap it was written, where there is one. The
    /// device takes a descriptor that has the bit of the lap it is in itself: what it has had before
    /// keeps the bit of that lap.
    lap_bit: u64,
}

// SAFETY: the memory is this ring's alone, but for the device.
unsafe impl Send for Words {}
// SAFETY: it is accessed through atomics only.
unsafe impl Sync for Words {}

impl Words {
    pub(super) fn new(size: u16, format: &Format) -> Result<Self, DeviceFault> {
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
            control_first: matches!(format, Format::ControlFirst),
            lap_bit: match format {
                Format::Answered(answered) => answered.lap_bit,
                _ => 0,
            },
        })
    }

    /// Where they are in memory.
    pub(super) fn address(&self) -> u64 {
        self.memory.as_ptr() as u64
    }

    pub(super) fn at(&self, index: u16, second: bool) -> &AtomicU64 {
        let offset = usize::from(index % self.size) * DESCRIPTOR + usize::from(second) * 8;
        // SAFETY: inside the memory, which lives as long as `self`; the device accesses these
        // words at any time, and so does everybody here: atomically.
        unsafe { self.memory.byte_add(offset).cast::<AtomicU64>().as_ref() }
    }

    fn control(&self, index: u16) -> u64 {
        self.at(index, !self.control_first).load(Ordering::Acquire)
    }

    /// The control word last: some devices begin when they see it.
    fn write(&self, at: Cursor, address: u64, control: u64) {
        let lap = if at.lap { self.lap_bit } else { 0 };
        let control = control & !self.lap_bit | lap;
        let second = !self.control_first;
        self.at(at.index, !second).store(address, Ordering::Relaxed);
        self.at(at.index, second).store(control, Ordering::Release);
    }

    /// What the device is done with it no longer finds, if it looks again.
    fn erase(&self, at: Cursor) {
        self.write(at, 0, 0);
    }

    /// As new, after a reset of the device.
    pub(super) fn clear(&self) {
        for index in 0..self.size {
            self.erase(Cursor { index, lap: false });
        }
    }

    fn is_last(&self, at: Cursor) -> bool {
        at.index == self.size - 1
    }

    /// So many places on, once round at most.
    pub(super) fn step(&self, at: Cursor, by: u16) -> Cursor {
        let index = at.index + by;
        match index.checked_sub(self.size) {
            None => Cursor { index, ..at },
            Some(index) => Cursor {
                index,
                lap: !at.lap,
            },
        }
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
    answers: Option<Answers>,
    slots: Box<[Option<Buffer>]>,
    /// Descriptors in use at a time, and one more.
    most: u16,
    oldest: Cursor,
    posted: u16,
}

impl ReceiveRing {
    /// An empty ring of `size` descriptors, fewer than 2^15, which is used as if it had `most`.
    pub fn new(size: u16, most: u16, format: Format) -> Result<Self, DeviceFault> {
        Ok(Self {
            words: Words::new(size, &format)?,
            answers: Answers::new(&format)?,
            slots: (0..size).map(|_| None).collect(),
            most: most.clamp(2, size),
            oldest: Cursor::START,
            posted: 0,
        })
    }

    /// Where it is in memory.
    pub fn address(&self) -> u64 {
        self.words.address()
    }

    /// Where its answers are, if it has some; else 0.
    pub fn answers(&self) -> u64 {
        self.answers.as_ref().map_or(0, Answers::address)
    }

    /// How many buffers it holds: one fewer than it has descriptors, since to many devices a full
    /// ring looks like an empty one.
    pub fn capacity(&self) -> usize {
        usize::from(self.most) - 1
    }

    /// The descriptor behind the last buffer posted.
    pub fn tail(&self) -> u16 {
        self.end().index
    }

    fn end(&self) -> Cursor {
        self.words.step(self.oldest, self.posted)
    }

    /// Gives the device a buffer; hands it back if the ring is full.
    pub fn post(&mut self, buffer: Buffer, control: impl Fn(Part) -> u64) -> Result<(), Buffer> {
        if usize::from(self.posted) >= self.capacity() {
            return Err(buffer);
        }
        let end = self.end();
        let Some(slot) = self.slots.get_mut(usize::from(end.index)) else {
            return Err(buffer);
        };
        let part = Part {
            len: buffer.size(),
            first: true,
            last: true,
            wraps: self.words.is_last(end),
        };
        let address = buffer.address() as u64;
        *slot = Some(buffer);
        self.words.write(end, address, control(part));
        self.posted += 1;
        Ok(())
    }

    /// The next buffer the device has filled, how many bytes it says it wrote, and the control
    /// word. `written` reads that number out of a control word; `None` if the device is not done.
    pub fn take(
        &mut self,
        written: impl Fn(u64) -> Option<usize>,
    ) -> Result<Option<(Buffer, usize, u64)>, DeviceFault> {
        let Some((index, control)) = self.next() else {
            return Ok(None);
        };
        let Some(len) = written(control) else {
            return Ok(None);
        };
        if index != Some(self.oldest.index) {
            return Err(DeviceFault::UnknownBuffer(
                index.map_or(u32::MAX, u32::from),
            ));
        }
        if let Some(answers) = &mut self.answers {
            answers.advance();
        }
        let slot = self.slots.get_mut(usize::from(self.oldest.index));
        let buffer = slot.and_then(Option::take);
        let buffer = buffer.ok_or(DeviceFault::UnknownBuffer(self.oldest.index.into()))?;
        self.words.erase(self.oldest);
        self.oldest = self.words.step(self.oldest, 1);
        self.posted -= 1;
        if len > buffer.size() {
            return Err(DeviceFault::Length(len as u32));
        }
        Ok(Some((buffer, len, control)))
    }

    /// What the device may have said about the next buffer: which one it means, and the control word.
    fn next(&self) -> Option<(Option<u16>, u64)> {
        if self.posted == 0 {
            return None;
        }
        match &self.answers {
            None => Some((
                Some(self.oldest.index),
                self.words.control(self.oldest.index),
            )),
            Some(answers) => answers.next().map(|answer| (answer.index, answer.control)),
        }
    }

    /// Whether the device has filled the next buffer.
    pub fn pending(&self, written: impl Fn(u64) -> Option<usize>) -> bool {
        self.next()
            .is_some_and(|(_, control)| written(control).is_some())
    }

    /// Takes everything back, after a reset of the device.
    pub fn clear(&mut self) {
        self.words.clear();
        if let Some(answers) = &mut self.answers {
            answers.clear();
        }
        self.slots.fill_with(|| None);
        self.oldest = Cursor::START;
        self.posted = 0;
    }
}

/// What packets need at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a packet.
    pub bytes: usize,
    /// Bytes of a descriptor.
    pub piece: usize,
    /// Descriptors of a packet.
    pub parts: u16,
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
    answers: Option<Answers>,
    sent: VecDeque<Sent<HEAD>>,
    heads: Vec<Box<[u8; HEAD]>>,
    oldest: Cursor,
    used: u16,
    /// Descriptors that there seem to be.
    size: u16,
    /// Slices of a packet, and descriptors that it takes at most.
    most: usize,
    worst: u16,
}

impl<const HEAD: usize> TransmitRing<HEAD> {
    /// An empty ring of `size` descriptors, fewer than 2^15, which is used as if it had `most`, for
    /// packets that need no more than `limits`.
    pub fn new(
        size: u16,
        most: u16,
        format: Format,
        Limits {
            bytes,
            piece,
            parts,
        }: Limits,
    ) -> Result<Self, DeviceFault> {
        let words = Words::new(size, &format)?;
        let size = most.clamp(2, size);
        // A context, a head in two parts (what does not fit into its place), a tail apart, and one
        // cut each `piece` bytes.
        let fixed = 4 + bytes / piece.max(1);
        let room = usize::from(parts.min(size - 1));
        let most = room.saturating_sub(fixed).min(MAX_SLICES);
        if most == 0 {
            return Err(DeviceFault::NoQueue);
        }
        Ok(Self {
            words,
            answers: Answers::new(&format)?,
            sent: VecDeque::new(),
            heads: Vec::new(),
            oldest: Cursor::START,
            used: 0,
            size,
            most,
            worst: (fixed + most) as u16,
        })
    }

    /// Where it is in memory.
    pub fn address(&self) -> u64 {
        self.words.address()
    }

    /// Where its answers are, if it has some; else 0.
    pub fn answers(&self) -> u64 {
        self.answers.as_ref().map_or(0, Answers::address)
    }

    /// The descriptor behind the last one posted.
    pub fn tail(&self) -> u16 {
        self.words.step(self.oldest, self.used).index
    }

    /// Whether any packet fits now.
    pub fn has_room(&self) -> bool {
        self.used + self.worst < self.size
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
        mut slices: Slices,
        piece: usize,
        control: impl Fn(Part) -> u64,
    ) -> Result<(), Slices> {
        tidy(&mut slices, self.most);
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
        if count == 0 || usize::from(self.used) + needed >= usize::from(self.size) {
            self.heads.push(packet.head);
            return Err(packet.slices);
        }
        let mut at = self.words.step(self.oldest, self.used);
        if let Some([first, second]) = context {
            let word = |second| self.words.at(at.index, second);
            word(false).store(first, Ordering::Relaxed);
            word(true).store(second, Ordering::Release);
            at = self.words.step(at, 1);
        }
        let begin = at;
        let mut begins = (0, 0);
        for (n, bytes) in packet.pieces(piece).enumerate() {
            let word = control(Part {
                len: bytes.len(),
                first: n == 0,
                last: n + 1 == count,
                wraps: self.words.is_last(at),
            });
            match n {
                0 => begins = (bytes.as_ptr() as u64, word),
                _ => self.words.write(at, bytes.as_ptr() as u64, word),
            }
            at = self.words.step(at, 1);
        }
        self.words.write(begin, begins.0, begins.1);
        packet.descriptors = needed as u16;
        self.used += packet.descriptors;
        self.sent.push_back(packet);
        Ok(())
    }

    /// Drops what the device has sent, as `done` reads out of the control word of a packet's last
    /// descriptor, or out of an answer. How many packets these were.
    pub fn reclaim(&mut self, done: impl Fn(u64) -> bool) -> Result<usize, DeviceFault> {
        let mut count = 0;
        if self.answers.is_none() {
            while self.last(0).is_some_and(|at| done(self.words.control(at))) {
                self.free();
                count += 1;
            }
            return Ok(count);
        }
        while !self.sent.is_empty()
            && let Some(answers) = &mut self.answers
            && let Some(answer) = answers.next()
            && done(answer.control)
        {
            answers.advance();
            // One answer may stand for several packets.
            let unknown = DeviceFault::UnknownBuffer(answer.index.map_or(u32::MAX, u32::from));
            let named = (0..self.sent.len()).find(|&n| self.last(n) == answer.index);
            for _ in 0..=named.ok_or(unknown)? {
                self.free();
                count += 1;
            }
        }
        Ok(count)
    }

    /// The last descriptor of packet `n` from the oldest.
    fn last(&self, n: usize) -> Option<u16> {
        let to_there = self.sent.range(..=n.min(self.sent.len().checked_sub(1)?));
        let descriptors: u16 = to_there.map(|packet| packet.descriptors).sum();
        Some(self.words.step(self.oldest, descriptors - 1).index)
    }

    /// Drops the oldest packet.
    fn free(&mut self) {
        let Some(packet) = self.sent.pop_front() else {
            return;
        };
        for n in 0..packet.descriptors {
            self.words.erase(self.words.step(self.oldest, n));
        }
        self.oldest = self.words.step(self.oldest, packet.descriptors);
        self.used -= packet.descriptors;
        self.heads.push(packet.head);
    }

    /// Drops everything, after a reset of the device. How many packets were lost.
    pub fn clear(&mut self) -> usize {
        self.words.clear();
        if let Some(answers) = &mut self.answers {
            answers.clear();
        }
        let lost = self.sent.len();
        self.heads
            .extend(self.sent.drain(..).map(|packet| packet.head));
        self.oldest = Cursor::START;
        self.used = 0;
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dma::{Answer, Answered, Pool};

    const DONE: u64 = 1 << 63;

    fn transmit(
        size: u16,
        format: Format,
        bytes: usize,
        piece: usize,
        parts: u16,
    ) -> Result<TransmitRing<16>, DeviceFault> {
        let limits = Limits {
            bytes,
            piece,
            parts,
        };
        TransmitRing::new(size, size, format, limits)
    }

    fn control(part: Part) -> u64 {
        let flag = |on, bit: u32| u64::from(on) << bit;
        part.len as u64 | flag(part.first, 32) | flag(part.last, 33) | flag(part.wraps, 34)
    }

    fn written(control: u64) -> Option<usize> {
        (control & DONE != 0).then_some(control as u32 as usize)
    }

    /// What the device sees of a descriptor.
    fn seen(words: &Words, index: u16) -> (u64, u64) {
        let second = !words.control_first;
        (
            words.at(index, !second).load(Ordering::SeqCst),
            words.control(index),
        )
    }

    fn finish(words: &Words, index: u16, len: u64) {
        let second = !words.control_first;
        words.at(index, second).store(DONE | len, Ordering::SeqCst);
    }

    #[test]
    fn a_receive_ring_goes_round_and_keeps_one_descriptor_free() {
        for format in [Format::AddressFirst, Format::ControlFirst] {
            let pool = Pool::new(16, 64);
            let mut ring = ReceiveRing::new(8, 8, format).unwrap();
            for round in 0..50 {
                while let Some(buffer) = pool.take() {
                    if ring.post(buffer, control).is_err() {
                        break;
                    }
                }
                assert_eq!(usize::from(ring.posted), ring.capacity());
                assert_eq!(ring.tail(), (ring.oldest.index + 7) % 8);
                assert!(ring.take(written).unwrap().is_none(), "round {round}");
                let (address, word) = seen(&ring.words, ring.oldest.index);
                assert_eq!(
                    word & (1 << 34) != 0,
                    ring.oldest.index == 7,
                    "the last one wraps"
                );
                finish(&ring.words, ring.oldest.index, 10);
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
        let mut ring = ReceiveRing::new(8, 8, Format::AddressFirst).unwrap();
        ring.post(pool.take().unwrap(), control).unwrap();
        finish(&ring.words, 0, 65);
        assert_eq!(ring.take(written).err(), Some(DeviceFault::Length(65)));
        assert_eq!(pool.available(), 1, "it is out of the device's reach");
        assert!(ring.take(written).unwrap().is_none());
    }

    #[test]
    fn a_descriptor_that_was_not_posted_is_not_looked_at() {
        let mut ring = ReceiveRing::new(8, 8, Format::AddressFirst).unwrap();
        finish(&ring.words, 0, 10);
        assert!(!ring.pending(written));
        assert!(ring.take(written).unwrap().is_none());
    }

    #[test]
    fn a_packet_is_cut_into_pieces_and_freed_when_its_last_is_done() {
        let mut ring = transmit(16, Format::AddressFirst, 100, 40, 99).unwrap();
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
        assert_eq!(ring.reclaim(done), Ok(0), "only the last one counts");
        finish(&ring.words, 5, 0);
        assert_eq!(ring.reclaim(done), Ok(1));
        assert!(ring.is_empty());
        assert_eq!(seen(&ring.words, 5), (0, 0));
    }

    #[test]
    fn room_means_room_for_any_packet() {
        for size in [8, 16, 64] {
            let mut ring = transmit(size, Format::ControlFirst, 100, 64, 99).unwrap();
            for round in 0..100 {
                while ring.has_room() {
                    let slices = (0..30).map(|n| Bytes::from(vec![n; 2])).collect();
                    let posted = ring.post(Some([0, 0]), &[9; 40], slices, 64, control);
                    assert!(posted.is_ok(), "round {round} of {size}");
                }
                let last = ring.last(0).unwrap();
                finish(&ring.words, last, 0);
                assert_eq!(ring.reclaim(|word| word & DONE != 0), Ok(1));
            }
            ring.clear();
            assert!(ring.has_room() && ring.is_empty());
        }
    }

    #[test]
    fn a_full_ring_hands_the_slices_back() {
        let mut ring = transmit(16, Format::AddressFirst, 100, 64, 99).unwrap();
        let slices = || {
            let each = |n| Bytes::from(vec![n; 2]);
            (0..7).map(each).collect::<Slices>()
        };
        ring.post(None, &[1], slices(), 64, control).unwrap();
        let refused = ring.post(None, &[1], slices(), 64, control);
        assert_eq!(refused.unwrap_err().len(), 7);
        assert_eq!(ring.tail(), 8);
    }

    const LAP: u64 = 1 << 40;

    /// Answers with the index in the first word, the lap and the length in the second.
    const ANSWERED: Format = Format::Answered(Answered {
        lap_bit: LAP,
        size: 12,
        read: |[first, second]| Answer {
            lap: second & LAP != 0,
            index: u16::try_from(first).ok(),
            control: second & !LAP,
        },
    });

    /// Says as the device does that it is done with `index`, as answer number `n` of all.
    fn answer(answers: &Option<Answers>, n: usize, index: u64, len: u64) {
        let odd = (n / 12).is_multiple_of(2);
        let lap = if odd { LAP } else { 0 };
        let address = answers.as_ref().unwrap().address() + (n % 12) as u64 * 16;
        crate::drivers::net::fake::write_back(address, 0, 0, index);
        crate::drivers::net::fake::write_back(address, 0, 1, DONE | lap | len);
    }

    #[test]
    fn a_descriptor_counts_in_the_lap_in_which_it_was_posted() {
        let pool = Pool::new(16, 64);
        let mut ring = ReceiveRing::new(8, 8, ANSWERED).unwrap();
        for n in 0..100usize {
            let index = (n % 8) as u16;
            let lap = (n / 8).is_multiple_of(2);
            let there = |ring: &ReceiveRing| (seen(&ring.words, index).1 & LAP != 0) == lap;
            assert!(!there(&ring), "descriptor {n} is the device's too early");
            ring.post(pool.take().unwrap(), control).unwrap();
            assert!(there(&ring));
            assert!(!ring.pending(written), "an answer of the lap before");
            answer(&ring.answers, n, index.into(), 10);
            let (_, len, _) = ring.take(written).unwrap().unwrap();
            assert_eq!(len, 10);
            assert!(there(&ring), "erased, but not for the next lap");
            assert_eq!(seen(&ring.words, index).0, 0);
            assert!(ring.take(written).unwrap().is_none());
        }
        ring.clear();
        assert_eq!(seen(&ring.words, 5), (0, 0));
        ring.post(pool.take().unwrap(), control).unwrap();
        assert_ne!(seen(&ring.words, 0).1 & LAP, 0, "from the beginning");
        assert!(!ring.pending(written));
    }

    #[test]
    fn an_answer_about_anything_but_the_next_buffer_is_a_fault() {
        for index in [1, 2, 8, u64::MAX] {
            let pool = Pool::new(16, 64);
            let mut ring = ReceiveRing::new(8, 8, ANSWERED).unwrap();
            ring.post(pool.take().unwrap(), control).unwrap();
            ring.post(pool.take().unwrap(), control).unwrap();
            answer(&ring.answers, 0, index, 10);
            let fault = ring.take(written).err();
            assert!(matches!(fault, Some(DeviceFault::UnknownBuffer(_))));
        }
    }

    #[test]
    fn an_answer_frees_its_packet_and_those_before_and_no_other() {
        let done = |word| word & DONE != 0;
        let mut ring = transmit(16, ANSWERED, 100, 64, 16).unwrap();
        for n in 0..3 {
            let slices = [Bytes::from(vec![n; 8])].into_iter().collect();
            ring.post(None, &[1], slices, 64, control).unwrap();
        }
        answer(&ring.answers, 0, 3, 0);
        assert_eq!(ring.reclaim(done), Ok(2), "of two descriptors each");
        answer(&ring.answers, 1, 4, 0);
        let fault = ring.reclaim(done);
        assert_eq!(fault, Err(DeviceFault::UnknownBuffer(4)), "not its last");
        assert_eq!(ring.clear(), 1);
        assert_eq!(ring.reclaim(done), Ok(0));
    }
}
