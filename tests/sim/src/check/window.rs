//! The advertised right edge never moves back (RFC 9293 section 3.8.6), and what is sent stays
//! within the edge the other side advertised.

use godwit_netstack::Instant;

use super::{Check, Findings, Flows, Note, PerFlow, Seen, Side};

const RULE: &str = "window";

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Highest right edge the server side advertised.
    server: u64,
    /// Highest right edge the client advertised, in order of emission.
    client: u64,
}

/// Follows ack + window of the server side, over all its speakers.
#[derive(Debug, Default)]
pub struct Window {
    flows: PerFlow<State>,
}

impl Check for Window {
    fn segment(&mut self, seen: &Seen<'_>, _flows: &Flows, findings: &mut Findings) {
        if !seen.emitted || seen.forwarded || seen.segment.rst {
            return;
        }
        let state = self.flows.at(seen.flow);
        if seen.from == Side::Server {
            // A zero-window probe may lie just beyond the edge; so may the FIN.
            let beyond = seen.end().saturating_sub(state.client);
            if beyond > 1 {
                findings.add(
                    seen.at,
                    RULE,
                    format!(
                        "sent {beyond} beyond the client's window (to {})",
                        seen.end()
                    ),
                );
            }
        }
        // A SYN without ACK offers its window from the first byte on.
        let Some(ack) = seen.ack.or(seen.segment.syn.then_some(1)) else {
            return;
        };
        let edge = ack + seen.window;
        match seen.from {
            Side::Client => state.client = state.client.max(edge),
            Side::Server if edge < state.server => {
                let back = state.server - edge;
                findings.add(
                    seen.at,
                    RULE,
                    format!("the right edge {edge} moved back by {back}"),
                );
            }
            Side::Server => state.server = edge,
        }
    }

    fn note(&mut self, _at: Instant, note: Note, _flows: &Flows, _findings: &mut Findings) {
        // Who begins a lost connection anew offers a window of its own. Whether it may is for
        // [`Speaker`](super::speaker::Speaker) to say.
        if let Note::Lost { flow } = note {
            self.flows.at(flow).server = 0;
        }
    }
}
