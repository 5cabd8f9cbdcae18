//! Members that can take no client more: they are members all the same.

use super::*;

/// Three members with a limit, of which one is the ingress, and clients up to it. Then the channel between the first two
/// breaks, and more clients come.
fn broken(seed: u8, ingress: u32, limit: impl Fn(&mut TcpConfig)) -> Net {
    let now = Instant::from_millis(1_000);
    let nodes = (1..=3).map(|id| {
        let mut config = config(id, 3);
        config.ingress = MemberId(ingress);
        limit(&mut config.stack.tcp);
        Node::new(config, seed ^ id as u8, now)
    });
    let mut net = Net::with(nodes.collect(), seed, now);
    net.settle();
    assert!(net.node(ingress).is_ingress());
    // Nobody reads, and the queues fill.
    net.nodes.iter_mut().for_each(|node| node.paused = true);
    let open = |net: &mut Net| {
        for _ in 0..40 {
            net.connect(ECHO, stream(0, 20_000), false);
        }
        net.run_for(Duration::from_secs(5));
    };
    open(&mut net);
    let up = |net: &Net| {
        let members = net.nodes[0].instance.members();
        members.iter().all(|member| member.up)
    };
    assert!(up(&net));
    net.cut_pairs.insert((1, 2));
    net.run_for(Duration::from_secs(5));
    assert!(!up(&net));
    open(&mut net);
    net.cut_pairs.clear();
    net.run_for(Duration::from_secs(5));
    assert!(up(&net), "they are members again");
    assert_eq!(net.resets, 0);
    net
}

#[test]
fn a_member_without_memory_takes_a_channel() {
    for ingress in [1, 2] {
        let net = broken(140 + ingress as u8, ingress, |tcp| tcp.memory = 60_000);
        assert!(net.counter(ingress, "syn_no_memory") > 0);
    }
}

#[test]
fn a_member_with_as_many_connections_as_may_be_takes_a_channel() {
    for ingress in [1, 2] {
        let net = broken(144 + ingress as u8, ingress, |tcp| tcp.max_connections = 8);
        assert!(net.counter(ingress, "syn_too_many") > 0);
    }
}
