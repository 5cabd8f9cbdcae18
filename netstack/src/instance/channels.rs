//! Channels to the peers: connecting, greeting, carrying octets between TCP and the channel.

use alloc::vec::Vec;
use core::net::SocketAddr;

use super::{Instance, MAX_COUNT, Service, Use};
use crate::cluster::budget::Verdict;
use crate::cluster::channel::{Channel, ChannelError, Ends};
use crate::cluster::election::Election;
use crate::cluster::lease::Times;
use crate::cluster::message::{Heartbeat, Kind, Message};
use crate::cluster::noise::NoiseError;
use crate::cluster::{CHANNEL_PORT, MemberId};
use crate::migrate::rope::Rope;
use crate::migrate::transfer::Answer;
use crate::stack::{ConnId, Scope};
use crate::tcp::{Connection, Pressure, SocketOptions, State};
use crate::time::{Duration, Instant};

/// Octets handed to TCP ahead of what it has sent. More only waits, and could not be overtaken.
const AHEAD: usize = 256 * 1024;
/// Octets that may wait in front of TCP before captured frames are dropped.
pub(super) const MAX_QUEUED: usize = 8 * 1024 * 1024;
/// A channel that is not up after this time is closed.
const GREETING: Duration = Duration::from_secs(3);
/// Channels from one peer that may be in their handshake at a time.
pub(super) const MAX_HANDSHAKES: usize = 4;

/// What a channel's connection is tuned to: a local link, small messages that must not wait.
fn tuned() -> SocketOptions {
    SocketOptions {
        nagle: false,
        ack_delay: Duration::ZERO,
        peer_ack_delay: Duration::ZERO,
        min_rto: Duration::from_millis(10),
        ..SocketOptions::default()
    }
}

/// One TCP connection to a peer and the channel in it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) channel: Channel,
    pub(super) since: Instant,
    /// The peer has used up its budget: nothing more is read until then.
    pub(super) resume: Option<Instant>,
}

impl Instance {
    fn ends(&mut self, peer: MemberId) -> Option<Ends> {
        let member = self.members.get_mut(peer)?;
        member.generation += 1;
        Some(Ends {
            us: self.id,
            boot: self.boot,
            generation: member.generation,
            peer,
        })
    }

    /// The link of the channel that is up with `peer`.
    pub(super) fn link_to(&mut self, peer: MemberId) -> Option<&mut Link> {
        let member = self.members.get(peer).filter(|member| member.is_up())?;
        self.links.get_mut(&member.link?)
    }

    /// Queue a message to `peer`; `false` if there is no channel, or the message is too long.
    pub(super) fn send(&mut self, peer: MemberId, message: &Message) -> bool {
        self.send_with(peer, message, Rope::new())
    }

    /// Queue a message with a tail.
    pub(super) fn send_with(&mut self, peer: MemberId, message: &Message, tail: Rope) -> bool {
        let sent = self
            .link_to(peer)
            .is_some_and(|link| link.channel.send(message, tail).is_some());
        if sent {
            self.tally.sent(message.kind());
        }
        sent
    }

    /// Queue a message to every peer whose channel is up.
    pub(super) fn broadcast(&mut self, message: &Message) {
        let up: Vec<MemberId> = self
            .members
            .iter()
            .filter(|member| member.is_up())
            .map(|member| member.id)
            .collect();
        for peer in up {
            self.send(peer, message);
        }
    }

    /// Tell every peer how we are, and what we claim.
    pub(super) fn beat(&mut self, now: Instant) {
        let Some(election) = &mut self.election else {
            return;
        };
        let acted = election.held_until().is_some();
        let claim = election.claim(now);
        let (priority, term) = (election.priority(), election.term());
        if acted && claim.is_none() {
            // Whoever reads this heartbeat is free to vote for another.
            self.lay_down_role(now, "its claim cannot be renewed");
        }
        let limit = self.tcp.max_connections as usize;
        let room = limit.saturating_sub(self.stack.connection_count());
        let heartbeat = Heartbeat {
            sessions: self.load(),
            room: match self.is_witness() || !self.may_be_given(now) {
                true => 0,
                false => room as u32,
            },
            draining: self.is_draining(),
            healthy: self.stack.pressure() != Pressure::Exhausted && !self.is_cut_off(),
            priority,
            version: self.state_version(),
            term,
            clock: self.cluster_clock(now),
            claim,
        };
        self.broadcast(&Message::Heartbeat(heartbeat));
    }

    /// Version of the states that sessions commit here, the highest of all services that may leave.
    pub(super) fn state_version(&self) -> u32 {
        let moves = |service: &&Service| service.spec.scope == Scope::Service;
        let moving = self.services.iter().filter(moves);
        let version = moving.map(|service| service.spec.state_version).max();
        version.unwrap_or(0)
    }

    /// Sessions here and those about to begin; not those of services that never leave: whoever is asked how
    /// it is has no less room for others.
    pub(super) fn load(&self) -> u32 {
        let sessions = self.sessions.len().saturating_sub(self.residents);
        (sessions + self.stack.half_open_count()) as u32
    }

    /// Lease and heartbeats.
    fn times(&self) -> Times {
        let election = self.election.as_ref();
        election.map_or_else(Times::default, Election::times)
    }

    /// The clock that all members share: the one that was booted first is right, the others set
    /// theirs forward to it. All of them answer a SYN alike then, but for the time a heartbeat
    /// travels.
    pub(super) fn cluster_clock(&self, now: Instant) -> u64 {
        now.as_nanos()
            .saturating_add(self.clock_ahead.as_nanos() as u64)
    }

    pub(super) fn follow_clock(&mut self, now: Instant, clock: u64) {
        let behind = clock.saturating_sub(self.cluster_clock(now));
        if behind > 0 && clock <= MAX_COUNT {
            self.clock_ahead += Duration::from_nanos(behind);
            self.stack.set_clock_offset(self.clock_ahead);
        }
    }

    pub(super) fn channel_timeout(&self) -> Option<Instant> {
        self.key.as_ref()?;
        // Who acts alone renews its claim as well.
        let beats = !self.links.is_empty() || self.is_ingress();
        let beat = beats.then_some(self.heartbeat_at);
        let id = self.id;
        let retry = self
            .members
            .iter()
            .filter(|member| member.id > id)
            .filter_map(|member| member.retry_at())
            .min();
        let resume = self.links.values().filter_map(|link| link.resume).min();
        beat.into_iter().chain(retry).chain(resume).min()
    }

    pub(super) fn run_channel_timers(&mut self, now: Instant) {
        if self.key.is_none() {
            return;
        }
        self.resume_links(now);
        if self.heartbeat_at <= now {
            self.heartbeat_at = now + self.times().heartbeat;
            self.beat(now);
            self.beat_discovery(now);
            self.forget_silent(now);
            self.close_silent_links(now);
            self.renew_keys(now);
            self.run_policy(now);
        }
        // The lower id connects, so that two members do not end up with two channels.
        let due: Vec<(MemberId, SocketAddr)> = self
            .members
            .iter()
            .filter(|member| member.id > self.id)
            .filter(|member| member.retry_at().is_some_and(|at| at <= now))
            .map(|member| (member.id, SocketAddr::new(member.address, CHANNEL_PORT)))
            .collect();
        for (peer, remote) in due {
            let conn = self.connect_channel(now, peer, remote);
            if let Some(member) = self.members.get_mut(peer) {
                match conn {
                    Some(conn) => member.link = Some(conn),
                    // No address yet, for one.
                    None => member.link_lost(now),
                }
            }
        }
    }

    /// Begin to open a channel, with the key whose turn it is.
    pub(super) fn connect_channel(
        &mut self,
        now: Instant,
        peer: MemberId,
        remote: SocketAddr,
    ) -> Option<ConnId> {
        let key = self.next_key(peer)?;
        let conn = self.stack.connect_peer(now, remote).ok()?;
        let ends = self.ends(peer)?;
        self.stack.update(now, conn, |connection| {
            connection.set_options(now, tuned());
            connection.set_near();
        });
        let channel = Channel::initiator(ends, &key, self.rng.array());
        self.add_link(now, conn, channel);
        Some(conn)
    }

    fn add_link(&mut self, now: Instant, conn: ConnId, channel: Channel) {
        self.uses.insert(conn, Use::Channel);
        let link = Link {
            channel,
            since: now,
            resume: None,
        };
        self.links.insert(conn, link);
    }

    /// A TCP connection to the channel's port: a channel begins if it comes from a member's
    /// address. Whether it is the member, the handshake shows.
    pub(super) fn accept_channel(&mut self, now: Instant, conn: ConnId) {
        let peer = self
            .flow_of(conn)
            .and_then(|flow| self.members.by_address(flow.remote.ip()));
        let budget = peer.and_then(|peer| self.budgets.get_mut(&peer));
        let refused = match budget.map(|budget| budget.handshakes.take(now)) {
            None => Some("channel_strangers"),
            Some(false) => Some("channel_handshakes_limited"),
            Some(true) => None,
        };
        if let Some(counter) = refused {
            self.counters.add(counter);
            self.stack
                .update(now, conn, |connection| connection.abort(now));
            return;
        }
        let ends = peer.and_then(|peer| self.ends(peer));
        let (Some(keys), Some(ends)) = (self.key.clone(), ends) else {
            return;
        };
        let mut young = self.links.iter().filter(|(_, link)| {
            link.channel.peer_id() == ends.peer && link.channel.peer().is_none()
        });
        if young.clone().count() >= MAX_HANDSHAKES
            && let Some(oldest) = young.next().map(|(conn, _)| *conn)
        {
            self.drop_link(now, oldest);
        }
        self.stack.update(now, conn, |connection| {
            connection.set_options(now, tuned());
            connection.set_near();
        });
        let channel = Channel::responder(ends, keys.keys(), self.rng.array());
        self.add_link(now, conn, channel);
        self.read_channel(now, conn);
    }

    fn close_silent_links(&mut self, now: Instant) {
        let silence = self.times().channel();
        let silent = |(conn, link): (&ConnId, &Link)| {
            let heard = match self.members.get(link.channel.peer_id()) {
                Some(member) if member.link == Some(*conn) && member.is_up() => {
                    member.heard + silence
                }
                _ => link.since + GREETING,
            };
            (heard <= now).then_some(*conn)
        };
        let silent: Vec<ConnId> = self.links.iter().filter_map(silent).collect();
        for conn in silent {
            self.counters.add("channel_timeouts");
            self.drop_link(now, conn);
        }
    }

    /// Something changed on a channel's connection: take in what arrived.
    pub(super) fn read_channel(&mut self, now: Instant, conn: ConnId) {
        let waits = |link: &Link| link.resume.is_some_and(|at| at > now);
        if self.links.get(&conn).is_some_and(waits) {
            // Its octets wait in TCP, and hold the sender back. If it is gone, `Gone` tells.
            return;
        }
        let received = self.stack.update(now, conn, |connection| {
            let mut received = Vec::new();
            while let Some(data) = connection.receive_peek(0).filter(|data| !data.is_empty()) {
                connection.receive_consume(now, data.len());
                received.push(data);
            }
            let over = connection.receive_finished() || connection.error().is_some();
            (received, over)
        });
        let Some((received, over)) = received else {
            return;
        };
        for data in received {
            let clock = self.clock;
            let Some(link) = self.links.get_mut(&conn) else {
                return;
            };
            let result = link
                .channel
                .handle_data(data, || clock.map_or(now, |clock| clock()))
                .and_then(|()| self.read_messages(now, conn));
            if let Err(error) = result {
                self.channel_failed(now, conn, error);
                return;
            }
        }
        if over {
            self.drop_link(now, conn);
        }
    }

    /// Go on with the channels of peers whose budget allows it again.
    fn resume_links(&mut self, now: Instant) {
        let due = |(conn, link): (&ConnId, &mut Link)| {
            link.resume.take_if(|at| *at <= now).map(|_| *conn)
        };
        let due: Vec<ConnId> = self.links.iter_mut().filter_map(due).collect();
        for conn in due {
            match self.read_messages(now, conn) {
                Ok(()) => self.read_channel(now, conn),
                Err(error) => self.channel_failed(now, conn, error),
            }
        }
    }

    fn read_messages(&mut self, now: Instant, conn: ConnId) -> Result<(), ChannelError> {
        while let Some(link) = self.links.get_mut(&conn) {
            let budget = self.budgets.get_mut(&link.channel.peer_id());
            if let Some(busy) = budget.and_then(|budget| budget.busy_until(now)) {
                if link.resume.is_none() {
                    self.counters.add("peer_held_back");
                }
                link.resume = Some(busy);
                break;
            }
            let Some((message, tail, opening)) = link.channel.poll_message()? else {
                break;
            };
            let peer = link.channel.peer_id();
            if let Message::Hello(_) = message {
                self.tally.received(Kind::Hello);
                self.link_up(now, peer, conn);
                continue;
            }
            let budget = self.budgets.get_mut(&peer);
            let verdict = budget.map(|budget| budget.judge(now, &message, tail.len()));
            match verdict {
                Some(Verdict::DropQuery) => self.counters.add("peer_queries_dropped"),
                Some(Verdict::DropControl) => self.counters.add("peer_control_dropped"),
                _ => {}
            }
            if let Some(member) = self.members.get_mut(peer) {
                member.heard = now;
            }
            if verdict.is_some_and(|verdict| verdict != Verdict::Take) {
                continue;
            }
            self.tally.received(message.kind());
            self.handle_message(now, peer, message, tail, opening);
        }
        Ok(())
    }

    fn channel_failed(&mut self, now: Instant, conn: ConnId, error: ChannelError) {
        self.counters.add(match error {
            ChannelError::Noise(NoiseError::Handshake) => "channel_wrong_key",
            ChannelError::Noise(_) => "channel_bad_records",
            ChannelError::Message(_) => "channel_bad_messages",
            ChannelError::Greeting => "channel_bad_greetings",
        });
        self.drop_link(now, conn);
    }

    /// The peer proved itself: this is the channel to it from now on.
    fn link_up(&mut self, now: Instant, peer: MemberId, conn: ConnId) {
        let hello = self
            .links
            .get(&conn)
            .and_then(|link| link.channel.peer().cloned());
        let (Some(member), Some(hello)) = (self.members.get_mut(peer), hello) else {
            return;
        };
        let key = self.links.get(&conn).and_then(|link| link.channel.key());
        if !key.is_some_and(|key| self.key.as_ref().is_some_and(|keys| keys.holds(key))) {
            // Removed while it was being used.
            self.counters.add("channel_wrong_key");
            self.drop_link(now, conn);
            return;
        }
        let boot = hello.boot;
        let former = member.link.filter(|former| *former != conn);
        let booted = member.last_boot.is_some_and(|last| last != boot);
        member.link_up(now, conn, hello);
        if let Some(former) = former {
            self.drop_link(now, former);
        }
        if booted {
            // What it owned is lost.
            self.forget_owner(now, peer);
        }
        self.tries.remove(&peer);
        self.counters.add("channels_up");
        log::info!(target: "cluster", "channel to member {peer} is up");
        if let Some(election) = &mut self.election {
            election.handle_boot(now, peer, boot);
        }
        self.greet_with_roster(now, peer);
        self.beat(now);
        self.run_election(now);
        self.ask_in_doubt(now, peer, boot);
        self.ask_again(peer, booted);
        self.part_again(peer);
        if self.ingress == Some(peer) {
            self.claim_all_flows();
        }
    }

    /// The link is over, or shall be; if it was the member's, the member is down.
    pub(super) fn drop_link(&mut self, now: Instant, conn: ConnId) {
        self.uses.remove(conn);
        self.stack
            .update(now, conn, |connection| connection.abort(now));
        let Some(link) = self.links.remove(&conn) else {
            return;
        };
        let peer = link.channel.peer_id();
        let Some(member) = self.members.get_mut(peer) else {
            return;
        };
        if member.link == Some(conn) {
            if member.is_up() {
                log::warn!(target: "cluster", "channel to member {peer} is down");
            }
            member.link_lost(now);
        }
        if link.channel.peer().is_some() {
            self.doubt(now, peer);
            self.lift_fences_of(now, peer);
            self.forget_ahead_of(peer);
            self.forget_contents_of(now, peer);
            self.end_following_to(now, peer);
        }
    }

    /// Hand queued octets to TCP as far as it has room. Whether anything was.
    pub(super) fn flush_channels(&mut self, now: Instant) -> bool {
        let mut any = false;
        for (conn, link) in &mut self.links {
            loop {
                let tcp = self.stack.connection(*conn);
                let room = |tcp: &Connection| {
                    !matches!(tcp.state(), State::SynSent | State::SynReceived)
                        && tcp.send_queued() < AHEAD
                };
                if !tcp.is_some_and(room) {
                    break;
                }
                let had_greeted = link.channel.has_greeted();
                let Some(octets) = link.channel.poll_output() else {
                    break;
                };
                if link.channel.has_greeted() && !had_greeted {
                    self.tally.sent(Kind::Hello);
                }
                let taken = self
                    .stack
                    .update(now, *conn, |connection| connection.send(now, octets));
                any |= matches!(taken, Some(Ok(())));
            }
        }
        any
    }

    fn handle_message(
        &mut self,
        now: Instant,
        from: MemberId,
        message: Message,
        tail: Rope,
        opening: Duration,
    ) {
        match message {
            Message::Hello(_) => {}
            Message::Heartbeat(heartbeat) => self.handle_heartbeat(now, from, heartbeat),
            Message::Transfer(transfer) => self.take_in(now, from, transfer, tail, opening),
            Message::Frame(attempt) => self.handle_relayed(now, attempt, tail),
            Message::Fence(attempt) => self.handle_fence(now, from, attempt),
            Message::Ahead(ahead) => self.handle_ahead(now, from, ahead, tail),
            Message::Content(piece) => self.handle_content(now, from, piece, tail),
            Message::Accepted {
                attempt,
                open,
                import,
            } => {
                let times = (Duration::from_nanos(open), Duration::from_nanos(import));
                self.handle_answer(now, from, attempt, Answer::Affirmed, times);
            }
            Message::Refused { attempt, reason } => {
                self.answered(now, from, attempt, Answer::Refused(reason));
            }
            Message::Doubt(attempt) => self.resolve(from, attempt),
            Message::Owned(attempt) => self.answered(now, from, attempt, Answer::Affirmed),
            Message::NotOwner(attempt) => self.answered(now, from, attempt, Answer::NotOwner),
            Message::Forgotten(attempt) => self.answered(now, from, attempt, Answer::Forgotten),
            Message::WhoOwns(flow, cookie) => self.tell_owner(now, from, flow, cookie),
            Message::NotMine(flow, spent) => self.handle_not_mine(now, from, flow, spent),
            Message::Ended(flow) => self.handle_ended(now, flow),
            Message::Owns(list) => self.handle_owns_list(now, from, list),
            Message::Rerouted(list) => {
                self.note_confirmed(from, &list);
                self.handle_rerouted(now, &list);
            }
            Message::Confirm(list) => self.handle_confirm(now, from, &list),
            Message::Released(list) => {
                for (flow, session) in list {
                    self.handle_released(now, from, flow, session);
                }
            }
            Message::HandoverTable(list) => {
                for ownership in list {
                    self.steer_to(now, ownership);
                }
            }
            Message::Handover { term } => self.take_over(now, from, term),
            Message::Ballot(ballot) => {
                if let Some(election) = &mut self.election {
                    election.handle_ballot(now, from, &ballot);
                }
                self.run_election(now);
            }
            // Said again, it is no news; to forget what somebody owned is work.
            Message::Leaving if self.members.get(from).is_some_and(|m| m.left.is_some()) => {
                self.part(from);
            }
            Message::Leaving => {
                if let Some(member) = self.members.get_mut(from) {
                    member.left = member.last_boot;
                }
                if let Some(election) = &mut self.election {
                    election.handle_left(from);
                }
                self.run_election(now);
                self.forget_owner(now, from);
                self.part(from);
            }
            Message::Parted => self.handle_parted(from),
            Message::Roster(roster) => self.handle_roster(now, from, roster),
            Message::Stay(count) => self.handle_stay(now, from, count),
            Message::Stays(count) => self.handle_stays(now, from, count),
            Message::Spent { left } => {
                self.handle_spent(now, Duration::from_millis(u64::from(left)), &tail);
            }
        }
    }

    pub(super) fn handle_heartbeat(&mut self, now: Instant, from: MemberId, heartbeat: Heartbeat) {
        if let Some(member) = self.members.get_mut(from) {
            member.heartbeat = Some(heartbeat);
        }
        let given = self.on_the_way_to(from);
        if let Some(member) = self.members.get_mut(from) {
            member.given = given;
        }
        self.follow_clock(now, heartbeat.clock);
        let Some(election) = &mut self.election else {
            return;
        };
        let (ballot, in_range) = election.handle_heartbeat(now, from, &heartbeat);
        if !in_range {
            self.counters.add("terms_out_of_range");
        }
        if let Some(ballot) = ballot {
            self.send(from, &Message::Ballot(ballot));
        }
        self.run_election(now);
    }
}
