//! A virtio device made of code: the other side of the rings, for tests. It can be told to lie.
#![allow(
    unsafe_code,
    reason = "a device reads and writes the driver's memory by address"
)]

use std::sync::{Arc, Mutex, MutexGuard};

use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Error, PhysAddr, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::dma::QueueTransport;

const WRITE: u16 = 2;
const NEXT: u16 = 1;
const INDIRECT: u16 = 4;
const NO_INTERRUPT: u16 = 1;
const EVENT_IDX: u64 = 1 << 29;

type Handler = Arc<dyn Fn(&FakeDevice, u16) + Send + Sync>;

/// The device's side. Clones are the same device.
#[derive(Clone)]
pub struct FakeDevice(Arc<Mutex<State>>);

struct State {
    status: u32,
    offered: u64,
    accepted: u64,
    max_queue: u32,
    legacy: bool,
    fixed: bool,
    config: Vec<u8>,
    queues: [Queue; 4],
    handler: Option<Handler>,
    notifications: usize,
    resets: u32,
    /// It was pulled out: whatever is read has all bits set.
    gone: bool,
    /// Its reset never ends.
    hung: bool,
}

#[derive(Clone, Copy, Default)]
struct Queue {
    size: u16,
    descriptors: usize,
    available: usize,
    used: usize,
    seen: u16,
    done: u16,
}

/// A descriptor: address, length, flags.
pub type Descriptor = (usize, usize, u16);

fn peek<T: Copy>(address: usize) -> T {
    // SAFETY: addresses come from the driver under test, which runs in this process.
    unsafe { (address as *const T).read_volatile() }
}

fn poke<T: Copy>(address: usize, value: T) {
    // SAFETY: as above.
    unsafe { (address as *mut T).write_volatile(value) }
}

impl FakeDevice {
    pub fn new(max_queue: u32) -> Self {
        Self(Arc::new(Mutex::new(State {
            status: 0,
            offered: 1 << 32,
            accepted: 0,
            max_queue,
            legacy: false,
            fixed: false,
            config: Vec::new(),
            queues: Default::default(),
            handler: None,
            notifications: 0,
            resets: 0,
            gone: false,
            hung: false,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn offer(self, features: u64, config: &[u8]) -> Self {
        {
            let mut state = self.state();
            state.offered = features;
            state.legacy = features & (1 << 32) == 0;
            state.config = config.to_vec();
        }
        self
    }

    /// It says another size from now on.
    pub fn say_queue_size(&self, size: u32) {
        self.state().max_queue = size;
    }

    /// Its queues have the size it says, and no other.
    pub fn with_fixed_queues(self) -> Self {
        self.state().fixed = true;
        self
    }

    pub fn on_notify(&self, handler: impl Fn(&Self, u16) + Send + Sync + 'static) {
        self.state().handler = Some(Arc::new(handler));
    }

    pub fn status(&self) -> u32 {
        self.state().status
    }

    pub fn accepted(&self) -> u64 {
        self.state().accepted
    }

    pub fn resets(&self) -> u32 {
        self.state().resets
    }

    pub fn vanish(&self) {
        self.state().gone = true;
    }

    pub fn hang(&self) {
        self.state().hung = true;
    }

    /// Says so in its status, beside what the driver has written there.
    pub fn say(&self, status: DeviceStatus) {
        self.state().status |= status.bits();
    }

    /// Changes an octet of its configuration.
    pub fn configure(&self, at: usize, value: u8) {
        self.state().config[at] = value;
    }

    /// Forgets what its driver has set up.
    pub fn forget(&self) {
        let mut state = self.state();
        state.status = 0;
        state.queues = Default::default();
    }

    pub fn notifications(&self) -> usize {
        self.state().notifications
    }

    /// Whether the driver wants to be interrupted when the next chain is given back.
    pub fn wants_interrupt(&self, queue: u16) -> bool {
        let state = self.state();
        let queue = state.queues[usize::from(queue)];
        if state.accepted & EVENT_IDX != 0 {
            let event = queue.available + 4 + 2 * usize::from(queue.size);
            assert_eq!(peek::<u16>(queue.available), 0, "no flags with EVENT_IDX");
            return peek::<u16>(event) == queue.done;
        }
        peek::<u16>(queue.available) & NO_INTERRUPT == 0
    }

    /// With EVENT_IDX: wants to be notified when this many more chains are available, not before.
    pub fn notify_after(&self, queue: u16, more: u16) {
        let queue = self.state().queues[usize::from(queue)];
        let event = queue.used + 4 + 8 * usize::from(queue.size);
        let available = peek::<u16>(queue.available + 2);
        poke(event, available.wrapping_add(more).wrapping_sub(1));
    }

    /// The head of the next chain the driver made available.
    pub fn next_head(&self, queue: u16) -> Option<u16> {
        let mut state = self.state();
        let queue = &mut state.queues[usize::from(queue)];
        if queue.size == 0 || peek::<u16>(queue.available + 2) == queue.seen {
            return None;
        }
        let slot = usize::from(queue.seen % queue.size);
        queue.seen = queue.seen.wrapping_add(1);
        Some(peek(queue.available + 4 + slot * 2))
    }

    pub fn chain(&self, queue: u16, head: u16) -> Vec<Descriptor> {
        let queue = self.state().queues[usize::from(queue)];
        let mut chain = Vec::new();
        let (mut table, mut at) = (queue.descriptors, head);
        loop {
            let address = table + usize::from(at) * 16;
            let flags = peek::<u16>(address + 12);
            if flags & INDIRECT != 0 {
                let len = peek::<u32>(address + 8) as usize;
                assert!(len > 0 && len / 16 <= queue.size.into(), "a table of {len}");
                (table, at) = (peek::<u64>(address) as usize, 0);
                continue;
            }
            chain.push((
                peek::<u64>(address) as usize,
                peek::<u32>(address + 8) as usize,
                flags,
            ));
            if flags & NEXT == 0 {
                return chain;
            }
            at = peek(address + 14);
        }
    }

    /// Says that chain `id` is done with `len` bytes written. Any lie is possible.
    pub fn give_back(&self, queue: u16, id: u32, len: u32) {
        let mut state = self.state();
        let queue = &mut state.queues[usize::from(queue)];
        let slot = usize::from(queue.done % queue.size);
        poke(queue.used + 4 + slot * 8, id);
        poke(queue.used + 8 + slot * 8, len);
        queue.done = queue.done.wrapping_add(1);
        poke(queue.used + 2, queue.done);
    }

    /// Lets `fill` write into the next buffer; it returns the length to claim.
    pub fn fill_next(&self, queue: u16, fill: impl FnOnce(&mut [u8]) -> u32) -> bool {
        let Some(head) = self.next_head(queue) else {
            return false;
        };
        let chain = self.chain(queue, head);
        let (address, len, flags) = chain[0];
        if address == 0 {
            return false; // a lie made the driver take the buffer back
        }
        assert!(flags & WRITE != 0, "not a buffer for the device to write");
        // SAFETY: the driver made this buffer available and may not touch it now.
        let buffer = unsafe { std::slice::from_raw_parts_mut(address as *mut u8, len) };
        let claimed = fill(buffer);
        self.give_back(queue, u32::from(head), claimed);
        true
    }

    /// Writes `bytes` into as many buffers as they need, as a device that merges does. Returns how
    /// many these were; 0 if there are not enough.
    pub fn fill_merged(&self, queue: u16, bytes: &[u8]) -> usize {
        let mut chains = Vec::new();
        let mut room = 0;
        while room < bytes.len() {
            let Some(head) = self.next_head(queue) else {
                self.unsee(queue, chains.len());
                return 0;
            };
            let chain = self.chain(queue, head);
            room += chain[0].1;
            chains.push((head, chain[0]));
        }
        let mut rest = bytes;
        for &(head, (address, len, flags)) in &chains {
            assert!(flags & WRITE != 0 && address != 0);
            let (piece, more) = rest.split_at(len.min(rest.len()));
            // SAFETY: the driver made this buffer available and may not touch it now.
            let buffer = unsafe { std::slice::from_raw_parts_mut(address as *mut u8, len) };
            buffer[..piece.len()].copy_from_slice(piece);
            self.give_back(queue, u32::from(head), piece.len() as u32);
            rest = more;
        }
        chains.len()
    }

    fn unsee(&self, queue: u16, count: usize) {
        let seen = &mut self.state().queues[usize::from(queue)].seen;
        *seen = seen.wrapping_sub(count as u16);
    }

    /// Receives the next packet the driver sends, header included.
    pub fn read_next(&self, queue: u16) -> Option<Vec<u8>> {
        let head = self.next_head(queue)?;
        let bytes = self.gather(queue, head);
        self.give_back(queue, u32::from(head), 0);
        Some(bytes)
    }

    pub fn gather(&self, queue: u16, head: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (address, len, flags) in self.chain(queue, head) {
            if address == 0 {
                continue; // a lie made the driver take the buffer back
            }
            assert!(flags & WRITE == 0, "not a buffer for the device to read");
            // SAFETY: as in `fill_next`.
            bytes.extend(unsafe { std::slice::from_raw_parts(address as *const u8, len) });
        }
        bytes
    }
}

/// The driver's side.
pub struct FakeTransport(FakeDevice);

impl FakeTransport {
    pub fn new(device: &FakeDevice) -> Self {
        Self(device.clone())
    }
}

impl QueueTransport for FakeTransport {
    fn has_fixed_queues(&self) -> bool {
        self.0.state().fixed
    }
}

impl Transport for FakeTransport {
    fn device_type(&self) -> DeviceType {
        DeviceType::Network
    }
    fn read_device_features(&mut self) -> u64 {
        let state = self.0.state();
        if state.gone { u64::MAX } else { state.offered }
    }
    fn write_driver_features(&mut self, features: u64) {
        self.0.state().accepted = features;
    }
    fn max_queue_size(&mut self, _queue: u16) -> u32 {
        let state = self.0.state();
        if state.gone {
            u32::MAX
        } else {
            state.max_queue
        }
    }
    fn notify(&mut self, queue: u16) {
        let handler = {
            let mut state = self.0.state();
            state.notifications += 1;
            state.handler.clone()
        };
        if let Some(handler) = handler {
            handler(&self.0, queue);
        }
    }
    fn get_status(&self) -> DeviceStatus {
        let state = self.0.state();
        DeviceStatus::from_bits_retain(if state.gone { 0xff } else { state.status })
    }
    fn set_status(&mut self, status: DeviceStatus) {
        let mut state = self.0.state();
        if status.is_empty() {
            state.queues = Default::default();
            state.resets += 1;
        }
        let busy = state.hung && status.is_empty();
        state.status = if busy { 1 } else { status.bits() };
    }
    fn set_guest_page_size(&mut self, _size: u32) {}
    fn requires_legacy_layout(&self) -> bool {
        self.0.state().legacy
    }
    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver_area: PhysAddr,
        device_area: PhysAddr,
    ) {
        let mut state = self.0.state();
        let mut size = size as usize;
        let (mut available, mut used) = (driver_area as usize, device_area as usize);
        if state.fixed {
            // It is told where the descriptors are, and knows the rest (section 2.7.2).
            size = state.max_queue as usize;
            available = descriptors as usize + 16 * size;
            used = (available + 2 * (3 + size)).next_multiple_of(4096);
        }
        state.queues[usize::from(queue)] = Queue {
            size: size as u16,
            descriptors: descriptors as usize,
            available,
            used,
            seen: 0,
            done: 0,
        };
    }
    fn queue_unset(&mut self, queue: u16) {
        self.0.state().queues[usize::from(queue)] = Queue::default();
    }
    fn queue_used(&mut self, queue: u16) -> bool {
        self.0.state().queues[usize::from(queue)].size != 0
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::empty()
    }
    fn read_config_generation(&self) -> u32 {
        0
    }
    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        let mut state = self.0.state();
        if state.gone {
            state.config.fill(u8::MAX);
        }
        let bytes = state.config.get(offset..offset + size_of::<T>());
        T::read_from_bytes(bytes.ok_or(Error::ConfigSpaceTooSmall)?).map_err(|_| Error::IoError)
    }
    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        _offset: usize,
        _value: T,
    ) -> Result<()> {
        Ok(())
    }
}
