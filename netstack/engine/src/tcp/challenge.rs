//! Limits of the answers to what may be forged (RFC 5961 section 7): ten a second for each connection. Linux has one
//! in half a second (`tcp_invalid_ratelimit`); a few at once are let out here, as peers that reorder and
//! restart bring several about.

use super::connection::Connection;
use crate::time::Instant;

/// Limit of challenge ACKs (RFC 5961 section 7). Each connection has one, half-open ones too: what is left
/// of it is nothing to anybody else, who could else learn of the connection that used it up (CVE-2016-5696).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ChallengeLimit {
    /// The second of the clock that is being counted in.
    pub second: u32,
    /// Challenges in it.
    pub count: u8,
    /// ACKs of octets from outside the window in it: apart, so that a flood of those leaves the challenges,
    /// and with them the answers to a peer's keepalive probes, alone.
    pub strays: u8,
}

impl ChallengeLimit {
    /// Whether there may be one more.
    pub fn allow(&mut self, now: Instant) -> bool {
        self.follow(now);
        Self::take(&mut self.count)
    }

    /// Whether there may be one more answer to octets from outside the window.
    pub fn allow_stray(&mut self, now: Instant) -> bool {
        self.follow(now);
        Self::take(&mut self.strays)
    }

    fn follow(&mut self, now: Instant) {
        let second = now.wrapping_millis() / 1000;
        if self.second != second {
            *self = ChallengeLimit {
                second,
                ..ChallengeLimit::default()
            };
        }
    }

    fn take(count: &mut u8) -> bool {
        const PER_SECOND: u8 = 10;
        let allowed = *count < PER_SECOND;
        *count += u8::from(allowed);
        allowed
    }
}

impl Connection {
    /// Answer a suspicious segment with an ACK (RFC 5961), within the limit.
    pub(crate) fn challenge(&mut self, now: Instant) {
        if self.challenge.allow(now) {
            self.counters.challenges += 1;
            self.owed.ack = true;
        } else {
            self.counters.challenges_limited += 1;
        }
    }

    /// Whether octets that are none of this connection's may be answered once more.
    pub(crate) fn allow_stray(&mut self, now: Instant) -> bool {
        let allowed = self.challenge.allow_stray(now);
        self.counters.challenges_limited += u64::from(!allowed);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_stray_octets_leaves_the_challenges_alone() {
        let mut limit = ChallengeLimit::default();
        let now = Instant::from_millis(5_500);
        assert_eq!((0..100).filter(|_| limit.allow_stray(now)).count(), 10);
        assert_eq!((0..100).filter(|_| limit.allow(now)).count(), 10);
        assert!(!limit.allow_stray(now));
        assert!(
            limit.allow_stray(Instant::from_millis(6_000)),
            "its second is over"
        );
    }
}
