//! The end by a signal: what lies in [`crate::scratch`] directories (an admin token, for one) goes
//! first. VMs need no help, they die with the thread that started them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

use anyhow::{Context, Result};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::unistd::Pid;

use crate::scratch;

/// What ends a program that nobody has taught otherwise, and that a person or a supervisor sends.
const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// Where the handler writes.
static WAKE: OnceLock<EventFd> = OnceLock::new();
/// The signal that came.
static CAME: AtomicI32 = AtomicI32::new(0);

/// Makes SIGINT, SIGTERM and SIGHUP remove all scratch directories and then end the process as
/// they always do. Starts a thread: call [`crate::net::become_root_of_own`] before.
///
/// A handler rather than a blocked signal, because child processes would inherit the latter, and
/// Ctrl-C is to reach the cargo that builds an image.
pub fn clean_up() -> Result<()> {
    let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?;
    let wake = WAKE.get_or_init(|| wake);
    thread::Builder::new()
        .name("interrupt".into())
        .spawn(move || {
            while wake.read().is_err() {}
            let _held = scratch::remove_all();
            let came = Signal::try_from(CAME.load(Ordering::SeqCst)).unwrap_or(Signal::SIGTERM);
            // The handler was for once: this one ends us, and whoever waits for us sees by what.
            let _ = kill(Pid::this(), came);
            loop {
                thread::park();
            }
        })?;
    let action = SigAction::new(
        SigHandler::Handler(handle),
        SaFlags::SA_RESTART | SaFlags::SA_RESETHAND,
        SigSet::empty(),
    );
    for signal in SIGNALS {
        // SAFETY: the handler touches atomics and makes one system call, write(2), which
        // signal-safety(7) permits.
        unsafe { sigaction(signal, &action) }.with_context(|| format!("cannot handle {signal}"))?;
    }
    Ok(())
}

extern "C" fn handle(signal: i32) {
    let errno = nix::errno::Errno::last_raw();
    CAME.store(signal, Ordering::SeqCst);
    if let Some(wake) = WAKE.get() {
        let _ = wake.write(1);
    }
    // What was interrupted must not find our error in place of its own.
    nix::errno::Errno::set_raw(errno);
}
