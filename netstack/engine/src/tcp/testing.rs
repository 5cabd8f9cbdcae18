//! [`Pair`]: two connections over a link in memory, in virtual time. The link loses, delays,
//! reorders and duplicates as its seed says; every segment crosses it as bytes and is checked for
//! what must hold of any segment.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use core::net::SocketAddr;

use bytes::Bytes;

use super::listen::{HalfOpen, HalfOpenEvent};
use super::{
    Connection, ConnectionState, Ecn, Flags, InitialNumbers, Outgoing, Ports, Segment, State,
    TcpConfig,
};
use crate::seq::SeqNumber;
use crate::stack::FlowKey;
use crate::time::{Duration, Instant};

/// A small generator (xorshift64*), so that a failure names the seed that replays it.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound.max(1)
    }

    pub fn per_mille(&mut self, probability: u32) -> bool {
        self.below(1000) < u64::from(probability)
    }
}

/// What the link does to segments.
#[derive(Clone)]
pub struct Link {
    pub delay: Duration,
    /// Up to this much more, drawn for each segment: reordering.
    pub jitter: Duration,
    /// Per mille.
    pub loss: u32,
    /// Per mille.
    pub duplicate: u32,
    /// Octets per second; 0 is unlimited.
    pub rate: u64,
}

impl Default for Link {
    fn default() -> Link {
        Link {
            delay: Duration::from_millis(10),
            jitter: Duration::ZERO,
            loss: 0,
            duplicate: 0,
            rate: 0,
        }
    }
}

/// A segment that was sent.
#[derive(Clone, Debug)]
pub struct Sent {
    pub at: Instant,
    pub from: usize,
    pub segment: Segment,
    pub dropped: bool,
}

pub struct End {
    pub connection: Option<Connection>,
    pub half: Option<HalfOpen>,
    pub config: TcpConfig,
    pub numbers: InitialNumbers,
    /// What [`Connection::poll_transmit`] is given.
    pub max_payload: usize,
    /// Octets read so far.
    pub received: Vec<u8>,
    /// Whether octets are read as they come.
    pub reading: bool,
    /// The connection while it is between machines, and what arrives for it meanwhile.
    frozen: Option<ConnectionState>,
    held: Vec<(Bytes, Ecn)>,
    flow: FlowKey,
    /// The last TSval; none is older than that.
    pub tsval: Option<u32>,
    edge: Option<SeqNumber>,
    scale: Option<u8>,
    link_free: Instant,
}

type Filter = Box<dyn FnMut(&Sent) -> bool>;

/// Two ends and the link between them. End 0 opens actively, end 1 listens.
pub struct Pair {
    pub now: Instant,
    pub ends: [End; 2],
    pub link: Link,
    pub random: Random,
    pub log: Vec<Sent>,
    /// Drops segments for which it says true.
    pub filter: Option<Filter>,
    pub mtu: u16,
    /// Marks ECN-capable segments for which it says true.
    pub mark: Option<Filter>,
    wire: BTreeMap<(Instant, u64), (usize, Bytes, Ecn)>,
    count: u64,
}

pub const CLIENT: usize = 0;
pub const SERVER: usize = 1;

/// Octets of the stream both tests and checkers know.
pub fn pattern(from: u64, len: usize) -> Bytes {
    (from..from + len as u64)
        .map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8)
        .collect()
}

impl Pair {
    pub fn with(seed: u64, client: TcpConfig, server: TcpConfig, link: Link) -> Pair {
        let address = |n: u8, port| SocketAddr::from(([10, 0, 0, n], port));
        let (here, there) = (address(1, 40_000), address(2, 80));
        let end = |local, remote, config, secret| End {
            connection: None,
            half: None,
            config,
            numbers: InitialNumbers::new([secret; 32]),
            max_payload: 0,
            received: Vec::new(),
            reading: true,
            frozen: None,
            held: Vec::new(),
            flow: FlowKey { local, remote },
            tsval: None,
            edge: None,
            scale: None,
            link_free: Instant::ZERO,
        };
        Pair {
            now: Instant::from_millis(1000),
            ends: [
                end(here, there, client, seed as u8),
                end(there, here, server, (seed >> 8) as u8 ^ 0x55),
            ],
            link,
            random: Random::new(seed),
            log: Vec::new(),
            filter: None,
            mark: None,
            mtu: 1500,
            wire: BTreeMap::new(),
            count: 0,
        }
    }

    /// Opened, over a plain link.
    pub fn open() -> Pair {
        let mut pair = Pair::with(
            1,
            TcpConfig::default(),
            TcpConfig::default(),
            Link::default(),
        );
        pair.establish();
        pair
    }

    pub fn connect(&mut self) {
        self.connect_from(CLIENT);
    }

    /// Open actively from `end`.
    pub fn connect_from(&mut self, end: usize) {
        let end = &mut self.ends[end];
        end.connection = Some(Connection::connect(
            self.now,
            &end.config,
            &end.numbers,
            end.flow,
            self.mtu,
        ));
    }

    pub fn establish(&mut self) {
        self.connect();
        for _ in 0..1000 {
            if self.ends[SERVER].connection.is_some()
                && self.end(CLIENT).state() == State::Established
            {
                return;
            }
            self.step();
        }
        panic!("no handshake");
    }

    pub fn end(&mut self, end: usize) -> &mut Connection {
        self.ends[end].connection.as_mut().unwrap()
    }

    pub fn state(&self, end: usize) -> State {
        self.ends[end].connection.as_ref().unwrap().state()
    }

    /// Send `len` octets of the pattern, from stream offset `from` on.
    pub fn send(&mut self, end: usize, from: u64, len: usize) {
        let now = self.now;
        self.end(end).send(now, pattern(from, len)).unwrap();
    }

    pub fn close(&mut self, end: usize) {
        let now = self.now;
        self.end(end).close(now);
    }

    /// What `end` received is exactly the first `len` octets of the pattern.
    pub fn check_received(&self, end: usize, len: usize) {
        assert_eq!(self.ends[end].received.len(), len, "octets received");
        assert!(self.ends[end].received == pattern(0, len), "octets differ");
    }

    /// Give `end` a segment that nobody sent.
    pub fn inject(&mut self, end: usize, segment: Segment) {
        let now = self.now;
        self.end(end).handle_segment(now, &segment);
        self.flush();
    }

    /// A segment as `end`'s peer might send it now.
    pub fn forged(&mut self, end: usize) -> Segment {
        let now = self.now;
        let peer = self.end(1 - end);
        let (seq, ack) = (peer.snd.nxt, peer.rcv.nxt);
        let timestamps = peer.timestamps_option(now);
        Segment {
            seq,
            ack,
            flags: Flags::ACK,
            window: 1000,
            options: super::Options {
                timestamps,
                ..Default::default()
            },
            ..Segment::default()
        }
    }

    /// Segments sent by `end` since log index `since`.
    pub fn sent(&self, end: usize, since: usize) -> Vec<Segment> {
        self.log[since..]
            .iter()
            .filter(|sent| sent.from == end)
            .map(|sent| sent.segment.clone())
            .collect()
    }

    fn launch(&mut self, from: usize, out: Outgoing) {
        let ports = Ports {
            source: self.ends[from].flow.local.port(),
            destination: self.ends[from].flow.remote.port(),
        };
        let payload: Vec<u8> = out.payload.concat();
        let size = match out.segment_size {
            0 => payload.len().max(1),
            size => usize::from(size),
        };
        let count = payload.len().div_ceil(size).max(1);
        for part in 0..count {
            let mut cut = out.clone();
            cut.seq = out.seq.add((part * size) as u32);
            if part + 1 < count {
                let bits = out.flags.bits() & !(Flags::FIN | Flags::PSH).bits();
                cut.flags = Flags::from_bits(bits);
            }
            let mut bytes = vec![0; cut.header_len()];
            cut.write_header(ports, &mut bytes).unwrap();
            let octets = &payload[part * size..payload.len().min((part + 1) * size)];
            bytes.extend_from_slice(octets);
            assert!(
                bytes.len() + 20 <= usize::from(self.mtu),
                "larger than the link: {}",
                bytes.len()
            );
            let ecn = match out.ecn_capable {
                true => Ecn::Capable0,
                false => Ecn::NotCapable,
            };
            self.launch_bytes(from, Bytes::from(bytes), ecn);
        }
    }

    fn launch_bytes(&mut self, from: usize, bytes: Bytes, ecn: Ecn) {
        let (_, mut segment) = Segment::parse(&bytes).unwrap();
        segment.ecn = ecn;
        self.check(from, &segment);
        let mut sent = Sent {
            at: self.now,
            from,
            segment,
            dropped: false,
        };
        if ecn != Ecn::NotCapable && self.mark.as_mut().is_some_and(|mark| mark(&sent)) {
            sent.segment.ecn = Ecn::Congestion;
        }
        let ecn = sent.segment.ecn;
        sent.dropped = self.random.per_mille(self.link.loss)
            || self.filter.as_mut().is_some_and(|filter| filter(&sent));
        let copies = match sent.dropped {
            true => 0,
            false => 1 + u32::from(self.random.per_mille(self.link.duplicate)),
        };
        self.log.push(sent);
        for _ in 0..copies {
            let jitter = self.random.below(self.link.jitter.as_nanos() as u64 + 1);
            let mut at = self.now;
            if let Some(nanos) = (bytes.len() as u64 * 1_000_000_000).checked_div(self.link.rate) {
                let end = &mut self.ends[from];
                at = at.max(end.link_free) + Duration::from_nanos(nanos);
                end.link_free = at;
            }
            at = at + self.link.delay + Duration::from_nanos(jitter);
            self.count += 1;
            self.wire
                .insert((at, self.count), (1 - from, bytes.clone(), ecn));
        }
    }

    /// What must hold of every segment an end sends, whoever owned the connection before.
    fn check(&mut self, from: usize, segment: &Segment) {
        if segment.flags.rst() {
            return;
        }
        let end = &mut self.ends[from];
        if let Some(timestamps) = segment.options.timestamps {
            if let Some(before) = end.tsval {
                let moved = timestamps.value.wrapping_sub(before) as i32;
                assert!(moved >= 0, "TSval ran backwards by {moved}");
            }
            end.tsval = Some(timestamps.value);
        }
        if !segment.flags.ack() {
            return;
        }
        let shift = match segment.flags.syn() {
            true => {
                end.scale = segment.options.window_scale;
                0
            }
            false => end
                .connection
                .as_ref()
                .map_or(0, |connection| connection.rcv.scale),
        };
        let edge = segment.ack.add(u32::from(segment.window) << shift);
        if let Some(before) = end.edge {
            assert!(edge.at_or_after(before), "the right edge moved back");
        }
        end.edge = Some(edge);
    }

    /// Let both ends send what they have to.
    pub fn flush(&mut self) {
        for end in [CLIENT, SERVER] {
            let now = self.now;
            let max_payload = self.ends[end].max_payload;
            while let Some(out) = {
                let End { half, config, .. } = &mut self.ends[end];
                half.as_mut()
                    .and_then(|half| half.poll_transmit(now, config))
            } {
                self.launch(end, out);
            }
            let mut sent = 0;
            while let Some(out) = self.ends[end]
                .connection
                .as_mut()
                .and_then(|connection| connection.poll_transmit(now, max_payload))
            {
                self.launch(end, out);
                sent += 1;
                assert!(sent < 100_000, "sends without end");
            }
        }
    }

    /// Read all there is, if reading.
    pub fn read(&mut self, end: usize) {
        let now = self.now;
        let End {
            connection: Some(connection),
            received,
            reading: true,
            ..
        } = &mut self.ends[end]
        else {
            return;
        };
        while let Some(piece) = connection.receive_peek(0) {
            received.extend_from_slice(&piece);
            connection.receive_consume(now, piece.len());
        }
    }

    fn deliver(&mut self, end: usize, bytes: &Bytes, ecn: Ecn) {
        let (now, mtu) = (self.now, self.mtu);
        let (_, mut segment) = Segment::parse(bytes).unwrap();
        segment.ecn = ecn;
        let this = &mut self.ends[end];
        if this.frozen.is_some() {
            this.held.push((bytes.clone(), ecn));
            return;
        }
        if let Some(connection) = &mut this.connection {
            connection.handle_segment(now, &segment);
        } else if let Some(half) = &mut this.half {
            match half.handle_segment(now, &this.config, &segment) {
                HalfOpenEvent::Nothing => {}
                HalfOpenEvent::Reply(out) => self.launch(end, out),
                HalfOpenEvent::Established(connection) => {
                    this.connection = Some(*connection);
                    this.half = None;
                }
                HalfOpenEvent::Reset => this.half = None,
            }
        } else if segment.flags.syn() && !segment.flags.ack() {
            this.half = Some(HalfOpen::on_syn(
                now,
                &this.config,
                &this.numbers,
                this.flow,
                mtu,
                &segment,
                None,
            ));
        } else if let Some(reset) = Outgoing::reset_for(&segment) {
            self.launch(end, reset);
        }
        self.read(end);
    }

    /// Freeze `end`'s connection: from now on it is silent and what arrives is held.
    pub fn freeze(&mut self, end: usize) {
        let now = self.now;
        let connection = self.ends[end].connection.take().unwrap();
        self.ends[end].frozen = Some(connection.export(now));
    }

    /// The connection arrives at a machine with another clock; from there it comes back at once, as
    /// the pair has but one clock. Then it gets what was held.
    pub fn arrive(&mut self, end: usize) {
        let (now, mtu) = (self.now, self.mtu);
        let there = Instant::from_nanos(self.random.below(1 << 50));
        let this = &mut self.ends[end];
        let first = this.frozen.take().unwrap();
        let elsewhere = Connection::import(first, there, &this.config, mtu).unwrap();
        let second = elsewhere.export(there);
        this.connection = Some(Connection::import(second, now, &this.config, mtu).unwrap());
        for (bytes, ecn) in core::mem::take(&mut self.ends[end].held) {
            self.deliver(end, &bytes, ecn);
        }
        self.flush();
    }

    fn next_event(&self) -> Option<Instant> {
        let timeouts = self.ends.iter().flat_map(|end| {
            [
                end.connection.as_ref().and_then(Connection::poll_timeout),
                end.half.as_ref().map(HalfOpen::poll_timeout),
            ]
        });
        self.wire
            .keys()
            .next()
            .map(|(at, _)| *at)
            .into_iter()
            .chain(timeouts.flatten())
            .min()
    }

    /// Send, then go on to the next thing that happens. False when nothing ever will.
    pub fn step(&mut self) -> bool {
        self.flush();
        let Some(at) = self.next_event() else {
            return false;
        };
        self.now = self.now.max(at);
        let now = self.now;
        while let Some(first) = self.wire.first_entry()
            && first.key().0 <= now
        {
            let (end, bytes, ecn) = first.remove();
            self.deliver(end, &bytes, ecn);
            self.flush();
        }
        for end in &mut self.ends {
            if let Some(connection) = &mut end.connection {
                connection.handle_timeout(now);
            }
            if let Some(half) = &mut end.half
                && !half.handle_timeout(now, &end.config)
            {
                end.half = None;
            }
        }
        self.flush();
        for end in [CLIENT, SERVER] {
            self.read(end);
        }
        true
    }

    /// Run until `done`, at most `limit` of virtual time.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Pair) -> bool) {
        let deadline = self.now + limit;
        while !done(self) {
            assert!(self.now <= deadline, "not done in {limit:?}");
            assert!(self.step() || done(self), "stuck at {:?}", self.now);
        }
    }

    /// Run for `span` of virtual time.
    pub fn run_for(&mut self, span: Duration) {
        let deadline = self.now + span;
        self.flush();
        while self.next_event().is_some_and(|at| at <= deadline) {
            self.step();
        }
        self.now = deadline;
    }
}
