//! Waking up at a deadline: one timer interrupt, by whichever timer the machine has.
//!
//! In this order: the local APIC's timer set to a reading of the time stamp counter, the same one
//! counting down, the high precision event timer ([`Hpet`]), the 8254. Each may end early, when the
//! deadline is further away than it can count: who sleeps is then asked again, and so is the
//! watchdog's interrupt ([`resume`]).

use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch::x86_64::apic::TIMER_VECTOR;
use crate::arch::x86_64::port::{PIT_COMMAND, PIT_COUNTER_0};
use crate::arch::x86_64::{cpu, interrupts};
use crate::hpet::{Hpet, PIT_HERTZ, count};
use crate::mmio::Mmio;
use crate::sync::Once;
use crate::{acpi, clock, profile, watchdog};

static ALARM: Once<Alarm> = Once::new();
/// When the interrupt is wanted, by the clock.
static WANTED: AtomicU64 = AtomicU64::new(u64::MAX);
/// When it will come, by the clock; 0 if it will not, or nobody knows.
static ARMED: AtomicU64 = AtomicU64::new(0);

/// What interrupts.
#[derive(Debug)]
enum Alarm {
    Deadline,
    /// With its frequency.
    Apic(u64),
    Hpet(Hpet<Mmio>),
    Pit,
}

/// What there is to choose from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice<'a> {
    /// The one that somebody asks for by name, if it is there.
    pub(crate) wanted: Option<&'a str>,
    /// The frequency of the APIC's timer; 0: it does not count.
    pub(crate) apic_hertz: u64,
    /// The high precision event timer.
    pub(crate) hpet: Option<Hpet<Mmio>>,
}

/// Chooses a timer; its name.
pub(crate) fn choose(choice: Choice<'_>, controllers: &acpi::tables::Interrupts) -> &'static str {
    let wants = |name| choice.wanted.is_none_or(|wanted| wanted == name);
    let Some(apic) = interrupts::local_apic() else {
        return "none";
    };
    let counts = choice.apic_hertz > 0;
    let (alarm, name) = match choice.hpet {
        _ if wants("tsc") && counts && cpu::has_tsc_deadline() => {
            apic.follow_counter();
            (Alarm::Deadline, "tsc")
        }
        _ if wants("apic") && counts => (Alarm::Apic(choice.apic_hertz), "apic"),
        Some(hpet) if wants("hpet") && route_hpet(hpet) => (Alarm::Hpet(hpet), "hpet"),
        // What somebody asks for that is not there counts for nothing.
        _ if counts && !wants("pit") => (Alarm::Apic(choice.apic_hertz), "apic"),
        _ => {
            let (gsi, trigger) = controllers.isa(0);
            interrupts::route(gsi, TIMER_VECTOR, trigger);
            if gsi == 0 {
                // Nothing is said about it, and where it then is has been input 2 since there were
                // two 8259s. Nothing else can be there.
                interrupts::route(2, TIMER_VECTOR, trigger);
            }
            (Alarm::Pit, "8254")
        }
    };
    if matches!(alarm, Alarm::Hpet(_) | Alarm::Pit) {
        apic.stop();
    }
    let _ = ALARM.set(alarm);
    name
}

fn route_hpet(hpet: Hpet<Mmio>) -> bool {
    let edge = crate::arch::x86_64::apic::Trigger {
        active_low: false,
        level: false,
    };
    let gsi = hpet.gsis().trailing_zeros();
    let routed = gsi < 32 && interrupts::route(gsi, TIMER_VECTOR, edge);
    if routed {
        hpet.prepare(gsi);
    }
    routed
}

/// The timer has interrupted.
pub(crate) fn fired() {
    ARMED.store(0, Ordering::Relaxed);
}

/// Arms the timer for `deadline_ns`, or what the watchdog or the profiler wants before. `false`: that is
/// now, do not sleep.
///
/// An interrupt that comes before stays as it is: deadlines move on with every request, and to set the
/// timer costs a virtual machine more than to be woken too early now and then (QEMU: two exits under its
/// lock, and its main loop is woken to look at the new deadline).
pub(crate) fn arm(deadline_ns: Option<u64>) -> bool {
    let wanted = profile::limit(watchdog::limit(deadline_ns)).unwrap_or(u64::MAX);
    WANTED.store(wanted, Ordering::Relaxed);
    set(wanted)
}

/// Goes on with a deadline that was too far away. `false`: it has come.
pub(crate) fn resume() -> bool {
    let wanted = WANTED.load(Ordering::Relaxed);
    wanted > clock::now_ns() && set(wanted)
}

fn set(wanted: u64) -> bool {
    let (Some(apic), Some(alarm)) = (interrupts::local_apic(), ALARM.get()) else {
        return false;
    };
    if wanted == u64::MAX {
        return true;
    }
    let now = clock::now_ns();
    let ns = wanted.saturating_sub(now);
    if ns == 0 {
        return false;
    }
    let armed = ARMED.load(Ordering::Relaxed);
    if now < armed && armed <= wanted {
        return true;
    }
    let mut at = wanted;
    match alarm {
        Alarm::Deadline => cpu::set_tsc_deadline(clock::counter_in(ns)),
        Alarm::Apic(hertz) => {
            let count = count(ns, *hertz, u32::MAX);
            if count == u32::MAX {
                at = 0; // it comes before
            }
            apic.arm(count);
        }
        Alarm::Hpet(hpet) => {
            at = 0;
            if !hpet.arm(ns) {
                return false;
            }
        }
        Alarm::Pit => {
            at = 0;
            let [low, high, ..] = count(ns, PIT_HERTZ, 0xffff).to_le_bytes();
            // Counter 0, all 16 bits, interrupt on terminal count.
            PIT_COMMAND.write(0x30);
            PIT_COUNTER_0.write(low);
            PIT_COUNTER_0.write(high);
        }
    }
    ARMED.store(at, Ordering::Relaxed);
    true
}
