//! How fast the time stamp counter and the APIC timer run, and waking up at a deadline.
//!
//! The yardstick is, in this order: what the hypervisor says (CPUID 0x4000_0010), the processor's
//! own statement (CPUID 0x15), an APIC timer known to count nanoseconds (QEMU, KVM), the ACPI timer,
//! the 8254. Port 0x61 is not touched: microvm has nothing behind it.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch::x86_64::apic::LocalApic;
use crate::arch::x86_64::cpu::{self, Hypervisor};
use crate::arch::x86_64::interrupts;
use crate::arch::x86_64::port::{self, PIT_COMMAND, PIT_COUNTER_0, Port};
use crate::clock::{self, RtcReading};
use crate::{profile, watchdog};

/// Under QEMU and KVM the APIC's clock is this fast.
const VIRTUAL_APIC_HERTZ: u64 = 1_000_000_000;
const ACPI_TIMER_HERTZ: u64 = 3_579_545;
const PIT_HERTZ: u64 = 1_193_182;
/// The least time between the two readings that calibrate the clock.
const WINDOW_NS: u64 = 1_000_000;

static APIC_HERTZ: AtomicU64 = AtomicU64::new(VIRTUAL_APIC_HERTZ);

/// Where the frequency came from.
pub(crate) type Source = &'static str;

/// A calibration under way: readings of the yardstick and the counter at its start.
pub(crate) struct Calibration {
    yardstick: Yardstick,
    start: (u64, u64),
    apic_start: u64,
}

enum Yardstick {
    Known(u64, Source),
    Apic(&'static LocalApic),
    AcpiTimer(Port<u32>),
    Pit,
}

impl Calibration {
    /// Takes the first readings and sets the clock to a rough guess.
    pub(crate) fn start(apic: &'static LocalApic, acpi_timer: u32) -> Self {
        let yardstick = match cpu::hypervisor() {
            _ if let Some((hertz, source)) = stated() => Yardstick::Known(hertz, source),
            Hypervisor::Tcg | Hypervisor::Kvm => Yardstick::Apic(apic),
            _ => match port::acpi_port32(acpi_timer) {
                Some(port) => Yardstick::AcpiTimer(port),
                None => {
                    // Counter 0, rate generator, all 16 bits.
                    PIT_COMMAND.write(0x34);
                    PIT_COUNTER_0.write(0);
                    PIT_COUNTER_0.write(0);
                    Yardstick::Pit
                }
            },
        };
        let mut calibration = Self {
            start: (0, 0),
            apic_start: u64::from(apic.count()),
            yardstick,
        };
        calibration.start = calibration.read();
        if let Yardstick::Known(hertz, _) = calibration.yardstick {
            clock::set_frequency(hertz);
        } else {
            calibration.measure(WINDOW_NS / 20);
        }
        calibration
    }

    /// Takes the last readings, waiting until they are far enough from the first, and sets the
    /// clocks.
    pub(crate) fn finish(&self, apic: &LocalApic) -> Source {
        let source = match self.yardstick {
            Yardstick::Known(hertz, source) => {
                clock::set_frequency(hertz);
                source
            }
            Yardstick::Apic(_) => "apic",
            Yardstick::AcpiTimer(_) => "acpi timer",
            Yardstick::Pit => "8254",
        };
        let (_, elapsed_ns) = self.measure(WINDOW_NS);
        if !matches!(cpu::hypervisor(), Hypervisor::Tcg | Hypervisor::Kvm) && elapsed_ns > 0 {
            let counted = self.apic_start.saturating_sub(u64::from(apic.count()));
            let hertz = u128::from(counted) * 1_000_000_000 / u128::from(elapsed_ns);
            APIC_HERTZ.store((hertz as u64).max(1_000_000), Ordering::Relaxed);
        }
        source
    }

    /// Waits until `window_ns` have passed since the start and sets the clock; `(hertz, ns)`.
    fn measure(&self, window_ns: u64) -> (u64, u64) {
        let (tsc_start, count_start) = self.start;
        let (hertz, mask) = match self.yardstick {
            Yardstick::Known(hertz, _) => (hertz, u64::MAX),
            Yardstick::Apic(_) => (VIRTUAL_APIC_HERTZ, u32::MAX.into()),
            Yardstick::AcpiTimer(_) => (ACPI_TIMER_HERTZ, 0x00ff_ffff),
            Yardstick::Pit => (PIT_HERTZ, 0xffff),
        };
        // A yardstick that stands still must not hang the boot: any counter does a billion ticks
        // in a second at most a few times.
        for _ in 0..50_000_000u32 {
            let (tsc, count) = self.read();
            let counted = count.wrapping_sub(count_start) & mask;
            let ns = u128::from(counted) * 1_000_000_000 / u128::from(hertz.max(1));
            if ns < u128::from(window_ns) {
                continue;
            }
            let ticks = u128::from(tsc.wrapping_sub(tsc_start));
            let tsc_hertz = (ticks * 1_000_000_000 / ns) as u64;
            if !matches!(self.yardstick, Yardstick::Known(..)) {
                clock::set_frequency(tsc_hertz);
            }
            return (tsc_hertz, ns as u64);
        }
        crate::exit::exit(
            crate::exit::ExitCode::BootFailed,
            "no clock to calibrate the time stamp counter with",
        )
    }

    /// Counter and yardstick at nearly the same moment: of a few tries, the quickest.
    fn read(&self) -> (u64, u64) {
        let mut best = (u64::MAX, (0, 0));
        for _ in 0..5 {
            let before = cpu::tsc();
            let count = match self.yardstick {
                Yardstick::Known(..) => before,
                Yardstick::Apic(apic) => u64::from(u32::MAX - apic.count()),
                Yardstick::AcpiTimer(port) => u64::from(port.read()),
                Yardstick::Pit => {
                    PIT_COMMAND.write(0); // latch counter 0
                    let low = PIT_COUNTER_0.read();
                    let high = PIT_COUNTER_0.read();
                    0xffff - u64::from(u16::from_le_bytes([low, high]))
                }
            };
            let took = cpu::tsc().wrapping_sub(before);
            if took < best.0 {
                best = (took, (before + took / 2, count));
            }
        }
        best.1
    }
}

/// The counter's frequency where somebody states it.
fn stated() -> Option<(u64, Source)> {
    let kilohertz = cpu::cpuid(0x4000_0010).map_or(0, |leaf| u64::from(leaf.eax));
    if kilohertz > 100_000 {
        return Some((kilohertz * 1000, "hypervisor"));
    }
    let leaf = cpu::cpuid(0x15)?;
    if leaf.eax == 0 || leaf.ebx == 0 || leaf.ecx == 0 {
        return None;
    }
    let hertz = u64::from(leaf.ecx) * u64::from(leaf.ebx) / u64::from(leaf.eax);
    (hertz > 100_000_000).then_some((hertz, "cpuid"))
}

/// When the timer will interrupt, by the clock; 0 if it will not.
static ARMED_NS: AtomicU64 = AtomicU64::new(0);

/// The timer has interrupted.
pub(crate) fn fired() {
    ARMED_NS.store(0, Ordering::Relaxed);
}

/// Arms the timer for `deadline_ns`, or what the watchdog or the profiler wants before. `false`: that is now, do not
/// sleep.
///
/// An interrupt that comes before stays as it is: deadlines move on with every request, and to set the
/// timer costs a virtual machine more than to be woken too early now and then (QEMU: two exits under its
/// lock, and its main loop is woken to look at the new deadline).
pub(crate) fn arm(deadline_ns: Option<u64>) -> bool {
    let Some(apic) = interrupts::local_apic() else {
        return false;
    };
    let Some(deadline) = profile::limit(watchdog::limit(deadline_ns)) else {
        return true;
    };
    let now = clock::now_ns();
    if deadline <= now {
        return false;
    }
    let armed = ARMED_NS.load(Ordering::Relaxed);
    if now < armed && armed <= deadline {
        return true;
    }
    let hertz = u128::from(APIC_HERTZ.load(Ordering::Relaxed)).max(1);
    let count = u128::from(deadline - now) * hertz / 1_000_000_000;
    // Longer than the timer can count: wake up early, and be asked again.
    let count = u32::try_from(count).unwrap_or(u32::MAX).max(1);
    let ns = u128::from(count) * 1_000_000_000 / hertz;
    ARMED_NS.store(now + ns as u64, Ordering::Relaxed);
    apic.arm(count);
    true
}

/// Takes the date from the real-time clock.
pub(crate) fn read_date() -> Option<u64> {
    use crate::arch::x86_64::port::{CMOS_DATA, CMOS_INDEX};
    let read = |register: u8| {
        CMOS_INDEX.write(register);
        CMOS_DATA.read()
    };
    let read_all = || RtcReading {
        fields: [read(0), read(2), read(4), read(7), read(8), read(9)],
        format: read(11),
    };
    // An update in progress gives a mix of two dates; two equal readings are one date.
    let mut last = read_all();
    for _ in 0..4 {
        let next = read_all();
        if next == last {
            break;
        }
        last = next;
    }
    let seconds = last.unix_seconds()?;
    clock::set_epoch(seconds);
    Some(seconds)
}
