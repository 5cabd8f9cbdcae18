//! Calls of `memcpy` and its like go to their target directly.
//!
//! The compiler makes them through the table of a dynamic linker, since there might be one, and does
//! not mark them so that the linker would undo that. An indirect call costs emulation a look-up.

use anyhow::{Context, Result};
use object::elf::{R_X86_64_GOTPCREL, R_X86_64_GOTPCRELX};
use object::{Object, ObjectSection, ObjectSymbol, RelocationFlags, RelocationTarget};

/// `call [rip + d]`, `jmp [rip + d]`: six octets, the last four of which are d.
const CALL_INDIRECT: [u8; 2] = [0xff, 0x15];
const JUMP_INDIRECT: [u8; 2] = [0xff, 0x25];

/// Rewrites them in a file linked with `--emit-relocs` (System V ABI, AMD64 supplement, B.2). How many
/// there were.
pub fn directly(file: &mut [u8]) -> Result<usize> {
    let mut changes = Vec::new();
    let object = object::File::parse(&*file)?;
    let text = object.section_by_name(".text").context("no code")?;
    let (offset, _) = text.file_range().context("no code in the file")?;
    for (place, relocation) in text.relocations() {
        let RelocationFlags::Elf { r_type } = relocation.flags() else {
            continue;
        };
        if r_type != R_X86_64_GOTPCREL && r_type != R_X86_64_GOTPCRELX {
            continue;
        }
        let RelocationTarget::Symbol(symbol) = relocation.target() else {
            continue;
        };
        let target = object.symbol_by_index(symbol)?.address();
        // In a linked file places are addresses.
        let at = usize::try_from(offset + (place - text.address()))?;
        let distance = i32::try_from(target as i64 - (place + 4) as i64)?;
        changes.push((at, distance));
    }
    let mut count = 0;
    for (at, distance) in changes {
        let Some(code) = at
            .checked_sub(2)
            .and_then(|from| file.get_mut(from..at + 4))
        else {
            continue;
        };
        count += usize::from(direct(code, distance));
    }
    Ok(count)
}

/// Makes an indirect call or jump a direct one over `distance`, counted from the end of it. Whether
/// `code` was one.
fn direct(code: &mut [u8], distance: i32) -> bool {
    let [operation @ .., _, _, _, _] = code else {
        return false;
    };
    if operation == CALL_INDIRECT {
        // A prefix without effect takes the place of what is too much.
        operation.copy_from_slice(&[0x67, 0xe8]);
    } else if operation == JUMP_INDIRECT {
        operation.copy_from_slice(&[0x2e, 0xe9]);
    } else {
        return false;
    }
    if let Some(field) = code.last_chunk_mut() {
        *field = distance.to_le_bytes();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_keeps_its_length_and_ends_where_it_did() {
        let mut call = [0xff, 0x15, 1, 2, 3, 4];
        assert!(direct(&mut call, -2));
        assert_eq!(call, [0x67, 0xe8, 0xfe, 0xff, 0xff, 0xff]);
        let mut load = [0x48, 0x8b, 0x05, 2, 3, 4];
        assert!(!direct(&mut load, 7), "only calls and jumps");
        assert_eq!(load, [0x48, 0x8b, 0x05, 2, 3, 4]);
    }
}
