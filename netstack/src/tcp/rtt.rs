//! Round-trip time and retransmission time-out (RFC 6298).

use crate::time::{Duration, Instant};

/// Time-out before the first measurement (RFC 6298 section 2.1).
pub(crate) const INITIAL_RTO: Duration = Duration::from_secs(1);
/// Upper bound of the time-out (RFC 6298 section 2.5).
pub(crate) const MAX_RTO: Duration = Duration::from_secs(60);
/// How long a minimum stands before a larger sample may replace it (RFC 8985 section 6.2 suggests
/// minutes).
const MIN_RTT_WINDOW: Duration = Duration::from_secs(300);

/// The estimator of one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RttEstimator {
    /// Smoothed round-trip time; `None` before the first sample.
    pub srtt: Option<Duration>,
    /// Its mean deviation.
    pub rttvar: Duration,
    /// Time-outs in a row without new data acknowledged: each doubles the time-out.
    pub backoff: u32,
    /// Smallest sample of the last minutes, and when it was taken.
    pub min: Option<(Duration, Instant)>,
    /// Least variance allowance in the time-out.
    pub min_rto: Duration,
}

impl RttEstimator {
    pub fn new(min_rto: Duration) -> RttEstimator {
        RttEstimator {
            srtt: None,
            rttvar: Duration::ZERO,
            backoff: 0,
            min: None,
            min_rto,
        }
    }

    /// Take in a sample.
    pub fn sample(&mut self, now: Instant, rtt: Duration) {
        match self.srtt {
            None => {
                self.srtt = Some(rtt);
                self.rttvar = rtt / 2;
            }
            Some(srtt) => {
                self.rttvar = (self.rttvar * 3 + srtt.abs_diff(rtt)) / 4;
                self.srtt = Some((srtt * 7 + rtt) / 8);
            }
        }
        self.sample_min(now, rtt);
    }

    /// Take in a sample that only the minimum is made of.
    pub fn sample_min(&mut self, now: Instant, rtt: Duration) {
        match self.min {
            Some((min, taken)) if rtt > min && now.since(taken) < MIN_RTT_WINDOW => {}
            _ => self.min = Some((rtt, now)),
        }
    }

    /// Smallest sample of the last minutes.
    pub fn min_rtt(&self) -> Option<Duration> {
        self.min.map(|(min, _)| min)
    }

    /// The time-out without backoff. The lower bound applies to the variance term, so that a
    /// steady path of any length leaves room for one late acknowledgement.
    pub fn base_rto(&self) -> Duration {
        match self.srtt {
            None => INITIAL_RTO,
            Some(srtt) => (srtt + (self.rttvar * 4).max(self.min_rto)).min(MAX_RTO),
        }
    }

    /// The time-out as it stands.
    pub fn rto(&self) -> Duration {
        let factor = 1u32 << self.backoff.min(16);
        self.base_rto().saturating_mul(factor).min(MAX_RTO)
    }
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
        assert_eq!(rtt.srtt, Some(Duration::from_millis(50)));
        assert_eq!(rtt.rto(), Duration::from_millis(250));
        rtt.backoff = 2;
        assert_eq!(rtt.rto(), Duration::from_secs(1));
        rtt.backoff = 40;
        assert_eq!(rtt.rto(), MAX_RTO);
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
