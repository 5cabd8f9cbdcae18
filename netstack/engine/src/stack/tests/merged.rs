//! Frames that a device merged from several segments, where they have to leave once more.

use bytes::Bytes;
use proptest::prelude::*;

use super::bursts::{connected, received, stream};
use super::*;
use crate::stack::frame::{Segmentation, TxChecksum};

const OFFLOADS: DeviceCapabilities = DeviceCapabilities {
    tx_checksum: true,
    tso4: true,
    tso6: true,
};

const TO: &str = "10.77.0.12";

fn flow(ipv6: bool) -> FlowKey {
    let (local, remote) = match ipv6 {
        false => ("10.77.0.10:80", "10.77.0.99:40000"),
        true => ("[fd77::10]:80", "[fd77::99]:40000"),
    };
    FlowKey {
        local: at(local),
        remote: at(remote),
    }
}

/// A frame of the flow as a device hands it over that merged segments of `size` octets.
fn merged(ipv6: bool, payload: &[u8], size: u16) -> RxFrame {
    let flow = flow(ipv6);
    let macs = (mac(99), mac(11));
    let bytes = tcp(macs, flow.remote, flow.local, ACK | 0x08, 7, payload);
    RxFrame {
        checksum: RxChecksum::Verified,
        segmentation: Some(Segmentation {
            ipv6,
            segment_size: size,
        }),
        ..RxFrame::new(bytes)
    }
}

/// An instance that passes the flow on.
fn forwarder(ipv6: bool, capabilities: DeviceCapabilities) -> Stack {
    let mut stack = member(11);
    stack.service.capabilities = capabilities;
    stack
        .neighbours
        .learn(Instant::ZERO, hop(ip(TO)), mac(12), true);
    stack.set_route(Instant::ZERO, flow(ipv6), Route::Forward(ip(TO)));
    stack
}

fn sent(stack: &mut Stack) -> Vec<TxFrame> {
    core::iter::from_fn(|| stack.poll_transmit(Instant::ZERO)).collect()
}

/// The payload of TCP segments without options that follow each other from sequence number 7 on;
/// PSH is with the last and nowhere else.
fn joined(segments: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (n, segment) in segments.iter().enumerate() {
        let tcp = wire::parse_ip(segment, ETHERNET, true).unwrap().payload;
        assert_eq!(tcp.end, segment.len(), "the IP length");
        let seq = u32::from_be_bytes(segment[tcp.start + 4..tcp.start + 8].try_into().unwrap());
        assert_eq!(seq as usize, 7 + out.len());
        let push = segment[tcp.start + 13] & 0x08 != 0;
        assert_eq!(push, n + 1 == segments.len(), "PSH goes with the last");
        out.extend_from_slice(&segment[tcp.start + 20..]);
    }
    out
}

#[test]
fn a_device_that_cuts_gets_merged_frames_whole() {
    for ipv6 in [false, true] {
        let mut stack = forwarder(ipv6, OFFLOADS);
        let frame = merged(ipv6, &stream(20_000), 1_400);
        let segmentation = frame.segmentation;
        stack.handle_frame(Instant::ZERO, frame);
        let out = sent(&mut stack);
        assert_eq!(out.len(), 1);
        assert_eq!(out[0].segmentation, segmentation);
        assert!(out[0].checksum.is_some());
    }
}

#[test]
fn a_device_that_is_to_cut_is_told_where_the_payload_begins() {
    // With options: a device may put them before every segment only if they are headers.
    let (mut net, conn, _) = connected();
    let now = net.now;
    net.hosts[0].service.capabilities = OFFLOADS;
    let data = Bytes::from(stream(5_000));
    net.hosts[0].update(now, conn, |c| c.send(now, data).unwrap());
    let large = net.hosts[0].poll_transmit(now).unwrap();
    let header = large.head.len();
    assert!(header > 54, "it has timestamps");
    let key = net.hosts[0].flow(conn).unwrap();
    let mut stack = host(11);
    stack.service.capabilities = OFFLOADS;
    stack.neighbours.learn(now, hop(ip(TO)), mac(12), true);
    let key = FlowKey {
        local: key.remote,
        remote: key.local,
    };
    stack.set_route(now, key, Route::Forward(ip(TO)));
    stack.handle_frame(
        now,
        RxFrame {
            checksum: RxChecksum::Verified,
            segmentation: large.segmentation,
            ..RxFrame::new(large.to_vec())
        },
    );
    let out = stack.poll_transmit(now).expect("forwarded");
    assert_eq!(out.head.len(), header);
    assert_eq!(out.segmentation, large.segmentation);
}

#[test]
fn a_device_that_does_not_cut_gets_the_segments() {
    for ipv6 in [false, true] {
        for tx_checksum in [false, true] {
            let capabilities = DeviceCapabilities {
                tx_checksum,
                ..DeviceCapabilities::default()
            };
            let mut stack = forwarder(ipv6, capabilities);
            stack.handle_frame(Instant::ZERO, merged(ipv6, &stream(20_000), 1_400));
            let out = sent(&mut stack);
            assert_eq!(out.len(), 15);
            let done: Vec<Vec<u8>> = out.iter().map(complete).collect();
            for segment in &done {
                assert!(segment.len() <= ETHERNET + 1_500);
                assert_eq!(parse(segment).hop_limit, 63);
                assert_eq!(segment[..12], [mac(12), mac(11)].concat());
            }
            assert_eq!(joined(&done), stream(20_000));
        }
    }
}

/// The frame as it is on the wire.
fn complete(frame: &TxFrame) -> Vec<u8> {
    assert_eq!(frame.segmentation, None);
    let mut octets = frame.to_vec();
    if let Some(TxChecksum { start, offset }) = frame.checksum {
        let mut sum = Sum::new();
        sum.add(&octets[usize::from(start)..]);
        let field = usize::from(start + offset);
        octets[field..field + 2].copy_from_slice(&sum.finish().to_be_bytes());
    }
    octets
}

#[test]
fn a_damaged_merged_frame_is_not_made_right_by_cutting_it() {
    for capabilities in [OFFLOADS, DeviceCapabilities::default()] {
        let mut stack = forwarder(false, capabilities);
        let mut frame = merged(false, &stream(5_000), 1_400);
        frame.checksum = RxChecksum::Unchecked;
        let mut bytes = frame.bytes.to_vec();
        bytes[3_000] ^= 1;
        frame.bytes = bytes.into();
        stack.handle_frame(Instant::ZERO, frame);
        assert!(sent(&mut stack).is_empty());
        assert_eq!(counter(&stack, "rx_bad_checksum"), 1);
    }
}

#[test]
fn a_merged_frame_does_the_same_in_segments() {
    // At the source the device's frame, at the target what follows the capsule.
    let outcome = |apart: bool| {
        let (mut net, conn, accepted) = connected();
        let now = net.now;
        net.hosts[0].service.capabilities = OFFLOADS;
        let mut acknowledged = Vec::new();
        for round in 0..20 {
            let data = Bytes::from(stream(4_000 + round));
            net.hosts[0].update(now, conn, |c| c.send(now, data).unwrap());
            let large = net.hosts[0].poll_transmit(now).unwrap();
            let frame = RxFrame {
                checksum: RxChecksum::Verified,
                segmentation: large.segmentation,
                ..RxFrame::new(large.to_vec())
            };
            let target = &mut net.hosts[1];
            match apart {
                false => target.handle_frame(now, frame),
                true => {
                    let segments: Vec<TxFrame> = frame.apart().unwrap().collect();
                    assert_eq!(segments.len(), 3);
                    for segment in segments {
                        target.inject(now, RxFrame::new(segment.to_vec()));
                    }
                }
            }
            let answers = drain(target, now);
            // How far each goes.
            let to = |answer: &Vec<u8>| answer[42..46].to_vec();
            acknowledged.push(answers.iter().map(to).collect::<Vec<_>>());
            for answer in answers {
                net.hosts[0].handle_frame(now, RxFrame::new(answer));
            }
        }
        let target = &net.hosts[1];
        let full_size = target.connection(accepted).unwrap().rcv.full_size;
        let bad = counter(target, "rx_bad_checksum");
        (received(target, accepted), full_size, bad, acknowledged)
    };
    let (whole, apart) = (outcome(false), outcome(true));
    assert!(whole.0 == apart.0, "the stream");
    assert_eq!((whole.2, apart.2), (0, 0), "nothing is verified that was");
    // What a whole segment is can be seen of segments only: the other is the link's bound.
    assert_eq!((whole.1, apart.1), (1_460, 1_448));
    for (whole, apart) in whole.3.iter().zip(&apart.3) {
        assert_eq!(whole, apart, "acknowledgements");
    }
}

#[test]
fn a_merged_frame_that_cannot_be_one_is_left_alone() {
    // No size, more than is there, more segments than there can be.
    for (length, size) in [(3_000, 0), (3_000, 3_000), (3_000, u16::MAX), (30_000, 1)] {
        let frame = merged(false, &stream(length), size);
        assert!(frame.apart().is_none(), "{length} {size}");
        let mut stack = forwarder(false, DeviceCapabilities::default());
        stack.handle_frame(Instant::ZERO, frame);
        assert!(sent(&mut stack).is_empty());
        assert_eq!(counter(&stack, "forward_too_big"), 1);
    }
    // Of the other family: our device would be told to cut what is not there.
    let mut stack = forwarder(false, OFFLOADS);
    let mut frame = merged(false, &stream(3_000), 1_000);
    frame.segmentation.as_mut().unwrap().ipv6 = true;
    stack.handle_frame(Instant::ZERO, frame);
    assert!(sent(&mut stack).is_empty());
}

proptest! {
    /// Whatever a device says of whatever frame.
    #[test]
    fn nothing_a_device_says_is_taken_on_trust(
        length in 0usize..20_000,
        size in any::<u16>(),
        ipv6 in any::<bool>(),
        at in 0usize..80,
        octet in any::<u8>(),
    ) {
        let mut frame = merged(ipv6, &stream(length), size);
        let mut bytes = frame.bytes.to_vec();
        if let Some(place) = bytes.get_mut(at) {
            *place = octet;
        }
        frame.bytes = bytes.into();
        if let Some(segments) = frame.apart() {
            let segments: Vec<_> = segments.collect();
            prop_assert!(segments.len() <= 2_048);
            let carried: usize = segments
                .iter()
                .flat_map(|segment| &segment.payload)
                .map(Bytes::len)
                .sum();
            prop_assert!(carried <= length + 40);
        }
        for capabilities in [OFFLOADS, DeviceCapabilities::default()] {
            let mut stack = forwarder(ipv6, capabilities);
            stack.handle_frame(Instant::ZERO, frame.clone());
            for out in sent(&mut stack) {
                prop_assert!(out.segmentation.is_some() || out.len() <= ETHERNET + 1_500);
            }
        }
    }
}
