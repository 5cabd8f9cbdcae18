//! Clients without a stack: their segments are made by hand, and all they remember is a sequence
//! number. So a million of them cost next to nothing.

use std::net::{IpAddr, Ipv4Addr};
use std::time;

use bytes::{Bytes, BytesMut};
use godwit_netstack::Instant;
use godwit_netstack::stack::{
    Cidr, ConnId, RxChecksum, RxFrame, Scope, Stack, StackConfig, StackEvent, TxFrame,
};
use godwit_netstack::tcp::TcpConfig;

const SERVER: [u8; 4] = [10, 0, 0, 2];
const GATEWAY: [u8; 4] = [10, 0, 0, 1];
const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PORT: u16 = 80;
/// Octets of the Ethernet, IP and TCP headers of a segment with timestamps.
const HEADERS: usize = 14 + 20 + 32;
/// Handshakes under way at once.
const BATCH: usize = 64;
const SYN: u8 = 2;
const ACK: u8 = 16;
const PSH: u8 = 8;

/// A server with many connections, and their clients.
pub struct Crowd {
    started: time::Instant,
    /// The server.
    pub stack: Stack,
    /// Its connections, by client.
    pub conns: Vec<ConnId>,
    /// Each client's next sequence number and the server's.
    numbers: Vec<(u32, u32)>,
    block: BytesMut,
}

impl Crowd {
    /// A server that knows its gateway: with one connection.
    pub fn new() -> Crowd {
        let config = StackConfig {
            mac: SERVER_MAC,
            mtu: 1500,
            capabilities: Default::default(),
            addresses: vec![Cidr {
                address: IpAddr::from(SERVER),
                prefix: 24,
            }],
            gateways: vec![IpAddr::from(GATEWAY)],
            dhcp: false,
            vips: Vec::new(),
            instance: None,
            secret: [7; 32],
            tcp: TcpConfig {
                max_connections: 2_000_000,
                ..TcpConfig::default()
            },
        };
        let mut stack = Stack::new(config, [9; 32], Instant::ZERO);
        stack.listen(PORT, Scope::Own);
        let mut crowd = Crowd {
            started: time::Instant::now(),
            stack,
            conns: Vec::new(),
            numbers: Vec::new(),
            block: BytesMut::new(),
        };
        crowd.grow(1);
        crowd
    }

    /// The time.
    pub fn now(&self) -> Instant {
        Instant::from_nanos(self.started.elapsed().as_nanos() as u64)
    }

    /// Let `count` more clients connect.
    pub fn grow(&mut self, count: usize) {
        let end = self.conns.len() + count;
        while self.conns.len() < end {
            let first = self.conns.len();
            let batch = first..end.min(first + BATCH);
            let now = self.now();
            let mut frames = Vec::with_capacity(BATCH);
            for client in batch.clone() {
                self.numbers.push((client as u32, 0));
                frames.push(self.segment(client, SYN, 0));
            }
            self.stack.handle_frames(now, frames.drain(..));
            while let Some(frame) = self.stack.poll_transmit(now) {
                self.answer(now, &frame, &mut frames);
            }
            self.stack.handle_frames(now, frames.drain(..));
            while let Some(event) = self.stack.poll_event() {
                if let StackEvent::Accepted { conn, .. } = event {
                    self.conns.push(conn);
                }
            }
            while self.stack.poll_transmit(now).is_some() {}
            assert_eq!(self.conns.len(), batch.end, "a handshake failed");
        }
    }

    /// Answer what the server sent: its question where the gateway is, or a SYN-ACK.
    fn answer(&mut self, now: Instant, frame: &TxFrame, answers: &mut Vec<RxFrame>) {
        let head = &frame.head;
        if head[12..14] == [8, 6] {
            let mut reply = Vec::from(SERVER_MAC);
            reply.extend_from_slice(&GATEWAY_MAC);
            reply.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
            reply.extend_from_slice(&GATEWAY_MAC);
            reply.extend_from_slice(&GATEWAY);
            reply.extend_from_slice(&SERVER_MAC);
            reply.extend_from_slice(&SERVER);
            return self.stack.handle_frame(now, RxFrame::new(reply));
        }
        let word =
            |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let client = (word(30) - address(0)) as usize / 4 * 4
            + usize::from(u16::from_be_bytes([head[36], head[37]]) - 1024);
        self.numbers[client] = (client as u32 + 1, word(38).wrapping_add(1));
        answers.push(self.segment(client, ACK, 0));
    }

    /// A segment of `client` with `octets` of payload.
    pub fn segment(&mut self, client: usize, flags: u8, octets: usize) -> RxFrame {
        let length = HEADERS + octets;
        if self.block.capacity() < length {
            self.block.reserve((256 * 1024).max(length));
        }
        let (seq, ack) = self.numbers[client];
        let mut head = [0u8; HEADERS];
        head[..6].copy_from_slice(&SERVER_MAC);
        head[6..12].copy_from_slice(&GATEWAY_MAC);
        head[12..14].copy_from_slice(&[8, 0]);
        head[14..24].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6]);
        head[16..18].copy_from_slice(&((length - 14) as u16).to_be_bytes());
        head[26..30].copy_from_slice(&address(client / 4 * 4).to_be_bytes());
        head[30..34].copy_from_slice(&SERVER);
        let sum: u32 = head[14..34]
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        head[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        head[34..36].copy_from_slice(&(1024 + (client % 4) as u16).to_be_bytes());
        head[36..38].copy_from_slice(&PORT.to_be_bytes());
        head[38..42].copy_from_slice(&seq.to_be_bytes());
        head[42..46].copy_from_slice(&ack.to_be_bytes());
        head[46..50].copy_from_slice(&[0x80, flags, 0xff, 0xff]);
        head[54..58].copy_from_slice(&[1, 1, 8, 10]);
        head[58..62].copy_from_slice(&1u32.to_be_bytes());
        self.block.extend_from_slice(&head);
        self.block.resize(length, 0);
        self.numbers[client].0 = seq.wrapping_add(octets as u32);
        let bytes: Bytes = self.block.split().freeze();
        let mut frame = RxFrame::new(bytes);
        frame.checksum = RxChecksum::Verified;
        frame
    }

    /// A segment with data.
    pub fn data(&mut self, client: usize, octets: usize) -> RxFrame {
        self.segment(client, ACK | PSH, octets)
    }
}

/// The address of a client: four share one, with ports of their own.
fn address(client: usize) -> u32 {
    Ipv4Addr::new(11, 0, 0, 0).to_bits() + client as u32
}
