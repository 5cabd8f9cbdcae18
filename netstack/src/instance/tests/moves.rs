//! Moves at every moment of a connection's life.

use super::*;

fn payload(octets: u64) -> Vec<u8> {
    stream(7, 7 + octets)
}

/// Move every session to the other instance of two, wherever it is.
fn swap_all(net: &mut Net) -> usize {
    let now = net.now;
    let mut begun = 0;
    for (session, owner) in net.sessions() {
        let Some(owner) = owner else {
            continue;
        };
        let to = MemberId(3 - owner);
        begun += usize::from(net.node(owner).move_session(now, session, to).is_ok());
    }
    begun
}

#[test]
fn a_session_moves_and_the_client_sees_one_stream() {
    let mut net = Net::new(2, 1);
    net.settle();
    net.connect(ECHO, payload(30_000), false);
    net.run_until_received(Duration::from_secs(5), 10_000);
    let [(session, Some(owner))] = net.sessions()[..] else {
        panic!("one session with an owner");
    };
    assert_eq!(swap_all(&mut net), 1);
    net.run_until(Duration::from_secs(1), |net| {
        net.owner(session) == Some(3 - owner)
    });
    net.run_until_received(Duration::from_secs(5), 30_000);
    assert_eq!(net.conns[0].received, payload(30_000));
    let moves = net.node(owner).moves();
    assert_eq!(moves.len(), 1);
    assert_eq!((moves[0].result.as_str(), moves[0].epoch), ("accepted", 2));
}

#[test]
fn the_capsule_of_an_idle_session_is_small() {
    let mut net = Net::new(2, 9);
    net.settle();
    net.connect(ECHO, payload(30_000), false);
    net.run_until_received(Duration::from_secs(5), 30_000);
    net.run_for(Duration::from_secs(30));
    swap_all(&mut net);
    net.run_for(Duration::from_secs(1));
    let moves = [net.node(1).moves(), net.node(2).moves()].concat();
    let size = moves[0].capsule_bytes;
    assert!((100..=220).contains(&size), "{size} octets");
}

/// An echo and a download, with a swap at every `every`-th packet.
fn exchange(seed: u8, every: u64, first: u64, faults: Faults) -> u64 {
    let mut net = Net::new(2, seed);
    net.settle();
    net.faults = faults;
    net.connect(ECHO, payload(40_000), true);
    net.connect(BULK, Vec::new(), false);
    let mut next = net.packets + first;
    let mut moves = 0;
    net.run_until(Duration::from_secs(120), |net| {
        if net.packets >= next {
            let begun = swap_all(net) as u64;
            moves += begun;
            if begun > 0 {
                next = net.packets + every;
            }
        }
        assert!(
            net.conns.iter().all(|conn| !conn.failed),
            "a connection failed"
        );
        net.conns.iter().all(|conn| conn.ended)
    });
    assert_eq!(net.conns[0].received, payload(40_000), "echo");
    assert_eq!(net.conns[1].received, stream(0, BULK_OCTETS), "bulk");
    assert_eq!(net.resets, 0);
    moves
}

#[test]
fn moves_at_every_packet_keep_the_streams_exact() {
    for first in 0..40 {
        let moves = exchange(2, 1_000_000, first, Faults::default());
        assert!(moves > 0, "nothing moved at packet {first}");
    }
}

#[test]
fn moving_to_and_fro_all_the_time_still_gets_on() {
    for every in [3, 7, 20] {
        let moves = exchange(3, every, 1, Faults::default());
        assert!(moves > 3, "only {moves} moves, every {every} packets");
    }
}

#[test]
fn moves_under_loss_duplication_and_reordering_keep_the_streams_exact() {
    for seed in 0..12 {
        let faults = Faults {
            loss: 30,
            duplicate: 30,
            reorder: 100,
        };
        exchange(40 + seed, 9 + u64::from(seed), u64::from(seed), faults);
    }
}

/// Move the only session to and fro, beginning when it is in `state`.
fn move_in(state: &str, port: u16, octets: u64, close: bool, pause: bool) {
    let mut net = Net::new(2, 5);
    net.settle();
    net.clients_stay = state == "FIN-WAIT-2";
    net.connect(port, payload(octets), close);
    let reached = |net: &Net| {
        let sessions = net.nodes.iter().flat_map(|node| node.instance.sessions());
        sessions
            .flat_map(|s| s.connections)
            .any(|c| c.state == state)
    };
    for node in &mut net.nodes {
        node.paused = pause;
    }
    net.run_until(Duration::from_secs(20), |net| reached(net));
    for round in 0..3 {
        // It may end on the way.
        let begun = swap_all(&mut net);
        assert!(begun == 1 || round > 0, "{state}");
        net.run_for(Duration::from_millis(150));
    }
    net.clients_stay = false;
    for node in &mut net.nodes {
        node.paused = false;
        node.resume(net.now);
    }
    net.run_until(Duration::from_secs(20), |net| net.conns[0].ended);
    net.run_for(Duration::from_secs(150));
    let expected = match port {
        ECHO => payload(octets),
        _ => stream(0, BULK_OCTETS),
    };
    assert_eq!(net.conns[0].received, expected, "{state}");
    assert_eq!(net.sessions(), [], "sessions end wherever they are");
    assert_eq!(net.resets, 0);
}

#[test]
fn a_session_moves_in_every_closing_state() {
    move_in("CLOSE-WAIT", ECHO, 2_000, true, true);
    move_in("LAST-ACK", ECHO, 2_000, true, false);
    move_in("FIN-WAIT-1", BULK, 0, false, false);
    move_in("FIN-WAIT-2", BULK, 0, false, false);
    move_in("TIME-WAIT", BULK, 0, false, false);
}

#[test]
fn a_session_goes_round_three_instances() {
    let mut net = Net::new(3, 6);
    net.settle();
    net.connect(BULK, Vec::new(), false);
    net.run_until_received(Duration::from_secs(5), 5_000);
    for _ in 0..7 {
        let (session, owner) = net.sessions()[0];
        let Some(owner) = owner else {
            break;
        };
        let to = owner % 3 + 1;
        let now = net.now;
        if net
            .node(owner)
            .move_session(now, session, MemberId(to))
            .is_err()
        {
            break;
        }
        net.run_until(Duration::from_secs(2), |net| net.owner(session) == Some(to));
    }
    net.run_until(Duration::from_secs(20), |net| net.conns[0].ended);
    assert_eq!(net.conns[0].received, stream(0, BULK_OCTETS));
}

#[test]
fn a_new_session_goes_to_the_less_loaded_member() {
    let mut net = Net::new(2, 8);
    net.settle();
    for _ in 0..10 {
        net.connect(ECHO, payload(100), false);
        net.run_for(Duration::from_millis(300));
    }
    let loads: Vec<usize> = net
        .nodes
        .iter()
        .map(|node| node.instance.sessions().len())
        .collect();
    assert_eq!(loads, [5, 5]);
}

#[test]
#[ignore = "prints what the parts of a move take on this machine; run with --release --nocapture"]
fn what_a_move_costs() {
    fn clock() -> Instant {
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        let start = START.get_or_init(std::time::Instant::now);
        Instant::from_nanos(start.elapsed().as_nanos() as u64)
    }
    for (name, port, octets) in [("idle", ECHO, 100), ("busy", BULK, 0)] {
        let mut net = Net::new(2, 10);
        for node in &mut net.nodes {
            node.instance.set_clock(clock);
        }
        net.settle();
        net.connect(port, payload(octets), false);
        net.run_until_received(Duration::from_secs(5), 100);
        let mut reports = Vec::new();
        for _ in 0..400 {
            swap_all(&mut net);
            net.run_for(Duration::from_millis(if port == ECHO { 101 } else { 1 }));
            for node in &net.nodes {
                reports.extend(node.instance.moves().pop());
            }
        }
        let median = |pick: fn(&MoveReport) -> u128| {
            let mut all: Vec<u128> = reports.iter().map(pick).collect();
            all.sort_unstable();
            all[all.len() / 2]
        };
        std::eprintln!(
            "{name}: {} octets; ns: export {} seal {} open {} import {}",
            median(|r| r.capsule_bytes.into()),
            median(|r| r.export.as_nanos()),
            median(|r| r.seal.as_nanos()),
            median(|r| r.open.as_nanos()),
            median(|r| r.import.as_nanos()),
        );
    }
}

#[test]
fn sessions_told_to_move_wait_for_a_target_that_has_no_room_but_not_for_ever() {
    let nodes = (1..=2).map(|id| {
        let mut config = config(id, 2);
        if id == 2 {
            config.stack.tcp.max_connections = 4;
        }
        Node::new(config, id as u8, Instant::from_millis(1_000))
    });
    let mut net = Net::with(nodes.collect(), 120, Instant::from_millis(1_000));
    net.settle();
    for _ in 0..6 {
        net.connect(ECHO, payload(100), false);
    }
    net.run_until_received(Duration::from_secs(5), 100);
    let now = net.now;
    net.node(2).move_all(now, MemberId(1)).unwrap();
    let there = |net: &mut Net| net.node(2).sessions().len();
    net.run_until(Duration::from_secs(1), |net| there(net) == 0);
    net.run_for(Duration::from_millis(300));

    let now = net.now;
    assert_eq!(net.node(1).move_all(now, MemberId(2)), Ok(6));
    net.run_for(Duration::from_secs(2));
    let most = there(&mut net);
    assert!((1..4).contains(&most), "{most}");
    assert_eq!(net.counter(1, "moves_not_begun"), 0, "they wait");
    // One makes room for another.
    let ends = net.node(2).sessions()[0].remotes[0].port();
    let port = |net: &Net, conn: ConnId| net.client.flow(conn).map(|flow| flow.local.port());
    let mut conns = net.conns.iter().map(|conn| conn.conn);
    let conn = conns.find(|conn| port(&net, *conn) == Some(ends)).unwrap();
    let now = net.now;
    net.client.update(now, conn, |tcp| tcp.close(now));
    let imported = |net: &Net| net.counter(2, "sessions_imported");
    let before = imported(&net);
    net.run_until(Duration::from_secs(5), |net| imported(net) == before + 1);
    net.run_for(Duration::from_secs(10));
    assert_eq!(net.counter(1, "moves_not_begun"), 5 - most as u64);
    let moves = net.node(1).moves();
    let last = moves.last().unwrap();
    assert_eq!(last.result, "not begun: that member has no room");
    assert_eq!(net.resets, 0);
}

#[test]
fn two_services_at_two_addresses_move_and_outlive_the_ingress() {
    let now = Instant::from_millis(1_000);
    let nodes = (1..=3).map(|id| {
        let mut config = config(id, 3);
        config.stack.vips.push(OTHER_VIP);
        Node::new(config, 60 + id as u8, now)
    });
    let mut net = Net::with(nodes.collect(), 61, now);
    net.settle();
    let open = |net: &mut Net| {
        for vip in [VIP, OTHER_VIP] {
            net.connect_to(vip, ECHO, stream(0, 9_000), false);
            net.connect_to(vip, BULK, Vec::new(), false);
        }
    };
    open(&mut net);
    net.run_until(Duration::from_secs(1), |net| net.sessions().len() == 4);
    // Those of all four services away from the ingress, in the middle of their streams.
    for to in [3, 2] {
        for (session, owner) in net.sessions() {
            let now = net.now;
            if let Some(owner) = owner.filter(|owner| *owner != to) {
                let source = net.node(owner);
                source.move_session(now, session, MemberId(to)).unwrap();
            }
        }
        net.run_for(Duration::from_millis(300));
        assert!(net.sessions().iter().all(|(_, owner)| *owner == Some(to)));
    }
    net.cut.insert(1);
    net.run_for(Duration::from_secs(5));
    open(&mut net);
    net.run_until_received(Duration::from_secs(10), 9_000);
    let bulk = |net: &mut Net| {
        let mut bulk = net.conns.iter().skip(1).step_by(2);
        bulk.all(|conn| conn.received == stream(0, BULK_OCTETS))
    };
    net.run_until(Duration::from_secs(10), bulk);
    assert_eq!(net.resets, 0);
}
