//! Routes: forwarding, capturing, holding and what becomes of held frames.

use super::*;
use crate::stack::frame::TxChecksum;

const CLIENT: MacAddr = [0x02, 0, 0, 0, 0, 0x99];

struct Flow {
    key: FlowKey,
}

impl Flow {
    fn new(local: &str, remote: &str) -> Flow {
        let key = FlowKey {
            local: at(local),
            remote: at(remote),
        };
        Flow { key }
    }

    fn v4() -> Flow {
        Flow::new("10.77.0.10:80", "10.77.0.99:40000")
    }

    fn v6() -> Flow {
        Flow::new("[fd77::10]:80", "[fd77::99]:40000")
    }

    fn frame(&self, flags: u8, seq: u32, payload: &[u8]) -> RxFrame {
        let macs = (CLIENT, mac(11));
        RxFrame::new(tcp(
            macs,
            self.key.remote,
            self.key.local,
            flags,
            seq,
            payload,
        ))
    }
}

/// An ingress with a service at port 80 that asks about unknown flows and knows its neighbours.
fn ingress() -> Stack {
    let mut stack = member(11);
    stack.listen(80, Scope::Service);
    stack.set_ask_unknown(true);
    for (address, at) in [
        ("10.77.0.12", mac(12)),
        ("fd77::12", mac(12)),
        ("10.77.0.99", CLIENT),
        ("fd77::99", CLIENT),
    ] {
        stack
            .neighbours
            .learn(Instant::ZERO, hop(ip(address)), at, true);
    }
    stack
}

fn sequence_of(frame: &[u8]) -> u32 {
    let at = parse(frame).payload.start + 4;
    u32::from_be_bytes(frame[at..at + 4].try_into().unwrap())
}

#[test]
fn a_forwarded_frame_is_what_a_router_would_have_sent() {
    for (flow, to) in [(Flow::v4(), "10.77.0.12"), (Flow::v6(), "fd77::12")] {
        let mut stack = ingress();
        stack.set_route(Instant::ZERO, flow.key, Route::Forward(ip(to)));
        let mut bytes = flow.frame(ACK, 7, b"payload").bytes.to_vec();
        bytes.extend_from_slice(&[0; 9]);
        stack.handle_frame(Instant::ZERO, RxFrame::new(bytes.clone()));
        let out = drain(&mut stack, Instant::ZERO);
        assert_eq!(out.len(), 1);
        let ethernet = Ethernet::parse(&out[0]).unwrap();
        assert_eq!((ethernet.src, ethernet.dst), (mac(11), mac(12)));
        // `parse` has verified the updated header checksum.
        let header = parse(&out[0]);
        assert_eq!(header.hop_limit, 63);
        let length = out[0].len();
        assert_eq!(length, bytes.len() - 9, "the padding stays behind");
        assert_eq!(out[0][header.payload.clone()], bytes[header.payload]);
        assert_eq!(stack.route_last_used(&flow.key), Some(Instant::ZERO));
    }
}

#[test]
fn a_frame_at_the_end_of_its_ttl_is_not_forwarded() {
    for flow in [Flow::v4(), Flow::v6()] {
        let mut stack = ingress();
        let to = if flow.key.local.is_ipv4() {
            "10.77.0.12"
        } else {
            "fd77::12"
        };
        stack.set_route(Instant::ZERO, flow.key, Route::Forward(ip(to)));
        let mut bytes = flow.frame(ACK, 7, b"").bytes.to_vec();
        for _ in 0..63 {
            assert!(forward::age(&mut bytes));
        }
        stack.handle_frame(Instant::ZERO, RxFrame::new(bytes));
        assert!(drain(&mut stack, Instant::ZERO).is_empty());
        assert_eq!(counter(&stack, "forward_ttl_exceeded"), 1);
    }
}

#[test]
fn a_frame_the_device_vouched_for_leaves_with_a_right_checksum() {
    let flow = Flow::v4();
    for offload in [false, true] {
        let mut stack = ingress();
        stack.service.capabilities.tx_checksum = offload;
        stack.set_route(Instant::ZERO, flow.key, Route::Forward(ip("10.77.0.12")));
        let right = flow.frame(ACK, 7, b"payload").bytes;
        let mut frame = RxFrame::new(right.to_vec());
        frame.checksum = RxChecksum::Verified;
        // As a frame that never crossed a wire: just the pseudo-header's sum in the field.
        let mut bytes = right.to_vec();
        bytes[50..52].copy_from_slice(&[0xab, 0xcd]);
        frame.bytes = bytes.into();
        stack.handle_frame(Instant::ZERO, frame);
        let mut out = stack.poll_transmit(Instant::ZERO).unwrap();
        if let Some(TxChecksum { start, offset }) = out.checksum.take() {
            assert!(offload);
            // What the device does.
            let mut sum = Sum::new();
            sum.add(&out.to_vec()[usize::from(start)..]);
            let field = usize::from(start + offset);
            out.head[field..field + 2].copy_from_slice(&sum.finish().to_be_bytes());
        }
        assert_eq!(out.to_vec()[34..], right[34..]);
    }
}

#[test]
fn captured_frames_come_out_in_order_and_are_dropped_beyond_the_bound() {
    let mut stack = ingress();
    let flow = Flow::v4();
    stack.set_route(Instant::ZERO, flow.key, Route::Capture);
    for seq in 0..3 {
        stack.handle_frame(Instant::ZERO, flow.frame(ACK, seq, b"data"));
    }
    let captured: Vec<u32> = events(&mut stack)
        .iter()
        .map(|event| match event {
            StackEvent::Captured { flow: at, frame } => {
                assert_eq!(*at, flow.key);
                sequence_of(&frame.bytes)
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(captured, [0, 1, 2]);
    for seq in 0..4000 {
        stack.handle_frame(Instant::ZERO, flow.frame(ACK, seq, &[0; 1400]));
    }
    assert!(counter(&stack, "capture_overflow") > 0);
    let octets: usize = events(&mut stack)
        .iter()
        .map(|event| match event {
            StackEvent::Captured { frame, .. } => frame.bytes.len(),
            _ => 0,
        })
        .sum();
    assert!(octets <= 4 << 20);
    stack.handle_frame(Instant::ZERO, flow.frame(ACK, 1, b""));
    assert_eq!(events(&mut stack).len(), 1, "room again");
}

#[test]
fn a_damaged_segment_is_neither_captured_nor_held() {
    let mut stack = ingress();
    let flow = Flow::v4();
    for route in [Route::Capture, Route::Hold] {
        stack.set_route(Instant::ZERO, flow.key, route);
        let mut bytes = flow.frame(ACK, 1, b"data").bytes.to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        stack.handle_frame(Instant::ZERO, RxFrame::new(bytes));
    }
    assert!(events(&mut stack).is_empty());
    assert_eq!(counter(&stack, "rx_bad_checksum"), 2);
    assert_eq!(counter(&stack, "held"), 0);
}

#[test]
fn held_frames_leave_along_the_new_route_before_newer_ones() {
    let mut stack = ingress();
    let flow = Flow::v6();
    stack.set_route(Instant::ZERO, flow.key, Route::Hold);
    for seq in 0..5 {
        stack.handle_frame(Instant::ZERO, flow.frame(ACK, seq, b"x"));
    }
    assert!(drain(&mut stack, Instant::ZERO).is_empty());
    stack.set_route(Instant::ZERO, flow.key, Route::Forward(ip("fd77::12")));
    stack.handle_frame(Instant::ZERO, flow.frame(ACK, 5, b"x"));
    let order: Vec<u32> = drain(&mut stack, Instant::ZERO)
        .iter()
        .map(|frame| sequence_of(frame))
        .collect();
    assert_eq!(order, [0, 1, 2, 3, 4, 5]);
}

#[test]
fn an_unknown_flow_is_asked_about_once_and_gets_no_rst_meanwhile() {
    let mut stack = ingress();
    let flow = Flow::v4();
    stack.handle_frame(Instant::ZERO, flow.frame(ACK, 1, b""));
    stack.handle_frame(Instant::ZERO, flow.frame(ACK, 2, b""));
    let asked = events(&mut stack);
    assert_eq!(asked.len(), 1, "one question");
    assert!(matches!(
        asked[0],
        StackEvent::UnknownFlow { flow: at, syn: false } if at == flow.key
    ));
    assert!(drain(&mut stack, Instant::ZERO).is_empty(), "silence");
    assert_eq!(stack.route(&flow.key), Some(Route::Hold));
    // Nobody answers: silence is no "no". The next segment asks again.
    let later = stack.poll_timeout().unwrap();
    stack.handle_timeout(later);
    assert!(drain(&mut stack, later).is_empty());
    assert_eq!(counter(&stack, "hold_expired"), 2);
    stack.handle_frame(later, flow.frame(ACK, 3, b""));
    assert_eq!(events(&mut stack).len(), 1);
    // A "no" from everyone: now the client is told.
    stack.clear_route(later, &flow.key);
    let out = drain(&mut stack, later);
    assert_eq!(out.len(), 1);
    assert_eq!(tcp_flags(&out[0]), RST);
    assert_eq!(
        sequence_of(&out[0]),
        0x1234_5678,
        "the sequence number the client expects"
    );
    assert_eq!(parse(&out[0]).src, ip("10.77.0.10"));
}

#[test]
fn a_syn_behind_a_straggler_of_the_connection_before_is_not_refused_with_it() {
    let mut stack = ingress();
    let flow = Flow::v4();
    stack.handle_frame(Instant::ZERO, flow.frame(ACK, 1, b""));
    stack.handle_frame(Instant::ZERO, flow.frame(SYN, 1_000, b""));
    assert_eq!(events(&mut stack).len(), 1);
    stack.clear_route(Instant::ZERO, &flow.key);
    let out = drain(&mut stack, Instant::ZERO);
    assert_eq!(out.len(), 1, "an RST for the straggler only");
    assert_eq!(sequence_of(&out[0]), 0x1234_5678);
    assert!(matches!(
        events(&mut stack)[..],
        [StackEvent::UnknownFlow { flow: at, syn: true }] if at == flow.key
    ));
    stack.accept_here(Instant::ZERO, &flow.key);
    let out = drain(&mut stack, Instant::ZERO);
    assert_eq!(out.len(), 1);
    assert_eq!(tcp_flags(&out[0]), SYN | ACK);
}

#[test]
fn a_syn_does_not_go_round_between_two_stale_routes() {
    let mut stack = ingress();
    let flow = Flow::v4();
    let now = Instant::ZERO;
    stack.set_route(now, flow.key, Route::Forward(ip("10.77.0.12")));
    stack.handle_frame(now, flow.frame(SYN, 1, b""));
    assert_eq!(drain(&mut stack, now).len(), 1, "the client's is passed on");
    let ends = (flow.key.remote, flow.key.local);
    let back = |flags| RxFrame::new(tcp((mac(12), mac(11)), ends.0, ends.1, flags, 1, b""));
    stack.handle_frame(now, back(ACK));
    assert_eq!(drain(&mut stack, now).len(), 1, "late, but on its way");
    stack.handle_frame(now, back(SYN));
    assert!(drain(&mut stack, now).is_empty());
    assert_eq!(stack.route(&flow.key), None);
}

#[test]
fn dropped_held_frames_cause_no_answer() {
    let mut stack = ingress();
    let flow = Flow::v4();
    stack.handle_frame(Instant::ZERO, flow.frame(ACK, 1, b""));
    stack.drop_held(Instant::ZERO, &flow.key);
    assert!(drain(&mut stack, Instant::ZERO).is_empty());
    assert_eq!(stack.route(&flow.key), None);
}

#[test]
fn ports_without_a_service_and_own_addresses_are_refused_at_once() {
    let mut stack = ingress();
    for (local, remote) in [
        ("10.77.0.10:81", "10.77.0.99:40000"),
        ("10.77.0.11:80", "10.77.0.99:40000"),
        ("[fd77::11]:80", "[fd77::99]:40000"),
    ] {
        let flow = Flow::new(local, remote);
        stack.handle_frame(Instant::ZERO, flow.frame(SYN, 1, b""));
        let out = drain(&mut stack, Instant::ZERO);
        assert_eq!(tcp_flags(&out[0]), RST | ACK, "{local}");
        stack.handle_frame(Instant::ZERO, flow.frame(RST, 1, b""));
        assert!(
            drain(&mut stack, Instant::ZERO).is_empty(),
            "no RST for an RST"
        );
    }
}

#[test]
fn resets_are_limited_in_rate() {
    let mut stack = ingress();
    let flow = Flow::new("10.77.0.11:80", "10.77.0.99:40000");
    let mut sent = 0;
    for seq in 0..3 * MAX_RST {
        stack.handle_frame(Instant::ZERO, flow.frame(ACK, seq, b""));
        sent += drain(&mut stack, Instant::ZERO).len();
    }
    // About: how many exactly is a secret.
    assert!((800..1200).contains(&sent), "{sent}");
    let suppressed = u64::from(3 * MAX_RST) - sent as u64;
    assert_eq!(counter(&stack, "rst_suppressed"), suppressed);
}

#[test]
fn what_followed_a_session_that_has_ended_is_nobodys_question() {
    let mut stack = ingress();
    stack.set_ask_unknown(true);
    let flow = Flow::v4();
    stack.inject_behind(Instant::ZERO, flow.frame(ACK, 1, b"data"));
    assert!(stack.poll_event().is_none(), "asked about");
    assert!(drain(&mut stack, Instant::ZERO).is_empty(), "answered");
    assert_eq!(counter(&stack, "injected_late"), 1);
    // With a route it goes along it.
    stack.set_route(Instant::ZERO, flow.key, Route::Capture);
    stack.inject_behind(Instant::ZERO, flow.frame(ACK, 1, b"data"));
    assert!(matches!(
        stack.poll_event(),
        Some(StackEvent::Captured { .. })
    ));
}

#[test]
fn a_frame_going_round_between_captures_comes_to_an_end() {
    let mut stack = ingress();
    let flow = Flow::v4();
    stack.set_route(Instant::ZERO, flow.key, Route::Capture);
    let mut frame = flow.frame(ACK, 1, b"data");
    let mut rounds = 0;
    loop {
        stack.inject(Instant::ZERO, frame);
        match stack.poll_event() {
            Some(StackEvent::Captured { frame: again, .. }) => frame = again,
            Some(other) => panic!("{other:?}"),
            None => break,
        }
        rounds += 1;
        assert!(rounds < 256, "for ever");
    }
    assert_eq!(rounds, 63);
}

/// An ICMP "too big" from a router about a frame that was sent, quoting `quoted` octets of it.
fn too_big(sent: &[u8], quoted: usize, mtu: u16) -> RxFrame {
    let header = parse(sent);
    let v4 = header.src.is_ipv4();
    let [m0, m1] = mtu.to_be_bytes();
    let mut body = vec![
        if v4 { 3 } else { 2 },
        if v4 { 4 } else { 0 },
        0,
        0,
        0,
        0,
        m0,
        m1,
    ];
    body.extend_from_slice(&sent[ETHERNET..ETHERNET + quoted]);
    let router = if v4 { ip("10.77.0.1") } else { ip("fd77::1") };
    let mut sum = Sum::new();
    if !v4 {
        sum.add_pseudo_header(router, header.src, wire::ICMPV6, body.len());
    }
    sum.add(&body);
    body[2..4].copy_from_slice(&sum.finish().to_be_bytes());
    let packet = Packet {
        from: (mac(1), router),
        to: (Ethernet::parse(sent).unwrap().src, header.src),
        protocol: if v4 { wire::ICMP } else { wire::ICMPV6 },
        hop_limit: 64,
        body: &body,
    };
    RxFrame::new(packet.build())
}

/// The same, quoting what is usual.
pub(super) fn too_big_about(sent: &[u8], mtu: u16) -> RxFrame {
    too_big(sent, parse(sent).payload.start - ETHERNET + 8, mtu)
}

#[test]
fn icmp_errors_follow_the_flow_they_quote() {
    for flow in [Flow::v4(), Flow::v6()] {
        let mut stack = ingress();
        let to = if flow.key.local.is_ipv4() {
            "10.77.0.12"
        } else {
            "fd77::12"
        };
        let sent = tcp(
            (mac(11), CLIENT),
            flow.key.local,
            flow.key.remote,
            ACK,
            9,
            &[0; 600],
        );
        // Routers quote as little as the header and eight octets, or all there is.
        stack.handle_frame(Instant::ZERO, too_big(&sent, sent.len() - ETHERNET, 1280));
        assert_eq!(counter(&stack, "icmp_error_stray"), 1, "an unknown flow");
        assert!(drain(&mut stack, Instant::ZERO).is_empty());

        stack.set_route(Instant::ZERO, flow.key, Route::Forward(ip(to)));
        stack.handle_frame(Instant::ZERO, too_big_about(&sent, 1280));
        let out = drain(&mut stack, Instant::ZERO);
        assert_eq!(Ethernet::parse(&out[0]).unwrap().dst, mac(12));
        assert_eq!(parse(&out[0]).hop_limit, 63);

        if flow.key.local.is_ipv4() {
            // Whoever sent what it quotes would have been told, and nobody else.
            let mut frame = too_big_about(&sent, 1280).bytes.to_vec();
            frame[ETHERNET + 16..ETHERNET + 20].copy_from_slice(&[10, 77, 0, 11]);
            frame[ETHERNET + 10..ETHERNET + 12].fill(0);
            let mut sum = Sum::new();
            sum.add(&frame[ETHERNET..ETHERNET + 20]);
            frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.finish().to_be_bytes());
            stack.handle_frame(Instant::ZERO, RxFrame::new(frame));
            assert_eq!(counter(&stack, "icmp_error_stray"), 2);
            assert!(drain(&mut stack, Instant::ZERO).is_empty());
        }

        stack.set_route(Instant::ZERO, flow.key, Route::Capture);
        stack.handle_frame(Instant::ZERO, too_big_about(&sent, 1280));
        assert!(matches!(
            events(&mut stack)[..],
            [StackEvent::Captured { .. }]
        ));
    }
}

#[test]
fn frames_for_other_stations_and_other_addresses_are_counted_and_dropped() {
    let mut stack = ingress();
    let flow = Flow::v4();
    let mut bytes = flow.frame(SYN, 1, b"").bytes.to_vec();
    bytes[5] ^= 1;
    stack.handle_frame(Instant::ZERO, RxFrame::new(bytes.clone()));
    assert_eq!(counter(&stack, "rx_other_station"), 1);
    bytes[..6].copy_from_slice(&wire::BROADCAST);
    stack.handle_frame(Instant::ZERO, RxFrame::new(bytes));
    assert_eq!(counter(&stack, "rx_tcp_not_unicast"), 1);
    let stranger = Flow::new("10.77.0.77:80", "10.77.0.99:40000");
    stack.handle_frame(Instant::ZERO, stranger.frame(SYN, 1, b""));
    assert_eq!(counter(&stack, "rx_other_address"), 1);
    let land = Flow::new("10.77.0.11:80", "10.77.0.11:80");
    stack.handle_frame(Instant::ZERO, land.frame(SYN, 1, b""));
    assert_eq!(counter(&stack, "rx_bad_source"), 1);
    assert!(drain(&mut stack, Instant::ZERO).is_empty());
    assert!(events(&mut stack).is_empty());
}
