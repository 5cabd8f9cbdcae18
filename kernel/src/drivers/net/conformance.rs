//! What every card has to do, whatever its registers and descriptors are: one set of tests, which
//! [`conformance`] makes for a card made of code, and some more for those with a [`Chip`].

use std::boxed::Box;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::card::{Card, Chip};
use super::fake::{Fake, FakeChip, MAC};
use super::{Nic, Protocol, RxPacket, Segmentation, TxChecksum, TxPacket};
use crate::dma::DeviceFault;

pub(super) const SECOND: u64 = 1_000_000_000;

/// A card with a full receive ring.
pub(super) fn filled(chip: Box<dyn Chip>) -> Card {
    let ring = chip.ring_size();
    let mut card = Card::bind(chip, true, || [2; 6]).unwrap();
    fill(&mut card, ring);
    card
}

fn fill(card: &mut dyn Nic, ring: u16) {
    for _ in 0..ring {
        card.arm(); // the ring grows bit by bit
    }
    card.disarm();
}

fn card<F: Fake>() -> (F, Box<dyn Nic>) {
    card_with::<F>(usual::<F>())
}

fn card_with<F: Fake>(ring: u16) -> (F, Box<dyn Nic>) {
    let device = F::new();
    let mut card = device.bind(ring).unwrap();
    fill(&mut *card, ring);
    (device, card)
}

fn usual<F: Fake>() -> u16 {
    F::RINGS.last().copied().unwrap()
}

/// In one piece.
pub(super) fn frame(len: usize) -> TxPacket {
    TxPacket::plain(Bytes::from(vec![7; len]))
}

/// TCP over IPv4 or IPv6 whose checksum has been begun, with so much payload.
pub(super) fn tcp(ipv6: bool, payload: usize, cut: Option<u16>) -> TxPacket {
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

/// In two pieces.
fn pieces(len: usize, mark: u8) -> TxPacket {
    let mut packet = TxPacket::plain(Bytes::from(vec![mark; len - len.min(14)]));
    packet.head.resize(len.min(14), mark);
    packet
}

/// Takes a frame out and lets the ring have its buffer back.
fn receive(card: &mut dyn Nic) -> Option<RxPacket> {
    let packet = card.receive();
    card.arm();
    card.disarm();
    packet
}

pub(super) fn it_is_bound_and_let_go<F: Fake>() {
    let (device, card) = card::<F>();
    assert_eq!(card.mac(), MAC);
    assert_eq!((card.mtu(), card.link_up()), (1500, true));
    assert_eq!(card.ring(), usize::from(usual::<F>()));
    assert!(device.running());
    assert_eq!(device.wakes(), [false; 2], "quiet while it is polled");
    drop(card);
    assert!(!device.running(), "nobody is there any more");
}

pub(super) fn one_that_is_not_there_or_does_not_come_back_is_refused<F: Fake>() {
    let bind = |device: &F| device.bind(usual::<F>()).err();
    let device = F::new();
    device.vanish();
    assert_eq!(bind(&device), Some(DeviceFault::Gone));
    let device = F::new();
    let fault = device.hang();
    assert_eq!(bind(&device), Some(fault));
}

pub(super) fn rings_of_any_size_go_round<F: Fake>() {
    for &ring in F::RINGS {
        let (device, mut card) = card_with::<F>(ring);
        for n in 0..2000usize {
            let (len, mark) = (14 + n % 1500, n as u8);
            assert!(device.give(&vec![mark; len]), "frame {n}, ring of {ring}");
            assert_eq!(receive(&mut *card).unwrap().bytes, vec![mark; len]);
            card.transmit(pieces(len, mark)).unwrap();
            card.flush();
            assert_eq!(device.take(true).unwrap(), vec![mark; len]);
            assert!(device.take(true).is_none());
        }
        let statistics = card.statistics();
        assert_eq!(statistics.tx_full, 0);
        assert_eq!((statistics.rx_packets, statistics.tx_packets), (2000, 2000));
        let octets: u64 = (0..2000).map(|n| 14 + n % 1500).sum();
        assert_eq!((statistics.rx_bytes, statistics.tx_bytes), (octets, octets));
    }
}

/// Under load nobody goes to sleep, and rings are filled only by the way.
pub(super) fn rings_are_filled_again_under_load<F: Fake>() {
    for &ring in F::RINGS {
        let (device, mut card) = card_with::<F>(ring);
        for n in 0..2000u32 {
            assert!(device.give(&[n as u8; 600]), "ring of {ring} dry after {n}");
            assert_eq!(card.receive().unwrap().bytes, vec![n as u8; 600]);
            card.flush();
        }
    }
}

pub(super) fn what_no_wire_carries_is_counted<F: Fake>() {
    let (device, mut card) = card::<F>();
    assert!(device.give(&[1; 13]), "undersized");
    assert!(device.give(&[1; 1519]), "oversized");
    assert!(device.give(&[2; 60]));
    assert_eq!(card.receive().unwrap().bytes, vec![2; 60]);
    assert_eq!(card.statistics().rx_errors, 2);
    assert_eq!(card.statistics().rx_packets, 1);
    assert!(card.fault().is_none());
    for len in [0, 4000] {
        card.transmit(frame(len)).unwrap();
        card.flush();
        assert!(device.take(true).is_none());
    }
}

pub(super) fn a_length_beyond_the_buffer_takes_it_out_of_service<F: Fake>() {
    let (device, mut card) = card::<F>();
    device.overfill(2049);
    assert!(card.receive().is_none());
    assert_eq!(card.fault(), Some(DeviceFault::Length(2049)));
    assert!(!device.running(), "it may not write any more");
    assert!(!card.link_up());
    assert!(card.transmit(frame(60)).is_ok());
    assert!(!card.arm());
}

pub(super) fn a_full_ring_hands_the_packet_back_and_asks_to_be_woken<F: Fake>() {
    let (device, mut card) = card::<F>();
    let refused = loop {
        if let Err(packet) = card.transmit(frame(60)) {
            break packet;
        }
    };
    assert_eq!(refused.len(), 60);
    assert!(!card.can_transmit());
    assert!(!card.arm());
    assert!(device.wakes()[1]);
    while device.take(true).is_some() {}
    assert!(card.arm(), "there is room: do not sleep");
    card.disarm();
    assert_eq!(device.wakes(), [false; 2]);
    card.transmit(refused).unwrap();
}

pub(super) fn a_frame_that_came_before_going_to_sleep_is_noticed<F: Fake>() {
    let (device, mut card) = card::<F>();
    assert!(!card.arm());
    assert!(device.wakes()[0]);
    device.give(&[1; 60]);
    assert!(card.arm());
}

pub(super) fn who_stays_awake_sees_frames_and_room_without_an_interrupt<F: Fake>() {
    let (device, mut card) = card::<F>();
    assert!(!card.poll(), "nothing has come");
    device.give(&[1; 60]);
    assert!(card.poll());
    assert!(card.receive().is_some());
    assert!(!card.poll());
    while card.transmit(frame(60)).is_ok() {}
    card.flush();
    assert!(!card.poll(), "as full as before");
    while device.take(true).is_some() {}
    assert!(card.poll(), "there is room");
    assert!(!card.poll(), "which was said");
    assert_eq!(device.wakes(), [false; 2], "quiet while it is polled");
}

pub(super) fn who_never_sleeps_gets_a_full_ring_too<F: Fake>() {
    let device = F::new();
    let ring = usual::<F>();
    let mut card = device.bind(ring).unwrap();
    for _ in 0..ring {
        card.poll();
    }
    for n in 0..ring - F::SPARE {
        assert!(device.give(&[1; 60]), "no buffer after {n}");
    }
}

pub(super) fn users_that_keep_frames_do_not_starve_the_ring<F: Fake>() {
    let (device, mut card) = card::<F>();
    let mut kept = Vec::new();
    for n in 0..2000u32 {
        assert!(device.give(&[n as u8; 600]), "ring dry after {n}");
        kept.push(receive(&mut *card).unwrap().bytes);
    }
    assert!(card.statistics().rx_copied > 1000);
    for (n, bytes) in kept.iter().enumerate() {
        assert_eq!(bytes[..], [n as u8; 600]);
    }
}

pub(super) fn one_that_sends_nothing_is_reset_and_serves_again<F: Fake>() {
    let (device, mut card) = card::<F>();
    let resets = device.resets();
    card.transmit(frame(60)).unwrap();
    card.transmit(frame(60)).unwrap();
    card.flush();
    assert!(card.watch(10 * SECOND));
    assert!(device.take(false).is_some(), "sent, but never reported");
    card.watch(11 * SECOND);
    assert_eq!(device.resets(), resets);
    card.watch(12 * SECOND);
    assert_eq!(device.resets(), resets + 1);
    let statistics = card.statistics();
    assert_eq!((statistics.resets, statistics.tx_lost), (1, 2));
    card.transmit(frame(61)).unwrap();
    card.flush();
    assert_eq!(device.take(true).unwrap().len(), 61);
    card.watch(20 * SECOND);
    assert_eq!(card.statistics().resets, 1);
    let frames = (0..).take_while(|_| device.give(&[5; 60])).count();
    assert_eq!(
        frames,
        usize::from(usual::<F>() - F::SPARE),
        "as full as before"
    );
    assert_eq!(card.receive().unwrap().bytes, vec![5; 60]);
}

pub(super) fn a_reset_by_order_loses_what_is_under_way_and_mends_nothing_that_is_over<F: Fake>() {
    let (device, mut card) = card::<F>();
    for _ in 0..3 {
        assert!(device.give(&[5; 600]));
        card.transmit(frame(60)).unwrap();
        card.reset();
        assert!(card.receive().is_none() && device.take(true).is_none());
        assert!(device.give(&[6; 600]));
        assert_eq!(card.receive().unwrap().bytes, vec![6; 600]);
        card.transmit(frame(61)).unwrap();
        card.flush();
        assert_eq!(device.take(true).unwrap().len(), 61);
        card.flush();
    }
    let statistics = card.statistics();
    assert_eq!((statistics.resets, statistics.tx_lost), (3, 3));
    device.vanish();
    card.watch(SECOND);
    let fault = card.fault();
    assert!(fault.is_some());
    card.reset();
    assert_eq!((card.fault(), card.statistics().resets), (fault, 3));
}

pub(super) fn one_that_resets_itself_is_set_going_again<F: Fake>() {
    let (device, mut card) = card::<F>();
    card.transmit(frame(60)).unwrap();
    card.flush();
    card.watch(SECOND);
    device.forget();
    assert!(!device.give(&[5; 60]) && device.take(true).is_none());
    card.watch(2 * SECOND);
    let statistics = card.statistics();
    assert_eq!((statistics.resets, statistics.tx_lost), (1, 1));
    assert!(device.give(&[5; 60]));
    assert_eq!(card.receive().unwrap().bytes, vec![5; 60]);
    card.transmit(frame(61)).unwrap();
    card.flush();
    assert_eq!(device.take(true).unwrap().len(), 61);
    card.watch(3 * SECOND);
    assert_eq!(card.statistics().resets, 1);
}

pub(super) fn one_that_resets_do_not_help_is_given_up<F: Fake>() {
    let (_device, mut card) = card::<F>();
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

pub(super) fn one_that_does_not_survive_its_reset_is_out_of_service<F: Fake>() {
    let (device, mut card) = card::<F>();
    card.transmit(frame(60)).unwrap();
    card.flush();
    let fault = device.hang();
    for second in 10..13 {
        card.watch(second * SECOND);
    }
    assert_eq!(card.fault(), Some(fault));
    assert!(!device.running());
}

pub(super) fn without_a_link_nothing_is_stuck<F: Fake>() {
    let (device, mut card) = card::<F>();
    card.transmit(frame(60)).unwrap();
    card.flush();
    device.set_link(false);
    for second in 1..20 {
        card.watch(second * SECOND);
    }
    assert!(!card.link_up());
    device.set_link(true);
    card.watch(20 * SECOND);
    assert_eq!(device.take(true).unwrap().len(), 60);
    card.watch(30 * SECOND);
    let statistics = card.statistics();
    assert_eq!((statistics.link_changes, statistics.resets), (2, 0));
}

pub(super) fn one_that_is_pulled_out_is_out_of_service<F: Fake>() {
    let (device, mut card) = card::<F>();
    device.vanish();
    card.watch(SECOND);
    assert_eq!(card.fault(), Some(DeviceFault::Gone));
}

pub(super) fn frames_it_had_no_buffer_for_are_counted<F: FakeChip>() {
    let (device, mut card) = card::<F>();
    device.miss(3);
    card.watch(SECOND);
    device.miss(4);
    card.watch(2 * SECOND);
    card.watch(3 * SECOND);
    assert_eq!(card.statistics().rx_missed, 7);
}

pub(super) fn it_interrupts_when_it_is_told_to<F: FakeChip>() {
    let device = F::new();
    let mut chip = device.chip(usual::<F>());
    chip.provoke(true);
    while device.take(true).is_some() {}
    assert!(device.interrupts());
    chip.provoke(false);
    assert!(!device.interrupts());
}

/// What happens to a card, in [`no_device_breaks_the_driver`].
#[derive(Clone, Debug)]
pub(super) enum Step {
    Give(usize),
    Lie(u64),
    Receive,
    Send(usize),
    Take(bool),
    Poll,
    Sleep,
    Forget,
    Later,
    Link(bool),
    Reset,
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (1usize..2048).prop_map(Step::Give),
        1 => any::<u64>().prop_map(Step::Lie),
        8 => Just(Step::Receive),
        8 => (1usize..1518).prop_map(Step::Send),
        6 => any::<bool>().prop_map(Step::Take),
        2 => Just(Step::Poll),
        2 => Just(Step::Sleep),
        2 => Just(Step::Forget),
        1 => Just(Step::Later),
        1 => any::<bool>().prop_map(Step::Link),
        1 => Just(Step::Reset),
    ];
    prop::collection::vec(step, 1..300)
}

/// Whatever it does, it is stopped before its memory goes, and its frames are frames.
pub(super) fn no_device_breaks_the_driver<F: Fake>(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let (device, mut card) = card::<F>();
    let mut kept = Vec::new();
    let mut now = 0;
    for step in steps {
        match step {
            Step::Give(len) => drop(device.give(&vec![1; len])),
            Step::Lie(what) => device.lie(what),
            Step::Receive => kept.extend(card.receive()),
            Step::Send(len) => drop(card.transmit(frame(len))),
            Step::Take(report) => drop(device.take(report)),
            Step::Poll => {
                card.poll();
            }
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
            Step::Reset => {
                card.watch(now);
                device.forget();
                card.watch(now);
            }
        }
        prop_assert_eq!(
            card.fault().is_none(),
            device.running(),
            "stopped if at fault"
        );
    }
    for packet in &kept {
        let len = packet.bytes.len() + packet.more.iter().map(Bytes::len).sum::<usize>();
        let most = packet.segmentation.map_or(1518, |_| 65_549 + 4);
        prop_assert!((14..=most).contains(&len));
    }
    Ok(())
}

pub(super) fn an_honest_device_gets_everything_in_order<F: Fake>(
    ring: usize,
    lengths: Vec<usize>,
) -> Result<(), TestCaseError> {
    let (device, mut card) = card_with::<F>(F::RINGS[ring % F::RINGS.len()]);
    let mut received = Vec::new();
    let mut sent = Vec::new();
    for &len in &lengths {
        while !device.give(&vec![len as u8; len]) {
            received.extend(receive(&mut *card).map(|packet| packet.bytes.len()));
        }
        let mut packet = pieces(len, len as u8);
        while let Err(refused) = card.transmit(packet) {
            packet = refused;
            card.flush();
            sent.extend(device.take(true).map(|sent| sent.len()));
        }
    }
    card.flush();
    received.extend(core::iter::from_fn(|| card.receive()).map(|packet| packet.bytes.len()));
    sent.extend(core::iter::from_fn(|| device.take(true)).map(|sent| sent.len()));
    prop_assert_eq!(received, lengths.clone());
    prop_assert_eq!(sent, lengths);
    Ok(())
}

/// All of these tests for a type that is [`FakeChip`], or in a module of its own for one that is [`Fake`].
macro_rules! conformance {
    ($fake:ty, $module:ident: $($name:ident)*) => {
        mod $module {
            use super::*;
            use crate::drivers::net::conformance as common;

            $(
                #[test]
                fn $name() {
                    common::$name::<$fake>();
                }
            )*

            proptest::proptest! {
                #[test]
                fn no_device_breaks_the_driver(steps in common::steps()) {
                    common::no_device_breaks_the_driver::<$fake>(steps)?;
                }

                #[test]
                fn an_honest_device_gets_everything_in_order(
                    ring in 0usize..4,
                    lengths in proptest::collection::vec(14usize..1514, 1..400),
                ) {
                    common::an_honest_device_gets_everything_in_order::<$fake>(ring, lengths)?;
                }
            }
        }
    };
    ($fake:ty) => {
        $crate::drivers::net::conformance::conformance! { $fake, conformance }

        #[test]
        fn frames_it_had_no_buffer_for_are_counted() {
            $crate::drivers::net::conformance::frames_it_had_no_buffer_for_are_counted::<$fake>();
        }

        #[test]
        fn it_interrupts_when_it_is_told_to() {
            $crate::drivers::net::conformance::it_interrupts_when_it_is_told_to::<$fake>();
        }
    };
    ($fake:ty, $module:ident) => {
        $crate::drivers::net::conformance::conformance! { $fake, $module:
            it_is_bound_and_let_go
            one_that_is_not_there_or_does_not_come_back_is_refused
            rings_of_any_size_go_round
            rings_are_filled_again_under_load
            what_no_wire_carries_is_counted
            a_length_beyond_the_buffer_takes_it_out_of_service
            a_full_ring_hands_the_packet_back_and_asks_to_be_woken
            a_frame_that_came_before_going_to_sleep_is_noticed
            who_stays_awake_sees_frames_and_room_without_an_interrupt
            who_never_sleeps_gets_a_full_ring_too
            users_that_keep_frames_do_not_starve_the_ring
            one_that_sends_nothing_is_reset_and_serves_again
            a_reset_by_order_loses_what_is_under_way_and_mends_nothing_that_is_over
            one_that_resets_itself_is_set_going_again
            one_that_resets_do_not_help_is_given_up
            one_that_does_not_survive_its_reset_is_out_of_service
            without_a_link_nothing_is_stuck
            one_that_is_pulled_out_is_out_of_service
        }
    };
}
pub(super) use conformance;
