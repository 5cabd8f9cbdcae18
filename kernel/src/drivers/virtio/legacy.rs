//! virtio over PCI as it was before virtio 1.0 (virtio 1.2, section 4.1.4.10): bhyve, older VirtualBox and old
//! clouds have nothing else.
//!
//! A few registers in a window of ports. A queue has as many descriptors as the device says, and
//! lies at a page whose number is written.

use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Error, PhysAddr, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::pci::{BindError, device_type};
use crate::arch::x86_64::port::Ports;
use crate::dma::PAGE;
use crate::mmio::Registers;
use crate::pci::msix::Layout;
use crate::pci::{ConfigSpace, Function};

/// Offsets in the window.
mod register {
    pub const DEVICE_FEATURES: usize = 0x00;
    pub const DRIVER_FEATURES: usize = 0x04;
    pub const QUEUE_ADDRESS: usize = 0x08;
    pub const QUEUE_SIZE: usize = 0x0c;
    pub const QUEUE_SELECT: usize = 0x0e;
    pub const QUEUE_NOTIFY: usize = 0x10;
    pub const STATUS: usize = 0x12;
    pub const INTERRUPT_STATUS: usize = 0x13;
    /// What is of the device's kind, or, where MSI-X is on, the vectors.
    pub const REST: usize = 0x14;
    pub const CONFIG_VECTOR: usize = 0x14;
    pub const QUEUE_VECTOR: usize = 0x16;
    pub const REST_WITH_VECTORS: usize = 0x18;
}

/// The window, as far as anything in it is used: the last is a network card's MTU.
const WINDOW: usize = register::REST_WITH_VECTORS + 12;
const NO_VECTOR: u16 = 0xffff;

/// A device's registers.
#[derive(Debug)]
pub struct LegacyTransport<R = Ports> {
    kind: DeviceType,
    registers: R,
    /// The length of the window, in bytes.
    len: usize,
    vectors: bool,
}

impl LegacyTransport {
    /// Takes over a device: enables it and sends its interrupts to `vector` (message address and data), if it
    /// has MSI-X and there is one.
    pub fn bind(
        config: &mut impl ConfigSpace,
        function: &Function,
        vector: Option<(u64, u32)>,
    ) -> core::result::Result<Self, BindError> {
        let kind = device_type(function).ok_or(BindError::NotVirtio)?;
        let layout = Layout::find(config, function);
        let (first, len) = function.port_bar(config, 0).ok_or(BindError::NoInterface)?;
        let len = usize::from(len).min(WINDOW);
        let registers = Ports::of_device(first, len as u16).ok_or(BindError::NoInterface)?;
        if len < register::REST_WITH_VECTORS {
            return Err(BindError::NoInterface);
        }
        function.enable_ports(config);
        function.enable(config);
        let enabled = layout.zip(vector);
        let vectors =
            enabled.is_some_and(|(layout, vector)| layout.enable(config, function, vector));
        // What follows in the window depends on it, so it is not left as it was.
        if let Some(layout) = layout.filter(|_| !vectors) {
            layout.disable(config, function);
        }
        Ok(Self {
            kind,
            registers,
            len,
            vectors,
        })
    }
}

impl<R: Registers> LegacyTransport<R> {
    /// Whether the device interrupts.
    pub fn interrupts(&self) -> bool {
        self.vectors
    }

    fn select(&self, queue: u16) {
        self.registers.write16(register::QUEUE_SELECT, queue);
    }

    /// Where `len` octets of what is of the device's kind are.
    fn rest(&self, offset: usize, len: usize) -> Result<usize> {
        let start = match self.vectors {
            true => register::REST_WITH_VECTORS,
            false => register::REST,
        };
        let start = start.checked_add(offset);
        let inside = |start: &usize| start.checked_add(len).is_some_and(|end| end <= self.len);
        start.filter(inside).ok_or(Error::ConfigSpaceTooSmall)
    }
}

impl<R: Registers> Transport for LegacyTransport<R> {
    fn device_type(&self) -> DeviceType {
        self.kind
    }

    fn read_device_features(&mut self) -> u64 {
        self.registers.read32(register::DEVICE_FEATURES).into()
    }

    fn write_driver_features(&mut self, features: u64) {
        let low = features as u32; // there are no others
        self.registers.write32(register::DRIVER_FEATURES, low);
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.select(queue);
        self.registers.read16(register::QUEUE_SIZE).into()
    }

    fn notify(&mut self, queue: u16) {
        self.registers.write16(register::QUEUE_NOTIFY, queue);
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_truncate(self.registers.read8(register::STATUS).into())
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.registers.write8(register::STATUS, status.bits() as u8);
    }

    fn set_guest_page_size(&mut self, _size: u32) {} // it is always the same

    fn requires_legacy_layout(&self) -> bool {
        true
    }

    fn queue_set(
        &mut self,
        queue: u16,
        _size: u32,
        descriptors: PhysAddr,
        _driver_area: PhysAddr,
        _device_area: PhysAddr,
    ) {
        self.select(queue);
        if self.vectors {
            self.registers.write16(register::CONFIG_VECTOR, NO_VECTOR);
            self.registers.write16(register::QUEUE_VECTOR, 0);
        }
        // Memory above 16 TiB has no such number: then no queue is better than another one's memory.
        let page = u32::try_from(descriptors / PAGE as u64).unwrap_or(0);
        self.registers.write32(register::QUEUE_ADDRESS, page);
    }

    fn queue_unset(&mut self, queue: u16) {
        self.select(queue);
        self.registers.write32(register::QUEUE_ADDRESS, 0);
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.select(queue);
        self.registers.read32(register::QUEUE_ADDRESS) != 0
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        let status = self.registers.read8(register::INTERRUPT_STATUS);
        InterruptStatus::from_bits_truncate(status.into())
    }

    fn read_config_generation(&self) -> u32 {
        0 // there is none
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        let start = self.rest(offset, size_of::<T>())?;
        let mut value = T::new_zeroed();
        for (at, byte) in (start..).zip(value.as_mut_bytes()) {
            *byte = self.registers.read8(at);
        }
        Ok(value)
    }

    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> Result<()> {
        let start = self.rest(offset, size_of::<T>())?;
        for (at, &byte) in (start..).zip(value.as_bytes()) {
            self.registers.write8(at, byte);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::pci::tests::{Fake, Sized, function};

    /// Octets that keep what is written to them.
    struct Memory(Mutex<[u8; 64]>);

    impl Memory {
        fn get<const N: usize>(&self, at: usize) -> [u8; N] {
            self.0.lock().unwrap()[at..at + N].try_into().unwrap()
        }
        fn set(&self, at: usize, bytes: &[u8]) {
            self.0.lock().unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }

    impl Registers for Memory {
        fn read8(&self, at: usize) -> u8 {
            u8::from_le_bytes(self.get(at))
        }
        fn read16(&self, at: usize) -> u16 {
            u16::from_le_bytes(self.get(at))
        }
        fn read32(&self, at: usize) -> u32 {
            u32::from_le_bytes(self.get(at))
        }
        fn write8(&self, at: usize, value: u8) {
            self.set(at, &[value]);
        }
        fn write16(&self, at: usize, value: u16) {
            self.set(at, &value.to_le_bytes());
        }
        fn write32(&self, at: usize, value: u32) {
            self.set(at, &value.to_le_bytes());
        }
    }

    fn transport(vectors: bool) -> LegacyTransport<Memory> {
        LegacyTransport {
            kind: DeviceType::Network,
            registers: Memory(Mutex::new([0; 64])),
            len: WINDOW,
            vectors,
        }
    }

    #[test]
    fn a_queue_is_told_by_the_number_of_its_page() {
        let mut transport = transport(false);
        transport.queue_set(1, 256, 0x12_3000, 0x12_4000, 0x12_5000);
        assert!(transport.queue_used(1));
        assert_eq!(transport.registers.read32(register::QUEUE_ADDRESS), 0x123);
        assert_eq!(transport.registers.read16(register::QUEUE_SELECT), 1);
        assert_eq!(transport.registers.read32(register::REST), 0, "no vectors");
        transport.queue_set(1, 256, 1 << 60, 0, 0);
        assert!(!transport.queue_used(1), "no page has that number");
    }

    #[test]
    fn vectors_come_before_what_is_of_its_kind() {
        let mut transport = transport(true);
        transport
            .registers
            .set(register::REST_WITH_VECTORS, b"abcdef");
        transport.queue_set(0, 256, 0x1000, 0, 0);
        assert_eq!(
            transport.registers.read16(register::CONFIG_VECTOR),
            NO_VECTOR
        );
        assert_eq!(transport.registers.read16(register::QUEUE_VECTOR), 0);
        assert_eq!(transport.read_config_space::<[u8; 6]>(0), Ok(*b"abcdef"));
        transport.vectors = false;
        transport.registers.set(register::REST, b"ABCDEF");
        assert_eq!(transport.read_config_space::<[u8; 6]>(0), Ok(*b"ABCDEF"));
    }

    #[test]
    fn configuration_beyond_the_window_is_an_error() {
        let mut transport = transport(true);
        let beyond = Err(Error::ConfigSpaceTooSmall);
        assert!(transport.read_config_space::<[u8; 2]>(10).is_ok());
        assert_eq!(transport.read_config_space::<[u8; 2]>(11), beyond);
        for far in [
            usize::MAX,
            usize::MAX - 1,
            usize::MAX - 2,
            usize::MAX - 0x18,
        ] {
            assert_eq!(transport.read_config_space::<[u8; 2]>(far), beyond);
        }
        assert_eq!(
            transport.write_config_space(usize::MAX - 1, [0u8; 2]),
            beyond.map(|_: [u8; 2]| ())
        );
    }

    #[test]
    fn a_device_without_a_window_of_ports_is_refused() {
        let mut fake = Fake::default();
        let device = function(&mut fake, 0, 1, 0x1000_1af4);
        let mut config = Sized(fake, [0xffff_ffe0, 0, 0, 0, 0, 0]);
        for bar in [0, 1, 0xfebd_0000, 0x61, 0xffff_0001] {
            config.0.write32(device.address, 0x10, bar);
            let refused = LegacyTransport::bind(&mut config, &device, None).err();
            assert_eq!(refused, Some(BindError::NoInterface), "{bar:#x}");
        }
        for bar in [0xc041, 0xffe1] {
            config.0.write32(device.address, 0x10, bar);
            let transport = LegacyTransport::bind(&mut config, &device, None).unwrap();
            assert_eq!(transport.len, 32, "as long as it is");
            let command = config.read32(device.address, 0x04);
            assert_eq!(command & 0b111, 0b111, "it decodes");
        }
        config.1[0] = 0xffff_fff0;
        let short = LegacyTransport::bind(&mut config, &device, None).err();
        assert_eq!(short, Some(BindError::NoInterface));
    }

    #[test]
    fn vectors_that_are_not_used_are_off() {
        const MSIX_ON: u32 = 1 << 31;
        let mut fake = Fake::default();
        let device = function(&mut fake, 0, 1, 0x1000_1af4);
        fake.write32(device.address, 0x04, 1 << 20);
        fake.write32(device.address, 0x10, 0xc041);
        fake.write32(device.address, 0x34, 0x98);
        fake.write32(device.address, 0x98, MSIX_ON | 0x0002_0011);
        let mut config = Sized(fake, [0xffff_ffc0, 0, 0, 0, 0, 0]);
        let transport = LegacyTransport::bind(&mut config, &device, None).unwrap();
        assert!(!transport.interrupts());
        assert_eq!(config.read32(device.address, 0x98) & MSIX_ON, 0);
    }
}
