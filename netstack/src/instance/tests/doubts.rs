//! Owners that restart, flows that begin anew, counts that cannot be right.

use super::*;

#[test]
fn a_port_used_again_out_of_time_wait_is_served_wherever_its_last_session_was() {
    for moved in [false, true] {
        let mut net = Net::new(2, 7);
        net.settle();
        let first = net.connect(BULK, Vec::new(), false);
        net.run_until(Duration::from_secs(5), |net| {
            net.conns[first].received.len() > 20_000
        });
        let (session, owner) = net.sessions()[0];
        assert_eq!(owner, Some(1));
        if moved {
            let now = net.now;
            net.node(1).move_session(now, session, MemberId(2)).unwrap();
        }
        net.run_until_received(Duration::from_secs(5), BULK_OCTETS as usize);
        net.run_for(Duration::from_secs(1));
        // The same client program again, from the same port.
        net.client = Stack::new(stack_config(CLIENT, Vec::new()), [7 ^ 0x55; 32], net.now);
        net.conns.clear();
        let begun = net.now;
        net.connect(BULK, Vec::new(), false);
        net.run_until_received(Duration::from_secs(5), BULK_OCTETS as usize);
        assert!(net.now.since(begun) < Duration::from_millis(500));
        assert_eq!(net.resets, 0);
    }
}

#[test]
fn a_target_that_passed_the_session_on_and_restarted_does_not_cost_it() {
    let mut net = Net::new(3, 9);
    net.settle();
    net.connect(ECHO, stream(0, 3_000), false);
    net.run_until_received(Duration::from_secs(5), 3_000);
    net.run_for(Duration::from_millis(300));
    let (session, owner) = net.sessions()[0];
    let source = owner.unwrap();
    let (target, third) = match source {
        1 => (2, 3),
        2 => (3, 1),
        _ => (2, 1),
    };
    let now = net.now;
    net.node(source)
        .move_session(now, session, MemberId(target))
        .unwrap();
    net.pump();
    // The capsule is out; the answer does not come back.
    net.cut.insert(source);
    net.run_until(Duration::from_secs(1), |net| {
        let there = net.node(target).sessions();
        there.iter().any(|s| s.id == session)
    });
    net.run_for(Duration::from_millis(200));
    let now = net.now;
    net.node(target)
        .move_session(now, session, MemberId(third))
        .unwrap();
    net.run_for(Duration::from_secs(4));
    assert_eq!(net.owner(session), Some(third));
    let now = net.now;
    net.nodes[target as usize - 1] = Node::new(config(target, 3), 77, now);
    net.cut.clear();
    net.run_for(Duration::from_secs(10));
    assert_eq!(net.counter(source, "sessions_lost"), 1);
    net.conns[0].to_send.extend(stream(3_000, 6_000));
    net.run_until_received(Duration::from_secs(60), 6_000);
    assert_eq!(net.conns[0].received, stream(0, 6_000));
    assert_eq!(net.resets, 0);
}

#[test]
fn a_session_that_is_lost_with_its_target_is_reset_when_its_client_speaks() {
    let mut net = Net::new(2, 10);
    net.settle();
    net.connect(ECHO, stream(0, 3_000), false);
    net.run_until_received(Duration::from_secs(5), 3_000);
    net.run_for(Duration::from_millis(300));
    let (session, owner) = net.sessions()[0];
    let source = owner.unwrap();
    let target = 3 - source;
    let now = net.now;
    net.node(source)
        .move_session(now, session, MemberId(target))
        .unwrap();
    net.pump();
    net.cut.insert(source);
    net.run_for(Duration::from_secs(4));
    let now = net.now;
    net.nodes[target as usize - 1] = Node::new(config(target, 2), 78, now);
    net.cut.clear();
    net.settle();
    net.run_for(Duration::from_secs(5));
    assert_eq!(net.counter(source, "sessions_lost"), 1);
    net.allow_resets = true;
    net.conns[0].to_send.extend(stream(3_000, 4_000));
    net.run_until(Duration::from_secs(60), |net| {
        net.client_step();
        net.conns[0].failed
    });
}

#[test]
fn an_epoch_that_was_never_counted_is_refused_and_burns_nothing() {
    let mut net = Net::new(2, 5);
    net.settle();
    net.connect(ECHO, stream(0, 1_000), false);
    net.run_until_received(Duration::from_secs(5), 1_000);
    let (session, owner) = net.sessions()[0];
    let owner = owner.unwrap();
    let target = MemberId(3 - owner);
    let right = net.node(owner).sessions.get(&session).unwrap().epoch;
    for (epoch, moves) in [(MAX_COUNT, false), (right, true)] {
        let now = net.now;
        net.node(owner).sessions.get_mut(&session).unwrap().epoch = epoch;
        net.node(owner).move_session(now, session, target).unwrap();
        net.run_for(Duration::from_secs(1));
        assert_eq!(net.owner(session) == Some(target.0), moves, "{epoch:x}");
    }
    assert_eq!(net.counter(target.0, "transfer_refused_malformed"), 1);
    let now = net.now;
    let member = net.node(target.0).members.get(MemberId(owner)).unwrap();
    let mut heartbeat = member.heartbeat.unwrap();
    heartbeat.term = u64::MAX;
    net.node(target.0)
        .handle_heartbeat(now, MemberId(owner), heartbeat);
    assert_eq!(net.counter(target.0, "terms_out_of_range"), 1);
}

#[test]
fn a_session_on_its_way_is_not_promised_to_another_member() {
    let mut net = Net::new(3, 15);
    net.settle();
    net.connect(ECHO, stream(0, 1_000), false);
    net.run_until_received(Duration::from_secs(5), 1_000);
    let (session, owner) = net.sessions()[0];
    let first = owner.unwrap();
    let others: Vec<u32> = (1..=3).filter(|id| *id != first).collect();
    let (second, third) = (others[0], others[1]);
    let now = net.now;
    net.node(first)
        .move_session(now, session, MemberId(second))
        .unwrap();
    net.run_until(Duration::from_secs(1), |net| {
        net.owner(session) == Some(second)
    });
    // It has only just arrived, so this one waits; another one has to be refused.
    let now = net.now;
    let node = net.node(second);
    node.move_session(now, session, MemberId(third)).unwrap();
    let again = node.move_session(now, session, MemberId(first));
    assert_eq!(again, Err(MoveError::NotMovable));
    net.run_until(Duration::from_secs(1), |net| {
        net.owner(session) == Some(third)
    });
}

#[test]
fn members_agree_on_a_clock_whenever_they_were_booted() {
    let mut net = Net::new(3, 16);
    net.run_for(Duration::from_secs(5));
    // One comes later, with a clock that begins anew; here all read the same `now`, so its cluster
    // clock is what it was told.
    let now = net.now;
    net.node(1).follow_clock(now, 77_000_000_000);
    net.run_for(Duration::from_secs(1));
    let now = net.now;
    let clocks: Vec<u64> = (1..=3).map(|id| net.node(id).cluster_clock(now)).collect();
    assert!(clocks[0] > 77_000_000_000);
    for clock in &clocks {
        let apart = clock.abs_diff(clocks[0]);
        assert!(apart < 5_000_000, "{clocks:?}");
    }
}
