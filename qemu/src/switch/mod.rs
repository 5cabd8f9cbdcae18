//! A layer-2 switch in user space.
//!
//! It joins VMs (QEMU `-netdev stream` sockets), TAP devices and in-process ports without root
//! and without any help of the host's kernel. Each port's link can be [impaired](Impairment) and
//! [watched](Observer). One thread, epoll, no polling: an idle switch costs nothing.
//!
//! - A port that cannot take more pauses whoever sends to it (back-pressure); only a port that
//!   has not moved at all for a while has its frames dropped, and they are counted.
//! - Addresses are learned in a bounded, ageing [table](table::MacTable); frames to unknown and
//!   group addresses are flooded.
//!
//! Order of use: [`SwitchBuilder::port`] for each port, [`SwitchBuilder::start`], and then
//! [`Switch::impair`] and [`Switch::stats`] at will. Dropping the [`Switch`] ends it.

mod delay;
mod engine;
mod impair;
pub mod pcap;
mod port;
mod table;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Context, Result};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use engine::Engine;
pub use impair::Impairment;

/// The largest frame the switch carries: 64 KiB of payload and headers to spare.
pub const MAX_FRAME: usize = 65_536 + 128;

/// Which way a frame crossed a port's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Sent by what is plugged in: seen before any impairment.
    FromPort,
    /// Delivered to what is plugged in: seen after every impairment.
    ToPort,
}

/// Sees every frame of one port, on the switch's thread: be quick.
pub trait Observer: Send {
    /// One frame crossed the port's link.
    fn frame(&mut self, at: Instant, direction: Direction, frame: &[u8]);
}

/// What is plugged into a port.
#[derive(Debug)]
pub enum Attachment {
    /// A unix stream socket to listen on; frames carry a 32-bit big-endian length before them, as
    /// QEMU's `-netdev stream,server=off,addr.type=unix` sends them. One peer at a time.
    Listen(PathBuf),
    /// A descriptor that gives one frame per read and takes one per write: a TAP device, or one
    /// end of a pair of `SOCK_SEQPACKET` sockets.
    Packet(OwnedFd),
}

impl Attachment {
    /// For the process itself: one frame per send and receive on the returned (blocking)
    /// `SOCK_SEQPACKET` socket.
    pub fn in_process() -> Result<(Self, OwnedFd)> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok((Self::Packet(ours), theirs))
    }
}

/// One port, before the switch starts.
pub struct PortConfig {
    /// Shown in statistics.
    pub name: String,
    /// What is plugged in.
    pub attachment: Attachment,
    /// What happens to frames on their way to the port.
    pub impairment: Impairment,
    /// Who watches the port's link.
    pub observers: Vec<Box<dyn Observer>>,
}

/// Names a port of the switch that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortId(usize);

/// A port's counters, in frames.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// The port's name.
    pub name: String,
    /// Frames that came in.
    pub received: u64,
    /// Frames that went out.
    pub sent: u64,
    /// Bytes that came in.
    pub received_bytes: u64,
    /// Bytes that went out.
    pub sent_bytes: u64,
    /// Lost on purpose, by the impairment.
    pub lost: u64,
    /// Sent twice on purpose.
    pub duplicated: u64,
    /// Dropped because a queue was full or nobody was at the other end: not on purpose.
    pub dropped: u64,
    /// How often this port had to wait for another one.
    pub paused: u64,
}

#[derive(Debug, Default)]
struct Counters {
    received: AtomicU64,
    sent: AtomicU64,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    lost: AtomicU64,
    duplicated: AtomicU64,
    dropped: AtomicU64,
    paused: AtomicU64,
}

/// Adds to a counter that only the switch's thread writes.
fn count(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed) + by, Ordering::Relaxed);
}

struct Shared {
    wake: EventFd,
    stop: AtomicBool,
    impairments: Mutex<Vec<(usize, Impairment)>>,
    counters: Vec<(String, Counters)>,
}

/// Collects ports.
pub struct SwitchBuilder {
    seed: u64,
    ports: Vec<PortConfig>,
}

impl SwitchBuilder {
    /// A switch without ports. All chance comes from `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            ports: Vec::new(),
        }
    }

    /// Adds a port.
    pub fn port(&mut self, config: PortConfig) -> PortId {
        self.ports.push(config);
        PortId(self.ports.len() - 1)
    }

    /// Starts the switch's thread. Sockets to listen on exist when this returns.
    pub fn start(self) -> Result<Switch> {
        let counters = self
            .ports
            .iter()
            .map(|p| (p.name.clone(), Counters::default()))
            .collect();
        let shared = Arc::new(Shared {
            wake: EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?,
            stop: AtomicBool::new(false),
            impairments: Mutex::new(Vec::new()),
            counters,
        });
        let mut engine = Engine::new(self.seed, self.ports, Arc::clone(&shared))?;
        let thread = thread::Builder::new()
            .name("switch".into())
            .spawn(move || engine.run())?;
        Ok(Switch {
            shared,
            thread: Some(thread),
        })
    }
}

/// A running switch.
pub struct Switch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Switch {
    /// Changes what happens to frames on their way to a port, from now on.
    pub fn impair(&self, port: PortId, impairment: Impairment) {
        let mut changes = self
            .shared
            .impairments
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        changes.push((port.0, impairment));
        let _ = self.shared.wake.write(1);
    }

    /// The counters of all ports, in the order the ports were added.
    pub fn stats(&self) -> Vec<PortStats> {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let stats = |(name, c): &(String, Counters)| PortStats {
            name: name.clone(),
            received: get(&c.received),
            sent: get(&c.sent),
            received_bytes: get(&c.received_bytes),
            sent_bytes: get(&c.sent_bytes),
            lost: get(&c.lost),
            duplicated: get(&c.duplicated),
            dropped: get(&c.dropped),
            paused: get(&c.paused),
        };
        self.shared.counters.iter().map(stats).collect()
    }

    /// Ends the switch and says whether it had failed.
    pub fn stop(mut self) -> Result<()> {
        self.join()
    }

    fn join(&mut self) -> Result<()> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        self.shared.stop.store(true, Ordering::Relaxed);
        let _ = self.shared.wake.write(1);
        thread.join().ok().context("the switch's thread panicked")?
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = self.join();
    }
}

#[cfg(test)]
mod tests;
