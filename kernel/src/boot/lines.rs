//! Finding the input of an I/O APIC that a PCI device's interrupt line leads to.
//!
//! Only firmware's byte code says that (`_PRT`), which is not read here. So the device is told to
//! interrupt, and the input that rings is the one.

use crate::acpi::tables::Interrupts;
use crate::arch::x86_64::apic::{LocalApic, Trigger};
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
    let Some((apic, fresh)) = interrupts::local_apic().zip(interrupts::next_device()) else {
        return false;
    };
    let inputs = isa.into_iter().chain(PCI_INPUTS.map(|gsi| (gsi, low)));
    // An input that is not level-triggered may not see a line that has been up for a while.
    for (gsi, trigger) in inputs.clone() {
        if interrupts::routed(gsi).is_none() && interrupts::route(gsi, fresh, trigger) {
            interrupts::mask(gsi);
        }
    }
    drain(apic, fresh);
    (line.provoke)(true);
    for (gsi, trigger) in inputs {
        // Devices may share a line.
        let shared = interrupts::routed(gsi);
        let vector = shared.unwrap_or(fresh);
        if shared.is_none() && !interrupts::route(gsi, vector, trigger) {
            continue;
        }
        let came = (0..PATIENCE).any(|_| apic.requested(vector));
        if shared.is_none() {
            interrupts::mask(gsi);
        }
        log::debug!("interrupt {gsi}, vector {vector:#x}, shared {shared:?}: {came}");
        if !came {
            continue;
        }
        // It is the one if it also falls silent with the device.
        (line.provoke)(false);
        drain(apic, vector);
        let open = shared.is_some() || interrupts::route(gsi, vector, trigger);
        if open && !apic.requested(vector) {
            return interrupts::attach(vector, line.quiet);
        }
        if shared.is_none() {
            interrupts::mask(gsi);
            drain(apic, vector);
        }
        (line.provoke)(true);
    }
    (line.provoke)(false);
    false
}

/// Takes an interrupt that waits, so that the next one is heard.
fn drain(apic: &LocalApic, vector: u8) {
    cpu::enable_interrupts();
    let _ = (0..PATIENCE).any(|_| !apic.requested(vector));
    cpu::disable_interrupts();
}
