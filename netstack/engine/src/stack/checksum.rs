//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use core::net::IpAddr;

/// A one's-complement sum over octets that may come in pieces of any length.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum {
    total: u64,
    /// Whether an odd number of octets has been added so far.
    odd: bool,
}

impl Sum {
    pub(super) fn new() -> Sum {
        Sum::default()
    }

    /// Add octets.
    pub(super) fn add(&mut self, octets: &[u8]) {
        // Sums of native words are byte-swapped sums of network words, so they are swapped once.
        // The sum of the upper halves cannot overflow 64 bits. That of the whole words does, but
        // modulo 2^64 it is enough: less the upper halves, in their place, it is the sum of the
        // lower halves, which cannot overflow either. The compiler adds several words at a time
        // with what every x86-64 has, and nothing needs masking.
        let (words, rest) = octets.as_chunks::<8>();
        let (mut whole, mut upper) = (0u64, 0u64);
        for word in words {
            let word = u64::from_ne_bytes(*word);
            whole = whole.wrapping_add(word);
            upper += word >> 32;
        }
        let mut native = upper + whole.wrapping_sub(upper << 32);
        let (words, rest) = rest.as_chunks::<2>();
        for word in words {
            native += u64::from(u16::from_ne_bytes(*word));
        }
        if let [last] = rest {
            native += u64::from(u16::from_ne_bytes([*last, 0]));
        }
        let mut sum = u16::from_be(fold(native));
        if self.odd {
            sum = sum.swap_bytes();
        }
        self.total += u64::from(sum);
        self.odd ^= octets.len() % 2 == 1;
    }

    /// Add a word.
    pub(super) fn add_word(&mut self, word: u16) {
        self.total += u64::from(if self.odd { word.swap_bytes() } else { word });
    }

    /// Add the pseudo-header of TCP, UDP or ICMPv6 with `length` octets of transport.
    pub(super) fn add_pseudo_header(
        &mut self,
        src: IpAddr,
        dst: IpAddr,
        protocol: u8,
        length: usize,
    ) {
        for address in [src, dst] {
            match address {
                IpAddr::V4(v4) => self.add(&v4.octets()),
                IpAddr::V6(v6) => self.add(&v6.octets()),
            }
        }
        self.add_word(u16::from(protocol));
        self.add(&(length as u32).to_be_bytes());
    }

    /// The sum, not inverted.
    pub(super) fn sum(self) -> u16 {
        fold(self.total)
    }

    /// The checksum as it goes into a header.
    pub(super) fn finish(self) -> u16 {
        !self.sum()
    }
}

fn fold(total: u64) -> u16 {
    // As many steps as any number needs: a loop that may end sooner is guessed wrong too often.
    let total = (total & 0xffff_ffff) + (total >> 32);
    let total = (total & 0xffff_ffff) + (total >> 32);
    let total = (total & 0xffff) + (total >> 16);
    let total = (total & 0xffff) + (total >> 16);
    total as u16
}

/// `checksum` after a 16-bit word it covers changed from `old` to `new` (RFC 1624 equation 3).
pub(super) fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(u64::from(!checksum) + u64::from(!old) + u64::from(new))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071 as it is written, word by word.
    fn plain(octets: &[u8]) -> u16 {
        let mut total = 0u32;
        for pair in octets.chunks(2) {
            total += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            total = (total & 0xffff) + (total >> 16);
        }
        !(total as u16)
    }

    #[test]
    fn pieces_of_any_length_sum_like_the_whole() {
        let octets: Vec<u8> = (0..601u32).map(|i| (i * 131 % 251) as u8).collect();
        for a in 0..40 {
            for b in [a, a + 1, a + 7, a + 64, 600] {
                let mut sum = Sum::new();
                sum.add(&octets[..a]);
                sum.add(&octets[a..b]);
                sum.add(&octets[b..]);
                assert_eq!(sum.finish(), plain(&octets), "cut at {a} and {b}");
            }
        }
    }

    #[test]
    fn an_incremental_update_equals_summing_again() {
        let mut octets: Vec<u8> = (0..20u8).map(|i| i.wrapping_mul(37)).collect();
        for ttl in [1u8, 2, 64, 255] {
            octets[8] = ttl;
            octets[10..12].fill(0);
            let before = plain(&octets);
            let old = u16::from_be_bytes([octets[8], octets[9]]);
            octets[8] -= 1;
            let new = u16::from_be_bytes([octets[8], octets[9]]);
            assert_eq!(update(before, old, new), plain(&octets));
        }
    }
}
