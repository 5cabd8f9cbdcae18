//! The world: parties on a switch, one clock, one queue of what happens next.
//!
//! Everything happens in one thread and in an order that follows from the seed: frames in flight
//! are ordered by arrival and then by when they were sent, parties by their next deadline and then
//! by their port. The same seed and the same code give the same trace ([`World::trace_hash`]).

use std::any::Any;
use std::cmp::Ordering;
use std::collections::{BTreeSet, BinaryHeap};
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use godwit_netstack::stack::{Interface, MacAddr};
use godwit_netstack::tcp::Info;
use godwit_netstack::{Duration, Instant};

use crate::check::{Check, Findings, FlowId, Flows, Note, Reset, Side, Violation};
use crate::net::{Link, Port, Rules, Switch};
use crate::pcap::Pcap;
use crate::rng::{Rng, mix};
use crate::wire::{self, Segment};

/// What is attached to a port of the switch. Driven like every sans-IO machine: after each call
/// of `handle_*`, [`Party::poll_transmit`] is drained, then [`Party::poll_timeout`] asked.
pub trait Party: Any {
    /// Address of its NIC.
    fn mac(&self) -> MacAddr;
    /// Whether it runs instances of the service (else it is a client).
    fn is_server(&self) -> bool;
    /// A frame arrived.
    fn handle_frame(&mut self, now: Instant, interface: Interface, frame: &Bytes);
    /// A deadline has come (or something was changed from outside).
    fn handle_timeout(&mut self, now: Instant);
    /// The next frame to send, and where.
    fn poll_transmit(&mut self, now: Instant) -> Option<(Interface, Bytes)>;
    /// When to be called next if no frame arrives.
    fn poll_timeout(&self) -> Option<Instant>;
    /// Things to tell the checkers, oldest first.
    fn poll_note(&mut self, _flows: &Flows) -> Option<Note> {
        None
    }
    /// Frames of its own that it has lost before they got to the wire, in all.
    fn unsent(&self) -> u64 {
        0
    }
    /// Whether it keeps the handshake that its SYN-ACK, from the service to a client, belongs to.
    fn remembers(&self, _service: SocketAddr, _client: SocketAddr) -> bool {
        true
    }
    /// Show every connection of the service that it owns: the client, the epoch and the view.
    fn show(&self, _each: &mut dyn FnMut(SocketAddr, u64, &Info)) {}
}

/// Parties show their connections once in so many times.
const SHOWN: u64 = 16;

struct Slot {
    party: Box<dyn Party>,
    link: Link,
    /// In the network of the instances, if it has one for that.
    instance_link: Option<Link>,
    deadline: Option<Instant>,
    plugged: bool,
    frozen_until: Option<Instant>,
    /// Since when its clock stands still.
    stopped: Option<Instant>,
    /// How far its clock is ahead of the world's.
    clock: Duration,
    /// Frames it had lost before they got to the wire when it was last asked.
    unsent: u64,
}

impl Slot {
    fn time(&self, now: Instant) -> Instant {
        now + self.clock
    }

    fn link(&mut self, interface: Interface) -> Option<&mut Link> {
        match interface {
            Interface::Service => Some(&mut self.link),
            Interface::Instance => self.instance_link.as_mut(),
        }
    }
}

enum Place {
    Switch,
    Party,
}

struct InFlight {
    at: Instant,
    order: u64,
    port: Port,
    interface: Interface,
    place: Place,
    frame: Bytes,
}

impl Ord for InFlight {
    /// Reversed: the heap's greatest is the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for InFlight {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for InFlight {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for InFlight {}

/// Parties, links, switch, clock and checkers.
pub struct World {
    now: Instant,
    rng: Rng,
    slots: Vec<Slot>,
    deadlines: BTreeSet<(Instant, Port)>,
    in_flight: BinaryHeap<InFlight>,
    order: u64,
    switch: Switch,
    /// That of the instances' own network.
    instance_switch: Switch,
    severed: BTreeSet<(Port, Port)>,
    lost: BTreeSet<FlowId>,
    /// Any instance may answer a SYN that reaches it, even if the connection is another's: all
    /// give the same answer, and the client drops what is late.
    pub any_syn_ack: bool,
    vip: Option<IpAddr>,
    vip_claims: Vec<(Instant, Port)>,
    checks: Vec<Box<dyn Check>>,
    /// Times that a party was called and had nothing more to say.
    settled: u64,
    flows: Flows,
    findings: Findings,
    hash: u64,
    frames: u64,
    pcap: Option<Pcap>,
    /// Print every segment of watched flows to standard error; at first, whether the variable
    /// `GODWIT_SIM_TRACE` is set.
    pub trace: bool,
    /// Steps taken without time going on.
    standstill: u32,
    alarm: Option<Instant>,
    /// The party the last step was about.
    touched: Option<Port>,
    /// Whose last TCP segment is kept, and that.
    souvenir: Option<(Port, Interface, Bytes)>,
}

/// Steps at one instant after which the world is taken to be in an endless loop.
const STANDSTILL: u32 = 200_000;

impl World {
    /// An empty world.
    pub fn new(seed: u64, checks: Vec<Box<dyn Check>>) -> World {
        World {
            now: Instant::from_millis(1_000),
            rng: Rng::new(seed),
            slots: Vec::new(),
            deadlines: BTreeSet::new(),
            in_flight: BinaryHeap::new(),
            order: 0,
            switch: Switch::default(),
            instance_switch: Switch::default(),
            severed: BTreeSet::new(),
            lost: BTreeSet::new(),
            any_syn_ack: false,
            vip: None,
            vip_claims: Vec::new(),
            checks,
            settled: 0,
            flows: Flows::default(),
            findings: Findings::default(),
            hash: 0,
            frames: 0,
            pcap: None,
            trace: std::env::var_os("GODWIT_SIM_TRACE").is_some(),
            standstill: 0,
            alarm: None,
            touched: None,
            souvenir: None,
        }
    }

    /// Attach a party over a link with `rules` in both directions.
    pub fn attach(&mut self, party: Box<dyn Party>, rules: Rules) -> Port {
        self.attach_with_clock(party, rules, Duration::ZERO)
    }

    /// The same, with a clock of its own that is `ahead` of the world's.
    pub fn attach_with_clock(
        &mut self,
        party: Box<dyn Party>,
        rules: Rules,
        ahead: Duration,
    ) -> Port {
        self.attach_to_both(party, (rules, None), ahead)
    }

    /// The same, for one that may have a second link, in the network of the instances.
    pub fn attach_to_both(
        &mut self,
        party: Box<dyn Party>,
        (rules, inside): (Rules, Option<Rules>),
        ahead: Duration,
    ) -> Port {
        let port = self.slots.len();
        let inside = inside.map(|rules| Link::new(rules, &self.rng.split(3, 0), port));
        self.slots.push(Slot {
            party,
            link: Link::new(rules, &self.rng, port),
            instance_link: inside,
            deadline: None,
            plugged: true,
            frozen_until: None,
            stopped: None,
            clock: ahead,
            unsent: 0,
        });
        self.call_timeout(port);
        self.settle(port);
        port
    }

    /// Check flows to this service address.
    pub fn watch(&mut self, service: SocketAddr) {
        self.flows.watch(service);
        self.vip = Some(service.ip());
    }

    /// Keep every frame a party emits or receives, to be written as a pcap file.
    pub fn record(&mut self, port: Port) {
        self.pcap = Some(Pcap::new(port));
    }

    /// What [`World::record`] kept.
    pub fn recorded(&self) -> Option<&Pcap> {
        self.pcap.as_ref()
    }

    /// The time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// A generator of random numbers for the scenario, split off the seed.
    pub fn rng(&self, purpose: u64) -> Rng {
        self.rng.split(0x5ce0, purpose)
    }

    /// The flows seen so far.
    pub fn flows(&self) -> &Flows {
        &self.flows
    }

    /// Violations so far.
    pub fn violations(&self) -> &[Violation] {
        self.findings.found()
    }

    /// How many violations there are in all.
    pub fn violation_count(&self) -> u64 {
        self.findings.total
    }

    /// Record a violation that a scenario found itself.
    pub fn violate(&mut self, rule: &'static str, what: String) {
        self.findings.add(self.now, rule, what);
    }

    /// A number that depends on every frame emitted, its time and its sender.
    pub fn trace_hash(&self) -> u64 {
        self.hash
    }

    /// Frames emitted so far.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// A checker of the given type.
    ///
    /// # Panics
    /// If the world has none.
    pub fn check<C: Check>(&mut self) -> &mut C {
        let found = self
            .checks
            .iter_mut()
            .find_map(|check| (&mut **check as &mut dyn Any).downcast_mut());
        found.expect("the world has this checker")
    }

    /// A checker and the flows it was told of.
    pub fn note(&mut self, note: Note) {
        if self.trace {
            eprintln!("{:>10.3} {note:?}", self.now.as_nanos() as f64 / 1e6);
        }
        for check in &mut self.checks {
            check.note(self.now, note, &self.flows, &mut self.findings);
        }
    }

    /// The link of a party, where the clients are.
    pub fn link(&mut self, port: Port) -> &mut Link {
        &mut self.slots[port].link
    }

    /// Its link in the network of the instances, if there is one.
    pub fn instance_link(&mut self, port: Port) -> Option<&mut Link> {
        self.slots[port].instance_link.as_mut()
    }

    /// A party by its type.
    ///
    /// # Panics
    /// If the party at the port is of another type.
    pub fn party<P: Party>(&self, port: Port) -> &P {
        let party = &*self.slots[port].party as &dyn Any;
        party.downcast_ref().expect("the party has this type")
    }

    /// Do something to a party from outside, then let it act on it.
    pub fn with<P: Party, R>(&mut self, port: Port, act: impl FnOnce(&mut P, Instant) -> R) -> R {
        let slot = &mut self.slots[port];
        let time = slot.time(self.now);
        let party = &mut *slot.party as &mut dyn Any;
        let party = party.downcast_mut().expect("the party has this type");
        let result = act(party, time);
        self.call_timeout(port);
        self.settle(port);
        result
    }

    /// Cut a party off for good: a machine without power.
    pub fn unplug(&mut self, port: Port) {
        self.slots[port].plugged = false;
        self.settle(port);
    }

    /// Stop a party's clockwork for a while, as a stopped virtual machine: frames wait, timers are
    /// late, and it does not notice. A shorter pause within one ends nothing. Returns when it goes on.
    pub fn pause(&mut self, port: Port, duration: Duration) -> Instant {
        let slot = &mut self.slots[port];
        let until = self.now + duration;
        let until = slot.frozen_until.map_or(until, |before| before.max(until));
        slot.frozen_until = Some(until);
        self.settle(port);
        until
    }

    /// As [`World::pause`], but its clock stands still too, as that of a stopped QEMU guest does.
    pub fn pause_unseen(&mut self, port: Port, duration: Duration) -> Instant {
        self.slots[port].stopped.get_or_insert(self.now);
        self.pause(port, duration)
    }

    /// Whether the party has power and is not paused.
    pub fn is_running(&self, port: Port) -> bool {
        let slot = &self.slots[port];
        slot.plugged && slot.frozen_until.is_none()
    }

    /// What a party's clock says.
    pub fn clock_of(&self, port: Port) -> Instant {
        self.slots[port].time(self.now)
    }

    /// A machine with power again, or another one, at a port, at the end of the same link. It reads
    /// the clock that the one before it had.
    pub fn replace(&mut self, port: Port, party: Box<dyn Party>) {
        let slot = &mut self.slots[port];
        slot.party = party;
        slot.plugged = true;
        // Its clock went on while there was no power.
        slot.stopped = None;
        if let Some(until) = slot.frozen_until.take() {
            // What waited in the NIC of the one that stood still is gone with it.
            let waits = |pending: &InFlight| {
                pending.port == port && pending.at == until && matches!(pending.place, Place::Party)
            };
            self.in_flight.retain(|pending| !waits(pending));
        }
        self.call_timeout(port);
        self.settle(port);
    }

    /// The party that the last step was about, if it was about one.
    pub fn touched(&self) -> Option<Port> {
        self.touched
    }

    /// Keep the last TCP segment of a party from now on, for [`World::repeat`].
    pub fn keep_last(&mut self, port: Port) {
        self.souvenir = Some((port, Interface::Service, Bytes::new()));
    }

    /// The segment that was kept turns up again: a duplicate that lay about in the network.
    pub fn repeat(&mut self) {
        let Some((port, interface, frame)) = self.souvenir.clone() else {
            return;
        };
        if !frame.is_empty() {
            self.enqueue((port, interface), Place::Switch, vec![(self.now, frame)]);
        }
    }

    /// Whether the flows a client opens from now on may be reset, by either side.
    pub fn expect_resets(&mut self, client: SocketAddr, expected: bool) {
        self.flows.expect_resets(client, expected);
    }

    /// In this flow resets are right from now on: whoever had it is gone. All else is checked as before.
    pub fn lose(&mut self, flow: FlowId) {
        self.lost.insert(flow);
        self.note(Note::Lost { flow });
    }

    /// Who has said since the last call, and when, that the virtual address is his.
    pub fn take_vip_claims(&mut self) -> Vec<(Instant, Port)> {
        core::mem::take(&mut self.vip_claims)
    }

    /// Let nothing pass from one party to another any more.
    pub fn sever_one_way(&mut self, from: Port, to: Port) {
        self.severed.insert((from, to));
    }

    /// Let nothing pass between two parties any more, in either direction.
    pub fn sever(&mut self, one: Port, other: Port) {
        self.severed.extend([(one, other), (other, one)]);
    }

    /// Let everything pass again between two parties.
    pub fn mend(&mut self, one: Port, other: Port) {
        self.severed.remove(&(one, other));
        self.severed.remove(&(other, one));
    }

    /// Let everything pass again between all parties.
    pub fn heal(&mut self) {
        self.severed.clear();
    }

    /// Lose the frames in flight that `which` picks (the port is where it is going to).
    pub fn drop_in_flight(&mut self, mut which: impl FnMut(Port, &Segment) -> bool) -> usize {
        let before = self.in_flight.len();
        self.in_flight.retain(|pending| {
            Segment::parse(&pending.frame).is_none_or(|segment| !which(pending.port, &segment))
        });
        before - self.in_flight.len()
    }

    /// Let a step be taken at `at` (or now, if that has passed) even if nothing else happens then: for a
    /// scenario that looks on after each step and wants to change something at its time.
    pub fn wake_at(&mut self, at: Instant) {
        let at = at.max(self.now);
        self.alarm = Some(self.alarm.map_or(at, |alarm| alarm.min(at)));
    }

    /// The time of what happens next.
    pub fn next_event(&self) -> Option<Instant> {
        let frame = self.in_flight.peek().map(|pending| pending.at);
        let timer = self.deadlines.first().map(|(at, _)| *at);
        [frame, timer, self.alarm].into_iter().flatten().min()
    }

    /// Let the next thing happen. False if nothing will ever happen again.
    pub fn step(&mut self) -> bool {
        let Some(at) = self.next_event() else {
            return false;
        };
        if at > self.now {
            self.now = at;
            self.standstill = 0;
        }
        self.touched = None;
        if self.alarm.take_if(|alarm| *alarm <= at).is_some() {
            return true;
        }
        self.standstill += 1;
        if self.standstill > STANDSTILL {
            self.violate("progress", "an endless loop at one instant".into());
            return false;
        }
        let frame_is_due = self
            .in_flight
            .peek()
            .is_some_and(|frame| frame.at <= self.now);
        match self.in_flight.pop() {
            Some(pending) if frame_is_due => self.arrive(pending),
            other => {
                self.in_flight.extend(other);
                if let Some((_, port)) = self.deadlines.first().copied() {
                    self.touched = Some(port);
                    self.thaw(port);
                    self.call_timeout(port);
                    self.settle(port);
                }
            }
        }
        true
    }

    /// Let everything happen up to and including `until`; time then is `until`.
    pub fn run_until(&mut self, until: Instant) {
        self.run_while(until, |_| true);
        self.now = self.now.max(until);
    }

    /// As [`World::run_until`], for a duration.
    pub fn run_for(&mut self, duration: Duration) {
        self.run_until(self.now + duration);
    }

    /// Let things happen while `go_on` says so, at most until `limit`. True if it was `go_on`
    /// that ended it.
    pub fn run_while(&mut self, limit: Instant, mut go_on: impl FnMut(&mut World) -> bool) -> bool {
        while go_on(self) {
            match self.next_event() {
                Some(at) if at <= limit => {
                    if !self.step() {
                        return false;
                    }
                }
                _ => return false,
            }
        }
        true
    }

    fn arrive(&mut self, pending: InFlight) {
        let InFlight {
            at,
            order,
            port,
            interface,
            place,
            frame,
        } = pending;
        match place {
            Place::Switch => {
                let switch = match interface {
                    Interface::Service => &mut self.switch,
                    Interface::Instance => &mut self.instance_switch,
                };
                let ports = switch.ports_for(port, &frame, self.slots.len());
                for to in ports {
                    if self.severed.contains(&(port, to)) {
                        continue;
                    }
                    let Some(link) = self.slots[to].link(interface) else {
                        continue;
                    };
                    let (there, back) = link.send_down(self.now, frame.clone());
                    self.enqueue((to, interface), Place::Party, there);
                    self.enqueue((to, interface), Place::Switch, back);
                }
            }
            Place::Party => {
                let slot = &mut self.slots[port];
                if !slot.plugged {
                    return;
                }
                if let Some(until) = slot.frozen_until.filter(|until| *until > self.now) {
                    self.in_flight.push(InFlight {
                        at: until.max(at),
                        order,
                        port,
                        interface,
                        place: Place::Party,
                        frame,
                    });
                    return;
                }
                self.touched = Some(port);
                self.thaw(port);
                self.observe(port, interface, false, &frame);
                let time = self.slots[port].time(self.now);
                let party = &mut self.slots[port].party;
                party.handle_frame(time, interface, &frame);
                self.settle(port);
            }
        }
    }

    /// A pause is over, if there was one.
    fn thaw(&mut self, port: Port) {
        let slot = &mut self.slots[port];
        slot.frozen_until = None;
        if let Some(since) = slot.stopped.take() {
            slot.clock = slot.clock.saturating_sub(self.now.since(since));
        }
    }

    fn call_timeout(&mut self, port: Port) {
        let slot = &mut self.slots[port];
        let time = slot.time(self.now);
        slot.party.handle_timeout(time);
    }

    /// Take what a party sends, and note when it wants to be called.
    fn settle(&mut self, port: Port) {
        if self.slots[port].plugged && self.slots[port].frozen_until.is_none() {
            let unsent = self.slots[port].party.unsent();
            if core::mem::replace(&mut self.slots[port].unsent, unsent) < unsent {
                self.note(Note::Unsent { port });
            }
            loop {
                while let Some(note) = self.slots[port].party.poll_note(&self.flows) {
                    self.note(note);
                }
                let time = self.slots[port].time(self.now);
                let Some((interface, frame)) = self.slots[port].party.poll_transmit(time) else {
                    break;
                };
                self.emit(port, interface, frame);
            }
            self.settled += 1;
            if self.settled.is_multiple_of(SHOWN) {
                self.look(port);
            }
        }
        let slot = &mut self.slots[port];
        if let Some(old) = slot.deadline.take() {
            self.deadlines.remove(&(old, port));
        }
        if slot.plugged {
            let wanted = match slot.frozen_until {
                Some(until) => Some(until),
                None => slot.party.poll_timeout().map(|at| at - slot.clock),
            };
            slot.deadline = wanted.map(|at| at.max(self.now));
        }
        if let Some(at) = slot.deadline {
            self.deadlines.insert((at, port));
        }
    }

    /// Let the checkers see what a party shows of its connections.
    fn look(&mut self, port: Port) {
        let (checks, findings, flows) = (&mut self.checks, &mut self.findings, &self.flows);
        let now = self.now;
        self.slots[port].party.show(&mut |client, epoch, info| {
            if let Some(flow) = flows.of_client(client) {
                for check in checks.iter_mut() {
                    check.view(now, (flow, epoch), info, flows, findings);
                }
            }
        });
    }

    fn emit(&mut self, port: Port, interface: Interface, frame: Bytes) {
        self.frames += 1;
        self.digest(port, &frame);
        if self.vip.is_some() && wire::address_claimed(&frame) == self.vip {
            self.vip_claims.push((self.now, port));
        }
        self.look_for_strays(port, interface, &frame);
        self.observe(port, interface, true, &frame);
        let Some(link) = self.slots[port].link(interface) else {
            return self.violate("networks", format!("party {port} has no second card"));
        };
        let (there, back) = link.send_up(self.now, frame);
        self.enqueue((port, interface), Place::Switch, there);
        self.enqueue((port, interface), Place::Party, back);
    }

    /// What is of one network is not seen in the other, but for what a client has said.
    fn look_for_strays(&mut self, port: Port, interface: Interface, frame: &[u8]) {
        let Some(source) = frame.get(6..12).and_then(|mac| mac.try_into().ok()) else {
            return;
        };
        let [from, to] = wire::ends(frame).map_or([None; 2], |ends| ends.map(Some));
        let strays = match interface {
            Interface::Service => wire::is_inside(source, from) || wire::is_inside(source, to),
            Interface::Instance => {
                !wire::is_inside(source, None) || from.is_some() && from == self.vip
            }
        };
        if strays {
            let what =
                format!("party {port} sends {from:?} to {to:?} by {source:02x?}, {interface:?}");
            self.violate("networks", what);
        }
    }

    fn enqueue(
        &mut self,
        (port, interface): (Port, Interface),
        place: Place,
        arrivals: Vec<(Instant, Bytes)>,
    ) {
        for (at, frame) in arrivals {
            self.order += 1;
            self.in_flight.push(InFlight {
                at: at.max(self.now),
                order: self.order,
                port,
                interface,
                place: match place {
                    Place::Switch => Place::Switch,
                    Place::Party => Place::Party,
                },
                frame,
            });
        }
    }

    fn digest(&mut self, port: Port, frame: &[u8]) {
        let mut hash = mix(self.hash ^ self.now.as_nanos()) ^ port as u64;
        for chunk in frame.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x2545_f491_4f6c_dd1d);
            hash ^= hash >> 29;
        }
        self.hash = mix(hash ^ frame.len() as u64);
    }

    fn observe(&mut self, port: Port, interface: Interface, emitted: bool, frame: &Bytes) {
        if let Some(pcap) = &mut self.pcap {
            pcap.frame(self.now, port, frame);
        }
        let Some(segment) = Segment::parse(frame) else {
            return;
        };
        if let Some((kept, place, last)) = &mut self.souvenir
            && emitted
            && *kept == port
        {
            (*place, *last) = (interface, frame.clone());
        }
        let is_server = self.slots[port].party.is_server();
        let placed = self
            .flows
            .place(self.now, port, emitted, is_server, &segment);
        if let Some(seen) = placed {
            if self.trace {
                eprintln!("{seen}");
            }
            let flow = self.flows.get(seen.flow);
            if self.trace && emitted && flow.segments == 1 {
                let (client, before) = (flow.client, flow.before);
                eprintln!("flow {} is of {client}, before {before:?}", seen.flow.0);
            }
            // A flow that begins between the ends of an earlier one takes its place.
            if let Some(before) = flow.before.filter(|_| flow.segments == 1) {
                self.checks
                    .iter_mut()
                    .for_each(|check| check.forget(before));
            }
            let answer = seen.from == Side::Server && segment.syn;
            if answer && emitted {
                let flow = seen.flow;
                let party = &self.slots[port].party;
                let remembered = party.remembers(segment.source, segment.target);
                self.note(Note::Answered {
                    flow,
                    by: port,
                    remembered,
                });
            }
            // An RST about a flow that is forgotten is no word of a session's.
            let ends = segment.rst
                && (self.lost.contains(&seen.flow)
                    || is_server && self.check::<Reset>().is_forgotten(seen.flow, seen.at));
            if ends || self.any_syn_ack && answer {
                return;
            }
            for check in &mut self.checks {
                check.segment(&seen, &self.flows, &mut self.findings);
            }
            // What follows is of no connection, or of another one with the same numbers: if the RST is
            // lost, a repeated first segment with a SYN cookie makes one.
            let ends = seen.server_speaks() && segment.rst && segment.ack.is_some();
            if ends && self.flows.get(seen.flow).may_reset {
                self.lost.insert(seen.flow);
            }
        }
    }
}
