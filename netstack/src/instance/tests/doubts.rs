//! Owners that restart, flows that begin anew, counts that cannot be right.

use super::*;
use crate::cluster::message::Ownership;

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

/// Three members, and a session that was at the second or third of them and is over; its client begins
/// again from the same port. `moves`: it was at both.
fn over_and_again(seed: u8, moves: bool) -> (Net, SessionId, u32) {
    let mut net = Net::new(3, seed);
    net.settle();
    let first = net.connect(BULK, Vec::new(), false);
    net.run_until(Duration::from_secs(5), |net| {
        net.conns[first].received.len() > 20_000
    });
    let (session, owner) = net.sessions()[0];
    let mut last = owner.unwrap();
    if moves || last == 1 {
        for to in [2, 3] {
            if last != to {
                let now = net.now;
                let node = net.node(last);
                node.move_session(now, session, MemberId(to)).unwrap();
                let moved = |net: &mut Net| net.owner(session) == Some(to);
                net.run_until(Duration::from_secs(1), moved);
                net.run_for(Duration::from_millis(200));
                last = to;
            }
        }
    }
    net.run_until_received(Duration::from_secs(5), BULK_OCTETS as usize);
    net.run_for(Duration::from_secs(1));
    net.client = Stack::new(stack_config(CLIENT, Vec::new()), [seed ^ 0x55; 32], net.now);
    net.conns.clear();
    net.connect(BULK, Vec::new(), false);
    (net, session, last)
}

#[test]
fn a_session_that_has_moved_leaves_no_tombstone_behind_when_it_ends() {
    for seed in 40..44 {
        let (mut net, over, _) = over_and_again(seed, true);
        let begun = net.now;
        net.run_until_received(Duration::from_secs(5), BULK_OCTETS as usize);
        assert!(net.now.since(begun) < Duration::from_millis(500));
        for id in 1..=3 {
            let known = net.node(id).steering.iter();
            let mut led_on = known.filter(|(_, e)| e.claim.is_some_and(|(of, _)| of == over));
            assert_eq!(led_on.next(), None, "{id} still knows of it");
        }
        assert_eq!(net.resets, 0);
    }
}

#[test]
fn a_port_used_again_out_of_time_wait_is_opened_by_one_member_though_its_syn_is_repeated() {
    for seed in 50..58 {
        let (mut net, _, last) = over_and_again(seed, false);
        net.run_until(Duration::from_secs(1), |net| {
            net.node(last).stack.half_open_count() == 1
        });
        // The answer is lost.
        net.wire.retain(|_, (to, _)| *to != CLIENT);
        net.run_for(Duration::from_millis(900));
        net.run_until_received(Duration::from_secs(3), 1);
        assert_eq!(net.sessions()[0].1, Some(last), "seed {seed}");
        for id in 1..=3 {
            assert_eq!(net.node(id).stack.half_open_count(), 0, "at {id}");
        }
    }
}

#[test]
fn a_handshake_is_complete_though_the_first_octets_were_lost() {
    for members in [1, 3] {
        let mut net = Net::new(members, 60);
        net.settle();
        let octets = 6_000;
        net.connect(ECHO, stream(0, octets), false);
        // The first segment of the client's data, and any ACK before it.
        let data = |frame: &RxFrame| {
            let (from, _, segment) = parse(&frame.bytes)?;
            let carries = from.0 != VIP && from.1 != CHANNEL_PORT && !segment.payload.is_empty();
            carries.then_some(segment.seq)
        };
        net.run_until(Duration::from_secs(1), |net| {
            net.wire.values().any(|(_, frame)| data(frame).is_some())
        });
        let first = net.wire.values().find_map(|(_, frame)| data(frame));
        net.wire.retain(|_, (to, frame)| {
            let begins = parse(&frame.bytes).map(|(_, _, segment)| segment.seq);
            *to == CLIENT || is_channel(&frame.bytes) || begins != first
        });
        let begun = net.now;
        net.run_until(Duration::from_millis(20), |net| net.sessions().len() == 1);
        net.run_until_received(Duration::from_secs(5), octets as usize);
        let took = net.now.since(begun);
        // A time-out of the client's is a second.
        assert!(took < Duration::from_millis(700), "{members}: {took:?}");
    }
}

#[test]
fn a_route_that_leads_to_a_member_who_knows_nothing_is_forgotten() {
    let mut net = Net::new(3, 61);
    net.settle();
    net.connect(ECHO, stream(0, 100), false);
    net.run_until_received(Duration::from_secs(5), 100);
    let (session, owner) = net.sessions()[0];
    let owner = owner.unwrap();
    let stranger = if owner == 2 { 3 } else { 2 };
    if owner == 1 {
        let now = net.now;
        net.node(1).move_session(now, session, MemberId(3)).unwrap();
        net.run_until(Duration::from_secs(1), |net| net.owner(session) == Some(3));
        net.run_for(Duration::from_millis(200));
    }
    // The ingress believes in a session that is over.
    let (flow, _) = net.node(1).steering.iter().next().unwrap();
    let flow = *flow;
    let (now, over) = (net.now, SessionId::default());
    net.node(1)
        .handle_released(now, MemberId(stranger), flow, session);
    let stale = Ownership {
        flow,
        owner: MemberId(stranger),
        session: SessionId { origin: 7, ..over },
        epoch: 1,
    };
    net.node(1).steer_to(now, stale);
    net.conns[0].to_send.extend(stream(100, 300));
    net.run_until_received(Duration::from_secs(5), 300);
    assert_eq!(net.resets, 0);
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
