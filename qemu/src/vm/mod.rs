//! Virtual machines: what they consist of ([`VmSpec`]), which accelerator runs them
//! ([`Accelerator`]), and the running ones ([`Vm`]).

mod accel;
mod console;
mod picture;
mod process;
mod qmp;
mod spec;

pub use accel::Accelerator;
pub use console::{BootStage, Console, Line, Ready, Verdict};
pub use picture::Picture;
pub use process::{Outcome, Vm};
pub use spec::{
    DEFAULT_MEMORY, Firmware, Forward, LEAST_MEMORY, Machine, Medium, Netdev, Nic, NicModel,
    VmSpec, parse_memory,
};

/// The program that runs VMs.
pub const QEMU: &str = "qemu-system-x86_64";
