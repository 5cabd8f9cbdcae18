//! Five thousand connections of the host's kernel, most of them idle, are drained from one image to
//! another: nobody is reset, and everybody is answered afterwards.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use godwit_qemu::admin::{self, Admin};
use godwit_qemu::build::Service;
use godwit_qemu::crowd::{Crowd, kernel_counter, raise_limit};
use godwit_qemu::net::Network;
use godwit_qemu::vm::{Machine, Outcome, VmSpec};
use serde_json::json;

use super::offload::{Lan, TOKEN, power_off};

/// Connections, and how many of them are in use.
const CONNECTIONS: usize = 5_000;
const BUSY: usize = 100;
/// Time between two questions of a client that is busy.
const PACE: Duration = Duration::from_millis(500);
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// MiB of memory of each image. What is to spare for connections follows from it cautiously; here
/// the count is known.
const MEMORY: u32 = 32;

pub fn of_thousands() -> Result<()> {
    let allowed = raise_limit()?;
    if allowed < CONNECTIONS {
        println!("    not tested: {allowed} connections are allowed here (ulimit -Hn)");
        return Ok(());
    }
    let Some(lan) = Lan::create(true)? else {
        return Ok(());
    };
    let mut vms = Vec::new();
    for id in [1, 2] {
        let peer = 3 - id;
        let more = format!(
            "cluster_key={}\nvip=10.78.0.10\ningress=1\npeer={peer}@10.78.0.1{peer}\nconnections={}\n",
            "07".repeat(32),
            CONNECTIONS + 1_000
        );
        let spec = lan.spec(Machine::Microvm, Service::Echo, id, &more)?;
        vms.push(lan.start(&VmSpec {
            memory: MEMORY,
            ..spec
        })?);
    }
    let [source, target] = [1, 2].map(|id| {
        let address = (lan.own(id), admin::PORT).into();
        Admin::new(Network::Namespace(lan.namespace.clone()), address, TOKEN)
    });
    wait_for(|| {
        let status = source.status()?;
        let up = status.ingress && status.members.iter().all(|member| member.up);
        Ok(up)
    })?;

    let begun = Instant::now();
    let server = "10.78.0.10:7".parse()?;
    let mut crowd = lan
        .namespace
        .run(|| Crowd::open(&[server], CONNECTIONS))
        .context("opening")?;
    let opened = begun.elapsed();
    target.start_move("all", 1)?;
    wait_for(|| Ok(target.drain_report()?.sessions == 0))
        .context("all sessions are at one image")?;
    let resets = || lan.namespace.run(|| kernel_counter("Tcp", "EstabResets"));
    let before = resets()?;
    let busy = crowd.keep_busy(BUSY, PACE)?;
    thread::sleep(2 * PACE);

    let ordered = Instant::now();
    source.drain(&json!({ "then": "wait" }))?;
    wait_for(|| Ok(target.drain_report()?.sessions == CONNECTIONS as u64))
        .context("all sessions have moved")?;
    let moved = ordered.elapsed();
    let mut first = vms.remove(0);
    match first.wait_exit(Duration::from_secs(30)) {
        Outcome::Verdict(verdict) if verdict.code == 0 => {}
        other => bail!(
            "ended with {other}\n{}",
            first.console().tail(20).join("\n")
        ),
    }
    let off = ordered.elapsed();
    let answers = crowd.rest(busy).context("those in use")?;
    crowd.check().context("afterwards")?;
    ensure!(resets()? == before, "connections were reset");
    println!(
        "    {CONNECTIONS} connections, {BUSY} in use, {MEMORY} MiB each: opened in {:.1} s, moved in \
         {:.2} s, off after {:.2} s; {} answers meanwhile, the latest after {:.0} ms",
        opened.as_secs_f64(),
        moved.as_secs_f64(),
        off.as_secs_f64(),
        answers.count,
        answers.longest.as_secs_f64() * 1e3
    );
    drop(crowd);
    power_off(vms.remove(0))
}

/// Looks now and then: each look is a connection, which stays for a minute in TIME-WAIT.
fn wait_for(holds: impl Fn() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds()? {
        ensure!(Instant::now() < deadline, "nothing happens");
        thread::sleep(LOOK);
    }
    Ok(())
}
