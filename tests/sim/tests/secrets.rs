//! A cluster boots, moves sessions and changes its key, with everything logged: no secret is among it.

use std::fmt::Write;
use std::sync::Mutex;

use godwit_netstack::Duration;
use godwit_netstack::cluster::MemberId;
use godwit_netstack::cluster::keys::Key;
use godwit_sim::host::Plan;
use godwit_sim::node::Node;
use godwit_sim::scenario::{Cluster, Served, Setup};

static LOGGED: Mutex<String> = Mutex::new(String::new());

struct Logged;

impl log::Log for Logged {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        let _ = writeln!(LOGGED.lock().unwrap(), "{}", record.args());
    }
    fn flush(&self) {}
}

/// The ways in which octets may be printed.
fn forms(secret: &[u8; 32]) -> [String; 4] {
    let hex = |octets: &[u8]| {
        octets
            .iter()
            .map(|o| format!("{o:02x}"))
            .collect::<String>()
    };
    let part = &secret[..6];
    let list = format!("{part:?}");
    let list = list.trim_matches(['[', ']']).to_string();
    [
        hex(part),
        list,
        hex(&secret[26..]),
        format!("{part:02x?}").trim_matches(['[', ']']).to_string(),
    ]
}

#[test]
fn nothing_that_is_logged_or_printed_shows_a_key() {
    log::set_logger(&Logged).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let setup = Setup {
        nodes: 3,
        served: Served::Echo,
        ..Setup::default()
    };
    let (old, new) = (Key(setup.cluster_key()), Key([0x3d; 32]));
    let secret = setup.instance(MemberId(1)).stack.secret;
    let mut shown = format!("{:?}", setup.instance(MemberId(1)));
    let mut cluster = Cluster::new(setup);
    let conversation = cluster.converse(Plan::echo(500_000, 1));
    for port in cluster.nodes() {
        cluster.world.with(port, |node: &mut Node, now| {
            let mut instance = node.instance_mut();
            instance.add_key(new.clone()).unwrap();
            instance.activate_key(now, new.id()).unwrap();
        });
    }
    cluster.move_on();
    cluster.finish(conversation, Duration::from_secs(60));
    cluster.world.run_for(Duration::from_secs(6));
    for port in cluster.nodes() {
        cluster.world.with(port, |node: &mut Node, now| {
            node.instance_mut().remove_key(now, old.id()).unwrap();
        });
        let node = cluster.node(port);
        let keys = node.instance().keys();
        assert_eq!((keys.len(), keys[0].channels), (1, 2), "{keys:?}");
        let _ = write!(
            shown,
            "{:?} {:?} {:?} {:?}",
            node.instance(),
            node.instance().members(),
            node.instance().counters(),
            node.instance().policy_status()
        );
    }
    cluster.assert_clean("a change of keys");
    shown += &LOGGED.lock().unwrap();
    assert!(
        shown.contains(&new.id().to_string()),
        "keys are named in the log"
    );
    for form in [old.0, new.0, secret].iter().flat_map(forms) {
        assert!(!shown.contains(&form), "{form} is shown");
    }
}
