//! Whose flow is which: the ingress's table, the tombstones of other members, and the questions
//! asked about flows nobody here knows.
//!
//! This is bookkeeping only. The routes themselves are in the stack, and [`crate::instance`] keeps
//! the two in step.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::MemberId;
use super::message::Flow;
use crate::map::{Map, Set};
use crate::session::SessionId;
use crate::tcp::Cookie;
use crate::time::{Duration, Instant};

/// How long a flow that ended is remembered.
pub const QUIET: Duration = Duration::from_secs(3);
/// Ended flows remembered at most.
pub const MAX_ENDED: usize = 4096;
/// Sessions whose flow another one has taken over since, remembered at most.
pub const MAX_REPLACED: usize = 4096;
/// Flows the table holds at most.
pub const MAX_FLOWS: usize = 1 << 20;
/// Flows among them that were steered to a member and that nobody has claimed yet; beyond this the
/// oldest are forgotten. What comes of them is asked about, so a SYN flood costs no more than this.
pub const MAX_UNCLAIMED: usize = 4096;
/// How long an owner may take to claim a flow: as long as it repeats its SYN-ACK. Forgotten earlier,
/// a repeated SYN would be taken for a new flow and steered to somebody else.
pub const UNCLAIMED: Duration = Duration::from_secs(64);
/// Questions open at a time at most; further unknown flows are dropped in silence.
pub const MAX_QUERIES: usize = 1024;
/// How long to wait for every member's answer.
pub const QUERY: Duration = Duration::from_secs(1);
/// The same where a client's handshake depends on it, which it believes to be complete: it may not say a word again
/// until its time-out, and that may be a minute.
pub const HANDSHAKE_QUERY: Duration = Duration::from_secs(3);

/// A flow whose frames go to another member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Where they go.
    pub owner: MemberId,
    /// The session and epoch under which it owns the flow; `None` until it says so.
    pub claim: Option<(SessionId, u64)>,
}

/// The flows that go to other members, and open questions.
#[derive(Debug, Default)]
pub struct Steering {
    /// With the time they were set.
    table: Map<Flow, (Entry, Instant)>,
    queries: Map<Flow, Query>,
    /// Flows steered and not claimed when they were, with the time.
    unclaimed: VecDeque<(Instant, Flow)>,
    ended: Map<Flow, Instant>,
    ended_order: VecDeque<(Instant, Flow)>,
    /// Sessions that had a flow before the one that has it now.
    replaced: Set<SessionId>,
    replaced_order: VecDeque<SessionId>,
}

#[derive(Debug)]
struct Query {
    waiting: Set<MemberId>,
    deadline: Instant,
    /// The cookie that it is about as well.
    cookie: Option<Cookie>,
    /// One of those asked has booted since, and knows nothing of what it had before.
    rebooted: bool,
}

/// What an answer means for the flow asked about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QueryState {
    /// Others have yet to answer, or nobody asked.
    Open,
    /// Every member said no.
    Nobody,
    /// So they did, but for what one of them had before it booted, after the question.
    NobodyLeft,
}

impl Steering {
    /// The entry of a flow.
    pub fn get(&self, flow: &Flow) -> Option<&Entry> {
        self.table.get(flow).map(|(entry, _)| entry)
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// All entries, in the order of their flows.
    pub fn iter(&self) -> impl Iterator<Item = (&Flow, &Entry)> {
        self.table.iter().map(|(flow, (entry, _))| (flow, entry))
    }

    /// The entries from `flow` on, without `flow` itself (for a sweep in steps).
    pub fn after(&self, flow: Option<Flow>) -> impl Iterator<Item = (&Flow, &Entry)> {
        use core::ops::Bound::{Excluded, Unbounded};
        self.table
            .range((flow.map_or(Unbounded, Excluded), Unbounded))
            .map(|(flow, (entry, _))| (flow, entry))
    }

    /// Whether `owner`'s claim is newer than what the table says: of one session the higher epoch
    /// counts; of two sessions the one that speaks now, since a flow is used by one after the
    /// other. One that made way for another has ended, so what is still said of it comes late, unless
    /// it is the answer to a question. That a connection is being opened (epoch 0) is no news where
    /// there is a session: it may have been opened since.
    pub fn is_news(&self, flow: &Flow, session: SessionId, epoch: u64) -> bool {
        if self.replaced.contains(&session) && !self.is_asking(flow) {
            return false;
        }
        match self.get(flow).and_then(|entry| entry.claim) {
            Some((known, at)) if known == session => epoch >= at,
            Some(_) if epoch == 0 => false,
            _ => true,
        }
    }

    /// Note the owner of a flow. `false`, and nothing noted, if the table is full.
    pub fn set(&mut self, now: Instant, flow: Flow, entry: Entry) -> bool {
        if self.table.len() >= MAX_FLOWS && !self.table.contains_key(&flow) {
            return false;
        }
        if entry.claim.is_none() {
            self.unclaimed.push_back((now, flow));
        }
        let before = self.table.insert(flow, (entry, now));
        if let (Some((session, _)), Some((Entry { claim, .. }, _))) = (entry.claim, before) {
            self.goes_on(&session);
            if let Some((before, _)) = claim.filter(|(before, _)| *before != session) {
                self.note_replaced(before);
            }
        }
        true
    }

    /// A session is known to live, whatever took its flow.
    pub fn goes_on(&mut self, session: &SessionId) {
        self.replaced.remove(session);
    }

    fn note_replaced(&mut self, session: SessionId) {
        if self.replaced_order.len() >= MAX_REPLACED
            && let Some(oldest) = self.replaced_order.pop_front()
        {
            self.replaced.remove(&oldest);
        }
        if self.replaced.insert(session) {
            self.replaced_order.push_back(session);
        }
    }

    /// Forget flows that were steered long ago, or so many others after them, and that nobody has
    /// claimed; they are returned.
    pub fn expire_unclaimed(&mut self, now: Instant) -> Vec<Flow> {
        let mut forgotten = Vec::new();
        while let Some((since, flow)) = self.unclaimed.front().copied()
            && (self.unclaimed.len() > MAX_UNCLAIMED || now.since(since) >= UNCLAIMED)
        {
            self.unclaimed.pop_front();
            // It may have been steered anew since.
            let meant = |(entry, at): &(Entry, Instant)| entry.claim.is_none() && *at == since;
            if self.table.get(&flow).is_some_and(meant) {
                self.table.remove(&flow);
                forgotten.push(flow);
            }
        }
        forgotten
    }

    /// Forget the flows that were steered to a member which has not claimed them and is not heard
    /// any more; they are returned. Whoever repeats his SYN is a new flow then.
    pub fn forget_unclaimed(&mut self, owner: MemberId) -> Vec<Flow> {
        let table = &mut self.table;
        let mut forgotten = Vec::new();
        self.unclaimed.retain(|(_, flow)| match table.get(flow) {
            Some((entry, _)) if entry.claim.is_none() && entry.owner == owner => {
                table.remove(flow);
                forgotten.push(*flow);
                false
            }
            _ => true,
        });
        forgotten
    }

    /// Forget a flow.
    pub fn remove(&mut self, flow: &Flow) -> Option<Entry> {
        self.table.remove(flow).map(|(entry, _)| entry)
    }

    /// A flow of ours has ended: what of it is still on its way (a duplicate of the last ACK, say,
    /// that went round by an earlier owner) is to be dropped rather than answered with RST.
    pub fn end(&mut self, now: Instant, flow: Flow) {
        while let Some((until, oldest)) = self.ended_order.front().copied()
            && (until <= now || self.ended_order.len() >= MAX_ENDED)
        {
            self.ended_order.pop_front();
            if self.ended.get(&oldest) == Some(&until) {
                self.ended.remove(&oldest);
            }
        }
        let until = now + QUIET;
        self.ended.insert(flow, until);
        self.ended_order.push_back((until, flow));
    }

    /// A flow that ended begins anew.
    pub fn begin(&mut self, flow: &Flow) {
        self.ended.remove(flow);
    }

    /// Whether the flow has ended here a moment ago.
    pub fn has_ended(&self, now: Instant, flow: &Flow) -> bool {
        self.ended.get(flow).is_some_and(|until| *until > now)
    }

    /// Begin to ask `members` about a flow, and a cookie that its frames bring back. `false` if it is being
    /// asked about already, or too many are.
    pub fn ask(
        &mut self,
        now: Instant,
        flow: Flow,
        cookie: Option<Cookie>,
        members: Set<MemberId>,
    ) -> bool {
        if self.queries.len() >= MAX_QUERIES || self.queries.contains_key(&flow) {
            return false;
        }
        let patience = match cookie {
            Some(_) => HANDSHAKE_QUERY,
            None => QUERY,
        };
        self.queries.insert(
            flow,
            Query {
                waiting: members,
                deadline: now + patience,
                cookie,
                rebooted: false,
            },
        );
        true
    }

    /// Whether the flow is being asked about.
    pub fn is_asking(&self, flow: &Flow) -> bool {
        self.queries.contains_key(flow)
    }

    /// Ask `member` once more what it has not answered, which is returned. `booted`: this is another boot of it, and
    /// what it says from now on is noted not to be about what it had before ([`QueryState::NobodyLeft`]).
    pub fn ask_again(&mut self, member: MemberId, booted: bool) -> Vec<(Flow, Option<Cookie>)> {
        let queries = self.queries.iter_mut();
        let waiting = queries.filter(|(_, query)| query.waiting.contains(&member));
        let asked = waiting.map(|(flow, query)| {
            query.rebooted |= booted;
            (*flow, query.cookie)
        });
        asked.collect()
    }

    /// The cookie that the flow is asked about with.
    pub fn asked_cookie(&self, flow: &Flow) -> Option<Cookie> {
        self.queries.get(flow)?.cookie
    }

    /// `member` says that `owner` owns the flow, whose answer is waited for instead. `false` if nobody asks.
    pub fn ask_instead(&mut self, flow: &Flow, member: MemberId, owner: MemberId) -> bool {
        let Some(query) = self.queries.get_mut(flow) else {
            return false;
        };
        query.waiting.remove(&member);
        query.waiting.insert(owner);
        true
    }

    /// `member` does not own the flow. Once nobody does, the question is closed.
    pub fn answer_no(&mut self, flow: &Flow, member: MemberId) -> QueryState {
        if let Some(query) = self.queries.get_mut(flow) {
            query.waiting.remove(&member);
            if query.waiting.is_empty() {
                let rebooted = query.rebooted;
                self.queries.remove(flow);
                return match rebooted {
                    true => QueryState::NobodyLeft,
                    false => QueryState::Nobody,
                };
            }
        }
        QueryState::Open
    }

    /// Close the question about a flow: its owner is known.
    pub fn close(&mut self, flow: &Flow) {
        self.queries.remove(flow);
    }

    /// Close every question; the flows they were about.
    pub fn close_all(&mut self) -> Vec<Flow> {
        let all = core::mem::take(&mut self.queries);
        all.keys().copied().collect()
    }

    /// Flows whose question stayed without all answers for too long; they are closed.
    pub fn expire(&mut self, now: Instant) -> Vec<Flow> {
        let due: Vec<Flow> = self
            .queries
            .iter()
            .filter(|(_, query)| query.deadline <= now)
            .map(|(flow, _)| *flow)
            .collect();
        for flow in &due {
            self.queries.remove(flow);
        }
        due
    }

    /// When [`Steering::expire`] is next due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.queries.values().map(|query| query.deadline).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> Flow {
        Flow {
            local: ([10, 0, 0, 1], 80).into(),
            remote: ([10, 0, 0, 9], 4000).into(),
        }
    }

    const SESSION: SessionId = SessionId {
        origin: 1,
        number: 1,
    };

    #[test]
    fn a_late_claim_of_a_former_owner_changes_nothing() {
        let mut steering = Steering::default();
        let entry = |epoch| Entry {
            owner: MemberId(2),
            claim: Some((SESSION, epoch)),
        };
        steering.set(Instant::ZERO, flow(), entry(5));
        assert!(!steering.is_news(&flow(), SESSION, 4));
        assert!(steering.is_news(&flow(), SESSION, 6));
        let other = SessionId {
            number: 2,
            ..SESSION
        };
        assert!(steering.is_news(&flow(), other, 1), "the flow is used anew");
    }

    #[test]
    fn a_late_claim_of_a_session_that_made_way_changes_nothing() {
        let mut steering = Steering::default();
        let session = |number| SessionId { number, ..SESSION };
        let entry = |number| Entry {
            owner: MemberId(2),
            claim: Some((session(number), 2)),
        };
        steering.set(Instant::ZERO, flow(), entry(1));
        steering.set(Instant::ZERO, flow(), entry(2));
        // The one that has it now has gone away and come back since.
        steering.remove(&flow());
        for _ in 0..2 {
            assert!(!steering.is_news(&flow(), session(1), 9));
            assert!(steering.is_news(&flow(), session(2), 3));
            steering.set(Instant::ZERO, flow(), entry(2));
        }
        // An answer counts, and who is known to live is heard again.
        let members = Set::from([MemberId(2)]);
        assert!(steering.ask(Instant::ZERO, flow(), None, members));
        assert!(steering.is_news(&flow(), session(1), 9));
        steering.close(&flow());
        assert!(!steering.is_news(&flow(), session(1), 9));
        steering.goes_on(&session(1));
        assert!(steering.is_news(&flow(), session(1), 9));
    }

    #[test]
    fn sessions_that_made_way_are_remembered_in_bounds() {
        let mut steering = Steering::default();
        for number in 0..2 * MAX_REPLACED as u64 {
            let session = SessionId { number, ..SESSION };
            let claim = Some((session, 1));
            let owner = MemberId(2);
            steering.set(Instant::ZERO, flow(), Entry { owner, claim });
            if number % 3 == 0 {
                steering.goes_on(&session);
            }
        }
        assert!(steering.replaced.len() <= MAX_REPLACED);
        assert!(steering.replaced_order.len() <= MAX_REPLACED);
    }

    #[test]
    fn nobody_owns_a_flow_only_after_every_members_no() {
        let mut steering = Steering::default();
        let members = Set::from([MemberId(2), MemberId(3)]);
        assert!(steering.ask(Instant::ZERO, flow(), None, members.clone()));
        assert!(
            !steering.ask(Instant::ZERO, flow(), None, members),
            "one at a time"
        );
        assert_eq!(steering.answer_no(&flow(), MemberId(2)), QueryState::Open);
        assert_eq!(
            steering.answer_no(&flow(), MemberId(2)),
            QueryState::Open,
            "the same member twice is one answer"
        );
        assert_eq!(steering.answer_no(&flow(), MemberId(3)), QueryState::Nobody);
    }

    #[test]
    fn ended_flows_are_remembered_for_a_moment_and_in_bounds() {
        let mut steering = Steering::default();
        steering.end(Instant::ZERO, flow());
        assert!(steering.has_ended(Instant::ZERO, &flow()));
        assert!(!steering.has_ended(Instant::ZERO + QUIET, &flow()));
        for port in 0..10_000 {
            let remote = ([10, 0, 0, 9], port).into();
            steering.end(Instant::ZERO, Flow { remote, ..flow() });
        }
        assert!(steering.ended.len() <= MAX_ENDED && steering.ended_order.len() <= MAX_ENDED);
    }

    #[test]
    fn silence_expires_without_being_a_no() {
        let mut steering = Steering::default();
        steering.ask(Instant::ZERO, flow(), None, Set::from([MemberId(2)]));
        assert!(steering.expire(Instant::ZERO).is_empty());
        assert_eq!(steering.expire(Instant::ZERO + QUERY), [flow()]);
        assert_eq!(steering.answer_no(&flow(), MemberId(2)), QueryState::Open);
    }

    #[test]
    fn a_question_that_a_handshake_depends_on_waits_longer_for_who_has_not_answered() {
        let mut steering = Steering::default();
        let cookie = Some(Cookie {
            irs: Default::default(),
            iss: Default::default(),
        });
        let members = [MemberId(2), MemberId(3)].into_iter().collect::<Set<_>>();
        steering.ask(Instant::ZERO, flow(), cookie, members);
        steering.answer_no(&flow(), MemberId(2));
        assert!(steering.expire(Instant::ZERO + QUERY).is_empty());
        assert_eq!(steering.ask_again(MemberId(2), false), []);
        let unanswered = steering.ask_again(MemberId(3), false);
        assert_eq!(unanswered, [(flow(), cookie)]);
        let end = Instant::ZERO + HANDSHAKE_QUERY;
        assert_eq!(steering.expire(end), [flow()]);
    }

    #[test]
    fn the_no_of_a_member_that_has_booted_since_is_not_about_what_it_had() {
        for booted in [false, true] {
            let mut steering = Steering::default();
            let members = [MemberId(2), MemberId(3)].into_iter().collect::<Set<_>>();
            steering.ask(Instant::ZERO, flow(), None, members);
            assert_eq!(steering.answer_no(&flow(), MemberId(2)), QueryState::Open);
            // Its earlier boot has said no.
            steering.ask_again(MemberId(2), true);
            steering.ask_again(MemberId(3), booted);
            let state = steering.answer_no(&flow(), MemberId(3));
            let expected = match booted {
                true => QueryState::NobodyLeft,
                false => QueryState::Nobody,
            };
            assert_eq!(state, expected);
        }
    }

    #[test]
    fn what_a_silent_member_has_not_claimed_is_forgotten_and_nothing_else() {
        let mut steering = Steering::default();
        let at = |port: u16| Flow {
            remote: ([10, 0, 0, 9], port).into(),
            ..flow()
        };
        let entries = [(1, 2, None), (2, 2, Some((SESSION, 1))), (3, 3, None)];
        for (port, owner, claim) in entries {
            let owner = MemberId(owner);
            steering.set(Instant::ZERO, at(port), Entry { owner, claim });
        }
        assert_eq!(steering.forget_unclaimed(MemberId(2)), [at(1)]);
        assert_eq!(steering.forget_unclaimed(MemberId(2)), []);
        assert!(steering.get(&at(2)).is_some() && steering.get(&at(3)).is_some());
    }

    #[test]
    fn a_flow_that_is_steered_anew_is_not_forgotten_for_its_first_time() {
        let mut steering = Steering::default();
        let entry = Entry {
            owner: MemberId(2),
            claim: None,
        };
        let again = Instant::ZERO + Duration::from_secs(10);
        steering.set(Instant::ZERO, flow(), entry);
        steering.remove(&flow());
        steering.set(again, flow(), entry);
        assert_eq!(steering.expire_unclaimed(Instant::ZERO + UNCLAIMED), []);
        assert_eq!(steering.expire_unclaimed(again + UNCLAIMED), [flow()]);
    }

    #[test]
    fn who_is_named_as_the_owner_is_asked_before_it_is_nobodys() {
        let mut steering = Steering::default();
        let members = Set::from([MemberId(2), MemberId(3)]);
        steering.ask(Instant::ZERO, flow(), None, members);
        assert_eq!(steering.answer_no(&flow(), MemberId(2)), QueryState::Open);
        assert!(steering.ask_instead(&flow(), MemberId(3), MemberId(2)));
        assert_eq!(steering.answer_no(&flow(), MemberId(3)), QueryState::Open);
        assert_eq!(steering.answer_no(&flow(), MemberId(2)), QueryState::Nobody);
        assert!(!steering.ask_instead(&flow(), MemberId(3), MemberId(2)));
    }

    #[test]
    fn a_flow_that_begins_is_no_news_where_a_session_has_it() {
        let mut steering = Steering::default();
        let claimed = Entry {
            owner: MemberId(2),
            claim: Some((SESSION, 1)),
        };
        assert!(steering.is_news(&flow(), SessionId::default(), 0));
        steering.set(Instant::ZERO, flow(), claimed);
        assert!(!steering.is_news(&flow(), SessionId::default(), 0));
    }

    #[test]
    fn flows_nobody_claims_are_few_and_soon_forgotten() {
        let mut steering = Steering::default();
        let steered = |port: usize| {
            let mut flow = flow();
            flow.remote.set_port(port as u16);
            flow
        };
        let unclaimed = Entry {
            owner: MemberId(2),
            claim: None,
        };
        let mut forgotten = 0;
        for port in 0..MAX_UNCLAIMED + 10 {
            steering.set(Instant::ZERO, steered(port), unclaimed);
            forgotten += steering.expire_unclaimed(Instant::ZERO).len();
        }
        assert_eq!(forgotten, 10, "the oldest make room");
        let session = SessionId::default();
        let claimed = Entry {
            owner: MemberId(2),
            claim: Some((session, 1)),
        };
        steering.set(Instant::ZERO, steered(100), claimed);
        let rest = steering.expire_unclaimed(Instant::ZERO + UNCLAIMED);
        assert_eq!(rest.len(), MAX_UNCLAIMED - 1);
        assert!(steering.get(&steered(100)).is_some(), "claimed in time");
        assert_eq!(steering.iter().count(), 1);
    }
}
