//! Own and virtual addresses, and which neighbour a packet goes to next.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr};

use super::{Cidr, MacAddr};

/// The addresses of a stack.
#[derive(Debug)]
pub(super) struct Addresses {
    own: Vec<Cidr>,
    leased: Option<(Cidr, Option<IpAddr>)>,
    vips: Vec<IpAddr>,
    gateways: Vec<IpAddr>,
    link_local: Ipv6Addr,
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
        }
    }

    /// Put in, change or take away the address leased by DHCP and the gateway that came with it.
    pub(super) fn set_leased(&mut self, lease: Option<(Cidr, Option<IpAddr>)>) {
        self.leased = lease;
    }

    /// Own addresses with their prefixes, without the link-local one.
    pub(super) fn own(&self) -> impl Iterator<Item = &Cidr> {
        self.own
            .iter()
            .chain(self.leased.as_ref().map(|(cidr, _)| cidr))
    }

    /// Virtual addresses.
    pub(super) fn vips(&self) -> &[IpAddr] {
        &self.vips
    }

    /// The link-local address.
    pub(super) fn link_local(&self) -> Ipv6Addr {
        self.link_local
    }

    /// Whether IPv6 is in use here at all.
    pub(super) fn has_ipv6(&self) -> bool {
        self.own.iter().any(|cidr| cidr.address.is_ipv6()) || self.vips.iter().any(IpAddr::is_ipv6)
    }

    /// Whether `address` is an own one, the link-local one included.
    pub(super) fn is_own(&self, address: IpAddr) -> bool {
        self.own().any(|cidr| cidr.address == address)
            || (address == IpAddr::V6(self.link_local) && self.has_ipv6())
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
    pub(super) fn is_broadcast(&self, address: IpAddr) -> bool {
        let IpAddr::V4(v4) = address else {
            return false;
        };
        v4.is_broadcast()
            || self.own().any(|cidr| match cidr.address {
                IpAddr::V4(_) if cidr.prefix >= 31 => false,
                IpAddr::V4(own) => v4.to_bits() == own.to_bits() | !mask4(cidr.prefix),
                IpAddr::V6(_) => false,
            })
    }

    /// Whether `address` is reached without a gateway.
    pub(super) fn is_on_link(&self, address: IpAddr) -> bool {
        is_link_local(address) || self.own().any(|cidr| contains(cidr, address))
    }

    /// The neighbour a packet to `dst` goes to.
    pub(super) fn next_hop(&self, dst: IpAddr) -> Option<IpAddr> {
        if self.is_on_link(dst) {
            return Some(dst);
        }
        let leased = self.leased.as_ref().and_then(|(_, gateway)| *gateway);
        self.gateways
            .iter()
            .copied()
            .chain(leased)
            .find(|gateway| gateway.is_ipv4() == dst.is_ipv4())
    }

    /// The own address to speak to `remote` from: one of its prefix, else any of its family.
    /// Never a virtual one.
    pub(super) fn source_for(&self, remote: IpAddr) -> Option<IpAddr> {
        if is_link_local(remote) && remote.is_ipv6() {
            return self.has_ipv6().then_some(IpAddr::V6(self.link_local));
        }
        let same_family = |cidr: &&Cidr| cidr.address.is_ipv4() == remote.is_ipv4();
        self.own()
            .find(|cidr| contains(cidr, remote))
            .or_else(|| self.own().find(same_family))
            .map(|cidr| cidr.address)
            .or_else(|| {
                (remote.is_ipv6() && self.has_ipv6()).then_some(IpAddr::V6(self.link_local))
            })
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
        assert_eq!(addresses.next_hop(ip("10.77.0.9")), Some(ip("10.77.0.9")));
        assert_eq!(addresses.next_hop(ip("192.0.2.1")), Some(ip("10.77.0.1")));
        assert_eq!(addresses.next_hop(ip("fd77::1")), Some(ip("fd77::1")));
        assert_eq!(addresses.next_hop(ip("2001:db8::1")), None);
        assert_eq!(addresses.next_hop(ip("fe80::1")), Some(ip("fe80::1")));
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
            addresses.is_on_link(ip("203.0.113.1")),
            "a prefix of 0 spans everything"
        );
    }
}
