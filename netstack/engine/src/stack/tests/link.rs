//! Several stacks on one hub, in virtual time, with applications that stream known bytes.

use std::collections::VecDeque;

use bytes::Bytes;

use super::*;

/// Octets an application keeps queued at most.
const QUEUE: usize = 64 * 1024;

/// A frame on the wire.
pub(super) struct OnWire {
    pub(super) at: Instant,
    pub(super) from: usize,
    pub(super) frame: RxFrame,
}

/// What the hub does to a frame: `true` loses it.
type Loss = Box<dyn FnMut(&OnWire) -> bool>;

/// Stacks on a hub.
pub(super) struct Net {
    pub(super) now: Instant,
    pub(super) hosts: Vec<Stack>,
    wire: VecDeque<OnWire>,
    pub(super) log: Vec<OnWire>,
    pub(super) loss: Loss,
    /// Events not looked at yet, by host.
    pub(super) events: Vec<VecDeque<StackEvent>>,
}

impl Net {
    pub(super) fn new(hosts: Vec<Stack>) -> Net {
        Net {
            now: Instant::ZERO,
            events: hosts.iter().map(|_| VecDeque::new()).collect(),
            hosts,
            wire: VecDeque::new(),
            log: Vec::new(),
            loss: Box::new(|_| false),
        }
    }

    /// Put on the wire what the stacks have to send, and collect their events.
    pub(super) fn pump(&mut self) {
        for (from, host) in self.hosts.iter_mut().enumerate() {
            while let Some(event) = host.poll_event() {
                self.events[from].push_back(event);
            }
            while let Some(frame) = host.poll_transmit(self.now) {
                // As between two machines on one host: work left to the device is never done.
                let mut received = RxFrame::new(frame.to_vec());
                if frame.checksum.is_some() {
                    received.checksum = RxChecksum::Verified;
                }
                received.segmentation = frame.segmentation;
                let at = self.now + DELAY;
                let frame = received;
                self.wire.push_back(OnWire { at, from, frame });
            }
        }
    }

    /// Go on to what happens next, not beyond `limit`. False at the limit.
    pub(super) fn step(&mut self, limit: Instant) -> bool {
        self.pump();
        let due = self.hosts.iter().filter_map(Stack::poll_timeout).min();
        let arrival = self.wire.front().map(|on_wire| on_wire.at);
        let Some(next) = due
            .into_iter()
            .chain(arrival)
            .min()
            .filter(|at| *at <= limit)
        else {
            self.now = limit;
            return false;
        };
        self.now = self.now.max(next);
        while let Some(on_wire) = self.wire.pop_front() {
            if on_wire.at > self.now {
                self.wire.push_front(on_wire);
                break;
            }
            if !(self.loss)(&on_wire) {
                for (n, host) in self.hosts.iter_mut().enumerate() {
                    if n != on_wire.from {
                        host.handle_frame(self.now, on_wire.frame.clone());
                    }
                }
            }
            self.log.push(on_wire);
        }
        for host in &mut self.hosts {
            if host.poll_timeout().is_some_and(|due| due <= self.now) {
                host.handle_timeout(self.now);
            }
        }
        self.pump();
        true
    }

    pub(super) fn run_for(&mut self, duration: Duration) {
        let limit = self.now + duration;
        while self.step(limit) {}
    }

    /// The connection accepted at a host, if there is one.
    pub(super) fn accepted(&mut self, host: usize) -> Option<ConnId> {
        let events = &mut self.events[host];
        let at = events
            .iter()
            .position(|e| matches!(e, StackEvent::Accepted { .. }))?;
        match events.remove(at) {
            Some(StackEvent::Accepted { conn, .. }) => Some(conn),
            _ => None,
        }
    }

    /// Flags of the TCP segments on the wire so far.
    pub(super) fn flags(&self) -> impl Iterator<Item = u8> {
        self.log.iter().filter_map(|on_wire| {
            let ip = wire::parse_ip(&on_wire.frame.bytes, ETHERNET, true).ok()?;
            (ip.protocol == wire::TCP).then(|| on_wire.frame.bytes[ip.payload.start + 13])
        })
    }
}

/// The byte at `offset` of the stream `seed`.
fn byte(seed: u64, offset: usize) -> u8 {
    let z = (offset as u64 ^ seed << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (z >> 56) as u8
}

/// One end of a conversation: streams `total` octets out, checks `total` octets in, then closes.
pub(super) struct Talker {
    pub(super) host: usize,
    pub(super) conn: ConnId,
    seeds: (u64, u64),
    total: usize,
    sent: usize,
    pub(super) received: usize,
    closed: bool,
}

impl Talker {
    pub(super) fn new(host: usize, conn: ConnId, seeds: (u64, u64), total: usize) -> Talker {
        Talker {
            host,
            conn,
            seeds,
            total,
            sent: 0,
            received: 0,
            closed: false,
        }
    }

    /// Do what can be done now.
    pub(super) fn talk(&mut self, net: &mut Net) {
        let (now, conn) = (net.now, self.conn);
        let stack = &mut net.hosts[self.host];
        let Some(connection) = stack.connection(conn) else {
            return;
        };
        let synchronized = connection.state().is_synchronized();
        let mut got = 0;
        while let Some(chunk) = connection.receive_peek(got) {
            for octet in &chunk {
                let expected = byte(self.seeds.1, self.received);
                assert_eq!(*octet, expected, "octet {} of the stream", self.received);
                self.received += 1;
            }
            got += chunk.len();
        }
        if got > 0 {
            stack.update(now, conn, |connection| connection.receive_consume(now, got));
        }
        let queued = stack.connection(conn).map_or(QUEUE, |c| c.send_queued());
        if synchronized && queued < QUEUE && self.sent < self.total {
            let length = (QUEUE - queued).min(self.total - self.sent);
            let range = self.sent..self.sent + length;
            let data: Vec<u8> = range.map(|at| byte(self.seeds.0, at)).collect();
            self.sent += length;
            let sent = stack.update(now, conn, |c| c.send(now, Bytes::from(data)));
            assert!(matches!(sent, Some(Ok(()))));
        }
        if self.sent == self.total && !self.closed {
            self.closed = true;
            stack.update(now, conn, |connection| connection.close(now));
        }
    }

    pub(super) fn done(&self) -> bool {
        self.received == self.total && self.closed
    }
}

/// Connect, and run a conversation of `total` octets each way; `each` is called at every step.
pub(super) fn converse(
    net: &mut Net,
    (client, server): (usize, usize),
    to: SocketAddr,
    total: usize,
    mut each: impl FnMut(&mut Net, &mut Talker),
) {
    let now = net.now;
    let conn = net.hosts[client]
        .connect(now, None, to)
        .expect("a connection");
    let limit = now + Duration::from_secs(120);
    while !net.events[server]
        .iter()
        .any(|e| matches!(e, StackEvent::Accepted { .. }))
    {
        assert!(net.step(limit), "no connection was accepted");
    }
    let accepted = net.accepted(server).unwrap();
    let mut here = Talker::new(client, conn, (1, 2), total);
    let mut there = Talker::new(server, accepted, (2, 1), total);
    while !(here.done() && there.done()) {
        here.talk(net);
        there.talk(net);
        each(net, &mut there);
        let progress = (here.received, there.received);
        assert!(net.step(limit), "stuck at {progress:?} of {total}");
    }
    assert_eq!(
        net.flags().filter(|flags| flags & RST != 0).count(),
        0,
        "a reset"
    );
}
