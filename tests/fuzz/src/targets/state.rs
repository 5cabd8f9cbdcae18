//! Capsules from a member that holds the key: decoded, imported, and served on.
//!
//! Input: a capsule of version 1 from its header's length on; version and check sum are put before
//! it, so that a fuzzer gets past them.

use bytes::Bytes;
use godwit_netstack::migrate::capsule::{Capsule, CapsuleConnection, v1};
use godwit_netstack::migrate::rope::Rope;
use godwit_netstack::session::SessionId;
use godwit_netstack::stack::{Route, Stack};
use godwit_netstack::tcp::{Connection, TcpConfig};
use godwit_netstack::{Duration, Instant};

use crate::Target;
use crate::link::{Pair, SERVER, stack, transmit};

pub(crate) const TARGET: Target = Target {
    name: "state",
    run,
    seeds,
};

fn run(input: &[u8]) {
    let mut octets = vec![v1::VERSION];
    octets.extend(v1::check_sum(input).to_le_bytes());
    octets.extend_from_slice(input);
    let Ok(capsule) = Capsule::decode(Rope::from(octets)) else {
        return;
    };
    let now = Instant::from_millis(50_000);
    let mut stack = stack(SERVER, now);
    for connection in capsule.connections {
        let imported = Connection::import(connection.tcp, now, &TcpConfig::default(), 1500);
        if let Ok(tcp) = imported
            && let Ok(conn) = stack.attach(now, tcp, connection.next_hop)
        {
            serve(&mut stack, now, conn);
        }
    }
}

/// Let the connection go on for a while; then it can be described again.
fn serve(stack: &mut Stack, mut now: Instant, conn: godwit_netstack::stack::ConnId) {
    Pair::send(stack, now, conn, 3_000);
    for round in 0..200 {
        transmit(stack, now);
        while stack.poll_event().is_some() {}
        stack.update(now, conn, |tcp| {
            let available = tcp.receive_available();
            tcp.receive_consume(now, available);
            if round == 100 {
                tcp.close(now);
            }
        });
        let Some(due) = stack.poll_timeout() else {
            break;
        };
        now = now.max(due) + Duration::from_micros(1);
        stack.handle_timeout(now);
    }
    if let Some((tcp, next_hop)) = stack.detach(now, conn, Route::Hold) {
        let movable = tcp.state().is_synchronized() && tcp.error().is_none();
        let capsule = capsule(next_hop, tcp, now);
        let again = capsule.encode().and_then(Capsule::decode);
        if movable && let Some(connection) = again.ok().and_then(|mut c| c.connections.pop()) {
            let config = TcpConfig::default();
            let imported = Connection::import(connection.tcp, now, &config, 1500);
            assert!(imported.is_ok(), "cannot go on from itself: {imported:?}");
        }
    }
}

fn capsule(next_hop: Option<[u8; 6]>, tcp: Connection, now: Instant) -> Capsule {
    Capsule {
        session: SessionId {
            origin: 1,
            number: 2,
        },
        epoch: 3,
        service: "http".into(),
        state: Some((1, Bytes::from_static(b"state"))),
        finished: false,
        connections: vec![CapsuleConnection {
            next_hop,
            end_read: false,
            shut_down: false,
            ahead: Default::default(),
            tcp: tcp.export(now),
        }],
    }
}

fn seeds() -> Vec<Vec<u8>> {
    capsules()
}

/// Capsules of connections in several states, without version and check sum.
pub(crate) fn capsules() -> Vec<Vec<u8>> {
    type Act = fn(&mut Pair, godwit_netstack::stack::ConnId, godwit_netstack::stack::ConnId);
    let acts: [Act; 5] = [
        |_, _, _| {},
        |pair, _, server| {
            Pair::send(&mut pair.server, pair.now, server, 10_000);
            transmit(&mut pair.server, pair.now);
        },
        |pair, client, _| {
            Pair::send(&mut pair.client, pair.now, client, 3_000);
            pair.run(Duration::from_millis(100));
        },
        |pair, client, _| {
            let now = pair.now;
            pair.client.update(now, client, |tcp| tcp.close(now));
            pair.run(Duration::from_millis(100));
        },
        |pair, _, server| {
            let now = pair.now;
            pair.server.update(now, server, |tcp| tcp.close(now));
            pair.run(Duration::from_millis(100));
        },
    ];
    let mut seeds = Vec::new();
    for ipv6 in [false, true] {
        for act in acts {
            let mut pair = Pair::new();
            let (client, server) = pair.connect(ipv6);
            act(&mut pair, client, server);
            let Some((tcp, hop)) = pair.server.detach(pair.now, server, Route::Hold) else {
                continue;
            };
            let octets = capsule(hop, tcp, pair.now).encode().expect("encodes");
            seeds.push(octets.to_vec().split_off(5));
        }
    }
    seeds
}
