//! Two networks: the instances have one of their own.

use std::net::IpAddr;

use bytes::Bytes;
use godwit_netstack::cluster::MemberId;
use godwit_netstack::stack::{Interface, MacAddr};
use godwit_netstack::{Duration, Instant};
use godwit_sim::host::{Outcome, Plan};
use godwit_sim::net::{Rate, Rules};
use godwit_sim::node::port_of;
use godwit_sim::scenario::{Cluster, Served, Setup};
use godwit_sim::script::{Closing, Mode};
use godwit_sim::{Party, World, check};

const SECOND: Duration = Duration::from_secs(1);

fn setup(seed: u64) -> Setup {
    Setup {
        seed,
        ipv6: seed.is_multiple_of(2),
        nodes: 4,
        found: 1,
        // So that conversations last.
        client_link: Rules {
            rate: Some(Rate {
                octets_per_second: 400_000,
                queue: 40_000,
            }),
            ..Rules::delayed(Duration::from_millis(5))
        },
        instance_link: Some(Rules::delayed(Duration::from_micros(50))),
        ..Setup::default()
    }
}

fn up(cluster: &mut Cluster, id: u32) -> bool {
    let nodes: Vec<_> = cluster.nodes().take(3).collect();
    let limit = cluster.now() + SECOND * 30;
    cluster.world.run_while(limit, |world| {
        let knows = |port: &usize| {
            let node = world.party::<godwit_sim::node::Node>(*port);
            let members = node.instance().members();
            members.iter().any(|m| m.id == MemberId(id) && m.up)
        };
        !nodes.iter().all(knows)
    })
}

#[test]
fn one_that_is_found_in_the_instances_network_serves_clients_in_theirs() {
    for (seed, served) in [
        (1, Served::Script),
        (2, Served::Script),
        (3, Served::SdkScript),
        (4, Served::SdkScript),
    ] {
        let mut cluster = Cluster::new(Setup {
            served,
            ..setup(seed)
        });
        assert!(up(&mut cluster, 4), "seed {seed}: it is found");
        let plan = Plan::script(Mode::Echo, Closing::Client, 600_000, seed);
        let conversation = cluster.converse(plan);
        let found = port_of(MemberId(4));
        let (mut moved, mut due) = (0, cluster.now() + SECOND / 10);
        cluster.finish_with(conversation, SECOND * 60, |cluster| {
            let owner = cluster.owner().map(|(port, session)| (port, session.id));
            let Some((owner, session)) = owner.filter(|_| cluster.now() >= due) else {
                return;
            };
            let to = if owner == found { 0 } else { found };
            moved += u32::from(cluster.move_session(owner, session, to).is_ok());
            due = cluster.now() + SECOND / 10;
        });
        assert_eq!(cluster.outcome(conversation), Outcome::Done);
        assert!(moved >= 4, "seed {seed}: {moved} moves");
        assert!(cluster.counter("forwarded") > 100, "the ingress passes on");
        cluster.assert_clean("found");
    }
}

#[test]
fn whose_cable_to_the_clients_is_out_gives_away_role_and_sessions() {
    for seed in 1..=4 {
        let mut cluster = Cluster::new(Setup {
            found: 0,
            ..setup(seed)
        });
        let plan = Plan::script(Mode::Echo, Closing::Client, 3_000_000, seed);
        let conversation = cluster.converse(plan);
        cluster.world.run_for(SECOND / 5);
        let acts = |cluster: &Cluster| {
            let mut nodes = cluster.nodes();
            nodes.find(|port| cluster.node(*port).instance().is_ingress())
        };
        let (mut pulls, mut due) = (0, cluster.now());
        cluster.finish_with(conversation, SECOND * 120, |cluster: &mut Cluster| {
            if cluster.now() < due || pulls == 6 {
                return;
            }
            // In turns the ingress, and who has the session.
            let owner = cluster.owner().map(|(port, _)| port);
            let whose = if pulls % 2 == 0 { acts(cluster) } else { owner };
            let Some(port) = whose else { return };
            for port in cluster.nodes() {
                cluster.set_cable(port, Interface::Service, true);
            }
            cluster.set_cable(port, Interface::Service, false);
            pulls += 1;
            due = cluster.now() + SECOND * 2;
        });
        assert_eq!(cluster.outcome(conversation), Outcome::Done, "seed {seed}");
        assert!(pulls >= 3, "{pulls}");
        let given = cluster.counter("sessions_given_away_cut_off");
        let roles = cluster.counter("ingress_handed_on_cut_off");
        assert!(given > 0 && roles > 0, "seed {seed}: {given}, {roles}");
        cluster.assert_clean("cable");
    }
}

/// Says one thing, wherever that belongs.
struct Stray(Option<(Interface, Bytes)>);

impl Party for Stray {
    fn mac(&self) -> MacAddr {
        [2, 0, 0, 0, 1, 1]
    }
    fn is_server(&self) -> bool {
        true
    }
    fn handle_frame(&mut self, _now: Instant, _interface: Interface, _frame: &Bytes) {}
    fn handle_timeout(&mut self, _now: Instant) {}
    fn poll_transmit(&mut self, _now: Instant) -> Option<(Interface, Bytes)> {
        self.0.take()
    }
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
}

/// Its sender's address on the link, and its ends.
fn packet(source: MacAddr, from: [u8; 4], to: [u8; 4]) -> Bytes {
    let mut frame = vec![0; 60];
    frame[6..12].copy_from_slice(&source);
    frame[12] = 8;
    frame[26..30].copy_from_slice(&from);
    frame[30..34].copy_from_slice(&to);
    frame.into()
}

#[test]
fn what_strays_into_the_other_network_is_seen() {
    use Interface::{Instance, Service};
    let (card, inner) = ([2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 4, 1]);
    let (vip, client) = ([10, 77, 0, 10], [10, 77, 0, 250]);
    let (own, peer) = ([10, 88, 0, 11], [10, 88, 0, 12]);
    for (interface, frame, strays) in [
        (Service, packet(card, vip, client), false),
        (Service, packet(inner, vip, client), true),
        (Service, packet(card, own, client), true),
        (Service, packet(card, vip, peer), true),
        (Instance, packet(inner, own, peer), false),
        (Instance, packet(inner, client, vip), false),
        (Instance, packet(card, own, peer), true),
        (Instance, packet(inner, vip, client), true),
    ] {
        let mut world = World::new(1, check::always());
        world.watch((IpAddr::from(vip), 80).into());
        let links = (Rules::default(), Some(Rules::default()));
        let party = Stray(Some((interface, frame.clone())));
        world.attach_to_both(Box::new(party), links, Duration::ZERO);
        assert_eq!(world.violation_count() > 0, strays, "{frame:02x?}");
    }
}
