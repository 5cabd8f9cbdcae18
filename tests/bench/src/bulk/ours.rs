//! Our side of the bulk rows.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time;

use bytes::Bytes;
use godwit_netstack::Instant;
use godwit_netstack::stack::{
    Cidr, ConnId, DeviceCapabilities, RxFrame, Scope, Stack, StackConfig, StackEvent,
};
use godwit_netstack::tcp::TcpConfig;

use super::link::Pool;
use super::{BUFFER, PIECE, Wire};

/// Two stacks with one connection: the first sends, the second receives.
pub struct Pair {
    started: time::Instant,
    stacks: [Stack; 2],
    conns: [ConnId; 2],
    pools: [Pool; 2],
    ring: usize,
    batch: Vec<RxFrame>,
    data: Bytes,
}

fn stack(host: u8, wire: Wire) -> Stack {
    let config = StackConfig {
        mac: [2, 0, 0, 0, 0, host],
        mtu: wire.mtu,
        capabilities: DeviceCapabilities {
            tx_checksum: wire.offload,
            ..DeviceCapabilities::default()
        },
        addresses: vec![Cidr {
            address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, host)),
            prefix: 24,
        }],
        gateways: Vec::new(),
        dhcp: false,
        vips: Vec::new(),
        instance: None,
        secret: [7; 32],
        tcp: TcpConfig {
            receive_buffer: BUFFER as u32,
            max_receive_buffer: BUFFER as u32,
            send_buffer: BUFFER as u32,
            ..TcpConfig::default()
        },
    };
    Stack::new(config, [host; 32], Instant::ZERO)
}

impl Pair {
    /// Connected and ready to stream.
    pub fn new(wire: Wire) -> Pair {
        let mut stacks = [stack(1, wire), stack(2, wire)];
        stacks[1].listen(9, Scope::Own);
        let to = SocketAddr::from(([10, 0, 0, 2], 9));
        let conn = stacks[0]
            .connect(Instant::ZERO, None, to)
            .expect("a connection");
        let mut pair = Pair {
            started: time::Instant::now(),
            stacks,
            conns: [conn; 2],
            pools: Default::default(),
            ring: wire.ring,
            batch: Vec::with_capacity(wire.ring),
            data: Bytes::from(vec![0x5a; PIECE]),
        };
        loop {
            let now = pair.now();
            pair.carry(now, 1);
            pair.carry(now, 0);
            pair.fire(now);
            while let Some(event) = pair.stacks[1].poll_event() {
                if let StackEvent::Accepted { conn, .. } = event {
                    pair.conns[1] = conn;
                    return pair;
                }
            }
        }
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(self.started.elapsed().as_nanos() as u64)
    }

    fn fire(&mut self, now: Instant) {
        for stack in &mut self.stacks {
            if stack.poll_timeout().is_some_and(|due| due <= now) {
                stack.handle_timeout(now);
            }
        }
    }

    /// Carry at most a ring of what `from` has to send to the other side.
    fn carry(&mut self, now: Instant, from: usize) {
        let [first, second] = &mut self.stacks;
        let (from_stack, to_stack) = match from {
            0 => (first, second),
            _ => (second, first),
        };
        let pool = &mut self.pools[from];
        let frames = &mut self.batch;
        for _ in 0..self.ring {
            let Some(frame) = from_stack.poll_transmit(now) else {
                break;
            };
            pool.push(&frame, frames);
        }
        pool.take(frames);
        to_stack.handle_frames(now, frames.drain(..));
    }

    /// Fill the send queue, carry, consume; the octets that arrived.
    pub fn turn(&mut self) -> usize {
        let now = self.now();
        let (conn, data) = (self.conns[0], &self.data);
        self.stacks[0].update(now, conn, |connection| {
            while connection.send_queued() + PIECE <= BUFFER {
                if connection.send(now, data.clone()).is_err() {
                    break;
                }
            }
        });
        self.carry(now, 0);
        let octets = self.stacks[1].update(now, self.conns[1], |connection| {
            let octets = connection.receive_available();
            connection.receive_consume(now, octets);
            octets
        });
        self.carry(now, 1);
        for stack in &mut self.stacks {
            while stack.poll_event().is_some() {}
        }
        self.fire(now);
        octets.unwrap_or_default()
    }
}
