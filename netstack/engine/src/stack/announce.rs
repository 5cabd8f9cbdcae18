//! Saying which addresses are ours: virtual ones as the ingress, leased ones, and asking for
//! doubles of our IPv6 addresses and for whoever still answers for the virtual ones.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::frame::Interface;
use super::{Cidr, MacAddr, Stack, StackEvent, arp, ndp};
use crate::time::{Duration, Instant};

/// Gaps between the announcements of virtual addresses. All but the first are longer than the second
/// for which Linux keeps to an entry it has just learnt, and than that which has to lie between
/// unsolicited advertisements (RFC 4861 section 7.2.6).
///
/// The first are for whoever listens. The others, ever more seldom, are for hosts that were cut
/// off meanwhile: to them it is the first that they hear of the change, and without it they would send
/// to the former ingress until they have asked anew, which is for up to a minute. (RFC 4861 has three
/// advertisements for one change; RFC 5227 section 2.3 two announcements, and neither says how such a
/// host is told.)
const ANNOUNCE: [Duration; 8] = [
    Duration::from_millis(250),
    NEXT,
    NEXT,
    Duration::from_millis(2_400),
    Duration::from_millis(4_800),
    Duration::from_millis(9_600),
    Duration::from_millis(19_200),
    Duration::from_millis(19_200),
];
const NEXT: Duration = Duration::from_millis(1_200);
/// A virtual address is defended once in this time at most (RFC 5227 section 1.1).
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// The last time a virtual address was defended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Defence {
    address: IpAddr,
    at: Instant,
    /// It was said that this has not helped.
    told: bool,
}

impl Stack {
    /// Ask whether someone else has our IPv6 addresses (RFC 4862 section 5.4). The answer is
    /// counted; the addresses are used meanwhile.
    #[cold]
    #[inline(never)]
    pub(super) fn probe_own_ipv6(&mut self) {
        for interface in self.addresses.interfaces() {
            if !self.addresses.has_ipv6(interface) {
                continue;
            }
            let own = self.addresses.own_on(interface);
            let mut own: Vec<_> = own.map(|cidr| cidr.address).collect();
            own.push(self.addresses.link_local(interface).into());
            let mac = self.port(interface).mac;
            for address in own {
                if let IpAddr::V6(v6) = address {
                    let nobody = Ipv6Addr::UNSPECIFIED;
                    self.push_egress(interface, ndp::solicitation(mac, nobody, v6, None));
                }
            }
        }
    }

    /// Whether to answer ARP and NDP for the virtual addresses. On becoming true they are
    /// announced three times at once, and then more and more seldom for a minute.
    pub fn set_ingress(&mut self, now: Instant, ingress: bool) {
        if ingress && !self.ingress {
            self.ingress = true;
            self.defences.clear();
            self.announce_vips(0);
            self.announce = Some((now + ANNOUNCE[0], 1));
        } else if !ingress {
            self.ingress = false;
            self.announce = None;
        }
    }

    /// Repeat the announcement when that is due.
    pub(super) fn announce_again(&mut self, now: Instant) {
        if let Some((due, done)) = self.announce
            && due <= now
        {
            self.announce_vips(done);
            self.announce = ANNOUNCE.get(done).map(|gap| (now + *gap, done + 1));
        }
    }

    /// Ask whether somebody answers for the virtual addresses (RFC 5227 section 2.1.1, RFC 4862
    /// section 5.4): [`Stack::vip_speaker`] tells.
    pub fn probe_vips(&mut self) {
        self.vip_speaker = None;
        let mac = self.service.mac;
        for vip in self.addresses.vips().to_vec() {
            let frame = match vip {
                IpAddr::V4(vip) => arp::request(mac, Ipv4Addr::UNSPECIFIED, vip, None),
                IpAddr::V6(vip) => ndp::solicitation(mac, Ipv6Addr::UNSPECIFIED, vip, None),
            };
            self.push_egress(Interface::Service, frame);
        }
    }

    /// Who else has said, since the last [`Stack::probe_vips`], that a virtual address is his.
    pub fn vip_speaker(&self) -> Option<MacAddr> {
        self.vip_speaker
    }

    /// Somebody else says that a virtual address is his. As the ingress we say that it is ours, but
    /// no more than once in ten seconds (RFC 5227 section 2.4 c; unsolicited advertisements are
    /// held to the same), or two who both insist would fill the link. The address is not given up:
    /// whoever has the ingress role has a majority's word that nobody else may, and gives it up
    /// when that runs out.
    pub(super) fn hear_vip(&mut self, now: Instant, address: IpAddr, mac: MacAddr) {
        self.vip_speaker = Some(mac);
        if !self.ingress {
            return;
        }
        self.counters.vip_conflict += 1;
        if self.announce.is_some_and(|(due, _)| due.since(now) <= NEXT) {
            // It is announced again in a moment.
            return;
        }
        let fresh = Defence {
            address,
            at: now,
            told: false,
        };
        match self.defences.iter_mut().find(|d| d.address == address) {
            Some(last) if now.since(last.at) < DEFEND_INTERVAL => {
                self.counters.vip_not_defended += 1;
                if !core::mem::replace(&mut last.told, true) {
                    let contested = StackEvent::AddressContested { address, mac };
                    self.events.push_back(contested);
                }
                return;
            }
            Some(last) => *last = fresh,
            None => self.defences.push(fresh),
        }
        self.announce_vip(address);
    }

    /// The numbered announcement. The second comes too soon for NDP.
    fn announce_vips(&mut self, number: usize) {
        for vip in self.addresses.vips().to_vec() {
            if vip.is_ipv4() || number != 1 {
                self.announce_vip(vip);
            }
        }
    }

    fn announce_vip(&mut self, vip: IpAddr) {
        self.counters.vip_announced += 1;
        let interface = Interface::Service;
        let mac = self.service.mac;
        let frame = match vip {
            IpAddr::V4(vip) => arp::announcement(mac, vip),
            IpAddr::V6(vip) => {
                ndp::advertisement(mac, self.addresses.link_local(interface), vip, None)
            }
        };
        self.push_egress(interface, frame);
    }

    /// Take over what the DHCP client found out.
    #[cold]
    #[inline(never)]
    pub(super) fn note_lease(&mut self) {
        let Some(lease) = self.slow.take_lease() else {
            return;
        };
        let lease = lease.filter(|(cidr, _)| self.addresses.is_host(cidr.address));
        let lease = match lease {
            // Which way leads to the other members could not be told any more.
            Some((cidr, _)) if self.addresses.is_instance_network(&cidr) => {
                self.counters.dhcp_refused += 1;
                self.events.push_back(StackEvent::LeaseRefused(cidr));
                None
            }
            lease => lease,
        };
        match lease {
            Some(_) => self.counters.dhcp_configured += 1,
            None => self.counters.dhcp_lost += 1,
        }
        self.addresses.set_leased(lease);
        self.slow.set_addresses(&self.addresses);
        if let Some((
            Cidr {
                address: IpAddr::V4(address),
                ..
            },
            _,
        )) = lease
        {
            let announcement = arp::announcement(self.service.mac, address);
            self.push_egress(Interface::Service, announcement);
        }
        self.events.push_back(StackEvent::AddressesChanged);
    }
}
