//! Every way to end, each with a code of its own.
//!
//! The host learns the code twice: from the verdict line on the console and from QEMU's exit status
//! (`code << 1 | 1` through `isa-debug-exit`, where the host added it). Success powers the machine
//! off, as a server should.

use core::fmt;

/// Why an image ended. The numbers are part of the interface to the host and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u8)]
pub enum ExitCode {
    /// Done: drained, or told to end.
    Success = 0,
    /// A bug: some assertion failed.
    Panic = 10,
    /// No usable network card.
    NoNic = 11,
    /// No source of randomness that may be relied on.
    NoEntropy = 12,
    /// The configuration makes no sense.
    BadConfig = 13,
    /// The heap is exhausted.
    OutOfMemory = 14,
    /// The processor raised an exception.
    UnhandledException = 15,
    /// No address could be had.
    NoLease = 16,
    /// This is not a machine the kernel can run on.
    BootFailed = 17,
    /// The stack ran into its guard page.
    StackOverflow = 18,
    /// Told to end before everything was handed over.
    Incomplete = 19,
    /// The loop did not come back.
    Watchdog = 20,
}

impl ExitCode {
    /// The name in the verdict line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "drained",
            Self::Panic => "panic",
            Self::NoNic => "no-nic",
            Self::NoEntropy => "no-entropy",
            Self::BadConfig => "bad-config",
            Self::OutOfMemory => "out-of-memory",
            Self::UnhandledException => "exception",
            Self::NoLease => "no-lease",
            Self::BootFailed => "boot-failed",
            Self::StackOverflow => "stack-overflow",
            Self::Incomplete => "incomplete",
            Self::Watchdog => "watchdog",
        }
    }

    /// The code with this number, if there is one.
    pub fn from_number(number: u8) -> Option<Self> {
        const ALL: [ExitCode; 12] = [
            ExitCode::Success,
            ExitCode::Panic,
            ExitCode::NoNic,
            ExitCode::NoEntropy,
            ExitCode::BadConfig,
            ExitCode::OutOfMemory,
            ExitCode::UnhandledException,
            ExitCode::NoLease,
            ExitCode::BootFailed,
            ExitCode::StackOverflow,
            ExitCode::Incomplete,
            ExitCode::Watchdog,
        ];
        ALL.into_iter().find(|&code| code as u8 == number)
    }
}

/// How long a reason stays on the screen.
#[cfg(godwit_image)]
const READING_NS: u64 = 30_000_000_000;

#[cfg(godwit_image)]
fn pause(ns: u64) {
    let start = crate::clock::now_ns();
    while crate::clock::now_ns() < start + ns {
        core::hint::spin_loop();
    }
}

/// Ends the image: the verdict line, then off.
#[cfg(godwit_image)]
pub fn exit(code: ExitCode, reason: impl fmt::Display) -> ! {
    use crate::arch::x86_64::{cpu, port};

    cpu::disable_interrupts();
    crate::console::verdict(code, &reason);
    if code != ExitCode::Success {
        port::DEBUG_EXIT.write(u32::from(code as u8));
        if crate::console::screen::lit() {
            // Somebody may be reading why.
            pause(READING_NS);
        }
    }
    let switched = crate::acpi::power::off();
    if switched {
        // This takes its time. If it does not work at all, there may still be a debug exit.
        pause(2_000_000_000);
    }
    port::DEBUG_EXIT.write(u32::from(code as u8));
    if switched || cpu::hypervisor() == cpu::Hypervisor::None {
        cpu::stop()
    }
    // Firecracker's way to end. A metal machine would come back and try again, unseen.
    cpu::reset()
}

/// Ends the program: on the host there is no machine to switch off, so this panics.
#[cfg(not(godwit_image))]
pub fn exit(code: ExitCode, reason: impl fmt::Display) -> ! {
    panic!("exit {}: {reason}", code.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_ones_the_host_knows() {
        for (code, number) in [
            (ExitCode::Success, 0),
            (ExitCode::Panic, 10),
            (ExitCode::NoEntropy, 12),
            (ExitCode::UnhandledException, 15),
            (ExitCode::StackOverflow, 18),
            (ExitCode::Incomplete, 19),
            (ExitCode::Watchdog, 20),
        ] {
            assert_eq!(code as u8, number);
            assert_eq!(ExitCode::from_number(number), Some(code));
        }
        assert_eq!(ExitCode::from_number(1), None);
    }
}
