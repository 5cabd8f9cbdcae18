//! The other demo: a rolling upgrade under load.
//!
//! Three VMs serve one address, while wrk asks over kept connections and curls download. One after
//! the other is drained, powered off and replaced by the image of a newer release with other files
//! and another version of the session state; then it takes its share of the sessions. [`cluster`] has
//! the VMs, [`load`] the clients, [`tally`] what crosses the clients' link, [`report`] what came of it.

mod cluster;
mod load;
mod report;
mod tally;
mod ticker;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser};

pub use report::{Report, Step};

use super::client::Client;
use super::options::{ClientChoice, Family, parse_ip_version};
use crate::admin::count_sessions;
use crate::progress::Progress;
use crate::vm::{Accelerator, DEFAULT_MEMORY, Machine, parse_memory};
use crate::{build, content};
use cluster::{Cluster, ClusterSpec, INSTANCES};
use load::{Download, Pace, Wrk};
use tally::Tally;
use ticker::Ticker;

/// The file that differs between the releases, and the one that names the release.
const NEWS: &str = "/news.bin";
const RELEASE: &str = "/release.txt";
/// Bytes of a generated file that is downloaded.
const GENERATED: u64 = 24 << 20;
/// A drain that takes longer has failed; the instance's own deadline is 60 s.
const DRAIN: Duration = Duration::from_secs(75);
/// How long the load runs before anything happens, and after.
const CALM: Duration = Duration::from_secs(2);

/// Options of `godwit demo upgrade`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Connections that wrk keeps and asks over all the time.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=2000))]
    pub connections: u32,
    /// Downloads that begin before the upgrade and end after it: half of them of a file that the
    /// newer release does not have any more.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=200))]
    pub downloads: u32,
    /// What the instances run on.
    #[arg(long, value_enum, default_value = "microvm")]
    pub machine: Machine,
    /// IP version.
    #[arg(long, default_value_t = 4, value_parser = parse_ip_version, allow_hyphen_values = true)]
    pub ip: u8,
    /// Memory of each VM in MiB, at least 6.
    #[arg(long, default_value_t = DEFAULT_MEMORY, value_parser = parse_memory, allow_hyphen_values = true)]
    pub memory: u32,
    /// Write the results as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Show the VMs' consoles.
    #[arg(long, short)]
    pub verbose: bool,
}

impl Options {
    /// The options as they would be read from a command line.
    pub fn from_words(words: &[&str]) -> Result<Self, clap::Error> {
        #[derive(Parser)]
        #[command(no_binary_name = true)]
        struct Line {
            #[command(flatten)]
            options: Options,
        }
        Ok(Line::try_parse_from(words)?.options)
    }

    fn family(&self) -> Family {
        if self.ip == 6 { Family::V6 } else { Family::V4 }
    }
}

/// Runs the demo and prints what happens. An error means that it could not be run; what was not as
/// promised is in the report.
pub fn run(options: &Options) -> Result<Report> {
    let json = options.json.as_deref();
    let json = json.map(super::report::create_json).transpose()?;
    println!("Godwit: a rolling upgrade that no client notices\n");
    let client = Client::find(ClientChoice::Auto)?;
    if let Client::Harness(why) = &client {
        bail!("wrk and curl need a network namespace of their own: {why}");
    }
    let progress = Progress::start("building the images of both releases");
    let images = [build::release(1)?, build::release(2)?];
    progress.finish();
    let accelerator = Accelerator::best();
    println!(
        "  {} {} VMs ({}, {} MiB each), one address {}, clients: wrk with {} connections, \
         {} times {}",
        INSTANCES.len(),
        options.machine.name(),
        accelerator.name(),
        options.memory,
        options.family().virtual_ip(),
        options.connections,
        options.downloads,
        client.name(),
    );
    let tally = Tally::default();
    let mut cluster = Cluster::start(
        ClusterSpec {
            image: images[0].clone(),
            machine: options.machine,
            memory: options.memory,
            family: options.family(),
            accelerator,
            verbose: options.verbose,
        },
        &tally,
    )?;
    let mut report = Report::new(options, accelerator);
    let ran = upgrade(&mut cluster, options, &images[1], &tally, &mut report);
    ran.map_err(|error| cluster.explain(&error))?;
    report.broken.extend(cluster.stop());
    report.print();
    if let Some(file) = json {
        report.write_json(file)?;
    }
    Ok(report)
}

/// The upgrade, with load before, during and after it.
fn upgrade(
    cluster: &mut Cluster,
    options: &Options,
    image: &std::path::Path,
    tally: &Tally,
    report: &mut Report,
) -> Result<()> {
    let server = SocketAddr::new(cluster.family().virtual_ip(), 80);
    tally.watch(server);
    let namespace = cluster.namespace().clone();
    // What the first release has, whole.
    let first = load::fetch(&namespace, server, NEWS)?;
    ensure!(load::fetch(&namespace, server, RELEASE)?.text() == "release 1\n");
    let generated = content::digest(GENERATED);

    let opened = tally.connections();
    let pace = Arc::new(Pace::default());
    let mut downloads = Vec::new();
    for number in 0..options.downloads {
        let (path, size, digest) = match number % 2 {
            0 => (NEWS.into(), first.bytes, first.digest.clone()),
            _ => (format!("/gen/{GENERATED}"), GENERATED, generated.clone()),
        };
        let download = Download::start(&namespace, server, path, size, digest, &pace);
        downloads.push(download?);
    }
    let wrk = Wrk::start(&namespace, server, RELEASE, options.connections)?;
    let ticker = Ticker::start(tally);
    ticker.note("all are served by the first release");
    thread::sleep(CALM);
    let begun = Instant::now();
    for id in INSTANCES {
        let step = replace(cluster, id, image, &ticker)
            .with_context(|| format!("instance {id} was not replaced"))?;
        report.steps.push(step);
    }
    report.seconds = begun.elapsed().as_secs_f64();
    ticker.note("all are served by the second release; the downloads may end now");
    thread::sleep(CALM);
    pace.finish();
    for download in downloads {
        report.add_download(download.wait());
    }
    report.connections_opened = tally.connections() - opened;
    (report.rsts, report.client_rsts) = tally.resets();
    // What wrk does when it is told to end is not counted.
    report.add_wrk(wrk.stop()?);
    ticker.finish();

    for _ in INSTANCES {
        let release = load::fetch(&namespace, server, RELEASE)?.text();
        if release != "release 2\n" {
            report
                .broken
                .push(format!("a new connection got {release:?}"));
        }
    }
    if load::fetch(&namespace, server, NEWS)?.digest == first.digest {
        report
            .broken
            .push("both releases have the same file".into());
    }
    for status in cluster.statuses()? {
        report
            .versions
            .push((status.oldest_state, status.state_version));
        report.count(&status);
    }
    report.judge(options);
    Ok(())
}

/// Replaces one instance.
fn replace(
    cluster: &mut Cluster,
    id: u32,
    image: &std::path::Path,
    ticker: &Ticker,
) -> Result<Step> {
    let before = cluster.admin(id).status()?;
    let mut step = Step {
        instance: id,
        sessions: before.sessions.len() as u64,
        ingress: before.ingress,
        ..Step::default()
    };
    let role = if before.ingress {
        " and the role of the ingress"
    } else {
        ""
    };
    ticker.note(&format!(
        "instance {id} gives away {}{role}",
        count_sessions(step.sessions)
    ));
    let begun = Instant::now();
    cluster.admin(id).drain(&serde_json::json!({}))?;
    let (outcome, last) = cluster.wait_off(id, DRAIN)?;
    step.drained = begun.elapsed().as_secs_f64();
    step.count(&last.unwrap_or(before));
    step.verdict = outcome.to_string();
    step.clean = matches!(&outcome, crate::vm::Outcome::Verdict(verdict) if verdict.code == 0);
    let begun = Instant::now();
    ticker.note(&format!(
        "instance {id} is off and boots the second release"
    ));
    step.boot_ms = cluster.boot(id, image)?.as_secs_f64() * 1e3;
    cluster.wait_for_members()?;
    step.joined = begun.elapsed().as_secs_f64();
    ticker.note(&format!("instance {id} is back and takes its share"));
    let begun = Instant::now();
    step.taken = cluster.rebalance(id)?;
    step.rebalanced = begun.elapsed().as_secs_f64();
    ticker.line(&step.to_string());
    Ok(step)
}
