use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::drivers::virtio::fake::{FakeDevice, FakeTransport};
use proptest::prelude::*;

const MODERN: u64 = 1 << 32 | 1 << 5 | 1 << 16;
const CONFIG: [u8; 12] = [0x52, 0x54, 0, 1, 2, 3, 1, 0, 1, 0, 0xdc, 5];

fn card() -> (FakeDevice, VirtioNet<FakeTransport>) {
    let device = FakeDevice::new(256).offer(MODERN, &CONFIG);
    let mut card = VirtioNet::bind(FakeTransport::new(&device), true, || [2; 6]).unwrap();
    while card.missing > 0 {
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
    let mut card = VirtioNet::bind(FakeTransport::new(&device), true, || [2; 6]).unwrap();
    let available = || core::iter::from_fn(|| device.next_head(RECEIVE)).count();
    assert_eq!(available(), BATCH);
    for _ in 0..QUEUE_SIZE / BATCH {
        card.arm();
    }
    assert_eq!(available(), QUEUE_SIZE - BATCH);
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
fn a_legacy_device_has_a_shorter_header() {
    let device = FakeDevice::new(256).offer(1 << 27 | 1 << 5, &CONFIG);
    let mut card = VirtioNet::bind(FakeTransport::new(&device), true, || [2; 6]).unwrap();
    device.fill_next(RECEIVE, |buffer| {
        buffer[LEGACY_HEADER..LEGACY_HEADER + 60].fill(9);
        (LEGACY_HEADER + 60) as u32
    });
    assert_eq!(card.receive().unwrap().bytes, vec![9; 60]);
    card.transmit(frame(60)).unwrap();
    assert_eq!(
        device.read_next(TRANSMIT).unwrap().len(),
        LEGACY_HEADER + 60
    );
}

#[test]
fn a_legacy_device_with_a_layout_of_its_own_is_refused() {
    let device = FakeDevice::new(256).offer(1 << 5, &CONFIG);
    let bound = VirtioNet::bind(FakeTransport::new(&device), true, || [2; 6]);
    assert_eq!(bound.err(), Some(BindError::NoAnyLayout));
}

#[test]
fn a_device_with_too_small_a_queue_is_refused() {
    let device = FakeDevice::new(64).offer(MODERN, &CONFIG);
    let bound = VirtioNet::bind(FakeTransport::new(&device), true, || [2; 6]);
    assert!(matches!(bound.err(), Some(BindError::Queue(_))));
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
    card.arm();
    assert!(gone());
}

#[test]
fn a_full_ring_hands_the_packet_back_and_asks_to_be_woken() {
    let (device, mut card) = card();
    let refused = loop {
        if let Err(packet) = card.transmit(frame(60)) {
            break packet;
        }
    };
    assert_eq!(refused.slices[0].len(), 60);
    assert!(card.statistics().tx_packets >= 100);
    assert!(!card.can_transmit());
    assert!(!card.arm());
    assert!(device.wants_interrupt(TRANSMIT));
    for _ in 0..MAX_SLICES {
        device.read_next(TRANSMIT).unwrap();
    }
    card.disarm();
    assert!(!device.wants_interrupt(TRANSMIT));
    card.transmit(refused).unwrap();
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
fn a_frame_that_came_before_going_to_sleep_is_noticed() {
    let (device, mut card) = card();
    assert!(!device.wants_interrupt(RECEIVE));
    assert!(!card.arm());
    assert!(device.wants_interrupt(RECEIVE));
    card.disarm();
    assert!(!device.wants_interrupt(RECEIVE));
    deliver(&device, 60, 1);
    assert!(card.arm());
}

#[test]
fn users_that_keep_frames_do_not_starve_the_ring() {
    let (device, mut card) = card();
    let mut kept = Vec::new();
    for i in 0..2000u32 {
        assert!(deliver(&device, 60, i as u8), "ring dry after {i}");
        kept.push(card.receive().unwrap().bytes);
        card.arm();
    }
    assert!(card.statistics().rx_copied > 1000);
    for (i, bytes) in kept.iter().enumerate() {
        assert_eq!(bytes[..], [i as u8; 60]);
    }
}

#[test]
fn a_runt_or_an_endless_frame_does_no_harm() {
    let (device, mut card) = card();
    for claimed in [0, 5, HEADER as u32, HEADER as u32 + 13] {
        device.fill_next(RECEIVE, |_| claimed);
    }
    assert!(card.receive().is_none());
    assert_eq!(card.statistics().rx_errors, 4);
    device.fill_next(RECEIVE, |_| u32::MAX);
    let frame = card.receive().unwrap();
    assert!(frame.bytes.len() < 2048);
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
    assert_eq!(card.fault(), Some(DeviceFault::UnknownBuffer(head)));
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
fn a_frame_no_wire_would_carry_is_dropped() {
    let (device, mut card) = card();
    card.transmit(frame(0)).unwrap();
    card.transmit(frame(4000)).unwrap();
    assert!(device.next_head(TRANSMIT).is_none());
}

#[derive(Clone, Debug)]
enum Step {
    Deliver(usize),
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
    fn no_device_breaks_the_driver(steps in prop::collection::vec(step(), 1..400)) {
        let (device, mut card) = card();
        let mut kept = Vec::new();
        for step in steps {
            if device.status() == 0 {
                break; // out of service: rings are no longer the device's
            }
            match step {
                Step::Deliver(len) => drop(deliver(&device, len, len as u8)),
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

    #[test]
    fn an_honest_device_gets_everything_in_order(lengths in prop::collection::vec(14usize..1514, 1..600)) {
        let (device, mut card) = card();
        let mut received = Vec::new();
        let mut sent = Vec::new();
        for &len in &lengths {
            while !deliver(&device, len, len as u8) {
                received.extend(card.receive().map(|packet| packet.bytes));
                card.flush();
            }
            let mut packet = frame(len);
            while let Err(refused) = card.transmit(packet) {
                packet = refused;
                sent.extend(device.read_next(TRANSMIT).map(|bytes| bytes.len() - HEADER));
            }
        }
        received.extend(core::iter::from_fn(|| card.receive()).map(|packet| packet.bytes));
        sent.extend(core::iter::from_fn(|| device.read_next(TRANSMIT)).map(|bytes| bytes.len() - HEADER));
        prop_assert_eq!(received.iter().map(Bytes::len).collect::<Vec<_>>(), lengths.clone());
        prop_assert_eq!(sent, lengths);
    }
}
