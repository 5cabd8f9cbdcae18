//! Explicit congestion notification (RFC 3168).

use alloc::boxed::Box;

use super::super::segment::Ecn;
use super::super::testing::*;
use super::super::*;
use crate::time::Duration;

fn config(ecn: EcnMode) -> TcpConfig {
    TcpConfig {
        socket: SocketOptions {
            ecn,
            ..SocketOptions::default()
        },
        ..TcpConfig::default()
    }
}

fn pair(client: EcnMode, server: EcnMode) -> Pair {
    let mut pair = Pair::with(3, config(client), config(server), Link::default());
    pair.establish();
    pair.run_for(Duration::from_millis(100));
    pair
}

fn agreed(pair: &mut Pair) -> (bool, bool) {
    let agreed = |pair: &mut Pair, end| pair.end(end).info().ecn;
    (agreed(pair, CLIENT), agreed(pair, SERVER))
}

#[test]
fn it_is_agreed_on_when_one_asks_and_the_other_accepts() {
    use EcnMode::{Accept, Off, Request};
    for (client, server, expected) in [
        (Request, Accept, true),
        (Request, Request, true),
        (Request, Off, false),
        (Accept, Request, false),
        (Off, Accept, false),
    ] {
        let mut pair = pair(client, server);
        assert_eq!(
            agreed(&mut pair),
            (expected, expected),
            "{client:?} {server:?}"
        );
        let (syn, answer) = (pair.log[0].segment.flags, pair.log[1].segment.flags);
        assert_eq!(syn.contains(Flags::ECE | Flags::CWR), client == Request);
        assert_eq!(answer.contains(Flags::ECE), expected);
        assert!(!answer.contains(Flags::CWR));
        assert_eq!(pair.log[0].segment.ecn, Ecn::NotCapable, "SYN");
        assert_eq!(pair.log[1].segment.ecn, Ecn::NotCapable, "SYN-ACK");
    }
}

#[test]
fn a_repeated_syn_does_not_ask() {
    let mut pair = Pair::with(
        3,
        config(EcnMode::Request),
        config(EcnMode::Accept),
        Link::default(),
    );
    pair.filter = Some(Box::new(|sent| sent.segment.flags.contains(Flags::CWR)));
    pair.establish();
    assert_eq!(agreed(&mut pair), (false, false));
}

/// RFC 3168 section 6.1.1: who only reflects what he does not know of does not do ECN.
#[test]
fn a_peer_that_reflects_the_flags_has_not_agreed() {
    for (flags, agreed) in [(Flags::ECE, true), (Flags::ECE | Flags::CWR, false)] {
        let mut pair = Pair::with(
            3,
            config(EcnMode::Request),
            config(EcnMode::Accept),
            Link::default(),
        );
        pair.connect();
        pair.flush();
        let answer = Segment {
            ack: pair.end(CLIENT).snd.nxt,
            flags: Flags::SYN | Flags::ACK | flags,
            window: 1000,
            ..Segment::default()
        };
        pair.inject(CLIENT, answer);
        assert_eq!(pair.state(CLIENT), State::Established);
        assert_eq!(pair.end(CLIENT).info().ecn, agreed);
    }
}

#[test]
fn a_mark_is_echoed_until_it_is_answered_and_reduces_once_per_round() {
    let mut pair = pair(EcnMode::Request, EcnMode::Accept);
    pair.send(CLIENT, 0, 200_000);
    pair.run_for(Duration::from_millis(25));
    let before = pair.end(CLIENT).info();
    let start = pair.log.len();
    let mut left = 3;
    pair.mark = Some(Box::new(move |_| {
        left -= i32::from(left > 0);
        left > 0
    }));
    pair.send(CLIENT, 200_000, 200_000);
    pair.run_for(Duration::from_secs(2));
    pair.check_received(SERVER, 400_000);
    let info = pair.end(CLIENT).info();
    assert_eq!(info.counters.ecn_reductions, 1, "two marks, one round");
    assert_eq!(pair.end(SERVER).info().counters.congestion_marks, 2);
    assert_eq!(info.counters.retransmits, 0);
    assert!(info.ssthresh < before.ssthresh);
    let cwr: Vec<_> = pair
        .sent(CLIENT, start)
        .into_iter()
        .filter(|segment| segment.flags.contains(Flags::CWR))
        .collect();
    assert_eq!(cwr.len(), 1);
    assert!(!cwr[0].payload.is_empty());
    let echoes = pair.sent(SERVER, start);
    let first = echoes.iter().position(|ack| ack.flags.contains(Flags::ECE));
    assert!(first.is_some());
    assert!(
        !echoes.last().unwrap().flags.contains(Flags::ECE),
        "CWR ends the echo"
    );
}

/// The NIC would put it on every segment that it cuts from a burst, and the peer take each for the
/// answer to a mark that came later.
#[test]
fn one_segment_says_that_the_window_was_reduced_though_the_nic_cuts() {
    let mut pair = pair(EcnMode::Request, EcnMode::Accept);
    pair.ends[CLIENT].max_payload = 65_000;
    let mut marked = false;
    pair.mark = Some(Box::new(move |_| !core::mem::replace(&mut marked, true)));
    pair.send(CLIENT, 0, 10_000);
    pair.run_for(Duration::from_secs(1));
    assert!(pair.end(CLIENT).ecn.reduced, "CWR is owed");
    let start = pair.log.len();
    pair.send(CLIENT, 10_000, 100_000);
    pair.run_for(Duration::from_secs(1));
    pair.check_received(SERVER, 110_000);
    let sent = pair.sent(CLIENT, start);
    let cwr = |segment: &&Segment| segment.flags.contains(Flags::CWR);
    assert!(cwr(&&sent[0]));
    assert_eq!(sent.iter().filter(cwr).count(), 1);
}

#[test]
fn only_new_octets_say_that_the_transport_is_capable() {
    let mut pair = pair(EcnMode::Request, EcnMode::Accept);
    let mut count = 0;
    pair.filter = Some(Box::new(move |sent| {
        count += u32::from(sent.from == CLIENT && !sent.segment.payload.is_empty());
        count % 20 == 5
    }));
    pair.send(CLIENT, 0, 300_000);
    pair.run_for(Duration::from_secs(3));
    pair.close(CLIENT);
    pair.run_for(Duration::from_secs(3));
    pair.check_received(SERVER, 300_000);
    let mut highest = pair.log[0].segment.seq;
    for sent in &pair.log {
        let segment = &sent.segment;
        if sent.from == SERVER {
            assert_eq!(segment.ecn, Ecn::NotCapable, "a pure ACK");
            continue;
        }
        let new = segment.end().after(highest) && !segment.payload.is_empty();
        let expected = match new {
            true => Ecn::Capable0,
            false => Ecn::NotCapable,
        };
        assert_eq!(segment.ecn, expected, "{segment:?}");
        highest = highest.later(segment.end());
    }
    assert!(pair.end(CLIENT).info().counters.retransmits > 0);
}

#[test]
fn without_agreement_marks_and_echoes_mean_nothing() {
    let mut pair = pair(EcnMode::Accept, EcnMode::Accept);
    pair.send(CLIENT, 0, 10_000);
    pair.flush();
    let mut echo = pair.forged(CLIENT);
    echo.flags |= Flags::ECE;
    pair.inject(CLIENT, echo);
    assert_eq!(pair.end(CLIENT).info().counters.ecn_reductions, 0);
    let mut marked = pair.forged(SERVER);
    marked.ecn = Ecn::Congestion;
    marked.payload = pattern(10_000, 10);
    pair.inject(SERVER, marked);
    assert_eq!(pair.end(SERVER).info().counters.congestion_marks, 0);
}

#[test]
fn segments_of_nowhere_do_not_reduce() {
    // An echo outside what we sent, as a stranger would have to guess it.
    let mut pair = pair(EcnMode::Request, EcnMode::Accept);
    pair.send(CLIENT, 0, 10_000);
    pair.flush();
    let mut echo = pair.forged(CLIENT);
    echo.flags |= Flags::ECE;
    echo.seq = echo.seq.add(1 << 30);
    pair.inject(CLIENT, echo);
    assert_eq!(pair.end(CLIENT).info().counters.ecn_reductions, 0);
}

#[test]
fn echo_and_answer_go_on_after_a_move() {
    let mut pair = pair(EcnMode::Request, EcnMode::Accept);
    let mut marked = false;
    pair.mark = Some(Box::new(move |_| !core::mem::replace(&mut marked, true)));
    pair.send(CLIENT, 0, 10_000);
    pair.run_until(Duration::from_secs(1), |pair| pair.end(SERVER).ecn.echo);
    let before = pair.end(SERVER).ecn;
    super::moves::move_end(&mut pair, SERVER);
    assert_eq!(pair.end(SERVER).ecn, before);
    pair.run_until(Duration::from_secs(1), |pair| {
        pair.end(CLIENT).ecn.point.is_some()
    });
    let before = pair.end(CLIENT).ecn;
    assert!(before.reduced, "CWR is owed");
    super::moves::move_end(&mut pair, CLIENT);
    assert_eq!(pair.end(CLIENT).ecn, before);
    pair.send(CLIENT, 10_000, 50_000);
    pair.run_for(Duration::from_secs(1));
    pair.check_received(SERVER, 60_000);
    assert!(!pair.end(SERVER).ecn.echo, "CWR came from the next owner");
    assert_eq!(pair.end(CLIENT).info().counters.ecn_reductions, 1);
}

/// RFC 3168 section 6.1.3: the mark is news, whatever the segment says of earlier ones.
#[test]
fn a_mark_on_the_segment_that_ends_an_echo_begins_the_next() {
    let mut pair = pair(EcnMode::Request, EcnMode::Accept);
    for (from, ecn, echoes) in [
        (0, Ecn::Congestion, true),
        (10, Ecn::Congestion, true),
        (20, Ecn::Capable0, false),
    ] {
        let mut segment = pair.forged(SERVER);
        segment.seq = segment.seq.add(from);
        segment.flags |= Flags::CWR;
        segment.ecn = ecn;
        segment.payload = pattern(from.into(), 10);
        pair.inject(SERVER, segment);
        assert_eq!(pair.end(SERVER).ecn.echo, echoes, "{from}");
    }
}

/// RFC 3168 section 6.1.2.
#[test]
fn while_congestion_is_echoed_the_window_does_not_grow() {
    let mut pair = pair(EcnMode::Request, EcnMode::Accept);
    pair.filter = Some(Box::new(|_| true));
    pair.send(CLIENT, 0, 200_000);
    pair.flush();
    let (una, nxt) = (pair.end(CLIENT).snd.una, pair.end(CLIENT).snd.nxt);
    let mut reduced = None;
    for n in 1..=10u32 {
        let mut echo = pair.forged(CLIENT);
        echo.flags |= Flags::ECE;
        echo.window = 60_000;
        echo.ack = una.add(n * nxt.distance_from(una) / 10);
        pair.inject(CLIENT, echo);
        let cwnd = pair.end(CLIENT).info().cwnd;
        assert_eq!(*reduced.get_or_insert(cwnd), cwnd);
    }
}
