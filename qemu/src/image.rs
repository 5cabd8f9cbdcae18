//! Building bootable images: a nested cargo call with the flags an image needs, then a pass over the
//! linked ELF that drops what only debuggers use and adds the table of function names the image's
//! own panic reports need.

mod elf;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};

const TARGET: &str = "x86_64-unknown-linux-gnu";
const PROFILE: &str = "image";
/// No image is larger than this, without what is large among its files.
const MAX_IMAGE: usize = 3 << 19;

/// Builds the image of a service (a binary of `images/vm`) and returns its path. What cargo has to
/// say goes to standard error.
pub fn build_image(service: &str) -> Result<PathBuf> {
    build_image_with(service, 0)
}

/// The same for an image with so many bytes of large files in it.
pub fn build_image_with(service: &str, files: usize) -> Result<PathBuf> {
    let limit = MAX_IMAGE + files;
    let root = crate::build::workspace()?;
    let target_dir = root.join("target").join("images");
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(&root)
        .args(["build", "--quiet", "--package", "godwit-image"])
        .args(["--profile", PROFILE, "--target", TARGET, "--bin", service])
        .arg("--target-dir")
        .arg(&target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", rust_flags(&root).join("\x1f"))
        // The flags of whoever runs us are not for the image.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET")
        .env_remove("CARGO_PROFILE_IMAGE_DEBUG")
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "building the {service} image failed");

    let linked = target_dir.join(TARGET).join(PROFILE).join(service);
    let bytes = fs::read(&linked).with_context(|| format!("cannot read {}", linked.display()))?;
    let image = finish(&bytes).with_context(|| format!("cannot finish {}", linked.display()))?;
    if image.len() > limit {
        bail!(
            "the {service} image is {} bytes long, the limit is {limit}",
            image.len()
        );
    }
    let path = target_dir.join(format!("{service}.elf"));
    // Somebody else may be reading or building it at this moment.
    let temporary = target_dir.join(format!("{service}.elf.{}", std::process::id()));
    fs::write(&temporary, &image)
        .and_then(|()| fs::rename(&temporary, &path))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// The flags an image is compiled and linked with (a static program at fixed addresses, without a C runtime).
fn rust_flags(root: &Path) -> Vec<String> {
    let script = root.join("images").join("vm").join("link.ld");
    let mut flags: Vec<String> = [
        "--cfg=godwit_image",
        "-Awarnings", // `.ci/run` shows them
        "-Crelocation-model=static",
        "-Cforce-frame-pointers=yes",
        "-Clink-arg=-nostartfiles",
        "-Clink-arg=-nostdlib",
        "-Clink-arg=-static",
        "-Clink-arg=-no-pie",
        "-Clink-arg=-Wl,--build-id=none",
    ]
    .map(String::from)
    .to_vec();
    flags.push(format!("-Clink-arg=-Wl,-T,{}", script.display()));
    // Reports name files as they are called in the workspace, whoever built the image.
    flags.push(format!("--remap-path-prefix={}=", root.display()));
    flags
}

/// Strips a linked image and appends its symbol table.
fn finish(linked: &[u8]) -> Result<Vec<u8>> {
    let table = symbol_table(linked)?;
    elf::rewrite(linked, &table)
}

/// The table of `kernel/src/symbols.rs`, which has its layout.
fn symbol_table(linked: &[u8]) -> Result<Vec<u8>> {
    let file = object::File::parse(linked)?;
    let text = file
        .section_by_name(".text")
        .context("an image without code")?;
    let text_end = u32::try_from(text.address() + text.size())?;
    let mut functions = BTreeMap::new();
    for symbol in file.symbols() {
        let inside = symbol.section_index() == Some(text.index());
        if inside && symbol.kind() == SymbolKind::Text {
            let name = symbol.name().unwrap_or_default();
            let name = format!("{:#}", rustc_demangle::demangle(name));
            functions.insert(u32::try_from(symbol.address())?, name);
        }
    }
    let (codes, words) = spell(functions.values().map(String::as_str));
    let mut table = b"GWSYMS\x02\0".to_vec();
    let names: usize = codes.iter().map(Vec::len).sum();
    for number in [functions.len(), names, words.len()] {
        table.extend(u32::try_from(number)?.to_le_bytes());
    }
    let mut at = 0u32;
    for (address, name) in functions.keys().zip(&codes) {
        table.extend(address.to_le_bytes());
        table.extend(at.to_le_bytes());
        at += u32::try_from(name.len())?;
    }
    table.extend(text_end.to_le_bytes());
    table.extend(at.to_le_bytes());
    table.extend(codes.concat());
    table.extend(words);
    Ok(table)
}

/// Names made of words, the most frequent ones first: the codes of each name, and the words.
fn spell<'a>(names: impl Iterator<Item = &'a str> + Clone) -> (Vec<Vec<u8>>, Vec<u8>) {
    const SHORT: usize = 128;
    const MOST: usize = SHORT + (SHORT << 8);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    names
        .clone()
        .flat_map(words_of)
        .for_each(|word| *counts.entry(word).or_default() += 1);
    let mut words: Vec<(&str, usize)> = counts.into_iter().collect();
    words.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    words.truncate(MOST);
    let numbers: BTreeMap<&str, usize> = words.iter().map(|(word, _)| *word).zip(0..).collect();
    let code = |word: &str| match numbers.get(word).copied() {
        None => vec![u8::MAX, u8::MAX],
        Some(number) if number < SHORT => vec![number as u8],
        Some(number) => {
            let [high, low] = ((number - SHORT) as u16).to_be_bytes();
            vec![SHORT as u8 + high, low]
        }
    };
    let codes = names.map(|name| words_of(name).flat_map(code).collect());
    let each = |(word, _): &(&str, usize)| [&[word.len() as u8], word.as_bytes()].concat();
    (codes.collect(), words.iter().flat_map(each).collect())
}

/// A name in pieces of at most 255 bytes: identifiers, with the colons behind them, and what is
/// between.
fn words_of(name: &str) -> impl Iterator<Item = &str> {
    let mut rest = name;
    std::iter::from_fn(move || {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let first = rest.chars().next()?;
        let end = rest.find(|c| is_word(c) != is_word(first));
        let mut end = end.unwrap_or(rest.len());
        if is_word(first) && rest.get(end..).is_some_and(|more| more.starts_with("::")) {
            end += 2;
        }
        while end > 255 || !rest.is_char_boundary(end) {
            end -= 1;
        }
        let (word, more) = rest.split_at(end);
        rest = more;
        Some(word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_put_together_again_from_their_words() {
        let long = "x".repeat(1000);
        let names = [
            "<a::b<T> as c::D>::run",
            "a::b::run",
            "",
            "ünï::cödé",
            &long,
        ];
        let many: Vec<String> = (0..1000).map(|n| format!("a::f{n}")).collect();
        let names = names.into_iter().chain(many.iter().map(String::as_str));
        let (codes, words) = spell(names.clone());
        let mut list = Vec::new();
        let mut rest = &words[..];
        while let Some((len, more)) = rest.split_first() {
            let (word, more) = more.split_at(usize::from(*len));
            list.push(std::str::from_utf8(word).unwrap());
            rest = more;
        }
        for (name, codes) in names.zip(codes) {
            let mut spelt = String::new();
            let mut codes = codes.into_iter().map(usize::from);
            while let Some(code) = codes.next() {
                spelt += match code {
                    0..128 => list[code],
                    _ => list[128 + (code - 128) * 256 + codes.next().unwrap()],
                };
            }
            assert_eq!(spelt, name);
        }
        assert_eq!(
            words_of("<a::b<T>>::run").collect::<Vec<_>>(),
            ["<", "a::", "b", "<", "T", ">>::", "run"]
        );
    }
}
