//! UDP and what DHCP said, for whoever composes an instance with something that asks for it.

use core::net::SocketAddr;

use bytes::Bytes;

use super::Instance;
use crate::stack::LeaseOptions;
use crate::time::Instant;

impl Instance {
    /// See [`crate::stack::Stack::take_lease_options`].
    pub fn take_lease_options(&mut self) -> Option<LeaseOptions> {
        self.stack.take_lease_options()
    }

    /// See [`crate::stack::Stack::datagram_listen`].
    pub fn datagram_listen(&mut self, port: u16) {
        self.stack.datagram_listen(port);
    }

    /// See [`crate::stack::Stack::datagram_send`].
    pub fn datagram_send(&mut self, now: Instant, to: SocketAddr, data: &[u8]) {
        self.stack.datagram_send(now, to, data);
    }

    /// See [`crate::stack::Stack::datagram_receive`].
    pub fn datagram_receive(&mut self) -> Option<(SocketAddr, Bytes)> {
        self.stack.datagram_receive()
    }
}
