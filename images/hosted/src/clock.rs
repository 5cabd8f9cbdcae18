//! The process's clock: monotonic, since it was first read.

use std::sync::LazyLock;

use godwit::Instant;

static STARTED: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);

/// The time now.
pub fn now() -> Instant {
    Instant::from_nanos(STARTED.elapsed().as_nanos() as u64)
}
