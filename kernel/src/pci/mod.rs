//! PCI: configuration space, and what devices say about themselves there.
//!
//! [`ConfigSpace`] is the access (memory-mapped or through ports), [`enumerate`] finds,
//! [`Function`] reads one device's base addresses and capabilities, [`msi`] and [`msix`] its interrupts. What a
//! device says is bounded and checked: a capability list that loops ends, a base address of zero is
//! no window.

pub mod access;
pub mod msi;
pub mod msix;

pub use access::{Access, Address, ConfigSpace};

use core::ops::Range;

use crate::acpi::tables::Ecam;

/// A type 0 function, as found by enumeration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Where it is.
    pub address: Address,
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Class and subclass.
    pub class: u16,
}

/// A capability in a function's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// What it is (PCI code and id assignment specification, section 2).
    pub id: u8,
    /// Its offset in configuration space.
    pub offset: u16,
}

mod register {
    pub const ID: u16 = 0x00;
    pub const COMMAND: u16 = 0x04;
    pub const CLASS: u16 = 0x08;
    pub const HEADER: u16 = 0x0c;
    pub const BAR: u16 = 0x10;
    pub const BUSES: u16 = 0x18;
    pub const SUBSYSTEM: u16 = 0x2c;
    pub const CAPABILITIES: u16 = 0x34;
    pub const INTERRUPT: u16 = 0x3c;
}

const COMMAND_PORTS: u32 = 1;
const COMMAND_MEMORY: u32 = 1 << 1;
const COMMAND_MASTER: u32 = 1 << 2;
const COMMAND_NO_INTX: u32 = 1 << 10;
const STATUS_CAPABILITIES: u32 = 1 << 20;
/// Capabilities start behind the header and take at least four bytes each.
const MAX_CAPABILITIES: usize = 48;

/// Where windows may go that nobody has placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    /// Physical addresses.
    pub memory: Range<u32>,
    /// Ports.
    pub ports: Range<u32>,
}

/// Calls `each` with every function of every bus that can be reached, bridges excluded.
pub fn enumerate(config: &impl ConfigSpace, mut each: impl FnMut(Function)) {
    let mut pending: heapless::Deque<u8, 32> = heapless::Deque::new();
    let mut seen = [false; 256];
    let _ = pending.push_back(0);
    while let Some(bus) = pending.pop_front() {
        if core::mem::replace(&mut seen[usize::from(bus)], true) {
            continue; // a bridge that leads back
        }
        for device in 0..32 {
            for function in 0..8 {
                let address = Address::new(bus, device, function);
                let id = config.read32(address, register::ID);
                if id & 0xffff == 0xffff || id & 0xffff == 0 {
                    if function == 0 {
                        break;
                    }
                    continue;
                }
                let header = (config.read32(address, register::HEADER) >> 16) as u8;
                match header & 0x7f {
                    0 => each(Function {
                        address,
                        vendor: id as u16,
                        device: (id >> 16) as u16,
                        class: (config.read32(address, register::CLASS) >> 16) as u16,
                    }),
                    1 => {
                        let secondary = (config.read32(address, register::BUSES) >> 8) as u8;
                        if secondary != 0 {
                            let _ = pending.push_back(secondary);
                        }
                    }
                    _ => {}
                }
                if function == 0 && header & 0x80 == 0 {
                    break;
                }
            }
        }
    }
}

impl Function {
    /// The physical address of base address register `index`, if it is a memory window the
    /// firmware has placed.
    pub fn memory_bar(&self, config: &impl ConfigSpace, index: u8) -> Option<u64> {
        if index > 5 {
            return None;
        }
        let at = register::BAR + u16::from(index) * 4;
        let low = config.read32(self.address, at);
        if low & 1 != 0 {
            return None; // ports
        }
        let high = match (low >> 1) & 0b11 {
            0b00 => 0,
            0b10 if index < 5 => config.read32(self.address, at + 4),
            _ => return None,
        };
        let address = (u64::from(high) << 32) | u64::from(low & !0xf);
        (address != 0).then_some(address)
    }

    /// The first port of base address register `index` and how many there are, if it is a window of ports that has
    /// been placed.
    pub fn port_bar(&self, config: &mut impl ConfigSpace, index: u8) -> Option<(u16, u16)> {
        if index > 5 {
            return None;
        }
        let at = register::BAR + u16::from(index) * 4;
        let bar = config.read32(self.address, at);
        let first = u16::try_from(bar & !3).ok()?;
        if bar & 1 == 0 || first == 0 {
            return None;
        }
        let command = config.read32(self.address, register::COMMAND) & 0xffff;
        let quiet = command & !(COMMAND_MEMORY | COMMAND_PORTS);
        config.write32(self.address, register::COMMAND, quiet);
        config.write32(self.address, at, u32::MAX);
        // A device need not have the upper half.
        let len = (config.read32(self.address, at) & 0xfffc) as u16;
        config.write32(self.address, at, bar);
        config.write32(self.address, register::COMMAND, command);
        Some((first, len.wrapping_neg()))
    }

    /// Gives every window that firmware has not placed (fast boot loaders place none) an address from `space`.
    /// `false` if there is no room in memory.
    pub fn place_windows(&self, config: &mut impl ConfigSpace, space: &mut Space) -> bool {
        let command = config.read32(self.address, register::COMMAND) & 0xffff;
        let decoding = COMMAND_MEMORY | COMMAND_PORTS;
        // Sizing writes nonsense into the registers: nothing may be decoded meanwhile.
        config.write32(self.address, register::COMMAND, command & !decoding);
        let mut all = true;
        let mut index = 0;
        while index < 6 {
            let at = register::BAR + index * 4;
            let low = config.read32(self.address, at);
            let memory = low & 1 == 0;
            let wide = memory && (low >> 1) & 0b11 == 0b10;
            let high = if wide && index < 5 {
                config.read32(self.address, at + 4)
            } else {
                0
            };
            let kind = if memory { 0xf } else { 0x3 };
            if low & !kind == 0 && high == 0 {
                config.write32(self.address, at, u32::MAX);
                let size = (!(config.read32(self.address, at) & !kind)).wrapping_add(1);
                let place = match size {
                    0 => Some(0),
                    // No two devices in a page.
                    _ if memory => carve(&mut space.memory, size.max(4096)),
                    // A device need not have the upper half.
                    _ => carve(&mut space.ports, size & 0xffff),
                };
                // Few drivers want ports, and one that does finds that there are none.
                all &= place.is_some() || !memory;
                config.write32(self.address, at, place.unwrap_or(0) | (low & kind));
            }
            index += if wide { 2 } else { 1 };
        }
        config.write32(self.address, register::COMMAND, command);
        all
    }

    /// Turns on the decoding of ports.
    pub fn enable_ports(&self, config: &mut impl ConfigSpace) {
        let command = config.read32(self.address, register::COMMAND) & 0xffff;
        config.write32(self.address, register::COMMAND, command | COMMAND_PORTS);
    }

    /// Turns on memory decoding and bus mastering, and legacy interrupts off.
    pub fn enable(&self, config: &mut impl ConfigSpace) {
        let command = config.read32(self.address, register::COMMAND) & 0xffff;
        config.write32(
            self.address,
            register::COMMAND,
            command | COMMAND_MEMORY | COMMAND_MASTER | COMMAND_NO_INTX,
        );
    }

    /// Whether it leads to another bus.
    pub fn is_bridge(&self) -> bool {
        self.class >> 8 == 0x06
    }

    /// Lets the device use its interrupt line, or forbids it.
    pub fn set_line(&self, config: &mut impl ConfigSpace, on: bool) {
        let command = config.read32(self.address, register::COMMAND) & 0xffff;
        let quiet = if on { 0 } else { COMMAND_NO_INTX };
        let command = command & !COMMAND_NO_INTX | quiet;
        config.write32(self.address, register::COMMAND, command);
    }

    /// The interrupt number of the old PC that firmware has given the device's line, if it has one.
    pub fn line(&self, config: &impl ConfigSpace) -> Option<u8> {
        let word = config.read32(self.address, register::INTERRUPT);
        let [line, pin, ..] = word.to_le_bytes();
        (pin != 0 && (1..16).contains(&line)).then_some(line)
    }

    /// Vendor and device of the board, vendor first.
    pub fn subsystem(&self, config: &impl ConfigSpace) -> (u16, u16) {
        let word = config.read32(self.address, register::SUBSYSTEM);
        (word as u16, (word >> 16) as u16)
    }

    /// The capability list.
    pub fn capabilities(
        &self,
        config: &impl ConfigSpace,
    ) -> heapless::Vec<Capability, MAX_CAPABILITIES> {
        let mut found = heapless::Vec::new();
        if config.read32(self.address, register::COMMAND) & STATUS_CAPABILITIES == 0 {
            return found;
        }
        let mut next = config.read32(self.address, register::CAPABILITIES) as u8 & !3;
        while next >= 0x40 {
            let offset = u16::from(next);
            let header = config.read32(self.address, offset);
            let capability = Capability {
                id: header as u8,
                offset,
            };
            if found.push(capability).is_err() {
                break; // a loop
            }
            next = (header >> 8) as u8 & !3;
        }
        found
    }
}

/// Takes a naturally aligned piece of `size` bytes (a power of two) out of `space`.
fn carve(space: &mut Range<u32>, size: u32) -> Option<u32> {
    if !size.is_power_of_two() {
        return None; // no device has such a window
    }
    let start = space.start.checked_next_multiple_of(size)?;
    let end = start.checked_add(size).filter(|&end| end <= space.end)?;
    space.start = end;
    Some(start)
}

/// Configuration space of this machine: memory-mapped where ACPI says so, else through ports.
pub fn access(ecam: Option<Ecam>) -> Access {
    ecam.and_then(Access::memory).unwrap_or(Access::Ports)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::HashMap;

    /// Configuration space made of words.
    #[derive(Default)]
    pub struct Fake(pub RefCell<HashMap<(Address, u16), u32>>);

    impl ConfigSpace for Fake {
        fn read32(&self, address: Address, offset: u16) -> u32 {
            let words = self.0.borrow();
            let absent = words.get(&(address, 0)).map_or(u32::MAX, |_| 0);
            *words.get(&(address, offset)).unwrap_or(&absent)
        }
        fn write32(&mut self, address: Address, offset: u16, value: u32) {
            self.0.borrow_mut().insert((address, offset), value);
        }
    }

    pub fn function(fake: &mut Fake, bus: u8, device: u8, id: u32) -> Function {
        let address = Address::new(bus, device, 0);
        fake.write32(address, 0, id);
        Function {
            address,
            vendor: id as u16,
            device: (id >> 16) as u16,
            class: 0,
        }
    }

    fn found(fake: &Fake) -> Vec<Address> {
        let mut all = Vec::new();
        enumerate(fake, |function| all.push(function.address));
        all
    }

    #[test]
    fn devices_behind_bridges_are_found() {
        let mut fake = Fake::default();
        function(&mut fake, 0, 3, 0x1041_1af4);
        let bridge = function(&mut fake, 0, 4, 0x000c_1b36).address;
        fake.write32(bridge, 0x0c, 0x0001_0000);
        fake.write32(bridge, 0x18, 0x0002_0200);
        function(&mut fake, 2, 0, 0x1041_1af4);
        assert_eq!(found(&fake), [Address::new(0, 3, 0), Address::new(2, 0, 0)]);
    }

    #[test]
    fn a_bridge_that_leads_to_its_own_bus_does_not_loop() {
        let mut fake = Fake::default();
        let bridge = function(&mut fake, 1, 0, 0x000c_1b36).address;
        fake.write32(bridge, 0x0c, 0x0001_0000);
        fake.write32(bridge, 0x18, 0x0001_0100);
        let first = function(&mut fake, 0, 0, 0x000c_1b36).address;
        fake.write32(first, 0x0c, 0x0001_0000);
        fake.write32(first, 0x18, 0x0001_0100);
        assert_eq!(found(&fake), []);
    }

    #[test]
    fn only_memory_windows_that_were_placed_count() {
        let mut fake = Fake::default();
        let device = function(&mut fake, 0, 1, 0x1041_1af4);
        fake.write32(device.address, 0x10, 0xc001); // ports
        fake.write32(device.address, 0x14, 0xfebd_0000); // 32 bits
        fake.write32(device.address, 0x18, 0x0000_000c); // 64 bits, prefetchable
        fake.write32(device.address, 0x1c, 0x0000_0080);
        fake.write32(device.address, 0x24, 0x0000_0004); // 64 bits without an upper half
        assert_eq!(device.memory_bar(&fake, 0), None);
        assert_eq!(device.memory_bar(&fake, 1), Some(0xfebd_0000));
        assert_eq!(device.memory_bar(&fake, 2), Some(0x80_0000_0000));
        assert_eq!(device.memory_bar(&fake, 4), None);
        assert_eq!(device.memory_bar(&fake, 5), None);
        assert_eq!(device.memory_bar(&fake, 6), None);
    }

    #[test]
    fn a_line_counts_if_firmware_has_connected_it_and_can_be_cut() {
        let mut fake = Fake::default();
        let device = function(&mut fake, 0, 1, 0x100e_8086);
        for (word, line) in [
            (0x010b, Some(11)),
            (0x000b, None),
            (0x01ff, None),
            (0x0100, None),
        ] {
            fake.write32(device.address, 0x3c, word);
            assert_eq!(device.line(&fake), line);
        }
        fake.write32(device.address, 0x04, 0x0010_0007);
        for (on, command) in [(false, 0x407), (true, 7)] {
            device.set_line(&mut fake, on);
            assert_eq!(
                fake.read32(device.address, 0x04),
                command,
                "status is left alone"
            );
        }
        fake.write32(device.address, 0x2c, 0x0001_8086);
        assert_eq!(device.subsystem(&fake), (0x8086, 1));
    }

    /// A device whose base address registers have fixed low bits, as sizing shows them.
    pub struct Sized(pub Fake, pub [u32; 6]);

    impl ConfigSpace for Sized {
        fn read32(&self, address: Address, offset: u16) -> u32 {
            self.0.read32(address, offset)
        }
        fn write32(&mut self, address: Address, offset: u16, value: u32) {
            let mask = match offset {
                0x10..0x28 => self.1[usize::from(offset - 0x10) / 4],
                _ => u32::MAX,
            };
            let fixed = self.0.read32(address, offset) & !mask & 0xf;
            self.0.write32(address, offset, (value & mask) | fixed);
        }
    }

    #[test]
    fn windows_nobody_placed_get_distinct_aligned_places() {
        let mut fake = Fake::default();
        let device = function(&mut fake, 0, 1, 0x1041_1af4);
        fake.write32(device.address, 0x10, 1); // ports
        fake.write32(device.address, 0x20, 0x0c); // 64 bits
        let masks = [0xffff_ffe0, 0xffff_f000, 0, 0, 0xffff_c000, u32::MAX];
        let mut config = Sized(fake, masks);
        let mut space = Space {
            memory: 0xd000_1000..0xe000_0000,
            ports: 0xc008..0xd000,
        };
        assert!(device.place_windows(&mut config, &mut space));
        assert_eq!(device.memory_bar(&config, 1), Some(0xd000_1000));
        assert_eq!(device.memory_bar(&config, 4), Some(0xd000_4000));
        assert_eq!(device.memory_bar(&config, 0), None);
        assert_eq!(device.port_bar(&mut config, 0), Some((0xc020, 32)));
        assert_eq!(device.port_bar(&mut config, 1), None);
        let before = space.clone();
        assert!(device.place_windows(&mut config, &mut space));
        assert_eq!(space, before, "what is placed stays");
    }

    #[test]
    fn a_window_that_does_not_fit_is_reported() {
        let mut fake = Fake::default();
        let device = function(&mut fake, 0, 1, 0x1041_1af4);
        fake.write32(device.address, 0x10, 0);
        let mut config = Sized(fake, [0xfff0_0000, 0, 0, 0, 0, 0]);
        let mut space = Space {
            memory: 0xd000_0000..0xd008_0000,
            ports: 0..0,
        };
        assert!(!device.place_windows(&mut config, &mut space));
        assert_eq!(device.memory_bar(&config, 0), None);
    }

    #[test]
    fn a_capability_list_that_loops_ends() {
        let mut fake = Fake::default();
        let device = function(&mut fake, 0, 1, 0x1041_1af4);
        fake.write32(device.address, 0x04, 1 << 20);
        fake.write32(device.address, 0x34, 0x40);
        fake.write32(device.address, 0x40, 0x5009);
        fake.write32(device.address, 0x50, 0x4011);
        assert_eq!(device.capabilities(&fake).len(), MAX_CAPABILITIES);
    }
}
