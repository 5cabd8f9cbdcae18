use std::boxed::Box;

use bytes::Bytes;
use proptest::prelude::*;

use super::fake::FakeRtl8139;
use super::*;
use crate::drivers::net::Nic;
use crate::drivers::net::card::Card;

const ADDRESS: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const SECOND: u64 = 1_000_000_000;

fn card() -> (FakeRtl8139, Card) {
    let device = FakeRtl8139::new(ADDRESS);
    let mut card = Card::bind(Box::new(Rtl8139(device.clone())), true, || [2; 6]).unwrap();
    for _ in 0..RING {
        card.arm(); // the ring grows bit by bit
    }
    card.disarm();
    (device, card)
}

fn frame(len: usize, mark: u8) -> TxPacket {
    let mut packet = TxPacket::plain(Bytes::from(vec![mark; len - 4]));
    packet.head.extend_from_slice(&[mark; 4]);
    packet
}

#[test]
fn the_card_is_set_up_as_the_datasheet_says() {
    let (device, card) = card();
    assert_eq!(card.mac(), ADDRESS);
    assert_eq!((card.mtu(), card.link_up()), (1500, true));
    assert_eq!(card.capabilities(), Capabilities::default());
    assert_eq!(device.register(CPLUS_COMMAND, 2) as u16, CPLUS);
    assert_eq!(device.register(RECEIVE_CONFIGURATION, 4) as u32, RECEIVE);
    assert_eq!(device.register(TRANSMIT_CONFIGURATION, 4) as u32, TRANSMIT);
    assert_eq!(device.register(RECEIVE_RING, 8) % 256, 0);
    assert_eq!(device.register(LOCK, 1), 0);
    assert!(device.running());
    drop(card);
    assert!(!device.running(), "nobody is there any more");
}

#[test]
fn a_card_that_is_not_there_or_does_not_come_back_is_refused() {
    for spoil in [FakeRtl8139::vanish, FakeRtl8139::hang] {
        let device = FakeRtl8139::new(ADDRESS);
        spoil(&device);
        let bound = Card::bind(Box::new(Rtl8139(device)), true, || [2; 6]);
        assert_eq!(bound.err(), Some(DeviceFault::Gone));
    }
}

#[test]
fn rings_go_round_both_ways() {
    let (device, mut card) = card();
    for n in 0..1000usize {
        let (len, mark) = (14 + n % 1500, n as u8);
        assert!(device.deliver(&vec![mark; len], 0), "frame {n}");
        assert_eq!(card.receive().unwrap().bytes, vec![mark; len]);
        card.arm();
        card.disarm();
        let polls = device.polls();
        card.transmit(frame(len, mark)).unwrap();
        card.flush();
        assert_eq!(device.polls(), polls + 1);
        assert_eq!(device.send(true).unwrap(), vec![mark; len]);
        assert!(device.send(true).is_none());
    }
    assert_eq!(card.statistics().tx_full, 0);
}

#[test]
fn what_no_wire_carries_is_counted_and_costs_nobody_else_a_frame() {
    let (device, mut card) = card();
    assert!(device.deliver(&[1; 13], 0), "undersized");
    assert!(device.deliver(&[1; 1519], 0), "oversized");
    assert!(device.deliver(&[1; 60], ERROR));
    assert!(device.fill(&[1; 2048], FIRST | 2048), "in two buffers");
    assert!(device.fill(&[1; 100], LAST | 104));
    assert!(device.fill(&[], FIRST | LAST), "no frame at all");
    assert!(device.deliver(&[2; 60], 0));
    assert_eq!(card.receive().unwrap().bytes, vec![2; 60]);
    assert_eq!(card.statistics().rx_errors, 5);
    assert!(card.fault().is_none());
}

#[test]
fn a_length_beyond_the_buffer_takes_the_card_out_of_service() {
    let (device, mut card) = card();
    device.fill(&[], FIRST | LAST | 2053);
    assert!(card.receive().is_none());
    assert_eq!(card.fault(), Some(DeviceFault::Length(2049)));
    assert!(!device.running(), "it may not write any more");
}

#[test]
fn a_full_ring_hands_the_packet_back_and_asks_to_be_woken() {
    let (device, mut card) = card();
    let refused = loop {
        if let Err(packet) = card.transmit(frame(60, 1)) {
            break packet;
        }
    };
    assert_eq!(refused.len(), 60);
    assert!(!card.arm());
    assert_eq!(device.register(INTERRUPT_MASK, 2) as u16 & SENT, SENT);
    while device.send(true).is_some() {}
    assert!(card.arm(), "there is room: do not sleep");
    card.disarm();
    assert_eq!(device.register(INTERRUPT_MASK, 2), 0);
    card.transmit(refused).unwrap();
}

#[test]
fn a_card_that_sends_nothing_is_reset_and_serves_again() {
    let (device, mut card) = card();
    let resets = device.resets();
    for second in 0..2 {
        card.transmit(frame(60, 1)).unwrap();
        card.flush();
        device.send(false);
        card.watch(second * SECOND);
    }
    assert_eq!(device.resets(), resets);
    card.watch(2 * SECOND);
    assert_eq!(device.resets(), resets + 1);
    let statistics = card.statistics();
    assert_eq!((statistics.resets, statistics.tx_lost), (1, 2));
    card.transmit(frame(61, 2)).unwrap();
    card.flush();
    assert_eq!(device.send(true).unwrap(), vec![2; 61]);
    assert!(device.deliver(&[5; 60], 0));
    assert_eq!(card.receive().unwrap().bytes, vec![5; 60]);
}

#[test]
fn the_link_and_a_card_that_is_pulled_out_are_noticed() {
    let (device, mut card) = card();
    device.set_link(false);
    card.watch(SECOND);
    assert!(!card.link_up());
    device.set_link(true);
    card.watch(2 * SECOND);
    assert_eq!(card.statistics().link_changes, 2);
    device.vanish();
    card.watch(3 * SECOND);
    assert_eq!(card.fault(), Some(DeviceFault::Gone));
}

#[test]
fn the_card_interrupts_when_it_is_told_to() {
    let device = FakeRtl8139::new(ADDRESS);
    let mut chip = Rtl8139(device.clone());
    let asserted = || device.register(INTERRUPT_MASK, 2) & device.register(INTERRUPT_STATUS, 2);
    chip.provoke(true);
    assert_ne!(asserted(), 0);
    chip.provoke(false);
    assert_eq!(asserted(), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Deliver(usize, u64),
    Lie(u64),
    Receive,
    Send(usize),
    Complete(bool),
    Sleep,
    Forget,
    Later,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1usize..1600, any::<u8>()).prop_map(|(len, bits)| Step::Deliver(len, u64::from(bits) << 14)),
        1 => any::<u64>().prop_map(Step::Lie),
        8 => Just(Step::Receive),
        8 => (5usize..1518).prop_map(Step::Send),
        6 => any::<bool>().prop_map(Step::Complete),
        2 => Just(Step::Sleep),
        2 => Just(Step::Forget),
        1 => Just(Step::Later),
    ]
}

proptest! {
    #[test]
    fn no_device_breaks_the_driver(steps in prop::collection::vec(step(), 1..300)) {
        let (device, mut card) = card();
        let mut kept = Vec::new();
        let mut now = 0;
        for step in steps {
            match step {
                Step::Deliver(len, status) => drop(device.deliver(&vec![1; len], status)),
                Step::Lie(control) => drop(device.fill(&[], control & !OWN)),
                Step::Receive => kept.extend(card.receive().map(|packet| packet.bytes)),
                Step::Send(len) => drop(card.transmit(frame(len, 1))),
                Step::Complete(report) => drop(device.send(report)),
                Step::Sleep => {
                    card.arm();
                    card.disarm();
                }
                Step::Forget => kept.clear(),
                Step::Later => {
                    now += 3 * SECOND;
                    card.watch(now);
                }
            }
            prop_assert_eq!(card.fault().is_none(), device.running(), "stopped if at fault");
        }
        for bytes in &kept {
            prop_assert!(bytes.len() >= 14);
        }
    }
}
