//! The drive loop: one instance, its sessions' tasks and its node agent, turned over a
//! [`Platform`].

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::cell::{Ref, RefMut};

use godwit_netstack::instance::{Event, InstanceConfig, PATIENCE, ServiceId};
use godwit_netstack::session::SessionId;
use godwit_netstack::stack::{RxFrame, Scope, StackConfig};
use godwit_netstack::tcp::TcpConfig;
use godwit_netstack::{Duration, Instance, Instant};
use sha2::{Digest, Sha256};

use crate::agent::Agent;
use crate::config::Config;
use crate::executor::{TaskId, Tasks};
use crate::platform::Platform;
use crate::port::{Port, Waiters};
use crate::service::{AnyService, Service};
use crate::shared::{Phase, Shared};
use crate::verdict::{Code, Verdict};

/// Frames taken in, in one turn.
const RECEIVE_BUDGET: usize = 64;
/// Tasks polled in one turn.
const TASK_BUDGET: usize = 64;
/// Frames sent in one turn.
const TRANSMIT_BUDGET: usize = 256;
/// How long DHCP may take before the instance gives up.
const LEASE_PATIENCE: Duration = Duration::from_secs(30);
/// How long a drained instance stays for the last frames and questions.
const FAREWELL: Duration = Duration::from_millis(150);

/// One instance with everything that runs on it.
pub struct Node {
    shared: Rc<Shared>,
    services: Vec<(ServiceId, Rc<dyn AnyService>)>,
    service_name: &'static str,
    tasks: Tasks<SessionId>,
    served: BTreeMap<SessionId, Served>,
    /// Frames of one turn, on their way from the NIC to the instance.
    received: Vec<RxFrame>,
    awaits_lease: bool,
    announced: bool,
    leave_at: Option<Instant>,
    verdict: Option<Verdict>,
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
        let device = platform.device();
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
                    secret,
                    tcp: TcpConfig::default(),
                },
                peers: config.peers.clone(),
                ingress: config.ingress,
                cluster_key: config.cluster_key.as_ref().map(|key| *key.expose()),
                patience: PATIENCE,
            },
            seed,
            now,
        );
        if let Some(clock) = platform.stopwatch() {
            instance.set_clock(clock);
        }
        let service: Rc<dyn AnyService> = Rc::new(service);
        let spec = service.spec(config.port, Scope::Service);
        let service_name = spec.name;
        let mut services = Vec::new();
        services.push((instance.add_service(spec), service));

        let shared = Shared::new(instance, now);
        let agent: Rc<dyn AnyService> = Rc::new(Agent::new(
            shared.clone(),
            service_name,
            config.admin_token.clone(),
        ));
        let spec = agent.spec(Some(config.admin_port), Scope::Own);
        let agent_id = shared.instance_mut().add_service(spec);
        services.push((agent_id, agent));
        Ok(Node {
            shared,
            services,
            service_name,
            tasks: Tasks::new(),
            served: BTreeMap::new(),
            received: Vec::with_capacity(RECEIVE_BUDGET),
            awaits_lease: config.dhcp,
            announced: false,
            leave_at: None,
            verdict: None,
        })
    }

    /// One turn: take frames in, fire due timers, run ready tasks, send what came of it. Returns
    /// when the next turn is due (now, if work is left) unless a frame comes first.
    pub fn step<P: Platform>(&mut self, platform: &mut P) -> Option<Instant> {
        let now = platform.now();
        self.shared.set_now(now);
        if platform.power_button() {
            self.press_power_button(now);
        }
        let mut more = self.receive(platform, now);
        if self
            .shared
            .instance()
            .poll_timeout()
            .is_some_and(|at| at <= now)
        {
            self.shared.instance_mut().handle_timeout(now);
        }
        self.shared.fire_timers(now);
        self.handle_events(now);

        let shared = &self.shared;
        let ended = self
            .tasks
            .turn(TASK_BUDGET, || shared.set_now(platform.now()));
        for session in ended {
            self.served.remove(&session);
        }
        let now = platform.now();
        self.shared.set_now(now);
        self.handle_events(now);

        more |= self.transmit(platform, now);
        platform.flush();
        self.handle_events(now);
        self.announce(platform, now);
        self.end(now);
        if more || self.tasks.has_ready() {
            return Some(now);
        }
        [
            self.shared.instance().poll_timeout(),
            self.shared.next_timer(),
            self.leave_at,
            self.lease_deadline(),
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

    /// The first press is a request, the second an order.
    fn press_power_button(&mut self, now: Instant) {
        if self.shared.phase() == Phase::Serving {
            log::info!("power button: draining");
            self.shared.drain();
        } else {
            let left = self.served.len();
            log::warn!("power button again: leaving {left} sessions behind");
            self.leave_at = Some(now);
        }
    }

    /// Take frames in; whether there may be more.
    fn receive<P: Platform>(&mut self, platform: &mut P, now: Instant) -> bool {
        while self.received.len() < RECEIVE_BUDGET
            && let Some(frame) = platform.receive()
        {
            self.received.push(frame);
        }
        let more = self.received.len() == RECEIVE_BUDGET;
        if !self.received.is_empty() {
            let mut instance = self.shared.instance_mut();
            instance.handle_frames(now, &mut self.received);
        }
        more
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

    /// Send what there is; whether there may be more that could be sent at once.
    fn transmit<P: Platform>(&mut self, platform: &mut P, now: Instant) -> bool {
        for _ in 0..TRANSMIT_BUDGET {
            if !platform.can_transmit() {
                return false;
            }
            let frame = self.shared.instance_mut().poll_transmit(now);
            let Some(frame) = frame else { return false };
            platform.transmit(frame);
        }
        true
    }

    /// Print the readiness line once the instance has its address.
    fn announce<P: Platform>(&mut self, platform: &mut P, now: Instant) {
        if self.announced {
            return;
        }
        let addresses = self.shared.instance().addresses();
        if addresses.is_empty() || (self.awaits_lease && !addresses.iter().any(|a| a.is_ipv4())) {
            return;
        }
        self.announced = true;
        self.awaits_lease = false;
        let ip: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        let line = serde_json::json!({
            "id": self.shared.instance().id().0,
            "service": self.service_name,
            "ip": ip,
            "ready_us": now.as_micros(),
        });
        platform.console(format_args!("GODWIT READY {line}"));
    }

    fn lease_deadline(&self) -> Option<Instant> {
        self.awaits_lease
            .then(|| self.shared.started() + LEASE_PATIENCE)
    }

    fn end(&mut self, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if self.verdict.is_some() {
        } else if due(self.leave_at) {
            let reason = match self.shared.phase() {
                Phase::Drained => "drained",
                _ => "ordered to leave before the drain was complete",
            };
            self.verdict = Some(Verdict::new(Code::Drained, reason));
        } else if due(self.lease_deadline()) {
            self.verdict = Some(Verdict::new(Code::NoLease, "no DHCP lease"));
        }
    }
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
    let config = match Config::parse(sources) {
        Ok(config) => config,
        Err(error) => return Verdict::new(Code::BadConfig, error.to_string()),
    };
    log::set_max_level(config.log);
    let mut node = match Node::new(platform, &config, service) {
        Ok(node) => node,
        Err(verdict) => return verdict,
    };
    loop {
        let until = node.step(platform);
        if let Some(verdict) = node.verdict() {
            return verdict.clone();
        }
        if until.is_none_or(|at| at > platform.now()) {
            platform.idle(until);
        }
    }
}
