//! The godwit command: VMs, virtual switch, demo, control, benchmarks.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use godwit_qemu::build::{self, Service};
use godwit_qemu::progress::Progress;
use godwit_qemu::{ctl, demo, net, run, setup};

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
    /// Build a bootable image; the last line printed is its path.
    Build {
        /// The service in it.
        service: Service,
    },
    /// Run one VM and reach its service at localhost.
    Run(run::Options),
    /// See live connections move between two VMs.
    Demo(demo::Options),
    /// Command a running instance.
    Ctl(ctl::Options),
    /// Measure ours and the peers, in turns (see `cargo godwit bench --help`).
    #[command(disable_help_flag = true)]
    Bench {
        /// What the program that measures is told.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<std::ffi::OsString>,
    },
}

fn main() -> ExitCode {
    match execute(Cli::parse().command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("godwit: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> Result<u8> {
    match command {
        Command::Setup => {
            setup::ensure()?;
            println!("QEMU, curl and iproute2 are there.");
        }
        Command::Build { service } => {
            let progress = Progress::start(&format!("building the image of {}", service.name()));
            let path = build::image(service)?;
            progress.finish();
            println!("{}", path.display());
        }
        Command::Run(options) => {
            setup::ensure()?;
            return run::run(&options);
        }
        Command::Demo(options) => {
            setup::ensure()?;
            // Without it the demo still has a client, and says so.
            let _ = net::become_root_of_own();
            return Ok(u8::from(!demo::run(&options)?.broken().is_empty()));
        }
        Command::Ctl(options) => ctl::run(&options)?,
        Command::Bench { words } => {
            let progress = Progress::start("building what measures");
            let program = build::bench()?;
            progress.finish();
            let status = std::process::Command::new(program).args(words).status()?;
            return Ok(status
                .code()
                .and_then(|code| code.try_into().ok())
                .unwrap_or(1));
        }
    }
    Ok(0)
}
