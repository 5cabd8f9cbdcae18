//! Looking ahead: with very many connections, what a segment needs lies in memory that no cache
//! holds. The frames of a batch are looked at in passes, so that the memory of many of them is
//! on its way at once instead of one after the other.

use core::hint::black_box;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Stack;
use super::flows::{self, Packed};
use super::frame::RxFrame;
use super::wire::{ETHERNET, IPV4, IPV6};

/// Frames looked at together.
pub(super) const BATCH: usize = 32;
/// With fewer connections than this the cache holds them.
const MANY: usize = 4_096;

/// The flow of a frame, if it is an ordinary segment. Nothing is checked: a wrong guess costs
/// time only.
fn guess(frame: &[u8]) -> Option<Packed> {
    let packet = frame.get(ETHERNET..)?;
    let (src, dst, header): (IpAddr, IpAddr, usize) = match packet.first()? {
        0x45 => {
            let fixed = packet.first_chunk::<IPV4>()?;
            let at = |n: usize| Ipv4Addr::new(fixed[n], fixed[n + 1], fixed[n + 2], fixed[n + 3]);
            (at(12).into(), at(16).into(), IPV4)
        }
        0x60 => {
            let addresses = packet.get(8..IPV6)?.first_chunk::<32>()?;
            let [src, dst] = addresses.as_chunks::<16>().0 else {
                return None;
            };
            let address = |octets: &[u8; 16]| Ipv6Addr::from(*octets).into();
            (address(src), address(dst), IPV6)
        }
        _ => return None,
    };
    let [r0, r1, l0, l1] = *packet.get(header..)?.first_chunk::<4>()?;
    let local = (dst, u16::from_be_bytes([l0, l1]));
    let remote = (src, u16::from_be_bytes([r0, r1]));
    Some(Packed::of_frame(&flows::flow(local, remote)))
}

impl Stack {
    /// Touch what the first [`BATCH`] of `frames` will need. Returns at which index each will
    /// find its connection.
    pub(super) fn look_ahead(&self, frames: &[RxFrame]) -> [Option<u32>; BATCH] {
        let mut found = [None; BATCH];
        if self.table.len() < MANY || frames.len() < 2 {
            return found;
        }
        let mut keys = [None; BATCH];
        for (key, frame) in keys.iter_mut().zip(frames) {
            *key = guess(&frame.bytes).map(|flow| (flow, self.flows.hash(&flow)));
        }
        for (found, key) in found.iter_mut().zip(&keys) {
            *found = key.and_then(|(flow, hash)| self.flows.find(&flow, hash));
        }
        let mut sum = 0u32;
        for index in found.iter().flatten() {
            sum = sum.wrapping_add(self.table.touch(*index));
        }
        black_box(sum);
        found
    }
}
