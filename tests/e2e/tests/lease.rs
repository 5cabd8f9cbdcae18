//! Configuration by DHCP, from a server at the other end of the machine's cable that can say anything.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use godwit_qemu::image::build_image;
use godwit_qemu::setup;
use godwit_qemu::vm::{Accelerator, Machine, Netdev, Nic, NicModel, Vm, VmSpec};

const PATIENCE: Duration = Duration::from_secs(60);
const SERVER: [u8; 4] = [10, 9, 0, 1];
const CLIENT: [u8; 4] = [10, 9, 0, 15];
const WORDS: u8 = 224;

/// The frame that answers `frame`, if that is for a DHCP server.
fn answer(frame: &[u8], words: &[&[u8]]) -> Option<Vec<u8>> {
    let udp = frame.get(14 + 20..)?;
    let bootp = udp.get(8..)?;
    if frame.get(12..14)? != [8, 0] || *frame.get(23)? != 17 || udp.get(2..4)? != [0, 67] {
        return None;
    }
    let kind = bootp.get(240..)?.windows(3).find(|o| o[..2] == [53, 1])?[2];
    let kind = match kind {
        1 => 2, // DISCOVER: OFFER
        3 => 5, // REQUEST: ACK
        _ => return None,
    };
    let mut message = bootp.get(..236)?.to_vec();
    message[0] = 2;
    message[16..20].copy_from_slice(&CLIENT);
    message.extend([99, 130, 83, 99, 53, 1, kind, 54, 4]);
    message.extend(SERVER);
    message.extend([51, 4, 0, 0, 14, 16, 1, 4, 255, 255, 255, 0, 3, 4]);
    message.extend(SERVER);
    for piece in words {
        message.extend([WORDS, piece.len() as u8]);
        message.extend(*piece);
    }
    message.push(255);

    let mut packet = vec![0x45, 0];
    packet.extend((28 + message.len() as u16).to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(SERVER);
    packet.extend([255; 4]);
    let sum: u32 = packet
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend([0, 67, 0, 68]);
    packet.extend((8 + message.len() as u16).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(message);
    let mut reply = vec![255; 6];
    reply.extend([2, 0, 0, 0, 0, 0xfe, 8, 0]);
    reply.extend(packet);
    Some(reply)
}

/// Serves one machine, whose frames come with their length in front.
fn serve(mut cable: UnixStream, words: &[&[u8]]) {
    let mut length = [0; 4];
    while cable.read_exact(&mut length).is_ok() {
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        if cable.read_exact(&mut frame).is_err() {
            return;
        }
        if let Some(reply) = answer(&frame, words) {
            let _ = cable.write_all(&(reply.len() as u32).to_be_bytes());
            let _ = cable.write_all(&reply);
        }
    }
}

/// Boots with `ip=dhcp` and these pieces of option 224; the id it is ready with, and what it said.
fn boot(words: &'static [&'static [u8]]) -> (u32, String) {
    boot_with(words, Vec::new())
}

/// The same with more cards.
fn boot_with(words: &'static [&'static [u8]], more: Vec<Nic>) -> (u32, String) {
    setup::ensure().unwrap_or_else(|error| panic!("{error:#}"));
    let image = build_image("http").expect("the image builds");
    static BOOTS: AtomicU32 = AtomicU32::new(0);
    let boot = BOOTS.fetch_add(1, Ordering::Relaxed);
    let name = format!("godwit-lease-cable-{}-{boot}", std::process::id());
    let path: PathBuf = std::env::temp_dir().join(name);
    let listener = UnixListener::bind(&path).expect("a socket");
    thread::spawn(move || {
        if let Ok((cable, _)) = listener.accept() {
            serve(cable, words);
        }
    });
    let mut spec = VmSpec::new("lease", &image);
    spec.machine = Machine::Microvm;
    spec.config = "ip=dhcp\nconnections=64\n".into();
    spec.nics.push(Nic {
        model: NicModel::Virtio,
        mac: [2, 0, 0, 0, 0, 1],
        netdev: Netdev::Switch(path.clone()),
    });
    spec.nics.extend(more);
    let mut vm = Vm::start(&spec, Accelerator::Tcg, |_| {}).expect("QEMU starts");
    let (ready, _) = vm.wait_ready(PATIENCE).expect("the image is ready");
    let _ = std::fs::remove_file(path);
    thread::sleep(Duration::from_millis(500)); // for its log
    assert_eq!(ready.ip, [std::net::IpAddr::from(CLIENT)]);
    (ready.id, vm.console().tail(usize::MAX).join("\n"))
}

#[test]
fn words_of_a_lease_configure_in_pieces_and_with_a_warning_of_secrets() {
    let (id, console) = boot(&[b"id", b"=7 admin_tok", b"en=open-sesame"]);
    assert_eq!(id, 7, "{console}");
    assert!(console.contains("`admin_token` came by DHCP"), "{console}");
    assert!(!console.contains("open-sesame"), "{console}");
}

#[test]
fn words_of_a_lease_that_make_no_sense_change_nothing() {
    let (id, console) = boot(&[b"id=7 colour=", b"red", b" ", b"peer=1@1.2.3.4"]);
    assert_eq!(id, 1, "{console}");
    assert!(
        console.contains("configuration by DHCP: unknown key"),
        "{console}"
    );
    let (id, console) = boot(&[b""]);
    assert_eq!(id, 1, "{console}");
}

#[test]
fn a_lease_in_the_service_network_may_bring_the_address_in_the_other() {
    let card = Nic {
        model: NicModel::Virtio,
        mac: [2, 0, 0, 0, 1, 1],
        netdev: Netdev::User(Vec::new()),
    };
    let (_, console) = boot_with(&[b"instance_ip=10.88.0.11/24"], vec![card]);
    let ready = console.lines().find(|line| line.contains("GODWIT READY"));
    let ready = ready.expect("it is ready");
    assert!(
        ready.contains(r#""instance_ip":["10.88.0.11"]"#),
        "{console}"
    );
}
