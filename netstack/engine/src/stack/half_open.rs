//! The table of half-open connections. It is bounded, and when it is full, one that its peer's ACK would bring
//! back (a SYN cookie) can make way: the oldest.

use alloc::boxed::Box;

use super::flows::Packed;
use super::slots::Slots;
use super::timers::Timers;
use super::{FlowKey, ListenerId};
use crate::tcp::listen::HalfOpen;
use crate::tcp::segment::Segment;
use crate::time::Instant;

/// How many are looked at for one that can make way.
const LOOKED_AT: usize = 64;

/// A half-open connection and what the stack keeps about it.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) half_open: HalfOpen,
    pub(super) flow: FlowKey,
    pub(super) packed: Packed,
    pub(super) listener: ListenerId,
    pub(super) armed: Option<Instant>,
    /// Its neighbours in the order of age.
    older: Option<u64>,
    newer: Option<u64>,
    /// What would complete a handshake, if no other instance has, and when that was asked.
    pub(super) doubtful: Option<Box<Doubtful>>,
    pub(super) asked: Option<Instant>,
}

/// A segment that would complete a handshake.
#[derive(Debug)]
pub(super) struct Doubtful {
    /// That of another SYN between the same ends, by the cookie; else the one that is half open here.
    pub(super) other: Option<HalfOpen>,
    pub(super) segment: Segment,
}

/// The table of half-open connections, which are in a list by age.
///
/// What is changed in `pending` may change when it is due: [`HalfOpenTable::arm`].
#[derive(Debug)]
pub(super) struct HalfOpenTable {
    pub(super) pending: Slots<Pending>,
    pub(super) timers: Timers,
    oldest: Option<u64>,
    newest: Option<u64>,
}

impl Pending {
    pub(super) fn new(
        half_open: HalfOpen,
        flow: FlowKey,
        packed: Packed,
        listener: ListenerId,
    ) -> Pending {
        Pending {
            half_open,
            flow,
            packed,
            listener,
            armed: None,
            older: None,
            newer: None,
            doubtful: None,
            asked: None,
        }
    }
}

impl HalfOpenTable {
    pub(super) fn new() -> HalfOpenTable {
        HalfOpenTable {
            pending: Slots::new(),
            timers: Timers::new(),
            oldest: None,
            newest: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    pub(super) fn insert(&mut self, pending: Pending) -> u64 {
        let older = self.newest;
        let number = self.pending.insert(Pending { older, ..pending });
        *self.newer_than(older) = Some(number);
        self.newest = Some(number);
        number
    }

    /// Where the list goes on behind one of them, or begins.
    fn newer_than(&mut self, older: Option<u64>) -> &mut Option<u64> {
        match older.and_then(|older| self.pending.get_mut(older)) {
            Some(older) => &mut older.newer,
            None => &mut self.oldest,
        }
    }

    /// The same, from the other end.
    fn older_than(&mut self, newer: Option<u64>) -> &mut Option<u64> {
        match newer.and_then(|newer| self.pending.get_mut(newer)) {
            Some(newer) => &mut newer.older,
            None => &mut self.newest,
        }
    }

    pub(super) fn arm(&mut self, number: u64) {
        if let Some(pending) = self.pending.get_mut(number) {
            let due = pending.half_open.poll_timeout();
            self.timers.arm(&mut pending.armed, number, due);
        }
    }

    /// Whether one that is still half open may answer once more.
    pub(super) fn may_answer(&mut self, now: Instant, number: u64) -> bool {
        let pending = self.pending.get_mut(number);
        pending.is_some_and(|pending| pending.half_open.may_answer(now))
    }

    /// The oldest that its own ACK would bring back, if one is found soon.
    pub(super) fn oldest_cookie(&self) -> Option<u64> {
        let mut next = self.oldest;
        for _ in 0..LOOKED_AT {
            let pending = self.pending.get(next?)?;
            if pending.half_open.is_cookie() {
                return next;
            }
            next = pending.newer;
        }
        None
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<Pending> {
        let mut pending = self.pending.remove(number)?;
        *self.newer_than(pending.older) = pending.newer;
        *self.older_than(pending.newer) = pending.older;
        self.timers.disarm(&mut pending.armed, number);
        Some(pending)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::super::flows::flow;
    use super::*;
    use crate::tcp::isn::InitialNumbers;
    use crate::tcp::{Flags, TcpConfig};

    /// One from a port, whether or not its peer's ACK brings it back.
    fn pending(port: u16, is_cookie: bool) -> Pending {
        let flow = flow(([10, 0, 0, 1].into(), 80), ([10, 0, 0, 2].into(), port));
        let numbers = InitialNumbers::new([3; 32]);
        let syn = Segment {
            flags: Flags::SYN,
            ..Segment::default()
        };
        let on_syn = |above| {
            let config = TcpConfig::default();
            HalfOpen::on_syn(Instant::ZERO, &config, &numbers, flow, 1500, &syn, above)
        };
        let mut half_open = on_syn(None);
        if !is_cookie {
            half_open = on_syn(Some(half_open.cookie().iss));
        }
        assert_eq!(half_open.is_cookie(), is_cookie);
        Pending::new(half_open, flow, Packed::new(&flow), ListenerId(0))
    }

    proptest! {
        /// They come and go in any order.
        #[test]
        fn the_oldest_cookie_is_found(steps in proptest::collection::vec(any::<(u8, bool)>(), 1..300)) {
            let mut table = HalfOpenTable::new();
            let mut model: Vec<(u64, bool)> = Vec::new();
            for (port, (what, is_cookie)) in steps.into_iter().enumerate() {
                if what < 140 || model.is_empty() {
                    let number = table.insert(pending(port as u16, is_cookie));
                    table.arm(number);
                    model.push((number, is_cookie));
                } else {
                    let (number, _) = model.remove(usize::from(what) % model.len());
                    prop_assert!(table.remove(number).is_some());
                    prop_assert!(table.remove(number).is_none());
                }
                let mut looked_at = model.iter().take(LOOKED_AT);
                let oldest = looked_at.find(|(_, is_cookie)| *is_cookie);
                prop_assert_eq!(table.oldest_cookie(), oldest.map(|(number, _)| *number));
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(table.poll_timeout().is_some(), !model.is_empty());
            }
        }
    }
}
