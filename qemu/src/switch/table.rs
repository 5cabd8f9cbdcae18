//! Which port an Ethernet address was last seen on.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How many addresses are remembered; a flood of new ones must not grow the table.
const CAPACITY: usize = 4096;
/// How long an address that is not heard of is remembered.
const AGE: Duration = Duration::from_secs(300);

/// An Ethernet address.
pub(super) type Mac = [u8; 6];

/// The learned addresses.
#[derive(Debug, Default)]
pub(super) struct MacTable {
    entries: HashMap<Mac, (usize, Instant)>,
}

impl MacTable {
    /// `source` was heard on `port`.
    pub fn learn(&mut self, source: Mac, port: usize, now: Instant) {
        if is_group(source) {
            return;
        }
        if self.entries.len() >= CAPACITY && !self.entries.contains_key(&source) {
            self.entries
                .retain(|_, (_, heard)| now.duration_since(*heard) < AGE);
            if self.entries.len() >= CAPACITY {
                return;
            }
        }
        self.entries.insert(source, (port, now));
    }

    /// The port to send to, or `None` to flood.
    pub fn lookup(&self, destination: Mac, now: Instant) -> Option<usize> {
        let (port, heard) = self.entries.get(&destination)?;
        (now.duration_since(*heard) < AGE).then_some(*port)
    }
}

/// Broadcast and multicast addresses have the lowest bit of the first byte set.
fn is_group(mac: Mac) -> bool {
    mac[0] & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Mac = [2, 0, 0, 0, 0, 1];

    #[test]
    fn an_address_moves_with_its_last_frame() {
        let (mut table, now) = (MacTable::default(), Instant::now());
        table.learn(A, 1, now);
        table.learn(A, 2, now);
        assert_eq!(table.lookup(A, now), Some(2));
    }

    #[test]
    fn an_old_address_is_flooded_again() {
        let (mut table, now) = (MacTable::default(), Instant::now());
        table.learn(A, 1, now);
        assert_eq!(table.lookup(A, now + AGE), None);
    }

    #[test]
    fn a_flood_of_addresses_does_not_grow_the_table_or_evict_live_ones() {
        let (mut table, now) = (MacTable::default(), Instant::now());
        table.learn(A, 1, now);
        for n in 0..10_000u32 {
            let b = n.to_be_bytes();
            table.learn([6, 0, b[0], b[1], b[2], b[3]], 3, now);
        }
        assert!(table.entries.len() <= CAPACITY);
        assert_eq!(table.lookup(A, now), Some(1));
    }

    #[test]
    fn group_addresses_are_never_learned() {
        let (mut table, now) = (MacTable::default(), Instant::now());
        table.learn([0xff; 6], 1, now);
        assert_eq!(table.lookup([0xff; 6], now), None);
    }
}
