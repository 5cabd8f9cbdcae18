//! The encrypted stream between two instances: Noise `NNpsk0_25519_AESGCM_SHA256` over TCP.
//!
//! Every Noise message is preceded by its length (16 bits, big endian). The handshake is one
//! message each way, without payload; after it the records' payloads, in order, are one stream of
//! octets each way. Replay, reordering and damage make the cipher's nonce or tag wrong, and then
//! the stream is dead: there is no resynchronising.
//!
//! [`SecureStream`] is sans-IO: TCP payload in ([`SecureStream::handle_data`]), plain octets out;
//! [`SecureStream::seal`] and [`SecureStream::take_handshake`] give what to send.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use bytes::Bytes;
use snow::params::{
    BaseChoice, CipherChoice, DHChoice, HandshakeChoice, HandshakeModifier, HandshakeModifierList,
    HandshakePattern, HashChoice, NoiseParams,
};

use super::MemberId;
use super::keys::{Key, KeyId};
use super::primitives::Resolver;
use crate::migrate::rope::Rope;

const PATTERN: &str = "Noise_NNpsk0_25519_AESGCM_SHA256";
/// First octets of the prologue; the two members' ids follow. A new protocol gets a new number.
const PROLOGUE: &[u8] = b"godwit channel 3";
/// Octets the cipher adds to a record.
const TAG: usize = 16;
/// Octets of a handshake message: a public key and the tag of an empty payload.
const HANDSHAKE: usize = 32 + TAG;
/// Payload octets of a record at most. Smaller than Noise allows, so that opening overlaps with
/// receiving.
pub const RECORD: usize = 16 * 1024;

/// Why a stream is dead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum NoiseError {
    /// The peer has another key, or is no instance at all.
    Handshake,
    /// A record does not open: damaged, replayed or forged.
    Record,
}

/// What [`PATTERN`] says, without a parser for all that Noise knows.
fn params() -> NoiseParams {
    NoiseParams::new(
        PATTERN.into(),
        BaseChoice::Noise,
        HandshakeChoice {
            pattern: HandshakePattern::NN,
            modifiers: HandshakeModifierList {
                list: vec![HandshakeModifier::Psk(0)],
            },
        },
        DHChoice::Curve25519,
        CipherChoice::AESGCM,
        HashChoice::SHA256,
    )
}

enum Phase {
    /// One handshake per key that may turn out to be the peer's; they differ in nothing else, and
    /// only the one that reads the first message goes on.
    Handshake(Vec<(KeyId, snow::HandshakeState)>),
    Open(Box<snow::TransportState>),
    Dead,
}

/// One end of the encrypted stream.
pub struct SecureStream {
    phase: Phase,
    /// The key both ends hold, once that is known.
    key: Option<KeyId>,
    received: Rope,
    outgoing: Option<Bytes>,
}

impl core::fmt::Debug for SecureStream {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("SecureStream")
            .field("open", &self.is_open())
            .finish_non_exhaustive()
    }
}

/// Precede a Noise message with its length; `message` starts with two octets left for it.
fn framed(mut message: Vec<u8>) -> Bytes {
    let length = message.len().saturating_sub(2) as u16;
    message[..2].copy_from_slice(&length.to_be_bytes());
    Bytes::from(message)
}

impl SecureStream {
    /// The end of the member that connects.
    pub fn initiator(
        key: &Key,
        initiator: MemberId,
        responder: MemberId,
        seed: [u8; 32],
    ) -> SecureStream {
        let keys = core::slice::from_ref(key);
        let mut stream = SecureStream::build(keys, initiator, responder, seed, true);
        stream.write_handshake();
        stream
    }

    /// The end of the member that was connected to, by someone who may hold any of `keys`.
    pub fn responder(
        keys: &[Key],
        initiator: MemberId,
        responder: MemberId,
        seed: [u8; 32],
    ) -> SecureStream {
        SecureStream::build(keys, initiator, responder, seed, false)
    }

    fn build(
        keys: &[Key],
        initiator: MemberId,
        responder: MemberId,
        seed: [u8; 32],
        initiate: bool,
    ) -> SecureStream {
        let mut prologue = Vec::from(PROLOGUE);
        prologue.extend_from_slice(&initiator.0.to_be_bytes());
        prologue.extend_from_slice(&responder.0.to_be_bytes());
        let state = |key: &Key| -> Option<(KeyId, snow::HandshakeState)> {
            let builder = snow::Builder::with_resolver(params(), Box::new(Resolver { seed }))
                .psk(0, &key.0)
                .ok()?
                .prologue(&prologue)
                .ok()?;
            let state = if initiate {
                builder.build_initiator()
            } else {
                builder.build_responder()
            };
            Some((key.id(), state.ok()?))
        };
        // The pattern and the key's length are constants: nothing of this fails.
        let states: Vec<_> = keys.iter().filter_map(state).collect();
        SecureStream {
            phase: match states.is_empty() {
                true => Phase::Dead,
                false => Phase::Handshake(states),
            },
            key: None,
            received: Rope::new(),
            outgoing: None,
        }
    }

    fn write_handshake(&mut self) {
        if let Phase::Handshake(states) = &mut self.phase
            && let Some((_, state)) = states.first_mut()
        {
            let mut message = vec![0; 2 + HANDSHAKE];
            match state.write_message(&[], &mut message[2..]) {
                Ok(length) => {
                    message.truncate(2 + length);
                    self.outgoing = Some(framed(message));
                }
                Err(_) => self.phase = Phase::Dead,
            }
        }
    }

    /// Whether the handshake is complete, so that payload can be sealed. The peer has only proved
    /// that it holds the key once a record from it has been opened.
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open(_))
    }

    /// The key both ends hold; known once the handshake is complete.
    pub fn key(&self) -> Option<KeyId> {
        self.key
    }

    /// A handshake message to send, if one is due.
    pub fn take_handshake(&mut self) -> Option<Bytes> {
        self.outgoing.take()
    }

    /// Take in TCP payload; the plain octets it completes are added to `plain`.
    pub fn handle_data(&mut self, data: Bytes, plain: &mut Rope) -> Result<(), NoiseError> {
        self.received.push(data);
        let result = self.open_records(plain);
        if result.is_err() {
            self.phase = Phase::Dead;
            self.received = Rope::new();
        }
        result
    }

    fn open_records(&mut self, plain: &mut Rope) -> Result<(), NoiseError> {
        loop {
            let mut length = [0; 2];
            if self.received.peek(&mut length) < 2 {
                return Ok(());
            }
            let length = usize::from(u16::from_be_bytes(length));
            match &self.phase {
                // Told by the length alone, so that a stranger makes us keep next to nothing.
                Phase::Handshake(_) if length != HANDSHAKE => return Err(NoiseError::Handshake),
                Phase::Open(_) if !(TAG..=RECORD + TAG).contains(&length) => {
                    return Err(NoiseError::Record);
                }
                Phase::Dead => return Err(NoiseError::Record),
                _ => {}
            }
            if self.received.len() < 2 + length {
                return Ok(());
            }
            self.received.skip(2);
            let Some(message) = self.received.take_bytes(length) else {
                return Ok(());
            };
            match &mut self.phase {
                Phase::Handshake(states) => {
                    let reads = |(_, state): &mut (KeyId, snow::HandshakeState)| {
                        state.read_message(&message, &mut []).is_ok()
                    };
                    let fits = states.iter_mut().position(reads);
                    let fits = fits.ok_or(NoiseError::Handshake)?;
                    states.swap(0, fits);
                    states.truncate(1);
                    self.advance()?;
                }
                Phase::Open(state) => {
                    let mut opened = vec![0; length];
                    let count = state
                        .read_message(&message, &mut opened)
                        .map_err(|_| NoiseError::Record)?;
                    opened.truncate(count);
                    plain.push(Bytes::from(opened));
                }
                Phase::Dead => return Err(NoiseError::Record),
            }
        }
    }

    /// After a handshake message was read: answer it if it is our turn, and open the transport.
    fn advance(&mut self) -> Result<(), NoiseError> {
        let finished = |states: &[(KeyId, snow::HandshakeState)]| {
            states
                .first()
                .is_some_and(|(_, state)| state.is_handshake_finished())
        };
        if let Phase::Handshake(states) = &self.phase
            && !finished(states)
        {
            self.write_handshake();
        }
        match core::mem::replace(&mut self.phase, Phase::Dead) {
            Phase::Handshake(mut states) if finished(&states) => {
                let (key, state) = states.swap_remove(0);
                let transport = state
                    .into_transport_mode()
                    .map_err(|_| NoiseError::Handshake)?;
                self.key = Some(key);
                self.phase = Phase::Open(Box::new(transport));
                Ok(())
            }
            _ => Err(NoiseError::Handshake),
        }
    }

    /// Seal up to [`RECORD`] octets from the front of `plain`; `None` if there are none or the
    /// stream is not open.
    pub fn seal(&mut self, plain: &mut Rope) -> Option<Bytes> {
        let Phase::Open(state) = &mut self.phase else {
            return None;
        };
        if plain.is_empty() {
            return None;
        }
        let payload = plain.take(RECORD).into_bytes();
        let mut message = vec![0; 2 + payload.len() + TAG];
        match state.write_message(&payload, &mut message[2..]) {
            Ok(_) => Some(framed(message)),
            Err(_) => {
                self.phase = Phase::Dead;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key([7; 32]);
    const OTHER: Key = Key([8; 32]);

    #[test]
    fn the_pattern_is_what_its_name_says() {
        assert_eq!(PATTERN.parse(), Ok(params()));
    }

    fn pair(left: &Key, right: &[Key]) -> (SecureStream, SecureStream) {
        (
            SecureStream::initiator(left, MemberId(1), MemberId(2), [1; 32]),
            SecureStream::responder(right, MemberId(1), MemberId(2), [2; 32]),
        )
    }

    fn open(a: &mut SecureStream, b: &mut SecureStream) -> Result<(), NoiseError> {
        let mut plain = Rope::new();
        b.handle_data(a.take_handshake().unwrap(), &mut plain)?;
        a.handle_data(b.take_handshake().unwrap(), &mut plain)?;
        assert!(plain.is_empty() && a.is_open() && b.is_open());
        Ok(())
    }

    #[test]
    fn a_long_stream_arrives_in_order_however_it_is_cut() {
        let (mut a, mut b) = pair(&KEY, &[KEY]);
        open(&mut a, &mut b).unwrap();
        let sent: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        let mut queue = Rope::from(sent.clone());
        let mut wire = Rope::new();
        while let Some(record) = a.seal(&mut queue) {
            wire.push(record);
        }
        let mut got = Rope::new();
        while !wire.is_empty() {
            for piece in wire.take(1461).into_pieces() {
                b.handle_data(piece, &mut got).unwrap();
            }
        }
        assert_eq!(got.to_vec(), sent);
    }

    #[test]
    fn a_peer_with_another_key_gets_no_answer() {
        let (mut a, mut b) = pair(&KEY, &[OTHER]);
        let first = a.take_handshake().unwrap();
        let result = b.handle_data(first, &mut Rope::new());
        assert_eq!(result, Err(NoiseError::Handshake));
        assert!(b.take_handshake().is_none() && !b.is_open());
    }

    #[test]
    fn a_responder_takes_every_key_it_holds_and_says_which_it_was() {
        for (key, keys) in [(KEY, [KEY, OTHER]), (OTHER, [KEY, OTHER])] {
            let (mut a, mut b) = pair(&key, &keys);
            assert_eq!(b.key(), None);
            open(&mut a, &mut b).unwrap();
            assert_eq!((a.key(), b.key()), (Some(key.id()), Some(key.id())));
            let record = b.seal(&mut Rope::from(vec![1])).unwrap();
            let mut plain = Rope::new();
            a.handle_data(record, &mut plain).unwrap();
            assert_eq!(plain.to_vec(), [1]);
        }
        let (mut a, mut b) = pair(&Key([9; 32]), &[KEY, OTHER]);
        assert_eq!(open(&mut a, &mut b), Err(NoiseError::Handshake));
    }

    #[test]
    fn a_handshake_that_is_replayed_opens_nothing_that_was_sealed_after_it() {
        let (mut a, mut b) = pair(&KEY, &[KEY]);
        let first = a.take_handshake().unwrap();
        b.handle_data(first.clone(), &mut Rope::new()).unwrap();
        a.handle_data(b.take_handshake().unwrap(), &mut Rope::new())
            .unwrap();
        let record = a.seal(&mut Rope::from(vec![1, 2, 3])).unwrap();
        // Another boot or channel of the responder: another seed.
        let mut later = SecureStream::responder(&[KEY], MemberId(1), MemberId(2), [3; 32]);
        let mut plain = Rope::new();
        assert_eq!(later.handle_data(first, &mut plain), Ok(()));
        assert_eq!(
            later.handle_data(record, &mut plain),
            Err(NoiseError::Record)
        );
        assert!(plain.is_empty());
    }

    #[test]
    fn garbage_is_refused_by_its_length_before_any_of_it_is_kept() {
        let (_, mut b) = pair(&KEY, &[KEY]);
        let garbage = Bytes::from_static(b"GET / HTTP/1.1\r\n");
        assert_eq!(
            b.handle_data(garbage, &mut Rope::new()),
            Err(NoiseError::Handshake)
        );
        assert_eq!(b.received.len(), 0);
    }

    #[test]
    fn flipped_and_replayed_records_end_the_stream() {
        let (mut a, mut b) = pair(&KEY, &[KEY]);
        open(&mut a, &mut b).unwrap();
        let record = a.seal(&mut Rope::from(vec![1, 2, 3])).unwrap();
        let mut plain = Rope::new();
        b.handle_data(record.clone(), &mut plain).unwrap();
        assert_eq!(
            b.handle_data(record, &mut plain),
            Err(NoiseError::Record),
            "replayed"
        );
        assert_eq!(plain.to_vec(), [1, 2, 3]);

        let (mut a, mut b) = pair(&KEY, &[KEY]);
        open(&mut a, &mut b).unwrap();
        let mut record = a.seal(&mut Rope::from(vec![1, 2, 3])).unwrap().to_vec();
        record[5] ^= 1;
        assert_eq!(
            b.handle_data(Bytes::from(record), &mut Rope::new()),
            Err(NoiseError::Record),
            "flipped"
        );
    }
}
