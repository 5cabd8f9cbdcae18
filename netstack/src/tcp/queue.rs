//! [`ByteQueue`]: a stretch of a byte stream as shared slices, addressed by stream offset.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use bytes::Bytes;

use crate::stack::frame::Payload;

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
#[derive(Clone, Debug, Default)]
pub(crate) struct ByteQueue {
    chunks: VecDeque<Chunk>,
    start: u64,
    end: u64,
}

impl ByteQueue {
    /// An empty queue at stream offset `start`.
    pub fn new(start: u64) -> ByteQueue {
        ByteQueue {
            chunks: VecDeque::new(),
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
        match self.chunks.back_mut() {
            Some(last) if data.len() <= SMALL && last.data.len() + data.len() <= JOINED => {
                let mut joined = Vec::with_capacity(JOINED);
                joined.extend_from_slice(&last.data);
                joined.extend_from_slice(&data);
                last.data = Bytes::from(joined);
            }
            _ => self.chunks.push_back(Chunk { start, data }),
        }
    }

    /// Drop everything before stream offset `offset` (at most all there is).
    pub fn advance_to(&mut self, offset: u64) {
        self.start = offset.clamp(self.start, self.end);
        while let Some(front) = self.chunks.front_mut() {
            let end = front.start + front.data.len() as u64;
            if end <= self.start {
                self.chunks.pop_front();
                continue;
            }
            if front.start < self.start {
                front.data = front.data.slice((self.start - front.start) as usize..);
                front.start = self.start;
            }
            break;
        }
    }

    /// Index of the chunk that holds `offset`.
    fn index_of(&self, offset: u64) -> Option<usize> {
        if offset < self.start || offset >= self.end {
            return None;
        }
        match self.chunks.front() {
            Some(front) if offset < front.start + front.data.len() as u64 => Some(0),
            _ => self
                .chunks
                .partition_point(|chunk| chunk.start <= offset)
                .checked_sub(1),
        }
    }

    /// The slice from `offset` to the end of the chunk that holds it.
    pub fn chunk_at(&self, offset: u64) -> Option<Bytes> {
        let chunk = self.chunks.get(self.index_of(offset)?)?;
        Some(chunk.data.slice((offset - chunk.start) as usize..))
    }

    /// Add up to `len` octets from `offset` on to `payload`, as slices.
    pub fn slices(&self, offset: u64, len: usize, payload: &mut Payload) {
        let Some(index) = self.index_of(offset) else {
            return;
        };
        let (mut at, mut left) = (offset, len);
        for chunk in self.chunks.range(index..) {
            if left == 0 {
                break;
            }
            let skip = (at - chunk.start) as usize;
            let take = left.min(chunk.data.len() - skip);
            payload.push(chunk.data.slice(skip..skip + take));
            at += take as u64;
            left -= take;
        }
    }

    /// All slices, in order.
    pub fn into_chunks(self) -> Vec<Bytes> {
        self.chunks.into_iter().map(|chunk| chunk.data).collect()
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
            queue.chunks.push_back(Chunk { start, data });
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
        assert!(queue.chunks.len() <= 10, "{} chunks", queue.chunks.len());
        queue.advance_to(5_000);
        assert_eq!(queue.chunk_at(5_000).map(|chunk| chunk[0]), Some(7));
        assert_eq!(queue.len(), 5_000);
    }
}
