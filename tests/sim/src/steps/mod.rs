//! Every fault at every step of every protocol.
//!
//! What the steps are, the code says: a scenario ([`scenarios`]) first runs without a fault, and whatever
//! an instance counts meanwhile is a step of it ([`observe`]): each kind of message it sends or receives,
//! and everything its counters name (a freeze, an import, a thaw, a lease gained, ...). As the same seed
//! gives the same run, a step is found again by its number. Then the scenario runs again and again, and each
//! time one fault ([`Blow`]) befalls one party just before one step, or just after it ([`list`]). In every
//! run must hold:
//!
//! - the checkers of the wire ([`crate::check`]), one ingress at a time ([`Storm`]), and one owner of
//!   each session;
//! - a conversation whose session somebody else had is complete in the end; of the others what has arrived
//!   is a prefix;
//! - once the fault is over a new connection is served, and no session stays frozen unless its target
//!   has lost its power.

mod blow;
pub mod observe;
pub mod scenarios;
mod trial;

pub use blow::Blow;
use observe::Observer;
pub use scenarios::{SCENARIOS, Scenario};
pub use trial::Trial;

use crate::check::Violation;
use crate::content::Digest;
use crate::rng::Rng;

/// A place between two events of a scenario's run.
#[derive(Clone, Debug)]
pub struct Boundary {
    /// Events before it.
    pub index: u64,
    /// The step it is just before or just after.
    pub name: String,
}

/// A scenario's run without a fault.
pub struct Recording {
    /// The scenario.
    pub scenario: &'static Scenario,
    /// The seed of its cluster.
    pub seed: u64,
    /// Names the run: another one has another number.
    pub trace: u64,
    /// Every step that was seen, by name ([`observe`]).
    pub steps: Vec<String>,
    /// Where faults are put.
    pub boundaries: Vec<Boundary>,
    /// Faults for each of them.
    pub blows: Vec<Blow>,
    /// What was wrong without any.
    pub violations: Vec<Violation>,
}

/// Run a scenario without a fault.
pub fn record(scenario: &'static Scenario, seed: u64) -> Recording {
    let mut trial = Trial::new(scenario, seed);
    let mut observer = Observer::new(&trial.storm.cluster);
    trial.run(&[], Some(&mut observer));
    let blows = Blow::all(&trial.storm.cluster.setup);
    trial.settle();
    let mut boundaries: Vec<Boundary> = Vec::new();
    for step in &observer.steps {
        for (index, moment) in [(step.index, "before"), (step.index + 1, "after")] {
            if boundaries.iter().all(|known| known.index != index) {
                let name = format!("{}/{}/{moment}", scenario.name, step.name);
                boundaries.push(Boundary { index, name });
            }
        }
    }
    Recording {
        scenario,
        seed,
        trace: trial.storm.cluster.world.trace_hash(),
        steps: observer.steps.into_iter().map(|step| step.name).collect(),
        boundaries,
        blows,
        violations: trial.storm.cluster.violations().to_vec(),
    }
}

/// One fault at one step, and perhaps another later.
#[derive(Clone, Debug)]
pub struct Case {
    /// The scenario.
    pub scenario: &'static Scenario,
    /// The seed of its cluster.
    pub seed: u64,
    /// Where.
    pub boundary: Boundary,
    /// What.
    pub blow: Blow,
    /// What comes so many events later.
    pub second: Option<(u64, Blow)>,
}

impl Case {
    /// Its name, which finds it again.
    pub fn name(&self) -> String {
        format!("{}/{}", self.boundary.name, self.blow)
    }

    /// The same with another fault some time later, by chance.
    pub fn doubled(mut self, seed: u64) -> Case {
        let mut digest = Digest::default();
        digest.update(self.name().as_bytes());
        let mut rng = Rng::new(seed ^ digest.0);
        let mut blows = Blow::all(&(self.scenario.setup)());
        // Of three instances two that are off for good are no cluster any more.
        if matches!(self.blow, Blow::Crash(_)) {
            blows.retain(|blow| !matches!(blow, Blow::Crash(_)));
        }
        let blow = blows[rng.below(blows.len() as u64) as usize];
        let most = [8, 64, 512][rng.below(3) as usize];
        self.second = Some((rng.below(most), blow));
        self
    }

    /// Run it: what went wrong.
    pub fn run(&self) -> Verdict {
        let mut trial = Trial::new(self.scenario, self.seed);
        let at = self.boundary.index;
        let second = self.second.map(|(after, blow)| (at + after, blow));
        let faults: Vec<(u64, Blow)> = [(at, self.blow)].into_iter().chain(second).collect();
        trial.run(&faults, None);
        trial.settle();
        Verdict {
            violations: trial.storm.cluster.violations().to_vec(),
            lost: trial.lost(),
        }
    }
}

/// What came of a case.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Rules broken.
    pub violations: Vec<Violation>,
    /// Conversations that were lost, rightly.
    pub lost: usize,
}

/// All faults at all steps of a scenario.
pub fn list(recording: &Recording) -> Vec<Case> {
    let case = |boundary: &Boundary, blow: &Blow| Case {
        scenario: recording.scenario,
        seed: recording.seed,
        boundary: boundary.clone(),
        blow: *blow,
        second: None,
    };
    let places = recording.boundaries.iter();
    places
        .flat_map(|boundary| recording.blows.iter().map(move |blow| case(boundary, blow)))
        .collect()
}

/// Of each place a part of its faults: the `turn`th of so many parts. In as many turns as there are parts
/// every case has its turn, and neighbouring places have different faults in one turn.
pub fn share(recording: &Recording, turn: u64, parts: u64) -> Vec<Case> {
    let mut cases = list(recording);
    let faults = recording.blows.len() as u64;
    let mut number = 0;
    cases.retain(|_| {
        let (place, fault) = (number / faults, number % faults);
        number += 1;
        // A step that shares no factor with most numbers of parts, so that parties alternate, too.
        (fault + place * 7 + turn).is_multiple_of(parts)
    });
    cases
}
