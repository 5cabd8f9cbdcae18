//! `cargo godwit sim`: many seeds, one after the other on every core, until the time is over.

use std::fs::File;
use std::io::{IsTerminal, Write, stderr};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

mod steps_command;

use clap::{Parser, Subcommand};
use godwit_sim::transfer::{self, Clean};
use godwit_sim::{Options, Report, run};

/// Run clusters in simulation: every seed is another network, other services, other moves.
///
/// Ends with status 1 if anything was not as it must be; the seed it names replays it.
#[derive(Parser)]
#[command(
    name = "godwit sim",
    bin_name = "cargo godwit sim",
    args_conflicts_with_subcommands = true
)]
struct Arguments {
    #[command(subcommand)]
    other: Option<Other>,
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

#[derive(Subcommand)]
enum Other {
    /// Planned moves on a network that does nothing wrong: how long is the silence, what does the client
    /// see? Then moves under everything that can go wrong, until their number is reached.
    Transfer(Transfer),
    /// Every fault (crash, reboot, pause, partition) to every party at every step of every protocol.
    Steps(steps_command::Steps),
}

#[derive(clap::Args)]
struct Transfer {
    /// Planned moves on a clean network.
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    moves: u64,
    /// Moves under faults.
    #[arg(long, value_name = "COUNT", default_value_t = 50_000)]
    swarm: u64,
    /// The first seed.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
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

/// Clean moves of one seed.
const MOVES_OF_A_SEED: u64 = 50;

/// Do `work` on every core until it says that there is no more.
fn on_every_core(work: impl Fn() -> bool + Sync) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| while work() {});
        }
    });
}

/// `godwit sim transfer`.
fn transfers(arguments: &Transfer) -> ExitCode {
    let mut json = match arguments.json.as_ref().map(File::create).transpose() {
        Ok(json) => json,
        Err(error) => return cannot_write(arguments.json.as_ref(), &error),
    };
    let begun = Instant::now();
    let seeds = arguments.moves.div_ceil(MOVES_OF_A_SEED);
    let next = AtomicU64::new(0);
    let clean = Mutex::new((Clean::default(), Vec::new()));
    on_every_core(|| {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= seeds {
            return false;
        }
        let seed = arguments.seed.wrapping_add(number);
        let moves = MOVES_OF_A_SEED.min(arguments.moves - number * MOVES_OF_A_SEED);
        let found = transfer::clean(seed, moves);
        let mut clean = clean.lock().unwrap_or_else(PoisonError::into_inner);
        if found.violations > 0 || found.exact < found.moves || found.moves < moves {
            clean.1.push(seed);
        }
        clean.0.add(&found);
        progress(number, || {
            format!("{} moves on a clean network", clean.0.moves)
        });
        true
    });
    let (clean, inexact) = clean.into_inner().unwrap_or_else(PoisonError::into_inner);
    let next = AtomicU64::new(0);
    let swarm = Mutex::new(Total::default());
    on_every_core(|| {
        let seen = swarm.lock().unwrap_or_else(PoisonError::into_inner).moves;
        if seen >= arguments.swarm {
            return false;
        }
        let number = next.fetch_add(1, Ordering::Relaxed);
        let report = run(&Options {
            seed: arguments.seed.wrapping_add(number),
            octets: 300_000,
            ..Options::default()
        });
        let mut swarm = swarm.lock().unwrap_or_else(PoisonError::into_inner);
        swarm.add(&report);
        progress(number, || {
            format!(
                "{} moves under faults, {} violations",
                swarm.moves, swarm.violations
            )
        });
        true
    });
    let swarm = swarm.into_inner().unwrap_or_else(PoisonError::into_inner);
    let seconds = begun.elapsed().as_secs_f64();
    end_progress();
    println!(
        "clean network: {} moves, {} of them silent for exactly half a control round trip (at most {:?} more), \
         {} retransmissions of clients, {} violations",
        clean.moves, clean.exact, clean.excess, clean.client_retransmissions, clean.violations,
    );
    if let Some(violation) = &clean.first_violation {
        println!("  {violation}");
    }
    if !inexact.is_empty() {
        println!(
            "  again: cargo godwit sim transfer --moves {MOVES_OF_A_SEED} --swarm 0 --seed S, S of {inexact:?}"
        );
    }
    println!(
        "under faults: {} moves of {} in {seconds:.0} s: {} violations",
        swarm.moves,
        count_seeds(swarm.seeds),
        swarm.violations,
    );
    for (seed, first) in &swarm.bad {
        println!("seed {seed}: {}", first.join("\n  "));
        println!(
            "  again: cargo godwit sim --seed {seed} --seeds 1 --octets 300000 --nodes 3 --move-every 5"
        );
    }
    let counts = serde_json::json!({
        "seed": arguments.seed,
        "commit": commit(),
        "moves": clean.moves + swarm.moves,
        "violations": clean.violations + swarm.violations,
        "clean": {
            "moves": clean.moves,
            "exact": clean.exact,
            "excess_ns": clean.excess.as_nanos() as u64,
            "client_retransmissions": clean.client_retransmissions,
            "violations": clean.violations,
        },
        "swarm": { "seeds": swarm.seeds, "moves": swarm.moves, "violations": swarm.violations },
        "seconds": seconds,
    });
    if let Some(file) = &mut json
        && let Err(error) = writeln!(file, "{counts:#}")
    {
        return cannot_write(arguments.json.as_ref(), &error);
    }
    let all_well = clean.moves == arguments.moves
        && clean.exact == clean.moves
        && clean.client_retransmissions == 0
        && clean.violations + swarm.violations == 0;
    match all_well {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Now and then, a line for who watches.
fn progress(number: u64, line: impl FnOnce() -> String) {
    if number.is_multiple_of(20) && stderr().is_terminal() {
        eprint!("\r\x1b[K{} ", line());
    }
}

fn end_progress() {
    if stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match &arguments.other {
        Some(Other::Transfer(transfer)) => transfers(transfer),
        Some(Other::Steps(arguments)) => steps_command::run(arguments),
        None => swarm(&arguments),
    }
}

/// `godwit sim`.
fn swarm(arguments: &Arguments) -> ExitCode {
    // A path that cannot be written is found before the run.
    let json = match arguments.json.as_ref().map(File::create).transpose() {
        Ok(json) => json,
        Err(error) => return cannot_write(arguments.json.as_ref(), &error),
    };
    let begun = Instant::now();
    let total = simulate(arguments, begun);
    let seconds = begun.elapsed().as_secs_f64();
    end_progress();
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
        && let Err(error) = writeln!(file, "{:#}", total.to_json(arguments, seconds))
    {
        return cannot_write(arguments.json.as_ref(), &error);
    }
    match total.violations {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn cannot_write(path: Option<&PathBuf>, error: &std::io::Error) -> ExitCode {
    let path = path.map_or("".as_ref(), PathBuf::as_path);
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
    on_every_core(|| {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let over = match until {
            Some(until) => Instant::now() >= until,
            None => number >= arguments.seeds,
        };
        if over {
            return false;
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
        progress(number, || {
            format!(
                "{}, {} moves, {} violations, {:.0} s",
                count_seeds(total.seeds),
                total.moves,
                total.violations,
                begun.elapsed().as_secs_f64()
            )
        });
        true
    });
    total.into_inner().unwrap_or_else(PoisonError::into_inner)
}
