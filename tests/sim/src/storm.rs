//! What befalls the members that elect an ingress: crashes, reboots, pauses and partitions, and what
//! has to hold meanwhile.
//!
//! - At every instant at most one instance may act as the ingress by its own lease and clock, and
//!   only that one says that the virtual address is its own. A machine whose clock has missed a
//!   pause is excepted for one lease: it cannot know (DESIGN: the lease quiets an old owner early,
//!   the next heartbeat tells it).
//! - Conversations whose instance lives go on, and every stream is exact.

use std::collections::{BTreeMap, BTreeSet};

use godwit_netstack::cluster::MemberId;
use godwit_netstack::instance::{Prefer, RoleConfig, SessionStatus};
use godwit_netstack::{Duration, Instant};

use crate::check::{FlowId, Reset, Retransmission};
use crate::host::{Outcome, Plan};
use crate::net::{Port, Rules};
use crate::node::{Node, port_of};
use crate::rng::Rng;
use crate::run::rough_rules;
use crate::scenario::{Cluster, Setup};
use crate::script::{Closing, Mode};

/// Local port of the first conversation.
pub(crate) const FIRST_PORT: u16 = 40_000;

/// A cluster and what happens to it.
pub struct Storm {
    /// The cluster.
    pub cluster: Cluster,
    /// Members whose clock has missed a pause, and until when they may be wrong about their lease.
    mistaken: BTreeMap<Port, Instant>,
    down: BTreeSet<Port>,
    boots: u64,
    blows: u64,
    conversations: Vec<usize>,
    lost: BTreeSet<usize>,
}

impl Storm {
    /// A cluster that has elected its ingress.
    pub fn new(setup: Setup) -> Storm {
        Storm::with(Cluster::new(setup))
    }

    /// A cluster that has just booted.
    pub fn cold(setup: Setup) -> Storm {
        Storm::with(Cluster::cold(setup))
    }

    fn with(cluster: Cluster) -> Storm {
        let mut storm = Storm {
            cluster,
            mistaken: BTreeMap::new(),
            down: BTreeSet::new(),
            boots: 0,
            blows: 0,
            conversations: Vec::new(),
            lost: BTreeSet::new(),
        };
        storm.cluster.world.check::<Retransmission>().forbidden = false;
        storm.cluster.world.any_syn_ack = true;
        storm.cluster.world.take_vip_claims();
        storm
    }

    /// Things that befell the members, by [`storm`].
    pub fn blows(&self) -> u64 {
        self.blows
    }

    /// Conversations so far.
    pub fn conversation_count(&self) -> usize {
        self.conversations.len()
    }

    /// Conversations whose instance crashed.
    pub fn lost_count(&self) -> usize {
        self.lost.len()
    }

    /// Instances that may act as the ingress now, each by its own clock.
    pub fn acting(&self) -> Vec<Port> {
        let world = &self.cluster.world;
        let acts = |port: &Port| {
            let node = world.party::<Node>(*port).instance();
            world.is_running(*port) && node.acts_as_ingress(world.clock_of(*port))
        };
        self.cluster.nodes().filter(acts).collect()
    }

    /// Let time pass, everything checked after each step.
    pub fn run_for(&mut self, duration: Duration) {
        let until = self.cluster.now() + duration;
        self.run_while(until, |_| true);
        self.cluster.world.run_until(until);
    }

    /// Let time pass until then or while `go_on`; whether it was `go_on` that ended it.
    pub fn run_while(&mut self, until: Instant, mut go_on: impl FnMut(&Storm) -> bool) -> bool {
        while go_on(self) {
            if !self.step(until) {
                return false;
            }
        }
        true
    }

    /// Let the next thing happen if that is by then, and check. Whether it was.
    pub fn step(&mut self, until: Instant) -> bool {
        match self.cluster.world.next_event() {
            Some(at) if at <= until && self.cluster.world.step() => {
                self.look();
                true
            }
            _ => false,
        }
    }

    fn look(&mut self) {
        let now = self.cluster.now();
        self.mistaken.retain(|_, until| *until > now);
        let claims = self.cluster.world.take_vip_claims();
        if self.cluster.world.trace && !claims.is_empty() {
            eprintln!("{:>10} address claimed {claims:?}", now.as_millis());
        }
        if self.cluster.setup.role.prefer == Prefer::Availability {
            return;
        }
        let mut acting = self.acting();
        acting.retain(|port| !self.mistaken.contains_key(port));
        if acting.len() > 1 {
            let role = |port: &Port| {
                let clock = self.cluster.world.clock_of(*port);
                self.cluster.node(*port).instance().role(clock)
            };
            let roles: Vec<_> = acting.iter().map(role).collect();
            let what = format!("parties {acting:?} act: {roles:?}");
            self.cluster.world.violate("one ingress", what);
        }
        for (_, port) in claims {
            if acting != [port] && !self.mistaken.contains_key(&port) {
                let what = format!("party {port} claims the address, {acting:?} may");
                self.cluster.world.violate("one ingress", what);
            }
        }
    }

    /// Begin a conversation.
    pub fn converse(&mut self, mode: Mode, octets: u64, stream: u64) -> usize {
        let plan = Plan::script(mode, Closing::Client, octets, stream);
        let conversation = self.cluster.converse(plan);
        self.conversations.push(conversation);
        conversation
    }

    /// Begin a conversation of another kind.
    pub fn converse_as(&mut self, plan: Plan) -> usize {
        let conversation = self.cluster.converse(plan);
        self.conversations.push(conversation);
        conversation
    }

    /// Whether a conversation's instance has crashed.
    pub fn is_lost(&self, conversation: usize) -> bool {
        self.lost.contains(&conversation)
    }

    /// The instance that serves the session of a conversation.
    pub fn owner(&self, conversation: usize) -> Option<Port> {
        let (owner, _) = self.session(conversation)?;
        Some(owner)
    }

    /// The session of a conversation where it is served.
    pub fn session(&self, conversation: usize) -> Option<(Port, SessionStatus)> {
        self.copies(conversation).find(|(_, copy)| !copy.frozen)
    }

    /// Where a conversation's session is, served or frozen, at instances that run or stand still.
    pub fn copies(&self, conversation: usize) -> impl Iterator<Item = (Port, SessionStatus)> {
        debug_assert!(self.conversations.contains(&conversation));
        let port = FIRST_PORT + conversation as u16;
        let nodes = self.cluster.nodes();
        let up = nodes.filter(|node| !self.down.contains(node));
        let all = up.flat_map(|node| {
            let sessions = self.cluster.node(node).instance().sessions();
            sessions.into_iter().map(move |session| (node, session))
        });
        all.filter(move |(_, session)| session.remotes.iter().any(|to| to.port() == port))
    }

    /// Whether an instance has no power.
    pub fn is_down(&self, node: Port) -> bool {
        self.down.contains(&node)
    }

    /// Whether a conversation outlives a crash of `node`: another instance serves its session, or has
    /// it frozen for a third one; or there is none yet, and it was not this one that answered the SYN.
    fn outlives(&self, conversation: usize, node: Port) -> bool {
        if self.copies(conversation).next().is_none() {
            let flow = self.flow(conversation);
            let speaker = flow.and_then(|flow| self.cluster.world.flows().get(flow).spoken_by);
            return speaker != Some(node);
        }
        // A source that has had no answer keeps its copy, however far the session has gone since: only the
        // newest counts.
        let newest = self.copies(conversation).map(|(_, copy)| copy.epoch).max();
        let copies = self.copies(conversation);
        let mut newest = copies.filter(|(_, copy)| Some(copy.epoch) == newest);
        newest.any(|(at, copy)| {
            let there = copy.target.map(port_of);
            at != node && there.is_none_or(|to| to != node && !self.down.contains(&to))
        })
    }

    /// Take an instance's power away. Conversations that nobody else is sure to have may be lost with it.
    pub fn crash(&mut self, node: Port) {
        let running = |c: &usize| self.cluster.outcome(*c) == Outcome::Running;
        let conversations = self.conversations.iter().copied();
        let doomed = conversations.filter(|c| running(c) && !self.outlives(*c, node));
        let doomed: Vec<usize> = doomed.collect();
        self.cluster.world.unplug(node);
        self.down.insert(node);
        for conversation in doomed {
            self.give_up(conversation);
        }
        // What it remembered of connections that are over is gone as well: an old duplicate is answered as
        // any TCP answers a segment of no connection.
        for conversation in self.conversations.clone() {
            let flow = self.flow(conversation);
            let flows = self.cluster.world.flows();
            let flow = flow.filter(|flow| flows.get(*flow).spoken_by == Some(node));
            if let Some(flow) = flow
                && self.cluster.outcome(conversation) != Outcome::Running
            {
                self.cluster.world.lose(flow);
            }
        }
    }

    /// Whether a conversation never came to be: what the client sent got there only after the server had
    /// given the handshake up.
    pub fn has_expired(&mut self, conversation: usize) -> bool {
        let flow = self.flow(conversation);
        flow.is_some_and(|flow| self.cluster.world.check::<Reset>().has_expired(flow))
    }

    /// A conversation may be lost: nobody is to blame.
    pub fn give_up(&mut self, conversation: usize) {
        if let Some(flow) = self.flow(conversation) {
            self.lost.insert(conversation);
            self.cluster.world.lose(flow);
        }
    }

    fn flow(&self, conversation: usize) -> Option<FlowId> {
        let client = self.cluster.setup.client_address();
        let port = FIRST_PORT + conversation as u16;
        self.cluster.world.flows().of_client((client, port).into())
    }

    /// Boot an instance, whether it has crashed or not.
    pub fn boot(&mut self, node: Port) {
        self.crash(node);
        self.boots += 1;
        let now = self.cluster.world.clock_of(node);
        let id = MemberId(node as u32 + 1);
        let machine = self.cluster.setup.node(id, self.boots, now);
        self.down.remove(&node);
        self.cluster.world.replace(node, Box::new(machine));
    }

    /// Let an instance stand still; its clock with it, if `unseen`.
    pub fn pause(&mut self, node: Port, duration: Duration, unseen: bool) {
        let world = &mut self.cluster.world;
        let until = match unseen {
            true => world.pause_unseen(node, duration),
            false => world.pause(node, duration),
        };
        // A pause that begins in one that the clock misses is missed as well.
        if unseen || self.mistaken.contains_key(&node) {
            let lease = self.cluster.setup.role.times.lease;
            self.mistaken.insert(node, until + lease);
        }
    }

    /// Cut one instance off from the others (not from the clients).
    pub fn isolate(&mut self, node: Port) {
        for other in self.cluster.nodes().filter(|other| *other != node) {
            self.cluster.world.sever(node, other);
        }
    }

    /// How long until an instance acts, and which.
    pub fn until_acting(&mut self, limit: Duration) -> Option<(Port, Duration)> {
        let begun = self.cluster.now();
        self.run_while(begun + limit, |storm| storm.acting().is_empty());
        let took = self.cluster.now().since(begun);
        self.acting().first().map(|port| (*port, took))
    }

    /// Let a conversation end, within `limit`.
    pub fn finish(&mut self, conversation: usize, limit: Duration) {
        let until = self.cluster.now() + limit;
        self.run_while(until, |storm| {
            storm.cluster.outcome(conversation) == Outcome::Running
                && !storm.is_lost(conversation)
                && !storm.cluster.has_forgotten_its_fin(conversation)
        });
        if self.is_lost(conversation) {
            return;
        }
        let forgotten = self.cluster.has_forgotten_its_fin(conversation);
        match self.cluster.outcome(conversation) {
            Outcome::Done => {}
            Outcome::Running if forgotten => {}
            other => {
                let owner = self.owner(conversation);
                let acting = self.acting();
                let what = format!(
                    "conversation {conversation}: {other:?} after {limit:?}; owner {owner:?}, acting {acting:?}"
                );
                self.cluster.world.violate("progress", what);
            }
        }
    }

    /// End what is wrong, let everything that was not lost end well.
    pub fn calm(&mut self) {
        self.cluster.world.heal();
        for node in core::mem::take(&mut self.down) {
            self.boot(node);
        }
        if self.until_acting(Duration::from_secs(20)).is_none() {
            let what = "nobody is the ingress 20 s after the storm".into();
            self.cluster.world.violate("progress", what);
        }
        for conversation in self.conversations.clone() {
            self.finish(conversation, Duration::from_secs(200));
        }
    }
}

/// The storm of a seed: over two to five members, at times one of them a witness, at times with links that
/// lose heartbeats and votes or bring them late.
pub fn of_seed(seed: u64) -> Storm {
    let nodes = 2 + (seed % 4) as u32;
    let witnesses = match seed % 8 {
        1 => vec![MemberId(3)],
        _ => Vec::new(),
    };
    let mut setup = Setup {
        nodes,
        ipv6: seed.is_multiple_of(3),
        role: RoleConfig {
            witnesses,
            preempt: seed.is_multiple_of(5),
            ..RoleConfig::default()
        },
        // So that conversations last: a crash is to find them in the middle.
        client_link: Rules::delayed(Duration::from_millis(5)),
        ..Setup::default()
    };
    if seed % 7 == 3 {
        setup.node_link = rough_rules(&mut Rng::new(seed));
    }
    if seed % 9 == 4 {
        setup.instance_link = Some(Rules::delayed(Duration::from_micros(50)));
    }
    storm(seed, setup)
}

/// A storm made of `seed`: what happens, when and to whom, all by chance.
pub fn storm(seed: u64, setup: Setup) -> Storm {
    let mut storm = Storm::new(Setup { seed, ..setup });
    let mut rng = storm.cluster.world.rng(0x7374);
    let nodes: Vec<Port> = storm.cluster.nodes().collect();
    for round in 0..4 + rng.below(6) {
        let mode = [Mode::Download, Mode::Upload, Mode::Echo][rng.below(3) as usize];
        storm.converse(mode, 20_000 + rng.below(400_000), round);
        storm.run_for(Duration::from_micros(rng.below(20_000)));
        let node = *pick(&mut rng, &nodes);
        let target = match storm.acting().first() {
            Some(ingress) if rng.chance(500_000) => *ingress,
            _ => node,
        };
        let length = Duration::from_millis(100 + rng.below(6_000));
        let blow = rng.below(8);
        if storm.cluster.world.trace {
            let now = storm.cluster.now().as_millis();
            eprintln!("{now:>10} blow {blow} to {target}, {length:?}");
        }
        storm.blows += 1;
        match blow {
            0 => storm.crash(target),
            1 => storm.boot(target),
            2 => storm.pause(target, length, false),
            3 => storm.pause(target, length, true),
            4 => storm.isolate(target),
            5 => {
                let other = *pick(&mut rng, &nodes);
                storm.cluster.world.sever_one_way(target, other);
            }
            6 => storm.cluster.world.heal(),
            _ => {
                if !storm.down.contains(&target) && storm.cluster.world.is_running(target) {
                    let other = *pick(&mut rng, &nodes);
                    storm.hand_over(target, other);
                }
            }
        }
        storm.run_for(Duration::from_millis(rng.below(5_000)));
    }
    storm.calm();
    storm
}

impl Storm {
    /// Let an instance hand the role on, if it has it.
    pub fn hand_over(&mut self, from: Port, to: Port) {
        let to = MemberId(to as u32 + 1);
        self.cluster.world.with(from, |node: &mut Node, now| {
            node.instance_mut().yield_ingress(now, to);
        });
    }
}

fn pick<'a>(rng: &mut Rng, list: &'a [Port]) -> &'a Port {
    &list[rng.below(list.len() as u64) as usize]
}
