//! The buffers of a receive ring: how many it has, how many it is to have, and where they come from.

use alloc::sync::Arc;

use crate::dma::{Buffer, Pool};

/// Buffers by which a ring grows at a time: filling it at once would be a good part of the boot.
pub(super) const BATCH: usize = 16;

/// What a receive ring is short of.
pub(super) struct Supply {
    pool: Arc<Pool>,
    /// Buffers of the full ring.
    capacity: usize,
    /// Buffers the ring is short of, and those of them that it has not had yet since the boot.
    missing: usize,
    never_had: usize,
}

impl Supply {
    /// For an empty ring of `capacity` buffers. All but `at_once` of them come later, when it grows.
    pub(super) fn new(pool: Arc<Pool>, capacity: usize, at_once: usize) -> Self {
        Self {
            pool,
            capacity,
            missing: capacity,
            never_had: capacity.saturating_sub(at_once),
        }
    }

    /// Gives the ring as many buffers as it once had; to `grow`, some more until it is full. Each is handed to
    /// `post`, which says whether the ring took it. Returns how many it took.
    pub(super) fn refill(&mut self, grow: bool, mut post: impl FnMut(Buffer) -> bool) -> usize {
        if grow {
            self.never_had = self.never_had.saturating_sub(BATCH);
        }
        let before = self.missing;
        while self.missing > self.never_had {
            let Some(buffer) = self.pool.take() else {
                break;
            };
            if !post(buffer) {
                break;
            }
            self.missing -= 1;
        }
        before - self.missing
    }

    /// The ring has not had all of its buffers yet.
    pub(super) fn grows(&self) -> bool {
        self.never_had > 0
    }

    /// Buffers have left the ring.
    pub(super) fn took(&mut self, buffers: usize) {
        self.missing += buffers;
    }

    /// All buffers have left the ring.
    pub(super) fn took_all(&mut self) {
        self.missing = self.capacity;
    }

    /// It is worth the work to give the ring more: an eighth is gone.
    pub(super) fn is_short(&self) -> bool {
        self.missing >= self.never_had + self.capacity / 8
    }

    /// Buffers that nobody has.
    pub(super) fn available(&self) -> usize {
        self.pool.available()
    }

    /// Buffers the ring is short of.
    #[cfg(test)]
    pub(super) fn missing(&self) -> usize {
        self.missing
    }
}
