//! No RST, from either side, unless the scenario expects one.

use godwit_netstack::{Duration, Instant};

use super::{Check, Findings, FlowId, Flows, PerFlow, Seen, Side};

/// How long a SYN-ACK without an answer is repeated (RFC 6298, five times) before the handshake is over.
const HANDSHAKE: Duration = Duration::from_secs(63);

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// The client has closed.
    client_closed: bool,
    /// The server's FIN has reached the client.
    server_closed: bool,
    /// The server's first SYN-ACK, and the first thing from the client after its SYN to get to an
    /// instance.
    answered: Option<Instant>,
    heard: Option<Instant>,
    /// The server had given the handshake up before it heard from the client again.
    expired: bool,
}

impl State {
    /// Whether there never was a connection at the server: nothing the client sent in all the time a
    /// handshake takes has got there. What comes later is answered with an RST by any TCP (RFC 9293
    /// section 3.10.7.1).
    fn handshake_expired(&self) -> bool {
        let (Some(answered), Some(heard)) = (self.answered, self.heard) else {
            return false;
        };
        heard.since(answered) >= HANDSHAKE
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
}

impl Check for Reset {
    fn segment(&mut self, seen: &Seen<'_>, flows: &Flows, findings: &mut Findings) {
        let state = self.flows.at(seen.flow);
        let fin = seen.segment.fin;
        state.client_closed |= seen.client_speaks() && fin;
        state.server_closed |= seen.reaches_client(flows) && fin;
        if seen.server_speaks() && seen.segment.syn {
            state.answered.get_or_insert(seen.at);
        }
        let reaches_server = !seen.emitted && flows.get(seen.flow).client_port != Some(seen.port);
        if reaches_server
            && seen.from == Side::Client
            && !seen.segment.syn
            && seen.segment.checksums_right
        {
            state.heard.get_or_insert(seen.at);
        }
        if !seen.emitted || seen.forwarded || !seen.segment.rst {
            return;
        }
        if seen.from == Side::Server && state.handshake_expired() {
            state.expired = true;
            return;
        }
        // A client that is done with the connection answers late repetitions so (RFC 9293
        // section 3.10.7.1).
        if seen.from == Side::Client && state.client_closed && state.server_closed {
            return;
        }
        self.count += 1;
        if !self.expected {
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
