//! A link in memory for our stacks: what a NIC's DMA engines do, in software.

use bytes::{Bytes, BytesMut};
use godwit_netstack::stack::{RxChecksum, RxFrame, TxFrame};

/// Octets of a block that receive buffers are cut from.
const BLOCK: usize = 128 * 1024;

/// Receive buffers cut from blocks that are used again once nobody holds a part of them.
#[derive(Debug, Default)]
pub struct Pool {
    current: Option<BytesMut>,
    used: Vec<BytesMut>,
    /// The frames that lie in the current block and were not taken yet, still without octets.
    waiting: Vec<(usize, RxFrame)>,
}

impl Pool {
    /// Gather a frame into one buffer. Those that do not fit into the same block go to `taken`
    /// first.
    pub fn push(&mut self, frame: &TxFrame, taken: &mut Vec<RxFrame>) {
        let octets = frame.len();
        let full = |block: &BytesMut| block.capacity() - block.len() < octets;
        if self.current.as_ref().is_none_or(full) {
            self.take(taken);
            self.next_block(octets);
        }
        let block = self.current.get_or_insert_default();
        block.extend_from_slice(&frame.head);
        for slice in &frame.payload {
            block.extend_from_slice(slice);
        }
        let mut received = RxFrame::new(Bytes::new());
        if frame.checksum.is_some() {
            received.checksum = RxChecksum::Verified;
        }
        received.segmentation = frame.segmentation;
        self.waiting.push((octets, received));
    }

    /// Move the frames gathered so far to `taken`.
    pub fn take(&mut self, taken: &mut Vec<RxFrame>) {
        let Some(block) = &mut self.current else {
            return;
        };
        let mut octets = block.split().freeze();
        for (length, mut frame) in self.waiting.drain(..) {
            frame.bytes = octets.split_to(length);
            taken.push(frame);
        }
    }

    /// The block used last that nobody holds a part of: the likeliest to be in the cache.
    fn next_block(&mut self, octets: usize) {
        if let Some(current) = self.current.take() {
            self.used.push(current);
        }
        let free = |block: &mut BytesMut| block.try_reclaim(BLOCK.max(octets));
        let free = (0..self.used.len())
            .rev()
            .find(|at| free(&mut self.used[*at]));
        self.current = Some(match free {
            Some(at) => self.used.remove(at),
            None => BytesMut::with_capacity(BLOCK.max(octets)),
        });
    }
}
