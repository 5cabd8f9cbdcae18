//! A peer that holds the key and behaves badly: it repeats an old channel, or it never stops.

use super::*;
use crate::cluster::channel::{Channel, Ends};
use crate::cluster::keys::Key;
use crate::cluster::message::{Attempt, Claim, Heartbeat, Message, Transfer};
use crate::cluster::steering::MAX_QUERIES;
use crate::migrate::rope::Rope;

/// The third member: the client's stack plays it, octet by octet.
const BAD: MemberId = MemberId(CLIENT);

/// Two members to which the client's address is a third one.
struct Yard {
    net: Net,
    generation: u64,
}

/// One channel of the bad member, and all octets it has sent in it.
struct End {
    conn: ConnId,
    channel: Channel,
    sent: Vec<u8>,
    heard: Vec<Message>,
}

impl Yard {
    fn new(seed: u8) -> Yard {
        let now = Instant::from_millis(1_000);
        let node = |id| {
            let mut config = config(id, 2);
            config.peers.push(Peer {
                id: BAD,
                address: address(CLIENT),
            });
            // It never has a vote's worth of patience for us.
            config.role.witnesses = alloc::vec![BAD];
            Node::new(config, seed ^ id as u8, now)
        };
        let mut net = Net::with(alloc::vec![node(1), node(2)], seed, now);
        net.run_for(Duration::from_millis(600));
        net.allow_resets = true;
        Yard { net, generation: 0 }
    }

    fn dial(&mut self) -> ConnId {
        let to = (address(1), CHANNEL_PORT).into();
        let conn = self.net.client.connect(self.net.now, None, to).unwrap();
        self.net.run_for(Duration::from_millis(5));
        conn
    }

    fn write(&mut self, conn: ConnId, octets: &[u8]) {
        let now = self.net.now;
        self.net.client.update(now, conn, |tcp| {
            let _ = tcp.send(now, Bytes::copy_from_slice(octets));
        });
    }

    fn is_dead(&self, conn: ConnId) -> bool {
        let tcp = self.net.client.connection(conn);
        tcp.is_none_or(|tcp| tcp.error().is_some())
    }

    /// Open a channel to member 1 and greet.
    fn open(&mut self) -> End {
        self.generation += 1;
        let ends = Ends {
            us: BAD,
            boot: BootId([0xbd; 16]),
            generation: self.generation,
            peer: MemberId(1),
        };
        let mut seed = [0x42; 32];
        seed[0] = self.generation as u8;
        let mut end = End {
            conn: self.dial(),
            channel: Channel::initiator(ends, &Key(KEY), seed),
            sent: Vec::new(),
            heard: Vec::new(),
        };
        for _ in 0..4 {
            self.carry(&mut end);
        }
        assert!(end.channel.peer().is_some(), "the channel is up");
        end
    }

    /// Carry octets both ways for two milliseconds.
    fn carry(&mut self, end: &mut End) {
        while let Some(octets) = end.channel.poll_output() {
            end.sent.extend_from_slice(&octets);
            self.write(end.conn, &octets);
        }
        self.net.run_for(Duration::from_millis(2));
        let now = self.net.now;
        let received = self.net.client.update(now, end.conn, |tcp| {
            let mut received = Vec::new();
            while let Some(data) = tcp.receive_peek(0).filter(|data| !data.is_empty()) {
                tcp.receive_consume(now, data.len());
                received.push(data);
            }
            received
        });
        for data in received.unwrap_or_default() {
            end.channel.handle_data(data, || now).unwrap();
        }
        while let Some((message, ..)) = end.channel.poll_message().unwrap() {
            end.heard.push(message);
        }
    }

    fn say(&mut self, end: &mut End, message: &Message) {
        end.channel.send(message, Rope::new()).unwrap();
    }

    fn count(&self, name: &str) -> u64 {
        self.net.counter(1, name)
    }

    /// The cluster still serves and moves.
    fn works(&mut self) {
        let before = self.net.conns.len();
        self.net.connect(ECHO, stream(0, 1_000), false);
        let done = |net: &mut Net| net.conns[before].received.len() >= 1_000;
        self.net.run_until(Duration::from_secs(5), done);
        let owned = self.net.sessions();
        let (session, owner) = owned.last().copied().unwrap();
        let (now, owner) = (self.net.now, owner.unwrap());
        let to = 3 - owner;
        self.net
            .node(owner)
            .move_session(now, session, MemberId(to))
            .unwrap();
        self.net.run_for(Duration::from_secs(1));
        assert_eq!(self.net.owner(session), Some(to));
    }
}

fn heartbeat() -> Message {
    Message::Heartbeat(Heartbeat {
        sessions: 0,
        room: 0,
        draining: true,
        healthy: true,
        priority: 0,
        version: 1,
        term: 0,
        clock: 0,
        claim: None,
    })
}

fn flow(number: u32) -> Flow {
    let [_, a, b, c] = number.to_be_bytes();
    Flow {
        local: (VIP, ECHO).into(),
        remote: (IpAddr::from([172, 16 | a & 15, b, c]), 999).into(),
    }
}

#[test]
fn an_old_channel_played_again_changes_nothing_but_counters() {
    let mut yard = Yard::new(101);
    let mut first = yard.open();
    yard.say(&mut first, &Message::Leaving);
    for epoch in 1..20 {
        let hello = first.channel.peer().unwrap().clone();
        let transfer = Transfer {
            session: SessionId::default(),
            epoch,
            boot: hello.boot,
            generation: hello.generation,
        };
        yard.say(&mut first, &Message::Transfer(transfer));
    }
    yard.carry(&mut first);
    let now = yard.net.now;
    yard.net
        .client
        .update(now, first.conn, |tcp| tcp.abort(now));
    yard.net.run_for(Duration::from_millis(50));
    let (up, refused) = (
        yard.count("channels_up"),
        yard.count("transfer_refused_truncated"),
    );
    assert_eq!(refused, 19, "the first time it was heard");
    let left = |yard: &mut Yard| yard.net.node(1).members.get(BAD).unwrap().left;
    let before = left(&mut yard);

    // Whole, and from every record on (without its handshake nothing can be read at all).
    for start in [0, 50, 51] {
        let conn = yard.dial();
        let octets = first.sent[start..].to_vec();
        yard.write(conn, &octets);
        yard.net.run_for(Duration::from_millis(50));
        assert!(yard.is_dead(conn), "from octet {start}");
    }
    assert_eq!(yard.count("channels_up"), up);
    assert_eq!(yard.count("transfer_refused_truncated"), refused);
    assert_eq!(left(&mut yard), before);
    assert!(yard.count("channel_bad_records") >= 1);
    assert!(yard.count("channel_wrong_key") >= 2);
    yard.works();
}

#[test]
fn a_message_of_an_older_channel_is_void_in_a_newer_one() {
    let mut yard = Yard::new(102);
    let first = yard.open();
    let old = first.channel.peer().unwrap().clone();
    let mut second = yard.open();
    let new = second.channel.peer().unwrap().clone();
    assert!(new.generation > old.generation && new.boot == old.boot);
    let attempt = Attempt {
        session: SessionId {
            origin: 9,
            number: 9,
        },
        epoch: 5,
    };
    let transfer = Transfer {
        session: attempt.session,
        epoch: attempt.epoch,
        boot: old.boot,
        generation: old.generation,
    };
    yard.say(&mut second, &Message::Transfer(transfer));
    yard.carry(&mut second);
    yard.carry(&mut second);
    let refused = second.heard.iter().any(
        |message| matches!(message, Message::Refused { attempt: about, .. } if *about == attempt),
    );
    assert!(refused, "{:?}", second.heard);
    assert_eq!(yard.count("transfer_refused_void"), 1);
}

#[test]
fn handshakes_beyond_the_limit_are_turned_away_before_any_work() {
    let mut yard = Yard::new(103);
    for _ in 0..60 {
        let conn = yard.dial();
        yard.write(conn, &[0; 16]);
    }
    yard.net.run_for(Duration::from_millis(50));
    let limited = yard.count("channel_handshakes_limited");
    assert!((30..=40).contains(&limited), "{limited} of 60");
    assert!(yard.net.node(1).links.len() <= 1 + channels::MAX_HANDSHAKES);
    assert!(
        yard.net.node(1).members()[0].up,
        "the other member is not concerned"
    );
    // Only for a while.
    yard.net.run_for(Duration::from_secs(5));
    yard.open();
    yard.works();
}

#[test]
fn questions_beyond_the_limit_are_not_answered() {
    let mut yard = Yard::new(104);
    let mut end = yard.open();
    for number in 0..80_000 {
        yard.say(&mut end, &Message::WhoOwns(flow(number), None));
    }
    for _ in 0..300 {
        yard.carry(&mut end);
    }
    let dropped = yard.count("peer_queries_dropped");
    assert!((1..=30_000).contains(&dropped), "{dropped}");
    let answered = end.heard.iter();
    let answered = answered
        .filter(|m| matches!(m, Message::NotMine(..)))
        .count() as u64;
    assert_eq!(answered + dropped, 80_000);
    yard.works();
}

#[test]
fn an_offer_in_doubt_is_answered_however_many_questions_came_before() {
    let mut yard = Yard::new(107);
    let mut end = yard.open();
    for number in 0..80_000 {
        yard.say(&mut end, &Message::WhoOwns(flow(number), None));
    }
    let attempt = Attempt {
        session: SessionId {
            origin: 9,
            number: 9,
        },
        epoch: 5,
    };
    yard.say(&mut end, &Message::Doubt(attempt));
    for _ in 0..300 {
        yard.carry(&mut end);
    }
    assert!(yard.count("peer_queries_dropped") > 0);
    let denied = |message: &Message| *message == Message::NotOwner(attempt);
    assert!(end.heard.iter().any(denied), "else it stays frozen");
}

#[test]
fn heartbeats_beyond_the_limit_are_as_if_lost() {
    let mut yard = Yard::new(105);
    let mut end = yard.open();
    for number in 0..20_000_u64 {
        let mut beat = heartbeat();
        if let Message::Heartbeat(beat) = &mut beat {
            beat.claim = Some(Claim {
                term: 1 + number,
                beat: number,
                lease: 2_000,
                acting: false,
                after: None,
            });
        }
        yard.say(&mut end, &beat);
        yard.say(&mut end, &Message::Leaving);
    }
    for _ in 0..100 {
        yard.carry(&mut end);
    }
    let ballots = end.heard.iter().filter(|m| matches!(m, Message::Ballot(_)));
    assert!(ballots.count() <= 1_200);
    assert!(yard.count("peer_control_dropped") >= 38_000);
    yard.net.run_for(Duration::from_secs(3));
    yard.works();
}

#[test]
fn a_flood_of_claims_is_held_back_and_the_other_member_is_served_meanwhile() {
    let mut yard = Yard::new(106);
    let mut end = yard.open();
    let owned = |number| Ownership {
        flow: flow(number),
        owner: BAD,
        session: SessionId::default(),
        epoch: 1,
    };
    let per_message = crate::cluster::message::MAX_ENTRIES as u32;
    for message in 0..9_000 {
        let first = message * per_message % 100_000;
        let list = (first..first + per_message).map(owned).collect();
        yard.say(&mut end, &Message::Owns(list));
    }
    for _ in 0..100 {
        yard.carry(&mut end);
        let received: usize = yard
            .net
            .node(1)
            .links
            .values()
            .map(|l| l.channel.received())
            .sum();
        assert!(received <= 16 * 1024 * 1024, "{received} octets kept");
    }
    assert!(yard.count("peer_held_back") >= 1);
    assert!(yard.net.node(1).steering.iter().count() <= 100_000 + MAX_QUERIES);
    yard.works();
}
