//! Real clients (curl, and the Linux kernel's TCP) against hosted instances on a bridge.

mod yard;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use godwit_http::generated;
use serde_json::Value;
use yard::{
    Hosted, TOKEN, ask, in_namespace, keep_receive_buffers_small, kernel_counter, lay_bridge,
    lay_inner_bridge, wait_until,
};

/// A curl that downloads, read and checked as it goes.
struct Download {
    curl: Child,
    received: u64,
}

impl Download {
    fn start(url: &str) -> Download {
        let curl = Command::new("curl")
            .args(["--silent", "--show-error", "--globoff", "--max-time", "60"])
            .args([
                "--write-out",
                "%{stderr}%{http_code} %{num_connects} %{size_download}",
            ])
            .arg(url)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("curl starts");
        Download { curl, received: 0 }
    }

    /// Read at most `octets` more of a generated file and check each of them.
    fn read(&mut self, octets: u64) -> u64 {
        let mut chunk = vec![0; 256 * 1024];
        let mut left = octets;
        while left > 0 {
            let limit = chunk.len().min(left as usize);
            let stdout = self.curl.stdout.as_mut().expect("piped");
            let got = stdout.read(&mut chunk[..limit]).expect("reads");
            if got == 0 {
                break;
            }
            let expected = generated::slice(self.received, got);
            assert!(
                chunk[..got] == expected,
                "wrong octets after {}",
                self.received
            );
            self.received += got as u64;
            left -= got as u64;
        }
        octets - left
    }

    /// What curl says at its end: status, connections, octets.
    fn finish(mut self) -> (String, u64) {
        self.read(u64::MAX);
        let output = self.curl.wait_with_output().expect("curl ends");
        let report = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "curl: {report}");
        (report, self.received)
    }
}

/// The instance that has the only session, and the other one.
fn owner_and_other<'a>(a: &'a Hosted, b: &'a Hosted) -> (&'a Hosted, &'a Hosted, String) {
    wait_until("a session somewhere", || {
        for (owner, other) in [(a, b), (b, a)] {
            if let [session] = &owner.sessions()[..] {
                return Some((owner, other, session.clone()));
            }
        }
        None
    })
}

fn id_of(hosted: &Hosted) -> u64 {
    hosted.status()["id"].as_u64().expect("a number")
}

/// Move the only session to the other instance and wait until that has it.
fn move_over(a: &Hosted, b: &Hosted) -> Value {
    let (owner, other, session) = owner_and_other(a, b);
    let to = id_of(other);
    let order = format!(r#"{{"session":"{session}","to":{to}}}"#);
    let before = owner.status()["moves"].as_array().expect("a list").len();
    let (status, answer) = owner.ask("POST", "/move", &order, Some(TOKEN));
    assert_eq!((status, answer.as_str()), (200, r#"{"started":1}"#));
    let report = wait_until("the move is reported", || {
        let moves = owner.status()["moves"].as_array().expect("a list").clone();
        (moves.len() > before)
            .then(|| moves.last().cloned())
            .flatten()
    });
    assert_eq!(report["result"], "accepted", "{report}");
    assert_eq!(other.sessions(), [session]);
    assert!(owner.sessions().is_empty());
    report
}

fn members_see_each_other(instances: &[&Hosted]) {
    for hosted in instances {
        wait_until("the members see each other", || {
            let status = hosted.status();
            let members = status["members"].as_array().expect("a list");
            members
                .iter()
                .all(|member| member["up"] == true)
                .then_some(())
        });
    }
}

#[test]
fn one_instance_serves_curl() {
    in_namespace("one_instance_serves_curl", || {
        lay_bridge();
        let hosted = Hosted::start("http", 1, 1, &[]);
        for url in ["http://10.77.0.10/gen/8M", "http://[fd77::10]/gen/8M"] {
            let (report, octets) = Download::start(url).finish();
            assert_eq!(report, "200 1 8388608");
            assert_eq!(octets, 8 << 20);
        }
        hosted.press_power_button();
        assert_eq!(hosted.line("GODWIT VERDICT ")["name"], "drained");
        assert_eq!(hosted.wait(), 0);
    });
}

#[test]
fn the_agent_answers_on_own_addresses_and_to_its_token_only() {
    in_namespace(
        "the_agent_answers_on_own_addresses_and_to_its_token_only",
        || {
            lay_bridge();
            let hosted = Hosted::start("echo", 1, 1, &[]);
            let code = |method, path, body, token| hosted.ask(method, path, body, token).0;
            assert_eq!(hosted.ask("GET", "/healthz", "", None), (200, "ok".into()));
            assert_eq!(code("GET", "/status", "", None), 401);
            assert_eq!(code("GET", "/status", "", Some("a-token-for-test")), 401);
            assert_eq!(code("GET", "/nothing", "", None), 401);
            assert_eq!(code("GET", "/nothing", "", Some(TOKEN)), 404);
            assert_eq!(code("POST", "/status", "", Some(TOKEN)), 405);
            assert_eq!(code("GET", "/move", "", Some(TOKEN)), 405);
            assert_eq!(code("POST", "/move", "{", Some(TOKEN)), 400);
            assert_eq!(
                code("POST", "/move", r#"{"session":"x","to":2}"#, Some(TOKEN)),
                400
            );
            let unknown = r#"{"session":"1-000000000007","to":2}"#;
            assert_eq!(code("POST", "/move", unknown, Some(TOKEN)), 404);
            assert_eq!(code("POST", "/move", &" ".repeat(5000), Some(TOKEN)), 413);
            let (_, metrics) = hosted.ask("GET", "/metrics", "", Some(TOKEN));
            assert!(metrics.contains("\ngodwit_sessions 0\n"), "{metrics}");
            let status = hosted.status();
            assert_eq!(status["state"], "serving");
            assert_eq!(status["ingress"], true);
            assert_eq!(status["sessions"], serde_json::json!([]));
            // The virtual address does not know the admin port.
            let vip = "10.77.0.10:9100".parse().unwrap();
            assert!(TcpStream::connect_timeout(&vip, Duration::from_secs(3)).is_err());
            let (status, answer) = hosted.ask("POST", "/drain", "", Some(TOKEN));
            assert_eq!((status, answer.as_str()), (202, r#"{"draining":0}"#));
            assert_eq!(hosted.line("GODWIT VERDICT ")["code"], 0);
            assert_eq!(hosted.wait(), 0);
        },
    );
}

#[test]
fn a_download_moves_between_two_instances() {
    in_namespace("a_download_moves_between_two_instances", || {
        lay_bridge();
        let a = Hosted::start("http", 1, 2, &[]);
        let b = Hosted::start("http", 2, 2, &[]);
        members_see_each_other(&[&a, &b]);
        for url in ["http://10.77.0.10/gen/64M", "http://[fd77::10]/gen/64M"] {
            let mut download = Download::start(url);
            for _ in 0..6 {
                assert_eq!(download.read(8 << 20), 8 << 20);
                println!("{}", move_over(&a, &b));
            }
            let (report, octets) = download.finish();
            assert_eq!(report, "200 1 67108864", "{url}");
            assert_eq!(octets, 64 << 20);
            wait_until("the session ends", || {
                (a.sessions().is_empty() && b.sessions().is_empty()).then_some(())
            });
        }
        // The client noticed nothing: no reset, nothing it took for wrong, no time running back.
        assert_eq!(kernel_counter("Tcp", "EstabResets"), 0);
        assert_eq!(kernel_counter("Tcp", "InErrs"), 0);
        assert_eq!(kernel_counter("TcpExt", "PAWSEstab"), 0);
        assert_eq!(kernel_counter("TcpExt", "TCPChallengeACK"), 0);
    });
}

#[test]
fn an_echo_moves_with_data_in_both_directions() {
    in_namespace("an_echo_moves_with_data_in_both_directions", || {
        lay_bridge();
        keep_receive_buffers_small();
        let a = Hosted::start("echo", 1, 2, &[]);
        let b = Hosted::start("echo", 2, 2, &[]);
        members_see_each_other(&[&a, &b]);
        const SIZE: u64 = 32 << 20;
        let mut reader = TcpStream::connect("10.77.0.10:7").expect("connects");
        reader
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a socket");
        let mut writer = reader.try_clone().expect("clones");
        let sender = thread::spawn(move || {
            for part in 0..SIZE / 65_536 {
                writer
                    .write_all(&generated::slice(part * 65_536, 65_536))
                    .expect("sends");
            }
            writer.shutdown(Shutdown::Write).expect("closes");
        });
        let mut received = 0;
        let mut next_move = SIZE / 8;
        let mut chunk = vec![0; 100_000];
        loop {
            let got = reader.read(&mut chunk).expect("receives");
            if got == 0 {
                break;
            }
            assert!(
                chunk[..got] == generated::slice(received, got),
                "after {received}"
            );
            received += got as u64;
            if received >= next_move && received < SIZE * 7 / 8 {
                next_move += SIZE / 8;
                println!("{}", move_over(&a, &b));
            }
        }
        assert_eq!(received, SIZE);
        sender.join().expect("all was sent");
    });
}

#[test]
fn a_drained_instance_leaves_its_download_to_the_other() {
    in_namespace(
        "a_drained_instance_leaves_its_download_to_the_other",
        || {
            lay_bridge();
            let a = Hosted::start("http", 1, 2, &[]);
            let b = Hosted::start("http", 2, 2, &[]);
            members_see_each_other(&[&a, &b]);
            let mut download = Download::start("http://10.77.0.10/gen/64M");
            download.read(8 << 20);
            // Instance 1 is the ingress: its role has to go as well.
            a.press_power_button();
            assert_eq!(a.line("GODWIT VERDICT ")["name"], "drained");
            assert_eq!(a.wait(), 0);
            let (report, octets) = download.finish();
            assert_eq!(report, "200 1 67108864");
            assert_eq!(octets, 64 << 20);
            assert_eq!(b.status()["ingress"], true);
            // New connections find their way, too.
            let vip = "10.77.0.10:80".parse().unwrap();
            assert_eq!(ask(vip, "GET", "/robots.txt", "", None).0, 200);
        },
    );
}

#[test]
fn an_instance_whose_device_is_deleted_says_so_and_ends() {
    in_namespace(
        "an_instance_whose_device_is_deleted_says_so_and_ends",
        || {
            lay_bridge();
            let hosted = Hosted::start("http", 1, 1, &[]);
            hosted.lose_device();
            // It had no session to leave behind.
            assert_eq!(hosted.line("GODWIT VERDICT ")["name"], "drained");
            assert_eq!(hosted.wait(), 0);
        },
    );
}

/// The frames of an instance that pass one of its cards for some seconds, or the first octets of them.
fn capture(hosted: &Hosted, interface: u32) -> thread::JoinHandle<Vec<Vec<u8>>> {
    let address = hosted.address();
    thread::spawn(move || {
        let mut stream = TcpStream::connect(address).expect("connects");
        write!(
            stream,
            "GET /pcap?seconds=4&snap=64&interface={interface} HTTP/1.1\r\nHost: x\r\n\
             Authorization: Bearer {TOKEN}\r\n\r\n"
        )
        .expect("sends");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("answers");
        let line = b"godwit-pcap 1 ";
        let start = answer.windows(line.len()).position(|at| at == line);
        let start = start.unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&answer)));
        let end = answer[start..].iter().position(|octet| *octet == b'\n');
        let mut rest = &answer[start + end.expect("a line") + 1..];
        let mut frames = Vec::new();
        while let Some((header, more)) = rest.split_at_checked(16) {
            let captured = u32::from_le_bytes(header[8..12].try_into().unwrap()) & 0x7fff_ffff;
            let Some((frame, more)) = more.split_at_checked(captured as usize) else {
                break;
            };
            frames.push(frame.to_vec());
            rest = more;
        }
        frames
    })
}

/// The IPv4 addresses that a frame is from and to.
fn ends(frame: &[u8]) -> Option<[&[u8]; 2]> {
    match frame.get(12..14)? {
        [8, 0] => Some([frame.get(26..30)?, frame.get(30..34)?]),
        [8, 6] => Some([frame.get(28..32)?, frame.get(38..42)?]),
        _ => None,
    }
}

#[test]
fn instances_with_a_network_of_their_own_say_nothing_where_the_clients_are() {
    let name = "instances_with_a_network_of_their_own_say_nothing_where_the_clients_are";
    in_namespace(name, || {
        lay_bridge();
        lay_inner_bridge();
        keep_receive_buffers_small();
        let [a, b] = [1, 2].map(|id| Hosted::start_in_two("http", id, 2));
        members_see_each_other(&[&a, &b]);
        // There is no admin port where the clients are.
        let outside = "10.77.0.11:9100".parse().unwrap();
        assert!(TcpStream::connect_timeout(&outside, Duration::from_secs(3)).is_err());
        let captures = [(&a, 0), (&b, 1)].map(|(hosted, at)| (at, capture(hosted, at)));
        let mut download = Download::start("http://10.77.0.10/gen/96M");
        for _ in 0..4 {
            download.read(8 << 20);
            move_over(&a, &b);
        }
        let (report, octets) = download.finish();
        assert_eq!((report.as_str(), octets), ("200 1 100663296", 96 << 20));
        for (interface, capture) in captures {
            let frames = capture.join().expect("no panic");
            let all: Vec<_> = frames.iter().filter_map(|frame| ends(frame)).collect();
            assert!(all.len() > 10, "{} frames at {interface}", all.len());
            for [from, to] in all {
                match interface {
                    0 => assert!(from[1] != 88 && to[1] != 88, "{from:?} {to:?} outside"),
                    _ => assert!(from != [10, 77, 0, 10], "an answer to a client inside"),
                }
            }
        }
        let nics = a.status()["nics"].clone();
        assert_eq!(nics[0]["network"], "service");
        assert_eq!(
            (&nics[1]["network"], &nics[1]["link"]),
            (&"instance".into(), &"up".into())
        );
    });
}
