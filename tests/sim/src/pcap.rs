//! What a party saw on its link, as a pcap file (nanosecond variant, for Wireshark).

use bytes::Bytes;
use godwit_netstack::Instant;

use crate::net::Port;

/// Frames of one port.
#[derive(Debug)]
pub struct Pcap {
    port: Port,
    frames: Vec<(Instant, Bytes)>,
}

impl Pcap {
    pub(crate) fn new(port: Port) -> Pcap {
        Pcap {
            port,
            frames: Vec::new(),
        }
    }

    pub(crate) fn frame(&mut self, at: Instant, port: Port, frame: &Bytes) {
        if port == self.port {
            self.frames.push((at, frame.clone()));
        }
    }

    /// The frames.
    pub fn frames(&self) -> Vec<Bytes> {
        self.frames.iter().map(|(_, frame)| frame.clone()).collect()
    }

    /// The file.
    pub fn to_file(&self) -> Vec<u8> {
        const MAGIC_NANOS: u32 = 0xa1b2_3c4d;
        const ETHERNET: u32 = 1;
        let mut file = Vec::new();
        let word = |file: &mut Vec<u8>, word: u32| file.extend_from_slice(&word.to_le_bytes());
        word(&mut file, MAGIC_NANOS);
        word(&mut file, 2 | 4 << 16);
        for value in [0, 0, 65_535, ETHERNET] {
            word(&mut file, value);
        }
        for (at, frame) in &self.frames {
            let nanos = at.as_nanos();
            word(&mut file, (nanos / 1_000_000_000) as u32);
            word(&mut file, (nanos % 1_000_000_000) as u32);
            word(&mut file, frame.len() as u32);
            word(&mut file, frame.len() as u32);
            file.extend_from_slice(frame);
        }
        file
    }
}
