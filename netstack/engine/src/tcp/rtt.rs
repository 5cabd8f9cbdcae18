//! Round-trip time and retransmission time-out (RFC 6298).

use crate::time::{Duration, Instant};

/// Time-out before the first measurement (RFC 6298 section 2.1).
pub(crate) const INITIAL_RTO: Duration = Duration::from_secs(1);
/// Upper bound of the time-out (RFC 6298 section 2.5).
pub(crate) const MAX_RTO: Duration = Duration::from_secs(60);
/// How long a minimum stands before a larger sample may replace it (RFC 8985 section 6.2 suggests
/// minutes).
const MIN_RTT_WINDOW: Duration = Duration::from_secs(300);

/// The estimator of one connection. Times are nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RttEstimator {
    /// Smoothed round-trip time; zero before the first sample.
    pub srtt: u64,
    /// Its mean deviation. Before the first sample: what makes the time-out three seconds instead
    /// of one ([`RttEstimator::on_syn_lost`]).
    pub rttvar: u64,
    /// Smallest sample of the last minutes; zero before the first.
    pub min: u64,
    /// When it was taken.
    pub min_at: Instant,
    /// Time-outs in a row without new data acknowledged: each doubles the time-out.
    pub backoff: u8,
    /// Least variance allowance in the time-out, in microseconds.
    pub min_rto: u32,
}

impl RttEstimator {
    pub fn new(min_rto: Duration) -> RttEstimator {
        let mut estimator = RttEstimator {
            srtt: 0,
            rttvar: 0,
            min: 0,
            min_at: Instant::ZERO,
            backoff: 0,
            min_rto: 0,
        };
        estimator.set_min_rto(min_rto);
        estimator
    }

    /// An estimator that has measured: smoothed time and deviation, smallest sample and when it was taken.
    pub fn resume(
        srtt: Option<Duration>,
        rttvar: Duration,
        min: Option<(Duration, Instant)>,
        backoff: u8,
        min_rto: Duration,
    ) -> RttEstimator {
        let (min, min_at) = min.unwrap_or((Duration::ZERO, Instant::ZERO));
        RttEstimator {
            srtt: srtt.map_or(0, nanos),
            rttvar: nanos(rttvar),
            min: nanos(min),
            min_at,
            backoff,
            ..RttEstimator::new(min_rto)
        }
    }

    pub fn set_min_rto(&mut self, min_rto: Duration) {
        self.min_rto = u32::try_from(min_rto.as_micros()).unwrap_or(u32::MAX);
    }

    /// The SYN timed out: begin to transmit data with three seconds (RFC 6298 section 5.7).
    pub fn on_syn_lost(&mut self) {
        if self.srtt == 0 {
            self.rttvar = nanos(Duration::from_millis(500));
        }
    }

    /// Smoothed round-trip time; `None` before the first sample.
    pub fn srtt(&self) -> Option<Duration> {
        (self.srtt != 0).then(|| Duration::from_nanos(self.srtt))
    }

    /// Mean deviation of the round-trip time.
    pub fn rttvar(&self) -> Duration {
        Duration::from_nanos(self.rttvar)
    }

    /// Smallest sample of the last minutes and when it was taken.
    pub fn min(&self) -> Option<(Duration, Instant)> {
        self.min_rtt().map(|min| (min, self.min_at))
    }

    /// Take in a sample.
    pub fn sample(&mut self, now: Instant, rtt: Duration) {
        let sample = nanos(rtt).max(1);
        match self.srtt {
            0 => {
                self.srtt = sample;
                self.rttvar = sample / 2;
            }
            srtt => {
                self.rttvar = (self.rttvar * 3 + srtt.abs_diff(sample)) / 4;
                self.srtt = ((srtt * 7 + sample) / 8).max(1);
            }
        }
        self.sample_min(now, rtt);
    }

    /// Take in a sample that only the minimum is made of.
    pub fn sample_min(&mut self, now: Instant, rtt: Duration) {
        let sample = nanos(rtt).max(1);
        let stands = self.min != 0 && sample > self.min;
        if !stands || now.since(self.min_at) >= MIN_RTT_WINDOW {
            self.min = sample;
            self.min_at = now;
        }
    }

    /// Smallest sample of the last minutes.
    pub fn min_rtt(&self) -> Option<Duration> {
        (self.min != 0).then(|| Duration::from_nanos(self.min))
    }

    /// The time-out without backoff. The lower bound applies to the variance term, so that a
    /// steady path of any length leaves room for one late acknowledgement.
    pub fn base_rto(&self) -> Duration {
        let deviation = self.rttvar() * 4;
        match self.srtt() {
            None => INITIAL_RTO + deviation,
            Some(srtt) => {
                let least = Duration::from_micros(u64::from(self.min_rto));
                (srtt + deviation.max(least)).min(MAX_RTO)
            }
        }
    }

    /// The time-out as it stands.
    pub fn rto(&self) -> Duration {
        let factor = 1u32 << self.backoff.min(16);
        self.base_rto().saturating_mul(factor).min(MAX_RTO)
    }
}

/// Whole nanoseconds, at most a day: no round trip takes longer, and sums of a few do not overflow.
fn nanos(time: Duration) -> u64 {
    const DAY: u64 = 86_400_000_000_000;
    u64::try_from(time.as_nanos()).unwrap_or(DAY).min(DAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_out_follows_the_path_and_backs_off() {
        let mut rtt = RttEstimator::new(Duration::from_millis(200));
        assert_eq!(rtt.rto(), INITIAL_RTO);
        for n in 0..100 {
            rtt.sample(Instant::from_millis(n), Duration::from_millis(50));
        }
        assert_eq!(rtt.srtt(), Some(Duration::from_millis(50)));
        assert_eq!(rtt.rto(), Duration::from_millis(250));
        rtt.backoff = 2;
        assert_eq!(rtt.rto(), Duration::from_secs(1));
        rtt.backoff = 40;
        assert_eq!(rtt.rto(), MAX_RTO);
    }

    #[test]
    fn a_lost_syn_makes_the_first_time_out_three_seconds() {
        let mut rtt = RttEstimator::new(Duration::from_millis(200));
        rtt.on_syn_lost();
        assert_eq!(rtt.rto(), Duration::from_secs(3));
        rtt.sample(Instant::ZERO, Duration::from_millis(50));
        assert_eq!(rtt.rto(), Duration::from_millis(250));
        rtt.on_syn_lost();
        assert_eq!(rtt.rto(), Duration::from_millis(250));
    }

    #[test]
    fn an_old_minimum_gives_way() {
        let mut rtt = RttEstimator::new(Duration::ZERO);
        rtt.sample(Instant::ZERO, Duration::from_millis(10));
        rtt.sample(Instant::from_millis(1000), Duration::from_millis(30));
        assert_eq!(rtt.min_rtt(), Some(Duration::from_millis(10)));
        rtt.sample(Instant::from_millis(301_000), Duration::from_millis(30));
        assert_eq!(rtt.min_rtt(), Some(Duration::from_millis(30)));
    }
}
