//! What a member says inside the channel (it holds the key, and may still be broken).
//!
//! Input: octets of the plain stream, in two pieces cut where the first two octets say.

use bytes::Bytes;
use godwit_netstack::cluster::message::{
    Attempt, Ballot, Claim, Content, Flow, Heartbeat, Hello, Message, Ownership, Transfer,
};
use godwit_netstack::cluster::{BootId, MemberId};
use godwit_netstack::migrate::rope::Rope;
use godwit_netstack::migrate::transfer::RefuseReason;
use godwit_netstack::session::{ContentId, SessionId};

use super::Reader;
use crate::Target;

pub(crate) const TARGET: Target = Target {
    name: "messages",
    run,
    seeds,
};

fn run(input: &[u8]) {
    let mut reader = Reader(input);
    let cut = usize::from(reader.word());
    let mut stream = Rope::new();
    let first = reader.slice(cut);
    for piece in [first, reader.0] {
        stream.push(Bytes::copy_from_slice(piece));
        loop {
            let before = stream.len();
            match Message::decode(&mut stream) {
                Ok(Some((message, tail))) => {
                    assert!(stream.len() < before, "a message of no octets");
                    // What was understood can be said again.
                    let mut again = Rope::new();
                    if message.encode(tail.clone(), &mut again).is_some() {
                        let decoded = Message::decode(&mut again);
                        assert!(matches!(decoded, Ok(Some((same, _))) if same == message));
                    }
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let session = SessionId {
        origin: 1,
        number: 77,
    };
    let flow = Flow {
        local: ([10, 77, 0, 10], 80).into(),
        remote: ([10, 77, 0, 99], 40_000).into(),
    };
    let (boot, member) = (BootId([7; 16]), MemberId(2));
    let attempt = Attempt { session, epoch: 3 };
    let ownership = Ownership {
        flow,
        owner: member,
        session,
        epoch: 3,
    };
    let messages = [
        Message::Hello(Hello {
            member,
            boot,
            generation: 1,
        }),
        Message::Heartbeat(Heartbeat {
            sessions: 3,
            room: 100,
            draining: false,
            healthy: true,
            priority: 100,
            version: 1,
            term: 1,
            clock: 1_000_000,
            claim: Some(Claim {
                term: 2,
                beat: 9,
                lease: 2_000,
                acting: false,
                after: Some((member, 1)),
            }),
        }),
        Message::Transfer(Transfer {
            session,
            epoch: 3,
            boot,
            generation: 1,
        }),
        Message::Frame(attempt),
        Message::Fence(attempt),
        Message::Accepted {
            attempt,
            open: 10,
            import: 20,
        },
        Message::Doubt(attempt),
        Message::WhoOwns(flow, None),
        Message::Owns(vec![ownership; 3]),
        Message::Confirm(vec![ownership; 2]),
        Message::Parted,
        Message::Spent { left: 1_000 },
        Message::Released(vec![(flow, session)]),
        Message::HandoverTable(vec![ownership]),
        Message::Handover { term: 4 },
        Message::Ballot(Ballot {
            beat: 9,
            term: 2,
            granted: false,
            spent: Some(7),
            to: Some(member),
        }),
        Message::Leaving,
        Message::Content(Content {
            id: ContentId([7; 32]),
            total: 100,
            offset: 60,
        }),
        Message::Refused {
            attempt,
            reason: RefuseReason::Content(ContentId([7; 32])),
        },
    ];
    let seed = |message: &Message| {
        let mut out = Rope::new();
        let tail = match message {
            Message::Transfer(_) | Message::Frame(_) | Message::Content(_) => {
                Rope::from(vec![5; 40])
            }
            _ => Rope::new(),
        };
        message.encode(tail, &mut out).expect("short enough");
        [&[9, 0], &out.to_vec()[..]].concat()
    };
    let all: Vec<u8> = messages
        .iter()
        .flat_map(|message| seed(message).split_off(2))
        .collect();
    let mut seeds: Vec<Vec<u8>> = messages.iter().map(seed).collect();
    seeds.push([&[60, 0], &all[..]].concat());
    seeds
}
