//! ACPI: what the firmware says about the machine, without an interpreter.
//!
//! [`tables`] reads the fixed tables (RSDP, RSDT/XSDT, MADT, MCFG, FADT); [`dsdt`] finds the few
//! things in the byte code that a server needs by their encoded form; [`power`] is the power button
//! and switching off. The ACPI crates need nightly Rust or an interpreter with a heap; all this
//! needs is bytes.

pub mod dsdt;
pub mod power;
pub mod tables;

/// Physical memory with tables in it.
pub trait Physical {
    /// `len` bytes at physical address `base`, if they can be read.
    fn bytes(&self, base: u64, len: usize) -> Option<&[u8]>;
}

/// Little-endian numbers at an offset of a byte string, for readers that must not panic.
pub(crate) trait Fields {
    fn u8_at(&self, at: usize) -> Option<u8>;
    fn u16_at(&self, at: usize) -> Option<u16>;
    fn u32_at(&self, at: usize) -> Option<u32>;
    fn u64_at(&self, at: usize) -> Option<u64>;
}

impl Fields for [u8] {
    fn u8_at(&self, at: usize) -> Option<u8> {
        self.get(at).copied()
    }
    fn u16_at(&self, at: usize) -> Option<u16> {
        Some(u16::from_le_bytes(*self.get(at..)?.first_chunk()?))
    }
    fn u32_at(&self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(*self.get(at..)?.first_chunk()?))
    }
    fn u64_at(&self, at: usize) -> Option<u64> {
        Some(u64::from_le_bytes(*self.get(at..)?.first_chunk()?))
    }
}

#[cfg(test)]
pub(crate) mod fake {
    //! Physical memory made of pieces.

    use super::Physical;

    /// Pieces of memory at addresses.
    #[derive(Default)]
    pub struct Memory(pub Vec<(u64, Vec<u8>)>);

    impl Physical for Memory {
        fn bytes(&self, base: u64, len: usize) -> Option<&[u8]> {
            self.0.iter().find_map(|(start, bytes)| {
                let from = usize::try_from(base.checked_sub(*start)?).ok()?;
                bytes.get(from..from.checked_add(len)?)
            })
        }
    }

    /// A table with header, length and checksum right.
    pub fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let mut bytes = signature.to_vec();
        bytes.extend((36 + body.len() as u32).to_le_bytes());
        bytes.resize(36, 0);
        bytes.extend(body);
        fix(&mut bytes, 9);
        bytes
    }

    /// Sets the byte at `at` so that all bytes add up to zero.
    pub fn fix(bytes: &mut [u8], at: usize) {
        bytes[at] = 0;
        bytes[at] = bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_sub(byte));
    }
}
