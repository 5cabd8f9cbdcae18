//! The lines before the first event.

use std::time::Duration;

use godwit_netstack::tcp::{CongestionAlgorithm, EcnMode, TcpConfig};

use super::Result;
use super::values::{duration, integer, on_off, word};
use crate::script::{self, Moves};

/// The header as far as it is read.
pub(super) struct Header(script::Header);

impl Default for Header {
    fn default() -> Header {
        let mut tcp = TcpConfig::default();
        // The first acknowledgements would otherwise be undelayed, which is right but not what
        // most scripts are about.
        tcp.socket.ack_delay = Duration::from_millis(40);
        Header(script::Header {
            ipv4: true,
            ipv6: true,
            moves: Moves::Exact,
            known_failure: None,
            known_failure_moved: None,
            isn: 1_000_000_000,
            mtu: 1500,
            tcp,
        })
    }
}

/// What follows `prefix:`; it must not be empty.
fn reason<'a>(text: &'a str, prefix: &str) -> Option<Result<&'a str>> {
    let rest = text.strip_prefix(prefix)?.strip_prefix(':')?.trim();
    Some(match rest.is_empty() {
        true => Err(format!("`{prefix}:` wants a reason")),
        false => Ok(rest),
    })
}

impl Header {
    /// Take a line. False if it does not belong to the header.
    pub(super) fn take(&mut self, text: &str) -> Result<bool> {
        let header = &mut self.0;
        if let Some(why) = reason(text, "known-failure-moved") {
            header.known_failure_moved = Some(why?.to_owned());
            return Ok(true);
        }
        if let Some(why) = reason(text, "known-failure") {
            header.known_failure = Some(why?.to_owned());
            return Ok(true);
        }
        if let Some(rest) = reason(text, "moves") {
            let (what, why) = rest?
                .split_once(',')
                .ok_or("`moves: sequence, why` or `moves: none, why`")?;
            let why = why.trim().to_owned();
            header.moves = match what.trim() {
                "sequence" => Moves::Sequence(why),
                "none" => Moves::Skip(why),
                other => return Err(format!("`{other}`: moves are `sequence` or `none`")),
            };
            return Ok(true);
        }
        match text.split_whitespace().collect::<Vec<_>>()[..] {
            ["only", "ipv4"] => header.ipv6 = false,
            ["only", "ipv6"] => header.ipv4 = false,
            ["config", key, value] => self.configure(key, value)?,
            ["only", ..] => return Err("only ipv4 | ipv6".into()),
            ["config", ..] => return Err("config KEY VALUE".into()),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn configure(&mut self, key: &str, value: &str) -> Result<()> {
        let header = &mut self.0;
        let tcp = &mut header.tcp;
        let small = |value: &str| -> Result<u8> {
            u8::try_from(integer(value)?).map_err(|_| format!("`{value}` is too large"))
        };
        match key {
            "isn" => header.isn = word(value)?,
            "mtu" => {
                header.mtu = u16::try_from(integer(value)?)
                    .ok()
                    .filter(|mtu| *mtu >= 1280)
                    .ok_or("an MTU of at least 1280, for IPv6")?;
            }
            "receive-buffer" => tcp.receive_buffer = word(value)?,
            "send-buffer" => tcp.send_buffer = word(value)?,
            "memory" => tcp.memory = word(value)? as usize,
            "max-retransmits" => tcp.max_retransmits = small(value)?,
            "max-syn-retransmits" => tcp.max_syn_retransmits = small(value)?,
            "max-syn-ack-retransmits" => tcp.max_syn_ack_retransmits = small(value)?,
            "max-half-open" => tcp.max_half_open = word(value)?,
            "max-connections" => tcp.max_connections = word(value)?,
            "sack" => tcp.sack = on_off(value)?,
            "timestamps" => tcp.timestamps = on_off(value)?,
            "ecn" => {
                tcp.socket.ecn = match value {
                    "off" => EcnMode::Off,
                    "accept" => EcnMode::Accept,
                    "request" => EcnMode::Request,
                    other => return Err(format!("`{other}`: ECN is off, accept or request")),
                };
            }
            "mtu-probing" => tcp.socket.mtu_probing = on_off(value)?,
            "exchange-user-timeout" => tcp.socket.exchange_user_timeout = on_off(value)?,
            "user-timeout" => tcp.socket.user_timeout = Some(duration(value)?),
            "congestion" => {
                tcp.congestion = match value {
                    "cubic" => CongestionAlgorithm::Cubic,
                    "newreno" => CongestionAlgorithm::NewReno,
                    other => return Err(format!("`{other}` is no congestion control here")),
                };
            }
            other => return Err(format!("there is no `config {other}`")),
        }
        Ok(())
    }

    pub(super) fn finish(self) -> script::Header {
        self.0
    }
}
