//! `cargo godwit sim`: many seeds, one after the other on every core.

mod command;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use command::{crowd, steps, storms, swarm, transfer};

/// Run clusters in simulation: every seed is another network, other services, other moves.
///
/// Ends with status 1 if anything was not as it must be; the seed it names replays it.
#[derive(Parser)]
#[command(
    name = "godwit sim",
    bin_name = "cargo godwit sim",
    args_conflicts_with_subcommands = true
)]
struct Arguments {
    #[command(subcommand)]
    other: Option<Other>,
    #[command(flatten)]
    swarm: swarm::Arguments,
}

#[derive(Subcommand)]
enum Other {
    /// Many short connections, several at a time, opened and left in every way, while their sessions move.
    Crowd(crowd::Arguments),
    /// Crashes, reboots, pauses and partitions of the members that elect an ingress.
    Storms(storms::Arguments),
    /// Planned moves on a network that does nothing wrong: how long is the silence, what does the client
    /// see? Then moves under everything that can go wrong, until their number is reached.
    Transfer(transfer::Arguments),
    /// Every fault (crash, reboot, pause, partition) to every party at every step of every protocol.
    Steps(steps::Arguments),
}

fn main() -> ExitCode {
    let Arguments { other, swarm } = Arguments::parse();
    let done = match &other {
        None => swarm::run(&swarm),
        Some(Other::Crowd(arguments)) => crowd::run(arguments),
        Some(Other::Storms(arguments)) => storms::run(arguments),
        Some(Other::Transfer(arguments)) => transfer::run(arguments),
        Some(Other::Steps(arguments)) => steps::run(arguments),
    };
    done.unwrap_or_else(|status| status)
}
