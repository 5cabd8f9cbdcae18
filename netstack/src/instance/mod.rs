//! One instance: stack, sessions, transfers and cluster composed, still without IO.
//!
//! Drain it in this order after every `handle_*` or command: [`Instance::poll_event`] until
//! `None` (run what it wakes), [`Instance::poll_transmit`] until `None`, then sleep until
//! [`Instance::poll_timeout`] or the next frame.
//!
//! The other rooms decide, this one carries things between them:
//! - `sessions`: a session's side, and what TCP reports about its connections;
//! - `channels`: octets between TCP and the channels, and who is up;
//! - `lull`: what comes before a planned move;
//! - `ahead`: what travels before the capsule;
//! - `contents`: what states name by digest;
//! - `follow`: what travels behind it;
//! - `fence`: the order of frames after one;
//! - `pace`: how many move at a time;
//! - `moves`: transfers, at the source;
//! - `import`: transfers, at the target;
//! - `steer`: routes of flows that are not local;
//! - `role`: the ingress role;
//! - `drain`: leaving;
//! - `depart`: whether the ingress knows where everything went;
//! - `cable`: without a link to the clients;
//! - `datagrams`: UDP for others;
//! - `discover`: members that were not configured;
//! - `keys`: which keys are taken, and how channels change theirs;
//! - `policy`: sessions given away unasked;
//! - `status`: what pages show.

mod ahead;
mod cable;
mod channels;
mod contents;
mod datagrams;
mod depart;
mod discover;
mod drain;
mod fence;
mod follow;
mod import;
mod keys;
mod lull;
mod moves;
mod pace;
mod part;
mod policy;
mod role;
mod sessions;
mod status;
mod steer;
#[cfg(test)]
mod tests;
mod types;
mod uses;

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::IpAddr;

use crate::cluster::balance::Policy;
use crate::cluster::budget::{Budget, Limits};
use crate::cluster::election::Election;
use crate::cluster::keys::{Key, Keyring};
use crate::cluster::lease::MAX_TERM as MAX_COUNT;
use crate::cluster::members::Members;
use crate::cluster::message::{Flow, Ownership, Tally};
use crate::cluster::rng::Rng;
use crate::cluster::steering::Steering;
use crate::cluster::{BEACON_PORT, BootId, CHANNEL_PORT, MemberId};
use crate::counts::Counts;
use crate::map::{Map, Set};
use crate::migrate::transfer::Epochs;
use crate::session::{BySession, Session, SessionId};
use crate::stack::{Cidr, ConnId, FlowKey, ListenerId, RxFrame, Stack, StackEvent, TxFrame};
use crate::tcp::{Pressure, TcpConfig};
use crate::time::{Duration, Instant};

use ahead::{SentAhead, Stash};
use cable::CutOff;
use channels::Link;
use contents::Contents;
use discover::Discovery;
use drain::Drain;
use follow::Following;
pub use keys::KeyStatus;
use moves::Moving;
use pace::Pace;
pub use policy::{PolicyStatus, TriggerStatus};
use role::Probing;
pub use types::*;
use uses::{Use, Uses};

/// Time between two looks at what may have become useless.
const SWEEP: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Service {
    spec: ServiceSpec,
    listener: ListenerId,
}

/// One running image.
pub struct Instance {
    id: MemberId,
    boot: BootId,
    /// The keys of the cluster; none without one.
    key: Option<Keyring>,
    vips: Vec<IpAddr>,
    tcp: TcpConfig,
    mtu: u16,
    patience: Duration,
    clock: Option<fn() -> Instant>,
    rng: Rng,
    stack: Stack,

    services: Vec<Service>,
    sessions: BySession<Session>,
    uses: Uses,
    opened: u64,
    /// Sessions of services that never leave.
    residents: usize,

    moving: Map<SessionId, Moving>,
    pace: Pace,
    frozen: Map<Flow, SessionId>,
    /// Octets of frames kept for all of `moving`.
    kept_octets: usize,
    deferred: Set<(Instant, SessionId)>,
    /// Sessions in their lull.
    lulled: Set<SessionId>,
    /// When fences are lifted without a word.
    fences: Set<(Instant, SessionId)>,
    /// Sessions that left and whose frames still come here, and when that ends at the latest.
    following: Map<SessionId, Following>,
    follow_ends: Set<(Instant, SessionId)>,
    /// What went ahead of capsules that are still to be made.
    sent_ahead: Map<SessionId, SentAhead>,
    /// Who would send ahead, by target, and since when. Those who have left are taken out when somebody
    /// asks whether it is his turn.
    turns: Map<MemberId, Set<(Instant, SessionId)>>,
    stash: Stash,
    contents: Contents,
    epochs: Epochs,
    reports: VecDeque<MoveReport>,

    channel_listener: Option<ListenerId>,
    members: Members,
    discovery: Discovery,
    links: Map<ConnId, Link>,
    /// What each peer may still cost.
    budgets: Map<MemberId, Budget>,
    /// Attempts to open a channel that have failed since the last one was up.
    tries: Map<MemberId, u32>,
    /// When channels under a key that is not the active one are looked at again.
    renew_at: Instant,
    heartbeat_at: Instant,
    /// None without other members: nobody else could have the ingress role.
    election: Option<Election>,
    election_at: Option<Instant>,
    /// The ingress we last heard of, ourselves included: whom to tell of our flows.
    ingress: Option<MemberId>,
    /// Since when that has been us, and nobody else has acted as far as we know.
    ingress_since: Option<Instant>,
    /// The last term in which we were the ingress, while we hand the role on.
    resigned: Option<u64>,
    probing: Option<Probing>,
    /// There is no link to the clients.
    cut_off: Option<CutOff>,
    /// New flows, held until an ingress is known.
    waiting: VecDeque<FlowKey>,
    /// What the cluster's clock is ahead of ours.
    clock_ahead: Duration,

    steering: Steering,
    sweep_at: Instant,
    swept: Option<Flow>,
    drain: Drain,
    policy: Policy,
    policy_at: Instant,
    /// The session after which the next one to give away unasked is looked for.
    given_after: Option<SessionId>,

    events: VecDeque<Event>,
    /// What the ingress is to be told: flows that are ours, and flows that have ended.
    claims: Vec<Ownership>,
    releases: Vec<(Flow, SessionId)>,
    /// Flows of ours that are opened anew before the ingress has been told that they ended.
    openings: Vec<Ownership>,
    counters: Counts,
    /// What was said to the peers and heard from them.
    tally: Tally,
}

impl core::fmt::Debug for Instance {
    // By hand: the key is nobody's business.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Instance")
            .field("id", &self.id)
            .field("boot", &self.boot)
            .field("sessions", &self.sessions.len())
            .finish_non_exhaustive()
    }
}

impl Instance {
    /// An instance that has just booted. `seed` feeds everything random in it and must never be
    /// used for another boot.
    pub fn new(config: InstanceConfig, seed: [u8; 32], now: Instant) -> Instance {
        let mut rng = Rng::new(&seed, *b"instance");
        let boot = BootId(rng.array());
        let peers = config.peers.iter().map(|peer| (peer.id, peer.address));
        let members = Members::new(
            peers.filter(|(id, _)| *id != config.id),
            &config.role.witnesses,
            config.role.times.bounded().stale(),
            now,
        );
        let discovers = config.discover != Discover::Off;
        let clustered = config.cluster_key.is_some() && (discovers || !members.is_empty());
        let election = clustered.then(|| role::election(&config, now));
        let budgets = members.iter().filter(|_| clustered);
        let budgets = budgets.map(|member| (member.id, Budget::new(Limits::default(), now)));
        let budgets = budgets.collect();
        let vips = config.stack.vips.clone();
        let tcp = config.stack.tcp.clone();
        let mut stack = Stack::new(config.stack, rng.array(), now);
        let channel_listener = clustered.then(|| stack.listen_peers(CHANNEL_PORT));
        if clustered && discovers {
            stack.group_listen(BEACON_PORT);
        }
        stack.set_ask_unknown(clustered);
        stack.set_gives_cookies(!(clustered && discovers));
        stack.set_ingress(now, !clustered);
        Instance {
            id: config.id,
            boot,
            key: config
                .cluster_key
                .filter(|_| clustered)
                .map(|key| Keyring::new(Key(key))),
            vips,
            tcp,
            mtu: stack.mtu(),
            patience: config.patience,
            clock: None,
            rng,
            stack,
            services: Vec::new(),
            sessions: BySession::new(),
            uses: Uses::default(),
            opened: 0,
            residents: 0,
            moving: Map::new(),
            pace: Pace::default(),
            frozen: Map::new(),
            kept_octets: 0,
            deferred: Set::new(),
            lulled: Set::new(),
            fences: Set::new(),
            following: Map::new(),
            follow_ends: Set::new(),
            sent_ahead: Map::new(),
            turns: Map::new(),
            stash: Stash::default(),
            contents: Contents::default(),
            epochs: Epochs::new(),
            reports: VecDeque::new(),
            channel_listener,
            members,
            discovery: Discovery::new(config.discover, now),
            links: Map::new(),
            budgets,
            tries: Map::new(),
            renew_at: now,
            heartbeat_at: now,
            election,
            election_at: clustered.then_some(now),
            ingress: (!clustered).then_some(config.id),
            ingress_since: None,
            resigned: None,
            probing: None,
            cut_off: None,
            waiting: VecDeque::new(),
            clock_ahead: Duration::ZERO,
            steering: Steering::default(),
            sweep_at: now + SWEEP,
            swept: None,
            drain: Drain::No(None),
            policy: Policy::default(),
            policy_at: now,
            given_after: None,
            events: VecDeque::new(),
            claims: Vec::new(),
            releases: Vec::new(),
            openings: Vec::new(),
            counters: Counts::new(),
            tally: Tally::default(),
        }
    }

    /// A finer clock than the `now` of calls, to measure what happens within one call (move
    /// reports). Nothing else depends on it; without it such times are zero.
    pub fn set_clock(&mut self, clock: fn() -> Instant) {
        self.clock = Some(clock);
    }

    /// Say how short memory is apart from what connections may use of it: load is shed accordingly
    /// ([`Pressure`]).
    pub fn set_scarcity(&mut self, scarcity: Pressure) {
        self.stack.set_scarcity(scarcity);
    }

    /// Remember the decisions about at most so many sessions, instead of [`MAX_REMEMBERED`]. Whoever asks about
    /// one that was forgotten is told so, and then the session is given up.
    ///
    /// [`MAX_REMEMBERED`]: crate::migrate::transfer::MAX_REMEMBERED
    pub fn set_remembered(&mut self, sessions: usize) {
        self.epochs.set_most(sessions);
    }

    /// The finest time there is.
    fn measure(&self, now: Instant) -> Instant {
        self.clock.map_or(now, |clock| clock())
    }

    /// Take in a frame from the NIC.
    pub fn handle_frame(&mut self, now: Instant, frame: RxFrame) {
        self.look_at_lease(now);
        self.look_at_leave(now);
        self.note_vip_frame(now, &frame);
        self.stack.handle_frame(now, frame);
        self.pump(now);
    }

    /// Take in the frames the NIC has, in order, and leave `frames` empty: cheaper than one by one
    /// ([`Stack::handle_frames`]).
    #[inline]
    pub fn handle_frames(&mut self, now: Instant, frames: &mut Vec<RxFrame>) {
        self.look_at_lease(now);
        self.look_at_leave(now);
        for frame in frames.iter() {
            self.note_vip_frame(now, frame);
        }
        self.stack.handle_frames(now, frames.drain(..));
        self.hear(now);
        self.pump(now);
    }

    /// Fire timers that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.look_at_lease(now);
        self.look_at_leave(now);
        self.stack.handle_timeout(now);
        self.pump(now);
        self.expire_fences(now);
        self.expire_following(now);
        self.expire_stash(now);
        self.run_deferred_moves(now);
        self.run_discovery(now);
        self.run_channel_timers(now);
        self.run_election_timers(now);
        self.run_cut_off(now);
        self.expire_queries(now);
        if self.sweep_at <= now {
            self.sweep_at = now + SWEEP;
            self.sweep_flows(now);
            self.sweep_contents(now);
        }
        self.pump(now);
    }

    /// When [`Instance::handle_timeout`] is next due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [
            self.stack.poll_timeout(),
            self.deferred_timeout(),
            self.fences.first().map(|(at, _)| *at),
            self.follow_ends.first().map(|(at, _)| *at),
            self.stash.poll_timeout(),
            self.channel_timeout(),
            self.discovery_timeout(),
            self.election_timeout(),
            self.steering.poll_timeout(),
            (!self.steering.is_empty() || !self.contents.is_empty()).then_some(self.sweep_at),
            self.drain.poll_timeout(),
            self.cut_off.as_ref().map(CutOff::poll_timeout),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The next thing to report.
    #[inline]
    pub fn poll_event(&mut self) -> Option<Event> {
        loop {
            let event = self.events.pop_front()?;
            // One may be gone again before anyone heard of it.
            let there = match event {
                Event::SessionWoken(session) => {
                    let session = self.sessions.get_mut(&session);
                    session.map(|session| session.woken = false).is_some()
                }
                Event::SessionStarted { session, .. } => self.sessions.contains_key(&session),
                Event::SessionStopped(_) | Event::Drained | Event::DrainCancelled => true,
            };
            if there {
                return Some(event);
            }
        }
    }

    /// The next frame to send.
    #[inline]
    pub fn poll_transmit(&mut self, now: Instant) -> Option<TxFrame> {
        self.stack.poll_transmit(now)
    }

    /// Carry everything that can be carried: the stack's events, the channels' output, the next
    /// steps of a drain.
    fn pump(&mut self, now: Instant) {
        loop {
            self.hear(now);
            self.read_beacons(now);
            self.run_line(now);
            self.step_drain(now);
            self.flush_claims();
            let fed = self.feed_contents(now);
            if !self.flush_channels(now) && !fed {
                break;
            }
        }
    }

    /// Take in what the stack has to report. Mostly that is a session's connection with something new.
    #[inline]
    fn hear(&mut self, now: Instant) {
        while let Some(event) = self.stack.poll_event() {
            if let StackEvent::Updated(conn) = event
                && let Some(Use::Session(session, number)) = self.uses.get(conn)
            {
                self.connection_updated(now, session, number, conn);
            } else {
                self.handle_stack_event(now, event);
            }
        }
    }

    fn handle_stack_event(&mut self, now: Instant, event: StackEvent) {
        match event {
            StackEvent::Accepted { listener, conn } => {
                if Some(listener) == self.channel_listener {
                    self.accept_channel(now, conn);
                } else {
                    self.open_session(now, listener, conn);
                }
            }
            StackEvent::Updated(conn) => {
                if self.uses.get(conn) == Some(Use::Channel) {
                    self.read_channel(now, conn);
                }
            }
            StackEvent::Gone { conn, .. } => match self.uses.remove(conn) {
                Some(Use::Session(session, number)) => self.connection_gone(now, session, number),
                Some(Use::Channel) => self.drop_link(now, conn),
                None => {}
            },
            StackEvent::Captured { flow, frame } => self.relay(now, flow, frame),
            StackEvent::UnknownFlow { flow, syn } => self.place(now, flow, syn),
            StackEvent::DoubtfulHandshake { flow } => self.ask_for_handshake(now, flow),
            StackEvent::AddressesChanged => {}
            StackEvent::LeaseRefused(Cidr { address, prefix }) => {
                log::error!(
                    "DHCP offers {address}/{prefix}, which is an address of the instance network: not taken"
                );
            }
            StackEvent::AddressContested { address, mac } => {
                self.counters.add("ingress_vip_contested");
                log::error!(target: "cluster", "{mac:02x?} goes on claiming {address}, which is ours");
            }
        }
    }

    /// A service to be reached at its port from now on.
    pub fn add_service(&mut self, spec: ServiceSpec) -> ServiceId {
        let id = ServiceId(self.services.len() as u32);
        let listener = self.stack.listen(spec.port, spec.scope);
        self.services.push(Service { spec, listener });
        id
    }

    fn flow_of(&self, conn: ConnId) -> Option<FlowKey> {
        self.stack.flow(conn)
    }
}
