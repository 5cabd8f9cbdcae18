//! A keyed hasher: SipHash-1-3, so that nobody outside can choose addresses that collide.

use core::hash::{BuildHasher, Hasher};

/// Builds [`SipHasher`]s with one secret key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keyed {
    key: [u64; 2],
}

impl Keyed {
    /// A builder for `key`.
    pub(super) fn new(key: [u64; 2]) -> Keyed {
        Keyed { key }
    }

    /// The hash of a few words.
    pub(super) fn hash_words(&self, words: &[u64]) -> u64 {
        let mut hasher = self.build_hasher();
        for word in words {
            hasher.write_u64(*word);
        }
        hasher.finish()
    }
}

impl BuildHasher for Keyed {
    type Hasher = SipHasher;

    fn build_hasher(&self) -> SipHasher {
        let [k0, k1] = self.key;
        SipHasher {
            state: [
                k0 ^ 0x736f_6d65_7073_6575,
                k1 ^ 0x646f_7261_6e64_6f6d,
                k0 ^ 0x6c79_6765_6e65_7261,
                k1 ^ 0x7465_6462_7974_6573,
            ],
            tail: 0,
            length: 0,
        }
    }
}

/// SipHash with one round per word and three at the end.
#[derive(Clone, Debug)]
pub(super) struct SipHasher {
    state: [u64; 4],
    /// Octets that do not fill a word yet, the first in the lowest place.
    tail: u64,
    length: u64,
}

impl SipHasher {
    #[inline]
    fn round(state: &mut [u64; 4]) {
        let [mut a, mut b, mut c, mut d] = *state;
        a = a.wrapping_add(b);
        b = b.rotate_left(13) ^ a;
        a = a.rotate_left(32);
        c = c.wrapping_add(d);
        d = d.rotate_left(16) ^ c;
        a = a.wrapping_add(d);
        d = d.rotate_left(21) ^ a;
        c = c.wrapping_add(b);
        b = b.rotate_left(17) ^ c;
        c = c.rotate_left(32);
        *state = [a, b, c, d];
    }

    #[inline]
    fn absorb(&mut self, word: u64) {
        self.state[3] ^= word;
        Self::round(&mut self.state);
        self.state[0] ^= word;
    }
}

impl Hasher for SipHasher {
    fn write(&mut self, mut octets: &[u8]) {
        if self.length & 7 == 0 {
            while let Some((word, rest)) = octets.split_first_chunk::<8>() {
                self.length = self.length.wrapping_add(8);
                self.absorb(u64::from_le_bytes(*word));
                octets = rest;
            }
        }
        for &octet in octets {
            self.tail |= u64::from(octet) << (8 * (self.length & 7));
            self.length = self.length.wrapping_add(1);
            if self.length & 7 == 0 {
                let word = self.tail;
                self.tail = 0;
                self.absorb(word);
            }
        }
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        if self.length & 7 == 0 {
            self.length = self.length.wrapping_add(8);
            self.absorb(word);
        } else {
            self.write(&word.to_le_bytes());
        }
    }

    fn finish(&self) -> u64 {
        let mut last = self.clone();
        last.absorb(self.tail | (self.length << 56));
        last.state[2] ^= 0xff;
        for _ in 0..3 {
            Self::round(&mut last.state);
        }
        let [a, b, c, d] = last.state;
        a ^ b ^ c ^ d
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_siphash_1_3_in_whatever_pieces() {
        // The standard library's hasher is SipHash-1-3, with a key of zero here.
        let octets: Vec<u8> = (0..63).collect();
        for length in 0..octets.len() {
            let mut reference = std::hash::DefaultHasher::new();
            reference.write(&octets[..length]);
            for cut in [0, length / 3, length] {
                let mut ours = Keyed::new([0, 0]).build_hasher();
                ours.write(&octets[..cut]);
                ours.write(&octets[cut..length]);
                assert_eq!(ours.finish(), reference.finish(), "{length} octets");
            }
        }
        let mut words = std::hash::DefaultHasher::new();
        words.write(&7u64.to_le_bytes());
        words.write(&9u64.to_le_bytes());
        assert_eq!(Keyed::new([0, 0]).hash_words(&[7, 9]), words.finish());
        assert_ne!(Keyed::new([0, 1]).hash_words(&[7, 9]), words.finish());
    }

    #[test]
    fn a_single_bit_changes_about_half_of_the_hash() {
        let keyed = Keyed::new([0x0123_4567_89ab_cdef, 42]);
        let base = keyed.hash_words(&[0, 0, 0, 0, 0]);
        let mut flipped = 0;
        for word in 0..5 {
            for bit in 0..64 {
                let mut words = [0u64; 5];
                words[word] = 1 << bit;
                flipped += (keyed.hash_words(&words) ^ base).count_ones();
            }
        }
        let mean = f64::from(flipped) / 320.0;
        assert!((30.0..34.0).contains(&mean), "{mean}");
    }
}
