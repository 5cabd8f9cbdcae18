//! The kernel as the SDK's [`Platform`].

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use godwit::Instant;
use godwit::platform::{Device, Insight, NoEntropy, Platform};
use godwit_kernel::drivers::net::{self, Nic, Protocol, TxPacket};
use godwit_kernel::exit::{ExitCode, exit};
use godwit_kernel::{Machine, activity, boot, clock, console, entropy, profile, symbols, watchdog};
use godwit_netstack::Duration;
use godwit_netstack::session::SessionId;
use godwit_netstack::stack::frame::{RxChecksum, Segmentation};
use godwit_netstack::stack::{DeviceCapabilities, RxFrame, TxFrame};
use godwit_netstack::tcp::Pressure;

/// One machine with the network card that serves.
#[derive(Debug)]
pub struct KernelPlatform {
    machine: Machine,
    described: bool,
    /// Turns of the loop since the cards were looked after.
    turns: u8,
}

impl KernelPlatform {
    /// Takes the machine, or gives it back if it has no network card. With several, the first
    /// serves.
    pub fn new(machine: Machine) -> Result<Self, Box<Machine>> {
        let cards = machine.nics.len();
        if cards > 1 {
            log::warn!("{cards} network cards: only the first is used");
        }
        if cards == 0 {
            return Err(Box::new(machine));
        }
        Ok(Self {
            machine,
            described: false,
            turns: 0,
        })
    }

    /// Logs the boot chart and what the machine is made of, once.
    pub fn describe(&mut self) {
        if !core::mem::replace(&mut self.described, true) {
            boot::chart::print();
            self.machine.describe();
        }
    }

    fn nic(&mut self) -> Option<&mut (dyn Nic + 'static)> {
        self.machine.nics.first_mut().map(|nic| &mut **nic)
    }
}

/// The kernel, for who asks at the admin port.
struct Inside;

impl Insight for Inside {
    fn build(&self) -> Option<u64> {
        Some(symbols::build())
    }

    fn start_samples(&self, hertz: u32) -> bool {
        profile::start(hertz)
    }

    fn take_samples(&self, out: &mut Vec<u8>) -> u32 {
        profile::take(out)
    }

    fn stop_samples(&self) {
        profile::stop();
    }

    fn log(&self, from: u64, out: &mut Vec<u8>) -> u64 {
        console::since(from, out)
    }

    fn boot(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        boot::chart::stages(out)
    }
}

impl Platform for KernelPlatform {
    fn now(&mut self) -> Instant {
        Instant::from_nanos(clock::now_ns())
    }

    fn stopwatch(&self) -> Option<fn() -> Instant> {
        Some(|| Instant::from_nanos(clock::now_ns()))
    }

    fn turn(&mut self) {
        watchdog::turn();
    }

    fn watch(&mut self, limit: Option<Duration>) {
        watchdog::watch(limit.map(|limit| limit.as_nanos() as u64));
    }

    fn date(&mut self) -> Option<u64> {
        clock::unix_ns()
    }

    fn set_date(&mut self, unix_ns: u64) {
        clock::set_date(unix_ns);
    }

    fn restored(&mut self) -> bool {
        self.machine.restored()
    }

    fn serving(&mut self, session: Option<SessionId>) {
        match session {
            Some(session) => activity::serve(session.origin, session.number),
            None => activity::rest(),
        }
    }

    #[cfg(godwit_image)]
    fn guarded(body: &mut dyn FnMut(), rescue: &mut dyn FnMut()) {
        godwit_kernel::panic::guarded(body, rescue);
    }

    fn memory(&self) -> Option<usize> {
        Some(self.machine.memory())
    }

    /// Less than a quarter of the heap left, less than an eighth: what a turn takes must fit into
    /// that.
    fn scarcity(&mut self) -> Pressure {
        let (left, all) = (self.machine.memory_left(), self.machine.memory());
        match () {
            () if left > all / 4 => Pressure::None,
            () if left > all / 8 => Pressure::Some,
            () => Pressure::Exhausted,
        }
    }

    fn device(&self) -> Device {
        let nic = self.machine.nics.first();
        let capabilities = nic.map(|nic| nic.capabilities()).unwrap_or_default();
        Device {
            mac: nic.map_or([0; 6], |nic| nic.mac()),
            mtu: nic.map_or(1500, |nic| nic.mtu()),
            capabilities: DeviceCapabilities {
                tx_checksum: capabilities.tx_checksum,
                tso4: capabilities.segmentation_ipv4,
                tso6: capabilities.segmentation_ipv6,
            },
        }
    }

    fn insight(&self) -> Option<&'static dyn Insight> {
        Some(&Inside)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let nic = self.machine.nics.first();
        let statistics = nic.map(|nic| nic.statistics()).unwrap_or_default();
        statistics.named().into()
    }

    fn receive(&mut self) -> Option<RxFrame> {
        let packet = self.nic()?.receive()?;
        Some(RxFrame {
            bytes: packet.bytes,
            more: packet.more,
            checksum: match packet.checksum {
                net::RxChecksum::Valid | net::RxChecksum::Partial => RxChecksum::Verified,
                _ => RxChecksum::Unchecked,
            },
            segmentation: packet.segmentation.map(|cut| Segmentation {
                ipv6: cut.protocol == Protocol::TcpIpv6,
                segment_size: cut.size,
            }),
        })
    }

    fn can_transmit(&mut self) -> bool {
        self.nic().is_none_or(|nic| nic.can_transmit())
    }

    fn transmit(&mut self, frame: TxFrame) {
        let packet = TxPacket {
            head: frame.head,
            slices: frame.payload,
            checksum: frame.checksum.map(|sum| net::TxChecksum {
                start: sum.start,
                offset: sum.offset,
            }),
            segmentation: frame.segmentation.map(|cut| net::Segmentation {
                protocol: if cut.ipv6 {
                    Protocol::TcpIpv6
                } else {
                    Protocol::TcpIpv4
                },
                size: cut.segment_size,
            }),
        };
        if let Some(nic) = self.nic() {
            // The loop asks for room first, so this is a frame lost only to a broken card.
            let _ = nic.transmit(packet);
        }
    }

    fn flush(&mut self) {
        if let Some(nic) = self.nic() {
            nic.flush();
        }
        // A loop that never comes to rest has to look after the cards too.
        self.turns = self.turns.wrapping_add(1);
        if self.turns == 0 {
            self.machine.watch();
        }
    }

    fn fill_random(&mut self, out: &mut [u8]) -> Result<(), NoEntropy> {
        entropy::fill(out).map_err(|_| NoEntropy)
    }

    fn idle(&mut self, until: Option<Instant>) {
        // Without a card nobody is served, and nobody would hear of it.
        if let Some(fault) = self.machine.nics.first().and_then(|nic| nic.fault()) {
            exit(
                ExitCode::NoNic,
                format_args!("the network card is out of service: {fault}"),
            );
        }
        self.machine.idle(until.map(Instant::as_nanos));
    }

    fn power_button(&mut self) -> bool {
        self.machine.power_button()
    }

    fn console(&mut self, line: fmt::Arguments<'_>) {
        console::line(line);
        // The first line is the one that says we serve: what follows it is no part of booting.
        if !self.described {
            boot::chart::mark("ready");
        }
        self.describe();
    }
}
