//! Without a link to the clients.
//!
//! Where the instances have a network of their own, an instance whose clients cannot reach it is still there for
//! the others: it votes, and would stay the ingress and keep its sessions for as long as it lives. So it says in
//! its heartbeats that it is not well, which keeps new flows, sessions and the role away, and when that has
//! lasted for a moment it hands on what it has to those who are. If nobody is, it keeps all of it.

use super::Instance;
use super::drain::SUCCESSOR;
use crate::cluster::members::Wanted;
use crate::session::Session;
use crate::time::{Duration, Instant};

/// A link that is gone for less is none of our business: a switch that learns, a cable that is put in elsewhere.
const PATIENCE: Duration = Duration::from_millis(500);
/// Time between two looks at what is still here.
const LOOK: Duration = Duration::from_secs(1);
/// Sessions given away in one look at most: the rest has its turn.
const GIVEN: usize = 1024;

/// Since when there is no link.
#[derive(Clone, Copy, Debug)]
pub(super) struct CutOff {
    look_at: Instant,
}

impl CutOff {
    pub(super) fn poll_timeout(&self) -> Instant {
        self.look_at
    }
}

impl Instance {
    /// Say whether the NIC of the service network has a link; as long as nobody says so, it has. Only for an
    /// instance that reaches the others through another one: else they notice by themselves.
    pub fn set_service_link(&mut self, now: Instant, up: bool) {
        if up != self.is_cut_off() {
            return;
        }
        // The drive loop looks at the cards before anything else.
        self.look_at_lease(now);
        let look_at = now + PATIENCE;
        self.cut_off = (!up).then_some(CutOff { look_at });
        self.counters.add(match up {
            true => "service_link_up",
            false => "service_link_down",
        });
        let draining = self.is_draining();
        if let Some(election) = &mut self.election {
            election.set_eligible(up && !draining);
        }
        self.beat(now);
        self.pump(now);
    }

    /// Whether clients cannot reach this instance, nor it them.
    pub fn is_cut_off(&self) -> bool {
        self.cut_off.is_some()
    }

    /// Hand on the role and the sessions, if this has lasted.
    pub(super) fn run_cut_off(&mut self, now: Instant) {
        let Some(cut_off) = self.cut_off.as_mut().filter(|c| c.look_at <= now) else {
            return;
        };
        cut_off.look_at = now + LOOK;
        // A drain does the same.
        if self.is_draining() || self.election.is_none() {
            return;
        }
        if self.acts_as_ingress(now)
            && let Some(successor) = self.members.choose(now, &mut self.rng, SUCCESSOR)
            && self.hand_over(now, successor)
        {
            self.counters.add("ingress_handed_on_cut_off");
            self.run_election(now);
        }
        self.give_away(now);
    }

    fn give_away(&mut self, now: Instant) {
        let movable = |ours: &Instance, session: &Session| {
            ours.is_movable(session) && session.wanted.is_none() && session.movable_at(now) <= now
        };
        // Nobody takes a state of that version, nor of a later one.
        let mut unread = None;
        for id in self.choose_to_give(GIVEN, &movable) {
            let Some(session) = self.sessions.get(&id) else {
                continue;
            };
            let version = session.committed.as_ref().map_or(0, |state| state.0);
            if unread.is_some_and(|unread| version >= unread) {
                continue;
            }
            let wanted = Wanted {
                own: None,
                version,
                voter: false,
            };
            let Some(to) = self.members.choose(now, &mut self.rng, wanted) else {
                unread = Some(version);
                continue;
            };
            if self.move_session(now, id, to).is_ok() {
                self.counters.add("sessions_given_away_cut_off");
                if let Some(member) = self.members.get_mut(to) {
                    member.given += 1;
                }
            }
        }
    }
}
