//! Connections that move, at any step and in any state, as if nothing had happened. That TSval
//! never runs backwards and the right edge never moves back is checked of every segment
//! ([`Pair`]'s `check`).

use alloc::boxed::Box;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::super::export::*;
use super::super::testing::*;
use super::super::*;
use crate::time::{Duration, Instant};

/// A clock that has nothing to do with the one before.
fn other_clock(random: &mut Random) -> Instant {
    Instant::from_nanos(random.below(1 << 50))
}

/// Through the description and the bytes of its header.
fn travel(
    connection: Connection,
    left: Instant,
    arrived: Instant,
    config: &TcpConfig,
) -> Connection {
    let ConnectionState { header, queues } = connection.export(left);
    let bytes = postcard::to_allocvec(&header).unwrap();
    let header: ConnectionHeader = postcard::from_bytes(&bytes).unwrap();
    Connection::import(ConnectionState { header, queues }, arrived, config, 1500).unwrap()
}

/// Move `end` to a machine with another clock, and (as the pair has but one clock) back again.
pub(super) fn move_end(pair: &mut Pair, end: usize) {
    let there = other_clock(&mut pair.random);
    let now = pair.now;
    let config = pair.ends[end].config.clone();
    let connection = pair.ends[end].connection.take().unwrap();
    let connection = travel(connection, now, there, &config);
    let connection = travel(connection, there, now, &config);
    pair.ends[end].connection = Some(connection);
}

fn movable(pair: &Pair, end: usize) -> bool {
    pair.ends[end]
        .connection
        .as_ref()
        .is_some_and(|connection| connection.state().is_synchronized())
}

/// Exchange `len` octets each way, moving either end with probability `moves` per mille at each
/// step.
fn exchange_moving(seed: u64, link: Link, len: usize, moves: u32, config: TcpConfig) -> Pair {
    let mut pair = Pair::with(seed, config.clone(), config, link);
    let mut marks = Random::new(seed ^ 0x1234);
    pair.mark = Some(Box::new(move |_| marks.per_mille(20)));
    pair.establish();
    let mut sent = [0usize; 2];
    let mut stalled = Random::new(seed ^ 0xabcd);
    for _ in 0..200_000 {
        for end in [CLIENT, SERVER] {
            if sent[end] < len && pair.end(end).send_queued() < 20_000 {
                let piece = 1 + pair.random.below(9_000) as usize;
                let piece = piece.min(len - sent[end]);
                pair.send(end, sent[end] as u64, piece);
                sent[end] += piece;
                if sent[end] == len {
                    pair.close(end);
                }
            }
            pair.ends[end].reading = !stalled.per_mille(300);
            if movable(&pair, end) && pair.random.per_mille(moves) {
                move_end(&mut pair, end);
            }
        }
        if !pair.step() {
            break;
        }
        let done = pair.ends.iter().all(|end| {
            end.received.len() == len
                && end.connection.as_ref().unwrap().receive_finished()
                && end.connection.as_ref().unwrap().send_finished()
        });
        if done {
            break;
        }
    }
    for end in [CLIENT, SERVER] {
        pair.ends[end].reading = true;
        pair.read(end);
    }
    pair.check_received(CLIENT, len);
    pair.check_received(SERVER, len);
    pair
}

#[test]
fn a_move_at_every_step_over_a_clean_link_retransmits_nothing() {
    let mut pair = exchange_moving(5, Link::default(), 300_000, 1000, TcpConfig::default());
    for end in [CLIENT, SERVER] {
        let info = pair.end(end).info();
        assert!(info.counters.moves > 50, "{}", info.counters.moves);
        assert_eq!(info.counters.retransmits, 0);
        assert_eq!(info.counters.timeouts, 0);
        assert_eq!(info.counters.probes, 0);
        assert_eq!(info.counters.challenges, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn streams_are_exact_whatever_the_link_and_the_moves(
        seed in any::<u64>(),
        loss in 0u32..60,
        duplicate in 0u32..40,
        jitter in 0u64..8_000,
        buffer in 3_000u32..200_000,
        moves in 0u32..300,
        sack in any::<bool>(),
        reno in any::<bool>(),
    ) {
        let link = Link {
            delay: Duration::from_millis(3),
            jitter: Duration::from_micros(jitter),
            loss,
            duplicate,
            rate: 0,
        };
        let config = TcpConfig {
            receive_buffer: buffer,
            sack,
            timestamps: seed % 5 != 0,
            socket: SocketOptions {
                ecn: match seed % 3 {
                    0 => EcnMode::Request,
                    _ => EcnMode::Accept,
                },
                ..SocketOptions::default()
            },
            congestion: match reno {
                true => CongestionAlgorithm::NewReno,
                false => CongestionAlgorithm::Cubic,
            },
            ..TcpConfig::default()
        };
        exchange_moving(seed, link, 60_000, moves, config);
    }
}

/// Bring a pair into each state ESTABLISHED to TIME-WAIT (of the client), with octets on their way.
fn pair_in(state: State) -> Option<Pair> {
    let mut pair = Pair::open();
    pair.send(CLIENT, 0, 5_000);
    pair.send(SERVER, 0, 5_000);
    match state {
        State::Established => pair.step(),
        State::FinWait1 => {
            pair.close(CLIENT);
            pair.step()
        }
        State::FinWait2 => {
            pair.close(CLIENT);
            pair.run_until(Duration::from_secs(1), |pair| {
                pair.state(CLIENT) == State::FinWait2
            });
            true
        }
        State::CloseWait => {
            pair.close(SERVER);
            pair.run_until(Duration::from_secs(1), |pair| {
                pair.state(CLIENT) == State::CloseWait
            });
            true
        }
        State::Closing => {
            pair.close(CLIENT);
            pair.close(SERVER);
            pair.run_until(Duration::from_secs(1), |pair| {
                pair.state(CLIENT) == State::Closing
            });
            true
        }
        State::LastAck => {
            pair.close(SERVER);
            pair.run_until(Duration::from_secs(1), |pair| {
                pair.state(CLIENT) == State::CloseWait
            });
            pair.close(CLIENT);
            pair.step()
        }
        State::TimeWait => {
            pair.close(CLIENT);
            pair.run_until(Duration::from_secs(1), |pair| {
                pair.state(CLIENT) == State::FinWait2
            });
            pair.close(SERVER);
            pair.run_until(Duration::from_secs(1), |pair| {
                pair.state(CLIENT) == State::TimeWait
            });
            true
        }
        _ => return None,
    };
    assert_eq!(pair.state(CLIENT), state);
    Some(pair)
}

const MOVABLE: [State; 7] = [
    State::Established,
    State::FinWait1,
    State::FinWait2,
    State::CloseWait,
    State::Closing,
    State::LastAck,
    State::TimeWait,
];

#[test]
fn a_connection_moves_in_every_synchronized_state() {
    for state in MOVABLE {
        for loss in [0, 100] {
            let mut pair = pair_in(state).unwrap();
            pair.link.loss = loss;
            for end in [CLIENT, SERVER] {
                if movable(&pair, end) {
                    move_end(&mut pair, end);
                }
            }
            assert_eq!(pair.state(CLIENT), state, "state survives");
            let before = pair.log.len();
            for end in [CLIENT, SERVER] {
                pair.close(end);
            }
            pair.run_for(Duration::from_secs(300));
            for end in [CLIENT, SERVER] {
                pair.check_received(end, 5_000);
                assert_eq!(pair.end(end).error(), None);
                assert!(pair.end(end).is_closed(), "{state:?} ends");
            }
            if loss == 0 {
                let fins = |end| {
                    pair.sent(end, before)
                        .iter()
                        .filter(|segment| segment.flags.fin())
                        .count()
                };
                let acknowledged = matches!(state, State::FinWait2 | State::TimeWait);
                assert!(fins(CLIENT) <= 1, "{state:?}");
                if acknowledged {
                    assert_eq!(fins(CLIENT), 0, "{state:?}: FIN was acknowledged already");
                }
            }
        }
    }
}

#[test]
fn a_lost_fin_is_sent_again_by_the_next_owner() {
    for state in [State::FinWait1, State::Closing, State::LastAck] {
        let mut pair = match state {
            State::FinWait1 => Pair::open(),
            _ => pair_in(State::CloseWait).unwrap(),
        };
        pair.run_for(Duration::from_secs(2));
        pair.filter = Some(Box::new(|sent| {
            sent.from == CLIENT && sent.segment.flags.fin()
        }));
        pair.close(CLIENT);
        pair.flush();
        pair.filter = None;
        move_end(&mut pair, CLIENT);
        let before = pair.log.len();
        pair.run_for(Duration::from_millis(900));
        let again = pair
            .sent(CLIENT, before)
            .iter()
            .filter(|segment| segment.flags.fin())
            .count();
        assert_eq!(again, 1);
        assert!(pair.end(SERVER).receive_finished());
    }
}

#[test]
fn the_time_out_is_armed_after_the_import_and_estimates_survive() {
    let mut pair = Pair::open();
    pair.send(CLIENT, 0, 100_000);
    pair.run_for(Duration::from_secs(1));
    pair.filter = Some(Box::new(|_| true));
    pair.send(CLIENT, 100_000, 3_000);
    pair.flush();
    let before = pair.end(CLIENT).info();
    move_end(&mut pair, CLIENT);
    let after = pair.end(CLIENT).info();
    assert_eq!(before.cwnd, after.cwnd);
    assert_eq!(before.ssthresh, after.ssthresh);
    assert_eq!(before.srtt, after.srtt);
    assert_eq!(before.rto, after.rto);
    assert_eq!(before.in_flight, after.in_flight);
    // The peer stays silent: what was lost must be repaired all the same.
    let log = pair.log.len();
    pair.run_for(after.rto * 2);
    assert!(
        !pair.sent(CLIENT, log).is_empty(),
        "nothing would ever move"
    );
    pair.filter = None;
    pair.run_for(Duration::from_secs(5));
    pair.check_received(SERVER, 103_000);
}

#[test]
fn an_acknowledgement_owed_is_sent_by_the_target() {
    let mut pair = Pair::open();
    // Past the quick acknowledgements, so that one is delayed.
    for n in 0..40 {
        pair.send(CLIENT, n * 100, 100);
        pair.run_for(Duration::from_millis(100));
    }
    pair.send(CLIENT, 4_000, 100);
    pair.flush();
    pair.run_for(Duration::from_millis(11));
    assert_eq!(pair.end(CLIENT).send_unacked(), 100, "the ACK waits");
    move_end(&mut pair, SERVER);
    pair.run_for(Duration::from_millis(60));
    assert_eq!(pair.end(CLIENT).send_unacked(), 0);
    assert_eq!(pair.end(CLIENT).info().counters.retransmits, 0);
}

#[test]
fn a_window_update_owed_is_sent_by_the_target() {
    let config = TcpConfig {
        receive_buffer: 6 * 1448,
        max_receive_buffer: 6 * 1448,
        ..TcpConfig::default()
    };
    let mut pair = Pair::with(9, config.clone(), config, Link::default());
    pair.establish();
    pair.ends[SERVER].reading = false;
    pair.send(CLIENT, 0, 30_000);
    pair.run_for(Duration::from_millis(100));
    assert_eq!(pair.end(CLIENT).info().snd_wnd, 0);
    let now = pair.now;
    let available = pair.end(SERVER).receive_available();
    assert!(available >= 8_000);
    while let Some(piece) = pair.end(SERVER).receive_peek(0) {
        pair.ends[SERVER].received.extend_from_slice(&piece);
        pair.end(SERVER).receive_consume(now, piece.len());
    }
    move_end(&mut pair, SERVER);
    pair.run_for(Duration::from_millis(15));
    assert!(
        pair.end(CLIENT).info().snd_wnd > 0,
        "the client never hears of the room"
    );
}

#[test]
fn persist_goes_on_after_a_move() {
    let config = TcpConfig {
        receive_buffer: 8_000,
        max_receive_buffer: 8_000,
        ..TcpConfig::default()
    };
    let mut pair = Pair::with(9, config.clone(), config, Link::default());
    pair.establish();
    pair.ends[SERVER].reading = false;
    pair.send(CLIENT, 0, 30_000);
    pair.run_for(Duration::from_millis(100));
    move_end(&mut pair, CLIENT);
    // Every window update is lost: only a probe brings the window back.
    pair.filter = Some(Box::new(|sent| sent.from == SERVER));
    pair.ends[SERVER].reading = true;
    pair.run_for(Duration::from_millis(50));
    pair.filter = None;
    pair.run_for(Duration::from_secs(5));
    pair.check_received(SERVER, 30_000);
}

#[test]
fn time_wait_lasts_as_long_as_it_would_have() {
    let mut pair = pair_in(State::TimeWait).unwrap();
    pair.run_for(Duration::from_secs(40));
    move_end(&mut pair, CLIENT);
    pair.run_for(Duration::from_secs(15));
    assert_eq!(pair.state(CLIENT), State::TimeWait);
    pair.run_for(Duration::from_secs(10));
    assert_eq!(pair.state(CLIENT), State::Closed);
}

#[test]
fn a_target_that_cannot_hold_the_window_refuses() {
    let mut pair = Pair::open();
    pair.send(CLIENT, 0, 10_000);
    pair.run_for(Duration::from_secs(1));
    let now = pair.now;
    let small = TcpConfig {
        receive_buffer: 10_000,
        max_receive_buffer: 10_000,
        ..TcpConfig::default()
    };
    let description = pair.end(SERVER).clone().export(now);
    assert_eq!(
        Connection::import(description.clone(), now, &small, 1500).err(),
        Some(ImportError::WindowTooLarge)
    );
    let smaller_link = Connection::import(description, now, &TcpConfig::default(), 1400).unwrap();
    assert_eq!(smaller_link.mss(), 1400 - 52);
}

#[test]
fn a_smaller_link_cuts_retransmissions_anew() {
    let mut pair = Pair::open();
    pair.run_for(Duration::from_secs(1));
    pair.filter = Some(Box::new(|sent| sent.from == CLIENT));
    pair.send(CLIENT, 0, 8_000);
    pair.flush();
    pair.filter = None;
    let now = pair.now;
    let description = pair.ends[CLIENT].connection.take().unwrap().export(now);
    pair.mtu = 1000;
    let config = pair.ends[CLIENT].config.clone();
    pair.ends[CLIENT].connection =
        Some(Connection::import(description, now, &config, 1000).unwrap());
    pair.run_for(Duration::from_secs(5));
    pair.check_received(SERVER, 8_000);
}

/// Descriptions that lie are refused, and those that pass do no harm.
#[test]
fn damaged_descriptions_never_panic() {
    let mut pair = Pair::with(
        77,
        TcpConfig::default(),
        TcpConfig::default(),
        Link {
            loss: 100,
            jitter: Duration::from_millis(5),
            ..Link::default()
        },
    );
    pair.establish();
    pair.send(CLIENT, 0, 200_000);
    pair.send(SERVER, 0, 200_000);
    let mut random = Random::new(4);
    let (mut refused, mut taken) = (0, 0);
    for _ in 0..300 {
        pair.step();
        let now = pair.now;
        let description = pair.end(CLIENT).clone().export(now);
        let bytes = postcard::to_allocvec(&description.header).unwrap();
        for _ in 0..40 {
            let mut bytes = bytes.clone();
            for _ in 0..1 + random.below(3) {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] = random.next() as u8;
            }
            let Ok(header) = postcard::from_bytes::<ConnectionHeader>(&bytes) else {
                refused += 1;
                continue;
            };
            let description = ConnectionState {
                header,
                queues: description.queues.clone(),
            };
            let Ok(mut odd) = Connection::import(description, now, &TcpConfig::default(), 1500)
            else {
                refused += 1;
                continue;
            };
            taken += 1;
            let mut segments: Vec<Segment> = pair.sent(SERVER, pair.log.len().saturating_sub(20));
            segments.push(pair.forged(CLIENT));
            let mut now = now;
            for segment in segments {
                odd.handle_segment(now, &segment);
                for _ in 0..20 {
                    if odd.poll_transmit(now, 65_000).is_none() {
                        break;
                    }
                }
                if let Some(at) = odd.poll_timeout() {
                    now = now.max(at);
                    odd.handle_timeout(now);
                }
            }
            let _ = odd.info();
        }
    }
    assert!(refused > 1000 && taken > 1000, "{refused} {taken}");
}

/// Downloads with moves of the sender that take `blackout` each, one every 100 ms.
fn download_moving(seed: u64, link: Link, blackout: Duration) -> Pair {
    let mut pair = Pair::with(seed, TcpConfig::default(), TcpConfig::default(), link);
    pair.establish();
    let len = 3_000_000;
    pair.send(SERVER, 0, len);
    for _ in 0..400 {
        pair.run_for(Duration::from_millis(100));
        if pair.ends[CLIENT].received.len() == len {
            break;
        }
        pair.freeze(SERVER);
        pair.run_for(blackout);
        pair.arrive(SERVER);
    }
    pair.check_received(CLIENT, len);
    pair
}

#[test]
fn a_blackout_causes_no_retransmission() {
    for millis in [1, 5, 20, 60, 150, 400] {
        let link = Link {
            delay: Duration::from_millis(5),
            rate: 2_000_000,
            ..Link::default()
        };
        let mut pair = download_moving(7, link, Duration::from_millis(millis));
        let counters = pair.end(SERVER).info().counters;
        assert!(counters.moves > 10, "{millis} ms: {}", counters.moves);
        assert_eq!(
            (counters.retransmits, counters.timeouts, counters.probes),
            (0, 0, 0),
            "{millis} ms"
        );
    }
}

#[test]
fn moves_under_loss_cause_no_time_outs() {
    let mut timeouts = [0; 2];
    for seed in 0..10 {
        for (slot, millis) in [(0, 0), (1, 30)] {
            let link = Link {
                delay: Duration::from_millis(5),
                loss: 10,
                rate: 2_000_000,
                ..Link::default()
            };
            let mut pair = download_moving(seed, link, Duration::from_millis(millis));
            timeouts[slot] += pair.end(SERVER).info().counters.timeouts;
        }
    }
    assert!(timeouts[1] <= timeouts[0].max(1), "{timeouts:?}");
}

#[test]
fn the_round_trip_is_not_learnt_from_segments_that_moved() {
    let mut pair = Pair::open();
    pair.send(SERVER, 0, 100_000);
    pair.run_for(Duration::from_secs(1));
    let before = pair.end(SERVER).info();
    pair.send(SERVER, 100_000, 10_000);
    pair.flush();
    pair.freeze(SERVER);
    pair.run_for(Duration::from_millis(500));
    pair.arrive(SERVER);
    let after = pair.end(SERVER).info();
    assert_eq!(after.in_flight, 0, "what was held is taken in");
    assert_eq!((before.srtt, before.min_rtt), (after.srtt, after.min_rtt));
}
