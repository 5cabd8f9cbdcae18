//! Intel's gigabit cards: e1000 (8254x, on PCI) and e1000e (82574 and its kin, on PCI Express).
//!
//! They have the same registers and descriptors as far as they are used here: legacy receive
//! descriptors, and TCP/IP context and data descriptors for sending. [`Model`] is what differs.
//! Section numbers are those of the "PCI/PCI-X Family of Gigabit Ethernet Controllers Software
//! Developer's Manual" (SDM) and of the "82574 GbE Controller Family Datasheet" (82574).
//!
//! Tested with QEMU's e1000 (82540EM, 82545EM) and e1000e (82574L). I217, I218 and I219 are bound by
//! their datasheets' word that they keep to the same interface: untested, as is any metal.

mod offload;
mod registers;

use self::offload::Offload;
use self::registers::*;
use super::card::{BUFFER, Chip, Filled, Job, Rings};
use super::{Capabilities, RxChecksum, TxPacket};
use crate::dma::{DeviceFault, Format, Part};
use crate::mmio::Registers;

/// Bytes of the register window that are used.
pub(super) const WINDOW: u64 = 0x6000;
/// The register that masks interrupts, and the value that masks all.
pub(super) const QUIET: (usize, u32) = (INTERRUPT_MASK_CLEAR, u32::MAX);

/// Descriptors by which rings grow.
const RING_UNIT: u16 = 8;
/// How often to look whether a reset is over. It takes microseconds.
const RESET_PATIENCE: u32 = 100_000;
/// Bytes of a descriptor at most. The hardware takes more (SDM 3.3.7), but early steppings only
/// half as much in some cases.
const PIECE: usize = 4096;
/// What a short packet behind a large one is split off (see [`Intel::prepare`]).
const SENTINEL: usize = 4;

/// What differs from card to card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model {
    /// On PCI Express; else on PCI.
    pub express: bool,
    /// Cuts TCP over IPv4 into segments, and over IPv6.
    pub cuts: [bool; 2],
}

/// PCI.
const E1000: Model = Model {
    express: false,
    cuts: [true, false],
};
/// PCI Express.
const E1000E: Model = Model {
    express: true,
    cuts: [true, true],
};

/// Subsystem vendor and device of QEMU's e1000e. Cards that one can touch have a device.
pub(super) const QEMU_BOARD: (u16, u16) = (0x8086, 0x0000);

impl Model {
    /// As QEMU makes it up. Before version 8 a packet that its e1000e is to cut becomes IP fragments
    /// of one segment, unless the other end of the cable takes large packets; neither the version
    /// nor the cable can be seen from here. Its e1000 is right.
    pub(super) fn in_qemu(self) -> Self {
        let cuts = if self.express { [false; 2] } else { self.cuts };
        Self { cuts, ..self }
    }
}

/// The models known here, by PCI device id.
pub(super) fn model(device: u16) -> Option<Model> {
    match device {
        0x100e // 82540EM
        | 0x100f // 82545EM
            => Some(E1000),
        0x10d3 // 82574L
        | 0x153a | 0x153b // I217
        | 0x1559 | 0x155a | 0x15a0..=0x15a3 // I218
        | 0x156f | 0x1570 | 0x15b7..=0x15b9 | 0x15bb..=0x15be // I219
        | 0x15d6..=0x15d8 | 0x15df..=0x15e3
        | 0x0d4c..=0x0d4f
            => Some(E1000E),
        _ => None,
    }
}

/// One of these cards.
pub(super) struct Intel<R> {
    registers: R,
    model: Model,
    ring: u16,
    /// The context the device has, unless that was for one packet only.
    context: Option<[u64; 2]>,
    /// The packet before was to be cut.
    after_large: bool,
}

impl<R: Registers> Intel<R> {
    /// The card behind these registers.
    /// Rings of `ring` descriptors: their length has to be a multiple of 128 bytes (SDM 13.4.27).
    pub(super) fn new(registers: R, model: Model, ring: u16) -> Self {
        Self {
            registers,
            model,
            ring: ring.next_multiple_of(RING_UNIT),
            context: None,
            after_large: false,
        }
    }

    fn read(&self, register: usize) -> u32 {
        self.registers.read32(register)
    }

    fn write(&self, register: usize, value: u32) {
        self.registers.write32(register, value);
    }

    /// Writes a register pair that takes an address.
    fn write_address(&self, register: usize, address: u64) {
        self.write(register, address as u32);
        self.write(register + 4, (address >> 32) as u32);
    }

    /// Waits until `register` has none of `bits`; false if it takes too long.
    fn wait_clear(&self, register: usize, bits: u32) -> bool {
        (0..RESET_PATIENCE).any(|_| self.read(register) & bits == 0)
    }
}

impl<R: Registers> Chip for Intel<R> {
    fn formats(&self) -> [Format; 2] {
        [Format::AddressFirst; 2]
    }

    fn ring_size(&self) -> u16 {
        self.ring
    }

    /// SDM 14.3, 82574 section 4.6.
    fn stop(&mut self) -> Result<(), DeviceFault> {
        self.link()?;
        self.write(INTERRUPT_MASK_CLEAR, u32::MAX);
        // Some emulations keep all of this through a reset.
        self.write(RECEIVE_CONTROL, 0);
        self.write(TRANSMIT_CONTROL, 0);
        let control = self.read(CONTROL);
        if self.model.express {
            // 82574 section 3.1.3.10: nothing may be under way on the bus at a reset. If it does
            // not come to an end, the reset has to do.
            self.write(CONTROL, control | MASTER_DISABLE);
            let _ = self.wait_clear(STATUS, MASTER_ENABLED);
        }
        self.write(CONTROL, control & !MASTER_DISABLE | RESET);
        if !self.wait_clear(CONTROL, RESET) {
            return Err(DeviceFault::Gone);
        }
        // SDM 14.3: once more after the reset, and what has been pending is forgotten.
        self.write(INTERRUPT_MASK_CLEAR, u32::MAX);
        self.read(INTERRUPT_CAUSE);
        self.context = None;
        self.after_large = false;
        Ok(())
    }

    /// SDM 13.5.2: loaded from the EEPROM by the reset.
    fn mac(&self) -> Option<[u8; 6]> {
        let (low, high) = (self.read(RECEIVE_ADDRESS), self.read(RECEIVE_ADDRESS + 4));
        let [a, b, c, d] = low.to_le_bytes();
        let [e, f, ..] = high.to_le_bytes();
        let unicast = a & 1 == 0 && (low, high as u16) != (0, 0);
        (high & ADDRESS_VALID != 0 && unicast).then_some([a, b, c, d, e, f])
    }

    fn start(&mut self, mac: [u8; 6], rings: Rings) -> Result<(), DeviceFault> {
        let bytes = u32::from(rings.size) * 16;
        // SDM 14.3: the link as negotiated, no flow control, no VLANs.
        let control = self.read(CONTROL) & !CONTROL_UNWANTED;
        let speed = if self.model.express { 0 } else { AUTO_SPEED };
        self.write(CONTROL, control | SET_LINK_UP | speed);
        if self.model.express {
            let extended = self.read(CONTROL_EXTENDED);
            self.write(CONTROL_EXTENDED, extended | DRIVER_LOADED);
        }
        for register in FLOW_CONTROL {
            self.write(register, 0);
        }
        self.read(MISSED); // counts from zero

        // SDM 14.4, 82574 section 4.6.5: receiving. All multicasts are taken: neighbour discovery
        // uses more of them than the filter tells apart.
        let [a, b, c, d, e, f] = mac;
        self.write(RECEIVE_ADDRESS, u32::from_le_bytes([a, b, c, d]));
        let high = u32::from_le_bytes([e, f, 0, 0]);
        self.write(RECEIVE_ADDRESS + 4, high | ADDRESS_VALID);
        self.write_address(RECEIVE_BASE, rings.receive);
        self.write(RECEIVE_LENGTH, bytes);
        self.write(RECEIVE_HEAD, 0);
        self.write(RECEIVE_TAIL, 0);
        self.write(RECEIVE_DELAY, 0);
        self.write(RECEIVE_CHECKSUM, CHECK_IP | CHECK_TRANSPORT);
        self.write(RECEIVE_CONTROL, RECEIVE_WANTED);

        // SDM 14.5, 82574 section 4.6.6: sending.
        self.write_address(TRANSMIT_BASE, rings.transmit);
        self.write(TRANSMIT_LENGTH, bytes);
        self.write(TRANSMIT_HEAD, 0);
        self.write(TRANSMIT_TAIL, 0);
        if self.model.express {
            self.write(TRANSMIT_DESCRIPTORS, WRITE_BACK_AT_ONCE);
        }
        self.write(TRANSMIT_GAP, GAP);
        self.write(TRANSMIT_CONTROL, TRANSMIT_WANTED);
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        // A large packet does not fit into a small ring.
        let [segmentation_ipv4, segmentation_ipv6] =
            self.model.cuts.map(|cuts| cuts && self.ring >= 64);
        Capabilities {
            tx_checksum: true,
            rx_checksum: true,
            segmentation_ipv4,
            segmentation_ipv6,
            receive_coalescing: false,
        }
    }

    fn link(&self) -> Result<bool, DeviceFault> {
        match self.read(STATUS) {
            u32::MAX => Err(DeviceFault::Gone),
            status => Ok(status & LINK_UP != 0),
        }
    }

    /// Only a reset switches receiving off.
    fn stuck(&mut self) -> bool {
        self.read(RECEIVE_CONTROL) & RECEIVE_ENABLED == 0
    }

    fn empty(&self, part: Part) -> u64 {
        debug_assert!(part.len >= BUFFER, "the device writes {BUFFER} bytes");
        0
    }

    /// SDM 3.2.3.
    fn written(&self, control: u64) -> Option<usize> {
        (control & DONE != 0).then_some(usize::from(control as u16))
    }

    /// SDM 3.2.3 and 3.2.9.
    fn filled(&self, control: u64) -> Filled {
        if control & END_OF_PACKET == 0 {
            return Filled::Part;
        }
        if control & FRAME_ERRORS != 0 {
            return Filled::Bad;
        }
        let checked = control & (NOT_CHECKED | TRANSPORT_CHECKED) == TRANSPORT_CHECKED;
        let right = control & CHECKSUM_ERRORS == 0;
        // A wrong one is left to the stack, which counts it.
        Filled::End(match checked && right {
            true => RxChecksum::Valid,
            false => RxChecksum::Unknown,
        })
    }

    fn prepare(&mut self, packet: &mut TxPacket) -> Option<Job> {
        let after_large = core::mem::replace(&mut self.after_large, packet.segmentation.is_some());
        let offload = Offload::of(packet)?;
        let mut context = offload.context;
        // SDM 3.3.6: the device keeps a context until the next one, but counts down the payload
        // of a packet that it cuts.
        if packet.segmentation.is_some() {
            self.context = None;
        } else if context.is_some() && context == self.context {
            context = None;
        } else if context.is_some() {
            self.context = context;
        }
        // 8254x specification updates: a packet in one piece behind one that was cut may be
        // reported as sent before it is read. One in two pieces is not.
        let lone = packet.slices.iter().all(|slice| slice.is_empty());
        let split = !self.model.express && after_large && lone;
        let piece = match split {
            true => packet.head.len().saturating_sub(SENTINEL).max(SENTINEL),
            false => PIECE,
        };
        Some(Job {
            context,
            word: offload.word | DATA | INSERT_FCS,
            piece: piece.min(PIECE),
        })
    }

    /// SDM 3.3.7.
    fn piece(&self, word: u64, part: Part) -> u64 {
        let last = if part.last { END | REPORT } else { 0 };
        word | last | part.len as u64
    }

    fn sent(&self, control: u64) -> bool {
        control & DONE != 0
    }

    fn offer(&self, tail: u16) {
        self.write(RECEIVE_TAIL, tail.into());
    }

    fn announce(&self, tail: u16) {
        self.write(TRANSMIT_TAIL, tail.into());
    }

    /// SDM 13.4.17 and 13.4.20. What was pending while nobody wanted to know is forgotten first.
    fn arm(&self, starved: bool) {
        self.read(INTERRUPT_CAUSE);
        let sent = if starved { CAUSE_SENT } else { 0 };
        self.write(INTERRUPT_MASK_SET, CAUSE_RECEIVED | CAUSE_OVERRUN | sent);
    }

    fn disarm(&self) {
        self.write(INTERRUPT_MASK_CLEAR, u32::MAX);
    }

    fn missed(&mut self) -> u64 {
        self.read(MISSED).into()
    }

    /// SDM 13.4.19.
    fn provoke(&mut self, on: bool) {
        if on {
            self.write(INTERRUPT_MASK_SET, CAUSE_LINK);
            self.write(INTERRUPT_CAUSE_SET, CAUSE_LINK);
        } else {
            self.write(INTERRUPT_MASK_CLEAR, u32::MAX);
            self.read(INTERRUPT_CAUSE);
        }
    }
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
