//! Explicit congestion notification (RFC 3168).

use super::connection::{Connection, EcnMode};
use super::recovery::Phase;
use super::segment::{Ecn, Flags, Segment};
use crate::seq::SeqNumber;

/// ECN on one connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct EcnState {
    /// Agreed on in the handshake.
    pub agreed: bool,
    /// Every acknowledgement carries ECE until the peer says CWR (section 6.1.3).
    pub echo: bool,
    /// The next new data carries CWR: our window was reduced (section 6.1.2).
    pub reduced: bool,
    /// SND.NXT at the last reduction: once per round trip.
    pub point: Option<SeqNumber>,
}

impl Connection {
    /// Flags that ask for ECN on our SYN. Not on a repeated one: something on the path may have
    /// dropped the first for them (section 6.1.1.1).
    pub(crate) fn ecn_request(&self) -> Flags {
        match self.options.ecn == EcnMode::Request && self.attempts == 0 {
            true => Flags::ECE | Flags::CWR,
            false => Flags::NONE,
        }
    }

    /// What the flags of a SYN-ACK say to our request.
    pub(crate) fn ecn_answered(&mut self, flags: Flags) {
        self.ecn.agreed = self.ecn_request() != Flags::NONE
            && flags.contains(Flags::ECE)
            && !flags.contains(Flags::CWR);
    }

    /// Look at the IP header and CWR of an acceptable segment with text.
    pub(crate) fn note_congestion(&mut self, segment: &Segment) {
        if !self.ecn.agreed || segment.payload.is_empty() {
            return;
        }
        if segment.flags.contains(Flags::CWR) {
            self.ecn.echo = false;
        }
        if segment.ecn == Ecn::Congestion {
            self.counters.congestion_marks += 1;
            self.ecn.echo = true;
            self.owed.ack = true;
        }
    }

    /// An acknowledgement of `outstanding` octets or less. Returns whether it echoes congestion.
    pub(crate) fn take_echo(&mut self, segment: &Segment, outstanding: u32) -> bool {
        if !self.ecn.agreed {
            return false;
        }
        if self.ecn.point.is_some_and(|point| segment.ack.after(point)) {
            self.ecn.point = None;
        }
        let echoed = segment.flags.contains(Flags::ECE);
        if echoed
            && self.ecn.point.is_none()
            && self.recovery.phase == Phase::Open
            && outstanding > 0
        {
            self.counters.ecn_reductions += 1;
            self.congestion.reduce(u32::from(self.mss()));
            self.on_reduction();
        }
        echoed
    }

    /// The window was reduced, for whatever reason: the peer is to know.
    pub(crate) fn on_reduction(&mut self) {
        if self.ecn.agreed {
            self.ecn.reduced = true;
            self.ecn.point = Some(self.snd.nxt);
        }
    }
}
