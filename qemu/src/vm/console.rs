//! What an image says on its serial console.

use std::io::{BufRead, BufReader, Read};
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;

/// The image serves.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Ready {
    /// The instance's id.
    pub id: u32,
    /// The service's name.
    pub service: String,
    /// Its own addresses.
    pub ip: Vec<IpAddr>,
    /// Microseconds from the guest's first instruction.
    pub ready_us: u64,
}

/// A stage of the boot is over.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct BootStage {
    /// Its name.
    pub stage: String,
    /// Microseconds from the guest's first instruction.
    pub us: u64,
}

/// Why the image ends; its last line.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Verdict {
    /// The exit code.
    pub code: u8,
    /// The exit code's name.
    pub name: String,
    /// In words.
    #[serde(default)]
    pub reason: String,
}

/// A line of the console.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// `GODWIT READY {…}`
    Ready(Ready),
    /// `GODWIT BOOT {…}`
    Boot(BootStage),
    /// `GODWIT VERDICT {…}`
    Verdict(Verdict),
    /// Anything else.
    Text,
}

impl Line {
    /// Reads a line. Firmware may have left something before the tag.
    pub fn parse(line: &str) -> Self {
        fn json<'a, T: Deserialize<'a>>(line: &'a str, tag: &str) -> Option<T> {
            serde_json::from_str(line.split_once(tag)?.1.trim()).ok()
        }
        if let Some(ready) = json(line, "GODWIT READY ") {
            return Self::Ready(ready);
        }
        if let Some(verdict) = json(line, "GODWIT VERDICT ") {
            return Self::Verdict(verdict);
        }
        json(line, "GODWIT BOOT ").map_or(Self::Text, Self::Boot)
    }
}

/// Lines kept to be shown when something fails.
const KEPT: usize = 10_000;

#[derive(Debug, Default)]
struct State {
    lines: Vec<String>,
    ready: Option<Ready>,
    verdict: Option<Verdict>,
    boot: Vec<BootStage>,
    closed: bool,
}

impl State {
    fn keep(&mut self, line: String) {
        if self.lines.len() == KEPT {
            self.lines.drain(..KEPT / 2);
        }
        self.lines.push(line);
    }
}

/// All that a console has said so far. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Console {
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Console {
    /// Reads a console until it is closed. `echo` gets each line, as it comes.
    pub fn read(&self, source: impl Read, echo: impl FnMut(&str)) {
        self.read_annotated(source, echo, |_| Vec::new());
    }

    /// The same with lines added: those that `below` has for a line.
    pub fn read_annotated(
        &self,
        source: impl Read,
        mut echo: impl FnMut(&str),
        mut below: impl FnMut(&str) -> Vec<String>,
    ) {
        let mut source = BufReader::new(source);
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            if !matches!(source.read_until(b'\n', &mut bytes), Ok(1..)) {
                break;
            }
            let text = String::from_utf8_lossy(&bytes);
            let text = text.trim_end_matches(['\r', '\n']);
            echo(text);
            self.update(|state| {
                match Line::parse(text) {
                    Line::Ready(ready) => state.ready = Some(ready),
                    Line::Verdict(verdict) => state.verdict = Some(verdict),
                    Line::Boot(stage) => state.boot.push(stage),
                    Line::Text => {}
                }
                state.keep(text.to_owned());
            });
            for line in below(text) {
                echo(&line);
                self.update(|state| state.keep(line));
            }
        }
        self.update(|state| state.closed = true);
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        let (state, changed) = &*self.shared;
        change(&mut state.lock().unwrap_or_else(PoisonError::into_inner));
        changed.notify_all();
    }

    fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.shared.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until `pick` finds something or the console is closed or the time is up.
    fn wait<T>(&self, timeout: Duration, pick: impl Fn(&State) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + timeout;
        let (state, changed) = &*self.shared;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = pick(&state) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.closed || left.is_zero() {
                return None;
            }
            let waited = changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for the readiness line; `None` if the image ends or says nothing for too long.
    pub fn wait_ready(&self, timeout: Duration) -> Option<Ready> {
        // An image that gives up says why before it ends.
        let seen = |s: &State| (s.ready.is_some() || s.verdict.is_some()).then(|| s.ready.clone());
        self.wait(timeout, seen).flatten()
    }

    /// Waits until there is nothing more to come.
    pub fn wait_closed(&self, timeout: Duration) -> bool {
        self.wait(timeout, |state| state.closed.then_some(()))
            .is_some()
    }

    /// The verdict, if there has been one.
    pub fn verdict(&self) -> Option<Verdict> {
        self.look(|state| state.verdict.clone())
    }

    /// The stages of the boot.
    pub fn boot_chart(&self) -> Vec<BootStage> {
        self.look(|state| state.boot.clone())
    }

    /// The last `count` lines.
    pub fn tail(&self, count: usize) -> Vec<String> {
        self.look(|state| state.lines[state.lines.len().saturating_sub(count)..].to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
        \x1b[2JGODWIT BOOT {\"stage\":\"acpi\",\"us\":1234}\r\n\
        [   0.001] INFO  net: link up\r\n\
        GODWIT READY {\"id\":1,\"service\":\"http\",\"ip\":[\"10.77.0.11\",\"fd77::11\"],\"ready_us\":9}\r\n\
        GODWIT VERDICT {\"code\":11,\"name\":\"no-nic\",\"reason\":\"none\"}";

    #[test]
    fn the_three_kinds_of_lines_are_read() {
        let console = Console::default();
        console.read(OUTPUT.as_bytes(), |_| ());
        let ready = console.wait_ready(Duration::ZERO).unwrap();
        assert_eq!((ready.id, ready.ip.len()), (1, 2));
        assert_eq!(
            console.boot_chart(),
            [BootStage {
                stage: "acpi".into(),
                us: 1234
            }]
        );
        assert_eq!(
            console.verdict().unwrap().code,
            11,
            "also without a line end"
        );
        assert_eq!(console.tail(10).len(), 4);
    }

    #[test]
    fn a_console_that_closes_ends_the_wait_at_once() {
        let console = Console::default();
        console.read(b"no such luck\n".as_slice(), |_| ());
        let begun = Instant::now();
        assert!(console.wait_ready(Duration::from_secs(60)).is_none());
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn broken_json_is_text() {
        assert_eq!(Line::parse("GODWIT READY {\"id\":"), Line::Text);
        assert_eq!(
            Line::parse("GODWIT VERDICT {\"code\":300,\"name\":\"x\"}"),
            Line::Text
        );
    }
}
