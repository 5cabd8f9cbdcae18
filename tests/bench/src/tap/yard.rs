//! Where the rows over TAP are measured: the client's network namespace with a TAP device in it,
//! and one end of a veth pair whose other end is in the peer's.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use godwit_qemu::build;
use godwit_qemu::net::Namespace;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Names the hosted services' program, where it is built already.
const HOSTED: &str = "GODWIT_HOSTED";
/// The addresses of the two servers.
pub const OURS: [u8; 4] = [10, 77, 0, 2];
/// The peer's.
pub const THEIRS: [u8; 4] = [10, 78, 0, 2];
/// The core that servers run on; the client has the other.
pub const SERVER_CORE: usize = 1;
/// The client's core.
pub const CLIENT_CORE: usize = 0;

/// The two namespaces.
pub struct Yard {
    /// The client's.
    pub client: Namespace,
    /// The peer's.
    pub peer: Namespace,
}

impl Yard {
    /// Lay it out. `offload`: segmentation and checksums may be left to the devices.
    pub fn new(offload: bool) -> Result<Yard> {
        let client = Namespace::create()?;
        let peer = Namespace::create()?;
        client.ip(&format!(
            "link add v0 type veth peer name v1 netns {}\n\
             addr add 10.78.0.1/24 dev v0\n\
             link set v0 up\n\
             tuntap add dev tap0 mode tap\n\
             addr add 10.77.0.1/24 dev tap0\n\
             link set tap0 up\n",
            peer.path()
        ))?;
        peer.ip("addr add 10.78.0.2/24 dev v1\nlink set v1 up\n")?;
        receive_on_client_core(&client, &["v0", "tap0"])?;
        if !offload {
            for (namespace, device) in [(&client, "v0"), (&peer, "v1")] {
                let mut command = Command::new("ethtool");
                command.args([
                    "-K", device, "tx", "off", "tso", "off", "gso", "off", "gro", "off",
                ]);
                namespace.place(&mut command);
                let output = command.output().context("cannot run ethtool")?;
                if !output.status.success() {
                    bail!("ethtool: {}", String::from_utf8_lossy(&output.stderr));
                }
            }
        }
        Ok(Yard { client, peer })
    }

    /// Start our HTTP service on the TAP device and wait until it is ready.
    pub fn hosted(&self, offload: bool) -> Result<Server> {
        let offload = if offload { "offload=on" } else { "offload=off" };
        hosted(
            &self.client,
            &["http", "tap=tap0", "ip=10.77.0.2/24", offload],
        )
    }
}

/// Start one of our services in a namespace with these words and wait until it is ready.
pub fn hosted(namespace: &Namespace, words: &[&str]) -> Result<Server> {
    let program = match std::env::var_os(HOSTED) {
        Some(path) => path.into(),
        None => build::hosted()?,
    };
    let mut command = pinned(SERVER_CORE);
    command
        .arg(program)
        .args(words)
        .arg("log=warn")
        .stdout(Stdio::piped());
    namespace.place(&mut command);
    let mut process = command.spawn().context("cannot start the hosted service")?;
    let stdout = process.stdout.take().context("no output")?;
    let server = Server(process);
    let mut lines = BufReader::new(stdout).lines();
    loop {
        let line = lines.next().context("the hosted service ended")??;
        if line.starts_with("GODWIT READY") {
            // What else it says has to go somewhere.
            std::thread::spawn(move || lines.for_each(drop));
            return Ok(server);
        }
    }
}

/// What the client's kernel does with a frame is the client's work, and done on its core (receive
/// packet steering). It would else be done by whoever sends: within our write to the TAP device, and
/// within the peer's to its socket.
pub fn receive_on_client_core(client: &Namespace, devices: &[&str]) -> Result<()> {
    let mut script = String::from("mount -t sysfs none /sys");
    for device in devices {
        let mask = 1 << CLIENT_CORE;
        script += &format!(" && echo {mask:x} > /sys/class/net/{device}/queues/rx-0/rps_cpus");
    }
    // A namespace's devices are seen in a sysfs mounted in it.
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]);
    client.place(&mut command);
    let output = command.output().context("cannot run unshare")?;
    if !output.status.success() {
        bail!(
            "packet steering: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// A command whose program runs on one core.
pub fn pinned(core: usize) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]);
    command
}

/// Keep the calling thread on one core.
pub fn stay_on(core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &cores).with_context(|| format!("cannot use core {core}"))
}

/// A command for the peer's namespace, on the servers' core.
pub fn server_command(yard: &Yard) -> Command {
    let mut command = pinned(SERVER_CORE);
    yard.peer.place(&mut command);
    command
}

/// A command for the client's namespace, on its core.
pub fn client_command(yard: &Yard) -> Command {
    let mut command = pinned(CLIENT_CORE);
    yard.client.place(&mut command);
    command
}

/// Where a server listens.
pub fn address(server: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::from((server, port))
}

/// A server process, ended when dropped.
pub struct Server(pub Child);

impl Server {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
