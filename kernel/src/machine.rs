//! The machine, as the kernel hands it to an image.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use crate::drivers::net::Nic;

/// What an image gets to work with.
pub struct Machine {
    /// The kernel command line.
    pub command_line: String,
    /// The file `opt/godwit/config` the host supplied through fw_cfg, if any.
    pub config_file: Option<String>,
    /// The network cards, in the order they were found.
    pub nics: Vec<Box<dyn Nic>>,
}

impl Machine {
    /// Nanoseconds since the image's first instruction.
    pub fn now_ns(&self) -> u64 {
        crate::clock::now_ns()
    }

    /// Whether the power button was pressed since the last call.
    pub fn power_button(&mut self) -> bool {
        crate::acpi::power::take_button()
    }

    /// Sleeps until a card has something, the power button is pressed, or `deadline_ns` (see
    /// [`Machine::now_ns`]) has come; may end early. What waits on the console goes out first.
    #[cfg(godwit_image)]
    pub fn idle(&mut self, deadline_ns: Option<u64>) {
        use crate::arch::x86_64::{cpu, interrupts};

        crate::console::flush();
        let ready = self
            .nics
            .iter_mut()
            .fold(false, |any, nic| nic.arm() || any);
        if !ready {
            cpu::disable_interrupts();
            // Interrupts are off: whatever comes after these checks ends the `hlt` at once.
            if interrupts::take_wake() || crate::acpi::power::button_pending() {
                cpu::enable_interrupts();
            } else if crate::boot::timer::arm(self.limit(deadline_ns)) {
                cpu::enable_interrupts_and_halt();
            } else {
                cpu::enable_interrupts();
            }
        }
        let _ = interrupts::take_wake();
        for nic in &mut self.nics {
            nic.disarm();
        }
    }

    /// There is nothing to sleep on on the host.
    #[cfg(not(godwit_image))]
    pub fn idle(&mut self, _deadline_ns: Option<u64>) {}

    /// A card without interrupts must be polled.
    #[cfg(godwit_image)]
    fn limit(&self, deadline_ns: Option<u64>) -> Option<u64> {
        const POLL_NS: u64 = 500_000;
        if self.nics.iter().all(|nic| nic.interrupts()) {
            return deadline_ns;
        }
        let poll = self.now_ns() + POLL_NS;
        Some(deadline_ns.map_or(poll, |deadline| deadline.min(poll)))
    }
}

impl core::fmt::Debug for Machine {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Machine")
            .field("command_line", &self.command_line)
            .field("nics", &self.nics.len())
            .finish_non_exhaustive()
    }
}
