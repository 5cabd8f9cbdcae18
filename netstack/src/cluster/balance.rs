//! When an instance gives sessions away unasked, how many, and to whom.
//!
//! This is policy, apart from the mechanism: [`Policy`] looks at figures ([`View`]) and says what
//! should be moved ([`Intent`]), with the reason; [`crate::instance`] takes the figures, picks the
//! sessions and moves them. Nothing here does anything, so a dry run is the same code without the
//! last step, and the triggers that are switched off can tell what they would do.
//!
//! A trigger is a [`Look`]: [`Load`], [`Flood`] and [`Health`]. Each has its hysteresis:
//! - it must be true for a while ([`PolicyConfig::hold`]), and again for as long after it has acted;
//! - [`Load`] begins a margin above the mean and ends at the mean, where it can begin for nobody;
//!   of what is missing elsewhere each overloaded member gives its share, so that together they
//!   give no more than that;
//! - [`Flood`] gives to members with half the load at most, [`Health`] to healthy ones;
//! - a session that came from elsewhere is not given away for [`SETTLED`].

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::RangeInclusive;

use super::MemberId;
use crate::tcp::Pressure;
use crate::time::{Duration, Instant};

/// A session that came from elsewhere stays for so long.
pub const SETTLED: Duration = Duration::from_secs(60);
/// Sessions above the mean that are never worth a move.
const SLACK: u32 = 4;
/// Sessions moved by one decision at most.
const MAX_SHED: u32 = 10_000;
/// Memory that is short does not wait for as long as a load that is high.
const URGENT: Duration = Duration::from_secs(1);

/// What makes an instance give sessions away unasked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Trigger {
    /// It has no memory left.
    Health,
    /// More connections are being opened than it can remember.
    Flood,
    /// It has more sessions than the others.
    Load,
}

impl Trigger {
    /// Every trigger, the most urgent first.
    pub const ALL: [Trigger; 3] = [Trigger::Health, Trigger::Flood, Trigger::Load];

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Trigger::Health => "health",
            Trigger::Flood => "flood",
            Trigger::Load => "load",
        }
    }

    /// The trigger of that name.
    pub fn by_name(name: &str) -> Option<Trigger> {
        Trigger::ALL
            .into_iter()
            .find(|trigger| trigger.name() == name)
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which triggers act, and when.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicyConfig {
    /// The triggers that act; the others only tell.
    pub triggers: Vec<Trigger>,
    /// Log what would be moved and move nothing.
    pub dry_run: bool,
    /// [`Trigger::Load`] begins so many percent above the mean of the members.
    pub margin: u32,
    /// A trigger acts when its reason has lasted for so long.
    pub hold: Duration,
    /// So many SYNs a second are a flood.
    pub syn_rate: u32,
}

impl PolicyConfig {
    /// What [`PolicyConfig::margin`] may be, in percent.
    pub const MARGIN: RangeInclusive<u32> = 5..=1000;
    /// What [`PolicyConfig::hold`] may be.
    pub const HOLD: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);
    /// What [`PolicyConfig::syn_rate`] may be, a second.
    pub const SYN_RATE: RangeInclusive<u32> = 10..=10_000_000;
}

impl Default for PolicyConfig {
    fn default() -> PolicyConfig {
        PolicyConfig {
            triggers: Vec::new(),
            dry_run: false,
            margin: 25,
            hold: Duration::from_secs(5),
            syn_rate: 20_000,
        }
    }
}

/// This instance's figures.
#[derive(Clone, Copy, Debug, Default)]
pub struct Own {
    /// Sessions here that are not about to go.
    pub staying: u32,
    /// Sessions on their way to others.
    pub leaving: u32,
    /// Of those that stay, so many may be given away.
    pub movable: u32,
    /// Connections that are being opened.
    pub half_open: u32,
    /// How many of those it can remember.
    pub half_open_limit: u32,
    /// SYNs of new connections so far.
    pub syns: u64,
    /// How short memory is.
    pub pressure: Pressure,
}

/// Another member that takes sessions.
#[derive(Clone, Copy, Debug)]
pub struct Other {
    /// The member.
    pub id: MemberId,
    /// Its sessions, those it is being given, and connections that are being opened there.
    pub load: u32,
    /// Sessions it would still take.
    pub room: u32,
}

/// What triggers look at.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// This instance.
    pub own: Own,
    /// The others; those that are gone, drain, are in need themselves or do not read our states are left out.
    pub others: Vec<Other>,
}

/// What a trigger found.
#[derive(Clone, Debug, Default)]
pub struct Finding {
    /// The figures it looked at.
    pub sees: String,
    /// What is wrong, if anything is.
    pub wrong: Option<&'static str>,
    /// What it would move if it acted now.
    pub moves: Vec<(MemberId, u32)>,
    /// It has been wrong for long enough.
    pub due: bool,
}

/// Give sessions away.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Intent {
    /// Who says so.
    pub trigger: Trigger,
    /// Why.
    pub reason: String,
    /// To whom, and how many.
    pub moves: Vec<(MemberId, u32)>,
}

/// Something that may be a reason to give sessions away. Looked at at every heartbeat.
pub trait Look: fmt::Debug {
    /// What it is called.
    fn trigger(&self) -> Trigger;
    /// Look at the figures.
    fn look(&mut self, now: Instant, config: &PolicyConfig, view: &View) -> Finding;
    /// The moves it found due were begun: it is not due again before they can show.
    fn acted(&mut self, now: Instant);
}

/// Whether something has been so for long enough. It begins and ends at different values.
#[derive(Clone, Copy, Debug, Default)]
struct Lasting {
    since: Option<Instant>,
}

impl Lasting {
    fn note(&mut self, now: Instant, begins: bool, goes_on: bool) {
        let so = begins || (goes_on && self.since.is_some());
        self.since = so.then(|| self.since.unwrap_or(now));
    }

    fn lasts(&self) -> bool {
        self.since.is_some()
    }

    fn for_long(&self, now: Instant, hold: Duration) -> bool {
        self.since.is_some_and(|since| now.since(since) >= hold)
    }

    /// Count anew.
    fn restart(&mut self, now: Instant) {
        self.since = self.since.map(|_| now);
    }
}

/// Divide `count` sessions among members by what each can take; never more than that.
fn spread(count: u32, room: &[(MemberId, u32)]) -> Vec<(MemberId, u32)> {
    let total: u64 = room.iter().map(|(_, room)| u64::from(*room)).sum();
    let mut left = u64::from(count.min(MAX_SHED)).min(total);
    let mut room_left = total;
    let mut moves = Vec::new();
    for (id, room) in room.iter().filter(|(_, room)| *room > 0) {
        // Of what is left, in proportion to the room left: rounding never loses any.
        let part = (left * u64::from(*room)).div_ceil(room_left.max(1));
        let part = part.min(left).min(u64::from(*room));
        left -= part;
        room_left -= u64::from(*room);
        if part > 0 {
            moves.push((*id, part as u32));
        }
    }
    moves
}

/// More sessions here than elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Load {
    lasting: Lasting,
}

impl Look for Load {
    fn trigger(&self) -> Trigger {
        Trigger::Load
    }

    fn look(&mut self, now: Instant, config: &PolicyConfig, view: &View) -> Finding {
        let own = view.own;
        let loads = view.others.iter().map(|other| u64::from(other.load));
        let members = 1 + view.others.len() as u64;
        let sum = loads.clone().sum::<u64>() + u64::from(own.staying) + u64::from(own.leaving);
        let mean = sum / members;
        let margin = (mean * u64::from(config.margin) / 100).max(u64::from(SLACK));
        let staying = u64::from(own.staying);
        let excess = staying.saturating_sub(mean);
        let above = excess > margin && !view.others.is_empty();
        self.lasting.note(now, above, above);
        // What each lacks of the mean, and of that our share: others give too.
        let given = excess + loads.map(|load| load.saturating_sub(mean)).sum::<u64>();
        let lacks = |other: &Other| {
            let lack = mean.saturating_sub(u64::from(other.load));
            let share = lack * excess / given.max(1);
            (other.id, share.min(u64::from(other.room)) as u32)
        };
        let room: Vec<(MemberId, u32)> = view.others.iter().map(lacks).collect();
        let moves = match above {
            true => spread((excess as u32).min(own.movable), &room),
            false => Vec::new(),
        };
        Finding {
            sees: format!(
                "{staying} sessions here, {mean} at the mean of {members} members, {margin} more are tolerated"
            ),
            wrong: above.then_some("more sessions than the mean and the margin"),
            due: !moves.is_empty() && self.lasting.for_long(now, config.hold),
            moves,
        }
    }

    fn acted(&mut self, now: Instant) {
        self.lasting.restart(now);
    }
}

/// More connections are being opened here than can be remembered, or than is usual.
#[derive(Clone, Debug, Default)]
pub struct Flood {
    lasting: Lasting,
    /// SYNs counted, and when.
    counted: Option<(Instant, u64)>,
    rate: u64,
}

impl Flood {
    /// SYNs a second, measured over a second at least.
    fn measure(&mut self, now: Instant, syns: u64) -> u64 {
        let (since, count) = *self.counted.get_or_insert((now, syns));
        let time = now.since(since).as_millis() as u64;
        if time >= 1_000 {
            self.rate = syns.saturating_sub(count).saturating_mul(1_000) / time;
            self.counted = Some((now, syns));
        }
        self.rate
    }
}

impl Look for Flood {
    fn trigger(&self) -> Trigger {
        Trigger::Flood
    }

    fn look(&mut self, now: Instant, config: &PolicyConfig, view: &View) -> Finding {
        let own = view.own;
        let rate = self.measure(now, own.syns);
        let limit = u64::from(own.half_open_limit.max(1));
        let (half_open, high) = (u64::from(own.half_open), u64::from(config.syn_rate));
        let begins = half_open * 4 >= limit * 3 || rate >= high;
        let goes_on = half_open * 4 >= limit || rate * 2 >= high;
        self.lasting.note(now, begins, goes_on);
        let calm = own.staying.saturating_add(own.half_open) / 2;
        let room = |other: &Other| (other.id, calm.saturating_sub(other.load).min(other.room));
        let room: Vec<(MemberId, u32)> = view.others.iter().map(room).collect();
        let moves = match self.lasting.lasts() {
            true => spread(own.movable.div_ceil(4), &room),
            false => Vec::new(),
        };
        Finding {
            sees: format!(
                "{half_open} of {limit} half-open connections, {rate} SYNs a second of {high}"
            ),
            wrong: self.lasting.lasts().then_some("a flood of connections"),
            due: !moves.is_empty() && self.lasting.for_long(now, config.hold),
            moves,
        }
    }

    fn acted(&mut self, now: Instant) {
        self.lasting.restart(now);
    }
}

/// Memory is short here.
#[derive(Clone, Debug, Default)]
pub struct Health {
    lasting: Lasting,
    /// It acted, and memory has not been plentiful since.
    acted: bool,
}

impl Look for Health {
    fn trigger(&self) -> Trigger {
        Trigger::Health
    }

    fn look(&mut self, now: Instant, config: &PolicyConfig, view: &View) -> Finding {
        let own = view.own;
        let pressure = own.pressure;
        self.lasting.note(
            now,
            pressure == Pressure::Exhausted,
            pressure != Pressure::None,
        );
        self.acted &= self.lasting.lasts();
        let room: Vec<(MemberId, u32)> = view
            .others
            .iter()
            .map(|other| (other.id, other.room))
            .collect();
        let moves = match self.lasting.lasts() {
            true => spread(own.movable.div_ceil(10), &room),
            false => Vec::new(),
        };
        let hold = if self.acted {
            config.hold
        } else {
            config.hold.min(URGENT)
        };
        Finding {
            sees: match pressure {
                Pressure::None => "memory enough",
                Pressure::Some => "less than a quarter of the memory left",
                Pressure::Exhausted => "no memory left",
            }
            .into(),
            wrong: self.lasting.lasts().then_some("memory is short"),
            due: !moves.is_empty() && self.lasting.for_long(now, hold),
            moves,
        }
    }

    fn acted(&mut self, now: Instant) {
        self.acted = true;
        self.lasting.restart(now);
    }
}

/// The triggers, and what each last found.
#[derive(Debug)]
pub struct Policy {
    config: PolicyConfig,
    looks: Vec<(Box<dyn Look>, Finding)>,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy::new(PolicyConfig::default())
    }
}

impl Policy {
    /// The built-in triggers.
    pub fn new(config: PolicyConfig) -> Policy {
        let looks: [Box<dyn Look>; 3] = [
            Box::<Health>::default(),
            Box::<Flood>::default(),
            Box::<Load>::default(),
        ];
        Policy::of(config, looks)
    }

    /// Other triggers, the most urgent first.
    pub fn of(config: PolicyConfig, looks: impl IntoIterator<Item = Box<dyn Look>>) -> Policy {
        let looks = looks.into_iter().map(|look| (look, Finding::default()));
        Policy {
            config,
            looks: looks.collect(),
        }
    }

    /// As configured.
    pub fn config(&self) -> &PolicyConfig {
        &self.config
    }

    /// What every trigger last found, and whether it acts.
    pub fn findings(&self) -> impl Iterator<Item = (Trigger, bool, &Finding)> {
        self.looks.iter().map(|(look, finding)| {
            let trigger = look.trigger();
            (trigger, self.config.triggers.contains(&trigger), finding)
        })
    }

    /// Look at the figures; at most one intent comes of it, that of the most urgent trigger.
    pub fn look(&mut self, now: Instant, view: &View) -> Option<Intent> {
        let mut intent = None;
        for (look, finding) in &mut self.looks {
            *finding = look.look(now, &self.config, view);
            let trigger = look.trigger();
            if !finding.due || intent.is_some() || !self.config.triggers.contains(&trigger) {
                continue;
            }
            look.acted(now);
            let wrong = finding.wrong.unwrap_or_default();
            intent = Some(Intent {
                trigger,
                reason: format!("{wrong}: {}", finding.sees),
                moves: finding.moves.clone(),
            });
        }
        intent
    }
}

#[cfg(test)]
mod tests;
