//! The [`crate::script`] service driven by hand, straight on an instance, so that commits can be made
//! late and moves find uncommitted work.

use std::cell::{Ref, RefCell, RefMut};
use std::collections::BTreeMap;

use bytes::Bytes;
use godwit_netstack::instance::{Event, InstanceConfig, ServiceId, ServiceSpec};
use godwit_netstack::session::{Input, SessionError, SessionId};
use godwit_netstack::stack::{Interface, RxFrame, Scope};
use godwit_netstack::{Duration, Instance, Instant};

use super::{Engine, SCRIPT_PORT, on_the_wire};
use crate::script::{Script, Step};

/// How the simulated service uses its sessions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Habits {
    /// How long it waits with a commit after doing something: work that a move undoes.
    pub commit_after: Duration,
    /// Most octets it writes between two commits (0: as many as there is room for). At least the
    /// receipt of an upload must fit.
    pub write_at_most: usize,
}

struct Task {
    /// As committed plus what was done since.
    script: Script,
    dirty: bool,
    /// Octets written since the last commit.
    written: usize,
    commit_at: Option<Instant>,
}

/// An instance with the script service on it.
pub(super) struct Scripted {
    instance: RefCell<Instance>,
    habits: Habits,
    tasks: BTreeMap<SessionId, Task>,
    drained: bool,
    /// Sessions whose service found its input malformed.
    malformed: u64,
}

impl Scripted {
    pub(super) fn new(
        config: InstanceConfig,
        habits: Habits,
        seed: [u8; 32],
        now: Instant,
    ) -> Scripted {
        let mut instance = Instance::new(config, seed, now);
        instance.add_service(ServiceSpec {
            name: "script",
            port: SCRIPT_PORT,
            scope: Scope::Service,
            state_version: 1,
            oldest_state: 1,
            states: None,
        });
        Scripted {
            instance: RefCell::new(instance),
            habits,
            tasks: BTreeMap::new(),
            drained: false,
            malformed: 0,
        }
    }

    fn events(&mut self, now: Instant) {
        while let Some(event) = self.instance.get_mut().poll_event() {
            self.event(now, event);
        }
    }

    fn event(&mut self, now: Instant, event: Event) {
        match event {
            Event::SessionStarted { session, service } => {
                debug_assert_eq!(service, ServiceId(0));
                let script = self
                    .instance
                    .get_mut()
                    .committed_state(session)
                    .and_then(|(_, state)| postcard::from_bytes(&state).ok())
                    .unwrap_or_default();
                let task = Task {
                    script,
                    dirty: false,
                    written: 0,
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
        if !self.instance.get_mut().send_ready(session)? {
            return Ok(false);
        }
        let room = self.instance.get_mut().write_room(session, 0)?;
        let bound = match self.habits.write_at_most {
            0 => room,
            bound => room.min(bound.saturating_sub(task.written)),
        };
        let step = match self.instance.get_mut().read(session, 0)? {
            Input::Data(data) => task.script.step(&data, false, bound),
            Input::Pending => task.script.step(&[], false, bound),
            Input::End => task.script.step(&[], true, bound),
        };
        if step.malformed || step.abort {
            self.malformed += u64::from(step.malformed);
            self.tasks.remove(&session);
            self.instance.get_mut().abort(now, session);
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
        let Some(task) = self.tasks.get_mut(&session) else {
            return Ok(());
        };
        if step.consumed > 0 {
            self.instance.get_mut().consume(session, 0, step.consumed)?;
        }
        if step.ended {
            self.instance.get_mut().consume_end(session, 0)?;
        }
        if !step.output.is_empty() {
            task.written += step.output.len();
            self.instance.get_mut().write(session, 0, step.output)?;
        }
        if step.shutdown {
            self.instance.get_mut().shutdown(session, 0)?;
        }
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
        task.written = 0;
        task.commit_at = None;
        let finished = task.script.finished();
        let state = postcard::to_allocvec(&task.script)
            .unwrap_or_default()
            .into();
        if finished {
            self.tasks.remove(&session);
            self.instance.get_mut().finish(now, session, state)
        } else {
            self.instance.get_mut().commit(now, session, state)
        }
    }
}

impl Engine for Scripted {
    fn instance(&self) -> Ref<'_, Instance> {
        self.instance.borrow()
    }

    fn instance_mut(&mut self) -> RefMut<'_, Instance> {
        self.instance.borrow_mut()
    }

    fn receive(&mut self, now: Instant, frame: RxFrame) {
        self.instance.get_mut().handle_frame(now, frame);
    }

    fn turn(&mut self, now: Instant) -> bool {
        let instance = self.instance.get_mut();
        if instance.poll_timeout().is_some_and(|at| at <= now) {
            instance.handle_timeout(now);
        }
        self.events(now);
        let due = self
            .tasks
            .iter()
            .filter(|(_, task)| task.commit_at.is_some_and(|at| at <= now));
        let due: Vec<SessionId> = due.map(|(session, _)| *session).collect();
        for session in due {
            let _ = self.commit(now, session);
            self.advance(now, session);
        }
        self.events(now);
        false
    }

    fn transmit(&mut self, now: Instant) -> Option<(Interface, Vec<Bytes>)> {
        let frame = self.instance.get_mut().poll_transmit(now);
        frame.map(|frame| (frame.interface, on_the_wire(&frame)))
    }

    fn due(&self) -> Option<Instant> {
        let commits = self.tasks.values().filter_map(|task| task.commit_at);
        commits.chain(self.instance.borrow().poll_timeout()).min()
    }

    fn drain(&mut self, now: Instant) {
        self.instance.get_mut().drain(now);
    }

    fn gone(&self) -> bool {
        self.drained
    }

    fn failures(&self) -> u64 {
        self.malformed
    }
}
