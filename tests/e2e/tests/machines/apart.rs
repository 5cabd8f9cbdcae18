//! Each test in a process of its own, with a network of its own, two at a time: a machine waits for others
//! a good part of its time.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

/// How many at a time.
const TOGETHER: usize = 2;
/// What measures time, or fills all memory there is, and so runs with no other beside it.
const ALONE: &[&str] = &[
    "a_client_hardly_waits_at_a_move",
    "three_machines_are_replaced_under_load",
    "a_drain_of_thousands_resets_nobody",
];

/// Runs these and says of each how it went; how many failed. `words`: more for the processes.
pub fn run(tests: &[&str], words: &[&str]) -> usize {
    let (apart, beside): (Vec<&str>, Vec<&str>) =
        tests.iter().partition(|name| ALONE.contains(name));
    all(&beside, TOGETHER, words) + all(&apart, 1, words)
}

fn all(tests: &[&str], together: usize, words: &[&str]) -> usize {
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..together {
            scope.spawn(|| {
                while let Some(name) = tests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let begun = Instant::now();
                    let said = one(name, words);
                    let seconds = begun.elapsed().as_secs_f32();
                    match said {
                        Ok(()) => println!("test {name} ... ok ({seconds:.1} s)"),
                        Err(error) => {
                            failed.fetch_add(1, Ordering::Relaxed);
                            println!("test {name} ... FAILED\n{error:#}");
                        }
                    }
                }
            });
        }
    });
    failed.into_inner()
}

/// One test; what it says is shown only if it fails, or tests less than it might.
fn one(name: &str, words: &[&str]) -> Result<()> {
    let program = std::env::current_exe().context("this program is gone")?;
    let output = Command::new(program)
        .args(["--exact", name])
        .args(words)
        .stdin(Stdio::null())
        .output()
        .context("cannot run it apart")?;
    let [said, errors] = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said));
    ensure!(output.status.success(), "{said}{errors}({})", output.status);
    let less = |line: &&str| line.contains("not tested") || line.contains("is played by");
    for line in said.lines().filter(less) {
        println!("  {name}: {}", line.trim());
    }
    Ok(())
}
