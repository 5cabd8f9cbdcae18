//! The order of events at boot.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Display;

use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::Transport;
use virtio_drivers::transport::mmio::MmioTransport;

use super::chart::mark;
use super::handover::{Handover, HandoverError};
use super::lines;
use super::timer::Calibration;
use super::{multiboot2, pvh};
use crate::acpi::dsdt::{self, EventDevice};
use crate::acpi::tables::{self, Interrupts, Tables, Vendor};
use crate::acpi::{Physical, power};
use crate::alarm::{self, Choice};
use crate::arch::x86_64::apic::{LOCAL_APIC, Trigger};
use crate::arch::x86_64::{cpu, interrupts, tables as descriptor_tables};
use crate::drivers::net::pci::Ways;
use crate::drivers::net::virtio::VirtioNet;
use crate::drivers::net::{self, Nic};
use crate::drivers::rng::Source;
use crate::drivers::virtio::mmio::{self, Place};
use crate::drivers::virtio::{AnyTransport, pci as virtio_pci};
use crate::exit::{ExitCode, exit};
use crate::hpet::Hpet;
use crate::lookout::Lookout;
use crate::machine::Stock;
use crate::mmio::Mmio;
use crate::past::Past;
use crate::{Machine, clock, console, entropy, fw_cfg, mm, pci};

/// The configuration file the host may supply.
const CONFIG_FILE: &str = "opt/godwit/config";
/// Where windows of PCI devices go that firmware has not placed: in the hole below 4 GiB, behind what QEMU's machines
/// have there, and in the ports that their bridges leave to devices. Firmware that places any places all.
const PCI_SPACE: pci::Space = pci::Space {
    memory: 0xd000_0000..0xe000_0000,
    ports: 0xc000..0xd000,
};
const MAX_VIRTIO: usize = 24;

unsafe extern "Rust" {
    /// Defined by [`crate::entry!`] in the image.
    safe fn godwit_main(machine: Machine) -> !;
}

/// Firmware's tables in physical memory, once page tables are ours.
struct Firmware;

impl Physical for Firmware {
    fn bytes(&self, base: u64, len: usize) -> Option<&[u8]> {
        mm::physical_bytes(base, len)
    }
}

/// Memory as the boot page tables show it: everything below 4 GiB.
struct Unprotected;

impl Physical for Unprotected {
    fn bytes(&self, base: u64, len: usize) -> Option<&[u8]> {
        let end = base.checked_add(len as u64)?;
        if base == 0 || end > 1 << 32 {
            return None;
        }
        // SAFETY: mapped by the boot tables, and nobody writes there: the heap has no memory yet.
        Some(unsafe { core::slice::from_raw_parts(base as *const u8, len) })
    }
}

/// Called by the first instructions, on the boot stack: with the address of what the loader left, the
/// time of entry, and the number a Multiboot2 loader says, or 0 for PVH.
pub(crate) extern "C" fn from_assembly(left: u64, entry_tsc: u64, loader: u64) -> ! {
    cpu::protect();
    clock::set_entry(entry_tsc);
    console::init();
    descriptor_tables::load();
    mark("entry");
    let handover = match loader as u32 {
        0 => pvh::read(&Unprotected, left),
        magic => multiboot2::read(&Unprotected, magic, left),
    };
    let machine = start(handover);
    cpu::enable_interrupts();
    godwit_main(machine)
}

fn start(handover: Result<Handover, HandoverError>) -> Machine {
    let info = match handover {
        Ok(info) => info,
        Err(error) => exit(ExitCode::BootFailed, error),
    };
    set_log_level(&info.command_line);
    let ram = info.memory.total();
    if let Err(error) = mm::install(info.memory.clone(), info.keep()) {
        exit(ExitCode::BootFailed, format_args!("page tables: {error:?}"));
    }
    mark("memory");
    if let Some(screen) = info.screen {
        if !console::screen::start(screen) {
            log::warn!("the screen's memory is out of reach");
        }
        mark("screen");
    }

    // ACPI may lie in memory that is about to become heap: read all of it before.
    let mut acpi = Tables::read(&Firmware, info.rsdp).unwrap_or_default();
    let dsdt = acpi
        .fixed
        .and_then(|fixed| tables::table(&Firmware, fixed.dsdt))
        .unwrap_or_default();
    let sleep_type = dsdt::sleep_type_s5(dsdt);
    let vendor = acpi.fixed.and_then(|fixed| fixed.vendor);
    let events = dsdt::event_device(dsdt, vendor == Some(Vendor::CloudHypervisor));
    acpi.ecam = acpi.ecam.or_else(|| dsdt::configuration_space(dsdt));
    if vendor.is_some() {
        acpi.generation = acpi.generation.or_else(|| dsdt::generation(dsdt));
    }
    let virtio: heapless::Vec<Place, MAX_VIRTIO> = dsdt::virtio_mmio(dsdt)
        .map(Place::from)
        .take(MAX_VIRTIO)
        .collect();
    mark("acpi");
    let heap = mm::hand_over();
    mark("heap");

    let controllers = acpi.interrupts.clone().unwrap_or_default();
    let apic = init_interrupts(&controllers);
    let wanted = timer_word(&info.command_line);
    let hpet = acpi.hpet.and_then(|at| Hpet::start(Mmio::map(at, 0x400)?));
    let acpi_timer = acpi.fixed.map_or(0, |fixed| fixed.timer);
    let calibration = Calibration::start(apic, acpi_timer, hpet, wanted);
    mark("apic");
    init_power(&acpi, &controllers, sleep_type, events);
    if let Some(seed) = entropy::processor_seed() {
        entropy::add_seed(seed);
    }
    mark("power");
    let module = info.module_text(&Firmware);
    let config = module.into_iter().chain(fw_cfg::read(CONFIG_FILE));
    let config: Vec<String> = config.collect();
    info.keep().for_each(mm::wipe);
    mark("config");

    let mut devices = Devices {
        nics: Vec::new(),
        refused: Vec::new(),
        ring: ring_size(&info.command_line, &config),
        sources: Vec::new(),
        answered: 0,
    };
    devices.scan_pci(&acpi, &controllers);
    mark("pci");
    devices.scan_mmio(&info.command_line, virtio, &controllers);
    mark("mmio");
    let (source, apic_hertz) = calibration.finish(apic);
    let choice = Choice {
        wanted,
        apic_hertz,
        hpet,
    };
    let alarm = alarm::choose(choice, &controllers);
    let generation = acpi.generation.and_then(|at| Mmio::map(at, 16));
    mark("clock");
    devices.take_answers();
    mark("entropy");

    let machine = Machine {
        command_line: String::from(info.command_line.as_str()),
        config,
        nics: devices.nics,
        refused: devices.refused,
        sources: devices.sources,
        stock: Stock {
            ram,
            heap: heap.total,
            clock: source,
            alarm,
            reclaim_at: 0,
        },
        unused: Vec::new(),
        hypervisor: cpu::hypervisor(),
        watch_at_ns: 0,
        watched: false,
        past: Past::new(generation),
        lookout: Lookout::default(),
        compare_at_ns: 0,
    };
    if !entropy::ready() {
        machine.describe();
        exit(ExitCode::NoEntropy, entropy::NoEntropy);
    }
    machine
}

/// `timer=tsc|apic|acpi|hpet|pit` on the command line: for machines whose better ones are wrong.
fn timer_word(command_line: &str) -> Option<&str> {
    let mut words = command_line.split_ascii_whitespace();
    words.find_map(|word| word.strip_prefix("timer="))
}

/// `ring=8` in the configuration, which is checked later: the cards cannot wait for that.
fn ring_size(command_line: &str, config: &[String]) -> u16 {
    let sources = core::iter::once(command_line).chain(config.iter().map(String::as_str));
    let words = sources.flat_map(str::split_ascii_whitespace);
    let mut sizes = words.filter_map(|word| word.strip_prefix("ring=")?.parse().ok());
    let fits = |size: &u16| net::RINGS.contains(size) && size.is_power_of_two();
    sizes.rfind(fits).unwrap_or(*net::RINGS.end())
}

/// `log=debug` on the command line counts from here on; the image's configuration may change it.
fn set_log_level(command_line: &str) {
    let level = command_line
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix("log=")?.parse().ok());
    if let Some(level) = level {
        log::set_max_level(level);
    }
}

fn init_interrupts(controllers: &Interrupts) -> &'static crate::arch::x86_64::apic::LocalApic {
    let address = match controllers.local_apic {
        0 => LOCAL_APIC,
        address => address,
    };
    let Some(local) = Mmio::map(address, 0x1000) else {
        exit(ExitCode::BootFailed, "no local APIC");
    };
    let mut io: heapless::Vec<(u64, u32), 4> = controllers
        .io_apics
        .iter()
        .map(|apic| (apic.address, apic.base))
        .collect();
    if io.is_empty() {
        // No ACPI: where the architecture's first I/O APIC has always been.
        let _ = io.push((0xfec0_0000, 0));
    }
    interrupts::init(
        local,
        io.iter()
            .filter_map(|&(address, base)| Some((Mmio::map(address, 0x20)?, base))),
    );
    match interrupts::local_apic() {
        Some(apic) => apic,
        None => exit(ExitCode::BootFailed, "no local APIC"),
    }
}

fn init_power(
    acpi: &Tables,
    controllers: &Interrupts,
    sleep_type: Option<u8>,
    events: Option<EventDevice>,
) {
    let Some(fixed) = acpi.fixed else {
        log::warn!("no ACPI: no power button, and a reset instead of switching off");
        return;
    };
    let (button, switch) = power::init(&fixed, sleep_type, events);
    let routed = match events {
        Some(device) => interrupts::route_power(
            device.gsi,
            Trigger {
                active_low: device.active_low,
                level: device.level,
            },
        ),
        None => {
            let (gsi, trigger) = controllers.isa(fixed.sci as u8);
            interrupts::route_power(
                gsi,
                Trigger {
                    level: true,
                    ..trigger
                },
            )
        }
    };
    if !(button && routed) {
        log::warn!("the power button is out of reach");
    }
    if !switch {
        log::warn!("this machine cannot be switched off by ACPI");
    }
}

struct Devices {
    nics: Vec<Box<dyn Nic>>,
    /// Network cards that cannot be used, with the reasons.
    refused: Vec<String>,
    /// Descriptors in each ring of a card.
    ring: u16,
    /// Sources of randomness. A host takes as long to answer as it takes to set a card up: so they are
    /// asked first, and their answers taken last.
    sources: Vec<Source<AnyTransport>>,
    /// How many of them have answered.
    answered: usize,
}

impl Devices {
    fn scan_pci(&mut self, acpi: &Tables, controllers: &Interrupts) {
        // A machine with ACPI but without MCFG may have PCI behind ports; microvm has none at all,
        // and its FADT says hardware-reduced.
        let reduced = acpi.fixed.is_some_and(|fixed| fixed.hardware_reduced);
        if acpi.ecam.is_none() && (reduced || acpi.fixed.is_none()) {
            return;
        }
        let mut config = pci::access(acpi.ecam);
        let mut functions: heapless::Vec<pci::Function, 64> = heapless::Vec::new();
        pci::enumerate(&config, |function| {
            log::debug!(
                "pci {} {:04x}:{:04x} class {:04x}",
                function.address,
                function.vendor,
                function.device,
                function.class
            );
            let _ = functions.push(function);
        });
        let mut space = PCI_SPACE;
        // What nobody drives must not keep a line busy that somebody may need.
        let cards = functions.iter().filter_map(net::pci::kind).count();
        for function in functions.iter().filter(|f| cards > 0 && !f.is_bridge()) {
            function.set_line(&mut config, false);
        }
        let is_source =
            |f: &&pci::Function| virtio_pci::device_type(f) == Some(DeviceType::EntropySource);
        let sources = functions.iter().filter(is_source);
        for function in sources.chain(functions.iter().filter(|f| !is_source(f))) {
            if let Some(kind) = net::pci::kind(function) {
                if !function.place_windows(&mut config, &mut space) {
                    log::error!("{}: no room for its registers", function.address);
                }
                let ways = Ways {
                    message: &mut interrupts::message_vector,
                    line: &mut |line| lines::find(controllers, line),
                };
                match net::pci::bind(&mut config, function, kind, self.ring, ways, random_mac) {
                    Ok(card) => self.nics.push(card),
                    Err(error) => self.refuse(log::Level::Error, &function.address, &error),
                }
                continue;
            }
            match virtio_pci::device_type(function) {
                Some(kind @ (DeviceType::Network | DeviceType::EntropySource)) => {
                    let vector = (kind == DeviceType::Network)
                        .then(interrupts::message_vector)
                        .flatten();
                    if !function.place_windows(&mut config, &mut space) {
                        log::error!("{}: no room for its registers", function.address);
                    }
                    match AnyTransport::over_pci(&mut config, function, vector) {
                        Ok((transport, interrupts)) => {
                            self.bind(transport, interrupts, &function.address);
                        }
                        Err(error) if kind == DeviceType::Network => {
                            self.refuse(log::Level::Error, &function.address, &error);
                        }
                        Err(error) => log::error!("{}: virtio-rng: {error}", function.address),
                    }
                }
                _ if function.class == 0x0200 => {
                    let pci::Function { vendor, device, .. } = function;
                    let why = format_args!("no driver for {vendor:04x}:{device:04x}");
                    self.refuse(log::Level::Warn, &function.address, &why);
                }
                _ => {}
            }
        }
    }

    fn scan_mmio(
        &mut self,
        command_line: &str,
        mut places: heapless::Vec<Place, MAX_VIRTIO>,
        controllers: &Interrupts,
    ) {
        if places.is_empty() {
            places.extend(mmio::from_command_line(command_line).take(MAX_VIRTIO));
        }
        if places.is_empty() && self.nics.is_empty() {
            // microvm's rule: the second I/O APIC if there is one, else the end of the first.
            let second = controllers.io_apics.iter().map(|apic| apic.base).max();
            let first = second.filter(|&base| base > 0).unwrap_or(16);
            let count = if first == 16 { 8 } else { 24 };
            places.extend(mmio::from_window(first..first + count).take(MAX_VIRTIO));
        }
        let mut cards: heapless::Vec<(Place, Mmio, MmioTransport), MAX_VIRTIO> =
            heapless::Vec::new();
        for place in places {
            match open_mmio(&place) {
                Some((registers, transport)) if is_card(&transport) => {
                    let _ = cards.push((place, registers, transport));
                }
                Some((_, transport)) => {
                    let name = format_args!("{:#x}", place.base);
                    self.bind(AnyTransport::Mmio(transport), false, &name);
                }
                None => {}
            }
        }
        for (place, registers, transport) in cards {
            let interrupts = interrupts::route_virtio_mmio(place.gsi, place.trigger, registers);
            let name = format_args!("{:#x}", place.base);
            self.bind(AnyTransport::Mmio(transport), interrupts, &name);
        }
    }

    /// Waits for the sources of randomness.
    fn take_answers(&mut self) {
        for source in self.sources.iter_mut().skip(self.answered) {
            entropy::add_answer(source.answer());
        }
        self.answered = self.sources.len();
    }

    /// Keeps in mind why a card cannot be used: if no other one can, the verdict says so.
    fn refuse(&mut self, level: log::Level, name: &dyn Display, why: &dyn Display) {
        log::log!(level, "{name}: network card not usable: {why}");
        self.refused.push(format!("{name}: {why}"));
    }

    fn bind(&mut self, transport: AnyTransport, interrupts: bool, name: &dyn Display) {
        match transport.device_type() {
            DeviceType::Network => {
                match VirtioNet::bind(transport, self.ring, interrupts, random_mac) {
                    Ok(card) => {
                        if !interrupts {
                            log::warn!("{name}: no interrupt to be had, the card is polled");
                        }
                        self.nics.push(Box::new(card));
                    }
                    Err(error) => self.refuse(log::Level::Error, name, &error),
                }
            }
            DeviceType::EntropySource => match Source::bind(transport) {
                Ok(source) => {
                    self.sources.push(source);
                    if !entropy::ready() {
                        self.take_answers(); // a card may need an address at random
                    }
                }
                Err(fault) => log::warn!("{name}: virtio-rng: {fault}"),
            },
            other => log::debug!("{name}: virtio device {other:?} not used"),
        }
    }
}

/// What is at a place for virtio devices.
fn open_mmio(place: &Place) -> Option<(Mmio, MmioTransport<'static>)> {
    let Some(registers) = Mmio::map(place.base, place.len) else {
        log::error!(
            "virtio device at {:#x}: not a place for registers",
            place.base
        );
        return None;
    };
    if !mmio::occupied(&registers) {
        return None;
    }
    match registers.into_virtio() {
        Ok(transport) => Some((registers, transport)),
        Err(error) => {
            log::error!("virtio device at {:#x}: {error}", place.base);
            None
        }
    }
}

fn is_card(transport: &impl Transport) -> bool {
    transport.device_type() == DeviceType::Network
}

/// A locally administered address for a card that has none.
fn random_mac() -> [u8; 6] {
    let mut mac = [0; 6];
    let _ = entropy::fill(&mut mac);
    let [first, ..] = &mut mac;
    *first = *first & !1 | 2;
    mac
}
