//! What a boot loader hands over, whichever it is: read once, at the border, into a [`Handover`].
//!
//! [`super::pvh`] and [`super::multiboot2`] fill it in. A loader is a stranger: what makes no sense
//! is a [`HandoverError`] in words, or missing here; it never leads the kernel astray.

use alloc::string::String;
use core::fmt;
use core::ops::Range;

use crate::acpi::Physical;
use crate::console::screen::Screen;
use crate::mm::map::MemoryMap;

/// Bytes of a command line at most.
pub const MAX_COMMAND_LINE: usize = 4096;
/// Boot modules at most.
pub const MAX_MODULES: usize = 4;
/// A boot module that is larger is not configuration.
pub const MAX_MODULE: u64 = 64 << 10;
/// Entries of a memory map that are looked at.
pub const MAX_ENTRIES: usize = 1024;

/// What the loader says.
#[derive(Clone, Debug, Default)]
pub struct Handover {
    /// RAM, minus what the loader calls reserved.
    pub memory: MemoryMap,
    /// The kernel command line, cut to 4095 bytes.
    pub command_line: heapless::String<MAX_COMMAND_LINE>,
    /// Where ACPI's root pointer is.
    pub rsdp: Option<u64>,
    /// Where the boot modules are: configuration.
    pub modules: heapless::Vec<Range<u64>, MAX_MODULES>,
    /// The screen, in the state it is in.
    pub screen: Option<Screen>,
    /// Where the loader's own words are; the root pointer may be among them.
    pub words: Option<Range<u64>>,
}

/// Why a machine cannot be booted with what the loader says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandoverError {
    /// No PVH start info of version 1 or later.
    NotPvh,
    /// Entered as by Multiboot2, with another number than Multiboot2's.
    NotMultiboot2(u32),
    /// Multiboot2's information is outside of memory, or so long that it cannot be meant.
    Length(u32),
    /// A tag of Multiboot2's information, named by its type and place, is not what it has to be.
    Tag {
        /// Its type.
        kind: u32,
        /// Where it begins, in bytes from the start of the information.
        at: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Nobody says where there is memory.
    NoMemoryMap,
}

impl fmt::Display for HandoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPvh => f.write_str("not started by a PVH boot loader"),
            Self::NotMultiboot2(magic) => {
                write!(
                    f,
                    "the boot loader says {magic:#x}, which is not Multiboot2"
                )
            }
            Self::Length(length) => write!(
                f,
                "the boot loader's information is {length} bytes long or not there"
            ),
            Self::Tag { kind, at, problem } => write!(
                f,
                "the boot loader's information is broken: tag {kind} at byte {at} {problem}"
            ),
            Self::NoMemoryMap => f.write_str("the boot loader gives no memory map"),
        }
    }
}

impl core::error::Error for HandoverError {}

impl Handover {
    /// Adds a boot module; what cannot be configuration is left out with a warning.
    pub(super) fn add_module(&mut self, range: Range<u64>) {
        let len = range.end.saturating_sub(range.start);
        if len == 0 {
            return;
        }
        if len > MAX_MODULE {
            log::warn!("a boot module of {len} bytes is no configuration: ignored");
        } else if self.modules.push(range).is_err() {
            log::warn!("more than {MAX_MODULES} boot modules: the rest is ignored");
        }
    }

    /// Ranges of RAM that must not be used for anything else as long as boot lasts.
    pub fn keep(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.modules.iter().cloned().chain(self.words.clone())
    }

    /// The texts in the boot modules, one after the other. Needs a heap.
    pub fn module_text(&self, memory: &impl Physical) -> Option<String> {
        // Keys may be in it: a string that grows leaves copies behind.
        let lengths = self.modules.iter().map(|range| range.end - range.start + 1);
        let mut all = String::with_capacity(lengths.sum::<u64>() as usize);
        for range in &self.modules {
            let bytes = memory.bytes(range.start, (range.end - range.start) as usize);
            match bytes.map(core::str::from_utf8) {
                Some(Ok(text)) => {
                    all.push_str(text);
                    all.push('\n');
                }
                _ => log::warn!("the boot module at {:#x} is not text: ignored", range.start),
            }
        }
        (!all.is_empty()).then_some(all)
    }
}

/// Adds a character of a command line; `false` at its end.
pub(super) fn push_character(
    line: &mut heapless::String<MAX_COMMAND_LINE>,
    byte: Option<u8>,
) -> bool {
    match byte {
        None | Some(0) => return false,
        Some(byte @ 0x20..0x7f) => drop(line.push(char::from(byte))),
        Some(_) => drop(line.push(' ')),
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acpi::fake::Memory;

    #[test]
    fn modules_are_joined_and_what_is_not_text_is_left_out() {
        let memory = Memory(vec![
            (0x1000, b"id=1".to_vec()),
            (0x2000, vec![0xff; 4]),
            (0x3000, b"ip=dhcp\n".to_vec()),
        ]);
        let mut handover = Handover::default();
        for range in [
            0x1000..0x1004,
            0x2000..0x2004,
            0x9000..0x9004,
            0x3000..0x3008,
        ] {
            handover.add_module(range);
        }
        assert_eq!(
            handover.module_text(&memory).as_deref(),
            Some("id=1\nip=dhcp\n\n")
        );
    }

    #[test]
    fn a_module_that_is_empty_or_large_or_one_too_many_is_left_out() {
        let mut handover = Handover::default();
        handover.add_module(5..5);
        handover.add_module(0..MAX_MODULE + 1);
        let (start, end) = (9, 1);
        handover.add_module(start..end);
        assert!(handover.modules.is_empty());
        for i in 0..10 {
            handover.add_module(i * 10..i * 10 + 1);
        }
        assert_eq!(handover.modules.len(), MAX_MODULES);
    }
}
