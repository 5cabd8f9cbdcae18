//! The configuration: one schema, whichever way it comes.
//!
//! Words of the form `key=value`, separated by white space or line ends. A source is one text
//! (the kernel command line, boot modules, a fw_cfg file, a process's arguments); of several a later
//! one wins, and lists (`ip`, `gw`, `vip`, `peer`) grow.
//!
//! | key | value | default |
//! |---|---|---|
//! | `id` | this instance, 1 or more | 1 |
//! | `ip` | own address `a.b.c.d/24` or `fd77::11/64`, or `dhcp`; list | |
//! | `gw` | default gateway, one per family; list | |
//! | `vip` | virtual address of the service; list | |
//! | `peer` | another member, `2@10.77.0.12`; list | |
//! | `service_nic` | the network card that clients are served through: its place among those found, from 0, or its address `02:67:77:00:00:01` | the first |
//! | `instance_ip` | own address in a network for the instances alone, `10.88.0.11/24` or `fd88::11/64` (see below); list | |
//! | `instance_nic` | the network card of that network, named as `service_nic` | the first other one |
//! | `instance_gw` | gateway in that network, one per family; list | |
//! | `discover` | `on`: members that are not among the peers are found by beacon, and are no voters; `join`: this is such a member, without peers (see below) | `off` |
//! | `ingress` | the member that is elected first to answer for the virtual addresses, of one priority | the lowest id |
//! | `priority` | of this member in that election, 0 to 255; the highest is elected first | 100 |
//! | `preempt` | `on`: a member of higher priority takes the role back when it has been there for five leases | `off` |
//! | `witness` | id of a member that only votes (this one or a peer); the same at all members; list | |
//! | `prefer` | without a majority of the members: `consistency` (no ingress) or `availability` (see below) | `consistency` |
//! | `lease` | how long the ingress may act on the others' last votes, `500ms` to `60s`; the same at all members | `2s` |
//! | `heartbeat` | time between heartbeats, `20ms` to `15s` and a quarter of the lease at most | `200ms` |
//! | `drain_deadline` | how long sessions may take to move when this instance leaves, `1s` to `3600s` | `60s` |
//! | `drain_then` | what becomes of the rest: `wait` for it, `force` (reset it), `cancel` (serve on) | `force` |
//! | `cluster_key` | 64 hex digits, the same at all members | |
//! | `cluster_key_old` | a key that is taken too, while `cluster_key` is being changed; list of 3 at most | |
//! | `policy` | what makes this member give sessions away unasked: `load`, `flood`, `health`, several with commas | none |
//! | `policy_dry_run` | `on`: log what the policy would move, and move nothing | `off` |
//! | `policy_margin` | `load` begins so many percent above the mean of the members, 5 to 1000 | 25 |
//! | `policy_hold` | how long something must be wrong before the policy acts, `1s` to `600s` | `5s` |
//! | `policy_syn_rate` | so many SYNs a second are a `flood`, 10 to 10000000 | 20000 |
//! | `admin_port` | port of the admin API | 9100 |
//! | `admin_token` | bearer token of the admin API; without one it only tells its health | |
//! | `connections` | connections held at most, 64 to 1000000 | 65536, fewer in a small memory |
//! | `port` | port of the service | the service's own |
//! | `watchdog` | how long one turn of the drive loop may take before an image ends itself, `500ms` to `600s`, or `off` | `5s` |
//! | `ntp` | address of a time server to ask for the date (SNTP), or `off` | the one that DHCP names (option 42) |
//! | `timer` | for a machine with a bad one, on the command line only: `tsc` or `apic` wake it up, `hpet` or `pit` do and tell how fast its clock is too, `acpi` tells that only | what is best |
//! | `ring` | descriptors in each ring of an image's network card: 8, 16, 32, 64, 128 or 256, or as near to that as the card can have (see below); DHCP is too late to say so | 256 |
//! | `log` | `off`, `error`, `warn`, `info`, `debug` or `trace` | `info` |
//!
//! All members vote on who is the ingress (`peer` and this one), and it acts only while a majority
//! keeps voting for it. So of three members one may fail, of two none may: a third one that needs no
//! service, `witness`, makes up for that. `prefer=availability` is the other way out: whoever hears
//! nothing of the others for longer than the lease (after a boot, for six seconds at least) goes on
//! without them. When it is the network that failed and not the members, each part then has an ingress of its
//! own; clients get whichever answers them first, and flows whose owner is in the other part stand still. A
//! member that was told to leave (`drain`) does not count as failed: the last one of two serves on.
//!
//! With `discover=on` at the voters, another member is added without touching them: it has their `cluster_key`,
//! `vip`s and service, an `id` of its own, `discover=join` and no `peer`. Every second each member tells
//! everyone on the link that it is there (UDP port 9102 to the broadcast address, or to all nodes where the
//! first address is IPv6), sealed with the key. Who is found serves like the others, and never votes nor
//! answers for the virtual addresses. What hears nothing of half of the voters for 15 seconds ends its sessions.
//!
//! With `instance_ip` an instance has **two networks**, each with a card of its own. In the service network are the
//! clients, `vip`, `ip` and `gw`. Everything that instances have to say to each other goes through the instance
//! network: `peer` names addresses there, beacons are sent there, clients' frames are passed on there, and the
//! admin port is there and nowhere else. The two share no address: no prefix of one lies in one of the other.
//! Without it there is one network for everything, and further cards are not used. Addresses in the instance
//! network are not asked for there by DHCP (`instance_ip=dhcp` is refused): the peers name them, so each has to stay
//! what it is. But with `ip=dhcp` the service network's server may bring `instance_ip`, to each machine its own.
//!
//! The cluster's key is changed without losing a session at run time (`ctl key`), or by a rolling
//! reboot: first every member with `cluster_key=NEW cluster_key_old=OLD`, one after the other, then
//! every member with `cluster_key=NEW` alone. Half-open handshakes may have to be repeated during
//! the latter, since sequence numbers derive from the key.
//!
//! With `ip=dhcp` the server may add to the configuration: the same words, in option 224 (site-specific, RFC 3942;
//! of any length, in pieces by RFC 3396, up to 2048 octets). They count least: a key that any other source has set
//! is not taken from there, lists included. Whoever answers DHCP first on the link thus configures what nobody else
//! has; set `admin_token` and `cluster_key` elsewhere. Words that make no sense change nothing but the
//! counter `dhcp.configuration_refused`.
//!
//! Of rings: a virtio device may have smaller ones than are asked for. The RTL8139C+ has 64 descriptors at most.
//! vmxnet3 has 32 at least, of which no more than asked for are in use at a time. With fewer than 64 no card but
//! virtio's cuts large frames into segments, and virtio's joins none.
//!
//! Secrets belong into fw_cfg or a boot module, not on a command line; [`Secret`] keeps them out of debug output.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod nearest;
mod networks;
#[cfg(test)]
mod tests;
mod values;

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

use godwit_netstack::Duration;
use godwit_netstack::cluster::MemberId;
use godwit_netstack::cluster::keys::MAX_KEYS;
use godwit_netstack::instance::{
    Discover, DrainOptions, Peer, PolicyConfig, Prefer, RoleConfig, Times,
};
use godwit_netstack::stack::Cidr;
use log::LevelFilter;
use nearest::nearest;
pub use networks::{InstanceNet, Mac, NicName};
use values::{
    address, admin_token, cidr, cut, discover, duration, in_range, log_level, member_id, number,
    peer, port, prefer, switch, triggers,
};
pub use values::{cluster_key, drain_then};
use zeroize::Zeroize;

/// Octets of one source at most.
pub const MAX_SOURCE: usize = 64 * 1024;

/// Entries of a list at most.
pub const MAX_LIST: usize = 256;

/// A value that is never printed, and wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<T: Zeroize> Secret<T> {
    /// Wrap a value.
    pub const fn new(value: T) -> Secret<T> {
        Secret(value)
    }

    /// The value, for the one who needs it.
    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// A configuration, checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// This instance.
    pub id: MemberId,
    /// Own addresses.
    pub addresses: Vec<Cidr>,
    /// Ask DHCP for an IPv4 address.
    pub dhcp: bool,
    /// Default gateways, at most one per family.
    pub gateways: Vec<IpAddr>,
    /// Virtual addresses of the service.
    pub vips: Vec<IpAddr>,
    /// The card of the service network, if it is not the first.
    pub service_nic: Option<NicName>,
    /// The instance network, if it is another one.
    pub instance_net: Option<InstanceNet>,
    /// The other members.
    pub peers: Vec<Peer>,
    /// Whether members are found that are not among the peers.
    pub discover: Discover,
    /// The member that is elected first, among those of one priority.
    pub ingress: MemberId,
    /// How the ingress is elected.
    pub role: RoleConfig,
    /// How it leaves when it is told to.
    pub drain: DrainOptions,
    /// Key all members share.
    pub cluster_key: Option<Secret<[u8; 32]>>,
    /// Keys that are taken too.
    pub old_keys: Vec<Secret<[u8; 32]>>,
    /// When sessions are given away unasked.
    pub policy: PolicyConfig,
    /// Port of the admin API.
    pub admin_port: u16,
    /// Bearer token of the admin API.
    pub admin_token: Option<Secret<String>>,
    /// Port of the service, if not the service's own.
    pub port: Option<u16>,
    /// Connections held at most, if that does not follow from the memory.
    pub connections: Option<u32>,
    /// How long a turn of the drive loop may take.
    pub watchdog: Option<Duration>,
    /// What is logged.
    pub log: LevelFilter,
    /// Whom to ask for the date: `None`, whoever DHCP names; `Some(None)`, nobody.
    pub time_server: Option<Option<IpAddr>>,
    /// What it was read from, while DHCP may add to it ([`Config::with_lease`]).
    pub sources: Vec<Secret<String>>,
}

/// Whether the value of this key is for nobody to see.
pub fn is_secret(key: &str) -> bool {
    matches!(key, "cluster_key" | "cluster_key_old" | "admin_token")
}

/// What is wrong with a configuration. No variant holds a value that may be a secret.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ConfigError {
    /// A source is longer than [`MAX_SOURCE`].
    TooLong,
    /// A word is not `key=value`.
    NotKeyValue {
        /// The word, unless it may be a part of a secret.
        word: Option<String>,
        /// Its place in the source, from 1.
        place: usize,
    },
    /// No such key.
    UnknownKey {
        /// The key as given (shortened).
        key: String,
    },
    /// The value does not fit the key.
    BadValue {
        /// The key.
        key: &'static str,
        /// What would be right.
        expected: &'static str,
    },
    /// A list has more than [`MAX_LIST`] entries, or than it may have.
    ListTooLong {
        /// The key.
        key: &'static str,
    },
    /// A key is needed and not there.
    Missing {
        /// The key.
        key: &'static str,
        /// Why it is needed.
        why: &'static str,
    },
    /// Two keys, or two values of a key, do not go together.
    Conflict {
        /// The key at fault.
        key: &'static str,
        /// What is wrong.
        why: &'static str,
        /// Further words could put it right: one of the two may still be set anew, or a list grow.
        open: bool,
    },
}

impl ConfigError {
    /// Whether a source read later could put it right: something is missing, or two keys do not go
    /// together of which one may still be set otherwise.
    pub fn is_open(&self) -> bool {
        match self {
            ConfigError::Missing { .. } => true,
            ConfigError::Conflict { open, .. } => *open,
            _ => false,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::TooLong => write!(f, "longer than {MAX_SOURCE} octets"),
            ConfigError::NotKeyValue {
                word: Some(word), ..
            } => write!(f, "`{word}` is not key=value"),
            ConfigError::NotKeyValue { word: None, place } => {
                write!(f, "word {place} is not key=value")
            }
            ConfigError::UnknownKey { key } => {
                write!(f, "unknown key `{key}`")?;
                match nearest(key) {
                    Some(near) => write!(f, " (`{near}`?)"),
                    None => Ok(()),
                }
            }
            ConfigError::BadValue { key, expected } => write!(f, "`{key}`: expected {expected}"),
            ConfigError::ListTooLong { key } => write!(f, "`{key}`: too many entries"),
            ConfigError::Missing { key, why } => write!(f, "`{key}` is missing: {why}"),
            ConfigError::Conflict { key, why, .. } => write!(f, "`{key}`: {why}"),
        }
    }
}

impl core::error::Error for ConfigError {}

impl Config {
    /// Read the sources in order and check the whole.
    pub fn parse(sources: &[&str]) -> Result<Config, ConfigError> {
        let mut draft = Draft::default();
        for source in sources {
            draft.take_in(source)?;
        }
        let mut config = draft.finish()?;
        if config.dhcp {
            let keep = |source: &&str| Secret::new(source.to_string());
            config.sources = sources.iter().map(keep).collect();
        }
        Ok(config)
    }

    /// With what a DHCP server says, which counts least: only keys that nobody else has set, lists included.
    /// Once: the result takes no more. `None`: it says nothing of the kind.
    pub fn with_lease(&self, words: &[u8]) -> Option<Result<Config, ConfigError>> {
        if self.sources.is_empty() {
            return None;
        }
        let Ok(words) = core::str::from_utf8(words) else {
            return Some(Err(ConfigError::NotKeyValue {
                word: None,
                place: 1,
            }));
        };
        let sources = || self.sources.iter().map(|source| source.expose().as_str());
        let key = |word| cut(word, b'=').map_or(word, |(key, _)| key);
        let mut below = Secret::new(String::new());
        let all = sources().flat_map(str::split_ascii_whitespace);
        for word in words.trim_end_matches('\0').split_ascii_whitespace() {
            if !all.clone().any(|other| key(other) == key(word)) {
                below.0.push_str(word);
                below.0.push(' ');
            }
            if is_secret(key(word)) {
                log::warn!(
                    "`{}` came by DHCP: everybody on the link knows it",
                    key(word)
                );
            }
        }
        if below.0.is_empty() {
            return None;
        }
        let texts: Vec<&str> = core::iter::once(below.0.as_str())
            .chain(sources())
            .collect();
        Some(Config::parse(&texts).map(|config| Config {
            sources: Vec::new(),
            ..config
        }))
    }
}

/// What was read so far, not yet checked as a whole.
#[derive(Default)]
struct Draft {
    id: Option<u32>,
    addresses: Vec<Cidr>,
    dhcp: bool,
    gateways: Vec<IpAddr>,
    vips: Vec<IpAddr>,
    service_nic: Option<NicName>,
    instance_nic: Option<NicName>,
    instance_addresses: Vec<Cidr>,
    instance_gateways: Vec<IpAddr>,
    peers: Vec<(u32, IpAddr)>,
    discover: Discover,
    ingress: Option<u32>,
    priority: Option<u8>,
    preempt: Option<bool>,
    witnesses: Vec<u32>,
    prefer: Option<Prefer>,
    lease: Option<Duration>,
    heartbeat: Option<Duration>,
    drain: DrainOptions,
    cluster_key: Option<Secret<[u8; 32]>>,
    old_keys: Vec<Secret<[u8; 32]>>,
    policy: PolicyConfig,
    admin_port: Option<u16>,
    admin_token: Option<Secret<String>>,
    port: Option<u16>,
    connections: Option<u32>,
    watchdog: Option<Option<Duration>>,
    log: Option<LevelFilter>,
    time_server: Option<Option<IpAddr>>,
}

impl Draft {
    fn take_in(&mut self, source: &str) -> Result<(), ConfigError> {
        if source.len() > MAX_SOURCE {
            return Err(ConfigError::TooLong);
        }
        let mut last_key = "";
        for (index, word) in source.split_ascii_whitespace().enumerate() {
            let Some((key, value)) = cut(word, b'=') else {
                return Err(not_key_value(word, last_key, index + 1));
            };
            self.set(key, value)?;
            last_key = key;
        }
        Ok(())
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        match key {
            "id" => self.id = Some(member_id("id", value)?),
            "ip" if value == "dhcp" => self.dhcp = true,
            "ip" => push("ip", &mut self.addresses, cidr("ip", value)?)?,
            "gw" => push("gw", &mut self.gateways, address("gw", value)?)?,
            "vip" => push("vip", &mut self.vips, address("vip", value)?)?,
            "service_nic" => self.service_nic = Some(networks::nic("service_nic", value)?),
            "instance_nic" => self.instance_nic = Some(networks::nic("instance_nic", value)?),
            "instance_ip" => {
                let cidr = cidr("instance_ip", value)?;
                push("instance_ip", &mut self.instance_addresses, cidr)?;
            }
            "instance_gw" => {
                let gateway = address("instance_gw", value)?;
                push("instance_gw", &mut self.instance_gateways, gateway)?;
            }
            "peer" => push("peer", &mut self.peers, peer(value)?)?,
            "discover" => self.discover = discover(value)?,
            "ingress" => self.ingress = Some(member_id("ingress", value)?),
            "priority" => self.priority = Some(number(value).ok_or(bad("priority", "0 to 255"))?),
            "preempt" => self.preempt = Some(switch("preempt", value)?),
            "witness" => push("witness", &mut self.witnesses, member_id("witness", value)?)?,
            "prefer" => self.prefer = Some(prefer(value)?),
            "lease" => self.lease = Some(duration("lease", value, Times::LEASE)?),
            "heartbeat" => {
                self.heartbeat = Some(duration("heartbeat", value, Times::HEARTBEAT)?);
            }
            "cluster_key" => self.cluster_key = Some(cluster_key("cluster_key", value)?),
            "cluster_key_old" => {
                let key = cluster_key("cluster_key_old", value)?;
                push("cluster_key_old", &mut self.old_keys, key)?;
            }
            "policy" => self.policy.triggers = triggers(value)?,
            "policy_dry_run" => self.policy.dry_run = switch("policy_dry_run", value)?,
            "policy_margin" => {
                let margin = in_range(value, PolicyConfig::MARGIN);
                self.policy.margin = margin.ok_or(bad("policy_margin", "5 to 1000"))?;
            }
            "policy_hold" => {
                self.policy.hold = duration("policy_hold", value, PolicyConfig::HOLD)?;
            }
            "policy_syn_rate" => {
                let rate = in_range(value, PolicyConfig::SYN_RATE);
                self.policy.syn_rate = rate.ok_or(bad("policy_syn_rate", "10 to 10000000"))?;
            }
            "drain_deadline" => {
                let range = Duration::from_secs(1)..=Duration::from_secs(3600);
                self.drain.deadline = duration("drain_deadline", value, range)?;
            }
            "drain_then" => self.drain.then = drain_then(value)?,
            "admin_port" => self.admin_port = Some(port("admin_port", value)?),
            "admin_token" => self.admin_token = Some(admin_token(value)?),
            "port" => self.port = Some(port("port", value)?),
            "connections" => {
                let count = in_range(value, 64..=1_000_000);
                self.connections = Some(count.ok_or(bad("connections", "64 to 1000000"))?);
            }
            "watchdog" if value == "off" => self.watchdog = Some(None),
            "watchdog" => {
                let range = Duration::from_millis(500)..=Duration::from_secs(600);
                self.watchdog = Some(Some(duration("watchdog", value, range)?));
            }
            "ntp" if value == "off" => self.time_server = Some(None),
            "ntp" => self.time_server = Some(Some(address("ntp", value)?)),
            "log" => self.log = Some(log_level(value)?),
            // This, and what QEMU's microvm appends for its devices, is for the kernel.
            "timer" if matches!(value, "tsc" | "apic" | "acpi" | "hpet" | "pit") => {}
            "timer" => return Err(bad("timer", "tsc, apic, acpi, hpet or pit")),
            "ring" if matches!(value, "8" | "16" | "32" | "64" | "128" | "256") => {}
            "ring" => return Err(bad("ring", "8, 16, 32, 64, 128 or 256")),
            "virtio_mmio.device" => {}
            _ => {
                return Err(ConfigError::UnknownKey {
                    key: key.chars().take(32).collect(),
                });
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Config, ConfigError> {
        let id = self.id.unwrap_or(1);
        if self.addresses.is_empty() && !self.dhcp {
            return Err(ConfigError::Missing {
                key: "ip",
                why: "an instance needs an address of its own (or ip=dhcp)",
            });
        }
        if self.peers.iter().any(|peer| peer.0 == id) {
            return Err(open_conflict("peer", "has the id of this instance"));
        }
        for (index, peer) in self.peers.iter().enumerate() {
            let earlier = self.peers.get(..index).unwrap_or_default();
            if earlier.iter().any(|other| other.0 == peer.0) {
                return Err(conflict("peer", "one id has two addresses"));
            }
            if earlier.iter().any(|other| other.1 == peer.1) {
                return Err(conflict("peer", "two ids have one address"));
            }
            let mut own = self.addresses.iter().chain(&self.instance_addresses);
            if own.any(|own| own.address == peer.1) {
                return Err(conflict("peer", "has an address of this instance"));
            }
        }
        if !self.peers.is_empty() && self.cluster_key.is_none() {
            return Err(ConfigError::Missing {
                key: "cluster_key",
                why: "members of a cluster authenticate each other with it",
            });
        }
        if self.discover != Discover::Off && self.cluster_key.is_none() {
            return Err(ConfigError::Missing {
                key: "cluster_key",
                why: "beacons are sealed with it",
            });
        }
        if self.discover == Discover::Join && !self.peers.is_empty() {
            return Err(open_conflict(
                "discover",
                "who joins learns the others' names: no `peer`",
            ));
        }
        if self.discover == Discover::Join && !self.witnesses.is_empty() {
            return Err(open_conflict("witness", "who joins does not vote"));
        }
        if !self.old_keys.is_empty() && self.cluster_key.is_none() {
            return Err(ConfigError::Missing {
                key: "cluster_key",
                why: "cluster_key_old is for the time in which it changes",
            });
        }
        if self.old_keys.len() >= MAX_KEYS {
            return Err(ConfigError::ListTooLong {
                key: "cluster_key_old",
            });
        }
        for vip in &self.vips {
            if self.addresses.iter().any(|own| own.address == *vip)
                || self.peers.iter().any(|peer| peer.1 == *vip)
            {
                return Err(conflict("vip", "is also a member's own address"));
            }
        }
        for (key, gateways) in [
            ("gw", &self.gateways),
            ("instance_gw", &self.instance_gateways),
        ] {
            for is_v6 in [false, true] {
                let gateways = gateways.iter().filter(|gw| gw.is_ipv6() == is_v6);
                if gateways.count() > 1 {
                    return Err(conflict(key, "more than one of a family"));
                }
            }
        }
        let instance_net = self.instance_net()?;
        let lowest = self.peers.iter().map(|peer| peer.0).fold(id, u32::min);
        let ingress = self.ingress.unwrap_or(lowest);
        if ingress != id && !self.peers.iter().any(|peer| peer.0 == ingress) {
            return Err(open_conflict(
                "ingress",
                "is neither this instance nor one of its peers",
            ));
        }
        let role = self.role(id)?;
        let admin_port = self.admin_port.unwrap_or(DEFAULT_ADMIN_PORT);
        if self.port == Some(admin_port) {
            return Err(open_conflict("port", "is also the admin port"));
        }
        Ok(Config {
            id: MemberId(id),
            addresses: self.addresses,
            dhcp: self.dhcp,
            gateways: self.gateways,
            vips: self.vips,
            service_nic: self.service_nic,
            instance_net,
            peers: self
                .peers
                .into_iter()
                .map(|(id, address)| Peer {
                    id: MemberId(id),
                    address,
                })
                .collect(),
            discover: self.discover,
            ingress: MemberId(ingress),
            role,
            drain: self.drain,
            cluster_key: self.cluster_key,
            old_keys: self.old_keys,
            policy: self.policy,
            admin_port,
            admin_token: self.admin_token,
            port: self.port,
            connections: self.connections,
            watchdog: self.watchdog.unwrap_or(Some(Duration::from_secs(5))),
            log: self.log.unwrap_or(LevelFilter::Info),
            time_server: self.time_server,
            sources: Vec::new(),
        })
    }
}

impl Draft {
    /// How the ingress is elected.
    fn role(&self, id: u32) -> Result<RoleConfig, ConfigError> {
        let default = RoleConfig::default();
        let is_member =
            |witness: &u32| *witness == id || self.peers.iter().any(|(peer, _)| peer == witness);
        if !self.witnesses.iter().all(is_member) {
            return Err(open_conflict(
                "witness",
                "is neither this instance nor one of its peers",
            ));
        }
        if !self.witnesses.is_empty() && self.witnesses.len() > self.peers.len() {
            return Err(open_conflict("witness", "nobody is left to serve"));
        }
        let lease = self.lease.unwrap_or(default.times.lease);
        let heartbeat = self
            .heartbeat
            .unwrap_or(default.times.heartbeat.min(lease / 4));
        if heartbeat > lease / 4 {
            return Err(open_conflict(
                "heartbeat",
                "is more than a quarter of the lease",
            ));
        }
        Ok(RoleConfig {
            priority: self.priority.unwrap_or(default.priority),
            preempt: self.preempt.unwrap_or(default.preempt),
            prefer: self.prefer.unwrap_or(default.prefer),
            witnesses: self.witnesses.iter().copied().map(MemberId).collect(),
            times: Times { lease, heartbeat },
        })
    }
}

const DEFAULT_ADMIN_PORT: u16 = 9100;

/// A word without `=`. Behind a secret's key it may be what a stray space has cut off the secret,
/// and a long one may be a secret that lost its key.
fn not_key_value(word: &str, last_key: &str, place: usize) -> ConfigError {
    let secret = is_secret(last_key) || word.len() > LONGEST_KEY;
    ConfigError::NotKeyValue {
        word: (!secret).then(|| word.into()),
        place,
    }
}

/// Octets of the longest key there is: `virtio_mmio.device`.
const LONGEST_KEY: usize = 18;

/// A conflict that further words leave as it is.
fn conflict(key: &'static str, why: &'static str) -> ConfigError {
    let open = false;
    ConfigError::Conflict { key, why, open }
}

/// A conflict that further words could put right.
fn open_conflict(key: &'static str, why: &'static str) -> ConfigError {
    let open = true;
    ConfigError::Conflict { key, why, open }
}

fn bad(key: &'static str, expected: &'static str) -> ConfigError {
    ConfigError::BadValue { key, expected }
}

/// Add to a list; the same entry twice (from two sources) counts once.
fn push<T: PartialEq>(key: &'static str, list: &mut Vec<T>, value: T) -> Result<(), ConfigError> {
    if list.contains(&value) {
        return Ok(());
    }
    if list.len() >= MAX_LIST {
        return Err(ConfigError::ListTooLong { key });
    }
    list.push(value);
    Ok(())
}
