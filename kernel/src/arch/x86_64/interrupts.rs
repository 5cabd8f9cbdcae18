//! Interrupts and exceptions.
//!
//! Interrupt handlers only acknowledge and leave a note ([`take_wake`], [`crate::acpi::power`]'s
//! button); all work is done by the loop they wake. Exceptions end the image with a report.

use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use super::apic::{
    DEVICE_VECTOR_COUNT, DEVICE_VECTORS, IoApic, LocalApic, POWER_VECTOR, SPURIOUS_VECTOR,
    TIMER_VECTOR, Trigger,
};
use super::cpu;
use crate::exit::ExitCode;
use crate::mmio::{Mmio, Quiet};
use crate::symbols::Place;
use crate::sync::Once;

static LOCAL_APIC: Once<LocalApic> = Once::new();
static IO_APICS: Once<heapless::Vec<IoApic, 4>> = Once::new();
static WAKE: AtomicBool = AtomicBool::new(false);
static NEXT_DEVICE: AtomicU8 = AtomicU8::new(0);

/// The devices that interrupt through a line, each with the vector of that line: several may share
/// one.
static ON_LINES: [Once<(u8, Quiet)>; DEVICE_VECTOR_COUNT as usize] =
    [const { Once::new() }; DEVICE_VECTOR_COUNT as usize];

/// Registers as the stub saved them, then what the processor pushed.
#[repr(C)]
#[derive(Debug)]
pub struct Frame {
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    r11: u64,
    r10: u64,
    r9: u64,
    r8: u64,
    rdi: u64,
    rsi: u64,
    rbp: u64,
    rbx: u64,
    rdx: u64,
    rcx: u64,
    rax: u64,
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

global_asm!(
    ".pushsection .text.interrupts, \"ax\", @progbits",
    ".balign 16",
    "godwit_stubs:",
    ".set vector, 0",
    ".rept 64",
    ".balign 16",
    // Exceptions 8, 10-14, 17, 21, 29, 30 push an error code; the others get a zero.
    ".if !((vector < 32) && ((0x60227d00 >> vector) & 1))",
    "push 0",
    ".endif",
    ".byte 0x68", // push imm32
    ".long vector",
    "jmp godwit_interrupt_common",
    ".set vector, vector + 1",
    ".endr",
    "godwit_interrupt_common:",
    "push rax",
    "push rcx",
    "push rdx",
    "push rbx",
    "push rbp",
    "push rsi",
    "push rdi",
    "push r8",
    "push r9",
    "push r10",
    "push r11",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "cld",
    "mov rdi, rsp",
    "mov rbx, rsp",
    "xor ebp, ebp",
    "sub rsp, 512",
    "and rsp, -16",
    "fxsave64 [rsp]",
    "call {handler}",
    "fxrstor64 [rsp]",
    "mov rsp, rbx",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop r11",
    "pop r10",
    "pop r9",
    "pop r8",
    "pop rdi",
    "pop rsi",
    "pop rbp",
    "pop rbx",
    "pop rdx",
    "pop rcx",
    "pop rax",
    "add rsp, 16",
    "iretq",
    ".popsection",
    handler = sym handle,
);

unsafe extern "C" {
    #[link_name = "godwit_stubs"]
    static STUBS: [[u8; 16]; 64];
}

/// The address of the stub of a vector below 64.
pub(super) fn stub(vector: usize) -> u64 {
    // SAFETY: only the address is taken; the table is 64 entries of 16 bytes, and the index is
    // masked to it.
    unsafe { (&raw const STUBS).cast::<[u8; 16]>().add(vector & 63) as u64 }
}

/// Takes over the interrupt controllers the machine has.
pub fn init(local: Mmio, io: impl Iterator<Item = (Mmio, u32)>) {
    use super::port::{PIC1_MASK, PIC2_MASK};
    PIC1_MASK.write(0xff);
    PIC2_MASK.write(0xff);
    enable_in_memory();
    let _ = LOCAL_APIC.set(LocalApic::new(local));
    let mut apics = heapless::Vec::new();
    for (registers, base) in io {
        let _ = apics.push(IoApic::new(registers, base));
    }
    let _ = IO_APICS.set(apics);
}

/// Makes the local APIC answer in memory: some boot loaders leave it off or in x2APIC mode, from
/// which the way back leads through off (Intel SDM volume 3, section 11.12.5).
fn enable_in_memory() {
    const APIC_BASE: u32 = 0x1b;
    const ENABLE: u64 = 1 << 11;
    const X2APIC: u64 = 1 << 10;
    // SAFETY: the register exists wherever there is a local APIC, which x86-64 demands; interrupts
    // are off and nobody uses the APIC yet.
    unsafe {
        let base = cpu::read_msr(APIC_BASE);
        if base & X2APIC != 0 {
            cpu::write_msr(APIC_BASE, base & !(ENABLE | X2APIC));
        }
        if base & (ENABLE | X2APIC) != ENABLE {
            cpu::write_msr(APIC_BASE, base & !X2APIC | ENABLE);
        }
    }
}

/// The local APIC, once [`init`] has run.
pub fn local_apic() -> Option<&'static LocalApic> {
    LOCAL_APIC.get()
}

/// Routes the power button's interrupt.
pub fn route_power(gsi: u32, trigger: Trigger) -> bool {
    route(gsi, POWER_VECTOR, trigger)
}

/// Routes the interrupt line of a virtio-mmio device; the handler acknowledges it at the device.
pub fn route_virtio_mmio(gsi: u32, trigger: Trigger, registers: Mmio) -> bool {
    let vector = next_device();
    vector.is_some_and(|vector| {
        attach(vector, Quiet::VirtioMmio(registers)) && route(gsi, vector, trigger)
    })
}

/// Has the handler make a device let go when `vector` comes.
pub fn attach(vector: u8, quiet: Quiet) -> bool {
    let entry = ON_LINES.iter().find(|entry| entry.get().is_none());
    entry.is_some_and(|entry| entry.set((vector, quiet)).is_ok())
}

/// A vector for message-signalled interrupts, with the address and data to send it.
pub fn message_vector() -> Option<(u64, u32)> {
    let apic = LOCAL_APIC.get()?;
    let vector = next_device()?;
    // Intel SDM volume 3, section 11.11: fixed delivery, edge, to one APIC id.
    let address = 0xfee0_0000 | u64::from(apic.id()) << 12;
    Some((address, u32::from(vector)))
}

/// A vector that no device has.
pub fn next_device() -> Option<u8> {
    let index = NEXT_DEVICE.load(Ordering::Relaxed);
    (index < DEVICE_VECTOR_COUNT).then(|| {
        NEXT_DEVICE.store(index + 1, Ordering::Relaxed);
        DEVICE_VECTORS + index
    })
}

/// The vector that an interrupt line has been routed to.
pub fn routed(gsi: u32) -> Option<u8> {
    IO_APICS.get()?.iter().find_map(|apic| apic.routed(gsi))
}

/// Stops an interrupt line.
pub fn mask(gsi: u32) {
    for apic in IO_APICS.get().into_iter().flatten() {
        apic.mask(gsi);
    }
}

/// Routes an interrupt line.
pub fn route(gsi: u32, vector: u8, trigger: Trigger) -> bool {
    let Some((local, io)) = LOCAL_APIC.get().zip(IO_APICS.get()) else {
        return false;
    };
    io.iter()
        .any(|apic| apic.route(gsi, vector, trigger, local.id()))
}

/// Whether any interrupt came since the last call.
pub fn take_wake() -> bool {
    WAKE.swap(false, Ordering::AcqRel)
}

extern "C" fn handle(frame: &Frame) {
    let vector = frame.vector as u8;
    match vector {
        0..32 => exception(frame),
        TIMER_VECTOR => {
            crate::alarm::fired();
            crate::profile::tick(frame.rip, frame.rbp);
            crate::watchdog::tick(frame.rip, frame.rbp);
        }
        SPURIOUS_VECTOR => return,
        POWER_VECTOR => crate::acpi::power::handle_interrupt(),
        _ => {}
    }
    let all = ON_LINES.iter().map_while(Once::get);
    all.filter(|(of, _)| *of == vector)
        .for_each(|(_, quiet)| quiet.apply());
    WAKE.store(true, Ordering::Release);
    if let Some(apic) = LOCAL_APIC.get() {
        apic.end_of_interrupt();
    }
}

fn exception(frame: &Frame) -> ! {
    const NAMES: [&str; 22] = [
        "divide error",
        "debug",
        "non-maskable interrupt",
        "breakpoint",
        "overflow",
        "bound range exceeded",
        "invalid opcode",
        "device not available",
        "double fault",
        "coprocessor overrun",
        "invalid TSS",
        "segment not present",
        "stack fault",
        "general protection",
        "page fault",
        "reserved",
        "x87 floating point",
        "alignment check",
        "machine check",
        "SIMD floating point",
        "virtualization",
        "control protection",
    ];
    let name = NAMES.get(frame.vector as usize).unwrap_or(&"exception");
    let address = cpu::fault_address();
    let page_fault = frame.vector == 14;
    // A double fault has the address too, if it began as a page fault.
    let stack = (page_fault || frame.vector == 8)
        .then(|| crate::mm::guarded_stack(address))
        .flatten();
    let code = if stack.is_some() {
        ExitCode::StackOverflow
    } else {
        ExitCode::UnhandledException
    };
    struct Overflow(Option<&'static str>);
    impl core::fmt::Display for Overflow {
        fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
            match self.0 {
                Some(stack) => write!(f, "stack overflow ({stack} stack): "),
                None => Ok(()),
            }
        }
    }
    crate::panic::report(
        code,
        format_args!(
            "{}{name} at {}, error {:#x}, address {:#x}, stack {:#x}",
            Overflow(stack),
            Place(frame.rip),
            frame.error,
            if page_fault { address } else { 0 },
            frame.rsp,
        ),
        frame.rip,
        frame.rbp,
    )
}
