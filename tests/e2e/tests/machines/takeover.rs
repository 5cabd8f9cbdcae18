//! The ingress of two machines and a witness loses its power under the host kernel's own TCP: the other
//! machine's connections go on, and it answers for the address.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use godwit_qemu::admin::{self, Admin};
use godwit_qemu::build::Service;
use godwit_qemu::net::{Network, Stream};
use godwit_qemu::vm::{Machine, Vm};

use super::offload::{Lan, TOKEN, power_off, wait_for};

/// Connections; about half of them are at the ingress.
const CONNECTIONS: usize = 12;
/// For a read or a write: longer than a lease and a client's time-outs during it.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long nobody may be served: lease, margin and some beats, and the emulation.
const GAP: Duration = Duration::from_secs(6);

struct Talk(Box<dyn Stream>);

impl Talk {
    fn start(lan: &Lan, patience: Duration) -> Result<Talk> {
        let network = Network::Namespace(lan.namespace.clone());
        let mut talk = Talk(network.connect("10.78.0.10:7".parse()?, patience)?);
        talk.say("first")?;
        Ok(talk)
    }

    fn say(&mut self, word: &str) -> Result<()> {
        self.0.write_all(word.as_bytes())?;
        let mut heard = vec![0; word.len()];
        self.0.read_exact(&mut heard)?;
        ensure!(heard == word.as_bytes(), "another word came back");
        Ok(())
    }
}

pub fn survives() -> Result<()> {
    let Some(lan) = Lan::create(true)? else {
        return Ok(());
    };
    let boot = |id: u32| -> Result<Vm> {
        let mut words = format!(
            "cluster_key={}\nvip=10.78.0.10\ningress=1\nwitness=3\n",
            "07".repeat(32)
        );
        for peer in (1..=3).filter(|peer| *peer != id) {
            words += &format!("peer={peer}@10.78.0.1{peer}\n");
        }
        lan.start(&lan.spec(Machine::Microvm, Service::Echo, id, &words)?)
    };
    let mut vms = (1..=3).map(boot).collect::<Result<Vec<Vm>>>()?;
    let admin = |id| {
        let address = (lan.own(id), admin::PORT).into();
        Admin::new(Network::Namespace(lan.namespace.clone()), address, TOKEN)
    };
    let (first, second) = (admin(1), admin(2));
    wait_for(|| {
        let status = first.status()?;
        let up = status.ingress && status.members.iter().all(|member| member.up);
        Ok(up.then_some(()))
    })?;
    let mut talks = Vec::new();
    for _ in 0..CONNECTIONS {
        talks.push(Talk::start(&lan, PATIENCE)?);
    }
    // So that there is somebody to go on, whatever the lot said.
    first.start_move("all", 2)?;
    wait_for(|| Ok((second.status()?.sessions.len() == CONNECTIONS).then_some(())))?;

    let begun = Instant::now();
    // Without a word.
    drop(vms.remove(0));
    let new = loop {
        match Talk::start(&lan, Duration::from_millis(500)) {
            Ok(talk) => break talk,
            Err(_) if begun.elapsed() < GAP => {}
            Err(error) => bail!("nobody serves after {GAP:?}: {error:#}"),
        }
    };
    println!(
        "    a new connection {} ms after the ingress lost its power",
        begun.elapsed().as_millis()
    );
    for talk in &mut talks {
        talk.say("second")
            .context("a connection of the other one")?;
    }
    let status = second.status()?;
    ensure!(status.ingress && status.role.term > 1, "{:?}", status.role);
    // The first comes back, and has its part.
    vms.insert(0, boot(1)?);
    // The other one may not have missed it yet: only what it says itself shows that it is the new boot. What is
    // offered to the old one is lost when that turns out to be gone.
    for admin in [&first, &second] {
        wait_for(|| {
            let members = admin.status()?.members;
            Ok(members.iter().all(|member| member.up).then_some(()))
        })
        .context("it is back")?;
    }
    second.start_move("all", 1)?;
    wait_for(|| Ok((first.status()?.sessions.len() > CONNECTIONS).then_some(())))
        .context("it is given everything")?;
    for talk in &mut talks {
        talk.say("third").context("after the machine is back")?;
    }
    drop((talks, new));
    vms.into_iter().try_for_each(power_off)
}
