//! ARP, NDP and echo, frame by frame.

use super::*;
use crate::stack::addresses::{link_local, solicited_node};
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr};

const CLIENT: MacAddr = [0x02, 0, 0, 0, 0, 0x99];

fn arp_repr(frame: &[u8]) -> ArpRepr {
    ArpRepr::parse(&ArpPacket::new_checked(&frame[ETHERNET..]).unwrap()).unwrap()
}

fn arp_request(source: &str, target: &str) -> RxFrame {
    let (IpAddr::V4(source), IpAddr::V4(target)) = (ip(source), ip(target)) else {
        unreachable!()
    };
    RxFrame::new(arp::request(CLIENT, source, target, None).to_vec())
}

fn solicitation(source: IpAddr, target: IpAddr) -> RxFrame {
    let (IpAddr::V6(source), IpAddr::V6(target)) = (source, target) else {
        unreachable!()
    };
    RxFrame::new(ndp::solicitation(CLIENT, source, target, None).to_vec())
}

/// An echo request with data of a given length.
fn ping(from: &str, to: &str, length: usize) -> RxFrame {
    let (from, to) = (ip(from), ip(to));
    let mut body = vec![if from.is_ipv4() { 8 } else { 128 }, 0, 0, 0, 1, 2, 0, 9];
    body.extend((0..length).map(|i| i as u8));
    let mut sum = Sum::new();
    if from.is_ipv6() {
        sum.add_pseudo_header(from, to, wire::ICMPV6, body.len());
    }
    sum.add(&body);
    body[2..4].copy_from_slice(&sum.finish().to_be_bytes());
    let packet = Packet {
        from: (CLIENT, from),
        to: (mac(11), to),
        protocol: if from.is_ipv4() {
            wire::ICMP
        } else {
            wire::ICMPV6
        },
        hop_limit: 64,
        body: &body,
    };
    RxFrame::new(packet.build())
}

#[test]
fn arp_for_an_own_address_is_answered_and_the_asker_remembered() {
    let mut stack = member(11);
    stack.handle_frame(Instant::ZERO, arp_request("10.77.0.99", "10.77.0.11"));
    let out = drain(&mut stack, Instant::ZERO);
    assert_eq!(out.len(), 1);
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_hardware_addr,
        target_protocol_addr,
    } = arp_repr(&out[0])
    else {
        unreachable!()
    };
    assert_eq!(operation, ArpOperation::Reply);
    assert_eq!(source_hardware_addr.0, mac(11));
    assert_eq!(IpAddr::V4(source_protocol_addr), ip("10.77.0.11"));
    assert_eq!(target_hardware_addr.0, CLIENT);
    assert_eq!(IpAddr::V4(target_protocol_addr), ip("10.77.0.99"));
    // No question is needed for a ping from the same host.
    stack.handle_frame(Instant::ZERO, ping("10.77.0.99", "10.77.0.11", 0));
    let out = drain(&mut stack, Instant::ZERO);
    assert_eq!(Ethernet::parse(&out[0]).unwrap().dst, CLIENT);
}

#[test]
fn a_virtual_address_is_answered_for_by_the_ingress_alone() {
    let mut stack = member(11);
    let questions = || {
        [
            arp_request("10.77.0.99", "10.77.0.10"),
            solicitation(ip("fd77::99"), ip("fd77::10")),
            ping("10.77.0.99", "10.77.0.10", 8),
            ping("fd77::99", "fd77::10", 8),
        ]
    };
    for frame in questions() {
        stack.handle_frame(Instant::ZERO, frame);
    }
    assert!(
        drain(&mut stack, Instant::ZERO).is_empty(),
        "a silent member"
    );
    stack.set_ingress(Instant::ZERO, true);
    drain(&mut stack, Instant::ZERO);
    for frame in questions() {
        stack.handle_frame(Instant::ZERO, frame);
    }
    assert_eq!(drain(&mut stack, Instant::ZERO).len(), 4);
    stack.set_ingress(Instant::ZERO, false);
    stack.handle_frame(Instant::ZERO, arp_request("10.77.0.99", "10.77.0.10"));
    assert!(
        drain(&mut stack, Instant::ZERO).is_empty(),
        "no longer the ingress"
    );
}

#[test]
fn becoming_ingress_announces_every_virtual_address_several_times_at_once() {
    let mut stack = member(11);
    let mut now = Instant::ZERO;
    stack.set_ingress(now, true);
    let mut announced = drain(&mut stack, now);
    let mut advertised = vec![now];
    let end = now + Duration::from_secs(3);
    while let Some(due) = stack.poll_timeout().filter(|due| *due <= end) {
        now = due;
        stack.handle_timeout(now);
        let more = drain(&mut stack, now);
        if more.iter().any(|frame| ethertype(frame) != ETHERTYPE_ARP) {
            advertised.push(now);
        }
        announced.extend(more);
    }
    for pair in advertised.windows(2) {
        let gap = pair[1].since(pair[0]);
        assert!(gap >= Duration::from_secs(1), "RFC 4861 section 7.2.6");
    }
    let (arps, advertisements): (Vec<_>, Vec<_>) = announced
        .iter()
        .partition(|frame| ethertype(frame) == ETHERTYPE_ARP);
    assert_eq!((arps.len(), advertisements.len()), (4, 3));
    for frame in arps {
        let ArpRepr::EthernetIpv4 {
            source_protocol_addr,
            target_protocol_addr,
            source_hardware_addr,
            ..
        } = arp_repr(frame)
        else {
            unreachable!()
        };
        assert_eq!(IpAddr::V4(source_protocol_addr), ip("10.77.0.10"));
        assert_eq!(source_protocol_addr, target_protocol_addr);
        assert_eq!(source_hardware_addr.0, mac(11));
    }
    for frame in advertisements {
        let header = parse(frame);
        assert_eq!((header.dst, header.hop_limit), (ip("ff02::1"), 255));
        let message = &frame[header.payload];
        assert_eq!(message[0], 136);
        assert_eq!(message[4], 0x20, "override, not solicited");
    }
}

/// When a new ingress announces its addresses by ARP and by NDP.
fn announcements(stack: &mut Stack, until: Instant) -> [Vec<Instant>; 2] {
    let mut times = [Vec::new(), Vec::new()];
    let mut now = Instant::ZERO;
    stack.set_ingress(now, true);
    loop {
        for frame in drain(stack, now) {
            times[usize::from(ethertype(&frame) != ETHERTYPE_ARP)].push(now);
        }
        match stack.poll_timeout().filter(|due| *due <= until) {
            Some(due) => now = due,
            None => return times,
        }
        stack.handle_timeout(now);
    }
}

#[test]
fn who_was_cut_off_when_an_address_was_announced_hears_of_it_later() {
    let end = Instant::ZERO + Duration::from_secs(300);
    for times in announcements(&mut member(11), end) {
        // Whenever it is back within half a minute, it waits for no longer than it was away, or a second.
        for away in (0..30_000).step_by(50).map(Duration::from_millis) {
            let back = Instant::ZERO + away;
            let next = times.iter().find(|at| **at > back);
            let waits = next.expect("announced again").since(back);
            let second = Duration::from_millis(1_500);
            assert!(waits <= away.max(second), "{waits:?} after {away:?}");
        }
        let last = times.last().unwrap().since(Instant::ZERO);
        assert!(
            times.len() <= 9 && last < Duration::from_secs(61),
            "{last:?}"
        );
    }
}

#[test]
fn who_is_no_longer_the_ingress_announces_nothing_more() {
    let mut stack = member(11);
    let end = Instant::ZERO + Duration::from_secs(6);
    announcements(&mut stack, end);
    stack.set_ingress(end, false);
    assert_eq!(stack.poll_timeout(), None);
    stack.handle_timeout(end + Duration::from_secs(10));
    assert!(drain(&mut stack, end).is_empty());
}

#[test]
fn a_new_ingress_defends_an_address_though_it_will_be_announced_again() {
    let mut stack = member(11);
    let end = Instant::ZERO + Duration::from_secs(11);
    announcements(&mut stack, end);
    stack.handle_frame(end, claim("10.77.0.10"));
    assert_eq!(drain(&mut stack, end).len(), 1);
}

/// Let the announcements of a new ingress come to their end.
fn settled() -> (Stack, Instant) {
    let mut stack = member(11);
    let mut now = Instant::ZERO;
    stack.set_ingress(now, true);
    while let Some(due) = stack.poll_timeout() {
        now = due;
        stack.handle_timeout(now);
    }
    drain(&mut stack, now);
    (stack, now)
}

/// Somebody else's claim to a virtual address.
fn claim(vip: &str) -> RxFrame {
    RxFrame::new(match ip(vip) {
        IpAddr::V4(vip) => arp::announcement(CLIENT, vip).to_vec(),
        IpAddr::V6(vip) => ndp::advertisement(CLIENT, link_local(CLIENT), vip, None).to_vec(),
    })
}

#[test]
fn a_virtual_address_is_defended_once_in_ten_seconds() {
    for vip in ["10.77.0.10", "fd77::10"] {
        let (mut stack, begun) = settled();
        let mut defended = Vec::new();
        let mut contested = 0;
        for millis in (0..=25_000).step_by(100) {
            let now = begun + Duration::from_millis(millis);
            stack.handle_frame(now, claim(vip));
            stack.handle_timeout(now);
            let out = drain(&mut stack, now);
            assert!(out.len() <= 1, "one announcement");
            for frame in out {
                let ours = match ethertype(&frame) {
                    ETHERTYPE_ARP => {
                        let ArpRepr::EthernetIpv4 {
                            source_hardware_addr,
                            source_protocol_addr,
                            ..
                        } = arp_repr(&frame)
                        else {
                            unreachable!()
                        };
                        (source_hardware_addr.0, source_protocol_addr.into())
                    }
                    _ => {
                        let body = parse(&frame).payload.start;
                        let target: [u8; 16] = frame[body + 8..body + 24].try_into().unwrap();
                        (frame[6..12].try_into().unwrap(), IpAddr::from(target))
                    }
                };
                assert_eq!(ours, (mac(11), ip(vip)));
                defended.push(millis);
            }
            contested += events(&mut stack)
                .iter()
                .filter(|event| matches!(event, StackEvent::AddressContested { .. }))
                .count();
        }
        assert_eq!(defended, [0, 10_000, 20_000], "{vip}");
        assert_eq!(counter(&stack, "vip_conflict"), 251);
        assert_eq!(counter(&stack, "vip_not_defended"), 248);
        assert_eq!(contested, 3, "said once after each defence");
    }
}

#[test]
fn each_virtual_address_is_defended_for_itself_and_anew_by_a_new_ingress() {
    let (mut stack, now) = settled();
    stack.handle_frame(now, claim("10.77.0.10"));
    stack.handle_frame(now, claim("fd77::10"));
    assert_eq!(drain(&mut stack, now).len(), 2);
    stack.set_ingress(now, false);
    stack.handle_frame(now, claim("10.77.0.10"));
    assert!(drain(&mut stack, now).is_empty(), "it is not ours");
    stack.set_ingress(now, true);
    let mut now = now;
    while let Some(due) = stack.poll_timeout() {
        now = due;
        stack.handle_timeout(now);
    }
    drain(&mut stack, now);
    stack.handle_frame(now, claim("10.77.0.10"));
    assert_eq!(drain(&mut stack, now).len(), 1);
}

#[test]
fn neighbours_are_asked_from_an_own_address_even_to_speak_for_a_virtual_one() {
    let mut stack = member(11);
    stack.set_ingress(Instant::ZERO, true);
    drain(&mut stack, Instant::ZERO);
    stack.handle_frame(Instant::ZERO, ping("10.77.0.99", "10.77.0.10", 8));
    stack.handle_frame(Instant::ZERO, ping("fd77::99", "fd77::10", 8));
    let out = drain(&mut stack, Instant::ZERO);
    assert_eq!(out.len(), 2);
    let ArpRepr::EthernetIpv4 {
        operation,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = arp_repr(&out[0])
    else {
        unreachable!()
    };
    assert_eq!(operation, ArpOperation::Request);
    assert_eq!(IpAddr::V4(source_protocol_addr), ip("10.77.0.11"));
    assert_eq!(IpAddr::V4(target_protocol_addr), ip("10.77.0.99"));
    let header = parse(&out[1]);
    let IpAddr::V6(target) = ip("fd77::99") else {
        unreachable!()
    };
    assert_eq!(header.src, ip("fd77::11"));
    assert_eq!(header.dst, IpAddr::V6(solicited_node(target)));
    assert_eq!(header.hop_limit, 255);
    assert_eq!(out[1][..6], [0x33, 0x33, 0xff, 0, 0, 0x99]);
    // The answer releases the echo reply, from the virtual address.
    let IpAddr::V6(own) = ip("fd77::11") else {
        unreachable!()
    };
    let answer = ndp::advertisement(CLIENT, target, target, Some(own));
    let mut answer = answer.to_vec();
    answer[..6].copy_from_slice(&mac(11));
    stack.handle_frame(Instant::ZERO, RxFrame::new(answer));
    let out = drain(&mut stack, Instant::ZERO);
    assert_eq!(out.len(), 1);
    let header = parse(&out[0]);
    assert_eq!((header.src, header.dst), (ip("fd77::10"), ip("fd77::99")));
    assert_eq!(Ethernet::parse(&out[0]).unwrap().dst, CLIENT);
}

#[test]
fn echo_replies_carry_the_data_back_with_right_checksums() {
    let mut stack = member(11);
    stack.handle_frame(Instant::ZERO, arp_request("10.77.0.99", "10.77.0.11"));
    stack.handle_frame(Instant::ZERO, solicitation(ip("fd77::99"), ip("fd77::11")));
    drain(&mut stack, Instant::ZERO);
    for (from, to) in [("10.77.0.99", "10.77.0.11"), ("fd77::99", "fd77::11")] {
        for length in [0, 1, 55, 1400] {
            let request = ping(from, to, length);
            stack.handle_frame(Instant::ZERO, request.clone());
            let out = drain(&mut stack, Instant::ZERO);
            let header = parse(&out[0]);
            let message = &out[0][header.payload.clone()];
            assert_eq!((header.src, header.dst), (ip(to), ip(from)));
            assert_eq!(message[0], if header.src.is_ipv4() { 0 } else { 129 });
            assert_eq!(message[4..], request.bytes[header.payload.start + 4..]);
            if header.src.is_ipv4() {
                let mut sum = Sum::new();
                sum.add(message);
                assert_eq!(sum.finish(), 0);
            }
        }
    }
}

#[test]
fn echo_beyond_its_rate_and_to_groups_is_not_answered() {
    let mut stack = member(11);
    stack.handle_frame(Instant::ZERO, arp_request("10.77.0.99", "10.77.0.11"));
    drain(&mut stack, Instant::ZERO);
    let mut answered = 0;
    for _ in 0..2 * MAX_ECHO {
        stack.handle_frame(Instant::ZERO, ping("10.77.0.99", "10.77.0.11", 0));
        answered += drain(&mut stack, Instant::ZERO).len();
    }
    assert!((800..1200).contains(&answered), "{answered}");
    let later = Instant::from_millis(60_000);
    for group in ["10.77.0.255", "255.255.255.255"] {
        stack.handle_frame(later, ping("10.77.0.99", group, 0));
    }
    assert!(drain(&mut stack, later).is_empty());
}

#[test]
fn a_question_for_the_link_local_address_and_for_a_free_one_are_answered_as_due() {
    let mut stack = member(11);
    let own = IpAddr::V6(link_local(mac(11)));
    stack.handle_frame(Instant::ZERO, solicitation(ip("fe80::99"), own));
    let out = drain(&mut stack, Instant::ZERO);
    let header = parse(&out[0]);
    assert_eq!((header.src, header.dst), (own, ip("fe80::99")));
    assert_eq!(out[0][header.payload][4], 0x60, "solicited and override");
    // Someone asks whether our address is free: everyone hears that it is not.
    stack.handle_frame(Instant::ZERO, solicitation(ip("::"), ip("fd77::11")));
    let out = drain(&mut stack, Instant::ZERO);
    assert_eq!(parse(&out[0]).dst, ip("ff02::1"));
}

#[test]
fn claims_to_our_addresses_and_strange_senders_teach_nothing() {
    let mut stack = member(11);
    for source in [
        "10.77.0.11",
        "10.77.0.10",
        "192.0.2.9",
        "224.0.0.1",
        "10.77.0.255",
    ] {
        stack.handle_frame(Instant::ZERO, arp_request(source, "10.77.0.11"));
        assert_eq!(stack.neighbours.peek(hop(ip(source))), None, "{source}");
    }
    assert_eq!(counter(&stack, "address_conflict"), 1);
    assert_eq!(counter(&stack, "arp_ignored"), 5);
    let mut crossed = solicitation(ip("fd77::99"), ip("fd77::11")).bytes.to_vec();
    crossed[ETHERNET + 7] = 254;
    stack.handle_frame(Instant::ZERO, RxFrame::new(crossed));
    assert_eq!(counter(&stack, "ndp_ignored"), 1);
    assert_eq!(stack.neighbours.peek(hop(ip("fd77::99"))), None);
}

#[test]
fn the_asker_asks_again_and_then_counts_its_frames_as_lost() {
    let mut stack = host(11);
    stack.handle_frame(Instant::ZERO, ping("10.77.0.99", "10.77.0.11", 8));
    let mut questions = drain(&mut stack, Instant::ZERO).len();
    while let Some(due) = stack.poll_timeout() {
        stack.handle_timeout(due);
        questions += drain(&mut stack, due).len();
    }
    assert_eq!(questions, 3);
    assert_eq!(counter(&stack, "neighbour_failed"), 1);
    assert_eq!(counter(&stack, "neighbour_unresolved"), 1);
}

#[test]
fn far_hosts_are_reached_through_the_gateway() {
    let mut stack = host(11);
    stack.handle_frame(Instant::ZERO, ping("192.0.2.7", "10.77.0.11", 8));
    let out = drain(&mut stack, Instant::ZERO);
    let ArpRepr::EthernetIpv4 {
        target_protocol_addr,
        ..
    } = arp_repr(&out[0])
    else {
        unreachable!()
    };
    assert_eq!(IpAddr::V4(target_protocol_addr), ip("10.77.0.1"));
    stack.handle_frame(Instant::ZERO, ping("2001:db8::7", "fd77::11", 8));
    assert_eq!(counter(&stack, "tx_no_route"), 1, "no IPv6 gateway");
}
