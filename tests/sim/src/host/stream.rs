//! A connection as a conversation needs it, whoever's TCP it is.

use bytes::Bytes;
use smoltcp::socket::tcp::{Socket, State};

/// One end of a connection.
pub(super) trait Stream {
    /// Octets that can be sent at once; none before the connection is established.
    fn room(&self) -> usize;
    /// Send; returns how much was taken.
    fn send(&mut self, data: &[u8]) -> usize;
    /// Whether there is something to read.
    fn has_input(&self) -> bool;
    /// Read some of it.
    fn receive(&mut self) -> Bytes;
    /// Whether our direction is open.
    fn may_send(&self) -> bool;
    /// Close our direction.
    fn close(&mut self);
    /// The state.
    fn state(&self) -> State;
}

impl Stream for Socket<'static> {
    fn room(&self) -> usize {
        match self.can_send() {
            true => self.send_capacity() - self.send_queue(),
            false => 0,
        }
    }

    fn send(&mut self, data: &[u8]) -> usize {
        self.send_slice(data).unwrap_or(0)
    }

    fn has_input(&self) -> bool {
        self.can_recv()
    }

    fn receive(&mut self) -> Bytes {
        self.recv(|data| (data.len(), Bytes::copy_from_slice(data)))
            .unwrap_or_default()
    }

    fn may_send(&self) -> bool {
        Socket::may_send(self)
    }

    fn close(&mut self) {
        Socket::close(self);
    }

    fn state(&self) -> State {
        Socket::state(self)
    }
}
