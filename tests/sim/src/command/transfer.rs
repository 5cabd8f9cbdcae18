//! `godwit sim transfer`: what a planned move costs on a clean network, and moves under faults.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use godwit_sim::transfer::{Clean, clean as run_clean};
use godwit_sim::{Options, run as run_seed};

use super::common::{Json, count_seeds, end_progress, on_every_core, progress};
use super::swarm::Total;

/// What to run.
#[derive(clap::Args)]
pub struct Arguments {
    /// Planned moves on a clean network.
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    pub moves: u64,
    /// Moves under faults.
    #[arg(long, value_name = "COUNT", default_value_t = 50_000)]
    pub swarm: u64,
    /// The first seed.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub seed: u64,
    /// Write the counts as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Clean moves of one seed.
const MOVES_OF_A_SEED: u64 = 50;

/// Run the command.
pub fn run(arguments: &Arguments) -> Result<ExitCode, ExitCode> {
    let json = Json::create(arguments.json.as_ref())?;
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
        let found = run_clean(seed, moves);
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
        let report = run_seed(&Options {
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
    swarm
        .bad
        .print(|seed| format!("--seed {seed} --seeds 1 --octets 300000 --nodes 3 --move-every 5"));
    let counts = serde_json::json!({
        "seed": arguments.seed,
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
    let all_well = clean.moves == arguments.moves
        && clean.exact == clean.moves
        && clean.client_retransmissions == 0
        && clean.violations + swarm.violations == 0;
    Ok(json.finish(counts, all_well))
}
