//! Virtqueues that own what the device has: buffers to be filled, packets to be sent.
//!
//! The device must be reset before its queues are dropped: they give the memory back.

use alloc::boxed::Box;
use alloc::vec::Vec;

use bytes::Bytes;
use smallvec::SmallVec;

use super::ring::{Descriptor, INDIRECT, NEXT, Ring, WRITE};
use super::{Buffer, DeviceFault, QueueTransport};

/// How to set up a queue.
#[derive(Clone, Copy, Debug)]
pub struct QueueOptions {
    /// Its number.
    pub index: u16,
    /// Descriptors at most; the device may allow fewer.
    pub most: u16,
    /// `VIRTIO_F_EVENT_IDX` was negotiated.
    pub event_index: bool,
    /// `VIRTIO_F_INDIRECT_DESC` was negotiated.
    pub indirect: bool,
    /// The first piece of a packet's head has a descriptor of its own, as devices want it that do not offer
    /// `VIRTIO_F_ANY_LAYOUT`.
    pub apart: bool,
}

impl QueueOptions {
    fn ring(self, transport: &mut impl QueueTransport) -> Result<Ring, DeviceFault> {
        Ring::new(transport, self.index, self.most, self.event_index)
    }
}

/// A virtqueue of buffers the device fills.
#[derive(Debug)]
pub struct ReceiveQueue {
    ring: Ring,
    slots: Box<[Option<Buffer>]>,
}

impl ReceiveQueue {
    /// Sets up a queue of the device behind `transport`, empty.
    pub fn new(
        transport: &mut impl QueueTransport,
        options: QueueOptions,
    ) -> Result<Self, DeviceFault> {
        let ring = options.ring(transport)?;
        let slots = slots(ring.size());
        Ok(Self { ring, slots })
    }

    /// Takes everything back, after a reset of the device, and sets the queue up again.
    pub fn restart(&mut self, transport: &mut impl QueueTransport) -> Result<(), DeviceFault> {
        self.slots.fill_with(|| None);
        self.ring.restart(transport)
    }

    /// How many buffers it holds.
    pub fn size(&self) -> usize {
        usize::from(self.ring.size())
    }

    /// Gives the device a buffer; hands it back if the ring is full.
    pub fn post(&mut self, buffer: Buffer) -> Result<(), Buffer> {
        let part = Descriptor {
            address: buffer.address() as u64,
            len: buffer.size() as u32,
            ..Descriptor::default()
        };
        // SAFETY: the buffer moves into `slots` below and is not touched before `take` has given
        // its number back; if adding fails the device never sees it.
        let head = unsafe { self.ring.add(&[part], WRITE) };
        match head.and_then(|head| self.slots.get_mut(usize::from(head))) {
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
        let Some((head, len)) = self.ring.take()? else {
            return Ok(None);
        };
        let slot = self.slots.get_mut(usize::from(head));
        let buffer = slot.and_then(Option::take);
        let buffer = buffer.ok_or(DeviceFault::UnknownBuffer(head.into()))?;
        if len as usize > buffer.size() {
            return Err(DeviceFault::Length(len));
        }
        Ok(Some((buffer, len as usize)))
    }

    /// Whether the device has given something back.
    pub fn pending(&self) -> bool {
        self.ring.pending()
    }

    /// Whether the device wants to be told about the buffers posted since the last call.
    pub fn announce(&mut self) -> bool {
        self.ring.announce()
    }

    /// Asks for an interrupt at the next buffer, or asks the device not to bother.
    pub fn set_interrupts(&mut self, on: bool) {
        self.ring.set_interrupts(on);
    }
}

/// As many empty slots. Not one copy for each type of queue.
fn slots<T>(count: u16) -> Box<[Option<T>]> {
    (0..count).map(|_| None).collect()
}

/// The most pieces a packet is sent in, header not counted, where the ring itself has to hold
/// them, and where a table apart does. Longer packets are copied together.
const MAX_DIRECT: usize = 16;
const MAX_INDIRECT: usize = 64;
/// Packets of more pieces go through a table where there are tables: a table costs the device a
/// look-up, each descriptor of the ring one that somebody else may need.
const FEW: usize = 6;

/// Packet parts of a transmit.
pub type Slices = SmallVec<[Bytes; 4]>;

/// Descriptors beside those of the slices: two for the head, if its pieces are apart, and one for what did not fit.
const BESIDE: usize = 3;

/// A table of descriptors: head, what did not fit into it, slices. It stays where it is while the
/// device has it.
type Table = Box<[Descriptor; MAX_INDIRECT + BESIDE]>;

#[derive(Debug)]
struct InFlight<const HEAD: usize> {
    head: Option<Box<[u8; HEAD]>>,
    head_len: usize,
    /// Where the head is cut in two.
    cut: usize,
    slices: Slices,
    table: Option<Table>,
}

impl<const HEAD: usize> InFlight<HEAD> {
    fn parts(&self) -> impl Iterator<Item = Descriptor> {
        let head = self.head.as_ref();
        let head = head.and_then(|head| head.get(..self.head_len));
        let (first, rest) = head.unwrap_or_default().split_at(self.cut);
        [first, rest]
            .into_iter()
            .filter(|piece| !piece.is_empty())
            .chain(self.slices.iter().map(|slice| &slice[..]))
            .map(Descriptor::of)
    }

    /// Fills the table in; the part that stands for it.
    fn describe(&mut self, mut table: Table) -> Descriptor {
        let mut count = 0;
        for ((place, part), next) in table.iter_mut().zip(self.parts()).zip(1..) {
            *place = Descriptor {
                flags: NEXT,
                next,
                ..part
            };
            count += 1;
        }
        if let Some(last) = table.get_mut(..count).and_then(<[_]>::last_mut) {
            last.flags = 0;
            last.next = 0;
        }
        let part = Descriptor {
            address: table.as_ptr() as u64,
            len: (count * size_of::<Descriptor>()) as u32,
            ..Descriptor::default()
        };
        self.table = Some(table);
        part
    }
}

/// A virtqueue of packets for the device to send: a head of at most `HEAD` bytes, which is copied,
/// then slices, which are not.
#[derive(Debug)]
pub struct TransmitQueue<const HEAD: usize> {
    ring: Ring,
    indirect: bool,
    apart: bool,
    /// Slices of a packet at most.
    most: usize,
    slots: Box<[Option<InFlight<HEAD>>]>,
    heads: Vec<Box<[u8; HEAD]>>,
    tables: Vec<Table>,
}

impl<const HEAD: usize> TransmitQueue<HEAD> {
    /// Sets up a queue of the device behind `transport`, empty.
    pub fn new(
        transport: &mut impl QueueTransport,
        options: QueueOptions,
    ) -> Result<Self, DeviceFault> {
        let ring = options.ring(transport)?;
        // Not longer than the ring either way (section 2.7.5.3.1).
        let most = if options.indirect {
            MAX_INDIRECT
        } else {
            MAX_DIRECT
        };
        let most = most.min(usize::from(ring.size()) - BESIDE);
        Ok(Self {
            slots: slots(ring.size()),
            ring,
            indirect: options.indirect,
            apart: options.apart,
            most,
            heads: Vec::new(),
            tables: Vec::new(),
        })
    }

    /// Drops everything, after a reset of the device, and sets the queue up again. How many packets were
    /// lost.
    pub fn restart(&mut self, transport: &mut impl QueueTransport) -> Result<usize, DeviceFault> {
        let lost = self.slots.iter().flatten().count();
        self.slots.fill_with(|| None);
        self.ring.restart(transport).map(|()| lost)
    }

    /// Whether the device has nothing to do.
    pub fn is_empty(&self) -> bool {
        self.ring.is_idle()
    }

    fn fits(&self, parts: usize) -> bool {
        let needed = if self.indirect { 1 } else { parts };
        usize::from(self.ring.free()) >= needed
    }

    /// Whether any packet fits now.
    pub fn has_room(&self) -> bool {
        self.fits(self.most + BESIDE)
    }

    /// Queues a packet whose head is `head`, piece by piece; what does not fit into `HEAD` bytes
    /// goes as a slice of its own. Hands the slices back if the ring is full.
    #[allow(
        clippy::result_large_err,
        reason = "the packet itself, to be tried again"
    )]
    pub fn post(&mut self, head: [&[u8]; 2], mut slices: Slices) -> Result<(), Slices> {
        tidy(&mut slices, self.most);
        if !self.fits(slices.len() + BESIDE) {
            return Err(slices);
        }
        let mut packet = InFlight {
            head: self.heads.pop().or_else(|| Some(Box::new([0; HEAD]))),
            head_len: 0,
            cut: 0,
            slices,
            table: None,
        };
        for piece in head {
            let room = packet.head.as_mut();
            let room = room.and_then(|head| head.get_mut(packet.head_len..));
            let room = room.unwrap_or_default();
            let (fits, over) = piece.split_at(piece.len().min(room.len()));
            if let Some(room) = room.get_mut(..fits.len()) {
                room.copy_from_slice(fits);
            }
            packet.head_len += fits.len();
            if !over.is_empty() {
                packet.slices.insert(0, Bytes::copy_from_slice(over));
            }
        }
        if self.apart {
            packet.cut = head[0].len().min(packet.head_len);
        }
        let mut parts: SmallVec<[Descriptor; FEW]> = packet.parts().collect();
        let mut flags = 0;
        if self.indirect && (parts.len() > FEW || usize::from(self.ring.free()) < parts.len()) {
            let table = self.tables.pop();
            let table = table.unwrap_or_else(|| Box::new([Descriptor::default(); _]));
            parts.clear();
            parts.push(packet.describe(table));
            flags = INDIRECT;
        }
        // SAFETY: head, slices and table are kept in `slots`, unchanged (`Bytes` cannot be written
        // to), until `take` has given the number back.
        let head = unsafe { self.ring.add(&parts, flags) };
        match head.and_then(|head| self.slots.get_mut(usize::from(head))) {
            Some(slot) => {
                *slot = Some(packet);
                Ok(())
            }
            None => Err(packet.slices),
        }
    }

    /// Drops what the device has sent.
    pub fn reclaim(&mut self) -> Result<usize, DeviceFault> {
        let mut count = 0;
        while let Some((head, _)) = self.ring.take()? {
            let slot = self.slots.get_mut(usize::from(head));
            let slot = slot.ok_or(DeviceFault::UnknownBuffer(head.into()))?;
            // Where it is: moved out, it would be copied.
            let sent = slot.as_mut();
            let sent = sent.ok_or(DeviceFault::UnknownBuffer(head.into()))?;
            self.heads.extend(sent.head.take());
            self.tables.extend(sent.table.take());
            *slot = None;
            count += 1;
        }
        Ok(count)
    }

    /// Whether the device has given something back.
    pub fn pending(&self) -> bool {
        self.ring.pending()
    }

    /// Whether the device wants to be told about the packets posted since the last call.
    pub fn announce(&mut self) -> bool {
        self.ring.announce()
    }

    /// Asks for an interrupt at the next packet sent, or asks the device not to bother.
    pub fn set_interrupts(&mut self, on: bool) {
        self.ring.set_interrupts(on);
    }
}

/// No empty slices (a descriptor must not be empty), and not more than `most`.
pub(super) fn tidy(slices: &mut Slices, most: usize) {
    slices.retain(|slice| !slice.is_empty());
    if slices.len() > most {
        let mut whole = Vec::with_capacity(slices.iter().map(Bytes::len).sum());
        for slice in slices.iter() {
            whole.extend_from_slice(slice);
        }
        slices.clear();
        slices.push(Bytes::from(whole));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_slices_go_and_long_lists_become_one() {
        let empty: Slices = [Bytes::new(), Bytes::from_static(b"a")]
            .into_iter()
            .collect();
        let tidy = |mut slices: Slices, most| {
            tidy(&mut slices, most);
            slices
        };
        assert_eq!(tidy(empty, 16).len(), 1);
        let many: Slices = (0..40u8).map(|i| Bytes::from(vec![i; 3])).collect();
        assert_eq!(tidy(many.clone(), 40).len(), 40);
        let tidied = tidy(many, 39);
        assert_eq!(tidied.len(), 1);
        assert_eq!(tidied[0].len(), 120);
        assert_eq!(tidied[0][119], 39);
    }
}
