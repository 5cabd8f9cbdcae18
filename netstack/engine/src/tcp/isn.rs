//! Initial sequence numbers and timestamp offsets (RFC 6528, RFC 7323 section 5.4), derived from
//! the cluster's secret, the addresses and the cluster's clock: every instance would answer a SYN
//! with the same SYN-ACK, and any could tell from the ACK that completes the handshake what the
//! SYN had said, but for a user timeout and with its MSS rounded down: each SYN-ACK is a SYN cookie
//! (RFC 4987 section 3.6), whether or not the SYN is remembered as well.
//!
//! ```text
//! ISS = M + F(addresses, ports, IRS, secret) + options
//! M: RFC 9293's clock of 4 us, in steps of 65.5 s (2^24)
//! options: 9 bits: MSS (one of eight), window scale, SACK, ECN
//! ```
//!
//! IRS is in F, so that a later segment of the peer's cannot pass for the one after its SYN. So two
//! connections between the same ends are not in the order of their numbers; where that matters
//! ([`super::HalfOpen::on_syn`]'s `above`), it is seen to.

use core::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::seq::SeqNumber;
use crate::stack::FlowKey;
use crate::time::{Duration, Instant};

/// How long the numbers given to a SYN stay the same; a cookie is good for one to two steps.
pub(crate) const COOKIE_STEP: Duration = Duration::from_millis(65_536);
/// Values the bits of a cookie can have.
const COOKIE_BITS: u32 = 1 << 9;

/// The numbers of a handshake, of which ours is a SYN cookie: with its flow, one connection and no other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cookie {
    /// The peer's initial number.
    pub irs: SeqNumber,
    /// Ours.
    pub iss: SeqNumber,
}

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

    fn steps(&self, now: Instant) -> u32 {
        ((now + self.clock_offset).as_millis() / COOKIE_STEP.as_millis() as u64) as u32
    }

    fn secret_place(&self, flow: &FlowKey, irs: SeqNumber) -> SeqNumber {
        let [k0, k1, ..] = self.key;
        let mut input = [0; 40];
        let (ends, rest) = input.split_at_mut(36);
        put_flow(ends, flow);
        rest.copy_from_slice(&irs.raw().to_le_bytes());
        // Another length than that of `sequence`: a different question.
        SeqNumber::new(siphash_2_4(k0, k1, &input) as u32)
    }

    /// ISS of the SYN-ACK that answers a SYN with `irs`, with nine bits to be had back.
    pub(crate) fn cookie(
        &self,
        now: Instant,
        flow: &FlowKey,
        irs: SeqNumber,
        bits: u16,
    ) -> SeqNumber {
        self.secret_place(flow, irs)
            .add(self.steps(now) << 24)
            .add(bits.into())
    }

    /// The nine bits of a cookie, if `iss` is one that this or another instance gave the flow not
    /// longer ago than two steps.
    ///
    /// A blind guess succeeds once in 2^22: two steps of 2^9 numbers each are good. That is less than the 2^29
    /// of Linux, whose cookies hold one of four MSS and nothing else: its other options travel in
    /// TSval, and who has no timestamps (Windows, by default) loses window scale and SACK. Nine bits
    /// here are what it costs that nobody does. What a guess opens is one connection from an address whose
    /// owner does not answer, and only while cookies are believed at all
    /// ([`crate::stack::Stack::trust_cookies`]): for as long as one lives after the table was last full.
    pub(crate) fn open_cookie(
        &self,
        now: Instant,
        flow: &FlowKey,
        irs: SeqNumber,
        iss: SeqNumber,
    ) -> Option<u16> {
        let place = self.secret_place(flow, irs);
        let steps = self.steps(now);
        [steps, steps.wrapping_sub(1)]
            .into_iter()
            .map(|steps| iss.distance_from(place.add(steps << 24)))
            .find(|bits| *bits < COOKIE_BITS)
            .map(|bits| bits as u16)
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
    put_flow(&mut input, flow);
    siphash_2_4(k0, k1, &input)
}

fn put_flow(out: &mut [u8], flow: &FlowKey) {
    let (local, remote) = out.split_at_mut(18);
    put_address(local, flow.local);
    put_address(remote, flow.remote);
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
    fn a_cookie_opens_elsewhere_for_a_while_and_only_for_its_syn() {
        let flow = |port| FlowKey {
            local: SocketAddr::from(([10, 0, 0, 1], 80)),
            remote: SocketAddr::from(([10, 0, 0, 2], port)),
        };
        let one = InitialNumbers::new([7; 32]);
        let mut other = InitialNumbers::new([7; 32]);
        other.set_clock_offset(Duration::from_secs(1000));
        let irs = SeqNumber::new(77);
        let at = |seconds: u64| Instant::from_millis(seconds * 1000);
        for bits in [0, 1, 0x15a, 0x1ff] {
            let iss = one.cookie(at(2000), &flow(1), irs, bits);
            assert_eq!(other.cookie(at(1000), &flow(1), irs, bits), iss);
            let open = |now, port, irs, iss| other.open_cookie(now, &flow(port), irs, iss);
            assert_eq!(open(at(1001), 1, irs, iss), Some(bits));
            assert_eq!(open(at(1060), 1, irs, iss), Some(bits));
            assert_eq!(open(at(1140), 1, irs, iss), None, "too old");
            assert_eq!(open(at(1001), 2, irs, iss), None);
            assert_eq!(open(at(1001), 1, irs.add(1448), iss), None);
            assert_eq!(open(at(1001), 1, irs, iss.add(1 << 20)), None);
        }
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
