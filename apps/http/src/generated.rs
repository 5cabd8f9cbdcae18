//! Files of any size with known content (version 1), so that a client can tell whether it got
//! every byte without the server carrying the file.
//!
//! The file is a sequence of 64-bit little-endian words; word `i` is the SplitMix64 finaliser of
//! `(i + 1) * 0x9E3779B97F4A7C15`, and the last word is cut to the file's size.

use alloc::vec::Vec;

use godwit::Bytes;

/// Octets of a generated file at most: 1 TiB.
pub const MAX_SIZE: u64 = 1 << 40;

/// Word `index` of the content.
pub const fn word(index: u64) -> u64 {
    let mut z = index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// `octets` of the content from `offset` on.
pub fn slice(offset: u64, octets: usize) -> Bytes {
    // Whole words are written, then the ends are cut off by slicing: nothing is copied.
    let lead = (offset % 8) as usize;
    let first = offset / 8;
    let words = (lead + octets).div_ceil(8) as u64;
    let words: Vec<[u8; 8]> = (first..first + words)
        .map(|index| word(index).to_le_bytes())
        .collect();
    Bytes::from(words.into_flattened()).slice(lead..lead + octets)
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

    #[test]
    fn words_are_those_of_splitmix64_seeded_with_zero() {
        // The first outputs of the generator as published for seed 0.
        assert_eq!(word(0), 0xE220_A839_7B1D_CDAF);
        assert_eq!(word(1), 0x6E78_9E6A_A1B9_65F4);
        assert_eq!(word(2), 0x06C4_5D18_8009_454F);
    }

    #[test]
    fn any_slice_is_a_part_of_the_whole() {
        let whole = slice(0, 200);
        assert_eq!(whole[..8], word(0).to_le_bytes());
        for from in 0..50 {
            for octets in 0..50 {
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
