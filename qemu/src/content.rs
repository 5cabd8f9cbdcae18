//! The content of the http service's generated files, version 2, and digests of it.
//!
//! A file is a sequence of 64-bit little-endian words, the last of which may be cut off. With `mix(n)`
//! the finaliser of splitmix64 applied to `(n + 1) * 0x9E3779B97F4A7C15`, word `i` is
//! `mix(i % 512) ^ mix(!(i / 512))`.

use std::fmt::Write;

use sha2::{Digest, Sha256};

/// Word `index` of every generated file.
fn word(index: u64) -> u64 {
    mix(index % 512) ^ mix(!(index / 512))
}

fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Writes the content from byte `offset` on into `buffer`.
pub fn fill(offset: u64, buffer: &mut [u8]) {
    let mut index = offset / 8;
    let skip = (offset % 8) as usize;
    let head = buffer.len().min((8 - skip) % 8);
    let (first, rest) = buffer.split_at_mut(head);
    if head > 0 {
        first.copy_from_slice(&word(index).to_le_bytes()[skip..skip + head]);
        index += 1;
    }
    for chunk in rest.chunks_mut(8) {
        chunk.copy_from_slice(&word(index).to_le_bytes()[..chunk.len()]);
        index += 1;
    }
}

/// The SHA-256 of the first `size` bytes, in hexadecimal.
pub fn digest(size: u64) -> String {
    let mut check = Check::default();
    let mut buffer = vec![0; 64 << 10];
    while check.bytes < size {
        let len = (size - check.bytes).min(buffer.len() as u64) as usize;
        fill(check.bytes, &mut buffer[..len]);
        check.add(&buffer[..len]);
    }
    check.finish()
}

/// The digest of bytes that come in pieces.
#[derive(Default)]
pub struct Check {
    hasher: Sha256,
    bytes: u64,
}

impl Check {
    /// Adds the next piece.
    pub fn add(&mut self, piece: &[u8]) {
        self.hasher.update(piece);
        self.bytes += piece.len() as u64;
    }

    /// Bytes added so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The SHA-256 in hexadecimal.
    pub fn finish(self) -> String {
        let mut text = String::with_capacity(64);
        for byte in self.hasher.finalize() {
            let _ = write!(text, "{byte:02x}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Splitmix64 from seed 0, whose first values are widely published, under each block's key.
    #[test]
    fn the_words_are_splitmix64_of_seed_0_under_a_key() {
        assert_eq!(
            [mix(0), mix(1)],
            [0xE220_A839_7B1D_CDAF, 0x6E78_9E6A_A1B9_65F4]
        );
        let mut bytes = [0; 16];
        fill(4096 - 8, &mut bytes);
        assert_eq!(bytes[..8], (mix(511) ^ mix(u64::MAX)).to_le_bytes());
        assert_eq!(bytes[8..], (mix(0) ^ mix(u64::MAX - 1)).to_le_bytes());
    }

    #[test]
    fn any_piece_equals_that_part_of_the_whole() {
        let mut whole = [0; 64];
        fill(0, &mut whole);
        for start in 0..24 {
            for end in start..40 {
                let mut piece = vec![0; end - start];
                fill(start as u64, &mut piece);
                assert_eq!(piece, whole[start..end], "{start}..{end}");
            }
        }
    }

    #[test]
    fn a_digest_depends_on_the_size() {
        assert_eq!(
            digest(0),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_ne!(digest(100_000), digest(100_001));
    }
}
