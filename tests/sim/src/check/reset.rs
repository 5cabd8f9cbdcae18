//! No RST, from either side, unless the scenario expects one.

use godwit_netstack::cluster::steering::QUIET;
use godwit_netstack::{Duration, Instant};

use super::{Check, Findings, FlowId, Flows, Note, PerFlow, Seen, Side};
use crate::net::Port;

/// How long a SYN-ACK without an answer is repeated (RFC 6298, five times) before the handshake is over.
const HANDSHAKE: Duration = Duration::from_secs(63);

/// How long a SYN cookie is good at least.
const COOKIE: Duration = Duration::from_millis(65_536);

/// How long who closes first keeps the connection.
const TIME_WAIT: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Default)]
struct State {
    /// The client has closed.
    client_closed: bool,
    /// The server's FIN has reached the client.
    server_closed: bool,
    /// When a SYN of the client's last got to an instance.
    asked: Option<Instant>,
    /// What first got to an instance after that, and was not passed on by it.
    heard: Option<Heard>,
    /// Which instances keep the handshake, and since when.
    kept: Vec<(Port, Instant)>,
    /// When a SYN was last answered that nobody remembers: with a SYN cookie.
    cookie: Option<Instant>,
    /// When the client's FIN first got to an instance.
    ended: Option<Instant>,
    /// The server had given the handshake up before it heard from the client again.
    expired: bool,
    /// When the client last spoke itself.
    spoke: Option<Instant>,
}

/// An answer to the SYN-ACK.
#[derive(Clone, Copy, Debug)]
struct Heard {
    at: Instant,
    by: Port,
    seq: u64,
}

impl State {
    /// A segment of the client's got to an instance.
    fn hear(&mut self, seen: &Seen<'_>) {
        if seen.segment.syn {
            self.asked = Some(seen.at);
            return;
        }
        // An RST completes no handshake; what is from further into the stream one that is remembered there
        // (RFC 9293 section 3.10.7.4), and no other.
        let first = seen.seq <= 1;
        let kept = self.kept.iter().any(|(port, _)| *port == seen.port);
        let completes = first || kept && seen.segment.ack.is_some();
        if completes && !seen.segment.rst && self.asked.is_some() {
            self.heard.get_or_insert(Heard {
                at: seen.at,
                by: seen.port,
                seq: seen.seq,
            });
        }
    }

    /// An instance passes a segment of the client's on: it may be lost on the way to whose it is.
    fn pass_on(&mut self, seen: &Seen<'_>) {
        let same = |heard: &mut Heard| heard.by == seen.port && heard.seq == seen.seq;
        self.heard.take_if(same);
    }

    /// Whether there never was a connection at the server: no answer to its SYN-ACK has got there in all the
    /// time a handshake takes, or a cookie is good. What comes later, be it that answer or what is behind it, is
    /// answered with an RST by any TCP (section 3.10.7.1).
    fn handshake_expired(&self, now: Instant) -> bool {
        let heard = self.heard.map_or(now, |heard| heard.at);
        let is_over = |since: Instant, takes: Duration| heard.since(since) >= takes;
        let mut kept = self.kept.iter();
        let answered = !self.kept.is_empty() || self.cookie.is_some();
        answered
            && kept.all(|(_, since)| is_over(*since, HANDSHAKE))
            && self.cookie.is_none_or(|given| is_over(given, COOKIE))
    }

    /// An instance answers a SYN, which got there a moment ago or is answered once more.
    fn answer(&mut self, now: Instant, by: Port, remembered: bool) {
        let since = self.asked.unwrap_or(now);
        if !remembered {
            self.cookie = Some(since);
            return;
        }
        let is_over = |since: Instant| now.since(since) >= HANDSHAKE;
        match self.kept.iter_mut().find(|(port, _)| *port == by) {
            Some((_, before)) if is_over(*before) => *before = since,
            Some(_) => {}
            None => self.kept.push((by, since)),
        }
    }

    /// Whether the connection has been over at both ends for so long that nobody remembers it: what turns up
    /// now is an old duplicate, and answered as one.
    fn is_forgotten(&self, now: Instant) -> bool {
        let over = self.client_closed && self.server_closed;
        over && self.spoke.is_some_and(|spoke| now.since(spoke) >= QUIET)
    }

    /// Whether both streams have ended and TIME-WAIT is over: the client repeats its FIN because it never
    /// got the ACK, in all that time.
    fn time_wait_is_over(&self, now: Instant) -> bool {
        let ended = self.ended.filter(|_| self.server_closed);
        ended.is_some_and(|ended| now.since(ended) >= TIME_WAIT)
    }
}

/// Counts RSTs.
#[derive(Debug, Default)]
pub struct Reset {
    flows: PerFlow<State>,
    /// Whether RSTs are no violation in this run.
    pub expected: bool,
    /// RSTs emitted, by either side, while the connection lived.
    pub count: u64,
}

impl Reset {
    /// Whether the handshake of a flow came to nothing because nobody heard the client in time, and the
    /// client was told so.
    pub fn has_expired(&mut self, flow: FlowId) -> bool {
        self.flows.at(flow).expired
    }

    /// Whether a flow has been over at both ends for so long that an RST is the answer to an old duplicate,
    /// and that of whoever is asked.
    pub fn is_forgotten(&mut self, flow: FlowId, now: Instant) -> bool {
        self.flows.at(flow).is_forgotten(now)
    }
}

impl Check for Reset {
    fn note(&mut self, at: Instant, note: Note, _flows: &Flows, _findings: &mut Findings) {
        if let Note::Answered {
            flow,
            by,
            remembered,
        } = note
        {
            self.flows.at(flow).answer(at, by, remembered);
        }
    }

    fn segment(&mut self, seen: &Seen<'_>, flows: &Flows, findings: &mut Findings) {
        let state = self.flows.at(seen.flow);
        let fin = seen.segment.fin;
        if seen.client_speaks() {
            state.spoke = Some(seen.at);
        }
        state.client_closed |= seen.client_speaks() && fin;
        state.server_closed |= seen.reaches_client(flows) && fin;
        let reaches_server = !seen.emitted
            && seen.from == Side::Client
            && seen.segment.checksums_right
            && flows.get(seen.flow).client_port != Some(seen.port);
        if reaches_server {
            state.hear(seen);
            if fin {
                state.ended.get_or_insert(seen.at);
            }
        }
        if seen.forwarded && seen.from == Side::Client {
            state.pass_on(seen);
        }
        if !seen.emitted || seen.forwarded || !seen.segment.rst {
            return;
        }
        if seen.from == Side::Server && state.handshake_expired(seen.at) {
            state.expired = true;
            return;
        }
        let forgotten = state.is_forgotten(seen.at) || state.time_wait_is_over(seen.at);
        if seen.from == Side::Server && forgotten {
            return;
        }
        // A client that is done with the connection answers late repetitions so (RFC 9293
        // section 3.10.7.1).
        if seen.from == Side::Client && state.client_closed && state.server_closed {
            return;
        }
        // A client whose SYN meets what the server still has of an earlier connection between the same
        // ends is told so by an ACK, and answers that with an RST (RFC 9293 section 3.5.2, figure 9).
        let flow = flows.get(seen.flow);
        if seen.from == Side::Client && flow.before.is_some() && !flow.is_answered() {
            return;
        }
        self.count += 1;
        if !self.expected && !flow.may_reset {
            findings.add(
                seen.at,
                "no reset",
                format!(
                    "the {:?} (party {}) resets at seq {}",
                    seen.from, seen.port, seen.seq
                ),
            );
        }
    }
}
