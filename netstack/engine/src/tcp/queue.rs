//! [`ByteQueue`]: a stretch of a byte stream as shared slices, addressed by stream offset.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::stack::frame::Payload;

/// The two queues of octets a connection has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Queue {
    /// To be sent: unacknowledged, then never transmitted.
    Send,
    /// Received in order and not consumed.
    Unread,
}

#[derive(Clone, Debug)]
struct Chunk {
    /// Stream offset of the chunk's first octet.
    start: u64,
    data: Bytes,
}

/// Pieces up to this many octets are small.
const SMALL: usize = 256;
/// Octets of small pieces that are kept together.
const JOINED: usize = 1024;

/// Octets `start..end` of a stream. Nothing but small pieces is copied on the way in or out.
///
/// A piece keeps the buffer it is a part of, whatever that is. The first piece and the last may be a few
/// octets of one; of those between, each is larger than [`SMALL`], or comes after what together
/// with it is larger than [`JOINED`]. So a queue keeps two buffers at most, and beside them a buffer
/// for each [`SMALL`] octets. What a buffer is, is the NIC's affair: small frames come in an allocation
/// of their own, and virtio-net's receive buffers are of 2 KiB.
///
/// The first piece lies in the queue itself: most queues hold no more than that, and with very many
/// connections the memory for the others would be somewhere no cache reaches.
#[derive(Clone, Debug, Default)]
pub(crate) struct ByteQueue {
    /// What begins at `start`; empty only if all is.
    first: Bytes,
    /// What follows, in order.
    #[allow(
        clippy::box_collection,
        reason = "most queues have one piece, and are to stay small"
    )]
    rest: Option<Box<VecDeque<Chunk>>>,
    start: u64,
    end: u64,
}

impl ByteQueue {
    /// An empty queue at stream offset `start`.
    pub fn new(start: u64) -> ByteQueue {
        ByteQueue {
            first: Bytes::new(),
            rest: None,
            start,
            end: start,
        }
    }

    /// Stream offset of the first octet still here.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Stream offset after the last octet.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Octets held.
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Add octets at the end. Small pieces that follow each other are copied together, so that what
    /// is kept for an octet is bounded however few a segment brings.
    pub fn push(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        let start = self.end;
        self.end += data.len() as u64;
        if self.first.is_empty() {
            self.first = data;
            return;
        }
        let last = match self.rest.as_mut().and_then(|rest| rest.back_mut()) {
            Some(last) => &mut last.data,
            None => &mut self.first,
        };
        if data.len() <= SMALL && last.len() + data.len() <= JOINED {
            let mut joined = Vec::with_capacity(JOINED);
            joined.extend_from_slice(last);
            joined.extend_from_slice(&data);
            *last = Bytes::from(joined);
        } else {
            let rest = self.rest.get_or_insert_default();
            rest.push_back(Chunk { start, data });
        }
    }

    /// Drop everything before stream offset `offset` (at most all there is).
    pub fn advance_to(&mut self, offset: u64) {
        let offset = offset.clamp(self.start, self.end);
        while offset > self.start {
            let gone = offset - self.start;
            if gone < self.first.len() as u64 {
                self.first = self.first.slice(gone as usize..);
                self.start = offset;
                return;
            }
            let next = self.rest.as_mut().and_then(|rest| rest.pop_front());
            let Some(next) = next else {
                self.first = Bytes::new();
                self.start = self.end;
                break;
            };
            self.start = next.start;
            self.first = next.data;
        }
        if self.first.is_empty() {
            self.rest = None;
        }
    }

    /// The slice from `offset` to the end of the chunk that holds it.
    pub fn chunk_at(&self, offset: u64) -> Option<Bytes> {
        let mut found = None;
        self.each_from(offset, |chunk, skip| {
            found = Some(chunk.slice(skip..));
            false
        });
        found
    }

    /// Add up to `len` octets from `offset` on to `payload`, as slices.
    pub fn slices(&self, offset: u64, len: usize, payload: &mut Payload) {
        let mut left = len;
        if left == 0 {
            return;
        }
        self.each_from(offset, |chunk, skip| {
            let take = left.min(chunk.len() - skip);
            left -= take;
            payload.push(chunk.slice(skip..skip + take));
            left > 0
        });
    }

    /// Give `each` the chunks from `offset` on, each with what to skip of it, until it says `false`.
    fn each_from(&self, offset: u64, mut each: impl FnMut(&Bytes, usize) -> bool) {
        if offset < self.start || offset >= self.end {
            return;
        }
        let skip = (offset - self.start) as usize;
        if skip < self.first.len() && !each(&self.first, skip) {
            return;
        }
        let Some(rest) = &self.rest else {
            return;
        };
        let after = rest.partition_point(|chunk| chunk.start <= offset);
        for chunk in rest.range(after.saturating_sub(1)..) {
            let skip = offset.saturating_sub(chunk.start) as usize;
            if !each(&chunk.data, skip) {
                return;
            }
        }
    }

    /// All slices, in order, shared.
    pub fn chunks(&self) -> Vec<Bytes> {
        let rest = self.rest.iter().flat_map(|rest| rest.iter());
        let first = (!self.first.is_empty()).then_some(&self.first);
        first
            .into_iter()
            .chain(rest.map(|chunk| &chunk.data))
            .cloned()
            .collect()
    }

    /// All slices, in order.
    pub fn into_chunks(self) -> Vec<Bytes> {
        let rest = self.rest.into_iter().flat_map(|rest| *rest);
        let first = (!self.first.is_empty()).then_some(self.first);
        first
            .into_iter()
            .chain(rest.map(|chunk| chunk.data))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> ByteQueue {
        let mut queue = ByteQueue::new(100);
        // Not pushed, or they would become one.
        for piece in [&b"abc"[..], b"defg", b"h"] {
            let start = queue.end;
            queue.end += piece.len() as u64;
            let data = Bytes::from_static(piece);
            match queue.first.is_empty() {
                true => queue.first = data,
                false => queue
                    .rest
                    .get_or_insert_default()
                    .push_back(Chunk { start, data }),
            }
        }
        queue.push(Bytes::new());
        queue
    }

    #[test]
    fn any_range_comes_out_as_it_went_in() {
        let mut queue = queue();
        for start in 0..8 {
            queue.advance_to(100 + start as u64);
            for from in start..8 {
                for len in 0..10 {
                    let mut slices = Payload::new();
                    queue.slices(100 + from as u64, len, &mut slices);
                    let got: Vec<u8> = slices.concat();
                    let until = (from + len).min(8);
                    assert_eq!(got, b"abcdefgh"[from..until]);
                }
            }
            assert_eq!(queue.len(), 8 - start);
        }
    }

    #[test]
    fn outside_there_is_nothing() {
        let mut queue = queue();
        assert!(queue.chunk_at(99).is_none() && queue.chunk_at(108).is_none());
        assert_eq!(queue.chunk_at(104).as_deref(), Some(&b"efg"[..]));
        queue.advance_to(500);
        assert_eq!((queue.start(), queue.len()), (108, 0));
    }

    #[test]
    fn single_octets_do_not_keep_a_buffer_each() {
        let mut queue = ByteQueue::new(0);
        let frame = Bytes::from(vec![7; 1500]);
        for n in 0..10_000 {
            queue.push(frame.slice(n % 1500..n % 1500 + 1));
        }
        assert_eq!(queue.len(), 10_000);
        let chunks = queue.rest.as_ref().map_or(0, |rest| rest.len());
        assert!(chunks <= 9, "{chunks} chunks after the first");
        queue.advance_to(5_000);
        assert_eq!(queue.chunk_at(5_000).map(|chunk| chunk[0]), Some(7));
        assert_eq!(queue.len(), 5_000);
    }
}
