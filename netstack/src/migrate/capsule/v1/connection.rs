//! A connection's wire form in capsule v1, and its conversion from and to [`crate::tcp`]'s
//! description, which may grow while this does not.
//!
//! Made to be small: sequence numbers are distances (from SND.UNA, or RCV.NXT on the receive
//! side), ages and remaining times are whole microseconds (round-trip times keep nanoseconds),
//! flags share one number, and what an idle connection does not have is one absent option.
//!
//! Both conversions take structs apart without `..`: a field that TCP gains does not compile here
//! until someone has decided whether it needs a capsule v2.

use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::capped::Capped;
use super::{CapsuleError, MAX_QUEUE};
use crate::migrate::rope::Rope;
use crate::seq::SeqNumber;
use crate::tcp::export::*;
use crate::tcp::{Counters, Keepalive, Phase, SocketOptions, State};
use crate::time::Duration;

/// Transmitted stretches listed at most.
const MAX_SENT: usize = 8192;
/// Out-of-order stretches at most.
const MAX_STRETCHES: usize = 1024;

#[derive(Serialize, Deserialize)]
enum Ends {
    V4([u8; 4], [u8; 4]),
    V6([u8; 16], [u8; 16]),
}

#[derive(Serialize, Deserialize)]
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
    options: OptionsV1,
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
    heard_age: u64,
    counters: CountersV1,
    queues: QueuesV1,
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
    pub const ALL: u32 = (1 << 8) - 1;
}

#[derive(Serialize, Deserialize)]
struct OptionsV1 {
    ack_delay: u64,
    peer_ack_delay: u64,
    min_rto: u64,
    /// Idle time, interval, probes.
    keepalive: Option<(u64, u64, u8)>,
    user_timeout: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct TimestampsV1 {
    value: u32,
    recent: u32,
    recent_age: u64,
}

#[derive(Serialize, Deserialize)]
struct SndV1 {
    una: u32,
    /// SND.UNA - ISS.
    from_iss: u32,
    /// SND.NXT - SND.UNA.
    outstanding: u32,
    window: u32,
    /// SND.WL1 - RCV.NXT.
    wl1: i32,
    /// SND.WL2 - SND.UNA.
    wl2: i32,
    max_window: u32,
    scale: u8,
    peer_mss: u16,
    offset: u64,
    /// Open 0, queued 1, sent 2, acknowledged 3.
    end: u8,
    /// Length; age, as the difference to the entry before; retransmits; marks.
    sent: Capped<(u32, i64, u8, u8), MAX_SENT>,
    reno_sacked: u32,
    last_sent_age: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct RcvV1 {
    nxt: u32,
    /// RCV.NXT - IRS.
    from_irs: u32,
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

#[derive(Serialize, Deserialize)]
struct RttV1 {
    /// Nanoseconds.
    srtt: Option<u64>,
    /// Nanoseconds.
    rttvar: u64,
    backoff: u32,
    /// Nanoseconds, and the age.
    min: Option<(u64, u64)>,
}

#[derive(Serialize, Deserialize)]
struct CongestionV1 {
    cwnd: u32,
    /// Absent: no loss so far (the largest number).
    ssthresh: Option<u32>,
    algorithm: AlgorithmV1,
}

#[derive(Serialize, Deserialize)]
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

#[derive(Serialize, Deserialize)]
struct RecoveryV1 {
    /// Open 0, recovery 1, loss 2.
    phase: u8,
    /// RecoveryPoint - SND.UNA; 0 in phase 0, where it means nothing.
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

#[derive(Serialize, Deserialize)]
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

#[derive(Serialize, Deserialize)]
struct TimersV1 {
    retransmit: Option<u64>,
    probe: Option<u64>,
    reorder: Option<u64>,
    persist: Option<u64>,
    delayed_ack: Option<u64>,
    linger: Option<u64>,
    keepalive: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct CountersV1 {
    segments_in: u64,
    segments_out: u64,
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
    moves: u32,
}

/// Lengths of what is in the payload.
#[derive(Serialize, Deserialize)]
struct QueuesV1 {
    send: u32,
    unread: u32,
    /// Distance from RCV.NXT, and length.
    out_of_order: Capped<(u32, u32), MAX_STRETCHES>,
}

// --- helpers -------------------------------------------------------------------------------------

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// How far `seq` lies from `base`, on the shorter way round.
fn from(base: SeqNumber, seq: SeqNumber) -> i32 {
    seq.distance_from(base) as i32
}

/// The number `distance` from `base`.
fn at(base: SeqNumber, distance: i32) -> SeqNumber {
    base.add(distance as u32)
}

fn total(pieces: &[Bytes]) -> Result<u32, CapsuleError> {
    let total: usize = pieces.iter().map(Bytes::len).sum();
    if total > MAX_QUEUE {
        return Err(CapsuleError::Oversize);
    }
    Ok(total as u32)
}

fn bits(pairs: &[(bool, u32)]) -> u32 {
    let set = pairs.iter().filter(|(set, _)| *set);
    set.fold(0, |flags, (_, bit)| flags | bit)
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
const SND_ENDS: [SndEnd; 4] = [
    SndEnd::Open,
    SndEnd::Queued,
    SndEnd::Sent,
    SndEnd::Acknowledged,
];

/// The place of `value` in a list whose order is frozen.
fn code<T: PartialEq>(list: &[T], value: T) -> Result<u8, CapsuleError> {
    let place = list.iter().position(|known| *known == value);
    place
        .map(|place| place as u8)
        .ok_or(CapsuleError::Malformed)
}

fn value<T: Copy>(list: &[T], code: u8) -> Result<T, CapsuleError> {
    list.get(usize::from(code))
        .copied()
        .ok_or(CapsuleError::Malformed)
}

// --- out -----------------------------------------------------------------------------------------

impl ConnectionV1 {
    /// The wire form; the octets go to the end of `payload`.
    pub fn encode(
        connection: &ConnectionState,
        payload: &mut Rope,
    ) -> Result<ConnectionV1, CapsuleError> {
        let ConnectionState { header, queues } = connection;
        let ConnectionHeader {
            local,
            remote,
            state,
            options,
            path_mtu,
            sack,
            timestamps,
            snd,
            rcv,
            rtt,
            congestion,
            recovery,
            timers,
            owed,
            attempts,
            heard_age,
            counters,
        } = header;
        let SocketOptions {
            nagle,
            ack_delay,
            peer_ack_delay,
            min_rto,
            keepalive,
            user_timeout,
        } = options;
        let OwedHeader {
            ack,
            duplicate_acks,
            probe,
            push,
        } = owed;
        let ends = match (local.ip(), remote.ip()) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => Ends::V4(local.octets(), remote.octets()),
            (IpAddr::V6(local), IpAddr::V6(remote)) => Ends::V6(local.octets(), remote.octets()),
            _ => return Err(CapsuleError::Malformed),
        };
        let flags = bits(&[
            (*sack, flag::SACK),
            (*nagle, flag::NAGLE),
            (snd.cwnd_limited, flag::CWND_LIMITED),
            (rcv.discard, flag::DISCARD),
            (recovery.rack.reordering_seen, flag::REORDERING),
            (*ack, flag::ACK),
            (*probe, flag::PROBE),
            (*push, flag::PUSH),
        ]);
        let keepalive = keepalive.map(
            |Keepalive {
                 idle,
                 interval,
                 probes,
             }| (micros(idle), micros(interval), probes),
        );
        Ok(ConnectionV1 {
            ends,
            ports: (local.port(), remote.port()),
            state: code(&STATES, *state)?,
            flags,
            path_mtu: *path_mtu,
            options: OptionsV1 {
                ack_delay: micros(*ack_delay),
                peer_ack_delay: micros(*peer_ack_delay),
                min_rto: micros(*min_rto),
                keepalive,
                user_timeout: user_timeout.map(micros),
            },
            timestamps: timestamps.as_ref().map(encode_timestamps),
            snd: encode_snd(snd, rcv.nxt)?,
            rcv: encode_rcv(rcv),
            rtt: encode_rtt(rtt),
            congestion: encode_congestion(congestion),
            recovery: encode_recovery(recovery, snd.una)?,
            timers: encode_timers(timers),
            duplicate_acks: *duplicate_acks,
            attempts: *attempts,
            heard_age: micros(*heard_age),
            counters: encode_counters(counters),
            queues: encode_queues(queues, payload)?,
        })
    }
}

fn encode_timestamps(header: &TimestampHeader) -> TimestampsV1 {
    let TimestampHeader {
        value,
        recent,
        recent_age,
    } = *header;
    TimestampsV1 {
        value,
        recent,
        recent_age: micros(recent_age),
    }
}

fn encode_snd(header: &SndHeader, rcv_nxt: SeqNumber) -> Result<SndV1, CapsuleError> {
    let SndHeader {
        iss,
        una,
        nxt,
        window,
        wl1,
        wl2,
        max_window,
        scale,
        peer_mss,
        offset,
        end,
        ref sent,
        reno_sacked,
        last_sent_age,
        cwnd_limited: _, // a flag
    } = *header;
    if sent.len() > MAX_SENT {
        return Err(CapsuleError::Oversize);
    }
    let mut before = 0;
    let mut list = Vec::with_capacity(sent.len());
    for SentHeader {
        len,
        age,
        retransmits,
        marks,
    } in sent
    {
        let age = micros(*age) as i64;
        list.push((*len, age.wrapping_sub(before), *retransmits, *marks));
        before = age;
    }
    Ok(SndV1 {
        una: una.raw(),
        from_iss: una.distance_from(iss),
        outstanding: nxt.distance_from(una),
        window,
        wl1: from(rcv_nxt, wl1),
        wl2: from(una, wl2),
        max_window,
        scale,
        peer_mss,
        offset,
        end: code(&SND_ENDS, end)?,
        sent: Capped(list),
        reno_sacked,
        last_sent_age: last_sent_age.map(micros),
    })
}

fn encode_rcv(header: &RcvHeader) -> RcvV1 {
    let RcvHeader {
        irs,
        nxt,
        edge,
        scale,
        buffer,
        offset,
        end,
        last_ack,
        duplicate,
        unacked,
        full_size,
        quick,
        discard: _, // a flag
    } = *header;
    RcvV1 {
        nxt: nxt.raw(),
        from_irs: nxt.distance_from(irs),
        window: edge.distance_from(nxt),
        scale,
        buffer,
        offset,
        end_ahead: match end {
            RcvEnd::Ahead(seq) => Some(seq.distance_from(nxt)),
            RcvEnd::Open | RcvEnd::Received => None,
        },
        ended: end == RcvEnd::Received,
        unconfirmed: nxt.distance_from(last_ack),
        duplicate: duplicate.map(|(start, end)| (from(nxt, start), end.distance_from(start))),
        unacked,
        full_size,
        quick,
    }
}

fn encode_rtt(header: &RttHeader) -> RttV1 {
    let RttHeader {
        srtt,
        rttvar,
        backoff,
        min,
    } = *header;
    RttV1 {
        srtt: srtt.map(nanos),
        rttvar: nanos(rttvar),
        backoff,
        min: min.map(|(min, age)| (nanos(min), micros(age))),
    }
}

fn encode_congestion(header: &CongestionHeader) -> CongestionV1 {
    let CongestionHeader {
        cwnd,
        ssthresh,
        ref algorithm,
    } = *header;
    CongestionV1 {
        cwnd,
        ssthresh: (ssthresh != u32::MAX).then_some(ssthresh),
        algorithm: match *algorithm {
            AlgorithmHeader::Cubic {
                w_max,
                prior,
                epoch_age,
                k_ms,
                w_est,
                credit,
                paused_age,
            } => AlgorithmV1::Cubic {
                w_max,
                prior,
                epoch_age: epoch_age.map(micros),
                k_ms,
                w_est,
                credit,
                paused_age: paused_age.map(micros),
            },
            AlgorithmHeader::NewReno { credit } => AlgorithmV1::NewReno { credit },
        },
    }
}

fn encode_recovery(header: &RecoveryHeader, una: SeqNumber) -> Result<RecoveryV1, CapsuleError> {
    let RecoveryHeader {
        phase,
        point,
        ref rack,
        ref tlp,
        prr,
        ref undo,
        duplicate_acks,
    } = *header;
    let RackHeader {
        xmit_age,
        end,
        rtt,
        fack,
        reordering_seen: _, // a flag
        dsack_round,
        multiplier,
        persist,
    } = *rack;
    let TlpHeader {
        end: tlp_end,
        retransmission,
        due,
    } = *tlp;
    let distance = |seq: SeqNumber| from(una, seq);
    let tlp = (tlp_end.map(distance), retransmission, due);
    Ok(RecoveryV1 {
        phase: code(&PHASES, phase)?,
        point: match phase {
            Phase::Open => 0,
            _ => distance(point),
        },
        xmit_age: xmit_age.map(micros),
        end: distance(end),
        rtt: nanos(rtt),
        fack: distance(fack),
        dsack_round: dsack_round.map(distance),
        multiplier,
        persist,
        tlp: (tlp != (None, false, false)).then_some(tlp),
        prr: (prr != (0, 0, 1)).then_some(prr),
        undo: encode_undo(undo, una),
        duplicate_acks,
    })
}

fn encode_undo(header: &UndoHeader, una: SeqNumber) -> Option<UndoV1> {
    let UndoHeader {
        from: start,
        cwnd,
        ssthresh,
        until,
        stamp,
        retransmitted,
        unreported,
    } = *header;
    let nothing = start.is_none()
        && until.is_none()
        && stamp.is_none()
        && !retransmitted
        && (cwnd, ssthresh, unreported) == (0, 0, 0);
    (!nothing).then(|| UndoV1 {
        from: start.map(|seq| from(una, seq)),
        until: until.map(|seq| from(una, seq)),
        cwnd,
        ssthresh,
        stamp,
        retransmitted,
        unreported,
    })
}

fn encode_timers(header: &TimersHeader) -> Option<TimersV1> {
    let TimersHeader {
        retransmit,
        probe,
        reorder,
        persist,
        delayed_ack,
        linger,
        keepalive,
    } = *header;
    let all = [
        retransmit,
        probe,
        reorder,
        persist,
        delayed_ack,
        linger,
        keepalive,
    ];
    all.iter().any(Option::is_some).then(|| TimersV1 {
        retransmit: retransmit.map(micros),
        probe: probe.map(micros),
        reorder: reorder.map(micros),
        persist: persist.map(micros),
        delayed_ack: delayed_ack.map(micros),
        linger: linger.map(micros),
        keepalive: keepalive.map(micros),
    })
}

fn encode_counters(counters: &Counters) -> CountersV1 {
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
        moves,
    } = *counters;
    CountersV1 {
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
        moves,
    }
}

fn encode_queues(queues: &Queues, payload: &mut Rope) -> Result<QueuesV1, CapsuleError> {
    let Queues {
        unacked_and_unsent,
        unread,
        out_of_order,
    } = queues;
    let send = total(unacked_and_unsent)?;
    let unread_len = total(unread)?;
    for piece in unacked_and_unsent.iter().chain(unread) {
        payload.push(piece.clone());
    }
    // Pieces that follow each other are one stretch.
    let mut stretches: Vec<(u32, u32)> = Vec::new();
    let mut octets = 0;
    for (distance, piece) in out_of_order {
        let len = piece.len() as u32;
        octets += piece.len();
        match stretches.last_mut() {
            Some((start, length)) if start.wrapping_add(*length) == *distance => *length += len,
            _ => stretches.push((*distance, len)),
        }
        payload.push(piece.clone());
    }
    if octets > MAX_QUEUE || stretches.len() > MAX_STRETCHES {
        return Err(CapsuleError::Oversize);
    }
    Ok(QueuesV1 {
        send,
        unread: unread_len,
        out_of_order: Capped(stretches),
    })
}

// --- in ------------------------------------------------------------------------------------------

impl ConnectionV1 {
    /// Octets of payload, each length checked.
    pub fn payload(&self) -> Result<usize, CapsuleError> {
        let QueuesV1 {
            send,
            unread,
            out_of_order,
        } = &self.queues;
        let out_of_order = out_of_order
            .0
            .iter()
            .try_fold(0usize, |sum, (_, len)| sum.checked_add(*len as usize))
            .ok_or(CapsuleError::Oversize)?;
        let (send, unread) = (*send as usize, *unread as usize);
        if send > MAX_QUEUE || unread > MAX_QUEUE || out_of_order > MAX_QUEUE {
            return Err(CapsuleError::Oversize);
        }
        Ok(send + unread + out_of_order)
    }

    /// TCP's description, with octets from the front of `payload`.
    pub fn decode(self, payload: &mut Rope) -> Result<ConnectionState, CapsuleError> {
        let ConnectionV1 {
            ends,
            ports,
            state,
            flags,
            path_mtu,
            options,
            timestamps,
            snd,
            rcv,
            rtt,
            congestion,
            recovery,
            timers,
            duplicate_acks,
            attempts,
            heard_age,
            counters,
            queues,
        } = self;
        if flags & !flag::ALL != 0 {
            return Err(CapsuleError::Malformed);
        }
        let has = |bit: u32| flags & bit != 0;
        let (local, remote): (IpAddr, IpAddr) = match ends {
            Ends::V4(local, remote) => (local.into(), remote.into()),
            Ends::V6(local, remote) => (local.into(), remote.into()),
        };
        let una = SeqNumber::new(snd.una);
        let nxt = SeqNumber::new(rcv.nxt);
        let header = ConnectionHeader {
            local: SocketAddr::new(local, ports.0),
            remote: SocketAddr::new(remote, ports.1),
            state: value(&STATES, state)?,
            options: decode_options(options, has(flag::NAGLE)),
            path_mtu,
            sack: has(flag::SACK),
            timestamps: timestamps.map(|timestamps| TimestampHeader {
                value: timestamps.value,
                recent: timestamps.recent,
                recent_age: Duration::from_micros(timestamps.recent_age),
            }),
            snd: decode_snd(snd, una, nxt, has(flag::CWND_LIMITED))?,
            rcv: decode_rcv(rcv, nxt, has(flag::DISCARD))?,
            rtt: RttHeader {
                srtt: rtt.srtt.map(Duration::from_nanos),
                rttvar: Duration::from_nanos(rtt.rttvar),
                backoff: rtt.backoff,
                min: rtt
                    .min
                    .map(|(min, age)| (Duration::from_nanos(min), Duration::from_micros(age))),
            },
            congestion: decode_congestion(congestion),
            recovery: decode_recovery(recovery, una, has(flag::REORDERING))?,
            timers: decode_timers(timers),
            owed: OwedHeader {
                ack: has(flag::ACK),
                duplicate_acks,
                probe: has(flag::PROBE),
                push: has(flag::PUSH),
            },
            attempts,
            heard_age: Duration::from_micros(heard_age),
            counters: decode_counters(counters),
        };
        Ok(ConnectionState {
            header,
            queues: decode_queues(queues, payload)?,
        })
    }
}

fn decode_options(options: OptionsV1, nagle: bool) -> SocketOptions {
    SocketOptions {
        nagle,
        ack_delay: Duration::from_micros(options.ack_delay),
        peer_ack_delay: Duration::from_micros(options.peer_ack_delay),
        min_rto: Duration::from_micros(options.min_rto),
        keepalive: options.keepalive.map(|(idle, interval, probes)| Keepalive {
            idle: Duration::from_micros(idle),
            interval: Duration::from_micros(interval),
            probes,
        }),
        user_timeout: options.user_timeout.map(Duration::from_micros),
    }
}

fn decode_snd(
    snd: SndV1,
    una: SeqNumber,
    rcv_nxt: SeqNumber,
    cwnd_limited: bool,
) -> Result<SndHeader, CapsuleError> {
    let mut age = 0i64;
    let mut sent = Vec::with_capacity(snd.sent.0.len());
    for (len, step, retransmits, marks) in snd.sent.0 {
        age = age.wrapping_add(step);
        let micros = u64::try_from(age).map_err(|_| CapsuleError::Malformed)?;
        sent.push(SentHeader {
            len,
            age: Duration::from_micros(micros),
            retransmits,
            marks,
        });
    }
    Ok(SndHeader {
        iss: una.sub(snd.from_iss),
        una,
        nxt: una.add(snd.outstanding),
        window: snd.window,
        wl1: at(rcv_nxt, snd.wl1),
        wl2: at(una, snd.wl2),
        max_window: snd.max_window,
        scale: snd.scale,
        peer_mss: snd.peer_mss,
        offset: snd.offset,
        end: value(&SND_ENDS, snd.end)?,
        sent,
        reno_sacked: snd.reno_sacked,
        last_sent_age: snd.last_sent_age.map(Duration::from_micros),
        cwnd_limited,
    })
}

fn decode_rcv(rcv: RcvV1, nxt: SeqNumber, discard: bool) -> Result<RcvHeader, CapsuleError> {
    Ok(RcvHeader {
        irs: nxt.sub(rcv.from_irs),
        nxt,
        edge: nxt.add(rcv.window),
        scale: rcv.scale,
        buffer: rcv.buffer,
        offset: rcv.offset,
        end: match (rcv.end_ahead, rcv.ended) {
            (None, false) => RcvEnd::Open,
            (Some(distance), false) => RcvEnd::Ahead(nxt.add(distance)),
            (None, true) => RcvEnd::Received,
            (Some(_), true) => return Err(CapsuleError::Malformed),
        },
        last_ack: nxt.sub(rcv.unconfirmed),
        duplicate: rcv.duplicate.map(|(start, length)| {
            let start = at(nxt, start);
            (start, start.add(length))
        }),
        unacked: rcv.unacked,
        full_size: rcv.full_size,
        quick: rcv.quick,
        discard,
    })
}

fn decode_congestion(congestion: CongestionV1) -> CongestionHeader {
    CongestionHeader {
        cwnd: congestion.cwnd,
        ssthresh: congestion.ssthresh.unwrap_or(u32::MAX),
        algorithm: match congestion.algorithm {
            AlgorithmV1::Cubic {
                w_max,
                prior,
                epoch_age,
                k_ms,
                w_est,
                credit,
                paused_age,
            } => AlgorithmHeader::Cubic {
                w_max,
                prior,
                epoch_age: epoch_age.map(Duration::from_micros),
                k_ms,
                w_est,
                credit,
                paused_age: paused_age.map(Duration::from_micros),
            },
            AlgorithmV1::NewReno { credit } => AlgorithmHeader::NewReno { credit },
        },
    }
}

fn decode_recovery(
    recovery: RecoveryV1,
    una: SeqNumber,
    reordering_seen: bool,
) -> Result<RecoveryHeader, CapsuleError> {
    let place = |distance: i32| at(una, distance);
    let (tlp_end, retransmission, due) = recovery.tlp.unwrap_or((None, false, false));
    Ok(RecoveryHeader {
        phase: value(&PHASES, recovery.phase)?,
        point: place(recovery.point),
        rack: RackHeader {
            xmit_age: recovery.xmit_age.map(Duration::from_micros),
            end: place(recovery.end),
            rtt: Duration::from_nanos(recovery.rtt),
            fack: place(recovery.fack),
            reordering_seen,
            dsack_round: recovery.dsack_round.map(place),
            multiplier: recovery.multiplier,
            persist: recovery.persist,
        },
        tlp: TlpHeader {
            end: tlp_end.map(place),
            retransmission,
            due,
        },
        prr: recovery.prr.unwrap_or((0, 0, 1)),
        undo: match recovery.undo {
            Some(undo) => UndoHeader {
                from: undo.from.map(place),
                cwnd: undo.cwnd,
                ssthresh: undo.ssthresh,
                until: undo.until.map(place),
                stamp: undo.stamp,
                retransmitted: undo.retransmitted,
                unreported: undo.unreported,
            },
            None => UndoHeader {
                from: None,
                cwnd: 0,
                ssthresh: 0,
                until: None,
                stamp: None,
                retransmitted: false,
                unreported: 0,
            },
        },
        duplicate_acks: recovery.duplicate_acks,
    })
}

fn decode_timers(timers: Option<TimersV1>) -> TimersHeader {
    let time = |micros: Option<u64>| micros.map(Duration::from_micros);
    let part = |pick: fn(&TimersV1) -> Option<u64>| time(timers.as_ref().and_then(pick));
    TimersHeader {
        retransmit: part(|timers| timers.retransmit),
        probe: part(|timers| timers.probe),
        reorder: part(|timers| timers.reorder),
        persist: part(|timers| timers.persist),
        delayed_ack: part(|timers| timers.delayed_ack),
        linger: part(|timers| timers.linger),
        keepalive: part(|timers| timers.keepalive),
    }
}

fn decode_counters(counters: CountersV1) -> Counters {
    Counters {
        segments_in: counters.segments_in,
        segments_out: counters.segments_out,
        retransmits: counters.retransmits,
        timeouts: counters.timeouts,
        probes: counters.probes,
        recoveries: counters.recoveries,
        undos: counters.undos,
        duplicates_reported: counters.duplicates_reported,
        paws: counters.paws,
        out_of_window: counters.out_of_window,
        challenges: counters.challenges,
        challenges_limited: counters.challenges_limited,
        bad_acks: counters.bad_acks,
        out_of_order: counters.out_of_order,
        moves: counters.moves,
    }
}

fn decode_queues(queues: QueuesV1, payload: &mut Rope) -> Result<Queues, CapsuleError> {
    let mut take = |count: u32| {
        let taken = payload.take(count as usize);
        match taken.len() == count as usize {
            true => Ok(taken),
            false => Err(CapsuleError::Truncated),
        }
    };
    let unacked_and_unsent = take(queues.send)?.into_pieces().collect();
    let unread = take(queues.unread)?.into_pieces().collect();
    let mut out_of_order = Vec::new();
    for (distance, length) in queues.out_of_order.0 {
        let mut at = distance;
        for piece in take(length)?.into_pieces() {
            let len = piece.len() as u32;
            out_of_order.push((at, piece));
            at = at.checked_add(len).ok_or(CapsuleError::Malformed)?;
        }
    }
    Ok(Queues {
        unacked_and_unsent,
        unread,
        out_of_order,
    })
}
