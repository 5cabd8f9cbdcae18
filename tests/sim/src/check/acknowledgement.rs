//! Acknowledgements of the server side never go back and never cover what was not sent; checksums
//! are right.

use super::{Check, Findings, Flows, PerFlow, Seen};

const RULE: &str = "acknowledgement";

/// What an instance passes on for a client is the client's affair, as with any router.
///
/// Follows the acknowledgement number of the server side, over all its speakers: a byte that was
/// acknowledged once stays acknowledged.
#[derive(Debug, Default)]
pub struct Acknowledgement {
    highest: PerFlow<u64>,
}

impl Check for Acknowledgement {
    fn segment(&mut self, seen: &Seen<'_>, flows: &Flows, findings: &mut Findings) {
        if !seen.emitted || seen.forwarded {
            return;
        }
        if !seen.segment.checksums_right {
            findings.add(
                seen.at,
                "checksum",
                format!("party {} sends a wrong one", seen.port),
            );
        }
        if !seen.server_speaks() || seen.segment.rst {
            return;
        }
        let Some(ack) = seen.ack else { return };
        let highest = self.highest.at(seen.flow);
        if ack < *highest {
            findings.add(seen.at, RULE, format!("{ack} after {highest}"));
        }
        *highest = ack.max(*highest);
        let sent = flows.get(seen.flow).upward.end;
        if ack > sent {
            findings.add(
                seen.at,
                RULE,
                format!("{ack}, but the client sent {sent} only"),
            );
        }
    }
}
