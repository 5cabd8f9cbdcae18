//! A sender and a receiver, the path between them, and virtual time: the same seed, the same run.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use godwit_netstack::stack::{
    Cidr, ConnId, DeviceCapabilities, RxFrame, Scope, Stack, StackConfig, StackEvent,
};
use godwit_netstack::tcp::{Info, TcpConfig};
use godwit_netstack::{Duration, Instant};

/// Where the receiver listens.
const PORT: u16 = 9;
/// What the application hands over in one go, in octets.
const PIECE: usize = 16 * 1024;
/// Ethernet header, which the rate of a link counts, too.
const ETHERNET: usize = 14;
const SENDER: usize = 0;
const RECEIVER: usize = 1;

/// What the path does to frames.
#[derive(Clone, Debug)]
pub struct Path {
    /// Bits per second in each direction, Ethernet headers counted.
    pub rate: u64,
    /// Half a round trip.
    pub delay: Duration,
    /// Octets that may wait for the link. What comes then is dropped.
    pub queue: usize,
    /// Share of the sender's frames that is lost at random.
    pub loss: f64,
    /// Share of the sender's frames that is held back.
    pub reorder: f64,
    /// For how long at most, drawn for each: later frames overtake it.
    pub reorder_by: Duration,
}

/// splitmix64.
struct Chance(u64);

impl Chance {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn hits(&mut self, share: f64) -> bool {
        share > 0.0 && self.unit() < share
    }
}

/// A connection and how far it got.
struct Flow {
    sender: ConnId,
    port: u16,
    receiver: Option<ConnId>,
    octets: u64,
}

/// The two stacks and what is under way between them.
pub struct World {
    /// The time.
    pub now: Instant,
    path: Path,
    stacks: [Stack; 2],
    flows: Vec<Flow>,
    /// Frames under way, by when they arrive.
    wire: BTreeMap<(Instant, u64), (usize, RxFrame)>,
    sent: u64,
    /// When the link of each side has sent all that waits for it.
    free: [Instant; 2],
    chance: Chance,
    data: Bytes,
    /// Frames of the sender: all, lost at random, dropped by the full queue.
    pub frames: u64,
    /// Frames lost at random.
    pub lost: u64,
    /// Frames dropped by the full queue.
    pub dropped: u64,
}

fn stack(host: u8, seed: u64) -> Stack {
    let mut random = [host; 32];
    random[..8].copy_from_slice(&seed.to_le_bytes());
    let config = StackConfig {
        mac: [2, 0, 0, 0, 0, host],
        mtu: 1500,
        capabilities: DeviceCapabilities::default(),
        addresses: vec![Cidr {
            address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, host)),
            prefix: 24,
        }],
        gateways: Vec::new(),
        dhcp: false,
        vips: Vec::new(),
        instance: None,
        secret: random,
        tcp: TcpConfig::default(),
    };
    Stack::new(config, random, Instant::ZERO)
}

impl World {
    /// Two hosts on a path, nothing under way.
    pub fn new(path: Path, seed: u64) -> World {
        let mut stacks = [stack(1, seed), stack(2, seed)];
        stacks[RECEIVER].listen(PORT, Scope::Own);
        World {
            now: Instant::ZERO,
            path,
            stacks,
            flows: Vec::new(),
            wire: BTreeMap::new(),
            sent: 0,
            free: [Instant::ZERO; 2],
            chance: Chance(seed),
            data: Bytes::from(vec![0x5a; PIECE]),
            frames: 0,
            lost: 0,
            dropped: 0,
        }
    }

    /// Open another connection that sends as much as it can.
    pub fn open(&mut self) -> Result<usize> {
        let to = SocketAddr::from(([10, 0, 0, 2], PORT));
        let sender = self.stacks[SENDER].connect(self.now, None, to);
        let sender = sender.ok().context("no connection")?;
        let port = self.stacks[SENDER].flow(sender).context("no flow")?;
        self.flows.push(Flow {
            sender,
            port: port.local.port(),
            receiver: None,
            octets: 0,
        });
        Ok(self.flows.len() - 1)
    }

    /// Octets that a connection has brought to its reader.
    pub fn octets(&self, flow: usize) -> u64 {
        self.flows[flow].octets
    }

    /// The sender's view of a connection.
    pub fn info(&self, flow: usize) -> Option<Info> {
        let connection = self.stacks[SENDER].connection(self.flows[flow].sender)?;
        Some(connection.info())
    }

    /// Let virtual time pass.
    pub fn run(&mut self, span: Duration) -> Result<()> {
        let end = self.now + span;
        loop {
            self.applications()?;
            self.transmit();
            let wire = self.wire.keys().next().map(|(at, _)| *at);
            let timers = self.stacks.iter().map(Stack::poll_timeout);
            let next = timers.chain([wire]).flatten().min();
            match next {
                Some(next) if next <= end => self.now = self.now.max(next),
                Some(_) => break,
                None => bail!("nothing will ever happen again at {:?}", self.now),
            }
            let mut arrived = [VecDeque::new(), VecDeque::new()];
            while let Some(first) = self.wire.first_entry()
                && first.key().0 <= self.now
            {
                let (to, frame) = first.remove();
                arrived[to].push_back(frame);
            }
            for (stack, frames) in self.stacks.iter_mut().zip(arrived) {
                stack.handle_frames(self.now, frames);
                if stack.poll_timeout().is_some_and(|due| due <= self.now) {
                    stack.handle_timeout(self.now);
                }
            }
        }
        self.now = end;
        Ok(())
    }

    /// The reader takes all there is, the writer writes what there is room for.
    fn applications(&mut self) -> Result<()> {
        let now = self.now;
        let [sender, receiver] = &mut self.stacks;
        while let Some(event) = receiver.poll_event() {
            match event {
                StackEvent::Accepted { conn, .. } => {
                    let port = receiver.flow(conn).map(|flow| flow.remote.port());
                    let mut flows = self.flows.iter_mut();
                    let flow = flows.find(|flow| Some(flow.port) == port);
                    flow.context("an unknown connection")?.receiver = Some(conn);
                }
                StackEvent::Updated(conn) => {
                    let octets = receiver.update(now, conn, |connection| {
                        let octets = connection.receive_available();
                        connection.receive_consume(now, octets);
                        octets as u64
                    });
                    let mut flows = self.flows.iter_mut();
                    if let Some(flow) = flows.find(|flow| flow.receiver == Some(conn)) {
                        flow.octets += octets.unwrap_or_default();
                    }
                }
                StackEvent::Gone { .. } => bail!("a connection ended at {now:?}"),
                _ => {}
            }
        }
        while sender.poll_event().is_some() {}
        for flow in &self.flows {
            while sender.send_room(flow.sender) > 0 {
                let data = self.data.clone();
                let sent = sender.update(now, flow.sender, |c| c.send(now, data).is_ok());
                if sent != Some(true) {
                    bail!("a connection takes no data at {now:?}");
                }
            }
        }
        Ok(())
    }

    fn transmit(&mut self) {
        for from in [SENDER, RECEIVER] {
            while let Some(frame) = self.stacks[from].poll_transmit(self.now) {
                let frame = RxFrame::new(frame.to_vec());
                self.launch(from, frame);
            }
        }
    }

    fn launch(&mut self, from: usize, frame: RxFrame) {
        let octets = frame.bytes.len().max(ETHERNET) as u64;
        let nanos = |octets: u64| Duration::from_nanos(octets * 8_000_000_000 / self.path.rate);
        let mut extra = Duration::ZERO;
        if from == SENDER {
            self.frames += 1;
            if self.free[from].since(self.now) > nanos(self.path.queue as u64) {
                self.dropped += 1;
                return;
            }
            if self.chance.hits(self.path.loss) {
                self.lost += 1;
                return;
            }
            if self.chance.hits(self.path.reorder) {
                let share = self.chance.unit();
                extra =
                    Duration::from_nanos((self.path.reorder_by.as_nanos() as f64 * share) as u64);
            }
        }
        let sent = self.free[from].max(self.now) + nanos(octets);
        self.free[from] = sent;
        self.sent += 1;
        let at = sent + self.path.delay + extra;
        self.wire.insert((at, self.sent), (1 - from, frame));
    }
}
