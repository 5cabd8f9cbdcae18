//! [`Session`]: one session as its owner keeps it.

use alloc::vec::Vec;

use bytes::Bytes;

use super::{ContentId, MAX_STATE, Pending, SessionError, SessionId, Step};
use crate::cluster::MemberId;
use crate::stack::{ConnId, FlowKey};
use crate::time::{Duration, Instant};

/// How long an imported session stays before a planned move, unless it commits first: a session
/// that is moved often still gets on.
const MIN_RESIDENCE: Duration = Duration::from_millis(100);

/// One connection of a session.
#[derive(Debug)]
pub struct SessionConnection {
    /// Its two ends.
    pub flow: FlowKey,
    /// The connection in the stack; `None` once it is gone.
    pub conn: Option<ConnId>,
    /// What is not committed.
    pub pending: Pending,
    /// The end of input was read and that is committed.
    pub end_read: bool,
    /// The output direction was closed and that is committed.
    pub shut_down: bool,
    /// Why it is dead.
    pub failure: Option<SessionError>,
}

impl SessionConnection {
    /// A connection nothing has been done on.
    pub fn new(flow: FlowKey, conn: ConnId, receive_buffer: u32) -> SessionConnection {
        SessionConnection {
            flow,
            conn: Some(conn),
            pending: Pending::new(receive_buffer as usize),
            end_read: false,
            shut_down: false,
            failure: None,
        }
    }
}

/// Whether a session may be moved on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Residence {
    /// It was opened here or has committed here.
    Settled,
    /// It was imported and has not committed yet.
    New {
        /// When it may be moved all the same.
        until: Instant,
    },
}

/// The time between the command to move and the freeze, in which the queues run empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lull {
    /// When it began.
    pub since: Instant,
    /// When less was queued than ever before.
    pub progress: Instant,
    /// How much that was, in octets.
    pub least: usize,
    /// Since when nothing but acknowledgements is awaited.
    pub dry: Option<Instant>,
    /// When what was queued was sent ahead.
    pub ahead: Option<Instant>,
}

/// Frames older than those on the wire are still coming through the channel from that member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fence {
    /// The session's last owner.
    pub from: MemberId,
    /// When it is not waited for any longer.
    pub until: Instant,
}

/// A session served here.
#[derive(Debug)]
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// Index of its service.
    pub service: usize,
    /// Count of owners so far, and of attempts to change the owner.
    pub epoch: u64,
    /// Its connections, numbered from 0.
    pub connections: Vec<SessionConnection>,
    /// Schema version and octets of the state at the last commit.
    pub committed: Option<(u32, Bytes)>,
    /// Its task is about to be told that something has changed.
    pub woken: bool,
    /// The service is done with it; it stays until its connections are closed.
    pub finished: Option<Instant>,
    /// Whether it may be moved on.
    pub residence: Residence,
    /// When it came from another instance.
    pub arrived: Option<Instant>,
    /// A move asked for and not begun.
    pub wanted: Option<MemberId>,
    /// That move waits for its turn.
    pub in_line: bool,
    /// Until when that move, or one that was refused, waits for the target to have room.
    pub persists: Option<Instant>,
    /// Set while the move asked for waits only for the queues.
    pub lull: Option<Lull>,
    /// Set from its import until its last owner has sent on everything.
    pub fence: Option<Fence>,
    /// A move failed for what should have been there ahead of it: the next one carries everything.
    pub unaided: bool,
    /// The last content that was sent so that a move could come about, and to whom.
    pub fetched: Option<(MemberId, ContentId)>,
    /// How many there were.
    pub fetches: u8,
}

impl Session {
    /// A session that begins here.
    pub fn open(id: SessionId, service: usize, connection: SessionConnection) -> Session {
        Session::new(id, service, 1, alloc::vec![connection])
    }

    /// A session with no commit and no past, with this `epoch`.
    pub fn new(
        id: SessionId,
        service: usize,
        epoch: u64,
        connections: Vec<SessionConnection>,
    ) -> Session {
        Session {
            id,
            service,
            epoch,
            connections,
            committed: None,
            woken: false,
            finished: None,
            residence: Residence::Settled,
            arrived: None,
            wanted: None,
            in_line: false,
            persists: None,
            lull: None,
            fence: None,
            unaided: false,
            fetched: None,
            fetches: 0,
        }
    }

    /// Something has changed; whether its task has to be told, and has not been yet.
    #[inline]
    pub fn wake(&mut self) -> bool {
        self.finished.is_none() && !core::mem::replace(&mut self.woken, true)
    }

    /// The earliest time of a planned move.
    pub fn movable_at(&self, now: Instant) -> Instant {
        let fence = self.fence.map_or(now, |fence| fence.until);
        match self.residence {
            // A finished session commits no more: it has nothing to get on with.
            _ if self.finished.is_some() => fence,
            Residence::Settled => fence,
            Residence::New { until } => until.max(fence),
        }
    }

    /// The session was imported: it stays a moment.
    pub fn settle_in(&mut self, now: Instant) {
        self.arrived = Some(now);
        self.residence = Residence::New {
            until: now + MIN_RESIDENCE,
        };
    }

    /// A connection by its number.
    #[inline]
    pub fn connection(&self, number: u16) -> Result<&SessionConnection, SessionError> {
        self.connections
            .get(usize::from(number))
            .ok_or(SessionError::NoConnection)
    }

    /// A connection by its number, to act on: an error if it is dead.
    #[inline]
    pub fn connection_mut(&mut self, number: u16) -> Result<&mut SessionConnection, SessionError> {
        let connection = self
            .connections
            .get_mut(usize::from(number))
            .ok_or(SessionError::NoConnection)?;
        match connection.failure {
            Some(failure) => Err(failure),
            None => Ok(connection),
        }
    }

    /// Whether every connection is gone.
    pub fn is_over(&self) -> bool {
        self.connections
            .iter()
            .all(|connection| connection.conn.is_none())
    }

    /// Commit: `state` becomes the committed state and `apply` is given the step of each live
    /// connection. An error, and nothing committed, if the state is too large or every connection is dead.
    #[inline]
    pub fn commit(
        &mut self,
        version: u32,
        state: Bytes,
        mut apply: impl FnMut(ConnId, Step),
    ) -> Result<(), SessionError> {
        if state.len() > MAX_STATE {
            return Err(SessionError::StateTooLarge);
        }
        if self.finished.is_some() {
            return Err(SessionError::Closed);
        }
        let alive = |connection: &&mut SessionConnection| connection.failure.is_none();
        if let Some(dead) = self.connections.first().and_then(|first| first.failure)
            && self.connections.iter_mut().filter(alive).count() == 0
        {
            return Err(dead);
        }
        self.committed = Some((version, state));
        self.residence = Residence::Settled;
        for connection in self.connections.iter_mut().filter(alive) {
            let step = connection.pending.commit();
            connection.end_read |= step.end;
            connection.shut_down |= step.shutdown;
            if let Some(conn) = connection.conn {
                apply(conn, step);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(connections: u32) -> Session {
        let connection = |index| {
            let flow = FlowKey {
                local: ([10, 0, 0, 1], 80).into(),
                remote: ([10, 0, 0, 2], 1000 + index as u16).into(),
            };
            let conn = ConnId {
                index,
                generation: 0,
            };
            SessionConnection::new(flow, conn, 65_536)
        };
        let id = SessionId {
            origin: 1,
            number: 1,
        };
        let mut session = Session::open(id, 0, connection(0));
        session.connections.extend((1..connections).map(connection));
        session
    }

    #[test]
    fn a_commit_steps_all_connections_at_once() {
        let mut session = session(2);
        let write = |session: &mut Session, number, octets| {
            let connection = session.connection_mut(number).unwrap();
            connection
                .pending
                .write(Bytes::from_static(octets))
                .unwrap();
        };
        write(&mut session, 0, b"to the client");
        write(&mut session, 1, b"upstream");
        session.connections[1].pending.consume(3, 3).unwrap();
        let mut steps = Vec::new();
        let apply = |conn, step| steps.push((conn, step));
        let state = Bytes::from_static(b"state");
        session.commit(7, state, apply).unwrap();
        assert_eq!(steps.len(), 2);
        assert_eq!(
            steps[0].1.output[..],
            [Bytes::from_static(b"to the client")]
        );
        assert_eq!((steps[1].1.consume, steps[1].1.output.len()), (3, 1));
        assert_eq!(session.committed, Some((7, Bytes::from_static(b"state"))));
    }

    #[test]
    fn a_state_that_no_capsule_could_carry_commits_nothing() {
        let mut session = session(1);
        let write = session.connections[0]
            .pending
            .write(Bytes::from_static(b"x"));
        assert_eq!(write, Ok(()));
        let state = Bytes::from(alloc::vec![0; MAX_STATE + 1]);
        assert!(matches!(
            session.commit(1, state, |_, _| panic!("a step")),
            Err(SessionError::StateTooLarge)
        ));
        assert!(session.committed.is_none());
        let mut pieces = 0;
        let apply = |_, step: Step| pieces += step.output.len();
        session.commit(1, Bytes::new(), apply).unwrap();
        assert_eq!(pieces, 1);
    }

    #[test]
    fn a_proxy_goes_on_when_one_of_its_connections_dies() {
        let mut session = session(2);
        session.connections[0].failure = Some(SessionError::Reset);
        assert!(matches!(
            session.connection_mut(0),
            Err(SessionError::Reset)
        ));
        let mut steps = 0;
        session.commit(1, Bytes::new(), |_, _| steps += 1).unwrap();
        assert_eq!(steps, 1);
        session.connections[1].failure = Some(SessionError::TimedOut);
        assert!(matches!(
            session.commit(1, Bytes::new(), |_, _| panic!("a step")),
            Err(SessionError::Reset)
        ));
    }

    #[test]
    fn an_imported_session_stays_for_its_first_commit_or_a_moment() {
        let mut session = session(1);
        assert_eq!(session.movable_at(Instant::ZERO), Instant::ZERO);
        session.settle_in(Instant::ZERO);
        assert_eq!(session.movable_at(Instant::ZERO), Instant::from_millis(100));
        session.commit(1, Bytes::new(), |_, _| ()).unwrap();
        assert_eq!(session.movable_at(Instant::ZERO), Instant::ZERO);
    }
}
