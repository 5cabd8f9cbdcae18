//! Sessions given away unasked: the figures the policy looks at, and the sessions it is given.

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Bound::{Excluded, Unbounded};

use super::{Instance, MoveError};
use crate::cluster::MemberId;
use crate::cluster::balance::{Intent, Other, Own, Policy, PolicyConfig, SETTLED, Trigger, View};
use crate::cluster::members::Member;
use crate::session::{Session, SessionId};
use crate::time::{Duration, Instant};

/// Time between two looks: a look goes through all sessions.
const LOOK: Duration = Duration::from_secs(1);
/// The same while no trigger acts.
const IDLE_LOOK: Duration = Duration::from_secs(5);

/// What a trigger sees and would do.
#[derive(Clone, Debug)]
pub struct TriggerStatus {
    /// The trigger.
    pub trigger: Trigger,
    /// It acts (or logs, in a dry run); else it only tells.
    pub enabled: bool,
    /// The figures it looked at.
    pub sees: String,
    /// What is wrong, if anything is.
    pub wrong: Option<&'static str>,
    /// What it would move, were it to act now.
    pub would_move: Vec<(MemberId, u32)>,
    /// It has been wrong for long enough to act.
    pub due: bool,
}

/// What the policy sees and would do.
#[derive(Clone, Debug)]
pub struct PolicyStatus {
    /// Nothing is moved, only logged.
    pub dry_run: bool,
    /// Every trigger there is, the most urgent first.
    pub triggers: Vec<TriggerStatus>,
}

/// The counter of sessions a trigger has moved, and that of those it would have in a dry run.
fn counters(trigger: Trigger) -> (&'static str, &'static str) {
    match trigger {
        Trigger::Health => ("policy_health_moves", "policy_health_dry"),
        Trigger::Flood => ("policy_flood_moves", "policy_flood_dry"),
        Trigger::Load => ("policy_load_moves", "policy_load_dry"),
    }
}

impl Instance {
    /// Give sessions away by this policy from now on. Without this call none is.
    pub fn set_policy(&mut self, config: PolicyConfig) {
        self.policy = Policy::new(config);
    }

    /// What the policy sees, and would do.
    pub fn policy_status(&self) -> PolicyStatus {
        let triggers = self.policy.findings().map(|(trigger, enabled, finding)| {
            let finding = finding.clone();
            TriggerStatus {
                trigger,
                enabled,
                sees: finding.sees,
                wrong: finding.wrong,
                would_move: finding.moves,
                due: finding.due,
            }
        });
        PolicyStatus {
            dry_run: self.policy.config().dry_run,
            triggers: triggers.collect(),
        }
    }

    /// Whether `session` could be moved to `to` now: what [`Instance::move_session`] would say,
    /// without doing it.
    pub fn may_move(
        &self,
        now: Instant,
        session: SessionId,
        to: MemberId,
    ) -> Result<(), MoveError> {
        if self.moving.contains_key(&session) {
            return Err(MoveError::NotMovable);
        }
        let session = self.sessions.get(&session).ok_or(MoveError::NoSession)?;
        if !self.is_movable(session) || session.wanted.is_some() {
            return Err(MoveError::NotMovable);
        }
        match self.members.get(to) {
            None => Err(MoveError::NoMember),
            Some(member) if member.is_there(now, self.members.stale()) => Ok(()),
            Some(_) => Err(MoveError::Unreachable),
        }
    }

    /// Whether the policy may take this one.
    fn may_be_shed(&self, now: Instant, session: &Session) -> bool {
        let settled = |arrived| now.since(arrived) >= SETTLED;
        self.is_movable(session)
            && session.wanted.is_none()
            && session.finished.is_none()
            && session.arrived.is_none_or(settled)
            && session.movable_at(now) <= now
    }

    fn view(&self, now: Instant) -> View {
        let mut own = Own {
            leaving: self.moving.len() as u32,
            half_open: self.stack.half_open_count() as u32,
            half_open_limit: self.tcp.max_half_open,
            syns: self.stack.syn_count(),
            pressure: self.stack.pressure(),
            ..Own::default()
        };
        for session in self.sessions.values() {
            match session.wanted {
                Some(_) => own.leaving += 1,
                None => own.staying += u32::from(self.is_movable(session)),
            }
            own.movable += u32::from(self.may_be_shed(now, session));
        }
        let stale = self.members.stale();
        let version = self.state_version();
        // A member of an older release would refuse whatever has been committed here, again and again.
        let reads = |member: &Member| member.heartbeat.is_some_and(|beat| beat.version >= version);
        let takes = self.members.iter();
        let takes = takes.filter(|m| m.takes_sessions(now, stale) && reads(m));
        let other = |member: &Member| Other {
            id: member.id,
            load: member.load(),
            room: member
                .heartbeat
                .map_or(0, |beat| beat.room.saturating_sub(member.given)),
        };
        View {
            own,
            others: takes.map(other).collect(),
        }
    }

    /// Look at the figures, and give away what the policy says.
    pub(super) fn run_policy(&mut self, now: Instant) {
        if self.policy_at > now || self.is_draining() || self.is_witness() {
            return;
        }
        let acts = !self.policy.config().triggers.is_empty();
        self.policy_at = now + if acts { LOOK } else { IDLE_LOOK };
        let view = self.view(now);
        let Some(intent) = self.policy.look(now, &view) else {
            return;
        };
        let dry = self.policy.config().dry_run;
        let would = if dry { " (dry run: nothing moves)" } else { "" };
        for (to, count) in &intent.moves {
            let reason = &intent.reason;
            log::info!(target: "policy", "{}: {count} sessions to member {to}, {reason}{would}", intent.trigger);
        }
        self.carry_out(now, &intent, dry);
    }

    fn carry_out(&mut self, now: Instant, intent: &Intent, dry: bool) {
        let (moved, would) = counters(intent.trigger);
        let count: u32 = intent.moves.iter().map(|(_, count)| *count).sum();
        if dry {
            self.counters.add_many(would, count.into());
            return;
        }
        let may = |ours: &Instance, session: &Session| ours.may_be_shed(now, session);
        let mut chosen = self.choose_to_give(count as usize, &may).into_iter();
        for (to, count) in &intent.moves {
            for session in chosen.by_ref().take(*count as usize) {
                if self.move_session(now, session, *to).is_ok() {
                    self.counters.add(moved);
                    if let Some(member) = self.members.get_mut(*to) {
                        member.given += 1;
                    }
                }
            }
        }
    }

    /// Sessions to give away among those that may be, beginning where the last choice ended: every one has
    /// its turn.
    pub(super) fn choose_to_give(
        &mut self,
        count: usize,
        may: &dyn Fn(&Instance, &Session) -> bool,
    ) -> Vec<SessionId> {
        let start = self.given_after.map_or(Unbounded, Excluded);
        let first = self.sessions.range((start, Unbounded));
        let after = first.chain(self.sessions.values());
        let mut chosen: Vec<SessionId> = after
            .take(self.sessions.len())
            .filter(|session| may(self, session))
            .map(|session| session.id)
            .take(count)
            .collect();
        chosen.dedup();
        self.given_after = chosen.last().copied();
        chosen
    }
}
