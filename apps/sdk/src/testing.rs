//! Test a service without a network: a session in memory that can be moved at every commit.
//!
//! ```
//! # use godwit::testing::Harness;
//! # struct Shout;
//! # impl godwit::Service for Shout {
//! #     type State = ();
//! #     const NAME: &'static str = "shout";
//! #     const PORT: u16 = 1;
//! #     async fn serve(&self, session: &mut godwit::Session<()>) -> godwit::Result<()> {
//! #         let mut client = session.client();
//! #         loop {
//! #             let chunk = client.read_chunk(usize::MAX).await?;
//! #             if chunk.is_empty() { return Ok(()); }
//! #             client.write_bytes(chunk.to_ascii_uppercase().into())?;
//! #             session.commit().await?;
//! #         }
//! #     }
//! # }
//! let mut harness = Harness::new(Shout);
//! harness.client_sends(b"hello ");
//! harness.run();
//! harness.move_session(); // the task is dropped and started again from the last commit
//! harness.client_sends(b"there");
//! harness.client_closes();
//! harness.run();
//! assert_eq!(harness.received(), b"HELLO THERE");
//! ```

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell, RefMut};
use core::net::{Ipv4Addr, SocketAddr};
use core::task::Waker;

use bytes::Bytes;
use godwit_netstack::cluster::MemberId;
use godwit_netstack::instance::{MemberStatus, MoveError};
use godwit_netstack::migrate::transfer::RefuseReason;
use godwit_netstack::session::{ContentId, Input, SessionError, SessionId};
use godwit_netstack::{Duration, Instant};

use crate::executor::{TaskId, Tasks};
use crate::port::{Port, Waiters};
use crate::service::{AnyService, Service, decode_state, encode_state};
use crate::timers::{TimerKey, Timers};

/// Octets of uncommitted input or output at most.
const UNCOMMITTED: usize = 64 * 1024;

/// The only session of a harness.
const SESSION: SessionId = SessionId {
    origin: 1,
    number: 1,
};

/// How a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The service is done and its output was closed gracefully.
    Finished,
    /// The service failed, and reset the client.
    Aborted,
}

/// One session of a service, with a client made of byte strings.
pub struct Harness<S: Service> {
    service: Rc<S>,
    memory: Rc<Memory>,
    tasks: Tasks<()>,
    task: Option<TaskId>,
    waiters: Rc<Waiters>,
}

impl<S: Service> Harness<S> {
    /// A new connection to `service`.
    pub fn new(service: S) -> Harness<S> {
        let memory = Memory::default();
        memory.inner().version = S::STATE_VERSION;
        let mut harness = Harness {
            service: Rc::new(service),
            memory: Rc::new(memory),
            tasks: Tasks::new(),
            task: None,
            waiters: Rc::default(),
        };
        harness.start();
        harness
    }

    fn start(&mut self) {
        self.waiters = Rc::default();
        let service = self.service.clone();
        let future = service.start(self.memory.clone(), self.waiters.clone(), SESSION);
        self.task = Some(self.tasks.spawn((), future));
    }

    /// The client sends.
    pub fn client_sends(&mut self, data: &[u8]) {
        self.memory.inner().input.extend_from_slice(data);
        self.waiters.wake();
    }

    /// The client closes its direction.
    pub fn client_closes(&mut self) {
        self.memory.inner().input_closed = true;
        self.waiters.wake();
    }

    /// Show the service at most `octets` of input at a time.
    pub fn slice_input(&mut self, octets: usize) {
        self.memory.inner().slice = octets.max(1);
    }

    /// Let every commit wait for [`Harness::send_window`] instead of going on at once.
    pub fn hold_commits(&mut self) {
        self.memory.inner().hold = true;
    }

    /// Let one held commit go on.
    pub fn send_window(&mut self) {
        self.memory.inner().held = false;
        self.waiters.wake();
    }

    /// Run the service until it waits for something.
    pub fn run(&mut self) {
        while self.tasks.has_ready() {
            self.tasks.turn(usize::MAX, |_, poll| poll());
        }
    }

    /// Poll the service once, if it wants to be polled.
    pub fn turn(&mut self) {
        self.tasks.turn(1, |_, poll| poll());
    }

    /// Let time pass, then run.
    pub fn advance(&mut self, duration: Duration) {
        let until = self.memory.now.get() + duration;
        while let Some(at) = self.memory.next_timer().filter(|at| *at <= until) {
            self.memory.now.set(at);
            while let Some(waker) = self.memory.pop_due(at) {
                waker.wake();
            }
            self.run();
        }
        self.memory.now.set(until);
        self.run();
    }

    /// Move the session: the task is dropped where it waits, what it did not commit is undone,
    /// and it is started again from the committed state (by the next [`Harness::run`]).
    pub fn move_session(&mut self) {
        if let Some(task) = self.task.take() {
            self.tasks.cancel(task);
        }
        self.memory.inner().roll_back();
        if self.end().is_none() {
            self.start();
        }
    }

    /// The same, and the session is at that member then ([`crate::Session::here`]; it begins at 1).
    pub fn move_session_to(&mut self, member: MemberId) {
        self.memory.inner().here = Some(member);
        self.move_session();
    }

    /// Refuse the moves the service asks for, for this reason.
    pub fn refuse_moves(&mut self, reason: Option<MoveError>) {
        self.memory.inner().refuses = reason;
    }

    /// Move the session to an instance with another build of the service. What its state names and
    /// that build lacks comes along. If it is refused, it goes on here; if not, this harness is left
    /// without one.
    pub fn move_to<T: Service>(&mut self, service: T) -> Result<Harness<T>, RefuseReason> {
        if let Some(task) = self.task.take() {
            self.tasks.cancel(task);
        }
        self.memory.inner().roll_back();
        if let Err(reason) = self.offer_to(&service) {
            self.start();
            return Err(reason);
        }
        let memory = core::mem::take(&mut self.memory);
        memory.inner().version = T::STATE_VERSION;
        let mut harness = Harness {
            service: Rc::new(service),
            memory,
            tasks: Tasks::new(),
            task: None,
            waiters: Rc::default(),
        };
        harness.start();
        Ok(harness)
    }

    /// What an instance looks at before it takes a session.
    fn offer_to<T: Service>(&self, service: &T) -> Result<(), RefuseReason> {
        let Some((version, octets)) = self.memory.inner().state.clone() else {
            return Ok(());
        };
        if !(T::OLDEST_STATE..=T::STATE_VERSION).contains(&version) {
            return Err(RefuseReason::StateVersion);
        }
        let state = decode_state::<T>(version, &octets).map_err(|_| RefuseReason::BadState)?;
        for id in T::names(&state) {
            if service.content(&id).is_some() || self.memory.content(&id).is_some() {
                continue;
            }
            let content = self.service.content(&id).ok_or(RefuseReason::Content(id))?;
            self.memory.inner().contents.insert(id, content);
        }
        Ok(())
    }

    /// What the client received.
    pub fn received(&self) -> Vec<u8> {
        self.memory.inner().output.clone()
    }

    /// Whether the client saw the end of the service's output.
    pub fn output_closed(&self) -> bool {
        self.memory.inner().output_closed
    }

    /// How the session ended, if it did.
    pub fn end(&self) -> Option<End> {
        self.memory.inner().end
    }

    /// How many commits there were.
    pub fn commits(&self) -> usize {
        self.memory.inner().commits
    }

    /// The committed state as encoded.
    pub fn committed_state(&self) -> Option<Bytes> {
        self.memory.inner().state.as_ref().map(|(_, b)| b.clone())
    }

    /// Replace the committed state, as if it came from an instance of another build.
    pub fn replace_state(&mut self, version: u32, state: &[u8]) {
        self.memory.inner().state = Some((version, Bytes::copy_from_slice(state)));
    }

    /// Replace the committed state.
    ///
    /// # Panics
    ///
    /// If the state does not encode.
    pub fn put_state(&mut self, state: &S::State) {
        let bytes = encode_state(state).expect("the state encodes");
        self.memory.inner().state = Some((S::STATE_VERSION, bytes));
    }

    /// Where the service asked to be moved to, last.
    pub fn move_asked(&self) -> Option<MemberId> {
        self.memory.inner().move_asked
    }
}

/// A port without an instance behind it.
#[derive(Default)]
struct Memory {
    inner: RefCell<Inner>,
    timers: RefCell<Timers>,
    now: Cell<Instant>,
}

#[derive(Default)]
struct Inner {
    input: Vec<u8>,
    input_closed: bool,
    slice: usize,
    consumed: usize,
    committed_input: usize,
    output: Vec<u8>,
    written: Vec<u8>,
    shutdown: bool,
    output_closed: bool,
    /// What the service commits, as the instance knows from its specification.
    version: u32,
    state: Option<(u32, Bytes)>,
    contents: BTreeMap<ContentId, Bytes>,
    commits: usize,
    hold: bool,
    held: bool,
    end: Option<End>,
    move_asked: Option<MemberId>,
    refuses: Option<MoveError>,
    here: Option<MemberId>,
}

impl Inner {
    fn check(&self, conn: u16) -> Result<(), SessionError> {
        match (self.end, conn) {
            (Some(_), _) => Err(SessionError::Gone),
            (None, 0) => Ok(()),
            (None, _) => Err(SessionError::NoConnection),
        }
    }

    fn roll_back(&mut self) {
        self.consumed = self.committed_input;
        self.written.clear();
        self.shutdown = false;
        self.held = false;
    }

    fn apply(&mut self, version: u32, state: Bytes) {
        self.committed_input = self.consumed;
        let written = core::mem::take(&mut self.written);
        self.output.extend_from_slice(&written);
        self.output_closed |= self.shutdown;
        self.state = Some((version, state));
        self.commits += 1;
        self.held = self.hold;
    }
}

impl Memory {
    fn inner(&self) -> RefMut<'_, Inner> {
        self.inner.borrow_mut()
    }

    fn next_timer(&self) -> Option<Instant> {
        self.timers.borrow().next()
    }

    fn pop_due(&self, now: Instant) -> Option<Waker> {
        self.timers.borrow_mut().pop_due(now)
    }
}

impl Port for Memory {
    fn now(&self) -> Instant {
        self.now.get()
    }

    fn timer_start(&self, at: Instant, waker: &Waker) -> TimerKey {
        self.timers.borrow_mut().insert(at, waker.clone())
    }

    fn timer_renew(&self, key: TimerKey, waker: &Waker) {
        self.timers.borrow_mut().replace(key, waker);
    }

    fn timer_stop(&self, key: TimerKey) {
        self.timers.borrow_mut().remove(key);
    }

    fn committed_state(&self, _: SessionId) -> Option<(u32, Bytes)> {
        self.inner().state.clone()
    }

    fn content(&self, id: &ContentId) -> Option<Bytes> {
        self.inner().contents.get(id).cloned()
    }

    fn remote_address(&self, _: SessionId, conn: u16) -> Option<SocketAddr> {
        (conn == 0).then(|| SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 40_000)))
    }

    fn read(&self, _: SessionId, conn: u16) -> Result<Input, SessionError> {
        let inner = self.inner();
        inner.check(conn)?;
        if inner.consumed - inner.committed_input >= UNCOMMITTED {
            return Err(SessionError::CommitNeeded);
        }
        let unread = inner.input.get(inner.consumed..).unwrap_or_default();
        Ok(match (unread, inner.slice) {
            ([], _) if inner.input_closed => Input::End,
            ([], _) => Input::Pending,
            (unread, 0) => Input::Data(Bytes::copy_from_slice(unread)),
            (unread, slice) => {
                let unread = unread.get(..slice).unwrap_or(unread);
                Input::Data(Bytes::copy_from_slice(unread))
            }
        })
    }

    fn consume(&self, _: SessionId, conn: u16, octets: usize) -> Result<(), SessionError> {
        let mut inner = self.inner();
        inner.check(conn)?;
        inner.consumed = (inner.consumed + octets).min(inner.input.len());
        Ok(())
    }

    fn consume_end(&self, _: SessionId, conn: u16) -> Result<(), SessionError> {
        self.inner().check(conn)
    }

    fn write(&self, session: SessionId, conn: u16, data: Bytes) -> Result<(), SessionError> {
        if data.len() > self.write_room(session, conn)? {
            return Err(SessionError::CommitNeeded);
        }
        let mut inner = self.inner();
        if inner.shutdown || inner.output_closed {
            return Err(SessionError::Closed);
        }
        inner.written.extend_from_slice(&data);
        Ok(())
    }

    fn write_room(&self, _: SessionId, conn: u16) -> Result<usize, SessionError> {
        let inner = self.inner();
        inner.check(conn)?;
        Ok(UNCOMMITTED - inner.written.len())
    }

    fn send_room(&self, session: SessionId, conn: u16) -> Result<usize, SessionError> {
        Ok(self.write_room(session, conn)?.max(1))
    }

    fn shutdown(&self, _: SessionId, conn: u16) -> Result<(), SessionError> {
        let mut inner = self.inner();
        inner.check(conn)?;
        inner.shutdown = true;
        Ok(())
    }

    fn commit(&self, _: SessionId, state: Bytes) -> Result<(), SessionError> {
        let mut inner = self.inner();
        inner.check(0)?;
        let version = inner.version;
        inner.apply(version, state);
        Ok(())
    }

    fn send_ready(&self, _: SessionId) -> Result<bool, SessionError> {
        let inner = self.inner();
        inner.check(0)?;
        Ok(!inner.held)
    }

    fn finish(&self, session: SessionId, state: Bytes) -> Result<(), SessionError> {
        self.inner().shutdown = true;
        self.commit(session, state)?;
        self.inner().end = Some(End::Finished);
        Ok(())
    }

    fn abort(&self, _: SessionId) {
        let mut inner = self.inner();
        inner.roll_back();
        inner.end = Some(End::Aborted);
    }

    fn here(&self) -> MemberId {
        self.inner().here.unwrap_or(MemberId(1))
    }

    fn members(&self) -> Vec<MemberStatus> {
        Vec::new()
    }

    fn may_move(&self, _: SessionId, _: MemberId) -> Result<(), MoveError> {
        self.inner().refuses.map_or(Ok(()), Err)
    }

    fn move_session(&self, _: SessionId, to: MemberId) -> Result<(), MoveError> {
        self.inner().move_asked = Some(to);
        Ok(())
    }
}
