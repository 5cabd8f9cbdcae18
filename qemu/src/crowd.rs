//! A crowd of clients of the echo service, on the host kernel's own TCP: most connections are idle,
//! some are used all the time. Every octet that comes back is looked at.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Longer than anything should take; a client waits so long for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Connections asked at a time.
const BATCH: usize = 128;
/// Octets of a question.
const QUESTION: usize = 16;
/// Descriptors that are needed for other things.
const OTHERS: u64 = 64;
/// Turns in which all busy connections are asked once.
const TURNS: usize = 20;

/// Lets this process hold as many connections as it may; how many that is.
pub fn raise_limit() -> Result<usize> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
            .context("cannot raise the limit of files")?;
    }
    Ok(usize::try_from(hard.saturating_sub(OTHERS)).unwrap_or(usize::MAX))
}

/// A connection and the count of questions it has asked.
struct Client {
    stream: TcpStream,
    asked: u64,
}

impl Client {
    fn open(server: SocketAddr) -> Result<Client> {
        let stream = TcpStream::connect_timeout(&server, PATIENCE)
            .with_context(|| format!("cannot connect to {server}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Client { stream, asked: 0 })
    }

    /// What it asks this time: no two clients and no two questions are alike.
    fn question(&self) -> Result<[u8; QUESTION]> {
        let mut octets = [0; QUESTION];
        let port = self.stream.local_addr()?.port();
        octets[..8].copy_from_slice(&self.asked.to_le_bytes());
        octets[8..10].copy_from_slice(&port.to_le_bytes());
        octets[10..].copy_from_slice(b"godwit");
        Ok(octets)
    }

    fn ask(&mut self) -> Result<()> {
        self.asked += 1;
        let question = self.question()?;
        self.stream.write_all(&question).context("asking")
    }

    fn hear(&mut self) -> Result<()> {
        let mut answer = [0; QUESTION];
        self.stream
            .read_exact(&mut answer)
            .map_err(|error| match error.kind() {
                ErrorKind::WouldBlock => anyhow!("no answer within {PATIENCE:?}"),
                ErrorKind::UnexpectedEof => anyhow!("closed by the service"),
                _ => anyhow!("{error}"),
            })?;
        ensure!(
            answer == self.question()?,
            "another answer than {QUESTION} octets of its own"
        );
        Ok(())
    }
}

/// Asks all of them once, a batch at a time.
fn ask_all(clients: &mut [Client]) -> Result<()> {
    for batch in clients.chunks_mut(BATCH) {
        batch.iter_mut().try_for_each(Client::ask)?;
        batch.iter_mut().try_for_each(Client::hear)?;
    }
    Ok(())
}

/// Connections that have asked once at least.
#[derive(Default)]
pub struct Crowd {
    idle: Vec<Client>,
}

impl Crowd {
    /// Opens `count` connections to `servers`, in turns.
    pub fn open(servers: &[SocketAddr], count: usize) -> Result<Crowd> {
        let mut idle = Vec::with_capacity(count);
        for (number, server) in servers.iter().cycle().take(count).enumerate() {
            let client = Client::open(*server);
            idle.push(client.with_context(|| format!("connection {number} of {count}"))?);
            if idle.len().is_multiple_of(BATCH) {
                let new = idle.len() - BATCH;
                ask_all(&mut idle[new..])?;
            }
        }
        let asked = idle.len() / BATCH * BATCH;
        ask_all(&mut idle[asked..])?;
        Ok(Crowd { idle })
    }

    /// Connections that are not in use.
    pub fn len(&self) -> usize {
        self.idle.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.idle.is_empty()
    }

    /// Asks every connection once: each has to answer.
    pub fn check(&mut self) -> Result<()> {
        ask_all(&mut self.idle)
    }

    /// Uses `count` of them all the time from now on, each once every `pace`.
    pub fn keep_busy(&mut self, count: usize, pace: Duration) -> Result<Busy> {
        ensure!(
            count <= self.idle.len(),
            "so many connections are not there"
        );
        let clients = self.idle.split_off(self.idle.len() - count);
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let stop = Arc::clone(&stop);
            let work = move || ask_on(clients, pace, &stop);
            thread::Builder::new().name("busy".into()).spawn(work)?
        };
        Ok(Busy { stop, thread })
    }

    /// Takes back those that were busy.
    pub fn rest(&mut self, busy: Busy) -> Result<Answers> {
        busy.stop.store(true, Ordering::Relaxed);
        let (clients, answers) = busy
            .thread
            .join()
            .map_err(|_| anyhow!("a client panicked"))??;
        self.idle.extend(clients);
        Ok(answers)
    }
}

/// Connections in use.
pub struct Busy {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(Vec<Client>, Answers)>>,
}

/// What busy clients saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answers {
    /// Answers, all of them right.
    pub count: u64,
    /// The longest that one has waited.
    pub longest: Duration,
}

/// Asks every one of `clients` once every `pace`, until told to stop.
fn ask_on(
    mut clients: Vec<Client>,
    pace: Duration,
    stop: &AtomicBool,
) -> Result<(Vec<Client>, Answers)> {
    let mut answers = Answers::default();
    let slot = pace / TURNS as u32;
    let share = clients.len().div_ceil(TURNS).max(1);
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        for part in clients.chunks_mut(share) {
            let asked = Instant::now();
            part.iter_mut().try_for_each(Client::ask)?;
            for client in part.iter_mut() {
                client
                    .hear()
                    .with_context(|| format!("after {} answers", answers.count))?;
                answers.count += 1;
                answers.longest = answers.longest.max(asked.elapsed());
            }
            due += slot;
            match due.checked_duration_since(Instant::now()) {
                Some(wait) => thread::sleep(wait),
                // What was missed is not made up for.
                None => due = Instant::now(),
            }
        }
    }
    Ok((clients, answers))
}

/// A counter of the kernel's network stack in the calling thread's namespace, as `Tcp` `EstabResets`.
pub fn kernel_counter(group: &str, name: &str) -> Result<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp")?
        + &std::fs::read_to_string("/proc/thread-self/net/netstat")?;
    let prefix = format!("{group}: ");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(&prefix));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else {
        bail!("no group {group}");
    };
    let mut pairs = names.split(' ').zip(values.split(' '));
    let found = pairs.find(|(found, _)| *found == name);
    Ok(found
        .with_context(|| format!("no counter {group} {name}"))?
        .1
        .parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// An echo that answers wrongly from the so-manieth question of a connection on.
    fn echo(wrong_from: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let mut octets = [0; QUESTION];
                    for count in 0.. {
                        if stream.read_exact(&mut octets).is_err() {
                            return;
                        }
                        octets[0] ^= u8::from(count >= wrong_from);
                        stream.write_all(&octets).unwrap();
                    }
                });
            }
        });
        address
    }

    #[test]
    fn a_crowd_rests_works_and_answers() {
        let mut crowd = Crowd::open(&[echo(usize::MAX)], 30).unwrap();
        let busy = crowd.keep_busy(10, Duration::from_millis(20)).unwrap();
        assert_eq!(crowd.len(), 20);
        crowd.check().unwrap();
        thread::sleep(Duration::from_millis(60));
        let answers = crowd.rest(busy).unwrap();
        assert!(
            answers.count >= 20 && answers.count.is_multiple_of(10),
            "{answers:?}"
        );
        assert_eq!(crowd.len(), 30);
        crowd.check().unwrap();
    }

    #[test]
    fn an_octet_that_is_not_its_own_is_noticed() {
        let mut crowd = Crowd::open(&[echo(1)], 3).unwrap();
        assert!(crowd.check().is_err());
        assert!(Crowd::open(&[echo(0)], 3).is_err());
    }
}
