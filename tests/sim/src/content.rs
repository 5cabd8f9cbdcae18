//! Bytes whose value follows from their offset, so that both ends know what must arrive.

use bytes::Bytes;

use crate::rng::{GOLDEN, mix};

/// The byte at `offset` of the stream named `stream`.
pub fn byte(stream: u64, offset: u64) -> u8 {
    let word = word(stream, offset / 8);
    (word >> (offset % 8 * 8)) as u8
}

/// Of stream 0 as the HTTP service's generated files have it.
fn word(stream: u64, index: u64) -> u64 {
    let noise = |n: u64| mix(n.wrapping_add(1).wrapping_mul(GOLDEN) ^ mix(stream));
    noise(index % 512) ^ noise(!(index / 512))
}

/// `octets` bytes of the stream from `offset` on.
pub fn slice(stream: u64, offset: u64, octets: usize) -> Bytes {
    let first = offset / 8;
    let skip = (offset % 8) as usize;
    let words = (skip + octets).div_ceil(8) as u64;
    let mut out = Vec::with_capacity(words as usize * 8);
    for index in first..first + words {
        out.extend_from_slice(&word(stream, index).to_le_bytes());
    }
    Bytes::from(out).slice(skip..skip + octets)
}

/// Where `found` first differs from the stream at `offset`.
pub fn mismatch(stream: u64, offset: u64, found: &[u8]) -> Option<u64> {
    let expected = slice(stream, offset, found.len());
    let at = expected.iter().zip(found).position(|(a, b)| a != b)?;
    Some(offset + at as u64)
}

/// An order-dependent digest that can be continued byte by byte, from any split of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub u64);

impl Default for Digest {
    fn default() -> Digest {
        Digest(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    /// Go on with `octets` (FNV-1a).
    pub fn update(&mut self, octets: &[u8]) {
        for octet in octets {
            self.0 = (self.0 ^ u64::from(*octet)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// The digest of the first `octets` bytes of a stream.
    pub fn of_stream(stream: u64, octets: u64) -> Digest {
        let mut digest = Digest::default();
        digest.update(&slice(stream, 0, octets as usize));
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_agree_with_bytes_at_any_offset() {
        for offset in 0..20 {
            let found = slice(5, offset, 13);
            let expected: Vec<u8> = (offset..offset + 13).map(|at| byte(5, at)).collect();
            assert_eq!(found, expected);
        }
        let mut wrong = slice(5, 100, 50).to_vec();
        wrong[7] ^= 1;
        assert_eq!(mismatch(5, 100, &wrong), Some(107));
        assert_eq!(mismatch(6, 100, &slice(6, 100, 50)), None);
    }
}
