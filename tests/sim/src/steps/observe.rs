//! What the steps of a run are: whatever an instance counts.
//!
//! A step is named `PARTY.hears.KIND#N`, `PARTY.says.KIND#N` or `PARTY.does.WHAT#N`: the Nth time since
//! the scenario began that the instance received a message of the kind, sent one, or did what one of its
//! counters, or the state of its drain, names. The kinds come from [`Kind::ALL`], which the codec's enum is
//! tied to; the counters are all that the instance has.

use std::collections::BTreeMap;

use godwit_netstack::cluster::message::Kind;
use godwit_netstack::instance::Trigger;

use crate::net::Port;
use crate::node::Node;
use crate::scenario::Cluster;

/// Of what happens again and again, so many times count as steps.
const TIMES: u64 = 2;

/// Counters of single frames, not of steps: their first change says nothing.
const FRAMES: [&str; 3] = ["frames_", "tcp_", "checksum"];

/// Something an instance did.
#[derive(Clone, Debug)]
pub struct Step {
    /// The event of the run in which it did.
    pub index: u64,
    /// Its name.
    pub name: String,
}

/// Counts by name of one instance.
type Counts = BTreeMap<String, u64>;

/// Looks at the instances after each event.
pub struct Observer {
    before: Vec<Counts>,
    times: Vec<Counts>,
    /// The steps so far.
    pub steps: Vec<Step>,
}

fn counts(node: &Node) -> Counts {
    let instance = node.instance();
    let mut counts = Counts::new();
    for (kind, said, heard) in instance.tally().iter() {
        counts.insert(format!("says.{}", kind.name()), said);
        counts.insert(format!("hears.{}", kind.name()), heard);
    }
    for (name, count) in instance.counters() {
        if !FRAMES.iter().any(|frames| name.starts_with(frames)) {
            counts.insert(format!("does.{name}"), count);
        }
    }
    if let Some(status) = instance.drain_status() {
        counts.insert(format!("does.drain: {}", status.stage), 1);
    }
    counts
}

/// How many times what happens again and again counts.
fn times(name: &str) -> u64 {
    let regular = [Kind::Heartbeat, Kind::Ballot];
    match name.split_once('.') {
        Some(("does", _)) => 1,
        Some((_, kind)) if regular.iter().any(|regular| regular.name() == kind) => 1,
        _ => TIMES,
    }
}

impl Observer {
    /// Look from now on.
    pub fn new(cluster: &Cluster) -> Observer {
        let before: Vec<Counts> = cluster
            .nodes()
            .map(|node| counts(cluster.node(node)))
            .collect();
        Observer {
            times: vec![Counts::new(); before.len()],
            before,
            steps: Vec::new(),
        }
    }

    /// Event `index` was about this party.
    pub(super) fn look(&mut self, cluster: &Cluster, index: u64, node: Port) {
        let (Some(before), Some(seen)) = (self.before.get_mut(node), self.times.get_mut(node))
        else {
            return;
        };
        let now = counts(cluster.node(node));
        for (name, count) in &now {
            // After a boot counts begin anew.
            let was = before.get(name).copied().unwrap_or(0).min(*count);
            if *count == was {
                continue;
            }
            let number = seen.entry(name.clone()).or_default();
            *number += 1;
            if *number <= times(name) {
                let name = format!("{}.{name}#{number}", node + 1).replace(' ', "-");
                self.steps.push(Step { index, name });
            }
        }
        *before = now;
    }
}

/// What an instance does by itself, by its counters: the least that the scenarios have to run through.
const LOCAL: [&str; 26] = [
    "accepted",
    "ahead_kept",
    "captured",
    "channel_timeouts",
    "channels_renewed",
    "channels_up",
    "contents_fetched",
    "contents_sent",
    "drain: drained",
    "drain: late frames are passed on",
    "drain: the ingress role is handed on",
    "drains",
    "held",
    "ingress_laid_down",
    "ingress_taken",
    "ingress_yielded",
    "lulls",
    "moves_accepted",
    "moves_begun",
    "moves_refused",
    "sessions_imported",
    "sessions_thawed",
    "sessions_unknown",
    "transfers_in_doubt",
    "unknown_flows_asked",
    "unknown_flows_reset",
];

/// The steps that were in none of these runs: kinds of messages that nobody said or heard, triggers of the
/// policy that moved nothing, and things that nobody did.
pub fn missing<'a>(steps: impl Iterator<Item = &'a str>) -> Vec<String> {
    let sides = ["says", "hears"].into_iter();
    let said = sides.flat_map(|side| Kind::ALL.iter().map(move |kind| (side, kind.name())));
    let all = said.chain(LOCAL.into_iter().map(|what| ("does", what)));
    let moved = Trigger::ALL.map(|trigger| format!(".does.policy_{trigger}_moves"));
    let mut missing: Vec<String> = all
        .map(|(side, what)| format!(".{side}.{what}").replace(' ', "-"))
        .chain(moved)
        .collect();
    for step in steps {
        let Some((what, _)) = step.split_once('#') else {
            continue;
        };
        missing.retain(|missing| !what.ends_with(missing.as_str()));
    }
    missing
}
