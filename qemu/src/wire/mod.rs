//! What the client saw: analysis of the frames that crossed the client's link.
//!
//! A [`Trace`] is fed frame by frame ([`Trace::record`]), keeps a [`Flow`] per TCP connection,
//! and afterwards answers the demo's questions: is it still the same connection, was there a
//! reset, what was sent again, and how long was the silence around each move
//! ([`silence::measure`]).

mod flow;
mod parse;
pub mod silence;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::switch::{Direction, Observer};

pub use flow::{Flow, HalfFlow};
pub use parse::{Segment, parse};

/// The TCP connections seen at the client's link, in the order of their first segment.
#[derive(Debug, Default)]
pub struct Trace {
    flows: Vec<Flow>,
    last: usize,
}

impl Trace {
    /// Takes note of a frame; `at` is nanoseconds of any clock that does not run backwards.
    pub fn record(&mut self, at: u64, direction: Direction, frame: &[u8]) {
        let Some(segment) = parse(frame) else { return };
        let (client, server) = match direction {
            Direction::FromPort => (segment.source, segment.destination),
            Direction::ToPort => (segment.destination, segment.source),
        };
        let is_it = |flow: &Flow| flow.client == client && flow.server == server;
        if !self.flows.get(self.last).is_some_and(is_it) {
            self.last = self.flows.iter().position(is_it).unwrap_or_else(|| {
                self.flows.push(Flow::new(client, server));
                self.flows.len() - 1
            });
        }
        if let Some(flow) = self.flows.get_mut(self.last) {
            flow.record(at, direction, &segment);
        }
    }

    /// The connections to a server's address and port.
    pub fn flows_to(&self, server: SocketAddr) -> impl Iterator<Item = &Flow> {
        self.flows.iter().filter(move |flow| flow.server == server)
    }
}

/// A trace that a switch's port fills while others look at it.
#[derive(Clone, Debug)]
pub struct SharedTrace {
    origin: Instant,
    trace: Arc<Mutex<Trace>>,
}

impl Default for SharedTrace {
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            trace: Arc::default(),
        }
    }
}

impl SharedTrace {
    /// The trace's clock: nanoseconds since it was made.
    pub fn clock(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.origin).as_nanos() as u64
    }

    /// Looks at the trace.
    pub fn with<T>(&self, look: impl FnOnce(&Trace) -> T) -> T {
        look(&self.trace.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Observer for SharedTrace {
    fn frame(&mut self, at: Instant, direction: Direction, frame: &[u8]) {
        let at = self.clock(at);
        let mut trace = self.trace.lock().unwrap_or_else(PoisonError::into_inner);
        trace.record(at, direction, frame);
    }
}

#[cfg(test)]
mod tests;
