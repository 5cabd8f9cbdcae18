use std::boxed::Box;

use proptest::prelude::*;

use super::fake::FakeIntel;
use super::*;
use crate::drivers::net::Nic;
use crate::drivers::net::TxChecksum;
use crate::drivers::net::card::Card;
use crate::drivers::net::conformance::{conformance, filled, frame, tcp};
use crate::drivers::net::fake::{Fake, MAC};

const CHECKED: u64 = TRANSPORT_CHECKED | 1 << 38;

conformance!(FakeIntel);

fn bind(model: Model, ring: u16) -> (FakeIntel, Card) {
    let device = FakeIntel::new();
    let card = filled(Box::new(Intel::new(device.clone(), model, ring)));
    (device, card)
}

fn card() -> (FakeIntel, Card) {
    bind(E1000E, 256)
}

#[test]
fn the_card_is_set_up_as_the_datasheet_says() {
    for model in [E1000, E1000E] {
        let (device, card) = bind(model, 256);
        assert_eq!(card.mac(), MAC);
        assert_eq!((card.mtu(), card.link_up()), (1500, true));
        let can = card.capabilities();
        assert!(can.tx_checksum && can.rx_checksum && can.segmentation_ipv4);
        assert_eq!(can.segmentation_ipv6, model.express);
        assert_eq!(device.register(RECEIVE_LENGTH), 256 * 16);
        assert_eq!(device.register(TRANSMIT_LENGTH), 256 * 16);
        assert_eq!(device.register(RECEIVE_ADDRESS), 0x0100_5452);
        assert_eq!(device.register(RECEIVE_ADDRESS + 4), 0x8000_0302);
        assert_eq!(device.register(CONTROL) & SET_LINK_UP, SET_LINK_UP);
        let write_back = if model.express { WRITE_BACK_AT_ONCE } else { 0 };
        assert_eq!(device.register(TRANSMIT_DESCRIPTORS), write_back);
        assert_eq!(device.buffers(), 255);
        assert!(device.running());
        assert_eq!(device.mask(), 0, "quiet while it is polled");
        drop(card);
        assert!(!device.running(), "nobody is there any more");
    }
}

#[test]
fn in_qemu_only_the_card_on_pci_cuts() {
    assert_eq!(E1000.in_qemu(), E1000);
    let chip = Intel::new(FakeIntel::new(), E1000E.in_qemu(), 256);
    let can = chip.capabilities();
    assert!(can.tx_checksum && !can.segmentation_ipv4 && !can.segmentation_ipv6);
}

#[test]
fn ids_name_their_family() {
    assert_eq!(model(0x100e), Some(E1000));
    for id in [0x10d3, 0x153a, 0x155a, 0x15b8] {
        assert_eq!(model(id), Some(E1000E));
    }
    assert_eq!(model(0x1533), None, "I210 has other rings");
}

#[test]
fn a_card_without_an_address_gets_one() {
    let device = FakeIntel::with_address([0; 6]);
    let chip = Intel::new(device.clone(), E1000, 256);
    let card = Card::bind(Box::new(chip), true, || [2, 0, 0, 0, 0, 9]).unwrap();
    assert_eq!(card.mac(), [2, 0, 0, 0, 0, 9]);
    assert_eq!(device.register(RECEIVE_ADDRESS + 4), 0x8000_0900);
}

#[test]
fn frames_arrive_with_what_is_known_of_their_checksum() {
    let (device, mut card) = card();
    for (status, checksum) in [
        (CHECKED, RxChecksum::Valid),
        (0, RxChecksum::Unknown),
        (CHECKED | NOT_CHECKED, RxChecksum::Unknown),
        (CHECKED | 1 << 45, RxChecksum::Unknown),
        (CHECKED | 1 << 46, RxChecksum::Unknown),
    ] {
        for len in [60, 1514] {
            assert!(device.deliver(&vec![3; len], status));
            let packet = card.receive().unwrap();
            assert_eq!(packet.bytes, vec![3; len]);
            assert_eq!(packet.checksum, checksum, "{status:#x}");
        }
    }
    assert!(card.receive().is_none());
}

#[test]
fn what_no_wire_carries_is_counted_and_costs_nobody_else_a_frame() {
    let (device, mut card) = card();
    assert!(device.deliver(&[1; 13], 0), "undersized");
    assert!(device.deliver(&[1; 1519], 0), "oversized");
    assert!(device.deliver(&[1; 5000], 0), "in three buffers");
    for error in [40, 41, 42, 44, 47] {
        assert!(device.deliver(&[1; 60], 1 << error));
    }
    assert!(device.deliver(&[2; 60], 0));
    assert_eq!(card.receive().unwrap().bytes, vec![2; 60]);
    assert_eq!(card.statistics().rx_errors, 8);
    assert_eq!(card.statistics().rx_packets, 1);
    assert!(card.fault().is_none());
}

#[test]
fn an_interrupt_for_packets_sent_comes_only_while_somebody_waits_for_room() {
    let (device, mut card) = card();
    while card.transmit(frame(60)).is_ok() {}
    assert!(!card.arm());
    assert!(device.wakes()[1]);
    while device.send().is_some() {}
    assert!(card.arm());
    card.disarm();
    assert!(!card.arm());
    assert_eq!(device.wakes(), [true, false]);
}

#[test]
fn a_checksum_is_asked_for_once_and_for_all_like_it() {
    let (device, mut card) = card();
    let mut send = |packet| {
        card.transmit(packet).unwrap();
        card.flush();
        device.send().unwrap()
    };
    for (fresh, ipv6) in [(true, false), (false, false), (true, true), (true, false)] {
        let sent = send(tcp(ipv6, 100, None));
        assert_eq!(sent.fresh, fresh);
        let start = if ipv6 { 54 } else { 34 };
        assert_eq!(sent.context, [start << 32 | (start + 16) << 40, EXTENDED]);
        assert_eq!(sent.word >> 40, 0b10, "TXSM");
        assert_eq!(sent.word & SEGMENT, 0);
    }
    let plain = send(frame(60));
    assert_eq!((plain.fresh, plain.word >> 40), (false, 0));
    assert!(
        !send(tcp(false, 100, None)).fresh,
        "the device still has it"
    );
}

#[test]
fn a_packet_to_be_cut_has_empty_lengths_and_says_all_of_itself() {
    for ipv6 in [false, true] {
        let (device, mut card) = card();
        for _ in 0..2 {
            card.transmit(tcp(ipv6, 60_000, Some(1448))).unwrap();
            card.flush();
            let sent = device.send().unwrap();
            assert!(sent.fresh, "a context is good for one such packet");
            let start = if ipv6 { 54u64 } else { 34 };
            let [first, second] = sent.context;
            assert_eq!(first & 0xffff_ffff, 14 | 24 << 8 | (start - 1) << 16);
            assert_eq!(first >> 32, start | (start + 16) << 8);
            let kind = CONTEXT_TCP | SEGMENT | EXTENDED | if ipv6 { 0 } else { CONTEXT_IPV4 };
            let sizes = (start + 32) << 40 | 1448 << 48;
            assert_eq!(second, 60_000 | kind | sizes);
            let popts = if ipv6 { 0b10 } else { 0b11 };
            assert_eq!(sent.word >> 40, popts);
            assert_ne!(sent.word & SEGMENT, 0);
            assert!(sent.pieces.iter().all(|&len| len <= PIECE));
            let start = start as usize;
            assert_eq!(
                sent.bytes[start + 16..start + 18],
                [0x10, 0],
                "no length in it"
            );
            let lengths = if ipv6 { 18..20 } else { 16..18 };
            assert_eq!(sent.bytes[lengths], [0, 0]);
            assert_eq!(
                sent.bytes[24..26] == [0, 0],
                !ipv6,
                "IPv4 has a checksum there"
            );
            assert_eq!(sent.bytes.len(), start + 32 + 60_000);
        }
    }
}

#[test]
fn a_packet_that_says_nonsense_about_itself_is_not_sent() {
    let (device, mut card) = card();
    let mut far = tcp(false, 100, None);
    far.checksum = Some(TxChecksum {
        start: 300,
        offset: 16,
    });
    let mut short = tcp(false, 3000, Some(1448));
    short.head.truncate(40);
    let none = tcp(false, 3000, Some(0));
    for packet in [far, short, none, frame(0), frame(4000)] {
        card.transmit(packet).unwrap();
        card.flush();
        assert!(device.send().is_none());
    }
}

#[test]
fn behind_a_packet_that_is_cut_the_old_card_gets_a_short_one_in_two_pieces() {
    for (model, pieces) in [(E1000, &[62, 4][..]), (E1000E, &[66])] {
        let (device, mut card) = bind(model, 256);
        card.transmit(tcp(false, 60_000, Some(1448))).unwrap();
        for _ in 0..2 {
            card.transmit(tcp(false, 0, None)).unwrap();
        }
        card.flush();
        device.send().unwrap();
        assert_eq!(device.send().unwrap().pieces, pieces);
        assert_eq!(device.send().unwrap().pieces, [66], "once is enough");
    }
}

#[test]
fn a_small_ring_is_given_no_large_packets() {
    let (_, card) = bind(E1000E, 8);
    assert!(!card.capabilities().segmentation_ipv4);
    assert!(card.capabilities().tx_checksum);
}

proptest! {
    #[test]
    fn large_packets_and_nonsense_about_frames_break_nothing(
        express in any::<bool>(),
        steps in prop::collection::vec((1usize..65_000, any::<u64>(), any::<bool>()), 1..100),
    ) {
        let (device, mut card) = bind(if express { E1000E } else { E1000 }, 64);
        for (len, nonsense, report) in steps {
            device.deliver(&vec![1; 1 + len % 4000], nonsense & 0xff << 37);
            drop(card.transmit(tcp(false, len, Some(1448))));
            card.flush();
            device.take(report);
            if nonsense % 8 == 0 {
                device.lie(nonsense);
            }
            if let Some(packet) = card.receive() {
                prop_assert!((14..=1518).contains(&packet.bytes.len()));
            }
            prop_assert_eq!(card.fault().is_none(), device.running(), "stopped if at fault");
        }
    }
}
