//! Export and import of what controls a connection: estimators, congestion, recovery, timers.

use alloc::boxed::Box;

use super::super::congestion::cubic::Cubic;
use super::super::congestion::hystart::HyStart;
use super::super::congestion::{Algorithm, Congestion, MAX_WINDOW, NO_THRESHOLD};
use super::super::connection::{Keepalive, SocketOptions};
use super::super::mtu::Search;
use super::super::recovery::prr::Prr;
use super::super::recovery::rack::Rack;
use super::super::recovery::tlp::Tlp;
use super::super::recovery::undo::{Episode, Undo};
use super::super::recovery::{Phase, Recovery};
use super::super::rtt::RttEstimator;
use super::super::snd::Snd;
use super::super::timer::{Timer, Timers};
use super::{
    AlgorithmHeader, CongestionHeader, HyStartHeader, ImportError, LONGEST_AGE, LONGEST_SPAN,
    RackHeader, RecoveryHeader, RttHeader, SearchHeader, TimersHeader, TlpHeader, UndoHeader,
    bounded, bounded_option, ensure,
};
use crate::seq::SeqNumber;
use crate::time::{Duration, Instant};

#[inline]
pub(super) fn check_options(options: &SocketOptions) -> Result<(), ImportError> {
    let SocketOptions {
        nagle: _,
        ack_delay,
        peer_ack_delay,
        min_rto,
        keepalive,
        user_timeout,
        exchange_user_timeout: _,
        ecn: _,
        mtu_probing: _,
    } = options;
    for span in [ack_delay, peer_ack_delay, min_rto] {
        bounded(*span, LONGEST_SPAN)?;
    }
    if let Some(Keepalive {
        idle,
        interval,
        probes: _,
    }) = keepalive
    {
        bounded(*idle, LONGEST_AGE)?;
        bounded(*interval, LONGEST_AGE)?;
    }
    bounded_option(*user_timeout, LONGEST_AGE)?;
    Ok(())
}

#[inline]
pub(super) fn export_rtt(rtt: &RttEstimator, now: Instant) -> RttHeader {
    let RttEstimator {
        srtt: _,    // carried
        rttvar: _,  // carried
        min: _,     // carried
        min_at: _,  // carried as an age
        backoff,    // carried
        min_rto: _, // rebuilt from the socket's options
    } = *rtt;
    RttHeader {
        srtt: rtt.srtt(),
        rttvar: rtt.rttvar(),
        backoff: u32::from(backoff),
        min: rtt.min().map(|(min, taken)| (min, now.since(taken))),
    }
}

#[inline]
pub(super) fn import_rtt(
    header: RttHeader,
    now: Instant,
    min_rto: Duration,
) -> Result<RttEstimator, ImportError> {
    let RttHeader {
        srtt,
        rttvar,
        backoff,
        min,
    } = header;
    let min = match min {
        None => None,
        Some((min, age)) => Some((
            bounded(min, LONGEST_SPAN)?,
            now - bounded(age, LONGEST_AGE)?,
        )),
    };
    Ok(RttEstimator::resume(
        bounded_option(srtt, LONGEST_SPAN)?,
        bounded(rttvar, LONGEST_SPAN)?,
        min,
        backoff.min(64) as u8,
        min_rto,
    ))
}

#[inline]
pub(super) fn export_congestion(congestion: Congestion, now: Instant) -> CongestionHeader {
    let Congestion {
        cwnd,      // carried
        ssthresh,  // carried
        algorithm, // carried with its private state
        hystart,   // carried
        near: _,   // dropped because channels do not move
    } = congestion;
    let algorithm = match algorithm {
        Algorithm::NewReno { credit } => AlgorithmHeader::NewReno { credit },
        Algorithm::Cubic(cubic) => {
            let Cubic {
                w_max,  // carried
                prior,  // carried
                epoch,  // carried as an age: the time of the move does not count
                k_ms,   // carried
                w_est,  // carried
                credit, // carried
                paused, // carried as an age
            } = cubic;
            AlgorithmHeader::Cubic {
                w_max,
                prior,
                epoch_age: epoch.map(|at| now.since(at)),
                k_ms: k_ms.into(),
                w_est,
                credit: credit.into(),
                paused_age: paused.map(|at| now.since(at)),
            }
        }
    };
    let HyStart {
        end,
        last,
        current,
        baseline,
        samples,
        rounds,
    } = hystart;
    CongestionHeader {
        cwnd,
        ssthresh,
        algorithm,
        hystart: (ssthresh == NO_THRESHOLD && hystart != HyStart::default()).then_some(
            HyStartHeader {
                end,
                last,
                current,
                baseline,
                samples,
                rounds,
            },
        ),
    }
}

#[inline]
pub(super) fn import_congestion(
    header: CongestionHeader,
    now: Instant,
) -> Result<Congestion, ImportError> {
    let CongestionHeader {
        cwnd,
        ssthresh,
        algorithm,
        hystart,
    } = header;
    // Recovery may put twice what is outstanding into the window for a moment.
    ensure(
        cwnd > 0 && cwnd <= 4 * (MAX_WINDOW / 2) && ssthresh > 0,
        ImportError::Congestion,
    )?;
    let algorithm = match algorithm {
        AlgorithmHeader::NewReno { credit } => Algorithm::NewReno { credit },
        AlgorithmHeader::Cubic {
            w_max,
            prior,
            epoch_age,
            k_ms,
            w_est,
            credit,
            paused_age,
        } => {
            ensure(
                w_max <= MAX_WINDOW && k_ms <= 10_000_000 && w_est <= 1 << 48 && credit <= 1 << 31,
                ImportError::Congestion,
            )?;
            Algorithm::Cubic(Cubic {
                w_max,
                prior,
                epoch: bounded_option(epoch_age, LONGEST_AGE)?.map(|age| now - age),
                k_ms: k_ms as u32,
                w_est,
                credit: credit as u32,
                paused: bounded_option(paused_age, LONGEST_AGE)?.map(|age| now - age),
            })
        }
    };
    let hystart = match hystart {
        None => HyStart::default(),
        Some(HyStartHeader {
            end,
            last,
            current,
            baseline,
            samples,
            rounds,
        }) => HyStart {
            end,
            last,
            current,
            baseline,
            samples,
            rounds: rounds.min(5),
        },
    };
    Ok(Congestion {
        cwnd,
        ssthresh,
        algorithm,
        hystart,
        near: false,
    })
}

#[inline]
pub(super) fn export_recovery(recovery: Recovery, now: Instant) -> RecoveryHeader {
    let Recovery {
        phase,          // carried
        point,          // carried
        rack,           // carried
        tlp,            // carried
        prr,            // carried
        undo,           // carried: its TSval stays meaningful, the clock goes on
        duplicate_acks, // carried
    } = recovery;
    let Rack {
        xmit, // carried as an age
        end,
        again: _, // dropped: of ties with another retransmission nothing is then concluded
        rtt_nanos,
        fack,
        reordering_seen,
        dsack_round,
        multiplier,
        persist,
    } = rack;
    let Tlp {
        end: tlp_end,
        retransmission,
        due,
    } = tlp;
    let Prr {
        delivered,
        sent,
        flight,
    } = prr;
    let Undo(episode) = undo;
    let Episode {
        from,
        until,
        cwnd,
        ssthresh,
        algorithm: _, // dropped: CUBIC then begins a new stage
        stamp,
        retransmitted,
        unreported,
    } = episode.map_or_else(Episode::default, |episode| *episode);
    RecoveryHeader {
        phase,
        point,
        rack: RackHeader {
            xmit_age: xmit.map(|at| now.since(at)),
            end,
            rtt: Duration::from_nanos(rtt_nanos),
            fack,
            reordering_seen,
            dsack_round,
            multiplier,
            persist,
        },
        tlp: TlpHeader {
            end: tlp_end,
            retransmission,
            due,
        },
        prr: (delivered, sent, flight),
        undo: UndoHeader {
            from,
            until,
            cwnd,
            ssthresh,
            stamp,
            retransmitted,
            unreported,
        },
        duplicate_acks: duplicate_acks.into(),
    }
}

#[inline]
pub(super) fn import_recovery(
    header: RecoveryHeader,
    now: Instant,
    sack: bool,
    snd: &Snd,
) -> Result<Recovery, ImportError> {
    let RecoveryHeader {
        phase,
        point,
        rack,
        tlp,
        prr: (delivered, sent, flight),
        undo,
        duplicate_acks,
    } = header;
    // Without SACK there is no RACK: what its variables say is long past.
    let rack = match sack {
        true => rack,
        false => RackHeader {
            end: snd.una,
            fack: snd.una,
            dsack_round: None,
            ..rack
        },
    };
    let sent_already = |seq: SeqNumber| seq.at_or_before(snd.nxt);
    let outstanding = |seq: SeqNumber| sent_already(seq) && seq.at_or_after(snd.una);
    let known = [rack.end, rack.fack].into_iter().all(sent_already)
        && rack.dsack_round.is_none_or(sent_already)
        && undo.from.is_none_or(sent_already)
        && undo.until.is_none_or(sent_already)
        && tlp.end.is_none_or(outstanding)
        && (phase == Phase::Open || outstanding(point));
    ensure(known, ImportError::Recovery)?;
    let episode = Episode {
        from: undo.from,
        until: undo.until,
        cwnd: undo.cwnd.min(MAX_WINDOW),
        ssthresh: undo.ssthresh,
        algorithm: None,
        stamp: undo.stamp,
        retransmitted: undo.retransmitted,
        unreported: undo.unreported,
    };
    Ok(Recovery {
        phase,
        // Outside an episode the point is past; it must not come to lie ahead when numbers wrap.
        point: match phase {
            Phase::Open if snd.una.after(point) || point.after(snd.nxt) => snd.una.sub(1),
            _ => point,
        },
        rack: Rack {
            xmit: bounded_option(rack.xmit_age, LONGEST_AGE)?.map(|age| now - age),
            end: rack.end,
            again: false,
            rtt_nanos: bounded(rack.rtt, LONGEST_SPAN)?.as_nanos() as u64,
            fack: rack.fack,
            reordering_seen: rack.reordering_seen,
            dsack_round: rack.dsack_round,
            multiplier: rack.multiplier.clamp(1, 20),
            persist: rack.persist,
        },
        tlp: Tlp {
            end: tlp.end,
            retransmission: tlp.retransmission,
            due: tlp.due,
        },
        prr: Prr {
            delivered,
            sent,
            flight: flight.max(1),
        },
        undo: Undo((episode != Episode::default()).then(|| Box::new(episode))),
        duplicate_acks: duplicate_acks.min(u32::from(u16::MAX)) as u16,
    })
}

#[inline]
pub(super) fn import_search(
    search: Option<SearchHeader>,
    now: Instant,
    snd: &Snd,
) -> Result<Option<Box<Search>>, ImportError> {
    let Some(SearchHeader {
        high,
        next,
        probe,
        claim,
    }) = search
    else {
        return Ok(None);
    };
    // A probe and a claim are about what is outstanding, and a claim about a size hosts must take.
    let outstanding = |seq: SeqNumber| seq.at_or_after(snd.una) && seq.before(snd.nxt);
    let fits = high >= 68
        && probe.is_none_or(|(seq, size)| outstanding(seq) && size >= 68)
        && claim.is_none_or(|(seq, size)| outstanding(seq) && size >= 576);
    ensure(fits, ImportError::Recovery)?;
    Ok(Some(Box::new(Search {
        high,
        next: now + bounded(next, LONGEST_SPAN)?,
        probe,
        claim,
    })))
}

#[inline]
pub(super) fn export_timers(timers: Timers, now: Instant) -> TimersHeader {
    let Timers {
        retransmit,
        probe,
        reorder,
        persist,
        delayed_ack,
        linger,
        keepalive,
        pace: _, // rebuilt: armed when octets want to leave
    } = timers;
    TimersHeader {
        retransmit: retransmit.remaining(now),
        probe: probe.remaining(now),
        reorder: reorder.remaining(now),
        persist: persist.remaining(now),
        delayed_ack: delayed_ack.remaining(now),
        linger: linger.remaining(now),
        keepalive: keepalive.remaining(now),
    }
}

#[inline]
pub(super) fn import_timers(header: TimersHeader, now: Instant) -> Result<Timers, ImportError> {
    let TimersHeader {
        retransmit,
        probe,
        reorder,
        persist,
        delayed_ack,
        linger,
        keepalive,
    } = header;
    let timer = |remaining, bound| {
        bounded_option(remaining, bound).map(|remaining| Timer::after(now, remaining))
    };
    Ok(Timers {
        retransmit: timer(retransmit, LONGEST_SPAN)?,
        probe: timer(probe, LONGEST_SPAN)?,
        reorder: timer(reorder, LONGEST_SPAN)?,
        persist: timer(persist, LONGEST_SPAN)?,
        delayed_ack: timer(delayed_ack, LONGEST_SPAN)?,
        linger: timer(linger, LONGEST_SPAN)?,
        pace: Timer::default(),
        keepalive: timer(keepalive, LONGEST_AGE)?,
    })
}
