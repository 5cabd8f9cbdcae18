//! The ingress role: what follows from an election, taking the role up, laying it down, handing it
//! on.
//!
//! [`Election`] decides; this carries out. Whoever is elected
//! takes in the other members' flows first (they tell them as soon as they hear of it), asks
//! whether somebody still answers for the virtual addresses, and then announces them. Before
//! anything is done with a frame, the lease is looked at: a machine that stood still must not act
//! on what it was granted long ago.

use alloc::vec::Vec;

use super::{Discover, Instance, InstanceConfig, RoleStatus};
use crate::cluster::MemberId;
use crate::cluster::election::{Change, Election, Rules};
use crate::cluster::members::Member;
use crate::cluster::message::{MAX_ENTRIES, Message, Ownership};
use crate::map::Set;
use crate::stack::{FlowKey, Route};
use crate::time::{Duration, Instant};

/// How long whoever answers for a virtual address has to say so.
const PROBE: Duration = Duration::from_millis(100);
/// Times to ask whether the address is free. Somebody who answers every time is no member (a
/// majority of them has promised us the role), and has to be defended against.
const PROBES: u32 = 10;
/// New flows that wait for an ingress to be known at most.
const MAX_WAITING: usize = 1024;

/// Asking whether the virtual addresses are free.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probing {
    until: Instant,
    asked: u32,
}

/// The election in which a member takes part.
pub(super) fn election(config: &InstanceConfig, now: Instant) -> Election {
    let others = config.peers.iter().map(|peer| peer.id);
    let us = (config.discover != Discover::Join).then_some(config.id);
    let rules = Rules {
        us: config.id,
        voters: others.chain(us).collect(),
        witnesses: config.role.witnesses.iter().copied().collect(),
        first: config.ingress,
        priority: config.role.priority,
        preempt: config.role.preempt,
        prefer: config.role.prefer,
        times: config.role.times,
    };
    Election::new(rules, now)
}

impl Instance {
    /// Whether this instance is the ingress. It acts as that only until its lease runs out, which
    /// every call that takes the time sees to.
    pub fn is_ingress(&self) -> bool {
        match &self.election {
            Some(election) => election.held_until().is_some(),
            None => true,
        }
    }

    /// Whether this instance may act as the ingress right now.
    pub fn acts_as_ingress(&self, now: Instant) -> bool {
        match &self.election {
            Some(election) => election.is_acting(now),
            None => true,
        }
    }

    /// The ingress, as far as this instance knows.
    pub fn ingress(&self, now: Instant) -> Option<MemberId> {
        match &self.election {
            Some(election) => election.leader(now),
            None => Some(self.id),
        }
    }

    /// The ingress role as this instance sees it.
    pub fn role(&self, now: Instant) -> RoleStatus {
        let election = self.election.as_ref();
        let until = election.and_then(Election::held_until);
        RoleStatus {
            acting: self.acts_as_ingress(now),
            ingress: self.ingress(now),
            term: election.map_or(0, Election::term),
            lease: until.map(|until| until.since(now)),
            voters: election
                .map(|election| election.voters(now).collect())
                .unwrap_or_default(),
        }
    }

    /// Whether this instance votes and does nothing else.
    pub(super) fn is_witness(&self) -> bool {
        let election = self.election.as_ref();
        election.is_some_and(|election| election.is_witness(self.id))
    }

    /// Before anything is done as the ingress: has the lease run out?
    pub(super) fn look_at_lease(&mut self, now: Instant) {
        let election = self.election.as_ref();
        let until = election.and_then(Election::held_until);
        if until.is_some_and(|until| until <= now) {
            self.run_election(now);
        }
    }

    /// When the election has something to look at.
    pub(super) fn election_timeout(&self) -> Option<Instant> {
        let probe = self.probing.map(|probing| probing.until);
        self.election_at.into_iter().chain(probe).min()
    }

    pub(super) fn run_election_timers(&mut self, now: Instant) {
        if self.election_at.is_some_and(|at| at <= now) {
            self.run_election(now);
        }
        if let Some(probing) = self.probing
            && probing.until <= now
        {
            self.probed(now, probing);
        }
    }

    /// Do what follows from what was heard, or from the time.
    pub(super) fn run_election(&mut self, now: Instant) {
        // Each change makes way for another at most a few times.
        for _ in 0..16 {
            let change = self.election.as_mut().and_then(|e| e.poll(now));
            match change {
                None => break,
                Some(Change::Beat) => self.beat(now),
                Some(Change::Acts { sure }) => self.take_role(now, sure),
                Some(Change::StoodDown) => {
                    self.forget_placements(now);
                    self.lay_down_role(now, "the lease has run out, or another acts");
                    self.beat(now);
                }
                Some(Change::Leader(leader)) => self.follow_ingress(now, leader),
                Some(Change::Contested) => {
                    // Clients may have believed the other one: tell both.
                    self.counters.add("ingress_contested");
                    self.ingress_since = Some(now);
                    self.stack.set_ingress(now, false);
                    self.begin_probing(now);
                    self.beat(now);
                }
                Some(Change::Yield(to)) => {
                    self.counters.add("ingress_yielded");
                    if !self.hand_over(now, to) {
                        break;
                    }
                }
            }
        }
        let election = self.election.as_ref();
        self.election_at = election.and_then(|e| e.poll_timeout(now));
    }

    /// Be the ingress.
    fn take_role(&mut self, now: Instant, sure: bool) {
        let term = self.election.as_ref().map_or(0, Election::term);
        log::info!(target: "cluster", "this is the ingress now (term {term})");
        self.counters.add("ingress_taken");
        self.ingress = Some(self.id);
        self.ingress_since = Some(now);
        self.resigned = None;
        // The one before us may have sent cookies.
        self.stack.trust_cookies(now);
        self.beat(now);
        if sure {
            self.stack.set_ingress(now, true);
        } else {
            self.begin_probing(now);
        }
        self.place_waiting(now);
    }

    fn begin_probing(&mut self, now: Instant) {
        self.stack.probe_vips();
        self.probing = Some(Probing {
            until: now + PROBE,
            asked: 1,
        });
    }

    /// Those who might answer for the virtual addresses had their time.
    fn probed(&mut self, now: Instant, probing: Probing) {
        self.probing = None;
        if !self.acts_as_ingress(now) {
            return;
        }
        if let Some(mac) = self.stack.vip_speaker() {
            self.counters.add("ingress_vip_taken");
            if probing.asked < PROBES {
                self.stack.probe_vips();
                self.probing = Some(Probing {
                    until: now + PROBE,
                    asked: probing.asked + 1,
                });
                return;
            }
            log::error!(target: "cluster", "{mac:02x?} answers for a virtual address, and is no member that may");
        }
        self.stack.set_ingress(now, true);
    }

    /// Be the ingress no longer.
    pub(super) fn lay_down_role(&mut self, now: Instant, why: &str) {
        if self.ingress == Some(self.id) {
            self.ingress = None;
            self.counters.add("ingress_laid_down");
            log::warn!(target: "cluster", "this is the ingress no longer: {why}");
        }
        self.probing = None;
        self.ingress_since = None;
        self.stack.set_ingress(now, false);
    }

    /// Another member is the ingress.
    fn follow_ingress(&mut self, now: Instant, leader: MemberId) {
        let term = self.election.as_ref().map_or(0, Election::term);
        log::info!(target: "cluster", "member {leader} is the ingress (term {term})");
        if self.ingress == Some(self.id) {
            self.forget_placements(now);
            self.lay_down_role(now, "another acts");
        }
        self.ingress = Some(leader);
        for moving in self.moving.values_mut() {
            // Said by the one before.
            moving.rerouted = None;
        }
        self.ingress_left(now, leader);
        self.claim_all_flows();
        self.place_waiting(now);
        self.resigned = None;
    }

    /// Hand the ingress role to another member, as a drain does. False if this instance does not
    /// have it, or the other one cannot be told.
    pub fn yield_ingress(&mut self, now: Instant, successor: MemberId) -> bool {
        let acts = successor != self.id && self.election.is_some() && self.acts_as_ingress(now);
        let handed = acts && self.hand_over(now, successor);
        self.run_election(now);
        self.pump(now);
        handed
    }

    /// Hand the ingress role to `successor`: stop, tell it the table, and that it may take over.
    /// False, and nothing done, if there is no way to.
    ///
    /// The successor still needs a majority's votes. They are free to give them, because the
    /// claim they come in for says who has stopped ([`Claim::after`]); and because we say so
    /// ourselves in the heartbeat that goes to all of them now.
    ///
    /// [`Claim::after`]: crate::cluster::message::Claim::after
    pub(super) fn hand_over(&mut self, now: Instant, successor: MemberId) -> bool {
        let takes = |member: &Member| member.is_up() && !member.witness && member.found.is_none();
        let up = self.members.get(successor).is_some_and(takes);
        let Some(election) = self.election.as_mut().filter(|_| up) else {
            return false;
        };
        let Some(term) = election.resign(now).or(self.resigned) else {
            return false;
        };
        self.resigned = Some(term);
        self.lay_down_role(now, "it was handed on");
        for part in self.whole_table().chunks(MAX_ENTRIES) {
            self.send(successor, &Message::HandoverTable(part.to_vec()));
        }
        self.send(successor, &Message::Handover { term });
        self.beat(now);
        true
    }

    /// Whose flows are whose, ours included.
    pub(super) fn whole_table(&self) -> Vec<Ownership> {
        let steered = self.steering.iter().map(|(flow, entry)| {
            let (session, epoch) = entry.claim.unwrap_or_default();
            Ownership {
                flow: *flow,
                owner: entry.owner,
                session,
                epoch,
            }
        });
        let mut all: Vec<Ownership> = steered.collect();
        for session in self.sessions.values() {
            if self.is_movable(session) {
                all.extend(self.ownerships(session));
            }
        }
        for moving in self.moving.values() {
            all.extend(self.ownerships(&moving.session));
        }
        all
    }

    /// The ingress has stopped and hands the role to us.
    pub(super) fn take_over(&mut self, now: Instant, from: MemberId, term: u64) {
        let election = self.election.as_mut();
        if election.is_some_and(|e| e.handle_succession(now, from, term)) {
            self.run_election(now);
        } else {
            self.counters.add("ingress_not_taken");
        }
    }

    /// What we steered and nobody has claimed may have been placed by another ingress meanwhile.
    fn forget_placements(&mut self, now: Instant) {
        let owners: Vec<MemberId> = self.members.iter().map(|member| member.id).collect();
        for owner in owners {
            self.forget_unclaimed(now, owner);
        }
    }

    // --- new flows while nobody is known to be the ingress ---------------------------------------

    /// Keep a new flow's frames until an ingress is known: it may be us, or have sent them here.
    pub(super) fn await_ingress(&mut self, now: Instant, flow: FlowKey) {
        if self.waiting.len() >= MAX_WAITING
            && let Some(oldest) = self.waiting.pop_front()
        {
            self.counters.add("flows_without_ingress");
            self.stack.drop_held(now, &oldest);
        }
        self.waiting.push_back(flow);
    }

    fn place_waiting(&mut self, now: Instant) {
        let waiting: Set<_> = core::mem::take(&mut self.waiting)
            .into_iter()
            .map(crate::cluster::message::Flow::from)
            .collect();
        for flow in waiting {
            let key = FlowKey::from(flow);
            // What was held too long meanwhile is gone.
            if self.stack.route(&key) != Some(Route::Hold) {
                continue;
            }
            let ingress = self.ingress.and_then(|id| self.members.get(id));
            match ingress.map(|ingress| ingress.address) {
                // They came while we handed the role on.
                Some(address) if self.resigned.is_some() => {
                    self.stack.set_route(now, key, Route::Forward(address));
                    self.stack.clear_route(now, &key);
                }
                // Who knows how old they are: the client will try again, elsewhere.
                Some(_) => {
                    self.counters.add("flows_without_ingress");
                    self.stack.drop_held(now, &key);
                }
                None => self.place(now, key, true),
            }
        }
    }
}
