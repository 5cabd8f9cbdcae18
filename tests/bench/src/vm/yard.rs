//! Where the rows of whole machines are measured: a namespace with a client, and two TAP devices
//! with a virtual machine each, ours and the peer. The machines run on one core, the client on the
//! other; accelerator, machine type, memory and network card are the same.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use godwit_qemu::build::{self, Service};
use godwit_qemu::net::Namespace;
use godwit_qemu::progress::Progress;
use godwit_qemu::vm::{Accelerator, Machine, Netdev, Nic, NicModel, Vm, VmSpec};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::peer::{Config, LARGE_MIB, Peer};
use super::poll;
use crate::Effort;
use crate::row::{Better, Row, Samples, Turns};
use crate::tap::yard::{CLIENT_CORE, SERVER_CORE, pinned, receive_on_client_core, stay_on};

/// Names the HTTP image, where it is built already: to compare two of them.
const IMAGE: &str = "GODWIT_IMAGE";
/// RAM of both, in MiB; the peer holds a large file in it, and its files may take half.
const MEMORY_MIB: u32 = 768;
/// How long a machine may take until it serves: the host may be busy.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// The large file, in octets.
pub const LARGE: u64 = (LARGE_MIB as u64) << 20;

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The HTTP image.
    Ours,
    /// Debian's kernel with nginx.
    Theirs,
}

impl Side {
    fn net(self) -> u8 {
        match self {
            Side::Ours => 77,
            Side::Theirs => 78,
        }
    }

    fn tap(self) -> &'static str {
        match self {
            Side::Ours => "ours",
            Side::Theirs => "theirs",
        }
    }

    fn mac(self) -> [u8; 6] {
        [2, 0, 0, 0, 0, self.net()]
    }

    /// Where it serves.
    pub fn address(self) -> SocketAddr {
        SocketAddr::from(([10, self.net(), 0, 2], 80))
    }

    /// A file of 1 KiB: ours makes it anew each time.
    pub fn page(self) -> &'static str {
        match self {
            Side::Ours => "/gen/1K",
            Side::Theirs => "/page",
        }
    }

    /// A file of [`LARGE`] octets.
    pub fn large(self) -> &'static str {
        match self {
            Side::Ours => "/gen/256M",
            Side::Theirs => "/large",
        }
    }

    /// The URL of a path.
    pub fn url(self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }
}

/// A machine type with its firmware.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Board {
    /// microvm, with the firmware it comes with.
    Microvm,
    /// q35 with qboot.
    Qboot,
    /// q35 with SeaBIOS.
    Q35,
}

impl Board {
    /// Its name in rows.
    pub fn name(self) -> &'static str {
        match self {
            Board::Microvm => "microvm",
            Board::Qboot => "q35-qboot",
            Board::Q35 => "q35",
        }
    }

    fn machine(self) -> Machine {
        match self {
            Board::Microvm => Machine::Microvm,
            Board::Qboot | Board::Q35 => Machine::Q35,
        }
    }

    /// Modules of the peer for a bus that is not there.
    fn without(self) -> &'static str {
        match self {
            Board::Microvm => ",virtio_pci,virtio_pci_modern_dev,virtio_pci_legacy_dev,",
            Board::Qboot | Board::Q35 => ",virtio_mmio,",
        }
    }
}

/// The client's namespace and both servers' files.
pub struct Yard {
    /// The client's, and QEMU's.
    pub client: Namespace,
    image: PathBuf,
    peer: Option<Peer>,
}

impl Yard {
    /// Build and fetch what is served with and lay out the network; without `theirs` there is no peer.
    pub fn new(theirs: Option<Config>) -> Result<Yard> {
        let image = image()?;
        let peer = theirs.map(Peer::make).transpose()?;
        let client = Namespace::create()?;
        let mut batch = String::new();
        for side in [Side::Ours, Side::Theirs] {
            let (tap, net, address) = (side.tap(), side.net(), side.address().ip());
            let [a, b, c, d, e, f] = side.mac();
            // The neighbour is known: no ARP is waited for.
            batch += &format!(
                "tuntap add dev {tap} mode tap vnet_hdr\n\
                 link set dev {tap} addrgenmode none\n\
                 addr add 10.{net}.0.1/24 dev {tap}\n\
                 link set dev {tap} up\n\
                 neigh replace {address} lladdr {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x} \
                 dev {tap} nud permanent\n"
            );
        }
        client.ip(&batch)?;
        client.run(|| {
            // A connection per request uses up the ports of a client, and TIME_WAIT keeps them.
            let ranges = "/proc/sys/net/ipv4/ip_local_port_range";
            std::fs::write(ranges, "1024 65535").context("cannot widen the range of ports")
        })?;
        receive_on_client_core(&client, &[Side::Ours.tap(), Side::Theirs.tap()])?;
        Ok(Yard {
            client,
            image,
            peer,
        })
    }

    /// The image's file.
    pub fn image(&self) -> &PathBuf {
        &self.image
    }

    /// The peer's files.
    pub fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }

    /// The machine of a side. `large`: the peer makes its large file before it serves.
    pub fn spec(&self, side: Side, board: Board, large: bool) -> Result<VmSpec> {
        let kernel = match side {
            Side::Ours => &self.image,
            Side::Theirs => &self.peer().context("the peer is left out")?.kernel,
        };
        let mut spec = VmSpec {
            machine: board.machine(),
            memory: MEMORY_MIB,
            nics: vec![Nic {
                model: NicModel::Virtio,
                mac: side.mac(),
                netdev: Netdev::Tap {
                    name: side.tap().into(),
                    offload: true,
                },
            }],
            namespace: Some(self.client.clone()),
            ..VmSpec::new(side.tap(), kernel)
        };
        if board == Board::Qboot {
            spec.more.extend(["-bios", "qboot.rom"].map(String::from));
        }
        let address = side.address().ip();
        match (side, self.peer()) {
            (Side::Theirs, Some(peer)) => {
                let without = board.without();
                // The console costs it time, so only what goes wrong is said there.
                let config = peer.config.path();
                spec.append = format!(
                    "console=ttyS0 quiet panic=-1 address={address}/24 without={without} config={config}"
                );
                if board == Board::Microvm && Accelerator::best() == Accelerator::Tcg {
                    // Without ACPI's timer and the 8254, this kernel cannot find out and hangs.
                    let khz = counter_khz();
                    spec.append += &format!(" tsc=reliable tsc_early_khz={khz}");
                }
                if large {
                    spec.append += &format!(" large={LARGE_MIB}");
                }
                let initrd = peer.initrd.display().to_string();
                spec.more.extend(["-initrd".into(), initrd]);
            }
            _ => spec.config = format!("id=1\nip={address}/24\nlog=warn\n"),
        }
        Ok(spec)
    }

    /// Start a machine on the servers' core.
    pub fn start(&self, spec: &VmSpec) -> Result<Vm> {
        // QEMU ends with the thread that starts it, so it has to be this one that moves there.
        let me = Pid::from_raw(0);
        let before: CpuSet = sched_getaffinity(me)?;
        stay_on(SERVER_CORE)?;
        let vm = Vm::start(spec, Accelerator::best(), |_| {});
        sched_setaffinity(me, &before).context("cannot go back to all cores")?;
        vm
    }

    /// Start a machine and wait until it serves; `large` files too.
    pub fn serving(&self, side: Side, board: Board, large: bool) -> Result<Vm> {
        let mut vm = self.start(&self.spec(side, board, large)?)?;
        self.wait(&mut vm, side)?;
        // Whatever it does after its first answer is over.
        std::thread::sleep(Duration::from_millis(300));
        Ok(vm)
    }

    /// Wait until a machine answers a request for its page; when it did.
    pub fn wait(&self, vm: &mut Vm, side: Side) -> Result<Instant> {
        let answer = self.client.run(|| {
            stay_on(CLIENT_CORE)?;
            let ended = || Ok(vm.try_exit()?.is_some());
            poll::first_answer(side.address(), side.page(), PATIENCE, ended)
        });
        answer.with_context(|| {
            let console = vm.console().tail(20).join("\n    ");
            let (name, errors) = (side.tap(), vm.errors());
            format!("{name} does not serve\n  {errors}\n    {console}\n ")
        })
    }

    /// A command that runs in the client's namespace, on its core.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = pinned(CLIENT_CORE);
        command.args(words);
        self.client.place(&mut command);
        command
    }

    /// Both sides, or ours alone.
    pub fn sides(&self) -> Vec<Side> {
        let theirs = self.peer.as_ref().map(|_| Side::Theirs);
        theirs.into_iter().chain([Side::Ours]).collect()
    }

    /// Run both sides in turns, or ours alone, and make a row of it.
    pub fn row(
        &self,
        name: &str,
        unit: &'static str,
        better: Better,
        floor: f64,
        effort: &Effort,
        run: impl Fn(Side) -> Result<f64>,
    ) -> Result<Row> {
        let ours = || run(Side::Ours);
        let Some(peer) = &self.peer else {
            let mut samples = Samples::default();
            for _ in 0..effort.runs {
                samples.push(ours()?);
            }
            return Ok(Row::alone(name, unit, better, &samples));
        };
        let turns = Turns::take(effort.runs, ours, || run(Side::Theirs))?;
        Ok(Row::compared(
            name,
            peer.name(),
            unit,
            better,
            &turns,
            floor,
        ))
    }

    /// How many frames may wait for each of the guests.
    pub fn queue(&self, frames: usize) -> Result<()> {
        let each = |side: Side| format!("link set dev {} txqueuelen {frames}\n", side.tap());
        self.client
            .ip(&[Side::Ours, Side::Theirs].map(each).concat())
    }
}

/// The HTTP image.
fn image() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(IMAGE) {
        return Ok(path.into());
    }
    let progress = Progress::start("building the image of http");
    let image = build::image(Service::Http)?;
    progress.finish();
    Ok(image)
}

/// Thousands of ticks a second of the host's time stamp counter, which is also that of its guests.
fn counter_khz() -> u64 {
    // SAFETY: every processor of this architecture has it, and Linux lets programs read it.
    let ticks = || unsafe { core::arch::x86_64::_rdtsc() };
    let (start, from) = (Instant::now(), ticks());
    std::thread::sleep(Duration::from_millis(20));
    let (to, time) = (ticks(), start.elapsed());
    (to - from) * 1_000_000 / (time.as_nanos() as u64).max(1)
}
