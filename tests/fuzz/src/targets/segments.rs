//! Segments at an established connection: fields near those that would be right, in any order.
//!
//! Input: one octet (bit 0: IPv6), then records of ten octets: milliseconds before it, what the
//! application does, flags, SEG.SEQ relative to RCV.NXT (two octets), SEG.ACK relative to SND.UNA
//! (two octets), window (one octet, times 256), payload (one octet, times 8), options.

use bytes::Bytes;
use godwit_netstack::seq::SeqNumber;
use godwit_netstack::stack::{ConnId, RxChecksum, RxFrame, Stack};
use godwit_netstack::tcp::Info;
use godwit_netstack::{Duration, Instant};

use super::Reader;
use crate::Target;
use crate::link::{CLIENT, PORT, Pair, SERVER, address, mac, transmit};

pub(crate) const TARGET: Target = Target {
    name: "segments",
    run,
    seeds,
};

const MAX_RECORDS: usize = 300;
/// TSval of what we send, in the client's place.
const TSVAL: u32 = 5_000;

fn run(input: &[u8]) {
    let mut reader = Reader(input);
    let ipv6 = reader.octet() & 1 != 0;
    let mut pair = Pair::new();
    let (client, conn) = pair.connect(ipv6);
    let Some(port) = pair.client.flow(client).map(|flow| flow.local.port()) else {
        return;
    };
    let mut now = pair.now;
    let mut stack = pair.server;
    for _ in 0..MAX_RECORDS {
        if reader.is_empty() {
            break;
        }
        let until = now + Duration::from_millis(reader.octet().into());
        let_time_pass(&mut stack, &mut now, until);
        let action = reader.octet();
        stack.update(now, conn, |tcp| match action % 8 {
            1 => tcp.receive_consume(now, tcp.receive_available()),
            2 => tcp.close(now),
            3 => {
                let data = Bytes::from(vec![action; usize::from(action) * 64]);
                let _ = tcp.send(now, data);
            }
            4 => tcp.hold_window(action & 8 != 0),
            5 if action == 0xfd => tcp.abort(now),
            _ => {}
        });
        transmit(&mut stack, now);
        let Some(info) = stack.connection(conn).map(|tcp| tcp.info()) else {
            break;
        };
        let frame = frame(&mut reader, ipv6, port, &info);
        stack.handle_frame(now, frame);
        check(&stack, conn);
        transmit(&mut stack, now);
        while stack.poll_event().is_some() {}
    }
    let until = now + Duration::from_secs(3_600);
    let_time_pass(&mut stack, &mut now, until);
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
    let most = stack.tcp_config().receive_buffer as usize;
    assert!(
        tcp.receive_available() + info.out_of_order as usize <= most + most / 8 + 1,
        "more kept than was promised"
    );
    assert!(
        info.snd_una == info.snd_nxt || info.snd_nxt.after(info.snd_una),
        "SND.NXT before SND.UNA"
    );
}

/// A segment as the record says, in a frame from the client whose checksum the device vouches for.
fn frame(reader: &mut Reader<'_>, ipv6: bool, port: u16, info: &Info) -> RxFrame {
    let flags = reader.octet();
    let near = |base: SeqNumber, delta: u16| match delta as i16 {
        ahead @ 0.. => base.add(u32::from(ahead.unsigned_abs())),
        behind => base.sub(u32::from(behind.unsigned_abs())),
    };
    let seq = near(info.rcv_nxt, reader.word());
    let ack = near(info.snd_una, reader.word());
    let window = u16::from(reader.octet()) << 8;
    let payload = vec![0x77; usize::from(reader.octet()) * 8];
    let options = options(reader.octet(), seq, info);
    let mut tcp = Vec::new();
    tcp.extend(port.to_be_bytes());
    tcp.extend(PORT.to_be_bytes());
    tcp.extend(number(seq).to_be_bytes());
    tcp.extend(number(ack).to_be_bytes());
    tcp.push((((20 + options.len()) / 4) << 4) as u8);
    tcp.push(flags);
    tcp.extend(window.to_be_bytes());
    tcp.extend([0; 4]);
    tcp.extend(options);
    tcp.extend(payload);
    let mut frame = [mac(SERVER), mac(CLIENT)].concat();
    match (address(CLIENT + 10, ipv6), address(SERVER, ipv6)) {
        (std::net::IpAddr::V4(from), std::net::IpAddr::V4(to)) => {
            frame.extend([0x08, 0x00, 0x45, flags >> 6]);
            frame.extend((20 + tcp.len() as u16).to_be_bytes());
            frame.extend([0, 0, 0, 0, 64, 6, 0, 0]);
            frame.extend(from.octets());
            frame.extend(to.octets());
            let sum: u32 = frame[14..34]
                .chunks(2)
                .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
                .sum();
            let folded = (sum & 0xffff) + (sum >> 16);
            let folded = (folded & 0xffff) + (folded >> 16);
            frame[24..26].copy_from_slice(&(!(folded as u16)).to_be_bytes());
        }
        (std::net::IpAddr::V6(from), std::net::IpAddr::V6(to)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((tcp.len() as u16).to_be_bytes());
            frame.extend([6, 64]);
            frame.extend(from.octets());
            frame.extend(to.octets());
        }
        _ => {}
    }
    frame.extend(tcp);
    let mut frame = RxFrame::new(frame);
    frame.checksum = RxChecksum::Verified;
    frame
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
        out.extend(number(seq).to_be_bytes());
    }
    if which & 4 != 0 {
        let from = info.snd_una.add(u32::from(which >> 3) * 500);
        out.extend([1, 1, 5, 10]);
        out.extend(number(from).to_be_bytes());
        out.extend(number(from.add(700)).to_be_bytes());
    }
    out
}

/// A sequence number as it is on the wire.
fn number(seq: SeqNumber) -> u32 {
    let base = SeqNumber::new(0);
    seq.distance_from(base)
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
        record(50, 0, 0x10, 0, 2_000, 10, 100, 5),
        record(5, 0, 0x04, 30, 0, 0, 0, 1),
        record(5, 2, 0x11, 0, 3_000, 255, 0, 1),
        record(255, 0, 0x10, 1, 3_001, 255, 0, 1),
    ];
    let probe = [
        record(1, 11, 0x10, 0, 0, 0, 0, 1),
        record(255, 4, 0x10, -1, 0, 0, 0, 1),
        record(255, 0, 0x18, 0, 0, 1, 1, 3),
        record(1, 0, 0x02, 5, 0, 255, 0, 0),
    ];
    let mut seeds = Vec::new();
    for ipv6 in [0, 1] {
        seeds.push([&[ipv6], talk.concat().as_slice()].concat());
        seeds.push([&[ipv6], probe.concat().as_slice()].concat());
    }
    seeds
}
