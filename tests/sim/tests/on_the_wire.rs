//! What a move must not cost, each asserted on the wire: timers, congestion window, RTT, time.

use godwit_netstack::Duration;
use godwit_sim::check::{Flight, Retransmission, Silence};
use godwit_sim::host::{Plan, SocketConfig};
use godwit_sim::net::Rules;
use godwit_sim::node::Habits;
use godwit_sim::scenario::{Cluster, Setup};
use godwit_sim::script::{Closing, Mode};

fn far(ipv6: bool) -> Setup {
    Setup {
        ipv6,
        client_link: Rules::delayed(Duration::from_millis(10)),
        sockets: SocketConfig {
            receive: 1_000_000,
            ..SocketConfig::default()
        },
        ..Setup::default()
    }
}

/// A download at full flight, 20 ms round trips.
fn under_way(setup: Setup) -> (Cluster, usize) {
    let mut cluster = Cluster::new(setup);
    let plan = Plan::script(Mode::Download, Closing::Client, 30_000_000, 1);
    let conversation = cluster.converse(plan);
    cluster.world.run_for(Duration::from_millis(300));
    (cluster, conversation)
}

#[test]
fn the_retransmission_timer_is_armed_after_import() {
    for ipv6 in [false, true] {
        let (mut cluster, conversation) = under_way(far(ipv6));
        let flow = cluster.flow().unwrap();
        assert!(cluster.move_on());
        // A megabyte travels with it.
        cluster.world.run_for(Duration::from_millis(3));
        assert_eq!(cluster.moves(), 1);
        // Everything on its way is lost, and the client cannot be heard for a while.
        cluster.world.check::<Retransmission>().forbidden = false;
        cluster.world.drop_in_flight(|_, segment| {
            segment.source.port() == 4000 || segment.target.port() == 4000
        });
        cluster.world.link(cluster.client).up.rules.black_hole = true;
        let silent_from = cluster.now();
        let before = cluster.world.check::<Retransmission>().server;
        cluster.world.run_for(Duration::from_millis(600));
        let repeated = cluster.world.check::<Retransmission>().server - before;
        assert!(
            repeated > 0,
            "nothing was repeated in 600 ms (RTT 20 ms) without the client speaking"
        );
        cluster.world.link(cluster.client).up.rules.black_hole = false;
        cluster.finish(conversation, Duration::from_secs(60));
        cluster.assert_clean("RTO after import");
        assert!(cluster.now() > silent_from);
        assert_eq!(cluster.flow(), Some(flow));
    }
}

#[test]
fn moving_on_and_on_does_not_put_off_a_retransmission_for_ever() {
    for seed in 1..=5 {
        let (mut cluster, conversation) = under_way(Setup { seed, ..far(false) });
        cluster.world.check::<Retransmission>().forbidden = false;
        cluster.world.drop_in_flight(|_, segment| {
            segment.source.port() == 4000 || segment.target.port() == 4000
        });
        // The client has nothing to say until it hears something.
        let before = cluster.world.check::<Retransmission>().server;
        let until = cluster.now() + Duration::from_secs(2);
        while cluster.now() < until {
            cluster.move_on();
            cluster.world.run_for(Duration::from_millis(1));
            cluster.world.link(cluster.client).up.rules.black_hole = true;
        }
        let repeated = cluster.world.check::<Retransmission>().server - before;
        assert!(cluster.moves() >= 15, "{} moves in 2 s", cluster.moves());
        assert!(
            repeated >= 3,
            "{repeated} repetitions in 2 s and {} moves (RTT 20 ms)",
            cluster.moves()
        );
        cluster.world.link(cluster.client).up.rules.black_hole = false;
        cluster.finish(conversation, Duration::from_secs(60));
        cluster.assert_clean("moving on and on");
    }
}

#[test]
fn the_congestion_window_survives_a_move() {
    for ipv6 in [false, true] {
        let (mut cluster, conversation) = under_way(far(ipv6));
        let flow = cluster.flow().unwrap();
        let round_trip = Duration::from_millis(21);
        let moved_at = cluster.now();
        assert!(cluster.move_on());
        cluster.world.run_for(round_trip);
        assert_eq!(cluster.moves(), 1);
        let flight = cluster.world.check::<Flight>();
        let before = flight.sent(flow, moved_at - round_trip, moved_at);
        let after = flight.sent(flow, moved_at, moved_at + round_trip);
        assert!(
            before > 200_000,
            "only {before} octets a round trip before the move"
        );
        assert!(
            after * 10 > before * 8,
            "{before} octets in the round trip before the move, {after} in the one after"
        );
        cluster.finish(conversation, Duration::from_secs(60));
        cluster.assert_clean("cwnd");
    }
}

#[test]
fn a_move_costs_half_a_control_round_trip() {
    for ipv6 in [false, true] {
        // A service that has a segment ready every 100 us, so that a silence shows.
        let pace = Duration::from_micros(100);
        let setup = Setup {
            ipv6,
            node_link: Rules::delayed(Duration::from_micros(200)),
            client_link: Rules::delayed(Duration::from_micros(100)),
            habits: Habits {
                commit_after: pace,
                write_at_most: 1_400,
            },
            ..Setup::default()
        };
        let half_round_trip = Duration::from_micros(400);
        let mut cluster = Cluster::new(setup);
        let plan = Plan::script(Mode::Download, Closing::Client, 4_000_000, 1);
        let conversation = cluster.converse(plan);
        for _ in 0..20 {
            cluster.world.run_for(Duration::from_micros(7_130));
            assert!(cluster.move_on());
        }
        cluster.finish(conversation, Duration::from_secs(60));
        cluster.assert_clean("silence");
        assert_eq!(cluster.moves(), 20);
        let mut gaps = cluster.world.check::<Silence>().after_freeze.clone();
        gaps.sort_unstable();
        assert_eq!(gaps.len(), 20);
        // The first capsule that is larger than a fresh channel's congestion window takes a round
        // trip more.
        let (median, next_longest) = (gaps[10], gaps[18]);
        assert!(
            median <= half_round_trip + pace && next_longest <= half_round_trip + pace,
            "half a control round trip is {half_round_trip:?}, silences after a freeze: {gaps:?}"
        );
    }
}
