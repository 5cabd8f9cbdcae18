//! Passing frames on to another instance at layer 2, as a router would: own source MAC, the
//! member's MAC as destination, TTL or hop limit one less, everything else as it came. What a device
//! merged is left to our device to cut again, or cut here. Where the instances have a network of
//! their own, that is the way: the owner answers the client through the network that the client is in.

use core::net::IpAddr;

use super::addresses::Hop;
use super::checksum::{self, Sum};
use super::cut::{Cut, tcp_header};
use super::frame::{Interface, RxChecksum, RxFrame, TxChecksum, TxFrame};
use super::wire::{ETHERNET, Ip, TCP};
use super::{MacAddr, Stack, ndp};
use crate::time::Instant;

/// Where the checksum lies in a TCP header.
const TCP_CHECKSUM: usize = 16;
/// Take one off the TTL or hop limit of the IP header at octet [`ETHERNET`]; false if nothing is
/// left of it.
pub(super) fn age(frame: &mut [u8]) -> bool {
    match frame.get_mut(ETHERNET..) {
        Some([version, rest @ ..]) if *version >> 4 == 4 => {
            let Some([ttl, protocol, sum @ ..]) = rest.get_mut(7..11) else {
                return false;
            };
            let ([s0, s1], true) = (sum, *ttl > 1) else {
                return false;
            };
            let old = u16::from_be_bytes([*ttl, *protocol]);
            *ttl -= 1;
            let new = u16::from_be_bytes([*ttl, *protocol]);
            [*s0, *s1] = checksum::update(u16::from_be_bytes([*s0, *s1]), old, new).to_be_bytes();
            true
        }
        Some([_, rest @ ..]) => match rest.get_mut(6) {
            Some(hops) if *hops > 1 => {
                *hops -= 1;
                true
            }
            _ => false,
        },
        _ => false,
    }
}

/// The frame to send on for a received one, but for the destination MAC. `None` if its TTL is
/// used up.
fn forwarded(
    frame: &RxFrame,
    ip: &Ip,
    (interface, mac): (Interface, MacAddr),
    offload: bool,
    cut: bool,
) -> Option<TxFrame> {
    let mut out = TxFrame {
        interface,
        segmentation: frame.segmentation.filter(|_| cut),
        ..TxFrame::default()
    };
    let transport = ip.payload.start;
    out.head.extend_from_slice(frame.bytes.get(..transport)?);
    out.head.get_mut(6..12)?.copy_from_slice(&mac);
    ndp::set_destination(&mut out, [0; 6]);
    if !age(&mut out.head) {
        return None;
    }
    let mut start = transport;
    // The device vouches for the content, but the field may hold just the pseudo-header's sum.
    let header = tcp_header(&frame.bytes, transport).filter(|header| *header <= ip.payload.len());
    let header = header.filter(|_| frame.checksum == RxChecksum::Verified && ip.protocol == TCP);
    if let Some(header) = header {
        start += header;
        let header = frame.bytes.get(transport..start)?;
        out.head.extend_from_slice(header);
    }
    let end = ip.payload.end.min(frame.bytes.len());
    if start < end {
        out.payload.push(frame.bytes.slice(start..end));
    }
    out.payload.extend(frame.rest(ip.payload.end));
    if header.is_some() {
        let field = transport + TCP_CHECKSUM;
        out.head.get_mut(field..field + 2)?.fill(0);
        let mut sum = Sum::new();
        sum.add_pseudo_header(ip.src, ip.dst, TCP, ip.payload.len());
        let value = if offload || cut {
            out.checksum = Some(TxChecksum {
                start: transport as u16,
                offset: TCP_CHECKSUM as u16,
            });
            sum.sum()
        } else {
            sum.add(out.head.get(transport..)?);
            for piece in &out.payload {
                sum.add(piece);
            }
            sum.finish()
        };
        out.head
            .get_mut(field..field + 2)?
            .copy_from_slice(&value.to_be_bytes());
    }
    Some(out)
}

impl Stack {
    /// Pass a frame on to the instance at `to`.
    pub(super) fn forward(&mut self, now: Instant, frame: &RxFrame, ip: &Ip, to: IpAddr) {
        let interface = self.addresses.peers_interface();
        if !self.addresses.is_on_link(interface, to) || self.addresses.is_own(to) {
            self.counters.tx_no_route += 1;
            return;
        }
        let address = to;
        let to = Hop { address, interface };
        let port = *self.port(interface);
        let fits = ip.payload.end - ETHERNET <= usize::from(self.mtu);
        // What a device says of a frame need not fit the frame.
        let merged = frame
            .segmentation
            .filter(|merged| ip.protocol == TCP && merged.ipv6 == ip.src.is_ipv6());
        let cut = merged.is_some() && self.cuts(interface, ip.src);
        let merged = merged.filter(|_| !fits && !cut);
        if !fits && !cut && merged.is_none() {
            self.counters.forward_too_big += 1;
            return;
        }
        let offload = port.capabilities.tx_checksum;
        let from = (interface, port.mac);
        // To be cut here, it needs no sum of its own.
        let out = forwarded(frame, ip, from, offload || merged.is_some(), cut);
        let Some(out) = out else {
            self.counters.forward_ttl_exceeded += 1;
            return;
        };
        let Some(merged) = merged else {
            self.counters.forwarded += 1;
            return self.send_to_neighbour(now, to, out);
        };
        let Some(pieces) = Cut::again(out, ip, merged.segment_size, offload) else {
            self.counters.forward_too_big += 1;
            return;
        };
        for piece in pieces {
            // Said of it is how large it was.
            if piece.len() - ETHERNET > usize::from(self.mtu) {
                self.counters.forward_too_big += 1;
                return;
            }
            self.counters.forwarded += 1;
            self.send_to_neighbour(now, to, piece);
        }
    }
}
