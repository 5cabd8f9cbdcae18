//! What must hold on the wire, each rule a file of its own.
//!
//! A checker sees every TCP segment of every flow of a service as it is *emitted* (before links
//! can lose it, with the party that sent it) and as it is *delivered*, its numbers already
//! relative to the flow ([`Seen`]); and what the scenario did ([`Note`]).

mod acknowledgement;
mod flight;
mod flow;
mod history;
mod reset;
mod retransmission;
mod silence;
mod speaker;
#[cfg(test)]
mod tests;
mod timestamp;
mod view;
mod window;

use std::any::Any;
use std::collections::HashSet;
use std::fmt;

use godwit_netstack::Instant;
use godwit_netstack::tcp::Info;

pub use acknowledgement::Acknowledgement;
pub use flight::Flight;
pub use flow::{Flow, FlowId, Flows, Side};
pub use history::History;
pub use reset::Reset;
pub use retransmission::Retransmission;
pub use silence::Silence;
pub use speaker::Speaker;
pub use timestamp::Timestamp;
pub use view::View;
pub use window::Window;

use crate::net::Port;
use crate::wire::Segment;

/// A segment of a watched flow. Offsets count from the initial sequence number: the SYN is 0, the
/// first byte of the stream 1.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    /// When.
    pub at: Instant,
    /// The party that emitted it or that it was delivered to.
    pub port: Port,
    /// Whether it left a party (else: it arrived at one).
    pub emitted: bool,
    /// The flow.
    pub flow: FlowId,
    /// Who speaks in it. A frame that an instance passes on for a client has the client's side.
    pub from: Side,
    /// Whether it was emitted by a party that is not an end of the flow.
    pub forwarded: bool,
    /// Offset of its first sequence number.
    pub seq: u64,
    /// Offset it acknowledges up to.
    pub ack: Option<u64>,
    /// Window in octets, scale applied.
    pub window: u64,
    /// The segment.
    pub segment: &'a Segment,
}

impl Seen<'_> {
    /// Offset behind its last sequence number.
    pub fn end(&self) -> u64 {
        self.seq + u64::from(self.segment.length())
    }

    /// Whether the server's side itself sends it, right now.
    pub fn server_speaks(&self) -> bool {
        self.emitted && !self.forwarded && self.from == Side::Server
    }

    /// Whether the client itself sends it, right now.
    pub fn client_speaks(&self) -> bool {
        self.emitted && !self.forwarded && self.from == Side::Client
    }

    /// Whether it comes from the server's side and arrives at the client.
    pub fn reaches_client(&self, flows: &Flows) -> bool {
        !self.emitted
            && self.from == Side::Server
            && flows.get(self.flow).client_port == Some(self.port)
    }
}

impl fmt::Display for Seen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.at.as_nanos() as f64 / 1e6;
        let direction = match (self.emitted, self.forwarded) {
            (true, false) => "sends",
            (true, true) => "passes on",
            (false, _) => "gets",
        };
        let flags: String = [
            (self.segment.syn, 'S'),
            (self.segment.fin, 'F'),
            (self.segment.rst, 'R'),
        ]
        .into_iter()
        .filter_map(|(set, name)| set.then_some(name))
        .collect();
        write!(
            f,
            "{millis:>10.3} flow {} party {} {direction} {:?} {flags} {}+{} ack {:?} window {} ts {:?}",
            self.flow.0,
            self.port,
            self.from,
            self.seq,
            self.segment.payload.len(),
            self.ack,
            self.window,
            self.segment.timestamps,
        )
    }
}

/// What the scenario did or saw that a checker must know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// The session of a flow froze at one party, to be moved to another.
    Frozen {
        /// The flow.
        flow: FlowId,
        /// Its owner so far.
        from: Port,
        /// The target, if the scenario chose it (a drain chooses by itself).
        to: Option<Port>,
    },
    /// The move was refused and the flow belongs to its source again.
    Thawed {
        /// The flow.
        flow: FlowId,
        /// The source.
        owner: Port,
    },
    /// An instance has lost frames of its own before they got to the wire.
    Unsent {
        /// The instance.
        port: Port,
    },
    /// Whoever had the flow has lost its memory.
    Lost {
        /// The flow.
        flow: FlowId,
    },
    /// An instance answered the client's SYN.
    Answered {
        /// The flow.
        flow: FlowId,
        /// The instance.
        by: Port,
        /// Whether it keeps the handshake, so that whatever acknowledges it completes it; else only what
        /// brings back its cookie does, and that is what begins at the first octet.
        remembered: bool,
    },
    /// The source learned that the target owns the flow.
    Accepted {
        /// The flow.
        flow: FlowId,
        /// Its owner so far.
        from: Port,
        /// The new owner, if the scenario chose it.
        to: Option<Port>,
    },
}

/// A rule that was broken.
#[derive(Clone, Debug)]
pub struct Violation {
    /// When.
    pub at: Instant,
    /// The rule.
    pub rule: &'static str,
    /// How.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.at.as_nanos() as f64 / 1e3;
        write!(f, "[{micros:.3} us] {}: {}", self.rule, self.what)
    }
}

/// Violations found so far; bounded, because one fault tends to show in every later segment.
#[derive(Debug, Default)]
pub struct Findings {
    found: Vec<Violation>,
    /// Violations in all.
    pub total: u64,
}

impl Findings {
    const KEPT: usize = 50;

    /// Record one.
    pub fn add(&mut self, at: Instant, rule: &'static str, what: String) {
        self.total += 1;
        if self.found.len() < Self::KEPT {
            self.found.push(Violation { at, rule, what });
        }
    }

    /// The first of them.
    pub fn found(&self) -> &[Violation] {
        &self.found
    }
}

/// A rule. What it measures on the way is read from its own fields after the run.
pub trait Check: Any {
    /// A segment was emitted or delivered.
    fn segment(&mut self, seen: &Seen<'_>, flows: &Flows, findings: &mut Findings);

    /// The scenario did something.
    fn note(&mut self, _at: Instant, _note: Note, _flows: &Flows, _findings: &mut Findings) {}

    /// A flow will hardly be seen again: what takes memory of it may go.
    fn forget(&mut self, _flow: FlowId) {}

    /// Who owns the flow, in this epoch, shows it so.
    fn view(
        &mut self,
        _at: Instant,
        _flow: (FlowId, u64),
        _info: &Info,
        _flows: &Flows,
        _findings: &mut Findings,
    ) {
    }
}

/// The rules that hold in every run, whatever the links do.
pub fn always() -> Vec<Box<dyn Check>> {
    vec![
        Box::new(Acknowledgement::default()),
        Box::new(Flight::default()),
        Box::new(History::default()),
        Box::new(Reset::default()),
        Box::new(Retransmission::default()),
        Box::new(Silence::default()),
        Box::new(Speaker::default()),
        Box::new(Timestamp::default()),
        Box::new(View::default()),
        Box::new(Window::default()),
    ]
}

/// A table of per-flow values that grows on demand.
#[derive(Clone, Debug)]
pub(crate) struct PerFlow<T> {
    values: Vec<T>,
    forgotten: HashSet<FlowId>,
}

impl<T> Default for PerFlow<T> {
    fn default() -> Self {
        PerFlow {
            values: Vec::new(),
            forgotten: HashSet::new(),
        }
    }
}

impl<T: Default> PerFlow<T> {
    pub(crate) fn at(&mut self, flow: FlowId) -> &mut T {
        if self.values.len() <= flow.0 {
            self.values.resize_with(flow.0 + 1, T::default);
        }
        &mut self.values[flow.0]
    }

    /// The same, unless the flow was forgotten.
    pub(crate) fn known(&mut self, flow: FlowId) -> Option<&mut T> {
        let forgotten = self.forgotten.contains(&flow);
        (!forgotten).then(|| self.at(flow))
    }

    pub(crate) fn forget(&mut self, flow: FlowId) {
        self.forgotten.insert(flow);
        if let Some(value) = self.values.get_mut(flow.0) {
            *value = T::default();
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.values.iter()
    }
}
