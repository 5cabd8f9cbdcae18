//! Segments nobody sent leave connections intact (RFC 5961, RFC 7323 section 5).

use super::super::testing::*;
use super::super::*;
use crate::time::Duration;

/// What the server answers to a forged segment.
fn answer(pair: &mut Pair, segment: Segment) -> Vec<Segment> {
    let before = pair.log.len();
    pair.inject(SERVER, segment);
    pair.sent(SERVER, before)
}

fn is_plain_ack(answers: &[Segment]) -> bool {
    matches!(answers, [ack] if ack.flags == Flags::ACK && ack.payload.is_empty())
}

#[test]
fn an_rst_is_believed_only_at_the_exact_number() {
    let mut pair = Pair::open();
    let mut reset = pair.forged(SERVER);
    reset.flags = Flags::RST;
    let exact = reset.seq;
    reset.seq = exact.add(1);
    assert!(is_plain_ack(&answer(&mut pair, reset.clone())), "challenge");
    reset.seq = exact.sub(1);
    assert!(answer(&mut pair, reset.clone()).is_empty());
    reset.seq = exact.add(1 << 30);
    assert!(answer(&mut pair, reset.clone()).is_empty());
    assert_eq!(pair.state(SERVER), State::Established);
    reset.seq = exact;
    assert!(answer(&mut pair, reset).is_empty());
    assert_eq!(pair.end(SERVER).error(), Some(ConnectionError::Reset));
}

#[test]
fn a_syn_is_challenged_and_a_client_that_restarted_gets_its_reset() {
    let mut pair = Pair::open();
    let mut syn = pair.forged(SERVER);
    syn.flags = Flags::SYN;
    syn.seq = syn.seq.add(5);
    assert!(is_plain_ack(&answer(&mut pair, syn)));
    assert_eq!(pair.state(SERVER), State::Established);
}

#[test]
fn acknowledgements_of_nothing_are_challenged() {
    let mut pair = Pair::open();
    let mut beyond = pair.forged(SERVER);
    beyond.ack = beyond.ack.add(1);
    beyond.payload = pattern(0, 10);
    assert!(is_plain_ack(&answer(&mut pair, beyond)));
    let mut ancient = pair.forged(SERVER);
    ancient.ack = ancient.ack.sub(1 << 25);
    ancient.payload = pattern(0, 10);
    assert!(is_plain_ack(&answer(&mut pair, ancient)));
    assert_eq!(pair.end(SERVER).receive_available(), 0, "injected octets");
    assert_eq!(pair.end(SERVER).info().counters.bad_acks, 2);
}

#[test]
fn challenges_are_limited() {
    let mut pair = Pair::open();
    let mut total = 0;
    for _ in 0..100 {
        let mut syn = pair.forged(SERVER);
        syn.flags = Flags::SYN;
        total += answer(&mut pair, syn).len();
    }
    assert_eq!(total, 10);
    assert_eq!(pair.end(SERVER).info().counters.challenges_limited, 90);
    pair.run_for(Duration::from_secs(2));
    let mut syn = pair.forged(SERVER);
    syn.flags = Flags::SYN;
    assert_eq!(answer(&mut pair, syn).len(), 1);
}

#[test]
fn old_timestamps_are_dropped_and_acknowledged() {
    let mut pair = Pair::open();
    pair.run_for(Duration::from_secs(5));
    pair.send(CLIENT, 0, 10);
    pair.run_for(Duration::from_secs(1));
    let mut old = pair.forged(SERVER);
    old.payload = pattern(10, 10);
    if let Some(timestamps) = &mut old.options.timestamps {
        timestamps.value = timestamps.value.wrapping_sub(3_000);
    }
    assert!(is_plain_ack(&answer(&mut pair, old.clone())));
    assert_eq!(pair.end(SERVER).info().counters.paws, 1);
    old.options.timestamps = None;
    assert!(
        answer(&mut pair, old).is_empty(),
        "timestamps were agreed on"
    );
    pair.run_for(Duration::from_secs(1));
    pair.check_received(SERVER, 10);
}

#[test]
fn octets_outside_the_window_are_not_taken() {
    let mut pair = Pair::open();
    for offset in [300_000u32, 1 << 30, u32::MAX - 5000] {
        let mut segment = pair.forged(SERVER);
        segment.seq = segment.seq.add(offset);
        segment.payload = pattern(0, 100);
        assert!(is_plain_ack(&answer(&mut pair, segment)));
    }
    let info = pair.end(SERVER).info();
    assert_eq!((info.out_of_order, info.rx_bytes), (0, 0));
    assert_eq!(info.counters.out_of_window, 3);
}

#[test]
fn a_segment_without_ack_is_dropped() {
    let mut pair = Pair::open();
    let mut segment = pair.forged(SERVER);
    segment.flags = Flags::NONE;
    segment.payload = pattern(0, 100);
    assert!(answer(&mut pair, segment).is_empty());
    assert_eq!(pair.end(SERVER).info().rx_bytes, 0);
}

#[test]
fn sack_ranges_of_nothing_are_ignored() {
    let mut pair = Pair::open();
    pair.send(SERVER, 0, 10_000);
    pair.flush();
    let mut lie = pair.forged(SERVER);
    lie.ack = pair.end(SERVER).snd.una;
    let nxt = pair.end(SERVER).snd.nxt;
    for (start, end) in [(5, 10), (0x7000_0000, 0x7000_0010), (0, 0)] {
        lie.options.sack.push(SackRange {
            start: nxt.add(start),
            end: nxt.add(end),
        });
    }
    pair.inject(SERVER, lie);
    let info = pair.end(SERVER).info();
    assert_eq!((info.sacked, info.lost), (0, 0));
    pair.run_for(Duration::from_secs(2));
    pair.check_received(CLIENT, 10_000);
}

/// Any segment at all: nothing panics, and what was agreed on stays.
#[test]
fn random_segments_never_panic() {
    for seed in 0..200 {
        let mut pair = Pair::open();
        let mut random = Random::new(seed);
        pair.send(SERVER, 0, 50_000);
        pair.send(CLIENT, 0, 50_000);
        for _ in 0..30 {
            pair.step();
            let mut segment = pair.forged(SERVER);
            let near = |random: &mut Random, number: crate::seq::SeqNumber| match random.below(4) {
                0 => number,
                1 => number.add(random.below(70_000) as u32),
                2 => number.sub(random.below(70_000) as u32),
                _ => number.add(random.next() as u32),
            };
            segment.seq = near(&mut random, segment.seq);
            segment.ack = near(&mut random, segment.ack);
            segment.flags = Flags::from_bits((random.next() & !4) as u8);
            segment.window = random.next() as u16;
            segment.payload = pattern(0, random.below(3_000) as usize);
            for _ in 0..random.below(5) {
                let start = near(&mut random, segment.ack);
                let end = near(&mut random, start);
                segment.options.sack.push(SackRange { start, end });
            }
            if random.per_mille(100) {
                segment.options.timestamps = None;
            }
            let now = pair.now;
            let server = pair.end(SERVER);
            server.handle_segment(now, &segment);
            let snd = &server.snd;
            assert_eq!(snd.recount(), (snd.sacked, snd.lost, snd.retransmitted));
            let outstanding: u32 = snd.sent.iter().map(|sent| sent.len).sum();
            assert_eq!(outstanding, snd.outstanding());
            while server.poll_transmit(now, 1448).is_some() {}
        }
    }
}

/// RFC 7323 section 5.5: in 24 days timestamps go half around, and what they say of older and newer is nothing.
#[test]
fn after_24_days_of_silence_no_timestamp_is_too_old() {
    for (days, taken) in [(23, 10), (25, 20)] {
        let mut pair = Pair::open();
        pair.send(CLIENT, 0, 10);
        pair.run_for(Duration::from_secs(1));
        pair.run_for(Duration::from_secs(days * 24 * 3600));
        // Ours went half around, too.
        pair.ends[SERVER].tsval = None;
        let mut old = pair.forged(SERVER);
        old.payload = pattern(10, 10);
        let recent = pair.end(SERVER).timestamps.unwrap().recent;
        if let Some(timestamps) = &mut old.options.timestamps {
            timestamps.value = recent.wrapping_sub(1000);
        }
        pair.inject(SERVER, old);
        pair.read(SERVER);
        pair.check_received(SERVER, taken);
        let dropped = pair.end(SERVER).info().counters.paws;
        assert_eq!(dropped, u64::from(taken == 10), "{days} days");
    }
}

/// A retransmission that fills a hole raises TS.Recent. What was sent before it and is still missing is late, but
/// not old: old is what was sent before the hole.
#[test]
fn what_is_missing_is_not_too_old_once_another_hole_was_filled() {
    let mut pair = Pair::open();
    pair.run_for(Duration::from_secs(5));
    let template = pair.forged(SERVER);
    let began = template.options.timestamps.unwrap();
    let mut inject = |place: u32, millis: u32| {
        let mut segment = template.clone();
        segment.seq = segment.seq.add(place * 100);
        segment.payload = pattern(u64::from(place) * 100, 100);
        segment.options.timestamps = Some(Timestamps {
            value: began.value.wrapping_add(millis),
            ..began
        });
        pair.inject(SERVER, segment);
        pair.read(SERVER);
        let paws = pair.end(SERVER).info().counters.paws;
        (pair.ends[SERVER].received.len(), paws)
    };
    assert_eq!(inject(1, 2), (0, 0), "0 is missing");
    assert_eq!(inject(3, 4), (0, 0), "and 2");
    assert_eq!(inject(0, 500), (200, 0), "sent again");
    let long_ago = 10_000u32.wrapping_neg();
    assert_eq!(inject(2, long_ago), (200, 1), "older than any hole");
    assert_eq!(inject(2, 3), (400, 1), "the first one, late");
    assert_eq!(inject(4, 3), (400, 2), "nothing is missing any more");
}

/// CVE-2019-11478, and a session that its peer makes too long to describe could not move.
#[test]
fn a_peer_that_reports_single_octets_costs_no_more_than_small_segments_and_moves() {
    let mut pair = Pair::open();
    pair.run_for(Duration::from_secs(1));
    let now = pair.now;
    pair.send(SERVER, 0, 1 << 20);
    let server = pair.end(SERVER);
    server.congestion.cwnd = 4 << 20;
    server.snd.window = 4 << 20;
    while server.poll_transmit(now, 65_000).is_some() {}
    let mut ack = pair.forged(SERVER);
    ack.ack = pair.end(SERVER).snd.una;
    ack.window = 0xffff;
    let una = ack.ack;
    for n in 0..5_000u32 {
        ack.options.sack = options::SackRanges::EMPTY;
        for at in [6 * n + 2, 6 * n + 4, 6 * n + 6] {
            let (start, end) = (una.add(at), una.add(at + 1));
            ack.options.sack.push(SackRange { start, end });
        }
        let server = pair.end(SERVER);
        server.handle_segment(now, &ack);
        for _ in 0..8 {
            server.poll_transmit(now, 1448);
        }
    }
    let server = pair.end(SERVER);
    let entries = server.snd.sent.len();
    // What is retransmitted is split off as well, a segment at a time.
    let most = (1 << 20) / 512 + (1 << 20) / 1448 + 128;
    assert!(entries <= most, "{entries} entries");
    assert!(server.memory() >= server.send_queued() + (entries - 64) * 24);
    super::moves::move_end(&mut pair, SERVER);
    assert_eq!(pair.end(SERVER).snd.sent.len(), entries);
}

/// By a path that carries next to nothing, or reports that leave every second stretch missing.
#[test]
fn bursts_that_leave_again_in_crumbs_are_remembered_together() {
    let total = 1u32 << 20;
    for holes in [false, true] {
        let mut pair = Pair::open();
        let now = pair.now;
        pair.send(SERVER, 0, total as usize);
        let server = pair.end(SERVER);
        server.congestion.near = true;
        server.congestion.cwnd = 4 << 20;
        server.snd.window = 4 << 20;
        while server.poll_transmit(now, 65_000).is_some() {}
        let una = server.snd.una;
        if holes {
            for n in (1..total / 600).step_by(2) {
                let (start, end) = (una.add(600 * n), una.add(600 * (n + 1)));
                let mut sack = options::SackRanges::EMPTY;
                sack.push(SackRange { start, end });
                server.snd.apply_sack(&sack, |_| {});
            }
            assert!(server.snd.sacked > total / 3);
        }
        let before = server.snd.sent.len();
        for index in 0..before {
            server.snd.mark_lost(index);
        }
        server.recovery.phase = Phase::Loss;
        server.recovery.point = server.snd.nxt;
        server.snd.peer_mss = 48;
        let (lost, mut again) = (server.snd.lost, 0);
        let most = (64 + total as usize / 512) * 5 / 4 + 1;
        while let Some(out) = server.poll_transmit(now, 0) {
            assert!(out.payload_len() <= 48);
            again += out.payload_len() as u32;
            let entries = server.snd.sent.len();
            assert!(entries <= most.max(before), "{entries} entries");
            let counted = (server.snd.sacked, server.snd.lost, server.snd.retransmitted);
            if again % 4096 < 48 {
                assert_eq!(server.snd.recount(), counted);
            }
        }
        if !holes {
            assert_eq!(again, lost, "all of it, once");
        }
        assert_eq!(server.snd.retransmitted, lost, "nothing is left waiting");
        server.snd.window = 0xffff;
        super::moves::move_end(&mut pair, SERVER);
    }
}

/// RFC 9293 section 3.10.7.4, step 8: nothing is behind the end.
#[test]
fn octets_beyond_the_end_of_a_stream_are_not_taken() {
    let mut pair = Pair::open();
    let mut end = pair.forged(SERVER);
    end.seq = end.seq.add(10);
    end.flags |= Flags::FIN;
    pair.inject(SERVER, end);
    let mut octets = pair.forged(SERVER);
    octets.payload = pattern(0, 20);
    pair.inject(SERVER, octets);
    assert_eq!(pair.end(SERVER).receive_peek(0), Some(pattern(0, 10)));
    assert_eq!(pair.state(SERVER), State::CloseWait);
    assert!(pair.end(SERVER).receive_finished());
}

/// RFC 9293 section 3.10.7.4: what lies beyond the window is cut off, and an end with it.
#[test]
fn the_end_of_a_segment_that_reaches_beyond_the_window_is_not_taken() {
    let mut pair = Pair::open();
    let edge = pair.end(SERVER).rcv.edge;
    let mut segment = pair.forged(SERVER);
    let room = edge.distance_from(segment.seq);
    segment.seq = edge.sub(10);
    segment.payload = pattern(u64::from(room) - 10, 20);
    segment.flags |= Flags::FIN;
    pair.inject(SERVER, segment);
    let server = pair.end(SERVER);
    assert_eq!(server.rcv.out_of_order(), 10);
    assert_eq!(server.rcv.fin, rcv::RcvFin::Open);
}

/// Who guesses a cookie has to guess a timestamp as well: one of the time since it was given.
#[test]
fn a_cookie_counts_only_with_an_echo_of_its_own_time() {
    let config = TcpConfig::default();
    let numbers = InitialNumbers::new([3; 32]);
    let pair = Pair::open();
    let flow = pair.ends[SERVER].connection.as_ref().unwrap().flow();
    let timestamps = |echo| Options {
        timestamps: Some(Timestamps { value: 1, echo }),
        ..Options::default()
    };
    let syn = Segment {
        flags: Flags::SYN,
        window: 1000,
        options: timestamps(0),
        ..Segment::default()
    };
    let given = pair.now + Duration::from_secs(1000);
    let half_open = HalfOpen::on_syn(given, &config, &numbers, flow, 1500, &syn, None);
    let Cookie { irs, iss } = half_open.cookie();
    let clock = numbers
        .timestamp_offset(&flow)
        .wrapping_add(given.wrapping_millis());
    let later = given + Duration::from_secs(10);
    for (echo, taken) in [
        (0, true),
        (10_000, true),
        (10_001, false),
        (-200_000, false),
    ] {
        let ack = Segment {
            seq: irs.add(1),
            ack: iss.add(1),
            flags: Flags::ACK,
            options: timestamps(clock.wrapping_add_signed(echo)),
            ..Segment::default()
        };
        let recalled = HalfOpen::recall(later, &config, &numbers, flow, 1500, &ack);
        assert_eq!(recalled.is_some(), taken, "{echo}");
    }
}
