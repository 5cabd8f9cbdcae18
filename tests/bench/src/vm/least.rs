//! How little is enough: octets of the image, and the least memory with which it boots and serves.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use godwit_qemu::media::{self, Configuration};
use godwit_qemu::scratch::Scratch;
use godwit_qemu::vm::{Firmware, Medium, VmSpec};

use super::peer::Config;
use super::poll;
use super::yard::{Board, Side, Yard};
use crate::Effort;
use crate::row::{Better, Row, Samples};

/// Octets of the image at most.
const IMAGE: f64 = 1_048_576.0;
/// MiB at most: without firmware, under UEFI.
const PVH: f64 = 6.0;
const UEFI: f64 = 64.0;

/// Octets of the image; the peer's are those of its kernel and its files.
pub fn image(effort: &Effort) -> Result<Vec<Row>> {
    let yard = Yard::new(Config::of(effort))?;
    let mut samples = Samples::default();
    samples.push(fs::metadata(yard.image())?.len() as f64);
    let mut row = Row::alone("vm/image/bytes", "octets", Better::Lower, &samples);
    row.limit = Some(IMAGE);
    if let Some(peer) = yard.peer() {
        let theirs = peer.size()? as f64;
        row.peer = Some(peer.name().into());
        row.theirs = Some(theirs);
        row.ratio = Some(theirs / row.ours);
    }
    Ok(vec![row])
}

/// MiB of memory.
pub fn ram(effort: &Effort) -> Result<Vec<Row>> {
    let yard = Yard::new(None)?;
    let spec = yard.spec(Side::Ours, Board::Microvm, false)?;
    let patience = Duration::from_secs(10);
    let mut rows = vec![row(
        "microvm",
        PVH,
        least(&yard, &spec, 1, 64, 1, patience)?,
    )];
    if effort.short {
        return Ok(rows); // the firmware takes minutes
    }
    let scratch = Scratch::new("least")?;
    let iso = scratch.path("http.iso");
    let configuration = Configuration {
        words: spec.config.split_whitespace().map(String::from).collect(),
        module: None,
        menu: 0,
    };
    media::iso(yard.image(), &configuration, &iso)?;
    let mut spec = yard.spec(Side::Ours, Board::Q35, false)?;
    spec.boot = Some((Firmware::Uefi, Medium::Cd(iso)));
    let patience = Duration::from_secs(60);
    rows.push(row(
        "uefi",
        UEFI,
        least(&yard, &spec, 32, 128, 4, patience)?,
    ));
    Ok(rows)
}

fn row(name: &str, limit: f64, mib: u32) -> Row {
    let mut samples = Samples::default();
    samples.push(f64::from(mib));
    let name = format!("vm/ram/least/{name}");
    Row {
        limit: Some(limit),
        ..Row::alone(&name, "MiB", Better::Lower, &samples)
    }
}

/// The least number of MiB that is enough, a multiple of `step` above `few`; `many` has to be enough.
fn least(
    yard: &Yard,
    spec: &VmSpec,
    mut few: u32,
    mut many: u32,
    step: u32,
    patience: Duration,
) -> Result<u32> {
    ensure!(
        serves(yard, spec, many, patience).context("the machine does not start")?,
        "it does not even serve with {many} MiB"
    );
    while many - few > step {
        let middle = few + (many - few) / 2 / step * step;
        match serves(yard, spec, middle, patience)? {
            true => many = middle,
            false => few = middle,
        }
        eprintln!("  more than {few} MiB, {many} are enough");
    }
    Ok(many)
}

/// Whether it boots and serves with so much memory: a small file, and a large one whole.
fn serves(yard: &Yard, spec: &VmSpec, memory: u32, patience: Duration) -> Result<bool> {
    let mut spec = spec.clone();
    spec.memory = memory;
    let mut vm = yard.start(&spec)?;
    let (side, page) = (Side::Ours, Side::Ours.page());
    let up = yard.client.run(|| {
        let ended = || Ok(vm.try_exit()?.is_some());
        poll::first_answer(side.address(), page, patience, ended)
    });
    if up.is_err() {
        return Ok(false);
    }
    let url = side.url("/gen/16M");
    let words = [
        "curl",
        "-sS",
        "-m",
        "60",
        "-o",
        "/dev/null",
        "-w",
        "%{size_download}",
        &url,
    ];
    let output = yard.command(&words).output().context("cannot run curl")?;
    Ok(output.status.success() && output.stdout == b"16777216")
}
