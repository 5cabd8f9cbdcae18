//! x86-64: ports, model-specific registers, descriptor tables, interrupts, APICs.

pub mod apic;
pub mod cpu;
#[cfg(godwit_image)]
pub(crate) mod entry;
#[cfg(godwit_image)]
pub mod interrupts;
#[cfg(any(godwit_image, test))]
mod memory_functions;
#[cfg(godwit_image)]
pub(crate) mod offence;
pub mod port;
pub mod serial;
#[cfg(godwit_image)]
pub mod tables;
