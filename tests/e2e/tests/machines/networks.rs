//! Two networks: clients on one bridge, the instances' own on another, and images with a card of another kind
//! in each. Every frame on the clients' bridge is looked at.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use godwit_qemu::admin::{self, Admin};
use godwit_qemu::build::Service;
use godwit_qemu::net::{Network, open_packet_socket};
use godwit_qemu::vm::{Accelerator, Machine, Netdev, Nic, NicModel, Outcome, Vm, VmSpec};

use crate::offload::{self, Lan, TOKEN, power_off, wait_for};

const MIB: u64 = 1 << 20;
/// The cards of each machine, the service network's first.
const CARDS: [(Machine, [NicModel; 2]); 2] = [
    (Machine::Q35, [NicModel::Virtio, NicModel::E1000e]),
    (Machine::Pc, [NicModel::Vmxnet3, NicModel::Rtl8139]),
];

fn inner(id: u32) -> IpAddr {
    IpAddr::from([10, 88, 0, 10 + id as u8])
}

/// A second bridge, 10.88.0.1, with TAP devices `inner1` and `inner2`.
fn instance_network(lan: &Lan) -> Result<()> {
    let mut batch = String::from("link add br1 type bridge\n");
    for id in 1..=2 {
        batch += &format!(
            "tuntap add dev inner{id} mode tap\n\
             link set dev inner{id} addrgenmode none txqueuelen 8192\n\
             link set dev inner{id} master br1 up\n"
        );
    }
    batch +=
        "link set dev br1 addrgenmode none\naddr add 10.88.0.1/24 dev br1\nlink set dev br1 up\n";
    lan.namespace.ip(&batch)
}

fn spec(lan: &Lan, id: u32, more: &str) -> Result<VmSpec> {
    let (machine, [service, instance]) = CARDS[id as usize - 1];
    let mut words = format!("instance_ip={}/24\n{more}", inner(id));
    words += match id {
        1 => "service_nic=02:00:00:00:00:01\n",
        _ => "instance_nic=02:00:00:00:01:02\n",
    };
    let mut spec = lan.spec(machine, Service::Http, id, &words)?;
    spec.nics[0].model = service;
    spec.nics.push(Nic {
        model: instance,
        mac: [2, 0, 0, 0, 1, id as u8],
        netdev: Netdev::Tap {
            name: format!("inner{id}"),
            offload: false,
        },
    });
    Ok(spec)
}

/// What was seen at an interface.
#[derive(Debug, Default)]
struct Seen {
    frames: u64,
    /// Sent by a virtual address' owner.
    answers: u64,
    /// To the virtual address.
    questions: u64,
    /// With an address of the instance network, or of members to each other.
    inner: Vec<Vec<u8>>,
}

/// Looks at every frame that comes in at an interface until it is told to stop.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Seen>>,
}

impl Watch {
    fn start(lan: &Lan, interface: &str) -> Result<Watch> {
        // To the standard library any socket is a socket, and this type can be told not to wait.
        let socket = UdpSocket::from(open_packet_socket(&lan.namespace, interface)?);
        socket.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = thread::spawn(move || {
            let mut seen = Seen::default();
            let mut frame = vec![0; 70_000];
            loop {
                match socket.recv(&mut frame) {
                    Ok(length) => seen.take(&frame[..length]),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        if told.load(Ordering::Relaxed) {
                            return Ok(seen);
                        }
                        thread::sleep(Duration::from_millis(1));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        });
        Ok(Watch { stop, thread })
    }

    fn stop(self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("panic"))?
    }
}

impl Seen {
    fn take(&mut self, frame: &[u8]) {
        const VIP: [u8; 4] = [10, 78, 0, 10];
        self.frames += 1;
        let address = |at: usize| frame.get(at..at + 4).unwrap_or_default();
        let (source, destination) = match frame.get(12..14) {
            Some([8, 0]) => (address(26), address(30)),
            Some([8, 6]) => (address(28), address(38)),
            _ => return,
        };
        self.answers += u64::from(source == VIP);
        self.questions += u64::from(destination == VIP);
        let is_inner = |address: &[u8]| address.starts_with(&[10, 88]);
        let is_member = |address: &[u8]| matches!(address, [10, 78, 0, 11 | 12]);
        if is_inner(source)
            || is_inner(destination)
            || is_member(source) && is_member(destination) && source != destination
        {
            self.inner.push(frame[..frame.len().min(60)].to_vec());
        }
    }
}

/// Downloads through the service network while the connection moves to and fro through the other one; then
/// cables are pulled.
pub fn two() -> Result<()> {
    let Some(lan) = Lan::create(true)? else {
        return Ok(());
    };
    instance_network(&lan)?;
    let key = format!(
        "cluster_key={}\nvip=10.78.0.10\ningress=1\n",
        "07".repeat(32)
    );
    let mut vms = Vec::new();
    // All that the instances send, where the clients are.
    let outside = [1, 2].map(|id| Watch::start(&lan, &format!("guest{id}")));
    let inside = [1, 2].map(|id| Watch::start(&lan, &format!("inner{id}")));
    for id in [1, 2] {
        let peer = 3 - id;
        let more = format!("{key}peer={peer}@{}\n", inner(peer));
        vms.push(lan.start(&spec(&lan, id, &more)?)?);
    }
    let admins = [1, 2].map(|id| {
        let network = Network::Namespace(lan.namespace.clone());
        Admin::new(network, SocketAddr::new(inner(id), admin::PORT), TOKEN)
    });
    wait_for(|| {
        let status = admins[0].status()?;
        Ok((status.ingress && status.members.iter().all(|m| m.up)).then_some(()))
    })
    .context("a cluster")?;
    not_at_the_service_address(&lan)?;

    moves(&lan, &admins)?;
    let counters = admins[0].status()?.counters;
    let count = |name: &str| counters.get(name).copied().unwrap_or_default();
    ensure!(count("forwarded") > 20, "forwarded: {}", count("forwarded"));
    for name in ["nic_rx_packets", "nic_tx_packets"] {
        ensure!(count(name) > 0, "{name}");
        let name = format!("instance_{name}");
        ensure!(count(&name) > 0, "{name}");
    }
    let mut answers = 0;
    for (n, watch) in outside.into_iter().enumerate() {
        let seen = watch?.stop()?;
        ensure!(
            seen.inner.is_empty(),
            "instance {}: {:02x?}",
            n + 1,
            seen.inner[0]
        );
        ensure!(
            seen.answers > 100,
            "instance {} answers clients: {seen:?}",
            n + 1
        );
        answers += seen.answers;
    }
    let mut steered = 0;
    for watch in inside {
        let seen = watch?.stop()?;
        ensure!(
            seen.answers == 0,
            "answers to clients inside: {}",
            seen.answers
        );
        ensure!(seen.frames > 10, "{seen:?}");
        steered += seen.questions;
    }
    println!("    {answers} frames to clients outside, {steered} from them passed on inside");
    ensure!(steered > 20, "the ingress passes on inside: {steered}");

    captures(&admins[0])?;
    cables(&lan, &vms, &admins)?;
    vms.into_iter().try_for_each(power_off)
}

/// The admin port is not where the clients are.
fn not_at_the_service_address(lan: &Lan) -> Result<()> {
    let network = Network::Namespace(lan.namespace.clone());
    let there = SocketAddr::new(lan.own(1), admin::PORT);
    let connection = network.connect(there, Duration::from_secs(5));
    ensure!(connection.is_err(), "the admin port answers clients");
    Ok(())
}

fn moves(lan: &Lan, admins: &[Admin; 2]) -> Result<()> {
    thread::scope(|scope| {
        let mover = scope.spawn(|| offload::move_to_and_fro(admins, 4));
        // Longer than four moves take, on a slow host too.
        let done = offload::download(&lan.namespace, "10.78.0.10", 640 * MIB);
        mover.join().map_err(|_| anyhow!("panic"))??;
        done
    })
}

/// The frames of either card.
fn captures(admin: &Admin) -> Result<()> {
    for (interface, own) in [(0, [2, 0, 0, 0, 0, 1]), (1, [2, 0, 0, 0, 1, 1])] {
        let path = format!("/pcap?seconds=5&frames=3&interface={interface}");
        let mut answer = Vec::new();
        let from = admin.stream(&path, Duration::from_secs(20));
        from?.read_to_end(&mut answer)?;
        ensure!(answer.starts_with(b"godwit-pcap 1 "), "{interface}");
        let named = answer.windows(6).filter(|octets| *octets == own).count();
        // In the clients' network it may be quiet.
        ensure!(
            interface == 0 || named > 0,
            "no frame of that card: {interface}"
        );
    }
    Ok(())
}

fn link(admin: &Admin, network: &str) -> Result<String> {
    let status = admin.request("GET", "/status", None)?;
    let nics = status["nics"].as_array().context("nics")?;
    let nic = nics.iter().find(|nic| nic["network"] == network);
    let link = nic.and_then(|nic| nic["link"].as_str());
    Ok(link.context("a link")?.to_owned())
}

/// Without its cable to the clients the ingress gives away what it has; without that to the others it is not heard,
/// and says so.
fn cables(lan: &Lan, vms: &[Vm], admins: &[Admin; 2]) -> Result<()> {
    vms[0].set_link(0, false)?;
    wait_for(|| Ok((link(&admins[0], "service")? == "down").then_some(())))
        .context("the service network's link is down")?;
    wait_for(|| Ok(admins[1].status()?.ingress.then_some(()))).context("another ingress")?;
    offload::download(&lan.namespace, "10.78.0.10", 16 * MIB)?;
    let said = |vm: &Vm, text: &str| {
        let lines = vm.console().tail(usize::MAX);
        lines.iter().any(|line| line.contains(text))
    };
    wait_for(|| {
        Ok(said(&vms[0], "service network, card 02:00:00:00:00:01: no link").then_some(()))
    })
    .context("it is said")?;
    vms[0].set_link(0, true)?;
    wait_for(|| Ok((link(&admins[0], "service")? == "up").then_some(()))).context("it is back")?;

    vms[0].set_link(1, false)?;
    wait_for(|| {
        Ok(said(&vms[0], "instance network, card 02:00:00:00:01:01: no link").then_some(()))
    })
    .context("the instance network's link is down")?;
    wait_for(|| {
        Ok(admins[1]
            .status()?
            .members
            .iter()
            .all(|m| !m.up)
            .then_some(()))
    })
    .context("it is not heard")?;
    vms[0].set_link(1, true)?;
    wait_for(|| {
        Ok(admins[1]
            .status()?
            .members
            .iter()
            .all(|m| m.up)
            .then_some(()))
    })
    .context("it is heard again")?;
    Ok(())
}

/// What cannot be ends the boot with a reason.
pub fn refused() -> Result<()> {
    let card = |n| Nic {
        model: NicModel::Virtio,
        mac: [2, 0, 0, 0, 0, n],
        netdev: Netdev::User(Vec::new()),
    };
    for (cards, words, said) in [
        (1, "instance_ip=10.88.0.11/24", "no second network card"),
        (2, "instance_ip=10.0.2.16/24", "in common"),
        (
            2,
            "instance_ip=10.88.0.11/24\ninstance_nic=02:00:00:00:00:09",
            "02:00:00:00:00:09",
        ),
        (
            2,
            "instance_ip=10.88.0.11/24\ninstance_nic=0\nservice_nic=0",
            "instance_nic",
        ),
        (2, "service_nic=2", "service_nic"),
    ] {
        let spec = VmSpec {
            nics: (1..=cards).map(card).collect(),
            ..crate::http(&format!("id=1\nip=10.0.2.15/24\n{words}\n"))?
        };
        let mut vm = Vm::start(&spec, Accelerator::best(), |_| ())?;
        match vm.wait_exit(Duration::from_secs(30)) {
            Outcome::Verdict(verdict) if verdict.code == 13 => {
                ensure!(verdict.reason.contains(said), "{words}: {}", verdict.reason);
            }
            other => bail!("{words}: ended with {other}"),
        }
    }
    Ok(())
}
