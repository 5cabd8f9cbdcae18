//! The SYN cookies that were given and have opened nothing yet, for as long as they may be good: a segment
//! that acknowledges one, and does not bring it back, is behind the octets that do, which may come yet.
//!
//! A hint only, of a fixed size: one that is given later may take the place of one that is still out. Then
//! what comes too early is answered as if there had been none, with an RST.

use alloc::vec::Vec;

use super::flows::Packed;
use super::hash::Keyed;
use super::listen::COOKIE_LIFE;
use crate::seq::SeqNumber;
use crate::time::Instant;

/// Cookies there is a place for: 16 KiB of them.
const PLACES: usize = 1 << 10;
/// Sets these hashes apart from others under the same key: `given`.
const GIVEN: u64 = 0x67_6976_656e;

/// A cookie's hash, and when it was given.
#[derive(Clone, Copy, Debug)]
struct Place {
    hash: u64,
    at: Instant,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Given {
    keyed: Keyed,
    /// None before the first cookie is given, which may be never.
    places: Vec<Option<Place>>,
}

impl Given {
    /// Nothing yet.
    pub(super) fn new(keyed: Keyed) -> Given {
        Given {
            keyed,
            places: Vec::new(),
        }
    }

    fn hash(&self, flow: &Packed, iss: SeqNumber) -> u64 {
        let [a, b, c, d, e] = *flow.words();
        let number = GIVEN << 32 ^ u64::from(iss.raw());
        self.keyed.hash_words(&[a, b, c, d, e, number])
    }

    /// The flow's SYN was answered with this number, and that is all there is of it.
    pub(super) fn add(&mut self, now: Instant, flow: &Packed, iss: SeqNumber) {
        if self.places.is_empty() && self.places.try_reserve_exact(PLACES).is_ok() {
            self.places.resize(PLACES, None);
        }
        let hash = self.hash(flow, iss);
        if let Some(place) = self.places.get_mut(hash as usize % PLACES) {
            *place = Some(Place { hash, at: now });
        }
    }

    /// It has opened a connection, or may not any more.
    pub(super) fn remove(&mut self, flow: &Packed, iss: SeqNumber) {
        let hash = self.hash(flow, iss);
        if let Some(place) = self.places.get_mut(hash as usize % PLACES) {
            place.take_if(|place| place.hash == hash);
        }
    }

    /// Whether it is known to be out.
    pub(super) fn has(&self, now: Instant, flow: &Packed, iss: SeqNumber) -> bool {
        let hash = self.hash(flow, iss);
        let place = self.places.get(hash as usize % PLACES);
        let out = |place: &Place| place.hash == hash && now.since(place.at) < COOKIE_LIFE;
        place.is_some_and(|place| place.as_ref().is_some_and(out))
    }
}

#[cfg(test)]
mod tests {
    use super::super::flows;
    use super::*;
    use crate::time::Duration;

    fn packed(port: u16) -> Packed {
        let ip = |last| core::net::IpAddr::from([10, 0, 0, last]);
        Packed::new(&flows::flow((ip(2), 80), (ip(1), port)))
    }

    #[test]
    fn a_cookie_is_out_for_its_flow_until_it_is_taken_or_too_old() {
        let mut given = Given::new(Keyed::new([1, 2]));
        let (now, iss) = (Instant::from_millis(7), SeqNumber::new(5));
        assert!(!given.has(now, &packed(1), iss));
        for port in [1, 2] {
            given.add(now, &packed(port), iss);
        }
        given.remove(&packed(2), iss);
        given.remove(&packed(1), iss.add(1));
        let last = now + COOKIE_LIFE - Duration::from_millis(1);
        for at in [now, last] {
            assert!(given.has(at, &packed(1), iss));
            assert!(!given.has(at, &packed(2), iss));
            assert!(!given.has(at, &packed(1), iss.add(1)));
        }
        assert!(!given.has(now + COOKIE_LIFE, &packed(1), iss));
    }

    #[test]
    fn a_flood_takes_no_more_memory() {
        let mut given = Given::new(Keyed::new([1, 2]));
        for port in 0..u16::MAX {
            given.add(Instant::ZERO, &packed(port), SeqNumber::new(9));
        }
        assert_eq!(given.places.len(), PLACES);
        assert!(size_of_val(given.places.as_slice()) <= 16 << 10);
        // The last ones are still known, most of them.
        let known = |port: &u16| given.has(Instant::ZERO, &packed(*port), SeqNumber::new(9));
        let known = (u16::MAX - 100..u16::MAX).filter(known).count();
        assert!(known > 80, "{known}");
    }
}
