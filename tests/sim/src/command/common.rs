//! What the commands share: work on every core, seeds that failed, progress, and counts as JSON.

use std::fs::File;
use std::io::{IsTerminal, Write, stderr};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use godwit_sim::check::Violation;
use serde_json::Value;

/// Bad seeds described; the rest are counted.
const SHOWN: usize = 10;

/// Seeds with violations, with the first of them in words.
#[derive(Default)]
pub struct Bad(Vec<(u64, Vec<String>)>);

impl Bad {
    /// Remember a seed if it has violations.
    pub fn add(&mut self, seed: u64, violations: &[Violation]) {
        if !violations.is_empty() && self.0.len() < SHOWN {
            let first = violations.iter().take(3).map(ToString::to_string);
            self.0.push((seed, first.collect()));
        }
    }

    /// The seeds.
    pub fn seeds(&self) -> Vec<u64> {
        self.0.iter().map(|(seed, _)| *seed).collect()
    }

    /// Say what was wrong, and how to see it again.
    pub fn print(&self, again: impl Fn(u64) -> String) {
        for (seed, first) in &self.0 {
            println!("seed {seed}: {}", first.join("\n  "));
            println!("  again: cargo godwit sim {}", again(*seed));
        }
    }
}

/// Do `work` on every core until it says that there is no more.
pub fn on_every_core(work: impl Fn() -> bool + Sync) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| while work() {});
        }
    });
}

/// The file the counts go to. A path that cannot be written is found before the run.
pub struct Json<'a>(Option<(&'a PathBuf, File)>);

impl Json<'_> {
    /// Create the file, if there is to be one.
    pub fn create(path: Option<&PathBuf>) -> Result<Json<'_>, ExitCode> {
        let file = path.map(|path| Ok((path, File::create(path)?)));
        match file.transpose() {
            Ok(file) => Ok(Json(file)),
            Err(error) => Err(cannot_write(path, &error)),
        }
    }

    /// Write the counts and the commit they were made from; then end with status 1 unless all is well.
    pub fn finish(self, mut counts: Value, all_well: bool) -> ExitCode {
        if let Some((path, mut file)) = self.0 {
            counts["commit"] = commit().into();
            if let Err(error) = writeln!(file, "{counts:#}") {
                return cannot_write(Some(path), &error);
            }
        }
        match all_well {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    }
}

/// The commit this was built from, as far as git knows it.
fn commit() -> Option<String> {
    let root = env!("CARGO_MANIFEST_DIR");
    let arguments = ["describe", "--always", "--dirty", "--abbrev=12"];
    let output = Command::new("git")
        .current_dir(root)
        .args(arguments)
        .output();
    let output = output.ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_string())
}

fn cannot_write(path: Option<&PathBuf>, error: &std::io::Error) -> ExitCode {
    let path = path.map_or("".as_ref(), PathBuf::as_path);
    eprintln!("godwit sim: cannot write {}: {error}", path.display());
    ExitCode::FAILURE
}

/// In words.
pub fn count_seeds(seeds: u64) -> String {
    match seeds {
        1 => "1 seed".into(),
        n => format!("{n} seeds"),
    }
}

/// Now and then, a line for who watches.
pub fn progress(number: u64, line: impl FnOnce() -> String) {
    if number.is_multiple_of(20) && stderr().is_terminal() {
        eprint!("\r\x1b[K{} ", line());
    }
}

/// Wipe that line.
pub fn end_progress() {
    if stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
}
