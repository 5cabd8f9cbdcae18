//! Every file under `tests/scripts` is a test, named after its path.
//!
//! `cargo test -p godwit-script --test scripts -- WORD` runs those whose path contains WORD;
//! `--verbose` says what was not asked of each.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use godwit_script::{Script, Verdict, judge};

/// Every `.txt` below `directory`.
fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    let entries =
        std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{directory:?}: {error}"));
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "txt") {
            found.push(path);
        }
    }
}

/// Judge the script in a file.
fn try_file(name: &str, path: &Path) -> Verdict {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return Verdict::Fails(format!("{name}: {error}\n")),
    };
    match Script::parse(name, &text) {
        Ok(script) => judge(&script),
        Err(error) => Verdict::Fails(format!("{error}\n")),
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let flag = |name: &str| arguments.iter().any(|argument| argument == name);
    let words: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts");
    let mut paths = Vec::new();
    collect(&root, &mut paths);
    paths.sort();
    let named = paths.iter().map(|path| {
        let inner = path.strip_prefix(&root).unwrap_or(path);
        (format!("tests/scripts/{}", inner.display()), path)
    });
    let chosen: Vec<_> = named
        .filter(|(name, _)| words.iter().all(|word| name.contains(word.as_str())))
        .collect();
    if flag("--list") {
        for (name, _) in &chosen {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    // A panic of the stack is reported with the script that provoked it.
    std::panic::set_hook(Box::new(|_| {}));
    println!("\nrunning {} tests", chosen.len());
    let start = Instant::now();
    let (mut reports, mut known, mut runs_total) = (Vec::new(), 0, 0);
    for (name, path) in &chosen {
        match try_file(name, path) {
            Verdict::Holds { runs, remark } => {
                runs_total += runs;
                let remark = remark.filter(|_| flag("--verbose"));
                let remark = remark.map_or(String::new(), |remark| format!(" ({remark})"));
                println!("test {name} ... ok{remark}");
            }
            Verdict::KnownFailure(reason) => {
                known += 1;
                println!("test {name} ... known failure: {reason}");
            }
            Verdict::Fails(report) => {
                println!("test {name} ... FAILED");
                reports.push(report);
            }
        }
    }
    for report in &reports {
        println!("\n{report}");
    }
    let result = if reports.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {result}. {} passed; {} failed; {known} known to fail; {runs_total} runs in {:.2}s\n",
        chosen.len() - reports.len() - known,
        reports.len(),
        start.elapsed().as_secs_f64()
    );
    match reports.is_empty() && !chosen.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
