//! VMware's paravirtual card, vmxnet3, in the first version of its interface.
//!
//! What there is to set lies in an area that driver and device share; registers take its address,
//! commands, and how far the rings are filled. Descriptors have a bit that changes from lap to lap,
//! and the device says what it is done with in rings of answers, which have such a bit too. There is
//! no datasheet: the interface is what VMware's drivers for free systems and QEMU's device agree on.
//! `layout` has names for it.
//!
//! Tested with QEMU's vmxnet3: with MSI-X, and by hand with MSI, with a line, with rings of 8 and when
//! told to cut. Never run on VMware's own. QEMU's (7.2) differs from what one would expect, as was seen:
//!
//! - Its answers about frames do not say that they are of that kind.
//! - It has no queue for frames that find no buffer: they are lost, and counted.
//! - A packet that it is to cut comes out as IP fragments unless the other end of the cable takes large
//!   packets, as with its e1000e. So only VMware's own device is asked to cut.
//!
//! And by its source:
//!
//! - An interrupt that comes up while its vector is masked is made up for when that is unmasked, even
//!   if nothing is left to do by then.
//! - A line that is up stays up through a reset.
//! - A change of the link is written to the shared area even before there is one: to address 696.

mod layout;

use self::layout::*;
use super::card::{BUFFER, Chip, Filled, Job, Rings};
use super::offload::Cut;
use super::{Capabilities, RxChecksum, TxPacket};
use crate::dma::{Answer, Answered, DeviceFault, Format, Part, Shared};
use crate::mmio::Registers;

/// Bytes of the windows that are used: pass-through registers, device registers.
pub(super) const WINDOWS: [u64; 2] = [0x1000, 0x48];
/// The device register to be read so that the card lets go of its line.
pub(super) const QUIET: usize = device::INTERRUPT_CAUSE;
/// PCI vendor and device.
pub(super) const ID: (u16, u16) = (0x15ad, 0x07b0);

const MTU: u32 = 1500;
/// What no device has counted yet.
const UNSAID_COUNT: u64 = 1 << 63 | 1;
/// Bytes of a descriptor at most, and descriptors of a packet.
const PIECE: usize = 0x3fff;
const PIECES: u16 = 16;

// The driver's memory: the shared area, the descriptions of both queues, a second receive ring that
// the device wants to exist, and what is needed to make it interrupt.
const QUEUES: usize = 0x400;
const RECEIVE_QUEUE: usize = QUEUES + queue::DESCRIPTION;
const EMPTY_RING: usize = 0x800;
const PROBE_RING: usize = 0xc00;
const PROBE_ANSWERS: usize = 0x1000;
const MEMORY: usize = 0x2000;

/// One of these cards.
pub(super) struct Vmxnet3<R> {
    passthrough: R,
    device: R,
    memory: Shared,
    /// Descriptors of a ring, and how many of them are used.
    ring: u16,
    used: u16,
    /// Cuts packets into segments.
    cuts: bool,
    /// Frames missed, as the device has last reported.
    missed: u64,
    /// It has reported, and does so no longer.
    reports: bool,
    forgotten: bool,
}

impl<R: Registers> Vmxnet3<R> {
    /// The card behind these registers. A ring has to have a multiple of 32 descriptors: of fewer than
    /// these only `ring` are used.
    pub(super) fn new(
        passthrough: R,
        device: R,
        ring: u16,
        cuts: bool,
    ) -> Result<Self, DeviceFault> {
        Ok(Self {
            passthrough,
            device,
            memory: Shared::new(MEMORY)?,
            ring: ring.next_multiple_of(RING_UNIT),
            used: ring,
            cuts,
            missed: 0,
            reports: false,
            forgotten: false,
        })
    }

    /// Gives a command.
    fn command(&self, command: u32) {
        self.device.write32(device::COMMAND, command);
    }

    /// Gives a command that has an answer.
    fn ask(&self, command: u32) -> u32 {
        self.command(command);
        self.device.read32(device::COMMAND)
    }

    fn mask(&self, on: bool) {
        self.passthrough
            .write32(passthrough::INTERRUPT_MASK, on.into());
    }

    /// Chooses the first version of either kind.
    fn choose_versions(&self) -> Result<(), DeviceFault> {
        for register in [device::DEVICE_VERSION, device::INTERFACE_VERSION] {
            if self.device.read32(register) & VERSION_1 == 0 {
                return Err(DeviceFault::Refused);
            }
            self.device.write32(register, VERSION_1);
        }
        Ok(())
    }

    /// Writes down what the device is to do, in an area that is zero.
    fn describe(&self, rings: Rings) {
        let memory = &self.memory;
        memory.write32(shared::MAGIC, MAGIC);
        memory.write32(shared::DRIVER_VERSION, 1);
        memory.write32(shared::GUEST, GUEST);
        memory.write32(shared::DEVICE_VERSIONS, VERSION_1);
        memory.write32(shared::INTERFACE_VERSIONS, VERSION_1);
        memory.write64(shared::FEATURES, CHECK);
        memory.write64(shared::QUEUES, memory.address() + QUEUES as u64);
        memory.write32(shared::QUEUES_LEN, 2 * queue::DESCRIPTION as u32);
        memory.write32(shared::MTU, MTU);
        memory.write16(shared::RECEIVE_PIECES, 1);
        memory.write8(shared::TRANSMIT_QUEUES, 1);
        memory.write8(shared::RECEIVE_QUEUES, 1);
        // All events have the one vector, 0.
        let automatic = self.ask(command::INTERRUPTS) & MASKED_BY == 0;
        memory.write8(shared::AUTOMATIC_MASK, automatic.into());
        memory.write8(shared::VECTORS, 1);
        memory.write32(shared::RECEIVE_FILTER, WANTED);

        let [receive, transmit] = rings.answers;
        self.describe_queue(QUEUES, rings.transmit, transmit, rings.size, rings.size);
        let answers = rings.size + RING_UNIT;
        self.describe_queue(RECEIVE_QUEUE, rings.receive, receive, rings.size, answers);
        let empty = memory.address() + EMPTY_RING as u64;
        memory.write64(RECEIVE_QUEUE + queue::SECOND_RING, empty);
        memory.write32(RECEIVE_QUEUE + queue::SECOND_SIZE, RING_UNIT.into());
    }

    fn describe_queue(&self, at: usize, ring: u64, answers: u64, size: u16, answers_size: u16) {
        let memory = &self.memory;
        memory.write64(at + queue::RING, ring);
        memory.write64(at + queue::ANSWERS, answers);
        memory.write32(at + queue::RING_SIZE, size.into());
        memory.write32(at + queue::ANSWERS_SIZE, answers_size.into());
    }

    /// Sets the device going as the area says.
    fn activate(&self) -> Result<(), DeviceFault> {
        let address = self.memory.address();
        self.device.write32(device::SHARED_LOW, address as u32);
        self.device
            .write32(device::SHARED_HIGH, (address >> 32) as u32);
        match self.ask(command::ACTIVATE) {
            0 => Ok(()),
            u32::MAX => Err(DeviceFault::Gone),
            _ => Err(DeviceFault::Refused),
        }
    }
}

/// What an answer of the transmit queue says.
fn sent([first, second]: [u64; 2]) -> Answer {
    let ours = second >> KIND_AT & KIND == SENT;
    Answer {
        lap: second & LAP != 0,
        index: ours.then_some((first & INDEX) as u16),
        control: second,
    }
}

/// What an answer of the receive queue says. Its flags move to where the second word has nothing of
/// use.
fn received([first, second]: [u64; 2]) -> Answer {
    let kind = second >> KIND_AT & KIND;
    let ours = (kind == RECEIVED || kind == UNSAID) && first >> RING_AT & RING_NUMBER == 0;
    Answer {
        lap: second & LAP != 0,
        index: ours.then_some((first & INDEX) as u16),
        control: second & !UNUSED | (first & FLAGS) << FLAGS_TO,
    }
}

const FLAGS: u64 = FRAME_BEGIN | FRAME_END | NOT_CHECKED;
const FLAGS_TO: u32 = 16;

impl<R: Registers> Chip for Vmxnet3<R> {
    fn formats(&self) -> [Format; 2] {
        let format = |lap_bit, size, read| {
            Format::Answered(Answered {
                lap_bit,
                size,
                read,
            })
        };
        [
            format(RECEIVE_LAP, self.ring + RING_UNIT, received),
            format(TRANSMIT_LAP, self.ring, sent),
        ]
    }

    fn ring_size(&self) -> u16 {
        self.ring
    }

    fn ring_use(&self) -> u16 {
        self.used
    }

    fn stop(&mut self) -> Result<(), DeviceFault> {
        self.link()?;
        self.disarm();
        // A reset would leave the line as it is.
        self.device.read32(device::INTERRUPT_CAUSE);
        self.command(command::QUIESCE);
        self.command(command::RESET);
        self.disarm();
        self.link().map(|_| ())
    }

    fn mac(&self) -> Option<[u8; 6]> {
        let [a, b, c, d] = self.ask(command::ADDRESS_LOW).to_le_bytes();
        let [e, f, ..] = self.ask(command::ADDRESS_HIGH).to_le_bytes();
        let mac = [a, b, c, d, e, f];
        (a & 1 == 0 && mac != [0; 6]).then_some(mac)
    }

    fn start(&mut self, mac: [u8; 6], rings: Rings) -> Result<(), DeviceFault> {
        self.choose_versions()?;
        self.memory.clear();
        self.missed = 0;
        self.forgotten = false;
        self.describe(rings);
        self.activate()?;
        // Activation brings back the address that the device was made with.
        let [a, b, c, d, e, f] = mac;
        let low = u32::from_le_bytes([a, b, c, d]);
        let high = u32::from_le_bytes([e, f, 0, 0]);
        self.device.write32(device::ADDRESS_LOW, low);
        self.device.write32(device::ADDRESS_HIGH, high);
        self.disarm();
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        // A large packet does not fit into a small ring.
        let cuts = self.cuts && self.used >= 64;
        Capabilities {
            tx_checksum: true,
            rx_checksum: true,
            segmentation_ipv4: cuts,
            segmentation_ipv6: cuts,
            receive_coalescing: false,
        }
    }

    fn limits(&self) -> (usize, u16) {
        (PIECE, PIECES)
    }

    fn link(&self) -> Result<bool, DeviceFault> {
        match self.ask(command::LINK) {
            u32::MAX => Err(DeviceFault::Gone),
            link => Ok(link & 1 != 0),
        }
    }

    fn stuck(&mut self) -> bool {
        let events = self.memory.read32(shared::EVENTS);
        if events != 0 {
            self.device.write32(device::EVENTS_SEEN, events);
        }
        let stopped = events & STOPPED != 0;
        if stopped {
            self.command(command::QUEUE_STATUS);
            let [transmit, receive] = [QUEUES, RECEIVE_QUEUE]
                .map(|description| self.memory.read32(description + queue::ERROR));
            log::warn!("vmxnet3: queue errors {transmit:#x} and {receive:#x}");
        }
        stopped || self.forgotten
    }

    fn empty(&self, part: Part) -> u64 {
        debug_assert!(part.len >= BUFFER, "a frame fits into a buffer");
        part.len as u64 & LENGTH
    }

    /// An answer stands for a filled buffer.
    fn written(&self, control: u64) -> Option<usize> {
        Some((control & LENGTH) as usize)
    }

    fn filled(&self, control: u64) -> Filled {
        if control & FRAME_END << FLAGS_TO == 0 {
            return Filled::Part;
        }
        if control & ERROR != 0 || control & FRAME_BEGIN << FLAGS_TO == 0 {
            return Filled::Bad;
        }
        let has = |bits| control & bits == bits;
        let checked = control & (NOT_CHECKED << FLAGS_TO | FRAGMENT) == 0;
        let ip = has(IPV6) || has(IPV4 | RIGHT_IPV4);
        let right = has(TCP | RIGHT_SUM) || has(UDP | RIGHT_SUM);
        // A wrong one is left to the stack, which counts it.
        Filled::End(match checked && ip && right {
            true => RxChecksum::Valid,
            false => RxChecksum::Unknown,
        })
    }

    fn prepare(&mut self, packet: &mut TxPacket) -> Option<Job> {
        let (kind, headers, size) = match (packet.checksum, packet.segmentation) {
            (None, None) => (0, 0, 0),
            (None, Some(_)) => return None,
            (Some(sum), None) => {
                let field = sum.start.checked_add(sum.offset)?;
                (SUM, usize::from(sum.start), field)
            }
            (Some(sum), Some(cut)) => (CUT, Cut::of(packet, sum, cut)?.headers, cut.size),
        };
        if headers > HEADERS_MOST || usize::from(size) > PIECE {
            return None;
        }
        Some(Job {
            context: None,
            word: kind | u64::from(size) << SIZE_AT | (headers as u64) << HEADERS_AT,
            piece: PIECE,
        })
    }

    /// The first piece says what is to be done with all.
    fn piece(&self, word: u64, part: Part) -> u64 {
        let work = if part.first { word } else { 0 };
        let last = if part.last { LAST | ANSWER } else { 0 };
        work | last | part.len as u64 & LENGTH
    }

    /// An answer stands for a packet sent.
    fn sent(&self, _control: u64) -> bool {
        true
    }

    fn offer(&self, tail: u16) {
        self.passthrough
            .write32(passthrough::RECEIVE_TAIL, tail.into());
    }

    fn announce(&self, tail: u16) {
        self.passthrough
            .write32(passthrough::TRANSMIT_TAIL, tail.into());
    }

    /// There is one vector, and thus no asking for less than all.
    fn arm(&self, _starved: bool) {
        self.mask(false);
    }

    fn disarm(&self) {
        self.mask(true);
    }

    fn missed(&mut self) -> u64 {
        let place = RECEIVE_QUEUE + queue::RECEIVE_MISSED;
        self.memory.write64(place, UNSAID_COUNT);
        self.command(command::STATISTICS);
        let missed = self.memory.read64(place);
        if missed == UNSAID_COUNT {
            // One that was reset by somebody else does not know where to write it.
            self.forgotten = self.reports;
            return 0;
        }
        self.reports = true;
        missed.saturating_sub(core::mem::replace(&mut self.missed, missed))
    }

    /// By a packet of one byte, which no wire carries: that it is done with is reported all the same.
    fn provoke(&mut self, on: bool) {
        let _ = self.stop();
        if !on {
            return;
        }
        let base = self.memory.address();
        let probe = base + PROBE_ANSWERS as u64;
        let rings = Rings {
            receive: base + EMPTY_RING as u64,
            transmit: base + PROBE_RING as u64,
            size: RING_UNIT,
            answers: [probe + 16 * u64::from(RING_UNIT), probe],
        };
        // All of the memory is zero behind this: the descriptor's byte is that of the empty ring.
        let started = self.start([2, 0, 0, 0, 0, 1], rings);
        if let Err(fault) = started {
            log::warn!("vmxnet3: {fault}");
            return;
        }
        self.memory.write64(PROBE_RING, base + EMPTY_RING as u64);
        let word = LAST | ANSWER | TRANSMIT_LAP | 1;
        self.memory.write64(PROBE_RING + 8, word);
        self.mask(false);
        self.announce(1);
    }
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
