//! Connections that their client has abandoned for another one from the same port, where neither SYN was
//! remembered: the first octets of the former, come behind the SYN of the latter, have opened it by their
//! cookie. No SYN meets it any more that could end it (RFC 9293 section 3.10.7.4), and each end answers
//! the other's segments with where it is, for as long as either tries.

use alloc::boxed::Box;

use super::{ConnId, Stack};
use crate::tcp::listen::HalfOpen;
use crate::tcp::segment::Segment;
use crate::tcp::{ConnectionError, Cookie};
use crate::time::{Duration, Instant};

/// How long a client that is still at the connection has to answer a probe.
const PATIENCE: Duration = Duration::from_secs(1);

/// A segment has brought the cookie of another handshake to a connection.
#[derive(Debug)]
pub(super) struct Doubt {
    cookie: Cookie,
    since: Instant,
}

impl Stack {
    /// Look whether a segment shows that its client has abandoned the connection it comes to; if so, end that.
    ///
    /// The first segment with the cookie of another handshake shows little: it may be the straggler, and the
    /// connection the later one. So the client is probed, which it answers acceptably if the connection is
    /// the one it has. Whoever waits for an answer in the other one repeats the segment instead, since nobody
    /// acknowledges it, and what comes then is this connection's end: the next time nobody knows the flow.
    pub(super) fn is_abandoned(&mut self, now: Instant, id: ConnId, segment: &Segment) -> bool {
        let Some(cookie) = self.other_cookie(now, id, segment) else {
            return false;
        };
        let Some(block) = self.table.get_mut(id) else {
            return false;
        };
        let unanswered = |doubt: &&mut Box<Doubt>| {
            doubt.cookie == cookie && block.connection.heard_at <= doubt.since
        };
        match block.doubt.as_mut().filter(unanswered) {
            Some(doubt) if now.since(doubt.since) < PATIENCE => false,
            Some(_) => {
                self.counters.abandoned += 1;
                self.with_connection(now, id, |connection| {
                    connection.die(Some(ConnectionError::Reset));
                });
                true
            }
            None => {
                block.doubt = Some(Box::new(Doubt { cookie, since: now }));
                self.with_connection(now, id, |connection| connection.owed.probe = true);
                false
            }
        }
    }

    /// The cookie of another handshake that a segment brings back, which does not fit the connection. Both
    /// are so young that the one may have been mistaken for the latest.
    fn other_cookie(&self, now: Instant, id: ConnId, segment: &Segment) -> Option<Cookie> {
        let connection = &self.table.get(id)?.connection;
        if !connection.is_foreign(segment) {
            return None;
        }
        let (flow, own) = (connection.flow(), connection.handshake());
        let (tcp, numbers) = (&self.tcp, &self.numbers);
        let recalled = HalfOpen::recall(now, tcp, numbers, flow, self.mtu, segment)?;
        let cookie = recalled.cookie();
        let young = numbers.open_cookie(now, &flow, own.irs, own.iss).is_some();
        let other = cookie != own && !self.is_spent(now, &flow, cookie);
        (young && other && self.listener_at(flow.local).is_some()).then_some(cookie)
    }
}
