//! Routes of flows: connections put in and taken out, and what becomes of the frames held
//! meanwhile.

use alloc::collections::VecDeque;

use super::flows::{Entry, Held, Packed};
use super::input::Origin;
use super::{AttachError, ConnId, FlowKey, MacAddr, Route, Stack, wire};
use crate::tcp::Connection;
use crate::time::Instant;

impl Stack {
    /// Take the connection out, with the MAC address its frames went to. From now on nothing is
    /// sent for it, its id is dead (no [`StackEvent::Gone`](super::StackEvent::Gone)) and frames of its flow go along
    /// `route` ([`Route::Local`] makes no sense here and removes the flow).
    pub fn detach(
        &mut self,
        now: Instant,
        conn: ConnId,
        route: Route,
    ) -> Option<(Connection, Option<MacAddr>)> {
        let packed = Packed::new(&self.table.get(conn)?.flow());
        let held = self.flows.take_held(&packed);
        let block = self.take_block(conn)?;
        if let Some(entry) = Entry::of(now, route) {
            self.flows.set(packed, entry);
            self.handle_held(now, held, None);
        }
        self.counters.detached += 1;
        let FlowKey { local, remote } = block.flow();
        let next_hop = block
            .next_hop
            .or_else(|| self.addresses.next_hop(local.ip(), remote.ip()));
        let mac = next_hop.and_then(|next_hop| self.neighbours.peek(next_hop));
        Some((block.connection, mac))
    }

    /// Put a connection in; its flow is local from now on. `next_hop` is the MAC address to use
    /// until the neighbour answers for itself. Frames held for the flow are processed, in order,
    /// before this returns.
    #[expect(
        clippy::result_large_err,
        reason = "the connection goes back as it came"
    )]
    pub fn attach(
        &mut self,
        now: Instant,
        connection: Connection,
        next_hop: Option<MacAddr>,
    ) -> Result<ConnId, (Connection, AttachError)> {
        let conn = self.attach_fenced(now, connection, next_hop)?;
        self.lift_fence(now, conn);
        Ok(conn)
    }

    /// Put a connection in behind a fence: it takes what comes through the channel
    /// ([`Stack::inject`]); frames from the wire are held until [`Stack::lift_fence`], because
    /// older ones are still travelling in the channel.
    #[expect(
        clippy::result_large_err,
        reason = "the connection goes back as it came"
    )]
    pub fn attach_fenced(
        &mut self,
        now: Instant,
        connection: Connection,
        next_hop: Option<MacAddr>,
    ) -> Result<ConnId, (Connection, AttachError)> {
        let flow = connection.flow();
        let packed = Packed::new(&flow);
        match self.flows.get(&packed) {
            Some(Entry::Connection(_) | Entry::Fenced(_)) => {
                return Err((connection, AttachError::Occupied));
            }
            Some(Entry::HalfOpen(number)) => self.drop_half_open(number),
            _ => {}
        }
        if self.table.len() >= self.tcp.max_connections as usize {
            return Err((connection, AttachError::TooMany));
        }
        let hop = self.addresses.next_hop(flow.local.ip(), flow.remote.ip());
        if let (Some(mac), Some(hop)) = (next_hop, hop)
            && wire::is_unicast(&mac)
            && let Some(released) = self.neighbours.hint(now, hop, mac)
        {
            self.release(mac, released);
        }
        let id = self.put_block(connection, flow);
        self.flows.set(packed, Entry::Fenced(id));
        self.settle(now, id);
        self.counters.attached += 1;
        Ok(id)
    }

    /// Let frames from the wire pass, those that were held first.
    pub fn lift_fence(&mut self, now: Instant, conn: ConnId) {
        let Some(flow) = self.flow(conn) else {
            return;
        };
        let packed = Packed::new(&flow);
        self.flows.set(packed, Entry::Connection(conn));
        let held = self.flows.take_held(&packed);
        self.handle_held(now, held, None);
    }

    /// Where frames of the flow go; `None` for a flow nobody told us of.
    pub fn route(&self, flow: &FlowKey) -> Option<Route> {
        match self.flows.get(&Packed::new(flow))? {
            Entry::Connection(id) | Entry::Fenced(id) => Some(Route::Local(id)),
            Entry::HalfOpen(_) => None,
            Entry::Capture => Some(Route::Capture),
            Entry::Hold { .. } => Some(Route::Hold),
            Entry::Forward { to, .. } => Some(Route::Forward(to)),
        }
    }

    /// Whether a connection of the flow is being opened here.
    pub fn is_half_open(&self, flow: &FlowKey) -> bool {
        let entry = self.flows.get(&Packed::new(flow));
        matches!(entry, Some(Entry::HalfOpen(_)))
    }

    /// Send frames of the flow along `route` from now on; held frames first, in order. Ignored
    /// for a flow with a connection here ([`Stack::detach`] it), and for [`Route::Local`].
    pub fn set_route(&mut self, now: Instant, flow: FlowKey, route: Route) {
        let packed = Packed::new(&flow);
        let Some(entry) = Entry::of(now, route) else {
            return;
        };
        match self.flows.get(&packed) {
            Some(Entry::Connection(_) | Entry::Fenced(_)) => return,
            Some(Entry::HalfOpen(number)) => self.drop_half_open(number),
            _ => {}
        }
        self.flows.set(packed, entry);
        if route != Route::Hold {
            let held = self.flows.take_held(&packed);
            self.handle_held(now, held, None);
        }
    }

    /// Forget the flow's route. Held frames are then what frames of an unknown flow are without
    /// anyone to ask: answered with RST (RFC 9293 section 3.10.7.1).
    pub fn clear_route(&mut self, now: Instant, flow: &FlowKey) {
        self.forget(now, flow, Some(Origin::Refuse));
    }

    /// Forget the flow's route and give held frames to our own listener.
    pub fn accept_here(&mut self, now: Instant, flow: &FlowKey) {
        self.forget(now, flow, Some(Origin::Accept));
    }

    /// Forget the flow's route and drop held frames in silence (nobody could say whose it is).
    pub fn drop_held(&mut self, now: Instant, flow: &FlowKey) {
        self.forget(now, flow, None);
    }

    fn forget(&mut self, now: Instant, flow: &FlowKey, origin: Option<Origin>) {
        let packed = Packed::new(flow);
        match self.flows.get(&packed) {
            Some(Entry::Connection(_) | Entry::Fenced(_) | Entry::HalfOpen(_)) => return,
            _ => self.flows.remove(&packed),
        };
        let mut held = self.flows.take_held(&packed);
        let brings = |held: &Held| self.brings_cookie(now, flow, &held.frame).is_some();
        if origin == Some(Origin::Refuse)
            && let Some(first) = held.iter().position(brings)
            && let Some(first) = held.remove(first)
        {
            // What has overtaken it belongs to the connection that it completes.
            held.push_front(first);
        }
        match origin {
            Some(_) => self.handle_held(now, held, origin),
            None => self.counters.hold_expired += held.len() as u64,
        }
    }

    /// Handle frames that were held, in order: along the new route of their flow or, if it has
    /// none, as `unknown` says.
    fn handle_held(&mut self, now: Instant, held: VecDeque<Held>, unknown: Option<Origin>) {
        for Held { frame, injected } in held {
            let origin = match (unknown, injected) {
                (Some(unknown), _) => unknown,
                (None, true) => Origin::Channel,
                (None, false) => Origin::Wire,
            };
            self.handle_ethernet(now, frame, origin);
        }
    }

    /// When a frame of the flow last passed along its [`Route::Forward`] (or the route was set).
    pub fn route_last_used(&self, flow: &FlowKey) -> Option<Instant> {
        match self.flows.get(&Packed::new(flow))? {
            Entry::Forward { used, .. } => Some(used),
            _ => None,
        }
    }
}
