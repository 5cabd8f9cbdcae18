//! Short connections, several at a time, opened and left in every way while their sessions move.

use godwit_sim::crowd::{Options, Way, crowd};

fn options(seed: u64, connections: u64, rough: bool) -> Options {
    Options {
        seed,
        connections,
        rough,
    }
}

#[test]
fn on_a_clean_network_whatever_was_to_end_well_does() {
    for seed in 1..=6 {
        let report = crowd(&options(seed, 100, false));
        assert_eq!(report.violations, 0, "{:?}", report.first_violations);
        assert_eq!((report.connections(), report.unreached), (100, 0));
        assert!(report.moves > 20 && report.reused > 10, "{report:?}");
        assert!(report.ways[&Way::Orderly] > 30);
    }
}

#[test]
fn a_port_just_used_is_served_though_only_a_cookie_remembers_its_syn() {
    for seed in [10_465, 10_932] {
        let report = crowd(&options(seed, 250, true));
        assert_eq!(report.violations, 0, "{:?}", report.first_violations);
    }
}

#[test]
fn a_time_wait_that_has_just_moved_gives_way_to_the_next_connection() {
    for seed in [7_001_384, 7_003_390] {
        let report = crowd(&options(seed, 250, true));
        assert_eq!(report.violations, 0, "{:?}", report.first_violations);
    }
}

#[test]
fn a_seed_can_be_replayed() {
    let run = || crowd(&options(3, 60, true)).trace_hash;
    assert_eq!(run(), run());
}
