//! Taking back a reduction that was no loss: by timestamps (Eifel, RFC 3522 and 4015) or because
//! the peer got every retransmitted octet twice (DSACK, RFC 3708).

use super::super::options::SackRange;
use crate::seq::SeqNumber;

/// What has to be remembered of an episode to undo it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Undo {
    /// SND.UNA when the episode began; `None` when there is nothing to undo.
    pub from: Option<SeqNumber>,
    /// SND.NXT when the episode ended: duplicates are reported within a round trip of it.
    pub until: Option<SeqNumber>,
    /// Window before.
    pub cwnd: u32,
    /// Threshold before.
    pub ssthresh: u32,
    /// TSval of the episode's first retransmission.
    pub stamp: Option<u32>,
    /// Whether anything was retransmitted in the episode.
    pub retransmitted: bool,
    /// Retransmitted octets not reported as duplicates yet.
    pub unreported: u32,
}

impl Undo {
    /// An episode begins.
    pub fn begin(from: SeqNumber, cwnd: u32, ssthresh: u32) -> Undo {
        Undo {
            from: Some(from),
            until: None,
            cwnd,
            ssthresh,
            stamp: None,
            retransmitted: false,
            unreported: 0,
        }
    }

    /// `len` octets were retransmitted at TSval `stamp`.
    pub fn on_retransmit(&mut self, len: u32, stamp: Option<u32>) {
        if self.from.is_some() {
            if !self.retransmitted {
                self.stamp = stamp;
            }
            self.retransmitted = true;
            self.unreported = self.unreported.saturating_add(len);
        }
    }

    /// The peer reported a duplicate.
    pub fn on_duplicate(&mut self, range: SackRange) {
        if self.from.is_some_and(|from| range.start.at_or_after(from)) {
            self.unreported = self
                .unreported
                .saturating_sub(range.end.distance_from(range.start));
        }
    }

    /// SND.UNA is `una` now: a round trip after its end the episode is beyond doubt.
    pub fn on_progress(&mut self, una: SeqNumber) {
        if self.until.is_some_and(|until| una.after(until)) {
            *self = Undo::default();
        }
    }

    /// Whether the episode turns out needless, by an ACK that echoes `echo`.
    pub fn is_needless(&self, echo: Option<u32>) -> bool {
        if self.from.is_none() || !self.retransmitted {
            return false;
        }
        let early = match (self.stamp, echo) {
            (Some(stamp), Some(echo)) => (echo.wrapping_sub(stamp) as i32) < 0,
            _ => false,
        };
        early || self.unreported == 0
    }
}
