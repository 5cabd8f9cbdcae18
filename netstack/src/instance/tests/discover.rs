//! Members that were found by beacon: they serve, are asked, leave and die, and never vote.

use super::*;
use crate::cluster::beacon::{Beacon, service_digest};
use crate::cluster::keys::Key;
use crate::instance::discover::{FORGET, LEAVE, MAX_FOUND};

/// The members `voters` know each other; all others up to `count` want to be found.
fn configs(voters: &[u32], count: u32) -> Vec<InstanceConfig> {
    let role = |id: u32| {
        let mut config = config(id, count);
        let votes = voters.contains(&id);
        config.discover = match votes {
            true => Discover::On,
            false => Discover::Join,
        };
        config
            .peers
            .retain(|peer| votes && voters.contains(&peer.id.0));
        config.ingress = MemberId(voters[0]);
        config
    };
    (1..=count).map(role).collect()
}

fn net_of(configs: Vec<InstanceConfig>, seed: u8) -> Net {
    let now = Instant::from_millis(1_000);
    let nodes = configs.into_iter().zip(1u8..);
    let nodes = nodes.map(|(config, place)| Node::new(config, seed.wrapping_mul(31) ^ place, now));
    Net::with(nodes.collect(), seed, now)
}

/// Three voters, and a fourth member that they have found.
fn four(seed: u8) -> Net {
    let mut net = net_of(configs(&[1, 2, 3], 4), seed);
    net.run_for(Duration::from_secs(4));
    net
}

fn is_up(net: &mut Net, at: u32, peer: u32) -> bool {
    let members = net.node(at).members();
    members
        .iter()
        .any(|member| member.id == MemberId(peer) && member.up)
}

fn knows(net: &mut Net, at: u32, peer: u32) -> bool {
    let members = net.node(at).members();
    members.iter().any(|member| member.id == MemberId(peer))
}

fn digest() -> [u8; 8] {
    let services = [("echo", ECHO), ("bulk", BULK)];
    service_digest(services.into_iter(), [VIP].into_iter())
}

/// Sessions there.
fn load(net: &mut Net, at: u32) -> usize {
    net.node(at).sessions().len()
}

fn connect_many(net: &mut Net, count: usize) {
    for _ in 0..count {
        net.connect(ECHO, stream(0, 100), false);
        net.run_for(Duration::from_millis(10));
    }
    net.run_until_received(Duration::from_secs(5), 100);
}

/// Reboot an instance.
fn reboot(net: &mut Net, id: u32, config: InstanceConfig, seed: u8) {
    net.nodes[id as usize - 1] = Node::new(config, seed, net.now);
}

#[test]
fn a_fourth_member_is_found_by_three_and_takes_sessions() {
    let mut net = four(1);
    for voter in 1..=3 {
        assert!(is_up(&mut net, voter, 4) && is_up(&mut net, 4, voter));
        assert_eq!(net.counter(voter, "members_found"), 1);
    }
    connect_many(&mut net, 40);
    assert!(load(&mut net, 4) > 0, "new flows are placed there");
    let (now, mine) = (net.now, net.sessions());
    let (session, _) = mine.iter().find(|(_, owner)| *owner == Some(1)).unwrap();
    net.node(1)
        .move_session(now, *session, MemberId(4))
        .unwrap();
    net.run_for(Duration::from_millis(500));
    assert_eq!(net.owner(*session), Some(4), "sessions move there");
}

#[test]
fn it_is_no_voter_and_never_the_ingress() {
    let mut net = four(2);
    let now = net.now;
    for id in 1..=4 {
        let role = net.node(id).role(now);
        let voters: Vec<u32> = role.voters.iter().map(|voter| voter.id.0).collect();
        assert_eq!(voters, [1, 2, 3], "as {id} sees it");
        assert_eq!(role.ingress, Some(MemberId(1)), "as {id} sees it");
    }
    // With two of three voters away there is no majority, whoever else is there.
    net.cut.extend([1, 2]);
    net.run_for(Duration::from_secs(10));
    for id in [3, 4] {
        let now = net.now;
        assert!(!net.node(id).acts_as_ingress(now));
    }
}

#[test]
fn a_joiner_of_a_lower_id_than_the_voters_is_found_too() {
    let mut net = net_of(configs(&[2, 3], 3), 3);
    net.run_for(Duration::from_secs(4));
    for voter in [2, 3] {
        assert!(is_up(&mut net, voter, 1) && is_up(&mut net, 1, voter));
    }
    connect_many(&mut net, 20);
    assert!(load(&mut net, 1) > 0);
}

#[test]
fn a_lone_voter_finds_others() {
    let mut net = net_of(configs(&[1], 3), 4);
    net.run_for(Duration::from_secs(6));
    assert!(is_up(&mut net, 1, 2) && is_up(&mut net, 1, 3));
    assert!(is_up(&mut net, 2, 3), "the voter tells them of each other");
    connect_many(&mut net, 30);
    assert!(load(&mut net, 2) > 0 && load(&mut net, 3) > 0);
}

#[test]
fn a_found_member_that_leaves_gives_its_sessions_away() {
    let mut net = four(5);
    connect_many(&mut net, 20);
    let now = net.now;
    net.node(4).drain(now);
    net.run_until(Duration::from_secs(20), |net| net.nodes[3].drained);
    assert_eq!(load(&mut net, 4), 0);
    assert!(net.conns.iter().all(|conn| !conn.failed));
    net.cut.insert(4);
    net.run_for(FORGET + Duration::from_secs(5));
    assert!((1..=3).all(|id| !knows(&mut net, id, 4)), "it is forgotten");
    assert_eq!(net.sessions().len(), 20, "and nothing is lost");
}

#[test]
fn flows_of_a_found_member_that_is_away_are_not_reset_by_voters_that_boot() {
    let mut net = four(6);
    net.run_for(FORGET);
    connect_many(&mut net, 20);
    let theirs = load(&mut net, 4);
    assert!(theirs > 0);
    net.cut.insert(4);
    let seconds = |n| Duration::from_secs(n);
    net.run_for(seconds(1));
    // Two of three forget all they knew; the third tells them.
    for id in [2, 3] {
        reboot(
            &mut net,
            id,
            configs(&[1, 2, 3], 4)[id as usize - 1].clone(),
            60 + id as u8,
        );
    }
    net.allow_resets = true;
    net.run_for(seconds(3));
    let now = net.now;
    for conn in &net.conns {
        let ours = Bytes::from(stream(100, 150));
        net.client.update(now, conn.conn, |tcp| tcp.send(now, ours));
    }
    net.run_for(seconds(3));
    assert!(
        knows(&mut net, 2, 4) || knows(&mut net, 3, 4),
        "told by the first"
    );
    let failed = net.conns.iter().filter(|conn| conn.failed).count();
    let lost = 20 - net.sessions().len();
    assert!(
        failed <= lost,
        "{failed} reset of {lost} whose owner booted"
    );
    // It comes back in time: what it had goes on.
    net.cut.remove(&4);
    net.run_for(seconds(5));
    assert_eq!(load(&mut net, 4), theirs);
}

#[test]
fn a_cluster_that_boots_resets_nothing_that_a_found_member_may_have() {
    let mut net = four(7);
    net.run_for(FORGET);
    connect_many(&mut net, 20);
    let theirs = load(&mut net, 4);
    assert!(theirs > 0);
    // All voters at once, while the fourth cannot be reached.
    net.cut.insert(4);
    for id in 1..=3 {
        reboot(
            &mut net,
            id,
            configs(&[1, 2, 3], 4)[id as usize - 1].clone(),
            70 + id as u8,
        );
    }
    net.run_for(Duration::from_secs(4));
    let now = net.now;
    for conn in &net.conns {
        let ours = Bytes::from(stream(100, 150));
        net.client.update(now, conn.conn, |tcp| tcp.send(now, ours));
    }
    net.run_for(Duration::from_secs(4));
    assert_eq!(net.resets, 0, "nobody can say that they are nobody's");
    net.cut.remove(&4);
    net.allow_resets = true;
    net.run_for(FORGET + Duration::from_secs(10));
    assert_eq!(load(&mut net, 4), theirs);
    let failed = net.conns.iter().filter(|conn| conn.failed).count();
    assert_eq!(
        failed,
        20 - theirs,
        "the others are reset once that is sure"
    );
}

/// A cookie is taken on everybody's no, and for `FORGET` nobody knows who everybody is. So until then no client is
/// told that it is connected by somebody who does not remember it.
#[test]
fn no_cookie_is_given_before_it_would_be_taken() {
    let mut configs = configs(&[1, 2, 3], 4);
    for config in &mut configs {
        config.stack.tcp.max_half_open = 1;
    }
    let mut net = net_of(configs, 1);
    net.run_for(Duration::from_secs(4));
    let cookies = |net: &Net| -> u64 {
        let counters = net.nodes.iter().map(|node| node.instance.stack.counters());
        let sent = |(name, count)| (name == "syn_cookies_sent").then_some(count);
        counters
            .map(|all| all.into_iter().find_map(sent).expect("a counter"))
            .sum()
    };
    for early in [true, false] {
        for _ in 0..24 {
            net.connect(ECHO, stream(0, 100), false);
        }
        net.run_for(Duration::from_secs(15));
        assert_eq!(cookies(&net) == 0, early);
        net.run_for(FORGET);
    }
    assert!(net.conns.iter().all(|conn| conn.received.len() == 100));
    assert_eq!(net.resets, 0);
}

#[test]
fn a_found_member_that_dies_is_forgotten_and_its_flows_are_reset() {
    let mut net = four(8);
    net.run_for(FORGET);
    connect_many(&mut net, 20);
    let theirs = load(&mut net, 4);
    assert!(theirs > 0);
    net.cut.insert(4);
    let now = net.now;
    for conn in &net.conns {
        let ours = Bytes::from(stream(100, 150));
        net.client.update(now, conn.conn, |tcp| tcp.send(now, ours));
    }
    net.run_for(LEAVE - Duration::from_secs(1));
    assert!(net.conns.iter().all(|conn| !conn.failed), "not yet");
    net.allow_resets = true;
    net.run_for(FORGET * 4);
    let failed = net.conns.iter().filter(|conn| conn.failed).count();
    assert_eq!(failed, theirs, "theirs, and no others");
    assert_eq!(net.node(4).movable_count(), 0, "it has ended them itself");
    // It comes back, and is found again.
    net.cut.remove(&4);
    net.run_for(Duration::from_secs(10));
    assert!((1..=3).all(|id| is_up(&mut net, id, 4)));
}

#[test]
fn without_the_voters_leave_nothing_is_placed_there() {
    let mut net = net_of(configs(&[1, 2, 3], 4), 9);
    // Only one of the three can be reached: it is not half of them.
    net.cut_pairs.extend([(1, 4), (2, 4)]);
    net.run_for(Duration::from_secs(5));
    assert!(is_up(&mut net, 3, 4));
    connect_many(&mut net, 20);
    assert_eq!(load(&mut net, 4), 0);
    let (now, owned) = (net.now, net.sessions());
    let (session, _) = owned.iter().find(|(_, owner)| *owner == Some(3)).unwrap();
    let _ = net.node(3).move_session(now, *session, MemberId(4));
    net.run_for(Duration::from_secs(1));
    assert_eq!(net.owner(*session), Some(3), "refused");
    net.cut_pairs.clear();
    net.run_for(Duration::from_secs(5));
    connect_many(&mut net, 20);
    assert!(load(&mut net, 4) > 0);
}

#[test]
fn strangers_liars_and_repeaters_change_nothing_but_counters() {
    let mut net = four(10);
    let send = |net: &mut Net, octets: &[u8]| {
        net.client.group_send(address(CLIENT), BEACON_PORT, octets);
        net.run_for(Duration::from_millis(400));
    };
    let service = digest();
    let beacon = |member: u32, at: IpAddr| Beacon {
        member: MemberId(member),
        address: at,
        voter: false,
        version: 1,
        service,
    };
    let boot = BootId([0xbd; 16]);
    let good = Key(KEY);
    let here = address(CLIENT);
    let sealed = |beacon: Beacon, key: &Key, count| beacon.seal(key, boot, count).unwrap();
    let cases = [
        (alloc::vec![7; 90], "beacons_malformed"),
        (
            sealed(beacon(9, here), &Key([1; 32]), 1),
            "beacons_wrong_key",
        ),
        (
            sealed(beacon(9, address(5)), &good, 2),
            "beacons_from_elsewhere",
        ),
        (sealed(beacon(1, here), &good, 3), "beacons_of_our_id"),
        (sealed(beacon(2, here), &good, 4), "beacons_of_a_taken_id"),
        (sealed(beacon(4, here), &good, 5), "beacons_of_a_taken_id"),
        (sealed(beacon(4, here), &good, 5), "beacons_repeated"),
    ];
    for (datagram, counter) in cases {
        let before = net.counter(1, counter);
        send(&mut net, &datagram);
        assert_eq!(net.counter(1, counter), before + 1, "{counter}");
    }
    let mut other = beacon(9, here);
    other.service = [0; 8];
    send(&mut net, &sealed(other, &good, 6));
    assert_eq!(net.counter(1, "beacons_of_other_services"), 1);
    let mut voter = beacon(9, here);
    voter.voter = true;
    send(&mut net, &sealed(voter, &good, 7));
    assert_eq!(net.counter(1, "beacons_of_unlisted_voters"), 1);
    assert_eq!(net.node(1).members().len(), 3, "nobody was taken in");
    assert!((1..=3).all(|id| is_up(&mut net, id, 4)));
}

#[test]
fn a_flood_of_beacons_is_bounded_in_work_and_in_members() {
    let mut net = four(11);
    let service = digest();
    let boot = BootId([0xbd; 16]);
    // Whoever holds the key and sends from everywhere.
    for round in 0..200u32 {
        for id in 0..40u32 {
            let number = round * 40 + id;
            let at = IpAddr::from([10, 77, 0, 100 + (number % 150) as u8]);
            let beacon = Beacon {
                member: MemberId(1_000 + number),
                address: at,
                voter: false,
                version: 1,
                service,
            };
            let datagram = beacon.seal(&Key(KEY), boot, u64::from(number)).unwrap();
            net.client.group_send(at, BEACON_PORT, &datagram);
        }
        net.run_for(Duration::from_millis(100));
    }
    let found = net.node(1).members().len();
    assert!(found <= 2 + MAX_FOUND, "{found} members");
    assert!(net.counter(1, "beacons_limited") > 1_000);
    assert!(net.node(1).discovery_sources() <= 64);
    connect_many(&mut net, 5);
}

#[test]
fn while_the_key_is_changed_members_are_found_under_either() {
    let mut configs = configs(&[1, 2, 3], 4);
    configs[3].cluster_key = Some([8; 32]);
    let mut net = net_of(configs, 12);
    net.run_for(Duration::from_secs(2));
    assert!(!knows(&mut net, 1, 4));
    assert!(net.counter(1, "beacons_wrong_key") > 0);
    for id in 1..=3 {
        net.node(id).add_key(Key([8; 32])).unwrap();
    }
    net.run_for(Duration::from_secs(4));
    assert!((1..=3).all(|id| knows(&mut net, id, 4)));
}

#[test]
fn a_second_member_of_one_id_is_refused_and_owns_nothing() {
    for id in [4, 2] {
        let mut configs = configs(&[1, 2, 3], 5);
        configs[4].id = MemberId(id);
        let mut net = net_of(configs, 13);
        net.run_for(Duration::from_secs(5));
        assert!(net.counter(1, "beacons_of_a_taken_id") > 0);
        connect_many(&mut net, 30);
        assert!(load(&mut net, 4) > 0);
        assert_eq!(load(&mut net, 5), 0, "as another {id}");
    }
}

#[test]
fn one_of_two_voters_is_enough_for_a_found_member() {
    let mut net = net_of(configs(&[1, 2], 3), 14);
    net.run_for(FORGET + Duration::from_secs(4));
    connect_many(&mut net, 20);
    let theirs = load(&mut net, 3);
    assert!(theirs > 0);
    let now = net.now;
    net.node(2).drain(now);
    net.run_until(Duration::from_secs(20), |net| net.nodes[1].drained);
    net.cut.insert(2);
    net.run_for(FORGET * 2);
    assert!(
        load(&mut net, 3) >= theirs,
        "it has leave from the one that stays"
    );
    assert_eq!(net.sessions().len(), 20);
    // And unknown flows are still decided.
    net.allow_resets = true;
    let stray = net.connect(ECHO, stream(0, 10), false);
    net.run_until(Duration::from_secs(5), |net| {
        net.conns[stray].received.len() == 10
    });
    reboot(&mut net, 3, configs(&[1, 2], 3)[2].clone(), 99);
    net.run_for(Duration::from_secs(5));
    let now = net.now;
    for conn in &net.conns {
        let ours = Bytes::from(stream(100, 150));
        net.client.update(now, conn.conn, |tcp| tcp.send(now, ours));
    }
    net.run_for(FORGET);
    let failed = net.conns.iter().filter(|conn| conn.failed).count();
    assert_eq!(failed, 21 - net.sessions().len(), "those that it lost");
    assert!(failed > 0);
}

#[test]
fn sessions_stay_whole_while_they_move_to_and_from_found_members_on_a_bad_wire() {
    for seed in 20..26 {
        let mut net = net_of(configs(&[1, 2, 3], 5), seed);
        net.faults = Faults {
            loss: 20,
            duplicate: 20,
            reorder: 50,
        };
        net.run_for(Duration::from_secs(8));
        for _ in 0..4 {
            net.connect(BULK, Vec::new(), false);
            net.connect(ECHO, stream(0, 30_000), false);
        }
        let mut rng = Rng::new(&[seed; 32], *b"moves   ");
        for _ in 0..60 {
            net.run_for(Duration::from_millis(rng.below(40) as u64));
            let (now, all) = (net.now, net.sessions());
            let owned: Vec<_> = all
                .iter()
                .filter_map(|(id, at)| Some((*id, (*at)?)))
                .collect();
            if let Some((session, owner)) = owned.get(rng.below(owned.len())) {
                let to = MemberId(1 + rng.below(5) as u32);
                let _ = net.node(*owner).move_session(now, *session, to);
            }
        }
        net.run_until(Duration::from_secs(60), |net| {
            assert!(net.conns.iter().all(|conn| !conn.failed), "seed {seed}");
            net.conns.iter().all(|conn| match conn.to_send.len() {
                0 => conn.received.len() as u64 == BULK_OCTETS,
                sent => conn.received.len() == sent,
            })
        });
        for conn in &net.conns {
            assert_eq!(conn.received, stream(0, conn.received.len() as u64));
        }
    }
}

#[test]
fn voters_that_die_one_after_the_other_do_not_keep_a_found_member_from_new_sessions() {
    let mut net = net_of(configs(&[1, 2, 3, 4, 5], 6), 15);
    net.run_for(Duration::from_secs(5));
    for dead in [2, 3] {
        net.cut.insert(dead);
        net.run_for(Duration::from_secs(12));
    }
    connect_many(&mut net, 20);
    assert!(load(&mut net, 6) > 0);
}

/// The address of `id` in IPv6 (the virtual one for 0), and the client's.
fn six(id: u32) -> IpAddr {
    IpAddr::from([0xfd77, 0, 0, 0, 0, 0, 0, 0x10 + id as u16])
}

/// Three voters that know each other by IPv6 and a fourth that is to be found, each with those addresses; and
/// a client with IPv6.
fn four_by_six(seed: u8, addresses: impl Fn(u32) -> Vec<IpAddr>) -> Net {
    let mut configs = configs(&[1, 2, 3], 4);
    let cidr = |address: IpAddr| Cidr {
        address,
        prefix: if address.is_ipv4() { 24 } else { 64 },
    };
    for config in &mut configs {
        config.stack.addresses = addresses(config.id.0).into_iter().map(cidr).collect();
        config.stack.vips = alloc::vec![six(0)];
        for peer in &mut config.peers {
            peer.address = six(peer.id.0);
        }
    }
    let mut net = net_of(configs, seed);
    let mut client = stack_config(CLIENT, Vec::new());
    client.addresses = alloc::vec![cidr(six(CLIENT))];
    net.client = Stack::new(client, [seed; 32], net.now);
    net.run_for(Duration::from_secs(4));
    for voter in 1..=3 {
        assert!(is_up(&mut net, voter, 4) && is_up(&mut net, 4, voter));
    }
    let members = net.node(1).members();
    assert!(members.iter().all(|member| member.address.is_ipv6()));
    for _ in 0..20 {
        net.connect_to(six(0), ECHO, stream(0, 100), false);
        net.run_for(Duration::from_millis(10));
    }
    net.run_until_received(Duration::from_secs(5), 100);
    assert!(load(&mut net, 4) > 0, "it serves");
    assert_eq!(net.counter(4, "rosters_contradict"), 0);
    net
}

#[test]
fn members_are_found_where_there_is_no_ipv4() {
    let net = four_by_six(16, |id| alloc::vec![six(id)]);
    assert_eq!(net.counter(1, "beacons_of_the_other_version"), 0);
}

#[test]
fn members_with_addresses_of_both_versions_are_found_by_the_one_the_voters_use() {
    let net = four_by_six(17, |id| alloc::vec![address(id), six(id)]);
    assert_eq!(net.counter(1, "members_found"), 1);
    assert!(net.counter(1, "beacons_of_the_other_version") > 0);
    let taken = net.counter(1, "beacons_of_a_taken_id");
    assert_eq!(taken, 0, "one member, whichever beacon of it came");
}
