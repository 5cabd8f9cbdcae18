//! Export and import: a connection as a plain description, and the connection made of it on
//! another machine.
//!
//! Every field of a connection has its fate stated here, and the destructuring without `..`
//! keeps a new one from being forgotten:
//!
//! - *carried*: the same on both machines;
//! - *rebuilt*: follows from what is carried, or is the target's own affair;
//! - *re-minted*: made anew so that it goes on from where it was (clocks);
//! - *dropped because* there is a reason.
//!
//! What comes in is a stranger's: [`Connection::import`] believes nothing that does not fit together.
//!
//! All of it is `#[inline]`: so images build it as the netstack that moves sessions, small, and not as the
//! engine, for speed.

mod control;
mod header;
mod rcv;
mod snd;

use alloc::vec::Vec;
use core::fmt;

use bytes::Bytes;

pub use header::*;

use super::TcpConfig;
use super::challenge::ChallengeLimit;
use super::connection::{Chosen, Connection, Ends, Owed, TIME_WAIT, TimestampState};
use super::counters::Tally;
use super::ecn::EcnState;
use super::mtu::Search;
use super::pressure::Pressure;
use super::state::State;
use super::timer::Timer;
use crate::seq::SeqNumber;
use crate::stack::FlowKey;
use crate::time::{Duration, Instant};

/// A connection as a plain value without points in time.
#[derive(Clone, Debug)]
pub struct ConnectionState {
    /// Everything but octets.
    pub header: ConnectionHeader,
    /// The octets.
    pub queues: Queues,
}

/// The octets of a connection, as shared slices.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Queues {
    /// From SND.UNA on: outstanding ones, then those never transmitted.
    pub unacked_and_unsent: Vec<Bytes>,
    /// Received in order and not consumed, up to RCV.NXT.
    pub unread: Vec<Bytes>,
    /// Received out of order: distance from RCV.NXT and octets; what grew last comes last.
    pub out_of_order: Vec<(u32, Bytes)>,
}

/// Why a description is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ImportError {
    /// The addresses are of different families, or a port is zero.
    Addresses,
    /// The state is not one a connection can move in.
    State,
    /// The state and the ends of the streams contradict each other.
    StreamEnds,
    /// A window scale above 14.
    Scale,
    /// SND.* do not fit together, or not the queue.
    SendSequence,
    /// The description of what is outstanding does not add up.
    SentSegments,
    /// A send window or MSS no peer could have offered.
    SendWindow,
    /// RCV.* do not fit together, or not the queue.
    ReceiveSequence,
    /// Octets out of order lie outside the window.
    OutOfOrder,
    /// The receive window already advertised is larger than what can be held here.
    WindowTooLarge,
    /// A time no connection could have measured.
    Time,
    /// Congestion control out of bounds.
    Congestion,
    /// Loss recovery refers to what is not outstanding.
    Recovery,
}

impl ImportError {
    /// A short name, for counters and messages.
    pub const fn name(self) -> &'static str {
        match self {
            ImportError::Addresses => "addresses",
            ImportError::State => "state",
            ImportError::StreamEnds => "stream ends",
            ImportError::Scale => "window scale",
            ImportError::SendSequence => "send sequence",
            ImportError::SentSegments => "sent segments",
            ImportError::SendWindow => "send window",
            ImportError::ReceiveSequence => "receive sequence",
            ImportError::OutOfOrder => "out of order",
            ImportError::WindowTooLarge => "receive window too large",
            ImportError::Time => "time",
            ImportError::Congestion => "congestion",
            ImportError::Recovery => "recovery",
        }
    }
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection state refused: {}", self.name())
    }
}

impl core::error::Error for ImportError {}

/// Bound of anything measured in round trips or chosen by an application.
const LONGEST_SPAN: Duration = Duration::from_secs(24 * 3600);
/// Bound of an age.
const LONGEST_AGE: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// A retransmission time-out is put off to at least this, as far as half of it goes: the
/// acknowledgements it waits for may be travelling after the connection. Well below the time a
/// session stays before it may move again, or one that moves on and on would never retransmit.
const GRACE: Duration = Duration::from_millis(50);
/// A peer not heard for this long (while the connection was not frozen) has nothing on its way to
/// us: no grace.
const SILENCE: Duration = Duration::from_millis(300);

/// `value`, if it does not exceed `bound`.
#[inline]
fn bounded(value: Duration, bound: Duration) -> Result<Duration, ImportError> {
    match value <= bound {
        true => Ok(value),
        false => Err(ImportError::Time),
    }
}

/// `value`, if it does not exceed `bound`.
#[inline]
fn bounded_option(
    value: Option<Duration>,
    bound: Duration,
) -> Result<Option<Duration>, ImportError> {
    value.map(|value| bounded(value, bound)).transpose()
}

/// `error` unless `condition` holds.
#[inline]
fn ensure(condition: bool, error: ImportError) -> Result<(), ImportError> {
    match condition {
        true => Ok(()),
        false => Err(error),
    }
}

impl Connection {
    /// Describe the connection as it is at `now`, the moment of the freeze. Connections in states
    /// that cannot move ([`State::is_synchronized`]) are described too, and refused by import.
    #[inline]
    pub fn export(self, now: Instant) -> ConnectionState {
        let Connection {
            ends,                   // carried
            state,                  // carried
            error: _,               // dropped because a dead connection does not move
            options,                // carried
            max_retransmits: _,     // rebuilt: the target's policy
            max_syn_retransmits: _, // rebuilt: only the handshake needs it
            path_mtu,               // carried; the target's own link may lower it
            link_mtu: _,            // rebuilt: the target's own link
            search,                 // carried
            ecn,                    // carried
            peer_timeout,           // carried
            soft_error,             // carried
            offered_scale: _,       // dropped because only the handshake needs it
            sack,                   // carried
            timestamps,             // carried; the clock's offset is re-minted
            snd,                    // see `snd`
            rcv,                    // see `rcv`
            rtt,                    // see `control`
            congestion,             // see `control`
            recovery,               // see `control`
            timers,                 // carried as remaining times
            owed,                   // carried, without what a moving state never owes
            attempts,               // carried
            heard_at,               // carried as an age
            progress_at, // carried as an age while octets are outstanding or wait for a window
            challenge: _, // dropped because its window is a second
            counters,    // carried; the move itself is counted
            pressure: _, // rebuilt: the target's own
            updated: _,  // rebuilt: the target's application has to look anyway
        } = self;
        let Owed {
            ack,            // carried
            duplicate_acks, // carried
            syn: _,         // dropped because no synchronised state owes one
            probe,          // carried
            reset: _,       // dropped because a dead connection does not move
            stray_reset: _, // dropped because no synchronised state owes one
            push,           // carried
            user_timeout,   // carried
        } = owed;
        let FlowKey { local, remote } = ends.flow();
        // At other times it means nothing: it begins anew with what is sent next.
        let waits = snd.outstanding() > 0 || timers.persist.is_set();
        let progress_age = waits.then(|| now.since(progress_at));
        let mut queues = Queues::default();
        let header = ConnectionHeader {
            local,
            remote,
            state,
            options: *options,
            path_mtu,
            search: search.map(|search| {
                let Search {
                    high,  // carried
                    next,  // carried as a remaining time
                    probe, // carried
                    claim, // carried
                } = *search;
                SearchHeader {
                    high,
                    next: next.since(now),
                    probe,
                    claim,
                }
            }),
            ecn: {
                let EcnState {
                    agreed,
                    echo,
                    reduced,
                    point,
                } = ecn;
                EcnHeader {
                    agreed,
                    echo,
                    reduced,
                    point,
                }
            },
            peer_timeout,
            soft_error,
            sack,
            timestamps: timestamps.map(|timestamps| {
                let value = timestamps.value(now);
                let TimestampState {
                    offset: _,     // re-minted from `value`
                    recent,        // carried
                    recent_at,     // carried as an age
                    valid_from: _, // re-minted: `value`
                } = timestamps;
                TimestampHeader {
                    value,
                    recent,
                    recent_age: now.since(recent_at),
                }
            }),
            snd: snd.export(now, &mut queues),
            rcv: rcv.export(&mut queues),
            rtt: control::export_rtt(&rtt, now),
            congestion: control::export_congestion(congestion, now),
            recovery: control::export_recovery(recovery, now),
            timers: control::export_timers(timers, now),
            owed: OwedHeader {
                ack,
                duplicate_acks,
                probe,
                push,
                user_timeout,
            },
            attempts,
            heard_age: now.since(heard_at),
            progress_age,
            counters: counters.into(),
        };
        ConnectionState { header, queues }
    }

    /// Go on with a connection described elsewhere. `mtu`: octets of an IP packet our link carries.
    #[inline]
    pub fn import(
        description: ConnectionState,
        now: Instant,
        config: &TcpConfig,
        mtu: u16,
    ) -> Result<Connection, ImportError> {
        let ConnectionState { header, mut queues } = description;
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
        let same_family = local.is_ipv4() == remote.is_ipv4();
        ensure(
            same_family && local.port() != 0 && remote.port() != 0,
            ImportError::Addresses,
        )?;
        ensure(state.is_synchronized(), ImportError::State)?;
        ensure(path_mtu >= 68, ImportError::SendWindow)?;
        check_ends(state, snd.end, rcv.end)?;
        control::check_options(&options)?;
        let timestamps = match timestamps {
            None => None,
            Some(TimestampHeader {
                value,
                recent,
                recent_age,
            }) => Some(TimestampState {
                offset: value.wrapping_sub(now.wrapping_millis()),
                recent,
                recent_at: now - bounded(recent_age, LONGEST_AGE)?,
                valid_from: Some(value),
            }),
        };
        let snd = snd.import(now, sack, &mut queues)?;
        let mut rcv = rcv.import(config, &mut queues)?;
        rcv.set_floor(timestamps.map_or(0, |ours: TimestampState| ours.recent));
        let rtt = control::import_rtt(rtt, now, options.min_rto)?;
        let congestion = control::import_congestion(congestion, now)?;
        let recovery = control::import_recovery(recovery, now, sack, &snd)?;
        let mut timers = control::import_timers(timers, now)?;
        let search = control::import_search(search, now, &snd)?;
        let known = |seq: SeqNumber| seq.at_or_before(snd.nxt);
        ensure(ecn.point.is_none_or(known), ImportError::Recovery)?;
        let mut counters = Tally::from(counters);
        counters.moves = counters.moves.saturating_add(1);
        // Nothing is retransmitted just because of the move, and the time-out is armed whatever
        // the description says: else a lost tail would never be repaired.
        if snd.outstanding() > 0 {
            let grace = |bound: Duration| match heard_age > SILENCE.max(rtt.rto()) {
                true => now,
                false => now + bound,
            };
            let least = grace((rtt.rto() / 2).min(GRACE));
            let at = timers.retransmit.deadline().unwrap_or(now + rtt.rto());
            timers.retransmit = Timer::at(at.max(least));
            if let Some(at) = timers.probe.deadline() {
                let least = grace(rtt.srtt().unwrap_or_default() + GRACE / 4);
                timers.probe = Timer::at(at.max(least));
            }
        }
        let stopped = rcv.window() < 2 * u32::from(rcv.full_size) && rcv.owes_update();
        if state == State::TimeWait && !timers.linger.is_set() {
            timers.linger = Timer::at(now + TIME_WAIT);
        }
        Ok(Connection {
            ends: Ends::new(&FlowKey { local, remote }),
            state,
            error: None,
            options: Chosen::new(options),
            max_retransmits: config.max_retransmits,
            max_syn_retransmits: config.max_syn_retransmits,
            path_mtu: path_mtu.min(mtu),
            link_mtu: mtu,
            search,
            ecn: EcnState {
                agreed: ecn.agreed,
                echo: ecn.echo,
                reduced: ecn.reduced,
                point: ecn.point,
            },
            peer_timeout,
            soft_error,
            offered_scale: rcv.scale,
            sack,
            timestamps,
            snd,
            rcv,
            rtt,
            congestion,
            recovery,
            timers,
            owed: Owed {
                // A peer whose window was held until it stopped does not know that it may go on.
                ack: owed.ack || stopped,
                duplicate_acks: owed.duplicate_acks.min(8),
                syn: false,
                probe: owed.probe,
                reset: false,
                stray_reset: None,
                push: owed.push,
                user_timeout: owed.user_timeout,
            },
            attempts,
            heard_at: now - bounded(heard_age, LONGEST_AGE)?,
            progress_at: now - bounded(progress_age.unwrap_or_default(), LONGEST_AGE)?,
            challenge: ChallengeLimit::default(),
            counters,
            pressure: Pressure::None,
            updated: true,
        })
    }
}

/// What each state says of the two ends of stream.
#[inline]
fn check_ends(state: State, snd: SndEnd, rcv: RcvEnd) -> Result<(), ImportError> {
    let ours = match state {
        State::Established | State::CloseWait => snd == SndEnd::Open,
        State::FinWait1 | State::Closing | State::LastAck => {
            matches!(snd, SndEnd::Queued | SndEnd::Sent)
        }
        State::FinWait2 | State::TimeWait => snd == SndEnd::Acknowledged,
        State::SynSent | State::SynReceived | State::Closed => false,
    };
    let theirs = match state {
        State::Established | State::FinWait1 | State::FinWait2 => rcv != RcvEnd::Received,
        _ => rcv == RcvEnd::Received,
    };
    ensure(ours && theirs, ImportError::StreamEnds)
}
