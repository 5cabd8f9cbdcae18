//! Loss recovery: RACK-TLP (RFC 8985) with PRR (RFC 6937), duplicate-ACK counting for peers
//! without SACK (RFC 6582), and taking back what was no loss (RFC 3522, RFC 3708).

pub(crate) mod prr;
pub(crate) mod rack;
pub(crate) mod tlp;
pub(crate) mod undo;

use serde::{Deserialize, Serialize};

use crate::seq::SeqNumber;
use prr::Prr;
use rack::Rack;
use tlp::Tlp;
use undo::Undo;

/// Duplicate ACKs that make a loss, without SACK (RFC 5681 section 3.2).
pub(crate) const DUPLICATE_THRESHOLD: u16 = 3;

/// Where recovery stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Phase {
    /// Nothing is known to be lost.
    #[default]
    Open,
    /// Fast recovery: losses are being repaired while acknowledgements come in.
    Recovery,
    /// After a retransmission time-out.
    Loss,
}

/// Loss recovery of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Recovery {
    pub phase: Phase,
    /// RecoveryPoint: SND.NXT when the episode began; it ends when this is acknowledged. Without SACK the
    /// next begins only once more than this is (`recover` of RFC 6582, and one).
    pub point: SeqNumber,
    pub rack: Rack,
    pub tlp: Tlp,
    pub prr: Prr,
    pub undo: Undo,
    /// Duplicate ACKs in a row (peers without SACK).
    pub duplicate_acks: u16,
}

impl Recovery {
    pub fn new(iss: SeqNumber) -> Recovery {
        Recovery {
            phase: Phase::Open,
            point: iss,
            rack: Rack::new(iss),
            tlp: Tlp::default(),
            prr: Prr::default(),
            undo: Undo::default(),
            duplicate_acks: 0,
        }
    }
}
