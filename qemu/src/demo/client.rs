//! The unmodified client: the distribution's curl, or where it cannot be used, a stack in this
//! process that knows nothing of moves either.

use std::io::Read;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::fcntl::{FcntlArg, fcntl};

use super::live::Meter;
use super::options::ClientChoice;
use crate::content::Check;
use crate::net::{Namespace, Network, Stream, UserStack, open_tap};

/// Room between curl and us, so that neither waits for the other more than needed.
const PIPE: i32 = 1 << 20;
/// Nothing at all for this long is an end, not a pause.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Which client there can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Client {
    /// Linux's TCP and curl of this version.
    Linux(String),
    /// A stack in the harness, because of this.
    Harness(String),
}

impl Client {
    /// Finds out what this system permits.
    pub fn find(choice: ClientChoice) -> Result<Self> {
        if choice == ClientChoice::Harness {
            return Ok(Self::Harness("asked for".into()));
        }
        let tap = Namespace::create().and_then(|namespace| open_tap(&namespace, "try", &[]));
        match tap {
            Ok(_) => Ok(Self::Linux(curl_version()?)),
            Err(error) => Ok(Self::Harness(format!("{error:#}"))),
        }
    }

    /// Its name in reports.
    pub fn name(&self) -> String {
        match self {
            Self::Linux(version) => format!("curl {version} / Linux"),
            Self::Harness(_) => "smoltcp in the harness".into(),
        }
    }
}

/// curl's version as in "7.88".
fn curl_version() -> Result<String> {
    let output = Command::new("curl")
        .args(["-q", "--version"])
        .output()
        .context("no curl")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_whitespace().nth(1).unwrap_or("?");
    let short: Vec<_> = version.split('.').take(2).collect();
    Ok(short.join("."))
}

/// A download of one URL.
pub(super) struct Download {
    work: Option<JoinHandle<Result<Received>>>,
}

/// What the client got.
pub(super) struct Received {
    /// Bytes of the body.
    pub bytes: u64,
    /// Their SHA-256.
    pub digest: String,
}

impl Download {
    /// Starts the client. What it gets goes into a hash, never to disk; the meter counts the
    /// bytes.
    pub fn start(
        network: &Network,
        server: SocketAddr,
        path: &str,
        meter: &Arc<Meter>,
    ) -> Result<Self> {
        let meter = Arc::clone(meter);
        let work = match network {
            Network::Namespace(namespace) => {
                let url = format!("http://{server}{path}");
                namespace.spawn("curl", move || curl(&url, &meter))?
            }
            Network::User(stack) => {
                let (stack, path) = (stack.clone(), path.to_owned());
                thread::spawn(move || get(&stack, server, &path, &meter))
            }
            Network::Host => bail!("the demo's client has a network of its own"),
        };
        Ok(Self { work: Some(work) })
    }

    /// It has ended, one way or the other.
    pub fn is_over(&self) -> bool {
        self.work.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Result<Received> {
        let work = self
            .work
            .take()
            .context("the client was already waited for")?;
        work.join()
            .map_err(|_| anyhow!("the client's thread panicked"))?
    }
}

/// What every curl is told first: nobody's ~/.curlrc or proxy has a say here.
pub(super) const CURL: [&str; 7] = [
    "-q",
    "--silent",
    "--show-error",
    "--fail",
    "--globoff",
    "--noproxy",
    "*",
];

fn curl(url: &str, meter: &Meter) -> Result<Received> {
    let seconds = PATIENCE.as_secs().to_string();
    let mut child = Command::new("curl")
        .args(CURL)
        .args([
            "--connect-timeout",
            "10",
            "--speed-limit",
            "1",
            "--speed-time",
            &seconds,
        ])
        .args(["--output", "-", url])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run curl")?;
    let body = read_output(&mut child, meter);
    let output = child.wait_with_output()?;
    let check = body?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!(
            "curl failed after {} bytes: {}",
            check.bytes(),
            errors.trim()
        );
    }
    Ok(Received {
        bytes: check.bytes(),
        digest: check.finish(),
    })
}

fn read_output(child: &mut Child, meter: &Meter) -> Result<Check> {
    let stdout = child.stdout.take().context("curl has no output")?;
    let _ = fcntl(&stdout, FcntlArg::F_SETPIPE_SZ(PIPE));
    hash(stdout, Check::default(), u64::MAX, meter)
}

/// Hashes what comes until the end, or until there were `size` bytes.
pub(super) fn hash(
    mut source: impl Read,
    mut check: Check,
    size: u64,
    meter: &Meter,
) -> Result<Check> {
    let mut buffer = vec![0; 256 << 10];
    while check.bytes() < size {
        let n = source.read(&mut buffer);
        match n.with_context(|| format!("the stream broke off after {} bytes", check.bytes()))? {
            0 => break,
            n => {
                check.add(&buffer[..n]);
                meter.set_bytes(check.bytes());
            }
        }
    }
    Ok(check)
}

/// What curl does, without curl.
fn get(stack: &UserStack, server: SocketAddr, path: &str, meter: &Meter) -> Result<Received> {
    let mut stream: Box<dyn Stream> = Box::new(stack.connect(server, PATIENCE)?);
    let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nUser-Agent: godwit\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte)? == 0 || head.len() > 16 << 10 {
            bail!("the server's answer has no end of header");
        }
        head.extend(byte);
    }
    let head = String::from_utf8(head).context("the server's header is not text")?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!(
            "the server refuses: {}",
            head.lines().next().unwrap_or_default()
        );
    }
    let length = head.lines().filter_map(|line| line.split_once(':'));
    let mut length = length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let (_, length) = length
        .next()
        .context("the server does not say how much it sends")?;
    let check = hash(stream, Check::default(), length.trim().parse()?, meter)?;
    Ok(Received {
        bytes: check.bytes(),
        digest: check.finish(),
    })
}
