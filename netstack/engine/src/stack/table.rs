//! The table of connections.

use alloc::boxed::Box;

use super::abandoned::Doubt;
use super::addresses::Hop;
use super::cut::Cut;
use super::slots::{self, Slots};
use super::{ConnId, FlowKey};
use crate::tcp::Connection;
use crate::time::Instant;

/// A connection and what the stack keeps about it.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) connection: Connection,
    /// The neighbour its segments go to; chosen when the first is sent.
    pub(super) next_hop: Option<Hop>,
    /// A burst of it that is being cut into frames.
    pub(super) cut: Option<Box<Cut>>,
    /// Octets it counts for in the memory of all.
    pub(super) memory: usize,
    /// Its deadline in the timer queue.
    pub(super) armed: Option<Instant>,
    /// In the ready queue.
    pub(super) ready: bool,
    /// Waiting for a neighbour.
    pub(super) parked: bool,
    /// An event says that it was updated.
    pub(super) announced: bool,
    /// Whether its client still is at it.
    pub(super) doubt: Option<Box<Doubt>>,
}

impl Block {
    pub(super) fn flow(&self) -> FlowKey {
        self.connection.flow()
    }
}

/// The table.
#[derive(Debug)]
pub(super) struct Table {
    slots: Slots<Block>,
    /// Where [`Table::sweep`] goes on.
    hand: usize,
    /// Where [`Table::next_in_turn`] goes on.
    turn: usize,
}

fn id(number: u64) -> ConnId {
    let (index, generation) = slots::parts(number);
    ConnId { index, generation }
}

fn number(id: ConnId) -> u64 {
    slots::number(id.index, id.generation)
}

impl Table {
    pub(super) const fn new() -> Table {
        Table {
            slots: Slots::new(),
            hand: 0,
            turn: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn insert(&mut self, block: Block) -> ConnId {
        id(self.slots.insert(block))
    }

    pub(super) fn get(&self, id: ConnId) -> Option<&Block> {
        self.slots.get(number(id))
    }

    pub(super) fn get_mut(&mut self, id: ConnId) -> Option<&mut Block> {
        self.slots.get_mut(number(id))
    }

    /// The connection in a slot at present, whichever it is.
    pub(super) fn at(&self, index: u32) -> Option<ConnId> {
        self.slots.at(index).map(|(number, _)| id(number))
    }

    /// Look at the next `steps` slots in turn, from where the last sweep ended: the first
    /// connection that is `wanted`.
    pub(super) fn sweep(
        &mut self,
        steps: usize,
        wanted: impl Fn(&Block) -> bool,
    ) -> Option<ConnId> {
        for _ in 0..steps.min(self.slots.size()) {
            self.hand = (self.hand + 1) % self.slots.size();
            let found = self.slots.at(self.hand as u32);
            if let Some((number, _)) = found.filter(|(_, block)| wanted(block)) {
                return Some(id(number));
            }
        }
        None
    }

    /// The connection in the next slot, if there is one in it: all of them in turn.
    pub(super) fn next_in_turn(&mut self) -> Option<&mut Block> {
        self.turn = (self.turn + 1) % self.slots.size().max(1);
        self.slots.at_mut(self.turn)
    }

    /// Read a little of the connection in a slot, so that the cache has it.
    pub(super) fn touch(&self, index: u32) -> u32 {
        self.slots.at(index).map_or(0, |(_, block)| {
            u32::from(block.ready)
                .wrapping_add(u32::from(block.armed.is_some()))
                .wrapping_add(u32::from(block.next_hop.is_some()))
                .wrapping_add(block.connection.touch())
        })
    }

    pub(super) fn remove(&mut self, id: ConnId) -> Option<Block> {
        self.slots.remove(number(id))
    }
}
