//! Network cards.
//!
//! [`Nic`] is what the rest of the system sees of one: received packets as [`Bytes`] that are the
//! device's own buffers, transmitted packets as slices that are handed to the device as they are,
//! and with both the metadata for checksum and segmentation offload.

mod card;
#[cfg(test)]
mod conformance;
#[cfg(test)]
pub(crate) mod fake;
pub mod intel;
mod offload;
pub mod pci;
mod rtl8139;
mod supply;
pub mod virtio;
mod vmxnet3;
mod watchdog;

use alloc::vec::Vec;
use core::ops::RangeInclusive;

use bytes::Bytes;
use smallvec::SmallVec;

pub use crate::dma::{DeviceFault, Slices};

/// How many descriptors each ring of a card may be told to have; by default it has the most. A card
/// that cannot have so many or so few does what comes next to that.
pub const RINGS: RangeInclusive<u16> = 8..=256;

/// What is known about a received packet's checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RxChecksum {
    /// Nothing: verify it.
    #[default]
    Unknown,
    /// The device has verified it.
    Valid,
    /// It came from a neighbour on the same host that left it to be filled in; the data is good.
    Partial,
}

/// A received Ethernet frame, without frame check sequence.
#[derive(Clone, Debug)]
pub struct RxPacket {
    /// The frame, or as much of it as the device's first buffer holds.
    pub bytes: Bytes,
    /// The rest of it.
    pub more: Vec<Bytes>,
    /// What the device says about the checksum of its TCP or UDP.
    pub checksum: RxChecksum,
    /// How to cut the frame again, if it was coalesced from several.
    pub segmentation: Option<Segmentation>,
}

/// A checksum the device is to fill in: over everything from `start`, stored at `start + offset`,
/// where the pseudo-header's sum is already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxChecksum {
    /// First byte covered, counted from the start of the frame.
    pub start: u16,
    /// Where the checksum is stored, counted from `start`.
    pub offset: u16,
}

/// What kind of packet the device is to cut into segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP over IPv4.
    TcpIpv4,
    /// TCP over IPv6.
    TcpIpv6,
}

/// A packet the device is to cut into segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmentation {
    /// What it is.
    pub protocol: Protocol,
    /// TCP payload bytes in each segment.
    pub size: u16,
}

/// The first bytes of a frame, kept inline.
pub type Head = SmallVec<[u8; 128]>;

/// An Ethernet frame to be sent: head, then slices.
#[derive(Clone, Debug, Default)]
pub struct TxPacket {
    /// Headers, or a whole small frame. Copied.
    pub head: Head,
    /// The rest, in pieces. Not copied.
    pub slices: Slices,
    /// For the device to fill in; only where [`Capabilities::tx_checksum`].
    pub checksum: Option<TxChecksum>,
    /// For the device to cut up; only where the capabilities say so.
    pub segmentation: Option<Segmentation>,
}

impl TxPacket {
    /// A frame in one piece that needs nothing done.
    pub fn plain(frame: Bytes) -> Self {
        Self {
            slices: core::iter::once(frame).collect(),
            ..Self::default()
        }
    }

    /// The frame's length in bytes.
    pub fn len(&self) -> usize {
        self.head.len() + self.slices.iter().map(Bytes::len).sum::<usize>()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a card does for its user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Fills in checksums on transmit.
    pub tx_checksum: bool,
    /// Verifies checksums on receive.
    pub rx_checksum: bool,
    /// Cuts TCP over IPv4 into segments.
    pub segmentation_ipv4: bool,
    /// Cuts TCP over IPv6 into segments.
    pub segmentation_ipv6: bool,
    /// Joins received segments.
    pub receive_coalescing: bool,
}

impl Capabilities {
    /// Whether the packet asks for nothing that is not done.
    fn cover(&self, packet: &TxPacket) -> bool {
        let cuts = packet.segmentation.is_none_or(|cut| match cut.protocol {
            Protocol::TcpIpv4 => self.segmentation_ipv4,
            Protocol::TcpIpv6 => self.segmentation_ipv6,
        });
        let sums = packet.checksum.is_none() || self.tx_checksum;
        debug_assert!(cuts && sums, "work for a device that does not do it");
        cuts && sums
    }
}

/// What a card has done and seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Frames received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Received frames thrown away: malformed, or no memory for a copy.
    pub rx_errors: u64,
    /// Those of them for which there was no memory.
    pub rx_no_memory: u64,
    /// Received frames copied because their user was slow to give buffers back.
    pub rx_copied: u64,
    /// Received frames that the device had joined from several segments.
    pub rx_coalesced: u64,
    /// Frames handed to the device.
    pub tx_packets: u64,
    /// Frames handed to the device that it has to cut into segments.
    pub tx_segmented: u64,
    /// Bytes handed to the device.
    pub tx_bytes: u64,
    /// Frames refused because the ring was full.
    pub tx_full: u64,
    /// Doorbells rung.
    pub notifications: u64,
    /// Frames that the device had no buffer for.
    pub rx_missed: u64,
    /// Frames that were lost when the device was reset.
    pub tx_lost: u64,
    /// Times that the device was reset because it was stuck.
    pub resets: u64,
    /// Times that the link came or went.
    pub link_changes: u64,
}

impl Statistics {
    /// All of them, under names of their own.
    pub fn named(&self) -> [(&'static str, u64); 15] {
        let Self {
            rx_packets,
            rx_bytes,
            rx_errors,
            rx_no_memory,
            rx_copied,
            rx_coalesced,
            tx_packets,
            tx_segmented,
            tx_bytes,
            tx_full,
            notifications,
            rx_missed,
            tx_lost,
            resets,
            link_changes,
        } = *self;
        [
            ("nic_rx_packets", rx_packets),
            ("nic_rx_bytes", rx_bytes),
            ("nic_rx_errors", rx_errors),
            ("nic_rx_no_memory", rx_no_memory),
            ("nic_rx_copied", rx_copied),
            ("nic_rx_coalesced", rx_coalesced),
            ("nic_rx_missed", rx_missed),
            ("nic_tx_packets", tx_packets),
            ("nic_tx_segmented", tx_segmented),
            ("nic_tx_bytes", tx_bytes),
            ("nic_tx_full", tx_full),
            ("nic_tx_lost", tx_lost),
            ("nic_notifications", notifications),
            ("nic_resets", resets),
            ("nic_link_changes", link_changes),
        ]
    }
}

/// A network card. Nothing here blocks.
pub trait Nic: Send {
    /// Its Ethernet address.
    fn mac(&self) -> [u8; 6];
    /// Largest IP packet it carries, in bytes.
    fn mtu(&self) -> u16;
    /// How many descriptors each of its rings has, or seems to have.
    fn ring(&self) -> usize;
    /// Whether it has a link.
    fn link_up(&self) -> bool;
    /// What it does for us.
    fn capabilities(&self) -> Capabilities;
    /// The next received frame.
    fn receive(&mut self) -> Option<RxPacket>;
    /// Whether any frame can be queued now. After a `false`, [`Nic::arm`] also asks to be woken when
    /// there is room.
    fn can_transmit(&mut self) -> bool;
    /// Queues a frame; hands it back if there is no room. Nothing is promised to leave before
    /// [`Nic::flush`].
    #[allow(
        clippy::result_large_err,
        reason = "the packet itself, to be tried again"
    )]
    fn transmit(&mut self, packet: TxPacket) -> Result<(), TxPacket>;
    /// Tells the device about frames queued and buffers given back.
    fn flush(&mut self);
    /// Whether there is something to do: a frame, or room after a refused transmit. To be asked again and
    /// again by who does not sleep; a `true` answers the refusal, as [`Nic::disarm`] does. Like [`Nic::arm`], it
    /// gives the device more buffers, some at a time, until it has all that it can have.
    fn poll(&mut self) -> bool;
    /// Asks for an interrupt at the next event (a frame, or room after a refused transmit).
    /// `true`: do not sleep, there is something to do already.
    fn arm(&mut self) -> bool;
    /// No more interrupts until [`Nic::arm`].
    fn disarm(&mut self);
    /// Whether the card interrupts at all; if not, it must be polled.
    fn interrupts(&self) -> bool;
    /// Looks after what takes time: the link, and a device that is stuck. `true`: wants to be called
    /// within a second even if nothing happens. `now_ns` is any clock that only runs forwards.
    fn watch(&mut self, now_ns: u64) -> bool {
        let _ = now_ns;
        false
    }
    /// Resets the device, as is done with one that is stuck. What it had to send is lost, and so is what it has
    /// received and nobody has taken in. It does not interrupt until it is armed again.
    fn reset(&mut self);
    /// Why it is out of service for good, if it is: nothing comes or goes any more.
    fn fault(&self) -> Option<DeviceFault>;
    /// What it has done.
    fn statistics(&self) -> Statistics;
}
