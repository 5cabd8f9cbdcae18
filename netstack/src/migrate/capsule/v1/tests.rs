//! The format is frozen, and whatever else comes is refused with a reason.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use bytes::Bytes;

use super::*;
use crate::seq::SeqNumber;
use crate::tcp::export::*;
use crate::tcp::{Counters, EcnMode, Keepalive, Phase, SocketOptions, State};
use crate::time::Duration;

fn seq(raw: u32) -> SeqNumber {
    SeqNumber::new(raw)
}

/// A connection in which every field differs from its neighbours and from zero.
fn busy() -> ConnectionState {
    let ms = Duration::from_millis;
    let una = 0xffff_fff0u32;
    let header = ConnectionHeader {
        local: "[fd77::10]:80".parse().unwrap(),
        remote: "[fd77::1]:40000".parse().unwrap(),
        state: State::FinWait1,
        options: SocketOptions {
            nagle: true,
            ack_delay: ms(40),
            peer_ack_delay: ms(60),
            min_rto: ms(200),
            keepalive: Some(Keepalive {
                idle: ms(7_200_000),
                interval: ms(75_000),
                probes: 9,
            }),
            user_timeout: Some(ms(30_000)),
            exchange_user_timeout: true,
            ecn: EcnMode::Request,
            mtu_probing: false,
        },
        path_mtu: 1500,
        search: Some(SearchHeader {
            high: 9_000,
            next: ms(1_234),
            probe: Some((seq(una.wrapping_add(4)), 8_000)),
            claim: Some((seq(una.wrapping_add(2)), 1_400)),
        }),
        ecn: EcnHeader {
            agreed: true,
            echo: true,
            reduced: true,
            point: Some(seq(una.wrapping_add(8))),
        },
        peer_timeout: 0x8003,
        soft_error: true,
        sack: true,
        timestamps: Some(TimestampHeader {
            value: 0x1234_5678,
            recent: 0x9abc_def0,
            recent_age: ms(11),
        }),
        snd: SndHeader {
            iss: seq(una.wrapping_sub(1001)),
            una: seq(una),
            nxt: seq(una.wrapping_add(31)),
            window: 65_000,
            wl1: seq(4_990),
            wl2: seq(una.wrapping_sub(10)),
            max_window: 70_000,
            scale: 7,
            peer_mss: 1440,
            offset: 1000,
            end: SndEnd::Sent,
            sent: vec![
                SentHeader {
                    len: 10,
                    age: ms(30),
                    retransmits: 2,
                    marks: 12,
                },
                SentHeader {
                    len: 21,
                    age: ms(20),
                    retransmits: 0,
                    marks: 17,
                },
            ],
            reno_sacked: 3,
            last_sent_age: Some(ms(20)),
            pace: Some(ms(2)),
            largest_acked: 1_428,
            cwnd_limited: true,
        },
        rcv: RcvHeader {
            irs: seq(1),
            nxt: seq(5_000),
            edge: seq(69_000),
            scale: 8,
            buffer: 262_144,
            offset: 4_998,
            end: RcvEnd::Ahead(seq(6_000)),
            last_ack: seq(4_800),
            duplicate: Some((seq(4_000), seq(4_100))),
            unacked: 200,
            full_size: 1428,
            quick: 5,
            discard: true,
            lost: false,
        },
        rtt: RttHeader {
            srtt: Some(Duration::from_nanos(1_234_567)),
            rttvar: Duration::from_nanos(765_432),
            backoff: 1,
            min: Some((Duration::from_nanos(999_999), ms(5_000))),
        },
        congestion: CongestionHeader {
            cwnd: 14_480,
            ssthresh: 20_000,
            algorithm: AlgorithmHeader::Cubic {
                w_max: 30_000,
                prior: 28_000,
                epoch_age: Some(ms(100)),
                k_ms: 300,
                w_est: 400,
                credit: 500,
                paused_age: Some(ms(6)),
            },
            hystart: Some(HyStartHeader {
                end: seq(una.wrapping_add(3)),
                last: 50_000,
                current: 51_000,
                baseline: u32::MAX,
                samples: 7,
                rounds: 4,
            }),
        },
        recovery: RecoveryHeader {
            phase: Phase::Recovery,
            point: seq(una.wrapping_add(31)),
            rack: RackHeader {
                xmit_age: Some(ms(25)),
                end: seq(una.wrapping_add(5)),
                rtt: Duration::from_nanos(1_111_111),
                fack: seq(una.wrapping_add(6)),
                reordering_seen: true,
                dsack_round: Some(seq(una.wrapping_add(7))),
                multiplier: 2,
                persist: 14,
            },
            tlp: TlpHeader {
                end: Some(seq(una.wrapping_add(31))),
                retransmission: true,
                due: true,
            },
            prr: (100, 200, 300),
            undo: UndoHeader {
                from: Some(seq(una)),
                cwnd: 29_000,
                ssthresh: 31_000,
                until: Some(seq(una.wrapping_add(9))),
                stamp: Some(77),
                retransmitted: true,
                unreported: 10,
            },
            duplicate_acks: 4,
        },
        timers: TimersHeader {
            retransmit: Some(ms(201)),
            probe: Some(ms(12)),
            reorder: Some(ms(3)),
            persist: Some(ms(4)),
            delayed_ack: Some(ms(39)),
            linger: Some(ms(59_000)),
            keepalive: Some(ms(7_000_000)),
        },
        owed: OwedHeader {
            ack: true,
            duplicate_acks: 2,
            probe: true,
            push: true,
            user_timeout: true,
        },
        attempts: 6,
        heard_age: ms(15),
        progress_age: Some(ms(16)),
        counters: Counters {
            segments_in: 1,
            segments_out: 2,
            retransmits: 3,
            timeouts: 4,
            probes: 5,
            recoveries: 6,
            undos: 7,
            duplicates_reported: 8,
            paws: 9,
            out_of_window: 10,
            challenges: 11,
            challenges_limited: 12,
            bad_acks: 13,
            out_of_order: 14,
            congestion_marks: 16,
            ecn_reductions: 17,
            mtu_probes: 18,
            moves: 15,
        },
    };
    ConnectionState {
        header,
        queues: Queues {
            unacked_and_unsent: vec![
                Bytes::from_static(b"the send "),
                Bytes::from_static(b"queue"),
            ],
            unread: vec![Bytes::from_static(b"unread")],
            out_of_order: vec![
                (100, Bytes::from_static(b"far")),
                (20, Bytes::from_static(b"near ")),
                (25, Bytes::from_static(b"and on")),
            ],
        },
    }
}

fn sample() -> Capsule {
    Capsule {
        session: SessionId {
            origin: 1,
            number: 0xabcd_0000_0007,
        },
        epoch: 3,
        service: "http".into(),
        state: Some((2, Bytes::from_static(b"state"))),
        finished: true,
        connections: vec![CapsuleConnection {
            next_hop: Some([2, 0, 0, 0, 0, 1]),
            end_read: true,
            shut_down: true,
            ahead: Ahead::default(),
            tcp: busy(),
        }],
    }
}

fn octets(capsule: &Capsule) -> Vec<u8> {
    encode(capsule).unwrap().to_vec()
}

fn decoded(octets: &[u8]) -> Result<Capsule, CapsuleError> {
    Capsule::decode(Rope::from(octets.to_vec()))
}

/// An idle connection of a web server's client, as it is after a few requests.
fn idle() -> ConnectionState {
    let mut state = busy();
    let header = &mut state.header;
    header.local = "10.77.0.10:80".parse().unwrap();
    header.remote = "10.77.0.1:40000".parse().unwrap();
    header.state = State::Established;
    header.options = SocketOptions::default();
    header.snd.nxt = header.snd.una;
    header.snd.sent.clear();
    header.snd.end = SndEnd::Open;
    header.search = None;
    header.ecn = EcnHeader::default();
    (header.peer_timeout, header.soft_error) = (0, false);
    header.progress_age = None;
    header.snd.pace = None;
    header.rcv.end = RcvEnd::Open;
    header.rcv.duplicate = None;
    header.congestion.ssthresh = u32::MAX;
    header.recovery.phase = Phase::Open;
    header.recovery.tlp = TlpHeader {
        end: None,
        retransmission: false,
        due: false,
    };
    header.recovery.prr = (0, 0, 1);
    header.recovery.undo = UndoHeader {
        from: None,
        cwnd: 0,
        ssthresh: 0,
        until: None,
        stamp: None,
        retransmitted: false,
        unreported: 0,
    };
    header.timers = TimersHeader {
        retransmit: None,
        probe: None,
        reorder: None,
        persist: None,
        delayed_ack: None,
        linger: None,
        keepalive: None,
    };
    state.queues = Queues::default();
    state
}

#[test]
fn every_field_survives() {
    let before = sample();
    let after = decoded(&octets(&before)).unwrap();
    assert_eq!(after.session, before.session);
    assert_eq!((after.epoch, after.finished), (3, true));
    assert_eq!((&*after.service, &after.state), ("http", &before.state));
    let (after, before) = (&after.connections[0], &before.connections[0]);
    assert_eq!(after.next_hop, before.next_hop);
    assert!(after.end_read && after.shut_down);
    assert_eq!(after.tcp.header, before.tcp.header);
    assert_eq!(
        after.tcp.queues.unacked_and_unsent.concat(),
        b"the send queue"
    );
    assert_eq!(after.tcp.queues.unread.concat(), b"unread");
    let held: Vec<(u32, &[u8])> = after
        .tcp
        .queues
        .out_of_order
        .iter()
        .map(|(at, piece)| (*at, &piece[..]))
        .collect();
    assert_eq!(held, [(100, &b"far"[..]), (20, b"near and on")]);
}

#[test]
fn the_format_is_frozen() {
    let hex: String = octets(&sample())
        .iter()
        .map(|octet| alloc::format!("{octet:02x}"))
        .collect();
    assert_eq!(hex, GOLDEN);
    let old: Vec<u8> = (0..GOLDEN.len() / 2)
        .map(|i| u8::from_str_radix(&GOLDEN[2 * i..2 * i + 2], 16).unwrap())
        .collect();
    let capsule = decoded(&old).unwrap();
    assert_eq!(capsule.connections[0].tcp.header, busy().header);
}

/// [`sample`] as it stands now; from the first release on this does not change.
const GOLDEN: &str = concat!(
    "0198315afb60010187808080d0f92a0304687474700102050101010200000000010301fd77000000000000",
    "0000000000000010fd77000000000000000000000000000150c0b80201ff3fdc0b01c0b802e0d403c09a0c",
    "0180909de91ac0d1e12309018087a70e010201f8acd19101f0bdf3d5090bf0ffffff0f001fe8fb03131390",
    "4e07a00be80702020ae0d403020c159f9c0100110301a09c01940b88270080f40308808010862701e80700",
    "c80101cf0f64c801940b050187ad4bf8db2e0101bf843d8827907101a09c0100b0ea01e0da0101a08d06ac",
    "029003f40301f02e0106d18603b98e03000704013e01a8c3010ac7e8430c010e020e01013e01010164c801",
    "ac020101000112c8e20198f201014d010a040101a8a20c01e05d01b81701a01f01d8b00201c089911c0180",
    "8cee891a02060f01011001a846d2090108c03e0104f80a011083800201d00f0001020f0103040506070809",
    "0a0b0c0d0e1011120e06026403140b73746174657468652073656e64207175657565756e72656164666172",
    "6e65617220616e64206f6e",
);

#[test]
fn an_idle_session_is_small() {
    let mut capsule = sample();
    capsule.state = Some((1, Bytes::from_static(b"0123456789")));
    capsule.connections[0].tcp = idle();
    let size = octets(&capsule).len();
    assert!(size <= 220, "{size} octets");
}

#[test]
fn truncated_anywhere_it_is_refused() {
    let whole = octets(&sample());
    for length in 0..whole.len() {
        let result = decoded(&whole[..length]);
        assert!(
            matches!(result, Err(CapsuleError::Truncated | CapsuleError::Damaged)),
            "{length} octets: {result:?}"
        );
    }
}

/// Where the header ends.
fn header_end(whole: &[u8]) -> usize {
    PREFIX + usize::from(u16::from_le_bytes([whole[5], whole[6]]))
}

#[test]
fn every_flipped_bit_of_the_header_is_refused() {
    let mut whole = octets(&sample());
    for bit in 0..header_end(&whole) * 8 {
        whole[bit / 8] ^= 1 << (bit % 8);
        assert!(decoded(&whole).is_err(), "bit {bit}");
        whole[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn what_follows_it_is_refused() {
    let mut whole = octets(&sample());
    whole.push(0);
    assert!(decoded(&whole).is_err());
}

#[test]
fn an_unknown_version_is_said_to_be_one() {
    let mut whole = octets(&sample());
    whole[0] = 2;
    assert_eq!(decoded(&whole).err(), Some(CapsuleError::UnknownVersion));
}

/// Octets with a check sum that is right, so that what is behind it is looked at.
fn sealed(mut whole: Vec<u8>) -> Vec<u8> {
    let end = header_end(&whole).min(whole.len());
    let sum = check_sum(&whole[5..end]);
    whole[1..5].copy_from_slice(&sum.to_le_bytes());
    whole
}

#[test]
fn lengths_that_lie_are_refused_before_room_is_made_for_them() {
    let mut capsule = sample();
    capsule.connections.clear();
    capsule.state = None;
    let whole = octets(&capsule);
    // The last octet of the header is the number of connections.
    for (count, expected) in [
        (1, CapsuleError::Malformed),
        (MAX_CONNECTIONS as u8 + 1, CapsuleError::Malformed),
        (0x7f, CapsuleError::Malformed),
    ] {
        let mut lying = whole.clone();
        *lying.last_mut().unwrap() = count;
        assert_eq!(decoded(&sealed(lying)).err(), Some(expected), "{count}");
    }
    let header = Header {
        origin: 1,
        number: 1,
        epoch: 1,
        service: "x",
        state: Some((1, u32::MAX)),
        finished: false,
        connections: 0,
    };
    let mut fields = Writer::with_room(0);
    header.put(&mut fields);
    let fields = fields.finish();
    let mut lying = vec![VERSION, 0, 0, 0, 0, fields.len() as u8, 0];
    lying.extend(fields);
    assert_eq!(decoded(&sealed(lying)).err(), Some(CapsuleError::Oversize));
}

#[test]
fn a_session_too_large_for_a_capsule_is_not_encoded() {
    let mut capsule = sample();
    capsule.state = Some((1, Bytes::from(vec![0; MAX_STATE + 1])));
    assert_eq!(encode(&capsule).err(), Some(CapsuleError::Oversize));
    let mut capsule = sample();
    let queue = &mut capsule.connections[0].tcp.queues.unread;
    queue.push(Bytes::from(vec![0; MAX_QUEUE]));
    assert_eq!(encode(&capsule).err(), Some(CapsuleError::Oversize));
}

#[test]
fn random_octets_never_make_a_capsule_or_a_panic() {
    let mut seed = 1u64;
    for round in 0..20_000 {
        let mut whole = octets(&sample());
        for _ in 0..1 + round % 7 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = 5 + (seed >> 33) as usize % (whole.len() - 5);
            whole[at] = (seed >> 20) as u8;
        }
        // With a right check sum it may well be a capsule: then it can be encoded again.
        if let Ok(capsule) = decoded(&sealed(whole)) {
            let _ = encode(&capsule);
        }
    }
}

#[test]
fn what_went_ahead_is_named_and_missing_at_the_front() {
    let mut capsule = sample();
    let whole = octets(&capsule).len();
    let ahead = Ahead { send: 9, unread: 6 };
    capsule.connections[0].ahead = ahead;
    let wire = octets(&capsule);
    assert_eq!(wire.len() + 15, whole + 2, "the numbers take two octets");
    let after = decoded(&wire).unwrap();
    assert_eq!(after.connections[0].ahead, ahead);
    let queues = &after.connections[0].tcp.queues;
    assert_eq!(queues.unacked_and_unsent.concat(), b"queue");
    assert!(queues.unread.is_empty());
}

#[test]
fn payload_is_shared_on_the_way_out_and_in() {
    let queue = Bytes::from(vec![7; 50_000]);
    let mut capsule = sample();
    capsule.connections[0].tcp.queues.unacked_and_unsent = vec![queue.clone()];
    let wire = encode(&capsule).unwrap();
    let shared = |rope: &Rope| rope.pieces().any(|piece| piece.as_ptr() == queue.as_ptr());
    assert!(shared(&wire));
    let after = decode(wire).unwrap();
    let queues = &after.connections[0].tcp.queues;
    assert_eq!(queues.unacked_and_unsent[0].as_ptr(), queue.as_ptr());
}
