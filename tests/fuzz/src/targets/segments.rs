//! Segments and ICMP errors at an established connection: fields near those that would be right, in
//! any order, with the connection moved between them.
//!
//! Input: two octets of choices ([`Choices`]), then records of ten octets: milliseconds before it,
//! what the application does ([`act`]), flags, SEG.SEQ relative to RCV.NXT (two octets), SEG.ACK
//! relative to SND.UNA (two octets), window (one octet, times 256), payload (one octet, times 8),
//! options. For an ICMP error: type, quoted number relative to SND.UNA, code, MTU over 8.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use godwit_netstack::migrate::capsule::{Capsule, CapsuleConnection};
use godwit_netstack::seq::SeqNumber;
use godwit_netstack::session::SessionId;
use godwit_netstack::stack::{ConnId, FlowKey, Route, RxChecksum, RxFrame, Stack};
use godwit_netstack::tcp::{CongestionAlgorithm, Connection, EcnMode, Info, Keepalive, TcpConfig};
use godwit_netstack::{Duration, Instant};

use super::Reader;
use crate::Target;
use crate::link::{CLIENT, Pair, SERVER, mac, transmit};

pub(crate) const TARGET: Target = Target {
    name: "segments",
    run,
    seeds,
};

const MAX_RECORDS: usize = 300;
/// TSval of what we send, in the peer's place.
const TSVAL: u32 = 5_000;

/// What the first two octets choose.
#[derive(Clone, Copy)]
struct Choices(u8, u8);

impl Choices {
    fn ipv6(self) -> bool {
        self.0 & 1 != 0
    }

    /// Whether the end that opened the connection is looked at.
    fn active(self) -> bool {
        self.0 & 2 != 0
    }

    fn tcp(self) -> TcpConfig {
        let Choices(first, second) = self;
        let mut tcp = TcpConfig {
            sack: first & 4 == 0,
            timestamps: first & 8 == 0,
            ..TcpConfig::default()
        };
        if first & 0x10 != 0 {
            tcp.socket.ecn = EcnMode::Request;
        }
        if first & 0x20 != 0 {
            tcp.congestion = CongestionAlgorithm::NewReno;
        }
        if first & 0x40 != 0 {
            tcp.receive_buffer = 8 * 1024;
            tcp.max_receive_buffer = 8 * 1024;
        }
        tcp.socket.nagle = first & 0x80 != 0;
        if second & 1 != 0 {
            tcp.socket.keepalive = Some(Keepalive {
                idle: Duration::from_millis(500),
                interval: Duration::from_millis(100),
                probes: 3,
            });
        }
        if second & 2 != 0 {
            tcp.socket.user_timeout = Some(Duration::from_secs(2));
        }
        tcp.socket.exchange_user_timeout = second & 4 != 0;
        if second & 8 != 0 {
            tcp.memory = 40 * 1024;
        }
        if second & 0x10 != 0 {
            tcp.socket.ack_delay = Duration::ZERO;
        }
        tcp.socket.mtu_probing = second & 0x20 == 0;
        tcp
    }
}

fn run(input: &[u8]) {
    let mut reader = Reader(input);
    let choices = Choices(reader.octet(), reader.octet());
    let mut pair = Pair::with(&choices.tcp());
    let (client, server) = pair.connect(choices.ipv6());
    let mut now = pair.now;
    let (us, mut stack, mut conn) = match choices.active() {
        true => (CLIENT, pair.client, client),
        false => (SERVER, pair.server, server),
    };
    for _ in 0..MAX_RECORDS {
        if reader.is_empty() {
            break;
        }
        let until = now + Duration::from_millis(reader.octet().into());
        let_time_pass(&mut stack, &mut now, until);
        let action = reader.octet();
        let Some(moved) = act(&mut stack, now, conn, action) else {
            break;
        };
        conn = moved;
        transmit(&mut stack, now);
        let (Some(info), Some(flow)) = (
            stack.connection(conn).map(|tcp| tcp.info()),
            stack.flow(conn),
        ) else {
            break;
        };
        let octets = match action % 8 {
            7 => icmp_error(&mut reader, us, flow, &info),
            _ => segment(&mut reader, us, flow, &info),
        };
        let mut frame = RxFrame::new(octets);
        frame.checksum = RxChecksum::Verified;
        stack.handle_frame(now, frame);
        check(&stack, conn);
        transmit(&mut stack, now);
        while stack.poll_event().is_some() {}
    }
    let until = now + Duration::from_secs(3_600);
    let_time_pass(&mut stack, &mut now, until);
}

/// What the application, or who moves its connection, does. `None` if nothing is left of it.
fn act(stack: &mut Stack, now: Instant, conn: ConnId, action: u8) -> Option<ConnId> {
    if action % 8 == 6 {
        return moved(stack, now, conn);
    }
    stack.update(now, conn, |tcp| match action % 8 {
        1 => tcp.receive_consume(now, tcp.receive_available()),
        2 if action == 0xfa => tcp.release(now),
        2 => tcp.close(now),
        3 => {
            let data = Bytes::from(vec![action; usize::from(action) * 64]);
            let _ = tcp.send(now, data);
        }
        4 => tcp.hold_window(action & 8 != 0),
        5 if action == 0xfd => tcp.abort(now),
        _ => {}
    });
    Some(conn)
}

/// Take the connection out, through a capsule, and put it in again.
fn moved(stack: &mut Stack, now: Instant, conn: ConnId) -> Option<ConnId> {
    let tcp = stack.connection(conn)?;
    if !tcp.state().is_synchronized() || tcp.error().is_some() {
        return Some(conn);
    }
    let (tcp, next_hop) = stack.detach(now, conn, Route::Hold)?;
    let flow = tcp.flow();
    let capsule = Capsule {
        session: SessionId {
            origin: 1,
            number: 2,
        },
        epoch: 3,
        service: "segments".into(),
        state: None,
        finished: false,
        connections: vec![CapsuleConnection {
            next_hop,
            end_read: false,
            shut_down: false,
            ahead: Default::default(),
            tcp: tcp.export(now),
        }],
    };
    let octets = capsule.encode().expect("what is here can be described");
    let mut capsule = Capsule::decode(octets).expect("what we describe can be read");
    let tcp = capsule.connections.pop().expect("one connection").tcp;
    let config = stack.tcp_config().clone();
    let tcp = Connection::import(tcp, now, &config, 1500).expect("what we describe can go on");
    stack.clear_route(now, &flow);
    stack.attach(now, tcp, next_hop).ok()
}

fn let_time_pass(stack: &mut Stack, now: &mut Instant, until: Instant) {
    for _ in 0..10_000 {
        let Some(due) = stack.poll_timeout().filter(|due| *due <= until) else {
            break;
        };
        *now = (*now).max(due) + Duration::from_micros(1);
        stack.handle_timeout(*now);
        transmit(stack, *now);
        while stack.poll_event().is_some() {}
    }
    *now = (*now).max(until);
}

/// What must hold whatever came.
fn check(stack: &Stack, conn: ConnId) {
    let Some(tcp) = stack.connection(conn) else {
        return;
    };
    let info = tcp.info();
    let most = stack.tcp_config().max_receive_buffer as usize;
    assert!(
        tcp.receive_available() + info.out_of_order as usize <= most + most / 8 + 1,
        "more kept than was promised"
    );
    assert!(
        info.snd_una == info.snd_nxt || info.snd_nxt.after(info.snd_una),
        "SND.NXT before SND.UNA"
    );
    assert!(info.cwnd > 0, "nothing may ever be sent again");
}

/// `delta` numbers from `base`, either way.
fn near(base: SeqNumber, delta: u16) -> SeqNumber {
    match delta as i16 {
        ahead @ 0.. => base.add(u32::from(ahead.unsigned_abs())),
        behind => base.sub(u32::from(behind.unsigned_abs())),
    }
}

/// A frame from the peer with a segment as the record says.
fn segment(reader: &mut Reader<'_>, us: u8, flow: FlowKey, info: &Info) -> Vec<u8> {
    let flags = reader.octet();
    let seq = near(info.rcv_nxt, reader.word());
    let ack = near(info.snd_una, reader.word());
    let window = u16::from(reader.octet()) << 8;
    let payload = vec![0x77; usize::from(reader.octet()) * 8];
    let options = options(reader.octet(), seq, info);
    let mut tcp = tcp_start(flow.remote, flow.local, seq);
    tcp.extend(ack.raw().to_be_bytes());
    tcp.push((((20 + options.len()) / 4) << 4) as u8);
    tcp.push(flags);
    tcp.extend(window.to_be_bytes());
    tcp.extend([0; 4]);
    tcp.extend(options);
    tcp.extend(payload);
    let mut frame = ethernet(us, flow.local.ip());
    ip(
        &mut frame,
        flow.remote.ip(),
        flow.local.ip(),
        (6, flags >> 6),
        &tcp,
    );
    frame
}

/// A frame from a router with an error about a segment near those in flight.
fn icmp_error(reader: &mut Reader<'_>, us: u8, flow: FlowKey, info: &Info) -> Vec<u8> {
    let kind = reader.octet();
    let _ = reader.word();
    let quoted = near(info.snd_una, reader.word());
    let (code, mtu) = (reader.octet(), u16::from(reader.octet()) * 8);
    let _ = reader.octet();
    let tcp = tcp_start(flow.local, flow.remote, quoted);
    let mut quote = Vec::new();
    ip(&mut quote, flow.local.ip(), flow.remote.ip(), (6, 0), &tcp);
    let v4 = flow.local.is_ipv4();
    let [m0, m1] = mtu.to_be_bytes();
    let mut message = match (v4, kind % 4) {
        (true, 0) => vec![3, 4, 0, 0, 0, 0, m0, m1],
        (false, 0) => vec![2, 0, 0, 0, 0, 0, m0, m1],
        (true, 1) => vec![3, code, 0, 0, 0, 0, m0, m1],
        (false, 1) => vec![1, code, 0, 0, 0, 0, 0, 0],
        (true, 2) => vec![11, code, 0, 0, 0, 0, 0, 0],
        (false, 2) => vec![3, code, 0, 0, 0, 0, 0, 0],
        _ => vec![kind, code, 0, 0, m0, m1, m0, m1],
    };
    message.extend(quote);
    let router = match v4 {
        true => IpAddr::from([10, 77, 0, 1]),
        false => IpAddr::from([0xfd77, 0, 0, 0, 0, 0, 0, 0xff]),
    };
    let protocol = match v4 {
        true => 1,
        false => 58,
    };
    let pseudo = match v4 {
        true => Vec::new(),
        false => pseudo_header(router, flow.local.ip(), protocol, message.len()),
    };
    let sum = checksum(&[&pseudo[..], &message].concat());
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = ethernet(us, flow.local.ip());
    ip(&mut frame, router, flow.local.ip(), (protocol, 0), &message);
    frame
}

/// Ports and sequence number: what every segment begins with, and what errors quote.
fn tcp_start(from: SocketAddr, to: SocketAddr, seq: SeqNumber) -> Vec<u8> {
    let mut tcp = Vec::new();
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend(seq.raw().to_be_bytes());
    tcp
}

fn ethernet(us: u8, address: IpAddr) -> Vec<u8> {
    let them = SERVER + CLIENT - us;
    let mut frame = [mac(us), mac(them)].concat();
    frame.extend(match address {
        IpAddr::V4(_) => [0x08, 0x00],
        IpAddr::V6(_) => [0x86, 0xdd],
    });
    frame
}

/// Add an IP packet of this protocol and ECN codepoint.
fn ip(out: &mut Vec<u8>, from: IpAddr, to: IpAddr, (protocol, ecn): (u8, u8), body: &[u8]) {
    let start = out.len();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            out.extend([0x45, ecn]);
            out.extend((20 + body.len() as u16).to_be_bytes());
            out.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            out.extend(from.octets());
            out.extend(to.octets());
            let sum = checksum(&out[start..]);
            out[start + 10..start + 12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            out.extend([0x60, ecn << 4, 0, 0]);
            out.extend((body.len() as u16).to_be_bytes());
            out.extend([protocol, 64]);
            out.extend(from.octets());
            out.extend(to.octets());
        }
        _ => {}
    }
    out.extend(body);
}

fn pseudo_header(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for address in [from, to] {
        match address {
            IpAddr::V4(address) => out.extend(address.octets()),
            IpAddr::V6(address) => out.extend(address.octets()),
        }
    }
    out.extend((length as u32).to_be_bytes());
    out.extend([0, 0, 0, protocol]);
    out
}

fn checksum(octets: &[u8]) -> u16 {
    let words = octets.chunks(2);
    let sum: u32 = words
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// Options by number: none, timestamps, timestamps that run backwards, SACK of something.
fn options(which: u8, seq: SeqNumber, info: &Info) -> Vec<u8> {
    let mut out = Vec::new();
    if which & 1 != 0 {
        let value = match which & 2 {
            0 => TSVAL + u32::from(which),
            _ => TSVAL.wrapping_sub(u32::from(which) << 8),
        };
        out.extend([1, 1, 8, 10]);
        out.extend(value.to_be_bytes());
        out.extend(seq.raw().to_be_bytes());
    }
    if which & 4 != 0 {
        let from = info.snd_una.add(u32::from(which >> 3) * 500);
        out.extend([1, 1, 5, 10]);
        out.extend(from.raw().to_be_bytes());
        out.extend(from.add(700).raw().to_be_bytes());
    }
    out
}

fn seeds() -> Vec<Vec<u8>> {
    // Data in order and out of order, acknowledgements, closing, a reset that misses.
    let record = |ms: u8, action, flags, seq: i16, ack: u16, window, payload, options| {
        let mut record = vec![ms, action, flags];
        record.extend(seq.to_le_bytes());
        record.extend(ack.to_le_bytes());
        record.extend([window, payload, options]);
        record
    };
    let talk = [
        record(1, 3, 0x10, 0, 0, 255, 100, 1),
        record(1, 1, 0x10, 800, 1_448, 255, 50, 1),
        record(50, 6, 0x10, 0, 2_000, 10, 100, 5),
        record(5, 0, 0x04, 30, 0, 0, 0, 1),
        record(5, 2, 0x11, 0, 3_000, 255, 0, 1),
        record(255, 0, 0x10, 1, 3_001, 255, 0, 1),
    ];
    let probe = [
        record(1, 11, 0x10, 0, 0, 0, 0, 1),
        record(255, 4, 0x10, -1, 0, 0, 0, 1),
        record(255, 6, 0x18, 0, 0, 1, 1, 3),
        record(1, 0, 0x02, 5, 0, 255, 0, 0),
    ];
    let errors = [
        record(1, 0xfb, 0x10, 0, 0, 255, 0, 1),
        record(1, 7, 0, 0, 0, 0, 160, 0),
        record(1, 7, 1, 0, 0, 3, 0, 0),
        record(20, 6, 0x10, 0, 1_448, 255, 0, 0x0d),
        record(1, 7, 2, 0, 30_000, 0, 0, 0),
        record(1, 3, 0xd0, 0, 2_896, 255, 20, 1),
    ];
    let mut seeds = Vec::new();
    for choices in [
        [0, 0],
        [1, 0],
        [2, 0],
        [0x0d, 1],
        [0x32, 6],
        [0xc1, 0x1a],
        [0x10, 0x21],
    ] {
        for records in [&talk[..], &probe, &errors] {
            seeds.push([&choices[..], records.concat().as_slice()].concat());
        }
    }
    seeds
}
