//! Each NIC with a driver on the machines that can have it: downloads, moves.

use anyhow::{Context, Result, ensure};
use godwit_qemu::build::Service;
use godwit_qemu::vm::{Machine, NicModel};

use crate::offload::{self, Lan, power_off};

const VIRTIO: (Machine, NicModel) = (Machine::Microvm, NicModel::Virtio);
const MIB: u64 = 1 << 20;
/// Octets of a frame at most where nothing is cut or joined.
const SMALL: u64 = 1_514;

/// A download whose connection moves between two machines of a kind.
pub fn demo(machine: &str, nic: &str, more: &[&str]) -> Result<()> {
    let words = [
        "--only",
        "download",
        "--size",
        "384M",
        "--moves",
        "2",
        "--machine",
        machine,
        "--nic",
        nic,
    ];
    super::demo(&[&words[..], more].concat())
}

/// Every row of the README's table that QEMU can have, each with another one, as far from it as may be: a
/// download from HTTP images moves to and fro between them, so that each of them sends its part.
pub fn rows() -> Result<()> {
    use Machine::{Microvm, MicrovmLegacy, MicrovmPci, Pc, Q35, Q35Qboot};
    use NicModel::{E1000, E1000e, I82545em, Rtl8139, Virtio, VirtioLegacy, VirtioModern, Vmxnet3};
    for pair in [
        [(MicrovmLegacy, Virtio), (Q35Qboot, Virtio)],
        [(Microvm, Virtio), (Q35, E1000e)],
        [(Pc, Virtio), (Q35, Vmxnet3)],
        [(Q35, Virtio), (Pc, E1000)],
        [(Q35, Rtl8139), (Pc, VirtioModern)],
        [(Pc, Vmxnet3), (Q35, E1000)],
        [(Pc, Rtl8139), (Q35, VirtioModern)],
        [(Pc, I82545em), (MicrovmLegacy, Virtio)],
        [(MicrovmPci, VirtioModern), (Pc, VirtioLegacy)],
        [(Q35Qboot, VirtioLegacy), (MicrovmPci, E1000)],
    ] {
        let frames = offload::move_service(Service::Http, pair, false, 384 * MIB, 2);
        let frames = frames.with_context(|| format!("{pair:?}"))?;
        let small = |&octets: &u64| octets <= SMALL || octets == u64::MAX;
        ensure!(
            frames.iter().all(small),
            "{pair:?}: {frames:?} octets a frame"
        );
    }
    Ok(())
}

/// The interface of before virtio 1.0, with and without what it can do for us.
pub fn legacy() -> Result<()> {
    let mmio = (Machine::MicrovmLegacy, NicModel::Virtio);
    let pci = (Machine::Q35, NicModel::VirtioLegacy);
    for pair in [[mmio, (Machine::Q35Qboot, NicModel::Virtio)], [pci, mmio]] {
        let frames = offload::move_between(pair, true, 64 * MIB, 2)?;
        ensure!(
            frames.iter().all(|&octets| octets > 10 * SMALL),
            "{pair:?}: {frames:?} octets a frame from and to the ingress"
        );
    }
    Ok(())
}

/// Devices of before `VIRTIO_F_ANY_LAYOUT`: QEMU's takes the header from anywhere, and does what it is told to.
pub fn header_apart() -> Result<()> {
    let Some(lan) = Lan::create(true)? else {
        return Ok(());
    };
    for more in [
        &["any_layout=off"][..],
        &["any_layout=off", "indirect_desc=off"],
    ] {
        let mut spec = lan.spec(Machine::Pc, Service::Http, 1, "")?;
        spec.nics[0].model = NicModel::VirtioLegacy;
        for property in more {
            let property = format!("virtio-net-pci.{property}");
            spec.more.extend(["-global".into(), property]);
        }
        let vm = lan.start(&spec)?;
        offload::download(&lan.namespace, "10.78.0.11", 64 * MIB)?;
        power_off(vm)?;
    }
    Ok(())
}

/// On a cable that takes large frames without checksums, to and from cards that take only the
/// latter.
pub fn offloads() -> Result<()> {
    for model in [NicModel::E1000e, NicModel::Vmxnet3] {
        let card = (Machine::Q35, model);
        let Some(lan) = Lan::create(true)? else {
            return Ok(());
        };
        let mut spec = lan.spec(card.0, Service::Http, 1, "")?;
        spec.nics[0].model = model;
        let vm = lan.start(&spec)?;
        for address in ["10.78.0.11", "[fd78::11]"] {
            offload::download(&lan.namespace, address, 64 * MIB)?;
        }
        power_off(vm)?;
        drop(lan);
        for pair in [[VIRTIO, card], [card, VIRTIO]] {
            // However long the moves take, it goes on until they are done.
            offload::move_between(pair, true, 64 * MIB, 4).with_context(|| format!("{pair:?}"))?;
        }
    }
    Ok(())
}

/// Five cards that interrupt through lines have to share the four that there are. The first serves.
pub fn shared_line() -> Result<()> {
    let Some(lan) = Lan::create(false)? else {
        return Ok(());
    };
    for machine in [Machine::Pc, Machine::Q35] {
        let mut spec = lan.spec(machine, Service::Http, 1, "")?;
        spec.nics[0].model = NicModel::E1000;
        for n in 1..5 {
            spec.nics.push(godwit_qemu::vm::Nic {
                model: [NicModel::Rtl8139, NicModel::E1000][n % 2],
                mac: [2, 0, 0, 0, 1, n as u8],
                netdev: godwit_qemu::vm::Netdev::User(Vec::new()),
            });
        }
        let vm = lan.start(&spec)?;
        offload::download(&lan.namespace, "10.78.0.11", 16 * MIB)?;
        let lines = vm.console().tail(usize::MAX);
        let polled = lines.iter().any(|line| line.contains("polled"));
        ensure!(!polled, "{machine:?}: {}", lines.join("\n"));
        let cards = lines
            .iter()
            .filter(|line| line.contains("network card 02:"));
        ensure!(cards.count() == 5, "{machine:?}: {}", lines.join("\n"));
        power_off(vm)?;
    }
    Ok(())
}
