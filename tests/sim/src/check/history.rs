//! One history: a byte once sent never changes, whoever sends it again; the end of a stream stays
//! where it is.

use super::{Check, Findings, FlowId, Flows, PerFlow, Seen, Side};

const RULE: &str = "one history";

#[derive(Clone, Debug, Default)]
struct State {
    /// The server's stream, from its first byte on.
    stream: Vec<u8>,
    /// Offset of the FIN.
    fin: Option<u64>,
}

/// Remembers the server's stream and compares every repetition with it.
#[derive(Debug, Default)]
pub struct History {
    flows: PerFlow<State>,
}

impl Check for History {
    fn segment(&mut self, seen: &Seen<'_>, _flows: &Flows, findings: &mut Findings) {
        let says_something = !seen.segment.payload.is_empty() || seen.segment.fin;
        if !seen.server_speaks() || seen.segment.rst || seen.segment.syn || !says_something {
            return;
        }
        debug_assert_eq!(seen.from, Side::Server);
        let Some(state) = self.flows.known(seen.flow) else {
            return;
        };
        let payload = &seen.segment.payload[..];
        let start = seen.seq.saturating_sub(1) as usize;
        if start > state.stream.len() && !payload.is_empty() {
            findings.add(seen.at, RULE, format!("a gap before {}", seen.seq));
            return;
        }
        let known = (state.stream.len() - start.min(state.stream.len())).min(payload.len());
        if state.stream.get(start..start + known) != payload.get(..known) {
            findings.add(
                seen.at,
                RULE,
                format!("{known} octets at {} changed", seen.seq),
            );
        }
        let fresh = payload.get(known..).unwrap_or_default();
        state.stream.extend_from_slice(fresh);
        let end = seen.seq + payload.len() as u64;
        match state.fin {
            Some(fin) if !fresh.is_empty() || (seen.segment.fin && fin != end) => {
                findings.add(seen.at, RULE, format!("the end moved from {fin} to {end}"));
            }
            None if seen.segment.fin => state.fin = Some(end),
            _ => {}
        }
    }

    fn forget(&mut self, flow: FlowId) {
        self.flows.forget(flow);
    }
}
