//! `cargo godwit sim steps`: the faults of [`godwit_sim::steps`], all of them or some.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use godwit_sim::steps::{self, Case, Recording, SCENARIOS, observe};

use super::common::{Json, end_progress, on_every_core, progress};

/// Which of them to run.
#[derive(clap::Args)]
pub struct Arguments {
    /// Run only cases whose names contain this: a scenario, a step, a fault.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Run one part of so many of each step's faults.
    #[arg(long, value_name = "PARTS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    parts: u64,
    /// Which part.
    #[arg(long, value_name = "TURN", default_value_t = 0)]
    turn: u64,
    /// Seed of the clusters.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
    /// A second fault some time after the first; which and when follows from this number.
    #[arg(long, value_name = "NUMBER")]
    double: Option<u64>,
    /// Print the steps, and run nothing.
    #[arg(long)]
    list: bool,
    /// Write the counts as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// A case in which something was not as it must be.
struct Bad {
    name: String,
    what: String,
}

/// Run them.
pub fn run(arguments: &Arguments) -> Result<ExitCode, ExitCode> {
    let begun = Instant::now();
    let json = Json::create(arguments.json.as_ref())?;
    // Of a case that is named in full only its scenario is of interest.
    let named = arguments
        .only
        .as_deref()
        .and_then(|only| only.split_once('/'));
    let named = SCENARIOS
        .iter()
        .find(|scenario| named.is_some_and(|(name, _)| name == scenario.name));
    let seed = arguments.seed;
    let recordings: Vec<Recording> = match named {
        Some(scenario) => vec![steps::record(scenario, seed)],
        None => SCENARIOS.iter().map(|s| steps::record(s, seed)).collect(),
    };
    let mut bad = fault_free(&recordings, named.is_none());
    if arguments.list {
        for recording in &recordings {
            for step in &recording.steps {
                println!("{}/{step}", recording.scenario.name);
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let parts = arguments.parts;
    let all = recordings
        .iter()
        .flat_map(|recording| steps::share(recording, arguments.turn, parts));
    let only = |case: &Case| match &arguments.only {
        Some(only) => case.name().contains(only),
        None => true,
    };
    let cases = all.filter(only).map(|case| match arguments.double {
        Some(number) => case.doubled(number),
        None => case,
    });
    let cases: Vec<Case> = cases.collect();
    if cases.is_empty() {
        eprintln!("no case is called so; `cargo godwit sim steps --list` names the steps");
        return Err(ExitCode::FAILURE);
    }
    let next = AtomicUsize::new(0);
    let lost: Mutex<BTreeMap<String, usize>> = Mutex::default();
    let found = Mutex::new(Vec::new());
    on_every_core(|| {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let Some(case) = cases.get(number) else {
            return false;
        };
        let verdict = case.run();
        if verdict.lost > 0 {
            let mut lost = lost.lock().unwrap_or_else(PoisonError::into_inner);
            let kind = format!("{}/{}", case.scenario.name, case.blow);
            *lost.entry(kind).or_default() += 1;
        }
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = verdict.violations.first() {
            let (name, mut what) = (case.name(), first.to_string());
            if let Some((after, blow)) = case.second {
                what += &format!(" (and {blow} {after} events later)");
            }
            found.push(Bad { name, what });
        }
        progress(number as u64, || {
            format!("{number} of {} cases, {} bad", cases.len(), found.len())
        });
        true
    });
    end_progress();
    bad.extend(found.into_inner().unwrap_or_else(PoisonError::into_inner));
    let steps: usize = recordings
        .iter()
        .map(|recording| recording.steps.len())
        .sum();
    let places: usize = recordings.iter().map(|r| r.boundaries.len()).sum();
    let lost = lost.into_inner().unwrap_or_else(PoisonError::into_inner);
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{} scenarios, {steps} steps, {places} places for faults; {} cases in {seconds:.0} s: {} bad; \
         in {} a session was lost with its owner",
        recordings.len(),
        cases.len(),
        bad.len(),
        lost.values().sum::<usize>(),
    );
    tell(&bad, arguments);
    let counts = serde_json::json!({
        "scenarios": recordings.len(),
        "steps": steps,
        "places": places,
        "cases": cases.len(),
        "bad": bad.iter().map(|bad| &bad.name).collect::<Vec<_>>(),
        "lost": lost.values().sum::<usize>(),
        "lost_by_fault": lost,
        "seconds": seconds,
    });
    Ok(json.finish(counts, bad.is_empty()))
}

/// What is wrong without a fault, or never happens.
fn fault_free(recordings: &[Recording], all: bool) -> Vec<Bad> {
    let mut bad = Vec::new();
    for recording in recordings {
        if let Some(first) = recording.violations.first() {
            bad.push(Bad {
                name: recording.scenario.name.into(),
                what: first.to_string(),
            });
        }
    }
    if !all {
        return bad;
    }
    let steps = recordings.iter().flat_map(|recording| &recording.steps);
    for missing in observe::missing(steps.map(String::as_str)) {
        bad.push(Bad {
            name: missing,
            what: "happens in no scenario".into(),
        });
    }
    bad
}

/// Cases that are told of each rule; the rest are counted.
const SHOWN: usize = 8;

fn tell(bad: &[Bad], arguments: &Arguments) {
    let mut rules: BTreeMap<&str, Vec<&Bad>> = BTreeMap::new();
    for bad in bad {
        let rule = bad.what.split("] ").nth(1).unwrap_or(&bad.what);
        let rule = rule.split(':').next().unwrap_or(rule);
        rules.entry(rule).or_default().push(bad);
    }
    for (rule, cases) in rules {
        println!("{rule}: {} cases", cases.len());
        for bad in cases.iter().take(SHOWN) {
            println!("  {}\n    {}", bad.name, bad.what);
        }
    }
    if let Some(first) = bad.first() {
        let double = arguments.double;
        let double = double.map_or(String::new(), |number| format!(" --double {number}"));
        println!(
            "again: cargo godwit sim steps --seed {}{double} --only '{}'",
            arguments.seed, first.name
        );
    }
}
