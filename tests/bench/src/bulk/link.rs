//! A link in memory for our stacks: what a NIC's DMA engines do, in software.

use std::collections::VecDeque;

use bytes::BytesMut;
use godwit_netstack::stack::{RxChecksum, RxFrame, TxFrame};

/// Octets of a block that receive buffers are cut from.
const BLOCK: usize = 256 * 1024;

/// Receive buffers cut from blocks that are used again once nobody holds a part of them.
#[derive(Debug, Default)]
pub struct Pool {
    current: Option<BytesMut>,
    used: VecDeque<BytesMut>,
}

impl Pool {
    /// A frame with these contents, gathered into one buffer.
    pub fn gather(&mut self, frame: &TxFrame) -> RxFrame {
        let octets = frame.len();
        let full = |block: &BytesMut| block.capacity() < octets;
        if self.current.as_ref().is_none_or(full) {
            self.next_block(octets);
        }
        let block = self.current.get_or_insert_default();
        block.extend_from_slice(&frame.head);
        for slice in &frame.payload {
            block.extend_from_slice(slice);
        }
        let mut received = RxFrame::new(block.split().freeze());
        if frame.checksum.is_some() {
            received.checksum = RxChecksum::Verified;
        }
        received.segmentation = frame.segmentation;
        received
    }

    fn next_block(&mut self, octets: usize) {
        if let Some(current) = self.current.take() {
            self.used.push_back(current);
        }
        // The oldest is the likeliest to be free.
        if let Some(mut block) = self.used.pop_front() {
            if block.try_reclaim(BLOCK) {
                self.current = Some(block);
                return;
            }
            self.used.push_front(block);
        }
        self.current = Some(BytesMut::with_capacity(BLOCK.max(octets)));
    }
}
