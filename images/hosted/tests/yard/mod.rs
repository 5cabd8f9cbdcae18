//! A yard for hosted instances: a network namespace with a bridge, TAP devices on it, and the
//! host kernel's own TCP as client.

#![allow(dead_code, reason = "each file of tests uses its part")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);
const INSIDE: &str = "GODWIT_TEST_INSIDE_NAMESPACE";
pub const TOKEN: &str = "a-token-for-tests";
const KEY: &str = "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a";

/// Run `body` in a network namespace of its own, as root of at least that. The test is skipped,
/// and says so, where that is not allowed.
pub fn in_namespace(test: &str, body: fn()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let able = |flags: &[&str]| {
        // Able to make a namespace, a bridge and a TAP device in it.
        let probe = "ip link add probe type bridge && ip tuntap add dev probe1 mode tap";
        let mut command = Command::new("unshare");
        command.args(flags).args(["sh", "-c", probe]);
        command.output().is_ok_and(|output| output.status.success())
    };
    let ways: [&[&str]; 2] = [&["--net"], &["--user", "--map-root-user", "--net"]];
    let Some(flags) = ways.into_iter().find(|flags| able(flags)) else {
        eprintln!("SKIPPED {test}: no right to make network namespaces, bridges and TAP devices");
        return;
    };
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("SKIPPED {test}: no curl here");
        return;
    }
    let this = std::env::current_exe().expect("a test has a file");
    let status = Command::new("unshare")
        .args(flags)
        .arg(this)
        .args([test, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare runs");
    assert!(status.success(), "{test} failed in its namespace");
}

/// Let no client's kernel take in more than a MiB that the client has not read: with some systems'
/// 32 MiB a whole transfer is over while the test has read little of it, and nothing is left to
/// move. The setting is the namespace's own.
pub fn keep_receive_buffers_small() {
    fs::write("/proc/sys/net/ipv4/tcp_rmem", "4096 131072 1048576").expect("a namespace of ours");
}

/// Run `ip` with these words.
fn ip(words: &str) {
    let output = Command::new("ip")
        .args(words.split(' '))
        .output()
        .expect("ip runs");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {words}: {complaint}");
}

/// A bridge at which the client has 10.77.0.1 and fd77::1.
pub fn lay_bridge() {
    for words in [
        "link set lo up",
        "link add br0 type bridge",
        "addr add 10.77.0.1/24 dev br0",
        "addr add fd77::1/64 dev br0 nodad",
        "link set br0 up",
    ] {
        ip(words);
    }
}

/// Another one for the instances, at which the client has 10.88.0.1.
pub fn lay_inner_bridge() {
    for words in [
        "link add br1 type bridge",
        "addr add 10.88.0.1/24 dev br1",
        "link set br1 up",
    ] {
        ip(words);
    }
}

/// A hosted instance, ended when dropped.
pub struct Hosted {
    id: u32,
    /// Where its admin port is.
    address: String,
    process: Child,
    lines: Receiver<String>,
}

impl Hosted {
    /// Start instance `id` of `members`, all behind 10.77.0.10 and fd77::10, and wait until it is ready.
    pub fn start(service: &str, id: u32, members: u32, more: &[&str]) -> Hosted {
        Hosted::start_at(service, id, members, more, "10.77.0")
    }

    /// The same with the members on the inner bridge.
    pub fn start_in_two(service: &str, id: u32, members: u32) -> Hosted {
        let tap = format!("inner{id}");
        ip(&format!("tuntap add dev {tap} mode tap"));
        ip(&format!("link set {tap} master br1 up"));
        let tap = format!("instance_tap={tap}");
        let own = format!("instance_ip=10.88.0.{}/24", 10 + id);
        Hosted::start_at(service, id, members, &[&tap, &own], "10.88.0")
    }

    fn start_at(service: &str, id: u32, members: u32, more: &[&str], network: &str) -> Hosted {
        let tap = format!("tap{id}");
        ip(&format!("tuntap add dev {tap} mode tap"));
        ip(&format!("link set {tap} master br0 up"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_godwit-hosted"));
        command
            .arg(service)
            .args([format!("tap={tap}"), format!("id={id}")])
            .arg(format!("ip=10.77.0.{}/24", 10 + id))
            .arg(format!("ip=fd77::{}/64", 10 + id))
            .args(["vip=10.77.0.10", "vip=fd77::10"])
            .arg(format!("cluster_key={KEY}"))
            .arg(format!("admin_token={TOKEN}"))
            .args(more);
        for peer in (1..=members).filter(|peer| *peer != id) {
            command.arg(format!("peer={peer}@{network}.{}", 10 + peer));
        }
        let mut process = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let lines = read_lines(process.stdout.take().expect("piped"));
        let address = format!("{network}.{}:9100", 10 + id);
        let hosted = Hosted {
            id,
            address,
            process,
            lines,
        };
        let ready = hosted.line("GODWIT READY ");
        assert_eq!(ready["service"], service);
        hosted
    }

    /// Delete the device under it.
    pub fn lose_device(&self) {
        ip(&format!("link del tap{}", self.id));
    }

    /// What follows `tag` on the next line that has it.
    pub fn line(&self, tag: &str) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let line = self
                .lines
                .recv_timeout(until.saturating_duration_since(Instant::now()))
                .unwrap_or_else(|_| panic!("instance {}: no {tag}", self.id));
            if let Some(json) = line.strip_prefix(tag) {
                return serde_json::from_str(json).expect("JSON");
            }
        }
    }

    /// Where its admin port is.
    pub fn address(&self) -> SocketAddr {
        self.address.parse().expect("an address")
    }

    /// Ask the node agent.
    pub fn ask(&self, method: &str, path: &str, body: &str, token: Option<&str>) -> (u16, String) {
        ask(self.address(), method, path, body, token)
    }

    /// The node agent's status.
    pub fn status(&self) -> Value {
        let (status, body) = self.ask("GET", "/status", "", Some(TOKEN));
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).expect("JSON")
    }

    /// Sessions of the service that live here.
    pub fn sessions(&self) -> Vec<String> {
        let status = self.status();
        let list = status["sessions"].as_array().expect("a list").iter();
        list.filter(|session| session["phase"] == "live")
            .map(|session| session["id"].as_str().expect("text").to_owned())
            .collect()
    }

    /// Press the power button.
    pub fn press_power_button(&self) {
        let pid = nix::unistd::Pid::from_raw(self.process.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it runs");
    }

    /// End it without a word.
    pub fn kill(self) {}

    /// Wait for the end; the exit status.
    pub fn wait(mut self) -> i32 {
        wait_until("the process ends", || {
            self.process.try_wait().ok().flatten()
        })
        .code()
        .expect("no signal")
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        // Fails if it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One request over a connection of its own; status and body.
pub fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
    token: Option<&str>,
) -> (u16, String) {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let token = token.map_or(String::new(), |token| {
        format!("Authorization: Bearer {token}\r\n")
    });
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{token}Content-Length: {length}\r\n\r\n{body}"
    )
    .expect("sends");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head[9..12].parse().expect("a status"), body.to_owned())
}

/// Ask again and again until there is an answer.
pub fn wait_until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn read_lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            println!("| {line}");
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// A counter of the host kernel's network stack in this namespace, as `Tcp` `EstabResets`.
pub fn kernel_counter(group: &str, name: &str) -> u64 {
    // Pairs of lines: names, then values.
    let text = ["/proc/net/snmp", "/proc/net/netstat"]
        .map(|file| fs::read_to_string(file).expect("proc is there"))
        .concat();
    let prefix = format!("{group}: ");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(&prefix));
    let names = lines.next().expect("names").split(' ');
    let mut values = lines.next().expect("values").split(' ');
    let index = names.into_iter().position(|found| found == name);
    let value = index.and_then(|index| values.nth(index));
    value.expect("such a counter").parse().expect("a number")
}
