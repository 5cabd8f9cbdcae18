//! The hosted world: a TAP device, the monotonic clock, the kernel's random generator, SIGTERM as
//! power button.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;

use godwit::platform::{Device, Insight, NoEntropy, Platform};
use godwit::{Duration, Instant};
use godwit_netstack::stack::{MacAddr, RxFrame, TxFrame};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;

use crate::clock;
use crate::logger;
use crate::tap::Tap;

/// The world of a hosted instance.
pub struct Host {
    tap: Tap,
    mac: MacAddr,
    signals: SignalFd,
    /// The last read of the device failed.
    failed: bool,
    /// The device was deleted: nothing will ever come of it again.
    gone: bool,
}

impl Host {
    /// A world around a TAP device. SIGTERM is taken over; call this before starting threads.
    pub fn new(tap: Tap, mac: MacAddr) -> io::Result<Host> {
        let mut power = SigSet::empty();
        power.add(Signal::SIGTERM);
        power.thread_block()?;
        let signals = SignalFd::with_flags(&power, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Host {
            tap,
            mac,
            signals,
            failed: false,
            gone: false,
        })
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

    fn can_transmit(&mut self) -> bool {
        self.tap.can_transmit()
    }

    fn transmit(&mut self, frame: TxFrame) {
        self.tap.send(frame);
    }

    /// Nothing to do: every write is a doorbell.
    fn flush(&mut self) {}

    fn fill_random(&mut self, out: &mut [u8]) -> Result<(), NoEntropy> {
        getrandom::fill(out).map_err(|_| NoEntropy)
    }

    fn idle(&mut self, until: Option<Instant>) {
        let now = self.now();
        let mut wait = until.map(|at| at.since(now));
        if self.tap.is_stalled() {
            // A TAP is always writable, even while its queue is full: look again soon.
            wait = Some(wait.unwrap_or(RETRY).min(RETRY));
        }
        if self.failed {
            wait = Some(wait.unwrap_or(FAILED_RETRY).min(FAILED_RETRY));
        }
        let mut watched = [
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.tap.as_fd(), PollFlags::POLLIN),
        ];
        // A failed device is not watched: its errors would wake us at once, whatever we ask for.
        let watched = match (self.failed, &mut watched) {
            (true, [signals, _]) => core::slice::from_mut(signals),
            (false, both) => &mut both[..],
        };
        // Interrupted or failed: the loop turns once more and comes back.
        let _ = ppoll(watched, wait.map(TimeSpec::from), None);
    }

    fn power_button(&mut self) -> bool {
        // A request first and an order at the next turn: without a device nothing can be handed over.
        self.gone || matches!(self.signals.read_signal(), Ok(Some(_)))
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
