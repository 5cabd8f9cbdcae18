//! The lull before a planned move.
//!
//! What is queued when a session freezes travels in its capsule, and the client waits while that
//! is sealed, sent and opened. So a planned move first lets the queues run empty, with the session
//! still served: the service's commits wait as soon as [`LIGHT`] octets are queued, and the right
//! edge of the receive window stays where it is. The client keeps hearing from us as long as there
//! is anything left to send; then the freeze comes.
//!
//! Who is moved hundreds of times a second gets a short one, or would be in its lull all the time.
//!
//! It comes anyway when the queues have not become shorter for as long as the instance has
//! patience (a client that does not read) or have taken [`LONGEST`] times that, and when for
//! a round trip nothing but acknowledgements has been awaited. On a path longer than [`FAR`] those
//! are not waited for: carrying the octets is quicker. What is queued then goes ahead ([`super::ahead`]).

use super::ahead::LOOK;
use super::{Instance, MoveError};
use crate::cluster::MemberId;
use crate::session::{Lull, Session, SessionId};
use crate::tcp::Connection;
use crate::time::{Duration, Instant};

/// Octets in all queues of a session that are not worth waiting for.
pub(super) const LIGHT: usize = 16 * 1024;
/// How long outstanding acknowledgements are waited for beyond a round trip when nothing else is
/// left.
const LAST_ACKS: Duration = Duration::from_millis(2);
/// From this round trip on they are not waited for.
const FAR: Duration = Duration::from_millis(30);
/// A session that has been here for less time is moved often.
const OFTEN: Duration = Duration::from_millis(10);
/// The patience with such a session is this part of the time it has been here: a lull takes most of
/// that time at the longest, and what is queued then goes ahead.
const OFTEN_PART: u32 = 8;
/// A lull ends after this many times the patience even if the queues still become shorter, and so does the
/// waiting for what goes ahead then; for that there is time of one patience in any case.
const LONGEST: u32 = 5;

impl Instance {
    /// Move the session to `to` when its time has come.
    pub(super) fn defer_move(&mut self, at: Instant, id: SessionId, to: MemberId) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.wanted = Some(to);
            self.deferred.insert((at, id));
        }
    }

    /// When [`Instance::run_deferred_moves`] has something to do.
    pub(super) fn deferred_timeout(&self) -> Option<Instant> {
        self.deferred.first().map(|(at, _)| *at)
    }

    /// Begin the moves that had to wait, and freeze the sessions whose lull is over.
    pub(super) fn run_deferred_moves(&mut self, now: Instant) {
        while let Some((at, id)) = self.deferred.first().copied()
            && at <= now
        {
            self.deferred.pop_first();
            let Some(session) = self.sessions.get_mut(&id) else {
                continue;
            };
            if session.lull.is_some() {
                let again = self.look_at_lull(now, id);
                self.deferred.extend(again.map(|at| (at, id)));
                continue;
            }
            let at = session.movable_at(now);
            let Some(to) = session.wanted.filter(|_| !session.in_line) else {
                continue;
            };
            if at > now {
                self.deferred.insert((at, id));
                continue;
            }
            let session = self.sessions.get(&id);
            let waits = session.is_some_and(|session| self.waits_for(now, session, to));
            match self.may_begin(to) && !waits {
                true => self.begin_wanted(now, id, to),
                false => self.stand_in_line(id, to),
            }
        }
    }

    /// Freeze the session now if little is queued, else when little is.
    pub(super) fn begin_move(
        &mut self,
        now: Instant,
        id: SessionId,
        to: MemberId,
    ) -> Result<(), MoveError> {
        self.may_freeze(now, id, to)?;
        let session = self.sessions.get(&id).ok_or(MoveError::NoSession)?;
        if session.lull.is_some() {
            // Already on its way, wherever to.
            return Err(MoveError::NotMovable);
        }
        let least = self.total(session, Connection::cargo);
        self.take_place(to)?;
        if self.patience.is_zero() || least <= LIGHT {
            return self.freeze(now, id, to);
        }
        if let Some(session) = self.sessions.get_mut(&id) {
            session.wanted = Some(to);
            session.lull = Some(Lull {
                since: now,
                progress: now,
                least,
                dry: None,
                ahead: None,
            });
        }
        self.counters.add("lulls");
        self.lulled.insert(id);
        self.hold_windows(now, id, true);
        let again = self.look_at_lull(now, id);
        self.deferred.extend(again.map(|at| (at, id)));
        Ok(())
    }

    /// Freeze a session in its lull if the time has come; else when to look again at the latest.
    pub(super) fn look_at_lull(&mut self, now: Instant, id: SessionId) -> Option<Instant> {
        let session = self.sessions.get(&id)?;
        let (mut lull, to) = (session.lull?, session.wanted?);
        let patience = self.patience_with(now, session);
        let cargo = self.total(session, Connection::cargo);
        let outstanding = self.total(session, Connection::send_unacked);
        lull.dry = (cargo == outstanding).then(|| lull.dry.unwrap_or(now));
        if cargo < lull.least {
            (lull.least, lull.progress) = (cargo, now);
        }
        let ends = [
            Some(lull.progress + patience),
            Some(lull.since + patience * LONGEST),
            lull.dry.map(|dry| dry + self.last_acks(session)),
        ];
        let end = ends.into_iter().flatten().min().unwrap_or(now);
        if cargo > LIGHT && now < end && lull.ahead.is_none() {
            if let Some(session) = self.sessions.get_mut(&id) {
                session.lull = Some(lull);
            }
            if lull.dry.is_some() {
                self.deferred.insert((end, id));
            }
            return Some(end);
        }
        // Once something went ahead, the capsule would have to wait behind it, however light.
        let heavy = cargo > LIGHT || lull.ahead.is_some();
        if heavy && self.is_worth_waiting(now, id, to, &mut lull) {
            if let Some(session) = self.sessions.get_mut(&id) {
                session.lull = Some(lull);
            }
            return Some(now + LOOK);
        }
        if let Err(error) = self.freeze(now, id, to) {
            self.call_off(now, id);
            self.put_off(now, id, to, error);
        }
        None
    }

    /// How long the queues of a session may stay as long as they are.
    fn patience_with(&self, now: Instant, session: &Session) -> Duration {
        let lull_began = session.lull.map_or(now, |lull| lull.since);
        match session.arrived.map(|since| lull_began.since(since)) {
            Some(stay) if stay < OFTEN => self.patience.min(stay / OFTEN_PART),
            _ => self.patience,
        }
    }

    /// The lull is over and a lot is queued: send it ahead, wait until that has left, and send what
    /// has come meanwhile.
    fn is_worth_waiting(
        &mut self,
        now: Instant,
        id: SessionId,
        to: MemberId,
        lull: &mut Lull,
    ) -> bool {
        let since = *lull.ahead.get_or_insert(now);
        let end = lull.since + self.patience * LONGEST;
        if now >= end.max(since + self.patience) {
            return false;
        }
        let session = self.sessions.get(&id);
        if session.is_some_and(|session| !session.unaided) && !self.has_turn(id, to, since) {
            return true;
        }
        self.is_ahead_waiting(id, to) || self.left_behind(id) > LIGHT && self.send_ahead(id, to)
    }

    /// How long the session's outstanding acknowledgements are waited for.
    fn last_acks(&self, session: &Session) -> Duration {
        let connections = session.connections.iter().filter_map(|c| c.conn);
        let round_trips = connections
            .filter_map(|conn| self.stack.connection(conn))
            .filter_map(|tcp| tcp.info().srtt);
        match round_trips.max() {
            Some(longest) if longest < FAR => longest + LAST_ACKS,
            _ => LAST_ACKS,
        }
    }

    /// The session stays after all: serve it as before.
    pub(super) fn call_off(&mut self, now: Instant, id: SessionId) {
        self.lulled.remove(&id);
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let to = session.wanted.take();
        session.lull = None;
        self.sent_ahead.remove(&id);
        self.hold_windows(now, id, false);
        self.wake_session(id);
        if let Some(to) = to {
            self.give_place_back(to);
        }
    }

    fn hold_windows(&mut self, now: Instant, id: SessionId, hold: bool) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        for conn in session.connections.iter().filter_map(|c| c.conn) {
            self.stack.update(now, conn, |tcp| tcp.hold_window(hold));
        }
    }

    /// A sum over a session's connections.
    fn total(&self, session: &Session, octets: impl Fn(&Connection) -> usize) -> usize {
        let connections = session.connections.iter().filter_map(|c| c.conn);
        connections
            .filter_map(|conn| self.stack.connection(conn))
            .map(octets)
            .sum()
    }
}
