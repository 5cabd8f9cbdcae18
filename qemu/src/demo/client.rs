//! The unmodified client: the distribution's curl.

use std::io::Read;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, bail};
use nix::fcntl::{FcntlArg, fcntl};

use super::live::Meter;
use crate::content::Check;
use crate::net::Namespace;

/// Room between curl and us, so that neither waits for the other more than needed.
const PIPE: i32 = 1 << 20;

/// curl's version as in "curl 7.88".
pub fn curl_version() -> Result<String> {
    let output = Command::new("curl")
        .args(["-q", "--version"])
        .output()
        .context("no curl")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_whitespace().nth(1).unwrap_or("?");
    let short: Vec<_> = version.split('.').take(2).collect();
    Ok(format!("curl {}", short.join(".")))
}

/// A curl process that downloads one URL.
pub struct Curl {
    work: Option<JoinHandle<Result<Received>>>,
}

/// What curl got.
pub struct Received {
    /// Bytes of the body.
    pub bytes: u64,
    /// Their SHA-256.
    pub digest: String,
}

impl Curl {
    /// Starts curl in the client's namespace. What it writes goes into a hash, never to disk;
    /// the meter counts the bytes.
    pub fn start(
        namespace: &Namespace,
        server: SocketAddr,
        path: &str,
        meter: &Arc<Meter>,
    ) -> Result<Self> {
        let meter = Arc::clone(meter);
        let url = format!("http://{server}{path}");
        let work = namespace.spawn("curl", move || {
            let child = Command::new("curl")
                // Nobody's ~/.curlrc or proxy has a say here.
                .args([
                    "-q",
                    "--silent",
                    "--show-error",
                    "--fail",
                    "--globoff",
                    "--noproxy",
                    "*",
                ])
                .args([
                    "--connect-timeout",
                    "10",
                    "--speed-limit",
                    "1",
                    "--speed-time",
                    "30",
                ])
                .args(["--output", "-", &url])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .context("cannot run curl")?;
            collect(child, &meter)
        })?;
        Ok(Self { work: Some(work) })
    }

    /// It has ended, one way or the other.
    pub fn is_over(&self) -> bool {
        self.work.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Result<Received> {
        let work = self.work.take().context("curl was already waited for")?;
        work.join()
            .map_err(|_| anyhow!("the thread that reads from curl panicked"))?
    }
}

fn collect(mut child: Child, meter: &Meter) -> Result<Received> {
    let mut stdout = child.stdout.take().context("curl has no output")?;
    let _ = fcntl(&stdout, FcntlArg::F_SETPIPE_SZ(PIPE));
    let mut check = Check::default();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match stdout.read(&mut buffer).context("cannot read from curl")? {
            0 => break,
            n => {
                check.add(&buffer[..n]);
                meter.set_bytes(check.bytes());
            }
        }
    }
    let output = child.wait_with_output()?;
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
