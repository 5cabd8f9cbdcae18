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
