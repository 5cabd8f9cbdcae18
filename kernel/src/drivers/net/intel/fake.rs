//! One of Intel's cards made of code. It can be told to lie.

use std::boxed::Box;
use std::sync::{Arc, Mutex, MutexGuard};

use super::registers::*;
use super::{E1000E, Intel};
use crate::dma::DeviceFault;
use crate::drivers::net::Nic;
use crate::drivers::net::card::Chip;
use crate::drivers::net::fake::{Fake, FakeChip, MAC, bind, descriptor, fetch, store, write_back};
use crate::mmio::Registers;

/// The device's side. Clones are the same device.
#[derive(Clone)]
pub struct FakeIntel(Arc<Mutex<State>>);

struct State {
    registers: Vec<u32>,
    address: [u8; 6],
    link: bool,
    gone: bool,
    /// Its reset never ends.
    hung: bool,
    resets: u32,
    mask: u32,
    causes: u32,
    missed: u32,
    /// The context it keeps.
    context: [u64; 2],
}

/// A packet as the device was given it.
#[derive(Debug)]
pub struct Sent {
    pub bytes: Vec<u8>,
    /// Lengths of its pieces.
    pub pieces: Vec<usize>,
    /// The context that holds for it, and whether it came with it.
    pub context: [u64; 2],
    pub fresh: bool,
    /// Its last control word.
    pub word: u64,
}

impl FakeIntel {
    pub fn with_address(address: [u8; 6]) -> Self {
        Self(Arc::new(Mutex::new(State {
            registers: vec![0; 0x6000 / 4],
            address,
            link: true,
            gone: false,
            hung: false,
            resets: 0,
            mask: 0,
            causes: 0,
            missed: 0,
            context: [0; 2],
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn register(&self, at: usize) -> u32 {
        self.state().registers[at / 4]
    }

    pub fn mask(&self) -> u32 {
        self.state().mask
    }

    /// Where a ring is, and its head and tail.
    fn ring(&self, base: usize) -> (u64, u32, u32, u32) {
        let state = self.state();
        let at = |offset: usize| state.registers[(base + offset) / 4];
        let address = u64::from(at(0)) | u64::from(at(4)) << 32;
        (address, at(8) / 16, at(0x10), at(0x18))
    }

    /// Buffers that it may fill.
    pub fn buffers(&self) -> u32 {
        let (_, size, head, tail) = self.ring(RECEIVE_BASE);
        if size == 0 {
            0
        } else {
            (tail + size - head) % size
        }
    }

    /// Fills the next buffer and says `control`, which may be a lie.
    pub fn fill(&self, bytes: &[u8], control: u64) -> bool {
        let (base, size, head, tail) = self.ring(RECEIVE_BASE);
        if !self.running() || head == tail {
            return false;
        }
        let [address, _] = descriptor(base, head);
        store(address, bytes);
        write_back(base, head, 1, control);
        let mut state = self.state();
        state.registers[RECEIVE_HEAD / 4] = (head + 1) % size;
        state.causes |= CAUSE_RECEIVED;
        true
    }

    /// Receives a frame, in as many buffers as it needs, with these status bits.
    pub fn deliver(&self, frame: &[u8], status: u64) -> bool {
        let pieces: Vec<&[u8]> = frame.chunks(2048).collect();
        if (self.buffers() as usize) < pieces.len() {
            return false;
        }
        let last = pieces.len() - 1;
        pieces.iter().enumerate().all(|(n, piece)| {
            let end = if n == last { END_OF_PACKET | status } else { 0 };
            self.fill(piece, DONE | end | piece.len() as u64)
        })
    }

    /// Sends the next packet, and reports it.
    pub fn send(&self) -> Option<Sent> {
        self.send_if(true)
    }

    /// Sends the next packet, and keeps quiet about it.
    pub fn swallow(&self) -> Option<Sent> {
        self.send_if(false)
    }

    fn send_if(&self, report: bool) -> Option<Sent> {
        let (base, size, mut head, tail) = self.ring(TRANSMIT_BASE);
        let mut sent = Sent {
            bytes: Vec::new(),
            pieces: Vec::new(),
            context: self.state().context,
            fresh: false,
            word: 0,
        };
        if !self.running() {
            return None;
        }
        loop {
            if head == tail {
                return None;
            }
            let [address, word] = descriptor(base, head);
            if word & DATA == EXTENDED {
                sent.context = [address, word];
                sent.fresh = true;
                self.state().context = sent.context;
            } else {
                let len = (word & 0xf_ffff) as usize;
                sent.bytes.extend(fetch(address, len));
                sent.pieces.push(len);
                sent.word = word;
                if report && word & REPORT != 0 {
                    write_back(base, head, 1, word | DONE);
                }
            }
            head = (head + 1) % size;
            if word & DATA != EXTENDED && word & END != 0 {
                break;
            }
        }
        let mut state = self.state();
        state.registers[TRANSMIT_HEAD / 4] = head;
        state.causes |= CAUSE_SENT;
        Some(sent)
    }
}

impl Fake for FakeIntel {
    const RINGS: &'static [u16] = &[8, 16, 256];

    fn new() -> Self {
        Self::with_address(MAC)
    }

    fn bind(&self, ring: u16) -> Result<Box<dyn Nic>, DeviceFault> {
        bind(self, ring)
    }

    fn give(&self, frame: &[u8]) -> bool {
        self.deliver(frame, 0)
    }

    fn overfill(&self, len: u64) {
        self.fill(&[], DONE | END_OF_PACKET | len);
    }

    fn lie(&self, what: u64) {
        self.fill(&[], what);
    }

    fn take(&self, report: bool) -> Option<Vec<u8>> {
        let sent = if report { self.send() } else { self.swallow() };
        sent.map(|sent| sent.bytes)
    }

    fn running(&self) -> bool {
        let state = self.state();
        [RECEIVE_CONTROL, TRANSMIT_CONTROL]
            .iter()
            .all(|at| state.registers[at / 4] & 1 << 1 != 0)
    }

    fn resets(&self) -> u32 {
        self.state().resets
    }

    fn forget(&self) {
        self.state().registers.fill(0);
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
        [CAUSE_RECEIVED, CAUSE_SENT].map(|cause| self.mask() & cause != 0)
    }
}

impl FakeChip for FakeIntel {
    fn chip(&self, ring: u16) -> Box<dyn Chip> {
        Box::new(Intel::new(self.clone(), E1000E, ring))
    }

    fn miss(&self, frames: u32) {
        let mut state = self.state();
        state.missed = state.missed.saturating_add(frames);
    }

    fn interrupts(&self) -> bool {
        let state = self.state();
        state.mask & state.causes != 0
    }
}

impl Registers for FakeIntel {
    fn read32(&self, offset: usize) -> u32 {
        let mut state = self.state();
        if state.gone {
            return u32::MAX;
        }
        match offset {
            STATUS => {
                let disabled = state.registers[CONTROL / 4] & MASTER_DISABLE != 0;
                let master = if disabled { 0 } else { MASTER_ENABLED };
                master | if state.link { LINK_UP } else { 0 }
            }
            INTERRUPT_CAUSE => core::mem::take(&mut state.causes),
            MISSED => core::mem::take(&mut state.missed),
            _ => state.registers[offset / 4],
        }
    }

    fn write32(&self, offset: usize, value: u32) {
        let mut state = self.state();
        match offset {
            CONTROL if value & RESET != 0 => {
                state.resets += 1;
                state.registers.fill(0);
                let [a, b, c, d, e, f] = state.address;
                let (low, high) = ([a, b, c, d], [e, f, 0, 0]);
                let valid = if state.address == [0; 6] {
                    0
                } else {
                    ADDRESS_VALID
                };
                state.registers[RECEIVE_ADDRESS / 4] = u32::from_le_bytes(low);
                state.registers[RECEIVE_ADDRESS / 4 + 1] = u32::from_le_bytes(high) | valid;
                state.registers[CONTROL / 4] = if state.hung { RESET } else { 0 };
                (state.mask, state.causes, state.context) = (0, 0, [0; 2]);
            }
            INTERRUPT_MASK_SET => state.mask |= value,
            INTERRUPT_MASK_CLEAR => state.mask &= !value,
            INTERRUPT_CAUSE_SET => state.causes |= value,
            _ => state.registers[offset / 4] = value,
        }
    }

    fn read8(&self, _: usize) -> u8 {
        unreachable!("registers have 32 bits")
    }
    fn write8(&self, _: usize, _: u8) {
        unreachable!("registers have 32 bits")
    }
    fn read16(&self, _: usize) -> u16 {
        unreachable!("registers have 32 bits")
    }
    fn write16(&self, _: usize, _: u16) {
        unreachable!("registers have 32 bits")
    }
}
