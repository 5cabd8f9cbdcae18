//! Realtek's RTL8139C+ (100 Mbit/s, PCI), in C+ mode: rings of descriptors instead of the one
//! receive buffer and the four transmit slots of its predecessors.
//!
//! Section numbers are those of the "RTL8139C(L)+" datasheet. Checksums are left to the stack: the
//! card knows those of IPv4 only. Tested with QEMU's rtl8139; untested on metal.

use super::card::{Chip, Filled, Job, Rings};
use super::{Capabilities, RxChecksum, TxPacket};
use crate::dma::{DeviceFault, Format, Part};
use crate::mmio::Registers;

/// Registers in use (section 6).
mod register {
    pub const ADDRESS: usize = 0x00;
    pub const MULTICAST: usize = 0x08;
    pub const TRANSMIT_RING: usize = 0x20;
    pub const COMMAND: usize = 0x37;
    pub const INTERRUPT_MASK: usize = 0x3c;
    pub const INTERRUPT_STATUS: usize = 0x3e;
    pub const TRANSMIT_CONFIGURATION: usize = 0x40;
    pub const RECEIVE_CONFIGURATION: usize = 0x44;
    pub const TIMER: usize = 0x48;
    pub const MISSED: usize = 0x4c;
    pub const LOCK: usize = 0x50;
    pub const TIMER_LIMIT: usize = 0x54;
    pub const MEDIA_STATUS: usize = 0x58;
    pub const POLL: usize = 0xd9;
    pub const CPLUS_COMMAND: usize = 0xe0;
    pub const RECEIVE_RING: usize = 0xe4;
    pub const EARLY_TRANSMIT: usize = 0xec;
}
use register::*;

/// Bytes of the register window.
pub(super) const WINDOW: u64 = 0x100;
/// The register that masks interrupts, and the value that masks all.
pub(super) const QUIET: (usize, u16) = (INTERRUPT_MASK, 0);

/// The most descriptors that a ring may have (section 9.2).
const MOST: u16 = 64;
/// How often to look whether a reset is over, or a timer has run out.
const PATIENCE: u32 = 100_000;

const RESET: u8 = 1 << 4;
const ENABLE: u8 = 1 << 3 | 1 << 2;
const UNLOCKED: u8 = 0b11 << 6;
const NO_LINK: u8 = 1 << 2;
const NORMAL_QUEUE: u8 = 1 << 6;
/// C+ mode in both directions, with 64-bit addresses.
const CPLUS: u16 = 1 | 1 << 1 | 1 << 4;
/// The standard gap, bursts without limit.
const TRANSMIT: u32 = 0b11 << 24 | 0b111 << 8;
/// What is for us, multicasts and broadcasts; bursts without limit, whole frames.
const RECEIVE: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 0b111 << 8 | 0b111 << 13;
/// A frame leaves when so many times 32 bytes of it are here.
const EARLY: u8 = 32;

const RECEIVED: u16 = 1 | 1 << 1;
const SENT: u16 = 1 << 2 | 1 << 3;
const OVERRUN: u16 = 1 << 4 | 1 << 6;
const TIMEOUT: u16 = 1 << 14;
/// Ticks of the bus's clock.
const SOON: u32 = 1000;

// Control words (sections 9.2.1 and 9.2.2). The error bit is the summary of all.
const OWN: u64 = 1 << 31;
const END_OF_RING: u64 = 1 << 30;
const FIRST: u64 = 1 << 29;
const LAST: u64 = 1 << 28;
const ERROR: u64 = 1 << 20;
const LENGTH: u64 = 0x1fff;
/// The frame check sequence is counted.
const FCS: usize = 4;
const PIECE: usize = 4096;

/// PCI vendor and device.
pub(super) const ID: (u16, u16) = (0x10ec, 0x8139);

/// One of these cards.
pub(super) struct Rtl8139<R> {
    registers: R,
    ring: u16,
}

impl<R: Registers> Rtl8139<R> {
    /// The card behind these registers, with rings of `ring` descriptors or as many as it may have.
    pub(super) fn new(registers: R, ring: u16) -> Self {
        Self {
            registers,
            ring: ring.min(MOST),
        }
    }

    fn write_address(&self, register: usize, address: u64) {
        self.registers.write32(register, address as u32);
        self.registers.write32(register + 4, (address >> 32) as u32);
    }
}

impl<R: Registers> Chip for Rtl8139<R> {
    fn formats(&self) -> [Format; 2] {
        [Format::ControlFirst; 2]
    }

    fn ring_size(&self) -> u16 {
        self.ring
    }

    /// Section 6.4.
    fn stop(&mut self) -> Result<(), DeviceFault> {
        self.link()?;
        self.disarm();
        self.registers.write8(COMMAND, RESET);
        if !(0..PATIENCE).any(|_| self.registers.read8(COMMAND) & RESET == 0) {
            return Err(DeviceFault::Gone);
        }
        self.disarm();
        self.registers.write16(INTERRUPT_STATUS, u16::MAX);
        Ok(())
    }

    fn mac(&self) -> Option<[u8; 6]> {
        let mac: [u8; 6] = core::array::from_fn(|at| self.registers.read8(ADDRESS + at));
        (mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
    }

    /// Sections 6.20 and 9.1: C+ mode before everything else, and the two configurations only once
    /// both directions are on.
    fn start(&mut self, mac: [u8; 6], rings: Rings) -> Result<(), DeviceFault> {
        self.registers.write16(CPLUS_COMMAND, CPLUS);
        let [a, b, c, d, e, f] = mac;
        self.registers.write8(LOCK, UNLOCKED);
        self.registers
            .write32(ADDRESS, u32::from_le_bytes([a, b, c, d]));
        let high = u32::from_le_bytes([e, f, 0, 0]);
        self.registers.write32(ADDRESS + 4, high);
        self.registers.write8(LOCK, 0);
        self.write_address(RECEIVE_RING, rings.receive);
        self.write_address(TRANSMIT_RING, rings.transmit);
        self.registers.write8(COMMAND, ENABLE);
        self.registers.write8(EARLY_TRANSMIT, EARLY);
        self.registers.write32(TRANSMIT_CONFIGURATION, TRANSMIT);
        self.registers.write32(RECEIVE_CONFIGURATION, RECEIVE);
        self.write_address(MULTICAST, u64::MAX);
        self.registers.write32(MISSED, 0);
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn link(&self) -> Result<bool, DeviceFault> {
        match self.registers.read8(MEDIA_STATUS) {
            u8::MAX => Err(DeviceFault::Gone),
            status => Ok(status & NO_LINK == 0),
        }
    }

    /// Only a reset switches these off.
    fn stuck(&mut self) -> bool {
        self.registers.read8(COMMAND) & ENABLE != ENABLE
    }

    fn empty(&self, part: Part) -> u64 {
        let wraps = if part.wraps { END_OF_RING } else { 0 };
        OWN | wraps | part.len as u64 & LENGTH
    }

    fn written(&self, control: u64) -> Option<usize> {
        let len = (control & LENGTH) as usize;
        (control & OWN == 0).then_some(len.saturating_sub(FCS))
    }

    fn filled(&self, control: u64) -> Filled {
        if control & LAST == 0 {
            Filled::Part
        } else if control & (FIRST | ERROR) == FIRST {
            Filled::End(RxChecksum::Unknown)
        } else {
            Filled::Bad
        }
    }

    fn prepare(&mut self, _packet: &mut TxPacket) -> Option<Job> {
        Some(Job {
            context: None,
            word: OWN,
            piece: PIECE,
        })
    }

    fn piece(&self, word: u64, part: Part) -> u64 {
        let flag = |on, bit| if on { bit } else { 0 };
        word | flag(part.first, FIRST)
            | flag(part.last, LAST)
            | flag(part.wraps, END_OF_RING)
            | part.len as u64
    }

    fn sent(&self, control: u64) -> bool {
        control & OWN == 0
    }

    /// The card looks for itself when a frame comes.
    fn offer(&self, _tail: u16) {}

    fn announce(&self, _tail: u16) {
        self.registers.write8(POLL, NORMAL_QUEUE);
    }

    fn arm(&self, starved: bool) {
        self.registers.write16(INTERRUPT_STATUS, u16::MAX);
        let sent = if starved { SENT } else { 0 };
        let mask = RECEIVED | OVERRUN | sent;
        self.registers.write16(INTERRUPT_MASK, mask);
    }

    fn disarm(&self) {
        self.registers.write16(INTERRUPT_MASK, 0);
    }

    fn missed(&mut self) -> u64 {
        let missed = self.registers.read32(MISSED) & 0xff_ffff;
        if missed != 0 {
            self.registers.write32(MISSED, 0);
        }
        missed.into()
    }

    /// By the timer, which is the only thing that interrupts of itself.
    fn provoke(&mut self, on: bool) {
        self.registers
            .write32(TIMER_LIMIT, if on { SOON } else { 0 });
        self.registers.write16(INTERRUPT_STATUS, u16::MAX);
        self.registers
            .write16(INTERRUPT_MASK, if on { TIMEOUT } else { 0 });
        if on {
            self.registers.write32(TIMER, 0);
            let _ = (0..PATIENCE).any(|_| self.registers.read16(INTERRUPT_STATUS) & TIMEOUT != 0);
        }
    }
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
