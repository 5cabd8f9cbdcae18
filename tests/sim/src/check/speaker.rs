//! At most one instance speaks for a flow at any instant, and a frozen one is silent.

use godwit_netstack::Instant;

use super::{Check, Findings, FlowId, Flows, Note, PerFlow, Seen, Side};
use crate::net::Port;

const RULE: &str = "one speaker";

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Who has said more than SYN-ACK, or has moved the flow.
    speaker: Option<Port>,
    /// A move is in progress: the source is silent.
    moving: bool,
    /// Where it goes, if that is known.
    next: Option<Port>,
    changes: u64,
    /// The client has acknowledged more than the handshake.
    heard: bool,
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
            let heard = seen.from == Side::Client && seen.ack.is_some_and(|ack| ack > 1);
            self.flows.at(seen.flow).heard |= heard;
            return;
        }
        // An RST without ACK says that nobody has the flow (RFC 9293 section 3.10.7.1): the ingress says it,
        // which need not be who had it. Whether it may be said is the affair of `Reset`.
        let obituary = seen.segment.rst && seen.segment.ack.is_none();
        if obituary {
            return;
        }
        let state = self.flows.at(seen.flow);
        if seen.segment.syn && seen.seq == 0 && state.speaker.is_none() {
            // The same answer, whoever gives it: a SYN that is repeated may be led to another instance, if the
            // one it was led to before has fallen silent. Who takes the connection is the first to say more.
            return;
        }
        let arrives = state.moving && state.next.is_none_or(|next| next == seen.port);
        match state.speaker {
            None => state.speaker = Some(seen.port),
            Some(speaker) if arrives && speaker != seen.port => {
                *state = State {
                    speaker: Some(seen.port),
                    moving: false,
                    next: None,
                    changes: state.changes + 1,
                    ..*state
                };
            }
            Some(speaker) if speaker == seen.port && !state.moving => {}
            Some(speaker) => findings.add(
                seen.at,
                RULE,
                format!(
                    "party {} speaks (seq {}, {} octets, rst {}); the speaker is {speaker}, moving: {} to {:?}",
                    seen.port,
                    seen.seq,
                    seen.segment.payload.len(),
                    seen.segment.rst,
                    state.moving,
                    state.next,
                ),
            ),
        }
    }

    fn note(&mut self, at: Instant, note: Note, _flows: &Flows, findings: &mut Findings) {
        match note {
            Note::Frozen { flow, from, to } => {
                let state = self.flows.at(flow);
                // The target of the last move may never have spoken before the next one.
                let arrived = state.moving && state.next.is_none_or(|next| next == from);
                match state.speaker {
                    Some(speaker) if speaker != from && !arrived => {
                        findings.add(at, RULE, format!("party {from} moves a flow of {speaker}"));
                    }
                    Some(speaker) if speaker != from => state.changes += 1,
                    _ => {}
                }
                state.speaker = Some(from);
                state.moving = true;
                state.next = to;
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
                state.moving = false;
                state.next = None;
            }
            // The client knows of a SYN-ACK that anybody would have sent: its cookie is good, and whoever
            // takes it begins the only history that there is.
            Note::Lost { flow } => {
                let state = self.flows.at(flow);
                if !state.heard {
                    (state.speaker, state.moving, state.next) = (None, false, None);
                }
            }
            Note::Accepted { .. } | Note::Unsent { .. } | Note::Answered { .. } => {}
        }
    }
}
