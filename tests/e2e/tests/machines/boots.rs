//! Ways to boot, two at a time: a download moves to and fro between machines that came up differently, so
//! that each of them sends its part.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use godwit_qemu::build::{self, Service};
use godwit_qemu::media::{self, Configuration, Disk, NETBOOT_BIOS, NETBOOT_UEFI};
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

/// An ISO, disks and a folder for the network, all with the HTTP image.
struct Media {
    iso: PathBuf,
    raw: PathBuf,
    qcow2: PathBuf,
    netboot: PathBuf,
    _scratch: Scratch,
}

impl Media {
    fn make() -> Result<Self> {
        setup::ensure_media()?;
        setup::ensure_uefi()?;
        let scratch = Scratch::new("boots")?;
        let image = build::image(Service::Http)?;
        let made = Self {
            iso: scratch.path("http.iso"),
            raw: scratch.path("http.img"),
            qcow2: scratch.path("http.qcow2"),
            netboot: scratch.path("http.netboot"),
            _scratch: scratch,
        };
        media::iso(&image, &NOTHING, &made.iso)?;
        media::disk(&image, &NOTHING, Disk::Raw, &made.raw)?;
        media::disk(&image, &NOTHING, Disk::Qcow2, &made.qcow2)?;
        media::netboot(&image, &NOTHING, &made.netboot)?;
        Ok(made)
    }

    fn cd(&self) -> Medium {
        Medium::Cd(self.iso.clone())
    }

    fn stick(&self) -> Medium {
        Medium::Usb(self.iso.clone())
    }
}

/// What GRUB loads, and images that QEMU loads.
pub fn loaded_or_not() -> Result<()> {
    let media = Media::make()?;
    let raw = Medium::Disk(media.raw.clone(), "raw");
    between([
        by(Machine::Q35, Firmware::Uefi, media.cd()),
        loaded(Machine::Microvm),
    ])?;
    between([
        loaded(Machine::MicrovmLegacy),
        by(Machine::Pc, Firmware::Bios, raw),
    ])
}

/// CDs, sticks and disks, with GRUB under either firmware.
pub fn media() -> Result<()> {
    let media = Media::make()?;
    let iso = Medium::Disk(media.iso.clone(), "raw");
    let qcow2 = Medium::Disk(media.qcow2.clone(), "qcow2");
    between([
        by(Machine::Q35, Firmware::Bios, media.cd()),
        by(Machine::Pc, Firmware::Uefi, media.stick()),
    ])?;
    between([
        by(Machine::Pc, Firmware::Bios, media.stick()),
        by(Machine::Q35, Firmware::Uefi, iso),
    ])?;
    between([
        by(Machine::Q35, Firmware::Bios, qcow2),
        loaded(Machine::MicrovmPci),
    ])
}

/// From a TFTP server, through a card of its own.
pub fn network() -> Result<()> {
    let media = Media::make()?;
    let served = |file| Medium::Network(media.netboot.clone(), file);
    between([
        by(Machine::Q35, Firmware::Bios, served(NETBOOT_BIOS)),
        by(Machine::Pc, Firmware::Uefi, served(NETBOOT_UEFI)),
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
