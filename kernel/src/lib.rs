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
//! - [`watchdog`], [`activity`]: a loop that hangs is noticed, and what it served named
//! - [`profile`]: where the time goes, by samples
//! - `alarm`, [`hpet`]: waking up in time; [`past`]: machines that were stopped or restored
//! - [`clock`], [`entropy`], [`console`], [`exit`], [`symbols`]: services for everybody
//!
//! `unsafe` lives in `boot`, `arch`, `mm`, [`dma`], [`mmio`] and [`sync`] only. One core, interrupts
//! that do nothing but leave a note: there is no locking to get wrong.
//!
//! Everything that needs the bare machine is behind `cfg(godwit_image)`; the rest, drivers and
//! parsers included, compiles and is tested on the host.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

extern crate alloc;

pub mod acpi;
pub mod activity;
#[cfg(godwit_image)]
mod alarm;
#[allow(unsafe_code, reason = "talks to the processor")]
pub mod arch;
#[allow(unsafe_code, reason = "reads what the boot loader left in memory")]
pub mod boot;
pub mod clock;
pub mod console;
#[allow(unsafe_code, reason = "lends memory to devices")]
pub mod dma;
pub mod drivers;
pub mod entropy;
pub mod exit;
pub mod fw_cfg;
pub mod hpet;
pub mod lookout;
mod machine;
#[allow(unsafe_code, reason = "manages memory")]
pub mod mm;
#[allow(unsafe_code, reason = "turns addresses of registers into windows")]
pub mod mmio;
#[cfg(godwit_image)]
pub mod panic;
pub mod past;
pub mod pci;
pub mod probe;
pub mod profile;
pub mod symbols;
#[allow(unsafe_code, reason = "shares by lock and by once-written cell")]
pub mod sync;
pub mod watchdog;

pub use bytes;
pub use log;
pub use machine::Machine;
