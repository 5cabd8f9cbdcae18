//! Leaving: every session moves to the peers, then the ingress role. Then nothing is left to do but to
//! pass on what still arrives, until the ingress has confirmed where everything went ([`Departed`]),
//! nothing arrives any more, and nobody waits for an answer of ours (`part.rs`).

use alloc::rc::Rc;

use super::depart::Departed;
use super::{DrainOptions, DrainStatus, DrainThen, Event, Instance, MoveError};
use crate::cluster::members::Wanted;
use crate::cluster::message::Message;
use crate::cluster::{BootId, MemberId};
use crate::counts::Counts;
use crate::map::{Map, Set};
use crate::migrate::transfer::Phase;
use crate::session::{Session, SessionId};
use crate::stack::{RxFrame, Scope};
use crate::tcp::State;
use crate::time::{Duration, Instant};

/// Time between two looks at what a drain waits for.
const TICK: Duration = Duration::from_millis(20);
/// A session that was refused is offered again after this time.
const RETRY: Duration = Duration::from_millis(100);
/// Half-open connections are waited for this long: enough for two SYN-ACKs to be repeated (after one
/// second and two more). What is answered later comes back to the ingress, which has the same cookie.
const SETTLE: Duration = Duration::from_secs(4);
/// A successor that does not answer is asked again, or another one, after this time.
const HANDOVER: Duration = Duration::from_secs(1);
/// Handovers tried.
const HANDOVERS: u32 = 5;
/// Without a frame for the virtual addresses for this long, the ingress sends none here any more.
const QUIET: Duration = Duration::from_millis(300);
/// Frames from another ingress are passed on this long at most.
const GRACE: Duration = Duration::from_secs(2);
/// Without a frame for the virtual addresses for this long, no client takes us for the ingress.
const FORGOTTEN: Duration = Duration::from_secs(2);
/// Time to get the farewell out.
const FAREWELL: Duration = Duration::from_millis(50);
/// It is answered, by everyone who can, within this time at most.
const PARTING: Duration = Duration::from_secs(15);
/// Sessions for which nobody is found before the rest waits as well.
const MAX_FAILURES: u32 = 16;

/// Whoever takes sessions, whatever states it reads.
pub(super) const SUCCESSOR: Wanted = Wanted {
    own: None,
    version: 0,
    voter: true,
};

/// How far a drain is.
#[derive(Debug)]
enum Stage {
    /// Sessions are moving.
    Moving,
    /// The ingress role was offered to a peer so many times, last at that time.
    HandingOver(u32, Instant),
    /// Frames for the virtual addresses are still passed on.
    Grace { since: Instant, heard: Instant },
    /// The farewell is on its way, and so are the answers: how long at least, and at most.
    Farewell { from: Instant, until: Instant },
    /// Nothing is left.
    Done,
}

/// Whether the instance is leaving.
#[derive(Debug)]
pub(super) enum Drain {
    /// It is not; how the last drain was when it was called off.
    No(Option<DrainStatus>),
    /// It is.
    Leaving(Leave),
}

/// A drain.
#[derive(Debug)]
pub(super) struct Leave {
    stage: Stage,
    since: Instant,
    options: DrainOptions,
    /// What had not been done when the deadline came, by its reason.
    overrun: Option<Rc<Counts>>,
    /// Why sessions have not moved yet.
    stuck: Map<SessionId, &'static str>,
    tick: Instant,
    /// Clients may take us for the ingress.
    was_ingress: bool,
    /// Another member is the ingress after us.
    succeeded: bool,
    departed: Departed,
    /// Members that expect no answer of us any more, in that boot of theirs.
    pub(super) parted: Map<MemberId, BootId>,
    /// Sessions to be moved, with the earliest time.
    queue: Set<(Instant, SessionId)>,
    /// Sessions in a row for which nobody was found; after some of them the others wait, too.
    failures: u32,
    /// When to look for somebody again.
    offer_at: Instant,
}

impl Leave {
    /// Whether the members have been told that we go.
    pub(super) fn says_farewell(&self) -> bool {
        matches!(self.stage, Stage::Farewell { .. } | Stage::Done)
    }

    /// Whether the ingress knows where everything went, and nothing comes here any more, in a grace
    /// that has lasted `since`.
    fn is_quiet(&self, now: Instant, since: Instant, heard: Instant) -> bool {
        let silent = match self.was_ingress {
            true => now.since(heard) >= FORGOTTEN,
            false => now.since(heard) >= QUIET || now.since(since) >= GRACE,
        };
        silent && self.departed.unconfirmed() == 0
    }
}

impl Drain {
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Drain::Leaving(leave) if !matches!(leave.stage, Stage::Done) => Some(leave.tick),
            _ => None,
        }
    }
}

impl Instance {
    /// Stop taking new sessions, move all sessions to the peers, hand the ingress role on; then
    /// [`Event::Drained`].
    pub fn drain(&mut self, now: Instant) {
        self.drain_with(now, DrainOptions::default());
    }

    /// The same, in another time, or with another end for what has not moved by then. Of a drain that is
    /// going on it changes both.
    pub fn drain_with(&mut self, now: Instant, options: DrainOptions) {
        if let Drain::Leaving(leave) = &mut self.drain {
            leave.options = DrainOptions {
                deadline: now.since(leave.since) + options.deadline,
                ..options
            };
            leave.overrun = None;
            return;
        }
        self.counters.add("drains");
        let queue = self.sessions.keys().map(|id| (now, *id)).collect();
        self.drain = Drain::Leaving(Leave {
            stage: Stage::Moving,
            since: now,
            options,
            overrun: None,
            stuck: Map::new(),
            tick: now,
            was_ingress: self.is_ingress(),
            succeeded: false,
            departed: Departed::default(),
            parted: Map::new(),
            queue,
            failures: 0,
            offer_at: now,
        });
        if let Some(election) = &mut self.election {
            election.set_eligible(false);
        }
        self.accept_alone(false);
        self.beat(now);
        self.pump(now);
    }

    /// Take new sessions, or not, where no other member could.
    fn accept_alone(&mut self, accepting: bool) {
        if self.is_alone() {
            for service in &self.services {
                if service.spec.scope == Scope::Service {
                    self.stack.set_accepting(service.listener, accepting);
                }
            }
        }
    }

    /// How far a drain is; `None` without one.
    pub fn drain_status(&self) -> Option<DrainStatus> {
        let Drain::Leaving(leave) = &self.drain else {
            return None;
        };
        // Not by looking at every session: whoever watches asks often.
        let mut left = Counts::new();
        let waits = |id: &SessionId| {
            let session = self.sessions.get(id);
            session.is_some_and(|session| session.lull.is_none() && self.is_missed(session))
        };
        let stuck = leave.stuck.iter().filter(|(id, _)| waits(id));
        let stuck = stuck.map(|(_, reason)| *reason);
        let lulled = self.lulled.iter().map(|_| "its queues run empty");
        let moving = self.moving.values().map(|m| match m.source.phase() {
            Phase::Offered => "on its way",
            Phase::Doubt => "in doubt: the target has not answered",
        });
        let mut others = match self.is_alone() {
            true => {
                let missed = |s: &&Session| self.is_movable(s) && self.is_missed(s);
                self.sessions.values().filter(missed).count()
            }
            false => self.movable_count(),
        };
        for reason in stuck.chain(lulled).chain(moving) {
            left.add(reason);
            others = others.saturating_sub(1);
        }
        if others > 0 {
            left.add_many("its turn has not come", others as u64);
        }
        Some(DrainStatus {
            since: leave.since,
            options: leave.options,
            stage: match leave.stage {
                Stage::Moving if left.is_empty() => "connections are being opened",
                Stage::Moving => "sessions move",
                Stage::HandingOver(..) => "the ingress role is handed on",
                Stage::Grace { .. } if leave.departed.unconfirmed() > 0 => {
                    "the ingress confirms where they are"
                }
                Stage::Grace { .. } => "late frames are passed on",
                Stage::Farewell { .. } if self.waits_for_the_silent() => {
                    "a member that was heard not long ago may wait for an answer"
                }
                Stage::Farewell { .. } => "the members are told",
                Stage::Done => "drained",
            },
            moved: leave.departed.moved,
            unconfirmed: leave.departed.unconfirmed(),
            opening: self.stack.half_open_count(),
            left: Rc::new(left),
            overrun: leave.overrun.clone(),
        })
    }

    /// The last drain, if it was called off, as it was then.
    pub fn cancelled_drain(&self) -> Option<&DrainStatus> {
        match &self.drain {
            Drain::No(last) => last.as_ref(),
            Drain::Leaving(_) => None,
        }
    }

    /// The deadline has come, and not everything is done: say what and why, and do what was asked
    /// for.
    fn overrun(&mut self, now: Instant) {
        let Some(status) = self.drain_status() else {
            return;
        };
        let mut open = Rc::try_unwrap(status.left).unwrap_or_default();
        if open.is_empty() {
            let (reason, count) = match (status.unconfirmed, status.opening) {
                (0, 0) => (
                    "frames for the virtual addresses still come here",
                    status.moved,
                ),
                (0, opening) => ("connections are being opened", opening),
                (count, _) => ("the ingress has not confirmed where they are", count),
            };
            open.add_many(reason, count as u64);
        }
        self.counters.add("drains_overdue");
        for (reason, count) in open.iter() {
            log::warn!(target: "cluster", "not drained in time: {reason}: {count}");
        }
        let Drain::Leaving(leave) = &mut self.drain else {
            return;
        };
        leave.overrun = Some(Rc::new(open));
        match leave.options.then {
            DrainThen::Wait => {}
            // What is in doubt stays silent; the rest is told.
            DrainThen::Force => self.force_end(now),
            DrainThen::Cancel => self.cancel_drain(now),
        }
    }

    /// Serve on. What is on its way goes; what waits for its queues stays.
    fn cancel_drain(&mut self, now: Instant) {
        log::warn!(target: "cluster", "the drain is called off");
        self.counters.add("drains_cancelled");
        self.drain = Drain::No(self.drain_status());
        for id in self.lulled.clone() {
            self.call_off(now, id);
        }
        let cut_off = self.is_cut_off();
        if let Some(election) = &mut self.election {
            election.set_eligible(!cut_off);
        }
        self.accept_alone(true);
        self.events.push_back(Event::DrainCancelled);
        self.beat(now);
    }

    /// Remember why a session has not moved.
    pub(super) fn note_stuck(&mut self, session: SessionId, reason: &'static str) {
        if let Drain::Leaving(leave) = &mut self.drain {
            leave.stuck.insert(session, reason);
        }
    }

    /// Whether a drain is going on or complete.
    pub fn is_draining(&self) -> bool {
        matches!(self.drain, Drain::Leaving(_))
    }

    /// Whether the drain is past the point where sessions may begin here.
    pub(super) fn has_left(&self) -> bool {
        matches!(&self.drain, Drain::Leaving(leave) if !matches!(leave.stage, Stage::Moving))
    }

    /// A session is here while we are leaving: it has to go too.
    pub(super) fn drain_session(&mut self, now: Instant, session: SessionId) {
        if let Drain::Leaving(leave) = &mut self.drain {
            // At once if it is new, after a pause if it was refused.
            let fresh = self.sessions.get(&session).is_some_and(|s| s.epoch == 1);
            let at = if fresh { now } else { now + RETRY };
            leave.queue.insert((at, session));
        }
    }

    /// Note frames for the virtual addresses while the drain waits for them to end.
    #[inline]
    pub(super) fn note_vip_frame(&mut self, now: Instant, frame: &RxFrame) {
        if let Drain::Leaving(Leave {
            stage: Stage::Grace { heard, .. },
            ..
        }) = &mut self.drain
            && destination(&frame.bytes).is_some_and(|ip| self.vips.contains(&ip))
        {
            *heard = now;
        }
    }

    /// What a drain knows of where sessions went.
    pub(super) fn departed(&mut self) -> Option<&mut Departed> {
        match &mut self.drain {
            Drain::Leaving(leave) => Some(&mut leave.departed),
            Drain::No(_) => None,
        }
    }

    /// Another member is the ingress now: whatever the one before has confirmed, this one has to.
    pub(super) fn ingress_left(&mut self, now: Instant, ingress: MemberId) {
        let Drain::Leaving(leave) = &mut self.drain else {
            return;
        };
        leave.departed.ask_anew(now, ingress);
        match &mut leave.stage {
            Stage::HandingOver(..) => {
                (leave.was_ingress, leave.succeeded) = (true, true);
                leave.stage = Stage::Grace {
                    since: now,
                    heard: now,
                };
            }
            _ => leave.succeeded = leave.was_ingress,
        }
    }

    /// Whether another member has become the ingress after us since the drain began.
    pub(super) fn is_succeeded(&self) -> bool {
        matches!(&self.drain, Drain::Leaving(leave) if leave.succeeded)
    }

    /// Take the drain as far as it goes now.
    pub(super) fn step_drain(&mut self, now: Instant) {
        self.offer_next(now);
        let movable_left = |this: &Instance| {
            let mut sessions = this.sessions.values();
            !this.moving.is_empty()
                || sessions.any(|session| this.is_movable(session) && this.is_missed(session))
        };
        let Drain::Leaving(leave) = &self.drain else {
            return;
        };
        if leave.tick > now {
            return;
        }
        let since = leave.since;
        let due = now.since(since) >= leave.options.deadline;
        let may_take_longer = !due || leave.options.then == DrainThen::Wait;
        let opening = self.stack.half_open_count() > 0 && now.since(since) < SETTLE;
        let waits = match leave.stage {
            Stage::Moving => opening || movable_left(self),
            Stage::Grace { since, heard } => !leave.is_quiet(now, since, heard),
            _ => false,
        };
        if waits && due && leave.overrun.is_none() {
            self.overrun(now);
        }
        self.ask_departed(now);
        let unparted = self.unparted(now);
        let Drain::Leaving(leave) = &self.drain else {
            return;
        };
        let next = match leave.stage {
            Stage::Moving if may_take_longer && (opening || movable_left(self)) => None,
            Stage::Moving if self.key.is_none() => Some(farewell(now)),
            Stage::Moving if self.is_ingress() => Some(Stage::HandingOver(0, now)),
            Stage::Moving => Some(Stage::Grace {
                since: now,
                heard: now,
            }),
            Stage::HandingOver(tries, at) if at <= now => {
                match self.members.choose(now, &mut self.rng, SUCCESSOR) {
                    Some(successor) if tries < HANDOVERS => {
                        self.watch_table(now);
                        self.hand_over(now, successor);
                        Some(Stage::HandingOver(tries + 1, now + HANDOVER))
                    }
                    // Alone: nobody to go on.
                    _ => {
                        if let Some(election) = &mut self.election {
                            election.resign(now);
                        }
                        self.lay_down_role(now, "nobody is there to take it");
                        Some(farewell(now))
                    }
                }
            }
            Stage::Grace { since, heard }
                if leave.is_quiet(now, since, heard) || !may_take_longer =>
            {
                Some(farewell(now + FAREWELL))
            }
            Stage::Farewell { from, until }
                if from <= now && (unparted == 0 || until <= now || !may_take_longer) =>
            {
                Some(Stage::Done)
            }
            Stage::HandingOver(..) | Stage::Grace { .. } | Stage::Farewell { .. } | Stage::Done => {
                None
            }
        };
        match next {
            Some(Stage::Farewell { .. }) => {
                self.hand_on_spent(now);
                self.broadcast(&Message::Leaving);
            }
            Some(Stage::Done) => {
                if unparted > 0 {
                    self.counters.add("drains_unparted");
                    log::warn!(target: "cluster", "{unparted} members may wait for an answer");
                }
                log::info!(target: "cluster", "drained");
                self.events.push_back(Event::Drained);
            }
            _ => {}
        }
        if let Drain::Leaving(leave) = &mut self.drain {
            leave.tick = now + TICK;
            if let Some(stage) = next {
                leave.stage = stage;
            }
        }
    }

    /// Whether anyone would miss the session: with nobody to take it, one that only waits for old
    /// duplicates (TIME-WAIT) ends with the machine.
    fn is_missed(&self, session: &Session) -> bool {
        let waits = |conn| {
            let tcp = self.stack.connection(conn);
            tcp.is_none_or(|tcp| tcp.state() == State::TimeWait)
        };
        let mut conns = session.connections.iter().filter_map(|c| c.conn);
        !self.is_alone() || !conns.all(waits)
    }

    /// Whether there is no other member, nor ever will be.
    fn is_alone(&self) -> bool {
        self.members.is_empty() || self.key.is_none()
    }

    /// Put as many sessions on their way as there is room for.
    fn offer_next(&mut self, now: Instant) {
        loop {
            let Drain::Leaving(leave) = &self.drain else {
                return;
            };
            let next = leave.queue.first().copied();
            let Some((at, id)) = next.filter(|(at, _)| *at <= now && leave.offer_at <= now) else {
                return;
            };
            let movable = |session: &&Session| self.is_movable(session) && session.lull.is_none();
            let Some(session) = self.sessions.get(&id).filter(movable) else {
                if let Drain::Leaving(leave) = &mut self.drain {
                    leave.queue.pop_first();
                }
                continue;
            };
            let movable_at = session.movable_at(now);
            // Of one that has committed nothing here, an older release may still read the state.
            let version = session
                .committed
                .as_ref()
                .map_or(0, |(version, _)| *version);
            let wanted = Wanted {
                own: None,
                version,
                voter: false,
            };
            let to = self.members.choose(now, &mut self.rng, wanted);
            if to.is_some_and(|to| !self.may_begin(to)) {
                // As soon as there is room.
                return;
            }
            let Drain::Leaving(leave) = &mut self.drain else {
                return;
            };
            leave.queue.remove(&(at, id));
            let Some(to) = to.filter(|_| movable_at <= now) else {
                leave.queue.insert((movable_at.max(now + TICK), id));
                if to.is_none() {
                    leave.stuck.insert(id, "no member takes sessions");
                    leave.failures += 1;
                    if leave.failures >= MAX_FAILURES {
                        leave.failures = 0;
                        leave.offer_at = now + TICK;
                    }
                }
                continue;
            };
            leave.failures = 0;
            if let Err(error) = self.begin_move(now, id, to) {
                self.note_stuck(id, error.as_str());
                // Not sooner than it can be otherwise: it was frozen to find that out.
                let pause = match error {
                    MoveError::TooLarge => RETRY,
                    _ => TICK,
                };
                if let Drain::Leaving(leave) = &mut self.drain {
                    leave.queue.insert((now + pause, id));
                }
            }
        }
    }
}

/// To be heard from then on, at the latest.
fn farewell(from: Instant) -> Stage {
    let until = from + PARTING;
    Stage::Farewell { from, until }
}

/// The destination of the IP packet in an Ethernet frame.
fn destination(frame: &[u8]) -> Option<core::net::IpAddr> {
    match frame.get(12..14)? {
        [0x08, 0x00] => {
            let octets: [u8; 4] = frame.get(30..34)?.try_into().ok()?;
            Some(octets.into())
        }
        [0x86, 0xdd] => {
            let octets: [u8; 16] = frame.get(38..54)?.try_into().ok()?;
            Some(octets.into())
        }
        _ => None,
    }
}
