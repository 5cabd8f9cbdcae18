//! Who is there: the configured members, what each last said of itself, who is the ingress.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::IpAddr;

use super::message::{Heartbeat, Hello};
use super::rng::Rng;
use super::{BootId, MemberId};
use crate::stack::ConnId;
use crate::time::{Duration, Instant};

/// Time between heartbeats.
pub const HEARTBEAT: Duration = Duration::from_millis(200);
/// A peer that was silent for so long has no channel any more.
pub const SILENCE: Duration = Duration::from_secs(3);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// A member other than this instance.
#[derive(Debug)]
pub struct Member {
    /// Its id.
    pub id: MemberId,
    /// Its own address.
    pub address: IpAddr,
    /// The TCP connection of its channel, connecting or up.
    pub link: Option<ConnId>,
    /// Its greeting, while the channel is up.
    pub hello: Option<Hello>,
    /// What it last said of itself over this channel.
    pub heartbeat: Option<Heartbeat>,
    /// When it was last heard.
    pub heard: Instant,
    /// Count of channels with it in our boot.
    pub generation: u64,
    /// Sessions given to it since its last heartbeat.
    pub given: u32,
    /// The boot in which it said it leaves: that boot owns nothing any more.
    pub left: Option<BootId>,
    /// The boot it was last up in.
    pub last_boot: Option<BootId>,
    retry_at: Instant,
    backoff: Duration,
}

impl Member {
    /// Whether the channel to it is up.
    pub fn is_up(&self) -> bool {
        self.hello.is_some()
    }

    /// Whether new flows and sessions may go to it.
    pub fn takes_sessions(&self) -> bool {
        self.is_up()
            && self.left.is_none()
            && self
                .heartbeat
                .is_some_and(|beat| !beat.draining && beat.room > self.given)
    }

    /// Sessions it serves, as far as we know.
    pub fn load(&self) -> u32 {
        self.heartbeat
            .map_or(0, |beat| beat.sessions)
            .saturating_add(self.given)
    }

    /// Whether it owns nothing: it said it leaves and has not been back.
    pub fn owns_nothing(&self) -> bool {
        self.left.is_some() && self.left == self.last_boot
    }

    /// When to try to connect again, if there is no link.
    pub fn retry_at(&self) -> Option<Instant> {
        self.link.is_none().then_some(self.retry_at)
    }

    /// The link is gone: wait, longer each time, before the next one.
    pub fn link_lost(&mut self, now: Instant) {
        self.link = None;
        self.hello = None;
        self.heartbeat = None;
        self.retry_at = now + self.backoff;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
    }

    /// The channel is up.
    pub fn link_up(&mut self, now: Instant, link: ConnId, hello: Hello) {
        self.link = Some(link);
        self.last_boot = Some(hello.boot);
        if self.left != self.last_boot {
            self.left = None;
        }
        self.hello = Some(hello);
        self.heartbeat = None;
        self.heard = now;
        self.given = 0;
        self.backoff = BACKOFF_MIN;
    }
}

/// The configured members but us, and the ingress.
#[derive(Debug)]
pub struct Members {
    all: BTreeMap<MemberId, Member>,
    /// Who answers for the virtual addresses, as far as we know.
    pub ingress: MemberId,
    /// Count of ingress handovers we know of.
    pub term: u64,
}

impl Members {
    /// The members as configured.
    pub fn new(
        peers: impl Iterator<Item = (MemberId, IpAddr)>,
        ingress: MemberId,
        now: Instant,
    ) -> Members {
        let member = |(id, address)| {
            let member = Member {
                id,
                address,
                link: None,
                hello: None,
                heartbeat: None,
                heard: now,
                generation: 0,
                given: 0,
                left: None,
                last_boot: None,
                retry_at: now,
                backoff: BACKOFF_MIN,
            };
            (id, member)
        };
        Members {
            all: peers.map(member).collect(),
            ingress,
            term: 0,
        }
    }

    /// Whether there is no other member.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The members in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.all.values()
    }

    /// One member.
    pub fn get(&self, id: MemberId) -> Option<&Member> {
        self.all.get(&id)
    }

    /// One member.
    pub fn get_mut(&mut self, id: MemberId) -> Option<&mut Member> {
        self.all.get_mut(&id)
    }

    /// The member with that own address.
    pub fn by_address(&self, address: IpAddr) -> Option<MemberId> {
        self.all
            .values()
            .find(|member| member.address == address)
            .map(|member| member.id)
    }

    /// Whom to give one more session: the less loaded of two members drawn at random among those
    /// that take sessions. `own` is our own load, if we are a candidate.
    pub fn choose(&self, rng: &mut Rng, us: MemberId, own: Option<u32>) -> Option<MemberId> {
        let mut candidates: Vec<(u32, MemberId)> = self
            .all
            .values()
            .filter(|member| member.takes_sessions())
            .map(|member| (member.load(), member.id))
            .collect();
        candidates.extend(own.map(|load| (load, us)));
        if candidates.len() > 2 {
            let first = candidates.swap_remove(rng.below(candidates.len()));
            let second = candidates.swap_remove(rng.below(candidates.len()));
            candidates.clear();
            candidates.extend([first, second]);
        }
        candidates.into_iter().min().map(|(_, id)| id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(loads: &[(u32, u32, bool)]) -> Members {
        let address = IpAddr::from([10, 0, 0, 1]);
        let mut members = Members::new(
            loads.iter().map(|&(id, ..)| (MemberId(id), address)),
            MemberId(1),
            Instant::ZERO,
        );
        for &(id, sessions, draining) in loads {
            let member = members.get_mut(MemberId(id)).unwrap();
            let link = ConnId {
                index: id,
                generation: 0,
            };
            let hello = Hello {
                member: MemberId(id),
                boot: BootId([1; 16]),
                generation: 1,
            };
            member.link_up(Instant::ZERO, link, hello);
            member.heartbeat = Some(Heartbeat {
                sessions,
                room: 100,
                draining,
                ingress: MemberId(1),
                term: 0,
                clock: 0,
            });
        }
        members
    }

    #[test]
    fn of_two_candidates_the_less_loaded_is_chosen() {
        let mut rng = Rng::new(&[0; 32], b"test");
        let members = members(&[(2, 5, false), (3, 0, true)]);
        for (own, chosen) in [(Some(9), 2), (Some(3), 1), (None, 2)] {
            let choice = members.choose(&mut rng, MemberId(1), own);
            assert_eq!(choice, Some(MemberId(chosen)), "own load {own:?}");
        }
    }

    #[test]
    fn every_candidate_has_its_turn_and_the_most_loaded_has_none() {
        let mut rng = Rng::new(&[0; 32], b"test");
        let members = members(&[(2, 1, false), (3, 2, false), (4, 3, false)]);
        let mut chosen = [0; 5];
        for _ in 0..300 {
            let id = members.choose(&mut rng, MemberId(1), None).unwrap();
            chosen[id.0 as usize] += 1;
        }
        assert!(
            chosen[2] > 0 && chosen[3] > 0 && chosen[4] == 0,
            "{chosen:?}"
        );
    }
}
