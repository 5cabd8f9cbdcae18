//! Two releases of the real service in one cluster: sessions go from the first to the second at any
//! moment, with the file they are in the middle of, and never back once they have committed there.

use godwit_http::archive::{Archive, by_path};
use godwit_netstack::Duration;
use godwit_netstack::cluster::MemberId;
use godwit_releases::{FIRST, SECOND};
use godwit_sim::host::{Plan, SocketConfig};
use godwit_sim::net::Rules;
use godwit_sim::node::port_of;
use godwit_sim::scenario::{Cluster, Served, Setup};

const LIMIT: Duration = Duration::from_secs(600);
const NEWS: &str = "/news.bin";

fn news(archive: Archive) -> Plan {
    Plan::http_file(NEWS, by_path(archive, NEWS).unwrap().bytes)
}

fn setup(seed: u64, nodes: u32, rough: bool) -> Setup {
    let link = |micros| match rough {
        false => Rules::delayed(Duration::from_micros(micros)),
        true => Rules {
            loss_ppm: 10_000,
            duplicate_ppm: 5_000,
            reorder_ppm: 20_000,
            reorder_by: Duration::from_micros(500),
            ..Rules::delayed(Duration::from_micros(micros))
        },
    };
    Setup {
        seed,
        nodes,
        served: Served::Releases,
        ipv6: seed.is_multiple_of(2),
        // Small, so that the file is not under way all at once.
        sockets: SocketConfig {
            receive: 8 * 1024,
            ..SocketConfig::default()
        },
        client_link: link(100),
        node_link: link(20),
        ..Setup::default()
    }
}

fn count(cluster: &Cluster, name: &str) -> u64 {
    let counters = cluster.nodes().map(|port| {
        let counters = cluster.node(port).instance().counters();
        let found = counters.into_iter().find(|(counter, _)| *counter == name);
        found.map_or(0, |(_, count)| count)
    });
    counters.sum()
}

fn has_answered(cluster: &Cluster) -> bool {
    let owner = cluster.owner();
    owner.is_some_and(|(_, session)| session.connections.iter().any(|own| own.tx_bytes > 0))
}

/// A download that began at instance 1, moved on every `every` from then on.
fn moved(setup: Setup, every: Duration) -> Option<Cluster> {
    let mut cluster = Cluster::new(setup);
    // Whoever gets the connection says which file it will be.
    let conversation = cluster.converse(news(FIRST));
    let mut at_first = None;
    let mut due = cluster.now() + every;
    let mut begun = false;
    cluster.finish_with(conversation, LIMIT, |cluster| {
        if at_first.is_none()
            && let Some((owner, _)) = cluster.owner()
        {
            at_first = Some(owner == port_of(MemberId(1)));
            if owner != port_of(MemberId(1)) {
                cluster.change_plan(conversation, |plan| *plan = news(SECOND));
            }
        }
        // A request that is under way yet is answered by whoever has the session when it comes.
        begun = begun || has_answered(cluster);
        if begun && cluster.now() >= due && cluster.move_on() {
            due = cluster.now() + every;
        }
    });
    (at_first == Some(true)).then_some(cluster)
}

#[test]
fn a_download_goes_on_in_the_file_it_began_with() {
    let (mut begun_at_first, mut fetched, mut refused) = (0, 0, 0);
    for seed in 1..=24 {
        let every = Duration::from_micros(700 * (1 + seed % 7));
        let Some(cluster) = moved(setup(seed, 3, seed > 12), every) else {
            continue;
        };
        cluster.assert_clean(&format!("a download through two releases, seed {seed}"));
        begun_at_first += 1;
        fetched += count(&cluster, "contents_fetched");
        refused += count(&cluster, "transfer_refused_state_version");
    }
    assert!(
        begun_at_first >= 4,
        "{begun_at_first} downloads began at the first release"
    );
    assert!(fetched >= begun_at_first, "{fetched} contents fetched");
    assert!(refused > 0, "moves back were tried");
}
