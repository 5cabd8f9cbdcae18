//! What a PVH boot loader leaves (Xen `docs/misc/pvh`, `include/public/arch-x86/hvm/start_info.h`).

use super::handover::{Handover, HandoverError, MAX_COMMAND_LINE, MAX_MODULES, push_character};
use crate::acpi::{Fields, Physical};
use crate::mm::map::{Kind, MemoryMap};

const MAGIC: u32 = 0x336e_c578;
const INFO: usize = 56;
const ENTRY: usize = 24;
const MODULE: usize = 32;
const MAX_ENTRIES: usize = 256;
/// Type 1 of the memory map is RAM, as in e820.
const RAM: u32 = 1;

/// Reads the start info at physical address `at`. Version 0 has no memory map and is refused.
pub fn read(memory: &impl Physical, at: u64) -> Result<Handover, HandoverError> {
    start_info(memory, at).ok_or(HandoverError::NotPvh)
}

fn start_info(memory: &impl Physical, at: u64) -> Option<Handover> {
    let info = memory.bytes(at, INFO)?;
    if info.u32_at(0)? != MAGIC || info.u32_at(4)? < 1 {
        return None;
    }
    let count = (info.u32_at(48)? as usize).min(MAX_ENTRIES);
    let entries = memory.bytes(info.u64_at(40)?, count * ENTRY)?;
    let entries = entries.chunks_exact(ENTRY).filter_map(|entry| {
        let kind = match entry.u32_at(16)? {
            RAM => Kind::Usable,
            _ => Kind::Reserved,
        };
        Some((entry.u64_at(0)?, entry.u64_at(8)?, kind))
    });
    let mut handover = Handover {
        memory: MemoryMap::from_entries(entries),
        command_line: command_line(memory, info.u64_at(24)?),
        rsdp: info.u64_at(32).filter(|&address| address != 0),
        ..Handover::default()
    };
    let modules = (info.u32_at(12)? as usize).min(MAX_MODULES + 1);
    let modules = memory.bytes(info.u64_at(16)?, modules * MODULE);
    for module in modules.unwrap_or_default().chunks_exact(MODULE) {
        let start = module.u64_at(0)?;
        handover.add_module(start..start.saturating_add(module.u64_at(8)?));
    }
    Some(handover)
}

fn command_line(memory: &impl Physical, at: u64) -> heapless::String<MAX_COMMAND_LINE> {
    let mut line = heapless::String::new();
    if at == 0 {
        return line;
    }
    for i in 0..MAX_COMMAND_LINE as u64 {
        let byte = at
            .checked_add(i)
            .and_then(|at| memory.bytes(at, 1)?.u8_at(0));
        if !push_character(&mut line, byte) {
            break;
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acpi::fake::Memory;
    use proptest::prelude::*;

    fn info(version: u32, map: u64, entries: u32, line: u64) -> Vec<u8> {
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        bytes.extend(version.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(1u32.to_le_bytes()); // modules, listed at
        bytes.extend(0x600u64.to_le_bytes());
        bytes.extend(line.to_le_bytes());
        bytes.extend(0xf_0000u64.to_le_bytes());
        bytes.extend(map.to_le_bytes());
        bytes.extend(entries.to_le_bytes());
        bytes.extend([0; 4]);
        bytes
    }

    fn entry(start: u64, len: u64, kind: u32) -> Vec<u8> {
        let mut bytes = start.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend([0; 4]);
        bytes
    }

    #[test]
    fn map_command_line_root_pointer_and_module_are_taken() {
        let map = [entry(0, 0xa_0000, 1), entry(0x9_0000, 0x1_0000, 2)].concat();
        let memory = Memory(vec![
            (0x100, info(1, 0x200, 2, 0x300)),
            (0x200, map),
            (0x300, b"id=1\tport=80\0rest".to_vec()),
            (0x600, [0x7000u64, 5, 0, 0].map(u64::to_le_bytes).concat()),
        ]);
        let info = read(&memory, 0x100).unwrap();
        assert_eq!(info.memory.total(), 0x9_0000);
        assert_eq!(info.command_line, "id=1 port=80");
        assert_eq!(info.rsdp, Some(0xf_0000));
        assert_eq!(info.modules.first(), Some(&(0x7000..0x7005)));
    }

    #[test]
    fn a_command_line_without_an_end_is_cut() {
        let memory = Memory(vec![
            (0x100, info(1, 0x200, 1, 0x1000)),
            (0x200, entry(0, 0x1000, 1)),
            (0x1000, vec![b'x'; 10_000]),
        ]);
        let info = read(&memory, 0x100).unwrap();
        assert!(info.command_line.len() <= MAX_COMMAND_LINE);
        assert!(info.command_line.len() > 4000);
    }

    #[test]
    fn strangers_and_old_versions_are_refused() {
        let memory = Memory(vec![(0x100, info(0, 0x200, 0, 0))]);
        assert!(read(&memory, 0x100).is_err());
        assert!(read(&memory, 0x5000).is_err());
        let memory = Memory(vec![(0x100, vec![0; 64])]);
        assert!(read(&memory, 0x100).is_err());
    }

    proptest! {
        #[test]
        fn no_contents_panic(
            map in any::<u64>(), entries in any::<u32>(), line in any::<u64>(),
            noise in prop::collection::vec(any::<u8>(), 0..2000),
        ) {
            let memory = Memory(vec![
                (0x100, info(1, map, entries, line)),
                (0x2000, noise.clone()),
            ]);
            let _ = read(&memory, 0x100);
            let memory = Memory(vec![
                (0x100, info(1, 0x2000, entries % 80, line)),
                (0x2000, noise),
            ]);
            let _ = read(&memory, 0x100);
        }
    }
}
