//! `godwit ctl`: commands to running instances.

use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::admin::{self, Admin};
use crate::net::Network;

/// Options of `godwit ctl`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
    /// The instance's own address, HOST:PORT (port 9100 by default).
    #[arg(long, global = true, default_value = "localhost:9100")]
    address: String,
    /// Its admin token.
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
    /// Show state, members, sessions, counters and the last moves.
    Status,
    /// Move a session, or all, to another instance.
    Move {
        /// The session's id, or "all".
        session: String,
        /// The target's id.
        #[arg(long)]
        to: u32,
    },
    /// Give all sessions away and serve no new ones.
    Drain,
}

/// Sends the command and prints the answer as JSON.
pub fn run(options: &Options) -> Result<()> {
    let admin = Admin::new(Network::Host, resolve(&options.address)?, &options.token);
    let answer: Value = match &options.command {
        Command::Status => admin.request("GET", "/status", None)?,
        Command::Move { session, to } => json!({ "started": admin.start_move(session, *to)? }),
        Command::Drain => json!({ "draining": admin.drain()? }),
    };
    // A reader that has seen enough, as `head`, is no error.
    let _ = writeln!(
        std::io::stdout(),
        "{}",
        serde_json::to_string_pretty(&answer)?
    );
    Ok(())
}

fn resolve(address: &str) -> Result<SocketAddr> {
    let found = address
        .to_socket_addrs()
        .or_else(|_| (address, admin::PORT).to_socket_addrs());
    let mut all = found.with_context(|| format!("{address} is not an address"))?;
    // QEMU forwards from 127.0.0.1, and many a localhost is ::1 first.
    let first = all
        .next()
        .with_context(|| format!("{address} has no address"))?;
    Ok(if first.is_ipv4() {
        first
    } else {
        all.find(SocketAddr::is_ipv4).unwrap_or(first)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(resolve("no such host").is_err());
    }
}
