//! Ways to boot, two at a time: a download moves to and fro between machines that came up differently, so
//! that each of them sends its part.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use godwit_qemu::build::{self, Service};
use godwit_qemu::media::{self, Configuration, Disk};
use godwit_qemu::scratch::Scratch;
use godwit_qemu::setup;
use godwit_qemu::vm::{Firmware, Machine, Medium, NicModel};

use crate::offload::{Kind, move_service};

const MIB: u64 = 1 << 20;
/// Octets of a frame at most where nothing is cut or joined.
const SMALL: u64 = 1_514;
/// What it takes is in fw_cfg, which GRUB leaves alone.
const NOTHING: Configuration = Configuration {
    words: Vec::new(),
    module: None,
    menu: 0,
};

/// UEFI from a CD, and an image that QEMU loads.
pub fn uefi() -> Result<()> {
    setup::ensure_media()?;
    setup::ensure_uefi()?;
    let scratch = Scratch::new("boots")?;
    let iso = scratch.path("http.iso");
    media::iso(&build::image(Service::Http)?, &NOTHING, &iso)?;
    between([
        by(Machine::Q35, Firmware::Uefi, Medium::Cd(iso)),
        loaded(Machine::Microvm),
    ])
}

/// A BIOS from a disk, and the minimal machine of before virtio 1.0.
pub fn bios() -> Result<()> {
    setup::ensure_media()?;
    let scratch = Scratch::new("boots")?;
    let raw = scratch.path("http.img");
    media::disk(&build::image(Service::Http)?, &NOTHING, Disk::Raw, &raw)?;
    between([
        loaded(Machine::MicrovmLegacy),
        by(Machine::Pc, Firmware::Bios, Medium::Disk(raw, "raw")),
    ])
}

/// A machine without ACPI, PIT, PIC and RTC, and one that has it all.
pub fn bare() -> Result<()> {
    between([loaded(Machine::MicrovmBare), loaded(Machine::Q35)])
}

fn by(machine: Machine, firmware: Firmware, medium: Medium) -> Kind {
    Kind {
        boot: Some((firmware, medium)),
        ..loaded(machine)
    }
}

fn loaded(machine: Machine) -> Kind {
    (machine, NicModel::Virtio).into()
}

fn between(pair: [Kind; 2]) -> Result<()> {
    let begun = Instant::now();
    let named = format!("{pair:?}");
    let frames = move_service(Service::Http, pair, false, 384 * MIB, 2).context(named.clone())?;
    let small = |&octets: &u64| octets <= SMALL || octets == u64::MAX;
    ensure!(
        frames.iter().all(small),
        "{named}: {frames:?} octets a frame"
    );
    println!("    {:.1} s", begun.elapsed().as_secs_f32());
    Ok(())
}
