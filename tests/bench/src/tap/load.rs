//! What the processor did meanwhile, as Linux tells.

use std::fs;

use anyhow::{Context, Result};

/// Seconds of processor time a process has used, in user and kernel mode.
pub fn process_seconds(id: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The name, in parentheses, may hold anything.
    let (_, rest) = text.rsplit_once(')').context("no such line")?;
    let ticks: Vec<&str> = rest.split_whitespace().collect();
    let number = |at: usize| -> Result<f64> { Ok(ticks.get(at).context("too short")?.parse()?) };
    // Linux counts in hundredths of a second for whoever reads this file.
    Ok((number(11)? + number(12)?) / 100.0)
}

/// Seconds of processor time that a process of one thread has used, to the nanosecond.
pub fn precise_seconds(id: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{id}/schedstat"))?;
    let nanos: f64 = text.split_whitespace().next().context("no time")?.parse()?;
    Ok(nanos / 1e9)
}

/// Resident memory of a process in octets.
pub fn resident(id: u32) -> Result<usize> {
    let text = fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kib.context("no VmRSS")?.trim().parse::<usize>()? * 1024)
}

/// Busy and total ticks of each core.
pub struct Cores(Vec<(u64, u64)>);

impl Cores {
    /// Up to now.
    pub fn now() -> Result<Cores> {
        let text = fs::read_to_string("/proc/stat")?;
        let cores = text.lines().filter(|line| {
            let digits = line.strip_prefix("cpu").unwrap_or_default();
            digits.starts_with(|c: char| c.is_ascii_digit())
        });
        Ok(Cores(
            cores
                .map(|line| {
                    let ticks: Vec<u64> = line
                        .split_whitespace()
                        .skip(1)
                        .filter_map(|word| word.parse().ok())
                        .collect();
                    let total = ticks.iter().take(8).sum();
                    let idle: u64 = ticks.iter().skip(3).take(2).sum();
                    (total - idle, total)
                })
                .collect(),
        ))
    }

    /// Percent of each core that were busy since `earlier`.
    pub fn since(&self, earlier: &Cores) -> String {
        let percents = self.0.iter().zip(&earlier.0).map(|(now, then)| {
            let total = (now.1 - then.1).max(1);
            format!("{}%", (now.0 - then.0) * 100 / total)
        });
        percents.collect::<Vec<_>>().join(" ")
    }
}
