//! Export and import of the receive side.

use alloc::vec::Vec;

use super::super::TcpConfig;
use super::super::connection::{MAX_SCALE, largest_buffer};
use super::super::options::SackRange;
use super::super::queue::ByteQueue;
use super::super::rcv::{Accepted, Block, Rcv, RcvFin};
use super::{ImportError, Queues, RcvEnd, RcvHeader, ensure};

impl Rcv {
    #[inline]
    pub(super) fn export(self, queues: &mut Queues) -> RcvHeader {
        let Rcv {
            irs,           // carried
            nxt,           // carried
            edge,          // carried: it must not move back
            scale,         // carried
            buffer,        // carried, within the target's bounds
            least: _,      // rebuilt: the target's policy
            most: _,       // rebuilt: the target's policy
            tuned_at: _,   // dropped because it only measures one round trip
            tuned_from: _, // dropped because it only measures one round trip
            queue,         // carried: octets beside the header
            blocks,        // carried: octets beside the header
            block_clock,   // carried as the blocks' order
            fin,           // carried
            last_ack,      // carried
            duplicate,     // carried
            unacked,       // carried
            full_size,     // carried
            quick,         // carried
            discard,       // carried
            lost,          // carried
            held: _,       // dropped because it is held for the sake of the move
        } = self;
        let header = RcvHeader {
            irs,
            nxt,
            edge,
            scale,
            buffer,
            offset: queue.end(),
            end: match fin {
                RcvFin::Open => RcvEnd::Open,
                RcvFin::Ahead(seq) => RcvEnd::Ahead(seq),
                RcvFin::Received => RcvEnd::Received,
            },
            last_ack,
            duplicate: duplicate.map(|range| (range.start, range.end)),
            unacked,
            full_size,
            quick,
            discard,
            lost,
        };
        queues.unread = queue.into_chunks();
        // The oldest first.
        let age = |block: &Block| block_clock.wrapping_sub(block.stamp);
        let mut in_order: Vec<Block> = Vec::with_capacity(blocks.len());
        for block in blocks {
            let older = |other: &Block| age(other) > age(&block);
            in_order.insert(in_order.partition_point(older), block);
        }
        for block in in_order {
            let Block {
                start,
                end: _,   // rebuilt from the octets
                stamp: _, // carried as the blocks' order
                floor: _, // dropped: PAWS is as strict as it can be after a move
                data,
            } = block;
            let mut at = start.distance_from(nxt);
            for piece in data {
                let len = piece.len() as u32;
                queues.out_of_order.push((at, piece));
                at += len;
            }
        }
        header
    }
}

impl RcvHeader {
    #[inline]
    pub(super) fn import(
        self,
        config: &TcpConfig,
        queues: &mut Queues,
    ) -> Result<Rcv, ImportError> {
        ensure(self.scale <= MAX_SCALE, ImportError::Scale)?;
        let window = self.edge.distance_from(self.nxt);
        ensure(
            window <= 0xffff << self.scale && self.offset <= u64::MAX / 2,
            ImportError::ReceiveSequence,
        )?;
        let unread: u64 = queues.unread.iter().map(|piece| piece.len() as u64).sum();
        // Everything promised so far has to fit, whatever the buffer here: what the peer was told
        // it may send cannot be taken back.
        let promised = unread + u64::from(window);
        let buffer = largest_buffer(config);
        let limit = u64::from(buffer) + u64::from(buffer / 8) + (1 << self.scale);
        ensure(promised <= limit, ImportError::WindowTooLarge)?;
        let recent = self.nxt.distance_from(self.last_ack);
        ensure(
            unread <= self.offset && recent <= 1 << 30,
            ImportError::ReceiveSequence,
        )?;
        let fin = match self.end {
            RcvEnd::Open => RcvFin::Open,
            RcvEnd::Ahead(seq) => {
                let distance = seq.distance_from(self.nxt);
                ensure(
                    distance > 0 && distance <= window,
                    ImportError::ReceiveSequence,
                )?;
                RcvFin::Ahead(seq)
            }
            RcvEnd::Received => RcvFin::Received,
        };
        let mut queue = ByteQueue::new(self.offset - unread);
        for piece in core::mem::take(&mut queues.unread) {
            queue.push(piece);
        }
        let express = 0xffff << self.scale;
        let buffer_here = self.buffer.clamp(config.receive_buffer, buffer);
        let mut rcv = Rcv {
            irs: self.irs,
            nxt: self.nxt,
            edge: self.edge,
            scale: self.scale,
            // Without scaling the window cannot express more than 16 bits.
            buffer: buffer_here.min(express),
            least: config.receive_buffer.min(express),
            most: buffer.min(express),
            tuned_at: None,
            tuned_from: (self.offset - unread) as u32,
            queue,
            blocks: Vec::new(),
            block_clock: 0,
            fin,
            last_ack: self.last_ack,
            duplicate: None,
            unacked: self.unacked.min(1 << 30),
            full_size: self.full_size.max(1),
            quick: self.quick,
            discard: self.discard,
            lost: self.discard && self.lost,
            held: false,
        };
        for (distance, piece) in core::mem::take(&mut queues.out_of_order) {
            let end = u64::from(distance) + piece.len() as u64;
            let inside = distance > 0 && !piece.is_empty() && end <= u64::from(window);
            ensure(inside && fin != RcvFin::Received, ImportError::OutOfOrder)?;
            let kept = rcv.accept(self.nxt.add(distance), piece);
            ensure(kept == Accepted::OutOfOrder, ImportError::OutOfOrder)?;
        }
        rcv.duplicate = match self.duplicate {
            Some((start, end)) if start.before(end) => Some(SackRange { start, end }),
            _ => None,
        };
        Ok(rcv)
    }
}
