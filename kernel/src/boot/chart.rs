//! The boot chart: where the time to readiness goes.

use core::fmt::{self, Write};

use crate::sync::Lock;

const STAGES: usize = 24;

static CHART: Lock<Chart> = Lock::new(Chart {
    stages: heapless::Vec::new(),
    last: 0,
});

/// What happened up to when, in counter ticks since the first instruction.
#[derive(Debug, Default)]
pub struct Chart {
    stages: heapless::Vec<(&'static str, u64), STAGES>,
    last: u64,
}

impl Chart {
    /// Notes that `stage` ended at `ticks`.
    pub fn mark(&mut self, stage: &'static str, ticks: u64) {
        let ticks = ticks.max(self.last);
        self.last = ticks;
        let _ = self.stages.push((stage, ticks));
    }

    /// Writes a line for each stage, as JSON behind `tag`. `ns` turns ticks into nanoseconds.
    pub fn write_stages(
        &self,
        out: &mut dyn Write,
        tag: &str,
        ns: impl Fn(u64) -> u64,
    ) -> fmt::Result {
        for (stage, ticks) in &self.stages {
            let us = ns(*ticks) / 1000;
            writeln!(out, "{tag}{{\"stage\":\"{stage}\",\"us\":{us}}}")?;
        }
        Ok(())
    }

    /// Writes the lines for the host, then a table for people.
    pub fn write(&self, out: &mut impl Write, ns: impl Fn(u64) -> u64) -> fmt::Result {
        self.write_stages(out, "GODWIT BOOT ", &ns)?;
        let total = ns(self.last).max(1);
        let mut before = 0;
        for (stage, ticks) in &self.stages {
            let spent = ns(*ticks).saturating_sub(before);
            before = ns(*ticks);
            let bar = usize::try_from(spent * 40 / total).unwrap_or(40).min(40);
            writeln!(
                out,
                "  {stage:<10} {:>6} us {:#<bar$}",
                spent / 1000,
                if bar == 0 { "." } else { "" }
            )?;
        }
        Ok(())
    }
}

/// Notes that a stage of boot is done.
#[inline(never)]
pub fn mark(stage: &'static str) {
    CHART.lock().mark(stage, crate::clock::ticks());
}

/// Writes a line for each stage, as JSON.
pub fn stages(out: &mut dyn Write) -> fmt::Result {
    CHART.lock().write_stages(out, "", crate::clock::to_ns)
}

/// Puts the chart on the console, to be sent when there is time.
pub fn print() {
    struct Lines(heapless::String<128>);
    impl Write for Lines {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for c in text.chars() {
                if c == '\n' {
                    crate::console::line_later(format_args!("{}", self.0));
                    self.0.clear();
                } else {
                    let _ = self.0.push(c);
                }
            }
            Ok(())
        }
    }
    let _ = CHART
        .lock()
        .write(&mut Lines(heapless::String::new()), crate::clock::to_ns);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_is_a_line_for_the_host_and_a_bar_for_people() {
        let mut chart = Chart::default();
        chart.mark("cpu", 1_000_000);
        chart.mark("acpi", 4_000_000);
        let mut out = String::new();
        chart.write(&mut out, |ticks| ticks).unwrap();
        let lines: Vec<_> = out.lines().collect();
        assert_eq!(lines[0], r#"GODWIT BOOT {"stage":"cpu","us":1000}"#);
        assert_eq!(lines[1], r#"GODWIT BOOT {"stage":"acpi","us":4000}"#);
        assert_eq!(lines[3].matches('#').count(), 30);
    }

    #[test]
    fn a_counter_that_goes_back_does_not_break_the_chart() {
        let mut chart = Chart::default();
        chart.mark("a", 100);
        chart.mark("b", 50);
        let mut out = String::new();
        chart.write(&mut out, |ticks| ticks).unwrap();
        assert_eq!(out.lines().count(), 4);
    }
}
