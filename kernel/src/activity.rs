//! What the image is at, for the report if it ends there.

use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

static ORIGIN: AtomicU32 = AtomicU32::new(0);
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// From now on code of this session runs: the instance that opened it, from 1, and its number
/// there.
#[inline]
pub fn serve(origin: u32, number: u64) {
    NUMBER.store(number, Ordering::Relaxed);
    ORIGIN.store(origin, Ordering::Relaxed);
}

/// No session's code runs any more.
#[inline]
pub fn rest() {
    ORIGIN.store(0, Ordering::Relaxed);
}

/// Writes `, serving session 1-00000000000000c8`, or nothing.
#[derive(Clone, Copy, Debug)]
pub struct Activity;

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ORIGIN.load(Ordering::Relaxed) {
            0 => Ok(()),
            origin => {
                let number = NUMBER.load(Ordering::Relaxed);
                write!(f, ", serving session {origin}-{number:016x}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_named_while_its_code_runs_and_no_longer() {
        assert_eq!(Activity.to_string(), "");
        serve(2, 200);
        assert_eq!(Activity.to_string(), ", serving session 2-00000000000000c8");
        rest();
        assert_eq!(Activity.to_string(), "");
    }
}
