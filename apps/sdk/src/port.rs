//! What a session's handles talk to: an instance, or the test harness.

use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::net::SocketAddr;
use core::task::{Context, Poll, Waker};

use bytes::Bytes;
use godwit_netstack::Instant;
use godwit_netstack::cluster::MemberId;
use godwit_netstack::instance::{MemberStatus, MoveError};
use godwit_netstack::session::{ContentId, Input, SessionError, SessionId};

use crate::timers::TimerKey;

/// The session operations of [`godwit_netstack::Instance`], with the time filled in, and the
/// timers of the drive loop.
pub(crate) trait Port {
    fn now(&self) -> Instant;
    fn timer_start(&self, at: Instant, waker: &Waker) -> TimerKey;
    fn timer_renew(&self, key: TimerKey, waker: &Waker);
    fn timer_stop(&self, key: TimerKey);

    fn committed_state(&self, session: SessionId) -> Option<(u32, Bytes)>;
    fn content(&self, id: &ContentId) -> Option<Bytes>;
    fn remote_address(&self, session: SessionId, conn: u16) -> Option<SocketAddr>;
    fn read(&self, session: SessionId, conn: u16) -> Result<Input, SessionError>;
    fn consume(&self, session: SessionId, conn: u16, octets: usize) -> Result<(), SessionError>;
    fn consume_end(&self, session: SessionId, conn: u16) -> Result<(), SessionError>;
    fn write(&self, session: SessionId, conn: u16, data: Bytes) -> Result<(), SessionError>;
    fn write_room(&self, session: SessionId, conn: u16) -> Result<usize, SessionError>;
    fn send_room(&self, session: SessionId, conn: u16) -> Result<usize, SessionError>;
    fn shutdown(&self, session: SessionId, conn: u16) -> Result<(), SessionError>;
    fn commit(&self, session: SessionId, state: Bytes) -> Result<(), SessionError>;
    fn send_ready(&self, session: SessionId) -> Result<bool, SessionError>;
    fn finish(&self, session: SessionId, state: Bytes) -> Result<(), SessionError>;
    fn abort(&self, session: SessionId);
    fn here(&self) -> MemberId;
    fn members(&self) -> Vec<MemberStatus>;
    fn may_move(&self, session: SessionId, to: MemberId) -> Result<(), MoveError>;
    fn move_session(&self, session: SessionId, to: MemberId) -> Result<(), MoveError>;
}

/// How often a task may go on without ever waiting before it is made to let others run.
const STREAK: u32 = 64;

/// Who waits for something to change about a session.
#[derive(Default)]
pub(crate) struct Waiters {
    wakers: RefCell<Vec<Waker>>,
    streak: Cell<u32>,
}

impl Waiters {
    /// Be woken when something changes. Several futures of one task may wait at once.
    pub(crate) fn wait(&self, cx: &Context<'_>) {
        self.streak.set(0);
        let mut wakers = self.wakers.borrow_mut();
        if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            wakers.push(cx.waker().clone());
        }
    }

    /// Something changed.
    pub(crate) fn wake(&self) {
        // Woken outside the borrow: a waker may run anything. The list keeps its memory.
        let count = self.wakers.borrow().len();
        for _ in 0..count {
            let waker = self.wakers.borrow_mut().pop();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Ready, unless the task has gone on for long without waiting: then it gets back in line.
    pub(crate) fn poll_turn(&self, cx: &Context<'_>) -> Poll<()> {
        self.streak.set(self.streak.get() + 1);
        if self.streak.get() < STREAK {
            return Poll::Ready(());
        }
        self.streak.set(0);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
