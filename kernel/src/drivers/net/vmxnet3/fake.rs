//! A vmxnet3 made of code. It can be told to lie.

use std::boxed::Box;
use std::sync::{Arc, Mutex, MutexGuard};

use super::layout::*;
use super::{QUEUES, RECEIVE_QUEUE, Vmxnet3};
use crate::dma::DeviceFault;
use crate::drivers::net::Nic;
use crate::drivers::net::card::Chip;
use crate::drivers::net::fake::{Fake, FakeChip, MAC, bind, descriptor, fetch, store, write_back};
use crate::mmio::Registers;

/// The device's side. Clones are the same device.
#[derive(Clone)]
pub struct FakeVmxnet3(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// The last value of each device register, by number.
    registers: [u32; 9],
    link: bool,
    gone: bool,
    /// It does not let itself be activated.
    hung: bool,
    active: bool,
    resets: u32,
    masked: bool,
    pending: bool,
    /// It has said that packets were sent which it has not looked at: their places are used again.
    lied: bool,
    missed: u64,
    tails: [u32; 2],
    /// Where it is in the rings and in their answers: to receive, to transmit.
    rings: [Place; 2],
    answers: [Place; 2],
}

/// A place in a ring, and how often it has been round.
#[derive(Clone, Copy, Default)]
struct Place {
    index: u32,
    laps: u32,
}

impl Place {
    fn odd_lap(self) -> bool {
        self.laps.is_multiple_of(2)
    }

    fn advance(&mut self, size: u32) {
        self.index += 1;
        if self.index >= size {
            self.index = 0;
            self.laps += 1;
        }
    }
}

/// A packet as the device was given it.
pub struct Sent {
    pub bytes: Vec<u8>,
    /// Lengths of its pieces.
    pub pieces: Vec<usize>,
    /// Its first control word.
    pub word: u64,
}

const TO_RECEIVE: usize = 0;
const TO_TRANSMIT: usize = 1;

/// One of its windows.
pub enum Window {
    Passthrough(FakeVmxnet3),
    Device(FakeVmxnet3),
}

impl FakeVmxnet3 {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn vmxnet3(&self, ring: u16, cuts: bool) -> Vmxnet3<Window> {
        let windows = [
            Window::Passthrough(self.clone()),
            Window::Device(self.clone()),
        ];
        let [passthrough, device] = windows;
        Vmxnet3::new(passthrough, device, ring, cuts).unwrap()
    }

    pub fn register(&self, at: usize) -> u32 {
        self.state().registers[at / 8]
    }

    pub fn tails(&self) -> [u32; 2] {
        self.state().tails
    }

    /// The bytes from `offset` of the shared area, and of what the driver has behind it, to the next
    /// multiple of eight.
    pub fn shared(&self, offset: usize) -> u64 {
        let at = offset - offset % 8;
        descriptor(self.base() + at as u64, 0)[0] >> (8 * (offset - at))
    }

    fn set_shared(&self, offset: usize, value: u64) {
        write_back(self.base() + offset as u64, 0, 0, value);
    }

    fn base(&self) -> u64 {
        let low = self.register(device::SHARED_LOW);
        u64::from(self.register(device::SHARED_HIGH)) << 32 | u64::from(low)
    }

    /// A queue has stopped, for this reason.
    pub fn stop_queue(&self, events: u32, reason: u32) {
        self.set_shared(shared::EVENTS, events.into());
        self.set_shared(QUEUES + queue::ERROR - 4, u64::from(reason) << 32 | 1);
    }

    /// Says that it has sent the packet with this last descriptor.
    pub fn say_sent(&self, index: u64) {
        self.answer(TO_TRANSMIT, [index, SENT << KIND_AT]);
    }

    /// Says that so many frames have found no buffer since it was activated.
    pub fn say_missed(&self, frames: u64) {
        self.state().missed = frames;
    }

    /// Where a ring and its answers are, and their sizes.
    fn queue(&self, which: usize) -> ([u64; 2], [u32; 2]) {
        let at = [RECEIVE_QUEUE, QUEUES][which];
        let places = [queue::RING, queue::ANSWERS].map(|offset| self.shared(at + offset));
        let sizes = [queue::RING_SIZE, queue::ANSWERS_SIZE];
        (places, sizes.map(|offset| self.shared(at + offset) as u32))
    }

    /// Says `words` in the next answer. It is of this lap, whatever else it is.
    fn answer(&self, which: usize, [first, second]: [u64; 2]) {
        let ([_, base], [_, size]) = self.queue(which);
        let mut state = self.state();
        let place = state.answers[which];
        let lap = if place.odd_lap() { LAP } else { 0 };
        write_back(base, place.index, 0, first);
        write_back(base, place.index, 1, second & !LAP | lap);
        state.answers[which].advance(size);
        state.pending = true;
    }

    /// Fills the next buffer, and says what `tell` makes of the honest answer.
    pub fn fill(&self, bytes: &[u8], tell: impl Fn([u64; 2]) -> [u64; 2]) -> bool {
        if !self.running() {
            return false;
        }
        let ([base, _], [size, _]) = self.queue(TO_RECEIVE);
        let place = self.state().rings[TO_RECEIVE];
        let [address, word] = descriptor(base, place.index);
        if (word & RECEIVE_LAP != 0) != place.odd_lap() {
            return false;
        }
        let room = bytes.len().min((word & LENGTH) as usize);
        store(address, &bytes[..room]);
        let first = u64::from(place.index) | FRAME_BEGIN | FRAME_END | NOT_CHECKED;
        let short = if room < bytes.len() { ERROR } else { 0 };
        let second = room as u64 | short | RECEIVED << KIND_AT;
        self.answer(TO_RECEIVE, tell([first, second]));
        self.state().rings[TO_RECEIVE].advance(size);
        true
    }

    /// Sends the next packet. Answers if it is to `report`.
    pub fn send(&self, report: bool) -> Option<Sent> {
        let mut sent = Sent {
            bytes: Vec::new(),
            pieces: Vec::new(),
            word: 0,
        };
        while self.running() {
            let ([base, _], [size, _]) = self.queue(TO_TRANSMIT);
            let place = self.state().rings[TO_TRANSMIT];
            let [address, word] = descriptor(base, place.index);
            if (word & TRANSMIT_LAP != 0) != place.odd_lap() {
                let whole = sent.pieces.is_empty() || self.state().lied;
                assert!(whole, "a packet without an end");
                return None;
            }
            if sent.pieces.is_empty() {
                sent.word = word;
            }
            let len = (word & LENGTH) as usize;
            sent.bytes.extend(fetch(address, len));
            sent.pieces.push(len);
            self.state().rings[TO_TRANSMIT].advance(size);
            if word & LAST != 0 {
                assert_ne!(word & ANSWER, 0, "nobody would know");
                if report {
                    self.say_sent(place.index.into());
                }
                return Some(sent);
            }
        }
        None
    }

    fn command(&self, command: u32) {
        let mut state = self.state();
        let mut result = 0;
        match command {
            command::ACTIVATE => {
                let base = u64::from(state.registers[device::SHARED_LOW / 8])
                    | u64::from(state.registers[device::SHARED_HIGH / 8]) << 32;
                let right = descriptor(base, 0)[0] == u64::from(MAGIC);
                state.active = right && !state.hung;
                result = u32::from(!state.active);
                (state.rings, state.answers) = Default::default();
                state.missed = 0;
            }
            command::QUIESCE => state.active = false,
            command::RESET => {
                state.active = false;
                state.resets += 1;
                (state.masked, state.pending) = (true, false);
            }
            command::STATISTICS if state.active => {
                let missed = state.missed;
                drop(state);
                self.set_shared(RECEIVE_QUEUE + queue::RECEIVE_MISSED, missed);
                return;
            }
            command::LINK => result = 10_000 << 16 | u32::from(state.link),
            command::ADDRESS_LOW => result = u32::from_le_bytes(*MAC.first_chunk().unwrap()),
            command::ADDRESS_HIGH => result = u32::from_le_bytes([MAC[4], MAC[5], 0, 0]),
            _ => {}
        }
        state.registers[device::COMMAND / 8] = result;
    }
}

impl Fake for FakeVmxnet3 {
    const RINGS: &'static [u16] = &[8, 32, 256];

    fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            link: true,
            ..State::default()
        })))
    }

    fn bind(&self, ring: u16) -> Result<Box<dyn Nic>, DeviceFault> {
        bind(self, ring)
    }

    fn give(&self, frame: &[u8]) -> bool {
        self.fill(frame, |honest| honest)
    }

    fn overfill(&self, len: u64) {
        self.fill(&[], |[first, second]| [first, second | len]);
    }

    fn lie(&self, what: u64) {
        let twisted = what.rotate_left(29);
        self.state().lied = true;
        match what % 3 {
            _ if !self.running() => {}
            0 => self.answer(TO_TRANSMIT, [what >> 2, twisted & !(KIND << KIND_AT)]),
            1 => self.answer(TO_RECEIVE, [what, twisted]),
            _ => drop(self.fill(&[], |[first, second]| [first ^ twisted, second ^ what])),
        }
    }

    fn take(&self, report: bool) -> Option<Vec<u8>> {
        self.send(report).map(|sent| sent.bytes)
    }

    fn running(&self) -> bool {
        self.state().active
    }

    fn resets(&self) -> u32 {
        self.state().resets
    }

    fn forget(&self) {
        self.state().active = false;
    }

    fn set_link(&self, up: bool) {
        self.state().link = up;
    }

    fn vanish(&self) {
        self.state().gone = true;
    }

    fn hang(&self) -> DeviceFault {
        self.state().hung = true;
        DeviceFault::Refused
    }

    fn wakes(&self) -> [bool; 2] {
        [!self.state().masked; 2]
    }
}

impl FakeChip for FakeVmxnet3 {
    fn chip(&self, ring: u16) -> Box<dyn Chip> {
        Box::new(self.vmxnet3(ring, true))
    }

    fn miss(&self, frames: u32) {
        let mut state = self.state();
        state.missed = state.missed.saturating_add(frames.into());
    }

    fn interrupts(&self) -> bool {
        let state = self.state();
        state.pending && !state.masked
    }
}

impl Registers for Window {
    fn read32(&self, offset: usize) -> u32 {
        let (Self::Passthrough(fake) | Self::Device(fake)) = self;
        let mut state = fake.state();
        match (self, offset) {
            _ if state.gone => u32::MAX,
            (Self::Passthrough(_), passthrough::INTERRUPT_MASK) => state.masked.into(),
            (Self::Passthrough(_), _) => 0,
            (Self::Device(_), device::DEVICE_VERSION) => 0b111,
            (Self::Device(_), device::INTERFACE_VERSION) => 0b1,
            (Self::Device(_), device::INTERRUPT_CAUSE) => {
                state.masked = true;
                core::mem::take(&mut state.pending).into()
            }
            (Self::Device(_), _) => state.registers[offset / 8],
        }
    }

    fn write32(&self, offset: usize, value: u32) {
        let (Self::Passthrough(fake) | Self::Device(fake)) = self;
        match (self, offset) {
            (Self::Passthrough(_), passthrough::INTERRUPT_MASK) => {
                fake.state().masked = value != 0;
            }
            (Self::Passthrough(_), passthrough::RECEIVE_TAIL) => {
                fake.state().tails[TO_RECEIVE] = value;
            }
            (Self::Passthrough(_), passthrough::TRANSMIT_TAIL) => {
                fake.state().tails[TO_TRANSMIT] = value;
            }
            (Self::Passthrough(_), _) => unreachable!("no such register: {offset:#x}"),
            (Self::Device(_), device::COMMAND) => fake.command(value),
            (Self::Device(_), device::EVENTS_SEEN) => {
                let events = fake.shared(shared::EVENTS) & !u64::from(value);
                fake.set_shared(shared::EVENTS, events);
            }
            (Self::Device(_), _) => fake.state().registers[offset / 8] = value,
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
