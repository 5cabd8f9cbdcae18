//! Members with a network of their own. That nothing strays is asserted on every frame ([`Net`]).

use super::skew::Edition;
use super::*;

fn payload(octets: u64) -> Vec<u8> {
    stream(3, 3 + octets)
}

/// Move every session to the other instance of two.
fn swap_all(net: &mut Net) {
    let now = net.now;
    for (session, owner) in net.sessions() {
        if let Some(owner) = owner {
            let to = MemberId(3 - owner);
            let _ = net.node(owner).move_session(now, session, to);
        }
    }
}

fn ingress(net: &mut Net) -> Option<u32> {
    let now = net.now;
    let acts = |node: &&Node| node.instance.acts_as_ingress(now);
    let mut acting = net.nodes.iter().filter(acts);
    let id = acting.next().map(|node| node.instance.id().0);
    assert!(acting.next().is_none(), "two act");
    id
}

#[test]
fn sessions_move_to_and_fro_and_clients_are_served_through_their_network() {
    let mut net = Net::of_two_networks(2, 1);
    net.settle();
    net.connect(ECHO, payload(200_000), false);
    net.connect(BULK, Vec::new(), false);
    for swap in 1..=6 {
        net.run_until(Duration::from_secs(5), |net| {
            net.conns[0].received.len() >= 30_000 * swap
        });
        swap_all(&mut net);
    }
    net.run_until_received(Duration::from_secs(20), 200_000);
    assert_eq!(net.conns[0].received, payload(200_000));
    assert_eq!(net.conns[1].received, stream(0, BULK_OCTETS));
    let moves = net.node(1).moves().len() + net.node(2).moves().len();
    assert!(moves >= 6, "{moves} moves");
    assert!(net.counter(1, "forwarded") > 0, "the ingress passes on");
}

#[test]
fn losses_in_both_networks_lose_nothing() {
    for seed in 0..6 {
        let mut net = Net::of_two_networks(2, seed);
        net.settle();
        net.faults = Faults {
            loss: 10,
            duplicate: 10,
            reorder: 50,
        };
        net.connect(ECHO, payload(60_000), false);
        for swap in 1..=3 {
            net.run_until(Duration::from_secs(60), |net| {
                net.conns[0].received.len() >= 15_000 * swap
            });
            swap_all(&mut net);
        }
        net.run_until_received(Duration::from_secs(120), 60_000);
        assert_eq!(net.conns[0].received, payload(60_000), "seed {seed}");
    }
}

#[test]
fn an_ingress_without_a_link_to_the_clients_hands_on_its_role_and_its_sessions() {
    let mut net = Net::of_two_networks(3, 4);
    net.settle();
    for _ in 0..8 {
        net.connect(ECHO, payload(400_000), false);
    }
    net.run_until_received(Duration::from_secs(5), 20_000);
    let old = ingress(&mut net).expect("an ingress");
    net.cut_outside.insert(old);
    let now = net.now;
    net.node(old).set_service_link(now, false);
    net.run_until(Duration::from_secs(2), |net| {
        ingress(net).is_some_and(|new| new != old)
    });
    net.run_until(Duration::from_secs(2), |net| {
        net.sessions()
            .iter()
            .all(|(_, owner)| owner.is_some_and(|owner| owner != old))
    });
    net.run_until_received(Duration::from_secs(60), 400_000);
    assert!(
        net.conns
            .iter()
            .all(|conn| conn.received == payload(400_000))
    );

    // New ones are not placed there, though it is heard as ever.
    let before = net.counter(old, "accepted");
    for _ in 0..8 {
        net.connect(ECHO, payload(100), false);
    }
    net.run_for(Duration::from_secs(1));
    let got = net
        .conns
        .iter()
        .skip(8)
        .all(|conn| conn.received.len() == 100);
    assert!(got, "served by the others");
    assert_eq!(net.counter(old, "accepted"), before);

    // Until it is back.
    net.cut_outside.clear();
    let now = net.now;
    net.node(old).set_service_link(now, true);
    net.run_for(Duration::from_secs(1));
    for _ in 0..20 {
        net.connect(ECHO, payload(100), false);
    }
    net.run_for(Duration::from_secs(1));
    assert!(net.counter(old, "accepted") > before);
}

#[test]
fn a_link_that_is_gone_for_a_moment_moves_nothing() {
    let mut net = Net::of_two_networks(2, 5);
    net.settle();
    net.connect(ECHO, payload(20_000), false);
    net.run_until_received(Duration::from_secs(5), 20_000);
    let old = ingress(&mut net).expect("an ingress");
    for up in [false, true] {
        let now = net.now;
        net.node(old).set_service_link(now, up);
        net.run_for(Duration::from_millis(400));
    }
    net.run_for(Duration::from_secs(2));
    assert_eq!(ingress(&mut net), Some(old));
    assert_eq!(net.node(1).moves().len() + net.node(2).moves().len(), 0);
}

#[test]
fn where_nobody_has_a_link_to_the_clients_everybody_keeps_what_is_his() {
    let mut net = Net::of_two_networks(2, 6);
    net.settle();
    net.connect(ECHO, payload(5_000), false);
    net.run_until_received(Duration::from_secs(5), 5_000);
    let sessions = net.sessions();
    let old = ingress(&mut net);
    for id in [1, 2] {
        let now = net.now;
        net.node(id).set_service_link(now, false);
    }
    net.run_for(Duration::from_secs(5));
    assert_eq!((ingress(&mut net), net.sessions()), (old, sessions));
}

#[test]
fn members_whose_network_is_gone_are_not_heard_though_clients_reach_them() {
    let mut net = Net::of_two_networks(2, 7);
    net.settle();
    net.cut_inside.extend([1, 2]);
    net.run_for(Duration::from_secs(10));
    for id in [1, 2] {
        let members = net.node(id).members();
        assert!(members.iter().all(|member| !member.up), "{id}");
    }
    assert_eq!(ingress(&mut net), None, "no lease without the other's vote");
    net.cut_inside.clear();
    net.run_for(Duration::from_secs(10));
    assert!(ingress(&mut net).is_some());
    net.connect(ECHO, payload(100), false);
    net.run_until_received(Duration::from_secs(5), 100);
}

#[test]
fn who_is_alone_takes_what_comes_before_it_is_told_that_its_link_is_back() {
    for members in [1, 2] {
        let mut net = Net::of_two_networks(members, 8);
        net.settle();
        for id in 1..=members {
            let now = net.now;
            net.node(id).set_service_link(now, false);
        }
        net.run_for(Duration::from_millis(50));
        // A frame that comes is the better proof: nobody has looked at the cards yet.
        net.connect(ECHO, payload(100), false);
        net.run_until_received(Duration::from_millis(100), 100);
    }
}

/// An instance of a newer release that is cut off with sessions that the other one reads and, ahead of them in the
/// list, so many that only it can go on with.
fn cut_off_with(tied: usize) -> Net {
    let now = Instant::from_millis(1_000);
    let node = |id: u32| {
        let reads = if id == 1 { 1..=2 } else { 1..=1 };
        let edition = Edition {
            reads,
            ..Edition::default()
        };
        Node::of(config_of_two(id, 2), id as u8, now, edition)
    };
    let mut net = Net::with([1, 2].map(node).into(), 9, now);
    net.two_networks = true;
    net.settle();
    net.node(2).tcp.max_connections = 0;
    net.run_for(Duration::from_millis(300));
    for _ in 0..tied {
        net.connect(ECHO, payload(1), false);
    }
    net.run_until_received(Duration::from_secs(5), 1);
    for _ in 0..3 {
        net.connect(ECHO, Vec::new(), false);
    }
    net.run_until(Duration::from_secs(5), |net| {
        net.node(1).session_count() == tied + 3
    });
    net.node(2).tcp.max_connections = 100;
    net.run_for(Duration::from_millis(300));
    let now = net.now;
    net.node(1).set_service_link(now, false);
    net
}

#[test]
fn a_session_that_nobody_else_reads_keeps_none_that_they_do_from_going() {
    for tied in [1, 1_100] {
        let mut net = cut_off_with(tied);
        net.run_until(Duration::from_secs(4), |net| {
            net.node(1).session_count() == tied
        });
        assert_eq!(net.node(2).session_count(), 3);
    }
}
