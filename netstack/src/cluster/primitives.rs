//! The primitives Noise runs on: X25519, SHA-256, AES-256-GCM, and random octets from the
//! instance's seed. No operating system is asked for anything, and the AES key schedule is
//! computed once per channel instead of once per record.

use alloc::boxed::Box;

use curve25519_dalek::montgomery::MontgomeryPoint;
use godwit_seal::{Seal, TAG};
use sha2::{Digest, Sha256};
use snow::Error;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use zeroize::Zeroize;

use super::rng::Rng;

/// Gives snow its primitives.
pub(super) struct Resolver {
    /// What the handshake's ephemeral key derives from; used for one handshake only.
    pub seed: [u8; 32],
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Seeded(Rng::new(&self.seed, *b"noise   "))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        match choice {
            DHChoice::Curve25519 => Some(Box::new(X25519::default())),
            _ => None,
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        match choice {
            HashChoice::SHA256 => Some(Box::new(Sha(Sha256::new()))),
            _ => None,
        }
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        match choice {
            CipherChoice::AESGCM => Some(Box::new(Gcm(Seal::new(&[0; 32])))),
            _ => None,
        }
    }
}

struct Seeded(Rng);

impl Random for Seeded {
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Error> {
        self.0.fill(out);
        Ok(())
    }
}

#[derive(Default)]
struct X25519 {
    private: [u8; 32],
    public: [u8; 32],
}

impl Drop for X25519 {
    fn drop(&mut self) {
        self.private.zeroize();
    }
}

impl X25519 {
    fn set_private(&mut self, private: [u8; 32]) {
        self.private = private;
        self.public = MontgomeryPoint::mul_base_clamped(private).to_bytes();
    }
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, private: &[u8]) {
        // snow hands over `priv_len` octets.
        let mut octets = [0; 32];
        for (octet, given) in octets.iter_mut().zip(private) {
            *octet = *given;
        }
        self.set_private(octets);
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        let mut octets = [0; 32];
        rng.try_fill_bytes(&mut octets)?;
        self.set_private(octets);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &self.private
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let public = public.first_chunk::<32>().ok_or(Error::Dh)?;
        let out = out.first_chunk_mut::<32>().ok_or(Error::Dh)?;
        *out = MontgomeryPoint(*public)
            .mul_clamped(self.private)
            .to_bytes();
        // A point of small order would make the result independent of our key.
        match *out == [0; 32] {
            true => Err(Error::Dh),
            false => Ok(()),
        }
    }
}

struct Sha(Sha256);

impl Hash for Sha {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        Digest::reset(&mut self.0);
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        let digest = self.0.finalize_reset();
        for (octet, computed) in out.iter_mut().zip(digest) {
            *octet = computed;
        }
    }
}

struct Gcm(Seal);

/// Noise section 12.4: four zero octets, then the counter in big endian.
fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    if let Some(tail) = nonce.last_chunk_mut::<8>() {
        *tail = counter.to_be_bytes();
    }
    nonce
}

impl Cipher for Gcm {
    fn name(&self) -> &'static str {
        "AESGCM"
    }

    fn set(&mut self, key: &[u8; 32]) {
        self.0 = Seal::new(key);
    }

    fn encrypt(&self, counter: u64, ad: &[u8], plain: &[u8], out: &mut [u8]) -> usize {
        // snow checks that `out` has room for the plain octets and the tag.
        let Some((body, rest)) = out.split_at_mut_checked(plain.len()) else {
            return 0;
        };
        let Some(tag) = rest.first_chunk_mut::<TAG>() else {
            return 0;
        };
        body.copy_from_slice(plain);
        match self.0.seal(&nonce(counter), ad, body) {
            Some(sealed) => {
                *tag = sealed;
                plain.len() + TAG
            }
            None => 0,
        }
    }

    fn decrypt(
        &self,
        counter: u64,
        ad: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Error> {
        let (body, tag) = sealed.split_last_chunk::<TAG>().ok_or(Error::Decrypt)?;
        let out = out.get_mut(..body.len()).ok_or(Error::Decrypt)?;
        out.copy_from_slice(body);
        match self.0.open(&nonce(counter), ad, out, tag) {
            true => Ok(body.len()),
            false => Err(Error::Decrypt),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7748 section 5.2: after one iteration.
    #[test]
    fn x25519_agrees_with_the_rfc() {
        let mut nine = [0; 32];
        nine[0] = 9;
        let mut ours = X25519::default();
        ours.set(&nine);
        let mut product = [0; 32];
        ours.dh(&nine, &mut product).unwrap();
        let hex: String = product
            .iter()
            .map(|octet| alloc::format!("{octet:02x}"))
            .collect();
        assert_eq!(
            hex,
            "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
        );
        assert_eq!(ours.public, product, "the base point is 9");
    }

    #[test]
    fn a_point_of_small_order_is_refused() {
        let mut ours = X25519::default();
        ours.set(&[9; 32]);
        assert!(ours.dh(&[0; 32], &mut [0; 32]).is_err());
    }

    #[test]
    fn a_sealed_record_opens_under_its_counter_only() {
        let mut gcm = Gcm(Seal::new(&[0; 32]));
        gcm.set(&[3; 32]);
        let mut sealed = [0; 5 + TAG];
        assert_eq!(gcm.encrypt(7, b"", b"hello", &mut sealed), sealed.len());
        let mut opened = [0; 5];
        assert_eq!(gcm.decrypt(7, b"", &sealed, &mut opened).unwrap(), 5);
        assert_eq!(&opened, b"hello");
        assert!(gcm.decrypt(8, b"", &sealed, &mut opened).is_err());
        assert!(gcm.decrypt(7, b"", &sealed[..3], &mut opened).is_err());
    }
}
