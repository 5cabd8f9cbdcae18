//! A move: the connection leaves one stack as octets and enters the other.

use bytes::Bytes;
use godwit_netstack::migrate::capsule::{Capsule, CapsuleConnection};
use godwit_netstack::migrate::rope::Rope;
use godwit_netstack::session::SessionId;
use godwit_netstack::stack::Route;
use godwit_netstack::tcp::Connection;

use crate::trace::What;
use crate::world::World;

impl World {
    /// Whether the flow has a connection in a state that can move.
    pub fn can_move(&self, number: u16) -> bool {
        let flow = self.flows.get(&number);
        let connection = flow.and_then(|flow| self.stacks[flow.owner].connection(flow.conn?));
        connection.is_some_and(|connection| connection.state().is_synchronized())
    }

    /// Take the flow's connection to the other stack: export, capsule, octets, capsule, import.
    pub fn move_flow(&mut self, number: u16) -> Result<(), String> {
        let now = self.instant();
        let (owner, conn) = match self.flows.get(&number) {
            Some(flow) => (
                flow.owner,
                flow.conn.ok_or("there is no connection to move")?,
            ),
            None => return Err("there is no connection to move".into()),
        };
        let target = 1 - owner;
        let to = self.stacks[target].addresses();
        let local = self.flow(number).local.ip();
        let to = to.into_iter().find(|to| to.is_ipv4() == local.is_ipv4());
        let route = Route::Forward(to.ok_or("the other stack has no address")?);
        let (connection, next_hop) = self.stacks[owner]
            .detach(now, conn, route)
            .ok_or("there is no connection to move")?;
        let capsule = Capsule {
            session: SessionId {
                origin: 1,
                number: 1,
            },
            epoch: 1,
            service: "script".into(),
            state: None,
            finished: false,
            connections: vec![CapsuleConnection {
                next_hop,
                end_read: false,
                shut_down: false,
                ahead: Default::default(),
                tcp: connection.export(now),
            }],
        };
        let octets = capsule
            .encode()
            .map_err(|error| format!("the capsule was not encoded: {error:?}"))?
            .to_vec();
        let mut rope = Rope::new();
        rope.push(Bytes::from(octets));
        let mut capsule = Capsule::decode(rope)
            .map_err(|error| format!("the capsule was not decoded: {error:?}"))?;
        let carried = capsule
            .connections
            .pop()
            .ok_or("the capsule came out empty")?;
        let stack = &mut self.stacks[target];
        let connection = Connection::import(carried.tcp, now, stack.tcp_config(), stack.mtu())
            .map_err(|error| format!("the import was refused: {error}"))?;
        let conn = stack
            .attach(now, connection, carried.next_hop)
            .map_err(|(_, error)| format!("the stack did not take it: {error:?}"))?;
        let flow = self.flow(number);
        flow.owner = target;
        flow.conn = Some(conn);
        self.note(
            What::Move,
            format!("flow {number} moves from stack {owner} to {target}"),
        );
        self.pump();
        Ok(())
    }
}
