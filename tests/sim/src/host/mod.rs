//! Clients (and, for testing the simulator itself, servers) on smoltcp: an implementation of TCP,
//! ARP and NDP that is not ours. And clients on our own ([`Native`]), which has all that today's
//! hosts have: SACK, ECN, path MTU discovery, autotuned windows.

mod app;
mod client;
mod device;
mod member;
mod native;
mod neighbour;
mod stream;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use godwit_netstack::stack::Interface as Network;
use godwit_netstack::stack::MacAddr;
use godwit_netstack::{Duration, Instant};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};

pub use app::{App, Conversation, Expect, Outcome, Plan, Server};
pub use client::{Client, HangUp, Standing};
use device::Queues;
pub use member::{Heard, StrangeMember};
pub use native::Native;

use crate::world::Party;

/// What a host is built from.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// Its NIC's address.
    pub mac: MacAddr,
    /// Its addresses with their prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Largest IP packet.
    pub mtu: usize,
    /// Seed of its random numbers.
    pub seed: u64,
    /// Whether it stands for the service: what it sends is checked as an instance's would be.
    pub serves: bool,
}

/// How its TCP sockets are set up.
#[derive(Clone, Copy, Debug)]
pub struct SocketConfig {
    /// Octets of the receive buffer; over 65535 it scales its window.
    pub receive: usize,
    /// Octets of the send buffer.
    pub send: usize,
    /// Whether it offers timestamps.
    pub timestamps: bool,
    /// How long it waits with an acknowledgement (0: never).
    pub ack_delay: Duration,
    /// Whether small segments wait for acknowledgements (Nagle).
    pub nagle: bool,
}

impl Default for SocketConfig {
    fn default() -> Self {
        SocketConfig {
            receive: 256 * 1024,
            send: 256 * 1024,
            timestamps: true,
            ack_delay: Duration::from_millis(10),
            nagle: true,
        }
    }
}

thread_local! {
    /// Where smoltcp reads its TSval: its generator is a plain function without context.
    static TSVAL: Cell<u32> = const { Cell::new(0) };
}

struct Task {
    handle: SocketHandle,
    app: Box<dyn App>,
}

/// A host: one NIC, any number of TCP sockets, each with an [`App`].
pub struct Host {
    mac: MacAddr,
    serves: bool,
    interface: Interface,
    queues: Queues,
    sockets: SocketSet<'static>,
    tasks: BTreeMap<usize, Task>,
    /// Tasks so far.
    opened: usize,
    /// Ports of connections that are as if their machine were gone.
    deaf: BTreeSet<u16>,
    turns: u64,
    deadline: Option<Instant>,
    tsval_offset: u32,
    /// The last frame whose answer needs a neighbour that is being asked for. A stock host queues
    /// the answer; smoltcp drops it, and one whose entry lapses between a peer's repetitions would
    /// never answer at all (seed 935 of three instances). So the frame comes again after the reply.
    unanswered: Option<Bytes>,
}

fn to_smoltcp(now: Instant) -> smoltcp::time::Instant {
    smoltcp::time::Instant::from_micros((now.as_nanos() / 1000) as i64)
}

fn from_smoltcp(at: smoltcp::time::Instant) -> Instant {
    Instant::from_nanos(at.total_micros() as u64 * 1000)
}

pub(crate) fn to_smoltcp_address(ip: IpAddr) -> IpAddress {
    match ip {
        IpAddr::V4(ip) => IpAddress::Ipv4(ip),
        IpAddr::V6(ip) => IpAddress::Ipv6(ip),
    }
}

impl Host {
    /// A host without sockets.
    pub fn new(config: HostConfig, now: Instant) -> Host {
        let mut queues = Queues::new(config.mtu);
        let hardware = HardwareAddress::Ethernet(EthernetAddress(config.mac));
        let mut smoltcp = Config::new(hardware);
        smoltcp.random_seed = config.seed;
        let mut interface = Interface::new(smoltcp, &mut queues, to_smoltcp(now));
        interface.update_ip_addrs(|addresses| {
            for (address, prefix) in config.addresses {
                let cidr = IpCidr::new(to_smoltcp_address(address), prefix);
                addresses.push(cidr).expect("room for the host's addresses");
            }
        });
        Host {
            mac: config.mac,
            serves: config.serves,
            interface,
            queues,
            sockets: SocketSet::new(Vec::new()),
            tasks: BTreeMap::new(),
            opened: 0,
            deaf: BTreeSet::new(),
            turns: 0,
            deadline: None,
            tsval_offset: config.seed as u32,
            unanswered: None,
        }
    }

    fn socket(config: SocketConfig) -> tcp::Socket<'static> {
        let mut socket = tcp::Socket::new(
            tcp::SocketBuffer::new(vec![0; config.receive]),
            tcp::SocketBuffer::new(vec![0; config.send]),
        );
        if config.timestamps {
            socket.set_tsval_generator(Some(|| TSVAL.get()));
        }
        let delay = config.ack_delay.as_micros() as u64;
        socket.set_ack_delay((delay > 0).then(|| smoltcp::time::Duration::from_micros(delay)));
        socket.set_nagle_enabled(config.nagle);
        socket.set_congestion_control(tcp::CongestionControl::Reno);
        socket
    }

    /// Open a connection from `local_port`; `app` lives on it. Returns its number here.
    pub fn connect(
        &mut self,
        remote: SocketAddr,
        local_port: u16,
        config: SocketConfig,
        app: Box<dyn App>,
    ) -> usize {
        let mut socket = Host::socket(config);
        let remote = (to_smoltcp_address(remote.ip()), remote.port());
        socket
            .connect(self.interface.context(), remote, local_port)
            .expect("a fresh socket can connect");
        self.add(socket, app)
    }

    /// Listen at `port` for one connection.
    pub fn listen(&mut self, port: u16, config: SocketConfig, app: Box<dyn App>) -> usize {
        let mut socket = Host::socket(config);
        socket.listen(port).expect("a fresh socket can listen");
        self.add(socket, app)
    }

    fn add(&mut self, socket: tcp::Socket<'static>, app: Box<dyn App>) -> usize {
        let handle = self.sockets.add(socket);
        let index = self.opened;
        self.opened += 1;
        self.tasks.insert(index, Task { handle, app });
        index
    }

    /// The socket and app of a connection.
    ///
    /// # Panics
    /// If there is none of that number.
    pub fn task(&self, index: usize) -> (&tcp::Socket<'static>, &dyn App) {
        let task = &self.tasks[&index];
        (self.sockets.get(task.handle), &*task.app)
    }

    /// Change a connection from outside.
    ///
    /// # Panics
    /// If there is none of that number.
    pub fn task_mut(&mut self, index: usize) -> (&mut tcp::Socket<'static>, &mut dyn App) {
        let task = self.tasks.get_mut(&index).expect("a connection here");
        (self.sockets.get_mut(task.handle), &mut *task.app)
    }

    /// Whether a connection waits for its FIN to be acknowledged and will never send it again: smoltcp
    /// 0.14 puts its timer out at the third duplicate ACK, and then repeats nothing if only the FIN is
    /// out. While a FIN is out and not forgotten there is a deadline.
    pub fn has_forgotten_its_fin(&self, index: usize) -> bool {
        use tcp::State::{Closing, FinWait1, LastAck};
        let (socket, _) = self.task(index);
        let waits = matches!(socket.state(), FinWait1 | Closing | LastAck);
        waits && socket.send_queue() == 0 && self.deadline.is_none()
    }

    /// How the app of a connection fares.
    pub fn outcome(&self, index: usize) -> Outcome {
        self.tasks[&index].app.outcome()
    }

    /// Whether every app has come to its end, well or not.
    pub fn finished(&self) -> bool {
        self.tasks
            .values()
            .all(|task| task.app.outcome() != Outcome::Running)
    }

    fn run(&mut self, now: Instant) {
        self.turns += 1;
        TSVAL.set((now.as_millis() as u32).wrapping_add(self.tsval_offset));
        let at = to_smoltcp(now);
        // Bounded: an app and its socket that keep waking each other must not stop the world.
        for _ in 0..64 {
            self.interface.poll(at, &mut self.queues, &mut self.sockets);
            let mut active = false;
            for task in self.tasks.values_mut() {
                let socket = self.sockets.get_mut(task.handle);
                active |= task.app.poll(now, socket);
            }
            if !active {
                break;
            }
        }
        let stack = self.interface.poll_at(at, &self.sockets).map(from_smoltcp);
        // smoltcp counts in microseconds, and says "now" while a neighbour is still unknown.
        let stack = stack.map(|due| {
            if due <= now {
                now + Duration::from_micros(100)
            } else {
                due
            }
        });
        let apps = self.tasks.values().filter_map(|task| task.app.deadline());
        self.deadline = apps.chain(stack).min();
    }
}

impl Party for Host {
    fn mac(&self) -> MacAddr {
        self.mac
    }

    fn is_server(&self) -> bool {
        self.serves
    }

    fn handle_frame(&mut self, now: Instant, _network: Network, frame: &Bytes) {
        if client::is_for_one_of(frame, &self.deaf) {
            return;
        }
        let before = self.queues.sent_since(0).count();
        if let Some(frame) = neighbour::as_stock_hosts_read_it(&self.interface, frame) {
            self.queues.receive(frame);
        }
        self.run(now);
        if neighbour::is_answer(frame) {
            if let Some(again) = self.unanswered.take() {
                self.queues.receive(again);
                self.run(now);
            }
        } else if self
            .queues
            .sent_since(before)
            .any(|sent| neighbour::is_question(sent))
        {
            self.unanswered = Some(frame.clone());
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.run(now);
    }

    fn poll_transmit(&mut self, _now: Instant) -> Option<(Network, Bytes)> {
        let frame = self.queues.transmitted()?;
        Some((Network::Service, frame))
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }
}
