//! Images on TAP devices with `vnet_hdr`, where the host's kernel does checksums and segmentation:
//! large frames in both directions, exact streams, moves among them, and the same without.
//!
//! The bridge is the client's machine, 10.78.0.1 and fd78::1; instances are .11 and .12, the address
//! they share is .10.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use godwit_qemu::admin::{self, Admin};
use godwit_qemu::build::{self, Service};
use godwit_qemu::content::{self, Check};
use godwit_qemu::net::{Namespace, Network};
use godwit_qemu::vm::{
    Accelerator, Firmware, LEAST_MEMORY, Machine, Medium, Netdev, Nic, NicModel, Outcome, Vm,
    VmSpec,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// Firmware takes its time.
const BOOTING: Duration = Duration::from_secs(180);
pub const TOKEN: &str = "0123456789abcdef";
const DOWNLOAD: u64 = 96 << 20;
const LESS: u64 = 64 << 20;
/// Octets of a frame on average, at least, where frames of up to 64 KiB are used, and at most,
/// where they are not.
const LARGE: u64 = 16_000;
const SMALL: u64 = 1_514;

/// Downloads and uploads on one machine, over both versions of IP.
pub fn streams(machine: Machine) -> Result<()> {
    let Some(lan) = Lan::create(true)? else {
        return Ok(());
    };
    let vm = lan.boot(machine, Service::Http, 1, "")?;
    for (address, size) in [("10.78.0.11", DOWNLOAD), ("[fd78::11]", LESS)] {
        let [from_guest, _] = lan.frames(1, || download(&lan.namespace, address, size))?;
        ensure!(
            from_guest > LARGE,
            "{from_guest} octets a frame from the guest to {address}"
        );
    }
    power_off(vm)?;
    let vm = lan.boot(machine, Service::Echo, 1, "")?;
    for (address, size) in [("10.78.0.11", DOWNLOAD), ("fd78::11", LESS)] {
        let server = SocketAddr::new(address.parse()?, Service::Echo.port());
        let frames = lan.frames(1, || {
            exchange(&lan.namespace, server, size, || Ok(())).map(drop)
        })?;
        ensure!(
            frames.iter().all(|&octets| octets > LARGE),
            "{frames:?} octets a frame from and to the guest, over {address}"
        );
    }
    power_off(vm)
}

/// What QEMU's virtio-net offers and Firecracker's does not (its `devices/virtio/net/device.rs`): link
/// state, a control queue, several queues, segments with ECN, indirect descriptors.
pub const FIRECRACKER: &[&str] = &[
    "status=off",
    "ctrl_vq=off",
    "mq=off",
    "guest_announce=off",
    "guest_ecn=off",
    "host_ecn=off",
    "indirect_desc=off",
];
/// Before version 1.11 it did not merge buffers either.
pub const OLDER_FIRECRACKER: &[&str] = &[
    "status=off",
    "ctrl_vq=off",
    "mq=off",
    "guest_announce=off",
    "guest_ecn=off",
    "host_ecn=off",
    "indirect_desc=off",
    "mrg_rxbuf=off",
];
/// The same of Cloud Hypervisor (its `virtio-devices/src/net.rs`), whose devices are modern PCI ones.
pub const CLOUD_HYPERVISOR: &[&str] = &[
    "status=off",
    "guest_announce=off",
    "ctrl_rx=off",
    "ctrl_vlan=off",
    "indirect_desc=off",
    "mrg_rxbuf=off",
];

/// A download from a device that offers what another hypervisor's does. Nobody presses a power button:
/// there may be none.
pub fn features(machine: Machine, without: &[&str]) -> Result<()> {
    let Some(lan) = Lan::create(true)? else {
        return Ok(());
    };
    let mut spec = lan.spec(machine, Service::Http, 1, "")?;
    configure_by_words(&mut spec);
    spec.memory = LEAST_MEMORY;
    for property in without {
        let driver = match machine {
            Machine::MicrovmBare => "virtio-net-device",
            _ => "virtio-net-pci",
        };
        spec.more.push("-global".into());
        spec.more.push(format!("{driver}.{property}"));
    }
    if machine != Machine::MicrovmBare {
        spec.nics[0].model = NicModel::VirtioModern;
    }
    let vm = lan.start(&spec)?;
    let [from_guest, _] = lan.frames(1, || download(&lan.namespace, "10.78.0.11", LESS))?;
    ensure!(
        from_guest > LARGE,
        "{from_guest} octets a frame from the guest"
    );
    drop(vm);
    Ok(())
}

/// Other hypervisors have no fw_cfg: what is configured there is on the command line or in a boot module.
fn configure_by_words(spec: &mut VmSpec) {
    spec.append = spec.config.replace('\n', " ");
    spec.config.clear();
}

/// QEMU's own network has a TFTP server; a TAP device has none.
fn load_by_another_card(spec: &mut VmSpec) {
    let loader = Nic {
        model: NicModel::Virtio,
        mac: [2, 0, 0, 0, 1, 0],
        netdev: Netdev::User(Vec::new()),
    };
    spec.nics.insert(0, loader);
    spec.config += "service_nic=1\n";
}

/// That takes ACPI.
fn has_power_button(machine: Machine) -> bool {
    machine != Machine::MicrovmBare
}

/// A device that offers nothing is driven like any other card.
pub fn none() -> Result<()> {
    let Some(lan) = Lan::create(false)? else {
        return Ok(());
    };
    for machine in [Machine::Microvm, Machine::Q35] {
        let vm = lan.boot(machine, Service::Echo, 1, "")?;
        let server = SocketAddr::new("10.78.0.11".parse()?, Service::Echo.port());
        let frames = lan.frames(1, || {
            exchange(&lan.namespace, server, LESS, || Ok(())).map(drop)
        })?;
        ensure!(
            frames.iter().all(|&octets| octets <= SMALL),
            "{frames:?} octets a frame, which nobody can cut"
        );
        power_off(vm)?;
    }
    Ok(())
}

/// A connection moves between two images while it sends and receives; one of the owners gets its
/// frames through the other, large as they are.
pub fn moves() -> Result<()> {
    let virtio = |machine| (machine, NicModel::Virtio);
    let machines = [virtio(Machine::Microvm), virtio(Machine::Q35)];
    let frames = move_between(machines, true, DOWNLOAD, 6)?;
    ensure!(
        frames.iter().all(|&octets| octets > LARGE),
        "{frames:?} octets a frame from and to the ingress"
    );
    Ok(())
}

/// A connection that echoes `size` octets moves so often to and fro between two machines, the first of which
/// is the ingress. Octets of a frame from and to that, on average.
pub fn move_between(
    kinds: [(Machine, NicModel); 2],
    offload: bool,
    size: u64,
    moves: u32,
) -> Result<[u64; 2]> {
    move_service(Service::Echo, kinds, offload, size, moves)
}

/// One of the machines that a connection moves between.
#[derive(Clone, Debug)]
pub struct Kind {
    pub machine: Machine,
    pub nic: NicModel,
    /// What loads the image, if QEMU does not.
    pub boot: Option<(Firmware, Medium)>,
}

impl From<(Machine, NicModel)> for Kind {
    fn from((machine, nic): (Machine, NicModel)) -> Self {
        let boot = None;
        Self { machine, nic, boot }
    }
}

/// The same for a service: an echo, or a download.
pub fn move_service(
    service: Service,
    kinds: [impl Into<Kind>; 2],
    offload: bool,
    size: u64,
    moves: u32,
) -> Result<[u64; 2]> {
    let Some(lan) = Lan::create(offload)? else {
        return Ok([u64::MAX; 2]);
    };
    let key = format!(
        "cluster_key={}\nvip=10.78.0.10\ningress=1\n",
        "07".repeat(32)
    );
    let ids = [1, 2];
    let kinds: [Kind; 2] = kinds.map(Into::into);
    let has_button = kinds.clone().map(|kind| has_power_button(kind.machine));
    let mut vms = Vec::new();
    for (id, kind) in ids.into_iter().zip(kinds) {
        let peer = 3 - id;
        let more = format!("{key}peer={peer}@10.78.0.1{peer}\n");
        let mut spec = lan.spec(kind.machine, service, id, &more)?;
        spec.nics[0].model = kind.nic;
        spec.boot = kind.boot;
        if let Some((_, Medium::Network(..))) = spec.boot {
            load_by_another_card(&mut spec);
        }
        if kind.machine == Machine::MicrovmBare {
            configure_by_words(&mut spec);
        }
        vms.push(lan.start(&spec)?);
    }
    let network = Network::Namespace(lan.namespace.clone());
    let admins: Vec<Admin> = ids
        .into_iter()
        .map(|id| {
            let address = SocketAddr::new(lan.own(id), admin::PORT);
            Admin::new(network.clone(), address, TOKEN)
        })
        .collect();
    wait_for(|| {
        Ok(admins[0]
            .status()?
            .members
            .iter()
            .any(|m| m.up)
            .then_some(()))
    })?;
    let server = SocketAddr::new("10.78.0.10".parse()?, Service::Echo.port());
    let move_about = || move_to_and_fro(&admins, moves);
    let frames = if service == Service::Echo {
        lan.frames(1, || {
            exchange(&lan.namespace, server, size, move_about).map(drop)
        })?
    } else {
        lan.frames(1, || {
            thread::scope(|scope| {
                let mover = scope.spawn(move_about);
                let done = download(&lan.namespace, "10.78.0.10", size);
                mover.join().map_err(|_| anyhow!("panic"))??;
                done
            })
        })?
    };
    let forwarded = admins[0].status()?.counters.get("forwarded").copied();
    // Mostly acknowledgements, each of many segments: a busy host sees few in the time between two moves.
    ensure!(forwarded > Some(20), "forwarded: {forwarded:?}");
    // Who has none stays until the other one has left: nobody is missed.
    let (leaving, staying): (Vec<_>, Vec<_>) =
        vms.into_iter().zip(has_button).partition(|(_, has)| *has);
    leaving.into_iter().try_for_each(|(vm, _)| power_off(vm))?;
    drop(staying);
    Ok(frames)
}

/// Moves the only session so often to the other one of instances 1 and 2.
pub fn move_to_and_fro(admins: &[Admin], moves: u32) -> Result<()> {
    for _ in 0..moves {
        let (owner, session) = wait_for(|| {
            for (n, admin) in admins.iter().enumerate() {
                let sessions = admin.status()?.sessions;
                if let Some(session) = sessions.iter().find(|s| s.phase == "live") {
                    return Ok(Some((n, session.id.clone())));
                }
            }
            Ok(None)
        })?;
        let before = admins[owner].status()?.moves.len();
        admins[owner].start_move(&session, 2 - owner as u32)?;
        let result = wait_for(|| {
            let moves = admins[owner].status()?.moves;
            Ok(moves.get(before).map(|report| report.result.clone()))
        })?;
        ensure!(result == "accepted", "a move ended as {result}");
        thread::sleep(Duration::from_millis(150));
    }
    Ok(())
}

/// A bridge with a TAP device for each of some instances.
pub struct Lan {
    pub namespace: Namespace,
    offload: bool,
}

/// Instances there are TAP devices for.
const MOST: u32 = 3;

impl Lan {
    /// `None`, and a line that says so, where there may be no such devices.
    pub fn create(offload: bool) -> Result<Option<Self>> {
        let made = Namespace::create().and_then(|namespace| {
            let kind = if offload { " vnet_hdr" } else { "" };
            let mut batch = String::from("link add br0 type bridge\n");
            for id in 1..=MOST {
                batch += &format!(
                    "tuntap add dev guest{id} mode tap{kind}\n\
                     link set dev guest{id} addrgenmode none txqueuelen 8192\n\
                     link set dev guest{id} master br0 up\n"
                );
            }
            batch += "addr add 10.78.0.1/24 dev br0\n\
                      addr add fd78::1/64 dev br0 nodad\n\
                      link set dev br0 up\n";
            namespace.ip(&batch)?;
            Ok(namespace)
        });
        match made {
            Ok(namespace) => Ok(Some(Self { namespace, offload })),
            Err(error) => {
                println!("    not tested: {error:#}");
                Ok(None)
            }
        }
    }

    pub fn own(&self, id: u32) -> IpAddr {
        IpAddr::from([10, 78, 0, 10 + id as u8])
    }

    pub fn spec(&self, machine: Machine, service: Service, id: u32, more: &str) -> Result<VmSpec> {
        let own = self.own(id);
        Ok(VmSpec {
            machine,
            config: format!(
                "id={id}\nip={own}/24\nip=fd78::1{id}/64\nadmin_port={}\nadmin_token={TOKEN}\n{more}",
                admin::PORT
            ),
            nics: vec![Nic {
                model: NicModel::Virtio,
                mac: [2, 0, 0, 0, 0, id as u8],
                netdev: Netdev::Tap {
                    name: format!("guest{id}"),
                    offload: self.offload,
                },
            }],
            namespace: Some(self.namespace.clone()),
            ..VmSpec::new(service.name(), &build::image(service)?)
        })
    }

    fn boot(&self, machine: Machine, service: Service, id: u32, more: &str) -> Result<Vm> {
        self.start(&self.spec(machine, service, id, more)?)
    }

    /// Boots it and waits until it is ready.
    pub fn start(&self, spec: &VmSpec) -> Result<Vm> {
        let mut vm = Vm::start(spec, Accelerator::best(), |_| ())?;
        let patience = match spec.boot {
            Some(_) => BOOTING,
            None => PATIENCE,
        };
        vm.wait_ready(patience)?;
        Ok(vm)
    }

    /// Frames and octets that the TAP device of an instance has carried, from it and to it, as its
    /// host counts them.
    fn carried(&self, id: u32) -> Result<[[u64; 2]; 2]> {
        let table = self
            .namespace
            .run(|| Ok(fs::read_to_string("/proc/thread-self/net/dev")?))?;
        let name = format!("guest{id}:");
        let row = table
            .lines()
            .find_map(|line| line.trim_start().strip_prefix(&name))
            .context("the TAP device is gone")?;
        let numbers: Vec<u64> = row.split_whitespace().flat_map(str::parse).collect();
        match numbers[..] {
            [from, from_frames, _, _, _, _, _, _, to, to_frames, ..] => {
                Ok([[from, from_frames], [to, to_frames]])
            }
            _ => bail!("not the columns expected: {row}"),
        }
    }

    /// Octets of a frame on average while `work` is done, from an instance and to it.
    fn frames(&self, id: u32, work: impl FnOnce() -> Result<()>) -> Result<[u64; 2]> {
        let before = self.carried(id)?;
        work()?;
        let after = self.carried(id)?;
        Ok([0, 1].map(|way| {
            let [octets, frames] = [0, 1].map(|n| after[way][n] - before[way][n]);
            octets / frames.max(1)
        }))
    }
}

pub fn power_off(mut vm: Vm) -> Result<()> {
    vm.press_power_button()?;
    match vm.wait_exit(PATIENCE) {
        Outcome::Verdict(verdict) if verdict.code == 0 => Ok(()),
        other => bail!("ended with {other}\n{}", vm.console().tail(20).join("\n")),
    }
}

pub fn wait_for<T>(look: impl Fn() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(found) = look()? {
            return Ok(found);
        }
        thread::sleep(Duration::from_millis(5));
    }
    bail!("nothing happens")
}

/// A generated file, by curl, with the digest it should have.
pub fn download(place: &Namespace, host: &str, size: u64) -> Result<()> {
    // A busy host is slow, and some links are bad.
    let seconds = (120 + (size >> 18)).to_string();
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time", &seconds])
        .arg(format!("http://{host}/gen/{size}"))
        .stdout(Stdio::piped());
    place.place(&mut curl);
    let begun = Instant::now();
    let mut curl = curl.spawn().context("cannot run curl")?;
    let body = curl.stdout.take().context("curl has no output")?;
    let check = hash(body)?;
    ensure!(curl.wait()?.success(), "curl failed");
    report("download", size, begun);
    ensure!(check.bytes() == size, "{} of {size} octets", check.bytes());
    ensure!(check.finish() == content::digest(size), "a wrong digest");
    Ok(())
}

/// Sends at least `size` octets and gets them back, and goes on until `meanwhile` is done. How many there were.
pub fn exchange(
    place: &Namespace,
    server: SocketAddr,
    size: u64,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<u64> {
    let network = Network::Namespace(place.clone());
    let mut sending = network.connect(server, PATIENCE)?;
    let receiving = sending.another()?;
    let begun = Instant::now();
    let is_done = Arc::new(AtomicBool::new(false));
    let may_end = is_done.clone();
    let sender = thread::spawn(move || -> Result<u64> {
        let mut buffer = vec![0; 256 << 10];
        let mut offset = 0;
        while offset < size || !may_end.load(Ordering::Relaxed) {
            content::fill(offset, &mut buffer);
            sending.write_all(&buffer)?;
            offset += buffer.len() as u64;
        }
        sending.close_sending()?;
        Ok(offset)
    });
    let receiver = thread::spawn(move || hash(receiving));
    let done = meanwhile();
    is_done.store(true, Ordering::Relaxed);
    let check = receiver.join().map_err(|_| anyhow!("panic"))??;
    let size = sender.join().map_err(|_| anyhow!("panic"))??;
    done?;
    report("echo", size, begun);
    ensure!(check.bytes() == size, "{} of {size} octets", check.bytes());
    ensure!(check.finish() == content::digest(size), "a wrong digest");
    Ok(size)
}

fn hash(mut from: impl std::io::Read) -> Result<Check> {
    let mut check = Check::default();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(check),
            n => check.add(&buffer[..n]),
        }
    }
}

fn report(what: &str, size: u64, begun: Instant) {
    let rate = size as f64 * 8e-9 / begun.elapsed().as_secs_f64();
    println!("    {what} of {} MiB: {rate:.2} Gbit/s", size >> 20);
}
