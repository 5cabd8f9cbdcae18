//! Asking a server that is not there yet until it answers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// A SYN that nobody hears is given up after this: it is the error of what is measured.
const ATTEMPT: Duration = Duration::from_millis(2);
/// Between two attempts, where the network itself refuses.
const PAUSE: Duration = Duration::from_micros(200);

/// Ask for `path` over and over; when the first good answer's head was there. Given up when the
/// server has `ended`.
pub fn first_answer(
    server: SocketAddr,
    path: &str,
    patience: Duration,
    mut ended: impl FnMut() -> Result<bool>,
) -> Result<Instant> {
    let end = Instant::now() + patience;
    let mut last = String::from("nothing");
    while Instant::now() < end {
        match ask(server, path) {
            Ok(true) => return Ok(Instant::now()),
            Ok(false) => bail!("{server} answers, but not with 200"),
            Err(error) => last = error.to_string(),
        }
        if ended()? {
            bail!("it has ended");
        }
        thread::sleep(PAUSE);
    }
    bail!(
        "no answer within {} s, the last was: {last}",
        patience.as_secs()
    )
}

/// Whether one request gets 200.
fn ask(server: SocketAddr, path: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&server, ATTEMPT)?;
    // It has accepted: from here on it is only slow.
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    Ok(head.starts_with(b"HTTP/1.1 200"))
}
