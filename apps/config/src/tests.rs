use super::*;
use alloc::format;

use godwit_netstack::instance::{DrainThen, Trigger};

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";

const OLD_KEY: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff01";

#[test]
fn every_key_lands_where_it_belongs() {
    let text = format!(
        "id=2 ip=10.77.0.12/24 ip=fd77::12/64\ngw=10.77.0.1 gw=fd77::1\tvip=10.77.0.10 \
         vip=fd77::10 peer=1@10.77.0.11 ingress=1 cluster_key={KEY} admin_port=9200 \
         admin_token=open-sesame port=8080 log=debug priority=200 preempt=on witness=1 \
         prefer=availability lease=4s heartbeat=250ms cluster_key_old={OLD_KEY} \
         policy=load,flood policy_dry_run=on policy_margin=50 policy_hold=9s policy_syn_rate=77"
    );
    let config = Config::parse(&[&text]).unwrap();
    assert_eq!(config.id, MemberId(2));
    assert_eq!(config.addresses.len(), 2);
    assert_eq!(config.addresses[1].prefix, 64);
    assert_eq!(config.gateways.len(), 2);
    assert_eq!(config.vips.len(), 2);
    assert_eq!(config.peers[0].id, MemberId(1));
    assert_eq!(config.ingress, MemberId(1));
    assert_eq!(config.cluster_key.unwrap().expose()[..2], [0x00, 0x11]);
    assert_eq!(config.old_keys[0].expose()[31], 1);
    let policy = PolicyConfig {
        triggers: [Trigger::Load, Trigger::Flood].into(),
        dry_run: true,
        margin: 50,
        hold: Duration::from_secs(9),
        syn_rate: 77,
    };
    assert_eq!(config.policy, policy);
    assert_eq!(config.admin_port, 9200);
    assert_eq!(config.admin_token.unwrap().expose(), "open-sesame");
    assert_eq!(config.port, Some(8080));
    assert_eq!(config.log, LevelFilter::Debug);
    let role = RoleConfig {
        priority: 200,
        preempt: true,
        prefer: Prefer::Availability,
        witnesses: [MemberId(1)].into(),
        times: Times {
            lease: Duration::from_secs(4),
            heartbeat: Duration::from_millis(250),
        },
    };
    assert_eq!(config.role, role);
}

#[test]
fn who_joins_has_a_key_and_neither_peers_nor_a_vote() {
    let discover = |text: &str| {
        let text = format!("id=4 ip=10.0.0.4/8 vip=10.0.0.10 {text}");
        Config::parse(&[&text]).map(|config| config.discover)
    };
    let key = format!("cluster_key={KEY}");
    assert_eq!(discover(""), Ok(Discover::Off));
    assert_eq!(
        discover(&format!("discover=join {key}")),
        Ok(Discover::Join)
    );
    let voter = format!("discover=on peer=2@10.0.0.2 {key}");
    assert_eq!(discover(&voter), Ok(Discover::On));
    let at_fault = |text: &str| match discover(text) {
        Err(ConfigError::Missing { key, .. } | ConfigError::Conflict { key, .. }) => key,
        other => panic!("{other:?}"),
    };
    assert_eq!(at_fault("discover=join"), "cluster_key");
    assert_eq!(at_fault("discover=on"), "cluster_key");
    let peers = format!("discover=join peer=2@10.0.0.2 {key}");
    assert_eq!(at_fault(&peers), "discover");
}

#[test]
fn a_drain_waits_a_minute_and_then_forces_unless_told_otherwise() {
    let drain = |text: &str| Config::parse(&[text]).map(|config| config.drain);
    assert_eq!(drain("ip=10.0.0.1/8"), Ok(DrainOptions::default()));
    let other = DrainOptions {
        deadline: Duration::from_secs(5),
        then: DrainThen::Cancel,
    };
    let text = "ip=10.0.0.1/8 drain_deadline=5s drain_then=cancel";
    assert_eq!(drain(text), Ok(other));
    assert!(drain("ip=10.0.0.1/8 drain_deadline=0s").is_err());
    assert!(drain("ip=10.0.0.1/8 drain_then=panic").is_err());
}

#[test]
fn a_short_lease_has_short_heartbeats() {
    let times = |text: &str| Config::parse(&[text]).unwrap().role.times;
    assert_eq!(times("ip=10.0.0.1/8"), Times::default());
    let short = times("ip=10.0.0.1/8 lease=500ms");
    assert_eq!(short.heartbeat, Duration::from_millis(125));
    assert_eq!(short, short.bounded());
}

#[test]
fn a_bare_address_is_enough() {
    let config = Config::parse(&["", "ip=192.0.2.1/32"]).unwrap();
    assert_eq!(config.id, MemberId(1));
    assert_eq!(config.ingress, MemberId(1));
    assert_eq!(config.admin_port, 9100);
    assert_eq!(config.port, None);
    assert!(!config.dhcp);
}

#[test]
fn later_sources_win_and_lists_grow_without_doubles() {
    let config = Config::parse(&[
        "id=1 ip=10.0.0.1/8 log=warn",
        "id=3 ip=10.0.0.1/8 ip=10.0.0.2/8 log=trace",
    ])
    .unwrap();
    assert_eq!(config.id, MemberId(3));
    assert_eq!(config.addresses.len(), 2);
    assert_eq!(config.log, LevelFilter::Trace);
}

#[test]
fn ingress_defaults_to_the_lowest_id() {
    let text = format!("id=7 ip=10.0.0.7/8 peer=9@10.0.0.9 peer=4@10.0.0.4 cluster_key={KEY}");
    assert_eq!(Config::parse(&[&text]).unwrap().ingress, MemberId(4));
}

#[test]
fn values_out_of_range_name_their_key() {
    for (text, key) in [
        ("id=0", "id"),
        ("id=4294967296", "id"),
        ("id=+1", "id"),
        ("id=", "id"),
        ("id=0x1", "id"),
        ("ip=10.0.0.1", "ip"),
        ("ip=10.0.0.1/33", "ip"),
        ("ip=10.0.0.1/", "ip"),
        ("ip=10.0.0.1/+8", "ip"),
        ("ip=10.0.0.256/8", "ip"),
        ("ip=0.0.0.0/0", "ip"),
        ("ip=127.0.0.1/8", "ip"),
        ("ip=255.255.255.255/32", "ip"),
        ("ip=ff02::1/64", "ip"),
        ("ip=fe80::1%eth0/64", "ip"),
        ("ip=::ffff:10.0.0.1/96", "ip"),
        ("ip=fd00::1/129", "ip"),
        ("gw=example.org", "gw"),
        ("vip=224.0.0.1", "vip"),
        ("peer=10.0.0.1", "peer"),
        ("peer=0@10.0.0.1", "peer"),
        ("peer=1@", "peer"),
        ("peer=1@2@10.0.0.1", "peer"),
        ("discover=yes", "discover"),
        ("ingress=me", "ingress"),
        ("priority=256", "priority"),
        ("preempt=yes", "preempt"),
        ("witness=0", "witness"),
        ("prefer=both", "prefer"),
        ("lease=2", "lease"),
        ("lease=499ms", "lease"),
        ("lease=61s", "lease"),
        ("lease=-1s", "lease"),
        ("lease=99999999999999999999s", "lease"),
        ("heartbeat=19ms", "heartbeat"),
        ("heartbeat=16s", "heartbeat"),
        ("policy=", "policy"),
        ("policy=load,", "policy"),
        ("policy=Load", "policy"),
        ("policy_dry_run=yes", "policy_dry_run"),
        ("policy_margin=4", "policy_margin"),
        ("policy_margin=1001", "policy_margin"),
        ("policy_hold=999ms", "policy_hold"),
        ("policy_hold=601s", "policy_hold"),
        ("policy_syn_rate=9", "policy_syn_rate"),
        ("cluster_key_old=abc", "cluster_key_old"),
        ("cluster_key=", "cluster_key"),
        ("cluster_key=abc", "cluster_key"),
        ("admin_port=0", "admin_port"),
        ("admin_port=65536", "admin_port"),
        ("admin_token=short", "admin_token"),
        ("admin_token=pässwörter", "admin_token"),
        ("port=http", "port"),
        ("connections=63", "connections"),
        ("connections=1000001", "connections"),
        ("ring=4", "ring"),
        ("ring=9", "ring"),
        ("ring=512", "ring"),
        ("log=loud", "log"),
    ] {
        match Config::parse(&[text]) {
            Err(ConfigError::BadValue { key: named, .. }) => assert_eq!(named, key, "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn a_key_of_wrong_digits_is_refused_and_never_shown() {
    let almost = format!("cluster_key={}g", &KEY[..63]);
    let error = Config::parse(&[&almost]).unwrap_err();
    assert!(!format!("{error} {error:?}").contains(&KEY[..16]));
    // Multi-byte characters of the right octet length must not split a character.
    let umlauts = format!("cluster_key={}", "ä".repeat(32));
    assert!(Config::parse(&[&umlauts]).is_err());
}

#[test]
fn unknown_words_are_named_but_shortened() {
    assert_eq!(
        Config::parse(&["ipp=1"]),
        Err(ConfigError::UnknownKey { key: "ipp".into() })
    );
    let long = format!("{}=1", "ü".repeat(5000));
    match Config::parse(&[&long]) {
        Err(ConfigError::UnknownKey { key }) => assert_eq!(key.chars().count(), 32),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        Config::parse(&["id=1 quiet"]),
        Err(ConfigError::NotKeyValue {
            word: Some("quiet".into()),
            place: 2
        })
    );
    assert!(matches!(
        Config::parse(&["=x"]),
        Err(ConfigError::UnknownKey { .. })
    ));
}

#[test]
fn an_unknown_key_names_the_one_that_was_probably_meant() {
    let said = |word: &str| Config::parse(&[word]).unwrap_err().to_string();
    for (word, meant) in [
        ("ipp=1", "ip"),
        ("peers=2@10.0.0.2", "peer"),
        ("cluster-key=0", "cluster_key"),
        ("clusterkey=0", "cluster_key"),
        ("admin_tokne=x", "admin_token"),
        ("heart=1s", "heartbeat"),
        ("drain=1s", "drain_deadline"),
        ("LEASE=2s", "lease"),
        ("watchdgo=5s", "watchdog"),
        ("colour=red", ""),
        ("=x", ""),
    ] {
        match meant {
            "" => assert!(!said(word).contains('?'), "{}", said(word)),
            _ => assert!(
                said(word).ends_with(&format!("(`{meant}`?)")),
                "{}",
                said(word)
            ),
        }
    }
    for key in nearest::KEYS {
        let taken = Config::parse(&[&format!("{key}=?")]);
        assert!(
            !matches!(taken, Err(ConfigError::UnknownKey { .. })),
            "{key}"
        );
    }
}

#[test]
fn a_word_that_may_be_a_secret_is_not_shown() {
    for text in [
        "admin_token=open-sesame sesame",
        KEY,
        "id=1 abcdefghijklmnopqrstuvwxyz",
    ] {
        let error = Config::parse(&[text]).unwrap_err();
        assert!(
            matches!(error, ConfigError::NotKeyValue { word: None, .. }),
            "{error}"
        );
    }
}

#[test]
fn what_further_words_could_put_right_is_open() {
    let cluster = format!("ip=10.0.0.1/8 cluster_key={KEY}");
    // The words in a source, and what a later one says.
    for (words, more) in [
        ("", "ip=dhcp"),
        ("ip=10.0.0.1/8 peer=2@10.0.0.2", &cluster[..]),
        ("CLUSTER peer=1@10.0.0.2", "id=2"),
        ("CLUSTER discover=join peer=2@10.0.0.2", "discover=on"),
        (
            "CLUSTER discover=join witness=1",
            "discover=on peer=2@10.0.0.2",
        ),
        ("CLUSTER ingress=2", "peer=2@10.0.0.2"),
        ("CLUSTER witness=3", "peer=3@10.0.0.3"),
        (
            "CLUSTER peer=2@10.0.0.2 witness=1 witness=2",
            "peer=3@10.0.0.3",
        ),
        ("CLUSTER heartbeat=1s", "lease=4s"),
        ("CLUSTER port=9100", "admin_port=9101"),
        (
            "ip=10.0.0.1/8 service_nic=1 instance_nic=1 instance_ip=fd88::1/64",
            "instance_nic=0",
        ),
        (
            "CLUSTER instance_ip=fd88::1/64 instance_gw=172.16.0.9",
            "instance_ip=172.16.0.1/16",
        ),
        (
            "CLUSTER instance_ip=fd88::1/64 peer=2@172.16.0.2",
            "instance_ip=172.16.0.1/16",
        ),
    ] {
        let words = words.replace("CLUSTER", &cluster);
        let error = Config::parse(&[&words]).expect_err(&words);
        assert!(error.is_open(), "{words}: {error}");
        let put_right = Config::parse(&[&words, more]);
        assert!(put_right.is_ok(), "{words}: {put_right:?}");
    }
    for words in [
        "CLUSTER peer=2@10.0.0.2 peer=2@10.0.0.3",
        "CLUSTER peer=2@10.0.0.2 peer=3@10.0.0.2",
        "CLUSTER peer=2@10.0.0.1",
        "CLUSTER vip=10.0.0.1",
        "CLUSTER gw=10.0.0.8 gw=10.0.0.9",
        "CLUSTER instance_ip=10.0.0.9/8",
        "CLUSTER foo=1",
        "CLUSTER log=loud",
        "CLUSTER quiet",
    ] {
        let words = words.replace("CLUSTER", &cluster);
        let error = Config::parse(&[&words]).expect_err(&words);
        assert!(!error.is_open(), "{words}: {error}");
    }
}

#[test]
fn combinations_that_cannot_work_are_refused() {
    let cluster = |more: &str| {
        let text = format!("id=1 ip=10.0.0.1/8 cluster_key={KEY} {more}");
        Config::parse(&[&text])
    };
    let key = |result: Result<Config, ConfigError>| match result {
        Err(ConfigError::Conflict { key, .. } | ConfigError::Missing { key, .. }) => key,
        other => panic!("{other:?}"),
    };
    assert_eq!(key(cluster("peer=1@10.0.0.2")), "peer");
    assert_eq!(key(cluster("peer=2@10.0.0.2 peer=2@10.0.0.3")), "peer");
    assert_eq!(key(cluster("peer=2@10.0.0.2 peer=3@10.0.0.2")), "peer");
    assert_eq!(key(cluster("peer=2@10.0.0.1")), "peer");
    assert_eq!(key(cluster("vip=10.0.0.1")), "vip");
    assert_eq!(key(cluster("gw=10.0.0.8 gw=10.0.0.9")), "gw");
    assert_eq!(key(cluster("ingress=2")), "ingress");
    assert_eq!(key(cluster("peer=2@10.0.0.2 witness=3")), "witness");
    assert_eq!(
        key(cluster("peer=2@10.0.0.2 witness=1 witness=2")),
        "witness"
    );
    assert_eq!(key(cluster("lease=1s heartbeat=251ms")), "heartbeat");
    assert_eq!(key(cluster("port=9100")), "port");
    assert_eq!(
        key(Config::parse(&["ip=10.0.0.1/8 peer=2@10.0.0.2"])),
        "cluster_key"
    );
    let lonely = format!("ip=10.0.0.1/8 cluster_key_old={KEY}");
    assert_eq!(key(Config::parse(&[&lonely])), "cluster_key");
    assert_eq!(key(Config::parse(&["id=1"])), "ip");
}

#[test]
fn hostile_sizes_are_refused_at_once() {
    let long = "a".repeat(MAX_SOURCE + 1);
    assert_eq!(Config::parse(&[&long]), Err(ConfigError::TooLong));
    let many: String = (0..=MAX_LIST)
        .map(|n| format!("ip=10.1.{}.{}/8 ", n / 250, n % 250 + 1))
        .collect();
    assert_eq!(
        Config::parse(&[&many]),
        Err(ConfigError::ListTooLong { key: "ip" })
    );
}

#[test]
fn secrets_stay_out_of_debug_output() {
    let text = format!(
        "ip=10.0.0.1/8 cluster_key={KEY} cluster_key_old={OLD_KEY} admin_token=open-sesame"
    );
    let config = Config::parse(&[&text]).unwrap();
    let shown = format!("{config:?}");
    assert!(
        !shown.contains("sesame") && !shown.contains("17, 34") && !shown.contains("255, 255"),
        "{shown}"
    );
}

#[test]
fn devices_that_qemu_appends_are_ignored() {
    let config = Config::parse(&["ip=10.0.0.1/8 virtio_mmio.device=512@0xfeb02e00:12"]);
    assert!(config.is_ok());
}

#[test]
fn what_dhcp_says_counts_least_and_once() {
    let own = ["ip=dhcp id=3 connections=64", "vip=10.0.0.10"];
    let config = Config::parse(&own).unwrap();
    let words = b"connections=100 port=8080\nvip=10.0.0.66 ip=10.0.0.67/8 ntp=10.0.0.5\0";
    let more = config.with_lease(words).unwrap().unwrap();
    assert_eq!(more.id, MemberId(3));
    assert_eq!(more.connections, Some(64), "set elsewhere");
    assert_eq!(more.port, Some(8080));
    assert_eq!(more.vips, config.vips, "lists do not grow by it");
    assert!(more.addresses.is_empty());
    assert_eq!(more.time_server, Some(Some("10.0.0.5".parse().unwrap())));
    assert!(more.with_lease(b"port=9").is_none(), "once");
    assert!(config.with_lease(b"id=4 ip=dhcp").is_none(), "nothing new");
    let fixed = Config::parse(&["ip=10.0.0.1/8"]).unwrap();
    assert!(fixed.with_lease(b"port=9").is_none(), "not asked for");
}

#[test]
fn what_dhcp_says_that_makes_no_sense_is_an_error_and_no_panic() {
    let config = Config::parse(&["ip=dhcp"]).unwrap();
    for words in [
        &b"colour=red"[..],
        b"port",
        b"\xff\xfe=1",
        b"peer=2@10.0.0.2",
    ] {
        assert!(config.with_lease(words).unwrap().is_err(), "{words:?}");
    }
    let secret = "cluster_key=".to_owned() + &"ab".repeat(32);
    let more = config.with_lease(secret.as_bytes()).unwrap().unwrap();
    assert!(!alloc::format!("{more:?}").contains("abab"));
}
