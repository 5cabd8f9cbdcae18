//! The fixed tables (ACPI 6.5, chapter 5).
//!
//! Lengths and addresses in them are checked before use; a table with a wrong checksum is skipped
//! with a warning, and what cannot be found is `None`, never a guess.

use super::{Fields, Physical};
use crate::arch::x86_64::apic::{LOCAL_APIC, Trigger};

/// A table no longer than this is read; longer ones are nonsense.
const MAX_TABLE: usize = 1 << 20;
const HEADER: usize = 36;

/// An I/O APIC, as the MADT lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// Physical address of its registers.
    pub address: u64,
    /// The first global system interrupt it serves.
    pub base: u32,
}

/// What the MADT says about interrupt controllers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interrupts {
    /// Physical address of the local APIC.
    pub local_apic: u64,
    /// The I/O APICs.
    pub io_apics: heapless::Vec<IoApic, 4>,
    overrides: heapless::Vec<(u8, u32, Trigger), 24>,
}

impl Interrupts {
    /// The global system interrupt and the shape of the line for an interrupt number of the old
    /// PC: edge-triggered and active high unless the firmware says otherwise.
    pub fn isa(&self, irq: u8) -> (u32, Trigger) {
        let found = self.overrides.iter().find(|entry| entry.0 == irq);
        let default = Trigger {
            active_low: false,
            level: false,
        };
        found.map_or((u32::from(irq), default), |&(_, gsi, trigger)| {
            (gsi, trigger)
        })
    }
}

/// The first segment of PCI configuration space in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ecam {
    /// Physical address of bus 0's part.
    pub base: u64,
    /// The first and the last bus covered.
    pub buses: (u8, u8),
}

impl Ecam {
    /// `None` if that cannot be: a segment begins at a multiple of the 1 MiB each bus takes.
    pub fn new(base: u64, buses: (u8, u8)) -> Option<Self> {
        let aligned = base != 0 && base.is_multiple_of(1 << 20);
        (aligned && buses.0 <= buses.1).then_some(Self { base, buses })
    }
}

/// What the FADT says about power management.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fixed {
    /// Physical address of the DSDT.
    pub dsdt: u64,
    /// The SCI's interrupt number.
    pub sci: u16,
    /// Port for switching to ACPI mode, and the value that does it.
    pub smi_command: u32,
    /// See `smi_command`.
    pub acpi_enable: u8,
    /// Port of the PM1a event block: status, then enable halfway through its length.
    pub pm1_event: u32,
    /// Length of the PM1 event block in bytes.
    pub pm1_event_len: u8,
    /// Ports of the PM1a and PM1b control registers; 0 if absent.
    pub pm1_control: [u32; 2],
    /// Port of the 3.579545 MHz timer; 0 if absent.
    pub timer: u32,
    /// No fixed power hardware: use `sleep_control` and a generic event device.
    pub hardware_reduced: bool,
    /// The hypervisor, if it says that it is one of these.
    pub vendor: Option<Vendor>,
    /// The sleep control register, where there is one.
    pub sleep_control: Option<Register>,
}

/// Hypervisors that have a DSDT of their own kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// Cloud Hypervisor.
    CloudHypervisor,
    /// Firecracker.
    Firecracker,
}

/// Where a register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// At a physical address, as QEMU has it.
    Memory(u64),
    /// At a port, as Cloud Hypervisor has it.
    Port(u32),
}

/// Everything the kernel takes from the fixed tables.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// MADT.
    pub interrupts: Option<Interrupts>,
    /// MCFG; some machines say it elsewhere, see [`super::dsdt::configuration_space`].
    pub ecam: Option<Ecam>,
    /// FADT.
    pub fixed: Option<Fixed>,
    /// Physical address of the high precision event timer's registers.
    pub hpet: Option<u64>,
    /// Physical address of what changes when the machine is restored.
    pub generation: Option<u64>,
}

impl Tables {
    /// Reads the tables. `rsdp` is where the boot loader says they start; without, the BIOS area is
    /// searched. `None` if there is no valid root.
    pub fn read(memory: &impl Physical, rsdp: Option<u64>) -> Option<Self> {
        let rsdp = rsdp.or_else(|| search_rsdp(memory))?;
        let mut tables = Self::default();
        for_each_table(memory, rsdp, |signature, table| match signature {
            b"APIC" => tables.interrupts = tables.interrupts.take().or_else(|| madt(table)),
            b"MCFG" => tables.ecam = tables.ecam.or_else(|| mcfg(table)),
            b"FACP" => tables.fixed = tables.fixed.or_else(|| fadt(table)),
            b"HPET" => tables.hpet = tables.hpet.or_else(|| hpet(table)),
            b"SSDT" => tables.generation = tables.generation.or_else(|| generation(table)),
            _ => {}
        })?;
        Some(tables)
    }
}

fn search_rsdp(memory: &impl Physical) -> Option<u64> {
    const START: u64 = 0xe_0000;
    const LEN: usize = 0x2_0000;
    let area = memory.bytes(START, LEN)?;
    let (at, _) = area.chunks_exact(16).enumerate().find(|(i, chunk)| {
        chunk.starts_with(b"RSD PTR ") && area.get(i * 16..i * 16 + 20).is_some_and(adds_up)
    })?;
    Some(START + at as u64 * 16)
}

fn for_each_table(
    memory: &impl Physical,
    rsdp: u64,
    mut each: impl FnMut(&[u8; 4], &[u8]),
) -> Option<()> {
    let root = memory.bytes(rsdp, 20)?;
    if !root.starts_with(b"RSD PTR ") || !adds_up(root) {
        return None;
    }
    let extended = (root.u8_at(15)? >= 2)
        .then(|| memory.bytes(rsdp, 36))
        .flatten()
        .filter(|root| adds_up(root))
        .and_then(|root| root.u64_at(24))
        .filter(|&address| address != 0);
    let (list, width) = match extended {
        Some(address) => (table(memory, address)?, 8),
        None => (table(memory, u64::from(root.u32_at(16)?))?, 4),
    };
    for entry in list.get(HEADER..)?.chunks_exact(width) {
        let address = match width {
            8 => entry.u64_at(0)?,
            _ => u64::from(entry.u32_at(0)?),
        };
        if let Some(table) = table(memory, address)
            && let Some(signature) = table.first_chunk()
        {
            each(signature, table);
        }
    }
    Some(())
}

/// The table at `address`, if its length and checksum make sense.
pub fn table(memory: &impl Physical, address: u64) -> Option<&[u8]> {
    let header = memory.bytes(address, HEADER)?;
    let len = header.u32_at(4)? as usize;
    if !(HEADER..=MAX_TABLE).contains(&len) {
        return None;
    }
    let table = memory.bytes(address, len)?;
    if !adds_up(table) {
        log::warn!("ACPI table at {address:#x} has a wrong checksum");
        return None;
    }
    Some(table)
}

fn adds_up(bytes: &[u8]) -> bool {
    bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte)) == 0
}

/// MADT (section 5.2.12).
fn madt(table: &[u8]) -> Option<Interrupts> {
    let mut result = Interrupts {
        local_apic: match table.u32_at(36)? {
            0 => LOCAL_APIC,
            address => u64::from(address),
        },
        ..Interrupts::default()
    };
    let mut rest = table.get(44..)?;
    while let (Some(kind), Some(len)) = (rest.u8_at(0), rest.u8_at(1)) {
        let Some((entry, after)) = rest.split_at_checked(usize::from(len).max(2)) else {
            break;
        };
        rest = after;
        match kind {
            1 => {
                if let (Some(address), Some(base)) = (entry.u32_at(4), entry.u32_at(8)) {
                    let _ = result.io_apics.push(IoApic {
                        address: u64::from(address),
                        base,
                    });
                }
            }
            2 => {
                if let (Some(irq), Some(gsi), Some(flags)) =
                    (entry.u8_at(3), entry.u32_at(4), entry.u16_at(8))
                {
                    let trigger = Trigger {
                        active_low: flags & 0b11 == 0b11,
                        level: (flags >> 2) & 0b11 == 0b11,
                    };
                    let _ = result.overrides.push((irq, gsi, trigger));
                }
            }
            5 => {
                if let Some(address) = entry.u64_at(4) {
                    result.local_apic = address;
                }
            }
            _ => {}
        }
    }
    Some(result)
}

/// MCFG (PCI firmware specification 3.3, section 4.1.2): the first entry of segment 0.
fn mcfg(table: &[u8]) -> Option<Ecam> {
    table.get(44..)?.chunks_exact(16).find_map(|entry| {
        let ecam = Ecam::new(entry.u64_at(0)?, (entry.u8_at(10)?, entry.u8_at(11)?));
        ecam.filter(|_| entry.u16_at(8) == Some(0))
    })
}

/// FADT (section 5.2.9, table 5.9).
fn fadt(table: &[u8]) -> Option<Fixed> {
    const HARDWARE_REDUCED: u32 = 1 << 20;
    let flags = table.u32_at(112)?;
    let extended = table.u64_at(140).filter(|&address| address != 0);
    Some(Fixed {
        dsdt: extended.unwrap_or(u64::from(table.u32_at(40)?)),
        sci: table.u16_at(46)?,
        smi_command: table.u32_at(48)?,
        acpi_enable: table.u8_at(52)?,
        pm1_event: table.u32_at(56)?,
        pm1_event_len: table.u8_at(88)?,
        pm1_control: [table.u32_at(64)?, table.u32_at(68)?],
        // The newer of the two fields counts, if it says something.
        timer: match generic_address(table, 208) {
            Some(Register::Port(number)) => number,
            _ => table.u32_at(76)?,
        },
        hardware_reduced: flags & HARDWARE_REDUCED != 0,
        sleep_control: generic_address(table, 244),
        vendor: match table.get(268..276) {
            Some(b"CLOUDHYP") => Some(Vendor::CloudHypervisor),
            Some(b"FIRECKVM") => Some(Vendor::Firecracker),
            _ => None,
        },
    })
}

/// HPET (IA-PC HPET specification 1.0a, section 3.2.4).
fn hpet(table: &[u8]) -> Option<u64> {
    match generic_address(table, 40)? {
        Register::Memory(address) => Some(address),
        Register::Port(_) => None,
    }
}

/// The address of the generation id (Microsoft, Virtual Machine Generation ID, 2012). It is what a
/// method returns; QEMU has it in a table of its own, and the method adds 40 to a constant there
/// (`docs/specs/vmgenid`).
fn generation(table: &[u8]) -> Option<u64> {
    const NAME: &[u8] = b"\x08VGIA\x0c";
    const OFFSET: u64 = 40;
    if table.get(16..23)? != b"VMGENID" {
        return None;
    }
    let at = table.windows(NAME.len()).position(|name| name == NAME)?;
    match table.u32_at(at + NAME.len())? {
        0 => None,
        base => Some(u64::from(base) + OFFSET),
    }
}

/// The place in a generic address structure (section 5.2.3.2), if it is one of ours and not zero.
fn generic_address(table: &[u8], at: usize) -> Option<Register> {
    const MEMORY: u8 = 0;
    const PORT: u8 = 1;
    let address = table.u64_at(at + 4).filter(|&address| address != 0)?;
    match table.u8_at(at)? {
        MEMORY => Some(Register::Memory(address)),
        PORT => Some(Register::Port(u32::try_from(address).ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Memory, fix, table};
    use super::*;
    use proptest::prelude::*;

    fn rsdp(rsdt: u32, xsdt: u64) -> Vec<u8> {
        let mut bytes = b"RSD PTR \0GODWIT\x02".to_vec();
        bytes.extend(rsdt.to_le_bytes());
        bytes.extend(36u32.to_le_bytes());
        bytes.extend(xsdt.to_le_bytes());
        bytes.resize(36, 0);
        fix(&mut bytes[..20], 8);
        fix(&mut bytes, 32);
        bytes
    }

    fn machine(tables: &[Vec<u8>]) -> Memory {
        let mut memory = Memory(vec![(0xf_0010, rsdp(0, 0x1000))]);
        let mut list = Vec::new();
        for (i, table) in tables.iter().enumerate() {
            let address = 0x10_0000 + i as u64 * 0x1_0000;
            list.extend(address.to_le_bytes());
            memory.0.push((address, table.clone()));
        }
        memory.0.push((0x1000, table(b"XSDT", &list)));
        memory
    }

    fn madt_body() -> Vec<u8> {
        let mut body = 0xfee0_0000u32.to_le_bytes().to_vec();
        body.extend([1, 0, 0, 0]);
        body.extend([0, 8, 0, 0, 1, 0, 0, 0]); // a processor
        body.extend([1, 12, 0, 0]);
        body.extend(0xfec0_0000u32.to_le_bytes());
        body.extend(0u32.to_le_bytes());
        body.extend([2, 10, 0, 9]);
        body.extend(9u32.to_le_bytes());
        body.extend(0x000du16.to_le_bytes()); // active high, level
        body
    }

    #[test]
    fn the_madt_names_controllers_and_overrides() {
        let memory = machine(&[table(b"APIC", &madt_body())]);
        let tables = Tables::read(&memory, Some(0xf_0010)).unwrap();
        let interrupts = tables.interrupts.unwrap();
        assert_eq!(interrupts.local_apic, 0xfee0_0000);
        assert_eq!(interrupts.io_apics[0].address, 0xfec0_0000);
        let level = Trigger {
            active_low: false,
            level: true,
        };
        assert_eq!(interrupts.isa(9), (9, level));
        assert!(!interrupts.isa(4).1.level);
    }

    #[test]
    fn the_root_is_found_by_its_signature_where_the_loader_names_none() {
        let mut memory = machine(&[table(b"APIC", &madt_body())]);
        let mut area = vec![0; 0x2_0000];
        area[0x1_0010..][..36].copy_from_slice(&memory.0.remove(0).1);
        memory.0.push((0xe_0000, area));
        assert!(Tables::read(&memory, None).unwrap().interrupts.is_some());
    }

    #[test]
    fn a_table_with_a_wrong_checksum_is_skipped() {
        let mut bad = table(b"APIC", &madt_body());
        bad[40] ^= 1;
        let memory = machine(&[bad]);
        let tables = Tables::read(&memory, Some(0xf_0010)).unwrap();
        assert!(tables.interrupts.is_none());
    }

    #[test]
    fn a_table_longer_than_memory_is_not_read() {
        let mut bad = table(b"APIC", &madt_body());
        bad[4..8].copy_from_slice(&0x8_0000u32.to_le_bytes());
        let memory = machine(&[bad]);
        let tables = Tables::read(&memory, Some(0xf_0010)).unwrap();
        assert!(tables.interrupts.is_none());
    }

    #[test]
    fn the_fadt_of_a_hardware_reduced_machine_gives_the_sleep_register() {
        let mut body = vec![0; 268 - 36];
        body[112 - 36..][..4].copy_from_slice(&(1u32 << 20).to_le_bytes());
        body[140 - 36..][..8].copy_from_slice(&0x7f_0000u64.to_le_bytes());
        body[248 - 36..][..8].copy_from_slice(&0xfea0_0200u64.to_le_bytes());
        for (space, register) in [
            (0, Some(Register::Memory(0xfea0_0200))),
            (1, Some(Register::Port(0xfea0_0200))),
            (2, None),
        ] {
            body[244 - 36] = space;
            let memory = machine(&[table(b"FACP", &body)]);
            let tables = Tables::read(&memory, Some(0xf_0010)).unwrap();
            let fixed = tables.fixed.unwrap();
            assert!(fixed.hardware_reduced);
            assert_eq!(fixed.dsdt, 0x7f_0000);
            assert_eq!(fixed.sleep_control, register);
            assert_eq!(fixed.vendor, None);
        }
    }

    #[test]
    fn the_fadt_names_the_timer_twice_and_the_hypervisor() {
        let mut body = vec![0; 276 - 36];
        body[76 - 36..][..2].copy_from_slice(&[0x08, 0x06]);
        body[268 - 36..].copy_from_slice(b"CLOUDHYP");
        let read = |body: &[u8]| {
            let memory = machine(&[table(b"FACP", body)]);
            let tables = Tables::read(&memory, Some(0xf_0010)).unwrap();
            tables.fixed.unwrap()
        };
        assert_eq!(read(&body).timer, 0x608);
        assert_eq!(read(&body).vendor, Some(Vendor::CloudHypervisor));
        body[208 - 36] = 1; // a port
        body[212 - 36..][..2].copy_from_slice(&[0x08, 0xb0]);
        assert_eq!(read(&body).timer, 0xb008);
    }

    #[test]
    fn the_generation_id_is_where_its_own_table_says_and_no_other() {
        let body = [
            b"\x10\x20\x08VGIA\x0c".as_slice(),
            &[0, 0x10, 0x34, 2],
            &[0x10],
        ]
        .concat();
        let mut ours = table(b"SSDT", &body);
        let other = ours.clone();
        ours[16..24].copy_from_slice(b"VMGENID ");
        ours[9] = 0;
        let sum = ours.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
        ours[9] = ours[9].wrapping_sub(sum);
        for (table, place) in [(ours, Some(0x234_1028)), (other, None)] {
            let tables = Tables::read(&machine(&[table]), Some(0xf_0010)).unwrap();
            assert_eq!(tables.generation, place);
        }
    }

    #[test]
    fn configuration_space_at_an_odd_address_is_refused() {
        let mut body = vec![0; 8];
        body.extend(0xb000_0100u64.to_le_bytes());
        body.extend([0, 0, 0, 255, 0, 0, 0, 0]);
        let memory = machine(&[table(b"MCFG", &body)]);
        let tables = Tables::read(&memory, Some(0xf_0010)).unwrap();
        assert_eq!(tables.ecam, None);
    }

    proptest! {
        #[test]
        fn no_table_contents_panic(
            signature in prop::sample::select(vec![b"APIC", b"MCFG", b"FACP", b"HPET", b"SSDT"]),
            body in prop::collection::vec(any::<u8>(), 0..400),
        ) {
            let memory = machine(&[table(signature, &body)]);
            let tables = Tables::read(&memory, Some(0xf_0010)).unwrap();
            if let Some(interrupts) = tables.interrupts {
                for irq in 0..=255 {
                    interrupts.isa(irq);
                }
            }
        }
    }
}
