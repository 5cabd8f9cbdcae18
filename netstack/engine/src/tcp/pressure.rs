//! Buffers and what bounds them: windows that grow with what the application reads, send buffers
//! that grow with the congestion window, and what gives way when memory is short.

use alloc::vec::Vec;
use core::num::NonZeroU32;

use super::TcpConfig;
use super::connection::Connection;
use super::rcv::Rcv;
use crate::time::{Duration, Instant};

/// How short memory is for the queues of all connections together.
///
/// | what | `Some` | `Exhausted` |
/// |---|---|---|
/// | receive buffers | back to the initial size | to a few segments |
/// | octets out of order | kept | dropped, of idle connections in turn, and no more taken |
/// | octets in order | taken | taken up to a few segments unread |
/// | send buffers | the initial size | one segment at a time |
/// | a peer whose window stays closed | probed for ever | reset after a minute |
/// | new connections | taken | not taken |
///
/// Right edges never move back: windows close as the peer uses them up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Pressure {
    /// There is enough.
    #[default]
    None,
    /// More than three quarters are used.
    Some,
    /// All is used.
    Exhausted,
}

impl Pressure {
    /// The pressure of `used` octets where `limit` are allowed.
    pub fn of(used: usize, limit: usize) -> Pressure {
        match used {
            _ if used >= limit => Pressure::Exhausted,
            _ if used >= limit / 4 * 3 => Pressure::Some,
            _ => Pressure::None,
        }
    }
}

/// What a connection may hold unread when memory is exhausted.
const LAST_RESORT: u32 = 16 * 1024;
/// How long a peer may keep its window closed when memory is exhausted.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long queues on the way may be without being taken for too long.
const SLACK: Duration = Duration::from_millis(2);
/// How long a round trip is taken to be before one was measured.
const ROUND_TRIP: Duration = Duration::from_millis(100);

impl Connection {
    /// Say how short memory is. Takes effect as the connection goes on.
    pub fn set_pressure(&mut self, pressure: Pressure) {
        self.pressure = pressure;
    }

    /// Octets in the connection's queues, and what a peer can make them cost beside.
    pub fn memory(&self) -> usize {
        let held = self.snd.queue.len() + self.rcv.queue.len() + self.snd.entries_memory();
        held + self.rcv.out_of_order_memory()
    }

    /// The part of the congestion window that does not only lengthen queues on the way: of what is
    /// in flight, what is delivered in the shortest round trip seen, and [`SLACK`].
    fn useful_window(&self) -> u32 {
        let window = self.congestion.cwnd;
        let (Some(srtt), Some((least, _))) = (self.rtt.srtt(), self.rtt.min()) else {
            return window;
        };
        let empty = least + SLACK;
        if srtt <= empty {
            return window;
        }
        let useful = self.send_unacked() as u128 * empty.as_nanos() / srtt.as_nanos().max(1);
        // Little in flight says nothing: the application may have been idle.
        window.min((useful as u32).max(window / 4))
    }

    /// Octets that may wait in the send queue, with those transmitted: twice the congestion window,
    /// as far as that is of use. On a path whose queues are long already a longer one here would
    /// win nothing, and would make a move wait.
    pub fn send_capacity(&self, config: &TcpConfig) -> usize {
        let most = config.max_send_buffer.max(config.send_buffer);
        let window = self.useful_window().saturating_mul(2);
        let capacity = match self.pressure {
            Pressure::None => window.clamp(config.send_buffer, most),
            Pressure::Some => config.send_buffer,
            Pressure::Exhausted => u32::from(self.mss()).min(config.send_buffer),
        };
        capacity as usize
    }

    /// The application has read: let the receive buffer follow (dynamic right-sizing).
    pub(crate) fn tune_receive_buffer(&mut self, now: Instant) {
        let bound = match self.pressure {
            Pressure::None => u32::MAX,
            Pressure::Some => self.rcv.least,
            Pressure::Exhausted => self.rcv.least.min(LAST_RESORT),
        };
        // What is promised stays room: it gives way as the peer uses it up.
        let promised = self
            .rcv
            .window()
            .saturating_add(self.rcv.queue.len() as u32);
        self.rcv.buffer = self.rcv.buffer.min(bound.max(promised));
        // The shortest one: what is read in a longer one also waited in queues on the way.
        let round_trip = self.rtt.min().map(|(least, _)| least + SLACK);
        let round_trip = round_trip.unwrap_or(ROUND_TRIP);
        self.rcv.tune(now, round_trip, self.pressure);
    }

    /// Drop what is kept out of order. Returns how many octets that were.
    pub(crate) fn drop_out_of_order(&mut self) -> u32 {
        let dropped = self.rcv.out_of_order();
        self.rcv.blocks = Vec::new();
        dropped
    }

    /// Whether there is no room for `len` octets that are in order or not. What was kept out of
    /// order goes first: the peer has it still (RFC 2018 section 8).
    pub(crate) fn must_drop(&mut self, in_order: bool) -> bool {
        if self.pressure != Pressure::Exhausted {
            return false;
        }
        self.drop_out_of_order();
        !in_order || self.rcv.queue.len() >= LAST_RESORT as usize
    }

    /// Whether a peer whose window is closed has been borne with for too long.
    pub(crate) fn is_impatient(&self, now: Instant) -> bool {
        self.pressure == Pressure::Exhausted && now.since(self.progress_at) >= PATIENCE
    }
}

impl Rcv {
    /// Once a round trip: twice what was read in it fits the buffer, so that a sender that doubles
    /// its window in a round trip is not held back.
    fn tune(&mut self, now: Instant, round_trip: Duration, pressure: Pressure) {
        let millis = now.wrapping_millis();
        let stamp = NonZeroU32::MIN | millis;
        let since = self.tuned_at.get_or_insert(stamp).get();
        // The stamp may be one ahead of its time.
        let elapsed = millis
            .wrapping_sub(since)
            .min((millis | 1).wrapping_sub(since));
        if u128::from(elapsed) < round_trip.as_millis().max(1) {
            return;
        }
        let start = self.queue.start() as u32;
        let read = start.wrapping_sub(self.tuned_from);
        self.tuned_at = Some(stamp);
        self.tuned_from = start;
        let wanted = read.saturating_mul(2);
        if pressure == Pressure::None {
            self.buffer = self.buffer.max(self.least).max(wanted.min(self.most));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_rises_with_use() {
        assert_eq!(Pressure::of(0, 100), Pressure::None);
        assert_eq!(Pressure::of(75, 100), Pressure::Some);
        assert_eq!(Pressure::of(100, 100), Pressure::Exhausted);
        assert_eq!(Pressure::of(0, 0), Pressure::Exhausted);
    }
}
