//! Memory: what there is ([`map`]), who has it ([`heap`]), what may be done with it
//! ([`paging`]).
//!
//! Everything is mapped where it is: virtual and physical addresses are equal. That keeps DMA
//! trivial and costs nothing, because one program owns the whole machine; protection comes from
//! page flags (W^X, no-execute data, guard pages), not from separate address spaces.

pub mod heap;
#[cfg(godwit_image)]
mod live;
pub mod map;
pub mod paging;

#[cfg(not(godwit_image))]
use alloc::vec::Vec;

#[cfg(godwit_image)]
pub use live::Audit;
#[cfg(godwit_image)]
pub(crate) use live::{
    Guarded, at_rest, audit, callers, guarded_stack, hand_over, install, map_device, map_screen,
    memory, on_main_stack, out_of_memory, physical_bytes, reclaim, spare, stacks, symbols, wipe,
};

/// The host's memory is not ours to ration.
#[cfg(not(godwit_image))]
pub(crate) fn spare(bytes: usize) -> Option<Vec<u8>> {
    Some(Vec::with_capacity(bytes))
}

/// A program of the host has no table.
#[cfg(not(godwit_image))]
pub(crate) fn symbols() -> &'static [u8] {
    &[]
}

/// The size of a page and of a frame, in bytes.
pub const PAGE: u64 = 4096;

/// Rounds an address up to a page boundary, or `None` if that wraps.
pub const fn page_up(address: u64) -> Option<u64> {
    match address.checked_add(PAGE - 1) {
        Some(sum) => Some(sum & !(PAGE - 1)),
        None => None,
    }
}

/// Rounds an address down to a page boundary.
pub const fn page_down(address: u64) -> u64 {
    address & !(PAGE - 1)
}
