//! What a flood of SYNs costs in memory, counted where memory is handed out. A test of its own, as
//! an allocator is for the whole process; it counts for each thread, since the test runner has others.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::IpAddr;

use bytes::Bytes;
use godwit_engine::Instant;
use godwit_engine::stack::{Cidr, RxChecksum, RxFrame, Scope, Stack, StackConfig};
use godwit_engine::tcp::TcpConfig;

/// The system's allocator, with a count of what was asked for and of what is held.
struct Counting;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
    static HELD: Cell<i64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it is; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.set(ASKED.get() + 1);
        HELD.set(HELD.get() + layout.size() as i64);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.set(HELD.get() - layout.size() as i64);
        // SAFETY: `pointer` came from `System.alloc` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SERVER: [u8; 4] = [10, 0, 0, 2];
const GATEWAY: [u8; 4] = [10, 0, 0, 1];
const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Octets of a SYN with an MSS: Ethernet, IPv4, TCP.
const SYN: usize = 14 + 20 + 24;

fn sum(octets: &[u8]) -> [u8; 2] {
    let mut sum: u32 = octets
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// A SYN by way of the gateway from the stranger `from`; its TCP checksum counts as verified.
fn syn(from: u32) -> [u8; SYN] {
    let mut frame = [0; SYN];
    frame[..6].copy_from_slice(&SERVER_MAC);
    frame[6..12].copy_from_slice(&GATEWAY_MAC);
    frame[12..14].copy_from_slice(&[8, 0]);
    let ip = &mut frame[14..34];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&44u16.to_be_bytes());
    ip[8] = 64;
    ip[9] = 6;
    // 11.0.0.0 and on: not on our link.
    ip[12..16].copy_from_slice(&(0x0b00_0000 + from).to_be_bytes());
    ip[16..20].copy_from_slice(&SERVER);
    let checksum = sum(ip);
    frame[24..26].copy_from_slice(&checksum);
    let tcp = &mut frame[34..];
    tcp[..2].copy_from_slice(&(1024 + (from % 60_000) as u16).to_be_bytes());
    tcp[2..4].copy_from_slice(&80u16.to_be_bytes());
    tcp[4..8].copy_from_slice(&from.to_be_bytes());
    tcp[12] = 6 << 4;
    tcp[13] = 2;
    tcp[14..16].copy_from_slice(&[0xff, 0xff]);
    tcp[20..24].copy_from_slice(&[2, 4, 5, 0xb4]);
    frame
}

/// The gateway says where it is.
fn arp() -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(SERVER_MAC);
    frame.extend(GATEWAY_MAC);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(GATEWAY_MAC);
    frame.extend(GATEWAY);
    frame.extend([0; 6]);
    frame.extend(SERVER);
    frame
}

/// Hand over SYNs of the strangers `from`, and take what is answered. Returns how many answers.
fn flood(stack: &mut Stack, octets: &Bytes, from: std::ops::Range<usize>) -> usize {
    let mut answers = 0;
    for n in from {
        let now = Instant::from_millis(n as u64 / 1000);
        let mut frame = RxFrame::new(octets.slice(n * SYN..(n + 1) * SYN));
        frame.checksum = RxChecksum::Verified;
        stack.handle_frame(now, frame);
        while stack.poll_transmit(now).is_some() {
            answers += 1;
        }
    }
    answers
}

#[test]
fn a_syn_costs_no_memory_once_the_table_of_half_open_connections_is_full() {
    const TABLE: usize = 64;
    const SYNS: usize = 20_000;
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
            max_half_open: TABLE as u32,
            ..TcpConfig::default()
        },
    };
    let mut stack = Stack::new(config, [9; 32], Instant::ZERO);
    stack.listen(80, Scope::Service);
    stack.handle_frame(Instant::ZERO, RxFrame::new(arp()));
    while stack.poll_transmit(Instant::ZERO).is_some() {}
    // All frames lie in one place that is never given back, so that they do not count.
    let octets: Vec<u8> = (0..SYNS as u32).flat_map(syn).collect();
    let octets = Bytes::from(octets);

    // The table fills, and queues get their size.
    flood(&mut stack, &octets, 0..2 * TABLE);
    assert_eq!(stack.half_open_count(), TABLE);
    let (asked, held) = (ASKED.get(), HELD.get());
    let answers = flood(&mut stack, &octets, 2 * TABLE..SYNS);
    let asked = ASKED.get() - asked;
    let held = HELD.get() - held;
    assert_eq!(answers, SYNS - 2 * TABLE, "each is answered by a cookie");
    assert_eq!(stack.half_open_count(), TABLE);
    assert_eq!(stack.connection_count(), 0);
    assert_eq!((asked, held), (0, 0), "allocations, octets held");
}
