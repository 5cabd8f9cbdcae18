//! Listeners, and what becomes of half-open connections. A SYN flood costs a bounded table; when that is full, SYNs
//! are answered without being remembered (SYN cookies).

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::SocketAddr;

use bytes::Bytes;

use super::flows::{Entry, Packed};
use super::frame::{Interface, RxFrame};
use super::half_open::{Doubtful, Pending};
use super::wire::{self, ETHERNET, Ethernet, TCP};
use super::{FlowKey, ListenerId, MacAddr, Scope, Stack, StackEvent};
use crate::tcp::listen::{HalfOpen, HalfOpenEvent};
use crate::tcp::segment::Segment;
use crate::tcp::{Connection, Cookie, Flags, Pressure, State};
use crate::time::{Duration, Instant};

/// Connections looked at for one that may make way for another.
const SWEPT: usize = 64;
/// Connections with other instances that there is room for when there is none for others.
const KEPT_FOR_PEERS: usize = 128;
/// Longest life of a SYN cookie.
pub const COOKIE_LIFE: Duration = Duration::from_secs(132);

/// How long after a cookie was given segments may come before the one that brings it back, whosever they are: a
/// first time-out or two. Beyond that, it has to be known that theirs was given.
const OVERTAKEN: Duration = Duration::from_secs(4);

/// How often others are asked whether they have a connection that is half open here.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Octets that a connection has carried at most, either way, while its cookie was good.
const STREAM: u32 = 1 << 30;

/// A listening port.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) port: u16,
    pub(super) scope: Scope,
    pub(super) accepting: bool,
    /// Other instances connect here.
    pub(super) peers: bool,
}

impl Stack {
    /// Accept connections at `port`. A second listener on the same port and addresses is found
    /// only after the first.
    pub fn listen(&mut self, port: u16, scope: Scope) -> ListenerId {
        self.listeners.push(Listener {
            port,
            scope,
            accepting: true,
            peers: false,
        });
        ListenerId((self.listeners.len() - 1) as u32)
    }

    /// Accept connections of other instances at `port` of an own address: also while memory for queues is exhausted, or
    /// as many connections are here as may be, since sessions leave through them. Whoever
    /// is not one of them is to be sent away.
    pub fn listen_peers(&mut self, port: u16) -> ListenerId {
        let id = self.listen(port, Scope::Own);
        if let Some(listener) = self.listeners.last_mut() {
            listener.peers = true;
        }
        id
    }

    fn is_for_peers(&self, listener: ListenerId) -> bool {
        let listener = self.listeners.get(listener.0 as usize);
        listener.is_some_and(|listener| listener.peers)
    }

    /// Whether the listener takes new connections; while it does not, SYNs are dropped in
    /// silence, so that the client tries again and finds another instance.
    pub fn set_accepting(&mut self, listener: ListenerId, accepting: bool) {
        if let Some(listener) = self.listeners.get_mut(listener.0 as usize) {
            listener.accepting = accepting;
        }
    }

    /// Half-open connections at the moment.
    pub fn half_open_count(&self) -> usize {
        self.half_open.len()
    }

    /// SYNs of new connections so far, remembered or not.
    pub fn syn_count(&self) -> u64 {
        let counters = &self.counters;
        counters.syn_received + counters.syn_cookies_sent + counters.syn_no_memory
    }

    pub(super) fn listener_at(&self, local: SocketAddr) -> Option<(ListenerId, bool)> {
        let vip = self.addresses.is_vip(local.ip());
        let no_vips = self.addresses.vips().is_empty();
        let interface = self.addresses.interface_of(local.ip());
        let peers = interface == self.addresses.peers_interface();
        let reached = |scope| match scope {
            Scope::Service => vip || no_vips && interface == Interface::Service,
            Scope::Own => !vip && peers,
        };
        self.listeners
            .iter()
            .position(|listener| listener.port == local.port() && reached(listener.scope))
            .and_then(|at| Some((ListenerId(at as u32), self.listeners.get(at)?.accepting)))
    }

    /// Whether a segment to `local` may be another instance's: one for a service port of a
    /// virtual address, or within a connection that may have been opened from there.
    pub(super) fn may_be_elsewhere(&self, local: SocketAddr, syn: bool) -> bool {
        let here = |l: &Listener| l.port == local.port() && l.scope == Scope::Service;
        self.addresses.is_vip(local.ip()) && (!syn || self.listeners.iter().any(here))
    }

    /// A SYN of an unknown flow.
    pub(super) fn handle_syn(
        &mut self,
        now: Instant,
        flow: FlowKey,
        packed: Packed,
        segment: &Segment,
    ) {
        let Some((listener, accepting)) = self.listener_at(flow.local) else {
            return self.refuse(now, &flow, segment);
        };
        if !accepting {
            self.counters.syn_not_accepting += 1;
            return;
        }
        let peers = self.is_for_peers(listener);
        self.reclaim();
        if self.pressure() == Pressure::Exhausted && !peers {
            self.counters.syn_no_memory += 1;
            return;
        }
        if !self.has_room(now, peers) {
            self.counters.syn_too_many += 1;
            return;
        }
        let above = self.reused.take_if(|(of, _)| *of == packed);
        let above = above.map(|(_, above)| above);
        let (tcp, numbers) = (&self.tcp, &self.numbers);
        let mut half_open = HalfOpen::on_syn(now, tcp, numbers, flow, self.mtu, segment, above);
        let full = self.half_open.len() >= (self.tcp.max_half_open as usize).max(1);
        if full && !self.gives_cookies {
            self.counters.syn_too_many += 1;
            return;
        }
        if full && !half_open.is_cookie() {
            // This one has to be remembered, so another one is not.
            let Some(oldest) = self.half_open.oldest_cookie() else {
                self.counters.syn_too_many += 1;
                return;
            };
            if let Some(pending) = self.half_open.pending.get(oldest) {
                // Its SYN-ACK is out, and nothing remembers it any more.
                let (evicted, cookie) = (pending.packed, pending.half_open.cookie());
                self.give(now, &evicted, cookie);
            }
            self.drop_half_open(oldest);
        } else if full {
            // Nothing is remembered: the peer's ACK brings back what its SYN said.
            self.counters.syn_cookies_sent += 1;
            self.give(now, &packed, half_open.cookie());
            if let Some(outgoing) = half_open.poll_transmit(now, &self.tcp) {
                self.send_segment(now, &flow, outgoing);
            }
            return;
        }
        let pending = Pending::new(half_open, flow, packed, listener);
        let number = self.half_open.insert(pending);
        self.flows.set(packed, Entry::HalfOpen(number));
        self.counters.syn_received += 1;
        self.transmit_half_open(now, number);
    }

    /// Whether another connection fits. At the limit one in TIME-WAIT makes way, if one is found
    /// soon: it only keeps old duplicates from a later connection, which PAWS does too
    /// (RFC 6191 section 2). For other instances some room is kept beyond that.
    pub(super) fn has_room(&mut self, now: Instant, peer: bool) -> bool {
        if self.scarcity == Pressure::Exhausted {
            return false;
        }
        let kept = if peer { KEPT_FOR_PEERS } else { 0 };
        if self.table.len() < self.tcp.max_connections as usize + kept {
            return true;
        }
        let oldest = self
            .table
            .sweep(SWEPT, |block| block.connection.state() == State::TimeWait);
        if let Some(conn) = oldest {
            self.counters.time_wait_evicted += 1;
            self.bury(now, conn);
        }
        oldest.is_some()
    }

    /// Take SYN cookies for as long as one lives: some were just given, or another instance that
    /// may have given some is gone. At other times the ACK of a handshake that is not known is not
    /// believed, as it may be an old duplicate of a connection that has come and gone.
    pub fn trust_cookies(&mut self, now: Instant) {
        self.cookies_until = Some(now + COOKIE_LIFE);
    }

    /// A SYN is answered with a cookie, and forgotten.
    fn give(&mut self, now: Instant, flow: &Packed, cookie: Cookie) {
        self.cookie_given = Some(now);
        self.given.add(now, flow, cookie.iss);
        self.trust_cookies(now);
    }

    /// Whether SYN cookies are taken.
    pub fn trusts_cookies(&self, now: Instant) -> bool {
        self.cookies_until.is_some_and(|until| until >= now)
    }

    /// Who has sent the first frame held for a flow.
    pub fn held_from(&self, flow: &FlowKey) -> Option<MacAddr> {
        let held = self.flows.held(&Packed::new(flow)).next()?;
        Some(Ethernet::parse(&held.bytes)?.src)
    }

    /// The first cookie that a frame held for a flow brings back. It would complete a handshake that nobody
    /// remembers, whose SYN was answered less than a cookie's life ago.
    pub fn held_cookie(&self, now: Instant, flow: &FlowKey) -> Option<Cookie> {
        if !self.trusts_cookies(now) {
            return None;
        }
        let packed = Packed::new(flow);
        let mut held = self.flows.held(&packed);
        held.find_map(|frame| self.brings_cookie(now, flow, frame))
    }

    /// Whether a frame that is held for a flow acknowledges more than the SYN-ACK of this cookie: then the
    /// connection has come to be, and the segment that brings the cookie is an old duplicate. What does not lie
    /// within [`STREAM`] of the handshake's numbers is of a connection before.
    pub fn is_outgrown(&self, flow: &FlowKey, cookie: Cookie) -> bool {
        let Cookie { irs, iss } = cookie;
        let packed = Packed::new(flow);
        let mut held = self.flows.held(&packed);
        held.any(|frame| {
            held_segment(frame).is_some_and(|segment| {
                segment.flags.ack()
                    && segment.seq.in_window(irs.add(1), STREAM)
                    && segment.ack.in_window(iss.add(2), STREAM)
            })
        })
    }

    /// The SYN cookie that a frame brings back, if it is to be taken.
    pub(super) fn brings_cookie(
        &self,
        now: Instant,
        flow: &FlowKey,
        frame: &RxFrame,
    ) -> Option<Cookie> {
        if !self.trusts_cookies(now) {
            return None;
        }
        let (tcp, numbers) = (&self.tcp, &self.numbers);
        let segment = held_segment(frame)?;
        let recalled = HalfOpen::recall(now, tcp, numbers, *flow, self.mtu, &segment)?;
        Some(recalled.cookie())
    }

    /// The cookie of a [`StackEvent::DoubtfulHandshake`].
    pub fn doubtful_cookie(&self, flow: &FlowKey) -> Option<Cookie> {
        let Some(Entry::HalfOpen(number)) = self.flows.get(&Packed::new(flow)) else {
            return None;
        };
        let pending = self.half_open.pending.get(number)?;
        let doubtful = pending.doubtful.as_ref()?;
        let handshake = doubtful.other.as_ref().unwrap_or(&pending.half_open);
        Some(handshake.cookie())
    }

    /// The connection of a cookie is over, here or at another instance: it opens none any more.
    pub fn spend(&mut self, now: Instant, flow: &FlowKey, cookie: Cookie) {
        let Cookie { irs, iss } = cookie;
        self.given.remove(&Packed::new(flow), iss);
        if self.numbers.open_cookie(now, flow, irs, iss).is_some() {
            let forgotten = self.spent.add(now, &Packed::new(flow), cookie);
            self.counters.syn_cookies_forgotten += forgotten as u64;
        }
    }

    /// What is remembered of cookies whose connections are over, for an instance that shares our secret:
    /// how long each part is to be remembered yet, and hashes.
    pub fn spent_cookies(&self, now: Instant) -> impl Iterator<Item = (Duration, Vec<u64>)> {
        self.spent.parts(now)
    }

    /// Remember what another instance has remembered of cookies, for so long yet.
    pub fn take_spent(&mut self, now: Instant, left: Duration, hashes: impl Iterator<Item = u64>) {
        let until = now + left.min(COOKIE_LIFE);
        for hash in hashes {
            let forgotten = self.spent.add_hash(now, until, hash);
            self.counters.syn_cookies_forgotten += forgotten as u64;
        }
    }

    /// Whether the connection of a cookie is known to be over.
    pub fn is_spent(&self, now: Instant, flow: &FlowKey, cookie: Cookie) -> bool {
        self.spent.has(now, &Packed::new(flow), cookie)
    }

    /// Whether the flow's SYN has just ended the TIME-WAIT of a connection here, beyond whose numbers its
    /// own have to begin (RFC 9293 section 3.10.7.4): nobody else knows them.
    pub fn was_in_time_wait(&self, flow: &FlowKey) -> bool {
        self.reused.is_some_and(|(of, _)| of == Packed::new(flow))
    }

    /// A segment of no known flow that may complete a handshake nobody remembers.
    pub(super) fn complete_from_cookie(
        &mut self,
        now: Instant,
        flow: FlowKey,
        segment: &Segment,
    ) -> bool {
        if !self.trusts_cookies(now) {
            return false;
        }
        let Some((listener, _)) = self.listener_at(flow.local) else {
            return false;
        };
        let (tcp, numbers) = (&self.tcp, &self.numbers);
        let recalled = HalfOpen::recall(now, tcp, numbers, flow, self.mtu, segment);
        let Some(mut half_open) = recalled else {
            self.counters.syn_cookies_bad += 1;
            return false;
        };
        if self.is_spent(now, &flow, half_open.cookie()) {
            self.counters.syn_cookies_spent += 1;
            self.refuse(now, &flow, segment);
            return true;
        }
        let event = half_open.handle_segment(now, &self.tcp, segment);
        let HalfOpenEvent::Established(connection) = event else {
            return false;
        };
        if !self.has_room(now, self.is_for_peers(listener)) {
            self.counters.syn_too_many += 1;
            return true;
        }
        self.counters.syn_cookies_taken += 1;
        self.accept(now, listener, *connection, flow);
        true
    }

    /// Whether a segment that no cookie explains may belong to a connection that one is out for: the
    /// segment that brings the cookie back is late, or lost and will be repeated. An RST would end what is
    /// about to begin.
    pub(super) fn may_have_overtaken_a_cookie(
        &mut self,
        now: Instant,
        flow: &FlowKey,
        segment: &Segment,
    ) -> bool {
        let lately = self
            .cookie_given
            .is_some_and(|at| now.since(at) < OVERTAKEN);
        let given = lately || self.given.has(now, &Packed::new(flow), segment.ack.sub(1));
        let within = segment.flags.ack() && !segment.flags.syn() && !segment.flags.rst();
        let silent = given && within && self.listener_at(flow.local).is_some();
        self.counters.half_open_silent += u64::from(silent);
        silent
    }

    fn accept(
        &mut self,
        now: Instant,
        listener: ListenerId,
        connection: Connection,
        flow: FlowKey,
    ) {
        self.counters.accepted += 1;
        let Cookie { iss, .. } = connection.handshake();
        self.given.remove(&Packed::new(&flow), iss);
        let conn = self.put_block(connection, flow);
        self.events
            .push_back(StackEvent::Accepted { listener, conn });
        self.settle(now, conn);
    }

    /// Send what a half-open connection has to send, and see to its deadline.
    fn transmit_half_open(&mut self, now: Instant, number: u64) {
        let Some(pending) = self.half_open.pending.get_mut(number) else {
            return;
        };
        let flow = pending.flow;
        let outgoing = pending.half_open.poll_transmit(now, &self.tcp);
        self.half_open.arm(number);
        if let Some(outgoing) = outgoing {
            self.send_segment(now, &flow, outgoing);
        }
    }

    /// A segment of a half-open connection.
    pub(super) fn handle_half_open(&mut self, now: Instant, number: u64, segment: &Segment) {
        let Some(pending) = self.half_open.pending.get_mut(number) else {
            return;
        };
        let (flow, listener) = (pending.flow, pending.listener);
        let half_open = &pending.half_open;
        let cookie = half_open.cookie();
        let begins = half_open.begins_with(segment.seq);
        let orders = segment.flags.contains(Flags::SYN) || segment.flags.contains(Flags::RST);
        let answers = begins
            && half_open.is_completed_by(&self.tcp, segment)
            && half_open.may_be_answered_by(now, segment);
        if self.ask_unknown && !answers && !orders {
            // In a cluster the connection may have been made by another instance, which was given the same
            // SYN, and be far into its streams. Whoever really begins here answers what we have sent, (again)
            // from the first octet. In doubt we are silent.
            self.counters.half_open_silent += 1;
            self.doubt_handshake(now, number, segment);
            return;
        }
        match pending.half_open.handle_segment(now, &self.tcp, segment) {
            HalfOpenEvent::Nothing => self.transmit_half_open(now, number),
            HalfOpenEvent::Reply(outgoing) => {
                // An earlier answer to the same SYN, or the one of another instance, acknowledged?
                let believed = begins || !self.ask_unknown && self.trusts_cookies(now);
                if believed
                    && let Some((cookie, connection)) = self.recall(now, flow, segment)
                    && !self.is_spent(now, &flow, cookie)
                {
                    self.drop_half_open(number);
                    self.accept(now, listener, connection, flow);
                } else if self.ask_unknown && !segment.flags.contains(Flags::SYN) {
                    self.counters.half_open_silent += 1;
                } else if self.half_open.may_answer(now, number) {
                    self.send_segment(now, &flow, outgoing);
                } else {
                    self.counters.challenges_limited += 1;
                }
            }
            HalfOpenEvent::Reset => {
                self.drop_half_open(number);
                self.counters.half_open_expired += 1;
            }
            HalfOpenEvent::Established(_) if self.is_spent(now, &flow, cookie) => {
                // Late duplicates of a handshake whose connection has come and gone.
                self.counters.syn_cookies_spent += 1;
                self.drop_half_open(number);
                self.refuse(now, &flow, segment);
            }
            HalfOpenEvent::Established(connection) => {
                if !self.has_room(now, self.is_for_peers(listener)) {
                    // The peer sends again; until then there may be room.
                    self.counters.syn_too_many += 1;
                    return;
                }
                self.drop_half_open(number);
                self.accept(now, listener, *connection, flow);
            }
        }
    }

    /// The connection that a segment makes which brings back a cookie, and the cookie.
    fn recall(
        &self,
        now: Instant,
        flow: FlowKey,
        segment: &Segment,
    ) -> Option<(Cookie, Connection)> {
        let (tcp, numbers) = (&self.tcp, &self.numbers);
        let mut recalled = HalfOpen::recall(now, tcp, numbers, flow, self.mtu, segment)?;
        match recalled.handle_segment(now, tcp, segment) {
            HalfOpenEvent::Established(connection) => Some((recalled.cookie(), *connection)),
            _ => None,
        }
    }

    /// A segment from beyond the first octet, or one that answers somebody else's SYN-ACK, would complete
    /// this handshake (RFC 9293 section 3.10.7.4), if nobody else has done so; or one brings back the cookie
    /// of another SYN, which was answered without being remembered, and then an older one came here. Let it
    /// be asked about, at times.
    fn doubt_handshake(&mut self, now: Instant, number: u64, segment: &Segment) {
        let Some(pending) = self.half_open.pending.get(number) else {
            return;
        };
        let (flow, half_open) = (pending.flow, &pending.half_open);
        let (tcp, numbers) = (&self.tcp, &self.numbers);
        let completes = half_open.is_completed_by(tcp, segment);
        let other = match completes {
            true => None,
            false => HalfOpen::recall(now, tcp, numbers, flow, self.mtu, segment),
        };
        if !completes && other.is_none() {
            return;
        }
        let Some(pending) = self.half_open.pending.get_mut(number) else {
            return;
        };
        pending.doubtful = Some(Box::new(Doubtful {
            other,
            // Its octets, and the end behind them, are sent again.
            segment: Segment {
                flags: Flags::ACK,
                payload: Bytes::new(),
                ..segment.clone()
            },
        }));
        let asked = pending.asked.is_some_and(|at| now.since(at) < ASK_AGAIN);
        if !asked {
            pending.asked = Some(now);
            self.events
                .push_back(StackEvent::DoubtfulHandshake { flow });
        }
    }

    /// Nobody else has the connection of a [`StackEvent::DoubtfulHandshake`].
    pub fn complete_handshake(&mut self, now: Instant, flow: &FlowKey) {
        let Some(Entry::HalfOpen(number)) = self.flows.get(&Packed::new(flow)) else {
            return;
        };
        let Some(pending) = self.half_open.pending.get_mut(number) else {
            return;
        };
        let (flow, listener) = (pending.flow, pending.listener);
        let Some(doubtful) = pending.doubtful.take() else {
            return;
        };
        let Doubtful { mut other, segment } = *doubtful;
        let is_other = other.is_some();
        let handshake = other.as_mut().unwrap_or(&mut pending.half_open);
        if self.spent.has(now, &pending.packed, handshake.cookie()) {
            // Another instance has completed it, and it is over.
            self.counters.syn_cookies_spent += 1;
            if !is_other {
                self.drop_half_open(number);
                self.refuse(now, &flow, &segment);
            }
        } else if let HalfOpenEvent::Established(connection) =
            handshake.handle_segment(now, &self.tcp, &segment)
            && self.has_room(now, false)
        {
            self.drop_half_open(number);
            self.accept(now, listener, *connection, flow);
        }
    }

    pub(super) fn drop_half_open(&mut self, number: u64) {
        if let Some(pending) = self.half_open.remove(number) {
            self.flows.remove(&pending.packed);
        }
    }

    pub(super) fn handle_half_open_timeout(&mut self, now: Instant) {
        while let Some(number) = self.half_open.timers.pop_due(now) {
            let Some(pending) = self.half_open.pending.get_mut(number) else {
                continue;
            };
            pending.armed = None;
            if pending.half_open.handle_timeout(now, &self.tcp) {
                self.transmit_half_open(now, number);
            } else {
                self.drop_half_open(number);
                self.counters.half_open_expired += 1;
            }
        }
    }
}

/// The segment in a frame that is held, and so is known to be one of TCP.
fn held_segment(frame: &RxFrame) -> Option<Segment> {
    let ip = wire::parse_ip(&frame.bytes, ETHERNET, true).ok()?;
    let payload = (ip.protocol == TCP).then(|| frame.bytes.slice(ip.payload))?;
    let (_, segment) = Segment::parse(&payload).ok()?;
    Some(segment)
}
