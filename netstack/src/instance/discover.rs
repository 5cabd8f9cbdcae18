//! Members that nobody configured: found by [`crate::cluster::beacon`], and never voters.
//!
//! A beacon makes us try a channel. All that counts is said in channels, and comes down to one rule: **a
//! found member owns sessions only by leave of half of the voters, for [`LEAVE`] from when it asked
//! them** ([`Message::Stay`], [`Message::Stays`]). A voter that grants leave has told everyone before
//! ([`Message::Roster`]), and asks that member about every unknown flow until [`FORGET`] after its last
//! grant. When the leave runs out, the member resets its sessions and forgets those it was moving.
//!
//! Why nobody concludes that a flow is nobody's while a found member owns it: whoever concludes has the no
//! of all voters, and each voter's roster came before its no. The member asked half of them at most `LEAVE`
//! ago, and one of those that granted it is among any that are as many as the others and one more. A voter
//! forgets a grant within `FORGET` only by a reboot. So it is enough that so many of the voters have been up
//! for `FORGET` (they are *seasoned*): one of them has named the member, and it is asked too.
//! A question begun before somebody was learned of is void ([`Instance::view_changed`]).

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::IpAddr;

use bytes::Bytes;

use super::{Discover, Instance};
use crate::cluster::beacon::{Beacon, BeaconError, Seen, service_digest};
use crate::cluster::budget::{Bucket, Budget, Limit, Limits};
use crate::cluster::members::{Found, Member};
use crate::cluster::message::{MAX_ROSTER, Message, Roster};
use crate::cluster::{BEACON_PORT, BootId, MemberId};
use crate::map::Map;
use crate::order::nth_last;
use crate::session::SessionId;
use crate::stack::Scope;
use crate::time::{Duration, Instant};

/// For so long from its asking a found member may own sessions.
pub const LEAVE: Duration = Duration::from_secs(15);
/// For so long from its granting a voter remembers: longer than [`LEAVE`] by any two clocks.
pub const FORGET: Duration = Duration::from_secs(20);
/// Time between two beacons.
const BEACON: Duration = Duration::from_secs(1);
/// Members that are known without having been configured, at most.
pub const MAX_FOUND: usize = 32;
/// Sources of beacons whose rates are known at a time.
const MAX_SOURCES: usize = 64;
/// Askings for leave remembered at most.
const MAX_ASKED: usize = 128;
/// Beacons looked at, from anywhere.
const ALL: Limit = Limit {
    rate: 100,
    burst: 200,
};
/// Beacons looked at, from one address.
const SOURCE: Limit = Limit { rate: 4, burst: 8 };
/// Members taken in.
const JOINS: Limit = Limit { rate: 2, burst: 8 };

/// What a voter has said in its present channel.
#[derive(Debug)]
struct Said {
    boot: BootId,
    roster: Roster,
}

/// The state of all this.
#[derive(Debug)]
pub(super) struct Discovery {
    mode: Discover,
    booted: Instant,
    beacon_at: Instant,
    count: u64,
    seen: Seen,
    all: Bucket,
    joins: Bucket,
    sources: Map<IpAddr, Bucket>,
    rosters: Map<MemberId, Said>,
    /// What we have told everyone.
    told: Roster,
    /// Two voters disagree on who somebody is: until then nothing is concluded.
    unsure_until: Instant,
    /// When we asked for leave, and when we last had asked those voters that have granted it.
    asked: VecDeque<(u64, Instant)>,
    granted: Map<MemberId, Instant>,
    /// Until when we may own sessions.
    leave: Option<Instant>,
    had_leave: bool,
}

impl Discovery {
    pub(super) fn new(mode: Discover, now: Instant) -> Discovery {
        Discovery {
            mode,
            booted: now,
            beacon_at: now,
            count: 0,
            seen: Seen::default(),
            all: Bucket::new(ALL, now),
            joins: Bucket::new(JOINS, now),
            sources: Map::new(),
            rosters: Map::new(),
            told: Roster::default(),
            unsure_until: now,
            asked: VecDeque::new(),
            granted: Map::new(),
            leave: None,
            had_leave: false,
        }
    }

    fn joins(&self) -> bool {
        self.mode == Discover::Join
    }

    /// Whether anybody may be there whom nobody has configured.
    fn is_used(&self) -> bool {
        self.mode != Discover::Off || !self.rosters.is_empty()
    }

    /// Whether a beacon from there is worth opening.
    fn admits(&mut self, now: Instant, from: IpAddr) -> bool {
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&from) {
            self.sources.retain(|_, bucket| !bucket.is_full(now));
            if self.sources.len() >= MAX_SOURCES {
                return false;
            }
        }
        let bucket = self.sources.entry(from);
        let bucket = bucket.or_insert_with(|| Bucket::new(SOURCE, now));
        bucket.take(now) && self.all.take(now)
    }
}

impl Instance {
    /// When there is something to do here.
    pub(super) fn discovery_timeout(&self) -> Option<Instant> {
        self.key.as_ref()?;
        let beacons = self.discovery.mode != Discover::Off;
        let beacon = beacons.then_some(self.discovery.beacon_at);
        let leave = self.discovery.leave;
        let leave = leave.filter(|_| self.discovery.had_leave);
        beacon.into_iter().chain(leave).min()
    }

    pub(super) fn run_discovery(&mut self, now: Instant) {
        if self.key.is_none() {
            return;
        }
        if self.discovery.mode != Discover::Off && self.discovery.beacon_at <= now {
            self.discovery.beacon_at = now + BEACON;
            self.send_beacons();
        }
        self.forget_the_lost(now);
    }

    /// At every heartbeat: tell what has changed, and ask for leave.
    pub(super) fn beat_discovery(&mut self, now: Instant) {
        // A cookie is taken on the no of everyone there is.
        self.stack.set_gives_cookies(self.knows_everyone(now));
        self.tell_roster(now);
        if !self.discovery.joins() {
            return;
        }
        let count = self
            .discovery
            .asked
            .back()
            .map_or(1, |(count, _)| count + 1);
        if self.discovery.asked.len() >= MAX_ASKED {
            self.discovery.asked.pop_front();
        }
        self.discovery.asked.push_back((count, now));
        let voters = self.members.voters().filter(|member| member.is_up());
        let voters: Vec<MemberId> = voters.map(|member| member.id).collect();
        for voter in voters {
            self.send(voter, &Message::Stay(count));
        }
    }

    /// Addresses whose beacons are being counted.
    #[cfg(test)]
    pub(super) fn discovery_sources(&self) -> usize {
        self.discovery.sources.len()
    }

    // --- beacons ---------------------------------------------------------------------------------

    fn service_digest(&self) -> [u8; 8] {
        let moving = self.services.iter();
        let moving = moving.filter(|service| service.spec.scope == Scope::Service);
        let services = moving.map(|service| (service.spec.name, service.spec.port));
        service_digest(services, self.vips.iter().copied())
    }

    /// Our own address, as others have to name it: one by which the voters know each other.
    fn own_address(&self) -> Option<IpAddr> {
        let own = self.stack.peer_addresses();
        let voter = self.members.voters().next();
        let fits = |own: &&IpAddr| voter.is_none_or(|voter| is_like(voter.address, **own));
        own.iter().find(fits).or(own.first()).copied()
    }

    /// Tell everyone that we are here; who wants to be found does not know by which version of IP the voters go.
    fn send_beacons(&mut self) {
        let own = self.stack.peer_addresses();
        let either = [true, false].map(|v4| own.iter().find(|own| own.is_ipv4() == v4).copied());
        let addresses = match self.discovery.joins() {
            true => either,
            false => [self.own_address(), None],
        };
        for address in addresses.into_iter().flatten() {
            self.send_beacon(address);
        }
    }

    fn send_beacon(&mut self, address: IpAddr) {
        let Some(keys) = &self.key else {
            return;
        };
        let beacon = Beacon {
            member: self.id,
            address,
            voter: !self.discovery.joins(),
            version: self.state_version(),
            service: self.service_digest(),
        };
        self.discovery.count += 1;
        let Some(key) = keys.for_attempt(0) else {
            return;
        };
        if let Some(datagram) = beacon.seal(key, self.boot, self.discovery.count) {
            self.counters.add("beacons_sent");
            self.stack.group_send(address, BEACON_PORT, &datagram);
        }
    }

    /// Take in what came to everyone.
    pub(super) fn read_beacons(&mut self, now: Instant) {
        while let Some((from, datagram)) = self.stack.group_receive() {
            let counter = match self.judge_beacon(now, from, &datagram) {
                Ok(()) => "beacons_taken",
                Err(counter) => counter,
            };
            self.counters.add(counter);
        }
    }

    fn judge_beacon(
        &mut self,
        now: Instant,
        from: IpAddr,
        datagram: &Bytes,
    ) -> Result<(), &'static str> {
        let Some(keys) = self
            .key
            .as_ref()
            .filter(|_| self.discovery.mode != Discover::Off)
        else {
            return Err("beacons_unwanted");
        };
        if !self.discovery.admits(now, from) {
            return Err("beacons_limited");
        }
        let opened = Beacon::open(datagram, keys.keys());
        let (beacon, boot, count) = opened.map_err(|error| match error {
            BeaconError::Malformed => "beacons_malformed",
            BeaconError::WrongKey => "beacons_wrong_key",
        })?;
        if beacon.address != from {
            return Err("beacons_from_elsewhere");
        }
        if beacon.member == self.id {
            return Err("beacons_of_our_id");
        }
        if !self.discovery.seen.is_news(beacon.member, boot, count) {
            return Err("beacons_repeated");
        }
        if beacon.service != self.service_digest() {
            return Err("beacons_of_other_services");
        }
        let settled = !self.discovery.joins() || self.members.voters().next().is_some();
        let own = self.own_address();
        if settled && own.is_some_and(|own| !is_like(own, beacon.address)) {
            // It says the same by the other version, too, or could not be named to all.
            return Err("beacons_of_the_other_version");
        }
        if let Some(member) = self.members.get(beacon.member) {
            return match member.address == beacon.address {
                true => Ok(()),
                false => Err("beacons_of_a_taken_id"),
            };
        }
        match (self.discovery.joins(), beacon.voter) {
            // Whom else there is, the voters tell.
            (true, false) => Ok(()),
            (false, true) => Err("beacons_of_unlisted_voters"),
            (true, true) | (false, false) => {
                self.take_member(now, beacon.member, beacon.address, !beacon.voter)
            }
        }
    }

    /// Somebody is there whom we did not know.
    fn take_member(
        &mut self,
        now: Instant,
        id: MemberId,
        address: IpAddr,
        found: bool,
    ) -> Result<(), &'static str> {
        let learned = self.members.iter();
        let learned = learned.filter(|member| member.found.is_some() == found);
        let learned = learned.count();
        if learned >= MAX_FOUND {
            return Err("beacons_without_room");
        }
        if self.vips.contains(&address) || self.stack.is_own(address) {
            return Err("beacons_of_our_address");
        }
        if self.members.by_address(address).is_some() {
            return Err("beacons_of_a_taken_address");
        }
        if !self.discovery.joins.take(now) {
            return Err("beacons_limited");
        }
        self.add_member(now, id, address, found);
        Ok(())
    }

    fn add_member(&mut self, now: Instant, id: MemberId, address: IpAddr, found: bool) {
        let state = found.then_some(Found {
            at: now,
            granted: None,
        });
        if !self.members.add(now, id, address, state) {
            return;
        }
        self.budgets.insert(id, Budget::new(Limits::default(), now));
        if let Some(election) = self.election.as_mut().filter(|_| !found) {
            election.observe(now, id);
        }
        self.discovery.leave = self.count_leave();
        self.counters.add("members_found");
        log::info!(target: "cluster", "member {id} at {address} was found");
        self.view_changed(now);
    }

    // --- rosters ---------------------------------------------------------------------------------

    /// Who is who, as we know it.
    fn roster(&self, now: Instant) -> Roster {
        let address = self.own_address().map(|address| (self.id, address));
        let voters = self.members.voters();
        let others = voters.map(|member| (member.id, member.address));
        let up = self.members.voters().filter(|member| member.is_up());
        // No longer than it counts, or two voters would name somebody to each other for ever.
        let counts = |member: &Member, at| member.is_up() || now.since(at) < FORGET;
        let granted = |member: &&Member| {
            let at = member.found.and_then(|found| found.granted);
            at.is_some_and(|at| counts(member, at)) && !member.owns_nothing()
        };
        Roster {
            seasoned: now.since(self.discovery.booted) >= FORGET,
            voters: address.into_iter().chain(others).collect(),
            up: up.map(|member| member.id).collect(),
            found: (self.members.found().filter(granted))
                .map(|member| (member.id, member.address))
                .collect(),
        }
    }

    /// Tell everyone, if that is news.
    fn tell_roster(&mut self, now: Instant) {
        if self.discovery.mode != Discover::On {
            return;
        }
        let roster = self.roster(now);
        if roster != self.discovery.told {
            self.broadcast(&Message::Roster(roster.clone()));
            self.discovery.told = roster;
        }
    }

    /// A channel is up.
    pub(super) fn greet_with_roster(&mut self, now: Instant, peer: MemberId) {
        self.discovery.rosters.remove(&peer);
        if self.discovery.mode == Discover::On {
            let roster = self.roster(now);
            self.send(peer, &Message::Roster(roster));
            self.tell_roster(now);
        }
        if self.discovery.is_used() {
            self.view_changed(now);
        }
    }

    /// A voter tells who is who.
    pub(super) fn handle_roster(&mut self, now: Instant, from: MemberId, mut roster: Roster) {
        let voter = self.members.get(from).filter(|m| m.found.is_none());
        let Some(boot) = voter.and_then(|member| member.last_boot) else {
            self.counters.add("rosters_unwanted");
            return;
        };
        roster.voters.truncate(MAX_ROSTER);
        roster.up.truncate(MAX_ROSTER);
        roster.found.truncate(MAX_ROSTER);
        if self.discovery.joins() {
            for (id, address) in roster.voters.clone() {
                self.learn(now, id, address, false);
            }
        }
        for (id, address) in roster.found.clone() {
            self.learn(now, id, address, true);
        }
        self.discovery.rosters.insert(from, Said { boot, roster });
        self.view_changed(now);
    }

    /// A voter says that this is a member.
    fn learn(&mut self, now: Instant, id: MemberId, address: IpAddr, found: bool) {
        if id == self.id {
            return;
        }
        let known = self.members.get(id).is_some();
        let room = self.members.iter().count() < MAX_FOUND * 2;
        if !known && room && !self.vips.contains(&address) {
            self.add_member(now, id, address, found);
        }
        if !self.is_known_as(id, address, found) {
            self.counters.add("rosters_contradict");
            self.discovery.unsure_until = now + FORGET;
        } else if let Some(found) = self.members.get_mut(id).and_then(|m| m.found.as_mut()) {
            found.at = now;
        }
    }

    fn is_known_as(&self, id: MemberId, address: IpAddr, found: bool) -> bool {
        let same = |member: &Member| member.address == address && member.found.is_some() == found;
        id == self.id || self.members.get(id).is_some_and(same)
    }

    /// What those voters say that can be heard.
    fn standing_rosters(&self) -> impl Iterator<Item = &Roster> {
        let up = |id: MemberId| self.members.get(id).is_some_and(Member::is_up);
        let said = self.discovery.rosters.iter();
        said.filter(move |(id, _)| up(**id))
            .map(|(_, said)| &said.roster)
    }

    /// Whoever was asked about a flow may not have been all there are to be asked.
    fn view_changed(&mut self, now: Instant) {
        for flow in self.steering.close_all() {
            self.counters.add("unknown_flows_void");
            self.stack.drop_held(now, &flow.into());
        }
    }

    /// Whether this member has to be asked about unknown flows. A witness owns nothing, but may know
    /// who else there is.
    pub(super) fn is_asked(&self, member: &Member) -> bool {
        let tells = member.witness && member.is_up() && self.discovery.is_used();
        tells || !member.owns_nothing()
    }

    /// Whether the no of everyone we know of is that of everyone.
    pub(super) fn knows_everyone(&self, now: Instant) -> bool {
        let discovery = &self.discovery;
        if !discovery.is_used() {
            return true;
        }
        let us = !discovery.joins();
        let voters = self.members.voters().count() + usize::from(us);
        let seasoned = |member: &&Member| {
            let said = discovery.rosters.get(&member.id);
            let said = said
                .is_some_and(|said| said.roster.seasoned && Some(said.boot) == member.last_boot);
            // One that has left grants no more, and what it granted is over.
            let left = member.left.is_some() && member.left == member.last_boot;
            (said && member.is_up()) || (left && now.since(member.heard) >= FORGET)
        };
        let ours = us && discovery.mode == Discover::On && now.since(discovery.booted) >= FORGET;
        let old = self.members.voters().filter(seasoned).count() + usize::from(ours);
        let named = self.standing_rosters().all(|roster| {
            let mut found = roster.found.iter();
            found.all(|(id, address)| self.is_known_as(*id, *address, true))
        });
        let enough = voters - quorum(voters) + 1;
        named && voters > 0 && old >= enough && discovery.unsure_until <= now
    }

    // --- leave to own sessions -------------------------------------------------------------------

    /// A found member asks for leave.
    pub(super) fn handle_stay(&mut self, now: Instant, from: MemberId, count: u64) {
        let grants = self.discovery.mode == Discover::On && !self.says_farewell();
        let member = self.members.get_mut(from).filter(|_| grants);
        let Some(found) = member.and_then(|member| member.found.as_mut()) else {
            self.counters.add("leave_refused");
            return;
        };
        found.at = now;
        found.granted = Some(now);
        // Before anything can rest on it.
        self.tell_roster(now);
        self.send(from, &Message::Stays(count));
    }

    /// A voter grants what we asked for.
    pub(super) fn handle_stays(&mut self, now: Instant, from: MemberId, count: u64) {
        let voter = self.members.get(from).is_some_and(|m| m.found.is_none());
        let asked = self.discovery.asked.iter();
        let asked = asked.clone().find(|(asked, _)| *asked == count).copied();
        if let (true, Some((_, at))) = (voter, asked) {
            let granted = self.discovery.granted.entry(from).or_insert(at);
            *granted = (*granted).max(at);
        }
        self.discovery.leave = self.count_leave();
        self.look_at_leave(now);
    }

    /// Until when enough of the voters let us own sessions.
    fn count_leave(&self) -> Option<Instant> {
        let voters = self.members.voters().map(|member| member.id);
        let voters: Vec<MemberId> = voters.collect();
        let granted = |id: &MemberId| self.discovery.granted.get(id).copied();
        let granted = voters.iter().filter_map(granted);
        Some(nth_last(granted, quorum(voters.len()))? + LEAVE)
    }

    /// Whether sessions may be owned here.
    pub(super) fn may_own(&self, now: Instant) -> bool {
        !self.discovery.joins() || self.discovery.leave.is_some_and(|until| now < until)
    }

    /// Whether to be given new ones: also every voter that is up has to know us, or what it is asked about
    /// flows of ours stays without an answer.
    pub(super) fn may_be_given(&self, now: Instant) -> bool {
        let here = |id: &MemberId| self.members.get(*id).is_some_and(Member::is_up);
        let all_here = |roster: &Roster| roster.up.iter().all(here);
        self.may_own(now) && (!self.discovery.joins() || self.standing_rosters().all(all_here))
    }

    /// Has our leave run out?
    pub(super) fn look_at_leave(&mut self, now: Instant) {
        if !self.discovery.joins() {
            return;
        }
        let may = self.may_own(now);
        if self.discovery.had_leave == may {
            return;
        }
        self.discovery.had_leave = may;
        if may {
            log::info!(target: "cluster", "the voters let this member take sessions");
            self.beat(now);
            return;
        }
        log::warn!(target: "cluster", "too few of the voters know this member: its sessions end");
        self.counters.add("leave_lost");
        let moving: Vec<SessionId> = self.moving.keys().copied().collect();
        for session in moving {
            self.give_up(now, session);
        }
        self.end_all(now, "sessions_without_leave");
    }

    // --- forgetting ------------------------------------------------------------------------------

    /// Members that were found and are gone for so long that they own nothing any more.
    fn forget_the_lost(&mut self, now: Instant) {
        // Those that others have granted leave stay asked about as long as these name them.
        let is_named = |id: MemberId| {
            let mut found = self.standing_rosters().flat_map(|roster| &roster.found);
            found.any(|(named, _)| *named == id)
        };
        let lost = |member: &&Member| {
            let old = member
                .found
                .is_some_and(|found| now.since(found.at) >= FORGET);
            old && !member.is_up() && !is_named(member.id)
        };
        let lost = self.members.found().filter(lost).map(|member| member.id);
        let lost: Vec<MemberId> = lost.collect();
        for id in lost {
            self.forget_member(now, id);
        }
    }

    /// As after a reboot of it that we know of: whatever it owned is lost.
    fn forget_member(&mut self, now: Instant, id: MemberId) {
        log::warn!(target: "cluster", "member {id} is forgotten");
        self.counters.add("members_forgotten");
        let links = self.links.iter();
        let links = links.filter(|(_, link)| link.channel.peer_id() == id);
        let links: Vec<_> = links.map(|(conn, _)| *conn).collect();
        for conn in links {
            self.drop_link(now, conn);
        }
        let offered = self.moving.iter();
        let offered = offered.filter(|(_, moving)| moving.source.target == id);
        let offered: Vec<SessionId> = offered.map(|(session, _)| *session).collect();
        for session in offered {
            self.give_up(now, session);
        }
        self.forget_owner(now, id);
        self.members.remove(id);
        self.budgets.remove(&id);
        self.tries.remove(&id);
        self.tell_roster(now);
        self.view_changed(now);
    }
}

/// So many voters have to grant leave: few enough that one of two, or two of three, may be away, and so many
/// that not all of them can have forgotten it while as many others as may be needed for a no have not.
fn quorum(voters: usize) -> usize {
    voters.div_ceil(2)
}

/// Whether two addresses are of one version of IP.
fn is_like(one: IpAddr, other: IpAddr) -> bool {
    one.is_ipv4() == other.is_ipv4()
}
