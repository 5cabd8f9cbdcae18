//! A member of the cluster that is not one of ours: it holds a key (the right one or another),
//! speaks the instance channel on smoltcp sockets, and says what the scenario tells it to.

use std::net::IpAddr;

use bytes::Bytes;
use godwit_netstack::cluster::channel::{Channel, Ends};
use godwit_netstack::cluster::keys::Key;
use godwit_netstack::cluster::message::{Hello, Message};
use godwit_netstack::cluster::{BootId, CHANNEL_PORT, MemberId};
use godwit_netstack::migrate::rope::Rope;
use godwit_netstack::{Duration, Instant};
use smoltcp::socket::tcp::Socket;

use super::app::{App, Outcome};

/// Something an instance said.
#[derive(Clone, Debug)]
pub struct Heard {
    /// The message.
    pub message: Message,
    /// What followed its fields: a capsule or a frame.
    pub tail: Bytes,
}

/// One end of a channel to an instance.
pub struct StrangeMember {
    us: MemberId,
    /// Who is reached by which address.
    members: Vec<(IpAddr, MemberId)>,
    key: [u8; 32],
    initiates: bool,
    /// Count of channels so far.
    generation: u64,
    channel: Option<Channel>,
    /// Everything heard, oldest first, heartbeats left out.
    pub heard: Vec<Heard>,
    /// Octets that came over TCP, readable or not.
    pub octets: u64,
    /// Octets to send as they are, outside of the channel.
    pub raw: Vec<u8>,
    outgoing: Vec<u8>,
    heartbeat: Option<Message>,
    next_heartbeat: Option<Instant>,
    broken: u64,
}

const HEARTBEAT_EVERY: Duration = Duration::from_millis(100);

impl StrangeMember {
    /// An end that waits for (or, if it `initiates`, opens) the channel to one of `members`.
    pub fn new(
        us: MemberId,
        members: Vec<(IpAddr, MemberId)>,
        key: [u8; 32],
        initiates: bool,
    ) -> StrangeMember {
        StrangeMember {
            us,
            members,
            key,
            initiates,
            generation: 0,
            channel: None,
            heard: Vec::new(),
            octets: 0,
            raw: Vec::new(),
            outgoing: Vec::new(),
            heartbeat: None,
            next_heartbeat: None,
            broken: 0,
        }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Option<MemberId> {
        Some(self.channel.as_ref()?.peer_id())
    }

    /// Repeat this message at intervals, so that the peer takes us for alive.
    pub fn beat(&mut self, heartbeat: Message) {
        self.heartbeat = Some(heartbeat);
        self.next_heartbeat = Some(Instant::ZERO);
    }

    /// The peer's greeting: its boot id and generation, once the channel is up.
    pub fn greeting(&self) -> Option<&Hello> {
        self.channel.as_ref()?.peer()
    }

    /// Say something.
    pub fn say(&mut self, message: &Message, tail: Bytes) {
        if let Some(channel) = &mut self.channel {
            let _ = channel.send(message, Rope::from(tail));
        }
    }

    /// How often the channel broke: the other end is no instance, or has another key.
    pub fn broken(&self) -> u64 {
        self.broken
    }

    fn open(&mut self, socket: &Socket<'static>) -> Option<()> {
        let remote = IpAddr::from(socket.remote_endpoint()?.addr);
        let (_, peer) = self.members.iter().find(|(known, _)| *known == remote)?;
        self.generation += 1;
        let ends = Ends {
            us: self.us,
            boot: BootId([0x5a; 16]),
            generation: self.generation,
            peer: *peer,
        };
        let mut seed = [3; 32];
        seed[..8].copy_from_slice(&self.generation.to_le_bytes());
        self.channel = Some(if self.initiates {
            Channel::initiator(ends, &Key(self.key), seed)
        } else {
            Channel::responder(ends, &[Key(self.key)], seed)
        });
        Some(())
    }

    fn listen(&mut self) {
        let Some(channel) = &mut self.channel else {
            return;
        };
        loop {
            match channel.poll_message() {
                Ok(Some((Message::Heartbeat(_), ..))) => {}
                Ok(Some((message, tail, _))) => self.heard.push(Heard {
                    message,
                    tail: tail.to_vec().into(),
                }),
                Ok(None) => return,
                Err(_) => {
                    self.broken += 1;
                    return;
                }
            }
        }
    }
}

impl App for StrangeMember {
    fn poll(&mut self, now: Instant, socket: &mut Socket<'static>) -> bool {
        if !socket.is_open() && !self.initiates {
            self.channel = None;
            self.outgoing.clear();
            let _ = socket.listen(CHANNEL_PORT);
            return false;
        }
        if !socket.may_send() && !socket.can_recv() {
            return false;
        }
        if self.channel.is_none() && self.open(socket).is_none() {
            return false;
        }
        let Some(channel) = &mut self.channel else {
            return false;
        };
        let mut active = false;
        while socket.can_recv() {
            let read = socket.recv(|data| (data.len(), Bytes::copy_from_slice(data)));
            let Ok(data) = read else { break };
            self.octets += data.len() as u64;
            active = true;
            self.broken += u64::from(channel.handle_data(data, || now).is_err());
        }
        if let Some(heartbeat) = &self.heartbeat
            && self.next_heartbeat.is_some_and(|at| at <= now)
            && channel.peer().is_some()
        {
            let _ = channel.send(heartbeat, Rope::new());
            self.next_heartbeat = Some(now + HEARTBEAT_EVERY);
        }
        self.outgoing.append(&mut self.raw);
        while let Some(octets) = channel.poll_output() {
            self.outgoing.extend_from_slice(&octets);
        }
        if !self.outgoing.is_empty() && socket.can_send() {
            let sent = socket.send_slice(&self.outgoing).unwrap_or(0);
            self.outgoing.drain(..sent);
            active |= sent > 0;
        }
        self.listen();
        active
    }

    fn deadline(&self) -> Option<Instant> {
        self.channel.as_ref()?.peer()?;
        self.next_heartbeat
    }

    fn outcome(&self) -> Outcome {
        Outcome::Done
    }
}
