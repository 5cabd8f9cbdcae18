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

    // All with the ingress, which is given new ones too if it is the only one to have any.
    admins[1].start_move("all", 1)?;
    wait_for(|| {
        let here = admins[0].status()?.sessions.len();
        Ok((here == CONNECTIONS).then_some(()))
    })?;
    let mut bad = connect()?;
    let begun = Instant::now();
    bad.write_all(b"p")?;
    let gone = bad.read(&mut nothing);
    ensure!(!matches!(gone, Ok(1..)), "an answer from a session with a bug");

    // Whichever it was: its code is that of a panic, and it named the session.
    let ended = loop {
        let mut ended = None;
        for (n, vm) in vms.iter_mut().enumerate() {
            if vm.try_exit()?.is_some() {
                ended = Some(n);
            }
        }
        match ended {
            Some(n) => break n,
            None if begun.elapsed() > PATIENCE => bail!("no instance has ended"),
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    println!(
        "    instance {} ended {} ms after the order",
        ended + 1,
        begun.elapsed().as_millis()
    );
    match vms[ended].wait_exit(PATIENCE) {
        Outcome::Verdict(verdict) => ensure!(
            verdict.code == 10 && verdict.reason.contains("serving session"),
            "{verdict:?}"
        ),
        Outcome::Infrastructure(what) => bail!("{what}"),
    }
    let console = vms[ended].console().tail(60).join("\n");
    ensure!(console.contains("the others are handed over"), "{console}");
    for (n, talk) in talks.iter_mut().enumerate() {
        if let Err(error) = say(&mut **talk, &format!("still {n}")) {
            bail!("connection {n}: {error:#}\n{console}");
        }
    }
    let status = admins[1 - ended].status()?;
    ensure!(status.sessions.len() == CONNECTIONS, "all are with the other one");
    let [first, second] = vms;
    drop(talks);
    power_off(if ended == 0 { second } else { first })
}
