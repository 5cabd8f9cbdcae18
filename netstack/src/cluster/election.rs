//! Who is the ingress: one member's part in electing it, and in being it.
//!
//! [`Election`] is sans-IO. It is told of channels ([`Election::handle_boot`]), heartbeats
//! ([`Election::handle_heartbeat`], which gives the vote on a claim) and votes
//! ([`Election::handle_ballot`]); [`Election::claim`] says what to claim in the heartbeat that is
//! being sent; [`Election::poll`] tells what changes. Every heartbeat must be answered and every
//! [`Change`] acted upon; then call again at [`Election::poll_timeout`].
//!
//! A member acts only while a majority of the voters has granted its claim within the lease
//! ([`super::lease`] has the argument). It gives its claim up by sending a heartbeat without one;
//! messages of one channel keep their order, so a voter that reads it is free to grant another's.
//! Who gives up forgets which claims it has sent: votes on them that are still on their way count
//! for nothing.
//!
//! *Who stands first* only saves time, and is no part of the argument: by priority, then the member
//! configured to begin, then the lowest id; each waits for those before it as long as they are
//! heard. Nobody is put out of the role for a better one unless [`Rules::preempt`] says so.

use alloc::collections::VecDeque;
use core::cmp::Reverse;

use super::lease::{MAX_TERM, Times, Voter};
use super::message::{Ballot, Claim, Heartbeat};
use super::{BootId, MemberId};
use crate::map::{Map, Set};
use crate::order::nth_last;
use crate::time::{Duration, Instant};

/// Claims remembered at most: more than are ever under way.
const MAX_BEATS: usize = 64;
/// A member that is there is heard within this time after our boot: whoever has waited for us tries again
/// every few seconds only.
const REACHED: Duration = Duration::from_secs(6);
/// Leases for which a member must be heard before it is preferred to one that acts.
const SETTLED: u32 = 5;

/// What is preferred where not both can be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Prefer {
    /// One ingress at most: without a majority there is none.
    #[default]
    Consistency,
    /// One ingress at least: voters that have been silent for longer than the lease do not count.
    /// In a partition every part has its own.
    Availability,
}

/// By what a member elects; all members should have the same but for `us` and `priority`.
#[derive(Clone, Debug)]
pub struct Rules {
    /// This member.
    pub us: MemberId,
    /// All voters, this member included; without it, it only looks on.
    pub voters: Set<MemberId>,
    /// Voters that never stand.
    pub witnesses: Set<MemberId>,
    /// Who stands first among those of one priority.
    pub first: MemberId,
    /// Ours; the highest stands first.
    pub priority: u8,
    /// Hand the role to a member of higher priority once it has been there for a while.
    pub preempt: bool,
    /// What is preferred.
    pub prefer: Prefer,
    /// Lease and heartbeats.
    pub times: Times,
}

impl Rules {
    /// Whether this member may be the ingress: it votes, and not only that.
    fn may_stand(&self) -> bool {
        self.voters.contains(&self.us) && !self.witnesses.contains(&self.us)
    }
}

/// What [`Election::poll`] tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Send heartbeats at once.
    Beat,
    /// This member is the ingress now.
    Acts {
        /// Whether it is known that no member acts by mistake: the one before us has handed the
        /// role over, or every other voter has said that it does not act.
        sure: bool,
    },
    /// It is no longer (and heartbeats are due).
    StoodDown,
    /// Another member is the ingress now.
    Leader(MemberId),
    /// Another one that acts too has been heard, and has to give way: those who listened to it
    /// have to be told.
    Contested,
    /// Hand the role to that member.
    Yield(MemberId),
}

/// A voter as status pages show it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VoterStatus {
    /// The voter.
    pub id: MemberId,
    /// Whether it never stands.
    pub witness: bool,
    /// For how long yet its last grant to this member counts.
    pub granted: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Peer {
    boot: Option<BootId>,
    /// The last time anything was heard of it, or our boot.
    heard: Instant,
    /// Whether it was heard at all, and since when without a gap.
    since: Option<Instant>,
    priority: u8,
    /// It would take the role.
    eligible: bool,
    /// It has told this boot of ours that it does not act.
    harmless: bool,
    /// This boot of it said that it leaves.
    left: bool,
    /// Its vote is needed. Not so if it left, or (where availability is preferred) is silent; then
    /// again once it has voted for us, or is heard while we do not act: whoever acts goes on
    /// while one that comes back may not vote yet.
    counts: bool,
}

impl Peer {
    fn new(now: Instant) -> Peer {
        Peer {
            boot: None,
            heard: now,
            since: None,
            priority: 0,
            eligible: false,
            harmless: false,
            left: false,
            counts: true,
        }
    }

    /// When it counts as gone, if nothing more is heard of it. One that was never heard may act, and not have
    /// reached us yet since we have booted.
    fn missed_at(&self, silence: Duration) -> Instant {
        let patience = match self.since {
            Some(_) => silence,
            None => silence.max(REACHED),
        };
        self.heard + patience
    }
}

#[derive(Clone, Copy, Debug)]
struct Candidacy {
    term: u64,
    acting: bool,
    after: Option<(MemberId, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Leader {
    id: MemberId,
    term: u64,
    heard: Instant,
}

/// One member's part in the election.
#[derive(Debug)]
pub struct Election {
    rules: Rules,
    voter: Voter,
    peers: Map<MemberId, Peer>,
    /// Whether this member would take the role.
    eligible: bool,
    candidacy: Option<Candidacy>,
    beat: u64,
    /// Claims of this candidacy, and when they were sent.
    beats: VecDeque<(u64, Instant)>,
    /// When the last claim that a voter has granted was sent.
    grants: Map<MemberId, Instant>,
    /// Until then the grants suffice.
    held_until: Instant,
    leader: Option<Leader>,
    /// When to stand, if nobody else has by then.
    stand_at: Option<Instant>,
    /// When this member took the role last.
    acts_since: Instant,
    /// To whom it yielded last, and when.
    yielded: Option<(MemberId, Instant)>,
    changes: VecDeque<Change>,
}

impl Election {
    /// The part of a member that has just booted.
    pub fn new(rules: Rules, now: Instant) -> Election {
        let rules = Rules {
            times: rules.times.bounded(),
            ..rules
        };
        let peer = Peer::new(now);
        let others = rules.voters.iter().filter(|id| **id != rules.us);
        Election {
            voter: Voter::new(rules.times, now),
            peers: others.map(|id| (*id, peer)).collect(),
            eligible: rules.may_stand(),
            candidacy: None,
            beat: 0,
            beats: VecDeque::new(),
            grants: Map::new(),
            held_until: now,
            leader: None,
            stand_at: None,
            acts_since: now,
            yielded: None,
            changes: VecDeque::new(),
            rules,
        }
    }

    /// Lease and heartbeats.
    pub fn times(&self) -> Times {
        self.rules.times
    }

    /// Our own priority.
    pub fn priority(&self) -> u8 {
        self.rules.priority
    }

    /// Whether a member votes only.
    pub fn is_witness(&self, id: MemberId) -> bool {
        self.rules.witnesses.contains(&id)
    }

    /// Whether this member is the ingress, and may act as it.
    pub fn is_acting(&self, now: Instant) -> bool {
        self.acts() && now < self.held_until
    }

    /// Until when it may act, as things are; unless it gives up.
    pub fn held_until(&self) -> Option<Instant> {
        self.acts().then_some(self.held_until)
    }

    fn acts(&self) -> bool {
        self.candidacy.is_some_and(|candidacy| candidacy.acting)
    }

    /// Who is the ingress, as far as we know: this member, or one that was heard within the lease.
    pub fn leader(&self, now: Instant) -> Option<MemberId> {
        if self.is_acting(now) {
            return Some(self.rules.us);
        }
        let leader = self.leader.filter(|leader| self.is_living(now, leader))?;
        Some(leader.id)
    }

    /// Who has our vote, and so may act by now without our having heard of it.
    pub fn voted_for(&self, now: Instant) -> Option<MemberId> {
        self.voter.promised(now).map(|(to, _)| to)
    }

    fn is_living(&self, now: Instant, leader: &Leader) -> bool {
        leader.heard + self.rules.times.promised() > now
    }

    /// Our own term, or the highest heard of.
    pub fn term(&self) -> u64 {
        match self.candidacy {
            Some(candidacy) if candidacy.acting => candidacy.term,
            _ => self.voter.term(),
        }
    }

    /// The voters.
    pub fn voters(&self, now: Instant) -> impl Iterator<Item = VoterStatus> {
        let held = self.rules.times.held();
        self.rules.voters.iter().map(move |id| VoterStatus {
            id: *id,
            witness: self.is_witness(*id),
            granted: self
                .grants
                .get(id)
                .map(|sent| (*sent + held).since(now))
                .filter(|left| !left.is_zero()),
        })
    }

    /// As one that looks on: that is a voter, too.
    pub fn observe(&mut self, now: Instant, voter: MemberId) {
        if voter != self.rules.us && self.rules.voters.insert(voter) {
            self.peers.insert(voter, Peer::new(now));
        }
    }

    // --- what is heard ---------------------------------------------------------------------------

    /// The channel to a member is up, and this is its boot.
    pub fn handle_boot(&mut self, now: Instant, from: MemberId, boot: BootId) {
        let Some(peer) = self.peers.get_mut(&from) else {
            return;
        };
        peer.heard = now;
        if peer.boot != Some(boot) {
            peer.boot = Some(boot);
            peer.left = false;
            peer.since = Some(now);
            // What the earlier boot has granted, this one knows nothing of.
            self.grants.remove(&from);
            self.forget_leader(from);
        }
    }

    /// Anything was heard of a member.
    pub fn handle_heard(&mut self, now: Instant, from: MemberId) {
        let stale = self.rules.times.stale();
        let acts = self.acts();
        if let Some(peer) = self.peers.get_mut(&from) {
            if peer.since.is_none() || now.since(peer.heard) > stale {
                peer.since = Some(now);
            }
            peer.heard = now;
            peer.counts |= !acts && !peer.left;
        }
    }

    /// A heartbeat; the answer, if it has a claim. False beside it if a number is out of range.
    pub fn handle_heartbeat(
        &mut self,
        now: Instant,
        from: MemberId,
        heartbeat: &Heartbeat,
    ) -> (Option<Ballot>, bool) {
        self.handle_heard(now, from);
        let Some(peer) = self.peers.get_mut(&from) else {
            return (None, true);
        };
        peer.priority = heartbeat.priority;
        peer.eligible = heartbeat.healthy && !heartbeat.draining;
        peer.harmless = heartbeat.claim.is_none_or(|claim| !claim.acting);
        let in_range = self.voter.note_term(heartbeat.term)
            && heartbeat.claim.is_none_or(|claim| claim.term <= MAX_TERM);
        if self.peers.values().all(|peer| peer.harmless || peer.left) {
            self.voter.end_quiet();
        }
        let Some(claim) = heartbeat.claim.filter(|_| in_range) else {
            // It claims nothing, and whatever it claimed before it has given up.
            self.voter.release(from, MAX_TERM);
            if self.forget_leader(from) {
                // Perhaps in favour of a successor, which shall have its chance.
                self.let_pass(now);
            }
            return (None, in_range);
        };
        let ours = self.candidacy.and_then(|candidacy| candidacy.after);
        let order = |after: Option<_>, id| (after.is_none(), self.rank(id));
        if claim.acting {
            self.meet_ingress(now, from, claim.term);
        } else if order(claim.after, from) < order(ours, self.rules.us) {
            self.let_pass(now);
        }
        let votes = self.rules.voters.contains(&self.rules.us);
        let ballot = votes.then(|| self.voter.consider(now, from, &claim));
        (ballot, true)
    }

    /// Somebody with a better right to it stands for the role.
    fn let_pass(&mut self, now: Instant) {
        if self.candidacy.is_some_and(|candidacy| !candidacy.acting) {
            self.give_up();
            self.changes.push_back(Change::Beat);
        }
        if self.candidacy.is_none() {
            self.stand_at = Some(now + self.rules.times.heartbeat * 2);
        }
    }

    /// Somebody acts as the ingress. Of two that do, the one with the higher term stays, then the
    /// lower id: a clock did not see a pause, or availability is preferred and a partition ends.
    fn meet_ingress(&mut self, now: Instant, from: MemberId, term: u64) {
        if self.acts() && !self.holds(now) {
            self.give_up();
            self.changes.push_back(Change::StoodDown);
        }
        let known = match self.candidacy {
            Some(candidacy) if candidacy.acting => Some((candidacy.term, self.rules.us)),
            _ => self
                .leader
                .filter(|leader| self.is_living(now, leader) && leader.id != from)
                .map(|leader| (leader.term, leader.id)),
        };
        let better = known.is_none_or(|(known, id)| (term, Reverse(from)) > (known, Reverse(id)));
        if !better {
            if self.acts() {
                self.changes.push_back(Change::Contested);
            }
            return;
        }
        if self.candidacy.is_some() {
            let acted = self.acts();
            self.give_up();
            let change = if acted {
                Change::StoodDown
            } else {
                Change::Beat
            };
            self.changes.push_back(change);
        }
        let former = self.leader.replace(Leader {
            id: from,
            term,
            heard: now,
        });
        let news = former.is_none_or(|former| former.id != from || former.term != term);
        if news {
            self.changes.push_back(Change::Leader(from));
        }
        self.stand_at = None;
    }

    /// A vote on one of our claims.
    pub fn handle_ballot(&mut self, now: Instant, from: MemberId, ballot: &Ballot) {
        self.handle_heard(now, from);
        let Some(peer) = self.peers.get_mut(&from) else {
            return;
        };
        let mut beats = self.beats.iter();
        let sent = beats.find(|(beat, _)| *beat == ballot.beat);
        let (Some((_, sent)), Some(candidacy)) = (sent, &mut self.candidacy) else {
            return;
        };
        let bound = ballot.to.is_some_and(|to| to != self.rules.us);
        // Whoever acts does not outbid the one that may act in its place.
        if let Some(spent) = ballot.spent.filter(|spent| *spent >= candidacy.term)
            && spent < MAX_TERM
            && !(bound && candidacy.acting)
        {
            candidacy.term = spent + 1;
        }
        if ballot.granted {
            peer.counts = !peer.left;
            let grant = self.grants.entry(from).or_insert(*sent);
            *grant = (*grant).max(*sent);
        } else if bound {
            // It is bound to another, so what it granted us is over, whatever our clock says.
            self.grants.remove(&from);
        }
        self.holds(now);
    }

    /// A member leaves, and acts no more. It counts again once it has voted.
    pub fn handle_left(&mut self, from: MemberId) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.left = true;
            peer.counts = false;
            peer.harmless = true;
            peer.eligible = false;
            self.voter.release(from, MAX_TERM);
            self.forget_leader(from);
        }
    }

    /// `from` acts no more and hands the role to us; its last term was `term`. False if we do not
    /// take it.
    pub fn handle_succession(&mut self, now: Instant, from: MemberId, term: u64) -> bool {
        if !self.peers.contains_key(&from)
            || !self.eligible
            || self.voter.is_quiet(now)
            || self.acts()
            || !self.voter.note_term(term)
        {
            return false;
        }
        self.give_up();
        self.voter.release(from, term);
        self.forget_leader(from);
        self.stand(Some((from, term)));
        true
    }

    fn forget_leader(&mut self, id: MemberId) -> bool {
        let known = self.leader.is_some_and(|leader| leader.id == id);
        if known {
            self.leader = None;
        }
        known
    }

    // --- commands --------------------------------------------------------------------------------

    /// Whether this member would take the role: not while it is drained.
    pub fn set_eligible(&mut self, eligible: bool) {
        self.eligible = eligible && self.rules.may_stand();
    }

    /// Act no more; the term in which we did, to be told to the successor. Heartbeats are due.
    pub fn resign(&mut self, now: Instant) -> Option<u64> {
        let term = self.candidacy.filter(|candidacy| candidacy.acting)?.term;
        self.give_up();
        self.stand_at = Some(now + self.rules.times.heartbeat * 4);
        Some(term)
    }

    /// Claim nothing, and count no vote on what was claimed.
    fn give_up(&mut self) {
        if self.candidacy.take().is_some() {
            self.voter.release(self.rules.us, MAX_TERM);
        }
        self.beats.clear();
        self.grants.clear();
        self.stand_at = None;
        self.held_until = Instant::ZERO;
    }

    fn stand(&mut self, after: Option<(MemberId, u64)>) {
        let term = self.voter.term().saturating_add(1);
        if term > MAX_TERM {
            return;
        }
        self.candidacy = Some(Candidacy {
            term,
            acting: false,
            after,
        });
        self.stand_at = None;
        self.changes.push_back(Change::Beat);
    }

    /// What to claim in the heartbeat that is being sent to all now.
    pub fn claim(&mut self, now: Instant) -> Option<Claim> {
        let candidacy = self.candidacy.as_mut()?;
        if candidacy.term < self.voter.term() {
            // A voter has heard of a higher term and would refuse.
            candidacy.term = self.voter.term().saturating_add(1);
        }
        self.beat += 1;
        let claim = Claim {
            term: candidacy.term,
            beat: self.beat,
            lease: self.rules.times.lease.as_millis() as u32,
            acting: candidacy.acting,
            after: candidacy.after,
        };
        if !self.voter.consider(now, self.rules.us, &claim).granted {
            // A heartbeat without a claim frees the voters, so nothing may rest on their grants.
            if self.acts() {
                self.changes.push_back(Change::StoodDown);
            }
            self.give_up();
            return None;
        }
        if self.beats.len() >= MAX_BEATS {
            self.beats.pop_front();
        }
        self.beats.push_back((self.beat, now));
        self.grants.insert(self.rules.us, now);
        self.holds(now);
        Some(claim)
    }

    // --- what follows ----------------------------------------------------------------------------

    /// Votes needed to act.
    fn quorum(&self) -> usize {
        let voters = self.rules.voters.len();
        let majority = voters / 2 + 1;
        let counting = self.peers.values().filter(|peer| peer.counts).count();
        if voters == 2 || self.rules.prefer == Prefer::Availability {
            // Of two, the other one may have left in good order: it does not act, and after it has
            // booted again it cannot without our vote. (With more voters, those that left and
            // booted again could be a majority that knows nothing of us.)
            return majority.min(1 + counting);
        }
        majority
    }

    /// Where availability is preferred, do not count who is silent.
    fn count_out_silent(&mut self, now: Instant) {
        let silence = match self.rules.prefer {
            Prefer::Consistency => return,
            // Who acts goes on; the other one cannot know of it, and waits longer.
            Prefer::Availability if self.acts() => self.rules.times.lease / 2,
            Prefer::Availability => self.rules.times.silence(),
        };
        for peer in self.peers.values_mut() {
            peer.counts &= now < peer.missed_at(silence);
        }
    }

    /// Whether the grants suffice, and for how long.
    fn holds(&mut self, now: Instant) -> bool {
        self.count_out_silent(now);
        let quorum = self.quorum();
        let weakest = nth_last(self.grants.values().copied(), quorum);
        self.held_until = weakest.map_or(Instant::ZERO, |sent| sent + self.rules.times.held());
        now < self.held_until
    }

    /// A member's place in the order in which they stand; less is earlier.
    fn rank(&self, id: MemberId) -> (Reverse<u8>, bool, MemberId) {
        let priority = match self.peers.get(&id) {
            Some(peer) => peer.priority,
            None => self.rules.priority,
        };
        (Reverse(priority), id != self.rules.first, id)
    }

    /// Whether a member was heard of late.
    fn is_fresh(&self, now: Instant, peer: &Peer) -> bool {
        peer.since.is_some() && now.since(peer.heard) < self.rules.times.stale()
    }

    /// Whether to stand for the role, now or after others had their chance.
    fn wants(&self, now: Instant) -> bool {
        let fresh = self.peers.values().filter(|peer| self.is_fresh(now, peer));
        self.eligible
            && !self.voter.is_quiet(now)
            && self.voter.promised(now).is_none()
            && self.leader(now).is_none()
            && 1 + fresh.count() >= self.quorum()
    }

    /// How many that are heard stand before us.
    fn before_us(&self, now: Instant) -> u32 {
        let ours = self.rank(self.rules.us);
        let stands = |(id, peer): &(&MemberId, &Peer)| {
            self.is_fresh(now, peer) && peer.eligible && !self.is_witness(**id)
        };
        let better = self.peers.iter().filter(stands);
        better.filter(|(id, _)| self.rank(**id) < ours).count() as u32
    }

    /// The next thing that changes.
    pub fn poll(&mut self, now: Instant) -> Option<Change> {
        if let Some(change) = self.changes.pop_front() {
            return Some(change);
        }
        self.count_out_silent(now);
        match self.candidacy {
            Some(candidacy) if candidacy.acting => {
                if !self.holds(now) {
                    self.give_up();
                    return Some(Change::StoodDown);
                }
                let to = self.preferred(now)?;
                self.yielded = Some((to, now));
                Some(Change::Yield(to))
            }
            Some(candidacy) => self.poll_candidacy(now, candidacy),
            None => {
                if !self.wants(now) {
                    // Let those before us have their chance again the next time.
                    self.stand_at = self.stand_at.filter(|at| *at > now);
                    return None;
                }
                let pause = self.rules.times.heartbeat / 2 * self.before_us(now);
                let at = *self.stand_at.get_or_insert(now + pause);
                if at > now {
                    return None;
                }
                self.stand(None);
                self.changes.pop_front()
            }
        }
    }

    fn poll_candidacy(&mut self, now: Instant, candidacy: Candidacy) -> Option<Change> {
        let bound = self.voter.promised(now);
        let bound = bound.is_some_and(|(to, _)| to != self.rules.us);
        if bound || self.leader(now).is_some() {
            self.give_up();
            return Some(Change::Beat);
        }
        if !self.holds(now) {
            return None;
        }
        self.leader = None;
        self.acts_since = now;
        self.candidacy = Some(Candidacy {
            acting: true,
            after: None,
            ..candidacy
        });
        let sure = candidacy.after.is_some() || self.peers.values().all(|peer| peer.harmless);
        Some(Change::Acts { sure })
    }

    /// Who should have the role rather than us: only somebody heard since we took it, so that it does not go
    /// to and fro between us and those who know no better while a dead one is waited for; and who was offered it
    /// and did not keep it has to be there for as long as one that comes back.
    fn preferred(&self, now: Instant) -> Option<MemberId> {
        if !self.rules.preempt {
            return None;
        }
        let settled = self.rules.times.lease * SETTLED;
        let offered = |id| {
            let last = self.yielded.filter(|(to, _)| *to == id);
            last.is_some_and(|(_, at)| now.since(at) < settled)
        };
        let better = |(id, peer): &(&MemberId, &Peer)| {
            self.is_fresh(now, peer)
                && peer.eligible
                && !self.is_witness(**id)
                && peer.priority > self.rules.priority
                && peer.heard > self.acts_since
                && !offered(**id)
                && peer.since.is_some_and(|since| now.since(since) >= settled)
        };
        let better = self.peers.iter().filter(better).map(|(id, _)| *id);
        better.min_by_key(|id| self.rank(*id))
    }

    /// When [`Election::poll`] has something new to look at, if nothing is heard before.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        if !self.changes.is_empty() {
            return Some(now);
        }
        if self.acts() {
            return Some(self.held_until);
        }
        let lapse = |leader: &Leader| leader.heard + self.rules.times.promised();
        let silence = self.rules.times.silence();
        let available = self.rules.prefer == Prefer::Availability;
        let silences = self.peers.values().map(|peer| peer.missed_at(silence));
        [
            self.voter.poll_timeout(now),
            self.leader.as_ref().map(lapse),
            self.stand_at,
        ]
        .into_iter()
        .flatten()
        .chain(silences.filter(|_| available))
        .filter(|at| *at > now)
        .min()
    }
}

#[cfg(test)]
mod tests;
