use std::boxed::Box;

use bytes::Bytes;
use proptest::prelude::*;

use super::fake::FakeIntel;
use super::*;
use crate::drivers::net::card::Card;
use crate::drivers::net::{Nic, Protocol, RxPacket, Segmentation, TxChecksum};

const ADDRESS: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const CHECKED: u64 = TRANSPORT_CHECKED | 1 << 38;
const SECOND: u64 = 1_000_000_000;

fn bind(model: Model, ring: u16) -> (FakeIntel, Card) {
    let device = FakeIntel::new(ADDRESS);
    let chip = Intel::new(device.clone(), model).with_ring(ring);
    let mut card = Card::bind(Box::new(chip), true, || [2; 6]).unwrap();
    for _ in 0..ring {
        card.arm(); // the ring grows bit by bit
    }
    card.disarm();
    (device, card)
}

fn card() -> (FakeIntel, Card) {
    bind(E1000E, RING)
}

fn frame(len: usize) -> TxPacket {
    TxPacket::plain(Bytes::from(vec![7; len]))
}

/// Takes a frame out and lets the ring have its buffer back.
fn receive(card: &mut Card) -> Option<RxPacket> {
    let packet = card.receive();
    card.arm();
    card.disarm();
    packet
}

#[test]
fn the_card_is_set_up_as_the_datasheet_says() {
    for model in [E1000, E1000E] {
        let (device, card) = bind(model, RING);
        assert_eq!(card.mac(), ADDRESS);
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
    let chip = Intel::new(FakeIntel::new(ADDRESS), E1000E.in_qemu());
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
    let device = FakeIntel::new([0; 6]);
    let chip = Intel::new(device.clone(), E1000);
    let card = Card::bind(Box::new(chip), true, || [2, 0, 0, 0, 0, 9]).unwrap();
    assert_eq!(card.mac(), [2, 0, 0, 0, 0, 9]);
    assert_eq!(device.register(RECEIVE_ADDRESS + 4), 0x8000_0900);
}

#[test]
fn a_card_that_is_not_there_or_does_not_come_back_is_refused() {
    for spoil in [FakeIntel::vanish, FakeIntel::hang] {
        let device = FakeIntel::new(ADDRESS);
        spoil(&device);
        let bound = Card::bind(Box::new(Intel::new(device, E1000E)), true, || [2; 6]);
        assert_eq!(bound.err(), Some(DeviceFault::Gone));
    }
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
fn rings_of_any_size_go_round() {
    for ring in [8, 16, 256] {
        let (device, mut card) = bind(E1000, ring);
        for n in 0..2000usize {
            let len = 14 + n % 1500;
            assert!(
                device.deliver(&vec![n as u8; len], 0),
                "frame {n}, ring of {ring}"
            );
            assert_eq!(receive(&mut card).unwrap().bytes, vec![n as u8; len]);
            let mut packet = frame(len);
            packet
                .head
                .extend_from_slice(&[8; 14][..(1518 - len).min(14)]);
            let total = packet.len();
            card.transmit(packet).unwrap();
            card.flush();
            assert_eq!(device.send().unwrap().bytes.len(), total);
        }
        assert_eq!(card.statistics().tx_full, 0);
    }
}

#[test]
fn a_length_beyond_the_buffer_takes_the_card_out_of_service() {
    let (device, mut card) = card();
    device.fill(&[], DONE | END_OF_PACKET | 2049);
    assert!(card.receive().is_none());
    assert_eq!(card.fault(), Some(DeviceFault::Length(2049)));
    assert!(!device.running(), "it may not write any more");
    assert!(!card.link_up());
    assert!(card.transmit(frame(60)).is_ok());
    assert!(!card.arm());
}

#[test]
fn a_full_ring_hands_the_packet_back_and_asks_to_be_woken() {
    let (device, mut card) = card();
    let refused = loop {
        if let Err(packet) = card.transmit(frame(60)) {
            break packet;
        }
    };
    assert_eq!(refused.len(), 60);
    assert!(!card.can_transmit());
    assert!(!card.arm());
    assert_eq!(device.mask() & CAUSE_SENT, CAUSE_SENT);
    while device.send().is_some() {}
    assert!(card.arm(), "there is room: do not sleep");
    card.disarm();
    assert_eq!(device.mask(), 0);
    card.transmit(refused).unwrap();
    assert!(!card.arm());
    assert_eq!(device.mask() & CAUSE_SENT, 0, "nobody waits for room");
}

#[test]
fn a_frame_that_came_before_going_to_sleep_is_noticed() {
    let (device, mut card) = card();
    assert!(!card.arm());
    assert_eq!(device.mask(), CAUSE_RECEIVED | CAUSE_OVERRUN);
    device.deliver(&[1; 60], 0);
    assert!(card.arm());
}

#[test]
fn users_that_keep_frames_do_not_starve_the_ring() {
    let (device, mut card) = card();
    let mut kept = Vec::new();
    for n in 0..2000u32 {
        assert!(device.deliver(&[n as u8; 600], 0), "ring dry after {n}");
        kept.push(receive(&mut card).unwrap().bytes);
    }
    assert!(card.statistics().rx_copied > 1000);
    for (n, bytes) in kept.iter().enumerate() {
        assert_eq!(bytes[..], [n as u8; 600]);
    }
}

#[test]
fn a_card_that_sends_nothing_is_reset_and_serves_again() {
    let (device, mut card) = card();
    let resets = device.resets();
    card.transmit(frame(60)).unwrap();
    card.transmit(frame(60)).unwrap();
    card.flush();
    assert!(card.watch(10 * SECOND));
    assert!(device.swallow().is_some(), "sent, but never reported");
    card.watch(11 * SECOND);
    assert_eq!(device.resets(), resets);
    card.watch(12 * SECOND);
    assert_eq!(device.resets(), resets + 1);
    let statistics = card.statistics();
    assert_eq!((statistics.resets, statistics.tx_lost), (1, 2));
    card.transmit(frame(61)).unwrap();
    card.flush();
    assert_eq!(device.send().unwrap().bytes.len(), 61);
    assert!(device.deliver(&[5; 60], 0));
    assert_eq!(card.receive().unwrap().bytes, vec![5; 60]);
    card.watch(20 * SECOND);
    assert_eq!(card.statistics().resets, 1);
    assert!(device.buffers() > 200, "the ring is as full as before");
}

#[test]
fn a_card_that_resets_do_not_help_is_given_up() {
    let (_device, mut card) = card();
    let mut now = SECOND;
    while card.fault().is_none() {
        let _ = card.transmit(frame(60));
        card.flush();
        card.watch(now);
        now += SECOND / 4;
        assert!(now < 60 * SECOND, "for ever");
    }
    assert_eq!(card.fault(), Some(DeviceFault::Stalled));
    assert_eq!(card.statistics().resets, 5);
    assert!(!card.watch(now));
}

#[test]
fn without_a_link_nothing_is_stuck() {
    let (device, mut card) = card();
    card.transmit(frame(60)).unwrap();
    card.flush();
    device.set_link(false);
    for second in 1..20 {
        card.watch(second * SECOND);
    }
    assert!(!card.link_up());
    device.set_link(true);
    card.watch(20 * SECOND);
    assert_eq!(device.send().unwrap().bytes.len(), 60);
    card.watch(30 * SECOND);
    let statistics = card.statistics();
    assert_eq!((statistics.link_changes, statistics.resets), (2, 0));
}

#[test]
fn a_card_that_is_pulled_out_is_out_of_service() {
    let (device, mut card) = card();
    device.vanish();
    card.watch(SECOND);
    assert_eq!(card.fault(), Some(DeviceFault::Gone));
}

#[test]
fn frames_the_device_had_no_buffer_for_are_counted() {
    let (device, mut card) = card();
    device.miss(3);
    card.watch(SECOND);
    device.miss(4);
    card.watch(2 * SECOND);
    assert_eq!(card.statistics().rx_missed, 7);
}

#[test]
fn the_card_interrupts_when_it_is_told_to() {
    let device = FakeIntel::new(ADDRESS);
    let mut chip = Intel::new(device.clone(), E1000);
    chip.provoke(true);
    assert!(device.mask() & device.causes() != 0);
    chip.provoke(false);
    assert_eq!(device.mask() & device.causes(), 0);
}

/// TCP over IPv4 or IPv6 whose checksum has been begun, with so much payload.
fn tcp(ipv6: bool, payload: usize, cut: Option<u16>) -> TxPacket {
    let start = if ipv6 { 54 } else { 34 };
    let mut packet = TxPacket {
        checksum: Some(TxChecksum { start, offset: 16 }),
        segmentation: cut.map(|size| Segmentation {
            protocol: [Protocol::TcpIpv4, Protocol::TcpIpv6][usize::from(ipv6)],
            size,
        }),
        ..TxPacket::default()
    };
    let start = usize::from(start);
    packet.head.resize(start + 32, 0xee);
    packet.head[start + 12] = 0x80;
    // The sum of a pseudo-header: 0x1000 without the length.
    let sum = 0x1000u32 + 32 + payload as u32;
    let sum = (sum & 0xffff) + (sum >> 16);
    packet.head[start + 16..start + 18].copy_from_slice(&(sum as u16).to_be_bytes());
    packet.slices.push(Bytes::from(vec![7; payload]));
    packet
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
        let (device, mut card) = bind(model, RING);
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

#[derive(Clone, Debug)]
enum Step {
    Deliver(usize, u64),
    Lie(u64),
    Receive,
    Send(usize),
    Large(usize),
    Complete(bool),
    Sleep,
    Forget,
    Later,
    Link(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1usize..4000, any::<u8>()).prop_map(|(len, bits)| Step::Deliver(len, u64::from(bits) << 37)),
        1 => any::<u64>().prop_map(Step::Lie),
        8 => Just(Step::Receive),
        8 => (1usize..1518).prop_map(Step::Send),
        4 => (1usize..65_000).prop_map(Step::Large),
        6 => any::<bool>().prop_map(Step::Complete),
        2 => Just(Step::Sleep),
        2 => Just(Step::Forget),
        1 => Just(Step::Later),
        1 => any::<bool>().prop_map(Step::Link),
    ]
}

proptest! {
    #[test]
    fn no_device_breaks_the_driver(
        express in any::<bool>(),
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let (device, mut card) = bind(if express { E1000E } else { E1000 }, 64);
        let mut kept = Vec::new();
        let mut now = 0;
        for step in steps {
            match step {
                Step::Deliver(len, status) => drop(device.deliver(&vec![1; len], status)),
                Step::Lie(control) => drop(device.fill(&[], control)),
                Step::Receive => kept.extend(card.receive().map(|packet| packet.bytes)),
                Step::Send(len) => drop(card.transmit(frame(len))),
                Step::Large(len) => drop(card.transmit(tcp(false, len, Some(1448)))),
                Step::Complete(true) => drop(device.send()),
                Step::Complete(false) => drop(device.swallow()),
                Step::Sleep => {
                    card.arm();
                    card.disarm();
                }
                Step::Forget => kept.clear(),
                Step::Later => {
                    now += 3 * SECOND;
                    card.watch(now);
                }
                Step::Link(up) => device.set_link(up),
            }
            prop_assert_eq!(card.fault().is_none(), device.running(), "stopped if at fault");
        }
        for bytes in &kept {
            prop_assert!(bytes.len() >= 14);
        }
    }

    #[test]
    fn an_honest_device_gets_everything_in_order(
        ring in prop_oneof![Just(8u16), Just(64)],
        lengths in prop::collection::vec(14usize..1514, 1..400),
    ) {
        let (device, mut card) = bind(E1000E, ring);
        let mut received = Vec::new();
        let mut sent = Vec::new();
        for &len in &lengths {
            while !device.deliver(&vec![len as u8; len], 0) {
                received.extend(receive(&mut card).map(|packet| packet.bytes.len()));
            }
            let mut packet = frame(len);
            while let Err(refused) = card.transmit(packet) {
                packet = refused;
                card.flush();
                sent.extend(device.send().map(|sent| sent.bytes.len()));
            }
        }
        card.flush();
        received.extend(core::iter::from_fn(|| card.receive()).map(|packet| packet.bytes.len()));
        sent.extend(core::iter::from_fn(|| device.send()).map(|sent| sent.bytes.len()));
        prop_assert_eq!(received, lengths.clone());
        prop_assert_eq!(sent, lengths);
    }
}
