//! The headers of packets that a card is to cut into segments, as such cards want them.

use super::card::ETHERNET;
use super::{Protocol, Segmentation, TxChecksum, TxPacket};

/// Where an IPv4 header has its checksum.
pub(super) const IPV4_CHECKSUM: usize = ETHERNET + 10;
/// Where a TCP header has its length in words, in the upper half of a byte.
const TCP_LENGTH: usize = 12;

/// Sizes of a packet that is to be cut, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Where TCP's header begins.
    pub(super) start: usize,
    /// All headers.
    pub(super) headers: usize,
    /// What is behind them.
    pub(super) payload: usize,
}

impl Cut {
    /// Makes `packet` ready: the checksum of the pseudo-header must not know the length of the whole,
    /// and that of IPv4 is empty. `None` if it is no packet to be cut.
    pub(super) fn of(packet: &mut TxPacket, sum: TxChecksum, cut: Segmentation) -> Option<Self> {
        let total = packet.len();
        let start = usize::from(sum.start);
        // Whoever asks for this knows the headers, and has them in the head.
        let words = packet.head.get(start + TCP_LENGTH)? >> 4;
        let headers = start + usize::from(words) * 4;
        let payload = total.checked_sub(headers)?;
        if cut.size == 0 || payload == 0 || packet.head.len() < headers {
            return None;
        }
        let (field, transport_length) = (start + usize::from(sum.offset), total - start);
        let partial = packet.head.get_mut(field..field + 2)?;
        let value = u16::from_be_bytes([*partial.first()?, *partial.get(1)?]);
        partial.copy_from_slice(&without(value, transport_length as u16).to_be_bytes());
        if cut.protocol == Protocol::TcpIpv4 {
            let checksum = IPV4_CHECKSUM..IPV4_CHECKSUM + 2;
            packet.head.get_mut(checksum)?.fill(0);
        }
        Some(Self {
            start,
            headers,
            payload,
        })
    }
}

/// A one's complement sum without `length`, that was added to it.
fn without(sum: u16, length: u16) -> u16 {
    let (value, carry) = sum.overflowing_add(!length);
    value + u16::from(carry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taking_a_length_out_of_a_sum_undoes_putting_it_in() {
        for sum in [0u16, 1, 0x1234, 0xfff0, 0xfffe] {
            for length in [1u16, 20, 0x1000, 0xffff - 20] {
                let (value, carry) = sum.overflowing_add(length);
                let with = value + u16::from(carry);
                let undone = without(with, length);
                assert!(
                    undone == sum || (undone, sum) == (0xffff, 0),
                    "{sum} {length}"
                );
            }
        }
    }
}
