//! Device registers in memory, as a safe, bounds-checked window.
//!
//! [`Registers`] is what drivers see of it. A [`Mmio`] is made from a physical range only through
//! [`Mmio::map`], which refuses ranges that overlap RAM the kernel uses, and maps the range uncached. After
//! that every access is checked against the window, so a driver with a wrong offset panics instead of
//! touching something else.

use core::fmt;
use core::ptr::NonNull;

use virtio_drivers::transport::mmio::{MmioError, MmioTransport};

/// The registers of a device, as a driver needs them: a window, or what stands for a device in
/// tests. Offsets are in bytes and naturally aligned.
pub trait Registers: Send {
    /// Reads a byte.
    fn read8(&self, offset: usize) -> u8;
    /// Writes a byte.
    fn write8(&self, offset: usize, value: u8);
    /// Reads two bytes.
    fn read16(&self, offset: usize) -> u16;
    /// Writes two bytes.
    fn write16(&self, offset: usize, value: u16);
    /// Reads four bytes.
    fn read32(&self, offset: usize) -> u32;
    /// Writes four bytes.
    fn write32(&self, offset: usize, value: u32);
}

macro_rules! forward {
    ($($read:ident, $write:ident, $type:ty;)*) => {
        impl Registers for Mmio {
            $(
                #[inline]
                fn $read(&self, offset: usize) -> $type {
                    Mmio::$read(self, offset)
                }
                #[inline]
                fn $write(&self, offset: usize, value: $type) {
                    Mmio::$write(self, offset, value);
                }
            )*
        }
    };
}

forward! {
    read8, write8, u8;
    read16, write16, u16;
    read32, write32, u32;
}

/// Whether every register of up to 32 bits, at an offset that suits it, has an address that does.
#[cfg_attr(
    not(godwit_image),
    allow(dead_code, reason = "there are no devices on the host")
)]
fn is_aligned(base: u64, len: u64) -> bool {
    let largest = [4, 2, 1].into_iter().find(|size| *size <= len);
    largest.is_none_or(|size| base.is_multiple_of(size))
}

/// A window onto device registers.
#[derive(Clone, Copy)]
pub struct Mmio {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the window is device memory, mapped for good; accesses are volatile and carry no Rust
// references, so it may be used from any thread.
unsafe impl Send for Mmio {}
// SAFETY: as above.
unsafe impl Sync for Mmio {}

impl fmt::Debug for Mmio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mmio({:p}+{:#x})", self.base, self.len)
    }
}

macro_rules! accessors {
    ($read:ident, $write:ident, $type:ty) => {
        #[doc = concat!("Reads a `", stringify!($type), "` register at `offset` (bytes, naturally aligned).")]
        #[inline]
        #[track_caller]
        pub fn $read(&self, offset: usize) -> $type {
            let register = self.register::<$type>(offset);
            // SAFETY: `register` checked that the access is aligned and inside the window, which
            // is valid for as long as the kernel runs.
            unsafe { register.as_ptr().read_volatile() }
        }

        #[doc = concat!("Writes a `", stringify!($type), "` register at `offset` (bytes, naturally aligned).")]
        #[inline]
        #[track_caller]
        pub fn $write(&self, offset: usize, value: $type) {
            let register = self.register::<$type>(offset);
            // SAFETY: as for reading; the window belongs to a device, not to Rust objects.
            unsafe { register.as_ptr().write_volatile(value) }
        }
    };
}

impl Mmio {
    /// Maps `len` bytes of device registers at physical address `base`.
    ///
    /// `None` if the range is empty, wraps, lies beyond what can be mapped or overlaps RAM, or if the registers that
    /// fit into it would not be aligned.
    #[cfg(godwit_image)]
    pub fn map(base: u64, len: u64) -> Option<Self> {
        if !is_aligned(base, len) {
            return None;
        }
        crate::mm::map_device(base, len)?;
        Some(Self {
            base: NonNull::new(usize::try_from(base).ok()? as *mut u8)?,
            len: usize::try_from(len).ok()?,
        })
    }

    /// Maps `len` bytes of a screen's memory: writes to it may be combined and delayed.
    #[cfg(godwit_image)]
    pub fn map_screen(base: u64, len: u64) -> Option<Self> {
        crate::mm::map_screen(base, len)?;
        Some(Self {
            base: NonNull::new(usize::try_from(base).ok()? as *mut u8)?,
            len: usize::try_from(len).ok()?,
        })
    }

    /// There are no devices on the host.
    #[cfg(not(godwit_image))]
    pub fn map(_base: u64, _len: u64) -> Option<Self> {
        None
    }

    /// Nor screens.
    #[cfg(not(godwit_image))]
    pub fn map_screen(_base: u64, _len: u64) -> Option<Self> {
        None
    }

    /// A window over ordinary memory that stands in for a device in tests. The memory is leaked.
    #[cfg(test)]
    pub fn fake(words: usize) -> Self {
        let memory = std::vec![0u64; words].leak();
        Self {
            base: NonNull::from(memory).cast(),
            len: words * 8,
        }
    }

    /// The length of the window, in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the window is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The part of the window from `offset` on, `len` bytes long, if it lies inside.
    pub fn part(&self, offset: usize, len: usize) -> Option<Self> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        Some(Self {
            // SAFETY: `offset` is at most `self.len`, so the result stays inside the window.
            base: unsafe { self.base.add(offset) },
            len,
        })
    }

    /// The address of the window, for messages and for interrupt handlers.
    pub fn address(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    #[inline]
    #[track_caller]
    fn register<T>(&self, offset: usize) -> NonNull<T> {
        let size = size_of::<T>();
        if !offset.is_multiple_of(size) || offset > self.len || self.len - offset < size {
            self.outside(offset);
        }
        // SAFETY: just checked to lie inside the window.
        unsafe { self.base.add(offset).cast() }
    }

    /// There are hundreds of accesses, so what none of them should come to is a call.
    #[cold]
    #[inline(never)]
    #[track_caller]
    fn outside(&self, offset: usize) -> ! {
        panic!("register {offset:#x} outside {self:?}");
    }

    accessors!(read8, write8, u8);
    accessors!(read16, write16, u16);
    accessors!(read32, write32, u32);

    /// Takes the window as a virtio-mmio device (virtio 1.2, section 4.2).
    pub fn into_virtio(self) -> Result<MmioTransport<'static>, MmioError> {
        assert!(self.address().is_multiple_of(4), "registers are words");
        // SAFETY: the window is mapped for good, word aligned, and
        // its length is passed on; the caller gives its window away, and nothing else drives the
        // device but interrupt handlers that touch only the acknowledge register.
        unsafe { MmioTransport::new(self.base.cast(), self.len) }
    }
}

/// How the interrupt handler makes a device let go of its interrupt line, without its driver.
#[derive(Clone, Copy, Debug)]
pub enum Quiet {
    /// A virtio-mmio device, whose registers these are: what it says is acknowledged.
    VirtioMmio(Mmio),
    /// Writes a value to the register at an offset, by which the device is forbidden to interrupt.
    Write32(Mmio, usize, u32),
    /// The same, 16 bits wide.
    Write16(Mmio, usize, u16),
    /// Reads the register at an offset, which forbids the device to interrupt.
    Read32(Mmio, usize),
}

impl Quiet {
    /// Makes it let go.
    pub fn apply(self) {
        const INTERRUPT_STATUS: usize = 0x60;
        const INTERRUPT_ACKNOWLEDGE: usize = 0x64;
        match self {
            Self::VirtioMmio(registers) => {
                let status = registers.read32(INTERRUPT_STATUS);
                registers.write32(INTERRUPT_ACKNOWLEDGE, status);
            }
            Self::Write32(registers, offset, value) => registers.write32(offset, value),
            Self::Write16(registers, offset, value) => registers.write16(offset, value),
            Self::Read32(registers, offset) => {
                registers.read32(offset);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_cannot_reach_beyond_its_window() {
        let window = Mmio::fake(4);
        assert!(window.part(24, 8).is_some());
        assert!(window.part(24, 9).is_none());
        assert!(window.part(usize::MAX, 2).is_none());
    }

    #[test]
    #[should_panic(expected = "outside")]
    fn an_access_across_the_end_is_caught() {
        Mmio::fake(1).read32(8);
    }

    #[test]
    fn a_window_begins_where_its_registers_can() {
        for (base, len) in [
            (0x1000, 0x1000),
            (0x1004, 8),
            (0x1002, 2),
            (0x1003, 1),
            (0x1001, 0),
        ] {
            assert!(is_aligned(base, len), "{base:#x}+{len}");
        }
        for (base, len) in [
            (0x1001, 0x1000),
            (0x1002, 4),
            (0x1002, 16),
            (0x1001, 2),
            (0x1003, 3),
        ] {
            assert!(!is_aligned(base, len), "{base:#x}+{len}");
        }
    }

    #[test]
    fn registers_hold_what_was_written() {
        let window = Mmio::fake(2);
        window.write32(4, 0x0102_0304);
        assert_eq!(window.read8(7), 1);
        assert_eq!(window.read16(4), 0x0304);
    }
}
