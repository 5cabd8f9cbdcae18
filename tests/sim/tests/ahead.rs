//! Octets that travel ahead of the capsule: a client that does not read, sessions that move with their
//! queues full, and channels that are lost in between.

use std::collections::BTreeSet;

use godwit_netstack::Duration;
use godwit_netstack::cluster::MemberId;
use godwit_netstack::instance::PATIENCE;
use godwit_netstack::tcp::TcpConfig;
use godwit_sim::check::Retransmission;
use godwit_sim::host::{Plan, SocketConfig};
use godwit_sim::net::{Rate, Rules};
use godwit_sim::node::{Node, port_of};
use godwit_sim::scenario::{Cluster, Setup};
use godwit_sim::script::{Closing, Mode};

/// More than a capsule takes along without sending it ahead.
const MUCH: u32 = 16 * 1024;
const OCTETS: u64 = 2_000_000;
/// Steps of the world between two places to cut at: each frame takes several.
const STRIDE: u64 = 20;

/// A client whose window is closed, with a lot queued for it at its session's owner.
fn not_reading(setup: Setup, mode: Mode) -> (Cluster, usize) {
    let small = SocketConfig {
        receive: 32 * 1024,
        ..SocketConfig::default()
    };
    let mut cluster = Cluster::new(Setup {
        client_link: Rules::delayed(Duration::from_millis(1)),
        sockets: small,
        patience: PATIENCE,
        ..setup
    });
    // Closed windows are probed with an octet that was sent before.
    cluster.world.check::<Retransmission>().forbidden = false;
    let conversation = cluster.converse(Plan::script(mode, Closing::Client, OCTETS, 9));
    cluster.world.run_for(Duration::from_millis(30));
    cluster.change_plan(conversation, |plan| plan.reads = false);
    cluster.world.run_for(Duration::from_millis(200));
    let (_, session) = cluster.owner().expect("somebody has it");
    let queued = session.connections[0].tcp.send_queued;
    assert!(queued > MUCH, "{mode:?}: {queued} octets queued");
    (cluster, conversation)
}

/// Let the world go on until one of the instances is as asked for.
fn until(cluster: &mut Cluster, limit: Duration, is_so: impl Fn(&Node) -> bool) -> bool {
    let limit = cluster.now() + limit;
    let nodes: Vec<_> = cluster.nodes().collect();
    cluster.world.run_while(limit, |world| {
        !nodes.iter().any(|port| is_so(world.party::<Node>(*port)))
    })
}

/// Capsules of the moves that were accepted.
fn accepted_capsules(cluster: &Cluster) -> Vec<u32> {
    let moves = cluster
        .nodes()
        .flat_map(|port| cluster.node(port).instance().moves());
    moves
        .filter(|m| m.result == "accepted")
        .map(|m| m.capsule_bytes)
        .collect()
}

#[test]
fn full_queues_travel_ahead_and_the_stream_is_exact() {
    for mode in [Mode::Download, Mode::Echo] {
        for (ipv6, native) in [(false, true), (true, false)] {
            let native = native.then(|| TcpConfig {
                receive_buffer: 32 * 1024,
                max_receive_buffer: 32 * 1024,
                ..TcpConfig::default()
            });
            let setup = Setup {
                ipv6,
                nodes: 3,
                native,
                ..Setup::default()
            };
            let (mut cluster, conversation) = not_reading(setup, mode);
            let run = format!("{mode:?}, IPv6 {ipv6}");
            for round in 1..=7 {
                assert!(cluster.move_on(), "{run}, round {round}");
                cluster.world.run_for(Duration::from_millis(300));
                assert_eq!(cluster.moves(), round, "{run}");
            }
            assert_eq!(cluster.counter("sessions_sent_ahead"), 7, "{run}");
            let capsules = accepted_capsules(&cluster);
            assert!(
                capsules.iter().all(|&octets| octets < 2_000),
                "{run}: {capsules:?}"
            );
            cluster.change_plan(conversation, |plan| plan.reads = true);
            cluster.finish(conversation, Duration::from_secs(60));
            cluster.assert_clean(&run);
        }
    }
}

#[test]
fn what_the_client_takes_while_the_octets_travel_is_not_sent_again() {
    for mode in [Mode::Download, Mode::Echo] {
        let (mut cluster, conversation) = not_reading(Setup::default(), mode);
        let ingress = port_of(MemberId(1));
        if cluster.owner().unwrap().0 != ingress {
            // What the client says is not to wait behind the octets.
            assert!(cluster.move_on());
            cluster.world.run_for(Duration::from_secs(1));
        }
        // They take some milliseconds to the target.
        let target = port_of(MemberId(2));
        cluster.world.link(target).down.rules.rate = Some(Rate {
            octets_per_second: 5_000_000,
            queue: 1_000_000,
        });
        let counter = |cluster: &Cluster| cluster.node(ingress).counter("sessions_sent_ahead");
        let before = counter(&cluster);
        assert!(cluster.move_on());
        while counter(&cluster) == before {
            assert!(cluster.world.step());
        }
        let queued = |cluster: &Cluster| match cluster.owner() {
            Some((port, session)) if port == ingress => session.connections[0].tcp.send_queued,
            _ => 0,
        };
        let before = queued(&cluster);
        cluster.change_plan(conversation, |plan| plan.reads = true);
        let mut at_freeze = before;
        while queued(&cluster) > 0 {
            at_freeze = queued(&cluster);
            if at_freeze < before - MUCH {
                // Enough for now: the rest is to be there at the freeze.
                cluster.change_plan(conversation, |plan| plan.reads = false);
            }
            assert!(cluster.world.step());
        }
        cluster.change_plan(conversation, |plan| plan.reads = true);
        assert!(
            at_freeze > MUCH && at_freeze < before - MUCH / 2,
            "{mode:?}: {before} octets queued, then {at_freeze}"
        );
        cluster.finish(conversation, Duration::from_secs(60));
        cluster.assert_clean(&format!("{mode:?}, reading again"));
    }
}

#[test]
fn a_channel_lost_between_the_octets_and_the_capsule_costs_nothing_but_time() {
    // What became of the moves, and in how many of them the octets had arrived and were lost again.
    let mut results = BTreeSet::new();
    let mut in_vain = 0;
    for mode in [Mode::Download, Mode::Echo] {
        for step in 0..60 {
            let setup = Setup {
                seed: step,
                ..Setup::default()
            };
            let (mut cluster, conversation) = not_reading(setup, mode);
            assert!(cluster.move_on());
            let limit = Duration::from_secs(2);
            let ahead = until(&mut cluster, limit, |node| {
                node.counter("sessions_sent_ahead") == 1
            });
            assert!(ahead, "nothing was sent ahead");
            for _ in 0..step * STRIDE {
                cluster.world.step();
            }
            // Longer than a peer may be silent: both ends give the channel up.
            cluster.world.sever(0, 1);
            cluster.world.run_for(Duration::from_secs(5));
            cluster.world.heal();
            cluster.world.run_for(Duration::from_secs(5));
            let run = format!("{mode:?}, cut at step {step}");
            for port in cluster.nodes() {
                let moves = cluster.node(port).instance().moves();
                results.extend(moves.into_iter().map(|m| m.result));
            }
            in_vain += u32::from(cluster.counter("ahead_kept") > 0 && cluster.moves() == 0);
            // And again, wherever it is now.
            let before = cluster.moves();
            assert!(
                cluster.move_on(),
                "{run}: nobody has it, or it may not move"
            );
            cluster.world.run_for(Duration::from_secs(1));
            assert_eq!(cluster.moves(), before + 1, "{run}");
            cluster.change_plan(conversation, |plan| plan.reads = true);
            cluster.finish(conversation, Duration::from_secs(120));
            cluster.assert_clean(&run);
        }
    }
    assert!(in_vain > 10, "{in_vain}");
    let all = ["accepted", "refused: never arrived"];
    assert!(results.iter().map(String::as_str).eq(all), "{results:?}");
}
