//! One run of a scenario, with or without a fault in it.

use std::collections::{BTreeMap, BTreeSet};

use godwit_netstack::cluster::MemberId;
use godwit_netstack::cluster::keys::Key;
use godwit_netstack::instance::SessionStatus;
use godwit_netstack::session::SessionId;
use godwit_netstack::{Duration, Instant};

use super::Blow;
use super::observe::Observer;
use super::scenarios::{Act, Scenario};
use crate::host::{Outcome, Plan};
use crate::net::Port;
use crate::node::{Node, port_of};
use crate::scenario::{Served, Setup};
use crate::script::{Closing, Mode};
use crate::storm::{FIRST_PORT, Storm};

/// Virtual time a run may take, from the first act on. A client's time-outs double.
const LIMIT: Duration = Duration::from_secs(400);
/// And a new connection once everything is over, for an ingress to be found and a SYN to be repeated. A client
/// that was cut off when the address was announced sends to the former ingress until it is announced again.
const SERVICE: Duration = Duration::from_secs(40);
/// And a frozen session to be thawed or given up, when everybody can be asked.
const FROZEN: Duration = Duration::from_secs(15);
/// From the end of a drain to the next boot of the machine.
const OFF: Duration = Duration::from_secs(1);
/// The key that scenarios change to.
const NEXT_KEY: Key = Key([9; 32]);

/// A scenario while it runs.
pub struct Trial {
    /// The cluster.
    pub storm: Storm,
    scenario: &'static Scenario,
    /// What the clients send in all, by conversation.
    totals: Vec<u64>,
    /// Sessions that each instance serves.
    served: Vec<BTreeSet<SessionId>>,
    /// Instances that have drained and are off, and when they boot.
    off: BTreeMap<Port, Instant>,
    /// How far the change of keys is, and how far each instance is with it.
    keys: u8,
    keys_at: Vec<u8>,
    events: u64,
    /// Attempts to move a session that were looked at.
    offers: BTreeSet<(SessionId, u64)>,
}

impl Trial {
    /// A cluster in the state in which the scenario begins.
    pub fn new(scenario: &'static Scenario, seed: u64) -> Trial {
        let setup = Setup {
            seed,
            ..(scenario.setup)()
        };
        let nodes = setup.nodes as usize;
        let storm = match scenario.cold {
            true => Storm::cold(setup),
            false => Storm::new(setup),
        };
        let mut trial = Trial {
            storm,
            scenario,
            totals: Vec::new(),
            served: vec![BTreeSet::new(); nodes],
            off: BTreeMap::new(),
            keys: 0,
            keys_at: vec![0; nodes],
            events: 0,
            offers: BTreeSet::new(),
        };
        (scenario.prelude)(&mut trial);
        for node in 0..nodes {
            trial.look(node);
        }
        trial
    }

    /// How long a member may be silent before it is given nothing new.
    fn stale(&self) -> Duration {
        self.storm.cluster.setup.role.times.bounded().stale()
    }

    fn now(&self) -> Instant {
        self.storm.cluster.now()
    }

    fn violate(&mut self, rule: &'static str, what: String) {
        self.storm.cluster.world.violate(rule, what);
    }

    /// A conversation as the service wants it.
    fn plan(&self, mode: Mode, octets: u64, stream: u64) -> Plan {
        match self.storm.cluster.setup.served {
            Served::Releases => Plan::http(octets),
            Served::Wanderer => Plan::echo(octets, stream),
            _ => Plan::script(mode, Closing::Client, octets, stream),
        }
    }

    // --- for preludes ----------------------------------------------------------------------------

    /// Begin a conversation of which a quarter is said at first.
    pub fn begin(&mut self, mode: Mode, octets: u64) -> usize {
        let stream = self.totals.len() as u64 + 1;
        let mut plan = self.plan(mode, octets, stream);
        self.totals.push(plan.send);
        plan.send /= 4;
        self.storm.converse_as(plan)
    }

    /// Begin a conversation, and let it be served at `at`. A download is not read for now.
    pub fn host(&mut self, mode: Mode, octets: u64, at: Port) -> usize {
        let conversation = self.begin(mode, octets);
        // So that a download is in its middle.
        self.storm.run_for(Duration::from_millis(8));
        if mode == Mode::Download {
            let cluster = &mut self.storm.cluster;
            cluster.change_plan(conversation, |plan| plan.reads = false);
            self.storm.run_for(Duration::from_millis(100));
        }
        self.bring(conversation, at);
        conversation
    }

    /// Let a conversation be served at `at`.
    pub fn bring(&mut self, conversation: usize, at: Port) {
        if self.storm.owner(conversation) != Some(at) {
            self.command(conversation, at);
        }
        let until = self.now() + Duration::from_secs(5);
        self.storm
            .run_while(until, |storm| storm.owner(conversation) != Some(at));
        if self.storm.owner(conversation) != Some(at) {
            self.violate(
                "prelude",
                format!("conversation {conversation} is not at {at}"),
            );
        }
        // Until then it would not move again.
        self.storm.run_for(Duration::from_millis(150));
    }

    /// Let a conversation come to its end, and both ends know.
    pub fn finish(&mut self, conversation: usize) {
        self.say(conversation, u64::MAX / 2);
        self.storm.finish(conversation, Duration::from_secs(5));
        self.storm.run_for(Duration::from_millis(100));
    }

    /// Begin downloads of a file until one is served at `at`; none is read for now.
    pub fn host_file(&mut self, here: &Plan, elsewhere: &Plan, at: Port) {
        for _ in 0..20 {
            let conversation = self.storm.converse_as(here.clone());
            self.totals.push(0);
            let until = self.now() + Duration::from_secs(5);
            self.storm
                .run_while(until, |storm| storm.owner(conversation).is_none());
            let there = self.storm.owner(conversation) == Some(at);
            self.storm.cluster.change_plan(conversation, |plan| {
                if there {
                    plan.reads = false;
                } else {
                    *plan = elsewhere.clone();
                }
            });
            self.storm.run_for(Duration::from_millis(200));
            if there {
                return;
            }
        }
        self.violate("prelude", format!("nothing is served at {at}"));
    }

    // --- acts ------------------------------------------------------------------------------------

    /// Move a conversation's session, if its owner can be told to.
    fn command(&mut self, conversation: usize, to: Port) {
        let last = self.totals.len().saturating_sub(1);
        let Some((from, session)) = self.storm.session(conversation.min(last)) else {
            return;
        };
        if self.storm.cluster.world.is_running(from) {
            // Refused if the way there is cut, for one.
            let _ = self.storm.cluster.move_session(from, session.id, to);
        }
    }

    fn act(&mut self, act: Act) {
        let up = |storm: &Storm, node: Port| {
            !storm.is_down(node) && storm.cluster.world.is_running(node)
        };
        match act {
            Act::Begin(mode, octets) => {
                self.begin(mode, octets);
            }
            Act::Say(conversation, octets) => self.say(conversation, octets),
            Act::Move(conversation, to) => self.command(conversation, to),
            Act::Drain(node) if up(&self.storm, node) => {
                let world = &mut self.storm.cluster.world;
                world.with(node, |node: &mut Node, now| node.drain(now));
            }
            Act::Yield(from, to) if up(&self.storm, from) => self.storm.hand_over(from, to),
            Act::Crash(node) => self.crash(node),
            Act::Boot(node) => self.boot(node),
            Act::Cut(one, other) => self.storm.cluster.world.sever(one, other),
            Act::Deaf(from, to) => self.storm.cluster.world.sever_one_way(from, to),
            Act::Mend(one, other) => self.storm.cluster.world.mend(one, other),
            Act::GiveUp(conversation) => self.storm.give_up(conversation),
            Act::Keep => {
                let client = self.storm.cluster.client;
                self.storm.cluster.world.keep_last(client);
            }
            Act::Repeat => self.storm.cluster.world.repeat(),
            Act::Keys => self.keys += 1,
            Act::Drain(_) | Act::Yield(..) | Act::Wait => {}
        }
    }

    /// The client goes on reading, and says some more.
    fn say(&mut self, conversation: usize, octets: u64) {
        let Some(total) = self.totals.get(conversation).copied() else {
            return;
        };
        self.storm.cluster.change_plan(conversation, |plan| {
            plan.send = total.min(plan.send + octets);
            plan.reads = true;
        });
    }

    /// Everybody says what is left.
    fn release(&mut self) {
        for conversation in 0..self.totals.len() {
            self.say(conversation, u64::MAX / 2);
        }
    }

    /// An operator changes the keys of an instance as far as the scenario has come.
    fn change_keys(&mut self) {
        for node in 0..self.keys_at.len() {
            let running = self.storm.cluster.world.is_running(node) && !self.storm.is_down(node);
            while running && self.keys_at[node] < self.keys {
                self.keys_at[node] += 1;
                let stage = self.keys_at[node];
                let old = Key(self.storm.cluster.setup.cluster_key()).id();
                let world = &mut self.storm.cluster.world;
                let done = world.with(node, |node: &mut Node, now| {
                    let mut instance = node.instance_mut();
                    match stage {
                        1 => instance.add_key(NEXT_KEY).map(|_| ()),
                        2 => instance.activate_key(now, NEXT_KEY.id()),
                        _ => instance.remove_key(now, old),
                    }
                });
                if let Err(error) = done {
                    self.violate("keys", format!("stage {stage} at {node}: {error:?}"));
                }
            }
        }
    }

    // --- what befalls instances ------------------------------------------------------------------

    pub(super) fn crash(&mut self, node: Port) {
        if !self.storm.is_down(node) {
            self.storm.crash(node);
            self.served[node].clear();
        }
    }

    pub(super) fn boot(&mut self, node: Port) {
        self.off.remove(&node);
        self.crash(node);
        self.storm.boot(node);
        self.keys_at[node] = 0;
        self.look(node);
    }

    pub(super) fn pause(&mut self, node: Port, duration: Duration, unseen: bool) {
        if !self.storm.is_down(node) {
            self.storm.pause(node, duration, unseen);
        }
    }

    /// Something happened to an instance.
    fn look(&mut self, node: Port) {
        if node >= self.served.len() || self.storm.is_down(node) {
            return;
        }
        let machine = self.storm.cluster.node(node);
        let sessions = machine.instance().sessions();
        let drained = machine.drained();
        let served = sessions.iter().filter(|session| !session.frozen);
        self.served[node] = served.map(|session| session.id).collect();
        self.lose_vain_offers(node, &sessions);
        let twice: Vec<SessionId> = (0..self.served.len())
            .filter(|other| *other != node)
            .flat_map(|other| self.served[other].intersection(&self.served[node]).copied())
            .collect();
        for session in twice {
            self.violate(
                "one owner",
                format!("{session:?} is served at {node} and elsewhere"),
            );
        }
        if drained && !self.off.contains_key(&node) {
            if sessions.iter().any(|session| !session.frozen) {
                self.violate("drain", format!("{node} is drained and serves on"));
            }
            self.off.insert(node, self.now() + OFF);
            self.crash(node);
        }
    }

    /// Sessions that are frozen for a boot of an instance that is over already: the source cannot know that
    /// it never had them. It must not be so for one that has not been heard for long.
    fn lose_vain_offers(&mut self, node: Port, sessions: &[SessionStatus]) {
        for session in sessions {
            let Some(target) = session
                .target
                .filter(|_| !self.offers.contains(&(session.id, session.epoch)))
            else {
                continue;
            };
            self.offers.insert((session.id, session.epoch));
            let there = port_of(target);
            let members = self.storm.cluster.node(node).instance().members();
            let known = members.into_iter().find(|member| member.id == target);
            let boot = self.storm.cluster.node(there).instance().boot_id();
            let clock = self.storm.cluster.world.clock_of(node);
            let heard = known.as_ref().map(|member| member.heard);
            if heard.is_some_and(|heard| clock.since(heard) >= self.stale()) {
                self.violate("silent", format!("{:?} is offered to {there}", session.id));
            }
            let over = known.is_some_and(|member| member.boot.is_some_and(|known| known != boot));
            if over || self.storm.is_down(there) {
                for conversation in 0..self.totals.len() {
                    let port = FIRST_PORT + conversation as u16;
                    if session.remotes.iter().any(|remote| remote.port() == port) {
                        self.storm.give_up(conversation);
                    }
                }
            }
        }
    }

    // --- the run ---------------------------------------------------------------------------------

    /// Let the scenario happen, and `faults` (each before the event of that number).
    pub fn run(&mut self, faults: &[(u64, Blow)], mut observer: Option<&mut Observer>) {
        let begun = self.now();
        let mut acts = self.scenario.acts.iter().peekable();
        let mut faults: Vec<(u64, Blow)> = faults.to_vec();
        let mut ends: Vec<(Instant, Blow)> = Vec::new();
        let mut released = false;
        loop {
            let (now, events) = (self.now(), self.events);
            for (_, blow) in faults.extract_if(.., |(index, _)| *index <= events) {
                ends.push((now + blow.lasts(), blow));
                blow.strike(self);
            }
            for (_, blow) in ends.extract_if(.., |(at, _)| *at <= now) {
                blow.end(self);
            }
            let due = |(at, _): &&(u64, Act)| begun + Duration::from_micros(*at) <= now;
            if let Some((_, act)) = acts.next_if(due) {
                self.act(*act);
                self.change_keys();
                self.after_act(&mut observer);
                continue;
            }
            self.change_keys();
            let booting: Vec<Port> = self
                .off
                .iter()
                .filter(|(_, at)| **at <= now)
                .map(|(node, _)| *node)
                .collect();
            for node in booting {
                self.boot(node);
            }
            if acts.peek().is_none() && ends.is_empty() && !released {
                released = true;
                self.release();
                self.after_act(&mut observer);
                continue;
            }
            if released && ends.is_empty() && self.off.is_empty() && self.is_over() {
                return;
            }
            let act = acts
                .peek()
                .map(|(at, _)| begun + Duration::from_micros(*at));
            let end = ends.iter().map(|(at, _)| *at).min();
            let boot = self.off.values().min().copied();
            if let Some(next) = [act, end, boot].into_iter().flatten().min() {
                self.storm.cluster.world.wake_at(next);
            }
            if !self.storm.step(begun + LIMIT) {
                return;
            }
            if let Some(node) = self.storm.cluster.world.touched() {
                self.look(node);
                if let Some(observer) = &mut observer {
                    observer.look(&self.storm.cluster, self.events, node);
                }
            }
            self.events += 1;
        }
    }

    /// What the scenario does is an event, too.
    fn after_act(&mut self, observer: &mut Option<&mut Observer>) {
        for node in 0..self.served.len() {
            self.look(node);
            if let Some(observer) = observer {
                observer.look(&self.storm.cluster, self.events, node);
            }
        }
        self.events += 1;
    }

    /// Whether nothing more is to be expected of the conversations.
    fn is_over(&self) -> bool {
        (0..self.totals.len()).all(|conversation| {
            self.storm.is_lost(conversation)
                || self.storm.cluster.outcome(conversation) != Outcome::Running
                || self.storm.cluster.has_forgotten_its_fin(conversation)
        })
    }

    /// Conversations that were given up.
    pub fn lost(&self) -> usize {
        let lost = |conversation: &usize| self.storm.is_lost(*conversation);
        (0..self.totals.len()).filter(lost).count()
    }

    /// Everything is over: what must hold now?
    pub fn settle(&mut self) {
        for conversation in 0..self.totals.len() {
            self.judge(conversation);
        }
        if self.storm.until_acting(Duration::from_secs(20)).is_none() {
            self.violate("service", "nobody is the ingress".into());
            return;
        }
        let down = (0..self.served.len()).any(|node| self.storm.is_down(node));
        if self.storm.cluster.setup.served == Served::Wanderer && down {
            // A session that takes itself to somebody who is off is lost until that is known.
            self.storm.run_for(self.stale());
        }
        let plan = self.plan(Mode::Download, 3_000, 99);
        let new = self.storm.converse_as(plan);
        self.storm.finish(new, SERVICE);
        let until = self.now() + FROZEN;
        self.storm.run_while(until, |storm| stuck(storm).is_some());
        if let Some(what) = stuck(&self.storm) {
            self.violate("frozen", what);
        }
    }

    fn judge(&mut self, conversation: usize) {
        let outcome = self.storm.cluster.outcome(conversation);
        if self.storm.is_lost(conversation) {
            // Broken off is right; wrong or too many octets never are.
            if let Outcome::Failed(why) = outcome
                && (why.contains("wrong") || why.contains("received"))
            {
                self.violate("prefix", format!("conversation {conversation}: {why}"));
            }
            return;
        }
        let forgotten = self.storm.cluster.has_forgotten_its_fin(conversation);
        match outcome {
            Outcome::Done => {}
            Outcome::Running if forgotten => {}
            Outcome::Failed(_) if self.storm.has_expired(conversation) => {}
            other => {
                let copies: Vec<_> = self.storm.copies(conversation).collect();
                let copies: Vec<String> = copies
                    .iter()
                    .map(|(at, copy)| {
                        let state = copy.connections.first().map(|c| c.state);
                        format!(
                            "at {at} epoch {} for {:?} {state:?}",
                            copy.epoch, copy.target
                        )
                    })
                    .collect();
                self.violate(
                    "complete",
                    format!("conversation {conversation}: {other:?}; {copies:?}"),
                );
            }
        }
    }
}

/// A session that is frozen for an instance that could be asked about it.
fn stuck(storm: &Storm) -> Option<String> {
    let up = storm.cluster.nodes().filter(|node| !storm.is_down(*node));
    up.into_iter().find_map(|node| {
        let sessions = storm.cluster.node(node).instance().sessions();
        let stuck = sessions.into_iter().find(|session| {
            session
                .target
                .is_some_and(|MemberId(id)| !storm.is_down(id as usize - 1))
        })?;
        Some(format!("{:?} at {node} for {:?}", stuck.id, stuck.target))
    })
}
