//! What instances say to each other, and its form inside the encrypted stream.
//!
//! A message is its length (32 bits, little endian), its fields in postcard, and for
//! some, [`Message::Transfer`] and [`Message::Frame`] among them, a tail of raw octets (the capsule, the
//! frame) that is passed on as slices. Lengths are checked before anything is kept; the protocol's
//! version is in the stream's prologue ([`super::noise`]).

use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{BootId, MemberId};
use crate::migrate::rope::Rope;
use crate::migrate::transfer::RefuseReason;
use crate::session::{ContentId, SessionId};
use crate::stack::FlowKey;
use crate::tcp::{Cookie, Queue};

/// Octets of a message at most, tail included.
pub const MAX_MESSAGE: usize = 8 * 1024 * 1024;
/// Octets of a message's fields at most.
pub const MAX_FIELDS: usize = 16 * 1024;
/// Entries of a list in one message at most; longer lists go out as several messages.
pub const MAX_ENTRIES: usize = 128;
const LENGTH: usize = 4;

/// The two ends of a flow, as they cross the channel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Flow {
    /// The service's end.
    pub local: SocketAddr,
    /// The client's end.
    pub remote: SocketAddr,
}

impl From<FlowKey> for Flow {
    fn from(key: FlowKey) -> Flow {
        Flow {
            local: key.local,
            remote: key.remote,
        }
    }
}

impl From<Flow> for FlowKey {
    fn from(flow: Flow) -> FlowKey {
        FlowKey {
            local: flow.local,
            remote: flow.remote,
        }
    }
}

/// Who sends, first thing in a new channel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// The sender.
    pub member: MemberId,
    /// Its boot: anything said to another boot is void.
    pub boot: BootId,
    /// Count of channels with this peer in this boot. A transfer names its target's count.
    pub generation: u64,
}

/// The sender's state, at regular intervals and whenever it changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Sessions it serves that may leave it, and connections that are being opened.
    pub sessions: u32,
    /// Sessions it would still take.
    pub room: u32,
    /// It is being drained: steer nothing and move nothing to it.
    pub draining: bool,
    /// It has memory and whatever else it needs; else nothing new is given to it.
    pub healthy: bool,
    /// Its preference for the ingress role; the highest is elected first.
    pub priority: u8,
    /// Version of the state its service commits: sessions of a higher one cannot go there.
    pub version: u32,
    /// The highest term it has heard of.
    pub term: u64,
    /// The cluster's clock as it reads it, in nanoseconds.
    pub clock: u64,
    /// It asks for the ingress role or holds it. Without this it does neither, and gives up what
    /// it claimed before.
    pub claim: Option<Claim>,
}

/// Be the ingress, or stay it: what every voter answers with a [`Ballot`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Claim {
    /// The term asked for.
    pub term: u64,
    /// Count of this sender's claims in its boot, to be named in the answer.
    pub beat: u64,
    /// The lease the sender counts on, in milliseconds.
    pub lease: u32,
    /// A majority has granted it already: the sender acts.
    pub acting: bool,
    /// Who had the role before, does not act any more and handed it to the sender; and its term.
    pub after: Option<(MemberId, u64)>,
}

impl Claim {
    /// Whether `holder` has resigned what it was granted under `term`, in favour of this claim.
    pub fn follows(&self, holder: MemberId, term: u64) -> bool {
        self.after
            .is_some_and(|(resigned, last)| resigned == holder && term <= last)
    }
}

/// What a voter answers to a [`Claim`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ballot {
    /// The claim's count.
    pub beat: u64,
    /// The claim's term.
    pub term: u64,
    /// Whether the voter grants it, and so promises to grant nobody else's for a lease.
    pub granted: bool,
    /// The claim's term is out of order: the voter grants none up to this one.
    pub spent: Option<u64>,
    /// Whom its promise binds it to.
    pub to: Option<MemberId>,
}

/// A session offered to the receiver; the tail is the capsule.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Transfer {
    /// The session.
    pub session: SessionId,
    /// The epoch the receiver would own it under.
    pub epoch: u64,
    /// The boot it is meant for.
    pub boot: BootId,
    /// The receiver's generation of the channel it is meant for.
    pub generation: u64,
}

/// Octets of a session that the receiver may be offered soon; they are the tail.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ahead {
    /// The session.
    pub session: SessionId,
    /// Which of its connections.
    pub connection: u8,
    /// Which of the connection's queues.
    pub queue: Queue,
    /// Stream offset of the first octet.
    pub offset: u64,
}

/// A piece of a content that a session names which the receiver may be offered; it is the tail. The
/// pieces of one content come in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Content {
    /// The content.
    pub id: ContentId,
    /// Octets of all of it.
    pub total: u32,
    /// Octets before this piece.
    pub offset: u32,
}

/// A session under an epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Attempt {
    /// The session.
    pub session: SessionId,
    /// The epoch.
    pub epoch: u64,
}

/// One flow and who owns it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ownership {
    /// The flow.
    pub flow: Flow,
    /// Its owner.
    pub owner: MemberId,
    /// The session it belongs to.
    pub session: SessionId,
    /// The epoch of the ownership.
    pub epoch: u64,
}

/// Entries of each list of a [`Roster`] that are read.
pub const MAX_ROSTER: usize = 64;

/// Who is who, as a voter that finds members by beacon knows it: said first thing in a channel, and again
/// before anything that rests on a change of it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Roster {
    /// This boot of the sender is older than any leave to own sessions that an earlier one may have granted.
    pub seasoned: bool,
    /// The voters, and their addresses.
    pub voters: Vec<(MemberId, IpAddr)>,
    /// Voters the sender has a channel with.
    pub up: Vec<MemberId>,
    /// Members that were found, and that the sender has granted leave to own sessions.
    pub found: Vec<(MemberId, IpAddr)>,
}

/// What one instance says to another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Message {
    /// See [`Hello`].
    Hello(Hello),
    /// See [`Heartbeat`].
    Heartbeat(Heartbeat),
    /// See [`Transfer`].
    Transfer(Transfer),
    /// A frame that arrived for a frozen session, in the order of arrival behind its capsule. It
    /// names the transfer it follows; the tail is the frame.
    Frame(Attempt),
    /// No [`Message::Frame`] of this transfer follows: later frames come along the wire.
    Fence(Attempt),
    /// The receiver of the transfer owns the session.
    Accepted {
        /// The transfer.
        attempt: Attempt,
        /// Time it took to open and decode the capsule, in nanoseconds.
        open: u64,
        /// Time it took to import it, in nanoseconds.
        import: u64,
    },
    /// The receiver of the transfer does not and will never own the session under this epoch.
    Refused {
        /// The transfer.
        attempt: Attempt,
        /// Why.
        reason: RefuseReason,
    },
    /// Do you own, or have you owned, this session under this epoch? (A transfer is in doubt.)
    Doubt(Attempt),
    /// I have owned it under that epoch or a higher one.
    Owned(Attempt),
    /// I have not, and from now on I never will.
    NotOwner(Attempt),
    /// I cannot tell any more.
    Forgotten(Attempt),
    /// Whose flow is this? If it brings back the cookie of a SYN that the sender does not remember, with that.
    WhoOwns(Flow, Option<Cookie>),
    /// Not mine. The cookie is that asked about, if its connection is over. Unasked: the sender has got a SYN of
    /// it by way of the receiver, who is not the ingress.
    NotMine(Flow, Option<Cookie>),
    /// It was mine and has ended a moment ago: what is still on its way needs no answer.
    Ended(Flow),
    /// These flows are so owned (to the ingress, and as the answer to [`Message::WhoOwns`]).
    Owns(#[serde(deserialize_with = "ownerships")] Vec<Ownership>),
    /// These flows have ended, with the session each belonged to.
    Released(Vec<(Flow, SessionId)>),
    /// A piece of the ingress's table, for its successor.
    HandoverTable(#[serde(deserialize_with = "ownerships")] Vec<Ownership>),
    /// The table is complete, and the sender does not act any more: be the ingress after it.
    Handover {
        /// The last term under which it did.
        term: u64,
    },
    /// The answer to a claim in a heartbeat.
    Ballot(Ballot),
    /// The sender has drained and goes: it owns nothing and never will in this boot.
    Leaving,
    /// See [`Ahead`].
    Ahead(Ahead),
    /// See [`Content`].
    Content(Content),
    /// The sender, the ingress, sends the frames of these sessions elsewhere from now on: to their owner
    /// under that epoch.
    Rerouted(Vec<Attempt>),
    /// Are these flows known to be so owned, or by a later owner? Asked by a member that leaves; the
    /// ingress answers with [`Message::Rerouted`] of those it steers so, and an owner of those that
    /// are not with it any more.
    Confirm(#[serde(deserialize_with = "ownerships")] Vec<Ownership>),
    /// To a member that said [`Message::Leaving`]: the sender is in doubt about nothing that it offered
    /// this boot of it, and offers it nothing more.
    Parted,
    /// From a member that leaves, to one that stays: SYN cookies whose connections are over, as the hashes by
    /// which members remember them; they are the tail, [`HASH`] octets each.
    Spent {
        /// For how long they are to be remembered yet, in milliseconds.
        left: u32,
    },
    /// See [`Roster`].
    Roster(Roster),
    /// From a member that was found by beacon, to the voters: let me own sessions for a while yet. The number is
    /// counted up.
    Stay(u64),
    /// From a voter: that is granted, and until that while is over it asks the member about every unknown flow.
    Stays(u64),
}

/// Octets of a hash in [`Message::Spent`], the lowest first.
pub const HASH: usize = 8;

/// One reader of such lists for all messages that have one.
#[inline(never)]
fn ownerships<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<Ownership>, D::Error> {
    Vec::deserialize(from)
}

/// Names every kind of message once: without its line here, a new one does not compile.
macro_rules! kinds {
    ($($kind:ident)*) => {
        /// What a [`Message`] is, without what it says.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        #[allow(missing_docs, reason = "each is described at its message")]
        pub enum Kind { $($kind),* }

        impl Kind {
            /// All of them, in their order.
            pub const ALL: &[Kind] = &[$(Kind::$kind),*];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self { $(Kind::$kind => stringify!($kind)),* }
            }
        }

        impl Message {
            /// What it is.
            pub fn kind(&self) -> Kind {
                match self { $(Message::$kind { .. } => Kind::$kind),* }
            }
        }
    };
}

kinds! {
    Hello Heartbeat Transfer Frame Fence Accepted Refused Doubt Owned NotOwner Forgotten
    WhoOwns NotMine Ended Owns Released HandoverTable Handover Ballot Leaving
    Ahead Content Rerouted Confirm Parted Spent Roster Stay Stays
}

/// How often each kind of message was sent and received.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    sent: [u64; Kind::ALL.len()],
    received: [u64; Kind::ALL.len()],
}

impl Tally {
    /// One was sent (or put in the channel's queue).
    pub fn sent(&mut self, kind: Kind) {
        self.sent[kind as usize] += 1;
    }

    /// One was received and is about to be handled.
    pub fn received(&mut self, kind: Kind) {
        self.received[kind as usize] += 1;
    }

    /// Every kind with how many were sent and received.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, u64, u64)> + '_ {
        let counts = self.sent.iter().zip(&self.received);
        let kinds = Kind::ALL.iter().zip(counts);
        kinds.map(|(kind, (sent, received))| (*kind, *sent, *received))
    }
}

/// Why octets are no message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MessageError {
    /// The length is above [`MAX_MESSAGE`] (or [`MAX_FIELDS`], without a tail).
    TooLong,
    /// The fields do not parse.
    Malformed,
}

impl Message {
    /// Whether octets follow the fields.
    fn has_tail(&self) -> bool {
        matches!(
            self,
            Message::Transfer(_)
                | Message::Frame(_)
                | Message::Ahead(_)
                | Message::Content(_)
                | Message::Spent { .. }
        )
    }

    /// Add the message to `out`. `None` if it is too long to be sent.
    #[must_use]
    pub fn encode(&self, tail: Rope, out: &mut Rope) -> Option<()> {
        let mut head = Vec::with_capacity(64);
        head.extend_from_slice(&[0; LENGTH]);
        let mut head = postcard::to_extend(self, head).ok()?;
        let length = head.len() - LENGTH + tail.len();
        if length > MAX_MESSAGE || head.len() > MAX_FIELDS {
            return None;
        }
        head[..LENGTH].copy_from_slice(&(length as u32).to_le_bytes());
        out.push(Bytes::from(head));
        out.append(tail);
        Some(())
    }

    /// Take the first message off `octets`, if it is complete.
    pub fn decode(octets: &mut Rope) -> Result<Option<(Message, Rope)>, MessageError> {
        let mut length = [0; LENGTH];
        if octets.peek(&mut length) < LENGTH {
            return Ok(None);
        }
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_MESSAGE {
            return Err(MessageError::TooLong);
        }
        if octets.len() < LENGTH + length {
            return Ok(None);
        }
        octets.skip(LENGTH);
        let mut body = octets.take(length);
        let first = body.pieces().next().cloned().unwrap_or_default();
        let (message, used) = match parse(&first) {
            Ok(parsed) => parsed,
            // The fields are spread over several pieces.
            Err(_) if first.len() < length => {
                let mut copy = alloc::vec![0; length.min(MAX_FIELDS)];
                let filled = body.peek(&mut copy);
                parse(copy.get(..filled).unwrap_or_default())?
            }
            Err(error) => return Err(error),
        };
        body.skip(used);
        if !message.has_tail() && !body.is_empty() {
            return Err(MessageError::Malformed);
        }
        Ok(Some((message, body)))
    }
}

fn parse(octets: &[u8]) -> Result<(Message, usize), MessageError> {
    let (message, rest) =
        postcard::take_from_bytes::<Message>(octets).map_err(|_| MessageError::Malformed)?;
    Ok((message, octets.len() - rest.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seq::SeqNumber;
    use core::net::{Ipv4Addr, Ipv6Addr};

    fn flow(port: u16) -> Flow {
        Flow {
            local: (Ipv4Addr::new(10, 77, 0, 10), 80).into(),
            remote: (Ipv6Addr::LOCALHOST, port).into(),
        }
    }

    fn attempt() -> Attempt {
        Attempt {
            session: SessionId {
                origin: 1,
                number: 7,
            },
            epoch: 3,
        }
    }

    fn all() -> Vec<(Message, Vec<u8>)> {
        let ownership = Ownership {
            flow: flow(1),
            owner: MemberId(2),
            session: attempt().session,
            epoch: 9,
        };
        let plain = |message| (message, Vec::new());
        alloc::vec![
            plain(Message::Hello(Hello {
                member: MemberId(1),
                boot: BootId([3; 16]),
                generation: 1,
            })),
            plain(Message::Heartbeat(Heartbeat {
                sessions: 1,
                room: 2,
                draining: true,
                healthy: true,
                priority: 200,
                version: 3,
                term: 4,
                clock: 5_000_000_000,
                claim: Some(Claim {
                    term: 5,
                    beat: 700,
                    lease: 2_000,
                    acting: true,
                    after: Some((MemberId(3), 4)),
                }),
            })),
            plain(Message::Ballot(Ballot {
                beat: 700,
                term: 5,
                granted: false,
                spent: Some(u64::MAX),
                to: Some(MemberId(9)),
            })),
            plain(Message::Handover { term: 4 }),
            (
                Message::Transfer(Transfer {
                    session: attempt().session,
                    epoch: 2,
                    boot: BootId([9; 16]),
                    generation: 1,
                }),
                alloc::vec![5; 70_000],
            ),
            (Message::Frame(attempt()), alloc::vec![6; 60],),
            (
                Message::Ahead(Ahead {
                    session: attempt().session,
                    connection: 1,
                    queue: Queue::Unread,
                    offset: u64::MAX,
                }),
                alloc::vec![7; 3_000],
            ),
            (Message::Spent { left: 66_000 }, alloc::vec![8; 4_000]),
            plain(Message::Fence(attempt())),
            plain(Message::Rerouted(alloc::vec![attempt(); 2])),
            plain(Message::Confirm(alloc::vec![ownership; MAX_ENTRIES])),
            plain(Message::Parted),
            plain(Message::Roster(Roster {
                seasoned: true,
                voters: alloc::vec![(MemberId(1), [10, 0, 0, 1].into())],
                up: alloc::vec![MemberId(2)],
                found: alloc::vec![(MemberId(4), [0; 16].into())],
            })),
            plain(Message::Stay(u64::MAX)),
            plain(Message::Stays(0)),
            plain(Message::Owns(alloc::vec![ownership; MAX_ENTRIES])),
            plain(Message::Released(alloc::vec![(flow(4), attempt().session)])),
            plain(Message::WhoOwns(flow(5), None)),
            plain(Message::NotMine(
                flow(5),
                Some(Cookie {
                    irs: SeqNumber::new(u32::MAX),
                    iss: SeqNumber::new(7),
                })
            )),
            plain(Message::Leaving),
        ]
    }

    #[test]
    fn messages_survive_any_cut_of_the_stream() {
        let mut wire = Rope::new();
        for (message, tail) in all() {
            message.encode(Rope::from(tail), &mut wire).unwrap();
        }
        let flat = wire.to_vec();
        for step in [1, 7, 63, 1000, 100_000] {
            let mut stream = Rope::new();
            let mut seen = Vec::new();
            for chunk in flat.chunks(step) {
                stream.push(Bytes::copy_from_slice(chunk));
                // Decoding at every octet costs quadratic time with one-octet pieces.
                if step > 1 || stream.len().is_multiple_of(911) || stream.len() < 200 {
                    while let Some((message, tail)) = Message::decode(&mut stream).unwrap() {
                        seen.push((message, tail.to_vec()));
                    }
                }
            }
            while let Some((message, tail)) = Message::decode(&mut stream).unwrap() {
                seen.push((message, tail.to_vec()));
            }
            assert_eq!(seen, all(), "step {step}");
        }
    }

    #[test]
    fn what_is_counted_of_one_kind_is_not_counted_of_another() {
        let mut tally = Tally::default();
        for (number, kind) in Kind::ALL.iter().enumerate() {
            (0..=number).for_each(|_| tally.sent(*kind));
            (0..number).for_each(|_| tally.received(*kind));
        }
        for (number, (kind, sent, received)) in (0..).zip(tally.iter()) {
            assert_eq!((sent, received), (number + 1, number), "{kind:?}");
        }
    }

    #[test]
    fn an_absurd_length_is_refused_before_anything_is_awaited() {
        let mut stream = Rope::from(alloc::vec![0xff; 4]);
        assert_eq!(Message::decode(&mut stream), Err(MessageError::TooLong));
    }

    #[test]
    fn octets_behind_a_message_without_a_tail_are_refused() {
        let mut wire = Rope::new();
        Message::Leaving
            .encode(Rope::from(alloc::vec![1]), &mut wire)
            .unwrap();
        assert_eq!(Message::decode(&mut wire), Err(MessageError::Malformed));
    }

    #[test]
    fn a_list_that_claims_more_entries_than_it_has_is_refused() {
        let mut wire = Rope::new();
        Message::Owns(Vec::new())
            .encode(Rope::new(), &mut wire)
            .unwrap();
        let mut octets = wire.to_vec();
        *octets.last_mut().unwrap() = 0x7f;
        assert_eq!(
            Message::decode(&mut Rope::from(octets)),
            Err(MessageError::Malformed)
        );
    }
}
