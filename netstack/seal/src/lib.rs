//! AES-256-GCM (NIST SP 800-38D), which seals the records of a channel and beacons: [`Seal`].
//!
//! A crate of its own, since the netstack around it is built as small as can be, and every octet of a
//! session that moves passes through this; the cipher's code is generic, so it is built as whoever uses it is.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

// Named for its feature: round keys are wiped when they are dropped.
use aes as _;
use aes_gcm::aead::AeadInPlace;
use aes_gcm::{Aes256Gcm, KeyInit};

/// Octets of what proves that nothing was changed.
pub const TAG: usize = 16;

/// A key, with its schedule.
pub struct Seal(Aes256Gcm);

impl Seal {
    /// Computes the schedule of a key.
    pub fn new(key: &[u8; 32]) -> Seal {
        Seal(Aes256Gcm::new(key.into()))
    }

    /// Encrypts `body` and returns the tag of it and of `ad`. A nonce is used once. `None` if `body` is
    /// longer than the cipher allows (64 GiB).
    pub fn seal(&self, nonce: &[u8; 12], ad: &[u8], body: &mut [u8]) -> Option<[u8; TAG]> {
        let tag = self.0.encrypt_in_place_detached(nonce.into(), ad, body);
        tag.ok().map(Into::into)
    }

    /// Decrypts `body`, if that and `ad` are what was sealed under this nonce; says whether they are.
    #[must_use]
    pub fn open(&self, nonce: &[u8; 12], ad: &[u8], body: &mut [u8], tag: &[u8; TAG]) -> bool {
        let opened = self
            .0
            .decrypt_in_place_detached(nonce.into(), ad, body, tag.into());
        opened.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The GCM specification's test case 14: a block of zeros under a key and a nonce of zeros.
    #[test]
    fn a_block_is_sealed_as_the_specification_has_it() {
        let mut block = [0; 16];
        let tag = Seal::new(&[0; 32]).seal(&[0; 12], b"", &mut block);
        assert_eq!(
            u128::from_be_bytes(block),
            0xcea7_403d_4d60_6b6e_074e_c5d3_baf3_9d18
        );
        assert_eq!(
            u128::from_be_bytes(tag.unwrap()),
            0xd0d1_c8a7_9999_6bf0_265b_98b5_d48a_b919
        );
    }

    #[test]
    fn what_was_changed_does_not_open() {
        let seal = Seal::new(&[3; 32]);
        let mut sealed = *b"hello";
        let tag = seal.seal(&[7; 12], b"to", &mut sealed).unwrap();
        let opens = |nonce: u8, ad: &[u8], mut body: [u8; 5], tag| {
            seal.open(&[nonce; 12], ad, &mut body, tag) && body == *b"hello"
        };
        assert!(opens(7, b"to", sealed, &tag));
        assert!(!opens(8, b"to", sealed, &tag));
        assert!(!opens(7, b"too", sealed, &tag));
        assert!(!opens(7, b"to", *b"hello", &tag));
        assert!(!opens(7, b"to", sealed, &[0; TAG]));
    }
}
