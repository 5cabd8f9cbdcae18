//! What a session has done on one connection since its last commit, and the bounds of that.

use bytes::Bytes;
use smallvec::SmallVec;

use super::{Input, SessionError};

/// Octets of output a session may hold back, per connection.
pub const MAX_OUTPUT: usize = 256 * 1024;
/// Octets of input a session may consume between commits, per connection; less if the receive
/// buffer is small, because uncommitted input still occupies it.
pub const MAX_INPUT: usize = 256 * 1024;

/// Output in order: mostly the head of an answer and a body.
pub type Output = SmallVec<[Bytes; 2]>;

/// The uncommitted part of a session on one connection.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Octets consumed; TCP still has them.
    consumed: usize,
    /// The end of input was read.
    end: bool,
    /// Output held back.
    output: Output,
    /// Octets of `output`.
    octets: usize,
    /// The output direction is to be closed after `output`.
    shutdown: bool,
    max_input: usize,
}

/// What a commit does to a connection.
#[derive(Debug, Default)]
pub struct Step {
    /// Octets of input to take from TCP.
    pub consume: usize,
    /// The end of input was read.
    pub end: bool,
    /// Output to hand to TCP, in order.
    pub output: Output,
    /// Close the output direction after it.
    pub shutdown: bool,
}

impl Pending {
    /// Nothing done yet, on a connection with such a receive buffer.
    pub fn new(receive_buffer: usize) -> Pending {
        Pending {
            consumed: 0,
            end: false,
            output: Output::new(),
            octets: 0,
            shutdown: false,
            // Half of the buffer: the other half keeps the window open meanwhile, so a session
            // never waits for input that the client has no room to send.
            max_input: (receive_buffer / 2).clamp(1, MAX_INPUT),
        }
    }

    /// Octets consumed and not yet committed.
    #[inline]
    pub fn consumed(&self) -> usize {
        self.consumed
    }

    /// Whether the output direction is to be closed at the next commit.
    pub fn is_shut_down(&self) -> bool {
        self.shutdown
    }

    /// What a read finds, given what TCP holds beyond the consumed octets (`next`) and whether
    /// the client has closed its direction.
    #[inline]
    pub fn read(&self, next: Option<Bytes>, finished: bool) -> Result<Input, SessionError> {
        match next.filter(|data| !data.is_empty()) {
            Some(mut data) => {
                let room = self.max_input.saturating_sub(self.consumed);
                if room == 0 {
                    return Err(SessionError::CommitNeeded);
                }
                data.truncate(room);
                Ok(Input::Data(data))
            }
            None if finished => Ok(Input::End),
            None if self.consumed >= self.max_input => Err(SessionError::CommitNeeded),
            None => Ok(Input::Pending),
        }
    }

    /// Consume `octets` of the `available` ones TCP holds (those consumed before included).
    #[inline]
    pub fn consume(&mut self, octets: usize, available: usize) -> Result<(), SessionError> {
        let consumed = self.consumed.saturating_add(octets);
        if consumed > self.max_input || consumed > available {
            return Err(SessionError::CommitNeeded);
        }
        self.consumed = consumed;
        Ok(())
    }

    /// Note that the end of input was read.
    pub fn consume_end(&mut self) {
        self.end = true;
    }

    /// Octets of output that still fit.
    #[inline]
    pub fn room(&self) -> usize {
        MAX_OUTPUT - self.octets
    }

    /// Hold output back.
    #[inline]
    pub fn write(&mut self, data: Bytes) -> Result<(), SessionError> {
        if self.shutdown {
            return Err(SessionError::Closed);
        }
        if data.len() > self.room() {
            return Err(SessionError::CommitNeeded);
        }
        self.octets += data.len();
        if !data.is_empty() {
            self.output.push(data);
        }
        Ok(())
    }

    /// Close the output direction after what was written.
    pub fn shutdown(&mut self) {
        self.shutdown = true;
    }

    /// Commit: everything so far becomes one step, and nothing is pending.
    #[inline]
    pub fn commit(&mut self) -> Step {
        let step = Step {
            consume: self.consumed,
            end: self.end,
            output: core::mem::take(&mut self.output),
            shutdown: self.shutdown,
        };
        self.rollback();
        step
    }

    /// Forget everything since the last commit.
    #[inline]
    pub fn rollback(&mut self) {
        self.consumed = 0;
        self.end = false;
        self.output.clear();
        self.octets = 0;
        self.shutdown = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(count: usize) -> Bytes {
        Bytes::from(alloc::vec![1; count])
    }

    #[test]
    fn input_beyond_the_bound_asks_for_a_commit_instead_of_waiting() {
        let mut pending = Pending::new(64 * 1024);
        let Ok(Input::Data(first)) = pending.read(Some(data(40_000)), false) else {
            panic!("no data");
        };
        assert_eq!(first.len(), 32 * 1024, "cut at the bound");
        pending.consume(first.len(), 40_000).unwrap();
        let waiting = pending.read(None, false);
        assert_eq!(
            waiting,
            Err(SessionError::CommitNeeded),
            "the window may be shut"
        );
        assert_eq!(pending.commit().consume, 32 * 1024);
        assert_eq!(pending.read(None, false), Ok(Input::Pending));
    }

    #[test]
    fn nothing_that_tcp_does_not_hold_can_be_consumed() {
        let mut pending = Pending::new(64 * 1024);
        assert!(pending.consume(11, 10).is_err());
        assert!(pending.consume(usize::MAX, usize::MAX).is_err());
        assert_eq!(pending.consumed(), 0);
    }

    #[test]
    fn output_is_held_back_up_to_the_bound_and_leaves_in_order() {
        let mut pending = Pending::new(64 * 1024);
        pending.write(Bytes::from_static(b"a")).unwrap();
        pending.write(data(MAX_OUTPUT - 1)).unwrap();
        assert_eq!(pending.write(data(1)), Err(SessionError::CommitNeeded));
        pending.shutdown();
        assert_eq!(pending.write(Bytes::new()), Err(SessionError::Closed));
        let step = pending.commit();
        assert!(step.shutdown && step.output[0] == Bytes::from_static(b"a"));
        assert_eq!(pending.room(), MAX_OUTPUT);
    }

    #[test]
    fn the_end_is_only_seen_after_all_input() {
        let pending = Pending::new(64 * 1024);
        assert!(matches!(
            pending.read(Some(data(1)), true),
            Ok(Input::Data(_))
        ));
        assert_eq!(pending.read(None, true), Ok(Input::End));
    }
}
