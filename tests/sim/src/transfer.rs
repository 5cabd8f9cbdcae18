//! What a planned move costs the client on a network that does nothing wrong: the silence, to the
//! nanosecond, and nothing else.
//!
//! The world's time only goes on between events, so what an instance computes takes none. From the
//! freeze to the import then passes exactly what the links between the two take in one direction:
//! half a control round trip.

use godwit_netstack::instance::PATIENCE;
use godwit_netstack::session::SessionId;
use godwit_netstack::{Duration, Instant};

use crate::check::Retransmission;
use crate::host::{Outcome, Plan};
use crate::net::{Port, Rules};
use crate::rng::Rng;
use crate::scenario::{Cluster, Setup};
use crate::script::{Closing, Mode};

/// What came of the moves of one seed.
#[derive(Clone, Debug, Default)]
pub struct Clean {
    /// Moves that were accepted.
    pub moves: u64,
    /// Those of them that took exactly half a control round trip.
    pub exact: u64,
    /// The longest silence beyond that.
    pub excess: Duration,
    /// Segments of the client that repeat a range.
    pub client_retransmissions: u64,
    /// Rules broken, RSTs among them.
    pub violations: u64,
    /// The first of them.
    pub first_violation: Option<String>,
}

impl Clean {
    /// Add another seed's.
    pub fn add(&mut self, other: &Clean) {
        self.moves += other.moves;
        self.exact += other.exact;
        self.excess = self.excess.max(other.excess);
        self.client_retransmissions += other.client_retransmissions;
        self.violations += other.violations;
        if self.first_violation.is_none() {
            self.first_violation.clone_from(&other.first_violation);
        }
    }
}

/// Conversations for one move at most: on a quick network one is over before anything was to move.
const MOST: u64 = 8;

/// A move under way.
struct Watched {
    session: SessionId,
    from: Port,
    to: Port,
    frozen: Option<Instant>,
}

impl Watched {
    /// The silence, once it is over.
    fn look(&mut self, cluster: &Cluster) -> Option<Duration> {
        let now = cluster.now();
        let has = |port: Port, frozen: bool| {
            let sessions = cluster.node(port).instance().sessions();
            sessions
                .iter()
                .any(|status| status.id == self.session && status.frozen == frozen)
        };
        if self.frozen.is_none() && has(self.from, true) {
            self.frozen = Some(now);
        }
        let frozen = self.frozen?;
        has(self.to, false).then(|| now.since(frozen))
    }
}

/// Move a conversation `moves` times, at random moments and to random instances.
pub fn clean(seed: u64, moves: u64) -> Clean {
    let mut rng = Rng::new(seed).split(0x7472, 0);
    let micros = |rng: &mut Rng, most| Duration::from_micros(10 + rng.below(most));
    let link = micros(&mut rng, 2_000);
    let setup = Setup {
        seed,
        ipv6: rng.chance(500_000),
        nodes: 2 + rng.below(3) as u32,
        node_link: Rules::delayed(link),
        client_link: Rules::delayed(micros(&mut rng, 20_000)),
        patience: PATIENCE,
        ..Setup::default()
    };
    let half_round_trip = link * 2;
    let mut cluster = Cluster::new(setup);
    let mut clean = Clean::default();
    let mut number = 0;
    while clean.moves < moves && cluster.world.violation_count() == 0 {
        number += 1;
        let mode = [Mode::Download, Mode::Upload, Mode::Echo][rng.below(3) as usize];
        let plan = Plan::script(mode, Closing::Client, 3_000_000, rng.draw());
        let conversation = cluster.converse(plan);
        let pause = |rng: &mut Rng| micros(rng, 30_000);
        let mut due = cluster.now() + pause(&mut rng);
        let mut watched: Option<Watched> = None;
        cluster.finish_with(conversation, Duration::from_secs(600), |cluster| {
            if let Some(silence) = watched.as_mut().and_then(|moving| moving.look(cluster)) {
                watched = None;
                due = cluster.now() + pause(&mut rng);
                clean.moves += 1;
                clean.exact += u64::from(silence == half_round_trip);
                clean.excess = clean.excess.max(silence.saturating_sub(half_round_trip));
            }
            if watched.is_none() && cluster.now() >= due && clean.moves < moves {
                watched = begin(cluster, &mut rng);
                // Perhaps it froze at once.
                if let Some(moving) = &mut watched {
                    moving.look(cluster);
                }
            }
        });
        if cluster.outcome(conversation) != Outcome::Done || number > moves * MOST {
            break;
        }
    }
    clean.client_retransmissions = cluster.world.check::<Retransmission>().client;
    clean.violations = cluster.world.violation_count();
    clean.first_violation = cluster.violations().first().map(ToString::to_string);
    clean
}

/// Order a move of the conversation's session to a random other instance.
fn begin(cluster: &mut Cluster, rng: &mut Rng) -> Option<Watched> {
    let (from, status) = cluster.owner()?;
    let others: Vec<Port> = cluster.nodes().filter(|port| *port != from).collect();
    let to = others[rng.below(others.len() as u64) as usize];
    cluster.move_session(from, status.id, to).ok()?;
    let frozen = None;
    let session = status.id;
    Some(Watched {
        session,
        from,
        to,
        frozen,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_planned_move_on_a_clean_network_takes_half_a_control_round_trip() {
        let mut total = Clean::default();
        for seed in 1..=8 {
            total.add(&clean(seed, 25));
        }
        assert_eq!(
            (total.violations, total.client_retransmissions),
            (0, 0),
            "{total:?}"
        );
        assert_eq!((total.moves, total.exact), (200, 200), "{total:?}");
    }

    #[test]
    fn moves_are_made_also_where_conversations_are_over_sooner_than_the_next_is_due() {
        assert_eq!(clean(5_000_085, 50).exact, 50);
    }
}
