//! The SYN cookies of connections that are over, for as long as they are good: what a client repeats of
//! such a connection still carries its cookie, and would open it anew.
//!
//! Only connections get in here, so only complete handshakes. A cookie costs eight octets, in tables that
//! come one after another and go as a whole, the oldest first: when all in them are out of date, or when
//! there is no more memory. Tables grow with what is remembered, so that few have to be looked at.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::flows::Packed;
use super::hash::Keyed;
use super::listen::COOKIE_LIFE;
use crate::tcp::isn::Cookie;
use crate::time::{Duration, Instant};

/// Places of the first table.
const LEAST: usize = 64;
/// Tables there are room for at least, once they have grown.
const PARTS: usize = 8;
/// Sets these hashes apart from others under the same secret: `spent`.
const SPENT: u64 = 0x73_7065_6e74;

/// A table with open addressing: zero is a free place.
#[derive(Debug)]
struct Table {
    places: Vec<u64>,
    taken: usize,
    /// When the last of its cookies is out of date.
    until: Instant,
}

impl Table {
    fn is_full(&self) -> bool {
        self.taken * 4 >= self.places.len() * 3
    }

    /// The place where `hash` is or would be.
    fn place(&self, hash: u64) -> Option<usize> {
        let mask = self.places.len().checked_sub(1)?;
        let mut at = hash as usize & mask;
        for _ in 0..=mask {
            match self.places.get(at).copied() {
                Some(found) if found != 0 && found != hash => at = (at + 1) & mask,
                _ => return Some(at),
            }
        }
        None
    }

    fn has(&self, hash: u64) -> bool {
        let place = self.place(hash);
        place.is_some_and(|at| self.places.get(at) == Some(&hash))
    }

    fn put(&mut self, hash: u64) {
        if let Some(at) = self.place(hash)
            && let Some(place) = self.places.get_mut(at)
        {
            self.taken += usize::from(*place == 0);
            *place = hash;
        }
    }
}

/// Two words that follow from a secret, and say nothing of it.
fn words(secret: &[u8; 32]) -> [u64; 2] {
    let (octets, _) = secret.as_chunks::<8>();
    let mut key = [0; 4];
    for (word, octets) in key.iter_mut().zip(octets) {
        *word = u64::from_le_bytes(*octets);
    }
    let [a, b, c, d] = key;
    // Initial numbers are made with the same secret, of other texts.
    let derived = |n| Keyed::new([a, b]).hash_words(&[c, d, SPENT, n]);
    [derived(0), derived(1)]
}

/// All of them.
#[derive(Debug)]
pub(super) struct Spent {
    keyed: Keyed,
    /// The oldest first.
    tables: VecDeque<Table>,
    /// Places in all of them, and how many there may be.
    places: usize,
    most: usize,
}

impl Spent {
    /// Nothing yet, and never more than `octets` of it (but for the first table). Instances that share
    /// `secret` remember a cookie by the same hash.
    pub(super) fn new(secret: &[u8; 32], octets: usize) -> Spent {
        Spent {
            keyed: Keyed::new(words(secret)),
            tables: VecDeque::new(),
            places: 0,
            most: octets / size_of::<u64>(),
        }
    }

    fn hash(&self, flow: &Packed, cookie: Cookie) -> u64 {
        let [a, b, c, d, e] = *flow.words();
        let numbers = u64::from(cookie.irs.raw()) << 32 | u64::from(cookie.iss.raw());
        self.keyed.hash_words(&[a, b, c, d, e, numbers]).max(1)
    }

    /// Remember that a cookie is spent. Returns how many were forgotten for it that are not out of date.
    pub(super) fn add(&mut self, now: Instant, flow: &Packed, cookie: Cookie) -> usize {
        let hash = self.hash(flow, cookie);
        self.add_hash(now, now + COOKIE_LIFE, hash)
    }

    /// The same until then, by the cookie's hash.
    pub(super) fn add_hash(&mut self, now: Instant, until: Instant, hash: u64) -> usize {
        while self.tables.front().is_some_and(|table| table.until <= now) {
            self.drop_oldest();
        }
        let mut forgotten = 0;
        if self.tables.back().is_none_or(Table::is_full) {
            let places = self.next_size();
            while self.places + places > self.most && !self.tables.is_empty() {
                forgotten += self.drop_oldest();
            }
            let mut table = Table {
                places: Vec::new(),
                taken: 0,
                until: now,
            };
            if table.places.try_reserve_exact(places).is_err() {
                return forgotten + 1;
            }
            table.places.resize(places, 0);
            self.places += places;
            self.tables.push_back(table);
        }
        if let Some(table) = self.tables.back_mut() {
            // Zero is a free place.
            table.put(hash.max(1));
            table.until = table.until.max(until);
        }
        forgotten
    }

    /// The hashes in each table that is not out of date, and for how long they count yet.
    pub(super) fn parts(&self, now: Instant) -> impl Iterator<Item = (Duration, Vec<u64>)> {
        let tables = self.tables.iter().filter(move |table| table.until > now);
        tables.map(move |table| {
            let hashes = table.places.iter().filter(|hash| **hash != 0);
            (table.until.since(now), hashes.copied().collect())
        })
    }

    /// Places of the next table: as many as there are, within bounds.
    fn next_size(&self) -> usize {
        let most = (self.most / PARTS).max(LEAST);
        // A power of two, for the mask; not above the bound.
        let most = 1 << most.ilog2();
        self.places.next_power_of_two().clamp(LEAST, most)
    }

    /// Cookies there is memory for at present.
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.places
    }

    fn drop_oldest(&mut self) -> usize {
        let Some(table) = self.tables.pop_front() else {
            return 0;
        };
        self.places -= table.places.len();
        table.taken
    }

    /// Whether a cookie is known to be spent.
    pub(super) fn has(&self, now: Instant, flow: &Packed, cookie: Cookie) -> bool {
        let hash = self.hash(flow, cookie);
        let mut tables = self.tables.iter().rev();
        tables.any(|table| table.until > now && table.has(hash))
    }
}

#[cfg(test)]
mod tests {
    use core::net::{IpAddr, Ipv4Addr};

    use super::super::flows;
    use super::*;
    use crate::seq::SeqNumber;

    fn packed(client: u32) -> Packed {
        let local = (IpAddr::from([10, 0, 0, 2]), 80);
        let remote = (
            Ipv4Addr::from_bits(client >> 8).into(),
            client as u16 & 0xff,
        );
        Packed::new(&flows::flow(local, remote))
    }

    fn cookie(irs: u32, iss: u32) -> Cookie {
        Cookie {
            irs: SeqNumber::new(irs),
            iss: SeqNumber::new(iss),
        }
    }

    fn spent(octets: usize) -> Spent {
        Spent::new(&[3; 32], octets)
    }

    #[test]
    fn a_cookie_is_spent_for_its_own_flow_and_numbers_only() {
        let mut spent = spent(1 << 20);
        spent.add(Instant::ZERO, &packed(1), cookie(7, 8));
        assert!(spent.has(Instant::ZERO, &packed(1), cookie(7, 8)));
        for (client, irs, iss) in [(2, 7, 8), (1, 8, 7), (1, 7, 9), (1, 6, 8)] {
            assert!(!spent.has(Instant::ZERO, &packed(client), cookie(irs, iss)));
        }
    }

    #[test]
    fn a_hundred_thousand_are_all_known_until_they_are_out_of_date() {
        let mut spent = spent(8 << 20);
        for client in 0..100_000 {
            assert_eq!(spent.add(Instant::ZERO, &packed(client), cookie(1, 2)), 0);
        }
        let last = Instant::ZERO + COOKIE_LIFE;
        for client in 0..100_000 {
            assert!(spent.has(Instant::ZERO, &packed(client), cookie(1, 2)));
            assert!(!spent.has(last, &packed(client), cookie(1, 2)));
        }
        let others = 100_000..200_000;
        assert!(others.into_iter().all(|client| !spent.has(
            Instant::ZERO,
            &packed(client),
            cookie(1, 2)
        )));
        assert!(spent.tables.len() <= 16, "{}", spent.tables.len());
        spent.add(last, &packed(0), cookie(1, 2));
        assert_eq!((spent.tables.len(), spent.places), (1, LEAST));
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_go_first() {
        let octets = 64 << 10;
        let mut spent = spent(octets);
        let mut forgotten = 0;
        for client in 0..100_000 {
            forgotten += spent.add(Instant::ZERO, &packed(client), cookie(1, 2));
            let places: usize = spent.tables.iter().map(|table| table.places.len()).sum();
            assert_eq!(places, spent.places);
            assert!(places * 8 <= octets, "{places} places");
        }
        let known = |client| spent.has(Instant::ZERO, &packed(client), cookie(1, 2));
        let first = (0..100_000).find(|client| known(*client)).unwrap();
        assert_eq!(first as usize, forgotten);
        assert!((first..100_000).all(known));
        assert!(100_000 - first >= 5_000, "{first}");
    }

    #[test]
    fn the_least_memory_still_remembers_some() {
        let mut spent = spent(0);
        for client in 0..1_000 {
            spent.add(Instant::ZERO, &packed(client), cookie(1, 2));
            assert!(spent.has(Instant::ZERO, &packed(client), cookie(1, 2)));
            assert_eq!(spent.tables.len(), 1);
        }
    }

    #[test]
    fn the_same_cookie_again_takes_no_room() {
        let mut spent = spent(1 << 20);
        for _ in 0..10_000 {
            spent.add(Instant::ZERO, &packed(1), cookie(7, 8));
        }
        assert_eq!(spent.places, LEAST);
    }

    #[test]
    fn what_one_remembers_another_takes_over_for_what_is_left_of_its_time() {
        let mut former = spent(1 << 20);
        for client in 0..1_000 {
            former.add(Instant::ZERO, &packed(client), cookie(1, 2));
        }
        let now = Instant::ZERO + COOKIE_LIFE / 2;
        let mut heir = spent(1 << 20);
        heir.add(now, &packed(5_000), cookie(3, 4));
        let parts: Vec<(Duration, Vec<u64>)> = former.parts(now).collect();
        for (left, hashes) in parts {
            assert_eq!(left, COOKIE_LIFE / 2);
            for hash in hashes {
                assert_eq!(heir.add_hash(now, now + left, hash), 0);
            }
        }
        assert!((0..1_000).all(|client| heir.has(now, &packed(client), cookie(1, 2))));
        assert!(heir.has(now, &packed(5_000), cookie(3, 4)));
        assert!(!heir.has(now, &packed(1_000), cookie(1, 2)));
        let last = now + COOKIE_LIFE;
        assert_eq!(former.parts(last).count(), 0);
        // Of another secret it is of no use, and does no harm.
        let mut stranger = Spent::new(&[4; 32], 1 << 20);
        let hashes = former.parts(now).flat_map(|(_, hashes)| hashes);
        for hash in hashes.collect::<Vec<u64>>() {
            stranger.add_hash(now, last, hash);
        }
        assert!(!stranger.has(now, &packed(1), cookie(1, 2)));
    }
}
