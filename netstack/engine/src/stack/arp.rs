//! ARP (RFC 826): answers for own and, as ingress, virtual addresses; questions from own
//! addresses only. One request with a virtual address as its sender would steal the clients'
//! entries from the ingress.

use core::net::{IpAddr, Ipv4Addr};

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};

use super::addresses::Hop;
use super::frame::{Interface, TxFrame};
use super::wire::{self, BROADCAST, ETHERNET, ETHERTYPE_ARP, Ethernet};
use super::{MacAddr, Stack};
use crate::time::Instant;

/// An ARP frame.
fn frame(
    operation: ArpOperation,
    to: MacAddr,
    source: (MacAddr, Ipv4Addr),
    target: (MacAddr, Ipv4Addr),
) -> TxFrame {
    let repr = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(source.0),
        source_protocol_addr: source.1,
        target_hardware_addr: EthernetAddress(target.0),
        target_protocol_addr: target.1,
    };
    let mut frame = TxFrame::default();
    Ethernet {
        dst: to,
        src: source.0,
        ethertype: ETHERTYPE_ARP,
    }
    .emit(&mut frame.head);
    frame.head.resize(ETHERNET + repr.buffer_len(), 0);
    repr.emit(&mut ArpPacket::new_unchecked(&mut frame.head[ETHERNET..]));
    frame
}

/// The question who has `target`, to everyone or to where it was last.
pub(super) fn request(
    mac: MacAddr,
    source: Ipv4Addr,
    target: Ipv4Addr,
    at: Option<MacAddr>,
) -> TxFrame {
    let to = at.unwrap_or(BROADCAST);
    frame(ArpOperation::Request, to, (mac, source), ([0; 6], target))
}

/// The news that `address` is at `mac` (RFC 5227 section 2.3).
pub(super) fn announcement(mac: MacAddr, address: Ipv4Addr) -> TxFrame {
    request(mac, address, address, None)
}

impl Stack {
    pub(super) fn handle_arp(&mut self, now: Instant, interface: Interface, frame: &[u8]) {
        let ours = self.port(interface).mac;
        self.counters.arp_received += 1;
        let packet = ArpPacket::new_checked(frame.get(ETHERNET..).unwrap_or_default());
        let Ok(ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: EthernetAddress(source_mac),
            source_protocol_addr: source,
            target_protocol_addr: target,
            ..
        }) = packet.and_then(|packet| ArpRepr::parse(&packet))
        else {
            self.counters.arp_ignored += 1;
            return;
        };
        if !wire::is_unicast(&source_mac) || source_mac == ours {
            self.counters.arp_ignored += 1;
            return;
        }
        let answer =
            operation == ArpOperation::Request && self.answers_for(interface, IpAddr::V4(target));
        let address = source.into();
        let hop = Hop { address, interface };
        if !source.is_unspecified() && !self.note_neighbour(now, hop, source_mac, answer) {
            self.counters.arp_ignored += 1;
            return;
        }
        if answer {
            self.counters.neighbour_answered += 1;
            let source = (source_mac, source);
            let reply = self::frame(ArpOperation::Reply, source_mac, (ours, target), source);
            self.push_egress(interface, reply);
        }
    }

    /// Whether ARP and NDP questions for `address` that come in there are ours to answer.
    pub(super) fn answers_for(&self, interface: Interface, address: IpAddr) -> bool {
        let answers = self.ingress && interface == Interface::Service;
        self.addresses.is_own_on(interface, address) || (answers && self.addresses.is_vip(address))
    }

    /// A neighbour said that `hop` is at `mac`. False if that cannot be: the address is ours,
    /// not on the link or not a host's.
    pub(super) fn note_neighbour(
        &mut self,
        now: Instant,
        hop: Hop,
        mac: MacAddr,
        create: bool,
    ) -> bool {
        let Hop { address, interface } = hop;
        if self.addresses.is_own_on(interface, address) {
            self.counters.address_conflict += 1;
            return false;
        }
        if self.addresses.is_vip(address) {
            // In the other network it means nothing.
            if interface == Interface::Service {
                self.hear_vip(now, address, mac);
            }
            return false;
        }
        if !self.addresses.is_host(address) || !self.addresses.is_on_link(interface, address) {
            return false;
        }
        if let Some(released) = self.neighbours.learn(now, hop, mac, create) {
            self.release(mac, released);
        }
        true
    }
}
