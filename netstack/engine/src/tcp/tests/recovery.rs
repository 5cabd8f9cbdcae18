//! Losses are repaired, each in the cheapest way it can be.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::super::testing::*;
use super::super::*;
use crate::time::Duration;

/// Drop the `n`th (from 0) segments with payload that `from` sends, as listed.
fn drop_data(pair: &mut Pair, from: usize, list: &'static [usize]) {
    let mut count = 0;
    pair.filter = Some(Box::new(move |sent| {
        if sent.from != from || sent.segment.payload.is_empty() {
            return false;
        }
        count += 1;
        list.contains(&(count - 1))
    }));
}

/// A pair that has exchanged enough to know its round trip.
fn warm() -> Pair {
    let mut pair = Pair::open();
    pair.send(CLIENT, 0, 50_000);
    pair.run_for(Duration::from_secs(1));
    pair.check_received(SERVER, 50_000);
    pair
}

/// Send `len` octets more; how long until they have arrived.
fn send_and_time(pair: &mut Pair, len: usize) -> Duration {
    let start = pair.now;
    let before = pair.ends[SERVER].received.len();
    pair.send(CLIENT, before as u64, len);
    pair.run_until(Duration::from_secs(30), |pair| {
        pair.ends[SERVER].received.len() == before + len
    });
    pair.check_received(SERVER, before + len);
    pair.now.since(start)
}

#[test]
fn a_loss_in_the_middle_is_repaired_in_one_round_trip() {
    let mut pair = warm();
    drop_data(&mut pair, CLIENT, &[2]);
    let took = send_and_time(&mut pair, 10 * 1448);
    let info = pair.end(CLIENT).info();
    assert_eq!((info.counters.retransmits, info.counters.timeouts), (1, 0));
    assert_eq!(info.counters.recoveries, 1);
    assert!(took < Duration::from_millis(60), "{took:?}");
    assert!(info.cwnd < u32::MAX && info.ssthresh < u32::MAX);
}

#[test]
fn a_lost_tail_is_repaired_by_a_probe_not_by_a_time_out() {
    for tail in [&[9][..], &[8, 9], &[7, 8, 9]] {
        let tail: &'static [usize] = Box::leak(tail.to_vec().into_boxed_slice());
        let mut pair = warm();
        drop_data(&mut pair, CLIENT, tail);
        let took = send_and_time(&mut pair, 10 * 1448);
        let info = pair.end(CLIENT).info();
        assert_eq!(info.counters.timeouts, 0, "{tail:?}");
        assert_eq!(info.counters.probes, 1);
        assert_eq!(info.counters.retransmits, tail.len() as u64);
        assert!(took < Duration::from_millis(220), "{tail:?}: {took:?}");
    }
}

/// That nothing but the tail was lost does not mean that there was no congestion (RFC 8985 section
/// 7.4): without a time-out or a recovery it is the probe that has to tell of it.
#[test]
fn a_probe_that_repaired_a_loss_reduces_the_window_though_other_octets_followed_it() {
    let mut pair = warm();
    drop_data(&mut pair, CLIENT, &[9]);
    pair.send(CLIENT, 50_000, 10 * 1448);
    pair.run_until(Duration::from_secs(1), |pair| {
        pair.end(CLIENT).info().counters.probes == 1
    });
    let before = pair.end(CLIENT).info();
    // Before it is answered. From then on there is nothing new to send.
    pair.send(CLIENT, 50_000 + 14_480, 3 * 1448);
    pair.run_for(Duration::from_secs(1));
    pair.check_received(SERVER, 50_000 + 13 * 1448);
    let after = pair.end(CLIENT).info();
    assert_eq!(after.counters.retransmits, 1, "the probe was one");
    assert_eq!((after.counters.timeouts, after.counters.recoveries), (0, 0));
    assert!(after.ssthresh < before.cwnd, "{}", after.ssthresh);
    assert!(after.cwnd < before.cwnd, "{} {}", after.cwnd, before.cwnd);
}

/// RFC 8985 section 7.3: one at a time, and none where the peer does not say what it holds.
#[test]
fn there_is_one_probe_at_a_time_and_none_without_sack() {
    for sack in [true, false] {
        let config = TcpConfig {
            sack,
            ..TcpConfig::default()
        };
        let mut pair = Pair::with(1, config.clone(), config, Link::default());
        pair.establish();
        pair.send(CLIENT, 0, 50_000);
        pair.run_for(Duration::from_secs(1));
        pair.filter = Some(Box::new(|_| true));
        pair.send(CLIENT, 50_000, 1448);
        pair.flush();
        // New octets would ask for another one.
        pair.run_for(Duration::from_millis(150));
        pair.send(CLIENT, 51_448, 1448);
        pair.run_for(Duration::from_secs(5));
        let info = pair.end(CLIENT).info();
        assert_eq!(info.counters.probes, u64::from(sack));
        assert!(info.counters.timeouts > 0);
    }
}

#[test]
fn a_lone_segment_lost_is_repaired_by_a_probe_again_and_again() {
    let mut pair = warm();
    for _ in 0..5 {
        drop_data(&mut pair, CLIENT, &[0]);
        let took = send_and_time(&mut pair, 500);
        assert!(took < Duration::from_millis(220), "{took:?}");
        pair.run_for(Duration::from_millis(300));
    }
    let info = pair.end(CLIENT).info();
    assert_eq!((info.counters.probes, info.counters.timeouts), (5, 0));
}

#[test]
fn a_probe_that_is_lost_too_leaves_the_time_out() {
    let mut pair = warm();
    drop_data(&mut pair, CLIENT, &[0, 1]);
    send_and_time(&mut pair, 500);
    let info = pair.end(CLIENT).info();
    assert_eq!((info.counters.probes, info.counters.timeouts), (1, 1));
}

#[test]
fn a_burst_is_repaired_without_a_time_out() {
    let mut pair = warm();
    drop_data(&mut pair, CLIENT, &[5, 6, 7, 8, 9, 10, 11, 12]);
    send_and_time(&mut pair, 40 * 1448);
    let info = pair.end(CLIENT).info();
    assert_eq!(info.counters.timeouts, 0);
    assert_eq!(info.counters.retransmits, 8);
    assert_eq!(info.counters.recoveries, 1, "one reduction for one burst");
}

#[test]
fn a_lost_retransmission_is_retransmitted_without_a_time_out() {
    let mut pair = warm();
    // The 3rd segment and its retransmission, which is the 41st with payload or so: drop by seq.
    let mut dropped = 0;
    let first = pair.end(CLIENT).info().snd_nxt.add(2 * 1448);
    pair.filter = Some(Box::new(move |sent| {
        let hit = sent.from == CLIENT && sent.segment.seq == first && dropped < 2;
        dropped += u32::from(hit);
        hit
    }));
    send_and_time(&mut pair, 60 * 1448);
    let info = pair.end(CLIENT).info();
    assert_eq!(info.counters.timeouts, 0);
    assert_eq!(info.counters.retransmits, 2);
}

#[test]
fn without_sack_duplicate_acks_do_it() {
    let config = TcpConfig {
        sack: false,
        ..TcpConfig::default()
    };
    let mut pair = Pair::with(8, config.clone(), config, Link::default());
    pair.establish();
    pair.send(CLIENT, 0, 50_000);
    pair.run_for(Duration::from_secs(1));
    drop_data(&mut pair, CLIENT, &[3, 6]);
    send_and_time(&mut pair, 20 * 1448);
    let info = pair.end(CLIENT).info();
    assert!(!info.sack);
    assert_eq!(info.counters.timeouts, 0);
    assert_eq!(info.counters.retransmits, 2);
}

#[test]
fn a_silent_path_backs_off_and_gives_up_in_the_end() {
    let mut pair = warm();
    pair.filter = Some(Box::new(|_| true));
    pair.send(CLIENT, 50_000, 1000);
    let before = pair.log.len();
    pair.run_for(Duration::from_secs(20));
    let times: Vec<_> = pair.log[before..].iter().map(|sent| sent.at).collect();
    assert!(times.len() < 10, "{}", times.len());
    let gaps: Vec<_> = times
        .windows(2)
        .map(|pair| pair[1].since(pair[0]))
        .collect();
    for pair in gaps[1..].windows(2) {
        assert!(pair[1] >= pair[0] * 19 / 10, "{gaps:?}");
    }
    pair.run_for(Duration::from_secs(2000));
    assert_eq!(pair.end(CLIENT).error(), Some(ConnectionError::TimedOut));
}

#[test]
fn a_spurious_time_out_is_taken_back() {
    let mut pair = warm();
    // The path holds everything back for longer than the time-out, then lets it go.
    pair.link.delay = Duration::from_millis(600);
    pair.send(CLIENT, 50_000, 10 * 1448);
    pair.run_for(Duration::from_secs(3));
    pair.check_received(SERVER, 50_000 + 10 * 1448);
    let info = pair.end(CLIENT).info();
    assert!(info.counters.timeouts > 0);
    assert!(info.counters.undos > 0);
    assert!(info.cwnd >= 10 * 1448, "{}", info.cwnd);
    assert_eq!(info.ssthresh.max(20 * 1448), info.ssthresh);
}

#[test]
fn reordering_is_learnt_and_costs_no_window() {
    let link = Link {
        delay: Duration::from_millis(10),
        jitter: Duration::from_millis(4),
        ..Link::default()
    };
    let mut pair = Pair::with(12, TcpConfig::default(), TcpConfig::default(), link);
    pair.establish();
    pair.send(CLIENT, 0, 2_000_000);
    pair.run_for(Duration::from_secs(20));
    pair.check_received(SERVER, 2_000_000);
    let info = pair.end(CLIENT).info();
    assert!(info.reordering);
    assert_eq!(info.counters.timeouts, 0);
    let needless = info.counters.retransmits;
    assert!(needless < 60, "{needless} of 1400 retransmitted");
}

#[test]
fn duplicates_are_reported_and_heard() {
    let link = Link {
        duplicate: 200,
        ..Link::default()
    };
    let mut pair = Pair::with(31, TcpConfig::default(), TcpConfig::default(), link);
    pair.establish();
    pair.send(CLIENT, 0, 100_000);
    pair.run_for(Duration::from_secs(5));
    let info = pair.end(CLIENT).info();
    assert!(info.counters.duplicates_reported > 5);
    assert_eq!(info.counters.retransmits, 0, "a duplicate is no loss");
}

#[test]
fn random_loss_does_not_lead_to_time_outs() {
    let mut timeouts = 0;
    for seed in 0..20 {
        let link = Link {
            delay: Duration::from_millis(5),
            loss: 10,
            ..Link::default()
        };
        let mut pair = Pair::with(seed, TcpConfig::default(), TcpConfig::default(), link);
        pair.establish();
        pair.send(CLIENT, 0, 1_000_000);
        pair.run_until(Duration::from_secs(60), |pair| {
            pair.ends[SERVER].received.len() == 1_000_000
        });
        timeouts += pair.end(CLIENT).info().counters.timeouts;
    }
    assert!(
        timeouts <= 1,
        "{timeouts} time-outs in 14,000 segments at 1% loss"
    );
}

#[test]
fn bursts_left_to_the_nic_are_repaired_as_well() {
    for seed in 0..10 {
        let link = Link {
            delay: Duration::from_millis(2),
            loss: 20,
            jitter: Duration::from_micros(500),
            ..Link::default()
        };
        let mut pair = Pair::with(seed, TcpConfig::default(), TcpConfig::default(), link);
        for end in &mut pair.ends {
            end.max_payload = 65_535;
        }
        pair.establish();
        pair.send(CLIENT, 0, 1_000_000);
        pair.run_until(Duration::from_secs(60), |pair| {
            pair.ends[SERVER].received.len() == 1_000_000
        });
        pair.check_received(SERVER, 1_000_000);
        pair.run_for(Duration::from_secs(1));
        let info = pair.end(CLIENT).info();
        assert_eq!((info.in_flight, info.sacked, info.lost), (0, 0, 0));
    }
}

#[test]
fn on_a_local_link_a_lost_tail_costs_milliseconds() {
    let config = TcpConfig {
        socket: SocketOptions {
            ack_delay: Duration::ZERO,
            peer_ack_delay: Duration::from_millis(1),
            min_rto: Duration::from_millis(20),
            ..SocketOptions::default()
        },
        ..TcpConfig::default()
    };
    let link = Link {
        delay: Duration::from_micros(200),
        ..Link::default()
    };
    let mut pair = Pair::with(3, config.clone(), config, link);
    pair.establish();
    pair.send(CLIENT, 0, 50_000);
    pair.run_for(Duration::from_secs(1));
    for _ in 0..10 {
        drop_data(&mut pair, CLIENT, &[0]);
        let took = send_and_time(&mut pair, 500);
        assert!(took < Duration::from_millis(6), "{took:?}");
        pair.run_for(Duration::from_millis(50));
    }
    assert_eq!(pair.end(CLIENT).info().counters.timeouts, 0);
}

/// Without timestamps it is the peer's reports that tell: every retransmission came twice (RFC 3708).
#[test]
fn a_spurious_time_out_is_taken_back_by_reports_of_duplicates() {
    let config = TcpConfig {
        timestamps: false,
        ..TcpConfig::default()
    };
    let mut pair = Pair::with(1, config.clone(), config, Link::default());
    pair.establish();
    pair.send(CLIENT, 0, 50_000);
    pair.run_for(Duration::from_secs(1));
    pair.link.delay = Duration::from_millis(300);
    pair.send(CLIENT, 50_000, 3_000);
    pair.flush();
    let before = pair.end(CLIENT).info();
    pair.run_until(Duration::from_secs(3), |pair| {
        pair.end(CLIENT).info().counters.timeouts == 1
    });
    assert!(pair.end(CLIENT).info().ssthresh < before.ssthresh);
    pair.run_for(Duration::from_secs(3));
    let after = pair.end(CLIENT).info();
    assert!(after.counters.duplicates_reported > 0);
    assert_eq!((after.counters.undos, after.phase), (1, Phase::Open));
    assert_eq!(after.ssthresh, before.ssthresh);
    assert!(after.cwnd >= before.cwnd, "{} {}", after.cwnd, before.cwnd);
}

/// RFC 3042: the first two duplicate ACKs let a new segment out each; without them there might never be a third.
#[test]
fn without_sack_two_duplicate_acks_let_new_segments_out() {
    let config = TcpConfig {
        sack: false,
        ..TcpConfig::default()
    };
    let mut pair = Pair::with(8, config.clone(), config, Link::default());
    pair.establish();
    pair.run_for(Duration::from_millis(50));
    pair.filter = Some(Box::new(|_| true));
    let mss = 1448;
    pair.send(CLIENT, 0, 40 * mss as usize);
    pair.run_for(Duration::from_millis(1));
    let una = pair.end(CLIENT).snd.una;
    assert_eq!(pair.end(CLIENT).snd.outstanding(), 10 * mss);
    // The first one rounds the window to its scale, and is no duplicate.
    for (nth, seq) in [
        (0, None),
        (1, Some(10 * mss)),
        (2, Some(11 * mss)),
        (3, Some(0)),
    ] {
        let before = pair.log.len();
        let mut duplicate = pair.forged(CLIENT);
        let snd = &pair.end(CLIENT).snd;
        duplicate.window = (snd.window >> snd.scale) as u16;
        pair.inject(CLIENT, duplicate);
        pair.run_for(Duration::from_millis(5));
        let sent: Vec<_> = pair.sent(CLIENT, before);
        let places: Vec<_> = sent.iter().map(|out| out.seq.distance_from(una)).collect();
        assert_eq!(places, Vec::from_iter(seq), "after {nth}");
    }
    let info = pair.end(CLIENT).info();
    assert_eq!((info.counters.retransmits, info.counters.timeouts), (1, 0));
    assert_eq!(info.phase, Phase::Recovery);
}

/// Without timestamps nobody knows which transmission was acknowledged (Karn); with them the echo tells (RFC 7323
/// section 4).
#[test]
fn the_round_trip_of_a_retransmission_is_known_by_its_timestamp_only() {
    for timestamps in [true, false] {
        let config = TcpConfig {
            timestamps,
            ..TcpConfig::default()
        };
        let mut pair = Pair::with(1, config.clone(), config, Link::default());
        pair.establish();
        pair.send(CLIENT, 0, 50_000);
        pair.run_for(Duration::from_secs(1));
        let before = pair.end(CLIENT).info().srtt.unwrap();
        // The path has become longer, and the first transmission is lost on it.
        pair.link.delay = Duration::from_millis(60);
        drop_data(&mut pair, CLIENT, &[0]);
        pair.send(CLIENT, 50_000, 500);
        pair.run_for(Duration::from_secs(1));
        pair.check_received(SERVER, 50_500);
        let info = pair.end(CLIENT).info();
        assert!(info.counters.retransmits > 0);
        let srtt = info.srtt.unwrap();
        match timestamps {
            true => assert!(srtt > before + Duration::from_millis(10), "{srtt:?}"),
            false => assert_eq!(srtt, before),
        }
    }
}

/// RFC 6298 section 5 (5.5 to 5.7): where nobody knows which transmission was acknowledged, the next one waits as long
/// as the last did, or on a path slower than the time-out each segment would be sent twice for ever.
#[test]
fn without_timestamps_a_time_out_stays_backed_off_until_a_segment_sent_once_is_acknowledged() {
    let config = TcpConfig {
        timestamps: false,
        ..TcpConfig::default()
    };
    let mut pair = Pair::with(1, config.clone(), config, Link::default());
    pair.establish();
    pair.send(CLIENT, 0, 50_000);
    pair.run_for(Duration::from_secs(1));
    let before = pair.end(CLIENT).info().rto;
    // The segment, the probe of its loss and the first time-out are lost.
    drop_data(&mut pair, CLIENT, &[0, 1, 2]);
    pair.send(CLIENT, 50_000, 500);
    pair.run_for(Duration::from_secs(3));
    pair.check_received(SERVER, 50_500);
    assert!(pair.end(CLIENT).info().rto >= before * 4);
    pair.send(CLIENT, 50_500, 500);
    pair.run_for(Duration::from_secs(1));
    pair.check_received(SERVER, 51_000);
    assert!(pair.end(CLIENT).info().rto < before * 2);
}

/// RFC 5681 section 4.1: after a time-out's worth of silence the window says nothing about the path any more.
#[test]
fn after_an_idle_time_the_window_begins_anew() {
    let mut pair = warm();
    pair.send(CLIENT, 50_000, 100_000);
    pair.run_for(Duration::from_secs(1));
    let grown = pair.end(CLIENT).info().cwnd;
    assert!(grown > 20 * 1448, "{grown}");
    pair.send(CLIENT, 150_000, 1);
    pair.flush();
    assert_eq!(pair.end(CLIENT).info().cwnd, 10 * 1448);
}

/// RFC 8985 section 7.4.2: a DSACK shows a probe to be needless. Here the peer's late ACK of the original crosses
/// with the probe, and new octets leave before its DSACK is back.
#[test]
fn a_probe_that_crosses_with_a_late_ack_costs_no_window() {
    let mut pair = Pair::open();
    pair.send(SERVER, 0, 30_000);
    pair.run_for(Duration::from_secs(1));
    let before = pair.end(SERVER).info();
    let mut options = *pair.end(CLIENT).options();
    options.ack_delay = Duration::from_millis(200);
    let now = pair.now;
    pair.end(CLIENT).set_options(now, options);
    pair.send(SERVER, 30_000, 500);
    let probes = before.counters.probes;
    pair.run_until(Duration::from_secs(1), |pair| {
        pair.end(SERVER).info().counters.probes > probes
    });
    // The client's next request leaves with the ACK; the probe is on its way to it.
    pair.send(CLIENT, 0, 100);
    pair.run_until(Duration::from_secs(1), |pair| {
        pair.ends[SERVER].received.len() >= 100
    });
    pair.send(SERVER, 30_500, 500);
    pair.run_for(Duration::from_secs(1));
    let after = pair.end(SERVER).info();
    assert!(after.counters.duplicates_reported > 0, "it was needless");
    assert_eq!((after.counters.undos, after.ssthresh), (1, before.ssthresh));
    assert!(after.cwnd >= 10 * 1448, "{}", after.cwnd);
}

/// RFC 8985 section 6.2, RACK_sent_after: of two retransmissions that left in one instant the second's arrival shows
/// the first one to be lost.
#[test]
fn of_two_retransmissions_in_one_instant_the_first_is_found_lost_by_the_second() {
    let mut pair = Pair::open();
    pair.run_for(Duration::from_secs(1));
    pair.send(CLIENT, 0, 10 * 1448);
    pair.run_for(Duration::from_secs(1));
    let from = pair.end(CLIENT).snd.nxt;
    let mut seen = Vec::new();
    pair.filter = Some(Box::new(move |sent| {
        if sent.from != CLIENT || sent.segment.payload.is_empty() {
            return false;
        }
        let place = sent.segment.seq.distance_from(from) / 1448;
        seen.push(place);
        let times = seen.iter().filter(|seen| **seen == place).count();
        place == 1 && times <= 2 || place == 2 && times == 1
    }));
    pair.send(CLIENT, 10 * 1448, 8 * 1448);
    pair.run_for(Duration::from_secs(5));
    pair.check_received(SERVER, 18 * 1448);
    let counters = pair.end(CLIENT).info().counters;
    assert_eq!((counters.timeouts, counters.retransmits), (0, 3));
}
