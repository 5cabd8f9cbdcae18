//! Which flow a segment belongs to, and its numbers relative to that flow.

use std::net::SocketAddr;

use godwit_netstack::Instant;

use super::Seen;
use crate::net::Port;
use crate::wire::Segment;

/// One of the two ends of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Whoever opened it.
    Client,
    /// The service, whichever instance speaks for it.
    Server,
}

/// A flow, numbered in order of appearance. The same addresses used again are another flow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FlowId(pub usize);

/// One direction of a flow.
#[derive(Clone, Debug, Default)]
pub struct Direction {
    /// Initial sequence number, once its SYN was seen.
    pub(super) isn: Option<u32>,
    /// Offset behind the highest sequence number emitted.
    pub end: u64,
    scale: Option<u8>,
    timestamps: bool,
}

/// A TCP connection to a service.
#[derive(Clone, Debug)]
pub struct Flow {
    /// The client's address.
    pub client: SocketAddr,
    /// The service's address.
    pub server: SocketAddr,
    /// The party the client is.
    pub client_port: Option<Port>,
    /// Client to server.
    pub upward: Direction,
    /// Server to client.
    pub downward: Direction,
    /// Whether the client has acknowledged anything.
    answered: bool,
    /// The party that spoke for the service last.
    pub spoken_by: Option<Port>,
    /// Segments either end has emitted, in all.
    pub segments: u64,
}

impl Flow {
    fn direction(&self, from: Side) -> &Direction {
        match from {
            Side::Client => &self.upward,
            Side::Server => &self.downward,
        }
    }

    /// Whether both ends offered window scaling.
    pub fn scales(&self) -> bool {
        self.upward.scale.is_some() && self.downward.scale.is_some()
    }

    /// The window scale of one side's segments.
    pub fn scale(&self, from: Side) -> u8 {
        match self.direction(from).scale {
            Some(scale) if self.scales() => scale,
            _ => 0,
        }
    }

    /// Whether both ends offered timestamps.
    pub fn timestamps(&self) -> bool {
        self.upward.timestamps && self.downward.timestamps
    }
}

/// All flows to the watched services.
#[derive(Debug, Default)]
pub struct Flows {
    services: Vec<SocketAddr>,
    flows: Vec<Flow>,
}

impl Flows {
    /// Watch flows to this address.
    pub fn watch(&mut self, service: SocketAddr) {
        self.services.push(service);
    }

    /// A flow by its number.
    ///
    /// # Panics
    /// If the number is not from this table.
    pub fn get(&self, flow: FlowId) -> &Flow {
        &self.flows[flow.0]
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// The latest flow of a client.
    pub fn of_client(&self, client: SocketAddr) -> Option<FlowId> {
        let at = self.flows.iter().rposition(|flow| flow.client == client)?;
        Some(FlowId(at))
    }

    /// The latest flow of a client's port at any of its addresses, by the party it is.
    pub fn of_port(&self, port: Port) -> Option<FlowId> {
        let at = self
            .flows
            .iter()
            .rposition(|flow| flow.client_port == Some(port))?;
        Some(FlowId(at))
    }

    /// Place a segment; `None` if it belongs to no watched service or its flow's start was never
    /// seen. `is_server` says whether the party runs instances (else it is a client).
    pub(crate) fn place<'a>(
        &mut self,
        at: Instant,
        port: Port,
        emitted: bool,
        is_server: bool,
        segment: &'a Segment,
    ) -> Option<Seen<'a>> {
        let from = if self.services.contains(&segment.target) {
            Side::Client
        } else if self.services.contains(&segment.source) {
            Side::Server
        } else {
            return None;
        };
        let (client, server) = match from {
            Side::Client => (segment.source, segment.target),
            Side::Server => (segment.target, segment.source),
        };
        let forwarded = emitted && is_server != (from == Side::Server);
        let known = self
            .flows
            .iter()
            .rposition(|flow| flow.client == client && flow.server == server);
        let opens = segment.syn && from == Side::Client && segment.ack.is_none();
        let flow = match known {
            Some(known) if !opens || self.flows[known].upward.isn == Some(segment.seq) => known,
            _ if opens && emitted && !forwarded => {
                self.flows.push(Flow {
                    client,
                    server,
                    client_port: Some(port),
                    upward: Direction::default(),
                    downward: Direction::default(),
                    answered: false,
                    spoken_by: None,
                    segments: 0,
                });
                self.flows.len() - 1
            }
            _ => return None,
        };
        let flow_id = FlowId(flow);
        let flow = &mut self.flows[flow];
        if emitted && !forwarded {
            flow.segments += 1;
            flow.learn(from, segment);
            if from == Side::Server {
                flow.spoken_by = Some(port);
            }
            flow.answered |= from == Side::Client && segment.ack.is_some();
        }
        let seq = unwrap(flow.direction(from), segment.seq)?;
        let back = match from {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        };
        let ack = segment
            .ack
            .and_then(|ack| unwrap(flow.direction(back), ack));
        let window = if segment.syn {
            u64::from(segment.window)
        } else {
            u64::from(segment.window) << flow.scale(from)
        };
        let seen = Seen {
            at,
            port,
            emitted,
            flow: flow_id,
            from,
            forwarded,
            seq,
            ack,
            window,
            segment,
        };
        if emitted && !forwarded && !segment.rst {
            let end = seen.end();
            let direction = match from {
                Side::Client => &mut flow.upward,
                Side::Server => &mut flow.downward,
            };
            direction.end = direction.end.max(end);
        }
        Some(seen)
    }
}

impl Flow {
    fn learn(&mut self, from: Side, segment: &Segment) {
        if !segment.syn {
            return;
        }
        // Until the client has seen a SYN-ACK (and says more than SYN), a later one may have another
        // number: the half-open connection was given up and begun anew.
        let unseen = from == Side::Server && self.upward.end <= 1 && !self.answered;
        let direction = match from {
            Side::Client => &mut self.upward,
            Side::Server => &mut self.downward,
        };
        if direction.isn.is_none() || unseen {
            direction.isn = Some(segment.seq);
            direction.scale = segment.scale;
            direction.timestamps = segment.timestamps.is_some();
        }
    }
}

/// The offset nearest to what was sent so far that has this raw number.
fn unwrap(direction: &Direction, raw: u32) -> Option<u64> {
    let isn = direction.isn?;
    let near = isn.wrapping_add(direction.end as u32);
    let distance = raw.wrapping_sub(near) as i32;
    Some(direction.end.saturating_add_signed(i64::from(distance)))
}
