//! `godwit sim`: long conversations, one after the other, moved all the time.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use godwit_sim::{Options, Report, run as run_seed};

use super::common::{Bad, Json, count_seeds, end_progress, on_every_core, progress};

/// What to run.
#[derive(clap::Args)]
pub struct Arguments {
    /// Run new seeds for so long, in minutes.
    #[arg(long, value_name = "N", conflicts_with = "seeds")]
    pub minutes: Option<f64>,
    /// Run so many seeds.
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: u64,
    /// The first seed.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub seed: u64,
    /// Octets of each conversation.
    #[arg(long, value_name = "OCTETS", default_value_t = 300_000)]
    pub octets: u64,
    /// Instances in each cluster.
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub nodes: u32,
    /// Virtual time between two moves of a session, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 5)]
    pub move_every: u64,
    /// The instances have a network of their own, or have none; by default a quarter has.
    #[arg(long, value_name = "BOOL")]
    pub parted: Option<bool>,
    /// Links lose, reorder, repeat and corrupt nothing.
    #[arg(long)]
    pub clean: bool,
    /// Write the counts as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What all seeds together came to.
#[derive(Default)]
pub struct Total {
    pub seeds: u64,
    pub moves: u64,
    sent_ahead: u64,
    octets: u64,
    frames: u64,
    pub violations: u64,
    client_retransmissions: u64,
    server_retransmissions: u64,
    pub bad: Bad,
}

impl Total {
    pub fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.moves += report.moves;
        self.sent_ahead += report.sent_ahead;
        self.octets += report.octets;
        self.frames += report.frames;
        self.violations += report.violations;
        self.client_retransmissions += report.client_retransmissions;
        self.server_retransmissions += report.server_retransmissions;
        self.bad.add(report.seed, &report.first_violations);
    }

    fn to_json(&self, arguments: &Arguments, seconds: f64) -> serde_json::Value {
        serde_json::json!({
            "seed": arguments.seed,
            "seeds": self.seeds,
            "moves": self.moves,
            "sent_ahead": self.sent_ahead,
            "octets": self.octets,
            "frames": self.frames,
            "violations": self.violations,
            "bad_seeds": self.bad.seeds(),
            "client_retransmissions": self.client_retransmissions,
            "server_retransmissions": self.server_retransmissions,
            "seconds": seconds,
        })
    }
}

/// Run the command.
pub fn run(arguments: &Arguments) -> Result<ExitCode, ExitCode> {
    let json = Json::create(arguments.json.as_ref())?;
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
    let clean = if arguments.clean { " --clean" } else { "" };
    let parted = match arguments.parted {
        Some(parted) => format!(" --parted {parted}"),
        None => String::new(),
    };
    total.bad.print(|seed| {
        format!(
            "--seed {seed} --seeds 1 --octets {} --nodes {} --move-every {}{clean}{parted}",
            arguments.octets, arguments.nodes, arguments.move_every,
        )
    });
    Ok(json.finish(total.to_json(arguments, seconds), total.violations == 0))
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
        let report = run_seed(&Options {
            seed: arguments.seed.wrapping_add(number),
            octets: arguments.octets,
            nodes: arguments.nodes,
            move_every: Duration::from_millis(arguments.move_every),
            rough: !arguments.clean,
            parted: arguments.parted,
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
