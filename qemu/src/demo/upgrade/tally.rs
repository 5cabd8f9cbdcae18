//! What crosses the clients' link, in numbers.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::switch::{Direction, Observer};
use crate::wire;

#[derive(Debug, Default)]
struct Counts {
    server: Option<SocketAddr>,
    clients: HashSet<SocketAddr>,
    bytes: u64,
    rsts: u64,
    client_rsts: u64,
}

/// Counts the connections to one server, their bytes and their resets. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally(Arc<Mutex<Counts>>);

impl Tally {
    fn with<T>(&self, look: impl FnOnce(&mut Counts) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Count what goes to and comes from `server` from now on.
    pub fn watch(&self, server: SocketAddr) {
        self.with(|counts| counts.server = Some(server));
    }

    /// Connections opened, by their SYNs; one that is sent again counts once.
    pub fn connections(&self) -> u64 {
        self.with(|counts| counts.clients.len() as u64)
    }

    /// Bytes that were delivered.
    pub fn bytes(&self) -> u64 {
        self.with(|counts| counts.bytes)
    }

    /// RSTs from the server and from the clients.
    pub fn resets(&self) -> (u64, u64) {
        self.with(|counts| (counts.rsts, counts.client_rsts))
    }
}

impl Observer for Tally {
    fn frame(&mut self, _: Instant, direction: Direction, frame: &[u8]) {
        let Some(segment) = wire::parse(frame) else {
            return;
        };
        self.with(|counts| match direction {
            Direction::FromPort if counts.server == Some(segment.destination) => {
                if segment.syn {
                    counts.clients.insert(segment.source);
                }
                counts.client_rsts += u64::from(segment.rst);
            }
            Direction::ToPort if counts.server == Some(segment.source) => {
                counts.bytes += u64::from(segment.payload);
                counts.rsts += u64::from(segment.rst);
            }
            _ => {}
        });
    }
}
