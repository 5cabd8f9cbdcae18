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
    assert_eq!(
        (status.left.values().sum::<usize>(), status.overdue),
        (1, false)
    );
    net.run_for(Duration::from_secs(2));
    (net, owner)
}

#[test]
fn a_drain_that_waits_goes_on_past_its_deadline_and_says_what_keeps_it() {
    let (mut net, owner) = undrainable(15, DrainThen::Wait);
    let status = net.node(owner).drain_status().unwrap();
    assert!(status.overdue);
    let reasons: Vec<_> = status.left.keys().copied().collect();
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
