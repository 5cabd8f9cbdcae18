//! Flow control: scaling, zero windows and probes, silly windows, Nagle, delayed ACKs.

use alloc::boxed::Box;

use super::super::testing::*;
use super::super::*;
use crate::seq::SeqNumber;
use crate::time::Duration;

fn with_buffer(receive_buffer: u32) -> Pair {
    let config = TcpConfig {
        receive_buffer,
        max_receive_buffer: receive_buffer,
        ..TcpConfig::default()
    };
    let mut pair = Pair::with(21, config.clone(), config, Link::default());
    pair.establish();
    pair
}

#[test]
fn a_scaled_window_lets_a_long_fat_path_be_filled() {
    let config = TcpConfig {
        receive_buffer: 4 << 20,
        ..TcpConfig::default()
    };
    let link = Link {
        delay: Duration::from_millis(50),
        ..Link::default()
    };
    let mut pair = Pair::with(1, config.clone(), config, link);
    pair.establish();
    pair.send(CLIENT, 0, 8 << 20);
    pair.run_until(Duration::from_secs(60), |pair| {
        pair.end(CLIENT).info().in_flight > 1 << 20
    });
}

#[test]
fn a_full_reader_stops_the_sender_and_a_probe_finds_the_room_later() {
    let mut pair = with_buffer(6 * 1448);
    pair.ends[SERVER].reading = false;
    pair.send(CLIENT, 0, 100_000);
    pair.run_for(Duration::from_secs(3));
    assert_eq!(pair.end(SERVER).receive_available(), 6 * 1448);
    let before = pair.log.len();
    pair.run_for(Duration::from_secs(100));
    let probes = pair.sent(CLIENT, before);
    assert!((2..20).contains(&probes.len()), "{}", probes.len());
    assert!(
        probes.iter().all(Segment::is_empty),
        "probes carry nothing that could get lost"
    );
    // Room comes back, but the update is lost.
    pair.filter = Some(Box::new(|sent| sent.from == SERVER));
    pair.ends[SERVER].reading = true;
    pair.step();
    pair.filter = None;
    pair.run_for(Duration::from_secs(130));
    pair.check_received(SERVER, 100_000);
    assert_eq!(pair.end(CLIENT).error(), None);
}

#[test]
fn a_closed_window_is_probed_for_as_long_as_the_peer_answers() {
    let mut pair = with_buffer(6 * 1448);
    pair.ends[SERVER].reading = false;
    pair.send(CLIENT, 0, 100_000);
    pair.run_for(Duration::from_secs(24 * 3600));
    assert_eq!(pair.state(CLIENT), State::Established);
    pair.filter = Some(Box::new(|_| true));
    pair.run_for(Duration::from_secs(3600));
    assert_eq!(pair.end(CLIENT).error(), Some(ConnectionError::TimedOut));
}

#[test]
fn a_slow_reader_gets_no_silly_segments() {
    let mut pair = with_buffer(20_000);
    pair.ends[SERVER].reading = false;
    pair.send(CLIENT, 0, 60_000);
    pair.run_for(Duration::from_secs(2));
    let before = pair.log.len();
    let mut read = 0;
    while read < 40_000 {
        let now = pair.now;
        let server = pair.end(SERVER);
        if server.receive_available() >= 100 {
            server.receive_consume(now, 100);
            read += 100;
        }
        pair.run_for(Duration::from_millis(30));
    }
    let segments = pair.sent(CLIENT, before);
    let small = segments
        .iter()
        .filter(|segment| (1..1000).contains(&segment.payload.len()))
        .count();
    assert!(small <= 2, "{small} small segments of {}", segments.len());
}

#[test]
fn a_window_that_stays_small_is_used_after_a_while() {
    let mut pair = with_buffer(2_000);
    pair.send(CLIENT, 0, 20_000);
    pair.run_for(Duration::from_secs(60));
    pair.check_received(SERVER, 20_000);
}

#[test]
fn nagle_gathers_small_writes_and_is_off_by_default() {
    for nagle in [false, true] {
        let mut pair = Pair::open();
        let now = pair.now;
        let options = SocketOptions {
            nagle,
            ..SocketOptions::default()
        };
        pair.end(CLIENT).set_options(now, options);
        let before = pair.log.len();
        for n in 0..20 {
            pair.send(CLIENT, n * 10, 10);
            pair.flush();
        }
        pair.run_for(Duration::from_secs(1));
        pair.check_received(SERVER, 200);
        let count = pair
            .sent(CLIENT, before)
            .iter()
            .filter(|segment| !segment.payload.is_empty())
            .count();
        assert_eq!(count, if nagle { 2 } else { 20 });
    }
}

#[test]
fn every_second_full_segment_is_acknowledged() {
    let mut pair = Pair::open();
    pair.send(CLIENT, 0, 500_000);
    pair.run_for(Duration::from_secs(3));
    let acks = pair
        .log
        .iter()
        .filter(|sent| sent.from == SERVER && sent.segment.payload.is_empty())
        .count();
    assert!((170..250).contains(&acks), "{acks} ACKs for 346 segments");
}

#[test]
fn push_ends_what_was_queued() {
    let mut pair = Pair::open();
    pair.send(CLIENT, 0, 5_000);
    pair.run_for(Duration::from_secs(1));
    let data: Vec<Segment> = pair
        .sent(CLIENT, 3)
        .into_iter()
        .filter(|segment| !segment.payload.is_empty())
        .collect();
    let (last, rest) = data.split_last().unwrap();
    assert!(last.flags.contains(Flags::PSH));
    assert!(
        rest.iter()
            .all(|segment| !segment.flags.contains(Flags::PSH))
    );
}

#[test]
fn urgent_octets_are_delivered_in_line() {
    let mut pair = Pair::open();
    let mut segment = pair.forged(SERVER);
    segment.flags |= Flags::URG;
    segment.urgent = 3;
    segment.payload = pattern(0, 10);
    pair.inject(SERVER, segment);
    assert_eq!(pair.end(SERVER).receive_peek(0), Some(pattern(0, 10)));
}

#[test]
fn the_window_is_not_reduced_while_the_application_is_what_limits() {
    let mut pair = Pair::open();
    let before = pair.end(CLIENT).info().cwnd;
    for n in 0..50 {
        pair.send(CLIENT, n * 100, 100);
        pair.run_for(Duration::from_millis(30));
    }
    let after = pair.end(CLIENT).info().cwnd;
    assert_eq!(before, after, "an unused window must not grow");
}

/// RFC 9293 section 3.8.6.2.1: half of the largest window seen is worth a segment, or a peer with a small buffer would be
/// served by the override's timer only.
#[test]
fn half_of_the_largest_window_is_used_at_once() {
    let mut pair = Pair::open();
    let now = pair.now;
    let client = pair.end(CLIENT);
    client.snd.window = 500;
    client.snd.max_window = 1000;
    client.send(now, pattern(0, 5_000)).unwrap();
    let sent = client.poll_transmit(now, 0).unwrap();
    assert_eq!(sent.payload_len(), 500);
    let mut pair = Pair::open();
    let client = pair.end(CLIENT);
    client.snd.window = 499;
    client.snd.max_window = 1000;
    client.send(now, pattern(0, 5_000)).unwrap();
    assert!(client.poll_transmit(now, 0).is_none());
}

/// What the client's peer says of its window, instead of what it would have said, in answer to everything.
fn answers(pair: &mut Pair, window: u16, ack: SeqNumber, sack: &[(u32, u32)]) {
    let mut answer = pair.forged(CLIENT);
    answer.window = window;
    answer.ack = ack;
    for (start, end) in sack {
        answer.options.sack.push(SackRange {
            start: ack.add(*start),
            end: ack.add(*end),
        });
    }
    pair.inject(CLIENT, answer);
}

/// RFC 9293 section 3.8.6 (SHLD-16).
#[test]
fn what_is_lost_beyond_a_window_that_was_taken_back_waits_for_it() {
    let mut pair = Pair::open();
    pair.filter = Some(Box::new(|_| true));
    let una = pair.end(CLIENT).snd.una;
    pair.send(CLIENT, 0, 10 * 1448);
    pair.flush();
    pair.now += Duration::from_millis(20);
    let before = pair.log.len();
    let small = (1448u32 >> pair.end(CLIENT).snd.scale) as u16;
    for held in 4..=9 {
        answers(&mut pair, small, una, &[(3 * 1448, held * 1448)]);
    }
    let again = pair.sent(CLIENT, before);
    assert!(pair.end(CLIENT).info().lost > 2 * 1448);
    assert!(!again.is_empty());
    let edge = pair.end(CLIENT).snd.right_edge();
    assert!(again.iter().all(|segment| segment.seq.before(edge)));
}

/// RFC 9293 section 3.8.6.1 (MUST-37): also where the window was closed on octets in flight.
#[test]
fn a_peer_that_closed_its_window_on_octets_in_flight_is_asked_for_as_long_as_it_answers() {
    let mut pair = Pair::open();
    let una = pair.end(CLIENT).snd.una;
    pair.filter = Some(Box::new(|_| true));
    pair.send(CLIENT, 0, 3_000);
    for _ in 0..60 {
        pair.run_for(Duration::from_secs(60));
        answers(&mut pair, 0, una, &[]);
    }
    assert_eq!(pair.state(CLIENT), State::Established);
    pair.run_for(Duration::from_secs(3600));
    assert_eq!(pair.end(CLIENT).error(), Some(ConnectionError::TimedOut));
}

/// RFC 9293 section 3.10.7.4 (SND.WL1 and SND.WL2): segments that others overtook say what was.
#[test]
fn the_window_of_an_older_segment_is_not_taken() {
    let mut pair = Pair::open();
    pair.end(SERVER).rcv.quick = 0;
    let old = pair.forged(SERVER);
    for (from, window) in [(0, 2_000), (10, 3_000)] {
        let mut segment = pair.forged(SERVER);
        segment.seq = segment.seq.add(from);
        segment.window = window;
        segment.payload = pattern(from.into(), 10);
        pair.inject(SERVER, segment);
    }
    let taken = pair.end(SERVER).info().snd_wnd;
    pair.inject(SERVER, old);
    assert_eq!(pair.end(SERVER).info().snd_wnd, taken);
    let newer = Segment {
        window: 5,
        ..pair.forged(SERVER)
    };
    let seq = newer.seq.add(20);
    pair.inject(SERVER, Segment { seq, ..newer });
    assert!(pair.end(SERVER).info().snd_wnd < taken);
}

/// RFC 1122 section 4.2.3.4: nothing will be added to what the end follows.
#[test]
fn nagle_does_not_hold_back_the_end() {
    let mut pair = Pair::open();
    let now = pair.now;
    let options = SocketOptions {
        nagle: true,
        ..SocketOptions::default()
    };
    pair.end(CLIENT).set_options(now, options);
    for n in 0..2 {
        pair.send(CLIENT, n * 10, 10);
        pair.flush();
    }
    assert_eq!(pair.end(CLIENT).send_unacked(), 10, "the second waits");
    pair.close(CLIENT);
    pair.flush();
    let last = pair.log.last().unwrap();
    assert!(last.segment.flags.fin());
    assert_eq!(last.segment.payload.len(), 10);
}

/// The peer's slow start would wait for the delay of a lone segment's acknowledgement.
#[test]
fn the_first_segments_are_acknowledged_at_once_and_later_ones_are_not() {
    let mut pair = Pair::open();
    // That of the very first also says how large the window really is.
    for (n, at_once) in [(0, true), (1, true), (2, false)] {
        let before = pair.log.len();
        pair.send(CLIENT, n * 100, 100);
        pair.run_for(Duration::from_millis(15));
        let acks = pair.sent(SERVER, before).len();
        assert_eq!(acks == 1, at_once, "{n}");
        pair.run_for(Duration::from_secs(1));
        assert_eq!(pair.sent(SERVER, before).len(), 1);
        if n == 1 {
            pair.end(SERVER).rcv.quick = 0;
        }
    }
}

/// Segments that come together are one by one no newer than what overtook them.
#[test]
fn a_train_that_was_overtaken_does_not_make_older_windows_new() {
    for coupled in [false, true] {
        let mut pair = Pair::open();
        let base = pair.forged(SERVER);
        let at = |from: u32, window, octets| Segment {
            seq: base.seq.add(from),
            window,
            payload: pattern(from.into(), octets),
            ..base.clone()
        };
        let now = pair.now;
        let server = pair.end(SERVER);
        // The last that was sent, which closes the window, comes first.
        server.handle_segment(now, &at(20, 0, 0));
        if coupled {
            let mut rest = vec![pattern(10, 10)];
            server.handle_train(now, &at(0, 1_000, 10), &mut rest);
        } else {
            server.handle_segment(now, &at(0, 1_000, 10));
            server.handle_segment(now, &at(10, 1_000, 10));
        }
        // Sent between the two.
        server.handle_segment(now, &at(10, 900, 0));
        assert_eq!(server.info().snd_wnd, 0, "coupled: {coupled}");
        assert_eq!(server.receive_available(), 20);
    }
}
