//! Building bootable images: a nested cargo call with the flags an image needs, then a pass over the
//! linked ELF that drops what only debuggers use and adds the table of function names the image's
//! own panic reports need.

mod call;
mod elf;
mod names;
pub mod symbols;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol, SymbolKind};
use sha2::{Digest, Sha256};

const TARGET: &str = "x86_64-unknown-linux-gnu";
const PROFILE: &str = "image";
/// The first octets of a table of function names.
const MAGIC: [u8; 8] = *b"GWSYMS\x04\0";
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
    // What debuggers want to know, for who looks at a running image.
    replace(&path.with_extension(symbols::WITH_LINES), &bytes)?;
    replace(&path, &image)?;
    Ok(path)
}

/// Writes a file that somebody else may be reading or writing at this moment.
fn replace(path: &Path, contents: &[u8]) -> Result<()> {
    static OWN: AtomicU32 = AtomicU32::new(0);
    let own = OWN.fetch_add(1, Ordering::Relaxed);
    let mut temporary = path.to_owned().into_os_string();
    temporary.push(format!(".{}.{own}", std::process::id()));
    fs::write(&temporary, contents)
        .and_then(|()| fs::rename(&temporary, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The flags an image is compiled and linked with (a static program at fixed addresses, without a C runtime).
fn rust_flags(root: &Path) -> Vec<String> {
    let script = root.join("images").join("vm").join("link.ld");
    let mut flags: Vec<String> = [
        "--cfg=godwit_image",
        // What is agreed upon here is one scalar at a time: nothing that AVX2 would make faster.
        "--cfg=curve25519_dalek_backend=\"serial\"",
        "-Awarnings", // `.ci/run` shows them
        "-Crelocation-model=static",
        "-Cforce-frame-pointers=yes",
        // A hint that something be inlined counts for less than where size does not matter.
        "-Cllvm-args=-inlinehint-threshold=100",
        "-Clink-arg=-nostartfiles",
        "-Clink-arg=-nostdlib",
        "-Clink-arg=-static",
        "-Clink-arg=-no-pie",
        "-Clink-arg=-Wl,--build-id=none",
        // Functions that turn out to be the same are there once; nobody compares their addresses.
        "-Clink-arg=-Wl,--icf=all",
        // For `call`.
        "-Clink-arg=-Wl,--emit-relocs",
    ]
    .map(String::from)
    .to_vec();
    flags.push(format!("-Clink-arg=-Wl,-T,{}", script.display()));
    // Reports name files as they are called in the workspace, whoever built the image.
    flags.push(format!("--remap-path-prefix={}=", root.display()));
    for sources in registries() {
        flags.push(format!("--remap-path-prefix={}=", sources.display()));
    }
    flags
}

/// Where cargo keeps the sources of dependencies: a directory, and in it one for each registry (for a file, the
/// last that fits counts).
fn registries() -> Vec<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(std::env::home_dir()?.join(".cargo")));
    let Some(all) = home.map(|home| home.join("registry").join("src")) else {
        return Vec::new();
    };
    let each = fs::read_dir(&all).into_iter().flatten();
    let each = each.filter_map(|entry| Some(entry.ok()?.path()));
    let mut found: Vec<PathBuf> = each.chain([all]).collect();
    // Always in the same order, as with other flags all is built anew.
    found.sort();
    found
}

/// Strips a linked image and appends its symbol table.
fn finish(linked: &[u8]) -> Result<Vec<u8>> {
    let table = symbol_table(linked)?;
    let mut linked = linked.to_vec();
    call::directly(&mut linked)?;
    elf::rewrite(&linked, &table)
}

/// What this build has in common with no other: a digest of what is loaded, but for the segment that the
/// table goes into.
fn build_id(file: &object::File<'_>) -> Result<u64> {
    let mut segments: Vec<_> = file.segments().collect();
    segments.sort_by_key(ObjectSegment::address);
    segments.pop();
    let mut digest = Sha256::new();
    for segment in segments {
        digest.update(segment.address().to_le_bytes());
        digest.update(segment.data()?);
    }
    let digest = digest.finalize();
    let first = digest.first_chunk().context("an empty digest")?;
    Ok(u64::from_le_bytes(*first))
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
    let (codes, rules) = names::shorten(functions.values().map(String::as_str));
    let mut entries = Vec::new();
    let mut before = 0;
    for (address, name) in functions.keys().zip(&codes) {
        names::put_number(&mut entries, *address - before);
        names::put_number(&mut entries, u32::try_from(name.len())?);
        entries.extend(name);
        before = *address;
    }
    names::put_number(&mut entries, text_end - before);
    names::put_number(&mut entries, 0);
    let mut table = MAGIC.to_vec();
    for number in [entries.len(), rules.len()] {
        table.extend(u32::try_from(number)?.to_le_bytes());
    }
    table.extend(build_id(&file)?.to_le_bytes());
    table.extend(entries);
    table.extend(rules.as_flattened());
    Ok(table)
}
