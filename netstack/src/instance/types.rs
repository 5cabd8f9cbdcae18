//! What an instance is told and what it tells.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, SocketAddr};

use crate::cluster::MemberId;
pub use crate::cluster::balance::{PolicyConfig, Trigger};
pub use crate::cluster::election::{Prefer, VoterStatus};
pub use crate::cluster::keys::{KeyError, KeyId};
pub use crate::cluster::lease::Times;
use crate::counts::Counts;
use crate::session::{SessionId, States};
use crate::stack::{Scope, StackConfig};
use crate::tcp::Info;
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
#[derive(Clone)]
pub struct InstanceConfig {
    /// This instance.
    pub id: MemberId,
    /// Addresses, device and TCP limits.
    pub stack: StackConfig,
    /// The other members.
    pub peers: Vec<Peer>,
    /// The member that stands first for the ingress role, among those of one priority.
    pub ingress: MemberId,
    /// How the ingress is elected.
    pub role: RoleConfig,
    /// Whether members are found that are not among `peers`.
    pub discover: Discover,
    /// Key all members share. Without it the instance has no channel and takes no sessions.
    pub cluster_key: Option<[u8; 32]>,
    /// How long a planned move waits before the freeze for a session's queues to become shorter
    /// ([`PATIENCE`] is a good value); zero freezes at once.
    pub patience: Duration,
}

impl fmt::Debug for InstanceConfig {
    // By hand: the key is nobody's business.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InstanceConfig")
            .field("id", &self.id)
            .field("stack", &self.stack)
            .field("peers", &self.peers)
            .field("ingress", &self.ingress)
            .field("role", &self.role)
            .field("discover", &self.discover)
            .field("patience", &self.patience)
            .finish_non_exhaustive()
    }
}

/// Whether members find each other by beacon.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Discover {
    /// There are the configured ones and no others (but those that a voter tells of).
    #[default]
    Off,
    /// This is a voter, as its peers are; others may be found, and are none.
    On,
    /// This is no voter: it wants to be found, and learns who votes. It has no peers.
    Join,
}

/// How the members elect who answers for the virtual addresses; the same at all of them but for
/// the priority.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoleConfig {
    /// This member's; the highest is elected first.
    pub priority: u8,
    /// Hand the role to a member of higher priority when that has come back.
    pub preempt: bool,
    /// What to prefer without a majority.
    pub prefer: Prefer,
    /// Members that vote and do nothing else; this one may be among them.
    pub witnesses: Vec<MemberId>,
    /// Lease and heartbeats.
    pub times: Times,
}

impl Default for RoleConfig {
    fn default() -> RoleConfig {
        RoleConfig {
            priority: 100,
            preempt: false,
            prefer: Prefer::Consistency,
            witnesses: Vec::new(),
            times: Times::default(),
        }
    }
}

/// The ingress role as an instance sees it.
#[derive(Clone, Debug)]
pub struct RoleStatus {
    /// Whether the instance may act as the ingress.
    pub acting: bool,
    /// Who is the ingress, if that is known.
    pub ingress: Option<MemberId>,
    /// The term, or the highest heard of.
    pub term: u64,
    /// How long it may act yet, if it is the ingress and there are others.
    pub lease: Option<Duration>,
    /// Who votes, and for how long yet a grant to this instance counts; none without others.
    pub voters: Vec<VoterStatus>,
}

/// What [`InstanceConfig::patience`] should be for most: longer than most round trips, and not so
/// long that anyone who waits for a move notices.
pub const PATIENCE: Duration = Duration::from_millis(100);

/// A service as the instance needs to know it.
#[derive(Clone)]
pub struct ServiceSpec {
    /// Its name: a capsule goes to the service of the same name.
    pub name: &'static str,
    /// The port it listens at.
    pub port: u16,
    /// The addresses it is reached by; [`Scope::Own`] services never move.
    pub scope: Scope,
    /// Version of the state it commits.
    pub state_version: u32,
    /// Oldest version of a state it can be started with.
    pub oldest_state: u32,
    /// What is asked about states before a session is taken in; without it any state of the right
    /// version will do.
    pub states: Option<Rc<dyn States>>,
}

impl ServiceSpec {
    /// Whether it can be started with states of this version.
    pub fn reads(&self, version: u32) -> bool {
        (self.oldest_state..=self.state_version).contains(&version)
    }
}

impl fmt::Debug for ServiceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceSpec")
            .field("name", &self.name)
            .field("port", &self.port)
            .field("scope", &self.scope)
            .field("reads", &(self.oldest_state..=self.state_version))
            .finish_non_exhaustive()
    }
}

/// A service of an [`Instance`](super::Instance).
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
    /// A drain was called off at its deadline: the instance serves on.
    DrainCancelled,
}

/// What becomes of sessions that have not moved when a drain's deadline comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DrainThen {
    /// They are tried on, however long it takes.
    Wait,
    /// They are reset, but for those in doubt, which are not ours to end; the drain goes on.
    #[default]
    Force,
    /// They stay, and the instance serves on: the drain is called off.
    Cancel,
}

/// How a drain goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DrainOptions {
    /// How long sessions may take to move.
    pub deadline: Duration,
    /// What comes then.
    pub then: DrainThen,
}

impl Default for DrainOptions {
    fn default() -> DrainOptions {
        DrainOptions {
            deadline: Duration::from_secs(60),
            then: DrainThen::default(),
        }
    }
}

/// How far a drain is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DrainStatus {
    /// Since when.
    pub since: Instant,
    /// As it was asked for.
    pub options: DrainOptions,
    /// What it waits for now.
    pub stage: &'static str,
    /// Sessions that have moved.
    pub moved: usize,
    /// Those of them that the ingress has not confirmed to be where they went; and what it steers
    /// to others, if it was we before.
    pub unconfirmed: usize,
    /// Connections that are being opened here.
    pub opening: usize,
    /// Sessions that have not moved, by what keeps them.
    pub left: Rc<Counts>,
    /// What had not been done when the deadline passed, if it has.
    pub overrun: Option<Rc<Counts>>,
}

/// Why a move or drain could not start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MoveError {
    /// No such session here.
    NoSession,
    /// No such member.
    NoMember,
    /// The channel to the member is not up, or nothing was heard from it of late.
    Unreachable,
    /// The session is already being moved, or belongs to a service that never moves.
    NotMovable,
    /// The member has no room for another session.
    NoRoom,
    /// More is queued than a capsule can hold.
    TooLarge,
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
    /// Time in which the queues ran empty before the freeze; the session was served meanwhile.
    pub lull: Duration,
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
    /// All that TCP tells of it.
    pub tcp: Info,
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
    /// The target of that transfer.
    pub target: Option<MemberId>,
    /// The other ends of its connections; a frozen session has them too.
    pub remotes: Vec<SocketAddr>,
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
    /// When something was last heard over it.
    pub heard: Instant,
    /// The last boot of it that was heard of.
    pub boot: Option<[u8; 16]>,
}

impl MoveError {
    /// The reason in words.
    pub fn as_str(self) -> &'static str {
        match self {
            MoveError::NoSession => "no such session here",
            MoveError::NoMember => "no such member",
            MoveError::Unreachable => "that member is not heard",
            MoveError::NoRoom => "that member has no room",
            MoveError::TooLarge => "more is queued, or in more pieces, than a capsule can hold",
            MoveError::NotMovable => "the session cannot be moved now",
        }
    }
}

impl fmt::Display for MoveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl core::error::Error for MoveError {}
