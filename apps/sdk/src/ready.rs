//! The readiness line.
//!
//! Written straight to the console, with digits of its own: a JSON library would be a twentieth of an emulated
//! boot, and how the standard library formats numbers as much, most of it for being run for the first time.

use core::fmt::{self, Write};
use core::net::IpAddr;

/// What the readiness line tells, as a JSON object.
pub(crate) struct Ready<'a> {
    /// The instance.
    pub(crate) id: u32,
    /// The service's name.
    pub(crate) service: &'a str,
    /// Its own addresses, in the service network.
    pub(crate) addresses: &'a [IpAddr],
    /// Those in the instance network, if that is another one.
    pub(crate) instance_addresses: &'a [IpAddr],
    /// Microseconds since the image's first instruction.
    pub(crate) ready_us: u64,
}

impl fmt::Display for Ready<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{\"id\":")?;
        number(f, self.id.into())?;
        f.write_str(",\"service\":\"")?;
        for c in self.service.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                c if u32::from(c) < 0x20 => write!(f, "\\u{:04x}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        f.write_str("\",\"ip\":[")?;
        list(f, self.addresses)?;
        if !self.instance_addresses.is_empty() {
            f.write_str("],\"instance_ip\":[")?;
            list(f, self.instance_addresses)?;
        }
        f.write_str("],\"ready_us\":")?;
        number(f, self.ready_us)?;
        f.write_char('}')
    }
}

fn number(f: &mut fmt::Formatter<'_>, number: u64) -> fmt::Result {
    let mut place = 1;
    while number / place > 9 {
        place *= 10;
    }
    while place > 0 {
        f.write_char(char::from(b'0' + (number / place % 10) as u8))?;
        place /= 10;
    }
    Ok(())
}

fn list(f: &mut fmt::Formatter<'_>, addresses: &[IpAddr]) -> fmt::Result {
    let mut before = "\"";
    for address in addresses {
        f.write_str(before)?;
        match address {
            IpAddr::V4(address) => {
                let mut dot = "";
                for octet in address.octets() {
                    f.write_str(dot)?;
                    number(f, octet.into())?;
                    dot = ".";
                }
            }
            IpAddr::V6(address) => write!(f, "{address}")?,
        }
        f.write_str("\"")?;
        before = ",\"";
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn the_line_is_json_whatever_the_service_is_called() {
        for service in ["http", "a \"b\"\\\n\u{1}é"] {
            let line = Ready {
                id: 7,
                service,
                addresses: &["10.0.2.15".parse().unwrap(), "fd77::11".parse().unwrap()],
                instance_addresses: &[],
                ready_us: 12345,
            }
            .to_string();
            let json: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(
                json,
                serde_json::json!({
                    "id": 7,
                    "service": service,
                    "ip": ["10.0.2.15", "fd77::11"],
                    "ready_us": 12345,
                })
            );
        }
    }

    #[test]
    fn an_instance_without_an_address_has_an_empty_list() {
        let ready = Ready {
            id: 1,
            service: "echo",
            addresses: &[],
            instance_addresses: &[],
            ready_us: u64::MAX,
        };
        assert_eq!(
            ready.to_string(),
            r#"{"id":1,"service":"echo","ip":[],"ready_us":18446744073709551615}"#
        );
        let ready = Ready {
            instance_addresses: &["10.88.0.11".parse().unwrap()],
            ..ready
        };
        assert_eq!(
            ready.to_string(),
            r#"{"id":1,"service":"echo","ip":[],"instance_ip":["10.88.0.11"],"ready_us":18446744073709551615}"#
        );
    }
}
