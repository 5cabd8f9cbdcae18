//! Makes the files of both releases: octets, and an archive as Rust source that names them.

use std::fmt::Write;
use std::path::PathBuf;
use std::{env, fs, io};

use sha2::{Digest, Sha256};

/// Octets of the large file: more than a connection has under way.
const NEWS: usize = 192 * 1024;

fn main() -> io::Result<()> {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    println!("cargo::rerun-if-changed=build.rs");
    for release in [1, 2] {
        // Sorted by path, as an archive is.
        let files = [
            ("/news.bin", news(release)),
            ("/release.txt", format!("release {release}\n").into_bytes()),
        ];
        let mut source = String::from("&[\n");
        for (path, octets) in files {
            let digest: [u8; 32] = Sha256::digest(&octets).into();
            let file = out.join(format!("{release}{}", path.replace('/', "-")));
            fs::write(&file, octets)?;
            writeln!(
                source,
                "    File {{ path: {path:?}, digest: Digest({digest:?}), bytes: include_bytes!({:?}) }},",
                file.display().to_string()
            )
            .expect("writing to a string");
        }
        source.push(']');
        fs::write(out.join(format!("release{release}.rs")), source)?;
    }
    Ok(())
}

/// Noise, another one in each release (xorshift64).
fn news(release: u64) -> Vec<u8> {
    let mut x = 0x9E37_79B9_7F4A_7C15 ^ release;
    let words = std::iter::repeat_with(|| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()
    });
    words.take(NEWS / 8).flatten().collect()
}
