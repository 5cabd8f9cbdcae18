//! The cluster's key changes, member by member, while sessions move.

use super::*;
use crate::cluster::keys::{Key, KeyError};

const OLD: Key = Key(KEY);
const NEW: Key = Key([0x77; 32]);

/// How many channels of a member are up under a key.
fn channels(net: &mut Net, id: u32, key: Key) -> usize {
    let keys = net.node(id).keys();
    let held = keys.iter().find(|status| status.id == key.id());
    held.map_or(0, |status| status.channels)
}

fn all_up(net: &Net) -> bool {
    let up = |node: &Node| node.instance.members().iter().all(|member| member.up);
    net.nodes.iter().all(up)
}

/// Three members, a session whose client says something all the time, and moves of it.
struct Rolling {
    net: Net,
    session: SessionId,
    moves: u32,
    said: u64,
}

impl Rolling {
    fn begin(seed: u8) -> Rolling {
        let mut net = Net::new(3, seed);
        net.settle();
        net.connect(ECHO, stream(0, 1_000), false);
        net.run_until_received(Duration::from_secs(5), 1_000);
        let session = net.sessions()[0].0;
        Rolling {
            net,
            session,
            moves: 0,
            said: 1_000,
        }
    }

    /// Go on for a while; every 10 ms the client says more, and the session begins to move to the
    /// next member.
    fn go_on(&mut self, millis: u64) {
        for _ in 0..millis / 10 {
            let more = stream(self.said, self.said + 9_000);
            self.said += 9_000;
            self.net.conns[0].to_send.extend(more);
            if let Some(owner) = self.net.owner(self.session) {
                let now = self.net.now;
                let to = MemberId(owner % 3 + 1);
                let begun = self.net.node(owner).move_session(now, self.session, to);
                self.moves += u32::from(begun.is_ok());
            }
            self.net.run_for(Duration::from_millis(10));
        }
    }

    fn each(&mut self, change: impl Fn(&mut Instance, Instant)) {
        for id in 1..=3 {
            let now = self.net.now;
            change(self.net.node(id), now);
            self.go_on(300);
        }
    }

    fn end(mut self) {
        let net = &mut self.net;
        net.run_until_received(Duration::from_secs(60), self.said as usize);
        assert_eq!(net.conns[0].received, stream(0, self.said));
        assert_eq!(net.resets, 0);
        assert!(self.moves > 100, "{} moves", self.moves);
    }
}

#[test]
fn a_key_is_changed_at_run_time_while_a_session_moves() {
    let mut rolling = Rolling::begin(91);
    rolling.each(|instance, _| assert_eq!(instance.add_key(NEW), Ok(NEW.id())));
    assert_eq!(channels(&mut rolling.net, 1, OLD), 2, "nothing changes yet");
    rolling.each(|instance, now| instance.activate_key(now, NEW.id()).unwrap());
    for id in 1..=3 {
        assert_eq!(channels(&mut rolling.net, id, NEW), 2, "member {id}");
        assert_eq!(channels(&mut rolling.net, id, OLD), 0, "member {id}");
    }
    let before = rolling.net.counter(1, "channels_up");
    rolling.each(|instance, now| instance.remove_key(now, OLD.id()).unwrap());
    assert_eq!(
        rolling.net.counter(1, "channels_up"),
        before,
        "none had to go"
    );
    assert_eq!(rolling.net.node(2).keys().len(), 1);
    rolling.end();
}

#[test]
fn a_member_that_does_not_take_the_new_key_keeps_its_channel_until_it_does() {
    let mut rolling = Rolling::begin(92);
    let now = rolling.net.now;
    rolling.net.node(1).add_key(NEW).unwrap();
    rolling.net.node(1).activate_key(now, NEW.id()).unwrap();
    rolling.go_on(1_000);
    assert!(all_up(&rolling.net), "under the old key");
    assert_eq!(channels(&mut rolling.net, 1, OLD), 2);
    assert!(rolling.net.counter(2, "channel_wrong_key") > 0);
    // Late, but then it comes by itself.
    for id in [2, 3] {
        rolling.net.node(id).add_key(NEW).unwrap();
    }
    rolling.go_on(6_000);
    assert_eq!(channels(&mut rolling.net, 1, NEW), 2);
    assert_eq!(
        channels(&mut rolling.net, 2, OLD),
        1,
        "2 and 3 have not been told"
    );
    rolling.end();
}

#[test]
fn a_member_that_boots_with_the_new_key_first_is_reached_with_the_old_one() {
    // Member 1 opens both channels, and has the new key first: the others know nothing of it.
    let now = Instant::from_millis(1_000);
    let mut first = config(1, 3);
    first.cluster_key = Some(NEW.0);
    let mut nodes = alloc::vec![Node::new(first, 1, now)];
    nodes[0].instance.add_key(OLD).unwrap();
    nodes.extend((2..=3).map(|id| Node::new(config(id, 3), id as u8, now)));
    let mut net = Net::with(nodes, 93, now);
    net.run_for(Duration::from_secs(1));
    assert!(all_up(&net));
    assert_eq!(channels(&mut net, 1, OLD), 2);
}

#[test]
fn a_key_that_was_removed_opens_nothing_any_more() {
    let mut net = Net::new(2, 94);
    net.settle();
    let now = net.now;
    // Told in the wrong order: member 1 still opens with the old key.
    net.node(2).add_key(NEW).unwrap();
    net.node(2).activate_key(now, NEW.id()).unwrap();
    net.node(2).remove_key(now, OLD.id()).unwrap();
    net.run_for(Duration::from_secs(3));
    assert!(!all_up(&net));
    let refused = net.counter(2, "channel_wrong_key");
    assert!(refused > 0);
    assert_eq!(channels(&mut net, 2, OLD), 0);
    let now = net.now;
    net.node(1).add_key(NEW).unwrap();
    net.node(1).activate_key(now, NEW.id()).unwrap();
    net.run_for(Duration::from_secs(3));
    assert!(all_up(&net));
}

#[test]
fn the_active_key_and_unknown_ones_cannot_be_removed() {
    let mut net = Net::new(2, 95);
    net.settle();
    let now = net.now;
    assert_eq!(net.node(1).remove_key(now, OLD.id()), Err(KeyError::Active));
    assert_eq!(
        net.node(1).remove_key(now, NEW.id()),
        Err(KeyError::Unknown)
    );
    assert_eq!(
        net.node(1).activate_key(now, NEW.id()),
        Err(KeyError::Unknown)
    );
    assert!(all_up(&net));
    let mut alone = Instance::new(config(1, 1), [1; 32], now);
    assert_eq!(alone.add_key(NEW), Err(KeyError::NoCluster));
    assert!(alone.keys().is_empty());
}
