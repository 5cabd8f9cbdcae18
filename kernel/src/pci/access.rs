//! Reading and writing configuration space.

use core::fmt;

use crate::acpi::tables::Ecam;
use crate::arch::x86_64::port::{PCI_CONFIG_ADDRESS, PCI_CONFIG_DATA};
use crate::mmio::Mmio;

/// Bus, device and function.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(u16);

impl Address {
    /// `device` below 32, `function` below 8; higher bits are ignored.
    pub const fn new(bus: u8, device: u8, function: u8) -> Self {
        Self(((bus as u16) << 8) | ((device as u16 & 31) << 3) | (function as u16 & 7))
    }

    /// The bus.
    pub const fn bus(self) -> u8 {
        (self.0 >> 8) as u8
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bits) = self;
        write!(f, "{:02x}:{:02x}.{}", bits >> 8, (bits >> 3) & 31, bits & 7)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Configuration space of all functions. Offsets are in bytes and multiples of four.
pub trait ConfigSpace {
    /// Reads a word; all ones where there is nothing.
    fn read32(&self, address: Address, offset: u16) -> u32;
    /// Writes a word.
    fn write32(&mut self, address: Address, offset: u16, value: u32);
}

/// How configuration space is reached on this machine.
#[derive(Debug)]
pub enum Access {
    /// Memory-mapped (PCI Express base specification, section 7.2.2).
    Memory {
        /// The window, from bus 0 on.
        window: Mmio,
    },
    /// Mechanism 1, ports 0xcf8 and 0xcfc.
    Ports,
}

impl Access {
    /// The window ACPI describes. Only the first buses are mapped: page tables for all 256 would
    /// cost more than any machine we know uses.
    pub fn memory(ecam: Ecam) -> Option<Self> {
        const BUSES: u64 = 8;
        let (first, last) = ecam.buses;
        if first != 0 {
            return None;
        }
        let window = Mmio::map(ecam.base, (u64::from(last) + 1).min(BUSES) << 20)?;
        Some(Self::Memory { window })
    }
}

impl ConfigSpace for Access {
    fn read32(&self, address: Address, offset: u16) -> u32 {
        match self {
            Self::Memory { window } => {
                register(window, address, offset).map_or(u32::MAX, |register| register.read32(0))
            }
            Self::Ports => match mechanism1(address, offset) {
                Some(command) => {
                    PCI_CONFIG_ADDRESS.write(command);
                    PCI_CONFIG_DATA.read()
                }
                None => u32::MAX,
            },
        }
    }

    fn write32(&mut self, address: Address, offset: u16, value: u32) {
        match self {
            Self::Memory { window } => {
                if let Some(register) = register(window, address, offset) {
                    register.write32(0, value);
                }
            }
            Self::Ports => {
                if let Some(command) = mechanism1(address, offset) {
                    PCI_CONFIG_ADDRESS.write(command);
                    PCI_CONFIG_DATA.write(value);
                }
            }
        }
    }
}

fn register(window: &Mmio, Address(bits): Address, offset: u16) -> Option<Mmio> {
    window.part((usize::from(bits) << 12) + usize::from(offset & 0xffc), 4)
}

fn mechanism1(Address(bits): Address, offset: u16) -> Option<u32> {
    (offset < 256).then_some(0x8000_0000 | (u32::from(bits) << 8) | u32::from(offset & 0xfc))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_the_usual_way() {
        assert_eq!(Address::new(0, 31, 2).to_string(), "00:1f.2");
    }

    #[test]
    fn a_bus_beyond_the_window_reads_as_empty() {
        let access = Access::Memory {
            window: Mmio::fake((1 << 20) / 8),
        };
        assert_eq!(access.read32(Address::new(0, 31, 7), 0xffc), 0);
        assert_eq!(access.read32(Address::new(1, 0, 0), 0), u32::MAX);
    }

    #[test]
    fn mechanism_one_reaches_only_the_first_256_bytes() {
        assert_eq!(mechanism1(Address::new(0, 3, 0), 0x34), Some(0x8000_1834));
        assert_eq!(mechanism1(Address::new(0, 3, 0), 0x100), None);
    }
}
