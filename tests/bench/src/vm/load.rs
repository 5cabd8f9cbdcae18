//! Requests and downloads over TAP with offloads, on q35: curl and wrk against both machines in turns.

use anyhow::{Context, Result, bail, ensure};

use super::yard::{Board, LARGE, Side, Yard};
use crate::Effort;
use crate::row::{Better, Row};

/// Where it is measured.
const BOARD: Board = Board::Q35;

/// Requests a second over 64 kept connections.
pub fn keepalive(effort: &Effort) -> Result<Vec<Row>> {
    let name = "vm/http/keepalive64";
    row(name, "req/s", Better::Higher, 7.0, effort, |yard, side| {
        Ok(wrk(yard, side, 64, true, effort)?.rate)
    })
}

/// The median time of a request over one kept connection.
pub fn latency(effort: &Effort) -> Result<Vec<Row>> {
    let name = "vm/http/latency1";
    row(name, "us", Better::Lower, 3.0, effort, |yard, side| {
        Ok(wrk(yard, side, 1, true, effort)?.median)
    })
}

/// Requests a second, each over a connection of its own, 16 at a time.
pub fn close(effort: &Effort) -> Result<Vec<Row>> {
    let name = "vm/http/close16";
    row(name, "req/s", Better::Higher, 3.0, effort, |yard, side| {
        Ok(wrk(yard, side, 16, false, effort)?.rate)
    })
}

/// A large file over one connection.
pub fn bulk(effort: &Effort) -> Result<Vec<Row>> {
    row("vm/bulk", "Gbit/s", Better::Higher, 2.0, effort, curl)
}

/// Both machines serve, then they are asked in turns.
fn row(
    name: &str,
    unit: &'static str,
    better: Better,
    floor: f64,
    effort: &Effort,
    run: impl Fn(&Yard, Side) -> Result<f64>,
) -> Result<Vec<Row>> {
    let yard = Yard::new(effort.alone)?;
    let _ours = yard.serving(Side::Ours, BOARD)?;
    let _theirs = match effort.alone {
        true => None,
        false => Some(yard.serving(Side::Theirs, BOARD)?),
    };
    // What is run for the first time is translated first.
    for side in yard.sides() {
        run(&yard, side)?;
    }
    let run = |side| {
        let figure = run(&yard, side)?;
        eprintln!("  {name} {side:?}: {figure:.1} {unit}");
        Ok(figure)
    };
    Ok(vec![yard.row(name, unit, better, floor, effort, run)?])
}

/// What wrk said.
struct Said {
    /// Requests a second.
    rate: f64,
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
    Some(Said {
        rate: after("Requests/sec:")?.parse().ok()?,
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
fn curl(yard: &Yard, side: Side) -> Result<f64> {
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
        [200.0, octets, from, to] if octets == LARGE as f64 => Ok(octets * 8.0 / (to - from) / 1e9),
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
                    Requests/sec:   4211.37\nTransfer/sec:      5.1MB\n";
        let said = parse(text).unwrap();
        assert_eq!((said.rate, said.median.round()), (4211.37, 1430.0));
        assert_eq!(microseconds("431.00us"), Some(431.0));
        assert_eq!(microseconds("2.00s"), Some(2e6));
        assert_eq!(microseconds("2"), None);
    }
}
