//! An RTL8139C+ made of code. It can be told to lie.

use std::boxed::Box;
use std::sync::{Arc, Mutex, MutexGuard};

use super::register::*;
use super::{ENABLE, END_OF_RING, FIRST, LAST, MOST, OWN, RECEIVED, RESET, Rtl8139, SENT, TIMEOUT};
use crate::dma::DeviceFault;
use crate::drivers::net::Nic;
use crate::drivers::net::card::Chip;
use crate::drivers::net::fake::{Fake, FakeChip, MAC, bind, descriptor, fetch, store, write_back};
use crate::mmio::Registers;

/// The device's side. Clones are the same device.
#[derive(Clone)]
pub struct FakeRtl8139(Arc<Mutex<State>>);

struct State {
    bytes: [u8; 0x100],
    link: bool,
    gone: bool,
    hung: bool,
    resets: u32,
    polls: u32,
    /// Where it is in either ring.
    receive: u32,
    transmit: u32,
}

impl FakeRtl8139 {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn polls(&self) -> u32 {
        self.state().polls
    }

    pub fn register(&self, at: usize, len: usize) -> u64 {
        let state = self.state();
        (0..len).fold(0, |value, n| {
            value | u64::from(state.bytes[at + n]) << (8 * n)
        })
    }

    /// Fills the next buffer and says `control`, which may be a lie.
    pub fn fill(&self, bytes: &[u8], control: u64) -> bool {
        let base = self.register(RECEIVE_RING, 8);
        let at = self.state().receive;
        if !self.running() {
            return false;
        }
        let [word, address] = descriptor(base, at);
        if word & OWN == 0 {
            return false;
        }
        store(address, bytes);
        write_back(base, at, 0, control & !END_OF_RING | word & END_OF_RING);
        self.state().receive = if word & END_OF_RING != 0 { 0 } else { at + 1 };
        true
    }

    /// Receives a frame in one buffer.
    pub fn deliver(&self, frame: &[u8], status: u64) -> bool {
        self.fill(frame, FIRST | LAST | status | (frame.len() as u64 + 4))
    }

    /// Sends the next packet; what it was made of. Gives it back if it is to `report`.
    pub fn send(&self, report: bool) -> Option<Vec<u8>> {
        let base = self.register(TRANSMIT_RING, 8);
        let mut bytes = Vec::new();
        let mut begun = false;
        while self.running() {
            let at = self.state().transmit;
            let [word, address] = descriptor(base, at);
            if word & OWN == 0 {
                assert!(!begun, "a packet without an end");
                return None;
            }
            assert_eq!(word & FIRST != 0, !begun);
            begun = true;
            bytes.extend(fetch(address, word as u16 as usize));
            if report {
                write_back(base, at, 0, word & !OWN);
            }
            self.state().transmit = if word & END_OF_RING != 0 { 0 } else { at + 1 };
            if word & LAST != 0 {
                return Some(bytes);
            }
        }
        None
    }
}

impl Fake for FakeRtl8139 {
    const RINGS: &'static [u16] = &[8, MOST];

    fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            bytes: [0; 0x100],
            link: true,
            gone: false,
            hung: false,
            resets: 0,
            polls: 0,
            receive: 0,
            transmit: 0,
        })))
    }

    fn bind(&self, ring: u16) -> Result<Box<dyn Nic>, DeviceFault> {
        bind(self, ring)
    }

    fn give(&self, frame: &[u8]) -> bool {
        self.deliver(frame, 0)
    }

    fn overfill(&self, len: u64) {
        self.fill(&[], FIRST | LAST | (len + 4));
    }

    fn lie(&self, what: u64) {
        self.fill(&[], what & !OWN);
    }

    fn take(&self, report: bool) -> Option<Vec<u8>> {
        self.send(report)
    }

    fn running(&self) -> bool {
        self.register(COMMAND, 1) as u8 == ENABLE
    }

    fn resets(&self) -> u32 {
        self.state().resets
    }

    fn forget(&self) {
        self.state().bytes.fill(0);
    }

    fn set_link(&self, up: bool) {
        self.state().link = up;
    }

    fn vanish(&self) {
        self.state().gone = true;
    }

    fn hang(&self) -> DeviceFault {
        self.state().hung = true;
        DeviceFault::Gone
    }

    fn wakes(&self) -> [bool; 2] {
        let mask = self.register(INTERRUPT_MASK, 2) as u16;
        [RECEIVED, SENT].map(|cause| mask & cause != 0)
    }
}

impl FakeChip for FakeRtl8139 {
    fn chip(&self, ring: u16) -> Box<dyn Chip> {
        Box::new(Rtl8139::new(self.clone(), ring))
    }

    fn miss(&self, frames: u32) {
        let missed = self.register(MISSED, 4) as u32 + frames % 256;
        self.state().bytes[MISSED..MISSED + 3].copy_from_slice(&missed.to_le_bytes()[..3]);
    }

    fn interrupts(&self) -> bool {
        self.register(INTERRUPT_MASK, 2) & self.register(INTERRUPT_STATUS, 2) != 0
    }
}

impl Registers for FakeRtl8139 {
    fn read8(&self, offset: usize) -> u8 {
        let state = self.state();
        match offset {
            _ if state.gone => u8::MAX,
            MEDIA_STATUS => {
                if state.link {
                    0xd0
                } else {
                    0xd4
                }
            }
            _ => state.bytes[offset],
        }
    }

    fn write8(&self, offset: usize, value: u8) {
        let mut state = self.state();
        match offset {
            COMMAND if value & RESET != 0 => {
                state.resets += 1;
                state.bytes.fill(0);
                state.bytes[..6].copy_from_slice(&MAC);
                state.bytes[COMMAND] = if state.hung { RESET } else { 0 };
                (state.receive, state.transmit) = (0, 0);
                return;
            }
            POLL => state.polls += 1,
            ADDRESS..6 => assert_ne!(state.bytes[LOCK], 0, "the address is locked"),
            _ => {}
        }
        state.bytes[offset] = value;
    }

    fn read16(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.read8(offset), self.read8(offset + 1)])
    }

    fn write16(&self, offset: usize, value: u16) {
        let old = self.read16(offset);
        let value = if offset == INTERRUPT_STATUS {
            old & !value
        } else {
            value
        };
        for (n, byte) in value.to_le_bytes().into_iter().enumerate() {
            self.write8(offset + n, byte);
        }
    }

    fn read32(&self, offset: usize) -> u32 {
        u32::from(self.read16(offset)) | u32::from(self.read16(offset + 2)) << 16
    }

    fn write32(&self, offset: usize, value: u32) {
        for (n, byte) in value.to_le_bytes().into_iter().enumerate() {
            self.write8(offset + n, byte);
        }
        if offset == TIMER {
            self.state().bytes[INTERRUPT_STATUS + 1] |= (TIMEOUT >> 8) as u8;
        }
    }
}
