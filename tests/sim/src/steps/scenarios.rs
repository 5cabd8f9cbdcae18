//! The scenarios: together they run every protocol between instances.
//!
//! Instances are named by their port, which is their id less one; at first 0 is the ingress.

use godwit_http::archive::{Archive, by_path};
use godwit_netstack::Duration;
use godwit_netstack::cluster::MemberId;
use godwit_netstack::instance::{PATIENCE, PolicyConfig, Prefer, RoleConfig, Trigger};
use godwit_netstack::tcp::TcpConfig;
use godwit_releases::{FIRST, SECOND};

use super::Trial;
use crate::host::{Plan, SocketConfig};
use crate::net::{Port, Rules};
use crate::scenario::{Served, Setup};
use crate::script::Mode::{self, Download, Echo, Upload};

/// Something that is done in a scenario.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// A client opens a connection.
    Begin(Mode, u64),
    /// The client of a conversation reads on, and says so many octets more.
    Say(usize, u64),
    /// A conversation's session is moved ([`LAST`]: that of the last one begun).
    Move(usize, Port),
    /// An instance leaves.
    Drain(Port),
    /// An instance hands the ingress role to another.
    Yield(Port, Port),
    /// An instance loses its power.
    Crash(Port),
    /// An instance boots.
    Boot(Port),
    /// Two instances do not reach each other any more, or an instance and the client ([`CLIENT`]).
    Cut(Port, Port),
    /// The first does not reach the second any more.
    Deaf(Port, Port),
    /// They do again.
    Mend(Port, Port),
    /// A conversation may be lost from here on, fault or not.
    GiveUp(usize),
    /// Keep the client's last segment from here on.
    Keep,
    /// That segment arrives once more.
    Repeat,
    /// The next stage of a change of the cluster's key, at every instance: add, activate, remove.
    Keys,
    /// Nothing, but the scenario lasts until here.
    Wait,
}

/// The client of a cluster of three, where an instance is named.
pub const CLIENT: Port = 3;

/// The last conversation begun.
pub const LAST: usize = usize::MAX;

/// What happens without a fault.
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    pub(super) setup: fn() -> Setup,
    /// Its steps begin with the boot of the instances.
    pub(super) cold: bool,
    /// What comes before any step counts.
    pub(super) prelude: fn(&mut Trial),
    /// What is done, with the time in microseconds. What clients still have to say, they say after the last.
    pub(super) acts: &'static [(u64, Act)],
}

impl std::fmt::Debug for Scenario {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

fn setup() -> Setup {
    Setup {
        nodes: 3,
        client_link: Rules::delayed(Duration::from_millis(1)),
        // So long that frames of the client arrive while a session is frozen.
        node_link: Rules::delayed(Duration::from_micros(200)),
        sockets: SocketConfig {
            receive: 16 * 1024,
            ..SocketConfig::default()
        },
        ..Setup::default()
    }
}

fn patient() -> Setup {
    Setup {
        patience: PATIENCE,
        ..setup()
    }
}

/// One that gives sessions away unasked: two instances and a witness. Whoever is alone has all sessions.
fn giving(triggers: &[Trigger]) -> Setup {
    Setup {
        role: RoleConfig {
            witnesses: vec![MemberId(3)],
            ..RoleConfig::default()
        },
        policy: PolicyConfig {
            triggers: triggers.to_vec(),
            hold: Duration::from_secs(1),
            ..PolicyConfig::default()
        },
        ..setup()
    }
}

/// So many conversations while the second instance is off: at the first.
fn gather(trial: &mut Trial, mode: Mode, octets: u64, count: usize) {
    trial.crash(1);
    for _ in 0..count {
        trial.host(mode, octets, 0);
    }
}

/// The same with downloads that begin at once, as no more are taken when the memory is used up, and of which
/// nobody reads the rest.
fn hoard(trial: &mut Trial, octets: u64, count: usize) {
    trial.crash(1);
    // Until nobody is sent there.
    trial.storm.run_for(Duration::from_secs(4));
    let begun: Vec<usize> = (0..count).map(|_| trial.begin(Download, octets)).collect();
    trial.storm.run_for(Duration::from_millis(8));
    for conversation in begun {
        let cluster = &mut trial.storm.cluster;
        cluster.change_plan(conversation, |plan| plan.reads = false);
    }
    trial.storm.run_for(Duration::from_millis(500));
}

fn news(archive: Archive) -> Plan {
    const NEWS: &str = "/news.bin";
    Plan::http_file(NEWS, by_path(archive, NEWS).map_or(&[], |file| file.bytes))
}

const OCTETS: u64 = 24_000;
const MS: u64 = 1_000;
const S: u64 = 1_000_000;
/// When a client speaks at 0, what it says reaches the source just after this.
const JUST_BEFORE: u64 = 1_400;
/// A fourth member that is found serves, and is drained.
const FOUND: &[(u64, Act)] = &[
    (5 * S, Act::Begin(Echo, OCTETS)),
    (5_500 * MS, Act::Move(0, 3)),
    (6 * S, Act::Begin(Download, OCTETS)),
    (7 * S, Act::Say(0, OCTETS / 4)),
    (9 * S, Act::Drain(3)),
    (12 * S, Act::Say(0, OCTETS / 4)),
];

/// All of them.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "boot",
        setup,
        cold: true,
        prelude: |_| {},
        acts: &[
            (100 * MS, Act::Begin(Echo, OCTETS)),
            (101 * MS, Act::Begin(Download, OCTETS)),
            (3 * S, Act::Begin(Upload, OCTETS)),
        ],
    },
    Scenario {
        name: "move",
        setup: || Setup {
            nodes: 4,
            ..setup()
        },
        cold: false,
        prelude: |trial| {
            trial.host(Echo, OCTETS, 1);
        },
        acts: &[
            (0, Act::Say(0, OCTETS / 4)),
            (JUST_BEFORE, Act::Move(0, 2)),
            (20 * MS, Act::Say(0, OCTETS / 4)),
        ],
    },
    Scenario {
        name: "chain",
        setup: patient,
        cold: false,
        prelude: |trial| {
            trial.host(Upload, OCTETS, 0);
        },
        acts: &[
            (0, Act::Say(0, OCTETS / 4)),
            (JUST_BEFORE, Act::Move(0, 1)),
            (20 * MS, Act::Move(0, 2)),
            (150 * MS, Act::Say(0, OCTETS / 4)),
            (300 * MS, Act::Move(0, 0)),
        ],
    },
    Scenario {
        name: "crossing",
        setup: || Setup {
            ipv6: true,
            ..setup()
        },
        cold: false,
        prelude: |trial| {
            trial.host(Echo, OCTETS, 1);
            trial.host(Upload, OCTETS, 2);
        },
        acts: &[
            (0, Act::Say(0, OCTETS / 4)),
            (0, Act::Say(1, OCTETS / 4)),
            (JUST_BEFORE, Act::Move(0, 2)),
            (JUST_BEFORE, Act::Move(1, 1)),
        ],
    },
    Scenario {
        name: "ahead",
        setup: patient,
        cold: false,
        prelude: |trial| {
            trial.host(Download, 120_000, 1);
        },
        acts: &[(0, Act::Move(0, 2)), (2 * S, Act::Wait)],
    },
    Scenario {
        name: "refusal",
        setup,
        cold: false,
        prelude: |trial| {
            trial.host(Echo, OCTETS, 1);
        },
        acts: &[
            (0, Act::Say(0, OCTETS / 4)),
            // The offer and the word that the target leaves cross each other.
            (JUST_BEFORE, Act::Move(0, 2)),
            (JUST_BEFORE, Act::Drain(2)),
            (3 * S, Act::Wait),
        ],
    },
    Scenario {
        name: "drain",
        setup: patient,
        cold: false,
        prelude: |trial| {
            trial.host(Echo, OCTETS, 1);
            trial.host(Download, 60_000, 1);
            // Whoever leaves has something to remember.
            let over = trial.host(Upload, 4_000, 1);
            trial.finish(over);
        },
        acts: &[
            (0, Act::Say(0, OCTETS / 4)),
            (JUST_BEFORE, Act::Drain(1)),
            (5 * MS, Act::Begin(Echo, OCTETS)),
            (4 * S, Act::Wait),
        ],
    },
    Scenario {
        name: "drain-ingress",
        setup,
        cold: false,
        prelude: |trial| {
            trial.host(Echo, OCTETS, 0);
            trial.host(Upload, OCTETS, 1);
        },
        acts: &[
            (0, Act::Say(0, OCTETS / 4)),
            (JUST_BEFORE, Act::Drain(0)),
            (60 * MS, Act::Say(1, OCTETS / 4)),
            (4 * S, Act::Wait),
        ],
    },
    Scenario {
        name: "doubt-owned",
        setup,
        cold: false,
        prelude: |trial| {
            trial.host(Echo, OCTETS, 1);
        },
        acts: &[
            (0, Act::Say(0, OCTETS / 4)),
            // The capsule arrives, the answer does not.
            (JUST_BEFORE, Act::Deaf(2, 1)),
            (JUST_BEFORE, Act::Move(0, 2)),
            (4 * S, Act::Mend(1, 2)),
            (6 * S, Act::Wait),
        ],
    },
    Scenario {
        name: "doubt-not-owned",
        setup,
        cold: false,
        prelude: |trial| {
            trial.host(Upload, OCTETS, 1);
        },
        acts: &[
            (0, Act::Say(0, OCTETS / 4)),
            (JUST_BEFORE, Act::Cut(2, 1)),
            (JUST_BEFORE, Act::Move(0, 2)),
            (4 * S, Act::Mend(1, 2)),
            (6 * S, Act::Wait),
        ],
    },
    Scenario {
        name: "doubt-forgotten",
        setup: || Setup {
            remembered: Some(1),
            ..setup()
        },
        cold: false,
        prelude: |trial| {
            trial.host(Echo, OCTETS, 1);
            for _ in 0..2 {
                // Only what came from elsewhere is remembered.
                let other = trial.host(Echo, OCTETS, 1);
                trial.bring(other, 2);
            }
        },
        acts: &[
            (0, Act::GiveUp(0)),
            (0, Act::Cut(2, 1)),
            (0, Act::Move(0, 2)),
            (4 * S, Act::Mend(1, 2)),
            (6 * S, Act::Wait),
        ],
    },
    Scenario {
        name: "take-over",
        setup,
        cold: false,
        prelude: |trial| {
            trial.host(Echo, OCTETS, 0);
            trial.host(Echo, OCTETS, 1);
            trial.host(Upload, OCTETS, 2);
        },
        acts: &[
            (0, Act::Say(1, OCTETS / 4)),
            (500, Act::Crash(0)),
            (S, Act::Say(2, OCTETS / 4)),
            (1_500 * MS, Act::Begin(Download, OCTETS)),
            (6 * S, Act::Boot(0)),
            // Nobody's any more.
            (7 * S, Act::Say(0, OCTETS / 4)),
            (10 * S, Act::Move(1, 0)),
        ],
    },
    // The fourth is found by the others, serves, and is drained.
    Scenario {
        name: "found",
        setup: || Setup {
            nodes: 4,
            found: 1,
            ..setup()
        },
        cold: true,
        prelude: |_| {},
        acts: FOUND,
    },
    // The same where the instances have a network of their own.
    Scenario {
        name: "found-apart",
        setup: || Setup {
            nodes: 4,
            found: 1,
            instance_link: Some(Rules::delayed(Duration::from_micros(200))),
            ..setup()
        },
        cold: true,
        prelude: |_| {},
        acts: FOUND,
    },
    Scenario {
        name: "come-back",
        setup: || Setup {
            role: RoleConfig {
                preempt: true,
                ..RoleConfig::default()
            },
            preferred: Some(MemberId(1)),
            ..setup()
        },
        cold: false,
        prelude: |trial| {
            trial.host(Upload, OCTETS, 1);
        },
        acts: &[
            (0, Act::Crash(0)),
            (3 * S, Act::Say(0, OCTETS / 4)),
            (3 * S, Act::Boot(0)),
            (6 * S, Act::Begin(Echo, OCTETS)),
            // The other has to be there for five leases.
            (15 * S, Act::Say(0, OCTETS / 4)),
        ],
    },
    Scenario {
        name: "witness",
        setup: || Setup {
            role: RoleConfig {
                witnesses: vec![MemberId(3)],
                ..RoleConfig::default()
            },
            ..setup()
        },
        cold: false,
        prelude: |trial| {
            trial.host(Echo, OCTETS, 1);
            trial.host(Upload, OCTETS, 0);
        },
        acts: &[
            (0, Act::Say(0, OCTETS / 4)),
            (0, Act::Move(1, 1)),
            (100 * MS, Act::Crash(0)),
            (3 * S, Act::Begin(Download, OCTETS)),
            (4 * S, Act::Boot(0)),
            (6 * S, Act::Move(0, 0)),
        ],
    },
    Scenario {
        name: "two",
        setup: || Setup {
            nodes: 2,
            role: RoleConfig {
                prefer: Prefer::Availability,
                ..RoleConfig::default()
            },
            ..setup()
        },
        cold: false,
        prelude: |trial| {
            trial.host(Echo, OCTETS, 1);
            trial.host(Upload, OCTETS, 0);
        },
        acts: &[
            (0, Act::Say(0, OCTETS / 4)),
            (0, Act::Say(1, OCTETS / 4)),
            (JUST_BEFORE, Act::Move(0, 0)),
            (100 * MS, Act::Move(1, 1)),
            (300 * MS, Act::Begin(Echo, OCTETS)),
        ],
    },
    Scenario {
        name: "wander",
        setup: || Setup {
            served: Served::Wanderer,
            ..setup()
        },
        cold: false,
        prelude: |trial| {
            trial.begin(Echo, 64_000);
            trial.begin(Echo, 32_000);
        },
        acts: &[
            (0, Act::Say(0, 10_000)),
            (200 * MS, Act::Say(1, 12_000)),
            (400 * MS, Act::Say(0, 16_000)),
        ],
    },
    // Half of them go to the instance that comes back, by their own, while clients speak.
    Scenario {
        name: "policy-load",
        setup: || giving(&[Trigger::Load]),
        cold: false,
        prelude: |trial| gather(trial, Echo, 8_000, 10),
        acts: &[
            (0, Act::Boot(1)),
            (1_500 * MS, Act::Say(0, 2_000)),
            (2_000 * MS, Act::Say(1, 2_000)),
            (2_500 * MS, Act::Say(2, 2_000)),
            (6 * S, Act::Wait),
        ],
    },
    // What the instance says to those who connect is lost: they stay half open.
    Scenario {
        name: "policy-flood",
        setup: || Setup {
            tcp: TcpConfig {
                max_half_open: 8,
                ..TcpConfig::default()
            },
            ..giving(&[Trigger::Flood])
        },
        cold: false,
        prelude: |trial| gather(trial, Upload, 8_000, 4),
        acts: &[
            (0, Act::Deaf(0, CLIENT)),
            (100, Act::Begin(Echo, 400)),
            (200, Act::Begin(Echo, 400)),
            (300, Act::Begin(Echo, 400)),
            (400, Act::Begin(Echo, 400)),
            (500, Act::Begin(Echo, 400)),
            (600, Act::Begin(Echo, 400)),
            (700, Act::Begin(Echo, 400)),
            (10 * MS, Act::Boot(1)),
            (3 * S, Act::Say(0, 2_000)),
            (4 * S, Act::Mend(0, CLIENT)),
            (5 * S, Act::Wait),
        ],
    },
    // Clients that do not read take all the memory there is.
    Scenario {
        name: "policy-health",
        setup: || Setup {
            tcp: TcpConfig {
                memory: 60_000,
                ..TcpConfig::default()
            },
            patience: PATIENCE,
            ..giving(&[Trigger::Health])
        },
        cold: false,
        prelude: |trial| hoard(trial, 120_000, 6),
        acts: &[(0, Act::Boot(1)), (10 * S, Act::Wait)],
    },
    Scenario {
        name: "handover",
        setup: || Setup {
            ipv6: true,
            ..setup()
        },
        cold: false,
        prelude: |trial| {
            trial.host(Echo, OCTETS, 0);
            trial.host(Upload, OCTETS, 1);
        },
        acts: &[
            (0, Act::Begin(Echo, OCTETS)),
            (0, Act::Begin(Download, OCTETS)),
            (0, Act::Say(1, OCTETS / 4)),
            (1_300, Act::Yield(0, 2)),
            (1_500, Act::Begin(Upload, OCTETS)),
            (100 * MS, Act::Say(0, OCTETS / 4)),
        ],
    },
    Scenario {
        name: "duplicate",
        setup,
        cold: false,
        prelude: |trial| {
            trial.host(Echo, OCTETS, 1);
        },
        acts: &[
            (0, Act::Keep),
            (0, Act::Say(0, OCTETS)),
            (200 * MS, Act::Repeat),
            (400 * MS, Act::Repeat),
            (500 * MS, Act::Wait),
        ],
    },
    Scenario {
        name: "keys",
        setup,
        cold: false,
        prelude: |trial| {
            trial.host(Echo, OCTETS, 1);
        },
        acts: &[
            (0, Act::Keys),
            (S, Act::Keys),
            (S + JUST_BEFORE, Act::Move(0, 2)),
            (S + 20 * MS, Act::Say(0, OCTETS / 4)),
            (3 * S, Act::Keys),
            (3 * S + 300, Act::Move(0, 1)),
            (4 * S, Act::Wait),
        ],
    },
    Scenario {
        name: "content",
        setup: || Setup {
            served: Served::Releases,
            sockets: SocketConfig {
                receive: 8 * 1024,
                ..SocketConfig::default()
            },
            ..setup()
        },
        cold: false,
        prelude: |trial| trial.host_file(&news(FIRST), &news(SECOND), 0),
        acts: &[(0, Act::Move(LAST, 1)), (S, Act::Wait)],
    },
];
