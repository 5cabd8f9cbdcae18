//! Giving up: user timeout (RFC 5482), keepalive (RFC 9293 section 3.8.4), and not giving up.

use alloc::boxed::Box;

use super::super::testing::*;
use super::super::*;
use crate::time::Duration;

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn set(pair: &mut Pair, end: usize, options: SocketOptions) {
    let now = pair.now;
    pair.end(end).set_options(now, options);
}

fn with_timeout(limit: Duration) -> SocketOptions {
    SocketOptions {
        user_timeout: Some(limit),
        ..SocketOptions::default()
    }
}

#[test]
fn octets_unacknowledged_for_the_user_timeout_end_the_connection_then() {
    let mut pair = Pair::open();
    set(&mut pair, CLIENT, with_timeout(secs(20)));
    pair.send(CLIENT, 0, 1000);
    pair.run_for(secs(60));
    assert_eq!(pair.state(CLIENT), State::Established);
    pair.filter = Some(Box::new(|_| true));
    pair.send(CLIENT, 1000, 1000);
    pair.run_for(Duration::from_millis(19_500));
    assert_eq!(pair.state(CLIENT), State::Established);
    pair.run_for(secs(1));
    assert_eq!(pair.end(CLIENT).error(), Some(ConnectionError::TimedOut));
}

#[test]
fn a_peer_that_talks_but_never_acknowledges_is_given_up_too() {
    let mut pair = Pair::open();
    set(&mut pair, CLIENT, with_timeout(secs(20)));
    pair.filter = Some(Box::new(|sent| {
        sent.from == CLIENT && !sent.segment.payload.is_empty()
    }));
    pair.send(CLIENT, 0, 1000);
    for n in 0..25 {
        if pair.end(CLIENT).is_closed() {
            break;
        }
        pair.send(SERVER, n * 100, 100);
        pair.run_for(secs(1));
    }
    assert_eq!(pair.end(CLIENT).error(), Some(ConnectionError::TimedOut));
}

#[test]
fn a_closed_window_is_not_a_dead_peer() {
    let mut pair = Pair::open();
    set(&mut pair, CLIENT, with_timeout(secs(20)));
    pair.ends[SERVER].reading = false;
    pair.send(CLIENT, 0, 600_000);
    pair.run_for(secs(3_600));
    assert_eq!(pair.state(CLIENT), State::Established);
    pair.filter = Some(Box::new(|_| true));
    pair.run_for(secs(200));
    assert_eq!(pair.end(CLIENT).error(), Some(ConnectionError::TimedOut));
}

#[test]
fn the_user_timeout_is_told_and_followed_where_both_want_to() {
    let exchange = SocketOptions {
        exchange_user_timeout: true,
        ..SocketOptions::default()
    };
    let config = |socket| TcpConfig {
        socket,
        ..TcpConfig::default()
    };
    let client = SocketOptions {
        user_timeout: Some(secs(40_000)),
        ..exchange
    };
    let mut pair = Pair::with(2, config(client), config(exchange), Link::default());
    pair.establish();
    pair.run_for(secs(1));
    // More than 15 bits of seconds: minutes.
    let told = Some(0x8000 | 667);
    assert_eq!(pair.log[0].segment.options.user_timeout, told);
    assert_eq!(
        pair.end(SERVER).user_timeout(),
        Some(secs(3_600)),
        "bounded"
    );
    let plain = Pair::open();
    assert!(
        plain
            .log
            .iter()
            .all(|sent| sent.segment.options.user_timeout.is_none())
    );
    let hasty = SocketOptions {
        user_timeout: Some(secs(10)),
        ..exchange
    };
    let mut impatient = Pair::with(2, config(hasty), config(exchange), Link::default());
    impatient.establish();
    impatient.run_for(secs(1));
    let followed = impatient.end(SERVER).user_timeout();
    assert_eq!(followed, Some(secs(100)), "bounded");
    // What was agreed on later is told with the next segment, and survives a move.
    set(
        &mut pair,
        CLIENT,
        SocketOptions {
            user_timeout: Some(secs(150)),
            ..exchange
        },
    );
    pair.send(CLIENT, 0, 10);
    pair.run_for(secs(1));
    super::moves::move_end(&mut pair, SERVER);
    assert_eq!(pair.end(SERVER).user_timeout(), Some(secs(150)));
}

/// RFC 9293 section 3.8.4 (MUST-25): what is in flight finds out by itself whether the peer is there.
#[test]
fn keepalive_asks_nothing_while_octets_are_in_flight() {
    let mut pair = Pair::open();
    pair.run_for(secs(1));
    let options = SocketOptions {
        keepalive: Some(Keepalive {
            idle: secs(1),
            interval: secs(1),
            probes: 2,
        }),
        ..SocketOptions::default()
    };
    set(&mut pair, CLIENT, options);
    pair.filter = Some(Box::new(|_| true));
    pair.send(CLIENT, 0, 100);
    let before = pair.log.len();
    pair.run_for(secs(20));
    let sent = pair.sent(CLIENT, before);
    assert!(sent.len() > 4);
    assert!(sent.iter().all(|segment| !segment.payload.is_empty()));
    assert_eq!(pair.state(CLIENT), State::Established);
}

#[test]
fn keepalive_goes_on_where_it_was_after_a_move() {
    let mut pair = Pair::open();
    let options = SocketOptions {
        keepalive: Some(Keepalive {
            idle: secs(10),
            interval: secs(2),
            probes: 3,
        }),
        ..SocketOptions::default()
    };
    set(&mut pair, SERVER, options);
    pair.filter = Some(Box::new(|_| true));
    pair.run_for(secs(13));
    let before = pair.log.len();
    assert_eq!(before, 3 + 2, "two probes so far");
    super::moves::move_end(&mut pair, SERVER);
    pair.run_for(Duration::from_millis(2_500));
    assert_eq!(pair.log.len(), before + 1);
    assert_eq!(pair.state(SERVER), State::Established);
    pair.run_for(secs(2));
    assert_eq!(pair.end(SERVER).error(), Some(ConnectionError::TimedOut));
}

#[test]
fn an_attempt_to_open_ends_by_its_own_limit_or_the_user_timeout() {
    let attempt = |retransmits, user_timeout| {
        let config = TcpConfig {
            max_syn_retransmits: retransmits,
            socket: SocketOptions {
                user_timeout,
                ..SocketOptions::default()
            },
            ..TcpConfig::default()
        };
        let mut pair = Pair::with(2, config.clone(), config, Link::default());
        pair.filter = Some(Box::new(|_| true));
        pair.connect();
        let begun = pair.now;
        pair.run_until(secs(300), |pair| pair.state(CLIENT) == State::Closed);
        assert_eq!(pair.end(CLIENT).error(), Some(ConnectionError::TimedOut));
        (pair.log.len(), pair.now.since(begun).as_secs())
    };
    assert_eq!(attempt(2, None), (3, 1 + 2 + 4));
    assert_eq!(attempt(5, Some(secs(5))), (3, 5));
}

/// RFC 5482 section 4.2: with a user timeout it is time that counts, not how often was asked.
#[test]
fn with_a_user_timeout_keepalive_waits_for_that() {
    let mut pair = Pair::open();
    let options = SocketOptions {
        keepalive: Some(Keepalive {
            idle: secs(10),
            interval: secs(2),
            probes: 3,
        }),
        user_timeout: Some(secs(60)),
        ..SocketOptions::default()
    };
    set(&mut pair, SERVER, options);
    pair.run_for(secs(600));
    assert_eq!(pair.state(SERVER), State::Established, "it is answered");
    let heard = pair.end(SERVER).heard_at;
    pair.filter = Some(Box::new(|_| true));
    let left = secs(59).saturating_sub(pair.now.since(heard));
    pair.run_for(left);
    assert_eq!(pair.state(SERVER), State::Established);
    pair.run_for(secs(4));
    assert_eq!(pair.end(SERVER).error(), Some(ConnectionError::TimedOut));
    let reset = pair.log.last().unwrap();
    assert!(reset.segment.flags.rst(), "the peer may be there after all");
}

/// RFC 6691 section 2: the option takes its room from its segment's octets.
#[test]
fn a_segment_that_tells_the_user_timeout_is_no_longer_than_others_and_goes_alone() {
    let mut config = TcpConfig::default();
    config.socket.exchange_user_timeout = true;
    let mut pair = Pair::with(1, config.clone(), config, Link::default());
    pair.establish();
    pair.run_for(secs(1));
    let options = *pair.end(SERVER).options();
    set(&mut pair, SERVER, options);
    pair.send(SERVER, 0, 20_000);
    let now = pair.now;
    let mss = usize::from(pair.end(SERVER).mss());
    let first = pair.end(SERVER).poll_transmit(now, 60_000).unwrap();
    assert!(first.options.user_timeout.is_some());
    assert_eq!(first.payload_len(), mss - 4);
    let second = pair.end(SERVER).poll_transmit(now, 60_000).unwrap();
    assert_eq!(second.options.user_timeout, None, "told once");
    assert_eq!(second.payload_len() % mss, 0);
}

/// RFC 9293 section 3.8.6.1 (MUST-37): a peer that answers probes is not given up, though one of them is lost and
/// octets got on long before.
#[test]
fn at_a_closed_window_the_user_timeout_counts_from_when_the_peer_was_heard() {
    let mut pair = Pair::open();
    set(&mut pair, CLIENT, with_timeout(secs(200)));
    pair.ends[SERVER].reading = false;
    pair.send(CLIENT, 0, 600_000);
    pair.run_for(secs(600));
    assert!(pair.now.since(pair.end(CLIENT).progress_at) > secs(500));
    // Two probes, a minute apart, are lost.
    let heard = pair.end(CLIENT).heard_at;
    pair.filter = Some(Box::new(|_| true));
    pair.run_until(secs(400), |pair| pair.end(CLIENT).attempts == 2);
    assert!(pair.now.since(heard) < secs(200));
    pair.run_for(Duration::from_millis(100));
    assert_eq!(pair.state(CLIENT), State::Established);
    pair.filter = None;
    pair.run_for(secs(600));
    assert_eq!(pair.state(CLIENT), State::Established);
}
