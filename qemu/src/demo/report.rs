//! What came of it: judged by what the client received and what crossed its wire.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::client::Client;
use super::mover::Moved;
use super::options::{Options, Scenario};
use crate::admin::Move;
use crate::vm::Accelerator;
use crate::wire::SharedTrace;
use crate::wire::silence::{MoveWindow, measure, quantile};

/// The longest silence at a move, in milliseconds, with unlimited links.
const LONGEST_SILENCE: f64 = 200.0;
/// The median silence at a move may exceed the steady p99 by this many milliseconds.
const MEDIAN_MARGIN: f64 = 5.0;
/// A median says something from this many moves on. The first move of a pair of machines is a long
/// one under emulation, where code that runs for the first time is translated first.
const FEW_MOVES: u32 = 5;
/// The median silence on lossy or slow links, in milliseconds.
const MEDIAN_IMPAIRED: f64 = 50.0;

/// What a scenario leaves to be judged.
pub(super) struct Evidence {
    pub server: SocketAddr,
    pub bytes: u64,
    pub digest_ok: bool,
    pub planned: u32,
    pub moved: Vec<Moved>,
    pub seconds: f64,
    pub trace: SharedTrace,
    pub problems: Vec<String>,
}

/// Milliseconds of a distribution.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Quantiles {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Longest.
    pub max: f64,
}

impl Quantiles {
    fn of(mut values: Vec<u64>, unit: f64) -> Self {
        values.sort_unstable();
        let at = |q| (quantile(&values, q) as f64 / unit * 1000.0).round() / 1000.0;
        Self {
            p50: at(0.5),
            p99: at(0.99),
            max: at(1.0),
        }
    }
}

/// The same for gaps that no move touched.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Steady {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
}

/// A scenario's results.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ScenarioReport {
    /// Bytes the client received.
    pub bytes: u64,
    /// They are the right ones.
    pub digest_ok: bool,
    /// Moves of the connection.
    pub moves: u32,
    /// TCP connections the client opened.
    pub connections: u64,
    /// RSTs on the client's wire.
    pub rsts: u64,
    /// Segments the client sent again.
    pub client_retransmits: u64,
    /// The longest silence at each move.
    pub silence_ms: Quantiles,
    /// Gaps between data segments elsewhere.
    pub steady_gap_ms: Steady,
    /// Segments that reached the client twice or late, in total and around moves.
    pub server_resent: u64,
    /// Those of them around moves.
    pub server_resent_at_moves: u64,
    /// Times a TSval was lower than an earlier one, in either direction.
    pub tsval_backwards: u64,
    /// How long the transfer took.
    pub seconds: f64,
    /// What the moves' sources measured, by name: sizes in bytes, times in microseconds.
    pub transfer: BTreeMap<&'static str, Quantiles>,
    /// What was not as promised.
    pub broken: Vec<String>,
    /// Why the transfer shows less than was asked for.
    pub too_short: Option<String>,
}

/// Words for a transfer that left no time for what was to be shown: nothing is broken then.
pub(super) fn too_short(what: &str) -> String {
    format!("too short: {what}: use a larger --size")
}

impl ScenarioReport {
    pub(super) fn judge(evidence: Evidence) -> Self {
        let windows: Vec<MoveWindow> = evidence.moved.iter().map(|m| m.window).collect();
        let mut report = Self {
            bytes: evidence.bytes,
            digest_ok: evidence.digest_ok,
            moves: evidence.moved.len() as u32,
            seconds: evidence.seconds,
            transfer: transfer(&evidence.moved),
            broken: evidence.problems,
            ..Self::default()
        };
        evidence.trace.with(|trace| {
            for flow in trace.flows_to(evidence.server) {
                report.connections += flow.from_client.syns.max(1);
                report.rsts += flow.rsts();
                report.client_retransmits += flow.client_retransmits();
                report.server_resent += flow.from_server.repeated + flow.from_server.late;
                let near = |at: &&u64| {
                    windows
                        .iter()
                        .any(|w| (w.begin..w.end + AROUND).contains(*at))
                };
                report.server_resent_at_moves +=
                    flow.resent_times.iter().filter(near).count() as u64;
                report.tsval_backwards +=
                    flow.from_client.tsval_backwards + flow.from_server.tsval_backwards;
            }
            if let Some(flow) = trace.flows_to(evidence.server).next() {
                let silences = measure(&flow.data_times, &windows);
                report.silence_ms = Quantiles::of(silences.at_moves, 1e6);
                let steady = Quantiles::of(silences.steady, 1e6);
                report.steady_gap_ms = Steady {
                    p50: steady.p50,
                    p99: steady.p99,
                };
            }
        });
        report.check(evidence.planned);
        report
    }

    /// The promises that do not depend on how busy the host is.
    fn check(&mut self, planned: u32) {
        if self.moves < planned {
            self.too_short = Some(too_short(&format!(
                "only {} of {planned} moves were possible before the end",
                self.moves
            )));
        }
        let mut broken = |what: String| self.broken.push(what);
        if !self.digest_ok {
            broken("the client did not receive the right bytes".into());
        }
        if self.connections != 1 {
            broken(format!(
                "the client opened {} connections instead of one",
                self.connections
            ));
        }
        if self.rsts > 0 {
            broken(format!("{} RSTs crossed the client's wire", self.rsts));
        }
        if self.tsval_backwards > 0 {
            broken(format!(
                "a TSval ran backwards {} times",
                self.tsval_backwards
            ));
        }
    }

    /// The silences that are longer than promised.
    fn slow(&self, impaired: bool) -> Vec<String> {
        let mut slow = Vec::new();
        let limit = if impaired {
            MEDIAN_IMPAIRED
        } else {
            self.steady_gap_ms.p99 + MEDIAN_MARGIN
        };
        if self.moves >= FEW_MOVES && self.silence_ms.p50 > limit {
            slow.push(format!(
                "the median silence at a move is {:.1} ms, more than {limit:.1} ms",
                self.silence_ms.p50
            ));
        }
        if !impaired && self.client_retransmits > 0 {
            slow.push(format!(
                "the client sent {} segments again",
                self.client_retransmits
            ));
        }
        if !impaired && self.silence_ms.max >= LONGEST_SILENCE {
            slow.push(format!(
                "the longest silence at a move is {:.1} ms, not below {LONGEST_SILENCE:.0} ms",
                self.silence_ms.max
            ));
        }
        slow
    }
}

/// How long after a move segments that are sent again are counted as its.
const AROUND: u64 = crate::wire::silence::AFTERMATH;

fn transfer(moved: &[Moved]) -> BTreeMap<&'static str, Quantiles> {
    type Figure = fn(&Move) -> f64;
    let pick: [(&str, Figure); 8] = [
        ("capsule_bytes", |m| m.capsule_bytes as f64),
        ("lull_us", |m| m.lull_us),
        ("export_us", |m| m.export_us),
        ("seal_us", |m| m.seal_us),
        ("link_us", |m| m.link_us),
        ("open_us", |m| m.open_us),
        ("import_us", |m| m.import_us),
        ("total_us", |m| m.total_us),
    ];
    // A move that no source has reported on (its machine is off) has no figures.
    let reported: Vec<&Move> = moved
        .iter()
        .map(|m| &m.report)
        .filter(|m| !m.result.is_empty())
        .collect();
    pick.into_iter()
        .map(|(name, get)| {
            (
                name,
                Quantiles::of(
                    reported.iter().map(|m| (get(m) * 1e3) as u64).collect(),
                    1e3,
                ),
            )
        })
        .collect()
}

/// Everything; the head is the first scenario's.
#[derive(Debug, Serialize)]
pub struct Report {
    #[serde(flatten)]
    head: ScenarioReport,
    /// Who the client was.
    pub client: String,
    /// What ran the VMs.
    pub accel: &'static str,
    /// Their machine type.
    pub machine: &'static str,
    /// Their NIC.
    pub nic: String,
    /// The IP version.
    pub ip: u8,
    /// What the links did.
    pub links: String,
    /// All scenarios by name.
    pub scenarios: BTreeMap<String, ScenarioReport>,
    #[serde(skip)]
    order: Vec<Scenario>,
    #[serde(skip)]
    impaired: bool,
    #[serde(skip)]
    strict: bool,
}

impl Report {
    pub(super) fn new(
        options: &Options,
        client: &Client,
        accelerator: Option<Accelerator>,
    ) -> Self {
        Self {
            head: ScenarioReport::default(),
            client: client.name(),
            accel: accelerator.map_or("none", Accelerator::name),
            machine: options.machine.name(),
            nic: options.nic_name(),
            ip: options.ip,
            links: options.describe_links(),
            scenarios: BTreeMap::new(),
            order: Vec::new(),
            impaired: !options.impairment().is_none(),
            strict: options.strict,
        }
    }

    pub(super) fn add(&mut self, scenario: Scenario, report: ScenarioReport) {
        if self.order.is_empty() {
            self.head = report.clone();
        }
        self.order.push(scenario);
        self.scenarios.insert(scenario.to_string(), report);
    }

    fn in_order(&self) -> impl Iterator<Item = (&Scenario, &ScenarioReport)> {
        self.order
            .iter()
            .filter_map(|s| Some((s, self.scenarios.get(&s.to_string())?)))
    }

    /// Why the demo did not succeed, in words: what was not as promised, and what the transfers
    /// were too short for.
    pub fn failures(&self) -> Vec<String> {
        let mut all = self.broken();
        for (scenario, report) in self.in_order() {
            all.extend(
                report
                    .too_short
                    .iter()
                    .map(|what| format!("{scenario}: {what}")),
            );
        }
        all
    }

    /// What was not as promised, in words.
    fn broken(&self) -> Vec<String> {
        let mut all = Vec::new();
        for (scenario, report) in self.in_order() {
            let slow = if self.strict {
                report.slow(self.impaired)
            } else {
                Vec::new()
            };
            all.extend(
                report
                    .broken
                    .iter()
                    .chain(&slow)
                    .map(|what| format!("{scenario}: {what}")),
            );
        }
        all
    }

    /// The final table.
    pub(super) fn print(&self) {
        type Cell = fn(&ScenarioReport) -> String;
        let rows: [(&str, Cell); 18] = [
            ("received", |r| {
                format!("{:.1} MiB", r.bytes as f64 / f64::from(1 << 20))
            }),
            ("digest", |r| {
                if r.digest_ok { "correct" } else { "WRONG" }.into()
            }),
            ("throughput", |r| {
                format!(
                    "{:.0} Mbit/s",
                    r.bytes as f64 * 8.0 / r.seconds.max(1e-9) / 1e6
                )
            }),
            ("moves", |r| r.moves.to_string()),
            ("same 4-tuple", |r| {
                if r.connections == 1 { "yes" } else { "NO" }.into()
            }),
            ("RSTs", |r| r.rsts.to_string()),
            ("client sent again", |r| r.client_retransmits.to_string()),
            ("server sent again", |r| {
                format!(
                    "{} ({} at moves)",
                    r.server_resent, r.server_resent_at_moves
                )
            }),
            ("TSval backwards", |r| r.tsval_backwards.to_string()),
            ("silence, median", |r| silence(r, r.silence_ms.p50)),
            ("silence, longest", |r| silence(r, r.silence_ms.max)),
            ("steady gap, p99", |r| {
                format!("{:.2} ms", r.steady_gap_ms.p99)
            }),
            ("capsule", |r| figure(r, "capsule_bytes", "bytes")),
            ("lull before it", |r| figure(r, "lull_us", "us")),
            ("export", |r| figure(r, "export_us", "us")),
            ("seal / open", |r| {
                format!(
                    "{} / {}",
                    figure(r, "seal_us", "us"),
                    figure(r, "open_us", "us")
                )
            }),
            ("link", |r| figure(r, "link_us", "us")),
            ("import", |r| figure(r, "import_us", "us")),
        ];
        print!("\n  {:<20}", "");
        for (scenario, _) in self.in_order() {
            print!("{:>20}", scenario.to_string());
        }
        println!();
        for (name, cell) in rows {
            print!("  {name:<20}");
            for (_, report) in self.in_order() {
                print!("{:>20}", cell(report));
            }
            println!();
        }
        println!();
        let mut slow = false;
        for (scenario, report) in self.in_order() {
            for what in report.slow(self.impaired) {
                println!("  slow: {scenario}: {what}");
                slow = true;
            }
        }
        for what in self.broken() {
            println!("  BROKEN: {what}");
        }
        for (scenario, report) in self.in_order() {
            if let Some(what) = &report.too_short {
                println!("  {scenario}: {what}");
            }
        }
        if let Some(conclusion) = self.conclusion(slow) {
            println!("  {conclusion}");
        }
    }

    /// The last line of a run that did not fail.
    fn conclusion(&self, slow: bool) -> Option<&'static str> {
        if !self.failures().is_empty() {
            return None;
        }
        let moved = self.scenarios.values().any(|report| report.moves > 0);
        Some(match (moved, slow) {
            (false, _) => {
                "Every byte arrived on the one connection, but no connection was moved: this says \
                 nothing about moves."
            }
            (true, false) => "All promises kept: the clients noticed nothing.",
            (true, true) => {
                "Every byte arrived on the one connection, but the clients waited longer than \
                 promised; a busy host can cause that (--strict makes it an error)."
            }
        })
    }

    /// Writes everything to a file that [`create_json`] has opened.
    pub(super) fn write_json(&self, mut file: File) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.write_all(b"\n"))
            .context("cannot write the JSON file")
    }
}

/// Creates the file for the results: a path that cannot be written is found before the run.
pub(super) fn create_json(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("cannot write {}", path.display()))
}

/// A silence at moves in milliseconds, if there were moves.
fn silence(report: &ScenarioReport, value: f64) -> String {
    if report.moves == 0 {
        return "-".into();
    }
    format!("{value:.2} ms")
}

/// The median of a figure of the moves.
fn figure(report: &ScenarioReport, name: &str, unit: &str) -> String {
    match report.transfer.get(name) {
        Some(quantiles) if quantiles.max > 0.0 => format!("{:.0} {unit}", quantiles.p50),
        _ => "-".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> ScenarioReport {
        ScenarioReport {
            bytes: 10,
            digest_ok: true,
            moves: 5,
            connections: 1,
            silence_ms: Quantiles {
                p50: 3.0,
                p99: 9.0,
                max: 10.0,
            },
            steady_gap_ms: Steady { p50: 0.1, p99: 1.0 },
            ..ScenarioReport::default()
        }
    }

    #[test]
    fn a_good_run_breaks_nothing_and_each_fault_is_named() {
        let mut report = good();
        report.check(5);
        assert!(report.broken.is_empty());
        type Fault = fn(&mut ScenarioReport);
        let faults: [(Fault, &str); 4] = [
            (|r| r.digest_ok = false, "right bytes"),
            (|r| r.connections = 2, "2 connections"),
            (|r| r.rsts = 1, "RST"),
            (|r| r.tsval_backwards = 1, "TSval"),
        ];
        for (fault, word) in faults {
            let mut report = good();
            fault(&mut report);
            report.check(5);
            assert_eq!(report.broken.len(), 1);
            assert!(report.broken[0].contains(word), "{:?}", report.broken);
        }
    }

    fn report(scenario: ScenarioReport) -> Report {
        let options = Options::from_words(&[]).unwrap();
        let mut report = Report::new(&options, &Client::Linux("7.88".into()), None);
        report.add(Scenario::Download, scenario);
        report
    }

    #[test]
    fn a_transfer_that_is_too_short_fails_but_breaks_no_promise() {
        let mut short = good();
        short.moves = 4;
        short.check(5);
        let report = report(short);
        assert!(report.broken().is_empty());
        assert_eq!(report.failures().len(), 1);
        let what = &report.failures()[0];
        assert!(what.contains("too short: only 4 of 5"), "{what}");
        assert!(what.ends_with("use a larger --size"), "{what}");
        assert_eq!(report.conclusion(false), None);
    }

    #[test]
    fn without_moves_nothing_is_claimed_of_moves() {
        let mut unmoved = good();
        unmoved.moves = 0;
        unmoved.check(0);
        let conclusion = report(unmoved).conclusion(false).unwrap();
        assert!(!conclusion.contains("noticed nothing"), "{conclusion}");
        let conclusion = report(good()).conclusion(false).unwrap();
        assert!(conclusion.contains("noticed nothing"), "{conclusion}");
    }

    #[test]
    fn the_help_names_the_limits_that_are_checked() {
        for limit in [
            format!("p99 + {MEDIAN_MARGIN} ms"),
            format!("{LONGEST_SILENCE} ms or more"),
            format!("above {MEDIAN_IMPAIRED} ms"),
            format!("from {FEW_MOVES} moves"),
        ] {
            let help = super::super::options::VERDICT;
            assert!(help.contains(&limit), "{limit}");
        }
    }

    #[test]
    fn a_long_silence_and_a_repeating_client_are_slow() {
        assert!(good().slow(false).is_empty());
        let mut report = good();
        report.client_retransmits = 1;
        assert_eq!(report.slow(false).len(), 1);
        let mut report = good();
        report.silence_ms = Quantiles {
            p50: 6.1,
            p99: 100.0,
            max: 200.0,
        };
        assert_eq!(report.slow(false).len(), 2);
        assert!(
            report.slow(true).is_empty(),
            "other limits on links that lose and delay"
        );
    }

    #[test]
    fn the_json_has_the_promised_names() {
        let json = serde_json::to_value(good()).unwrap();
        for name in [
            "bytes",
            "digest_ok",
            "moves",
            "connections",
            "rsts",
            "client_retransmits",
        ] {
            assert!(json.get(name).is_some(), "{name}");
        }
        for name in ["p50", "p99", "max"] {
            assert!(json["silence_ms"].get(name).is_some(), "{name}");
        }
        assert!(json["steady_gap_ms"].get("p99").is_some());
    }
}
