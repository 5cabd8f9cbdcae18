//! Finding the input of an I/O APIC that a PCI device's interrupt line leads to.
//!
//! Only firmware's byte code says that (`_PRT`), which is not read here. So the device is told to
//! interrupt, and the input that rings is the one.

use crate::acpi::tables::Interrupts;
use crate::arch::x86_64::apic::Trigger;
use crate::arch::x86_64::{cpu, interrupts};
use crate::drivers::net::pci::Line;

/// Where chipsets have the lines of PCI.
const PCI_INPUTS: core::ops::Range<u32> = 16..24;
/// How often to look whether a line rings.
const PATIENCE: u32 = 2000;

/// Finds the line that rings when the device is told to: first the one that firmware has
/// connected to an interrupt of the old PC, if it has one.
pub(super) fn find(controllers: &Interrupts, line: Line<'_>) -> bool {
    let low = Trigger {
        active_low: true,
        level: true,
    };
    let isa = line.number.map(|number| {
        let (gsi, trigger) = controllers.isa(number);
        let level = true;
        (gsi, Trigger { level, ..trigger })
    });
    let others = PCI_INPUTS.map(|gsi| (gsi, low));
    let mut fresh = None;
    for (gsi, trigger) in isa.into_iter().chain(others) {
        // Devices may share a line.
        let shared = interrupts::routed(gsi);
        if shared.is_none() {
            fresh = fresh.or_else(interrupts::next_device);
        }
        let Some(vector) = shared.or(fresh) else {
            return false;
        };
        if shared.is_none() && !interrupts::route(gsi, vector, trigger) {
            continue;
        }
        let came = rings(line.provoke, vector);
        log::debug!("interrupt {gsi}, vector {vector:#x}, shared {shared:?}: {came}");
        if came {
            return interrupts::attach(vector, line.quiet);
        }
        if shared.is_none() {
            interrupts::mask(gsi);
        }
    }
    false
}

/// Whether the interrupt with this vector comes when the device is told to, and not before.
fn rings(provoke: &mut dyn FnMut(bool), vector: u8) -> bool {
    let Some(apic) = interrupts::local_apic() else {
        return false;
    };
    if apic.requested(vector) {
        return false;
    }
    provoke(true);
    let came = (0..PATIENCE).any(|_| apic.requested(vector));
    provoke(false);
    // It is taken at once: the next device on this line is to be heard too.
    cpu::enable_interrupts();
    let _ = (0..PATIENCE).any(|_| !apic.requested(vector));
    cpu::disable_interrupts();
    came
}
