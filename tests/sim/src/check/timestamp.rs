//! TSval never runs backwards, and once negotiated the option is never left out (RFC 7323).

use super::{Check, Findings, Flows, PerFlow, Seen, Side};

const RULE: &str = "timestamps";
/// By how much the clocks of two instances may differ, in milliseconds: what a heartbeat can be late by.
const SKEW: i32 = 1_000;

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Last TSval by side, in order of emission.
    server: Option<u32>,
    client: Option<u32>,
}

/// Compares TSval of successive segments of each side, whoever speaks for it.
#[derive(Debug, Default)]
pub struct Timestamp {
    flows: PerFlow<State>,
}

impl Check for Timestamp {
    fn segment(&mut self, seen: &Seen<'_>, flows: &Flows, findings: &mut Findings) {
        if !seen.emitted || seen.forwarded {
            return;
        }
        let flow = flows.get(seen.flow);
        let Some((value, echo)) = seen.segment.timestamps else {
            if flow.timestamps() && !seen.segment.rst && seen.from == Side::Server {
                findings.add(seen.at, RULE, "a segment without the option".into());
            }
            return;
        };
        let state = self.flows.at(seen.flow);
        let last = match seen.from {
            Side::Client => &mut state.client,
            Side::Server => &mut state.server,
        };
        let back = last.map_or(0, |last| value.wrapping_sub(last) as i32);
        if (-SKEW..0).contains(&back) && seen.from == Side::Server && seen.segment.syn {
            // The clocks of two instances that answer the same SYN differ by what a heartbeat travels. A client
            // drops the older answer (section 5.3); what follows has to be newer than both.
            return;
        }
        *last = Some(value);
        if seen.from == Side::Client {
            return;
        }
        if back < 0 {
            findings.add(
                seen.at,
                RULE,
                format!("TSval {value} is {} behind", -i64::from(back)),
            );
        }
        if let Some(client) = state.client
            && (client.wrapping_sub(echo) as i32) < 0
        {
            findings.add(
                seen.at,
                RULE,
                format!("TSecr {echo} echoes what was never sent"),
            );
        }
    }
}
