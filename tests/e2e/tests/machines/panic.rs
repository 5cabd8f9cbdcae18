//! A service with a bug: the instance ends for it, and its other sessions are handed over first.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use godwit_qemu::admin::{self, Admin};
use godwit_qemu::build::Service;
use godwit_qemu::image::build_image;
use godwit_qemu::net::{Network, Stream};
use godwit_qemu::vm::{Machine, Outcome, Vm};

use super::offload::{Lan, TOKEN, power_off, wait_for};

/// Connections that go on; all of them are at one instance when there is a panic at one of the two.
const CONNECTIONS: usize = 12;
const PATIENCE: Duration = Duration::from_secs(20);

fn say(talk: &mut dyn Stream, word: &str) -> Result<()> {
    talk.write_all(word.as_bytes())?;
    let mut heard = vec![0; word.len()];
    talk.read_exact(&mut heard)?;
    ensure!(heard == word.as_bytes(), "another word came back");
    Ok(())
}

pub fn hands_over() -> Result<()> {
    let Some(lan) = Lan::create(true)? else {
        return Ok(());
    };
    let image = build_image("faulty")?;
    let boot = |id: u32| -> Result<Vm> {
        let peer = 3 - id;
        let words = format!(
            "cluster_key={}\nvip=10.78.0.10\ningress=1\npeer={peer}@10.78.0.1{peer}\n",
            "07".repeat(32)
        );
        let mut spec = lan.spec(Machine::Microvm, Service::Echo, id, &words)?;
        spec.kernel.clone_from(&image);
        lan.start(&spec)
    };
    let mut vms = [boot(1)?, boot(2)?];
    let network = Network::Namespace(lan.namespace.clone());
    let admins: Vec<Admin> = (1..=2)
        .map(|id| Admin::new(network.clone(), (lan.own(id), admin::PORT).into(), TOKEN))
        .collect();
    for admin in &admins {
        wait_for(|| {
            let members = admin.status()?.members;
            Ok(members.iter().any(|member| member.up).then_some(()))
        })?;
    }
    let connect = || network.connect("10.78.0.10:7".parse()?, PATIENCE);
    let mut talks = Vec::new();
    for n in 0..CONNECTIONS {
        let mut talk = connect()?;
        say(&mut *talk, &format!("echo {n}"))?;
        talks.push(talk);
    }
    let mut bad = connect()?;
    bad.write_all(b"x")?;
    let mut nothing = [0];
    ensure!(bad.read(&mut nothing)? == 0, "a session ends by itself");

    // All to the ingress, which then loses most.
    let mut bad = connect()?;
    wait_for(|| {
        admins[1].start_move("all", 1)?;
        let here = admins[0].status()?.sessions.len();
        Ok((here == CONNECTIONS + 1).then_some(()))
    })?;
    let begun = Instant::now();
    bad.write_all(b"p")?;
    let gone = bad.read(&mut nothing);
    ensure!(
        !matches!(gone, Ok(1..)),
        "an answer from a session with a bug"
    );

    match vms[0].wait_exit(PATIENCE) {
        Outcome::Verdict(verdict) => ensure!(
            verdict.code == 10 && verdict.reason.contains("serving session"),
            "{verdict:?}"
        ),
        Outcome::Infrastructure(what) => bail!("{what}"),
    }
    println!(
        "    ended {} ms after the order",
        begun.elapsed().as_millis()
    );
    let console = vms[0].console().tail(60).join("\n");
    ensure!(console.contains("the others are handed over"), "{console}");
    for (n, talk) in talks.iter_mut().enumerate() {
        if let Err(error) = say(&mut **talk, &format!("still {n}")) {
            bail!("connection {n}: {error:#}\n{console}");
        }
    }
    let status = admins[1].status()?;
    ensure!(
        status.sessions.len() == CONNECTIONS,
        "all are with the other one"
    );
    let [first, second] = vms;
    drop(talks);
    drop(first);
    power_off(second)
}
