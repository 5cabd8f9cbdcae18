//! TCP alone against smoltcp, moved by a function call: export and import at any packet.

use godwit_netstack::Duration;
use godwit_netstack::cluster::MemberId;
use godwit_netstack::stack::DeviceCapabilities;
use godwit_sim::World;
use godwit_sim::check::{self, Note, Retransmission};
use godwit_sim::host::{Conversation, Host, HostConfig, Outcome, Plan, SocketConfig};
use godwit_sim::net::{Port, Rules};
use godwit_sim::node::{Bare, port_of};
use godwit_sim::scenario::Setup;
use godwit_sim::script::{Closing, Mode};

struct Pair {
    world: World,
    setup: Setup,
    client: Port,
    owner: Port,
}

impl Pair {
    fn new(setup: Setup, plan: Plan) -> Pair {
        let mut world = World::new(setup.seed, check::always());
        world.watch(setup.service());
        for id in [MemberId(1), MemberId(2)] {
            let config = setup.instance(id).stack;
            let seed = world.rng(id.0.into()).seed();
            let ahead = setup.clock(id);
            let bare = Bare::new(config, id == MemberId(1), seed, world.now() + ahead);
            world.attach_with_clock(Box::new(bare), setup.node_link, ahead);
        }
        for id in [MemberId(1), MemberId(2)] {
            let other = setup.member_address(MemberId(3 - id.0));
            world.with(port_of(id), |bare: &mut Bare, now| bare.greet(now, other));
        }
        world.run_for(Duration::from_secs(2));
        let mut host = Host::new(
            HostConfig {
                mac: [2, 0, 0, 0, 2, 1],
                addresses: vec![(setup.client_address(), setup.prefix())],
                mtu: setup.mtu.into(),
                seed: setup.seed,
                serves: false,
            },
            world.now(),
        );
        host.connect(
            setup.service(),
            40_000,
            SocketConfig::default(),
            Box::new(Conversation::new(plan)),
        );
        let client = world.attach(Box::new(host), setup.client_link);
        world.check::<Retransmission>().forbidden = setup.is_clean();
        Pair {
            world,
            setup,
            client,
            owner: port_of(MemberId(1)),
        }
    }

    fn move_on(&mut self) -> bool {
        let from = self.owner;
        let to = 1 - from;
        let Some(conn) = self.world.party::<Bare>(from).connections().next() else {
            return false;
        };
        let flow = self.world.flows().of_port(self.client).unwrap();
        self.world.note(Note::Frozen {
            flow,
            from,
            to: Some(to),
        });
        let address = self.setup.member_address(MemberId(to as u32 + 1));
        let taken = self
            .world
            .with(from, |bare: &mut Bare, now| bare.take(now, conn, address));
        let luggage = taken.expect("the connection is there");
        self.world
            .with(to, |bare: &mut Bare, now| bare.put(now, luggage));
        self.owner = to;
        true
    }

    fn finish(&mut self, limit: Duration, mut act: impl FnMut(&mut Pair)) {
        let until = self.world.now() + limit;
        while self.world.party::<Host>(self.client).outcome(0) == Outcome::Running {
            match self.world.next_event() {
                Some(at) if at <= until && self.world.step() => act(self),
                _ => break,
            }
        }
        let outcome = self.world.party::<Host>(self.client).outcome(0);
        if outcome != Outcome::Done {
            self.world.violate("client", format!("{outcome:?}"));
        }
    }

    fn assert_clean(&self, run: &str) {
        let list: Vec<String> = self
            .world
            .violations()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(list.is_empty(), "{run}\n{}", list.join("\n"));
    }
}

fn rough() -> Rules {
    Rules {
        loss_ppm: 20_000,
        duplicate_ppm: 20_000,
        reorder_ppm: 50_000,
        reorder_by: Duration::from_micros(800),
        jitter: Duration::from_micros(50),
        ..Rules::delayed(Duration::from_micros(100))
    }
}

#[test]
fn conversations_without_a_move() {
    for ipv6 in [false, true] {
        for lossy in [false, true] {
            for mode in [Mode::Download, Mode::Upload, Mode::Echo] {
                for closing in [Closing::Client, Closing::Server] {
                    let mut setup = Setup {
                        ipv6,
                        ..Setup::default()
                    };
                    if lossy {
                        setup.client_link = rough();
                    }
                    let mut pair = Pair::new(setup, Plan::script(mode, closing, 300_000, 1));
                    pair.finish(Duration::from_secs(100), |_| {});
                    pair.assert_clean(&format!("{mode:?} {closing:?} v6 {ipv6} lossy {lossy}"));
                }
            }
        }
    }
}

fn indices() -> Vec<u64> {
    // One index of a sweep alone: `GODWIT_SIM_INDEX=17`, with `GODWIT_SIM_TRACE=1` to see it.
    match std::env::var("GODWIT_SIM_INDEX").map(|index| index.parse()) {
        Ok(Ok(index)) => vec![index],
        // Every one of them is the business of tests/every_index.rs, over the whole instance.
        _ => (1..=300).step_by(7).collect(),
    }
}

#[test]
fn a_move_at_any_packet() {
    for lossy in [false, true] {
        for mode in [Mode::Download, Mode::Upload, Mode::Echo] {
            for index in indices() {
                let mut setup = Setup {
                    seed: index,
                    ipv6: index % 2 == 0,
                    ..Setup::default()
                };
                if lossy {
                    setup.client_link = rough();
                    setup.node_link = rough();
                }
                let closing = if index % 4 < 2 {
                    Closing::Client
                } else {
                    Closing::Server
                };
                let mut pair = Pair::new(setup, Plan::script(mode, closing, 320_000, 1));
                let mut moved = false;
                // smoltcp backs off for long when it is unlucky.
                pair.finish(Duration::from_secs(2_000), |pair| {
                    let flow = pair.world.flows().of_port(pair.client);
                    let seen = flow.map_or(0, |flow| pair.world.flows().get(flow).segments);
                    if !moved && seen >= index {
                        moved = pair.move_on();
                    }
                });
                pair.assert_clean(&format!("{mode:?} {closing:?} lossy {lossy} index {index}"));
                assert!(moved);
            }
        }
    }
}

#[test]
fn a_move_after_every_packet() {
    for lossy in [false, true] {
        for mode in [Mode::Download, Mode::Upload, Mode::Echo] {
            for seed in 1..=10 {
                let mut setup = Setup {
                    seed,
                    ipv6: seed % 2 == 0,
                    ..Setup::default()
                };
                if lossy {
                    setup.client_link = rough();
                    setup.node_link = rough();
                }
                if seed > 5 {
                    setup.capabilities = DeviceCapabilities {
                        tx_checksum: true,
                        tso4: true,
                        tso6: true,
                    };
                }
                let plan = Plan::script(mode, Closing::Client, 320_000, seed);
                let mut pair = Pair::new(setup, plan);
                // Tombstones that point at each other for a moment reorder what the client sends.
                pair.world.check::<Retransmission>().forbidden &= mode == Mode::Download;
                let mut last = 0;
                pair.finish(Duration::from_secs(2_000), |pair| {
                    let flow = pair.world.flows().of_port(pair.client);
                    let seen = flow.map_or(0, |flow| pair.world.flows().get(flow).segments);
                    if seen >= last + seed {
                        last = seen;
                        pair.move_on();
                    }
                });
                pair.assert_clean(&format!("{mode:?} lossy {lossy} seed {seed}"));
            }
        }
    }
}
