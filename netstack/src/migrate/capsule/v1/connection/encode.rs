//! From [`crate::tcp`]'s description to the wire form. Out of line as `put` and `take` are (see wire.rs).

use alloc::vec::Vec;
use core::net::IpAddr;

use bytes::Bytes;

use super::super::{Ahead, CapsuleError, MAX_QUEUE};
use super::*;
use crate::migrate::rope::Rope;
use crate::seq::SeqNumber;
use crate::tcp::export::*;
use crate::tcp::{Counters, Keepalive, SocketOptions};
use crate::time::Duration;

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// How far `seq` lies from `base`, on the shorter way round.
fn from(base: SeqNumber, seq: SeqNumber) -> i32 {
    seq.distance_from(base) as i32
}

/// Add what is behind the first `skip` octets of `pieces`.
fn push_behind(pieces: &[Bytes], skip: u32, payload: &mut Rope) {
    let mut skip = skip as usize;
    for piece in pieces {
        let part = skip.min(piece.len());
        payload.push(piece.slice(part..));
        skip -= part;
    }
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

/// The place of `value` in a list whose order is frozen.
fn code<T: PartialEq>(list: &[T], value: T) -> Result<u8, CapsuleError> {
    let place = list.iter().position(|known| *known == value);
    place
        .map(|place| place as u8)
        .ok_or(CapsuleError::Malformed)
}

impl ConnectionV1 {
    /// The wire form; the octets that did not go ahead go to the end of `payload`.
    pub fn encode(
        connection: &ConnectionState,
        ahead: Ahead,
        payload: &mut Rope,
    ) -> Result<ConnectionV1, CapsuleError> {
        let ConnectionState { header, queues } = connection;
        let ConnectionHeader {
            local,
            remote,
            state,
            options,
            path_mtu,
            search,
            ecn,
            peer_timeout,
            soft_error,
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
            progress_age,
            counters,
        } = header;
        let SocketOptions {
            nagle,
            ack_delay,
            peer_ack_delay,
            min_rto,
            keepalive,
            user_timeout,
            exchange_user_timeout,
            ecn: ecn_mode,
            mtu_probing,
        } = options;
        let EcnHeader {
            agreed,
            echo,
            reduced,
            point: ecn_point,
        } = ecn;
        let OwedHeader {
            ack,
            duplicate_acks,
            probe,
            push,
            user_timeout: owed_user_timeout,
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
            (rcv.lost, flag::LOST),
            (recovery.rack.reordering_seen, flag::REORDERING),
            (*ack, flag::ACK),
            (*probe, flag::PROBE),
            (*push, flag::PUSH),
            (*agreed, flag::ECN),
            (*echo, flag::ECN_ECHO),
            (*reduced, flag::ECN_REDUCED),
            (*soft_error, flag::SOFT_ERROR),
            (*owed_user_timeout, flag::USER_TIMEOUT),
        ]);
        let keepalive = keepalive.map(
            |Keepalive {
                 idle,
                 interval,
                 probes,
             }| (micros(idle), micros(interval), probes),
        );
        let options = OptionsV1 {
            ack_delay: micros(*ack_delay),
            peer_ack_delay: micros(*peer_ack_delay),
            min_rto: micros(*min_rto),
            keepalive,
            user_timeout: user_timeout.map(micros),
            flags: u8::from(*exchange_user_timeout) | u8::from(*mtu_probing) << 1,
            ecn: code(&ECN_MODES, *ecn_mode)?,
        };
        let place = |seq: SeqNumber| from(snd.una, seq);
        let extra = ExtraV1 {
            progress_age: progress_age.map(millis),
            search: search.map(
                |SearchHeader {
                     high,
                     next,
                     probe,
                     claim,
                 }| SearchV1 {
                    high,
                    next: millis(next),
                    probe: probe.map(|(seq, size)| (place(seq), size)),
                    claim: claim.map(|(seq, size)| (place(seq), size)),
                },
            ),
            ecn_point: ecn_point.map(place),
            peer_timeout: *peer_timeout,
            pace: snd.pace.map(micros),
            ahead: (ahead != Ahead::default()).then_some((ahead.send, ahead.unread)),
        };
        Ok(ConnectionV1 {
            ends,
            ports: (local.port(), remote.port()),
            state: code(&STATES, *state)?,
            flags,
            path_mtu: *path_mtu,
            options: (options != default_options()).then_some(options),
            timestamps: timestamps.as_ref().map(encode_timestamps),
            snd: encode_snd(snd, rcv.nxt)?,
            rcv: encode_rcv(rcv),
            rtt: encode_rtt(rtt),
            congestion: encode_congestion(congestion, snd.una),
            recovery: encode_recovery(recovery, snd.una)?,
            timers: encode_timers(timers),
            duplicate_acks: *duplicate_acks,
            attempts: *attempts,
            heard_age: millis(*heard_age),
            extra: (extra != ExtraV1::default()).then_some(extra),
            counters: encode_counters(counters),
            queues: encode_queues(queues, ahead, payload)?,
        })
    }
}

#[inline(never)]
fn encode_timestamps(header: &TimestampHeader) -> TimestampsV1 {
    let TimestampHeader {
        value,
        recent,
        recent_age,
    } = *header;
    TimestampsV1 {
        value,
        recent,
        recent_age: millis(recent_age),
    }
}

#[inline(never)]
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
        pace: _, // among what few connections have
        largest_acked,
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
        from_iss: una.distance_from(iss).wrapping_sub(span(offset)) as i32,
        outstanding: nxt.distance_from(una),
        window,
        wl1: from(rcv_nxt, wl1),
        wl2: from(una, wl2),
        max_window: max_window.wrapping_sub(window) as i32,
        scale,
        peer_mss,
        offset,
        end: code(&SND_ENDS, end)?,
        sent: Capped(list),
        reno_sacked,
        last_sent_age: last_sent_age.map(micros),
        largest_acked,
    })
}

#[inline(never)]
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
        lost: _,    // a flag
    } = *header;
    RcvV1 {
        nxt: nxt.raw(),
        from_irs: nxt.distance_from(irs).wrapping_sub(span(offset)) as i32,
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

#[inline(never)]
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
        min: min.map(|(min, age)| (nanos(min), millis(age))),
    }
}

#[inline(never)]
fn encode_congestion(header: &CongestionHeader, una: SeqNumber) -> CongestionV1 {
    let CongestionHeader {
        cwnd,
        ssthresh,
        ref algorithm,
        hystart,
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
        hystart: hystart.map(
            |HyStartHeader {
                 end,
                 last,
                 current,
                 baseline,
                 samples,
                 rounds,
             }| HyStartV1 {
                end: from(una, end),
                last: last.wrapping_add(1),
                current: current.wrapping_add(1),
                baseline: baseline.wrapping_add(1),
                samples,
                rounds,
            },
        ),
    }
}

#[inline(never)]
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
            Phase::Open if una.after(point) => 0,
            Phase::Open => distance(point).saturating_add(1),
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

#[inline(never)]
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

#[inline(never)]
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

#[inline(never)]
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
        congestion_marks,
        ecn_reductions,
        mtu_probes,
        moves,
    } = *counters;
    let rare = RareV1 {
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
    };
    CountersV1 {
        segments_in,
        segments_out,
        moves,
        rare: (rare != RareV1::default()).then_some(rare),
    }
}

#[inline(never)]
fn encode_queues(
    queues: &Queues,
    ahead: Ahead,
    payload: &mut Rope,
) -> Result<QueuesV1, CapsuleError> {
    let Queues {
        unacked_and_unsent,
        unread,
        out_of_order,
    } = queues;
    let send = total(unacked_and_unsent)?.saturating_sub(ahead.send);
    let unread_len = total(unread)?.saturating_sub(ahead.unread);
    push_behind(unacked_and_unsent, ahead.send, payload);
    push_behind(unread, ahead.unread, payload);
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
