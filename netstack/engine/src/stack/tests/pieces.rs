//! Frames that the device spread over several buffers.

use bytes::Bytes;
use proptest::prelude::*;

use super::bursts::{connected, received, stream};
use super::*;
use crate::stack::frame::Segmentation;

const OFFLOADS: DeviceCapabilities = DeviceCapabilities {
    tx_checksum: true,
    tso4: true,
    tso6: true,
};

/// The frame with its first `first` octets in one piece and the rest in pieces of `size`.
fn spread(bytes: &[u8], first: usize, size: usize) -> RxFrame {
    let (head, rest) = bytes.split_at(first.min(bytes.len()));
    RxFrame {
        more: rest.chunks(size).map(Bytes::copy_from_slice).collect(),
        checksum: RxChecksum::Verified,
        ..RxFrame::new(head.to_vec())
    }
}

/// A connection to host 1 and large frames for it, `of` octets of payload in each.
fn large(octets: usize, of: usize) -> (link::Net, ConnId, Vec<Vec<u8>>) {
    let (mut net, conn, accepted) = connected();
    let now = net.now;
    let stack = &mut net.hosts[0];
    stack.service.capabilities = OFFLOADS;
    let mut sent = Vec::new();
    for piece in stream(octets).chunks(of) {
        let piece = Bytes::copy_from_slice(piece);
        stack.update(now, conn, |c| c.send(now, piece).unwrap());
        sent.extend(drain(stack, now));
    }
    (net, accepted, sent)
}

#[test]
fn a_stream_in_pieces_is_the_stream() {
    // Headers alone, with an octet of payload, with much of it; and cut in their midst.
    for (first, size) in [
        (66, 2048),
        (67, 1),
        (2036, 2048),
        (100, 999),
        (40, 2048),
        (0, 7),
    ] {
        let (mut net, accepted, sent) = large(14_000, 5_000);
        assert_eq!(sent.len(), 3);
        let now = net.now;
        let stack = &mut net.hosts[1];
        let frames = sent.iter().map(|bytes| spread(bytes, first, size));
        stack.handle_frames(now, frames);
        assert_eq!(received(stack, accepted), stream(14_000), "{first} {size}");
        assert_eq!(drain(stack, now).len(), 1, "one acknowledgement");
    }
}

#[test]
fn pieces_are_not_copied_on_their_way_to_the_application() {
    let (mut net, accepted, sent) = large(5_000, 5_000);
    let frame = spread(&sent[0], 2036, 2048);
    let places: Vec<_> = frame.more.iter().map(|piece| piece.as_ptr()).collect();
    let now = net.now;
    let stack = &mut net.hosts[1];
    stack.handle_frames(now, [frame]);
    let connection = stack.connection(accepted).unwrap();
    let mut at = connection.receive_peek(0).unwrap().len();
    for place in places {
        let piece = connection.receive_peek(at).unwrap();
        assert_eq!(piece.as_ptr(), place);
        at += piece.len();
    }
    assert_eq!(at, 5_000);
}

#[test]
fn what_lies_behind_the_ip_packet_is_no_payload() {
    let (mut net, accepted, mut sent) = large(5_000, 5_000);
    sent[0].extend_from_slice(&[0xee; 3000]);
    let now = net.now;
    net.hosts[1].handle_frames(now, [spread(&sent[0], 500, 1000)]);
    assert_eq!(received(&net.hosts[1], accepted), stream(5_000));
}

#[test]
fn pieces_nobody_vouched_for_are_verified() {
    for damage in [0, 1] {
        let (mut net, conn, accepted) = connected();
        let now = net.now;
        let data = Bytes::from(stream(1_000));
        net.hosts[0].update(now, conn, |c| c.send(now, data).unwrap());
        let mut bytes = drain(&mut net.hosts[0], now).remove(0);
        bytes[700] ^= damage;
        let mut frame = spread(&bytes, 200, 300);
        frame.checksum = RxChecksum::Unchecked;
        net.hosts[1].handle_frames(now, [frame]);
        let stack = &net.hosts[1];
        assert_eq!(counter(stack, "rx_bad_checksum"), damage.into());
        let expected = stream(if damage == 0 { 1_000 } else { 0 });
        assert_eq!(received(stack, accepted), expected);
    }
}

#[test]
fn pieces_are_forwarded_as_the_whole_frame_would_be() {
    let flow = FlowKey {
        local: at("10.77.0.10:80"),
        remote: at("10.77.0.99:40000"),
    };
    let bytes = tcp(
        (mac(99), mac(11)),
        flow.remote,
        flow.local,
        ACK,
        7,
        &stream(1_400),
    );
    for (capabilities, size) in [(OFFLOADS, 500), (DeviceCapabilities::default(), 499)] {
        let forwarded = |mut frame: RxFrame| {
            let mut stack = member(11);
            stack.service.capabilities = capabilities;
            let to = ip("10.77.0.12");
            stack
                .neighbours
                .learn(Instant::ZERO, hop(to), mac(12), true);
            stack.set_route(Instant::ZERO, flow, Route::Forward(to));
            frame.segmentation = Some(Segmentation {
                ipv6: false,
                segment_size: 700,
            });
            stack.handle_frames(Instant::ZERO, [frame]);
            stack.poll_transmit(Instant::ZERO).expect("forwarded")
        };
        let whole = forwarded(spread(&bytes, 9_999, size));
        let pieces = forwarded(spread(&bytes, 200, size));
        assert_eq!(whole.to_vec(), pieces.to_vec());
        assert_eq!(whole.checksum, pieces.checksum);
        assert_eq!(whole.segmentation, pieces.segmentation);
        assert_eq!(pieces.payload.len(), 4, "not copied together");
        if capabilities == DeviceCapabilities::default() {
            parse(&pieces.to_vec());
        }
    }
}

proptest! {
    /// Whatever is wrong with a frame: in pieces it does what it would have done whole.
    #[test]
    fn pieces_do_what_the_whole_does(
        first in 0usize..3_000,
        size in 1usize..3_000,
        at in 0usize..90,
        flip in any::<u8>(),
        cut in 0usize..200,
    ) {
        let outcome = |first: usize, size: usize| {
            let (mut net, accepted, mut sent) = large(8_000, 4_000);
            let frame = &mut sent[0];
            frame[at] ^= flip;
            frame.truncate(frame.len() - cut);
            let now = net.now;
            let stack = &mut net.hosts[1];
            stack.handle_frames(now, sent.iter().map(|bytes| spread(bytes, first, size)));
            let mut counters = stack.counters();
            counters.retain(|(name, _)| *name != "rx_tcp_segments");
            let data = stack.connection(accepted).map(|_| received(stack, accepted));
            (counters, data)
        };
        prop_assert_eq!(outcome(first, size), outcome(usize::MAX, 1));
    }
}
