//! Moves that wait for their turn, or for their queues, while their target dies.

use super::*;

/// What becomes of a source that sees nothing for so long: the target counts as gone, its channel does not.
const SILENT: Duration = Duration::from_secs(1);

/// Three instances, and sessions at the first.
fn crowd(seed: u8, sessions: usize, patience: Duration) -> Net {
    let now = Instant::from_millis(1_000);
    let nodes = (1..=3).map(|id| {
        let config = InstanceConfig {
            patience,
            ..config(id, 3)
        };
        Node::new(config, seed ^ id as u8, now)
    });
    let mut net = Net::with(nodes.collect(), seed, now);
    net.settle();
    for _ in 0..sessions {
        net.connect(ECHO, stream(0, 100), false);
    }
    net.run_until_received(Duration::from_secs(5), 100);
    gather(&mut net, sessions);
    net
}

/// Bring all sessions to the first instance.
fn gather(net: &mut Net, sessions: usize) {
    for from in [2, 3] {
        let now = net.now;
        net.node(from).move_all(now, MemberId(1)).unwrap();
    }
    net.run_until(Duration::from_secs(2), |net| served(net, 1) == sessions);
    net.run_for(Duration::from_millis(200));
}

/// Sessions that an instance serves.
fn served(net: &Net, id: u32) -> usize {
    let instance = &net.nodes[id as usize - 1].instance;
    instance.sessions().iter().filter(|s| !s.frozen).count()
}

/// Sessions frozen at the first instance for a member.
fn frozen(net: &Net, target: u32) -> usize {
    let sessions = net.nodes[0].instance.sessions();
    let frozen = sessions
        .iter()
        .filter(|s| s.target == Some(MemberId(target)));
    frozen.count()
}

fn member(net: &Net, id: u32) -> MemberStatus {
    let members = net.nodes[0].instance.members();
    members.into_iter().find(|m| m.id == MemberId(id)).unwrap()
}

/// Nothing has been heard from a member for so long, and its channel is still up.
fn run_until_silent(net: &mut Net, id: u32, silent: Duration) {
    net.run_until(Duration::from_secs(5), |net| {
        net.now.since(member(net, id).heard) >= silent
    });
    assert!(member(net, id).up);
}

/// The line to the third instance waits, as sessions for the second take all there is room for, and
/// that does not answer. Both are dead when the line goes on.
fn line_to_the_dead(seed: u8) -> Net {
    let mut net = crowd(seed, 40, Duration::ZERO);
    net.cut.insert(2);
    let all: Vec<SessionId> = net.sessions().into_iter().map(|(id, _)| id).collect();
    for (number, session) in all.into_iter().enumerate() {
        let (now, to) = (net.now, if number < 32 { 2 } else { 3 });
        let source = net.node(1);
        source.move_session(now, session, MemberId(to)).unwrap();
    }
    net.run_for(Duration::from_millis(500));
    net.cut.insert(3);
    assert_eq!(
        (frozen(&net, 2), frozen(&net, 3)),
        (32, 0),
        "they stand in line"
    );
    net.run_until(Duration::from_secs(4), |net| !member(net, 2).up);
    assert!(member(&net, 3).up);
    net
}

#[test]
fn who_stands_in_line_is_not_frozen_for_a_target_that_has_fallen_silent() {
    let mut net = line_to_the_dead(130);
    assert_eq!((frozen(&net, 3), served(&net, 1)), (0, 8));
    // Its channel ends, too: they stay, and it is said why.
    net.run_until(Duration::from_secs(2), |net| !member(net, 3).up);
    net.run_for(Duration::from_millis(10));
    assert_eq!((frozen(&net, 3), served(&net, 1)), (0, 8));
    assert_eq!(net.counter(1, "moves_not_begun"), 8);
    let report = net.node(1).moves().pop().unwrap();
    assert_eq!(report.result, "not begun: that member is not heard");
    // They can be told to go elsewhere once there is one.
    net.cut.clear();
    net.run_until(Duration::from_secs(9), |net| {
        member(net, 3).up && served(net, 1) == 40
    });
    let now = net.now;
    assert_eq!(net.node(1).move_all(now, MemberId(3)), Ok(40));
    net.run_until(Duration::from_secs(2), |net| served(net, 3) == 40);
    assert_eq!(net.resets, 0);
}

#[test]
fn who_stands_in_line_goes_when_the_target_is_heard_again() {
    let mut net = line_to_the_dead(131);
    net.cut.remove(&3);
    net.run_until(Duration::from_secs(3), |net| served(net, 3) == 8);
    assert_eq!(net.counter(1, "moves_not_begun"), 0);
    assert_eq!(net.counter(1, "sessions_lost"), 0);
}

/// A session with a lot queued at the first instance, in its lull on the way to the second, which has not been
/// heard for nearly as long as it may be.
fn lull_to_the_dying(seed: u8) -> (Net, SessionId) {
    let mut net = crowd(seed, 0, PATIENCE);
    net.connect(BULK, Vec::new(), false);
    net.run_until_received(Duration::from_secs(5), 20_000);
    net.cut.insert(CLIENT);
    let (session, owner) = net.sessions()[0];
    if owner != Some(1) {
        gather(&mut net, 1);
    }
    net.cut.insert(2);
    run_until_silent(&mut net, 2, SILENT - PATIENCE / 2);
    (net, session)
}

#[test]
fn a_session_in_its_lull_is_not_frozen_for_a_target_that_has_fallen_silent() {
    let (mut net, session) = lull_to_the_dying(132);
    let now = net.now;
    net.node(1).move_session(now, session, MemberId(2)).unwrap();
    // What it sends ahead does not leave, and is not waited for any longer.
    net.run_for(PATIENCE * 7);
    assert_eq!((frozen(&net, 2), served(&net, 1)), (0, 1));
    assert!(
        net.node(1).sessions.get(&session).unwrap().in_line,
        "it waits"
    );
    net.cut.clear();
    net.run_until(Duration::from_secs(2), |net| served(net, 2) == 1);
    net.run_until_received(Duration::from_secs(60), BULK_OCTETS as usize);
    assert_eq!(net.conns[0].received, stream(0, BULK_OCTETS));
    assert_eq!(net.resets, 0);
}

#[test]
fn a_drain_finds_another_target_for_a_session_whose_own_has_fallen_silent() {
    let (mut net, session) = lull_to_the_dying(133);
    // So that the one that is silent is the less loaded.
    let now = net.now;
    let other = net.node(1).members.get_mut(MemberId(3)).unwrap();
    other.given = 20;
    net.node(1).drain(now);
    net.run_for(PATIENCE / 4);
    let to = net.node(1).sessions.get(&session).unwrap().wanted;
    assert_eq!(to, Some(MemberId(2)), "in its lull");
    net.run_until(Duration::from_secs(1), |net| served(net, 3) == 1);
    assert_eq!(net.counter(1, "moves_not_begun"), 1);
    net.cut.clear();
    net.run_until_received(Duration::from_secs(60), BULK_OCTETS as usize);
    assert_eq!(net.conns[0].received, stream(0, BULK_OCTETS));
    assert_eq!(net.resets, 0);
}
