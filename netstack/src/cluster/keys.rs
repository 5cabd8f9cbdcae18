//! The keys a member holds: one it opens channels with, and others it takes as well, so that a
//! cluster's key can be changed member by member.
//!
//! A responder tries every key of its [`Keyring`] (the key is mixed into the first message, and
//! trying one costs two hashes and no key exchange), an initiator one per attempt. Where a key has
//! to be named, its [`KeyId`] is: the key itself is never shown.

use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use sha2::{Digest, Sha256};
use zeroize::Zeroize;

/// Keys a member holds at most.
pub const MAX_KEYS: usize = 4;

/// A key that members prove to each other, never printed, and wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(pub [u8; 32]);

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id())
    }
}

impl Key {
    /// Its name.
    pub fn id(&self) -> KeyId {
        let digest = Sha256::new()
            .chain_update(b"godwit key id v1")
            .chain_update(self.0)
            .finalize();
        KeyId(digest.first_chunk().copied().unwrap_or_default())
    }
}

/// Names a key without telling it: the first octets of a digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct KeyId(pub [u8; 4]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl FromStr for KeyId {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<KeyId, KeyError> {
        if text.len() != 8 || !text.bytes().all(|octet| octet.is_ascii_hexdigit()) {
            return Err(KeyError::Unknown);
        }
        let number = u32::from_str_radix(text, 16).map_err(|_| KeyError::Unknown)?;
        Ok(KeyId(number.to_be_bytes()))
    }
}

/// Why a key cannot be added, activated or removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum KeyError {
    /// [`MAX_KEYS`] are held already.
    TooMany,
    /// No key is called that.
    Unknown,
    /// The active key cannot be removed: activate another one first.
    Active,
    /// The instance has no peers, and no use for keys.
    NoCluster,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeyError::TooMany => "too many keys: remove one first",
            KeyError::Unknown => "no key is called that",
            KeyError::Active => "the key is active: activate another one first",
            KeyError::NoCluster => "the instance has no peers",
        })
    }
}

impl core::error::Error for KeyError {}

/// One to [`MAX_KEYS`] keys; the first is the active one.
#[derive(Clone, Debug)]
pub struct Keyring(Vec<Key>);

impl Keyring {
    /// A ring of one key, the active one.
    pub fn new(key: Key) -> Keyring {
        // Never moved to a larger place: that would leave a copy behind.
        let mut keys = Vec::with_capacity(MAX_KEYS);
        keys.push(key);
        Keyring(keys)
    }

    /// The keys, the active one first.
    pub fn keys(&self) -> &[Key] {
        &self.0
    }

    /// The key that new channels are opened with.
    pub fn active(&self) -> KeyId {
        self.0.first().map_or(KeyId::default(), Key::id)
    }

    /// The key to open a channel with at this attempt (from 0): the active one first, then the
    /// others in turns, as the peer may not have heard of the active one yet.
    pub fn for_attempt(&self, attempt: u32) -> Option<&Key> {
        let count = self.0.len().max(1);
        self.0.get(attempt as usize % count)
    }

    /// Whether a key of that name is held.
    pub fn holds(&self, id: KeyId) -> bool {
        self.0.iter().any(|key| key.id() == id)
    }

    /// Take this key as well. A key that is held already changes nothing.
    pub fn add(&mut self, key: Key) -> Result<KeyId, KeyError> {
        let id = key.id();
        if !self.0.contains(&key) {
            if self.0.len() >= MAX_KEYS {
                return Err(KeyError::TooMany);
            }
            self.0.push(key);
        }
        Ok(id)
    }

    /// Open channels with this key from now on.
    pub fn activate(&mut self, id: KeyId) -> Result<(), KeyError> {
        let at = self.0.iter().position(|key| key.id() == id);
        let at = at.ok_or(KeyError::Unknown)?;
        if let Some(keys) = self.0.get_mut(..=at) {
            keys.rotate_right(1);
        }
        Ok(())
    }

    /// Take this key no more.
    pub fn remove(&mut self, id: KeyId) -> Result<(), KeyError> {
        match self.0.iter().position(|key| key.id() == id) {
            None => Err(KeyError::Unknown),
            Some(0) => Err(KeyError::Active),
            Some(at) => {
                // Dropped where it is: what is moved out leaves a copy behind.
                if let Some(keys) = self.0.get_mut(at..) {
                    keys.rotate_left(1);
                }
                self.0.truncate(self.0.len() - 1);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::ToString;

    #[test]
    fn the_active_key_comes_first_and_stays() {
        let (old, new) = (Key([1; 32]), Key([2; 32]));
        let mut ring = Keyring::new(old.clone());
        assert_eq!(ring.add(new.clone()), Ok(new.id()));
        assert_eq!(ring.active(), old.id());
        assert_eq!(ring.remove(old.id()), Err(KeyError::Active));
        assert_eq!(ring.activate(new.id()), Ok(()));
        assert_eq!(ring.keys(), [new.clone(), old.clone()]);
        let tried = [0, 1, 2].map(|attempt| ring.for_attempt(attempt).unwrap());
        assert_eq!(tried, [&new, &old, &new]);
        assert_eq!(ring.remove(old.id()), Ok(()));
        assert_eq!(ring.remove(old.id()), Err(KeyError::Unknown));
        assert!(ring.holds(new.id()) && !ring.holds(old.id()));
    }

    #[test]
    fn a_ring_is_bounded_and_has_no_doubles() {
        let mut ring = Keyring::new(Key([0; 32]));
        for octet in 0..MAX_KEYS as u8 {
            assert!(ring.add(Key([octet; 32])).is_ok());
        }
        assert_eq!(ring.add(Key([9; 32])), Err(KeyError::TooMany));
        assert!(ring.add(Key([0; 32])).is_ok(), "held already");
        assert_eq!(ring.keys().len(), MAX_KEYS);
    }

    #[test]
    fn a_name_is_read_as_it_is_written_and_tells_no_octet_of_the_key() {
        let key = Key([0xab; 32]);
        let name = key.id().to_string();
        assert_eq!(name.parse(), Ok(key.id()));
        assert!(!name.contains("abab") && !format!("{key:?}").contains("171, 171"));
        for wrong in ["", "1234567", "123456789", "+1234567", "1234567g"] {
            assert!(wrong.parse::<KeyId>().is_err(), "{wrong}");
        }
    }
}
