//! The switch's one thread: wait, take frames in, pass them on, write what is due.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::delay::DelayLine;
use super::port::{End, Port, Written};
use super::table::{Mac, MacTable};
use super::{Direction, MAX_FRAME, PortConfig, Shared, count};

/// A port with more than this waiting for it pauses whoever sends to it.
const PAUSE_AT: usize = 512 << 10;
/// Below this they may go on.
const RESUME_AT: usize = 128 << 10;
/// Frames that no sender can be paused for (delayed ones) are dropped beyond this.
const DROP_AT: usize = 8 << 20;
/// A port that takes nothing for this long must not hold up the others any longer.
const STALL: Duration = Duration::from_millis(250);
/// Frames read from a packet port before others get their turn.
const READ_BATCH: usize = 64;

const WAKE: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;

pub(super) struct Engine {
    ports: Vec<Port>,
    table: MacTable,
    delayed: DelayLine,
    shared: Arc<Shared>,
    epoll: Epoll,
    timer: TimerFd,
    armed: Option<Instant>,
    /// Ports with something to write at the end of the round.
    dirty: Vec<usize>,
}

/// Where a frame goes.
#[derive(Clone, Copy)]
enum Route {
    To(usize),
    Flood,
}

impl Engine {
    pub fn new(seed: u64, configs: Vec<PortConfig>, shared: Arc<Shared>) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&shared.wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        let timer = TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
        )?;
        epoll.add(timer.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
        let mut ports = Vec::with_capacity(configs.len());
        for (index, config) in configs.into_iter().enumerate() {
            ports.push(Port::new(config, seed.wrapping_add(index as u64 + 1))?);
        }
        let mut engine = Self {
            ports,
            table: MacTable::default(),
            delayed: DelayLine::default(),
            shared,
            epoll,
            timer,
            armed: None,
            dirty: Vec::new(),
        };
        for index in 0..engine.ports.len() {
            engine.register(index)?;
        }
        Ok(engine)
    }

    /// Tells epoll about a port's descriptors when the switch starts.
    fn register(&mut self, index: usize) -> Result<()> {
        match &self.ports[index].end {
            End::Stream { listener, .. } => {
                let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64 * 2 + 1);
                self.epoll
                    .add(listener, event)
                    .context("cannot watch a listening port")
            }
            End::Packet(_) => self.watch(index),
        }
    }

    /// Starts to watch a descriptor frames cross.
    fn watch(&mut self, index: usize) -> Result<()> {
        let port = &mut self.ports[index];
        port.interest = (true, false);
        let Some(descriptor) = port.descriptor() else {
            return Ok(());
        };
        self.epoll
            .add(
                descriptor,
                EpollEvent::new(EpollFlags::EPOLLIN, index as u64 * 2),
            )
            .context("cannot watch a switch port")
    }

    pub fn run(&mut self) -> Result<()> {
        let mut events = [EpollEvent::empty(); 32];
        loop {
            let ready = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(ready) => ready,
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error).context("epoll failed"),
            };
            for event in &events[..ready] {
                self.handle(event)?;
                if self.shared.stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
            }
            self.deliver_due();
            self.give_up_on_stalled();
            self.flush_dirty()?;
            self.arm()?;
        }
    }

    fn handle(&mut self, event: &EpollEvent) -> Result<()> {
        match event.data() {
            WAKE => {
                let _ = self.shared.wake.read();
                let mut changes = self
                    .shared
                    .impairments
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                for (index, impairment) in changes.drain(..) {
                    self.ports[index].link.impairment = impairment;
                }
            }
            TIMER => {
                self.armed = None;
                // Reading resets it; an early wake-up is harmless.
                let _ = nix::unistd::read(self.timer.as_fd(), &mut [0; 8]);
            }
            token => {
                let index = (token / 2) as usize;
                if token % 2 == 1 {
                    if self.ports[index].accept()? {
                        self.watch(index)?;
                    }
                    return Ok(());
                }
                let flags = event.events();
                if flags.contains(EpollFlags::EPOLLOUT) {
                    self.mark_dirty(index);
                }
                if !self.ports[index].paused {
                    self.read_port(index)?;
                } else if flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
                    self.hang_up(index)?;
                }
            }
        }
        Ok(())
    }

    fn read_port(&mut self, index: usize) -> Result<()> {
        match self.ports[index].end {
            End::Packet(_) => {
                for _ in 0..READ_BATCH {
                    let port = &mut self.ports[index];
                    let Some(len) = port.read() else { break };
                    if len == 0 {
                        return self.hang_up(index);
                    }
                    let rx = std::mem::take(&mut port.rx);
                    self.forward(index, &rx[..len]);
                    self.ports[index].rx = rx;
                    if self.ports[index].paused {
                        break;
                    }
                }
                Ok(())
            }
            End::Stream { .. } => {
                let port = &mut self.ports[index];
                let Some(len) = port.read() else {
                    return Ok(());
                };
                if len == 0 {
                    return self.hang_up(index);
                }
                let filled = port.rx_len + len;
                let mut rx = std::mem::take(&mut port.rx);
                let mut taken = 0;
                while let Some((prefix, rest)) = rx[taken..filled].split_first_chunk::<4>() {
                    let len = u32::from_be_bytes(*prefix) as usize;
                    if len > MAX_FRAME {
                        self.ports[index].rx = rx;
                        return self.hang_up(index);
                    }
                    let Some(frame) = rest.get(..len) else { break };
                    self.forward(index, frame);
                    taken += 4 + len;
                }
                rx.copy_within(taken..filled, 0);
                let port = &mut self.ports[index];
                port.rx = rx;
                port.rx_len = filled - taken;
                Ok(())
            }
        }
    }

    /// Passes a frame from a port on.
    fn forward(&mut self, from: usize, frame: &[u8]) {
        let shared = Arc::clone(&self.shared);
        let (_, counters) = &shared.counters[from];
        count(&counters.received, 1);
        count(&counters.received_bytes, frame.len() as u64);
        self.ports[from].observe(Direction::FromPort, frame);
        let (Some(destination), Some(source)) = (mac(frame, 0), mac(frame, 6)) else {
            count(&counters.dropped, 1);
            return;
        };
        let now = Instant::now();
        self.table.learn(source, from, now);
        match self
            .table
            .lookup(destination, now)
            .map_or(Route::Flood, Route::To)
        {
            Route::To(to) if to != from => self.send(from, to, frame, now),
            Route::To(_) => {}
            Route::Flood => {
                for to in (0..self.ports.len()).filter(|to| *to != from) {
                    if self.ports[to].descriptor().is_some() {
                        self.send(from, to, frame, now);
                    }
                }
            }
        }
    }

    /// Sends a frame over the link to a port, which may be impaired.
    fn send(&mut self, from: usize, to: usize, frame: &[u8], now: Instant) {
        let port = &mut self.ports[to];
        if port.link.impairment.is_none() {
            self.deliver(to, frame);
            // Nobody waits for a stalled port: its frames are dropped.
            let port = &self.ports[to];
            if port.backlog.len() > PAUSE_AT && !port.stalled {
                self.pause(from, to);
            }
            return;
        }
        let fate = port.link.decide(now, frame.len());
        let (_, counters) = &self.shared.counters[to];
        if fate.first.is_none() {
            count(&counters.lost, 1);
        }
        if fate.second.is_some() {
            count(&counters.duplicated, 1);
        }
        for due in [fate.first, fate.second].into_iter().flatten() {
            if due <= now {
                self.deliver(to, frame);
            } else if !self.delayed.push(due, to, frame) {
                count(&self.shared.counters[to].1.dropped, 1);
            }
        }
    }

    /// Hands a frame to a port.
    fn deliver(&mut self, to: usize, frame: &[u8]) {
        let port = &mut self.ports[to];
        let (_, counters) = &self.shared.counters[to];
        if port.descriptor().is_none() || port.stalled || port.backlog.len() > DROP_AT {
            count(&counters.dropped, 1);
            return;
        }
        port.observe(Direction::ToPort, frame);
        if port.enqueue(frame) {
            count(&counters.sent, 1);
            count(&counters.sent_bytes, frame.len() as u64);
        } else {
            count(&counters.dropped, 1);
        }
        if port.backlog.len() > 0 {
            self.mark_dirty(to);
        }
    }

    fn mark_dirty(&mut self, index: usize) {
        if !self.dirty.contains(&index) {
            self.dirty.push(index);
        }
    }

    /// Stops to read `from` until `to` has taken its backlog.
    fn pause(&mut self, from: usize, to: usize) {
        if self.ports[from].paused {
            return;
        }
        let _ = self.flush(to);
        if self.ports[to].backlog.len() > PAUSE_AT {
            count(&self.shared.counters[from].1.paused, 1);
            self.ports[from].paused = true;
            self.ports[to].waiters.push(from);
            self.mark_dirty(from);
        }
    }

    fn deliver_due(&mut self) {
        if self.delayed.next_due().is_none() {
            return;
        }
        let now = Instant::now();
        while let Some((to, buffer)) = self.delayed.pop(now) {
            self.deliver(to, &buffer);
            self.delayed.recycle(buffer);
        }
    }

    /// A port that has been blocked for too long loses its frames from now on.
    fn give_up_on_stalled(&mut self) {
        for index in 0..self.ports.len() {
            let port = &mut self.ports[index];
            let Some(since) = port.blocked_since else {
                continue;
            };
            if !port.stalled && since.elapsed() >= STALL {
                port.stalled = true;
                self.resume_waiters(index);
            }
        }
    }

    fn resume_waiters(&mut self, index: usize) {
        for waiter in std::mem::take(&mut self.ports[index].waiters) {
            self.ports[waiter].paused = false;
            self.mark_dirty(waiter);
        }
    }

    fn flush_dirty(&mut self) -> Result<()> {
        while let Some(index) = self.dirty.pop() {
            self.flush(index)?;
        }
        Ok(())
    }

    fn flush(&mut self, index: usize) -> Result<()> {
        let port = &mut self.ports[index];
        let written = port.flush();
        match written {
            Written::All => {
                port.blocked_since = None;
                port.stalled = false;
            }
            Written::Blocked { progress } => {
                if progress {
                    port.stalled = false;
                }
                if progress || port.blocked_since.is_none() {
                    port.blocked_since = Some(Instant::now());
                }
            }
            Written::Closed => return self.hang_up(index),
        }
        if self.ports[index].backlog.len() < RESUME_AT {
            self.resume_waiters(index);
        }
        self.update_interest(index, matches!(written, Written::Blocked { .. }))
    }

    fn update_interest(&mut self, index: usize, write: bool) -> Result<()> {
        let port = &mut self.ports[index];
        let wanted = (!port.paused, write);
        if port.interest == wanted {
            return Ok(());
        }
        port.interest = wanted;
        let Some(descriptor) = port.descriptor() else {
            return Ok(());
        };
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLIN, wanted.0);
        flags.set(EpollFlags::EPOLLOUT, wanted.1);
        let mut event = EpollEvent::new(flags, index as u64 * 2);
        self.epoll
            .modify(descriptor, &mut event)
            .context("cannot watch a switch port")
    }

    fn hang_up(&mut self, index: usize) -> Result<()> {
        let port = &mut self.ports[index];
        if let Some(descriptor) = port.descriptor() {
            // Closing would do it too, unless the descriptor was duplicated.
            let _ = self.epoll.delete(descriptor);
        }
        port.hang_up();
        self.resume_waiters(index);
        Ok(())
    }

    /// Sets the timer to the next thing that is due.
    fn arm(&mut self) -> Result<()> {
        let stalls = self.ports.iter().filter(|port| !port.stalled);
        let stalls = stalls.filter_map(|port| Some(port.blocked_since? + STALL));
        let Some(next) = stalls.chain(self.delayed.next_due()).min() else {
            return Ok(());
        };
        if self.armed.is_some_and(|armed| armed <= next) {
            return Ok(());
        }
        // A zero would disarm the timer.
        let wait = next
            .saturating_duration_since(Instant::now())
            .max(Duration::from_nanos(1));
        self.timer.set(
            Expiration::OneShot(TimeSpec::from_duration(wait)),
            TimerSetTimeFlags::empty(),
        )?;
        self.armed = Some(next);
        Ok(())
    }
}

fn mac(frame: &[u8], at: usize) -> Option<Mac> {
    frame.get(at..at + 6)?.try_into().ok()
}
