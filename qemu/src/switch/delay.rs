//! Frames on their way: a queue by due time, with buffers that are used again.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// Bytes on their way at most; beyond that the link is full and drops.
const CAPACITY: usize = 64 << 20;
/// Buffers kept for use again.
const SPARE: usize = 4096;

/// Frames that are due later.
#[derive(Debug, Default)]
pub(super) struct DelayLine {
    due: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    slots: Vec<Option<(usize, Vec<u8>)>>,
    free_slots: Vec<usize>,
    spare: Vec<Vec<u8>>,
    bytes: usize,
    sequence: u64,
}

impl DelayLine {
    /// Sends a copy of `frame` to `port` at `due`. False: no room.
    pub fn push(&mut self, due: Instant, port: usize, frame: &[u8]) -> bool {
        if self.bytes + frame.len() > CAPACITY {
            return false;
        }
        self.bytes += frame.len();
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.extend_from_slice(frame);
        let slot = self.free_slots.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some((port, buffer));
        // The sequence number keeps frames that are due at the same time in order.
        self.due.push(Reverse((due, self.sequence, slot)));
        self.sequence += 1;
        true
    }

    /// When the next frame is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((due, ..))| *due)
    }

    /// Takes a frame that is due: its port and bytes. Give the buffer back to [`Self::recycle`].
    pub fn pop(&mut self, now: Instant) -> Option<(usize, Vec<u8>)> {
        let Reverse((due, _, slot)) = *self.due.peek()?;
        if due > now {
            return None;
        }
        self.due.pop();
        self.free_slots.push(slot);
        let (port, buffer) = self.slots[slot].take()?;
        self.bytes -= buffer.len();
        Some((port, buffer))
    }

    /// Keeps a buffer for another frame.
    pub fn recycle(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < SPARE {
            buffer.clear();
            self.spare.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn frames_leave_when_due_and_in_order() {
        let (mut line, now) = (DelayLine::default(), Instant::now());
        let later = now + Duration::from_millis(1);
        assert!(line.push(later, 1, b"late"));
        assert!(line.push(now, 2, b"a"));
        assert!(line.push(now, 3, b"b"));
        let first = line.pop(now).unwrap();
        assert_eq!((first.0, first.1.as_slice()), (2, b"a".as_slice()));
        assert_eq!(line.pop(now).unwrap().0, 3);
        assert!(line.pop(now).is_none());
        assert_eq!(line.next_due(), Some(later));
        assert_eq!(line.pop(later).unwrap().1, b"late");
        assert_eq!(line.bytes, 0);
    }
}
