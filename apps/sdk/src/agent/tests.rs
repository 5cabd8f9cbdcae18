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
        cluster_key: Some([9; 32]),
    };
    Shared::new(Instance::new(config, [3; 32], Instant::ZERO), Instant::ZERO)
}

fn harness() -> Harness<Agent> {
    let token = Some(Secret::new(TOKEN.to_string()));
    Harness::new(Agent::new(shared(), "http", token))
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
        "POST /move",
        "POST /drain",
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
fn a_drain_that_cannot_give_sessions_away_says_so() {
    assert_eq!(draining(2, true), serde_json::json!({"draining": 2}));
    let alone = draining(2, false);
    assert_eq!(alone["draining"], 2);
    assert_eq!(
        alone["note"],
        "no member is up: 2 sessions stay until they end"
    );
    assert_eq!(
        draining(0, false),
        serde_json::json!({"draining": 0}),
        "nothing stays"
    );
}
