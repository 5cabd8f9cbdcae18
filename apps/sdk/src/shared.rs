//! What the drive loop, the sessions and the node agent of one instance share.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, Ref, RefCell, RefMut};
use core::net::SocketAddr;
use core::task::Waker;

use bytes::Bytes;
use godwit_netstack::cluster::MemberId;
use godwit_netstack::counts::Counts;
use godwit_netstack::instance::{DrainOptions, MemberStatus, MoveError};
use godwit_netstack::session::{ContentId, Input, SessionError, SessionId};
use godwit_netstack::stack::Interface;
use godwit_netstack::{Duration, Instance, Instant};

use crate::capture::Capture;
use crate::nics::{self, NicStatus};
use crate::port::Port;
use crate::timers::{TimerKey, Timers};

/// How far the instance is on its way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    Serving,
    Draining,
    Drained,
}

impl Phase {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Phase::Serving => "serving",
            Phase::Draining => "draining",
            Phase::Drained => "drained",
        }
    }
}

/// The instance and its clock. Every borrow lasts one call: nothing in here calls back.
pub(crate) struct Shared {
    instance: RefCell<Instance>,
    timers: RefCell<Timers>,
    now: Cell<Instant>,
    started: Instant,
    phase: Cell<Phase>,
    drain: Cell<DrainOptions>,
    /// When somebody last asked how the drain goes.
    watched: Cell<Option<Instant>>,
    /// Who watches has been told that it is over.
    told: Cell<bool>,
    /// Counters of the NIC, as of a moment ago.
    nic: RefCell<Vec<(&'static str, u64)>>,
    /// How the NICs were a moment ago.
    nics: RefCell<Vec<NicStatus>>,
    /// Where frames are captured, if somebody asked for that.
    pub(crate) capture: Capture,
    /// The date as of a moment ago, in seconds since 1970.
    date: Cell<Option<u64>>,
    /// What the drive loop itself has counted.
    counted: RefCell<Counts>,
}

impl Shared {
    pub(crate) fn new(instance: Instance, now: Instant) -> Rc<Shared> {
        Rc::new(Shared {
            instance: RefCell::new(instance),
            timers: RefCell::new(Timers::default()),
            now: Cell::new(now),
            started: now,
            phase: Cell::new(Phase::Serving),
            drain: Cell::new(DrainOptions::default()),
            watched: Cell::new(None),
            told: Cell::new(false),
            nic: RefCell::default(),
            nics: RefCell::default(),
            capture: Capture::default(),
            date: Cell::new(None),
            counted: RefCell::default(),
        })
    }

    pub(crate) fn instance(&self) -> Ref<'_, Instance> {
        self.instance.borrow()
    }

    pub(crate) fn instance_mut(&self) -> RefMut<'_, Instance> {
        self.instance.borrow_mut()
    }

    /// Whether no call into the instance or its timers is under way.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.instance.try_borrow_mut().is_ok() && self.timers.try_borrow_mut().is_ok()
    }

    /// All counters: the instance's, then the NIC's.
    pub(crate) fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut all = self.instance().counters();
        all.extend_from_slice(&self.nic.borrow());
        all.extend(self.counted.borrow().iter());
        all
    }

    pub(crate) fn set_nic_counters(&self, counters: Vec<(&'static str, u64)>) {
        *self.nic.borrow_mut() = counters;
    }

    /// How the NICs are; what has changed is said.
    pub(crate) fn set_nics(&self, nics: Vec<NicStatus>) {
        let mut known = self.nics.borrow_mut();
        if *known == nics {
            return;
        }
        let before = |now: &NicStatus| {
            let before = known.iter().find(|nic| nic.interface == now.interface);
            before.is_none_or(|nic| nic.works())
        };
        for nic in nics.iter().filter(|nic| nic.works() != before(nic)) {
            let (network, mac) = (nics::network(nic.interface), nics::Mac(nic.mac));
            let suffers = match nic.interface {
                Interface::Service => "clients are not served from here",
                Interface::Instance => "the other members are not reached",
            };
            match (&nic.fault, nic.link) {
                (Some(fault), _) => {
                    log::error!(
                        "{network} network, card {mac}: out of service: {fault}: {suffers}"
                    );
                }
                (None, false) => log::error!("{network} network, card {mac}: no link: {suffers}"),
                (None, true) => log::warn!("{network} network, card {mac}: there is a link again"),
            }
        }
        *known = nics;
    }

    /// How the NICs were a moment ago.
    pub(crate) fn nics(&self) -> Ref<'_, Vec<NicStatus>> {
        self.nics.borrow()
    }

    /// Count something of the drive loop's.
    pub(crate) fn count(&self, name: &'static str) {
        self.counted.borrow_mut().add(name);
    }

    pub(crate) fn set_date(&self, unix_ns: Option<u64>) {
        self.date.set(unix_ns.map(|ns| ns / 1_000_000_000));
    }

    /// Seconds since 1970, if anybody knows.
    pub(crate) fn date(&self) -> Option<u64> {
        self.date.get()
    }

    pub(crate) fn set_now(&self, now: Instant) {
        self.now.set(now);
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.set(phase);
    }

    /// How a drain goes unless whoever asks for it says otherwise.
    pub(crate) fn set_drain_options(&self, options: DrainOptions) {
        self.drain.set(options);
    }

    pub(crate) fn drain_options(&self) -> DrainOptions {
        self.drain.get()
    }

    /// Leave the cluster; nothing happens if that is already going on.
    pub(crate) fn drain(&self) {
        self.drain_with(self.drain.get());
    }

    /// The same, in another way than configured.
    pub(crate) fn drain_with(&self, options: DrainOptions) {
        if self.phase.get() == Phase::Serving {
            self.phase.set(Phase::Draining);
            self.instance_mut().drain_with(self.now.get(), options);
        }
    }

    /// Somebody asks how the drain goes.
    pub(crate) fn watch_drain(&self) {
        self.watched.set(Some(self.now.get()));
        self.told.set(self.phase.get() == Phase::Drained);
    }

    /// Whether somebody who asked lately still waits to be told that it is over.
    pub(crate) fn is_watched(&self, patience: Duration) -> bool {
        let asked = self.watched.get();
        !self.told.get() && asked.is_some_and(|at| self.now.get().since(at) < patience)
    }

    /// Move all that can move.
    pub(crate) fn move_all(&self, to: MemberId) -> Result<usize, MoveError> {
        self.instance_mut().move_all(self.now.get(), to)
    }

    /// Wake the tasks whose deadline is due.
    pub(crate) fn fire_timers(&self, now: Instant) {
        while let Some(waker) = self.pop_due(now) {
            waker.wake();
        }
    }

    fn pop_due(&self, now: Instant) -> Option<Waker> {
        self.timers.borrow_mut().pop_due(now)
    }

    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.timers.borrow().next()
    }
}

impl Port for Shared {
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

    fn committed_state(&self, session: SessionId) -> Option<(u32, Bytes)> {
        self.instance().committed_state(session)
    }

    fn content(&self, id: &ContentId) -> Option<Bytes> {
        self.instance().content(id)
    }

    fn remote_address(&self, session: SessionId, conn: u16) -> Option<SocketAddr> {
        self.instance().remote_address(session, conn)
    }

    fn read(&self, session: SessionId, conn: u16) -> Result<Input, SessionError> {
        self.instance().read(session, conn)
    }

    fn consume(&self, session: SessionId, conn: u16, octets: usize) -> Result<(), SessionError> {
        self.instance_mut().consume(session, conn, octets)
    }

    fn consume_end(&self, session: SessionId, conn: u16) -> Result<(), SessionError> {
        self.instance_mut().consume_end(session, conn)
    }

    fn write(&self, session: SessionId, conn: u16, data: Bytes) -> Result<(), SessionError> {
        self.instance_mut().write(session, conn, data)
    }

    fn write_room(&self, session: SessionId, conn: u16) -> Result<usize, SessionError> {
        self.instance().write_room(session, conn)
    }

    fn send_room(&self, session: SessionId, conn: u16) -> Result<usize, SessionError> {
        self.instance().send_room(session, conn)
    }

    fn shutdown(&self, session: SessionId, conn: u16) -> Result<(), SessionError> {
        self.instance_mut().shutdown(session, conn)
    }

    fn commit(&self, session: SessionId, state: Bytes) -> Result<(), SessionError> {
        self.instance_mut().commit(self.now.get(), session, state)
    }

    fn send_ready(&self, session: SessionId) -> Result<bool, SessionError> {
        self.instance().send_ready(session)
    }

    fn finish(&self, session: SessionId, state: Bytes) -> Result<(), SessionError> {
        self.instance_mut().finish(self.now.get(), session, state)
    }

    fn abort(&self, session: SessionId) {
        self.instance_mut().abort(self.now.get(), session);
    }

    fn here(&self) -> MemberId {
        self.instance().id()
    }

    fn members(&self) -> Vec<MemberStatus> {
        self.instance().members()
    }

    fn may_move(&self, session: SessionId, to: MemberId) -> Result<(), MoveError> {
        self.instance().may_move(self.now.get(), session, to)
    }

    fn move_session(&self, session: SessionId, to: MemberId) -> Result<(), MoveError> {
        self.instance_mut()
            .move_session(self.now.get(), session, to)
    }
}
