//! At most one instance speaks for a flow at any instant, and a frozen one is silent.

use godwit_netstack::Instant;

use super::{Check, Findings, FlowId, Flows, Note, PerFlow, Seen};
use crate::net::Port;

const RULE: &str = "one speaker";

#[derive(Clone, Copy, Debug, Default)]
struct State {
    speaker: Option<Port>,
    /// Where a move in progress goes; until then the source is silent.
    next: Option<Port>,
    changes: u64,
}

/// Follows the sender of the server's segments; it may change only along a move that was begun.
#[derive(Debug, Default)]
pub struct Speaker {
    flows: PerFlow<State>,
}

impl Speaker {
    /// How often the speaker of any flow changed.
    pub fn changes(&self) -> u64 {
        self.flows.iter().map(|state| state.changes).sum()
    }

    /// Who spoke last for a flow.
    pub fn of(&mut self, flow: FlowId) -> Option<Port> {
        self.flows.at(flow).speaker
    }
}

impl Check for Speaker {
    fn segment(&mut self, seen: &Seen<'_>, _flows: &Flows, findings: &mut Findings) {
        if !seen.server_speaks() {
            return;
        }
        let state = self.flows.at(seen.flow);
        match (state.speaker, state.next) {
            (None, _) => state.speaker = Some(seen.port),
            (Some(_), Some(next)) if next == seen.port => {
                *state = State {
                    speaker: Some(next),
                    next: None,
                    changes: state.changes + 1,
                };
            }
            (Some(speaker), None) if speaker == seen.port => {}
            (Some(speaker), next) => findings.add(
                seen.at,
                RULE,
                format!(
                    "party {} speaks (seq {}, {} octets, rst {}); the speaker is {speaker}, a move goes to {next:?}",
                    seen.port,
                    seen.seq,
                    seen.segment.payload.len(),
                    seen.segment.rst,
                ),
            ),
        }
    }

    fn note(&mut self, at: Instant, note: Note, _flows: &Flows, findings: &mut Findings) {
        match note {
            Note::Frozen { flow, from, to } => {
                let state = self.flows.at(flow);
                // The target of the last move may never have spoken before it moves on.
                if state.speaker.is_some_and(|speaker| speaker != from) && state.next != Some(from)
                {
                    findings.add(
                        at,
                        RULE,
                        format!("party {from} moves a flow of {:?}", state.speaker),
                    );
                }
                if state.next == Some(from) {
                    state.speaker = Some(from);
                    state.changes += 1;
                }
                state.next = Some(to);
            }
            Note::Thawed { flow, owner } => {
                let state = self.flows.at(flow);
                if state.speaker.is_some_and(|speaker| speaker != owner) {
                    findings.add(
                        at,
                        RULE,
                        format!("party {owner} thaws while {:?} speaks", state.speaker),
                    );
                }
                state.next = None;
            }
            Note::Accepted { .. } => {}
        }
    }
}
