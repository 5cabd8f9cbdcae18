//! The lull before a planned move.

use super::*;
use crate::cluster::message::{Ahead, Attempt, Message};
use crate::migrate::rope::Rope;
use crate::tcp::Queue;

/// Two instances that wait before a move, and a client with one connection under way.
fn under_way(port: u16, to_send: Vec<u8>, received: usize) -> (Net, SessionId, u32) {
    let now = Instant::from_millis(1_000);
    let nodes = [1, 2].map(|id| {
        let config = InstanceConfig {
            patience: PATIENCE,
            ..config(id, 2)
        };
        Node::new(config, id as u8, now)
    });
    let mut net = Net::with(nodes.into(), 7, now);
    net.settle();
    net.connect(port, to_send, false);
    net.run_until_received(Duration::from_secs(5), received);
    let [(session, Some(owner))] = net.sessions()[..] else {
        panic!("one session with an owner");
    };
    (net, session, owner)
}

fn order(net: &mut Net, session: SessionId, owner: u32) {
    let now = net.now;
    let to = MemberId(3 - owner);
    net.node(owner).move_session(now, session, to).unwrap();
}

/// Let the move come to its end, and what its source says of it.
fn moved(net: &mut Net, owner: u32) -> MoveReport {
    let before = net.node(owner).moves().len();
    net.run_until(Duration::from_secs(1), |net| {
        net.node(owner).moves().len() > before
    });
    net.node(owner).moves()[before].clone()
}

#[test]
fn a_busy_download_is_served_on_until_little_is_queued() {
    let (mut net, session, owner) = under_way(BULK, Vec::new(), 50_000);
    let begun = net.conns[0].received.len();
    order(&mut net, session, owner);
    assert_eq!(
        net.owner(session),
        Some(owner),
        "not frozen with a full queue"
    );
    let report = moved(&mut net, owner);
    assert!(net.conns[0].received.len() > begun + 20_000);
    net.run_until_received(Duration::from_secs(5), BULK_OCTETS as usize);
    assert_eq!(net.conns[0].received, stream(0, BULK_OCTETS));
    assert!(report.capsule_bytes < 17 * 1024, "{report:?}");
    assert!(
        !report.lull.is_zero() && report.lull < PATIENCE,
        "{report:?}"
    );
}

#[test]
fn a_client_that_sends_all_the_time_is_stopped_by_its_window_and_set_going_again() {
    let sent = stream(7, 3_000_007);
    let (mut net, session, owner) = under_way(ECHO, sent.clone(), 400_000);
    let mut at = owner;
    for round in 1..=4 {
        net.run_until_received(Duration::from_secs(5), 400_000 + round * 300_000);
        order(&mut net, session, at);
        let report = moved(&mut net, at);
        // Moved again after a millisecond it is given less time to run empty.
        assert!(report.capsule_bytes < 24 * 1024, "{report:?}");
        at = 3 - at;
    }
    // Not by the probes of a client that was told of no window and never of another.
    let begun = net.now;
    net.run_until_received(Duration::from_secs(5), sent.len());
    assert!(net.now.since(begun) < Duration::from_millis(150));
    assert_eq!(net.conns[0].received, sent);
}

#[test]
fn patience_ends_when_the_client_does_not_read() {
    let (mut net, session, owner) = under_way(BULK, Vec::new(), 20_000);
    net.cut.insert(CLIENT);
    let begun = net.now;
    order(&mut net, session, owner);
    let report = moved(&mut net, owner);
    let waited = net.now.since(begun);
    assert!(waited >= PATIENCE && waited < PATIENCE * 2, "{waited:?}");
    // What it does not read has gone ahead.
    assert_eq!(net.counter(owner, "sessions_sent_ahead"), 1);
    assert!(report.capsule_bytes < 1_500, "{report:?}");
    net.cut.clear();
    net.run_until_received(Duration::from_secs(30), BULK_OCTETS as usize);
    assert_eq!(net.conns[0].received, stream(0, BULK_OCTETS));
}

#[test]
fn a_move_that_cannot_be_begun_after_the_lull_is_called_off() {
    let sent = stream(7, 1_000_007);
    let (mut net, session, owner) = under_way(ECHO, sent.clone(), 200_000);
    order(&mut net, session, owner);
    assert_eq!(net.node(owner).lulled.len(), 1);
    let links: Vec<ConnId> = net.node(owner).links.keys().copied().collect();
    let now = net.now;
    for link in links {
        net.node(owner).drop_link(now, link);
    }
    net.run_until_received(Duration::from_secs(5), sent.len());
    assert_eq!(net.owner(session), Some(owner));
    assert_eq!(net.conns[0].received, sent);
    assert_eq!(net.counter(owner, "moves_not_begun"), 1);
    let report = net.node(owner).moves().pop().unwrap();
    assert!(report.result.starts_with("not begun: "), "{report:?}");
    assert!(net.node(owner).lulled.is_empty());
}

#[test]
fn a_session_that_ends_in_its_lull_leaves_nothing_behind() {
    let (mut net, session, owner) = under_way(BULK, Vec::new(), 20_000);
    order(&mut net, session, owner);
    let now = net.now;
    net.allow_resets = true;
    net.node(owner).abort(now, session);
    net.run_for(Duration::from_secs(1));
    assert!(net.node(owner).lulled.is_empty() && net.node(owner).deferred.is_empty());
    assert!(net.sessions().is_empty());
}

/// A client that does not read, while its session is on its way: until what is queued went ahead.
fn sent_ahead(port: u16, to_send: Vec<u8>) -> (Net, SessionId, u32) {
    let (mut net, session, owner) = under_way(port, to_send, 20_000);
    net.cut.insert(CLIENT);
    order(&mut net, session, owner);
    net.run_until(Duration::from_secs(1), |net| {
        net.counter(owner, "sessions_sent_ahead") == 1
    });
    (net, session, owner)
}

#[test]
fn what_went_ahead_and_is_lost_makes_the_target_refuse_and_the_next_move_carry_it() {
    let (mut net, session, owner) = sent_ahead(BULK, Vec::new());
    let target = 3 - owner;
    net.run_until(Duration::from_secs(1), |net| {
        net.counter(target, "ahead_kept") == 1
    });
    net.node(target).forget_ahead_of(MemberId(owner));
    let report = moved(&mut net, owner);
    assert_eq!(report.result, "refused: octets sent ahead are missing");
    assert_eq!(net.owner(session), Some(owner));
    order(&mut net, session, owner);
    let report = moved(&mut net, owner);
    assert_eq!(report.result, "accepted");
    assert!(report.capsule_bytes > 16 * 1024, "{report:?}");
    net.cut.clear();
    net.run_until_received(Duration::from_secs(30), BULK_OCTETS as usize);
    assert_eq!(net.conns[0].received, stream(0, BULK_OCTETS));
}

#[test]
fn a_stash_is_bounded_and_forgotten() {
    let mut net = Net::new(2, 26);
    let (session, owner) = (SessionId::default(), MemberId(1));
    let octets = || Rope::from(vec![7; 1 << 20]);
    for number in 0..40 {
        let ahead = Ahead {
            session: SessionId { number, ..session },
            connection: 0,
            queue: Queue::Send,
            offset: u64::MAX - 5,
        };
        let now = net.now;
        net.node(2).handle_ahead(now, owner, ahead, octets());
        // Again, and for a connection no session has.
        net.node(2).handle_ahead(now, owner, ahead, octets());
        let beyond = Ahead {
            connection: 200,
            ..ahead
        };
        net.node(2).handle_ahead(now, MemberId(7), beyond, octets());
    }
    assert_eq!(net.counter(2, "ahead_kept"), 8 + 8);
    assert!(net.node(2).stash_octets() <= 8 << 20);
    net.run_for(Duration::from_secs(11));
    assert_eq!(net.node(2).stash_octets(), 0);
}

/// `members` instances that wait before a move, and clients that wait for the echo of `octets` each,
/// which all are with instance `at`, unread.
fn unread(members: u32, clients: usize, octets: usize, buffer: u32) -> (Net, Vec<SessionId>) {
    let now = Instant::from_millis(1_000);
    let nodes = (1..=members).map(|id| {
        let mut config = InstanceConfig {
            patience: PATIENCE,
            ..config(id, members)
        };
        config.stack.tcp.receive_buffer = buffer;
        config.stack.tcp.max_receive_buffer = buffer;
        Node::new(config, id as u8, now)
    });
    let mut net = Net::with(nodes.collect(), 9, now);
    net.settle();
    for node in &mut net.nodes {
        node.paused = true;
    }
    for _ in 0..clients {
        net.connect(ECHO, stream(7, 7 + octets as u64), false);
        net.run_for(Duration::from_millis(50));
    }
    net.run_for(Duration::from_secs(2));
    for (session, owner) in net.sessions() {
        let owner = owner.unwrap();
        if owner != 1 {
            let now = net.now;
            net.node(owner)
                .move_session(now, session, MemberId(1))
                .unwrap();
            net.run_for(Duration::from_secs(2));
        }
    }
    let all = net.sessions();
    assert!(all.iter().all(|(_, owner)| *owner == Some(1)));
    (net, all.into_iter().map(|(session, _)| session).collect())
}

fn resume(net: &mut Net, octets: usize) {
    let now = net.now;
    for node in &mut net.nodes {
        node.paused = false;
        node.resume(now);
    }
    net.run_until_received(Duration::from_secs(60), octets);
    for conn in &net.conns {
        assert!(
            conn.received == stream(7, 7 + octets as u64),
            "the stream is exact"
        );
    }
}

#[test]
fn of_what_does_not_fit_the_oldest_part_goes_ahead() {
    const OCTETS: usize = 2_900_000;
    let (mut net, sessions) = unread(3, 2, OCTETS, 3 << 20);
    net.cut.insert(2);
    let now = net.now;
    for (session, to) in sessions.iter().zip([2, 3]) {
        let to = MemberId(to);
        net.node(1).move_session(now, *session, to).unwrap();
    }
    let done = |net: &mut Net| {
        let moves = net.node(1).moves();
        moves.into_iter().find(|report| report.to == MemberId(3))
    };
    net.run_until(Duration::from_secs(2), |net| done(net).is_some());
    let report = done(&mut net).unwrap();
    assert_eq!(report.result, "accepted");
    // Four mebioctets may be on their way, and the other one has the most of them.
    let ahead = (4 << 20) - OCTETS as u32;
    let rest = OCTETS as u32 - ahead;
    assert!(report.capsule_bytes < rest + 10_000, "{report:?}");
    net.cut.clear();
    net.run_for(Duration::from_secs(10));
    resume(&mut net, OCTETS);
}

#[test]
fn sessions_with_much_queued_take_turns() {
    const OCTETS: usize = 1_000_000;
    let (mut net, sessions) = unread(2, 3, OCTETS, 3 << 20);
    let before = net.node(1).moves().len();
    let now = net.now;
    for session in &sessions {
        net.node(1)
            .move_session(now, *session, MemberId(2))
            .unwrap();
    }
    let mut together = 0;
    net.run_until(Duration::from_secs(2), |net| {
        together = together.max(net.node(1).sent_ahead.len());
        net.node(1).moves().len() == before + 3
    });
    assert_eq!(together, 1, "one at a time");
    for report in net.node(1).moves().iter().skip(before) {
        assert_eq!(report.result, "accepted");
        assert!(report.capsule_bytes < 10_000, "{report:?}");
    }
    resume(&mut net, OCTETS);
}

#[test]
fn what_others_put_in_the_channel_behind_it_is_not_waited_for() {
    let (mut net, sessions) = unread(2, 1, 400_000, 1 << 20);
    let before = net.node(1).moves().len();
    let now = net.now;
    net.node(1)
        .move_session(now, sessions[0], MemberId(2))
        .unwrap();
    net.run_until(Duration::from_secs(1), |net| {
        net.counter(1, "sessions_sent_ahead") > 0
    });
    // Somebody always has something to say from now on.
    let begun = net.now;
    let junk = Message::Frame(Attempt {
        session: SessionId::default(),
        epoch: 9,
    });
    net.run_until(Duration::from_secs(2), |net| {
        let waiting = net.node(1).link_to(MemberId(2)).unwrap().channel.queued();
        if waiting < 400_000 {
            let tail = Rope::from(vec![0; 60_000]);
            net.node(1).send_with(MemberId(2), &junk, tail);
        }
        net.node(1).moves().len() > before
    });
    let took = net.now.since(begun);
    assert!(took < PATIENCE, "{took:?}");
    resume(&mut net, 400_000);
}

#[test]
fn a_lull_and_what_goes_ahead_take_no_longer_together_than_a_lull_may() {
    let (mut net, sessions) = unread(2, 1, 400_000, 1 << 20);
    let session = sessions[0];
    let now = net.now;
    net.node(1).move_session(now, session, MemberId(2)).unwrap();
    // As if its queues had become shorter until now.
    let lull = net
        .node(1)
        .sessions
        .get_mut(&session)
        .unwrap()
        .lull
        .as_mut();
    lull.unwrap().since = now - PATIENCE * 4;
    // And then the channel takes nothing any more.
    net.cut.insert(2);
    net.run_until(PATIENCE * 3, |net| net.owner(session).is_none());
    let took = net.now.since(now);
    assert!(took >= PATIENCE * 2, "{took:?}");
    net.cut.clear();
    net.run_for(Duration::from_secs(10));
    resume(&mut net, 400_000);
}

#[test]
fn a_target_that_takes_nothing_keeps_nobody_from_moving_elsewhere() {
    let (mut net, sessions) = unread(3, 2, 1_000, 1 << 20);
    net.cut.insert(2);
    let ahead = Message::Ahead(Ahead {
        session: SessionId::default(),
        connection: 0,
        queue: Queue::Send,
        offset: 0,
    });
    assert!(
        net.node(1)
            .send_with(MemberId(2), &ahead, Rope::from(vec![0; 3 << 20]))
    );
    let now = net.now;
    net.node(1).stand_in_line(sessions[0], MemberId(2));
    net.node(1).stand_in_line(sessions[1], MemberId(3));
    net.node(1).handle_timeout(now);
    net.run_until(Duration::from_millis(100), |net| {
        net.owner(sessions[1]) == Some(3)
    });
    assert_eq!(net.owner(sessions[0]), Some(1), "served on");
    net.cut.clear();
    net.run_for(Duration::from_secs(10));
    resume(&mut net, 1_000);
}
