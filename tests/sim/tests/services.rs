//! The real services on the real drive loop, moved while they serve.

use godwit_netstack::Duration;
use godwit_sim::host::Plan;
use godwit_sim::net::Rules;
use godwit_sim::scenario::{Cluster, Served, Setup};
use godwit_sim::script::{Closing, Mode};

fn rough(served: Served, seed: u64) -> Setup {
    let rules = Rules {
        loss_ppm: 10_000,
        duplicate_ppm: 5_000,
        reorder_ppm: 20_000,
        reorder_by: Duration::from_micros(500),
        ..Rules::delayed(Duration::from_micros(100))
    };
    Setup {
        seed,
        ipv6: seed.is_multiple_of(2),
        served,
        client_link: rules,
        node_link: rules,
        ..Setup::default()
    }
}

/// Run one conversation with a move every `every`, as often as the session can be moved.
fn moved(setup: Setup, plan: Plan, every: Duration) -> Cluster {
    let mut cluster = Cluster::new(setup);
    let conversation = cluster.converse(plan);
    let mut due = cluster.now() + every;
    cluster.finish_with(conversation, Duration::from_secs(600), |cluster| {
        if cluster.now() >= due && cluster.move_on() {
            due = cluster.now() + every;
        }
    });
    cluster
}

#[test]
fn a_download_over_http_moves_again_and_again() {
    for seed in 1..=4 {
        let mut setup = rough(Served::Http, seed);
        if seed <= 2 {
            setup.client_link = Rules::delayed(Duration::from_micros(100));
            setup.node_link = Rules::delayed(Duration::from_micros(20));
        }
        let cluster = moved(setup, Plan::http(4_000_000), Duration::from_millis(1));
        cluster.assert_clean("HTTP download");
        assert!(cluster.moves() >= 3, "{} moves", cluster.moves());
    }
}

#[test]
fn an_echo_moves_again_and_again() {
    for seed in 1..=4 {
        let mut setup = rough(Served::Echo, seed);
        if seed <= 2 {
            setup.client_link = Rules::delayed(Duration::from_micros(100));
            setup.node_link = Rules::delayed(Duration::from_micros(20));
        }
        let cluster = moved(setup, Plan::echo(1_000_000, seed), Duration::from_millis(1));
        cluster.assert_clean("echo");
        assert!(cluster.moves() >= 3, "{} moves", cluster.moves());
    }
}

#[test]
fn scripts_through_the_sdk_move_in_every_mode() {
    for (seed, mode) in [(1, Mode::Download), (2, Mode::Upload), (3, Mode::Echo)] {
        for closing in [Closing::Client, Closing::Server] {
            let plan = Plan::script(mode, closing, 300_000, seed);
            let cluster = moved(
                rough(Served::SdkScript, seed),
                plan,
                Duration::from_millis(2),
            );
            cluster.assert_clean(&format!("{mode:?} through the SDK, {closing:?} closes"));
            assert!(cluster.moves() >= 1, "{} moves", cluster.moves());
        }
    }
}

#[test]
fn a_service_moves_its_own_session_to_where_each_stretch_belongs() {
    for seed in 1..=4 {
        let mut setup = Setup {
            seed,
            nodes: 3,
            served: Served::Wanderer,
            ..Setup::default()
        };
        if seed > 2 {
            setup = Setup {
                nodes: 3,
                ..rough(Served::Wanderer, seed)
            };
        }
        let mut cluster = Cluster::new(setup);
        let conversation = cluster.converse(Plan::echo(200_000, seed));
        cluster.finish(conversation, Duration::from_secs(600));
        cluster.assert_clean("a wanderer");
        // Ten stretches, and at most one move more to get to the first.
        let moves = cluster.moves();
        assert!((9..=10).contains(&moves), "{moves} moves");
    }
}
