//! The neighbour table: which MAC address a next hop has, and what waits to know it.
//!
//! One table for ARP and NDP, with the states of RFC 4861 section 7.3.2 in short form. Its size,
//! the frames that wait and the questions asked are bounded. It sends nothing itself: it says
//! whom to ask ([`Solicit`]).

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::cell::Cell;
use hashbrown::HashMap;

use super::addresses::Hop;
use super::frame::TxFrame;
use super::hash::Keyed;
use super::timers::Timers;
use super::{ConnId, MacAddr};
use crate::time::{Duration, Instant};

/// Neighbours kept at most.
const MAX_NEIGHBOURS: usize = 1024;
/// Frames that wait for one neighbour at most.
const MAX_WAITING: usize = 16;
/// Frames that wait for all neighbours together at most.
const MAX_WAITING_TOTAL: usize = 512;
/// How long an answer is believed without asking again.
const REACHABLE: Duration = Duration::from_secs(30);
/// Time between two questions.
const RETRY: Duration = Duration::from_secs(1);
/// The first question is repeated sooner: a lost one must not cost a client a second.
const FIRST_RETRY: Duration = Duration::from_millis(250);
/// Questions asked before giving up.
const TRIES: u8 = 3;
/// How long a neighbour that did not answer is not asked again.
const FAILED: Duration = Duration::from_secs(1);

/// Whom to ask for its MAC address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Solicit {
    /// The neighbour.
    pub(super) hop: Hop,
    /// Its MAC address of old, to be asked at directly; otherwise everyone is asked.
    pub(super) at: Option<MacAddr>,
}

/// What is known of a next hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Resolution {
    /// Its MAC address.
    Known(MacAddr),
    /// Being asked for.
    Pending,
    /// It did not answer, or the table is full.
    Failed,
}

/// What was waiting for a neighbour and can go on.
#[derive(Debug, Default)]
pub(super) struct Released {
    pub(super) frames: VecDeque<TxFrame>,
    pub(super) connections: Vec<ConnId>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Asked for, not known.
    Incomplete { tries: u8 },
    /// Known; believed until the given time, asked for again at the next use after it.
    Reachable { mac: MacAddr, until: Instant },
    /// Known of old and being asked for again.
    Probing { mac: MacAddr, tries: u8 },
    /// Did not answer.
    Failed { until: Instant },
}

#[derive(Debug)]
struct Neighbour {
    hop: Hop,
    state: State,
    armed: Option<Instant>,
    /// Used since the replacement hand last passed.
    used: bool,
    waiting: Released,
}

/// The table.
#[derive(Debug)]
pub(super) struct Neighbours {
    index: HashMap<Hop, u32, Keyed>,
    slots: Vec<Neighbour>,
    /// The slot that was asked for last: mostly it is a router, again and again.
    last: Cell<u32>,
    hand: usize,
    waiting: usize,
    timers: Timers,
}

impl Neighbours {
    pub(super) fn new(keyed: Keyed) -> Neighbours {
        Neighbours {
            index: HashMap::with_hasher(keyed),
            slots: Vec::new(),
            last: Cell::new(0),
            hand: 0,
            waiting: 0,
            timers: Timers::new(),
        }
    }

    /// The MAC address of `hop`, and whom to ask now. Using an entry that has gone stale asks
    /// its owner again while its old answer stays in use.
    pub(super) fn resolve(&mut self, now: Instant, hop: Hop) -> (Resolution, Option<Solicit>) {
        let Some(slot) = self.slot(hop) else {
            let state = State::Incomplete { tries: 1 };
            let Some(slot) = self.insert(hop, state) else {
                return (Resolution::Failed, None);
            };
            self.arm(slot, now + FIRST_RETRY);
            return (Resolution::Pending, Some(Solicit { hop, at: None }));
        };
        let Some(neighbour) = self.slots.get_mut(slot as usize) else {
            return (Resolution::Failed, None);
        };
        neighbour.used = true;
        match neighbour.state {
            State::Incomplete { .. } => (Resolution::Pending, None),
            State::Probing { mac, .. } => (Resolution::Known(mac), None),
            State::Reachable { mac, until } if now < until => (Resolution::Known(mac), None),
            State::Reachable { mac, .. } => {
                neighbour.state = State::Probing { mac, tries: 1 };
                self.arm(slot, now + RETRY);
                let at = Some(mac);
                (Resolution::Known(mac), Some(Solicit { hop, at }))
            }
            State::Failed { until } if now < until => (Resolution::Failed, None),
            State::Failed { .. } => {
                neighbour.state = State::Incomplete { tries: 1 };
                self.arm(slot, now + FIRST_RETRY);
                (Resolution::Pending, Some(Solicit { hop, at: None }))
            }
        }
    }

    /// The MAC address of `hop` if it is known, without asking.
    pub(super) fn peek(&self, hop: Hop) -> Option<MacAddr> {
        match self.slots.get(self.slot(hop)? as usize)?.state {
            State::Reachable { mac, .. } | State::Probing { mac, .. } => Some(mac),
            State::Incomplete { .. } | State::Failed { .. } => None,
        }
    }

    /// Let a frame wait for a neighbour being asked for. False, and the frame is lost, if there is
    /// no room.
    pub(super) fn wait_frame(&mut self, hop: Hop, frame: TxFrame) -> bool {
        let slot = self.slot(hop);
        let Some(neighbour) = slot.and_then(|slot| self.slots.get_mut(slot as usize)) else {
            return false;
        };
        if self.waiting >= MAX_WAITING_TOTAL || neighbour.waiting.frames.len() >= MAX_WAITING {
            return false;
        }
        neighbour.waiting.frames.push_back(frame);
        self.waiting += 1;
        true
    }

    /// Let a connection wait for a neighbour being asked for.
    pub(super) fn wait_connection(&mut self, hop: Hop, conn: ConnId) {
        let slot = self.slot(hop);
        if let Some(neighbour) = slot.and_then(|slot| self.slots.get_mut(slot as usize)) {
            neighbour.waiting.connections.push(conn);
        }
    }

    /// The neighbour said where it is. Unless `create`, only an entry already there takes note.
    /// Returns what waited for it.
    pub(super) fn learn(
        &mut self,
        now: Instant,
        hop: Hop,
        mac: MacAddr,
        create: bool,
    ) -> Option<Released> {
        let state = State::Reachable {
            mac,
            until: now + REACHABLE,
        };
        self.learn_as(hop, state, create)
    }

    /// Someone trusted says where the neighbour is; believed until it answers for itself, and only
    /// where nothing is known yet. Returns what waited for it.
    pub(super) fn hint(&mut self, now: Instant, hop: Hop, mac: MacAddr) -> Option<Released> {
        if self.peek(hop).is_some() {
            return None;
        }
        // Stale from the start: its first use asks the neighbour itself.
        self.learn_as(hop, State::Reachable { mac, until: now }, true)
    }

    fn learn_as(&mut self, hop: Hop, state: State, create: bool) -> Option<Released> {
        let slot = match self.slot(hop) {
            Some(slot) => slot,
            None if create => {
                self.insert(hop, state)?;
                return None;
            }
            None => return None,
        };
        let neighbour = self.slots.get_mut(slot as usize)?;
        neighbour.state = state;
        self.timers.disarm(&mut neighbour.armed, slot.into());
        Some(self.release(slot))
    }

    /// Fire one deadline that is due: whom to ask again, or what waited in vain for a neighbour
    /// that does not answer.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<Result<Solicit, Released>> {
        loop {
            let slot = self.timers.pop_due(now)? as u32;
            let Some(neighbour) = self.slots.get_mut(slot as usize) else {
                continue;
            };
            neighbour.armed = None;
            let hop = neighbour.hop;
            let (state, at) = match neighbour.state {
                State::Incomplete { tries } if tries < TRIES => {
                    (State::Incomplete { tries: tries + 1 }, None)
                }
                State::Incomplete { .. } => {
                    neighbour.state = State::Failed {
                        until: now + FAILED,
                    };
                    return Some(Err(self.release(slot)));
                }
                State::Probing { mac, tries } if tries < TRIES => {
                    let tries = tries + 1;
                    (State::Probing { mac, tries }, Some(mac))
                }
                // It may have a new MAC address: ask everyone.
                State::Probing { .. } => (State::Incomplete { tries: 1 }, None),
                State::Reachable { .. } | State::Failed { .. } => continue,
            };
            neighbour.state = state;
            self.arm(slot, now + RETRY);
            return Some(Ok(Solicit { hop, at }));
        }
    }

    /// The earliest deadline.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Whether a new neighbour needs another one's room.
    pub(super) fn is_full(&self) -> bool {
        self.slots.len() >= MAX_NEIGHBOURS
    }

    fn slot(&self, hop: Hop) -> Option<u32> {
        let last = self.last.get();
        let neighbour = self.slots.get(last as usize);
        if neighbour.is_some_and(|neighbour| neighbour.hop == hop) {
            return Some(last);
        }
        let slot = self.index.get(&hop).copied()?;
        self.last.set(slot);
        Some(slot)
    }

    fn arm(&mut self, slot: u32, due: Instant) {
        if let Some(neighbour) = self.slots.get_mut(slot as usize) {
            self.timers.disarm(&mut neighbour.armed, slot.into());
            self.timers.arm(&mut neighbour.armed, slot.into(), due);
        }
    }

    fn release(&mut self, slot: u32) -> Released {
        let neighbour = self.slots.get_mut(slot as usize);
        let released = neighbour.map(|n| core::mem::take(&mut n.waiting));
        let released = released.unwrap_or_default();
        self.waiting = self.waiting.saturating_sub(released.frames.len());
        released
    }

    /// A slot for a new neighbour. In a full table one that nobody waits for and that was not used
    /// lately makes room (second chance).
    fn insert(&mut self, hop: Hop, state: State) -> Option<u32> {
        let neighbour = Neighbour {
            hop,
            state,
            armed: None,
            used: true,
            waiting: Released::default(),
        };
        let slot = if self.slots.len() < MAX_NEIGHBOURS {
            self.slots.push(neighbour);
            self.slots.len() - 1
        } else {
            let slot = self.victim()?;
            let old = self.slots.get_mut(slot)?;
            self.index.remove(&old.hop);
            self.timers.disarm(&mut old.armed, slot as u64);
            *old = neighbour;
            slot
        };
        self.index.insert(hop, slot as u32);
        Some(slot as u32)
    }

    fn victim(&mut self) -> Option<usize> {
        for _ in 0..2 * self.slots.len() {
            let slot = self.hand;
            self.hand = (self.hand + 1) % self.slots.len().max(1);
            let neighbour = self.slots.get_mut(slot)?;
            if matches!(neighbour.state, State::Incomplete { .. }) {
                continue;
            }
            if !core::mem::take(&mut neighbour.used) {
                return Some(slot);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = [2, 0, 0, 0, 0, 1];

    fn table() -> Neighbours {
        Neighbours::new(Keyed::new([1, 2]))
    }

    fn address(i: u32) -> Hop {
        Hop {
            address: core::net::IpAddr::V4((0x0a00_0000 + i).into()),
            interface: Default::default(),
        }
    }

    fn conn(index: u32) -> ConnId {
        ConnId {
            index,
            generation: 0,
        }
    }

    #[test]
    fn frames_wait_in_order_within_bounds_and_leave_with_the_answer() {
        let mut table = table();
        let now = Instant::ZERO;
        let (resolution, solicit) = table.resolve(now, address(1));
        assert_eq!(resolution, Resolution::Pending);
        assert_eq!(solicit.map(|s| s.at), Some(None), "everyone is asked");
        assert_eq!(table.resolve(now, address(1)), (Resolution::Pending, None));
        for i in 0..MAX_WAITING {
            let mut frame = TxFrame::default();
            frame.head.push(i as u8);
            assert!(table.wait_frame(address(1), frame));
        }
        assert!(!table.wait_frame(address(1), TxFrame::default()));
        table.wait_connection(address(1), conn(4));
        let released = table.learn(now, address(1), MAC, false).unwrap();
        let order: Vec<u8> = released.frames.iter().map(|f| f.head[0]).collect();
        assert_eq!(order, (0..MAX_WAITING as u8).collect::<Vec<_>>());
        assert_eq!(released.connections, [conn(4)]);
        assert_eq!(table.waiting, 0);
        assert_eq!(table.poll_timeout(), None);
    }

    #[test]
    fn a_silent_neighbour_is_asked_thrice_then_fails_for_a_while() {
        let mut table = table();
        table.resolve(Instant::ZERO, address(1));
        let mut asked = 1;
        let failed_at = loop {
            let due = table.poll_timeout().unwrap();
            match table.handle_timeout(due) {
                Some(Ok(solicit)) => {
                    assert_eq!(solicit.at, None);
                    asked += 1;
                }
                Some(Err(_)) => break due,
                None => panic!("a due deadline did nothing"),
            }
        };
        assert_eq!(asked, TRIES);
        assert_eq!(
            table.resolve(failed_at, address(1)),
            (Resolution::Failed, None)
        );
        let (resolution, solicit) = table.resolve(failed_at + FAILED, address(1));
        assert_eq!(resolution, Resolution::Pending);
        assert!(solicit.is_some());
    }

    #[test]
    fn a_stale_answer_stays_in_use_while_its_owner_is_asked_directly() {
        let mut table = table();
        table.learn(Instant::ZERO, address(1), MAC, true);
        let later = Instant::ZERO + REACHABLE;
        let (resolution, solicit) = table.resolve(later, address(1));
        assert_eq!(resolution, Resolution::Known(MAC));
        assert_eq!(solicit.and_then(|s| s.at), Some(MAC));
        assert_eq!(
            table.resolve(later, address(1)).1,
            None,
            "asked once per second"
        );
    }

    #[test]
    fn a_hint_serves_until_the_neighbour_answers_and_never_overrides_it() {
        let mut table = table();
        let other = [2, 0, 0, 0, 0, 9];
        table.resolve(Instant::ZERO, address(1));
        assert!(table.wait_frame(address(1), TxFrame::default()));
        let released = table.hint(Instant::ZERO, address(1), MAC).unwrap();
        assert_eq!(released.frames.len(), 1);
        let (resolution, solicit) = table.resolve(Instant::ZERO, address(1));
        assert_eq!(resolution, Resolution::Known(MAC));
        assert_eq!(solicit.and_then(|s| s.at), Some(MAC));
        table.learn(Instant::ZERO, address(1), other, false);
        table.hint(Instant::ZERO, address(1), MAC);
        assert_eq!(table.peek(address(1)), Some(other));
    }

    #[test]
    fn a_flood_of_neighbours_stays_within_the_table() {
        let mut table = table();
        for i in 0..3 * MAX_NEIGHBOURS as u32 {
            table.learn(Instant::ZERO, address(i), MAC, true);
        }
        assert_eq!(table.slots.len(), MAX_NEIGHBOURS);
        assert_eq!(table.index.len(), MAX_NEIGHBOURS);
        // All slots being asked for: nothing makes room, and the newcomer fails.
        let mut table = self::table();
        for i in 0..MAX_NEIGHBOURS as u32 {
            table.resolve(Instant::ZERO, address(i));
        }
        let (resolution, solicit) = table.resolve(Instant::ZERO, address(9_999_999));
        assert_eq!((resolution, solicit), (Resolution::Failed, None));
    }

    #[test]
    fn gratuitous_news_about_strangers_is_ignored() {
        let mut table = table();
        assert!(table.learn(Instant::ZERO, address(1), MAC, false).is_none());
        assert_eq!(table.peek(address(1)), None);
    }
}
