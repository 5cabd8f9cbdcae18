//! Ours as the server: the hosted services, and stock programs on the Linux kernel's TCP.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use godwit_interop::yard::{OURS, Yard, finish, impaired};
use godwit_qemu::content::{Check, digest, fill};
use godwit_qemu::scratch::Scratch;
use godwit_qemu::switch::Impairment;
use serde_json::Value;

const HOSTED: &str = env!("CARGO_BIN_EXE_godwit-interop-hosted");

/// A link that does nothing, and one that does everything.
fn links() -> [Impairment; 2] {
    [Impairment::default(), impaired()]
}

/// How large transfers are over such a link.
fn size(link: &Impairment) -> u64 {
    if link.is_none() { 16 << 20 } else { 1 << 20 }
}

fn check(data: &[u8]) -> String {
    let mut check = Check::default();
    check.add(data);
    check.finish()
}

/// That an impaired link was one, so that the test was worth something.
fn assert_impaired(yard: &Yard, link: &Impairment) {
    let stats = yard.stats();
    assert!(
        link.is_none() || stats.iter().all(|port| port.lost > 0),
        "{stats:?}"
    );
}

#[test]
fn curl_gets_every_octet() {
    for link in links() {
        let name = "curl_gets_every_octet";
        let Some(yard) = Yard::new(name, link.clone(), &["curl"]) else {
            return;
        };
        let _server = yard.serve(HOSTED, "http");
        let size = size(&link);
        for host in ["10.77.0.2", "[fd77::2]"] {
            let url = format!("http://{host}/gen/{size}");
            let arguments = ["-sS", "--globoff", "--max-time", "50", &url];
            let output = yard.run("curl", &arguments).unwrap();
            assert_eq!(output.stdout.len() as u64, size);
            assert_eq!(check(&output.stdout), digest(size), "{url} over {link:?}");
        }
        assert_impaired(&yard, &link);
    }
}

/// nc closes its direction as soon as everything is sent (`-N`), long before it has it all back.
#[test]
fn nc_that_half_closes_gets_everything_back() {
    for link in links() {
        let name = "nc_that_half_closes_gets_everything_back";
        let Some(yard) = Yard::new(name, link.clone(), &["nc"]) else {
            return;
        };
        let _server = yard.serve(HOSTED, "echo");
        let scratch = Scratch::new("interop").unwrap();
        let mut content = vec![0; size(&link) as usize];
        fill(0, &mut content);
        fs::write(scratch.path("content"), &content).unwrap();
        for host in OURS {
            let mut nc = yard.command("nc");
            nc.args(["-N", host, "7"]);
            nc.stdin(File::open(scratch.path("content")).unwrap());
            let output = finish(nc.spawn().unwrap()).unwrap();
            assert!(output.status.success(), "{output:?}");
            assert_eq!(output.stdout.len(), content.len(), "{host} over {link:?}");
            assert_eq!(check(&output.stdout), digest(content.len() as u64));
        }
        assert_impaired(&yard, &link);
    }
}

/// Has wrk hold each body against the right one: `EXPECTED` stands for its octets in Lua.
const JUDGE: &str = r#"
right, wrong, threads = 0, 0, {}
local expected = "EXPECTED"
function setup(thread) table.insert(threads, thread) end
function response(status, headers, body)
  if status == 200 and body == expected then right = right + 1 else wrong = wrong + 1 end
end
function done()
  for _, thread in ipairs(threads) do
    print("JUDGED " .. thread:get("right") .. " right, " .. thread:get("wrong") .. " wrong")
  end
end
"#;

/// Requests that wrk got answered, each with the right body of `size` octets; it must not see an error.
fn wrk(yard: &Yard, size: usize, more: &[&str]) -> u64 {
    let scratch = Scratch::new("interop").unwrap();
    let mut expected = vec![0; size];
    fill(0, &mut expected);
    let expected: String = expected
        .iter()
        .map(|octet| format!("\\{octet:03}"))
        .collect();
    let script = scratch.path("judge.lua").display().to_string();
    fs::write(&script, JUDGE.replace("EXPECTED", &expected)).unwrap();
    let arguments = ["-t1", "-c16", "-d1s", "--timeout", "20s", "-s", &script];
    let output = yard.run("wrk", &[&arguments[..], more].concat()).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        !text.contains("Socket errors") && !text.contains("Non-2xx"),
        "{text}"
    );
    let (head, _) = text.split_once(" requests in").expect("wrk says how many");
    let count = head.split_whitespace().last().expect("a number");
    let count = count.parse().expect("a number");
    // Those that come while wrk takes leave are judged and not counted.
    let (_, judged) = text.split_once("JUDGED ").expect("the script's verdict");
    let (right, rest) = judged.split_once(" right, ").expect("a number");
    let right: u64 = right.parse().expect("a number");
    assert!(rest.starts_with("0 wrong") && right >= count, "{text}");
    count
}

#[test]
fn wrk_keeps_connections_or_opens_one_for_each_request() {
    for link in links() {
        let name = "wrk_keeps_connections_or_opens_one_for_each_request";
        let Some(yard) = Yard::new(name, link.clone(), &["wrk"]) else {
            return;
        };
        let _server = yard.serve(HOSTED, "http");
        for host in ["10.77.0.2", "[fd77::2]"] {
            let url = format!("http://{host}/gen/1000");
            let kept = wrk(&yard, 1000, &[&url]);
            let short = wrk(&yard, 1000, &["-H", "Connection: close", &url]);
            // More than the initial window, and no multiple of a segment.
            let url = format!("http://{host}/gen/30001");
            let large = wrk(&yard, 30_001, &[&url]);
            assert!(large > 0);
            println!("{kept} requests over kept connections, {short} short ones");
            let least = if link.is_none() { 500 } else { 30 };
            assert!(kept >= least && short >= least, "{kept}, {short}");
        }
        assert_impaired(&yard, &link);
    }
}

#[test]
fn a_hundred_requests_in_one_go_are_answered_in_order() {
    for link in links() {
        let name = "a_hundred_requests_in_one_go_are_answered_in_order";
        let Some(yard) = Yard::new(name, link.clone(), &[]) else {
            return;
        };
        let _server = yard.serve(HOSTED, "http");
        for host in OURS {
            let server = SocketAddr::new(host.parse().unwrap(), 80);
            let answers = yard.linux.run(|| {
                let mut stream = TcpStream::connect(server)?;
                stream.set_read_timeout(Some(Duration::from_secs(20)))?;
                let mut requests = String::new();
                for number in 1..=100 {
                    let close = if number == 100 {
                        "Connection: close\r\n"
                    } else {
                        ""
                    };
                    requests += &format!("GET /gen/{number} HTTP/1.1\r\nHost: x\r\n{close}\r\n");
                }
                stream.write_all(requests.as_bytes())?;
                let mut answers = Vec::new();
                stream.read_to_end(&mut answers)?;
                Ok(answers)
            });
            let answers = answers.unwrap();
            let mut rest = &answers[..];
            for number in 1..=100 {
                let head = rest
                    .windows(4)
                    .position(|four| four == b"\r\n\r\n")
                    .expect("a head");
                assert!(rest.starts_with(b"HTTP/1.1 200"), "answer {number}");
                let body = &rest[head + 4..][..number];
                let mut expected = vec![0; number];
                fill(0, &mut expected);
                assert_eq!(body, expected, "answer {number}");
                rest = &rest[head + 4 + number..];
            }
            assert!(rest.is_empty(), "{} octets too many", rest.len());
        }
    }
}

/// Octets sent and received, of which each end has counted one. iperf3 looks at no octet itself: that those are
/// right is for `curl`, `nc` and `wrk` to see.
fn iperf3(yard: &Yard, host: &str, more: &[&str]) -> (u64, u64) {
    let arguments = ["-J", "-c", host, "-t", "1"];
    let output = yard
        .run("iperf3", &[&arguments[..], more].concat())
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["error"].is_null(), "{}", report["error"]);
    let octets = |sum| report["end"][sum]["bytes"].as_u64().expect("a sum");
    (octets("sum_sent"), octets("sum_received"))
}

#[test]
fn iperf3_measures_both_directions() {
    for link in links() {
        let name = "iperf3_measures_both_directions";
        let Some(yard) = Yard::new(name, link.clone(), &["iperf3"]) else {
            return;
        };
        let _server = yard.serve(HOSTED, "iperf3");
        for (host, more) in [
            (OURS[0], &[][..]),
            (OURS[1], &["-R"]),
            (OURS[1], &["-P", "4"]),
            (OURS[0], &["-R", "-P", "4"]),
        ] {
            let (sent, received) = iperf3(&yard, host, more);
            println!("{host} {more:?}: {received} of {sent} octets");
            assert!(
                received > 100_000 && received <= sent,
                "{received} of {sent}"
            );
        }
        assert_impaired(&yard, &link);
    }
}
