//! The simulator itself, with smoltcp at both ends: that links do what their rules say, that the
//! checkers stay quiet on a stack that behaves, and that runs repeat.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use godwit_netstack::Duration;
use godwit_sim::World;
use godwit_sim::check::{self, Retransmission};
use godwit_sim::host::{Conversation, Host, HostConfig, Outcome, Plan, Server, SocketConfig};
use godwit_sim::net::{Burst, Port, Rate, Rules};
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
