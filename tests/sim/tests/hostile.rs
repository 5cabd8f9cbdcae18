//! A member that holds the key but sends broken capsules, and strangers that do not hold it.

use std::any::Any;
use std::collections::BTreeMap;
use std::net::IpAddr;

use bytes::Bytes;
use godwit_netstack::Duration;
use godwit_netstack::cluster::message::{Attempt, Heartbeat, Message, Transfer};
use godwit_netstack::cluster::{CHANNEL_PORT, MemberId};
use godwit_netstack::migrate::transfer::RefuseReason;
use godwit_sim::host::{Heard, Host, HostConfig, Plan, SocketConfig, StrangeMember};
use godwit_sim::net::{Port, Rules};
use godwit_sim::node::port_of;
use godwit_sim::scenario::{Cluster, Setup};
use godwit_sim::script::{Closing, Mode};

const STRANGER: MemberId = MemberId(3);

/// Two instances, and a third member that is not one.
struct Stage {
    cluster: Cluster,
    /// Port of the third member.
    stranger: Port,
}

fn stage(key: impl Fn(&Setup) -> [u8; 32]) -> Stage {
    let setup = Setup {
        strangers: 1,
        ..Setup::default()
    };
    let key = key(&setup);
    let members: Vec<(IpAddr, MemberId)> = [MemberId(1), MemberId(2)]
        .map(|id| (setup.member_address(id), id))
        .to_vec();
    let address = setup.member_address(STRANGER);
    let mut cluster = Cluster::cold(setup);
    let mut host = Host::new(
        HostConfig {
            mac: [2, 0, 0, 0, 3, 1],
            addresses: vec![(address, 24)],
            mtu: 1500,
            seed: 3,
            serves: false,
        },
        cluster.now(),
    );
    for _ in &members {
        let mut member = StrangeMember::new(STRANGER, members.clone(), key, false);
        // Draining: nothing is steered to it.
        member.beat(heartbeat(true));
        host.listen(CHANNEL_PORT, SocketConfig::default(), Box::new(member));
    }
    let link = Rules::delayed(Duration::from_micros(20));
    let stranger = cluster.world.attach(Box::new(host), link);
    cluster.await_channels();
    cluster.world.run_for(Duration::from_millis(500));
    Stage { cluster, stranger }
}

fn heartbeat(draining: bool) -> Message {
    Message::Heartbeat(Heartbeat {
        sessions: 0,
        room: 1000,
        draining,
        healthy: true,
        priority: 0,
        version: 1,
        term: 0,
        clock: 0,
        claim: None,
    })
}

impl Stage {
    /// Do something at the stranger's end of its channel to `peer`.
    fn with<R>(&mut self, peer: MemberId, act: impl FnOnce(&mut StrangeMember) -> R) -> R {
        self.cluster
            .world
            .with(self.stranger, |host: &mut Host, _| {
                let index = (0..2).find(|index| {
                    let (_, app) = host.task(*index);
                    let app = app as &dyn Any;
                    app.downcast_ref::<StrangeMember>().unwrap().peer() == Some(peer)
                });
                let (_, app) = host.task_mut(index.expect("the channel is up"));
                let app = app as &mut dyn Any;
                act(app.downcast_mut().unwrap())
            })
    }

    fn heard(&mut self, peer: MemberId) -> Vec<Heard> {
        self.with(peer, |member| std::mem::take(&mut member.heard))
    }

    /// Send a transfer and hear the answer to it: why it is refused, or nothing if it is affirmed.
    fn send(&mut self, to: MemberId, attempt: Attempt, capsule: Bytes) -> Option<RefuseReason> {
        self.with(to, |member| {
            let hello = member.greeting().expect("the channel is up").clone();
            let transfer = Transfer {
                session: attempt.session,
                epoch: attempt.epoch,
                boot: hello.boot,
                generation: hello.generation,
            };
            member.say(&Message::Transfer(transfer), capsule);
        });
        self.cluster.world.run_for(Duration::from_millis(3));
        let heard = self.heard(to);
        let answer = heard.iter().find_map(|heard| match heard.message {
            Message::Refused {
                attempt: about,
                reason,
            } if about == attempt => Some(Some(reason)),
            Message::Accepted { attempt: about, .. } if about == attempt => Some(None),
            _ => None,
        });
        answer.unwrap_or_else(|| panic!("no answer to {attempt:?}: {heard:?}"))
    }

    /// The same, of a transfer that must be refused.
    fn offer(&mut self, to: MemberId, attempt: Attempt, capsule: Bytes) -> RefuseReason {
        let answer = self.send(to, attempt, capsule);
        answer.unwrap_or_else(|| panic!("accepted: {attempt:?}"))
    }

    /// Have the owner of the session offer it to the stranger, and refuse it: a real capsule.
    fn obtain(&mut self) -> (MemberId, Attempt, Bytes) {
        let (owner, session) = self.cluster.owner().expect("someone owns the session");
        let id = MemberId(owner as u32 + 1);
        self.with(id, |member| member.beat(heartbeat(false)));
        self.cluster.world.run_for(Duration::from_millis(200));
        self.heard(id);
        self.cluster
            .move_session(owner, session.id, port_of(STRANGER))
            .expect("the stranger is a member");
        self.cluster.world.run_for(Duration::from_millis(3));
        let heard = self.heard(id);
        let (attempt, capsule) = heard
            .into_iter()
            .find_map(|heard| match heard.message {
                Message::Transfer(transfer) => Some((
                    Attempt {
                        session: transfer.session,
                        epoch: transfer.epoch,
                    },
                    heard.tail,
                )),
                _ => None,
            })
            .expect("the session was offered");
        self.with(id, |member| {
            member.beat(heartbeat(true));
            member.say(
                &Message::Refused {
                    attempt,
                    reason: RefuseReason::Capacity,
                },
                Bytes::new(),
            );
        });
        self.cluster.world.run_for(Duration::from_millis(200));
        assert_eq!(
            self.cluster.owner().map(|(port, _)| port),
            Some(owner),
            "thawed"
        );
        (id, attempt, capsule)
    }
}

/// An echo that waits in the middle, so that a capsule of it is small.
fn resting_echo(cluster: &mut Cluster) -> usize {
    let mut plan = Plan::script(Mode::Echo, Closing::Client, 2_000, 9);
    plan.send = 1_000;
    let conversation = cluster.converse(plan);
    cluster.world.run_for(Duration::from_millis(200));
    conversation
}

#[test]
fn a_broken_capsule_is_refused_with_a_reason_and_counted_and_changes_nothing() {
    let mut stage = stage(Setup::cluster_key);
    let conversation = resting_echo(&mut stage.cluster);
    let (owner, mut attempt, capsule) = stage.obtain();
    assert!(capsule.len() < 2_000, "{} octets of capsule", capsule.len());
    let other = MemberId(3 - owner.0);

    let mut broken: Vec<Bytes> = (0..capsule.len()).map(|end| capsule.slice(..end)).collect();
    for bit in 0..capsule.len() * 8 {
        let mut flipped = capsule.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        broken.push(flipped.into());
    }
    broken.push([&capsule[..], b"x"].concat().into());
    broken.push(vec![0; 1_000_000].into());
    broken.push([&capsule[..], &vec![0; 6_000_000]].concat().into());

    let mut reasons: BTreeMap<&'static str, u64> = BTreeMap::new();
    for capsule in broken {
        for to in [owner, other] {
            attempt.epoch += 1;
            let reason = stage.offer(to, attempt, capsule.clone());
            *reasons.entry(reason.counter()).or_default() += 1;
        }
    }
    // Every refusal is counted under its reason.
    for (counter, refused) in &reasons {
        let counted: u64 = [owner, other]
            .map(|id| stage.cluster.node(port_of(id)).counter(counter))
            .iter()
            .sum();
        assert_eq!(counted, *refused, "{counter}");
    }
    assert!(reasons.len() >= 3, "{reasons:?}");

    // A real capsule under a used epoch is stale, whoever gets it; under another session's name
    // it is a lie.
    let stale = Attempt {
        epoch: 1,
        ..attempt
    };
    stage.send(owner, stale, capsule.clone());
    let mut other_session = attempt;
    other_session.session.number ^= 1;
    stage.offer(other, other_session, capsule.clone());

    // The connection is still where it was, and goes on to its end.
    assert_eq!(
        stage.cluster.owner().map(|(port, _)| port),
        Some(port_of(owner))
    );
    stage
        .cluster
        .change_plan(conversation, |plan| plan.send = 2_000);
    stage.cluster.finish(conversation, Duration::from_secs(10));
    stage.cluster.assert_clean("broken capsules");
}

#[test]
fn a_replayed_transfer_is_refused() {
    let mut stage = stage(Setup::cluster_key);
    let conversation = resting_echo(&mut stage.cluster);
    let (owner, attempt, capsule) = stage.obtain();
    let other = port_of(MemberId(3 - owner.0));
    // The session moves on and comes back; the old capsule is of the past.
    for to in [other, port_of(owner)] {
        let (from, session) = stage.cluster.owner().unwrap();
        stage.cluster.move_session(from, session.id, to).unwrap();
        stage.cluster.world.run_for(Duration::from_millis(200));
        assert_eq!(stage.cluster.owner().map(|(port, _)| port), Some(to));
    }
    let whose = |stage: &Stage| {
        stage
            .cluster
            .owner()
            .map(|(port, session)| (port, session.epoch))
    };
    let home = whose(&stage);
    for to in [MemberId(1), MemberId(2)] {
        let counted = |stage: &Stage| stage.cluster.node(port_of(to)).counter("transfer_replayed");
        let before = counted(&stage);
        // Who has had the session under that epoch or a later one says so again, but takes
        // nothing in.
        match stage.send(to, attempt, capsule.clone()) {
            Some(reason) => assert_eq!(reason, RefuseReason::EpochBurned),
            None => assert_eq!(counted(&stage), before + 1),
        }
        assert_eq!(whose(&stage), home);
    }
    stage
        .cluster
        .change_plan(conversation, |plan| plan.send = 2_000);
    stage.cluster.finish(conversation, Duration::from_secs(10));
    stage.cluster.assert_clean("replay");
}

#[test]
fn a_member_without_the_key_gets_nothing() {
    let mut stage = stage(|_| [0; 32]);
    let conversation = resting_echo(&mut stage.cluster);
    let (owner, session) = stage.cluster.owner().unwrap();
    let moved = stage
        .cluster
        .move_session(owner, session.id, port_of(STRANGER));
    assert!(moved.is_err(), "moved to a member that never proved itself");
    stage.cluster.world.run_for(Duration::from_secs(5));
    for peer in [MemberId(1), MemberId(2)] {
        let node = stage.cluster.node(port_of(peer));
        let members = node.instance().members();
        assert!(
            members
                .iter()
                .all(|member| member.id != STRANGER || !member.up)
        );
    }
    let host = stage.cluster.world.party::<Host>(stage.stranger);
    for index in 0..2 {
        let (_, app) = host.task(index);
        let member = (app as &dyn Any).downcast_ref::<StrangeMember>().unwrap();
        assert!(member.greeting().is_none() && member.heard.is_empty());
        // One handshake message of 50 octets for each time it was tried.
        assert!(
            member.octets <= 50 * (member.broken() + 1),
            "{}",
            member.octets
        );
    }
    stage
        .cluster
        .change_plan(conversation, |plan| plan.send = 2_000);
    stage.cluster.finish(conversation, Duration::from_secs(10));
    stage.cluster.assert_clean("no key");
}

#[test]
fn noise_on_the_channel_port_is_harmless() {
    let mut stage = stage(|_| [0; 32]);
    let conversation = resting_echo(&mut stage.cluster);
    let members = vec![(stage.cluster.setup.member_address(MemberId(1)), MemberId(1))];
    let target = (members[0].0, CHANNEL_PORT).into();
    let mut rng = stage.cluster.world.rng(1);
    for attempt in 0..50 {
        let mut member = StrangeMember::new(STRANGER, members.clone(), [0; 32], true);
        for _ in 0..rng.below(4_000) {
            let word = rng.draw().to_le_bytes();
            member.raw.extend_from_slice(&word);
        }
        stage
            .cluster
            .world
            .with(stage.stranger, |host: &mut Host, _| {
                host.connect(
                    target,
                    50_000 + attempt,
                    SocketConfig::default(),
                    Box::new(member),
                );
            });
        stage.cluster.world.run_for(Duration::from_millis(20));
    }
    assert!(
        stage
            .cluster
            .node(port_of(MemberId(1)))
            .instance()
            .members()[0]
            .up
    );
    stage
        .cluster
        .change_plan(conversation, |plan| plan.send = 2_000);
    stage.cluster.finish(conversation, Duration::from_secs(10));
    stage.cluster.assert_clean("noise");
}
