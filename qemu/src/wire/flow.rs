//! One TCP connection as its segments were seen at the client's link.

use std::net::SocketAddr;

use super::Segment;
use crate::switch::Direction;

/// Holes in the sequence space that are remembered, per direction.
const HOLES: usize = 4096;

/// A connection.
#[derive(Debug)]
pub struct Flow {
    /// The client's end.
    pub client: SocketAddr,
    /// The server's end.
    pub server: SocketAddr,
    /// What the client sent, seen before the link could lose it.
    pub from_client: HalfFlow,
    /// What the server sent, as far as it arrived.
    pub from_server: HalfFlow,
    /// When data of the server arrived, in nanoseconds.
    pub data_times: Vec<u64>,
    /// When data arrived that had arrived before or that fills a hole, in nanoseconds.
    pub resent_times: Vec<u64>,
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub struct HalfFlow {
    /// Segments seen.
    pub segments: u64,
    /// Bytes of payload seen, with those seen again.
    pub payload_bytes: u64,
    /// SYNs with different sequence numbers: more than one is another connection.
    pub syns: u64,
    /// RSTs.
    pub rsts: u64,
    /// Segments of which every byte had been seen before.
    pub repeated: u64,
    /// Segments that fill a hole: reordered, or sent again after a loss.
    pub late: u64,
    /// Times TSval was lower than in an earlier segment with an earlier sequence number
    /// (RFC 7323: modulo 2^32).
    pub tsval_backwards: u64,
    initial: Option<u32>,
    /// The sequence number after the highest byte seen, counted from the first one.
    high: u64,
    holes: Vec<(u64, u64)>,
    tsval: Option<u32>,
}

impl Flow {
    pub(super) fn new(client: SocketAddr, server: SocketAddr) -> Self {
        Self {
            client,
            server,
            from_client: HalfFlow::default(),
            from_server: HalfFlow::default(),
            data_times: Vec::new(),
            resent_times: Vec::new(),
        }
    }

    pub(super) fn record(&mut self, at: u64, direction: Direction, segment: &Segment) {
        match direction {
            Direction::FromPort => {
                self.from_client.record(segment);
            }
            Direction::ToPort => {
                let is_new = self.from_server.record(segment);
                if segment.payload > 0 {
                    self.data_times.push(at);
                    if !is_new {
                        self.resent_times.push(at);
                    }
                }
            }
        }
    }

    /// RSTs in both directions.
    pub fn rsts(&self) -> u64 {
        self.from_client.rsts + self.from_server.rsts
    }

    /// Segments the client sent again. They are seen before any loss, so each segment below the
    /// highest byte is a retransmission (or a keep-alive or window probe, which repeat a byte).
    pub fn client_retransmits(&self) -> u64 {
        self.from_client.repeated + self.from_client.late
    }

    /// The one connection attempt was the only one under this 4-tuple.
    pub fn is_one_connection(&self) -> bool {
        self.from_client.syns == 1 && self.from_server.syns == 1
    }
}

impl HalfFlow {
    /// Takes note of a segment; false if it holds payload of which none is beyond the highest
    /// byte seen so far.
    fn record(&mut self, segment: &Segment) -> bool {
        self.segments += 1;
        self.payload_bytes += u64::from(segment.payload);
        if segment.rst {
            // Its sequence number may be anything.
            self.rsts += 1;
            return true;
        }
        if segment.syn && self.initial != Some(segment.seq) {
            self.syns += 1;
            self.initial = Some(segment.seq);
            self.high = 0;
            self.holes.clear();
            self.tsval = None;
        }
        let initial = *self.initial.get_or_insert(segment.seq);
        let length = segment.payload + u32::from(segment.syn) + u32::from(segment.fin);
        let near = initial.wrapping_add(self.high as u32);
        let distance = i64::from(segment.seq.wrapping_sub(near) as i32);
        let Some(start) = self.high.checked_add_signed(distance) else {
            // Before the first byte seen: a keep-alive of an idle connection.
            return length == 0;
        };
        self.check_timestamp(segment, start);
        if length == 0 {
            return true;
        }
        let end = start + u64::from(length);
        if start >= self.high {
            if start > self.high && self.holes.len() < HOLES {
                self.holes.push((self.high, start));
            }
            self.high = end;
            return true;
        }
        if self.fill(start, end) {
            self.late += 1;
        } else if end <= self.high {
            self.repeated += 1;
        }
        let is_new = end > self.high;
        self.high = self.high.max(end);
        is_new
    }

    /// A sender's clock must not run backwards in what it sends for the first time. Segments that
    /// are below the highest byte may just be late.
    fn check_timestamp(&mut self, segment: &Segment, start: u64) {
        let Some(tsval) = segment.tsval else { return };
        if start < self.high {
            return;
        }
        if let Some(last) = self.tsval
            && (tsval.wrapping_sub(last) as i32) < 0
        {
            self.tsval_backwards += 1;
        }
        self.tsval = Some(tsval);
    }

    /// Removes a range from the holes; true if it filled any part of one.
    fn fill(&mut self, start: u64, end: u64) -> bool {
        if !self
            .holes
            .iter()
            .any(|(from, to)| *from < end && start < *to)
        {
            return false;
        }
        let mut left = Vec::with_capacity(self.holes.len() + 1);
        for &(from, to) in &self.holes {
            if to <= start || end <= from {
                left.push((from, to));
                continue;
            }
            if from < start {
                left.push((from, start));
            }
            if end < to {
                left.push((end, to));
            }
        }
        self.holes = left;
        true
    }
}
