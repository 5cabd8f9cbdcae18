//! Randomness: a ChaCha20 generator, seeded from the processor and from virtio-rng.
//!
//! Seeds from different sources are combined, so each of them alone is enough. Without any source
//! there is no generator and [`fill`] fails: nothing here falls back to the clock.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::arch::x86_64::cpu;
use crate::dma::DeviceFault;
use crate::sync::Lock;

/// Output after which the key is replaced, so that memory read later does not tell what came
/// before.
const REKEY_AFTER: usize = 1 << 14;

static GENERATOR: Lock<Option<Generator>> = Lock::new(None);

/// There is no source of randomness that may be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoEntropy;

impl core::fmt::Display for NoEntropy {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("no entropy source (RDSEED, RDRAND or virtio-rng)")
    }
}

impl core::error::Error for NoEntropy {}

/// 256 bits from one source.
pub type Seed = [u8; 32];

struct Generator {
    rng: ChaCha20Rng,
    left: usize,
}

impl Generator {
    fn new(seed: Seed) -> Self {
        Self {
            rng: ChaCha20Rng::from_seed(seed),
            left: REKEY_AFTER,
        }
    }

    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(REKEY_AFTER) {
            if chunk.len() > self.left {
                let mut seed = Seed::default();
                self.rng.fill_bytes(&mut seed);
                *self = Self::new(seed);
            }
            self.rng.fill_bytes(chunk);
            self.left -= chunk.len().min(self.left);
        }
    }
}

/// Adds a seed to the generator, or starts it.
pub fn add_seed(mut seed: Seed) {
    let mut guard = GENERATOR.lock();
    if let Some(old) = guard.as_mut() {
        let mut mixed = Seed::default();
        old.fill(&mut mixed);
        for (byte, other) in seed.iter_mut().zip(mixed) {
            *byte ^= other;
        }
    }
    *guard = Some(Generator::new(seed));
}

/// Adds what a device has given; whether it has.
pub fn add_answer(answer: Result<Option<Seed>, DeviceFault>) -> bool {
    match answer {
        Ok(Some(seed)) => {
            add_seed(seed);
            return true;
        }
        Ok(None) => log::warn!("virtio-rng gives nothing"),
        Err(fault) => log::warn!("virtio-rng: {fault}"),
    }
    false
}

/// A seed from RDSEED, or from RDRAND where there is no RDSEED.
pub fn processor_seed() -> Option<Seed> {
    let draw = match cpu::rdseed() {
        Some(_) => cpu::rdseed,
        None => cpu::rdrand,
    };
    let mut seed = Seed::default();
    let mut previous = 0;
    for chunk in seed.chunks_exact_mut(8) {
        let value = draw()?;
        if value == previous {
            return None; // a generator that repeats itself is broken
        }
        previous = value;
        chunk.copy_from_slice(&value.to_le_bytes());
    }
    Some(seed)
}

/// Whether there is a generator.
pub fn ready() -> bool {
    GENERATOR.lock().is_some()
}

/// Fills `out` with random bytes fit for keys.
pub fn fill(out: &mut [u8]) -> Result<(), NoEntropy> {
    GENERATOR.lock().as_mut().ok_or(NoEntropy)?.fill(out);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_changes_without_repeating_output() {
        let mut generator = Generator::new([7; 32]);
        let mut first = vec![0; REKEY_AFTER];
        let mut second = vec![0; REKEY_AFTER];
        generator.fill(&mut first);
        generator.fill(&mut second);
        assert_ne!(first, second);
        let mut plain = Generator::new([7; 32]);
        let mut straight = vec![0; 2 * REKEY_AFTER];
        plain.rng.fill_bytes(&mut straight);
        assert_eq!(first[..], straight[..REKEY_AFTER]);
        assert_ne!(second[..], straight[REKEY_AFTER..]);
    }

    #[test]
    fn a_second_seed_does_not_replace_the_first() {
        // The generator is global: this test is the only one that touches it.
        assert_eq!(fill(&mut [0; 8]), Err(NoEntropy));
        add_seed([1; 32]);
        add_seed([0; 32]);
        let mut mixed = [0; 32];
        fill(&mut mixed).unwrap();
        let mut alone = [0; 32];
        Generator::new([0; 32]).fill(&mut alone);
        assert_ne!(mixed, alone);
    }
}
