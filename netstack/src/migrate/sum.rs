//! The check sum of capsule v1. Part of that format: never edited once released.
//!
//! It finds damage (a bad buffer, a truncated store), not malice: a capsule crosses machines only
//! inside an authenticated channel. Four lanes of 64-bit multiply-and-rotate over 32-octet blocks,
//! so that 64 KiB of payload cost a few microseconds. Each step is a bijection of its lane and of
//! its input word, so a single damaged word always changes its lane.

/// The first 256 bits of the golden ratio's fraction, each word made odd.
const FACTORS: [u64; 4] = [
    0x9E37_79B9_7F4A_7C15,
    0xF39C_C060_5CED_C835,
    0x1082_276B_F3A2_7251,
    0xF86C_6A11_D0C1_8E95,
];

const BLOCK: usize = 32;

/// A running check sum.
#[derive(Clone)]
pub struct Sum {
    lanes: [u64; 4],
    partial: [u8; BLOCK],
    filled: usize,
    total: u64,
}

impl Sum {
    /// The sum of nothing yet.
    pub fn new() -> Sum {
        Sum {
            lanes: FACTORS,
            partial: [0; BLOCK],
            filled: 0,
            total: 0,
        }
    }

    fn block(&mut self, block: &[u8; BLOCK]) {
        let (words, _) = block.as_chunks::<8>();
        for ((lane, word), factor) in self.lanes.iter_mut().zip(words).zip(FACTORS) {
            *lane = (*lane ^ u64::from_le_bytes(*word))
                .wrapping_mul(factor)
                .rotate_left(29);
        }
    }

    /// Add octets.
    pub fn update(&mut self, mut octets: &[u8]) {
        self.total = self.total.wrapping_add(octets.len() as u64);
        if self.filled > 0 {
            let count = octets.len().min(BLOCK - self.filled);
            let (head, rest) = octets.split_at(count);
            self.partial[self.filled..self.filled + count].copy_from_slice(head);
            self.filled += count;
            octets = rest;
            if self.filled < BLOCK {
                return;
            }
            let block = self.partial;
            self.block(&block);
            self.filled = 0;
        }
        let (blocks, rest) = octets.as_chunks::<BLOCK>();
        for block in blocks {
            self.block(block);
        }
        self.partial[..rest.len()].copy_from_slice(rest);
        self.filled = rest.len();
    }

    /// The sum: the last block padded with zeros, the lanes and the length mixed into 32 bits.
    pub fn finish(mut self) -> u32 {
        self.partial[self.filled..].fill(0);
        let block = self.partial;
        self.block(&block);
        let mut sum = self.total;
        for (lane, factor) in self.lanes.into_iter().zip(FACTORS) {
            sum = (sum ^ lane).wrapping_mul(factor);
            sum ^= sum >> 32;
        }
        sum as u32
    }
}

impl Default for Sum {
    fn default() -> Sum {
        Sum::new()
    }
}

#[cfg(test)]
mod tests {
    use super::Sum;
    use alloc::vec::Vec;

    fn sum(octets: &[u8]) -> u32 {
        let mut sum = Sum::new();
        sum.update(octets);
        sum.finish()
    }

    #[test]
    fn the_split_into_updates_does_not_matter() {
        let octets: Vec<u8> = (0..200u8).collect();
        for cut in 0..octets.len() {
            let mut parts = Sum::new();
            parts.update(&octets[..cut]);
            parts.update(&octets[cut..]);
            assert_eq!(parts.finish(), sum(&octets), "cut at {cut}");
        }
    }

    #[test]
    fn every_single_bit_flip_and_added_zero_is_seen() {
        let mut octets: Vec<u8> = (0..100u8).collect();
        let whole = sum(&octets);
        for bit in 0..octets.len() * 8 {
            octets[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(sum(&octets), whole, "bit {bit}");
            octets[bit / 8] ^= 1 << (bit % 8);
        }
        octets.push(0);
        assert_ne!(sum(&octets), whole);
    }

    #[test]
    fn the_sum_is_frozen() {
        assert_eq!(sum(b""), 2_281_878_651);
        assert_eq!(sum(b"godwit"), 1_358_945_086);
    }
}
