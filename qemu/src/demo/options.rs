//! What the demo can vary.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};

use crate::switch::Impairment;
use crate::vm::{Accelerator, Machine, NicModel};

const MIB: u64 = 1 << 20;
/// Bytes between two moves that leave time for commands and their answers.
const BYTES_PER_MOVE: u64 = 4 * MIB;

/// Options of `godwit demo`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Moves of the connection during the download, and again during the echo.
    #[arg(long, default_value_t = 20)]
    pub moves: u32,
    /// Bytes to download (suffixes K, M, G); the other scenarios transfer a quarter of it.
    /// Default: 256M, less on lossy links.
    #[arg(long, value_parser = parse_size)]
    pub size: Option<u64>,
    /// Share of frames lost on every link, in each direction: 1% or 0.01.
    #[arg(long, default_value = "0", value_parser = parse_share)]
    pub loss: f64,
    /// One-way delay of every path: 5ms.
    #[arg(long, default_value = "0ms", value_parser = parse_delay)]
    pub delay: Duration,
    /// What the instances run on.
    #[arg(long, value_enum, default_value = "microvm")]
    pub machine: Platform,
    /// NIC of the VMs.
    #[arg(long, value_enum, default_value = "virtio")]
    pub nic: NicModel,
    /// IP version.
    #[arg(long, default_value_t = 4, value_parser = parse_ip_version)]
    pub ip: u8,
    /// Memory of each VM in MiB.
    #[arg(long, default_value_t = 64)]
    pub memory: u32,
    /// Who plays the client.
    #[arg(long, value_enum, default_value = "auto")]
    pub client: ClientChoice,
    /// Write the results as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the client's side of the wire.
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// Run only these scenarios.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Scenario>,
    /// Fail also when a silence is longer than promised (a busy host can cause that).
    #[arg(long)]
    pub strict: bool,
    /// Seed of the links' chance.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Show the VMs' consoles.
    #[arg(long, short)]
    pub verbose: bool,
}

/// What an instance runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Platform {
    /// QEMU's minimal machine, virtio-mmio.
    Microvm,
    /// QEMU's PC with PCI Express.
    Q35,
    /// No machine: a Linux process on a TAP device, for debugging.
    Hosted,
}

impl Platform {
    /// The VM's machine type; `None`: there is no VM.
    pub fn machine(self) -> Option<Machine> {
        match self {
            Self::Microvm => Some(Machine::Microvm),
            Self::Q35 => Some(Machine::Q35),
            Self::Hosted => None,
        }
    }

    /// Its name as on the command line.
    pub fn name(self) -> &'static str {
        self.machine().map_or("hosted", Machine::name)
    }
}

/// Who plays the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClientChoice {
    /// Linux and curl, or the harness where that is not permitted.
    Auto,
    /// A stack in the harness.
    Harness,
}

/// The demo's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Scenario {
    /// curl downloads a file; the connection moves.
    Download,
    /// A socket sends and gets back a long stream; the connection moves.
    Echo,
    /// An instance is powered off during a download.
    Drain,
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Download => "download",
            Self::Echo => "echo",
            Self::Drain => "drain",
        })
    }
}

/// The IP version of everything in the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// 10.77.0.0/24
    V4,
    /// fd77::/64
    V6,
}

impl Family {
    /// The address with this host number.
    pub fn address(self, host: u8) -> IpAddr {
        match self {
            Self::V4 => IpAddr::from([10, 77, 0, host]),
            // 11 is written fd77::11, as in IPv4.
            Self::V6 => {
                let digits = u16::from(host / 10) * 16 + u16::from(host % 10);
                IpAddr::from([0xfd77, 0, 0, 0, 0, 0, 0, digits])
            }
        }
    }

    /// The address that all instances share.
    pub fn virtual_ip(self) -> IpAddr {
        self.address(10)
    }

    /// Bits of the network's prefix.
    pub fn prefix(self) -> u8 {
        match self {
            Self::V4 => 24,
            Self::V6 => 64,
        }
    }
}

/// Bytes per scenario.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    download: u64,
    echo: u64,
    drain: u64,
}

impl Sizes {
    /// Bytes of a scenario.
    pub fn of(self, scenario: Scenario) -> u64 {
        match scenario {
            Scenario::Download => self.download,
            Scenario::Echo => self.echo,
            Scenario::Drain => self.drain,
        }
    }
}

impl Options {
    /// The options as they would be read from a command line.
    pub fn from_words(words: &[&str]) -> Result<Self, clap::Error> {
        #[derive(Parser)]
        #[command(no_binary_name = true)]
        struct Line {
            #[command(flatten)]
            options: Options,
        }
        Ok(Line::try_parse_from(words)?.options)
    }

    /// The scenarios to run, in order.
    pub fn scenarios(&self) -> Vec<Scenario> {
        let mut all = Scenario::value_variants().to_vec();
        all.retain(|scenario| self.only.is_empty() || self.only.contains(scenario));
        all
    }

    /// The IP version.
    pub fn family(&self) -> Family {
        if self.ip == 6 { Family::V6 } else { Family::V4 }
    }

    /// How much each scenario transfers.
    pub fn sizes(&self) -> Sizes {
        // TCP alone makes a lossy path slow: about 15 Mbit/s at 1% and 10 ms round trip.
        let slow = self.loss > 0.0;
        let (base, per_move) = if slow {
            (32 * MIB, MIB)
        } else {
            (256 * MIB, BYTES_PER_MOVE)
        };
        let moves = u64::from(self.moves);
        let download = self.size.unwrap_or(base.max(moves * per_move));
        // What a connection has under way must be little against what is still to come.
        let echo = (download / 4).max(moves * MIB);
        let drain = (download / 4).max(if slow { 8 * MIB } else { 32 * MIB });
        Sizes {
            download,
            echo,
            drain,
        }
    }

    /// What every link does to frames.
    pub fn impairment(&self) -> Impairment {
        Impairment {
            loss: self.loss,
            delay: self.delay,
            ..Impairment::default()
        }
    }

    /// The NIC's name as on the command line.
    pub fn nic_name(&self) -> String {
        let value = self.nic.to_possible_value();
        value
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// The two instances, in words.
    pub fn describe_instances(&self, accelerator: Option<Accelerator>) -> String {
        let Some(accelerator) = accelerator else {
            return "two Linux processes in place of VMs".into();
        };
        let (machine, accelerator) = (self.machine.name(), accelerator.name());
        format!(
            "two {machine} VMs ({accelerator}, {} MiB each, {})",
            self.memory,
            self.nic_name()
        )
    }

    /// What the links do, in words.
    pub fn describe_links(&self) -> String {
        if self.impairment().is_none() {
            return "unlimited".into();
        }
        format!(
            "every frame to the client and to the instances is lost with {:.2}% and delayed by {:?}",
            self.loss * 100.0,
            self.delay
        )
    }
}

/// Bytes with an optional 1024-based suffix.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        other => return Err(format!("unknown suffix {other}: use K, M or G")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("{text} is not a size"))?;
    let size = number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{text} is too large"))?;
    if size == 0 {
        Err("a size must not be 0".into())
    } else {
        Ok(size)
    }
}

/// A share as `1%` or `0.01`.
pub fn parse_share(text: &str) -> Result<f64, String> {
    let (number, scale) = text
        .strip_suffix('%')
        .map_or((text, 1.0), |digits| (digits, 0.01));
    let share: f64 = number
        .parse()
        .map_err(|_| format!("{text} is not a share"))?;
    let share = share * scale;
    if (0.0..=0.5).contains(&share) {
        Ok(share)
    } else {
        Err("must be between 0 and 50%".into())
    }
}

/// A time as `5ms`, `500us` or `1s`.
pub fn parse_delay(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "us" => 1e-6,
        "ms" | "" => 1e-3,
        "s" => 1.0,
        other => return Err(format!("unknown unit {other}: use us, ms or s")),
    };
    let number: f64 = digits
        .parse()
        .map_err(|_| format!("{text} is not a time"))?;
    let seconds = number * unit;
    if (0.0..=10.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("must be between 0 and 10s".into())
    }
}

fn parse_ip_version(text: &str) -> Result<u8, String> {
    match text {
        "4" => Ok(4),
        "6" => Ok(6),
        _ => Err("must be 4 or 6".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_shares_and_delays_are_read_as_people_write_them() {
        assert_eq!(parse_size("256M"), Ok(256 << 20));
        assert_eq!(parse_size("7"), Ok(7));
        assert_eq!(parse_share("1%"), Ok(0.01));
        assert_eq!(parse_share("0.02"), Ok(0.02));
        assert_eq!(parse_delay("5ms"), Ok(Duration::from_millis(5)));
        assert_eq!(parse_delay("500us"), Ok(Duration::from_micros(500)));
        for (wrong, result) in [
            ("1T", parse_size("1T").is_err()),
            ("0", parse_size("0").is_err()),
            ("99999999999G", parse_size("99999999999G").is_err()),
            ("200%", parse_share("200%").is_err()),
            ("-1ms", parse_delay("-1ms").is_err()),
            ("5h", parse_delay("5h").is_err()),
        ] {
            assert!(result, "{wrong} must be refused");
        }
    }

    #[test]
    fn addresses_are_alike_in_both_families() {
        assert_eq!(Family::V4.address(11).to_string(), "10.77.0.11");
        assert_eq!(Family::V6.address(11).to_string(), "fd77::11");
        assert_eq!(Family::V6.virtual_ip().to_string(), "fd77::10");
    }
}
