//! Handshakes that nobody remembers, while a member is away.

use super::*;

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

fn cookies(net: &Net, name: &str) -> u64 {
    let counters = net.nodes[0].instance.stack.counters();
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
