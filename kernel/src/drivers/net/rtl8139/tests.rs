use std::boxed::Box;

use super::fake::FakeRtl8139;
use super::*;
use crate::drivers::net::Nic;
use crate::drivers::net::card::Card;
use crate::drivers::net::conformance::{conformance, filled, frame};
use crate::drivers::net::fake::{Fake, MAC};

conformance!(FakeRtl8139);

fn card() -> (FakeRtl8139, Card) {
    let device = FakeRtl8139::new();
    let card = filled(Box::new(Rtl8139::new(device.clone(), 256)));
    (device, card)
}

#[test]
fn the_card_is_set_up_as_the_datasheet_says() {
    let (device, card) = card();
    assert_eq!(card.mac(), MAC);
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
fn the_card_is_told_once_of_what_is_to_be_sent() {
    let (device, mut card) = card();
    card.transmit(frame(60)).unwrap();
    card.transmit(frame(60)).unwrap();
    card.flush();
    card.flush();
    assert_eq!(device.polls(), 1);
}
