//! The TCP engine. A [`Connection`] is a plain value: it owns no timer, no buffer pool, no lock.
//!
//! Split by RFC 9293's nouns: [`segment`] and [`options`] are the wire; [`listen`] is what is kept
//! of a handshake that is not complete; a [`Connection`] has a send side (`snd`, with the `sack`
//! scoreboard), a receive side (`rcv`), a round-trip estimator (`rtt`), loss recovery (`recovery`:
//! RACK-TLP) and congestion control (`congestion`: CUBIC, NewReno). Segments come in through
//! `input` and `ack`, time through `timeout`, segments leave through `output`. [`export`] turns a
//! connection into a description that another machine can go on from.

mod ack;
mod challenge;
mod congestion;
mod connection;
mod counters;
mod ecn;
pub mod export;
mod info;
mod input;
pub(crate) mod isn;
pub mod listen;
mod mtu;
pub mod options;
mod output;
mod pacing;
mod pressure;
mod queue;
mod rcv;
mod recovery;
mod rtt;
mod sack;
pub mod segment;
mod snd;
mod state;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod timeout;
mod timer;
mod unsend;

use crate::time::Duration;

pub use congestion::CongestionAlgorithm;
pub use connection::{
    Connection, ConnectionError, EcnMode, IcmpError, Keepalive, SendError, SocketOptions,
};
pub use counters::Counters;
pub use export::{ConnectionState, ImportError};
pub use info::Info;
pub use isn::{Cookie, InitialNumbers};
pub use listen::HalfOpen;
pub use pressure::Pressure;
pub use queue::Queue;
pub use recovery::Phase;
pub use segment::{Ecn, Flags, Options, Outgoing, Ports, SackRange, Segment, Timestamps};
pub use snd::MAX_ENTRIES;
pub use state::State;

/// Limits and defaults of the engine.
#[derive(Clone, Debug)]
pub struct TcpConfig {
    /// Receive buffer of a connection in octets, to begin with; bounds the window it advertises.
    pub receive_buffer: u32,
    /// What the receive buffer grows to at most, by what the application reads in a round trip.
    pub max_receive_buffer: u32,
    /// Send buffer of a connection, in octets: committed output beyond this makes `commit` wait.
    pub send_buffer: u32,
    /// What the send buffer grows to at most, with the congestion window.
    pub max_send_buffer: u32,
    /// Octets in the queues of all connections together, beyond which memory is exhausted
    /// ([`Pressure`]). The cookies of connections that are over may take a sixteenth of that besides.
    pub memory: usize,
    /// Connections at most.
    pub max_connections: u32,
    /// Half-open connections at most.
    pub max_half_open: u32,
    /// Retransmissions of one segment without any acknowledgement before the connection is dead.
    pub max_retransmits: u8,
    /// Retransmissions of a SYN before the attempt is given up: 7 take 191 s, where RFC 9293 section
    /// 3.8.3 wants 180 at least.
    pub max_syn_retransmits: u8,
    /// Retransmissions of a SYN-ACK before it is given up: the peer asks again if it is still there.
    pub max_syn_ack_retransmits: u8,
    /// Congestion control of new connections.
    pub congestion: CongestionAlgorithm,
    /// Offer and accept SACK (RFC 2018).
    pub sack: bool,
    /// Offer and accept timestamps (RFC 7323).
    pub timestamps: bool,
    /// What connections start with.
    pub socket: SocketOptions,
}

impl Default for TcpConfig {
    fn default() -> Self {
        TcpConfig {
            receive_buffer: 256 * 1024,
            max_receive_buffer: 3 * 1024 * 1024,
            // Small, as it grows with the window: what waits here makes a move wait.
            send_buffer: 32 * 1024,
            max_send_buffer: 3 * 1024 * 1024,
            memory: 128 * 1024 * 1024,
            max_connections: 65_536,
            max_half_open: 1_024,
            max_retransmits: 15,
            max_syn_retransmits: 7,
            max_syn_ack_retransmits: 5,
            congestion: CongestionAlgorithm::default(),
            sack: true,
            timestamps: true,
            socket: SocketOptions::default(),
        }
    }
}

/// Lower bound of the retransmission time-out's variance term unless configured (RFC 6298 has 1 s
/// for the whole; like most stacks we use 200 ms).
pub const DEFAULT_MIN_RTO: Duration = Duration::from_millis(200);
