//! The hosted engine against the Linux kernel over a bad path: 1% of the frames lost each way, 20 ms of
//! round trip, the same impairing switch for both.
//!
//! The client is `iperf3` on Linux each time, the peer's server `iperf3 -s`. Linux runs CUBIC, which is
//! its own default and what the engine runs; what it would do with this machine's default is in the
//! note, where that is another one. Without a bound in rate the connections do not meet: several
//! at once are several measurements.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use godwit_qemu::net::{Namespace, open_tap};
use godwit_qemu::switch::{Attachment, Impairment, PortConfig, Switch, SwitchBuilder};
use serde_json::Value;

use crate::Effort;
use crate::row::{Better, Row, Turns};
use crate::tap::yard::{Server, hosted};

/// Connections at once.
const CONNECTIONS: usize = 8;
const CLIENT: &str = "10.77.0.1";
const OURS: &str = "10.77.0.2";
const THEIRS: &str = "10.77.0.3";
const PORT: u16 = 5201;
/// Congestion control of Linux on both sides.
const CONGESTION: &str = "cubic";

/// The three hosts on the switch.
struct Lab {
    client: Namespace,
    _servers: [Server; 2],
    _switch: Switch,
}

fn linux(address: &str) -> Result<(Namespace, Attachment)> {
    let namespace = Namespace::create()?;
    let tap = open_tap(&namespace, "lan0", &[&format!("{address}/24")])?;
    Ok((namespace, Attachment::Packet(tap)))
}

/// Ours keeps its offloads: its device is on a bridge, which cuts segments as a NIC would.
fn ours() -> Result<(Namespace, Attachment)> {
    let namespace = Namespace::create()?;
    let tap = open_tap(&namespace, "up0", &[])?;
    namespace.ip("link add br0 type bridge\n\
         tuntap add dev tap0 mode tap\n\
         link set tap0 master br0 up\n\
         link set up0 master br0\n\
         link set br0 up\n")?;
    Ok((namespace, Attachment::Packet(tap)))
}

impl Lab {
    fn new() -> Result<Lab> {
        let (client, client_port) = linux(CLIENT)?;
        let (peer, peer_port) = linux(THEIRS)?;
        let (ours, our_port) = ours()?;
        let mut builder = SwitchBuilder::new(1);
        for (name, attachment) in [
            ("client", client_port),
            ("peer", peer_port),
            ("ours", our_port),
        ] {
            builder.port(PortConfig {
                name: name.into(),
                attachment,
                impairment: Impairment {
                    loss: 0.01,
                    delay: Duration::from_millis(10),
                    ..Impairment::default()
                },
                observers: Vec::new(),
            });
        }
        let switch = builder.start()?;
        let address = format!("ip={OURS}/24");
        let our_server = hosted(&ours, &["iperf3", "tap=tap0", &address])?;
        let mut command = Command::new("iperf3");
        // It complains about who only looks whether it is there.
        command
            .arg("-s")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        peer.place(&mut command);
        let server = Server(command.spawn().context("cannot start iperf3")?);
        let at: SocketAddr = format!("{THEIRS}:{PORT}").parse()?;
        let until = Instant::now() + Duration::from_secs(10);
        while peer.run(|| Ok(TcpStream::connect(at).is_err()))? {
            if Instant::now() > until {
                bail!("iperf3 is not there");
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(Lab {
            client,
            _servers: [our_server, server],
            _switch: switch,
        })
    }

    /// Mbit/s of a connection that arrive in `seconds`, on the average of several.
    fn measure(&self, server: &str, more: &[&str], seconds: u32) -> Result<f64> {
        let mut command = Command::new("iperf3");
        command
            .args(["-J", "-c", server, "-t", &seconds.to_string()])
            .args(["-P", &CONNECTIONS.to_string()])
            .args(more);
        self.client.place(&mut command);
        let until = Instant::now() + Duration::from_secs(10);
        let report: Value = loop {
            let output = command.output().context("cannot run iperf3")?;
            let report: Value = serde_json::from_slice(&output.stdout).context("iperf3 says")?;
            match report["error"].as_str() {
                None => break report,
                // Its server takes a moment after each client: it does not listen meanwhile, and resets who had
                // come before.
                Some(error) if is_between_clients(server, error) && Instant::now() < until => {
                    thread::sleep(Duration::from_millis(50));
                }
                Some(error) => bail!("iperf3, with {server}: {error}"),
            }
        };
        let octets = report["end"]["sum_received"]["bytes"].as_f64();
        let octets = octets.context("iperf3 says nothing of what was received")?;
        Ok(octets * 8.0 / f64::from(seconds) / 1e6 / CONNECTIONS as f64)
    }
}

fn is_between_clients(server: &str, error: &str) -> bool {
    error.contains("unable to connect")
        || server == THEIRS && error.contains("control message: Connection reset by peer")
}

/// Downloads and uploads.
pub fn rows(effort: &Effort) -> Result<Vec<Row>> {
    let lab = Lab::new()?;
    let seconds = if effort.short { 1 } else { 5 };
    // New namespaces have it, too. Not everybody may choose another one for a namespace, but for a
    // connection.
    let default = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control")?;
    let default = default.trim();
    let chosen = match default {
        CONGESTION => &[][..],
        _ => &["-C", CONGESTION],
    };
    let mut rows = Vec::new();
    for (name, direction) in [
        ("tcp/lossy/to-client", &["-R"][..]),
        ("tcp/lossy/to-server", &[]),
    ] {
        let chosen = [direction, chosen].concat();
        let turns = Turns::take(
            effort.runs,
            || lab.measure(OURS, &chosen, seconds),
            || lab.measure(THEIRS, &chosen, seconds),
        )?;
        let peer = "Linux to Linux, CUBIC";
        let mut row = Row::compared(name, peer, "Mbit/s", Better::Higher, &turns, 0.9);
        row.note += &format!("; of one connection, {CONNECTIONS} at once");
        if default != CONGESTION {
            let theirs = lab.measure(THEIRS, direction, seconds)?;
            row.note += &format!("; Linux to Linux with {default}, its default here: {theirs:.1}");
        }
        rows.push(row);
    }
    Ok(rows)
}
