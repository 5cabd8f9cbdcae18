//! The local APIC (xAPIC, in memory) and I/O APICs (Intel SDM volume 3, chapter 11; 82093AA).

use crate::mmio::Mmio;

/// Vector of the timer interrupt.
pub const TIMER_VECTOR: u8 = 0x20;
/// Vector of the power button (SCI or generic event device).
pub const POWER_VECTOR: u8 = 0x21;
/// First vector for devices.
pub const DEVICE_VECTORS: u8 = 0x22;
/// How many vectors there are for devices.
pub const DEVICE_VECTOR_COUNT: u8 = 14;
/// Where interrupts go that were withdrawn before they were delivered.
pub const SPURIOUS_VECTOR: u8 = 0x3f;

mod register {
    pub const ID: usize = 0x20;
    pub const TASK_PRIORITY: usize = 0x80;
    pub const END_OF_INTERRUPT: usize = 0xb0;
    pub const SPURIOUS: usize = 0xf0;
    pub const REQUESTED: usize = 0x200;
    pub const LVT_TIMER: usize = 0x320;
    pub const LVT_LINT0: usize = 0x350;
    pub const LVT_LINT1: usize = 0x360;
    pub const LVT_ERROR: usize = 0x370;
    pub const INITIAL_COUNT: usize = 0x380;
    pub const CURRENT_COUNT: usize = 0x390;
    pub const DIVIDE: usize = 0x3e0;
}

const MASKED: u32 = 1 << 16;
const NMI: u32 = 0b100 << 8;
const TSC_DEADLINE_MODE: u32 = 0b10 << 17;
const DIVIDE_BY_1: u32 = 0b1011;
const ENABLE: u32 = 1 << 8;

/// The default physical address of the local APIC.
pub const LOCAL_APIC: u64 = 0xfee0_0000;

/// The local APIC of the one processor we run on.
#[derive(Clone, Copy, Debug)]
pub struct LocalApic(Mmio);

impl LocalApic {
    /// Takes over the APIC behind `registers`: enabled, timer free-running and masked, so that its
    /// count can serve for calibration.
    pub fn new(registers: Mmio) -> Self {
        registers.write32(register::SPURIOUS, ENABLE | u32::from(SPURIOUS_VECTOR));
        registers.write32(register::TASK_PRIORITY, 0);
        registers.write32(register::LVT_LINT0, MASKED);
        registers.write32(register::LVT_LINT1, NMI);
        registers.write32(register::LVT_ERROR, MASKED);
        registers.write32(register::LVT_TIMER, MASKED | u32::from(TIMER_VECTOR));
        registers.write32(register::DIVIDE, DIVIDE_BY_1);
        registers.write32(register::INITIAL_COUNT, u32::MAX);
        Self(registers)
    }

    /// Our APIC id, where device interrupts are sent.
    pub fn id(&self) -> u8 {
        (self.0.read32(register::ID) >> 24) as u8
    }

    /// What is left of the timer's count.
    pub fn count(&self) -> u32 {
        self.0.read32(register::CURRENT_COUNT)
    }

    /// Raises the timer interrupt once, after `count` ticks of the APIC's clock.
    pub fn arm(&self, count: u32) {
        self.0.write32(register::LVT_TIMER, u32::from(TIMER_VECTOR));
        self.0.write32(register::INITIAL_COUNT, count);
    }

    /// From now on the timer interrupts by the time stamp counter, see
    /// [`super::cpu::set_tsc_deadline`].
    pub fn follow_counter(&self) {
        self.0.write32(register::INITIAL_COUNT, 0);
        let mode = TSC_DEADLINE_MODE | u32::from(TIMER_VECTOR);
        self.0.write32(register::LVT_TIMER, mode);
    }

    /// Stops the timer.
    pub fn stop(&self) {
        let off = MASKED | u32::from(TIMER_VECTOR);
        self.0.write32(register::LVT_TIMER, off);
    }

    /// Whether an interrupt with this vector waits to be taken.
    pub fn requested(&self, vector: u8) -> bool {
        let at = register::REQUESTED + usize::from(vector / 32) * 0x10;
        self.0.read32(at) >> (vector % 32) & 1 != 0
    }

    /// Says that the current interrupt has been handled.
    pub fn end_of_interrupt(&self) {
        self.0.write32(register::END_OF_INTERRUPT, 0);
    }
}

/// What an interrupt line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// Asserted while low.
    pub active_low: bool,
    /// Level-triggered.
    pub level: bool,
}

/// An I/O APIC.
#[derive(Clone, Copy, Debug)]
pub struct IoApic {
    registers: Mmio,
    /// The first global system interrupt it serves.
    pub base: u32,
    /// How many it serves.
    pub inputs: u32,
}

impl IoApic {
    const SELECT: usize = 0x00;
    const WINDOW: usize = 0x10;
    const VERSION: u32 = 1;
    const REDIRECTION: u32 = 0x10;

    /// The I/O APIC behind `registers`.
    pub fn new(registers: Mmio, base: u32) -> Self {
        let mut apic = Self {
            registers,
            base,
            inputs: 0,
        };
        // Firmware leaves inputs masked except for the few it used; one read tells how many exist.
        apic.inputs = ((apic.read(Self::VERSION) >> 16) & 0xff) + 1;
        apic
    }

    fn entry(&self, gsi: u32) -> Option<u32> {
        let input = gsi.checked_sub(self.base).filter(|&i| i < self.inputs)?;
        Some(Self::REDIRECTION + input * 2)
    }

    /// The vector that input `gsi - base` has been sent to.
    pub fn routed(&self, gsi: u32) -> Option<u8> {
        let low = self.read(self.entry(gsi)?);
        (low & MASKED == 0).then_some(low as u8)
    }

    /// Stops input `gsi - base`, which stays as it is in all else.
    pub fn mask(&self, gsi: u32) {
        if let Some(at) = self.entry(gsi) {
            let low = self.read(at);
            self.write(at, low | MASKED);
        }
    }

    /// Sends input `gsi - base` to `vector` on the processor with APIC id `destination`.
    pub fn route(&self, gsi: u32, vector: u8, trigger: Trigger, destination: u8) -> bool {
        let Some(at) = self.entry(gsi) else {
            return false;
        };
        let low = u32::from(vector)
            | u32::from(trigger.active_low) << 13
            | u32::from(trigger.level) << 15;
        self.write(at, low | MASKED);
        self.write(at + 1, u32::from(destination) << 24);
        self.write(at, low);
        true
    }

    fn read(&self, index: u32) -> u32 {
        self.registers.write32(Self::SELECT, index);
        self.registers.read32(Self::WINDOW)
    }

    fn write(&self, index: u32, value: u32) {
        self.registers.write32(Self::SELECT, index);
        self.registers.write32(Self::WINDOW, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_beyond_the_inputs_is_not_routed() {
        let apic = IoApic {
            registers: Mmio::fake(4),
            base: 24,
            inputs: 24,
        };
        let trigger = Trigger {
            active_low: false,
            level: true,
        };
        assert!(apic.route(24, 0x22, trigger, 0));
        assert!(apic.route(47, 0x22, trigger, 0));
        assert!(!apic.route(23, 0x22, trigger, 0));
        assert!(!apic.route(48, 0x22, trigger, 0));
    }
}
