//! What status pages show of an instance.

use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use super::{ConnectionStatus, Instance, MemberStatus, MoveReport, ServiceSpec, SessionStatus};
use crate::cluster::MemberId;
use crate::cluster::message::Tally;
use crate::session::{Session, SessionId};
use crate::stack::{ConnId, FlowKey};

impl Instance {
    /// This instance.
    pub fn id(&self) -> MemberId {
        self.id
    }

    /// This boot.
    pub fn boot_id(&self) -> [u8; 16] {
        self.boot.0
    }

    /// Own addresses in the service network as they are now (DHCP may have added one).
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.stack.addresses()
    }

    /// Whether the instances have a network of their own.
    pub fn has_instance_network(&self) -> bool {
        self.stack.has_instance_network()
    }

    /// Own addresses by which other instances reach this one: the same, or those in a network of their own.
    pub fn peer_addresses(&self) -> Vec<IpAddr> {
        self.stack.peer_addresses()
    }

    /// The services here.
    pub fn services(&self) -> impl Iterator<Item = &ServiceSpec> {
        self.services.iter().map(|service| &service.spec)
    }

    /// The other members.
    pub fn members(&self) -> Vec<MemberStatus> {
        let status = |member: &crate::cluster::members::Member| MemberStatus {
            id: member.id,
            address: member.address,
            up: member.is_up(),
            heard: member.heard,
            boot: member.last_boot.map(|boot| boot.0),
        };
        self.members.iter().map(status).collect()
    }

    fn connection_status(&self, conn: ConnId) -> Option<ConnectionStatus> {
        let tcp = self.stack.connection(conn)?;
        let info = tcp.info();
        Some(ConnectionStatus {
            local: tcp.local(),
            remote: tcp.remote(),
            state: info.state.name(),
            tx_bytes: info.tx_bytes,
            rx_bytes: info.rx_bytes,
            cwnd: info.cwnd,
            srtt: info.srtt.unwrap_or_default(),
            rto: info.rto,
            retransmits: info.counters.retransmits,
            tcp: info,
        })
    }

    fn session_status(&self, session: &Session, target: Option<MemberId>) -> SessionStatus {
        let service = self.services.get(session.service);
        let conns = session.connections.iter().filter_map(|c| c.conn);
        SessionStatus {
            id: session.id,
            service: service.map_or("", |service| service.spec.name),
            epoch: session.epoch,
            frozen: target.is_some(),
            target,
            remotes: session.connections.iter().map(|c| c.flow.remote).collect(),
            connections: conns
                .filter_map(|conn| self.connection_status(conn))
                .collect(),
        }
    }

    /// The sessions here, served and frozen.
    pub fn sessions(&self) -> Vec<SessionStatus> {
        let served = self.sessions.values();
        let served = served.map(|session| self.session_status(session, None));
        let frozen = self.moving.values();
        let frozen =
            frozen.map(|moving| self.session_status(&moving.session, Some(moving.source.target)));
        served.chain(frozen).collect()
    }

    /// The sessions here, whether each is frozen, and the client's end of its first connection: at a
    /// fraction of what [`Instance::sessions`] costs.
    pub fn session_ends(&self) -> impl Iterator<Item = (SessionId, bool, Option<SocketAddr>)> {
        let end = |session: &Session| {
            let first = session.connections.first();
            first.map(|connection| connection.flow.remote)
        };
        let served = self.sessions.values();
        let served = served.map(move |session| (session.id, false, end(session)));
        let frozen = self.moving.values();
        let frozen = frozen.map(move |moving| (moving.session.id, true, end(&moving.session)));
        served.chain(frozen)
    }

    /// Whether a session is frozen; `None` if it is not here.
    pub fn is_frozen(&self, session: SessionId) -> Option<bool> {
        match self.moving.contains_key(&session) {
            true => Some(true),
            false => self.sessions.contains_key(&session).then_some(false),
        }
    }

    /// Sessions here, served and frozen.
    pub fn session_count(&self) -> usize {
        self.sessions.len() + self.moving.len()
    }

    /// Whether the handshake of a flow is remembered here, and not complete.
    pub fn is_half_open(&self, flow: &FlowKey) -> bool {
        self.stack.is_half_open(flow)
    }

    /// What was said to the peers and heard from them since the boot.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The last finished moves, oldest first (bounded).
    pub fn moves(&self) -> Vec<MoveReport> {
        self.reports.iter().cloned().collect()
    }

    /// Frames that got lost here because their neighbour did not say where it is.
    pub fn unresolved(&self) -> u64 {
        self.stack.unresolved()
    }

    /// Every counter of every room, by name.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut all = self.stack.counters();
        all.extend(self.counters.iter());
        all
    }
}
