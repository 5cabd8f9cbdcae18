//! Requests and downloads over TAP with offloads, on q35: curl and wrk against both machines in turns.

use std::cell::RefCell;

use anyhow::{Context, Result, bail, ensure};

use super::peer::Config;
use super::yard::{Board, LARGE, Side, Yard};
use crate::Effort;
use crate::row::{Better, Row, Turns};
use crate::tap::load::process_seconds;

/// Where it is measured.
const BOARD: Board = Board::Q35;
/// The row of the large file.
const BULK: &str = "vm/bulk";

/// Requests a second over 64 kept connections.
pub fn keepalive(effort: &Effort) -> Result<Vec<Row>> {
    let name = "vm/http/keepalive64";
    row(name, "req/s", Better::Higher, 7.0, effort, |yard, side| {
        wrk(yard, side, 64, true, effort)
    })
}

/// The median time of a request over one kept connection.
pub fn latency(effort: &Effort) -> Result<Vec<Row>> {
    let name = "vm/http/latency1";
    row(name, "us", Better::Lower, 3.0, effort, |yard, side| {
        let said = wrk(yard, side, 1, true, effort)?;
        Ok(Said {
            figure: said.median,
            ..said
        })
    })
}

/// Requests a second, each over a connection of its own, 16 at a time.
pub fn close(effort: &Effort) -> Result<Vec<Row>> {
    let name = "vm/http/close16";
    row(name, "req/s", Better::Higher, 3.0, effort, |yard, side| {
        wrk(yard, side, 16, false, effort)
    })
}

/// A large file over one connection.
pub fn bulk(effort: &Effort) -> Result<Vec<Row>> {
    row(BULK, "Gbit/s", Better::Higher, 2.0, effort, curl)
}

/// Both machines serve, then they are asked in turns.
fn row(
    name: &str,
    unit: &'static str,
    better: Better,
    floor: f64,
    effort: &Effort,
    run: impl Fn(&Yard, Side) -> Result<Said>,
) -> Result<Vec<Row>> {
    let yard = Yard::new(Config::of(effort))?;
    let mut machines = Vec::new();
    for side in yard.sides() {
        machines.push((side, yard.serving(side, BOARD, name == BULK)?));
        if !effort.short {
            run(&yard, side)?; // what is run for the first time is translated first
        }
    }
    let costs = RefCell::new(Turns::default());
    let measured = |side| {
        let machine = machines.iter().find(|(its, _)| *its == side);
        let (_, vm) = machine.context("no such machine")?;
        let before = process_seconds(vm.id())?;
        let said = run(&yard, side)?;
        let cost = (process_seconds(vm.id())? - before) * 1e6 / said.count.max(1.0);
        match side {
            Side::Ours => costs.borrow_mut().ours.push(cost),
            Side::Theirs => costs.borrow_mut().theirs.push(cost),
        }
        let figure = said.figure;
        eprintln!("  {name} {side:?}: {figure:.1} {unit}, {cost:.0} us of QEMU's time each");
        Ok(figure)
    };
    let mut row = yard.row(name, unit, better, floor, effort, measured)?;
    // A busy host slows the client down and both machines with it; this tells them apart still.
    let costs = costs.into_inner();
    let (ours, theirs) = (costs.ours.median(), costs.theirs.median());
    row.note += &format!("; QEMU's time for each: {ours:.0} us, theirs {theirs:.0} us");
    Ok(vec![row])
}

/// What a client saw.
struct Said {
    /// The row's figure: by wrk, requests a second.
    figure: f64,
    /// Requests answered; of a download, MiB.
    count: f64,
    /// Median latency in microseconds.
    median: f64,
}

fn wrk(yard: &Yard, side: Side, connections: u32, keep: bool, effort: &Effort) -> Result<Said> {
    let seconds = if effort.short { "1s" } else { "4s" };
    let (connections, url) = (connections.to_string(), side.url(side.page()));
    let mut words = vec!["wrk", "-t1", "-c", &connections, "-d", seconds, "--latency"];
    if !keep {
        words.extend(["-H", "Connection: close"]);
    }
    words.push(&url);
    let output = yard.command(&words).output().context("cannot run wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "wrk failed: {text}");
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        bail!("wrk saw errors: {text}");
    }
    parse(&text).with_context(|| format!("wrk said: {text}"))
}

/// The figures in wrk's report.
fn parse(text: &str) -> Option<Said> {
    let after = |label: &str| {
        let (_, rest) = text.split_once(label)?;
        rest.split_whitespace().next()
    };
    let (head, _) = text.split_once(" requests in")?;
    Some(Said {
        figure: after("Requests/sec:")?.parse().ok()?,
        count: head.split_whitespace().last()?.parse().ok()?,
        median: microseconds(after(" 50%")?)?,
    })
}

/// A time as wrk writes it.
fn microseconds(text: &str) -> Option<f64> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    units.iter().find_map(|(unit, factor)| {
        let number: f64 = text.strip_suffix(unit)?.parse().ok()?;
        Some(number * factor)
    })
}

/// Gbit/s of a whole download by curl.
fn curl(yard: &Yard, side: Side) -> Result<Said> {
    let url = side.url(side.large());
    let format = "%{http_code} %{size_download} %{time_starttransfer} %{time_total}";
    let words = [
        "curl",
        "-sS",
        "-m",
        "300",
        "-o",
        "/dev/null",
        "-w",
        format,
        &url,
    ];
    let output = yard.command(&words).output().context("cannot run curl")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<f64> = text.split(' ').flat_map(str::parse).collect();
    match numbers[..] {
        [200.0, octets, from, to] if octets == LARGE as f64 => Ok(Said {
            figure: octets * 8.0 / (to - from) / 1e9,
            count: octets / f64::from(1 << 20),
            median: 0.0,
        }),
        _ => bail!(
            "curl says {text:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrk_s_report_is_read_whatever_units_it_chooses() {
        let text = "  Latency Distribution\n     50%    1.43ms\n     75%  431.00us\n\
                    12000 requests in 4.00s, 14MB read\nRequests/sec:   4211.37\nTransfer/sec:      5.1MB\n";
        let said = parse(text).unwrap();
        assert_eq!(
            (said.figure, said.count, said.median.round()),
            (4211.37, 12000.0, 1430.0)
        );
        assert_eq!(microseconds("431.00us"), Some(431.0));
        assert_eq!(microseconds("2.00s"), Some(2e6));
        assert_eq!(microseconds("2"), None);
    }
}
