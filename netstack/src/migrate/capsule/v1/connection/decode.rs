//! From the wire form to [`crate::tcp`]'s description. Out of line as `put` and `take` are (see wire.rs).

use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use super::super::{Ahead, CapsuleError, MAX_QUEUE};
use super::*;
use crate::migrate::rope::Rope;
use crate::seq::SeqNumber;
use crate::tcp::export::*;
use crate::tcp::{Counters, Keepalive, SocketOptions};
use crate::time::Duration;

/// The number `distance` from `base`.
fn at(base: SeqNumber, distance: i32) -> SeqNumber {
    base.add(distance as u32)
}

fn value<T: Copy>(list: &[T], code: u8) -> Result<T, CapsuleError> {
    list.get(usize::from(code))
        .copied()
        .ok_or(CapsuleError::Malformed)
}

impl ConnectionV1 {
    /// TCP's description, with octets from the front of `payload`, and what is missing in front of those.
    pub fn decode(self, payload: &mut Rope) -> Result<(ConnectionState, Ahead), CapsuleError> {
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
            extra,
            counters,
            queues,
        } = self;
        let extra = extra.unwrap_or_default();
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
            options: decode_options(options.unwrap_or(default_options()), has(flag::NAGLE))?,
            path_mtu,
            search: extra.search.map(|search| SearchHeader {
                high: search.high,
                next: Duration::from_millis(search.next),
                probe: search.probe.map(|(place, size)| (at(una, place), size)),
                claim: search.claim.map(|(place, size)| (at(una, place), size)),
            }),
            ecn: EcnHeader {
                agreed: has(flag::ECN),
                echo: has(flag::ECN_ECHO),
                reduced: has(flag::ECN_REDUCED),
                point: extra.ecn_point.map(|place| at(una, place)),
            },
            peer_timeout: extra.peer_timeout,
            soft_error: has(flag::SOFT_ERROR),
            sack: has(flag::SACK),
            timestamps: timestamps.map(|timestamps| TimestampHeader {
                value: timestamps.value,
                recent: timestamps.recent,
                recent_age: Duration::from_millis(timestamps.recent_age),
            }),
            snd: decode_snd(snd, una, nxt, has(flag::CWND_LIMITED), extra.pace)?,
            rcv: decode_rcv(rcv, nxt, has(flag::DISCARD), has(flag::LOST))?,
            rtt: RttHeader {
                srtt: rtt.srtt.map(Duration::from_nanos),
                rttvar: Duration::from_nanos(rtt.rttvar),
                backoff: rtt.backoff,
                min: rtt
                    .min
                    .map(|(min, age)| (Duration::from_nanos(min), Duration::from_millis(age))),
            },
            congestion: decode_congestion(congestion, una),
            recovery: decode_recovery(recovery, una, has(flag::REORDERING))?,
            timers: decode_timers(timers),
            owed: OwedHeader {
                ack: has(flag::ACK),
                duplicate_acks,
                probe: has(flag::PROBE),
                push: has(flag::PUSH),
                user_timeout: has(flag::USER_TIMEOUT),
            },
            attempts,
            heard_age: Duration::from_millis(heard_age),
            progress_age: extra.progress_age.map(Duration::from_millis),
            counters: decode_counters(counters),
        };
        let queues = decode_queues(queues, payload)?;
        let (send, unread) = extra.ahead.unwrap_or_default();
        Ok((ConnectionState { header, queues }, Ahead { send, unread }))
    }
}

#[inline(never)]
fn decode_options(options: OptionsV1, nagle: bool) -> Result<SocketOptions, CapsuleError> {
    if options.flags & !3 != 0 {
        return Err(CapsuleError::Malformed);
    }
    Ok(SocketOptions {
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
        exchange_user_timeout: options.flags & 1 != 0,
        ecn: value(&ECN_MODES, options.ecn)?,
        mtu_probing: options.flags & 2 != 0,
    })
}

#[inline(never)]
fn decode_snd(
    snd: SndV1,
    una: SeqNumber,
    rcv_nxt: SeqNumber,
    cwnd_limited: bool,
    pace: Option<u64>,
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
        iss: una.sub(span(snd.offset).wrapping_add(snd.from_iss as u32)),
        una,
        nxt: una.add(snd.outstanding),
        window: snd.window,
        wl1: at(rcv_nxt, snd.wl1),
        wl2: at(una, snd.wl2),
        max_window: snd.window.wrapping_add(snd.max_window as u32),
        scale: snd.scale,
        peer_mss: snd.peer_mss,
        offset: snd.offset,
        end: value(&SND_ENDS, snd.end)?,
        sent,
        reno_sacked: snd.reno_sacked,
        last_sent_age: snd.last_sent_age.map(Duration::from_micros),
        pace: pace.map(Duration::from_micros),
        largest_acked: snd.largest_acked,
        cwnd_limited,
    })
}

#[inline(never)]
fn decode_rcv(
    rcv: RcvV1,
    nxt: SeqNumber,
    discard: bool,
    lost: bool,
) -> Result<RcvHeader, CapsuleError> {
    Ok(RcvHeader {
        irs: nxt.sub(span(rcv.offset).wrapping_add(rcv.from_irs as u32)),
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
        lost,
    })
}

#[inline(never)]
fn decode_congestion(congestion: CongestionV1, una: SeqNumber) -> CongestionHeader {
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
        hystart: congestion.hystart.map(|hystart| HyStartHeader {
            end: at(una, hystart.end),
            last: hystart.last.wrapping_sub(1),
            current: hystart.current.wrapping_sub(1),
            baseline: hystart.baseline.wrapping_sub(1),
            samples: hystart.samples,
            rounds: hystart.rounds,
        }),
    }
}

#[inline(never)]
fn decode_recovery(
    recovery: RecoveryV1,
    una: SeqNumber,
    reordering_seen: bool,
) -> Result<RecoveryHeader, CapsuleError> {
    let place = |distance: i32| at(una, distance);
    let (tlp_end, retransmission, due) = recovery.tlp.unwrap_or((None, false, false));
    let phase = value(&PHASES, recovery.phase)?;
    Ok(RecoveryHeader {
        phase,
        point: match phase {
            Phase::Open => place(recovery.point.wrapping_sub(1)),
            _ => place(recovery.point),
        },
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

#[inline(never)]
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

#[inline(never)]
fn decode_counters(counters: CountersV1) -> Counters {
    let rare = counters.rare.unwrap_or_default();
    Counters {
        segments_in: counters.segments_in,
        segments_out: counters.segments_out,
        retransmits: rare.retransmits,
        timeouts: rare.timeouts,
        probes: rare.probes,
        recoveries: rare.recoveries,
        undos: rare.undos,
        duplicates_reported: rare.duplicates_reported,
        paws: rare.paws,
        out_of_window: rare.out_of_window,
        challenges: rare.challenges,
        challenges_limited: rare.challenges_limited,
        bad_acks: rare.bad_acks,
        out_of_order: rare.out_of_order,
        congestion_marks: rare.congestion_marks,
        ecn_reductions: rare.ecn_reductions,
        mtu_probes: rare.mtu_probes,
        moves: counters.moves,
    }
}

/// Refuse `lengths` that add up to more than a connection may have of one kind.
fn within_limit(mut lengths: impl Iterator<Item = u32>) -> Result<(), CapsuleError> {
    let total = lengths.try_fold(0usize, |sum, length| sum.checked_add(length as usize));
    match total {
        Some(total) if total <= MAX_QUEUE => Ok(()),
        _ => Err(CapsuleError::Oversize),
    }
}

#[inline(never)]
fn decode_queues(queues: QueuesV1, payload: &mut Rope) -> Result<Queues, CapsuleError> {
    let stretches = queues.out_of_order.0;
    within_limit([queues.send].into_iter())?;
    within_limit([queues.unread].into_iter())?;
    within_limit(stretches.iter().map(|(_, length)| *length))?;
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
    for (distance, length) in stretches {
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
