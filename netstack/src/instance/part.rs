//! Parting: the last word of a drain, and who has to have heard it.
//!
//! A member that was offered a session is the only one that can say what became of the offer. Should it
//! go while its answer, or the offer, is still on its way, the session would be frozen at its source
//! until that hears of another boot, and then be lost. So it says [`Message::Leaving`] and stays, owning
//! nothing, until every member has answered [`Message::Parted`], which it does once it has an answer to
//! all that it offered. To a member that is not heard this is said as soon as it is; one that has not
//! been for [`RECENT`] is taken for dead. That is a guess, and cannot be less of one: a member that has crashed
//! looks from here like one that stands still with a session frozen for us, in an offer that may never have
//! arrived, and that has to find us when it goes on.

use alloc::vec::Vec;

use super::Instance;
use super::drain::Drain;
use crate::cluster::MemberId;
use crate::cluster::members::Member;
use crate::cluster::message::{HASH, Message};
use crate::migrate::rope::Rope;
use crate::time::{Duration, Instant};

/// A member that was heard so long ago may still be in doubt and come back.
const RECENT: Duration = Duration::from_secs(15);
/// Cookies handed on in one message at most; what a longer one has besides is not read.
const MAX_HASHES: usize = 4096;

impl Instance {
    /// We leave, and nobody else remembers which of our connections have ended: somebody shall.
    /// (One is enough: whoever asks about a flow asks everyone.)
    pub(super) fn hand_on_spent(&mut self, now: Instant) {
        let there = self.members.iter();
        let there = there.filter(|member| member.is_up() && !member.owns_nothing());
        let heir = there.min_by_key(|member| {
            let leaves = member.heartbeat.is_none_or(|beat| beat.draining);
            (leaves, Some(member.id) != self.ingress)
        });
        let Some(heir) = heir.map(|member| member.id) else {
            return;
        };
        let parts: Vec<(Duration, Vec<u64>)> = self.stack.spent_cookies(now).collect();
        for (left, hashes) in parts {
            let left = left.as_millis() as u32;
            for part in hashes.chunks(MAX_HASHES) {
                let octets: Vec<u8> = part.iter().flat_map(|hash| hash.to_le_bytes()).collect();
                self.send_with(heir, &Message::Spent { left }, Rope::from(octets));
                self.counters
                    .add_many("spent_cookies_sent", part.len() as u64);
            }
        }
    }

    /// A member that leaves has remembered these cookies.
    pub(super) fn handle_spent(&mut self, now: Instant, left: Duration, tail: &Rope) {
        let mut octets = alloc::vec![0; tail.len().min(MAX_HASHES * HASH)];
        tail.peek(&mut octets);
        let (hashes, _) = octets.as_chunks::<HASH>();
        let hashes = hashes.iter().map(|hash| u64::from_le_bytes(*hash));
        self.counters
            .add_many("spent_cookies_taken", hashes.len() as u64);
        self.stack.take_spent(now, left, hashes);
    }

    /// `peer` leaves: tell it that we expect nothing of it any more, if that is so.
    pub(super) fn part(&mut self, peer: MemberId) {
        let left = self.members.get(peer).is_some_and(|m| m.left.is_some());
        let waits = |this: &Instance| {
            let mut moving = this.moving.values();
            moving.any(|moving| moving.source.target == peer)
        };
        if left && !waits(self) {
            self.send(peer, &Message::Parted);
        }
    }

    /// `peer` expects nothing of us any more, and gives us nothing.
    pub(super) fn handle_parted(&mut self, peer: MemberId) {
        let boot = self.members.get(peer).and_then(|member| member.last_boot);
        if let (Drain::Leaving(leave), Some(boot)) = (&mut self.drain, boot) {
            leave.parted.insert(peer, boot);
        }
    }

    /// Whether we have said that we leave.
    pub(super) fn says_farewell(&self) -> bool {
        matches!(&self.drain, Drain::Leaving(leave) if leave.says_farewell())
    }

    /// A channel to `peer` is up: if we are about to go, it has to know.
    pub(super) fn part_again(&mut self, peer: MemberId) {
        if self.says_farewell() {
            self.send(peer, &Message::Leaving);
        }
    }

    /// Members that may be in doubt about what they gave us.
    pub(super) fn unparted(&self, now: Instant) -> usize {
        let recent = |member: &&Member| member.is_up() || now.since(member.heard) < RECENT;
        self.may_doubt().filter(recent).count()
    }

    /// Whether those that are there have said that they wait for nothing, and only others may.
    pub(super) fn waits_for_the_silent(&self) -> bool {
        self.may_doubt().next().is_some() && !self.may_doubt().any(Member::is_up)
    }

    /// Members that have not said, in the boot of theirs that was heard last, that they wait for nothing.
    fn may_doubt(&self) -> impl Iterator<Item = &Member> {
        let parted = match &self.drain {
            Drain::Leaving(leave) => Some(&leave.parted),
            Drain::No(_) => None,
        };
        let may_doubt = move |member: &&Member| {
            let said = parted.is_none_or(|p| p.get(&member.id) == member.last_boot.as_ref());
            !member.owns_nothing() && member.last_boot.is_some() && !said
        };
        self.members.iter().filter(may_doubt)
    }
}
