//! What a device says of its MTU (virtio 1.2, section 5.1.4), true or not.

use super::*;

const MTU: u64 = 1 << 3;
const MERGING: u64 = 1 << 15;
/// What can be, and is what the card keeps to.
const SENSIBLE: [u16; 5] = [576, 1280, 1400, 1500, 9000];
/// What cannot be, or what we have no buffers for: with what the card says then.
const OTHERS: [(u16, u16); 7] = [
    (0, 1500),
    (67, 1500),
    (68, 576),
    (575, 576),
    (9001, 9000),
    (32768, 9000),
    (65535, 9000),
];

fn device(features: u64, queue: u32, mtu: u16) -> FakeDevice {
    let mut config = CONFIG;
    config[config::MTU..][..2].copy_from_slice(&mtu.to_le_bytes());
    FakeDevice::new(queue).offer(features, &config)
}

fn bind(device: &FakeDevice) -> VirtioNet<FakeTransport> {
    VirtioNet::bind(FakeTransport::new(device), RING, true, || [2; 6]).unwrap()
}

#[test]
fn the_mtu_is_the_devices_where_it_can_be_and_a_sane_one_otherwise() {
    for merging in [0, MERGING] {
        let same = SENSIBLE.map(|mtu| (mtu, mtu));
        for (said, mtu) in same.into_iter().chain(OTHERS) {
            let device = device(MODERN | MTU | merging, 256, said);
            assert_eq!(bind(&device).mtu(), mtu, "the device says {said}");
            let kept_to = device.accepted() & MTU != 0;
            assert_eq!(kept_to, said == mtu, "the device says {said}");
        }
    }
}

#[test]
fn an_mtu_that_was_not_offered_is_not_read() {
    let device = device(MODERN, 256, 9000);
    assert_eq!(bind(&device).mtu(), 1500);
}

#[test]
fn frames_of_the_mtu_go_both_ways_and_larger_ones_do_not() {
    for (merging, mtu) in [0, MERGING]
        .into_iter()
        .flat_map(|m| SENSIBLE.map(|n| (m, n)))
    {
        let device = device(MODERN | MTU | merging, 256, mtu);
        let mut card = bind(&device);
        let most = usize::from(mtu) + ETHERNET + VLAN;
        let arrives = |len: usize| {
            let mut bytes = [vec![0; HEADER], vec![7; len]].concat();
            if merging != 0 {
                bytes[10] = bytes.len().div_ceil(MERGEABLE) as u8;
                return device.fill_merged(RECEIVE, &bytes) > 0;
            }
            device.fill_next(RECEIVE, |buffer| {
                buffer[..bytes.len()].copy_from_slice(&bytes);
                bytes.len() as u32
            })
        };
        assert!(arrives(most), "no buffers for an MTU of {mtu}");
        let packet = card.receive().expect("a frame");
        let pieces = core::iter::once(&packet.bytes).chain(&packet.more);
        assert_eq!(pieces.map(Bytes::len).sum::<usize>(), most);
        card.transmit(frame(most)).unwrap();
        assert_eq!(device.read_next(TRANSMIT).unwrap().len(), HEADER + most);
        card.transmit(frame(most + 1)).unwrap();
        assert_eq!(device.read_next(TRANSMIT), None, "too long for {mtu}");
        if merging != 0 {
            assert!(arrives(most + 1));
            assert!(card.receive().is_none(), "too long for {mtu}");
            assert_eq!(card.statistics().rx_errors, 1);
        }
    }
}

#[test]
fn no_more_is_promised_than_a_small_ring_holds() {
    let device = device(MODERN | MTU | MERGING, 4, 9000);
    let card = bind(&device);
    let frame = usize::from(card.mtu()) + ETHERNET + VLAN;
    assert_eq!(frame + HEADER, 4 * MERGEABLE);
    assert_eq!(device.accepted() & MTU, 0);
}

#[test]
fn buffers_for_large_packets_are_fewer_but_go_round() {
    let device = device(MODERN | MTU, 256, 9000);
    let mut card = bind(&device);
    while card.supply.missing() > 0 {
        card.arm();
    }
    let buffers = card.supply.available() * 3; // half as many as are in the ring
    assert!(
        buffers * 9000 <= 256 * MERGEABLE * 3 / 2,
        "{buffers} buffers"
    );
    for n in 0..1000 {
        let mut filled = 0;
        while filled <= n % 80 && deliver(&device, 9014, n as u8) {
            filled += 1;
        }
        assert!(filled > (n % 80).min(40), "{filled} frames");
        for _ in 0..filled {
            assert_eq!(card.receive().unwrap().bytes, vec![n as u8; 9014]);
        }
        card.flush();
    }
}

#[test]
fn a_device_with_another_mtu_after_a_reset_is_taken_out_of_service() {
    for (later, fault) in [(1400, None), (9000, Some(DeviceFault::Refused))] {
        let device = device(MODERN | MTU, 256, 1400);
        let mut card = bind(&device);
        let [low, high] = u16::to_le_bytes(later);
        device.configure(config::MTU, low);
        device.configure(config::MTU + 1, high);
        device.forget();
        card.watch(1);
        assert_eq!((card.fault(), card.statistics().resets), (fault, 1));
    }
}
