//! A move in each synchronised state of TCP, from ESTABLISHED to TIME-WAIT; and the same again when
//! everything in flight at the move is lost, so that the target must repeat what is still owed.

use godwit_netstack::Duration;
use godwit_sim::check::{Reset, Retransmission};
use godwit_sim::host::{Outcome, Plan};
use godwit_sim::net::Rules;
use godwit_sim::scenario::{Cluster, Setup};
use godwit_sim::script::{Closing, Mode};

const OCTETS: u64 = 60_000;

fn setup(ipv6: bool) -> Setup {
    Setup {
        ipv6,
        // Slow enough that every state lasts a while.
        client_link: Rules::delayed(Duration::from_millis(4)),
        ..Setup::default()
    }
}

/// What the client does so that the server gets into `state`.
fn plan_for(state: &str) -> Plan {
    let mut plan = match state {
        "CLOSE-WAIT" => Plan::script(Mode::Download, Closing::Client, 600_000, 1),
        "ESTABLISHED" | "LAST-ACK" => Plan::script(Mode::Download, Closing::Client, OCTETS, 1),
        _ => Plan::script(Mode::Download, Closing::Server, OCTETS, 1),
    };
    plan.half_close = state == "CLOSE-WAIT";
    plan.may_close = state != "FIN-WAIT-2";
    plan
}

/// Reach `state` at the server, move, lose what is in flight if told to, and finish.
fn move_in(state: &str, ipv6: bool, lose: bool) {
    let mut cluster = Cluster::new(setup(ipv6));
    let conversation = cluster.converse(plan_for(state));
    if state == "CLOSING" {
        assert!(cluster.run_until_state("FIN-WAIT-1", Duration::from_secs(5)));
        // Before the server's FIN gets here.
        cluster.change_plan(conversation, |plan| plan.half_close = true);
    }
    assert!(
        cluster.run_until_state(state, Duration::from_secs(5)),
        "the server never got to {state}"
    );
    if lose {
        cluster.world.check::<Retransmission>().forbidden = false;
        cluster.world.drop_in_flight(|_, segment| {
            segment.source.port() != 9101 && segment.target.port() != 9101
        });
    }
    assert!(cluster.move_on(), "the move could not start in {state}");
    cluster.world.run_for(Duration::from_millis(1));
    assert_eq!(cluster.moves(), 1, "the move was not accepted in {state}");
    cluster.change_plan(conversation, |plan| plan.may_close = true);
    cluster.finish(conversation, Duration::from_secs(30));
    // Nothing wrong may be said in TIME-WAIT and after it.
    cluster.world.run_for(Duration::from_secs(150));
    cluster.assert_clean(&format!("move in {state}, IPv6 {ipv6}, lose {lose}"));
    assert_eq!(cluster.outcome(conversation), Outcome::Done);
    assert_eq!(cluster.world.check::<Reset>().count, 0);
    let left: usize = cluster
        .nodes()
        .map(|port| cluster.node(port).instance().sessions().len())
        .sum();
    assert_eq!(left, 0, "sessions left behind after {state}");
}

fn each_way(state: &str) {
    for ipv6 in [false, true] {
        for lose in [false, true] {
            move_in(state, ipv6, lose);
        }
    }
}

#[test]
fn established() {
    each_way("ESTABLISHED");
}

#[test]
fn fin_wait_1() {
    each_way("FIN-WAIT-1");
}

#[test]
fn fin_wait_2() {
    each_way("FIN-WAIT-2");
}

#[test]
fn close_wait() {
    each_way("CLOSE-WAIT");
}

#[test]
fn closing() {
    each_way("CLOSING");
}

#[test]
fn last_ack() {
    each_way("LAST-ACK");
}

#[test]
fn time_wait() {
    each_way("TIME-WAIT");
}
