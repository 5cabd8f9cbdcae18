//! Capsule, version 1. Frozen: once released, what is written here is only ever read.
//!
//! ```text
//! offset  octets
//! 0       1       version: 1
//! 1       4       check sum of the header and its length (little endian; migrate/sum.rs). The payload is not
//!                 in it: the channel's cipher guards every octet, and reading 64 KiB twice more would
//!                 cost several times what all the rest of a hand-over does
//! 5       2       length of the header (little endian)
//! 7       ...     header: `Header`, then its connections, each a `Carried` (wire.rs has the encoding)
//! ...     ...     payload: the committed state; then for each connection its send queue (from
//!                 SND.UNA on), its unread octets, its out-of-order octets stretch by stretch;
//!                 all lengths are in the header
//! ```
//!
//! Octets that went ahead of the capsule are missing at the front of their queue. Nothing follows the
//! payload. Times are relative to the freeze; their unit is said at each.

mod connection;
#[cfg(test)]
mod tests;
mod wire;

use alloc::vec::Vec;

use bytes::Bytes;

use super::{Ahead, Capsule, CapsuleConnection, CapsuleError};
use crate::migrate::rope::Rope;
use crate::migrate::sum::Sum;
use crate::session::{MAX_CONNECTIONS, MAX_STATE, SessionId};

use connection::ConnectionV1;
use wire::{Reader, Wire, Writer, wire};

/// The first octet.
pub const VERSION: u8 = 1;
/// Octets of payload of one kind on one connection at most.
pub const MAX_QUEUE: usize = 4 * 1024 * 1024;
/// Octets of a service's name at most.
const MAX_NAME: usize = 64;
/// Version, check sum and header length.
const PREFIX: usize = 7;
/// Octets that prefix and header of a session with one connection take at most, nearly always.
const USUAL: usize = 320;

struct Header<'a> {
    origin: u32,
    number: u64,
    epoch: u64,
    service: &'a str,
    /// Schema version and length of the committed state.
    state: Option<(u32, u32)>,
    finished: bool,
    /// How many connections follow.
    connections: usize,
}

impl<'a> Wire<'a> for Header<'a> {
    fn put(&self, out: &mut Writer) {
        (self.origin, self.number, self.epoch).put(out);
        (self.service, self.state, self.finished, self.connections).put(out);
    }

    fn take(input: &mut Reader<'a>) -> Header<'a> {
        Header {
            origin: Wire::take(input),
            number: Wire::take(input),
            epoch: Wire::take(input),
            service: Wire::take(input),
            state: Wire::take(input),
            finished: Wire::take(input),
            connections: Wire::take(input),
        }
    }
}

wire! {
    struct Carried {
        next_hop: Option<[u8; 6]>,
        /// Bit 0: end of input read; bit 1: output closed.
        flags: u8,
        tcp: ConnectionV1,
    }
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
    let mut head = Writer::with_room(USUAL);
    head.raw(&[0; PREFIX]);
    let header = Header {
        origin: capsule.session.origin,
        number: capsule.session.number,
        epoch: capsule.epoch,
        service: &capsule.service,
        state: state.map(|(version, octets)| (*version, octets.len() as u32)),
        finished: capsule.finished,
        connections: capsule.connections.len(),
    };
    header.put(&mut head);
    let mut payload = Rope::new();
    if let Some((_, octets)) = state {
        payload.push(octets.clone());
    }
    for connection in &capsule.connections {
        let carried = Carried {
            next_hop: connection.next_hop,
            flags: u8::from(connection.end_read) | u8::from(connection.shut_down) << 1,
            tcp: ConnectionV1::encode(&connection.tcp, connection.ahead, &mut payload)?,
        };
        carried.put(&mut head);
    }
    let mut head = head.finish();
    let length = u16::try_from(head.len() - PREFIX).map_err(|_| CapsuleError::Oversize)?;
    head[0] = VERSION;
    head[5..PREFIX].copy_from_slice(&length.to_le_bytes());
    let sum = check_sum(&head[5..]);
    head[1..5].copy_from_slice(&sum.to_le_bytes());
    payload.push_front(head.into());
    Ok(payload)
}

/// The check sum of a header, given as its length in two octets and itself.
pub fn check_sum(octets: &[u8]) -> u32 {
    let mut sum = Sum::new();
    sum.update(octets);
    sum.finish()
}

/// The capsule in octets that begin with [`VERSION`].
pub fn decode(mut octets: Rope) -> Result<Capsule, CapsuleError> {
    let mut prefix = [0; PREFIX];
    if octets.peek(&mut prefix) < PREFIX {
        return Err(CapsuleError::Truncated);
    }
    octets.skip(PREFIX);
    let [_, s0, s1, s2, s3, l0, l1] = prefix;
    let length = usize::from(u16::from_le_bytes([l0, l1]));
    let head = octets.take_bytes(length).ok_or(CapsuleError::Truncated)?;
    let mut sum = Sum::new();
    sum.update(&[l0, l1]);
    sum.update(&head);
    if sum.finish() != u32::from_le_bytes([s0, s1, s2, s3]) {
        return Err(CapsuleError::Damaged);
    }
    let mut head = Reader::new(&head);
    let header = Header::take(&mut head);
    let capsule = header.open(&mut head, &mut octets)?;
    match head.is_done() && octets.is_empty() {
        true => Ok(capsule),
        false => Err(CapsuleError::Malformed),
    }
}

impl Header<'_> {
    /// The capsule: its connections follow in `head`, its payload is at the front of `octets`.
    fn open(self, head: &mut Reader<'_>, octets: &mut Rope) -> Result<Capsule, CapsuleError> {
        if head.is_wrong() || self.connections > MAX_CONNECTIONS {
            return Err(CapsuleError::Malformed);
        }
        if self.service.len() > MAX_NAME {
            return Err(CapsuleError::Oversize);
        }
        let state = match self.state {
            Some((_, length)) if length as usize > MAX_STATE => {
                return Err(CapsuleError::Oversize);
            }
            Some((version, length)) => {
                let length = length as usize;
                let state = octets.take_bytes(length).ok_or(CapsuleError::Truncated)?;
                // The state outlives the message it came in: do not keep all of that for it.
                Some((version, Bytes::copy_from_slice(&state)))
            }
            None => None,
        };
        let mut connections = Vec::with_capacity(self.connections);
        for _ in 0..self.connections {
            let carried = Carried::take(head);
            if head.is_wrong() || carried.flags & !3 != 0 {
                return Err(CapsuleError::Malformed);
            }
            let (tcp, ahead) = carried.tcp.decode(octets)?;
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
