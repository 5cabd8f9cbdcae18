//! The order of frames after a move.
//!
//! Until the target has answered, the source sends what arrives for the session through the
//! channel, behind the capsule; afterwards it forwards, and the ingress steers, along the wire,
//! which is faster. A client that sends all the time would have its segments overtake each other
//! and would take that for loss. So the target holds what comes along the wire until the source
//! says, in the channel, that nothing follows there ([`Message::Fence`]).
//!
//! [`Message::Fence`]: crate::cluster::message::Message::Fence

use alloc::vec::Vec;

use super::Instance;
use crate::cluster::MemberId;
use crate::cluster::message::Attempt;
use crate::session::{Fence, SessionId};
use crate::time::{Duration, Instant};

/// How long a fence stands without a word from the source: frames out of order are better than
/// none at all. A fence costs one control message, so this covers a few losses of it.
const LIMIT: Duration = Duration::from_millis(50);

impl Instance {
    /// The session's connections were put in behind a fence.
    pub(super) fn put_fence(&mut self, now: Instant, id: SessionId, from: MemberId) {
        let until = now + LIMIT;
        if let Some(session) = self.sessions.get_mut(&id) {
            session.fence = Some(Fence { from, until });
            self.fences.insert((until, id));
        }
    }

    /// The source has sent on everything it had.
    pub(super) fn handle_fence(&mut self, now: Instant, from: MemberId, attempt: Attempt) {
        let session = self.sessions.get(&attempt.session);
        let session = session.filter(|session| session.epoch == attempt.epoch);
        if session.is_some_and(|s| s.fence.is_some_and(|fence| fence.from == from)) {
            self.lift_fence(now, attempt.session);
        }
    }

    /// The channel to `peer` is gone, and what was in it too.
    pub(super) fn lift_fences_of(&mut self, now: Instant, peer: MemberId) {
        let is_of = |id: &SessionId| {
            let session = self.sessions.get(id);
            session.is_some_and(|s| s.fence.is_some_and(|fence| fence.from == peer))
        };
        let fenced = self.fences.iter().map(|(_, id)| *id).filter(is_of);
        for id in fenced.collect::<Vec<_>>() {
            self.lift_fence(now, id);
        }
    }

    /// Lift the fences nobody spoke of in time.
    pub(super) fn expire_fences(&mut self, now: Instant) {
        while let Some((at, id)) = self.fences.first().copied()
            && at <= now
        {
            self.fences.pop_first();
            let fence = self.sessions.get(&id).and_then(|session| session.fence);
            // Not that of an earlier stay.
            if fence.is_some_and(|fence| fence.until == at) {
                self.counters.add("fences_expired");
                self.lift_fence(now, id);
            }
        }
    }

    fn lift_fence(&mut self, now: Instant, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if let Some(fence) = session.fence.take() {
            self.fences.remove(&(fence.until, id));
        }
        if session.wanted.is_some() {
            self.deferred.insert((now, id));
        }
        let conns: Vec<_> = session.connections.iter().filter_map(|c| c.conn).collect();
        for conn in conns {
            self.stack.lift_fence(now, conn);
        }
    }
}
