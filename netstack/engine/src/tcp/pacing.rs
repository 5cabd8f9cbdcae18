//! Pacing: new octets leave spread over the round trip instead of in bursts that overflow a queue
//! on the way. By a timer of our own, as nothing below us paces.
//!
//! Only on paths of at least [`PACED`]: on shorter ones acknowledgements are clock enough, a timer
//! costs more than it brings, and its resolution would cost throughput. Retransmissions are clocked
//! by PRR. The rate is that of the window with something to spare, so that the window and not
//! the pace is what limits.

use super::connection::Connection;
use crate::time::{Duration, Instant};

/// Smallest round trips from which on to pace.
const PACED: Duration = Duration::from_millis(1);
/// What leaves at one time: this much of time's worth, or an eighth of a round trip's.
const GRANULE: Duration = Duration::from_millis(1);
/// Segments that may leave at once after a pause: the initial window (RFC 6928).
const BURST_SEGMENTS: u64 = 10;

impl Connection {
    /// Whether new octets are sent at a pace.
    pub(crate) fn is_paced(&self) -> bool {
        // By the smallest sample: a delayed acknowledgement does not make a path long.
        !self.congestion.near && self.rtt.min_rtt().is_some_and(|least| least >= PACED)
    }

    /// Octets per second to send new octets at; `None` where they are not paced. In slow start
    /// twice the window in a round trip, else 1.25 times.
    pub(crate) fn pacing_rate(&self) -> Option<u64> {
        if !self.is_paced() {
            return None;
        }
        let round_trip = self.rtt.srtt()?;
        let window = u64::from(self.congestion.cwnd.max(u32::from(self.mss())));
        let quarters = match self.congestion.in_slow_start() {
            true => 8,
            false => 5,
        };
        let nanos = u64::try_from(round_trip.as_nanos()).unwrap_or(u64::MAX);
        // Windows are at most 2^30 and some: no overflow in 64 bits.
        let per_second = window.saturating_mul(quarters * 250_000_000) / nanos.max(1);
        Some(per_second.max(1))
    }

    fn granule(&self) -> Duration {
        GRANULE.min(self.rtt.srtt().unwrap_or(GRANULE) / 8)
    }

    /// How many of `len` new octets may leave now; none before the pace timer fires.
    pub(crate) fn paced(&mut self, now: Instant, len: u32, mss: u32) -> u32 {
        let Some(rate) = self.pacing_rate() else {
            return len;
        };
        let granule = self.granule();
        if let Some(next) = self.snd.next_paced
            && next > now
        {
            // Later than need be, so that there is something worth a wake-up to send then.
            self.timers.pace.set(next + granule);
            return 0;
        }
        let worth = octets_in(rate, granule).max(u64::from(2 * mss));
        let most = worth / u64::from(mss) * u64::from(mss);
        len.min(u32::try_from(most).unwrap_or(u32::MAX))
    }

    /// `len` new octets left.
    pub(crate) fn note_paced(&mut self, now: Instant, len: u32) {
        let Some(rate) = self.pacing_rate() else {
            self.snd.next_paced = None;
            return;
        };
        let burst = BURST_SEGMENTS * u64::from(self.mss());
        let allowance = octets_take(rate, burst).max(self.granule());
        let from = now - allowance;
        let next = self.snd.next_paced.map_or(from, |next| next.max(from));
        self.snd.next_paced = Some(next + octets_take(rate, u64::from(len)));
    }
}

/// Octets that leave at `rate` in `time`.
fn octets_in(rate: u64, time: Duration) -> u64 {
    let nanos = time.as_nanos() * u128::from(rate) / 1_000_000_000;
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

/// How long `octets` take at `rate`.
fn octets_take(rate: u64, octets: u64) -> Duration {
    Duration::from_nanos(octets.saturating_mul(1_000_000_000) / rate.max(1))
}
