//! Cards made of code: what they do to the memory of rings and buffers, and what tests that are about
//! all of them want of each ([`Fake`]).
#![allow(
    unsafe_code,
    reason = "a device reads and writes the driver's memory by address"
)]

use std::boxed::Box;

use super::Nic;
use super::card::{Card, Chip};
use crate::dma::DeviceFault;

/// The address that such a card is made with.
pub const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];

/// The device's side of a card. Clones are the same device.
pub(super) trait Fake: Clone {
    /// Sizes of rings that it can have, the usual one last.
    const RINGS: &'static [u16];
    /// Descriptors of a ring that are never used.
    const SPARE: u16 = 1;

    /// One with a link.
    fn new() -> Self;
    /// Its driver, with rings of this size.
    fn bind(&self, ring: u16) -> Result<Box<dyn Nic>, DeviceFault>;
    /// Receives a frame; false if there is no buffer.
    fn give(&self, frame: &[u8]) -> bool;
    /// Says that it has received a frame of so many bytes.
    fn overfill(&self, len: u64);
    /// Says something that need not be true.
    fn lie(&self, what: u64);
    /// Sends the next packet, and says so if it is to `report`.
    fn take(&self, report: bool) -> Option<Vec<u8>>;
    /// Whether it is set to receive and to send.
    fn running(&self) -> bool;
    fn resets(&self) -> u32;
    /// It resets itself.
    fn forget(&self);
    fn set_link(&self, up: bool);
    /// It is pulled out.
    fn vanish(&self);
    /// It does not come back from a reset: what its driver is to say of that.
    fn hang(&self) -> DeviceFault;
    /// Whether it would interrupt for a frame, and for a packet sent.
    fn wakes(&self) -> [bool; 2];
}

/// One whose driver is a [`Chip`].
pub(super) trait FakeChip: Fake {
    /// Its driver, with rings of this size.
    fn chip(&self, ring: u16) -> Box<dyn Chip>;
    /// So many frames have found no buffer.
    fn miss(&self, frames: u32);
    /// Whether it interrupts now.
    fn interrupts(&self) -> bool;
}

/// Takes over such a card.
pub(super) fn bind(device: &impl FakeChip, ring: u16) -> Result<Box<dyn Nic>, DeviceFault> {
    Ok(Box::new(Card::bind(device.chip(ring), true, || [2; 6])?))
}

fn peek(address: u64) -> u64 {
    // SAFETY: addresses come from the driver under test, which runs in this process.
    unsafe { (address as *const u64).read_volatile() }
}

fn poke(address: u64, value: u64) {
    // SAFETY: as above.
    unsafe { (address as *mut u64).write_volatile(value) }
}

/// The words of descriptor `index` of the ring at `base`.
pub fn descriptor(base: u64, index: u32) -> [u64; 2] {
    let at = base + u64::from(index) * 16;
    [peek(at), peek(at + 8)]
}

/// Writes one of its words.
pub fn write_back(base: u64, index: u32, word: usize, value: u64) {
    poke(base + u64::from(index) * 16 + word as u64 * 8, value);
}

/// What is to be sent from `address` on.
pub fn fetch(address: u64, len: usize) -> Vec<u8> {
    if address == 0 {
        return Vec::new(); // a lie made the driver take it back
    }
    // SAFETY: as above; it may not be touched before it is given back.
    unsafe { std::slice::from_raw_parts(address as *const u8, len) }.to_vec()
}

/// Fills a buffer.
pub fn store(address: u64, bytes: &[u8]) {
    if address != 0 {
        // SAFETY: as above.
        let place = unsafe { std::slice::from_raw_parts_mut(address as *mut u8, bytes.len()) };
        place.copy_from_slice(bytes);
    }
}
