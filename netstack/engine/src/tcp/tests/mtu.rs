//! What the path carries (RFC 1191, RFC 8201, RFC 5927, RFC 4821).

use alloc::boxed::Box;

use super::super::testing::*;
use super::super::*;
use crate::time::Duration;

/// A pair after an exchange of `len` octets in full-sized segments.
fn warm(len: usize) -> Pair {
    let mut pair = Pair::open();
    pair.send(CLIENT, 0, len);
    pair.run_for(Duration::from_secs(1));
    pair
}

fn too_big(pair: &mut Pair, mtu: u16) {
    let now = pair.now;
    let client = pair.end(CLIENT);
    let quoted = client.snd.una;
    client.handle_icmp_error(now, IcmpError::PacketTooBig { mtu }, quoted);
}

/// Packets from the client that are larger than `mtu` vanish.
fn black_hole(pair: &mut Pair, mtu: usize) {
    pair.filter = Some(Box::new(move |sent| {
        sent.from == CLIENT && sent.segment.payload.len() + 52 > mtu
    }));
}

#[test]
fn on_a_fresh_path_a_router_is_believed_at_once_and_it_is_no_congestion() {
    let mut pair = Pair::open();
    black_hole(&mut pair, 1400);
    pair.send(CLIENT, 0, 14_000);
    pair.flush();
    let before = pair.end(CLIENT).info();
    too_big(&mut pair, 1400);
    let after = pair.end(CLIENT).info();
    assert_eq!((after.pmtu, after.mss), (1400, 1348));
    assert_eq!((before.cwnd, before.ssthresh), (after.cwnd, after.ssthresh));
    pair.run_for(Duration::from_millis(150));
    pair.check_received(SERVER, 14_000);
    assert_eq!(pair.end(CLIENT).info().counters.timeouts, 0);
}

/// RFC 5927 section 4.1: who does not see the connection has to guess what is in flight.
#[test]
fn an_error_about_what_is_not_in_flight_is_not_believed() {
    let mut pair = Pair::open();
    black_hole(&mut pair, 0);
    pair.send(CLIENT, 0, 14_000);
    pair.flush();
    let now = pair.now;
    let client = pair.end(CLIENT);
    let error = IcmpError::PacketTooBig { mtu: 1400 };
    for quoted in [
        client.snd.una.sub(1),
        client.snd.nxt,
        client.snd.nxt.add(1 << 30),
    ] {
        client.handle_icmp_error(now, error, quoted);
        assert_eq!(client.info().pmtu, 1500);
    }
    client.handle_icmp_error(now, error, client.snd.nxt.sub(1));
    assert_eq!(client.info().pmtu, 1400);
}

#[test]
fn a_claim_that_larger_packets_refute_waits_for_a_time_out() {
    let mut pair = warm(100_000);
    pair.send(CLIENT, 100_000, 5_000);
    pair.flush();
    too_big(&mut pair, 600);
    assert_eq!(pair.end(CLIENT).info().pmtu, 1500, "perhaps a stranger's");
    pair.run_for(Duration::from_secs(1));
    assert_eq!(pair.end(CLIENT).info().pmtu, 1500, "acknowledged: refuted");
    // Now the path really has changed.
    black_hole(&mut pair, 1300);
    pair.send(CLIENT, 105_000, 5_000);
    pair.flush();
    too_big(&mut pair, 1300);
    assert_eq!(pair.end(CLIENT).info().pmtu, 1500);
    pair.run_for(Duration::from_secs(2));
    assert_eq!(pair.end(CLIENT).info().pmtu, 1300);
    pair.check_received(SERVER, 110_000);
}

#[test]
fn sizes_that_cannot_be_are_not_believed() {
    let mut pair = Pair::open();
    pair.send(CLIENT, 0, 5_000);
    pair.flush();
    too_big(&mut pair, 40);
    assert_eq!(pair.end(CLIENT).info().pmtu, 576);
    let mut pair = Pair::open();
    pair.send(CLIENT, 0, 5_000);
    pair.flush();
    too_big(&mut pair, 9000);
    assert_eq!(pair.end(CLIENT).info().pmtu, 1500);
    // A router that does not say: the next plateau.
    too_big(&mut pair, 0);
    assert_eq!(pair.end(CLIENT).info().pmtu, 1492);
    // Nothing outstanding, nothing believed.
    let mut pair = warm(5_000);
    too_big(&mut pair, 576);
    assert_eq!(pair.end(CLIENT).info().pmtu, 1500);
}

#[test]
fn a_black_hole_is_found_and_left_and_the_search_goes_up_to_what_passes() {
    let mut pair = warm(100_000);
    black_hole(&mut pair, 1440);
    pair.send(CLIENT, 100_000, 40_000);
    pair.run_for(Duration::from_secs(10));
    pair.check_received(SERVER, 140_000);
    assert_eq!(pair.end(CLIENT).info().pmtu, 1280);
    let before = pair.end(CLIENT).info();
    for n in 0..12u64 {
        pair.send(CLIENT, 140_000 + n * 40_000, 40_000);
        pair.run_for(Duration::from_secs(2));
    }
    let after = pair.end(CLIENT).info();
    pair.check_received(SERVER, 140_000 + 480_000);
    assert!((1410..=1440).contains(&after.pmtu), "{}", after.pmtu);
    assert!(after.counters.mtu_probes >= 3);
    assert_eq!(after.counters.timeouts, before.counters.timeouts);
    assert_eq!(after.counters.recoveries, before.counters.recoveries);
    // The path may change: after a while all that the link carries is worth a try again.
    pair.filter = None;
    pair.send(CLIENT, 620_000, 40_000);
    pair.run_for(Duration::from_secs(500));
    assert_eq!(pair.end(CLIENT).info().pmtu, after.pmtu, "too soon");
    pair.run_for(Duration::from_secs(110));
    pair.send(CLIENT, 660_000, 40_000);
    pair.run_for(Duration::from_secs(2));
    assert_eq!(pair.end(CLIENT).info().pmtu, 1500);
}

#[test]
fn a_path_that_widens_again_is_used_again() {
    let mut pair = Pair::open();
    pair.send(CLIENT, 0, 14_000);
    pair.flush();
    too_big(&mut pair, 1300);
    pair.run_for(Duration::from_secs(601));
    assert_eq!(pair.end(CLIENT).info().pmtu, 1300);
    pair.send(CLIENT, 14_000, 40_000);
    pair.run_for(Duration::from_secs(1));
    pair.check_received(SERVER, 54_000);
    assert_eq!(pair.end(CLIENT).info().pmtu, 1500);
}

/// A window of less than a segment is never enough, and without anything in flight it never grows.
#[test]
fn a_segment_that_has_become_larger_than_the_window_leaves_all_the_same() {
    let mut pair = probing();
    let client = pair.end(CLIENT);
    // An echo of congestion while the probe is on its way, with segments of a path that carries little.
    client.congestion.ssthresh = 500;
    client.congestion.cwnd = 500;
    let start = client.search.as_ref().unwrap().probe.unwrap().0;
    let mut answer = pair.forged(CLIENT);
    answer.window = u16::MAX;
    answer.ack = pair.end(CLIENT).snd.nxt;
    assert!(answer.ack.after(start));
    pair.inject(CLIENT, answer);
    let info = pair.end(CLIENT).info();
    assert_eq!(info.pmtu, 1500);
    assert!(info.cwnd >= u32::from(info.mss), "{}", info.cwnd);
    assert!(info.in_flight > 0);
}

#[test]
fn probing_can_be_switched_off() {
    let mut pair = warm(100_000);
    let now = pair.now;
    let options = SocketOptions {
        mtu_probing: false,
        ..SocketOptions::default()
    };
    pair.end(CLIENT).set_options(now, options);
    black_hole(&mut pair, 1400);
    pair.send(CLIENT, 100_000, 5_000);
    pair.run_for(Duration::from_secs(20));
    assert_eq!(pair.end(CLIENT).info().pmtu, 1500);
}

#[test]
fn unreachable_ends_an_attempt_only_if_it_is_hard_and_nothing_that_is_open() {
    let open = |hard| {
        let mut pair = Pair::open();
        pair = Pair::with(
            6,
            pair.ends[CLIENT].config.clone(),
            pair.ends[SERVER].config.clone(),
            Link::default(),
        );
        pair.filter = Some(Box::new(|_| true));
        pair.connect();
        pair.flush();
        let now = pair.now;
        let client = pair.end(CLIENT);
        let quoted = client.snd.iss;
        client.handle_icmp_error(now, IcmpError::Unreachable { hard }, quoted);
        pair
    };
    let mut pair = open(true);
    assert_eq!(pair.end(CLIENT).error(), Some(ConnectionError::Unreachable));
    let mut pair = open(false);
    assert_eq!(pair.state(CLIENT), State::SynSent);
    pair.run_for(Duration::from_secs(300));
    assert_eq!(pair.end(CLIENT).error(), Some(ConnectionError::Unreachable));

    let mut pair = warm(5_000);
    pair.send(CLIENT, 5_000, 5_000);
    pair.flush();
    let now = pair.now;
    let client = pair.end(CLIENT);
    let quoted = client.snd.una;
    client.handle_icmp_error(now, IcmpError::Unreachable { hard: true }, quoted);
    pair.run_for(Duration::from_secs(1));
    pair.check_received(SERVER, 10_000);
    assert_eq!(pair.state(CLIENT), State::Established);
}

/// A pair whose client has a probe of 1500 octets in flight.
fn probing() -> Pair {
    let mut pair = Pair::open();
    pair.send(CLIENT, 0, 14_000);
    pair.flush();
    too_big(&mut pair, 1300);
    pair.run_for(Duration::from_secs(601));
    pair.send(CLIENT, 14_000, 40_000);
    pair.flush();
    assert!(pair.end(CLIENT).search.as_ref().unwrap().probe.is_some());
    pair
}

#[test]
fn a_probe_goes_on_after_a_move() {
    let mut pair = probing();
    super::moves::move_end(&mut pair, CLIENT);
    pair.run_for(Duration::from_secs(1));
    pair.check_received(SERVER, 54_000);
    assert_eq!(pair.end(CLIENT).info().pmtu, 1500);

    let mut pair = Pair::open();
    pair.send(CLIENT, 0, 14_000);
    pair.flush();
    too_big(&mut pair, 1300);
    pair.run_for(Duration::from_secs(601));
    black_hole(&mut pair, 1300);
    pair.send(CLIENT, 14_000, 40_000);
    pair.flush();
    super::moves::move_end(&mut pair, CLIENT);
    pair.run_for(Duration::from_secs(1));
    pair.check_received(SERVER, 54_000);
    let info = pair.end(CLIENT).info();
    assert_eq!(info.pmtu, 1300);
    assert_eq!(info.counters.recoveries, 0, "the size, not congestion");
}
