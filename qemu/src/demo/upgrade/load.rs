//! The clients: wrk over kept connections, and curls that take their time.

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;

use crate::content::Check;
use crate::demo::client::CURL;
use crate::net::Namespace;

/// wrk ends by itself after this time if nobody tells it to.
const LONGEST: &str = "600s";
/// Bytes a second of each download while it takes its time.
const RATE: f64 = 1_048_576.0;
/// Hundredths of it that it takes until it may end; what is under way comes on top.
const SHARE: u64 = 40;
/// The least a pipe holds.
const PIPE: i32 = 4096;

/// Small receive buffers for the sockets of the namespace, so that little of a download is under way.
pub(super) fn limit_buffers(namespace: &Namespace) -> Result<()> {
    namespace.run(|| {
        fs::write("/proc/sys/net/ipv4/tcp_rmem", "4096 16384 32768")
            .context("cannot set the size of receive buffers")
    })
}

/// A program in the namespace that does not outlive the thread that starts it.
fn command(namespace: &Namespace, program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    namespace.place(&mut command);
    // SAFETY: between fork and exec only async-signal-safe functions may run; the closure makes one
    // system call and allocates nothing.
    unsafe {
        command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?));
    }
    command
}

fn curl(namespace: &Namespace, server: SocketAddr, path: &str) -> Command {
    let mut command = command(namespace, "curl");
    command
        .args(CURL)
        .args(["--connect-timeout", "10", "--output", "-"])
        .arg(format!("http://{server}{path}"));
    command
}

/// What a client got.
pub(super) struct Fetched {
    pub bytes: u64,
    pub digest: String,
    body: Vec<u8>,
}

impl Fetched {
    /// It as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Downloads something small at once.
pub(super) fn fetch(namespace: &Namespace, server: SocketAddr, path: &str) -> Result<Fetched> {
    let output = curl(namespace, server, path)
        .output()
        .context("cannot run curl")?;
    if !output.status.success() {
        bail!(
            "curl failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let mut check = Check::default();
    check.add(&output.stdout);
    Ok(Fetched {
        bytes: check.bytes(),
        digest: check.finish(),
        body: output.stdout,
    })
}

/// How fast the downloads may go: slowly, and not to the end, until they may finish.
pub(super) struct Pace {
    begun: Instant,
    over: AtomicBool,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            over: AtomicBool::new(false),
        }
    }
}

impl Pace {
    /// Bytes of a file of `size` that may have been taken by now.
    fn allowed(&self, size: u64) -> u64 {
        if self.over.load(Ordering::Relaxed) {
            return u64::MAX;
        }
        let taken = (self.begun.elapsed().as_secs_f64() * RATE) as u64;
        taken.min(size * SHARE / 100)
    }

    /// They may end, as fast as they can.
    pub fn finish(&self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// One curl whose output is taken slowly.
pub(super) struct Download {
    work: JoinHandle<Result<()>>,
}

impl Download {
    /// Starts it; `digest` is what must come.
    pub fn start(
        namespace: &Namespace,
        server: SocketAddr,
        path: String,
        size: u64,
        digest: String,
        pace: &Arc<Pace>,
    ) -> Result<Self> {
        let (namespace, pace) = (namespace.clone(), Arc::clone(pace));
        let work = thread::Builder::new().name("curl".into()).spawn(move || {
            let mut child = curl(&namespace, server, &path)
                .spawn()
                .context("cannot run curl")?;
            let body = take(&mut child, size, &pace);
            let output = child.wait_with_output()?;
            let check = body?;
            let bytes = check.bytes();
            if !output.status.success() {
                let why = String::from_utf8_lossy(&output.stderr);
                bail!("{path}: curl failed after {bytes} bytes: {}", why.trim());
            }
            if bytes != size || check.finish() != digest {
                bail!("{path}: curl got {bytes} bytes, not the right ones");
            }
            Ok(())
        })?;
        Ok(Self { work })
    }

    /// Waits for its end.
    pub fn wait(self) -> Result<()> {
        let ended = self.work.join();
        ended.map_err(|_| anyhow!("a client's thread panicked"))?
    }
}

fn take(child: &mut Child, size: u64, pace: &Pace) -> Result<Check> {
    let mut stdout = child.stdout.take().context("curl has no output")?;
    let _ = fcntl(&stdout, FcntlArg::F_SETPIPE_SZ(PIPE));
    let mut check = Check::default();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let left = pace.allowed(size).saturating_sub(check.bytes());
        if left == 0 {
            thread::sleep(Duration::from_millis(20));
            continue;
        }
        let room = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        match stdout.read(&mut buffer[..room])? {
            0 => return Ok(check),
            n => check.add(&buffer[..n]),
        }
    }
}

/// What wrk says in the end.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Said {
    /// Requests answered.
    pub requests: u64,
    /// Of them not with success.
    pub refused: u64,
    /// Connections that could not be opened.
    pub connect_errors: u64,
    /// Reads and writes that failed: a reset, or an end in the middle.
    pub io_errors: u64,
    /// Answers that took longer than 2 s.
    pub timeouts: u64,
    /// Requests a second.
    pub rate: f64,
    /// Median, 99th percentile and longest wait for an answer, in milliseconds.
    pub wait_ms: [f64; 3],
}

impl Said {
    /// Reads wrk's words.
    fn parse(text: &str) -> Result<Self> {
        let words = |label: &str| -> Option<Vec<&str>> {
            let line = text
                .lines()
                .find(|line| line.trim_start().starts_with(label))?;
            Some(
                line.split_whitespace()
                    .map(|word| word.trim_end_matches(','))
                    .collect(),
            )
        };
        let number = |words: &[&str], at: usize| words.get(at).and_then(|w| w.parse().ok());
        let requests = text.lines().find(|line| line.contains(" requests in "));
        let requests = requests.and_then(|line| line.split_whitespace().next()?.parse().ok());
        let mut said = Self {
            requests: requests.with_context(|| format!("wrk said: {text}"))?,
            ..Self::default()
        };
        if let Some(errors) = words("Socket errors:") {
            let error = |at| number(&errors, at).unwrap_or(u64::MAX);
            said.connect_errors = error(3);
            said.io_errors = error(5).saturating_add(error(7));
            said.timeouts = error(9);
        }
        if let Some(refused) = words("Non-2xx") {
            said.refused = number(&refused, refused.len() - 1).unwrap_or(u64::MAX);
        }
        let rate = words("Requests/sec:");
        said.rate = rate
            .and_then(|w| w.get(1)?.parse().ok())
            .unwrap_or_default();
        let time = |label, at: usize| words(label).and_then(|w| milliseconds(w.get(at)?));
        said.wait_ms = [("50%", 1), ("99%", 1), ("Latency ", 3)]
            .map(|(label, at)| time(label, at).unwrap_or_default());
        Ok(said)
    }

    /// Requests without the answer that was expected.
    pub fn failed(&self) -> u64 {
        [
            self.refused,
            self.connect_errors,
            self.io_errors,
            self.timeouts,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }
}

/// A time as wrk writes it.
fn milliseconds(text: &str) -> Option<f64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "us" => 1e-3,
        "ms" => 1.0,
        "s" => 1e3,
        "m" => 60e3,
        _ => return None,
    };
    Some(digits.parse::<f64>().ok()? * unit)
}

/// A running wrk.
pub(super) struct Wrk(Option<Child>);

impl Wrk {
    /// Starts it on one thread.
    pub fn start(
        namespace: &Namespace,
        server: SocketAddr,
        path: &str,
        connections: u32,
    ) -> Result<Self> {
        let mut command = command(namespace, "wrk");
        command
            .args(["--latency", "-t", "1", "-d", LONGEST, "-c"])
            .arg(connections.to_string())
            .arg(format!("http://{server}{path}"));
        let child = command.spawn().context("cannot run wrk")?;
        Ok(Self(Some(child)))
    }

    /// Tells it to end.
    pub fn stop(mut self) -> Result<Said> {
        let child = self.0.take().context("wrk has been stopped before")?;
        kill(Pid::from_raw(child.id() as i32), Signal::SIGINT)?;
        let output = child.wait_with_output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        Said::parse(&String::from_utf8_lossy(&output.stdout))
            .with_context(|| format!("wrk failed: {}", errors.trim()))
    }
}

impl Drop for Wrk {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: &str = "\
Running 10m test @ http://10.77.0.10:80/release.txt
  1 threads and 200 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    38.08ms   22.35ms   1.05s    98.13%
    Req/Sec     5.41k   711.18     6.61k    79.38%
  Latency Distribution
     50%   35.76ms
     75%   38.58ms
     90%   43.00ms
     99%  102.33ms
  86203 requests in 16.01s, 17.92MB read
Requests/sec:   5384.37
Transfer/sec:      1.12MB
";

    #[test]
    fn the_words_of_wrk_are_understood() {
        let said = Said::parse(QUIET).unwrap();
        assert_eq!((said.requests, said.failed()), (86_203, 0));
        assert_eq!(said.wait_ms, [35.76, 102.33, 1050.0]);
        assert!((said.rate - 5384.37).abs() < 1e-9);
        let errors = "  Socket errors: connect 1, read 2, write 3, timeout 4\n  \
                      Non-2xx or 3xx responses: 5\nRequests/sec:";
        let said = Said::parse(&QUIET.replace("Requests/sec:", errors)).unwrap();
        assert_eq!((said.connect_errors, said.io_errors), (1, 5));
        assert_eq!((said.timeouts, said.refused, said.failed()), (4, 5, 15));
        assert!(Said::parse("unable to connect").is_err());
    }
}
