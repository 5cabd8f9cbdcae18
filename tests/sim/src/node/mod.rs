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
use godwit_netstack::stack::{MacAddr, RxFrame};
use godwit_netstack::tcp::Info;
use godwit_netstack::{Instance, Instant};

pub use bare::{Bare, Luggage};
pub use nic::on_the_wire;
pub use scripted::Habits;
pub use sdk::Machine;
pub(crate) use service::{Scripts, Wanderer};

use crate::check::{Flows, Note};
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
    /// The next frames for the wire; none if there are none for now.
    fn transmit(&mut self, now: Instant) -> Vec<Bytes>;
    fn due(&self) -> Option<Instant>;
    fn drain(&mut self, now: Instant);
    /// Whether it has left the cluster and its machine may go.
    fn gone(&self) -> bool;
    /// Sessions that ended because the service failed.
    fn failures(&self) -> u64;
}

/// A session on its way elsewhere.
#[derive(Clone, Copy)]
struct Leaving {
    client: SocketAddr,
    to: Option<Port>,
}

#[derive(Clone, Copy)]
enum NoteKind {
    Frozen(Option<Port>),
    Thawed,
    Accepted(Option<Port>),
}

/// What leaves a node, in its order: frames, and word of what happened between them.
enum Out {
    Frame(Bytes),
    Note(SocketAddr, NoteKind),
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
    /// Where sessions were told to move.
    destinations: BTreeMap<SessionId, Port>,
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
        self.destinations.insert(session, port_of(to));
        Ok(())
    }

    /// Leave the cluster cleanly.
    pub fn drain(&mut self, now: Instant) {
        self.learn_clients();
        self.engine.drain(now);
    }

    fn learn_clients(&mut self) {
        for status in self.engine.instance().sessions() {
            if let Some(connection) = status.connections.first() {
                self.clients.insert(status.id, connection.remote);
            }
        }
    }

    fn turn(&mut self, now: Instant) {
        // Bounded: a service that never waits must not stop the world.
        for _ in 0..TURNS {
            let more = self.engine.turn(now);
            self.watch_moves();
            let mut quiet = true;
            loop {
                let frames = self.engine.transmit(now);
                if frames.is_empty() {
                    break;
                }
                quiet = false;
                self.out.extend(frames.into_iter().map(Out::Frame));
            }
            if quiet && !more {
                return;
            }
        }
    }

    /// Whether the last move of a session was accepted.
    fn left(&self, session: SessionId) -> bool {
        self.result(session).as_deref() == Some("accepted")
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

    /// Notice sessions that froze, thawed or left.
    fn watch_moves(&mut self) {
        let watching = self.unasked
            || !self.destinations.is_empty()
            || !self.frozen.is_empty()
            || self.engine.instance().is_draining();
        if !watching {
            return;
        }
        self.learn_clients();
        let sessions = self.engine.instance().sessions();
        for status in &sessions {
            let Some(client) = self.clients.get(&status.id).copied() else {
                continue;
            };
            let was = self.frozen.contains_key(&status.id);
            if status.frozen && !was {
                let to = self.destinations.remove(&status.id);
                self.frozen.insert(status.id, Leaving { client, to });
                self.out.push_back(Out::Note(client, NoteKind::Frozen(to)));
            } else if !status.frozen && was {
                // It may also have left and come back since we last looked.
                let to = self
                    .frozen
                    .remove(&status.id)
                    .and_then(|leaving| leaving.to);
                let kind = match self.left(status.id) {
                    true => NoteKind::Accepted(to),
                    false => NoteKind::Thawed,
                };
                // It is offered again by itself when the target has what it lacks.
                if self.result(status.id).as_deref() == Some("refused: content missing") {
                    self.destinations.extend(to.map(|to| (status.id, to)));
                }
                self.out.push_back(Out::Note(client, kind));
            }
        }
        let here = |id: &SessionId| sessions.iter().any(|status| status.id == *id);
        let left: Vec<SessionId> = self.frozen.keys().filter(|id| !here(id)).copied().collect();
        for session in left {
            if let Some(leaving) = self.frozen.remove(&session) {
                self.out
                    .push_back(Out::Note(leaving.client, NoteKind::Accepted(leaving.to)));
            }
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

    fn handle_frame(&mut self, now: Instant, frame: &Bytes) {
        self.engine.receive(now, RxFrame::new(frame.clone()));
        self.turn(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.turn(now);
    }

    fn poll_transmit(&mut self, _now: Instant) -> Option<Bytes> {
        match self.out.pop_front()? {
            Out::Frame(frame) => Some(frame),
            note => {
                self.out.push_front(note);
                None
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.engine.due()
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
            let (client, kind) = match self.out.pop_front()? {
                Out::Note(client, kind) => (client, kind),
                frame => {
                    self.out.push_front(frame);
                    return None;
                }
            };
            let Some(flow) = flows.of_client(client) else {
                continue;
            };
            let here = self.port();
            return Some(match kind {
                NoteKind::Frozen(to) => Note::Frozen {
                    flow,
                    from: here,
                    to,
                },
                NoteKind::Thawed => Note::Thawed { flow, owner: here },
                NoteKind::Accepted(to) => Note::Accepted {
                    flow,
                    from: here,
                    to,
                },
            });
        }
    }
}

impl Node {
    fn port(&self) -> Port {
        port_of(self.engine.instance().id())
    }
}
