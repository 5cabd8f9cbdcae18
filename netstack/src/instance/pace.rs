//! How many sessions are on their way at a time, and who is next.
//!
//! A frozen session is silent, so no more are frozen than come through quickly: [`Pace`] counts
//! those on their way and lets more out as long as answers come as fast as before, fewer when a
//! queue forms somewhere (a slow target, a slow link). Moves that have to wait stand in a line, one for
//! each target, served on meanwhile, and cost nothing while they stand there. Nothing is frozen either while a
//! lot waits for its channel, or beyond what the target said it has room for: what is on its way
//! there is counted against that. A target that has fallen silent is waited for as long as its channel lives.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ops::Bound;

use super::{Instance, MoveError};
use crate::cluster::MemberId;
use crate::cluster::members::Member;
use crate::map::Map;
use crate::migrate::transfer::Phase;
use crate::session::{Session, SessionId};
use crate::time::{Duration, Instant};

/// Sessions on their way at a time at most. The reason is memory, not protocol.
const MOST: usize = 256;
/// So many are always let out.
const LEAST: usize = 8;
/// So many at the beginning.
const FIRST: usize = 32;
/// An answer that takes so much longer than the quickest did has stood in a queue.
const QUEUED: Duration = Duration::from_millis(10);
/// Sessions that were all told to move wait for so long for a target that has no room.
const PERSISTENCE: Duration = Duration::from_secs(10);
/// One that was refused for want of room meanwhile is offered again after this time.
const AGAIN: Duration = Duration::from_millis(100);
/// Octets waiting in a channel beyond which no further session is put in.
const CHANNEL_ROOM: usize = 1024 * 1024;

/// The pace of moves away from here.
#[derive(Debug)]
pub(super) struct Pace {
    /// Sessions offered and not answered; those in doubt may stay so for long, and keep nobody
    /// from moving.
    offered: usize,
    /// Sessions that may be on their way.
    window: usize,
    /// The quickest answer while any was awaited.
    quickest: Option<Duration>,
    /// Who waits, by target. A line is never empty.
    lines: Map<MemberId, VecDeque<SessionId>>,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            offered: 0,
            window: FIRST,
            quickest: None,
            lines: Map::new(),
        }
    }
}

impl Pace {
    /// A session was offered.
    pub fn offer(&mut self) {
        self.offered += 1;
    }

    /// An offered session is no longer that: answered, after `took` if it was taken, or in doubt.
    pub fn settle(&mut self, took: Option<Duration>) {
        self.offered = self.offered.saturating_sub(1);
        let Some(took) = took else {
            return;
        };
        let quickest = self.quickest.map_or(took, |quickest| quickest.min(took));
        self.window = match took > quickest + QUEUED {
            true => (self.window - 1).max(LEAST),
            false => (self.window + 1).min(MOST),
        };
        // Another time it may be another target.
        self.quickest = (self.offered > 0).then_some(quickest);
    }
}

impl Instance {
    /// Sessions that are in their lull or on their way.
    pub(super) fn in_motion(&self) -> usize {
        self.pace.offered + self.lulled.len()
    }

    /// Whether another session may be put on its way to `to` now.
    pub(super) fn may_begin(&self, to: MemberId) -> bool {
        let link = self.members.get(to).and_then(|member| member.link);
        let link = link.and_then(|link| self.links.get(&link));
        self.in_motion() < self.pace.window
            && link.is_none_or(|link| link.channel.queued() < CHANNEL_ROOM)
    }

    /// Let a session wait for its turn to move to `to`.
    pub(super) fn stand_in_line(&mut self, id: SessionId, to: MemberId) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.wanted = Some(to);
            if !session.in_line {
                session.in_line = true;
                self.pace.lines.entry(to).or_default().push_back(id);
            }
        }
    }

    /// Begin the moves whose turn it is; one to each target, again and again.
    pub(super) fn run_line(&mut self, now: Instant) {
        let mut last = None;
        let mut begun = false;
        loop {
            let after = last.map_or(Bound::Unbounded, Bound::Excluded);
            let next = self.pace.lines.range((after, Bound::Unbounded)).next();
            match next.map(|(to, _)| *to) {
                Some(to) => {
                    begun |= self.run_line_to(now, to);
                    last = Some(to);
                }
                None if begun => (last, begun) = (None, false),
                None => return,
            }
        }
    }

    /// Begin the next move to `to`. Whether there was one, and room for it.
    fn run_line_to(&mut self, now: Instant, to: MemberId) -> bool {
        while let Some(id) = self
            .pace
            .lines
            .get(&to)
            .and_then(|line| line.front().copied())
        {
            let session = self.sessions.get(&id).filter(|session| session.in_line);
            let wanted = session.and_then(|session| Some((session, session.wanted?)));
            let wanted = wanted.filter(|(session, _)| session.lull.is_none());
            let meant = wanted.filter(|(_, wanted)| *wanted == to);
            if meant.is_some_and(|(session, to)| {
                !self.may_begin(to) || self.waits_for(now, session, to)
            }) {
                return false;
            }
            let wanted = wanted.map(|(session, to)| (session.movable_at(now), to));
            self.leave_line(to);
            if let Some(session) = self.sessions.get_mut(&id) {
                session.in_line = false;
            }
            match wanted {
                // It was called off and asked for anew.
                Some((_, other)) if other != to => self.stand_in_line(id, other),
                Some((at, to)) if at > now => self.defer_move(at, id, to),
                Some((_, to)) => {
                    self.begin_wanted(now, id, to);
                    return true;
                }
                None => {}
            }
        }
        false
    }

    /// Whoever is first in the line to `to` leaves it.
    fn leave_line(&mut self, to: MemberId) {
        if let Some(line) = self.pace.lines.get_mut(&to) {
            line.pop_front();
            if line.is_empty() {
                self.pace.lines.remove(&to);
            }
        }
    }

    /// Begin a move that was asked for before, or say why not.
    pub(super) fn begin_wanted(&mut self, now: Instant, id: SessionId, to: MemberId) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.wanted = None;
        }
        if let Err(error) = self.begin_move(now, id, to) {
            self.put_off(now, id, to, error);
        }
    }

    /// A move that was asked for cannot begin, or not go on to the freeze: it waits for its target, or it is
    /// said why it does not come about, and a drain looks for another one.
    pub(super) fn put_off(&mut self, now: Instant, id: SessionId, to: MemberId, error: MoveError) {
        let session = self.sessions.get(&id);
        if error == MoveError::Unreachable
            && session.is_some_and(|session| self.waits_for(now, session, to))
        {
            self.stand_in_line(id, to);
            return;
        }
        self.report_not_begun(id, to, error);
        self.note_stuck(id, error.as_str());
        self.drain_session(now, id);
    }

    /// Whether a move is not to begin because the target has no room, and may have soon; or is not heard, and may
    /// be again before its channel ends. A drain does not wait for that: it has others to choose from.
    pub(super) fn waits_for(&self, now: Instant, session: &Session, to: MemberId) -> bool {
        let here = |member: &&Member| member.is_up() && member.left.is_none();
        let Some(target) = self.members.get(to).filter(here) else {
            return false;
        };
        if !target.is_there(now, self.members.stale()) {
            return !self.is_draining();
        }
        let full = target.heartbeat.is_some_and(|b| b.room <= target.given);
        full && session.persists.is_some_and(|until| now < until)
    }

    /// A target has refused a session for want of room: offer it again after a while, if it may wait.
    /// Whether it may.
    pub(super) fn try_again(&mut self, now: Instant, id: SessionId, to: MemberId) -> bool {
        let session = self.sessions.get(&id);
        let persists = session.and_then(|session| session.persists);
        let waits = persists.is_some_and(|until| now < until) && !self.is_draining();
        if waits {
            self.counters.add("moves_tried_again");
            self.defer_move(now + AGAIN, id, to);
        }
        waits
    }

    /// Move every session that can move to `to`: how many are on their way or wait for their turn. While
    /// that has no room they wait, for ten seconds at most.
    pub fn move_all(&mut self, now: Instant, to: MemberId) -> Result<usize, MoveError> {
        let member = self.members.get(to).ok_or(MoveError::NoMember)?;
        let free = self.sessions.values().filter(|s| s.wanted.is_none());
        let free = free.filter(|session| self.is_movable(session));
        let all: Vec<SessionId> = free.map(|session| session.id).collect();
        if !all.is_empty() && !member.is_there(now, self.members.stale()) {
            return Err(MoveError::Unreachable);
        }
        for id in &all {
            if let Some(session) = self.sessions.get_mut(id) {
                session.persists = Some(now + PERSISTENCE);
                (session.fetched, session.fetches) = (None, 0);
            }
            self.stand_in_line(*id, to);
        }
        self.pump(now);
        Ok(all.len())
    }

    /// Use up one of a member's places.
    pub(super) fn take_place(&mut self, to: MemberId) -> Result<(), MoveError> {
        let member = self.members.get_mut(to).ok_or(MoveError::NoMember)?;
        if member
            .heartbeat
            .is_some_and(|beat| beat.room <= member.given)
        {
            return Err(MoveError::NoRoom);
        }
        member.given += 1;
        Ok(())
    }

    /// It was not used after all.
    pub(super) fn give_place_back(&mut self, to: MemberId) {
        if let Some(member) = self.members.get_mut(to) {
            member.given = member.given.saturating_sub(1);
        }
    }

    /// Sessions on their way to a member: it does not count them yet.
    pub(super) fn on_the_way_to(&self, to: MemberId) -> u32 {
        let offered = self
            .moving
            .values()
            .filter(|moving| moving.source.target == to);
        let lulled = self.lulled.iter().filter_map(|id| self.sessions.get(id));
        let lulled = lulled.filter(|session| session.wanted == Some(to));
        (offered.count() + lulled.count()) as u32
    }

    /// A channel broke: what was offered through it is in doubt.
    pub(super) fn count_offered(&mut self) {
        let offered = |moving: &&super::Moving| moving.source.phase() == Phase::Offered;
        self.pace.offered = self.moving.values().filter(offered).count();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_target_is_given_fewer_at_a_time_and_a_quick_one_more() {
        let mut pace = Pace::default();
        let answer = |pace: &mut Pace, millis| {
            pace.offer();
            pace.settle(Some(Duration::from_millis(millis)));
        };
        // One is always on its way, or the quickest answer would be forgotten.
        pace.offer();
        for _ in 0..1_000 {
            answer(&mut pace, 40);
        }
        assert_eq!(pace.window, MOST, "far is not slow");
        for _ in 0..1_000 {
            answer(&mut pace, 51);
        }
        assert_eq!(pace.window, LEAST);
        pace.settle(None);
        assert_eq!((pace.offered, pace.lines.len()), (0, 0));
    }
}
