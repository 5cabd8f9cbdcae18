//! virtio-net (virtio 1.2, section 5.1), over any transport.
//!
//! One queue pair, a buffer for a whole frame per descriptor, no offloads negotiated yet. The
//! device's interrupts are suppressed while there is work and asked for before sleeping.
//!
//! Received frames leave as `Bytes` over the ring's own buffers. The pool holds half as many
//! buffers again as the ring; when users sit on so many that the ring could run dry, frames are copied out and
//! their buffers go straight back.

use alloc::sync::Arc;

use bitflags::bitflags;
use bytes::Bytes;
use virtio_drivers::transport::{DeviceStatus, Transport};

use super::{Capabilities, Nic, RxChecksum, RxPacket, Statistics, TxPacket};
use crate::dma::{DeviceFault, MAX_SLICES, Pool, ReceiveQueue, TransmitQueue};

bitflags! {
    /// Feature bits in use (section 5.1.3, and chapter 6).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u64 {
        /// The device tells its largest packet.
        const MTU = 1 << 3;
        /// The device has an address.
        const MAC = 1 << 5;
        /// The device tells whether the link is up.
        const STATUS = 1 << 16;
        /// Legacy devices only: header and frame may share a descriptor.
        const ANY_LAYOUT = 1 << 27;
        /// Not a legacy device.
        const VERSION_1 = 1 << 32;
    }
}

const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
/// Descriptors in each queue.
pub const QUEUE_SIZE: usize = 256;
/// Buffers beyond the ring's, for frames in use.
const SPARE: u32 = 128;
/// Buffers the ring gets at a time: filling it at once would be a good part of the boot.
const BATCH: usize = 16;
/// When fewer buffers than this are free, frames are copied.
const LOW: usize = 16;

/// Room for the header and a packet's head, sent as one piece.
const HEAD: usize = 160;
/// `struct virtio_net_hdr` (section 5.1.6): 12 bytes, of which a legacy device knows 10.
const HEADER: usize = 12;
const LEGACY_HEADER: usize = 10;
const ETHERNET: usize = 14;
const VLAN: usize = 4;
const DEFAULT_MTU: u16 = 1500;
const MAX_MTU: u16 = 9000;

/// Offsets in the device configuration (section 5.1.4).
mod config {
    pub const MAC: usize = 0;
    pub const STATUS: usize = 6;
    pub const MTU: usize = 10;
}

/// Why a card could not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BindError {
    /// A queue could not be set up.
    Queue(DeviceFault),
    /// The configuration could not be read.
    Config(virtio_drivers::Error),
    /// A legacy device that insists on a layout nobody uses any more.
    NoAnyLayout,
    /// The device did not accept the features.
    Features,
}

impl core::fmt::Display for BindError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Queue(fault) => fault.fmt(f),
            Self::Config(error) => write!(f, "configuration: {error}"),
            Self::NoAnyLayout => f.write_str("legacy device without VIRTIO_F_ANY_LAYOUT"),
            Self::Features => f.write_str("device refused the features"),
        }
    }
}

impl core::error::Error for BindError {}

/// A virtio network card.
pub struct VirtioNet<T: Transport> {
    transport: T,
    features: Features,
    mac: [u8; 6],
    mtu: u16,
    header: usize,
    receive: ReceiveQueue<QUEUE_SIZE>,
    transmit: TransmitQueue<QUEUE_SIZE, HEAD>,
    pool: Arc<Pool>,
    /// Buffers the receive ring is short of.
    missing: usize,
    receive_unannounced: bool,
    transmit_unannounced: bool,
    /// A transmit was refused: wake the user when there is room.
    starved: bool,
    interrupts: bool,
    fault: Option<DeviceFault>,
    statistics: Statistics,
}

impl<T: Transport + Send> VirtioNet<T> {
    /// Takes over the card, in the order of section 3.1.1. `interrupts`: it was given a vector or
    /// a line. A card without an address of its own gets one from `make_mac`.
    pub fn bind(
        mut transport: T,
        interrupts: bool,
        make_mac: impl FnOnce() -> [u8; 6],
    ) -> Result<Self, BindError> {
        let features = transport.begin_init(Features::all());
        let modern = features.contains(Features::VERSION_1);
        if modern && !transport.get_status().contains(DeviceStatus::FEATURES_OK) {
            return Err(BindError::Features);
        }
        if !modern && !features.contains(Features::ANY_LAYOUT) {
            return Err(BindError::NoAnyLayout);
        }
        let mac = match features.contains(Features::MAC) {
            true => read(&transport, config::MAC)?,
            false => make_mac(),
        };
        let mtu = match features.contains(Features::MTU) {
            true => u16::from_le_bytes(read(&transport, config::MTU)?).clamp(1280, MAX_MTU),
            false => DEFAULT_MTU,
        };
        let mut receive = ReceiveQueue::new(&mut transport, RECEIVE).map_err(BindError::Queue)?;
        let mut transmit =
            TransmitQueue::new(&mut transport, TRANSMIT).map_err(BindError::Queue)?;
        receive.set_interrupts(false);
        transmit.set_interrupts(false);
        let frame = HEADER + ETHERNET + VLAN + usize::from(mtu);
        let pool = Pool::new(QUEUE_SIZE as u32 + SPARE, frame);
        transport.finish_init();
        let mut card = Self {
            transport,
            features,
            mac,
            mtu,
            header: if modern { HEADER } else { LEGACY_HEADER },
            receive,
            transmit,
            pool,
            missing: QUEUE_SIZE,
            receive_unannounced: false,
            transmit_unannounced: false,
            starved: false,
            interrupts,
            fault: None,
            statistics: Statistics::default(),
        };
        card.refill();
        card.flush();
        Ok(card)
    }

    /// The protocol violation that ended the card's service, if there was one.
    pub fn fault(&self) -> Option<DeviceFault> {
        self.fault
    }

    /// Gives the ring a batch of the buffers it is short of.
    fn refill(&mut self) {
        for _ in 0..self.missing.min(BATCH) {
            let Some(buffer) = self.pool.take() else {
                break;
            };
            if self.receive.post(buffer).is_err() {
                break;
            }
            self.missing -= 1;
            self.receive_unannounced = true;
        }
    }

    fn reclaim(&mut self) {
        if self.fault.is_none()
            && let Err(fault) = self.transmit.reclaim()
        {
            self.fail(fault);
        }
    }

    fn fail(&mut self, fault: DeviceFault) {
        log::error!("network card out of service: {fault}");
        self.fault = Some(fault);
        // Section 2.1: no device may touch the buffers of a driver that has given up on it.
        self.transport.set_status(DeviceStatus::empty());
    }
}

fn read<const N: usize>(transport: &impl Transport, offset: usize) -> Result<[u8; N], BindError> {
    // Byte-wise: an array of bytes has no alignment the transport could object to.
    transport
        .read_config_space::<[u8; N]>(offset)
        .map_err(BindError::Config)
}

impl<T: Transport + Send> Nic for VirtioNet<T> {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn link_up(&self) -> bool {
        const LINK_UP: u8 = 1;
        self.fault.is_none()
            && (!self.features.contains(Features::STATUS)
                || read::<2>(&self.transport, config::STATUS)
                    .is_ok_and(|[low, _]| low & LINK_UP != 0))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn receive(&mut self) -> Option<RxPacket> {
        while self.fault.is_none() {
            let (buffer, len) = match self.receive.take() {
                Ok(Some(filled)) => filled,
                Ok(None) => {
                    self.refill();
                    return None;
                }
                Err(fault) => {
                    self.fail(fault);
                    break;
                }
            };
            self.missing += 1;
            let frame = len.saturating_sub(self.header);
            if frame < ETHERNET {
                self.statistics.rx_errors += 1;
                continue; // the buffer goes back to the pool
            }
            self.statistics.rx_packets += 1;
            self.statistics.rx_bytes += frame as u64;
            let bytes = if self.pool.available() < LOW {
                self.statistics.rx_copied += 1;
                let range = self.header..self.header + frame;
                Bytes::copy_from_slice(buffer.bytes().get(range).unwrap_or_default())
            } else {
                buffer.into_bytes(self.header, frame)
            };
            // In batches: the device is told once per flush anyway.
            if self.missing >= QUEUE_SIZE / 8 {
                self.refill();
            }
            return Some(RxPacket {
                bytes,
                checksum: RxChecksum::Unknown,
                segmentation: None,
            });
        }
        None
    }

    fn can_transmit(&mut self) -> bool {
        if self.fault.is_some() || self.transmit.has_room(MAX_SLICES + 1) {
            return true;
        }
        self.reclaim();
        let room = self.transmit.has_room(MAX_SLICES + 1);
        self.starved |= !room;
        room
    }

    fn transmit(&mut self, packet: TxPacket) -> Result<(), TxPacket> {
        if self.fault.is_some() {
            return Ok(()); // gone, as on a cut wire
        }
        debug_assert!(packet.checksum.is_none() && packet.segmentation.is_none());
        let bytes = packet.len();
        if bytes == 0 || bytes > usize::from(self.mtu) + ETHERNET + VLAN {
            return Ok(()); // no wire would carry it
        }
        if !self.can_transmit() {
            self.statistics.tx_full += 1;
            return Err(packet);
        }
        let header = [0; HEADER];
        let header = header.get(..self.header).unwrap_or(&header);
        match self.transmit.post([header, &packet.head], packet.slices) {
            Ok(()) => {
                self.statistics.tx_packets += 1;
                self.statistics.tx_bytes += bytes as u64;
                self.transmit_unannounced = true;
                Ok(())
            }
            Err(slices) => {
                self.statistics.tx_full += 1;
                self.starved = true;
                Err(TxPacket { slices, ..packet })
            }
        }
    }

    fn flush(&mut self) {
        if self.fault.is_some() {
            return;
        }
        if core::mem::take(&mut self.transmit_unannounced) && self.transmit.wants_notification() {
            self.statistics.notifications += 1;
            self.transport.notify(TRANSMIT);
        }
        if core::mem::take(&mut self.receive_unannounced) && self.receive.wants_notification() {
            self.statistics.notifications += 1;
            self.transport.notify(RECEIVE);
        }
    }

    fn arm(&mut self) -> bool {
        if self.fault.is_some() {
            return false;
        }
        self.reclaim();
        self.refill();
        self.flush();
        self.receive.set_interrupts(true);
        if self.starved {
            self.transmit.set_interrupts(true);
        }
        // The device may have filled a buffer before it saw that we want to know (section 2.7.10).
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
        self.receive.pending() || self.starved && self.transmit.has_room(MAX_SLICES + 1)
    }

    fn disarm(&mut self) {
        self.receive.set_interrupts(false);
        if core::mem::take(&mut self.starved) {
            self.transmit.set_interrupts(false);
        }
    }

    fn interrupts(&self) -> bool {
        self.interrupts
    }

    fn statistics(&self) -> Statistics {
        self.statistics
    }
}

impl<T: Transport> Drop for VirtioNet<T> {
    fn drop(&mut self) {
        // The device must let go of rings and buffers before their memory is used again.
        self.transport.set_status(DeviceStatus::empty());
    }
}

#[cfg(test)]
mod tests;
