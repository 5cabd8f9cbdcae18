//! A session as its service sees it: state, connection, commit.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::poll_fn;
use core::net::SocketAddr;
use core::pin::{Pin, pin};
use core::task::{Context, Poll, Waker};

use bytes::Bytes;
use godwit_netstack::cluster::MemberId;
use godwit_netstack::instance::MemberStatus;
use godwit_netstack::session::{ContentId, SessionId};
use godwit_netstack::{Duration, Instant};
use serde::Serialize;

use crate::Result;
use crate::connection::{AutoCommit, Connection};
use crate::port::{Port, Waiters};
use crate::service::encode_state;
use crate::timers::TimerKey;

/// One session while it is served here.
///
/// Reads, writes and changes of the state take effect together, at [`Session::commit`]. A move
/// carries the last committed point.
pub struct Session<S> {
    port: Rc<dyn Port>,
    waiters: Rc<Waiters>,
    id: SessionId,
    state: S,
    /// The state as it was encoded last.
    encoded: Bytes,
    alarm: Rc<Alarm>,
}

/// Octets of a state that is encoded without an allocation, if it has not changed.
const SMALL_STATE: usize = 64;

impl<S> Session<S> {
    pub(crate) fn new(
        port: Rc<dyn Port>,
        waiters: Rc<Waiters>,
        id: SessionId,
        state: S,
    ) -> Session<S> {
        Session {
            alarm: Rc::new(Alarm::new(port.clone())),
            port,
            waiters,
            id,
            state,
            encoded: Bytes::new(),
        }
    }

    /// The session's name, the same wherever it moves.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The state: the committed one after a start, then as changed.
    pub fn state(&self) -> &S {
        &self.state
    }

    /// The state, to change. A change counts from the next commit on.
    pub fn state_mut(&mut self) -> &mut S {
        &mut self.state
    }

    /// A handle of the client's connection. Handles are cheap, and all speak of the same bytes.
    pub fn client(&self) -> Connection {
        Connection::new(self.port.clone(), self.waiters.clone(), self.id, 0)
    }

    /// The client's address; `None` once its connection is gone.
    pub fn client_address(&self) -> Option<SocketAddr> {
        self.port.remote_address(self.id, 0)
    }

    /// The member that serves the session now.
    pub fn here(&self) -> MemberId {
        self.port.here()
    }

    /// The other members, and whether each can be reached.
    pub fn members(&self) -> Vec<MemberStatus> {
        self.port.members()
    }

    /// A content that came along with a session because its state names it and this instance did not
    /// have it ([`crate::Service::names`]). It stays as long as a committed state names it.
    pub fn content(&self, id: &ContentId) -> Option<Bytes> {
        self.port.content(id)
    }

    /// The time on the instance's clock (another clock after a move).
    pub fn now(&self) -> Instant {
        self.port.now()
    }

    /// Wait. A move starts the wait anew.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        Sleep {
            at: self.port.now() + duration,
            alarm: self.alarm.clone(),
            key: None,
        }
    }

    /// Run `future` for `duration` at most; `None` when the time is over.
    pub fn timeout<F: Future>(
        &self,
        duration: Duration,
        future: F,
    ) -> impl Future<Output = Option<F::Output>> + use<F, S> {
        before(self.sleep(duration), future)
    }
}

/// Run `future` until `sleep` is over at most.
pub(crate) async fn before<F: Future>(mut sleep: Sleep, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Pin::new(&mut sleep).poll(cx).map(|()| None),
    })
    .await
}

impl<S: Serialize> Session<S> {
    /// Apply input consumed, output written and the state, all at once; then wait until the send
    /// buffer has room again.
    ///
    /// The commit is made when this is called and first polled; dropping the future afterwards
    /// (a move does) loses nothing.
    pub async fn commit(&mut self) -> Result<()> {
        self.commit_now()?;
        poll_fn(|cx| {
            if self.port.send_ready(self.id)? {
                self.waiters.poll_turn(cx).map(Ok)
            } else {
                self.waiters.wait(cx);
                Poll::Pending
            }
        })
        .await
    }

    /// Commit without waiting for room in the send buffer.
    pub fn commit_now(&mut self) -> Result<()> {
        let state = self.encode()?;
        Ok(self.port.commit(self.id, state)?)
    }

    /// The state, encoded: mostly it is what it was at the last commit.
    fn encode(&mut self) -> Result<Bytes> {
        let mut place = [0; SMALL_STATE];
        match postcard::to_slice(&self.state, &mut place) {
            Ok(octets) => {
                if *octets != *self.encoded {
                    self.encoded = Bytes::copy_from_slice(octets);
                }
                Ok(self.encoded.clone())
            }
            Err(_) => encode_state(&self.state),
        }
    }

    /// Commit, then move to another member: content-aware distribution, say, to whoever has what
    /// the request is about in its cache.
    ///
    /// An error means that the member is unknown or not reachable, or that the session is being
    /// moved already; nothing is committed then, and the service may go on as it is. If all is
    /// well, the commit is made and the move follows. The service goes on until it is dropped (the
    /// move of a session that has only just arrived waits for a moment), and starts anew
    /// at the member with the committed state. The member may still refuse; the session then
    /// starts anew here. So let the state say that the move has been asked for, not that it was made. A move to
    /// where the session is already is a commit.
    pub fn move_to(&mut self, member: MemberId) -> Result<()> {
        if member == self.port.here() {
            return self.commit_now();
        }
        self.port.may_move(self.id, member)?;
        self.commit_now()?;
        Ok(self.port.move_session(self.id, member)?)
    }

    /// The client's connection as a reader and writer whose `flush` commits.
    ///
    /// For code that knows nothing of sessions. What was read before a flush is gone for good
    /// after it, so let the state say at each flush where to go on.
    pub fn autocommit(&mut self) -> AutoCommit<'_, S> {
        AutoCommit::new(self.client(), self)
    }
}

/// Waits for a point in time. See [`Session::sleep`].
pub struct Sleep {
    at: Instant,
    alarm: Rc<Alarm>,
    /// A timer of its own, where the session's alarm is of no use.
    key: Option<TimerKey>,
}

/// A timer for all waits of a session. It stays set when a wait is over, so that a request which comes
/// in time costs no change of timers: if it goes off too early, who waits yet sets it again.
struct Alarm {
    port: Rc<dyn Port>,
    set: RefCell<Option<(TimerKey, Waker)>>,
}

impl Alarm {
    fn new(port: Rc<dyn Port>) -> Alarm {
        Alarm {
            port,
            set: RefCell::new(None),
        }
    }

    /// See to it that `waker` is woken at `at`, or before. `false`: somebody else is.
    fn set(&self, at: Instant, waker: &Waker) -> bool {
        let mut set = self.set.borrow_mut();
        if let Some((key, whose)) = &*set
            && key.0 > self.port.now()
        {
            if !whose.will_wake(waker) {
                return false;
            }
            if key.0 <= at {
                return true;
            }
            self.port.timer_stop(*key);
        }
        *set = Some((self.port.timer_start(at, waker), waker.clone()));
        true
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some((key, _)) = self.set.take() {
            self.port.timer_stop(key);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let (alarm, at) = (self.alarm.clone(), self.at);
        if alarm.port.now() >= at {
            return Poll::Ready(());
        }
        match self.key {
            Some(key) => alarm.port.timer_renew(key, cx.waker()),
            None if alarm.set(at, cx.waker()) => {}
            None => self.key = Some(alarm.port.timer_start(at, cx.waker())),
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.alarm.port.timer_stop(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use core::cell::RefCell;

    use embedded_io_async::{BufRead, Read, Write};
    use godwit_netstack::instance::MoveError;
    use serde::Deserialize;

    use super::*;
    use crate::testing::{End, Harness};
    use crate::{Error, Service, SessionError};

    /// A service made of one async closure over its session.
    struct Script<F>(F);

    #[derive(Default, Serialize, Deserialize, Debug, PartialEq)]
    struct State {
        step: u32,
        text: String,
    }

    impl<F: AsyncFn(&mut Session<State>) -> Result<()> + 'static> Service for Script<F> {
        type State = State;
        const NAME: &'static str = "script";
        const PORT: u16 = 1;
        const STATE_VERSION: u32 = 3;

        async fn serve(&self, session: &mut Session<State>) -> Result<()> {
            (self.0)(session).await
        }

        fn upgrade(version: u32, bytes: &[u8]) -> Result<State> {
            match (version, bytes) {
                (2, [step]) => Ok(State {
                    step: u32::from(*step),
                    text: "upgraded".into(),
                }),
                _ => Err(Error::StateVersion { found: version }),
            }
        }
    }

    fn script<F: AsyncFn(&mut Session<State>) -> Result<()> + 'static>(f: F) -> Harness<Script<F>> {
        Harness::new(Script(f))
    }

    /// Never done, so that the harness can look.
    async fn rest<S>(session: &Session<S>) -> Result<()> {
        session.sleep(Duration::from_secs(1 << 30)).await;
        Ok(())
    }

    #[test]
    fn what_was_not_committed_is_undone_by_a_move() {
        let mut harness = script(async |session| {
            let mut client = session.client();
            let word = client.read_chunk(3).await?;
            client.write_bytes(word)?;
            session.state_mut().step += 1;
            if session.state().step == 1 {
                session.commit().await?;
                client.read_chunk(1).await?;
                client.write_bytes(Bytes::from_static(b"never"))?;
                session.state_mut().step = 99;
            }
            rest(session).await
        });
        harness.client_sends(b"abcdef");
        harness.run();
        assert_eq!(harness.received(), b"abc");
        harness.move_session();
        harness.run();
        assert_eq!(harness.committed_state().unwrap()[0], 1);
        // The second run reads what the first consumed without committing.
        harness.client_closes();
        assert_eq!(harness.received(), b"abc");
        assert_eq!(harness.commits(), 1);
    }

    #[test]
    fn a_finished_service_commits_what_is_left() {
        let mut harness = script(async |session| {
            session.client().write_bytes(Bytes::from_static(b"bye"))?;
            Ok(())
        });
        harness.run();
        assert_eq!(harness.end(), Some(End::Finished));
        assert_eq!(harness.received(), b"bye");
        assert!(harness.output_closed());
    }

    #[test]
    fn a_failed_service_resets_and_sends_nothing_more() {
        let mut harness = script(async |session| {
            session.client().write_bytes(Bytes::from_static(b"half"))?;
            Err(Error::Service("lost the thread"))
        });
        harness.run();
        assert_eq!(harness.end(), Some(End::Aborted));
        assert_eq!(harness.received(), b"");
    }

    #[test]
    fn beyond_the_bound_reads_and_writes_ask_for_a_commit() {
        let mut harness = script(async |session| {
            let mut client = session.client();
            let needed = Err(Error::Session(SessionError::CommitNeeded));
            let room = client.write_room()?;
            client.write_bytes(Bytes::from(alloc::vec![7; room]))?;
            assert_eq!(client.write(b"x").await, needed);
            assert_eq!(
                client.write_bytes(Bytes::from_static(b"x")),
                needed.map(|_: usize| ())
            );
            let mut total = 0;
            let error = loop {
                match client.read_chunk(usize::MAX).await {
                    Ok(chunk) => total += chunk.len(),
                    Err(error) => break error,
                }
            };
            assert_eq!(error, Error::Session(SessionError::CommitNeeded));
            assert!(total >= 64 * 1024);
            session.commit().await?;
            assert!(client.write_room()? > 0 && !client.peek().await?.is_empty());
            Ok(())
        });
        harness.slice_input(10_000);
        harness.client_sends(&[1; 200_000]);
        harness.run();
        assert_eq!(harness.end(), Some(End::Finished));
    }

    #[test]
    fn readers_of_the_embedded_io_traits_take_only_what_they_consume() {
        let mut harness = script(async |session| {
            let mut client = session.client();
            let seen = client.fill_buf().await?.len();
            client.consume(seen.min(2));
            session.commit().await?;
            let mut two = [0; 2];
            assert_eq!(client.read(&mut two).await?, 2);
            assert_eq!(&two, b"cd");
            assert_eq!(client.read(&mut []).await?, 0);
            client.write_all(b"ok").await?;
            session.commit().await?;
            assert_eq!(client.peek().await?, "ef");
            rest(session).await
        });
        harness.client_sends(b"abcdef");
        harness.run();
        assert_eq!(harness.received(), b"ok");
    }

    #[test]
    fn flush_commits_only_through_the_adapter() {
        let mut harness = script(async |session| {
            let mut client = session.client();
            client.write_all(b"held").await?;
            client.flush().await?;
            if session.state().step == 0 {
                session.sleep(Duration::from_millis(1)).await;
            }
            let mut auto = session.autocommit();
            auto.write_all(b" back").await?;
            auto.state_mut().step = 1;
            auto.flush().await?;
            rest(session).await
        });
        harness.run();
        assert_eq!(harness.received(), b"");
        harness.advance(Duration::from_millis(1));
        assert_eq!(harness.received(), b"held back");
    }

    #[test]
    fn a_commit_waits_while_the_send_buffer_is_full_but_holds_at_once() {
        let mut harness = script(async |session| {
            session.client().write_bytes(Bytes::from_static(b"one"))?;
            session.commit().await?;
            session.client().write_bytes(Bytes::from_static(b"two"))?;
            session.commit().await?;
            Ok(())
        });
        harness.hold_commits();
        harness.run();
        assert_eq!(harness.received(), b"one");
        harness.run();
        assert_eq!(harness.received(), b"one");
        harness.send_window();
        harness.run();
        assert_eq!(harness.received(), b"onetwo");
        assert_eq!(harness.end(), None);
    }

    #[test]
    fn a_service_that_never_waits_lets_others_run() {
        let polls = Rc::new(RefCell::new(0_u32));
        let counter = polls.clone();
        let mut harness = script(async move |session| {
            for _ in 0..1000 {
                session.commit().await?;
                *counter.borrow_mut() += 1;
            }
            Ok(())
        });
        harness.turn();
        let first = *polls.borrow();
        assert!((1..100).contains(&first), "{first} commits in one turn");
        harness.run();
        assert_eq!(*polls.borrow(), 1000);
    }

    #[test]
    fn timeouts_end_waits_and_only_late_ones() {
        let mut harness = script(async |session| {
            let mut client = session.client();
            let second = Duration::from_secs(1);
            let late = session.timeout(second, client.peek()).await;
            assert!(late.is_none());
            let soon = session.timeout(second, client.peek()).await;
            assert_eq!(soon.unwrap()?, "x");
            Ok(())
        });
        harness.run();
        harness.advance(Duration::from_millis(999));
        harness.advance(Duration::from_millis(1));
        harness.client_sends(b"x");
        harness.run();
        assert_eq!(harness.end(), Some(End::Finished));
    }

    #[test]
    fn asking_for_a_move_commits_first() {
        let mut harness = script(async |session| {
            session.client().write_bytes(Bytes::from_static(b"x"))?;
            session.move_to(MemberId(2))?;
            rest(session).await
        });
        harness.run();
        assert_eq!(harness.received(), b"x");
        assert_eq!(harness.move_asked(), Some(MemberId(2)));
    }

    #[test]
    fn a_move_that_cannot_be_leaves_everything_as_it_was() {
        for reason in [MoveError::NoMember, MoveError::Unreachable] {
            let mut harness = script(async move |session| {
                session.client().write_bytes(Bytes::from_static(b"x"))?;
                let asked = session.move_to(MemberId(9));
                assert_eq!(asked, Err(Error::Move(reason)));
                rest(session).await
            });
            harness.refuse_moves(Some(reason));
            harness.run();
            assert_eq!((harness.commits(), harness.move_asked()), (0, None));
            assert_eq!(harness.received(), b"");
        }
    }

    #[test]
    fn a_move_to_where_the_session_is_only_commits() {
        let mut harness = script(async |session| {
            session.move_to(session.here())?;
            rest(session).await
        });
        harness.run();
        assert_eq!((harness.commits(), harness.move_asked()), (1, None));
    }

    #[test]
    fn a_service_that_moves_itself_starts_anew_there_with_what_it_committed() {
        let mut harness = script(async |session| {
            let mut client = session.client();
            let there = MemberId(2);
            if session.here() != there {
                client.read_chunk(3).await?;
                session.state_mut().step = 7;
                session.move_to(there)?;
                return rest(session).await;
            }
            let word = client.read_chunk(3).await?;
            client.write_bytes(word)?;
            Ok(())
        });
        harness.client_sends(b"getabc");
        harness.run();
        assert_eq!(harness.move_asked(), Some(MemberId(2)));
        harness.move_session_to(MemberId(2));
        harness.run();
        assert_eq!(harness.received(), b"abc");
        assert_eq!(harness.end(), Some(End::Finished));
    }

    #[test]
    fn a_state_of_another_version_is_upgraded_or_refused() {
        let check = |version, bytes: &[u8]| {
            let mut harness = script(async |session| {
                let text = session.state().text.clone().into_bytes();
                session.client().write_bytes(text.into())?;
                Ok(())
            });
            harness.replace_state(version, bytes);
            harness.run();
            (harness.end().unwrap(), harness.received())
        };
        assert_eq!(check(3, b"\x01\x02hi"), (End::Finished, b"hi".to_vec()));
        assert_eq!(check(2, b"\x05"), (End::Finished, b"upgraded".to_vec()));
        assert_eq!(check(1, b"\x05").0, End::Aborted);
        assert_eq!(check(3, b"\x01\x7fhi").0, End::Aborted, "truncated");
        assert_eq!(check(3, b"\x01\x02hi!").0, End::Aborted, "trailing octets");
        assert_eq!(check(3, b"").0, End::Aborted);
    }
}
