//! The hosted world: a TAP device, the monotonic clock, the kernel's random generator, SIGTERM as
//! power button.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;

use godwit::platform::{Device, NoEntropy, Platform};
use godwit::{Duration, Instant};
use godwit_netstack::stack::{MacAddr, RxFrame, TxFrame};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;

use crate::clock;
use crate::tap::Tap;

/// The world of a hosted instance.
pub struct Host {
    tap: Tap,
    mac: MacAddr,
    signals: SignalFd,
    failed: bool,
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

    fn device(&self) -> Device {
        Device {
            mac: self.mac,
            mtu: self.tap.mtu(),
            capabilities: self.tap.capabilities(),
        }
    }

    fn receive(&mut self) -> Option<RxFrame> {
        match self.tap.receive() {
            Ok(frame) => frame,
            Err(error) => {
                if !self.failed {
                    log::error!("cannot read from the TAP device: {error}");
                }
                self.failed = true;
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
        let mut interest = PollFlags::POLLIN;
        if self.tap.is_stalled() {
            // A TAP is always writable, even while its queue is full: look again soon.
            wait = Some(wait.unwrap_or(RETRY).min(RETRY));
        }
        if self.failed {
            // Its errors would wake us again at once.
            interest = PollFlags::empty();
            wait = Some(wait.unwrap_or(FAILED_RETRY).min(FAILED_RETRY));
            self.failed = false;
        }
        let mut watched = [
            PollFd::new(self.tap.as_fd(), interest),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        // Interrupted or failed: the loop turns once more and comes back.
        let _ = ppoll(&mut watched, wait.map(TimeSpec::from), None);
    }

    fn power_button(&mut self) -> bool {
        matches!(self.signals.read_signal(), Ok(Some(_)))
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
