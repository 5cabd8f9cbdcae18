//! `godwit sim crowd`: short connections by the million.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use godwit_sim::crowd::{Options, Report, Way, crowd};

use super::common::{Bad, Json, count_seeds, end_progress, on_every_core, progress};

/// Connections of one seed.
const CONNECTIONS_OF_A_SEED: u64 = 250;

/// What to run.
#[derive(clap::Args)]
pub struct Arguments {
    /// Connections, 250 a seed.
    #[arg(long, value_name = "COUNT", default_value_t = 25_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub connections: u64,
    /// The first seed.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub seed: u64,
    /// Links lose, reorder, repeat and corrupt nothing.
    #[arg(long)]
    pub clean: bool,
    /// Write the counts as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What all seeds together came to.
#[derive(Default)]
struct Total {
    seeds: u64,
    ways: BTreeMap<Way, u64>,
    connections: u64,
    reused: u64,
    unreached: u64,
    expired: u64,
    moves: u64,
    octets: u64,
    frames: u64,
    violations: u64,
    retransmissions: (u64, u64),
    bad: Bad,
}

impl Total {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        for (way, count) in &report.ways {
            *self.ways.entry(*way).or_default() += count;
        }
        self.connections += report.connections();
        self.reused += report.reused;
        self.unreached += report.unreached;
        self.expired += report.expired;
        self.moves += report.moves;
        self.octets += report.octets;
        self.frames += report.frames;
        self.violations += report.violations;
        self.retransmissions.0 += report.retransmissions.0;
        self.retransmissions.1 += report.retransmissions.1;
        self.bad.add(report.seed, &report.first_violations);
    }

    fn ways(&self) -> BTreeMap<&'static str, u64> {
        let count = |way: Way| self.ways.get(&way).copied().unwrap_or(0);
        Way::ALL
            .iter()
            .map(|way| (way.name(), count(*way)))
            .collect()
    }

    fn to_json(&self, arguments: &Arguments, seconds: f64) -> serde_json::Value {
        serde_json::json!({
            "seed": arguments.seed,
            "seeds": self.seeds,
            "connections": self.connections,
            "ways": self.ways(),
            "ports_reused": self.reused,
            "unreached": self.unreached,
            "handshakes_expired": self.expired,
            "moves": self.moves,
            "octets": self.octets,
            "frames": self.frames,
            "violations": self.violations,
            "bad_seeds": self.bad.seeds(),
            "server_retransmissions": self.retransmissions.0,
            "client_retransmissions": self.retransmissions.1,
            "seconds": seconds,
        })
    }
}

/// Run the command.
pub fn run(arguments: &Arguments) -> Result<ExitCode, ExitCode> {
    let json = Json::create(arguments.json.as_ref())?;
    let begun = Instant::now();
    let seeds = arguments.connections.div_ceil(CONNECTIONS_OF_A_SEED);
    let next = AtomicU64::new(0);
    let total = Mutex::new(Total::default());
    on_every_core(|| {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= seeds {
            return false;
        }
        let report = crowd(&Options {
            seed: arguments.seed.wrapping_add(number),
            connections: CONNECTIONS_OF_A_SEED,
            rough: !arguments.clean,
        });
        let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
        total.add(&report);
        progress(number, || {
            let rate = total.connections as f64 / begun.elapsed().as_secs_f64();
            format!(
                "{} connections, {rate:.0} a second, {} moves, {} violations",
                total.connections, total.moves, total.violations
            )
        });
        true
    });
    let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    let seconds = begun.elapsed().as_secs_f64();
    end_progress();
    println!(
        "{} connections ({} from a port used before), {} moves, {} frames, {} in {seconds:.0} s ({:.0} connections a second): {} violations",
        total.connections,
        total.reused,
        total.moves,
        total.frames,
        count_seeds(total.seeds),
        total.connections as f64 / seconds,
        total.violations,
    );
    let ways = total.ways().into_iter();
    let ways: Vec<String> = ways
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    println!(
        "{}; {} given up by clients nothing reached, {} by a server nothing reached",
        ways.join(", "),
        total.unreached,
        total.expired,
    );
    let clean = if arguments.clean { " --clean" } else { "" };
    total
        .bad
        .print(|seed| format!("crowd --seed {seed} --connections {CONNECTIONS_OF_A_SEED}{clean}"));
    Ok(json.finish(total.to_json(arguments, seconds), total.violations == 0))
}
