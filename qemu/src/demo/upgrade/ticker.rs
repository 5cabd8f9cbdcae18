//! The line that shows what the clients get while the instances are replaced.

use std::io::{IsTerminal, Write, stdout};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::tally::Tally;

/// A sample of the throughput, and a redraw.
const SAMPLE: Duration = Duration::from_millis(200);
/// Samples shown.
const WIDTH: usize = 40;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

struct Shared {
    stop: AtomicBool,
    note: Mutex<String>,
    begun: Instant,
    terminal: bool,
}

/// The painter's thread.
pub(super) struct Ticker {
    shared: Arc<Shared>,
    painter: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Shows what `tally` counts.
    pub fn start(tally: &Tally) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            note: Mutex::default(),
            begun: Instant::now(),
            terminal: stdout().is_terminal(),
        });
        let (painted, tally) = (Arc::clone(&shared), tally.clone());
        let painter = thread::Builder::new()
            .name("ticker".into())
            .spawn(move || paint(&painted, &tally));
        Self {
            shared,
            painter: painter.ok(),
        }
    }

    /// Says what goes on now.
    pub fn note(&self, text: &str) {
        if !self.shared.terminal {
            let seconds = self.shared.begun.elapsed().as_secs_f64();
            println!("  {seconds:5.1} s  {text}");
        }
        *self
            .shared
            .note
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = text.into();
    }

    /// Prints a line that stays.
    pub fn line(&self, text: &str) {
        let _held = self
            .shared
            .note
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let start = if self.shared.terminal { "\r\x1b[K" } else { "" };
        println!(
            "{start}  {:5.1} s  {text}",
            self.shared.begun.elapsed().as_secs_f64()
        );
    }

    /// Ends it.
    pub fn finish(mut self) {
        self.join();
    }

    fn join(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(painter) = self.painter.take() {
            painter.thread().unpark();
            let _ = painter.join();
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.join();
    }
}

fn paint(shared: &Shared, tally: &Tally) {
    let mut rates: Vec<f64> = Vec::new();
    let (mut bytes, mut at) = (tally.bytes(), Instant::now());
    while !shared.stop.load(Ordering::Relaxed) {
        thread::park_timeout(SAMPLE);
        let now = tally.bytes();
        let seconds = at.elapsed().as_secs_f64().max(1e-6);
        rates.push((now - bytes) as f64 * 8.0 / 1e6 / seconds);
        (bytes, at) = (now, Instant::now());
        if !shared.terminal {
            continue;
        }
        let shown = &rates[rates.len().saturating_sub(WIDTH)..];
        let most = shown.iter().copied().fold(1e-3, f64::max);
        let bar = |rate: &f64| BARS[((rate / most * 7.0) as usize).min(7)];
        let strip: String = shown.iter().map(bar).collect();
        let note = shared.note.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = stdout();
        let _ = write!(
            out,
            "\r\x1b[K  {:5.1} s  {strip} {:4.0} Mbit/s  {note}",
            shared.begun.elapsed().as_secs_f64(),
            rates.last().copied().unwrap_or_default(),
        );
        let _ = out.flush();
    }
    if shared.terminal {
        print!("\r\x1b[K");
    }
}
