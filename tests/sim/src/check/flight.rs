//! How much the server side has in flight: what shows on the wire of its congestion window.

use std::collections::VecDeque;

use godwit_netstack::Instant;

use super::{Check, Findings, FlowId, Flows, PerFlow, Seen, Side};

#[derive(Clone, Debug, Default)]
struct State {
    sent: u64,
    acked: u64,
    history: VecDeque<Point>,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    at: Instant,
    sent: u64,
    flight: u64,
}

/// Records, at each data segment of the server side, the octets sent and not yet known (by any
/// instance) to be acknowledged.
#[derive(Debug, Default)]
pub struct Flight {
    flows: PerFlow<State>,
}

impl Flight {
    const KEPT: usize = 100_000;

    /// The largest flight of a flow between two instants.
    pub fn peak(&mut self, flow: FlowId, from: Instant, to: Instant) -> u64 {
        let history = &self.flows.at(flow).history;
        let within = history.iter().filter(|p| p.at >= from && p.at < to);
        within.map(|p| p.flight).max().unwrap_or(0)
    }

    /// Octets sent for the first time between two instants.
    pub fn sent(&mut self, flow: FlowId, from: Instant, to: Instant) -> u64 {
        let history = &self.flows.at(flow).history;
        let upto = |at: Instant| {
            let last = history.iter().take_while(|p| p.at < at).last();
            last.map_or(0, |p| p.sent)
        };
        upto(to) - upto(from)
    }
}

impl Check for Flight {
    fn segment(&mut self, seen: &Seen<'_>, _flows: &Flows, _findings: &mut Findings) {
        let state = self.flows.at(seen.flow);
        if seen.server_speaks() && !seen.segment.rst {
            state.sent = state.sent.max(seen.end());
            if state.history.len() == Self::KEPT {
                state.history.pop_front();
            }
            state.history.push_back(Point {
                at: seen.at,
                sent: state.sent,
                flight: state.sent.saturating_sub(state.acked),
            });
        }
        if !seen.emitted && seen.from == Side::Client {
            state.acked = state.acked.max(seen.ack.unwrap_or(0));
        }
    }

    fn forget(&mut self, flow: FlowId) {
        self.flows.forget(flow);
    }
}
