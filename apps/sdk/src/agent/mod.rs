//! The node agent: tells an instance's status and takes commands, as JSON over HTTP on the
//! instance's own addresses (never a virtual one).
//!
//! | request | answer |
//! |---|---|
//! | `GET /healthz` (no token) | 200 `ok`, 503 once the instance is leaving |
//! | `GET /metrics` | counters as Prometheus text |
//! | `GET /status` | [`status::Status`] |
//! | `POST /move {"session": "1-0123456789ab" or "all", "to": 2}` | 200 `{"started": n}` |
//! | `POST /drain`, `{"deadline_ms": n, "then": "wait", "force" or "cancel"}` or parts of it | 202 `{"draining": n}`, with a `note` of what becomes of them if no member is up |
//! | `GET /drain` | [how it goes](status::drain); who asks while it goes is told the end, too |
//! | `GET /policy` | what every trigger of the policy sees, and would do |
//! | `GET /key` | the names of the cluster's keys, which is active, and channels opened with each |
//! | `POST /key {"add": "64 hex digits"}`, `{"activate": ID}`, `{"remove": ID}` | 200 and the same list |
//! | `GET /profile`, `/pcap`, `/log`, `/boot` | what runs, what passes the card, what was logged, how the boot went: [`watch`] |
//!
//! Errors are `{"error": ".."}` with 400, 401, 404, 405, 408, 409, 411, 413, 414, 429, 431, 501 or 505.
//! Who asks too often, or guesses tokens, is answered 429 for a while; who opens too many connections is
//! reset ([`guard`]).

mod guard;
mod keys;
mod policy;
mod status;
mod watch;

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::Bytes;
use godwit_netstack::Duration;
use godwit_netstack::cluster::MemberId;
use godwit_netstack::instance::{DrainOptions, DrainStatus, DrainThen, MoveError};
use godwit_netstack::session::SessionId;
use godwit_netstack::time::Instant;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::{Secret, drain_then};
use crate::connection::Connection;
use crate::http::{Body, Head, HeadError, ResponseHead, StatusCode, read_head, send_all};
use crate::platform::Insight;
use crate::port::Port;
use crate::shared::{Phase, Shared};
use crate::{Error, Result, Service, Session};

/// Octets of a request's body at most.
const MAX_BODY: u64 = 4 * 1024;
/// How long a client may take over one request.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may be idle.
const IDLE: Duration = Duration::from_secs(60);
/// How long we wait for the rest of a request we did not want to read.
const LINGER: Duration = Duration::from_secs(1);

/// The node agent of an instance.
pub(crate) struct Agent {
    shared: Rc<Shared>,
    service: &'static str,
    token: Option<Secret<String>>,
    /// The agent's own port.
    port: u16,
    insight: Option<&'static dyn Insight>,
    /// Has a clone for everybody who follows the log.
    followers: Rc<()>,
    guard: RefCell<guard::Guard>,
}

/// An answer before it is sent.
struct Answer {
    status: StatusCode,
    content_type: &'static str,
    allow: Option<&'static str>,
    body: String,
    /// What follows the body, until the connection ends.
    stream: Option<watch::Stream>,
}

impl Answer {
    fn json(status: u16, body: String) -> Answer {
        Answer {
            status: StatusCode(status),
            content_type: "application/json",
            allow: None,
            body,
            stream: None,
        }
    }

    fn text(status: u16, body: impl Into<String>) -> Answer {
        Answer {
            content_type: "text/plain; version=0.0.4",
            ..Answer::json(status, body.into())
        }
    }

    fn error(status: u16, what: &str) -> Answer {
        Answer::json(status, encode(&Problem { error: what }))
    }

    fn wrong_method(allow: &'static str) -> Answer {
        Answer {
            allow: Some(allow),
            ..Answer::error(405, "method not allowed")
        }
    }
}

impl Service for Agent {
    type State = ();
    const NAME: &'static str = "admin";
    const PORT: u16 = 9100;

    async fn serve(&self, session: &mut Session<()>) -> Result<()> {
        let unknown = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        let address = session.client_address().unwrap_or(unknown);
        let from = address.ip();
        if !self.guard.borrow_mut().enters(from) {
            return Err(Error::Service("too many connections to the admin port"));
        }
        let _visit = Visit {
            guard: &self.guard,
            from,
        };
        self.converse(session, address).await
    }
}

/// A connection that is served, until it is dropped.
struct Visit<'a> {
    guard: &'a RefCell<guard::Guard>,
    from: IpAddr,
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.guard.borrow_mut().leaves(self.from);
    }
}

/// Why a request was not read to its end.
enum Refusal {
    Session(Error),
    Status(u16, String),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal::Session(error)
    }
}

impl From<HeadError> for Refusal {
    fn from(error: HeadError) -> Refusal {
        match (error.status(), error) {
            (None, HeadError::Session(error)) => Refusal::Session(error),
            (status, error) => {
                Refusal::Status(status.map_or(400, |status| status.0), error.to_string())
            }
        }
    }
}

async fn read_request(
    client: &mut Connection,
) -> core::result::Result<Option<(Head, Vec<u8>)>, Refusal> {
    let Some(head) = read_head(client).await? else {
        return Ok(None);
    };
    let length = match head.body {
        Body::None => 0,
        Body::Length(octets) if octets <= MAX_BODY => octets as usize,
        Body::Length(_) => return Err(Refusal::Status(413, "body too large".into())),
        Body::Chunked => return Err(Refusal::Status(411, "a Content-Length is needed".into())),
    };
    let mut body = Vec::with_capacity(length);
    while body.len() < length {
        let chunk = client.read_chunk(length - body.len()).await?;
        if chunk.is_empty() {
            return Err(Refusal::Status(400, "input ends within the body".into()));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some((head, body)))
}

async fn respond(
    session: &mut Session<()>,
    client: &mut Connection,
    answer: Answer,
    keep: bool,
) -> Result<()> {
    let mut head = ResponseHead::new(answer.status)
        .field("Content-Type", answer.content_type)
        .field("Cache-Control", "no-store");
    if answer.stream.is_none() {
        head = head.field("Content-Length", answer.body.len());
    }
    if let Some(allow) = answer.allow {
        head = head.field("Allow", allow);
    }
    if answer.status.0 == 401 {
        head = head.field("WWW-Authenticate", "Bearer");
    }
    send_all(session, client, head.end(keep)).await?;
    send_all(session, client, Bytes::from(answer.body)).await?;
    session.commit().await?;
    match answer.stream {
        Some(stream) => watch::tell(session, client, stream).await,
        None => Ok(()),
    }
}

/// Close our direction, then let the client finish sending: closing on unread input would reset
/// the connection, and the client might never read the answer.
async fn linger(session: &mut Session<()>, client: &mut Connection) -> Result<()> {
    client.shutdown()?;
    session.commit().await?;
    for _ in 0..64 {
        match session.timeout(LINGER, client.read_chunk(64 * 1024)).await {
            Some(Ok(chunk)) if !chunk.is_empty() => session.commit().await?,
            _ => break,
        }
    }
    Ok(())
}

impl Agent {
    pub(crate) fn new(
        shared: Rc<Shared>,
        service: &'static str,
        token: Option<Secret<String>>,
        port: u16,
        insight: Option<&'static dyn Insight>,
    ) -> Agent {
        Agent {
            shared,
            service,
            token,
            port,
            insight,
            followers: Rc::default(),
            guard: RefCell::default(),
        }
    }

    /// Answer requests until the client has no more, or says nothing.
    async fn converse(&self, session: &mut Session<()>, from: SocketAddr) -> Result<()> {
        let mut client = session.client();
        loop {
            let input = session.timeout(IDLE, client.peek()).await.transpose()?;
            if input.is_none_or(|input| input.is_empty()) {
                return Ok(());
            }
            let request = session.timeout(PATIENCE, read_request(&mut client));
            let (answer, keep) = match request.await {
                None => (Answer::error(408, "the request took too long"), false),
                Some(Ok(None)) => return Ok(()),
                Some(Ok(Some((head, body)))) => self.guarded(from, &head, &body),
                Some(Err(Refusal::Session(error))) => return Err(error),
                Some(Err(Refusal::Status(status, what))) => (Answer::error(status, &what), false),
            };
            respond(session, &mut client, answer, keep).await?;
            if !keep {
                return linger(session, &mut client).await;
            }
        }
    }

    /// Answer, unless the client asks too often; and whether to go on with it.
    fn guarded(&self, client: SocketAddr, head: &Head, body: &[u8]) -> (Answer, bool) {
        let now = self.shared.now();
        let from = client.ip();
        if !self.guard.borrow_mut().admits(now, from) {
            return (Answer::error(429, "too many requests"), false);
        }
        let answer = self.answer(client, head, body);
        match answer.status.0 {
            401 => self.guard.borrow_mut().failed(now, from),
            400 | 409 => self.guard.borrow_mut().refused += 1,
            _ => {}
        }
        let keep = head.keep_alive && answer.stream.is_none();
        (answer, keep)
    }

    fn metrics(&self) -> String {
        let mut text = status::metrics(&self.shared, self.service);
        let guard = self.guard.borrow();
        for (name, count) in [
            ("admin_crowded", guard.crowded),
            ("admin_limited", guard.limited),
            ("admin_refused", guard.refused),
            ("admin_unauthorized", guard.unauthorized),
        ] {
            status::counter(&mut text, name, count);
        }
        text
    }

    fn answer(&self, client: SocketAddr, head: &Head, body: &[u8]) -> Answer {
        let method = &*head.method;
        if head.path == "/healthz" {
            return match (method, self.shared.phase()) {
                (b"GET", Phase::Serving) => Answer::text(200, "ok"),
                (b"GET", phase) => Answer::text(503, phase.name()),
                _ => Answer::wrong_method("GET"),
            };
        }
        // Who has no token does not learn which paths there are.
        if !authorized(self.token.as_ref(), head.authorization.as_deref()) {
            return Answer::error(401, "a bearer token is needed");
        }
        match (method, &*head.path) {
            (b"GET", b"/status") => Answer::json(200, status::json(&self.shared, self.service)),
            (b"GET", b"/metrics") => Answer::text(200, self.metrics()),
            (b"GET", b"/policy") => {
                let policy = self.shared.instance().policy_status();
                Answer::json(200, policy::json(policy))
            }
            (b"GET", b"/key") => Answer::json(200, keys::list(&self.shared.instance())),
            (b"POST", b"/key") => {
                keys::order(&mut self.shared.instance_mut(), self.shared.now(), body)
            }
            (b"GET", b"/drain") => {
                self.shared.watch_drain();
                Answer::json(200, status::drain(&self.shared))
            }
            (b"POST", b"/move") => self.start_moves(body),
            (b"POST", b"/drain") => {
                let Some(options) = self.drain_options(body) else {
                    return Answer::error(
                        400,
                        "expected {\"deadline_ms\": N, \"then\": \"wait\", \"force\" or \"cancel\"}",
                    );
                };
                let sessions = self.shared.instance().movable_count();
                let members = self.shared.instance().members();
                log::info!("drain asked for; sessions here: {sessions}");
                self.shared.drain_with(options);
                let up = members.iter().any(|member| member.up);
                // One that was going on already goes on as it was.
                let drain = self.shared.instance().drain_status();
                let then = drain.map(|drain| at_the_deadline(&drain, self.shared.now()));
                Answer::json(202, encode(&draining(sessions, up, then)))
            }
            (_, b"/drain") => Answer::wrong_method("GET, POST"),
            (_, b"/key") => Answer::wrong_method("GET, POST"),
            (_, b"/status" | b"/metrics" | b"/policy") => Answer::wrong_method("GET"),
            (_, b"/move") => Answer::wrong_method("POST"),
            (b"GET", path) => {
                let query = head.query.as_deref().unwrap_or_default();
                let answer = self.watch(client, path, query);
                answer.unwrap_or_else(|| Answer::error(404, "no such path"))
            }
            (_, b"/profile" | b"/pcap" | b"/log" | b"/boot") => Answer::wrong_method("GET"),
            _ => Answer::error(404, "no such path"),
        }
    }

    /// As configured, but for what `body` says.
    fn drain_options(&self, body: &[u8]) -> Option<DrainOptions> {
        let mut options = self.shared.drain_options();
        if body.is_empty() {
            return Some(options);
        }
        let order = parse::<DrainOrder>(body)?;
        if let Some(millis) = order.deadline_ms {
            options.deadline = Duration::from_millis(u64::from(millis));
        }
        if let Some(then) = order.then {
            options.then = drain_then(&then).ok()?;
        }
        Some(options)
    }

    fn start_moves(&self, body: &[u8]) -> Answer {
        let Some(order) = parse::<MoveOrder>(body) else {
            return Answer::error(400, "expected {\"session\": ID or \"all\", \"to\": MEMBER}");
        };
        let session = match order.session.as_str() {
            "all" => None,
            id => match parse_session(id) {
                Some(session) => Some(session),
                None => return Answer::error(400, "no session is called that"),
            },
        };
        let to = MemberId(order.to);
        if to == self.shared.instance().id() {
            let what = format!("instance {to} is this one: its sessions are here already");
            return Answer::error(400, &what);
        }
        if !self.shared.instance().members().iter().any(|m| m.id == to) {
            return Answer::error(404, "no such member");
        }
        let started = match session {
            Some(session) => self.shared.move_session(session, to).map(|()| 1),
            None => self.shared.move_all(to),
        };
        match started {
            Ok(started) => Answer::json(200, format!("{{\"started\":{started}}}")),
            Err(error) => refusal(error),
        }
    }
}

/// Why something is not done.
#[derive(Serialize)]
struct Problem<'a> {
    error: &'a str,
}

/// The answer to `POST /drain`.
#[derive(Serialize)]
struct Draining {
    draining: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

fn draining(sessions: usize, member_up: bool, then: Option<String>) -> Draining {
    let stay = match sessions {
        0 => None,
        1 => Some("1 session stays until it ends".into()),
        n => Some(format!("{n} sessions stay until they end")),
    };
    let alone = stay.filter(|_| !member_up);
    Draining {
        draining: sessions,
        note: alone.map(|what| format!("no member is up: {what}{}", then.unwrap_or_default())),
    }
}

/// What becomes of sessions that are still there at a drain's deadline, and how long that is from `now`.
fn at_the_deadline(drain: &DrainStatus, now: Instant) -> String {
    let then = match drain.options.then {
        DrainThen::Wait => return String::new(),
        DrainThen::Force => "reset",
        DrainThen::Cancel => "kept, and the drain called off",
    };
    let passed = now.since(drain.since);
    let left = drain.options.deadline.saturating_sub(passed);
    let millis = left.as_millis() as u64;
    match millis {
        10_000.. => format!("; in {} s what is left is {then}", (millis + 500) / 1000),
        _ if millis.is_multiple_of(1000) => {
            format!("; in {} s what is left is {then}", millis / 1000)
        }
        _ => format!("; in {millis} ms what is left is {then}"),
    }
}

/// As JSON. Structures only: `serde_json::Value` has a tree of its own, and 15 KB of an image.
fn encode(what: &impl Serialize) -> String {
    // Strings and numbers always encode.
    serde_json::to_string(what).unwrap_or_default()
}

/// What the JSON of a body says; `None` if that is not what is expected.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    let mut unescaped = [0; 256];
    let (order, _) = serde_json_core::from_slice_escaped(body, &mut unescaped).ok()?;
    Some(order)
}

/// What `POST /drain` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DrainOrder {
    deadline_ms: Option<u32>,
    then: Option<String>,
}

/// What `POST /move` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MoveOrder {
    session: String,
    to: u32,
}

fn refusal(error: MoveError) -> Answer {
    match error {
        MoveError::NoSession => Answer::error(404, "no such session here"),
        MoveError::NoMember => Answer::error(404, "no such member"),
        MoveError::Unreachable => Answer::error(409, "the member is not reachable"),
        MoveError::NoRoom | MoveError::TooLarge => Answer::error(409, error.as_str()),
        _ => Answer::error(409, "the session cannot be moved now"),
    }
}

/// A session's name as it is displayed.
fn parse_session(text: &str) -> Option<SessionId> {
    let (origin, number) = text.split_once('-')?;
    let decimal = !origin.is_empty() && origin.bytes().all(|b| b.is_ascii_digit());
    let hex = !number.is_empty() && number.bytes().all(|b| b.is_ascii_hexdigit());
    if !decimal || !hex {
        return None;
    }
    Some(SessionId {
        origin: origin.parse().ok()?,
        number: u64::from_str_radix(number, 16).ok()?,
    })
}

/// Whether the `Authorization` field carries the token. Digests are compared, so the time it
/// takes tells nothing about the token; without a token nobody is authorized.
fn authorized(token: Option<&Secret<String>>, field: Option<&[u8]>) -> bool {
    let (Some(token), Some(field)) = (token, field) else {
        return false;
    };
    let Some((scheme, given)) = field.split_at_checked(7) else {
        return false;
    };
    if !scheme.eq_ignore_ascii_case(b"Bearer ") {
        return false;
    }
    let expected = Sha256::digest(token.expose().as_bytes());
    let given = Sha256::digest(given.trim_ascii());
    let difference = expected.iter().zip(&given).fold(0, |d, (a, b)| d | (a ^ b));
    core::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests;
