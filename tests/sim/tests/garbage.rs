//! Frames that nobody should send: mutated, cut, glued and random. Nothing panics, and the
//! connection beside them goes on.

use bytes::Bytes;
use godwit_netstack::Duration;
use godwit_netstack::stack::Interface;
use godwit_sim::Party;
use godwit_sim::check::Reset;
use godwit_sim::host::{Outcome, Plan};
use godwit_sim::node::Node;
use godwit_sim::rng::Rng;
use godwit_sim::scenario::{Cluster, Setup};
use godwit_sim::script::{Closing, Mode};

/// One to eight octets changed, sometimes cut short, sometimes longer.
fn mutated(frame: &[u8], rng: &mut Rng) -> Bytes {
    let mut octets = frame.to_vec();
    for _ in 0..1 + rng.below(8) {
        let at = rng.below(octets.len() as u64) as usize;
        octets[at] = rng.draw() as u8;
    }
    match rng.below(4) {
        0 => octets.truncate(rng.below(octets.len() as u64 + 1) as usize),
        1 => octets.extend_from_slice(&frame[..rng.below(frame.len() as u64) as usize]),
        _ => {}
    }
    octets.into()
}

#[test]
fn mutated_frames_of_every_kind_do_no_harm() {
    for ipv6 in [false, true] {
        let mut cluster = Cluster::cold(Setup {
            ipv6,
            ..Setup::default()
        });
        // ARP or NDP, the channel's handshake and transfers, and the client's connection.
        cluster.world.record(0);
        cluster.await_channels();
        let conversation = cluster.converse(Plan::script(Mode::Echo, Closing::Client, 50_000, 1));
        cluster.world.run_for(Duration::from_millis(5));
        cluster.move_on();
        cluster.finish(conversation, Duration::from_secs(10));
        cluster.assert_clean("before the garbage");
        let recorded = cluster.world.recorded().unwrap().frames();
        let corpus: Vec<Bytes> = recorded.into_iter().take(400).collect();

        let mut rng = cluster.world.rng(7);
        cluster.world.check::<Reset>().expected = true;
        let second = cluster.converse(Plan::script(Mode::Echo, Closing::Client, 50_000, 2));
        for round in 0..20_000 {
            let frame = &corpus[rng.below(corpus.len() as u64) as usize];
            let frame = mutated(frame, &mut rng);
            cluster.world.with(round % 2, |node: &mut Node, now| {
                node.handle_frame(now, Interface::Service, &frame);
            });
            if round % 20 == 0 {
                cluster.world.run_for(Duration::from_micros(100));
            }
        }
        for port in cluster.nodes() {
            assert!(cluster.node(port).counter("rx_frames") >= 10_000);
        }
        cluster.finish(second, Duration::from_secs(60));
        assert_eq!(cluster.outcome(second), Outcome::Done);
        // Garbage can look like the first connection's segments, so only the second one counts.
        let broken = cluster
            .violations()
            .iter()
            .find(|v| v.rule == "client" || v.rule == "progress");
        assert!(broken.is_none(), "{broken:?}");
    }
}
