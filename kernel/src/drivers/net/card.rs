//! Network cards with a ring of descriptors for each direction, which they write back in place or
//! answer in rings of their own.
//!
//! [`Card`] is all that such cards have in common: it owns the rings and their buffers, takes
//! frames in and out, keeps the statistics, and resets a card that is stuck. What their datasheets
//! differ in, registers and control words, is a [`Chip`].
//!
//! Received frames leave as `Bytes` over the ring's own buffers under the same rules as those of
//! [`super::virtio`]. What the card says is checked: one that says what cannot be is taken out of
//! service with the [`DeviceFault`] as reason, and so is one that several resets do not help.

use alloc::boxed::Box;
use alloc::vec::Vec;

use bytes::Bytes;

use super::supply::{BATCH, Supply};
use super::watchdog::{Restart, Watchdog, follow};
use super::{Capabilities, Nic, RxChecksum, RxPacket, Statistics, TxPacket};
use crate::dma::{Buffer, DeviceFault, Format, Limits, Part, Pool, ReceiveRing, TransmitRing};

/// Bytes of a receive buffer.
pub(super) const BUFFER: usize = 2048;
/// Room for the head of a packet.
const HEAD: usize = 160;
pub(super) const ETHERNET: usize = 14;
const VLAN: usize = 4;
const MTU: u16 = 1500;
/// Bytes of a frame at most, and of one that is to be cut.
const MAX_FRAME: usize = MTU as usize + ETHERNET + VLAN;
const MAX_LARGE: usize = u16::MAX as usize + ETHERNET;
/// Rings with fewer buffers than this are filled all the same.
const SMALL_RING: usize = 4 * BATCH;
/// Frames up to this size are always copied: who sits on one would keep a whole buffer for it.
const SMALL: usize = 256;
/// When fewer buffers than this are free, all frames are copied.
const LOW: usize = 32;

/// Where the rings are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rings {
    /// Address of the receive ring.
    pub receive: u64,
    /// Address of the transmit ring.
    pub transmit: u64,
    /// Descriptors in each.
    pub size: u16,
    /// Addresses of the rings of answers to them, where the format has those.
    pub answers: [u64; 2],
}

/// What a filled buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// A part of a frame that goes on in the next buffer.
    Part,
    /// The end of a frame, and thereby a whole one if the one before was an end too.
    End(RxChecksum),
    /// The end of a frame with an error.
    Bad,
}

/// How a packet is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Job {
    /// A descriptor without memory that goes before it.
    pub context: Option<[u64; 2]>,
    /// What all its descriptors have in their control words.
    pub word: u64,
    /// Bytes of a descriptor at most.
    pub piece: usize,
}

/// What is different from card to card.
pub(super) trait Chip: Send {
    /// How descriptors are laid out, to receive and to transmit.
    fn formats(&self) -> [Format; 2];
    /// The number of descriptors in each ring.
    fn ring_size(&self) -> u16;
    /// How many of them there seem to be, where the device cannot have as few as are wanted: the others
    /// are never in use at the same time.
    fn ring_use(&self) -> u16 {
        self.ring_size()
    }
    /// Resets the device, after which it touches no memory any more and its address can be read.
    fn stop(&mut self) -> Result<(), DeviceFault>;
    /// Its own Ethernet address, if it has one.
    fn mac(&self) -> Option<[u8; 6]>;
    /// Sets the device going, after [`Chip::stop`], with empty rings.
    fn start(&mut self, mac: [u8; 6], rings: Rings) -> Result<(), DeviceFault>;
    /// What it does for us.
    fn capabilities(&self) -> Capabilities;
    /// Bytes of a descriptor at most, and descriptors of a packet.
    fn limits(&self) -> (usize, u16) {
        (4096, u16::MAX)
    }
    /// Whether there is a link, or why there is no device any more.
    fn link(&self) -> Result<bool, DeviceFault>;
    /// Whether the device has said since the last call that it got stuck, or has been reset by somebody
    /// else and knows nothing of its rings any more.
    fn stuck(&mut self) -> bool {
        false
    }
    /// The control word of an empty buffer.
    fn empty(&self, part: Part) -> u64;
    /// How many bytes the device has written, if it has filled the buffer.
    fn written(&self, control: u64) -> Option<usize>;
    /// What is in a buffer with this control word.
    fn filled(&self, control: u64) -> Filled;
    /// Makes a packet ready, which may change its headers; `None` if the device cannot send it.
    fn prepare(&mut self, packet: &mut TxPacket) -> Option<Job>;
    /// The control word of a piece of a packet.
    fn piece(&self, word: u64, part: Part) -> u64;
    /// Whether the device is done with a packet whose last control word this is.
    fn sent(&self, control: u64) -> bool;
    /// Tells the device that there are empty buffers up to `tail`.
    fn offer(&self, tail: u16);
    /// Tells the device that there are packets up to `tail`.
    fn announce(&self, tail: u16);
    /// Asks for an interrupt at the next frame, and at the next packet sent if `starved`.
    fn arm(&self, starved: bool);
    /// No more interrupts.
    fn disarm(&self);
    /// Frames that the device has had no buffer for since the last call.
    fn missed(&mut self) -> u64;
    /// Makes the device interrupt, or lets it rest again; before [`Chip::start`].
    fn provoke(&mut self, on: bool);
}

/// A network card.
pub(super) struct Card {
    chip: Box<dyn Chip>,
    mac: [u8; 6],
    interrupts: bool,
    receive: ReceiveRing,
    transmit: TransmitRing<HEAD>,
    supply: Supply,
    /// Buffers and packets that the device has not been told of.
    unoffered: usize,
    unannounced: bool,
    /// In the middle of a frame of several buffers, which is one too many.
    oversized: bool,
    /// A transmit was refused: wake the user when there is room.
    starved: bool,
    finished: u64,
    watchdog: Watchdog,
    fault: Option<DeviceFault>,
    statistics: Statistics,
}

impl Card {
    /// Takes over a card. `interrupts`: it has a vector or a line. A card without an address of its
    /// own gets one from `make_mac`.
    pub(super) fn bind(
        mut chip: Box<dyn Chip>,
        interrupts: bool,
        make_mac: impl FnOnce() -> [u8; 6],
    ) -> Result<Self, DeviceFault> {
        chip.stop()?;
        let mac = chip.mac().unwrap_or_else(make_mac);
        let [to_receive, to_transmit] = chip.formats();
        let (size, most) = (chip.ring_size(), chip.ring_use());
        let receive = ReceiveRing::new(size, most, to_receive)?;
        let (piece, parts) = chip.limits();
        let limits = Limits {
            bytes: match chip.capabilities().segmentation_ipv4 {
                true => MAX_LARGE,
                false => MAX_FRAME,
            },
            piece,
            parts,
        };
        let transmit = TransmitRing::new(size, most, to_transmit, limits)?;
        let capacity = receive.capacity();
        // A small ring would soon run dry if it were not full.
        let at_once = if capacity < SMALL_RING { capacity } else { 0 };
        let pool = Pool::new((capacity + capacity / 2).max(2 * LOW) as u32, BUFFER);
        let mut card = Self {
            chip,
            mac,
            interrupts,
            receive,
            transmit,
            supply: Supply::new(pool, capacity, at_once),
            unoffered: 0,
            unannounced: false,
            oversized: false,
            starved: false,
            finished: 0,
            watchdog: Watchdog::default(),
            fault: None,
            statistics: Statistics::default(),
        };
        card.start()?;
        Ok(card)
    }

    /// Sets the device going with a receive ring that is filled as far as it has ever been.
    fn start(&mut self) -> Result<(), DeviceFault> {
        let rings = Rings {
            receive: self.receive.address(),
            transmit: self.transmit.address(),
            size: self.chip.ring_size(),
            answers: [self.receive.answers(), self.transmit.answers()],
        };
        self.chip.start(self.mac, rings)?;
        self.refill(true);
        self.offer();
        Ok(())
    }

    /// Gives the ring as many buffers as it once had; to `grow`, some more until it is full.
    fn refill(&mut self, grow: bool) {
        if self.fault.is_some() {
            return;
        }
        let (chip, receive) = (&*self.chip, &mut self.receive);
        let post = |buffer| receive.post(buffer, |part| chip.empty(part)).is_ok();
        self.unoffered += self.supply.refill(grow, post);
    }

    fn offer(&mut self) {
        if self.fault.is_none() && core::mem::take(&mut self.unoffered) > 0 {
            self.statistics.notifications += 1;
            self.chip.offer(self.receive.tail());
        }
    }

    /// Whether there is something to do already.
    fn ready(&mut self) -> bool {
        if self.starved {
            self.reclaim();
        }
        if self.fault.is_some() {
            return false;
        }
        let chip = &*self.chip;
        self.receive.pending(|control| chip.written(control))
            || self.starved && self.transmit.has_room()
    }

    fn reclaim(&mut self) {
        let chip = &*self.chip;
        match self.transmit.reclaim(|control| chip.sent(control)) {
            Ok(count) => self.finished += count as u64,
            Err(fault) => self.fail(fault),
        }
    }

    /// The frame in a buffer; `None` if there is none.
    fn packet(&mut self, buffer: Buffer, len: usize, control: u64) -> Option<RxPacket> {
        let filled = self.chip.filled(control);
        let continued = core::mem::replace(&mut self.oversized, filled == Filled::Part);
        let checksum = match filled {
            Filled::Part => return None,
            Filled::End(checksum) if !continued && (ETHERNET..=MAX_FRAME).contains(&len) => {
                checksum
            }
            _ => {
                self.statistics.rx_errors += 1;
                return None;
            }
        };
        let short = self.supply.available() < LOW;
        let copy = match (short, len <= SMALL) {
            (_, true) => Some(Vec::with_capacity(len)),
            (true, false) => match crate::mm::spare(len) {
                Some(copy) => Some(copy),
                None => {
                    self.statistics.rx_errors += 1;
                    self.statistics.rx_no_memory += 1;
                    return None;
                }
            },
            (false, false) => None,
        };
        self.statistics.rx_packets += 1;
        self.statistics.rx_bytes += len as u64;
        let bytes = match copy {
            Some(mut copy) => {
                self.statistics.rx_copied += u64::from(short);
                copy.extend_from_slice(buffer.bytes().get(..len)?);
                Bytes::from(copy)
            }
            None => buffer.into_bytes(0, len),
        };
        Some(RxPacket {
            bytes,
            more: Vec::new(),
            checksum,
            segmentation: None,
        })
    }

    /// Whether the packet asks for nothing that the device does not do, and has a length it takes.
    fn takes(&self, packet: &TxPacket) -> bool {
        let most = match packet.segmentation {
            None => MAX_FRAME,
            Some(_) => MAX_LARGE,
        };
        self.chip.capabilities().cover(packet) && (1..=most).contains(&packet.len())
    }

    fn check_link(&mut self) {
        match self.chip.link() {
            Err(fault) => self.fail(fault),
            Ok(up) => self.watchdog.note_link(up, &mut self.statistics),
        }
    }
}

impl Restart for Card {
    fn restart(&mut self) {
        self.statistics.resets += 1;
        if let Err(fault) = self.chip.stop() {
            return self.fail(fault);
        }
        self.receive.clear();
        self.supply.took_all();
        self.statistics.tx_lost += self.transmit.clear() as u64;
        self.oversized = false;
        self.unannounced = false;
        if let Err(fault) = self.start() {
            self.fail(fault);
        }
    }

    fn fail(&mut self, fault: DeviceFault) {
        log::error!("network card out of service: {fault}");
        self.fault = Some(fault);
        // It may not touch the buffers any more.
        let _ = self.chip.stop();
    }
}

impl Nic for Card {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn mtu(&self) -> u16 {
        MTU
    }

    fn ring(&self) -> usize {
        self.chip.ring_use().into()
    }

    fn link_up(&self) -> bool {
        self.fault.is_none() && self.chip.link() == Ok(true)
    }

    fn capabilities(&self) -> Capabilities {
        self.chip.capabilities()
    }

    fn receive(&mut self) -> Option<RxPacket> {
        while self.fault.is_none() {
            let chip = &*self.chip;
            let taken = match self.receive.take(|control| chip.written(control)) {
                Ok(taken) => taken,
                Err(fault) => {
                    self.fail(fault);
                    break;
                }
            };
            // In batches: each time costs a visit to the device.
            if taken.is_none() || self.supply.is_short() {
                self.refill(false);
            }
            let (buffer, len, control) = taken?;
            self.supply.took(1);
            let packet = self.packet(buffer, len, control);
            if packet.is_some() {
                return packet;
            }
        }
        None
    }

    fn can_transmit(&mut self) -> bool {
        if self.fault.is_some() || self.transmit.has_room() {
            return true;
        }
        self.reclaim();
        let room = self.transmit.has_room() || self.fault.is_some();
        self.starved |= !room;
        room
    }

    fn transmit(&mut self, mut packet: TxPacket) -> Result<(), TxPacket> {
        let bytes = packet.len();
        if self.fault.is_some() || !self.takes(&packet) {
            return Ok(()); // gone, as on a cut wire
        }
        if !self.can_transmit() {
            self.statistics.tx_full += 1;
            return Err(packet);
        }
        if self.fault.is_some() {
            return Ok(());
        }
        let Some(job) = self.chip.prepare(&mut packet) else {
            return Ok(()); // no wire would carry it
        };
        let chip = &*self.chip;
        let control = |part| chip.piece(job.word, part);
        let TxPacket { head, slices, .. } = packet;
        let posted = self
            .transmit
            .post(job.context, &head, slices, job.piece, control);
        if posted.is_ok() {
            self.statistics.tx_packets += 1;
            self.statistics.tx_bytes += bytes as u64;
            self.statistics.tx_segmented += u64::from(packet.segmentation.is_some());
            self.unannounced = true;
        } else {
            debug_assert!(false, "there was room for any packet");
            self.statistics.tx_lost += 1;
        }
        Ok(())
    }

    fn flush(&mut self) {
        // What was sent holds memory, 64 KiB a packet: not until the ring is full of it.
        self.reclaim();
        if self.fault.is_some() {
            return;
        }
        if core::mem::take(&mut self.unannounced) {
            self.statistics.notifications += 1;
            self.chip.announce(self.transmit.tail());
        }
        // Small rings have run dry by then.
        if self.unoffered >= (BATCH / 2).min(self.receive.capacity() / 4) {
            self.offer();
        }
    }

    fn poll(&mut self) -> bool {
        if self.supply.grows() {
            self.refill(true);
            self.offer();
        }
        let ready = self.ready();
        self.starved &= !ready;
        ready
    }

    fn arm(&mut self) -> bool {
        self.refill(true);
        self.flush();
        self.offer();
        if self.fault.is_some() {
            return false;
        }
        if self.interrupts {
            self.chip.arm(self.starved);
        }
        // The device may have filled a buffer, or sent a packet, before it was asked.
        self.ready()
    }

    fn disarm(&mut self) {
        self.starved = false;
        if self.interrupts && self.fault.is_none() {
            self.chip.disarm();
        }
    }

    fn interrupts(&self) -> bool {
        self.interrupts
    }

    fn watch(&mut self, now_ns: u64) -> bool {
        if self.fault.is_some() {
            return false;
        }
        self.check_link();
        if self.fault.is_some() {
            return false;
        }
        let missed = self.chip.missed();
        self.statistics.rx_missed = self.statistics.rx_missed.saturating_add(missed);
        self.reclaim();
        if self.fault.is_some() {
            return false;
        }
        if self.chip.stuck() {
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

impl Drop for Card {
    fn drop(&mut self) {
        // The device must let go of rings and buffers before their memory is used again.
        let _ = self.chip.stop();
    }
}
