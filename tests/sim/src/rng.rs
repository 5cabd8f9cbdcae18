//! Chance as an input: one seed, and from it a stream of its own for every place that needs one.

/// A splitmix64 generator. Streams are split off by name, so that a draw more in one place does
/// not change what another place sees.
#[derive(Clone, Debug)]
pub struct Rng(u64);

/// The finaliser of splitmix64.
pub(crate) const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What splitmix64 adds per step: 2^64 divided by the golden ratio.
pub(crate) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Rng {
    /// A stream that depends on `seed` only.
    pub const fn new(seed: u64) -> Rng {
        Rng(mix(seed.wrapping_add(GOLDEN)))
    }

    /// A stream of its own for `purpose` (any two numbers that name it).
    pub fn split(&self, purpose: u64, index: u64) -> Rng {
        Rng::new(self.0 ^ mix(purpose.wrapping_mul(GOLDEN) ^ mix(index)))
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// A number below `bound`; zero if `bound` is zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            return 0;
        }
        ((u128::from(self.draw()) * u128::from(bound)) >> 64) as u64
    }

    /// True with a chance of `ppm` in a million. Draws nothing when `ppm` is zero.
    pub fn chance(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.below(1_000_000) < u64::from(ppm)
    }

    /// 32 bytes, for seeding an instance.
    pub fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        for chunk in seed.chunks_exact_mut(8) {
            chunk.copy_from_slice(&self.draw().to_le_bytes());
        }
        seed
    }
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn streams_of_one_seed_differ_and_repeat() {
        let root = Rng::new(7);
        let draw = |mut rng: Rng| (rng.draw(), rng.draw());
        assert_eq!(draw(root.split(1, 2)), draw(Rng::new(7).split(1, 2)));
        assert_ne!(draw(root.split(1, 2)), draw(root.split(2, 1)));
        assert_ne!(draw(root.split(1, 2)), draw(root.split(1, 3)));
    }

    #[test]
    fn chance_comes_out_near_its_rate() {
        let mut rng = Rng::new(1);
        let hits = (0..100_000).filter(|_| rng.chance(10_000)).count();
        assert!((800..1200).contains(&hits), "{hits} of 100000 at 1%");
    }
}
