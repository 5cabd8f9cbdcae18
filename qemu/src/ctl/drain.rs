//! `godwit ctl drain`: orders it, shows how it goes, tells how it ended.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::admin::{Admin, Drain, DrainReport, count_sessions};
use crate::progress::Progress;

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// Looks in a row without an answer after which the instance is taken for gone.
const SILENT: u32 = 3;

/// What becomes of sessions that have not moved at the deadline.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Then {
    /// They are tried on, however long it takes.
    Wait,
    /// They are reset, but for those in doubt; the drain goes on.
    Force,
    /// They stay, and the instance serves on.
    Cancel,
}

/// Options of `godwit ctl drain`.
#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    /// How long it may take: 500ms, 30s, 5m [default: the instance's `drain_deadline`, 60s].
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    deadline: Option<Duration>,
    /// What becomes of sessions that have not moved by then [default: its `drain_then`, force].
    #[arg(long, value_enum)]
    then: Option<Then>,
    /// Only order it; do not wait for the end.
    #[arg(long)]
    detach: bool,
}

impl Options {
    /// What `POST /drain` is told.
    fn order(&self) -> Value {
        let mut order = json!({});
        if let Some(deadline) = self.deadline {
            order["deadline_ms"] = (deadline.as_millis() as u64).into();
        }
        if let Some(then) = self.then {
            order["then"] = match then {
                Then::Wait => "wait",
                Then::Force => "force",
                Then::Cancel => "cancel",
            }
            .into();
        }
        order
    }
}

/// Drains an instance; an error unless everything has moved.
pub(super) fn run(admin: &Admin, options: &Options) -> Result<()> {
    let answer = admin.drain(&options.order())?;
    if options.detach {
        return super::print(answer);
    }
    if let Some(note) = answer.get("note").and_then(Value::as_str) {
        let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("{note}\n"));
    }
    let sessions = answer.get("draining").and_then(Value::as_u64).unwrap_or(0);
    let progress = Progress::start(&format!("draining {}", count_sessions(sessions)));
    let (last, end) = watch(admin, |drain| progress.detail(&line(drain)))?;
    drop(progress);
    let (text, clean) = conclude(&last, end);
    super::print_text(&text);
    if !clean {
        bail!("not everything has moved");
    }
    Ok(())
}

/// How it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// It said that it is drained.
    Drained,
    /// The drain was called off.
    Cancelled,
    /// It does not answer any more.
    Gone,
}

/// Asks how it goes until it is over.
fn watch(admin: &Admin, mut show: impl FnMut(&Drain)) -> Result<(DrainReport, End)> {
    let mut last: Option<DrainReport> = None;
    let mut silent = 0;
    loop {
        match admin.drain_report() {
            Ok(report) => {
                silent = 0;
                report.drain.iter().for_each(&mut show);
                let end = match (report.cancelled, &*report.state) {
                    (true, "serving") => Some(End::Cancelled),
                    (_, "drained") => Some(End::Drained),
                    _ => None,
                };
                if let Some(end) = end {
                    return Ok((report, end));
                }
                last = Some(report);
            }
            Err(error) => {
                silent += 1;
                if silent >= SILENT {
                    let last = last.with_context(|| error.to_string())?;
                    return Ok((last, End::Gone));
                }
            }
        }
        thread::sleep(LOOK);
    }
}

/// How far it is.
fn line(drain: &Drain) -> String {
    let left: u64 = drain.left.values().sum();
    format!("{} moved, {left} left: {}", drain.moved, drain.waits_for)
}

fn list(text: &mut String, reasons: &BTreeMap<String, u64>) {
    for (reason, count) in reasons {
        let _ = writeln!(text, "  {count:>8}  {reason}");
    }
}

/// The report, and whether everything has moved.
fn conclude(report: &DrainReport, end: End) -> (String, bool) {
    let drain = report.drain.clone().unwrap_or_default();
    let left: u64 = drain.left.values().sum();
    let seconds = drain.since_ms as f64 / 1e3;
    let (id, moved) = (report.id, count_sessions(drain.moved));
    let mut text = match end {
        End::Drained => {
            format!(
                "instance {id} is drained after {seconds:.1} s: {moved} moved; now it ends, and a VM powers off\n"
            )
        }
        End::Cancelled => format!(
            "the drain of instance {id} was called off after {:.1} s, and it serves on: {moved} moved\n",
            drain.deadline_ms as f64 / 1e3
        ),
        End::Gone => format!(
            "instance {id} does not answer any more; last heard after {seconds:.1} s: {moved} moved, {left} left\n"
        ),
    };
    if drain.overdue {
        let deadline = drain.deadline_ms as f64 / 1e3;
        let _ = writeln!(text, "not done at the deadline of {deadline:.1} s:");
        list(&mut text, &drain.overrun);
    }
    if drain.forced > 0 {
        let were = if drain.forced == 1 { "was" } else { "were" };
        let _ = writeln!(text, "{} {were} reset", count_sessions(drain.forced));
    }
    if left > 0 {
        let _ = writeln!(text, "left behind:");
        list(&mut text, &drain.left);
    }
    let clean = end != End::Cancelled && left == 0 && drain.forced == 0;
    (text, clean)
}

/// A time with its unit.
fn parse_time(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => 0,
    };
    let millis = number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(millis));
    millis
        .filter(|millis| (1..=u64::from(u32::MAX)).contains(millis))
        .map(Duration::from_millis)
        .ok_or_else(|| "must be a time with its unit: 500ms, 30s or 5m".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(drain: Drain) -> DrainReport {
        DrainReport {
            id: 3,
            drain: Some(drain),
            ..DrainReport::default()
        }
    }

    #[test]
    fn times_have_units() {
        assert_eq!(parse_time("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_time("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_time("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "30", "s", "0s", "-1s", "3h", "99999999999999999999s"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_was_not_asked_for_is_left_to_the_instance() {
        let mut options = Options {
            deadline: None,
            then: None,
            detach: false,
        };
        assert_eq!(options.order(), json!({}));
        options.deadline = Some(Duration::from_secs(30));
        options.then = Some(Then::Force);
        assert_eq!(
            options.order(),
            json!({"deadline_ms": 30_000, "then": "force"})
        );
    }

    #[test]
    fn the_report_names_what_stayed_and_why() {
        let whole = report(Drain {
            moved: 7,
            since_ms: 1_250,
            ..Drain::default()
        });
        let (text, clean) = conclude(&whole, End::Drained);
        assert!(
            clean && text.contains("instance 3") && text.contains("7 sessions moved"),
            "{text}"
        );
        assert!(text.contains("a VM powers off"), "{text}");
        let stuck = || BTreeMap::from([("no member takes sessions".to_owned(), 2)]);
        let mut part = Drain {
            moved: 5,
            overdue: true,
            deadline_ms: 30_000,
            overrun: stuck(),
            forced: 2,
            ..Drain::default()
        };
        let (text, clean) = conclude(&report(part.clone()), End::Drained);
        assert!(
            !clean && text.contains("2  no member takes sessions"),
            "{text}"
        );
        assert!(text.contains("2 sessions were reset"), "{text}");
        (part.moved, part.forced) = (1, 1);
        let (text, _) = conclude(&report(part.clone()), End::Drained);
        assert!(text.contains("1 session moved;"), "{text}");
        assert!(text.contains("1 session was reset"), "{text}");
        (part.forced, part.left) = (0, stuck());
        for end in [End::Cancelled, End::Gone] {
            let (text, clean) = conclude(&report(part.clone()), end);
            assert!(!clean && text.contains("left behind"), "{text}");
            assert!(!text.contains("powers off"), "{text}");
        }
        // What took longer than it should has moved all the same.
        part.left.clear();
        assert!(conclude(&report(part), End::Drained).1);
    }
}
