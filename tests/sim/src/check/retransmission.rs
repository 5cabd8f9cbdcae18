//! Sequence ranges that were sent more than once: none of them on a network that loses nothing.

use super::{Check, Findings, Flows, PerFlow, Seen, Side};

#[derive(Clone, Copy, Debug, Default)]
struct State {
    server: u64,
    client: u64,
}

/// Counts repeated ranges of each side.
#[derive(Debug, Default)]
pub struct Retransmission {
    ends: PerFlow<State>,
    /// Whether any is a violation (the network loses nothing).
    pub forbidden: bool,
    /// Segments of the server side that repeat something.
    pub server: u64,
    /// Segments of clients that repeat something.
    pub client: u64,
}

impl Check for Retransmission {
    fn segment(&mut self, seen: &Seen<'_>, _flows: &Flows, findings: &mut Findings) {
        if !seen.emitted || seen.forwarded || seen.segment.rst || seen.segment.length() == 0 {
            return;
        }
        let state = self.ends.at(seen.flow);
        let (end, count) = match seen.from {
            Side::Client => (&mut state.client, &mut self.client),
            Side::Server => (&mut state.server, &mut self.server),
        };
        if seen.seq < *end {
            *count += 1;
            if self.forbidden {
                findings.add(
                    seen.at,
                    "no retransmission",
                    format!(
                        "the {:?} (party {}) repeats {}..{}",
                        seen.from,
                        seen.port,
                        seen.seq,
                        seen.end().min(*end)
                    ),
                );
            }
        }
        *end = seen.end().max(*end);
    }
}
