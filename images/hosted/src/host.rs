//! The hosted world: a TAP device, or two, the monotonic clock, the kernel's random generator, SIGTERM as
//! power button.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;

use godwit::nics::{NicChoice, NicStatus};
use godwit::platform::{Device, Insight, NoEntropy, Platform};
use godwit::{Duration, Instant};
use godwit_netstack::stack::{Interface, MacAddr, RxFrame, TxFrame};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;

use crate::clock;
use crate::logger;
use crate::tap::Tap;

/// A TAP device that is a card.
struct Card {
    tap: Tap,
    mac: MacAddr,
    /// The last read of the device failed.
    failed: bool,
    /// The device was deleted: nothing will ever come of it again.
    gone: bool,
}

impl Card {
    fn new(tap: Tap, mac: MacAddr) -> Card {
        Card {
            tap,
            mac,
            failed: false,
            gone: false,
        }
    }

    fn device(&self) -> Device {
        Device {
            mac: self.mac,
            mtu: self.tap.mtu(),
            capabilities: self.tap.capabilities(),
        }
    }

    fn receive(&mut self) -> Option<RxFrame> {
        match self.tap.receive() {
            Ok(frame) => {
                self.failed = false;
                frame
            }
            Err(error) => {
                if !self.failed {
                    log::error!("cannot read from the TAP device: {error}");
                }
                self.failed = true;
                self.gone = error.raw_os_error() == Some(Errno::EBADFD as i32);
                None
            }
        }
    }
}

/// The world of a hosted instance.
pub struct Host {
    service: Card,
    /// That of the instance network.
    instance: Option<Card>,
    /// In this turn the instance network's frames are taken in first.
    instance_first: bool,
    signals: SignalFd,
}

impl Host {
    /// A world around a TAP device. SIGTERM is taken over; call this before starting threads.
    pub fn new(tap: Tap, mac: MacAddr) -> io::Result<Host> {
        let mut power = SigSet::empty();
        power.add(Signal::SIGTERM);
        power.thread_block()?;
        let signals = SignalFd::with_flags(&power, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Host {
            service: Card::new(tap, mac),
            instance: None,
            instance_first: false,
            signals,
        })
    }

    /// With another one for the instance network.
    pub fn with_instance_tap(mut self, tap: Tap, mac: MacAddr) -> Host {
        self.instance = Some(Card::new(tap, mac));
        self
    }

    fn cards(&self) -> impl Iterator<Item = &Card> {
        core::iter::once(&self.service).chain(&self.instance)
    }
}

impl Platform for Host {
    fn now(&mut self) -> Instant {
        clock::now()
    }

    fn stopwatch(&self) -> Option<fn() -> Instant> {
        Some(clock::now)
    }

    /// The log. What a Linux process does is for Linux's own profilers to see.
    fn insight(&self) -> Option<&'static dyn Insight> {
        Some(&logger::Inside)
    }

    fn turn(&mut self) {
        self.instance_first = !self.instance_first;
    }

    /// Which is which says the command line: `tap` and `instance_tap`.
    fn choose_nics(&mut self, choice: &NicChoice) -> Result<(), String> {
        let cards: Vec<MacAddr> = self.cards().map(|card| card.mac).collect();
        match choice.among(&cards)? {
            (0, None) if self.instance.is_some() => {
                Err("`instance_tap` is of no use without `instance_ip`".into())
            }
            (0, None | Some(1)) => Ok(()),
            _ => {
                Err("`tap` is the service network's, `instance_tap` the instance network's".into())
            }
        }
    }

    fn device(&self) -> Device {
        self.service.device()
    }

    fn instance_device(&self) -> Option<Device> {
        self.instance.as_ref().map(Card::device)
    }

    /// Whether anybody is at the other end of a TAP is not to be seen from this one.
    fn nics(&self) -> Vec<NicStatus> {
        let interfaces = [Interface::Service, Interface::Instance];
        let status = |(card, interface): (&Card, _)| NicStatus {
            interface,
            mac: card.mac,
            mtu: card.tap.mtu(),
            link: !card.failed,
            fault: card.gone.then(|| "the TAP device was deleted".into()),
        };
        self.cards().zip(interfaces).map(status).collect()
    }

    fn receive(&mut self) -> Option<RxFrame> {
        let Some(instance) = &mut self.instance else {
            return self.service.receive();
        };
        let inside = |frame: RxFrame| RxFrame {
            interface: Interface::Instance,
            ..frame
        };
        match self.instance_first {
            true => match instance.receive() {
                Some(frame) => Some(inside(frame)),
                None => self.service.receive(),
            },
            false => match self.service.receive() {
                None => instance.receive().map(inside),
                frame => frame,
            },
        }
    }

    /// A full TAP makes room or is gone within moments.
    fn can_transmit(&mut self) -> bool {
        let instance = self.instance.as_mut();
        self.service.tap.can_transmit() && instance.is_none_or(|card| card.tap.can_transmit())
    }

    fn transmit(&mut self, frame: TxFrame) {
        match (frame.interface, &mut self.instance) {
            (Interface::Instance, Some(card)) => card.tap.send(frame),
            _ => self.service.tap.send(frame),
        }
    }

    /// Nothing to do: every write is a doorbell.
    fn flush(&mut self) {}

    fn fill_random(&mut self, out: &mut [u8]) -> Result<(), NoEntropy> {
        getrandom::fill(out).map_err(|_| NoEntropy)
    }

    fn idle(&mut self, until: Option<Instant>) {
        let now = self.now();
        let mut wait = until.map(|at| at.since(now));
        if self.cards().any(|card| card.tap.is_stalled()) {
            // A TAP is always writable, even while its queue is full: look again soon.
            wait = Some(wait.unwrap_or(RETRY).min(RETRY));
        }
        if self.cards().any(|card| card.failed) {
            wait = Some(wait.unwrap_or(FAILED_RETRY).min(FAILED_RETRY));
        }
        let watch = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let signals = || watch(self.signals.as_fd());
        let mut watched = [signals(), signals(), signals()];
        let mut count = 1;
        // A failed device is not watched: its errors would wake us at once, whatever we ask for.
        for (card, place) in self
            .cards()
            .filter(|card| !card.failed)
            .zip(&mut watched[1..])
        {
            *place = watch(card.tap.as_fd());
            count += 1;
        }
        // Interrupted or failed: the loop turns once more and comes back.
        let _ = ppoll(&mut watched[..count], wait.map(TimeSpec::from), None);
    }

    fn power_button(&mut self) -> bool {
        // A request first and an order at the next turn: without a device nothing can be handed over.
        self.cards().all(|card| card.gone) || matches!(self.signals.read_signal(), Ok(Some(_)))
    }

    fn console(&mut self, line: fmt::Arguments<'_>) {
        print_line(line);
    }
}

/// How soon a full device is tried again.
const RETRY: Duration = Duration::from_micros(200);
/// How soon a failed device is tried again.
const FAILED_RETRY: Duration = Duration::from_millis(500);

/// Print a line that somebody waits for. Who closed our standard output does not wait.
pub fn print_line(line: fmt::Arguments<'_>) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
