//! Segments in (RFC 9293 section 3.10.7): what a segment does to each state. Acknowledgements are
//! taken in by `ack`.

use alloc::vec::Vec;

use bytes::Bytes;

use super::connection::{Connection, ConnectionError, FIN_WAIT_2, TIME_WAIT, is_older, mss_of};
use super::rcv::{Accepted, Rcv, RcvFin};
use super::segment::Segment;
use super::snd::SndFin;
use super::state::State;
use crate::seq::SeqNumber;
use crate::time::{Duration, Instant};

/// TS.Recent older than this no longer says what is old (RFC 7323 section 5.5).
const TIMESTAMP_LIFETIME: Duration = Duration::from_secs(24 * 24 * 3600);

impl Connection {
    /// Take in a segment of this flow, its checksum verified.
    pub fn handle_segment(&mut self, now: Instant, segment: &Segment) {
        self.counters.segments_in += 1;
        match self.state {
            State::Closed => {}
            State::SynSent => self.in_syn_sent(now, segment),
            _ => self.in_synchronized(now, segment),
        }
    }

    /// Take in a segment and the payloads of those behind it, which differ from it in nothing but
    /// payload and sequence number (and PSH): what they say of windows and timestamps is said.
    pub(crate) fn handle_train(&mut self, now: Instant, first: &Segment, rest: &mut Vec<Bytes>) {
        let before = self.rcv.nxt;
        self.handle_segment(now, first);
        // Where others overtook it, its window is not the latest (SND.WL1), and each is to be judged alone.
        let accepted = self.rcv.nxt != before && self.snd.wl1 == first.seq;
        let mut seq = first.end();
        for payload in rest.drain(..) {
            let next = seq.add(payload.len() as u32);
            if accepted
                && self.rcv.nxt == seq
                && self.rcv.fin == RcvFin::Open
                && self.state.may_receive()
            {
                self.counters.segments_in += 1;
                self.take_payload(now, seq, payload);
                self.snd.wl1 = seq;
            } else {
                let segment = Segment {
                    seq,
                    payload,
                    ..first.clone()
                };
                self.handle_segment(now, &segment);
            }
            seq = next;
        }
    }

    /// Whether some of `len` octets from `seq` on were received before.
    pub(crate) fn has_some_of(&self, seq: SeqNumber, len: u32) -> bool {
        self.state.is_synchronized() && self.rcv.has_some_of(seq, len)
    }

    /// Both sides have agreed on numbers: `first` is the first octet we send.
    pub(crate) fn establish_numbers(&mut self, first: SeqNumber) {
        self.snd.una = first;
        self.snd.nxt = first;
        self.snd.wl2 = first;
        self.snd.next_lost = first;
        self.recovery.point = first.sub(1);
        self.recovery.rack.end = first;
        self.recovery.rack.fack = first;
    }

    /// Our SYN is acknowledged.
    fn established(&mut self, now: Instant) {
        if self.attempts == 0
            && let Some(sent) = self.snd.last_sent.take()
        {
            self.rtt
                .sample(now, now.since(sent).max(Duration::from_micros(1)));
        }
        self.establish_numbers(self.snd.iss.add(1));
        if self.attempts > 0 {
            self.syn_was_lost();
        }
        self.attempts = 0;
        self.owed.syn = false;
        self.timers.retransmit.clear();
        self.state = match self.snd.fin {
            SndFin::Open => State::Established,
            _ => State::FinWait1,
        };
        self.updated = true;
        self.restart_keepalive(now);
    }

    /// Our SYN, or its answer, was sent more than once: begin with a window of one segment (RFC
    /// 6928 section 2) and a longer time-out (RFC 6298 section 5.7).
    pub(crate) fn syn_was_lost(&mut self) {
        self.congestion.cwnd = u32::from(self.mss());
        self.rtt.on_syn_lost();
    }

    fn take_window(&mut self, segment: &Segment, window: u32) {
        self.snd.window = window;
        self.snd.max_window = self.snd.max_window.max(window);
        self.snd.wl1 = segment.seq;
        self.snd.wl2 = segment.ack;
    }

    fn in_syn_sent(&mut self, now: Instant, segment: &Segment) {
        let flags = segment.flags;
        let ours = flags.ack() && segment.ack == self.snd.iss.add(1) && segment.ack == self.snd.nxt;
        if flags.ack() && !ours {
            self.counters.bad_acks += 1;
            if !flags.rst() {
                self.owed.stray_reset = Some(segment.ack);
            }
            return;
        }
        if flags.rst() {
            if ours {
                self.die(Some(ConnectionError::Refused));
            }
            return;
        }
        if !flags.syn() {
            return;
        }
        let told = self.rcv.buffer.min(0xffff);
        self.rcv = Rcv {
            discard: self.rcv.discard,
            most: self.rcv.most,
            ..Rcv::new(segment.seq, self.rcv.buffer)
        };
        self.rcv.edge = self.rcv.nxt.add(told);
        self.negotiate(now, &segment.options);
        self.heard_at = now;
        self.note_user_timeout(segment);
        if ours {
            self.ecn_answered(flags);
            self.established(now);
            self.take_window(segment, self.offered_window(segment));
            self.owed.ack = true;
            if !segment.payload.is_empty() || flags.fin() {
                // What follows the SYN in its segment (RFC 9293 section 3.10.7.3, fourth step).
                self.take_text(now, segment.seq.add(1), segment);
            }
        } else {
            self.state = State::SynReceived;
            self.snd.window = u32::from(segment.window);
            self.snd.max_window = self.snd.window;
            self.snd.wl1 = segment.seq;
            self.owed.syn = true;
        }
    }

    fn in_synchronized(&mut self, now: Instant, segment: &Segment) {
        let flags = segment.flags;
        if flags.rst() {
            return self.take_reset(now, segment);
        }
        // The SYN-ACK of a simultaneous open repeats a SYN we know: only its ACK is news.
        let crossed = self.state == State::SynReceived
            && flags.syn()
            && flags.ack()
            && segment.seq == self.rcv.irs;
        if flags.syn() && !crossed {
            // Whatever its number and timestamp (RFC 5961 section 4.2): PAWS is not for SYNs, and a peer
            // that begins anew need not offer timestamps.
            if !self.is_acceptable(segment) {
                self.counters.out_of_window += 1;
            }
            return self.challenge(now);
        }
        if !crossed {
            if !self.passes_paws(now, segment) {
                return;
            }
            if !self.is_acceptable(segment) {
                return self.refuse(now, segment);
            }
        }
        if !flags.ack() {
            return;
        }
        if self.state == State::SynReceived {
            if segment.ack != self.snd.iss.add(1) {
                self.counters.bad_acks += 1;
                self.owed.stray_reset = Some(segment.ack);
                return;
            }
            self.established(now);
            self.take_window(segment, self.offered_window(segment));
        }
        if !self.take_ack(now, segment) {
            return;
        }
        // Not before its ACK shows that whoever sent it knows the connection.
        self.note_timestamp(now, segment);
        self.heard_at = now;
        self.note_user_timeout(segment);
        self.restart_keepalive(now);
        self.after_ack(now);
        if self.state.may_receive() && !crossed {
            self.note_congestion(segment);
            self.take_text(now, segment.seq, segment);
        }
    }

    /// RST (RFC 5961 section 3): believed only if it names exactly RCV.NXT.
    fn take_reset(&mut self, now: Instant, segment: &Segment) {
        if segment.seq != self.rcv.nxt {
            let near = segment.seq.after(self.rcv.nxt) && segment.seq.before(self.rcv.edge);
            match near {
                true => self.challenge(now),
                false => self.counters.out_of_window += 1,
            }
            return;
        }
        match self.state {
            // An old RST must not cut TIME-WAIT short (RFC 1337).
            State::TimeWait => {}
            State::SynReceived => self.die(Some(ConnectionError::Refused)),
            State::Closing | State::LastAck => self.die(None),
            _ => self.die(Some(ConnectionError::Reset)),
        }
    }

    /// Protection against wrapped sequence numbers (RFC 7323 section 5).
    ///
    /// While octets are missing, the peer cannot send more than a window beyond them, so numbers do not
    /// wrap, and nothing it sends is older than what came before the hole. A retransmission that fills the
    /// first of several holes raises TS.Recent; octets sent before it and held up on their way would be
    /// taken for old, and on a path that reorders each repair would cost the next loss.
    fn passes_paws(&mut self, now: Instant, segment: &Segment) -> bool {
        let Some(ours) = &self.timestamps else {
            return true;
        };
        let oldest = match segment.is_empty() || self.rcv.blocks.is_empty() {
            true => ours.recent,
            false => self.rcv.floor(ours.recent),
        };
        match segment.options.timestamps {
            // Agreed on, so always there: what lacks it is no segment of this connection.
            None => false,
            Some(theirs)
                if is_older(theirs.value, oldest)
                    && now.since(ours.recent_at) < TIMESTAMP_LIFETIME =>
            {
                self.counters.paws += 1;
                let overtaken = segment.is_empty() && segment.ack.at_or_before(self.snd.una);
                match segment.is_empty() {
                    // An ACK that later ones overtook on its way asks for no answer.
                    true if overtaken => {}
                    true => self.challenge(now),
                    false if self.allow_stray(now) => self.owed.ack = true,
                    false => {}
                }
                false
            }
            Some(_) => true,
        }
    }

    /// Keep TS.Recent (RFC 7323 section 4.3).
    fn note_timestamp(&mut self, now: Instant, segment: &Segment) {
        if let (Some(ours), Some(theirs)) = (&mut self.timestamps, segment.options.timestamps)
            && segment.seq.at_or_before(self.rcv.last_ack)
            // Outdated, it is replaced whatever comes (section 5.5).
            && (!is_older(theirs.value, ours.recent)
                || now.since(ours.recent_at) >= TIMESTAMP_LIFETIME)
        {
            ours.recent = theirs.value;
            ours.recent_at = now;
        }
    }

    /// Whether the segment lies in the receive window (RFC 9293 section 3.10.7.4, step 1). What
    /// takes no space is also accepted where our last ACK could still be on its way, and whatever begins at
    /// RCV.NXT is, so that its ACK counts though the window is zero.
    fn is_acceptable(&self, segment: &Segment) -> bool {
        let rcv = &self.rcv;
        if segment.seq == rcv.nxt {
            return true;
        }
        match segment.is_empty() {
            true => {
                segment.seq.at_or_after(rcv.last_ack)
                    && segment.seq.at_or_before(rcv.edge.later(rcv.nxt))
            }
            false => segment.end().after(rcv.nxt) && segment.seq.before(rcv.edge),
        }
    }

    /// Whether a segment may be of another connection between the same ends: it acknowledges what we never
    /// sent, and the peer has acknowledged nothing of ours, so it may not have been at this one since it opened.
    /// Its sequence number says little, since a client's initial numbers may follow close on each other.
    pub(crate) fn is_foreign(&self, segment: &Segment) -> bool {
        let snd = &self.snd;
        snd.una == snd.iss.add(1)
            && self.state.is_synchronized()
            && !(segment.ack.at_or_after(snd.una) && segment.ack.at_or_before(snd.nxt))
    }

    /// A segment outside the window: say where we are.
    ///
    /// What the peer may well have sent again, probes included, always gets its answer (and its DSACK). What it
    /// cannot have sent, beyond the window or further back than windows reach, may be forged, as only the
    /// ends need to be known for it: it gets few, lest we flood the peer in another's name.
    fn refuse(&mut self, now: Instant, segment: &Segment) {
        self.counters.out_of_window += 1;
        if segment.is_empty() {
            return self.challenge(now);
        }
        let oldest = self
            .rcv
            .nxt
            .sub(self.rcv.most.max(self.rcv.buffer).max(0xffff));
        let again = segment.end().at_or_before(self.rcv.nxt) && segment.seq.at_or_after(oldest);
        if !again && !self.allow_stray(now) {
            return;
        }
        if segment.end().at_or_before(self.rcv.nxt) && !segment.payload.is_empty() {
            self.rcv.duplicate = Some(super::SackRange {
                start: segment.seq,
                end: segment.seq.add(segment.payload.len() as u32),
            });
        }
        if self.state == State::TimeWait && segment.flags.fin() {
            self.timers.linger.set(now + TIME_WAIT);
        }
        self.owe_ack();
    }

    /// An ACK is due at once; each counts for a peer without SACK.
    fn owe_ack(&mut self) {
        if self.owed.ack && !self.sack {
            self.owed.duplicate_acks = self.owed.duplicate_acks.saturating_add(1).min(8);
        }
        self.owed.ack = true;
    }

    /// What an acknowledgement of our FIN means.
    fn after_ack(&mut self, now: Instant) {
        if self.snd.fin != SndFin::Acked {
            return;
        }
        match self.state {
            State::FinWait1 => {
                self.state = State::FinWait2;
                self.updated = true;
                if self.rcv.discard {
                    self.timers.linger.set(now + FIN_WAIT_2);
                }
                self.reset_if_lost();
            }
            State::Closing => self.enter_time_wait(now),
            State::LastAck => self.die(None),
            _ => {}
        }
    }

    /// The peer has everything of ours, and octets of its own were dropped unread: it is to know that (RFC
    /// 9293 section 3.6.1). Not before, as an RST may keep its application from what we sent.
    pub(crate) fn reset_if_lost(&mut self) {
        if self.rcv.lost && self.state == State::FinWait2 {
            self.reset(ConnectionError::Aborted);
        }
    }

    fn enter_time_wait(&mut self, now: Instant) {
        self.state = State::TimeWait;
        self.timers = super::timer::Timers::default();
        self.timers.linger.set(now + TIME_WAIT);
        self.updated = true;
    }

    /// Text and FIN (steps 7 and 8); the text begins at `seq`.
    fn take_text(&mut self, now: Instant, seq: SeqNumber, segment: &Segment) {
        let mut payload = segment.payload.clone();
        if let RcvFin::Ahead(fin) = self.rcv.fin
            && seq.add(payload.len() as u32).after(fin)
        {
            // Octets beyond the peer's own end of stream.
            payload.truncate(match fin.after(seq) {
                true => fin.distance_from(seq) as usize,
                false => 0,
            });
        }
        let end = seq.add(payload.len() as u32);
        if !payload.is_empty() {
            self.take_payload(now, seq, payload);
            if self.state == State::Closed {
                return;
            }
        }
        let fin_fits =
            end.at_or_after(self.rcv.nxt) && end.at_or_before(self.rcv.edge.later(self.rcv.nxt));
        if segment.flags.fin() && self.rcv.fin == RcvFin::Open && fin_fits {
            self.rcv.fin = RcvFin::Ahead(end);
            // One segment, one acknowledgement: its payload has seen to that already.
            match segment.payload.is_empty() {
                true => self.owe_ack(),
                false => self.owed.ack = true,
            }
        }
        if self.rcv.fin == RcvFin::Ahead(self.rcv.nxt) {
            self.take_fin(now);
        }
    }

    fn take_payload(&mut self, now: Instant, seq: SeqNumber, payload: Bytes) {
        let len = payload.len() as u32;
        if self.must_drop(seq.at_or_before(self.rcv.nxt)) {
            return self.owe_ack();
        }
        let full_size = u32::from(mss_of(&self.flow(), self.path_mtu)).min(len) as u16;
        let floor = self
            .rcv
            .floor(self.timestamps.map_or(0, |ours| ours.recent));
        let accepted = self.rcv.accept(seq, payload);
        self.rcv.set_floor(floor);
        match accepted {
            Accepted::InOrder { filled } => {
                self.updated = true;
                let rcv = &mut self.rcv;
                rcv.full_size = rcv.full_size.max(full_size);
                rcv.unacked = rcv.unacked.saturating_add(len);
                let quick = rcv.quick > 0;
                rcv.quick = rcv.quick.saturating_sub(1);
                let due = filled
                    || quick
                    || !rcv.blocks.is_empty()
                    || rcv.duplicate.is_some()
                    || rcv.unacked >= 2 * u32::from(rcv.full_size)
                    || rcv.window() < 2 * u32::from(rcv.full_size)
                    || self.options.ack_delay.is_zero();
                match due {
                    true => self.owed.ack = true,
                    false => self.timers.delayed_ack.set_by(now + self.options.ack_delay),
                }
                if self.rcv.lost {
                    self.reset_if_lost();
                }
            }
            Accepted::OutOfOrder => {
                self.counters.out_of_order += 1;
                self.owe_ack();
            }
            Accepted::Duplicate => self.owe_ack(),
        }
    }

    fn take_fin(&mut self, now: Instant) {
        let rcv = &mut self.rcv;
        rcv.fin = RcvFin::Received;
        rcv.nxt = rcv.nxt.add(1);
        rcv.edge = rcv.edge.later(rcv.nxt);
        rcv.blocks.clear();
        self.owed.ack = true;
        self.updated = true;
        match self.state {
            State::Established => self.state = State::CloseWait,
            State::FinWait1 => self.state = State::Closing,
            State::FinWait2 => self.enter_time_wait(now),
            _ => {}
        }
    }
}
