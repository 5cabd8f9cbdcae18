//! What an instance shows of itself while it runs: a profile, its frames, its log, its boot.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use super::flame::Samples;
use super::{capture, chart};
use crate::admin::Admin;
use crate::image::symbols::{Symbols, WITH_LINES};

/// Options of `ctl profile`.
#[derive(Args, Clone, Debug)]
pub struct Profile {
    /// How long.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Samples a second.
    #[arg(long, default_value_t = 997, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    hz: u32,
    /// Draw a flame graph into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Write folded stacks into this file, one a line and how often it was seen.
    #[arg(long, value_name = "FILE")]
    folded: Option<PathBuf>,
    /// The image that runs there; by default the one of its build among those built here.
    #[arg(long, value_name = "ELF")]
    image: Option<PathBuf>,
}

/// Options of `ctl pcap`.
#[derive(Args, Clone, Debug)]
pub struct Pcap {
    /// How long at most.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// How many frames at most.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    frames: Option<u32>,
    /// Octets of each frame at most.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(14..=65_535))]
    snap: u32,
    /// The interface: 0 is the one that serves.
    #[arg(long, default_value_t = 0)]
    interface: u32,
    /// The file (pcapng); `-` is the standard output.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

impl Pcap {
    /// Refuses a file that cannot be.
    pub fn check(&self) -> Result<()> {
        let shown = self.output.display();
        ensure!(
            !self.output.is_dir(),
            "cannot write {shown}: it is a folder"
        );
        let folder = self.output.parent().filter(|path| *path != Path::new(""));
        let there = folder.is_none_or(Path::is_dir);
        ensure!(there, "cannot write {shown}: there is no such folder");
        Ok(())
    }
}

/// Options of `ctl log`.
#[derive(Args, Clone, Debug)]
pub struct Log {
    /// Show what is added, too, until Ctrl-C.
    #[arg(long)]
    follow: bool,
}

/// Options of `ctl boot`.
#[derive(Args, Clone, Debug)]
pub struct Boot {
    /// Draw the chart into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// How long to read the answer to something that takes so many seconds.
fn patience(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds) + 20)
}

/// Samples what an instance does, and gives it names.
pub fn profile(admin: &Admin, options: &Profile) -> Result<()> {
    let Profile { seconds, hz, .. } = options;
    let path = format!("/profile?hz={hz}&seconds={seconds}");
    let mut answer = Vec::new();
    admin
        .stream(&path, patience(*seconds))?
        .read_to_end(&mut answer)?;
    let samples = Samples::parse(&answer)?;
    let symbols = match &options.image {
        Some(image) => Symbols::of(image)?,
        None => built_here(samples.build)?,
    };
    ensure!(
        symbols.build() == samples.build,
        "the instance runs build {:016x}, and the image given is build {:016x}",
        samples.build,
        symbols.build()
    );
    let folded = samples.fold(&symbols);
    let count = samples.count();
    if let Some(file) = &options.folded {
        save(file, &folded.lines())?;
    }
    if let Some(file) = &options.svg {
        let title = format!(
            "{count} samples, {hz} a second, build {:016x}",
            samples.build
        );
        save(file, &folded.svg(&title))?;
    }
    let lost = match samples.lost {
        Some(0) => String::new(),
        Some(lost) => format!(", {lost} lost"),
        None => ", and the answer ended too early".into(),
    };
    let mut text = format!("{count} samples{lost}\n   itself  within  function\n");
    let percent = |part: u64| 100.0 * part as f64 / count.max(1) as f64;
    for (name, inner, any) in folded.functions().into_iter().take(20) {
        text += &format!("  {:6.1}% {:6.1}%  {name}\n", percent(inner), percent(any));
    }
    super::print_text(&text);
    Ok(())
}

fn save(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// The symbols of the image built here that is of this build.
fn built_here(build: u64) -> Result<Symbols> {
    let folder = crate::build::workspace()?.join("target").join("images");
    let files = fs::read_dir(&folder).into_iter().flatten().flatten();
    let files = files.map(|entry| entry.path());
    let mut all: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|end| end == WITH_LINES))
        .flat_map(|path| Symbols::of(&path))
        .collect();
    match all.iter().position(|symbols| symbols.build() == build) {
        Some(at) => Ok(all.swap_remove(at)),
        None => bail!(
            "the instance runs build {build:016x}, and none of those in {} is of it: name the image with --image",
            folder.display()
        ),
    }
}

/// Writes the frames of an instance.
pub fn pcap(admin: &Admin, options: &Pcap) -> Result<()> {
    let Pcap {
        seconds,
        snap,
        interface,
        ..
    } = options;
    let mut path = format!("/pcap?seconds={seconds}&snap={snap}&interface={interface}");
    if let Some(frames) = options.frames {
        path += &format!("&frames={frames}");
    }
    let from = admin.stream(&path, patience(*seconds))?;
    let to: Box<dyn Write> = if options.output.as_os_str() == "-" {
        Box::new(io::stdout())
    } else {
        let file = File::create(&options.output);
        Box::new(file.with_context(|| format!("cannot write {}", options.output.display()))?)
    };
    let captured = capture::write(from, BufWriter::new(to))?;
    let dropped = match captured.dropped {
        Some(dropped) => format!("{dropped} dropped by the instance"),
        None => "the answer ended too early".into(),
    };
    eprintln!("{} frames captured, {dropped}", captured.frames);
    Ok(())
}

/// Shows the log.
pub fn log(admin: &Admin, options: &Log) -> Result<()> {
    let path = if options.follow {
        "/log?follow=3600"
    } else {
        "/log"
    };
    let mut from = admin.stream(path, patience(3600))?;
    let mut chunk = [0; 4096];
    loop {
        let n = from.read(&mut chunk)?;
        // A reader that has seen enough is no error.
        if n == 0 || io::stdout().write_all(&chunk[..n]).is_err() {
            return Ok(());
        }
        let _ = io::stdout().flush();
    }
}

/// Shows how the boot went.
pub fn boot(admin: &Admin, options: &Boot) -> Result<()> {
    let mut text = String::new();
    admin
        .stream("/boot", patience(0))?
        .read_to_string(&mut text)?;
    let stages = chart::parse(&text)?;
    if let Some(file) = &options.svg {
        save(file, &chart::svg(&stages))?;
    }
    super::print_text(&chart::text(&stages));
    Ok(())
}
