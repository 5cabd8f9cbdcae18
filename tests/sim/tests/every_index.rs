//! A move at every packet index of a 300-packet exchange: each way, clean and rough, IPv4 and IPv6.

use godwit_netstack::Duration;
use godwit_sim::check::Speaker;
use godwit_sim::host::Plan;
use godwit_sim::net::Rules;
use godwit_sim::node::Habits;
use godwit_sim::scenario::{Cluster, Setup};
use godwit_sim::script::{Closing, Mode};

const PACKETS: u64 = 300;

fn setup(seed: u64, rough: bool, ipv6: bool) -> Setup {
    let mut setup = Setup {
        seed,
        ipv6,
        // Half of the runs have uncommitted work to undo.
        habits: Habits {
            commit_after: Duration::from_micros(seed % 2 * 150),
            write_at_most: if seed.is_multiple_of(3) { 4_000 } else { 0 },
        },
        ..Setup::default()
    };
    if rough {
        let rules = Rules {
            loss_ppm: 20_000,
            duplicate_ppm: 20_000,
            reorder_ppm: 50_000,
            reorder_by: Duration::from_micros(800),
            jitter: Duration::from_micros(50),
            ..Rules::delayed(Duration::from_micros(100))
        };
        setup.client_link = rules;
        setup.node_link = rules;
    }
    setup
}

/// Run one exchange and move the session once `index` segments were emitted.
fn move_at(index: u64, mode: Mode, octets: u64, setup: Setup) -> Cluster {
    let clean = setup.is_clean();
    let mut cluster = Cluster::new(setup);
    let closing = if index.is_multiple_of(2) {
        Closing::Client
    } else {
        Closing::Server
    };
    let conversation = cluster.converse(Plan::script(mode, closing, octets, index));
    let mut moved = false;
    let limit = Duration::from_secs(if clean { 30 } else { 2_000 });
    cluster.finish_with(conversation, limit, |cluster| {
        if !moved && cluster.segments() >= index {
            moved = cluster.move_on();
        }
    });
    // The answer to the last move may still be on its way.
    cluster.world.run_for(Duration::from_secs(2));
    if moved && cluster.moves() != 1 {
        let moves = cluster.moves();
        cluster
            .world
            .violate("one move", format!("{moves} moves were accepted"));
    }
    cluster
}

fn sweep(mode: Mode, octets: u64, rough: bool, ipv6: bool) {
    let mut changes = 0;
    for index in 1..=PACKETS {
        let mut cluster = move_at(index, mode, octets, setup(index, rough, ipv6));
        cluster.assert_clean(&format!(
            "{mode:?}, rough {rough}, IPv6 {ipv6}, move at {index}"
        ));
        assert!(
            cluster.segments() >= PACKETS,
            "the exchange has {} packets only",
            cluster.segments()
        );
        changes += cluster.world.check::<Speaker>().changes();
    }
    assert!(
        changes >= PACKETS - 5,
        "only {changes} of {PACKETS} moves showed on the wire"
    );
}

#[test]
fn download_clean_ipv4() {
    sweep(Mode::Download, 320_000, false, false);
}

#[test]
fn download_clean_ipv6() {
    sweep(Mode::Download, 320_000, false, true);
}

#[test]
fn download_rough_ipv4() {
    sweep(Mode::Download, 320_000, true, false);
}

#[test]
fn download_rough_ipv6() {
    sweep(Mode::Download, 320_000, true, true);
}

#[test]
fn upload_clean_ipv4() {
    sweep(Mode::Upload, 320_000, false, false);
}

#[test]
fn upload_clean_ipv6() {
    sweep(Mode::Upload, 320_000, false, true);
}

#[test]
fn upload_rough_ipv4() {
    sweep(Mode::Upload, 320_000, true, false);
}

#[test]
fn upload_rough_ipv6() {
    sweep(Mode::Upload, 320_000, true, true);
}

#[test]
fn echo_clean_ipv4() {
    sweep(Mode::Echo, 220_000, false, false);
}

#[test]
fn echo_clean_ipv6() {
    sweep(Mode::Echo, 220_000, false, true);
}

#[test]
fn echo_rough_ipv4() {
    sweep(Mode::Echo, 220_000, true, false);
}

#[test]
fn echo_rough_ipv6() {
    sweep(Mode::Echo, 220_000, true, true);
}

/// A session that went away from the ingress and, at each packet index, comes back to it.
fn homeward(mode: Mode, octets: u64) {
    for index in 12..=PACKETS {
        let mut cluster = Cluster::new(setup(index, false, index.is_multiple_of(2)));
        let plan = Plan::script(mode, Closing::Client, octets, index);
        let conversation = cluster.converse(plan);
        let mut moves = 0;
        cluster.finish_with(conversation, Duration::from_secs(30), |cluster| {
            let at_ingress = cluster.owner().map(|(port, _)| port == 0);
            let go = match (moves, at_ingress) {
                (0, Some(true)) => true,
                (1, Some(false)) => cluster.segments() >= index,
                _ => false,
            };
            if go && cluster.move_on() {
                moves += 1;
            }
        });
        cluster.assert_clean(&format!("{mode:?}, home at {index}"));
    }
}

#[test]
fn download_comes_home_clean() {
    homeward(Mode::Download, 320_000);
}

#[test]
fn upload_comes_home_clean() {
    homeward(Mode::Upload, 320_000);
}

#[test]
fn echo_comes_home_clean() {
    homeward(Mode::Echo, 220_000);
}
