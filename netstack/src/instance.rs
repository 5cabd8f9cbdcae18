//! One instance: stack, sessions, transfers and cluster composed, still without IO.
//!
//! Drain it in this order after every `handle_*` or command: [`Instance::poll_event`] until
//! `None` (run what it wakes), [`Instance::poll_transmit`] until `None`, then sleep until
//! [`Instance::poll_timeout`] or the next frame.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use crate::cluster::MemberId;
use crate::session::{Input, SessionError, SessionId};
use crate::stack::{RxFrame, Scope, StackConfig, TxFrame};
use crate::time::{Duration, Instant};

/// A member other than this instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Its id.
    pub id: MemberId,
    /// Its own address (the channel's end).
    pub address: IpAddr,
}

/// What an instance is built from.
#[derive(Clone, Debug)]
pub struct InstanceConfig {
    /// This instance.
    pub id: MemberId,
    /// Addresses, device and TCP limits.
    pub stack: StackConfig,
    /// The other members.
    pub peers: Vec<Peer>,
    /// The member that answers for the virtual addresses at the start.
    pub ingress: MemberId,
    /// Key all members share. Without it the instance has no channel and takes no sessions.
    pub cluster_key: Option<[u8; 32]>,
}

/// A service as the instance needs to know it.
#[derive(Clone, Debug)]
pub struct ServiceSpec {
    /// Its name: a capsule goes to the service of the same name.
    pub name: &'static str,
    /// The port it listens at.
    pub port: u16,
    /// The addresses it is reached by; [`Scope::Own`] services never move.
    pub scope: Scope,
    /// Version of the state it commits.
    pub state_version: u32,
}

/// A service of an [`Instance`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ServiceId(pub u32);

/// What an instance reports.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A session is to be served: a new connection, or (with committed state) one that arrived
    /// from another instance.
    SessionStarted {
        /// The session.
        session: SessionId,
        /// The service it belongs to.
        service: ServiceId,
    },
    /// Something changed that the session's task may wait for. Coalesced.
    SessionWoken(SessionId),
    /// The session is not served here any more (frozen for a transfer, moved, reset or ended): drop its task.
    SessionStopped(SessionId),
    /// A drain is complete: every session is gone and may the machine go too.
    Drained,
}

/// Why a move or drain could not start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MoveError {
    /// No such session here.
    NoSession,
    /// No such member.
    NoMember,
    /// The channel to the member is not up.
    Unreachable,
    /// The session is already being moved, or belongs to a service that never moves.
    NotMovable,
}

/// A finished move, as its source saw it.
#[derive(Clone, Debug)]
pub struct MoveReport {
    /// What moved.
    pub session: SessionId,
    /// Where to.
    pub to: MemberId,
    /// The epoch of the attempt.
    pub epoch: u64,
    /// `accepted`, or `refused: ` and the reason.
    pub result: String,
    /// Octets of the capsule before sealing.
    pub capsule_bytes: u32,
    /// Time to export (freeze to capsule).
    pub export: Duration,
    /// Time to seal at the source.
    pub seal: Duration,
    /// Time on the link, both ways: everything not accounted for elsewhere.
    pub link: Duration,
    /// Time to open and decode at the target.
    pub open: Duration,
    /// Time to import at the target.
    pub import: Duration,
    /// Freeze to answer.
    pub total: Duration,
}

/// One connection of a session, for status pages.
#[derive(Clone, Debug)]
pub struct ConnectionStatus {
    /// Our end.
    pub local: SocketAddr,
    /// The client's end.
    pub remote: SocketAddr,
    /// State by its RFC 9293 name.
    pub state: &'static str,
    /// Payload octets sent and acknowledged, over all owners.
    pub tx_bytes: u64,
    /// Payload octets received in order, over all owners.
    pub rx_bytes: u64,
    /// Congestion window in octets.
    pub cwnd: u32,
    /// Smoothed round-trip time; zero before the first sample.
    pub srtt: Duration,
    /// Retransmission time-out.
    pub rto: Duration,
    /// Segments retransmitted, over all owners.
    pub retransmits: u64,
}

/// One session, for status pages.
#[derive(Clone, Debug)]
pub struct SessionStatus {
    /// The session.
    pub id: SessionId,
    /// Its service's name.
    pub service: &'static str,
    /// Count of owners so far.
    pub epoch: u64,
    /// Whether it is frozen for a transfer.
    pub frozen: bool,
    /// Its connections.
    pub connections: Vec<ConnectionStatus>,
}

/// A member as this instance sees it.
#[derive(Clone, Debug)]
pub struct MemberStatus {
    /// The member.
    pub id: MemberId,
    /// Its own address.
    pub address: IpAddr,
    /// Whether the channel to it is up.
    pub up: bool,
}

/// One running image.
pub struct Instance {}

#[expect(
    unused_variables,
    missing_docs,
    clippy::unimplemented,
    reason = "being filled in"
)]
impl Instance {
    // --- the drive loop's side -----------------------------------------------------------------
    pub fn new(config: InstanceConfig, seed: [u8; 32], now: Instant) -> Instance {
        unimplemented!()
    }
    /// Take in a frame from the NIC.
    pub fn handle_frame(&mut self, now: Instant, frame: RxFrame) {
        unimplemented!()
    }
    /// Fire timers that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        unimplemented!()
    }
    pub fn poll_event(&mut self) -> Option<Event> {
        unimplemented!()
    }
    pub fn poll_transmit(&mut self, now: Instant) -> Option<TxFrame> {
        unimplemented!()
    }
    pub fn poll_timeout(&self) -> Option<Instant> {
        unimplemented!()
    }

    // --- commands of the node agent -------------------------------------------------------------
    pub fn add_service(&mut self, spec: ServiceSpec) -> ServiceId {
        unimplemented!()
    }
    /// Freeze the session and offer it to `to`. Deferred while the session has just been imported
    /// (first commit or 100 ms).
    pub fn move_session(
        &mut self,
        now: Instant,
        session: SessionId,
        to: MemberId,
    ) -> Result<(), MoveError> {
        unimplemented!()
    }
    /// Stop taking new sessions, move all sessions to the peers, hand the ingress role on; then
    /// [`Event::Drained`].
    pub fn drain(&mut self, now: Instant) {
        unimplemented!()
    }
    /// Whether a drain is going on or complete.
    pub fn is_draining(&self) -> bool {
        unimplemented!()
    }
    pub fn id(&self) -> MemberId {
        unimplemented!()
    }
    pub fn boot_id(&self) -> [u8; 16] {
        unimplemented!()
    }
    pub fn is_ingress(&self) -> bool {
        unimplemented!()
    }
    /// Own addresses as they are now (DHCP may have added one).
    pub fn addresses(&self) -> Vec<IpAddr> {
        unimplemented!()
    }
    pub fn members(&self) -> Vec<MemberStatus> {
        unimplemented!()
    }
    pub fn sessions(&self) -> Vec<SessionStatus> {
        unimplemented!()
    }
    /// The last finished moves, oldest first (bounded).
    pub fn moves(&self) -> Vec<MoveReport> {
        unimplemented!()
    }
    /// Every counter of every room, by name.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        unimplemented!()
    }

    // --- a session's side (connections are numbered from 0 within the session) -------------------
    /// Schema version and bytes of the last committed state; `None` for a new session.
    pub fn committed_state(&self, session: SessionId) -> Option<(u32, Bytes)> {
        unimplemented!()
    }
    /// The client's end of a connection.
    pub fn remote_address(&self, session: SessionId, conn: u16) -> Option<SocketAddr> {
        unimplemented!()
    }
    /// Unread input from the first byte not yet consumed (committed or not).
    pub fn read(&self, session: SessionId, conn: u16) -> Result<Input, SessionError> {
        unimplemented!()
    }
    /// Count `octets` of input as consumed; takes effect at the next commit.
    pub fn consume(
        &mut self,
        session: SessionId,
        conn: u16,
        octets: usize,
    ) -> Result<(), SessionError> {
        unimplemented!()
    }
    /// Note that the end of input has been read; takes effect at the next commit.
    pub fn consume_end(&mut self, session: SessionId, conn: u16) -> Result<(), SessionError> {
        unimplemented!()
    }
    /// Add output, held back until the next commit.
    pub fn write(
        &mut self,
        session: SessionId,
        conn: u16,
        data: Bytes,
    ) -> Result<(), SessionError> {
        unimplemented!()
    }
    /// Octets of output that can still be written before a commit is needed.
    pub fn write_room(&self, session: SessionId, conn: u16) -> Result<usize, SessionError> {
        unimplemented!()
    }
    /// Close the output direction after what was written; takes effect at the next commit.
    pub fn shutdown(&mut self, session: SessionId, conn: u16) -> Result<(), SessionError> {
        unimplemented!()
    }
    /// Apply input consumed, output produced and `state`, at once.
    pub fn commit(
        &mut self,
        now: Instant,
        session: SessionId,
        state: Bytes,
    ) -> Result<(), SessionError> {
        unimplemented!()
    }
    /// Whether the committed output still queued is below the send buffer (where a commit's
    /// back-pressure waits).
    pub fn send_ready(&self, session: SessionId) -> Result<bool, SessionError> {
        unimplemented!()
    }
    /// The service is done: commit and close gracefully. The session lives on, and can move,
    /// until its connections are closed.
    pub fn finish(
        &mut self,
        now: Instant,
        session: SessionId,
        state: Bytes,
    ) -> Result<(), SessionError> {
        unimplemented!()
    }
    /// The service failed: reset the session's connections.
    pub fn abort(&mut self, now: Instant, session: SessionId) {
        unimplemented!()
    }
}
