//! Octets that travel ahead of the capsule.
//!
//! What is queued on a connection does not change any more, it only gets less from the front. So when
//! a lull ends with a lot still queued (a client that does not read, or is far away), the queues go
//! to the target while the session is still served ([`Message::Ahead`]), again and again as long as much is
//! added to them, and the capsule then names how much of each it need not carry. The client waits for the
//! header and the tail only. Of a session with more than that the oldest [`MAX_SENT`] octets go ahead.
//!
//! Sessions on their way to one target take turns, so that each capsule finds the channel empty as soon as
//! what went ahead of it has left; what others put in behind that is not waited for.
//!
//! The target keeps it in its [`Stash`]: bounded, for a while, and for as long as the channel lives
//! that it came through. What is not there any more when the capsule comes makes it be refused, and
//! the session's next move sends nothing ahead.
//!
//! [`Message::Ahead`]: crate::cluster::message::Message::Ahead

use alloc::vec::Vec;

use super::Instance;
use super::lull::LIGHT;
use crate::cluster::MemberId;
use crate::cluster::message::{Ahead, Message};
use crate::map::Map;
use crate::migrate::capsule::{self, Capsule, CapsuleConnection};
use crate::migrate::rope::Rope;
use crate::session::{MAX_CONNECTIONS, SessionId};
use crate::tcp::Queue;
use crate::time::{Duration, Instant};

/// Octets sent ahead for all sessions in their lull together. What does not fit goes in its capsule.
const MAX_SENT: usize = 4 * 1024 * 1024;
/// Octets kept of what came ahead, at most; of a small machine's memory for queues, a quarter.
const MAX_KEPT: usize = 8 * 1024 * 1024;
/// How long they are kept: several times what a source waits.
const KEPT_FOR: Duration = Duration::from_secs(10);
/// How often a source looks whether they have left.
pub(super) const LOOK: Duration = Duration::from_millis(1);

/// What a source has sent ahead for one session.
#[derive(Debug, Default)]
pub(super) struct SentAhead {
    octets: usize,
    /// The place in the channel behind the last of it.
    place: u64,
    /// For each connection the stream offset up to which its queues went, by [`Queue`].
    ends: Vec<[u64; 2]>,
}

impl SentAhead {
    /// How much of a connection's queues the capsule need not carry.
    pub fn of(&self, number: usize, connection: &CapsuleConnection) -> capsule::Ahead {
        let Some([send, unread]) = self.ends.get(number) else {
            return capsule::Ahead::default();
        };
        let queues = &connection.tcp.queues;
        let part = |end: u64, start: u64, pieces: &[bytes::Bytes]| {
            let queued: usize = pieces.iter().map(bytes::Bytes::len).sum();
            end.saturating_sub(start).min(queued as u64) as u32
        };
        let [send_start, unread_start] = starts(connection);
        capsule::Ahead {
            send: part(*send, send_start, &queues.unacked_and_unsent),
            unread: part(*unread, unread_start, &queues.unread),
        }
    }
}

/// Stream offsets at which a connection's queues begin, with all of them in the description or all
/// of them ahead of it.
fn starts(connection: &CapsuleConnection) -> [u64; 2] {
    let tcp = &connection.tcp;
    let unread: usize = tcp.queues.unread.iter().map(bytes::Bytes::len).sum();
    let unread = unread as u64 + u64::from(connection.ahead.unread);
    let received = tcp.header.rcv.offset;
    [tcp.header.snd.offset, received.saturating_sub(unread)]
}

/// One queue of one connection.
#[derive(Debug)]
struct Part {
    connection: u8,
    queue: Queue,
    /// Stream offset of its first octet.
    start: u64,
    octets: Rope,
}

impl Part {
    fn end(&self) -> Option<u64> {
        self.start.checked_add(self.octets.len() as u64)
    }
}

#[derive(Debug)]
struct Kept {
    until: Instant,
    parts: Vec<Part>,
}

impl Kept {
    fn octets(&self) -> usize {
        self.parts.iter().map(|part| part.octets.len()).sum()
    }

    /// `count` octets of a queue from stream offset `start` on.
    fn take(&mut self, number: usize, queue: Queue, start: u64, count: u32) -> Option<Rope> {
        let is_it = |part: &&mut Part| {
            usize::from(part.connection) == number && part.queue == queue && part.start <= start
        };
        let part = self.parts.iter_mut().find(is_it)?;
        let skip = usize::try_from(start - part.start).ok()?;
        let count = count as usize;
        if part.octets.len() < skip.checked_add(count)? {
            return None;
        }
        part.octets.skip(skip);
        part.start = start.saturating_add(count as u64);
        Some(part.octets.take(count))
    }
}

/// What came ahead of capsules that have not come yet.
#[derive(Debug, Default)]
pub(super) struct Stash {
    kept: Map<(MemberId, SessionId), Kept>,
    octets: usize,
}

impl Stash {
    fn forget(&mut self, key: (MemberId, SessionId)) {
        if let Some(kept) = self.kept.remove(&key) {
            self.octets -= kept.octets();
        }
    }

    /// When something is kept too long.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.kept.values().map(|kept| kept.until).min()
    }

    fn forget_where(&mut self, stale: impl Fn(&MemberId, &Kept) -> bool) {
        let keys = self.kept.iter();
        let keys = keys.filter(|((from, _), kept)| stale(from, kept));
        for key in keys.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.forget(key);
        }
    }
}

impl Instance {
    // --- the source ------------------------------------------------------------------------------

    /// Octets queued on the session that have not gone ahead.
    pub(super) fn left_behind(&self, id: SessionId) -> usize {
        let Some(session) = self.sessions.get(&id) else {
            return 0;
        };
        let ends = self.sent_ahead.get(&id).map_or(&[][..], |sent| &sent.ends);
        let conns = session.connections.iter().map(|c| c.conn).enumerate();
        let left = conns.map(|(number, conn)| {
            let gone = ends.get(number).copied().unwrap_or_default();
            let tcp = conn.and_then(|conn| self.stack.connection(conn));
            let left = tcp.map_or(0, |tcp| {
                let behind = |queue, gone: u64| {
                    let range = tcp.queued_range(queue);
                    range.end.saturating_sub(range.start.max(gone))
                };
                behind(Queue::Send, gone[0]) + behind(Queue::Unread, gone[1])
            });
            left as usize
        });
        left.sum()
    }

    /// Send what is queued on the session ahead, the oldest first, as far as that has not been done and
    /// there is room. Whether that is worth waiting for.
    pub(super) fn send_ahead(&mut self, id: SessionId, to: MemberId) -> bool {
        let Some(session) = self.sessions.get(&id).filter(|session| !session.unaided) else {
            return false;
        };
        let on_the_way: usize = self.sent_ahead.values().map(|sent| sent.octets).sum();
        let mut room = MAX_SENT.saturating_sub(on_the_way);
        let before = self.sent_ahead.remove(&id);
        let first = before.is_none();
        let mut sent = before.unwrap_or_default();
        sent.ends.resize(session.connections.len(), [0; 2]);
        let mut messages = Vec::new();
        for (number, (connection, ends)) in
            session.connections.iter().zip(&mut sent.ends).enumerate()
        {
            let tcp = connection.conn.and_then(|conn| self.stack.connection(conn));
            for (queue, end) in [Queue::Send, Queue::Unread].into_iter().zip(ends) {
                let Some(tcp) = tcp else {
                    continue;
                };
                let range = tcp.queued_range(queue);
                let offset = range.start.max(*end);
                if offset >= range.end || room == 0 {
                    continue;
                }
                let mut octets = Rope::new();
                let pieces = tcp.queued(queue);
                pieces.into_iter().for_each(|piece| octets.push(piece));
                octets.skip((offset - range.start) as usize);
                let octets = octets.take(octets.len().min(room));
                *end = offset + octets.len() as u64;
                room -= octets.len();
                sent.octets += octets.len();
                let ahead = Ahead {
                    session: id,
                    connection: number as u8,
                    queue,
                    offset,
                };
                messages.push((Message::Ahead(ahead), octets));
            }
        }
        if messages.is_empty() {
            self.counters.add("ahead_not_sent");
            // What went before is there all the same.
            self.sent_ahead.insert(id, sent);
            return false;
        }
        for (message, octets) in messages {
            if !self.send_with(to, &message, octets) {
                return false;
            }
        }
        sent.place = self.link_to(to).map_or(0, |link| link.channel.sent());
        if first {
            self.counters.add("sessions_sent_ahead");
        }
        self.sent_ahead.insert(id, sent);
        true
    }

    /// Whether what was sent ahead of the session to `to` is still here, for the most part.
    pub(super) fn is_ahead_waiting(&mut self, id: SessionId, to: MemberId) -> bool {
        let place = self.sent_ahead.get(&id).map_or(0, |sent| sent.place);
        let waiting = self.waiting_for(to) as u64;
        self.link_to(to).is_some_and(|link| {
            let sent = link.channel.sent();
            // Of another channel it is lost: the target says so.
            place.min(sent).saturating_sub(sent.saturating_sub(waiting)) > LIGHT as u64
        })
    }

    /// Octets that are to go to `to` and are still here, or not acknowledged.
    pub(super) fn waiting_for(&mut self, to: MemberId) -> usize {
        let conn = self.members.get(to).and_then(|member| member.link);
        let in_tcp = conn.and_then(|conn| self.stack.connection(conn));
        let in_tcp = in_tcp.map_or(0, |tcp| tcp.send_queued());
        let link = self.link_to(to);
        link.map_or(0, |link| link.channel.queued() + in_tcp)
    }

    /// Whether the session, which would send ahead to `to` since `since`, is the one that may: nobody on
    /// his way there waits for longer.
    pub(super) fn has_turn(&mut self, id: SessionId, to: MemberId, since: Instant) -> bool {
        let turns = self.turns.entry(to).or_default();
        turns.insert((since, id));
        while let Some((at, first)) = turns.first().copied() {
            if (at, first) == (since, id) {
                return true;
            }
            let session = self.sessions.get(&first);
            let waits = session.is_some_and(|session| {
                session.wanted == Some(to)
                    && session.lull.is_some_and(|lull| lull.ahead == Some(at))
            });
            if waits {
                return false;
            }
            // It has left, or stays after all.
            turns.pop_first();
        }
        true
    }

    // --- the target ------------------------------------------------------------------------------

    /// Octets of a session that may come.
    pub(super) fn handle_ahead(
        &mut self,
        now: Instant,
        from: MemberId,
        ahead: Ahead,
        octets: Rope,
    ) {
        let key = (from, ahead.session);
        let most = MAX_KEPT.min(self.tcp.memory / 4);
        let same =
            |part: &&mut Part| (part.connection, part.queue) == (ahead.connection, ahead.queue);
        let known = self.stash.kept.get_mut(&key);
        if let Some(part) = known.and_then(|kept| kept.parts.iter_mut().find(same))
            && part.end() != Some(ahead.offset)
        {
            // What lies between was acknowledged or read, or an earlier attempt came to nothing.
            self.stash.octets -= part.octets.len();
            part.octets = Rope::new();
            part.start = ahead.offset;
        }
        let count = octets.len();
        if self.stash.octets + count > most
            || usize::from(ahead.connection) >= MAX_CONNECTIONS
            || octets.is_empty()
        {
            self.stash.forget(key);
            self.counters.add("ahead_not_kept");
            return;
        }
        let until = now + KEPT_FOR;
        let kept = self.stash.kept.entry(key).or_insert(Kept {
            until,
            parts: Vec::new(),
        });
        kept.until = until;
        match kept.parts.iter_mut().find(same) {
            Some(part) => part.octets.append(octets),
            None => kept.parts.push(Part {
                connection: ahead.connection,
                queue: ahead.queue,
                start: ahead.offset,
                octets,
            }),
        }
        self.stash.octets += count;
        self.counters.add("ahead_kept");
    }

    /// Put what came ahead back in its place. `false` if it is not all there.
    pub(super) fn complete(&mut self, from: MemberId, capsule: &mut Capsule) -> bool {
        let key = (from, capsule.session);
        let Some(mut kept) = self.stash.kept.remove(&key) else {
            let nothing = capsule::Ahead::default();
            return capsule.connections.iter().all(|c| c.ahead == nothing);
        };
        self.stash.octets -= kept.octets();
        for (number, connection) in capsule.connections.iter_mut().enumerate() {
            let [send_start, unread_start] = starts(connection);
            let capsule::Ahead { send, unread } = core::mem::take(&mut connection.ahead);
            let queues = &mut connection.tcp.queues;
            for (queue, start, count, pieces) in [
                (
                    Queue::Send,
                    send_start,
                    send,
                    &mut queues.unacked_and_unsent,
                ),
                (Queue::Unread, unread_start, unread, &mut queues.unread),
            ] {
                if count == 0 {
                    continue;
                }
                let Some(front) = kept.take(number, queue, start, count) else {
                    return false;
                };
                pieces.splice(0..0, front.into_pieces());
            }
        }
        true
    }

    #[cfg(test)]
    pub(super) fn stash_octets(&self) -> usize {
        self.stash.octets
    }

    /// Forget what nobody asked for in time.
    pub(super) fn expire_stash(&mut self, now: Instant) {
        if self.stash.poll_timeout().is_some_and(|until| until <= now) {
            self.counters.add("ahead_expired");
            self.stash.forget_where(|_, kept| kept.until <= now);
        }
    }

    /// The channel to `peer` is gone: no capsule will come through it.
    pub(super) fn forget_ahead_of(&mut self, peer: MemberId) {
        self.stash.forget_where(|from, _| *from == peer);
    }
}
