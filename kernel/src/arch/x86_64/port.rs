//! I/O ports.
//!
//! A port number is a promise about what answers there, so making a [`Port`] is `unsafe` and using
//! one is not. The well-known ones are constants.

use core::arch::asm;
use core::marker::PhantomData;

use crate::mmio::Registers;

/// A width a port can be accessed with: `u8`, `u16` or `u32`.
pub trait Width: Copy {
    /// Reads the port.
    ///
    /// # Safety
    ///
    /// Reading the port must not upset what the kernel relies on.
    unsafe fn read(port: u16) -> Self;
    /// Writes the port.
    ///
    /// # Safety
    ///
    /// Writing the port must not upset what the kernel relies on.
    unsafe fn write(port: u16, value: Self);
}

macro_rules! width {
    ($type:ty, $register:tt) => {
        impl Width for $type {
            #[inline]
            unsafe fn read(port: u16) -> Self {
                let value;
                // SAFETY: `in` touches no memory; the caller vouches for the port.
                unsafe {
                    asm!(concat!("in ", $register, ", dx"), in("dx") port, out($register) value,
                        options(nomem, nostack, preserves_flags));
                }
                value
            }

            #[inline]
            unsafe fn write(port: u16, value: Self) {
                // SAFETY: `out` touches no memory Rust knows of; the caller vouches for the port.
                // Not `nomem`: a doorbell must not be moved before the stores it announces.
                unsafe {
                    asm!(concat!("out dx, ", $register), in("dx") port, in($register) value,
                        options(nostack, preserves_flags));
                }
            }
        }
    };
}

width!(u8, "al");
width!(u16, "ax");
width!(u32, "eax");

/// An I/O port that is safe to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port<T> {
    number: u16,
    width: PhantomData<T>,
}

impl<T: Width> Port<T> {
    /// The port with this number.
    ///
    /// # Safety
    ///
    /// Reading and writing it, with any value, must not endanger memory safety: it must belong to a
    /// device that does no DMA on its own, or be dead.
    pub const unsafe fn new(number: u16) -> Self {
        Self {
            number,
            width: PhantomData,
        }
    }

    /// Reads the port.
    #[inline]
    pub fn read(self) -> T {
        // SAFETY: promised in `new`.
        unsafe { T::read(self.number) }
    }

    /// Writes the port.
    #[inline]
    pub fn write(self, value: T) {
        // SAFETY: promised in `new`.
        unsafe { T::write(self.number, value) }
    }
}

macro_rules! ports {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $number:expr;)*) => {
        $($(#[$doc])*
        // SAFETY: a fixed port of the PC architecture or of QEMU; no DMA behind it.
        pub const $name: Port<$type> = unsafe { Port::new($number) };)*
    };
}

ports! {
    /// Interrupt mask of the first 8259.
    PIC1_MASK: u8 = 0x21;
    /// Interrupt mask of the second 8259.
    PIC2_MASK: u8 = 0xa1;
    /// Counter 0 of the 8254 timer.
    PIT_COUNTER_0: u8 = 0x40;
    /// Command register of the 8254 timer.
    PIT_COMMAND: u8 = 0x43;
    /// Command register of the keyboard controller.
    KEYBOARD_COMMAND: u8 = 0x64;
    /// Index of the CMOS register to access; bit 7 masks NMI.
    CMOS_INDEX: u8 = 0x70;
    /// The CMOS register chosen.
    CMOS_DATA: u8 = 0x71;
    /// Index of the VGA's cathode ray tube controller.
    VGA_INDEX: u8 = 0x3d4;
    /// The register chosen.
    VGA_DATA: u8 = 0x3d5;
    /// QEMU's `isa-debug-exit` device, where the host adds it.
    DEBUG_EXIT: u32 = 0xf4;
    /// QEMU fw_cfg: selects an item (QEMU `docs/specs/fw_cfg`).
    FW_CFG_SELECT: u16 = 0x510;
    /// QEMU fw_cfg: the next byte of the item.
    FW_CFG_DATA: u8 = 0x511;
    /// PCI configuration mechanism 1: address (PCI local bus 3.0, section 3.2.2.3.2).
    PCI_CONFIG_ADDRESS: u32 = 0xcf8;
    /// PCI configuration mechanism 1: data.
    PCI_CONFIG_DATA: u32 = 0xcfc;
}

/// The ports of the first serial interface, 0x3f8 to 0x3ff.
pub fn serial_port(register: u16) -> Port<u8> {
    debug_assert!(register < 8);
    // SAFETY: the first UART of the PC architecture; no DMA behind it.
    unsafe { Port::new(0x3f8 + (register & 7)) }
}

/// A 16-bit port of an ACPI fixed-feature register block, as the FADT names it.
///
/// Ports below 0x100 belong to the chipset's own devices and are refused.
pub fn acpi_port16(number: u32) -> Option<Port<u16>> {
    acpi_number(number)
        // SAFETY: named by the FADT as a power management register; no DMA behind it.
        .map(|number| unsafe { Port::new(number) })
}

/// As [`acpi_port16`], 8 bits wide.
pub fn acpi_port8(number: u32) -> Option<Port<u8>> {
    acpi_number(number)
        // SAFETY: as above.
        .map(|number| unsafe { Port::new(number) })
}

/// As [`acpi_port16`], 32 bits wide.
pub fn acpi_port32(number: u32) -> Option<Port<u32>> {
    acpi_number(number)
        // SAFETY: as above.
        .map(|number| unsafe { Port::new(number) })
}

/// The SMI command port the FADT names.
pub fn acpi_smi_command(number: u32) -> Option<Port<u8>> {
    u16::try_from(number)
        .ok()
        .filter(|&number| number != 0)
        // SAFETY: named by the FADT for switching to ACPI mode; firmware answers there.
        .map(|number| unsafe { Port::new(number) })
}

/// A window of ports that belongs to a PCI device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    base: u16,
    len: u16,
}

impl Ports {
    /// Below are those of the PC architecture. Chipsets have some above, too, which they do not give to others.
    const FIRST: u16 = 0x1000;

    /// The window of `len` ports at `base`, as a driver has found both in a base address register. `None` where no
    /// device's window can be.
    pub fn of_device(base: u16, len: u16) -> Option<Self> {
        let last = base.checked_add(len.checked_sub(1)?);
        let fits = base >= Self::FIRST && base.is_multiple_of(4) && last.is_some();
        fits.then_some(Self { base, len })
    }

    /// The port at `offset`, if all of it lies in the window.
    fn port<T: Width>(&self, offset: usize) -> Option<Port<T>> {
        let end = offset.checked_add(size_of::<T>())?;
        let inside = end <= usize::from(self.len);
        // SAFETY: a device decodes it as its own, and its driver gives it no memory but what is its own.
        inside.then(|| unsafe { Port::new(self.base + offset as u16) })
    }
}

macro_rules! registers {
    ($($read:ident, $write:ident, $type:ty;)*) => {
        /// What is read beyond the window has all bits set, and what is written there is lost.
        impl Registers for Ports {
            $(
                fn $read(&self, offset: usize) -> $type {
                    self.port(offset).map_or(<$type>::MAX, Port::read)
                }
                fn $write(&self, offset: usize, value: $type) {
                    if let Some(port) = self.port::<$type>(offset) {
                        port.write(value);
                    }
                }
            )*
        }
    };
}

registers! {
    read8, write8, u8;
    read16, write16, u16;
    read32, write32, u32;
}

fn acpi_number(number: u32) -> Option<u16> {
    u16::try_from(number).ok().filter(|&number| number >= 0x100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_a_table_must_not_name_are_refused() {
        assert_eq!(acpi_port16(0), None);
        assert_eq!(acpi_port16(0x20), None);
        assert_eq!(acpi_port32(0x1_0000), None);
        assert!(acpi_port16(0x600).is_some());
    }

    #[test]
    fn a_window_of_ports_ends_where_it_ends() {
        for (base, len) in [(0, 36), (0x60, 36), (0xffe0, 33), (0xc001, 36), (0xc000, 0)] {
            assert_eq!(Ports::of_device(base, len), None, "{base:#x}");
        }
        let window = Ports::of_device(0xc040, 36).unwrap();
        assert!(window.port::<u32>(32).is_some() && window.port::<u8>(35).is_some());
        assert!(window.port::<u32>(33).is_none() && window.port::<u8>(usize::MAX).is_none());
        assert_eq!(window.read16(usize::MAX), u16::MAX);
        window.write32(34, 0);
        assert!(Ports::of_device(0xffe0, 32).is_some());
    }
}
