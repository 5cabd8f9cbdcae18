//! An initial RAM file system as Linux unpacks it: a cpio archive in the "newc" format
//! (Linux, `Documentation/driver-api/early-userspace/buffer-format.rst`), uncompressed, since
//! unpacking would cost the peer more under emulation than loading does.

/// What ends an archive.
const LAST: &str = "TRAILER!!!";
/// The kinds of entries, with their modes.
const FILE: u32 = 0o100_755;
const FOLDER: u32 = 0o040_755;
const DEVICE: u32 = 0o020_600;

/// An archive that is being written.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    folders: Vec<String>,
}

impl Archive {
    /// Add a file that may also be run; folders above it are made.
    pub fn file(&mut self, path: &str, content: &[u8]) {
        self.above(path);
        self.entry(path, FILE, [0, 0], content);
    }

    /// Add a character device.
    pub fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.above(path);
        self.entry(path, DEVICE, [major, minor], &[]);
    }

    /// Add a folder and those above it.
    pub fn folder(&mut self, path: &str) {
        self.above(path);
        if !self.folders.iter().any(|made| made == path) {
            self.folders.push(path.to_owned());
            self.entry(path, FOLDER, [0, 0], &[]);
        }
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(LAST, 0, [0, 0], &[]);
        self.bytes
    }

    fn above(&mut self, path: &str) {
        if let Some((folder, _)) = path.rsplit_once('/') {
            self.folder(folder);
        }
    }

    /// A header of thirteen numbers of eight hexadecimal digits, the name, the content; name and
    /// content padded so that what follows is at a multiple of four.
    fn entry(&mut self, name: &str, mode: u32, device: [u32; 2], content: &[u8]) {
        self.entries += 1;
        let (size, name_size) = (content.len() as u32, name.len() as u32 + 1);
        let numbers = [
            self.entries, // inode
            mode,
            0, // user
            0, // group
            1, // links
            0, // time
            size,
            0, // device it is on
            0,
            device[0],
            device[1],
            name_size,
            0, // checksum: none in this format
        ];
        self.bytes.extend(b"070701");
        for number in numbers {
            self.bytes.extend(format!("{number:08X}").as_bytes());
        }
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_once_and_before_what_is_in_them() {
        let mut archive = Archive::default();
        archive.file("usr/sbin/nginx", b"binary");
        archive.file("usr/sbin/other", b"x");
        let bytes = archive.finish();
        let text = String::from_utf8(bytes.clone()).unwrap();
        let at = |name: &str| {
            text.match_indices(name)
                .map(|(at, _)| at)
                .collect::<Vec<_>>()
        };
        let (folder, file) = (at("usr/sbin\0"), at("usr/sbin/nginx\0"));
        assert_eq!((folder.len(), file.len()), (1, 1));
        assert!(folder[0] < file[0]);
        assert_eq!(bytes.len() % 4, 0);
        assert!(text.contains("TRAILER!!!\0"));
    }

    #[test]
    fn contents_begin_at_multiples_of_four_and_their_size_is_in_the_header() {
        let mut archive = Archive::default();
        archive.file("abc", b"CONTENT");
        let bytes = archive.finish();
        let at = bytes.windows(7).position(|part| part == b"CONTENT");
        assert_eq!(at.map(|at| at % 4), Some(0));
        // After the magic, the seventh number.
        assert_eq!(&bytes[6 + 6 * 8..6 + 7 * 8], b"00000007");
    }
}
