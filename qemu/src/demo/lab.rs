//! The demo's world: two VMs and the client's namespace on one switch.
//!
//! The client is host 1 of 10.77.0.0/24 or fd77::/64, the instances are 11 and 12, and 10 is the
//! virtual address they share.

use std::fmt::Write;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::client::Client;
use super::options::{Family, Platform};
use crate::admin::{self, Admin, Status};
use crate::build::Service;
use crate::net::{Namespace, Network, UserStack, open_packet_socket, open_tap};
use crate::scratch::Scratch;
use crate::switch::{Attachment, Impairment, PortConfig, Switch, SwitchBuilder, pcap::Capture};
use crate::vm::{Accelerator, Netdev, Nic, NicModel, Outcome, Vm, VmSpec};
use crate::wire::SharedTrace;

/// Instance ids.
pub const INSTANCES: [u32; 2] = [1, 2];

/// A boot takes milliseconds, on a busy host a second.
const BOOT: Duration = Duration::from_secs(30);
/// An idle instance powers off at once.
const POWER_OFF: Duration = Duration::from_secs(5);

/// What a lab is made of.
#[derive(Clone, Debug)]
pub struct LabSpec {
    /// The service.
    pub service: Service,
    /// The image both VMs run, or the program that plays them.
    pub image: PathBuf,
    /// What they run on.
    pub machine: Platform,
    /// Their NIC.
    pub nic: NicModel,
    /// Their memory in MiB.
    pub memory: u32,
    /// The IP version.
    pub family: Family,
    /// What each link does to frames.
    pub impairment: Impairment,
    /// The seed of the links' chance.
    pub seed: u64,
    /// Who the client is.
    pub client: Client,
    /// What runs the VMs.
    pub accelerator: Accelerator,
    /// Show the VMs' consoles.
    pub verbose: bool,
}

/// Where an instance's end of its link is.
enum Node {
    /// A VM's NIC connects to this socket.
    Vm(PathBuf),
    /// A process has a TAP device in a namespace of its own.
    Hosted(Namespace),
}

/// The TAP device of a hosted instance.
const HOSTED_TAP: &str = "instance0";

impl LabSpec {
    /// Prepares the client's network and its link to the switch.
    fn plug_client(&self) -> Result<(Network, Attachment)> {
        let (address, prefix) = (self.family.address(1), self.family.prefix());
        match &self.client {
            Client::Linux(_) => {
                let namespace = Namespace::create()?;
                let tap = open_tap(&namespace, "godwit0", &[&format!("{address}/{prefix}")])?;
                Ok((Network::Namespace(namespace), Attachment::Packet(tap)))
            }
            Client::Harness(_) => {
                let (cable, end) = Attachment::in_process()?;
                let stack = UserStack::start(end, address, prefix, self.seed)?;
                Ok((Network::User(stack), cable))
            }
        }
    }

    /// Prepares an instance's link: its end, and the switch's end.
    fn plug(&self, id: u32, scratch: &Scratch) -> Result<(Node, Attachment)> {
        if self.machine.machine().is_some() {
            let socket = scratch.path(&format!("port{id}"));
            return Ok((Node::Vm(socket.clone()), Attachment::Listen(socket)));
        }
        let namespace = Namespace::create()?;
        // The namespace's own kernel has no business on the link.
        namespace.ip(&format!(
            "tuntap add dev {HOSTED_TAP} mode tap\n\
             link set dev {HOSTED_TAP} addrgenmode none txqueuelen 8192\n\
             link set dev {HOSTED_TAP} up\n"
        ))?;
        let socket = open_packet_socket(&namespace, HOSTED_TAP)?;
        Ok((Node::Hosted(namespace), Attachment::Packet(socket)))
    }

    /// Starts an instance.
    fn boot(&self, id: u32, node: Node, config: String) -> Result<Vm> {
        let verbose = self.verbose;
        let echo = move |line: &str| {
            if verbose {
                println!("    instance {id} | {line}");
            }
        };
        let name = format!("instance-{id}");
        match (node, self.machine.machine()) {
            (Node::Vm(socket), Some(machine)) => {
                let nic = Nic {
                    model: self.nic,
                    mac: [0x02, 0x67, 0x77, 0, 0, id as u8],
                    netdev: Netdev::Switch(socket),
                };
                let (memory, nics) = (self.memory, vec![nic]);
                let vm = VmSpec::new(&name, &self.image);
                let vm = VmSpec {
                    machine,
                    memory,
                    config,
                    nics,
                    ..vm
                };
                Vm::start(&vm, self.accelerator, echo)
            }
            (Node::Hosted(namespace), _) => {
                let tap = format!("tap={HOSTED_TAP}");
                let arguments = [
                    self.service.name(),
                    &tap,
                    "offload=off",
                    &format!("id={id}"),
                ];
                Vm::start_hosted(&name, &self.image, &arguments, &config, &namespace, echo)
            }
            (Node::Vm(_), None) => Err(anyhow!("a hosted instance has no VM")),
        }
    }
}

/// A running lab.
pub struct Lab {
    /// Where the client's connections come from.
    pub network: Network,
    /// What crosses the client's link.
    pub trace: SharedTrace,
    /// The virtual address.
    pub virtual_ip: IpAddr,
    /// The instances' admin ports.
    pub admins: Admins,
    // Dropped in this order: no VM outlives its network.
    vms: Vec<Vm>,
    switch: Switch,
    _scratch: Scratch,
}

/// The admin ports of all instances.
#[derive(Clone, Debug)]
pub struct Admins(Vec<Admin>);

impl Admins {
    /// An instance's admin port.
    pub fn of(&self, id: u32) -> Result<&Admin> {
        let position = INSTANCES.iter().position(|known| *known == id);
        position
            .and_then(|n| self.0.get(n))
            .with_context(|| format!("no instance {id}"))
    }

    /// The instance that owns the client's connection, and the session's status.
    pub fn find(&self, client: SocketAddr) -> Result<Option<(u32, admin::Session)>> {
        for (id, admin) in INSTANCES.iter().zip(&self.0) {
            let status = admin.status()?;
            let is_it =
                |session: &&admin::Session| session.connections.iter().any(|c| c.remote == client);
            if let Some(session) = status.sessions.iter().find(is_it) {
                return Ok(Some((*id, session.clone())));
            }
        }
        Ok(None)
    }
}

impl Lab {
    /// Boots everything and waits until both instances serve.
    pub fn start(spec: &LabSpec, capture: Option<&Capture>) -> Result<Self> {
        let scratch = Scratch::new("lab")?;
        let family = spec.family;
        let (network, cable) = spec.plug_client()?;
        let trace = SharedTrace::default();
        let mut builder = SwitchBuilder::new(spec.seed);
        let mut port = |name: String, attachment, observers| {
            let impairment = spec.impairment.clone();
            builder.port(PortConfig {
                name,
                attachment,
                impairment,
                observers,
            })
        };
        let mut observers: Vec<Box<dyn crate::switch::Observer>> = vec![Box::new(trace.clone())];
        observers.extend(capture.map(Capture::observer));
        port("client".into(), cable, observers);
        let mut nodes = Vec::new();
        for id in INSTANCES {
            let (node, attachment) = spec.plug(id, &scratch)?;
            port(format!("instance {id}"), attachment, Vec::new());
            nodes.push(node);
        }
        let switch = builder.start()?;

        let (cluster_key, token) = (random_hex()?, random_hex()?);
        let mut vms = Vec::new();
        for (id, node) in INSTANCES.into_iter().zip(nodes) {
            let config = configuration(family, id, &cluster_key, &token);
            vms.push(spec.boot(id, node, config)?);
        }
        for vm in &mut vms {
            let (ready, elapsed) = vm.wait_ready(BOOT)?;
            println!(
                "  instance {} serves {}: {:.1} ms after its first instruction, {:.0} ms after its start",
                ready.id,
                ready.service,
                ready.ready_us as f64 / 1e3,
                elapsed.as_secs_f64() * 1e3
            );
        }
        let admins = INSTANCES.map(|id| {
            Admin::new(
                network.clone(),
                SocketAddr::new(family.address(10 + id as u8), admin::PORT),
                &token,
            )
        });
        let lab = Self {
            network,
            trace,
            virtual_ip: family.virtual_ip(),
            admins: Admins(admins.to_vec()),
            vms,
            switch,
            _scratch: scratch,
        };
        lab.wait_for_members()?;
        Ok(lab)
    }

    /// Waits until the instances have found each other and elected one that answers.
    fn wait_for_members(&self) -> Result<()> {
        let deadline = std::time::Instant::now() + BOOT;
        loop {
            let statuses = self.statuses()?;
            let alone = statuses.iter().find(|s| !s.members.iter().any(|m| m.up));
            let elected = statuses.iter().any(|s| s.ingress);
            if alone.is_none() && elected {
                return Ok(());
            }
            if std::time::Instant::now() > deadline {
                return Err(match alone {
                    Some(alone) => anyhow!("instance {} does not find the other one", alone.id),
                    None => anyhow!("the instances elect no ingress"),
                });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the instances say of themselves.
    pub fn statuses(&self) -> Result<Vec<Status>> {
        self.admins.0.iter().map(Admin::status).collect()
    }

    /// The VM of an instance.
    pub fn vm(&mut self, id: u32) -> Result<&mut Vm> {
        let position = INSTANCES.iter().position(|known| *known == id);
        position
            .and_then(|n| self.vms.get_mut(n))
            .with_context(|| format!("no instance {id}"))
    }

    /// An error with the last lines of the instances' consoles.
    pub fn explain(&self, error: &anyhow::Error) -> anyhow::Error {
        let mut text = format!("{error:#}\n");
        for vm in &self.vms {
            for line in vm
                .console()
                .tail(15)
                .iter()
                .map(String::as_str)
                .chain(vm.errors().lines())
            {
                let _ = writeln!(text, "    {} | {line}", vm.name());
            }
        }
        anyhow!(text)
    }

    /// Powers off what still runs and returns what was not as it should be.
    pub fn stop(mut self) -> Vec<String> {
        let mut problems = Vec::new();
        for vm in &mut self.vms {
            if matches!(vm.try_exit(), Ok(None))
                && let Err(error) = vm.press_power_button()
            {
                problems.push(format!("{}: {error:#}", vm.name()));
            }
        }
        for vm in &mut self.vms {
            match vm.wait_exit(POWER_OFF) {
                Outcome::Verdict(verdict) if verdict.code == 0 => {}
                other => problems.push(format!("{} ended with: {other}", vm.name())),
            }
        }
        for port in self.switch.stats() {
            // Frames to a machine that is off are nobody's fault.
            if port.dropped > 0 && port.name == "client" {
                problems.push(format!(
                    "the switch dropped {} frames to the client",
                    port.dropped
                ));
            }
        }
        problems
    }
}

/// An instance's configuration, as it is handed over through fw_cfg.
fn configuration(family: Family, id: u32, cluster_key: &str, token: &str) -> String {
    let own = |id: u32| family.address(10 + id as u8);
    let mut text = format!("id={id}\nip={}/{}\n", own(id), family.prefix());
    let _ = writeln!(text, "vip={}", family.virtual_ip());
    for peer in INSTANCES.iter().filter(|peer| **peer != id) {
        let _ = writeln!(text, "peer={peer}@{}", own(*peer));
    }
    let _ = writeln!(text, "ingress={}", INSTANCES[0]);
    let _ = writeln!(text, "cluster_key={cluster_key}\nadmin_token={token}");
    let _ = writeln!(text, "admin_port={}\nlog=info", admin::PORT);
    text
}

/// 256 random bits in hexadecimal.
pub fn random_hex() -> Result<String> {
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_the_other_one_as_peer() {
        let text = configuration(Family::V4, 2, "k", "t");
        assert!(text.contains("id=2\nip=10.77.0.12/24\nvip=10.77.0.10\npeer=1@10.77.0.11\n"));
        assert!(!text.contains("peer=2"));
        let text = configuration(Family::V6, 1, "k", "t");
        assert!(text.contains("ip=fd77::11/64\nvip=fd77::10\npeer=2@fd77::12\n"));
    }
}
