//! What is said in a simulated conversation: a small protocol that exercises both directions and
//! every order of closing, as a pure state machine.
//!
//! The client opens with a [`Header`]; then bytes flow as its [`Mode`] says; then the ends close in the
//! order it says. [`Script`] is the server's side and its whole state: what a session commits.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::content::{self, Digest};

/// Which way the bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Mode {
    /// The server sends a known stream.
    Download,
    /// The client sends; the server answers with count and digest.
    Upload,
    /// The client sends and gets the same back.
    Echo,
}

/// Who closes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Closing {
    /// The client; the server closes when it has seen that.
    Client,
    /// The server, as soon as it has sent everything.
    Server,
    /// Nobody: at that point the server resets the connection.
    Abort,
}

/// The client's first words.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Header {
    /// Which way the bytes go.
    pub mode: Mode,
    /// Who closes first.
    pub closing: Closing,
    /// Octets that follow the header, or that are asked for.
    pub octets: u64,
    /// Which known stream they are.
    pub stream: u64,
}

/// Octets of a header on the wire.
pub const HEADER: usize = 20;
const MAGIC: [u8; 2] = *b"gs";
/// Octets of the answer to an upload: count and digest.
pub const RECEIPT: usize = 16;

impl Header {
    /// As it is sent.
    pub fn to_wire(self) -> [u8; HEADER] {
        let mut wire = [0; HEADER];
        wire[..2].copy_from_slice(&MAGIC);
        wire[2] = self.mode as u8;
        wire[3] = self.closing as u8;
        wire[4..12].copy_from_slice(&self.octets.to_le_bytes());
        wire[12..20].copy_from_slice(&self.stream.to_le_bytes());
        wire
    }

    fn from_wire(wire: &[u8; HEADER]) -> Option<Header> {
        let number = |at: usize| Some(u64::from_le_bytes(wire.get(at..at + 8)?.try_into().ok()?));
        if wire[..2] != MAGIC {
            return None;
        }
        Some(Header {
            mode: match wire[2] {
                0 => Mode::Download,
                1 => Mode::Upload,
                _ => Mode::Echo,
            },
            closing: match wire[3] {
                0 => Closing::Client,
                1 => Closing::Server,
                _ => Closing::Abort,
            },
            octets: number(4)?,
            stream: number(12)?,
        })
    }
}

/// The receipt of an upload.
pub fn receipt(octets: u64, digest: Digest) -> [u8; RECEIPT] {
    let mut wire = [0; RECEIPT];
    wire[..8].copy_from_slice(&octets.to_le_bytes());
    wire[8..].copy_from_slice(&digest.0.to_le_bytes());
    wire
}

/// The server's side of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Script {
    header: Option<Header>,
    received: u64,
    sent: u64,
    digest: u64,
    ended: bool,
    shut: bool,
}

/// What a step of a [`Script`] did.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Step {
    /// Octets of input used up.
    pub consumed: usize,
    /// Whether the end of input was taken note of.
    pub ended: bool,
    /// Octets to send.
    pub output: Bytes,
    /// Whether the output ends here.
    pub shutdown: bool,
    /// The client does not speak the protocol, or ended before it had said what it announced.
    pub malformed: bool,
    /// The client asked for the connection to be reset here.
    pub abort: bool,
}

impl Step {
    /// Whether nothing happened.
    pub fn is_idle(&self) -> bool {
        *self == Step::default()
    }
}

impl Script {
    /// Whether both directions are closed: nothing will happen any more.
    pub fn finished(&self) -> bool {
        self.ended && self.shut
    }

    /// Whether the end of input was taken note of.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Payload octets received, without the header.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Go on with `input` at hand (at `end`: nothing comes after it) and room for `room` octets.
    pub fn step(&mut self, input: &[u8], end: bool, room: usize) -> Step {
        let mut step = Step::default();
        let Some(header) = self.header else {
            match input.first_chunk::<HEADER>().map(Header::from_wire) {
                Some(Some(header)) => {
                    self.header = Some(header);
                    self.digest = Digest::default().0;
                    step.consumed = HEADER;
                }
                Some(None) => step.malformed = true,
                None if end => step.malformed = true,
                None => {}
            }
            return step;
        };
        let expected = match header.mode {
            Mode::Download => 0,
            Mode::Upload | Mode::Echo => header.octets - self.received,
        };
        let take = input.len().min(expected.min(usize::MAX as u64) as usize);
        let complete = match header.mode {
            Mode::Download => {
                let left = (header.octets - self.sent).min(room as u64) as usize;
                step.output = content::slice(header.stream, self.sent, left);
                self.sent + left as u64 == header.octets
            }
            Mode::Upload => {
                step.consumed = take;
                let mut digest = Digest(self.digest);
                digest.update(input.get(..take).unwrap_or_default());
                self.digest = digest.0;
                let all = self.received + take as u64 == header.octets;
                if all && self.sent == 0 && room >= RECEIPT {
                    step.output = Bytes::copy_from_slice(&receipt(header.octets, digest));
                }
                all && (self.sent > 0 || !step.output.is_empty())
            }
            Mode::Echo => {
                step.consumed = take.min(room);
                let echoed = input.get(..step.consumed).unwrap_or_default();
                step.output = Bytes::copy_from_slice(echoed);
                self.received + step.consumed as u64 == header.octets
            }
        };
        self.received += step.consumed as u64;
        self.sent += step.output.len() as u64;
        if end && !self.ended && step.consumed == input.len() {
            self.ended = true;
            step.ended = true;
            step.malformed = expected > take as u64;
        }
        let close = match header.closing {
            Closing::Server => complete,
            Closing::Client => complete && self.ended,
            Closing::Abort => {
                step.abort = complete;
                false
            }
        };
        if close && !self.shut {
            self.shut = true;
            step.shutdown = true;
        }
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(mode: Mode, closing: Closing, octets: u64) -> Header {
        Header {
            mode,
            closing,
            octets,
            stream: 3,
        }
    }

    #[test]
    fn a_script_survives_encoding_between_any_two_steps() {
        let said = header(Mode::Echo, Closing::Client, 300);
        let mut input = said.to_wire().to_vec();
        input.extend_from_slice(&content::slice(3, 0, 300));
        let mut script = Script::default();
        let (mut at, mut output) = (0, Vec::new());
        while !script.finished() {
            let upto = (at + 7)
                .max(at + HEADER.saturating_sub(at))
                .min(input.len());
            let step = script.step(&input[at..upto], upto == input.len(), 5);
            assert!(!step.is_idle() && !step.malformed);
            at += step.consumed;
            output.extend_from_slice(&step.output);
            let committed = postcard::to_allocvec(&script).unwrap();
            script = postcard::from_bytes(&committed).unwrap();
        }
        assert_eq!(output, content::slice(3, 0, 300));
    }

    #[test]
    fn who_ends_early_or_asks_for_it_is_reset() {
        let mut script = Script::default();
        let said = header(Mode::Upload, Closing::Client, 10);
        script.step(&said.to_wire(), false, 100);
        assert!(!script.step(b"12345", false, 100).malformed);
        assert!(script.step(&[], true, 100).malformed);
        let mut script = Script::default();
        let said = header(Mode::Download, Closing::Abort, 10);
        script.step(&said.to_wire(), false, 100);
        assert!(!script.step(&[], false, 5).abort);
        let last = script.step(&[], false, 100);
        assert!(last.abort && !last.malformed && !last.shutdown);
    }

    #[test]
    fn the_server_closes_in_the_order_asked_for() {
        let mut first = Script::default();
        first.step(
            &header(Mode::Download, Closing::Server, 10).to_wire(),
            false,
            100,
        );
        assert!(first.step(&[], false, 100).shutdown);
        let mut second = Script::default();
        second.step(
            &header(Mode::Download, Closing::Client, 10).to_wire(),
            false,
            100,
        );
        assert!(!second.step(&[], false, 100).shutdown);
        assert!(second.step(&[], true, 100).shutdown);
    }
}
