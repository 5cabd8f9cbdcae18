//! Leases: what a voter promises, and for how long.
//!
//! A [`Claim`] asks every voter for the ingress role, and asks again with each heartbeat. A voter
//! that grants it ([`Voter::consider`]) promises to grant nobody else's until the lease has run
//! out. The claimant counts the lease from when it *sent* the claim, the voter from when it
//! *received* it, and each errs on its own side by [`Times::held`] and [`Times::promised`], so
//! clocks may run differently by as much. Two majorities have a voter in common; that voter's
//! promise keeps the second claimant from a majority for as long as the first one may act.
//!
//! Nothing is written to a disk. A voter that has booted may have promised something in an earlier
//! boot, so it is quiet at first, for as long as such a promise could last.
//!
//! [`super::election`] is the claimant's side.

use super::MemberId;
use super::message::{Ballot, Claim};
use crate::time::{Duration, Instant};

/// Terms count from 0, one at a time: what is above this was not counted.
pub const MAX_TERM: u64 = 1 << 62;
/// Clocks may differ in pace by one part in so many, each way.
const DRIFT: u32 = 100;

/// How long a lease lasts and how often it is renewed; the same at all members.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Times {
    /// The lease: [`Times::LEASE`].
    pub lease: Duration,
    /// Between two heartbeats, each of which renews it: [`Times::HEARTBEAT`].
    pub heartbeat: Duration,
}

impl Default for Times {
    fn default() -> Times {
        Times {
            lease: Duration::from_secs(2),
            heartbeat: Duration::from_millis(200),
        }
    }
}

impl Times {
    /// What a lease may be.
    pub const LEASE: core::ops::RangeInclusive<Duration> =
        Duration::from_millis(500)..=Duration::from_secs(60);
    /// What the time between heartbeats may be; a quarter of the lease at most.
    pub const HEARTBEAT: core::ops::RangeInclusive<Duration> =
        Duration::from_millis(20)..=Duration::from_secs(15);

    /// The times, each in its range.
    #[must_use]
    pub fn bounded(self) -> Times {
        let lease = self.lease.clamp(*Times::LEASE.start(), *Times::LEASE.end());
        let longest = lease / 4;
        Times {
            lease,
            heartbeat: self.heartbeat.clamp(*Times::HEARTBEAT.start(), longest),
        }
    }

    /// How long a claimant counts on a grant, from when it sent the claim.
    pub fn held(&self) -> Duration {
        self.lease - self.lease / DRIFT
    }

    /// How long a voter keeps to a grant, from when it received the claim.
    pub fn promised(&self) -> Duration {
        self.lease + self.lease / DRIFT
    }

    /// How long a member may be silent before it counts as gone, where availability is preferred.
    pub fn silence(&self) -> Duration {
        self.promised() + self.heartbeat * 2
    }

    /// Without a word for so long a member gets no new sessions.
    pub fn stale(&self) -> Duration {
        (self.heartbeat * 5).min(self.lease)
    }

    /// Without a word for so long a channel is closed.
    pub fn channel(&self) -> Duration {
        self.lease + self.lease / 2
    }
}

/// What a voter has granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Promise {
    to: MemberId,
    term: u64,
    until: Instant,
}

/// One vote.
#[derive(Clone, Debug)]
pub struct Voter {
    times: Times,
    /// Until then an earlier boot's promise may last.
    quiet_until: Option<Instant>,
    /// The last grant, in force or not.
    promise: Option<Promise>,
    /// The highest term heard of.
    term: u64,
}

impl Voter {
    /// A voter that has just booted.
    pub fn new(times: Times, now: Instant) -> Voter {
        Voter {
            times,
            quiet_until: Some(now + times.promised()),
            promise: None,
            term: 0,
        }
    }

    /// Whether it says nothing yet, because an earlier boot may have promised something.
    pub fn is_quiet(&self, now: Instant) -> bool {
        self.quiet_until.is_some_and(|until| until > now)
    }

    /// No earlier boot's promise matters any more: every other voter has told *this* boot that it
    /// does not act, and none of them counts on what an earlier one has granted.
    pub fn end_quiet(&mut self) {
        self.quiet_until = None;
    }

    /// The highest term heard of.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// A term was mentioned. False if it is out of range.
    pub fn note_term(&mut self, term: u64) -> bool {
        if term > MAX_TERM {
            return false;
        }
        self.term = self.term.max(term);
        true
    }

    /// Who was granted a claim that is still in force, and its term.
    pub fn promised(&self, now: Instant) -> Option<(MemberId, u64)> {
        let promise = self.promise.filter(|promise| promise.until > now)?;
        Some((promise.to, promise.term))
    }

    /// Grant the claim or refuse it.
    pub fn consider(&mut self, now: Instant, from: MemberId, claim: &Claim) -> Ballot {
        let granted = self.is_in_order(from, claim) && self.is_free(now, from, claim);
        // A term that has been used is the one thing another claim can mend.
        let spent = (!self.is_in_order(from, claim)).then_some(self.term);
        if granted {
            self.term = self.term.max(claim.term);
            self.promise = Some(Promise {
                to: from,
                term: claim.term,
                until: now + self.times.promised(),
            });
        }
        Ballot {
            beat: claim.beat,
            term: claim.term,
            granted,
            spent,
            to: self.promised(now).map(|(to, _)| to),
        }
    }

    /// Whether the claim's term may still be granted.
    fn is_in_order(&self, from: MemberId, claim: &Claim) -> bool {
        let used = self.promise.is_some_and(|last| match last.to == from {
            true => claim.term < last.term,
            false => claim.term <= last.term,
        });
        !used && claim.term >= self.term && claim.term <= MAX_TERM
    }

    /// Whether nothing binds this voter to another.
    fn is_free(&self, now: Instant, from: MemberId, claim: &Claim) -> bool {
        // A longer lease than ours would outlive our promise.
        let lease = Duration::from_millis(claim.lease.into());
        if lease > self.times.lease || self.is_quiet(now) {
            return false;
        }
        match self.promised(now) {
            // Whoever holds the lease may renew it, and resign it to another member.
            Some((to, term)) => to == from || claim.follows(to, term),
            None => true,
        }
    }

    /// `member` does not act under `term` and never will: what it was granted binds no more.
    pub fn release(&mut self, member: MemberId, term: u64) {
        if let Some(promise) = &mut self.promise
            && promise.to == member
            && promise.term <= term
        {
            promise.until = Instant::ZERO;
        }
    }

    /// When silence ends, or the promise.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let promise = self.promise.map(|promise| promise.until);
        let times = [self.quiet_until, promise];
        times.into_iter().flatten().filter(|at| *at > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MemberId = MemberId(1);
    const B: MemberId = MemberId(2);

    fn claim(term: u64) -> Claim {
        Claim {
            term,
            beat: 1,
            lease: 2_000,
            acting: false,
            after: None,
        }
    }

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    /// A voter that may vote.
    fn voter() -> Voter {
        let mut voter = Voter::new(Times::default(), at(0));
        voter.end_quiet();
        voter
    }

    #[test]
    fn a_booted_voter_is_quiet_for_a_lease() {
        let mut voter = Voter::new(Times::default(), at(0));
        assert!(!voter.consider(at(2_010), A, &claim(1)).granted);
        assert!(voter.consider(at(2_020), A, &claim(1)).granted);
    }

    #[test]
    fn a_promise_keeps_others_away_until_the_lease_has_run_out() {
        let mut voter = voter();
        assert!(voter.consider(at(1_000), A, &claim(1)).granted);
        let refused = voter.consider(at(3_019), B, &claim(2));
        assert_eq!((refused.granted, refused.to), (false, Some(A)));
        assert!(
            voter.consider(at(3_019), A, &claim(1)).granted,
            "its holder renews it"
        );
        assert!(!voter.consider(at(5_000), B, &claim(2)).granted);
        assert!(voter.consider(at(5_039), B, &claim(2)).granted);
    }

    #[test]
    fn what_is_held_ends_before_what_is_promised_though_clocks_drift() {
        let times = Times::default();
        // In true time, with the holder's clock slow and the voter's fast by nearly one part in a
        // hundred.
        let held = times.held().as_secs_f64() / 0.991;
        let promised = times.promised().as_secs_f64() / 1.009;
        assert!(held < promised, "{held} {promised}");
    }

    #[test]
    fn no_term_is_granted_to_two() {
        let mut voter = voter();
        assert!(voter.consider(at(0), A, &claim(5)).granted);
        assert!(!voter.consider(at(9_000), B, &claim(5)).granted);
        assert!(!voter.consider(at(9_000), B, &claim(4)).granted);
        assert_eq!(voter.consider(at(9_000), B, &claim(4)).spent, Some(5));
        assert!(voter.consider(at(9_000), B, &claim(6)).granted);
    }

    #[test]
    fn a_resigned_lease_goes_to_the_successor_and_to_nobody_else() {
        let mut voter = voter();
        assert!(voter.consider(at(0), A, &claim(5)).granted);
        let successor = |after| Claim { after, ..claim(6) };
        for wrong in [None, Some((A, 4)), Some((B, 5)), Some((B, 9))] {
            assert!(!voter.consider(at(10), B, &successor(wrong)).granted);
        }
        assert!(voter.consider(at(10), B, &successor(Some((A, 5)))).granted);
        // Handed to a second one as well, because the first seemed not to answer.
        let late = voter.consider(at(20), MemberId(3), &successor(Some((A, 5))));
        assert!(!late.granted);
    }

    #[test]
    fn a_released_promise_binds_no_more_and_its_term_is_used_up() {
        let mut voter = voter();
        assert!(voter.consider(at(0), A, &claim(5)).granted);
        voter.release(B, 5);
        voter.release(A, 4);
        assert!(!voter.consider(at(1), B, &claim(6)).granted, "not its own");
        voter.release(A, 5);
        assert!(!voter.consider(at(1), B, &claim(5)).granted);
        assert!(voter.consider(at(1), B, &claim(6)).granted);
    }

    #[test]
    fn absurd_claims_are_refused() {
        let mut voter = voter();
        assert!(!voter.consider(at(0), A, &claim(MAX_TERM + 1)).granted);
        assert!(!voter.note_term(u64::MAX));
        let long = Claim {
            lease: 2_001,
            ..claim(1)
        };
        assert!(!voter.consider(at(0), A, &long).granted);
        assert_eq!(voter.term(), 0);
    }
}
