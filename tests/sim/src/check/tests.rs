//! Each rule on made-up traffic: it stays quiet on what is allowed and speaks on what is not.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::Bytes;
use godwit_netstack::{Duration, Instant};

use super::*;

const CLIENT: Port = 9;
const A: Port = 1;
const B: Port = 2;

fn end(port: u16, last: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), port)
}

/// A wire with one flow on it, past its handshake.
struct Bench {
    flows: Flows,
    findings: Findings,
    checks: Vec<Box<dyn Check>>,
    now: Instant,
}

impl Bench {
    fn new(check: impl Check) -> Bench {
        let mut flows = Flows::default();
        flows.watch(end(80, 1));
        let mut bench = Bench {
            flows,
            findings: Findings::default(),
            checks: vec![Box::new(check)],
            now: Instant::from_millis(1),
        };
        // Initial numbers near the wrap, so that offsets have to be unwrapped.
        let opening = Segment {
            syn: true,
            ack: None,
            ..bench.client(0, 0)
        };
        bench.put(CLIENT, opening.clone());
        bench.see(A, false, opening);
        let answer = Segment {
            syn: true,
            ack: Some(CLIENT_ISN.wrapping_add(1)),
            ..bench.server(0, b"")
        };
        bench.put(A, answer);
        bench
    }

    fn segment(source: SocketAddr, target: SocketAddr, seq: u32) -> Segment {
        Segment {
            source_mac: [0; 6],
            target_mac: [0; 6],
            source,
            target,
            hop_limit: 64,
            seq,
            ack: None,
            syn: false,
            fin: false,
            rst: false,
            window: 1000,
            scale: Some(2),
            mss: None,
            timestamps: Some((100, 0)),
            sack_permitted: false,
            payload: Bytes::new(),
            checksums_right: true,
        }
    }

    /// A segment of the service whose payload starts at `offset` and which acknowledges 1.
    fn server(&self, offset: u32, payload: &'static [u8]) -> Segment {
        let mut segment = Bench::segment(end(80, 1), end(5000, 9), SERVER_ISN.wrapping_add(offset));
        segment.ack = Some(CLIENT_ISN.wrapping_add(1));
        segment.payload = Bytes::from_static(payload);
        segment
    }

    /// A pure acknowledgement of the client.
    fn client(&self, offset: u32, ack: u32) -> Segment {
        let mut segment = Bench::segment(end(5000, 9), end(80, 1), CLIENT_ISN.wrapping_add(offset));
        segment.ack = Some(SERVER_ISN.wrapping_add(ack));
        segment
    }

    /// A party sends.
    fn put(&mut self, port: Port, segment: Segment) {
        self.see(port, true, segment);
    }

    fn see(&mut self, port: Port, emitted: bool, segment: Segment) {
        self.now += Duration::from_micros(1);
        let is_server = port != CLIENT;
        let seen = self
            .flows
            .place(self.now, port, emitted, is_server, &segment)
            .expect("a watched flow");
        for check in &mut self.checks {
            check.segment(&seen, &self.flows, &mut self.findings);
        }
    }

    /// The SYN-ACK belongs to a handshake that is kept, or not.
    fn answered(&mut self, remembered: bool) {
        let flow = self.flows.of_client(end(5000, 9)).expect("the flow");
        self.note(Note::Answered {
            flow,
            by: A,
            remembered,
        });
    }

    fn note(&mut self, note: Note) {
        for check in &mut self.checks {
            check.note(self.now, note, &self.flows, &mut self.findings);
        }
    }

    fn data(&mut self, port: Port, offset: u32, payload: &'static [u8]) {
        let segment = self.server(offset, payload);
        self.put(port, segment);
    }

    fn found(&self) -> u64 {
        self.findings.total
    }
}

const CLIENT_ISN: u32 = u32::MAX - 3;
const SERVER_ISN: u32 = u32::MAX - 2;
const FLOW: FlowId = FlowId(0);

fn frozen(from: Port, to: Port) -> Note {
    Note::Frozen {
        flow: FLOW,
        from,
        to: Some(to),
    }
}

#[test]
fn a_second_speaker_needs_a_move_and_a_frozen_source_is_silent() {
    let mut bench = Bench::new(Speaker::default());
    bench.data(A, 1, b"x");
    bench.note(frozen(A, B));
    bench.data(B, 2, b"x");
    bench.note(frozen(B, A));
    bench.note(frozen(A, B));
    bench.data(B, 3, b"x");
    assert_eq!(bench.found(), 0, "moves, one of them silent");
    bench.data(A, 4, b"x");
    assert_eq!(bench.found(), 1, "an old owner speaks");
    bench.note(frozen(B, A));
    bench.data(B, 5, b"x");
    assert_eq!(bench.found(), 2, "a frozen source speaks");
    bench.note(Note::Thawed {
        flow: FLOW,
        owner: B,
    });
    bench.data(B, 6, b"x");
    assert_eq!(bench.found(), 2, "thawed, it may speak again");
}

#[test]
fn who_takes_the_cookie_of_a_lost_owner_may_speak_unless_the_client_has_heard_more() {
    for heard in [false, true] {
        let mut bench = Bench::new(Speaker::default());
        bench.data(A, 1, b"x");
        let acknowledged = bench.client(1, if heard { 2 } else { 1 });
        bench.put(CLIENT, acknowledged);
        bench.note(Note::Lost { flow: FLOW });
        bench.data(B, 1, b"x");
        assert_eq!(bench.found(), u64::from(heard));
    }
}

#[test]
fn two_may_answer_a_syn_but_one_of_them_takes_the_connection() {
    for taker in [A, B] {
        let mut bench = Bench::new(Speaker::default());
        let answer = Segment {
            syn: true,
            ..bench.server(0, b"")
        };
        bench.put(B, answer.clone());
        assert_eq!(bench.found(), 0);
        bench.data(taker, 1, b"x");
        assert_eq!(bench.found(), 0);
        bench.put(A + B - taker, answer);
        assert_eq!(bench.found(), 1, "the connection is somebody's");
        bench.data(A + B - taker, 1, b"x");
        assert_eq!(bench.found(), 2);
    }
}

#[test]
fn who_is_not_told_that_another_has_the_connection_may_repeat_its_answer_but_no_other() {
    for other in [false, true] {
        let mut bench = Bench::new(Speaker::default());
        let taken = bench.client(1, 1);
        bench.put(CLIENT, taken);
        bench.data(A, 1, b"x");
        let answer = Segment {
            syn: true,
            ..bench.server(u32::from(other), b"")
        };
        let now = bench.now;
        let seen = bench.flows.place(now, B, true, true, &answer);
        assert_eq!(seen.is_some(), other, "it is looked at");
    }
}

#[test]
fn an_older_answer_to_a_syn_does_not_make_what_follows_older() {
    let mut bench = Bench::new(Timestamp::default());
    let mut say = |syn: bool, value: u32| {
        let mut segment = bench.server(u32::from(!syn), b"");
        (segment.syn, segment.timestamps) = (syn, Some((value, 0)));
        bench.put(A, segment);
        bench.found()
    };
    assert_eq!(say(true, 200), 0);
    assert_eq!(say(true, 199), 0);
    assert_eq!(say(false, 200), 0);
    assert_eq!(say(false, 199), 1);
    assert_eq!(say(false, 20_000), 1);
    assert_eq!(say(true, 10_000), 2, "no clocks differ by so much");
}

#[test]
fn timestamps_may_stand_still_and_wrap_but_not_go_back() {
    let mut bench = Bench::new(Timestamp::default());
    let mut say = |value: u32| {
        let mut segment = bench.server(1, b"x");
        segment.timestamps = Some((value, 0));
        bench.put(A, segment);
        bench.found()
    };
    assert_eq!(say(100), 0);
    assert_eq!(say(0x7000_0000), 0);
    assert_eq!(say(0xe000_0000), 0);
    assert_eq!(say(5), 0, "across the wrap");
    assert_eq!(say(4), 1);
    let mut bare = bench.server(1, b"x");
    bare.timestamps = None;
    bench.put(A, bare);
    assert_eq!(bench.found(), 2, "left out");
}

#[test]
fn the_right_edge_may_stay_but_not_move_back_and_binds_the_sender() {
    let mut bench = Bench::new(Window::default());
    // The client offered 1000 in its SYN, unscaled.
    bench.data(A, 990, b"0123456789");
    assert_eq!(bench.found(), 0);
    bench.data(A, 1000, b"0123456789");
    assert_eq!(bench.found(), 1);
    let mut advertise = |window: u16| {
        let mut segment = bench.server(1, b"");
        segment.window = window;
        bench.put(A, segment);
        bench.found()
    };
    assert_eq!(advertise(1000), 1);
    assert_eq!(advertise(999), 2);
    assert_eq!(advertise(1001), 2);
    // Whoever begins it anew after its owner is lost offers what room it has.
    bench.note(Note::Lost { flow: FLOW });
    let mut segment = bench.server(1, b"");
    segment.window = 500;
    bench.put(B, segment);
    assert_eq!(bench.found(), 2);
}

#[test]
fn acknowledgements_go_forward_and_cover_only_what_was_sent() {
    let mut bench = Bench::new(Acknowledgement::default());
    let mut data = bench.client(1, 1);
    data.payload = Bytes::from_static(b"0123456789");
    bench.put(CLIENT, data);
    let mut acknowledge = |ack: u32| {
        let mut segment = bench.server(1, b"");
        segment.ack = Some(CLIENT_ISN.wrapping_add(ack));
        bench.put(A, segment);
        bench.found()
    };
    assert_eq!(acknowledge(11), 0);
    assert_eq!(acknowledge(10), 1, "back");
    assert_eq!(acknowledge(12), 2, "never sent");
}

#[test]
fn repeated_bytes_must_be_the_same_bytes() {
    let mut bench = Bench::new(History::default());
    bench.data(A, 1, b"abcdef");
    bench.data(B, 4, b"defgh");
    assert_eq!(bench.found(), 0);
    bench.data(B, 4, b"dXf");
    assert_eq!(bench.found(), 1, "changed");
    bench.data(B, 30, b"z");
    assert_eq!(bench.found(), 2, "a gap");
    let mut last = bench.server(9, b"i");
    last.fin = true;
    bench.put(B, last);
    bench.data(B, 10, b"j");
    assert_eq!(bench.found(), 3, "bytes after the end");
}

#[test]
fn a_hole_is_excused_by_frames_that_an_instance_lost_itself_and_filled_once() {
    let mut bench = Bench::new(History::default());
    bench.data(A, 1, b"abc");
    bench.note(Note::Unsent { port: A });
    bench.data(A, 9, b"ij");
    assert_eq!(bench.found(), 0);
    bench.data(A, 14, b"z");
    assert_eq!(bench.found(), 1, "nothing else was lost");
    bench.data(B, 3, b"cde");
    bench.data(B, 5, b"efghijk");
    assert_eq!(
        bench.found(),
        1,
        "one byte of the hole was sent twice, the same"
    );
    bench.data(B, 6, b"X");
    assert_eq!(bench.found(), 2, "and is no hole any more");
}

#[test]
fn retransmissions_and_resets_are_counted() {
    let mut strict = Retransmission::default();
    strict.forbidden = true;
    let mut bench = Bench::new(strict);
    bench.data(A, 1, b"abc");
    bench.data(A, 4, b"abc");
    assert_eq!(bench.found(), 0);
    bench.data(A, 6, b"xx");
    assert_eq!(bench.found(), 1);

    let mut bench = Bench::new(Reset::default());
    let mut reset = bench.server(1, b"");
    reset.rst = true;
    bench.put(A, reset);
    assert_eq!(bench.found(), 1);
}

#[test]
fn a_handshake_nobody_could_complete_may_end_in_a_reset() {
    let reset_after = |silence: Duration, again: bool| {
        let mut bench = Bench::new(Reset::default());
        bench.answered(true);
        let heard = bench.client(1, 1);
        if again {
            bench.see(A, false, heard.clone());
        }
        bench.now += silence;
        bench.see(A, false, heard);
        let mut reset = bench.server(1, b"");
        reset.rst = true;
        bench.put(A, reset);
        bench.found()
    };
    assert_eq!(reset_after(Duration::from_secs(64), false), 0);
    assert_eq!(reset_after(Duration::from_secs(62), false), 1, "still open");
    assert_eq!(
        reset_after(Duration::from_secs(64), true),
        1,
        "was completed"
    );
}

/// Violations of a reset long after a handshake to which the instances got these answers.
fn resets_after(remembered: bool, answers: impl FnOnce(&mut Bench)) -> u64 {
    let mut bench = Bench::new(Reset::default());
    bench.answered(remembered);
    answers(&mut bench);
    bench.now += Duration::from_secs(66);
    bench.see(A, false, bench.client(1, 1));
    let mut reset = bench.server(1, b"");
    reset.rst = true;
    bench.put(A, reset);
    bench.found()
}

#[test]
fn what_is_passed_on_and_lost_completes_no_handshake() {
    let lost = |bench: &mut Bench| {
        bench.see(A, false, bench.client(1, 1));
        bench.put(A, bench.client(1, 1));
    };
    assert_eq!(resets_after(true, lost), 0);
    let arrives = |bench: &mut Bench| {
        lost(bench);
        bench.see(B, false, bench.client(1, 1));
    };
    assert_eq!(resets_after(true, arrives), 1);
}

#[test]
fn no_reset_completes_a_handshake() {
    let reset = |bench: &mut Bench| {
        let mut reset = bench.client(1, 1);
        reset.rst = true;
        bench.see(A, false, reset);
    };
    assert_eq!(resets_after(true, reset), 0);
}

#[test]
fn a_handshake_that_only_a_cookie_remembers_is_completed_from_the_first_octet_on() {
    let later = |bench: &mut Bench| bench.see(A, false, bench.client(7, 1));
    assert_eq!(resets_after(true, later), 1);
    assert_eq!(resets_after(false, later), 0);
    let first = |bench: &mut Bench| bench.see(A, false, bench.client(1, 1));
    assert_eq!(resets_after(false, first), 1);
}

#[test]
fn a_reset_is_not_excused_while_a_cookie_is_good_whichever_syn_it_answered() {
    let reset_after = |again: &[bool], silence: u64| {
        let mut bench = Bench::new(Reset::default());
        bench.answered(false);
        // The answer was lost, and the client says SYN again.
        for remembered in again {
            bench.now += Duration::from_secs(31);
            let opening = Segment {
                syn: true,
                ack: None,
                ..bench.client(0, 0)
            };
            bench.see(A, false, opening);
            bench.answered(*remembered);
        }
        bench.now += Duration::from_secs(silence);
        bench.see(A, false, bench.client(1, 1));
        let mut reset = bench.server(1, b"");
        reset.rst = true;
        bench.put(A, reset);
        bench.found()
    };
    assert_eq!(reset_after(&[], 65), 1);
    assert_eq!(reset_after(&[], 66), 0);
    assert_eq!(reset_after(&[false], 65), 1, "the later cookie");
    assert_eq!(reset_after(&[false], 66), 0);
    assert_eq!(reset_after(&[true], 62), 1, "kept since then");
    assert_eq!(reset_after(&[true], 63), 0);
    assert_eq!(reset_after(&[true, true], 31), 1);
    assert_eq!(reset_after(&[true, true], 32), 0, "kept no longer for that");
}

#[test]
fn a_reset_is_excused_where_only_what_is_behind_the_first_octet_came_and_no_cookie_is_good() {
    let reset_after = |silence: u64| {
        let mut bench = Bench::new(Reset::default());
        bench.answered(false);
        bench.now += Duration::from_secs(silence);
        bench.see(A, false, bench.client(7, 1));
        let mut reset = bench.server(1, b"");
        reset.rst = true;
        bench.put(A, reset);
        bench.found()
    };
    assert_eq!(reset_after(65), 1);
    assert_eq!(reset_after(66), 0);
}

#[test]
fn what_is_behind_the_first_octet_completes_only_what_the_same_instance_keeps() {
    let reset_after = |by: Port| {
        let mut bench = Bench::new(Reset::default());
        bench.answered(true);
        let flow = bench.flows.of_client(end(5000, 9)).expect("the flow");
        bench.note(Note::Answered {
            flow,
            by: B,
            remembered: false,
        });
        bench.see(by, false, bench.client(7, 1));
        bench.now += Duration::from_secs(66);
        bench.see(B, false, bench.client(1, 1));
        let mut reset = bench.server(1, b"");
        reset.rst = true;
        bench.put(B, reset);
        bench.found()
    };
    assert_eq!(reset_after(A), 1);
    assert_eq!(reset_after(B), 0, "it has given a cookie only");
}

#[test]
fn an_earlier_connection_between_the_same_ends_speaks_for_itself() {
    let mut bench = Bench::new(Speaker::default());
    bench.data(A, 1, b"abc");
    let (theirs, ours) = (50_000_000, 70_000_000);
    let opening = Segment {
        syn: true,
        ack: None,
        ..bench.client(theirs, 0)
    };
    bench.put(CLIENT, opening);
    let says = |bench: &mut Bench, from: Port, syn: bool| {
        let segment = Segment {
            syn,
            ack: Some(CLIENT_ISN.wrapping_add(theirs + 1)),
            ..bench.server(ours + u32::from(!syn), b"")
        };
        bench.put(from, segment);
    };
    says(&mut bench, B, true);
    says(&mut bench, B, false);
    bench.data(A, 1, b"abc");
    bench.data(A, 4, b"d");
    // A probe before the client has acknowledged anything.
    bench.data(A, 0, b"");
    assert_eq!(bench.found(), 0, "of the first one");
    bench.data(B, 4, b"d");
    assert_eq!(bench.found(), 1, "its speaker is another");
    says(&mut bench, A, false);
    assert_eq!(bench.found(), 2, "that of the second one too");
}
