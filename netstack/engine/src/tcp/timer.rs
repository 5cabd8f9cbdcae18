//! Deadlines. A connection owns no timer: it says when it wants to be called
//! ([`super::Connection::poll_timeout`]) and finds out itself which deadlines have passed.

use crate::time::{Duration, Instant};

/// A deadline that may be unset.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Timer(Option<Instant>);

impl Timer {
    /// Due at `at`.
    pub fn at(at: Instant) -> Timer {
        Timer(Some(at))
    }

    /// The deadline, if set.
    pub fn deadline(self) -> Option<Instant> {
        self.0
    }

    pub fn is_set(self) -> bool {
        self.0.is_some()
    }

    pub fn set(&mut self, at: Instant) {
        self.0 = Some(at);
    }

    pub fn clear(&mut self) {
        self.0 = None;
    }

    /// Set, unless already set to something sooner.
    pub fn set_by(&mut self, at: Instant) {
        self.0 = Some(self.0.map_or(at, |set| set.min(at)));
    }

    /// Whether the deadline has passed; if so it is unset.
    pub fn take_due(&mut self, now: Instant) -> bool {
        let due = self.0.is_some_and(|at| at <= now);
        if due {
            self.0 = None;
        }
        due
    }

    /// Time left until the deadline: the form in which a timer travels.
    pub fn remaining(self, now: Instant) -> Option<Duration> {
        self.0.map(|at| at.since(now))
    }

    /// A timer with `remaining` left.
    pub fn after(now: Instant, remaining: Option<Duration>) -> Timer {
        Timer(remaining.map(|remaining| now + remaining))
    }
}

/// The timers of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timers {
    /// Retransmission time-out (RFC 6298); the SYN's too.
    pub retransmit: Timer,
    /// Probe time-out (RFC 8985 section 7).
    pub probe: Timer,
    /// When RACK is to look again for segments reordered too long (RFC 8985 section 6.2).
    pub reorder: Timer,
    /// Zero-window probe, or the sender's silly-window override (RFC 9293 section 3.8.6).
    pub persist: Timer,
    /// Delayed acknowledgement.
    pub delayed_ack: Timer,
    /// End of TIME-WAIT, or of waiting in FIN-WAIT-2 for a peer nobody listens to any more.
    pub linger: Timer,
    /// Keepalive probe.
    pub keepalive: Timer,
    /// When paced octets may leave.
    pub pace: Timer,
}

impl Timers {
    /// The soonest deadline.
    pub fn next(&self) -> Option<Instant> {
        let Timers {
            retransmit,
            probe,
            reorder,
            persist,
            delayed_ack,
            linger,
            keepalive,
            pace,
        } = self;
        [
            retransmit,
            probe,
            reorder,
            persist,
            delayed_ack,
            linger,
            keepalive,
            pace,
        ]
        .into_iter()
        .filter_map(|timer| timer.deadline())
        .min()
    }
}
