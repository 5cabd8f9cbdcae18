//! Frames made to break things: whatever comes, the stack goes on, within its bounds, and every
//! frame that is dropped is counted.

use super::bursts::{connected, frames, received, send, stream};
use super::*;

/// SplitMix64: small, and good enough to choose bytes to damage.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.roll() % bound.max(1) as u64) as usize
    }
}

/// Frames of every kind the stack takes, to be damaged.
fn samples() -> Vec<Vec<u8>> {
    let client = mac(0x99);
    let (IpAddr::V4(asker), IpAddr::V4(own)) = (ip("10.77.0.99"), ip("10.77.0.11")) else {
        unreachable!()
    };
    let (IpAddr::V6(asker6), IpAddr::V6(own6)) = (ip("fd77::99"), ip("fd77::11")) else {
        unreachable!()
    };
    let remotes = ["10.77.0.99:4000", "[fd77::99]:4000"];
    let locals = [
        "10.77.0.10:80",
        "10.77.0.11:9",
        "[fd77::10]:80",
        "[fd77::11]:9",
    ];
    let mut frames = vec![
        arp::request(client, asker, own, None).to_vec(),
        arp::announcement(client, asker).to_vec(),
        ndp::solicitation(client, asker6, own6, None).to_vec(),
        ndp::solicitation(client, asker6, own6, Some(mac(11))).to_vec(),
        ndp::advertisement(client, asker6, asker6, None).to_vec(),
    ];
    for remote in remotes {
        for local in locals {
            let (remote, local) = (at(remote), at(local));
            if remote.is_ipv4() == local.is_ipv4() {
                for flags in [SYN, ACK, ACK | 1, RST] {
                    frames.push(tcp((client, mac(11)), remote, local, flags, 1, b"payload"));
                }
            }
        }
    }
    for (from, to) in [("10.77.0.99", "10.77.0.11"), ("fd77::99", "fd77::11")] {
        let (from, to) = (ip(from), ip(to));
        let v4 = from.is_ipv4();
        let quoted = tcp(
            (mac(11), client),
            SocketAddr::new(to, 80),
            SocketAddr::new(from, 4000),
            ACK,
            1,
            b"",
        );
        let mut error = if v4 {
            vec![3, 4, 0, 0, 0, 0, 2, 0]
        } else {
            vec![2, 0, 0, 0, 0, 0, 2, 0]
        };
        error.extend_from_slice(&quoted[ETHERNET..]);
        let echo = vec![if v4 { 8 } else { 128 }, 0, 0, 0, 1, 1, 1, 1, 9, 9];
        let icmp = if v4 { wire::ICMP } else { wire::ICMPV6 };
        for (protocol, mut body) in [
            (icmp, error),
            (icmp, echo),
            (wire::UDP, vec![0, 67, 0, 68, 0, 12, 0, 0, 1, 2, 3, 4]),
            (wire::UDP, vec![0, 53, 1, 1, 0, 12, 0, 0, 1, 2, 3, 4]),
        ] {
            let mut sum = Sum::new();
            if !v4 || protocol == wire::UDP {
                sum.add_pseudo_header(from, to, protocol, body.len());
            }
            sum.add(&body);
            let field = if protocol == wire::UDP { 6 } else { 2 };
            body[field..field + 2].copy_from_slice(&sum.finish().to_be_bytes());
            let packet = Packet {
                from: (client, from),
                to: (mac(11), to),
                protocol,
                hop_limit: 255,
                body: &body,
            };
            frames.push(packet.build());
        }
    }
    frames
}

fn damage(dice: &mut Dice, frame: &mut Vec<u8>) {
    for _ in 0..1 + dice.below(4) {
        match dice.below(5) {
            0 => frame.truncate(dice.below(frame.len() + 1)),
            1 => frame.extend((0..dice.below(80)).map(|i| i as u8)),
            _ if frame.is_empty() => {}
            // Mostly behind the addresses, or nothing gets in.
            n => {
                let from = if n == 2 { 0 } else { 12.min(frame.len() - 1) };
                let at = from + dice.below(frame.len() - from);
                frame[at] = match dice.below(3) {
                    0 => 0xff,
                    1 => frame[at] ^ (1 << dice.below(8)),
                    _ => dice.roll() as u8,
                };
            }
        }
    }
}

fn bounded(stack: &Stack) {
    assert!(stack.egress.len() <= 4096);
    assert!(stack.half_open_count() <= TcpConfig::default().max_half_open as usize);
}

fn pelt(seed: u64, verified: bool) {
    let mut config = config(11);
    config.vips = vec![ip("10.77.0.10"), ip("fd77::10")];
    config.dhcp = true;
    // Every second time with another network; the card there has the same address, so that samples get in.
    config.instance = (seed % 2 == 1).then(|| InstanceNetwork {
        mac: mac(11),
        mtu: 1300,
        capabilities: DeviceCapabilities::default(),
        addresses: vec![Cidr {
            address: ip("10.88.0.11"),
            prefix: 24,
        }],
        gateways: Vec::new(),
    });
    let peer = ip(["10.77.0.12", "10.88.0.12"][seed as usize % 2]);
    let mut stack = Stack::new(config, [1; 32], Instant::ZERO);
    stack.listen(80, Scope::Service);
    stack.listen(9, Scope::Own);
    stack.udp_bind(257);
    let mut dice = Dice(seed);
    let samples = samples();
    let mut now = Instant::ZERO;
    for round in 0..20_000 {
        let mut bytes = samples[dice.below(samples.len())].clone();
        match dice.below(8) {
            0 => bytes = (0..dice.below(200)).map(|_| dice.roll() as u8).collect(),
            1 => {}
            _ => damage(&mut dice, &mut bytes),
        }
        let mut frame = RxFrame::new(bytes);
        // With the checksums out of the way damage gets deeper.
        if verified {
            frame.checksum = RxChecksum::Verified;
        }
        if dice.below(3) == 0 {
            frame.interface = Interface::Instance;
        }
        if dice.below(50) == 0 {
            stack.set_ask_unknown(round % 2 == 0);
            stack.set_ingress(now, round % 3 == 0);
        }
        if dice.below(4) == 0 {
            stack.inject(now, frame);
        } else {
            stack.handle_frame(now, frame);
        }
        if dice.below(8) == 0 {
            now += Duration::from_millis(dice.roll() % 50);
            stack.handle_timeout(now);
            while let Some(event) = stack.poll_event() {
                if let StackEvent::UnknownFlow { flow, .. } = event {
                    match dice.below(5) {
                        0 => stack.clear_route(now, &flow),
                        1 => stack.accept_here(now, &flow),
                        2 => stack.set_route(now, flow, Route::Capture),
                        3 => stack.set_route(now, flow, Route::Forward(peer)),
                        _ => {}
                    }
                }
            }
            while let Some(frame) = stack.poll_transmit(now) {
                assert!(frame.len() >= ETHERNET);
            }
        }
        bounded(&stack);
    }
    assert!(counter(&stack, "rx_malformed") > 100);
}

#[test]
fn random_and_damaged_frames_never_panic() {
    for seed in 0..4 {
        pelt(seed, false);
    }
}

#[test]
fn damaged_frames_with_trusted_checksums_never_panic() {
    for seed in 100..104 {
        pelt(seed, true);
    }
}

#[test]
fn a_flood_of_senders_that_never_answer_arp_stays_within_bounds() {
    let mut stack = host(11);
    let mut now = Instant::ZERO;
    for n in 0..20_000u32 {
        let remote = SocketAddr::new(IpAddr::V4((0x0a4d_0000 + (n % 250) + 2).into()), n as u16);
        let frame = tcp(
            (mac(0x99), mac(11)),
            remote,
            at("10.77.0.11:81"),
            SYN,
            n,
            b"",
        );
        stack.handle_frame(now, RxFrame::new(frame));
        now += Duration::from_micros(100);
        if n % 16 == 0 {
            stack.handle_timeout(now);
            drain(&mut stack, now);
        }
        bounded(&stack);
    }
    assert!(counter(&stack, "neighbour_unresolved") > 0);
}

/// RFC 5961 section 7. If all shared one limit, what is left of it would tell a stranger whether somebody else's
/// numbers were guessed (CVE-2016-5696).
#[test]
fn a_half_open_connection_uses_up_its_own_answers_only() {
    let mut stack = member(11);
    stack.listen(80, Scope::Service);
    let (IpAddr::V4(asker), IpAddr::V6(asker6)) = (ip("10.77.0.99"), ip("fd77::99")) else {
        unreachable!()
    };
    let (IpAddr::V4(own), IpAddr::V6(own6)) = (ip("10.77.0.11"), ip("fd77::11")) else {
        unreachable!()
    };
    for question in [
        arp::request(mac(0x99), asker, own, None).to_vec(),
        ndp::solicitation(mac(0x99), asker6, own6, None).to_vec(),
    ] {
        stack.handle_frame(Instant::ZERO, RxFrame::new(question));
    }
    let answers = |stack: &mut Stack, remote: &str, flags, seq, now| {
        let local = match at(remote).is_ipv4() {
            true => at("10.77.0.10:80"),
            false => at("[fd77::10]:80"),
        };
        let frame = tcp((mac(0x99), mac(11)), at(remote), local, flags, seq, b"");
        stack.handle_frame(now, RxFrame::new(frame));
        let sent = drain(stack, now);
        sent.iter()
            .filter(|frame| ethertype(frame) != ETHERTYPE_ARP && parse(frame).protocol == wire::TCP)
            .count()
    };
    let begun = Instant::from_millis(10_000);
    for (one, other) in [
        ("10.77.0.99:1", "10.77.0.99:2"),
        ("[fd77::99]:1", "[fd77::99]:2"),
    ] {
        for remote in [one, other] {
            answers(&mut stack, remote, SYN, 0, begun);
        }
        let before = counter(&stack, "challenges_limited");
        let got: usize = (0..500)
            .map(|_| answers(&mut stack, one, RST, 500, begun))
            .sum();
        let limited = counter(&stack, "challenges_limited") - before;
        assert_eq!((got, limited), (10, 490), "{one}");
        assert_eq!(answers(&mut stack, other, RST, 500, begun), 1);
        let later = begun + Duration::from_millis(999);
        assert_eq!(answers(&mut stack, one, RST, 500, later), 0);
        let later = begun + Duration::from_millis(1000);
        assert_eq!(answers(&mut stack, one, RST, 500, later), 1);
    }
}

/// RFC 6980 section 5: who watches over a link does not look into fragments.
#[test]
fn neighbour_discovery_in_a_fragment_is_not_taken() {
    let mut stack = host(11);
    let (asker, own) = (ip("fd77::99"), ip("fd77::11"));
    let (IpAddr::V6(source), IpAddr::V6(target)) = (asker, own) else {
        unreachable!();
    };
    let asked = ndp::solicitation(mac(99), source, target, Some(mac(11))).to_vec();
    stack.handle_frame(Instant::ZERO, RxFrame::new(asked.clone()));
    assert_eq!(drain(&mut stack, Instant::ZERO).len(), 1, "an answer");
    let mut frame = asked;
    let body = frame.split_off(ETHERNET + 40);
    let [l0, l1] = (8 + body.len() as u16).to_be_bytes();
    frame[ETHERNET + 4..ETHERNET + 7].copy_from_slice(&[l0, l1, 44]);
    frame.extend([wire::ICMPV6, 0, 0, 0, 1, 2, 3, 4]);
    frame.extend(body);
    stack.handle_frame(Instant::ZERO, RxFrame::new(frame));
    assert!(drain(&mut stack, Instant::ZERO).is_empty());
    assert_eq!(counter(&stack, "rx_fragment"), 1);
}

/// RFC 9293 section 3.9.2.3 (MUST-63), RFC 1812 section 5.3.7, RFC 1122 section 3.2.1.2 (a wrong header checksum).
#[test]
fn what_nobody_can_have_sent_and_what_came_before_is_counted_and_changes_nothing() {
    let (mut net, conn, accepted) = connected();
    let data = stream(1000);
    let sent = send(&mut net, conn, &data, 1);
    let now = net.now;
    let stack = &mut net.hosts[1];
    let valid = frames(&sent).remove(0);
    let from = |source: [u8; 4]| {
        let mut bytes = valid.bytes.to_vec();
        let header = ETHERNET..ETHERNET + 20;
        bytes[ETHERNET + 12..ETHERNET + 16].copy_from_slice(&source);
        bytes[ETHERNET + 10..ETHERNET + 12].fill(0);
        let mut sum = Sum::new();
        sum.add(&bytes[header]);
        bytes[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.finish().to_be_bytes());
        RxFrame {
            checksum: RxChecksum::Verified,
            ..RxFrame::new(bytes)
        }
    };
    let martians = [
        [127, 0, 0, 1],
        [224, 0, 0, 1],
        [255, 255, 255, 255],
        [0, 0, 0, 0],
        [10, 77, 0, 255],
        [10, 77, 0, 11],
    ];
    for (n, source) in martians.into_iter().enumerate() {
        stack.handle_frame(now, from(source));
        assert_eq!(counter(stack, "rx_bad_source"), n as u64 + 1, "{source:?}");
    }
    let mut damaged = valid.bytes.to_vec();
    damaged[ETHERNET + 10] ^= 0x5a;
    stack.handle_frame(now, RxFrame::new(damaged));
    assert_eq!(counter(stack, "rx_bad_checksum"), 1);
    assert!(received(stack, accepted).is_empty());

    stack.handle_frame(now, valid.clone());
    assert_eq!(counter(stack, "rx_tcp_overlap"), 0);
    stack.handle_frame(now, valid);
    assert_eq!(counter(stack, "rx_tcp_overlap"), 1);
    assert_eq!(received(stack, accepted), data);
}
