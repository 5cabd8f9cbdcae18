//! The first instructions: from the entry points of PVH (Xen `docs/misc/pvh`) and Multiboot2
//! (specification 2.0, section 3.3) to long mode and Rust. Both are entered with 32 bits, flat
//! segments and paging off; nothing else of what the loader left is relied on.

use core::arch::global_asm;

use crate::mm::Guarded;

const BOOT_STACK: usize = 256 << 10;

/// The stack the service runs on.
pub static STACK: Guarded<BOOT_STACK> = Guarded::new();

global_asm!(
    // The note by which QEMU, Firecracker and others find the entry point.
    ".pushsection .note.pvh, \"a\", @note",
    ".balign 4",
    ".long 4, 8, 18", // name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY
    ".asciz \"Xen\"",
    ".quad godwit_start",
    ".popsection",
    // The header by which GRUB finds out what it loads (section 3.1): in the first 32 KiB of the file.
    ".pushsection .multiboot2, \"a\", @progbits",
    ".balign 8",
    "godwit_header:",
    ".set godwit_header_length, godwit_header_end - godwit_header",
    ".long 0xe85250d6, 0, godwit_header_length",
    ".long 0x17adaf2a - godwit_header_length", // all four add up to zero
    ".short 3, 0",                             // entry point
    ".long 12, godwit_multiboot2, 0",          // and padding
    ".short 5, 1",                             // a framebuffer will do, of any size
    ".long 20, 0, 0, 0, 0",                    // and padding
    ".short 6, 0",                             // modules at page boundaries
    ".long 8",
    ".short 0, 0",
    ".long 8",
    "godwit_header_end:",
    ".popsection",
    // Page tables good enough to get into Rust: the first 4 GiB, 2 MiB pages, no protection.
    ".pushsection .bss.boot_tables, \"aw\", @nobits",
    ".balign 4096",
    ".globl godwit_boot_level4",
    "godwit_boot_level4:",
    "boot_level4: .skip 4096",
    "boot_level3: .skip 4096",
    "boot_level2: .skip 4 * 4096",
    ".popsection",
    ".pushsection .rodata.boot_gdt, \"a\", @progbits",
    ".balign 8",
    "boot_gdt: .quad 0",
    ".quad 0x00af9a000000ffff", // 0x08: 64-bit code
    ".quad 0x00cf92000000ffff", // 0x10: data
    "boot_gdt_pointer: .word 23",
    ".long boot_gdt",
    ".popsection",
    ".pushsection .text.boot, \"ax\", @progbits",
    ".code32",
    "godwit_multiboot2:",
    "movl %eax, %ebp", // the loader's number
    "jmp 1f",
    ".globl godwit_start",
    "godwit_start:",
    "xorl %ebp, %ebp", // PVH has none
    "1: cli",
    "cld",
    "rdtsc",
    "movl %eax, %esi", // the time of entry, in edi:esi
    "movl %edx, %edi",
    "movl $boot_level3 + 3, boot_level4",
    "movl $boot_level2 + 3, %eax",
    "movl $boot_level3, %ecx",
    "2: movl %eax, (%ecx)",
    "addl $4096, %eax",
    "addl $8, %ecx",
    "cmpl $boot_level3 + 32, %ecx",
    "jb 2b",
    "movl $0x83, %eax", // present, writable, large
    "movl $boot_level2, %ecx",
    "3: movl %eax, (%ecx)",
    "addl $0x200000, %eax",
    "addl $8, %ecx",
    "cmpl $boot_level2 + 4 * 4096, %ecx",
    "jb 3b",
    "movl $boot_level4, %eax",
    "movl %eax, %cr3",
    "movl $0x620, %eax", // CR4: PAE, OSFXSR, OSXMMEXCPT
    "movl %eax, %cr4",
    "movl $0xc0000080, %ecx", // EFER: LME, NXE
    "rdmsr",
    "orl $0x900, %eax",
    "wrmsr",
    "movl $0x80010033, %eax", // CR0: PG, WP, NE, ET, MP, PE
    "movl %eax, %cr0",
    "lgdt boot_gdt_pointer",
    "ljmp $0x08, $4f",
    ".code64",
    "4: movl $0x10, %eax",
    "movl %eax, %ds",
    "movl %eax, %es",
    "movl %eax, %ss",
    "xorl %eax, %eax",
    "movl %eax, %fs",
    "movl %eax, %gs",
    "movl ${stack} + {guard} + {size}, %esp",
    "movl %ebp, %edx", // third argument: who loaded us
    "xorl %ebp, %ebp", // the end of every backtrace
    "shlq $32, %rdi",
    "movl %esi, %esi",
    "orq %rdi, %rsi", // second argument: TSC at entry
    "movl %ebx, %edi", // first: what the loader left
    "call {main}",
    "5: hlt",
    "jmp 5b",
    ".popsection",
    stack = sym STACK,
    guard = const crate::mm::PAGE,
    size = const BOOT_STACK,
    main = sym crate::boot::from_assembly,
    options(att_syntax)
);

unsafe extern "C" {
    #[link_name = "godwit_boot_level4"]
    static mut BOOT_LEVEL4: [u64; 512];
}

/// Empties the root of the boot page tables, which allow everything: nothing leads there any more.
///
/// # Safety
///
/// Other tables must be loaded.
pub unsafe fn retire_boot_tables() {
    // SAFETY: nobody else refers to the table, the processor included.
    unsafe { (&raw mut BOOT_LEVEL4).write([0; 512]) };
}

/// Whether the boot page tables map nothing.
pub fn boot_tables_retired() -> bool {
    // SAFETY: written by nobody after boot.
    unsafe { (&raw const BOOT_LEVEL4).read() == [0; 512] }
}

/// Precompiled `core` refers to it; nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// As above.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    super::cpu::stop()
}
