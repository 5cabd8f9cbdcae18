//! virtio-net (virtio 1.2, section 5.1), over any transport.
//!
//! One queue pair. Checksums and segmentation are left to the device in both directions where it
//! offers that ([`Features`]); large frames arrive spread over buffers of the ordinary size
//! (`VIRTIO_NET_F_MRG_RXBUF`), and are not asked for otherwise. The device's interrupts are
//! suppressed while there is work and asked for before sleeping.
//!
//! Received frames leave as `Bytes` over the ring's own buffers, but small ones are copied out: who
//! sits on one would keep a whole buffer for it. The pool holds half as many buffers again as the
//! ring; when users sit on so many that the ring could run dry, all frames are copied out. The
//! buffers of what is copied go straight back.
//!
//! What the device says is checked: one that says what cannot be is taken out of service, with
//! the [`DeviceFault`] as reason.

mod header;

use alloc::vec::Vec;

use bitflags::bitflags;
use bytes::Bytes;
use smallvec::SmallVec;
use virtio_drivers::transport::{DeviceStatus, Transport};

use self::header::Received;
use super::supply::Supply;
use super::watchdog::{Restart, Watchdog, follow};
use super::{Capabilities, Nic, RxChecksum, RxPacket, Statistics, TxPacket};
use crate::dma::{
    Buffer, DeviceFault, PAGE, Pool, QueueOptions, QueueTransport, ReceiveQueue, TransmitQueue,
};

bitflags! {
    /// Feature bits in use (section 5.1.3, and chapter 6).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u64 {
        /// The device completes checksums.
        const CSUM = 1 << 0;
        /// We take frames without a complete checksum.
        const GUEST_CSUM = 1 << 1;
        /// The device tells its largest packet.
        const MTU = 1 << 3;
        /// The device has an address.
        const MAC = 1 << 5;
        /// We take TCP over IPv4 in large frames.
        const GUEST_TSO4 = 1 << 7;
        /// We take TCP over IPv6 in large frames.
        const GUEST_TSO6 = 1 << 8;
        /// We take large frames whose first segment has CWR.
        const GUEST_ECN = 1 << 9;
        /// The device cuts TCP over IPv4.
        const HOST_TSO4 = 1 << 11;
        /// The device cuts TCP over IPv6.
        const HOST_TSO6 = 1 << 12;
        /// The device cuts segments with CWR.
        const HOST_ECN = 1 << 13;
        /// A received frame may lie in several buffers.
        const MRG_RXBUF = 1 << 15;
        /// The device tells whether the link is up.
        const STATUS = 1 << 16;
        /// Legacy devices only: header and frame may share a descriptor.
        const ANY_LAYOUT = 1 << 27;
        /// A descriptor may stand for a table of them.
        const INDIRECT_DESC = 1 << 28;
        /// Either side says at which index it wants to hear from the other.
        const EVENT_IDX = 1 << 29;
        /// Not a legacy device.
        const VERSION_1 = 1 << 32;
    }
}

impl Features {
    /// What to accept of what is offered: only what makes sense together (section 5.1.3.1), and
    /// large frames only if `room` bytes of small buffers hold one.
    fn choose(offered: u64, room: usize) -> Self {
        let mut chosen = Self::from_bits_truncate(offered);
        if !chosen.contains(Self::CSUM) {
            chosen.remove(Self::HOST_TSO4 | Self::HOST_TSO6);
        }
        if !chosen.contains(Self::GUEST_CSUM | Self::MRG_RXBUF) || room < MAX_LARGE {
            chosen.remove(Self::GUEST_TSO4 | Self::GUEST_TSO6);
        }
        // What comes in large may have to be passed on to another instance.
        if !chosen.contains(Self::HOST_TSO4) {
            chosen.remove(Self::GUEST_TSO4);
        }
        if !chosen.contains(Self::HOST_TSO6) {
            chosen.remove(Self::GUEST_TSO6);
        }
        if !chosen.intersects(Self::HOST_TSO4 | Self::HOST_TSO6) {
            chosen.remove(Self::HOST_ECN);
        }
        if !chosen.intersects(Self::GUEST_TSO4 | Self::GUEST_TSO6) {
            chosen.remove(Self::GUEST_ECN);
        }
        chosen
    }
}

/// The MTU for a device that says `said`: just that, if IPv4 can do with it, and if we have receive buffers for a frame
/// of it in `room` bytes; else the next one that is.
fn usable_mtu(said: u16, room: usize) -> u16 {
    if said < TRUE_MTU {
        return DEFAULT_MTU;
    }
    let fits = room.saturating_sub(header::LEN + ETHERNET + VLAN);
    let fits = u16::try_from(fits).unwrap_or(MAX_MTU);
    said.clamp(LEAST_MTU, MAX_MTU).min(fits)
}

const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
/// Bytes of a buffer that is one of several. What comes is mostly either small or very large.
const MERGEABLE: usize = 2048;
/// Bytes of all buffers in the ring at most. One for a large packet is not needed as often.
const IN_RING: usize = 256 * MERGEABLE;
/// Frames up to this size are always copied.
const SMALL: usize = 256;
/// When fewer buffers than this are free, frames are copied: one large frame's worth.
const LOW: usize = MAX_LARGE.div_ceil(MERGEABLE);

/// Room for the header and a packet's head, sent as one piece.
const HEAD: usize = 160;
const ETHERNET: usize = 14;
const VLAN: usize = 4;
const DEFAULT_MTU: u16 = 1500;
const MAX_MTU: u16 = 9000;
/// What every IPv4 host takes (RFC 1122, section 3.3.2).
const LEAST_MTU: u16 = 576;
/// No device may say less (section 5.1.4.1).
const TRUE_MTU: u16 = 68;
/// Bytes of a large frame at most, without and with its header (section 5.1.6.3.1).
const MAX_FRAME: usize = u16::MAX as usize + ETHERNET;
const MAX_LARGE: usize = MAX_FRAME + header::LEN;
/// The flags in a TCP header, and Congestion Window Reduced among them (RFC 3168).
const TCP_FLAGS: usize = 13;
const TCP_CWR: u8 = 0x80;
/// Where a UDP header has its checksum.
const UDP_CHECKSUM: u16 = 6;

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
    /// It does not do what it should, or a queue could not be set up.
    Device(DeviceFault),
    /// The configuration could not be read.
    Config(virtio_drivers::Error),
    /// A legacy device whose receive buffers have to be in two pieces, the header's and the rest (section 5.1.6.6). One
    /// that merges buffers takes them whole, which the section does not promise; Linux relies on it.
    NeedsTwoPieces,
    /// The device did not accept the features.
    Features,
}

impl core::fmt::Display for BindError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Device(fault) => fault.fmt(f),
            Self::Config(error) => write!(f, "configuration: {error}"),
            Self::NeedsTwoPieces => f.write_str(
                "legacy device with neither VIRTIO_F_ANY_LAYOUT nor VIRTIO_NET_F_MRG_RXBUF",
            ),
            Self::Features => f.write_str("device refused the features"),
        }
    }
}

impl core::error::Error for BindError {}

/// A virtio network card.
pub struct VirtioNet<T: QueueTransport> {
    transport: T,
    features: Features,
    mac: [u8; 6],
    mtu: u16,
    header: usize,
    ring: u16,
    receive: ReceiveQueue,
    transmit: TransmitQueue<HEAD>,
    supply: Supply,
    /// A transmit was refused: wake the user when there is room.
    starved: bool,
    interrupts: bool,
    finished: u64,
    watchdog: Watchdog,
    fault: Option<DeviceFault>,
    statistics: Statistics,
}

/// Sections 3.1.1 and 3.1.2: resets the device and settles the features. Its queues will have `ring`
/// descriptors at most. The features, and the MTU.
fn negotiate(transport: &mut impl Transport, ring: u16) -> Result<(Features, u16), BindError> {
    let known = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER;
    transport.set_status(DeviceStatus::empty());
    if !transport.get_status().is_empty() {
        return Err(BindError::Device(DeviceFault::Gone));
    }
    transport.set_status(known);
    let offered = transport.read_device_features();
    let buffers = transport.max_queue_size(RECEIVE).min(u32::from(ring));
    // As many as the queue will have, see `Ring::new`.
    let buffers = buffers.checked_ilog2().map_or(0, |bits| 1usize << bits);
    let merged = buffers * MERGEABLE;
    let mut features = Features::choose(offered, merged);
    let mut mtu = DEFAULT_MTU;
    if features.contains(Features::MTU) {
        let said = u16::from_le_bytes(read(transport, config::MTU)?);
        let is_merged = features.contains(Features::MRG_RXBUF);
        mtu = usable_mtu(said, if is_merged { merged } else { usize::MAX });
        // Section 5.1.4.2: who accepts it keeps to it, both ways.
        features.set(Features::MTU, mtu == said);
        if mtu != said {
            log::warn!("network card says that its MTU is {said}: {mtu} is used");
        }
    }
    transport.write_driver_features(features.bits());
    if features.contains(Features::VERSION_1) {
        transport.set_status(known | DeviceStatus::FEATURES_OK);
        if !transport.get_status().contains(DeviceStatus::FEATURES_OK) {
            return Err(BindError::Features);
        }
    } else if !features.intersects(Features::ANY_LAYOUT | Features::MRG_RXBUF) {
        return Err(BindError::NeedsTwoPieces);
    }
    transport.set_guest_page_size(PAGE as u32);
    Ok((features, mtu))
}

impl<T: QueueTransport + Send> VirtioNet<T> {
    /// Takes over the card, in the order of section 3.1.1. `interrupts`: it was given a vector or
    /// a line. Its queues have `ring` descriptors, unless the device allows fewer. A card without an address
    /// of its own gets one from `make_mac`.
    pub fn bind(
        mut transport: T,
        ring: u16,
        interrupts: bool,
        make_mac: impl FnOnce() -> [u8; 6],
    ) -> Result<Self, BindError> {
        let (features, mtu) = negotiate(&mut transport, ring)?;
        let mac = match features.contains(Features::MAC) {
            true => read(&transport, config::MAC)?,
            false => make_mac(),
        };
        let options = |index| QueueOptions {
            index,
            most: ring,
            event_index: features.contains(Features::EVENT_IDX),
            indirect: features.contains(Features::INDIRECT_DESC),
            apart: !features.intersects(Features::VERSION_1 | Features::ANY_LAYOUT),
        };
        let mut receive =
            ReceiveQueue::new(&mut transport, options(RECEIVE)).map_err(BindError::Device)?;
        let mut transmit =
            TransmitQueue::new(&mut transport, options(TRANSMIT)).map_err(BindError::Device)?;
        receive.set_interrupts(false);
        transmit.set_interrupts(false);
        let header = header::len(features);
        let buffer = match features.contains(Features::MRG_RXBUF) {
            true => MERGEABLE,
            false => header + ETHERNET + VLAN + usize::from(mtu),
        };
        let buffers = receive.size().min(IN_RING / buffer);
        let pool = Pool::new((buffers + buffers / 2) as u32, buffer);
        transport.finish_init();
        let mut card = Self {
            transport,
            features,
            mac,
            mtu,
            header,
            ring,
            receive,
            transmit,
            supply: Supply::new(pool, buffers, 0),
            starved: false,
            interrupts,
            finished: 0,
            watchdog: Watchdog::default(),
            fault: None,
            statistics: Statistics::default(),
        };
        card.refill(true);
        card.flush();
        Ok(card)
    }

    /// Gives the ring as many buffers as it once had; to `grow`, some more until it is full.
    fn refill(&mut self, grow: bool) {
        if self.fault.is_some() {
            return;
        }
        let receive = &mut self.receive;
        self.supply
            .refill(grow, |buffer| receive.post(buffer).is_ok());
    }

    /// Whether there is something to do already.
    fn ready(&self) -> bool {
        if self.fault.is_some() {
            return false;
        }
        self.receive.pending()
            || self.starved && (self.transmit.pending() || self.transmit.has_room())
    }

    fn reclaim(&mut self) {
        if self.fault.is_some() {
            return;
        }
        match self.transmit.reclaim() {
            Ok(count) => self.finished += count as u64,
            Err(fault) => self.fail(fault),
        }
    }

    /// Section 3.1.1 once more, with the same queues and what was agreed on before.
    fn start_over(&mut self) -> Result<(), DeviceFault> {
        let transport = &mut self.transport;
        let agreed = negotiate(transport, self.ring);
        match agreed {
            Ok(agreed) if agreed == (self.features, self.mtu) => {}
            Err(BindError::Device(fault)) => return Err(fault),
            _ => return Err(DeviceFault::Refused),
        }
        self.receive.restart(transport)?;
        self.statistics.tx_lost += self.transmit.restart(transport)? as u64;
        self.receive.set_interrupts(false);
        self.transmit.set_interrupts(false);
        self.supply.took_all();
        transport.finish_init();
        self.refill(false);
        self.flush();
        Ok(())
    }

    fn check_link(&mut self) {
        let up = self.link_up();
        if self.fault.is_none() {
            self.watchdog.note_link(up, &mut self.statistics);
        }
    }

    /// The buffers of the next frame the device has filled, and how much of each it wrote.
    fn take(&mut self) -> Result<Option<Pieces>, DeviceFault> {
        let Some((buffer, len)) = self.receive.take()? else {
            return Ok(None);
        };
        self.supply.took(1);
        let written = buffer.bytes().get(..len).unwrap_or_default();
        let said = header::buffers(written, self.features);
        if said == 0 || usize::from(said) > self.receive.size() {
            return Err(DeviceFault::BufferCount(said));
        }
        let mut pieces = Pieces::new();
        pieces.push((buffer, len));
        let mut total = len;
        for given in 1..said {
            let next = self.receive.take()?;
            let (buffer, len) = next.ok_or(DeviceFault::MissingBuffers { said, given })?;
            self.supply.took(1);
            total += len;
            pieces.push((buffer, len));
        }
        if total > MAX_LARGE + VLAN {
            return Err(DeviceFault::BufferCount(said));
        }
        Ok(Some(pieces))
    }

    /// The frame in `pieces`; `None` if there is none.
    fn packet(&mut self, pieces: Pieces) -> Option<RxPacket> {
        let (first, len) = pieces.first()?;
        let written = first.bytes().get(..*len)?;
        let Received {
            mut checksum,
            start,
            offset,
            segmentation,
        } = Received::parse(written, self.features)?;
        let frame = pieces.iter().map(|(_, len)| len).sum::<usize>();
        let most = match segmentation {
            Some(_) => MAX_FRAME,
            None => usize::from(self.mtu) + ETHERNET,
        };
        let frame = frame.checked_sub(self.header)?;
        if !(ETHERNET..=most + VLAN).contains(&frame) {
            return None;
        }
        self.statistics.rx_packets += 1;
        self.statistics.rx_bytes += frame as u64;
        self.statistics.rx_coalesced += u64::from(segmentation.is_some());
        // TCP is not missed its checksum. Other protocols have to have one.
        let complete = checksum == RxChecksum::Partial && offset == UDP_CHECKSUM;
        let short = self.supply.available() < LOW;
        let mut parts = pieces.into_iter();
        let (bytes, more) = if complete || short || frame <= SMALL {
            let whole = match frame <= SMALL {
                true => Some(Vec::with_capacity(frame)),
                false => crate::mm::spare(frame),
            };
            let Some(mut whole) = whole else {
                self.statistics.rx_no_memory += 1;
                return None;
            };
            let mut skip = self.header;
            for (buffer, len) in parts {
                whole.extend_from_slice(buffer.bytes().get(skip..len).unwrap_or_default());
                skip = 0;
            }
            self.statistics.rx_copied += u64::from(short);
            if complete && header::complete(&mut whole, start, offset) {
                checksum = RxChecksum::Unknown;
            }
            (Bytes::from(whole), Vec::new())
        } else {
            let (first, len) = parts.next()?;
            let rest = parts.filter(|(_, len)| *len > 0);
            let rest = rest.map(|(buffer, len)| buffer.into_bytes(0, len));
            let first = first.into_bytes(self.header, len.saturating_sub(self.header));
            (first, rest.collect())
        };
        Some(RxPacket {
            bytes,
            more,
            checksum,
            segmentation,
        })
    }
}

/// The buffers of a frame, and how many bytes of each the device wrote.
type Pieces = SmallVec<[(Buffer, usize); 1]>;

fn read<const N: usize>(transport: &impl Transport, offset: usize) -> Result<[u8; N], BindError> {
    // Byte-wise: an array of bytes has no alignment the transport could object to.
    transport
        .read_config_space::<[u8; N]>(offset)
        .map_err(BindError::Config)
}

impl<T: QueueTransport + Send> Restart for VirtioNet<T> {
    fn restart(&mut self) {
        self.statistics.resets += 1;
        if let Err(fault) = self.start_over() {
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

impl<T: QueueTransport + Send> Nic for VirtioNet<T> {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn ring(&self) -> usize {
        self.receive.size()
    }

    fn link_up(&self) -> bool {
        const LINK_UP: u8 = 1;
        self.fault.is_none()
            && (!self.features.contains(Features::STATUS)
                || read::<2>(&self.transport, config::STATUS)
                    .is_ok_and(|[low, _]| low & LINK_UP != 0))
    }

    fn capabilities(&self) -> Capabilities {
        let has = |feature| self.features.contains(feature);
        Capabilities {
            tx_checksum: has(Features::CSUM),
            rx_checksum: has(Features::GUEST_CSUM),
            segmentation_ipv4: has(Features::HOST_TSO4),
            segmentation_ipv6: has(Features::HOST_TSO6),
            receive_coalescing: has(Features::GUEST_TSO4) || has(Features::GUEST_TSO6),
        }
    }

    fn receive(&mut self) -> Option<RxPacket> {
        while self.fault.is_none() {
            let pieces = match self.take() {
                Ok(pieces) => pieces,
                Err(fault) => {
                    self.fail(fault);
                    break;
                }
            };
            // In batches: the device is told once per flush anyway.
            if pieces.is_none() || self.supply.is_short() {
                self.refill(false);
            }
            let packet = self.packet(pieces?);
            if packet.is_some() {
                return packet;
            }
            self.statistics.rx_errors += 1;
        }
        None
    }

    fn can_transmit(&mut self) -> bool {
        if self.fault.is_some() || self.transmit.has_room() {
            return true;
        }
        self.reclaim();
        let room = self.transmit.has_room();
        self.starved |= !room;
        room
    }

    fn transmit(&mut self, packet: TxPacket) -> Result<(), TxPacket> {
        if self.fault.is_some() {
            return Ok(()); // gone, as on a cut wire
        }
        let bytes = packet.len();
        let most = match packet.segmentation {
            Some(_) => MAX_FRAME,
            None => usize::from(self.mtu) + ETHERNET + VLAN,
        };
        if bytes == 0 || bytes > most || !self.capabilities().cover(&packet) {
            return Ok(()); // no wire would carry it
        }
        if !self.can_transmit() {
            self.statistics.tx_full += 1;
            return Err(packet);
        }
        let header = header::emit(&packet, self.features);
        let header = header.get(..self.header).unwrap_or(&header);
        match self.transmit.post([header, &packet.head], packet.slices) {
            Ok(()) => {
                self.statistics.tx_packets += 1;
                self.statistics.tx_bytes += bytes as u64;
                self.statistics.tx_segmented += u64::from(packet.segmentation.is_some());
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
        // What was sent holds memory, 64 KiB a packet: not until the ring is full of it.
        self.reclaim();
        if self.fault.is_some() {
            return;
        }
        if self.transmit.announce() {
            self.statistics.notifications += 1;
            self.transport.notify(TRANSMIT);
        }
        if self.receive.announce() {
            self.statistics.notifications += 1;
            self.transport.notify(RECEIVE);
        }
    }

    fn poll(&mut self) -> bool {
        if self.supply.grows() {
            self.refill(true);
            self.flush();
        }
        let ready = self.ready();
        self.starved &= !ready;
        ready
    }

    fn arm(&mut self) -> bool {
        self.refill(true);
        self.flush();
        if self.fault.is_some() {
            return false;
        }
        self.receive.set_interrupts(true);
        if self.starved {
            self.transmit.set_interrupts(true);
        }
        // The device may have filled a buffer, or sent a packet, before it saw that we want to
        // know (section 2.7.10).
        self.ready()
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

    fn watch(&mut self, now_ns: u64) -> bool {
        if self.fault.is_some() {
            return false;
        }
        let status = self.transport.get_status();
        // Only drivers say so, and this one never does: all bits are set where nothing answers.
        if status.contains(DeviceStatus::FAILED) {
            self.fail(DeviceFault::Gone);
            return false;
        }
        self.check_link();
        self.reclaim();
        if self.fault.is_some() {
            return false;
        }
        // Section 2.1.1: it cannot go on, or has been reset by somebody else.
        let runs = status.contains(DeviceStatus::DRIVER_OK);
        if !runs || status.contains(DeviceStatus::DEVICE_NEEDS_RESET) {
            let advice = self.watchdog.report(self.finished);
            follow(self, advice, "says that it is stuck");
            return true;
        }
        let busy = !self.transmit.is_empty();
        let advice = self.watchdog.look(now_ns, busy, self.finished);
        follow(self, advice, "sends nothing any more");
        true
    }

    fn reset(&mut self) {
        if self.fault.is_none() {
            self.restart();
        }
    }

    fn fault(&self) -> Option<DeviceFault> {
        self.fault
    }

    fn statistics(&self) -> Statistics {
        self.statistics
    }
}

impl<T: QueueTransport> Drop for VirtioNet<T> {
    fn drop(&mut self) {
        // The device must let go of rings and buffers before their memory is used again.
        self.transport.set_status(DeviceStatus::empty());
    }
}

#[cfg(test)]
mod tests;
