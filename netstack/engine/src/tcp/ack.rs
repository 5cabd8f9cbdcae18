//! Acknowledgements in: what they say was delivered, how long it took, what must be lost, and
//! what the windows become (RFC 9293 section 3.10.7.4 step 5, RFC 8985, RFC 6937, RFC 6582).

use super::congestion::Congestion;
use super::connection::{Connection, is_older};
use super::recovery::prr::Prr;
use super::recovery::tlp::{self, Verdict};
use super::recovery::{DUPLICATE_THRESHOLD, Phase};
use super::sack;
use super::segment::{SackRange, Segment};
use super::snd::{Marks, SentSegment};
use crate::time::{Duration, Instant};

/// Segments an acknowledgement covers at most for its duplicates to count as signs of a loss though nothing
/// new was covered (RFC 6582 section 4.1).
const SMALL_STEP: u32 = 4;

/// What one acknowledgement delivered.
#[derive(Default)]
struct Delivery {
    /// Octets newly known to have arrived.
    octets: u32,
    /// When the first and last transmitted of them left, where that is beyond doubt.
    first: Option<Instant>,
    last: Option<Instant>,
    /// Something retransmitted was acknowledged. What is acknowledged with it may have waited behind it.
    filled: bool,
}

impl Delivery {
    fn add(&mut self, segment: &SentSegment) {
        self.octets += segment.len;
        if !segment.marks.has(Marks::EVER_RETRANSMITTED | Marks::MOVED) {
            let sent = segment.sent_at;
            self.first = Some(self.first.map_or(sent, |first| first.min(sent)));
            self.last = Some(self.last.map_or(sent, |last| last.max(sent)));
        }
    }
}

impl Connection {
    /// Take in SEG.ACK, SEG.WND and SACK ranges. False if the segment is to be dropped.
    pub(crate) fn take_ack(&mut self, now: Instant, segment: &Segment) -> bool {
        let ack = segment.ack;
        let oldest = self.snd.una.sub(self.snd.max_window.max(1));
        if ack.after(self.snd.nxt) || ack.before(oldest) {
            // RFC 5961 section 5: nothing we sent; perhaps someone guesses.
            self.counters.bad_acks += 1;
            self.challenge(now);
            return false;
        }
        if ack.before(self.snd.una) {
            return true;
        }
        let window_moved = self.update_window(segment);
        let outstanding = self.snd.outstanding();
        let dsack = match self.sack && !segment.options.sack.is_empty() {
            true => sack::duplicate(ack, &segment.options.sack),
            false => None,
        };
        if outstanding == 0 {
            // Nothing to acknowledge: the common case of a receiver. If it answers a probe, the
            // peer is there.
            self.attempts = 0;
            if dsack.is_some() {
                self.take_late_dsack(segment, dsack);
            }
            return true;
        }
        let progress = ack != self.snd.una;
        let in_flight = self.snd.in_flight();
        let congested = self.take_echo(segment, outstanding);
        let (delivery, sacked) = self.deliver(now, segment);
        let sample = self.sample_rtt(now, segment, &delivery, progress);
        if progress {
            self.on_progress(now, ack);
            self.congestion.on_round_trip(ack, self.snd.nxt, sample);
        } else if self.snd.window == 0 {
            self.attempts = 0;
        }
        self.note_dsack(dsack);
        let duplicate =
            !progress && segment.is_empty() && !window_moved && sacked == 0 && dsack.is_none();
        self.judge_probe(segment, duplicate, dsack.is_some());
        let recovered = self.leave_phase(segment, progress, dsack.is_some());
        if recovered && !self.sack {
            self.judge_duplicates_to_come(outstanding - self.snd.outstanding());
        }
        let lost = match self.sack {
            true => self.detect_losses(now),
            false => self.count_duplicates(duplicate, progress, outstanding),
        };
        if lost && self.recovery.phase == Phase::Open {
            self.enter_recovery();
        }
        let mut delivered = delivery.octets;
        if !self.sack && duplicate {
            delivered += u32::from(self.mss()).min(outstanding);
        }
        let hold = recovered || congested;
        self.grow(now, delivered, in_flight, progress, lost, hold);
        self.arm_after_ack(now, progress || sacked > 0, progress);
        true
    }

    fn note_dsack(&mut self, dsack: Option<SackRange>) {
        if let Some(range) = dsack {
            self.counters.duplicates_reported += 1;
            self.recovery.rack.on_duplicate(&self.snd);
            self.recovery.undo.on_duplicate(range);
        }
    }

    /// A duplicate is reported when everything is acknowledged: the usual end of a needless
    /// retransmission of the last segment (RFC 8985 section 7.4.2, RFC 3708).
    fn take_late_dsack(&mut self, segment: &Segment, dsack: Option<SackRange>) {
        self.note_dsack(dsack);
        self.judge_probe(segment, false, true);
        self.leave_phase(segment, false, true);
    }

    /// The window a segment offers, in octets: that of a SYN is never scaled (RFC 7323 section 2.2).
    pub(crate) fn offered_window(&self, segment: &Segment) -> u32 {
        let scale = match segment.flags.syn() {
            true => 0,
            false => self.snd.scale,
        };
        u32::from(segment.window) << scale
    }

    /// SND.WND, SND.WL1, SND.WL2. Returns whether the window changed.
    fn update_window(&mut self, segment: &Segment) -> bool {
        let window = self.offered_window(segment);
        let snd = &mut self.snd;
        // What acknowledges new octets is new, whatever its number: kept as it was, the window would
        // reach beyond what the peer offered once SND.UNA has moved.
        let newer = segment.ack.after(snd.una)
            || snd.wl1.before(segment.seq)
            || snd.wl1 == segment.seq && snd.wl2.at_or_before(segment.ack);
        if !newer {
            return false;
        }
        let moved = window != snd.window;
        if snd.window == 0 && window > 0 {
            // Probing is over.
            self.rtt.backoff = 0;
            self.attempts = 0;
            self.timers.persist.clear();
        }
        snd.window = window;
        snd.max_window = snd.max_window.max(window);
        snd.wl1 = segment.seq;
        snd.wl2 = segment.ack;
        moved
    }

    /// Enter what the segment acknowledges, cumulatively and selectively. Returns also the octets
    /// newly covered by SACK.
    fn deliver(&mut self, now: Instant, segment: &Segment) -> (Delivery, u32) {
        let mut delivery = Delivery::default();
        let mss = u32::from(self.mss());
        let min_rtt = self.rtt.min_rtt();
        let timestamps = self.timestamps;
        let echo = self.echo(segment);
        let rack = &mut self.recovery.rack;
        let with_sack = self.sack;
        if let Some(first) = self.snd.sent.front() {
            let len = first.len.min(mss);
            if first.end().at_or_before(segment.ack) {
                self.snd.largest_acked = self.snd.largest_acked.max(len as u16);
            }
        }
        self.snd.acknowledge(segment.ack, |sent| {
            delivery.filled |= sent.marks.has(Marks::EVER_RETRANSMITTED);
            if sent.marks.has(Marks::SACKED) {
                return;
            }
            delivery.add(sent);
            if with_sack {
                let ambiguous = match (timestamps, echo) {
                    (Some(ours), Some(echo)) => is_older(echo, ours.value(sent.sent_at)),
                    _ => false,
                };
                rack.on_delivered(now, sent, ambiguous, min_rtt);
            }
        });
        let sacked = match with_sack && !segment.options.sack.is_empty() {
            true => self.snd.apply_sack(&segment.options.sack, |sent| {
                delivery.add(sent);
                // Octets out of order are not what TSecr echoes: it cannot tell transmissions apart.
                rack.on_delivered(now, sent, false, min_rtt);
            }),
            false => 0,
        };
        (delivery, sacked)
    }

    /// TSecr, if timestamps are in use.
    fn echo(&self, segment: &Segment) -> Option<u32> {
        self.timestamps.as_ref()?;
        segment.options.timestamps.map(|theirs| theirs.echo)
    }

    /// Learn the round trip from what was delivered. Returns the latest sample that is beyond doubt.
    fn sample_rtt(
        &mut self,
        now: Instant,
        segment: &Segment,
        delivery: &Delivery,
        progress: bool,
    ) -> Option<Duration> {
        // Karn: where nothing tells which transmission was acknowledged, the next segment still waits as long
        // as this one did, or a path slower than the time-out was never measured (RFC 6298 section 5).
        if progress && (!delivery.filled || self.echo(segment).is_some()) {
            self.rtt.backoff = 0;
        }
        if let Some(first) = delivery.first.filter(|_| !delivery.filled) {
            let least = Duration::from_nanos(1);
            self.rtt.sample(now, now.since(first).max(least));
            let last = delivery.last.map(|last| now.since(last).max(least));
            if let Some(last) = last {
                self.rtt.sample_min(now, last);
            }
            return last;
        }
        // A retransmission was acknowledged: the timestamp tells which transmission it was (RFC
        // 7323 section 4). Echoes from before a move are off by the time it took.
        let (ours, echo) = (self.timestamps.as_ref()?, self.echo(segment)?);
        if !progress || ours.valid_from.is_some_and(|from| !is_older(from, echo)) {
            return None;
        }
        let millis = ours.value(now).wrapping_sub(echo);
        if millis < 60_000 {
            self.rtt
                .sample(now, Duration::from_millis(u64::from(millis.max(1))));
        }
        None
    }

    fn on_progress(&mut self, now: Instant, ack: crate::seq::SeqNumber) {
        self.progress_at = now;
        self.soft_error = false;
        self.search_acknowledged(now, ack);
        self.attempts = 0;
        self.recovery.rack.on_progress(ack);
        self.recovery.undo.on_progress(ack);
        if self.recovery.phase == Phase::Open && ack.after(self.recovery.point) {
            // Past, and not to lie ahead when numbers wrap.
            self.recovery.point = ack.sub(1);
        }
        self.updated = true;
    }

    fn judge_probe(&mut self, segment: &Segment, duplicate: bool, dsack: bool) {
        let verdict = self.recovery.tlp.on_ack(segment.ack, duplicate, dsack);
        if verdict == Verdict::Repaired && self.recovery.phase == Phase::Open {
            self.congestion.reduce(u32::from(self.mss()));
            self.on_reduction();
        }
    }

    /// Whether an episode of recovery ends here, well or as needless.
    fn leave_phase(&mut self, segment: &Segment, progress: bool, dsack: bool) -> bool {
        let echo = match progress {
            true => self.echo(segment),
            false => None,
        };
        if (progress || dsack)
            && let Some(episode) = self.recovery.undo.needless(echo)
        {
            self.congestion
                .undo(episode.cwnd, episode.ssthresh, episode.algorithm);
            if self.recovery.phase == Phase::Recovery {
                // What was deemed lost came late. RACK itself does not see that, as the segment is
                // marked as retransmitted by then.
                self.recovery.rack.reordering_seen = true;
            }
            self.recovery.undo.forget();
            self.counters.undos += 1;
            if self.recovery.phase != Phase::Open {
                self.snd.unmark_lost();
                self.end_episode();
                return true;
            }
        }
        if self.recovery.phase == Phase::Open || segment.ack.before(self.recovery.point) {
            return false;
        }
        if self.recovery.phase == Phase::Recovery {
            self.congestion.cwnd = self.congestion.ssthresh.max(u32::from(self.mss()));
        }
        self.end_episode();
        true
    }

    fn end_episode(&mut self) {
        self.recovery.phase = Phase::Open;
        self.recovery.duplicate_acks = 0;
        self.snd.reno_sacked = 0;
        self.recovery.undo.end(self.snd.nxt);
        self.recovery.rack.on_recovered();
    }

    /// RACK (RFC 8985 section 6.2). Returns whether anything new is lost.
    pub(crate) fn detect_losses(&mut self, now: Instant) -> bool {
        let mss = u32::from(self.mss());
        let snd = &mut self.snd;
        let idle = snd.sacked == 0 && snd.lost == 0 && snd.retransmitted == 0;
        if idle && self.recovery.phase == Phase::Open {
            self.timers.reorder.clear();
            return false;
        }
        let threshold = u32::from(DUPLICATE_THRESHOLD);
        let certain = self.recovery.phase != Phase::Open || snd.is_sacked(threshold, mss);
        let rack = &self.recovery.rack;
        let window = rack.reorder_window(self.rtt.srtt(), self.rtt.min_rtt(), certain);
        let before = self.snd.lost;
        let (mut lost, again) = rack.detect(now, &mut self.snd, window);
        if lost && self.is_only_the_probe_lost(now, self.snd.lost - before) {
            lost = false;
        }
        match again {
            Some(at) => self.timers.reorder.set(at),
            None => self.timers.reorder.clear(),
        }
        lost
    }

    /// Duplicate-ACK counting for peers without SACK (RFC 5681 section 3.2, RFC 6582).
    fn count_duplicates(&mut self, duplicate: bool, progress: bool, outstanding: u32) -> bool {
        let mss = u32::from(self.mss());
        if duplicate {
            self.recovery.duplicate_acks = self.recovery.duplicate_acks.saturating_add(1);
            self.snd.reno_sacked = (self.snd.reno_sacked + mss)
                .min(outstanding.saturating_sub(self.snd.lost.max(mss)));
            // What was sent again after a time-out, though it had arrived, has as many duplicate ACKs come
            // back: they say nothing of a loss (RFC 6582 section 3.2, step 2).
            return self.recovery.duplicate_acks == DUPLICATE_THRESHOLD
                && self.recovery.phase == Phase::Open
                && self.snd.una.after(self.recovery.point)
                && self.mark_head_lost(mss);
        }
        if !progress {
            return false;
        }
        let acked = outstanding.saturating_sub(self.snd.outstanding());
        self.snd.reno_sacked = self
            .snd
            .reno_sacked
            .saturating_sub(acked.saturating_sub(mss))
            .min(self.snd.outstanding());
        match self.recovery.phase {
            Phase::Open => {
                self.recovery.duplicate_acks = 0;
                self.snd.reno_sacked = 0;
                false
            }
            // A partial acknowledgement: the next hole begins here.
            Phase::Recovery => self.mark_head_lost(mss),
            Phase::Loss => false,
        }
    }

    /// An episode is over, by an acknowledgement of so many octets more. Duplicates of it may answer what was
    /// sent again though it had arrived, and do not count. But then the acknowledgement would have
    /// gone over all that had arrived: after a small step a loss is the likelier reason (RFC 6582 section 4.1).
    fn judge_duplicates_to_come(&mut self, acknowledged: u32) {
        let mss = u32::from(self.mss());
        if self.snd.una == self.recovery.point
            && acknowledged <= SMALL_STEP * mss
            && self.congestion.cwnd > mss
        {
            self.recovery.point = self.snd.una.sub(1);
        }
    }

    fn mark_head_lost(&mut self, mss: u32) -> bool {
        self.snd.split(0, mss);
        self.snd.mark_lost(0)
    }

    /// Something is lost: reduce, once per round.
    pub(crate) fn enter_recovery(&mut self) {
        let mss = u32::from(self.mss());
        let Congestion {
            cwnd,
            ssthresh,
            algorithm,
            ..
        } = self.congestion;
        self.recovery.undo.begin(self.snd.una, cwnd, ssthresh);
        self.recovery.undo.keep(algorithm);
        self.congestion.on_congestion(self.snd.outstanding(), mss);
        self.on_reduction();
        self.recovery.phase = Phase::Recovery;
        self.recovery.point = self.snd.nxt;
        self.recovery.prr = Prr::begin(self.snd.outstanding().saturating_sub(self.snd.sacked));
        self.recovery.tlp.due = false;
        self.timers.probe.clear();
        self.counters.recoveries += 1;
        // The first retransmission goes out whatever is in flight.
        self.congestion.cwnd = self.snd.in_flight() + mss;
    }

    /// The congestion window after an acknowledgement.
    fn grow(
        &mut self,
        now: Instant,
        delivered: u32,
        in_flight: u32,
        progress: bool,
        lost: bool,
        hold: bool,
    ) {
        let mss = u32::from(self.mss());
        match self.recovery.phase {
            Phase::Recovery => {
                self.congestion.cwnd = self.recovery.prr.window(
                    delivered,
                    self.snd.in_flight(),
                    self.congestion.ssthresh,
                    progress && !lost,
                    mss,
                );
            }
            Phase::Open | Phase::Loss if progress && !hold => {
                let doubled = self.congestion.in_slow_start()
                    && in_flight.saturating_mul(2) > self.congestion.cwnd;
                // Without SACK what a retransmission fills in was not all delivered just now: a
                // segment per ACK at most (RFC 3465 section 2.3).
                let acked = match self.recovery.phase {
                    Phase::Loss if !self.sack => delivered.min(mss),
                    _ => delivered,
                };
                if self.snd.cwnd_limited || doubled {
                    let rtt = self.rtt.srtt().unwrap_or_default();
                    let paced = self.is_paced();
                    self.congestion.on_ack(now, acked, mss, rtt, paced);
                } else {
                    self.congestion.on_unused(now);
                }
            }
            Phase::Open | Phase::Loss => {}
        }
    }

    /// Timers after an acknowledgement; `news`: it delivered something.
    fn arm_after_ack(&mut self, now: Instant, news: bool, progress: bool) {
        if self.snd.outstanding() == 0 {
            self.timers.retransmit.clear();
            self.timers.probe.clear();
            self.timers.reorder.clear();
            self.recovery.tlp.due = false;
            return;
        }
        if progress {
            self.arm_retransmit(now);
        }
        if news {
            self.arm_probe(now);
        }
    }

    /// The last probe was acknowledged and no duplicate reported since: it seems to have repaired a loss.
    /// With new octets on their way the answer is not waited for any longer (nor are they left without
    /// a probe of their own), but a duplicate that is reported yet takes the reduction back.
    pub(crate) fn settle_probe(&mut self) {
        if let Some(end) = self.recovery.tlp.end
            && self.snd.una.at_or_after(end)
        {
            self.recovery.tlp.end = None;
            if self.recovery.phase == Phase::Open {
                let Congestion {
                    cwnd,
                    ssthresh,
                    algorithm,
                    ..
                } = self.congestion;
                let start = end.sub(u32::from(self.mss()));
                let undo = &mut self.recovery.undo;
                undo.begin(start, cwnd, ssthresh);
                undo.keep(algorithm);
                // Whatever part of it was a duplicate, the probe was needless.
                undo.on_retransmit(1, None);
                undo.end(self.snd.nxt);
                self.congestion.reduce(u32::from(self.mss()));
                self.on_reduction();
            }
        }
    }

    /// Set the probe timer where a probe makes sense (RFC 8985 section 7.2).
    pub(crate) fn arm_probe(&mut self, now: Instant) {
        let useful = self.sack
            && self.recovery.phase == Phase::Open
            && self.recovery.tlp.end.is_none()
            && self.snd.sacked == 0
            && self.snd.outstanding() > 0;
        if !useful {
            self.timers.probe.clear();
            return;
        }
        let alone = self.snd.outstanding() <= u32::from(self.mss());
        let mut at = now + tlp::timeout(&self.rtt, alone, self.options.peer_ack_delay);
        if let Some(retransmit) = self.timers.retransmit.deadline() {
            at = at.min(retransmit);
        }
        self.timers.probe.set(at);
    }
}
