mod layouts;
mod mtu;

use std::boxed::Box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::header::{LEN as HEADER, SHORT as LEGACY_HEADER};
use super::*;
use crate::drivers::net::conformance::conformance;
use crate::drivers::net::fake::{Fake, MAC};
use crate::drivers::net::supply::BATCH;
use crate::drivers::net::{Protocol, Segmentation, TxChecksum};
use crate::drivers::virtio::fake::{FakeDevice, FakeTransport};
use proptest::prelude::*;

/// Descriptors in each queue.
const RING: u16 = 256;
const MODERN: u64 = 1 << 32 | 1 << 5 | 1 << 16;
const CONFIG: [u8; 12] = [0x52, 0x54, 0, 1, 2, 3, 1, 0, 1, 0, 0xdc, 5];

/// All that a TAP device with `vnet_hdr` makes QEMU offer.
const OFFLOADS: u64 = MODERN | 0x3000_0000 | 1 << 15 | 0x3b83;

/// One with the long header, as all have but legacy ones that do not merge buffers.
#[derive(Clone)]
struct FakeNic<const FEATURES: u64>(FakeDevice);

conformance!(FakeNic<MODERN>, without_merging);
conformance!(FakeNic<{ MODERN | 1 << 15 }>, modern);
conformance!(FakeNic<{ 1 << 27 | 1 << 15 | 1 << 16 | 1 << 5 }>, legacy);
conformance!(
    FakeNic<{ FIXED | 1 << 15 | 1 << 16 | 1 << 5 }>,
    legacy_over_pci
);
conformance!(FakeNic<OFFLOADS>, with_offloads);

/// Not a feature: its queues have the size it says, and no other.
const FIXED: u64 = 1 << 63;

impl<const FEATURES: u64> FakeNic<FEATURES> {
    /// Fills the next buffer and says `claimed`, which may be a lie.
    fn fill(&self, frame: &[u8], claimed: impl FnOnce(usize) -> u32) -> bool {
        let fill = |buffer: &mut [u8]| {
            let end = buffer.len().min(HEADER + frame.len());
            buffer[..HEADER].fill(0);
            buffer[10] = 1;
            buffer[HEADER..end].copy_from_slice(&frame[..end - HEADER]);
            claimed(end)
        };
        self.running() && self.0.fill_next(RECEIVE, fill)
    }
}

impl<const FEATURES: u64> Fake for FakeNic<FEATURES> {
    const RINGS: &'static [u16] = &[4, 8, RING];
    const SPARE: u16 = 0;

    fn new() -> Self {
        let device = FakeDevice::new(256).offer(FEATURES & !FIXED, &CONFIG);
        Self(match FEATURES & FIXED {
            0 => device,
            _ => device.with_fixed_queues(),
        })
    }

    fn bind(&self, ring: u16) -> Result<Box<dyn Nic>, DeviceFault> {
        let transport = FakeTransport::new(&self.0);
        match VirtioNet::bind(transport, ring, true, || MAC) {
            Ok(card) => Ok(Box::new(card)),
            Err(BindError::Device(fault)) => Err(fault),
            Err(error) => panic!("{error}"),
        }
    }

    fn give(&self, frame: &[u8]) -> bool {
        self.fill(frame, |len| len as u32)
    }

    fn overfill(&self, len: u64) {
        self.fill(&[], |_| len as u32);
    }

    fn lie(&self, what: u64) {
        let queue = (what >> 40) as u16 % 2;
        match what % 4 {
            _ if !self.running() => {}
            0 => self
                .0
                .give_back(queue, what as u32 >> 2, (what >> 32) as u32),
            1 => self
                .0
                .give_back(queue, what as u32 >> 2 & 0xff, (what >> 32) as u32),
            2 => drop(self.fill(&[], |_| (what >> 32) as u32)),
            // Of how many buffers it is.
            _ => drop(self.0.fill_next(RECEIVE, |buffer| {
                buffer[..HEADER].copy_from_slice(&what.to_le_bytes().repeat(2)[..HEADER]);
                100
            })),
        }
    }

    fn take(&self, report: bool) -> Option<Vec<u8>> {
        if !self.running() {
            return None;
        }
        let head = self.0.next_head(TRANSMIT)?;
        let sent = self.0.gather(TRANSMIT, head);
        if report {
            self.0.give_back(TRANSMIT, head.into(), 0);
        }
        // A lie made the driver take all of it back.
        Some(sent.get(HEADER..).unwrap_or_default().to_vec())
    }

    fn running(&self) -> bool {
        self.0.status() & DeviceStatus::DRIVER_OK.bits() != 0
    }

    fn resets(&self) -> u32 {
        self.0.resets()
    }

    fn forget(&self) {
        self.0.forget();
    }

    fn set_link(&self, up: bool) {
        self.0.configure(config::STATUS, up.into());
    }

    fn vanish(&self) {
        self.0.vanish();
    }

    fn hang(&self) -> DeviceFault {
        self.0.hang();
        DeviceFault::Gone
    }

    fn wakes(&self) -> [bool; 2] {
        [RECEIVE, TRANSMIT].map(|queue| self.0.wants_interrupt(queue))
    }
}

fn card() -> (FakeDevice, VirtioNet<FakeTransport>) {
    card_with(MODERN)
}

fn card_with(features: u64) -> (FakeDevice, VirtioNet<FakeTransport>) {
    let device = FakeDevice::new(256).offer(features, &CONFIG);
    let mut card = VirtioNet::bind(FakeTransport::new(&device), RING, true, || [2; 6]).unwrap();
    while card.supply.missing() > 0 {
        card.arm();
    }
    card.disarm();
    (device, card)
}

/// The device delivers a frame of `len` bytes, each `mark`.
fn deliver(device: &FakeDevice, len: usize, mark: u8) -> bool {
    device.fill_next(RECEIVE, |buffer| {
        buffer[..HEADER].fill(0xee);
        buffer[HEADER..HEADER + len].fill(mark);
        (HEADER + len) as u32
    })
}

fn frame(len: usize) -> TxPacket {
    TxPacket::plain(Bytes::from(vec![7; len]))
}

#[test]
fn the_card_says_what_the_device_says() {
    let (device, card) = card();
    assert_eq!(card.mac(), [0x52, 0x54, 0, 1, 2, 3]);
    assert_eq!(card.mtu(), 1500);
    assert!(card.link_up());
    assert_eq!(device.accepted(), MODERN);
    assert_eq!(device.status(), 0b1111); // DRIVER_OK and all before it
}

#[test]
fn the_ring_is_filled_bit_by_bit() {
    let device = FakeDevice::new(256).offer(MODERN, &CONFIG);
    let mut card = VirtioNet::bind(FakeTransport::new(&device), RING, true, || [2; 6]).unwrap();
    let available = || core::iter::from_fn(|| device.next_head(RECEIVE)).count();
    assert_eq!(available(), BATCH);
    for _ in 0..usize::from(RING) / BATCH {
        card.arm();
    }
    assert_eq!(available(), usize::from(RING) - BATCH);
}

#[test]
fn a_frame_arrives_without_its_header() {
    let (device, mut card) = card();
    assert!(card.receive().is_none());
    assert!(deliver(&device, 60, 1));
    assert!(deliver(&device, 1514, 2));
    let first = card.receive().unwrap();
    let second = card.receive().unwrap();
    assert_eq!(first.bytes, vec![1; 60]);
    assert_eq!(second.bytes, vec![2; 1514]);
    assert!(card.receive().is_none());
}

#[test]
fn a_device_with_too_small_a_queue_is_refused() {
    let device = FakeDevice::new(2).offer(MODERN, &CONFIG);
    let bound = VirtioNet::bind(FakeTransport::new(&device), RING, true, || [2; 6]);
    assert!(matches!(bound.err(), Some(BindError::Device(_))));
}

#[test]
fn slices_leave_in_one_piece_behind_the_header() {
    let (device, mut card) = card();
    let mut packet = frame(14);
    packet.slices.push(Bytes::from_static(b"hello"));
    packet.slices.push(Bytes::new());
    packet.slices.push(Bytes::from_static(b" world"));
    card.transmit(packet).unwrap();
    let sent = device.read_next(TRANSMIT).unwrap();
    assert_eq!(sent[..HEADER], [0; HEADER]);
    assert_eq!(sent[HEADER + 14..], *b"hello world");
}

#[test]
fn a_head_leaves_with_the_header_in_one_descriptor() {
    let (device, mut card) = card();
    let mut packet = frame(5);
    packet.head.extend_from_slice(b"head");
    card.transmit(packet).unwrap();
    let head = device.next_head(TRANSMIT).unwrap();
    let lengths: Vec<_> = device.chain(TRANSMIT, head).iter().map(|d| d.1).collect();
    assert_eq!(lengths, [HEADER + 4, 5]);
    assert_eq!(
        device.gather(TRANSMIT, head)[HEADER..],
        *b"head\x07\x07\x07\x07\x07"
    );
}

#[test]
fn a_head_too_long_for_its_place_is_sent_whole() {
    let (device, mut card) = card();
    let mut packet = frame(5);
    packet.head.extend((0..200).map(|i| i as u8));
    card.transmit(packet).unwrap();
    let sent = device.read_next(TRANSMIT).unwrap();
    let expected: Vec<u8> = (0..200).map(|i| i as u8).chain([7; 5]).collect();
    assert_eq!(sent[HEADER..], expected);
}

#[test]
fn what_is_sent_lives_until_the_device_is_done_with_it() {
    struct Flag(Arc<AtomicBool>);
    impl AsRef<[u8]> for Flag {
        fn as_ref(&self) -> &[u8] {
            &[1; 60]
        }
    }
    impl Drop for Flag {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let (device, mut card) = card();
    let dropped = Arc::new(AtomicBool::new(false));
    let gone = || dropped.load(Ordering::SeqCst);
    let bytes = Bytes::from_owner(Flag(Arc::clone(&dropped)));
    card.transmit(TxPacket::plain(bytes)).unwrap();
    card.arm();
    assert!(!gone());
    device.read_next(TRANSMIT).unwrap();
    card.flush();
    assert!(gone());
}

#[test]
fn doorbells_are_rung_once_for_many_frames() {
    let (device, mut card) = card();
    let before = device.notifications();
    for _ in 0..10 {
        card.transmit(frame(60)).unwrap();
    }
    card.flush();
    card.flush();
    assert_eq!(device.notifications() - before, 1);
}

#[test]
fn a_small_frame_that_is_kept_keeps_no_buffer() {
    for features in [MODERN, OFFLOADS] {
        let (device, mut card) = card_with(features);
        let free = card.supply.available();
        let mut take = |len: usize, mark: u8| {
            let mut bytes = vec![0; HEADER];
            bytes[10] = 1;
            bytes.resize(HEADER + len, mark);
            assert_eq!(device.fill_merged(RECEIVE, &bytes), 1);
            let packet = card.receive().unwrap();
            while card.supply.missing() > 0 && card.supply.available() > 0 {
                card.arm();
            }
            (packet.bytes, card.supply.available())
        };
        let small: Vec<_> = (0..100).map(|mark| take(SMALL, mark)).collect();
        for (mark, (bytes, left)) in small.iter().enumerate() {
            assert_eq!(bytes[..], [mark as u8; SMALL]);
            assert_eq!(*left, free, "the buffer is in the ring again");
        }
        let (_large, left) = take(SMALL + 1, 7);
        assert_eq!(left, free - 1, "worth its buffer: not copied");
        assert_eq!(card.statistics().rx_copied, 0, "no shortage");
    }
}

#[test]
fn a_runt_does_no_harm_and_an_endless_frame_ends_the_service() {
    let (device, mut card) = card();
    for claimed in [0, 5, HEADER as u32, HEADER as u32 + 13] {
        device.fill_next(RECEIVE, |_| claimed);
    }
    assert!(card.receive().is_none());
    assert_eq!(card.statistics().rx_errors, 4);
    device.fill_next(RECEIVE, |_| u32::MAX);
    assert!(card.receive().is_none());
    assert_eq!(card.fault(), Some(DeviceFault::Length(u32::MAX)));
}

#[test]
fn a_buffer_given_back_twice_takes_the_card_out_of_service() {
    let (device, mut card) = card();
    let head = device.next_head(RECEIVE).unwrap();
    device.give_back(RECEIVE, u32::from(head), 100);
    device.give_back(RECEIVE, u32::from(head), 100);
    assert!(card.receive().is_some());
    // The descriptor may be the next one's by now, but not before the ring was refilled.
    assert!(card.receive().is_none());
    assert_eq!(card.fault(), Some(DeviceFault::UnknownBuffer(head.into())));
    assert!(!card.link_up());
    assert_eq!(device.status(), 0);
    assert!(card.transmit(frame(60)).is_ok());
    assert!(!card.arm());
}

#[test]
fn an_index_beyond_the_ring_takes_the_card_out_of_service() {
    for id in [256, 0xffff, 0x1_0000 - 1, u32::MAX] {
        let (device, mut card) = card();
        device.give_back(RECEIVE, id, 100);
        assert!(card.receive().is_none());
        assert!(card.fault().is_some());
        let (device, mut card) = self::card();
        device.give_back(TRANSMIT, id, 0);
        card.arm();
        assert!(card.fault().is_some());
    }
}

#[test]
fn one_that_says_that_it_needs_a_reset_gets_it_but_not_for_ever() {
    let (device, mut card) = card_with(OFFLOADS);
    for reset in 1..=5 {
        device.say(DeviceStatus::DEVICE_NEEDS_RESET);
        assert!(card.watch(1));
        assert_eq!(card.statistics().resets, reset);
        assert_eq!(device.status(), 0b1111, "and the features are the same");
        assert_eq!(device.accepted(), OFFLOADS);
    }
    device.say(DeviceStatus::DEVICE_NEEDS_RESET);
    card.watch(1);
    assert_eq!(card.fault(), Some(DeviceFault::Stalled));
    assert_eq!(device.status(), 0);
}

#[test]
fn one_that_offers_less_after_a_reset_is_out_of_service() {
    let (device, mut card) = card_with(OFFLOADS);
    let device = device.offer(MODERN, &CONFIG);
    device.say(DeviceStatus::DEVICE_NEEDS_RESET);
    card.watch(1);
    assert_eq!(card.fault(), Some(DeviceFault::Refused));
    assert_eq!(device.status(), 0);
}

#[test]
fn a_large_frame_that_says_it_is_none_is_not_taken() {
    let (device, mut card) = card_with(OFFLOADS);
    for (len, taken) in [(1518, true), (1519, false), (9000, false), (60, true)] {
        let buffers = (HEADER + len).div_ceil(MERGEABLE);
        let mut bytes = large(len, buffers as u16);
        bytes[..10].fill(0);
        assert_eq!(device.fill_merged(RECEIVE, &bytes), buffers);
        assert_eq!(card.receive().is_some(), taken, "{len}");
    }
    assert_eq!(card.statistics().rx_errors, 2);
}

/// A large frame as the device hands it over: header, then `len` bytes that count up.
fn large(len: usize, buffers: u16) -> Vec<u8> {
    let mut bytes = vec![1, 1, 66, 0, 0xa8, 5, 34, 0, 16, 0];
    bytes.extend_from_slice(&buffers.to_le_bytes());
    bytes.extend((0..len).map(|i| (i / 64) as u8));
    bytes
}

#[test]
fn a_device_that_does_the_work_is_asked_to() {
    let (device, card) = card_with(OFFLOADS);
    assert_eq!(device.accepted(), OFFLOADS);
    assert_eq!(
        card.capabilities(),
        Capabilities {
            tx_checksum: true,
            rx_checksum: true,
            segmentation_ipv4: true,
            segmentation_ipv6: true,
            receive_coalescing: true,
        }
    );
    let (_, plain) = self::card();
    assert_eq!(plain.capabilities(), Capabilities::default());
}

#[test]
fn what_makes_no_sense_alone_is_not_accepted() {
    let accepted = |without: Features| card_with(OFFLOADS & !without.bits()).0.accepted();
    let host = Features::HOST_TSO4 | Features::HOST_TSO6 | Features::HOST_ECN;
    let guest = Features::GUEST_TSO4 | Features::GUEST_TSO6 | Features::GUEST_ECN;
    for (without, gone) in [
        (Features::CSUM, host | guest),
        (Features::GUEST_CSUM, guest),
        // A buffer of the ordinary size would not hold a large frame.
        (Features::MRG_RXBUF, guest),
        (Features::HOST_TSO4 | Features::HOST_TSO6, host | guest),
        (Features::GUEST_TSO4 | Features::GUEST_TSO6, guest),
    ] {
        assert_eq!(accepted(without), OFFLOADS & !(without | gone).bits());
    }
}

#[test]
fn a_small_ring_takes_no_frame_that_is_larger_than_the_ring() {
    let device = FakeDevice::new(16).offer(OFFLOADS, &CONFIG);
    let mut card = VirtioNet::bind(FakeTransport::new(&device), RING, true, || [2; 6]).unwrap();
    assert!(!card.capabilities().receive_coalescing);
    for i in 0..100 {
        let mut packet = frame(14);
        packet
            .slices
            .extend((0..30).map(|n| Bytes::from(vec![n; 10])));
        card.transmit(packet).unwrap();
        assert_eq!(device.read_next(TRANSMIT).unwrap().len(), HEADER + 314);
        let mut bytes = large(100, 1);
        bytes[..10].fill(0);
        assert_eq!(device.fill_merged(RECEIVE, &bytes), 1, "ring dry after {i}");
        assert_eq!(card.receive().unwrap().bytes.len(), 100);
        card.arm();
        card.disarm();
    }
}

#[test]
fn a_large_frame_arrives_in_the_buffers_it_was_spread_over() {
    let (device, mut card) = card_with(OFFLOADS);
    let bytes = large(65_000, 32);
    assert_eq!(device.fill_merged(RECEIVE, &bytes), 32);
    let packet = card.receive().unwrap();
    assert_eq!(packet.more.len(), 31);
    assert_eq!(packet.checksum, RxChecksum::Partial);
    let cut = packet.segmentation.unwrap();
    assert_eq!((cut.protocol, cut.size), (Protocol::TcpIpv4, 1448));
    let whole = [vec![packet.bytes], packet.more].concat().concat();
    assert_eq!(whole, bytes[HEADER..]);
    assert_eq!(card.statistics().rx_copied, 0);
    assert_eq!(card.statistics().rx_coalesced, 1);
}

#[test]
fn large_frames_that_are_kept_do_not_starve_the_ring() {
    let (device, mut card) = card_with(OFFLOADS);
    let mut kept = Vec::new();
    for i in 0..100 {
        let filled = device.fill_merged(RECEIVE, &large(65_000, 32));
        assert_eq!(filled, 32, "ring dry after {i}");
        kept.push(card.receive().unwrap());
        while card.supply.missing() > 0 && card.supply.available() > 0 {
            card.arm();
        }
    }
    assert!(card.statistics().rx_copied > 90);
    for packet in kept {
        let whole = [vec![packet.bytes], packet.more].concat().concat();
        assert_eq!(whole, large(65_000, 32)[HEADER..]);
    }
}

#[test]
fn a_device_that_lies_about_the_buffers_of_a_frame_is_out_of_service() {
    for (said, fault) in [
        (0, DeviceFault::BufferCount(0)),
        (257, DeviceFault::BufferCount(257)),
        (u16::MAX, DeviceFault::BufferCount(u16::MAX)),
        (3, DeviceFault::MissingBuffers { said: 3, given: 2 }),
    ] {
        let (device, mut card) = card_with(OFFLOADS);
        device.fill_merged(RECEIVE, &large(4000, said));
        assert!(card.receive().is_none());
        assert_eq!(card.fault(), Some(fault));
        assert_eq!(device.status(), 0);
    }
    // More than an IP packet can be, though all the buffers are there.
    let (device, mut card) = card_with(OFFLOADS);
    let count = device.fill_merged(RECEIVE, &large(80_000, 40));
    assert_eq!(count, 40);
    assert!(card.receive().is_none());
    assert_eq!(card.fault(), Some(DeviceFault::BufferCount(40)));
}

#[test]
fn a_length_beyond_a_later_buffer_takes_the_card_out_of_service() {
    let (device, mut card) = card_with(OFFLOADS);
    device.fill_next(RECEIVE, |buffer| {
        buffer[..HEADER].copy_from_slice(&large(0, 2));
        buffer.len() as u32
    });
    device.fill_next(RECEIVE, |buffer| buffer.len() as u32 + 1);
    assert!(card.receive().is_none());
    assert_eq!(card.fault(), Some(DeviceFault::Length(2049)));
}

#[test]
fn a_used_index_beyond_what_is_outstanding_takes_the_card_out_of_service() {
    let (device, mut card) = card_with(OFFLOADS);
    let head = device.next_head(RECEIVE).unwrap();
    for _ in 0..257 {
        device.give_back(RECEIVE, head.into(), 100);
    }
    assert!(card.receive().is_none());
    assert_eq!(card.fault(), Some(DeviceFault::Index(257)));
}

#[test]
fn a_header_that_makes_no_sense_costs_its_frame_only() {
    let (device, mut card) = card_with(OFFLOADS);
    for (at, value) in [(1, 3), (1, 7), (1, 0x80 | 5)] {
        let mut bytes = large(5000, 3);
        bytes[at] = value;
        device.fill_merged(RECEIVE, &bytes);
    }
    let mut no_size = large(5000, 3);
    no_size[4..6].fill(0);
    device.fill_merged(RECEIVE, &no_size);
    device.fill_merged(RECEIVE, &large(100, 1));
    assert_eq!(card.receive().unwrap().bytes.len(), 100);
    assert_eq!(card.statistics().rx_errors, 4);
    assert!(card.fault().is_none());
}

#[test]
fn a_datagram_without_its_checksum_gets_it() {
    let (device, mut card) = card_with(OFFLOADS);
    let mut bytes = vec![1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 1, 0];
    bytes.extend_from_slice(&[0; 34]);
    // A UDP header whose checksum is the pseudo-header's so far.
    bytes.extend_from_slice(&[0, 53, 0, 54, 0, 9, 0x12, 0x34, 7]);
    device.fill_merged(RECEIVE, &bytes);
    let packet = card.receive().unwrap();
    let sum = !(53 + 54 + 9 + 0x1234 + 0x0700u16);
    assert_eq!(packet.bytes[40..42], sum.to_be_bytes());
    assert_eq!(packet.checksum, RxChecksum::Unknown, "it can be verified");
    // One that would lie outside is left alone.
    bytes[6..8].copy_from_slice(&60_000u16.to_le_bytes());
    device.fill_merged(RECEIVE, &bytes);
    assert_eq!(card.receive().unwrap().checksum, RxChecksum::Partial);
}

/// TCP over IPv4 with these flags, for the device to cut.
fn to_be_cut(flags: u8, slices: usize) -> TxPacket {
    let mut packet = TxPacket {
        checksum: Some(TxChecksum {
            start: 34,
            offset: 16,
        }),
        segmentation: Some(Segmentation {
            protocol: Protocol::TcpIpv4,
            size: 1448,
        }),
        ..TxPacket::default()
    };
    packet.head.resize(66, 0);
    packet.head[34 + 13] = flags;
    let slice = |n| Bytes::from(vec![n as u8; 1000]);
    packet.slices.extend((0..slices).map(slice));
    packet
}

#[test]
fn work_for_the_device_is_in_the_header() {
    let (device, mut card) = card_with(OFFLOADS);
    for (flags, kind) in [(0x10, 1), (0x90, 0x81)] {
        card.transmit(to_be_cut(flags, 3)).unwrap();
        let sent = device.read_next(TRANSMIT).unwrap();
        assert_eq!(
            sent[..HEADER],
            [1, kind, 66, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0]
        );
        assert_eq!(sent.len(), HEADER + 66 + 3000);
    }
    // A device that does not know of CWR is not told.
    let (device, mut card) = card_with(OFFLOADS & !Features::HOST_ECN.bits());
    card.transmit(to_be_cut(0x90, 3)).unwrap();
    assert_eq!(device.read_next(TRANSMIT).unwrap()[1], 1);
}

#[test]
fn many_slices_go_through_a_table() {
    let (device, mut card) = card_with(OFFLOADS);
    for count in [1, 5, 6, 40, 63, 64] {
        card.transmit(to_be_cut(0x10, count)).unwrap();
        let head = device.next_head(TRANSMIT).unwrap();
        assert_eq!(device.chain(TRANSMIT, head).len(), count + 1);
        let bytes = device.gather(TRANSMIT, head);
        let expected: Vec<u8> = (0..count).flat_map(|n| vec![n as u8; 1000]).collect();
        assert_eq!(bytes[HEADER + 66..], expected);
        device.give_back(TRANSMIT, head.into(), 0);
    }
    // Tables take one descriptor each, so 256 packets fit whatever they are made of.
    let mut sent = 0;
    while card.transmit(to_be_cut(0x10, 40)).is_ok() {
        sent += 1;
    }
    assert_eq!(sent, 256);
}

#[test]
fn with_event_indices_each_side_is_woken_when_it_wants() {
    let (device, mut card) = card_with(OFFLOADS);
    assert!(!device.wants_interrupt(RECEIVE) && !device.wants_interrupt(TRANSMIT));
    assert!(!card.arm());
    assert!(device.wants_interrupt(RECEIVE) && !device.wants_interrupt(TRANSMIT));
    deliver_one(&device);
    assert!(!device.wants_interrupt(RECEIVE), "one is enough");
    assert!(card.arm(), "it came before we asked");
    card.disarm();
    assert!(card.receive().is_some());

    let before = device.notifications();
    device.notify_after(TRANSMIT, 3);
    for expected in [0, 0, 1, 1] {
        card.transmit(to_be_cut(0x10, 1)).unwrap();
        card.flush();
        assert_eq!(device.notifications() - before, expected);
    }
}

fn deliver_one(device: &FakeDevice) {
    let mut bytes = large(100, 1);
    bytes[..10].fill(0);
    assert_eq!(device.fill_merged(RECEIVE, &bytes), 1);
}

#[test]
fn event_indices_survive_the_wrap() {
    let (device, mut card) = card_with(OFFLOADS);
    for i in 0..70_000 {
        deliver_one(&device);
        assert!(card.receive().is_some());
        device.notify_after(TRANSMIT, 1);
        let before = device.notifications();
        card.transmit(to_be_cut(0x10, 1)).unwrap();
        card.flush();
        assert_eq!(device.notifications() - before, 1, "packet {i}");
        device.read_next(TRANSMIT).unwrap();
        assert!(!card.arm());
        assert!(device.wants_interrupt(RECEIVE), "packet {i}");
        card.disarm();
    }
}

#[derive(Clone, Debug)]
enum Step {
    Deliver(usize),
    Large(usize, u16),
    Lie(u16, u32, u32),
    Receive,
    Send(usize),
    Complete,
    Sleep,
    Forget,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (14usize..1514).prop_map(Step::Deliver),
        8 => (0usize..70_000, 0u16..10).prop_map(|(len, off)| Step::Large(len, off)),
        1 => (0u16..2, 0u32..300, any::<u32>()).prop_map(|(q, id, len)| Step::Lie(q, id, len)),
        8 => Just(Step::Receive),
        8 => (1usize..1514).prop_map(Step::Send),
        6 => Just(Step::Complete),
        2 => Just(Step::Sleep),
        2 => Just(Step::Forget),
    ]
}

proptest! {
    #[test]
    fn no_device_breaks_the_driver(
        merging in any::<bool>(),
        steps in prop::collection::vec(step(), 1..400),
    ) {
        let (device, mut card) = card_with(if merging { OFFLOADS } else { MODERN });
        let mut kept = Vec::new();
        for step in steps {
            if device.status() == 0 {
                break; // out of service: rings are no longer the device's
            }
            match step {
                Step::Deliver(len) if merging => drop(device.fill_merged(RECEIVE, &large(len, 1))),
                Step::Deliver(len) => drop(deliver(&device, len, len as u8)),
                Step::Large(len, off) => {
                    let right = (HEADER + len).div_ceil(MERGEABLE) as u16;
                    let said = if off < 9 { right } else { (right + off) % 12 };
                    device.fill_merged(RECEIVE, &large(len, said));
                }
                Step::Lie(queue, id, len) => device.give_back(queue, id, len),
                Step::Receive => kept.extend(card.receive().map(|packet| packet.bytes)),
                Step::Send(len) => drop(card.transmit(frame(len))),
                Step::Complete => drop(device.read_next(TRANSMIT)),
                Step::Sleep => {
                    card.arm();
                    card.disarm();
                }
                Step::Forget => kept.clear(),
            }
        }
        for bytes in &kept {
            prop_assert!(bytes.len() >= ETHERNET);
        }
    }
}
