//! Our side as the one that opens: a bare stack on a TAP device, without sessions or services.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use godwit::platform::Platform;
use godwit_hosted::host::Host;
use godwit_hosted::tap::Tap;
use godwit_netstack::stack::{Cidr, ConnId, Stack, StackConfig, StackEvent};
use godwit_netstack::tcp::{ConnectionError, Info, TcpConfig};
use godwit_qemu::content;

use crate::yard::{OURS, TAP, Yard};

/// Frames taken in, in one turn.
const BATCH: usize = 64;
/// Octets handed to the stack in one go.
const PIECE: u64 = 64 * 1024;

/// What a connection is for.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// What is said first.
    pub opening: Bytes,
    /// Octets of the known content that follow.
    pub content: u64,
    /// Close our direction once all that is sent, and not only when the peer has closed its own.
    pub half_close: bool,
}

/// A connection, and what came of it.
#[derive(Debug)]
pub struct Talk {
    plan: Plan,
    conn: ConnId,
    opened: bool,
    sent: u64,
    closed: bool,
    /// What the peer sent.
    pub received: Vec<u8>,
    /// The peer has closed its direction, all of it was read, and our FIN is acknowledged.
    pub complete: bool,
    /// Why it ended otherwise.
    pub error: Option<ConnectionError>,
    /// The connection as last seen.
    pub info: Option<Info>,
}

/// A stack that opens connections.
pub struct Client {
    host: Host,
    stack: Stack,
}

impl Client {
    /// On our TAP device.
    pub fn new(yard: &Yard, offload: bool) -> Result<Client> {
        let tap = yard.ours.run(|| Ok(Tap::open(TAP, 1500, offload)?))?;
        let mut host = Host::new(tap, [2, 0x67, 0, 0, 0, 1])?;
        let mut random = [[0; 32]; 2];
        for octets in &mut random {
            getrandom::fill(octets).ok().context("no randomness")?;
        }
        let addresses = OURS.iter().zip([24, 64]).map(|(text, prefix)| {
            Ok(Cidr {
                address: text.parse()?,
                prefix,
            })
        });
        let device = host.device();
        let config = StackConfig {
            mac: device.mac,
            mtu: device.mtu,
            capabilities: device.capabilities,
            addresses: addresses.collect::<Result<_>>()?,
            gateways: Vec::new(),
            dhcp: false,
            vips: Vec::new(),
            instance: None,
            secret: random[0],
            tcp: TcpConfig::default(),
        };
        let now = host.now();
        Ok(Client {
            stack: Stack::new(config, random[1], now),
            host,
        })
    }

    /// Have these talks with `server`, at most `at_once` at a time, until each has come to its end.
    pub fn talk(
        &mut self,
        server: SocketAddr,
        plans: Vec<Plan>,
        at_once: usize,
    ) -> Result<Vec<Talk>> {
        let mut plans = VecDeque::from(plans);
        let (mut live, mut done) = (Vec::new(), Vec::new());
        let until = Instant::now() + Duration::from_secs(60);
        while !plans.is_empty() || !live.is_empty() {
            if Instant::now() > until {
                bail!("talks go on for ever: {live:?}");
            }
            while live.len() < at_once
                && let Some(plan) = plans.pop_front()
            {
                live.push(self.open(server, plan)?);
            }
            self.turn(&mut live);
            done.extend(
                live.extract_if(.., |talk: &mut Talk| talk.complete || talk.error.is_some()),
            );
        }
        Ok(done)
    }

    fn open(&mut self, server: SocketAddr, plan: Plan) -> Result<Talk> {
        let now = self.host.now();
        let conn = self.stack.connect(now, None, server);
        let conn = conn.map_err(|error| anyhow::anyhow!("{server}: {error:?}"))?;
        Ok(Talk {
            plan,
            conn,
            opened: false,
            sent: 0,
            closed: false,
            received: Vec::new(),
            complete: false,
            error: None,
            info: None,
        })
    }

    /// Frames in, talks, frames out; then sleep until there is something to do.
    fn turn(&mut self, talks: &mut [Talk]) {
        let now = self.host.now();
        let mut frames = Vec::new();
        while frames.len() < BATCH
            && let Some(frame) = self.host.receive()
        {
            frames.push(frame);
        }
        let more = frames.len() == BATCH;
        self.stack.handle_frames(now, frames);
        if self.stack.poll_timeout().is_some_and(|due| due <= now) {
            self.stack.handle_timeout(now);
        }
        while let Some(event) = self.stack.poll_event() {
            if let StackEvent::Gone { conn, .. } = event
                && let Some(talk) = talks.iter_mut().find(|talk| talk.conn == conn)
                && !talk.complete
            {
                talk.error.get_or_insert(ConnectionError::Reset);
            }
        }
        for talk in talks.iter_mut() {
            self.go_on(talk);
        }
        while self.host.can_transmit()
            && let Some(frame) = self.stack.poll_transmit(now)
        {
            self.host.transmit(frame);
        }
        if !more {
            let next = self.stack.poll_timeout();
            self.host
                .idle(Some(next.unwrap_or(now + PAUSE).min(now + PAUSE)));
        }
    }

    /// Read what there is, write what there is room for, close when it is time.
    fn go_on(&mut self, talk: &mut Talk) {
        let now = self.host.now();
        let room = self.stack.send_room(talk.conn);
        let went_on = self.stack.update(now, talk.conn, |connection| {
            while let Some(piece) = connection.receive_peek(0) {
                talk.received.extend_from_slice(&piece);
                connection.receive_consume(now, piece.len());
            }
            let mut room = room as u64;
            if !talk.opened && connection.send(now, talk.plan.opening.clone()).is_ok() {
                talk.opened = true;
                room = room.saturating_sub(talk.plan.opening.len() as u64);
            }
            while talk.opened && room > 0 && talk.sent < talk.plan.content {
                let octets = (talk.plan.content - talk.sent).min(PIECE);
                let mut piece = vec![0; octets as usize];
                content::fill(talk.sent, &mut piece);
                if connection.send(now, piece.into()).is_err() {
                    break;
                }
                talk.sent += octets;
                room = room.saturating_sub(octets);
            }
            let said_all = talk.opened && talk.sent == talk.plan.content;
            if !talk.closed && said_all && (talk.plan.half_close || connection.receive_at_end()) {
                connection.close(now);
                talk.closed = true;
            }
            talk.complete =
                talk.closed && connection.receive_at_end() && connection.send_finished();
            talk.error = connection.error();
            talk.info = Some(connection.info());
        });
        // It had ended before it was looked at again.
        if went_on.is_none() && !talk.complete {
            talk.error.get_or_insert(ConnectionError::Reset);
        }
    }
}

/// The longest sleep: nothing depends on it.
const PAUSE: Duration = Duration::from_millis(50);

impl Talk {
    /// That everything went well, and the SHA-256 of what was received.
    pub fn digest(&self) -> String {
        assert_eq!((self.complete, self.error), (true, None), "{:?}", self.info);
        let mut check = content::Check::default();
        check.add(&self.received);
        check.finish()
    }
}
