//! What a connection gets through while it is moved to and fro a thousand times a second.
//!
//! Two instances and a client in virtual time, all 25 us from a switch: the client at 1 Gbit/s, the
//! instances at 10, which capsules and forwarded frames share with the download. What the
//! instances compute takes no time here: that is what the other rows measure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use godwit_netstack::cluster::MemberId;
use godwit_netstack::instance::{
    Event, Instance, InstanceConfig, PATIENCE, Peer, RoleConfig, ServiceSpec,
};
use godwit_netstack::session::SessionId;
use godwit_netstack::stack::{
    Cidr, ConnId, DeviceCapabilities, RxFrame, Scope, Stack, StackConfig, StackEvent, TxFrame,
};
use godwit_netstack::tcp::TcpConfig;
use godwit_netstack::{Duration, Instant};

use crate::Effort;
use crate::row::{Better, Row, Turns};

/// Bits per second of the client's link.
const RATE: u64 = 1_000_000_000;
/// Bits per second of the instances' ports.
const FAST: u64 = 10_000_000_000;
/// From a port to the switch.
const DELAY: Duration = Duration::from_micros(25);
/// Octets that may wait at a port of the switch.
const QUEUE: u64 = 64 * 1024;
/// Octets that a host's NIC takes before it has sent them.
const RING: u64 = 32 * 1024;
/// Time between two commands to move.
const PERIOD: Duration = Duration::from_millis(1);
/// How often to look whether it is time.
const TICK: Duration = Duration::from_micros(50);
/// What the run begins with and is not counted.
const WARM_UP: Duration = Duration::from_secs(1);
/// Promised: of the goodput without moves.
const FLOOR: f64 = 0.95;
const PORT: u16 = 80;
const VIP: [u8; 4] = [10, 0, 0, 10];
const CLIENT: usize = 2;
/// What the service writes in one go.
const PIECE: usize = 16 * 1024;
/// Octets of a frame on a wire beyond those of the frame itself: preamble, FCS, gap.
const WIRE: u64 = 24;

fn stack(host: usize, vips: Vec<IpAddr>) -> StackConfig {
    StackConfig {
        mac: mac(host),
        mtu: 1500,
        capabilities: DeviceCapabilities::default(),
        addresses: vec![Cidr {
            address: address(host),
            prefix: 24,
        }],
        gateways: Vec::new(),
        dhcp: false,
        vips,
        instance: None,
        secret: [5; 32],
        tcp: TcpConfig::default(),
    }
}

/// How long a port is busy with so many octets.
fn on_the_wire(host: usize, octets: u64) -> Duration {
    let rate = if host == CLIENT { RATE } else { FAST };
    Duration::from_nanos(octets * 8_000_000_000 / rate)
}

fn address(host: usize) -> IpAddr {
    IpAddr::from([10, 0, 0, 11 + host as u8])
}

fn mac(host: usize) -> [u8; 6] {
    [2, 0, 0, 0, 0, 1 + host as u8]
}

fn instance(host: usize, seed: u8) -> Instance {
    let other = 1 - host;
    let config = InstanceConfig {
        id: MemberId(host as u32 + 1),
        stack: stack(host, vec![VIP.into()]),
        peers: vec![Peer {
            id: MemberId(other as u32 + 1),
            address: address(other),
        }],
        ingress: MemberId(1),
        role: RoleConfig::default(),
        discover: Default::default(),
        cluster_key: Some([9; 32]),
        patience: PATIENCE,
    };
    let mut instance = Instance::new(config, [seed ^ (host as u8 + 1); 32], Instant::ZERO);
    instance.add_service(ServiceSpec {
        name: "source",
        port: PORT,
        scope: Scope::Service,
        state_version: 1,
        oldest_state: 1,
        states: None,
    });
    instance
}

struct World {
    now: Instant,
    instances: [Instance; 2],
    client: Stack,
    /// Frames under way to the switch (`false`) or from it, by when they arrive.
    wire: BTreeMap<(Instant, u64), (bool, usize, Bytes)>,
    sent: u64,
    /// When each port has sent all that waits for it, to the switch and from it.
    free: [[Instant; 3]; 2],
    octets: u64,
    dropped: u64,
    wrong: u64,
    ended: bool,
    piece: Bytes,
}

/// The stream repeats itself after this many octets, which divides no other length here.
const PATTERN: u64 = 251;

impl World {
    fn new(seed: u8) -> Result<World> {
        let pattern = (0..PIECE as u64 + PATTERN).map(|at| (at % PATTERN) as u8);
        let mut world = World {
            now: Instant::ZERO,
            instances: [instance(0, seed), instance(1, seed)],
            client: Stack::new(stack(CLIENT, Vec::new()), [seed ^ 0x40; 32], Instant::ZERO),
            wire: BTreeMap::new(),
            sent: 0,
            free: [[Instant::ZERO; 3]; 2],
            octets: 0,
            dropped: 0,
            wrong: 0,
            ended: false,
            piece: pattern.collect(),
        };
        world.run(Duration::from_secs(1))?;
        let to = (IpAddr::from(VIP), PORT).into();
        let conn = world.client.connect(world.now, None, to);
        conn.ok().context("no connection")?;
        world.run(WARM_UP)?;
        Ok(world)
    }

    /// Who serves the session, and its name.
    fn owner(&self) -> Option<(usize, SessionId)> {
        let of = |host: usize| {
            let sessions = self.instances[host].sessions();
            let session = sessions.iter().find(|session| !session.frozen)?;
            Some((host, session.id))
        };
        of(0).or_else(|| of(1))
    }

    /// Let the owner begin to move the session. Whether it could.
    fn order_move(&mut self) -> bool {
        let Some((host, session)) = self.owner() else {
            return false;
        };
        let to = MemberId(2 - host as u32);
        let ordered = self.instances[host].move_session(self.now, session, to);
        ordered.is_ok()
    }

    fn count(&self, name: &str) -> u64 {
        let counters = self.instances.iter().flat_map(Instance::counters);
        counters.filter(|(n, _)| *n == name).map(|(_, n)| n).sum()
    }

    fn run(&mut self, span: Duration) -> Result<()> {
        let end = self.now + span;
        loop {
            self.work()?;
            let wire = self.wire.keys().next().map(|(at, _)| *at);
            let timers = self.instances.iter().map(Instance::poll_timeout);
            let timers = timers.chain([self.client.poll_timeout(), wire]);
            match timers.flatten().min() {
                Some(next) if next <= end => self.now = self.now.max(next),
                _ => break,
            }
            while let Some(first) = self.wire.first_entry()
                && first.key().0 <= self.now
            {
                let (out, host, frame) = first.remove();
                match (out, host) {
                    (false, from) => self.switch(from, frame),
                    (true, CLIENT) => self.client.handle_frame(self.now, RxFrame::new(frame)),
                    (true, host) => {
                        self.instances[host].handle_frame(self.now, RxFrame::new(frame))
                    }
                }
            }
            for instance in &mut self.instances {
                if instance.poll_timeout().is_some_and(|due| due <= self.now) {
                    instance.handle_timeout(self.now);
                }
            }
            if self
                .client
                .poll_timeout()
                .is_some_and(|due| due <= self.now)
            {
                self.client.handle_timeout(self.now);
            }
        }
        self.now = end;
        Ok(())
    }

    /// Services, the reader, and what all of them send.
    fn work(&mut self) -> Result<()> {
        let now = self.now;
        for host in 0..2 {
            while let Some(event) = self.instances[host].poll_event() {
                if let Event::SessionStarted { session, .. } | Event::SessionWoken(session) = event
                {
                    self.serve(host, session)?;
                }
            }
            while self.has_room(host)
                && let Some(frame) = self.instances[host].poll_transmit(now)
            {
                self.send(host, &frame);
            }
        }
        while let Some(event) = self.client.poll_event() {
            match event {
                StackEvent::Updated(conn) => self.read(conn),
                StackEvent::Gone { .. } => self.ended = true,
                _ => {}
            }
        }
        while self.has_room(CLIENT)
            && let Some(frame) = self.client.poll_transmit(now)
        {
            self.send(CLIENT, &frame);
        }
        Ok(())
    }

    fn serve(&mut self, host: usize, session: SessionId) -> Result<()> {
        let instance = &mut self.instances[host];
        let state = instance.committed_state(session);
        let mut offset = match state {
            Some((_, octets)) => u64::from_le_bytes(octets[..].try_into()?),
            None => 0,
        };
        while instance.send_ready(session) == Ok(true) {
            let room = instance.send_room(session, 0)?.min(PIECE);
            let skip = (offset % PATTERN) as usize;
            instance.write(session, 0, self.piece.slice(skip..skip + room))?;
            offset += room as u64;
            let state = Bytes::copy_from_slice(&offset.to_le_bytes());
            instance.commit(self.now, session, state)?;
        }
        Ok(())
    }

    fn read(&mut self, conn: ConnId) {
        let (octets, wrong) = (&mut self.octets, &mut self.wrong);
        let now = self.now;
        self.client.update(now, conn, |tcp| {
            while let Some(data) = tcp.receive_peek(0).filter(|data| !data.is_empty()) {
                let begins = (*octets % PATTERN) as u8;
                *wrong += u64::from(data.first() != Some(&begins));
                *octets += data.len() as u64;
                tcp.receive_consume(now, data.len());
            }
        });
    }

    /// Whether a host's NIC takes another frame. It sends, so something will happen soon.
    fn has_room(&self, host: usize) -> bool {
        self.free[0][host].since(self.now) <= on_the_wire(host, RING)
    }

    fn send(&mut self, from: usize, frame: &TxFrame) {
        self.pass(false, from, Bytes::from(frame.to_vec()));
    }

    /// A frame has reached the switch.
    fn switch(&mut self, from: usize, frame: Bytes) {
        for host in (0..3).filter(|host| *host != from) {
            if frame[0] & 1 == 1 || frame[..6] == mac(host) {
                if self.free[1][host].since(self.now) > on_the_wire(host, QUEUE) {
                    self.dropped += 1;
                } else {
                    self.pass(true, host, frame.clone());
                }
            }
        }
    }

    /// Through a port, one after the other.
    fn pass(&mut self, out: bool, host: usize, frame: Bytes) {
        let octets = frame.len().max(60) as u64 + WIRE;
        let free = &mut self.free[usize::from(out)][host];
        *free = (*free).max(self.now) + on_the_wire(host, octets);
        self.sent += 1;
        self.wire
            .insert((*free + DELAY, self.sent), (out, host, frame));
    }
}

/// Mbit/s of a download in `span`, moved every millisecond or never; and what was seen.
fn download(seed: u8, span: Duration, moving: bool) -> Result<(f64, String)> {
    let mut world = World::new(seed)?;
    let before = world.octets;
    let moves = world.count("moves_accepted");
    let end = world.now + span;
    let (mut next, mut late) = (world.now, 0u64);
    while world.now < end {
        match moving && next <= world.now && !world.order_move() {
            true => late += 1,
            false if next <= world.now => next += PERIOD,
            false => {}
        }
        world.run(TICK)?;
    }
    if world.ended || world.wrong > 0 {
        bail!("the download broke: {} wrong pieces", world.wrong);
    }
    let mbits = (world.octets - before) as f64 * 8.0 / span.as_secs_f64() / 1e6;
    let moves = world.count("moves_accepted") - moves;
    let seen = format!(
        "{:.0} moves a second ({:.1} ms late at the end, {late} times the session was still on its \
         way), {} frames dropped by the switch",
        moves as f64 / span.as_secs_f64(),
        world.now.since(next).as_nanos() as f64 / 1e6,
        world.dropped,
    );
    Ok((mbits, seen))
}

/// A connection moved a thousand times a second, against the same connection left alone.
pub fn goodput(effort: &Effort) -> Result<Vec<Row>> {
    let span = match effort.short {
        true => Duration::from_millis(200),
        false => Duration::from_secs(5),
    };
    let (mut turns, mut seen) = (Turns::default(), String::new());
    for seed in 1..=effort.runs.min(5) as u8 {
        turns.theirs.push(download(seed, span, false)?.0);
        let (ours, note) = download(seed, span, true)?;
        turns.ours.push(ours);
        seen = note;
    }
    let (name, peer) = ("transfer/goodput/1000hz", "without moves");
    let mut row = Row::compared(name, peer, "Mbit/s", Better::Higher, &turns, FLOOR);
    row.note = format!(
        "virtual time; the client's link 1 Gbit/s with a queue of 64 KiB, the instances' 10, round trip 100 us; what is computed takes no time; {seen}"
    );
    Ok(vec![row])
}
