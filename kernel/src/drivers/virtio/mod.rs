//! virtio devices and how to reach them (virtio 1.2).
//!
//! The registers over PCI are driven by [`pci`] and [`legacy`], those in memory by `virtio-drivers`; all are a
//! [`Transport`] and a [`QueueTransport`], which the rings of [`crate::dma`] ask for.

#[cfg(test)]
pub(crate) mod fake;
pub mod legacy;
pub mod mmio;
pub mod pci;

use virtio_drivers::transport::mmio::MmioTransport;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{PhysAddr, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::dma::QueueTransport;
use crate::pci::{ConfigSpace, Function};

/// How often to look whether a reset is over.
const PATIENCE: u32 = 100_000;

/// A device found on either bus. Who resets it ([`Transport::set_status`]) finds the status 0 afterwards, or it
/// does not answer.
#[derive(Debug)]
pub enum AnyTransport {
    /// Over PCI.
    Pci(pci::PciTransport),
    /// Over PCI, of before virtio 1.0.
    LegacyPci(legacy::LegacyTransport),
    /// In memory.
    Mmio(MmioTransport<'static>),
}

macro_rules! forward {
    ($self:ident, $transport:ident => $call:expr) => {
        match $self {
            Self::Pci($transport) => $call,
            Self::LegacyPci($transport) => $call,
            Self::Mmio($transport) => $call,
        }
    };
}

impl AnyTransport {
    /// Takes over a PCI device, by the interface of virtio 1.0 if it has that. Says too whether it will interrupt.
    pub fn over_pci(
        config: &mut impl ConfigSpace,
        function: &Function,
        vector: Option<(u64, u32)>,
    ) -> core::result::Result<(Self, bool), pci::BindError> {
        match pci::PciTransport::bind(config, function, vector) {
            Ok(transport) => {
                let interrupts = transport.interrupts();
                Ok((Self::Pci(transport), interrupts))
            }
            // Later ids never had the older one.
            Err(pci::BindError::NoInterface) if function.device < pci::FIRST_MODERN => {
                let transport = legacy::LegacyTransport::bind(config, function, vector)?;
                let interrupts = transport.interrupts();
                Ok((Self::LegacyPci(transport), interrupts))
            }
            Err(error) => Err(error),
        }
    }
}

impl QueueTransport for AnyTransport {
    fn has_fixed_queues(&self) -> bool {
        matches!(self, Self::LegacyPci(_))
    }
}

impl Transport for AnyTransport {
    fn device_type(&self) -> DeviceType {
        forward!(self, t => t.device_type())
    }
    fn read_device_features(&mut self) -> u64 {
        forward!(self, t => t.read_device_features())
    }
    fn write_driver_features(&mut self, features: u64) {
        forward!(self, t => t.write_driver_features(features))
    }
    fn max_queue_size(&mut self, queue: u16) -> u32 {
        forward!(self, t => t.max_queue_size(queue))
    }
    fn notify(&mut self, queue: u16) {
        forward!(self, t => t.notify(queue))
    }
    fn get_status(&self) -> DeviceStatus {
        forward!(self, t => t.get_status())
    }
    fn set_status(&mut self, status: DeviceStatus) {
        forward!(self, t => t.set_status(status));
        // Section 2.4.2: a reset is over when the status reads 0. It takes no time in a virtual machine, and a
        // broken device must not hang the boot.
        if status.is_empty() {
            let _ = (0..PATIENCE).any(|_| self.get_status().is_empty());
        }
    }
    fn set_guest_page_size(&mut self, size: u32) {
        forward!(self, t => t.set_guest_page_size(size))
    }
    fn requires_legacy_layout(&self) -> bool {
        forward!(self, t => t.requires_legacy_layout())
    }
    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver_area: PhysAddr,
        device_area: PhysAddr,
    ) {
        forward!(self, t => t.queue_set(queue, size, descriptors, driver_area, device_area))
    }
    fn queue_unset(&mut self, queue: u16) {
        forward!(self, t => t.queue_unset(queue))
    }
    fn queue_used(&mut self, queue: u16) -> bool {
        forward!(self, t => t.queue_used(queue))
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        forward!(self, t => t.ack_interrupt())
    }
    fn read_config_generation(&self) -> u32 {
        forward!(self, t => t.read_config_generation())
    }
    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        forward!(self, t => t.read_config_space(offset))
    }
    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> Result<()> {
        forward!(self, t => t.write_config_space(offset, value))
    }
}
