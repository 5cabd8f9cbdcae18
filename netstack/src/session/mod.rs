//! Sessions: the unit that moves. Commit semantics over one or more connections.
//!
//! TCP knows nothing of commits. What a session reads stays in TCP's receive queue, and what it
//! writes stays out of TCP's send queue, until [`Session::commit`]: so a connection exported at
//! any moment is at the last commit by itself. [`Pending`] holds what is not committed,
//! [`Session`] the rest. Time, frames and moves are [`crate::instance`]'s concern.

mod by_session;
mod pending;
mod table;

use core::fmt;
use core::str::FromStr;

use alloc::vec::Vec;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use by_session::BySession;
pub use pending::{MAX_INPUT, MAX_OUTPUT, Output, Pending, Step};
pub use table::{Fence, Lull, Residence, Session, SessionConnection};

/// Octets of committed state at most.
pub const MAX_STATE: usize = 64 * 1024;
/// Connections of a session at most.
pub const MAX_CONNECTIONS: usize = 16;

/// Names a session for its whole life, across instances: who opened it, and its number there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct SessionId {
    /// The instance that opened it.
    pub origin: u32,
    /// Its number at that instance; unique over reboots (the high bits derive from the boot id).
    pub number: u64,
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.origin, self.number)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SessionId {
    type Err = InvalidSessionId;

    fn from_str(text: &str) -> Result<SessionId, InvalidSessionId> {
        let (origin, number) = text.split_once('-').ok_or(InvalidSessionId)?;
        Ok(SessionId {
            origin: origin.parse().map_err(|_| InvalidSessionId)?,
            number: u64::from_str_radix(number, 16).map_err(|_| InvalidSessionId)?,
        })
    }
}

/// SHA-256 of octets that a state may name without holding them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContentId(pub [u8; 32]);

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a service knows of its sessions' states. To an instance they are octets.
pub trait States {
    /// The contents that must be here for a session with this committed state to be served; `None`
    /// if the state does not decode.
    fn names(&self, version: u32, state: &[u8]) -> Option<Vec<ContentId>>;

    /// A content that the service brings along.
    fn content(&self, id: &ContentId) -> Option<Bytes>;
}

/// A text that names no session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidSessionId;

impl fmt::Display for InvalidSessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a session is named like 1-00000000002a")
    }
}

impl core::error::Error for InvalidSessionId {}

/// What a read finds beyond the input already consumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Unread bytes; the slice is shared, not copied.
    Data(Bytes),
    /// Nothing yet.
    Pending,
    /// The client has closed its direction and everything before that was consumed.
    End,
}

/// Why a session operation failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SessionError {
    /// No such session here (it moved away, or ended).
    Gone,
    /// The session has no connection with that number.
    NoConnection,
    /// The bound of uncommitted input or output is reached: commit first.
    CommitNeeded,
    /// The peer reset the connection.
    Reset,
    /// The connection timed out.
    TimedOut,
    /// This direction is already closed by us.
    Closed,
    /// The state is larger than a capsule may carry.
    StateTooLarge,
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SessionError::Gone => "the session is no longer here",
            SessionError::NoConnection => "the session has no such connection",
            SessionError::CommitNeeded => "too much uncommitted input or output: commit first",
            SessionError::Reset => "connection reset by peer",
            SessionError::TimedOut => "connection timed out",
            SessionError::Closed => "this direction is already closed",
            SessionError::StateTooLarge => "the session's state is too large to move",
        })
    }
}

impl core::error::Error for SessionError {}
