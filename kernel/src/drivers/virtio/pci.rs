//! virtio over PCI (virtio 1.2, section 4.1), modern interface, which transitional devices have too.
//!
//! `virtio-drivers` has such a transport as well. This one remembers each queue's doorbell (a
//! notification is one write instead of three accesses, each of which leaves the virtual machine),
//! sets up MSI-X, and checks every window a device names.

use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Error, PhysAddr, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::mmio::Mmio;
use crate::pci::msix::Layout;
use crate::pci::{ConfigSpace, Function};

/// The PCI vendor id of virtio devices.
pub const VENDOR: u16 = 0x1af4;

/// The id of device type 0 since virtio 1.0 (section 4.1.2.1); those before are of devices that there were already.
pub const FIRST_MODERN: u16 = 0x1040;

const VENDOR_CAPABILITY: u8 = 0x09;
/// Queues beyond this are not used by any driver here.
const QUEUES: usize = 4;
const NO_VECTOR: u16 = 0xffff;

/// Offsets in the common configuration structure (section 4.1.4.3).
mod common {
    pub const DEVICE_FEATURE_SELECT: usize = 0x00;
    pub const DEVICE_FEATURE: usize = 0x04;
    pub const DRIVER_FEATURE_SELECT: usize = 0x08;
    pub const DRIVER_FEATURE: usize = 0x0c;
    pub const CONFIG_VECTOR: usize = 0x10;
    pub const STATUS: usize = 0x14;
    pub const GENERATION: usize = 0x15;
    pub const QUEUE_SELECT: usize = 0x16;
    pub const QUEUE_SIZE: usize = 0x18;
    pub const QUEUE_VECTOR: usize = 0x1a;
    pub const QUEUE_ENABLE: usize = 0x1c;
    pub const QUEUE_NOTIFY_OFFSET: usize = 0x1e;
    pub const QUEUE_DESCRIPTORS: usize = 0x20;
    pub const QUEUE_DRIVER: usize = 0x28;
    pub const QUEUE_DEVICE: usize = 0x30;
    pub const LEN: usize = 0x38;
}

/// What kind of virtio device a PCI function is.
pub fn device_type(function: &Function) -> Option<DeviceType> {
    if function.vendor != VENDOR {
        return None;
    }
    match function.device {
        0x1000 => Some(DeviceType::Network),
        0x1005 => Some(DeviceType::EntropySource),
        id @ FIRST_MODERN..0x1080 => DeviceType::try_from(id - FIRST_MODERN).ok(),
        _ => None,
    }
}

/// Why a function could not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BindError {
    /// Not a virtio device that is known here.
    NotVirtio,
    /// What the interface consists of is missing or lies outside its window.
    NoInterface,
}

impl core::fmt::Display for BindError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NotVirtio => "not a virtio device known here",
            Self::NoInterface => "neither the interface of virtio 1.0 nor the one before it",
        })
    }
}

impl core::error::Error for BindError {}

/// A device's registers.
#[derive(Debug)]
pub struct PciTransport {
    kind: DeviceType,
    common: Mmio,
    notify: Mmio,
    notify_multiplier: usize,
    status: Mmio,
    device: Option<Mmio>,
    doorbells: [Option<Mmio>; QUEUES],
    vectors: bool,
}

impl PciTransport {
    /// Takes over a device: enables it, maps its structures and sends its interrupts to `vector`
    /// (message address and data), if it has MSI-X and there is one.
    pub fn bind(
        config: &mut impl ConfigSpace,
        function: &Function,
        vector: Option<(u64, u32)>,
    ) -> core::result::Result<Self, BindError> {
        const COMMON: u8 = 1;
        const NOTIFY: u8 = 2;
        const ISR: u8 = 3;
        const DEVICE: u8 = 4;
        let kind = device_type(function).ok_or(BindError::NotVirtio)?;
        function.enable(config);
        let find = |config: &_, kind| structure(config, function, kind);
        let modern = |found: Option<_>| found.ok_or(BindError::NoInterface);
        let (common, _) = modern(find(config, COMMON))?;
        let (notify, capability) = modern(find(config, NOTIFY))?;
        let (status, _) = modern(find(config, ISR))?;
        if common.len() < common::LEN || status.is_empty() {
            return Err(BindError::NoInterface);
        }
        let mut transport = Self {
            kind,
            common,
            notify,
            notify_multiplier: config.read32(function.address, capability + 16) as usize,
            status,
            device: find(config, DEVICE).map(|(window, _)| window),
            doorbells: [None; QUEUES],
            vectors: false,
        };
        if let (Some(layout), Some(vector)) = (Layout::find(config, function), vector) {
            transport.vectors = layout.enable(config, function, vector);
        }
        Ok(transport)
    }

    /// Whether the device interrupts.
    pub fn interrupts(&self) -> bool {
        self.vectors
    }

    fn select(&self, queue: u16) {
        self.common.write16(common::QUEUE_SELECT, queue);
    }

    fn write_address(&self, at: usize, address: PhysAddr) {
        // Section 4.1.3.1: 64-bit fields as two 32-bit ones.
        self.common.write32(at, address as u32);
        self.common.write32(at + 4, (address >> 32) as u32);
    }
}

/// The structure of this kind (section 4.1.4): its window, and where its capability is.
fn structure(config: &impl ConfigSpace, function: &Function, kind: u8) -> Option<(Mmio, u16)> {
    let list = function.capabilities(config);
    list.iter().find_map(|capability| {
        let word = |at| config.read32(function.address, capability.offset + at);
        if capability.id != VENDOR_CAPABILITY || (word(0) >> 24) as u8 != kind {
            return None;
        }
        let bar = function.memory_bar(config, word(4) as u8)?;
        let base = bar.checked_add(u64::from(word(8)))?;
        let window = Mmio::map(base, u64::from(word(12)))?;
        Some((window, capability.offset))
    })
}

impl Transport for PciTransport {
    fn device_type(&self) -> DeviceType {
        self.kind
    }

    fn read_device_features(&mut self) -> u64 {
        let half = |select| {
            self.common.write32(common::DEVICE_FEATURE_SELECT, select);
            u64::from(self.common.read32(common::DEVICE_FEATURE))
        };
        half(0) | half(1) << 32
    }

    fn write_driver_features(&mut self, features: u64) {
        for (select, half) in [features as u32, (features >> 32) as u32]
            .into_iter()
            .enumerate()
        {
            self.common
                .write32(common::DRIVER_FEATURE_SELECT, select as u32);
            self.common.write32(common::DRIVER_FEATURE, half);
        }
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.select(queue);
        u32::from(self.common.read16(common::QUEUE_SIZE))
    }

    fn notify(&mut self, queue: u16) {
        if let Some(Some(doorbell)) = self.doorbells.get(usize::from(queue)) {
            doorbell.write16(0, queue);
        }
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_truncate(u32::from(self.common.read8(common::STATUS)))
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.common.write8(common::STATUS, status.bits() as u8);
    }

    fn set_guest_page_size(&mut self, _size: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver_area: PhysAddr,
        device_area: PhysAddr,
    ) {
        self.select(queue);
        self.common.write16(common::QUEUE_SIZE, size as u16);
        self.write_address(common::QUEUE_DESCRIPTORS, descriptors);
        self.write_address(common::QUEUE_DRIVER, driver_area);
        self.write_address(common::QUEUE_DEVICE, device_area);
        self.common.write16(common::CONFIG_VECTOR, NO_VECTOR);
        let vector = if self.vectors { 0 } else { NO_VECTOR };
        self.common.write16(common::QUEUE_VECTOR, vector);
        let offset = usize::from(self.common.read16(common::QUEUE_NOTIFY_OFFSET));
        if let Some(doorbell) = self.doorbells.get_mut(usize::from(queue)) {
            let at = offset.saturating_mul(self.notify_multiplier);
            *doorbell = self.notify.part(at, 2).filter(|_| at.is_multiple_of(2));
        }
        self.common.write16(common::QUEUE_ENABLE, 1);
    }

    fn queue_unset(&mut self, _queue: u16) {} // only a reset does that

    fn queue_used(&mut self, queue: u16) -> bool {
        self.select(queue);
        self.common.read16(common::QUEUE_ENABLE) == 1
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::from_bits_truncate(u32::from(self.status.read8(0)))
    }

    fn read_config_generation(&self) -> u32 {
        u32::from(self.common.read8(common::GENERATION))
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        let window = self.device.ok_or(Error::ConfigSpaceMissing)?;
        let window = window
            .part(offset, size_of::<T>())
            .ok_or(Error::ConfigSpaceTooSmall)?;
        let mut value = T::new_zeroed();
        for (at, byte) in value.as_mut_bytes().iter_mut().enumerate() {
            *byte = window.read8(at);
        }
        Ok(value)
    }

    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> Result<()> {
        let window = self.device.ok_or(Error::ConfigSpaceMissing)?;
        let window = window
            .part(offset, size_of::<T>())
            .ok_or(Error::ConfigSpaceTooSmall)?;
        for (at, &byte) in value.as_bytes().iter().enumerate() {
            window.write8(at, byte);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::tests::{Fake, function};

    #[test]
    fn transitional_and_modern_ids_name_the_same_device() {
        let mut fake = Fake::default();
        let transitional = function(&mut fake, 0, 1, 0x1000_1af4);
        let modern = function(&mut fake, 0, 2, 0x1041_1af4);
        assert_eq!(device_type(&transitional), Some(DeviceType::Network));
        assert_eq!(device_type(&modern), Some(DeviceType::Network));
        let other = function(&mut fake, 0, 3, 0x100e_8086);
        assert_eq!(device_type(&other), None);
    }

    #[test]
    fn a_device_without_the_modern_structures_is_refused() {
        let mut fake = Fake::default();
        let legacy = function(&mut fake, 0, 1, 0x1000_1af4);
        let result = PciTransport::bind(&mut fake, &legacy, None);
        assert_eq!(result.err(), Some(BindError::NoInterface));
    }

    #[test]
    fn a_doorbell_outside_its_window_is_never_rung() {
        let mut transport = PciTransport {
            kind: DeviceType::Network,
            common: Mmio::fake(8),
            notify: Mmio::fake(1),
            notify_multiplier: 4,
            status: Mmio::fake(1),
            device: None,
            doorbells: [None; QUEUES],
            vectors: true,
        };
        transport.common.write16(common::QUEUE_NOTIFY_OFFSET, 2);
        transport.queue_set(0, 8, 0x1000, 0x2000, 0x3000);
        transport.notify(0);
        assert_eq!(transport.doorbells[0].map(|d| d.len()), None);
        transport.common.write16(common::QUEUE_NOTIFY_OFFSET, 1);
        transport.queue_set(1, 8, 0x1000, 0x2000, 0x3000);
        transport.notify(1);
        transport.notify(9);
        assert_eq!(transport.notify.read16(4), 1);
        assert_eq!(transport.common.read16(common::QUEUE_VECTOR), 0);
        assert_eq!(transport.common.read32(common::QUEUE_DEVICE), 0x3000);
    }

    #[test]
    fn configuration_beyond_the_window_is_an_error() {
        let transport = PciTransport {
            kind: DeviceType::Network,
            common: Mmio::fake(8),
            notify: Mmio::fake(1),
            notify_multiplier: 4,
            status: Mmio::fake(1),
            device: Some(Mmio::fake(1)),
            doorbells: [None; QUEUES],
            vectors: false,
        };
        assert!(transport.read_config_space::<[u8; 6]>(0).is_ok());
        let beyond = transport.read_config_space::<[u8; 6]>(4);
        assert_eq!(beyond, Err(Error::ConfigSpaceTooSmall));
    }
}
