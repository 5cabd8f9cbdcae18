//! What runs on a host's sockets: the client's side of a [`crate::script`], and, on smoltcp too, the
//! server's.

use std::any::Any;

use bytes::Bytes;
use godwit_netstack::Instant;
use smoltcp::socket::tcp::{Socket, State};

use super::Standing;
use super::stream::Stream;
use crate::content::{self, Digest};
use crate::script::{Closing, HEADER, Header, Mode, Script, receipt};

/// How an app fares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It goes on.
    Running,
    /// Everything expected has happened.
    Done,
    /// Something that must not happen has.
    Failed(String),
}

/// A program on a socket.
pub trait App: Any {
    /// Look at the socket and use it; says whether it did anything.
    fn poll(&mut self, now: Instant, socket: &mut Socket<'static>) -> bool;
    /// When to be polled next, whatever the socket does.
    fn deadline(&self) -> Option<Instant> {
        None
    }
    /// How it fares.
    fn outcome(&self) -> Outcome;
}

/// What a client wants, and how it behaves.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it says first: the request.
    pub opening: Bytes,
    /// Octets of the known stream it then sends.
    pub send: u64,
    /// Which stream that is.
    pub send_stream: u64,
    /// What it must get.
    pub expect: Expect,
    /// Who closes first.
    pub closing: Closing,
    /// Whether the client closes its direction at all; may be switched on later.
    pub may_close: bool,
    /// Close as soon as everything is sent, whatever is still to come from the server.
    pub half_close: bool,
    /// Close now, whatever is still to be said.
    pub closes_early: bool,
    /// Whether the client reads; may be switched off for a while to close its window.
    pub reads: bool,
    /// Most octets it sends in one go (0: no bound).
    pub chunk: usize,
}

/// What a client must get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// So many octets of a known stream.
    Stream(u64, u64),
    /// Exactly these bytes.
    Bytes(Bytes),
    /// An HTTP/1.1 response of status 200 with so many octets of body, which hash to this (FNV-1a).
    Http(u64, Digest),
}

impl Plan {
    /// The client's side of a script conversation.
    pub fn script(mode: Mode, closing: Closing, octets: u64, stream: u64) -> Plan {
        let header = Header {
            mode,
            closing,
            octets,
            stream,
        };
        let (send, expect) = match mode {
            Mode::Download => (0, Expect::Stream(stream, octets)),
            Mode::Upload => {
                let receipt = receipt(octets, Digest::of_stream(stream, octets));
                (octets, Expect::Bytes(Bytes::copy_from_slice(&receipt)))
            }
            Mode::Echo => (octets, Expect::Stream(stream, octets)),
        };
        Plan {
            opening: Bytes::copy_from_slice(&header.to_wire()),
            send,
            send_stream: stream,
            expect,
            closing,
            may_close: true,
            half_close: false,
            closes_early: false,
            reads: true,
            chunk: 0,
        }
    }
}

impl Plan {
    /// Send a known stream to the echo service and get it back.
    pub fn echo(octets: u64, stream: u64) -> Plan {
        let mut plan = Plan::script(Mode::Echo, Closing::Client, octets, stream);
        plan.opening = Bytes::new();
        plan
    }

    /// Get a file with this content from the HTTP service.
    pub fn http_file(path: &str, octets: &[u8]) -> Plan {
        let mut digest = Digest::default();
        digest.update(octets);
        let mut plan = Plan::http(0);
        plan.opening = format!("GET {path} HTTP/1.1\r\nHost: service\r\n\r\n").into();
        plan.expect = Expect::Http(octets.len() as u64, digest);
        plan
    }

    /// Get a generated file from the HTTP service. Its content is stream 0.
    pub fn http(octets: u64) -> Plan {
        let mut plan = Plan::script(Mode::Download, Closing::Client, octets, 0);
        plan.opening = format!("GET /gen/{octets} HTTP/1.1\r\nHost: service\r\n\r\n").into();
        plan.expect = Expect::Http(octets, Digest::of_stream(0, octets));
        plan
    }
}

/// A client's conversation.
pub struct Conversation {
    /// What it wants; may be changed on the way.
    pub plan: Plan,
    /// The connection was established.
    begun: bool,
    opened: usize,
    sent: u64,
    received: u64,
    body_from: Option<u64>,
    head: Vec<u8>,
    digest: Digest,
    end_seen: bool,
    closed: bool,
    /// What it received is not what was to be received.
    wrong: bool,
    failed: Option<String>,
    /// When the last byte expected had arrived.
    pub complete_at: Option<Instant>,
    done: bool,
}

impl Conversation {
    /// A conversation about to begin.
    pub fn new(plan: Plan) -> Conversation {
        Conversation {
            plan,
            begun: false,
            opened: 0,
            sent: 0,
            received: 0,
            body_from: None,
            head: Vec::new(),
            digest: Digest::default(),
            end_seen: false,
            closed: false,
            wrong: false,
            failed: None,
            complete_at: None,
            done: false,
        }
    }

    /// Octets received so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// How it stands; whether TCP still has the connection, it cannot know.
    pub(super) fn standing(&self, closed: bool) -> Standing {
        Standing {
            outcome: self.outcome(),
            begun: self.begun,
            wrong: self.wrong,
            closed,
        }
    }

    fn fail(&mut self, why: String) {
        self.failed.get_or_insert(why);
    }

    fn fail_at_content(&mut self, why: String) {
        self.wrong = true;
        self.failed = Some(why);
    }

    fn complete(&self) -> bool {
        match &self.plan.expect {
            Expect::Stream(_, octets) => self.received == *octets,
            Expect::Bytes(bytes) => self.received == bytes.len() as u64,
            Expect::Http(octets, _) => self
                .body_from
                .is_some_and(|from| self.received == from + octets),
        }
    }

    fn send(&mut self, socket: &mut dyn Stream) -> bool {
        let mut active = false;
        if socket.room() > 0 && self.opened < self.plan.opening.len() {
            let rest = self.plan.opening.slice(self.opened..);
            self.opened += socket.send(&rest);
            active = true;
        }
        let room = socket.room();
        if room > 0 && self.opened == self.plan.opening.len() && self.sent < self.plan.send {
            let bound = match self.plan.chunk {
                0 => room,
                chunk => room.min(chunk),
            };
            let octets = (self.plan.send - self.sent).min(bound as u64) as usize;
            let data = content::slice(self.plan.send_stream, self.sent, octets);
            let sent = socket.send(&data);
            self.sent += sent as u64;
            active |= sent > 0;
        }
        active
    }

    fn receive(&mut self, now: Instant, socket: &mut dyn Stream) -> bool {
        let mut active = false;
        while self.plan.reads && socket.has_input() {
            let data = socket.receive();
            if data.is_empty() {
                break;
            }
            self.examine(&data);
            self.received += data.len() as u64;
            active = true;
            if self.complete() {
                self.complete_at.get_or_insert(now);
                if let Expect::Http(_, digest) = self.plan.expect
                    && digest != self.digest
                {
                    self.fail_at_content("the body's digest is wrong".into());
                }
            }
        }
        active
    }

    fn examine(&mut self, data: &[u8]) {
        let at = self.received;
        let end = at + data.len() as u64;
        match &self.plan.expect {
            Expect::Stream(stream, octets) => {
                if end > *octets {
                    self.fail_at_content(format!("{end} octets received, {octets} expected"));
                } else if let Some(at) = content::mismatch(*stream, at, data) {
                    self.fail_at_content(format!("octet {at} received is wrong"));
                }
            }
            Expect::Bytes(bytes) => {
                if bytes.get(at as usize..end as usize) != Some(data) {
                    self.fail_at_content(format!("octets {at}..{end} received are wrong"));
                }
            }
            Expect::Http(octets, _) => {
                let octets = *octets;
                self.examine_http(at, data);
                if let Some(from) = self.body_from
                    && end > from + octets
                {
                    self.fail_at_content(format!("{end} octets received"));
                }
            }
        }
    }

    fn examine_http(&mut self, at: u64, data: &[u8]) {
        if self.body_from.is_some() {
            self.digest.update(data);
            return;
        }
        self.head.extend_from_slice(data);
        let Some(end) = self.head.windows(4).position(|four| four == b"\r\n\r\n") else {
            return;
        };
        if !self.head.starts_with(b"HTTP/1.1 200") {
            self.fail("the status is not 200".into());
        }
        let from = end as u64 + 4;
        self.body_from = Some(from);
        let body = data.get((from - at) as usize..).unwrap_or_default();
        self.digest.update(body);
    }

    fn close(&mut self, socket: &mut dyn Stream) -> bool {
        if self.closed || !self.plan.may_close || !socket.may_send() {
            return false;
        }
        let said_all = self.opened == self.plan.opening.len() && self.sent == self.plan.send;
        let ready = match self.plan.closing {
            _ if self.plan.closes_early => true,
            _ if self.plan.half_close => said_all,
            Closing::Client => said_all && self.complete(),
            Closing::Server => said_all && self.end_seen,
            Closing::Abort => false,
        };
        if ready {
            socket.close();
            self.closed = true;
        }
        ready
    }
}

impl Conversation {
    /// Look at the connection and use it; says whether it did anything.
    pub(super) fn follow(&mut self, now: Instant, socket: &mut dyn Stream) -> bool {
        self.begun |= socket.may_send();
        let mut active = self.receive(now, socket) | self.send(socket);
        let state = socket.state();
        let ended = matches!(
            state,
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait | State::Closed
        );
        if ended && !socket.has_input() && self.begun && !self.end_seen && self.plan.reads {
            self.end_seen = true;
            active = true;
            if !self.complete() {
                self.fail(format!("the stream ended after {} octets", self.received));
            }
        }
        active |= self.close(socket);
        let over = matches!(state, State::TimeWait | State::Closed);
        if self.closed && over && (self.end_seen || !self.plan.reads) {
            self.done = true;
        } else if state == State::Closed && self.begun && !self.done {
            self.fail(format!(
                "the connection broke after {} octets",
                self.received
            ));
        }
        active
    }
}

impl App for Conversation {
    fn poll(&mut self, now: Instant, socket: &mut Socket<'static>) -> bool {
        self.follow(now, socket)
    }

    fn outcome(&self) -> Outcome {
        match &self.failed {
            Some(why) => Outcome::Failed(why.clone()),
            None if self.done => Outcome::Done,
            None => Outcome::Running,
        }
    }
}

/// The server's side of a script, on smoltcp: to test the simulator itself.
#[derive(Default)]
pub struct Server {
    script: Script,
    failed: bool,
}

impl App for Server {
    fn poll(&mut self, _now: Instant, socket: &mut Socket<'static>) -> bool {
        if !socket.is_active() {
            return false;
        }
        let input = match socket.recv_queue() {
            0 => Vec::new(),
            queued => {
                let mut data = vec![0; queued.max(HEADER)];
                let read = socket.peek_slice(&mut data).unwrap_or(0);
                data.truncate(read);
                data
            }
        };
        let state = socket.state();
        let end = !matches!(
            state,
            State::SynReceived | State::Established | State::FinWait1 | State::FinWait2
        );
        let room = socket.send_capacity() - socket.send_queue();
        let step = self.script.step(&input, end, room);
        if step.abort {
            socket.abort();
        }
        self.failed |= step.malformed;
        if step.consumed > 0 {
            let _ = socket.recv_slice(&mut vec![0; step.consumed]);
        }
        if !step.output.is_empty() {
            let _ = socket.send_slice(&step.output);
        }
        if step.shutdown {
            socket.close();
        }
        !step.is_idle() && !step.malformed
    }

    fn outcome(&self) -> Outcome {
        if self.failed {
            Outcome::Failed("malformed input".into())
        } else if self.script.finished() {
            Outcome::Done
        } else {
            Outcome::Running
        }
    }
}
