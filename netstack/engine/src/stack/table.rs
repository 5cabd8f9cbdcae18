//! The table of connections: slots with generations, so that an id never names two connections.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::abandoned::Doubt;
use super::addresses::Hop;
use super::cut::Cut;
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

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    block: Option<Box<Block>>,
}

/// The table.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Where [`Table::sweep`] goes on.
    hand: usize,
    /// Where [`Table::next_in_turn`] goes on.
    turn: usize,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn insert(&mut self, block: Block) -> ConnId {
        let block = Some(Box::new(block));
        if let Some(index) = self.free.pop()
            && let Some(slot) = self.slots.get_mut(index as usize)
        {
            slot.block = block;
            return ConnId {
                index,
                generation: slot.generation,
            };
        }
        self.slots.push(Slot {
            generation: 0,
            block,
        });
        ConnId {
            index: (self.slots.len() - 1) as u32,
            generation: 0,
        }
    }

    pub(super) fn get(&self, id: ConnId) -> Option<&Block> {
        let slot = self.slots.get(id.index as usize)?;
        slot.block
            .as_deref()
            .filter(|_| slot.generation == id.generation)
    }

    pub(super) fn get_mut(&mut self, id: ConnId) -> Option<&mut Block> {
        let slot = self.slots.get_mut(id.index as usize)?;
        let current = slot.generation == id.generation;
        slot.block.as_deref_mut().filter(|_| current)
    }

    /// The connection in a slot at present, whichever it is.
    pub(super) fn at(&self, index: u32) -> Option<ConnId> {
        let slot = self.slots.get(index as usize)?;
        slot.block.as_ref().map(|_| ConnId {
            index,
            generation: slot.generation,
        })
    }

    /// Look at the next `steps` slots in turn, from where the last sweep ended: the first
    /// connection that is `wanted`.
    pub(super) fn sweep(
        &mut self,
        steps: usize,
        wanted: impl Fn(&Block) -> bool,
    ) -> Option<ConnId> {
        for _ in 0..steps.min(self.slots.len()) {
            self.hand = (self.hand + 1) % self.slots.len();
            let found = self.at(self.hand as u32);
            if found.is_some_and(|id| self.get(id).is_some_and(&wanted)) {
                return found;
            }
        }
        None
    }

    /// The connection in the next slot, if there is one in it: all of them in turn.
    pub(super) fn next_in_turn(&mut self) -> Option<&mut Block> {
        self.turn = (self.turn + 1) % self.slots.len().max(1);
        self.slots.get_mut(self.turn)?.block.as_deref_mut()
    }

    /// Read a little of the connection in a slot, so that the cache has it.
    pub(super) fn touch(&self, index: u32) -> u32 {
        let slot = self.slots.get(index as usize);
        slot.and_then(|slot| slot.block.as_deref())
            .map_or(0, |block| {
                u32::from(block.ready)
                    .wrapping_add(u32::from(block.armed.is_some()))
                    .wrapping_add(u32::from(block.next_hop.is_some()))
                    .wrapping_add(block.connection.touch())
            })
    }

    pub(super) fn remove(&mut self, id: ConnId) -> Option<Block> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.generation != id.generation {
            return None;
        }
        let block = slot.block.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.index);
        Some(*block)
    }
}
