//! A script in every way it has to hold.

use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::run::{lines_for, run};
use crate::script::{Moves, Script};
use crate::trace::Trace;
use crate::variant::{Failure, Family, Moving, Role, Variant};

/// Places at which a script is run with a single move, at most.
const MAX_PLACES: usize = 60;

/// What became of a script.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It holds in every way.
    Holds {
        /// Runs in all.
        runs: usize,
        /// Why moves are not asked for exactly, if they are not.
        remark: Option<String>,
    },
    /// It fails, and says itself that it does.
    KnownFailure(String),
    /// It fails; the report.
    Fails(String),
}

/// Run a script in every way it has to hold.
pub fn judge(script: &Script) -> Verdict {
    let mut runs = 0;
    let plain = all(script, &mut runs, false);
    let header = &script.header;
    match (&plain, &header.known_failure) {
        (Err(_), Some(reason)) => return Verdict::KnownFailure(reason.clone()),
        (Ok(_), Some(reason)) => {
            return Verdict::Fails(format!(
                "{}: it is said to fail ({reason}), but it holds: take the line out\n",
                script.name
            ));
        }
        (Err(report), None) => return Verdict::Fails(report.clone()),
        (Ok(_), None) => {}
    }
    let remark = match &header.moves {
        Moves::Skip(why) => {
            return Verdict::Holds {
                runs,
                remark: Some(format!("not moved: {why}")),
            };
        }
        Moves::Sequence(why) => Some(format!("moved without regard to time: {why}")),
        Moves::Exact => None,
    };
    match (all(script, &mut runs, true), &header.known_failure_moved) {
        (Err(_), Some(reason)) => Verdict::KnownFailure(format!("moved: {reason}")),
        (Ok(_), Some(reason)) => Verdict::Fails(format!(
            "{}: it is said to fail when moved ({reason}), but it holds: take the line out\n",
            script.name
        )),
        (Err(report), None) => Verdict::Fails(report),
        (Ok(_), None) => Verdict::Holds { runs, remark },
    }
}

/// All runs without moves, or all with.
fn all(script: &Script, runs: &mut usize, moved: bool) -> Result<(), String> {
    let roles: &[Role] = match script.both_roles {
        true => &[Role::Passive, Role::Active],
        false => &[Role::Passive],
    };
    let header = &script.header;
    let families = [(Family::V4, header.ipv4), (Family::V6, header.ipv6)];
    for (family, wanted) in families {
        for role in roles.iter().filter(|_| wanted) {
            let at = |moving| Variant {
                family,
                role: *role,
                moving,
            };
            *runs += 1;
            let plain = guarded(script, at(Moving::Never))?;
            if moved {
                let each = places(lines_for(script, *role).len());
                let moves = std::iter::once(Moving::Everywhere).chain(each.map(Moving::After));
                for moving in moves {
                    *runs += 1;
                    let trace = guarded(script, at(moving))?;
                    let exact = header.moves == Moves::Exact;
                    if let Some(difference) = plain.differs(&trace, exact) {
                        return Err(format!(
                            "{} ({}): the move shows\n  {difference}\n  so far:\n{trace}",
                            script.name,
                            at(moving)
                        ));
                    }
                }
            }
        }
    }
    Ok(())
}

/// The lines after which a run has its one move: all, or in scripts that repeat a lot
/// [`MAX_PLACES`] of them.
fn places(lines: usize) -> impl Iterator<Item = usize> {
    let step = lines.div_ceil(MAX_PLACES).max(1);
    (0..lines).step_by(step)
}

/// A run, with panics of the stack as failures.
fn guarded(script: &Script, variant: Variant) -> Result<Trace, String> {
    match catch_unwind(AssertUnwindSafe(|| run(script, variant))) {
        Ok(Ok(trace)) => Ok(trace),
        Ok(Err(failure)) => Err(report(script, variant, &failure)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let text = text.unwrap_or_else(|| "a panic".to_owned());
            Err(format!("{} ({variant}): panicked: {text}\n", script.name))
        }
    }
}

fn report(script: &Script, variant: Variant, failure: &Failure) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{}:{}: ({variant})", script.name, failure.line);
    let _ = writeln!(out, "  expected  {}", failure.text);
    let _ = writeln!(out, "  but       {}", failure.message);
    let _ = write!(out, "  so far:\n{}", failure.trace);
    out
}
