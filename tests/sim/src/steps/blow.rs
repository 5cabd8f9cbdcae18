//! Faults: what may befall whom.

use std::fmt;

use godwit_netstack::Duration;
use godwit_netstack::stack::Interface;

use super::Trial;
use crate::net::Port;
use crate::scenario::Setup;

/// Shorter than anybody's patience.
const SHORT: Duration = Duration::from_millis(300);
/// Longer than a lease, than a channel may be silent, than a question waits for its answers.
const LONG: Duration = Duration::from_secs(5);

/// A fault, and whom it befalls: instances by their port, which is their id less one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blow {
    /// Power off, for good.
    Crash(Port),
    /// Power off, and on again at once: memory is lost.
    Reboot(Port),
    /// Power off, and on again after a long time.
    Outage(Port),
    /// Stands still for a short or long time.
    Pause(Port, bool),
    /// Stands still for a long time, and its clock with it.
    PauseUnseen(Port),
    /// Two instances are cut off from each other for a short or long time.
    Cut(Port, Port, bool),
    /// What the first says does not reach the second for a long time.
    Deaf(Port, Port),
    /// An instance is cut off from the others for a long time, not from the clients.
    Isolate(Port),
    /// An instance's cable is out for a long time.
    Unplug(Port),
    /// Of its two cables that to the clients is out for a long time, and it knows.
    Cable(Port),
    /// The client's cable is out for a short or long time.
    Client(bool),
}

impl Blow {
    /// All that can befall a cluster like this and its client.
    pub fn all(setup: &Setup) -> Vec<Blow> {
        let instances = setup.nodes as usize;
        let mut all = vec![Blow::Client(false), Blow::Client(true)];
        for node in 0..instances {
            all.extend(setup.instance_link.map(|_| Blow::Cable(node)));
            all.extend([
                Blow::Crash(node),
                Blow::Reboot(node),
                Blow::Outage(node),
                Blow::Pause(node, false),
                Blow::Pause(node, true),
                Blow::PauseUnseen(node),
                Blow::Isolate(node),
                Blow::Unplug(node),
            ]);
            for other in 0..instances {
                if other != node {
                    all.push(Blow::Deaf(node, other));
                }
                if other > node {
                    all.push(Blow::Cut(node, other, false));
                    all.push(Blow::Cut(node, other, true));
                }
            }
        }
        all
    }

    /// How long it lasts.
    pub(super) fn lasts(self) -> Duration {
        match self {
            Blow::Crash(_) | Blow::Reboot(_) => Duration::ZERO,
            Blow::Pause(_, false) | Blow::Cut(_, _, false) | Blow::Client(false) => SHORT,
            _ => LONG,
        }
    }

    /// The pairs between which nothing passes.
    fn cuts(self, trial: &Trial) -> Vec<(Port, Port)> {
        let client = trial.storm.cluster.client;
        let others = |node: Port| {
            trial
                .storm
                .cluster
                .nodes()
                .filter(move |other| *other != node)
        };
        match self {
            Blow::Cut(one, other, _) => vec![(one, other)],
            Blow::Isolate(node) => others(node).map(|other| (node, other)).collect(),
            Blow::Unplug(node) => {
                let all = others(node).chain([client]);
                all.map(|other| (node, other)).collect()
            }
            Blow::Client(_) => others(client).map(|other| (client, other)).collect(),
            _ => Vec::new(),
        }
    }

    pub(super) fn strike(self, trial: &mut Trial) {
        for (one, other) in self.cuts(trial) {
            trial.storm.cluster.world.sever(one, other);
        }
        match self {
            Blow::Crash(node) | Blow::Outage(node) => trial.crash(node),
            Blow::Reboot(node) => trial.boot(node),
            Blow::Pause(node, _) => trial.pause(node, self.lasts(), false),
            Blow::PauseUnseen(node) => trial.pause(node, self.lasts(), true),
            Blow::Deaf(from, to) => trial.storm.cluster.world.sever_one_way(from, to),
            Blow::Cable(node) => trial
                .storm
                .cluster
                .set_cable(node, Interface::Service, false),
            _ => {}
        }
    }

    /// It is over.
    pub(super) fn end(self, trial: &mut Trial) {
        for (one, other) in self.cuts(trial) {
            trial.storm.cluster.world.mend(one, other);
        }
        match self {
            Blow::Deaf(from, to) => trial.storm.cluster.world.mend(from, to),
            Blow::Outage(node) => trial.boot(node),
            Blow::Cable(node) => trial
                .storm
                .cluster
                .set_cable(node, Interface::Service, true),
            _ => {}
        }
    }
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = |long: &bool| if *long { "long" } else { "short" };
        match self {
            Blow::Crash(node) => write!(f, "crash-{}", node + 1),
            Blow::Reboot(node) => write!(f, "reboot-{}", node + 1),
            Blow::Outage(node) => write!(f, "outage-{}", node + 1),
            Blow::Pause(node, long) => write!(f, "pause-{}-{}", node + 1, length(long)),
            Blow::PauseUnseen(node) => write!(f, "pause-{}-unseen", node + 1),
            Blow::Cut(one, other, long) => {
                write!(f, "cut-{}-{}-{}", one + 1, other + 1, length(long))
            }
            Blow::Deaf(from, to) => write!(f, "deaf-{}-{}", from + 1, to + 1),
            Blow::Isolate(node) => write!(f, "isolate-{}", node + 1),
            Blow::Unplug(node) => write!(f, "unplug-{}", node + 1),
            Blow::Cable(node) => write!(f, "cable-{}", node + 1),
            Blow::Client(long) => write!(f, "client-{}", length(long)),
        }
    }
}
