//! What came of it.

use std::fmt;
use std::fs::File;
use std::io::Write;

use anyhow::{Context, Result};
use serde::Serialize;

use super::cluster::Taken;
use super::load::Said;
use super::{INSTANCES, Options};
use crate::admin::{Status, count_sessions};
use crate::vm::Accelerator;

/// One instance's replacement.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Step {
    /// The instance.
    pub instance: u32,
    /// Sessions it had.
    pub sessions: u64,
    /// It answered for the shared address.
    pub ingress: bool,
    /// Sessions it gave away, and attempts that were refused.
    pub given: u64,
    /// See `given`.
    pub refused: u64,
    /// Seconds from the command to drain until the machine was off.
    pub drained: f64,
    /// The first release ended well.
    pub clean: bool,
    /// Its last words.
    pub verdict: String,
    /// Milliseconds until the second release served.
    pub boot_ms: f64,
    /// Seconds from the start of its machine until it was a member.
    pub joined: f64,
    /// Sessions it took.
    pub taken: Taken,
    /// Seconds that took.
    pub rebalanced: f64,
    /// Contents it sent because another instance lacked them.
    pub contents_sent: u64,
}

impl Step {
    /// What the instance counted before it was off.
    pub(super) fn count(&mut self, last: &Status) {
        let count = |name| last.counters.get(name).copied().unwrap_or(0);
        self.given = count("moves_accepted");
        self.refused = count("moves_refused");
        self.contents_sent = count("contents_sent");
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "instance {}: off {:.1} s after the command to drain, up after {:.0} ms, a member after \
             {:.1} s, took {} in {:.1} s",
            self.instance,
            self.drained,
            self.boot_ms,
            self.joined,
            count_sessions(self.taken.moved),
            self.rebalanced
        )
    }
}

/// Everything.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// What ran the VMs.
    pub accel: &'static str,
    /// Their machine type.
    pub machine: &'static str,
    /// The IP version.
    pub ip: u8,
    /// The replacements, in order.
    pub steps: Vec<Step>,
    /// Seconds from the first command to the last session taken.
    pub seconds: f64,
    /// What wrk says.
    pub wrk: Said,
    /// Connections of wrk.
    pub connections: u32,
    /// Downloads that were complete and right.
    pub downloads: u32,
    /// Downloads that were begun.
    pub downloads_begun: u32,
    /// Connections that all clients opened.
    pub connections_opened: u64,
    /// RSTs to the clients.
    pub rsts: u64,
    /// RSTs from the clients.
    pub client_rsts: u64,
    /// Contents that instances sent because another one lacked them.
    pub contents_sent: u64,
    /// Contents the new ones have taken in.
    pub contents_fetched: u64,
    /// Oldest and newest version of session states that each instance reads in the end.
    pub versions: Vec<(u32, u32)>,
    /// What was not as promised.
    pub broken: Vec<String>,
}

impl Report {
    pub(super) fn new(options: &Options, accelerator: Accelerator) -> Self {
        Self {
            accel: accelerator.name(),
            machine: options.machine.name(),
            ip: options.ip,
            connections: options.connections,
            ..Self::default()
        }
    }

    pub(super) fn add_download(&mut self, result: Result<()>) {
        self.downloads_begun += 1;
        match result {
            Ok(()) => self.downloads += 1,
            Err(error) => self.broken.push(format!("{error:#}")),
        }
    }

    pub(super) fn add_wrk(&mut self, said: Said) {
        self.wrk = said;
    }

    /// What an instance that runs at the end has counted.
    pub(super) fn count(&mut self, status: &Status) {
        let count = |name| status.counters.get(name).copied().unwrap_or(0);
        self.contents_sent += count("contents_sent");
        self.contents_fetched += count("contents_fetched");
    }

    /// Looks for what was not as promised.
    pub(super) fn judge(&mut self, options: &Options) {
        self.contents_sent += self
            .steps
            .iter()
            .map(|step| step.contents_sent)
            .sum::<u64>();
        let mut broken = |what: String| self.broken.push(what);
        if self.wrk.failed() > 0 {
            broken(format!(
                "{} requests of wrk failed: {:?}",
                self.wrk.failed(),
                self.wrk
            ));
        }
        if self.rsts > 0 {
            broken(format!("{} RSTs reached the clients", self.rsts));
        }
        // wrk tries the address once before it begins.
        let expected = u64::from(options.connections + options.downloads + 1);
        if self.connections_opened != expected {
            let opened = self.connections_opened;
            broken(format!(
                "the clients opened {opened} connections in place of {expected}"
            ));
        }
        if self.versions.iter().any(|versions| *versions != (1, 2)) {
            broken(format!(
                "the states read in the end are {:?}",
                self.versions
            ));
        }
        for step in self.steps.iter().filter(|step| !step.clean) {
            broken(format!(
                "instance {} ended with: {}",
                step.instance, step.verdict
            ));
        }
        if options.downloads > 0 && self.contents_fetched == 0 {
            broken("no instance had to fetch a file: this says nothing about it".into());
        }
    }

    pub(super) fn print(&self) {
        println!();
        self.row("", &INSTANCES.map(|id| format!("instance {id}")));
        type Cell = fn(&Step) -> String;
        let rows: [(&str, Cell); 9] = [
            ("sessions", |s| s.sessions.to_string()),
            ("ingress before", |s| {
                if s.ingress { "yes" } else { "no" }.into()
            }),
            ("given away", |s| s.given.to_string()),
            ("refused meanwhile", |s| s.refused.to_string()),
            ("off after", |s| format!("{:.2} s", s.drained)),
            ("serves again after", |s| format!("{:.0} ms", s.boot_ms)),
            ("a member after", |s| format!("{:.2} s", s.joined)),
            ("taken back", |s| s.taken.moved.to_string()),
            ("refused meanwhile", |s| s.taken.refused.to_string()),
        ];
        for (name, cell) in rows {
            let cells: Vec<String> = self.steps.iter().map(cell).collect();
            self.row(name, &cells);
        }
        let wrk = &self.wrk;
        let [p50, p99, longest] = wrk.wait_ms;
        println!();
        println!("  upgrade             {:.1} s", self.seconds);
        println!(
            "  wrk                 {} requests over {} connections, {} failed; {:.0} a second",
            wrk.requests,
            self.connections,
            wrk.failed(),
            wrk.rate
        );
        println!(
            "  wait for an answer  median {p50:.1} ms, p99 {p99:.1} ms, longest {longest:.0} ms"
        );
        println!(
            "  downloads           {} of {} complete and correct",
            self.downloads, self.downloads_begun
        );
        println!(
            "  files sent along    {} ({} kept)",
            self.contents_sent, self.contents_fetched
        );
        println!("  connections opened  {}", self.connections_opened);
        println!("  RSTs to clients     {}", self.rsts);
        println!();
        for what in &self.broken {
            println!("  BROKEN: {what}");
        }
        if self.broken.is_empty() {
            println!("  All promises kept: the clients noticed nothing.");
        }
    }

    fn row(&self, name: &str, cells: &[String]) {
        print!("  {name:<20}");
        for cell in cells {
            print!("{cell:>14}");
        }
        println!();
    }

    pub(super) fn write_json(&self, mut file: File) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        file.write_all(text.as_bytes())
            .context("cannot write the JSON file")
    }
}
