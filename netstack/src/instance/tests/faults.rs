//! Refusals, strangers, damage, broken channels.

use super::*;
use crate::cluster::message::Transfer;
use crate::migrate::rope::Rope;
use crate::stack::Route;

fn echoing(net: &mut Net) -> (SessionId, u32) {
    net.settle();
    net.connect(ECHO, stream(0, 60_000), false);
    net.run_until_received(Duration::from_secs(5), 5_000);
    let [(session, Some(owner))] = net.sessions()[..] else {
        panic!("one session with an owner");
    };
    (session, owner)
}

fn finish(net: &mut Net) {
    net.run_until_received(Duration::from_secs(60), 60_000);
    assert_eq!(net.conns[0].received, stream(0, 60_000));
    assert_eq!(net.resets, 0);
}

/// A cluster in which a move from wherever the session is is refused.
fn refused(seed: u8, change: impl Fn(&mut Node), reason: &str) {
    let mut net = Net::new(2, seed);
    let (session, owner) = echoing(&mut net);
    let target = 3 - owner;
    change(&mut net.nodes[target as usize - 1]);
    let now = net.now;
    net.node(owner)
        .move_session(now, session, MemberId(target))
        .unwrap();
    assert_eq!(net.owner(session), None, "frozen");
    net.run_until(Duration::from_secs(1), |net| net.owner(session).is_some());
    assert_eq!(net.owner(session), Some(owner));
    let report = net.node(owner).moves().pop().unwrap();
    assert_eq!(report.result, alloc::format!("refused: {reason}"));
    let status = net.node(owner).sessions().pop().unwrap();
    assert!(status.epoch > report.epoch, "goes on under a higher epoch");
    finish(&mut net);
}

#[test]
fn nothing_is_offered_to_a_member_that_has_fallen_silent() {
    let mut net = Net::new(2, 24);
    let (session, owner) = echoing(&mut net);
    let target = 3 - owner;
    net.cut.insert(target);
    net.run_for(Duration::from_millis(1500));
    let now = net.now;
    let up = |net: &Net| {
        net.nodes[owner as usize - 1]
            .instance
            .members()
            .iter()
            .all(|m| m.up)
    };
    assert!(up(&net), "its channel has not ended yet");
    let node = net.node(owner);
    let one = node.move_session(now, session, MemberId(target));
    assert_eq!(one, Err(MoveError::Unreachable));
    let asked = node.may_move(now, session, MemberId(target));
    assert_eq!(asked, Err(MoveError::Unreachable));
    let all = node.move_all(now, MemberId(target));
    assert_eq!(all, Err(MoveError::Unreachable));
    assert_eq!(net.owner(session), Some(owner));
    net.cut.clear();
    net.run_for(Duration::from_secs(1));
    let now = net.now;
    net.node(owner)
        .move_session(now, session, MemberId(target))
        .unwrap();
    net.run_until(Duration::from_secs(1), |net| net.owner(session).is_some());
    assert_eq!(net.owner(session), Some(target));
    finish(&mut net);
}

#[test]
fn a_refused_session_thaws_and_goes_on() {
    refused(
        21,
        |node| {
            let spec = &mut node.instance.services[0].spec;
            (spec.oldest_state, spec.state_version) = (2, 2);
        },
        "state version unknown",
    );
    refused(
        22,
        |node| node.instance.services[0].spec.name = "other",
        "no such service",
    );
    refused(
        23,
        |node| node.instance.tcp.max_connections = 1,
        "over capacity",
    );
    refused(24, |node| node.instance.vips.clear(), "address not served");
}

#[test]
fn services_at_own_addresses_never_move() {
    let mut net = Net::new(2, 25);
    let (session, owner) = echoing(&mut net);
    net.node(owner).services[0].spec.scope = Scope::Own;
    let now = net.now;
    let result = net
        .node(owner)
        .move_session(now, session, MemberId(3 - owner));
    assert_eq!(result, Err(MoveError::NotMovable));
}

#[test]
fn damaged_capsules_are_refused_and_replayed_ones_not_imported_again() {
    let mut net = Net::new(2, 26);
    let (session, owner) = echoing(&mut net);
    let target = 3 - owner;
    // The capsule as the source makes it.
    let now = net.now;
    net.node(owner)
        .move_session(now, session, MemberId(target))
        .unwrap();
    let source = net.node(owner);
    let name = source.services[0].spec.name;
    let moving = source.moving.get_mut(&session).unwrap();
    let good = moving.encode(name).unwrap().to_vec();
    let boot = net.node(target).boot;
    let generation = moving_generation(&mut net, owner, session);
    net.run_until(Duration::from_secs(1), |net| {
        net.owner(session) == Some(target)
    });

    let offer = |net: &mut Net, epoch: u64, octets: Vec<u8>| {
        let transfer = Transfer {
            session,
            epoch,
            boot,
            generation,
        };
        let now = net.now;
        let capsule = Rope::from(octets);
        let from = MemberId(owner);
        net.node(target)
            .take_in(now, from, transfer, capsule, Duration::ZERO);
    };
    offer(&mut net, 2, good.clone());
    assert_eq!(net.counter(target, "transfer_replayed"), 1);
    offer(&mut net, 1, good.clone());
    assert_eq!(net.counter(target, "transfer_replayed"), 2, "older still");

    let mut flipped = good.clone();
    flipped[20] ^= 1;
    offer(&mut net, 10, flipped);
    assert_eq!(net.counter(target, "transfer_refused_damaged"), 1);
    offer(&mut net, 11, good[..good.len() - 1].to_vec());
    assert_eq!(net.counter(target, "transfer_refused_truncated"), 1);
    let mut unknown = good.clone();
    unknown[0] = 99;
    offer(&mut net, 12, unknown);
    assert_eq!(net.counter(target, "transfer_refused_unknown_version"), 1);
    offer(&mut net, 12, good.clone());
    assert_eq!(net.counter(target, "transfer_refused_epoch"), 1);
    offer(&mut net, 13, good);
    assert_eq!(net.counter(target, "transfer_refused_mismatch"), 1);
    assert_eq!(net.owner(session), Some(target));
    finish(&mut net);
}

fn moving_generation(net: &mut Net, owner: u32, session: SessionId) -> u64 {
    net.node(owner)
        .moving
        .get(&session)
        .unwrap()
        .source
        .generation
}

#[test]
fn a_member_with_another_key_gets_nothing() {
    let now = Instant::from_millis(1_000);
    let mut wrong = config(2, 2);
    wrong.cluster_key = Some([8; 32]);
    // Whoever has no peer serves alone, if told to.
    let mut right = config(1, 2);
    right.role.prefer = Prefer::Availability;
    let nodes = alloc::vec![Node::new(right, 1, now), Node::new(wrong, 2, now)];
    let mut net = Net::with(nodes, 27, now);
    net.run_for(Duration::from_secs(5));
    let up = |net: &mut Net, id| net.node(id).members()[0].up;
    assert!(!up(&mut net, 1) && !up(&mut net, 2));
    assert!(net.counter(2, "channel_wrong_key") > 0);
    net.connect(ECHO, stream(0, 100), true);
    net.run_until(Duration::from_secs(5), |net| net.conns[0].ended);
    let session = net.node(1).sessions()[0].id;
    let now = net.now;
    let result = net.node(1).move_session(now, session, MemberId(2));
    assert_eq!(result, Err(MoveError::Unreachable));
}

#[test]
fn a_stranger_at_the_channels_port_is_turned_away() {
    let mut net = Net::new(2, 28);
    net.settle();
    net.allow_resets = true;
    let conn = net
        .client
        .connect(net.now, None, (address(1), CHANNEL_PORT).into())
        .unwrap();
    net.run_for(Duration::from_secs(1));
    let dead = net
        .client
        .connection(conn)
        .is_none_or(|tcp| tcp.error().is_some());
    assert!(dead);
    assert_eq!(net.counter(1, "channel_strangers"), 1);
}

#[test]
fn a_broken_channel_leaves_the_session_silent_until_the_target_has_spoken() {
    for seed in 0..8 {
        let mut net = Net::new(2, 60 + seed);
        let (session, owner) = echoing(&mut net);
        let target = 3 - owner;
        let now = net.now;
        net.node(owner)
            .move_session(now, session, MemberId(target))
            .unwrap();
        // The capsule arrives and the answer does not, or neither does.
        let steps = usize::from(seed) * 3;
        for _ in 0..steps {
            let limit = net.now + Duration::from_millis(10);
            net.step(limit);
        }
        net.cut_channels = true;
        net.run_for(Duration::from_secs(8));
        let before = net.owner(session);
        assert_ne!(before, Some(owner), "never thaws on silence");
        net.cut_channels = false;
        net.run_until(Duration::from_secs(20), |net| {
            net.owner(session).is_some() && net.node(owner).moving.is_empty()
        });
        if before.is_some() {
            assert_eq!(net.owner(session), before);
        }
        finish(&mut net);
    }
}

#[test]
fn frames_of_unknown_flows_are_reset_only_when_every_member_denies_them() {
    let mut net = Net::new(2, 29);
    net.settle();
    net.connect(ECHO, stream(0, 100), false);
    net.run_until_received(Duration::from_secs(5), 100);
    let (session, Some(owner)) = net.sessions()[0] else {
        panic!("no owner");
    };
    // The ingress forgets where the flow is, and asks.
    if owner == 1 {
        let now = net.now;
        net.node(1).move_session(now, session, MemberId(2)).unwrap();
        net.run_until(Duration::from_secs(1), |net| net.owner(session) == Some(2));
        net.run_for(Duration::from_millis(20));
    }
    let flow = net.node(2).sessions.get(&session).unwrap().connections[0].flow;
    let now = net.now;
    net.node(1)
        .handle_released(now, MemberId(2), flow.into(), session);
    let more = stream(100, 300);
    net.conns[0].to_send.extend(&more);
    net.run_until_received(Duration::from_secs(5), 300);
    assert_eq!(net.counter(1, "unknown_flows_asked"), 1);

    // A member is silent: so are we.
    net.cut.insert(2);
    let now = net.now;
    net.node(1)
        .handle_released(now, MemberId(2), flow.into(), session);
    net.conns[0].to_send.extend(&more);
    net.run_for(Duration::from_secs(3));
    assert!(net.counter(1, "unknown_flows_unanswered") > 0);
    assert_eq!(net.resets, 0, "silence is not a no");

    // Nobody has it, and everyone says so.
    net.cut.clear();
    net.settle();
    net.allow_resets = true;
    let now = net.now;
    let node = net.node(2);
    let lost = node.sessions.remove(&session).unwrap();
    let conn = lost.connections[0].conn.unwrap();
    node.stack.detach(now, conn, Route::Hold);
    node.stack.drop_held(now, &flow);
    net.conns[0].to_send.extend(&more);
    net.run_until(Duration::from_secs(30), |net| {
        net.client_step();
        net.conns[0].failed
    });
    let reset = |id| net.counter(id, "unknown_flows_reset");
    assert!(reset(1) + reset(2) > 0);
}

#[test]
fn a_fence_does_not_outlive_its_source_by_long() {
    let mut net = Net::new(2, 31);
    let (session, owner) = echoing(&mut net);
    let target = 3 - owner;
    let now = net.now;
    net.node(owner)
        .move_session(now, session, MemberId(target))
        .unwrap();
    net.run_until(Duration::from_secs(1), |net| {
        net.owner(session) == Some(target)
    });
    // The source falls silent before it has said that nothing follows in the channel.
    net.cut.insert(owner);
    if owner == 1 {
        let now = net.now;
        let node = net.node(target);
        node.election.as_mut().unwrap().handle_left(MemberId(1));
        node.run_election(now);
    }
    net.run_until(Duration::from_millis(60), |net| {
        net.counter(target, "fences_expired") == 1
    });
    let status = net.node(target).sessions.get(&session).unwrap();
    assert!(status.fence.is_none() && net.node(target).fences.is_empty());
    finish(&mut net);
}
