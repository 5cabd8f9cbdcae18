//! Writes what crosses a port to a capture file (classic pcap, nanoseconds, Ethernet).
//!
//! A thread of its own writes the file, so that a slow disk does not disturb the frames.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use super::{Direction, Observer};

const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
const LINKTYPE_ETHERNET: u32 = 1;
const CHUNK: usize = 1 << 20;

/// A capture file; several observers may write to it, one after the other.
pub struct Capture {
    chunks: SyncSender<Vec<u8>>,
    writer: Option<JoinHandle<Result<()>>>,
    origin: (Instant, Duration),
}

impl Capture {
    /// Creates the file.
    pub fn create(path: &Path) -> Result<Self> {
        let mut file =
            File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        file.write_all(&header())?;
        let (chunks, queue): (_, Receiver<Vec<u8>>) = sync_channel(64);
        let writer = thread::Builder::new().name("pcap".into()).spawn(move || {
            for chunk in queue {
                file.write_all(&chunk).context("cannot write the capture")?;
            }
            Ok(())
        })?;
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Ok(Self {
            chunks,
            writer: Some(writer),
            origin: (Instant::now(), wall),
        })
    }

    /// Something to watch a port with. Frames are in the file once the observer is dropped.
    pub fn observer(&self) -> Box<dyn Observer> {
        Box::new(Recorder {
            buffer: Vec::with_capacity(CHUNK + CHUNK / 8),
            chunks: self.chunks.clone(),
            origin: self.origin,
        })
    }

    /// Waits for the file to be complete. All observers must be gone.
    pub fn finish(mut self) -> Result<()> {
        let writer = self.writer.take();
        drop(self);
        match writer {
            Some(writer) => writer
                .join()
                .ok()
                .context("the capture's thread panicked")?,
            None => Ok(()),
        }
    }
}

fn header() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(24);
    bytes.extend(MAGIC_NANOSECONDS.to_le_bytes());
    bytes.extend(2u16.to_le_bytes());
    bytes.extend(4u16.to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend((super::MAX_FRAME as u32).to_le_bytes());
    bytes.extend(LINKTYPE_ETHERNET.to_le_bytes());
    bytes
}

struct Recorder {
    buffer: Vec<u8>,
    chunks: SyncSender<Vec<u8>>,
    origin: (Instant, Duration),
}

impl Observer for Recorder {
    fn frame(&mut self, at: Instant, _direction: Direction, frame: &[u8]) {
        let wall = self.origin.1 + at.saturating_duration_since(self.origin.0);
        let len = (frame.len() as u32).to_le_bytes();
        self.buffer.extend((wall.as_secs() as u32).to_le_bytes());
        self.buffer.extend(wall.subsec_nanos().to_le_bytes());
        self.buffer.extend(len);
        self.buffer.extend(len);
        self.buffer.extend_from_slice(frame);
        if self.buffer.len() >= CHUNK {
            let next = Vec::with_capacity(self.buffer.capacity());
            let _ = self.chunks.send(std::mem::replace(&mut self.buffer, next));
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = self.chunks.send(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_holds_header_and_frames() {
        let path = std::env::temp_dir().join(format!("godwit-pcap-{}.pcap", std::process::id()));
        let capture = Capture::create(&path).unwrap();
        let mut observer = capture.observer();
        observer.frame(Instant::now(), Direction::ToPort, &[0xaa; 60]);
        drop(observer);
        capture.finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(bytes.len(), 24 + 16 + 60);
        assert_eq!(bytes[..4], [0x4d, 0x3c, 0xb2, 0xa1]);
        assert_eq!(bytes[24 + 8..24 + 16], [60, 0, 0, 0, 60, 0, 0, 0]);
        assert!(bytes[40..].iter().all(|b| *b == 0xaa));
    }
}
