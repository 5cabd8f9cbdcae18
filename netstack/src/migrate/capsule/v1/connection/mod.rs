//! A connection's wire form in capsule v1, and its conversion from and to [`crate::tcp`]'s
//! description, which may grow while this does not.
//!
//! Made to be small: sequence numbers are distances (from SND.UNA, or RCV.NXT on the receive
//! side), ages and remaining times are whole microseconds (round-trip times keep nanoseconds),
//! flags share one number, and what an idle connection does not have is one absent option.
//!
//! Both conversions take structs apart without `..`: a field that TCP gains does not compile here
//! until someone has decided whether it needs a capsule v2.

mod decode;
mod encode;

use super::wire::{Capped, Reader, Wire, Writer, wire};
use crate::tcp::export::SndEnd;
use crate::tcp::{EcnMode, Phase, State};

/// Transmitted stretches listed at most.
const MAX_SENT: usize = 8192;
const _: () = assert!(crate::tcp::MAX_ENTRIES + crate::tcp::MAX_ENTRIES / 4 < MAX_SENT);
/// Out-of-order stretches at most.
const MAX_STRETCHES: usize = 1024;

enum Ends {
    V4([u8; 4], [u8; 4]),
    V6([u8; 16], [u8; 16]),
}

impl<'a> Wire<'a> for Ends {
    fn put(&self, out: &mut Writer) {
        match self {
            Ends::V4(local, remote) => (0u8, *local, *remote).put(out),
            Ends::V6(local, remote) => (1u8, *local, *remote).put(out),
        }
    }

    fn take(input: &mut Reader<'a>) -> Ends {
        match u8::take(input) {
            0 => Ends::V4(Wire::take(input), Wire::take(input)),
            1 => Ends::V6(Wire::take(input), Wire::take(input)),
            _ => {
                input.fail();
                Ends::V4([0; 4], [0; 4])
            }
        }
    }
}

wire! {
    pub(super) struct ConnectionV1 {
        /// Local and remote address.
        ends: Ends,
        /// Local and remote port.
        ports: (u16, u16),
        /// ESTABLISHED 0, FIN-WAIT-1 1, FIN-WAIT-2 2, CLOSE-WAIT 3, CLOSING 4, LAST-ACK 5,
        /// TIME-WAIT 6.
        state: u8,
        flags: u32,
        path_mtu: u16,
        /// Absent: as in [`default_options`], without Nagle.
        options: Option<OptionsV1>,
        timestamps: Option<TimestampsV1>,
        snd: SndV1,
        rcv: RcvV1,
        rtt: RttV1,
        congestion: CongestionV1,
        recovery: RecoveryV1,
        timers: Option<TimersV1>,
        /// Duplicate ACKs owed.
        duplicate_acks: u8,
        attempts: u8,
        /// Milliseconds.
        heard_age: u64,
        /// Absent: as in [`ExtraV1::default`].
        extra: Option<ExtraV1>,
        counters: CountersV1,
        queues: QueuesV1,
    }

    /// What few connections have.
    #[derive(Default, PartialEq)]
    struct ExtraV1 {
        /// Milliseconds.
        progress_age: Option<u64>,
        search: Option<SearchV1>,
        /// SND.NXT at the last reduction by ECN - SND.UNA.
        ecn_point: Option<i32>,
        peer_timeout: u16,
        /// Microseconds.
        pace: Option<u64>,
        /// Octets that went ahead: of the send queue, of what is unread.
        ahead: Option<(u32, u32)>,
    }

    #[derive(PartialEq)]
    struct SearchV1 {
        high: u16,
        /// Milliseconds.
        next: u64,
        /// First octet - SND.UNA, and size.
        probe: Option<(i32, u16)>,
        /// Quoted octet - SND.UNA, and size.
        claim: Option<(i32, u16)>,
    }
}

/// Bits of `flags`.
mod flag {
    pub const SACK: u32 = 1;
    pub const NAGLE: u32 = 1 << 1;
    pub const CWND_LIMITED: u32 = 1 << 2;
    pub const DISCARD: u32 = 1 << 3;
    pub const REORDERING: u32 = 1 << 4;
    pub const ACK: u32 = 1 << 5;
    pub const PROBE: u32 = 1 << 6;
    pub const PUSH: u32 = 1 << 7;
    pub const ECN: u32 = 1 << 8;
    pub const ECN_ECHO: u32 = 1 << 9;
    pub const ECN_REDUCED: u32 = 1 << 10;
    pub const SOFT_ERROR: u32 = 1 << 11;
    pub const USER_TIMEOUT: u32 = 1 << 12;
    pub const LOST: u32 = 1 << 13;
    pub const ALL: u32 = (1 << 14) - 1;
}

wire! {
    #[derive(PartialEq)]
    struct OptionsV1 {
        ack_delay: u64,
        peer_ack_delay: u64,
        min_rto: u64,
        /// Idle time, interval, probes.
        keepalive: Option<(u64, u64, u8)>,
        user_timeout: Option<u64>,
        /// Bit 0: exchange user timeouts; bit 1: MTU probing.
        flags: u8,
        /// Off 0, accept 1, request 2.
        ecn: u8,
    }

    struct TimestampsV1 {
        value: u32,
        recent: u32,
        /// Milliseconds.
        recent_age: u64,
    }

    struct SndV1 {
        una: u32,
        /// SND.UNA - ISS, less the octets acknowledged and the SYN.
        from_iss: i32,
        /// SND.NXT - SND.UNA.
        outstanding: u32,
        window: u32,
        /// SND.WL1 - RCV.NXT.
        wl1: i32,
        /// SND.WL2 - SND.UNA.
        wl2: i32,
        /// Less `window`.
        max_window: i32,
        scale: u8,
        peer_mss: u16,
        offset: u64,
        /// Open 0, queued 1, sent 2, acknowledged 3.
        end: u8,
        /// Length; age, as the difference to the entry before; retransmits; marks.
        sent: Capped<(u32, i64, u8, u8), MAX_SENT>,
        reno_sacked: u32,
        last_sent_age: Option<u64>,
        largest_acked: u16,
    }

    struct RcvV1 {
        nxt: u32,
        /// RCV.NXT - IRS, less the octets received and the SYN.
        from_irs: i32,
        /// Right edge - RCV.NXT.
        window: u32,
        scale: u8,
        buffer: u32,
        offset: u64,
        /// Distance of the end of the peer's stream from RCV.NXT, if it is known and lies ahead.
        end_ahead: Option<u32>,
        /// The end has arrived.
        ended: bool,
        /// RCV.NXT - Last.ACK.sent.
        unconfirmed: u32,
        /// Start - RCV.NXT, and length.
        duplicate: Option<(i32, u32)>,
        unacked: u32,
        full_size: u16,
        quick: u8,
    }

    struct RttV1 {
        /// Nanoseconds.
        srtt: Option<u64>,
        /// Nanoseconds.
        rttvar: u64,
        backoff: u32,
        /// Nanoseconds, and the age in milliseconds.
        min: Option<(u64, u64)>,
    }

    struct CongestionV1 {
        cwnd: u32,
        /// Absent: no loss so far (the largest number).
        ssthresh: Option<u32>,
        algorithm: AlgorithmV1,
        hystart: Option<HyStartV1>,
    }

    /// Microseconds, plus one; infinity is 0.
    struct HyStartV1 {
        /// windowEnd - SND.UNA.
        end: i32,
        last: u32,
        current: u32,
        baseline: u32,
        samples: u8,
        rounds: u8,
    }
}

enum AlgorithmV1 {
    Cubic {
        w_max: u32,
        prior: u32,
        epoch_age: Option<u64>,
        k_ms: u64,
        w_est: u64,
        credit: u64,
        paused_age: Option<u64>,
    },
    NewReno {
        credit: u32,
    },
}

impl<'a> Wire<'a> for AlgorithmV1 {
    fn put(&self, out: &mut Writer) {
        match *self {
            AlgorithmV1::Cubic {
                w_max,
                prior,
                epoch_age,
                k_ms,
                w_est,
                credit,
                paused_age,
            } => {
                (0u8, w_max, prior, epoch_age).put(out);
                (k_ms, w_est, credit, paused_age).put(out);
            }
            AlgorithmV1::NewReno { credit } => (1u8, credit).put(out),
        }
    }

    fn take(input: &mut Reader<'a>) -> AlgorithmV1 {
        match u8::take(input) {
            0 => AlgorithmV1::Cubic {
                w_max: Wire::take(input),
                prior: Wire::take(input),
                epoch_age: Wire::take(input),
                k_ms: Wire::take(input),
                w_est: Wire::take(input),
                credit: Wire::take(input),
                paused_age: Wire::take(input),
            },
            1 => AlgorithmV1::NewReno {
                credit: Wire::take(input),
            },
            _ => {
                input.fail();
                AlgorithmV1::NewReno { credit: 0 }
            }
        }
    }
}

wire! {
    struct RecoveryV1 {
        /// Open 0, recovery 1, loss 2.
        phase: u8,
        /// RecoveryPoint - SND.UNA; in phase 0 one more than that, and 0 where the point is past.
        point: i32,
        xmit_age: Option<u64>,
        /// RACK.end_seq - SND.UNA.
        end: i32,
        /// Nanoseconds.
        rtt: u64,
        /// RACK.fack - SND.UNA.
        fack: i32,
        /// RACK.dsack_round - SND.UNA.
        dsack_round: Option<i32>,
        multiplier: u8,
        persist: u8,
        /// TLP.end_seq - SND.UNA; is_retrans; due. Absent: no end and both false.
        tlp: Option<(Option<i32>, bool, bool)>,
        /// Absent: 0, 0, 1.
        prr: Option<(u32, u32, u32)>,
        /// Absent: nothing to undo.
        undo: Option<UndoV1>,
        duplicate_acks: u32,
    }

    struct UndoV1 {
        /// Start of the episode - SND.UNA.
        from: Option<i32>,
        /// SND.NXT at its end - SND.UNA.
        until: Option<i32>,
        cwnd: u32,
        ssthresh: u32,
        stamp: Option<u32>,
        retransmitted: bool,
        unreported: u32,
    }

    struct TimersV1 {
        retransmit: Option<u64>,
        probe: Option<u64>,
        reorder: Option<u64>,
        persist: Option<u64>,
        delayed_ack: Option<u64>,
        linger: Option<u64>,
        keepalive: Option<u64>,
    }

    struct CountersV1 {
        segments_in: u64,
        segments_out: u64,
        moves: u32,
        /// Absent: all zero.
        rare: Option<RareV1>,
    }

    #[derive(Default, PartialEq)]
    struct RareV1 {
        retransmits: u64,
        timeouts: u64,
        probes: u64,
        recoveries: u64,
        undos: u64,
        duplicates_reported: u64,
        paws: u64,
        out_of_window: u64,
        challenges: u64,
        challenges_limited: u64,
        bad_acks: u64,
        out_of_order: u64,
        congestion_marks: u64,
        ecn_reductions: u64,
        mtu_probes: u64,
    }

    /// Lengths of what is in the payload.
    struct QueuesV1 {
        send: u32,
        unread: u32,
        /// Distance from RCV.NXT, and length.
        out_of_order: Capped<(u32, u32), MAX_STRETCHES>,
    }
}

const STATES: [State; 7] = [
    State::Established,
    State::FinWait1,
    State::FinWait2,
    State::CloseWait,
    State::Closing,
    State::LastAck,
    State::TimeWait,
];
const PHASES: [Phase; 3] = [Phase::Open, Phase::Recovery, Phase::Loss];
const ECN_MODES: [EcnMode; 3] = [EcnMode::Off, EcnMode::Accept, EcnMode::Request];
const SND_ENDS: [SndEnd; 4] = [
    SndEnd::Open,
    SndEnd::Queued,
    SndEnd::Sent,
    SndEnd::Acknowledged,
];

/// What most connections have; frozen, whatever TCP's own defaults become.
fn default_options() -> OptionsV1 {
    OptionsV1 {
        ack_delay: 40_000,
        peer_ack_delay: 60_000,
        min_rto: 200_000,
        keepalive: None,
        user_timeout: None,
        flags: 2,
        ecn: 1,
    }
}

/// Octets of a stream and its SYN, as a distance.
fn span(offset: u64) -> u32 {
    (offset as u32).wrapping_add(1)
}
