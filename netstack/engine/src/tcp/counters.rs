//! What a connection counts.

use core::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// Counters of one connection, over all its owners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Segments received.
    pub segments_in: u64,
    /// Segments sent (bursts left to the NIC to cut count once).
    pub segments_out: u64,
    /// Segments retransmitted.
    pub retransmits: u64,
    /// Retransmission time-outs.
    pub timeouts: u64,
    /// Tail loss probes sent.
    pub probes: u64,
    /// Fast recoveries begun.
    pub recoveries: u64,
    /// Reductions taken back.
    pub undos: u64,
    /// Duplicates reported by the peer.
    pub duplicates_reported: u64,
    /// Segments dropped by PAWS.
    pub paws: u64,
    /// Segments outside the window.
    pub out_of_window: u64,
    /// Challenge ACKs sent (RFC 5961).
    pub challenges: u64,
    /// Challenge ACKs held back by the limit.
    pub challenges_limited: u64,
    /// Segments whose acknowledgement was outside what we sent.
    pub bad_acks: u64,
    /// Segments that arrived out of order.
    pub out_of_order: u64,
    /// Segments received with a congestion mark (ECN).
    pub congestion_marks: u64,
    /// Reductions because the peer echoed congestion marks (ECN).
    pub ecn_reductions: u64,
    /// Path MTU probes sent (RFC 4821).
    pub mtu_probes: u64,
    /// How often the connection moved.
    pub moves: u32,
}

/// A count that stays at its largest value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count(u32);

impl AddAssign<u64> for Count {
    fn add_assign(&mut self, more: u64) {
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        self.0 = self.0.saturating_add(more);
    }
}

impl From<u64> for Count {
    fn from(count: u64) -> Count {
        Count(u32::try_from(count).unwrap_or(u32::MAX))
    }
}

impl From<Count> for u64 {
    fn from(count: Count) -> u64 {
        u64::from(count.0)
    }
}

/// [`Counters`] as a connection keeps them: what is rare in half the room.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub segments_in: u64,
    pub segments_out: u64,
    pub retransmits: Count,
    pub timeouts: Count,
    pub probes: Count,
    pub recoveries: Count,
    pub undos: Count,
    pub duplicates_reported: Count,
    pub paws: Count,
    pub out_of_window: Count,
    pub challenges: Count,
    pub challenges_limited: Count,
    pub bad_acks: Count,
    pub out_of_order: Count,
    pub congestion_marks: Count,
    pub ecn_reductions: Count,
    pub mtu_probes: Count,
    pub moves: u32,
}

impl From<Tally> for Counters {
    fn from(tally: Tally) -> Counters {
        let Tally {
            segments_in,
            segments_out,
            retransmits,
            timeouts,
            probes,
            recoveries,
            undos,
            duplicates_reported,
            paws,
            out_of_window,
            challenges,
            challenges_limited,
            bad_acks,
            out_of_order,
            congestion_marks,
            ecn_reductions,
            mtu_probes,
            moves,
        } = tally;
        Counters {
            segments_in,
            segments_out,
            retransmits: retransmits.into(),
            timeouts: timeouts.into(),
            probes: probes.into(),
            recoveries: recoveries.into(),
            undos: undos.into(),
            duplicates_reported: duplicates_reported.into(),
            paws: paws.into(),
            out_of_window: out_of_window.into(),
            challenges: challenges.into(),
            challenges_limited: challenges_limited.into(),
            bad_acks: bad_acks.into(),
            out_of_order: out_of_order.into(),
            congestion_marks: congestion_marks.into(),
            ecn_reductions: ecn_reductions.into(),
            mtu_probes: mtu_probes.into(),
            moves,
        }
    }
}

impl From<Counters> for Tally {
    fn from(counters: Counters) -> Tally {
        let Counters {
            segments_in,
            segments_out,
            retransmits,
            timeouts,
            probes,
            recoveries,
            undos,
            duplicates_reported,
            paws,
            out_of_window,
            challenges,
            challenges_limited,
            bad_acks,
            out_of_order,
            congestion_marks,
            ecn_reductions,
            mtu_probes,
            moves,
        } = counters;
        Tally {
            segments_in,
            segments_out,
            retransmits: retransmits.into(),
            timeouts: timeouts.into(),
            probes: probes.into(),
            recoveries: recoveries.into(),
            undos: undos.into(),
            duplicates_reported: duplicates_reported.into(),
            paws: paws.into(),
            out_of_window: out_of_window.into(),
            challenges: challenges.into(),
            challenges_limited: challenges_limited.into(),
            bad_acks: bad_acks.into(),
            out_of_order: out_of_order.into(),
            congestion_marks: congestion_marks.into(),
            ecn_reductions: ecn_reductions.into(),
            mtu_probes: mtu_probes.into(),
            moves,
        }
    }
}
