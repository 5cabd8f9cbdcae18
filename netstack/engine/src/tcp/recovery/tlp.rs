//! Tail loss probes (RFC 8985 section 7): when acknowledgements stop, a probe soon finds out
//! whether the tail was lost, so that the retransmission time-out need not.

use super::super::rtt::RttEstimator;
use crate::seq::SeqNumber;
use crate::time::Duration;

/// The probe in flight, if any.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tlp {
    /// SND.NXT after the probe (TLP.end_seq).
    pub end: Option<SeqNumber>,
    /// Whether the probe was a retransmission (TLP.is_retrans).
    pub retransmission: bool,
    /// A probe is due and waits to be transmitted.
    pub due: bool,
}

/// What an acknowledgement says about the probe (section 7.4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Nothing yet, or no probe.
    Pending,
    /// The episode ended and nothing was lost.
    Harmless,
    /// The probe repaired a loss: the path was congested.
    Repaired,
}

impl Tlp {
    /// Take in an acknowledgement.
    pub fn on_ack(&mut self, ack: SeqNumber, duplicate_at_end: bool, dsack: bool) -> Verdict {
        let Some(end) = self.end else {
            return Verdict::Pending;
        };
        if ack.before(end) {
            return Verdict::Pending;
        }
        if !self.retransmission || dsack || duplicate_at_end {
            self.end = None;
            return Verdict::Harmless;
        }
        if ack.after(end) {
            self.end = None;
            return Verdict::Repaired;
        }
        Verdict::Pending
    }
}

/// The probe time-out (section 7.2): two round trips, and the peer's acknowledgement delay when a
/// lone segment is out, which it will not acknowledge at once.
pub(crate) fn timeout(rtt: &RttEstimator, alone: bool, peer_delay: Duration) -> Duration {
    let timeout = match rtt.srtt() {
        Some(srtt) => srtt * 2 + Duration::from_millis(2),
        None => super::super::rtt::INITIAL_RTO,
    };
    match alone {
        true => timeout + peer_delay,
        false => timeout,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_that_repaired_a_loss_is_told_from_a_needless_one() {
        let end = SeqNumber::new(100);
        let probe = Tlp {
            end: Some(end),
            retransmission: true,
            due: false,
        };
        let verdict =
            |ack: SeqNumber, duplicate, dsack| probe.clone().on_ack(ack, duplicate, dsack);
        assert_eq!(verdict(end.sub(1), false, false), Verdict::Pending);
        assert_eq!(verdict(end, false, false), Verdict::Pending);
        assert_eq!(verdict(end, false, true), Verdict::Harmless);
        assert_eq!(verdict(end, true, false), Verdict::Harmless);
        assert_eq!(verdict(end.add(10), false, false), Verdict::Repaired);
    }
}
