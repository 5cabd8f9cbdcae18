//! `godwit ctl`: commands to running instances.

pub mod capture;
pub mod chart;
mod drain;
pub mod flame;
mod status;
mod watch;

use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::admin::{self, Admin, count_sessions};
use crate::net::Network;

/// Options of `godwit ctl`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
    /// The instance's own address, HOST:PORT (port 9100 by default).
    #[arg(long, global = true, default_value = "localhost:9100")]
    address: String,
    /// Its admin token: `admin_token` of its configuration; `godwit run` prints one.
    #[arg(
        long,
        global = true,
        env = "GODWIT_TOKEN",
        hide_env_values = true,
        default_value = ""
    )]
    token: String,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Show state, members, sessions, the last moves and counters.
    Status {
        /// All of them, and counters that are 0, too.
        #[arg(long)]
        all: bool,
        /// As JSON, with everything there is.
        #[arg(long, conflicts_with = "all")]
        json: bool,
    },
    /// Move a session, or all, to another instance.
    Move {
        /// The session's id as `ctl status` shows it (1-0123456789ab), or "all".
        session: String,
        /// The target's id as `members` of `ctl status` shows it.
        #[arg(long, value_parser = parse_member, allow_hyphen_values = true)]
        to: u32,
        /// Answer as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Give all sessions away and serve no new ones; shows how it goes and what has not moved. Then the
    /// instance ends, and a VM powers off. Fails if anything has not moved.
    Drain(drain::Options),
    /// Show what every trigger of the policy sees, and would do.
    Policy,
    /// Sample what it does, show the functions that ran most, and draw a flame graph (images only).
    Profile(watch::Profile),
    /// Write the frames that pass its network card, but for this connection's own.
    Pcap(watch::Pcap),
    /// Show its log.
    Log(watch::Log),
    /// Show how its boot went (images only).
    Boot(watch::Boot),
    /// Show or change the keys of the cluster. To change a key: `add` the new one at every member,
    /// `activate` it at every member, then `remove` the old one at every member.
    Key {
        #[command(subcommand)]
        command: Option<KeyCommand>,
    },
}

#[derive(Clone, Debug, Subcommand)]
enum KeyCommand {
    /// Take another key too: 64 hex digits, from a file or from the standard input.
    Add {
        /// The file; `-` is the standard input. (The key itself has no place on a command line.)
        #[arg(long, default_value = "-")]
        file: std::path::PathBuf,
    },
    /// Open channels with this key.
    Activate {
        /// Its id as `ctl key` shows it.
        id: String,
    },
    /// Take this key no more.
    Remove {
        /// Its id as `ctl key` shows it.
        id: String,
    },
}

/// Sends the command and prints the answer.
pub fn run(options: &Options) -> Result<()> {
    // What is wrong with what was said comes before what was not said.
    match &options.command {
        Command::Move { session, .. } => check_session(session)?,
        Command::Pcap(options) => options.check()?,
        _ => {}
    }
    if options.token.is_empty() {
        bail!("no token given: use --token or GODWIT_TOKEN");
    }
    let admin = Admin::new(Network::Host, resolve(&options.address)?, &options.token);
    let answer = match &options.command {
        Command::Status { json: true, .. } => admin.request("GET", "/status", None)?,
        Command::Status { all, json: false } => {
            print_text(&status::text(&admin.status()?, *all));
            return Ok(());
        }
        Command::Move { session, to, json } => {
            let started = admin.start_move(session, *to);
            let started = started
                .with_context(|| format!("cannot move session \"{session}\" to instance {to}"))?;
            if !json {
                print_text(&moving(started, *to));
                return Ok(());
            }
            json!({ "started": started })
        }
        Command::Drain(options) => return drain::run(&admin, options),
        Command::Profile(options) => return watch::profile(&admin, options),
        Command::Pcap(options) => return watch::pcap(&admin, options),
        Command::Log(options) => return watch::log(&admin, options),
        Command::Boot(options) => return watch::boot(&admin, options),
        Command::Policy => admin.request("GET", "/policy", None)?,
        Command::Key { command: None } => admin.request("GET", "/key", None)?,
        Command::Key {
            command: Some(command),
        } => admin.request("POST", "/key", Some(&order(command)?))?,
    };
    print(answer)
}

/// What a move's answer says.
fn moving(started: u64, to: u32) -> String {
    let verb = match started {
        0 => return "there is no session to move\n".into(),
        1 => "moves",
        _ => "move",
    };
    let sessions = count_sessions(started);
    format!("{sessions} {verb} to instance {to} (`moves` of ctl status tells how it went)\n")
}

/// Prints an answer as JSON.
fn print(answer: Value) -> Result<()> {
    print_text(&to_text(answer)?);
    Ok(())
}

/// An answer as JSON, in the order of names: an instance tells its counters as they come.
fn to_text(mut answer: Value) -> Result<String> {
    answer.sort_all_objects();
    Ok(serde_json::to_string_pretty(&answer)? + "\n")
}

fn print_text(text: &str) {
    // A reader that has seen enough, as `head`, is no error.
    let _ = write!(std::io::stdout(), "{text}");
}

/// What `POST /key` is told.
fn order(command: &KeyCommand) -> Result<Value> {
    Ok(match command {
        KeyCommand::Add { file } => {
            let text = if file.as_os_str() == "-" {
                std::io::read_to_string(std::io::stdin()).context("cannot read the key")?
            } else {
                std::fs::read_to_string(file)
                    .with_context(|| format!("cannot read {}", file.display()))?
            };
            json!({ "add": key(&text)? })
        }
        KeyCommand::Activate { id } => json!({ "activate": id }),
        KeyCommand::Remove { id } => json!({ "remove": id }),
    })
}

/// The key in a file's text; what is wrong with it is said without it.
fn key(text: &str) -> Result<&str> {
    let key = text.trim();
    if key.len() == 64 && key.bytes().all(|octet| octet.is_ascii_hexdigit()) {
        return Ok(key);
    }
    bail!("a key is 64 hex digits (`openssl rand -hex 32` makes one)")
}

fn parse_member(text: &str) -> Result<u32, String> {
    let id = text.parse().ok().filter(|id| *id > 0);
    id.ok_or_else(|| "must be an instance's number, 1 or more (see `members` of ctl status)".into())
}

/// Refuses what cannot be a session's id.
fn check_session(session: &str) -> Result<()> {
    let looks_right = |(origin, number): (&str, &str)| {
        origin.parse::<u32>().is_ok() && u64::from_str_radix(number, 16).is_ok()
    };
    if session == "all" || session.split_once('-').is_some_and(looks_right) {
        return Ok(());
    }
    bail!("no session is called \"{session}\": ids look like 1-0123456789ab (see ctl status)")
}

fn resolve(address: &str) -> Result<SocketAddr> {
    if address.is_empty() {
        bail!("the address is empty: expected HOST or HOST:PORT");
    }
    // More than one colon: an IPv6 address.
    if let Some((host, port)) = address.rsplit_once(':')
        && (!host.contains(':') || host.ends_with(']'))
        && !port.parse::<u16>().is_ok_and(|port| port > 0)
    {
        bail!("\"{port}\" in \"{address}\" is not a port: expected 1 to 65535");
    }
    let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
    let bare = bare.unwrap_or(address);
    let found = address
        .to_socket_addrs()
        .or_else(|_| (bare, admin::PORT).to_socket_addrs());
    let mut all = found.with_context(|| format!("\"{address}\" is not an address"))?;
    // QEMU forwards from 127.0.0.1, and many a localhost is ::1 first.
    let first = all
        .next()
        .with_context(|| format!("\"{address}\" has no address"))?;
    Ok(if first.is_ipv4() {
        first
    } else {
        all.find(SocketAddr::is_ipv4).unwrap_or(first)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    #[command(no_binary_name = true)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn what_is_wrong_is_said_before_what_is_missing() {
        for (words, said) in [
            (&["move", "nonsense", "--to", "2"][..], "\"nonsense\""),
            (&["pcap", "-o", "/no/such/folder/file"], "/no/such/folder"),
            (&["pcap", "-o", "/"], "is a folder"),
            (&["pcap", "-o", "here"], "no token"),
            (&["pcap", "-o", "-"], "no token"),
            (&["status"], "no token"),
        ] {
            // An empty token, whatever the environment says.
            let words = [&["--token", ""], words].concat();
            let line = Line::try_parse_from(words).unwrap();
            let error = run(&line.options).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn json_has_all_of_it_anyway() {
        assert!(Line::try_parse_from(["status", "--json"]).is_ok());
        let error = Line::try_parse_from(["status", "--all", "--json"]).err();
        assert!(
            error.is_some_and(|error| error.kind() == clap::error::ErrorKind::ArgumentConflict)
        );
    }

    #[test]
    fn a_port_may_be_left_out() {
        assert_eq!(
            resolve("10.77.0.11").unwrap(),
            "10.77.0.11:9100".parse().unwrap()
        );
        assert_eq!(
            resolve("127.0.0.1:80").unwrap(),
            "127.0.0.1:80".parse().unwrap()
        );
        assert_eq!(
            resolve("[fd77::11]:80").unwrap(),
            "[fd77::11]:80".parse().unwrap()
        );
        assert_eq!(resolve("[fd77::11]").unwrap(), resolve("fd77::11").unwrap());
        assert!(resolve("no such host").is_err());
    }

    #[test]
    fn what_is_wrong_with_an_address_is_said() {
        for (address, said) in [
            ("", "empty"),
            ("localhost:abc", "\"abc\""),
            ("10.77.0.11:70000", "\"70000\""),
            ("[fd77::11]:x", "\"x\""),
            ("localhost:", "port"),
        ] {
            let error = resolve(address).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_key_is_read_from_a_file_and_never_shown() {
        let digits = "0123456789abcdef".repeat(4);
        assert_eq!(key(&format!(" {digits}\n")).unwrap(), digits);
        let error = key(&digits[1..]).unwrap_err().to_string();
        assert!(!error.contains("abcdef"));
        assert!(key(&"g".repeat(64)).is_err());
    }

    #[test]
    fn counters_are_shown_in_the_order_of_their_names() {
        let told = r#"{"counters": {"steered": 1, "nic_resets": 0, "accepted": 2}}"#;
        let shown = to_text(serde_json::from_str(told).unwrap()).unwrap();
        let names: Vec<&str> = shown.split('"').skip(3).step_by(2).collect();
        assert_eq!(names, ["accepted", "nic_resets", "steered"]);
    }

    #[test]
    fn a_move_is_told_in_words() {
        assert!(moving(1, 2).starts_with("1 session moves to instance 2 ("));
        assert!(moving(7, 3).starts_with("7 sessions move to instance 3 ("));
        assert!(moving(0, 3).starts_with("there is no session"));
    }

    #[test]
    fn a_session_that_cannot_be_is_named() {
        assert!(check_session("all").is_ok());
        assert!(check_session("1-0123456789ab").is_ok());
        for wrong in ["", "nonsense", "1", "1-xyz", "x-12"] {
            let error = check_session(wrong).unwrap_err().to_string();
            assert!(error.contains(&format!("\"{wrong}\"")), "{error}");
            assert!(error.contains("1-0123456789ab"), "{error}");
        }
        assert!(parse_member("nonsense").is_err() && parse_member("-1").is_err());
    }
}
