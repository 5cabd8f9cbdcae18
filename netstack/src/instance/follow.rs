//! The source after a move: when frames stop following the session in the channel.
//!
//! Where the ingress is a third member, it goes on sending the client's frames to the source until it
//! has heard of the new owner. Those take a step more than the ones it then sends to the target
//! itself, and would arrive behind them. So the source relays what arrives in the channel, as before
//! the answer, until the ingress says that it has changed the route ([`Message::Rerouted`]): as
//! channel and frames take the same way, nothing is behind that. Then comes the fence.
//!
//! [`Message::Rerouted`]: crate::cluster::message::Message::Rerouted

use alloc::vec::Vec;

use super::Instance;
use crate::cluster::MemberId;
use crate::cluster::message::{Attempt, Message, Ownership};
use crate::cluster::steering::Entry;
use crate::session::SessionId;
use crate::stack::{FlowKey, Route, RxFrame};
use crate::time::{Duration, Instant};

/// How long the ingress is waited for: less than the target holds what comes along the wire.
const LIMIT: Duration = Duration::from_millis(25);

/// A session that is served elsewhere already, and whose frames still come here.
#[derive(Clone, Debug)]
pub(super) struct Following {
    pub(super) attempt: Attempt,
    pub(super) target: MemberId,
    pub(super) flows: Vec<FlowKey>,
    until: Instant,
}

impl Following {
    /// It has gone to `target` under the attempt's epoch.
    pub(super) fn new(
        now: Instant,
        attempt: Attempt,
        target: MemberId,
        flows: Vec<FlowKey>,
    ) -> Following {
        Following {
            attempt,
            target,
            flows,
            until: now + LIMIT,
        }
    }
}

impl Instance {
    /// The target owns the session of these flows from now on; or did, and who does by now under a later
    /// epoch has said so.
    pub(super) fn begin_following(
        &mut self,
        now: Instant,
        attempt: Attempt,
        target: MemberId,
        flows: Vec<FlowKey>,
        further: Option<(MemberId, u64)>,
    ) {
        let further = further.filter(|(_, epoch)| *epoch > attempt.epoch);
        let (owner, epoch) = further.unwrap_or((target, attempt.epoch));
        let ingress = self.ingress(now);
        let third = ingress.filter(|ingress| *ingress != self.id && *ingress != target);
        let hears = third.is_some_and(|third| self.link_to(third).is_some());
        for flow in &flows {
            let claim = Some((attempt.session, epoch));
            let entry = Entry { owner, claim };
            self.steering.set(now, (*flow).into(), entry);
        }
        let following = Following::new(now, attempt, target, flows);
        let until = following.until;
        self.note_departed(now, &following);
        self.following.insert(attempt.session, following);
        match hears {
            true => {
                self.follow_ends.insert((until, attempt.session));
            }
            false => self.end_following(now, attempt.session),
        }
    }

    /// No frame of the session comes here any more, or none that could be put in order.
    pub(super) fn end_following(&mut self, now: Instant, id: SessionId) {
        let Some(following) = self.following.remove(&id) else {
            return;
        };
        let Following {
            attempt,
            target,
            flows,
            until,
        } = following;
        self.follow_ends.remove(&(until, id));
        self.send(target, &Message::Fence(attempt));
        for flow in flows {
            // It may be further on by now.
            let entry = self.steering.get(&flow.into());
            let (owner, claim) = match entry.and_then(|entry| Some((entry.owner, entry.claim?))) {
                Some((owner, claim)) => (owner, claim),
                None => (target, (attempt.session, attempt.epoch)),
            };
            let ownership = Ownership {
                flow: flow.into(),
                owner,
                session: claim.0,
                epoch: claim.1,
            };
            if self.stack.route(&flow) == Some(Route::Capture) {
                self.leave_tombstone(now, flow, ownership);
            } else {
                self.frozen.remove(&flow.into());
            }
        }
    }

    /// A frame of a session that is followed, if it is one.
    pub(super) fn relay_behind(&mut self, id: SessionId, frame: RxFrame) -> Option<RxFrame> {
        let Some(following) = self.following.get(&id) else {
            return Some(frame);
        };
        let (target, attempt) = (following.target, following.attempt);
        self.send_frame(target, attempt, frame);
        None
    }

    /// The ingress does not send the frames of these sessions here any more.
    pub(super) fn handle_rerouted(&mut self, now: Instant, list: &[Attempt]) {
        for rerouted in list {
            let following = self.following.get(&rerouted.session);
            if following.is_some_and(|f| f.attempt.epoch <= rerouted.epoch) {
                self.end_following(now, rerouted.session);
            } else if let Some(moving) = self.moving.get_mut(&rerouted.session) {
                // Ahead of the target's answer, which came another way.
                moving.rerouted = Some(rerouted.epoch);
            }
        }
    }

    /// The ingress has not said anything in time.
    pub(super) fn expire_following(&mut self, now: Instant) {
        while let Some((at, id)) = self.follow_ends.first().copied()
            && at <= now
        {
            self.counters.add("reroutes_not_confirmed");
            self.end_following(now, id);
        }
    }

    /// The channel to `peer` is gone: frames find their way to it along the wire only.
    pub(super) fn end_following_to(&mut self, now: Instant, peer: MemberId) {
        let to_peer = self.following.values().filter(|f| f.target == peer);
        let sessions: Vec<SessionId> = to_peer.map(|f| f.attempt.session).collect();
        for id in sessions {
            self.end_following(now, id);
        }
    }

    /// As the ingress: take in who owns flows now, and tell those who had them that nothing follows.
    pub(super) fn handle_owns_list(&mut self, now: Instant, from: MemberId, list: Vec<Ownership>) {
        let mut told: Vec<(MemberId, Vec<Attempt>)> = Vec::new();
        for ownership in list {
            let before = self.steering.get(&ownership.flow).copied();
            if ownership.owner == self.id {
                self.disown(now, from, &ownership);
                continue;
            }
            if ownership.owner != from && self.verify_owner(from, &ownership) {
                continue;
            }
            if ownership.epoch == 0 && self.stack.is_half_open(&ownership.flow.into()) {
                self.yield_handshake(now, &ownership);
                continue;
            }
            self.handle_owns(now, ownership);
            let after = self.steering.get(&ownership.flow).copied();
            let Some(((owner, claim), before)) = after
                .and_then(|entry| Some((entry.owner, entry.claim?)))
                .zip(before)
            else {
                continue;
            };
            // News: whoever had it before waits. Old news: the claimant itself has passed it on.
            let waits = match (owner == ownership.owner, before.owner == owner) {
                (true, false) => before.owner,
                (false, true) => from,
                _ => continue,
            };
            let (session, epoch) = claim;
            let attempt = Attempt { session, epoch };
            match told.iter_mut().find(|(member, _)| *member == waits) {
                Some((_, list)) => list.push(attempt),
                None => told.push((waits, alloc::vec![attempt])),
            }
        }
        if self.is_ingress() {
            for (member, list) in told {
                self.send(member, &Message::Rerouted(list));
            }
        }
    }
}
