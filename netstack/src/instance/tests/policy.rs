//! Sessions given away unasked, between real instances.

use super::*;

const HALF_OPEN: u32 = 64;

/// Two members with this policy, and 24 sessions at the second that have been there for long.
fn balanced(policy: PolicyConfig) -> Net {
    let now = Instant::from_millis(1_000);
    let node = |id| {
        let mut config = config(id, 2);
        config.stack.tcp.max_half_open = HALF_OPEN;
        Node::new(config, id as u8, now)
    };
    let mut net = Net::with(alloc::vec![node(1), node(2)], 97, now);
    net.settle();
    for _ in 0..24 {
        net.connect(ECHO, stream(0, 10), false);
    }
    net.run_until_received(Duration::from_secs(5), 10);
    for (session, owner) in net.sessions() {
        if owner == Some(1) {
            let now = net.now;
            net.node(1).move_session(now, session, MemberId(2)).unwrap();
        }
    }
    net.run_for(Duration::from_secs(1));
    net.run_for(crate::cluster::balance::SETTLED);
    assert_eq!(net.node(2).sessions().len(), 24);
    for node in &mut net.nodes {
        node.instance.set_policy(policy.clone());
    }
    net
}

fn config_of(dry_run: bool, triggers: &[Trigger]) -> PolicyConfig {
    PolicyConfig {
        triggers: triggers.to_vec(),
        dry_run,
        ..PolicyConfig::default()
    }
}

#[test]
fn load_goes_to_the_member_that_has_none_and_stays() {
    let mut net = balanced(config_of(false, &[Trigger::Load]));
    net.run_for(Duration::from_secs(12));
    assert_eq!(net.node(1).sessions().len(), 12);
    assert_eq!(net.counter(2, "policy_load_moves"), 12);
    net.run_for(Duration::from_secs(120));
    assert_eq!(net.counter(2, "policy_load_moves"), 12);
    assert_eq!(net.counter(1, "policy_load_moves"), 0);
    assert_eq!(net.resets, 0);
}

#[test]
fn a_dry_run_moves_nothing_and_tells_what_it_would() {
    let mut net = balanced(config_of(true, &[Trigger::Load]));
    net.run_for(Duration::from_secs(20));
    assert_eq!(net.node(2).sessions().len(), 24);
    assert!(net.counter(2, "policy_load_dry") >= 12);
    assert_eq!(net.counter(2, "policy_load_moves"), 0);
    let status = net.node(2).policy_status();
    assert!(status.dry_run);
    let load = status
        .triggers
        .iter()
        .find(|t| t.trigger == Trigger::Load)
        .unwrap();
    assert_eq!(load.would_move, [(MemberId(1), 12)]);
    assert!(load.wrong.is_some() && load.enabled && load.sees.contains("24 sessions here"));
}

#[test]
fn without_a_policy_nothing_moves_and_the_triggers_tell_all_the_same() {
    let mut net = balanced(config_of(false, &[]));
    net.run_for(Duration::from_secs(60));
    assert_eq!(net.node(2).sessions().len(), 24);
    let status = net.node(2).policy_status();
    assert!(status.triggers.iter().all(|trigger| !trigger.enabled));
    assert!(
        status
            .triggers
            .iter()
            .any(|t| t.due && t.trigger == Trigger::Load)
    );
}

#[test]
fn a_flood_of_half_open_connections_sends_sessions_to_the_calm_member() {
    let mut net = balanced(config_of(false, &[Trigger::Flood]));
    // Clients that never answer the SYN-ACK; straight to member 2, as if steered there.
    net.cut.insert(CLIENT);
    while net.client.poll_transmit(net.now).is_some() {}
    for _ in 0..HALF_OPEN / 8 * 7 {
        let now = net.now;
        net.client.connect(now, None, (VIP, ECHO).into()).unwrap();
        while let Some(frame) = net.client.poll_transmit(now) {
            let mut frame = frame.to_vec();
            frame[..6].copy_from_slice(&mac(2));
            net.node(2).handle_frame(now, RxFrame::new(frame));
        }
    }
    net.run_for(Duration::from_secs(12));
    let shed = net.counter(2, "policy_flood_moves");
    assert!(shed >= 6, "{shed} shed");
    assert_eq!(net.node(1).sessions().len() as u64, shed);
    assert_eq!(net.counter(1, "policy_flood_moves"), 0);
}

#[test]
fn nothing_is_given_to_a_member_that_does_not_read_it() {
    let now = Instant::from_millis(1_000);
    let node = |id, newest| {
        let edition = Edition {
            reads: 1..=newest,
            ..Edition::default()
        };
        Node::of(config(id, 2), id as u8, now, edition)
    };
    // The second is of a newer release, and all sessions are there.
    let mut net = Net::with(alloc::vec![node(1, 1), node(2, 2)], 98, now);
    net.settle();
    for _ in 0..24 {
        net.connect(ECHO, stream(0, 10), false);
    }
    net.run_until_received(Duration::from_secs(5), 10);
    for (session, owner) in net.sessions() {
        if owner == Some(1) {
            let now = net.now;
            net.node(1).move_session(now, session, MemberId(2)).unwrap();
        }
    }
    net.run_for(Duration::from_secs(1));
    for conn in &mut net.conns {
        conn.to_send.extend(stream(10, 20));
    }
    net.run_until_received(Duration::from_secs(5), 20);
    net.run_for(crate::cluster::balance::SETTLED);
    let all = [Trigger::Load, Trigger::Flood, Trigger::Health];
    net.node(2).set_policy(config_of(false, &all));
    net.run_for(Duration::from_secs(30));
    assert_eq!(net.node(2).sessions().len(), 24);
    assert_eq!(net.counter(1, "transfer_refused_state_version"), 0);
    assert_eq!(net.counter(2, "policy_load_moves"), 0);
    let triggers = net.node(2).policy_status().triggers;
    assert!(triggers.iter().all(|trigger| trigger.would_move.is_empty()));
}

#[test]
fn a_member_without_memory_gives_sessions_to_one_that_has_some() {
    let now = Instant::from_millis(1_000);
    let node = |id| {
        let mut config = config(id, 2);
        if id == 2 {
            config.stack.tcp.memory = 60_000;
        }
        Node::new(config, id as u8, now)
    };
    let mut net = Net::with(alloc::vec![node(1), node(2)], 99, now);
    net.settle();
    for _ in 0..40 {
        net.connect(ECHO, Vec::new(), false);
    }
    net.run_for(Duration::from_secs(1));
    net.node(2).set_policy(config_of(false, &[Trigger::Health]));
    let before = net.node(2).sessions().len();
    assert!(before >= 15, "{before}");
    // Nobody reads there, and its queues fill.
    net.nodes[1].paused = true;
    for conn in &mut net.conns {
        conn.to_send = stream(0, 20_000);
    }
    net.run_for(Duration::from_secs(10));
    let given = net.counter(2, "policy_health_moves");
    assert!(given >= 2, "{given} given");
    let status = net.node(2).policy_status();
    assert!(status.triggers[0].sees.contains("memory"), "{status:?}");
    assert_eq!(net.counter(1, "policy_health_moves"), 0);
    net.nodes[1].paused = false;
    let now = net.now;
    net.nodes[1].resume(now);
    net.run_until_received(Duration::from_secs(120), 20_000);
    assert_eq!(net.resets, 0);
}

#[test]
fn sessions_that_never_leave_are_no_load() {
    let mut net = balanced(config_of(false, &[]));
    // Somebody asks the first how it is, again and again.
    net.node(1).add_service(ServiceSpec {
        name: "own",
        port: 9100,
        scope: Scope::Own,
        state_version: 1,
        oldest_state: 1,
        states: None,
    });
    net.nodes[0].services.push(9100);
    for _ in 0..24 {
        net.connect_to(address(1), 9100, Vec::new(), false);
    }
    net.run_for(Duration::from_secs(1));
    assert_eq!(net.node(1).sessions().len(), 24);
    net.node(2).set_policy(config_of(false, &[Trigger::Load]));
    net.run_for(Duration::from_secs(12));
    assert_eq!(net.counter(2, "policy_load_moves"), 12);
}
