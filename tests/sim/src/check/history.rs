//! One history: a byte once sent never changes, whoever sends it again; the end of a stream stays
//! where it is.

use godwit_netstack::Instant;

use super::{Check, Findings, FlowId, Flows, Note, PerFlow, Seen, Side};

const RULE: &str = "one history";

#[derive(Clone, Debug, Default)]
struct State {
    /// The server's stream, from its first byte on.
    stream: Vec<u8>,
    /// Parts of it that were not sent yet.
    holes: Vec<(usize, usize)>,
    /// Losses of instances when it last had a hole.
    excused: u64,
    /// Offset of the FIN.
    fin: Option<u64>,
}

impl State {
    /// Take in octets that begin within the stream, or where it ends. How many of them were known and how many
    /// of those differ.
    fn add(&mut self, start: usize, payload: &[u8]) -> (usize, usize) {
        let known = (self.stream.len() - start).min(payload.len());
        let end = start + known;
        let mut left = Vec::new();
        for (from, until) in core::mem::take(&mut self.holes) {
            let (first, last) = (from.clamp(start, end), until.clamp(start, end));
            self.stream[first..last].copy_from_slice(&payload[first - start..last - start]);
            let rest = [(from, until.min(first)), (from.max(last), until)];
            left.extend(rest.into_iter().filter(|(from, until)| from < until));
        }
        self.holes = left;
        let pairs = self.stream[start..end].iter().zip(payload);
        let changed = pairs.filter(|(before, now)| before != now).count();
        self.stream.extend_from_slice(&payload[known..]);
        (known, changed)
    }
}

/// Remembers the server's stream and compares every repetition with it.
#[derive(Debug, Default)]
pub struct History {
    flows: PerFlow<State>,
    /// How often instances have lost frames before they got to the wire.
    unsent: u64,
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
            if state.excused == self.unsent {
                findings.add(seen.at, RULE, format!("a gap before {}", seen.seq));
                return;
            }
            state.excused = self.unsent;
            state.holes.push((state.stream.len(), start));
            state.stream.resize(start, 0);
        }
        let mut fresh = 0;
        if !payload.is_empty() {
            let (known, changed) = state.add(start, payload);
            fresh = payload.len() - known;
            if changed > 0 {
                let what = format!("{changed} of {known} octets at {} changed", seen.seq);
                findings.add(seen.at, RULE, what);
            }
        }
        let end = seen.seq + payload.len() as u64;
        match state.fin {
            Some(fin) if fresh > 0 || (seen.segment.fin && fin != end) => {
                findings.add(seen.at, RULE, format!("the end moved from {fin} to {end}"));
            }
            None if seen.segment.fin => state.fin = Some(end),
            _ => {}
        }
    }

    fn note(&mut self, _at: Instant, note: Note, _flows: &Flows, _findings: &mut Findings) {
        self.unsent += u64::from(matches!(note, Note::Unsent { .. }));
    }

    fn forget(&mut self, flow: FlowId) {
        self.flows.forget(flow);
    }
}
