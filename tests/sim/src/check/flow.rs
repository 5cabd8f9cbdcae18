//! Which flow a segment belongs to, and its numbers relative to that flow.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use godwit_netstack::Instant;
use godwit_netstack::tcp::Info;

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
#[derive(Clone, Copy, Debug, Default)]
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
    /// What SYN-ACKs offered before that. Of two instances each may give its own; the client takes one,
    /// and whoever gets the ACK goes by it (as by any SYN cookie).
    offers: Vec<Direction>,
    /// Segments either end has emitted, in all.
    pub segments: u64,
    /// The flow that had the same ends before.
    pub before: Option<FlowId>,
    /// Whether it may end with an RST, of either side: the scenario means it to.
    pub may_reset: bool,
    /// The server's side has refused the client's SYN.
    pub refused: bool,
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

    /// Whether the server's side has answered the client's SYN.
    pub fn is_accepted(&self) -> bool {
        self.downward.isn.is_some()
    }

    /// Whether the client is past its SYN: it has heard of the server.
    pub fn is_answered(&self) -> bool {
        self.answered
    }
}

/// All flows to the watched services.
#[derive(Debug, Default)]
pub struct Flows {
    services: Vec<SocketAddr>,
    flows: Vec<Flow>,
    /// The latest flow of each pair of ends: client, server.
    latest: HashMap<(SocketAddr, SocketAddr), usize>,
    /// Ends of clients whose flows may be reset from the next one on.
    may_reset: HashSet<SocketAddr>,
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

    pub(crate) fn expect_resets(&mut self, client: SocketAddr, expected: bool) {
        if expected {
            self.may_reset.insert(client);
        } else {
            self.may_reset.remove(&client);
        }
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
        let of = |server: &SocketAddr| self.latest.get(&(client, *server));
        self.services
            .iter()
            .filter_map(of)
            .max()
            .copied()
            .map(FlowId)
    }

    /// The flow of a client that an instance has a connection of: the latest, unless by its numbers it is an
    /// earlier one.
    pub fn of_connection(&self, client: SocketAddr, info: &Info) -> Option<FlowId> {
        self.of_numbers(client, (info.snd_nxt.raw(), info.rcv_nxt.raw()))
    }

    /// The same by SND.NXT and RCV.NXT, as they were at any time.
    pub(crate) fn of_numbers(
        &self,
        client: SocketAddr,
        (next, expected): (u32, u32),
    ) -> Option<FlowId> {
        let FlowId(latest) = self.of_client(client)?;
        let fitting = self.fitting(latest, next, Some(expected));
        Some(FlowId(fitting.unwrap_or(latest)))
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
        let mut known = self.latest.get(&(client, server)).copied();
        if from == Side::Server && !segment.syn {
            known = known.map(|latest| self.used_in(latest, segment.seq, segment.ack));
        }
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
                    offers: Vec::new(),
                    segments: 0,
                    before: known.map(FlowId),
                    may_reset: self.may_reset.contains(&client),
                    refused: false,
                });
                self.latest.insert((client, server), self.flows.len() - 1);
                self.flows.len() - 1
            }
            _ => return None,
        };
        let answers_syn = from == Side::Server && segment.syn;
        let repeated = |flow: &Flow| flow.is_answer_of_another(port, segment);
        if answers_syn && (self.is_for_an_earlier_one(flow, segment) || repeated(&self.flows[flow]))
        {
            return None;
        }
        let flow_id = FlowId(flow);
        let flow = &mut self.flows[flow];
        if emitted && !forwarded {
            flow.segments += 1;
            flow.learn(from, segment);
            if from == Side::Server {
                flow.spoken_by = Some(port);
            }
        }
        if emitted && !forwarded && from == Side::Server && segment.rst {
            let opening = flow.upward.isn.map(|isn| isn.wrapping_add(1));
            flow.refused |= flow.downward.isn.is_none() && segment.ack == opening;
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

impl Flows {
    /// The flow in which the service says something: the latest between its ends, unless its numbers mean
    /// nothing there and were used in an earlier one. An instance that was cut off still has that connection,
    /// and cannot know that the client has gone on.
    fn used_in(&self, latest: usize, seq: u32, ack: Option<u32>) -> usize {
        match self.flows[latest].downward.isn {
            Some(_) => self.fitting(latest, seq, ack).unwrap_or(latest),
            None => latest,
        }
    }

    /// The latest flow between the ends of this one, itself included, in which the service has used these numbers.
    fn fitting(&self, latest: usize, seq: u32, ack: Option<u32>) -> Option<usize> {
        let was_used = |raw: u32, direction: &Direction, first: u64| {
            unwrap(direction, raw).is_some_and(|at| (first..=direction.end).contains(&at))
        };
        let fits = |flow: &Flow| {
            let acks = ack.is_some_and(|ack| was_used(ack, &flow.upward, 1));
            // A probe repeats the number of the SYN, as long as no more is acknowledged.
            acks && was_used(seq, &flow.downward, 0)
        };
        let mut next = Some(FlowId(latest));
        while let Some(FlowId(number)) = next {
            let flow = &self.flows[number];
            if fits(flow) {
                return Some(number);
            }
            next = flow.before;
        }
        None
    }

    /// Whether a SYN-ACK answers the SYN of an earlier flow between the same ends, which its client gave
    /// up: an instance that has it repeats its answer until it gives up too.
    fn is_for_an_earlier_one(&self, flow: usize, answer: &Segment) -> bool {
        let answers = |flow: &Flow| flow.upward.isn.map(|isn| isn.wrapping_add(1)) == answer.ack;
        if answers(&self.flows[flow]) {
            return false;
        }
        let mut before = self.flows[flow].before;
        while let Some(FlowId(earlier)) = before {
            if answers(&self.flows[earlier]) {
                return true;
            }
            before = self.flows[earlier].before;
        }
        false
    }
}

impl Flow {
    /// Whether this repeats, with the same numbers, the answer that the client has taken, and the connection is
    /// another instance's: of two that have answered a SYN the one is not told. It says nothing new, and the
    /// client answers it with an ACK (RFC 5961 section 4.2).
    fn is_answer_of_another(&self, port: Port, segment: &Segment) -> bool {
        let next = |direction: &Direction| direction.isn.map(|isn| isn.wrapping_add(1));
        self.answered
            && self.spoken_by.is_some_and(|by| by != port)
            && self.downward.isn == Some(segment.seq)
            && segment.ack == next(&self.upward)
            && segment.payload.is_empty()
    }

    fn learn(&mut self, from: Side, segment: &Segment) {
        if from == Side::Client && !segment.rst {
            self.choose(segment);
        }
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
            let offer = *direction;
            if unseen && !self.offers.iter().any(|known| known.isn == offer.isn) {
                self.offers.push(offer);
            }
        }
    }

    /// The client answers: which SYN-ACK was it?
    fn choose(&mut self, segment: &Segment) {
        let Some(ack) = segment.ack.filter(|_| !self.answered) else {
            return;
        };
        self.answered = true;
        let offers = core::mem::take(&mut self.offers);
        let taken = |offer: &Direction| offer.isn.map(|isn| isn.wrapping_add(1)) == Some(ack);
        if let Some(offer) = offers.into_iter().find(taken) {
            self.downward = Direction {
                end: self.downward.end,
                ..offer
            };
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
