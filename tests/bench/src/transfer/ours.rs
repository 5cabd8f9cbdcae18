//! Our side: one connection that is handed over again and again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use godwit_netstack::cluster::channel::{Channel, Ends};
use godwit_netstack::cluster::keys::Key;
use godwit_netstack::cluster::message::{self, Message, Transfer};
use godwit_netstack::cluster::{BootId, MemberId};
use godwit_netstack::migrate::capsule::{Ahead, Capsule, CapsuleConnection};
use godwit_netstack::migrate::rope::Rope;
use godwit_netstack::session::SessionId;
use godwit_netstack::stack::{MacAddr, Route, StackEvent};
use godwit_netstack::tcp::{Connection, Queue, TcpConfig};

use crate::scale::clients::Crowd;

/// Octets in a piece of the queue, as services write them.
const PIECE: usize = 16 * 1024;
/// What a service like `http` has committed.
const STATE: &[u8] = &[1, 0x80, 0x80, 0x40, 3, 7];
const KEY: [u8; 32] = [7; 32];
const MTU: u16 = 1500;

/// How a session crosses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// As octets, in the clear.
    Plain,
    /// Sealed, all at once.
    Sealed,
    /// Sealed, with what is queued ahead of the freeze.
    Ahead,
}

/// A session of one connection, and the channel it goes through.
pub struct Ours {
    session: Option<(Connection, Option<MacAddr>)>,
    config: TcpConfig,
    source: Channel,
    target: Channel,
    clock: Crowd,
    epoch: u64,
}

impl Ours {
    /// A session whose connection has `queued` octets for a client that does not take them.
    pub fn new(queued: usize) -> Result<Ours> {
        let mut crowd = Crowd::new();
        let now = crowd.now();
        // Some conversation, so that there is something to know of the path.
        for _ in 0..20 {
            let frame = crowd.data(0, 100);
            crowd.stack.handle_frame(now, frame);
            while let Some(event) = crowd.stack.poll_event() {
                if let StackEvent::Updated(conn) = event {
                    crowd.stack.update(now, conn, |connection| {
                        connection.receive_consume(now, connection.receive_available());
                    });
                }
            }
            while crowd.stack.poll_transmit(now).is_some() {}
        }
        let conn = *crowd.conns.first().context("nobody connected")?;
        let (mut connection, next_hop) = crowd
            .stack
            .detach(now, conn, Route::Capture)
            .context("the connection is gone")?;
        let data = Bytes::from(vec![0x5a; queued]);
        for start in (0..queued).step_by(PIECE) {
            let piece = data.slice(start..queued.min(start + PIECE));
            connection.send(now, piece)?;
        }
        let (source, target) = channel()?;
        Ok(Ours {
            session: Some((connection, next_hop)),
            config: TcpConfig::default(),
            source,
            target,
            clock: crowd,
            epoch: 0,
        })
    }

    /// The session as octets.
    fn export(&mut self, ahead: usize) -> Result<Rope> {
        let now = self.clock.now();
        let (connection, next_hop) = self.session.take().context("no session")?;
        self.epoch += 1;
        let capsule = Capsule {
            session: session(),
            epoch: self.epoch,
            service: "http".into(),
            state: Some((1, Bytes::from_static(STATE))),
            finished: false,
            connections: vec![CapsuleConnection {
                next_hop,
                end_read: false,
                shut_down: false,
                ahead: Ahead {
                    send: ahead as u32,
                    unread: 0,
                },
                tcp: connection.export(now),
            }],
        };
        capsule
            .encode()
            .map_err(|error| anyhow!("no capsule: {error:?}"))
    }

    /// The session of `octets`, of whose queue the front is `ahead`.
    fn import(&mut self, octets: Rope, ahead: Rope) -> Result<()> {
        let now = self.clock.now();
        let capsule = Capsule::decode(octets).map_err(|error| anyhow!("refused: {error:?}"))?;
        let carried = capsule.connections.into_iter().next();
        let mut carried = carried.context("an empty capsule")?;
        let queue = &mut carried.tcp.queues.unacked_and_unsent;
        queue.splice(0..0, ahead.into_pieces());
        let connection = Connection::import(carried.tcp, now, &self.config, MTU)?;
        self.session = Some((connection, carried.next_hop));
        Ok(())
    }

    /// Seal what `octets` are; hand each record to `each`.
    fn seal(
        &mut self,
        octets: Rope,
        mut each: impl FnMut(&mut Channel, Bytes) -> Result<()>,
    ) -> Result<()> {
        let transfer = Transfer {
            session: session(),
            epoch: self.epoch,
            boot: BootId([2; 16]),
            generation: 1,
        };
        let sent = self.source.send(&Message::Transfer(transfer), octets);
        sent.context("too long for a message")?;
        while let Some(record) = self.source.poll_output() {
            each(&mut self.target, record)?;
        }
        Ok(())
    }

    /// What is queued goes ahead while the session could still be served.
    fn send_ahead(&mut self) -> Result<Rope> {
        let (connection, _) = self.session.as_ref().context("no session")?;
        let offset = connection.queued_range(Queue::Send).start;
        let pieces = connection.queued(Queue::Send);
        let mut octets = Rope::new();
        pieces.into_iter().for_each(|piece| octets.push(piece));
        if octets.is_empty() {
            return Ok(octets);
        }
        let ahead = Message::Ahead(message::Ahead {
            session: session(),
            connection: 0,
            queue: Queue::Send,
            offset,
        });
        self.source.send(&ahead, octets).context("too long")?;
        while let Some(record) = self.source.poll_output() {
            feed(&mut self.target, record)?;
        }
        self.arrived()
    }

    /// The tail of the message that has arrived.
    fn arrived(&mut self) -> Result<Rope> {
        let message = self.target.poll_message();
        let message = message.map_err(|error| anyhow!("channel: {error:?}"))?;
        Ok(message.context("no message arrived")?.1)
    }

    /// From the freeze on; `ahead` is at the target already.
    fn hand_over(&mut self, way: Way, ahead: Rope) -> Result<()> {
        let mut octets = self.export(ahead.len())?;
        if way != Way::Plain {
            self.seal(octets, feed)?;
            octets = self.arrived()?;
        }
        self.import(octets, ahead)
    }

    /// Microseconds that handing the session over costs, from the freeze on.
    pub fn cost(&mut self, rounds: usize, way: Way) -> Result<f64> {
        // Looking at the clock costs a twentieth of a move: twice a move only where something else is between.
        let mut ahead = Duration::ZERO;
        let start = Instant::now();
        for _ in 0..rounds {
            let mut octets = Rope::new();
            if way == Way::Ahead {
                let start = Instant::now();
                octets = self.send_ahead()?;
                ahead += start.elapsed();
            }
            self.hand_over(way, octets)?;
        }
        let spent = start.elapsed() - ahead;
        Ok(spent.as_secs_f64() * 1e6 / rounds as f64)
    }

    /// Octets of TCP payload that the transfer takes.
    pub fn wire_octets(mut self) -> Result<usize> {
        let octets = self.export(0)?;
        let mut count = 0;
        self.seal(octets, |_, record| {
            count += record.len();
            Ok(())
        })?;
        Ok(count)
    }
}

fn session() -> SessionId {
    SessionId {
        origin: 1,
        number: 123_456,
    }
}

fn feed(channel: &mut Channel, octets: Bytes) -> Result<()> {
    let clock = || godwit_netstack::Instant::ZERO;
    channel
        .handle_data(octets, clock)
        .map_err(|error| anyhow!("channel: {error:?}"))
}

/// Both ends of a channel that is up.
fn channel() -> Result<(Channel, Channel)> {
    let ends = |us: u8, peer: u8| Ends {
        us: MemberId(us.into()),
        boot: BootId([us; 16]),
        generation: 1,
        peer: MemberId(peer.into()),
    };
    let mut one = Channel::initiator(ends(1, 2), &Key(KEY), [1; 32]);
    let mut other = Channel::responder(ends(2, 1), &[Key(KEY)], [2; 32]);
    for _ in 0..4 {
        while let Some(octets) = one.poll_output() {
            feed(&mut other, octets)?;
        }
        while let Some(octets) = other.poll_output() {
            feed(&mut one, octets)?;
        }
    }
    for channel in [&mut one, &mut other] {
        let greeting = channel.poll_message();
        greeting.map_err(|error| anyhow!("no greeting: {error:?}"))?;
    }
    Ok((one, other))
}
