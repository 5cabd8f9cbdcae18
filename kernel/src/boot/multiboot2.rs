//! What a Multiboot2 boot loader leaves (Multiboot2 specification 2.0, section 3.6): a list of tags.
//!
//! The header that asks for it is in `arch::x86_64::entry`. GRUB loads the image this way, from any
//! medium and with any firmware.

use core::ops::Range;

use super::handover::{Handover, HandoverError, MAX_ENTRIES, push_character};
use crate::acpi::{Fields, Physical};
use crate::console::screen::{Pixels, Screen};
use crate::mm::map::{Kind, MemoryMap};

/// What a loader that speaks Multiboot2 puts into EAX.
pub const MAGIC: u32 = 0x36d7_6289;

/// Information longer than this is nonsense: what takes room in it is the memory map.
const MAX_LENGTH: usize = 1 << 20;
const HEADER: usize = 8;

/// Types of tags.
mod tag {
    pub const END: u32 = 0;
    pub const COMMAND_LINE: u32 = 1;
    pub const MODULE: u32 = 3;
    pub const MEMORY_MAP: u32 = 6;
    pub const FRAMEBUFFER: u32 = 8;
    pub const ACPI_OLD: u32 = 14;
    pub const ACPI_NEW: u32 = 15;
}

/// The type of RAM in the memory map.
const RAM: u32 = 1;

/// One tag.
#[derive(Clone, Copy)]
struct Tag<'a> {
    kind: u32,
    /// From the start of the information.
    at: usize,
    /// The whole of it, type and size included: offsets are the specification's.
    bytes: &'a [u8],
}

impl Tag<'_> {
    fn broken(&self, problem: &'static str) -> HandoverError {
        HandoverError::Tag {
            kind: self.kind,
            at: self.at,
            problem,
        }
    }

    fn cut(&self) -> HandoverError {
        self.broken("is cut short")
    }
}

/// Reads the information at physical address `at`, left by a loader that said `magic`.
pub fn read(memory: &impl Physical, magic: u32, at: u64) -> Result<Handover, HandoverError> {
    if magic != MAGIC {
        return Err(HandoverError::NotMultiboot2(magic));
    }
    let length = memory.bytes(at, HEADER).and_then(|header| header.u32_at(0));
    let length = length.ok_or(HandoverError::Length(0))?;
    let info = usize::try_from(length)
        .ok()
        .filter(|len| (HEADER..=MAX_LENGTH).contains(len))
        .and_then(|len| memory.bytes(at, len))
        .ok_or(HandoverError::Length(length))?;
    let mut handover = Handover {
        words: Some(at..at.saturating_add(info.len() as u64)),
        ..Handover::default()
    };
    let mut mapped = false;
    let mut new_root = false;
    for_each_tag(info, |tag| {
        match tag.kind {
            tag::COMMAND_LINE => {
                handover.command_line.clear();
                let text = tag.bytes.get(HEADER..).unwrap_or_default();
                let _ = text
                    .iter()
                    .all(|&byte| push_character(&mut handover.command_line, Some(byte)));
            }
            tag::MODULE => handover.add_module(module(&tag)?),
            tag::MEMORY_MAP => {
                handover.memory = memory_map(&tag)?;
                mapped = true;
            }
            tag::FRAMEBUFFER => handover.screen = screen(&tag)?,
            tag::ACPI_NEW | tag::ACPI_OLD => {
                // A copy of the root pointer. The newer one knows more.
                if tag.kind == tag::ACPI_NEW || !new_root {
                    handover.rsdp = Some(at.saturating_add((tag.at + HEADER) as u64));
                }
                new_root |= tag.kind == tag::ACPI_NEW;
            }
            _ => {}
        }
        Ok(())
    })?;
    if !mapped {
        return Err(HandoverError::NoMemoryMap);
    }
    Ok(handover)
}

/// Calls `each` with every tag up to the last one, which has to be there.
fn for_each_tag<'a>(
    info: &'a [u8],
    mut each: impl FnMut(Tag<'a>) -> Result<(), HandoverError>,
) -> Result<(), HandoverError> {
    let mut at = HEADER;
    loop {
        let rest = info.get(at..).unwrap_or_default();
        let mut tag = Tag {
            kind: rest.u32_at(0).unwrap_or(tag::END),
            at,
            bytes: &[],
        };
        let size = rest.u32_at(4).ok_or(tag.broken("is missing"))? as usize;
        if size < HEADER {
            return Err(tag.broken("is shorter than its own header"));
        }
        tag.bytes = rest
            .get(..size)
            .ok_or(tag.broken("reaches beyond the end"))?;
        if tag.kind == tag::END {
            return Ok(());
        }
        each(tag)?;
        // Tags begin at multiples of eight; a size within the information does not wrap.
        at += size.next_multiple_of(8);
    }
}

fn module(tag: &Tag<'_>) -> Result<Range<u64>, HandoverError> {
    let (start, end) = tag
        .bytes
        .u32_at(8)
        .zip(tag.bytes.u32_at(12))
        .ok_or(tag.cut())?;
    if start > end {
        return Err(tag.broken("is a module that ends before it begins"));
    }
    Ok(u64::from(start)..u64::from(end))
}

fn memory_map(tag: &Tag<'_>) -> Result<MemoryMap, HandoverError> {
    const ENTRY: usize = 24;
    let size = tag.bytes.u32_at(8).ok_or(tag.cut())? as usize;
    let entries = tag.bytes.get(16..).ok_or(tag.cut())?;
    if size < ENTRY || !size.is_multiple_of(8) {
        return Err(tag.broken("is a memory map with entries of an impossible size"));
    }
    let entries = entries.chunks_exact(size).take(MAX_ENTRIES);
    Ok(MemoryMap::from_entries(entries.filter_map(|entry| {
        let kind = match entry.u32_at(16)? {
            RAM => Kind::Usable,
            _ => Kind::Reserved,
        };
        Some((entry.u64_at(0)?, entry.u64_at(8)?, kind))
    })))
}

/// The screen; `None` if it is one that nothing can be shown on.
fn screen(tag: &Tag<'_>) -> Result<Option<Screen>, HandoverError> {
    const PIXELS: u8 = 1;
    const TEXT: u8 = 2;
    let fields = || {
        let bytes = tag.bytes;
        let place = (bytes.u64_at(8)?, bytes.u32_at(16)?);
        let size = (bytes.u32_at(20)?, bytes.u32_at(24)?);
        Some((place, size, bytes.u8_at(28)?, bytes.u8_at(29)?))
    };
    let ((address, pitch), (width, height), bits, kind) = fields().ok_or(tag.cut())?;
    Ok(match kind {
        TEXT => Screen::text(address, pitch, width, height),
        PIXELS => {
            // Position and size of red, green and blue.
            let colours = tag.bytes.get(32..38).ok_or(tag.cut())?;
            let white = colours.chunks_exact(2).fold(0u64, |white, field| {
                let mask = (1u64 << field[1].min(16)) - 1;
                white | mask << field[0].min(32)
            });
            Screen::pixels(Pixels {
                address,
                pitch,
                width,
                height,
                bits,
                white: white as u32,
            })
        }
        _ => None,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::acpi::fake::Memory;
    use proptest::prelude::*;

    const AT: u64 = 0x1_0000;

    fn tag(kind: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend((8 + body.len() as u32).to_le_bytes());
        bytes.extend(body);
        bytes
    }

    fn info(tags: &[Vec<u8>]) -> Vec<u8> {
        let mut body = Vec::new();
        for tag in tags.iter().chain([&tag(0, &[])]) {
            body.extend(tag);
            body.resize(body.len().next_multiple_of(8), 0);
        }
        let mut bytes = (8 + body.len() as u32).to_le_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(body);
        bytes
    }

    fn map(entries: &[(u64, u64, u32)]) -> Vec<u8> {
        let mut body = 24u32.to_le_bytes().to_vec();
        body.extend([0; 4]);
        for &(start, len, kind) in entries {
            body.extend(start.to_le_bytes());
            body.extend(len.to_le_bytes());
            body.extend(kind.to_le_bytes());
            body.extend([0; 4]);
        }
        tag(tag::MEMORY_MAP, &body)
    }

    fn framebuffer(kind: u8, pitch: u32, width: u32, height: u32, bits: u8) -> Vec<u8> {
        let mut body = 0x8000_0000u64.to_le_bytes().to_vec();
        for field in [pitch, width, height] {
            body.extend(field.to_le_bytes());
        }
        body.extend([bits, kind, 0, 0, 16, 8, 8, 8, 0, 8]);
        tag(tag::FRAMEBUFFER, &body)
    }

    fn read_all(bytes: &[u8]) -> Result<Handover, HandoverError> {
        read(&Memory(vec![(AT, bytes.to_vec())]), MAGIC, AT)
    }

    fn whole() -> Vec<u8> {
        let mut module = 0x20_0000u32.to_le_bytes().to_vec();
        module.extend(0x20_0010u32.to_le_bytes());
        module.extend(b"config\0");
        info(&[
            tag(tag::COMMAND_LINE, b"id=1\tport=80\0"),
            tag(2, b"GRUB 2.06\0"),
            tag(tag::MODULE, &module),
            map(&[
                (0, 0xa_0000, 1),
                (0x10_0000, 0x100_0000, 1),
                (0x20_0000, 0x1000, 3),
            ]),
            framebuffer(1, 4096, 1024, 768, 32),
            tag(tag::ACPI_OLD, &[0; 20]),
            tag(tag::ACPI_NEW, b"RSD PTR "),
            tag(99, b"of the future"),
        ])
    }

    #[test]
    fn each_tag_is_taken_and_unknown_ones_are_passed_over() {
        let handover = read_all(&whole()).unwrap();
        assert_eq!(handover.command_line, "id=1 port=80");
        assert_eq!(handover.modules[0], 0x20_0000..0x20_0010);
        assert_eq!(handover.memory.total(), 0xa_0000 + 0x100_0000 - 0x1000);
        assert!(matches!(handover.screen, Some(Screen::Pixels(_))));
        let root = (handover.rsdp.unwrap() - AT) as usize;
        assert!(whole()[root..].starts_with(b"RSD PTR "), "the newer one");
        let len = whole().len() as u64;
        assert!(handover.keep().any(|range| range == (AT..AT + len)));
    }

    #[test]
    fn information_cut_anywhere_is_an_error_in_words() {
        let whole = whole();
        for len in 0..whole.len() {
            // The loader knows how long it is, or believes that it is all there.
            let mut cut = whole[..len].to_vec();
            assert!(read_all(&cut).is_err(), "{len}");
            if let Some(length) = cut.get_mut(..4) {
                length.copy_from_slice(&(len as u32).to_le_bytes());
                let error = read_all(&cut).unwrap_err();
                assert!(error.to_string().contains("boot loader"), "{error}");
            }
        }
    }

    #[test]
    fn a_tag_of_an_impossible_size_ends_the_list_and_is_named() {
        for size in [0u32, 7, 0x1000, u32::MAX] {
            let mut bytes = info(&[tag(77, &[0; 8]), map(&[])]);
            bytes[12..16].copy_from_slice(&size.to_le_bytes());
            let error = read_all(&bytes).unwrap_err();
            assert!(
                matches!(
                    error,
                    HandoverError::Tag {
                        kind: 77,
                        at: 8,
                        ..
                    }
                ),
                "{error}"
            );
        }
    }

    #[test]
    fn a_map_module_or_screen_that_lacks_fields_is_an_error() {
        for (kind, body) in [
            (tag::MEMORY_MAP, &[24u8, 0, 0, 0][..]),
            (tag::MEMORY_MAP, &[23, 0, 0, 0, 0, 0, 0, 0]),
            (tag::MEMORY_MAP, &[0; 8]),
            (tag::MODULE, &[0; 7]),
            (tag::MODULE, &[2, 0, 0, 0, 1, 0, 0, 0]),
            (tag::FRAMEBUFFER, &[0; 21]),
            (
                tag::FRAMEBUFFER,
                &[
                    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 1,
                ],
            ),
        ] {
            let error = read_all(&info(&[tag(kind, body), map(&[])])).unwrap_err();
            assert!(matches!(error, HandoverError::Tag { .. }), "{kind} {error}");
        }
    }

    #[test]
    fn another_loader_and_no_memory_map_are_refused() {
        let memory = Memory(vec![(AT, whole())]);
        assert_eq!(
            read(&memory, 0x2bad_b002, AT).unwrap_err(),
            HandoverError::NotMultiboot2(0x2bad_b002)
        );
        assert_eq!(
            read(&memory, MAGIC, 0x10).unwrap_err(),
            HandoverError::Length(0)
        );
        assert_eq!(
            read_all(&info(&[])).unwrap_err(),
            HandoverError::NoMemoryMap
        );
        let mut long = whole();
        long[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(
            read_all(&long).unwrap_err(),
            HandoverError::Length(u32::MAX)
        );
    }

    #[test]
    fn a_screen_that_makes_no_sense_is_none_and_no_reason_not_to_boot() {
        for (kind, pitch, width, height, bits) in [
            (0, 640, 640, 480, 8),
            (1, 100, 640, 480, 32),
            (1, 2560, 640, 0, 32),
            (1, u32::MAX, u32::MAX, u32::MAX, 32),
            (1, 2560, 640, 480, 33),
            (2, 10, 80, 25, 16),
        ] {
            let bytes = info(&[framebuffer(kind, pitch, width, height, bits), map(&[])]);
            assert!(read_all(&bytes).unwrap().screen.is_none(), "{kind} {pitch}");
        }
    }

    #[test]
    fn a_command_line_without_an_end_is_cut() {
        let bytes = info(&[tag(tag::COMMAND_LINE, &[b'x'; 10_000]), map(&[])]);
        let line = read_all(&bytes).unwrap().command_line;
        assert!(line.len() <= 4096 && line.len() > 4000);
    }

    proptest! {
        #[test]
        fn no_contents_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
        ) {
            let mut bytes = whole();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let _ = read_all(&bytes);
        }
    }
}
