//! Neighbour discovery (RFC 4861): the part of it that hosts need to find each other.

use core::net::{IpAddr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, Icmpv6Packet, Icmpv6Repr, NdiscNeighborFlags, NdiscRepr, RawHardwareAddress,
};

use super::addresses::{Hop, solicited_node};
use super::frame::{Interface, TxFrame};
use super::wire::{self, ICMPV6, Ip, IpHeader};
use super::{MacAddr, Stack};
use crate::time::Instant;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Messages that crossed a router are not from a neighbour.
const HOP_LIMIT: u8 = 255;

#[cold]
#[inline(never)]
fn frame(mac: MacAddr, src: Ipv6Addr, dst: Ipv6Addr, repr: NdiscRepr<'_>) -> TxFrame {
    let repr = Icmpv6Repr::Ndisc(repr);
    let mut frame = TxFrame::default();
    IpHeader {
        src: src.into(),
        dst: dst.into(),
        protocol: ICMPV6,
        hop_limit: HOP_LIMIT,
        ecn: 0,
        length: repr.buffer_len(),
        fragments: None,
    }
    .emit(mac, &mut frame.head);
    let start = frame.head.len();
    frame.head.resize(start + repr.buffer_len(), 0);
    let mut packet = Icmpv6Packet::new_unchecked(&mut frame.head[start..]);
    repr.emit(&src, &dst, &mut packet, &ChecksumCapabilities::default());
    if let Some(group) = wire::group_mac(dst.into()) {
        set_destination(&mut frame, group);
    }
    frame
}

/// Fill in the destination MAC address of a frame.
pub(super) fn set_destination(frame: &mut TxFrame, mac: MacAddr) {
    if let Some(place) = frame.head.get_mut(..6) {
        place.copy_from_slice(&mac);
    }
}

/// The question who has `target`, to its solicited-node group or to where it was last.
pub(super) fn solicitation(
    mac: MacAddr,
    source: Ipv6Addr,
    target: Ipv6Addr,
    at: Option<MacAddr>,
) -> TxFrame {
    // Asking whether an address is free says nothing of the asker (section 4.3).
    let lladdr = (!source.is_unspecified()).then(|| EthernetAddress(mac).into());
    let dst = if at.is_some() {
        target
    } else {
        solicited_node(target)
    };
    let repr = NdiscRepr::NeighborSolicit {
        target_addr: target,
        lladdr,
    };
    let mut frame = frame(mac, source, dst, repr);
    if let Some(at) = at {
        set_destination(&mut frame, at);
    }
    frame
}

/// The statement that `target` is at `mac`; `to` nobody in particular if `None`.
pub(super) fn advertisement(
    mac: MacAddr,
    source: Ipv6Addr,
    target: Ipv6Addr,
    to: Option<Ipv6Addr>,
) -> TxFrame {
    let mut flags = NdiscNeighborFlags::OVERRIDE;
    if to.is_some() {
        flags |= NdiscNeighborFlags::SOLICITED;
    }
    let repr = NdiscRepr::NeighborAdvert {
        flags,
        target_addr: target,
        lladdr: Some(EthernetAddress(mac).into()),
    };
    frame(mac, source, to.unwrap_or(ALL_NODES), repr)
}

fn ethernet(address: Option<RawHardwareAddress>) -> Option<MacAddr> {
    <[u8; 6]>::try_from(address?.as_bytes())
        .ok()
        .filter(wire::is_unicast)
}

impl Stack {
    /// A neighbour discovery message (types 133 to 137), its checksum verified.
    pub(super) fn handle_ndp(
        &mut self,
        now: Instant,
        interface: Interface,
        ip: &Ip,
        message: &[u8],
    ) {
        self.counters.ndp_received += 1;
        if !self.take_ndp(now, interface, ip, message) {
            self.counters.ndp_ignored += 1;
        }
    }

    fn take_ndp(&mut self, now: Instant, interface: Interface, ip: &Ip, message: &[u8]) -> bool {
        let (IpAddr::V6(src), IpAddr::V6(_)) = (ip.src, ip.dst) else {
            return false;
        };
        let Ok(packet) = Icmpv6Packet::new_checked(message) else {
            return false;
        };
        if ip.hop_limit != HOP_LIMIT || packet.msg_code() != 0 {
            return false;
        }
        match NdiscRepr::parse(&packet) {
            Ok(NdiscRepr::NeighborSolicit {
                target_addr,
                lladdr,
            }) => self.take_solicitation(now, interface, src, target_addr, ethernet(lladdr)),
            Ok(NdiscRepr::NeighborAdvert {
                flags,
                target_addr,
                lladdr,
            }) => {
                let Some(mac) = ethernet(lladdr) else {
                    return false;
                };
                let address = IpAddr::V6(target_addr);
                let target = Hop { address, interface };
                let known = self.neighbours.peek(target);
                // Without the override flag an entry with another address stays (section 7.2.5).
                if known.is_some_and(|known| known != mac)
                    && !flags.contains(NdiscNeighborFlags::OVERRIDE)
                {
                    return false;
                }
                self.note_neighbour(now, target, mac, false)
            }
            _ => false,
        }
    }

    fn take_solicitation(
        &mut self,
        now: Instant,
        interface: Interface,
        src: Ipv6Addr,
        target: Ipv6Addr,
        mac: Option<MacAddr>,
    ) -> bool {
        let answer = self.answers_for(interface, target.into());
        let address = src.into();
        let hop = Hop { address, interface };
        if !src.is_unspecified() {
            if let Some(mac) = mac
                && !self.note_neighbour(now, hop, mac, answer)
            {
                return false;
            }
        } else if mac.is_some() {
            return false;
        }
        if !answer {
            return false;
        }
        self.counters.neighbour_answered += 1;
        // An own address answers for itself; for a virtual one the link-local address does.
        let source = if self.addresses.is_own(target.into()) {
            target
        } else {
            self.addresses.link_local(interface)
        };
        let ours = self.port(interface).mac;
        if src.is_unspecified() {
            self.push_egress(interface, advertisement(ours, source, target, None));
        } else {
            let frame = advertisement(ours, source, target, Some(src));
            self.send_ip(now, interface, hop.address, frame);
        }
        true
    }
}
