//! Which network card is for what, and what two networks may not have in common.

use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

use godwit_netstack::stack::{Cidr, MacAddr};

use super::values::number;
use super::{ConfigError, Draft, bad, conflict, open_conflict};

/// A card as the configuration names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NicName {
    /// By its place among those that were found, from 0.
    Place(u8),
    /// By its Ethernet address.
    Mac(MacAddr),
}

/// An Ethernet address in the usual form.
pub struct Mac(pub MacAddr);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Display for NicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NicName::Place(place) => write!(f, "{place}"),
            NicName::Mac(mac) => Mac(*mac).fmt(f),
        }
    }
}

/// A network for the instances alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InstanceNet {
    /// Its card, if it is not the first that is not the service network's.
    pub nic: Option<NicName>,
    /// Own addresses there.
    pub addresses: Vec<Cidr>,
    /// Gateways there, at most one per family.
    pub gateways: Vec<IpAddr>,
}

/// A card's place, or its address.
pub(super) fn nic(key: &'static str, value: &str) -> Result<NicName, ConfigError> {
    const EXPECTED: &str = "a place from 0 to 99, or an address (as 02:67:77:00:00:01)";
    let place = number(value).filter(|place| *place < 100);
    let name = place.map(NicName::Place).or_else(|| mac(value));
    name.ok_or(bad(key, EXPECTED))
}

fn mac(text: &str) -> Option<NicName> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for octet in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2)?;
        // No sign, as `from_str_radix` would take.
        let digits = part.bytes().all(|digit| digit.is_ascii_hexdigit());
        *octet = u8::from_str_radix(part, 16).ok().filter(|_| digits)?;
    }
    let station = parts.next().is_none() && mac[0] & 1 == 0 && mac != [0; 6];
    station.then_some(NicName::Mac(mac))
}

impl Draft {
    /// The instance network, if there is one.
    pub(super) fn instance_net(&self) -> Result<Option<InstanceNet>, ConfigError> {
        let addresses = &self.instance_addresses;
        if addresses.is_empty() {
            if self.instance_nic.is_some() || !self.instance_gateways.is_empty() {
                return Err(ConfigError::Missing {
                    key: "instance_ip",
                    why: "an instance needs an address of its own in the instance network",
                });
            }
            return Ok(None);
        }
        if self.instance_nic.is_some() && self.instance_nic == self.service_nic {
            let why = "is the service network's card too (without `instance_ip` one is for both)";
            return Err(open_conflict("instance_nic", why));
        }
        let inside = |address| addresses.iter().any(|own| own.contains(address));
        if addresses
            .iter()
            .any(|own| self.addresses.iter().any(|other| own.overlaps(other)))
        {
            let why = "has addresses in common with `ip`: each network needs a prefix of its own";
            return Err(conflict("instance_ip", why));
        }
        if self.vips.iter().any(|vip| inside(*vip)) {
            return Err(conflict(
                "vip",
                "is in the instance network, where no clients are",
            ));
        }
        if self.gateways.iter().any(|gateway| inside(*gateway)) {
            return Err(conflict(
                "gw",
                "is in the instance network (`instance_gw`?)",
            ));
        }
        if !self
            .instance_gateways
            .iter()
            .all(|gateway| inside(*gateway))
        {
            return Err(open_conflict(
                "instance_gw",
                "is not in the instance network",
            ));
        }
        if !self.peers.iter().all(|(_, address)| inside(*address)) {
            return Err(open_conflict(
                "peer",
                "is not in the instance network (`instance_ip`)",
            ));
        }
        Ok(Some(InstanceNet {
            nic: self.instance_nic,
            addresses: addresses.clone(),
            gateways: self.instance_gateways.clone(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::{String, ToString};

    use super::*;
    use crate::Config;

    const GOOD: &str =
        "id=1 ip=10.77.0.11/24 gw=10.77.0.1 vip=10.77.0.10 instance_ip=10.88.0.11/24";

    fn error(words: &str) -> String {
        let text = format!("{GOOD} {words}");
        Config::parse(&[&text]).expect_err(words).to_string()
    }

    #[test]
    fn two_networks_are_what_they_are_said_to_be() {
        let key = "ab".repeat(32);
        let words = format!(
            "{GOOD} instance_ip=fd88::11/64 instance_gw=10.88.0.1 peer=2@10.88.0.12 \
             cluster_key={key} service_nic=1 instance_nic=02:67:77:00:00:0a"
        );
        let config = Config::parse(&[&words]).unwrap();
        assert_eq!(config.service_nic, Some(NicName::Place(1)));
        let net = config.instance_net.unwrap();
        assert_eq!(net.nic, Some(NicName::Mac([2, 0x67, 0x77, 0, 0, 10])));
        assert_eq!(net.addresses.len(), 2);
        assert_eq!(net.gateways.len(), 1);
        assert_eq!(config.addresses.len(), 1);
    }

    #[test]
    fn without_an_instance_network_there_is_none() {
        let config = Config::parse(&["ip=10.77.0.11/24 service_nic=2"]).unwrap();
        assert_eq!(config.instance_net, None);
        assert_eq!(config.service_nic, Some(NicName::Place(2)));
    }

    #[test]
    fn what_does_not_go_together_is_named() {
        let peer = format!("cluster_key={} peer=2@10.77.0.12", "ab".repeat(32));
        let own = format!("cluster_key={} peer=2@10.88.0.11", "ab".repeat(32));
        for (words, key, said) in [
            ("instance_ip=10.77.0.12/25", "instance_ip", "in common"),
            ("ip=10.88.7.7/16", "instance_ip", "in common"),
            ("vip=10.88.0.10", "vip", "no clients"),
            ("gw=10.88.0.1", "gw", "more than one"),
            ("gw=fd88::1 instance_ip=fd88::11/64", "gw", "instance_gw"),
            ("instance_gw=10.77.0.1", "instance_gw", "not in"),
            (
                "instance_gw=10.88.0.1 instance_gw=10.88.0.2",
                "instance_gw",
                "more than",
            ),
            (&peer, "peer", "not in the instance network"),
            (&own, "peer", "of this instance"),
            ("service_nic=1 instance_nic=1", "instance_nic", "too"),
            ("instance_nic=eth1", "instance_nic", "a place"),
            ("instance_nic=100", "instance_nic", "a place"),
            ("service_nic=+1", "service_nic", "a place"),
            ("service_nic=01:00:5e:00:00:01", "service_nic", "address"),
            ("service_nic=02:00:00:00:00", "service_nic", "address"),
            ("service_nic=02:00:00:00:00:+1", "service_nic", "address"),
            ("service_nic=00:00:00:00:00:00", "service_nic", "address"),
            ("instance_ip=dhcp", "instance_ip", "not dhcp: peers"),
        ] {
            let error = error(words);
            assert!(error.starts_with(&format!("`{key}`")), "{words}: {error}");
            assert!(error.contains(said), "{words}: {error}");
        }
        for words in ["instance_nic=1", "instance_gw=10.88.0.1"] {
            let text = format!("ip=10.77.0.11/24 {words}");
            let error = Config::parse(&[&text]).unwrap_err().to_string();
            assert!(error.contains("`instance_ip` is missing"), "{error}");
        }
    }
}
