//! How fast the time stamp counter and the APIC timer run, and what the date is.
//!
//! The yardstick is, in this order: what the hypervisor says (CPUID 0x4000_0010, or the page of
//! [`kvm`]), the processor's own statement (CPUID 0x15), an APIC timer known to count nanoseconds (QEMU,
//! KVM), the ACPI timer, the high precision event timer, the 8254. Port 0x61 is not touched: microvm has
//! nothing behind it. `timer=acpi|hpet|pit` on the command line asks for one of the last three, as if
//! nobody had said anything and the APIC timer's pace were not known.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch::x86_64::apic::LocalApic;
use crate::arch::x86_64::cpu::{self, Hypervisor};
use crate::arch::x86_64::port::{self, PIT_COMMAND, PIT_COUNTER_0, Port};
use crate::clock::kvm::{self, TimePage, WallPage};
use crate::clock::{self, RtcReading};
use crate::hpet::{Hpet, PIT_HERTZ};
use crate::mmio::Mmio;

/// Under QEMU and KVM the APIC's clock is this fast.
const VIRTUAL_APIC_HERTZ: u64 = 1_000_000_000;
const ACPI_TIMER_HERTZ: u64 = 3_579_545;
/// The least time between the two readings that calibrate the clock.
const WINDOW_NS: u64 = 1_000_000;

/// Where the frequency came from.
pub(crate) type Source = &'static str;

/// A calibration under way: readings of the yardstick and the counter at its start.
pub(crate) struct Calibration {
    yardstick: Yardstick,
    start: (u64, u64),
    apic_start: u64,
    /// The APIC's timer counts nanoseconds.
    virtual_apic: bool,
}

enum Yardstick {
    Known(u64, Source),
    Apic(&'static LocalApic),
    AcpiTimer(Port<u32>),
    Hpet(Hpet<Mmio>),
    Pit,
}

impl Calibration {
    /// Takes the first readings and sets the clock to a rough guess. `wanted` is a yardstick that
    /// somebody asks for by name.
    pub(crate) fn start(
        apic: &'static LocalApic,
        acpi_timer: u32,
        hpet: Option<Hpet<Mmio>>,
        wanted: Option<&str>,
    ) -> Self {
        let asked = |name| wanted == Some(name);
        let free = !(asked("acpi") || asked("hpet") || asked("pit"));
        cpu::share_clock(&TIME, &WALL);
        let virtual_apic = free && matches!(cpu::hypervisor(), Hypervisor::Tcg | Hypervisor::Kvm);
        let stated = if free { stated() } else { None };
        let acpi_timer = (free || asked("acpi"))
            .then(|| port::acpi_port32(acpi_timer))
            .flatten();
        let yardstick = match (stated, acpi_timer, hpet) {
            (Some((hertz, source)), ..) => Yardstick::Known(hertz, source),
            _ if virtual_apic => Yardstick::Apic(apic),
            (_, Some(port), _) => Yardstick::AcpiTimer(port),
            (_, _, Some(hpet)) if !asked("pit") => Yardstick::Hpet(hpet),
            _ => {
                // Counter 0, rate generator, all 16 bits.
                PIT_COMMAND.write(0x34);
                PIT_COUNTER_0.write(0);
                PIT_COUNTER_0.write(0);
                Yardstick::Pit
            }
        };
        let mut calibration = Self {
            start: (0, 0),
            apic_start: 0,
            yardstick,
            virtual_apic,
        };
        calibration.begin(apic);
        if let Yardstick::Known(hertz, _) = calibration.yardstick {
            clock::set_frequency(hertz);
        } else {
            calibration.measure(WINDOW_NS / 20);
        }
        calibration
    }

    fn begin(&mut self, apic: &LocalApic) {
        self.apic_start = u64::from(apic.count());
        self.start = self.read();
    }

    /// Takes the last readings, waiting until they are far enough from the first, and sets the
    /// clock; with what, and the frequency of the APIC's timer.
    pub(crate) fn finish(mut self, apic: &LocalApic) -> (Source, u64) {
        let source = match self.yardstick {
            Yardstick::Known(hertz, source) => {
                clock::set_frequency(hertz);
                source
            }
            Yardstick::Apic(_) => "apic",
            Yardstick::AcpiTimer(_) => "acpi timer",
            Yardstick::Hpet(_) => "hpet",
            Yardstick::Pit => {
                self.begin(apic); // it has gone round meanwhile
                "8254"
            }
        };
        follow_pace();
        if self.virtual_apic {
            if matches!(self.yardstick, Yardstick::Apic(_)) {
                self.measure(WINDOW_NS);
            }
            return (source, VIRTUAL_APIC_HERTZ);
        }
        let (_, elapsed_ns) = self.measure(WINDOW_NS);
        let counted = self.apic_start.saturating_sub(u64::from(apic.count()));
        let hertz = u128::from(counted) * 1_000_000_000 / u128::from(elapsed_ns.max(1));
        (source, hertz as u64)
    }

    /// Waits until `window_ns` have passed since the start and sets the clock; `(hertz, ns)`.
    fn measure(&self, window_ns: u64) -> (u64, u64) {
        let (tsc_start, count_start) = self.start;
        let (hertz, mask) = match self.yardstick {
            Yardstick::Known(hertz, _) => (hertz, u64::MAX),
            Yardstick::Apic(_) => (VIRTUAL_APIC_HERTZ, u32::MAX.into()),
            Yardstick::AcpiTimer(_) => (ACPI_TIMER_HERTZ, 0x00ff_ffff),
            Yardstick::Hpet(ref hpet) => (hpet.hertz(), u32::MAX.into()),
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
                Yardstick::Hpet(ref hpet) => u64::from(hpet.counter()),
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
    if let Some(reading) = shared() {
        return Some((reading.hertz(), "kvm-clock"));
    }
    let leaf = cpu::cpuid(0x15)?;
    if leaf.eax == 0 || leaf.ebx == 0 || leaf.ecx == 0 {
        return None;
    }
    let hertz = u64::from(leaf.ecx) * u64::from(leaf.ebx) / u64::from(leaf.eax);
    (hertz > 100_000_000).then_some((hertz, "cpuid"))
}

/// What the host writes its clock of this guest to.
static TIME: TimePage = TimePage::new();
static WALL: WallPage = WallPage::new();

/// What the host says about the counter, where it does.
fn shared() -> Option<kvm::Reading> {
    TIME.read()
}

/// The date by the host's clock of this guest, which has to be asked each time.
fn host_date() -> Option<u64> {
    cpu::share_clock(&TIME, &WALL)
        .then(|| Some(WALL.read()? + shared()?.nanoseconds(cpu::tsc())))
        .flatten()
}

/// Follows the counter to a machine on which it runs at another pace.
pub(crate) fn follow_pace() {
    static KNOWN: AtomicU64 = AtomicU64::new(0);
    if let Some(hertz) = shared().map(|reading| reading.hertz()) {
        let before = KNOWN.swap(hertz, Ordering::Relaxed);
        if before != 0 && before != hertz {
            clock::change_frequency(hertz);
        }
    }
}

/// The date from the real-time clock or the host, in nanoseconds since 1970.
pub(crate) fn read_date() -> Option<u64> {
    let clock = read_rtc().map(|seconds| seconds * 1_000_000_000);
    clock.or_else(host_date)
}

/// The real-time clock.
fn read_rtc() -> Option<u64> {
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
    last.unix_seconds()
}
