//! The console: log lines, and the lines the host relies on, on the first serial interface and on the
//! [`screen`], if there is one.
//!
//! Under emulation a byte on a serial line costs about as much as handling a packet, so ordinary
//! log lines wait in a buffer until the image is idle, the buffer is full, or a line of more
//! weight (a warning, a line for the host, the end) has to get out with everything before it.

pub mod screen;

use alloc::vec::Vec;
use core::fmt::{self, Write};

use crate::arch::x86_64::serial;
use crate::exit::ExitCode;
use crate::sync::Lock;

/// What may wait at most.
const BUFFER: usize = 8192;
/// What is kept, for who asks later ([`since`]).
const RING: usize = 2 * BUFFER;
/// What is sent at a time while nothing else is to be done: about a millisecond under emulation,
/// which is how long a frame may have to wait for it.
const PIECE: usize = 256;

static CONSOLE: Lock<Buffer> = Lock::new(Buffer::new());
static LOGGER: Logger = Logger;

fn send(bytes: &[u8]) {
    serial::write(bytes);
    screen::write(bytes);
}

/// The last of what was written, a ring; what is not yet sent is part of it.
struct Buffer {
    bytes: [u8; RING],
    /// Bytes ever written, and of those sent.
    written: u64,
    sent: u64,
}

impl Buffer {
    const fn new() -> Self {
        Self {
            bytes: [0; RING],
            written: 0,
            sent: 0,
        }
    }

    fn flush(&mut self) {
        while let Some(piece) = self.piece() {
            send(piece);
        }
        screen::show();
    }

    /// What was written from `from` to `to`, as far as it lies in one place.
    fn slice(&self, from: u64, to: u64) -> &[u8] {
        let start = from as usize % RING;
        let end = (start + (to - from) as usize).min(RING);
        self.bytes.get(start..end).unwrap_or_default()
    }

    /// The next bytes to be sent, which count as sent.
    fn piece(&mut self) -> Option<&[u8]> {
        let from = self.sent;
        if from == self.written {
            return None;
        }
        let most = self.written.min(from + PIECE as u64);
        self.sent += self.slice(from, most).len() as u64;
        Some(self.slice(from, self.sent))
    }

    fn push(&mut self, byte: u8) {
        if self.written - self.sent == BUFFER as u64 {
            self.flush();
        }
        if let Some(slot) = self.bytes.get_mut(self.written as usize % RING) {
            *slot = byte;
            self.written += 1;
        }
    }

    /// Appends what was written from `from` on, and returns where it ends. If the first of it is not
    /// there any more, a line says so.
    fn since(&self, from: u64, out: &mut Vec<u8>) -> u64 {
        let mut from = from.min(self.written);
        let oldest = self.written.saturating_sub(RING as u64);
        if from < oldest {
            out.extend_from_slice(b"[what was here is gone]\n");
            from = oldest;
            // Not from the middle of a line.
            while from < self.written && !self.slice(from, from + 1).ends_with(b"\n") {
                from += 1;
            }
            from = self.written.min(from + 1);
        }
        while from < self.written {
            let part = self.slice(from, self.written);
            out.extend(part.iter().filter(|byte| **byte != b'\r'));
            from += part.len() as u64;
        }
        from
    }
}

impl Write for Buffer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.push(b'\r');
            }
            self.push(byte);
        }
        Ok(())
    }
}

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true // `log` itself compares with the level set
    }

    fn log(&self, record: &log::Record<'_>) {
        let mut buffer = CONSOLE.lock();
        let _ = write_record(&mut *buffer, crate::clock::now_ns(), record);
        if record.level() <= log::Level::Warn {
            buffer.flush();
        }
    }

    fn flush(&self) {
        flush();
    }
}

/// One log line: `[   0.001234] INFO  target: message`.
fn write_record(out: &mut impl Write, now_ns: u64, record: &log::Record<'_>) -> fmt::Result {
    let micros = now_ns / 1000;
    let target = record.target();
    let target = target.strip_prefix("godwit_").unwrap_or(target);
    writeln!(
        out,
        "[{:>4}.{:06}] {:<5} {}: {}",
        micros / 1_000_000,
        micros % 1_000_000,
        record.level(),
        target,
        record.args()
    )
}

/// Sets up the serial interface and makes the console the logger.
pub fn init() {
    serial::init();
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
}

/// Sends what waits in the buffer.
pub fn flush() {
    CONSOLE.lock().flush();
}

/// Sends a piece of what waits in the buffer, or shows a piece of what has been sent, if anything is
/// to be done: `true`.
pub fn flush_piece() -> bool {
    let sent = CONSOLE.lock().piece().map(send).is_some();
    sent || screen::show_piece()
}

/// Prints a line for the host, at once. `line` has no line break.
pub fn line(line: fmt::Arguments<'_>) {
    let mut buffer = CONSOLE.lock();
    let _ = writeln!(buffer, "{line}");
    buffer.flush();
}

/// Adds a line to the buffer, to be sent when there is time.
pub fn line_later(line: fmt::Arguments<'_>) {
    let _ = writeln!(CONSOLE.lock(), "{line}");
}

/// Appends what was written from byte `from` on, as far as it is kept, and returns where it ends.
pub fn since(from: u64, out: &mut Vec<u8>) -> u64 {
    CONSOLE.lock().since(from, out)
}

/// Whether nobody is in the middle of writing.
pub fn at_rest() -> bool {
    CONSOLE.try_lock().is_some()
}

/// Prints in the middle of a disaster: takes no lock it cannot have, and buffers nothing.
pub fn emergency(line: fmt::Arguments<'_>) {
    if let Some(mut buffer) = CONSOLE.try_lock() {
        buffer.flush();
    }
    let _ = writeln!(Raw, "{line}");
}

struct Raw;

impl Write for Raw {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive('\n') {
            match part.strip_suffix('\n') {
                Some(line) => {
                    send(line.as_bytes());
                    send(b"\r\n");
                    screen::show();
                }
                None => send(part.as_bytes()),
            }
        }
        Ok(())
    }
}

/// The last line: why the image ended.
pub fn verdict(code: ExitCode, reason: &impl fmt::Display) {
    struct Reason<'a, T>(&'a T);
    impl<T: fmt::Display> fmt::Display for Reason<'_, T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(JsonString(f), "{}", self.0)
        }
    }
    emergency(format_args!(
        "GODWIT VERDICT {{\"code\":{},\"name\":\"{}\",\"reason\":\"{}\"}}",
        code as u8,
        code.name(),
        Reason(reason)
    ));
}

/// Escapes what is written to it for the inside of a JSON string.
pub struct JsonString<'a, W>(pub &'a mut W);

impl<W: Write> Write for JsonString<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '"' | '\\' => write!(self.0, "\\{c}")?,
                '\n' => self.0.write_str("\\n")?,
                c if u32::from(c) < 0x20 => write!(self.0, "\\u{:04x}", u32::from(c))?,
                c => self.0.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_has_time_level_target_and_text() {
        let mut out = String::new();
        let record = log::Record::builder()
            .level(log::Level::Info)
            .target("godwit_kernel::pci")
            .args(format_args!("two devices"))
            .build();
        write_record(&mut out, 12_001_234_567, &record).unwrap();
        assert_eq!(out, "[  12.001234] INFO  kernel::pci: two devices\n");
    }

    #[test]
    fn what_is_sent_in_pieces_is_all_that_was_written_in_order() {
        let mut buffer = Buffer::new();
        let mut sent = Vec::new();
        let first: String = (0..PIECE * 2)
            .map(|i| char::from(b'a' + (i % 26) as u8))
            .collect();
        buffer.write_str(&first).unwrap();
        sent.extend_from_slice(buffer.piece().unwrap());
        buffer.write_str("last").unwrap();
        while let Some(piece) = buffer.piece() {
            assert!(piece.len() <= PIECE);
            sent.extend_from_slice(piece);
        }
        assert_eq!(sent, [first.as_bytes(), b"last"].concat());
        buffer.write_str("again").unwrap();
        assert_eq!(buffer.piece(), Some(&b"again"[..]));
    }

    #[test]
    fn what_was_sent_is_kept_until_there_is_newer() {
        let mut buffer = Buffer::new();
        let since = |buffer: &Buffer, from| {
            let mut out = Vec::new();
            let end = buffer.since(from, &mut out);
            (end, String::from_utf8(out).unwrap())
        };
        writeln!(buffer, "one").unwrap();
        while buffer.piece().is_some() {}
        writeln!(buffer, "two").unwrap();
        let (end, text) = since(&buffer, 0);
        assert_eq!((end, &*text), (10, "one\ntwo\n"));
        writeln!(buffer, "three").unwrap();
        assert_eq!(since(&buffer, end), (17, "three\n".into()));
        assert_eq!(since(&buffer, u64::MAX), (17, String::new()));
        for number in 0..2000 {
            while buffer.piece().is_some() {}
            writeln!(buffer, "line {number:06}").unwrap();
        }
        let (_, text) = since(&buffer, end);
        let (first, rest) = text.split_once('\n').unwrap();
        assert!(first.contains("gone"));
        assert!(rest.starts_with("line ") && rest.ends_with("line 001999\n"));
        assert!(rest.len() > RING * 9 / 10 && rest.len() < RING);
    }

    #[test]
    fn a_reason_cannot_break_out_of_its_string() {
        let mut out = String::new();
        write!(JsonString(&mut out), "a \"b\"\\\n\u{1}").unwrap();
        assert_eq!(out, r#"a \"b\"\\\n\u0001"#);
    }
}
