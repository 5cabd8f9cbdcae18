//! CUBIC (RFC 9438) in integers: windows in octets, time in milliseconds.

use crate::time::{Duration, Instant};

/// Private state of CUBIC.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct Cubic {
    /// Window before the last reduction, lowered by fast convergence (W_max); zero after a time-out, until
    /// avoidance begins.
    pub w_max: u32,
    /// Window at the last reduction (cwnd_prior).
    pub prior: u32,
    /// When the current stage of avoidance began.
    pub epoch: Option<Instant>,
    /// Time from the start of the stage to W_max, in milliseconds (K).
    pub k_ms: u32,
    /// What Reno would have by now, in 1/1024 octets (W_est).
    pub w_est: u64,
    /// Growth owed, times the window.
    pub credit: u32,
    /// Since when the window has been left unused: that time does not count.
    pub paused: Option<Instant>,
}

/// Octets C * t^3 are worth, for C = 0.4 segments/s^3; `t` in milliseconds.
fn cube(t_ms: u64, mss: u32) -> u64 {
    let t = u128::from(t_ms.min(10_000_000));
    let octets = t * t * t * 4 * u128::from(mss) / 10_000_000_000;
    octets.min(u128::from(u64::MAX)) as u64
}

/// The largest r with r^3 <= n.
fn cube_root(n: u64) -> u64 {
    let (mut low, mut high) = (0u64, 2_642_246);
    while low < high {
        let middle = (low + high).div_ceil(2);
        match middle
            .checked_mul(middle * middle)
            .is_some_and(|cube| cube <= n)
        {
            true => low = middle,
            false => high = middle - 1,
        }
    }
    low
}

impl Cubic {
    /// Congestion: the new threshold (beta = 0.7), with fast convergence.
    pub fn reduce(&mut self, cwnd: u32) -> u32 {
        self.w_max = match cwnd < self.w_max {
            true => (u64::from(cwnd) * 17 / 20) as u32,
            false => cwnd.min(super::MAX_WINDOW),
        };
        self.prior = cwnd;
        self.restart();
        (u64::from(cwnd) * 7 / 10) as u32
    }

    /// The next acknowledgement begins a new stage.
    pub fn restart(&mut self) {
        self.epoch = None;
        self.paused = None;
    }

    /// The window is not used.
    pub fn pause(&mut self, now: Instant) {
        self.paused.get_or_insert(now);
    }

    fn begin(&mut self, now: Instant, cwnd: u32, mss: u32) -> Instant {
        self.k_ms = match self.w_max.checked_sub(cwnd) {
            Some(gap) if gap > 0 => {
                cube_root(u64::from(gap) * 10_000_000_000 / (4 * u64::from(mss.max(1)))) as u32
            }
            _ => {
                self.w_max = cwnd.min(super::MAX_WINDOW);
                0
            }
        };
        self.w_est = u64::from(cwnd) << 10;
        self.credit = 0;
        self.paused = None;
        self.epoch = Some(now);
        now
    }

    /// Octets to grow by for `acked` octets acknowledged in avoidance.
    pub fn growth(&mut self, now: Instant, cwnd: u32, acked: u32, mss: u32, rtt: Duration) -> u32 {
        let mut epoch = match self.epoch {
            Some(epoch) => epoch,
            None => self.begin(now, cwnd, mss),
        };
        if let Some(paused) = self.paused.take() {
            epoch = epoch + now.since(paused.max(epoch));
            self.epoch = Some(epoch);
        }
        let cwnd = cwnd.max(1);
        let elapsed = now.since(epoch).as_millis() as u64;
        let k_ms = u64::from(self.k_ms);
        let at = |t_ms: u64| match t_ms.checked_sub(k_ms) {
            Some(after) => u64::from(self.w_max).saturating_add(cube(after, mss)),
            None => u64::from(self.w_max).saturating_sub(cube(k_ms - t_ms, mss)),
        };
        // Reno's window (section 4.3): alpha = 9/17 until it reaches the prior window, then 1.
        let alpha = match (self.w_est >> 10) < u64::from(self.prior) {
            true => 542,
            false => 1024,
        };
        self.w_est += u64::from(acked) * u64::from(mss) * alpha / u64::from(cwnd);
        let reno = (self.w_est >> 10).min(u64::from(super::MAX_WINDOW)) as u32;
        if at(elapsed) < u64::from(reno) {
            return reno.saturating_sub(cwnd);
        }
        let target = at(elapsed + rtt.as_millis() as u64)
            .clamp(u64::from(cwnd), u64::from(cwnd) + u64::from(cwnd) / 2);
        let credit = u64::from(self.credit) + (target - u64::from(cwnd)) * u64::from(acked);
        let grow = credit / u64::from(cwnd);
        self.credit = (credit % u64::from(cwnd)) as u32;
        // A peer that acknowledges in one piece must not make the window overshoot its target.
        grow.min(target - u64::from(cwnd)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::{Cubic, cube_root};
    use crate::time::{Duration, Instant};

    const RTT: Duration = Duration::from_millis(100);

    /// In avoidance since time zero, on a plateau of `w_max` that it reaches `k_ms` after that.
    fn since_zero(w_max: u32, k_ms: u32) -> Cubic {
        Cubic {
            w_max,
            k_ms,
            epoch: Some(Instant::ZERO),
            ..Cubic::default()
        }
    }

    /// RFC 9438 section 4.2.
    #[test]
    fn the_target_is_at_least_the_window_and_at_most_half_as_much_again() {
        let late = Instant::from_millis(100_000);
        for acked in [10_000, 100_000] {
            let mut cubic = since_zero(10_000, 0);
            assert_eq!(cubic.growth(late, 10_000, acked, 1_000, RTT), 5_000);
        }
        let mut below = since_zero(20_000, 1_000);
        let early = Instant::from_millis(500);
        assert_eq!(below.growth(early, 30_000, 30_000, 1_000, RTT), 0);
    }

    /// RFC 9438 section 5.8: growth goes on where it was, however long the application was silent.
    #[test]
    fn time_in_which_the_window_was_not_used_does_not_count() {
        let grown = |cubic: &mut Cubic, millis| {
            let now = Instant::from_millis(millis);
            cubic.growth(now, 100_000, 100_000, 1_000, RTT)
        };
        let (mut steady, mut paused) = (since_zero(100_000, 0), since_zero(100_000, 0));
        assert_eq!(grown(&mut steady, 1_000), grown(&mut paused, 1_000));
        // The first word of it is what counts.
        for millis in [2_000, 5_000, 9_000] {
            paused.pause(Instant::from_millis(millis));
        }
        let wanted = [2_000, 3_000].map(|millis| grown(&mut steady, millis));
        let got = [12_000, 13_000].map(|millis| grown(&mut paused, millis));
        assert_eq!(wanted, got);
        assert!(wanted[0] > 3_000, "{wanted:?}");
        // What was unused before the stage began is not to be taken off it.
        let mut begun = Cubic {
            epoch: Some(Instant::from_millis(10_000)),
            paused: Some(Instant::ZERO),
            ..since_zero(100_000, 0)
        };
        let mut fresh = since_zero(100_000, 0);
        let wanted = [0, 2_000].map(|millis| grown(&mut fresh, millis));
        let got = [12_000, 14_000].map(|millis| grown(&mut begun, millis));
        assert_eq!(wanted, got);
    }

    /// RFC 9438 section 4.7.
    #[test]
    fn who_reduces_before_the_old_maximum_makes_room_for_others() {
        let mut cubic = Cubic::default();
        assert_eq!((cubic.reduce(100_000), cubic.w_max), (70_000, 100_000));
        assert_eq!((cubic.reduce(80_000), cubic.w_max), (56_000, 68_000));
        assert_eq!((cubic.reduce(70_000), cubic.w_max), (49_000, 70_000));
    }

    #[test]
    fn cube_roots_round_down() {
        for (n, root) in [
            (0, 0),
            (1, 1),
            (7, 1),
            (8, 2),
            (26, 2),
            (27, 3),
            (u64::MAX, 2_642_245),
        ] {
            assert_eq!(cube_root(n), root);
        }
    }
}
