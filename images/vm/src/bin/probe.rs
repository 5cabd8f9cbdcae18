//! A diagnostic image: boots, says what it found, and then does as the command line says:
//! `probe=exit:N`, `probe=panic`, `probe=memory`, `probe=idle` (until the power button), `probe=audit`,
//! `probe=reflect` (sends every frame back to its sender), or one of the offences of [`probe`].
//! With `watchdog=MS` the loop of `idle` is watched, and whatever has none.
#![cfg_attr(godwit_image, no_std, no_main)]

extern crate alloc;

use alloc::vec::Vec;

use godwit_kernel::drivers::net::TxPacket;
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
        "reflect" => reflect(&mut machine),
        "audit" => audit(),
        order => match order.strip_prefix("exit:").and_then(|n| n.parse().ok()) {
            Some(number) => {
                let code = ExitCode::from_number(number).unwrap_or(ExitCode::BadConfig);
                exit(code, "as told")
            }
            None => probe::misbehave(order),
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

/// Exchanges the addresses of every frame and sends it back.
fn reflect(machine: &mut Machine) -> ! {
    if machine.nics.is_empty() {
        exit(ExitCode::NoNic, machine.no_card());
    }
    loop {
        if machine.power_button() {
            let statistics = machine.nics.first().map(|nic| nic.statistics());
            exit(ExitCode::Success, format_args!("{statistics:?}"));
        }
        let mut idle = true;
        for nic in &mut machine.nics {
            while let Some(packet) = nic.receive() {
                idle = false;
                let Some((addresses, _)) = packet.bytes.split_first_chunk::<12>() else {
                    continue;
                };
                let mut answer = TxPacket::plain(packet.bytes.slice(12..));
                answer.head.extend_from_slice(addresses);
                answer.head.rotate_left(6);
                let _ = nic.transmit(answer);
            }
            nic.flush();
        }
        if idle {
            machine.idle(None);
        }
    }
}

fn audit() -> ! {
    match probe::audit() {
        Ok(summary) => exit(ExitCode::Success, summary),
        Err(summary) => exit(ExitCode::BootFailed, summary),
    }
}
