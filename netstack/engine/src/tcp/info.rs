//! [`Info`]: a connection as seen from outside, for status pages, checkers and tests.

use super::connection::Connection;
use super::counters::Counters;
use super::recovery::Phase;
use super::state::State;
use crate::seq::SeqNumber;
use crate::time::Duration;

/// A read-only view of one connection.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Info {
    /// The state.
    pub state: State,
    /// Congestion window in octets.
    pub cwnd: u32,
    /// Slow-start threshold in octets; `u32::MAX` before the first loss.
    pub ssthresh: u32,
    /// Smoothed round-trip time; `None` before the first sample.
    pub srtt: Option<Duration>,
    /// Mean deviation of the round-trip time.
    pub rttvar: Duration,
    /// Smallest round trip of the last minutes.
    pub min_rtt: Option<Duration>,
    /// Retransmission time-out as it stands, backoff included.
    pub rto: Duration,
    /// Octets per second new octets leave at; `None` where they are not paced.
    pub pacing_rate: Option<u64>,
    /// Whether loss is being repaired.
    pub phase: Phase,
    /// Whether the path was seen to reorder.
    pub reordering: bool,
    /// Octets of payload per segment.
    pub mss: u16,
    /// Octets of an IP packet the path carries, as known.
    pub pmtu: u16,
    /// Octets in flight.
    pub in_flight: u32,
    /// Octets the peer holds out of order.
    pub sacked: u32,
    /// Octets deemed lost.
    pub lost: u32,
    /// SND.UNA.
    pub snd_una: SeqNumber,
    /// SND.NXT.
    pub snd_nxt: SeqNumber,
    /// The peer's window.
    pub snd_wnd: u32,
    /// Shift of the windows the peer sends.
    pub snd_scale: u8,
    /// RCV.NXT.
    pub rcv_nxt: SeqNumber,
    /// Octets the receive window is made from, as they are now.
    pub receive_buffer: u32,
    /// Octets received in order and not consumed.
    pub unread: u32,
    /// Octets in the send queue, those outstanding included.
    pub send_queued: u32,
    /// Widening of RACK's reordering window, in quarters of the smallest round trip.
    pub reordering_window: u8,
    /// What is left of the window we advertised.
    pub rcv_wnd: u32,
    /// Octets received out of order.
    pub out_of_order: u32,
    /// Payload octets sent and acknowledged, over all owners.
    pub tx_bytes: u64,
    /// Payload octets received in order, over all owners.
    pub rx_bytes: u64,
    /// Whether SACK was agreed on.
    pub sack: bool,
    /// Whether timestamps were agreed on.
    pub timestamps: bool,
    /// Whether ECN was agreed on.
    pub ecn: bool,
    /// Counters, over all owners.
    pub counters: Counters,
}

impl Connection {
    /// The connection as seen from outside.
    pub fn info(&self) -> Info {
        Info {
            state: self.state,
            cwnd: self.congestion.cwnd,
            ssthresh: self.congestion.ssthresh,
            srtt: self.rtt.srtt(),
            rttvar: self.rtt.rttvar(),
            min_rtt: self.rtt.min_rtt(),
            rto: self.rtt.rto(),
            pacing_rate: self.pacing_rate(),
            phase: self.recovery.phase,
            reordering: self.recovery.rack.reordering_seen,
            mss: self.mss(),
            pmtu: self.path_mtu,
            in_flight: self.snd.in_flight(),
            sacked: self.snd.sacked,
            lost: self.snd.lost,
            snd_una: self.snd.una,
            snd_nxt: self.snd.nxt,
            snd_wnd: self.snd.window,
            snd_scale: self.snd.scale,
            rcv_nxt: self.rcv.nxt,
            receive_buffer: self.rcv.buffer,
            unread: self.rcv.queue.len() as u32,
            send_queued: self.snd.queue.len() as u32,
            reordering_window: self.recovery.rack.multiplier,
            rcv_wnd: self.rcv.window(),
            out_of_order: self.rcv.out_of_order(),
            tx_bytes: self.snd.queue.start(),
            rx_bytes: self.rcv.queue.end(),
            sack: self.sack,
            timestamps: self.timestamps.is_some(),
            ecn: self.ecn.agreed,
            counters: self.counters.into(),
        }
    }
}
