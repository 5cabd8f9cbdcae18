//! The target's part in a transfer: taking in a session that is offered, and the frames that follow it, and
//! saying what became of an offer. The source's is in [`moves`](super::moves).

use alloc::vec::Vec;

use super::{Event, Instance, MAX_COUNT, ServiceId, Use};
use crate::cluster::MemberId;
use crate::cluster::channel::Channel;
use crate::cluster::message::{Attempt, Message, Transfer};
use crate::migrate::capsule::Capsule;
use crate::migrate::rope::Rope;
use crate::migrate::transfer::{Decision, Memory, RefuseReason};
use crate::session::{Session, SessionConnection};
use crate::stack::{Route, RxFrame, Scope};
use crate::tcp::{Connection, ImportError};
use crate::time::{Duration, Instant};

/// Octets of a relayed frame at most: what an IPv6 header can count, and headers.
const MAX_FRAME: usize = 14 + 40 + 65_535;

impl Instance {
    /// Answer a source in doubt.
    pub(super) fn resolve(&mut self, from: MemberId, attempt: Attempt) {
        if attempt.epoch > MAX_COUNT {
            self.counters.add("epochs_out_of_range");
            return;
        }
        let here = self.sessions.get(&attempt.session);
        let frozen = self.moving.get(&attempt.session);
        let epoch = here
            .or(frozen.map(|moving| &moving.session))
            .map(|session| session.epoch);
        let memory = match epoch {
            Some(epoch) if epoch >= attempt.epoch => Memory::Owned,
            _ => self.epochs.ask(attempt.session, attempt.epoch),
        };
        let answer = match memory {
            Memory::Owned => Message::Owned(attempt),
            Memory::Denied => Message::NotOwner(attempt),
            Memory::Forgotten => Message::Forgotten(attempt),
        };
        self.send(from, &answer);
    }

    /// A session is offered.
    pub(super) fn take_in(
        &mut self,
        now: Instant,
        from: MemberId,
        transfer: Transfer,
        capsule: Rope,
        opening: Duration,
    ) {
        let attempt = Attempt {
            session: transfer.session,
            epoch: transfer.epoch,
        };
        if attempt.epoch > MAX_COUNT {
            // Not even to be remembered: it would burn every epoch there is.
            let reason = RefuseReason::Malformed;
            self.counters.add(reason.counter());
            self.send(from, &Message::Refused { attempt, reason });
            return;
        }
        let generation = self
            .link_to(from)
            .map(|link| Channel::generation(&link.channel));
        let meant = transfer.boot == self.boot && Some(transfer.generation) == generation;
        // It comes back before it was quite gone.
        self.end_following(now, attempt.session);
        let start = self.measure(now);
        let mut decoded_at = start;
        let result = match self.epochs.decide(attempt.session, attempt.epoch) {
            Decision::Affirm => {
                self.counters.add("transfer_replayed");
                Ok(())
            }
            Decision::Deny => Err(RefuseReason::EpochBurned),
            Decision::Import if !meant => Err(RefuseReason::Void),
            Decision::Import => Capsule::decode(capsule)
                .map_err(RefuseReason::from)
                .and_then(|mut capsule| {
                    if !self.complete(from, &mut capsule) {
                        return Err(RefuseReason::Ahead);
                    }
                    decoded_at = self.measure(now);
                    self.import(now, from, attempt, capsule)
                }),
        };
        let answer = match result {
            Ok(()) => Message::Accepted {
                attempt,
                open: (opening + decoded_at.since(start)).as_nanos() as u64,
                import: self.measure(now).since(decoded_at).as_nanos() as u64,
            },
            Err(reason) => {
                self.epochs.deny(attempt.session, attempt.epoch);
                self.counters.add(reason.counter());
                Message::Refused { attempt, reason }
            }
        };
        self.send(from, &answer);
    }

    /// Whether this instance can serve what the capsule holds: the service's index.
    fn admit(&self, attempt: Attempt, capsule: &Capsule) -> Result<usize, RefuseReason> {
        if capsule.session != attempt.session || capsule.epoch != attempt.epoch {
            return Err(RefuseReason::Mismatch);
        }
        if self.is_draining() {
            return Err(RefuseReason::Draining);
        }
        let service = self.services.iter().position(|service| {
            *service.spec.name == *capsule.service && service.spec.scope == Scope::Service
        });
        let service = service.ok_or(RefuseReason::NoService)?;
        let room =
            (self.tcp.max_connections as usize).saturating_sub(self.stack.connection_count());
        if capsule.connections.is_empty() || capsule.connections.len() > room {
            return Err(RefuseReason::Capacity);
        }
        if self.sessions.contains_key(&capsule.session)
            || self.moving.contains_key(&capsule.session)
        {
            return Err(RefuseReason::Occupied);
        }
        for connection in &capsule.connections {
            let flow = connection.flow();
            if !self.vips.contains(&flow.local.ip()) {
                return Err(RefuseReason::NoAddress);
            }
            if let Some(Route::Local(_) | Route::Capture) = self.stack.route(&flow) {
                return Err(RefuseReason::Occupied);
            }
        }
        // Last: a content is sent only if nothing else is in the way.
        self.examine(service, capsule)?;
        Ok(service)
    }

    /// Whether the service can be started with the capsule's state. A state that nobody will read
    /// again may be any.
    fn examine(&self, service: usize, capsule: &Capsule) -> Result<(), RefuseReason> {
        let spec = self.services.get(service).map(|service| &service.spec);
        let (Some(spec), Some((version, state)), false) = (spec, &capsule.state, capsule.finished)
        else {
            return Ok(());
        };
        if !spec.reads(*version) {
            return Err(RefuseReason::StateVersion);
        }
        let Some(states) = &spec.states else {
            return Ok(());
        };
        let named = states.names(*version, state);
        let named = named.ok_or(RefuseReason::BadState)?;
        match named.iter().find(|id| !self.has_content(spec, id)) {
            Some(missing) => Err(RefuseReason::Content(*missing)),
            None => Ok(()),
        }
    }

    fn import(
        &mut self,
        now: Instant,
        from: MemberId,
        attempt: Attempt,
        capsule: Capsule,
    ) -> Result<(), RefuseReason> {
        if !self.may_own(now) {
            return Err(RefuseReason::Capacity);
        }
        let service = self.admit(attempt, &capsule)?;
        let mut ready = Vec::with_capacity(capsule.connections.len());
        for carried in capsule.connections {
            let flow = carried.flow();
            let tcp = Connection::import(carried.tcp, now, &self.tcp, self.mtu)
                .map_err(import_refusal)?;
            ready.push((
                flow,
                carried.next_hop,
                (carried.end_read, carried.shut_down),
                tcp,
            ));
        }
        let mut connections = Vec::with_capacity(ready.len());
        for (flow, next_hop, (end_read, shut_down), tcp) in ready {
            let Ok(conn) = self.stack.attach_fenced(now, tcp, next_hop) else {
                self.take_back(now, from, connections);
                return Err(RefuseReason::Occupied);
            };
            let mut connection = SessionConnection::new(flow, conn, self.tcp.receive_buffer);
            connection.end_read = end_read;
            connection.shut_down = shut_down;
            connections.push(connection);
        }
        let id = attempt.session;
        for (number, connection) in connections.iter().enumerate() {
            if let Some(conn) = connection.conn {
                self.uses.insert(conn, Use::Session(id, number as u16));
            }
            self.flow_is_local(connection.flow);
        }
        let mut session = Session {
            committed: capsule.state,
            finished: capsule.finished.then_some(now),
            ..Session::new(id, service, attempt.epoch, connections)
        };
        session.settle_in(now);
        self.epochs.own(id, attempt.epoch);
        self.sessions.insert(id, session);
        self.put_fence(now, id, from);
        self.counters.add("sessions_imported");
        if !capsule.finished {
            self.events.push_back(Event::SessionStarted {
                session: id,
                service: ServiceId(service as u32),
            });
        }
        self.claim_flows(id);
        Ok(())
    }

    /// One connection of a session found no place: the others leave again, before anything was
    /// sent for them.
    fn take_back(&mut self, now: Instant, from: MemberId, connections: Vec<SessionConnection>) {
        let Some(source) = self.members.get(from).map(|member| member.address) else {
            return;
        };
        for conn in connections.iter().filter_map(|c| c.conn) {
            self.stack.detach(now, conn, Route::Forward(source));
        }
    }

    /// A frame followed its capsule.
    pub(super) fn handle_relayed(&mut self, now: Instant, attempt: Attempt, frame: Rope) {
        if frame.len() > MAX_FRAME {
            self.counters.add("frames_too_long");
        } else if self.epochs.has_owned(attempt.session, attempt.epoch) {
            self.stack
                .inject_behind(now, RxFrame::new(frame.into_bytes()));
        } else {
            // The capsule was refused; the source has kept the frame.
            self.counters.add("frames_of_refused");
        }
    }
}

fn import_refusal(error: ImportError) -> RefuseReason {
    match error {
        ImportError::WindowTooLarge => RefuseReason::Window,
        _ => RefuseReason::BadConnection,
    }
}
