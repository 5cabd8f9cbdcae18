//! The HTTP service as a bootable image. Built by `cargo godwit build`; on the host it is only
//! checked.
#![cfg_attr(godwit_image, no_std, no_main)]

use godwit_http::Files;
use godwit_kernel::Machine;

godwit_kernel::entry!(serve);

fn serve(machine: Machine) -> ! {
    godwit_image::serve(machine, Files::default())
}
