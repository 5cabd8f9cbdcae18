//! Datagrams: answers of a DHCP server (or whoever says so) to a stack that asks for an address, and
//! whatever else comes over UDP, which a socket here takes.
//!
//! Input: datagrams, each preceded by the tenths of a second before it (one octet), flags (one octet:
//! bit 0 sends it from and to the ports of DHCP, bit 1 puts in the transaction and the hardware
//! address the stack asked with, bit 2 sends it to everyone, bit 3 from another server) and its
//! length (two octets, little endian).

use godwit_netstack::stack::{RxChecksum, RxFrame, Stack};
use godwit_netstack::tcp::TcpConfig;
use godwit_netstack::{Duration, Instant};

use super::Reader;
use crate::Target;
use crate::link::{CLIENT, SERVER, config, mac, transmit};

pub(crate) const TARGET: Target = Target {
    name: "datagrams",
    run,
    seeds,
};

const MAX_DATAGRAMS: usize = 100;
/// Where the stack's socket is.
const PORT: u16 = 514;
/// Where a DHCP message starts in a frame, and its transaction and hardware address in that.
const MESSAGE: usize = 14 + 20 + 8;
const TRANSACTION: std::ops::Range<usize> = 4..8;
const HARDWARE: std::ops::Range<usize> = 28..34;

fn run(input: &[u8]) {
    let mut reader = Reader(input);
    let mut now = Instant::from_millis(1_000);
    let mut config = config(SERVER, TcpConfig::default());
    config.addresses.clear();
    config.vips.clear();
    config.dhcp = true;
    let mut stack = Stack::new(config, [SERVER; 32], now);
    let socket = stack.udp_bind(PORT).expect("a free port");
    let mut transaction = [0; 4];
    for _ in 0..MAX_DATAGRAMS {
        if reader.is_empty() {
            break;
        }
        let until = now + Duration::from_millis(100 * u64::from(reader.octet()));
        let_time_pass(&mut stack, &mut now, until, &mut transaction);
        let flags = reader.octet();
        let length = usize::from(reader.word());
        let mut message = reader.slice(length).to_vec();
        if flags & 2 != 0 && message.len() >= HARDWARE.end {
            message[TRANSACTION].copy_from_slice(&transaction);
            message[HARDWARE].copy_from_slice(&mac(SERVER));
        }
        let mut frame = RxFrame::new(datagram(flags, &message));
        frame.checksum = RxChecksum::Verified;
        stack.handle_frame(now, frame);
        while let Some((from, data)) = stack.udp_receive(socket) {
            stack.udp_send(now, socket, from, &data);
        }
        learn(&mut stack, now, &mut transaction);
    }
    let until = now + Duration::from_secs(100_000);
    let_time_pass(&mut stack, &mut now, until, &mut transaction);
}

fn let_time_pass(stack: &mut Stack, now: &mut Instant, until: Instant, transaction: &mut [u8; 4]) {
    for _ in 0..1_000 {
        let Some(due) = stack.poll_timeout().filter(|due| *due <= until) else {
            break;
        };
        *now = (*now).max(due) + Duration::from_micros(1);
        stack.handle_timeout(*now);
        learn(stack, *now, transaction);
    }
    *now = (*now).max(until);
}

/// Send what there is, and see under which transaction the stack asks.
fn learn(stack: &mut Stack, now: Instant, transaction: &mut [u8; 4]) {
    while stack.poll_event().is_some() {}
    for frame in transmit(stack, now) {
        let asks = frame.get(34..38) == Some(&[0, 68, 0, 67]);
        if let Some(found) = frame.get(MESSAGE..).and_then(|m| m.get(TRANSACTION))
            && asks
        {
            transaction.copy_from_slice(found);
        }
    }
}

/// An Ethernet frame with an UDP datagram over IPv4. Its checksum is not looked at.
fn datagram(flags: u8, message: &[u8]) -> Vec<u8> {
    let target = match flags & 4 {
        0 => mac(SERVER),
        _ => [0xff; 6],
    };
    let (from, to) = match flags & 1 {
        0 => (4_000u16, PORT),
        _ => (67, 68),
    };
    let server = [10, 77, 0, 1 + (flags >> 3 & 1)];
    let length = 8 + message.len() as u16;
    let mut frame = [target, mac(CLIENT)].concat();
    frame.extend([0x08, 0x00, 0x45, 0]);
    frame.extend((20 + length).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend(server);
    frame.extend([255; 4]);
    let sum: u32 = frame[14..34]
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    frame[24..26].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    frame.extend(from.to_be_bytes());
    frame.extend(to.to_be_bytes());
    frame.extend(length.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(message);
    frame
}

/// An offer or an acknowledgement of 10.77.0.50 for `lease` seconds.
fn reply(kind: u8, lease: u8) -> Vec<u8> {
    let mut reply = vec![2, 1, 6, 0];
    reply.extend([0; 12]);
    reply.extend([10, 77, 0, 50, 10, 77, 0, 1, 0, 0, 0, 0]);
    reply.resize(236, 0);
    reply.extend([99, 130, 83, 99, 53, 1, kind]);
    reply.extend([54, 4, 10, 77, 0, 1, 51, 4, 0, 0, 0, lease]);
    reply.extend([1, 4, 255, 255, 255, 0, 3, 4, 10, 77, 0, 1]);
    reply.extend([6, 4, 10, 77, 0, 1, 255]);
    reply
}

fn seeds() -> Vec<Vec<u8>> {
    let record = |tenths: u8, flags: u8, message: &[u8]| {
        let mut record = vec![tenths, flags];
        record.extend((message.len() as u16).to_le_bytes());
        record.extend(message);
        record
    };
    let leased = [
        record(30, 7, &reply(2, 60)),
        record(5, 7, &reply(5, 60)),
        record(255, 7, &reply(5, 120)),
        record(255, 7, &reply(6, 0)),
    ];
    let rivals = [
        record(30, 7, &reply(2, 255)),
        record(0, 15, &reply(2, 10)),
        record(5, 3, &reply(5, 1)),
        record(1, 0, b"a message of no importance"),
    ];
    vec![leased.concat(), rivals.concat(), record(0, 4, b"x")]
}
