//! Message-signalled interrupts (PCI local bus 3.0, section 6.8.1): one vector.

use super::{ConfigSpace, Function};

const CAPABILITY: u8 = 0x05;
const ENABLE: u32 = 1 << 16;
/// How many vectors the function may use.
const MULTIPLE: u32 = 0b111 << 20;
const WIDE: u32 = 1 << 23;

/// Sends the function's interrupts as the message (address and data) that `reserve` gives. `false`
/// if it cannot do that, or there is none.
pub fn enable(
    config: &mut impl ConfigSpace,
    function: &Function,
    reserve: impl FnOnce() -> Option<(u64, u32)>,
) -> bool {
    let list = function.capabilities(config);
    let Some(capability) = list.iter().find(|capability| capability.id == CAPABILITY) else {
        return false;
    };
    let Some((address, data)) = reserve() else {
        return false;
    };
    let (place, at) = (function.address, capability.offset);
    let control = config.read32(place, at);
    config.write32(place, at + 4, address as u32);
    let wide = control & WIDE != 0;
    if wide {
        config.write32(place, at + 8, (address >> 32) as u32);
    } else if address >> 32 != 0 {
        return false;
    }
    config.write32(place, at + if wide { 12 } else { 8 }, data);
    config.write32(place, at, control & !MULTIPLE | ENABLE);
    true
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Fake, function};
    use super::*;

    fn with_capability(control: u32) -> (Fake, Function) {
        let mut fake = Fake::default();
        let device = function(&mut fake, 0, 1, 0x10d3_8086);
        fake.write32(device.address, 0x04, 1 << 20);
        fake.write32(device.address, 0x34, 0xd0);
        fake.write32(device.address, 0xd0, control << 16 | 0x05);
        (fake, device)
    }

    #[test]
    fn one_vector_is_turned_on_in_either_layout() {
        for (control, data_at) in [(0x00, 0xd8), (0x80, 0xdc), (0x80 | 0b101 << 4, 0xdc)] {
            let (mut fake, device) = with_capability(control);
            assert!(enable(&mut fake, &device, || Some((0xfee0_1000, 0x23))));
            let word = |at| fake.read32(device.address, at);
            assert_eq!(word(0xd4), 0xfee0_1000);
            assert_eq!(word(data_at), 0x23);
            assert_eq!(word(0xd0) >> 16 & 0x71, 1);
        }
    }

    #[test]
    fn a_function_without_the_capability_is_left_alone() {
        let mut fake = Fake::default();
        let device = function(&mut fake, 0, 1, 0x100e_8086);
        assert!(!enable(&mut fake, &device, || Some((0xfee0_0000, 0x22))));
    }
}
