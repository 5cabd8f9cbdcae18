//! Capsule, version 1. Frozen: once released, what is written here is only ever read.
//!
//! ```text
//! offset  octets
//! 0       1       version: 1
//! 1       4       check sum of the header and its length (little endian; migrate/sum.rs). The payload is not
//!                 in it: the channel's cipher guards every octet, and reading 64 KiB twice more would
//!                 cost several times what all the rest of a hand-over does
//! 5       2       length of the header (little endian)
//! 7       ...     header: `Header` in postcard (varint integers, LEB128; sequences and strings
//!                 preceded by their length; options and enums by a tag octet)
//! ...     ...     payload: the committed state; then for each connection its send queue (from
//!                 SND.UNA on), its unread octets, its out-of-order octets stretch by stretch;
//!                 all lengths are in the header
//! ```
//!
//! Octets that went ahead of the capsule are missing at the front of their queue. Nothing follows the
//! payload. Times are relative to the freeze; their unit is said at each.

mod capped;
mod connection;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Ahead, Capsule, CapsuleConnection, CapsuleError};
use crate::migrate::rope::Rope;
use crate::migrate::sum::Sum;
use crate::session::{MAX_CONNECTIONS, MAX_STATE, SessionId};

use capped::Capped;
use connection::ConnectionV1;

/// The first octet.
pub const VERSION: u8 = 1;
/// Octets of payload of one kind on one connection at most.
pub const MAX_QUEUE: usize = 4 * 1024 * 1024;
/// Octets of a service's name at most.
const MAX_NAME: usize = 64;
/// Version, check sum and header length.
const PREFIX: usize = 7;
/// Octets that the header of a session with one quiet connection takes at most.
const USUAL: usize = 320;

#[derive(Serialize, Deserialize)]
struct Header<'a> {
    origin: u32,
    number: u64,
    epoch: u64,
    service: &'a str,
    /// Schema version and length of the committed state.
    state: Option<(u32, u32)>,
    finished: bool,
    connections: Capped<Carried, MAX_CONNECTIONS>,
}

#[derive(Serialize, Deserialize)]
struct Carried {
    next_hop: Option<[u8; 6]>,
    /// Bit 0: end of input read; bit 1: output closed.
    flags: u8,
    tcp: ConnectionV1,
}

/// The capsule as octets.
pub fn encode(capsule: &Capsule) -> Result<Rope, CapsuleError> {
    let state = capsule.state.as_ref();
    let state_len = state.map_or(0, |(_, octets)| octets.len());
    if capsule.service.len() > MAX_NAME
        || state_len > MAX_STATE
        || capsule.connections.len() > MAX_CONNECTIONS
    {
        return Err(CapsuleError::Oversize);
    }
    let mut payload = Rope::new();
    if let Some((_, octets)) = state {
        payload.push(octets.clone());
    }
    let mut connections = Vec::with_capacity(capsule.connections.len());
    for connection in &capsule.connections {
        connections.push(Carried {
            next_hop: connection.next_hop,
            flags: u8::from(connection.end_read) | u8::from(connection.shut_down) << 1,
            tcp: ConnectionV1::encode(&connection.tcp, connection.ahead, &mut payload)?,
        });
    }
    let header = Header {
        origin: capsule.session.origin,
        number: capsule.session.number,
        epoch: capsule.epoch,
        service: &capsule.service,
        state: state.map(|(version, octets)| (*version, octets.len() as u32)),
        finished: capsule.finished,
        connections: Capped(connections),
    };
    let mut head = alloc::vec![0; USUAL];
    // Into a slice is quicker than onto the end of a vector; few headers are longer.
    match postcard::to_slice(&header, &mut head[PREFIX..]) {
        Ok(used) => {
            let length = PREFIX + used.len();
            head.truncate(length);
        }
        Err(_) => {
            head.truncate(PREFIX);
            head = postcard::to_extend(&header, head).map_err(|_| CapsuleError::Malformed)?;
        }
    }
    let length = u16::try_from(head.len() - PREFIX).map_err(|_| CapsuleError::Oversize)?;
    head[0] = VERSION;
    head[5..PREFIX].copy_from_slice(&length.to_le_bytes());
    let sum = check_sum(&head[5..]);
    head[1..5].copy_from_slice(&sum.to_le_bytes());
    let mut out = Rope::from(head);
    out.append(payload);
    Ok(out)
}

/// The check sum of a header, given as its length in two octets and itself.
pub fn check_sum(octets: &[u8]) -> u32 {
    let mut sum = Sum::new();
    sum.update(octets);
    sum.finish()
}

/// The capsule in octets that begin with [`VERSION`].
pub fn decode(mut octets: Rope) -> Result<Capsule, CapsuleError> {
    let prefix = octets.take_bytes(PREFIX).ok_or(CapsuleError::Truncated)?;
    let [_, s0, s1, s2, s3, l0, l1] = *prefix
        .first_chunk::<PREFIX>()
        .ok_or(CapsuleError::Truncated)?;
    let length = usize::from(u16::from_le_bytes([l0, l1]));
    let head = octets.take_bytes(length).ok_or(CapsuleError::Truncated)?;
    let mut sum = Sum::new();
    sum.update(&[l0, l1]);
    sum.update(&head);
    if sum.finish() != u32::from_le_bytes([s0, s1, s2, s3]) {
        return Err(CapsuleError::Damaged);
    }
    let Ok((header, [])) = postcard::take_from_bytes::<Header<'_>>(&head) else {
        return Err(CapsuleError::Malformed);
    };
    let expected = header.payload()?;
    match octets.len() {
        len if len < expected => Err(CapsuleError::Truncated),
        len if len > expected => Err(CapsuleError::Malformed),
        _ => header.open(octets),
    }
}

impl Header<'_> {
    /// Octets of payload, each length checked.
    fn payload(&self) -> Result<usize, CapsuleError> {
        let mut total = match self.state {
            Some((_, length)) if length as usize > MAX_STATE => {
                return Err(CapsuleError::Oversize);
            }
            Some((_, length)) => length as usize,
            None => 0,
        };
        if self.service.len() > MAX_NAME {
            return Err(CapsuleError::Oversize);
        }
        for connection in &self.connections.0 {
            total += connection.tcp.payload()?;
        }
        Ok(total)
    }

    /// The capsule, with exactly its payload in `octets`.
    fn open(self, mut octets: Rope) -> Result<Capsule, CapsuleError> {
        let state = match self.state {
            Some((version, length)) => {
                let length = length as usize;
                let state = octets.take_bytes(length).ok_or(CapsuleError::Truncated)?;
                // The state outlives the message it came in: do not keep all of that for it.
                Some((version, Bytes::copy_from_slice(&state)))
            }
            None => None,
        };
        let mut connections = Vec::with_capacity(self.connections.0.len());
        for carried in self.connections.0 {
            if carried.flags & !3 != 0 {
                return Err(CapsuleError::Malformed);
            }
            let (tcp, ahead) = carried.tcp.decode(&mut octets)?;
            connections.push(CapsuleConnection {
                next_hop: carried.next_hop,
                end_read: carried.flags & 1 != 0,
                shut_down: carried.flags & 2 != 0,
                ahead,
                tcp,
            });
        }
        Ok(Capsule {
            session: SessionId {
                origin: self.origin,
                number: self.number,
            },
            epoch: self.epoch,
            service: self.service.into(),
            state,
            finished: self.finished,
            connections,
        })
    }
}
