//! Buffers that follow the path and the application, and what gives way when memory is short.

use alloc::boxed::Box;

use super::super::testing::*;
use super::super::*;
use crate::time::Duration;

const MIB: usize = 1 << 20;

fn long_path() -> Pair {
    let link = Link {
        delay: Duration::from_millis(50),
        rate: 12_500_000,
        ..Link::default()
    };
    let config = TcpConfig::default();
    let mut pair = Pair::with(5, config.clone(), config, link);
    pair.establish();
    pair
}

#[test]
fn the_receive_buffer_follows_a_fast_reader_and_moves_along() {
    let mut pair = long_path();
    pair.send(CLIENT, 0, 40 * MIB);
    pair.run_until(Duration::from_secs(20), |pair| {
        pair.ends[SERVER].received.len() >= 20 * MIB
    });
    let begun = pair.now;
    let grown = pair.end(SERVER).rcv.buffer;
    assert!(
        grown as usize > 2 * MIB,
        "{grown}: 100 Mbit/s for 100 ms, twice"
    );
    super::moves::move_end(&mut pair, SERVER);
    assert_eq!(pair.end(SERVER).rcv.buffer, grown);
    pair.run_until(Duration::from_secs(20), |pair| {
        pair.ends[SERVER].received.len() >= 40 * MIB
    });
    let rate = 20.0 * MIB as f64 / pair.now.since(begun).as_secs_f64();
    assert!(rate > 0.95 * 12_500_000.0, "{rate} octets/s");
}

#[test]
fn a_reader_that_does_not_read_gets_no_larger_window() {
    let mut pair = long_path();
    pair.ends[SERVER].reading = false;
    pair.send(CLIENT, 0, 2 * MIB);
    pair.run_for(Duration::from_secs(20));
    let held = pair.end(SERVER).receive_available();
    assert!(held <= 300 * 1024, "{held}");
}

#[test]
fn the_send_buffer_follows_the_congestion_window() {
    let mut pair = long_path();
    let config = TcpConfig::default();
    assert_eq!(
        pair.end(CLIENT).send_capacity(&config),
        config.send_buffer as usize
    );
    pair.send(CLIENT, 0, 20 * MIB);
    pair.run_for(Duration::from_secs(3));
    assert!(pair.end(CLIENT).send_capacity(&config) > MIB);
    pair.end(CLIENT).set_pressure(Pressure::Some);
    assert_eq!(
        pair.end(CLIENT).send_capacity(&config),
        config.send_buffer as usize
    );
    pair.end(CLIENT).set_pressure(Pressure::Exhausted);
    assert_eq!(pair.end(CLIENT).send_capacity(&config), 1448);
}

#[test]
fn under_pressure_windows_close_without_moving_back() {
    let mut pair = long_path();
    pair.send(CLIENT, 0, 30 * MIB);
    pair.run_for(Duration::from_secs(2));
    assert!(pair.end(SERVER).rcv.buffer as usize > MIB);
    // That the right edge never moves back is checked of every segment.
    for (pressure, buffer) in [(Pressure::Some, 256), (Pressure::Exhausted, 16)] {
        pair.end(SERVER).set_pressure(pressure);
        pair.run_for(Duration::from_secs(2));
        assert_eq!(pair.end(SERVER).rcv.buffer, buffer * 1024, "{pressure:?}");
    }
    pair.end(SERVER).set_pressure(Pressure::None);
    pair.run_for(Duration::from_secs(10));
    pair.check_received(SERVER, 30 * MIB);
}

#[test]
fn when_memory_is_exhausted_octets_out_of_order_go_first_and_come_again() {
    let mut pair = Pair::open();
    pair.run_for(Duration::from_secs(1));
    let mut count = 0;
    pair.filter = Some(Box::new(move |sent| {
        count += u32::from(sent.from == CLIENT);
        sent.from == CLIENT && count == 2
    }));
    pair.send(CLIENT, 0, 30_000);
    pair.run_for(Duration::from_millis(15));
    assert!(pair.end(SERVER).info().out_of_order > 0);
    pair.end(SERVER).set_pressure(Pressure::Exhausted);
    let late = Segment {
        payload: pattern(29_000, 100),
        ..{
            let mut segment = pair.forged(SERVER);
            segment.seq = pair.end(SERVER).rcv.nxt.add(20_000);
            segment
        }
    };
    pair.inject(SERVER, late);
    assert_eq!(pair.end(SERVER).info().out_of_order, 0);
    pair.run_for(Duration::from_secs(20));
    pair.check_received(SERVER, 30_000);
}

#[test]
fn when_memory_is_exhausted_unread_octets_are_bounded() {
    let mut pair = Pair::open();
    pair.ends[SERVER].reading = false;
    pair.end(SERVER).set_pressure(Pressure::Exhausted);
    pair.send(CLIENT, 0, 200_000);
    pair.run_for(Duration::from_secs(2));
    let held = pair.end(SERVER).receive_available();
    assert!((10_000..=20_000).contains(&held), "{held}");
    pair.end(SERVER).set_pressure(Pressure::None);
    pair.ends[SERVER].reading = true;
    pair.run_for(Duration::from_secs(60));
    pair.check_received(SERVER, 200_000);
}

#[test]
fn a_window_that_stays_closed_is_not_borne_with_when_memory_is_exhausted() {
    let mut pair = Pair::open();
    pair.ends[SERVER].reading = false;
    pair.send(CLIENT, 0, 600_000);
    pair.run_for(Duration::from_secs(3_600));
    assert_eq!(pair.state(CLIENT), State::Established, "probed for ever");
    pair.end(CLIENT).set_pressure(Pressure::Exhausted);
    pair.run_for(Duration::from_secs(70));
    assert_eq!(pair.end(CLIENT).error(), Some(ConnectionError::TimedOut));
}

/// How long the window has been closed goes along: else who moves often would be borne with for ever.
#[test]
fn the_patience_with_a_closed_window_does_not_begin_anew_with_each_owner() {
    let mut pair = Pair::open();
    pair.ends[SERVER].reading = false;
    pair.send(CLIENT, 0, 600_000);
    pair.run_for(Duration::from_secs(10));
    assert_eq!(pair.end(CLIENT).info().snd_wnd, 0);
    for _ in 0..13 {
        pair.end(CLIENT).set_pressure(Pressure::Exhausted);
        pair.run_for(Duration::from_secs(10));
        if pair.end(CLIENT).is_closed() {
            break;
        }
        super::moves::move_end(&mut pair, CLIENT);
    }
    assert_eq!(pair.end(CLIENT).error(), Some(ConnectionError::TimedOut));
}
