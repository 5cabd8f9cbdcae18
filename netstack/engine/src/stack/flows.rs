//! The demux table: what to do with a segment, by the two ends of its flow; and the frames held
//! for flows whose place is not known yet.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::hash::{Hash, Hasher};
use core::net::{IpAddr, SocketAddr};

use hashbrown::{HashMap, HashTable};

use super::frame::RxFrame;
use super::hash::Keyed;
use super::slots::Slots;
use super::timers::Timers;
use super::{ConnId, FlowKey, Route};
use crate::time::{Duration, Instant};

/// Frames held for one flow at most.
const MAX_HELD_FRAMES: usize = 4096;
/// Octets held for one flow at most: a receive window and a bit.
const MAX_HELD_OCTETS: usize = 4 << 20;
/// Octets held for all flows together at most, whatever memory there is.
const MAX_HELD_TOTAL: usize = 16 << 20;
/// What a held frame counts for at least: it pins a receive buffer.
const MIN_FRAME_COST: usize = 512;
/// Unknown flows being asked about at most.
const MAX_ASKED: usize = 1024;
/// How long a frame waits for a route.
const HOLD: Duration = Duration::from_secs(3);
/// How long a question about an unknown flow stays open. The next segment asks again.
const ASK: Duration = Duration::from_secs(1);

/// A [`FlowKey`] as five words, IPv4 addresses mapped into IPv6: quick to hash and compare.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Packed([u64; 5]);

impl Packed {
    #[inline(never)]
    pub(super) fn new(flow: &FlowKey) -> Packed {
        Packed::of_frame(flow)
    }

    /// The same without a call, for what is done with every frame.
    #[inline(always)]
    pub(super) fn of_frame(flow: &FlowKey) -> Packed {
        let [a, b] = words(flow.local.ip());
        let [c, d] = words(flow.remote.ip());
        let ports = u64::from(flow.local.port()) << 16 | u64::from(flow.remote.port());
        Packed([a, b, c, d, ports])
    }

    /// The words.
    pub(super) fn words(&self) -> &[u64; 5] {
        &self.0
    }

    /// Between IPv4 addresses: what tells the flow from others, in fewer words. How many there are goes
    /// into a hash too, so no flow between IPv6 addresses is taken for it.
    fn ipv4(&self) -> Option<[u64; 2]> {
        const MAPPED: u64 = 0xffff;
        let [a, b, c, d, ports] = self.0;
        let mapped = a | c == 0 && b >> 32 == MAPPED && d >> 32 == MAPPED;
        mapped.then_some([b << 32 | d & 0xffff_ffff, ports])
    }

    fn keyed_hash(&self, keyed: &Keyed) -> u64 {
        match self.ipv4() {
            Some(words) => keyed.hash_words(&words),
            None => keyed.hash_words(&self.0),
        }
    }
}

impl Hash for Packed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let words = self.ipv4();
        let words = words.as_ref().map_or(&self.0[..], |words| words);
        words.iter().for_each(|word| state.write_u64(*word));
    }
}

fn words(address: IpAddr) -> [u64; 2] {
    let bits = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    [(bits >> 64) as u64, bits as u64]
}

/// What becomes of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Entry {
    /// It is for a connection here.
    Connection(ConnId),
    /// It is for a connection here that takes only what comes through the channel; the rest is
    /// held.
    Fenced(ConnId),
    /// It is for a half-open connection here.
    HalfOpen(u64),
    /// Out as an event.
    Capture,
    /// Held. `asked`: nobody told us the route yet, [`super::StackEvent::UnknownFlow`] asked for it.
    Hold { asked: bool },
    /// Passed on to another instance. `used`: when that last happened.
    Forward { to: IpAddr, used: Instant },
}

impl Entry {
    /// The entry for a route set from outside.
    pub(super) fn of(now: Instant, route: Route) -> Option<Entry> {
        match route {
            Route::Local(_) => None,
            Route::Capture => Some(Entry::Capture),
            Route::Hold => Some(Entry::Hold { asked: false }),
            Route::Forward(to) => Some(Entry::Forward { to, used: now }),
        }
    }
}

/// A held frame and whether it came through the channel.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) frame: RxFrame,
    pub(super) injected: bool,
}

/// Why a frame or flow was not held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum HoldError {
    /// No room for the frame.
    Full,
    /// Too many unknown flows.
    TooManyAsked,
}

#[derive(Debug)]
struct Queue {
    flow: Packed,
    frames: VecDeque<Held>,
    octets: usize,
    /// When it began to hold.
    since: Instant,
    armed: Option<Instant>,
}

/// A connection here, at the place of its index.
#[derive(Clone, Copy, Debug)]
struct Here {
    flow: Packed,
    generation: u32,
    fenced: bool,
    /// Whether it is in the table: what is left here of one that is gone means nothing.
    live: bool,
}

/// The table.
#[derive(Debug)]
pub(super) struct Flows {
    /// Octets held for all flows together at most.
    most: usize,
    keyed: Keyed,
    /// Indices of the connections here. There may be a million: they cost four octets each, and
    /// what else is known of them lies at their index.
    here: HashTable<u32>,
    connections: Vec<Here>,
    /// Every other flow.
    entries: HashMap<Packed, Entry, Keyed>,
    /// Numbers of the queues.
    held: HashMap<Packed, u64, Keyed>,
    queues: Slots<Queue>,
    timers: Timers,
    asked: usize,
    octets: usize,
}

fn cost(frame: &RxFrame) -> usize {
    frame.bytes.len().max(MIN_FRAME_COST)
}

impl Flows {
    /// A table that holds frames of `memory` octets at most.
    pub(super) fn new(keyed: Keyed, memory: usize) -> Flows {
        Flows {
            most: MAX_HELD_TOTAL.min(memory),
            keyed,
            here: HashTable::new(),
            connections: Vec::new(),
            entries: HashMap::with_hasher(keyed),
            held: HashMap::with_hasher(keyed),
            queues: Slots::new(),
            timers: Timers::new(),
            asked: 0,
            octets: 0,
        }
    }

    pub(super) fn get(&self, flow: &Packed) -> Option<Entry> {
        self.get_at(flow, None)
    }

    /// The same, looking first at index `hint`, where [`Flows::find`] saw it a moment ago.
    pub(super) fn get_at(&self, flow: &Packed, hint: Option<u32>) -> Option<Entry> {
        let hinted = hint.filter(|index| self.is_at(flow, *index));
        let found = hinted.or_else(|| self.find(flow, self.hash(flow)));
        let Some(index) = found else {
            return self.entries.get(flow).copied();
        };
        let here = self.connections.get(index as usize)?;
        let id = ConnId {
            index,
            generation: here.generation,
        };
        Some(match here.fenced {
            true => Entry::Fenced(id),
            false => Entry::Connection(id),
        })
    }

    /// Whether the connection of a flow is at this index.
    fn is_at(&self, flow: &Packed, index: u32) -> bool {
        let here = self.connections.get(index as usize);
        here.is_some_and(|here| here.live && here.flow == *flow)
    }

    /// What [`Flows::find`] looks for.
    pub(super) fn hash(&self, flow: &Packed) -> u64 {
        flow.keyed_hash(&self.keyed)
    }

    /// The index of the connection here that a flow belongs to.
    pub(super) fn find(&self, flow: &Packed, hash: u64) -> Option<u32> {
        let same = |index: &u32| self.is_at(flow, *index);
        self.here.find(hash, same).copied()
    }

    /// Set what becomes of a flow. Its held frames stay where they are: take them out before.
    pub(super) fn set(&mut self, flow: Packed, entry: Entry) {
        let (id, fenced) = match entry {
            Entry::Connection(id) => (id, false),
            Entry::Fenced(id) => (id, true),
            _ => {
                self.remove_here(&flow);
                let old = self.entries.insert(flow, entry);
                return self.account(old, Some(entry));
            }
        };
        self.remove(&flow);
        let here = Here {
            flow,
            generation: id.generation,
            fenced,
            live: true,
        };
        let index = id.index as usize;
        if self.connections.len() <= index {
            self.connections.resize(index + 1, here);
        }
        if let Some(place) = self.connections.get_mut(index) {
            *place = here;
        }
        let (keyed, connections) = (self.keyed, &self.connections);
        let hash = flow.keyed_hash(&keyed);
        self.here.insert_unique(hash, id.index, |index| {
            let here = connections.get(*index as usize);
            here.map_or(0, |here| here.flow.keyed_hash(&keyed))
        });
    }

    pub(super) fn remove(&mut self, flow: &Packed) -> Option<Entry> {
        if let Some(entry) = self.remove_here(flow) {
            return Some(entry);
        }
        let old = self.entries.remove(flow);
        self.account(old, None);
        old
    }

    fn remove_here(&mut self, flow: &Packed) -> Option<Entry> {
        let entry = self.get(flow);
        let Some(Entry::Connection(id) | Entry::Fenced(id)) = entry else {
            return None;
        };
        let hash = self.hash(flow);
        if let Ok(found) = self.here.find_entry(hash, |index| *index == id.index) {
            found.remove();
        }
        if let Some(here) = self.connections.get_mut(id.index as usize) {
            here.live = false;
        }
        entry
    }

    fn account(&mut self, old: Option<Entry>, new: Option<Entry>) {
        let asked = |entry| matches!(entry, Some(Entry::Hold { asked: true }));
        self.asked = self.asked + usize::from(asked(new)) - usize::from(asked(old));
    }

    /// Note that a frame was forwarded.
    pub(super) fn touch(&mut self, flow: &Packed, now: Instant) {
        if let Some(Entry::Forward { used, .. }) = self.entries.get_mut(flow) {
            *used = now;
        }
    }

    /// Make an unknown flow a held one that was asked about.
    pub(super) fn ask(&mut self, now: Instant, flow: Packed) -> Result<(), HoldError> {
        if self.asked >= MAX_ASKED {
            return Err(HoldError::TooManyAsked);
        }
        self.set(flow, Entry::Hold { asked: true });
        // The queue is there from the start: it carries the question's deadline.
        self.arm(now, flow, ASK);
        Ok(())
    }

    /// Hold a frame.
    pub(super) fn hold(&mut self, now: Instant, flow: Packed, held: Held) -> Result<(), HoldError> {
        let cost = cost(&held.frame);
        let queue = self.queue(&flow);
        let (frames, octets) = queue.map_or((0, 0), |queue| (queue.frames.len(), queue.octets));
        if self.octets + cost > self.most
            || octets + cost > MAX_HELD_OCTETS
            || frames >= MAX_HELD_FRAMES
        {
            return Err(HoldError::Full);
        }
        if let Some(queue) = self.arm(now, flow, HOLD) {
            queue.octets += cost;
            queue.frames.push_back(held);
            self.octets += cost;
        }
        Ok(())
    }

    fn queue(&self, flow: &Packed) -> Option<&Queue> {
        self.queues.get(*self.held.get(flow)?)
    }

    /// The queue of a flow, with a deadline `limit` from its start, or sooner.
    fn arm(&mut self, now: Instant, flow: Packed, limit: Duration) -> Option<&mut Queue> {
        let number = *self.held.entry(flow).or_insert_with(|| {
            self.queues.insert(Queue {
                flow,
                frames: VecDeque::new(),
                octets: 0,
                since: now,
                armed: None,
            })
        });
        let queue = self.queues.get_mut(number)?;
        let due = queue.since + limit;
        self.timers.arm(&mut queue.armed, number, due);
        Some(queue)
    }

    /// The frames held for a flow, in their order.
    pub(super) fn held(&self, flow: &Packed) -> impl Iterator<Item = &RxFrame> {
        let queue = self.queue(flow).into_iter();
        queue.flat_map(|queue| queue.frames.iter().map(|held| &held.frame))
    }

    /// Take out the frames held for a flow.
    pub(super) fn take_held(&mut self, flow: &Packed) -> VecDeque<Held> {
        let number = self.held.remove(flow);
        let queue = number.and_then(|number| Some((number, self.queues.remove(number)?)));
        let Some((number, mut queue)) = queue else {
            return VecDeque::new();
        };
        self.timers.disarm(&mut queue.armed, number);
        self.octets = self.octets.saturating_sub(queue.octets);
        queue.frames
    }

    /// Drop what was held for too long: the number of frames of one queue whose time is over.
    /// A flow that was only asked about is forgotten with its frames.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<usize> {
        loop {
            let number = self.timers.pop_due(now)?;
            let Some(queue) = self.queues.get_mut(number) else {
                continue;
            };
            queue.armed = None;
            let (flow, due) = (queue.flow, queue.since + HOLD);
            if self.get(&flow) == Some(Entry::Hold { asked: true }) {
                self.remove(&flow);
            } else if due > now {
                // The question was answered with "hold": the frames have their full time.
                self.arm(now, flow, HOLD);
                continue;
            }
            return Some(self.take_held(&flow).len());
        }
    }

    /// When [`Flows::handle_timeout`] is next due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }
}

/// The flow of a segment from `remote` to `local`.
pub(super) fn flow(local: (IpAddr, u16), remote: (IpAddr, u16)) -> FlowKey {
    FlowKey {
        local: SocketAddr::new(local.0, local.1),
        remote: SocketAddr::new(remote.0, remote.1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Flows {
        Flows::new(Keyed::new([3, 4]), usize::MAX)
    }

    fn key(port: u16) -> Packed {
        let remote = (IpAddr::from([10, 0, 0, 1]), port);
        Packed::new(&flow((IpAddr::from([10, 0, 0, 2]), 80), remote))
    }

    fn held(length: usize) -> Held {
        Held {
            frame: RxFrame::new(vec![0; length]),
            injected: false,
        }
    }

    #[test]
    fn ends_are_told_apart_by_address_port_and_direction() {
        let a = (IpAddr::from([10, 0, 0, 1]), 1);
        let b = (IpAddr::from([10, 0, 0, 2]), 2);
        let base = Packed::new(&flow(a, b));
        assert_ne!(base, Packed::new(&flow(b, a)));
        assert_ne!(base, Packed::new(&flow((a.0, 2), b)));
        assert_ne!(base, Packed::new(&flow(a, (a.0, 2))));
        assert_eq!(base, Packed::new(&flow(a, b)));
        let keyed = Keyed::new([1, 2]);
        let hash = |a, b| Packed::new(&flow(a, b)).keyed_hash(&keyed);
        let hashes = [
            hash(a, b),
            hash(b, a),
            hash((a.0, 2), b),
            hash(a, (b.0, 9)),
            hash(a, a),
            hash(b, b),
        ];
        for (index, one) in hashes.iter().enumerate() {
            assert!(!hashes[..index].contains(one));
        }
    }

    #[test]
    fn one_flow_and_all_flows_together_are_bounded() {
        let mut flows = table();
        let mut taken = 0;
        while flows.hold(Instant::ZERO, key(1), held(60_000)).is_ok() {
            taken += 1;
        }
        assert_eq!(taken, MAX_HELD_OCTETS / 60_000);
        let mut port = 2;
        while flows.hold(Instant::ZERO, key(port), held(10)).is_ok() {
            port += 1;
        }
        assert!(flows.octets <= MAX_HELD_TOTAL);
        assert!(usize::from(port) < MAX_HELD_TOTAL / MIN_FRAME_COST);
        for port in 1..=port {
            flows.take_held(&key(port));
        }
        assert_eq!(flows.octets, 0);
    }

    #[test]
    fn questions_are_bounded_and_lapse() {
        let mut flows = table();
        for port in 0..MAX_ASKED as u16 {
            flows.ask(Instant::ZERO, key(port)).unwrap();
            flows.hold(Instant::ZERO, key(port), held(60)).unwrap();
        }
        let refused = flows.ask(Instant::ZERO, key(60_000));
        assert_eq!(refused, Err(HoldError::TooManyAsked));
        // One question is answered in time; the others lapse, and their frames go with them.
        flows.set(key(5), Entry::Hold { asked: false });
        let due = flows.poll_timeout().unwrap();
        let mut dropped = 0;
        while let Some(count) = flows.handle_timeout(due) {
            dropped += count;
        }
        assert_eq!(dropped, MAX_ASKED - 1);
        assert_eq!(flows.asked, 0);
        assert_eq!(flows.get(&key(4)), None);
        assert_eq!(flows.take_held(&key(5)).len(), 1);
        assert_eq!(flows.octets, 0);
    }

    #[test]
    fn a_deadline_does_not_hit_the_queue_that_came_after() {
        let mut flows = table();
        flows.hold(Instant::ZERO, key(1), held(60)).unwrap();
        assert_eq!(flows.take_held(&key(1)).len(), 1);
        let later = Instant::from_millis(2_000);
        flows.hold(later, key(1), held(60)).unwrap();
        assert_eq!(flows.handle_timeout(Instant::ZERO + HOLD), None);
        assert_eq!(flows.handle_timeout(later + HOLD), Some(1));
    }

    #[test]
    fn a_small_machine_holds_less() {
        let mut flows = Flows::new(Keyed::new([3, 4]), 100_000);
        let held_octets = |flows: &mut Flows| {
            let mut port = 1;
            while flows.hold(Instant::ZERO, key(port), held(10_000)).is_ok() {
                port += 1;
            }
            flows.octets
        };
        assert_eq!(held_octets(&mut flows), 100_000);
    }
}
