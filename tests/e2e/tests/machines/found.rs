//! A machine that nobody configured is found by two that know each other, serves under the host kernel's own
//! TCP, and leaves again: a download that is on its way all the time does not notice.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use godwit_qemu::admin::{self, Admin, Status};
use godwit_qemu::build::Service;
use godwit_qemu::content::{self, Check};
use godwit_qemu::crowd::kernel_counter;
use godwit_qemu::net::Network;
use godwit_qemu::vm::Machine;

use super::offload::{Lan, TOKEN, power_off, wait_for};

/// The download, and how it is read until everything has happened: so that it lasts.
const SIZE: u64 = 128 << 20;
const PIECE: usize = 64 << 10;
const PACE: Duration = Duration::from_millis(20);
/// What those say in the end that were opened meanwhile.
const SHORT: &[u8] = b"GET /gen/1000 HTTP/1.1\r\nHost: found\r\n\r\n";
/// New connections of which one at least has to be at the machine that was found.
const TRIES: usize = 20;
const PATIENCE: Duration = Duration::from_secs(10);

pub fn serves_and_leaves() -> Result<()> {
    let Some(lan) = Lan::create(true)? else {
        return Ok(());
    };
    let cluster = format!("cluster_key={}\nvip=10.78.0.10\n", "07".repeat(32));
    let start = |id: u32, more: &str| {
        let words = format!("{cluster}{more}");
        lan.start(&lan.spec(Machine::Microvm, Service::Http, id, &words)?)
    };
    let admin = |id| {
        let address = (lan.own(id), admin::PORT).into();
        Admin::new(Network::Namespace(lan.namespace.clone()), address, TOKEN)
    };
    let mut vms = Vec::new();
    for id in [1, 2] {
        let peer = 3 - id;
        let more = format!("ingress=1\npeer={peer}@10.78.0.1{peer}\ndiscover=on\n");
        vms.push(start(id, &more)?);
    }
    let voters = [1, 2].map(admin);
    wait_for(|| {
        let status = voters[0].status()?;
        Ok((status.ingress && has(&status, 2)).then_some(()))
    })?;
    let resets = || lan.namespace.run(|| kernel_counter("Tcp", "EstabResets"));
    let before = resets()?;

    let calm = Arc::new(AtomicBool::new(false));
    let reader = read_slowly(&lan, &calm)?;
    let begun = Instant::now();
    let third = start(3, "discover=join\n")?;
    let found = admin(3);
    for voter in &voters {
        wait_for(|| Ok(has(&voter.status()?, 3).then_some(()))).context("it is found")?;
    }
    let took = begun.elapsed();
    // Refused until half of the voters have granted it leave.
    wait_for(|| {
        for voter in &voters {
            if let Some(session) = voter.status()?.sessions.first() {
                let _ = voter.start_move(&session.id, 3);
            }
        }
        Ok((!found.status()?.sessions.is_empty()).then_some(()))
    })
    .context("the download moves to it")?;
    let moved = begun.elapsed();
    let network = Network::Namespace(lan.namespace.clone());
    let mut idle = Vec::new();
    while found.status()?.sessions.len() < 2 {
        ensure!(idle.len() < TRIES, "no new connection is placed there");
        idle.push(network.connect("10.78.0.10:80".parse()?, PATIENCE)?);
        thread::sleep(PACE);
    }
    let status = found.status()?;
    ensure!(!status.ingress && status.role.voters.iter().all(|v| v.id != 3));
    power_off(third).context("it leaves")?;
    let left = begun.elapsed();
    let tries = idle.len();
    for mut stream in idle {
        stream.write_all(SHORT)?;
        // To the end, as who closes with something unread resets; and closed here first, or the machines would
        // have to wait for old duplicates.
        let mut answer = Vec::new();
        while !is_whole(&answer) {
            let mut piece = [0; PIECE];
            let count = stream.read(&mut piece)?;
            ensure!(count > 0, "a new connection ended");
            answer.extend_from_slice(&piece[..count]);
        }
        ensure!(answer.starts_with(b"HTTP/1.1 200"), "a new connection");
    }
    ensure!(!reader.is_finished(), "the download ended too early");
    calm.store(true, Ordering::Relaxed);
    let check = reader.join().map_err(|_| anyhow!("panic"))??;
    ensure!(check.bytes() == SIZE, "{} of {SIZE} octets", check.bytes());
    ensure!(check.finish() == content::digest(SIZE), "a wrong digest");
    ensure!(resets()? == before, "connections were reset");
    println!(
        "    found {} ms after its start, given the download after {} ms, {tries} new connections, off \
         after {} ms",
        took.as_millis(),
        moved.as_millis(),
        left.as_millis()
    );
    vms.into_iter().try_for_each(power_off)
}

/// Whether it is the answer to [`SHORT`].
fn is_whole(answer: &[u8]) -> bool {
    let head = answer.windows(4).position(|end| end == b"\r\n\r\n");
    head.is_some_and(|head| answer.len() >= head + 4 + 1000)
}

/// Whether a member is there.
fn has(status: &Status, id: u32) -> bool {
    status
        .members
        .iter()
        .any(|member| member.id == id && member.up)
}

/// A download by curl that is read slowly until all is calm.
fn read_slowly(lan: &Lan, calm: &Arc<AtomicBool>) -> Result<thread::JoinHandle<Result<Check>>> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "120"])
        .arg(format!("http://10.78.0.10/gen/{SIZE}"))
        .stdout(Stdio::piped());
    lan.namespace.place(&mut curl);
    let mut curl = curl.spawn().context("cannot run curl")?;
    let mut body = curl.stdout.take().context("curl has no output")?;
    let calm = Arc::clone(calm);
    Ok(thread::spawn(move || {
        let mut check = Check::default();
        let mut buffer = vec![0; PIECE];
        loop {
            match body.read(&mut buffer)? {
                0 => break,
                n => check.add(&buffer[..n]),
            }
            if !calm.load(Ordering::Relaxed) {
                thread::sleep(PACE);
            }
        }
        ensure!(curl.wait()?.success(), "curl failed");
        Ok(check)
    }))
}
