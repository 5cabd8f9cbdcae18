//! Whether to look out for work a little while before going to sleep.
//!
//! To sleep and be woken costs a virtual machine more than a small request does: an exit for the `hlt`,
//! an interrupt to be injected, its end to be told. Whoever answers one request at a time is asked
//! again at once, so where the last wait was a short one, the next is hoped to be, and polls for some of
//! that time. A machine with nothing to do sleeps at once, and so does one that only its timers wake: when
//! they go off is known.

/// Nanoseconds that a short wait takes at most: about a round trip to a client on the same host.
pub const SHORT_NS: u64 = 100_000;

/// Nanoseconds that are polled through at most. Fewer than a short wait takes: under emulation QEMU's other
/// threads may have only this processor to bring the frame on. With 100 us a download over TAP, all of QEMU on one
/// core, is a tenth slower; with 30 us nothing is, and requests one at a time gain as much.
pub const POLL_NS: u64 = 40_000;

/// What the last wait was like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lookout {
    short: bool,
}

impl Lookout {
    /// Until when to poll, for a wait that begins at `now_ns` and is over at `deadline_ns`; `None`: sleep.
    pub fn until(self, now_ns: u64, deadline_ns: Option<u64>) -> Option<u64> {
        let until = now_ns.saturating_add(POLL_NS);
        self.short
            .then(|| deadline_ns.map_or(until, |deadline| deadline.min(until)))
    }

    /// A wait that began at `begun_ns` and would have been over at `deadline_ns` is over at `ended_ns`, polled or
    /// slept through.
    pub fn waited(&mut self, begun_ns: u64, ended_ns: u64, deadline_ns: Option<u64>) {
        let timer = deadline_ns.is_some_and(|deadline| deadline <= ended_ns);
        self.short = !timer && ended_ns.saturating_sub(begun_ns) < SHORT_NS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_waited_a_short_time_polls_for_one() {
        let mut lookout = Lookout::default();
        assert_eq!(
            lookout.until(5, None),
            None,
            "nobody has asked for anything"
        );
        lookout.waited(5, 4 + SHORT_NS, None);
        assert_eq!(lookout.until(5, None), Some(5 + POLL_NS));
        lookout.waited(5, 5 + SHORT_NS, None);
        assert_eq!(lookout.until(5, None), None);
    }

    #[test]
    fn who_is_woken_by_timers_sleeps_however_often_they_go_off() {
        let mut lookout = Lookout::default();
        lookout.waited(5, 9, Some(10));
        assert!(lookout.until(9, None).is_some(), "a card was faster");
        lookout.waited(5, 10, Some(10));
        assert_eq!(lookout.until(10, None), None);
        lookout.waited(5, 5, Some(3));
        assert_eq!(lookout.until(5, None), None, "it was late already");
    }

    #[test]
    fn a_timer_is_not_kept_waiting() {
        let mut lookout = Lookout::default();
        lookout.waited(5, 5, None);
        assert_eq!(lookout.until(5, Some(7)), Some(7));
        assert_eq!(lookout.until(5, Some(5 + 2 * POLL_NS)), Some(5 + POLL_NS));
        assert_eq!(lookout.until(u64::MAX - 1, None), Some(u64::MAX));
    }
}
