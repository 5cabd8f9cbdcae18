//! Connection states (RFC 9293 section 3.3.2).

use serde::{Deserialize, Serialize};

/// The state of a connection. LISTEN and a passive SYN-RECEIVED are not here: they are
/// [`super::HalfOpen`]'s.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum State {
    /// Our SYN is out.
    SynSent,
    /// Both SYNs crossed (simultaneous open); ours is not acknowledged yet.
    SynReceived,
    /// Open in both directions.
    Established,
    /// We have closed; our FIN is not acknowledged yet.
    FinWait1,
    /// We have closed and the peer acknowledged it; it may still send.
    FinWait2,
    /// The peer has closed; we may still send.
    CloseWait,
    /// Both have closed; our FIN is not acknowledged yet.
    Closing,
    /// The peer closed, then we did; our FIN is not acknowledged yet.
    LastAck,
    /// All is done; late segments are waited for.
    TimeWait,
    /// Nothing is left.
    Closed,
}

impl State {
    /// The name RFC 9293 gives it.
    pub const fn name(self) -> &'static str {
        match self {
            State::SynSent => "SYN-SENT",
            State::SynReceived => "SYN-RECEIVED",
            State::Established => "ESTABLISHED",
            State::FinWait1 => "FIN-WAIT-1",
            State::FinWait2 => "FIN-WAIT-2",
            State::CloseWait => "CLOSE-WAIT",
            State::Closing => "CLOSING",
            State::LastAck => "LAST-ACK",
            State::TimeWait => "TIME-WAIT",
            State::Closed => "CLOSED",
        }
    }

    /// Whether both sides know each other's sequence numbers: ESTABLISHED to TIME-WAIT, the
    /// states in which a connection can move.
    pub const fn is_synchronized(self) -> bool {
        !matches!(self, State::SynSent | State::SynReceived | State::Closed)
    }

    /// Whether we have sent our FIN or are about to, so nothing more can be written.
    pub const fn is_send_closed(self) -> bool {
        !matches!(
            self,
            State::SynSent | State::SynReceived | State::Established | State::CloseWait
        )
    }

    /// Whether the peer may still send octets we have not seen.
    pub const fn may_receive(self) -> bool {
        matches!(
            self,
            State::SynSent
                | State::SynReceived
                | State::Established
                | State::FinWait1
                | State::FinWait2
        )
    }
}
