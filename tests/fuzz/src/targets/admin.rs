//! Requests at the admin port of an instance, by who does and who does not know the token.
//!
//! Input: how many octets arrive at a time (one octet), then what the client sends.

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use godwit::platform::{Device, NoEntropy};
use godwit::{Config, Node, Platform};
use godwit_http::Files;
use godwit_netstack::stack::{DeviceCapabilities, RxFrame, Stack, TxFrame};
use godwit_netstack::{Duration, Instant};

use crate::Target;
use crate::link::{CLIENT, SERVER, mac, stack, transmit};

pub(crate) const TARGET: Target = Target {
    name: "admin",
    run,
    seeds,
};

/// Pieces of an input at most: the rest arrives at once.
const MAX_PIECES: usize = 64;

/// A machine without anything random.
struct Board {
    now: Instant,
    received: VecDeque<RxFrame>,
    sent: Vec<TxFrame>,
}

impl Platform for Board {
    fn now(&mut self) -> Instant {
        self.now
    }

    fn device(&self) -> Device {
        Device {
            mac: mac(SERVER),
            mtu: 1500,
            capabilities: DeviceCapabilities::default(),
        }
    }

    fn receive(&mut self) -> Option<RxFrame> {
        self.received.pop_front()
    }

    fn can_transmit(&mut self) -> bool {
        true
    }

    fn transmit(&mut self, frame: TxFrame) {
        self.sent.push(frame);
    }

    fn flush(&mut self) {}

    fn fill_random(&mut self, out: &mut [u8]) -> Result<(), NoEntropy> {
        out.fill(7);
        Ok(())
    }

    fn idle(&mut self, _until: Option<Instant>) {}

    fn power_button(&mut self) -> bool {
        false
    }

    fn console(&mut self, _line: fmt::Arguments<'_>) {}
}

/// Let both ends talk until they are quiet, then let `more` pass.
fn turn(board: &mut Board, node: &mut Node, client: &mut Stack, more: Duration) {
    for _ in 0..200 {
        let again = node.step(board).is_some_and(|due| due <= board.now);
        let mut quiet = !again;
        for frame in board.sent.drain(..) {
            quiet = false;
            client.handle_frame(board.now, RxFrame::new(frame.to_vec()));
        }
        for frame in transmit(client, board.now) {
            quiet = false;
            board.received.push_back(RxFrame::new(frame));
        }
        if quiet {
            break;
        }
    }
    board.now += more;
    client.handle_timeout(board.now);
    while client.poll_event().is_some() {}
}

fn run(input: &[u8]) {
    let (piece, request) = input.split_first().unwrap_or((&0, &[]));
    let words = "id=1 ip=10.77.0.11/24 vip=10.77.0.10 admin_token=token-of-a-test-run";
    let config = Config::parse(&[words]).expect("a configuration");
    let mut board = Board {
        now: Instant::from_millis(1_000),
        received: VecDeque::new(),
        sent: Vec::new(),
    };
    let Ok(mut node) = Node::new(&mut board, &config, Files::default()) else {
        unreachable!("the board has entropy");
    };
    let mut client = stack(CLIENT, board.now);
    let admin = ([10, 77, 0, 11], 9100).into();
    let conn = client
        .connect(board.now, None, admin)
        .expect("a connection");
    for _ in 0..3 {
        turn(&mut board, &mut node, &mut client, Duration::from_millis(1));
    }
    let size = (usize::from(*piece) + 1).max(request.len() / MAX_PIECES);
    for piece in request.chunks(size) {
        let (now, data) = (board.now, Bytes::copy_from_slice(piece));
        client.update(now, conn, |tcp| {
            let _ = tcp.send(now, data);
            tcp.receive_consume(now, tcp.receive_available());
        });
        turn(
            &mut board,
            &mut node,
            &mut client,
            Duration::from_micros(50),
        );
    }
    let now = board.now;
    client.update(now, conn, |tcp| tcp.close(now));
    for _ in 0..5 {
        turn(&mut board, &mut node, &mut client, Duration::from_secs(30));
        let now = board.now;
        client.update(now, conn, |tcp| {
            tcp.receive_consume(now, tcp.receive_available());
        });
    }
    let left = node.instance().sessions().len();
    assert_eq!(left, 0, "a session outlives its client");
}

fn seeds() -> Vec<Vec<u8>> {
    let token = "Host: a\r\nAuthorization: Bearer token-of-a-test-run\r\n";
    let requests = [
        "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n".to_string(),
        format!("GET /status HTTP/1.1\r\n{token}\r\n"),
        format!("GET /metrics HTTP/1.1\r\n{token}Connection: close\r\n\r\n"),
        format!(
            "POST /move HTTP/1.1\r\n{token}Content-Length: 25\r\n\r\n{{\"session\":\"all\",\"to\": 2 }}"
        ),
        format!(
            "POST /move HTTP/1.1\r\n{token}Content-Length: 38\r\n\r\n{{\"session\": \"1-0123456789ab\", \"to\": 2}}GET /x HTTP/1.0\r\n\r\n"
        ),
        format!("POST /drain HTTP/1.1\r\n{token}Content-Length: 0\r\n\r\n"),
        "GET /status HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer no\r\n\r\n".to_string(),
        format!("PUT /move HTTP/1.1\r\n{token}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!(
            "GET /status HTTP/1.1\r\n{token}Expect: 100-continue\r\nContent-Length: 99999\r\n\r\n"
        ),
    ];
    let seed = |request: &String| [&[100], request.as_bytes()].concat();
    requests.iter().map(seed).collect()
}
