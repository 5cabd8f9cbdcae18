//! The targets, one file each.

pub(crate) mod admin;
pub(crate) mod beacons;
pub(crate) mod config;
pub(crate) mod datagrams;
pub(crate) mod frames;
pub(crate) mod handover;
pub(crate) mod http;
pub(crate) mod members;
pub(crate) mod messages;
pub(crate) mod options;
pub(crate) mod segments;
pub(crate) mod state;
pub(crate) mod stream;

/// Reads an input piece by piece; zeros after its end.
pub(crate) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn octet(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    pub(crate) fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.octet(), self.octet()])
    }

    pub(crate) fn slice(&mut self, octets: usize) -> &'a [u8] {
        let (slice, rest) = self.0.split_at(octets.min(self.0.len()));
        self.0 = rest;
        slice
    }
}
