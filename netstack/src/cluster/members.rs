//! Who is there: the configured members and what each last said of itself.

use alloc::vec::Vec;
use core::net::IpAddr;

use super::message::{Heartbeat, Hello};
use super::rng::Rng;
use super::{BootId, MemberId};
use crate::map::Map;
use crate::stack::ConnId;
use crate::time::{Duration, Instant};

const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// A member other than this instance.
#[derive(Debug)]
pub struct Member {
    /// Its id.
    pub id: MemberId,
    /// Its own address.
    pub address: IpAddr,
    /// It votes and does nothing else.
    pub witness: bool,
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
    /// It was found, and is no voter.
    pub found: Option<Found>,
    retry_at: Instant,
    backoff: Duration,
}

/// What is known of a member that was not configured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// When it was found, named by a voter, or granted leave to own sessions, whichever was last.
    pub at: Instant,
    /// When we have last granted it that leave.
    pub granted: Option<Instant>,
}

impl Member {
    fn new(id: MemberId, address: IpAddr, now: Instant) -> Member {
        Member {
            id,
            address,
            witness: false,
            link: None,
            hello: None,
            heartbeat: None,
            heard: now,
            generation: 0,
            given: 0,
            left: None,
            last_boot: None,
            found: None,
            retry_at: now,
            backoff: BACKOFF_MIN,
        }
    }

    /// Whether the channel to it is up.
    pub fn is_up(&self) -> bool {
        self.hello.is_some()
    }

    /// Whether it is there for all we know: not leaving, and heard less than `stale` ago. A channel to one that
    /// has died stays up for longer than that.
    pub fn is_there(&self, now: Instant, stale: Duration) -> bool {
        self.is_up() && self.left.is_none() && now.since(self.heard) < stale
    }

    /// Whether new flows and sessions may go to it: it is there and says that it can.
    pub fn takes_sessions(&self, now: Instant, stale: Duration) -> bool {
        self.is_there(now, stale)
            && !self.witness
            && self
                .heartbeat
                .is_some_and(|beat| !beat.draining && beat.healthy && beat.room > self.given)
    }

    /// Sessions it serves, as far as we know.
    pub fn load(&self) -> u32 {
        self.heartbeat
            .map_or(0, |beat| beat.sessions)
            .saturating_add(self.given)
    }

    /// Whether it owns nothing: it votes only, or said it leaves and has not been back.
    pub fn owns_nothing(&self) -> bool {
        self.witness || (self.left.is_some() && self.left == self.last_boot)
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

/// The configured members but us.
#[derive(Debug)]
pub struct Members {
    all: Map<MemberId, Member>,
    /// Without a word for so long a member gets nothing new.
    stale: Duration,
}

/// Who may be given one more session.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Our own id and load, if we are a candidate.
    pub own: Option<(MemberId, u32)>,
    /// It reads states of this version at least.
    pub version: u32,
    /// Only a voter will do.
    pub voter: bool,
}

impl Members {
    /// The members as configured.
    pub fn new(
        peers: impl Iterator<Item = (MemberId, IpAddr)>,
        witnesses: &[MemberId],
        stale: Duration,
        now: Instant,
    ) -> Members {
        let member = |(id, address)| {
            let member = Member {
                witness: witnesses.contains(&id),
                ..Member::new(id, address, now)
            };
            (id, member)
        };
        Members {
            all: peers.map(member).collect(),
            stale,
        }
    }

    /// One more member. False if its id or its address is another's.
    pub fn add(
        &mut self,
        now: Instant,
        id: MemberId,
        address: IpAddr,
        found: Option<Found>,
    ) -> bool {
        if self.all.contains_key(&id) || self.by_address(address).is_some() {
            return false;
        }
        let member = Member {
            found,
            ..Member::new(id, address, now)
        };
        self.all.insert(id, member);
        true
    }

    /// Forget a member.
    pub fn remove(&mut self, id: MemberId) -> Option<Member> {
        self.all.remove(&id)
    }

    /// Voters other than us.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.all.values().filter(|member| member.found.is_none())
    }

    /// Members that were found, and are no voters.
    pub fn found(&self) -> impl Iterator<Item = &Member> {
        self.all.values().filter(|member| member.found.is_some())
    }

    /// Without a word for so long a member gets nothing new.
    pub fn stale(&self) -> Duration {
        self.stale
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
    /// that take it.
    pub fn choose(&self, now: Instant, rng: &mut Rng, wanted: Wanted) -> Option<MemberId> {
        let takes = |member: &&Member| {
            let version = member.heartbeat.map_or(0, |beat| beat.version);
            member.takes_sessions(now, self.stale)
                && version >= wanted.version
                && !(wanted.voter && member.found.is_some())
        };
        let mut candidates: Vec<(u32, MemberId)> = self
            .all
            .values()
            .filter(takes)
            .map(|member| (member.load(), member.id))
            .collect();
        candidates.extend(wanted.own.map(|(us, load)| (load, us)));
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

    const STALE: Duration = Duration::from_secs(1);

    fn members(loads: &[(u32, u32)]) -> Members {
        let address = IpAddr::from([10, 0, 0, 1]);
        let ids = loads.iter().map(|&(id, _)| (MemberId(id), address));
        let mut members = Members::new(ids, &[], STALE, Instant::ZERO);
        for &(id, sessions) in loads {
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
                draining: false,
                healthy: true,
                priority: 100,
                version: 1,
                term: 0,
                clock: 0,
                claim: None,
            });
        }
        members
    }

    fn beat(members: &mut Members, id: u32) -> &mut Heartbeat {
        let member = members.get_mut(MemberId(id)).unwrap();
        member.heartbeat.as_mut().unwrap()
    }

    fn choose(members: &Members, rng: &mut Rng, own: Option<u32>) -> Option<u32> {
        let wanted = Wanted {
            own: own.map(|load| (MemberId(1), load)),
            version: 1,
            voter: false,
        };
        members.choose(Instant::ZERO, rng, wanted).map(|id| id.0)
    }

    #[test]
    fn of_two_candidates_the_less_loaded_is_chosen() {
        let mut rng = Rng::new(&[0; 32], *b"test    ");
        let members = members(&[(2, 5)]);
        for (own, chosen) in [(Some(9), 2), (Some(3), 1), (None, 2)] {
            let choice = choose(&members, &mut rng, own);
            assert_eq!(choice, Some(chosen), "own load {own:?}");
        }
    }

    #[test]
    fn who_cannot_take_a_session_is_given_none() {
        let spoil: [fn(&mut Members); 6] = [
            |members| beat(members, 2).draining = true,
            |members| beat(members, 2).healthy = false,
            |members| beat(members, 2).room = 0,
            |members| beat(members, 2).version = 0,
            |members| members.get_mut(MemberId(2)).unwrap().witness = true,
            |members| members.get_mut(MemberId(2)).unwrap().hello = None,
        ];
        let mut rng = Rng::new(&[0; 32], *b"test    ");
        for (index, spoil) in spoil.into_iter().enumerate() {
            let mut members = members(&[(2, 0), (3, 90)]);
            spoil(&mut members);
            let choice = choose(&members, &mut rng, None);
            assert_eq!(choice, Some(3), "case {index}");
        }
        let wanted = Wanted {
            own: None,
            version: 1,
            voter: false,
        };
        let silent = members(&[(2, 0)]).choose(Instant::ZERO + STALE, &mut rng, wanted);
        assert_eq!(silent, None, "not heard of late");
    }

    #[test]
    fn every_candidate_has_its_turn_and_the_most_loaded_has_none() {
        let mut rng = Rng::new(&[0; 32], *b"test    ");
        let members = members(&[(2, 1), (3, 2), (4, 3)]);
        let mut chosen = [0; 5];
        for _ in 0..300 {
            chosen[choose(&members, &mut rng, None).unwrap() as usize] += 1;
        }
        assert!(
            chosen[2] > 0 && chosen[3] > 0 && chosen[4] == 0,
            "{chosen:?}"
        );
    }

    #[test]
    fn flows_given_since_the_last_heartbeat_count_as_load() {
        let mut rng = Rng::new(&[0; 32], *b"test    ");
        let mut members = members(&[(2, 0), (3, 0)]);
        for _ in 0..100 {
            let id = MemberId(choose(&members, &mut rng, None).unwrap());
            members.get_mut(id).unwrap().given += 1;
        }
        let given = |id| members.get(MemberId(id)).unwrap().given;
        assert_eq!((given(2), given(3)), (50, 50));
    }
}
