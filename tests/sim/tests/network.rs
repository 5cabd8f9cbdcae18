//! The simulator itself, with smoltcp at both ends: that links do what their rules say, that the
//! checkers stay quiet on a stack that behaves, and that runs repeat.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use godwit_netstack::Duration;
use godwit_netstack::tcp::{EcnMode, TcpConfig};
use godwit_sim::World;
use godwit_sim::check::{self, Retransmission};
use godwit_sim::host::{
    Conversation, Host, HostConfig, Native, Outcome, Plan, Server, SocketConfig,
};
use godwit_sim::net::{Burst, Narrow, Port, Rate, Rules};
use godwit_sim::scenario::{Cluster, Setup};
use godwit_sim::script::{Closing, Mode};

fn address(v6: bool, last: u8) -> IpAddr {
    if v6 {
        IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, last.into()))
    } else {
        IpAddr::V4(Ipv4Addr::new(10, 77, 0, last))
    }
}

fn host(v6: bool, last: u8) -> HostConfig {
    HostConfig {
        mac: [2, 0, 0, 0, 0, last],
        addresses: vec![(address(v6, last), if v6 { 64 } else { 24 })],
        mtu: 1500,
        seed: u64::from(last),
        serves: last == 1,
    }
}

/// A client and a server, both on smoltcp; returns the client's port.
fn pair(seed: u64, v6: bool, rules: Rules, plan: Plan) -> (World, Port) {
    let mut world = World::new(seed, check::always());
    let mut server = Host::new(host(v6, 1), world.now());
    server.listen(4000, SocketConfig::default(), Box::new(Server::default()));
    world.attach(Box::new(server), rules);
    let mut client = Host::new(host(v6, 9), world.now());
    let service = SocketAddr::new(address(v6, 1), 4000);
    client.connect(
        service,
        40_000,
        SocketConfig::default(),
        Box::new(Conversation::new(plan)),
    );
    let port = world.attach(Box::new(client), rules);
    (world, port)
}

fn finish(world: &mut World, client: Port) {
    let limit = world.now() + Duration::from_secs(120);
    world.run_while(limit, |world| !world.party::<Host>(client).finished());
    assert_eq!(world.party::<Host>(client).outcome(0), Outcome::Done);
}

fn rough() -> Rules {
    Rules {
        loss_ppm: 10_000,
        burst: Some(Burst {
            enter_ppm: 2_000,
            leave_ppm: 500_000,
        }),
        duplicate_ppm: 10_000,
        reorder_ppm: 20_000,
        reorder_by: Duration::from_millis(2),
        jitter: Duration::from_micros(200),
        corrupt_ppm: 5_000,
        ..Rules::delayed(Duration::from_millis(2))
    }
}

#[test]
fn every_mode_comes_through_clean_and_rough_links() {
    for v6 in [false, true] {
        for rules in [Rules::delayed(Duration::from_micros(50)), rough()] {
            for mode in [Mode::Download, Mode::Upload, Mode::Echo] {
                for closing in [Closing::Client, Closing::Server] {
                    let plan = Plan::script(mode, closing, 200_000, 7);
                    let (mut world, client) = pair(1, v6, rules, plan);
                    finish(&mut world, client);
                }
            }
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let hash = |seed| {
        let plan = Plan::script(Mode::Echo, Closing::Client, 100_000, 7);
        let (mut world, client) = pair(seed, false, rough(), plan);
        finish(&mut world, client);
        (world.trace_hash(), world.frames())
    };
    assert_eq!(hash(5), hash(5));
    assert_ne!(hash(5).0, hash(6).0);
}

#[test]
fn checkers_find_nothing_wrong_with_a_well_behaved_stack() {
    let plan = Plan::script(Mode::Download, Closing::Client, 500_000, 7);
    let clean = Rules::delayed(Duration::from_micros(50));
    let (mut world, client) = pair(1, false, clean, plan);
    world.watch(SocketAddr::new(address(false, 1), 4000));
    world.check::<Retransmission>().forbidden = true;
    finish(&mut world, client);
    assert_eq!(world.flows().len(), 1);
    assert!(world.violations().is_empty(), "{:#?}", world.violations());
}

#[test]
fn a_rate_limit_sets_the_pace() {
    let plan = Plan::script(Mode::Download, Closing::Client, 1_000_000, 7);
    let rules = Rules {
        rate: Some(Rate {
            octets_per_second: 1_000_000,
            queue: 100_000,
        }),
        ..Rules::delayed(Duration::from_millis(1))
    };
    let (mut world, client) = pair(1, false, rules, plan);
    let begun = world.now();
    finish(&mut world, client);
    let took = world.now().since(begun);
    assert!(took > Duration::from_millis(1_000), "{took:?}");
    assert!(took < Duration::from_millis(3_000), "{took:?}");
}

#[test]
fn an_unplugged_party_says_nothing_more() {
    let plan = Plan::script(Mode::Download, Closing::Client, 1_000_000, 7);
    let slow = Rules::delayed(Duration::from_millis(1));
    let (mut world, client) = pair(1, false, slow, plan);
    world.run_for(Duration::from_millis(10));
    world.unplug(0);
    world.run_for(Duration::from_millis(10));
    let received = |world: &World| {
        let (_, app) = world.party::<Host>(client).task(0);
        let app: &dyn std::any::Any = app;
        app.downcast_ref::<Conversation>().unwrap().received()
    };
    let before = received(&world);
    world.run_for(Duration::from_secs(5));
    assert_eq!(received(&world), before);
}

/// A conversation with a cluster that is moved now and then; how many packets were too big for the
/// bottleneck before the client, and how many complaints there were.
fn converse(setup: Setup, octets: u64) -> (Cluster, u64, u64) {
    let mut cluster = Cluster::new(setup);
    let plan = Plan::script(Mode::Echo, Closing::Client, octets, 7);
    let conversation = cluster.converse(plan);
    let mut due = cluster.now() + Duration::from_millis(100);
    cluster.finish_with(conversation, Duration::from_secs(60), |cluster| {
        if cluster.now() >= due && cluster.move_on() {
            due = cluster.now() + Duration::from_millis(100);
        }
    });
    cluster.assert_clean("conversation");
    assert_eq!(cluster.outcome(conversation), Outcome::Done);
    let client = cluster.client;
    let link = cluster.world.link(client);
    let too_big = link.up.too_big + link.down.too_big;
    let complaints = link.up.complaints + link.down.complaints;
    (cluster, too_big, complaints)
}

/// Clients on smoltcp, which sends what fits its own link, and on our own TCP, which must find out too.
fn clients() -> [Option<TcpConfig>; 2] {
    [None, Some(TcpConfig::default())]
}

#[test]
fn a_bottleneck_of_packet_size_is_heard_of_and_kept_to() {
    for ipv6 in [false, true] {
        for native in clients() {
            let setup = Setup {
                ipv6,
                native,
                narrow: Some(Narrow {
                    mtu: 1_320,
                    tells_every: Some(Duration::ZERO),
                }),
                ..Setup::default()
            };
            let (_, too_big, complaints) = converse(setup, 400_000);
            // What was in flight when the first word came, and later looks for more.
            assert!((1..60).contains(&too_big), "{too_big} packets too big");
            assert_eq!(too_big, complaints);
        }
    }
}

#[test]
fn a_bottleneck_that_says_little_or_nothing_is_found_all_the_same() {
    for (tells_every, most) in [(Some(Duration::from_secs(1)), 20), (None, 0)] {
        for native in clients() {
            let setup = Setup {
                native,
                narrow: Some(Narrow {
                    mtu: 1_000,
                    tells_every,
                }),
                ..Setup::default()
            };
            let (_, too_big, complaints) = converse(setup, 200_000);
            assert!(too_big > 0);
            assert!(complaints <= most, "{complaints} complaints");
        }
    }
}

#[test]
fn connections_survive_forged_errors_and_count_them() {
    for ipv6 in [false, true] {
        for native in clients() {
            let forging = Rules {
                forge_ppm: 200_000,
                ..Rules::delayed(Duration::from_micros(100))
            };
            let setup = Setup {
                ipv6,
                native: native.clone(),
                node_link: forging,
                client_link: forging,
                ..Setup::default()
            };
            let (cluster, _, complaints) = converse(setup, 200_000);
            assert!(complaints > 100, "{complaints}");
            let counter = |name| {
                let nodes = cluster.nodes().map(|port| cluster.node(port).counter(name));
                nodes.sum::<u64>()
            };
            for name in [
                "icmp_error_accepted",
                "icmp_error_stray",
                "icmp_ignored",
                "rx_bad_checksum",
            ] {
                assert!(counter(name) > 0, "{name}");
            }
            if native.is_some() {
                let client = cluster.world.party::<Native>(cluster.client);
                assert!(client.counter("icmp_error_accepted") > 0);
            }
        }
    }
}

#[test]
fn marks_slow_senders_down_without_a_loss() {
    let mut native = TcpConfig::default();
    native.socket.ecn = EcnMode::Request;
    let setup = Setup {
        native: Some(native),
        client_link: Rules {
            mark_ppm: 20_000,
            ..Rules::delayed(Duration::from_millis(1))
        },
        ..Setup::default()
    };
    let (cluster, ..) = converse(setup, 1_000_000);
    let client = cluster.world.party::<Native>(cluster.client);
    let info = client.connection(0).expect("in TIME-WAIT").info();
    assert!(info.ecn);
    assert!(info.counters.ecn_reductions > 0, "the instances echoed");
    assert!(info.counters.congestion_marks > 0, "theirs were marked too");
    assert_eq!(info.counters.retransmits, 0);
}
