//! The command line of the bench.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use godwit_bench::{Effort, ROWS, row};
use godwit_qemu::{net, setup};

/// Measure the TCP engine, hand-overs and whole machines against their peers.
#[derive(Parser)]
#[command(name = "godwit-bench", bin_name = "cargo godwit bench")]
struct Cli {
    /// Rows to measure, or beginnings of their names; all without.
    names: Vec<String>,
    /// Write the rows here, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Just run through everything, in seconds; the figures mean nothing.
    #[arg(long)]
    short: bool,
    /// Runs of each side.
    #[arg(long, default_value_t = 9)]
    runs: usize,
    /// Run ours only: for a profiler.
    #[arg(long)]
    alone: bool,
    /// Tune the nginx of the vm rows for speed; by default it is configured as Debian ships it.
    #[arg(long)]
    tuned: bool,
    /// Be some of the clients of a row: not for people.
    #[arg(long, hide = true)]
    crowd: bool,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("godwit bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    if cli.crowd {
        return godwit_bench::transfer::crowd::serve();
    }
    let wanted = |name: &str| {
        let named = |given: &String| name.starts_with(given.as_str()) || given.starts_with(name);
        cli.names.is_empty() || cli.names.iter().any(named)
    };
    let chosen: Vec<_> = ROWS.iter().filter(|(name, _)| wanted(name)).collect();
    if chosen.is_empty() {
        let names: Vec<_> = ROWS.iter().map(|(name, _)| *name).collect();
        bail!("no such row; there are {}", names.join(", "));
    }
    let with_peers = |name: &str| name.starts_with("tcp/tap") || name.starts_with("tcp/lossy");
    if chosen.iter().any(|(name, _)| with_peers(name)) {
        setup::ensure_peers()?;
    }
    if chosen.iter().any(|(name, _)| name.starts_with("vm/")) {
        setup::ensure()?;
        setup::ensure_load()?;
    }
    if !cli.short && chosen.iter().any(|(name, _)| *name == "vm/ram/least") {
        setup::ensure_media()?;
        setup::ensure_uefi()?;
    }
    let with_linux =
        |name: &str| with_peers(name) || name == "transfer/drain/hosted" || name.starts_with("vm/");
    if chosen.iter().any(|(name, _)| with_linux(name)) {
        // Before there are threads.
        net::become_root_of_own()?;
    }
    let effort = Effort {
        runs: if cli.short { 1 } else { cli.runs.max(1) },
        short: cli.short,
        alone: cli.alone,
        tuned: cli.tuned,
    };
    let mut rows = Vec::new();
    for (name, measure) in chosen {
        eprintln!("measuring {name} (load {})", load());
        rows.extend(measure(&effort).with_context(|| name.to_string())?);
    }
    print!("{}", row::table(&rows));
    if let Some(file) = &cli.json {
        let text = serde_json::to_string_pretty(&serde_json::json!({ "rows": rows }))?;
        std::fs::write(file, text + "\n").with_context(|| file.display().to_string())?;
    }
    Ok(())
}

/// The machine's load: who measures should know.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}
