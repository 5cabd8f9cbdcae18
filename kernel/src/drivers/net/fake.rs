//! The memory of a card made of code: what such cards do to rings and buffers, for tests.
#![allow(
    unsafe_code,
    reason = "a device reads and writes the driver's memory by address"
)]

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
