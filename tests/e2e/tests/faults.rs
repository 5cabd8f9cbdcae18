//! Services with bugs and clients that want too much: an image ends with a clear report and a code
//! of its own, or sheds the load and serves on.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::time::Duration;

use godwit_qemu::image::build_image;
use godwit_qemu::setup;
use godwit_qemu::vm::{Accelerator, Forward, Netdev, Nic, NicModel, Outcome, Vm, VmSpec};

const PATIENCE: Duration = Duration::from_secs(60);
const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

/// An image by itself behind QEMU's own network, and where the host reaches its service.
fn start(image: &str, port: u16, memory: u32, more: &str) -> (Vm, SocketAddrV4) {
    setup::ensure().unwrap_or_else(|error| panic!("{error:#}"));
    let image_file = build_image(image).expect("the image builds");
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|socket| socket.local_addr())
        .expect("a port is free")
        .port();
    let host = SocketAddrV4::new(Ipv4Addr::LOCALHOST, free);
    let guest = SocketAddrV4::new(OWN, port);
    let mut spec = VmSpec::new(image, &image_file);
    spec.memory = memory;
    spec.config = format!("id=1\nip=10.0.2.15/24\ngw=10.0.2.2\n{more}");
    spec.nics.push(Nic {
        model: NicModel::Virtio,
        mac: [2, 0, 0, 0, 0, 1],
        netdev: Netdev::User(vec![Forward { host, guest }]),
    });
    let mut vm = Vm::start(&spec, Accelerator::Tcg, |_| {}).expect("QEMU starts");
    vm.wait_ready(PATIENCE).expect("the image is ready");
    (vm, host)
}

/// The service hits the bug that `order` names; the code, the reason and the console.
fn hit(order: &str) -> (u8, String, String) {
    let (mut vm, at) = start("faulty", 7, 16, "watchdog=1s\n");
    let mut client = TcpStream::connect(at).expect("the image listens");
    client.write_all(order.as_bytes()).expect("sent");
    match vm.wait_exit(PATIENCE) {
        Outcome::Verdict(verdict) => {
            let console = vm.console().tail(60).join("\n");
            (verdict.code, verdict.reason, console)
        }
        Outcome::Infrastructure(what) => panic!("{order}: {what}"),
    }
}

#[test]
fn a_bug_of_a_service_ends_with_its_code_its_place_and_its_session() {
    for (order, code, says, place) in [
        ("p", 10, "as the client told", "faulty.rs:"),
        (
            "s",
            20,
            "watchdog: no turn of the loop for 1000 ms",
            "offence::commit+",
        ),
        ("m", 14, "memory allocation of", "faulty::hoard"),
        ("o", 18, "stack overflow (main stack)", "offence::dig+"),
    ] {
        let (got, reason, console) = hit(order);
        assert_eq!(got, code, "{order}: {reason}");
        assert!(reason.contains(says), "{order}: {reason}");
        let session = reason.contains(", serving session 1-");
        assert!(session, "{order}: {reason}");
        assert!(console.contains(place), "{order}: {console}");
        println!("{console}");
    }
}
