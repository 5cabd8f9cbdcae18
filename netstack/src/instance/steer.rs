//! Flows that are not local: placing new ones, asking about unknown ones.

use alloc::vec::Vec;

use super::Instance;
use crate::cluster::MemberId;
use crate::cluster::members::{Member, Wanted};
use crate::cluster::message::{Flow, MAX_ENTRIES, Message, Ownership};
use crate::cluster::steering::{Entry, QueryState};
use crate::map::Set;
use crate::session::{Session, SessionId};
use crate::stack::{COOKIE_LIFE, FlowKey, Route};
use crate::tcp::Cookie;
use crate::time::{Duration, Instant};

/// A connection that is being opened belongs to no session yet.
const UNCLAIMED: (SessionId, u64) = (
    SessionId {
        origin: 0,
        number: 0,
    },
    0,
);

/// Epoch of a session that was never elsewhere.
const FIRST_EPOCH: u64 = 1;

/// How long a route to another member is kept without a frame passing, unless the ingress was
/// told of its owner.
const UNUSED: Duration = Duration::from_secs(60);
/// Entries looked at in one sweep.
const SWEEP_STEP: usize = 4096;

impl Instance {
    // --- flows of our own ------------------------------------------------------------------------

    /// The session whose flow this is here, served or frozen.
    #[inline(never)]
    pub(super) fn owner_here(&self, flow: &FlowKey) -> Option<(SessionId, u64)> {
        if let Some(Route::Local(conn)) = self.stack.route(flow) {
            let Some(super::uses::Use::Session(id, _)) = self.uses.get(conn) else {
                return None;
            };
            return self.sessions.get(&id).map(|session| (id, session.epoch));
        }
        let id = self.frozen.get(&Flow::from(*flow))?;
        let moving = self.moving.get(id)?;
        Some((*id, moving.session.epoch))
    }

    /// A flow has its connection here now: what was known of it elsewhere is over.
    pub(super) fn flow_is_local(&mut self, flow: FlowKey) {
        self.steering.remove(&flow.into());
        self.steering.close(&flow.into());
        self.steering.begin(&flow.into());
    }

    pub(super) fn ownerships(&self, session: &Session) -> Vec<Ownership> {
        session
            .connections
            .iter()
            .map(|connection| Ownership {
                flow: connection.flow.into(),
                owner: self.id,
                session: session.id,
                epoch: session.epoch,
            })
            .collect()
    }

    /// Tell the ingress that a session's flows are ours.
    pub(super) fn claim_flows(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        if self.is_movable(session) {
            let owned = self.ownerships(session);
            self.claims.extend(owned);
        }
    }

    /// Tell the ingress what it has not been told yet. Claims first: a flow that ended here and was
    /// opened anew is told apart by its session. Where it is still being opened, that comes last, or a
    /// repeated SYN would be a new flow to the ingress, and given to another member.
    pub(super) fn flush_claims(&mut self) {
        if !self.claims.is_empty() {
            let claims = core::mem::take(&mut self.claims);
            for part in claims.chunks(MAX_ENTRIES) {
                self.tell_ingress(&Message::Owns(part.to_vec()));
            }
        }
        if !self.releases.is_empty() {
            let releases = core::mem::take(&mut self.releases);
            for part in releases.chunks(MAX_ENTRIES) {
                self.tell_ingress(&Message::Released(part.to_vec()));
            }
        }
        if !self.openings.is_empty() {
            let openings = core::mem::take(&mut self.openings);
            for part in openings.chunks(MAX_ENTRIES) {
                self.tell_ingress(&Message::Owns(part.to_vec()));
            }
        }
    }

    /// Tell the ingress of all our sessions' flows.
    pub(super) fn claim_all_flows(&mut self) {
        let all: Vec<Ownership> = self
            .sessions
            .values()
            .filter(|session| self.is_movable(session))
            .flat_map(|session| self.ownerships(session))
            .collect();
        for part in all.chunks(MAX_ENTRIES) {
            self.tell_ingress(&Message::Owns(part.to_vec()));
        }
    }

    /// Say something to the ingress, if that is another member.
    fn tell_ingress(&mut self, message: &Message) {
        if let Some(ingress) = self.ingress.filter(|ingress| *ingress != self.id) {
            self.send(ingress, message);
        }
    }

    /// Tell the ingress that a session has ended.
    pub(super) fn release_flows(&mut self, now: Instant, session: &Session) {
        for connection in &session.connections {
            self.steering.end(now, connection.flow.into());
        }
        if self.is_movable(session) {
            let flows = session.connections.iter();
            let flows = flows.map(|connection| (connection.flow.into(), session.id));
            let flows: Vec<(Flow, SessionId)> = flows.collect();
            self.release_tombstones(session, &flows);
            self.releases.extend(flows);
        }
    }

    /// Tell everyone else of the end of a session that has moved: who had it still leads its flows to the
    /// next, and so would lead the next connection between the same ends round in circles.
    fn release_tombstones(&mut self, session: &Session, flows: &[(Flow, SessionId)]) {
        if session.epoch <= FIRST_EPOCH {
            return;
        }
        let others = self.members.iter().filter(|member| member.is_up());
        let others: Vec<MemberId> = others.map(|member| member.id).collect();
        for member in others {
            if Some(member) != self.ingress {
                self.send(member, &Message::Released(flows.to_vec()));
            }
        }
    }

    // --- flows of others -------------------------------------------------------------------------

    /// Send a flow's frames to its owner, if that is news.
    pub(super) fn steer_to(&mut self, now: Instant, ownership: Ownership) {
        let Ownership {
            flow,
            owner,
            session,
            epoch,
        } = ownership;
        let key = FlowKey::from(flow);
        self.note_owner(now, session, owner, epoch);
        if epoch == 0 && self.stack.is_half_open(&key) {
            // Both are asked by the same client, which answers us.
            return;
        }
        if self.owner_here(&key).is_some() || !self.steering.is_news(&flow, session, epoch) {
            return;
        }
        let Some(address) = self.members.get(owner).map(|member| member.address) else {
            return;
        };
        // Epoch 0: steered there, and not claimed yet (part of a handed-over table).
        let claim = (epoch > 0).then_some((session, epoch));
        if self.steering.set(now, flow, Entry { owner, claim }) {
            self.steering.close(&flow);
            self.stack.set_route(now, key, Route::Forward(address));
        } else {
            // Unknown from now on, and asked about when it speaks.
            self.counters.add("steering_table_full");
            self.stack.drop_held(now, &key);
        }
    }

    /// A session moved away from here: its flows follow it.
    pub(super) fn leave_tombstone(&mut self, now: Instant, flow: FlowKey, owner: Ownership) {
        self.frozen.remove(&flow.into());
        self.steering.remove(&flow.into());
        self.steering.goes_on(&owner.session);
        self.steer_to(now, owner);
    }

    pub(super) fn handle_owns(&mut self, now: Instant, ownership: Ownership) {
        // Only the ingress needs to know of flows it did not ask about.
        let known = self.steering.get(&ownership.flow).is_some();
        if self.is_ingress() || known || self.steering.is_asking(&ownership.flow) {
            self.steer_to(now, ownership);
        }
    }

    pub(super) fn handle_released(
        &mut self,
        now: Instant,
        from: MemberId,
        flow: Flow,
        session: SessionId,
    ) {
        let released = |entry: &Entry| match entry.claim {
            Some((claimed, _)) => claimed == session,
            None => entry.owner == from && session == UNCLAIMED.0,
        };
        if self.steering.get(&flow).is_some_and(released) {
            self.forget_flow(now, flow);
        }
    }

    fn forget_flow(&mut self, now: Instant, flow: Flow) {
        self.steering.remove(&flow);
        self.drop_route(now, flow);
    }

    fn drop_route(&mut self, now: Instant, flow: Flow) {
        let key = FlowKey::from(flow);
        if let Some(Route::Forward(_) | Route::Hold) = self.stack.route(&key) {
            self.stack.drop_held(now, &key);
        }
    }

    /// A member left, and owns nothing any more.
    pub(super) fn forget_owner(&mut self, now: Instant, owner: MemberId) {
        let flows: Vec<Flow> = self
            .steering
            .iter()
            .filter(|(_, entry)| entry.owner == owner)
            .map(|(flow, _)| *flow)
            .collect();
        for flow in flows {
            self.forget_flow(now, flow);
        }
    }

    /// Members that are not heard any more get nothing new; what was steered to them and not
    /// claimed is placed anew when the client tries again.
    pub(super) fn forget_silent(&mut self, now: Instant) {
        if self.steering.is_empty() || !self.is_ingress() {
            return;
        }
        let stale = self.members.stale();
        let silent = |member: &&Member| !member.is_up() || now.since(member.heard) >= stale;
        let silent = self.members.iter().filter(silent).map(|member| member.id);
        let silent: Vec<MemberId> = silent.collect();
        for member in silent {
            self.forget_unclaimed(now, member);
        }
    }

    /// Forget what was steered to a member and not claimed.
    pub(super) fn forget_unclaimed(&mut self, now: Instant, owner: MemberId) {
        for flow in self.steering.forget_unclaimed(owner) {
            self.counters.add("flows_unclaimed_forgotten");
            self.drop_route(now, flow);
        }
    }

    /// Forget routes nobody uses; a part of the table each time.
    pub(super) fn sweep_flows(&mut self, now: Instant) {
        for flow in self.steering.expire_unclaimed(now) {
            self.drop_route(now, flow);
        }
        let ingress = self.is_ingress();
        let mut looked = 0;
        let mut last = None;
        let mut useless = Vec::new();
        for (flow, entry) in self.steering.after(self.swept).take(SWEEP_STEP) {
            looked += 1;
            last = Some(*flow);
            let used = self.stack.route_last_used(&FlowKey::from(*flow));
            let unused = used.is_none_or(|used| now.since(used) > UNUSED);
            let member = self.members.get(entry.owner);
            let gone = member.is_none_or(|member| member.owns_nothing() || !member.is_up());
            // The ingress keeps what an owner told it, until the owner releases it or is gone (what
            // is forgotten is asked about when it speaks).
            if unused && (!ingress || entry.claim.is_none() || gone) {
                useless.push(*flow);
            }
        }
        self.swept = if looked < SWEEP_STEP { None } else { last };
        for flow in useless {
            self.forget_flow(now, flow);
        }
    }

    // --- flows nobody here knows -----------------------------------------------------------------

    /// A segment of an unknown flow is held: place it if it is new, ask about it if not.
    pub(super) fn place(&mut self, now: Instant, flow: FlowKey, syn: bool) {
        if self.stack.route(&flow) != Some(Route::Hold) {
            // Decided meanwhile.
            return;
        }
        if syn {
            self.place_new(now, flow);
        } else {
            self.ask(now, flow);
        }
    }

    fn place_new(&mut self, now: Instant, flow: FlowKey) {
        let leaving = self.is_draining();
        if !self.is_ingress() {
            self.place_steered(now, flow);
            return;
        }
        let own = (!leaving && !self.is_cut_off()).then_some((self.id, self.load()));
        if !leaving && self.stack.was_in_time_wait(&flow) {
            self.accept_here(now, flow);
            return;
        }
        let wanted = Wanted {
            own,
            version: 0,
            voter: false,
        };
        let chosen = self.members.choose(now, &mut self.rng, wanted);
        let Some(member) = chosen.and_then(|id| self.members.get_mut(id)) else {
            // Cut off, and nobody else takes it: that it came says that the link is back.
            match chosen {
                None if leaving => self.stack.drop_held(now, &flow),
                _ => self.accept_here(now, flow),
            }
            return;
        };
        member.given += 1;
        let (owner, address) = (member.id, member.address);
        if self
            .steering
            .set(now, flow.into(), Entry { owner, claim: None })
        {
            self.counters.add("flows_steered");
            self.stack.set_route(now, flow, Route::Forward(address));
        } else if leaving {
            self.stack.drop_held(now, &flow);
        } else {
            self.accept_here(now, flow);
        }
        for flow in self.steering.expire_unclaimed(now) {
            self.drop_route(now, flow);
        }
    }

    fn accept_here(&mut self, now: Instant, flow: FlowKey) {
        if self.steering.has_ended(now, &flow.into()) {
            // The SYN may have ended the TIME-WAIT of the connection before. The ingress forgets where it
            // led that, perhaps a moment after it has led this one here.
            self.openings.push(opening(flow.into(), self.id));
        }
        self.steering.begin(&flow.into());
        self.stack.accept_here(now, &flow);
    }

    /// A new flow reached us, who are not the ingress: it was steered here, or the client does not
    /// know yet who is.
    fn place_steered(&mut self, now: Instant, flow: FlowKey) {
        let voted = self.election.as_ref().and_then(|e| e.voted_for(now));
        let ingress = self.ingress(now).or(voted);
        let Some(ingress) = ingress.and_then(|id| self.members.get(id)) else {
            // Nobody can have steered it here. Taken, it might never be found: whoever is elected
            // may not hear of it. Or it is old, and lay about here while we stood still.
            self.await_ingress(now, flow);
            return;
        };
        let source = self.stack.held_from(&flow);
        let is_source =
            |member: &&Member| source.is_some() && self.stack.mac_of(member.address) == source;
        let (ingress, up, address) = (ingress.id, ingress.is_up(), ingress.address);
        let source = self.members.iter().find(is_source).map(|member| member.id);
        if let Some(source) = source.filter(|source| *source != ingress) {
            // It was the ingress, and does not know that another is, who may have placed the flow
            // elsewhere; or it had the connection before, and still leads to us what has ended since.
            // The client will try again, and finds its way if that is forgotten.
            self.counters.add("flows_of_a_former_ingress");
            self.stack.drop_held(now, &flow);
            self.send(source, &Message::NotMine(flow.into(), None));
            return;
        }
        match (self.has_left(), self.is_succeeded() && up) {
            (false, _) if !self.is_witness() && self.may_own(now) => self.accept_here(now, flow),
            // The client does not know yet who the ingress is.
            (true, true) => {
                self.stack.set_route(now, flow, Route::Forward(address));
            }
            // The ingress did not know yet that we leave, or take nothing; the client will try again.
            _ => {
                self.stack.drop_held(now, &flow);
                if !self.may_own(now) {
                    self.send(ingress, &Message::NotMine(flow.into(), None));
                }
            }
        }
    }

    /// Ask every other member whose flow this is. Meanwhile its frames are held; RST needs every
    /// member's no.
    fn ask(&mut self, now: Instant, flow: FlowKey) {
        let cookie = self.stack.held_cookie(now, &flow);
        if self.is_left_over(now, &flow.into(), cookie) {
            self.stack.drop_held(now, &flow);
            return;
        }
        let counted = cookie.is_some() && self.may_count_out(now);
        let asked = self.members.iter().filter(|member| {
            let gone = !member.is_up() && now.since(member.heard) >= COOKIE_LIFE;
            self.is_asked(member) && !(counted && gone)
        });
        let others: Set<MemberId> = asked.map(|member| member.id).collect();
        if others.is_empty() {
            self.nobody_owns(now, flow, cookie);
            return;
        }
        if !self.steering.ask(now, flow.into(), cookie, others.clone()) {
            self.counters.add("unknown_flows_dropped");
            self.stack.drop_held(now, &flow);
            return;
        }
        self.counters.add("unknown_flows_asked");
        if cookie.is_some() {
            // For as long as frames are held at all; otherwise the stack forgets them with its own question.
            self.stack.set_route(now, flow, Route::Hold);
        }
        for member in others {
            self.send(member, &Message::WhoOwns(flow.into(), cookie));
        }
    }

    /// A channel to a member has come up: what it was asked before may not have got there.
    pub(super) fn ask_again(&mut self, member: MemberId, booted: bool) {
        for (flow, cookie) in self.steering.ask_again(member, booted) {
            self.send(member, &Message::WhoOwns(flow, cookie));
        }
    }

    /// Whether what comes of a flow that ended here a moment ago is left over from the connection that did. The
    /// cookie of that one is spent: what brings another one answers a later SYN, from a port just used.
    pub(super) fn is_left_over(&self, now: Instant, flow: &Flow, cookie: Option<Cookie>) -> bool {
        let spent = |cookie: Cookie| self.stack.is_spent(now, &(*flow).into(), cookie);
        self.steering.has_ended(now, flow) && cookie.is_none_or(spent)
    }

    /// Whether an unknown flow that brings a cookie cannot be, nor have been, that of a member that has been
    /// away for longer than a SYN cookie lives: its SYN was answered later than that, and we have been the
    /// ingress since, who gave it to nobody who was away. Else nobody could connect during a flood while a
    /// member is down.
    fn may_count_out(&self, now: Instant) -> bool {
        let long = |since: Instant| now.since(since) >= COOKIE_LIFE;
        self.acts_as_ingress(now) && self.ingress_since.is_some_and(long)
    }

    pub(super) fn tell_owner(
        &mut self,
        now: Instant,
        from: MemberId,
        flow: Flow,
        cookie: Option<Cookie>,
    ) {
        let opened = self.stack.is_half_open(&flow.into());
        let opened = opened.then_some(UNCLAIMED);
        let ours = self.owner_here(&flow.into()).or(opened);
        if ours.is_some_and(|(_, epoch)| epoch == 0) {
            // Else both of us would yield.
            self.ask_no_more(now, flow);
        }
        let ours = ours.map(|claim| (self.id, claim));
        let over = |cookie: &Cookie| self.stack.is_spent(now, &flow.into(), *cookie);
        let spent = cookie.filter(over);
        let others = self.steering.get(&flow).and_then(|entry| {
            // What nobody has claimed is of interest only to whom it was given.
            let given = entry.owner == from && spent.is_none();
            let claim = entry.claim.or(given.then_some(UNCLAIMED));
            Some((entry.owner, claim?))
        });
        let answer = match ours.or(others) {
            // Pointing back at whoever asks says that we are mistaken.
            Some((owner, (session, epoch))) => Message::Owns(alloc::vec![Ownership {
                flow,
                owner,
                session,
                epoch,
            }]),
            _ if self.is_left_over(now, &flow, cookie) => Message::Ended(flow),
            _ => {
                self.ask_no_more(now, flow);
                Message::NotMine(flow, spent)
            }
        };
        self.send(from, &answer);
    }

    /// Whoever says no has no part in the flow from then on, whatever it was about to hear: of two that ask each
    /// other both would take it, and both speak. The client says it again, to the one that is the ingress.
    fn ask_no_more(&mut self, now: Instant, flow: Flow) {
        if self.steering.is_asking(&flow) {
            self.counters.add("questions_crossed");
            self.steering.close(&flow);
            self.stack.drop_held(now, &flow.into());
        }
    }

    pub(super) fn handle_not_mine(
        &mut self,
        now: Instant,
        from: MemberId,
        flow: Flow,
        spent: Option<Cookie>,
    ) {
        let cookie = self.steering.asked_cookie(&flow);
        if let Some(spent) = spent.filter(|spent| cookie == Some(*spent)) {
            self.stack.spend(now, &flow.into(), spent);
        }
        let leads_there = |entry: &Entry| entry.owner == from;
        if !self.steering.is_asking(&flow) && self.steering.get(&flow).is_some_and(leads_there) {
            // It has got a SYN by way of us, and knows nothing of the connection before.
            self.counters.add("flows_disowned");
            self.forget_flow(now, flow);
            return;
        }
        match self.steering.answer_no(&flow, from) {
            QueryState::Open => {}
            QueryState::NobodyLeft if self.may_complete(now, &flow.into()) => {
                // It may be an old duplicate of what began a connection that was lost. Whoever really begins
                // says it again.
                self.counters.add("unknown_flows_undecided");
                self.stack.drop_held(now, &flow.into());
            }
            QueryState::Nobody | QueryState::NobodyLeft => {
                self.counters.add("unknown_flows_reset");
                self.nobody_owns(now, flow.into(), cookie);
            }
        }
    }

    /// A member leads a flow here that we ask about, because we know nothing of it. If we have answered
    /// its SYN without remembering it, that is as it should be. Else it is out of date: the connection
    /// before has ended, or the SYN never got here. It is not to be reset for that; what the client
    /// repeats finds no trace of it there.
    pub(super) fn disown(&mut self, now: Instant, from: MemberId, said: &Ownership) {
        let flow = said.flow;
        if !self.steering.is_asking(&flow) {
            return;
        }
        let cookie = self.stack.held_cookie(now, &flow.into());
        if cookie.is_some() || self.stack.is_half_open(&flow.into()) {
            self.handle_not_mine(now, from, flow, None);
            return;
        }
        self.steering.close(&flow);
        self.stack.drop_held(now, &flow.into());
        if said.epoch == 0 && self.stack.trusts_cookies(now) {
            // It may have overtaken the one that brings our cookie back.
            return;
        }
        self.counters.add("flows_disowned");
        self.send(from, &Message::Released(alloc::vec![(flow, said.session)]));
    }

    /// A member says of another one that it owns a flow. It may have been told of the end of that session
    /// later than we see it begin anew, so the owner is asked (again: its answer may be older than the
    /// move that made it one). False if it cannot be.
    pub(super) fn verify_owner(&mut self, from: MemberId, said: &Ownership) -> bool {
        let up = self.members.get(said.owner).is_some_and(Member::is_up);
        let asks = up && self.steering.ask_instead(&said.flow, from, said.owner);
        if asks {
            let cookie = self.steering.asked_cookie(&said.flow);
            self.send(said.owner, &Message::WhoOwns(said.flow, cookie));
        }
        asks
    }

    /// Whether a flow that is held, or half open, here would be begun if nobody else had it.
    fn may_complete(&self, now: Instant, flow: &FlowKey) -> bool {
        self.stack.is_half_open(flow) || self.stack.held_cookie(now, flow).is_some()
    }

    /// Nobody else has a flow that is held, or half open, here. They were asked about `cookie` too.
    fn nobody_owns(&mut self, now: Instant, flow: FlowKey, cookie: Option<Cookie>) {
        if !self.knows_everyone(now) {
            self.counters.add("unknown_flows_undecided");
            self.stack.drop_held(now, &flow);
            return;
        }
        let half_open = self.stack.is_half_open(&flow);
        let brought = match half_open {
            true => self.stack.doubtful_cookie(&flow),
            false => self.stack.held_cookie(now, &flow),
        };
        // What came after the question: its connection may have been somebody's, and be over.
        let late = brought.is_some() && brought != cookie;
        match (half_open, late) {
            (true, true) => self.ask_for_handshake(now, flow),
            (true, false) => self.stack.complete_handshake(now, &flow),
            (false, true) => self.ask(now, flow),
            (false, false) => {
                if let Some(cookie) =
                    brought.filter(|cookie| self.stack.is_outgrown(&flow, *cookie))
                {
                    // Its owner has lost its memory. Begun anew, the client would hear two answers in one.
                    self.counters.add("cookies_outgrown");
                    self.stack.spend(now, &flow, cookie);
                }
                self.stack.clear_route(now, &flow);
            }
        }
    }

    /// A client acknowledges a SYN-ACK of ours, but not from the first octet on, or that of a SYN which is not
    /// remembered. Either what it sent first was lost, or another member has the connection, or had it.
    pub(super) fn ask_for_handshake(&mut self, now: Instant, flow: FlowKey) {
        let cookie = self.stack.doubtful_cookie(&flow);
        let others = self.members.iter();
        let others = others.filter(|member| self.is_asked(member));
        let others: Set<MemberId> = others.map(|member| member.id).collect();
        if others.is_empty() {
            self.nobody_owns(now, flow, cookie);
        } else if self.steering.ask(now, flow.into(), cookie, others.clone()) {
            self.counters.add("handshakes_asked");
            for member in others {
                self.send(member, &Message::WhoOwns(flow.into(), cookie));
            }
        }
    }

    /// A handshake that we ask about, and that would be complete, is half open at another member too: that one
    /// completes it as soon as the client speaks to it, and does not ask. So it is left to that one.
    pub(super) fn yield_handshake(&mut self, now: Instant, theirs: &Ownership) {
        let flow = theirs.flow;
        let owner = self.members.get(theirs.owner);
        let owner = owner.filter(|member| member.is_up());
        let Some((owner, address)) = owner.map(|member| (member.id, member.address)) else {
            return;
        };
        let entry = Entry { owner, claim: None };
        if self.steering.is_asking(&flow) && self.steering.set(now, flow, entry) {
            self.counters.add("handshakes_yielded");
            self.steering.close(&flow);
            self.stack
                .set_route(now, flow.into(), Route::Forward(address));
        }
    }

    pub(super) fn handle_ended(&mut self, now: Instant, flow: Flow) {
        if self.steering.is_asking(&flow) {
            self.steering.close(&flow);
            self.stack.drop_held(now, &flow.into());
        }
    }

    /// Not everyone answered in time: silence is not a no.
    pub(super) fn expire_queries(&mut self, now: Instant) {
        for flow in self.steering.expire(now) {
            self.counters.add("unknown_flows_unanswered");
            self.stack.drop_held(now, &flow.into());
        }
    }
}

/// A connection that is being opened.
fn opening(flow: Flow, owner: MemberId) -> Ownership {
    let (session, epoch) = UNCLAIMED;
    Ownership {
        flow,
        owner,
        session,
        epoch,
    }
}
