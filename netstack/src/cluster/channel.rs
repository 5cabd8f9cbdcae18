//! One channel to one peer: the encrypted stream, the messages in it, and the greeting.
//!
//! [`Channel`] is sans-IO: what TCP received goes into [`Channel::handle_data`], messages come out
//! of [`Channel::poll_message`], [`Channel::send`] queues one and [`Channel::poll_output`] gives
//! what to hand to TCP. It is up once the peer's [`Hello`] was read: only then has the peer proved
//! that it holds the key.

use bytes::Bytes;

use super::keys::{Key, KeyId};
use super::message::{Hello, Message, MessageError};
use super::noise::{NoiseError, SecureStream};
use super::{BootId, MemberId};
use crate::migrate::rope::Rope;
use crate::time::{Duration, Instant};

/// Why a channel must be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ChannelError {
    /// The encrypted stream is dead.
    Noise(NoiseError),
    /// The peer holds the key but talks nonsense.
    Message(MessageError),
    /// The first message is no greeting, or not from the member expected.
    Greeting,
}

/// Both ends of a channel as we know them.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// This instance.
    pub us: MemberId,
    /// Our boot.
    pub boot: BootId,
    /// Our count of channels with the peer.
    pub generation: u64,
    /// The member at the other end.
    pub peer: MemberId,
}

/// A channel to one peer.
#[derive(Debug)]
pub struct Channel {
    ends: Ends,
    stream: SecureStream,
    greeted: bool,
    hello: Option<Hello>,
    received: Rope,
    outgoing: Rope,
    /// Octets of all messages queued so far.
    sent: u64,
    /// Time spent on opening records since the last message came out.
    opening: Duration,
}

impl Channel {
    /// Our end of a channel we open.
    pub fn initiator(ends: Ends, key: &Key, seed: [u8; 32]) -> Channel {
        Channel::new(ends, SecureStream::initiator(key, ends.us, ends.peer, seed))
    }

    /// Our end of a channel the peer opens with one of these keys.
    pub fn responder(ends: Ends, keys: &[Key], seed: [u8; 32]) -> Channel {
        Channel::new(
            ends,
            SecureStream::responder(keys, ends.peer, ends.us, seed),
        )
    }

    fn new(ends: Ends, stream: SecureStream) -> Channel {
        Channel {
            ends,
            stream,
            greeted: false,
            hello: None,
            received: Rope::new(),
            outgoing: Rope::new(),
            sent: 0,
            opening: Duration::ZERO,
        }
    }

    /// The member at the other end (as its address says; proved once [`Channel::peer`] is known).
    pub fn peer_id(&self) -> MemberId {
        self.ends.peer
    }

    /// The greeting of the other end, once the channel is up.
    pub fn peer(&self) -> Option<&Hello> {
        self.hello.as_ref()
    }

    /// The key it was opened with; known once the handshake is complete.
    pub fn key(&self) -> Option<KeyId> {
        self.stream.key()
    }

    /// Our own count of channels with this peer: what a transfer to us must name.
    pub fn generation(&self) -> u64 {
        self.ends.generation
    }

    /// Whether our greeting is out.
    pub fn has_greeted(&self) -> bool {
        self.greeted
    }

    /// Octets queued and not yet sealed.
    pub fn queued(&self) -> usize {
        self.outgoing.len()
    }

    /// Octets opened and not yet read as messages.
    pub fn received(&self) -> usize {
        self.received.len()
    }

    /// Queue a message. `None` if it is longer than messages may be.
    #[must_use]
    pub fn send(&mut self, message: &Message, tail: Rope) -> Option<()> {
        let before = self.outgoing.len();
        message.encode(tail, &mut self.outgoing)?;
        self.sent += (self.outgoing.len() - before) as u64;
        Some(())
    }

    /// Octets of all messages queued so far: a place in the stream.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// The next octets for TCP: a handshake message or a sealed record.
    pub fn poll_output(&mut self) -> Option<Bytes> {
        if let Some(handshake) = self.stream.take_handshake() {
            return Some(handshake);
        }
        if self.stream.is_open() && !self.greeted {
            self.greeted = true;
            let hello = Message::Hello(Hello {
                member: self.ends.us,
                boot: self.ends.boot,
                generation: self.ends.generation,
            });
            let queued = core::mem::take(&mut self.outgoing);
            hello.encode(Rope::new(), &mut self.outgoing)?;
            self.outgoing.append(queued);
        }
        self.stream.seal(&mut self.outgoing)
    }

    /// Take in octets from TCP. `clock` only measures how long opening them takes.
    pub fn handle_data(
        &mut self,
        data: Bytes,
        clock: impl Fn() -> Instant,
    ) -> Result<(), ChannelError> {
        let start = clock();
        self.stream
            .handle_data(data, &mut self.received)
            .map_err(ChannelError::Noise)?;
        self.opening += clock().since(start);
        Ok(())
    }

    /// The next message, its tail, and the time spent on opening it.
    pub fn poll_message(&mut self) -> Result<Option<(Message, Rope, Duration)>, ChannelError> {
        let Some((message, tail)) =
            Message::decode(&mut self.received).map_err(ChannelError::Message)?
        else {
            return Ok(None);
        };
        match (&message, &self.hello) {
            (Message::Hello(hello), None) if hello.member == self.ends.peer => {
                self.hello = Some(hello.clone());
            }
            (Message::Hello(_), _) | (_, None) => return Err(ChannelError::Greeting),
            _ => {}
        }
        let opening = core::mem::take(&mut self.opening);
        Ok(Some((message, tail, opening)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key([7; 32]);

    fn ends(us: u32, peer: u32) -> Ends {
        Ends {
            us: MemberId(us),
            boot: BootId([us as u8; 16]),
            generation: 1,
            peer: MemberId(peer),
        }
    }

    /// Carry octets both ways until both are quiet.
    fn run(a: &mut Channel, b: &mut Channel) -> Result<(), ChannelError> {
        let clock = || Instant::ZERO;
        loop {
            let mut quiet = true;
            while let Some(octets) = a.poll_output() {
                b.handle_data(octets, clock)?;
                quiet = false;
            }
            while let Some(octets) = b.poll_output() {
                a.handle_data(octets, clock)?;
                quiet = false;
            }
            if quiet {
                return Ok(());
            }
        }
    }

    #[test]
    fn messages_queued_before_the_handshake_follow_the_greeting() {
        let mut a = Channel::initiator(ends(1, 2), &KEY, [1; 32]);
        let mut b = Channel::responder(ends(2, 1), &[KEY], [2; 32]);
        a.send(&Message::Leaving, Rope::new()).unwrap();
        run(&mut a, &mut b).unwrap();
        assert!(a.peer().is_none(), "not up before the greeting was read");
        assert!(matches!(
            a.poll_message(),
            Ok(Some((Message::Hello(_), ..)))
        ));
        assert_eq!(a.peer().unwrap().boot, BootId([2; 16]));
        assert!(matches!(
            b.poll_message(),
            Ok(Some((Message::Hello(_), ..)))
        ));
        assert!(matches!(b.poll_message(), Ok(Some((Message::Leaving, ..)))));
    }

    #[test]
    fn a_member_cannot_pass_for_another() {
        // Member 3 holds the key, but its address is member 1's or the prologue would differ.
        let mut a = Channel::initiator(ends(3, 2), &KEY, [1; 32]);
        let mut b = Channel::responder(ends(2, 1), &[KEY], [2; 32]);
        assert_eq!(
            run(&mut a, &mut b),
            Err(ChannelError::Noise(NoiseError::Handshake))
        );
    }

    #[test]
    fn a_second_greeting_closes_the_channel() {
        let mut a = Channel::initiator(ends(1, 2), &KEY, [1; 32]);
        let mut b = Channel::responder(ends(2, 1), &[KEY], [2; 32]);
        let hello = Message::Hello(Hello {
            member: MemberId(1),
            boot: BootId([1; 16]),
            generation: 2,
        });
        a.send(&hello, Rope::new()).unwrap();
        run(&mut a, &mut b).unwrap();
        assert!(b.poll_message().is_ok());
        assert_eq!(b.poll_message(), Err(ChannelError::Greeting));
    }
}
