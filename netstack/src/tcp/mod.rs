//! The TCP engine. A [`Connection`] is a plain value: it owns no timer, no buffer pool, no lock.

use crate::time::Duration;

/// Limits and defaults of the engine.
#[derive(Clone, Debug)]
pub struct TcpConfig {
    /// Receive buffer of a connection, in octets; bounds the window it advertises.
    pub receive_buffer: u32,
    /// Send buffer of a connection, in octets: committed output beyond this makes `commit` wait.
    pub send_buffer: u32,
    /// Lower bound of the retransmission time-out (RFC 6298 says 1 s; Linux and we use 200 ms).
    pub min_rto: Duration,
    /// Connections at most.
    pub max_connections: u32,
    /// Half-open connections at most.
    pub max_half_open: u32,
}

impl Default for TcpConfig {
    fn default() -> Self {
        TcpConfig {
            receive_buffer: 256 * 1024,
            send_buffer: 256 * 1024,
            min_rto: Duration::from_millis(200),
            max_connections: 65_536,
            max_half_open: 1_024,
        }
    }
}

/// One TCP connection.
#[derive(Debug)]
pub struct Connection {}
