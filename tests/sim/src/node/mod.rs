//! A Godwit node in the simulator: a machine with one instance and a service on it.
//!
//! Either the [`crate::script`] service driven by hand ([`Node::scripted`]), or the SDK's drive loop with
//! a real service ([`Node::sdk`]). By convention the member with id `n` sits at port `n - 1`.

mod bare;
mod nic;
mod scripted;
mod sdk;
mod service;

use std::cell::{Ref, RefMut};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use bytes::Bytes;
use godwit::{Config, Service};
use godwit_netstack::cluster::MemberId;
use godwit_netstack::instance::{InstanceConfig, MoveError};
use godwit_netstack::session::SessionId;
use godwit_netstack::stack::{FlowKey, Interface, MacAddr, RxFrame};
use godwit_netstack::tcp::Info;
use godwit_netstack::{Instance, Instant};

pub use bare::{Bare, Luggage};
pub use nic::on_the_wire;
pub use scripted::Habits;
pub use sdk::Machine;
pub(crate) use service::{Scripts, Wanderer};

use crate::check::{FlowId, Flows, Note};
use crate::net::Port;
use crate::world::Party;

/// Port of the script service.
pub const SCRIPT_PORT: u16 = 4000;

/// Turns of a drive loop at one instant.
const TURNS: u32 = 10_000;

/// What drives the instance.
trait Engine {
    fn instance(&self) -> Ref<'_, Instance>;
    fn instance_mut(&mut self) -> RefMut<'_, Instance>;
    fn receive(&mut self, now: Instant, frame: RxFrame);
    /// One turn of the drive loop: fire timers, run the service. Whether to call it again at once.
    fn turn(&mut self, now: Instant) -> bool;
    /// The next frames for the wire, and which; none if there are none for now.
    fn transmit(&mut self, now: Instant) -> Option<(Interface, Vec<Bytes>)>;
    fn due(&self) -> Option<Instant>;
    fn drain(&mut self, now: Instant);
    /// Whether it has left the cluster and its machine may go.
    fn gone(&self) -> bool;
    /// Sessions that ended because the service failed.
    fn failures(&self) -> u64;
}

/// Where a session was told to move.
#[derive(Clone, Copy)]
struct Order {
    to: Port,
    flow: Option<FlowId>,
}

/// A session on its way elsewhere.
#[derive(Clone, Copy)]
struct Leaving {
    client: SocketAddr,
    /// Its flow when the move was ordered: the client may have opened another from the same port since.
    flow: Option<FlowId>,
    /// What tells which it is, if nobody ordered it.
    numbers: Option<(u32, u32)>,
    to: Option<Port>,
}

#[derive(Clone, Copy)]
enum NoteKind {
    Frozen,
    Thawed,
    Accepted,
}

/// What leaves a node, in its order: frames, and word of what happened between them.
enum Out {
    Frame(Interface, Bytes),
    Note(Leaving, NoteKind),
}

/// The port of a member.
pub fn port_of(member: MemberId) -> Port {
    member.0 as usize - 1
}

/// One machine.
pub struct Node {
    mac: MacAddr,
    engine: Box<dyn Engine>,
    out: VecDeque<Out>,
    /// Clients of the sessions; a frozen session does not tell its connections any more.
    clients: BTreeMap<SessionId, SocketAddr>,
    /// SND.NXT and RCV.NXT of their connections when they were first seen.
    numbers: BTreeMap<SessionId, (u32, u32)>,
    destinations: BTreeMap<SessionId, Order>,
    frozen: BTreeMap<SessionId, Leaving>,
    /// Sessions may move without being told to from here.
    unasked: bool,
}

impl Node {
    fn new(mac: MacAddr, engine: Box<dyn Engine>) -> Node {
        Node {
            mac,
            engine,
            out: VecDeque::new(),
            clients: BTreeMap::new(),
            numbers: BTreeMap::new(),
            destinations: BTreeMap::new(),
            frozen: BTreeMap::new(),
            unasked: false,
        }
    }

    /// Sessions of this node also move unasked: by their service, or by a policy.
    pub fn moves_unasked(mut self) -> Node {
        self.unasked = true;
        self
    }

    /// A machine with the script service on it.
    pub fn scripted(config: InstanceConfig, habits: Habits, seed: [u8; 32], now: Instant) -> Node {
        let mac = config.stack.mac;
        Node::new(
            mac,
            Box::new(scripted::Scripted::new(config, habits, seed, now)),
        )
    }

    /// A machine with the SDK's drive loop and a service of it.
    pub fn sdk<S: Service>(config: &Config, machine: Machine, service: S, now: Instant) -> Node {
        let mac = machine.device.mac;
        Node::new(mac, Box::new(sdk::Sdk::new(config, machine, service, now)))
    }

    /// The instance.
    pub fn instance(&self) -> Ref<'_, Instance> {
        self.engine.instance()
    }

    /// The instance, to command it.
    pub fn instance_mut(&mut self) -> RefMut<'_, Instance> {
        self.engine.instance_mut()
    }

    /// Whether a drain is complete and the machine may go.
    pub fn drained(&self) -> bool {
        self.engine.gone()
    }

    /// Sessions that ended because the service failed.
    pub fn failures(&self) -> u64 {
        self.engine.failures()
    }

    /// A counter by name; zero if there is none of that name.
    pub fn counter(&self, name: &str) -> u64 {
        let counters = self.instance().counters();
        let found = counters.iter().find(|(known, _)| *known == name);
        found.map_or(0, |(_, count)| *count)
    }

    /// Move a session.
    ///
    /// # Errors
    /// What the instance says.
    pub fn move_session(
        &mut self,
        now: Instant,
        session: SessionId,
        to: MemberId,
    ) -> Result<(), MoveError> {
        self.learn_clients();
        self.instance_mut().move_session(now, session, to)?;
        let order = Order {
            to: port_of(to),
            flow: None,
        };
        self.destinations.insert(session, order);
        Ok(())
    }

    /// Which flow a session that was told to move has.
    pub(crate) fn name_flow(&mut self, session: SessionId, flow: FlowId) {
        if let Some(order) = self.destinations.get_mut(&session) {
            order.flow = Some(flow);
        }
    }

    /// Leave the cluster cleanly.
    pub fn drain(&mut self, now: Instant) {
        self.learn_clients();
        self.engine.drain(now);
    }

    fn learn_clients(&mut self) {
        let instance = self.engine.instance();
        let known = self.clients.len();
        for (id, _, client) in instance.session_ends() {
            if let Some(client) = client {
                self.clients.entry(id).or_insert(client);
            }
        }
        if self.clients.len() > known {
            for session in instance.sessions() {
                if let Some(connection) = session.connections.first() {
                    let tcp = &connection.tcp;
                    let numbers = (tcp.snd_nxt.raw(), tcp.rcv_nxt.raw());
                    self.numbers.entry(session.id).or_insert(numbers);
                }
            }
        }
    }

    fn turn(&mut self, now: Instant) {
        // Bounded: a service that never waits must not stop the world.
        for _ in 0..TURNS {
            let more = self.engine.turn(now);
            self.watch_moves();
            let mut quiet = true;
            while let Some((interface, frames)) = self.engine.transmit(now) {
                quiet = false;
                let frames = frames.into_iter();
                self.out
                    .extend(frames.map(|frame| Out::Frame(interface, frame)));
            }
            if quiet && !more {
                return;
            }
        }
    }

    /// What came of the session's last move.
    fn result(&self, session: SessionId) -> Option<String> {
        let moves = self.engine.instance().moves();
        let last = moves
            .into_iter()
            .rev()
            .find(|report| report.session == session);
        Some(last?.result)
    }

    /// Sessions that may have frozen, thawed or left since the last look, by id.
    fn watched(&self) -> Vec<SessionId> {
        let instance = self.engine.instance();
        let told = self.destinations.keys().chain(self.frozen.keys());
        let mut watched: Vec<SessionId> = told.copied().collect();
        if self.unasked || instance.is_draining() {
            watched.extend(instance.session_ends().map(|(id, ..)| id));
        }
        watched.sort_unstable();
        watched.dedup();
        watched
    }

    /// Notice sessions that froze, thawed or left.
    fn watch_moves(&mut self) {
        let idle = self.destinations.is_empty() && self.frozen.is_empty();
        if self.unasked || self.engine.instance().is_draining() {
            self.learn_clients();
        } else if idle {
            return;
        }
        for id in self.watched() {
            let frozen = self.engine.instance().is_frozen(id);
            let was = self.frozen.contains_key(&id);
            match frozen {
                Some(true) if !was => self.froze(id),
                Some(false) if was => self.thawed(id),
                None => self.gone(id),
                _ => {}
            }
        }
    }

    fn froze(&mut self, id: SessionId) {
        let Some(client) = self.clients.get(&id).copied() else {
            return;
        };
        let order = self.destinations.remove(&id);
        let to = order.map(|order| order.to);
        let flow = order.and_then(|order| order.flow);
        let numbers = self.numbers.get(&id).copied();
        let leaving = Leaving {
            client,
            flow,
            numbers,
            to,
        };
        self.frozen.insert(id, leaving);
        self.out.push_back(Out::Note(leaving, NoteKind::Frozen));
    }

    fn thawed(&mut self, id: SessionId) {
        let Some(leaving) = self.frozen.remove(&id) else {
            return;
        };
        // It may also have left and come back since we last looked.
        let result = self.result(id);
        let kind = match result.as_deref() {
            Some("accepted") => NoteKind::Accepted,
            _ => NoteKind::Thawed,
        };
        // It is offered again by itself when the target has what it lacks.
        if result.as_deref() == Some("refused: content missing") {
            let Leaving { flow, to, .. } = leaving;
            self.destinations
                .extend(to.map(|to| (id, Order { to, flow })));
        }
        self.out.push_back(Out::Note(leaving, kind));
    }

    /// It is not here any more.
    fn gone(&mut self, id: SessionId) {
        self.destinations.remove(&id);
        self.clients.remove(&id);
        self.numbers.remove(&id);
        if let Some(leaving) = self.frozen.remove(&id) {
            // It may have thawed and ended since we last looked.
            let result = self.result(id).unwrap_or_default();
            let kind = match result.starts_with("refused") {
                true => NoteKind::Thawed,
                false => NoteKind::Accepted,
            };
            self.out.push_back(Out::Note(leaving, kind));
        }
    }
}

impl Party for Node {
    fn mac(&self) -> MacAddr {
        self.mac
    }

    fn is_server(&self) -> bool {
        true
    }

    fn handle_frame(&mut self, now: Instant, interface: Interface, frame: &Bytes) {
        let frame = RxFrame {
            interface,
            ..RxFrame::new(frame.clone())
        };
        self.engine.receive(now, frame);
        self.turn(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.turn(now);
    }

    fn poll_transmit(&mut self, _now: Instant) -> Option<(Interface, Bytes)> {
        match self.out.pop_front()? {
            Out::Frame(interface, frame) => Some((interface, frame)),
            note => {
                self.out.push_front(note);
                None
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.engine.due()
    }

    fn unsent(&self) -> u64 {
        self.instance().unresolved()
    }

    fn remembers(&self, service: SocketAddr, client: SocketAddr) -> bool {
        let flow = FlowKey {
            local: service,
            remote: client,
        };
        self.instance().is_half_open(&flow)
    }

    fn show(&self, each: &mut dyn FnMut(SocketAddr, u64, &Info)) {
        let sessions = self.instance().sessions();
        for session in sessions.iter().filter(|session| !session.frozen) {
            for connection in &session.connections {
                each(connection.remote, session.epoch, &connection.tcp);
            }
        }
    }

    fn poll_note(&mut self, flows: &Flows) -> Option<Note> {
        loop {
            let (leaving, kind) = match self.out.pop_front()? {
                Out::Note(leaving, kind) => (leaving, kind),
                frame => {
                    self.out.push_front(frame);
                    return None;
                }
            };
            let client = leaving.client;
            let found = || match leaving.numbers {
                Some(numbers) => flows.of_numbers(client, numbers),
                None => flows.of_client(client),
            };
            let Some(flow) = leaving.flow.or_else(found) else {
                continue;
            };
            let (from, to) = (self.port(), leaving.to);
            return Some(match kind {
                NoteKind::Frozen => Note::Frozen { flow, from, to },
                NoteKind::Thawed => Note::Thawed { flow, owner: from },
                NoteKind::Accepted => Note::Accepted { flow, from, to },
            });
        }
    }
}

impl Node {
    fn port(&self) -> Port {
        port_of(self.engine.instance().id())
    }
}
