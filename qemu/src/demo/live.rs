//! The line that shows a transfer while it runs: throughput with a mark at every move.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write, stdout};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A sample of the throughput, and a redraw.
const SAMPLE: Duration = Duration::from_millis(100);
/// Samples shown.
const WIDTH: usize = 40;
/// Without a terminal a line is printed each time this share is done.
const STEP: u64 = 10;

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// One colour per owner.
const COLOURS: [&str; 2] = ["\x1b[36m", "\x1b[33m"];

/// What is known of a transfer at any moment.
#[derive(Debug, Default)]
pub(super) struct Meter {
    bytes: AtomicU64,
    owner: AtomicU32,
    moves: AtomicU32,
    planned: AtomicU32,
    note: Mutex<String>,
}

impl Meter {
    /// Bytes that arrived so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn set_bytes(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// Instance `owner` has the connection.
    pub fn set_owner(&self, owner: u32) {
        self.owner.store(owner, Ordering::Relaxed);
    }

    /// The connection has moved to instance `owner`.
    pub fn moved(&self, owner: u32) {
        self.set_owner(owner);
        self.moves.fetch_add(1, Ordering::Relaxed);
    }

    /// So many moves there are to be.
    pub fn plan(&self, moves: u32) {
        self.planned.store(moves, Ordering::Relaxed);
    }

    /// Something worth a word at the end of the line.
    pub fn note(&self, text: &str) {
        *self.note.lock().unwrap_or_else(PoisonError::into_inner) = text.into();
    }

    /// How far the moves are, and the note.
    fn progress(&self, moves: u32) -> String {
        let planned = self.planned.load(Ordering::Relaxed);
        let note = self.note.lock().unwrap_or_else(PoisonError::into_inner);
        format!("moves {moves}/{planned} {note}")
    }
}

/// The painter's thread.
pub(super) struct Live {
    stop: Arc<AtomicBool>,
    painter: Option<JoinHandle<()>>,
}

struct Sample {
    rate: f64,
    owner: u32,
    moves: u32,
}

impl Live {
    /// Shows a transfer of `total` bytes.
    pub fn start(name: &str, total: u64, planned: u32, meter: Arc<Meter>) -> Self {
        meter.plan(planned);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let name = name.to_owned();
        let painter = thread::Builder::new().name("live".into()).spawn(move || {
            let terminal = stdout().is_terminal();
            let mut painter = Painter {
                name,
                total,
                samples: Vec::new(),
                step: 0,
            };
            let (mut bytes, mut moves, mut at) = (0, 0, Instant::now());
            loop {
                let last = stopped.load(Ordering::Relaxed);
                let (now_bytes, now_moves) = (meter.bytes(), meter.moves.load(Ordering::Relaxed));
                let seconds = at.elapsed().as_secs_f64().max(1e-6);
                painter.samples.push(Sample {
                    rate: now_bytes.saturating_sub(bytes) as f64 * 8.0 / seconds,
                    owner: meter.owner.load(Ordering::Relaxed),
                    moves: now_moves - moves,
                });
                (bytes, moves, at) = (now_bytes, now_moves, Instant::now());
                painter.paint(bytes, moves, &meter, terminal, last);
                if last {
                    break;
                }
                thread::park_timeout(SAMPLE);
            }
        });
        Self {
            stop,
            painter: painter.ok(),
        }
    }

    /// Shows the end of it.
    pub fn finish(mut self) {
        self.join();
    }

    fn join(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(painter) = self.painter.take() {
            painter.thread().unpark();
            let _ = painter.join();
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.join();
    }
}

struct Painter {
    name: String,
    total: u64,
    samples: Vec<Sample>,
    step: u64,
}

impl Painter {
    fn paint(&mut self, bytes: u64, moves: u32, meter: &Meter, terminal: bool, last: bool) {
        let percent = bytes.saturating_mul(100) / self.total.max(1);
        if !terminal && !last && percent < self.step {
            return;
        }
        self.step = percent - percent % STEP + STEP;
        let shown = &self.samples[self.samples.len().saturating_sub(WIDTH)..];
        let recent = &shown[shown.len().saturating_sub(5)..];
        let rate = recent.iter().map(|s| s.rate).sum::<f64>() / recent.len().max(1) as f64;
        let owner = owner_name(shown.last().map_or(0, |sample| sample.owner));
        let line = format!(
            "  {:<9}{percent:>3}% {} {:>6.0} Mbit/s  owner: {owner}  {}",
            self.name,
            strip(shown, terminal),
            rate / 1e6,
            meter.progress(moves),
        );
        let mut out = stdout();
        let _ = match (terminal, last) {
            (true, false) => write!(out, "\r\x1b[K{line}"),
            (true, true) => writeln!(out, "\r\x1b[K{line}"),
            (false, _) => writeln!(out, "{line}"),
        };
        let _ = out.flush();
    }
}

/// Instances have ids from 1 on; 0 is what is not known yet.
fn owner_name(id: u32) -> String {
    match id {
        0 => "-".into(),
        id => format!("instance {id}"),
    }
}

/// A bar per sample, in the owner's colour, and `|` where the connection moved.
fn strip(samples: &[Sample], colours: bool) -> String {
    let top = samples.iter().map(|sample| sample.rate).fold(1.0, f64::max);
    let mut strip = String::new();
    for sample in samples {
        let height = (sample.rate / top * (BARS.len() - 1) as f64).round() as usize;
        let bar = if sample.moves > 0 {
            '|'
        } else {
            BARS[height.min(BARS.len() - 1)]
        };
        if colours {
            let colour = COLOURS[sample.owner as usize % COLOURS.len()];
            let _ = write!(strip, "{colour}{bar}\x1b[0m");
        } else {
            strip.push(bar);
        }
    }
    strip
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_that_is_not_known_yet_is_no_instance() {
        assert_eq!(owner_name(0), "-");
        assert_eq!(owner_name(2), "instance 2");
    }

    #[test]
    fn moves_that_turn_out_to_be_needed_are_counted_on_both_sides() {
        let meter = Arc::new(Meter::default());
        Live::start("drain", 1, 1, Arc::clone(&meter)).finish();
        assert_eq!(meter.progress(0), "moves 0/1 ");
        meter.plan(2);
        meter.moved(2);
        meter.note("power button!");
        assert_eq!(meter.progress(1), "moves 1/2 power button!");
    }

    #[test]
    fn a_move_is_marked_and_throughput_has_height() {
        let sample = |rate, moves| Sample {
            rate,
            owner: 1,
            moves,
        };
        assert_eq!(
            strip(&[sample(0.0, 0), sample(8e6, 0), sample(8e6, 2)], false),
            "▁█|"
        );
    }
}
