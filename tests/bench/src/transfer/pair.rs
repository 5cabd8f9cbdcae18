//! Two instances in one thread, the wire between them, and the clients of both: real time, no IO.
//!
//! What each instance costs is measured apart: the CPU time spent in its calls, its service's included.
//! Carrying frames and the clients' work are not counted.

use std::time;

use anyhow::{Result, bail};
use bytes::Bytes;
use godwit_netstack::cluster::MemberId;
use godwit_netstack::instance::{
    Event, Instance, InstanceConfig, PATIENCE, Peer, Prefer, RoleConfig, ServiceSpec,
};
use godwit_netstack::session::{Input, SessionId};
use godwit_netstack::stack::{
    Cidr, DeviceCapabilities, RxChecksum, RxFrame, Scope, StackConfig, TxFrame,
};
use godwit_netstack::tcp::TcpConfig;
use godwit_netstack::{Duration, Instant};
use nix::time::{ClockId, clock_gettime};

use super::herd::{GATEWAY, Herd};

/// The address that both instances serve.
pub const VIP: [u8; 4] = [10, 0, 0, 10];
/// Where the service listens.
pub const PORT: u16 = 7;

fn address(id: u32) -> [u8; 4] {
    [10, 0, 0, 10 + id as u8]
}

fn mac(id: u32) -> [u8; 6] {
    [2, 0, 0, 0, 0, id as u8]
}

/// What member `id` of two is built from. Its device is like a TAP device between processes: sums
/// and cuts nothing in software.
fn config(id: u32) -> InstanceConfig {
    let other = 3 - id;
    InstanceConfig {
        id: MemberId(id),
        stack: StackConfig {
            mac: mac(id),
            mtu: 1500,
            capabilities: DeviceCapabilities {
                tx_checksum: true,
                tso4: true,
                tso6: true,
            },
            addresses: vec![Cidr {
                address: address(id).into(),
                prefix: 24,
            }],
            gateways: vec![GATEWAY.into()],
            dhcp: false,
            vips: vec![VIP.into()],
            instance: None,
            secret: [5; 32],
            tcp: TcpConfig {
                max_connections: 250_000,
                ..TcpConfig::default()
            },
        },
        peers: vec![Peer {
            id: MemberId(other),
            address: address(other).into(),
        }],
        ingress: MemberId(1),
        role: RoleConfig {
            prefer: Prefer::Availability,
            ..RoleConfig::default()
        },
        discover: Default::default(),
        cluster_key: Some([9; 32]),
        patience: PATIENCE,
    }
}

/// Seconds of CPU time that this thread has used: what else the machine does does not count.
pub fn cpu_time() -> Result<f64> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
}

/// An instance whose service returns what comes, and counts it in its state.
pub struct Node {
    /// The instance.
    pub instance: Instance,
    /// CPU time spent in it, in seconds.
    pub spent: f64,
    /// The drain is complete.
    pub drained: bool,
    /// It was given a command.
    pub told: bool,
    arrived: Vec<RxFrame>,
}

impl Node {
    fn new(id: u32, now: Instant) -> Node {
        let mut instance = Instance::new(config(id), [id as u8; 32], now);
        instance.add_service(ServiceSpec {
            name: "echo",
            port: PORT,
            scope: Scope::Service,
            state_version: 1,
            oldest_state: 1,
            states: None,
        });
        Node {
            instance,
            spent: 0.0,
            drained: false,
            told: true,
            arrived: Vec::new(),
        }
    }

    /// Let it do what there is to do now; what it sends.
    fn turn(&mut self, now: Instant) -> Result<Vec<TxFrame>> {
        let due = self.instance.poll_timeout();
        if self.arrived.is_empty() && !self.told && due.is_none_or(|due| due > now) {
            return Ok(Vec::new());
        }
        self.told = false;
        let start = cpu_time()?;
        if !self.arrived.is_empty() {
            self.instance.handle_frames(now, &mut self.arrived);
        }
        if self.instance.poll_timeout().is_some_and(|due| due <= now) {
            self.instance.handle_timeout(now);
        }
        while let Some(event) = self.instance.poll_event() {
            match event {
                Event::SessionStarted { session, .. } | Event::SessionWoken(session) => {
                    echo(&mut self.instance, now, session)?;
                }
                Event::Drained => self.drained = true,
                _ => {}
            }
        }
        let mut sent = Vec::new();
        sent.extend(core::iter::from_fn(|| self.instance.poll_transmit(now)));
        self.spent += cpu_time()? - start;
        Ok(sent)
    }
}

fn echo(instance: &mut Instance, now: Instant, session: SessionId) -> Result<()> {
    let state = instance.committed_state(session);
    let mut count = match state
        .as_ref()
        .map(|(_, octets)| <[u8; 8]>::try_from(&octets[..]))
    {
        Some(Ok(octets)) => u64::from_le_bytes(octets),
        Some(Err(_)) => bail!("{session} has another service's state"),
        None => 0,
    };
    while let Ok(Input::Data(data)) = instance.read(session, 0)
        && instance.send_ready(session) == Ok(true)
    {
        count += data.len() as u64;
        instance.consume(session, 0, data.len())?;
        instance.write(session, 0, data)?;
        instance.commit(now, session, Bytes::copy_from_slice(&count.to_le_bytes()))?;
    }
    Ok(())
}

/// Two instances and their clients.
pub struct Pair {
    started: time::Instant,
    /// The instances.
    pub nodes: [Node; 2],
    /// The clients.
    pub herd: Herd,
}

impl Pair {
    /// Two instances that know each other, one of which is the ingress.
    pub fn new() -> Result<Pair> {
        let now = Instant::ZERO;
        let mut pair = Pair {
            started: time::Instant::now(),
            nodes: [Node::new(1, now), Node::new(2, now)],
            herd: Herd::new(),
        };
        let up = |pair: &mut Pair| {
            let mut nodes = pair.nodes.iter();
            nodes.all(|node| node.instance.members().iter().all(|member| member.up))
                && pair.herd.knows_ingress()
        };
        pair.run_until(Duration::from_secs(10), "the instances meet", up)?;
        Ok(pair)
    }

    /// The time.
    pub fn now(&self) -> Instant {
        Instant::from_nanos(self.started.elapsed().as_nanos() as u64)
    }

    /// Go on until something holds.
    pub fn run_until(
        &mut self,
        limit: Duration,
        what: &str,
        mut holds: impl FnMut(&mut Pair) -> bool,
    ) -> Result<()> {
        let end = self.now() + limit;
        while !holds(self) {
            self.step()?;
            if self.now() > end {
                bail!("waited in vain until {what}; {}", self.herd.summary());
            }
        }
        Ok(())
    }

    /// One turn for everybody.
    pub fn step(&mut self) -> Result<()> {
        let now = self.now();
        for index in 0..self.nodes.len() {
            for frame in self.nodes[index].turn(now)? {
                self.carry(now, index, &frame);
            }
        }
        self.herd.handle_timeout(now);
        for frame in self.herd.take_sent() {
            let to = frame.bytes.first_chunk::<6>();
            let node = (0..2).find(|index| to == Some(&mac(*index as u32 + 1)));
            if let Some(node) = node {
                self.nodes[node].arrived.push(frame);
            }
        }
        Ok(())
    }

    fn carry(&mut self, now: Instant, from: usize, frame: &TxFrame) {
        let to = &frame.head[..6];
        let other = 1 - from;
        if to[0] & 1 == 1 || to == mac(other as u32 + 1) {
            let mut copy = RxFrame::new(frame.to_vec());
            copy.checksum = RxChecksum::Verified;
            copy.segmentation = frame.segmentation;
            self.nodes[other].arrived.push(copy);
        }
        if to[0] & 1 == 1 || to == Herd::MAC {
            self.herd.handle_frame(now, &frame.to_vec());
        }
    }

    /// Let `count` more clients connect and have one conversation each.
    pub fn grow(&mut self, count: usize) -> Result<()> {
        const BATCH: usize = 64;
        let end = self.herd.len() + count;
        while self.herd.len() < end {
            let now = self.now();
            let batch = BATCH.min(end - self.herd.len());
            self.herd.connect(now, batch);
            self.run_until(Duration::from_secs(20), "clients have connected", |pair| {
                pair.herd.is_content()
            })?;
        }
        Ok(())
    }

    /// Move every session of one instance to the other, and wait for that.
    pub fn gather(&mut self, from: usize) -> Result<()> {
        let now = self.now();
        let to = MemberId(2 - from as u32);
        self.nodes[from].instance.move_all(now, to)?;
        self.nodes[from].told = true;
        self.run_until(Duration::from_secs(60), "all sessions are here", |pair| {
            pair.nodes[from].instance.session_count() == 0
        })
    }
}
