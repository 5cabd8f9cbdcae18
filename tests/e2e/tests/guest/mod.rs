//! What tests of single machines share: taking turns, and a card behind QEMU's own network.

#![allow(dead_code, reason = "each test uses some of it")]

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::sync::{Mutex, MutexGuard, PoisonError};

use godwit_qemu::vm::{Forward, Netdev, Nic, NicModel};

/// The machine's address there.
pub const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

/// One test at a time: they are timed, or share two cores.
pub fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A port of this host that nobody has.
pub fn free_port() -> u16 {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    socket.local_addr().expect("it has an address").port()
}

/// A card, and where two of the machine's ports are reached from here.
pub fn nic(ports: [u16; 2]) -> (Nic, [SocketAddrV4; 2]) {
    let here = ports.map(|_| SocketAddrV4::new(Ipv4Addr::LOCALHOST, free_port()));
    let forwards = here.into_iter().zip(ports).map(|(host, port)| Forward {
        host,
        guest: SocketAddrV4::new(OWN, port),
    });
    (behind(forwards.collect()), here)
}

/// A card with these ports forwarded.
pub fn behind(forwards: Vec<Forward>) -> Nic {
    Nic {
        model: NicModel::Virtio,
        mac: [2, 0, 0, 0, 0, 1],
        netdev: Netdev::User(forwards),
    }
}
