//! Memory that a driver and its device write to at the same time, word by word: a table of settings,
//! what the device reports.
//!
//! The device must be reset before it is dropped: that gives the memory back.

use alloc::alloc::{alloc_zeroed, dealloc};
use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::{DeviceFault, PAGE};

/// Zeroed memory at the beginning of a page.
#[derive(Debug)]
pub struct Shared {
    memory: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the memory is this value's alone, but for the device.
unsafe impl Send for Shared {}
// SAFETY: it is accessed through atomics only.
unsafe impl Sync for Shared {}

macro_rules! accessors {
    ($($read:ident, $write:ident, $type:ty, $atomic:ty;)*) => {
        $(
            #[doc = concat!("Reads the `", stringify!($type), "` at `offset` (bytes, naturally aligned).")]
            pub fn $read(&self, offset: usize) -> $type {
                // SAFETY: `place` has checked that it lies inside the memory, which lives as long
                // as `self`; the device accesses it at any time, and so does everybody here:
                // atomically.
                unsafe { self.place::<$atomic>(offset).as_ref() }.load(Ordering::Acquire)
            }

            #[doc = concat!("Writes the `", stringify!($type), "` at `offset` (bytes, naturally aligned).")]
            pub fn $write(&self, offset: usize, value: $type) {
                // SAFETY: as for reading.
                unsafe { self.place::<$atomic>(offset).as_ref() }.store(value, Ordering::Release);
            }
        )*
    };
}

impl Shared {
    /// So many bytes, rounded up to whole pages.
    pub fn new(bytes: usize) -> Result<Self, DeviceFault> {
        let size = bytes.max(1).next_multiple_of(PAGE);
        let layout = Layout::from_size_align(size, PAGE).map_err(|_| DeviceFault::OutOfMemory)?;
        // SAFETY: the layout is not empty.
        let memory = NonNull::new(unsafe { alloc_zeroed(layout) });
        let memory = memory.ok_or(DeviceFault::OutOfMemory)?;
        Ok(Self { memory, layout })
    }

    /// Where it is.
    pub fn address(&self) -> u64 {
        self.memory.as_ptr() as u64
    }

    /// Zeroes all of it.
    pub fn clear(&self) {
        for offset in (0..self.layout.size()).step_by(8) {
            self.write64(offset, 0);
        }
    }

    /// Offsets are the driver's own, so a wrong one is a mistake here and not the device's.
    #[track_caller]
    fn place<T>(&self, offset: usize) -> NonNull<T> {
        let (size, len) = (size_of::<T>(), self.layout.size());
        assert!(
            offset.is_multiple_of(size) && offset < len && len - offset >= size,
            "offset {offset:#x} outside {len:#x} bytes"
        );
        // SAFETY: just checked to lie inside the memory.
        unsafe { self.memory.byte_add(offset).cast() }
    }

    accessors! {
        read8, write8, u8, AtomicU8;
        read16, write16, u16, AtomicU16;
        read32, write32, u32, AtomicU32;
        read64, write64, u64, AtomicU64;
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout. The device was reset: see above.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_lie_in_it_as_the_device_sees_them() {
        let shared = Shared::new(100).unwrap();
        assert_eq!(shared.address() % PAGE as u64, 0);
        shared.write64(8, 0x0807_0605_0403_0201);
        assert_eq!((shared.read8(9), shared.read16(10)), (2, 0x0403));
        shared.write32(12, 0);
        assert_eq!(shared.read64(8), 0x0403_0201);
        shared.clear();
        assert_eq!(shared.read64(8), 0);
    }

    #[test]
    #[should_panic(expected = "outside")]
    fn nothing_lies_behind_its_end() {
        Shared::new(PAGE).unwrap().read32(PAGE);
    }
}
