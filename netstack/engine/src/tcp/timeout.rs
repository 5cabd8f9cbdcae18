//! Deadlines passed: retransmission time-out (RFC 6298 section 5), probes, delayed ACK, TIME-WAIT.

use super::congestion::Congestion;
use super::connection::{Connection, ConnectionError};
use super::recovery::Phase;
use super::segment::Segment;
use super::snd::Marks;
use super::state::State;
use crate::time::{Duration, Instant};

/// Bit of the user timeout option that says minutes.
const UTO_MINUTES: u16 = 0x8000;
/// A peer's user timeout is followed between these (RFC 5482 section 3.1, L_LIMIT and U_LIMIT).
const LEAST_TIMEOUT: Duration = Duration::from_secs(100);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3600);
/// What the peer is told where no user timeout was chosen (RFC 9293 section 3.8.3).
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);

impl Connection {
    /// When [`Connection::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Do what is due. Calling it early is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.timers.delayed_ack.take_due(now) {
            self.owed.ack = true;
        }
        if self.timers.reorder.take_due(now)
            && self.detect_losses(now)
            && self.recovery.phase == Phase::Open
        {
            self.enter_recovery();
        }
        // A probe due together with the time-out gives way to it (RFC 8985 section 7.3).
        if self.timers.retransmit.take_due(now) {
            self.timers.probe.clear();
            match self.state {
                State::SynSent | State::SynReceived => self.repeat_syn(now),
                _ => self.retransmission_timeout(now),
            }
        }
        if self.timers.probe.take_due(now) && self.recovery.phase == Phase::Open {
            self.recovery.tlp.due = self.snd.outstanding() > 0;
        }
        if self.timers.persist.take_due(now) {
            self.persist_timeout(now);
        }
        if self.timers.keepalive.take_due(now) {
            self.keepalive_timeout(now);
        }
        // What it let wait is asked for by `poll_transmit`.
        self.timers.pace.take_due(now);
        if self.timers.linger.take_due(now) {
            self.die(None);
        }
    }

    fn repeat_syn(&mut self, now: Instant) {
        let limit = self.options.user_timeout;
        let out_of_time = limit.is_some_and(|limit| now.since(self.progress_at) >= limit);
        if self.attempts >= self.max_syn_retransmits || out_of_time {
            return self.give_up();
        }
        self.attempts += 1;
        self.owed.syn = true;
    }

    /// Nobody answers.
    fn give_up(&mut self) {
        let error = match self.soft_error {
            true => ConnectionError::Unreachable,
            false => ConnectionError::TimedOut,
        };
        self.die(Some(error));
    }

    /// Whether to give the peer up, having got nowhere since `since`.
    fn is_hopeless(&self, now: Instant, since: Instant) -> bool {
        match self.user_timeout() {
            Some(limit) => now.since(since) >= limit && self.attempts > 0,
            None => self.attempts >= self.max_retransmits,
        }
    }

    /// The user timeout in force: ours, or the peer's where we are to follow it (RFC 5482 section 3.1).
    pub(crate) fn user_timeout(&self) -> Option<Duration> {
        let followed = self.options.exchange_user_timeout && self.peer_timeout != 0;
        self.options.user_timeout.or_else(|| {
            followed.then(|| {
                let count = u64::from(self.peer_timeout & !UTO_MINUTES);
                let seconds = match self.peer_timeout & UTO_MINUTES {
                    0 => count,
                    _ => count * 60,
                };
                Duration::from_secs(seconds).clamp(LEAST_TIMEOUT, LONGEST_TIMEOUT)
            })
        })
    }

    /// The option that tells the peer our user timeout.
    pub(crate) fn user_timeout_option(&self) -> Option<u16> {
        if !self.options.exchange_user_timeout {
            return None;
        }
        let seconds = self
            .options
            .user_timeout
            .unwrap_or(DEFAULT_TIMEOUT)
            .as_secs()
            .max(1);
        let (count, unit) = match seconds < u64::from(UTO_MINUTES) {
            true => (seconds, 0),
            false => (seconds.div_ceil(60), UTO_MINUTES),
        };
        Some(count.min(u64::from(UTO_MINUTES - 1)) as u16 | unit)
    }

    pub(crate) fn note_user_timeout(&mut self, segment: &Segment) {
        if let Some(timeout) = segment.options.user_timeout {
            self.peer_timeout = timeout;
        }
    }

    /// When the time-out ends; not beyond our user timeout, counted from `since`, which is found out then.
    fn due(&self, now: Instant, since: Instant) -> Instant {
        let at = now + self.rtt.rto();
        let end = self.options.user_timeout.map(|limit| since + limit);
        match end.filter(|end| *end > now) {
            Some(end) => at.min(end),
            None => at,
        }
    }

    /// Set the retransmission time-out.
    pub(crate) fn arm_retransmit(&mut self, now: Instant) {
        self.timers.retransmit.set(self.due(now, self.progress_at));
    }

    /// RFC 6298 section 5.4 to 5.7, RFC 5681 section 3.1, RFC 8985 section 6.3.
    fn retransmission_timeout(&mut self, now: Instant) {
        if self.snd.outstanding() == 0 {
            return;
        }
        self.attempts = self.attempts.saturating_add(1);
        if self.attempts > self.max_retransmits && self.user_timeout().is_none()
            || self.user_timeout().is_some() && self.is_hopeless(now, self.progress_at)
        {
            return self.give_up();
        }
        self.counters.timeouts += 1;
        self.search_timed_out(now);
        let mss = u32::from(self.mss());
        if self.recovery.phase != Phase::Loss {
            let Congestion {
                cwnd,
                ssthresh,
                algorithm,
                ..
            } = self.congestion;
            self.recovery.undo.begin(self.snd.una, cwnd, ssthresh);
            self.recovery.undo.keep(algorithm);
            self.congestion.on_congestion(self.snd.outstanding(), mss);
            self.on_reduction();
        }
        self.congestion.on_timeout();
        self.recovery.phase = Phase::Loss;
        self.recovery.point = self.snd.nxt;
        self.recovery.tlp = Default::default();
        self.recovery.duplicate_acks = 0;
        self.snd.reno_sacked = 0;
        if self
            .snd
            .sent
            .front()
            .is_some_and(|front| front.marks.has(Marks::SACKED))
        {
            // The peer dropped what it said it holds.
            self.snd.forget_sacked();
        }
        if self.sack {
            let window =
                self.recovery
                    .rack
                    .reorder_window(self.rtt.srtt(), self.rtt.min_rtt(), true);
            self.recovery
                .rack
                .mark_on_timeout(now, &mut self.snd, window);
        } else {
            for index in 0..self.snd.sent.len() {
                self.snd.mark_lost(index);
            }
        }
        self.timers.reorder.clear();
        self.congestion.cwnd = self.snd.in_flight() + mss;
        self.rtt.backoff = self.rtt.backoff.saturating_add(1);
        self.arm_retransmit(now);
    }

    /// The window is closed (or too small) and nothing is in flight that would be answered.
    fn persist_timeout(&mut self, now: Instant) {
        if self.snd.outstanding() > 0 || !self.snd.has_unsent() {
            return;
        }
        // A peer that answers is probed for ever, however long its window stays closed.
        if self.is_hopeless(now, self.heard_at) {
            return self.give_up();
        }
        if self.is_impatient(now) {
            return self.reset(ConnectionError::TimedOut);
        }
        match self.snd.window {
            0 => {
                self.owed.probe = true;
                self.attempts = self.attempts.saturating_add(1);
            }
            _ => self.owed.push = true,
        }
        self.rtt.backoff = self.rtt.backoff.saturating_add(1);
        self.timers.persist.set(self.due(now, self.heard_at));
    }

    fn keepalive_timeout(&mut self, now: Instant) {
        let Some(keepalive) = self.options.keepalive else {
            return;
        };
        // Octets in flight or a closed window are probed already.
        if self.snd.outstanding() > 0 || self.snd.has_unsent() {
            return self.timers.keepalive.set(now + keepalive.idle);
        }
        let dead = match self.user_timeout() {
            Some(limit) => self.attempts > 0 && now.since(self.heard_at) >= limit,
            None => self.attempts >= keepalive.probes,
        };
        if dead {
            return self.reset(ConnectionError::TimedOut);
        }
        self.attempts = self.attempts.saturating_add(1);
        self.owed.probe = true;
        self.timers.keepalive.set(now + keepalive.interval);
    }

    /// The time-out a repeated SYN waits for.
    pub(crate) fn syn_timeout(&self) -> Duration {
        super::rtt::INITIAL_RTO * (1 << self.attempts.min(6))
    }
}
