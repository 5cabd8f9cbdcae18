//! Segment, task and interrupt descriptor tables (Intel SDM volume 3, chapters 3, 6, 8).
//!
//! Every gate switches to a stack of its own (IST): code compiled for Linux keeps data below the
//! stack pointer (the red zone), where the processor would push the interrupt frame.

use core::arch::asm;
use core::cell::UnsafeCell;

use super::interrupts;
use crate::mm::Guarded;

const CODE: u16 = 0x08;
const TASK: u16 = 0x18;

const STACK: usize = 16 << 10;

/// Stacks by purpose, in IST order from 1 on.
pub(crate) const STACK_COUNT: usize = 5;
static STACKS: [Guarded<STACK>; STACK_COUNT] = [const { Guarded::new() }; STACK_COUNT];

/// NMI and machine check.
const IST_URGENT: u8 = 1;
const IST_DOUBLE_FAULT: u8 = 2;
const IST_PAGE_FAULT: u8 = 3;
const IST_EXCEPTION: u8 = 4;
const IST_INTERRUPT: u8 = 5;

#[repr(C, packed(4))]
struct TaskState {
    reserved: u32,
    stacks: [u64; 3],
    reserved2: u64,
    interrupt_stacks: [u64; 7],
    reserved3: u64,
    reserved4: u16,
    io_map: u16,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Gate {
    offset_low: u16,
    selector: u16,
    stack: u8,
    kind: u8,
    offset_middle: u16,
    offset_high: u32,
    reserved: u32,
}

const GATES: usize = 64;

#[repr(C, align(16))]
struct Tables {
    task: TaskState,
    segments: [u64; 5],
    gates: [Gate; GATES],
}

struct Shared(UnsafeCell<Tables>);

// SAFETY: written once by `load`, before interrupts are on, and only read by the processor after.
unsafe impl Sync for Shared {}

static TABLES: Shared = Shared(UnsafeCell::new(Tables {
    task: TaskState {
        reserved: 0,
        stacks: [0; 3],
        reserved2: 0,
        interrupt_stacks: [0; 7],
        reserved3: 0,
        reserved4: 0,
        io_map: size_of::<TaskState>() as u16,
    },
    segments: [0, 0x00af_9a00_0000_ffff, 0x00cf_9200_0000_ffff, 0, 0],
    gates: [Gate {
        offset_low: 0,
        selector: 0,
        stack: 0,
        kind: 0,
        offset_middle: 0,
        offset_high: 0,
        reserved: 0,
    }; GATES],
}));

#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// Fills and loads the tables. Called once, early in boot, with interrupts off.
pub fn load() {
    // SAFETY: called once, before anything else could refer to the tables.
    let tables = unsafe { &mut *TABLES.0.get() };
    let mut stacks = [0; 7];
    for (slot, stack) in stacks.iter_mut().zip(&STACKS) {
        *slot = stack.top();
    }
    tables.task.interrupt_stacks = stacks;

    let task = &raw const tables.task as u64;
    let limit = size_of::<TaskState>() as u64 - 1;
    tables.segments[3] = limit
        | (task & 0x00ff_ffff) << 16
        | 0x89 << 40 // present, available 64-bit TSS
        | (task >> 24 & 0xff) << 56;
    tables.segments[4] = task >> 32;

    for (vector, gate) in tables.gates.iter_mut().enumerate() {
        let handler = interrupts::stub(vector);
        *gate = Gate {
            offset_low: handler as u16,
            selector: CODE,
            stack: match vector {
                2 | 18 => IST_URGENT,
                8 => IST_DOUBLE_FAULT,
                14 => IST_PAGE_FAULT,
                0..32 => IST_EXCEPTION,
                _ => IST_INTERRUPT,
            },
            kind: 0x8e, // present, interrupt gate
            offset_middle: (handler >> 16) as u16,
            offset_high: (handler >> 32) as u32,
            reserved: 0,
        };
    }

    let segments = Pointer {
        limit: size_of_val(&tables.segments) as u16 - 1,
        base: tables.segments.as_ptr() as u64,
    };
    let gates = Pointer {
        limit: size_of_val(&tables.gates) as u16 - 1,
        base: tables.gates.as_ptr() as u64,
    };
    // SAFETY: the new segment table has code and data where the boot one had them, so the loaded
    // selectors stay right; the gates lead to valid stubs on valid stacks.
    unsafe {
        asm!("lgdt [{}]", "ltr {:x}", "lidt [{}]",
            in(reg) &raw const segments, in(reg) TASK, in(reg) &raw const gates,
            options(readonly, nostack, preserves_flags));
    }
}

/// What each stack is for, in reports.
const PURPOSES: [&str; STACK_COUNT] = [
    "urgent",
    "double-fault",
    "page-fault",
    "exception",
    "interrupt",
];

/// The interrupt stacks: purpose, guard page, top.
pub fn stacks() -> impl Iterator<Item = (&'static str, u64, u64)> {
    PURPOSES
        .into_iter()
        .zip(&STACKS)
        .map(|(purpose, stack)| (purpose, stack.guard(), stack.top()))
}
