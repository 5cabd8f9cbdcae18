//! Log lines on standard error, in the form the images print them on their console.

use crate::clock;
use std::io::Write;

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
