//! The transfer: two machines, without IO, that never let two instances own a session.
//!
//! ```text
//! source: freeze            -> Transfer { session, epoch + 1, capsule }
//! target: validate, import  -> Accepted | Refused(reason)
//! source: Accepted: drop the frozen copy, keep a tombstone     Refused: thaw
//! ```
//!
//! [`Source`] is one attempt at its source, [`Epochs`] what a target remembers of all attempts.
//! The argument, in three steps:
//!
//! 1. An epoch is used for one attempt only, from one source to one boot of one target: a source
//!    counts up at every attempt, and only an owner can be a source.
//! 2. A target decides about an epoch once. An answer that denies (`Refused`, `NotOwner`) burns
//!    the epoch and all lower ones: a capsule that arrives later is not imported. An answer that
//!    affirms (`Accepted`, `Owned`) is given again and again, also long after the session went on
//!    from there, because a source that asks about an epoch can have gone on to a higher one only
//!    if this one was denied.
//! 3. A source thaws on a denial only. On silence it stays frozen and silent. If the target's boot
//!    is over, so is the session: it may have been imported and may have acknowledged octets that
//!    the frozen copy knows nothing of.

mod source;
mod target;

use serde::{Deserialize, Serialize};

use crate::session::ContentId;

pub use source::{Answer, Phase, Source, Verdict};
pub use target::{Decision, Epochs, MAX_REMEMBERED, Memory};

/// Why a target does not take a session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RefuseReason {
    /// Meant for another boot or another channel.
    Void,
    /// The epoch was denied before, or is lower than one that was.
    EpochBurned,
    /// The capsule's version is unknown here.
    UnknownVersion,
    /// The capsule ends too early.
    Truncated,
    /// The capsule's check sum is wrong.
    Damaged,
    /// The capsule, or something in it, is larger than allowed.
    Oversize,
    /// The capsule does not parse.
    Malformed,
    /// The capsule and the transfer name different sessions.
    Mismatch,
    /// No service of that name here, or one that does not take sessions.
    NoService,
    /// The state's schema version is not readable here.
    StateVersion,
    /// No room for another session.
    Capacity,
    /// This instance is leaving.
    Draining,
    /// The session's address is not served here.
    NoAddress,
    /// A connection with the same ends is here already.
    Occupied,
    /// A connection's state contradicts itself.
    BadConnection,
    /// The receive window already advertised does not fit here.
    Window,
    /// Octets that should have come ahead of the capsule are not here.
    Ahead,
    /// The state's schema version is readable here, the state is not.
    BadState,
    /// The state names a content that is not here.
    Content(ContentId),
}

impl RefuseReason {
    /// The reason in words.
    pub fn as_str(self) -> &'static str {
        match self {
            RefuseReason::Void => "meant for another boot or channel",
            RefuseReason::EpochBurned => "epoch burned",
            RefuseReason::UnknownVersion => "capsule version unknown",
            RefuseReason::Truncated => "capsule truncated",
            RefuseReason::Damaged => "capsule damaged",
            RefuseReason::Oversize => "capsule oversized",
            RefuseReason::Malformed => "capsule malformed",
            RefuseReason::Mismatch => "capsule of another session",
            RefuseReason::NoService => "no such service",
            RefuseReason::StateVersion => "state version unknown",
            RefuseReason::Capacity => "over capacity",
            RefuseReason::Draining => "draining",
            RefuseReason::NoAddress => "address not served",
            RefuseReason::Occupied => "flow in use",
            RefuseReason::BadConnection => "connection state invalid",
            RefuseReason::Window => "receive window too large",
            RefuseReason::Ahead => "octets sent ahead are missing",
            RefuseReason::BadState => "state does not decode",
            RefuseReason::Content(_) => "content missing",
        }
    }

    /// Its counter.
    pub fn counter(self) -> &'static str {
        match self {
            RefuseReason::Void => "transfer_refused_void",
            RefuseReason::EpochBurned => "transfer_refused_epoch",
            RefuseReason::UnknownVersion => "transfer_refused_unknown_version",
            RefuseReason::Truncated => "transfer_refused_truncated",
            RefuseReason::Damaged => "transfer_refused_damaged",
            RefuseReason::Oversize => "transfer_refused_oversize",
            RefuseReason::Malformed => "transfer_refused_malformed",
            RefuseReason::Mismatch => "transfer_refused_mismatch",
            RefuseReason::NoService => "transfer_refused_no_service",
            RefuseReason::StateVersion => "transfer_refused_state_version",
            RefuseReason::Capacity => "transfer_refused_capacity",
            RefuseReason::Draining => "transfer_refused_draining",
            RefuseReason::NoAddress => "transfer_refused_no_address",
            RefuseReason::Occupied => "transfer_refused_occupied",
            RefuseReason::BadConnection => "transfer_refused_bad_connection",
            RefuseReason::Window => "transfer_refused_window",
            RefuseReason::Ahead => "transfer_refused_ahead",
            RefuseReason::BadState => "transfer_refused_bad_state",
            RefuseReason::Content(_) => "transfer_refused_content",
        }
    }
}
