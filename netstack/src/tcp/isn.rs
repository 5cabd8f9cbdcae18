//! Initial sequence numbers and timestamp offsets (RFC 6528, RFC 7323 section 5.4), derived from
//! the cluster's secret, the addresses and the cluster's clock: every instance would answer a SYN
//! with the same SYN-ACK.

use core::net::{IpAddr, SocketAddr};

use crate::seq::SeqNumber;
use crate::stack::FlowKey;
use crate::time::{Duration, Instant};

/// Where initial numbers come from.
#[derive(Clone, Debug)]
pub struct InitialNumbers {
    key: [u64; 4],
    clock_offset: Duration,
}

impl InitialNumbers {
    /// Numbers derived from `secret`, on this instance's own clock.
    pub fn new(secret: [u8; 32]) -> InitialNumbers {
        let mut key = [0; 4];
        let (words, _) = secret.as_chunks::<8>();
        for (slot, word) in key.iter_mut().zip(words) {
            *slot = u64::from_le_bytes(*word);
        }
        InitialNumbers {
            key,
            clock_offset: Duration::ZERO,
        }
    }

    /// What is to be added to this instance's clock to read the cluster's.
    pub fn set_clock_offset(&mut self, offset: Duration) {
        self.clock_offset = offset;
    }

    /// The initial sequence number for `flow`: a secret place per flow, moving on one number each
    /// 4 us (RFC 9293 section 3.4.1).
    pub fn sequence(&self, now: Instant, flow: &FlowKey) -> SeqNumber {
        let [k0, k1, ..] = self.key;
        let ticks = (now + self.clock_offset).as_micros() / 4;
        SeqNumber::new((hash_flow(k0, k1, flow) as u32).wrapping_add(ticks as u32))
    }

    /// What is added to this instance's millisecond clock to make TSval for `flow`.
    pub fn timestamp_offset(&self, flow: &FlowKey) -> u32 {
        let [.., k2, k3] = self.key;
        let millis = Instant::ZERO + self.clock_offset;
        (hash_flow(k2, k3, flow) as u32).wrapping_add(millis.as_millis() as u32)
    }
}

fn hash_flow(k0: u64, k1: u64, flow: &FlowKey) -> u64 {
    let mut input = [0; 36];
    let (local, rest) = input.split_at_mut(18);
    put_address(local, flow.local);
    put_address(rest, flow.remote);
    siphash_2_4(k0, k1, &input)
}

fn put_address(out: &mut [u8], address: SocketAddr) {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    let port = address.port().to_be_bytes();
    for (slot, octet) in out.iter_mut().zip(ip.iter().chain(&port)) {
        *slot = *octet;
    }
}

/// One SipRound.
fn round(v: &mut [u64; 4]) {
    let [mut a, mut b, mut c, mut d] = *v;
    a = a.wrapping_add(b);
    b = b.rotate_left(13) ^ a;
    a = a.rotate_left(32);
    c = c.wrapping_add(d);
    d = d.rotate_left(16) ^ c;
    a = a.wrapping_add(d);
    d = d.rotate_left(21) ^ a;
    c = c.wrapping_add(b);
    b = b.rotate_left(17) ^ c;
    c = c.rotate_left(32);
    *v = [a, b, c, d];
}

/// SipHash-2-4 (Aumasson and Bernstein 2012).
pub(crate) fn siphash_2_4(k0: u64, k1: u64, input: &[u8]) -> u64 {
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let mut compress = |word: u64| {
        v[3] ^= word;
        round(&mut v);
        round(&mut v);
        v[0] ^= word;
    };
    let (words, tail) = input.as_chunks::<8>();
    for word in words {
        compress(u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    for (slot, octet) in last.iter_mut().zip(tail) {
        *slot = *octet;
    }
    compress(u64::from_le_bytes(last) | (input.len() as u64) << 56);
    v[2] ^= 0xff;
    for _ in 0..4 {
        round(&mut v);
    }
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siphash_matches_its_paper() {
        let input: [u8; 15] = core::array::from_fn(|n| n as u8);
        let (k0, k1) = (0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);
        assert_eq!(siphash_2_4(k0, k1, &input), 0xa129_ca61_49be_45e5);
    }

    #[test]
    fn two_instances_with_one_clock_agree_and_flows_differ() {
        let flow = |port| FlowKey {
            local: SocketAddr::from(([10, 0, 0, 1], 80)),
            remote: SocketAddr::from(([10, 0, 0, 2], port)),
        };
        let one = InitialNumbers::new([7; 32]);
        let mut other = InitialNumbers::new([7; 32]);
        other.set_clock_offset(Duration::from_millis(1500));
        let (early, late) = (Instant::from_millis(500), Instant::from_millis(2000));
        assert_eq!(
            one.sequence(late, &flow(1)),
            other.sequence(early, &flow(1))
        );
        let value = |numbers: &InitialNumbers, now: Instant| {
            (now.as_millis() as u32).wrapping_add(numbers.timestamp_offset(&flow(1)))
        };
        assert_eq!(value(&one, late), value(&other, early));
        assert_ne!(one.sequence(late, &flow(1)), one.sequence(late, &flow(2)));
        // A flow opened again finds numbers ahead of those it used before.
        assert!(
            one.sequence(early, &flow(1))
                .before(one.sequence(late, &flow(1)))
        );
    }
}
