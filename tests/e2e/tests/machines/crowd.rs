//! Clients that want more than an image has: thousands of connections to a machine of 8 MiB, each of
//! which makes it hold on to something. It may refuse and drop what it likes, but it must not end, and
//! it must serve again when they are gone.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use godwit_qemu::build::Service;
use godwit_qemu::vm::{Machine, Vm};

use crate::offload::{Lan, download, power_off};

const MEMORY_MIB: u32 = 8;
/// Threads of the client, and connections each of them tries to open.
const THREADS: usize = 64;
const EACH: usize = 32;
/// How long a client waits for a connection.
const KNOCK: Duration = Duration::from_millis(100);
/// How long it holds on to all it has.
const HOLD: Duration = Duration::from_secs(2);
/// What must still be served in the end.
const SIZE: u64 = 4 << 20;

/// What each connection does to be expensive.
struct Greed {
    name: &'static str,
    says: fn() -> Vec<u8>,
    /// Written in pieces of so many octets, each of them a segment.
    piece: usize,
}

const GREEDS: [Greed; 5] = [
    Greed {
        name: "says nothing",
        says: Vec::new,
        piece: 1,
    },
    Greed {
        name: "reads nothing of a large file",
        says: || b"GET /gen/64M HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        piece: 1000,
    },
    Greed {
        name: "never ends its request",
        says: || [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'a'; 60_000]].concat(),
        piece: 1400,
    },
    Greed {
        name: "asks for thousands of files at once",
        says: || b"GET /gen/64K HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2000),
        piece: 20_000,
    },
    Greed {
        name: "asks in small segments",
        says: || b"GET /gen/64K HTTP/1.1\r\nHost: a\r\n\r\n".repeat(20),
        piece: 7,
    },
];

/// All of it, one kind after the other, on one machine.
pub fn cannot_end_an_image(machine: Machine) -> Result<()> {
    let Some(lan) = Lan::create(true)? else {
        return Ok(());
    };
    let mut spec = lan.spec(machine, Service::Http, 1, "log=warn\n")?;
    spec.memory = MEMORY_MIB;
    let mut vm = lan.start(&spec)?;
    let server = SocketAddr::new(lan.own(1), Service::Http.port());
    for greed in &GREEDS {
        let held = besiege(&lan, server, greed)?;
        println!("    {}: {held} of {}", greed.name, THREADS * EACH);
        if let Err(error) = serve_again(&lan) {
            bail!("{}: {error:#}: {}", greed.name, tail(&mut vm));
        }
    }
    power_off(vm)
}

fn tail(vm: &mut Vm) -> String {
    vm.console().tail(40).join("\n")
}

/// Opens connections, is greedy on all of them for a while, and leaves. How many there were.
fn besiege(lan: &Lan, server: SocketAddr, greed: &'static Greed) -> Result<usize> {
    lan.namespace.run(move || {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| thread::spawn(move || hold(server, greed)))
            .collect();
        Ok(threads.into_iter().filter_map(|t| t.join().ok()).sum())
    })
}

fn hold(server: SocketAddr, greed: &Greed) -> usize {
    let says = (greed.says)();
    let mut held = Vec::new();
    for _ in 0..EACH {
        let Ok(mut client) = TcpStream::connect_timeout(&server, KNOCK) else {
            continue;
        };
        // Whoever is not read from does not wait, but is kept.
        let _ = client.set_nodelay(true);
        let _ = client.set_nonblocking(true);
        for piece in says.chunks(greed.piece) {
            if client.write_all(piece).is_err() {
                break;
            }
        }
        held.push(client);
    }
    thread::sleep(HOLD);
    held.len()
}

/// The image serves somebody who asks nicely, soon.
fn serve_again(lan: &Lan) -> Result<()> {
    const TRIES: usize = 20;
    for _ in 0..TRIES {
        if download(&lan.namespace, "10.78.0.11", SIZE).is_ok() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(500));
    }
    download(&lan.namespace, "10.78.0.11", SIZE)
}
