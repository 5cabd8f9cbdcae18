//! Offences against memory protection, for tests that check that they are caught.

/// Commits the offence with this name, or does nothing.
pub(crate) fn commit(name: &str) {
    match name {
        "overflow" => {
            core::hint::black_box(dig(1));
        }
        "fault" => {
            // SAFETY: none; this is to fault.
            unsafe { core::ptr::without_provenance_mut::<u64>(8).write_volatile(1) };
        }
        "write-text" => {
            let code = commit as *const () as *mut u8;
            // SAFETY: none; this is to fault.
            unsafe { code.write_volatile(0xc3) };
        }
        "execute-data" => {
            let returns = core::hint::black_box([0xc3u8; 16]);
            // SAFETY: none; this is to fault.
            unsafe { core::mem::transmute::<*const u8, extern "C" fn()>(returns.as_ptr())() };
        }
        _ => {}
    }
}

#[inline(never)]
fn dig(depth: u64) -> u64 {
    let mut room = [depth; 64];
    core::hint::black_box(&mut room);
    let below = core::hint::black_box(dig as fn(u64) -> u64)(depth + 1);
    room.iter().fold(below, |sum, word| sum.wrapping_add(*word))
}
