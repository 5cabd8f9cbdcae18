//! The beacon: a datagram to everyone on the link that says "here I am", sealed with the cluster's key.
//!
//! A beacon is a hint and no more: whoever opens one tries a channel to its sender, and what counts is
//! what is proved and said in that channel. So a beacon that is repeated by a stranger can at most make
//! members try a channel that does not come up, and [`Seen`] drops even those it can tell.
//!
//! ```text
//! octets   4        16      8       n                     16
//!        | "GWB1" | boot  | count | fields, AES-256-GCM | tag |
//! ```
//!
//! The head is the associated data. Each boot seals under a key of its own, SHA-256 of a label, the
//! cluster's key and the boot id, and the nonce is the count: no nonce is used twice, and the octets of a
//! beacon can be taken for nothing else that is sealed with the cluster's key.

use alloc::vec::Vec;
use core::net::IpAddr;

use godwit_seal::{Seal, TAG};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use super::keys::Key;
use super::{BootId, MemberId};
use crate::map::Map;
use crate::order::in_order;

const MAGIC: &[u8; 4] = b"GWB1";
const BOOT: usize = 16;
const COUNT: usize = 8;
const HEAD: usize = MAGIC.len() + BOOT + COUNT;
/// Octets of a beacon at most.
pub const MAX_BEACON: usize = 256;
/// Members whose last beacon is remembered at most.
pub const MAX_SEEN: usize = 64;

/// What a member says of itself to everyone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Beacon {
    /// The sender.
    pub member: MemberId,
    /// Its address: the end of its channels, and where the datagram comes from.
    pub address: IpAddr,
    /// It is one of the voters; else it wants to be found by them.
    pub voter: bool,
    /// Version of the state its service commits.
    pub version: u32,
    /// Digest of its services and virtual addresses ([`service_digest`]).
    pub service: [u8; 8],
}

/// Why a datagram is no beacon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BeaconError {
    /// It does not look like one.
    Malformed,
    /// It opens under none of our keys.
    WrongKey,
}

/// What tells clusters apart that share a key: the services' names and ports, and the virtual addresses.
pub fn service_digest<'a>(
    services: impl Iterator<Item = (&'a str, u16)>,
    vips: impl Iterator<Item = IpAddr>,
) -> [u8; 8] {
    let mut hash = Sha256::new_with_prefix(b"godwit services v1");
    for (name, port) in in_order(services) {
        hash.update((name.len() as u32).to_le_bytes());
        hash.update(name);
        hash.update(port.to_le_bytes());
    }
    for vip in in_order(vips) {
        match vip {
            IpAddr::V4(v4) => hash.update(v4.octets()),
            IpAddr::V6(v6) => hash.update(v6.octets()),
        }
    }
    hash.finalize().first_chunk().copied().unwrap_or_default()
}

fn cipher(key: &Key, boot: BootId) -> Seal {
    let mut derived = Sha256::new_with_prefix(b"godwit beacon v1")
        .chain_update(key.0)
        .chain_update(boot.0)
        .finalize();
    let cipher = Seal::new(derived.as_ref());
    derived.zeroize();
    cipher
}

fn nonce(count: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    if let Some(tail) = nonce.last_chunk_mut::<COUNT>() {
        *tail = count.to_be_bytes();
    }
    nonce
}

impl Beacon {
    /// The datagram. A count is used once in a boot.
    pub fn seal(&self, key: &Key, boot: BootId, count: u64) -> Option<Vec<u8>> {
        Beacon::seal_fields(&postcard::to_allocvec(self).ok()?, key, boot, count)
    }

    /// A datagram with any fields, as one who holds the key may send it.
    pub fn seal_fields(fields: &[u8], key: &Key, boot: BootId, count: u64) -> Option<Vec<u8>> {
        let mut head = Vec::with_capacity(MAX_BEACON);
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&boot.0);
        head.extend_from_slice(&count.to_be_bytes());
        let mut body = Vec::from(fields);
        let nonce = nonce(count);
        let tag = cipher(key, boot).seal(&nonce, &head, &mut body)?;
        head.append(&mut body);
        head.extend_from_slice(&tag);
        Some(head)
    }

    /// Open a datagram with one of `keys`; who sent it in which boot, and the count.
    pub fn open(datagram: &[u8], keys: &[Key]) -> Result<(Beacon, BootId, u64), BeaconError> {
        let parts = split(datagram).ok_or(BeaconError::Malformed)?;
        let (head, boot, count, body, tag) = parts;
        let nonce = nonce(count);
        for key in keys {
            let mut plain = Vec::from(body);
            if cipher(key, boot).open(&nonce, head, &mut plain, tag) {
                let (beacon, rest) =
                    postcard::take_from_bytes(&plain).map_err(|_| BeaconError::Malformed)?;
                return match rest.is_empty() {
                    true => Ok((beacon, boot, count)),
                    false => Err(BeaconError::Malformed),
                };
            }
        }
        Err(BeaconError::WrongKey)
    }
}

type Parts<'a> = (&'a [u8], BootId, u64, &'a [u8], &'a [u8; TAG]);

fn split(datagram: &[u8]) -> Option<Parts<'_>> {
    if datagram.len() > MAX_BEACON {
        return None;
    }
    let (head, rest) = datagram.split_at_checked(HEAD)?;
    let (body, tag) = rest.split_last_chunk::<TAG>()?;
    let rest = head.strip_prefix(MAGIC)?;
    let (boot, count) = rest.split_first_chunk::<BOOT>()?;
    let count = u64::from_be_bytes(*count.first_chunk::<COUNT>()?);
    Some((head, BootId(*boot), count, body, tag))
}

/// The last beacons, to tell one that is repeated. Bounded: what is not remembered is looked at again,
/// which costs no more than a first one.
#[derive(Debug, Default)]
pub struct Seen(Map<MemberId, (BootId, u64)>);

impl Seen {
    /// Whether this is news: of one boot each count counts once, and in order. (That an old boot is
    /// repeated cannot be told; it is a hint that leads nowhere.)
    pub fn is_news(&mut self, member: MemberId, boot: BootId, count: u64) -> bool {
        let last = self.0.get(&member);
        if last.is_some_and(|(last, at)| *last == boot && count <= *at) {
            return false;
        }
        if self.0.len() >= MAX_SEEN && !self.0.contains_key(&member) {
            self.0.pop_first();
        }
        self.0.insert(member, (boot, count));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT_ID: BootId = BootId([3; 16]);

    fn beacon() -> Beacon {
        Beacon {
            member: MemberId(4),
            address: [10, 0, 0, 4].into(),
            voter: false,
            version: 7,
            service: [1; 8],
        }
    }

    #[test]
    fn a_beacon_opens_under_any_key_that_is_held_and_no_other() {
        let (old, new) = (Key([1; 32]), Key([2; 32]));
        let datagram = beacon().seal(&old, BOOT_ID, 5).unwrap();
        assert!(datagram.len() <= MAX_BEACON);
        let both = [new.clone(), old];
        assert_eq!(
            Beacon::open(&datagram, &both),
            Ok((beacon(), BOOT_ID, 5)),
            "while the key is being changed"
        );
        assert_eq!(Beacon::open(&datagram, &[new]), Err(BeaconError::WrongKey));
        assert_eq!(Beacon::open(&datagram, &[]), Err(BeaconError::WrongKey));
    }

    #[test]
    fn no_octet_of_a_beacon_can_be_changed_nor_left_out() {
        let key = [Key([1; 32])];
        let datagram = beacon().seal(&key[0], BOOT_ID, 5).unwrap();
        for at in 0..datagram.len() {
            let mut changed = datagram.clone();
            changed[at] ^= 1;
            assert!(Beacon::open(&changed, &key).is_err(), "octet {at}");
            assert!(Beacon::open(&datagram[..at], &key).is_err(), "cut at {at}");
        }
        let mut longer = datagram.clone();
        longer.push(0);
        assert!(Beacon::open(&longer, &key).is_err());
        longer.resize(MAX_BEACON + 1, 0);
        assert_eq!(Beacon::open(&longer, &key), Err(BeaconError::Malformed));
    }

    #[test]
    fn two_beacons_of_a_boot_share_no_octet_of_ciphertext_by_design() {
        let key = Key([1; 32]);
        let one = beacon().seal(&key, BOOT_ID, 1).unwrap();
        let two = beacon().seal(&key, BOOT_ID, 2).unwrap();
        let other = beacon().seal(&key, BootId([4; 16]), 1).unwrap();
        assert_ne!(one[HEAD..], two[HEAD..]);
        assert_ne!(one[HEAD..], other[HEAD..]);
    }

    #[test]
    fn a_repeated_beacon_is_no_news_and_memory_is_bounded() {
        let mut seen = Seen::default();
        assert!(seen.is_news(MemberId(4), BOOT_ID, 5));
        assert!(!seen.is_news(MemberId(4), BOOT_ID, 5), "again");
        assert!(!seen.is_news(MemberId(4), BOOT_ID, 4), "older");
        assert!(seen.is_news(MemberId(4), BOOT_ID, 6));
        assert!(seen.is_news(MemberId(4), BootId([4; 16]), 1), "it booted");
        for id in 0..10_000 {
            seen.is_news(MemberId(id), BOOT_ID, 1);
        }
        assert!(seen.0.len() <= MAX_SEEN);
    }

    #[test]
    fn clusters_with_other_services_or_addresses_are_told_apart() {
        let vip = |last| IpAddr::from([10, 0, 0, last]);
        let digest =
            |name, port, last| service_digest([(name, port)].into_iter(), [vip(last)].into_iter());
        let ours = digest("http", 80, 9);
        assert_eq!(ours, digest("http", 80, 9));
        for other in [
            digest("http", 81, 9),
            digest("echo", 80, 9),
            digest("http", 80, 8),
        ] {
            assert_ne!(ours, other);
        }
    }
}
