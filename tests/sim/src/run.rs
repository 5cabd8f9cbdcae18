//! One seed, one report: what `godwit sim` runs.

use godwit_netstack::instance::PATIENCE;
use godwit_netstack::stack::DeviceCapabilities;
use godwit_netstack::{Duration, Instant};

use crate::check::{Retransmission, Silence, Violation};
use crate::host::{Outcome, Plan};
use crate::net::{Burst, Rate, Rules};
use crate::node::Habits;
use crate::rng::Rng;
use crate::scenario::{Cluster, Rests, Setup};
use crate::script::{Closing, Mode};
use crate::swarm;
use crate::weather::Weather;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything random follows from it.
    pub seed: u64,
    /// Octets of each conversation.
    pub octets: u64,
    /// Conversations, one after the other.
    pub conversations: u32,
    /// Instances.
    pub nodes: u32,
    /// Virtual time between moves.
    pub move_every: Duration,
    /// Whether links lose, reorder, repeat and corrupt.
    pub rough: bool,
    /// IPv6 rather than IPv4; by seed if `None`.
    pub ipv6: Option<bool>,
    /// Two networks rather than one; by seed if `None`.
    pub parted: Option<bool>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            seed: 1,
            octets: 1_000_000,
            conversations: 3,
            nodes: 3,
            move_every: Duration::from_millis(5),
            rough: true,
            ipv6: None,
            parted: None,
        }
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Moves that were accepted.
    pub moves: u64,
    /// Payload octets the client and the service exchanged as planned.
    pub octets: u64,
    /// Frames emitted by all parties.
    pub frames: u64,
    /// Rules broken, in all.
    pub violations: u64,
    /// The first of them.
    pub first_violations: Vec<Violation>,
    /// Segments of the service that repeat a range.
    pub server_retransmissions: u64,
    /// Segments of the client that repeat a range.
    pub client_retransmissions: u64,
    /// Silence at moves, sorted.
    pub silence: Vec<Duration>,
    /// Sessions whose queues went ahead of their capsules.
    pub sent_ahead: u64,
    /// Virtual time it took.
    pub virtual_time: Duration,
    /// Depends on every frame.
    pub trace_hash: u64,
}

/// Links that do everything links do, in proportions drawn from `rng`.
pub fn rough_rules(rng: &mut Rng) -> Rules {
    Rules {
        loss_ppm: rng.below(20_000) as u32,
        burst: rng.chance(300_000).then_some(Burst {
            enter_ppm: 1_000,
            leave_ppm: 400_000,
        }),
        duplicate_ppm: rng.below(20_000) as u32,
        reorder_ppm: rng.below(50_000) as u32,
        reorder_by: Duration::from_micros(rng.below(3_000)),
        delay: Duration::from_micros(20 + rng.below(3_000)),
        jitter: Duration::from_micros(rng.below(500)),
        rate: rng.chance(300_000).then(|| {
            let octets_per_second = 1_000_000 << rng.below(7);
            Rate {
                octets_per_second,
                // 2 to 100 ms of it: from shallow to bloated.
                queue: octets_per_second * (2 + rng.below(99)) / 1000,
            }
        }),
        corrupt_ppm: rng.below(5_000) as u32,
        black_hole: false,
        mark_ppm: match rng.chance(500_000) {
            true => rng.below(20_000) as u32,
            false => 0,
        },
        narrow: None,
        forge_ppm: match rng.chance(300_000) {
            true => rng.below(20_000) as u32,
            false => 0,
        },
    }
}

/// A client that rests, in turns.
struct Turns {
    rests: Rests,
    reads: bool,
    next: Instant,
}

impl Turns {
    fn new(rests: Rests, now: Instant) -> Turns {
        Turns {
            rests,
            reads: true,
            next: now + rests.reads,
        }
    }

    /// The client may stop to read, or go on with it.
    fn look(&mut self, cluster: &mut Cluster, conversation: usize) {
        let now = cluster.now();
        if now >= self.next {
            self.reads = !self.reads;
            self.next = now
                + match self.reads {
                    true => self.rests.reads,
                    false => self.rests.rests,
                };
            let reads = self.reads;
            cluster.change_plan(conversation, |plan| plan.reads = reads);
        }
        cluster.world.wake_at(self.next);
    }
}

/// What the cluster and the client of a seed are made of. What else follows from the seed may be drawn
/// from `rng` afterwards.
pub(crate) fn setup(options: &Options, root: &Rng, rng: &mut Rng) -> Setup {
    let mut setup = Setup {
        seed: options.seed,
        ipv6: options
            .ipv6
            .unwrap_or(root.split(0x6970, 0).chance(500_000)),
        nodes: options.nodes,
        habits: Habits {
            commit_after: Duration::from_micros(rng.below(500)),
            write_at_most: 64 + rng.below(20_000) as usize,
        },
        ..Setup::default()
    };
    if root.split(0x7473, 0).chance(500_000) {
        setup.capabilities = DeviceCapabilities {
            tx_checksum: true,
            tso4: true,
            tso6: true,
        };
    }
    if root.split(0x7061, 0).chance(500_000) {
        setup.patience = PATIENCE;
    }
    if options.rough {
        setup.client_link = rough_rules(rng);
        setup.node_link = Rules {
            delay: Duration::from_micros(20),
            ..rough_rules(rng)
        };
    }
    swarm::choose(&mut setup, options.rough, &mut root.split(0x6f70, 0));
    let parted = root.split(0x6e77, 0).chance(250_000);
    if options.parted.unwrap_or(parted) {
        swarm::part_networks(&mut setup, options.rough, &mut root.split(0x6e77, 1));
    }
    if std::env::var_os("GODWIT_SIM_TRACE").is_some() {
        eprintln!("{setup:#?}");
    }
    setup
}

/// Run conversations of every mode under moves, and report.
pub fn run(options: &Options) -> Report {
    let root = Rng::new(options.seed);
    let mut rng = root.split(0x7275, 0);
    let setup = setup(options, &root, &mut rng);
    let mut cluster = Cluster::new(setup);
    let begun = cluster.now();
    let mut weather = match options.rough {
        true => Weather::new(root.split(0x7765, 0), begun),
        false => None,
    };
    let mut octets = 0;
    for number in 0..options.conversations {
        let mode = match (u64::from(number) + rng.below(3)) % 3 {
            0 => Mode::Download,
            1 => Mode::Upload,
            _ => Mode::Echo,
        };
        let closing = if rng.chance(500_000) {
            Closing::Client
        } else {
            Closing::Server
        };
        let plan = Plan::script(mode, closing, options.octets, rng.draw());
        let conversation = cluster.converse(plan);
        let mut due = cluster.now() + options.move_every;
        let now = cluster.now();
        let mut turns = cluster.setup.rests.map(|rests| Turns::new(rests, now));
        cluster.finish_with(conversation, Duration::from_secs(1_800), |cluster| {
            if let Some(weather) = &mut weather {
                weather.look(cluster);
            }
            if let Some(turns) = &mut turns {
                turns.look(cluster, conversation);
            }
            if cluster.now() >= due && cluster.move_on() {
                due = cluster.now() + options.move_every;
            }
        });
        if cluster.outcome(conversation) == Outcome::Done {
            octets += options.octets;
        }
    }
    report(options, begun, octets, cluster)
}

fn report(options: &Options, begun: Instant, octets: u64, mut cluster: Cluster) -> Report {
    let mut silence = cluster.world.check::<Silence>().at_moves.clone();
    silence.sort_unstable();
    let repeated = cluster.world.check::<Retransmission>();
    let (server_retransmissions, client_retransmissions) = (repeated.server, repeated.client);
    Report {
        seed: options.seed,
        moves: cluster.moves(),
        octets,
        frames: cluster.world.frames(),
        violations: cluster.world.violation_count(),
        first_violations: cluster.violations().to_vec(),
        server_retransmissions,
        client_retransmissions,
        silence,
        sent_ahead: cluster.counter("sessions_sent_ahead"),
        virtual_time: cluster.now().since(begun),
        trace_hash: cluster.world.trace_hash(),
    }
}

impl Report {
    /// The value at a share (0 to 1) of the sorted silences, in microseconds.
    fn silence_at(&self, share: f64) -> Option<u64> {
        let last = self.silence.len().checked_sub(1)?;
        let at = (last as f64 * share).round() as usize;
        Some(self.silence.get(at)?.as_micros() as u64)
    }

    /// As data: the deterministic counts of a run.
    pub fn to_json(&self) -> serde_json::Value {
        let first: Vec<String> = self
            .first_violations
            .iter()
            .map(ToString::to_string)
            .collect();
        serde_json::json!({
            "seed": self.seed,
            "moves": self.moves,
            "octets": self.octets,
            "frames": self.frames,
            "violations": self.violations,
            "first_violations": first,
            "server_retransmissions": self.server_retransmissions,
            "client_retransmissions": self.client_retransmissions,
            "silence_us": {
                "p50": self.silence_at(0.5),
                "p99": self.silence_at(0.99),
                "max": self.silence_at(1.0),
            },
            "sent_ahead": self.sent_ahead,
            "virtual_ms": self.virtual_time.as_millis() as u64,
            "trace": format!("{:016x}", self.trace_hash),
        })
    }
}
