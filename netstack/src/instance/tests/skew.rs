//! Instances of different releases: states of several versions, contents that not all have.

use super::*;
use crate::session::{ContentId, States};
use sha2::{Digest, Sha256};

const LONG: Duration = Duration::from_secs(60);

/// The bulk service of a release with other states, and maybe another content.
fn release(id: u32, members: u32, edition: Edition) -> Node {
    let now = Instant::from_millis(1_000);
    Node::of(config(id, members), 40 + id as u8, now, edition)
}

fn version(oldest: u32, newest: u32) -> Edition {
    Edition {
        reads: oldest..=newest,
        slow: true,
        ..Edition::default()
    }
}

/// One that sends this content, and has no other.
fn content(seed: u64) -> Edition {
    let octets = stream(seed, seed + BULK_OCTETS);
    Edition {
        content: Some(Bytes::from(octets)),
        slow: true,
        ..Edition::default()
    }
}

fn net(editions: Vec<Edition>, seed: u8) -> Net {
    let members = editions.len() as u32;
    let nodes = (1..).zip(editions);
    let nodes = nodes.map(|(id, edition)| release(id, members, edition));
    let mut net = Net::with(nodes.collect(), seed, Instant::from_millis(1_000));
    net.settle();
    net
}

/// A download that begins at instance 1, the others being full at that moment.
fn download(net: &mut Net, octets: usize) -> SessionId {
    let set_limit = |net: &mut Net, limit: u32| {
        let now = net.now;
        for node in &mut net.nodes[1..] {
            node.instance.tcp.max_connections = limit;
            node.instance.beat(now);
            node.instance.pump(now);
        }
        net.run_for(Duration::from_millis(50));
    };
    set_limit(net, 0);
    net.connect(BULK, Vec::new(), false);
    net.run_until(LONG, |net| !net.sessions().is_empty());
    set_limit(net, 1_000);
    net.run_until_received(LONG, octets);
    let [(session, Some(1))] = net.sessions()[..] else {
        panic!("one session, at instance 1");
    };
    session
}

fn finish(net: &mut Net, expected: &[u8]) {
    net.run_until(LONG, |net| {
        assert!(!net.conns[0].failed, "the client noticed");
        net.conns[0].ended
    });
    assert!(net.conns[0].received == expected, "the stream is exact");
    assert_eq!(net.resets, 0);
}

/// Move at every `every`-th packet to whoever has not got it; how often it moved and was refused.
fn shuffle(net: &mut Net, session: SessionId, every: u64) -> (u64, u64) {
    let members = net.nodes.len() as u32;
    let mut next = net.packets + every;
    net.run_until(LONG, |net| {
        if net.packets >= next
            && let Some(owner) = net.owner(session)
        {
            next = net.packets + every;
            let now = net.now;
            let _ = net
                .node(owner)
                .move_session(now, session, MemberId(owner % members + 1));
        }
        assert!(!net.conns[0].failed, "the client noticed");
        net.conns[0].ended
    });
    let sum = |name| (1..=members).map(|id| net.counter(id, name)).sum();
    (sum("moves_accepted"), sum("moves_refused"))
}

#[test]
fn a_newer_release_takes_what_it_reads_and_no_older_one_takes_it_back() {
    for every in [1, 3, 10] {
        let mut net = net(alloc::vec![version(1, 1), version(1, 2)], 3);
        let session = download(&mut net, 5_000);
        let (moves, refusals) = shuffle(&mut net, session, every);
        // What had not committed in the new release may go back.
        assert!(moves > 0, "every {every}");
        assert!(refusals > 0, "every {every}");
        assert!(net.counter(1, "transfer_refused_state_version") > 0);
        assert_eq!(
            net.counter(2, "moves_refused"),
            refusals,
            "only by the old one"
        );
        assert!(net.conns[0].received == stream(0, BULK_OCTETS));
        assert_eq!(net.resets, 0);
    }
}

#[test]
fn a_state_is_handed_on_under_the_version_it_was_committed_in() {
    // Through an instance of the new release that never commits, on to one that reads only the old.
    let mut net = net(alloc::vec![version(1, 1), version(1, 2), version(1, 1)], 5);
    let session = download(&mut net, 20_000);
    net.nodes[1].paused = true;
    for to in [2, 3] {
        let now = net.now;
        let from = net.owner(session).unwrap();
        net.node(from)
            .move_session(now, session, MemberId(to))
            .unwrap();
        net.run_until(LONG, |net| net.owner(session) == Some(to));
        net.run_for(Duration::from_millis(120));
    }
    finish(&mut net, &stream(0, BULK_OCTETS));
}

#[test]
fn a_drain_gives_a_state_to_whoever_reads_it_however_old() {
    let mut net = net(alloc::vec![version(1, 1), version(1, 2)], 41);
    let session = download(&mut net, 3_000);
    // It is not committed anew there.
    net.nodes[1].paused = true;
    let now = net.now;
    net.node(1).move_session(now, session, MemberId(2)).unwrap();
    net.run_until(LONG, |net| net.owner(session) == Some(2));
    let now = net.now;
    net.node(2).drain(now);
    net.run_until(Duration::from_secs(20), |net| net.nodes[1].drained);
    assert_eq!(net.owner(session), Some(1));
    finish(&mut net, &stream(0, BULK_OCTETS));
}

#[test]
fn versions_too_old_are_refused() {
    let mut net = net(alloc::vec![version(1, 1), version(2, 3)], 6);
    let session = download(&mut net, 20_000);
    let now = net.now;
    net.node(1).move_session(now, session, MemberId(2)).unwrap();
    net.run_until(LONG, |net| net.counter(1, "moves_refused") == 1);
    finish(&mut net, &stream(0, BULK_OCTETS));
}

#[test]
fn a_state_that_does_not_decode_is_refused_and_served_on() {
    let garbled = Edition {
        garbles: true,
        slow: true,
        ..Edition::default()
    };
    let mut net = net(alloc::vec![garbled, Edition::default()], 7);
    let session = download(&mut net, 20_000);
    let (moves, refusals) = shuffle(&mut net, session, 5);
    assert!(
        moves == 0 && refusals > 5,
        "{moves} moves, {refusals} refusals"
    );
    assert_eq!(net.counter(2, "transfer_refused_bad_state"), refusals);
    assert!(net.conns[0].received == stream(0, BULK_OCTETS));
}

#[test]
fn a_download_takes_its_content_along_from_instance_to_instance() {
    // Three releases with other contents; one move each is refused, and made up for.
    let mut net = net(alloc::vec![content(7), content(1_000), content(2_000)], 8);
    let session = download(&mut net, 20_000);
    let expected = stream(7, 7 + BULK_OCTETS);
    let (moves, refusals) = shuffle(&mut net, session, 20);
    assert!(moves >= 3, "{moves} moves");
    assert!(refusals <= 3, "fetched once by each: {refusals} refusals");
    assert!(
        net.conns[0].received == expected,
        "the same content to the end"
    );
    assert_eq!(net.resets, 0);
    net.run_for(Duration::from_secs(60));
    for id in 1..=3 {
        assert!(net.node(id).contents.is_empty(), "nobody needs it any more");
    }
}

#[test]
fn whatever_the_wire_does_a_stream_stays_one_content() {
    let faults = Faults {
        loss: 20,
        duplicate: 20,
        reorder: 50,
    };
    let (mut moves, mut refusals) = (0, 0);
    for seed in 1..=12 {
        let mixed = |first: u64, reads| Edition {
            reads,
            ..content(first)
        };
        let editions = alloc::vec![mixed(7, 1..=1), mixed(1_000, 1..=2), mixed(2_000, 2..=3),];
        let mut net = net(editions, seed);
        let session = download(&mut net, 5_000);
        net.faults = faults;
        let (moved, refused) = shuffle(&mut net, session, 3 + u64::from(seed));
        moves += moved;
        refusals += refused;
        let expected = stream(7, 7 + BULK_OCTETS);
        assert!(net.conns[0].received == expected, "seed {seed}");
        assert_eq!(net.resets, 0, "seed {seed}");
    }
    assert!(
        moves >= 12 && refusals >= 24,
        "{moves} moves, {refusals} refusals"
    );
}

#[test]
fn a_channel_that_breaks_under_a_content_costs_a_move_and_nothing_else() {
    let mut net = net(alloc::vec![content(7), content(1_000)], 12);
    let session = download(&mut net, 20_000);
    let now = net.now;
    net.node(1).move_session(now, session, MemberId(2)).unwrap();
    net.run_until(LONG, |net| net.counter(1, "contents_sent") == 1);
    net.cut_channels = true;
    finish(&mut net, &stream(7, 7 + BULK_OCTETS));
    assert_eq!(net.counter(1, "moves_accepted"), 0);
    net.run_for(Duration::from_secs(20));
    net.cut_channels = false;
    net.run_for(Duration::from_secs(20));
    for id in 1..=2 {
        assert!(
            net.node(id).contents.is_empty(),
            "instance {id} keeps a part of it"
        );
    }
}

#[test]
fn a_move_for_which_a_content_is_fetched_needs_one_command_and_one_refusal() {
    let mut net = net(alloc::vec![content(7), content(1_000)], 9);
    let session = download(&mut net, 20_000);
    let now = net.now;
    net.node(1).move_session(now, session, MemberId(2)).unwrap();
    net.run_until(LONG, |net| net.node(1).moves().len() == 2);
    let moves = net.node(1).moves();
    let results: Vec<&str> = moves.iter().map(|m| &*m.result).collect();
    assert_eq!(results, ["refused: content missing", "accepted"]);
    assert_eq!(net.counter(1, "contents_sent"), 1);
    assert_eq!(net.counter(2, "contents_fetched"), 1);
    finish(&mut net, &stream(7, 7 + BULK_OCTETS));
}

#[test]
fn a_content_without_a_place_leaves_the_session_where_it_is() {
    let mut small = config(2, 2);
    // A quarter of it is less than the content.
    small.stack.tcp.memory = 512 * 1024;
    let now = Instant::from_millis(1_000);
    let nodes = alloc::vec![
        release(1, 2, content(7)),
        Node::of(small, 42, now, content(1_000)),
    ];
    let mut net = Net::with(nodes, 10, now);
    net.settle();
    let session = download(&mut net, 10_000);
    for tries in 1..=2 {
        let now = net.now;
        net.node(1).move_session(now, session, MemberId(2)).unwrap();
        net.run_until(LONG, |net| net.counter(1, "contents_in_vain") == tries);
    }
    assert_eq!(net.counter(1, "moves_refused"), 4);
    assert_eq!(net.counter(1, "moves_accepted"), 0);
    finish(&mut net, &stream(7, 7 + BULK_OCTETS));
}

#[test]
fn a_drain_takes_contents_along() {
    let mut net = net(alloc::vec![content(7), content(1_000), content(2_000)], 11);
    for _ in 0..6 {
        net.connect(BULK, Vec::new(), false);
    }
    net.run_until_received(LONG, 5_000);
    let now = net.now;
    net.node(1).drain(now);
    net.run_until(LONG, |net| net.nodes[0].drained);
    net.run_until(LONG, |net| {
        net.conns.iter().all(|conn| conn.ended || conn.failed)
    });
    for conn in &net.conns {
        let streams = [7, 1_000, 2_000].map(|seed| stream(seed, seed + BULK_OCTETS));
        assert!(
            streams.contains(&conn.received),
            "one content from the first octet to the last"
        );
    }
    assert_eq!(net.resets, 0);
}

#[test]
fn only_what_its_digest_says_is_kept() {
    let mut node = release(1, 2, Edition::default()).instance;
    let octets = stream(3, 3 + 100_000);
    let id = ContentId(Sha256::digest(&octets).into());
    let now = Instant::from_millis(1_000);
    let piece = |id, total: usize, offset: usize| crate::cluster::message::Content {
        id,
        total: total as u32,
        offset: offset as u32,
    };
    let give = |node: &mut Instance, id, total, from: usize, until: usize| {
        let part = crate::migrate::rope::Rope::from(octets[from..until].to_vec());
        node.handle_content(now, MemberId(2), piece(id, total, from), part);
    };
    let none = |node: &Instance| node.content(&id).is_none();
    // Another content under its name; a part left out; more than was announced; nothing at all.
    let other = ContentId([1; 32]);
    give(&mut node, other, 100_000, 0, 100_000);
    assert!(node.content(&other).is_none());
    give(&mut node, id, 100_000, 0, 40_000);
    give(&mut node, id, 100_000, 50_000, 100_000);
    assert!(none(&node));
    give(&mut node, id, 50_000, 0, 100_000);
    assert!(none(&node));
    give(&mut node, id, 100_000, 0, 0);
    assert!(none(&node));
    give(&mut node, id, 1 << 31, 0, 100_000);
    assert!(none(&node));
    assert!(node.contents.is_empty(), "and nothing is left of it");
    for from in (0..100_000).step_by(25_000) {
        assert!(none(&node));
        give(&mut node, id, 100_000, from, from + 25_000);
    }
    assert_eq!(node.content(&id).as_deref(), Some(&octets[..]));
}

#[test]
fn what_is_kept_has_a_bound() {
    let mut node = release(1, 2, Edition::default()).instance;
    let mut now = Instant::from_millis(1_000);
    let most = node.tcp.memory.min(32 << 20) / 4;
    for seed in 0..100u64 {
        let octets = stream(seed, seed + 700_000);
        let content = crate::cluster::message::Content {
            id: ContentId(Sha256::digest(&octets).into()),
            total: octets.len() as u32,
            offset: 0,
        };
        node.handle_content(now, MemberId(2), content, octets.into());
        // One that never comes whole.
        let content = crate::cluster::message::Content {
            id: ContentId([seed as u8; 32]),
            ..content
        };
        let part = crate::migrate::rope::Rope::from(alloc::vec![0; 1000]);
        node.handle_content(now, MemberId(2), content, part);
        assert!(node.contents.octets() <= most);
        now += Duration::from_millis(700);
    }
    assert!(
        node.counters.get("contents_fetched") > 50,
        "old ones gave way"
    );
}

/// What differs between releases of the test's bulk service.
#[derive(Clone)]
pub(in crate::instance) struct Edition {
    pub reads: core::ops::RangeInclusive<u32>,
    /// What it sends in place of the pattern; named by the states.
    pub content: Option<Bytes>,
    /// It commits states that nobody can decode.
    pub garbles: bool,
    /// It sends a piece each millisecond and no more.
    pub slow: bool,
}

impl Default for Edition {
    fn default() -> Edition {
        Edition {
            reads: 1..=1,
            content: None,
            garbles: false,
            slow: false,
        }
    }
}

impl Edition {
    pub fn id(&self) -> Option<ContentId> {
        let content = self.content.as_ref()?;
        Some(ContentId(Sha256::digest(content).into()))
    }
}

/// An offset, then the content's name if there is one. Each version puts as many octets before
/// it as it has, so that one taken for another would be noticed.
pub(super) fn encode(version: u32, offset: u64, id: Option<ContentId>) -> Vec<u8> {
    let mut octets = alloc::vec![0xaa; version as usize];
    octets.extend(offset.to_le_bytes());
    octets.extend(id.iter().flat_map(|id| id.0));
    octets
}

pub(super) fn decode(version: u32, octets: &[u8]) -> Option<(u64, Option<ContentId>)> {
    let (lead, rest) = octets.split_at_checked(version as usize)?;
    let (offset, id) = rest.split_first_chunk()?;
    let id = match id {
        [] => None,
        id => Some(ContentId(id.try_into().ok()?)),
    };
    let fine = lead.iter().all(|octet| *octet == 0xaa);
    fine.then_some((u64::from_le_bytes(*offset), id))
}

impl States for Edition {
    fn names(&self, version: u32, state: &[u8]) -> Option<Vec<ContentId>> {
        Some(decode(version, state)?.1.into_iter().collect())
    }

    fn content(&self, id: &ContentId) -> Option<Bytes> {
        self.content.clone().filter(|_| self.id() == Some(*id))
    }
}
