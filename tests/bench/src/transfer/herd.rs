//! Clients by the hundred thousand: like [`crate::scale::clients`], but of instances behind one
//! address, so they follow whoever announces it, and they check every octet they get.

use bytes::{Bytes, BytesMut};
use godwit_netstack::stack::{RxChecksum, RxFrame};
use godwit_netstack::{Duration, Instant};

use super::pair::{PORT, VIP};

/// The router between the clients and the instances.
pub const GATEWAY: [u8; 4] = [10, 0, 0, 1];
/// Octets of the Ethernet, IP and TCP headers of a segment with timestamps.
const HEADERS: usize = 14 + 20 + 32;
/// Octets of a request.
const REQUEST: usize = 64;
/// A request without an answer is sent again after this time.
const PATIENCE: Duration = Duration::from_millis(300);
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const PSH: u8 = 8;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// A SYN is out.
    Connecting,
    /// A request is out.
    Asking,
    /// Everything asked for is here.
    Content,
}

struct Client {
    state: State,
    /// Next sequence number to send and to be received.
    send: u32,
    receive: u32,
    asked: Instant,
    /// The timestamp of the last segment received, to be echoed.
    stamp: u32,
}

/// The clients.
pub struct Herd {
    clients: Vec<Client>,
    waiting: usize,
    ingress: Option<[u8; 6]>,
    sent: Vec<RxFrame>,
    block: BytesMut,
    /// The first so many clients ask again and again.
    busy: usize,
    /// Time between two requests of a busy one.
    pace: Duration,
    next_busy: usize,
    busy_at: Instant,
    looked_at: Instant,
    /// Answers received.
    pub answers: u64,
    /// Resets received.
    pub resets: u64,
    /// Requests sent again.
    pub repeated: u64,
    /// Segments that began after what was expected: something is missing.
    pub gaps: u64,
    /// Segments received before.
    pub duplicates: u64,
    /// Octets that are not what was sent.
    pub wrong: u64,
    /// The longest time an answer took.
    pub longest: Duration,
}

/// Octet `offset` of what a client sends, and gets back.
fn pattern(client: usize, offset: u32) -> u8 {
    (client as u32).wrapping_mul(31).wrapping_add(offset) as u8
}

fn word(octets: &[u8], at: usize) -> u32 {
    octets
        .get(at..at + 4)
        .and_then(|octets| octets.try_into().ok())
        .map_or(0, u32::from_be_bytes)
}

/// The timestamp of a segment that has one.
fn timestamp(frame: &[u8]) -> Option<u32> {
    let end = 34 + usize::from(frame.get(46)? >> 4) * 4;
    let mut at = 54;
    while at < end {
        at += match frame.get(at..)? {
            [8, 10, ..] => return Some(word(frame, at + 2)),
            [1, ..] => 1,
            [_, length, ..] if *length > 1 => usize::from(*length),
            _ => return None,
        };
    }
    None
}

impl Herd {
    /// The router's MAC address.
    pub const MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];

    /// Nobody yet.
    pub fn new() -> Herd {
        Herd {
            clients: Vec::new(),
            waiting: 0,
            ingress: None,
            sent: Vec::new(),
            block: BytesMut::new(),
            busy: 0,
            pace: Duration::ZERO,
            next_busy: 0,
            busy_at: Instant::ZERO,
            looked_at: Instant::ZERO,
            answers: 0,
            resets: 0,
            repeated: 0,
            gaps: 0,
            duplicates: 0,
            wrong: 0,
            longest: Duration::ZERO,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Whether somebody has announced the address.
    pub fn knows_ingress(&self) -> bool {
        self.ingress.is_some()
    }

    /// Whether nobody waits for anything.
    pub fn is_content(&self) -> bool {
        self.waiting == 0
    }

    /// What was seen, in words.
    pub fn summary(&self) -> String {
        format!(
            "{} answers, {} resets, {} requests repeated, {} segments missing, {} twice, {} octets \
             wrong, {} clients wait, longest answer {:.1} ms",
            self.answers,
            self.resets,
            self.repeated,
            self.gaps,
            self.duplicates,
            self.wrong,
            self.waiting,
            self.longest.as_nanos() as f64 / 1e6
        )
    }

    /// `count` more clients connect, each with one request.
    pub fn connect(&mut self, now: Instant, count: usize) {
        for _ in 0..count {
            let client = self.clients.len();
            self.clients.push(Client {
                state: State::Connecting,
                send: client as u32,
                receive: 0,
                asked: now,
                stamp: 0,
            });
            self.waiting += 1;
            self.send(client, SYN, 0);
        }
    }

    /// Let the first `count` clients send a request every `pace`.
    pub fn keep_busy(&mut self, now: Instant, count: usize, pace: Duration) {
        (self.busy, self.pace, self.busy_at, self.next_busy) = (count, pace, now, 0);
    }

    /// The frames sent since.
    pub fn take_sent(&mut self) -> Vec<RxFrame> {
        core::mem::take(&mut self.sent)
    }

    /// Ask what is due, and again what was not answered.
    pub fn handle_timeout(&mut self, now: Instant) {
        while self.busy > 0 && self.busy_at <= now {
            let client = self.next_busy;
            if self.clients[client].state == State::Content {
                self.ask(now, client);
            }
            self.next_busy = (client + 1) % self.busy;
            self.busy_at += Duration::from_nanos(self.pace.as_nanos() as u64 / self.busy as u64);
        }
        if self.waiting > 0 && now.since(self.looked_at) > PATIENCE / 4 {
            self.looked_at = now;
            for client in 0..self.clients.len() {
                self.repeat(now, client);
            }
        }
    }

    fn repeat(&mut self, now: Instant, client: usize) {
        let known = &mut self.clients[client];
        if known.state == State::Content || now.since(known.asked) < PATIENCE {
            return;
        }
        known.asked = now;
        self.repeated += 1;
        match known.state {
            State::Connecting => self.send(client, SYN, 0),
            _ => {
                known.send = known.send.wrapping_sub(REQUEST as u32);
                self.send(client, ACK | PSH, REQUEST);
            }
        }
    }

    fn ask(&mut self, now: Instant, client: usize) {
        self.clients[client].state = State::Asking;
        self.clients[client].asked = now;
        self.waiting += 1;
        self.send(client, ACK | PSH, REQUEST);
    }

    /// A frame from an instance.
    pub fn handle_frame(&mut self, now: Instant, frame: &[u8]) {
        match frame.get(12..14) {
            Some([8, 6]) => self.handle_arp(frame),
            Some([8, 0]) => self.handle_segment(now, frame),
            _ => {}
        }
    }

    fn handle_arp(&mut self, frame: &[u8]) {
        let (Some(sender), Some(target)) = (frame.get(22..32), frame.get(38..42)) else {
            return;
        };
        let (mac, ip) = sender.split_at(6);
        if ip == VIP {
            self.ingress = mac.try_into().ok();
        } else if target == GATEWAY {
            let mut reply = Vec::from(mac);
            reply.extend_from_slice(&Herd::MAC);
            reply.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
            reply.extend_from_slice(&Herd::MAC);
            reply.extend_from_slice(&GATEWAY);
            reply.extend_from_slice(sender);
            self.sent.push(RxFrame::new(reply));
        }
    }

    fn handle_segment(&mut self, now: Instant, frame: &[u8]) {
        let number = word(frame, 30).wrapping_sub(address(0)) as usize;
        let Some(&flags) = frame.get(47) else {
            return;
        };
        let Some(client) = self.clients.get_mut(number) else {
            return;
        };
        if flags & RST != 0 {
            self.resets += 1;
            return;
        }
        client.stamp = timestamp(frame).unwrap_or(client.stamp);
        let (seq, ack) = (word(frame, 38), word(frame, 42));
        let start = 34 + usize::from(frame[46] >> 4) * 4;
        let end = 14 + usize::from(u16::from_be_bytes([frame[16], frame[17]]));
        let payload = frame.get(start..end).unwrap_or_default();
        if flags & SYN != 0 && client.state == State::Connecting {
            client.receive = seq.wrapping_add(1);
            client.send = ack;
            client.state = State::Content;
            self.waiting -= 1;
            return self.ask(now, number);
        }
        let expected = client.receive;
        if payload.is_empty() {
            return;
        }
        if seq != expected {
            match seq.wrapping_sub(expected) as i32 {
                ..0 => self.duplicates += 1,
                _ => self.gaps += 1,
            }
            return self.send(number, ACK, 0);
        }
        // Answers come whole, so this is the end of what was asked.
        let offset = client.send.wrapping_sub(payload.len() as u32);
        let is_wrong =
            |(at, octet): (usize, &u8)| *octet != pattern(number, offset.wrapping_add(at as u32));
        self.wrong += payload
            .iter()
            .enumerate()
            .filter(|at| is_wrong(*at))
            .count() as u64;
        client.receive = expected.wrapping_add(payload.len() as u32);
        if client.state == State::Asking {
            client.state = State::Content;
            self.waiting -= 1;
            self.answers += 1;
            self.longest = self.longest.max(now.since(client.asked));
        }
        self.send(number, ACK, 0);
    }

    fn send(&mut self, number: usize, flags: u8, octets: usize) {
        let Some(ingress) = self.ingress else {
            return;
        };
        let client = &mut self.clients[number];
        let length = HEADERS + octets;
        if self.block.capacity() < length {
            self.block.reserve((256 * 1024).max(length));
        }
        let mut head = [0u8; HEADERS];
        head[..6].copy_from_slice(&ingress);
        head[6..12].copy_from_slice(&Herd::MAC);
        head[12..14].copy_from_slice(&[8, 0]);
        head[14..24].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6]);
        head[16..18].copy_from_slice(&((length - 14) as u16).to_be_bytes());
        head[26..30].copy_from_slice(&(address(number)).to_be_bytes());
        head[30..34].copy_from_slice(&VIP);
        let sum: u32 = head[14..34]
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        head[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        head[34..36].copy_from_slice(&1024u16.to_be_bytes());
        head[36..38].copy_from_slice(&PORT.to_be_bytes());
        head[38..42].copy_from_slice(&client.send.to_be_bytes());
        head[42..46].copy_from_slice(&client.receive.to_be_bytes());
        head[46..50].copy_from_slice(&[0x80, flags, 0xff, 0xff]);
        head[54..58].copy_from_slice(&[1, 1, 8, 10]);
        head[58..62].copy_from_slice(&1u32.to_be_bytes());
        head[62..66].copy_from_slice(&client.stamp.to_be_bytes());
        self.block.extend_from_slice(&head);
        for at in 0..octets {
            let offset = client.send.wrapping_add(at as u32);
            self.block.extend_from_slice(&[pattern(number, offset)]);
        }
        client.send = client.send.wrapping_add(octets as u32);
        let bytes: Bytes = self.block.split().freeze();
        let mut frame = RxFrame::new(bytes);
        frame.checksum = RxChecksum::Verified;
        self.sent.push(frame);
    }
}

fn address(client: usize) -> u32 {
    u32::from_be_bytes([11, 0, 0, 0]) + client as u32
}
