//! The agent over its harness: real requests, a real (idle) instance behind it.

use godwit_netstack::instance::{InstanceConfig, Peer, RoleConfig};
use godwit_netstack::stack::{Cidr, DeviceCapabilities, StackConfig};
use godwit_netstack::tcp::TcpConfig;
use godwit_netstack::{Instance, Instant};
use std::string::String;
use std::vec::Vec;

use super::*;
use crate::testing::{End, Harness};

const TOKEN: &str = "open-sesame";

/// A platform with three samples, three lines of log and one stage of a boot.
struct Fake;

static FAKE: Fake = Fake;

impl Insight for Fake {
    fn build(&self) -> Option<u64> {
        Some(0xabc)
    }
    fn start_samples(&self, _hertz: u32) -> bool {
        true
    }
    fn take_samples(&self, out: &mut Vec<u8>) -> u32 {
        out.extend([1, 0, 0, 0, 0x44, 0x33, 0x22, 0x11]);
        3
    }
    fn log(&self, from: u64, out: &mut Vec<u8>) -> u64 {
        let lines = b"one\ntwo\nend\n";
        let till = lines.len().min(from as usize + 8);
        out.extend(&lines[from as usize..till]);
        till as u64
    }
    fn boot(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        out.write_str("{\"stage\":\"entry\",\"us\":7}\n")
    }
}

fn shared() -> Rc<Shared> {
    let config = InstanceConfig {
        id: MemberId(1),
        stack: StackConfig {
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            capabilities: DeviceCapabilities::default(),
            addresses: Vec::from([Cidr {
                address: [10, 77, 0, 11].into(),
                prefix: 24,
            }]),
            gateways: Vec::new(),
            dhcp: false,
            vips: Vec::from([[10, 77, 0, 10].into()]),
            instance: None,
            secret: [7; 32],
            tcp: TcpConfig::default(),
        },
        peers: Vec::from([Peer {
            id: MemberId(2),
            address: [10, 77, 0, 12].into(),
        }]),
        ingress: MemberId(1),
        role: RoleConfig::default(),
        patience: Duration::ZERO,
        discover: Default::default(),
        cluster_key: Some([9; 32]),
    };
    Shared::new(Instance::new(config, [3; 32], Instant::ZERO), Instant::ZERO)
}

fn harness() -> Harness<Agent> {
    let token = Some(Secret::new(TOKEN.to_string()));
    Harness::new(Agent::new(shared(), "http", token, 9100, Some(&FAKE)))
}

/// Send `request` and return status and the whole answer.
fn ask(request: &str) -> (u16, String) {
    let mut harness = harness();
    harness.client_sends(request.as_bytes());
    harness.run();
    let answer = String::from_utf8(harness.received()).unwrap();
    (
        answer.get(9..12).map_or(0, |code| code.parse().unwrap()),
        answer,
    )
}

fn with_token(line: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

#[test]
fn health_needs_no_token_and_everything_else_does() {
    let plain = |line: &str| ask(&format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n")).0;
    assert_eq!(plain("GET /healthz"), 200);
    assert_eq!(plain("POST /healthz"), 405);
    for line in [
        "GET /status",
        "GET /metrics",
        "GET /policy",
        "GET /key",
        "POST /key",
        "POST /move",
        "POST /drain",
        "GET /profile",
        "GET /pcap",
        "GET /log",
        "GET /boot",
        "GET /",
        "GET /no/such/path",
    ] {
        assert_eq!(plain(line), 401, "{line}");
    }
}

#[test]
fn status_has_every_field_the_host_reads() {
    let (status, answer) = ask(&with_token("GET /status", ""));
    assert_eq!(status, 200);
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    let json: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(json["id"], 1);
    assert_eq!(json["state"], "serving");
    assert_eq!(json["service"], "http");
    assert_eq!(json["boot_id"].as_str().unwrap().len(), 32);
    assert_eq!(json["members"][0]["id"], 2);
    assert_eq!(json["members"][0]["ip"], "10.77.0.12");
    assert_eq!(json["members"][0]["up"], false);
    assert!(json["ingress"].is_boolean() && json["uptime_ms"].is_u64());
    assert!(json["sessions"].is_array() && json["moves"].is_array());
    assert!(json["counters"].is_object());
}

#[test]
fn wrong_requests_have_their_errors() {
    for (request, status) in [
        (with_token("GET /nothing", ""), 404),
        (with_token("POST /status", ""), 405),
        (with_token("DELETE /metrics", ""), 405),
        (with_token("POST /policy", ""), 405),
        (with_token("PUT /key", ""), 405),
        (with_token("POST /key", ""), 400),
        (with_token("POST /key", r#"{"add":"12"}"#), 400),
        (
            with_token("POST /key", r#"{"add":"12","remove":"34"}"#),
            400,
        ),
        (with_token("POST /key", r#"{"activate":"01234567"}"#), 404),
        (with_token("POST /key", r#"{"remove":"rubbish"}"#), 404),
        (with_token("POST /profile", ""), 405),
        (with_token("PUT /pcap", ""), 405),
        (with_token("GET /profile?hz=0", ""), 400),
        (with_token("GET /profile?hz=10001", ""), 400),
        (with_token("GET /profile?hz=-1&seconds=2", ""), 400),
        (with_token("GET /profile?hz=9e9", ""), 400),
        (with_token("GET /profile?seconds=3601", ""), 400),
        (with_token("GET /profile?hz", ""), 400),
        (with_token("GET /profile?frames=3", ""), 400),
        (with_token("GET /pcap?snap=13", ""), 400),
        (with_token("GET /pcap?snap=65536", ""), 400),
        (with_token("GET /pcap?frames=0", ""), 400),
        (with_token("GET /pcap?interface=1", ""), 400),
        (
            with_token("GET /pcap?seconds=18446744073709551617", ""),
            400,
        ),
        (with_token("GET /log?follow=0", ""), 400),
        (with_token("GET /boot?x=1", ""), 400),
        (with_token("GET /move", ""), 405),
        (with_token("PUT /drain", ""), 405),
        (with_token("POST /move", ""), 400),
        (with_token("POST /move", "{}"), 400),
        (with_token("POST /move", "[1]"), 400),
        (
            with_token("POST /move", r#"{"session":"all","to":-2}"#),
            400,
        ),
        (
            with_token("POST /move", r#"{"session":"all","to":2,"x":1}"#),
            400,
        ),
        (
            with_token("POST /move", r#"{"session":"1-zz","to":2}"#),
            400,
        ),
        (with_token("POST /move", r#"{"session":"1-7","to":2}"#), 404),
        (with_token("POST /move", r#"{"session":"all","to":3}"#), 404),
        (with_token("POST /move", r#"{"session":"all","to":1}"#), 400),
        (with_token("POST /move", &"[".repeat(4000)), 400),
        (with_token("POST /move", &" ".repeat(4097)), 413),
        (
            "POST /move HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
            411,
        ),
        ("rubbish\r\n\r\n".into(), 400),
        (format!("GET /{} HTTP/1.1\r\n", "a".repeat(9000)), 414),
        ("GET / HTTP/3.0\r\n\r\n".into(), 505),
    ] {
        let (got, answer) = ask(&request);
        assert_eq!(got, status, "{request}");
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        let json: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!(json["error"].is_string());
    }
}

/// What follows the head of an answer so far.
fn body(harness: &Harness<Agent>) -> Vec<u8> {
    let answer = harness.received();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    answer[end.unwrap() + 4..].to_vec()
}

#[test]
fn a_profile_is_told_as_it_is_made_and_ends_with_what_was_lost() {
    let mut harness = harness();
    harness.client_sends(with_token("GET /profile?hz=50&seconds=1", "").as_bytes());
    harness.run();
    let head = b"godwit-profile 1 0000000000000abc 50\n";
    assert!(body(&harness).starts_with(head));
    assert_eq!(harness.end(), None);
    harness.advance(Duration::from_secs(1));
    let body = body(&harness);
    let samples = body.strip_prefix(head).unwrap();
    let sample = [1, 0, 0, 0, 0x44, 0x33, 0x22, 0x11];
    assert_eq!(samples.len() % 8, 0);
    assert_eq!(samples[..8], sample);
    assert!(samples.ends_with(&[0, 0, 0, 0, 3, 0, 0, 0]));
    harness.advance(LINGER);
    assert_eq!(harness.end(), Some(End::Finished));
}

#[test]
fn who_has_seen_enough_is_told_the_end_at_once() {
    for close in [true, false] {
        let mut harness = harness();
        harness.client_sends(with_token("GET /pcap?seconds=100", "").as_bytes());
        harness.run();
        assert_eq!(body(&harness), b"godwit-pcap 1 0 128\n");
        if close {
            harness.client_closes();
        } else {
            harness.client_sends(b"GET /");
        }
        harness.run();
        assert!(body(&harness).ends_with(&[0; 16]), "the last record");
        harness.advance(LINGER);
        assert_eq!(harness.end(), Some(End::Finished));
    }
}

#[test]
fn a_reader_that_does_not_read_ends_the_capture_it_asked_for() {
    let shared = shared();
    let token = Some(Secret::new(TOKEN.to_string()));
    let agent = Agent::new(shared.clone(), "http", token, 9100, None);
    let mut harness = Harness::new(agent);
    harness.client_sends(with_token("GET /pcap?seconds=5", "").as_bytes());
    harness.run();
    assert!(shared.capture.is_on());
    harness.hold_commits();
    for _ in 0..20 {
        harness.advance(Duration::from_secs(1));
    }
    assert!(!shared.capture.is_on());
    assert_eq!(harness.end(), Some(End::Aborted));
}

#[test]
fn one_captures_at_a_time() {
    let shared = shared();
    let token = || Some(Secret::new(TOKEN.to_string()));
    let agent = || Agent::new(shared.clone(), "http", token(), 9100, None);
    let capture = || {
        let mut harness = Harness::new(agent());
        harness.client_sends(with_token("GET /pcap", "").as_bytes());
        harness.run();
        harness
    };
    let first = capture();
    assert!(first.received().starts_with(b"HTTP/1.1 200 "));
    assert!(capture().received().starts_with(b"HTTP/1.1 409 "));
    drop(first);
    assert!(capture().received().starts_with(b"HTTP/1.1 200 "));
}

#[test]
fn the_log_is_told_and_followed_and_so_is_the_boot() {
    let mut once = harness();
    once.client_sends(with_token("GET /log", "").as_bytes());
    once.run();
    assert_eq!(body(&once), b"one\ntwo\n");
    let mut follower = harness();
    follower.client_sends(with_token("GET /log?follow=9", "").as_bytes());
    follower.run();
    follower.advance(Duration::from_secs(1));
    assert_eq!(body(&follower), b"one\ntwo\nend\n");
    assert_eq!(follower.end(), None);
    let (status, answer) = ask(&with_token("GET /boot", ""));
    assert_eq!(status, 200);
    assert!(answer.ends_with("{\"stage\":\"entry\",\"us\":7}\n"));
}

#[test]
fn a_platform_that_shows_nothing_says_so() {
    let token = Some(Secret::new(TOKEN.to_string()));
    let mut harness = Harness::new(Agent::new(shared(), "http", token, 9100, None));
    for path in ["/profile", "/log", "/boot"] {
        harness.client_sends(with_token(&format!("GET {path}"), "").as_bytes());
    }
    harness.run();
    let answer = String::from_utf8(harness.received()).unwrap();
    assert_eq!(answer.matches("HTTP/1.1 501 ").count(), 3);
}

#[test]
fn moving_all_of_nothing_starts_nothing() {
    let (status, answer) = ask(&with_token("POST /move", r#"{"session":"all","to":2}"#));
    assert_eq!(status, 200);
    assert!(answer.ends_with("{\"started\":0}"));
}

#[test]
fn a_drain_is_told_and_shown() {
    let mut harness = harness();
    harness.client_sends(with_token("POST /drain", "").as_bytes());
    harness.client_sends(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    harness.client_sends(with_token("POST /drain", "{}").as_bytes());
    harness.run();
    let answer = String::from_utf8(harness.received()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    assert_eq!(
        answer.matches("{\"draining\":0}").count(),
        2,
        "asking twice is fine"
    );
    assert!(
        answer.contains("HTTP/1.1 503 "),
        "balancers must look elsewhere"
    );
}

#[test]
fn how_a_drain_goes_is_told() {
    let (status, answer) = ask(&with_token("GET /drain", ""));
    assert_eq!(status, 200);
    assert!(answer.contains("\"state\":\"serving\"") && answer.contains("\"drain\":null"));
    let mut harness = harness();
    let order = r#"{"deadline_ms":1500,"then":"cancel"}"#;
    harness.client_sends(with_token("POST /drain", order).as_bytes());
    harness.client_sends(with_token("GET /drain", "").as_bytes());
    harness.run();
    let answer = String::from_utf8(harness.received()).unwrap();
    for part in [
        "\"state\":\"draining\"",
        "\"deadline_ms\":1500",
        "\"moved\":0",
        "\"left\":{}",
    ] {
        assert!(answer.contains(part), "{part} in {answer}");
    }
}

#[test]
fn connections_are_kept_and_let_go() {
    let mut kept = harness();
    for _ in 0..3 {
        kept.client_sends(with_token("GET /metrics", "").as_bytes());
    }
    kept.run();
    let answer = String::from_utf8(kept.received()).unwrap();
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3);
    assert_eq!(kept.end(), None);
    kept.advance(IDLE);
    assert_eq!(kept.end(), Some(End::Finished));

    let mut slow = harness();
    slow.client_sends(
        with_token("POST /move", "{}")
            .trim_end_matches('}')
            .as_bytes(),
    );
    slow.run();
    slow.advance(PATIENCE);
    assert!(slow.received().starts_with(b"HTTP/1.1 408 "));
}

#[test]
fn the_answer_is_the_same_however_the_request_is_sliced() {
    let request = with_token("POST /move", r#"{"session":"all","to":2}"#);
    for slice in 1..request.len() {
        let mut harness = harness();
        harness.slice_input(slice);
        harness.client_sends(request.as_bytes());
        harness.run();
        assert!(
            harness.received().ends_with(b"{\"started\":0}"),
            "slices of {slice}"
        );
    }
}

#[test]
fn only_the_right_token_opens() {
    let token = Secret::new(String::from("open-sesame"));
    let check = |field: Option<&str>| authorized(Some(&token), field.map(str::as_bytes));
    assert!(check(Some("Bearer open-sesame")));
    assert!(check(Some("bearer  open-sesame ")));
    assert!(!check(None));
    assert!(!check(Some("")));
    assert!(!check(Some("Bearer")));
    assert!(!check(Some("Bearer ")));
    assert!(!check(Some("Bearer open-sesam")));
    assert!(!check(Some("Bearer open-sesamee")));
    assert!(!check(Some("Basic open-sesame")));
    assert!(!check(Some("open-sesame")));
}

#[test]
fn without_a_token_nothing_opens() {
    assert!(!authorized(None, Some(b"Bearer ")));
    assert!(!authorized(None, Some(b"Bearer x")));
}

#[test]
fn session_names_are_read_as_they_are_written() {
    let session = SessionId {
        origin: 7,
        number: 0x0123_4567_89ab_cdef,
    };
    assert_eq!(parse_session(&session.to_string()), Some(session));
    let small = SessionId {
        origin: 1,
        number: 7,
    };
    assert_eq!(small.to_string(), "1-0000000000000007");
    assert_eq!(parse_session("1-0000000000000007"), Some(small));
    for wrong in [
        "",
        "-",
        "1-",
        "-7",
        "1",
        "x-7",
        "+1-7",
        "1-+7",
        "1-7-7",
        "1-g",
        "4294967296-7",
        "1-11112222333344445",
        "1-٣",
    ] {
        assert_eq!(parse_session(wrong), None, "{wrong}");
    }
}

#[test]
fn a_drain_that_cannot_give_sessions_away_says_what_becomes_of_them() {
    // A drain that has been going on for a second.
    let now = Instant::from_millis(1_000);
    let told = |sessions, member_up, millis, then| -> serde_json::Value {
        let deadline = Duration::from_millis(millis);
        let shared = shared();
        shared.drain_with(DrainOptions { deadline, then });
        let drain = shared.instance().drain_status().unwrap();
        let then = Some(at_the_deadline(&drain, now));
        serde_json::from_str(&encode(&draining(sessions, member_up, then))).unwrap()
    };
    for (sessions, millis, then, said) in [
        (2, 3_000, DrainThen::Wait, "2 sessions stay until they end"),
        (
            1,
            4_000,
            DrainThen::Force,
            "1 session stays until it ends; in 3 s what is left is reset",
        ),
        (
            1,
            60_600,
            DrainThen::Force,
            "1 session stays until it ends; in 60 s what is left is reset",
        ),
        (
            1,
            900,
            DrainThen::Force,
            "1 session stays until it ends; in 0 s what is left is reset",
        ),
        (
            2,
            2_500,
            DrainThen::Cancel,
            "2 sessions stay until they end; in 1500 ms what is left is kept, and the drain called off",
        ),
    ] {
        let alone = told(sessions, false, millis, then);
        assert_eq!(alone["draining"], sessions);
        assert_eq!(alone["note"], format!("no member is up: {said}"));
        let nothing_stays = told(0, false, millis, then);
        assert_eq!(nothing_stays, serde_json::json!({"draining": 0}));
        let gives_away = told(sessions, true, millis, then);
        assert_eq!(gives_away, serde_json::json!({"draining": sessions}));
    }
}

fn json_of(answer: &str) -> serde_json::Value {
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    serde_json::from_str(body).unwrap()
}

#[test]
fn the_policy_is_explained() {
    let (status, answer) = ask(&with_token("GET /policy", ""));
    assert_eq!(status, 200);
    let json = json_of(&answer);
    let names: Vec<_> = json["triggers"].as_array().unwrap().iter().collect();
    assert_eq!(names.len(), 3);
    for trigger in names {
        assert_eq!(
            trigger["acts"], false,
            "nothing acts unless it is configured"
        );
        assert!(trigger["sees"].is_string() && trigger["would"].is_string());
    }
}

#[test]
fn a_key_is_added_activated_and_the_old_one_removed() {
    let mut harness = harness();
    let mut order = |body: &str| {
        let before = harness.received().len();
        let line = if body.is_empty() {
            "GET /key"
        } else {
            "POST /key"
        };
        harness.client_sends(with_token(line, body).as_bytes());
        harness.run();
        let answer = String::from_utf8(harness.received().split_off(before)).unwrap();
        json_of(&answer)
    };
    let old = order("")["keys"][0]["id"].as_str().unwrap().to_string();
    let both = order(&format!(r#"{{"add":"{}"}}"#, "5c".repeat(32)));
    assert_eq!(both["keys"][0]["active"], true);
    let new = both["keys"][1]["id"].as_str().unwrap().to_string();
    let refused = order(&format!(r#"{{"remove":"{old}"}}"#));
    assert!(refused["error"].as_str().unwrap().contains("active"));
    let active = order(&format!(r#"{{"activate":"{new}"}}"#));
    assert_eq!(active["keys"][0]["id"], *new);
    let one = order(&format!(r#"{{"remove":"{old}"}}"#));
    assert_eq!(one["keys"].as_array().unwrap().len(), 1);
}

#[test]
fn who_guesses_tokens_is_not_heard_for_a_while() {
    let shared = shared();
    let agent = || {
        let token = Some(Secret::new(TOKEN.to_string()));
        Agent::new(shared.clone(), "http", token, 9100, None)
    };
    let mut harness = Harness::new(agent());
    for _ in 0..30 {
        let request = "GET /status HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer guess\r\n\r\n";
        harness.client_sends(request.as_bytes());
    }
    harness.client_sends(with_token("GET /status", "").as_bytes());
    harness.run();
    let answer = String::from_utf8(harness.received()).unwrap();
    assert_eq!(answer.matches("HTTP/1.1 401 ").count(), 10);
    assert!(answer.contains("HTTP/1.1 429 ") && !answer.contains("HTTP/1.1 200 "));
}

#[test]
fn who_opens_too_many_connections_is_reset_until_others_end() {
    let crowded = |places: usize| {
        let agent = Agent::new(shared(), "http", None, 9100, None);
        for client in 0..8 {
            while agent.guard.borrow_mut().enters([10, 0, 0, client].into()) {}
        }
        (0..places).for_each(|_| agent.guard.borrow_mut().leaves([10, 0, 0, 0].into()));
        let mut harness = Harness::new(agent);
        harness.client_sends(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
        harness.run();
        harness
    };
    let last = crowded(1);
    assert!(last.received().starts_with(b"HTTP/1.1 200 "));
    let too_many = crowded(0);
    assert_eq!(too_many.received(), b"");
    assert_eq!(too_many.end(), Some(End::Aborted));
}

/// Everything that is logged in this process.
struct Logged;

static LOGGED: std::sync::Mutex<String> = std::sync::Mutex::new(String::new());

impl log::Log for Logged {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        let mut all = LOGGED.lock().unwrap();
        all.push_str(&format!("{} {}\n", record.target(), record.args()));
    }
    fn flush(&self) {}
}

#[test]
fn no_page_log_line_or_debug_output_shows_a_secret() {
    let _ = log::set_logger(&Logged);
    log::set_max_level(log::LevelFilter::Trace);
    let (key, added) = ("a7".repeat(32), "5c".repeat(32));
    let text = format!(
        "id=1 ip=10.77.0.11/24 vip=10.77.0.10 peer=2@10.77.0.12 cluster_key={key} \
         cluster_key_old={added} admin_token={TOKEN} policy=load,flood,health"
    );
    let config = crate::Config::parse(&[&text]).unwrap();
    let mut shown = format!("{config:?}");
    let shared = shared();
    shown += &format!("{:?}", shared.instance());
    let mut harness = Harness::new(Agent::new(
        shared,
        "http",
        config.admin_token.clone(),
        9100,
        None,
    ));
    for (line, body) in [
        ("GET /status", String::new()),
        ("GET /metrics", String::new()),
        ("GET /policy", String::new()),
        ("GET /key", String::new()),
        ("POST /key", format!(r#"{{"add":"{added}"}}"#)),
        ("POST /key", format!(r#"{{"add":"{added}0"}}"#)),
        ("POST /key", format!(r#"{{"added":"{added}"}}"#)),
        ("POST /key", format!(r#"{{"remove":"{added}"}}"#)),
        ("POST /drain", String::new()),
        ("GET /no/such/page", String::new()),
    ] {
        harness.client_sends(with_token(line, &body).as_bytes());
    }
    harness.run();
    shown += &String::from_utf8(harness.received()).unwrap();
    shown += &LOGGED.lock().unwrap();
    assert!(shown.contains("drain asked for"), "the log was read");
    assert!(shown.contains("session_count"), "the pages were read");
    let shown = shown.to_ascii_lowercase();
    // As hex, as a list of octets, as text; the instance's own key is of nines.
    for secret in [
        "a7a7a7", "5c5c5c", "167, 167", "92, 92", "9, 9, 9", "090909", "7, 7, 7", TOKEN,
    ] {
        assert!(!shown.contains(secret), "{secret}");
    }
}
