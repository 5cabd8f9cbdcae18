//! Bootable images: kernel + netstack + one service.
//!
//! [`serve`] is all an image does: it joins the kernel's [`Machine`] to the SDK's drive loop
//! through [`KernelPlatform`]. The binaries name a service each.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod platform;

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use godwit::Service;
use godwit_kernel::exit::{ExitCode, exit};
use godwit_kernel::{Machine, boot};
use zeroize::Zeroize;

pub use platform::KernelPlatform;

/// Serves until it is over, then ends the machine with the verdict's code.
pub fn serve(mut machine: Machine, service: impl Service) -> ! {
    boot::chart::mark("service");
    let mut sources = vec![core::mem::take(&mut machine.command_line)];
    sources.append(&mut machine.config);
    let mut platform = match KernelPlatform::new(machine) {
        Ok(platform) => platform,
        Err(machine) => {
            machine.describe();
            exit(ExitCode::NoNic, machine.no_card());
        }
    };
    let texts: Vec<&str> = sources.iter().map(String::as_str).collect();
    let config = godwit::configure(&texts);
    sources.zeroize(); // where the keys are
    let verdict = match config {
        Ok(config) => godwit::run_configured(&mut platform, config, service),
        Err(verdict) => verdict,
    };
    platform.describe(); // if it has not come so far that this was done
    let code = ExitCode::from_number(verdict.code.number()).unwrap_or(ExitCode::Panic);
    exit(code, verdict.reason)
}
