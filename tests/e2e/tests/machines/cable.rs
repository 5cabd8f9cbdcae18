//! A bad cable and small rings: each card downloads and echoes over a link that loses frames both ways, and
//! that goes away and comes back meanwhile. Octets have to be right, and no card may have been reset.
//!
//! The short form is one of the tests. A gibibyte for each card is
//! `cargo test -p godwit-e2e --test machines -- --ignored gibibyte`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use godwit_qemu::admin::{self, Admin};
use godwit_qemu::build::{self, Service};
use godwit_qemu::net::{Namespace, Network, open_tap};
use godwit_qemu::scratch::Scratch;
use godwit_qemu::switch::{Attachment, Impairment, PortConfig, Switch, SwitchBuilder};
use godwit_qemu::vm::{Accelerator, Machine, Netdev, Nic, NicModel, Vm, VmSpec};

use crate::offload::{TOKEN, download, exchange, power_off, wait_for};

/// Every card, on machines that differ in how it interrupts.
const CARDS: [(Machine, NicModel); 13] = [
    (Machine::Microvm, NicModel::Virtio),
    (Machine::MicrovmLegacy, NicModel::Virtio),
    (Machine::Q35, NicModel::Virtio),
    (Machine::Pc, NicModel::VirtioModern),
    (Machine::Q35, NicModel::VirtioLegacy),
    (Machine::Pc, NicModel::E1000),
    (Machine::Q35, NicModel::E1000),
    (Machine::Q35, NicModel::I82545em),
    (Machine::Q35, NicModel::E1000e),
    (Machine::Pc, NicModel::Rtl8139),
    (Machine::Q35, NicModel::Rtl8139),
    (Machine::Pc, NicModel::Vmxnet3),
    (Machine::Q35, NicModel::Vmxnet3),
];
const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);
const LOSS: f64 = 0.01;
/// The fewest descriptors that a ring may be told to have.
const RING: u32 = 8;
const HOST: &str = "10.79.0.11";

/// How much is asked of a card.
#[derive(Clone, Copy)]
struct Plan {
    /// Octets of a download, and of an echo.
    download: u64,
    echo: u64,
    /// How often the cable is pulled out in each of these, at least, and whether that goes on until they end.
    pulls: u32,
    goes_on: bool,
    /// How long it is in, between two pulls.
    plugged: Duration,
}

/// Most of it is waiting, so some cards wait at the same time.
pub fn some_of_it() -> Result<()> {
    let plan = Plan {
        download: 6 * MIB,
        echo: 4 * MIB,
        pulls: 2,
        goes_on: false,
        // Intel's cards take half a second until they have a link again.
        plugged: Duration::from_millis(700),
    };
    let next = AtomicUsize::new(0);
    let some = || -> Result<()> {
        while let Some(&card) = CARDS.get(next.fetch_add(1, Ordering::Relaxed)) {
            println!("    {}", try_card(card, plan)?);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers = [0; 6].map(|_| scope.spawn(some));
        let ended = workers.map(|worker| worker.join().map_err(|_| anyhow!("panic"))?);
        ended.into_iter().collect()
    })
}

/// A download of a gibibyte, and an eighth of one both ways.
pub fn gibibyte(machine: Machine, model: NicModel) -> Result<()> {
    let plan = Plan {
        download: 1024 * MIB,
        echo: 128 * MIB,
        pulls: 6,
        goes_on: true,
        plugged: Duration::from_secs(4),
    };
    println!("    {}", try_card((machine, model), plan)?);
    Ok(())
}

/// What it came to.
#[derive(Default)]
struct Measured {
    card: String,
    pulls: u32,
    lost: u64,
    /// Octets, and seconds they took.
    streams: Vec<(&'static str, u64, f64)>,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.card)?;
        for &(what, octets, seconds) in &self.streams {
            let rate = octets as f64 * 8e-6 / seconds;
            write!(f, " {what} {} MiB, {rate:.0} Mbit/s;", octets / MIB)?;
        }
        let Self { pulls, lost, .. } = self;
        write!(f, " {pulls} pulls, {lost} frames lost")
    }
}

fn try_card((machine, model): (Machine, NicModel), plan: Plan) -> Result<Measured> {
    let card = format!("{machine:?} {model:?}");
    let mut measured = Measured {
        card: card.clone(),
        ..Measured::default()
    };
    for service in [Service::Http, Service::Echo] {
        let done = Yard::build(machine, model, service)
            .and_then(|yard| yard.map_or(Ok(()), |yard| yard.try_it(service, plan, &mut measured)));
        done.with_context(|| format!("{card}, {}", service.name()))?;
    }
    Ok(measured)
}

/// One machine and a client, on a bad cable.
struct Yard {
    // Dropped in this order.
    vm: Vm,
    switch: Switch,
    place: Namespace,
    _scratch: Scratch,
}

impl Yard {
    /// `None`, and a line that says so, where there may be no such devices.
    fn build(machine: Machine, model: NicModel, service: Service) -> Result<Option<Self>> {
        let made = Namespace::create().and_then(|place| {
            let tap = open_tap(&place, "godwit0", &["10.79.0.1/24"])?;
            // Linux gives a host up whose address it has asked for three times.
            place.ip(&format!(
                "neigh replace {HOST} lladdr 02:00:00:00:00:01 dev godwit0 nud permanent\n"
            ))?;
            Ok((place, tap))
        });
        let (place, tap) = match made {
            Ok(made) => made,
            Err(error) => {
                println!("    not tested: {error:#}");
                return Ok(None);
            }
        };
        let scratch = Scratch::new("cable")?;
        let socket = scratch.path("port");
        let mut builder = SwitchBuilder::new(7);
        for (name, attachment) in [
            ("client", Attachment::Packet(tap)),
            ("machine", Attachment::Listen(socket.clone())),
        ] {
            builder.port(PortConfig {
                name: name.into(),
                attachment,
                impairment: Impairment {
                    loss: LOSS,
                    ..Impairment::default()
                },
                observers: Vec::new(),
            });
        }
        let switch = builder.start()?;
        let spec = VmSpec {
            machine,
            config: format!(
                "id=1\nip={HOST}/24\nring={RING}\nadmin_port={}\nadmin_token={TOKEN}\n",
                admin::PORT
            ),
            nics: vec![Nic {
                model,
                mac: [2, 0, 0, 0, 0, 1],
                netdev: Netdev::Switch(socket),
            }],
            ..VmSpec::new(service.name(), &build::image(service)?)
        };
        let mut vm = Vm::start(&spec, Accelerator::best(), |_| ())?;
        vm.wait_ready(PATIENCE)?;
        Ok(Some(Self {
            vm,
            switch,
            place,
            _scratch: scratch,
        }))
    }

    fn try_it(self, service: Service, plan: Plan, measured: &mut Measured) -> Result<()> {
        if let Err(error) = self.run(service, plan, measured) {
            let counters = self.counters().map_or_else(
                |error| error.to_string(),
                |counters| format!("{counters:?}"),
            );
            let lines = self.vm.console().tail(20).join("\n");
            bail!("{error:#}\n{counters}\n{:?}\n{lines}", self.switch.stats());
        }
        power_off(self.vm)
    }

    fn run(&self, service: Service, plan: Plan, measured: &mut Measured) -> Result<()> {
        let (pulls, enough) = (AtomicU32::new(0), AtomicBool::new(false));
        let begun = Instant::now();
        let octets = thread::scope(|scope| {
            let puller = scope.spawn(|| self.pull_cable(plan, &pulls, &enough));
            let moved = match service {
                Service::Echo => self.echo(plan, &pulls),
                _ => self.downloads(plan, &pulls),
            };
            enough.store(true, Ordering::Relaxed);
            puller.join().map_err(|_| anyhow!("panic"))??;
            moved
        })?;
        let seconds = begun.elapsed().as_secs_f64();
        measured.streams.push((service.name(), octets, seconds));
        measured.pulls += pulls.into_inner();
        // Some cards take their time until they have a link again.
        self.look_at_counters()?;
        let ports = self.switch.stats();
        let carried: u64 = ports.iter().map(|port| port.sent).sum();
        let lost: u64 = ports.iter().map(|port| port.lost).sum();
        ensure!(lost > carried / 200, "only {lost} of {carried} frames lost");
        measured.lost += lost;
        let lines = self.vm.console().tail(usize::MAX);
        let rings = format!("rings of {RING}");
        let small = lines.iter().any(|line| line.ends_with(&rings));
        ensure!(small, "larger rings");
        Ok(())
    }

    /// So often as it is to be, and until it is enough if it is to go on. Every third time for so long that a
    /// driver is sure to see it.
    fn pull_cable(&self, plan: Plan, pulls: &AtomicU32, enough: &AtomicBool) -> Result<()> {
        for pulled in 0u32.. {
            let soon = Instant::now() + plan.plugged;
            while Instant::now() < soon {
                let over = !plan.goes_on || enough.load(Ordering::Relaxed);
                if pulled >= plan.pulls && over {
                    return Ok(());
                }
                thread::sleep(Duration::from_millis(20));
            }
            let out = if pulled % 3 == 1 { 1200 } else { 120 };
            self.vm.set_link(0, false)?;
            thread::sleep(Duration::from_millis(out));
            self.vm.set_link(0, true)?;
            pulls.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Downloads until the cable was pulled often enough; octets.
    fn downloads(&self, plan: Plan, pulls: &AtomicU32) -> Result<u64> {
        let mut octets = 0;
        while octets == 0 || pulls.load(Ordering::Relaxed) < plan.pulls {
            download(&self.place, HOST, plan.download)?;
            octets += plan.download;
        }
        Ok(octets)
    }

    /// Sends octets and gets them back until the cable was pulled often enough; octets both ways.
    fn echo(&self, plan: Plan, pulls: &AtomicU32) -> Result<u64> {
        let server = SocketAddr::new(HOST.parse()?, Service::Echo.port());
        let octets = exchange(&self.place, server, plan.echo, || {
            let deadline = Instant::now() + PATIENCE;
            while pulls.load(Ordering::Relaxed) < plan.pulls && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        })?;
        Ok(2 * octets)
    }

    fn counters(&self) -> Result<BTreeMap<String, u64>> {
        let network = Network::Namespace(self.place.clone());
        let address = SocketAddr::new(HOST.parse()?, admin::PORT);
        let counters = Admin::new(network, address, TOKEN).status()?.counters;
        Ok(counters.into_iter().collect())
    }

    fn look_at_counters(&self) -> Result<()> {
        // Drivers look a few times a second, if nothing happens once in a second.
        let seen = |counters: &BTreeMap<_, _>| counters.get("nic_link_changes") >= Some(&2);
        let counters = wait_for(|| Ok(Some(self.counters()?).filter(seen)))
            .context("fewer than two changes of the link")?;
        let count = |name: &str| counters.get(name).copied().unwrap_or_default();
        for name in ["nic_resets", "nic_tx_lost", "nic_rx_errors"] {
            ensure!(count(name) == 0, "{name}: {}", count(name));
        }
        ensure!(count("nic_tx_packets") > 0 && count("nic_rx_packets") > 0);
        Ok(())
    }
}
