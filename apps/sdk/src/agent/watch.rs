//! What the node agent tells while it goes on: samples of what runs, frames, the log.
//!
//! | request | answer |
//! |---|---|
//! | `GET /profile?hz=997&seconds=5` | a line, `godwit-profile 1 BUILD HZ`, then samples as [`Insight::take_samples`] has them; at the end 0 and how many were lost |
//! | `GET /pcap?seconds=10&frames=N&snap=128&interface=0` | a line, `godwit-pcap 1 NOW SNAP` with the clock's nanoseconds, then the records of `capture.rs`; interface 1 is the instance network, if there is one |
//! | `GET /log?follow=SECONDS` | the log as far as it is kept, and what is added for so long |
//! | `GET /boot` | a line of JSON for each stage of the boot |
//!
//! The end of an answer is that of its connection. A client that closes its direction, or says
//! anything, is told the end at once. While it does not read, nothing waits for it but buffers of
//! fixed size. There is one profile and one capture at a time (409), and [`MAX_FOLLOWERS`] read the log.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;

use bytes::Bytes;
use godwit_netstack::stack::Interface;
use godwit_netstack::{Duration, Instant};

use super::{Agent, Answer};
use crate::capture::Wanted;
use crate::connection::Connection;
use crate::http::send_all;
use crate::platform::Insight;
use crate::port::Port;
use crate::shared::Shared;
use crate::{Error, Result, Session};

/// How often what has come is passed on.
const PAUSE: Duration = Duration::from_millis(20);
/// The same where so many octets come in that time that their buffer may be too small.
const SHORT_PAUSE: Duration = Duration::from_millis(1);
const MUCH: usize = 16 << 10;
/// How long a client may not read after the end of what it asked for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Seconds that something may be watched.
const LONGEST: u32 = 3600;
/// Samples a second at most.
const FASTEST: u32 = 10_000;
/// Who may follow the log at a time.
pub(super) const MAX_FOLLOWERS: usize = 4;
/// Octets of a frame that are captured, at least (its Ethernet header) and at most.
const SNAP: (u32, u32) = (14, 65_535);

/// What came of a request's words, or what is wrong with them.
type Said<T> = core::result::Result<T, String>;

/// One of those that follow the log, while there is a clone of the agent's.
type Follower = Option<Rc<()>>;

/// Something that is told bit by bit.
pub(super) struct Stream {
    kind: Kind,
    until: Instant,
    shared: Rc<Shared>,
}

enum Kind {
    Profile(&'static dyn Insight),
    Capture,
    Log {
        insight: &'static dyn Insight,
        told: u64,
        _follower: Follower,
    },
}

impl Stream {
    /// Appends what there is to tell; whether that is all.
    fn tell(&mut self, now: Instant, out: &mut Vec<u8>, over: bool) -> bool {
        let over = over || now >= self.until;
        match &mut self.kind {
            Kind::Profile(insight) => {
                let lost = insight.take_samples(out);
                if over {
                    out.extend_from_slice(&[0; 4]);
                    out.extend_from_slice(&lost.to_le_bytes());
                }
                over
            }
            Kind::Capture => {
                let (records, all) = self.shared.capture.take();
                out.extend_from_slice(&records);
                if over || all {
                    out.extend_from_slice(&self.shared.capture.end());
                }
                over || all
            }
            Kind::Log { insight, told, .. } => {
                *told = insight.log(*told, out);
                over
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        match &self.kind {
            Kind::Profile(insight) => insight.stop_samples(),
            Kind::Capture => self.shared.capture.stop(),
            Kind::Log { .. } => {}
        }
    }
}

/// Tells all of a stream.
pub(super) async fn tell(
    session: &mut Session<()>,
    client: &mut Connection,
    mut stream: Stream,
) -> Result<()> {
    let mut over = false;
    loop {
        let mut out = Vec::new();
        over = stream.tell(session.now(), &mut out, over);
        let usual = match out.len() {
            0..MUCH => PAUSE,
            _ => SHORT_PAUSE,
        };
        // What is watched must not go on for ever because nobody reads.
        let patience = stream.until.since(session.now()) + PATIENCE;
        let deadline = session.sleep(patience);
        let sent = async {
            send_all(session, client, Bytes::from(out)).await?;
            session.commit().await
        };
        match crate::session::before(deadline, sent).await {
            Some(sent) => sent?,
            None => return Err(Error::Service("nobody reads what was asked for")),
        }
        if over {
            return Ok(());
        }
        let pause = usual.min(stream.until.since(session.now()));
        over = session.timeout(pause, client.peek()).await.is_some();
    }
}

/// A word of a query: its name, what it is if it is not there, and from where to where it may be.
type Word = (&'static str, u32, u32, u32);

/// The numbers that a query has for `words`, or what is wrong with it.
fn numbers<const N: usize>(query: &str, words: &[Word; N]) -> Said<[u32; N]> {
    let mut numbers = words.map(|(_, default, ..)| default);
    read(query, words, &mut numbers).map(|()| numbers)
}

fn read(query: &str, words: &[Word], numbers: &mut [u32]) -> Said<()> {
    for word in query.split('&').filter(|word| !word.is_empty()) {
        let (name, text) = word.split_once('=').unwrap_or((word, ""));
        let mut known = words.iter().zip(numbers.iter_mut());
        let Some(((_, _, least, most), number)) = known.find(|(known, _)| known.0 == name) else {
            return Err("the query has a word that is not known here".into());
        };
        match text.parse() {
            Ok(given) if (*least..=*most).contains(&given) => *number = given,
            _ => return Err(format!("{name} must be a number from {least} to {most}")),
        }
    }
    Ok(())
}

impl Agent {
    /// The answer to a request of this module; `None` if it is none.
    pub(super) fn watch(&self, client: SocketAddr, path: &[u8], query: &[u8]) -> Option<Answer> {
        let Ok(query) = core::str::from_utf8(query) else {
            return Some(Answer::error(400, "the query is no text"));
        };
        let answer = match path {
            b"/profile" => self.profile(query),
            b"/pcap" => self.pcap(client, query),
            b"/log" => self.log(query),
            b"/boot" => self.boot(query),
            _ => return None,
        };
        Some(answer.unwrap_or_else(|what| Answer::error(400, &what)))
    }

    fn stream(&self, head: String, seconds: u32, kind: Kind) -> Answer {
        Answer {
            content_type: "application/octet-stream",
            stream: Some(Stream {
                kind,
                until: self.shared.now() + Duration::from_secs(seconds.into()),
                shared: self.shared.clone(),
            }),
            ..Answer::json(200, head)
        }
    }

    fn profile(&self, query: &str) -> Said<Answer> {
        let words = [("hz", 997, 1, FASTEST), ("seconds", 5, 1, LONGEST)];
        let [hertz, seconds] = numbers(query, &words)?;
        let Some((insight, build)) = self.insight.and_then(|i| Some((i, i.build()?))) else {
            return Ok(Answer::error(501, "nothing can be sampled here"));
        };
        if !insight.start_samples(hertz) {
            let what = "a profile is being made already, or memory is short";
            return Ok(Answer::error(409, what));
        }
        let head = format!("godwit-profile 1 {build:016x} {hertz}\n");
        Ok(self.stream(head, seconds, Kind::Profile(insight)))
    }

    fn pcap(&self, client: SocketAddr, query: &str) -> Said<Answer> {
        let inside = self.shared.instance().has_instance_network();
        let words = [
            ("seconds", 10, 1, LONGEST),
            ("frames", u32::MAX, 1, u32::MAX),
            ("snap", 128, SNAP.0, SNAP.1),
            ("interface", 0, 0, u32::from(inside)),
        ];
        let [seconds, frames, snap, interface] = numbers(query, &words)?;
        let wanted = Wanted {
            interface: match interface {
                0 => Interface::Service,
                _ => Interface::Instance,
            },
            snap: snap as usize,
            frames,
            without: (client, self.port),
        };
        if !self.shared.capture.start(wanted) {
            return Ok(Answer::error(409, "frames are being captured already"));
        }
        let now = self.shared.now().as_nanos();
        let head = format!("godwit-pcap 1 {now} {snap}\n");
        Ok(self.stream(head, seconds, Kind::Capture))
    }

    fn log(&self, query: &str) -> Said<Answer> {
        let [seconds] = numbers(query, &[("follow", 0, 1, LONGEST)])?;
        let Some(insight) = self.insight else {
            return Ok(Answer::error(501, "no log is kept here"));
        };
        let follower = (seconds > 0).then(|| self.followers.clone());
        if Rc::strong_count(&self.followers) > MAX_FOLLOWERS + 1 {
            return Ok(Answer::error(409, "too many follow the log already"));
        }
        let kind = Kind::Log {
            insight,
            told: 0,
            _follower: follower,
        };
        Ok(Answer {
            content_type: "text/plain; charset=utf-8",
            ..self.stream(String::new(), seconds, kind)
        })
    }

    fn boot(&self, query: &str) -> Said<Answer> {
        let [] = numbers(query, &[])?;
        let mut text = String::new();
        if let Some(insight) = self.insight {
            let _ = insight.boot(&mut text); // to a String: cannot fail
        }
        if text.is_empty() {
            return Ok(Answer::error(501, "no boot was measured here"));
        }
        Ok(Answer {
            content_type: "application/x-ndjson",
            ..Answer::json(200, text)
        })
    }
}
