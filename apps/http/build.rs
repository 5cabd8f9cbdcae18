//! Turns `content/` into an archive: an index as Rust source, the files' octets by
//! `include_bytes!`, each file named by its SHA-256 digest.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use sha2::{Digest, Sha256};

fn main() -> io::Result<()> {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let root = here.join("content");
    println!("cargo::rerun-if-changed=content");

    let mut files = Vec::new();
    collect(&root, &root, &mut files)?;
    files.sort();
    let mut source = String::from("&[\n");
    for (path, file) in files {
        let digest: [u8; 32] = Sha256::digest(fs::read(&file)?).into();
        writeln!(
            source,
            "    File {{ path: {path:?}, digest: Digest({digest:?}), bytes: include_bytes!({:?}) }},",
            file.display().to_string()
        )
        .expect("writing to a string");
    }
    source.push(']');
    fs::write(out.join("archive.rs"), source)
}

/// Every regular file under `folder`, with its path as it is asked for.
fn collect(root: &Path, folder: &Path, files: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(root, &path, files)?;
            continue;
        }
        let name = path.strip_prefix(root).expect("under the root");
        let name = name.to_str().ok_or(io::ErrorKind::InvalidData)?;
        files.push((format!("/{}", name.replace('\\', "/")), path));
    }
    Ok(())
}
