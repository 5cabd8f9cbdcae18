//! Beacons: datagrams to everyone, to a stack that keeps them and to whoever opens them.
//!
//! Input: whether what follows is to be sealed first (one octet, odd: yes), then a beacon's octets or
//! those of its fields.

use godwit_netstack::cluster::beacon::{Beacon, Seen, service_digest};
use godwit_netstack::cluster::keys::Key;
use godwit_netstack::cluster::{BootId, MemberId};

use crate::Target;

pub(crate) const TARGET: Target = Target {
    name: "beacons",
    run,
    seeds,
};

const BOOT: BootId = BootId([3; 16]);

fn keys() -> [Key; 2] {
    [Key([1; 32]), Key([2; 32])]
}

fn run(input: &[u8]) {
    let Some((first, rest)) = input.split_first() else {
        return;
    };
    let keys = keys();
    let opened = match first & 1 {
        0 => Beacon::open(rest, &keys),
        _ => {
            // As one who holds the key: whatever the fields are.
            let sealed = Beacon::seal_fields(rest, &keys[1], BOOT, u64::from(*first));
            Beacon::open(&sealed.unwrap_or_default(), &keys)
        }
    };
    if let Ok((beacon, boot, count)) = opened {
        let mut seen = Seen::default();
        assert!(seen.is_news(beacon.member, boot, count));
        assert!(!seen.is_news(beacon.member, boot, count), "twice the same");
        let again = beacon.seal(&keys[0], boot, count).expect("it is as long");
        assert_eq!(Beacon::open(&again, &keys), Ok((beacon, boot, count)));
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let beacon = |address| Beacon {
        member: MemberId(4),
        address,
        voter: false,
        version: 7,
        service: service_digest([("http", 80)].into_iter(), [address].into_iter()),
    };
    let four = beacon([10, 77, 0, 14].into());
    let six = beacon([0xfd; 16].into());
    let sealed = [four, six].map(|beacon| {
        let mut octets = vec![0];
        octets.extend(beacon.seal(&keys()[0], BOOT, 9).expect("it is short"));
        octets
    });
    let mut fields = vec![1, 4, 0, 10, 77, 0, 14, 0, 7];
    fields.extend([1; 8]);
    sealed.into_iter().chain([fields]).collect()
}
