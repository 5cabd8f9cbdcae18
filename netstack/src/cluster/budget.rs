//! What a peer may cost: token buckets for its messages and its handshakes.
//!
//! Whoever holds the key may speak, but not without end. [`Budget`] says of every message whether
//! it is handled now, handled later (the channel is not read until then, so TCP holds the sender
//! back) or not at all. Nothing that is dropped is needed for correctness: a query that is not
//! answered means silence, and silence is not a no; a heartbeat that is not read is one that was
//! lost.

use super::message::Message;
use crate::time::{Duration, Instant};

/// Credit per token; one nanosecond at `rate` tokens a second earns `rate` of it.
const SCALE: i64 = 1_000_000_000;

/// So many tokens a second, and so many at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limit {
    /// Tokens a second.
    pub rate: u32,
    /// Tokens that may be saved up.
    pub burst: u32,
}

/// A token bucket.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    limit: Limit,
    credit: i64,
    at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub fn new(limit: Limit, now: Instant) -> Bucket {
        Bucket {
            limit,
            credit: i64::from(limit.burst) * SCALE,
            at: now,
        }
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = i64::try_from(now.since(self.at).as_nanos()).unwrap_or(i64::MAX);
        let earned = elapsed.saturating_mul(i64::from(self.limit.rate));
        let full = i64::from(self.limit.burst) * SCALE;
        self.credit = self.credit.saturating_add(earned).min(full);
        self.at = self.at.max(now);
    }

    /// Take one token, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        let there = self.credit >= SCALE;
        if there {
            self.credit -= SCALE;
        }
        there
    }

    /// Whether [`Bucket::take`] would find a token.
    pub fn has_token(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.credit >= SCALE
    }

    /// Whether nothing is missing.
    pub fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.credit == i64::from(self.limit.burst) * SCALE
    }

    /// Take tokens, on credit if need be.
    pub fn charge(&mut self, now: Instant, tokens: u32) {
        self.refill(now);
        self.credit = self.credit.saturating_sub(i64::from(tokens) * SCALE);
    }

    /// When the debt is paid; `None` if there is none.
    pub fn in_debt_until(&mut self, now: Instant) -> Option<Instant> {
        self.refill(now);
        if self.credit >= 0 {
            return None;
        }
        let nanos = self.credit.unsigned_abs() / u64::from(self.limit.rate.max(1)) + 1;
        Some(now + Duration::from_nanos(nanos))
    }
}

/// What may come from one peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Units of work: one per message and list entry, and one for every 16 KiB behind it. A drain
    /// at full speed needs a third of this.
    pub work: Limit,
    /// Questions about flows, to be answered.
    pub queries: Limit,
    /// Heartbeats, ballots, farewells and the answers to them: each makes us look at the election.
    pub control: Limit,
    /// Channels that are opened from its address.
    pub handshakes: Limit,
}

impl Default for Limits {
    fn default() -> Limits {
        let limit = |rate, burst| Limit { rate, burst };
        Limits {
            work: limit(500_000, 500_000),
            queries: limit(50_000, 50_000),
            control: limit(500, 1_000),
            handshakes: limit(5, 20),
        }
    }
}

/// Octets behind a message that count as another one.
const UNIT: usize = 16 * 1024;

/// What is left of a peer's allowance.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    work: Bucket,
    queries: Bucket,
    control: Bucket,
    /// Channels opened from its address.
    pub handshakes: Bucket,
}

/// What to do with a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Handle it.
    Take,
    /// Drop it: there were too many questions.
    DropQuery,
    /// Drop it: there were too many heartbeats and the like.
    DropControl,
}

impl Budget {
    /// The whole of it.
    pub fn new(limits: Limits, now: Instant) -> Budget {
        Budget {
            work: Bucket::new(limits.work, now),
            queries: Bucket::new(limits.queries, now),
            control: Bucket::new(limits.control, now),
            handshakes: Bucket::new(limits.handshakes, now),
        }
    }

    /// When the next message may be looked at; `None` if it may be now.
    pub fn busy_until(&mut self, now: Instant) -> Option<Instant> {
        self.work.in_debt_until(now)
    }

    /// A message was read, with so many octets behind its fields.
    pub fn judge(&mut self, now: Instant, message: &Message, tail: usize) -> Verdict {
        let entries = match message {
            Message::Owns(list) | Message::HandoverTable(list) | Message::Confirm(list) => {
                list.len()
            }
            Message::Released(list) => list.len(),
            Message::Roster(roster) => roster.voters.len() + roster.found.len(),
            _ => 0,
        };
        let units = 1 + entries + tail / UNIT;
        self.work.charge(now, units as u32);
        match message {
            // A doubt is not a question of this kind: it is asked once in a channel, and without an answer
            // the session stays frozen. Strangers make members ask about flows, and so could use up its turn.
            Message::WhoOwns(..) if !self.queries.take(now) => Verdict::DropQuery,
            Message::Heartbeat(_)
            | Message::Ballot(_)
            | Message::Handover { .. }
            | Message::Leaving
            | Message::Parted
            | Message::Stay(_)
            | Message::Stays(_)
                if !self.control.take(now) =>
            {
                Verdict::DropControl
            }
            _ => Verdict::Take,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Limit = Limit { rate: 10, burst: 5 };

    fn at(millis: u64) -> Instant {
        Instant::from_millis(1_000 + millis)
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = Bucket::new(LIMIT, at(0));
        let taken = (0..100).filter(|_| bucket.take(at(0))).count();
        assert_eq!(taken, 5);
        let taken = (0..10_000).filter(|ms| bucket.take(at(*ms))).count();
        assert!((99..=100).contains(&taken), "{taken} in ten seconds");
        assert!(!bucket.is_full(at(10_000)) && bucket.is_full(at(10_700)));
    }

    #[test]
    fn a_clock_that_jumps_fills_no_more_than_the_bucket() {
        let mut bucket = Bucket::new(LIMIT, at(0));
        bucket.charge(at(0), 5);
        let taken = (0..100)
            .filter(|_| bucket.take(at(u64::MAX / 4_000_000)))
            .count();
        assert_eq!(taken, 5);
    }

    #[test]
    fn debt_is_paid_at_the_rate() {
        let mut bucket = Bucket::new(LIMIT, at(0));
        bucket.charge(at(0), 5);
        assert_eq!(bucket.in_debt_until(at(0)), None);
        bucket.charge(at(0), 2);
        let until = bucket.in_debt_until(at(0)).unwrap();
        assert!(until > at(199) && until < at(201));
        assert_eq!(bucket.in_debt_until(until), None);
    }
}
