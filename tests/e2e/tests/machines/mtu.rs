//! Devices that say how large packets may be (`VIRTIO_NET_F_MTU`): frames on the wire, both ways, are just as large.
//! The client's own link carries more, so it is the image that keeps to it, and that tells its peer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use godwit_qemu::build::{self, Service};
use godwit_qemu::net::{Namespace, open_tap};
use godwit_qemu::scratch::Scratch;
use godwit_qemu::switch::{
    Attachment, Direction, Impairment, Observer, PortConfig, Switch, SwitchBuilder,
};
use godwit_qemu::vm::{Accelerator, LEAST_MEMORY, Machine, Netdev, Nic, NicModel, Vm, VmSpec};

use crate::offload::{self, Lan, download, exchange, power_off};

const PATIENCE: Duration = Duration::from_secs(60);
const HOST: &str = "10.79.0.11";
const HOST_V6: &str = "fd79::11";
/// What an IPv6 link has to carry.
const LEAST_V6: usize = 1280;
const ETHERNET: usize = 14;
const MIB: u64 = 1 << 20;
/// What the client's link carries.
const CLIENT: usize = 9000;

/// A device says something, and this is kept to.
#[derive(Clone, Copy, Debug)]
struct Row {
    machine: Machine,
    says: u16,
    mtu: usize,
    merges: bool,
}

pub fn is_kept_to() -> Result<()> {
    let row = |machine, says, mtu| Row {
        machine,
        says,
        mtu,
        merges: true,
    };
    for row in [
        row(Machine::Microvm, 9000, 9000),
        row(Machine::Q35, 9000, 9000),
        row(Machine::MicrovmLegacy, 9000, 9000),
        Row {
            merges: false,
            ..row(Machine::Microvm, 9000, 9000)
        },
        row(Machine::Microvm, 1400, 1400),
        row(Machine::Q35, 1280, 1280),
        row(Machine::Microvm, 600, 600),
        // Lies, and more than there are buffers for.
        row(Machine::Microvm, 67, 1500),
        row(Machine::Q35, u16::MAX, 9000),
    ] {
        for service in [Service::Http, Service::Echo] {
            try_it(row, service).with_context(|| format!("{row:?}, {}", service.name()))?;
        }
    }
    Ok(())
}

/// The same with large frames, which the host cuts and joins: what it makes of them is as large.
pub fn goes_with_offloads() -> Result<()> {
    let Some(lan) = Lan::create(true)? else {
        return Ok(());
    };
    lan.namespace
        .ip("link set dev guest1 mtu 9000\nlink set dev br0 mtu 9000\n")?;
    for service in [Service::Http, Service::Echo] {
        let mut spec = lan.spec(Machine::Q35, service, 1, "")?;
        spec.more = says(9000);
        let vm = lan.start(&spec)?;
        has_mtu(&vm, 9000)?;
        for address in ["10.78.0.11", "fd78::11"] {
            move_octets(&lan.namespace, service, address, 64 * MIB)?;
        }
        power_off(vm)?;
    }
    Ok(())
}

fn says(mtu: u16) -> Vec<String> {
    // It is that of the device behind virtio-net-pci, too.
    vec![
        "-global".into(),
        format!("virtio-net-device.host_mtu={mtu}"),
    ]
}

fn has_mtu(vm: &Vm, mtu: usize) -> Result<()> {
    let says = format!(", MTU {mtu}, ");
    offload::wait_for(|| {
        let lines = vm.console().tail(usize::MAX);
        Ok(lines.iter().any(|line| line.contains(&says)).then_some(()))
    })
    .with_context(|| format!("no line with {says:?}"))
}

fn move_octets(place: &Namespace, service: Service, address: &str, size: u64) -> Result<()> {
    match service {
        Service::Http if address.contains(':') => download(place, &format!("[{address}]"), size),
        Service::Http => download(place, address, size),
        Service::Echo => {
            let server = SocketAddr::new(address.parse()?, service.port());
            exchange(place, server, size, || Ok(())).map(drop)
        }
    }
}

/// The longest frame from the machine, and to it.
#[derive(Clone, Default)]
struct Longest(Arc<[AtomicUsize; 2]>);

impl Observer for Longest {
    fn frame(&mut self, _: Instant, direction: Direction, frame: &[u8]) {
        let way = usize::from(direction == Direction::ToPort);
        self.0[way].fetch_max(frame.len(), Ordering::Relaxed);
    }
}

impl Longest {
    /// And begins anew.
    fn take(&self) -> [usize; 2] {
        [0, 1].map(|way| self.0[way].swap(0, Ordering::Relaxed))
    }
}

fn try_it(row: Row, service: Service) -> Result<()> {
    let made = Namespace::create().and_then(|place| {
        let addresses = ["10.79.0.1/24", "fd79::1/64"];
        let tap = open_tap(&place, "godwit0", &addresses)?;
        place.ip(&format!("link set dev godwit0 mtu {CLIENT}\n"))?;
        Ok((place, tap))
    });
    let (place, tap) = match made {
        Ok(made) => made,
        Err(error) => {
            println!("    not tested: {error:#}");
            return Ok(());
        }
    };
    let scratch = Scratch::new("mtu")?;
    let socket = scratch.path("port");
    let longest = Longest::default();
    let (vm, _switch) = start(row, service, tap, &socket, &longest)?;
    has_mtu(&vm, row.mtu)?;
    for address in [HOST, HOST_V6] {
        if address == HOST_V6 && row.mtu < LEAST_V6 {
            continue;
        }
        longest.take();
        move_octets(&place, service, address, 4 * MIB)?;
        let [from, to] = longest.take();
        let frame = row.mtu + ETHERNET;
        ensure!(
            from == frame,
            "frames of {from} octets from {address}, not {frame}"
        );
        let full = service == Service::Echo;
        ensure!(
            to == frame || !full && to < frame,
            "frames of {to} octets to {address}, not {frame}"
        );
    }
    power_off(vm)
}

fn start(
    row: Row,
    service: Service,
    tap: std::os::fd::OwnedFd,
    socket: &std::path::Path,
    longest: &Longest,
) -> Result<(Vm, Switch)> {
    let mut builder = SwitchBuilder::new(7);
    let observers: Vec<Box<dyn Observer>> = vec![Box::new(longest.clone())];
    for (name, attachment, observers) in [
        ("client", Attachment::Packet(tap), Vec::new()),
        ("machine", Attachment::Listen(socket.into()), observers),
    ] {
        builder.port(PortConfig {
            name: name.into(),
            attachment,
            impairment: Impairment::default(),
            observers,
        });
    }
    let switch = builder.start()?;
    let mut spec = VmSpec {
        machine: row.machine,
        memory: LEAST_MEMORY,
        config: format!("id=1\nip={HOST}/24\nip={HOST_V6}/64\n"),
        nics: vec![Nic {
            model: NicModel::Virtio,
            mac: [2, 0, 0, 0, 0, 1],
            netdev: Netdev::Switch(socket.into()),
        }],
        more: says(row.says),
        ..VmSpec::new(service.name(), &build::image(service)?)
    };
    if !row.merges {
        let property = "virtio-net-device.mrg_rxbuf=off";
        spec.more.extend(["-global".into(), property.into()]);
    }
    let mut vm = Vm::start(&spec, Accelerator::best(), |_| ())?;
    vm.wait_ready(PATIENCE)?;
    Ok((vm, switch))
}
