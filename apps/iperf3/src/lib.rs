//! A server for the stock `iperf3` client, so that what a connection carries can be measured with a
//! tool that everybody has: `iperf3 -c ADDRESS`, with `-R` (the server sends), `-P` and `-n`. TCP only,
//! one test at a time, as iperf3's own server.
//!
//! A test is one control connection and one or more streams; each connection is a session, and the
//! [`Test`] they share stays with the instance. So these sessions do not move: one that arrives
//! elsewhere after it began is reset. [`protocol`] has what goes over the control connection.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod protocol;

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::poll_fn;
use core::task::{Poll, Waker};

use godwit::{Bytes, Connection, Duration, Error, Instant, Result, Service, Session};
use protocol::{COOKIE, Cookie, MAX_JSON, Message, Params};
use serde::{Deserialize, Serialize};

/// What a step of the control connection may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a test without a bound in time may take.
const LONGEST: Duration = Duration::from_secs(3_600);
/// Octets written in one go.
const PIECE: usize = 128 * 1024;

/// The test under way.
struct Test {
    cookie: Cookie,
    params: Params,
    /// Octets each stream has carried, in the order the streams came.
    streams: Vec<u64>,
    /// Since when data may flow.
    started: Option<Instant>,
    finished: bool,
    /// Who waits for a change.
    waiting: Vec<Waker>,
}

impl Test {
    fn wake(&mut self) {
        for waker in self.waiting.drain(..) {
            waker.wake();
        }
    }
}

type Shared = Rc<RefCell<Option<Test>>>;

/// The service.
#[derive(Default)]
pub struct Iperf3 {
    test: Shared,
}

/// Whether a session has begun: then it cannot begin again elsewhere.
#[derive(Default, Serialize, Deserialize)]
pub struct Begun(bool);

impl Service for Iperf3 {
    type State = Begun;
    const NAME: &'static str = "iperf3";
    const PORT: u16 = 5201;

    async fn serve(&self, session: &mut Session<Begun>) -> Result<()> {
        if core::mem::replace(&mut session.state_mut().0, true) {
            return Err(Error::Service("a test stays where it began"));
        }
        let mut client = session.client();
        let cookie = read(session, &mut client, COOKIE).await?;
        let cookie = Cookie::try_from(&cookie[..]).map_err(|_| Error::Service("no cookie"))?;
        session.commit().await?;
        match self.join(&cookie) {
            Some(stream) => self.stream(session, client, stream).await,
            None => self.control(session, client, cookie).await,
        }
    }
}

impl Iperf3 {
    /// The number of the stream that a connection with this cookie is; `None` if there is no such test
    /// or it has all its streams.
    fn join(&self, cookie: &Cookie) -> Option<usize> {
        let mut test = self.test.borrow_mut();
        let test = test.as_mut().filter(|test| test.cookie == *cookie)?;
        if test.streams.len() >= test.params.streams() {
            return None;
        }
        test.streams.push(0);
        test.wake();
        Some(test.streams.len() - 1)
    }

    /// Wait until `ready` says something about the test; `None` once there is no test any more.
    async fn wait_for<T>(&self, mut ready: impl FnMut(&Test) -> Option<T>) -> Option<T> {
        poll_fn(|cx| {
            let mut test = self.test.borrow_mut();
            let Some(test) = test.as_mut() else {
                return Poll::Ready(None);
            };
            let answer = ready(test);
            if answer.is_none() {
                let known = |waker: &Waker| waker.will_wake(cx.waker());
                if !test.waiting.iter().any(known) {
                    test.waiting.push(cx.waker().clone());
                }
                return Poll::Pending;
            }
            Poll::Ready(answer)
        })
        .await
    }

    async fn control(
        &self,
        session: &mut Session<Begun>,
        mut client: Connection,
        cookie: Cookie,
    ) -> Result<()> {
        if self.test.borrow().is_some() {
            say(session, &mut client, Message::AccessDenied).await?;
            return Ok(());
        }
        *self.test.borrow_mut() = Some(Test {
            cookie,
            params: Params::default(),
            streams: Vec::new(),
            started: None,
            finished: false,
            waiting: Vec::new(),
        });
        // Whatever comes of it, the next client finds the place free.
        let place = Place(self.test.clone());
        say(session, &mut client, Message::ParamExchange).await?;
        let params = Params::read(&read_json(session, &mut client).await?)
            .ok_or(Error::Service("not a test that is served here"))?;
        let longest = match params.seconds() {
            0 => LONGEST,
            seconds => Duration::from_secs(seconds) + PATIENCE,
        };
        let streams = params.streams();
        if let Some(test) = &mut *self.test.borrow_mut() {
            test.params = params;
        }
        say(session, &mut client, Message::CreateStreams).await?;
        let complete = self.wait_for(|test| (test.streams.len() == streams).then_some(()));
        let complete = session.timeout(PATIENCE, complete).await;
        complete.ok_or(Error::Service("streams are missing"))?;
        say(session, &mut client, Message::TestStart).await?;
        say(session, &mut client, Message::TestRunning).await?;
        if let Some(test) = &mut *self.test.borrow_mut() {
            test.started = Some(session.now());
            test.wake();
        }
        let end = session.timeout(longest, client.read_chunk(1)).await;
        if end.ok_or(Error::Service("the test does not end"))??[..] != [Message::TestEnd as u8] {
            return Err(Error::Service("the test was broken off"));
        }
        if let Some(test) = &mut *self.test.borrow_mut() {
            test.finished = true;
            test.wake();
        }
        say(session, &mut client, Message::ExchangeResults).await?;
        read_json(session, &mut client).await?;
        let results = self.results(session.now());
        client.write_bytes(Bytes::copy_from_slice(
            &(results.len() as u32).to_be_bytes(),
        ))?;
        client.write_bytes(results)?;
        // A client that has the results may ask for its next test while its goodbye is on the way, or lost.
        drop(place);
        say(session, &mut client, Message::DisplayResults).await?;
        read(session, &mut client, 1).await?;
        Ok(())
    }

    fn results(&self, now: Instant) -> Bytes {
        let test = self.test.borrow();
        let Some(test) = &*test else {
            return Bytes::new();
        };
        let elapsed = test
            .started
            .map_or(Duration::ZERO, |start| now.since(start));
        protocol::results(&test.streams, elapsed)
    }

    async fn stream(
        &self,
        session: &mut Session<Begun>,
        client: Connection,
        stream: usize,
    ) -> Result<()> {
        let reverse = self
            .wait_for(|test| test.started.map(|_| test.params.reverse))
            .await;
        match reverse {
            Some(true) => self.send(session, client, stream).await,
            Some(false) => self.receive(session, client, stream).await,
            None => Ok(()),
        }
    }

    /// Count what a stream has carried; false once the test is over.
    fn count(&self, stream: usize, octets: usize) -> bool {
        let mut test = self.test.borrow_mut();
        let Some(test) = test.as_mut() else {
            return false;
        };
        if let Some(sum) = test.streams.get_mut(stream) {
            *sum += octets as u64;
        }
        !test.finished
    }

    /// Take what comes until the client closes.
    async fn receive(
        &self,
        session: &mut Session<Begun>,
        mut client: Connection,
        stream: usize,
    ) -> Result<()> {
        loop {
            let chunk = client.read_chunk(PIECE).await?;
            if chunk.is_empty() {
                return Ok(());
            }
            self.count(stream, chunk.len());
            session.commit().await?;
        }
    }

    /// Send until the test is over. A client that has what it wants may reset its streams.
    async fn send(
        &self,
        session: &mut Session<Begun>,
        mut client: Connection,
        stream: usize,
    ) -> Result<()> {
        let data = Bytes::from(vec![0x5a; PIECE]);
        loop {
            let room = client.send_room()?.min(client.write_room()?).min(PIECE);
            client.write_bytes(data.slice(..room))?;
            if !self.count(stream, room) {
                return Ok(());
            }
            session.commit().await?;
        }
    }
}

/// Gives the place of the test free again, and sends its streams away.
struct Place(Shared);

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(mut test) = self.0.borrow_mut().take() {
            test.wake();
        }
    }
}

/// Send one message and whatever was written before it.
async fn say(session: &mut Session<Begun>, client: &mut Connection, what: Message) -> Result<()> {
    client.write_bytes(Bytes::copy_from_slice(&[what as u8]))?;
    session.commit().await
}

/// The next `octets` octets.
async fn read(session: &Session<Begun>, client: &mut Connection, octets: usize) -> Result<Vec<u8>> {
    let whole = async {
        let mut whole = Vec::with_capacity(octets);
        while whole.len() < octets {
            let chunk = client.read_chunk(octets - whole.len()).await?;
            if chunk.is_empty() {
                return Err(Error::Service("the client closed too early"));
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole)
    };
    let whole = session.timeout(PATIENCE, whole).await;
    whole.ok_or(Error::Service("the client says nothing"))?
}

/// A JSON text with its length before it.
async fn read_json(session: &Session<Begun>, client: &mut Connection) -> Result<Vec<u8>> {
    let length = read(session, client, 4).await?;
    let length = length
        .iter()
        .fold(0, |sum, octet| sum << 8 | usize::from(*octet));
    if length > MAX_JSON {
        return Err(Error::Service("a text that is too long"));
    }
    read(session, client, length).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit::testing::{End, Harness};

    const OPENING: [u8; COOKIE] = [b'c'; COOKIE];

    #[test]
    fn a_client_is_asked_for_its_parameters_and_then_for_its_streams() {
        let mut harness = Harness::new(Iperf3::default());
        harness.client_sends(&OPENING);
        harness.run();
        assert_eq!(harness.received(), [9]);
        let params = br#"{"tcp":true,"time":1,"parallel":2}"#;
        harness.client_sends(&(params.len() as u32).to_be_bytes());
        harness.client_sends(params);
        harness.run();
        assert_eq!(harness.received(), [9, 10]);
    }

    #[test]
    fn what_is_not_served_or_too_long_is_reset() {
        let texts: [(u32, &[u8]); 4] = [
            (u32::MAX, b""),
            (14, br#"{"udp":  true}"#),
            (3, b"{]}"),
            (24, br#"{"bidirectional":  true}"#),
        ];
        for (length, text) in texts {
            let mut harness = Harness::new(Iperf3::default());
            harness.client_sends(&OPENING);
            harness.client_sends(&length.to_be_bytes());
            harness.client_sends(text);
            harness.run();
            assert_eq!(harness.end(), Some(End::Aborted), "{text:?}");
        }
    }

    #[test]
    fn the_next_test_need_not_wait_for_the_last_goodbye() {
        let shared = Shared::default();
        let connect = || {
            let mut harness = Harness::new(Iperf3 {
                test: shared.clone(),
            });
            harness.client_sends(&OPENING);
            harness.run();
            harness
        };
        let mut control = connect();
        let json = |text: &[u8]| [&(text.len() as u32).to_be_bytes(), text].concat();
        control.client_sends(&json(br#"{"tcp":true,"time":1}"#));
        control.run();
        let mut stream = connect();
        control.run();
        assert_eq!(connect().received(), [0xff], "one test at a time");
        control.client_sends(&[4]);
        control.client_sends(&json(b"{}"));
        control.run();
        stream.run();
        assert_eq!(control.received().last(), Some(&14));
        assert_eq!(connect().received(), [9]);
    }

    #[test]
    fn a_test_does_not_begin_again_elsewhere() {
        let mut harness = Harness::new(Iperf3::default());
        harness.client_sends(&OPENING);
        harness.run();
        harness.move_session();
        harness.run();
        assert_eq!(harness.end(), Some(End::Aborted));
    }
}
