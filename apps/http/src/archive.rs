//! The files carried in the image.

use core::fmt;

use serde::{Deserialize, Serialize};

/// SHA-256 of a file: its name in a session's state. Two images may hold different files under
/// one path; a download never goes on in another file.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// It in hexadecimal digits.
    pub fn hex(&self) -> [u8; 64] {
        let digit = |value: u8| {
            if value < 10 {
                b'0' + value
            } else {
                b'a' + value - 10
            }
        };
        let mut text = [0; 64];
        for (pair, octet) in text.chunks_exact_mut(2).zip(&self.0) {
            pair.copy_from_slice(&[digit(octet >> 4), digit(octet & 15)]);
        }
        text
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.hex()).unwrap_or_default())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One file of an archive.
#[derive(Debug)]
pub struct File {
    /// The path it is asked for by.
    pub path: &'static str,
    /// Its digest.
    pub digest: Digest,
    /// What is in it.
    pub bytes: &'static [u8],
}

/// Files, sorted by path.
pub type Archive = &'static [File];

/// What `content/` held when the image was built.
pub static CONTENT: Archive = include!(concat!(env!("OUT_DIR"), "/archive.rs"));

/// The file a path asks for; a folder means its `index.html`.
pub fn by_path(archive: Archive, path: &str) -> Option<&'static File> {
    let find = |path: &str| {
        let index = archive.binary_search_by(|file| file.path.cmp(path)).ok()?;
        archive.get(index)
    };
    match path.strip_suffix('/') {
        Some(folder) => find(&alloc::format!("{folder}/index.html")),
        None => find(path),
    }
}

/// The file with this digest.
pub fn by_digest(archive: Archive, digest: &Digest) -> Option<&'static File> {
    archive.iter().find(|file| file.digest == *digest)
}

/// The media type of a path, by its ending.
pub fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map_or("", |(_, ending)| ending) {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "txt" => "text/plain; charset=utf-8",
        "json" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "wasm" => "application/wasm",
        "pdf" => "application/pdf",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest as _, Sha256};

    #[test]
    fn digests_are_of_the_octets_carried() {
        assert!(!CONTENT.is_empty());
        for file in CONTENT {
            let digest: [u8; 32] = Sha256::digest(file.bytes).into();
            assert_eq!(file.digest, Digest(digest), "{}", file.path);
            assert!(core::ptr::eq(by_path(CONTENT, file.path).unwrap(), file));
            assert!(by_digest(CONTENT, &file.digest).is_some());
        }
    }

    #[test]
    fn digests_are_written_in_hex() {
        let mut digest = Digest([0; 32]);
        digest.0[0] = 0x0a;
        digest.0[31] = 0xf9;
        assert_eq!(
            std::format!("{digest}"),
            std::format!("0a{}f9", "0".repeat(60))
        );
    }

    #[test]
    fn folders_mean_their_index() {
        assert_eq!(by_path(CONTENT, "/").unwrap().path, "/index.html");
        assert!(by_path(CONTENT, "").is_none());
        assert!(by_path(CONTENT, "/index.html/").is_none());
        assert!(by_path(CONTENT, "/../src/lib.rs").is_none());
        assert!(by_digest(CONTENT, &Digest([0; 32])).is_none());
    }
}
