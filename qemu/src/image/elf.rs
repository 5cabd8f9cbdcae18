//! Rewriting an image's ELF file: headers and segments stay, sections go, and the last segment gets
//! new contents.

use anyhow::{Context, Result, ensure};

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const LOAD: u32 = 1;
const NOTE: u32 = 4;
/// Loaders copy segments to their pages, so in the file they are as close as the code's alignment lets them.
const ALIGN: u64 = 16;

/// A program header (System V ABI, ELF-64 object file format).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
    align: u64,
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
    Ok(u16::from_le_bytes(*field.context("file too short")?))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
    Ok(u32::from_le_bytes(*field.context("file too short")?))
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64> {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
    Ok(u64::from_le_bytes(*field.context("file too short")?))
}

impl Segment {
    fn read(bytes: &[u8]) -> Result<Self> {
        Ok(Self {
            kind: u32_at(bytes, 0)?,
            flags: u32_at(bytes, 4)?,
            offset: u64_at(bytes, 8)?,
            address: u64_at(bytes, 16)?,
            file_size: u64_at(bytes, 32)?,
            memory_size: u64_at(bytes, 40)?,
            align: u64_at(bytes, 48)?,
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.kind.to_le_bytes());
        out.extend(self.flags.to_le_bytes());
        for field in [
            self.offset,
            self.address,
            self.address, // physical: images run where they are loaded
            self.file_size,
            self.memory_size,
            self.align,
        ] {
            out.extend(field.to_le_bytes());
        }
    }

    fn contains(&self, other: &Self) -> bool {
        self.offset <= other.offset
            && other.offset + other.file_size <= self.offset + self.file_size
    }
}

/// The file with its loadable segments and notes only, the last segment holding `last`.
pub fn rewrite(file: &[u8], last: &[u8]) -> Result<Vec<u8>> {
    ensure!(
        file.starts_with(b"\x7fELF\x02\x01"),
        "not a 64-bit ELF file"
    );
    let table = usize::try_from(u64_at(file, 32)?)?;
    let count = usize::from(u16_at(file, 56)?);
    let mut segments = Vec::new();
    for i in 0..count {
        let header = file.get(table + i * PROGRAM_HEADER..);
        let segment = Segment::read(header.context("file too short")?)?;
        if segment.kind == LOAD || segment.kind == NOTE {
            segments.push(segment);
        }
    }
    let top = segments
        .iter()
        .filter(|segment| segment.kind == LOAD)
        .max_by_key(|segment| segment.address)
        .copied()
        .context("nothing to load")?;

    let mut out = file.get(..HEADER).context("file too short")?.to_vec();
    put(&mut out, 32, &(HEADER as u64).to_le_bytes()); // program headers
    put(&mut out, 40, &[0; 8]); // section headers
    put(&mut out, 56, &u16::try_from(segments.len())?.to_le_bytes());
    put(&mut out, 60, &[0; 4]);
    let mut body = Vec::new();
    let start = (HEADER + segments.len() * PROGRAM_HEADER) as u64;
    let mut placed: Vec<(Segment, Segment)> = Vec::new();
    for old in &segments {
        if old.kind != LOAD {
            continue;
        }
        let mut new = *old;
        let contents = if *old == top {
            new.file_size = last.len() as u64;
            new.memory_size = new.file_size;
            last
        } else {
            let from = usize::try_from(old.offset)?;
            let to = from + usize::try_from(old.file_size)?;
            file.get(from..to).context("segment beyond the file")?
        };
        let at = start + body.len() as u64;
        let padding = (old.address % ALIGN + ALIGN - at % ALIGN) % ALIGN;
        body.resize(body.len() + usize::try_from(padding)?, 0);
        new.offset = start + body.len() as u64;
        new.align = ALIGN;
        body.extend_from_slice(contents);
        placed.push((*old, new));
    }
    for old in &segments {
        let home = placed.iter().find(|(home, _)| home.contains(old));
        let (home, moved) = home.context("a note that is not loaded")?;
        let mut new = *old;
        new.offset = old.offset - home.offset + moved.offset;
        if old.kind == LOAD {
            new = *moved;
        }
        new.write(&mut out);
    }
    out.extend(body);
    Ok(out)
}

fn put(out: &mut [u8], at: usize, field: &[u8]) {
    if let Some(place) = out.get_mut(at..at + field.len()) {
        place.copy_from_slice(field);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(kind: u32, offset: u64, address: u64, size: u64) -> Segment {
        Segment {
            kind,
            flags: 4,
            offset,
            address,
            file_size: size,
            memory_size: size,
            align: 4,
        }
    }

    fn file(segments: &[Segment], body: &[u8]) -> Vec<u8> {
        let mut out = b"\x7fELF\x02\x01\x01".to_vec();
        out.resize(HEADER, 0);
        put(&mut out, 32, &64u64.to_le_bytes());
        put(&mut out, 40, &0x9999u64.to_le_bytes());
        put(&mut out, 56, &(segments.len() as u16).to_le_bytes());
        for segment in segments {
            segment.write(&mut out);
        }
        out.resize(0x1000, 0xaa);
        out.extend(body);
        out
    }

    fn segments(file: &[u8]) -> Vec<Segment> {
        let count = usize::from(u16_at(file, 56).unwrap());
        let headers = file[HEADER..].chunks(PROGRAM_HEADER).take(count);
        headers
            .map(|header| Segment::read(header).unwrap())
            .collect()
    }

    #[test]
    fn the_note_moves_with_its_segment_and_the_last_one_is_filled() {
        let input = file(
            &[
                segment(NOTE, 0x1008, 0x10_0008, 4),
                segment(LOAD, 0x1000, 0x10_0000, 0x10),
                segment(LOAD, 0x1010, 0x20_0000, 0x10),
            ],
            b"codecodeNOTEcode0000000000000000 and debug information",
        );
        let output = rewrite(&input, b"symbols").unwrap();
        let found = segments(&output);
        let contents = |i: usize| {
            let from = found[i].offset as usize;
            &output[from..from + found[i].file_size as usize]
        };
        assert_eq!(contents(0), b"NOTE");
        assert_eq!(contents(1), b"codecodeNOTEcode");
        assert_eq!(contents(2), b"symbols");
        assert_eq!(found[2].memory_size, 7);
        assert!(
            found
                .iter()
                .all(|s| s.offset % s.align == s.address % s.align)
        );
        assert_eq!(u64_at(&output, 40).unwrap(), 0, "section headers are gone");
        assert!(!output.windows(5).any(|window| window == b"debug"));
    }

    #[test]
    fn a_file_cut_short_is_an_error() {
        let input = file(
            &[segment(LOAD, 0x1000, 0x10_0000, 0x10)],
            b"0123456789abcdef",
        );
        assert!(rewrite(&input, b"").is_ok());
        assert!(rewrite(&file(&[segment(LOAD, 0x1000, 0, 0x11)], b"0"), b"").is_ok());
        let two = [
            segment(LOAD, 0x1000, 0, 0x11),
            segment(LOAD, 0x1000, 0x1000, 1),
        ];
        assert!(rewrite(&file(&two, b"0"), b"").is_err());
        for len in 0..HEADER + PROGRAM_HEADER {
            assert!(rewrite(&input[..len], b"").is_err());
        }
    }
}
