//! The power button, and switching off.
//!
//! Two kinds of machine: with fixed hardware (q35, pc, metal), where the button sets a bit in the
//! PM1 status register and raises the SCI, and hardware-reduced (microvm), where a generic event
//! device has a selector register and an interrupt (ACPI 6.5, sections 4.8.2, 4.8.3, 5.6.9).

use core::sync::atomic::{AtomicBool, Ordering};

use super::dsdt::{EventDevice, Selector};
use super::tables::{Fixed, Register};
use crate::arch::x86_64::port::{self, Port};
use crate::mmio::Mmio;
use crate::sync::Once;

const POWER_BUTTON: u16 = 1 << 8;
const SLEEP_ENABLE: u16 = 1 << 13;
const SCI_ENABLED: u16 = 1;
/// The generic event device's bit for the power button, as QEMU assigns it.
const QEMU_POWER_BUTTON: u32 = 1 << 1;
/// The same, as Cloud Hypervisor does.
const CLOUD_POWER_BUTTON: u8 = 1 << 3;

static BUTTON: AtomicBool = AtomicBool::new(false);
static SOURCE: Once<Source> = Once::new();
static SWITCH: Once<Switch> = Once::new();

#[derive(Clone, Copy)]
enum Source {
    Pm1 {
        status: Port<u16>,
        enable: Port<u16>,
    },
    QemuEvents(Mmio),
    CloudEvents(Mmio),
}

#[derive(Clone, Copy)]
enum Switch {
    Pm1 {
        control: [Option<Port<u16>>; 2],
        sleep_type: u8,
    },
    Register {
        register: Mmio,
        sleep_type: u8,
    },
    Port {
        port: Port<u8>,
        sleep_type: u8,
    },
}

/// Learns how to switch off and where the button is. Interrupts are routed by the caller.
///
/// Says which of `(button, switch)` this machine has.
pub fn init(fixed: &Fixed, sleep_type: Option<u8>, events: Option<EventDevice>) -> (bool, bool) {
    if let Some(switch) = sleep_type.and_then(|sleep_type| find_switch(fixed, sleep_type)) {
        let _ = SWITCH.set(switch);
    }
    let source = match events {
        Some(device) => match device.selector {
            Selector::Qemu(address) => Mmio::map(address, 4).map(Source::QemuEvents),
            Selector::CloudHypervisor(address) => Mmio::map(address, 1).map(Source::CloudEvents),
        },
        None if !fixed.hardware_reduced => fixed_source(fixed),
        None => None,
    };
    if let Some(source) = source {
        let _ = SOURCE.set(source);
    }
    (SOURCE.get().is_some(), SWITCH.get().is_some())
}

fn find_switch(fixed: &Fixed, sleep_type: u8) -> Option<Switch> {
    if fixed.hardware_reduced {
        return Some(match fixed.sleep_control? {
            Register::Memory(address) => Switch::Register {
                register: Mmio::map(address, 1)?,
                sleep_type,
            },
            Register::Port(number) => Switch::Port {
                port: port::acpi_port8(number)?,
                sleep_type,
            },
        });
    }
    Some(Switch::Pm1 {
        control: fixed.pm1_control.map(port::acpi_port16),
        sleep_type,
    })
}

fn fixed_source(fixed: &Fixed) -> Option<Source> {
    let half = u32::from(fixed.pm1_event_len / 2);
    let status = port::acpi_port16(fixed.pm1_event)?;
    let enable = port::acpi_port16(fixed.pm1_event.checked_add(half)?)?;
    let [control, _] = fixed.pm1_control;
    if let Some(control) = port::acpi_port16(control)
        && control.read() & SCI_ENABLED == 0
        && let Some(command) = port::acpi_smi_command(fixed.smi_command)
    {
        // Firmware still owns the button: ask for it, and do not wait for ever (section 4.8.2.5).
        command.write(fixed.acpi_enable);
        for _ in 0..100_000 {
            if control.read() & SCI_ENABLED != 0 {
                break;
            }
        }
    }
    status.write(POWER_BUTTON);
    enable.write(POWER_BUTTON);
    Some(Source::Pm1 { status, enable })
}

/// Takes in the event that raised the interrupt.
pub fn handle_interrupt() {
    let pressed = match SOURCE.get() {
        Some(Source::Pm1 { status, enable }) => {
            let pending = status.read();
            status.write(pending & enable.read());
            pending & POWER_BUTTON != 0
        }
        Some(Source::QemuEvents(selector)) => selector.read32(0) & QEMU_POWER_BUTTON != 0,
        Some(Source::CloudEvents(selector)) => selector.read8(0) & CLOUD_POWER_BUTTON != 0,
        None => false,
    };
    if pressed {
        BUTTON.store(true, Ordering::Release);
    }
}

/// Whether the power button was pressed since the last call.
pub fn take_button() -> bool {
    BUTTON.swap(false, Ordering::AcqRel)
}

/// Whether the button has been pressed and nobody has taken notice yet.
pub fn button_pending() -> bool {
    BUTTON.load(Ordering::Acquire)
}

/// Switches the machine off. Returns if that did not work: `false` if there is no way to do it.
pub fn off() -> bool {
    const KEPT: u16 = 0x0203; // SCI_EN, BM_RLD, and bit 9, which is to be preserved
    let reduced = |sleep_type: u8| (sleep_type << 2) | (1 << 5);
    match SWITCH.get() {
        Some(Switch::Pm1 {
            control,
            sleep_type,
        }) => {
            for control in control.iter().flatten() {
                let kept = control.read() & KEPT;
                control.write(kept | (u16::from(*sleep_type) << 10) | SLEEP_ENABLE);
            }
        }
        Some(Switch::Register {
            register,
            sleep_type,
        }) => register.write8(0, reduced(*sleep_type)),
        Some(Switch::Port { port, sleep_type }) => port.write(reduced(*sleep_type)),
        None => return false,
    }
    true
}
