//! What a drive loop needs of the world it runs in: a clock, a NIC, entropy and a way to sleep.
//!
//! Three worlds implement [`Platform`]: the kernel (NIC queues, timer interrupt, `hlt`), the
//! hosted process (a TAP device and `poll`) and the simulator (virtual time and wires).

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use godwit_netstack::session::SessionId;
use godwit_netstack::stack::{DeviceCapabilities, MacAddr, RxFrame, TxFrame};
use godwit_netstack::tcp::Pressure;
use godwit_netstack::{Duration, Instant};

use crate::nics::{NicChoice, NicStatus};

/// The NIC as the stack needs to know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Device {
    /// Its address.
    pub mac: MacAddr,
    /// Largest IP packet it carries, in octets.
    pub mtu: u16,
    /// What it does for us.
    pub capabilities: DeviceCapabilities,
}

/// The platform has no source of randomness that may be relied on; nothing may be served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoEntropy;

impl fmt::Display for NoEntropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no entropy source")
    }
}

impl core::error::Error for NoEntropy {}

/// What a platform shows of itself while it runs, to who asks at the admin port.
pub trait Insight {
    /// What this build has in common with no other, so that addresses in its code can be given names;
    /// `None` where nothing can be sampled.
    fn build(&self) -> Option<u64> {
        None
    }

    /// Sample so many times a second what is running. `false`: that is going on already, or there
    /// is no memory for it.
    fn start_samples(&self, _hertz: u32) -> bool {
        false
    }

    /// Append what has been sampled since the last call, in words of four octets, the lowest first: of
    /// each sample how many addresses follow, the innermost first. How many samples were lost so far.
    fn take_samples(&self, _out: &mut Vec<u8>) -> u32 {
        0
    }

    /// Sample no more.
    fn stop_samples(&self) {}

    /// Append what was logged from octet `from` on, as far as it is kept; where that ends.
    fn log(&self, from: u64, out: &mut Vec<u8>) -> u64;

    /// A line of JSON for each stage of the boot; nothing where nothing was measured.
    fn boot(&self, _out: &mut dyn fmt::Write) -> fmt::Result {
        Ok(())
    }
}

/// The world of one instance. Nothing here blocks except [`Platform::idle`].
pub trait Platform {
    /// The monotonic clock; its origin is the platform's (the kernel's is guest entry, so that
    /// the time of the readiness line is the time it took to boot).
    fn now(&mut self) -> Instant;

    /// The same clock for measuring what happens within one call of the stack (the parts of a
    /// move). A world of virtual time has none: there a call takes no time.
    fn stopwatch(&self) -> Option<fn() -> Instant> {
        None
    }

    /// The drive loop begins a turn. A platform with a watchdog counts them.
    fn turn(&mut self) {}

    /// How long a turn may take before the platform takes the loop for hung and ends the instance;
    /// `None`: as long as it likes. Platforms without a watchdog do not care.
    fn watch(&mut self, _limit: Option<Duration>) {}

    /// From now on code of this session runs, or none's: what the platform names in its report if
    /// that code ends the instance.
    fn serving(&mut self, _session: Option<SessionId>) {}

    /// Run `body`, which is a session's code. If it panics, and the platform's panics end the instance,
    /// `rescue` may be called once before that, and `body` never goes on.
    fn guarded(body: &mut dyn FnMut(), _rescue: &mut dyn FnMut()) {
        body();
    }

    /// Octets of memory that this instance may use, if there is a bound: limits of connections
    /// follow from it.
    fn memory(&self) -> Option<usize> {
        None
    }

    /// How short memory is at the moment. Asked in every turn.
    fn scarcity(&mut self) -> Pressure {
        Pressure::None
    }

    /// The date: nanoseconds since 1970 (UTC) at the present moment, if it is known.
    fn date(&mut self) -> Option<u64> {
        None
    }

    /// Somebody knows the date better: nanoseconds since 1970 at the present moment.
    fn set_date(&mut self, _unix_ns: u64) {}

    /// Whether this machine has become a copy of what it was (a snapshot that was restored) since the
    /// last call. [`Platform::fill_random`] gives other octets than the original's from then on. The
    /// instance begins anew, as after a boot.
    fn restored(&mut self) -> bool {
        false
    }

    /// Take these cards, or say why that cannot be; before anything else is asked of them, and again when
    /// the instance is configured anew.
    fn choose_nics(&mut self, choice: &NicChoice) -> Result<(), String> {
        match *choice == NicChoice::default() {
            true => Ok(()),
            false => Err("there is one network card here, and no choice".into()),
        }
    }

    /// The NIC, of the service network if there is another.
    fn device(&self) -> Device;

    /// The NIC of the instance network, if one was chosen.
    fn instance_device(&self) -> Option<Device> {
        None
    }

    /// How the chosen NICs are at the moment, the service network's first; nothing where nobody can know.
    fn nics(&self) -> Vec<NicStatus> {
        Vec::new()
    }

    /// What the NICs have done, as counters by name; they are shown with those of the instance.
    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// What there is to be seen of the platform.
    fn insight(&self) -> Option<&'static dyn Insight> {
        None
    }

    /// The next frame received, if any, and where. No NIC may keep another one's frames from being taken in.
    fn receive(&mut self) -> Option<RxFrame>;

    /// Whether there is room for one more frame, wherever it goes. After a `false` the loop keeps its frames, and
    /// [`Platform::idle`] must also end when there is room again. A NIC that takes none for long must not keep
    /// another one's: what is for it is dropped then.
    fn can_transmit(&mut self) -> bool;

    /// Queue a frame for the NIC; called only after [`Platform::can_transmit`] said yes.
    fn transmit(&mut self, frame: TxFrame);

    /// Tell the NIC about the frames queued since the last call (the doorbell). Called once a
    /// turn, not once a frame.
    fn flush(&mut self);

    /// Fill `out` from a cryptographically secure generator.
    fn fill_random(&mut self, out: &mut [u8]) -> Result<(), NoEntropy>;

    /// Sleep until `until` (for ever if `None`), a frame, room to transmit after there was none, or
    /// the power button; may end early. The simulator is not called here: it calls
    /// [`crate::Node::step`] and sleeps in its own way.
    fn idle(&mut self, until: Option<Instant>);

    /// Whether the power button was pressed (or SIGTERM received) since the last call.
    fn power_button(&mut self) -> bool;

    /// Print a line that the host relies on (`GODWIT READY ...`) to the console, without a log
    /// prefix. `line` has no line break.
    fn console(&mut self, line: fmt::Arguments<'_>);
}
