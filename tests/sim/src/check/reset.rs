//! No RST, from either side, unless the scenario expects one.

use super::{Check, Findings, Flows, PerFlow, Seen, Side};

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// The client has closed.
    client_closed: bool,
    /// The server's FIN has reached the client.
    server_closed: bool,
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

impl Check for Reset {
    fn segment(&mut self, seen: &Seen<'_>, flows: &Flows, findings: &mut Findings) {
        let state = self.flows.at(seen.flow);
        let fin = seen.segment.fin;
        state.client_closed |= seen.client_speaks() && fin;
        state.server_closed |= seen.reaches_client(flows) && fin;
        if !seen.emitted || seen.forwarded || !seen.segment.rst {
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
