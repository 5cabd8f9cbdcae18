//! Segments out: what is sent when [`Connection::poll_transmit`] is asked (RFC 9293 section
//! 3.8.6.2.1, RFC 6675 section 5 with RACK's idea of what is lost, RFC 8985 section 7.3).

use super::connection::{Connection, mss_of};
use super::options::Options;
use super::recovery::Phase;
use super::segment::{Flags, Outgoing};
use super::snd::{Marks, SndFin};
use super::state::State;
use crate::seq::SeqNumber;
use crate::time::Instant;

/// Octets of the user timeout option (RFC 5482 section 3).
const USER_TIMEOUT_LEN: u32 = 4;

impl Connection {
    /// The next segment to send. With `max_payload` above [`Connection::mss`] it may be a burst
    /// that the NIC is to cut ([`Outgoing::segment_size`]).
    pub fn poll_transmit(&mut self, now: Instant, max_payload: usize) -> Option<Outgoing> {
        // Filled in place: a segment is too large a value to be handed up from function to function.
        let mut out = Outgoing::default();
        self.transmit(now, max_payload, &mut out).then_some(out)
    }

    /// Whether there is certainly nothing to send at present, so that who has just sent need not ask
    /// in vain.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let owed = &self.owed;
        let owes = owed.ack || owed.probe || owed.reset || owed.stray_reset.is_some();
        let quiet = self.state == State::Established
            && !owes
            && self.snd.unsent() == 0
            && self.snd.fin != SndFin::Queued
            && !self.recovery.tlp.due
            && self.snd.first_lost().is_none();
        if quiet {
            // As if it had been asked.
            self.snd.cwnd_limited = false;
        }
        quiet
    }

    /// Make the next segment of `out`, an empty one, if there is one to send.
    pub(crate) fn transmit(
        &mut self,
        now: Instant,
        max_payload: usize,
        out: &mut Outgoing,
    ) -> bool {
        if core::mem::take(&mut self.owed.reset) {
            *out = self.reset_segment();
            return true;
        }
        if let Some(seq) = self.owed.stray_reset.take() {
            out.seq = seq;
            out.flags = Flags::RST;
            return true;
        }
        match self.state {
            State::Closed => false,
            State::SynSent | State::SynReceived => self.transmit_syn(now, out),
            _ => self.transmit_synchronized(now, max_payload, out),
        }
    }

    fn transmit_syn(&mut self, now: Instant, out: &mut Outgoing) -> bool {
        if !core::mem::take(&mut self.owed.syn) {
            let ack = self.owed.ack && self.state == State::SynReceived;
            if ack {
                self.acknowledge(now, self.snd.nxt, out);
            }
            return ack;
        }
        let crossed = self.state == State::SynReceived;
        self.owed.ack = false;
        self.snd.nxt = self.snd.iss.add(1);
        self.snd.last_sent = Some(now);
        let mut again = now + self.syn_timeout();
        if let Some(limit) = self.options.user_timeout {
            again = again.min(self.progress_at + limit).max(now);
        }
        self.timers.retransmit.set(again);
        self.counters.segments_out += 1;
        *out = Outgoing {
            seq: self.snd.iss,
            ack: match crossed {
                true => self.rcv.nxt,
                false => SeqNumber::default(),
            },
            flags: match crossed {
                true => Flags::SYN | Flags::ACK,
                false => Flags::SYN | self.ecn_request(),
            },
            window: self.rcv.buffer.min(0xffff) as u16,
            options: Options {
                mss: Some(mss_of(&self.flow(), self.path_mtu)),
                // In answer to a SYN only if that has it (RFC 7323 section 2.2). With no scale either way
                // it makes no difference.
                window_scale: match crossed && self.snd.scale == 0 && self.rcv.scale == 0 {
                    true => None,
                    false => Some(self.offered_scale),
                },
                sack_permitted: self.sack,
                timestamps: self.timestamps_option(now),
                user_timeout: self.user_timeout_option(),
                ..Options::default()
            },
            ..Outgoing::default()
        };
        true
    }

    fn transmit_synchronized(
        &mut self,
        now: Instant,
        max_payload: usize,
        out: &mut Outgoing,
    ) -> bool {
        // SACK ranges would take payload's room: they go ahead on an ACK of their own.
        if self.owed.ack && (!self.rcv.blocks.is_empty() || self.rcv.duplicate.is_some()) {
            self.acknowledge(now, self.snd.nxt, out);
            return true;
        }
        // An option that one segment has takes its room from that segment (RFC 6691 section 2), which goes
        // alone: what is cut has the same options on every piece.
        let lone = self.owed.user_timeout;
        let mss = u32::from(self.mss()) - u32::from(lone) * USER_TIMEOUT_LEN;
        // Packets that may be fragmented are told apart by their identification, which nobody counts on when
        // cutting.
        let lone = lone || self.may_fragment();
        let burst = match u32::try_from(max_payload).unwrap_or(u32::MAX) / mss {
            _ if lone => mss,
            0 | 1 => mss,
            count => count.min(0xffff / mss) * mss,
        };
        if self.transmit_lost(now, mss, burst, out)
            || self.transmit_probe(now, mss, out)
            || self.transmit_new(now, mss, burst, out)
        {
            return true;
        }
        let due = self.owed.ack || self.timers.delayed_ack.is_set();
        if due && self.owed.probe {
            // What a probe acknowledges is not looked at: it must not stand for the ACK that is due.
            self.acknowledge(now, self.snd.nxt, out);
            return true;
        }
        if core::mem::take(&mut self.owed.probe) {
            // Outside the window, so it is answered; without octets, so nothing can get lost.
            self.acknowledge(now, self.snd.una.sub(1), out);
            return true;
        }
        let ack = self.owed.ack;
        if ack {
            self.acknowledge(now, self.snd.nxt, out);
        }
        ack
    }

    /// A segment with ACK: fills in what every such segment says of the receive side.
    fn fill(&mut self, now: Instant, seq: SeqNumber, flags: Flags, out: &mut Outgoing) {
        self.rcv.unacked = 0;
        self.rcv.last_ack = self.rcv.nxt;
        self.timers.delayed_ack.clear();
        self.owed.ack = self.owed.duplicate_acks > 0;
        self.owed.duplicate_acks = self.owed.duplicate_acks.saturating_sub(1);
        out.seq = seq;
        out.ack = self.rcv.nxt;
        out.flags = flags | Flags::ACK;
        if self.ecn.echo {
            out.flags |= Flags::ECE;
        }
        out.window = self.rcv.advertise();
        out.options.timestamps = self.timestamps_option(now);
        out.segment_size = self.mss();
        out.may_fragment = self.may_fragment();
        // A probe of the path's MTU has no room for it.
        if self.owed.user_timeout
            && out.payload_len() as u32 + USER_TIMEOUT_LEN <= u32::from(out.segment_size)
        {
            self.owed.user_timeout = false;
            out.options.user_timeout = self.user_timeout_option();
        }
    }

    /// An ACK without payload.
    fn acknowledge(&mut self, now: Instant, seq: SeqNumber, out: &mut Outgoing) {
        self.fill(now, seq, Flags::NONE, out);
        if self.sack {
            out.options.sack = self.rcv.sack_ranges();
        } else {
            self.rcv.duplicate = None;
        }
        self.counters.segments_out += 1;
    }

    /// Room in the congestion window, in octets.
    fn congestion_room(&self) -> u32 {
        self.congestion.cwnd.saturating_sub(self.snd.in_flight())
    }

    /// Cut `len` octets down to what `room` lets out in whole segments, at least one.
    fn whole_segments(len: u32, room: u32, mss: u32) -> u32 {
        match len <= room {
            true => len,
            false => (room / mss * mss).max(mss).min(len),
        }
    }

    /// Retransmit the first segment that is lost.
    fn transmit_lost(&mut self, now: Instant, mss: u32, burst: u32, out: &mut Outgoing) -> bool {
        let Some(index) = self.snd.first_lost() else {
            return false;
        };
        let Some(segment) = self.snd.sent.get(index).copied() else {
            return false;
        };
        let room = self.congestion_room();
        if room < segment.len.min(mss) && self.snd.in_flight() > 0 {
            return false;
        }
        if index > 0 && segment.seq.at_or_after(self.snd.right_edge()) {
            return false;
        }
        let len = Self::whole_segments(segment.len.min(burst), room, mss);
        self.retransmit(now, index, len, out)
    }

    /// Retransmit the first `len` numbers of the segment at `index`.
    fn retransmit(&mut self, now: Instant, index: usize, len: u32, out: &mut Outgoing) -> bool {
        let Some(segment) = self.snd.retransmit(index, len, now) else {
            return false;
        };
        let stamp = self.timestamps.map(|timestamps| timestamps.value(now));
        if self.recovery.phase != Phase::Open {
            self.recovery.undo.on_retransmit(len, stamp);
            self.recovery.prr.sent = self.recovery.prr.sent.saturating_add(len);
        }
        if index == 0 || !self.timers.retransmit.is_set() {
            self.arm_retransmit(now);
        }
        let flags = match segment.marks.has(Marks::FIN) {
            true => Flags::FIN | Flags::PSH,
            false if segment.end() == self.snd.nxt => Flags::PSH,
            false => Flags::NONE,
        };
        self.snd.payload_of(&segment, &mut out.payload);
        self.fill(now, segment.seq, flags, out);
        let count = u64::from(len.div_ceil(u32::from(out.segment_size).max(1)));
        self.counters.retransmits += count;
        self.counters.segments_out += count;
        true
    }

    /// The tail loss probe, if due: new octets if the window takes them, else the last segment.
    fn transmit_probe(&mut self, now: Instant, mss: u32, out: &mut Outgoing) -> bool {
        if !core::mem::take(&mut self.recovery.tlp.due)
            || self.recovery.phase != Phase::Open
            || self.snd.outstanding() == 0
        {
            return false;
        }
        let room = self.window_room();
        let unsent = self.snd.unsent().min(u64::from(mss)) as u32;
        let retransmission = unsent == 0 || room < unsent;
        if retransmission {
            let len = self.snd.sent.back().map_or(0, |last| last.len);
            // Only the last segment of a burst.
            let head = len.saturating_sub(1) / mss * mss;
            self.snd.split(self.snd.sent.len().saturating_sub(1), head);
            let last = self.snd.sent.len().saturating_sub(1);
            if !self.retransmit(now, last, len - head, out) {
                return false;
            }
        } else {
            self.send_new(now, unsent, false, out);
        }
        self.recovery.tlp.end = Some(self.snd.nxt);
        self.recovery.tlp.retransmission = retransmission;
        self.counters.probes += 1;
        self.timers.probe.clear();
        self.arm_retransmit(now);
        true
    }

    /// Octets the peer's window still takes beyond SND.NXT.
    fn window_room(&self) -> u32 {
        let edge = self.snd.right_edge();
        match edge.after(self.snd.nxt) {
            true => edge.distance_from(self.snd.nxt),
            false => 0,
        }
    }

    /// Send what was never sent, as far as both windows and the peer's patience for small
    /// segments allow.
    fn transmit_new(&mut self, now: Instant, mss: u32, burst: u32, out: &mut Outgoing) -> bool {
        let unsent = self.snd.unsent();
        let fin = self.snd.fin == SndFin::Queued;
        if unsent == 0 && !fin {
            self.snd.cwnd_limited = false;
            return false;
        }
        let outstanding = self.snd.outstanding();
        let room = self.window_room();
        let mut len = unsent.min(u64::from(room.min(burst))) as u32;
        let push = self.owed.push && len > 0;
        let worth = len >= mss
            || u64::from(len) == unsent && (unsent > 0 || room > 0)
            || len > 0 && len >= self.snd.max_window / 2
            || push;
        if !worth {
            self.snd.cwnd_limited = false;
            self.await_window(now, outstanding);
            return false;
        }
        if self.options.nagle && len < mss && outstanding > 0 && !fin && !push {
            self.snd.cwnd_limited = false;
            return false;
        }
        self.restart_after_idle(now, outstanding, mss);
        self.settle_probe();
        let cwnd_room = self.congestion_room();
        if cwnd_room < len.min(mss) {
            self.snd.cwnd_limited = true;
            return false;
        }
        if let Some(size) = self.probe_size(now, unsent, room) {
            if cwnd_room < u32::from(size) {
                // Window in full use opens by a segment at a time: let it open for once.
                self.snd.cwnd_limited = true;
                return false;
            }
            self.send_mtu_probe(now, size, out);
            self.arm_probe(now);
            return true;
        }
        len = Self::whole_segments(len, cwnd_room, mss);
        if len > 0 {
            len = self.paced(now, len, mss);
            if len == 0 {
                return false;
            }
        }
        if self.ecn.reduced {
            // CWR goes with one segment, not with all of a burst.
            len = len.min(mss);
        }
        if self.options.nagle && !fin && len > mss {
            len -= len % mss;
        }
        let with_fin = fin && u64::from(len) == unsent && len < room;
        if len == 0 && !with_fin {
            self.await_window(now, outstanding);
            return false;
        }
        self.owed.push = false;
        self.timers.persist.clear();
        if self.recovery.phase != Phase::Open {
            self.recovery.prr.sent = self.recovery.prr.sent.saturating_add(len);
        }
        self.send_new(now, len, with_fin, out);
        self.arm_probe(now);
        true
    }

    /// The window is too small to send into. If nothing in flight would bring news of it, ask.
    fn await_window(&mut self, now: Instant, outstanding: u32) {
        if outstanding == 0 && !self.timers.persist.is_set() {
            self.progress_at = now;
            self.timers.persist.set(now + self.rtt.rto());
        }
    }

    fn restart_after_idle(&mut self, now: Instant, outstanding: u32, mss: u32) {
        let idle = self
            .snd
            .last_sent
            .is_some_and(|sent| now.since(sent) > self.rtt.base_rto());
        if outstanding == 0 && idle {
            self.congestion.on_idle(mss);
        }
    }

    /// Transmit the next `len` octets for the first time, and FIN.
    pub(crate) fn send_new(&mut self, now: Instant, len: u32, fin: bool, out: &mut Outgoing) {
        let seq = self.snd.nxt;
        let offset = self.snd.offset_of(seq);
        self.snd
            .queue
            .slices(offset, len as usize, &mut out.payload);
        let mut flags = Flags::NONE;
        if offset + u64::from(len) == self.snd.queue.end() {
            flags |= Flags::PSH;
        }
        if fin {
            flags |= Flags::FIN;
        }
        // Only new octets: a retransmission must not say it (RFC 3168 section 6.1.5).
        if self.ecn.agreed && len > 0 {
            out.ecn_capable = true;
            if core::mem::take(&mut self.ecn.reduced) {
                flags |= Flags::CWR;
            }
        }
        if self.snd.outstanding() == 0 {
            self.progress_at = now;
        }
        if len > 0 {
            self.note_paced(now, len);
        }
        self.snd.record_new(now, len + u32::from(fin), fin);
        if !self.timers.retransmit.is_set() {
            self.arm_retransmit(now);
        }
        self.fill(now, seq, flags, out);
        self.counters.segments_out +=
            u64::from(len.div_ceil(u32::from(out.segment_size).max(1)).max(1));
    }
}
