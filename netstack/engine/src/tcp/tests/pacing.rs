//! New octets leave spread over the round trip.

use alloc::vec::Vec;

use super::super::testing::*;
use super::super::*;
use crate::time::{Duration, Instant};

fn path(delay: Duration, rate: u64) -> Pair {
    let link = Link {
        delay,
        rate,
        ..Link::default()
    };
    let config = TcpConfig::default();
    let mut pair = Pair::with(5, config.clone(), config, link);
    pair.establish();
    pair.run_for(Duration::from_millis(500));
    pair
}

/// The largest number of segments with text that left at one moment.
fn largest_burst(pair: &Pair, since: usize) -> usize {
    let times: Vec<Instant> = pair.log[since..]
        .iter()
        .filter(|sent| sent.from == CLIENT && !sent.segment.payload.is_empty())
        .map(|sent| sent.at)
        .collect();
    times.chunk_by(|a, b| a == b).map(<[_]>::len).max().unwrap()
}

#[test]
fn a_window_kept_through_a_pause_does_not_leave_at_once() {
    let mut pair = path(Duration::from_millis(25), 0);
    pair.send(CLIENT, 0, 2_000_000);
    pair.run_for(Duration::from_secs(2));
    let window = pair.end(CLIENT).info().cwnd / 1448;
    assert!(window > 200, "{window}");
    let before = pair.log.len();
    // A pause shorter than the time-out: the window stands.
    pair.send(CLIENT, 2_000_000, 250_000);
    pair.run_for(Duration::from_secs(2));
    let burst = largest_burst(&pair, before);
    assert!(burst <= 24, "{burst} segments at once");
    assert!(pair.end(CLIENT).info().pacing_rate.is_some());
    pair.check_received(SERVER, 2_250_000);
}

#[test]
fn the_rate_is_twice_the_window_in_slow_start_and_a_quarter_more_after_it() {
    let mut pair = path(Duration::from_millis(25), 0);
    let client = pair.end(CLIENT);
    let window = f64::from(client.congestion.cwnd);
    let seconds = client.rtt.srtt().unwrap().as_secs_f64();
    let factor = |client: &Connection| client.pacing_rate().unwrap() as f64 * seconds / window;
    assert!((factor(client) - 2.0).abs() < 0.001, "{}", factor(client));
    client.congestion.ssthresh = client.congestion.cwnd;
    assert!((factor(client) - 1.25).abs() < 0.001, "{}", factor(client));
}

#[test]
fn the_pace_is_not_what_limits() {
    // 200 Mbit/s, 20 ms.
    let mut pair = path(Duration::from_millis(10), 25_000_000);
    pair.send(CLIENT, 0, 60_000_000);
    pair.run_for(Duration::from_secs(1));
    let (begun, had) = (pair.now, pair.ends[SERVER].received.len());
    pair.run_until(Duration::from_secs(10), |pair| {
        pair.ends[SERVER].received.len() == 60_000_000
    });
    let rate = (60_000_000 - had) as f64 / pair.now.since(begun).as_secs_f64();
    assert!(rate > 0.93 * 25_000_000.0, "{rate}");
}

#[test]
fn short_paths_are_not_paced() {
    let mut pair = path(Duration::from_micros(100), 0);
    pair.send(CLIENT, 0, 2_000_000);
    pair.run_for(Duration::from_secs(1));
    assert_eq!(pair.end(CLIENT).info().pacing_rate, None);
    assert_eq!(pair.end(CLIENT).snd.next_paced, None);
}

#[test]
fn the_pace_goes_on_after_a_move() {
    let mut pair = path(Duration::from_millis(25), 0);
    pair.send(CLIENT, 0, 2_000_000);
    pair.run_until(Duration::from_secs(2), |pair| {
        let now = pair.now;
        let client = pair.end(CLIENT);
        client.timers.pace.is_set() && client.snd.next_paced.is_some_and(|next| next > now)
    });
    let next = pair.end(CLIENT).snd.next_paced;
    super::moves::move_end(&mut pair, CLIENT);
    assert_eq!(pair.end(CLIENT).snd.next_paced, next);
    let before = pair.log.len();
    let now = pair.now;
    pair.flush();
    let early = pair.sent(CLIENT, before);
    assert!(
        early.iter().all(|segment| segment.payload.is_empty()),
        "{now:?}"
    );
    pair.run_for(Duration::from_secs(3));
    pair.check_received(SERVER, 2_000_000);
    assert_eq!(pair.end(CLIENT).info().counters.timeouts, 0);
}
