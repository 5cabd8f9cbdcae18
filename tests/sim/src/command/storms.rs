//! `godwit sim storms`: what befalls the members that elect an ingress.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use godwit_sim::storm::of_seed;

use super::common::{Bad, Json, count_seeds, end_progress, on_every_core, progress};

/// What to run.
#[derive(clap::Args)]
pub struct Arguments {
    /// Run so many seeds.
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: u64,
    /// The first seed.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub seed: u64,
    /// Write the counts as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What all seeds together came to.
#[derive(Default)]
struct Total {
    seeds: u64,
    blows: u64,
    conversations: u64,
    lost: u64,
    frames: u64,
    violations: u64,
    bad: Bad,
}

/// Run the command.
pub fn run(arguments: &Arguments) -> Result<ExitCode, ExitCode> {
    let json = Json::create(arguments.json.as_ref())?;
    let begun = Instant::now();
    let next = AtomicU64::new(0);
    let total = Mutex::new(Total::default());
    on_every_core(|| {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= arguments.seeds {
            return false;
        }
        let seed = arguments.seed.wrapping_add(number);
        let storm = of_seed(seed);
        let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
        total.seeds += 1;
        total.blows += storm.blows();
        total.conversations += storm.conversation_count() as u64;
        total.lost += storm.lost_count() as u64;
        total.frames += storm.cluster.world.frames();
        total.violations += storm.cluster.world.violation_count();
        total.bad.add(seed, storm.cluster.violations());
        progress(number, || {
            format!(
                "{}, {} blows, {} violations",
                count_seeds(total.seeds),
                total.blows,
                total.violations
            )
        });
        true
    });
    let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    let seconds = begun.elapsed().as_secs_f64();
    end_progress();
    println!(
        "{}, {} blows, {} conversations ({} lost with their instance), {} frames in {seconds:.0} s: {} violations",
        count_seeds(total.seeds),
        total.blows,
        total.conversations,
        total.lost,
        total.frames,
        total.violations,
    );
    total
        .bad
        .print(|seed| format!("storms --seed {seed} --seeds 1"));
    let counts = serde_json::json!({
        "seed": arguments.seed,
        "seeds": total.seeds,
        "blows": total.blows,
        "conversations": total.conversations,
        "lost": total.lost,
        "frames": total.frames,
        "violations": total.violations,
        "bad_seeds": total.bad.seeds(),
        "seconds": seconds,
    });
    Ok(json.finish(counts, total.violations == 0))
}
