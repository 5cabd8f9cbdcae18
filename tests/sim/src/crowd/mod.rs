//! Many short connections, several at a time, opened and left in every way there is, while their
//! sessions move: what `godwit sim crowd` runs.
//!
//! The cluster of a seed, its links, its weather and its options are those of [`crate::run`]. Its client
//! opens one connection after the other, from new ports and from ports just used, and what becomes of
//! each ([`Way`]) is drawn by chance. What was to end well has to, exactly; of the others whatever
//! arrives has to be right, and the instances have to be rid of them in the end.

mod way;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use godwit_netstack::{Duration, Instant};

pub use way::Way;
use way::{Act, Fate};

use crate::check::{Reset, Retransmission, Violation};
use crate::host::{HangUp, Outcome, Plan, Standing};
use crate::net::Port;
use crate::rng::Rng;
use crate::run;
use crate::scenario::Cluster;
use crate::weather::Weather;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything random follows from it.
    pub seed: u64,
    /// Connections.
    pub connections: u64,
    /// Whether links lose, reorder, repeat and corrupt.
    pub rough: bool,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Connections opened, by what was to become of them.
    pub ways: BTreeMap<Way, u64>,
    /// Clients that gave up before anything they had sent was answered.
    pub unreached: u64,
    /// Handshakes of which the server heard no end for as long as it waits.
    pub expired: u64,
    /// Connections from a port that another one had before.
    pub reused: u64,
    /// Moves that were accepted.
    pub moves: u64,
    /// Octets that were received, of connections that ended in order.
    pub octets: u64,
    /// Frames emitted by all parties.
    pub frames: u64,
    /// Segments that repeat a range: of the service, of the client.
    pub retransmissions: (u64, u64),
    /// Rules broken, in all.
    pub violations: u64,
    /// The first of them.
    pub first_violations: Vec<Violation>,
    /// Virtual time it took.
    pub virtual_time: Duration,
    /// Depends on every frame.
    pub trace_hash: u64,
}

impl Report {
    /// Connections opened.
    pub fn connections(&self) -> u64 {
        self.ways.values().sum()
    }
}

/// How long a connection may take.
const LIMIT: Duration = Duration::from_secs(1_800);
/// A port that no instance serves.
const UNSERVED: u16 = 4_001;
/// First local port.
const FIRST_PORT: u16 = 20_000;
/// Connections that are over and not yet let go of, at most.
const LINGERING: usize = 8;

/// A connection that goes on.
struct Open {
    number: usize,
    port: u16,
    way: Way,
    octets: u64,
    since: Instant,
    acts: Vec<(Instant, Act)>,
    moves: Vec<u64>,
}

/// A connection that is over, as its plan goes.
struct Lingering {
    until: Instant,
    number: usize,
    port: u16,
}

struct Crowd {
    cluster: Cluster,
    rng: Rng,
    report: Report,
    /// Connections still to be opened, and when the next is.
    left: u64,
    next_open: Instant,
    at_once: usize,
    open: Vec<Open>,
    lingering: Vec<Lingering>,
    /// Connections of which the client waits for something in vain.
    stuck: Vec<Open>,
    /// Ports that had a connection and have none now.
    free: Vec<u16>,
    fresh: u16,
    turns: u64,
    next: Instant,
}

/// Run the connections of a seed.
pub fn crowd(options: &Options) -> Report {
    let root = Rng::new(options.seed);
    let swarm = run::Options {
        seed: options.seed,
        rough: options.rough,
        ..run::Options::default()
    };
    let mut setup = run::setup(&swarm, &root, &mut root.split(0x7275, 0));
    let mut rng = root.split(0x6372, 0);
    if rng.chance(250_000) {
        // So few that most handshakes are remembered by a cookie only.
        setup.tcp.max_half_open = 1 + rng.below(3) as u32;
    }
    let at_once = 2 + rng.below(14) as usize;
    let mut cluster = Cluster::new(setup);
    // A SYN from a port that was used before may meet another instance than the one that still answers
    // the SYN before it.
    cluster.world.any_syn_ack = true;
    // What clients leave behind is repeated on the best of networks.
    cluster.world.check::<Retransmission>().forbidden = false;
    let begun = cluster.now();
    let weather = options
        .rough
        .then(|| Weather::new(root.split(0x7765, 0), begun));
    let mut crowd = Crowd {
        cluster,
        rng,
        report: Report {
            seed: options.seed,
            ..Report::default()
        },
        left: options.connections,
        next_open: begun,
        at_once,
        open: Vec::new(),
        lingering: Vec::new(),
        stuck: Vec::new(),
        free: Vec::new(),
        fresh: FIRST_PORT,
        turns: 0,
        next: begun,
    };
    crowd.run(weather.flatten());
    crowd.calm();
    crowd.report(begun)
}

impl Crowd {
    /// Let everything happen until every connection is over.
    fn run(&mut self, mut weather: Option<Weather>) {
        self.look();
        while self.left > 0 || !self.open.is_empty() {
            if !self.cluster.world.step() {
                break;
            }
            if let Some(weather) = &mut weather {
                weather.look(&mut self.cluster);
            }
            self.look();
        }
        if let Some(weather) = weather {
            weather.clear(&mut self.cluster);
        }
    }

    /// See what has become of the connections, and do what is due.
    fn look(&mut self) {
        let now = self.cluster.now();
        let turns = self.cluster.as_client().turns();
        if turns != self.turns || now >= self.next {
            self.look_at_all(now);
            self.turns = self.cluster.as_client().turns();
            self.next = self.due(now);
        }
        self.cluster.world.wake_at(self.next);
    }

    fn look_at_all(&mut self, now: Instant) {
        let mut at = 0;
        while at < self.open.len() {
            let goes_on = self.act(at, now) && !self.judge(at, now);
            if goes_on {
                at += 1;
            } else {
                self.open.swap_remove(at);
                self.next_open = self.next_open.max(now + self.gap());
            }
        }
        let crowded = self.lingering.len().saturating_sub(LINGERING);
        let mut index = 0;
        self.lingering.retain(|lingering| {
            index += 1;
            let over = lingering.until <= now || index <= crowded;
            if over {
                self.cluster
                    .with_client(|client, _| client.let_go(lingering.number));
                self.free.push(lingering.port);
            }
            !over
        });
        while self.left > 0 && self.open.len() < self.at_once && self.next_open <= now {
            self.open_one(now);
            self.next_open = now + self.gap();
        }
    }

    /// When something is to be done next, unless something happens before.
    fn due(&self, now: Instant) -> Instant {
        let acts = self.open.iter().filter_map(|open| open.acts.last());
        let acts = acts.map(|(at, _)| *at);
        let lingering = self.lingering.iter().map(|lingering| lingering.until);
        let opens = self.left > 0 && self.open.len() < self.at_once;
        let limits = self.open.iter().map(|open| open.since + LIMIT);
        acts.chain(lingering)
            .chain(limits)
            .chain(opens.then_some(self.next_open))
            .min()
            .unwrap_or(now + Duration::from_secs(1))
    }

    /// Between two connections: often nothing.
    fn gap(&mut self) -> Duration {
        match self.rng.chance(300_000) {
            true => Duration::ZERO,
            false => Duration::from_micros(self.rng.below(1 << self.rng.clone().below(15))),
        }
    }

    fn open_one(&mut self, now: Instant) {
        let Fate {
            way,
            plan,
            acts,
            moves,
        } = Fate::draw(&mut self.rng, now);
        let mut service = self.cluster.setup.service();
        if way == Way::Refused {
            service.set_port(UNSERVED);
        }
        let octets = plan.send;
        let mut found = None;
        if !self.free.is_empty() && self.rng.chance(600_000) {
            let at = self.rng.below(self.free.len() as u64) as usize;
            let port = self.free.swap_remove(at);
            found = self.connect(port, service, &plan, way);
            self.report.reused += u64::from(found.is_some());
        }
        let (number, port) = match found {
            Some(found) => found,
            None => {
                let port = self.fresh;
                self.fresh = self.fresh.checked_add(1).unwrap_or(FIRST_PORT);
                match self.connect(port, service, &plan, way) {
                    Some(found) => found,
                    None => return,
                }
            }
        };
        self.left -= 1;
        *self.report.ways.entry(way).or_default() += 1;
        self.open.push(Open {
            number,
            port,
            way,
            octets,
            since: now,
            acts,
            moves,
        });
    }

    fn connect(
        &mut self,
        port: u16,
        service: SocketAddr,
        plan: &Plan,
        way: Way,
    ) -> Option<(usize, u16)> {
        let client = self.end(port);
        self.cluster
            .world
            .expect_resets(client, way != Way::Orderly);
        let sockets = self.cluster.setup.sockets;
        let number = self
            .cluster
            .with_client(|host, now| host.open(now, port, service, sockets, plan.clone()));
        number.map(|number| (number, port))
    }

    fn end(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.cluster.setup.client_address(), port)
    }

    /// Do what is due to a connection; false if the client has left it.
    fn act(&mut self, at: usize, now: Instant) -> bool {
        if let Some(count) = self.open[at].moves.last().copied() {
            let port = self.open[at].port;
            let flows = self.cluster.world.flows();
            let flow = flows.of_client(self.end(port));
            let segments = flow.map_or(0, |flow| flows.get(flow).segments);
            // Until it can: there is no session before the handshake is over.
            if segments >= count && self.move_session(port) {
                self.open[at].moves.pop();
            }
        }
        while let Some((_, act)) = self.open[at].acts.pop_if(|(at, _)| *at <= now) {
            let Open { number, port, .. } = self.open[at];
            match act {
                Act::Move => {
                    self.move_session(port);
                }
                Act::Read(reads) => self.change(number, &|plan| plan.reads = reads),
                Act::Close => self.change(number, &|plan| plan.closes_early = true),
                Act::HangUp(how) => {
                    let standing = self.cluster.as_client().standing(number);
                    self.look_at_content(at, &standing);
                    self.cluster
                        .with_client(|client, now| client.hang_up(now, number, how));
                    self.free.push(port);
                    return false;
                }
            }
        }
        true
    }

    fn change(&mut self, number: usize, change: &dyn Fn(&mut Plan)) {
        self.cluster
            .with_client(|client, _| client.change(number, change));
    }

    /// Tell the session of a connection to move, to any other instance; whether that could be done.
    fn move_session(&mut self, port: u16) -> bool {
        let client = self.end(port);
        // As long as the SYN is not answered, a session of these ends may be that of the connection
        // before.
        let flows = self.cluster.world.flows();
        let flow = flows.of_client(client);
        if !flow.is_some_and(|flow| flows.get(flow).is_accepted()) {
            return false;
        }
        let Some((from, session)) = self.cluster.holder(client) else {
            return false;
        };
        let others: Vec<Port> = self.cluster.nodes().filter(|port| *port != from).collect();
        let to = others[self.rng.below(others.len() as u64) as usize];
        self.cluster.move_session(from, session, to).is_ok()
    }

    fn look_at_content(&mut self, at: usize, standing: &Standing) {
        if standing.wrong {
            let Open { port, way, .. } = self.open[at];
            let what = format!("port {port} ({}): {:?}", way.name(), standing.outcome);
            self.cluster.world.violate("client", what);
        }
    }

    /// Whether a connection is over; and if it should have ended otherwise, say so.
    fn judge(&mut self, at: usize, now: Instant) -> bool {
        let Open {
            number,
            port,
            way,
            octets,
            since,
            ..
        } = self.open[at];
        let standing = self.cluster.as_client().standing(number);
        if standing.outcome == Outcome::Running && !standing.closed {
            if way == Way::Refused && standing.begun {
                self.complain(port, way, "somebody serves the port");
            } else if now < since + LIMIT {
                return false;
            } else {
                let (acts, moves) = (Vec::new(), Vec::new());
                self.stuck.push(Open {
                    acts,
                    moves,
                    ..self.open[at]
                });
                return true;
            }
        } else if way == Way::Orderly {
            self.judge_orderly(port, octets, &standing);
        } else {
            self.look_at_content(at, &standing);
        }
        // smoltcp lets go of a port in TIME-WAIT only then.
        let linger = match self.rng.chance(500_000) {
            true => Duration::ZERO,
            false => Duration::from_micros(self.rng.below(12_000_000)),
        };
        self.lingering.push(Lingering {
            until: now + linger,
            number,
            port,
        });
        true
    }

    fn complain(&mut self, port: u16, way: Way, what: &str) {
        let what = format!("port {port} ({}): {what}", way.name());
        self.cluster.world.violate("client", what);
    }

    fn judge_orderly(&mut self, port: u16, octets: u64, standing: &Standing) {
        let flow = self.cluster.world.flows().of_client(self.end(port));
        match &standing.outcome {
            Outcome::Done => self.report.octets += octets,
            Outcome::Running => {
                // Closed before it began.
                let flows = self.cluster.world.flows();
                match flow.is_some_and(|flow| flows.get(flow).refused) {
                    true => self.complain(port, Way::Orderly, "refused"),
                    false => self.report.unreached += 1,
                }
            }
            Outcome::Failed(why) => {
                let reset = self.cluster.world.check::<Reset>();
                match flow.is_some_and(|flow| reset.has_expired(flow)) && !standing.wrong {
                    true => self.report.expired += 1,
                    false => self.complain(port, Way::Orderly, why),
                }
            }
        }
    }

    /// Everything is said and the weather is fine: the instances get rid of what nobody is at any more.
    fn calm(&mut self) {
        let over = std::mem::take(&mut self.lingering);
        self.cluster.with_client(|client, _| {
            client.listen_again();
            over.iter().for_each(|it| client.let_go(it.number));
        });
        let mut left = Vec::new();
        for _ in 0..LAST_SESSION.as_secs().div_ceil(LOOK_EVERY.as_secs()) {
            self.cluster.world.run_for(LOOK_EVERY);
            left = self.left_over();
            if left.is_empty() {
                break;
            }
        }
        for what in left {
            self.cluster.world.violate("left over", what);
        }
        for stuck in std::mem::take(&mut self.stuck) {
            if !self.cluster.has_forgotten_its_fin(stuck.number) {
                let standing = self.cluster.as_client().standing(stuck.number);
                let what = format!("not over after {LIMIT:?}: {standing:?}");
                self.complain(stuck.port, stuck.way, &what);
            }
            self.cluster
                .with_client(|client, now| client.hang_up(now, stuck.number, HangUp::Forget));
        }
    }

    /// Sessions that an instance should have noticed are nobody's.
    fn left_over(&self) -> Vec<String> {
        let mut left = Vec::new();
        let stuck: Vec<SocketAddr> = self.stuck.iter().map(|it| self.end(it.port)).collect();
        for port in self.cluster.nodes() {
            for status in self.cluster.node(port).instance().sessions() {
                let outstanding = |c: &godwit_netstack::instance::ConnectionStatus| {
                    (c.tcp.snd_una != c.tcp.snd_nxt || c.tcp.send_queued > 0)
                        && !stuck.contains(&c.remote)
                };
                if status.frozen || status.connections.iter().any(outstanding) {
                    let ends = status.connections.iter();
                    let ends: Vec<_> = ends.map(|c| (c.remote.port(), c.state)).collect();
                    let frozen = status.frozen;
                    left.push(format!("party {port}: {ends:?}, frozen: {frozen}"));
                }
            }
        }
        left
    }

    fn report(mut self, begun: Instant) -> Report {
        let world = &mut self.cluster.world;
        let repeated = world.check::<Retransmission>();
        let retransmissions = (repeated.server, repeated.client);
        Report {
            moves: self.cluster.counter("moves_accepted"),
            frames: self.cluster.world.frames(),
            retransmissions,
            violations: self.cluster.world.violation_count(),
            first_violations: self.cluster.violations().to_vec(),
            virtual_time: self.cluster.now().since(begun),
            trace_hash: self.cluster.world.trace_hash(),
            ..self.report
        }
    }
}

/// How often the instances are looked at in the end, and for how long: a time-out is at most two minutes,
/// and its segment may be lost.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const LAST_SESSION: Duration = Duration::from_secs(600);
