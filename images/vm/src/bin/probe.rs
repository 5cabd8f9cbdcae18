//! A diagnostic image: boots, says what it found, and then does as the command line says:
//! `probe=exit:N`, `probe=panic`, `probe=memory`, `probe=idle` (until the power button), `probe=audit`,
//! `probe=reflect` (sends every frame back to its sender; `probe=reflect:N` resets its cards N times meanwhile),
//! or one of the offences of [`probe`].
//! With `watchdog=MS` the loop of `idle` is watched, and whatever has none.
#![cfg_attr(godwit_image, no_std, no_main)]

extern crate alloc;

use alloc::vec::Vec;

use bytes::Bytes;
use godwit_kernel::drivers::net::{Nic, TxPacket};
use godwit_kernel::exit::{ExitCode, exit};
use godwit_kernel::{Machine, boot, clock, console, probe, watchdog};

godwit_kernel::entry!(run);

fn run(mut machine: Machine) -> ! {
    boot::chart::mark("probe");
    console::line(format_args!(
        "GODWIT READY {{\"id\":0,\"service\":\"probe\",\"ip\":[],\"ready_us\":{}}}",
        clock::now_ns() / 1000
    ));
    boot::chart::print();
    machine.describe();
    log::info!("command line: {}", machine.command_line);
    log::info!("configuration: {:?}", machine.config);
    log::info!("unix time: {:?}", clock::unix_seconds());
    let order = machine.command_line.clone();
    let order = order
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix("probe="))
        .unwrap_or("exit:0");
    let limit = machine
        .command_line
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix("watchdog=")?.parse::<u64>().ok());
    watchdog::watch(limit.map(|ms| ms * 1_000_000));
    match order {
        "panic" => panic!("as told"),
        "memory" => exhaust(),
        "idle" => idle(&mut machine),
        "reflect" => reflect(&mut machine, 0),
        "audit" => audit(),
        order => match order.split_once(':') {
            Some(("exit", number)) => {
                let code = number.parse().ok().and_then(ExitCode::from_number);
                exit(code.unwrap_or(ExitCode::BadConfig), "as told")
            }
            Some(("reflect", resets)) => reflect(&mut machine, resets.parse().unwrap_or(0)),
            _ => probe::misbehave(order),
        },
    }
}

fn exhaust() -> ! {
    let mut all = Vec::new();
    loop {
        all.push(Vec::<u8>::with_capacity(64 << 10));
    }
}

fn idle(machine: &mut Machine) -> ! {
    let start = machine.now_ns();
    let (mut beats, mut last) = (0u64, 0);
    loop {
        watchdog::turn();
        if machine.power_button() {
            exit(
                ExitCode::Success,
                format_args!(
                    "power button after {beats} beats in {} ms",
                    (machine.now_ns() - start) / 1_000_000
                ),
            );
        }
        if machine.restored() {
            console::line(format_args!("GODWIT PROBE restored after {beats} beats"));
        }
        let deadline = machine.now_ns() + 10_000_000;
        while machine.now_ns() < deadline && !machine.power_pending() {
            machine.idle(Some(deadline));
        }
        beats += 1;
        let now = machine.now_ns();
        if now < last {
            exit(ExitCode::Panic, format_args!("{now} ns after {last} ns"));
        }
        last = now;
        if beats.is_multiple_of(50) {
            let (ms, date) = (now / 1_000_000, clock::unix_seconds().unwrap_or(0));
            console::line(format_args!(
                "GODWIT PROBE beats {beats} ms {ms} date {date}"
            ));
        }
    }
}

/// Exchanges the addresses of every frame and sends it back. Cards are reset so many times.
fn reflect(machine: &mut Machine, resets: u32) -> ! {
    if machine.nics.is_empty() {
        exit(ExitCode::NoNic, machine.no_card());
    }
    let mut resets = Resets {
        left: resets,
        ..Resets::default()
    };
    loop {
        if machine.power_button() {
            resets.check();
            let statistics = machine.nics.first().map(|nic| nic.statistics());
            exit(ExitCode::Success, format_args!("{statistics:?}"));
        }
        let mut idle = true;
        for nic in &mut machine.nics {
            while nic.can_transmit() {
                let Some(packet) = nic.receive() else { break };
                idle = false;
                let Some((addresses, _)) = packet.bytes.split_first_chunk::<12>() else {
                    continue;
                };
                let mut answer = TxPacket::plain(packet.bytes.slice(12..));
                answer.head.extend_from_slice(addresses);
                answer.head.rotate_left(6);
                let _ = nic.transmit(answer);
                resets.count(&packet.bytes);
                resets.at(Moment::Queued, &mut **nic);
            }
            nic.flush();
            resets.at(Moment::Flushed, &mut **nic);
        }
        if idle {
            machine.idle(None);
        }
    }
}

/// When a card is reset.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// An answer is in its ring, of which it has not been told, and there may be frames to be taken in.
    Queued,
    /// It has been told, and may be sending.
    Flushed,
}

/// Resets of cards while they work.
#[derive(Default)]
struct Resets {
    left: u32,
    done: u32,
    /// Frames since the last one.
    frames: u32,
    /// One that came before the last one, as it lies in the driver's buffer, and as it was.
    kept: Option<(Bytes, Vec<u8>)>,
}

impl Resets {
    /// Frames between two resets.
    const FRAMES: u32 = 150;

    fn count(&mut self, frame: &Bytes) {
        self.frames += 1;
        if self.left > 0 && self.frames == Self::FRAMES {
            self.check();
            self.kept = Some((frame.clone(), frame.to_vec()));
        }
    }

    /// Resets the card if it is time for it; the two moments take turns.
    fn at(&mut self, moment: Moment, nic: &mut dyn Nic) {
        let turn = match self.done % 2 {
            0 => Moment::Queued,
            _ => Moment::Flushed,
        };
        if self.left == 0 || self.frames < Self::FRAMES || moment != turn {
            return;
        }
        nic.reset();
        self.frames = 0;
        self.left -= 1;
        self.done += 1;
        console::line(format_args!("GODWIT PROBE reset {}", self.done));
    }

    /// Ends the image if a frame has changed under the hands of who kept it.
    fn check(&self) {
        if self.kept.as_ref().is_some_and(|(now, then)| now != then) {
            exit(
                ExitCode::Panic,
                format_args!("a frame from before reset {} has changed", self.done),
            );
        }
    }
}

fn audit() -> ! {
    match probe::audit() {
        Ok(summary) => exit(ExitCode::Success, summary),
        Err(summary) => exit(ExitCode::BootFailed, summary),
    }
}
