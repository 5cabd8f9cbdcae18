//! One line on the terminal that tells what is going on and for how long already.

use std::io::{IsTerminal, Write, stderr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const REDRAW: Duration = Duration::from_millis(120);
const DETAIL_WIDTH: usize = 60;

/// A piece of work that takes a while. Dropped without [`Progress::finish`] it counts as failed.
pub struct Progress {
    shared: Arc<Shared>,
    painter: Option<JoinHandle<()>>,
    what: String,
    begun: Instant,
}

struct Shared {
    detail: Mutex<String>,
    stop: AtomicBool,
}

impl Progress {
    /// Shows the line, on standard error.
    pub fn start(what: &str) -> Self {
        let shared = Arc::new(Shared {
            detail: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let begun = Instant::now();
        let painter = if stderr().is_terminal() {
            let (shared, what) = (Arc::clone(&shared), what.to_owned());
            thread::Builder::new()
                .name("progress".into())
                .spawn(move || {
                    while !shared.stop.load(Ordering::Relaxed) {
                        let detail = shared.detail.lock().unwrap_or_else(PoisonError::into_inner);
                        let seconds = begun.elapsed().as_secs_f32();
                        let _ = write!(stderr(), "\r\x1b[K  … {what} {seconds:.1} s  {detail}");
                        drop(detail);
                        thread::park_timeout(REDRAW);
                    }
                })
        } else {
            let _ = writeln!(stderr(), "  … {what}");
            Err(std::io::Error::other("no terminal"))
        };
        Self {
            shared,
            painter: painter.ok(),
            what: what.into(),
            begun,
        }
    }

    /// Shows what is done at the moment.
    pub fn detail(&self, text: &str) {
        let text: String = text
            .chars()
            .filter(|c| !c.is_control())
            .take(DETAIL_WIDTH)
            .collect();
        *self
            .shared
            .detail
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = text;
    }

    /// The work is done.
    pub fn finish(mut self) {
        self.clear();
        let seconds = self.begun.elapsed().as_secs_f32();
        let _ = writeln!(stderr(), "  ✓ {} ({seconds:.1} s)", self.what);
    }

    fn clear(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(painter) = self.painter.take() {
            painter.thread().unpark();
            let _ = painter.join();
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
