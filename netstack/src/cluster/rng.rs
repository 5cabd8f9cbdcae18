//! Random octets from a seed: SHA-256 in counter mode with fast key erasure.
//!
//! The seed is an input of the instance, so a simulation replays. Whoever reads the state later
//! learns nothing of what was drawn before.

use sha2::{Digest, Sha256};

/// A generator of random octets.
#[derive(Clone)]
pub struct Rng {
    key: [u8; 32],
    block: [u8; 32],
    used: usize,
    counter: u64,
}

fn digest(label: &[u8], key: &[u8; 32], counter: u64) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(label);
    hash.update(key);
    hash.update(counter.to_le_bytes());
    hash.finalize().into()
}

impl Rng {
    /// A generator whose draws all follow from `seed`; generators with different labels are
    /// independent of each other.
    pub fn new(seed: &[u8; 32], label: &[u8]) -> Rng {
        Rng {
            key: digest(label, seed, 0),
            block: [0; 32],
            used: 32,
            counter: 0,
        }
    }

    /// Fill `out` with random octets.
    pub fn fill(&mut self, out: &mut [u8]) {
        for octet in out {
            if self.used == self.block.len() {
                self.block = digest(b"block", &self.key, self.counter);
                self.key = digest(b"key", &self.key, self.counter);
                self.counter = self.counter.wrapping_add(1);
                self.used = 0;
            }
            *octet = core::mem::take(&mut self.block[self.used]);
            self.used += 1;
        }
    }

    /// Random octets.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }

    /// A random number below `bound` (0 if `bound` is 0); the bias for bounds far below 2^64 does
    /// not matter to its uses.
    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 {
            return 0;
        }
        (u64::from_le_bytes(self.array()) % bound as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn draws_follow_from_the_seed_and_the_label_alone() {
        let draw = |seed: u8, label: &[u8]| Rng::new(&[seed; 32], label).array::<48>();
        assert_eq!(draw(1, b"a"), draw(1, b"a"));
        assert_ne!(draw(1, b"a"), draw(1, b"b"));
        assert_ne!(draw(1, b"a"), draw(2, b"a"));
        let drawn = draw(1, b"a");
        assert_ne!(drawn[..16], drawn[32..], "blocks differ");
    }
}
