//! Congestion control: how much may be in flight. What was lost, and when, is
//! [`super::recovery`]'s to say.

pub(crate) mod cubic;
pub(crate) mod hystart;

use serde::{Deserialize, Serialize};

use crate::seq::SeqNumber;
use crate::time::{Duration, Instant};
use cubic::Cubic;
use hystart::{CSS_GROWTH_DIVISOR, HyStart};

/// Initial window in segments (RFC 6928).
const INITIAL_SEGMENTS: u32 = 10;
/// Segments in the initial window between instances: their link is ours, and a round trip there is a
/// client's silence.
const NEAR_SEGMENTS: u32 = 64;
/// Segments slow start grows by for one acknowledgement where what is sent is not paced (L of RFC 9406
/// section 4.2): growth leaves in one burst there.
const UNPACED_LIMIT: u32 = 8;
/// No slow-start threshold yet (RFC 5681 section 3.1: arbitrarily high).
pub(crate) const NO_THRESHOLD: u32 = u32::MAX;
/// A window larger than this could not be used: sequence space is what limits it.
pub(crate) const MAX_WINDOW: u32 = 1 << 30;

/// Which algorithm a connection uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum CongestionAlgorithm {
    /// RFC 9438.
    #[default]
    Cubic,
    /// RFC 5681 and 6582.
    NewReno,
}

/// An algorithm with its private state.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Algorithm {
    Cubic(Cubic),
    NewReno {
        /// Octets acknowledged that did not grow the window yet.
        credit: u32,
    },
}

/// Window and threshold of one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Congestion {
    /// Congestion window in octets.
    pub cwnd: u32,
    /// Slow-start threshold in octets.
    pub ssthresh: u32,
    pub algorithm: Algorithm,
    /// The first slow start; of no use once there is a threshold.
    pub hystart: HyStart,
    /// The peer is near, on a link of our own: see [`Congestion::set_near`].
    pub near: bool,
}

impl Congestion {
    pub fn new(algorithm: CongestionAlgorithm, mss: u32) -> Congestion {
        Congestion {
            cwnd: initial_window(mss),
            ssthresh: NO_THRESHOLD,
            algorithm: match algorithm {
                CongestionAlgorithm::Cubic => Algorithm::Cubic(Cubic::default()),
                CongestionAlgorithm::NewReno => Algorithm::NewReno { credit: 0 },
            },
            hystart: HyStart::default(),
            near: false,
        }
    }

    /// Begin, and begin again after idle times, with a window that a small capsule fits into.
    pub fn set_near(&mut self, mss: u32) {
        self.near = true;
        self.cwnd = self.cwnd.max(self.initial_window(mss));
    }

    fn initial_window(&self, mss: u32) -> u32 {
        match self.near {
            true => NEAR_SEGMENTS * mss,
            false => initial_window(mss),
        }
    }

    pub fn in_slow_start(&self) -> bool {
        self.cwnd < self.ssthresh
    }

    /// Follow the rounds of the first slow start, whether or not the window is in full use:
    /// everything before `una` is acknowledged, `nxt` is sent next.
    pub fn on_round_trip(&mut self, una: SeqNumber, nxt: SeqNumber, sample: Option<Duration>) {
        if self.ssthresh == NO_THRESHOLD && self.hystart.on_ack(una, nxt, sample) {
            self.ssthresh = self.cwnd;
        }
    }

    /// `acked` octets were acknowledged while the window was in full use; `paced`: what is sent is.
    pub fn on_ack(&mut self, now: Instant, acked: u32, mss: u32, rtt: Duration, paced: bool) {
        let mut acked = acked;
        if self.in_slow_start() {
            let conservative = self.ssthresh == NO_THRESHOLD && self.hystart.is_conservative();
            let below = acked.min(self.ssthresh - self.cwnd);
            acked -= below;
            // The link to a near peer is ours and bears a burst.
            let grow = match paced || self.near {
                true => below,
                false => below.min(UNPACED_LIMIT * mss),
            };
            let grow = match conservative {
                true => grow / CSS_GROWTH_DIVISOR,
                false => grow,
            };
            self.cwnd = (self.cwnd + grow).min(MAX_WINDOW);
        }
        if acked == 0 || self.in_slow_start() {
            return;
        }
        let grow = match &mut self.algorithm {
            Algorithm::Cubic(cubic) => cubic.growth(now, self.cwnd, acked, mss, rtt),
            Algorithm::NewReno { credit } => {
                let total = u64::from(*credit) + u64::from(acked) * u64::from(mss);
                let cwnd = u64::from(self.cwnd.max(1));
                *credit = (total % cwnd) as u32;
                (total / cwnd) as u32
            }
        };
        self.cwnd = self.cwnd.saturating_add(grow).min(MAX_WINDOW);
    }

    /// Acknowledgements come in, but the application left the window unused: it says nothing
    /// about the path.
    pub fn on_unused(&mut self, now: Instant) {
        if let Algorithm::Cubic(cubic) = &mut self.algorithm {
            cubic.pause(now);
        }
    }

    /// Congestion, once per round trip, with `flight` octets unacknowledged: set the threshold. The
    /// window follows by [`super::recovery::prr`].
    pub fn on_congestion(&mut self, flight: u32, mss: u32) {
        self.ssthresh = match &mut self.algorithm {
            // From the window, as RFC 9438 section 4.6 allows: it does not grow while it is unused.
            Algorithm::Cubic(cubic) => cubic.reduce(self.cwnd),
            Algorithm::NewReno { credit } => {
                *credit = 0;
                flight / 2
            }
        }
        .max(2 * mss);
    }

    /// Congestion that leaves nothing to be sent again: the window comes down at once. One that is smaller than
    /// the threshold can be stays as it is.
    pub fn reduce(&mut self, mss: u32) {
        let cwnd = self.cwnd;
        self.on_congestion(cwnd, mss);
        self.cwnd = self.ssthresh.min(cwnd);
    }

    /// A retransmission time-out. The stage of avoidance that follows begins where its window is, and does
    /// not head for what the window was before (RFC 9438 section 4.8).
    pub fn on_timeout(&mut self) {
        if let Algorithm::Cubic(cubic) = &mut self.algorithm {
            cubic.w_max = 0;
            cubic.restart();
        }
    }

    /// Restart after an idle time longer than the RTO (RFC 5681 section 4.1): the window says
    /// nothing about the path any more.
    pub fn on_idle(&mut self, mss: u32) {
        self.ssthresh = self.ssthresh.max(self.cwnd - self.cwnd / 4);
        self.cwnd = self.cwnd.min(self.initial_window(mss));
        if let Algorithm::Cubic(cubic) = &mut self.algorithm {
            cubic.restart();
        }
    }

    /// The reduction was a mistake: take it back (RFC 9438 section 4.9.2), with what the algorithm knew
    /// `before`. Without that, as after a move, CUBIC begins a new stage.
    pub fn undo(&mut self, cwnd: u32, ssthresh: u32, before: Option<Algorithm>) {
        self.cwnd = self.cwnd.max(cwnd);
        self.ssthresh = self.ssthresh.max(ssthresh);
        if let Some(before) = before {
            self.algorithm = before;
        } else if let Algorithm::Cubic(cubic) = &mut self.algorithm {
            cubic.restart();
        }
    }
}

/// RFC 6928 section 2.
fn initial_window(mss: u32) -> u32 {
    (INITIAL_SEGMENTS * mss).min((2 * mss).max(14_600))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(50);
    /// As much in flight as these windows allow.
    const FULL: u32 = 20_000;

    #[test]
    fn slow_start_doubles_then_avoidance_adds_a_segment_per_round() {
        let mut reno = Congestion::new(CongestionAlgorithm::NewReno, 1000);
        assert_eq!(reno.cwnd, 10_000);
        reno.on_ack(Instant::ZERO, 10_000, 1000, RTT, true);
        assert_eq!(reno.cwnd, 20_000);
        reno.on_congestion(FULL, 1000);
        reno.cwnd = reno.ssthresh;
        assert_eq!(reno.cwnd, 10_000);
        for _ in 0..100 {
            reno.on_ack(Instant::ZERO, 100, 1000, RTT, true);
        }
        assert!((10_900..=11_000).contains(&reno.cwnd), "{}", reno.cwnd);
    }

    /// After a lost SYN it is one segment (RFC 6928 section 2), and the least threshold two (RFC 5681 section 3.1).
    #[test]
    fn news_of_congestion_never_widens_a_window() {
        for (cwnd, then) in [(1_000, 1_000), (2_500, 2_000), (10_000, 7_000)] {
            let mut control = Congestion::new(CongestionAlgorithm::Cubic, 1000);
            control.cwnd = cwnd;
            control.reduce(1000);
            assert_eq!(control.cwnd, then);
        }
    }

    /// RFC 9438 section 4.8.
    #[test]
    fn after_a_time_out_cubic_begins_at_its_window() {
        let mut control = Congestion::new(CongestionAlgorithm::Cubic, 1000);
        control.cwnd = 100_000;
        control.on_congestion(FULL, 1000);
        control.on_timeout();
        control.cwnd = control.ssthresh;
        control.on_ack(Instant::ZERO, 1000, 1000, RTT, true);
        let Algorithm::Cubic(cubic) = control.algorithm else {
            panic!("another algorithm");
        };
        assert_eq!((cubic.k_ms, cubic.w_max), (0, 70_000));
        // What comes next is no convergence towards the window before the time-out.
        control.cwnd = 80_000;
        control.on_congestion(FULL, 1000);
        let Algorithm::Cubic(cubic) = control.algorithm else {
            panic!("another algorithm");
        };
        assert_eq!(cubic.w_max, 80_000);
    }

    /// RFC 9406 section 4.2: CSS_GROWTH_DIVISOR.
    #[test]
    fn slow_start_that_became_conservative_grows_by_a_quarter() {
        let mut control = Congestion::new(CongestionAlgorithm::Cubic, 1000);
        control.on_ack(Instant::ZERO, 4_000, 1000, RTT, true);
        assert_eq!(control.cwnd, 14_000);
        control.hystart.baseline = 50_000;
        control.on_ack(Instant::ZERO, 4_000, 1000, RTT, true);
        assert_eq!(control.cwnd, 15_000);
        // Later slow starts are not HyStart's.
        control.ssthresh = 100_000;
        control.on_ack(Instant::ZERO, 4_000, 1000, RTT, true);
        assert_eq!(control.cwnd, 19_000);
    }

    /// RFC 9406 section 4.2: L.
    #[test]
    fn an_acknowledgement_of_a_lot_opens_an_unpaced_window_by_eight_segments() {
        let grown = |paced, near| {
            let mut control = Congestion::new(CongestionAlgorithm::Cubic, 1000);
            control.near = near;
            control.on_ack(Instant::ZERO, 10_000, 1000, RTT, paced);
            control.cwnd
        };
        assert_eq!(grown(false, false), 18_000);
        assert_eq!(grown(true, false), 20_000);
        assert_eq!(grown(false, true), 20_000, "the link is ours");
        // What was not grown by below the threshold is not grown by above it.
        let mut control = Congestion::new(CongestionAlgorithm::NewReno, 1000);
        control.ssthresh = 19_000;
        control.on_ack(Instant::ZERO, 40_000, 1000, RTT, false);
        assert_eq!(control.cwnd, 18_000);
    }

    #[test]
    fn cubic_returns_to_the_old_maximum_after_k_and_then_probes_beyond() {
        let mut cubic = Congestion::new(CongestionAlgorithm::Cubic, 1000);
        cubic.cwnd = 1_000_000;
        cubic.ssthresh = 1_000_000;
        cubic.on_congestion(FULL, 1000);
        assert_eq!(cubic.ssthresh, 700_000);
        cubic.cwnd = cubic.ssthresh;
        // K = cbrt(300 segments / 0.4) = 9.086 s.
        let mut at = Vec::new();
        for n in 0..300u64 {
            let now = Instant::from_millis(n * 50);
            let acked = cubic.cwnd;
            cubic.on_ack(now, acked, 1000, RTT, true);
            at.push(cubic.cwnd);
        }
        let near = |got: u32, wanted: f64| (f64::from(got) / wanted - 1.0).abs() < 0.03;
        assert!(near(at[182], 1_000_000.0), "at K: {}", at[182]);
        let wanted = |t: f64| 0.4 * (t - 9.086f64).powi(3) * 1000.0 + 1_000_000.0;
        assert!(near(at[80], wanted(4.05)), "{}", at[80]);
        assert!(near(at[299], wanted(15.0)), "{}", at[299]);
    }

    /// RFC 9438 section 4.9.2: not only the window, also where CUBIC was on its way. Without that each
    /// needless reduction lowers what it takes for the path's maximum, and growth starts from flat.
    #[test]
    fn a_reduction_that_is_taken_back_leaves_no_trace_in_the_growth() {
        let mut undisturbed = Congestion::new(CongestionAlgorithm::Cubic, 1000);
        undisturbed.cwnd = 1_000_000;
        undisturbed.ssthresh = 1_000_000;
        undisturbed.on_congestion(FULL, 1000);
        undisturbed.cwnd = undisturbed.ssthresh;
        let mut disturbed = undisturbed;
        for n in 0..200u64 {
            let now = Instant::from_millis(n * 50);
            for control in [&mut undisturbed, &mut disturbed] {
                control.on_ack(now, control.cwnd, 1000, RTT, true);
            }
            let Congestion {
                cwnd,
                ssthresh,
                algorithm,
                ..
            } = disturbed;
            disturbed.on_congestion(FULL, 1000);
            disturbed.cwnd = disturbed.ssthresh;
            disturbed.undo(cwnd, ssthresh, Some(algorithm));
            assert_eq!(disturbed.cwnd, undisturbed.cwnd, "round {n}");
        }
    }

    #[test]
    fn on_a_short_path_cubic_is_no_slower_than_reno() {
        let grow = |algorithm| {
            let mut control = Congestion::new(algorithm, 1000);
            control.cwnd = 20_000;
            control.ssthresh = 20_000;
            control.on_congestion(FULL, 1000);
            control.cwnd = control.ssthresh;
            for n in 0..200u64 {
                let acked = control.cwnd;
                control.on_ack(
                    Instant::from_millis(n),
                    acked,
                    1000,
                    Duration::from_millis(1),
                    true,
                );
            }
            control.cwnd
        };
        let (cubic, reno) = (
            grow(CongestionAlgorithm::Cubic),
            grow(CongestionAlgorithm::NewReno),
        );
        assert!(f64::from(cubic) > 0.9 * f64::from(reno), "{cubic} {reno}");
    }
}
