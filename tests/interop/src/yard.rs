//! Two namespaces and the switch between them. In one lives the Linux kernel's TCP, on the TAP device
//! that the switch reads. In the other our side's TAP device is on a bridge with another one that
//! the switch reads: so that ours has its offloads, and the bridge cuts segments as a NIC would.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use godwit_qemu::net::{Namespace, open_tap};
use godwit_qemu::setup;
use godwit_qemu::switch::{Attachment, Impairment, PortConfig, PortStats, Switch, SwitchBuilder};

/// The Linux kernel's addresses, IPv4 and IPv6.
pub const LINUX: [&str; 2] = ["10.77.0.1", "fd77::1"];
/// Ours.
pub const OURS: [&str; 2] = ["10.77.0.2", "fd77::2"];
/// Our TAP device.
pub const TAP: &str = "tap0";
/// Where TAP devices come from.
const TUN: &str = "/dev/net/tun";
/// Longer than any program here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// The namespaces and the switch.
pub struct Yard {
    /// Where the Linux kernel's TCP lives.
    pub linux: Namespace,
    /// Where our TAP device is.
    pub ours: Namespace,
    switch: Switch,
}

/// Links that lose, repeat and reorder a bit of everything, and have some length.
pub fn impaired() -> Impairment {
    Impairment {
        loss: 0.01,
        duplicate: 0.01,
        reorder: 0.02,
        reorder_by: Duration::from_millis(2),
        delay: Duration::from_millis(2),
        ..Impairment::default()
    }
}

/// Where a program is. Servers are not in everybody's search path.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.push("/usr/sbin".into());
    let mut files = folders.into_iter().map(|folder| folder.join(program));
    files.find(|file| file.is_file())
}

/// Whether tests can run here, with these programs.
fn able(programs: &[&str]) -> Result<(), String> {
    static INSTALLED: OnceLock<Result<(), String>> = OnceLock::new();
    let installed =
        INSTALLED.get_or_init(|| setup::ensure_interop().map_err(|error| format!("{error:#}")));
    if let Some(program) = programs.iter().find(|program| find(program).is_none()) {
        let why = installed.as_ref().err().cloned().unwrap_or_default();
        return Err(format!("no {program} here: {why}"));
    }
    let right = Namespace::create().and_then(|space| space.ip("tuntap add dev probe mode tap\n"));
    let Err(error) = right else {
        return Ok(());
    };
    let why = format!("{error:#}");
    // Whatever else is in the way is a failure, or these tests would end unnoticed.
    let may_not = why.contains("EPERM") || why.contains("Operation not permitted");
    assert!(may_not || !Path::new(TUN).exists(), "{why}");
    Err(format!(
        "no right to make namespaces and TAP devices: {why}"
    ))
}

impl Yard {
    /// Lay it out, unless this process may not or a program is missing and cannot be installed: then
    /// say so. Whatever else goes wrong is a failure.
    pub fn new(test: &str, impairment: Impairment, programs: &[&str]) -> Option<Yard> {
        if let Err(why) = able(programs) {
            eprintln!("SKIPPED {test}: {why}");
            return None;
        }
        Some(Yard::lay_out(impairment).expect("the links are laid"))
    }

    fn lay_out(impairment: Impairment) -> Result<Yard> {
        let (linux, ours) = (Namespace::create()?, Namespace::create()?);
        let addresses = [format!("{}/24", LINUX[0]), format!("{}/64", LINUX[1])];
        let near = open_tap(&linux, "lan0", &[&addresses[0], &addresses[1]])?;
        let far = open_tap(&ours, "up0", &[])?;
        ours.ip(&format!(
            "link add br0 type bridge\n\
             tuntap add dev {TAP} mode tap\n\
             link set {TAP} master br0 up\n\
             link set up0 master br0\n\
             link set br0 up\n"
        ))?;
        let mut builder = SwitchBuilder::new(7);
        for (name, tap) in [("linux", near), ("ours", far)] {
            builder.port(PortConfig {
                name: name.into(),
                attachment: Attachment::Packet(tap),
                impairment: impairment.clone(),
                observers: Vec::new(),
            });
        }
        Ok(Yard {
            linux,
            ours,
            switch: builder.start()?,
        })
    }

    /// What the switch did so far.
    pub fn stats(&self) -> Vec<PortStats> {
        self.switch.stats()
    }

    /// Start a hosted service as `program` and wait until it is ready.
    pub fn serve(&self, program: &str, service: &str) -> Process {
        let mut command = Command::new(program);
        command
            .args([service, &format!("tap={TAP}"), "log=warn"])
            .arg(format!("ip={}/24", OURS[0]))
            .arg(format!("ip={}/64", OURS[1]))
            .stdout(Stdio::piped());
        self.ours.place(&mut command);
        let mut process = command.spawn().expect("the hosted service starts");
        let stdout = process.stdout.take().expect("piped");
        let process = Process(process);
        let mut lines = BufReader::new(stdout).lines();
        loop {
            let line = lines.next().expect("it does not end").expect("text");
            if line.starts_with("GODWIT READY") {
                // What else it says has to go somewhere.
                thread::spawn(move || lines.for_each(drop));
                return process;
            }
        }
    }

    /// A program on the Linux side.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(find(program).unwrap_or(program.into()));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        self.linux.place(&mut command);
        command
    }

    /// Run a program on the Linux side to its end, which is a good one.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        let mut command = self.command(program);
        command.args(arguments);
        let output = finish(command.spawn().with_context(|| program.to_owned())?)?;
        if !output.status.success() {
            bail!(
                "{program} {arguments:?}: {}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(output)
    }
}

/// Wait for the end of a program; one that does not end is killed.
pub fn finish(child: Child) -> Result<Output> {
    let id = child.id();
    let waiting = thread::spawn(move || child.wait_with_output());
    let until = Instant::now() + PATIENCE;
    while !waiting.is_finished() {
        if Instant::now() > until {
            // It has not been waited for: the number is still its own.
            let _ = Command::new("kill").args(["-9", &id.to_string()]).status();
            bail!("a program did not end in {PATIENCE:?}");
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(waiting.join().ok().context("a thread panicked")??)
}

/// Wait until a program listens at a TCP port.
pub fn listening(process: &Child, port: u16) {
    let place = format!(":{port:04X} ");
    let until = Instant::now() + PATIENCE;
    loop {
        let tables = ["tcp", "tcp6"].map(|table| {
            let file = format!("/proc/{}/net/{table}", process.id());
            std::fs::read_to_string(file).unwrap_or_default()
        });
        let listens = |line: &str| line.contains(&place) && line.contains(" 0A ");
        if tables.concat().lines().any(listens) {
            return;
        }
        assert!(Instant::now() < until, "nobody listens at port {port}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A process that is ended when dropped.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Fails if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
