//! Frames of an instance (`GET /pcap`) as a pcapng file (draft-ietf-opsawg-pcapng): nanoseconds,
//! directions, and at the end how many frames were dropped.

use std::io::{self, Read, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};

/// Octets of a record without those of its frame.
const RECORD: usize = 16;
/// Added to `captured` of a frame that the instance sent.
const SENT: u32 = 1 << 31;
const ETHERNET: u16 = 1;

/// What came of a capture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    /// Frames in the file.
    pub frames: u64,
    /// Frames that the instance had no room for; `None`: the answer ended too early to say.
    pub dropped: Option<u64>,
}

/// Writes what comes from an instance, frame by frame.
pub fn write(mut from: impl Read, mut to: impl Write) -> Result<Captured> {
    let (begun, snap) = first_line(&mut from)?;
    // The instance's clock began with it: the time it says is now.
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let offset = u64::try_from(now.as_nanos())?.saturating_sub(begun);
    to.write_all(&head(snap))?;
    to.flush()?;
    let mut captured = Captured::default();
    let mut waiting = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    while captured.dropped.is_none() {
        match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => waiting.extend_from_slice(&chunk[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("the instance says no more"),
        }
        let mut rest = &waiting[..];
        while let Some((record, more)) = Record::parse(rest, snap)? {
            rest = more;
            if record.length == 0 {
                captured.dropped = Some(record.time);
                let at = SystemTime::now().duration_since(UNIX_EPOCH)?;
                to.write_all(&statistics(u64::try_from(at.as_nanos())?, record.time))?;
                break;
            }
            captured.frames += 1;
            to.write_all(&packet(&record, offset))?;
        }
        let done = waiting.len() - rest.len();
        waiting.drain(..done);
        to.flush()?;
    }
    Ok(captured)
}

/// `godwit-pcap 1 NOW SNAP`
fn first_line(from: &mut impl Read) -> Result<(u64, u32)> {
    let mut line = Vec::new();
    let mut octet = [0];
    while line.len() < 100 && from.read(&mut octet)? == 1 && octet != [b'\n'] {
        line.extend(octet);
    }
    let line = String::from_utf8_lossy(&line);
    let words: Vec<&str> = line.split(' ').collect();
    let ["godwit-pcap", "1", now, snap] = words[..] else {
        bail!("the instance's capture is not understood");
    };
    Ok((now.parse()?, snap.parse()?))
}

struct Record<'a> {
    time: u64,
    sent: bool,
    length: u32,
    octets: &'a [u8],
}

impl<'a> Record<'a> {
    /// The first record and what follows it, if there is all of it.
    fn parse(bytes: &'a [u8], snap: u32) -> Result<Option<(Self, &'a [u8])>> {
        let Some((header, rest)) = bytes.split_first_chunk::<RECORD>() else {
            return Ok(None);
        };
        let word = |at: usize| {
            let word = header[at..].first_chunk().copied();
            u32::from_le_bytes(word.unwrap_or_default())
        };
        let (captured, length) = (word(8) & !SENT, word(12));
        let fits = captured <= snap && captured <= length;
        ensure!(fits, "a record of {captured} octets of {length}");
        let Some((octets, rest)) = rest.split_at_checked(captured as usize) else {
            return Ok(None);
        };
        let record = Record {
            time: u64::from(word(4)) << 32 | u64::from(word(0)),
            sent: word(8) & SENT != 0,
            length,
            octets,
        };
        Ok(Some((record, rest)))
    }
}

/// A block: its type, its length before and behind its contents, padded to words.
fn block(kind: u32, mut body: Vec<u8>) -> Vec<u8> {
    body.resize(body.len().next_multiple_of(4), 0);
    let length = (body.len() as u32 + 12).to_le_bytes();
    [&kind.to_le_bytes()[..], &length, &body, &length].concat()
}

fn option(code: u16, value: &[u8]) -> Vec<u8> {
    let mut option = [code.to_le_bytes(), (value.len() as u16).to_le_bytes()].concat();
    option.extend(value);
    option.resize(option.len().next_multiple_of(4), 0);
    option
}

/// Section header and description of the interface.
fn head(snap: u32) -> Vec<u8> {
    let mut section = 0x1a2b_3c4d_u32.to_le_bytes().to_vec();
    section.extend([1, 0, 0, 0]); // version
    section.extend([0xff; 8]); // of any length
    let mut interface = u32::from(ETHERNET).to_le_bytes().to_vec();
    interface.extend(snap.to_le_bytes());
    interface.extend(option(2, b"net0"));
    interface.extend(option(9, &[9])); // times in nanoseconds
    interface.extend(option(0, &[]));
    [block(0x0a0d_0d0a, section), block(1, interface)].concat()
}

fn time(nanos: u64) -> [u8; 8] {
    let (high, low) = ((nanos >> 32) as u32, nanos as u32);
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&high.to_le_bytes());
    bytes[4..].copy_from_slice(&low.to_le_bytes());
    bytes
}

/// An enhanced packet block.
fn packet(record: &Record<'_>, offset: u64) -> Vec<u8> {
    let mut body = vec![0; 4]; // the interface
    body.extend(time(record.time.saturating_add(offset)));
    body.extend((record.octets.len() as u32).to_le_bytes());
    body.extend(record.length.to_le_bytes());
    body.extend(record.octets);
    body.resize(body.len().next_multiple_of(4), 0);
    let direction: u32 = if record.sent { 2 } else { 1 };
    body.extend(option(2, &direction.to_le_bytes()));
    body.extend(option(0, &[]));
    block(6, body)
}

/// An interface statistics block.
fn statistics(now: u64, dropped: u64) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(time(now));
    body.extend(option(5, &dropped.to_le_bytes()));
    body.extend(option(0, &[]));
    block(5, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(time: u64, captured: u32, length: u32, octets: &[u8]) -> Vec<u8> {
        let mut bytes = time.to_le_bytes().to_vec();
        bytes.extend(captured.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        bytes.extend(octets);
        bytes
    }

    /// The blocks of a file: type and contents.
    fn blocks(mut file: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let mut found = Vec::new();
        while !file.is_empty() {
            let word = |at: usize| u32::from_le_bytes(*file[at..].first_chunk().unwrap());
            let length = word(4) as usize;
            assert_eq!(length % 4, 0);
            assert_eq!(word(length - 4) as usize, length, "the length, again");
            found.push((word(0), file[8..length - 4].to_vec()));
            file = &file[length..];
        }
        found
    }

    /// Gives out so many octets at a time.
    struct Slowly<'a>(&'a [u8], usize);

    impl Read for Slowly<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(self.0.len()).min(into.len());
            into[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    #[test]
    fn each_record_is_a_block_and_the_last_one_says_what_was_dropped() {
        let mut answer = b"godwit-pcap 1 5000 60\n".to_vec();
        answer.extend(record(6000, 3, 3, b"abc"));
        answer.extend(record(7000, 4 | SENT, 99, b"wxyz"));
        answer.extend(record(12, 0, 0, b""));
        for pace in [1, 7, 1000] {
            let mut file = Vec::new();
            let captured = write(Slowly(&answer, pace), &mut file).unwrap();
            assert_eq!((captured.frames, captured.dropped), (2, Some(12)));
            let blocks = blocks(&file);
            let kinds: Vec<u32> = blocks.iter().map(|(kind, _)| *kind).collect();
            assert_eq!(kinds, [0x0a0d_0d0a, 1, 6, 6, 5]);
            assert_eq!(blocks[2].1[12..24], *b"\x03\0\0\0\x03\0\0\0abc\0");
            assert_eq!(blocks[2].1[24..32], [2, 0, 4, 0, 1, 0, 0, 0], "inbound");
            assert_eq!(blocks[3].1[16], 99);
            assert!(
                blocks[4]
                    .1
                    .windows(8)
                    .any(|eight| eight == 12u64.to_le_bytes())
            );
        }
    }

    #[test]
    fn what_no_instance_says_is_refused_and_what_ends_early_is_kept() {
        let said = |body: &[u8]| {
            let answer = [b"godwit-pcap 1 5000 60\n", body].concat();
            write(&answer[..], &mut Vec::new())
        };
        assert!(said(&record(0, 61, 61, &[0; 61])).is_err());
        assert!(said(&record(0, 5, 4, &[0; 5])).is_err());
        let cut = said(&[record(0, 2, 2, b"ab"), record(0, 2, 2, b"a")].concat()).unwrap();
        assert_eq!((cut.frames, cut.dropped), (1, None));
        assert!(write(&b"HTTP nonsense"[..], &mut Vec::new()).is_err());
    }
}
