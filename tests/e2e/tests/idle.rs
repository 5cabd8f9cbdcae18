//! A machine that has nothing to do sleeps, whatever it has done before and whatever comes to cards that it
//! does not use. What tells is the processor time that QEMU takes.

mod guest;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use godwit_qemu::image::build_image;
use godwit_qemu::setup;
use godwit_qemu::vm::{Accelerator, Machine, NicModel, Vm, VmSpec};
use guest::alone;

const PATIENCE: Duration = Duration::from_secs(60);
/// How long it is looked at, and how much of that it may take. Awake, it takes all of it; asleep, some ms.
const LOOK: Duration = Duration::from_secs(2);
const MOST: Duration = Duration::from_millis(300);
const MACHINES: [Machine; 2] = [Machine::Microvm, Machine::Q35];
const CARDS: [(Machine, NicModel); 7] = [
    (Machine::Microvm, NicModel::Virtio),
    (Machine::Q35, NicModel::Virtio),
    (Machine::Q35, NicModel::VirtioLegacy),
    (Machine::Q35, NicModel::E1000),
    (Machine::Q35, NicModel::E1000e),
    (Machine::Q35, NicModel::Rtl8139),
    (Machine::Q35, NicModel::Vmxnet3),
];

/// An HTTP image behind QEMU's own network that is up and has settled.
fn start(mut spec: VmSpec) -> Vm {
    spec.config = format!("id=1\nip={}/24\n", guest::OWN);
    let mut vm = Vm::start(&spec, Accelerator::Tcg, |_| {}).expect("QEMU starts");
    if let Err(error) = vm.wait_ready(PATIENCE) {
        panic!("{error:#}");
    }
    thread::sleep(Duration::from_millis(500));
    vm
}

fn spec(machine: Machine) -> VmSpec {
    setup::ensure().unwrap_or_else(|error| panic!("{error:#}"));
    let image = build_image("http").expect("the image builds");
    let mut spec = VmSpec::new("idle", &image);
    spec.machine = machine;
    spec
}

/// The processor time a process has taken so far: the 14th and 15th field of proc(5), in hundredths of a second.
fn taken(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let (_, after_name) = stat.rsplit_once(')').expect("a name");
    let ticks = after_name.split_whitespace().skip(11).take(2);
    let ticks = ticks.map(|field| field.parse::<u64>().expect("a number"));
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

fn assert_asleep(vm: &Vm, what: &str) {
    let before = taken(vm.id());
    thread::sleep(LOOK);
    let took = taken(vm.id()) - before;
    assert!(took < MOST, "{what}: {took:?} in {LOOK:?}");
}

/// It polls between them.
#[test]
fn who_has_answered_many_requests_sleeps_again() {
    let _turn = alone();
    for (machine, card) in CARDS {
        let mut spec = spec(machine);
        let (mut nic, [service, _]) = guest::nic([80, 9100]);
        nic.model = card;
        spec.nics.push(nic);
        let vm = start(spec);
        let mut client = TcpStream::connect(service).expect("the image listens");
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        for _ in 0..500 {
            let request = b"GET /gen/16 HTTP/1.1\r\nHost: a\r\n\r\n";
            client.write_all(request).expect("sent");
            let mut answer = Vec::new();
            while !answer.windows(4).any(|four| four == b"\r\n\r\n") {
                let mut octet = [0];
                client.read_exact(&mut octet).expect("a head");
                answer.extend(octet);
            }
            client.read_exact(&mut [0; 16]).expect("a body");
        }
        assert_asleep(&vm, &format!("{machine:?}, {card:?}"));
    }
}

#[test]
fn a_frame_at_a_card_that_nobody_uses_keeps_nobody_awake() {
    let _turn = alone();
    for machine in MACHINES {
        let host = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        let own = host.local_addr().expect("an address").port();
        let card = {
            let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
            free.local_addr().expect("an address").port()
        };
        let mut spec = spec(machine);
        spec.nics.push(guest::behind(Vec::new()));
        let end = |side, port| format!("{side}.type=inet,{side}.host=127.0.0.1,{side}.port={port}");
        let (here, there) = (end("local", card), end("remote", own));
        let model = match machine {
            Machine::Microvm => "virtio-net-device",
            _ => "virtio-net-pci,romfile=",
        };
        spec.more = vec![
            "-netdev".into(),
            format!("dgram,id=unused,{here},{there}"),
            "-device".into(),
            format!("{model},netdev=unused,mac=02:00:00:00:00:02"),
        ];
        let vm = start(spec);
        let mut frame = [0; 60];
        frame[..6].fill(0xff); // to all
        frame[6..14].copy_from_slice(&[2, 0, 0, 0, 0, 9, 0x88, 0xb5]);
        for _ in 0..100 {
            let to = (Ipv4Addr::LOCALHOST, card);
            host.send_to(&frame, to).expect("QEMU takes it");
        }
        assert_asleep(&vm, &format!("{machine:?}"));
    }
}
