//! The capsule: a session as octets, the only form in which it crosses machines.
//!
//! [`Capsule`] is what every version means; a version's module turns it into octets and back.
//! [`v1`] is the only one so far. A capsule is refused with a [`CapsuleError`] and never trusted:
//! what is inside a connection's state is checked again by [`crate::tcp`] at the import.

pub mod v1;

use alloc::boxed::Box;
use alloc::vec::Vec;

use bytes::Bytes;

use super::rope::Rope;
use super::transfer::RefuseReason;
use crate::session::SessionId;
use crate::stack::{FlowKey, MacAddr};
use crate::tcp::ConnectionState;

/// How many octets at the front of a connection's queues are not in the capsule: they went ahead of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ahead {
    /// Of the send queue, from SND.UNA on.
    pub send: u32,
    /// Of what is unread.
    pub unread: u32,
}

/// One connection of a session.
#[derive(Clone, Debug)]
pub struct CapsuleConnection {
    /// The MAC address its frames went to, so that the first one need not wait for ARP or NDP.
    pub next_hop: Option<MacAddr>,
    /// The session has read the end of input.
    pub end_read: bool,
    /// The session has closed the output direction.
    pub shut_down: bool,
    /// What went ahead. Encoding leaves it out of `tcp`'s queues, and after decoding it is missing there.
    pub ahead: Ahead,
    /// The connection itself.
    pub tcp: ConnectionState,
}

impl CapsuleConnection {
    /// Its two ends.
    pub fn flow(&self) -> FlowKey {
        FlowKey {
            local: self.tcp.header.local,
            remote: self.tcp.header.remote,
        }
    }
}

/// A session at its last commit.
#[derive(Clone, Debug)]
pub struct Capsule {
    /// Its name.
    pub session: SessionId,
    /// The epoch its next owner owns it under.
    pub epoch: u64,
    /// The name of its service.
    pub service: Box<str>,
    /// Schema version and octets of the committed state, unless nothing was committed.
    pub state: Option<(u32, Bytes)>,
    /// The service is done with it: only its connections are still to be closed.
    pub finished: bool,
    /// Its connections, numbered from 0.
    pub connections: Vec<CapsuleConnection>,
}

/// Why octets are no capsule, or a session does not fit into one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum CapsuleError {
    /// A version this image does not know.
    UnknownVersion,
    /// It ends before it should.
    Truncated,
    /// The check sum is wrong.
    Damaged,
    /// Something is larger than allowed.
    Oversize,
    /// It does not parse, or contradicts itself, or octets follow it.
    Malformed,
}

impl From<CapsuleError> for RefuseReason {
    fn from(error: CapsuleError) -> RefuseReason {
        match error {
            CapsuleError::UnknownVersion => RefuseReason::UnknownVersion,
            CapsuleError::Truncated => RefuseReason::Truncated,
            CapsuleError::Damaged => RefuseReason::Damaged,
            CapsuleError::Oversize => RefuseReason::Oversize,
            CapsuleError::Malformed => RefuseReason::Malformed,
        }
    }
}

impl Capsule {
    /// The capsule as octets of the newest version. Payload is shared, not copied.
    pub fn encode(&self) -> Result<Rope, CapsuleError> {
        v1::encode(self)
    }

    /// The capsule in `octets`, of whichever version.
    pub fn decode(octets: Rope) -> Result<Capsule, CapsuleError> {
        let mut version = [0];
        match octets.peek(&mut version) {
            0 => Err(CapsuleError::Truncated),
            _ if version == [v1::VERSION] => v1::decode(octets),
            _ => Err(CapsuleError::UnknownVersion),
        }
    }
}
