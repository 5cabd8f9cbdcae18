//! The second of two releases of a file service, for `cargo demo upgrade`.
#![cfg_attr(godwit_image, no_std, no_main)]

use godwit_kernel::Machine;
use godwit_releases::Second;

godwit_kernel::entry!(serve);

fn serve(machine: Machine) -> ! {
    godwit_image::serve(machine, Second::default())
}
