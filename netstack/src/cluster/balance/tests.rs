//! Triggers over figures, and whole clusters of them: what moves, and that it comes to rest.

use proptest::prelude::*;

use super::*;

fn at(millis: u64) -> Instant {
    Instant::from_millis(1_000 + millis)
}

fn other(id: u32, load: u32) -> Other {
    Other {
        id: MemberId(id),
        load,
        room: 1_000_000,
    }
}

fn view(staying: u32, others: &[u32]) -> View {
    View {
        own: Own {
            staying,
            movable: staying,
            half_open_limit: 1_000,
            ..Own::default()
        },
        others: (2..)
            .zip(others)
            .map(|(id, load)| other(id, *load))
            .collect(),
    }
}

fn policy(trigger: Trigger) -> Policy {
    Policy::new(PolicyConfig {
        triggers: Vec::from([trigger]),
        ..PolicyConfig::default()
    })
}

/// Look every second, for so long.
fn looks(policy: &mut Policy, from: u64, seconds: u64, view: &View) -> Vec<(u64, Intent)> {
    let look = |second| Some((second, policy.look(at(second * 1_000), view)?));
    (from..=from + seconds).filter_map(look).collect()
}

#[test]
fn load_that_lasts_is_brought_to_the_mean() {
    let mut policy = policy(Trigger::Load);
    let intents = looks(&mut policy, 0, 6, &view(300, &[0, 150]));
    let [(5, intent)] = &intents[..] else {
        panic!("{intents:?}");
    };
    assert_eq!(intent.moves, [(MemberId(2), 150)]);
    assert!(intent.reason.contains("300 sessions here, 150 at the mean"));
}

#[test]
fn load_within_the_margin_or_of_a_moment_moves_nothing() {
    let mut policy = policy(Trigger::Load);
    assert_eq!(looks(&mut policy, 0, 60, &view(124, &[100, 76])), []);
    assert_eq!(
        looks(&mut policy, 100, 60, &view(4, &[0])),
        [],
        "few sessions"
    );
    assert_eq!(looks(&mut policy, 200, 60, &view(1_000, &[])), [], "alone");
    for second in 0..60 {
        let load = if second % 5 == 0 { 100 } else { 300 };
        let intent = policy.look(at(300_000 + second * 1_000), &view(load, &[100]));
        assert_eq!(intent, None, "never for five seconds");
    }
}

#[test]
fn what_is_on_its_way_is_not_sent_again() {
    let mut policy = policy(Trigger::Load);
    let mut view = view(300, &[0]);
    assert_eq!(looks(&mut policy, 0, 5, &view).len(), 1);
    view.own.staying = 150;
    view.own.leaving = 150;
    assert_eq!(looks(&mut policy, 6, 60, &view), []);
}

#[test]
fn a_target_gets_no_more_than_it_has_room_for() {
    let mut policy = policy(Trigger::Load);
    let mut view = view(300, &[0, 0]);
    view.others[0].room = 7;
    let intents = looks(&mut policy, 0, 5, &view);
    assert_eq!(intents[0].1.moves, [(MemberId(2), 7), (MemberId(3), 100)]);
}

#[test]
fn a_flood_sheds_to_calm_members_until_it_is_over() {
    let mut policy = policy(Trigger::Flood);
    let mut view = view(100, &[20, 900]);
    view.own.half_open = 800;
    let intents = looks(&mut policy, 0, 11, &view);
    let moves: Vec<_> = intents
        .iter()
        .map(|(at, i)| (*at, i.moves.clone()))
        .collect();
    let quarter = Vec::from([(MemberId(2), 25)]);
    assert_eq!(moves, [(5, quarter.clone()), (10, quarter)]);
    // Between the two marks it goes on, below it ends, and above the lower one it does not begin.
    view.own.half_open = 300;
    assert_eq!(looks(&mut policy, 12, 3, &view).len(), 1);
    view.own.half_open = 200;
    assert_eq!(looks(&mut policy, 20, 20, &view), []);
    view.own.half_open = 300;
    assert_eq!(looks(&mut policy, 50, 20, &view), []);
}

#[test]
fn so_many_syns_a_second_are_a_flood_without_any_half_open() {
    let mut policy = policy(Trigger::Flood);
    let mut view = view(1_000, &[0]);
    let mut shed = 0;
    for second in 0..20 {
        view.own.syns += 30_000;
        shed += usize::from(policy.look(at(second * 1_000), &view).is_some());
    }
    assert!((2..=4).contains(&shed), "{shed}");
}

#[test]
fn two_flooded_members_do_not_give_to_each_other() {
    for (own, peer) in [(900, 800), (800, 900), (900, 900)] {
        let mut policy = policy(Trigger::Flood);
        let mut view = view(100, &[peer + 100]);
        view.own.half_open = own;
        assert_eq!(looks(&mut policy, 0, 60, &view), []);
    }
}

#[test]
fn short_memory_sheds_soon_and_then_slowly() {
    let mut policy = policy(Trigger::Health);
    let mut view = view(100, &[500]);
    view.own.pressure = Pressure::Some;
    assert_eq!(looks(&mut policy, 0, 60, &view), [], "not short yet");
    view.own.pressure = Pressure::Exhausted;
    let times = |intents: Vec<(u64, Intent)>| intents.iter().map(|i| i.0).collect::<Vec<_>>();
    assert_eq!(times(looks(&mut policy, 100, 11, &view)), [101, 106, 111]);
    view.own.pressure = Pressure::Some;
    assert_eq!(
        times(looks(&mut policy, 112, 5, &view)),
        [116],
        "not yet over"
    );
    view.own.pressure = Pressure::None;
    assert_eq!(looks(&mut policy, 120, 60, &view), []);
}

#[test]
fn the_most_urgent_trigger_goes_first_and_the_others_only_tell() {
    let mut policy = Policy::new(PolicyConfig {
        triggers: Vec::from([Trigger::Load, Trigger::Health]),
        ..PolicyConfig::default()
    });
    let mut view = view(300, &[0]);
    view.own.pressure = Pressure::Exhausted;
    view.own.half_open = 1_000;
    let intents = looks(&mut policy, 0, 5, &view);
    assert_eq!(intents[0].1.trigger, Trigger::Health);
    let findings: Vec<_> = policy.findings().collect();
    let flood = findings.iter().find(|f| f.0 == Trigger::Flood).unwrap();
    assert!(!flood.1 && flood.2.due && !flood.2.moves.is_empty());
}

/// A member of a simulated cluster.
struct Member {
    policy: Policy,
    /// When each session that came from elsewhere did.
    sessions: Vec<Option<u64>>,
    /// When each session that leaves is there.
    leaving: Vec<(u64, usize)>,
    /// What the others last heard, and when it will be said again.
    said: u32,
    says_at: u64,
}

/// A cluster in steps of 100 ms: heartbeats at their own times, moves that take a while.
struct Simulated {
    members: Vec<Member>,
    now: u64,
    moves: u64,
    /// How long a move takes.
    takes: u64,
}

impl Simulated {
    fn new(loads: &[u32], takes: u64) -> Simulated {
        let member = |(index, load): (usize, &u32)| Member {
            policy: policy(Trigger::Load),
            sessions: vec![None; *load as usize],
            leaving: Vec::new(),
            said: *load,
            says_at: (index as u64 * 137) % 1_000,
        };
        Simulated {
            members: loads.iter().enumerate().map(member).collect(),
            now: 0,
            moves: 0,
            takes,
        }
    }

    fn view(&self, index: usize) -> View {
        let member = &self.members[index];
        let settled = |arrived: &&Option<u64>| {
            arrived.is_none_or(|at| self.now - at >= SETTLED.as_millis() as u64)
        };
        let others = self.members.iter().enumerate();
        View {
            own: Own {
                staying: member.sessions.len() as u32,
                leaving: member.leaving.len() as u32,
                movable: member.sessions.iter().filter(settled).count() as u32,
                half_open_limit: 1_000,
                ..Own::default()
            },
            others: others
                .filter(|(other, _)| *other != index)
                .map(|(other, member)| Other {
                    id: MemberId(other as u32),
                    load: member.said,
                    room: 1_000_000,
                })
                .collect(),
        }
    }

    fn step(&mut self) {
        self.now += 100;
        let now = self.now;
        for index in 0..self.members.len() {
            let member = &mut self.members[index];
            let (there, leaving): (Vec<_>, Vec<_>) =
                member.leaving.iter().partition(|(at, _)| *at <= now);
            member.leaving = leaving;
            for (_, to) in there {
                self.members[to].sessions.push(Some(now));
            }
            let member = &mut self.members[index];
            if member.says_at > now {
                continue;
            }
            member.says_at += 1_000;
            member.said = (member.sessions.len() + member.leaving.len()) as u32;
            let view = self.view(index);
            let member = &mut self.members[index];
            for (to, count) in member
                .policy
                .look(at(now), &view)
                .map_or(vec![], |i| i.moves)
            {
                for _ in 0..count {
                    // The oldest first, as those that may go.
                    member.sessions.remove(0);
                    let arrives = now + self.takes;
                    member.leaving.push((arrives, to.0 as usize));
                    self.moves += 1;
                }
            }
        }
    }

    fn loads(&self) -> Vec<u32> {
        let load = |member: &Member| (member.sessions.len() + member.leaving.len()) as u32;
        self.members.iter().map(load).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// However sessions are spread, the cluster comes to rest within a minute, near the mean, and
    /// every session that is too many somewhere moves once: nothing goes to and fro.
    #[test]
    fn a_cluster_balances_once_and_rests(
        loads in prop::collection::vec(0..400_u32, 2..=8),
        takes in 100..8_000_u64,
    ) {
        let mean = loads.iter().sum::<u32>() / loads.len() as u32;
        let excess: u32 = loads.iter().map(|load| load.saturating_sub(mean)).sum();
        let mut cluster = Simulated::new(&loads, takes);
        for _ in 0..600 {
            cluster.step();
        }
        let moved = cluster.moves;
        prop_assert!(moved <= u64::from(excess), "{moved} moves for an excess of {excess}");
        let margin = (mean / 4).max(SLACK) + 1;
        let after = cluster.loads();
        prop_assert!(after.iter().all(|load| *load <= mean + margin), "{after:?}, mean {mean}");
        // What moved once could move again after a minute, but has no reason to.
        for _ in 0..3_000 {
            cluster.step();
        }
        prop_assert_eq!(cluster.moves, moved);
    }

    /// Sessions that come and go everywhere are no reason to move many.
    #[test]
    fn ordinary_coming_and_going_moves_next_to_nothing(
        seed in any::<u64>(),
        members in 2..=8_usize,
    ) {
        let mut cluster = Simulated::new(&vec![200; members], 500);
        let mut random = seed | 1;
        let mut draw = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        for _ in 0..3_000 {
            // Ten arrive and leave a second, at members drawn at random.
            let (to, from) = (draw(members as u64) as usize, draw(members as u64) as usize);
            cluster.members[to].sessions.push(None);
            let gone = &mut cluster.members[from].sessions;
            if !gone.is_empty() {
                gone.swap_remove(draw(gone.len() as u64) as usize);
            }
            cluster.step();
        }
        prop_assert!(cluster.moves <= 300, "{} moves of 3000 that came", cluster.moves);
    }

    #[test]
    fn spreading_gives_all_there_is_room_for_and_nobody_too_much(
        count in 0..20_000_u32,
        room in prop::collection::vec(0..5_000_u32, 0..8),
    ) {
        let room: Vec<_> = (1..).map(MemberId).zip(room).collect();
        let moves = spread(count, &room);
        let given: u32 = moves.iter().map(|(_, count)| *count).sum();
        let total: u32 = room.iter().map(|(_, room)| *room).sum();
        prop_assert_eq!(given, count.min(total).min(MAX_SHED));
        for (id, count) in moves {
            let most = room.iter().find(|(member, _)| *member == id).unwrap().1;
            prop_assert!(count <= most && count > 0);
        }
    }
}
