//! Contents that states name by digest: fetched from a session's source, kept while they are used.
//!
//! A state may name octets that are not in it: a file that is being sent
//! ([`States::names`](crate::session::States::names)). Most instances have them in their image. One that has
//! not refuses the session and says what it lacks ([`RefuseReason::Content`]); the source serves the session
//! on, sends the content ([`Message::Content`], in pieces), and offers the session again behind it. One
//! refusal costs nothing but time, a session never goes on in another content, and an instance that cannot
//! be given one does without the session.
//!
//! What was fetched is kept as long as a committed state names it, and for a moment before and after;
//! all together it has a bound, and what does not fit is not taken.
//!
//! [`RefuseReason::Content`]: crate::migrate::transfer::RefuseReason::Content

use alloc::vec::Vec;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::lull::LIGHT;
use super::{Instance, ServiceSpec};
use crate::cluster::MemberId;
use crate::cluster::message::{Content, Message};
use crate::map::{Map, Set};
use crate::migrate::rope::Rope;
use crate::session::{ContentId, Session, SessionId};
use crate::time::{Duration, Instant};

/// Octets of all contents kept, at most; of a small machine's memory for queues, a quarter.
const MAX_KEPT: usize = 8 * 1024 * 1024;
/// Octets of a piece on its way.
const PIECE: usize = 64 * 1024;
/// Octets that may wait in the channel when another piece is put in.
const CHANNEL_ROOM: usize = 64 * 1024;
/// A content no state names is kept this long, unless it stands in the way of another.
const UNUSED_FOR: Duration = Duration::from_secs(30);
/// For this long it is kept in any case: the session it was sent for is on its way.
const FRESH: Duration = Duration::from_secs(2);
/// Without a piece for this long the rest will not come.
const STALLED: Duration = Duration::from_secs(10);
/// A content sent so lately is there already when a session is offered again.
const JUST_SENT: Duration = Duration::from_millis(500);
/// If a busy channel has not run empty for this long, a session is offered all the same.
const LATE: Duration = Duration::from_millis(500);
/// Contents fetched for one attempt to move a session, at most.
const MAX_FETCHES: u8 = 4;

/// A content that came from another instance.
#[derive(Debug)]
struct Kept {
    octets: Bytes,
    used: Instant,
}

/// A content of which some has come.
struct Arriving {
    octets: Vec<u8>,
    total: usize,
    hash: Sha256,
    heard: Instant,
}

/// A content on its way to a member.
#[derive(Debug)]
struct Supply {
    to: MemberId,
    id: ContentId,
    octets: Bytes,
    sent: usize,
    /// When the last piece was put into the channel.
    queued: Option<Instant>,
    /// When it had left.
    done: Option<Instant>,
    /// Sessions to be offered when it is there.
    waiting: Vec<SessionId>,
}

/// What has come, what is coming and what is going.
#[derive(Default)]
pub(super) struct Contents {
    kept: Map<ContentId, Kept>,
    arriving: Map<(MemberId, ContentId), Arriving>,
    supplies: Vec<Supply>,
}

impl Contents {
    /// Octets kept, or promised a place.
    pub fn octets(&self) -> usize {
        let kept = self.kept.values().map(|kept| kept.octets.len());
        let arriving = self.arriving.values().map(|arriving| arriving.total);
        kept.sum::<usize>() + arriving.sum::<usize>()
    }

    /// Whether there is something to look after.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.arriving.is_empty() && self.supplies.is_empty()
    }
}

impl Instance {
    /// A content that came from another instance for a session here.
    pub fn content(&self, id: &ContentId) -> Option<Bytes> {
        Some(self.contents.kept.get(id)?.octets.clone())
    }

    /// Whether a state that names `id` can be served.
    pub(super) fn has_content(&self, spec: &ServiceSpec, id: &ContentId) -> bool {
        let carried = |id| {
            spec.states
                .as_ref()
                .is_some_and(|s| s.content(id).is_some())
        };
        self.contents.kept.contains_key(id) || carried(id)
    }

    // --- the source ------------------------------------------------------------------------------

    /// The target lacks a content: send it and offer the session again. `false` if that cannot help.
    pub(super) fn supply(
        &mut self,
        now: Instant,
        session: SessionId,
        to: MemberId,
        id: ContentId,
    ) -> bool {
        let Some(entry) = self.sessions.get_mut(&session) else {
            return false;
        };
        let again = entry.fetched == Some((to, id));
        if again || entry.fetches >= MAX_FETCHES {
            // It was sent, and was not kept. The next command to move begins anew.
            (entry.fetched, entry.fetches) = (None, 0);
            self.counters.add("contents_in_vain");
            return false;
        }
        entry.fetched = Some((to, id));
        entry.fetches += 1;
        let service = entry.service;
        let supplies = &mut self.contents.supplies;
        if let Some(supply) = supplies.iter_mut().find(|s| (s.to, s.id) == (to, id)) {
            match supply.done {
                Some(_) => self.defer_move(now, session, to),
                None => supply.waiting.push(session),
            }
            return true;
        }
        let states = self
            .services
            .get(service)
            .and_then(|s| s.spec.states.as_ref());
        let octets = states.and_then(|states| states.content(&id));
        let octets = octets.or_else(|| self.content(&id));
        let Some(octets) = octets.filter(|octets| octets.len() <= MAX_KEPT) else {
            self.counters.add("contents_not_sendable");
            return false;
        };
        self.counters.add("contents_sent");
        self.contents.supplies.push(Supply {
            to,
            id,
            octets,
            sent: 0,
            queued: None,
            done: None,
            waiting: alloc::vec![session],
        });
        true
    }

    /// Put the next pieces into the channels, as far as there is room. Whether any went.
    pub(super) fn feed_contents(&mut self, now: Instant) -> bool {
        let mut any = false;
        if self.contents.supplies.is_empty() {
            return any;
        }
        let mut supplies = core::mem::take(&mut self.contents.supplies);
        for supply in &mut supplies {
            while supply.sent < supply.octets.len() {
                let link = self.link_to(supply.to);
                if link.is_none_or(|link| link.channel.queued() > CHANNEL_ROOM) {
                    break;
                }
                let end = supply.octets.len().min(supply.sent + PIECE);
                let piece = Content {
                    id: supply.id,
                    total: supply.octets.len() as u32,
                    offset: supply.sent as u32,
                };
                let octets = Rope::from(supply.octets.slice(supply.sent..end));
                if !self.send_with(supply.to, &Message::Content(piece), octets) {
                    break;
                }
                any = true;
                supply.sent = end;
                supply.queued = Some(now);
            }
            let whole = supply.sent == supply.octets.len() && supply.done.is_none();
            let late = supply.queued.is_none_or(|at| now.since(at) >= LATE);
            // A capsule right behind it would wait for it, and the client with it.
            if whole && (late || self.waiting_for(supply.to) <= LIGHT) {
                supply.done = Some(now);
                for session in core::mem::take(&mut supply.waiting) {
                    self.offer_again(now, session, supply.to);
                }
            }
        }
        supplies.retain(|supply| supply.done.is_none_or(|at| now.since(at) < JUST_SENT));
        supplies.append(&mut self.contents.supplies);
        self.contents.supplies = supplies;
        any
    }

    fn offer_again(&mut self, now: Instant, id: SessionId, to: MemberId) {
        let idle = |session: &Session| session.wanted.is_none() && session.lull.is_none();
        if self.sessions.get(&id).is_some_and(idle) {
            self.defer_move(now, id, to);
        }
    }

    // --- the target ------------------------------------------------------------------------------

    /// A piece of a content that a session needs which may come.
    pub(super) fn handle_content(
        &mut self,
        now: Instant,
        from: MemberId,
        piece: Content,
        octets: Rope,
    ) {
        let Content { id, total, offset } = piece;
        let (total, offset) = (total as usize, offset as usize);
        if let Some(kept) = self.contents.kept.get_mut(&id) {
            kept.used = now;
            return;
        }
        let key = (from, id);
        let mut arriving = match self.contents.arriving.remove(&key) {
            Some(arriving) if offset > 0 => arriving,
            _ if offset > 0 || !self.make_room(now, total) => {
                self.counters.add("contents_not_kept");
                return;
            }
            _ => Arriving {
                octets: Vec::with_capacity(total),
                total,
                hash: Sha256::new(),
                heard: now,
            },
        };
        let fits = arriving.octets.len() == offset
            && arriving.total == total
            && !octets.is_empty()
            && octets.len() <= total - offset;
        if !fits {
            self.counters.add("contents_malformed");
            return;
        }
        for part in octets.pieces() {
            arriving.hash.update(part);
            arriving.octets.extend_from_slice(part);
        }
        arriving.heard = now;
        if arriving.octets.len() < total {
            self.contents.arriving.insert(key, arriving);
            return;
        }
        let digest: [u8; 32] = arriving.hash.finalize().into();
        if digest != id.0 {
            self.counters.add("contents_wrong");
            return;
        }
        self.counters.add("contents_fetched");
        let octets = Bytes::from(arriving.octets);
        self.contents.kept.insert(id, Kept { octets, used: now });
    }

    /// Whether so many more octets may be kept; what nobody uses gives way.
    fn make_room(&mut self, now: Instant, octets: usize) -> bool {
        let most = MAX_KEPT.min(self.tcp.memory / 4);
        if octets == 0 || octets > most {
            return false;
        }
        if self.contents.octets() + octets > most {
            self.forget_contents(now, FRESH);
        }
        self.contents.octets() + octets <= most
    }

    /// Forget what no state has named for `unused`.
    fn forget_contents(&mut self, now: Instant, unused: Duration) {
        let named = self.named_contents();
        let contents = &mut self.contents;
        for id in &named {
            if let Some(kept) = contents.kept.get_mut(id) {
                kept.used = now;
            }
        }
        contents
            .kept
            .retain(|_, kept| now.since(kept.used) < unused);
        contents
            .arriving
            .retain(|_, a| now.since(a.heard) < STALLED);
    }

    /// The contents that committed states name, of the sessions here and of those on their way.
    fn named_contents(&self) -> Set<ContentId> {
        let frozen = self.moving.values().map(|moving| &moving.session);
        let served = self.sessions.values().chain(frozen);
        served
            .filter(|session| session.finished.is_none())
            .filter_map(|session| {
                let states = self.services.get(session.service)?.spec.states.as_ref()?;
                let (version, octets) = session.committed.as_ref()?;
                states.names(*version, octets)
            })
            .flatten()
            .collect()
    }

    /// Look after what is kept, now and then.
    pub(super) fn sweep_contents(&mut self, now: Instant) {
        if !self.contents.is_empty() {
            self.forget_contents(now, UNUSED_FOR);
        }
    }

    /// The channel to `peer` is gone: nothing more comes from it or goes to it.
    pub(super) fn forget_contents_of(&mut self, now: Instant, peer: MemberId) {
        self.contents.arriving.retain(|(from, _), _| *from != peer);
        let supplies = core::mem::take(&mut self.contents.supplies);
        let (gone, other) = supplies.into_iter().partition(|supply| supply.to == peer);
        self.contents.supplies = other;
        let gone: Vec<Supply> = gone;
        for session in gone.into_iter().flat_map(|supply| supply.waiting) {
            self.drain_session(now, session);
        }
    }
}
