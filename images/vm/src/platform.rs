//! The kernel as the SDK's [`Platform`].

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use godwit::Instant;
use godwit::nics::{NicChoice, NicStatus};
use godwit::platform::{Device, Insight, NoEntropy, Platform};
use godwit_kernel::drivers::net::{self, Nic, Protocol, TxPacket};
use godwit_kernel::exit::{ExitCode, exit};
use godwit_kernel::{Machine, activity, boot, clock, console, entropy, profile, symbols, watchdog};
use godwit_netstack::Duration;
use godwit_netstack::session::SessionId;
use godwit_netstack::stack::frame::{RxChecksum, Segmentation};
use godwit_netstack::stack::{DeviceCapabilities, Interface, RxFrame, TxFrame};
use godwit_netstack::tcp::Pressure;

/// How long a card of two may have no room before what is for it is dropped, so that the other one goes on.
/// Whoever waits longer than that for a slow link has a full queue before it, and TCP makes up for the loss.
const PATIENCE_NS: u64 = 200_000_000;

/// A card that is in use.
#[derive(Debug, Default)]
struct Used {
    /// Its place among the machine's.
    at: usize,
    /// Since when it has had no room.
    full_since: Option<u64>,
    /// Frames dropped because it had none for too long.
    dropped: u64,
}

impl Used {
    fn at(at: usize) -> Self {
        Self {
            at,
            ..Self::default()
        }
    }
}

/// One machine with the network card that serves, and that of the instance network if there is one.
#[derive(Debug)]
pub struct KernelPlatform {
    machine: Machine,
    service: Used,
    instance: Option<Used>,
    /// In this turn the frames of the instance network are taken in first: so no flood at one card keeps
    /// those of the other one waiting.
    instance_first: bool,
    described: bool,
    /// Turns of the loop since the cards were looked after.
    turns: u8,
}

impl KernelPlatform {
    /// Takes the machine, or gives it back if it has no network card.
    pub fn new(machine: Machine) -> Result<Self, Box<Machine>> {
        if machine.nics.is_empty() {
            return Err(Box::new(machine));
        }
        Ok(Self {
            machine,
            service: Used::default(),
            instance: None,
            instance_first: false,
            described: false,
            turns: 0,
        })
    }

    /// Logs the boot chart and what the machine is made of, once.
    pub fn describe(&mut self) {
        if !core::mem::replace(&mut self.described, true) {
            boot::chart::print();
            self.machine.describe();
            self.describe_networks();
        }
    }

    fn describe_networks(&self) {
        let used = 1 + usize::from(self.instance.is_some());
        if let Some(instance) = &self.instance {
            let (service, instance) = (self.service.at, instance.at);
            log::info!("service network: card {service}, instance network: card {instance}");
        }
        let unused = self.machine.nics.len() - used.min(self.machine.nics.len());
        if unused > 0 {
            log::warn!("{unused} network cards are not used");
        }
    }

    fn nic(&mut self, interface: Interface) -> Option<&mut (dyn Nic + 'static)> {
        let at = match (interface, &self.instance) {
            (Interface::Instance, Some(used)) => used.at,
            _ => self.service.at,
        };
        self.machine.nics.get_mut(at).map(|nic| &mut **nic)
    }

    /// The same, to look at.
    fn card(&self, at: usize) -> Option<&(dyn Nic + 'static)> {
        self.machine.nics.get(at).map(|nic| &**nic)
    }

    fn device_at(&self, at: usize) -> Device {
        let nic = self.card(at);
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

    fn status(&self, interface: Interface, at: usize) -> Option<NicStatus> {
        let nic = self.card(at)?;
        Some(NicStatus {
            interface,
            mac: nic.mac(),
            mtu: nic.mtu(),
            link: nic.link_up(),
            fault: nic.fault().map(|fault| fault.to_string()),
        })
    }

    fn receive_from(&mut self, interface: Interface) -> Option<RxFrame> {
        let packet = self.nic(interface)?.receive()?;
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
            interface,
        })
    }

    /// Whether both cards have room, or have not had any for so long that nobody waits for them.
    fn both_have_room(&mut self) -> bool {
        let nics = &mut self.machine.nics;
        let mut room = |used: &mut Used| {
            if nics.get_mut(used.at).is_none_or(|nic| nic.can_transmit()) {
                used.full_since = None;
                return true;
            }
            let now = clock::now_ns();
            now.saturating_sub(*used.full_since.get_or_insert(now)) >= PATIENCE_NS
        };
        let instance = self.instance.as_mut().is_none_or(&mut room);
        room(&mut self.service) && instance
    }

    /// When a card that has no room is waited for no longer.
    fn patience_ends(&self) -> Option<u64> {
        let used = core::iter::once(&self.service).chain(&self.instance);
        let ends = used.filter_map(|used| Some(used.full_since? + PATIENCE_NS));
        let now = clock::now_ns();
        ends.filter(|end| *end > now).min()
    }

    /// What ends the image: no card is left that clients, or other members, could be reached by.
    fn fault(&self) -> Option<net::DeviceFault> {
        let fault = |at| self.card(at).and_then(|nic| nic.fault());
        let service = fault(self.service.at)?;
        match &self.instance {
            // The loop hands on what it has, and ends.
            Some(used) if fault(used.at).is_none() => None,
            _ => Some(service),
        }
    }
}

/// The name of a counter of the instance network's card.
fn of_instance(name: &'static str) -> &'static str {
    macro_rules! renamed {
        ($($name:literal)+) => {
            [$(concat!("instance_", $name),)+]
        };
    }
    const NAMES: [&str; 16] = renamed!(
        "nic_rx_packets" "nic_rx_bytes" "nic_rx_errors" "nic_rx_no_memory" "nic_rx_copied"
        "nic_rx_coalesced" "nic_rx_missed" "nic_tx_packets" "nic_tx_segmented" "nic_tx_bytes"
        "nic_tx_full" "nic_tx_lost" "nic_tx_dropped" "nic_notifications" "nic_resets"
        "nic_link_changes"
    );
    let mut names = NAMES.into_iter();
    names
        .find(|long| long.strip_prefix("instance_") == Some(name))
        .unwrap_or(name)
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
        self.instance_first = !self.instance_first;
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

    fn choose_nics(&mut self, choice: &NicChoice) -> Result<(), String> {
        let cards: Vec<[u8; 6]> = self.machine.nics.iter().map(|nic| nic.mac()).collect();
        let (service, instance) = choice.among(&cards)?;
        self.service = Used::at(service);
        self.instance = instance.map(Used::at);
        self.machine
            .wait_for(|at| at == service || Some(at) == instance);
        Ok(())
    }

    fn device(&self) -> Device {
        self.device_at(self.service.at)
    }

    fn instance_device(&self) -> Option<Device> {
        Some(self.device_at(self.instance.as_ref()?.at))
    }

    fn nics(&self) -> Vec<NicStatus> {
        let instance = self.instance.as_ref();
        let instance = instance.and_then(|used| self.status(Interface::Instance, used.at));
        let service = self.status(Interface::Service, self.service.at);
        service.into_iter().chain(instance).collect()
    }

    fn insight(&self) -> Option<&'static dyn Insight> {
        Some(&Inside)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let named = |used: &Used| {
            let nic = self.card(used.at);
            nic.map(|nic| nic.statistics()).unwrap_or_default().named()
        };
        let mut all = Vec::from(named(&self.service));
        if let Some(used) = &self.instance {
            all.push(("nic_tx_dropped", self.service.dropped));
            let theirs = named(used)
                .into_iter()
                .chain([("nic_tx_dropped", used.dropped)]);
            all.extend(theirs.map(|(name, count)| (of_instance(name), count)));
        }
        all
    }

    fn receive(&mut self) -> Option<RxFrame> {
        if self.instance.is_none() {
            return self.receive_from(Interface::Service);
        }
        let (first, second) = match self.instance_first {
            true => (Interface::Instance, Interface::Service),
            false => (Interface::Service, Interface::Instance),
        };
        let frame = self.receive_from(first);
        frame.or_else(|| self.receive_from(second))
    }

    fn can_transmit(&mut self) -> bool {
        if self.instance.is_some() {
            return self.both_have_room();
        }
        self.nic(Interface::Service)
            .is_none_or(|nic| nic.can_transmit())
    }

    fn transmit(&mut self, frame: TxFrame) {
        let interface = frame.interface;
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
        // The loop asks for room first, so this is a frame lost only to a broken card, or to one of two that
        // has had none for long.
        let refused = match self.nic(interface) {
            Some(nic) => nic.transmit(packet).is_err(),
            None => false,
        };
        if refused {
            match (interface, &mut self.instance) {
                (Interface::Instance, Some(used)) => used.dropped += 1,
                _ => self.service.dropped += 1,
            }
        }
    }

    fn flush(&mut self) {
        if let Some(nic) = self.nic(Interface::Service) {
            nic.flush();
        }
        if self.instance.is_some()
            && let Some(nic) = self.nic(Interface::Instance)
        {
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
        if let Some(fault) = self.fault() {
            exit(
                ExitCode::NoNic,
                format_args!("the network card is out of service: {fault}"),
            );
        }
        let mut until = until.map(Instant::as_nanos);
        if self.instance.is_some() {
            until = until.into_iter().chain(self.patience_ends()).min();
        }
        self.machine.idle(until);
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
