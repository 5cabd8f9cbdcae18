//! The kernel: boots the machine and owns its hardware; knows nothing of TCP.
//!
//! An image calls [`entry!`] with its `main`; the kernel boots, takes stock of the machine and
//! hands `main` a [`Machine`]: clock, entropy, network cards, configuration, idle and power.
//!
//! - [`boot`]: from the first instruction to a [`Machine`]; the boot chart
//! - [`arch`]: what only x86-64 has: descriptor tables, interrupts, APICs, ports, CPUID
//! - [`mm`]: memory map, frames, page tables, heap
//! - [`acpi`], [`pci`]: what the machine says it is made of
//! - [`drivers`]: network cards and the random number generator
//! - [`clock`], [`entropy`], [`console`], [`exit`], [`symbols`]: services for everybody
//!
//! `unsafe` lives in `boot`, `arch`, `mm`, [`dma`], [`mmio`] and [`sync`] only. One core, interrupts
//! that do nothing but leave a note: there is no locking to get wrong.
//!
//! Everything that needs the bare machine is behind `cfg(godwit_image)`; the rest, drivers and
//! parsers included, compiles and is tested on the host.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod acpi;
pub mod arch;
pub mod boot;
pub mod clock;
pub mod console;
pub mod dma;
#[deny(unsafe_code)]
pub mod drivers;
pub mod entropy;
pub mod exit;
pub mod fw_cfg;
mod machine;
pub mod mm;
pub mod mmio;
#[cfg(godwit_image)]
mod panic;
#[deny(unsafe_code)]
pub mod pci;
pub mod probe;
pub mod symbols;
pub mod sync;

pub use bytes;
pub use log;
pub use machine::Machine;
