//! From the text of a value to what it means: a number, an address, a time, a choice of words. What may not
//! be is said in the words of [`ConfigError::BadValue`].

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::IpAddr;
use core::ops::RangeInclusive;
use core::str::FromStr;

use godwit_netstack::Duration;
use godwit_netstack::instance::{Discover, DrainThen, Prefer, Trigger};
use godwit_netstack::stack::Cidr;
use log::LevelFilter;

use super::{ConfigError, Secret, bad, push};

/// What is before and what is behind the first `at`, an ASCII character. (A search for any `char`
/// is a lot of code for the few words there are, and all of it part of the boot.)
pub(super) fn cut(text: &str, at: u8) -> Option<(&str, &str)> {
    let at = text.bytes().position(|octet| octet == at)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// A decimal number without sign or spaces (`FromStr` would take a leading `+`).
pub(super) fn number<T: FromStr>(value: &str) -> Option<T> {
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    value.parse().ok()
}

pub(super) fn member_id(key: &'static str, value: &str) -> Result<u32, ConfigError> {
    match number(value) {
        Some(id) if id > 0 => Ok(id),
        _ => Err(bad(key, "a number from 1 to 4294967295")),
    }
}

pub(super) fn port(key: &'static str, value: &str) -> Result<u16, ConfigError> {
    match number(value) {
        Some(port) if port > 0 => Ok(port),
        _ => Err(bad(key, "a port from 1 to 65535")),
    }
}

/// An address a host can have.
pub(super) fn address(key: &'static str, value: &str) -> Result<IpAddr, ConfigError> {
    const EXPECTED: &str = "a unicast IPv4 or IPv6 address";
    let address: IpAddr = value.parse().map_err(|_| bad(key, EXPECTED))?;
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    if address.is_unspecified()
        || address.is_multicast()
        || address.is_loopback()
        || broadcast
        || mapped
    {
        return Err(bad(key, EXPECTED));
    }
    Ok(address)
}

pub(super) fn cidr(key: &'static str, value: &str) -> Result<Cidr, ConfigError> {
    let wrong = bad(
        key,
        match key {
            "ip" => "ADDRESS/PREFIX (as 10.77.0.11/24) or dhcp",
            _ => {
                "ADDRESS/PREFIX (as 10.88.0.11/24), not dhcp: peers name it (that of `ip` may bring it in option 224)"
            }
        },
    );
    let (text, prefix) = cut(value, b'/').ok_or(wrong.clone())?;
    let address = address(key, text).map_err(|_| wrong.clone())?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    match number::<u8>(prefix) {
        Some(prefix) if prefix <= longest => Ok(Cidr { address, prefix }),
        _ => Err(wrong),
    }
}

pub(super) fn peer(value: &str) -> Result<(u32, IpAddr), ConfigError> {
    const EXPECTED: &str = "ID@ADDRESS (as 2@10.77.0.12)";
    let (id, text) = cut(value, b'@').ok_or(bad("peer", EXPECTED))?;
    let id = member_id("peer", id).map_err(|_| bad("peer", EXPECTED))?;
    let address = address("peer", text).map_err(|_| bad("peer", EXPECTED))?;
    Ok((id, address))
}

/// A key of the cluster: 64 hex digits. `name` is its own key in the configuration.
pub fn cluster_key(name: &'static str, value: &str) -> Result<Secret<[u8; 32]>, ConfigError> {
    const EXPECTED: &str = "64 hex digits";
    let mut key = [0; 32];
    let digits = value.as_bytes();
    if digits.len() != 2 * key.len() {
        return Err(bad(name, EXPECTED));
    }
    for (octet, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        for &digit in pair {
            let digit = char::from(digit).to_digit(16);
            let digit = digit.ok_or(bad(name, EXPECTED))? as u8;
            *octet = (*octet << 4) | digit;
        }
    }
    Ok(Secret::new(key))
}

pub(super) fn admin_token(value: &str) -> Result<Secret<String>, ConfigError> {
    let fits = (8..=256).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_graphic());
    if fits {
        Ok(Secret::new(value.to_string()))
    } else {
        Err(bad("admin_token", "8 to 256 printable ASCII characters"))
    }
}

pub(super) fn switch(key: &'static str, value: &str) -> Result<bool, ConfigError> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(bad(key, "on or off")),
    }
}

pub(super) fn in_range(value: &str, range: RangeInclusive<u32>) -> Option<u32> {
    number(value).filter(|number| range.contains(number))
}

/// A list of triggers, divided by commas.
pub(super) fn triggers(value: &str) -> Result<Vec<Trigger>, ConfigError> {
    let mut triggers = Vec::new();
    for name in value.split(',') {
        let trigger = Trigger::by_name(name);
        let trigger = trigger.ok_or(bad("policy", "load, flood, health or several with commas"))?;
        push("policy", &mut triggers, trigger)?;
    }
    Ok(triggers)
}

pub(super) fn discover(value: &str) -> Result<Discover, ConfigError> {
    match value {
        "off" => Ok(Discover::Off),
        "on" => Ok(Discover::On),
        "join" => Ok(Discover::Join),
        _ => Err(bad("discover", "off, on or join")),
    }
}

pub(super) fn prefer(value: &str) -> Result<Prefer, ConfigError> {
    match value {
        "consistency" => Ok(Prefer::Consistency),
        "availability" => Ok(Prefer::Availability),
        _ => Err(bad("prefer", "consistency or availability")),
    }
}

/// What becomes of sessions at a drain's deadline: `wait`, `force` or `cancel`.
pub fn drain_then(value: &str) -> Result<DrainThen, ConfigError> {
    match value {
        "wait" => Ok(DrainThen::Wait),
        "force" => Ok(DrainThen::Force),
        "cancel" => Ok(DrainThen::Cancel),
        _ => Err(bad("drain_then", "wait, force or cancel")),
    }
}

/// A time with its unit, in its range.
pub(super) fn duration(
    key: &'static str,
    value: &str,
    range: RangeInclusive<Duration>,
) -> Result<Duration, ConfigError> {
    let expected = match key {
        "lease" => "a time from 500ms to 60s",
        "policy_hold" => "a time from 1s to 600s",
        "drain_deadline" => "a time from 1s to 3600s",
        "watchdog" => "a time from 500ms to 600s, or off",
        _ => "a time from 20ms to 15s",
    };
    let time = match (value.strip_suffix("ms"), value.strip_suffix("s")) {
        (Some(millis), _) => number(millis).map(Duration::from_millis),
        (None, Some(seconds)) => number(seconds).map(Duration::from_secs),
        (None, None) => None,
    };
    time.filter(|time| range.contains(time))
        .ok_or(bad(key, expected))
}

pub(super) fn log_level(value: &str) -> Result<LevelFilter, ConfigError> {
    value
        .parse()
        .map_err(|_| bad("log", "off, error, warn, info, debug or trace"))
}
