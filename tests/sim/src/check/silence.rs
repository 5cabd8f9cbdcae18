//! How long a client hears nothing when its flow moves, and how long at other times.

use godwit_netstack::{Duration, Instant};

use super::{Check, Findings, Flows, Note, PerFlow, Seen};

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// When the server's last data segment was emitted.
    last: Option<Instant>,
    /// When the flow froze.
    frozen: Option<Instant>,
}

/// Measures gaps between data segments of the server side at their emission.
#[derive(Debug, Default)]
pub struct Silence {
    flows: PerFlow<State>,
    /// From the last data segment before a freeze to the first one after it.
    pub at_moves: Vec<Duration>,
    /// From the freeze itself to the first data segment after it.
    pub after_freeze: Vec<Duration>,
    /// Gaps between other neighbouring data segments.
    pub steady: Vec<Duration>,
}

impl Check for Silence {
    fn segment(&mut self, seen: &Seen<'_>, _flows: &Flows, _findings: &mut Findings) {
        if !seen.server_speaks() || seen.segment.payload.is_empty() {
            return;
        }
        let state = self.flows.at(seen.flow);
        if let Some(last) = state.last {
            let gap = seen.at.since(last);
            match state.frozen.take() {
                Some(frozen) => {
                    self.at_moves.push(gap);
                    self.after_freeze.push(seen.at.since(frozen));
                }
                None => self.steady.push(gap),
            }
        }
        state.last = Some(seen.at);
    }

    fn note(&mut self, at: Instant, note: Note, _flows: &Flows, _findings: &mut Findings) {
        if let Note::Frozen { flow, .. } = note {
            let frozen = &mut self.flows.at(flow).frozen;
            *frozen = frozen.or(Some(at));
        }
    }
}
