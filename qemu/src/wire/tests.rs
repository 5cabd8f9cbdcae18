//! Synthetic frames, each test with one thing wrong on the wire.

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol, Ipv4Packet,
    Ipv4Repr, Ipv6Packet, Ipv6Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, TcpTimestampRepr,
};

use super::*;
use Direction::{FromPort, ToPort};

/// A segment to be made into a frame.
struct Build {
    seq: u32,
    ack: Option<u32>,
    control: TcpControl,
    payload: usize,
    tsval: Option<u32>,
    v6: bool,
}

fn data(seq: u32, payload: usize) -> Build {
    Build {
        seq,
        ack: Some(1),
        control: TcpControl::Psh,
        payload,
        tsval: None,
        v6: false,
    }
}

fn frame(direction: Direction, build: &Build) -> Vec<u8> {
    let (source_port, destination_port) = match direction {
        FromPort => (40_000, 80),
        ToPort => (80, 40_000),
    };
    let payload = vec![b'x'; build.payload];
    let tcp = TcpRepr {
        src_port: source_port,
        dst_port: destination_port,
        control: build.control,
        seq_number: TcpSeqNumber(build.seq as i32),
        ack_number: build.ack.map(|ack| TcpSeqNumber(ack as i32)),
        window_len: 1000,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: build
            .tsval
            .map(|tsval| TcpTimestampRepr { tsval, tsecr: 0 }),
        payload: &payload,
    };
    let length = tcp.buffer_len();
    let ethernet = |ethertype, bytes: &mut [u8]| {
        EthernetRepr {
            src_addr: EthernetAddress([2, 0, 0, 0, 0, 1]),
            dst_addr: EthernetAddress([2, 0, 0, 0, 0, 2]),
            ethertype,
        }
        .emit(&mut EthernetFrame::new_unchecked(bytes));
    };
    let sums = ChecksumCapabilities::default();
    if build.v6 {
        let client = "fd77::1".parse().unwrap();
        let server = "fd77::10".parse().unwrap();
        let (src_addr, dst_addr) = if direction == FromPort {
            (client, server)
        } else {
            (server, client)
        };
        let mut bytes = vec![0; 14 + 40 + length];
        ethernet(EthernetProtocol::Ipv6, &mut bytes);
        Ipv6Repr {
            src_addr,
            dst_addr,
            next_header: IpProtocol::Tcp,
            payload_len: length,
            hop_limit: 64,
        }
        .emit(&mut Ipv6Packet::new_unchecked(&mut bytes[14..]));
        let tcp_bytes = &mut TcpPacket::new_unchecked(&mut bytes[54..]);
        tcp.emit(tcp_bytes, &src_addr.into(), &dst_addr.into(), &sums);
        bytes
    } else {
        let client = "10.77.0.1".parse().unwrap();
        let server = "10.77.0.10".parse().unwrap();
        let (src_addr, dst_addr) = if direction == FromPort {
            (client, server)
        } else {
            (server, client)
        };
        let mut bytes = vec![0; 14 + 20 + length];
        ethernet(EthernetProtocol::Ipv4, &mut bytes);
        Ipv4Repr {
            src_addr,
            dst_addr,
            next_header: IpProtocol::Tcp,
            payload_len: length,
            hop_limit: 64,
        }
        .emit(&mut Ipv4Packet::new_unchecked(&mut bytes[14..]), &sums);
        let tcp_bytes = &mut TcpPacket::new_unchecked(&mut bytes[34..]);
        tcp.emit(tcp_bytes, &src_addr.into(), &dst_addr.into(), &sums);
        bytes
    }
}

fn trace(frames: &[(Direction, Build)]) -> Trace {
    let mut trace = Trace::default();
    for (at, (direction, build)) in frames.iter().enumerate() {
        trace.record(at as u64 * 1000, *direction, &frame(*direction, build));
    }
    trace
}

fn only(trace: &Trace) -> &Flow {
    let mut flows = trace.flows_to("10.77.0.10:80".parse().unwrap());
    let flow = flows.next().unwrap();
    assert!(flows.next().is_none());
    flow
}

fn syn(seq: u32, ack: Option<u32>) -> Build {
    Build {
        ack,
        control: TcpControl::Syn,
        ..data(seq, 0)
    }
}

#[test]
fn an_ordinary_connection_is_clean() {
    let trace = trace(&[
        (FromPort, syn(99, None)),
        (ToPort, syn(499, Some(100))),
        (FromPort, data(100, 10)),
        (ToPort, data(500, 1000)),
        (ToPort, data(1500, 1000)),
        (FromPort, data(110, 0)),
    ]);
    let flow = only(&trace);
    assert!(flow.is_one_connection());
    assert_eq!((flow.rsts(), flow.client_retransmits()), (0, 0));
    assert_eq!((flow.from_server.repeated, flow.from_server.late), (0, 0));
    assert_eq!(flow.from_server.payload_bytes, 2000);
    assert_eq!(flow.data_times, [3000, 4000]);
}

#[test]
fn a_syn_sent_again_is_the_same_connection_and_a_new_one_is_not() {
    let again = trace(&[
        (FromPort, syn(99, None)),
        (FromPort, syn(99, None)),
        (ToPort, syn(499, Some(100))),
    ]);
    assert!(only(&again).is_one_connection());
    assert_eq!(only(&again).client_retransmits(), 1);
    let other = trace(&[
        (FromPort, syn(99, None)),
        (ToPort, syn(499, Some(100))),
        (FromPort, syn(7_000_000, None)),
        (ToPort, syn(8_000_000, Some(7_000_001))),
    ]);
    assert!(!only(&other).is_one_connection());
}

#[test]
fn what_the_client_sends_again_is_counted() {
    let trace = trace(&[
        (FromPort, syn(u32::MAX - 5, None)),
        (FromPort, data(u32::MAX - 4, 100)),
        (FromPort, data(95, 100)),
        (FromPort, data(u32::MAX - 4, 100)),
        (FromPort, data(95, 100)),
    ]);
    assert_eq!(
        only(&trace).client_retransmits(),
        2,
        "also across the sequence number's wrap"
    );
}

#[test]
fn a_hole_filled_is_late_and_a_range_seen_twice_is_repeated() {
    let trace = trace(&[
        (ToPort, syn(499, Some(100))),
        (ToPort, data(500, 100)),
        (ToPort, data(700, 100)),
        (ToPort, data(600, 100)),
        (ToPort, data(700, 100)),
        (ToPort, data(800, 100)),
    ]);
    let server = &only(&trace).from_server;
    assert_eq!((server.late, server.repeated), (1, 1));
    assert_eq!(only(&trace).resent_times.len(), 2);
}

#[test]
fn a_reset_is_seen_from_either_side() {
    let rst = || Build {
        control: TcpControl::Rst,
        ..data(1, 0)
    };
    let trace = trace(&[(ToPort, rst()), (FromPort, rst())]);
    assert_eq!(only(&trace).rsts(), 2);
}

#[test]
fn a_timestamp_that_runs_backwards_is_seen_and_a_wrap_is_not_one() {
    let stamped = |seq, tsval| {
        (
            ToPort,
            Build {
                tsval: Some(tsval),
                ..data(seq, 100)
            },
        )
    };
    let wrap = trace(&[stamped(0, u32::MAX), stamped(100, 3)]);
    assert_eq!(only(&wrap).from_server.tsval_backwards, 0);
    let back = trace(&[stamped(0, 1000), stamped(100, 999), stamped(200, 999)]);
    assert_eq!(only(&back).from_server.tsval_backwards, 1);
    let late = trace(&[stamped(0, 10), stamped(200, 12), stamped(100, 11)]);
    assert_eq!(
        only(&late).from_server.tsval_backwards,
        0,
        "an overtaken segment is no offence"
    );
}

#[test]
fn ipv6_is_read_too() {
    let mut trace = Trace::default();
    trace.record(
        0,
        ToPort,
        &frame(
            ToPort,
            &Build {
                v6: true,
                tsval: Some(5),
                ..data(1, 10)
            },
        ),
    );
    let flow = trace
        .flows_to("[fd77::10]:80".parse().unwrap())
        .next()
        .unwrap();
    assert_eq!(flow.client, "[fd77::1]:40000".parse().unwrap());
    assert_eq!(flow.from_server.payload_bytes, 10);
}

#[test]
fn frames_cut_short_or_foreign_are_passed_over() {
    let whole = frame(
        ToPort,
        &Build {
            tsval: Some(5),
            ..data(1, 10)
        },
    );
    let mut trace = Trace::default();
    for len in 0..whole.len() {
        trace.record(0, ToPort, &whole[..len]);
    }
    trace.record(0, ToPort, &[0xff; 60]);
    assert!(
        trace
            .flows_to("10.77.0.10:80".parse().unwrap())
            .next()
            .is_none()
    );
}
