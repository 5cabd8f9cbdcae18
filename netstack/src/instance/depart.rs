//! Whether the ingress knows where everything went: what a drain waits for before it ends.
//!
//! An ingress that steers the frames of a session that moved to where it is now says so unasked
//! ([`Message::Rerouted`]). What it has not said by the time all have moved, and everything again
//! once another member is the ingress, it is asked ([`Message::Confirm`]). Where it does not know a
//! flow because the session has ended, the owner is asked, and says that nothing hangs on it.

use alloc::vec::Vec;

use super::Instance;
use super::follow::Following;
use crate::cluster::MemberId;
use crate::cluster::message::{Attempt, MAX_ENTRIES, Message, Ownership};
use crate::map::{Map, Set};
use crate::session::SessionId;
use crate::stack::FlowKey;
use crate::time::{Duration, Instant};

/// Time between two rounds of questions.
const ROUND: Duration = Duration::from_millis(200);
/// Flows asked about at a time.
const STEP: usize = 16 * MAX_ENTRIES;

/// Sessions that went elsewhere, and what the ingress has confirmed of that.
#[derive(Debug, Default)]
pub(super) struct Departed {
    /// Sessions that moved away from here in this drain.
    pub moved: usize,
    /// Where they went, and other sessions that the ingress has to know of.
    places: Map<SessionId, Following>,
    open: Set<SessionId>,
    /// So many of them were looked at in the present round.
    asked: usize,
    /// Rounds since the ingress has changed.
    round: u32,
    next_round: Option<Instant>,
}

impl Departed {
    /// Sessions of which the ingress has not said that it knows where they are.
    pub fn unconfirmed(&self) -> usize {
        self.open.len()
    }

    /// `ingress` is that from now on: it has to know all that it does not own itself.
    pub fn ask_anew(&mut self, now: Instant, ingress: MemberId) {
        let elsewhere = self.places.iter().filter(|(_, p)| p.target != ingress);
        let elsewhere: Vec<SessionId> = elsewhere.map(|(session, _)| *session).collect();
        self.open = Set::new();
        for session in elsewhere {
            self.set_open(session, true);
        }
        self.asked = 0;
        self.round = 0;
        // The owners tell it themselves, as soon as they hear of it.
        self.next_round = Some(now + ROUND);
    }

    /// Whether the ingress has yet to confirm a session. (Not inlined: images are small.)
    #[inline(never)]
    fn set_open(&mut self, session: SessionId, open: bool) {
        match open {
            true => self.open.insert(session),
            false => self.open.remove(&session),
        };
    }

    #[inline(never)]
    fn note(&mut self, place: Following, open: bool) {
        let session = place.attempt.session;
        self.set_open(session, open);
        self.places.insert(session, place);
    }

    /// The next sessions to ask about, with their owners' ownerships.
    fn questions(&mut self, now: Instant) -> Vec<Ownership> {
        if self.open.is_empty() || self.next_round.is_some_and(|at| at > now) {
            return Vec::new();
        }
        let mut list = Vec::new();
        for session in self.open.iter().skip(self.asked) {
            if list.len() >= STEP {
                break;
            }
            self.asked += 1;
            let Some(place) = self.places.get(session) else {
                continue;
            };
            list.extend(place.flows.iter().map(|flow| Ownership {
                flow: (*flow).into(),
                owner: place.target,
                session: *session,
                epoch: place.attempt.epoch,
            }));
        }
        // What was confirmed meanwhile has made some be skipped: they come in the next round.
        if self.asked >= self.open.len() {
            self.asked = 0;
            self.round += 1;
            self.next_round = Some(now + ROUND);
        }
        list
    }
}

impl Instance {
    /// A session has moved.
    pub(super) fn note_departed(&mut self, now: Instant, gone: &Following) {
        let ingress = self.ingress(now);
        // We steer it ourselves, or the owner does not have to be told.
        let open = ingress != Some(self.id) && ingress != Some(gone.target);
        if let Some(departed) = self.departed() {
            departed.moved += 1;
            departed.note(gone.clone(), open);
        }
    }

    /// As an ingress that leaves: all that is steered has to be known to the successor.
    pub(super) fn watch_table(&mut self, now: Instant) {
        let table = self.whole_table();
        let Some(departed) = self.departed() else {
            return;
        };
        for entry in table.into_iter().filter(|entry| entry.epoch > 0) {
            let (session, epoch) = (entry.session, entry.epoch);
            let attempt = Attempt { session, epoch };
            let known = departed.places.get(&session);
            let mut flows = known.map_or(Vec::new(), |place| place.flows.clone());
            let flow = FlowKey::from(entry.flow);
            if !flows.contains(&flow) {
                flows.push(flow);
            }
            departed.note(Following::new(now, attempt, entry.owner, flows), true);
        }
    }

    /// `from` says of these sessions that nothing has to be waited for.
    pub(super) fn note_confirmed(&mut self, from: MemberId, list: &[Attempt]) {
        let ingress = self.ingress;
        let Some(departed) = self.departed() else {
            return;
        };
        for attempt in list {
            let place = departed.places.get(&attempt.session);
            let heard = |place: &Following| {
                place.attempt.epoch <= attempt.epoch
                    && (ingress == Some(from) || place.target == from)
            };
            if place.is_some_and(heard) {
                departed.set_open(attempt.session, false);
            }
        }
    }

    /// Ask about what is not confirmed, once nothing else is left to do.
    pub(super) fn ask_departed(&mut self, now: Instant) {
        if !self.has_left() {
            return;
        }
        let ingress = self.ingress.filter(|ingress| *ingress != self.id);
        let Some(departed) = self.departed() else {
            return;
        };
        // The ingress first, then the owners as well.
        let owners = departed.round > 0;
        let list = departed.questions(now);
        let mut asked: Vec<(MemberId, Vec<Ownership>)> = Vec::new();
        for ownership in list {
            let owner = Some(ownership.owner).filter(|_| owners);
            for member in ingress.into_iter().chain(owner) {
                match asked.iter_mut().find(|(asked, _)| *asked == member) {
                    Some((_, list)) => list.push(ownership),
                    None => asked.push((member, alloc::vec![ownership])),
                }
            }
        }
        for (member, list) in asked {
            let mut part: Vec<Ownership> = Vec::new();
            // A session's flows are asked about together, or half of them could confirm the other.
            for session in list.chunk_by(|a, b| a.session == b.session) {
                if part.len() + session.len() > MAX_ENTRIES {
                    self.send(member, &Message::Confirm(core::mem::take(&mut part)));
                }
                part.extend_from_slice(session);
            }
            self.send(member, &Message::Confirm(part));
        }
    }

    /// A member that leaves asks whether its sessions' flows are known to be where they went.
    pub(super) fn handle_confirm(&mut self, now: Instant, from: MemberId, list: &[Ownership]) {
        let mut known = Vec::new();
        for flows in list.chunk_by(|a, b| a.session == b.session) {
            let settled = flows.iter().all(|flow| self.is_settled(now, flow));
            known.extend(flows.first().filter(|_| settled).map(|first| Attempt {
                session: first.session,
                epoch: first.epoch,
            }));
        }
        if !known.is_empty() {
            self.send(from, &Message::Rerouted(known));
        }
    }

    fn is_settled(&self, now: Instant, asked: &Ownership) -> bool {
        let here =
            |session| self.sessions.contains_key(&session) || self.moving.contains_key(&session);
        // It has ended, or gone on: whoever gave it away knows where, as long as anybody asks.
        if asked.owner == self.id && !here(asked.session) {
            return true;
        }
        if !self.acts_as_ingress(now) {
            return false;
        }
        let steered = self.steering.get(&asked.flow).and_then(|entry| entry.claim);
        match self.owner_here(&asked.flow.into()).or(steered) {
            Some((session, epoch)) => session != asked.session || epoch >= asked.epoch,
            None => self.steering.has_ended(now, &asked.flow),
        }
    }
}
