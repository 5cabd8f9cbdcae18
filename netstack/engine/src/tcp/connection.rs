//! [`Connection`]: one TCP connection as a plain value.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::ops::{Deref, Range};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::TcpConfig;
use super::challenge::ChallengeLimit;
use super::congestion::{Congestion, CongestionAlgorithm};
use super::counters::Tally;
use super::ecn::EcnState;
use super::isn::{Cookie, InitialNumbers};
use super::mtu::Search;
use super::options::{Options, TIMESTAMPS_LEN, Timestamps};
use super::pressure::Pressure;
use super::queue::{ByteQueue, Queue};
use super::rcv::{Rcv, RcvFin};
use super::recovery::Recovery;
use super::rtt::RttEstimator;
use super::segment::{MIN_HEADER, Outgoing};
use super::snd::{Snd, SndFin};
use super::state::State;
use super::timer::Timers;
use crate::seq::SeqNumber;
use crate::stack::FlowKey;
use crate::time::{Duration, Instant};

/// How long TIME-WAIT lasts: twice a maximum segment lifetime of 30 s.
pub(crate) const TIME_WAIT: Duration = Duration::from_secs(60);
/// How long a connection is in TIME-WAIT at least before its ends are taken for another one.
const REOPEN_AFTER: Duration = Duration::from_secs(1);
/// How far beyond an earlier connection's numbers to begin.
pub(crate) const BEYOND: u32 = 65_537;
/// How long FIN-WAIT-2 lasts once nobody reads any more.
pub(crate) const FIN_WAIT_2: Duration = Duration::from_secs(60);
/// Largest window shift (RFC 7323 section 2.3).
pub(crate) const MAX_SCALE: u8 = 14;
/// Smallest payload a path may force on us.
pub(crate) const MIN_MSS: u16 = 48;

/// Keepalive probing (RFC 9293 section 3.8.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Keepalive {
    /// Silence after which the first probe goes out.
    pub idle: Duration,
    /// Time between unanswered probes.
    pub interval: Duration,
    /// Unanswered probes after which the connection is dead.
    pub probes: u8,
}

/// What an application may choose for a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SocketOptions {
    /// Hold small segments back while others are unacknowledged (Nagle, RFC 9293 section 3.7.4).
    pub nagle: bool,
    /// How long an acknowledgement may wait for company; zero acknowledges at once.
    pub ack_delay: Duration,
    /// How long the peer is expected to delay its own (TLP.max_ack_delay, RFC 8985 section 7.2).
    pub peer_ack_delay: Duration,
    /// Least variance allowance in the retransmission time-out.
    pub min_rto: Duration,
    /// Probe a silent peer.
    pub keepalive: Option<Keepalive>,
    /// Give up when octets stay unacknowledged this long (RFC 5482); else after
    /// [`TcpConfig::max_retransmits`].
    pub user_timeout: Option<Duration>,
    /// Tell the peer the user timeout, and without one of our own follow the peer's (RFC 5482).
    pub exchange_user_timeout: bool,
    /// Explicit congestion notification (RFC 3168).
    pub ecn: EcnMode,
    /// Find out by probes what the path carries where ICMP does not say (RFC 4821).
    pub mtu_probing: bool,
}

/// Whether a connection does explicit congestion notification.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum EcnMode {
    /// Never.
    Off,
    /// When the peer asks for it.
    #[default]
    Accept,
    /// Ask for it, too.
    Request,
}

impl SocketOptions {
    /// What an application has that chooses nothing.
    const DEFAULT: SocketOptions = SocketOptions {
        nagle: false,
        ack_delay: Duration::from_millis(40),
        peer_ack_delay: Duration::from_millis(60),
        min_rto: super::DEFAULT_MIN_RTO,
        keepalive: None,
        user_timeout: None,
        exchange_user_timeout: false,
        ecn: EcnMode::Accept,
        mtu_probing: true,
    };
}

impl Default for SocketOptions {
    fn default() -> Self {
        SocketOptions::DEFAULT
    }
}

/// Options of a connection: apart from it, and only where they are not the usual ones.
#[derive(Clone, Debug)]
pub(crate) struct Chosen(Option<Box<SocketOptions>>);

impl Chosen {
    pub fn new(options: SocketOptions) -> Chosen {
        Chosen((options != SocketOptions::DEFAULT).then(|| Box::new(options)))
    }
}

impl Deref for Chosen {
    type Target = SocketOptions;
    fn deref(&self) -> &SocketOptions {
        static USUAL: SocketOptions = SocketOptions::DEFAULT;
        self.0.as_deref().unwrap_or(&USUAL)
    }
}

/// Why a connection is dead.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The peer answered our SYN with RST.
    Refused,
    /// The peer reset the connection.
    Reset,
    /// No acknowledgement came for too long.
    TimedOut,
    /// We reset the connection.
    Aborted,
    /// The network says the peer cannot be reached.
    Unreachable,
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ConnectionError::Refused => "connection refused",
            ConnectionError::Reset => "connection reset by peer",
            ConnectionError::TimedOut => "connection timed out",
            ConnectionError::Aborted => "connection aborted",
            ConnectionError::Unreachable => "host unreachable",
        })
    }
}

impl core::error::Error for ConnectionError {}

/// Why octets were not taken for sending.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SendError {
    /// Our direction is closed.
    Closed,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this direction is already closed")
    }
}

impl core::error::Error for SendError {}

/// An ICMP error about a segment of ours (RFC 5927 tells what to believe).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum IcmpError {
    /// The packet was too big; the next hop takes `mtu` octets (RFC 1191, RFC 8201).
    PacketTooBig {
        /// Octets of an IP packet the next hop takes; 0 if it did not say.
        mtu: u16,
    },
    /// The peer or the way to it is missing.
    Unreachable {
        /// Port or protocol unreachable: hard, if we are still opening (RFC 9293 section 3.9.2.2).
        hard: bool,
    },
}

/// Timestamps as agreed on in the handshake (RFC 7323).
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimestampState {
    /// Added to the clock's milliseconds to make TSval.
    pub offset: u32,
    /// TS.Recent and when it was taken.
    pub recent: u32,
    pub recent_at: Instant,
    /// TSval at the import: echoes of it and older values say nothing about the round trip.
    pub valid_from: Option<u32>,
}

impl TimestampState {
    /// TSval of a segment that leaves at `at`.
    pub fn value(&self, at: Instant) -> u32 {
        at.wrapping_millis().wrapping_add(self.offset)
    }
}

/// What waits to be transmitted besides data.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Owed {
    /// An ACK.
    pub ack: bool,
    /// Further duplicate ACKs: a peer without SACK counts them (RFC 5681 section 4.2).
    pub duplicate_acks: u8,
    /// SYN, or SYN-ACK in SYN-RECEIVED.
    pub syn: bool,
    /// A zero-window or keepalive probe.
    pub probe: bool,
    /// RST.
    pub reset: bool,
    /// An RST with this sequence number, for a stray segment; the connection lives on.
    pub stray_reset: Option<SeqNumber>,
    /// The silly-window override fired: send what fits (RFC 9293 section 3.8.6.2.1).
    pub push: bool,
    /// The user timeout option (RFC 5482).
    pub user_timeout: bool,
}

/// Both ends, without what a [`SocketAddr`] has beyond address and port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    local: IpAddr,
    remote: IpAddr,
    ports: (u16, u16),
}

impl Ends {
    pub fn new(flow: &FlowKey) -> Ends {
        Ends {
            local: flow.local.ip(),
            remote: flow.remote.ip(),
            ports: (flow.local.port(), flow.remote.port()),
        }
    }

    pub fn flow(&self) -> FlowKey {
        FlowKey {
            local: SocketAddr::new(self.local, self.ports.0),
            remote: SocketAddr::new(self.remote, self.ports.1),
        }
    }

    pub fn is_ipv4(&self) -> bool {
        self.remote.is_ipv4()
    }
}

/// One TCP connection: a plain value without timers, locks or references.
///
/// After every command and `handle_*` call, drain [`Connection::poll_transmit`] until `None`, look
/// at [`Connection::take_updates`], and call [`Connection::handle_timeout`] no later than
/// [`Connection::poll_timeout`] says. A connection that [`Connection::is_closed`] and has nothing to transmit
/// may be dropped.
#[derive(Clone, Debug)]
pub struct Connection {
    pub(crate) ends: Ends,
    pub(crate) state: State,
    pub(crate) error: Option<ConnectionError>,
    pub(crate) options: Chosen,
    pub(crate) max_retransmits: u8,
    pub(crate) max_syn_retransmits: u8,
    /// Octets of an IP packet the path carries.
    pub(crate) path_mtu: u16,
    /// Octets of an IP packet our link carries.
    pub(crate) link_mtu: u16,
    /// Search for what the path carries, while that is less than the link does.
    pub(crate) search: Option<Box<Search>>,
    pub(crate) ecn: EcnState,
    /// The user timeout option last received, as on the wire; 0 is none.
    pub(crate) peer_timeout: u16,
    /// The network said that the peer cannot be reached (RFC 9293 section 3.9.2.2: a soft error).
    pub(crate) soft_error: bool,
    /// Our window scaling as offered; in force once `scaling`.
    pub(crate) offered_scale: u8,
    pub(crate) sack: bool,
    pub(crate) timestamps: Option<TimestampState>,
    pub(crate) snd: Snd,
    pub(crate) rcv: Rcv,
    pub(crate) rtt: RttEstimator,
    pub(crate) congestion: Congestion,
    pub(crate) recovery: Recovery,
    pub(crate) timers: Timers,
    pub(crate) owed: Owed,
    /// Time-outs or probes in a row that nothing was heard after.
    pub(crate) attempts: u8,
    /// When a segment of the peer was last accepted.
    pub(crate) heard_at: Instant,
    /// When SND.UNA last moved or there was nothing to acknowledge before.
    pub(crate) progress_at: Instant,
    pub(crate) challenge: ChallengeLimit,
    pub(crate) counters: Tally,
    pub(crate) pressure: Pressure,
    pub(crate) updated: bool,
}

/// MSS to offer on a link that carries packets of `mtu` octets (RFC 9293 section 3.7.1).
pub(crate) fn mss_of(flow: &FlowKey, mtu: u16) -> u16 {
    mtu.saturating_sub(headers(flow)).max(MIN_MSS)
}

/// Octets of IP and TCP headers without options.
pub(crate) fn headers(flow: &FlowKey) -> u16 {
    ip_header(flow) + MIN_HEADER as u16
}

fn ip_header(flow: &FlowKey) -> u16 {
    if flow.remote.is_ipv4() { 20 } else { 40 }
}

/// MSS of a peer that does not say (RFC 9293 section 3.7.1).
pub(crate) fn default_mss(flow: &FlowKey) -> u16 {
    if flow.remote.is_ipv4() { 536 } else { 1220 }
}

/// What a receive buffer may grow to.
pub(crate) fn largest_buffer(config: &TcpConfig) -> u32 {
    config.max_receive_buffer.max(config.receive_buffer)
}

/// The smallest shift that lets 16 bits express `buffer`.
pub(crate) fn scale_of(buffer: u32) -> u8 {
    (0..MAX_SCALE)
        .find(|shift| buffer >> shift <= 0xffff)
        .unwrap_or(MAX_SCALE)
}

impl Connection {
    /// A connection with nothing agreed on yet.
    pub(crate) fn new(
        now: Instant,
        config: &TcpConfig,
        flow: FlowKey,
        mtu: u16,
        state: State,
        iss: SeqNumber,
        irs: SeqNumber,
    ) -> Connection {
        let mss = u32::from(mss_of(&flow, mtu));
        Connection {
            ends: Ends::new(&flow),
            state,
            error: None,
            options: Chosen::new(config.socket),
            max_retransmits: config.max_retransmits,
            max_syn_retransmits: config.max_syn_retransmits,
            path_mtu: mtu,
            link_mtu: mtu,
            search: None,
            ecn: EcnState::default(),
            peer_timeout: 0,
            soft_error: false,
            offered_scale: scale_of(largest_buffer(config)),
            sack: false,
            timestamps: None,
            snd: Snd::new(iss, default_mss(&flow)),
            rcv: Rcv {
                most: largest_buffer(config),
                ..Rcv::new(irs, config.receive_buffer)
            },
            rtt: RttEstimator::new(config.socket.min_rto),
            congestion: Congestion::new(config.congestion, mss),
            recovery: Recovery::new(iss),
            timers: Timers::default(),
            owed: Owed::default(),
            attempts: 0,
            heard_at: now,
            progress_at: now,
            challenge: ChallengeLimit::default(),
            counters: Tally::default(),
            pressure: Pressure::None,
            updated: false,
        }
    }

    /// The numbers of its handshake, whether or not ours is a cookie.
    pub fn handshake(&self) -> Cookie {
        Cookie {
            irs: self.rcv.irs,
            iss: self.snd.iss,
        }
    }

    /// Open a connection actively. `mtu` is what the link carries, in octets of an IP packet.
    pub fn connect(
        now: Instant,
        config: &TcpConfig,
        numbers: &InitialNumbers,
        flow: FlowKey,
        mtu: u16,
    ) -> Connection {
        let iss = numbers.sequence(now, &flow);
        let irs = SeqNumber::default();
        let mut connection = Connection::new(now, config, flow, mtu, State::SynSent, iss, irs);
        connection.sack = config.sack;
        connection.timestamps = config.timestamps.then(|| TimestampState {
            offset: numbers.timestamp_offset(&flow),
            recent: 0,
            recent_at: now,
            valid_from: None,
        });
        connection.owed.syn = true;
        connection.owed.user_timeout = connection.options.exchange_user_timeout;
        connection
    }

    /// Take the options of the peer's SYN into force.
    pub(crate) fn negotiate(&mut self, now: Instant, options: &Options) {
        self.snd.peer_mss = options
            .mss
            .unwrap_or(default_mss(&self.flow()))
            .max(MIN_MSS);
        self.sack = self.sack && options.sack_permitted;
        match options.window_scale {
            Some(shift) => {
                self.snd.scale = shift.min(MAX_SCALE);
                self.rcv.scale = self.offered_scale;
            }
            None => {
                self.snd.scale = 0;
                self.rcv.scale = 0;
                self.rcv.buffer = self.rcv.buffer.min(0xffff);
                self.rcv.most = self.rcv.most.min(0xffff);
                self.rcv.least = self.rcv.least.min(0xffff);
            }
        }
        match (&mut self.timestamps, options.timestamps) {
            (Some(ours), Some(theirs)) => {
                ours.recent = theirs.value;
                ours.recent_at = now;
            }
            _ => self.timestamps = None,
        }
        let near = self.congestion.near;
        self.congestion = Congestion::new(self.algorithm(), u32::from(self.mss()));
        if near {
            self.set_near();
        }
    }

    fn algorithm(&self) -> CongestionAlgorithm {
        match self.congestion.algorithm {
            super::congestion::Algorithm::Cubic(_) => CongestionAlgorithm::Cubic,
            super::congestion::Algorithm::NewReno { .. } => CongestionAlgorithm::NewReno,
        }
    }

    /// Octets of payload a segment takes at most: Eff.snd.MSS (RFC 6691 section 2; the options
    /// counted are those on every segment).
    pub fn mss(&self) -> u16 {
        let options = match self.timestamps {
            Some(_) => TIMESTAMPS_LEN as u16,
            None => 0,
        };
        let headers = match self.ends.is_ipv4() {
            true => 20 + MIN_HEADER as u16,
            false => 40 + MIN_HEADER as u16,
        };
        self.snd
            .peer_mss
            .min(self.path_mtu.saturating_sub(headers).max(MIN_MSS))
            .saturating_sub(options)
            .max(MIN_MSS - TIMESTAMPS_LEN as u16)
    }

    // --- the application's side ------------------------------------------------------------------

    /// Octets received in order and not consumed yet.
    pub fn receive_available(&self) -> usize {
        self.rcv.queue.len()
    }

    /// The octets `offset` octets beyond the first unconsumed one, as far as they lie in one
    /// piece; `None` where nothing has arrived. Shared, not copied.
    pub fn receive_peek(&self, offset: usize) -> Option<Bytes> {
        self.rcv
            .queue
            .chunk_at(self.rcv.queue.start() + offset as u64)
    }

    /// Consume `count` octets (at most what is available): their room goes back to the window.
    pub fn receive_consume(&mut self, now: Instant, count: usize) {
        self.rcv
            .queue
            .advance_to(self.rcv.queue.start() + count as u64);
        self.tune_receive_buffer(now);
        if self.may_acknowledge() && self.rcv.owes_update() {
            self.owed.ack = true;
        }
    }

    /// Leave the right edge of the window where it is, so that the peer runs out of room, or let
    /// it go on again. What was promised stays promised. A connection that moves forgets it.
    pub fn hold_window(&mut self, hold: bool) {
        self.rcv.held = hold;
        if !hold && self.may_acknowledge() && self.rcv.owes_update() {
            self.owed.ack = true;
        }
    }

    /// Octets that would travel with the connection: sent and unacknowledged, unsent, unread, and
    /// out of order.
    pub fn cargo(&self) -> usize {
        self.snd.queue.len() + self.rcv.queue.len() + self.rcv.out_of_order() as usize
    }

    /// Whether the peer's FIN and everything before it has arrived. Octets may still be unconsumed.
    pub fn receive_finished(&self) -> bool {
        self.rcv.fin == RcvFin::Received
    }

    /// Whether FIN has arrived and every octet before it is consumed.
    pub fn receive_at_end(&self) -> bool {
        self.receive_finished() && self.rcv.queue.len() == 0
    }

    /// Queue octets to send. All of them are taken; see [`Connection::send_queued`] for when to stop.
    pub fn send(&mut self, _now: Instant, data: Bytes) -> Result<(), SendError> {
        if self.snd.fin != SndFin::Open || self.state.is_send_closed() {
            return Err(SendError::Closed);
        }
        self.snd.queue.push(data);
        Ok(())
    }

    fn queue(&self, queue: Queue) -> &ByteQueue {
        match queue {
            Queue::Send => &self.snd.queue,
            Queue::Unread => &self.rcv.queue,
        }
    }

    /// Stream offsets of what a queue holds.
    pub fn queued_range(&self, queue: Queue) -> Range<u64> {
        let queue = self.queue(queue);
        queue.start()..queue.end()
    }

    /// What a queue holds, as shared slices.
    pub fn queued(&self, queue: Queue) -> Vec<Bytes> {
        self.queue(queue).chunks()
    }

    /// Octets queued: transmitted but unacknowledged ones, and those not transmitted.
    pub fn send_queued(&self) -> usize {
        self.snd.queue.len()
    }

    /// Octets transmitted and not acknowledged.
    pub fn send_unacked(&self) -> usize {
        self.snd.queue.len() - self.snd.unsent() as usize
    }

    /// Whether everything sent, and our FIN if we closed, has been acknowledged.
    pub fn send_finished(&self) -> bool {
        self.snd.queue.len() == 0 && matches!(self.snd.fin, SndFin::Open | SndFin::Acked)
    }

    /// Close our direction: FIN follows what is queued. Receiving goes on.
    pub fn close(&mut self, _now: Instant) {
        if self.snd.fin != SndFin::Open {
            return;
        }
        match self.state {
            State::SynSent if self.snd.queue.len() == 0 => self.die(None),
            State::SynSent | State::SynReceived => self.snd.fin = SndFin::Queued,
            State::Established => {
                self.snd.fin = SndFin::Queued;
                self.state = State::FinWait1;
            }
            State::CloseWait => {
                self.snd.fin = SndFin::Queued;
                self.state = State::LastAck;
            }
            _ => {}
        }
    }

    /// Close our direction, and read no more. A peer that never closes is not waited for for ever.
    ///
    /// If octets are unread, or arrive later, the peer gets an RST, as they are lost (RFC 9293 section 3.6.1,
    /// RFC 2525 section 2.17): at once, or else when it has acknowledged all that was sent, and FIN.
    pub fn release(&mut self, now: Instant) {
        self.rcv.discard = true;
        self.rcv.drop_unread();
        let at_rest = self.snd.fin == SndFin::Open && self.snd.queue.len() == 0;
        if self.rcv.lost && at_rest && self.state.is_synchronized() {
            return self.reset(ConnectionError::Aborted);
        }
        self.close(now);
        self.receive_consume(now, 0);
        self.reset_if_lost();
        if self.state == State::FinWait2 {
            self.timers.linger.set_by(now + FIN_WAIT_2);
        }
    }

    /// Reset the connection: an RST goes out and nothing is left.
    pub fn abort(&mut self, _now: Instant) {
        match self.state {
            State::Closed => return,
            State::SynSent | State::TimeWait => {}
            _ => self.owed.reset = true,
        }
        let reset = self.owed.reset;
        self.die(Some(ConnectionError::Aborted));
        self.owed.reset = reset;
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Why the connection is dead, if it is and did not end by closing.
    pub fn error(&self) -> Option<ConnectionError> {
        self.error
    }

    /// Whether nothing is left. What [`Connection::poll_transmit`] still has is a last RST.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Our end.
    pub fn local(&self) -> SocketAddr {
        self.flow().local
    }

    /// The peer's end.
    pub fn remote(&self) -> SocketAddr {
        self.flow().remote
    }

    /// Both ends.
    pub fn flow(&self) -> FlowKey {
        self.ends.flow()
    }

    /// What the application chose.
    pub fn options(&self) -> &SocketOptions {
        &self.options
    }

    /// Choose otherwise.
    pub fn set_options(&mut self, now: Instant, options: SocketOptions) {
        self.options = Chosen::new(options);
        self.owed.user_timeout = options.exchange_user_timeout;
        self.rtt.set_min_rto(options.min_rto);
        self.restart_keepalive(now);
    }

    /// The peer is near, on a link of our own: begin with a larger window, do not pace.
    pub fn set_near(&mut self) {
        self.congestion.set_near(u32::from(self.mss()));
    }

    /// Whether anything changed since the last call that an application may wait for: octets to
    /// read, room to send, established, end of input, closed, reset.
    pub fn take_updates(&mut self) -> bool {
        core::mem::take(&mut self.updated)
    }

    /// Whether a SYN that arrives for this flow may open it anew (RFC 9293 section 3.10.7.4, RFC
    /// 6191): only in TIME-WAIT, and only if nothing of the old connection can be mistaken for the
    /// new one's. The connection is then to be dropped and the SYN given to the listener.
    pub fn may_be_reused_by(&self, syn: &super::Segment) -> bool {
        if self.state != State::TimeWait || !syn.flags.syn() || syn.flags.ack() || syn.flags.rst() {
            return false;
        }
        match (&self.timestamps, syn.options.timestamps) {
            (Some(ours), Some(theirs)) if theirs.value != ours.recent => {
                !is_older(theirs.value, ours.recent)
            }
            _ => syn.seq.after(self.rcv.nxt),
        }
    }

    /// Whether a connection may be opened from here between the same ends: only in TIME-WAIT, and only where
    /// timestamps keep old duplicates from the new one, in both directions (RFC 7323 section 5, RFC 6191). Ours
    /// have to be newer than all the old one sent, which they are a second after it last heard a FIN.
    pub fn may_reopen(&self, now: Instant) -> bool {
        let entered = self.timers.linger.remaining(now);
        let rested = entered.is_some_and(|left| left + REOPEN_AFTER <= TIME_WAIT);
        self.state == State::TimeWait && self.timestamps.is_some() && rested
    }

    /// Begin beyond the numbers and timestamps of a connection that was open between the same ends (RFC 1122
    /// section 4.2.2.13). To be called before anything is sent.
    pub(crate) fn follow(&mut self, now: Instant, before: &Connection) {
        if !self.snd.iss.after(before.snd.nxt) {
            let iss = before.snd.nxt.add(BEYOND);
            self.snd = Snd::new(iss, self.snd.peer_mss);
            self.recovery = Recovery::new(iss);
        }
        if let (Some(ours), Some(theirs)) = (&mut self.timestamps, &before.timestamps)
            && is_older(ours.value(now), theirs.value(now))
        {
            ours.offset = theirs.offset;
        }
    }

    /// Read a little of every part that a segment needs, so that the cache has it. What it comes to
    /// means nothing.
    pub(crate) fn touch(&self) -> u32 {
        let queues = self.snd.queue.len() ^ self.rcv.queue.len();
        self.snd.nxt.raw()
            ^ self.snd.window
            ^ self.rcv.nxt.raw()
            ^ self.rcv.unacked
            ^ self.congestion.cwnd
            ^ self.recovery.point.raw()
            ^ self.recovery.rack.end.raw()
            ^ u32::from(self.timers.retransmit.is_set())
            ^ u32::from(self.timers.keepalive.is_set())
            ^ self.heard_at.wrapping_millis()
            ^ u32::from(self.link_mtu)
            ^ u32::from(self.rcv.quick)
            ^ u32::from(self.attempts)
            ^ u32::from(self.owed.ack)
            ^ self.snd.una.raw()
            ^ self.snd.sent.len() as u32
            ^ self.rcv.edge.raw()
            ^ self.rcv.blocks.len() as u32
            ^ self.rtt.srtt as u32
            ^ self.timestamps.map_or(0, |timestamps| timestamps.recent)
            ^ self.counters.segments_in as u32
            ^ self.counters.moves
            ^ u32::from(self.ends.remote.is_ipv4())
            ^ queues as u32
    }

    // --- shared by input, output and timeouts ----------------------------------------------------

    /// Whether segments with ACK may be sent.
    pub(crate) fn may_acknowledge(&self) -> bool {
        !matches!(self.state, State::Closed | State::SynSent)
    }

    /// Nothing is left of the connection but what the application has not read.
    pub(crate) fn die(&mut self, error: Option<ConnectionError>) {
        self.state = State::Closed;
        self.error = self.error.or(error);
        self.timers = Timers::default();
        self.owed = Owed::default();
        self.updated = true;
    }

    /// An RST is owed and the connection is dead.
    pub(crate) fn reset(&mut self, error: ConnectionError) {
        self.die(Some(error));
        self.owed.reset = true;
    }

    /// The timestamps option of a segment that leaves now.
    pub(crate) fn timestamps_option(&self, now: Instant) -> Option<Timestamps> {
        self.timestamps.map(|timestamps| Timestamps {
            value: timestamps.value(now),
            echo: timestamps.recent,
        })
    }

    /// Restart the keepalive timer.
    pub(crate) fn restart_keepalive(&mut self, now: Instant) {
        match self.options.keepalive {
            Some(keepalive) if self.state.is_synchronized() && self.state != State::TimeWait => {
                self.timers.keepalive.set(now + keepalive.idle);
            }
            _ => self.timers.keepalive.clear(),
        }
    }

    /// An RST for this connection, acceptable to the peer.
    pub(crate) fn reset_segment(&self) -> Outgoing {
        Outgoing {
            seq: self.snd.nxt,
            ack: self.rcv.nxt,
            flags: super::Flags::RST | super::Flags::ACK,
            ..Outgoing::default()
        }
    }
}

/// Whether timestamp `a` is older than `b`, modulo 2^32.
pub(crate) fn is_older(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}
