//! The end of an image that has a bug: a report with a backtrace, then a code for the host.

use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::activity::Activity;
use crate::arch::x86_64::cpu;
use crate::console::{self, emergency};
use crate::exit::{ExitCode, exit};
use crate::mm;
use crate::symbols::{self, Place};
use crate::sync::Lent;

static RESCUE: Lent = Lent::nothing();
static PANICKING: AtomicBool = AtomicBool::new(false);
const DEPTH: usize = 48;

/// Runs `body`; if it panics, `rescue` runs before the image ends, with the frames of `body` left as they
/// are. It does not if the machine itself may be in the middle of something: in an interrupt handler, in the
/// heap, on the console, or without memory.
pub fn guarded(body: &mut dyn FnMut(), rescue: &mut dyn FnMut()) {
    RESCUE.lend(rescue, body);
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    cpu::disable_interrupts();
    if PANICKING.swap(true, Ordering::Relaxed) {
        exit(ExitCode::Panic, "panic while panicking");
    }
    emergency(format_args!("{info}{Activity}"));
    backtrace(None, cpu::frame_pointer());
    // `alloc` reports a failed allocation as a panic of its own wording.
    let text = info.message();
    let memory = text
        .as_str()
        .is_some_and(|text| text.starts_with("memory allocation"));
    let code = if memory || mm::out_of_memory() {
        ExitCode::OutOfMemory
    } else {
        ExitCode::Panic
    };
    if code == ExitCode::OutOfMemory {
        emergency(format_args!("heap: {:?}", mm::memory()));
    } else if mm::on_main_stack(cpu::frame_pointer()) && mm::at_rest() && console::at_rest() {
        cpu::enable_interrupts();
        RESCUE.call();
    }
    match info.location() {
        Some(at) => {
            let (file, line) = (at.file(), at.line());
            exit(code, format_args!("{text} ({file}:{line}){Activity}"))
        }
        None => exit(code, format_args!("{text}{Activity}")),
    }
}

/// Ends the image for what was noticed at `rip`: an exception of the processor, or a hang.
pub(crate) fn report(code: ExitCode, what: fmt::Arguments<'_>, rip: u64, frame: u64) -> ! {
    if PANICKING.swap(true, Ordering::Relaxed) {
        exit(code, format_args!("{what} (while panicking)"));
    }
    emergency(format_args!("{what}{Activity}"));
    backtrace(Some(rip), frame);
    exit(code, format_args!("{what}{Activity}"))
}

/// Says which build this is, so that who reads the report can look up lines, and who called whom.
fn backtrace(first: Option<u64>, frame: u64) {
    emergency(format_args!("  build {:016x}", symbols::build()));
    // A return address may be the first byte of the next function: look up the call itself.
    let calls = mm::callers(frame).map(|address| address - 1);
    for (depth, address) in first.into_iter().chain(calls).take(DEPTH).enumerate() {
        emergency(format_args!("  {depth:2}: {}", Place(address)));
    }
}
