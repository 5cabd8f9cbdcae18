//! What an instance shows of a connection ([`Info`]) agrees with the wire and with itself.

use godwit_netstack::tcp::Info;
use godwit_netstack::{Duration, Instant};

use super::{Check, Findings, FlowId, Flows, Note, PerFlow, Seen};

const RULE: &str = "the view is true";
/// Longest retransmission time-out there is (RFC 6298 section 2.5).
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Highest offset the server's side has emitted, and the client acknowledged.
    sent: u64,
    acked: u64,
    epoch: u64,
    tx_bytes: u64,
    rx_bytes: u64,
    retransmits: u64,
}

/// Compares views, which owners give now and then, with what was on the wire until then.
#[derive(Debug, Default)]
pub struct View {
    flows: PerFlow<State>,
    /// Views looked at.
    pub views: u64,
}

impl Check for View {
    fn segment(&mut self, seen: &Seen<'_>, _flows: &Flows, _findings: &mut Findings) {
        let state = self.flows.at(seen.flow);
        if seen.server_speaks() {
            state.sent = state.sent.max(seen.end());
        } else if seen.client_speaks() {
            state.acked = state.acked.max(seen.ack.unwrap_or(0));
        }
    }

    fn view(
        &mut self,
        at: Instant,
        (flow, epoch): (FlowId, u64),
        info: &Info,
        flows: &Flows,
        findings: &mut Findings,
    ) {
        // The same ends may have had a connection before, which somebody still shows.
        let begun = flows.get(flow).downward.isn;
        let acked = begun.map(|isn| u64::from(info.snd_una.raw().wrapping_sub(isn)));
        let sent = self.flows.at(flow).sent;
        let Some(acked) = acked.filter(|acked| *acked <= sent) else {
            return;
        };
        // SYN, and FIN once it is acknowledged.
        let octets = acked.saturating_sub(1 + u64::from(info.state.is_send_closed()))..acked;
        self.views += 1;
        let state = self.flows.at(flow);
        if epoch < state.epoch {
            // Somebody who does not know yet that he is not the owner any more.
            return;
        }
        let outstanding = info.snd_nxt.distance_from(info.snd_una);
        // One more each for SYN and FIN.
        let sent = info.tx_bytes + u64::from(outstanding) + 2;
        let rules = [
            (
                "octets acknowledged are not SND.UNA's",
                octets.contains(&info.tx_bytes),
            ),
            ("SND.NXT is behind the wire", state.sent <= sent),
            (
                "more is acknowledged than was",
                info.tx_bytes <= state.acked,
            ),
            (
                "a count of octets sent goes back",
                info.tx_bytes >= state.tx_bytes,
            ),
            (
                "a count of octets received goes back",
                info.rx_bytes >= state.rx_bytes,
            ),
            (
                "a count of retransmissions goes back",
                info.counters.retransmits >= state.retransmits,
            ),
            ("more is sacked than is out", info.sacked <= outstanding),
            ("more is lost than is out", info.lost <= outstanding),
            ("the window is no segment", info.cwnd >= u32::from(info.mss)),
            ("the time-out has no bound", info.rto <= LONGEST),
        ];
        for (what, holds) in rules {
            if !holds {
                findings.add(at, RULE, format!("{what}: {state:?} {info:?}"));
            }
        }
        *state = State {
            epoch,
            tx_bytes: info.tx_bytes,
            rx_bytes: info.rx_bytes,
            retransmits: info.counters.retransmits,
            ..*state
        };
    }

    fn note(&mut self, _at: Instant, note: Note, _flows: &Flows, _findings: &mut Findings) {
        // Who takes the cookie of one that is gone counts from the beginning. That is right if the client has
        // heard no more than the SYN-ACK.
        if let Note::Lost { flow } = note {
            let state = self.flows.at(flow);
            if state.acked <= 1 {
                *state = State::default();
            }
        }
    }

    fn forget(&mut self, flow: FlowId) {
        self.flows.forget(flow);
    }
}
