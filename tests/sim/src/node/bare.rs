//! A node without sessions and channel: the stack alone, with the script on its connections.
//!
//! A move is a function call from one stack to the other. That isolates TCP's export and import from
//! everything around them: what fails here is TCP's fault.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use godwit_netstack::Instant;
use godwit_netstack::stack::{
    ConnId, Interface, MacAddr, Route, RxFrame, Scope, Stack, StackConfig, StackEvent,
};
use godwit_netstack::tcp::{Connection, ConnectionState, TcpConfig};

use super::{SCRIPT_PORT, on_the_wire};
use crate::script::Script;
use crate::world::Party;

/// A stack with the script service.
pub struct Bare {
    mac: MacAddr,
    tcp: TcpConfig,
    mtu: u16,
    stack: Stack,
    scripts: BTreeMap<ConnId, Script>,
    out: VecDeque<Bytes>,
    /// Sessions that ended because the client made no sense.
    pub malformed: u64,
}

/// A connection between two stacks.
pub struct Luggage {
    state: ConnectionState,
    next_hop: Option<MacAddr>,
    script: Script,
}

impl Bare {
    /// A stack; `ingress` answers for the virtual addresses.
    pub fn new(config: StackConfig, ingress: bool, seed: [u8; 32], now: Instant) -> Bare {
        let (mac, mtu, tcp) = (config.mac, config.mtu, config.tcp.clone());
        let mut stack = Stack::new(config, seed, now);
        stack.listen(SCRIPT_PORT, Scope::Service);
        stack.set_ingress(now, ingress);
        Bare {
            mac,
            tcp,
            mtu,
            stack,
            scripts: BTreeMap::new(),
            out: VecDeque::new(),
            malformed: 0,
        }
    }

    /// Resolve a peer's address, as a channel to it would have: by a connection it refuses.
    pub fn greet(&mut self, now: Instant, peer: IpAddr) {
        let _ = self.stack.connect(now, None, SocketAddr::new(peer, 1));
    }

    /// The connections here.
    pub fn connections(&self) -> impl Iterator<Item = ConnId> {
        self.scripts.keys().copied()
    }

    /// A connection.
    pub fn connection(&self, conn: ConnId) -> Option<&Connection> {
        self.stack.connection(conn)
    }

    /// Take a connection out; its frames go on to `to`.
    pub fn take(&mut self, now: Instant, conn: ConnId, to: IpAddr) -> Option<Luggage> {
        let script = self.scripts.remove(&conn)?;
        let (connection, next_hop) = self.stack.detach(now, conn, Route::Forward(to))?;
        Some(Luggage {
            state: connection.export(now),
            next_hop,
            script,
        })
    }

    /// Put a connection in.
    ///
    /// # Panics
    /// If it does not go in.
    pub fn put(&mut self, now: Instant, luggage: Luggage) {
        let connection =
            Connection::import(luggage.state, now, &self.tcp, self.mtu).expect("import");
        let Ok(conn) = self.stack.attach(now, connection, luggage.next_hop) else {
            panic!("attach");
        };
        self.scripts.insert(conn, luggage.script);
        self.advance(now, conn);
    }

    fn advance(&mut self, now: Instant, conn: ConnId) {
        const SEND_BUFFER: usize = 256 * 1024;
        loop {
            let Some(script) = self.scripts.get_mut(&conn) else {
                return;
            };
            let Some(connection) = self.stack.connection(conn) else {
                return;
            };
            let input = connection.receive_peek(0).unwrap_or_default();
            let end = input.is_empty() && connection.receive_finished();
            let room = SEND_BUFFER.saturating_sub(connection.send_queued());
            let step = script.step(&input, end, room);
            if step.malformed || step.abort {
                self.malformed += u64::from(step.malformed);
                self.stack
                    .update(now, conn, |connection| connection.abort(now));
                self.scripts.remove(&conn);
                return;
            }
            if step.is_idle() {
                return;
            }
            self.stack.update(now, conn, |connection| {
                connection.receive_consume(now, step.consumed);
                if !step.output.is_empty() {
                    let _ = connection.send(now, step.output);
                }
                if step.shutdown {
                    connection.close(now);
                }
            });
        }
    }

    fn turn(&mut self, now: Instant) {
        while let Some(event) = self.stack.poll_event() {
            match event {
                StackEvent::Accepted { conn, .. } => {
                    self.scripts.insert(conn, Script::default());
                    self.advance(now, conn);
                }
                StackEvent::Updated(conn) => self.advance(now, conn),
                StackEvent::Gone { conn, .. } => {
                    self.scripts.remove(&conn);
                }
                _ => {}
            }
        }
    }
}

impl Party for Bare {
    fn mac(&self) -> MacAddr {
        self.mac
    }

    fn is_server(&self) -> bool {
        true
    }

    fn handle_frame(&mut self, now: Instant, _interface: Interface, frame: &Bytes) {
        self.stack.handle_frame(now, RxFrame::new(frame.clone()));
        self.turn(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.stack.handle_timeout(now);
        self.turn(now);
    }

    fn poll_transmit(&mut self, now: Instant) -> Option<(Interface, Bytes)> {
        if self.out.is_empty()
            && let Some(frame) = self.stack.poll_transmit(now)
        {
            self.out.extend(on_the_wire(&frame));
        }
        let frame = self.out.pop_front()?;
        Some((Interface::Service, frame))
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.stack.poll_timeout()
    }
}
