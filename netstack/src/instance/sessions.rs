//! A session's side of an instance, and what TCP reports about sessions' connections.

use alloc::vec::Vec;
use core::net::SocketAddr;

use bytes::Bytes;

use super::{Event, Instance, ServiceId, Use};
use crate::session::{Input, Session, SessionConnection, SessionError, SessionId, Step};
use crate::stack::{ConnId, ListenerId, Scope};
use crate::tcp::{Connection, ConnectionError};
use crate::time::Instant;

/// A commit of this many octets is worth making however full the send queue is.
const LEAST_ROOM: usize = 4 * 1024;

/// What a dead connection means to its session.
fn failure(error: ConnectionError) -> SessionError {
    match error {
        ConnectionError::TimedOut => SessionError::TimedOut,
        _ => SessionError::Reset,
    }
}

/// Apply one connection's part of a commit.
#[inline]
fn apply(now: Instant, connection: &mut Connection, step: Step) {
    if step.consume > 0 {
        connection.receive_consume(now, step.consume);
    }
    for piece in step.output {
        // Closed or dead meanwhile: the session learns it from the connection's failure.
        if connection.send(now, piece).is_err() {
            break;
        }
    }
    if step.shutdown {
        connection.close(now);
    }
}

impl Instance {
    // --- commands of a session's task ------------------------------------------------------------

    /// Schema version and octets of the last committed state; `None` for a new session.
    pub fn committed_state(&self, session: SessionId) -> Option<(u32, Bytes)> {
        self.sessions.get(&session)?.committed.clone()
    }

    /// The client's end of a connection.
    pub fn remote_address(&self, session: SessionId, conn: u16) -> Option<SocketAddr> {
        let session = self.sessions.get(&session)?;
        Some(session.connection(conn).ok()?.flow.remote)
    }

    /// Unread input from the first octet not yet consumed (committed or not).
    #[inline]
    pub fn read(&self, session: SessionId, conn: u16) -> Result<Input, SessionError> {
        let session = self.sessions.get(&session).ok_or(SessionError::Gone)?;
        let connection = session.connection(conn)?;
        let tcp = connection.conn.and_then(|conn| self.stack.connection(conn));
        let consumed = connection.pending.consumed();
        match (tcp, connection.failure) {
            (_, Some(failure)) => Err(failure),
            (Some(tcp), _) => connection
                .pending
                .read(tcp.receive_peek(consumed), tcp.receive_finished()),
            (None, _) => Ok(Input::End),
        }
    }

    /// Count `octets` of input as consumed; takes effect at the next commit.
    #[inline]
    pub fn consume(
        &mut self,
        session: SessionId,
        conn: u16,
        octets: usize,
    ) -> Result<(), SessionError> {
        let session = self.sessions.get_mut(&session).ok_or(SessionError::Gone)?;
        let connection = session.connection_mut(conn)?;
        let tcp = connection.conn.and_then(|conn| self.stack.connection(conn));
        let available = tcp.map_or(0, Connection::receive_available);
        connection.pending.consume(octets, available)
    }

    /// Note that the end of input has been read; takes effect at the next commit.
    pub fn consume_end(&mut self, session: SessionId, conn: u16) -> Result<(), SessionError> {
        let session = self.sessions.get_mut(&session).ok_or(SessionError::Gone)?;
        session.connection_mut(conn)?.pending.consume_end();
        Ok(())
    }

    /// Add output, held back until the next commit.
    #[inline]
    pub fn write(
        &mut self,
        session: SessionId,
        conn: u16,
        data: Bytes,
    ) -> Result<(), SessionError> {
        let session = self.sessions.get_mut(&session).ok_or(SessionError::Gone)?;
        let finished = session.finished.is_some();
        let connection = session.connection_mut(conn)?;
        if connection.shut_down || finished {
            return Err(SessionError::Closed);
        }
        connection.pending.write(data)
    }

    /// Octets of output that can still be written before a commit is needed.
    #[inline]
    pub fn write_room(&self, session: SessionId, conn: u16) -> Result<usize, SessionError> {
        let session = self.sessions.get(&session).ok_or(SessionError::Gone)?;
        let connection = session.connection(conn)?;
        match connection.failure {
            Some(failure) => Err(failure),
            None => Ok(connection.pending.room()),
        }
    }

    /// Close the output direction after what was written; takes effect at the next commit.
    pub fn shutdown(&mut self, session: SessionId, conn: u16) -> Result<(), SessionError> {
        let session = self.sessions.get_mut(&session).ok_or(SessionError::Gone)?;
        session.connection_mut(conn)?.pending.shutdown();
        Ok(())
    }

    /// Apply input consumed, output produced and `state`, at once.
    #[inline]
    pub fn commit(
        &mut self,
        now: Instant,
        session: SessionId,
        state: Bytes,
    ) -> Result<(), SessionError> {
        let entry = self.sessions.get_mut(&session).ok_or(SessionError::Gone)?;
        let version = self
            .services
            .get(entry.service)
            .map_or(0, |service| service.spec.state_version);
        let stack = &mut self.stack;
        entry.commit(version, state, |conn, step| {
            stack.update(now, conn, |connection| apply(now, connection, step));
        })?;
        if entry.wanted.is_some() && entry.lull.is_none() && !entry.in_line {
            self.deferred.insert((now, session));
        }
        Ok(())
    }

    /// Whether the committed output still queued is below what is worth queueing (where a
    /// commit's back-pressure waits).
    #[inline]
    pub fn send_ready(&self, session: SessionId) -> Result<bool, SessionError> {
        let session = self.sessions.get(&session).ok_or(SessionError::Gone)?;
        let mut conns = session.connections.iter().filter_map(|c| c.conn);
        Ok(conns.all(|conn| self.room_of(session, conn) > 0))
    }

    /// Octets of output that are worth adding before the next commit: more would only wait in the
    /// queue, and travel with the session.
    #[inline]
    pub fn send_room(&self, session: SessionId, conn: u16) -> Result<usize, SessionError> {
        let session = self.sessions.get(&session).ok_or(SessionError::Gone)?;
        let connection = session.connection(conn)?;
        let room = connection.conn.map(|conn| self.room_of(session, conn));
        Ok(room.unwrap_or(0).max(LEAST_ROOM))
    }

    /// What a connection's send queue still takes: less when a move is near.
    #[inline]
    fn room_of(&self, session: &Session, conn: ConnId) -> usize {
        let Some(tcp) = self.stack.connection(conn) else {
            return usize::MAX;
        };
        let room = self.stack.send_room(conn);
        match session.lull {
            Some(_) => room.min(super::lull::LIGHT.saturating_sub(tcp.send_queued())),
            None => room,
        }
    }

    /// The service is done: commit and close gracefully. The session lives on, and can move,
    /// until its connections are closed.
    pub fn finish(
        &mut self,
        now: Instant,
        session: SessionId,
        state: Bytes,
    ) -> Result<(), SessionError> {
        let entry = self.sessions.get_mut(&session).ok_or(SessionError::Gone)?;
        for connection in &mut entry.connections {
            connection.pending.shutdown();
        }
        match self.commit(now, session, state) {
            Ok(()) => {}
            Err(SessionError::Reset | SessionError::TimedOut) => {
                self.abort(now, session);
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        if let Some(entry) = self.sessions.get_mut(&session) {
            entry.finished = Some(now);
            if entry.is_over() {
                self.end_session(now, session, false);
            } else {
                self.release_connections(now, session);
            }
        }
        Ok(())
    }

    /// The service failed: reset the session's connections.
    pub fn abort(&mut self, now: Instant, session: SessionId) {
        self.end_session(now, session, false);
    }

    // --- what TCP reports --------------------------------------------------------------------------

    /// A connection was accepted: a session begins.
    pub(super) fn open_session(&mut self, now: Instant, listener: ListenerId, conn: ConnId) {
        let service = self
            .services
            .iter()
            .position(|service| service.listener == listener);
        let (Some(service), Some(flow)) = (service, self.flow_of(conn)) else {
            self.stack
                .update(now, conn, |connection| connection.abort(now));
            return;
        };
        if self.may_leave(service) && !self.may_own(now) {
            // It began to be opened while we had leave.
            self.counters.add("sessions_without_leave");
            self.stack
                .update(now, conn, |connection| connection.abort(now));
            return;
        }
        self.opened += 1;
        let [b0, b1, b2, b3, ..] = self.boot.0;
        let boot = u64::from(u32::from_be_bytes([b0, b1, b2, b3]));
        let id = SessionId {
            origin: self.id.0,
            number: boot << 32 | (self.opened & 0xffff_ffff),
        };
        let connection = SessionConnection::new(flow, conn, self.tcp.receive_buffer);
        self.uses.insert(conn, Use::Session(id, 0));
        self.sessions
            .insert(id, Session::open(id, service, connection));
        self.events.push_back(Event::SessionStarted {
            session: id,
            service: ServiceId(service as u32),
        });
        self.counters.add("sessions_opened");
        if !self.may_leave(service) {
            self.residents += 1;
        }
        self.flow_is_local(flow);
        self.claim_flows(id);
        self.drain_session(now, id);
    }

    /// Something changed on a session's connection.
    #[inline]
    pub(super) fn connection_updated(
        &mut self,
        now: Instant,
        id: SessionId,
        number: u16,
        conn: ConnId,
    ) {
        let error = self.stack.connection(conn).and_then(Connection::error);
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if let (Some(error), Some(connection)) =
            (error, session.connections.get_mut(usize::from(number)))
        {
            connection.failure.get_or_insert(failure(error));
        }
        if session.lull.is_some() {
            // Before the service can fill again what has just run empty.
            self.look_at_lull(now, id);
            self.wake_session(id);
        } else if session.wake() {
            self.events.push_back(Event::SessionWoken(id));
        }
    }

    /// Something changed that the session's task may wait for.
    #[inline]
    pub(super) fn wake_session(&mut self, id: SessionId) {
        if self.sessions.get_mut(&id).is_some_and(Session::wake) {
            self.events.push_back(Event::SessionWoken(id));
        }
    }

    /// A session's connection is gone.
    pub(super) fn connection_gone(&mut self, now: Instant, id: SessionId, number: u16) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if let Some(connection) = session.connections.get_mut(usize::from(number)) {
            connection.conn = None;
        }
        if session.is_over() {
            let serving = session.finished.is_none();
            self.end_session(now, id, serving);
        } else {
            self.wake_session(id);
        }
    }

    /// The session is over: reset what is left of it and tell the ingress.
    fn end_session(&mut self, now: Instant, id: SessionId, tell: bool) {
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        if self.lulled.remove(&id)
            && let Some(to) = session.wanted
        {
            self.give_place_back(to);
        }
        self.sent_ahead.remove(&id);
        for conn in session.connections.iter().filter_map(|c| c.conn) {
            self.uses.remove(conn);
            self.stack
                .update(now, conn, |connection| connection.abort(now));
        }
        if !self.is_movable(&session) {
            self.residents = self.residents.saturating_sub(1);
        }
        self.release_flows(now, &session);
        self.counters.add("sessions_ended");
        if tell {
            self.events.push_back(Event::SessionStopped(id));
        }
    }

    /// A finished session reads no more: TCP resets a client that is still sending once it has all of
    /// ours, and waits for one that never closes only so long.
    fn release_connections(&mut self, now: Instant, id: SessionId) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        for conn in session.connections.iter().filter_map(|c| c.conn) {
            self.stack
                .update(now, conn, |connection| connection.release(now));
        }
    }

    /// Whether the session belongs to a service that may leave this instance.
    pub(super) fn is_movable(&self, session: &Session) -> bool {
        self.may_leave(session.service)
    }

    fn may_leave(&self, service: usize) -> bool {
        let service = self.services.get(service);
        service.is_some_and(|service| service.spec.scope == Scope::Service)
    }

    /// Sessions here that may leave, served and frozen.
    pub fn movable_count(&self) -> usize {
        (self.sessions.len() + self.moving.len()).saturating_sub(self.residents)
    }

    /// End every session of a service that may move: a drain gives up.
    pub(super) fn force_end(&mut self, now: Instant) {
        self.end_all(now, "drain_forced");
    }

    /// End every session of a service that may move, counted as said.
    pub(super) fn end_all(&mut self, now: Instant, counter: &'static str) {
        let left: Vec<SessionId> = self
            .sessions
            .values()
            .filter(|session| self.is_movable(session))
            .map(|session| session.id)
            .collect();
        for id in left {
            self.counters.add(counter);
            self.end_session(now, id, true);
        }
    }

    /// Sessions that a drain has reset because they had not moved in time.
    pub fn sessions_forced(&self) -> u64 {
        self.counters.get("drain_forced")
    }
}
