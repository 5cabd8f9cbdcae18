//! Proportional rate reduction (RFC 6937): how the window comes down to the threshold over one
//! round of recovery, a segment out for every so many delivered.

/// State of one episode.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Prr {
    /// Octets delivered since the episode began.
    pub delivered: u32,
    /// Octets sent since.
    pub sent: u32,
    /// Octets in flight when it began (RecoverFS).
    pub flight: u32,
}

impl Prr {
    /// An episode begins with `flight` octets outstanding.
    pub fn begin(flight: u32) -> Prr {
        Prr {
            delivered: 0,
            sent: 0,
            flight: flight.max(1),
        }
    }

    /// The congestion window after `delivered` more octets arrived. `progress`: SND.UNA moved and
    /// nothing further was found lost.
    pub fn window(
        &mut self,
        delivered: u32,
        in_flight: u32,
        ssthresh: u32,
        progress: bool,
        mss: u32,
    ) -> u32 {
        self.delivered = self.delivered.saturating_add(delivered);
        let mut budget = if in_flight > ssthresh {
            let share = (u64::from(self.delivered) * u64::from(ssthresh))
                .div_ceil(u64::from(self.flight.max(1)));
            share.saturating_sub(u64::from(self.sent)) as u32
        } else {
            let mut limit = self.delivered.saturating_sub(self.sent).max(delivered);
            if progress {
                limit = limit.saturating_add(mss);
            }
            limit.min(ssthresh - in_flight)
        };
        if self.sent == 0 {
            budget = budget.max(mss);
        }
        // With nothing in flight nothing would ever come back: one segment always fits.
        in_flight.saturating_add(budget).max(mss)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flight_comes_down_to_the_threshold_in_proportion() {
        // 20 segments in flight, one lost, threshold 14: of the 19 that arrive, 7 in 10 let one out.
        let mss = 1000;
        let mut prr = Prr::begin(20 * mss);
        let mut in_flight = 19 * mss;
        for arrived in 1..=19 {
            in_flight -= mss;
            let cwnd = prr.window(mss, in_flight, 14 * mss, false, mss);
            while in_flight + mss <= cwnd {
                in_flight += mss;
                prr.sent += mss;
            }
            if arrived == 8 {
                assert!((16 * mss..=17 * mss).contains(&in_flight), "{in_flight}");
            }
        }
        assert!((13 * mss..=14 * mss).contains(&in_flight), "{in_flight}");
    }

    /// RFC 6937 section 3.1: slow start reduction bound while acknowledgements bring good news only.
    #[test]
    fn below_the_threshold_a_segment_more_leaves_only_where_nothing_more_is_lost() {
        let window = |in_flight, progress| {
            let mut prr = Prr {
                delivered: 4_000,
                sent: 5_000,
                flight: 10_000,
            };
            prr.window(1_000, in_flight, 7_000, progress, 1_000)
        };
        assert_eq!(window(3_000, false), 4_000, "what was delivered");
        assert_eq!(window(3_000, true), 5_000);
        assert_eq!(window(5_500, true), 7_000, "the threshold");
    }

    #[test]
    fn the_first_retransmission_is_never_held_back() {
        let mut prr = Prr::begin(10_000);
        assert!(prr.window(0, 9_000, 5_000, false, 1000) >= 10_000);
    }

    #[test]
    fn the_window_never_closes_altogether() {
        // The retransmission was lost too, and what was delivered was small change.
        let mut prr = Prr::begin(386);
        prr.delivered = 193;
        prr.sent = 386;
        assert_eq!(prr.window(0, 0, 2_856, false, 1_428), 1_428);
    }
}
