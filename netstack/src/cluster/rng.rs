//! Random octets from a seed: ChaCha20 with fast key erasure.
//!
//! The seed is an input of the instance, so a simulation replays. Whoever reads the state later
//! learns nothing of what was drawn before. It is the generator that the kernel has for its own
//! draws, too: an emulated boot has to translate one of them only.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// What the cipher gives at a time, however little is asked for.
const DRAWN: usize = 256;
const KEY: usize = 32;

/// A generator of random octets.
#[derive(Clone)]
pub struct Rng {
    stream: u64,
    /// The next draw's key, then octets that have not been given out. Those before `used` are wiped.
    drawn: [u8; DRAWN],
    used: usize,
}

impl Rng {
    /// A generator whose draws all follow from `seed`; generators with different labels are
    /// independent of each other.
    pub fn new(seed: &[u8; KEY], label: [u8; 8]) -> Rng {
        let mut drawn = [0; DRAWN];
        drawn[..KEY].copy_from_slice(seed);
        Rng {
            stream: u64::from_le_bytes(label),
            drawn,
            used: DRAWN,
        }
    }

    fn draw(&mut self) {
        let mut key = [0; KEY];
        key.copy_from_slice(&self.drawn[..KEY]);
        let mut cipher = ChaCha20Rng::from_seed(key);
        cipher.set_stream(self.stream);
        cipher.fill_bytes(&mut self.drawn);
        self.used = KEY;
    }

    /// Fill `out` with random octets.
    pub fn fill(&mut self, out: &mut [u8]) {
        for octet in out {
            if self.used == self.drawn.len() {
                self.draw();
            }
            *octet = core::mem::take(&mut self.drawn[self.used]);
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
        let draw = |seed: u8, label| Rng::new(&[seed; 32], label).array::<480>();
        assert_eq!(draw(1, *b"one     "), draw(1, *b"one     "));
        assert_ne!(draw(1, *b"one     "), draw(1, *b"another "));
        assert_ne!(draw(1, *b"one     "), draw(2, *b"one     "));
        let drawn = draw(1, *b"one     ");
        assert_ne!(
            drawn[..224],
            drawn[224..448],
            "one draw differs from the next"
        );
    }

    #[test]
    fn the_state_tells_nothing_of_what_was_drawn() {
        let mut rng = Rng::new(&[7; 32], *b"instance");
        let drawn: [u8; 40] = rng.array();
        for piece in drawn.windows(8) {
            assert!(!rng.drawn.windows(8).any(|kept| kept == piece));
        }
        assert!(
            !rng.drawn.windows(8).any(|kept| kept == [7; 8]),
            "nor of the seed"
        );
    }
}
