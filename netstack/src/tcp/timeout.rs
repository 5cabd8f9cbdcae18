//! Deadlines passed: retransmission time-out (RFC 6298 section 5), probes, delayed ACK, TIME-WAIT.

use super::congestion::Congestion;
use super::connection::{Connection, ConnectionError, IcmpError};
use super::recovery::Phase;
use super::snd::Marks;
use super::state::State;
use crate::seq::SeqNumber;
use crate::time::{Duration, Instant};

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
                State::SynSent | State::SynReceived => self.repeat_syn(),
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
        if self.timers.linger.take_due(now) {
            self.die(None);
        }
    }

    fn repeat_syn(&mut self) {
        if self.attempts >= self.max_retransmits.min(6) {
            return self.die(Some(ConnectionError::TimedOut));
        }
        self.attempts += 1;
        self.owed.syn = true;
    }

    /// Whether to give the peer up.
    fn is_hopeless(&self, now: Instant) -> bool {
        match self.options.user_timeout {
            Some(limit) => now.since(self.heard_at) >= limit && self.attempts > 0,
            None => self.attempts >= self.max_retransmits,
        }
    }

    /// RFC 6298 section 5.4 to 5.7, RFC 5681 section 3.1, RFC 8985 section 6.3.
    fn retransmission_timeout(&mut self, now: Instant) {
        if self.snd.outstanding() == 0 {
            return;
        }
        if self.is_hopeless(now) {
            return self.die(Some(ConnectionError::TimedOut));
        }
        self.counters.timeouts += 1;
        self.attempts = self.attempts.saturating_add(1);
        let mss = u32::from(self.mss());
        if self.recovery.phase != Phase::Loss {
            let Congestion { cwnd, ssthresh, .. } = self.congestion;
            self.recovery.undo.begin(self.snd.una, cwnd, ssthresh);
            self.congestion.on_congestion(mss);
        }
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
        self.timers.retransmit.set(now + self.rtt.rto());
    }

    /// The window is closed (or too small) and nothing is in flight that would be answered.
    fn persist_timeout(&mut self, now: Instant) {
        if self.snd.outstanding() > 0 || !self.snd.has_unsent() {
            return;
        }
        if self.is_hopeless(now) {
            return self.die(Some(ConnectionError::TimedOut));
        }
        match self.snd.window {
            0 => {
                self.owed.probe = true;
                self.attempts = self.attempts.saturating_add(1);
            }
            _ => self.owed.push = true,
        }
        self.rtt.backoff = self.rtt.backoff.saturating_add(1);
        self.timers.persist.set(now + self.rtt.rto());
    }

    fn keepalive_timeout(&mut self, now: Instant) {
        let Some(keepalive) = self.options.keepalive else {
            return;
        };
        // Octets in flight or a closed window are probed already.
        if self.snd.outstanding() > 0 || self.snd.has_unsent() {
            return self.timers.keepalive.set(now + keepalive.idle);
        }
        if self.attempts >= keepalive.probes {
            return self.reset(ConnectionError::TimedOut);
        }
        self.attempts = self.attempts.saturating_add(1);
        self.owed.probe = true;
        self.timers.keepalive.set(now + keepalive.interval);
    }

    /// The path now takes IP packets of `mtu` octets. What is in flight and larger counts as lost, not as congestion.
    pub fn set_path_mtu(&mut self, _now: Instant, mtu: u16) {
        let before = self.mss();
        self.path_mtu = mtu;
        let mss = self.mss();
        if mss >= before || !self.state.is_synchronized() {
            return;
        }
        for index in 0..self.snd.sent.len() {
            let fits = self
                .snd
                .sent
                .get(index)
                .is_none_or(|segment| segment.len <= u32::from(mss));
            if !fits {
                self.snd.mark_lost(index);
            }
        }
        self.congestion.cwnd = self.congestion.cwnd.max(u32::from(mss));
    }

    /// An ICMP error quoted a segment of ours with sequence number `quoted` (RFC 5927 section 4.1:
    /// believed only if that is outstanding).
    pub fn handle_icmp_error(&mut self, now: Instant, error: IcmpError, quoted: SeqNumber) {
        let outstanding = self.snd.outstanding();
        if !quoted.in_window(self.snd.una, outstanding) {
            return;
        }
        match error {
            IcmpError::PacketTooBig { mtu } => {
                let least = if self.ends.is_ipv4() { 576 } else { 1280 };
                let mtu = mtu.max(least);
                if mtu < self.path_mtu {
                    self.set_path_mtu(now, mtu);
                }
            }
            // A hard error while opening, a passing one afterwards (RFC 9293 section 3.9.2.2).
            IcmpError::Unreachable if self.state == State::SynSent => {
                self.die(Some(ConnectionError::Unreachable));
            }
            IcmpError::Unreachable => {}
        }
    }

    /// The time-out a repeated SYN waits for.
    pub(crate) fn syn_timeout(&self) -> Duration {
        super::rtt::INITIAL_RTO * (1 << self.attempts.min(6))
    }
}
