//! Devices of before virtio 1.0: how long the header is, where it lies, how long queues are.

use super::*;

#[test]
fn a_legacy_device_has_a_shorter_header() {
    let device = FakeDevice::new(256).offer(1 << 27 | 1 << 5, &CONFIG);
    let mut card = VirtioNet::bind(FakeTransport::new(&device), RING, true, || [2; 6]).unwrap();
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
fn a_legacy_device_that_wants_two_pieces_of_each_buffer_is_refused() {
    let device = FakeDevice::new(256).offer(1 << 5, &CONFIG);
    let bound = VirtioNet::bind(FakeTransport::new(&device), RING, true, || [2; 6]);
    assert_eq!(bound.err(), Some(BindError::NeedsTwoPieces));
}

#[test]
fn a_legacy_device_with_a_layout_of_its_own_gets_the_header_apart() {
    let (device, mut card) = card_with(1 << 15 | 1 << 5);
    let mut packet = frame(5);
    packet.head.extend([3; 200]);
    card.transmit(packet).unwrap();
    let head = device.next_head(TRANSMIT).unwrap();
    let lengths: Vec<_> = device.chain(TRANSMIT, head).iter().map(|d| d.1).collect();
    assert_eq!(lengths, [HEADER, HEAD - HEADER, 200 - (HEAD - HEADER), 5]);
}

#[test]
fn a_queue_whose_size_is_said_is_used_as_far_as_was_wished() {
    let device = FakeDevice::new(256).offer(1 << 27, &CONFIG);
    let device = device.with_fixed_queues();
    let mut card = VirtioNet::bind(FakeTransport::new(&device), 8, true, || [2; 6]).unwrap();
    card.arm();
    // Round both rings, whose places are as many as the device says, and out of order.
    for round in 0..100 {
        let heads: Vec<_> = core::iter::from_fn(|| device.next_head(RECEIVE)).collect();
        assert_eq!(heads.len(), 8, "round {round}");
        for head in heads.into_iter().rev() {
            device.give_back(RECEIVE, head.into(), LEGACY_HEADER as u32);
        }
        assert!(card.receive().is_none());
        card.arm();
    }
    for wrong in [100, 8192] {
        let device = FakeDevice::new(wrong).offer(1 << 27, &CONFIG);
        let transport = FakeTransport::new(&device.with_fixed_queues());
        let bound = VirtioNet::bind(transport, 8, true, || [2; 6]);
        assert_eq!(
            bound.err(),
            Some(BindError::Device(DeviceFault::NoQueue)),
            "{wrong}"
        );
    }
}

#[test]
fn a_legacy_device_that_merges_has_the_long_header() {
    let legacy = OFFLOADS & !(1 << 32) | 1 << 27;
    let (device, mut card) = card_with(legacy);
    assert!(card.capabilities().receive_coalescing);
    assert_eq!(device.fill_merged(RECEIVE, &large(9000, 5)), 5);
    assert_eq!(card.receive().unwrap().more.len(), 4);
    card.transmit(to_be_cut(0x10, 2)).unwrap();
    let sent = device.read_next(TRANSMIT).unwrap();
    assert_eq!(sent.len(), HEADER + 66 + 2000);
}

#[test]
fn a_queue_whose_size_changes_at_a_reset_is_not_used_again() {
    for size in [128, 512] {
        let device = FakeDevice::new(256).offer(1 << 27, &CONFIG);
        let device = device.with_fixed_queues();
        let mut card = VirtioNet::bind(FakeTransport::new(&device), 8, true, || [2; 6]).unwrap();
        device.say_queue_size(size);
        card.reset();
        assert_eq!(card.fault(), Some(DeviceFault::NoQueue), "{size}");
    }
}
