//! A cluster behind one virtual address, one client, and moves: what most tests are made of.

use std::any::Any;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use godwit::config::{Config, InstanceNet, Secret};
use godwit::platform::Device;
use godwit_echo::Echo;
use godwit_http::Files;
use godwit_netstack::cluster::MemberId;
use godwit_netstack::instance::{
    Discover, InstanceConfig, MoveError, Peer, PolicyConfig, RoleConfig, SessionStatus,
};
use godwit_netstack::session::SessionId;
use godwit_netstack::stack::{Cidr, DeviceCapabilities, InstanceNetwork, Interface, StackConfig};
use godwit_netstack::tcp::TcpConfig;
use godwit_netstack::{Duration, Instant};
use godwit_releases::Second;

use crate::check::{self, FlowId, Reset, Retransmission, Violation};
use crate::host::{Client, Conversation, Host, HostConfig, Native, Outcome, Plan, SocketConfig};
use crate::net::{Narrow, Port, Rules};
use crate::node::{Habits, Machine, Node, SCRIPT_PORT, Scripts, Wanderer, port_of};
use crate::rng::Rng;
use crate::world::{Party, World};

/// What the instances serve.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Served {
    /// The script service, driven by hand.
    #[default]
    Script,
    /// The script service on the SDK's drive loop.
    SdkScript,
    /// The real echo service on the SDK's drive loop.
    Echo,
    /// The real HTTP service on the SDK's drive loop.
    Http,
    /// An echo on the SDK's drive loop that moves its own session, among three instances.
    Wanderer,
    /// Two releases of a service on top of it: the first at instance 1, the second at the others.
    Releases,
}

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Everything random follows from it.
    pub seed: u64,
    /// IPv6 rather than IPv4, for everything.
    pub ipv6: bool,
    /// How many instances.
    pub nodes: u32,
    /// How many of the last nodes are configured nowhere: they have to be found.
    pub found: u32,
    /// Further members that are configured but not instances of ours (ids after the instances').
    pub strangers: u32,
    /// What the instances serve.
    pub served: Served,
    /// Links of the instances.
    pub node_link: Rules,
    /// Their links in a network of their own, if they have one.
    pub instance_link: Option<Rules>,
    /// Largest IP packet there.
    pub instance_mtu: u16,
    /// Link of the client.
    pub client_link: Rules,
    /// What the instances' NICs do for them.
    pub capabilities: DeviceCapabilities,
    /// Limits of the instances' TCP.
    pub tcp: TcpConfig,
    /// How the service behaves.
    pub habits: Habits,
    /// How the client's sockets are set up.
    pub sockets: SocketConfig,
    /// The client is on our own TCP, with these limits and defaults, rather than on smoltcp.
    pub native: Option<TcpConfig>,
    /// Largest IP packet of the instances.
    pub mtu: u16,
    /// Largest IP packet of the client; as the instances' if `None`.
    pub client_mtu: Option<u16>,
    /// A bottleneck of packet size before the client: of what comes to it, and if it is native of what
    /// it sends too (smoltcp does not listen to ICMP).
    pub narrow: Option<Narrow>,
    /// How the instances elect their ingress.
    pub role: RoleConfig,
    /// The member that is elected first.
    pub preferred: Option<MemberId>,
    /// How long a move may wait for queues to run empty (not with the SDK, which has its own).
    pub patience: Duration,
    /// Now and then the client does not read for a while.
    pub rests: Option<Rests>,
    /// Sessions whose fate each instance remembers, if not as many as usual (not with the SDK).
    pub remembered: Option<usize>,
    /// When the instances give sessions away unasked.
    pub policy: PolicyConfig,
}

/// A client that reads for a while and then does not, in turns: its window closes, and what the service
/// has for it stays queued.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rests {
    /// How long it reads.
    pub reads: Duration,
    /// And how long it does not.
    pub rests: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            seed: 1,
            ipv6: false,
            nodes: 2,
            found: 0,
            strangers: 0,
            served: Served::Script,
            node_link: Rules::delayed(Duration::from_micros(20)),
            instance_link: None,
            instance_mtu: 1500,
            client_link: Rules::delayed(Duration::from_micros(100)),
            capabilities: DeviceCapabilities::default(),
            tcp: TcpConfig::default(),
            habits: Habits::default(),
            sockets: SocketConfig::default(),
            native: None,
            mtu: 1500,
            client_mtu: None,
            narrow: None,
            role: RoleConfig::default(),
            preferred: None,
            // At once, so that tests say what is queued at a freeze.
            patience: Duration::ZERO,
            rests: None,
            remembered: None,
            policy: PolicyConfig::default(),
        }
    }
}

impl Setup {
    /// Whether no link can lose, delay or repeat anything by chance.
    pub fn is_clean(&self) -> bool {
        let mut links = [self.node_link, self.client_link]
            .into_iter()
            .chain(self.instance_link);
        self.narrow.is_none()
            && links.all(|rules| {
                rules
                    == Rules {
                        rate: rules.rate,
                        ..Rules::delayed(rules.delay)
                    }
                    && rules.rate.is_none()
            })
    }

    /// Own address of a member, or of the client (250 and up), or the virtual address (10).
    fn address(&self, last: u8) -> IpAddr {
        self.address_in(0x77, 77, last)
    }

    fn address_in(&self, network6: u16, network4: u8, last: u8) -> IpAddr {
        match self.ipv6 {
            true => IpAddr::V6(Ipv6Addr::new(
                0xfd00 | network6,
                0,
                0,
                0,
                0,
                0,
                0,
                last.into(),
            )),
            false => IpAddr::V4(Ipv4Addr::new(10, network4, 0, last)),
        }
    }

    /// The client's address.
    pub fn client_address(&self) -> IpAddr {
        self.address(250)
    }

    /// Length of the link's prefix.
    pub fn prefix(&self) -> u8 {
        if self.ipv6 { 64 } else { 24 }
    }

    /// Own address of a member, where the clients are.
    pub fn member_address(&self, id: MemberId) -> IpAddr {
        self.address(10 + id.0 as u8)
    }

    /// The address that others know a member by.
    pub fn peer_address(&self, id: MemberId) -> IpAddr {
        match self.instance_link {
            Some(_) => self.address_in(0x88, 88, 10 + id.0 as u8),
            None => self.member_address(id),
        }
    }

    /// A member's NIC in the network of the instances, if they have one.
    fn instance_device(&self, id: MemberId) -> Option<Device> {
        self.instance_link.map(|_| Device {
            mac: [2, 0, 0, 0, 4, id.0 as u8],
            mtu: self.instance_mtu,
            capabilities: self.capabilities,
        })
    }

    /// The service's address.
    pub fn service(&self) -> SocketAddr {
        let port = match self.served {
            Served::Script | Served::SdkScript | Served::Wanderer => SCRIPT_PORT,
            Served::Echo => 7,
            Served::Http | Served::Releases => 80,
        };
        SocketAddr::new(self.address(10), port)
    }

    /// The cluster's key.
    pub fn cluster_key(&self) -> [u8; 32] {
        Rng::new(self.seed).split(0x6b65, 0).seed()
    }

    /// How far a member's clock is ahead of the world's: no two machines booted together.
    pub fn clock(&self, id: MemberId) -> Duration {
        let mut rng = Rng::new(self.seed).split(0x636b, id.0.into());
        Duration::from_micros(rng.below(5_000_000_000_000))
    }

    /// What a member is built from.
    pub fn instance(&self, id: MemberId) -> InstanceConfig {
        let members = self.nodes + self.strangers;
        let configured = |id: MemberId| !(self.nodes - self.found < id.0 && id.0 <= self.nodes);
        let others = (1..=members).map(MemberId).filter(|other| *other != id);
        let others = others.filter(|other| configured(id) && configured(*other));
        InstanceConfig {
            id,
            stack: StackConfig {
                mac: [2, 0, 0, 0, 1, id.0 as u8],
                mtu: self.mtu,
                capabilities: self.capabilities,
                addresses: vec![Cidr {
                    address: self.member_address(id),
                    prefix: self.prefix(),
                }],
                gateways: Vec::new(),
                dhcp: false,
                vips: vec![self.address(10)],
                instance: self.instance_device(id).map(|device| InstanceNetwork {
                    mac: device.mac,
                    mtu: device.mtu,
                    capabilities: device.capabilities,
                    addresses: vec![Cidr {
                        address: self.peer_address(id),
                        prefix: self.prefix(),
                    }],
                    gateways: Vec::new(),
                }),
                secret: Rng::new(self.seed).split(0x7365, 0).seed(),
                tcp: self.tcp.clone(),
            },
            peers: others
                .map(|id| Peer {
                    id,
                    address: self.peer_address(id),
                })
                .collect(),
            ingress: MemberId(1),
            role: RoleConfig {
                priority: self.role.priority + u8::from(self.preferred == Some(id)),
                ..self.role.clone()
            },
            discover: match (self.found, configured(id)) {
                (0, _) => Discover::Off,
                (_, true) => Discover::On,
                (_, false) => Discover::Join,
            },
            cluster_key: Some(self.cluster_key()),
            patience: self.patience,
        }
    }

    /// The same as the SDK reads it.
    fn config(&self, id: MemberId) -> Config {
        let instance = self.instance(id);
        Config {
            id,
            addresses: instance.stack.addresses,
            dhcp: false,
            gateways: Vec::new(),
            vips: instance.stack.vips,
            service_nic: None,
            instance_net: instance.stack.instance.map(|network| InstanceNet {
                nic: None,
                addresses: network.addresses,
                gateways: network.gateways,
            }),
            peers: instance.peers,
            discover: instance.discover,
            ingress: instance.ingress,
            role: instance.role,
            drain: Default::default(),
            cluster_key: instance.cluster_key.map(Secret::new),
            old_keys: Vec::new(),
            policy: self.policy.clone(),
            admin_port: 9100,
            admin_token: None,
            port: None,
            connections: None,
            watchdog: None,
            log: log::LevelFilter::Off,
            time_server: None,
            sources: Vec::new(),
        }
    }

    /// A member that boots, for the so-manieth time (from 0).
    pub(crate) fn node(&self, id: MemberId, boot: u64, now: Instant) -> Node {
        let mut entropy = Rng::new(self.seed).split(0x6e6f, u64::from(id.0) | boot << 32);
        if self.served == Served::Script {
            let mut node = Node::scripted(self.instance(id), self.habits, entropy.seed(), now);
            if let Some(sessions) = self.remembered {
                node.instance_mut().set_remembered(sessions);
            }
            node.instance_mut().set_policy(self.policy.clone());
            return self.watched(node);
        }
        let machine = Machine {
            device: Device {
                mac: self.instance(id).stack.mac,
                mtu: self.mtu,
                capabilities: self.capabilities,
            },
            instance_device: self.instance_device(id),
            entropy,
        };
        let node = match self.served {
            Served::Http => Node::sdk(&self.config(id), machine, Files::default(), now),
            Served::Releases if id == MemberId(1) => {
                Node::sdk(&self.config(id), machine, godwit_releases::first(), now)
            }
            Served::Releases => Node::sdk(&self.config(id), machine, Second::default(), now),
            Served::Echo => Node::sdk(&self.config(id), machine, Echo, now),
            Served::Wanderer => Node::sdk(&self.config(id), machine, Wanderer, now),
            Served::Script | Served::SdkScript => {
                Node::sdk(&self.config(id), machine, Scripts, now)
            }
        };
        self.watched(node)
    }

    /// The checkers have to be told of moves that nobody here commands.
    fn watched(&self, node: Node) -> Node {
        let given = !self.policy.triggers.is_empty() || self.instance_link.is_some();
        match self.served == Served::Wanderer || given {
            true => node.moves_unasked(),
            false => node,
        }
    }
}

/// A running cluster with a client.
pub struct Cluster {
    /// The world it is in.
    pub world: World,
    /// What it was made of.
    pub setup: Setup,
    /// Port of the client.
    pub client: Port,
    next_local_port: u16,
}

impl Cluster {
    /// Boot the instances and let the channels between them come up.
    pub fn new(setup: Setup) -> Cluster {
        let mut cluster = Cluster::cold(setup);
        cluster.await_channels();
        cluster
    }

    /// Boot the instances, and do not wait for anything.
    pub fn cold(setup: Setup) -> Cluster {
        let mut world = World::new(setup.seed, check::always());
        world.watch(setup.service());
        for id in (1..=setup.nodes).map(MemberId) {
            let ahead = setup.clock(id);
            let node = setup.node(id, 0, world.now() + ahead);
            let links = (setup.node_link, setup.instance_link);
            let port = world.attach_to_both(Box::new(node), links, ahead);
            debug_assert_eq!(port, port_of(id));
        }
        let config = HostConfig {
            mac: [2, 0, 0, 0, 2, 1],
            addresses: vec![(setup.client_address(), setup.prefix())],
            mtu: setup.client_mtu.unwrap_or(setup.mtu).into(),
            seed: Rng::new(setup.seed).split(0x636c, 0).draw(),
            serves: false,
        };
        let client: Box<dyn Party> = match &setup.native {
            Some(tcp) => Box::new(Native::new(config, tcp.clone(), world.now())),
            None => Box::new(Host::new(config, world.now())),
        };
        let client = world.attach(client, setup.client_link);
        if setup.narrow.is_some() {
            let link = world.link(client);
            link.down.rules.narrow = setup.narrow;
            link.up.rules.narrow = setup.narrow.filter(|_| setup.native.is_some());
        }
        let clean = setup.is_clean();
        world.check::<Retransmission>().forbidden = clean;
        Cluster {
            world,
            setup,
            client,
            next_local_port: 40_000,
        }
    }

    /// Let the channels between the instances come up, and one of them be elected.
    pub fn await_channels(&mut self) {
        let instances = self.setup.nodes;
        let limit = self.world.now() + Duration::from_secs(60);
        let nodes: Vec<Port> = self.nodes().collect();
        let up = self.world.run_while(limit, |world| {
            nodes.iter().any(|port| {
                let members = world.party::<Node>(*port).instance().members();
                members
                    .iter()
                    .any(|member| !member.up && member.id.0 <= instances)
            })
        });
        if !up && nodes.len() > 1 {
            self.world
                .violate("cluster", "the channels did not come up in 60 s".into());
        }
        let elected = self.world.run_while(limit, |world| {
            let acts = |port: &Port| world.party::<Node>(*port).instance().is_ingress();
            !nodes.iter().any(acts)
        });
        if !elected {
            self.world
                .violate("cluster", "no ingress was elected in 60 s".into());
        }
    }

    /// Ports of the instances.
    pub fn nodes(&self) -> impl Iterator<Item = Port> + use<> {
        (1..=self.setup.nodes).map(|id| port_of(MemberId(id)))
    }

    /// Pull one of an instance's two cables out, or put it in. It is told about that to its clients, unless it
    /// stands still.
    pub fn set_cable(&mut self, port: Port, interface: Interface, plugged: bool) {
        match interface {
            Interface::Service => {
                self.world.link(port).set_black_hole(!plugged);
                if self.world.is_running(port) {
                    self.world.with(port, |node: &mut Node, now| {
                        node.instance_mut().set_service_link(now, plugged);
                    });
                }
            }
            Interface::Instance => {
                if let Some(link) = self.world.instance_link(port) {
                    link.set_black_hole(!plugged);
                }
            }
        }
    }

    /// The node at a port.
    pub fn node(&self, port: Port) -> &Node {
        self.world.party(port)
    }

    /// Let the client open a connection and follow `plan` on it. Returns its number at the host.
    pub fn converse(&mut self, plan: Plan) -> usize {
        let service = self.setup.service();
        if self.setup.native.is_some() {
            return self.world.with(self.client, |host: &mut Native, now| {
                host.converse(now, service, plan)
            });
        }
        let sockets = self.setup.sockets;
        let port = self.next_local_port;
        self.next_local_port += 1;
        self.world.with(self.client, |host: &mut Host, _| {
            let app = Box::new(Conversation::new(plan));
            host.connect(service, port, sockets, app)
        })
    }

    /// Change what a client's conversation does.
    pub fn change_plan(&mut self, conversation: usize, change: impl FnOnce(&mut Plan)) {
        if self.setup.native.is_some() {
            return self.world.with(self.client, |host: &mut Native, _| {
                change(&mut host.conversation(conversation).plan);
            });
        }
        self.world.with(self.client, |host: &mut Host, _| {
            let (_, app) = host.task_mut(conversation);
            let app = app as &mut dyn Any;
            if let Some(conversation) = app.downcast_mut::<Conversation>() {
                change(&mut conversation.plan);
            }
        });
    }

    /// The client, to open and leave connections in ways of its own.
    pub fn with_client<R>(&mut self, act: impl FnOnce(&mut dyn Client, Instant) -> R) -> R {
        match self.setup.native {
            Some(_) => self
                .world
                .with(self.client, |host: &mut Native, now| act(host, now)),
            None => self
                .world
                .with(self.client, |host: &mut Host, now| act(host, now)),
        }
    }

    /// The client, to look at.
    pub fn as_client(&self) -> &dyn Client {
        match self.setup.native {
            Some(_) => self.world.party::<Native>(self.client),
            None => self.world.party::<Host>(self.client),
        }
    }

    /// How a conversation fares.
    pub fn outcome(&self, conversation: usize) -> Outcome {
        match &self.setup.native {
            Some(_) => self
                .world
                .party::<Native>(self.client)
                .outcome(conversation),
            None => self.world.party::<Host>(self.client).outcome(conversation),
        }
    }

    /// The client's latest flow.
    pub fn flow(&self) -> Option<FlowId> {
        self.world.flows().of_port(self.client)
    }

    /// Whether the latest flow never came to be: all that the client sent while the server waited for the
    /// end of the handshake was lost.
    fn has_expired(&mut self) -> bool {
        self.flow()
            .is_some_and(|flow| self.world.check::<Reset>().has_expired(flow))
    }

    /// Whether it is the client's TCP that does not come to an end, by a fault of its own.
    pub(crate) fn has_forgotten_its_fin(&self, conversation: usize) -> bool {
        self.setup.native.is_none()
            && self
                .world
                .party::<Host>(self.client)
                .has_forgotten_its_fin(conversation)
    }

    /// Segments both ends have emitted in the latest flow.
    pub fn segments(&self) -> u64 {
        self.flow()
            .map_or(0, |flow| self.world.flows().get(flow).segments)
    }

    /// Who has the session of the latest flow, unfrozen.
    pub fn owner(&self) -> Option<(Port, SessionStatus)> {
        let client = self.world.flows().get(self.flow()?).client;
        self.nodes().find_map(|port| {
            let sessions = self.node(port).instance().sessions();
            let session = sessions.into_iter().find(|session| {
                !session.frozen && session.connections.iter().any(|c| c.remote == client)
            })?;
            Some((port, session))
        })
    }

    /// State of the connection of the latest flow at its owner, by its RFC 9293 name.
    pub fn state(&self) -> Option<&'static str> {
        let (_, session) = self.owner()?;
        Some(session.connections.first()?.state)
    }

    /// Move a session.
    ///
    /// # Errors
    /// What the instance says.
    pub fn move_session(
        &mut self,
        from: Port,
        session: SessionId,
        to: Port,
    ) -> Result<(), MoveError> {
        let to = MemberId(to as u32 + 1);
        let ends = self.node(from).instance();
        let client = ends.session_ends().find(|(id, ..)| *id == session);
        let client = client.and_then(|(_, _, client)| client);
        drop(ends);
        let flow = client.and_then(|client| self.flow_of(from, session, client));
        self.world.with(from, |node: &mut Node, now| {
            node.move_session(now, session, to)?;
            flow.into_iter()
                .for_each(|flow| node.name_flow(session, flow));
            Ok(())
        })
    }

    /// The flow of a session: not always its client's latest, as a client may have given one up without a
    /// word and opened another from the same port.
    fn flow_of(&self, at: Port, session: SessionId, client: SocketAddr) -> Option<FlowId> {
        let flows = self.world.flows();
        let latest = flows.of_client(client)?;
        if flows.get(latest).before.is_none() {
            return Some(latest);
        }
        let sessions = self.node(at).instance().sessions();
        let status = sessions.iter().find(|status| status.id == session);
        let connection = status.and_then(|status| status.connections.first());
        connection.map_or(Some(latest), |connection| {
            flows.of_connection(client, &connection.tcp)
        })
    }

    /// Who has the session of a client's connection, unfrozen.
    pub fn holder(&self, client: SocketAddr) -> Option<(Port, SessionId)> {
        self.nodes().find_map(|port| {
            let instance = self.node(port).instance();
            let mut ends = instance.session_ends();
            let found = ends.find(|(_, frozen, end)| !frozen && *end == Some(client));
            found.map(|(id, ..)| (port, id))
        })
    }

    /// Move the session of the latest flow to the next instance, if anyone has it and may.
    pub fn move_on(&mut self) -> bool {
        let flow = self.flow();
        let client = flow.map(|flow| self.world.flows().get(flow).client);
        let Some((from, session)) = client.and_then(|client| self.holder(client)) else {
            return false;
        };
        let to = (from + 1) % self.setup.nodes as usize;
        self.move_session(from, session, to).is_ok()
    }

    /// Moves that were accepted so far.
    pub fn moves(&self) -> u64 {
        let finished = self.nodes().map(|port| {
            let moves = self.node(port).instance().moves();
            moves.iter().filter(|m| m.result == "accepted").count() as u64
        });
        finished.sum()
    }

    /// A counter of the instances, added up.
    pub fn counter(&self, name: &str) -> u64 {
        self.nodes().map(|port| self.node(port).counter(name)).sum()
    }

    /// Let a conversation come to its end within `limit` of virtual time, `act` looking on after
    /// each step.
    pub fn finish_with(
        &mut self,
        conversation: usize,
        limit: Duration,
        mut act: impl FnMut(&mut Cluster),
    ) {
        let until = self.world.now() + limit;
        while self.outcome(conversation) == Outcome::Running {
            match self.world.next_event() {
                Some(at) if at <= until && self.world.step() => act(self),
                _ => break,
            }
        }
        match self.outcome(conversation) {
            Outcome::Done => {}
            Outcome::Running if self.has_forgotten_its_fin(conversation) => {}
            Outcome::Running => {
                let state = self.state();
                self.world.violate(
                    "progress",
                    format!("not finished after {limit:?}; server state {state:?}"),
                );
            }
            Outcome::Failed(_) if self.has_expired() => {}
            Outcome::Failed(why) => self.world.violate("client", why),
        }
    }

    /// As [`Cluster::finish_with`], without looking on.
    pub fn finish(&mut self, conversation: usize, limit: Duration) {
        self.finish_with(conversation, limit, |_| {});
    }

    /// Let the world go on until `condition` holds, at most for `limit`; whether it came to hold.
    pub fn run_until_state(&mut self, state: &str, limit: Duration) -> bool {
        let until = self.world.now() + limit;
        loop {
            if self.state() == Some(state) {
                return true;
            }
            match self.world.next_event() {
                Some(at) if at <= until && self.world.step() => {}
                _ => return false,
            }
        }
    }

    /// The time.
    pub fn now(&self) -> Instant {
        self.world.now()
    }

    /// What went wrong.
    pub fn violations(&self) -> &[Violation] {
        self.world.violations()
    }

    /// Fail the test if anything went wrong, naming the run.
    ///
    /// # Panics
    /// If there are violations.
    pub fn assert_clean(&self, run: &str) {
        if self.violations().is_empty() {
            return;
        }
        let list: Vec<String> = self
            .violations()
            .iter()
            .take(8)
            .map(ToString::to_string)
            .collect();
        panic!(
            "{run} (seed {}): {} violations\n{}",
            self.setup.seed,
            self.world.violation_count(),
            list.join("\n")
        );
    }
}
