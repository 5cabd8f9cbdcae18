//! The service under its harness: whole conversations, and moves at every commit.

use godwit::testing::{End, Harness};

use super::*;

/// One response of a conversation.
#[derive(Debug)]
struct Response {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Response {
    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// Cut what a client received into responses; `head_only` tells which answer a HEAD.
fn responses(mut octets: &[u8], head_only: &[usize]) -> Vec<Response> {
    let mut list = Vec::new();
    while !octets.is_empty() {
        let end = octets
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .expect("a whole head")
            + 4;
        let head = String::from_utf8(octets[..end].to_vec()).unwrap();
        let status = head[9..12].parse().unwrap();
        let mut response = Response {
            status,
            head,
            body: Vec::new(),
        };
        octets = &octets[end..];
        let length = response
            .field("Content-Length")
            .map_or(0, |n| n.parse().unwrap());
        if !head_only.contains(&list.len()) {
            response.body = octets[..length].to_vec();
            octets = &octets[length..];
        }
        list.push(response);
    }
    list
}

fn converse(requests: &str) -> (Vec<Response>, Option<End>) {
    let mut harness = Harness::new(Files::default());
    harness.client_sends(requests.as_bytes());
    harness.run();
    (responses(&harness.received(), &[]), harness.end())
}

fn one(request: &str) -> Response {
    let (mut list, _) = converse(request);
    assert_eq!(list.len(), 1, "{list:?}");
    list.remove(0)
}

fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n")
}

#[test]
fn a_file_comes_whole_with_its_type_and_tag() {
    let response = one(&get("/", ""));
    let file = archive::by_path(CONTENT, "/index.html").unwrap();
    assert_eq!(response.status, 200);
    assert_eq!(response.body, file.bytes);
    assert_eq!(
        response.field("Content-Type"),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(
        response.field("ETag").unwrap(),
        format!("\"{}\"", file.digest)
    );
    assert_eq!(response.field("Connection"), None);
}

#[test]
fn generated_files_have_the_known_content() {
    for size in [0, 1, 7, 8, 9, 65_535, 65_536, 65_537, 300_001] {
        let response = one(&get(&format!("/gen/{size}"), ""));
        assert_eq!(response.status, 200);
        assert_eq!(response.body, generated::slice(0, size), "{size}");
    }
    assert_eq!(one(&get("/gen/2K", "")).body.len(), 2048);
}

#[test]
fn a_head_request_gets_the_same_head_and_no_body() {
    let mut harness = Harness::new(Files::default());
    harness.client_sends(
        b"HEAD /gen/5 HTTP/1.1\r\nHost: x\r\n\r\nGET /gen/5 HTTP/1.1\r\nHost: x\r\n\r\n",
    );
    harness.run();
    let list = responses(&harness.received(), &[0]);
    assert_eq!(list[0].head, list[1].head);
    assert_eq!(list[1].body.len(), 5);
}

#[test]
fn pipelined_requests_are_answered_in_order_on_one_connection() {
    let requests: String = (1..=20).map(|n| get(&format!("/gen/{n}"), "")).collect();
    let (list, end) = converse(&requests);
    let sizes: Vec<_> = list.iter().map(|response| response.body.len()).collect();
    assert_eq!(sizes, (1..=20).collect::<Vec<_>>());
    assert_eq!(end, None);
}

#[test]
fn a_client_that_wants_to_close_is_closed_after_its_answer() {
    let mut harness = Harness::new(Files::default());
    harness.client_sends(get("/gen/9", "Connection: close\r\n").as_bytes());
    harness.client_sends(get("/gen/8", "").as_bytes());
    harness.run();
    let list = responses(&harness.received(), &[]);
    assert_eq!(list.len(), 1, "nothing is answered after the last answer");
    assert_eq!(list[0].field("Connection"), Some("close"));
    assert!(harness.output_closed());
    assert_eq!(harness.end(), None, "it waits for the client to close");
    harness.client_closes();
    harness.run();
    assert_eq!(harness.end(), Some(End::Finished));
}

#[test]
fn http_1_0_closes_unless_asked_to_keep() {
    assert_eq!(
        one("GET /gen/1 HTTP/1.0\r\n\r\n").field("Connection"),
        Some("close")
    );
    let (list, _) = converse("GET /gen/1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(list[0].field("Connection"), None);
}

#[test]
fn errors_have_their_codes() {
    for (request, status) in [
        (get("/nothing", ""), 404),
        (get("/gen/", ""), 404),
        (get("/gen/12x", ""), 404),
        (get("/gen/1025G", ""), 404),
        (get("/%zz", ""), 400),
        (get("/../Cargo.toml", ""), 404),
        (get("/%2e%2e/Cargo.toml", ""), 404),
        ("GET / HTTP/1.1\r\n\r\n".into(), 400),
        ("rubbish\r\n\r\n".into(), 400),
        ("GET / HTTP/2.0\r\n\r\n".into(), 505),
        (format!("GET /{} HTTP/1.1\r\n", "a".repeat(9000)), 414),
        (get("/", &"a: b\r\n".repeat(100)), 431),
        ("DELETE / HTTP/1.1\r\nHost: x\r\n\r\n".into(), 405),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc".into(),
            405,
        ),
        (
            "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: br\r\n\r\n".into(),
            501,
        ),
    ] {
        let response = one(&request);
        assert_eq!(response.status, status, "{request}");
        assert!(!response.body.is_empty());
    }
    assert_eq!(
        one("OPTIONS / HTTP/1.1\r\nHost: x\r\n\r\n").field("Allow"),
        Some("GET, HEAD")
    );
}

#[test]
fn a_missing_file_does_not_cost_the_connection() {
    let (list, _) = converse(&(get("/nothing", "") + &get("/gen/3", "")));
    assert_eq!((list[0].status, list[1].status), (404, 200));
}

#[test]
fn a_request_with_a_body_is_the_last() {
    let (list, _) = converse(
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 26\r\n\r\nGET /gen/1 HTTP/1.0\r\n\r\nxxx",
    );
    assert_eq!(list.len(), 1, "a body is never taken for a request");
    assert_eq!(list[0].field("Connection"), Some("close"));
}

#[test]
fn slow_heads_time_out_and_idle_clients_are_let_go() {
    let mut slow = Harness::new(Files::default());
    slow.client_sends(b"GET / HT");
    slow.run();
    slow.advance(PATIENCE);
    assert_eq!(responses(&slow.received(), &[])[0].status, 408);
    slow.advance(LINGER);
    assert_eq!(slow.end(), Some(End::Finished));

    let mut idle = Harness::new(Files::default());
    idle.run();
    idle.advance(IDLE);
    assert_eq!(idle.end(), Some(End::Finished));
    assert_eq!(idle.received(), b"");
}

#[test]
fn a_client_that_never_stops_sending_is_let_go() {
    let mut harness = Harness::new(Files::default());
    harness.client_sends(b"rubbish\r\n\r\n");
    harness.client_sends(&vec![b'x'; 3 << 20]);
    harness.run();
    assert_eq!(harness.end(), Some(End::Finished));
}

#[test]
fn ranges_and_conditions_are_honoured() {
    let part = one(&get("/gen/1000", "Range: bytes=990-\r\n"));
    assert_eq!(part.status, 206);
    assert_eq!(part.body, generated::slice(990, 10));
    assert_eq!(part.field("Content-Range"), Some("bytes 990-999/1000"));

    let beyond = one(&get("/gen/1000", "Range: bytes=1000-\r\n"));
    assert_eq!(beyond.status, 416);
    assert_eq!(beyond.field("Content-Range"), Some("bytes */1000"));

    let etag = part.field("ETag").unwrap();
    let fields = format!("Range: bytes=0-9\r\nIf-Range: {etag}\r\n");
    assert_eq!(one(&get("/gen/1000", &fields)).status, 206);
    let other = "Range: bytes=0-9\r\nIf-Range: \"other\"\r\n";
    assert_eq!(one(&get("/gen/1000", other)).status, 200);

    let known = one(&get("/gen/1000", &format!("If-None-Match: {etag}\r\n")));
    assert_eq!((known.status, known.body.len()), (304, 0));
}

/// The same conversation, moved at every commit: the client must see no difference.
#[test]
fn moves_at_every_commit_change_nothing_for_the_client() {
    let conversation: String = [
        get("/gen/300001", ""),
        get("/style.css", ""),
        get("/nothing", ""),
        get("/gen/0", ""),
        get("/gen/200000", "Range: bytes=5-150000\r\n"),
        get("/bird.svg", "Connection: close\r\n"),
    ]
    .concat();
    let mut still = Harness::new(Files::default());
    still.client_sends(conversation.as_bytes());
    still.client_closes();
    still.run();
    assert_eq!(still.end(), Some(End::Finished));

    for slice in [7, 1448, usize::MAX] {
        let mut moved = Harness::new(Files::default());
        moved.slice_input(slice);
        moved.hold_commits();
        moved.client_sends(conversation.as_bytes());
        moved.client_closes();
        let mut moves = 0;
        while moved.end().is_none() {
            moved.run();
            moved.move_session();
            moves += 1;
        }
        assert!(moves >= 13, "{moves} moves");
        assert_eq!(moved.end(), Some(End::Finished));
        assert!(moved.received() == still.received(), "slices of {slice}");
    }
}

#[test]
fn each_committed_state_resumes_alone() {
    // Every state a session can be in, put into a fresh process.
    let resume = |state: &Progress, input: &str| {
        let mut harness = Harness::new(Files::default());
        harness.put_state(state);
        harness.client_sends(input.as_bytes());
        harness.run();
        harness
    };
    let file = archive::by_path(CONTENT, "/index.html").unwrap();
    let body = |content, next, end, keep| Progress::Body {
        content,
        next,
        end,
        keep,
    };
    assert_eq!(resume(&Progress::Idle, &get("/gen/1", "")).commits(), 1);

    let rest = resume(&body(Content::Generated, 100_003, 250_000, true), "");
    assert_eq!(rest.received(), generated::slice(100_003, 149_997));
    assert_eq!(rest.end(), None);

    let last = resume(&body(Content::File(file.digest), 10, 20, false), "");
    assert_eq!(last.received(), &file.bytes[10..20]);
    assert!(last.output_closed());

    let closing = resume(&Progress::Closing(3), "abcdef");
    assert_eq!(closing.end(), Some(End::Finished));
    assert_eq!(closing.received(), b"");
}

#[test]
fn a_download_never_goes_on_in_another_file() {
    let resume = |content, next, end| {
        let mut harness = Harness::new(Files::default());
        harness.put_state(&Progress::Body {
            content,
            next,
            end,
            keep: true,
        });
        harness.run();
        (harness.end(), harness.received())
    };
    let file = archive::by_path(CONTENT, "/index.html").unwrap();
    let size = file.bytes.len() as u64;
    assert_eq!(
        resume(Content::File(Digest([7; 32])), 0, 10),
        (Some(End::Aborted), vec![])
    );
    // Nor beyond the end of the right one.
    let beyond = resume(Content::File(file.digest), size - 1, size + 1);
    assert_eq!(beyond, (Some(End::Aborted), vec![]));
    let wild = resume(Content::File(file.digest), u64::MAX - 3, u64::MAX);
    assert_eq!(wild, (Some(End::Aborted), vec![]));
}
