//! Finding virtio devices in memory: by the kernel command line, by ACPI, or by looking at the
//! window where QEMU's microvm puts them.

use core::ops::Range;

use crate::acpi::dsdt::Resources;
use crate::arch::x86_64::apic::Trigger;
use crate::mmio::Mmio;

/// `virt`, as every device's first register reads.
const MAGIC: u32 = 0x7472_6976;
/// Where microvm puts its transports, and how far apart.
const MICROVM_WINDOW: u64 = 0xfeb0_0000;
const MICROVM_SLOTS: u32 = 24;
const SLOT: u64 = 512;

/// A device's registers and interrupt line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Physical address of the registers.
    pub base: u64,
    /// Length of the window, in bytes.
    pub len: u64,
    /// The global system interrupt.
    pub gsi: u32,
    /// What the line looks like.
    pub trigger: Trigger,
}

impl From<Resources> for Place {
    fn from(device: Resources) -> Self {
        Self {
            base: u64::from(device.base),
            len: u64::from(device.len),
            gsi: device.gsi,
            trigger: Trigger {
                active_low: device.active_low,
                level: device.level,
            },
        }
    }
}

/// Devices named on the kernel command line: `virtio_mmio.device=512@0xfeb00e00:12[:id]`. Entries
/// that make no sense are skipped with a warning.
pub fn from_command_line(line: &str) -> impl Iterator<Item = Place> + '_ {
    line.split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix("virtio_mmio.device="))
        .filter_map(|value| {
            let place = parse(value);
            if place.is_none() {
                log::warn!("virtio_mmio.device={value}: not understood");
            }
            place
        })
}

fn parse(value: &str) -> Option<Place> {
    let (size, rest) = value.split_once('@')?;
    let mut rest = rest.split(':');
    let base = number(rest.next()?)?;
    let gsi = number(rest.next()?)?;
    let (digits, unit) = match size.as_bytes().last()? {
        b'K' | b'k' => (&size[..size.len() - 1], 1 << 10),
        b'M' | b'm' => (&size[..size.len() - 1], 1 << 20),
        _ => (size, 1),
    };
    let len = number(digits)?.checked_mul(unit)?;
    (len >= 0x100 && base != 0).then_some(Place {
        base,
        len,
        gsi: u32::try_from(gsi).ok()?,
        // Lines announced this way are old interrupt numbers: edges, unless ACPI says otherwise.
        trigger: Trigger {
            active_low: false,
            level: false,
        },
    })
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Devices in microvm's window; `gsis` are the interrupts of its slots.
pub fn from_window(gsis: Range<u32>) -> impl Iterator<Item = Place> {
    let slots = gsis.len().min(MICROVM_SLOTS as usize);
    let window = Mmio::map(MICROVM_WINDOW, SLOT * slots as u64);
    gsis.zip(0u64..).filter_map(move |(gsi, slot)| {
        let registers = window?.part((slot * SLOT) as usize, SLOT as usize)?;
        occupied(&registers).then_some(Place {
            base: MICROVM_WINDOW + slot * SLOT,
            len: SLOT,
            gsi,
            trigger: Trigger {
                active_low: false,
                level: true,
            },
        })
    })
}

/// Whether there is a transport with a device in it: slots without one have device id 0.
pub fn occupied(registers: &Mmio) -> bool {
    const DEVICE_ID: usize = 0x08;
    registers.len() >= 0x100 && registers.read32(0) == MAGIC && registers.read32(DEVICE_ID) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(line: &str) -> Vec<(u64, u64, u32)> {
        from_command_line(line)
            .map(|place| (place.base, place.len, place.gsi))
            .collect()
    }

    #[test]
    fn devices_are_read_as_linux_reads_them() {
        assert_eq!(
            places(
                "id=1 virtio_mmio.device=512@0xfeb00e00:12 virtio_mmio.device=1K@0xd0000000:5:0"
            ),
            [(0xfeb0_0e00, 512, 12), (0xd000_0000, 1024, 5)]
        );
    }

    #[test]
    fn nonsense_is_skipped() {
        for line in [
            "",
            "512",
            "@1:2",
            "512@:3",
            "K@0x1:2",
            "1@0x1000:2",
            "512@0x1000",
            "99999999999999999999M@1:1",
        ] {
            assert_eq!(places(&format!("virtio_mmio.device={line}")), [], "{line}");
        }
    }

    #[test]
    fn an_empty_slot_is_not_a_device() {
        let registers = Mmio::fake(64);
        assert!(!occupied(&registers));
        registers.write32(0, MAGIC);
        assert!(!occupied(&registers));
        registers.write32(8, 1);
        assert!(occupied(&registers));
    }
}
