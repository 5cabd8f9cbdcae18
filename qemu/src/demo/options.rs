//! What the demo can vary.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};

use crate::switch::Impairment;
use crate::vm::{Accelerator, DEFAULT_MEMORY, Machine, NicModel, parse_memory};

const MIB: u64 = 1 << 20;
/// Bytes between two moves of a download that leave time for commands and their answers.
const BYTES_PER_MOVE: u64 = 4 * MIB;
/// The same for an echo, whose bytes take longer.
const ECHO_BYTES_PER_MOVE: u64 = 6 * MIB;
/// So many times as much on links that delay: commands and moves take as many round trips.
const DELAYED: u64 = 3;
/// The same for both on lossy links, which are slower still.
const LOSSY_BYTES_PER_MOVE: u64 = MIB;

/// What the words of the demo's verdict mean. The limits are those of [`super::report`].
pub(super) const VERDICT: &str = "\
What the last lines mean:
  BROKEN     not the right bytes, a second connection, an RST, a TSval that ran backwards, or an
             instance that did not end well. The exit status is 1.
  too short  the transfer was over before all moves were made: use a larger --size. Also 1.
  slow       on unlimited links: the median silence at a move is above the steady p99 + 5 ms, the
             longest is 200 ms or more, or the client sent a segment again. With --loss or
             --delay: the median is above 50 ms. Medians count from 5 moves on. An error only
             with --strict, because a busy host can cause it.";

/// Options of `godwit demo`.
#[derive(Args, Clone, Debug)]
#[command(after_help = VERDICT)]
pub struct Options {
    /// Moves of the connection during the download, and again during the echo.
    #[arg(long, default_value_t = 20, value_parser = parse_moves, allow_hyphen_values = true)]
    pub moves: u32,
    /// Bytes to download (suffixes K, M, G); the other scenarios transfer a quarter of it.
    /// Default: 256M, with --loss 32M. Less than the moves need is raised: to moves + 1 times 4M
    /// (echo: 6M; with --delay three times that), with --loss 1M; the drain takes 32M at least, with
    /// --loss 8M.
    #[arg(long, value_parser = parse_size, allow_hyphen_values = true)]
    pub size: Option<u64>,
    /// Share of frames lost on every link, in each direction: 1% or 0.01.
    #[arg(long, default_value = "0", value_parser = parse_share, allow_hyphen_values = true)]
    pub loss: f64,
    /// One-way delay of every path: 5ms.
    #[arg(long, default_value = "0ms", value_parser = parse_delay, allow_hyphen_values = true)]
    pub delay: Duration,
    /// What the instances run on.
    #[arg(long, value_enum, default_value = "microvm")]
    pub machine: Platform,
    /// NIC of the VMs.
    #[arg(long, value_enum, default_value = "virtio")]
    pub nic: NicModel,
    /// IP version.
    #[arg(long, default_value_t = 4, value_parser = parse_ip_version, allow_hyphen_values = true)]
    pub ip: u8,
    /// Memory of each VM in MiB, at least 6.
    #[arg(long, default_value_t = DEFAULT_MEMORY, value_parser = parse_memory, allow_hyphen_values = true)]
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
    #[arg(long, default_value_t = 1, value_parser = parse_seed, allow_hyphen_values = true)]
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
    /// QEMU's PC with PCI.
    Pc,
    /// No machine: a Linux process on a TAP device, for debugging.
    Hosted,
}

impl Platform {
    /// The VM's machine type; `None`: there is no VM.
    pub fn machine(self) -> Option<Machine> {
        match self {
            Self::Microvm => Some(Machine::Microvm),
            Self::Q35 => Some(Machine::Q35),
            Self::Pc => Some(Machine::Pc),
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
        let (base, per_move, per_echo_move, least_drain) = if slow {
            let per_move = LOSSY_BYTES_PER_MOVE;
            (32 * MIB, per_move, per_move, 8 * MIB)
        } else {
            let times = if self.delay.is_zero() { 1 } else { DELAYED };
            let (download, echo) = (BYTES_PER_MOVE * times, ECHO_BYTES_PER_MOVE * times);
            (256 * MIB, download, echo, 32 * MIB)
        };
        // Under emulation the first move of two machines takes as long as two.
        let shares = match u64::from(self.moves) {
            0 => 0,
            moves => moves + 1,
        };
        let asked = self.size.unwrap_or(base);
        let download = asked.max(shares * per_move);
        // What a connection has under way must be little against what is still to come.
        let echo = (asked / 4).max(shares * per_echo_move);
        let drain = (asked / 4).max(least_drain);
        Sizes {
            download,
            echo,
            drain,
        }
    }

    /// The size asked for, if it leaves no time for the moves of the download.
    pub fn raised_size(&self) -> Option<u64> {
        let asked = self.size?;
        let download = self.scenarios().contains(&Scenario::Download);
        (download && asked < self.sizes().download).then_some(asked)
    }

    /// Refuses what does not go together, before anything is built.
    pub fn check(&self) -> anyhow::Result<()> {
        match self.machine.machine() {
            Some(machine) => {
                let device = self.nic.device(machine);
                device.map_err(|what| anyhow::anyhow!(what))?;
            }
            None if self.nic != NicModel::Virtio || self.memory != DEFAULT_MEMORY => {
                anyhow::bail!("--machine hosted has no VM: leave out --nic and --memory");
            }
            None => {}
        }
        Ok(())
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

fn parse_moves(text: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|_| format!("must be a number from 0 to {}", u32::MAX))
}

fn parse_seed(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| format!("must be a number from 0 to {}", u64::MAX))
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

/// `4` or `6`.
pub(super) fn parse_ip_version(text: &str) -> Result<u8, String> {
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
            ("-1%", parse_share("-1%").is_err()),
        ] {
            assert!(result, "{wrong} must be refused");
        }
    }

    #[test]
    fn a_size_grows_with_the_moves_it_has_to_leave_time_for() {
        let options = |words: &[&str]| Options::from_words(words).unwrap();
        let short = options(&["--size", "8M", "--moves", "10"]);
        assert_eq!(short.sizes().download, 44 * MIB);
        assert_eq!(short.sizes().echo, 66 * MIB);
        assert_eq!(short.raised_size(), Some(8 * MIB));
        let long = options(&["--size", "256M", "--moves", "10"]);
        assert_eq!(long.sizes().download, 256 * MIB);
        assert_eq!(long.raised_size(), None);
        let none = options(&["--size", "1K", "--moves", "0"]);
        assert_eq!(none.sizes().download, 1024, "nothing has to fit in");
        let lossy = options(&["--size", "1M", "--moves", "10", "--loss", "1%"]);
        assert_eq!(lossy.sizes().download, 11 * MIB);
    }

    #[test]
    fn values_out_of_range_are_refused_with_the_range() {
        for (words, said) in [
            (["--loss", "-1%"], "between 0 and 50%"),
            (["--delay", "-1ms"], "between 0 and 10s"),
            (["--moves", "-1"], "number from 0"),
            (["--seed", "-1"], "number from 0"),
            (["--memory", "1"], "6 at least"),
            (["--memory", "-64"], "6 at least"),
            (["--ip", "-4"], "4 or 6"),
        ] {
            let error = Options::from_words(&words).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn what_a_platform_cannot_have_is_refused_before_anything_is_built() {
        for (words, said) in [
            (&["--nic", "e1000"][..], "--machine q35"),
            (&["--machine", "hosted", "--nic", "e1000"], "no VM"),
            (&["--machine", "hosted", "--memory", "128"], "no VM"),
        ] {
            let error = Options::from_words(words).unwrap().check().unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
        for words in [
            &[][..],
            &["--machine", "hosted"],
            &["--machine", "q35", "--nic", "e1000"],
        ] {
            assert!(Options::from_words(words).unwrap().check().is_ok());
        }
    }

    #[test]
    fn addresses_are_alike_in_both_families() {
        assert_eq!(Family::V4.address(11).to_string(), "10.77.0.11");
        assert_eq!(Family::V6.address(11).to_string(), "fd77::11");
        assert_eq!(Family::V6.virtual_ip().to_string(), "fd77::10");
    }
}
