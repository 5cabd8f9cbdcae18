//! A Godwit node in the simulator: an [`Instance`] with the [`crate::script`] service on it.
//!
//! Here the service is driven by hand, straight on the instance, so that commits can be made late
//! and moves find uncommitted work. By convention the member with id `n` sits at port `n - 1`.

mod nic;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use bytes::Bytes;
use godwit_netstack::cluster::MemberId;
use godwit_netstack::instance::{Event, InstanceConfig, MoveError, ServiceId, ServiceSpec};
use godwit_netstack::session::{Input, SessionError, SessionId};
use godwit_netstack::stack::{MacAddr, RxFrame, Scope};
use godwit_netstack::{Duration, Instance, Instant};

pub use nic::on_the_wire;

use crate::check::{Flows, Note};
use crate::net::Port;
use crate::script::{Script, Step};
use crate::world::Party;

/// Port of the script service.
pub const SCRIPT_PORT: u16 = 4000;

/// How the simulated service uses its sessions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Habits {
    /// How long it waits with a commit after doing something: work that a move undoes.
    pub commit_after: Duration,
    /// Most octets it writes in one step (0: as many as there is room for).
    pub write_at_most: usize,
}

struct Task {
    /// As committed plus what was done since.
    script: Script,
    dirty: bool,
    commit_at: Option<Instant>,
}

/// A session on its way elsewhere.
#[derive(Clone, Copy)]
struct Leaving {
    client: SocketAddr,
    to: Option<Port>,
}

/// One machine.
pub struct Node {
    mac: MacAddr,
    instance: Instance,
    habits: Habits,
    tasks: BTreeMap<SessionId, Task>,
    out: VecDeque<Bytes>,
    /// Where sessions were told to move.
    destinations: BTreeMap<SessionId, Port>,
    frozen: BTreeMap<SessionId, Leaving>,
    notes: VecDeque<(SocketAddr, NoteKind)>,
    drained: bool,
    /// Sessions whose service found its input malformed.
    malformed: u64,
}

#[derive(Clone, Copy)]
enum NoteKind {
    Frozen(Option<Port>),
    Thawed,
    Accepted(Option<Port>),
}

/// The port of a member.
pub fn port_of(member: MemberId) -> Port {
    member.0 as usize - 1
}

impl Node {
    /// A machine that has just booted.
    pub fn new(config: InstanceConfig, habits: Habits, seed: [u8; 32], now: Instant) -> Node {
        let mac = config.stack.mac;
        let mut instance = Instance::new(config, seed, now);
        instance.add_service(ServiceSpec {
            name: "script",
            port: SCRIPT_PORT,
            scope: Scope::Service,
            state_version: 1,
        });
        Node {
            mac,
            instance,
            habits,
            tasks: BTreeMap::new(),
            out: VecDeque::new(),
            destinations: BTreeMap::new(),
            frozen: BTreeMap::new(),
            notes: VecDeque::new(),
            drained: false,
            malformed: 0,
        }
    }

    /// The instance.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// The instance, to command it.
    pub fn instance_mut(&mut self) -> &mut Instance {
        &mut self.instance
    }

    /// Whether a drain is complete.
    pub fn drained(&self) -> bool {
        self.drained
    }

    /// Sessions whose service found its input malformed.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// A counter by name; zero if there is none of that name.
    pub fn counter(&self, name: &str) -> u64 {
        let counters = self.instance.counters();
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
        self.instance.move_session(now, session, to)?;
        self.destinations.insert(session, port_of(to));
        Ok(())
    }

    /// Leave the cluster cleanly.
    pub fn drain(&mut self, now: Instant) {
        self.instance.drain(now);
    }

    fn turn(&mut self, now: Instant) {
        loop {
            let mut idle = true;
            while let Some(event) = self.instance.poll_event() {
                idle = false;
                self.event(now, event);
            }
            if idle {
                break;
            }
        }
        let due: Vec<SessionId> = self
            .tasks
            .iter()
            .filter(|(_, task)| task.commit_at.is_some_and(|at| at <= now))
            .map(|(session, _)| *session)
            .collect();
        for session in due {
            let _ = self.commit(now, session);
            self.advance(now, session);
        }
        while let Some(event) = self.instance.poll_event() {
            self.event(now, event);
        }
        self.watch_moves();
    }

    fn event(&mut self, now: Instant, event: Event) {
        match event {
            Event::SessionStarted { session, service } => {
                debug_assert_eq!(service, ServiceId(0));
                let script = self
                    .instance
                    .committed_state(session)
                    .and_then(|(_, state)| postcard::from_bytes(&state).ok())
                    .unwrap_or_default();
                let task = Task {
                    script,
                    dirty: false,
                    commit_at: None,
                };
                self.tasks.insert(session, task);
                self.advance(now, session);
            }
            Event::SessionWoken(session) => self.advance(now, session),
            Event::SessionStopped(session) => {
                self.tasks.remove(&session);
            }
            Event::Drained => self.drained = true,
            _ => {}
        }
    }

    fn advance(&mut self, now: Instant, session: SessionId) {
        while self.tasks.contains_key(&session) {
            match self.step(now, session) {
                Ok(true) => {}
                Ok(false) => break,
                Err(SessionError::CommitNeeded) => {
                    if self.commit(now, session).is_err() {
                        break;
                    }
                }
                Err(_) => {
                    self.tasks.remove(&session);
                }
            }
        }
    }

    /// One step of the service; false when there is nothing to do for now.
    fn step(&mut self, now: Instant, session: SessionId) -> Result<bool, SessionError> {
        let Some(task) = self.tasks.get_mut(&session) else {
            return Ok(false);
        };
        if !self.instance.send_ready(session)? {
            return Ok(false);
        }
        let room = self.instance.write_room(session, 0)?;
        let bound = match self.habits.write_at_most {
            0 => room,
            bound => room.min(bound),
        };
        let step = match self.instance.read(session, 0)? {
            Input::Data(data) => task.script.step(&data, false, bound),
            Input::Pending => task.script.step(&[], false, bound),
            Input::End => task.script.step(&[], true, bound),
        };
        if step.malformed {
            self.malformed += 1;
            self.tasks.remove(&session);
            self.instance.abort(now, session);
            return Ok(false);
        }
        if step.is_idle() {
            if room == 0 && task.dirty {
                return Err(SessionError::CommitNeeded);
            }
            return Ok(false);
        }
        self.apply(now, session, step)?;
        Ok(true)
    }

    fn apply(&mut self, now: Instant, session: SessionId, step: Step) -> Result<(), SessionError> {
        if step.consumed > 0 {
            self.instance.consume(session, 0, step.consumed)?;
        }
        if step.ended {
            self.instance.consume_end(session, 0)?;
        }
        if !step.output.is_empty() {
            self.instance.write(session, 0, step.output)?;
        }
        if step.shutdown {
            self.instance.shutdown(session, 0)?;
        }
        let Some(task) = self.tasks.get_mut(&session) else {
            return Ok(());
        };
        task.dirty = true;
        if self.habits.commit_after.is_zero() || task.script.finished() {
            return self.commit(now, session);
        }
        task.commit_at.get_or_insert(now + self.habits.commit_after);
        Ok(())
    }

    fn commit(&mut self, now: Instant, session: SessionId) -> Result<(), SessionError> {
        let Some(task) = self.tasks.get_mut(&session) else {
            return Err(SessionError::Gone);
        };
        task.dirty = false;
        task.commit_at = None;
        let finished = task.script.finished();
        let state = postcard::to_allocvec(&task.script)
            .unwrap_or_default()
            .into();
        if finished {
            self.tasks.remove(&session);
            self.instance.finish(now, session, state)
        } else {
            self.instance.commit(now, session, state)
        }
    }

    /// Notice sessions that froze, thawed or left.
    fn watch_moves(&mut self) {
        let watching =
            !self.destinations.is_empty() || !self.frozen.is_empty() || self.instance.is_draining();
        if !watching {
            return;
        }
        let sessions = self.instance.sessions();
        for status in &sessions {
            let Some(connection) = status.connections.first() else {
                continue;
            };
            let was = self.frozen.contains_key(&status.id);
            if status.frozen && !was {
                let to = self.destinations.remove(&status.id);
                let client = connection.remote;
                self.frozen.insert(status.id, Leaving { client, to });
                self.notes.push_back((client, NoteKind::Frozen(to)));
            } else if !status.frozen && was {
                self.frozen.remove(&status.id);
                self.notes.push_back((connection.remote, NoteKind::Thawed));
            }
        }
        let here = |id: &SessionId| sessions.iter().any(|status| status.id == *id);
        let left: Vec<SessionId> = self.frozen.keys().filter(|id| !here(id)).copied().collect();
        for session in left {
            if let Some(leaving) = self.frozen.remove(&session) {
                self.notes
                    .push_back((leaving.client, NoteKind::Accepted(leaving.to)));
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
        self.instance.handle_frame(now, RxFrame::new(frame.clone()));
        self.turn(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.instance.handle_timeout(now);
        self.turn(now);
    }

    fn poll_transmit(&mut self, now: Instant) -> Option<Bytes> {
        if self.out.is_empty()
            && let Some(frame) = self.instance.poll_transmit(now)
        {
            self.out.extend(on_the_wire(&frame));
        }
        self.out.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let commits = self.tasks.values().filter_map(|task| task.commit_at);
        commits.chain(self.instance.poll_timeout()).min()
    }

    fn poll_note(&mut self, flows: &Flows) -> Option<Note> {
        loop {
            let (client, kind) = self.notes.pop_front()?;
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
        port_of(self.instance.id())
    }
}
