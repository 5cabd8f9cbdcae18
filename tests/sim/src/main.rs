//! `cargo godwit sim`: many seeds, one after the other on every core, until the time is over.

use std::fs::File;
use std::io::{IsTerminal, Write, stderr};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use godwit_sim::{Options, Report, run};

/// Run clusters in simulation: every seed is another network, other services, other moves.
///
/// Ends with status 1 if anything was not as it must be; the seed it names replays it.
#[derive(Parser)]
#[command(name = "godwit sim", bin_name = "cargo godwit sim")]
struct Arguments {
    /// Run new seeds for so long, in minutes.
    #[arg(long, value_name = "N", conflicts_with = "seeds")]
    minutes: Option<f64>,
    /// Run so many seeds.
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first seed.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
    /// Octets of each conversation.
    #[arg(long, value_name = "OCTETS", default_value_t = 300_000)]
    octets: u64,
    /// Instances in each cluster.
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    nodes: u32,
    /// Virtual time between two moves of a session, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 5)]
    move_every: u64,
    /// Links lose, reorder, repeat and corrupt nothing.
    #[arg(long)]
    clean: bool,
    /// Write the counts as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What all seeds together came to.
#[derive(Default)]
struct Total {
    seeds: u64,
    moves: u64,
    sent_ahead: u64,
    octets: u64,
    frames: u64,
    violations: u64,
    client_retransmissions: u64,
    server_retransmissions: u64,
    /// Seeds with violations, with the first of them in words.
    bad: Vec<(u64, Vec<String>)>,
}

/// Bad seeds described; the rest are counted.
const SHOWN: usize = 10;

impl Total {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.moves += report.moves;
        self.sent_ahead += report.sent_ahead;
        self.octets += report.octets;
        self.frames += report.frames;
        self.violations += report.violations;
        self.client_retransmissions += report.client_retransmissions;
        self.server_retransmissions += report.server_retransmissions;
        if report.violations > 0 && self.bad.len() < SHOWN {
            let first = report.first_violations.iter().map(ToString::to_string);
            self.bad.push((report.seed, first.take(3).collect()));
        }
    }

    fn to_json(&self, arguments: &Arguments, seconds: f64) -> serde_json::Value {
        let bad: Vec<u64> = self.bad.iter().map(|(seed, _)| *seed).collect();
        serde_json::json!({
            "seed": arguments.seed,
            "commit": commit(),
            "seeds": self.seeds,
            "moves": self.moves,
            "sent_ahead": self.sent_ahead,
            "octets": self.octets,
            "frames": self.frames,
            "violations": self.violations,
            "bad_seeds": bad,
            "client_retransmissions": self.client_retransmissions,
            "server_retransmissions": self.server_retransmissions,
            "seconds": seconds,
        })
    }
}

/// The commit this was built from, as far as git knows it.
fn commit() -> Option<String> {
    let root = env!("CARGO_MANIFEST_DIR");
    let arguments = ["describe", "--always", "--dirty", "--abbrev=12"];
    let output = Command::new("git")
        .current_dir(root)
        .args(arguments)
        .output();
    let output = output.ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_string())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // A path that cannot be written is found before the run.
    let json = match arguments.json.as_ref().map(File::create).transpose() {
        Ok(json) => json,
        Err(error) => return cannot_write(&arguments, &error),
    };
    let begun = Instant::now();
    let total = simulate(&arguments, begun);
    let seconds = begun.elapsed().as_secs_f64();
    if stderr().is_terminal() {
        // The line of the progress.
        eprint!("\r\x1b[K");
    }
    println!(
        "{}, {} moves ({} with octets sent ahead), {} frames in {seconds:.0} s: {} violations, {} + {} retransmissions of clients and servers",
        count_seeds(total.seeds),
        total.moves,
        total.sent_ahead,
        total.frames,
        total.violations,
        total.client_retransmissions,
        total.server_retransmissions,
    );
    for (seed, first) in &total.bad {
        println!("seed {seed}: {}", first.join("\n  "));
        let clean = if arguments.clean { " --clean" } else { "" };
        println!(
            "  again: cargo godwit sim --seed {seed} --seeds 1 --octets {} --nodes {} --move-every {}{clean}",
            arguments.octets, arguments.nodes, arguments.move_every,
        );
    }
    if let Some(mut file) = json
        && let Err(error) = writeln!(file, "{:#}", total.to_json(&arguments, seconds))
    {
        return cannot_write(&arguments, &error);
    }
    match total.violations {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn cannot_write(arguments: &Arguments, error: &std::io::Error) -> ExitCode {
    let path = arguments.json.as_deref().unwrap_or("".as_ref());
    eprintln!("godwit sim: cannot write {}: {error}", path.display());
    ExitCode::FAILURE
}

fn count_seeds(seeds: u64) -> String {
    match seeds {
        1 => "1 seed".into(),
        n => format!("{n} seeds"),
    }
}

/// Run seeds on all cores until their number or the time is used up.
fn simulate(arguments: &Arguments, begun: Instant) -> Total {
    let until = arguments
        .minutes
        .map(|minutes| begun + Duration::from_secs_f64(minutes.clamp(0.0, 1e6) * 60.0));
    let next = AtomicU64::new(0);
    let total = Mutex::new(Total::default());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let over = match until {
                        Some(until) => Instant::now() >= until,
                        None => number >= arguments.seeds,
                    };
                    if over {
                        return;
                    }
                    let report = run(&Options {
                        seed: arguments.seed.wrapping_add(number),
                        octets: arguments.octets,
                        nodes: arguments.nodes,
                        move_every: Duration::from_millis(arguments.move_every),
                        rough: !arguments.clean,
                        ..Options::default()
                    });
                    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                    total.add(&report);
                    if total.seeds.is_multiple_of(20) && stderr().is_terminal() {
                        eprint!(
                            "\r{}, {} moves, {} violations, {:.0} s ",
                            count_seeds(total.seeds),
                            total.moves,
                            total.violations,
                            begun.elapsed().as_secs_f64()
                        );
                    }
                }
            });
        }
    });
    total.into_inner().unwrap_or_else(PoisonError::into_inner)
}
