//! Functions, files and lines for addresses in an image: from what the linker has left beside it.
//!
//! `http.elf` has the names of functions only, and a number that no other build has; `http.debug`, which
//! [`super::build_image`] leaves in the same directory, is what was linked, with the tables that say which line
//! an address belongs to and what was inlined there ([`addr2line`]).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use addr2line::Context as Lines;
use anyhow::{Context, Result, bail, ensure};
use gimli::{Dwarf, EndianArcSlice, LittleEndian, SectionId};
use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol, SymbolKind};

/// Extension of the file with the tables for debuggers.
pub const WITH_LINES: &str = "debug";
/// Where the number of a build is in the table of function names.
const BUILD: std::ops::Range<usize> = 16..24;

/// A place in the source, and the function it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The function, without its crate's hash.
    pub function: String,
    /// File and line, where they are known.
    pub place: Option<String>,
}

/// The symbols of one build of an image.
pub struct Symbols {
    build: u64,
    lines: Lines<EndianArcSlice<LittleEndian>>,
    /// Functions by where they begin.
    functions: BTreeMap<u64, String>,
}

/// The number of the build that an image's file is of.
pub fn build_of(image: &Path) -> Result<u64> {
    let bytes = read(image)?;
    let file = parse(image, &bytes)?;
    number(&file).with_context(|| format!("{} is no image of ours", image.display()))
}

/// The number in an image's table of names; that is at the start of its last segment.
fn number(file: &object::File<'_>) -> Option<u64> {
    let last = file.segments().max_by_key(ObjectSegment::address)?;
    let table = last.data().ok()?;
    let number = table.starts_with(&super::MAGIC).then(|| table.get(BUILD))?;
    Some(u64::from_le_bytes(number?.try_into().ok()?))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<object::File<'a>> {
    object::File::parse(bytes).with_context(|| format!("{} is no ELF file", path.display()))
}

impl Symbols {
    /// Reads those of an image: of the file beside it, which has to be of the same build.
    pub fn of(image: &Path) -> Result<Self> {
        let beside = image.with_extension(WITH_LINES);
        ensure!(
            beside.exists(),
            "{} is missing: `cargo godwit build` leaves it beside the image",
            beside.display()
        );
        let bytes = read(&beside)?;
        let file = parse(&beside, &bytes)?;
        let build = super::build_id(&file)?;
        if image != beside && image.exists() && build_of(image)? != build {
            bail!(
                "{} and {} are of different builds",
                image.display(),
                beside.display()
            );
        }
        let load = |id: SectionId| -> Result<EndianArcSlice<LittleEndian>> {
            let section = file.section_by_name(id.name());
            let data = section.map(|section| section.data()).transpose()?;
            Ok(EndianArcSlice::new(
                data.unwrap_or_default().into(),
                LittleEndian,
            ))
        };
        let lines = Lines::from_dwarf(Dwarf::load(load)?)?;
        let functions = file.symbols().filter_map(|symbol| {
            let name = symbol.name().ok().filter(|name| !name.is_empty())?;
            let is_function = symbol.kind() == SymbolKind::Text;
            is_function.then(|| (symbol.address(), demangled(name)))
        });
        Ok(Self {
            build,
            lines,
            functions: functions.collect(),
        })
    }

    /// The number of the build.
    pub fn build(&self) -> u64 {
        self.build
    }

    /// What is at an address: the innermost inlined function first, last the one it was inlined into.
    pub fn frames(&self, address: u64) -> Vec<Frame> {
        let mut found = Vec::new();
        if let Ok(mut frames) = self.lines.find_frames(address).skip_all_loads() {
            while let Ok(Some(frame)) = frames.next() {
                let name = frame.function.as_ref();
                let name = name.and_then(|name| name.raw_name().ok());
                let place = frame.location.and_then(|at| {
                    let line = at.line.map_or_else(String::new, |line| format!(":{line}"));
                    Some(format!("{}{line}", short(at.file?)))
                });
                found.push(Frame {
                    function: name.map_or_else(String::new, |name| demangled(&name)),
                    place,
                });
            }
        }
        if found.is_empty() {
            found.push(Frame {
                function: String::new(),
                place: None,
            });
        }
        // The linker's name is the whole one, and the only one of what is written in assembly.
        let outer = self.functions.range(..=address).next_back();
        if let (Some((_, name)), Some(last)) = (outer, found.last_mut()) {
            last.function.clone_from(name);
        }
        found
    }
}

/// A function's name as it is written in Rust.
fn demangled(name: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(name))
}

/// A file as it is called in the workspace, in a crate or in the standard library.
fn short(file: &str) -> &str {
    let behind = |mark| file.find(mark).map(|at| &file[at + 1..]);
    behind("/library/").unwrap_or(file).trim_start_matches("./")
}

/// Adds to lines of a report what is known about the addresses in them.
pub struct Annotator {
    image: PathBuf,
    symbols: Option<Symbols>,
}

impl Annotator {
    /// For reports of an image, whose symbols are read when they are first of use.
    pub fn new(image: &Path) -> Self {
        Self {
            image: image.to_owned(),
            symbols: None,
        }
    }

    /// The lines to show below a line: where an entry of a backtrace is in the source; or, below the number of
    /// the build, why that is not known.
    pub fn below(&mut self, line: &str) -> Vec<String> {
        let line = line.trim_end();
        if let Some(build) = build_line(line) {
            let symbols = Symbols::of(&self.image).and_then(|symbols| {
                let ours = symbols.build();
                let image = self.image.display();
                ensure!(
                    build == ours,
                    "the report is of build {build:016x}, {image} of {ours:016x}"
                );
                Ok(symbols)
            });
            return match symbols {
                Ok(symbols) => {
                    self.symbols = Some(symbols);
                    Vec::new()
                }
                Err(error) => vec![format!("  (no lines: {error:#})")],
            };
        }
        let (Some(symbols), Some(address)) = (&self.symbols, entry(line)) else {
            return Vec::new();
        };
        let at = |(n, frame): (usize, Frame)| {
            let place = frame.place?;
            let name = if n == 0 {
                String::new()
            } else {
                format!(" in {}", frame.function)
            };
            Some(format!("        at {place}{name}"))
        };
        let frames = symbols.frames(address).into_iter().enumerate();
        frames.filter_map(at).collect()
    }
}

/// The number in the line `  build 0123456789abcdef`.
fn build_line(line: &str) -> Option<u64> {
    let digits = line.strip_prefix("  build ")?;
    let number = u64::from_str_radix(digits, 16).ok();
    number.filter(|_| digits.len() == 16)
}

/// The address in a line of a backtrace, `   3: 0x00104efb name+0x1f`.
fn entry(line: &str) -> Option<u64> {
    let (depth, rest) = line.trim_start().split_once(": 0x")?;
    depth.parse::<u8>().ok()?;
    u64::from_str_radix(rest.split(' ').next()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_a_backtrace_are_told_from_other_lines() {
        assert_eq!(entry("   3: 0x00104efb core::fmt+0x1f"), Some(0x10_4efb));
        assert_eq!(entry("  12: 0x00104efb"), Some(0x10_4efb));
        for other in [
            "",
            "page fault at 0x00104efb f+0x1",
            "x: 0x12 f",
            "  3: 0xzz f",
            "1: 2",
        ] {
            assert_eq!(entry(other), None, "{other}");
        }
        assert_eq!(build_line("  build 00000000000000ab"), Some(0xab));
        assert_eq!(build_line("  build ab"), None);
    }

    #[test]
    fn without_the_tables_a_report_says_what_is_missing() {
        let mut annotator = Annotator::new(Path::new("/no/such/http.elf"));
        let below = annotator.below("  build 00000000000000ab");
        assert!(
            below[0].contains("/no/such/http.debug is missing"),
            "{below:?}"
        );
        assert!(annotator.below("   0: 0x00104efb f+0x1").is_empty());
    }

    #[test]
    fn a_program_has_its_functions_files_and_lines() {
        // This very test program has the tables, though it is no image.
        let own = std::env::current_exe().unwrap();
        let bytes = read(&own).unwrap();
        let file = parse(&own, &bytes).unwrap();
        assert_eq!(number(&file), None);
        assert!(build_of(&own).is_err());
        assert!(super::super::build_id(&file).is_ok());
    }
}
