//! Connections opened from here: ports, and limits.

use super::link::*;
use super::open::EPHEMERAL;
use super::*;
use crate::tcp::State;

const REMOTE: &str = "10.77.0.12:80";

#[test]
fn ports_of_connections_opened_here_differ_and_run_out_with_an_error() {
    let mut stack = host(11);
    stack.tcp.max_connections = 20_000;
    let mut ports = std::collections::BTreeSet::new();
    loop {
        match stack.connect(Instant::ZERO, None, at(REMOTE)) {
            Ok(conn) => assert!(ports.insert(stack.flow(conn).unwrap().local.port())),
            Err(error) => {
                assert_eq!(error, ConnectError::NoPort);
                break;
            }
        }
    }
    assert_eq!(ports.len(), usize::from(EPHEMERAL.1 - EPHEMERAL.0) + 1);
    let far = stack.connect(Instant::ZERO, None, at("[2001:db8::1]:80"));
    assert_eq!(far, Err(ConnectError::NoRoute));
    let ourselves = stack.connect(Instant::ZERO, None, at("10.77.0.11:80"));
    assert_eq!(ourselves, Err(ConnectError::NoRoute));
    let not_ours = stack.connect(Instant::ZERO, Some(ip("10.77.0.50")), at(REMOTE));
    assert_eq!(not_ours, Err(ConnectError::NoAddress));
}

#[test]
fn a_connection_leaves_from_the_port_asked_for_unless_that_is_in_use() {
    let mut stack = host(11);
    let (local, remote) = (at("10.77.0.11:4000"), at(REMOTE));
    let conn = stack.connect_from(Instant::ZERO, local, remote).unwrap();
    assert_eq!(stack.flow(conn).unwrap().local, local);
    let again = stack.connect_from(Instant::ZERO, local, remote);
    assert_eq!(again, Err(ConnectError::NoPort));
    let elsewhere = stack.connect_from(Instant::ZERO, local, at("10.77.0.12:81"));
    assert!(elsewhere.is_ok(), "the same port towards another end");
    let not_ours = stack.connect_from(Instant::ZERO, at("10.77.0.50:4000"), remote);
    assert_eq!(not_ours, Err(ConnectError::NoAddress));
}

/// A client (host 0) whose connection from port 4000 to a server (host 1) it was the first to close.
fn waiting(timestamps: bool, limit: u32) -> (Net, ConnId) {
    let mut config = config(11);
    config.tcp.timestamps = timestamps;
    config.tcp.max_connections = limit;
    let client = Stack::new(config, [1; 32], Instant::ZERO);
    let mut server = host(12);
    server.listen(80, Scope::Service);
    let mut net = Net::new(vec![client, server]);
    let conn = net.hosts[0]
        .connect_from(Instant::ZERO, at("10.77.0.11:4000"), at(REMOTE))
        .unwrap();
    net.run_for(Duration::from_millis(10));
    let accepted = net.accepted(1).unwrap();
    for (host, conn) in [(0, conn), (1, accepted)] {
        let now = net.now;
        net.hosts[host].update(now, conn, |connection| connection.close(now));
        net.run_for(Duration::from_millis(10));
    }
    let state = net.hosts[0].connection(conn).map(|c| c.state());
    assert_eq!(state, Some(State::TimeWait));
    (net, conn)
}

/// RFC 6191 and RFC 1122 section 4.2.2.13, for the one that opens.
#[test]
fn a_port_in_time_wait_is_taken_again_once_timestamps_keep_the_two_apart() {
    let (mut net, old) = waiting(true, 100);
    let again = |net: &mut Net| {
        let now = net.now;
        net.hosts[0].connect_from(now, at("10.77.0.11:4000"), at(REMOTE))
    };
    assert_eq!(again(&mut net), Err(ConnectError::NoPort), "too early");
    net.run_for(Duration::from_secs(1));
    let numbers = net.hosts[0].connection(old).unwrap().info().snd_nxt;
    let conn = again(&mut net).unwrap();
    net.run_for(Duration::from_millis(100));
    assert!(net.hosts[0].connection(old).is_none());
    let info = net.hosts[0].connection(conn).unwrap().info();
    assert_eq!(info.state, State::Established);
    assert!(info.snd_nxt.after(numbers));
    assert_eq!(counter(&net.hosts[0], "time_wait_reopened"), 1);
    let gone = |event: &StackEvent| matches!(event, StackEvent::Gone { conn, .. } if *conn == old);
    assert!(net.events[0].iter().any(gone), "its owner is told");

    let (mut net, _) = waiting(false, 100);
    net.run_for(Duration::from_secs(10));
    assert_eq!(again(&mut net), Err(ConnectError::NoPort));
}

#[test]
fn at_the_limit_one_in_time_wait_makes_way_for_one_opened_here() {
    let (mut net, old) = waiting(true, 1);
    let now = net.now;
    let conn = net.hosts[0].connect(now, None, at(REMOTE)).unwrap();
    assert!(net.hosts[0].connection(old).is_none());
    assert_eq!(counter(&net.hosts[0], "time_wait_evicted"), 1);
    let second = net.hosts[0].connect(now, None, at(REMOTE));
    assert_eq!(second, Err(ConnectError::TooMany), "none of another state");
    assert!(net.hosts[0].connection(conn).is_some());
}

#[test]
fn when_no_port_is_free_the_one_that_was_in_time_wait_for_longest_is_taken() {
    let mut stack = host(11);
    stack.tcp.max_connections = 20_000;
    let mut all = Vec::new();
    while let Ok(conn) = stack.connect(Instant::ZERO, None, at(REMOTE)) {
        all.push(conn);
    }
    for n in [700, 300] {
        let block = stack.table.get_mut(all[n]).unwrap();
        block.connection.state = State::TimeWait;
        let over = Instant::ZERO + Duration::from_secs(60);
        block.connection.timers.linger.set(over);
    }
    let port = stack.flow(all[300]).unwrap().local.port();
    let early = stack.connect(Instant::from_millis(999), None, at(REMOTE));
    assert_eq!(early, Err(ConnectError::NoPort));
    let conn = stack.connect(Instant::from_millis(1_000), None, at(REMOTE));
    assert_eq!(stack.flow(conn.unwrap()).unwrap().local.port(), port);
}

#[test]
fn nothing_is_opened_here_while_memory_is_exhausted_but_a_way_out() {
    let mut config = config(11);
    config.tcp.memory = 1_000;
    let mut stack = Stack::new(config, [1; 32], Instant::ZERO);
    let conn = stack.connect(Instant::ZERO, None, at(REMOTE)).unwrap();
    stack.update(Instant::ZERO, conn, |connection| {
        let data = vec![7; 2_000].into();
        connection.send(Instant::ZERO, data).unwrap();
    });
    let refused = stack.connect(Instant::ZERO, None, at(REMOTE));
    assert_eq!(refused, Err(ConnectError::NoMemory));
    let refused = stack.connect_from(Instant::ZERO, at("10.77.0.11:4000"), at(REMOTE));
    assert_eq!(refused, Err(ConnectError::NoMemory));
    assert!(stack.connect_peer(Instant::ZERO, at(REMOTE)).is_ok());
}
