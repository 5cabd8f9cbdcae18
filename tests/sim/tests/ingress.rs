//! The ingress dies, stands still, boots or is cut off: another takes its role, never two have it, and
//! clients of the others do not notice.

use godwit_netstack::Duration;
use godwit_netstack::cluster::MemberId;
use godwit_netstack::instance::{Prefer, RoleConfig};
use godwit_sim::check::Retransmission;
use godwit_sim::host::Outcome;
use godwit_sim::net::Rules;
use godwit_sim::scenario::Setup;
use godwit_sim::script::Mode;
use godwit_sim::storm::{Storm, of_seed};

const SECOND: Duration = Duration::from_secs(1);

fn setup(nodes: u32) -> Setup {
    Setup {
        nodes,
        // So that conversations last: a crash is to find them in the middle.
        client_link: Rules::delayed(Duration::from_millis(5)),
        ..Setup::default()
    }
}

#[test]
fn a_dead_ingress_is_replaced_and_clients_of_the_others_go_on() {
    for (seed, ipv6) in [(1, false), (2, true), (3, false), (4, true)] {
        let mut storm = Storm::new(Setup {
            seed,
            ipv6,
            ..setup(3)
        });
        let old: Vec<usize> = (0..9)
            .map(|stream| storm.converse(Mode::Echo, 3_000_000, stream))
            .collect();
        storm.run_for(SECOND / 10);
        let [ingress] = storm.acting()[..] else {
            panic!("one ingress");
        };
        storm.crash(ingress);
        let survivors = old.iter().filter(|c| !storm.is_lost(**c)).count();
        assert!((1..9).contains(&survivors), "{survivors} of 9");
        let new = storm.converse(Mode::Download, 10_000, 99);
        let (next, took) = storm.until_acting(SECOND * 4).expect("somebody acts");
        assert!(next != ingress && took < SECOND * 5 / 2, "{took:?}");
        // smoltcp asks for the address once a second, and repeats its SYN as often.
        storm.finish(new, SECOND * 3);
        storm.calm();
        storm.cluster.assert_clean(&format!("seed {seed}"));
    }
}

#[test]
fn a_client_that_was_cut_off_during_a_takeover_soon_knows_of_it() {
    for ipv6 in [false, true] {
        let mut storm = Storm::new(Setup { ipv6, ..setup(3) });
        // So that it knows where the address was.
        let first = storm.converse(Mode::Echo, 3_000, 1);
        storm.finish(first, SECOND);
        let client = storm.cluster.client;
        let nodes: Vec<_> = storm.cluster.nodes().collect();
        for node in &nodes {
            storm.cluster.world.sever(client, *node);
        }
        storm.crash(0);
        storm.until_acting(SECOND * 4).expect("somebody acts");
        storm.run_for(SECOND * 4);
        for node in nodes {
            storm.cluster.world.mend(client, node);
        }
        let new = storm.converse(Mode::Echo, 3_000, 2);
        storm.finish(new, SECOND * 6);
        storm.cluster.assert_clean(&format!("IPv6: {ipv6}"));
    }
}

#[test]
fn the_crashed_instances_clients_are_reset_once_it_is_back_and_not_before() {
    let mut storm = Storm::new(setup(3));
    let all: Vec<usize> = (0..9)
        .map(|stream| storm.converse(Mode::Upload, 3_000_000, stream))
        .collect();
    storm.run_for(SECOND / 10);
    let ingress = storm.acting()[0];
    storm.crash(ingress);
    let lost: Vec<usize> = all.into_iter().filter(|c| storm.is_lost(*c)).collect();
    assert!(!lost.is_empty());
    storm.run_for(SECOND * 10);
    for conversation in &lost {
        let outcome = storm.cluster.outcome(*conversation);
        assert_eq!(outcome, Outcome::Running, "silence is not a no");
    }
    storm.boot(ingress);
    storm.run_for(SECOND * 60);
    for conversation in &lost {
        let outcome = storm.cluster.outcome(*conversation);
        assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
    }
    storm.calm();
    storm.cluster.assert_clean("after a reboot");
}

#[test]
fn an_ingress_that_stood_still_finds_its_role_taken() {
    for unseen in [false, true] {
        let mut storm = Storm::new(setup(3));
        let conversations: Vec<usize> = (0..6)
            .map(|stream| storm.converse(Mode::Echo, 1_000_000, stream))
            .collect();
        storm.run_for(SECOND / 10);
        storm.pause(0, SECOND * 6, unseen);
        let (next, took) = storm.until_acting(SECOND * 4).expect("somebody acts");
        assert!(next != 0 && took < SECOND * 5 / 2, "{took:?}");
        storm.run_for(SECOND * 7);
        assert_eq!(storm.acting(), [next], "unseen: {unseen}");
        for conversation in conversations {
            storm.finish(conversation, SECOND * 100);
        }
        storm.cluster.assert_clean(&format!("unseen: {unseen}"));
    }
}

#[test]
fn a_minority_has_no_ingress_and_a_majority_has_one() {
    let mut storm = Storm::new(setup(3));
    let conversations: Vec<usize> = (0..6)
        .map(|stream| storm.converse(Mode::Download, 2_000_000, stream))
        .collect();
    storm.run_for(SECOND / 10);
    storm.isolate(0);
    storm.run_for(SECOND * 4);
    let acting = storm.acting();
    assert!(acting.len() == 1 && acting != [0], "{acting:?}");
    let new = storm.converse(Mode::Download, 10_000, 99);
    storm.finish(new, SECOND * 5);
    storm.cluster.world.heal();
    storm.run_for(SECOND * 5);
    assert_eq!(storm.acting(), acting, "and nobody takes it back");
    for conversation in conversations {
        storm.finish(conversation, SECOND * 100);
    }
    storm.cluster.assert_clean("a partition");
}

#[test]
fn a_session_is_lost_with_its_owner_though_an_earlier_source_still_has_it_frozen() {
    let mut storm = Storm::new(setup(3));
    let conversation = storm.converse(Mode::Upload, 3_000_000, 1);
    storm.run_for(SECOND / 5);
    let (source, session) = storm.session(conversation).expect("it is served");
    let (target, third) = ((source + 1) % 3, (source + 2) % 3);
    // The capsule arrives, the answer does not.
    storm.cluster.world.sever_one_way(target, source);
    let moved = storm.cluster.move_session(source, session.id, target);
    moved.expect("a move begins");
    storm.run_for(SECOND / 5);
    assert_eq!(storm.owner(conversation), Some(target));
    let moved = storm.cluster.move_session(target, session.id, third);
    moved.expect("it goes on");
    storm.run_for(SECOND / 5);
    assert_eq!(storm.owner(conversation), Some(third));
    assert_eq!(storm.copies(conversation).count(), 2);
    assert!(!storm.is_lost(conversation));
    storm.crash(third);
    assert!(storm.is_lost(conversation));
}

#[test]
fn two_instances_and_a_witness_outlive_the_ingress() {
    let mut storm = Storm::new(Setup {
        role: RoleConfig {
            witnesses: vec![MemberId(3)],
            ..RoleConfig::default()
        },
        ..setup(3)
    });
    let before: Vec<usize> = (0..6)
        .map(|stream| storm.converse(Mode::Echo, 1_000_000, stream))
        .collect();
    storm.run_for(SECOND / 10);
    for conversation in &before {
        assert!(storm.owner(*conversation) < Some(2), "none at the witness");
    }
    storm.crash(0);
    let (next, _) = storm.until_acting(SECOND * 4).expect("somebody acts");
    assert_eq!(next, 1);
    let new = storm.converse(Mode::Download, 10_000, 99);
    storm.finish(new, SECOND * 3);
    storm.calm();
    storm.cluster.assert_clean("a witness");
}

#[test]
fn of_two_the_survivor_serves_alone_if_availability_is_preferred() {
    for prefer in [Prefer::Availability, Prefer::Consistency] {
        let mut storm = Storm::new(Setup {
            role: RoleConfig {
                prefer,
                ..RoleConfig::default()
            },
            ..setup(2)
        });
        storm.crash(0);
        let next = storm.until_acting(SECOND * 4);
        assert_eq!(next.is_some(), prefer == Prefer::Availability);
        if next.is_some() {
            let new = storm.converse(Mode::Download, 10_000, 99);
            storm.finish(new, SECOND * 3);
        }
        storm.calm();
        storm.cluster.assert_clean(&format!("{prefer:?}"));
    }
}

#[test]
fn a_role_that_is_handed_on_costs_the_clients_nothing() {
    let mut storm = Storm::new(setup(3));
    storm.cluster.world.check::<Retransmission>().forbidden = true;
    let conversations: Vec<usize> = (0..6)
        .map(|stream| storm.converse(Mode::Echo, 1_000_000, stream))
        .collect();
    storm.run_for(SECOND / 10);
    storm.hand_over(0, 2);
    // In the gap.
    let new = storm.converse(Mode::Download, 10_000, 99);
    let (next, took) = storm.until_acting(SECOND).expect("somebody acts");
    assert_eq!(next, 2);
    assert!(took < Duration::from_millis(2), "{took:?}");
    storm.finish(new, SECOND / 2);
    for conversation in conversations {
        storm.finish(conversation, SECOND * 100);
    }
    storm.cluster.assert_clean("a hand-over");
}

#[test]
fn no_storm_makes_two_ingresses_or_breaks_a_stream() {
    for seed in 0..60 {
        of_seed(seed).cluster.assert_clean("a storm");
    }
}

/// In each of these an ingress that stood still finds a client's first segments in its ring, and the member
/// that had the connection has just booted and knows nothing of it.
#[test]
fn no_storm_begins_a_lost_connection_anew_from_old_segments() {
    for seed in [9_777, 11_362, 13_867, 18_997] {
        of_seed(seed).cluster.assert_clean("a storm");
    }
}
