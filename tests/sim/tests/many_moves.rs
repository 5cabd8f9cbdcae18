//! Many moves of one connection, drains, and everything at once.

use godwit_netstack::Duration;
use godwit_netstack::cluster::MemberId;
use godwit_sim::host::Plan;
use godwit_sim::net::Rules;
use godwit_sim::node::{Node, port_of};
use godwit_sim::run::{Options, Report, run};
use godwit_sim::scenario::{Cluster, Setup};
use godwit_sim::script::{Closing, Mode};

#[test]
fn a_connection_that_never_rests_still_gets_on() {
    for mode in [Mode::Download, Mode::Upload, Mode::Echo] {
        let mut cluster = Cluster::new(Setup {
            client_link: Rules::delayed(Duration::from_millis(1)),
            ..Setup::default()
        });
        let conversation = cluster.converse(Plan::script(mode, Closing::Client, 3_000_000, 5));
        cluster.finish_with(conversation, Duration::from_secs(60), |cluster| {
            cluster.move_on();
        });
        cluster.world.run_for(Duration::from_secs(1));
        cluster.assert_clean("move at once again");
        assert!(cluster.moves() > 20, "{mode:?}: {} moves", cluster.moves());
    }
}

#[test]
fn the_ingress_drains_while_a_transfer_goes_on() {
    for ipv6 in [false, true] {
        for mode in [Mode::Download, Mode::Upload, Mode::Echo] {
            let mut cluster = Cluster::new(Setup {
                ipv6,
                client_link: Rules::delayed(Duration::from_millis(10)),
                ..Setup::default()
            });
            let conversation = cluster.converse(Plan::script(mode, Closing::Client, 36_000_000, 5));
            cluster.world.run_for(Duration::from_millis(100));
            let ingress = port_of(MemberId(1));
            // Have the session at the ingress, so that it must hand over both.
            if cluster.owner().unwrap().0 != ingress {
                assert!(cluster.move_on());
                cluster.world.run_for(Duration::from_millis(5));
            }
            cluster
                .world
                .with(ingress, |node: &mut Node, now| node.drain(now));
            let mut off = false;
            cluster.finish_with(conversation, Duration::from_secs(60), |cluster| {
                if !off && cluster.node(ingress).drained() {
                    off = true;
                    cluster.world.unplug(ingress);
                }
            });
            cluster.assert_clean(&format!("drain of the ingress, {mode:?}, IPv6 {ipv6}"));
            assert!(off, "the drain did not complete while the transfer went on");
        }
    }
}

#[test]
fn an_ingress_that_drains_stays_until_the_others_and_the_clients_know() {
    for seed in 1..=6 {
        let mut cluster = Cluster::new(Setup {
            seed,
            nodes: 3,
            ipv6: seed % 2 == 0,
            client_link: Rules::delayed(Duration::from_millis(2)),
            ..Setup::default()
        });
        let ingress = port_of(MemberId(1));
        let plan = Plan::script(Mode::Echo, Closing::Client, 2_000_000, 5);
        let conversation = cluster.converse(plan);
        cluster.world.run_for(Duration::from_millis(100));
        cluster
            .world
            .with(ingress, |node: &mut Node, now| node.drain(now));
        let ordered = cluster.world.now();
        cluster.finish_with(conversation, Duration::from_secs(60), |_| ());
        let limit = ordered + Duration::from_secs(5);
        cluster
            .world
            .run_while(limit, |world| !world.party::<Node>(ingress).drained());
        let stayed = cluster.world.now().since(ordered);
        let status = cluster.node(ingress).instance().drain_status();
        let status = status.expect("it drains");
        assert_eq!((status.unconfirmed, status.overrun), (0, None));
        assert!(stayed >= Duration::from_secs(2), "seed {seed}: {stayed:?}");
        assert!(stayed < Duration::from_secs(4), "seed {seed}: {stayed:?}");
        cluster.assert_clean(&format!("seed {seed}"));
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let options = Options {
        seed: 77,
        octets: 100_000,
        ..Options::default()
    };
    let (first, second) = (run(&options), run(&options));
    assert_eq!(first.trace_hash, second.trace_hash);
    assert_eq!(first.frames, second.frames);
}

/// Run one seed and fail on anything that is not as it must be.
fn clean(options: &Options) -> Report {
    let report = run(options);
    let list: Vec<String> = report
        .first_violations
        .iter()
        .map(ToString::to_string)
        .collect();
    let seed = report.seed;
    assert!(
        list.is_empty(),
        "seed {seed}: {}\n{}",
        report.violations,
        list.join("\n")
    );
    report
}

#[test]
fn swarm_of_seeds() {
    for seed in 1..=40 {
        let report = clean(&Options {
            seed,
            octets: 300_000,
            ..Options::default()
        });
        assert!(report.moves > 0, "seed {seed}: nothing moved");
    }
}

#[test]
fn nobody_repeats_anything_among_three_where_nothing_is_lost() {
    let mut moves = 0;
    for seed in 1..=40 {
        let report = clean(&Options {
            seed,
            rough: false,
            ..Options::default()
        });
        let repeated = report.client_retransmissions + report.server_retransmissions;
        assert_eq!(repeated, 0, "seed {seed}");
        moves += report.moves;
    }
    assert!(moves > 400, "only {moves} moves");
}
