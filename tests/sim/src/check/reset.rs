//! No RST, from either side, unless the scenario expects one.

use super::{Check, Findings, Flows, Seen};

/// Counts RSTs.
#[derive(Debug, Default)]
pub struct Reset {
    /// Whether RSTs are no violation in this run.
    pub expected: bool,
    /// RSTs emitted, by either side.
    pub count: u64,
}

impl Check for Reset {
    fn segment(&mut self, seen: &Seen<'_>, _flows: &Flows, findings: &mut Findings) {
        if !seen.emitted || seen.forwarded || !seen.segment.rst {
            return;
        }
        self.count += 1;
        if !self.expected {
            findings.add(
                seen.at,
                "no reset",
                format!(
                    "the {:?} (party {}) resets at seq {}",
                    seen.from, seen.port, seen.seq
                ),
            );
        }
    }
}
