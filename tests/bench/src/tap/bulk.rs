//! One connection that downloads.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::yard::{CLIENT_CORE, OURS, SERVER_CORE, THEIRS, Yard, address, stay_on};
use crate::Effort;
use crate::row::{Better, Row, Turns};

/// What the peer writes in one go, in octets.
const PIECE: usize = 64 * 1024;
/// Where the peer listens.
const PORT: u16 = 9;

/// With offloads on both sides, or without.
pub fn row(name: &str, offload: bool, floor: f64, effort: &Effort) -> Result<Vec<Row>> {
    let yard = Yard::new(offload)?;
    let server = yard.hosted(offload)?;
    let listener = yard
        .peer
        .run(|| Ok(TcpListener::bind(address(THEIRS, PORT))?))?;
    let peer = yard.peer.spawn("peer", move || {
        stay_on(SERVER_CORE)?;
        for stream in listener.incoming() {
            serve(stream?);
        }
        Ok(())
    })?;
    // It ends with the process.
    drop(peer);
    let time = Duration::from_millis(if effort.short { 100 } else { 1_000 });
    let turns = Turns::take(
        effort.runs,
        || yard.client.run(|| download(address(OURS, 80), time)),
        || yard.client.run(|| download(address(THEIRS, PORT), time)),
    )?;
    drop(server);
    let peer = "Linux over veth";
    let row = Row::compared(name, peer, "Gbit/s", Better::Higher, &turns, floor);
    Ok(vec![row])
}

/// Write until nobody reads any more.
fn serve(mut stream: TcpStream) {
    let data = vec![0x5a; PIECE];
    while stream.write_all(&data).is_ok() {}
}

/// Gbit/s of a download, once it is under way.
fn download(server: SocketAddr, time: Duration) -> Result<f64> {
    stay_on(CLIENT_CORE)?;
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /gen/1024G HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut place = vec![0; 256 * 1024];
    let mut octets = 0;
    let mut start = Instant::now();
    let mut warm = false;
    loop {
        let count = stream.read(&mut place)?;
        if count == 0 {
            bail!("the server closed after {octets} octets");
        }
        octets += count;
        if !warm && start.elapsed() > time / 4 {
            warm = true;
            octets = 0;
            start = Instant::now();
        }
        let elapsed = start.elapsed();
        if warm && elapsed >= time {
            return Ok(octets as f64 * 8.0 / elapsed.as_secs_f64() / 1e9);
        }
    }
}
