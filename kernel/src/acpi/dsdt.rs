//! What a server needs from the DSDT, found by its encoded form.
//!
//! The DSDT is a program. Interpreting it takes a virtual machine; but the objects of interest (the
//! `\_S5` package, the address of PCI's configuration space, the resources of virtio-mmio devices and of the
//! generic event device) are constants with a fixed encoding (ACPI 6.5, chapters 6.4 and 20), so they can be searched for.
//! Whatever does not look exactly as expected is not found.

use super::Fields;
use super::tables::Ecam;

/// Name of virtio-mmio devices (virtio 1.2 leaves it to the platform; QEMU and Linux use this).
const VIRTIO_MMIO: &[u8] = b"LNRO0005";
/// Name of the generic event device (section 5.6.9).
const EVENT_DEVICE: &[u8] = b"ACPI0013";
/// How far behind a device's name its resources are looked for.
const REACH: usize = 160;

/// A device with one window of registers and one interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Physical address of the registers.
    pub base: u32,
    /// Length of the window, in bytes.
    pub len: u32,
    /// The global system interrupt.
    pub gsi: u32,
    /// Level-triggered.
    pub level: bool,
    /// Active low.
    pub active_low: bool,
}

/// The generic event device: where events are read from (cleared by reading) and the interrupt that
/// announces them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventDevice {
    /// The event selector register.
    pub selector: Selector,
    /// The global system interrupt.
    pub gsi: u32,
    /// Level-triggered.
    pub level: bool,
    /// Active low.
    pub active_low: bool,
}

/// Where the generic event device says what has happened. Only byte code tells what its bits mean; the hypervisors
/// that have one are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selector {
    /// QEMU's: 32 bits at this physical address, the power button is bit 1.
    Qemu(u64),
    /// Cloud Hypervisor's: 8 bits, the power button is bit 3 (its `devices/src/acpi.rs`).
    CloudHypervisor(u64),
}

/// The value to write to SLP_TYP for switching off, from `Name (\_S5, Package () {value, ...})`.
pub fn sleep_type_s5(dsdt: &[u8]) -> Option<u8> {
    const NAME: u8 = 0x08;
    const PACKAGE: u8 = 0x12;
    occurrences(dsdt, b"_S5_").find_map(|at| {
        let before = dsdt.u8_at(at.checked_sub(1)?)?;
        if before != NAME && before != b'\\' {
            return None;
        }
        let rest = dsdt.get(at + 4..)?;
        if rest.u8_at(0)? != PACKAGE {
            return None;
        }
        // The length takes one to four bytes; its top two bits say how many follow.
        let length_bytes = 1 + usize::from(rest.u8_at(1)? >> 6);
        let elements = rest.get(1 + length_bytes + 1..)?;
        match elements.u8_at(0)? {
            0x00 => Some(0),
            0x01 => Some(1),
            0x0a => elements.u8_at(1).filter(|&value| value < 8),
            _ => None,
        }
    })
}

/// Devices that speak virtio-mmio.
pub fn virtio_mmio(dsdt: &[u8]) -> impl Iterator<Item = Resources> + '_ {
    occurrences(dsdt, VIRTIO_MMIO).filter_map(|at| {
        let rest = dsdt.get(at + VIRTIO_MMIO.len()..)?;
        let rest = rest.get(..REACH).unwrap_or(rest);
        // Stop at the next device of the same name: its resources are its own.
        let end = occurrences(rest, VIRTIO_MMIO).next().unwrap_or(rest.len());
        let rest = rest.get(..end)?;
        let (base, len) = memory32_fixed(rest)?;
        let (gsi, level, active_low) = extended_interrupt(rest)?;
        Some(Resources {
            base,
            len,
            gsi,
            level,
            active_low,
        })
    })
}

/// The generic event device, as QEMU describes it, or as Cloud Hypervisor does.
pub fn event_device(dsdt: &[u8], cloud_hypervisor: bool) -> Option<EventDevice> {
    let at = occurrences(dsdt, EVENT_DEVICE).next()?;
    let rest = dsdt.get(at..)?;
    let (gsi, level, active_low) = extended_interrupt(rest.get(..REACH).unwrap_or(rest))?;
    let selector = if cloud_hypervisor {
        Selector::CloudHypervisor(memory_region(dsdt, b"\x5b\x80GDST")?)
    } else {
        let rest = rest.get(..REACH * 4).unwrap_or(rest);
        Selector::Qemu(memory_region(rest, &[0x5b, 0x80])?)
    };
    Some(EventDevice {
        selector,
        gsi,
        level,
        active_low,
    })
}

/// The configuration space of PCI, from `Method (_CBA) { Return (address) }` of the host bridge: so it is said where
/// there is no MCFG (PCI firmware specification 3.3, section 4.1.3).
pub fn configuration_space(dsdt: &[u8]) -> Option<Ecam> {
    const RETURN: u8 = 0xa4;
    occurrences(dsdt, b"_CBA").find_map(|at| {
        // Behind the name is how many arguments the method takes.
        let body = dsdt.get(at + 5..)?;
        let (base, _) = integer(body.get(1..)?)?;
        let ecam = Ecam::new(base, (0, u8::MAX));
        ecam.filter(|_| body.u8_at(0) == Some(RETURN))
    })
}

/// Where Cloud Hypervisor and Firecracker have the generation id: `Name (ADDR, Package () {low, high})` of a device
/// that is compatible with `VM_Gen_Counter` (Microsoft, Virtual Machine Generation ID, 2012).
pub fn generation(dsdt: &[u8]) -> Option<u64> {
    let at = occurrences(dsdt, b"VM_Gen_Counter").next()?;
    let rest = dsdt.get(at..)?;
    let rest = rest.get(..REACH).unwrap_or(rest);
    let at = occurrences(rest, b"\x08ADDR\x12").next()?;
    // Behind the name come a length of one byte, as the package is short, and the number of elements.
    let elements = rest.get(at + 6..)?;
    if elements.u8_at(0)? >> 6 != 0 || elements.u8_at(1)? != 2 {
        return None;
    }
    let (low, len) = integer(elements.get(2..)?)?;
    let (high, _) = integer(elements.get(2 + len..)?)?;
    let address = high.checked_mul(1 << 32)?.checked_add(low)?;
    (address != 0).then_some(address)
}

/// The address in `OperationRegion (name, SystemMemory, address, ...)`, whose encoding begins with `start`: the
/// operation, or that and the name.
fn memory_region(bytes: &[u8], start: &[u8]) -> Option<u64> {
    occurrences(bytes, start).find_map(|at| {
        let region = bytes.get(at + 6..)?;
        let (address, _) = integer(region.get(1..)?)?;
        (region.u8_at(0)? == 0 && address > 0xffff).then_some(address)
    })
}

/// A constant (ACPI 6.5, section 20.2.3), and how many bytes it takes.
fn integer(bytes: &[u8]) -> Option<(u64, usize)> {
    Some(match bytes.u8_at(0)? {
        value @ (0x00 | 0x01) => (u64::from(value), 1),
        0x0a => (u64::from(bytes.u8_at(1)?), 2),
        0x0b => (u64::from(bytes.u16_at(1)?), 3),
        0x0c => (u64::from(bytes.u32_at(1)?), 5),
        0x0e => (bytes.u64_at(1)?, 9),
        _ => return None,
    })
}

/// Memory32Fixed (section 6.4.3.4): tag 0x86, length 9.
fn memory32_fixed(bytes: &[u8]) -> Option<(u32, u32)> {
    occurrences(bytes, &[0x86, 9, 0]).find_map(|at| {
        let base = bytes.u32_at(at + 4)?;
        let len = bytes.u32_at(at + 8)?;
        (base != 0 && len != 0).then_some((base, len))
    })
}

/// Extended interrupt (section 6.4.3.6): tag 0x89, one interrupt.
fn extended_interrupt(bytes: &[u8]) -> Option<(u32, bool, bool)> {
    occurrences(bytes, &[0x89, 6, 0]).find_map(|at| {
        let flags = bytes.u8_at(at + 3)?;
        let count = bytes.u8_at(at + 4)?;
        let gsi = bytes.u32_at(at + 5)?;
        (count == 1).then_some((gsi, flags & 0b10 == 0, flags & 0b100 != 0))
    })
}

fn occurrences<'a>(bytes: &'a [u8], pattern: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let mut from = 0;
    core::iter::from_fn(move || {
        let at = position(bytes, pattern, from)?;
        from = at + 1;
        Some(at)
    })
}

/// Where `pattern` is next, from `from` on. Not inlined: boot runs each copy once, and running code
/// for the first time is what boot spends its time on.
#[inline(never)]
fn position(bytes: &[u8], pattern: &[u8], from: usize) -> Option<usize> {
    let first = pattern.first()?;
    let mut windows = bytes.get(from..)?.windows(pattern.len());
    let at = windows.position(|window| window.first() == Some(first) && window == pattern)?;
    Some(from + at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn virtio_device(base: u32, gsi: u32) -> Vec<u8> {
        let mut bytes = b"\x08_HID\x0dLNRO0005\0\x08_CRS\x11\x19\x0a\x15".to_vec();
        bytes.extend([0x86, 9, 0, 1]);
        bytes.extend(base.to_le_bytes());
        bytes.extend(512u32.to_le_bytes());
        bytes.extend([0x89, 6, 0, 0b01, 1]);
        bytes.extend(gsi.to_le_bytes());
        bytes.extend([0x79, 0]);
        bytes
    }

    #[test]
    fn each_virtio_device_keeps_its_own_resources() {
        let mut dsdt = vec![0; 40];
        dsdt.extend(virtio_device(0xfeb0_2c00, 46));
        dsdt.extend(virtio_device(0xfeb0_2e00, 47));
        let found: Vec<_> = virtio_mmio(&dsdt)
            .map(|r| (r.base, r.gsi, r.level))
            .collect();
        assert_eq!(found, [(0xfeb0_2c00, 46, true), (0xfeb0_2e00, 47, true)]);
    }

    #[test]
    fn a_device_without_resources_does_not_borrow_its_neighbours() {
        let mut dsdt = b"\x0dLNRO0005\0".to_vec();
        dsdt.extend(virtio_device(0xfeb0_2e00, 47));
        assert_eq!(virtio_mmio(&dsdt).count(), 1);
    }

    #[test]
    fn s5_is_read_in_each_encoding() {
        let found = |bytes: &[u8]| sleep_type_s5(bytes);
        assert_eq!(found(b"\x08_S5_\x12\x06\x04\x00\x00\x00\x00"), Some(0));
        assert_eq!(found(b"\x08_S5_\x12\x08\x04\x0a\x05\x0a\x05"), Some(5));
        assert_eq!(found(b"\x08\\_S5_\x12\x08\x04\x01\x01"), Some(1));
        assert_eq!(found(b"\x08_S5_\x12\x08\x04\x0a\x55"), None);
        assert_eq!(found(b"X_S5_\x12\x06\x04\x00"), None);
    }

    #[test]
    fn the_event_device_gives_register_and_interrupt() {
        let mut dsdt = b"\x08_HID\x0dACPI0013\0\x08_CRS\x11\x0d\x0a\x0b".to_vec();
        dsdt.extend([0x89, 6, 0, 0b11, 1, 9, 0, 0, 0, 0x79, 0]);
        dsdt.extend(b"\x5b\x80EREG\0\x0c\0\0\xa0\xfe\x0a\x04");
        let expected = EventDevice {
            selector: Selector::Qemu(0xfea0_0000),
            gsi: 9,
            level: false,
            active_low: false,
        };
        assert_eq!(event_device(&dsdt, false), Some(expected));
    }

    /// Encoded as Cloud Hypervisor does, which has its registers above 4 GiB and other regions behind the device.
    #[test]
    fn cloud_hypervisor_has_the_register_elsewhere() {
        let mut dsdt = b"\x5b\x80GDST\0\x0e\0\0\xf0\xff\x3f\0\0\0\x01".to_vec();
        dsdt.extend(b"\x08_HID\x0dACPI0013\0\x08_CRS\x11\x0d\x0a\x0b");
        dsdt.extend([0x89, 6, 0, 0b11, 1, 5, 0, 0, 0, 0x79, 0]);
        dsdt.extend(b"\x5b\x80PRST\0\x0c\0\0\xa0\xfe\x0a\x04");
        let expected = EventDevice {
            selector: Selector::CloudHypervisor(0x3f_fff0_0000),
            gsi: 5,
            level: false,
            active_low: false,
        };
        assert_eq!(event_device(&dsdt, true), Some(expected));
        dsdt[2..6].copy_from_slice(b"GONE");
        assert_eq!(event_device(&dsdt, true), None);
    }

    #[test]
    fn the_generation_id_is_where_the_package_says() {
        let found = |address: &[u8]| {
            let mut dsdt =
                b"\x08_CID\x0dVM_Gen_Counter\0\x08_DDN\x0dVM_Gen_Counter\0\x08ADDR".to_vec();
            dsdt.extend(address);
            generation(&dsdt)
        };
        assert_eq!(found(b"\x12\x08\x02\x0c\x28\0\x0a\0\0"), Some(0xa_0028));
        assert_eq!(
            found(b"\x12\x0c\x02\x0c\x28\0\x0a\0\x0c\x01\0\0\0"),
            Some(0x1_000a_0028)
        );
        assert_eq!(found(b"\x12\x04\x02\0\0"), None);
        assert_eq!(found(b"\x12\x03\x01\0"), None);
        assert_eq!(found(b"\x12\x41\x02\x0c"), None);
        assert_eq!(found(b"\x12"), None);
    }

    #[test]
    fn configuration_space_is_read_in_each_encoding() {
        let base = |bytes: &[u8]| configuration_space(bytes).map(|ecam| ecam.base);
        assert_eq!(base(b"\x14\x0c_CBA\0\xa4\x0c\0\0\0\xe0"), Some(0xe000_0000));
        let wide = b"\x14\x10_CBA\0\xa4\x0e\0\0\0\0\x40\0\0\0";
        assert_eq!(base(wide), Some(0x40_0000_0000));
        for nothing in [
            &b"\x14\x0c_CBA\0\xa4\x0c\0\0\0\0"[..],
            b"\x14\x0c_CBA\0\xa4\x0c\x01\0\0\xe0",
            b"\x14\x0c_CBA\0\xa4\x0c\0\0",
            b"\x14\x0c_CBA\0\x70\x0c\0\0\0\xe0",
            b"\x14\x0c_CBA",
        ] {
            assert_eq!(base(nothing), None, "{nothing:x?}");
        }
    }

    proptest! {
        #[test]
        fn no_byte_code_panics(
            pieces in prop::collection::vec((0usize..11, prop::collection::vec(any::<u8>(), 0..24)), 0..12),
        ) {
            let marks: [&[u8]; 11] = [
                b"\x08_S5_\x12", b"LNRO0005", b"ACPI0013", &[0x86, 9, 0], &[0x89, 6, 0],
                &[0x5b, 0x80], b"_CBA\0\xa4", b"",
                b"\x5b\x80GDST\0", b"VM_Gen_Counter", b"\x08ADDR\x12",
            ];
            let mut dsdt = Vec::new();
            for (mark, bytes) in pieces {
                dsdt.extend(marks[mark]);
                dsdt.extend(bytes);
            }
            sleep_type_s5(&dsdt);
            event_device(&dsdt, false);
            event_device(&dsdt, true);
            generation(&dsdt);
            configuration_space(&dsdt);
            virtio_mmio(&dsdt).count();
        }
    }
}
