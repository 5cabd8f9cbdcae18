//! Own and virtual addresses, and which neighbour a packet goes to next.
//!
//! An address belongs to one interface (RFC 1122 section 3.3.4.2, the strong host model): it is spoken to
//! and answered for there and nowhere else, and a packet leaves through the interface of the address it is
//! from. So nothing strays from one network into the other, whatever addresses strangers claim to have.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr};

use super::frame::Interface;
use super::{Cidr, InstanceNetwork, MacAddr};

/// The addresses of a stack.
#[derive(Debug)]
pub(super) struct Addresses {
    own: Vec<Cidr>,
    leased: Option<(Cidr, Option<IpAddr>)>,
    vips: Vec<IpAddr>,
    gateways: Vec<IpAddr>,
    link_local: Ipv6Addr,
    /// Those of the instance network, if it is another one.
    instance: Option<Box<Side>>,
}

impl Cidr {
    /// Whether `address` has this prefix.
    pub fn contains(&self, address: IpAddr) -> bool {
        contains(self, address)
    }

    /// Whether some address has both prefixes.
    pub fn overlaps(&self, other: &Cidr) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }
}

/// What one interface has.
#[derive(Debug)]
struct Side {
    own: Vec<Cidr>,
    gateways: Vec<IpAddr>,
    link_local: Ipv6Addr,
}

impl Side {
    fn has_ipv6(&self) -> bool {
        self.own.iter().any(|cidr| cidr.address.is_ipv6())
    }

    fn is_own(&self, address: IpAddr) -> bool {
        self.own.iter().any(|cidr| cidr.address == address)
            || (address == IpAddr::V6(self.link_local) && self.has_ipv6())
    }
}

/// A neighbour, or somebody to be reached by way of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Hop {
    pub(super) address: IpAddr,
    pub(super) interface: Interface,
}

impl Addresses {
    pub(super) fn new(
        mac: MacAddr,
        own: &[Cidr],
        vips: &[IpAddr],
        gateways: &[IpAddr],
    ) -> Addresses {
        Addresses {
            own: own.to_vec(),
            leased: None,
            vips: vips.to_vec(),
            gateways: gateways.to_vec(),
            link_local: link_local(mac),
            instance: None,
        }
    }

    /// Add those of an instance network.
    #[cold]
    #[inline(never)]
    pub(super) fn with_instance(mut self, network: Option<&InstanceNetwork>) -> Addresses {
        self.instance = network.map(|network| {
            Box::new(Side {
                own: network.addresses.clone(),
                gateways: network.gateways.clone(),
                link_local: link_local(network.mac),
            })
        });
        self
    }

    /// Where the other instances are.
    pub(super) fn peers_interface(&self) -> Interface {
        match self.instance {
            Some(_) => Interface::Instance,
            None => Interface::Service,
        }
    }

    /// The interfaces there are.
    pub(super) fn interfaces(&self) -> impl Iterator<Item = Interface> + use<> {
        let instance = self.instance.is_some().then_some(Interface::Instance);
        core::iter::once(Interface::Service).chain(instance)
    }

    /// Put in, change or take away the address leased by DHCP and the gateway that came with it.
    pub(super) fn set_leased(&mut self, lease: Option<(Cidr, Option<IpAddr>)>) {
        self.leased = lease;
    }

    /// Own addresses with their prefixes, without link-local ones.
    pub(super) fn own(&self) -> Vec<Cidr> {
        let mut own = self.own.clone();
        if let Some((cidr, _)) = self.leased {
            own.push(cidr);
        }
        if let Some(side) = &self.instance {
            own.extend_from_slice(&side.own);
        }
        own
    }

    /// Those of one interface.
    pub(super) fn own_on(&self, interface: Interface) -> impl Iterator<Item = &Cidr> {
        let (own, leased) = match (interface, &self.instance) {
            (Interface::Service, _) => (self.own.as_slice(), self.leased.as_ref()),
            (Interface::Instance, Some(side)) => (side.own.as_slice(), None),
            (Interface::Instance, None) => ([].as_slice(), None),
        };
        own.iter().chain(leased.map(|(cidr, _)| cidr))
    }

    /// Virtual addresses.
    pub(super) fn vips(&self) -> &[IpAddr] {
        &self.vips
    }

    /// The link-local address of an interface.
    pub(super) fn link_local(&self, interface: Interface) -> Ipv6Addr {
        match (interface, &self.instance) {
            (Interface::Instance, Some(side)) => side.link_local,
            _ => self.link_local,
        }
    }

    /// Whether IPv6 is in use on an interface at all.
    pub(super) fn has_ipv6(&self, interface: Interface) -> bool {
        match interface {
            Interface::Service => {
                self.own.iter().any(|cidr| cidr.address.is_ipv6())
                    || self.vips.iter().any(IpAddr::is_ipv6)
            }
            Interface::Instance => self.instance.as_ref().is_some_and(|side| side.has_ipv6()),
        }
    }

    /// Whether `address` is an own one of any interface, link-local ones included.
    pub(super) fn is_own(&self, address: IpAddr) -> bool {
        self.is_own_on(Interface::Service, address)
            || self.instance.is_some() && self.is_own_on(Interface::Instance, address)
    }

    /// Whether `address` is an own one of that interface, the link-local one included.
    pub(super) fn is_own_on(&self, interface: Interface, address: IpAddr) -> bool {
        match interface {
            Interface::Service => {
                let leased = self.leased.as_ref().map(|(cidr, _)| cidr);
                let mut own = self.own.iter().chain(leased);
                own.any(|cidr| cidr.address == address)
                    || (address == IpAddr::V6(self.link_local) && self.has_ipv6(interface))
            }
            Interface::Instance => {
                let side = self.instance.as_ref();
                side.is_some_and(|side| side.is_own(address))
            }
        }
    }

    /// The interface that an own or virtual address belongs to.
    pub(super) fn interface_of(&self, own: IpAddr) -> Interface {
        match &self.instance {
            Some(side) if side.is_own(own) => Interface::Instance,
            _ => Interface::Service,
        }
    }

    /// Whether `address` is a virtual one.
    pub(super) fn is_vip(&self, address: IpAddr) -> bool {
        self.vips.contains(&address)
    }

    /// Whether `address` can name one host and is not the broadcast address of a prefix here.
    pub(super) fn is_host(&self, address: IpAddr) -> bool {
        !address.is_unspecified()
            && !address.is_multicast()
            && !address.is_loopback()
            && !is_mapped(address)
            && !is_nobody(address)
            && !self.is_broadcast(address)
    }

    /// Whether `address` is the limited broadcast address or that of a prefix here.
    #[inline(never)]
    pub(super) fn is_broadcast(&self, address: IpAddr) -> bool {
        let IpAddr::V4(v4) = address else {
            return false;
        };
        let is_last = |cidr: &Cidr| match cidr.address {
            IpAddr::V4(_) if cidr.prefix >= 31 => false,
            IpAddr::V4(own) => v4.to_bits() == own.to_bits() | !mask4(cidr.prefix),
            IpAddr::V6(_) => false,
        };
        let instance = self.instance.as_ref();
        v4.is_broadcast()
            || self.own_on(Interface::Service).any(is_last)
            || instance.is_some_and(|side| side.own.iter().any(is_last))
    }

    /// Whether `address` is reached without a gateway through an interface.
    pub(super) fn is_on_link(&self, interface: Interface, address: IpAddr) -> bool {
        is_link_local(address) || self.own_on(interface).any(|cidr| contains(cidr, address))
    }

    /// The neighbour with this address, if it can be one. One whose address says nothing about where it is
    /// (a link-local one) is a client's.
    #[inline(never)]
    pub(super) fn neighbour(&self, address: IpAddr) -> Option<Hop> {
        let mut interfaces = self.interfaces();
        let interface = interfaces.find(|interface| self.is_on_link(*interface, address))?;
        Some(Hop { address, interface })
    }

    /// The neighbour a packet from `src` to `dst` goes to.
    pub(super) fn next_hop(&self, src: IpAddr, dst: IpAddr) -> Option<Hop> {
        self.next_hop_on(self.interface_of(src), dst)
    }

    /// The neighbour a packet to `dst` goes to, if it leaves through that interface.
    #[inline(never)]
    pub(super) fn next_hop_on(&self, interface: Interface, dst: IpAddr) -> Option<Hop> {
        let hop = |address| Hop { address, interface };
        if self.is_on_link(interface, dst) {
            return Some(hop(dst));
        }
        let gateways = match (interface, &self.instance) {
            (Interface::Instance, Some(side)) => &side.gateways,
            _ => &self.gateways,
        };
        let leased = self.leased.as_ref().and_then(|(_, gateway)| *gateway);
        gateways
            .iter()
            .copied()
            .chain(leased.filter(|_| interface == Interface::Service))
            .find(|gateway| gateway.is_ipv4() == dst.is_ipv4())
            .map(hop)
    }

    /// The own address to speak to `remote` from: one of its prefix, else any of its family, the service
    /// network's first. Never a virtual one.
    #[cold]
    #[inline(never)]
    pub(super) fn source_for(&self, remote: IpAddr) -> Option<IpAddr> {
        let on = |interface| self.source_on(interface, remote);
        match self.neighbour(remote) {
            Some(hop) => on(hop.interface),
            None => self.interfaces().find_map(on),
        }
    }

    /// The same, of one interface.
    #[cold]
    #[inline(never)]
    pub(super) fn source_on(&self, interface: Interface, remote: IpAddr) -> Option<IpAddr> {
        let link_local = || {
            let ours = IpAddr::V6(self.link_local(interface));
            (remote.is_ipv6() && self.has_ipv6(interface)).then_some(ours)
        };
        if is_link_local(remote) {
            return link_local();
        }
        let same_family = |cidr: &&Cidr| cidr.address.is_ipv4() == remote.is_ipv4();
        self.own_on(interface)
            .find(|cidr| contains(cidr, remote))
            .or_else(|| self.own_on(interface).find(same_family))
            .map(|cidr| cidr.address)
            .or_else(link_local)
    }

    /// Whether a prefix has addresses in common with the instance network.
    #[cold]
    #[inline(never)]
    pub(super) fn is_instance_network(&self, cidr: &Cidr) -> bool {
        let mut own = self.own_on(Interface::Instance);
        own.any(|other| other.overlaps(cidr))
    }
}

/// Whether it stands for an IPv4 address within a host: it is never on the wire (RFC 6890, table 20).
fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

/// The link-local address of a MAC address (RFC 4291 appendix A: modified EUI-64).
pub(super) fn link_local(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    Ipv6Addr::from([
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        a ^ 2,
        b,
        c,
        0xff,
        0xfe,
        d,
        e,
        f,
    ])
}

/// The group in which the owner of `address` is asked for (RFC 4291 section 2.7.1).
pub(super) fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let o = address.octets();
    Ipv6Addr::from([
        0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, o[13], o[14], o[15],
    ])
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn mask4(prefix: u8) -> u32 {
    u32::MAX
        .checked_shl(32 - u32::from(prefix.min(32)))
        .unwrap_or(0)
}

fn mask6(prefix: u8) -> u128 {
    u128::MAX
        .checked_shl(128 - u32::from(prefix.min(128)))
        .unwrap_or(0)
}

fn contains(cidr: &Cidr, address: IpAddr) -> bool {
    match (cidr.address, address) {
        (IpAddr::V4(own), IpAddr::V4(other)) => {
            (own.to_bits() ^ other.to_bits()) & mask4(cidr.prefix) == 0
        }
        (IpAddr::V6(own), IpAddr::V6(other)) => {
            (own.to_bits() ^ other.to_bits()) & mask6(cidr.prefix) == 0
        }
        _ => false,
    }
}

/// Whether `address` is of "this network" or reserved (RFC 1122 section 3.2.1.3, RFC 1112 section 4).
fn is_nobody(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => matches!(v4.octets()[0], 0 | 240..),
        IpAddr::V6(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn addresses() -> Addresses {
        let own = [
            Cidr {
                address: ip("10.77.0.11"),
                prefix: 24,
            },
            Cidr {
                address: ip("fd77::11"),
                prefix: 64,
            },
        ];
        Addresses::new(
            [2, 0, 0, 0, 0, 0x11],
            &own,
            &[ip("10.77.0.10"), ip("fd77::10")],
            &[ip("10.77.0.1")],
        )
    }

    #[test]
    fn far_addresses_go_to_the_gateway_of_their_family_only() {
        let addresses = addresses();
        let next = |dst| {
            let hop = addresses.next_hop(ip("10.77.0.11"), ip(dst))?;
            Some(hop.address)
        };
        assert_eq!(next("10.77.0.9"), Some(ip("10.77.0.9")));
        assert_eq!(next("192.0.2.1"), Some(ip("10.77.0.1")));
        assert_eq!(next("fd77::1"), Some(ip("fd77::1")));
        assert_eq!(next("2001:db8::1"), None);
        assert_eq!(next("fe80::1"), Some(ip("fe80::1")));
    }

    #[test]
    fn a_virtual_address_is_never_chosen_as_source() {
        let addresses = addresses();
        for remote in [
            "10.77.0.10",
            "10.77.0.1",
            "192.0.2.1",
            "fd77::10",
            "fe80::9",
        ] {
            let source = addresses.source_for(ip(remote)).unwrap();
            assert!(
                addresses.is_own(source) && !addresses.is_vip(source),
                "{remote}"
            );
        }
    }

    #[test]
    fn broadcasts_are_no_hosts() {
        let addresses = addresses();
        for address in [
            "10.77.0.255",
            "255.255.255.255",
            "224.0.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "240.0.0.1",
            "ff02::1",
            "::",
            "::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(!addresses.is_host(ip(address)), "{address}");
        }
        assert!(addresses.is_host(ip("10.77.1.255")));
    }

    #[test]
    fn derived_addresses_follow_rfc_4291() {
        assert_eq!(
            IpAddr::V6(link_local([0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde])),
            ip("fe80::3656:78ff:fe9a:bcde")
        );
        let IpAddr::V6(target) = ip("4037::01:800:200e:8c6c") else {
            unreachable!()
        };
        assert_eq!(IpAddr::V6(solicited_node(target)), ip("ff02::1:ff0e:8c6c"));
    }

    #[test]
    fn odd_prefixes_do_not_overflow() {
        let own = [0, 1, 31, 32, 33, 255].map(|prefix| Cidr {
            address: ip("10.0.0.1"),
            prefix,
        });
        let addresses = Addresses::new([2; 6], &own, &[], &[]);
        assert!(
            addresses.is_on_link(Interface::Service, ip("203.0.113.1")),
            "a prefix of 0 spans everything"
        );
    }

    /// The same with an instance network.
    fn two_networks() -> Addresses {
        let cidr = |address, prefix| Cidr {
            address: ip(address),
            prefix,
        };
        addresses().with_instance(Some(&InstanceNetwork {
            mac: [2, 0, 0, 0, 1, 0x11],
            mtu: 1500,
            capabilities: Default::default(),
            addresses: std::vec![cidr("10.88.0.11", 24), cidr("fd88::11", 64)],
            gateways: std::vec![ip("10.88.0.1")],
        }))
    }

    #[test]
    fn a_packet_leaves_through_the_interface_of_the_address_it_is_from() {
        use Interface::{Instance, Service};
        let addresses = two_networks();
        for (src, dst, interface, hop) in [
            ("10.77.0.10", "192.0.2.1", Service, "10.77.0.1"),
            ("10.77.0.11", "10.77.0.9", Service, "10.77.0.9"),
            ("10.88.0.11", "192.0.2.1", Instance, "10.88.0.1"),
            ("10.88.0.11", "10.88.0.12", Instance, "10.88.0.12"),
            // A client that has, or says that it has, an address of the other network.
            ("10.77.0.10", "10.88.0.12", Service, "10.77.0.1"),
            ("10.88.0.11", "10.77.0.9", Instance, "10.88.0.1"),
            ("fd88::11", "fe80::9", Instance, "fe80::9"),
            ("fd77::10", "fe80::9", Service, "fe80::9"),
        ] {
            let address = ip(hop);
            let expected = Some(Hop { address, interface });
            assert_eq!(
                addresses.next_hop(ip(src), ip(dst)),
                expected,
                "{src} {dst}"
            );
        }
        assert_eq!(addresses.next_hop(ip("fd88::11"), ip("fd77::9")), None);
    }

    #[test]
    fn each_network_is_spoken_to_from_an_address_of_its_own() {
        let addresses = two_networks();
        for (remote, source) in [
            ("10.77.0.9", "10.77.0.11"),
            ("10.88.0.12", "10.88.0.11"),
            ("192.0.2.1", "10.77.0.11"),
            ("fd88::12", "fd88::11"),
            ("2001:db8::1", "fd77::11"),
        ] {
            assert_eq!(
                addresses.source_for(ip(remote)),
                Some(ip(source)),
                "{remote}"
            );
        }
        let there = |address| addresses.is_own_on(Interface::Instance, ip(address));
        assert!(there("10.88.0.11") && !there("10.77.0.11"));
        assert_ne!(
            addresses.link_local(Interface::Service),
            addresses.link_local(Interface::Instance)
        );
    }
}
