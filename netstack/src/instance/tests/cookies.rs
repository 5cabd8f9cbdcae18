//! Handshakes that nobody remembers, while a member is away.

use super::*;
use crate::stack::Route;
use crate::tcp::Cookie;

/// Instance 1 with room for one half-open connection, a witness, and a third that may own flows.
fn crowded() -> Net {
    let now = Instant::from_millis(1_000);
    let nodes = (1..=3).map(|id| {
        let mut config = config(id, 3);
        config.stack.tcp.max_half_open = 1;
        config.role.witnesses = alloc::vec![MemberId(2)];
        Node::new(config, id as u8, now)
    });
    let mut net = Net::with(nodes.collect(), 5, now);
    net.settle();
    net.cut.insert(3);
    net
}

/// The third instance is back, and has lost its memory.
fn boot_third(net: &mut Net) {
    let now = net.now;
    net.nodes[2] = Node::new(config(3, 3), 99, now);
    net.cut.remove(&3);
}

fn cookies(net: &Net, name: &str) -> u64 {
    stack_counter(net, 1, name)
}

fn stack_counter(net: &Net, id: u32, name: &str) -> u64 {
    let counters = net.nodes[id as usize - 1].instance.stack.counters();
    let found = counters.iter().find(|(counter, _)| *counter == name);
    found.expect("a counter").1
}

/// Two clients at once: one of them is not remembered.
fn two_at_once(net: &mut Net) {
    net.connect(BULK, Vec::new(), false);
    net.connect(BULK, Vec::new(), false);
    net.run_for(Duration::from_secs(5));
}

#[test]
fn a_cookie_is_not_believed_while_it_may_belong_to_a_member_that_is_away() {
    let mut net = crowded();
    // Found out that it is gone, but not for as long as a cookie lives.
    net.run_for(Duration::from_secs(60));
    two_at_once(&mut net);
    assert_eq!(cookies(&net, "syn_cookies_sent"), 1);
    assert_eq!(cookies(&net, "syn_cookies_taken"), 0);
    assert_eq!(net.counter(1, "unknown_flows_unanswered"), 1);
    assert_eq!(net.resets, 0, "silence is not a no");
}

#[test]
fn a_handshake_is_decided_as_soon_as_who_could_not_be_asked_is_back() {
    let mut net = crowded();
    // Long enough to find out that it is gone.
    net.run_for(Duration::from_secs(5));
    net.connect(BULK, Vec::new(), false);
    net.connect(BULK, Vec::new(), false);
    net.run_for(Duration::from_millis(500));
    assert_eq!(cookies(&net, "syn_cookies_sent"), 1);
    assert_eq!(cookies(&net, "syn_cookies_taken"), 0);
    // The clients have nothing to say that they could say again.
    net.cut.remove(&3);
    net.run_for(Duration::from_millis(2_500));
    assert_eq!(cookies(&net, "syn_cookies_taken"), 1);
    assert_eq!(net.counter(1, "unknown_flows_unanswered"), 0);
}

#[test]
fn a_handshake_is_not_decided_by_who_has_booted_since_it_was_asked() {
    let mut net = crowded();
    net.run_for(Duration::from_secs(5));
    net.connect(ECHO, stream(0, 100), false);
    net.connect(ECHO, stream(0, 100), false);
    net.run_for(Duration::from_millis(500));
    assert_eq!(net.counter(1, "unknown_flows_asked"), 1);
    boot_third(&mut net);
    net.run_until(Duration::from_secs(3), |net| {
        let taken = cookies(net, "syn_cookies_taken");
        assert_eq!(taken, 0, "what is lost may have been this flow");
        net.counter(1, "unknown_flows_undecided") == 1
    });
    assert_eq!(net.resets, 0);
    // Who really begins says it again, and this boot knows what it knows.
    net.run_until_received(Duration::from_secs(5), 100);
    assert_eq!(cookies(&net, "syn_cookies_taken"), 1);
    assert_eq!(net.counter(1, "unknown_flows_unanswered"), 0);
}

#[test]
fn a_cookie_is_believed_when_nobody_who_is_away_can_know_it() {
    let mut net = crowded();
    net.run_for(Duration::from_secs(140));
    two_at_once(&mut net);
    assert_eq!(cookies(&net, "syn_cookies_sent"), 1);
    assert_eq!(cookies(&net, "syn_cookies_taken"), 1);
    let octets = BULK_OCTETS as usize;
    net.run_until_received(Duration::from_secs(5), octets);
}

#[test]
fn a_new_ingress_does_not_believe_the_cookies_of_the_one_before() {
    let mut net = crowded();
    net.run_for(Duration::from_secs(140));
    // Longer away than a cookie lives, but who knows to whom flows were given a moment ago?
    let now = net.now;
    net.node(1).ingress_since = Some(now);
    two_at_once(&mut net);
    assert_eq!(cookies(&net, "syn_cookies_taken"), 0);
}

/// A client is cut off just when its session begins at `owner`, perhaps after a move; the service resets it,
/// and the RST is lost. Then the client's first octets are sent again, while cookies are believed.
fn reset_unheard(owner: u32) -> Net {
    let mut net = Net::new(3, 7);
    net.settle();
    net.allow_resets = true;
    let number = net.connect(ECHO, Vec::new(), false);
    net.run_until(Duration::from_secs(1), |net| !net.sessions().is_empty());
    net.cut.insert(CLIENT);
    net.conns[number].to_send = b"once".to_vec();
    let (session, mut at) = net.sessions()[0];
    if at != Some(owner) {
        let now = net.now;
        let source = net.node(at.unwrap());
        source.move_session(now, session, MemberId(owner)).unwrap();
        net.run_until(Duration::from_millis(100), |net| {
            at = net.owner(session);
            at == Some(owner)
        });
    }
    let now = net.now;
    net.node(owner).abort(now, session);
    net.run_for(Duration::from_secs(5));
    let now = net.now;
    for id in 1..=3 {
        net.node(id).stack.trust_cookies(now);
    }
    net.cut.remove(&CLIENT);
    net
}

#[test]
fn a_request_whose_service_has_reset_is_not_served_again() {
    for owner in 1..=3 {
        let mut net = reset_unheard(owner);
        net.run_for(Duration::from_secs(10));
        assert_eq!(net.resets, 2, "lost, and told when it asks");
        assert_eq!(net.sessions(), [], "of {owner}");
        let accepted: u64 = (1..=3).map(|id| stack_counter(&net, id, "accepted")).sum();
        let channels = 3;
        assert_eq!(accepted, 1 + channels, "of {owner}");
    }
}

#[test]
fn a_request_is_served_again_if_who_knew_of_its_end_has_lost_its_memory() {
    let mut net = reset_unheard(3);
    boot_third(&mut net);
    net.cut.insert(CLIENT);
    net.run_for(Duration::from_secs(3));
    net.cut.remove(&CLIENT);
    net.run_for(Duration::from_secs(20));
    assert_eq!(net.sessions().len(), 1, "nobody can know");
}

/// A client has said something to the third of three instances: its session, and the frame in which it did.
fn spoken_to_third() -> (Net, SessionId, RxFrame) {
    let mut net = Net::new(3, 7);
    net.settle();
    net.allow_resets = true;
    let number = net.connect(ECHO, b"first".to_vec(), false);
    let mut first = None;
    net.run_until(Duration::from_secs(1), |net| {
        let frames = net.wire.values().map(|(_, frame)| frame);
        let mut data = frames.filter(|frame| {
            let parsed = parse(&frame.bytes);
            parsed.is_some_and(|(_, to, segment)| is_vip(to) && !segment.payload.is_empty())
        });
        first = first.take().or(data.next().cloned());
        net.conns[number].received.len() == 5
    });
    let (session, at) = net.sessions()[0];
    let now = net.now;
    if at != Some(3) {
        let source = net.node(at.expect("an owner"));
        source.move_session(now, session, MemberId(3)).unwrap();
        net.run_until(Duration::from_millis(100), |net| {
            net.owner(session) == Some(3)
        });
    }
    (net, session, first.expect("it was sent"))
}

/// The first octets of a client come once more, and late, to a cluster that has lost the connection with its
/// owner. What the client says by now is that it has heard from it.
#[test]
fn a_connection_that_was_lost_is_not_begun_anew_by_an_old_duplicate() {
    for speaks in [false, true] {
        let (mut net, session, first) = spoken_to_third();
        boot_third(&mut net);
        net.run_for(Duration::from_secs(3));
        let now = net.now;
        for id in 1..=3 {
            net.node(id).stack.trust_cookies(now);
        }
        net.node(1).handle_frame(now, first);
        if speaks {
            net.conns[0].to_send = b"second".to_vec();
        }
        net.run_for(Duration::from_secs(10));
        let begun = net.sessions().iter().any(|(id, _)| *id != session);
        assert_eq!(begun, !speaks, "who hears nothing else cannot know");
        assert_eq!(net.counter(1, "cookies_outgrown"), u64::from(speaks));
        assert!(!speaks || net.resets > 0, "the client is told");
    }
}

#[test]
fn an_old_duplicate_begins_nothing_if_who_had_the_connection_boots_while_it_is_asked() {
    let (mut net, session, first) = spoken_to_third();
    net.run_for(Duration::from_millis(20));
    net.cut.insert(3);
    let now = net.now;
    let node = net.node(1);
    node.stack.trust_cookies(now);
    // The ingress has forgotten where the flow is.
    let (flow, _) = node.steering.iter().next().expect("it led there");
    let flow = *flow;
    node.handle_released(now, MemberId(3), flow, session);
    node.handle_frame(now, first);
    net.run_for(Duration::from_millis(100));
    assert_eq!(net.counter(1, "unknown_flows_asked"), 1);
    boot_third(&mut net);
    net.run_for(Duration::from_secs(10));
    assert_eq!(net.sessions(), [], "the client may have had an answer");
    assert_eq!(net.counter(1, "unknown_flows_undecided"), 1);
    assert_eq!(net.counter(1, "unknown_flows_unanswered"), 0);
    assert_eq!(net.resets, 0, "nor is it known that it is nobody's");
}

#[test]
fn what_brings_the_cookie_of_a_later_syn_is_not_left_over_from_the_connection_before() {
    let mut net = Net::new(2, 5);
    net.settle();
    net.allow_resets = true;
    let number = net.connect(ECHO, stream(0, 100), false);
    net.run_until_received(Duration::from_secs(5), 100);
    let there = net
        .client
        .connection(net.conns[number].conn)
        .unwrap()
        .flow();
    let flow = FlowKey {
        local: there.remote,
        remote: there.local,
    };
    let (session, owner) = net.sessions()[0];
    let (owner, now) = (owner.unwrap(), net.now);
    let stack = &net.node(owner).stack;
    let Some(Route::Local(conn)) = stack.route(&flow) else {
        panic!("its owner has it");
    };
    let own = stack.connection(conn).unwrap().handshake();
    net.node(owner).abort(now, session);
    net.run_for(Duration::from_millis(10));
    let (node, now) = (&net.nodes[owner as usize - 1].instance, net.now);
    let left_over = |cookie| node.is_left_over(now, &flow.into(), cookie);
    let later = Cookie {
        irs: own.irs.add(77),
        ..own
    };
    assert!(left_over(None) && left_over(Some(own)));
    assert!(!left_over(Some(later)));
}

#[test]
fn a_request_is_not_served_again_though_who_knew_of_its_end_has_drained() {
    for owner in 1..=3 {
        let mut net = reset_unheard(owner);
        net.cut.insert(CLIENT);
        let now = net.now;
        net.node(owner).drain(now);
        let drained = |net: &mut Net| net.nodes[owner as usize - 1].drained;
        net.run_until(Duration::from_secs(20), drained);
        let now = net.now;
        net.nodes[owner as usize - 1] = Node::new(config(owner, 3), 99, now);
        net.run_for(Duration::from_secs(3));
        let now = net.now;
        for id in 1..=3 {
            net.node(id).stack.trust_cookies(now);
        }
        net.cut.remove(&CLIENT);
        net.run_for(Duration::from_secs(30));
        assert_eq!(net.sessions(), [], "of {owner}");
        assert_eq!(net.resets, 2, "of {owner}: lost, and told when it asks");
    }
}

#[test]
fn a_request_whose_session_was_lost_with_its_target_is_not_served_again() {
    let mut net = Net::new(3, 7);
    net.settle();
    net.allow_resets = true;
    let number = net.connect(ECHO, Vec::new(), false);
    net.run_until(Duration::from_secs(1), |net| !net.sessions().is_empty());
    net.cut.insert(CLIENT);
    net.conns[number].to_send = b"once".to_vec();
    let (session, at) = net.sessions()[0];
    let at = at.unwrap();
    let to = at % 3 + 1;
    net.cut_pairs.insert((at.min(to), at.max(to)));
    let now = net.now;
    net.node(at)
        .move_session(now, session, MemberId(to))
        .unwrap();
    net.run_for(Duration::from_millis(100));
    assert_eq!(net.owner(session), None, "on its way");
    let now = net.now;
    net.nodes[to as usize - 1] = Node::new(config(to, 3), 99, now);
    net.cut_pairs.clear();
    net.run_for(Duration::from_secs(5));
    assert_eq!(net.counter(at, "sessions_lost"), 1);
    let now = net.now;
    for id in 1..=3 {
        net.node(id).stack.trust_cookies(now);
    }
    net.cut.remove(&CLIENT);
    net.run_for(Duration::from_secs(20));
    assert_eq!(net.sessions(), []);
    assert_eq!(net.resets, 1);
}
