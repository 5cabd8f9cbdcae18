//! What a crowd of clients does to its connections besides following their plans: it opens them from
//! ports of its choice, and leaves them in ways no application should.

use std::any::Any;
use std::collections::BTreeSet;
use std::net::SocketAddr;

use bytes::Bytes;
use godwit_netstack::Instant;
use godwit_netstack::stack::Route;
use smoltcp::socket::tcp;

use super::{Conversation, Host, Native, Outcome, Plan, SocketConfig};
use crate::wire;

/// How a client leaves a connection, if not as its plan says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HangUp {
    /// It resets it.
    Abort,
    /// Its TCP forgets it, as after a reboot: what still arrives is answered with an RST.
    Forget,
    /// Nobody is there any more, and nothing that arrives is answered.
    Vanish,
}

/// How a conversation stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// How it fares by its plan.
    pub outcome: Outcome,
    /// The connection was established at some time.
    pub begun: bool,
    /// What was received is not what had to be.
    pub wrong: bool,
    /// TCP has no connection (any more).
    pub closed: bool,
}

/// A host whose conversations come and go.
pub trait Client {
    /// Open a connection from a local port and follow `plan` on it: its number here, or nothing if the
    /// port cannot be used now.
    fn open(
        &mut self,
        now: Instant,
        from: u16,
        to: SocketAddr,
        sockets: SocketConfig,
        plan: Plan,
    ) -> Option<usize>;
    /// How a conversation stands.
    fn standing(&self, index: usize) -> Standing;
    /// Change what a conversation does.
    fn change(&mut self, index: usize, change: &dyn Fn(&mut Plan));
    /// Leave a connection. Its number means nothing afterwards.
    fn hang_up(&mut self, now: Instant, index: usize, how: HangUp);
    /// Have done with a conversation. Its number means nothing afterwards.
    fn let_go(&mut self, index: usize);
    /// Be there again at every port.
    fn listen_again(&mut self);
    /// How often it has looked at its conversations: as long as this stays, so do they.
    fn turns(&self) -> u64;
}

/// Whether a frame is a TCP segment for one of these ports.
pub(super) fn is_for_one_of(frame: &Bytes, ports: &BTreeSet<u16>) -> bool {
    !ports.is_empty() && wire::tcp_target(frame).is_some_and(|port| ports.contains(&port))
}

impl Host {
    fn conversation(&self, index: usize) -> (&tcp::Socket<'static>, &Conversation) {
        let (socket, app) = self.task(index);
        let app = (app as &dyn Any).downcast_ref();
        (socket, app.expect("a conversation"))
    }
}

impl Client for Host {
    fn open(
        &mut self,
        _now: Instant,
        from: u16,
        to: SocketAddr,
        sockets: SocketConfig,
        plan: Plan,
    ) -> Option<usize> {
        self.deaf.remove(&from);
        let app = Box::new(Conversation::new(plan));
        Some(self.connect(to, from, sockets, app))
    }

    fn standing(&self, index: usize) -> Standing {
        let (socket, conversation) = self.conversation(index);
        conversation.standing(socket.state() == tcp::State::Closed)
    }

    fn change(&mut self, index: usize, change: &dyn Fn(&mut Plan)) {
        let (_, app) = self.task_mut(index);
        let app = app as &mut dyn Any;
        if let Some(conversation) = app.downcast_mut::<Conversation>() {
            change(&mut conversation.plan);
        }
    }

    fn hang_up(&mut self, now: Instant, index: usize, how: HangUp) {
        let (socket, _) = self.task_mut(index);
        let port = socket.local_endpoint().map(|end| end.port);
        match how {
            HangUp::Abort => {
                socket.abort();
                // The RST leaves with the next look.
                self.run(now);
            }
            HangUp::Vanish => self.deaf.extend(port),
            HangUp::Forget => {}
        }
        self.let_go(index);
    }

    fn let_go(&mut self, index: usize) {
        if let Some(task) = self.tasks.remove(&index) {
            self.sockets.remove(task.handle);
        }
    }

    fn listen_again(&mut self) {
        self.deaf.clear();
    }

    fn turns(&self) -> u64 {
        self.turns
    }
}

impl Client for Native {
    fn open(
        &mut self,
        now: Instant,
        from: u16,
        to: SocketAddr,
        _sockets: SocketConfig,
        plan: Plan,
    ) -> Option<usize> {
        let from = SocketAddr::new(self.address, from);
        let conn = self.stack.connect_from(now, from, to).ok()?;
        self.deaf.remove(&from.port());
        Some(self.add(Some(conn), plan))
    }

    fn standing(&self, index: usize) -> Standing {
        let closed = self.connection(index).is_none_or(|tcp| tcp.is_closed());
        self.conversations[&index].1.standing(closed)
    }

    fn change(&mut self, index: usize, change: &dyn Fn(&mut Plan)) {
        change(&mut self.conversation(index).plan);
    }

    fn hang_up(&mut self, now: Instant, index: usize, how: HangUp) {
        if let Some((Some(conn), _)) = self.conversations.get(&index) {
            let conn = *conn;
            let port = self.stack.flow(conn).map(|flow| flow.local.port());
            match how {
                HangUp::Abort => {
                    self.stack.update(now, conn, |tcp| tcp.abort(now));
                }
                HangUp::Forget | HangUp::Vanish => {
                    self.stack.detach(now, conn, Route::Local(conn));
                }
            }
            if how == HangUp::Vanish {
                self.deaf.extend(port);
            }
        }
        self.let_go(index);
    }

    fn let_go(&mut self, index: usize) {
        self.conversations.remove(&index);
    }

    fn listen_again(&mut self) {
        self.deaf.clear();
    }

    fn turns(&self) -> u64 {
        self.turns
    }
}
