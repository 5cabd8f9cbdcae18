//! The description of a connection without its octets: plain values that mean the same on every
//! machine. No point in time is in it, only ages and remaining times at the moment of the export.

use alloc::vec::Vec;
use core::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::super::{Cookie, Counters, Phase, SocketOptions, State};
use crate::seq::SeqNumber;
use crate::time::Duration;

/// Everything about a connection but the octets in its queues.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionHeader {
    /// Our end.
    pub local: SocketAddr,
    /// The peer's end.
    pub remote: SocketAddr,
    /// The state: ESTABLISHED to TIME-WAIT.
    pub state: State,
    /// What the application chose.
    pub options: SocketOptions,
    /// Octets of an IP packet the path carries, as known.
    pub path_mtu: u16,
    /// The search for a larger packet size, if one is on.
    pub search: Option<SearchHeader>,
    /// Explicit congestion notification.
    pub ecn: EcnHeader,
    /// The peer's user timeout option as on the wire; 0 without.
    pub peer_timeout: u16,
    /// The network said that the peer cannot be reached.
    pub soft_error: bool,
    /// Whether SACK was agreed on.
    pub sack: bool,
    /// Timestamps, if agreed on.
    pub timestamps: Option<TimestampHeader>,
    /// The send side.
    pub snd: SndHeader,
    /// The receive side.
    pub rcv: RcvHeader,
    /// Round-trip estimator.
    pub rtt: RttHeader,
    /// Congestion control.
    pub congestion: CongestionHeader,
    /// Loss recovery.
    pub recovery: RecoveryHeader,
    /// Timers.
    pub timers: TimersHeader,
    /// What waits to be transmitted besides octets.
    pub owed: OwedHeader,
    /// Time-outs or probes in a row that nothing was heard after.
    pub attempts: u8,
    /// Time since the peer was last heard.
    pub heard_age: Duration,
    /// Time since SND.UNA last moved, if octets are outstanding, or since the window was closed, if some wait.
    pub progress_age: Option<Duration>,
    /// Counters.
    pub counters: Counters,
}

impl ConnectionHeader {
    /// The numbers of its handshake, whether or not ours is a cookie.
    pub fn handshake(&self) -> Cookie {
        Cookie {
            irs: self.rcv.irs,
            iss: self.snd.iss,
        }
    }
}

/// RFC 7323 timestamps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimestampHeader {
    /// TSval of a segment that had left at the export. The next owner counts on from it.
    pub value: u32,
    /// TS.Recent.
    pub recent: u32,
    /// Its age.
    pub recent_age: Duration,
}

/// A search for what the path carries (RFC 4821). Sizes are octets of an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchHeader {
    /// Nothing larger can pass.
    pub high: u16,
    /// Time until the next probe may leave.
    pub next: Duration,
    /// The probe in flight: first octet and size.
    pub probe: Option<(SeqNumber, u16)>,
    /// What ICMP claims: the segment it quotes, and the size.
    pub claim: Option<(SeqNumber, u16)>,
}

/// Explicit congestion notification (RFC 3168).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EcnHeader {
    /// Agreed on in the handshake.
    pub agreed: bool,
    /// Acknowledgements carry ECE.
    pub echo: bool,
    /// The next new octets carry CWR.
    pub reduced: bool,
    /// SND.NXT at the last reduction.
    pub point: Option<SeqNumber>,
}

/// How far our end of the stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SndEnd {
    /// Not closed.
    Open,
    /// FIN follows the queue.
    Queued,
    /// FIN was transmitted and takes the last outstanding sequence number.
    Sent,
    /// FIN was acknowledged.
    Acknowledged,
}

/// The send side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SndHeader {
    /// ISS.
    pub iss: SeqNumber,
    /// SND.UNA.
    pub una: SeqNumber,
    /// SND.NXT.
    pub nxt: SeqNumber,
    /// SND.WND, scaled.
    pub window: u32,
    /// SND.WL1.
    pub wl1: SeqNumber,
    /// SND.WL2.
    pub wl2: SeqNumber,
    /// Largest window ever offered.
    pub max_window: u32,
    /// Snd.Wind.Shift.
    pub scale: u8,
    /// The peer's MSS option.
    pub peer_mss: u16,
    /// Stream offset of SND.UNA: octets acknowledged so far.
    pub offset: u64,
    /// Our end of the stream.
    pub end: SndEnd,
    /// What is outstanding, from SND.UNA to SND.NXT without gaps.
    pub sent: Vec<SentHeader>,
    /// Octets duplicate ACKs say have left the network (without SACK).
    pub reno_sacked: u32,
    /// Time since octets were last transmitted.
    pub last_sent_age: Option<Duration>,
    /// Time until paced octets may leave.
    pub pace: Option<Duration>,
    /// Payload of the largest segment acknowledged.
    pub largest_acked: u16,
    /// Whether the congestion window held octets back.
    pub cwnd_limited: bool,
}

/// A transmitted stretch of sequence space.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SentHeader {
    /// Sequence numbers taken, FIN counted.
    pub len: u32,
    /// Time since its last transmission.
    pub age: Duration,
    /// Retransmissions so far.
    pub retransmits: u8,
    /// Bits: 1 SACKed, 2 lost, 4 retransmission in flight, 8 ever retransmitted, 16 ends with FIN,
    /// 32 sent before a move.
    pub marks: u8,
}

/// How far the peer's end of the stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RcvEnd {
    /// No FIN seen.
    Open,
    /// FIN seen at this sequence number, octets before it are missing.
    Ahead(SeqNumber),
    /// Everything up to and with FIN has arrived.
    Received,
}

/// The receive side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RcvHeader {
    /// IRS.
    pub irs: SeqNumber,
    /// RCV.NXT.
    pub nxt: SeqNumber,
    /// The right edge as advertised.
    pub edge: SeqNumber,
    /// Rcv.Wind.Shift.
    pub scale: u8,
    /// Octets the window is made from.
    pub buffer: u32,
    /// Stream offset of RCV.NXT: octets received in order so far.
    pub offset: u64,
    /// The peer's end of the stream.
    pub end: RcvEnd,
    /// Last.ACK.sent.
    pub last_ack: SeqNumber,
    /// A duplicate to be reported with the next ACK: start and end.
    pub duplicate: Option<(SeqNumber, SeqNumber)>,
    /// Octets received since the last ACK.
    pub unacked: u32,
    /// Largest payload of a segment so far.
    pub full_size: u16,
    /// Segments still acknowledged at once.
    pub quick: u8,
    /// Nobody reads any more.
    pub discard: bool,
    /// Octets were dropped for that.
    pub lost: bool,
}

/// Round-trip estimator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RttHeader {
    /// SRTT.
    pub srtt: Option<Duration>,
    /// RTTVAR.
    pub rttvar: Duration,
    /// Doublings of the time-out.
    pub backoff: u32,
    /// Smallest sample and its age.
    pub min: Option<(Duration, Duration)>,
}

/// Congestion control.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CongestionHeader {
    /// Congestion window in octets.
    pub cwnd: u32,
    /// Slow-start threshold in octets.
    pub ssthresh: u32,
    /// The algorithm with its private state.
    pub algorithm: AlgorithmHeader,
    /// HyStart++, in the first slow start once it has measured.
    pub hystart: Option<HyStartHeader>,
}

/// HyStart++ (RFC 9406 section 4). Times are microseconds, the largest number is infinity.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct HyStartHeader {
    /// windowEnd.
    pub end: SeqNumber,
    /// lastRoundMinRTT.
    pub last: u32,
    /// currentRoundMinRTT.
    pub current: u32,
    /// cssBaselineMinRtt.
    pub baseline: u32,
    /// rttSampleCount.
    pub samples: u8,
    /// Rounds of conservative slow start.
    pub rounds: u8,
}

/// An algorithm's private state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum AlgorithmHeader {
    /// RFC 9438.
    Cubic {
        /// W_max in octets.
        w_max: u32,
        /// cwnd_prior in octets.
        prior: u32,
        /// Age of the stage of avoidance.
        epoch_age: Option<Duration>,
        /// K in milliseconds.
        k_ms: u64,
        /// W_est in 1/1024 octets.
        w_est: u64,
        /// Growth owed, times the window.
        credit: u64,
        /// For how long the window has been left unused.
        paused_age: Option<Duration>,
    },
    /// RFC 5681.
    NewReno {
        /// Growth owed, times the window.
        credit: u32,
    },
}

/// Loss recovery.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecoveryHeader {
    /// Where recovery stands.
    pub phase: Phase,
    /// RecoveryPoint.
    pub point: SeqNumber,
    /// RACK.
    pub rack: RackHeader,
    /// Tail loss probe.
    pub tlp: TlpHeader,
    /// PRR: octets delivered, octets sent, octets in flight at the start.
    pub prr: (u32, u32, u32),
    /// What it takes to undo the episode.
    pub undo: UndoHeader,
    /// Duplicate ACKs in a row.
    pub duplicate_acks: u32,
}

/// RACK (RFC 8985 section 5.3).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RackHeader {
    /// Age of RACK.xmit_ts.
    pub xmit_age: Option<Duration>,
    /// RACK.end_seq.
    pub end: SeqNumber,
    /// RACK.rtt.
    pub rtt: Duration,
    /// RACK.fack.
    pub fack: SeqNumber,
    /// RACK.reordering_seen.
    pub reordering_seen: bool,
    /// RACK.dsack_round.
    pub dsack_round: Option<SeqNumber>,
    /// RACK.reo_wnd_mult.
    pub multiplier: u8,
    /// RACK.reo_wnd_persist.
    pub persist: u8,
}

/// Tail loss probe (RFC 8985 section 5.4).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TlpHeader {
    /// TLP.end_seq.
    pub end: Option<SeqNumber>,
    /// TLP.is_retrans.
    pub retransmission: bool,
    /// A probe was due and not transmitted.
    pub due: bool,
}

/// What it takes to undo a reduction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UndoHeader {
    /// SND.UNA when the episode began.
    pub from: Option<SeqNumber>,
    /// Window before.
    pub cwnd: u32,
    /// Threshold before.
    pub ssthresh: u32,
    /// SND.NXT when the episode ended.
    pub until: Option<SeqNumber>,
    /// TSval of the first retransmission.
    pub stamp: Option<u32>,
    /// Whether anything was retransmitted.
    pub retransmitted: bool,
    /// Retransmitted octets not reported as duplicates.
    pub unreported: u32,
}

/// Timers as remaining times; `None` is not armed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimersHeader {
    /// Retransmission time-out.
    pub retransmit: Option<Duration>,
    /// Probe time-out.
    pub probe: Option<Duration>,
    /// RACK's reordering timer.
    pub reorder: Option<Duration>,
    /// Zero-window probe.
    pub persist: Option<Duration>,
    /// Delayed ACK.
    pub delayed_ack: Option<Duration>,
    /// End of TIME-WAIT or FIN-WAIT-2.
    pub linger: Option<Duration>,
    /// Keepalive.
    pub keepalive: Option<Duration>,
}

/// What waits to be transmitted besides octets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OwedHeader {
    /// An ACK.
    pub ack: bool,
    /// Further duplicate ACKs (without SACK).
    pub duplicate_acks: u8,
    /// A window or keepalive probe.
    pub probe: bool,
    /// The silly-window override fired.
    pub push: bool,
    /// The user timeout option.
    pub user_timeout: bool,
}
