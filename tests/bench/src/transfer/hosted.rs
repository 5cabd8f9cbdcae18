//! A drain as an operator sees it: two instances as Linux processes on TAP devices, and clients on the
//! host kernel's TCP, most of them idle.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use godwit_qemu::admin::{self, Admin, Drain};
use godwit_qemu::crowd::raise_limit;
use godwit_qemu::net::{Namespace, Network};

use super::crowd::{Worker, ask_all};
use crate::Effort;
use crate::row::{Better, Row, Samples};
use crate::tap::load::{precise_seconds, resident};
use crate::tap::yard::{Server, hosted, receive_on_client_core};

/// Promised: sessions per second of one core.
const FLOOR: f64 = 50_000.0;
/// Time between two questions of a client that is busy.
const PACE: Duration = Duration::from_millis(200);
/// The addresses that both instances serve: each has ports for so many clients only.
const VIPS: [&str; 4] = ["10.77.0.101", "10.77.0.102", "10.77.0.103", "10.77.0.104"];
/// Where the service listens.
const PORT: u16 = 7;
/// Clients in one process at most.
const CLIENTS: usize = 15_000;
/// Of everything that is waited for.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(50);
const TOKEN: &str = "0123456789abcdef";

/// Idle sessions and busy ones.
fn sessions(effort: &Effort) -> (usize, usize) {
    match effort.short {
        true => (2_000, 50),
        false => (100_000, 1_000),
    }
}

/// Two instances on a bridge, and the clients' machine.
struct Pair {
    namespace: Namespace,
    /// Number 1, the ingress, and number 2.
    servers: [Server; 2],
    admins: [Admin; 2],
}

impl Pair {
    fn new() -> Result<Pair> {
        let namespace = Namespace::create()?;
        namespace.ip("link add br0 type bridge\n\
             addr add 10.77.0.1/24 dev br0\n\
             link set br0 up\n\
             tuntap add dev tap1 mode tap\n\
             link set tap1 master br0 txqueuelen 10000 up\n\
             tuntap add dev tap2 mode tap\n\
             link set tap2 master br0 txqueuelen 10000 up\n")?;
        receive_on_client_core(&namespace, &["tap1", "tap2"])?;
        namespace.run(|| {
            let range = "/proc/sys/net/ipv4/ip_local_port_range";
            std::fs::write(range, "1024 65000").context("the clients' ports")
        })?;
        let [first, second] = [1, 2].map(|id| instance(&namespace, id));
        let admin = |id: u8| {
            let address = SocketAddr::from(([10, 77, 0, 10 + id], admin::PORT));
            Admin::new(Network::Namespace(namespace.clone()), address, TOKEN)
        };
        let pair = Pair {
            admins: [admin(1), admin(2)],
            servers: [first?, second?],
            namespace,
        };
        wait_for("the instances meet", || {
            let status = pair.admins[0].status()?;
            Ok(status.ingress && status.members.iter().all(|member| member.up))
        })?;
        Ok(pair)
    }

    /// Seconds of processor time of both.
    fn seconds(&self) -> Result<[f64; 2]> {
        let [first, second] = [0, 1].map(|server| precise_seconds(self.servers[server].id()));
        Ok([first?, second?])
    }

    /// Octets of memory of both.
    fn memory(&self) -> Result<[usize; 2]> {
        let [first, second] = [0, 1].map(|server| resident(self.servers[server].id()));
        Ok([first?, second?])
    }
}

fn instance(namespace: &Namespace, id: u32) -> Result<Server> {
    let words = [
        format!("tap=tap{id}"),
        format!("id={id}"),
        format!("ip=10.77.0.{}/24", 10 + id),
        format!("peer={}@10.77.0.{}", 3 - id, 13 - id),
        format!("cluster_key={}", "5a".repeat(32)),
        format!("admin_token={TOKEN}"),
        "connections=250000".to_owned(),
    ];
    let vips = VIPS.map(|vip| format!("vip={vip}"));
    let words = words.iter().chain(&vips).map(String::as_str);
    let all: Vec<&str> = ["echo"].into_iter().chain(words).collect();
    hosted(namespace, &all)
}

fn wait_for(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !holds().with_context(|| what.to_owned())? {
        if Instant::now() > end {
            bail!("waited in vain until {what}");
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

/// What one drain cost.
struct Cost {
    sessions: f64,
    /// Seconds of processor time of source and target, from the command to the last session.
    spent: [f64; 2],
    /// And by the clock, to the last session and to the end of the process.
    wall: [f64; 2],
    /// Memory of source and target before, and at most until the end.
    memory: [[usize; 2]; 2],
    seen: String,
}

fn once(idle: usize, busy: usize) -> Result<Cost> {
    let mut pair = Pair::new()?;
    let count = idle + busy;
    let mut workers = Vec::new();
    for _ in 0..count.div_ceil(CLIENTS) {
        workers.push(Worker::start(&pair.namespace)?);
    }
    let (each, servers) = (
        count.div_ceil(workers.len()),
        VIPS.map(|vip| format!(" {vip}:{PORT}")),
    );
    ask_all(&mut workers, |number| {
        let clients = each.min(count - number * each);
        format!("open {clients}{}", servers.concat())
    })?;
    // Clients are spread over both: begin with all of them at the ingress.
    let started = pair.admins[1].start_move("all", 1)?;
    wait_for("all sessions are at one instance", || {
        Ok(pair.admins[1].drain_report()?.sessions == 0)
    })
    .with_context(|| format!("{started} moves"))?;
    workers[0].ask(&format!("busy {busy} {}", PACE.as_millis()))?;
    thread::sleep(Duration::from_secs(1));
    let resets = workers[0].ask("resets")?;
    let before = (pair.memory()?, pair.seconds()?);
    let Seen {
        report,
        most,
        spent,
        wall,
    } = drain(&mut pair, count)?;
    ensure!(
        report.moved == count as u64,
        "{} of {count} moved",
        report.moved
    );
    let answers = workers[0].ask("rest")?;
    ask_all(&mut workers, |_| "check".to_owned())?;
    let after = workers[0].ask("resets")?;
    ensure!(
        resets == after,
        "connections were reset: {resets}, then {after}"
    );
    let (answers, longest) = answers.split_once(' ').context("no answers")?;
    let longest: f64 = longest.parse::<f64>()? / 1e3;
    Ok(Cost {
        sessions: count as f64,
        spent: [0, 1].map(|side| spent[side] - before.1[side]),
        wall,
        memory: [before.0, most],
        seen: format!("{answers} answers to the busy ones, the latest after {longest:.0} ms"),
    })
}

/// What was seen of a drain to its end.
struct Seen {
    report: Drain,
    /// Memory of both at most.
    most: [usize; 2],
    /// Processor seconds of both when the last session had moved.
    spent: [f64; 2],
    /// Seconds to then, and to the end.
    wall: [f64; 2],
}

/// Drain instance 1 to its end.
fn drain(pair: &mut Pair, count: usize) -> Result<Seen> {
    let start = Instant::now();
    pair.admins[0].drain(&serde_json::json!({}))?;
    let mut most = [0; 2];
    let (spent, wall) = loop {
        let memory = pair.memory()?;
        most = [0, 1].map(|side| most[side].max(memory[side]));
        // The target knows as well, and is not busy with moving away.
        if pair.admins[1].drain_report()?.sessions == count as u64 {
            break (pair.seconds()?, start.elapsed().as_secs_f64());
        }
        ensure!(start.elapsed() < PATIENCE, "the drain takes too long");
        thread::sleep(LOOK);
    };
    let mut last = None;
    wait_for("the drain is over", || {
        let report = pair.admins[0].drain_report()?;
        last = report.drain;
        Ok(report.state == "drained")
    })?;
    let mut status = None;
    wait_for("the process ends", || {
        status = pair.servers[0].0.try_wait()?;
        Ok(status.is_some())
    })?;
    ensure!(
        status.is_some_and(|status| status.success()),
        "it ended with {status:?}"
    );
    let wall = [wall, start.elapsed().as_secs_f64()];
    Ok(Seen {
        report: last.context("no report")?,
        most,
        spent,
        wall,
    })
}

/// Sessions per second of the processor time that source and target took together.
pub fn drain_row(effort: &Effort) -> Result<Vec<Row>> {
    let (idle, busy) = sessions(effort);
    ensure!(
        raise_limit()? > CLIENTS,
        "a process may not hold {CLIENTS} connections here (ulimit -Hn)"
    );
    let mut rate = Samples::default();
    let mut sides = [Samples::default(), Samples::default()];
    let (mut walls, mut last) = ([Samples::default(), Samples::default()], None);
    for _ in 0..effort.runs.min(3) {
        let cost = once(idle, busy)?;
        rate.push(cost.sessions / cost.spent.iter().sum::<f64>());
        for side in 0..2 {
            sides[side].push(cost.sessions / cost.spent[side]);
            walls[side].push(cost.wall[side]);
        }
        last = Some(cost);
    }
    let (Some(last), [source, target]) = (last, sides.map(|side| side.median())) else {
        return Ok(Vec::new());
    };
    let [before, most] = last.memory.map(|both| both.map(|octets| octets >> 20));
    let mut row = Row::alone("transfer/drain/hosted", "sessions/s", Better::Higher, &rate);
    row.note = format!(
        "{idle} idle and {busy} busy clients of the host kernel (a question every {} ms each), two \
         processes on one core, over the processor time of both, device and serving included; \
         promised: {FLOOR} a second per core; the source alone {source:.0}, the target {target:.0}; \
         {:.2} s from the command to the last session, {:.2} s to the end of the process; memory of \
         the source {} MiB before and {} at most, of the target {} and {}; no reset, every client \
         answered afterwards; {}",
        PACE.as_millis(),
        walls[0].median(),
        walls[1].median(),
        before[0],
        most[0],
        before[1],
        most[1],
        last.seen,
    );
    Ok(vec![row])
}
