//! Message-signalled interrupts, extended (PCI local bus 3.0, section 6.8.2).

use super::{ConfigSpace, Function};
use crate::mmio::Mmio;

const CAPABILITY: u8 = 0x11;
const ENABLE: u32 = 1 << 31;
const FUNCTION_MASK: u32 = 1 << 30;
const ENTRY: usize = 16;

/// Where a function keeps its vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    offset: u16,
    /// The base address register of the table.
    pub bar: u8,
    /// The table's offset behind it.
    pub table: u32,
    /// How many vectors there are.
    pub vectors: u16,
}

impl Layout {
    /// The function's MSI-X capability, if it has one.
    pub fn find(config: &impl ConfigSpace, function: &Function) -> Option<Self> {
        let list = function.capabilities(config);
        let capability = list.iter().find(|capability| capability.id == CAPABILITY)?;
        let control = config.read32(function.address, capability.offset);
        let table = config.read32(function.address, capability.offset + 4);
        Some(Self {
            offset: capability.offset,
            bar: (table & 7) as u8,
            table: table & !7,
            vectors: ((control >> 16) & 0x7ff) as u16 + 1,
        })
    }

    /// Sends vector 0 as a write of `data` to `address`, and turns MSI-X on with all other vectors
    /// masked (as reset leaves them). `false` if the table cannot be reached.
    pub fn enable(
        &self,
        config: &mut impl ConfigSpace,
        function: &Function,
        (address, data): (u64, u32),
    ) -> bool {
        let base = function.memory_bar(config, self.bar);
        let table = base
            .and_then(|base| base.checked_add(u64::from(self.table)))
            .and_then(|base| Mmio::map(base, ENTRY as u64));
        let Some(table) = table else {
            return false;
        };
        self.control(config, function, ENABLE | FUNCTION_MASK);
        write_entry(&table, address, data);
        self.control(config, function, ENABLE);
        true
    }

    /// Turns MSI-X off.
    pub fn disable(&self, config: &mut impl ConfigSpace, function: &Function) {
        self.control(config, function, 0);
    }

    fn control(&self, config: &mut impl ConfigSpace, function: &Function, bits: u32) {
        let old = config.read32(function.address, self.offset);
        let new = (old & !(ENABLE | FUNCTION_MASK)) | bits;
        config.write32(function.address, self.offset, new);
    }
}

fn write_entry(entry: &Mmio, address: u64, data: u32) {
    entry.write32(0, address as u32);
    entry.write32(4, (address >> 32) as u32);
    entry.write32(8, data);
    entry.write32(12, 0); // unmasked
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Fake, function};
    use super::*;

    #[test]
    fn the_capability_gives_table_and_size() {
        let mut fake = Fake::default();
        let device = function(&mut fake, 0, 1, 0x1041_1af4);
        fake.write32(device.address, 0x04, 1 << 20);
        fake.write32(device.address, 0x34, 0x98);
        fake.write32(device.address, 0x98, 0x0002_0011);
        fake.write32(device.address, 0x9c, 0x0000_2001);
        let layout = Layout::find(&fake, &device).unwrap();
        assert_eq!((layout.bar, layout.table, layout.vectors), (1, 0x2000, 3));
    }

    #[test]
    fn a_table_behind_a_missing_window_is_not_enabled() {
        let mut fake = Fake::default();
        let device = function(&mut fake, 0, 1, 0x1041_1af4);
        let layout = Layout {
            offset: 0x98,
            bar: 7,
            table: 0,
            vectors: 1,
        };
        assert!(!layout.enable(&mut fake, &device, (0xfee0_0000, 0x22)));
    }
}
