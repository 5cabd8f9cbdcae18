//! Log lines on standard error, in the form the images print them on their console; the last of them
//! are kept for who asks at the admin port.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use godwit::platform::Insight;

use crate::clock;

/// Octets that are kept.
const KEPT: usize = 16 << 10;

/// What was logged last, and how much before that.
static LAST: Mutex<(VecDeque<u8>, u64)> = Mutex::new((VecDeque::new(), 0));

/// The log, for who asks at the admin port.
pub struct Inside;

impl Insight for Inside {
    fn log(&self, from: u64, out: &mut Vec<u8>) -> u64 {
        let last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        let (kept, gone) = &*last;
        if from < *gone {
            out.extend_from_slice(b"[what was here is gone]\n");
        }
        let skip = usize::try_from(from.saturating_sub(*gone)).unwrap_or(usize::MAX);
        out.extend(kept.iter().skip(skip));
        gone + kept.len() as u64
    }
}

/// Keeps a line; as many whole lines go as are too many.
fn keep(line: &str) {
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let (kept, gone) = &mut *last;
    kept.extend(line.as_bytes());
    while kept.len() > KEPT {
        let end = kept.iter().position(|octet| *octet == b'\n');
        let line = end.map_or(kept.len(), |end| end + 1);
        kept.drain(..line);
        *gone += line as u64;
    }
}

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let time = clock::now().as_micros();
        let line = format!(
            "[{:4}.{:06}] {:<5} {}: {}\n",
            time / 1_000_000,
            time % 1_000_000,
            record.level(),
            record.target(),
            record.args()
        );
        keep(&line);
        // Without standard error there is nobody to complain to.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

/// Log from now on; what is logged is the configuration's to say.
pub fn install() {
    // Fails only if a logger is installed already.
    if log::set_boxed_logger(Box::new(Logger)).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_whole_and_what_is_gone_is_told() {
        let (mut end, mut all) = (0, Vec::new());
        for number in 0..5_000 {
            keep(&format!("line {number}\n"));
            if number < 100 {
                end = Inside.log(end, &mut all);
            }
        }
        let expected: String = (0..100).map(|n| format!("line {n}\n")).collect();
        assert_eq!(String::from_utf8(all).unwrap(), expected);
        let mut rest = Vec::new();
        let end = Inside.log(end, &mut rest);
        let rest = String::from_utf8(rest).unwrap();
        let (first, lines) = rest.split_once('\n').unwrap();
        assert!(first.contains("gone"));
        assert!(lines.starts_with("line ") && lines.ends_with("line 4999\n"));
        assert!(lines.len() <= KEPT && lines.len() > KEPT - 20);
        assert_eq!(Inside.log(end, &mut Vec::new()), end);
        assert_eq!(Inside.log(u64::MAX, &mut Vec::new()), end);
    }
}
