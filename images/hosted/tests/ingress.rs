//! The ingress of three hosted instances is killed under real clients (the Linux kernel's TCP).

mod yard;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use godwit_http::generated;
use yard::{Hosted, in_namespace, keep_receive_buffers_small, lay_bridge, wait_until};

const SERVICE: &str = "10.77.0.10:80";
const SIZE: usize = 16 << 20;

/// A download over a connection of its own, checked octet by octet.
struct Fetch {
    stream: TcpStream,
    received: usize,
}

impl Fetch {
    fn start(patience: Duration) -> std::io::Result<Fetch> {
        let service = SERVICE.parse().expect("an address");
        let mut stream = TcpStream::connect_timeout(&service, patience)?;
        stream.set_read_timeout(Some(Duration::from_secs(15)))?;
        write!(stream, "GET /gen/{SIZE} HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut octet = [0];
            stream.read_exact(&mut octet)?;
            head.push(octet[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 200 "));
        Ok(Fetch {
            stream,
            received: 0,
        })
    }

    fn read_until(&mut self, end: usize) {
        let mut chunk = vec![0; 256 * 1024];
        while self.received < end {
            let limit = chunk.len().min(end - self.received);
            let got = self.stream.read(&mut chunk[..limit]).expect("reads");
            assert!(got > 0, "ends after {}", self.received);
            let right = generated::slice(self.received as u64, got);
            assert!(chunk[..got] == right, "wrong after {}", self.received);
            self.received += got;
        }
    }

    /// Whether that instance has its session.
    fn is_at(&self, hosted: &Hosted) -> bool {
        let here = self.stream.local_addr().expect("connected").to_string();
        let status = hosted.status();
        let sessions = status["sessions"].as_array().expect("a list").iter();
        let mut connections = sessions.flat_map(|s| s["connections"].as_array().expect("a list"));
        connections.any(|connection| connection["remote"] == here.as_str())
    }
}

fn ingress_of(instances: &[Hosted]) -> usize {
    wait_until("an ingress is elected", || {
        let acts = |hosted: &Hosted| hosted.status()["ingress"] == true;
        instances.iter().position(acts)
    })
}

fn start(members: u32, more: &[&str]) -> Vec<Hosted> {
    lay_bridge();
    keep_receive_buffers_small();
    let one = |id| Hosted::start("http", id, members, more);
    (1..=members).map(one).collect()
}

/// Kill the ingress under downloads; how many there were at other instances.
fn kill_the_ingress(mut instances: Vec<Hosted>) -> usize {
    let ingress = ingress_of(&instances);
    let fetch = |_| Fetch::start(Duration::from_secs(5)).expect("served");
    let mut fetches: Vec<Fetch> = (0..12).map(fetch).collect();
    for fetch in &mut fetches {
        fetch.read_until(1 << 20);
    }
    fetches.retain(|fetch| !fetch.is_at(&instances[ingress]));

    let killed = Instant::now();
    instances.remove(ingress).kill();
    let mut new = wait_until("a new connection is served", || {
        Fetch::start(Duration::from_millis(500)).ok()
    });
    let took = killed.elapsed();
    println!(
        "| a new connection {} ms after the ingress was killed",
        took.as_millis()
    );
    assert!(took < Duration::from_secs(5), "{took:?}");
    let next = ingress_of(&instances);
    let status = instances[next].status();
    assert!(
        status["role"]["term"].as_u64() > Some(1),
        "{}",
        status["role"]
    );
    assert!(status["role"]["lease_ms"].as_u64() <= Some(2_000));
    for fetch in &mut fetches {
        fetch.read_until(SIZE);
    }
    new.read_until(SIZE);
    fetches.len()
}

#[test]
fn an_ingress_that_is_killed_is_replaced_and_the_others_downloads_go_on() {
    let name = "an_ingress_that_is_killed_is_replaced_and_the_others_downloads_go_on";
    in_namespace(name, || {
        let others = kill_the_ingress(start(3, &[]));
        // By lot, it may even be all of them.
        assert!(others > 0, "nobody to go on");
    });
}

#[test]
fn two_instances_and_a_witness_outlive_the_ingress() {
    let name = "two_instances_and_a_witness_outlive_the_ingress";
    in_namespace(name, || {
        kill_the_ingress(start(3, &["witness=3"]));
    });
}

#[test]
fn of_two_instances_the_survivor_serves_if_availability_is_preferred() {
    let name = "of_two_instances_the_survivor_serves_if_availability_is_preferred";
    in_namespace(name, || {
        kill_the_ingress(start(2, &["prefer=availability", "lease=1s"]));
    });
}
