//! Every fault at every step of every protocol between instances: crash, reboot, pause, partition
//! ([`godwit_sim::steps`]). Here a part of the faults at every step; all of them by
//! `cargo godwit sim steps`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use godwit_sim::steps::{self, Case, Recording, SCENARIOS, observe};

/// Of each step's faults one in so many.
const PARTS: u64 = 29;

fn recordings() -> Vec<Recording> {
    SCENARIOS
        .iter()
        .map(|scenario| steps::record(scenario, 1))
        .collect()
}

#[test]
fn every_step_there_is_happens_in_some_scenario_and_none_goes_wrong_without_a_fault() {
    let recordings = recordings();
    for recording in &recordings {
        let name = recording.scenario.name;
        assert!(
            recording.violations.is_empty(),
            "{name}: {:?}",
            recording.violations
        );
        assert!(recording.boundaries.len() > 20, "{name} has few steps");
    }
    let steps = recordings.iter().flat_map(|recording| &recording.steps);
    let missing = observe::missing(steps.map(String::as_str));
    assert!(missing.is_empty(), "in no scenario: {missing:?}");
}

#[test]
fn a_recording_repeats_itself() {
    // Else a step would not be found again by its number.
    for scenario in SCENARIOS {
        let once = steps::record(scenario, 3);
        let again = steps::record(scenario, 3);
        assert_eq!(once.trace, again.trace, "{}", scenario.name);
        assert_eq!(once.steps, again.steps, "{}", scenario.name);
    }
}

#[test]
fn no_fault_at_any_step_breaks_a_stream_or_the_cluster() {
    let recordings = recordings();
    // Whenever anything between the instances changes, others of the faults have their turn.
    let turn = recordings
        .iter()
        .fold(0, |turn: u64, r| turn.rotate_left(7) ^ r.trace)
        % PARTS;
    let cases: Vec<Case> = recordings
        .iter()
        .flat_map(|recording| steps::share(recording, turn, PARTS))
        .collect();
    let (next, bad) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Some(first) = case.run().violations.first() {
                        let line = format!("{}: {first}", case.name());
                        bad.lock().expect("no thread panics here").push(line);
                    }
                }
            });
        }
    });
    let bad = bad.into_inner().expect("no thread panics here");
    let shown = bad.iter().take(8).cloned().collect::<Vec<_>>().join("\n");
    assert!(
        bad.is_empty(),
        "{} of {} cases (part {turn} of {PARTS}); again: cargo godwit sim steps --only NAME\n{shown}",
        bad.len(),
        cases.len(),
    );
}

/// A member that was the ingress sleeps, and awake again has what clients sent to its successor: that boots
/// meanwhile, and both ask each other about a handshake that nobody remembers; or it stands still in its
/// turn, and of a third member and the first each has answered the same SYN.
#[test]
fn a_former_ingress_and_the_next_do_not_both_take_a_connection() {
    for (name, asleep, second) in [
        ("drain", "/pause-1-long", 2),
        ("boot", "/pause-1-unseen", 3),
    ] {
        let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name);
        let recording = steps::record(scenario.expect("a scenario"), 1);
        let cases = steps::share(&recording, 0, 1).into_iter();
        for case in cases.filter(|case| case.name().ends_with(asleep)) {
            let name = case.name();
            let violations = case.doubled(second).run().violations;
            assert!(violations.is_empty(), "{name}: {violations:?}");
        }
    }
}
