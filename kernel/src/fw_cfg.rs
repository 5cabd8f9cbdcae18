//! QEMU's fw_cfg: small named files the host hands to the guest (QEMU `docs/specs/fw_cfg`).

use alloc::string::String;
use alloc::vec::Vec;

use crate::arch::x86_64::{cpu, port};

const SIGNATURE: u16 = 0x00;
const DIRECTORY: u16 = 0x19;
/// A directory with more files than this is nonsense.
const MAX_FILES: u32 = 1024;
/// A configuration file larger than this is refused.
const MAX_FILE: u32 = 64 << 10;
const NAME: usize = 56;

/// A stream of bytes that an item of the device becomes once selected.
pub trait Device {
    /// Starts over with an item.
    fn select(&mut self, item: u16);
    /// The item's next byte; zero behind its end.
    fn next(&mut self) -> u8;
}

struct Ports;

impl Device for Ports {
    fn select(&mut self, item: u16) {
        port::FW_CFG_SELECT.write(item);
    }
    fn next(&mut self) -> u8 {
        port::FW_CFG_DATA.read()
    }
}

/// The contents of a file, on a machine that has fw_cfg and the file.
pub fn read(name: &str) -> Option<String> {
    // Ports that nobody answers are read only where somebody plausibly does.
    if cpu::hypervisor() == cpu::Hypervisor::None {
        return None;
    }
    read_from(&mut Ports, name)
}

/// As [`read`], from any device.
pub fn read_from(device: &mut impl Device, name: &str) -> Option<String> {
    device.select(SIGNATURE);
    if take::<4>(device) != *b"QEMU" {
        return None;
    }
    device.select(DIRECTORY);
    let count = u32::from_be_bytes(take(device)).min(MAX_FILES);
    for _ in 0..count {
        let size = u32::from_be_bytes(take(device));
        let item = u16::from_be_bytes(take(device));
        take::<2>(device);
        let entry = take::<NAME>(device);
        if entry.split(|&byte| byte == 0).next() != Some(name.as_bytes()) {
            continue;
        }
        if size > MAX_FILE {
            log::warn!("fw_cfg file {name} is {size} bytes long: ignored");
            return None;
        }
        device.select(item);
        let bytes: Vec<u8> = (0..size).map(|_| device.next()).collect();
        return String::from_utf8(bytes)
            .inspect_err(|_| log::warn!("fw_cfg file {name} is not text: ignored"))
            .ok();
    }
    None
}

fn take<const N: usize>(device: &mut impl Device) -> [u8; N] {
    core::array::from_fn(|_| device.next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Fake {
        items: Vec<(u16, Vec<u8>)>,
        current: Vec<u8>,
        reads: usize,
    }

    impl Device for Fake {
        fn select(&mut self, item: u16) {
            let found = self.items.iter().find(|(number, _)| *number == item);
            self.current = found.map(|(_, bytes)| bytes.clone()).unwrap_or_default();
            self.current.reverse();
        }
        fn next(&mut self) -> u8 {
            self.reads += 1;
            self.current.pop().unwrap_or(0)
        }
    }

    fn entry(size: u32, item: u16, name: &str) -> Vec<u8> {
        let mut bytes = size.to_be_bytes().to_vec();
        bytes.extend(item.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(name.as_bytes());
        bytes.resize(64, 0);
        bytes
    }

    fn device(count: u32, entries: &[Vec<u8>], file: &[u8]) -> Fake {
        let mut directory = count.to_be_bytes().to_vec();
        directory.extend(entries.concat());
        Fake {
            items: vec![
                (SIGNATURE, b"QEMU".to_vec()),
                (DIRECTORY, directory),
                (0x20, file.to_vec()),
            ],
            ..Fake::default()
        }
    }

    #[test]
    fn a_file_is_found_by_its_whole_name() {
        let entries = [
            entry(3, 0x21, "opt/godwit/config2"),
            entry(4, 0x20, "opt/godwit/config"),
        ];
        let mut fake = device(2, &entries, b"id=1");
        assert_eq!(
            read_from(&mut fake, "opt/godwit/config").as_deref(),
            Some("id=1")
        );
        assert_eq!(read_from(&mut fake, "opt/godwit"), None);
    }

    #[test]
    fn a_directory_that_claims_billions_of_files_ends() {
        let mut fake = device(u32::MAX, &[], b"");
        assert_eq!(read_from(&mut fake, "x"), None);
        assert!(fake.reads < 100_000);
    }

    #[test]
    fn a_huge_or_binary_file_is_refused() {
        let entries = [entry(u32::MAX, 0x20, "big"), entry(2, 0x20, "binary")];
        let mut fake = device(2, &entries, &[0xff, 0xfe]);
        assert_eq!(read_from(&mut fake, "big"), None);
        assert_eq!(read_from(&mut fake, "binary"), None);
    }

    #[test]
    fn ports_nobody_answers_give_no_file() {
        let mut fake = Fake::default();
        assert_eq!(read_from(&mut fake, "x"), None);
    }
}
