//! Private network namespaces, held by a file descriptor: they end with the process.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{getegid, geteuid};

/// A network namespace of our own. Clones name the same namespace.
#[derive(Clone, Debug)]
pub struct Namespace {
    handle: Arc<File>,
}

impl Namespace {
    /// Creates a namespace with nothing but a loopback device, which is brought up.
    ///
    /// Needs `CAP_SYS_ADMIN`: an unprivileged process calls [`become_root_of_own`] first.
    pub fn create() -> Result<Self> {
        let made = thread::Builder::new()
            .name("netns".into())
            .spawn(|| -> Result<File> {
                unshare(CloneFlags::CLONE_NEWNET).context("cannot create a network namespace")?;
                // "thread-self" is this thread, the only one inside so far.
                File::open("/proc/thread-self/ns/net")
                    .context("cannot open the new network namespace")
            })?;
        let handle = made
            .join()
            .map_err(|_| anyhow!("the namespace thread panicked"))??;
        let namespace = Self {
            handle: Arc::new(handle),
        };
        namespace.ip("link set dev lo up\n")?;
        Ok(namespace)
    }

    /// A path of this process that names the namespace to other programs.
    pub fn path(&self) -> String {
        format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.handle.as_raw_fd()
        )
    }

    /// Starts a thread that lives in the namespace: its sockets and its child processes do too.
    pub fn spawn<T, F>(&self, name: &str, work: F) -> Result<JoinHandle<Result<T>>>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T> + Send + 'static,
    {
        let handle = Arc::clone(&self.handle);
        Ok(thread::Builder::new().name(name.into()).spawn(move || {
            enter(&handle)?;
            work()
        })?)
    }

    /// Runs `work` in the namespace and waits for it.
    pub fn run<T, F>(&self, work: F) -> Result<T>
    where
        T: Send,
        F: FnOnce() -> Result<T> + Send,
    {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                enter(&self.handle)?;
                work()
            });
            inside
                .join()
                .map_err(|_| anyhow!("a thread in the namespace panicked"))?
        })
    }

    /// Makes a command run its program in the namespace.
    pub fn place(&self, command: &mut Command) {
        let handle = Arc::clone(&self.handle);
        // SAFETY: between fork and exec only async-signal-safe functions may run; the closure
        // makes one system call and allocates nothing.
        unsafe {
            command.pre_exec(move || Ok(setns(&*handle, CloneFlags::CLONE_NEWNET)?));
        }
    }

    /// Feeds lines of `ip` commands to one run of iproute2 inside the namespace.
    pub fn ip(&self, batch: &str) -> Result<()> {
        self.run(|| {
            let mut child = Command::new("ip")
                .args(["-batch", "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .context("cannot run `ip` (package iproute2)")?;
            if let Some(mut stdin) = child.stdin.take() {
                std::io::Write::write_all(&mut stdin, batch.as_bytes())?;
            }
            let output = child.wait_with_output()?;
            if !output.status.success() {
                bail!(
                    "`ip` failed: {}",
                    String::from_utf8_lossy(&output.stderr).trim()
                );
            }
            Ok(())
        })
    }
}

fn enter(namespace: &File) -> Result<()> {
    setns(namespace, CloneFlags::CLONE_NEWNET).context("cannot enter the network namespace")
}

/// Makes an unprivileged process root of a user namespace of its own, so that it may create
/// network namespaces. Does nothing for root. Must run before any thread is started.
pub fn become_root_of_own() -> Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    if uid.is_root()
        && thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET))
            .join()
            .is_ok_and(|r| r.is_ok())
    {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWUSER)
        .context("this system does not let users create namespaces")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).context("cannot map the user id")?;
    // Kernels ask for this before an unprivileged process may map its group.
    fs::write("/proc/self/setgroups", "deny").context("cannot give up setgroups")?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).context("cannot map the group id")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    /// A socket opened outside must not be reachable from inside, or tests could leak traffic.
    #[test]
    fn loopback_of_the_namespace_is_its_own() {
        let Ok(namespace) = Namespace::create() else {
            eprintln!("skipped: no right to create a network namespace");
            return;
        };
        let outside = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = outside.local_addr().unwrap();
        let reached = namespace
            .run(|| Ok(TcpStream::connect(address).is_ok()))
            .unwrap();
        assert!(!reached);
        let inside = namespace
            .run(|| {
                let listener = TcpListener::bind("127.0.0.1:0")?;
                Ok(TcpStream::connect(listener.local_addr()?).is_ok())
            })
            .unwrap();
        assert!(inside, "lo must be up inside");
    }
}
