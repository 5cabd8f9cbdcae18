//! A member that holds the key and says what it likes, at an instance that serves.
//!
//! Input: messages of the channel, each preceded by the milliseconds before it (one octet) and flags
//! (one octet: bit 0 has a client open a connection, bit 1 has the client's data arrive, bit 2 moves
//! a session to the member, bit 3 begins a drain, bit 4 puts right what a transfer must name: boot,
//! generation, epoch and the capsule's check sum).

use bytes::Bytes;
use godwit_netstack::cluster::channel::{Channel, Ends};
use godwit_netstack::cluster::keys::Key;
use godwit_netstack::cluster::message::{
    Attempt, Ballot, Claim, Flow, Heartbeat, Message, Ownership, Transfer,
};
use godwit_netstack::cluster::{BootId, CHANNEL_PORT, MemberId};
use godwit_netstack::instance::{Event, InstanceConfig, Peer, ServiceSpec};
use godwit_netstack::migrate::capsule::v1;
use godwit_netstack::migrate::rope::Rope;
use godwit_netstack::session::{Input, SessionId};
use godwit_netstack::stack::{ConnId, RxFrame, Scope, Stack, StackEvent};
use godwit_netstack::tcp::TcpConfig;
use godwit_netstack::{Duration, Instance, Instant};

use super::Reader;
use crate::Target;
use crate::link::{CLIENT, PORT, Pair, SERVER, address, config, stack, transmit};

pub(crate) const TARGET: Target = Target {
    name: "members",
    run,
    seeds,
};

const KEY: [u8; 32] = [9; 32];
const US: MemberId = MemberId(1);
const THEM: MemberId = MemberId(2);
const MAX_MESSAGES: usize = 60;
/// Octets of a version and check sum before a capsule's content.
const PREFIX: usize = 5;

/// The instance, and everyone else: one stack with the member's channel and a client's connections.
struct World {
    now: Instant,
    instance: Instance,
    others: Stack,
    wire: Option<(ConnId, Channel)>,
    clients: Vec<ConnId>,
}

impl World {
    fn new() -> World {
        let now = Instant::from_millis(1_000);
        let own = |of: u8| address(of + 10, false);
        let config = InstanceConfig {
            id: US,
            stack: config(SERVER, TcpConfig::default()),
            peers: vec![Peer {
                id: THEM,
                address: own(CLIENT),
            }],
            ingress: US,
            role: Default::default(),
            discover: Default::default(),
            cluster_key: Some(KEY),
            patience: Duration::from_millis(20),
        };
        let mut instance = Instance::new(config, [SERVER; 32], now);
        instance.add_service(ServiceSpec {
            name: "http",
            port: PORT,
            scope: Scope::Service,
            state_version: 1,
            oldest_state: 1,
            states: None,
        });
        let mut others = stack(CLIENT, now);
        others.listen(CHANNEL_PORT, Scope::Own);
        World {
            now,
            instance,
            others,
            wire: None,
            clients: Vec::new(),
        }
    }

    /// Let what there is to say be said, then go to the next deadline before `end`; false at the end.
    fn turn(&mut self, end: Instant) -> bool {
        for _ in 0..100 {
            let mut quiet = true;
            self.serve();
            let mut count = 0;
            while let Some(frame) = self.instance.poll_transmit(self.now) {
                self.others
                    .handle_frame(self.now, RxFrame::new(frame.to_vec()));
                quiet = false;
                count += 1;
                assert!(count < 20_000, "a storm of frames");
            }
            self.speak();
            for frame in transmit(&mut self.others, self.now) {
                self.instance.handle_frame(self.now, RxFrame::new(frame));
                quiet = false;
            }
            if quiet {
                break;
            }
        }
        let due = [self.instance.poll_timeout(), self.others.poll_timeout()];
        let next = due.into_iter().flatten().min();
        let Some(next) = next.filter(|next| *next <= end) else {
            self.now = end;
            return false;
        };
        self.now = self.now.max(next) + Duration::from_micros(50);
        self.instance.handle_timeout(self.now);
        self.others.handle_timeout(self.now);
        true
    }

    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        for _ in 0..2_000 {
            if !self.turn(end) {
                break;
            }
        }
        self.now = self.now.max(end);
    }

    /// The service: echoes what comes.
    fn serve(&mut self) {
        while let Some(event) = self.instance.poll_event() {
            let (Event::SessionStarted { session, .. } | Event::SessionWoken(session)) = event
            else {
                continue;
            };
            let _ = self.echo(session);
        }
    }

    fn echo(&mut self, session: SessionId) -> Result<(), godwit_netstack::session::SessionError> {
        let room = self.instance.write_room(session, 0)?;
        match self.instance.read(session, 0)? {
            Input::Data(mut data) => {
                data.truncate(room);
                self.instance.consume(session, 0, data.len())?;
                self.instance.write(session, 0, data)?;
                self.instance
                    .commit(self.now, session, Bytes::from_static(b"state"))
            }
            Input::End => self
                .instance
                .finish(self.now, session, Bytes::from_static(b"state")),
            Input::Pending => Ok(()),
        }
    }

    /// The member's end of the channel, and the clients.
    fn speak(&mut self) {
        let now = self.now;
        while let Some(event) = self.others.poll_event() {
            if let StackEvent::Accepted { conn, .. } = event {
                let ends = Ends {
                    us: THEM,
                    boot: BootId([0x5a; 16]),
                    generation: 1,
                    peer: US,
                };
                self.wire = Some((conn, Channel::responder(ends, &[Key(KEY)], [3; 32])));
            }
        }
        for conn in &self.clients {
            self.others.update(now, *conn, |tcp| {
                tcp.receive_consume(now, tcp.receive_available());
            });
        }
        let Some((conn, channel)) = &mut self.wire else {
            return;
        };
        let data = self.others.update(now, *conn, |tcp| {
            let data = tcp.receive_peek(0).unwrap_or_default();
            tcp.receive_consume(now, data.len());
            data
        });
        if let Some(data) = data.filter(|data| !data.is_empty()) {
            let _ = channel.handle_data(data, || now);
        }
        while let Ok(Some(_)) = channel.poll_message() {}
        while let Some(octets) = channel.poll_output() {
            self.others
                .update(now, *conn, |tcp| tcp.send(now, octets).is_ok());
        }
    }

    fn is_up(&self) -> bool {
        self.wire
            .as_ref()
            .is_some_and(|(_, channel)| channel.peer().is_some())
    }

    /// What the flags before a message ask for.
    fn act(&mut self, flags: u8) {
        let service = (address(SERVER, false), PORT).into();
        if flags & 1 != 0
            && let Ok(conn) = self.others.connect(self.now, None, service)
        {
            self.clients.push(conn);
        }
        if flags & 2 != 0 {
            for conn in &self.clients {
                Pair::send(&mut self.others, self.now, *conn, 2_000);
            }
        }
        if flags & 4 != 0 {
            let session = self.instance.sessions().first().map(|status| status.id);
            if let Some(session) = session {
                let _ = self.instance.move_session(self.now, session, THEM);
            }
        }
        if flags & 8 != 0 {
            self.instance.drain(self.now);
        }
    }

    fn say(&mut self, mut message: Message, mut tail: Rope, right: bool) {
        let Some((_, channel)) = &mut self.wire else {
            return;
        };
        if let Message::Transfer(transfer) = &mut message
            && right
            && let Some(hello) = channel.peer()
        {
            transfer.boot = BootId(self.instance.boot_id());
            transfer.generation = hello.generation;
            let octets = tail.to_vec();
            let content = octets.get(PREFIX..).unwrap_or_default();
            let mut capsule = vec![v1::VERSION];
            capsule.extend(v1::check_sum(content).to_le_bytes());
            capsule.extend_from_slice(content);
            tail = Rope::from(capsule);
        }
        let _ = channel.send(&message, tail);
    }
}

fn run(input: &[u8]) {
    let mut reader = Reader(input);
    let mut world = World::new();
    world.pass(Duration::from_millis(50));
    assert!(world.is_up(), "the channel came up");
    for _ in 0..MAX_MESSAGES {
        if reader.is_empty() {
            break;
        }
        let millis = reader.octet();
        let flags = reader.octet();
        world.act(flags);
        world.pass(Duration::from_millis(millis.into()));
        let mut stream = Rope::from(reader.0.to_vec());
        let Ok(Some((message, tail))) = Message::decode(&mut stream) else {
            continue;
        };
        reader.0 = &reader.0[reader.0.len() - stream.len()..];
        world.say(message, tail, flags & 16 != 0);
    }
    world.pass(Duration::from_secs(5));
}

fn seeds() -> Vec<Vec<u8>> {
    let session = SessionId {
        origin: 2,
        number: 77,
    };
    let flow = Flow {
        local: (address(SERVER, false), PORT).into(),
        remote: (address(CLIENT + 10, false), 40_000).into(),
    };
    let attempt = Attempt { session, epoch: 3 };
    let ownership = Ownership {
        flow,
        owner: THEM,
        session,
        epoch: 3,
    };
    let heartbeat = Message::Heartbeat(Heartbeat {
        sessions: 3,
        room: 100,
        draining: false,
        healthy: true,
        priority: 0,
        version: 1,
        term: 1,
        clock: 1_000_000,
        claim: Some(Claim {
            term: 2,
            beat: 1,
            lease: 2_000,
            acting: false,
            after: None,
        }),
    });
    let ballot = Message::Ballot(Ballot {
        beat: 1,
        term: 1,
        granted: true,
        spent: None,
        to: Some(US),
    });
    let transfer = Message::Transfer(Transfer {
        session,
        epoch: 3,
        boot: BootId([7; 16]),
        generation: 1,
    });
    let record = |millis: u8, flags: u8, message: &Message, tail: &[u8]| {
        let mut out = Rope::new();
        let encoded = message.encode(Rope::from(tail.to_vec()), &mut out);
        encoded.expect("short enough");
        [&[millis, flags], &out.to_vec()[..]].concat()
    };
    let mut seeds = Vec::new();
    for content in super::state::capsules().into_iter().take(3) {
        let mut capsule = vec![0; PREFIX];
        capsule.extend(content);
        seeds.push(
            [
                record(5, 0, &heartbeat, &[]),
                record(1, 16, &transfer, &capsule),
                record(1, 0, &Message::Fence(attempt), &[]),
                record(20, 0, &Message::Doubt(attempt), &[]),
                record(20, 4, &Message::WhoOwns(flow, None), &[]),
                record(50, 16, &transfer, &capsule),
            ]
            .concat(),
        );
    }
    let ours = SessionId {
        origin: 1,
        number: 1,
    };
    let ours = Attempt {
        session: ours,
        epoch: 2,
    };
    let accepted = Message::Accepted {
        attempt: ours,
        open: 10,
        import: 20,
    };
    seeds.push(
        [
            record(5, 0, &heartbeat, &[]),
            record(5, 3, &heartbeat, &[]),
            record(40, 6, &accepted, &[]),
            record(5, 2, &Message::NotOwner(ours), &[]),
            record(5, 1, &Message::Owns(vec![ownership; 2]), &[]),
            record(5, 8, &Message::Handover { term: 2 }, &[]),
            record(200, 2, &Message::Released(vec![(flow, session)]), &[]),
        ]
        .concat(),
    );
    seeds.push(
        [
            record(5, 0, &heartbeat, &[]),
            record(5, 1, &Message::Owns(vec![ownership]), &[]),
            record(5, 0, &Message::HandoverTable(vec![ownership]), &[]),
            record(5, 0, &ballot, &[]),
            record(200, 0, &heartbeat, &[]),
            record(5, 3, &Message::NotMine(flow, None), &[]),
            record(5, 0, &Message::Frame(attempt), &[1; 60]),
            record(5, 0, &Message::Leaving, &[]),
        ]
        .concat(),
    );
    seeds
}
