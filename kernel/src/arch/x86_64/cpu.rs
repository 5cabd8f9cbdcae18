//! CPUID, time stamp counter, random number instructions, model-specific registers.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count, _rdtsc};

use crate::clock::kvm::{TimePage, WallPage};
use crate::sync::Once;

/// Reads the time stamp counter. Not ordered against other instructions: good enough for a clock.
#[inline]
pub fn tsc() -> u64 {
    // SAFETY: every x86-64 has a time stamp counter, and ring 0 may read it.
    unsafe { _rdtsc() }
}

/// What CPUID says in one leaf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaf {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// One CPUID leaf, or `None` if the processor does not have it.
#[allow(unused_unsafe, reason = "CPUID became safe to call after Rust 1.95")]
pub fn cpuid(leaf: u32) -> Option<Leaf> {
    let base = leaf & 0xffff_0000;
    // SAFETY: every x86-64 has CPUID.
    let highest = unsafe { __cpuid(base) }.eax;
    let there = match base {
        HYPERVISOR => has_hypervisor() && highest >= leaf,
        _ => highest >= leaf,
    };
    there.then(|| {
        // SAFETY: as above.
        let result = unsafe { __cpuid_count(leaf, 0) };
        Leaf {
            eax: result.eax,
            ebx: result.ebx,
            ecx: result.ecx,
            edx: result.edx,
        }
    })
}

const HYPERVISOR: u32 = 0x4000_0000;

#[allow(unused_unsafe, reason = "CPUID became safe to call after Rust 1.95")]
fn has_hypervisor() -> bool {
    // SAFETY: every x86-64 has CPUID leaf 1.
    unsafe { __cpuid(1) }.ecx & (1 << 31) != 0
}

/// Who runs this virtual machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hypervisor {
    /// Nobody, or nobody who says so.
    None,
    /// QEMU's own emulation. Its local APIC counts nanoseconds.
    Tcg,
    /// KVM. Its local APIC counts nanoseconds too.
    Kvm,
    /// VMware.
    Vmware,
    /// Somebody else.
    Other,
}

/// Who runs this virtual machine, by CPUID leaf 0x4000_0000.
#[allow(unused_unsafe, reason = "CPUID became safe to call after Rust 1.95")]
pub fn hypervisor() -> Hypervisor {
    if !has_hypervisor() {
        return Hypervisor::None;
    }
    // SAFETY: the leaf exists where the hypervisor bit is set.
    let leaf = unsafe { __cpuid(HYPERVISOR) };
    let mut signature = [0; 12];
    for (bytes, word) in signature.chunks_mut(4).zip([leaf.ebx, leaf.ecx, leaf.edx]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    match &signature {
        b"TCGTCGTCGTCG" => Hypervisor::Tcg,
        b"KVMKVMKVM\0\0\0" => Hypervisor::Kvm,
        b"VMwareVMware" => Hypervisor::Vmware,
        _ => Hypervisor::Other,
    }
}

/// A random number from the processor's conditioned generator, or `None` if it has none or it is
/// dry after a few tries.
pub fn rdrand() -> Option<u64> {
    let has = cpuid(1).is_some_and(|leaf| leaf.ecx & (1 << 30) != 0);
    has.then(|| {
        retry(|| {
            let (value, ok): (u64, u8);
            // SAFETY: the processor says it has RDRAND.
            unsafe {
                asm!("rdrand {}", "setc {}", out(reg) value, out(reg_byte) ok,
                    options(nomem, nostack));
            }
            (ok != 0).then_some(value)
        })
    })
    .flatten()
}

/// A random number from the processor's entropy source itself; see [`rdrand`].
pub fn rdseed() -> Option<u64> {
    let has = cpuid(7).is_some_and(|leaf| leaf.ebx & (1 << 18) != 0);
    has.then(|| {
        retry(|| {
            let (value, ok): (u64, u8);
            // SAFETY: the processor says it has RDSEED.
            unsafe {
                asm!("rdseed {}", "setc {}", out(reg) value, out(reg_byte) ok,
                    options(nomem, nostack));
            }
            (ok != 0).then_some(value)
        })
    })
    .flatten()
}

fn retry(mut draw: impl FnMut() -> Option<u64>) -> Option<u64> {
    // Intel's guide asks for ten tries; broken parts return all ones for ever.
    (0..10)
        .find_map(|_| draw())
        .filter(|&value| value != u64::MAX && value != 0)
}

/// Reads a model-specific register.
///
/// # Safety
///
/// The register must exist.
pub unsafe fn read_msr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller vouches for the register.
    unsafe {
        asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high,
            options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register.
///
/// # Safety
///
/// The register must exist, and the value must not break what the kernel relies on.
pub unsafe fn write_msr(register: u32, value: u64) {
    // SAFETY: the caller vouches for register and value.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags));
    }
}

/// Whether the local APIC's timer can be set to a reading of the time stamp counter (Intel SDM volume
/// 3, section 11.5.4.1).
pub fn has_tsc_deadline() -> bool {
    // Asked for each deadline, and a hypervisor is left for each CPUID.
    static KNOWN: Once<bool> = Once::new();
    if let Some(known) = KNOWN.get() {
        return *known;
    }
    let there = cpuid(1).is_some_and(|leaf| leaf.ecx & (1 << 24) != 0);
    let _ = KNOWN.set(there);
    there
}

/// Has the local APIC's timer interrupt when the time stamp counter reads `counter`; 0: never.
/// Without effect unless the timer is in that mode.
pub fn set_tsc_deadline(counter: u64) {
    const TSC_DEADLINE: u32 = 0x6e0;
    if has_tsc_deadline() {
        // SAFETY: the register exists, and an interrupt of the timer is harmless. The fence keeps
        // the write of the mode, which is one to memory, before this.
        unsafe {
            asm!("mfence", options(nostack, preserves_flags));
            write_msr(TSC_DEADLINE, counter);
        }
    }
}

/// Has the host write to these pages what its clock of this guest is (KVM's CPUID 0x4000_0001, bit 3).
/// `false`: this host does not.
pub fn share_clock(time: &'static TimePage, wall: &'static WallPage) -> bool {
    const WALL_CLOCK: u32 = 0x4b56_4d00;
    const SYSTEM_TIME: u32 = 0x4b56_4d01;
    let there = cpuid(HYPERVISOR + 1).is_some_and(|leaf| leaf.eax & (1 << 3) != 0);
    if !there || hypervisor() != Hypervisor::Kvm {
        return false;
    }
    // SAFETY: the registers exist; addresses are physical ones, and the pages, which are nothing but
    // atomics, stay where they are for ever. Bit 0 switches the clock on.
    unsafe {
        write_msr(WALL_CLOCK, core::ptr::from_ref(wall) as u64);
        write_msr(SYSTEM_TIME, core::ptr::from_ref(time) as u64 | 1);
    }
    true
}

/// Makes pages that are write-through and not uncached write-combining instead (PAT, Intel SDM volume
/// 3, section 13.12). Nothing else is mapped that way.
pub fn allow_write_combining() {
    const PAT: u32 = 0x277;
    const SECOND: u64 = 0xff << 8;
    const WRITE_COMBINING: u64 = 0x01 << 8;
    // SAFETY: every x86-64 has the register, and no page is mapped by its second entry yet.
    unsafe { write_msr(PAT, read_msr(PAT) & !SECOND | WRITE_COMBINING) };
}

/// Stops taking interrupts.
#[cfg(godwit_image)]
#[inline]
pub fn disable_interrupts() {
    // SAFETY: nothing but latency depends on interrupts. Not `nomem`: what an interrupt handler
    // wrote must be read after this.
    unsafe { asm!("cli", options(nostack)) }
}

/// Takes interrupts from now on.
#[cfg(godwit_image)]
#[inline]
pub fn enable_interrupts() {
    // SAFETY: boot has loaded the interrupt descriptor table before anyone calls this.
    unsafe { asm!("sti", options(nostack)) }
}

/// Enables interrupts and sleeps until one comes. `sti` takes effect after the next instruction, so
/// an interrupt that arrived since [`disable_interrupts`] still ends the sleep.
#[cfg(godwit_image)]
#[inline]
pub fn enable_interrupts_and_halt() {
    // SAFETY: as for `enable_interrupts`.
    unsafe { asm!("sti", "hlt", options(nostack)) }
}

/// Stops for good.
#[cfg(godwit_image)]
pub fn stop() -> ! {
    loop {
        // SAFETY: nothing runs after this.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}

/// Resets the processor, which ends a virtual machine that cannot be switched off: through the
/// keyboard controller, and else by a fault that nobody can handle.
#[cfg(godwit_image)]
pub fn reset() -> ! {
    const PULSE_RESET: u8 = 0xfe;
    let nothing = [0u16; 5];
    super::port::KEYBOARD_COMMAND.write(PULSE_RESET);
    // SAFETY: with no interrupt descriptors at all, the exception cannot run any code.
    unsafe { asm!("lidt [{}]", "ud2", in(reg) &nothing, options(noreturn)) }
}

/// The frame pointer of the caller.
#[cfg(godwit_image)]
#[inline(always)]
pub fn frame_pointer() -> u64 {
    let frame;
    // SAFETY: reading a register has no effects.
    unsafe { asm!("mov {}, rbp", out(reg) frame, options(nomem, nostack, preserves_flags)) };
    frame
}

/// CR2: the address that faulted last.
#[cfg(godwit_image)]
pub fn fault_address() -> u64 {
    let address;
    // SAFETY: reading CR2 has no effects.
    unsafe { asm!("mov {}, cr2", out(reg) address, options(nomem, nostack, preserves_flags)) };
    address
}

/// CR4: ring 0 neither executes (SMEP) nor touches (SMAP) what ring 3 may reach. Nothing here is
/// mapped for ring 3, so an entry of a page table gone wrong faults instead of being used.
#[cfg(godwit_image)]
const SMEP: u64 = 1 << 20;
#[cfg(godwit_image)]
const SMAP: u64 = 1 << 21;
/// CR4: ring 3 cannot read where the descriptor tables are.
#[cfg(godwit_image)]
const UMIP: u64 = 1 << 11;
/// CR0: read-only pages are read-only for ring 0 too.
#[cfg(godwit_image)]
const WRITE_PROTECT: u64 = 1 << 16;
/// EFER: page tables may forbid execution.
#[cfg(godwit_image)]
const NO_EXECUTE: u64 = 1 << 11;

/// The protections of CR4 that this processor has.
#[cfg(godwit_image)]
fn protections() -> u64 {
    let leaf = cpuid(7).unwrap_or_default();
    let bit = |there: bool, bit: u64| if there { bit } else { 0 };
    bit(leaf.ebx & (1 << 7) != 0, SMEP)
        | bit(leaf.ebx & (1 << 20) != 0, SMAP)
        | bit(leaf.ecx & (1 << 2) != 0, UMIP)
}

/// Switches on the protections that the processor has. Before anything else: under emulation, code
/// that ran without them is translated again.
#[cfg(godwit_image)]
pub fn protect() {
    let wanted = protections();
    // SAFETY: only bits the processor has, and nothing is mapped for ring 3.
    unsafe {
        asm!("mov {old}, cr4", "or {old}, {wanted}", "mov cr4, {old}",
            old = out(reg) _, wanted = in(reg) wanted, options(nostack));
    }
}

/// Which protection the processor has and does not apply.
#[cfg(godwit_image)]
pub fn unprotected() -> Option<&'static str> {
    let (cr0, cr4): (u64, u64);
    // SAFETY: reading control registers has no effects.
    unsafe {
        asm!("mov {}, cr0", "mov {}, cr4", out(reg) cr0, out(reg) cr4,
            options(nomem, nostack, preserves_flags));
    }
    // SAFETY: every x86-64 has EFER.
    let efer = unsafe { read_msr(0xc000_0080) };
    let missing = protections() & !cr4;
    [
        (cr0 & WRITE_PROTECT == 0, "CR0.WP is off"),
        (efer & NO_EXECUTE == 0, "EFER.NXE is off"),
        (missing & SMEP != 0, "SMEP is off"),
        (missing & SMAP != 0, "SMAP is off"),
        (missing & UMIP != 0, "UMIP is off"),
    ]
    .into_iter()
    .find_map(|(off, name)| off.then_some(name))
}

/// The page tables in use: CR3.
#[cfg(godwit_image)]
pub fn page_table() -> u64 {
    let root: u64;
    // SAFETY: reading CR3 has no effects.
    unsafe { asm!("mov {}, cr3", out(reg) root, options(nomem, nostack, preserves_flags)) };
    root & 0x000f_ffff_ffff_f000
}

/// Switches to other page tables, which also empties the TLB.
///
/// # Safety
///
/// The tables must map all code and data in use where they are.
#[cfg(godwit_image)]
pub unsafe fn load_page_table(root: u64) {
    // SAFETY: the caller vouches for the tables.
    unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) };
}

/// Empties the TLB: the page tables stay those in use.
#[cfg(godwit_image)]
pub fn empty_tlb() {
    // SAFETY: what is mapped does not change.
    unsafe { load_page_table(page_table()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_beyond_the_last_are_absent() {
        assert!(cpuid(0).is_some());
        assert_eq!(cpuid(0xffff), None);
        assert_eq!(cpuid(0x8000_ffff), None);
    }

    #[test]
    fn a_generator_that_repeats_all_ones_is_not_trusted() {
        assert_eq!(retry(|| Some(u64::MAX)), None);
        assert_eq!(retry(|| None), None);
        assert_eq!(retry(|| Some(7)), Some(7));
    }
}
