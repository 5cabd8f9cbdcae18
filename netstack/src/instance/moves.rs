//! The source's part in a transfer: freezing and offering a session, and what follows from the answers. The
//! target's is in [`import`](super::import).

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::mem;

use super::{Event, Instance, MoveError, MoveReport, ServiceId, Use};
use crate::cluster::message::{Attempt, Hello, Message, Transfer};
use crate::cluster::{BootId, MemberId};
use crate::migrate::capsule::{Ahead, Capsule, CapsuleConnection, CapsuleError};
use crate::migrate::rope::Rope;
use crate::migrate::transfer::{Answer, Phase, RefuseReason, Source, Verdict};
use crate::session::{Session, SessionConnection, SessionError, SessionId};
use crate::stack::{FlowKey, Route, RxFrame};
use crate::tcp::Connection;
use crate::time::{Duration, Instant};

/// Finished moves remembered.
const MAX_REPORTS: usize = 256;
/// Captured frames kept of a frozen session, in case it thaws.
const MAX_KEPT: usize = 512;
/// Octets of them.
const MAX_KEPT_OCTETS: usize = 512 * 1024;
/// Octets of them, of all frozen sessions together. What is not kept, TCP repeats.
const MAX_KEPT_TOTAL: usize = 4 * 1024 * 1024;

/// A session frozen for a transfer.
#[derive(Debug)]
pub(super) struct Moving {
    pub(super) source: Source,
    /// The session without its connections.
    pub(super) session: Session,
    /// Its connections at the freeze.
    connections: Vec<CapsuleConnection>,
    /// Frames that arrived since, as many as are kept.
    kept: Vec<RxFrame>,
    kept_octets: usize,
    frozen_at: Instant,
    lull: Duration,
    capsule_bytes: u32,
    export: Duration,
    seal: Duration,
    /// The ingress has changed the routes already, to the owner under this epoch.
    pub(super) rerouted: Option<u64>,
    /// Who has said that it owns the session by now, and under which epoch.
    owned: Option<(MemberId, u64)>,
}

impl Moving {
    /// The session's capsule, as it is offered.
    pub(super) fn encode(&mut self, service: &str) -> Result<Rope, CapsuleError> {
        // Each field goes along or stays: one more does not compile before that is decided.
        let Session {
            id,
            committed,
            finished,
            // Named in `service`, counted on in `source`, exported as `self.connections`.
            service: _,
            epoch: _,
            connections: _,
            // How this instance runs it, and moves it: the next one begins with none of that.
            woken: _,
            residence: _,
            arrived: _,
            wanted: _,
            in_line: _,
            persists: _,
            lull: _,
            fence: _,
            unaided: _,
            fetched: _,
            fetches: _,
        } = &self.session;
        let capsule = Capsule {
            session: *id,
            epoch: self.source.epoch,
            service: service.into(),
            state: committed.clone(),
            finished: finished.is_some(),
            // Lent: they stay here, in case the session thaws.
            connections: mem::take(&mut self.connections),
        };
        let encoded = capsule.encode();
        self.connections = capsule.connections;
        encoded
    }
}

impl Instance {
    /// Move the session to `to`: let its queues run empty, freeze it, offer it. Deferred while the
    /// session has just been imported (first commit or 100 ms).
    pub fn move_session(
        &mut self,
        now: Instant,
        session: SessionId,
        to: MemberId,
    ) -> Result<(), MoveError> {
        if self.moving.contains_key(&session) {
            return Err(MoveError::NotMovable);
        }
        let entry = self.sessions.get(&session).ok_or(MoveError::NoSession)?;
        if !self.is_movable(entry) || entry.wanted.is_some() {
            return Err(MoveError::NotMovable);
        }
        let member = self.members.get(to).ok_or(MoveError::NoMember)?;
        if !member.is_there(now, self.members.stale()) {
            return Err(MoveError::Unreachable);
        }
        let at = entry.movable_at(now);
        if let Some(entry) = self.sessions.get_mut(&session) {
            (entry.fetched, entry.fetches, entry.persists) = (None, 0, None);
        }
        if at > now {
            self.defer_move(at, session, to);
            return Ok(());
        }
        if !self.may_begin(to) {
            self.stand_in_line(session, to);
            return Ok(());
        }
        self.begin_move(now, session, to)?;
        self.pump(now);
        Ok(())
    }

    /// What is known of `to`, if the session can be offered to it as it is.
    pub(super) fn may_freeze(
        &self,
        now: Instant,
        id: SessionId,
        to: MemberId,
    ) -> Result<Hello, MoveError> {
        let session = self.sessions.get(&id).ok_or(MoveError::NoSession)?;
        let whole = |connection: &SessionConnection| {
            let tcp = connection.conn.and_then(|conn| self.stack.connection(conn));
            connection.failure.is_none()
                && tcp.is_some_and(|tcp| tcp.error().is_none() && tcp.state().is_synchronized())
        };
        if !session.connections.iter().all(whole) {
            return Err(MoveError::NotMovable);
        }
        // Frozen for one that has died, and boots again, the session would be lost.
        let stale = self.members.stale();
        let peer = self.members.get(to);
        let peer = peer.filter(|member| member.is_there(now, stale));
        let hello = peer.and_then(|member| member.hello.clone());
        hello.ok_or(MoveError::Unreachable)
    }

    pub(super) fn freeze(
        &mut self,
        now: Instant,
        id: SessionId,
        to: MemberId,
    ) -> Result<(), MoveError> {
        let peer = self.may_freeze(now, id, to)?;
        let Some(mut session) = self.sessions.remove(&id) else {
            return Err(MoveError::NoSession);
        };
        self.lulled.remove(&id);
        let ahead = self.sent_ahead.remove(&id).unwrap_or_default();
        session.wanted = None;
        session.in_line = false;
        session.fence = None;
        // Its task begins anew, wherever that is.
        session.woken = false;
        let lull = session.lull.take();
        let frozen_at = self.measure(now);
        let mut connections = Vec::with_capacity(session.connections.len());
        for (number, connection) in session.connections.iter_mut().enumerate() {
            let Some(conn) = connection.conn.take() else {
                continue;
            };
            self.uses.remove(conn);
            connection.pending.rollback();
            if let Some((tcp, next_hop)) = self.stack.detach(now, conn, Route::Capture) {
                self.frozen.insert(connection.flow.into(), id);
                let mut carried = CapsuleConnection {
                    next_hop,
                    end_read: connection.end_read,
                    shut_down: connection.shut_down,
                    ahead: Ahead::default(),
                    tcp: tcp.export(now),
                };
                carried.ahead = ahead.of(number, &carried);
                connections.push(carried);
            }
        }
        let mut moving = Moving {
            source: Source::new(to, peer.boot, peer.generation, session.epoch + 1),
            session,
            connections,
            kept: Vec::new(),
            kept_octets: 0,
            frozen_at,
            lull: lull.map_or(Duration::ZERO, |lull| now.since(lull.since)),
            capsule_bytes: 0,
            export: Duration::ZERO,
            seal: Duration::ZERO,
            rerouted: None,
            owned: None,
        };
        let service = self.services.get(moving.session.service);
        let encoded = moving.encode(service.map_or("", |service| service.spec.name));
        let exported_at = self.measure(now);
        moving.export = exported_at.since(frozen_at);
        moving.capsule_bytes = encoded.as_ref().map_or(0, Rope::len) as u32;
        let transfer = Transfer {
            session: id,
            epoch: moving.source.epoch,
            boot: moving.source.boot,
            generation: moving.source.generation,
        };
        if moving.session.finished.is_none() {
            self.events.push_back(Event::SessionStopped(id));
        }
        self.counters.add("moves_begun");
        let failure = match encoded {
            Ok(capsule) => {
                let sent = self.send_with(to, &Message::Transfer(transfer), capsule);
                (!sent).then_some(MoveError::Unreachable)
            }
            Err(_) => Some(MoveError::TooLarge),
        };
        if let Some(error) = failure {
            // Never offered to anyone: as good as a refusal.
            self.counters.add("moves_not_offered");
            self.give_place_back(to);
            self.thaw(now, moving);
            return Err(error);
        }
        if self.in_motion() == 0 {
            // Alone: it leaves at once. Many are sealed together, which takes less.
            self.flush_channels(now);
            moving.seal = self.measure(now).since(exported_at);
        }
        self.moving.insert(id, moving);
        self.pace.offer();
        Ok(())
    }

    /// A frame of a frozen session arrived: it follows the capsule, and a copy is kept for the
    /// case of a thaw.
    pub(super) fn relay(&mut self, now: Instant, flow: FlowKey, frame: RxFrame) {
        let id = self.frozen.get(&flow.into()).copied();
        let moving = id.and_then(|id| Some((id, self.moving.get_mut(&id)?)));
        let Some((id, moving)) = moving else {
            let frame = match id {
                Some(id) => self.relay_behind(id, frame),
                None => Some(frame),
            };
            // Captured just before that was over: it goes where the flow is now.
            if let Some(frame) = frame {
                self.stack.inject(now, frame);
            }
            return;
        };
        let octets = frame.bytes.len();
        if moving.kept.len() < MAX_KEPT
            && moving.kept_octets + octets <= MAX_KEPT_OCTETS
            && self.kept_octets + octets <= MAX_KEPT_TOTAL
        {
            moving.kept_octets += octets;
            self.kept_octets += octets;
            moving.kept.push(frame.clone());
        } else {
            self.counters.add("frames_not_kept");
        }
        if moving.source.phase() == Phase::Offered {
            let (to, epoch) = (moving.source.target, moving.source.epoch);
            self.send_frame(to, Attempt { session: id, epoch }, frame);
        }
    }

    /// Send a frame of a session in the channel, behind its capsule. What the device merged goes as
    /// the segments it was: the target may have to pass them on, and not everyone can cut.
    pub(super) fn send_frame(&mut self, to: MemberId, attempt: Attempt, frame: RxFrame) {
        let Some(segments) = frame.apart() else {
            return self.send_segment(to, attempt, Rope::from(frame.bytes));
        };
        for segment in segments {
            let mut octets = Rope::from(segment.head.to_vec());
            for slice in segment.payload {
                octets.push(slice);
            }
            self.send_segment(to, attempt, octets);
        }
    }

    fn send_segment(&mut self, to: MemberId, attempt: Attempt, frame: Rope) {
        let room = self
            .link_to(to)
            .is_some_and(|link| link.channel.queued() < super::channels::MAX_QUEUED);
        if room && self.send_with(to, &Message::Frame(attempt), frame) {
            self.counters.add("frames_relayed");
        } else {
            self.counters.add("frames_not_relayed");
        }
    }

    pub(super) fn answered(
        &mut self,
        now: Instant,
        from: MemberId,
        attempt: Attempt,
        answer: Answer,
    ) {
        self.handle_answer(now, from, attempt, answer, (Duration::ZERO, Duration::ZERO));
    }

    /// A target answered. `times` are what it took to open and to import.
    pub(super) fn handle_answer(
        &mut self,
        now: Instant,
        from: MemberId,
        attempt: Attempt,
        answer: Answer,
        times: (Duration, Duration),
    ) {
        let boot = self.members.get(from).and_then(|member| member.last_boot);
        let (Some(moving), Some(boot)) = (self.moving.get_mut(&attempt.session), boot) else {
            self.counters.add("answers_late");
            return;
        };
        let doubted = moving.source.phase() == Phase::Doubt;
        let verdict = moving
            .source
            .handle_answer(from, boot, attempt.epoch, answer);
        self.conclude(now, attempt.session, verdict, doubted, times);
    }

    fn conclude(
        &mut self,
        now: Instant,
        id: SessionId,
        verdict: Verdict,
        doubted: bool,
        times: (Duration, Duration),
    ) {
        if verdict == Verdict::None {
            return;
        }
        let Some(moving) = self.moving.remove(&id) else {
            return;
        };
        let target = moving.source.target;
        self.kept_octets -= moving.kept_octets;
        if !doubted {
            let took = now.since(moving.frozen_at);
            self.pace
                .settle((verdict == Verdict::Moved).then_some(took));
        }
        let result = match verdict {
            Verdict::Thaw(Some(reason)) => "refused: ".to_string() + reason.as_str(),
            Verdict::Thaw(None) => "refused: never arrived".to_string(),
            Verdict::Lost => "lost: the target restarted".to_string(),
            Verdict::Unknown => "unknown: the target forgot".to_string(),
            Verdict::Moved | Verdict::None => "accepted".to_string(),
        };
        self.report(now, &moving, result, times);
        match verdict {
            Verdict::Moved => {
                self.counters.add("moves_accepted");
                self.follow(now, moving, doubted);
            }
            Verdict::Thaw(_) => {
                self.counters.add("moves_refused");
                self.give_place_back(moving.source.target);
                if let Verdict::Thaw(reason) = verdict {
                    self.note_stuck(id, reason.map_or("it never arrived", |r| r.as_str()));
                }
                let unaided = verdict == Verdict::Thaw(Some(RefuseReason::Ahead));
                let to = moving.source.target;
                self.thaw(now, moving);
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.unaided |= unaided;
                }
                let helped = match verdict {
                    Verdict::Thaw(Some(RefuseReason::Content(content))) => {
                        self.supply(now, id, to, content)
                    }
                    _ => false,
                };
                let full = verdict == Verdict::Thaw(Some(RefuseReason::Capacity));
                if !(helped || full && self.try_again(now, id, to)) {
                    self.drain_session(now, id);
                }
            }
            // Whatever the target knew is gone, but it may have passed the session on before: the
            // client hears from us only once everyone has said that it is not theirs.
            Verdict::Lost => {
                self.counters.add("sessions_lost");
                self.drop_frozen(now, moving);
            }
            Verdict::Unknown | Verdict::None => {
                self.counters.add("sessions_unknown");
                self.drop_frozen(now, moving);
            }
        }
        self.part(target);
    }

    /// Nobody will ever say what became of a session that we offered.
    pub(super) fn give_up(&mut self, now: Instant, session: SessionId) {
        let times = (Duration::ZERO, Duration::ZERO);
        self.conclude(now, session, Verdict::Lost, true, times);
    }

    /// Forget a frozen session. What arrived for it meanwhile belongs to unknown flows now, which
    /// are asked about.
    fn drop_frozen(&mut self, now: Instant, moving: Moving) {
        for connection in &moving.session.connections {
            self.frozen.remove(&connection.flow.into());
            self.stack.drop_held(now, &connection.flow);
        }
        for carried in &moving.connections {
            // Whoever else has it remembers that himself when it ends; if it was lost, we have to.
            self.stack
                .spend(now, &carried.flow(), carried.tcp.header.handshake());
        }
        for frame in moving.kept {
            self.stack.inject(now, frame);
        }
    }

    /// Say that a move that was asked for has not come about.
    pub(super) fn report_not_begun(&mut self, id: SessionId, to: MemberId, error: MoveError) {
        self.counters.add("moves_not_begun");
        // An attempt like any other, so that reports can be told apart by their epochs.
        let epoch = self.sessions.get_mut(&id).map_or(0, |session| {
            session.epoch += 1;
            session.epoch
        });
        self.push_report(MoveReport {
            session: id,
            to,
            epoch,
            result: "not begun: ".to_string() + &error.to_string(),
            capsule_bytes: 0,
            lull: Duration::ZERO,
            export: Duration::ZERO,
            seal: Duration::ZERO,
            link: Duration::ZERO,
            open: Duration::ZERO,
            import: Duration::ZERO,
            total: Duration::ZERO,
        });
    }

    fn push_report(&mut self, report: MoveReport) {
        if self.reports.len() >= MAX_REPORTS {
            self.reports.pop_front();
        }
        self.reports.push_back(report);
    }

    fn report(
        &mut self,
        now: Instant,
        moving: &Moving,
        result: String,
        (open, import): (Duration, Duration),
    ) {
        let total = self.measure(now).since(moving.frozen_at);
        self.push_report(MoveReport {
            session: moving.session.id,
            to: moving.source.target,
            epoch: moving.source.epoch,
            result,
            capsule_bytes: moving.capsule_bytes,
            lull: moving.lull,
            export: moving.export,
            seal: moving.seal,
            link: total.saturating_sub(moving.export + moving.seal + open + import),
            open,
            import,
            total,
        });
    }

    /// The target owns the session: its flows go there from now on.
    fn follow(&mut self, now: Instant, moving: Moving, doubted: bool) {
        let Moving {
            source,
            session,
            kept,
            rerouted,
            owned,
            ..
        } = moving;
        let attempt = Attempt {
            session: session.id,
            epoch: source.epoch,
        };
        if doubted {
            // Whatever was lost with the channel: sent again, TCP sorts it out.
            for frame in kept {
                self.send_frame(source.target, attempt, frame);
            }
        }
        let flows = session.connections.iter().map(|c| c.flow).collect();
        self.begin_following(now, attempt, source.target, flows, owned);
        if rerouted.is_some_and(|epoch| epoch >= attempt.epoch) {
            self.note_confirmed(source.target, &[attempt]);
            self.end_following(now, attempt.session);
        }
    }

    /// The session never left: go on with it here, under an epoch above the attempt's.
    fn thaw(&mut self, now: Instant, moving: Moving) {
        let Moving {
            source,
            mut session,
            connections,
            kept,
            ..
        } = moving;
        let id = session.id;
        session.epoch = source.epoch + 1;
        for (number, (connection, carried)) in
            session.connections.iter_mut().zip(connections).enumerate()
        {
            self.frozen.remove(&connection.flow.into());
            let handshake = carried.tcp.header.handshake();
            let attached = Connection::import(carried.tcp, now, &self.tcp, self.mtu)
                .ok()
                .and_then(|tcp| self.stack.attach(now, tcp, carried.next_hop).ok());
            connection.conn = attached;
            match attached {
                Some(conn) => {
                    self.uses.insert(conn, Use::Session(id, number as u16));
                }
                None => {
                    self.counters.add("thaws_failed");
                    connection.failure = Some(SessionError::Reset);
                    self.stack.spend(now, &connection.flow, handshake);
                    self.stack.clear_route(now, &connection.flow);
                }
            }
        }
        if session.is_over() {
            self.release_flows(now, &session);
            return;
        }
        let service = ServiceId(session.service as u32);
        let serving = session.finished.is_none();
        self.sessions.insert(id, session);
        self.counters.add("sessions_thawed");
        if serving {
            self.events.push_back(Event::SessionStarted {
                session: id,
                service,
            });
        }
        self.claim_flows(id);
        for frame in kept {
            self.stack.inject(now, frame);
        }
    }

    /// The channel to `peer` broke: what was offered through it is in doubt.
    pub(super) fn doubt(&mut self, now: Instant, peer: MemberId) {
        let mut owned = Vec::new();
        for (id, moving) in &mut self.moving {
            if moving.source.target == peer {
                moving.source.handle_channel_lost();
                owned.extend(moving.owned.map(|by| (*id, by)));
            }
        }
        self.count_offered();
        for (id, (owner, epoch)) in owned {
            self.note_owner(now, id, owner, epoch);
        }
    }

    /// Another member owns a session, under that epoch. If it is frozen here and its target cannot be asked
    /// what became of it, that is the answer; else the answer comes anyway, and in order.
    pub(super) fn note_owner(&mut self, now: Instant, id: SessionId, owner: MemberId, epoch: u64) {
        let moving = self.moving.get_mut(&id).filter(|_| owner != self.id);
        let Some(moving) = moving.filter(|m| m.source.handle_claim(epoch) == Verdict::Moved) else {
            return;
        };
        if moving.source.phase() == Phase::Offered {
            moving.owned = Some((owner, epoch));
            return;
        }
        let asked = mem::replace(&mut moving.source.target, owner);
        moving.source.epoch = epoch;
        self.counters.add("doubts_answered_by_owner");
        self.conclude(now, id, Verdict::Moved, true, Default::default());
        self.part(asked);
    }

    /// A channel to `peer` is up: ask about what is in doubt.
    pub(super) fn ask_in_doubt(&mut self, now: Instant, peer: MemberId, boot: BootId) {
        let mut verdicts = Vec::new();
        for (id, moving) in &mut self.moving {
            if moving.source.target == peer {
                let verdict = moving.source.handle_channel_up(boot);
                verdicts.push((*id, moving.source.epoch, verdict));
            }
        }
        self.count_offered();
        for (session, epoch, verdict) in verdicts {
            if verdict == Verdict::None {
                self.counters.add("transfers_in_doubt");
                self.send(peer, &Message::Doubt(Attempt { session, epoch }));
            } else {
                let times = (Duration::ZERO, Duration::ZERO);
                self.conclude(now, session, verdict, true, times);
            }
        }
    }
}
