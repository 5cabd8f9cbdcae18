//! Frames that follow a session where the ingress is a third member.

use super::*;
use crate::cluster::message::Attempt;

/// Three instances, and a client that sends all the time to one that is not the ingress.
fn away_from_the_ingress(octets: u64) -> (Net, SessionId, Vec<u8>) {
    let sent = stream(7, 7 + octets);
    let mut net = Net::new(3, 31);
    net.connect(ECHO, sent.clone(), false);
    net.run_until_received(Duration::from_secs(5), 50_000);
    let [(session, Some(owner))] = net.sessions()[..] else {
        panic!("one session with an owner");
    };
    if owner != 2 {
        go(&mut net, session, owner, 2);
    }
    (net, session, sent)
}

fn go(net: &mut Net, session: SessionId, from: u32, to: u32) {
    let now = net.now;
    let node = net.node(from);
    assert!(node.move_session(now, session, MemberId(to)).is_ok());
    net.run_until(Duration::from_secs(1), |net| net.owner(session) == Some(to));
}

fn finish(net: &mut Net, sent: &[u8]) {
    net.run_until_received(Duration::from_secs(20), sent.len());
    assert!(net.conns[0].received == sent, "the stream is exact");
    // The last answers.
    net.run_for(Duration::from_millis(100));
    for id in 1..=3 {
        let node = net.node(id);
        assert!(node.following.is_empty() && node.follow_ends.is_empty());
        assert!(node.frozen.is_empty());
    }
}

#[test]
fn the_ingress_says_when_it_has_changed_the_route() {
    let (mut net, session, sent) = away_from_the_ingress(2_000_000);
    let mut at = 2;
    for _ in 0..10 {
        net.run_for(Duration::from_millis(120));
        if net.owner(session) != Some(at) {
            break;
        }
        go(&mut net, session, at, 5 - at);
        at = 5 - at;
    }
    finish(&mut net, &sent);
    for id in [2, 3] {
        assert_eq!(net.counter(id, "reroutes_not_confirmed"), 0, "{id}");
        assert_eq!(net.counter(id, "fences_expired"), 0, "{id}");
    }
}

#[test]
fn a_session_that_goes_on_or_back_at_once_is_followed_to_where_it_is() {
    let (mut net, session, sent) = away_from_the_ingress(2_000_000);
    // Faster than the ingress can hear of it, all three ways round.
    for (from, to) in [(2, 3), (3, 2), (2, 3), (3, 1), (1, 2), (2, 1)] {
        net.run_until(Duration::from_secs(1), |net| {
            let now = net.now;
            let node = net.node(from);
            node.sessions
                .get(&session)
                .is_some_and(|session| session.movable_at(now) <= now)
        });
        go(&mut net, session, from, to);
    }
    finish(&mut net, &sent);
}

#[test]
fn word_of_the_route_that_comes_before_the_answer_is_not_forgotten() {
    let (mut net, session, sent) = away_from_the_ingress(1_000_000);
    net.run_until(Duration::from_secs(1), |net| {
        let now = net.now;
        let session = net.node(2).sessions.get(&session);
        session.is_some_and(|session| session.movable_at(now) <= now)
    });
    let now = net.now;
    let node = net.node(2);
    node.move_session(now, session, MemberId(3)).unwrap();
    let epoch = node.moving.get(&session).unwrap().source.epoch;
    node.handle_rerouted(now, &[Attempt { session, epoch }]);
    net.run_until(Duration::from_secs(1), |net| {
        net.counter(2, "moves_accepted") > 0
    });
    assert!(net.node(2).following.is_empty(), "nothing is waited for");
    finish(&mut net, &sent);
}

/// Three instances and a client whose NIC leaves the cutting of its frames to whoever gets them.
fn merging(seed: u8) -> Net {
    let mut net = Net::new(3, seed);
    let mut client = stack_config(CLIENT, Vec::new());
    client.capabilities = DeviceCapabilities {
        tx_checksum: true,
        tso4: true,
        tso6: true,
    };
    net.client = Stack::new(client, [seed; 32], net.now);
    net
}

#[test]
fn merged_frames_that_follow_a_session_can_be_passed_on() {
    let sent = stream(7, 4_000_007);
    let mut net = merging(3);
    net.connect(ECHO, sent.clone(), false);
    let is_merged = |net: &Net| {
        let frame = net
            .wire
            .values()
            .find(|(_, frame)| frame.segmentation.is_some());
        frame
            .filter(|(_, frame)| {
                parse(&frame.bytes)
                    .is_some_and(|(from, to, _)| from.0 == address(CLIENT) && to.0 == VIP)
            })
            .map(|(_, frame)| frame.clone())
    };
    net.run_until(Duration::from_secs(5), |net| is_merged(net).is_some());
    let frame = is_merged(&net).unwrap();
    net.run_until_received(Duration::from_secs(5), 50_000);
    let [(session, Some(first))] = net.sessions()[..] else {
        panic!("one session with an owner");
    };
    let (second, third) = (first % 3 + 1, (first + 1) % 3 + 1);
    go(&mut net, session, first, second);
    let epoch = net.node(second).sessions.get(&session).unwrap().epoch;
    net.run_for(Duration::from_millis(120));
    go(&mut net, session, second, third);
    net.run_for(Duration::from_millis(200));
    // The last that followed the first capsule was long on its way. It comes from a NIC that merges
    // to one that does not cut.
    let before = stack_counter(&mut net, second, "forwarded");
    let attempt = Attempt { session, epoch };
    net.node(first).send_frame(MemberId(second), attempt, frame);
    let now = net.now;
    net.node(first).handle_timeout(now);
    finish(&mut net, &sent);
    assert_eq!(stack_counter(&mut net, second, "forward_too_big"), 0);
    assert!(stack_counter(&mut net, second, "forwarded") > before);
}

fn stack_counter(net: &mut Net, id: u32, name: &str) -> u64 {
    let counters = net.node(id).stack.counters();
    let found = counters.iter().find(|(counter, _)| *counter == name);
    found.expect("a counter").1
}
