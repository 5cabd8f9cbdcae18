//! Three VMs on one switch, each of which can be replaced.
//!
//! Addresses are those of the other demo ([`crate::demo::lab`]): the clients' host is 1, the instances
//! are 11 to 13, and 10 is the address they share.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::load;
use super::tally::Tally;
use crate::admin::{self, Admin, Status};
use crate::demo::lab::random_hex;
use crate::demo::options::Family;
use crate::net::{Namespace, Network, open_tap};
use crate::scratch::Scratch;
use crate::switch::{Attachment, Impairment, Observer, PortConfig, Switch, SwitchBuilder};
use crate::vm::{Accelerator, Machine, Netdev, Nic, NicModel, Outcome, Vm, VmSpec};

/// Instance ids.
pub(super) const INSTANCES: [u32; 3] = [1, 2, 3];

/// A boot takes milliseconds, on a busy host a second.
const BOOT: Duration = Duration::from_secs(30);
/// An idle instance powers off at once.
const POWER_OFF: Duration = Duration::from_secs(10);
/// Moves that were asked for are over by then.
const MOVES: Duration = Duration::from_secs(15);
/// Time between two looks at an instance.
const LOOK: Duration = Duration::from_millis(100);

/// What a cluster is made of.
pub(super) struct ClusterSpec {
    /// The image all VMs run at first.
    pub image: PathBuf,
    pub machine: Machine,
    /// Their memory in MiB.
    pub memory: u32,
    pub family: Family,
    pub accelerator: Accelerator,
    /// Show the VMs' consoles.
    pub verbose: bool,
}

/// What came of a rebalancing: moves to an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Taken {
    /// Sessions that came.
    pub moved: u64,
    /// Attempts that were refused: each went on where it was, and most came later.
    pub refused: u64,
}

/// Whether every other member votes for this ingress. One that has just booted does not for a while,
/// and should not be counted on before.
fn has_every_vote(ingress: &Status) -> bool {
    let voters = ingress.role.voters.iter();
    let mut others = voters.filter(|voter| voter.id != ingress.id);
    others.all(|voter| voter.granted_ms.is_some())
}

/// A running cluster.
pub(super) struct Cluster {
    spec: ClusterSpec,
    key: String,
    token: String,
    namespace: Namespace,
    // Dropped in this order: no VM outlives its network.
    vms: BTreeMap<u32, Vm>,
    switch: Switch,
    scratch: Scratch,
}

impl Cluster {
    /// Boots all instances and waits until they have found each other.
    pub fn start(spec: ClusterSpec, tally: &Tally) -> Result<Self> {
        let scratch = Scratch::new("upgrade")?;
        let namespace = Namespace::create()?;
        load::limit_buffers(&namespace)?;
        let address = format!("{}/{}", spec.family.address(1), spec.family.prefix());
        let tap = open_tap(&namespace, "godwit0", &[&address])?;
        let mut builder = SwitchBuilder::new(1);
        let mut port = |name: String, attachment, observers| {
            builder.port(PortConfig {
                name,
                attachment,
                impairment: Impairment::default(),
                observers,
            });
        };
        let observer: Box<dyn Observer> = Box::new(tally.clone());
        port("clients".into(), Attachment::Packet(tap), vec![observer]);
        for id in INSTANCES {
            let socket = Attachment::Listen(scratch.path(&format!("port{id}")));
            port(format!("instance {id}"), socket, Vec::new());
        }
        let switch = builder.start()?;
        let image = spec.image.clone();
        let mut cluster = Self {
            spec,
            key: random_hex()?,
            token: random_hex()?,
            namespace,
            vms: BTreeMap::new(),
            switch,
            scratch,
        };
        for id in INSTANCES {
            cluster.boot(id, &image)?;
        }
        cluster.wait_for_members()?;
        Ok(cluster)
    }

    /// Where the clients are.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The IP version.
    pub fn family(&self) -> Family {
        self.spec.family
    }

    /// An instance's admin port.
    pub fn admin(&self, id: u32) -> Admin {
        let address = self.spec.family.address(10 + id as u8);
        Admin::new(
            Network::Namespace(self.namespace.clone()),
            SocketAddr::new(address, admin::PORT),
            &self.token,
        )
    }

    /// What the instances say of themselves.
    pub fn statuses(&self) -> Result<Vec<Status>> {
        INSTANCES
            .iter()
            .map(|id| self.admin(*id).status())
            .collect()
    }

    /// Boots an instance whose machine is off, and returns the time until it serves.
    pub fn boot(&mut self, id: u32, image: &Path) -> Result<Duration> {
        // Whoever has the role keeps it; the first one to boot begins with it.
        let peers = self.vms.keys().filter(|peer| **peer != id);
        let ingress = peers
            .filter_map(|peer| self.admin(*peer).status().ok())
            .find(|status| status.ingress)
            .map_or(INSTANCES[0], |status| status.id);
        let verbose = self.spec.verbose;
        let echo = move |line: &str| {
            if verbose {
                println!("    instance {id} | {line}");
            }
        };
        let nic = Nic {
            model: NicModel::Virtio,
            mac: [0x02, 0x67, 0x77, 0, 0, id as u8],
            netdev: Netdev::Switch(self.scratch.path(&format!("port{id}"))),
        };
        let spec = VmSpec {
            machine: self.spec.machine,
            memory: self.spec.memory,
            config: self.configuration(id, ingress),
            nics: vec![nic],
            ..VmSpec::new(&format!("instance-{id}"), image)
        };
        let mut vm = Vm::start(&spec, self.spec.accelerator, echo)?;
        let (_, elapsed) = vm.wait_ready(BOOT)?;
        self.vms.insert(id, vm);
        Ok(elapsed)
    }

    fn configuration(&self, id: u32, ingress: u32) -> String {
        let family = self.spec.family;
        let own = |id: u32| family.address(10 + id as u8);
        let mut text = format!("id={id}\nip={}/{}\n", own(id), family.prefix());
        let _ = writeln!(text, "vip={}\ningress={ingress}", family.virtual_ip());
        for peer in INSTANCES.iter().filter(|peer| **peer != id) {
            let _ = writeln!(text, "peer={peer}@{}", own(*peer));
        }
        let (key, token) = (&self.key, &self.token);
        let _ = writeln!(text, "cluster_key={key}\nadmin_token={token}");
        let _ = writeln!(text, "admin_port={}\nlog=info", admin::PORT);
        text
    }

    /// Waits until every instance has found the others, and one answers for the shared address with the
    /// votes of all.
    pub fn wait_for_members(&self) -> Result<()> {
        let deadline = Instant::now() + BOOT;
        loop {
            let statuses = self.statuses()?;
            let all = statuses
                .iter()
                .all(|status| status.members.iter().all(|m| m.up));
            let mut acting = statuses.iter().filter(|status| status.ingress);
            if all && acting.next().is_some_and(has_every_vote) && acting.next().is_none() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the instances do not find each other");
            }
            thread::sleep(LOOK / 2);
        }
    }

    /// Waits until an instance that drains has powered off: how it ended, and what it said last.
    pub fn wait_off(&mut self, id: u32, patience: Duration) -> Result<(Outcome, Option<Status>)> {
        let admin = self.admin(id);
        let mut vm = self
            .vms
            .remove(&id)
            .with_context(|| format!("no instance {id}"))?;
        let deadline = Instant::now() + patience;
        let mut last = None;
        while vm.try_exit()?.is_none() && Instant::now() < deadline {
            // Once it has begun to power off nobody answers.
            let drained = last
                .as_ref()
                .is_some_and(|status: &Status| status.sessions.is_empty());
            if !drained && let Ok(status) = admin.status() {
                last = Some(status);
            }
            thread::sleep(LOOK);
        }
        Ok((vm.wait_exit(Duration::ZERO), last))
    }

    /// Moves sessions from the others to an instance until it has its share.
    pub fn rebalance(&self, id: u32) -> Result<Taken> {
        let statuses = self.statuses()?;
        let all: usize = statuses.iter().map(|status| status.sessions.len()).sum();
        let share = all / INSTANCES.len();
        let mut wanted = BTreeSet::new();
        let mut refusals = 0;
        for status in statuses.iter().filter(|status| status.id != id) {
            let source = self.admin(status.id);
            let refused = |status: &Status| status.counters.get("moves_refused").copied();
            refusals += refused(status).unwrap_or(0);
            for session in status.sessions.iter().skip(share) {
                // It may have ended meanwhile, or be on its way already.
                if source.start_move(&session.id, id).is_ok() {
                    wanted.insert(session.id.clone());
                }
            }
        }
        let deadline = Instant::now() + MOVES;
        loop {
            let statuses = self.statuses()?;
            let mut here = BTreeSet::new();
            let mut refused = 0;
            for status in &statuses {
                let sessions = status.sessions.iter().map(|session| session.id.clone());
                if status.id == id {
                    here.extend(sessions);
                } else {
                    refused += status.counters.get("moves_refused").copied().unwrap_or(0);
                }
            }
            let moved = wanted.intersection(&here).count();
            if moved == wanted.len() || Instant::now() > deadline {
                return Ok(Taken {
                    moved: moved as u64,
                    refused: refused.saturating_sub(refusals),
                });
            }
            thread::sleep(LOOK);
        }
    }

    /// An error with the last lines of the instances' consoles.
    pub fn explain(&self, error: &anyhow::Error) -> anyhow::Error {
        let mut text = format!("{error:#}\n");
        for vm in self.vms.values() {
            for line in vm.console().tail(15) {
                let _ = writeln!(text, "    {} | {line}", vm.name());
            }
        }
        anyhow!(text)
    }

    /// Powers off what still runs and returns what was not as it should be.
    pub fn stop(mut self) -> Vec<String> {
        let mut problems = Vec::new();
        for vm in self.vms.values() {
            if let Err(error) = vm.press_power_button() {
                problems.push(format!("{}: {error:#}", vm.name()));
            }
        }
        for vm in self.vms.values_mut() {
            match vm.wait_exit(POWER_OFF) {
                Outcome::Verdict(verdict) if verdict.code == 0 => {}
                other => problems.push(format!("{} ended with: {other}", vm.name())),
            }
        }
        for port in self.switch.stats() {
            // Frames to a machine that is off are nobody's fault.
            if port.dropped > 0 && port.name == "clients" {
                let dropped = port.dropped;
                problems.push(format!(
                    "the switch dropped {dropped} frames to the clients"
                ));
            }
        }
        problems
    }
}
