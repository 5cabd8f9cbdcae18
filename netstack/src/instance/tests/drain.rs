//! Leaving.

use super::*;

#[test]
fn a_drained_ingress_leaves_its_sessions_and_its_role() {
    let mut net = Net::new(2, 11);
    net.settle();
    for _ in 0..4 {
        net.connect(BULK, Vec::new(), false);
        net.connect(ECHO, stream(0, 60_000), true);
    }
    net.run_for(Duration::from_millis(3));
    let now = net.now;
    net.node(1).drain(now);
    net.run_until(Duration::from_secs(20), |net| net.nodes[0].drained);
    assert!(net.node(2).is_ingress() && !net.node(1).is_ingress());
    assert_eq!(net.node(1).sessions().len(), 0);
    // The machine is gone; its peer serves on, and new clients too.
    net.cut.insert(1);
    net.connect(ECHO, stream(0, 500), true);
    net.run_until(Duration::from_secs(60), |net| {
        net.conns.iter().all(|conn| conn.ended)
    });
    for conn in &net.conns[..8] {
        let expected = match conn.to_send.len() {
            0 => stream(0, BULK_OCTETS),
            n => stream(0, n as u64),
        };
        assert_eq!(conn.received, expected);
    }
    assert_eq!(net.conns[8].received, stream(0, 500));
    assert_eq!(net.resets, 0);
}

#[test]
fn a_drained_member_that_is_not_the_ingress_is_steered_around() {
    let mut net = Net::new(3, 12);
    net.settle();
    for _ in 0..9 {
        net.connect(ECHO, stream(0, 100), false);
    }
    net.run_until_received(Duration::from_secs(5), 100);
    let now = net.now;
    net.node(2).drain(now);
    net.run_until(Duration::from_secs(20), |net| net.nodes[1].drained);
    for _ in 0..6 {
        net.connect(ECHO, stream(0, 100), false);
    }
    net.run_until_received(Duration::from_secs(5), 100);
    assert_eq!(net.node(2).sessions().len(), 0);
    assert!(net.node(1).sessions().len() > 4 && net.node(3).sessions().len() > 4);
    assert_eq!(net.resets, 0);
}

#[test]
fn an_instance_without_peers_waits_for_its_sessions_and_then_goes() {
    let alone = InstanceConfig {
        peers: Vec::new(),
        ..config(1, 1)
    };
    let now = Instant::from_millis(1_000);
    let mut net = Net::with(alloc::vec![Node::new(alone, 3, now)], 13, now);
    net.connect(BULK, Vec::new(), false);
    net.run_until_received(Duration::from_secs(5), 10_000);
    let now = net.now;
    net.node(1).drain(now);
    net.run_until(Duration::from_secs(5), |net| net.conns[0].ended);
    assert!(!net.nodes[0].drained || net.node(1).sessions().is_empty());
    assert_eq!(net.conns[0].received, stream(0, BULK_OCTETS));
    net.allow_resets = true;
    net.run_until(Duration::from_secs(90), |net| net.nodes[0].drained);
}

#[test]
fn a_drain_ends_at_its_deadline_though_a_transfer_is_in_doubt() {
    let mut net = Net::new(2, 14);
    net.settle();
    net.connect(ECHO, stream(0, 60_000), false);
    net.run_until_received(Duration::from_secs(5), 5_000);
    let (_, Some(owner)) = net.sessions()[0] else {
        panic!("no owner");
    };
    net.cut_channels = true;
    let now = net.now;
    net.node(owner).drain(now);
    net.run_for(Duration::from_secs(50));
    assert!(!net.nodes[owner as usize - 1].drained);
    net.run_until(Duration::from_secs(30), |net| {
        net.nodes[owner as usize - 1].drained
    });
    assert_eq!(net.resets, 0, "whoever is in doubt is silent");
}

#[test]
fn an_instance_without_peers_does_not_wait_for_time_wait_to_pass() {
    let alone = InstanceConfig {
        peers: Vec::new(),
        ..config(1, 1)
    };
    let now = Instant::from_millis(1_000);
    let mut net = Net::with(alloc::vec![Node::new(alone, 1, now)], 14, now);
    // The service closes first.
    net.connect(BULK, Vec::new(), false);
    net.run_until(Duration::from_secs(5), |net| net.conns[0].ended);
    net.run_for(Duration::from_millis(500));
    let states = net.node(1).sessions();
    assert_eq!(states[0].connections[0].state, "TIME-WAIT");
    let now = net.now;
    net.node(1).drain(now);
    net.run_until(Duration::from_secs(3), |net| net.nodes[0].drained);
    assert_eq!(net.resets, 0);
}

/// A member with a session that nobody takes, and when its drain began.
fn undrainable(seed: u8, then: DrainThen) -> (Net, u32) {
    let mut net = Net::new(2, seed);
    net.allow_resets = then == DrainThen::Force;
    net.settle();
    net.connect(ECHO, stream(0, 500), false);
    net.run_until_received(Duration::from_secs(5), 500);
    let (_, Some(owner)) = net.sessions()[0] else {
        panic!("no owner");
    };
    // It refuses, every time.
    let other = 3 - owner;
    net.node(other).services[0].spec.name = "other";
    let now = net.now;
    let deadline = Duration::from_secs(5);
    net.node(owner)
        .drain_with(now, DrainOptions { deadline, then });
    net.run_for(Duration::from_secs(4));
    let status = net.node(owner).drain_status().unwrap();
    assert_eq!((status.left.total(), status.overrun), (1, None));
    net.run_for(Duration::from_secs(2));
    (net, owner)
}

#[test]
fn a_drain_that_waits_goes_on_past_its_deadline_and_says_what_keeps_it() {
    let (mut net, owner) = undrainable(15, DrainThen::Wait);
    let status = net.node(owner).drain_status().unwrap();
    let left = status.overrun.expect("the deadline has passed");
    let reasons: Vec<_> = left.iter().map(|(reason, _)| reason).collect();
    assert!(
        reasons == ["no such service"] || reasons == ["on its way"],
        "{reasons:?}"
    );
    net.node(3 - owner).services[0].spec.name = "echo";
    net.run_until(Duration::from_secs(10), |net| {
        net.nodes[owner as usize - 1].drained
    });
    assert_eq!(net.node(3 - owner).sessions().len(), 1);
    assert_eq!(net.resets, 0);
}

#[test]
fn a_cancelled_drain_leaves_an_instance_that_serves_and_takes_sessions() {
    let (mut net, owner) = undrainable(16, DrainThen::Cancel);
    assert!(net.nodes[owner as usize - 1].cancelled);
    assert_eq!(net.node(owner).drain_status(), None);
    let last = net.node(owner).cancelled_drain().cloned().unwrap();
    assert_eq!((last.moved, last.left.total()), (0, 1));
    assert_eq!(net.node(owner).sessions().len(), 1);
    net.run_for(Duration::from_millis(500));
    for _ in 0..8 {
        net.connect(BULK, Vec::new(), false);
    }
    net.run_for(Duration::from_millis(100));
    assert!(net.node(owner).sessions().len() > 1, "takes new ones");
    assert_eq!(net.resets, 0);
}

#[test]
fn a_forced_drain_resets_what_nobody_took() {
    let (mut net, owner) = undrainable(17, DrainThen::Force);
    net.run_until(Duration::from_secs(10), |net| {
        net.nodes[owner as usize - 1].drained
    });
    assert_eq!(net.node(owner).sessions_forced(), 1);
}

/// Three members with sessions of `from` only, who is not the ingress.
fn sessions_at(net: &mut Net, from: u32, count: usize) {
    net.settle();
    assert!(net.node(1).is_ingress());
    for _ in 0..count {
        net.connect(ECHO, stream(0, 100), false);
    }
    net.run_until_received(Duration::from_secs(5), 100);
    for id in (1..=3).filter(|id| *id != from) {
        let now = net.now;
        let all = net.node(id).move_all(now, MemberId(from));
        assert!(all.is_ok(), "{all:?}");
    }
    net.run_until(Duration::from_secs(5), |net| {
        net.node(from).sessions().len() == count
    });
    net.run_for(Duration::from_millis(200));
}

/// Member 2 gives its sessions to the others, and the ingress, member 1, hears nothing of member 3.
fn unheard(seed: u8, options: DrainOptions) -> Net {
    let mut net = Net::new(3, seed);
    sessions_at(&mut net, 2, 8);
    net.cut_pairs.insert((1, 3));
    let now = net.now;
    net.node(2).drain_with(now, options);
    net.run_for(Duration::from_secs(4));
    let status = net.node(2).drain_status().unwrap();
    assert!(!net.nodes[1].drained, "{status:?}");
    assert_eq!((status.moved, status.left.total()), (8, 0));
    assert_eq!(status.unconfirmed, net.node(3).sessions().len());
    assert!(status.unconfirmed > 0);
    net
}

#[test]
fn a_drain_lasts_until_the_ingress_has_confirmed_every_new_owner() {
    let mut net = unheard(18, DrainOptions::default());
    net.cut_pairs.clear();
    net.run_until(Duration::from_secs(10), |net| net.nodes[1].drained);
    let status = net.node(2).drain_status().unwrap();
    assert_eq!((status.unconfirmed, status.overrun), (0, None));
    let at = net.node(1).steering.iter();
    let at = at.filter(|(_, entry)| entry.owner == MemberId(3) && entry.claim.is_some());
    let steered = at.count();
    assert_eq!(steered, net.node(3).sessions().len());
    assert_eq!(net.resets, 0);
}

#[test]
fn what_the_ingress_has_not_confirmed_at_the_deadline_is_reported() {
    let (deadline, then) = (Duration::from_secs(5), DrainThen::Force);
    let mut net = unheard(19, DrainOptions { deadline, then });
    net.run_until(Duration::from_secs(2), |net| net.nodes[1].drained);
    let status = net.node(2).drain_status().unwrap();
    let overrun = status.overrun.unwrap();
    let reasons: Vec<_> = overrun.iter().map(|(reason, _)| reason).collect();
    assert_eq!(reasons, ["the ingress has not confirmed where they are"]);
    assert_eq!(overrun.total(), status.unconfirmed as u64);
    assert_eq!(net.node(2).sessions_forced(), 0, "they have moved");
}

#[test]
fn a_session_that_has_ended_at_its_new_owner_needs_no_route() {
    let mut net = unheard(20, DrainOptions::default());
    // Its clients close; the ingress never hears that they were there.
    let now = net.now;
    let conns: Vec<_> = net.conns.iter().map(|conn| conn.conn).collect();
    for conn in conns {
        net.client.update(now, conn, |tcp| tcp.close(now));
    }
    net.run_until(Duration::from_secs(10), |net| net.nodes[1].drained);
    assert!(net.cut_pairs.contains(&(1, 3)));
    assert_eq!(net.node(2).drain_status().unwrap().overrun, None);
    assert_eq!(net.resets, 0);
}

#[test]
fn an_ingress_goes_only_when_its_successor_holds_the_table() {
    let mut net = Net::new(3, 21);
    sessions_at(&mut net, 3, 6);
    // The owner cannot tell the successor, which forgets what it was told.
    net.cut_pairs.insert((2, 3));
    let now = net.now;
    net.node(1).drain(now);
    net.run_until(Duration::from_secs(5), |net| net.node(2).is_ingress());
    net.node(2).steering = Default::default();
    net.run_for(Duration::from_secs(5));
    let status = net.node(1).drain_status().unwrap();
    assert!(!net.nodes[0].drained, "{status:?}");
    assert_eq!((status.moved, status.unconfirmed), (0, 6));
    net.cut_pairs.clear();
    net.run_until(Duration::from_secs(10), |net| net.nodes[0].drained);
    assert_eq!(net.node(2).steering.iter().count(), 6);
}

#[test]
fn an_ingress_stays_until_nobody_has_taken_it_for_that_for_two_seconds() {
    let mut net = Net::new(2, 22);
    net.settle();
    net.connect(ECHO, stream(0, 100), false);
    net.run_until_received(Duration::from_secs(5), 100);
    let now = net.now;
    net.node(1).drain(now);
    net.run_until(Duration::from_secs(5), |net| net.node(2).is_ingress());
    net.run_for(Duration::from_millis(1_900));
    assert!(!net.nodes[0].drained);
    // A client that has not heard of the new ingress yet.
    let (now, conn) = (net.now, net.conns[0].conn);
    let piece = Bytes::from(stream(100, 103));
    net.client.update(now, conn, |tcp| tcp.send(now, piece));
    let mut frame = net.client.poll_transmit(now).expect("data").to_vec();
    frame[..6].copy_from_slice(&mac(1));
    net.node(1)
        .handle_frame(now, RxFrame::new(Bytes::from(frame)));
    net.run_for(Duration::from_millis(1_900));
    assert!(!net.nodes[0].drained);
    assert_eq!(net.conns[0].received, stream(0, 103), "it was passed on");
    net.run_for(Duration::from_millis(300));
    assert!(net.nodes[0].drained);
    // Who was not the ingress goes at once.
    let mut net = Net::new(2, 23);
    net.settle();
    let now = net.now;
    net.node(2).drain(now);
    net.run_until(Duration::from_millis(600), |net| net.nodes[1].drained);
}

#[test]
fn connections_that_are_being_opened_are_waited_for_and_move() {
    let mut net = Net::new(2, 24);
    net.settle();
    for open in [0, 8] {
        net.run_until_received(Duration::from_secs(5), 100);
        assert!(open == 0 || net.node(2).sessions().len() == 4);
        for _ in 0..8 {
            net.connect(ECHO, stream(0, 100), false);
        }
    }
    net.run_until(Duration::from_secs(1), |net| {
        net.node(2).stack.half_open_count() > 0
    });
    // Nothing of the clients comes any more, and no repetition reaches them.
    net.cut.insert(CLIENT);
    let now = net.now;
    net.node(2).drain(now);
    net.run_for(Duration::from_millis(2_500));
    let status = net.node(2).drain_status().unwrap();
    assert!(status.opening > 0 && !net.nodes[1].drained, "{status:?}");
    net.cut.clear();
    net.run_until(Duration::from_secs(5), |net| net.nodes[1].drained);
    net.run_until_received(Duration::from_secs(20), 100);
    let status = net.node(2).drain_status().unwrap();
    assert!(status.moved > 4, "{status:?}");
    assert_eq!(net.resets, 0);
}

/// Member 2 offers its session to member 3, which begins to drain and is cut off from it; the offer has
/// arrived before, or never does.
fn in_doubt_about_one_that_drains(seed: u8, arrives: bool) -> (Net, SessionId) {
    let mut net = Net::new(3, seed);
    sessions_at(&mut net, 2, 1);
    let (session, _) = net.sessions()[0];
    let now = net.now;
    if !arrives {
        net.cut.insert(2);
    }
    net.node(3).drain(now);
    net.node(2)
        .move_session(now, session, MemberId(3))
        .expect("it has not heard of the drain");
    net.pump();
    net.cut.insert(2);
    net.run_for(Duration::from_millis(100));
    let refused = net.counter(3, "transfer_refused_draining");
    assert_eq!(refused, u64::from(arrives));
    (net, session)
}

#[test]
fn a_member_that_leaves_stays_until_no_source_is_in_doubt_about_it() {
    for arrives in [false, true] {
        let (mut net, session) = in_doubt_about_one_that_drains(25, arrives);
        net.run_for(Duration::from_secs(6));
        assert!(!net.nodes[2].drained && net.owner(session).is_none());
        net.cut.clear();
        net.run_until(Duration::from_secs(10), |net| net.nodes[2].drained);
        assert_eq!(net.owner(session), Some(2), "it has had its answer");
        net.cut.insert(3);
        net.conns[0].to_send.extend(stream(100, 2_000));
        net.run_until_received(Duration::from_secs(60), 2_000);
        assert_eq!((net.counter(2, "sessions_lost"), net.resets), (0, 0));
    }
}

#[test]
fn a_member_that_is_not_heard_again_keeps_nobody_from_leaving() {
    let (mut net, _) = in_doubt_about_one_that_drains(26, true);
    net.run_until(Duration::from_secs(20), |net| net.nodes[2].drained);
    assert_eq!(net.counter(3, "drains_unparted"), 0, "it is taken for dead");
}

#[test]
fn nobody_is_offered_a_session_once_it_has_said_farewell() {
    let mut net = Net::new(3, 27);
    sessions_at(&mut net, 2, 1);
    let (session, _) = net.sessions()[0];
    let now = net.now;
    net.node(3).drain(now);
    net.run_until(Duration::from_secs(5), |net| net.nodes[2].drained);
    let now = net.now;
    let offered = net.node(2).move_session(now, session, MemberId(3));
    assert_eq!(offered, Err(MoveError::Unreachable));
}

#[test]
fn the_latest_order_of_a_drain_holds() {
    let deadline = Duration::from_secs(60);
    let then = DrainThen::Wait;
    let mut net = unheard(23, DrainOptions { deadline, then });
    net.run_for(Duration::from_secs(3));
    let now = net.now;
    let (deadline, then) = (Duration::from_secs(2), DrainThen::Cancel);
    net.node(2).drain_with(now, DrainOptions { deadline, then });
    net.run_for(Duration::from_millis(1_500));
    assert!(net.node(2).is_draining(), "it is not late yet");
    net.run_for(Duration::from_secs(1));
    assert!(!net.node(2).is_draining());
}
