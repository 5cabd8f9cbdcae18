//! Whole conversations over the wire: two stacks, loss, offloads, moves between stacks, and a
//! client with another TCP.

use super::hostile::Dice;
use super::link::*;
use super::*;

const TOTAL: usize = 400_000;

fn server_at(n: u8) -> Stack {
    let mut stack = host(n);
    stack.listen(80, Scope::Service);
    stack
}

fn lossy(net: &mut Net, one_in: usize, seed: u64) {
    let mut dice = Dice(seed);
    net.loss = Box::new(move |_| dice.below(one_in) == 0);
}

#[test]
fn a_conversation_both_ways_over_ipv4_and_ipv6() {
    for to in ["10.77.0.11:80", "[fd77::11]:80"] {
        let mut net = Net::new(vec![host(99), server_at(11)]);
        converse(&mut net, (0, 1), at(to), TOTAL, |_, _| {});
        assert!(
            net.now < Instant::from_millis(1_000),
            "no time-out was needed"
        );
        // One question about the server; the client introduced itself with it.
        let asked: u64 = net
            .hosts
            .iter()
            .map(|h| counter(h, "neighbour_asked"))
            .sum();
        assert!(asked <= 2, "{asked} questions");
        // TIME-WAIT ends, and both stacks forget the connection.
        net.run_for(Duration::from_secs(130));
        assert!(net.hosts.iter().all(|host| host.connection_count() == 0));
        for events in &net.events {
            let gone = events
                .iter()
                .filter(|e| matches!(e, StackEvent::Gone { .. }));
            assert_eq!(gone.count(), 1);
        }
        assert!(
            net.hosts.iter().all(|host| host.poll_timeout().is_none()),
            "a forgotten timer"
        );
    }
}

#[test]
fn a_conversation_over_a_lossy_wire() {
    for (seed, to) in [
        (1, "10.77.0.11:80"),
        (2, "[fd77::11]:80"),
        (3, "10.77.0.11:80"),
    ] {
        let mut net = Net::new(vec![host(99), server_at(11)]);
        lossy(&mut net, 20, seed);
        converse(&mut net, (0, 1), at(to), TOTAL, |_, _| {});
    }
}

#[test]
fn devices_that_checksum_and_segment_get_fewer_and_larger_frames() {
    for to in ["10.77.0.11:80", "[fd77::11]:80"] {
        let mut frames = Vec::new();
        for offload in [false, true] {
            let mut net = Net::new(vec![host(99), server_at(11)]);
            for host in &mut net.hosts {
                host.service.capabilities = DeviceCapabilities {
                    tx_checksum: offload,
                    tso4: offload,
                    tso6: offload,
                };
            }
            converse(&mut net, (0, 1), at(to), TOTAL, |_, _| {});
            let segmented = net.log.iter().any(|f| f.frame.segmentation.is_some());
            assert_eq!(segmented, offload);
            let largest = net.log.iter().map(|f| f.frame.bytes.len()).max();
            assert!(offload || largest <= Some(1514), "{largest:?}");
            frames.push(net.log.len());
        }
        assert!(frames[1] * 2 < frames[0], "{frames:?}");
    }
}

#[test]
fn many_connections_share_the_way_out_fairly() {
    let mut net = Net::new(vec![host(99), server_at(11)]);
    let mut conns = Vec::new();
    for _ in 0..8 {
        let now = net.now;
        conns.push(
            net.hosts[0]
                .connect(now, None, at("10.77.0.11:80"))
                .unwrap(),
        );
    }
    net.run_for(Duration::from_millis(5));
    let now = net.now;
    let accepted: Vec<_> = core::iter::from_fn(|| net.accepted(1)).collect();
    assert_eq!(accepted.len(), 8);
    for conn in &accepted {
        let data = bytes::Bytes::from(vec![7; 100_000]);
        net.hosts[1].update(now, *conn, |c| c.send(now, data).unwrap());
    }
    // The first frames out belong to eight different connections.
    let ports: std::collections::BTreeSet<u16> = (0..8)
        .map(|_| {
            let frame = net.hosts[1].poll_transmit(now).unwrap().to_vec();
            let start = parse(&frame).payload.start;
            u16::from_be_bytes([frame[start + 2], frame[start + 3]])
        })
        .collect();
    assert_eq!(ports.len(), 8);
}

/// A client at host 0 and two members, the first of which is the ingress.
fn cluster() -> Net {
    let mut net = Net::new(vec![host(99), member(11), member(12)]);
    for host in 1..3 {
        net.hosts[host].listen(80, Scope::Service);
        net.hosts[host].set_ask_unknown(host == 1);
    }
    net.hosts[1].set_ingress(Instant::ZERO, true);
    net
}

/// Act as the ingress: accept every unknown SYN here.
fn accept_all(net: &mut Net) {
    let now = net.now;
    for host in 1..net.hosts.len() {
        let events = std::mem::take(&mut net.events[host]);
        for event in events {
            match event {
                StackEvent::UnknownFlow { flow, syn } => {
                    assert!(syn, "a flow was lost track of");
                    net.hosts[host].accept_here(now, &flow);
                }
                other => net.events[host].push_back(other),
            }
        }
    }
}

/// Move the conversation's server end to the other member, as the instances do: freeze and
/// capture; hold at the target; attach, then the captured frames; forward from then on.
fn hand_over(net: &mut Net, there: &mut Talker) {
    let (source, target) = (there.host, 3 - there.host);
    let now = net.now;
    let flow = net.hosts[source].flow(there.conn).unwrap();
    let (connection, hop) = net.hosts[source]
        .detach(now, there.conn, Route::Capture)
        .unwrap();
    assert!(
        net.hosts[source].connection(there.conn).is_none(),
        "the old id is dead"
    );
    let state = connection.export(now);
    net.hosts[target].set_route(now, flow, Route::Hold);
    net.run_for(Duration::from_micros(330));
    let now = net.now;
    let captured: Vec<_> = {
        let events = std::mem::take(&mut net.events[source]);
        let mut frames = Vec::new();
        for event in events {
            match event {
                StackEvent::Captured { frame, .. } => frames.push(frame),
                other => net.events[source].push_back(other),
            }
        }
        frames
    };
    let connection = Connection::import(state, now, &TcpConfig::default(), 1500).expect("imported");
    let conn = net.hosts[target]
        .attach(now, connection, hop)
        .expect("attached");
    for frame in captured {
        // Only the octets cross.
        net.hosts[target].inject(now, RxFrame::new(frame.bytes));
    }
    let member = if flow.local.is_ipv4() {
        ip(if target == 1 {
            "10.77.0.11"
        } else {
            "10.77.0.12"
        })
    } else {
        ip(if target == 1 { "fd77::11" } else { "fd77::12" })
    };
    net.hosts[source].set_route(now, flow, Route::Forward(member));
    assert_eq!(net.hosts[target].route(&flow), Some(Route::Local(conn)));
    there.host = target;
    there.conn = conn;
}

fn move_during(to: &str, loss: Option<(usize, u64)>, every: usize) -> Net {
    let mut net = cluster();
    if let Some((one_in, seed)) = loss {
        lossy(&mut net, one_in, seed);
    }
    let mut next = every;
    let mut moves = 0;
    // The handshake needs the ingress's decision.
    let now = net.now;
    let conn = net.hosts[0].connect(now, None, at(to)).unwrap();
    let limit = now + Duration::from_secs(300);
    let accepted = loop {
        assert!(net.step(limit), "no connection was accepted");
        accept_all(&mut net);
        if let Some(conn) = net.accepted(1) {
            break conn;
        }
    };
    let mut here = Talker::new(0, conn, (1, 2), TOTAL);
    let mut there = Talker::new(1, accepted, (2, 1), TOTAL);
    while !(here.done() && there.done()) {
        here.talk(&mut net);
        there.talk(&mut net);
        accept_all(&mut net);
        if there.received >= next && net.hosts[there.host].connection(there.conn).is_some() {
            next += every;
            moves += 1;
            hand_over(&mut net, &mut there);
        }
        let progress = (here.received, there.received);
        assert!(net.step(limit), "stuck at {progress:?} after {moves} moves");
    }
    assert!(moves >= TOTAL / every / 2, "{moves} moves");
    if loss.is_none() {
        for (host, conn) in [(0, conn), (there.host, there.conn)] {
            let Some(connection) = net.hosts[host].connection(conn) else {
                continue;
            };
            let counters = connection.info().counters;
            assert_eq!(counters.timeouts, 0, "a move caused a time-out");
            assert_eq!(
                counters.retransmits, 0,
                "nothing was lost, nor thought lost"
            );
        }
    }
    assert_eq!(
        net.flags().filter(|flags| flags & RST != 0).count(),
        0,
        "a reset"
    );
    net
}

#[test]
fn a_connection_moves_between_stacks_mid_transfer_and_the_client_sees_its_bytes() {
    for to in ["10.77.0.10:80", "[fd77::10]:80"] {
        let net = move_during(to, None, 20_000);
        assert!(
            net.now < Instant::from_millis(1_000),
            "a move caused a time-out"
        );
        // The hint of the client's MAC spared the target a question before its first frame, and
        // no member ever spoke ARP for the virtual address but to announce it.
        for on_wire in net
            .log
            .iter()
            .filter(|f| ethertype(&f.frame.bytes) == ETHERTYPE_ARP)
        {
            let arp = &on_wire.frame.bytes[ETHERNET..];
            let (sender, target) = (&arp[14..18], &arp[24..28]);
            let request = arp[7] == 1;
            assert!(sender != [10, 77, 0, 10] || !request || sender == target);
        }
    }
}

#[test]
fn moves_over_a_lossy_wire_lose_nothing() {
    for seed in 0..4 {
        let to = if seed % 2 == 0 {
            "10.77.0.10:80"
        } else {
            "[fd77::10]:80"
        };
        move_during(to, Some((50, seed)), 50_000);
    }
}

#[test]
fn a_flow_steered_from_its_syn_on_is_answered_directly_by_its_owner() {
    for (to, owner) in [
        ("10.77.0.10:80", "10.77.0.12"),
        ("[fd77::10]:80", "fd77::12"),
    ] {
        let mut net = cluster();
        let now = net.now;
        let conn = net.hosts[0].connect(now, None, at(to)).unwrap();
        let limit = Instant::from_millis(60_000);
        let accepted = loop {
            assert!(net.step(limit), "no connection was accepted");
            let now = net.now;
            for event in std::mem::take(&mut net.events[1]) {
                if let StackEvent::UnknownFlow { flow, syn: true } = event {
                    net.hosts[1].set_route(now, flow, Route::Forward(ip(owner)));
                }
            }
            if let Some(conn) = net.accepted(2) {
                break conn;
            }
        };
        let mut here = Talker::new(0, conn, (1, 2), TOTAL);
        let mut there = Talker::new(2, accepted, (2, 1), TOTAL);
        while !(here.done() && there.done()) {
            here.talk(&mut net);
            there.talk(&mut net);
            assert!(net.step(limit), "stuck");
        }
        assert!(counter(&net.hosts[1], "forwarded") > 100);
        assert_eq!(counter(&net.hosts[1], "tx_tcp_segments"), 0);
        // To the client the virtual address is at the ingress, and nowhere else.
        assert_eq!(
            net.hosts[0].neighbours.peek(hop(at(to).ip())),
            Some(mac(11))
        );
        for on_wire in &net.log {
            let frame = &on_wire.frame.bytes;
            if ethertype(frame) == ETHERTYPE_ARP || parse(frame).protocol != wire::TCP {
                continue;
            }
            let ethernet = Ethernet::parse(frame).unwrap();
            match on_wire.from {
                0 => assert_eq!(ethernet.dst, mac(11), "the client speaks to the ingress"),
                1 => assert_eq!((ethernet.dst, parse(frame).hop_limit), (mac(12), 63)),
                _ => assert_eq!((ethernet.dst, parse(frame).src), (mac(99), at(to).ip())),
            }
        }
    }
}

#[test]
fn damaged_copies_of_segments_do_not_disturb_a_conversation() {
    for (seed, to) in [(1, "10.77.0.11:80"), (2, "[fd77::11]:80")] {
        let mut net = Net::new(vec![host(99), server_at(11)]);
        let mut dice = Dice(seed);
        let mut seen = 0;
        converse(&mut net, (0, 1), at(to), TOTAL, |net, _| {
            let fresh: Vec<_> = net.log[seen..]
                .iter()
                .map(|on_wire| (on_wire.from, on_wire.frame.bytes.to_vec()))
                .collect();
            seen = net.log.len();
            let now = net.now;
            for (from, mut frame) in fresh {
                // One bit anywhere but in the addresses of the Ethernet header.
                let at = 12 + dice.below(frame.len() - 12);
                frame[at] ^= 1 << dice.below(8);
                net.hosts[1 - from].handle_frame(now, RxFrame::new(frame));
            }
        });
        assert!(counter(&net.hosts[1], "rx_bad_checksum") > 100);
    }
}

#[test]
fn hostile_segments_with_right_checksums_never_panic() {
    for seed in 0..6 {
        let to = if seed % 2 == 0 {
            "10.77.0.11:80"
        } else {
            "[fd77::11]:80"
        };
        let mut net = Net::new(vec![host(99), server_at(11)]);
        let mut dice = Dice(seed);
        net.hosts[0].connect(Instant::ZERO, None, at(to)).unwrap();
        net.run_for(Duration::from_millis(1));
        let accepted = net.accepted(1).unwrap();
        for round in 0..3_000 {
            let now = net.now;
            if net.hosts[1].connection(accepted).is_none() {
                break;
            }
            let data = bytes::Bytes::from(vec![1; dice.below(3000)]);
            let _ = net.hosts[1].update(now, accepted, |c| c.send(now, data));
            net.run_for(Duration::from_micros(dice.roll() % 300));
            let last = net.log.iter().rev().find(|f| f.from == 0).unwrap();
            let mut frame = last.frame.bytes.to_vec();
            if ethertype(&frame) == ETHERTYPE_ARP || parse(&frame).protocol != wire::TCP {
                continue;
            }
            let header = parse(&frame).payload.start;
            for _ in 0..1 + dice.below(3) {
                // Not the ports: the segment is for this connection. RST and SYN are rare.
                let at = header + 4 + dice.below(frame.len() - header - 4);
                if at != header + 13 || round % 50 == 0 {
                    frame[at] = dice.roll() as u8;
                }
            }
            let mut frame = RxFrame::new(frame);
            frame.checksum = RxChecksum::Verified;
            let now = net.now;
            net.hosts[1].handle_frame(now, frame);
            net.pump();
        }
    }
}

#[test]
fn updates_are_reported_once_until_they_are_looked_at() {
    let mut net = Net::new(vec![host(99), server_at(11)]);
    let conn = net.hosts[0]
        .connect(Instant::ZERO, None, at("10.77.0.11:80"))
        .unwrap();
    net.run_for(Duration::from_millis(1));
    let accepted = net.accepted(1).unwrap();
    let now = net.now;
    let data = bytes::Bytes::from(vec![1; 8_000]);
    net.hosts[0].update(now, conn, |c| c.send(now, data).unwrap());
    let frames = drain(&mut net.hosts[0], now);
    assert!(frames.len() > 4);
    events(&mut net.hosts[1]);
    for frame in frames {
        net.hosts[1].handle_frame(now, RxFrame::new(frame));
    }
    let reported = events(&mut net.hosts[1]);
    assert!(matches!(reported[..], [StackEvent::Updated(id)] if id == accepted));
    // A connection taken out reports nothing more, under an id that stays dead.
    net.hosts[1].update(now, accepted, |c| c.abort(now));
    net.hosts[1].detach(now, accepted, Route::Hold).unwrap();
    assert!(events(&mut net.hosts[1]).is_empty());
    assert!(net.hosts[1].update(now, accepted, |_| ()).is_none());
    assert!(net.hosts[1].detach(now, accepted, Route::Hold).is_none());
    assert!(
        drain(&mut net.hosts[1], now).is_empty(),
        "frozen means silent"
    );
}

/// A cluster with one connection: the client's end and the server's.
fn connected() -> (Net, ConnId, ConnId) {
    let mut net = cluster();
    let now = net.now;
    let conn = net.hosts[0]
        .connect(now, None, at("10.77.0.10:80"))
        .unwrap();
    let mut accepted = None;
    while accepted.is_none() {
        assert!(net.step(Instant::from_millis(1_000)));
        accept_all(&mut net);
        accepted = net.accepted(1);
    }
    (net, conn, accepted.unwrap())
}

#[test]
fn frames_held_for_a_connection_are_taken_before_newer_ones() {
    let (mut net, conn, accepted) = connected();
    net.run_for(Duration::from_millis(100));
    let now = net.now;
    let flow = net.hosts[1].flow(accepted).unwrap();
    let (connection, hop) = net.hosts[1].detach(now, accepted, Route::Hold).unwrap();
    let expected: Vec<u8> = (0..5000).map(|i| (i % 253) as u8).collect();
    let data = bytes::Bytes::from(expected.clone());
    net.hosts[0].update(now, conn, |c| c.send(now, data).unwrap());
    net.run_for(DELAY * 2);
    // Its SYN was held once, and now four segments.
    assert_eq!(counter(&net.hosts[1], "held"), 5);
    let now = net.now;
    let back = net.hosts[1].attach(now, connection, hop).unwrap();
    let connection = net.hosts[1].connection(back).unwrap();
    assert_eq!(connection.receive_available(), 5000, "all of it, at once");
    assert_eq!(connection.info().counters.out_of_order, 0, "in order");
    assert_ne!(back, accepted, "a new id");
    assert_eq!(net.hosts[1].route(&flow), Some(Route::Local(back)));
    let (_, error) = {
        let again = net.hosts[1].connection(back).unwrap().clone();
        net.hosts[1].attach(now, again, None).unwrap_err()
    };
    assert_eq!(error, AttachError::Occupied);
}

#[test]
fn behind_a_fence_what_comes_along_the_wire_waits_for_the_channel() {
    let (mut net, conn, mut accepted) = connected();
    net.run_for(Duration::from_millis(100));
    let now = net.now;
    let (connection, hop) = net.hosts[1].detach(now, accepted, Route::Capture).unwrap();
    let octets: Vec<u8> = (0..5000).map(|i| (i % 253) as u8).collect();
    let (older, newer) = octets.split_at(3000);
    for (part, fenced) in [(older, false), (newer, true)] {
        if fenced {
            let conn = net.hosts[1].attach_fenced(now, connection.clone(), hop);
            accepted = conn.unwrap();
        }
        let now = net.now;
        let data = bytes::Bytes::copy_from_slice(part);
        net.hosts[0].update(now, conn, |c| c.send(now, data).unwrap());
        net.run_for(DELAY * 2);
    }
    let events = core::mem::take(&mut net.events[1]);
    let captured: Vec<RxFrame> = events
        .into_iter()
        .filter_map(|event| match event {
            StackEvent::Captured { frame, .. } => Some(frame),
            _ => None,
        })
        .collect();
    let (host, conn) = (&mut net.hosts[1], accepted);
    let available = |host: &Stack| host.connection(conn).map(Connection::receive_available);
    assert_eq!(available(host), Some(0), "the wire waits");
    assert!(captured.len() >= 2);
    for frame in captured {
        host.inject(net.now, frame);
    }
    assert_eq!(available(host), Some(3000), "the channel does not");
    host.lift_fence(net.now, conn);
    assert_eq!(available(host), Some(5000));
    let counters = host.connection(conn).unwrap().info().counters;
    assert_eq!(counters.out_of_order, 0);
}

#[test]
fn a_connection_that_leaves_or_ends_behind_a_fence_leaves_no_frames_behind() {
    for ends in [false, true] {
        let (mut net, conn, accepted) = connected();
        let now = net.now;
        let (connection, hop) = net.hosts[1].detach(now, accepted, Route::Hold).unwrap();
        let fenced = net.hosts[1].attach_fenced(now, connection, hop).unwrap();
        let data = bytes::Bytes::from_static(&[1; 1000]);
        net.hosts[0].update(now, conn, |c| c.send(now, data).unwrap());
        net.run_for(DELAY * 2);
        let host = &mut net.hosts[1];
        let flow = host.flow(fenced).unwrap();
        let before = counter(host, "hold_expired");
        if ends {
            host.update(net.now, fenced, |c| c.abort(net.now));
            drain(host, net.now);
            assert_eq!(counter(host, "hold_expired"), before + 1);
        } else {
            host.detach(net.now, fenced, Route::Capture).unwrap();
            let captured = events(host)
                .into_iter()
                .filter(|event| matches!(event, StackEvent::Captured { .. }));
            assert_eq!(captured.count(), 1);
        }
        assert!(host.flows.take_held(&Packed::new(&flow)).is_empty());
    }
}

#[test]
fn a_syn_flood_stays_within_the_table() {
    let mut config = config(11);
    config.tcp.max_half_open = 8;
    let mut stack = Stack::new(config, [1; 32], Instant::ZERO);
    stack.listen(80, Scope::Service);
    let syn = |port: u16| {
        let remote = SocketAddr::new(ip("10.77.0.99"), port);
        RxFrame::new(tcp(
            (mac(99), mac(11)),
            remote,
            at("10.77.0.11:80"),
            SYN,
            1,
            b"",
        ))
    };
    for port in 1..=100 {
        stack.handle_frame(Instant::ZERO, syn(port));
    }
    assert_eq!(stack.half_open_count(), 8);
    assert_eq!(counter(&stack, "syn_cookies_sent"), 92);
    assert_eq!(counter(&stack, "syn_received"), 8);
    // All of them are given up in the end.
    while let Some(due) = stack.poll_timeout() {
        stack.handle_timeout(due);
        drain(&mut stack, due);
    }
    assert_eq!(stack.half_open_count(), 0);
    assert_eq!(counter(&stack, "half_open_expired"), 8);
}

#[test]
fn a_listener_that_does_not_accept_is_silent() {
    let mut net = Net::new(vec![host(99), host(11)]);
    let listener = net.hosts[1].listen(80, Scope::Service);
    net.hosts[1].set_accepting(listener, false);
    let conn = net.hosts[0]
        .connect(Instant::ZERO, None, at("10.77.0.11:80"))
        .unwrap();
    net.run_for(Duration::from_millis(500));
    assert_eq!(counter(&net.hosts[1], "syn_not_accepting"), 1);
    assert_eq!(net.flags().filter(|flags| flags & RST != 0).count(), 0);
    // It tries again, and finds the listener open.
    net.hosts[1].set_accepting(listener, true);
    net.run_for(Duration::from_secs(3));
    assert!(
        net.hosts[0]
            .connection(conn)
            .unwrap()
            .state()
            .is_synchronized()
    );
}

#[test]
fn a_refused_connection_is_gone_with_its_error_seen() {
    let mut net = Net::new(vec![host(99), host(11)]);
    let conn = net.hosts[0]
        .connect(Instant::ZERO, None, at("10.77.0.11:81"))
        .unwrap();
    net.run_for(Duration::from_millis(500));
    assert!(net.hosts[0].connection(conn).is_none());
    let events = &net.events[0];
    assert!(
        events
            .iter()
            .any(|e| matches!(e, StackEvent::Gone { conn: gone, .. } if *gone == conn))
    );
}

#[test]
fn a_connection_to_a_dead_neighbour_times_out_rather_than_hangs() {
    let mut net = Net::new(vec![host(99)]);
    let conn = net.hosts[0]
        .connect(Instant::ZERO, None, at("10.77.0.50:80"))
        .unwrap();
    net.run_for(Duration::from_secs(600));
    assert!(net.hosts[0].connection(conn).is_none());
    assert_eq!(net.hosts[0].poll_timeout(), None);
}

#[test]
fn a_path_with_a_smaller_mtu_is_found_out_by_icmp() {
    for to in ["10.77.0.11:80", "[fd77::11]:80"] {
        let mut net = Net::new(vec![host(99), server_at(11)]);
        // A router that takes 1300 octets at most sits between the two.
        let limit = 1300;
        net.loss = Box::new(move |on_wire| on_wire.frame.bytes.len() > ETHERNET + limit);
        let mut told = 0;
        converse(&mut net, (0, 1), at(to), 100_000, |net, _| {
            let from = told;
            told = net.log.len();
            let big: Vec<_> = net.log[from..]
                .iter()
                .filter(|f| f.frame.bytes.len() > ETHERNET + limit)
                .map(|f| (f.from, f.frame.bytes.clone()))
                .collect();
            for (sender, frame) in big {
                let error = steering::too_big_about(&frame, limit as u16);
                let now = net.now;
                net.hosts[sender].handle_frame(now, error);
            }
        });
        assert!(net.now < Instant::from_millis(5_000), "{:?}", net.now);
        let big = net
            .log
            .iter()
            .filter(|f| f.frame.bytes.len() > ETHERNET + limit);
        assert!(
            big.count() < 60,
            "it went on with segments that are too big"
        );
    }
}
