//! Files of any size with known content (version 2), so that a client can tell whether it got
//! every byte without the server carrying the file.
//!
//! The file is a sequence of 64-bit little-endian words, the last of which is cut to the file's size.
//! With `mix(n)` the SplitMix64 finaliser of `(n + 1) * 0x9E3779B97F4A7C15`, word `i` is
//! `mix(i % 512) ^ mix(!(i / 512))`: blocks of 4 KiB are the same noise under a key of their own, so
//! that making them costs little more than writing them.

use alloc::vec::Vec;

use godwit::Bytes;

/// Octets of a generated file at most: 1 TiB.
pub const MAX_SIZE: u64 = 1 << 40;

/// Words of a block.
const BLOCK: usize = 512;

/// Words that are made at a time: a loop costs emulation as much as what is in it.
const GROUP: usize = 8;
/// Octets of them.
const OCTETS: usize = GROUP * 8;

/// What the blocks have in common.
static NOISE: [[u64; GROUP]; BLOCK / GROUP] = {
    let mut noise = [[0; GROUP]; BLOCK / GROUP];
    let mut index = 0;
    while index < BLOCK {
        noise[index / GROUP][index % GROUP] = mix(index as u64);
        index += 1;
    }
    noise
};

const fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// `octets` of the content from `offset` on.
pub fn slice(offset: u64, octets: usize) -> Bytes {
    // Whole groups are written, then the ends are cut off by slicing: nothing is copied.
    let lead = offset as usize % OCTETS;
    let mut count = (lead + octets).div_ceil(OCTETS);
    let mut groups: Vec<[[u8; 8]; GROUP]> = Vec::with_capacity(count);
    let mut block = offset / 8 / BLOCK as u64;
    let mut skip = (offset / OCTETS as u64) as usize % NOISE.len();
    while count > 0 {
        let key = mix(!block);
        let part = NOISE.get(skip..NOISE.len().min(skip + count));
        let part = part.unwrap_or_default();
        let masked = |group: &[u64; GROUP]| group.map(|noise| (noise ^ key).to_le_bytes());
        groups.extend(part.iter().map(masked));
        count -= part.len();
        block += 1;
        skip = 0;
    }
    let all = groups.into_flattened().into_flattened();
    Bytes::from(all).slice(lead..lead + octets)
}

/// The size `text` names: octets, or with a suffix `K`, `M` or `G` (powers of 1024).
pub fn size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (text.get(..text.len() - 1)?, 10),
        b'M' | b'm' => (text.get(..text.len() - 1)?, 20),
        b'G' | b'g' => (text.get(..text.len() - 1)?, 30),
        _ => (text, 0),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    number
        .checked_mul(1 << shift)
        .filter(|size| *size <= MAX_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, word by word.
    fn word(index: u64) -> u64 {
        mix(index % 512) ^ mix(!(index / 512))
    }

    #[test]
    fn the_noise_is_splitmix64_seeded_with_zero() {
        // The first outputs of the generator as published for seed 0.
        assert_eq!(mix(0), 0xE220_A839_7B1D_CDAF);
        assert_eq!(mix(1), 0x6E78_9E6A_A1B9_65F4);
        assert_eq!(mix(2), 0x06C4_5D18_8009_454F);
    }

    #[test]
    fn each_block_has_its_own_key() {
        let file = slice(0, 20_000);
        for (index, octets) in file.as_chunks::<8>().0.iter().enumerate() {
            assert_eq!(*octets, word(index as u64).to_le_bytes(), "word {index}");
        }
        let far = MAX_SIZE - 4;
        assert_eq!(slice(far, 4)[..], word(far / 8).to_le_bytes()[4..]);
    }

    #[test]
    fn any_slice_is_a_part_of_the_whole() {
        let whole = slice(0, 8_300);
        for from in (0..50).chain(4_060..4_110) {
            for octets in (0..50).chain(4_080..4_110) {
                assert_eq!(slice(from as u64, octets), whole[from..from + octets]);
            }
        }
    }

    #[test]
    fn sizes_are_read_and_bounded() {
        for (text, octets) in [
            ("0", 0),
            ("1", 1),
            ("64K", 65_536),
            ("256M", 268_435_456),
            ("4g", 4 << 30),
            ("1024G", MAX_SIZE),
        ] {
            assert_eq!(size(text), Some(octets), "{text}");
        }
        for text in [
            "",
            "K",
            "-1",
            "+1",
            "1T",
            "1 K",
            "1KK",
            "1.5M",
            "1025G",
            "0x10",
            "é",
            "99999999999999999999",
            "18446744073709551615G",
        ] {
            assert_eq!(size(text), None, "{text}");
        }
    }
}
