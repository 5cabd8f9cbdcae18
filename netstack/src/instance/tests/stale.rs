//! What an ingress that is none any more passes on: a SYN that another member has answered long ago, and what
//! its client said then.

use super::*;

/// What a client sends to open a connection, and the first of its data, as it was sent.
fn opening(net: &mut Net) -> Vec<RxFrame> {
    let mut frames: Vec<RxFrame> = Vec::new();
    net.connect(ECHO, stream(0, 2_000), false);
    net.run_until(Duration::from_secs(1), |net| {
        for (_, frame) in net.wire.values() {
            let of_client = frame.bytes[6..12] == mac(CLIENT);
            let known = frames.iter().any(|known| known.bytes == frame.bytes);
            if of_client && parse(&frame.bytes).is_some() && !known {
                frames.push(frame.clone());
            }
        }
        net.conns[0].received.len() == 2_000
    });
    frames
}

/// Three members, a conversation, and one that does not have it gets the beginning once more, as passed on by
/// `from`, with so much time in between.
fn told_again(mut net: Net, from: impl Fn(u32) -> u32, apart: Duration) -> (Net, u32) {
    net.settle();
    let frames = opening(&mut net);
    assert!(frames.len() > 2, "SYN, ACK, data");
    let owner = net.sessions()[0].1.unwrap();
    let other = if owner == 2 { 3 } else { 2 };
    net.run_for(Duration::from_millis(300));
    for frame in frames {
        let mut octets = frame.bytes.to_vec();
        octets[..6].copy_from_slice(&mac(other));
        octets[6..12].copy_from_slice(&mac(from(other)));
        let now = net.now;
        let frame = RxFrame {
            bytes: octets.into(),
            ..frame
        };
        net.node(other).handle_frame(now, frame);
        net.run_for(apart);
    }
    net.run_for(Duration::from_millis(50));
    (net, other)
}

fn goes_on(mut net: Net) {
    assert_eq!(net.sessions().len(), 1, "and no second one");
    net.conns[0].to_send.extend(stream(2_000, 9_000));
    net.run_until_received(Duration::from_secs(5), 9_000);
    assert_eq!(net.conns[0].received, stream(0, 9_000));
    assert_eq!(net.resets, 0);
}

#[test]
fn who_answers_a_syn_that_another_has_answered_does_not_take_the_answer_to_that_for_his() {
    // The ingress itself has missed that there was another meanwhile.
    let apart = Duration::from_micros(70);
    let (net, other) = told_again(Net::new(3, 80), |_| 1, apart);
    assert!(net.counter(other, "handshakes_asked") > 0);
    goes_on(net);
}

#[test]
fn an_answer_that_comes_before_it_can_is_not_taken_from_a_client_without_timestamps() {
    let nodes = (1..=3).map(|id| {
        let mut config = config(id, 3);
        config.stack.tcp.timestamps = false;
        Node::new(config, id as u8, Instant::from_millis(1_000))
    });
    let net = Net::with(nodes.collect(), 81, Instant::from_millis(1_000));
    let (net, other) = told_again(net, |_| 1, Duration::ZERO);
    assert!(net.counter(other, "handshakes_asked") > 0);
    goes_on(net);
}

#[test]
fn a_syn_passed_on_by_a_member_that_is_not_the_ingress_is_not_answered() {
    let apart = Duration::from_micros(70);
    let (net, other) = told_again(Net::new(3, 82), |other| 5 - other, apart);
    assert!(net.counter(other, "flows_of_a_former_ingress") > 0);
    goes_on(net);
}

#[test]
fn a_new_connection_finds_its_way_past_what_is_left_of_the_one_before() {
    let mut net = Net::new(3, 83);
    net.settle();
    net.connect(ECHO, stream(0, 2_000), true);
    let conn = net.conns[0].conn;
    let flow = net.client.connection(conn).expect("a connection").flow();
    let flow = FlowKey {
        local: flow.remote,
        remote: flow.local,
    };
    // It was moved from 1 to 2 to 3 and has ended, and neither was told.
    let session = SessionId {
        origin: 1,
        number: 9,
    };
    for (at, owner, epoch) in [(1, 2, 2), (2, 3, 3)] {
        let now = net.now;
        let said = Ownership {
            flow: flow.into(),
            owner: MemberId(owner),
            session,
            epoch,
        };
        net.node(at).steer_to(now, said);
    }
    net.run_until_received(Duration::from_secs(10), 2_000);
    assert_eq!(net.counter(3, "flows_of_a_former_ingress"), 1);
    assert_eq!(net.conns[0].received, stream(0, 2_000));
    assert_eq!(net.resets, 0);
}

/// One that was the ingress until it was stopped, and the next: both have the end of a handshake that nobody
/// remembers, and ask each other. Both would take the connection.
#[test]
fn who_says_no_takes_nothing_for_which_it_asked_itself() {
    let mut net = Net::new(2, 84);
    net.settle();
    let flow = Flow {
        local: (VIP, ECHO).into(),
        remote: (address(CLIENT), 40_000).into(),
    };
    for crossed in [false, true] {
        let now = net.now;
        let node = net.node(1);
        let resets = node.counters.get("unknown_flows_reset");
        let asked = Set::from([MemberId(2)]);
        assert!(node.steering.ask(now, flow, None, asked));
        if crossed {
            node.tell_owner(now, MemberId(2), flow, None);
        }
        node.handle_not_mine(now, MemberId(2), flow, None);
        let decided = node.counters.get("unknown_flows_reset") - resets;
        assert_eq!(decided, u64::from(!crossed));
    }
    assert_eq!(net.counter(1, "questions_crossed"), 1);
}

/// Two have answered the same SYN, and one asks the other, which says that the connection is nobody's yet, and
/// takes it as soon as the client speaks to it. Both would have it, and both speak.
#[test]
fn a_handshake_that_is_half_open_at_two_is_left_to_the_one_that_does_not_ask() {
    let mut given = 0;
    for (seed, crossed) in (80..100).flat_map(|seed| [(seed, false), (seed, true)]) {
        let mut net = Net::new(3, seed);
        net.settle();
        net.connect(ECHO, stream(0, 2_000), true);
        let (mut syn, mut owner) = (None, None);
        net.run_until(Duration::from_secs(1), |net| {
            let mut frames = net.wire.values();
            syn = syn.take().or(frames
                .find(|(_, frame)| {
                    frame.bytes[6..12] == mac(CLIENT) && parse(&frame.bytes).is_some()
                })
                .map(|(_, frame)| frame.clone()));
            owner = (1..=3).find(|id| net.node(*id).stack.half_open_count() == 1);
            owner.is_some()
        });
        let (syn, owner) = (syn.expect("a SYN"), owner.expect("an owner"));
        if owner == 1 {
            continue; // the ingress itself has completed it before it is asked
        }
        given += 1;
        let other = if owner == 2 { 3 } else { 2 };
        let mut octets = syn.bytes.to_vec();
        octets[..6].copy_from_slice(&mac(other));
        octets[6..12].copy_from_slice(&mac(1));
        let now = net.now;
        let syn = RxFrame {
            bytes: octets.into(),
            ..syn
        };
        net.node(other).handle_frame(now, syn);
        assert_eq!(net.node(other).stack.half_open_count(), 1);
        let conn = net.conns[0].conn;
        let flow = net.client.connection(conn).expect("a connection").flow();
        let flow = FlowKey {
            local: flow.remote,
            remote: flow.local,
        };
        net.node(other).ask_for_handshake(now, flow);
        if crossed {
            net.node(owner).ask_for_handshake(now, flow);
        }
        net.run_for(Duration::from_micros(200));
        let yielded = net.counter(other, "handshakes_yielded");
        assert_eq!(yielded, u64::from(!crossed));
        let crossings = [owner, other].map(|id| net.counter(id, "questions_crossed"));
        assert_eq!(crossings, [u64::from(crossed); 2]);
        net.run_until_received(Duration::from_secs(5), 2_000);
        assert_eq!(net.conns[0].received, stream(0, 2_000));
        assert_eq!(net.resets, 0);
    }
    assert!(given > 0, "the ingress has kept every flow");
}
