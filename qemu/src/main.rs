//! The godwit command: VMs, virtual switch, demo, control, benchmarks.

use std::ffi::OsString;
use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

use godwit_qemu::build;
use godwit_qemu::image::symbols::Annotator;
use godwit_qemu::progress::Progress;
use godwit_qemu::{ctl, demo, interrupt, media, net, run, setup, words};

/// Godwit: servers whose live connections move between machines.
#[derive(Parser)]
#[command(name = "godwit", bin_name = "cargo godwit", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing: QEMU, curl, iproute2.
    Setup,
    /// Build a bootable image, or a medium with one; what is printed is the path.
    Build(media::Options),
    /// Run one VM and reach its service at localhost.
    Run(run::Options),
    /// See live connections move between two VMs.
    Demo(Demo),
    /// Command a running instance.
    Ctl(ctl::Options),
    /// Add files and lines to the backtraces in a log from the standard input.
    Symbolize {
        /// The image that the log is of: its file, or the service built last.
        image: PathBuf,
    },
    /// Run a service as a Linux process on a TAP device (`host --help` lists what it is told).
    #[command(disable_help_flag = true)]
    Host {
        /// The service, and words of its configuration: http tap=tap0 ip=10.99.0.11/24.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run clusters in simulation, seed after seed (`sim --help` lists the options).
    #[command(disable_help_flag = true)]
    Sim {
        /// What the simulator is told.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Measure ours and the peers, in turns (see `cargo godwit bench --help`).
    #[command(disable_help_flag = true)]
    Bench {
        /// What the program that measures is told.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// The demo, or another one.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
struct Demo {
    #[command(subcommand)]
    other: Option<OtherDemo>,
    #[command(flatten)]
    options: demo::Options,
}

#[derive(Subcommand)]
enum OtherDemo {
    /// See three VMs replaced, one after the other, by a newer release under load.
    Upgrade(demo::upgrade::Options),
}

fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| words::with_tip(error).exit());
    match execute(cli.command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("godwit: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Has malloc of the GNU C library ask for huge pages (`madvise`), as images have them: with a million
/// connections in pages of 4 KiB, looking up where a page is costs as much as the segment itself.
const HUGE_PAGES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");

/// Builds another program of the workspace and becomes it: signals and the exit code are its own.
fn hand_over(what: &str, build: fn() -> Result<PathBuf>, arguments: &[OsString]) -> Result<u8> {
    let progress = Progress::start(&format!("building {what}"));
    let path = build()?;
    progress.finish();
    let mut command = process::Command::new(&path);
    let (name, value) = HUGE_PAGES;
    if std::env::var_os(name).is_none() {
        command.env(name, value);
    }
    let error = command.args(arguments).exec();
    Err(error).with_context(|| format!("cannot run {}", path.display()))
}

/// Passes a log on, with what is known about the addresses in it.
fn symbolize(image: &Path) -> Result<()> {
    let named = build::workspace()?.join("target").join("images");
    let named = named.join(image).with_extension("elf");
    let is_name = !image.exists() && image.components().count() == 1;
    let mut annotator = Annotator::new(if is_name { &named } else { image });
    let (input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    for line in input.split(b'\n') {
        let line = line.context("cannot read the log")?;
        let line = String::from_utf8_lossy(&line);
        let below = annotator.below(&line);
        for line in std::iter::once(line.trim_end_matches('\r').to_owned()).chain(below) {
            // A reader that has seen enough is no error.
            if writeln!(output, "{line}").is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn execute(command: Command) -> Result<u8> {
    match command {
        Command::Setup => {
            setup::ensure()?;
            println!("QEMU, curl and iproute2 are there.");
        }
        Command::Build(options) => {
            interrupt::clean_up()?;
            for path in media::build(&options)? {
                println!("{}", path.display());
            }
        }
        Command::Run(options) => {
            setup::ensure()?;
            interrupt::clean_up()?;
            return run::run(&options);
        }
        Command::Demo(options) => {
            setup::ensure()?;
            // Without it the demo still has a client, and says so.
            let _ = net::become_root_of_own();
            if let Some(OtherDemo::Upgrade(options)) = options.other {
                setup::ensure_load()?;
                interrupt::clean_up()?;
                return Ok(u8::from(!demo::upgrade::run(&options)?.broken.is_empty()));
            }
            interrupt::clean_up()?;
            return Ok(u8::from(
                !demo::run(&options.options)?.failures().is_empty(),
            ));
        }
        Command::Ctl(options) => ctl::run(&options)?,
        Command::Symbolize { image } => symbolize(&image)?,
        Command::Host { arguments } => {
            return hand_over("the hosted services", build::hosted, &arguments);
        }
        Command::Sim { arguments } => {
            return hand_over("the simulator", build::simulator, &arguments);
        }
        Command::Bench { arguments } => {
            return hand_over("what measures", build::bench, &arguments);
        }
    }
    Ok(0)
}
