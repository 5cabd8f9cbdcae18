//! The drive loop: one instance, its sessions' tasks and its node agent, turned over a
//! [`Platform`].

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Ref, RefMut};
use core::net::IpAddr;

use godwit_netstack::cluster::keys::Key;
use godwit_netstack::instance::{Event, InstanceConfig, PATIENCE, ServiceId};
use godwit_netstack::session::{BySession, SessionId};
use godwit_netstack::stack::{Cidr, InstanceNetwork, Interface, RxFrame, Scope, StackConfig};
use godwit_netstack::tcp::TcpConfig;
use godwit_netstack::{Duration, Instance, Instant};
use sha2::{Digest, Sha256};

use crate::agent::Agent;
use crate::config::Config;
use crate::executor::{TaskId, Tasks};
use crate::nics::{NicChoice, NicStatus};
use crate::platform::Platform;
use crate::port::{Port, Waiters};
use crate::ready::Ready;
use crate::rescue;
use crate::service::{AnyService, Service};
use crate::shared::{Phase, Shared};
use crate::sntp::Sntp;
use crate::verdict::{Code, Verdict};

/// How old the counters of the NIC may be that are shown.
const COUNTED: Duration = Duration::from_millis(100);
/// Frames taken in, in one turn.
const RECEIVE_BUDGET: usize = 64;
/// Tasks polled in one turn.
const TASK_BUDGET: usize = 64;
/// Frames sent in one turn.
const TRANSMIT_BUDGET: usize = 256;
/// Octets of a packet that every link has to carry for IPv6 (RFC 8200, section 5).
const IPV6_MTU: u16 = 1280;
/// How long DHCP may take before the instance gives up.
const LEASE_PATIENCE: Duration = Duration::from_secs(30);
/// How long a drained instance stays for the last frames and questions.
pub(crate) const FAREWELL: Duration = Duration::from_millis(150);

/// Who watches the drain asks again within this time, and is told the end before the instance goes.
const REPORT: Duration = Duration::from_secs(1);

/// One instance with everything that runs on it.
pub struct Node {
    shared: Rc<Shared>,
    services: Vec<(ServiceId, Rc<dyn AnyService>)>,
    service_name: &'static str,
    tasks: Tasks<SessionId>,
    served: BySession<Served>,
    /// Frames of one turn, on their way from the NIC to the instance.
    received: Vec<RxFrame>,
    /// When the instance has to be looked at again, as of the end of the last turn.
    due: Option<Instant>,
    awaits_lease: bool,
    begun: bool,
    announced: bool,
    /// Times the power button was pressed.
    pressed: u32,
    leave_at: Option<Instant>,
    /// When the counters of the NIC were looked at.
    counted: Instant,
    verdict: Option<Verdict>,
    /// Why the service network's card is out of service for good.
    lost: Option<String>,
    /// Configuration that came with the lease, for whoever has the rest.
    words: Option<Vec<u8>>,
    time_server: Option<Option<IpAddr>>,
    /// Who is asked for the date.
    sntp: Option<Sntp>,
}

struct Served {
    task: TaskId,
    waiters: Rc<Waiters>,
}

impl Node {
    /// Set up an instance as configured, serving `service`.
    pub fn new<P: Platform, S: Service>(
        platform: &mut P,
        config: &Config,
        service: S,
    ) -> Result<Node, Verdict> {
        Node::serving(platform, config, Rc::new(service))
    }

    fn serving<P: Platform>(
        platform: &mut P,
        config: &Config,
        service: Rc<dyn AnyService>,
    ) -> Result<Node, Verdict> {
        let mut seed = [0; 32];
        let mut secret = [0; 32];
        for random in [&mut seed, &mut secret] {
            platform
                .fill_random(random)
                .map_err(|error| Verdict::new(Code::NoEntropy, error.to_string()))?;
        }
        if let Some(key) = &config.cluster_key {
            secret = shared_secret(key.expose());
        }
        let instance_network = take_nics(platform, config)?;
        let device = platform.device();
        let is_ipv6 = |own: &Cidr| own.address.is_ipv6();
        if device.mtu < IPV6_MTU && config.addresses.iter().any(is_ipv6) {
            log::warn!(
                "the network card takes packets of {} octets, IPv6 needs {IPV6_MTU}",
                device.mtu
            );
        }
        let now = platform.now();
        let mut instance = Instance::new(
            InstanceConfig {
                id: config.id,
                stack: StackConfig {
                    mac: device.mac,
                    mtu: device.mtu,
                    capabilities: device.capabilities,
                    addresses: config.addresses.clone(),
                    gateways: config.gateways.clone(),
                    dhcp: config.dhcp,
                    vips: config.vips.clone(),
                    instance: instance_network,
                    secret,
                    tcp: tcp_config(platform.memory(), config.connections),
                },
                peers: config.peers.clone(),
                discover: config.discover,
                ingress: config.ingress,
                role: config.role.clone(),
                cluster_key: config.cluster_key.as_ref().map(|key| *key.expose()),
                patience: PATIENCE,
            },
            seed,
            now,
        );
        for key in &config.old_keys {
            // At most as many as fit; without peers no key is of use.
            let _ = instance.add_key(Key(*key.expose()));
        }
        instance.set_policy(config.policy.clone());
        if let Some(clock) = platform.stopwatch() {
            instance.set_clock(clock);
        }
        let spec = service.clone().spec(config.port, Scope::Service);
        let service_name = spec.name;
        let mut services = Vec::new();
        services.push((instance.add_service(spec), service));

        let shared = Shared::new(instance, now);
        shared.set_drain_options(config.drain);
        let agent: Rc<dyn AnyService> = Rc::new(Agent::new(
            shared.clone(),
            service_name,
            config.admin_token.clone(),
            config.admin_port,
            platform.insight(),
        ));
        let spec = agent.clone().spec(Some(config.admin_port), Scope::Own);
        let agent_id = shared.instance_mut().add_service(spec);
        services.push((agent_id, agent));
        Ok(Node {
            shared,
            services,
            service_name,
            tasks: Tasks::new(),
            served: BySession::new(),
            received: Vec::with_capacity(RECEIVE_BUDGET),
            due: None,
            awaits_lease: config.dhcp,
            begun: false,
            announced: false,
            pressed: 0,
            leave_at: None,
            counted: now,
            verdict: None,
            lost: None,
            words: None,
            time_server: config.time_server,
            sntp: None,
        })
    }

    /// One turn: take frames in, fire due timers, run ready tasks, send what came of it. Returns
    /// when the next turn is due (now, if work is left) unless a frame comes first.
    pub fn step<P: Platform>(&mut self, platform: &mut P) -> Option<Instant> {
        platform.turn();
        let now = platform.now();
        self.shared.set_now(now);
        if now.since(self.counted) >= COUNTED {
            self.counted = now;
            self.shared.set_nic_counters(platform.counters());
            self.look_at_nics(now, platform.nics());
            self.shared.set_date(platform.date());
        }
        self.shared.instance_mut().set_scarcity(platform.scarcity());
        if platform.power_button() {
            self.press_power_button(now);
        }
        let mut more = receive(&self.shared, &mut self.received, platform, now);
        // Not in the first turn: reaching for the peers (a key exchange each) must not come before
        // clients are served.
        let begun = core::mem::replace(&mut self.begun, true);
        if begun && self.due.is_some_and(|at| at <= now) {
            self.shared.instance_mut().handle_timeout(now);
        }
        self.shared.fire_timers(now);
        self.ask_time(platform, now);
        self.handle_events(now);

        let (shared, received) = (&self.shared, &mut self.received);
        let ended = self.tasks.turn(TASK_BUDGET, |session, poll| {
            shared.set_now(platform.now());
            // One task may take much; the next one should know.
            shared.instance_mut().set_scarcity(platform.scarcity());
            platform.serving(Some(*session));
            P::guarded(poll, &mut || {
                rescue::hand_over(shared, received, platform, *session);
            });
        });
        platform.serving(None);
        for session in ended {
            self.served.remove(&session);
        }
        let now = platform.now();
        self.shared.set_now(now);
        self.handle_events(now);

        more |= transmit(&self.shared, platform, now);
        platform.flush();
        self.handle_events(now);
        self.announce(platform, now);
        self.end(now);
        self.due = self.shared.instance().poll_timeout();
        if more || self.tasks.has_ready() {
            return Some(now);
        }
        [
            self.due,
            self.shared.next_timer(),
            self.leave_at,
            self.lease_deadline(),
            self.sntp.as_ref().map(Sntp::poll_timeout),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Set once the instance is done; the machine may go.
    pub fn verdict(&self) -> Option<&Verdict> {
        self.verdict.as_ref()
    }

    /// The instance, to look at.
    pub fn instance(&self) -> Ref<'_, Instance> {
        self.shared.instance()
    }

    /// The instance, to command (the simulator moves sessions this way). Call [`Node::step`]
    /// afterwards.
    pub fn instance_mut(&mut self) -> RefMut<'_, Instance> {
        self.shared.instance_mut()
    }

    /// Leave cleanly: what the power button does.
    pub fn drain<P: Platform>(&mut self, platform: &mut P) {
        self.shared.set_now(platform.now());
        self.shared.drain();
    }

    /// With one network whoever is without it notices; with two somebody has to say so.
    fn look_at_nics(&mut self, now: Instant, nics: Vec<NicStatus>) {
        self.shared.set_nics(nics);
        let nics = self.shared.nics();
        let service = nics.iter().find(|nic| nic.interface == Interface::Service);
        let Some(service) = service.filter(|_| nics.len() > 1) else {
            return;
        };
        let (works, fault) = (service.works(), service.fault.clone());
        drop(nics);
        self.shared.instance_mut().set_service_link(now, works);
        if let Some(fault) = fault.filter(|_| self.lost.is_none()) {
            // What it has can still go to others, by the other card.
            self.lost = Some(fault);
            self.shared.drain();
        }
    }

    /// The first press is a request, the second an order. A drain that somebody else has asked for
    /// counts as neither.
    fn press_power_button(&mut self, now: Instant) {
        self.pressed += 1;
        if self.pressed == 1 {
            log::info!("power button: draining");
            self.shared.drain();
        } else {
            let left = self.served.len();
            log::warn!("power button again; sessions left behind: {left}");
            self.leave_at = Some(now);
        }
    }

    fn handle_events(&mut self, now: Instant) {
        loop {
            // Not in the loop's head: the borrow would last through the body.
            let event = self.shared.instance_mut().poll_event();
            match event {
                None => return,
                Some(Event::SessionStarted { session, service }) => self.start(session, service),
                Some(Event::SessionWoken(session)) => {
                    if let Some(served) = self.served.get(&session) {
                        served.waiters.wake();
                    }
                }
                Some(Event::SessionStopped(session)) => {
                    if let Some(served) = self.served.remove(&session) {
                        self.tasks.cancel(served.task);
                    }
                }
                Some(Event::Drained) => {
                    self.shared.set_phase(Phase::Drained);
                    self.leave_at.get_or_insert(now + FAREWELL);
                }
                Some(Event::DrainCancelled) => {
                    self.shared.set_phase(Phase::Serving);
                    self.pressed = 0;
                    if self.lost.is_some() {
                        // There is nothing to go on with.
                        self.leave_at.get_or_insert(now);
                    }
                }
                Some(other) => log::debug!("event not handled: {other:?}"),
            }
        }
    }

    fn start(&mut self, session: SessionId, service: ServiceId) {
        let Some((_, service)) = self.services.iter().find(|known| known.0 == service) else {
            log::error!("session {session} for an unknown service");
            self.shared
                .instance_mut()
                .abort(Port::now(&*self.shared), session);
            return;
        };
        let waiters = Rc::new(Waiters::default());
        let future = service
            .clone()
            .start(self.shared.clone(), waiters.clone(), session);
        let task = self.tasks.spawn(session, future);
        if let Some(old) = self.served.insert(session, Served { task, waiters }) {
            self.tasks.cancel(old.task);
        }
    }

    /// Print the readiness line once the instance has its address.
    fn announce<P: Platform>(&mut self, platform: &mut P, now: Instant) {
        if self.announced {
            return;
        }
        let options = self.shared.instance_mut().take_lease_options();
        if let Some(options) = options {
            self.time_server = self.time_server.or(options.time_server.map(Some));
            self.words = Some(options.configuration).filter(|words| !words.is_empty());
        }
        let addresses = self.shared.instance().addresses();
        if self.words.is_some()
            || addresses.is_empty()
            || (self.awaits_lease && !addresses.iter().any(|a| a.is_ipv4()))
        {
            return;
        }
        self.announced = true;
        self.awaits_lease = false;
        let instance_addresses = {
            let instance = self.shared.instance();
            match instance.has_instance_network() {
                true => instance.peer_addresses(),
                false => Vec::new(),
            }
        };
        let ready = Ready {
            id: self.shared.instance().id().0,
            service: self.service_name,
            addresses: &addresses,
            instance_addresses: &instance_addresses,
            ready_us: now.as_micros(),
        };
        platform.console(format_args!("GODWIT READY {ready}"));
        self.begin_asking(platform, now);
    }

    /// Ask for the date from now on, if there is somebody to ask.
    fn begin_asking<P: Platform>(&mut self, platform: &mut P, now: Instant) {
        const PORTS: u16 = 49152;
        let Some(server) = self.time_server.flatten() else {
            return;
        };
        let mut port = [0; 2];
        let _ = platform.fill_random(&mut port);
        let port = PORTS | u16::from_le_bytes(port);
        self.shared.instance_mut().datagram_listen(port);
        self.sntp = Some(Sntp::new(server, now));
    }

    /// Take a time server's answer, and ask it.
    fn ask_time<P: Platform>(&mut self, platform: &mut P, now: Instant) {
        let Some(sntp) = &mut self.sntp else {
            return;
        };
        let mut instance = self.shared.instance_mut();
        while let Some((from, answer)) = instance.datagram_receive() {
            match sntp.handle_answer(now, from, &answer, platform.date()) {
                Ok(date) => platform.set_date(date),
                Err(refusal) => self.shared.count(refusal),
            }
        }
        if sntp.poll_timeout() <= now {
            let mut nonce = [0; 8];
            let _ = platform.fill_random(&mut nonce);
            if let Some(question) = sntp.poll_question(now, u64::from_le_bytes(nonce)) {
                instance.datagram_send(now, sntp.server(), &question);
            }
        }
    }

    fn lease_deadline(&self) -> Option<Instant> {
        // Without its card it leaves for that, and nothing else.
        let awaits = self.awaits_lease && self.lost.is_none();
        awaits.then(|| self.shared.started() + LEASE_PATIENCE)
    }

    #[cold]
    fn no_lease(&self) -> Verdict {
        let reason = match self.shared.nics().first() {
            Some(service) if !service.works() => "no DHCP lease: the network card has no link",
            _ => "no DHCP lease",
        };
        Verdict::new(Code::NoLease, reason)
    }

    fn end(&mut self, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if self.verdict.is_some() {
        } else if due(self.leave_at) && self.shared.is_watched(REPORT) {
            self.leave_at = Some(now + FAREWELL);
        } else if due(self.leave_at) {
            let forced = self.shared.instance().sessions_forced();
            self.verdict = Some(match (self.shared.phase(), forced) {
                _ if self.lost.is_some() => {
                    let fault = self.lost.as_deref().unwrap_or_default();
                    let reason =
                        alloc::format!("the service network's card is out of service: {fault}");
                    Verdict::new(Code::NoNic, reason)
                }
                (Phase::Drained, 0) => Verdict::new(Code::Drained, "drained"),
                (Phase::Drained, count) => {
                    let reason = alloc::format!("sessions that did not move in time: {count}");
                    Verdict::new(Code::Incomplete, reason)
                }
                _ => {
                    let reason = "ordered to leave before the drain was complete";
                    Verdict::new(Code::Incomplete, reason)
                }
            });
        } else if due(self.lease_deadline()) {
            self.verdict = Some(self.no_lease());
        }
    }
}

/// Take frames in; whether there may be more.
pub(crate) fn receive<P: Platform>(
    shared: &Shared,
    received: &mut Vec<RxFrame>,
    platform: &mut P,
    now: Instant,
) -> bool {
    while received.len() < RECEIVE_BUDGET
        && let Some(frame) = platform.receive()
    {
        received.push(frame);
    }
    let more = received.len() == RECEIVE_BUDGET;
    if !received.is_empty() {
        if shared.capture.is_on() {
            let frames = received.iter();
            frames.for_each(|frame| shared.capture.received(now, frame));
        }
        shared.instance_mut().handle_frames(now, received);
    }
    more
}

/// Send what there is; whether there may be more that could be sent at once.
pub(crate) fn transmit<P: Platform>(shared: &Shared, platform: &mut P, now: Instant) -> bool {
    for _ in 0..TRANSMIT_BUDGET {
        if !platform.can_transmit() {
            return false;
        }
        let frame = shared.instance_mut().poll_transmit(now);
        let Some(frame) = frame else { return false };
        if shared.capture.is_on() {
            shared.capture.sent(now, &frame);
        }
        platform.transmit(frame);
    }
    true
}

/// Octets reckoned for a connection without its queues: block, session, task, table entries.
const CONNECTION: usize = 6 * 1024;

/// What TCP may use of so much memory: a quarter for queues, whose octets pin buffers about as
/// large again, and a quarter for connections. The rest is everything else's.
fn tcp_config(memory: Option<usize>, wanted: Option<u32>) -> TcpConfig {
    let default = TcpConfig::default();
    let Some(memory) = memory else {
        return TcpConfig {
            max_connections: wanted.unwrap_or(default.max_connections),
            ..default
        };
    };
    let connections = (memory / 4 / CONNECTION).max(64) as u32;
    TcpConfig {
        memory: default.memory.min(memory / 4),
        max_connections: wanted.unwrap_or(default.max_connections.min(connections)),
        max_half_open: default.max_half_open.min(connections),
        ..default
    }
}

/// Have the platform take the cards that are wanted; the instance network, if there is one.
fn take_nics<P: Platform>(
    platform: &mut P,
    config: &Config,
) -> Result<Option<InstanceNetwork>, Verdict> {
    let wrong = |reason| Verdict::new(Code::BadConfig, reason);
    let choice = NicChoice {
        service: config.service_nic,
        instance: config.instance_net.as_ref().map(|net| net.nic),
    };
    platform.choose_nics(&choice).map_err(wrong)?;
    let Some(net) = &config.instance_net else {
        return Ok(None);
    };
    let Some(device) = platform.instance_device() else {
        return Err(wrong("there is no card for the instance network".into()));
    };
    Ok(Some(InstanceNetwork {
        mac: device.mac,
        mtu: device.mtu,
        capabilities: device.capabilities,
        addresses: net.addresses.clone(),
        gateways: net.gateways.clone(),
    }))
}

/// The secret behind initial sequence numbers: the same at all members, and of no use to who
/// learns the cluster key's other derivatives.
fn shared_secret(cluster_key: &[u8; 32]) -> [u8; 32] {
    Sha256::new()
        .chain_update(b"godwit isn secret v1")
        .chain_update(cluster_key)
        .finalize()
        .into()
}

/// Configure an instance from `sources` (later ones win), serve `service` and return when it is
/// over.
pub fn run<P: Platform, S: Service>(platform: &mut P, sources: &[&str], service: S) -> Verdict {
    match configure(sources) {
        Ok(config) => run_configured(platform, config, service),
        Err(verdict) => verdict,
    }
}

/// Read the configuration from `sources` (later ones win), which may then be wiped.
pub fn configure(sources: &[&str]) -> Result<Config, Verdict> {
    Config::parse(sources).map_err(|error| Verdict::new(Code::BadConfig, error.to_string()))
}

/// Like [`run`], with a configuration that has been read.
pub fn run_configured<P: Platform, S: Service>(
    platform: &mut P,
    mut config: Config,
    service: S,
) -> Verdict {
    let service: Rc<dyn AnyService> = Rc::new(service);
    loop {
        log::set_max_level(config.log);
        platform.watch(config.watchdog);
        let node = match Node::serving(platform, &config, service.clone()) {
            Ok(node) => node,
            Err(verdict) => return verdict,
        };
        match live(platform, &config, node) {
            Life::Over(verdict) => return verdict,
            Life::Configured(more) => config = *more,
            Life::Restored => {
                log::warn!("restored from a snapshot: all is begun anew, as after a boot");
            }
        }
    }
}

/// How an instance came to its end.
#[derive(PartialEq, Eq, Debug)]
enum Life {
    /// It is done.
    Over(Verdict),
    /// This machine is not the one it was any more: what the instance has may be another's too, so
    /// nothing of it is used.
    Restored,
    /// Before it served anybody, more was heard about how it should be.
    Configured(Box<Config>),
}

/// Turns the loop until the instance is at its end.
fn live<P: Platform>(platform: &mut P, config: &Config, mut node: Node) -> Life {
    while !platform.restored() {
        let until = node.step(platform);
        if let Some(verdict) = node.verdict() {
            return Life::Over(verdict.clone());
        }
        if let Some(words) = node.words.take() {
            match config.with_lease(&words) {
                Some(Ok(config)) => return Life::Configured(Box::new(config)),
                Some(Err(error)) => {
                    log::warn!("configuration by DHCP: {error}");
                    node.shared.count("dhcp.configuration_refused");
                }
                None => {}
            }
            continue;
        }
        if until.is_none_or(|at| at > platform.now()) {
            platform.idle(until);
        }
    }
    Life::Restored
}

#[cfg(test)]
mod tests;
