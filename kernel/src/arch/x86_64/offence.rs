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
        "write-rodata" => {
            let constant = core::hint::black_box("constant").as_ptr().cast_mut();
            // SAFETY: none; this is to fault.
            unsafe { constant.write_volatile(0) };
        }
        "execute-stack" => execute(&core::hint::black_box([0xc3; 16])),
        "execute-heap" => execute(&core::hint::black_box(alloc::vec![0xc3; 3 << 20])),
        "spin" => loop {
            core::hint::spin_loop();
        },
        _ => {
            let stack = name.strip_prefix("overflow:").unwrap_or_default();
            if let Some((.., top)) = crate::mm::stacks().find(|(purpose, ..)| *purpose == stack) {
                dig_on(top);
            }
        }
    }
}

/// Calls what should be data, in the middle of it: in a large page, if it is long enough.
fn execute(returns: &[u8]) {
    let middle = &returns[returns.len() / 2..];
    // SAFETY: none; this is to fault.
    unsafe { core::mem::transmute::<*const u8, extern "C" fn()>(middle.as_ptr())() };
}

/// Overflows another stack than the one in use.
fn dig_on(top: u64) -> ! {
    extern "C" fn dig_for_ever() -> ! {
        core::hint::black_box(dig(1));
        super::cpu::stop()
    }
    super::cpu::disable_interrupts();
    // SAFETY: the stack is not in use, as interrupts are off; this one is never used again.
    unsafe {
        core::arch::asm!("mov rsp, {top}", "xor ebp, ebp", "call {dig}",
            top = in(reg) top, dig = sym dig_for_ever, options(noreturn));
    }
}

#[inline(never)]
fn dig(depth: u64) -> u64 {
    let mut room = [depth; 64];
    core::hint::black_box(&mut room);
    let below = core::hint::black_box(dig as fn(u64) -> u64)(depth + 1);
    room.iter().fold(below, |sum, word| sum.wrapping_add(*word))
}
