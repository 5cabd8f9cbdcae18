use std::boxed::Box;

use proptest::prelude::*;

use super::fake::FakeVmxnet3;
use super::*;
use crate::drivers::net::Nic;
use crate::drivers::net::card::Card;
use crate::drivers::net::conformance::{SECOND, conformance, filled, frame, tcp};
use crate::drivers::net::fake::{Fake, MAC};

conformance!(FakeVmxnet3);

fn card() -> (FakeVmxnet3, Card) {
    let device = FakeVmxnet3::new();
    let card = filled(Box::new(device.vmxnet3(256, true)));
    (device, card)
}

#[test]
fn the_shared_area_says_what_is_wanted() {
    let (device, card) = card();
    let word = |offset| device.shared(offset);
    assert_eq!(word(0), 0xbabe_fee1);
    assert_eq!(word(16), 1 | 1 << 32, "first versions");
    assert_eq!(word(24), 1, "checksums, no coalescing");
    assert_eq!(word(40) % 128, 0, "descriptions of queues are aligned");
    assert_eq!(word(48) >> 32, 512);
    assert_eq!(word(56), 1500 | 1 << 32 | 1 << 48 | 1 << 56);
    assert_eq!(word(80), 1 | 1 << 8, "one vector, masked by the device");
    assert_eq!(word(120) as u32, 0b1111);
    for (queue, answers) in [(QUEUES, 256), (RECEIVE_QUEUE, 288)] {
        assert_eq!(word(queue + 16) % 512, 0);
        assert_eq!(word(queue + 32) % 512, 0);
        assert_eq!(word(queue + 56) as u32, 256);
        assert_eq!(word(queue + 64) as u32, answers);
    }
    assert_eq!(RECEIVE_QUEUE, QUEUES + 256, "one behind the other");
    assert_eq!(word(QUEUES + 60) as u32, 0, "no data in the ring");
    assert_ne!(word(RECEIVE_QUEUE + 24), 0, "a second ring exists");
    assert_eq!(device.register(device::ADDRESS_LOW), 0x0100_5452);
    assert_eq!(device.register(device::ADDRESS_HIGH), 0x0302);
    assert_eq!(device.tails()[0], 255, "it knows of the buffers");
    let can = card.capabilities();
    assert!(can.tx_checksum && can.rx_checksum && !can.receive_coalescing);
    assert!(can.segmentation_ipv4 && can.segmentation_ipv6);
}

#[test]
fn only_where_it_is_told_to_the_device_cuts() {
    let device = FakeVmxnet3::new();
    assert!(!device.vmxnet3(256, false).capabilities().segmentation_ipv4);
    let small = device.vmxnet3(32, true).capabilities();
    assert!(!small.segmentation_ipv4 && small.tx_checksum);
}

#[test]
fn a_device_that_knows_only_later_versions_is_refused() {
    let memory = crate::mmio::Mmio::fake(0x1000 / 8);
    memory.write32(0, 0b110);
    let chip = Vmxnet3::new(memory, memory, 256, false).unwrap();
    let bound = Card::bind(Box::new(chip), true, || [2; 6]);
    assert_eq!(bound.err(), Some(DeviceFault::Refused));
}

#[test]
fn a_checksum_counts_as_right_only_if_all_of_it_was_checked() {
    let (device, mut card) = card();
    let right = RIGHT_SUM | TCP | IPV4 | RIGHT_IPV4;
    for (first, second, checksum) in [
        (0, right, RxChecksum::Valid),
        (0, RIGHT_SUM | UDP | IPV6, RxChecksum::Valid),
        (NOT_CHECKED, right, RxChecksum::Unknown),
        (0, right & !RIGHT_SUM, RxChecksum::Unknown),
        (0, right & !RIGHT_IPV4, RxChecksum::Unknown),
        (0, right & !TCP, RxChecksum::Unknown),
        (0, right | FRAGMENT, RxChecksum::Unknown),
        // A tag and a sum, which say nothing.
        (0, UNUSED, RxChecksum::Unknown),
    ] {
        for len in [60, 1514] {
            assert!(device.fill(&vec![3; len], |[one, two]| {
                [one & !NOT_CHECKED | first, two | second]
            }));
            let packet = card.receive().unwrap();
            assert_eq!(packet.bytes, vec![3; len]);
            assert_eq!(packet.checksum, checksum, "{first:#x} {second:#x}");
        }
    }
    assert!(card.receive().is_none());
}

#[test]
fn frames_with_errors_or_in_pieces_cost_nobody_else_a_frame() {
    let (device, mut card) = card();
    assert!(device.give(&[1; 3000]), "larger than a buffer");
    assert!(device.fill(&[1; 60], |[one, two]| [one, two | ERROR]));
    assert!(device.fill(&[1; 60], |[one, two]| [one & !FRAME_BEGIN, two]));
    assert!(device.fill(&[1; 2048], |[one, two]| [one & !FRAME_END, two]));
    assert!(device.fill(&[1; 60], |[one, two]| [one & !FRAME_BEGIN, two]));
    assert!(device.give(&[2; 60]));
    assert_eq!(card.receive().unwrap().bytes, vec![2; 60]);
    assert_eq!(card.statistics().rx_errors, 4);
    assert!(card.fault().is_none());
}

#[test]
fn an_answer_that_does_not_say_its_kind_is_taken_as_qemu_means_it() {
    let (device, mut card) = card();
    device.fill(&[1; 60], |[one, two]| [one, two & !(KIND << KIND_AT)]);
    assert_eq!(card.receive().unwrap().bytes, vec![1; 60]);
}

#[test]
fn an_answer_about_another_buffer_ring_or_kind_takes_the_card_out_of_service() {
    let lies: [fn([u64; 2]) -> [u64; 2]; 4] = [
        |[one, two]| [one + 1, two],
        |[one, two]| [one | INDEX, two],
        |[one, two]| [one | 1 << RING_AT, two],
        |[one, two]| [one, two | KIND << KIND_AT],
    ];
    for lie in lies {
        let (device, mut card) = card();
        device.fill(&[1; 60], lie);
        assert!(card.receive().is_none());
        assert!(matches!(card.fault(), Some(DeviceFault::UnknownBuffer(_))));
        assert!(!device.running());
    }
}

#[test]
fn an_answer_about_a_packet_that_was_not_sent_takes_the_card_out_of_service() {
    let (device, mut card) = card();
    device.say_sent(200);
    card.flush();
    assert!(card.fault().is_none(), "nothing is out");
    card.transmit(frame(60)).unwrap();
    card.flush();
    assert_eq!(card.fault(), Some(DeviceFault::UnknownBuffer(200)));
    assert!(!device.running());
}

#[test]
fn a_queue_that_stops_is_set_going_again_but_not_for_ever() {
    let (device, mut card) = card();
    let resets = device.resets();
    device.stop_queue(0b100, 0);
    card.watch(SECOND);
    assert_eq!(
        device.shared(shared::EVENTS),
        0,
        "it knows that it was seen"
    );
    assert_eq!(device.resets(), resets, "a change of the link is no reason");
    for events in [0b1, 0b10] {
        device.stop_queue(events, 0x8000_0001);
        card.watch(SECOND);
        assert!(device.give(&[5; 60]));
        assert_eq!(card.receive().unwrap().bytes, vec![5; 60]);
    }
    assert_eq!(device.resets(), resets + 2);
    assert_eq!(card.statistics().resets, 2);
    for _ in 0..4 {
        device.stop_queue(0b11, 0);
        card.watch(SECOND);
    }
    assert_eq!(card.fault(), Some(DeviceFault::Stalled));
}

#[test]
fn a_count_that_runs_backwards_counts_nothing() {
    let (device, mut card) = card();
    for (said, total) in [(5, 5), (3, 5), (4, 6), (u64::MAX, u64::MAX), (9, u64::MAX)] {
        device.say_missed(said);
        card.watch(SECOND);
        assert_eq!(card.statistics().rx_missed, total);
    }
    assert!(card.fault().is_none());
}

#[test]
fn the_first_piece_says_what_to_do_with_the_packet() {
    let (device, mut card) = card();
    for ipv6 in [false, true] {
        let start = if ipv6 { 54u64 } else { 34 };
        card.transmit(tcp(ipv6, 100, None)).unwrap();
        card.flush();
        let sent = device.send(true).unwrap();
        let work = sent.word & !(LAST | ANSWER | LENGTH | TRANSMIT_LAP);
        assert_eq!(work, SUM | (start + 16) << SIZE_AT | start << HEADERS_AT);
        assert_eq!(sent.bytes.len(), start as usize + 32 + 100);

        card.transmit(tcp(ipv6, 60_000, Some(1448))).unwrap();
        card.flush();
        let sent = device.send(true).unwrap();
        let work = sent.word & !(LENGTH | TRANSMIT_LAP);
        assert_eq!(work, CUT | 1448 << SIZE_AT | (start + 32) << HEADERS_AT);
        assert!(sent.pieces.len() <= 16, "what such a card takes");
        let start = start as usize;
        assert!(sent.pieces[0] >= start + 32, "all headers in one piece");
        let sum = &sent.bytes[start + 16..start + 18];
        assert_eq!(sum, [0x10, 0], "no length in it");
        assert_eq!(sent.bytes.len(), start + 32 + 60_000);
    }
    assert_eq!(device.tails()[1], 14);
    let plain = frame(60);
    card.transmit(plain).unwrap();
    card.flush();
    let word = device.send(true).unwrap().word;
    assert_eq!(word & !TRANSMIT_LAP, LAST | ANSWER | 60);
}

#[test]
fn a_packet_of_many_slices_is_sent_in_sixteen_pieces_at_most() {
    let (device, mut card) = card();
    let mut packet = tcp(false, 30_000, Some(1448));
    for n in 0..20 {
        packet.slices.push(bytes::Bytes::from(vec![n; 1000]));
    }
    let len = packet.len();
    card.transmit(packet).unwrap();
    card.flush();
    let sent = device.send(true).unwrap();
    assert_eq!(sent.bytes.len(), len);
    assert!(sent.pieces.len() <= 16);
}

#[test]
fn the_address_is_the_one_it_was_made_with() {
    let (device, card) = card();
    assert_eq!(card.mac(), MAC);
    drop(card);
    assert!(device.resets() > 1);
}

proptest! {
    #[test]
    fn nonsense_in_answers_breaks_nothing(
        steps in prop::collection::vec((1usize..65_000, any::<[u64; 2]>(), any::<bool>()), 1..100),
    ) {
        let (device, mut card) = card();
        for (len, [one, two], report) in steps {
            let flags = [one & !(INDEX | RING_NUMBER << RING_AT), two & !(KIND << KIND_AT | LENGTH)];
            device.fill(&vec![1; 1 + len % 4000], |[first, second]| {
                [first ^ flags[0], second ^ flags[1]]
            });
            drop(card.transmit(tcp(false, len, Some(1448))));
            card.flush();
            device.take(report);
            if one % 16 == 0 {
                device.lie(two);
            }
            if let Some(packet) = card.receive() {
                prop_assert!((14..=1518).contains(&packet.bytes.len()));
            }
            prop_assert_eq!(card.fault().is_none(), device.running(), "stopped if at fault");
        }
    }
}
