//! Cards on PCI that are not virtio's: which driver they get, and how they interrupt.
//!
//! A card that can send messages does. Another one has a line, which its caller finds: it can have
//! the card interrupt. A card without either is polled.

use alloc::boxed::Box;

use super::Nic;
use super::card::{Card, Chip};
use super::intel::{self, Intel};
use super::rtl8139::{self, Rtl8139};
use super::vmxnet3::{self, Vmxnet3};
use crate::arch::x86_64::cpu;
use crate::dma::DeviceFault;
use crate::mmio::{Mmio, Quiet};
use crate::pci::{ConfigSpace, Function, msi, msix};

const INTEL: u16 = 0x8086;

/// Which driver.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Intel's gigabit cards.
    Intel(intel::Model),
    /// Realtek's RTL8139C+.
    Rtl8139,
    /// VMware's vmxnet3.
    Vmxnet3,
}

/// Why a card could not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BindError {
    /// Its registers are nowhere.
    NoRegisters,
    /// It does not do what it should.
    Device(DeviceFault),
}

impl core::fmt::Display for BindError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoRegisters => f.write_str("no window with its registers"),
            Self::Device(fault) => fault.fmt(f),
        }
    }
}

impl core::error::Error for BindError {}

/// Which driver the function needs, if there is one.
pub fn kind(function: &Function) -> Option<Kind> {
    match (function.vendor, function.device) {
        (INTEL, device) => intel::model(device).map(Kind::Intel),
        rtl8139::ID => Some(Kind::Rtl8139),
        vmxnet3::ID => Some(Kind::Vmxnet3),
        _ => None,
    }
}

/// How a card may interrupt.
pub struct Ways<'a> {
    /// Reserves a message: its address and data.
    pub message: &'a mut dyn FnMut() -> Option<(u64, u32)>,
    /// Connects the line of a card; says whether that worked.
    pub line: &'a mut dyn FnMut(Line<'_>) -> bool,
}

/// A line that is to be connected.
pub struct Line<'a> {
    /// Its number in the old PC, if firmware says.
    pub number: Option<u8>,
    /// How the interrupt handler makes the card let go of it.
    pub quiet: Quiet,
    /// Has the card interrupt, or lets it rest again.
    pub provoke: &'a mut dyn FnMut(bool),
}

/// Takes over the card, with rings of `ring` descriptors or as near to that as it can have.
pub fn bind(
    config: &mut impl ConfigSpace,
    function: &Function,
    kind: Kind,
    ring: u16,
    ways: Ways<'_>,
    make_mac: impl FnOnce() -> [u8; 6],
) -> Result<Box<dyn Nic>, BindError> {
    function.enable(config);
    let (mut chip, quiet): (Box<dyn Chip>, Quiet) = match kind {
        Kind::Intel(mut model) => {
            let registers = window(config, function, 0, intel::WINDOW)?;
            if function.subsystem(config) == intel::QEMU_BOARD {
                model = model.in_qemu();
            }
            let (at, value) = intel::QUIET;
            let chip = Box::new(Intel::new(registers, model, ring));
            (chip, Quiet::Write32(registers, at, value))
        }
        Kind::Rtl8139 => {
            let registers = window(config, function, 1, rtl8139::WINDOW)?;
            let (at, value) = rtl8139::QUIET;
            let chip = Box::new(Rtl8139::new(registers, ring));
            (chip, Quiet::Write16(registers, at, value))
        }
        Kind::Vmxnet3 => {
            let [first, second] = vmxnet3::WINDOWS;
            let passthrough = window(config, function, 0, first)?;
            let device = window(config, function, 1, second)?;
            let cuts = cpu::hypervisor() == cpu::Hypervisor::Vmware;
            let chip = Vmxnet3::new(passthrough, device, ring, cuts).map_err(BindError::Device)?;
            (Box::new(chip), Quiet::Read32(device, vmxnet3::QUIET))
        }
    };
    chip.stop().map_err(BindError::Device)?;
    let table = match kind {
        // It has its vectors in order; Intel's cards want to be told which event has which.
        Kind::Vmxnet3 => msix::Layout::find(config, function),
        _ => None,
    };
    let messages = match table {
        Some(table) => {
            (ways.message)().is_some_and(|message| table.enable(config, function, message))
        }
        None => msi::enable(config, function, ways.message),
    };
    let interrupts = messages || {
        function.set_line(config, true);
        let found = (ways.line)(Line {
            number: function.line(config),
            quiet,
            provoke: &mut |on| chip.provoke(on),
        });
        function.set_line(config, found);
        found
    };
    if !interrupts {
        log::warn!(
            "{}: no interrupt to be had, the card is polled",
            function.address
        );
    }
    let card = Card::bind(chip, interrupts, make_mac).map_err(BindError::Device)?;
    Ok(Box::new(card))
}

fn window(
    config: &impl ConfigSpace,
    function: &Function,
    bar: u8,
    len: u64,
) -> Result<Mmio, BindError> {
    let base = function.memory_bar(config, bar);
    let window = base.and_then(|base| Mmio::map(base, len));
    window.ok_or(BindError::NoRegisters)
}
