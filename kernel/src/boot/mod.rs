//! From the first instruction to a [`crate::Machine`].
//!
//! [`pvh`] and [`multiboot2`] read what the boot loader left into a [`handover`], [`chart`] keeps time,
//! [`timer`] finds out how fast the clocks are. The order of events is in `start`, which is what
//! there is to read here.

pub mod chart;
pub mod handover;
#[cfg(godwit_image)]
mod lines;
pub mod multiboot2;
pub mod pvh;
#[cfg(godwit_image)]
mod start;
#[cfg(godwit_image)]
pub(crate) mod timer;

#[cfg(godwit_image)]
pub(crate) use start::from_assembly;

/// Makes `$main: fn(Machine) -> !` what runs after boot. Use it once, at the top of an image.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[cfg(godwit_image)]
        #[unsafe(no_mangle)]
        extern "Rust" fn godwit_main(machine: $crate::Machine) -> ! {
            let main: fn($crate::Machine) -> ! = $main;
            main(machine)
        }
        #[cfg(not(godwit_image))]
        fn main() {
            // Keeps the service compiled and checked on the host, where it cannot run.
            let _main: fn($crate::Machine) -> ! = $main;
        }
    };
}
