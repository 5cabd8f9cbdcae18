//! The switch with sockets at its ports, and with the Linux kernel's TCP across it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, recv, send, setsockopt, sockopt};
use nix::sys::time::TimeVal;
use std::os::fd::AsRawFd;

use super::*;

const A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
const B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];

fn frame(to: [u8; 6], from: [u8; 6], payload: &[u8]) -> Vec<u8> {
    [&to[..], &from[..], &[0x88, 0xb5], payload].concat()
}

struct Plug(OwnedFd);

impl Plug {
    fn send(&self, frame: &[u8]) {
        assert_eq!(
            send(self.0.as_raw_fd(), frame, MsgFlags::empty()).unwrap(),
            frame.len()
        );
    }

    /// The next frame, or `None` when there is none for a while.
    fn receive(&self) -> Option<Vec<u8>> {
        setsockopt(&self.0, sockopt::ReceiveTimeout, &TimeVal::new(0, 100_000)).unwrap();
        let mut buffer = vec![0; MAX_FRAME];
        let len = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()).ok()?;
        buffer.truncate(len);
        Some(buffer)
    }
}

fn three_ports() -> (Switch, [Plug; 3], [PortId; 3]) {
    let mut builder = SwitchBuilder::new(1);
    let mut add = |name: &str| {
        let (attachment, end) = Attachment::in_process().unwrap();
        let id = builder.port(PortConfig {
            name: name.into(),
            attachment,
            impairment: Impairment::default(),
            observers: Vec::new(),
        });
        (id, Plug(end))
    };
    let (ids, plugs): (Vec<_>, Vec<_>) = ["a", "b", "c"].map(&mut add).into_iter().unzip();
    let switch = builder.start().unwrap();
    (
        switch,
        plugs.try_into().ok().unwrap(),
        ids.try_into().unwrap(),
    )
}

#[test]
fn unknown_addresses_are_flooded_and_known_ones_are_not() {
    let (_switch, [a, b, c], _) = three_ports();
    let hello = frame(B, A, b"hello");
    a.send(&hello);
    assert_eq!(b.receive().as_ref(), Some(&hello));
    assert_eq!(c.receive().as_ref(), Some(&hello));
    let reply = frame(A, B, b"reply");
    b.send(&reply);
    assert_eq!(a.receive().as_ref(), Some(&reply));
    assert_eq!(c.receive(), None, "the switch knows where A is");
}

#[test]
fn an_address_that_moves_is_followed() {
    let (_switch, [a, b, c], _) = three_ports();
    b.send(&frame([0xff; 6], B, b"here"));
    c.send(&frame([0xff; 6], B, b"no, here"));
    while a.receive().is_some() {}
    while b.receive().is_some() {}
    while c.receive().is_some() {}
    a.send(&frame(B, A, b"for B"));
    assert!(c.receive().is_some());
    assert_eq!(b.receive(), None);
}

#[test]
fn loss_and_duplication_are_counted() {
    let (switch, [a, b, _c], [_, port_b, _]) = three_ports();
    b.send(&frame([0xff; 6], B, b"here"));
    a.receive().unwrap();
    switch.impair(
        port_b,
        Impairment {
            loss: 1.0,
            ..Impairment::default()
        },
    );
    a.send(&frame(B, A, b"lost"));
    assert_eq!(b.receive(), None);
    switch.impair(
        port_b,
        Impairment {
            duplicate: 1.0,
            ..Impairment::default()
        },
    );
    a.send(&frame(B, A, b"twice"));
    assert!(b.receive().is_some());
    assert!(b.receive().is_some());
    let stats = &switch.stats()[1];
    assert_eq!((stats.lost, stats.duplicated), (1, 1));
}

#[test]
fn delay_holds_a_frame_back() {
    let (switch, [a, b, _c], [_, port_b, _]) = three_ports();
    b.send(&frame([0xff; 6], B, b"here"));
    a.receive().unwrap();
    let delay = Duration::from_millis(30);
    switch.impair(
        port_b,
        Impairment {
            delay,
            ..Impairment::default()
        },
    );
    let sent = Instant::now();
    a.send(&frame(B, A, b"late"));
    assert!(b.receive().is_some());
    let took = sent.elapsed();
    assert!(took >= delay && took < delay * 3, "{took:?}");
}

/// QEMU's framing, in pieces and in bulk, with a slow reader: nothing may be lost.
#[test]
fn a_stream_port_takes_pieces_and_loses_nothing_to_a_slow_reader() {
    const FRAMES: u32 = 4000;
    let directory = std::env::temp_dir().join(format!("godwit-switch-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let mut builder = SwitchBuilder::new(1);
    for name in ["one", "two"] {
        builder.port(PortConfig {
            name: name.into(),
            attachment: Attachment::Listen(directory.join(name)),
            impairment: Impairment::default(),
            observers: Vec::new(),
        });
    }
    let switch = builder.start().unwrap();
    let mut one = UnixStream::connect(directory.join("one")).unwrap();
    let mut two = UnixStream::connect(directory.join("two")).unwrap();
    std::fs::remove_dir_all(&directory).unwrap();

    let with_length = |f: &[u8]| [&(f.len() as u32).to_be_bytes()[..], f].concat();
    two.write_all(&with_length(&frame([0xff; 6], B, b"here")))
        .unwrap();
    let mut first = [0; 4 + 14 + 4];
    one.read_exact(&mut first).unwrap();

    let writer = thread::spawn(move || {
        for n in 0..FRAMES {
            let mut body = vec![n as u8; 1400];
            body[..4].copy_from_slice(&n.to_be_bytes());
            let bytes = with_length(&frame(B, A, &body));
            let (head, tail) = bytes.split_at(n as usize % bytes.len());
            one.write_all(head).unwrap();
            one.write_all(tail).unwrap();
        }
        one
    });
    // Longer than it takes to fill all buffers, shorter than the switch's patience.
    thread::sleep(Duration::from_millis(100));
    for n in 0..FRAMES {
        let mut len = [0; 4];
        two.read_exact(&mut len).unwrap();
        let mut body = vec![0; u32::from_be_bytes(len) as usize];
        two.read_exact(&mut body).unwrap();
        assert_eq!(body[14..18], n.to_be_bytes(), "frames must stay in order");
    }
    drop(writer.join().unwrap());
    let stats = switch.stats();
    assert!(
        stats[0].paused > 0,
        "the reader slept: the writer must have been paused"
    );
    assert_eq!(stats[1].dropped, 0);
}

/// A guest that hangs must not take the others' network with it.
#[test]
fn a_port_that_takes_nothing_does_not_hold_up_the_others() {
    let (switch, [a, b, c], _) = three_ports();
    b.send(&frame([0xff; 6], B, b"here"));
    c.send(&frame([0xff; 6], [2, 0, 0, 0, 0, 0xc], b"here"));
    for plug in [&a, &b, &c] {
        while plug.receive().is_some() {}
    }
    for _ in 0..1500 {
        a.send(&frame(B, A, &[0; 1400]));
    }
    a.send(&frame([2, 0, 0, 0, 0, 0xc], A, b"for C"));
    // The first wait is for the switch to lose patience with B.
    thread::sleep(Duration::from_millis(400));
    assert!(c.receive().is_some());
    assert!(switch.stats()[1].dropped > 0);
}
