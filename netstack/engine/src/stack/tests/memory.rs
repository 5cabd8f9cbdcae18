//! Memory of all connections together.

use super::link::*;
use super::*;

#[test]
fn all_queues_count_and_new_connections_wait_when_memory_is_exhausted() {
    let mut config = config(11);
    config.tcp.memory = 100_000;
    let mut server = Stack::new(config, [1; 32], Instant::ZERO);
    server.listen(80, Scope::Service);
    let mut net = Net::new(vec![host(99), server]);
    let there = at("10.77.0.11:80");
    let conn = net.hosts[0].connect(Instant::ZERO, None, there).unwrap();
    net.run_for(Duration::from_millis(10));
    let accepted = net.accepted(1).unwrap();
    let now = net.now;
    net.hosts[0].update(now, conn, |connection| {
        connection.send(now, vec![7; 400_000].into()).unwrap();
    });
    assert_eq!(net.hosts[0].memory(), 400_000);
    net.run_for(Duration::from_millis(500));
    let server = &mut net.hosts[1];
    let held = server.connection(accepted).unwrap().memory();
    assert_eq!(server.memory(), held);
    assert_eq!(server.pressure(), Pressure::Exhausted);
    // In flight when it became exhausted, and no more.
    assert!(held <= 120_000, "{held}");
    assert_eq!(server.send_room(accepted), 1448);

    let second = net.hosts[0].connect(net.now, None, there).unwrap();
    net.run_for(Duration::from_millis(100));
    assert_eq!(counter(&net.hosts[1], "syn_no_memory"), 1);
    // The application reads: memory is free again, and the newcomer's next SYN is answered.
    for _ in 0..100 {
        let now = net.now;
        net.hosts[1].update(now, accepted, |connection| {
            let available = connection.receive_available();
            connection.receive_consume(now, available);
        });
        net.run_for(Duration::from_millis(50));
    }
    assert!(
        net.hosts[0]
            .connection(second)
            .unwrap()
            .state()
            .is_synchronized()
    );
    for host in 0..2 {
        let now = net.now;
        let all: Vec<ConnId> = match host {
            0 => vec![conn, second],
            _ => vec![accepted],
        };
        for id in all {
            net.hosts[host].update(now, id, |connection| connection.abort(now));
        }
    }
    net.run_for(Duration::from_secs(1));
    assert_eq!((net.hosts[0].memory(), net.hosts[1].memory()), (0, 0));
}

/// RFC 6191 section 2. Connections that wait for something else keep their place.
#[test]
fn at_the_limit_of_connections_one_in_time_wait_makes_way_and_no_other_does() {
    let mut config = config(11);
    config.tcp.max_connections = 1;
    let mut server = Stack::new(config, [1; 32], Instant::ZERO);
    server.listen(80, Scope::Service);
    let mut net = Net::new(vec![host(99), server]);
    let there = at("10.77.0.11:80");
    let first = net.hosts[0].connect(Instant::ZERO, None, there).unwrap();
    net.run_for(Duration::from_millis(10));
    let accepted = net.accepted(1).unwrap();
    let second = net.hosts[0].connect(net.now, None, there).unwrap();
    net.run_for(Duration::from_millis(10));
    assert_eq!(net.accepted(1), None);
    assert_eq!(counter(&net.hosts[1], "syn_too_many"), 1);

    // The server closes first, so that TIME-WAIT is its.
    for (host, conn) in [(1, accepted), (0, first)] {
        let now = net.now;
        net.hosts[host].update(now, conn, |connection| connection.close(now));
        net.run_for(Duration::from_millis(10));
    }
    let state = |net: &Net, host: usize, conn| {
        let connection = net.hosts[host].connection(conn);
        connection.map(|connection| connection.state())
    };
    assert_eq!(state(&net, 1, accepted), Some(crate::tcp::State::TimeWait));
    // The SYN comes again.
    net.run_for(Duration::from_secs(2));
    assert_eq!(counter(&net.hosts[1], "time_wait_evicted"), 1);
    assert_eq!(state(&net, 0, second), Some(crate::tcp::State::Established));
    assert_eq!(net.hosts[1].connection_count(), 1);
}

/// Who sent octets out of order and went silent would else keep everyone else out for ever.
#[test]
fn memory_that_silent_peers_hold_out_of_order_is_taken_back() {
    let mut config = config(11);
    config.tcp.memory = 60_000;
    let mut server = Stack::new(config, [1; 32], Instant::ZERO);
    server.listen(80, Scope::Service);
    let mut net = Net::new(vec![host(99), server]);
    let there = at("10.77.0.11:80");
    let silent: Vec<ConnId> = (0..8)
        .map(|_| net.hosts[0].connect(Instant::ZERO, None, there).unwrap())
        .collect();
    net.run_for(Duration::from_millis(10));
    let before: Vec<ConnId> = core::iter::from_fn(|| net.accepted(1)).collect();
    assert_eq!(before.len(), 8);
    for conn in silent {
        // The first segment is lost, and no acknowledgement arrives. Then the peer is gone.
        let mut lost = false;
        net.loss = Box::new(move |sent| sent.from == 1 || !core::mem::replace(&mut lost, true));
        let now = net.now;
        net.hosts[0].update(now, conn, |connection| {
            connection.send(now, vec![7; 14_000].into()).unwrap();
        });
        net.run_for(Duration::from_millis(10));
        net.hosts[0].detach(net.now, conn, Route::Capture);
    }
    net.loss = Box::new(|_| false);
    let reclaimed = counter(&net.hosts[1], "out_of_order_reclaimed");
    assert!(reclaimed > 12_000, "{reclaimed}");
    let second = net.hosts[0].connect(net.now, None, there).unwrap();
    net.run_for(Duration::from_millis(100));
    assert_eq!(counter(&net.hosts[1], "syn_no_memory"), 0);
    let state = net.hosts[0].connection(second).unwrap().state();
    assert!(state.is_synchronized());
    let held: usize = before
        .iter()
        .filter_map(|id| net.hosts[1].connection(*id))
        .map(|connection| connection.memory())
        .sum();
    assert_eq!(net.hosts[1].memory(), held);
}
