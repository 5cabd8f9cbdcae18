//! Opening and closing, in every order (RFC 9293 section 3.3.2).

use alloc::boxed::Box;

use bytes::Bytes;

use super::super::testing::*;
use super::super::*;
use crate::time::Duration;

fn states(pair: &Pair) -> (State, State) {
    (pair.state(CLIENT), pair.state(SERVER))
}

#[test]
fn the_handshake_agrees_on_options() {
    let mut pair = Pair::open();
    for end in [CLIENT, SERVER] {
        let info = pair.end(end).info();
        assert!(info.sack && info.timestamps);
        assert_eq!(info.mss, 1448);
        assert_eq!(pair.end(end).snd.scale, 6);
        assert!(info.srtt.is_some(), "the handshake is a round trip");
    }
    assert_eq!(pair.log.len(), 3);
    let syn = &pair.log[0].segment;
    assert_eq!(syn.options.mss, Some(1460));
    let window = pair.end(SERVER).info().snd_wnd;
    assert!((255 * 1024..=256 * 1024).contains(&window), "{window}");
}

/// RFC 7323 section 2.3: a larger shift counts as 14.
#[test]
fn a_shift_that_is_too_large_is_taken_for_the_largest() {
    for (said, taken) in [(14, 14), (15, 14), (255, 14)] {
        let mut pair = Pair::with(
            1,
            TcpConfig::default(),
            TcpConfig::default(),
            Link::default(),
        );
        pair.connect();
        pair.flush();
        let mut answer = Segment {
            ack: pair.end(CLIENT).snd.nxt,
            flags: Flags::SYN | Flags::ACK,
            window: 1000,
            ..Segment::default()
        };
        answer.options.window_scale = Some(said);
        pair.inject(CLIENT, answer);
        assert_eq!(pair.end(CLIENT).info().snd_scale, taken);
    }
}

#[test]
fn a_peer_without_options_is_served_without() {
    let plain = TcpConfig {
        sack: false,
        timestamps: false,
        ..TcpConfig::default()
    };
    for (client, server) in [
        (plain.clone(), TcpConfig::default()),
        (TcpConfig::default(), plain),
    ] {
        let mut pair = Pair::with(2, client, server, Link::default());
        pair.establish();
        for end in [CLIENT, SERVER] {
            let info = pair.end(end).info();
            assert!(!info.sack && !info.timestamps);
            assert_eq!(info.mss, 1460);
        }
        pair.send(CLIENT, 0, 100_000);
        pair.run_for(Duration::from_secs(2));
        pair.check_received(SERVER, 100_000);
        assert!(
            pair.log[2..]
                .iter()
                .all(|sent| sent.segment.options == Options::default())
        );
    }
}

#[test]
fn lost_handshake_segments_are_repeated() {
    for lost in 0..3 {
        let mut pair = Pair::open();
        let (client, server) = (
            pair.ends[CLIENT].config.clone(),
            pair.ends[SERVER].config.clone(),
        );
        pair = Pair::with(6, client, server, Link::default());
        let mut count = 0;
        pair.filter = Some(Box::new(move |_| {
            count += 1;
            count - 1 == lost
        }));
        pair.connect();
        pair.send(CLIENT, 0, 10);
        pair.run_until(Duration::from_secs(10), |pair| {
            pair.ends[SERVER].received.len() == 10
        });
        pair.check_received(SERVER, 10);
    }
}

#[test]
fn a_lost_handshake_begins_with_one_segment_and_three_seconds() {
    // The SYN is lost, or its answer: both ends find out, or only one.
    for (lost, end) in [(0, CLIENT), (1, CLIENT), (1, SERVER)] {
        let mut pair = Pair::with(
            6,
            TcpConfig::default(),
            TcpConfig::default(),
            Link::default(),
        );
        let mut count = 0;
        pair.filter = Some(Box::new(move |_| {
            count += 1;
            count - 1 == lost
        }));
        pair.establish();
        pair.run_for(Duration::from_millis(100));
        let info = pair.end(end).info();
        assert_eq!(info.cwnd, 1448, "{lost} {end}");
        assert_eq!(info.rto, Duration::from_secs(3));
        pair.send(end, 0, 100_000);
        pair.run_for(Duration::from_secs(1));
        pair.check_received(1 - end, 100_000);
    }
}

#[test]
fn text_and_fin_on_the_syn_ack_are_taken() {
    let mut pair = Pair::open();
    pair = Pair::with(
        6,
        pair.ends[CLIENT].config.clone(),
        pair.ends[SERVER].config.clone(),
        Link::default(),
    );
    pair.connect();
    pair.filter = Some(Box::new(|_| true));
    pair.flush();
    let iss = pair.log[0].segment.seq;
    let answer = Segment {
        seq: crate::seq::SeqNumber::new(77),
        ack: iss.add(1),
        flags: Flags::SYN | Flags::ACK | Flags::FIN,
        window: 1000,
        payload: pattern(0, 10),
        ..Segment::default()
    };
    pair.inject(CLIENT, answer);
    pair.read(CLIENT);
    pair.check_received(CLIENT, 10);
    assert_eq!(pair.state(CLIENT), State::CloseWait);
    let ack = pair.sent(CLIENT, 1).pop().unwrap();
    assert_eq!(ack.ack, crate::seq::SeqNumber::new(77 + 1 + 10 + 1));
}

#[test]
fn nobody_there_is_found_out() {
    let mut pair = Pair::open();
    pair = Pair::with(
        6,
        pair.ends[CLIENT].config.clone(),
        pair.ends[SERVER].config.clone(),
        Link::default(),
    );
    pair.filter = Some(Box::new(|_| true));
    pair.connect();
    pair.run_for(Duration::from_secs(300));
    assert_eq!(pair.end(CLIENT).error(), Some(ConnectionError::TimedOut));
    assert!(pair.end(CLIENT).take_updates());
}

#[test]
fn a_refusal_is_believed_only_if_it_answers_our_syn() {
    let mut pair = Pair::open();
    pair = Pair::with(
        6,
        pair.ends[CLIENT].config.clone(),
        pair.ends[SERVER].config.clone(),
        Link::default(),
    );
    pair.connect();
    pair.filter = Some(Box::new(|_| true));
    pair.flush();
    let iss = pair.log[0].segment.seq;
    let reset = |ack| Segment {
        ack,
        flags: Flags::RST | Flags::ACK,
        ..Segment::default()
    };
    pair.inject(CLIENT, reset(iss.add(2)));
    assert_eq!(pair.state(CLIENT), State::SynSent);
    pair.inject(CLIENT, reset(iss.add(1)));
    assert_eq!(pair.end(CLIENT).error(), Some(ConnectionError::Refused));
}

#[test]
fn closing_first_leads_through_fin_wait_to_time_wait() {
    let mut pair = Pair::open();
    pair.close(CLIENT);
    pair.flush();
    assert_eq!(pair.state(CLIENT), State::FinWait1);
    pair.run_for(Duration::from_millis(25));
    assert_eq!(states(&pair), (State::FinWait2, State::CloseWait));
    assert!(pair.end(SERVER).receive_finished());
    pair.close(SERVER);
    pair.flush();
    assert_eq!(pair.state(SERVER), State::LastAck);
    pair.run_for(Duration::from_millis(25));
    assert_eq!(states(&pair), (State::TimeWait, State::Closed));
    pair.run_for(Duration::from_secs(59));
    assert_eq!(pair.state(CLIENT), State::TimeWait);
    pair.run_for(Duration::from_secs(2));
    assert_eq!(pair.state(CLIENT), State::Closed);
    assert_eq!(pair.end(CLIENT).error(), None);
}

#[test]
fn a_half_closed_connection_still_carries_the_other_direction() {
    let mut pair = Pair::open();
    pair.send(CLIENT, 0, 1000);
    pair.close(CLIENT);
    pair.run_for(Duration::from_secs(1));
    pair.send(SERVER, 0, 500_000);
    pair.run_for(Duration::from_secs(10));
    pair.check_received(CLIENT, 500_000);
    assert_eq!(states(&pair), (State::FinWait2, State::CloseWait));
    let now = pair.now;
    assert_eq!(
        pair.end(CLIENT).send(now, Bytes::from_static(b"x")),
        Err(SendError::Closed)
    );
}

#[test]
fn closing_at_once_leads_through_closing() {
    let mut pair = Pair::open();
    pair.close(CLIENT);
    pair.close(SERVER);
    pair.run_for(Duration::from_millis(15));
    assert_eq!(states(&pair), (State::Closing, State::Closing));
    pair.run_for(Duration::from_millis(15));
    assert_eq!(states(&pair), (State::TimeWait, State::TimeWait));
}

#[test]
fn a_repeated_fin_is_acknowledged_again_in_time_wait() {
    let mut pair = Pair::open();
    pair.close(CLIENT);
    pair.run_for(Duration::from_millis(100));
    pair.close(SERVER);
    // The last ACK is lost.
    let mut lost = false;
    pair.filter = Some(Box::new(move |sent| {
        let hit = sent.from == CLIENT && !lost;
        lost |= hit;
        hit
    }));
    pair.run_for(Duration::from_millis(25));
    assert_eq!(states(&pair), (State::TimeWait, State::LastAck));
    let mut fin = pair.forged(CLIENT);
    pair.run_for(Duration::from_secs(2));
    assert_eq!(states(&pair), (State::TimeWait, State::Closed));
    // It begins anew with every FIN (RFC 9293 section 3.10.7.4, step 8).
    pair.run_for(Duration::from_secs(40));
    fin.flags |= Flags::FIN;
    fin.seq = pair.end(CLIENT).rcv.nxt.sub(1);
    pair.inject(CLIENT, fin);
    pair.run_for(Duration::from_secs(50));
    assert_eq!(pair.state(CLIENT), State::TimeWait);
    pair.run_for(Duration::from_secs(11));
    assert_eq!(pair.state(CLIENT), State::Closed);
}

#[test]
fn octets_before_fin_arrive_though_fin_comes_first() {
    let mut pair = Pair::open();
    let mut lost = false;
    pair.filter = Some(Box::new(move |sent| {
        let hit = sent.from == CLIENT && !sent.segment.flags.fin() && !lost;
        lost |= hit;
        hit
    }));
    pair.send(CLIENT, 0, 2_000);
    pair.close(CLIENT);
    pair.run_for(Duration::from_millis(12));
    assert!(!pair.end(SERVER).receive_finished());
    assert_eq!(pair.state(SERVER), State::Established);
    pair.run_for(Duration::from_secs(1));
    pair.check_received(SERVER, 2_000);
    assert_eq!(states(&pair), (State::FinWait2, State::CloseWait));
}

#[test]
fn an_abort_resets_the_peer() {
    let mut pair = Pair::open();
    let now = pair.now;
    pair.end(CLIENT).abort(now);
    pair.run_for(Duration::from_millis(100));
    assert_eq!(pair.end(CLIENT).error(), Some(ConnectionError::Aborted));
    assert_eq!(pair.end(SERVER).error(), Some(ConnectionError::Reset));
}

#[test]
fn a_released_connection_does_not_wait_for_ever() {
    let mut pair = Pair::open();
    let now = pair.now;
    pair.end(SERVER).release(now);
    pair.run_for(Duration::from_secs(5));
    assert_eq!(pair.state(SERVER), State::FinWait2);
    pair.run_for(Duration::from_secs(70));
    assert!(pair.end(SERVER).is_closed());
    assert_eq!(pair.end(SERVER).error(), None);
}

/// RFC 9293 section 3.6.1. What it sent before must get through: an RST may destroy it.
#[test]
fn who_sends_to_a_released_connection_gets_all_of_it_and_then_a_reset() {
    for before in [true, false] {
        let mut pair = Pair::open();
        pair.ends[SERVER].reading = false;
        if before {
            pair.send(CLIENT, 0, 5_000);
            pair.run_for(Duration::from_millis(100));
        }
        pair.send(SERVER, 0, 100_000);
        let now = pair.now;
        pair.end(SERVER).release(now);
        if !before {
            pair.send(CLIENT, 0, 5_000);
        }
        pair.run_for(Duration::from_secs(5));
        pair.check_received(CLIENT, 100_000);
        assert!(pair.end(CLIENT).receive_finished());
        assert_eq!(pair.end(CLIENT).error(), Some(ConnectionError::Reset));
        assert_eq!(pair.end(SERVER).error(), Some(ConnectionError::Aborted));
    }
}

/// RFC 2525 section 2.17: and so does who sends only after everything of ours has arrived.
#[test]
fn octets_that_come_after_a_released_connection_has_said_all_get_a_reset() {
    let mut pair = Pair::open();
    let now = pair.now;
    pair.end(SERVER).release(now);
    pair.run_for(Duration::from_secs(1));
    assert_eq!(pair.state(SERVER), State::FinWait2);
    pair.send(CLIENT, 0, 100);
    pair.run_for(Duration::from_millis(100));
    assert_eq!(pair.end(CLIENT).error(), Some(ConnectionError::Reset));
    assert_eq!(pair.state(SERVER), State::Closed);
}

#[test]
fn time_wait_gives_way_to_a_newer_syn_only() {
    let mut pair = Pair::open();
    pair.close(CLIENT);
    pair.run_for(Duration::from_millis(100));
    pair.close(SERVER);
    pair.run_for(Duration::from_millis(100));
    let mut syn = pair.forged(CLIENT);
    syn.flags = Flags::SYN;
    let client = pair.ends[CLIENT].connection.as_ref().unwrap();
    let mut newer = syn.clone();
    newer.seq = client.rcv.nxt.add(1000);
    assert!(client.may_be_reused_by(&newer));
    let mut older = syn;
    older.seq = client.rcv.nxt.sub(1000);
    if let Some(timestamps) = &mut older.options.timestamps {
        timestamps.value = client.timestamps.unwrap().recent.wrapping_sub(1);
    }
    assert!(!client.may_be_reused_by(&older));
    // Where both have the same timestamp (RFC 6191 section 2), and without any, numbers alone tell.
    for (syn, may) in [(&mut newer, true), (&mut older, false)] {
        if let Some(timestamps) = &mut syn.options.timestamps {
            timestamps.value = client.timestamps.unwrap().recent;
        }
        assert_eq!(client.may_be_reused_by(syn), may);
    }
    for (syn, may) in [(&mut newer, true), (&mut older, false)] {
        syn.options.timestamps = None;
        assert_eq!(client.may_be_reused_by(syn), may);
    }
}

/// RFC 1337: an old RST must not let old segments into the next connection.
#[test]
fn a_reset_does_not_end_time_wait() {
    let mut pair = Pair::open();
    pair.close(CLIENT);
    pair.run_for(Duration::from_millis(100));
    pair.close(SERVER);
    pair.run_for(Duration::from_millis(100));
    assert_eq!(pair.state(CLIENT), State::TimeWait);
    let mut reset = pair.forged(CLIENT);
    reset.flags = Flags::RST;
    reset.seq = pair.end(CLIENT).rcv.nxt;
    pair.inject(CLIENT, reset);
    assert_eq!(pair.state(CLIENT), State::TimeWait);
}

#[test]
fn what_takes_the_place_of_time_wait_begins_beyond_it() {
    let numbers = InitialNumbers::new([3; 32]);
    let pair = Pair::open();
    let flow = pair.ends[SERVER].connection.as_ref().unwrap().flow();
    let config = TcpConfig::default();
    let syn = Segment {
        seq: crate::seq::SeqNumber::new(1),
        flags: Flags::SYN,
        ..Segment::default()
    };
    let answer = |above| {
        HalfOpen::on_syn(pair.now, &config, &numbers, flow, 1500, &syn, above)
            .poll_transmit(pair.now, &config)
            .unwrap()
            .seq
    };
    let usual = answer(None);
    assert_eq!(answer(Some(usual.sub(1))), usual);
    assert!(answer(Some(usual.add(1000))).after(usual.add(1000)));
}

/// RFC 1122 section 4.2.2.13: and so does what is opened from here in its place.
#[test]
fn what_is_opened_in_the_place_of_time_wait_begins_beyond_it() {
    let mut pair = Pair::open();
    let now = pair.now;
    let End {
        config,
        numbers,
        connection,
        ..
    } = &mut pair.ends[CLIENT];
    let before = connection.as_mut().unwrap();
    let open = || Connection::connect(now, config, numbers, before.flow(), 1500);
    let mut free = open();
    let mut again = open();
    let sent = free.snd.iss.add(1 << 20);
    before.snd.nxt = free.snd.iss.sub(1);
    free.follow(now, before);
    assert_eq!(free.snd.iss, again.snd.iss, "it was beyond already");
    before.snd.nxt = sent;
    again.follow(now, before);
    assert!(again.snd.iss.after(sent));
    let syn = again.poll_transmit(now, 0).unwrap();
    assert_eq!(syn.seq, again.snd.iss);
}

#[test]
fn a_silent_peer_is_found_out_by_keepalive() {
    let mut pair = Pair::open();
    let now = pair.now;
    let options = SocketOptions {
        keepalive: Some(Keepalive {
            idle: Duration::from_secs(10),
            interval: Duration::from_secs(2),
            probes: 3,
        }),
        ..SocketOptions::default()
    };
    pair.end(SERVER).set_options(now, options);
    pair.run_for(Duration::from_secs(100));
    assert_eq!(pair.state(SERVER), State::Established, "the peer answers");
    // Whoever is heard of is not asked (RFC 9293 section 3.8.4).
    let before = pair.log.len();
    for n in 0..10 {
        pair.send(CLIENT, n, 1);
        pair.run_for(Duration::from_secs(6));
    }
    let asked = pair.sent(SERVER, before);
    let last = pair.end(CLIENT).rcv.nxt;
    assert!(asked.iter().all(|segment| segment.seq == last), "a probe");
    pair.filter = Some(Box::new(|_| true));
    pair.run_for(Duration::from_secs(30));
    assert_eq!(pair.end(SERVER).error(), Some(ConnectionError::TimedOut));
}

/// RFC 1122 section 4.2.3.6: a peer may put an octet into its probe that means nothing, as some stacks expect.
#[test]
fn a_keepalive_probe_with_and_without_an_octet_is_answered_and_changes_nothing() {
    for octets in [0, 1] {
        let mut pair = Pair::open();
        pair.send(CLIENT, 0, 100);
        pair.run_for(Duration::from_secs(1));
        let mut probe = pair.forged(SERVER);
        probe.seq = probe.seq.sub(1);
        probe.payload = Bytes::from(vec![0xa5; octets]);
        for _ in 0..3 {
            let before = pair.log.len();
            pair.inject(SERVER, probe.clone());
            let answers = pair.sent(SERVER, before);
            assert_eq!(answers.len(), 1, "{octets} octets");
            assert!(answers[0].is_empty());
            assert_eq!(answers[0].ack, probe.seq.add(1));
        }
        pair.check_received(SERVER, 100);
        assert_eq!(pair.end(SERVER).receive_available(), 0);
    }
}

/// RFC 9293 section 3.5, figure 8: two SYNs cross, and then two SYN-ACKs, which repeat a SYN that is known
/// and are no reason to challenge.
#[test]
fn two_that_open_at_once_meet() {
    let plain = TcpConfig {
        sack: false,
        timestamps: false,
        ..TcpConfig::default()
    };
    for config in [TcpConfig::default(), plain] {
        let mut pair = Pair::with(6, config.clone(), config, Link::default());
        pair.connect_from(CLIENT);
        pair.connect_from(SERVER);
        pair.run_for(Duration::from_millis(15));
        assert_eq!(states(&pair), (State::SynReceived, State::SynReceived));
        pair.run_for(Duration::from_millis(10));
        assert_eq!(states(&pair), (State::Established, State::Established));
        let crossed = Flags::SYN | Flags::ACK;
        for end in [CLIENT, SERVER] {
            let sent = pair.sent(end, 0);
            let flags: Vec<Flags> = sent.iter().map(|segment| segment.flags).collect();
            assert_eq!(flags[..2], [Flags::SYN, crossed]);
            assert_eq!(sent[0].seq, sent[1].seq, "the same SYN");
            let counters = pair.end(end).info().counters;
            assert_eq!((counters.challenges, counters.bad_acks), (0, 0));
        }
        pair.send(CLIENT, 0, 50_000);
        pair.send(SERVER, 0, 50_000);
        pair.run_for(Duration::from_secs(1));
        pair.check_received(SERVER, 50_000);
        pair.check_received(CLIENT, 50_000);
        pair.close(CLIENT);
        pair.close(SERVER);
        pair.run_for(Duration::from_secs(1));
        assert_eq!(states(&pair), (State::TimeWait, State::TimeWait));
    }
}

/// What else acknowledges the SYN opens as well: the SYN-ACK that crosses may be lost.
#[test]
fn of_two_that_open_at_once_one_answer_may_be_lost() {
    for lost in [2, 3] {
        let config = TcpConfig::default();
        let mut pair = Pair::with(6, config.clone(), config, Link::default());
        let mut count = 0;
        pair.filter = Some(Box::new(move |_| {
            count += 1;
            count - 1 == lost
        }));
        pair.connect_from(CLIENT);
        pair.connect_from(SERVER);
        pair.run_for(Duration::from_secs(3));
        assert_eq!(states(&pair), (State::Established, State::Established));
    }
}
