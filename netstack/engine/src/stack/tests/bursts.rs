//! Bursts: cut into frames on the way out, coupled on the way in.

use bytes::Bytes;

use super::link::Net;
use super::*;

/// A connection from host 99 to host 11, with the ids of both ends.
pub(super) fn connected() -> (Net, ConnId, ConnId) {
    let mut net = Net::new(vec![host(99), host(11)]);
    net.hosts[1].listen(80, Scope::Service);
    let now = net.now;
    let conn = net.hosts[0]
        .connect(now, None, at("10.77.0.11:80"))
        .unwrap();
    net.run_for(Duration::from_millis(5));
    let accepted = net.accepted(1).unwrap();
    (net, conn, accepted)
}

pub(super) fn stream(octets: usize) -> Vec<u8> {
    (0..octets).map(|i| (i * 7 % 251) as u8).collect()
}

pub(super) fn received(stack: &Stack, conn: ConnId) -> Vec<u8> {
    let connection = stack.connection(conn).unwrap();
    let mut out = Vec::new();
    while let Some(chunk) = connection.receive_peek(out.len()) {
        out.extend_from_slice(&chunk);
    }
    out
}

/// Queue `octets` at host 0 in odd pieces, and poll `frames` of what comes of it.
pub(super) fn send(net: &mut Net, conn: ConnId, data: &[u8], frames: usize) -> Vec<TxFrame> {
    let now = net.now;
    let stack = &mut net.hosts[0];
    for piece in data.chunks(3_001) {
        let piece = Bytes::copy_from_slice(piece);
        stack.update(now, conn, |c| c.send(now, piece).unwrap());
    }
    core::iter::from_fn(|| stack.poll_transmit(now))
        .take(frames)
        .collect()
}

pub(super) fn frames(sent: &[TxFrame]) -> Vec<RxFrame> {
    sent.iter().map(|f| RxFrame::new(f.to_vec())).collect()
}

#[test]
fn a_burst_leaves_as_whole_segments_with_checksums_of_their_own() {
    let (mut net, conn, _) = connected();
    let data = stream(10_000);
    let sent = send(&mut net, conn, &data, 99);
    assert_eq!(sent.len(), 7);
    let mut stream = Vec::new();
    for (n, frame) in sent.iter().enumerate() {
        let octets = frame.to_vec();
        let tcp = parse(&octets).payload;
        assert_eq!(tcp.end, octets.len(), "the IP length of frame {n}");
        let header = usize::from(octets[tcp.start + 12] >> 4) * 4;
        stream.extend_from_slice(&octets[tcp.start + header..]);
        let push = octets[tcp.start + 13] & 8 != 0;
        assert_eq!(push, n == 6, "PSH goes with the last");
    }
    assert_eq!(stream, data);
}

#[test]
fn a_coupled_batch_arrives_as_it_would_one_by_one_and_owes_one_acknowledgement() {
    let (mut net, conn, accepted) = connected();
    let data = stream(10_000);
    let sent = send(&mut net, conn, &data, 99);
    let now = net.now;
    let stack = &mut net.hosts[1];
    stack.handle_frames(now, frames(&sent));
    assert_eq!(received(stack, accepted), data);
    assert_eq!(drain(stack, now).len(), 1);
    assert_eq!(counter(stack, "rx_tcp_segments"), 7);
}

#[test]
fn what_does_not_fit_a_train_is_judged_alone() {
    let (mut net, conn, accepted) = connected();
    let data = stream(10_000);
    let sent = send(&mut net, conn, &data, 99);
    let now = net.now;
    let mut batch = frames(&sent);
    // The third is damaged, the fifth and sixth change places, the first comes twice.
    let mut damaged = batch[2].bytes.to_vec();
    damaged[1000] ^= 1;
    batch[2].bytes = damaged.into();
    batch.swap(4, 5);
    batch.insert(1, batch[0].clone());
    let stack = &mut net.hosts[1];
    stack.handle_frames(now, batch);
    assert_eq!(counter(stack, "rx_bad_checksum"), 1);
    assert_eq!(received(stack, accepted), data[..2 * 1448]);
    stack.handle_frames(now, frames(&sent[2..3]));
    assert_eq!(received(stack, accepted), data);
}

/// RFC 3168 section 6.1.3: coupled with others that are not marked, a mark would be lost.
#[test]
fn a_mark_of_congestion_among_frames_that_come_together_is_seen() {
    for marked in [0, 3] {
        let (mut net, conn, accepted) = connected();
        let now = net.now;
        net.hosts[1].update(now, accepted, |c| c.ecn.agreed = true);
        let data = stream(10_000);
        let sent = send(&mut net, conn, &data, 99);
        let mut batch = frames(&sent);
        let mut frame = batch[marked].bytes.to_vec();
        let class = u16::from_be_bytes([frame[ETHERNET], frame[ETHERNET + 1]]);
        let sum = u16::from_be_bytes([frame[ETHERNET + 10], frame[ETHERNET + 11]]);
        let sum = checksum::update(sum, class, class | 3);
        frame[ETHERNET + 1] |= 3;
        frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
        batch[marked].bytes = frame.into();
        let stack = &mut net.hosts[1];
        stack.handle_frames(now, batch);
        assert_eq!(received(stack, accepted), data);
        let info = stack.connection(accepted).unwrap().info();
        assert_eq!(info.counters.congestion_marks, 1, "frame {marked}");
    }
}

#[test]
fn a_connection_detached_amid_a_burst_takes_the_unsent_rest_with_it() {
    for recovering in [false, true] {
        let (mut net, conn, accepted) = connected();
        let data = stream(10_000);
        let sent = send(&mut net, conn, &data, 3);
        let now = net.now;
        net.hosts[1].handle_frames(now, frames(&sent));
        if recovering {
            // The episode is to end where the burst does, which was not sent.
            net.hosts[0].update(now, conn, |connection| connection.enter_recovery());
        }
        let (connection, hop) = net.hosts[0].detach(now, conn, Route::Hold).unwrap();
        assert_eq!(connection.send_unacked(), 3 * 1448);
        assert!(
            net.hosts[0].poll_transmit(now).is_none(),
            "a second speaker"
        );
        let config = net.hosts[0].tcp_config().clone();
        let connection = Connection::import(connection.export(now), now, &config, 1500).unwrap();
        net.hosts[0].attach(now, connection, hop).unwrap();
        net.run_for(Duration::from_millis(500));
        assert_eq!(received(&net.hosts[1], accepted), data);
    }
}
