//! Requests at the HTTP service. Input: how many octets arrive at a time (one octet), then what the
//! client sends.

use godwit::Duration;
use godwit::testing::Harness;
use godwit_http::Files;

use crate::Target;

pub(crate) const TARGET: Target = Target {
    name: "http",
    run,
    seeds,
};

/// A generated file may be of any size; nobody waits for all of it here. A commit waits for its
/// turn, or one turn would send it all into memory (which a fuzzer found).
const TURNS: usize = 50;

fn run(input: &[u8]) {
    let (slice, request) = input.split_first().unwrap_or((&0, &[]));
    let mut harness = Harness::new(Files::default());
    harness.slice_input(usize::from(*slice) + 1);
    harness.hold_commits();
    harness.client_sends(request);
    harness.client_closes();
    for _ in 0..TURNS {
        harness.send_window();
        harness.turn();
    }
    for _ in 0..3 {
        harness.advance(Duration::from_secs(100));
        harness.send_window();
        harness.turn();
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let requests = [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "HEAD /gen/1000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET /gen/10000 HTTP/1.1\r\nHost: a\r\nRange: bytes=10-20\r\n\r\nGET /x HTTP/1.0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /%2e%2e/etc HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
        "BREW / HTTP/9.9\r\n\r\n",
    ];
    let seed = |request: &str| [&[200], request.as_bytes()].concat();
    requests.map(seed).into()
}
