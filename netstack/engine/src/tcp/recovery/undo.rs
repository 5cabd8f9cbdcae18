//! Taking back a reduction that was no loss: by timestamps (Eifel, RFC 3522 and 4015) or because
//! the peer got every retransmitted octet twice (DSACK, RFC 3708).

use alloc::boxed::Box;

use super::super::congestion::Algorithm;
use super::super::options::SackRange;
use crate::seq::SeqNumber;

/// What has to be remembered of an episode to undo it.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct Episode {
    /// SND.UNA when the episode began; `None` when there is nothing to undo.
    pub from: Option<SeqNumber>,
    /// SND.NXT when the episode ended: duplicates are reported within a round trip of it.
    pub until: Option<SeqNumber>,
    /// Window before.
    pub cwnd: u32,
    /// Threshold before.
    pub ssthresh: u32,
    /// The algorithm's private state before, where it is known.
    pub algorithm: Option<Algorithm>,
    /// TSval of the episode's first retransmission.
    pub stamp: Option<u32>,
    /// Whether anything was retransmitted in the episode.
    pub retransmitted: bool,
    /// Retransmitted octets not reported as duplicates yet.
    pub unreported: u32,
}

/// The last episode, as long as it can be undone. Apart from the connection, as few have one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Undo(pub Option<Box<Episode>>);

impl Undo {
    /// An episode begins.
    pub fn begin(&mut self, from: SeqNumber, cwnd: u32, ssthresh: u32) {
        **self.0.get_or_insert_default() = Episode {
            from: Some(from),
            cwnd,
            ssthresh,
            ..Episode::default()
        };
    }

    /// What the algorithm had when the episode began.
    pub fn keep(&mut self, algorithm: Algorithm) {
        if let Some(episode) = &mut self.0 {
            episode.algorithm = Some(algorithm);
        }
    }

    /// The episode is over, or was needless: nothing of it is left to undo.
    pub fn forget(&mut self) {
        self.0 = None;
    }

    /// The episode ended with `nxt` as SND.NXT.
    pub fn end(&mut self, nxt: SeqNumber) {
        if let Some(episode) = &mut self.0 {
            episode.until = Some(nxt);
        }
    }

    /// `len` octets were retransmitted at TSval `stamp`.
    pub fn on_retransmit(&mut self, len: u32, stamp: Option<u32>) {
        if let Some(episode) = &mut self.0 {
            if !episode.retransmitted {
                episode.stamp = stamp;
            }
            episode.retransmitted = true;
            episode.unreported = episode.unreported.saturating_add(len);
        }
    }

    /// The peer reported a duplicate.
    pub fn on_duplicate(&mut self, range: SackRange) {
        if let Some(episode) = &mut self.0
            && episode
                .from
                .is_some_and(|from| range.start.at_or_after(from))
        {
            episode.unreported = episode
                .unreported
                .saturating_sub(range.end.distance_from(range.start));
        }
    }

    /// SND.UNA is `una` now: a round trip after its end the episode is beyond doubt.
    pub fn on_progress(&mut self, una: SeqNumber) {
        let until = self.0.as_ref().and_then(|episode| episode.until);
        if until.is_some_and(|until| una.after(until)) {
            self.forget();
        }
    }

    /// The episode to go back to the beginning of, if an ACK that echoes `echo` shows the episode to
    /// be needless.
    pub fn needless(&self, echo: Option<u32>) -> Option<Episode> {
        let episode = self.0.as_ref()?;
        if episode.from.is_none() || !episode.retransmitted {
            return None;
        }
        let early = match (episode.stamp, echo) {
            (Some(stamp), Some(echo)) => (echo.wrapping_sub(stamp) as i32) < 0,
            _ => false,
        };
        (early || episode.unreported == 0).then_some(**episode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Window and threshold before an episode.
    fn before(episode: Option<Episode>) -> Option<(u32, u32)> {
        episode.map(|episode| (episode.cwnd, episode.ssthresh))
    }

    /// An episode in which the octets from 1000 to 3000 were retransmitted at TSval 50.
    fn episode() -> Undo {
        let mut undo = Undo::default();
        undo.begin(SeqNumber::new(1000), 20_000, 40_000);
        undo.on_retransmit(1000, Some(50));
        undo.on_retransmit(1000, Some(51));
        undo
    }

    fn duplicate(start: u32) -> SackRange {
        SackRange {
            start: SeqNumber::new(start),
            end: SeqNumber::new(start + 1000),
        }
    }

    #[test]
    fn an_episode_is_needless_once_every_retransmission_is_reported_as_a_duplicate() {
        let mut undo = episode();
        undo.on_duplicate(duplicate(0));
        undo.on_duplicate(duplicate(1000));
        assert_eq!(undo.needless(None), None, "one is still out");
        undo.on_duplicate(duplicate(2000));
        assert_eq!(before(undo.needless(None)), Some((20_000, 40_000)));
    }

    #[test]
    fn an_episode_is_needless_if_what_was_sent_before_it_is_echoed() {
        let undo = episode();
        assert_eq!(undo.needless(Some(50)), None, "the retransmission arrived");
        assert_eq!(before(undo.needless(Some(49))), Some((20_000, 40_000)));
    }

    #[test]
    fn a_round_trip_after_its_end_an_episode_stands() {
        let mut undo = episode();
        undo.end(SeqNumber::new(5000));
        undo.on_progress(SeqNumber::new(5000));
        assert!(undo.needless(Some(49)).is_some());
        undo.on_progress(SeqNumber::new(5001));
        assert_eq!(undo.needless(Some(49)), None);
    }
}
