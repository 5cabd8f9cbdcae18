//! [`HalfOpen`]: what is kept of a passive handshake until it completes. Small and without
//! buffers, so that many of them cost little.

use alloc::boxed::Box;

use super::TcpConfig;
use super::challenge::ChallengeLimit;
use super::connection::{
    BEYOND, Connection, EcnMode, MAX_SCALE, MIN_MSS, TimestampState, default_mss, is_older,
    largest_buffer, mss_of, scale_of,
};
use super::isn::{COOKIE_STEP, Cookie, InitialNumbers};
use super::options::{Options, Timestamps};
use super::rtt::INITIAL_RTO;
use super::segment::{Flags, Outgoing, Segment};
use super::state::State;
use crate::seq::SeqNumber;
use crate::stack::FlowKey;
use crate::time::{Duration, Instant};

/// Stands for "no window scaling" in a cookie.
const NO_SCALE: u8 = 15;

/// The sizes a cookie can tell apart, the first for all that is smaller.
fn mss_table(flow: &FlowKey) -> [u16; 8] {
    match flow.remote.is_ipv4() {
        true => [MIN_MSS, 536, 1220, 1300, 1380, 1400, 1440, 1460],
        false => [MIN_MSS, 536, 1220, 1280, 1360, 1380, 1420, 1440],
    }
}

/// A connection in SYN-RECEIVED, passively opened.
#[derive(Clone, Debug)]
pub struct HalfOpen {
    flow: FlowKey,
    mtu: u16,
    irs: SeqNumber,
    iss: SeqNumber,
    /// Window field of the SYN, never scaled.
    window: u16,
    peer_mss: u16,
    /// The peer's shift; `None` without window scaling.
    peer_scale: Option<u8>,
    sack: bool,
    /// ECN is agreed on.
    ecn: bool,
    /// The peer's user timeout option, as on the wire; 0 is none. A cookie does not remember it.
    peer_timeout: u16,
    /// The peer's last TSval; `None` without timestamps.
    recent: Option<u32>,
    timestamp_offset: u32,
    /// When the first SYN-ACK was made, and the last.
    created: Instant,
    answered: Instant,
    /// When the SYN-ACK is next due for retransmission.
    deadline: Instant,
    retransmits: u8,
    /// A SYN-ACK waits to be transmitted.
    owed: bool,
    /// Our number is a SYN cookie.
    is_cookie: bool,
    /// Octets of window the peer was promised at most, in segments of ours.
    promised: u32,
    challenge: ChallengeLimit,
}

/// What a segment makes of a half-open connection.
#[derive(Debug)]
#[non_exhaustive]
#[expect(
    clippy::large_enum_variant,
    reason = "short-lived, and a reply must not cost an allocation"
)]
pub enum HalfOpenEvent {
    /// Nothing: it is still half open ([`HalfOpen::poll_transmit`] may have something to send).
    Nothing,
    /// Send this; it is still half open.
    Reply(Outgoing),
    /// The handshake is complete; the segment's payload has been taken in already.
    Established(Box<Connection>),
    /// The peer gave up: forget it.
    Reset,
}

impl HalfOpen {
    /// A SYN (without ACK and RST) arrived for a listener. `mtu`: octets of an IP packet the link
    /// carries. `above`: SND.NXT of an earlier connection between these ends, where it is known
    /// (RFC 6191): ours is to begin beyond that.
    pub fn on_syn(
        now: Instant,
        config: &TcpConfig,
        numbers: &InitialNumbers,
        flow: FlowKey,
        mtu: u16,
        syn: &Segment,
        above: Option<SeqNumber>,
    ) -> HalfOpen {
        let mut half_open = HalfOpen {
            flow,
            mtu,
            irs: syn.seq,
            iss: SeqNumber::default(),
            window: syn.window,
            peer_mss: syn.options.mss.unwrap_or(default_mss(&flow)),
            peer_scale: syn.options.window_scale.map(|shift| shift.min(MAX_SCALE)),
            ecn: config.socket.ecn != EcnMode::Off && syn.flags.contains(Flags::ECE | Flags::CWR),
            sack: config.sack && syn.options.sack_permitted,
            peer_timeout: syn.options.user_timeout.unwrap_or(0),
            recent: syn
                .options
                .timestamps
                .filter(|_| config.timestamps)
                .map(|timestamps| timestamps.value),
            timestamp_offset: numbers.timestamp_offset(&flow),
            created: now,
            answered: now,
            deadline: now + INITIAL_RTO,
            retransmits: 0,
            owed: true,
            is_cookie: true,
            promised: 0,
            challenge: ChallengeLimit::default(),
        };
        half_open.iss = numbers.cookie(now, &flow, syn.seq, half_open.bits());
        // Timestamps keep the two apart by themselves (RFC 7323 section 5).
        if let Some(above) = above
            && half_open.recent.is_none()
            && !half_open.iss.after(above)
        {
            half_open.iss = above.add(BEYOND);
            half_open.is_cookie = false;
        }
        half_open
    }

    /// Whether the ACK that completes the handshake brings everything back. It does not where our number
    /// had to be beyond an earlier connection's.
    pub fn is_cookie(&self) -> bool {
        self.is_cookie
    }

    /// What the ACK that completes the handshake brings back.
    pub fn cookie(&self) -> Cookie {
        Cookie {
            irs: self.irs,
            iss: self.iss,
        }
    }

    /// What the SYN said, in the nine bits of a cookie.
    fn bits(&self) -> u16 {
        let place = mss_table(&self.flow)
            .iter()
            .rposition(|mss| *mss <= self.peer_mss)
            .unwrap_or(0) as u16;
        let scale = u16::from(self.peer_scale.unwrap_or(NO_SCALE));
        place << 6 | scale << 2 | u16::from(self.sack) << 1 | u16::from(self.ecn)
    }

    /// The half-open connection that nobody remembers but the ACK of whose SYN-ACK is `segment`, by
    /// the cookie in it.
    pub fn recall(
        now: Instant,
        config: &TcpConfig,
        numbers: &InitialNumbers,
        flow: FlowKey,
        mtu: u16,
        segment: &Segment,
    ) -> Option<HalfOpen> {
        let flags = segment.flags;
        if !flags.ack() || flags.syn() || flags.rst() {
            return None;
        }
        let (irs, iss) = (segment.seq.sub(1), segment.ack.sub(1));
        let bits = numbers.open_cookie(now, &flow, irs, iss)?;
        let timestamp_offset = numbers.timestamp_offset(&flow);
        if let Some(timestamps) = segment.options.timestamps {
            // The echo is our clock's, not older than the cookie may be.
            let ours = now.wrapping_millis().wrapping_add(timestamp_offset);
            let age = u128::from(ours.wrapping_sub(timestamps.echo));
            if !config.timestamps || age > 2 * COOKIE_STEP.as_millis() {
                return None;
            }
        }
        let scale = (bits >> 2) as u8 & NO_SCALE;
        Some(HalfOpen {
            flow,
            mtu,
            irs,
            iss,
            window: segment.window,
            peer_mss: *mss_table(&flow).get(usize::from(bits >> 6))?,
            peer_scale: (scale <= MAX_SCALE).then_some(scale),
            sack: config.sack && bits & 2 != 0,
            ecn: config.socket.ecn != EcnMode::Off && bits & 1 != 0,
            peer_timeout: 0,
            recent: segment.options.timestamps.map(|theirs| theirs.value),
            timestamp_offset,
            created: now,
            answered: now,
            deadline: now + INITIAL_RTO,
            // Nobody knows how often: the round trip is not to be learnt from it.
            retransmits: 0,
            owed: false,
            is_cookie: true,
            promised: 0,
            challenge: ChallengeLimit::default(),
        })
    }

    /// Both ends.
    pub fn flow(&self) -> FlowKey {
        self.flow
    }

    /// Whether `segment` is the SYN this began with, again.
    pub fn is_same_syn(&self, segment: &Segment) -> bool {
        segment.flags.syn() && !segment.flags.ack() && segment.seq == self.irs
    }

    /// Whether `seq` is the first number after the peer's SYN.
    pub fn begins_with(&self, seq: SeqNumber) -> bool {
        seq == self.irs.add(1)
    }

    /// Whether `segment` may be the answer to a SYN-ACK of ours. It is not if it comes at the very moment of
    /// the first, which cannot have been read yet, or echoes a timestamp that none of ours had: then somebody
    /// else has answered the same SYN.
    pub fn may_be_answered_by(&self, now: Instant, segment: &Segment) -> bool {
        let first = self.timestamp(self.created);
        let echoes_ours = |timestamps: &Timestamps| {
            timestamps.echo.wrapping_sub(first) <= self.timestamp(self.answered).wrapping_sub(first)
        };
        let timestamps = segment.options.timestamps.as_ref();
        let timestamps = timestamps.filter(|_| self.recent.is_some());
        now > self.created && timestamps.is_none_or(echoes_ours)
    }

    fn timestamp(&self, now: Instant) -> u32 {
        now.wrapping_millis().wrapping_add(self.timestamp_offset)
    }

    fn timestamps(&self, now: Instant) -> Option<Timestamps> {
        self.recent.map(|echo| Timestamps {
            value: self.timestamp(now),
            echo,
        })
    }

    /// The SYN-ACK, if it is to be sent now.
    pub fn poll_transmit(&mut self, now: Instant, config: &TcpConfig) -> Option<Outgoing> {
        if !core::mem::take(&mut self.owed) {
            return None;
        }
        self.answered = now;
        Some(Outgoing {
            seq: self.iss,
            ack: self.irs.add(1),
            flags: match self.ecn {
                true => Flags::SYN | Flags::ACK | Flags::ECE,
                false => Flags::SYN | Flags::ACK,
            },
            window: config.receive_buffer.min(0xffff) as u16,
            options: Options {
                mss: Some(mss_of(&self.flow, self.mtu)),
                window_scale: self.peer_scale.map(|_| scale_of(largest_buffer(config))),
                sack_permitted: self.sack,
                timestamps: self.timestamps(now),
                ..Options::default()
            },
            ..Outgoing::default()
        })
    }

    /// When [`HalfOpen::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Instant {
        self.deadline
    }

    /// Retransmit the SYN-ACK if that is due. Returns whether to keep on trying.
    pub fn handle_timeout(&mut self, now: Instant, config: &TcpConfig) -> bool {
        if now < self.deadline {
            return true;
        }
        if self.retransmits >= config.max_syn_ack_retransmits {
            // The peer may have said SYN again since, and be about to acknowledge what that was answered with.
            self.deadline = self.answered + self.interval();
            return now < self.deadline;
        }
        self.retransmits += 1;
        self.owed = true;
        self.deadline = now + self.interval();
        true
    }

    /// How long an answer to our SYN-ACK is waited for.
    fn interval(&self) -> Duration {
        INITIAL_RTO * (1 << self.retransmits.min(6))
    }

    /// Whether a [`HalfOpenEvent::Reply`] may go out, or there were many of late.
    pub fn may_answer(&mut self, now: Instant) -> bool {
        self.challenge.allow(now)
    }

    /// An ACK without anything else, as sent to challenge or to correct the peer.
    fn acknowledgement(&mut self, now: Instant, config: &TcpConfig) -> Outgoing {
        // Scaled as in every segment but a SYN; rounded up, as the SYN-ACK has promised all of it.
        let scale = self
            .peer_scale
            .map_or(0, |_| scale_of(largest_buffer(config)));
        let window = config.receive_buffer.min(0xffff).div_ceil(1 << scale);
        self.promised = window << scale;
        Outgoing {
            seq: self.iss.add(1),
            ack: self.irs.add(1),
            flags: Flags::ACK,
            window: window as u16,
            options: Options {
                timestamps: self.timestamps(now),
                ..Options::default()
            },
            ..Outgoing::default()
        }
    }

    /// Whether a segment, neither SYN nor RST, acknowledges our SYN-ACK and nothing more, from within the
    /// window.
    pub fn is_completed_by(&self, config: &TcpConfig, segment: &Segment) -> bool {
        let expected = self.irs.add(1);
        let window = config.receive_buffer.clamp(1, 0xffff);
        let in_window = segment.seq.in_window(expected, window)
            || segment.is_empty() && segment.seq == expected.add(window);
        segment.flags.ack() && segment.ack == self.iss.add(1) && in_window
    }

    /// Take in a segment of the flow (RFC 9293 section 3.10.7.4 in SYN-RECEIVED).
    pub fn handle_segment(
        &mut self,
        now: Instant,
        config: &TcpConfig,
        segment: &Segment,
    ) -> HalfOpenEvent {
        if self.is_same_syn(segment) && !segment.flags.rst() {
            self.recent = self
                .recent
                .and(segment.options.timestamps)
                .map(|timestamps| timestamps.value);
            self.owed = true;
            return HalfOpenEvent::Nothing;
        }
        let expected = self.irs.add(1);
        let old = match (self.recent, segment.options.timestamps) {
            (Some(recent), Some(timestamps)) => is_older(timestamps.value, recent),
            _ => false,
        };
        // What takes no space may also begin at the right edge: there the peer is if it has filled the
        // window, whether or not that arrived.
        let window = config.receive_buffer.clamp(1, 0xffff);
        let in_window = segment.seq.in_window(expected, window)
            || segment.is_empty() && segment.seq == expected.add(window);
        if segment.flags.rst() {
            return match segment.seq == expected {
                true => HalfOpenEvent::Reset,
                false if in_window => HalfOpenEvent::Reply(self.acknowledgement(now, config)),
                false => HalfOpenEvent::Nothing,
            };
        }
        if !in_window || old || segment.flags.syn() {
            return HalfOpenEvent::Reply(self.acknowledgement(now, config));
        }
        if !segment.flags.ack() {
            return HalfOpenEvent::Nothing;
        }
        if segment.ack != self.iss.add(1) {
            // Not an answer to our SYN-ACK: an old duplicate.
            return match Outgoing::reset_for(segment) {
                Some(reset) => HalfOpenEvent::Reply(reset),
                None => HalfOpenEvent::Nothing,
            };
        }
        let mut connection = self.establish(now, config);
        connection.handle_segment(now, segment);
        HalfOpenEvent::Established(Box::new(connection))
    }

    fn establish(&self, now: Instant, config: &TcpConfig) -> Connection {
        let mut connection = Connection::new(
            now,
            config,
            self.flow,
            self.mtu,
            State::Established,
            self.iss,
            self.irs,
        );
        connection.sack = true;
        connection.timestamps = Some(TimestampState {
            offset: self.timestamp_offset,
            recent: 0,
            recent_at: now,
            valid_from: None,
        });
        connection.negotiate(
            now,
            &Options {
                mss: Some(self.peer_mss),
                window_scale: self.peer_scale,
                sack_permitted: self.sack,
                timestamps: self.recent.map(|value| Timestamps { value, echo: 0 }),
                ..Options::default()
            },
        );
        // Our SYN is acknowledged; its round trip is known unless it was sent twice (Karn), or not
        // remembered.
        if self.retransmits == 0 && now > self.created {
            let rtt = now.since(self.created).max(Duration::from_micros(1));
            connection.rtt.sample(now, rtt);
        }
        connection.ecn.agreed = self.ecn;
        connection.peer_timeout = self.peer_timeout;
        connection.owed.user_timeout = connection.options.exchange_user_timeout;
        connection.establish_numbers(self.iss.add(1));
        if self.retransmits > 0 {
            connection.syn_was_lost();
        }
        connection.snd.window = u32::from(self.window);
        connection.snd.max_window = connection.snd.window;
        connection.snd.wl1 = self.irs;
        let promised = config.receive_buffer.min(0xffff).max(self.promised);
        connection.rcv.edge = connection.rcv.nxt.add(promised);
        connection.updated = true;
        connection
    }
}
